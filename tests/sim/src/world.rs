//! A whole system: hosts, targets, the network between them, one clock, and the checkers.
//!
//! Everything happens in events, ordered by time and then by the order in which they were made. Hosts' turns are in
//! [`turn`](crate::turn), targets' work in [`serve`](crate::serve).

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use sandrail_proto::aoe::initiator::{Initiator, Notice, TargetOrder};
use sandrail_proto::time::Instant;

use crate::bytes::{self, Fields, Mac};
use crate::host::{Attachment, Done, Host, HostSpec, ns};
use crate::ledger::Ledger;
use crate::machine::{Machine, MachineSpec};
pub use crate::mishap::{Mishap, Tally};
use crate::net::{FrameId, Network, Owner, Pool, Port, Rates};
use crate::oracle::{FlushSeen, Oracle};
use crate::puppet::{Puppet, PuppetSpec};
use crate::serve::Blade;
use crate::target::TargetSpec;
use crate::violation::{Promise, Violation};
use crate::watch::Watch;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldSpec {
    /// Determines everything that is left to chance.
    pub seed: u64,
    /// Targets.
    pub targets: Vec<TargetSpec>,
    /// Hosts. All initiators share frame lifetime and target order.
    pub hosts: Vec<HostSpec>,
    /// How the network treats frames.
    pub rates: Rates,
    /// MTU of the switch's port at every target; frames beyond it vanish.
    pub target_port_mtu_bytes: usize,
    /// Somebody else answers for the first target's address.
    pub rogue: bool,
    /// A production blade serves all targets; otherwise each is a model of its own.
    pub machine: Option<MachineSpec>,
    /// Scripted stations.
    pub puppets: Vec<PuppetSpec>,
}

impl WorldSpec {
    /// How long frames may live, by everybody's settings.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        let hosts = self.hosts.first().map(|host| host.config.frame_lifetime);
        let machine = self.machine.as_ref();
        hosts
            .or(machine.map(|machine| machine.config.frame_lifetime))
            .unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Arrive {
        frame: FrameId,
        port: u8,
    },
    Wake {
        host: u8,
    },
    Served {
        target: u8,
        queue: u8,
        era: u32,
        frame: FrameId,
    },
    Resume {
        target: u8,
        queue: u8,
        era: u32,
    },
    Start {
        target: u8,
        advertises: bool,
    },
    Release {
        target: u8,
    },
    Boot {
        host: u8,
    },
    Mishap {
        index: u32,
    },
    Machine,
    StartMachine,
    Puppet {
        puppet: u8,
    },
}

/// The system.
pub struct World {
    pub(crate) now_ns: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(crate) order: u64,
    pub(crate) in_flight: usize,
    pub(crate) pool: Pool,
    /// The switch.
    pub net: Network,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The targets.
    pub blades: Vec<Blade>,
    /// The production blade that serves them, if it does.
    pub machine: Option<Machine>,
    /// Scripted stations.
    pub puppets: Vec<Puppet>,
    /// What the production blade did.
    pub ledger: Rc<RefCell<Ledger>>,
    pub(crate) lifetime_ns: u64,
    pub(crate) epoch_next: u64,
    /// The judge of reads and flushes.
    pub oracle: Oracle,
    /// The watch on the wire.
    pub watch: Watch,
    /// What a run counted.
    pub tally: Tally,
    pub(crate) mishaps: Vec<Mishap>,
    pub(crate) healed: bool,
    pub(crate) tickets: u32,
    /// Ends of requests, if wanted, for tests.
    pub done: Option<Vec<Done>>,
    /// Notices, if wanted: time, host, notice.
    pub notices: Option<Vec<(u64, u8, Notice)>>,
    pub(crate) trace: Option<VecDeque<String>>,
    pub(crate) violation: Option<Violation>,
    pub(crate) reply: Vec<u8>,
}

/// What a port carries that nothing is wrong with: more than any interface sends.
const PORT_MTU_BYTES: usize = 9216;
/// Lines of a trace that are kept.
const TRACE_LINES: usize = 100_000;

