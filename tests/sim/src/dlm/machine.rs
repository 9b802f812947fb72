//! The production lock manager as a [`Station`]: [`Node`] with its own types on the one side, the judge's on the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sandrail_proto::dlm::{
    Ask, Body, Change, Config, Epoch, Event, Flags as NodeFlags, GrantNumber, Incarnation,
    LockId as NodeLock, Member, Message, Mode as NodeMode, Node, NodeId, Refusal, ResourceName,
    Transaction, ValueBlock, View, Why as NodeWhy,
};
use sandrail_proto::time::Instant;

use super::call::{Call, Flags, Life, LockId, Mode, Resource, Stamp, Told, Txn, Value, Why};
use super::station::{Begin, Held, Refused, Station};

/// What is done to a node so that it breaks the rules: what it hears, says or tells is forged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forgery {
    /// Nothing.
    #[default]
    None,
    /// Of grants in PR some are understood as EX.
    ModeRaised,
    /// Some grant numbers are told smaller than they are.
    NumberLowered,
    /// Who left is believed to be fenced at once.
    FencedAtOnce,
    /// The logs of the dead are believed to be replayed at once.
    ReplayedAtOnce,
    /// A value block that a holder gives up is sometimes replaced by the one that it gave up before.
    ValueKept,
    /// Some value blocks change on their way.
    ValueTorn,
    /// Some grants are told twice.
    ToldTwice,
    /// Some requests never leave.
    RequestLost,
    /// Some blocking notices never arrive.
    NoticeLost,
    /// Some locks that are handed over never arrive.
    HandLost,
    /// Probes never arrive.
    ProbesLost,
    /// Some who wait are told that they are victims.
    AnyVictim,
    /// It says that it holds what it gave back.
    CountsWrong,
}

/// One in so many is forged.
const EVERY: u64 = 20;

/// A node.
#[derive(Debug)]
pub struct Machine {
    node: Node,
    locks: BTreeMap<LockId, Known>,
    told: VecDeque<Told>,
    resources: u16,
    nodes: u8,
    forgery: Forgery,
    /// What might have been forged so far.
    chances: u64,
    /// The value block that was given up last.
    given_up: Option<ValueBlock>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    lock: NodeLock,
    held: Option<Mode>,
}

fn to_mode(mode: Mode) -> NodeMode {
    match mode {
        Mode::Nl => NodeMode::Nl,
        Mode::Cr => NodeMode::Cr,
        Mode::Cw => NodeMode::Cw,
        Mode::Pr => NodeMode::Pr,
        Mode::Pw => NodeMode::Pw,
        Mode::Ex => NodeMode::Ex,
    }
}

fn from_mode(mode: NodeMode) -> Mode {
    match mode {
        NodeMode::Nl => Mode::Nl,
        NodeMode::Cr => Mode::Cr,
        NodeMode::Cw => Mode::Cw,
        NodeMode::Pr => Mode::Pr,
        NodeMode::Pw => Mode::Pw,
        NodeMode::Ex => Mode::Ex,
    }
}

fn to_flags(flags: Flags) -> NodeFlags {
    let bits = [
        (flags.noqueue, NodeFlags::NOQUEUE),
        (flags.expedite, NodeFlags::EXPEDITE),
        (flags.headque, NodeFlags::HEADQUE),
        (flags.quecvt, NodeFlags::QUECVT),
        (flags.altpr, NodeFlags::ALTPR),
        (flags.altcw, NodeFlags::ALTCW),
        (flags.convdeadlk, NodeFlags::CONVDEADLK),
    ];
    let set = bits.iter().filter(|(is_set, _)| *is_set);
    set.fold(NodeFlags::NONE, |all, (_, bit)| all.union(*bit))
}

fn member(life: Life) -> Member {
    Member {
        node: NodeId(u16::from(life.node)),
        incarnation: Incarnation(u64::from(life.life)),
    }
}

fn name(resource: Resource) -> ResourceName {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(b"sim:");
    bytes[8..10].copy_from_slice(&resource.0.to_le_bytes());
    ResourceName(bytes)
}

fn from_value(value: &ValueBlock) -> Value {
    match value {
        ValueBlock::Valid { bytes, .. } => Stamp::of(bytes).map_or(Value::Garbage, Value::Valid),
        ValueBlock::Invalid => Value::Invalid,
    }
}

impl Machine {
    /// Whether this is the one in so many.
    fn forges(&mut self, forgery: Forgery) -> bool {
        if self.forgery != forgery {
            return false;
        }
        self.chances += 1;
        self.chances.is_multiple_of(EVERY)
    }

