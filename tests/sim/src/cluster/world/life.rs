//! Lives of nodes: how they begin and end, and what their machines ask and tell.

use super::*;

impl World {
    pub(super) fn give_birth(&mut self, node: usize, after: u64) {
        if self.nodes[node].life != after || self.nodes[node].machine.is_some() {
            return;
        }
        let life = after + 1;
        let config = self.config(node);
        let now = self.nodes[node].local(self.now_ns);
        let seed = self.random.u64(..);
        let machine =
            Cluster::new(config, Incarnation(life), seed, now).expect("a sound configuration");
        let state = &mut self.nodes[node];
        state.life = life;
        state.machine = Some(machine);
        state.paused_until_ns = 0;
        state.pause_next_ns = 0;
        state.wake_ns = u64::MAX;
        state.closed.clear();
        state.open_requests.clear();
        state.recovering = None;
        self.note(|| format!("node {} begins life {life}", node + 1));
        self.plan(self.now_ns + WORK_NS, Happening::Work { node, life });
        self.with_machine(node, |machine, now| machine.handle_timeout(now));
    }

    fn config(&self, node: usize) -> Config {
        let nodes = (0..self.scenario.nodes).map(|at| NodeConfig {
            node: NodeId(at as u16 + 1),
            macs: vec![mac(at)],
        });
        Config {
            cluster: ClusterId(7),
            node: NodeId(node as u16 + 1),
            nodes: nodes.collect(),
            areas: self.scenario.areas,
            targets: self.scenario.targets.clone(),
            seal: Seal::new(checksum, None),
            settings: Settings {
                frame_lifetime: Duration::from_nanos(LIFETIME_NS),
                area_timeout: Duration::from_millis(250),
                target_timeout: Duration::from_secs(1),
                target_recheck: Duration::from_millis(300),
                sectors_per_node: SECTORS_PER_NODE,
                ..Settings::default()
            },
            may_have_predecessor: true,
        }
    }

    /// Lets a machine do something, and carries out what it asks for.
    pub(super) fn with_machine(&mut self, node: usize, act: impl FnOnce(&mut Cluster, Instant)) {
        let now = self.nodes[node].local(self.now_ns);
        let Some(machine) = &mut self.nodes[node].machine else {
            return;
        };
        act(machine, now);
        let mut sent = Vec::new();
        let mut frame = [0; 512];
        while let Some(len) = machine.poll_transmit(&mut frame) {
            sent.push(Sent::Beat(frame[..len].into()));
        }
        let mut opened = Vec::new();
        while let Some((id, request)) = machine.poll_request() {
            sent.push(match request {
                Request::Read { area, first, count } => {
                    let request = AreaRequest::Read { area, first, count };
                    Sent::Area { id, area, request }
                }
                Request::Write {
                    area,
                    sector,
                    bytes,
                } => {
                    let request = AreaRequest::Write {
                        area,
                        sector,
                        bytes,
                    };
                    Sent::Area { id, area, request }
                }
                Request::Reserve {
                    target,
                    epoch,
                    macs,
                    ..
                } => {
                    opened.push(id);
                    let list = macs.iter().fold(0, |set, mac| set | 1 << mac.0[5]);
                    let ask = Ask::Reserve {
                        epoch: epoch.0,
                        list,
                    };
                    Sent::Target {
                        id: Some(id),
                        target,
                        ask,
                    }
                }
                Request::List { target } => {
                    opened.push(id);
                    Sent::Target {
                        id: Some(id),
                        target,
                        ask: Ask::List,
                    }
                }
                Request::Probe { target } => {
                    opened.push(id);
                    Sent::Target {
                        id: Some(id),
                        target,
                        ask: Ask::Probe,
                    }
                }
            });
        }
        let mut events = Vec::new();
        while let Some(event) = machine.poll_event() {
            events.push(event);
        }
        let wake = machine.poll_timeout();
        self.nodes[node].open_requests.extend(opened);
        for event in events {
            self.told(node, event);
        }
        self.emit(node, sent);
        self.wake_at(node, wake);
    }

    fn wake_at(&mut self, node: usize, wake: Option<Instant>) {
        let Some(wake) = wake else {
            return;
        };
        let at_ns = self.nodes[node].global(wake).max(self.now_ns + 1000);
        if self.nodes[node].machine.is_some() && at_ns < self.nodes[node].wake_ns {
            self.nodes[node].wake_ns = at_ns;
            let life = self.nodes[node].life;
            self.plan(at_ns, Happening::Wake { node, life });
        }
    }

    /// What a node decided to send leaves it, unless it pauses before: then when it goes on.
    pub(super) fn emit(&mut self, node: usize, sent: Vec<Sent>) {
        for what in sent {
            let pause_ns = core::mem::take(&mut self.nodes[node].pause_next_ns);
            if pause_ns > 0 {
                self.counts.pauses += 1;
                self.nodes[node].paused_until_ns = self.now_ns + pause_ns;
                self.note(|| {
                    format!(
                        "node {} pauses for {} ms before {}",
                        node + 1,
                        pause_ns / MS,
                        what.tell()
                    )
                });
            }
            let life = self.nodes[node].life;
            if self.nodes[node].paused_until_ns > self.now_ns {
                let at_ns = self.nodes[node].paused_until_ns;
                self.plan(at_ns, Happening::Send { node, life, what });
            } else {
                self.send(node, what);
            }
        }
    }