impl World {
    /// Builds it; hosts boot at time 0 and attach every target.
    #[must_use]
    pub fn new(spec: &WorldSpec) -> Self {
        let (ports, host_ports, blades) = stations(spec);
        let mut rng = fastrand::Rng::with_seed(spec.seed);
        let config = spec.hosts.first().map(|host| &host.config);
        let lifetime_ns = ns(spec.lifetime());
        let parallel = config.is_some_and(|config| config.target_order == TargetOrder::Parallel);
        let interfaces = spec
            .hosts
            .iter()
            .map(|host| host.interfaces.len())
            .max()
            .unwrap_or(1);
        let disks: Vec<u64> = spec
            .targets
            .iter()
            .map(|target| target.sectors_most)
            .collect();
        let hosts: Vec<Host> = spec
            .hosts
            .iter()
            .zip(&host_ports)
            .map(|(host, ports)| Host::new(host.clone(), spec.targets.len(), ports, rng.u64(..)))
            .collect();
        let ledger = Rc::new(RefCell::new(Ledger::new(&disks, lifetime_ns)));
        let first_port = host_ports.iter().flatten().count() as u8;
        let machine = spec.machine.clone().map(|machine| {
            let seed = rng.u64(..);
            Machine::new(machine, &spec.targets, first_port, seed, &ledger)
        });
        let first_puppet = (ports.len() - spec.puppets.len()) as u8;
        let puppets = (first_puppet..)
            .zip(&spec.puppets)
            .map(|(port, puppet)| Puppet::new(puppet.clone(), port, rng.u64(..)))
            .collect();
        let mut world = Self {
            machine,
            puppets,
            ledger,
            lifetime_ns,
            epoch_next: 0,
            now_ns: 0,
            rng,
            heap: BinaryHeap::new(),
            order: 0,
            in_flight: 0,
            pool: Pool::default(),
            net: Network::new(ports, spec.rates),
            watch: Watch::new(hosts.len(), interfaces, lifetime_ns, parallel),
            hosts,
            blades,
            oracle: Oracle::new(&disks),
            tally: Tally::default(),
            mishaps: Vec::new(),
            healed: false,
            tickets: 0,
            done: None,
            notices: None,
            trace: None,
            violation: None,
            reply: Vec::new(),
        };
        world.start_machine();
        for host in 0..world.hosts.len() {
            world.boot(host);
        }
        for puppet in 0..world.puppets.len() {
            world.wake_puppet(puppet, 0);
        }
        world
    }

    /// Keeps the ends of requests and the notices, for tests.
    #[must_use]
    pub fn keeping(mut self) -> Self {
        self.done = Some(Vec::new());
        self.notices = Some(Vec::new());
        self
    }

    /// Keeps the last lines of what happened.
    pub fn trace(&mut self) {
        self.trace = Some(VecDeque::new());
    }

    /// The lines kept.
    pub fn trace_lines(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().flatten().map(String::as_str)
    }

    /// Time passed.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// What was found to be wrong.
    #[must_use]
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn instant(&self) -> Instant {
        Instant::from_nanos(self.now_ns)
    }