    /// What becomes of a message that was sent.
    fn forge_sent(&mut self, mut message: Message) -> Option<Message> {
        match &mut message.body {
            Body::Request(_) if self.forges(Forgery::RequestLost) => return None,
            Body::Demote {
                value: Some(value), ..
            }
            | Body::Hand { value, .. }
                if matches!(self.forgery, Forgery::ValueKept | Forgery::ValueTorn) =>
            {
                self.chances += 1;
                let before = self.given_up.replace(*value);
                match (self.forgery, before, &mut *value) {
                    (Forgery::ValueKept, Some(before), _) if self.chances.is_multiple_of(4) => {
                        *value = before;
                    }
                    (Forgery::ValueTorn, _, ValueBlock::Valid { bytes, .. }) => bytes[33] ^= 1,
                    _ => {}
                }
            }
            _ => {}
        }
        Some(message)
    }

    /// What becomes of a message that arrives.
    fn forge_heard(&mut self, mut message: Message) -> Option<Message> {
        match &mut message.body {
            Body::Grant { mode, .. }
                if *mode == NodeMode::Pr && self.forges(Forgery::ModeRaised) =>
            {
                *mode = NodeMode::Ex;
            }
            Body::Block { .. } if self.forges(Forgery::NoticeLost) => return None,
            Body::Hand { .. } if self.forges(Forgery::HandLost) => return None,
            Body::ProbeMaster { .. } | Body::ProbeNode { .. }
                if self.forgery == Forgery::ProbesLost =>
            {
                return None;
            }
            _ => {}
        }
        Some(message)
    }

    fn forge_told(&mut self, told: Told) -> Told {
        match told {
            Told::Granted {
                lock,
                mode,
                number,
                value,
                demoted,
            } => {
                if self.forges(Forgery::ToldTwice) {
                    self.told.push_back(told);
                }
                let lowered = self.forges(Forgery::NumberLowered);
                Told::Granted {
                    lock,
                    mode,
                    number: if lowered {
                        number - number % 32
                    } else {
                        number
                    },
                    value,
                    demoted,
                }
            }
            Told::Denied { lock, held, .. } if self.forges(Forgery::AnyVictim) => Told::Denied {
                lock,
                why: Why::Deadlock(vec![Txn(1), Txn(2)]),
                held,
            },
            other => other,
        }
    }

    fn take_event(&mut self, event: Event) -> Option<Told> {
        match event {
            Event::Granted {
                client,
                mode,
                grant: GrantNumber(number),
                value,
                demoted,
                ..
            } => {
                let lock = LockId(client);
                let mode = from_mode(mode);
                if let Some(known) = self.locks.get_mut(&lock) {
                    known.held = Some(mode);
                }
                Some(Told::Granted {
                    lock,
                    mode,
                    number,
                    value: from_value(&value),
                    demoted,
                })
            }
            Event::Denied { client, why, .. } => {
                let lock = LockId(client);
                let held = self.locks.get(&lock).and_then(|known| known.held);
                if held.is_none() {
                    self.locks.remove(&lock);
                }
                let why = match why {
                    NodeWhy::WouldBlock => Why::WouldBlock,
                    NodeWhy::TimedOut => Why::TimedOut,
                    NodeWhy::Cancelled => Why::Cancelled,
                    NodeWhy::Deadlock(path) => {
                        let named = path.named.iter().take(usize::from(path.length));
                        Why::Deadlock(named.map(|txn| Txn(txn.0)).collect())
                    }
                    NodeWhy::Full | NodeWhy::Exhausted => Why::Full,
                };
                Some(Told::Denied { lock, why, held })
            }
            Event::Demoted { client, .. } => {
                if let Some(known) = self.locks.get_mut(&LockId(client)) {
                    known.held = Some(Mode::Nl);
                }
                None
            }
            Event::Blocking { client, .. } => Some(Told::Blocking {
                lock: LockId(client),
            }),
            Event::Drawn { .. } | Event::Expelled { .. } => None,
        }
    }
}

impl Station for Machine {
    type Message = Message;
    type Flaw = Forgery;

    const FAMILY: &'static str = "dlm-channel";
    const CENTRAL: bool = false;
    const LOSSY: bool = false;
    const WEAK_VALUES: bool = true;

    fn start(begin: &Begin, forgery: Forgery) -> Self {
        let config = Config {
            locks_max: u32::from(begin.locks) + 8,
            resources_max: 64,
            mastered_max: 64,
            holds_max: 1024,
            values_max: 256,
            timeouts_max: 64,
            ..Config::small(NodeId(u16::from(begin.me.node)))
        };
        Self {
            node: Node::new(config),
            locks: BTreeMap::new(),
            told: VecDeque::new(),
            resources: begin.resources,
            nodes: begin.nodes,
            forgery,
            chances: 0,
            given_up: None,
        }
    }