    fn told(&mut self, node: usize, event: Event) {
        let life = self.life(node);
        self.note(|| match event {
            Event::View(view) => {
                format!("node {}.{}: {}", life.node, life.incarnation, show(&view))
            }
            event => format!("node {}.{}: {event:?}", life.node, life.incarnation),
        });
        match event {
            Event::View(view) => {
                self.nodes[node].recovering = None;
                self.judge.view(life, &view);
            }
            Event::TargetFenced { epoch, target } => {
                let machine = self.nodes[node].machine.as_ref();
                let is_coordinator = machine.is_some_and(|machine| {
                    machine.view().epoch == epoch && machine.view().coordinator == life.node
                });
                if is_coordinator {
                    self.judge.fenced(epoch.0, target);
                }
            }
            Event::RecoveryMayBegin { epoch } => {
                self.nodes[node].recovering = Some(epoch.0);
                self.judge.recovery(epoch.0);
            }
            Event::Over(End::Split(Epoch(epoch))) => {
                self.judge.object(Violation::MachineSaysSplit(epoch))
            }
            Event::Over(_) => {
                self.counts.ends += 1;
                let after_ns = self.random.u64(20..300) * MS;
                self.bury(node, after_ns);
            }
            _ => {}
        }
    }

    pub(super) fn life(&self, node: usize) -> Life {
        Life {
            node: NodeId(node as u16 + 1),
            incarnation: Incarnation(self.nodes[node].life),
        }
    }

    /// A life has ended, and the next one begins after so long.
    pub(super) fn bury(&mut self, node: usize, after_ns: u64) {
        if let Some(machine) = self.nodes[node].machine.take() {
            let stat = machine.stat();
            self.add(stat);
            let life = self.nodes[node].life;
            self.plan(self.now_ns + after_ns, Happening::Birth { node, life });
        }
    }

    fn add(&mut self, stat: &sandrail_proto::cluster::Stat) {
        self.counts.false_suspicions += stat.false_suspicions;
        self.counts.ballots += stat.ballots;
        self.counts.ballots_lost += stat.ballots_lost;
        self.counts.forgot += stat.targets_forgot;
        self.counts.sectors_closed += stat.sectors_closed;
        self.counts.renewals_refused += stat.renewals_refused;
    }

    /// All machines' counts are taken.
    pub fn finish(&mut self) {
        for node in 0..self.nodes.len() {
            if let Some(machine) = self.nodes[node].machine.take() {
                self.add(machine.stat());
            }
        }
    }

    /// A node does what members do, if it may: it writes, and it grants others the locks of the dead.
    pub(super) fn work(&mut self, node: usize, life: u64) {
        if self.is_away(node, life, || Happening::Work { node, life }) {
            return;
        }
        self.plan(self.now_ns + WORK_NS, Happening::Work { node, life });
        let now = self.nodes[node].local(self.now_ns);
        let me = self.life(node);
        let Some(machine) = &self.nodes[node].machine else {
            return;
        };
        let dead = self.judge.dead(machine.view().epoch.0);
        let is_unasked = self.scenario.flaw == Flaw::LeaseUnasked && machine.is_member();
        let may_act = machine.lease_valid(now) || is_unasked;
        let use_offline = self.scenario.flaw == Flaw::OfflineUsed;
        let usable: Vec<usize> = (0..self.targets.len())
            .filter(|target| machine.is_usable(*target) || use_offline && machine.is_member())
            .collect();
        for life in dead {
            if machine.may_grant_over(life, now) {
                self.judge.grants_over(life);
            }
        }
        if !may_act {
            return;
        }
        self.judge.lease_used(me);
        let mut sent = Vec::new();
        for target in usable {
            let recovering = self.nodes[node].recovering;
            self.judge.target_used(me, target, recovering);
            let ask = Ask::Write { life: me };
            sent.push(Sent::Target {
                id: None,
                target,
                ask,
            });
        }
        self.emit(node, sent);
    }
}

fn show(view: &View) -> String {
    let lives = view.members.as_slice().iter();
    let lives = lives
        .map(|life| format!("{}.{}", life.node, life.incarnation))
        .collect::<Vec<_>>();
    format!(
        "view {} by {}: {}",
        view.epoch,
        view.coordinator,
        lives.join(" ")
    )
}

fn mac(node: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, node as u8])
}

pub(super) fn macs(set: NodeSet) -> Vec<MacAddr> {
    (0..32)
        .filter(|node| set >> node & 1 == 1)
        .map(mac)
        .collect()
}

/// A checksum that costs little: nothing damages bytes here.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(4).fold(0x5a5a_u32, |sum, word| {
        sum.rotate_left(5) ^ u32::from_be_bytes([word[0], word[1], word[2], word[3]])
    })
}