    pub(crate) fn accuse(&mut self, violation: Violation) {
        if self.violation.is_none() {
            self.note(|| format!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    pub(crate) fn check(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.accuse(violation);
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES {
                trace.pop_front();
            }
            let (us, rest) = (self.now_ns / 1000, self.now_ns % 1000);
            trace.push_back(format!("{us:>10}.{rest:03} {}", line()));
        }
    }

    pub(crate) fn at(&mut self, time_ns: u64, event: Event) {
        self.order += 1;
        self.heap
            .push(Reverse((time_ns.max(self.now_ns), self.order, event)));
    }

    /// Something that will happen at `at_ns`.
    pub fn plan(&mut self, at_ns: u64, mishap: Mishap) {
        self.mishaps.push(mishap);
        let index = self.mishaps.len() as u32 - 1;
        self.at(at_ns, Event::Mishap { index });
    }

    /// Runs until `until_ns`, a violation, or until `finished` says so after some event; whether it did.
    pub fn run(&mut self, until_ns: u64, mut finished: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if self.violation.is_some() {
                return false;
            }
            if finished(self) {
                return true;
            }
            let Some(Reverse((at_ns, _, _))) = self.heap.peek() else {
                self.now_ns = self.now_ns.max(until_ns);
                return false;
            };
            if *at_ns > until_ns {
                self.now_ns = until_ns;
                return false;
            }
            let Some(Reverse((at_ns, _, event))) = self.heap.pop() else {
                return false;
            };
            self.now_ns = at_ns;
            self.tally.events += 1;
            self.step(event);
        }
    }

    /// Runs for so long.
    pub fn run_for(&mut self, time: Duration) {
        self.run(self.now_ns + ns(time), |_| false);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive { frame, port } => self.arrive(frame, port),
            Event::Wake { host } => {
                let host = usize::from(host);
                if self.hosts[host].wake_at_ns == self.now_ns {
                    self.hosts[host].wake_at_ns = u64::MAX;
                    self.turn(host);
                }
            }
            Event::Served {
                target,
                queue,
                era,
                frame,
            } => self.served(target, queue, era, frame),
            Event::Resume { target, queue, era } => self.resume(target, queue, era),
            Event::Start { target, advertises } => self.start_target(target, advertises),
            Event::Release { target } => self.blades[usize::from(target)].target.reserve(&[]),
            Event::Machine => self.machine_due(),
            Event::StartMachine => self.start_machine(),
            Event::Puppet { puppet } => self.puppet_due(usize::from(puppet)),
            Event::Boot { host } => {
                // Two crashes at once end in one start.
                if self.hosts[usize::from(host)].initiator.is_none() {
                    self.boot(usize::from(host));
                }
            }
            Event::Mishap { index } => {
                if !self.healed {
                    let mishap = self.mishaps[index as usize];
                    self.befall(mishap);
                }
            }
        }
    }

    /// Lets it happen now.
    pub fn befall(&mut self, mishap: Mishap) {
        self.note(|| format!("{mishap:?}"));
        let now_ns = self.now_ns;
        match mishap {
            Mishap::PauseTarget {
                target,
                queue,
                for_ns,
            } => self.pause_target(target, queue, for_ns),
            Mishap::RestartTarget {
                target,
                down_ns,
                power,
                advertises,
            } => {
                self.stop_target(target, power);
                if down_ns != u64::MAX {
                    self.at(now_ns + down_ns, Event::Start { target, advertises });
                }
            }
            Mishap::Resize { target, sectors } => {
                let target = &mut self.blades[usize::from(target)].target;
                target.sectors = sectors.min(target.spec.sectors_most);
            }
            Mishap::Reserve { target, for_ns } => {
                self.blades[usize::from(target)]
                    .target
                    .reserve(&[[2, 0, 0, 0, 0xaa, 0xaa]]);
                self.at(now_ns.saturating_add(for_ns), Event::Release { target });
            }
            Mishap::PauseHost { host, for_ns } => {
                self.hosts[usize::from(host)].paused_until_ns = now_ns + for_ns
            }
            Mishap::CrashHost { host, down_ns } => {
                self.crash_host(usize::from(host));
                self.at(now_ns + down_ns, Event::Boot { host });
            }
            Mishap::Detach { host, target } => self.detach(usize::from(host), target),
            Mishap::StallTransmit {
                host,
                interface,
                for_ns,
            } => {
                self.hosts[usize::from(host)].rings[usize::from(interface)].stalled_until_ns =
                    now_ns + for_ns;
            }
            Mishap::BlockTransmit { host, for_ns } => {
                self.hosts[usize::from(host)].transmit_blocked_until_ns = now_ns + for_ns;
            }
            Mishap::StopMachine { down_ns, power } => {
                self.stop_machine(power);
                self.at(now_ns + down_ns, Event::StartMachine);
            }
            Mishap::PauseMachine { for_ns } => self.pause_machine(for_ns),
            Mishap::PortDown { port, for_ns } => {
                self.net.ports[usize::from(port)].down_until_ns = now_ns + for_ns
            }
            Mishap::Block { from, to, for_ns } => self.net.block(from, to, now_ns + for_ns),
            Mishap::Shrink { port, mtu_bytes } => {
                self.net.ports[usize::from(port)].mtu_bytes = mtu_bytes
            }
        }
    }

