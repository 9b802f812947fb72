//! The production lock manager as a [`Station`]: [`Node`] with its own types on the one side, the judge's on the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sandrail_proto::dlm::{
    Ask, Change, Config, Epoch, Event, Flags as NodeFlags, GrantNumber, Incarnation,
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
}

/// A node.
#[derive(Debug)]
pub struct Machine {
    node: Node,
    locks: BTreeMap<LockId, Known>,
    told: VecDeque<Told>,
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

    const CENTRAL: bool = false;
    const LOSSY: bool = false;

    fn start(begin: &Begin, _: Forgery) -> Self {
        let config = Config {
            locks_max: u32::from(begin.locks) + 8,
            ..Config::small(NodeId(u16::from(begin.me.node)))
        };
        Self {
            node: Node::new(config),
            locks: BTreeMap::new(),
            told: VecDeque::new(),
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
        self.node
            .handle_message(now, NodeId(u16::from(from.node)), message);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.node.handle_timeout(now);
    }

    fn poll_message(&mut self, _: Instant) -> Option<(u8, Message)> {
        let (to, message) = self.node.poll_message()?;
        Some((to.0 as u8, message))
    }

    fn poll_told(&mut self) -> Option<Told> {
        if let Some(told) = self.told.pop_front() {
            return Some(told);
        }
        loop {
            let event = self.node.poll_event()?;
            if let Some(told) = self.take_event(event) {
                return Some(told);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.node.poll_timeout()
    }

    fn held(&self) -> Held {
        Held {
            locks: self.locks.len(),
            ..Held::default()
        }
    }

    fn check_bounds(&self) -> Result<(), String> {
        Ok(())
    }

    fn knows(&self, lock: LockId) -> bool {
        self.locks.contains_key(&lock)
    }
}
