//! A few nodes of the lock manager on a perfect network: reliable, in order, and as fast as it is told to be.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::{BTreeMap, VecDeque};

use sandrail_proto::dlm::{
    Ask, Body, Change, Config, Epoch, Event, Flags, Incarnation, LockId, Member, Message, Mode,
    Node, NodeId, Refusal, ResourceName, Transaction, View, slot_of,
};
use sandrail_proto::time::Instant;

/// The nodes, and the messages between each two.
pub(crate) struct Bed {
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) lives: Vec<u64>,
    pub(crate) wires: BTreeMap<(u16, u16), VecDeque<Message>>,
    /// What clients were told, in the order in which they were.
    pub(crate) events: VecDeque<(u16, Event)>,
    pub(crate) now: Instant,
    pub(crate) epoch: u64,
    pub(crate) unreplayed: Vec<Member>,
    /// What happened lately.
    pub(crate) log: VecDeque<String>,
    pub(crate) logs: bool,
}

pub(crate) fn name(number: u64) -> ResourceName {
    let mut name = ResourceName::default();
    name.0[8..].copy_from_slice(&number.to_be_bytes());
    name
}

impl Bed {
    /// So many nodes, all members of epoch 1, nothing left to say.
    pub(crate) fn new(count: u16) -> Self {
        let mut bed = Self::unborn(count, |_| {});
        bed.view(&(0..count).collect::<Vec<_>>());
        bed.run();
        bed
    }

    pub(crate) fn unborn(count: u16, adjust: impl Fn(&mut Config)) -> Self {
        let nodes = (0..count).map(|node| {
            let mut config = Config::small(NodeId(node));
            adjust(&mut config);
            Some(Node::new(config))
        });
        Self {
            nodes: nodes.collect(),
            lives: vec![1; usize::from(count)],
            wires: BTreeMap::new(),
            events: VecDeque::new(),
            now: Instant::from_nanos(1),
            epoch: 0,
            unreplayed: Vec::new(),
            log: VecDeque::new(),
            logs: false,
        }
    }

    pub(crate) fn member(&self, node: u16) -> Member {
        Member {
            node: NodeId(node),
            incarnation: Incarnation(self.lives[usize::from(node)]),
        }
    }

    /// A new view, of which all its members learn at once.
    pub(crate) fn view(&mut self, members: &[u16]) {
        self.next_view();
        for node in members {
            self.tell_view(*node, members);
        }
    }

    pub(crate) fn next_view(&mut self) {
        self.epoch += 1;
    }

    pub(crate) fn tell_view(&mut self, node: u16, members: &[u16]) {
        self.note(|| format!("view for {node}: {members:?}"));
        let members: Vec<Member> = members.iter().map(|node| self.member(*node)).collect();
        let view = View {
            epoch: Epoch(self.epoch),
            members: &members,
            unreplayed: &self.unreplayed,
        };
        let now = self.now;
        let machine = self.nodes[usize::from(node)].as_mut().expect("a live node");
        machine.set_members(now, &view).expect("a good view");
        self.collect(node);
    }

    /// A node dies with all that it has not received.
    pub(crate) fn kill(&mut self, node: u16) {
        self.unreplayed.push(self.member(node));
        self.nodes[usize::from(node)] = None;
        self.events.retain(|(told, _)| *told != node);
        self.wires
            .retain(|(from, to), _| *to != node && *from != node);
    }

    pub(crate) fn fenced(&mut self) {
        let (now, epoch) = (self.now, Epoch(self.epoch));
        for node in 0..self.nodes.len() {
            if let Some(machine) = &mut self.nodes[node] {
                machine.fenced(now, epoch);
                self.collect(u16::try_from(node).unwrap());
            }
        }
    }

    pub(crate) fn replayed(&mut self, dead: u16) {
        let at = self
            .unreplayed
            .iter()
            .position(|member| member.node.0 == dead)
            .expect("a dead node");
        let dead = self.unreplayed.remove(at);
        let now = self.now;
        for node in 0..self.nodes.len() {
            if let Some(machine) = &mut self.nodes[node] {
                machine.replayed(now, dead);
                self.collect(u16::try_from(node).unwrap());
            }
        }
    }

    pub(crate) fn node(&mut self, node: u16) -> &mut Node {
        self.nodes[usize::from(node)].as_mut().expect("a live node")
    }