    fn boot(&mut self, index: usize) {
        let seed = self.rng.u64(..);
        let now = self.instant();
        let host = &mut self.hosts[index];
        let mut config = host.spec.config.clone();
        host.lives += 1;
        // A new life needs no wait where its sessions make the old one's copies void (S5).
        if host.lives > 1 && self.machine.is_none() {
            config.write_quarantine = config.frame_lifetime;
        }
        if self.machine.is_some() {
            config.incarnation = seed | 1;
        }
        let initiator = Initiator::new(config, &host.spec.interface_configs(), seed, now);
        host.initiator = Some(initiator.expect("the scenario's configuration is sound"));
        host.attachments.fill(Attachment::default());
        self.watch.node_restarted(index);
        self.wake(index, self.now_ns);
    }

    fn crash_host(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.initiator = None;
        for (_, frame) in host.inbox.drain(..) {
            self.pool.give(frame);
        }
        for rings in &mut host.rings {
            rings.reports.clear();
            rings.reported = 0;
        }
        host.next_deadline_ns = u64::MAX;
        host.pending_count = 0;
        let ended: Vec<_> = host.pending.drain(..).flatten().collect();
        for pending in ended {
            if let Some(stamp) = pending.stamp {
                self.oracle.write_over(stamp, false);
            }
        }
        self.void_unsent(index);
        // A new process does not know what the old one had not flushed.
        self.release_all(index);
    }

    /// What a host has not sent goes with it, as the ring of an AF_XDP socket does. Where it stays in a queue of the
    /// kernel's, a lifetime counted from the next process's start covers only what leaves at once.
    fn void_unsent(&mut self, index: usize) {
        for Reverse((_, _, event)) in &self.heap {
            let Event::Arrive { frame, .. } = event else {
                continue;
            };
            let frame = self.pool.get_mut(*frame);
            if !frame.void
                && frame.sent.is_some_and(|(host, left_ns)| {
                    usize::from(host) == index && left_ns > self.now_ns
                })
            {
                frame.void = true;
                if let Some(copy) = frame.copy.take() {
                    self.watch.lost(copy);
                }
            }
        }
    }

    pub(crate) fn release_all(&mut self, host: usize) {
        for target in 0..self.blades.len() as u8 {
            self.release_region(host, target);
        }
    }

    pub(crate) fn release_region(&mut self, host: usize, target: u8) {
        let whole = (0, self.blades[usize::from(target)].target.spec.sectors_most);
        let region = self.hosts[host]
            .load
            .as_ref()
            .map_or(whole, |load| load.region(target));
        self.oracle.release(target, region.0, region.1);
    }

    /// Lets a host take its turn at `at_ns`, if it does not do so sooner.
    pub(crate) fn wake(&mut self, index: usize, at_ns: u64) {
        let host = &mut self.hosts[index];
        let at_ns = at_ns.max(host.next_turn_ns).max(self.now_ns);
        if at_ns < host.wake_at_ns {
            host.wake_at_ns = at_ns;
            self.at(at_ns, Event::Wake { host: index as u8 });
        }
    }

    /// A frame leaves `port` at `left_ns`. Gives the frame's memory back when it goes nowhere.
    pub(crate) fn launch(&mut self, frame: FrameId, port: u8, left_ns: u64) {
        let mut dst: Mac = [0; 6];
        dst.copy_from_slice(&self.pool.get(frame).bytes[..6]);
        if dst == [0xff; 6] {
            for to in 0..self.net.ports.len() as u8 {
                if to != port {
                    let copy = self.pool.duplicate(frame);
                    self.launch_to(copy, port, to, left_ns);
                }
            }
            self.pool.give(frame);
            return;
        }
        match self.net.port_of(dst) {
            Some(to) => self.launch_to(frame, port, to, left_ns),
            None => self.pool.give(frame),
        }
    }