    fn set_members(&mut self, now: Instant, epoch: u32, members: &[Life], unreplayed: &[Life]) {
        let members: Vec<Member> = members.iter().map(|life| member(*life)).collect();
        let unreplayed: Vec<Member> = unreplayed.iter().map(|life| member(*life)).collect();
        let view = View {
            epoch: Epoch(u64::from(epoch)),
            members: &members,
            unreplayed: &unreplayed,
        };
        let result = self.node.set_members(now, &view);
        assert!(result.is_ok(), "{view:?}: {result:?}");
        if self.forgery == Forgery::FencedAtOnce {
            self.node.fenced(now, view.epoch);
        }
        if self.forgery == Forgery::ReplayedAtOnce {
            self.node.fenced(now, view.epoch);
            for dead in &unreplayed {
                self.node.replayed(now, *dead);
            }
        }
    }

    fn fenced(&mut self, now: Instant, epoch: u32) {
        self.node.fenced(now, Epoch(u64::from(epoch)));
    }

    fn replayed(&mut self, now: Instant, dead: Life) {
        self.node.replayed(now, member(dead));
    }

    fn call(&mut self, now: Instant, call: &Call) -> Result<(), Refused> {
        let refused = |refusal: Refusal| match refusal {
            Refusal::Full(_) => Refused::Full,
            other => Refused::Wrong(other.to_string()),
        };
        if let Call::Lock {
            lock,
            resource,
            mode,
            flags,
            txn,
        } = *call
        {
            let ask = Ask {
                client: lock.0,
                resource: name(resource),
                mode: to_mode(mode),
                flags: to_flags(flags),
                transaction: Transaction(txn.0),
                timeout: flags.timeout_ns.map(Duration::from_nanos),
            };
            let known = Known {
                lock: self.node.lock(now, &ask).map_err(refused)?,
                held: None,
            };
            self.locks.insert(lock, known);
            return Ok(());
        }
        let Some(known) = self.locks.get_mut(&call.lock()) else {
            return Err(Refused::Wrong("a lock that has ended".to_owned()));
        };
        match *call {
            Call::Convert {
                mode, flags, value, ..
            } => {
                let change = Change {
                    mode: to_mode(mode),
                    flags: to_flags(flags),
                    timeout: flags.timeout_ns.map(Duration::from_nanos),
                    value: value.map(Stamp::block),
                };
                self.node.convert(now, known.lock, &change).map_err(refused)
            }
            Call::Unlock { lock, value } => {
                let block = value.map(Stamp::block);
                self.node
                    .unlock(now, known.lock, block.as_ref())
                    .map_err(refused)?;
                self.locks.remove(&lock);
                self.told.push_back(Told::Unlocked { lock });
                Ok(())
            }
            // What has ended meanwhile is not cancelled.
            Call::Cancel { .. } => {
                let _ = self.node.cancel(now, known.lock);
                Ok(())
            }
            Call::Lock { .. } => Ok(()),
        }
    }

    fn handle_message(&mut self, now: Instant, from: Life, message: &Message) {
        if let Some(message) = self.forge_heard(*message) {
            self.node
                .handle_message(now, NodeId(u16::from(from.node)), &message);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.node.handle_timeout(now);
    }

    fn poll_message(&mut self, _: Instant) -> Option<(u8, Message)> {
        loop {
            let (to, message) = self.node.poll_message()?;
            if let Some(message) = self.forge_sent(message) {
                return Some((to.0 as u8, message));
            }
        }
    }

    fn poll_told(&mut self) -> Option<Told> {
        if let Some(told) = self.told.pop_front() {
            return Some(told);
        }
        loop {
            let event = self.node.poll_event()?;
            if let Some(told) = self.take_event(event) {
                return Some(self.forge_told(told));
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.node.poll_timeout()
    }

    fn held(&self) -> Held {
        let counts = self.node.counts();
        let leaked = usize::from(self.forgery == Forgery::CountsWrong);
        Held {
            locks: self.locks.len() + counts.locks + leaked,
            requests: counts.waiting,
            queued: counts.queued,
            messages: counts.messages,
            frozen: counts.frozen_slots + counts.closed_slots,
            retained: counts.retained,
            handoffs: counts.handoffs,
            cached: counts.resources + counts.mastered,
        }
    }

    /// Of each resource there is one record on either side, a hold and a request of each node, and two value blocks.
    fn check_bounds(&self) -> Result<(), String> {
        let (counts, stat) = (self.node.counts(), self.node.stat());
        let resources = usize::from(self.resources);
        let nodes = usize::from(self.nodes);
        let is_bounded = counts.resources <= resources
            && counts.mastered <= resources
            && counts.values <= 2 * resources
            && counts.holds <= resources * nodes
            && counts.queued <= 2 * resources * nodes
            && counts.messages == 0;
        if !is_bounded {
            return Err(format!("{resources} resources, {nodes} nodes: {counts:?}"));
        }
        if stat.conflicts + stat.unbuilt_slots > 0 {
            return Err(format!("{stat:?}"));
        }
        Ok(())
    }

    fn knows(&self, lock: LockId) -> bool {
        self.locks.contains_key(&lock)
    }
}