    /// Notes what happens, for whoever reads of a failure.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.logs {
            if self.log.len() >= 4000 {
                self.log.pop_front();
            }
            self.log.push_back(what());
        }
    }

    /// Takes what a node has to say.
    pub(crate) fn collect(&mut self, node: u16) {
        let alive: Vec<bool> = self.nodes.iter().map(Option::is_some).collect();
        let machine = self.nodes[usize::from(node)].as_mut().expect("a live node");
        while let Some((to, message)) = machine.poll_message() {
            let mut record = [0; 128];
            let length = message.emit(&mut record).expect("room");
            let message = Message::parse(&record[..length]).expect("what was written is read");
            if alive[usize::from(to.0)] {
                self.wires
                    .entry((node, to.0))
                    .or_default()
                    .push_back(message);
            }
        }
        while let Some(event) = machine.poll_event() {
            self.events.push_back((node, event));
        }
    }

    /// Delivers the next message of a wire.
    pub(crate) fn deliver(&mut self, from: u16, to: u16) -> bool {
        let Some(message) = self
            .wires
            .get_mut(&(from, to))
            .and_then(VecDeque::pop_front)
        else {
            return false;
        };
        let now = self.now;
        let is_probe = matches!(
            message.body,
            Body::ProbeMaster { .. } | Body::ProbeNode { .. }
        );
        if !is_probe {
            self.note(|| format!("{from} -> {to}: {message:?}"));
        }
        self.node(to).handle_message(now, NodeId(from), &message);
        self.collect(to);
        true
    }

    /// Delivers until nothing is under way.
    pub(crate) fn run(&mut self) {
        loop {
            let ready: Vec<(u16, u16)> = self
                .wires
                .iter()
                .filter(|(_, wire)| !wire.is_empty())
                .map(|(ends, _)| *ends)
                .collect();
            if ready.is_empty() {
                return;
            }
            for (from, to) in ready {
                self.deliver(from, to);
            }
        }
    }

    /// Lets time pass, with all timeouts on the way.
    pub(crate) fn pass(&mut self, ns: u64) {
        let end = self.now.as_nanos() + ns;
        loop {
            let next = self
                .nodes
                .iter()
                .flatten()
                .filter_map(Node::poll_timeout)
                .min()
                .filter(|at| at.as_nanos() <= end);
            let Some(next) = next else {
                break;
            };
            self.now = self.now.max(next);
            for node in 0..self.nodes.len() {
                let now = self.now;
                if let Some(machine) = &mut self.nodes[node] {
                    machine.handle_timeout(now);
                    self.collect(u16::try_from(node).unwrap());
                }
            }
            self.run();
        }
        self.now = Instant::from_nanos(end);
    }

    pub(crate) fn ask(&mut self, node: u16, ask: &Ask) -> Result<LockId, Refusal> {
        let now = self.now;
        let id = self.node(node).lock(now, ask);
        self.collect(node);
        id
    }

    /// A new lock, for the transaction 1000 * node + client.
    pub(crate) fn lock(&mut self, node: u16, client: u64, resource: u64, mode: Mode) -> LockId {
        self.lock_with(node, client, resource, mode, Flags::NONE)
    }

    pub(crate) fn lock_with(
        &mut self,
        node: u16,
        client: u64,
        resource: u64,
        mode: Mode,
        flags: Flags,
    ) -> LockId {
        let ask = Ask {
            client,
            resource: name(resource),
            mode,
            flags,
            transaction: Transaction(1000 * u64::from(node) + client),
            timeout: None,
        };
        self.ask(node, &ask).expect("a request that begins")
    }

    pub(crate) fn convert(&mut self, node: u16, lock: LockId, mode: Mode, flags: Flags) {
        let change = Change {
            mode,
            flags,
            timeout: None,
            value: None,
        };
        let now = self.now;
        self.node(node)
            .convert(now, lock, &change)
            .expect("a request that begins");
        self.collect(node);
    }

    pub(crate) fn unlock(&mut self, node: u16, lock: LockId, value: Option<[u8; 64]>) {
        let now = self.now;
        self.node(node)
            .unlock(now, lock, value.as_ref())
            .expect("a lock that is held");
        self.collect(node);
    }

    pub(crate) fn cancel(&mut self, node: u16, lock: LockId) {
        let now = self.now;
        self.node(node)
            .cancel(now, lock)
            .expect("a lock that waits");
        self.collect(node);
    }

    pub(crate) fn event(&mut self, node: u16) -> Option<Event> {
        let at = self.events.iter().position(|(told, _)| *told == node)?;
        self.events.remove(at).map(|(_, event)| event)
    }

    /// The next event is a grant to this client; its mode.
    #[track_caller]
    pub(crate) fn granted(&mut self, node: u16, client: u64) -> Mode {
        match self.event(node) {
            Some(Event::Granted {
                client: told, mode, ..
            }) if told == client => mode,
            other => panic!("{other:?} instead of a grant to {client} on node {node}"),
        }
    }

    #[track_caller]
    pub(crate) fn silent(&mut self, node: u16) {
        assert_eq!(self.event(node), None, "node {node}");
    }

    /// A resource, not below `from`, whose master among `count` nodes is `node`.
    pub(crate) fn mastered_by(&self, node: u16, members: u64, from: u64) -> u64 {
        (from..)
            .find(|number| {
                sandrail_proto::dlm::master_of(slot_of(&name(*number)), members)
                    == Some(NodeId(node))
            })
            .expect("a resource of each master")
    }
}