    fn launch_to(&mut self, frame: FrameId, from: u8, to: u8, left_ns: u64) {
        let arrivals = self.net.fate(
            left_ns,
            from,
            to,
            &self.pool.get(frame).bytes,
            &mut self.rng,
        );
        if let Some(copy) = self.pool.get(frame).copy {
            self.watch
                .launched(copy, arrivals.iter().flatten().count() as u8);
        }
        let mut first = Some(frame);
        for arrival_ns in arrivals.into_iter().flatten() {
            // The original goes first; it is not read any more once it is under way.
            let id = match first.take() {
                Some(id) => id,
                None => self.pool.duplicate(frame),
            };
            self.in_flight += 1;
            self.at(
                arrival_ns,
                Event::Arrive {
                    frame: id,
                    port: to,
                },
            );
        }
        if let Some(lost) = first {
            self.note_frame("lost", lost);
            self.pool.give(lost);
        }
    }

    fn arrive(&mut self, frame: FrameId, port: u8) {
        self.in_flight -= 1;
        if self.pool.get(frame).void {
            self.discard(frame);
            return;
        }
        match self.net.ports[usize::from(port)].owner {
            Owner::Host { host, interface } => {
                let index = usize::from(host);
                let host = &mut self.hosts[index];
                let fits = self.pool.get(frame).bytes.len()
                    <= host.spec.interfaces[usize::from(interface)].mtu_bytes + 14;
                if host.initiator.is_none()
                    || host.inbox.len() == crate::host::INBOX_FRAMES
                    || !fits
                {
                    self.discard(frame);
                    return;
                }
                host.inbox.push((interface, frame));
                self.wake(index, self.now_ns);
            }
            Owner::Target { target, station } => self.enqueue(target, station, frame),
            Owner::Machine { interface } => self.machine_frame(interface, frame),
            Owner::Puppet { puppet } => self.puppet_frame_in(usize::from(puppet), frame),
            Owner::Rogue { target } => self.rogue(target, port, frame),
        }
    }

    /// A frame ends without being used.
    pub(crate) fn discard(&mut self, frame: FrameId) {
        self.note_frame("discarded", frame);
        if let Some(copy) = self.pool.get(frame).copy {
            self.watch.lost(copy);
        }
        self.pool.give(frame);
    }

    pub(crate) fn note_frame(&mut self, verb: &str, frame: FrameId) {
        if self.trace.is_some() {
            let line = match bytes::parse(&self.pool.get(frame).bytes) {
                Some(fields) => format!(
                    "{verb:<9} {}",
                    describe(fields, self.pool.get(frame).bytes.len())
                ),
                None => format!("{verb:<9} something that is not AoE"),
            };
            self.note(|| line);
        }
    }

    /// No more mishaps: the network is quiet, everybody is up and running.
    pub fn heal(&mut self) {
        self.note(|| "healed".into());
        self.healed = true;
        self.net.heal();
        if self.machine.is_some() {
            self.heal_machine();
        } else {
            for target in 0..self.blades.len() as u8 {
                self.heal_target(target);
            }
        }
        self.stop_puppets();
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            host.paused_until_ns = 0;
            host.transmit_blocked_until_ns = 0;
            for rings in &mut host.rings {
                rings.stalled_until_ns = 0;
            }
            if let Some(load) = &mut host.load {
                load.stop();
            }
            if host.initiator.is_none() {
                self.boot(index);
            }
            self.wake(index, self.now_ns);
        }
    }

    /// Nothing is asked, and nothing is unaccounted for.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let quiet = |host: &Host| host.pending() == 0 && host.unaccounted() == 0;
        self.hosts.iter().all(quiet) && self.puppets.iter().all(Puppet::is_done)
    }

    /// The target of this station and address.
    pub(crate) fn target_at(&self, mac: Mac, shelf: u16, slot: u8) -> Option<u8> {
        let place = self.blades.iter().position(|blade| {
            let spec = &blade.target.spec;
            (spec.shelf, spec.slot) == (shelf, slot) && spec.macs.contains(&mac)
        })?;
        Some(place as u8)
    }

    /// A flush makes what it covers outlive a failure of power.
    pub(crate) fn is_durable(&self) -> bool {
        use sandrail_proto::aoe::target::backing::Durability;
        let durability = self
            .machine
            .as_ref()
            .map(|machine| machine.spec.disk.durability);
        durability.is_some_and(|durability| durability != Durability::Volatile)
    }

    /// The oracle's judgement of a flush, from what lies on the disk.
    pub(crate) fn judge_sector_flushed(
        &mut self,
        target: u8,
        lba: u64,
        flush: FlushSeen,
    ) -> Result<(), Violation> {
        let index = usize::from(target);
        let Some(machine) = &self.machine else {
            let model = &self.blades[index].target;
            let content = if flush.promised {
                model.durable_sector(lba)
            } else {
                model.sector(lba)
            };
            return self.oracle.flushed(target, lba, content, flush);
        };
        let disk = machine.disks[index].borrow();
        let content = if flush.promised {
            disk.durable_sector(lba)
        } else {
            disk.sector(lba)
        };
        self.oracle.flushed(target, lba, content, flush)
    }

    /// Looks at every sector of every target as a read after everything else, and at the whole history.
    ///
    /// # Errors
    /// [`Violation`] when the history forbids what is there.
    pub fn verify_disks(&mut self) -> Result<(), Violation> {
        for (index, blade) in self.blades.iter().enumerate() {
            for lba in 0..blade.target.spec.sectors_most {
                let begun = self.oracle.moment();
                let disk = self
                    .machine
                    .as_ref()
                    .map(|machine| machine.disks[index].borrow());
                let content = match &disk {
                    Some(disk) => disk.sector(lba),
                    None => blade.target.sector(lba),
                };
                self.oracle.read_over(index as u8, lba, content, begun)?;
            }
        }
        self.oracle.finish()
    }

    /// An allegation if `condition` does not hold.
    pub(crate) fn insist(
        &mut self,
        condition: bool,
        promise: Promise,
        text: impl FnOnce() -> String,
    ) {
        if !condition {
            self.accuse(Violation::new(promise, text()));
        }
    }
}

pub(crate) fn describe(fields: Fields, len_bytes: usize) -> String {
    format!("{fields} ({len_bytes} bytes)")
}

/// The ports of the switch, each host's ports, and the targets.
fn stations(spec: &WorldSpec) -> (Vec<Port>, Vec<Vec<u8>>, Vec<Blade>) {
    let port = |mac: Mac, owner: Owner, mtu_bytes: usize| Port {
        mac,
        owner,
        mtu_bytes,
        down_until_ns: 0,
    };
    let mut ports = Vec::new();
    let mut host_ports = Vec::new();
    for (host, host_spec) in (0..).zip(&spec.hosts) {
        let first = ports.len() as u8;
        for (interface, interface_spec) in (0..).zip(&host_spec.interfaces) {
            let owner = Owner::Host { host, interface };
            ports.push(port(interface_spec.mac, owner, PORT_MTU_BYTES));
        }
        host_ports.push((first..ports.len() as u8).collect());
    }
    let mut blades = Vec::new();
    for (target, target_spec) in (0..).zip(&spec.targets) {
        let first = ports.len() as u8;
        for (station, mac) in (0..).zip(&target_spec.macs) {
            let owner = match &spec.machine {
                None => Owner::Target { target, station },
                // All its targets share its interfaces.
                Some(_) if target == 0 => Owner::Machine { interface: station },
                Some(_) => continue,
            };
            ports.push(port(*mac, owner, spec.target_port_mtu_bytes));
        }
        blades.push(Blade::new(target, target_spec.clone(), first));
    }
    if spec.rogue {
        let owner = Owner::Rogue { target: 0 };
        ports.push(port([2, 0, 0, 0, 0xee, 0xee], owner, PORT_MTU_BYTES));
    }
    for (puppet, puppet_spec) in (0..).zip(&spec.puppets) {
        let owner = Owner::Puppet { puppet };
        ports.push(port(puppet_spec.mac, owner, PORT_MTU_BYTES));
    }
    (ports, host_ports, blades)
}
