//! The agent: serves this node's clients from what the node holds, and asks the masters for more.
//!
//! A resource has the classic three queues of its clients' locks. What they may be granted is bounded by what the node
//! *holds*, a mode that covers them all. The hold is kept after the last client has gone, until the master says that
//! somebody else waits: then the *ceiling* tells what may stay.

mod messages;
mod record;
mod report;
mod requests;
mod seek;

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

use sandrail_wire::lock::{
    Body, Epoch, Incarnation, Mode, NodeId, RequestFlags, RequestId, ResourceName, SlotSet,
    ValueBlock, Wanted,
};

use super::api::{Config, Event, Flags, LockId, Why};
use super::desk::Desk;
use super::map::{SLOTS, slot_of};
use super::table::{Index, NIL, Queue, Slab, index};
use crate::time::nanos;
use record::{Handoff, Lock, Pending, Resource, State, Value};
use report::Reporting;
pub(super) use report::{sets_of, slots_of};

/// What the agent knows of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgentSlot {
    /// Its master by the map in force.
    pub(super) master: NodeId,
    /// The term under which that master, or the one before, collected.
    pub(super) term: Epoch,
    pub(super) state: SlotState,
}

/// How far the agent is with a slot's master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The master has not collected yet: nothing is said and nothing heard.
    Closed,
    /// It has, and is being told.
    Reporting,
    /// It has been told all.
    Open,
}

/// Numbers that a client wants.
#[derive(Clone, Copy, Debug)]
struct Draw {
    request: RequestId,
    resource: ResourceName,
    client: u64,
    count: u32,
}

/// Requests for numbers that may be under way at once.
const DRAWS_MAX: usize = 256;

/// Bits of a request's id that count; the others are of the node's life.
const REQUEST_BITS: u32 = 20;

/// One half of a node.
#[derive(Debug)]
pub(super) struct Agent {
    locks: Slab<Lock>,
    resources: Slab<Resource>,
    index: Index,
    values: Slab<Value>,
    pub(super) slots: Vec<AgentSlot>,
    /// Locks that wait, by the time at which a deadlock is looked for.
    waiting: Queue<1>,
    waiting_count: usize,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    timers_max: usize,
    draws: Vec<Draw>,
    next_request: u32,
    /// Tells the requests of this life from those of the node's former ones, to which a lock may still be handed.
    life_bits: u32,
    next_round: u32,
    hold_min: Duration,
    turns_max: u16,
    probe_after: Duration,
    reporting: Reporting,
    /// Sets of slots that a new master asks about, with its term: what this node knew as their master goes first.
    pub(super) accepted: Vec<(NodeId, Epoch, SlotSet)>,
}

impl Agent {
    pub(super) fn new(config: &Config) -> Self {
        let timers_max = index(config.timeouts_max);
        Self {
            locks: Slab::new(config.locks_max),
            resources: Slab::new(config.resources_max),
            index: Index::new(config.resources_max),
            values: Slab::new(config.values_max),
            slots: vec![
                AgentSlot {
                    master: config.node,
                    term: Epoch(0),
                    state: SlotState::Closed,
                };
                SLOTS
            ],
            waiting: Queue::EMPTY,
            waiting_count: 0,
            timers: BinaryHeap::with_capacity(timers_max),
            timers_max,
            draws: Vec::with_capacity(DRAWS_MAX),
            next_request: 0,
            life_bits: 0,
            next_round: 0,
            hold_min: config.hold_min,
            turns_max: config.turns_max,
            probe_after: config.probe_after,
            reporting: Reporting::new(),
            accepted: Vec::new(),
        }
    }

    /// The node's life, by which its requests are told from those of its former ones.
    pub(super) fn set_life(&mut self, life: Incarnation) {
        let low = life.0 & u64::from(u32::MAX >> REQUEST_BITS);
        self.life_bits = u32::try_from(low).unwrap_or(0) << REQUEST_BITS;
    }

    fn new_request(&mut self) -> RequestId {
        self.next_request = self.next_request.wrapping_add(1) & ((1 << REQUEST_BITS) - 1);
        RequestId(self.life_bits | self.next_request)
    }

    /// The slot of a resource, if its master is open to this agent.
    fn open_slot(&self, name: &ResourceName) -> Option<AgentSlot> {
        let slot = self.slots[slot_of(name)];
        (slot.state == SlotState::Open).then_some(slot)
    }

    /// The places of the locks that are held on a resource, those included which convert.
    fn held_locks(&self, r: u32) -> impl Iterator<Item = u32> {
        let resource = &self.resources[r];
        let granted = resource.granted.iter(&self.locks);
        granted.chain(resource.convert.iter(&self.locks))
    }

    /// The mode that covers all that clients hold.
    fn in_use(&self, r: u32) -> Mode {
        self.held_locks(r)
            .fold(Mode::Nl, |mode, place| mode.join(self.locks[place].granted))
    }

    /// Whether `mode` may be held beside what all other locks of the resource hold.
    fn others_allow(&self, r: u32, lock: u32, mode: Mode) -> bool {
        self.held_locks(r)
            .filter(|place| *place != lock)
            .all(|place| self.locks[place].granted.is_compatible(mode))
    }

    /// Whether the node's hold gives `mode` to a client now: somebody else's waiting, and a request for less, forbid it.
    fn hold_gives(&self, desk: &Desk, r: u32, mode: Mode) -> bool {
        let resource = &self.resources[r];
        if !resource.held.covers(mode) {
            return false;
        }
        if let Some(pending) = &resource.pending
            && !pending.mode.covers(mode)
            && !mode.covers(pending.mode)
        {
            // CW is about to be changed for PR, or the other way: what is granted now would not be covered then.
            return false;
        }
        resource.ceiling.covers(mode)
            || (resource.turns < self.turns_max && desk.now < resource.notice_at + self.hold_min)
    }

    /// Does whatever can be done now, until nothing more can.
    fn pump(&mut self, desk: &mut Desk, r: u32) {
        while self.grant_head(desk, r) || self.give_up(desk, r) {}
        if let Some(place) = self.head(r) {
            let lock = &self.locks[place];
            if !lock.flags.contains(Flags::NOQUEUE) {
                self.notify(desk, r, lock.wanted, place);
            }
        }
        self.ask_master(desk, r);
        self.forget_if_idle(r);
    }

    /// The lock whose turn it is: conversions before new ones.
    fn head(&self, r: u32) -> Option<u32> {
        let resource = &self.resources[r];
        resource.convert.head().or(resource.wait.head())
    }

    fn grant_head(&mut self, desk: &mut Desk, r: u32) -> bool {
        let Some(place) = self.head(r) else {
            return false;
        };
        let wanted = self.locks[place].wanted;
        if !self.hold_gives(desk, r, wanted) || !self.others_allow(r, place, wanted) {
            return false;
        }
        self.leave_queue(r, place);
        self.grant(desk, r, place);
        true
    }

    /// Takes a lock out of the queue that it is in.
    fn leave_queue(&mut self, r: u32, place: u32) {
        let resource = &mut self.resources[r];
        match self.locks[place].state {
            State::Granted => resource.granted.remove(&mut self.locks, place),
            State::Converting => resource.convert.remove(&mut self.locks, place),
            State::Waiting => resource.wait.remove(&mut self.locks, place),
            State::Free => unreachable!("a free lock is in no queue"),
        }
        if self.locks[place].state != State::Granted {
            self.waiting.remove(&mut self.locks, place);
            self.waiting_count -= 1;
        }
        self.locks[place].state = State::Free;
    }

    /// Grants a lock that is in no queue the mode that it wants.
    fn grant(&mut self, desk: &mut Desk, r: u32, place: u32) {
        let resource = &mut self.resources[r];
        let lock = &mut self.locks[place];
        lock.granted = lock.wanted;
        lock.state = State::Granted;
        lock.noticed = Mode::Ex;
        lock.wait = lock.wait.wrapping_add(1);
        if !resource.ceiling.covers(lock.granted) {
            resource.turns = resource.turns.saturating_add(1);
        }
        resource.granted.push_back(&mut self.locks, place);
        let lock = &self.locks[place];
        desk.events.push_back(Event::Granted {
            lock: LockId {
                index: place,
                generation: lock.generation,
            },
            client: lock.client,
            mode: lock.granted,
            grant: resource.grant,
            value: self.known_value(r),
            demoted: lock.demoted,
        });
        self.locks[place].demoted = false;
    }

    /// The value block, if what the node holds keeps others from writing it.
    fn known_value(&self, r: u32) -> ValueBlock {
        let resource = &self.resources[r];
        if resource.value == NIL || !is_strong(resource.held) {
            return ValueBlock::Invalid;
        }
        let value = &self.values[resource.value];
        ValueBlock::Valid {
            sequence: value.sequence,
            bytes: value.bytes,
        }
    }

    /// Puts a value block into the agent's copy. Without room for it the copy is invalid, which is as safe.
    fn store_value(&mut self, r: u32, value: ValueBlock) {
        match value {
            ValueBlock::Invalid => self.drop_value(r),
            ValueBlock::Valid { sequence, bytes } => {
                let value = Value { sequence, bytes };
                let resource = &mut self.resources[r];
                if resource.value == NIL {
                    resource.value = self.values.take(|_| value).unwrap_or(NIL);
                } else {
                    self.values[resource.value] = value;
                }
            }
        }
    }

    fn drop_value(&mut self, r: u32) {
        let place = core::mem::replace(&mut self.resources[r].value, NIL);
        if place != NIL {
            self.values.give_back(place);
        }
    }

    /// Goes down to the ceiling if the clients' locks and the writes under them allow it, and tells the master, or hands
    /// the lock to the successor. If they do not, it goes down as far as they allow, so that what nobody uses is in nobody's
    /// way.
    fn give_up(&mut self, desk: &mut Desk, r: u32) -> bool {
        let in_use = self.in_use(r);
        let resource = &self.resources[r];
        let target = resource.held.meet(resource.ceiling).join(in_use);
        if target == resource.held {
            return false;
        }
        let is_done = resource.ceiling.covers(target);
        if resource.is_handing() || resource.writes > 0 {
            return false;
        }
        let name = resource.name;
        let Some(slot) = self.open_slot(&name) else {
            return false;
        };
        let value = if resource.is_dirty && !target.writes_value() {
            Some(self.known_value(r))
        } else {
            None
        };
        assert_eq!(
            self.resources[r].writes, 0,
            "a lock leaves the node while writes under it are under way (S3)"
        );
        // Who no longer guards the value block does not know it: then the master grants, with the block.
        let knows_value = is_strong(self.resources[r].held);
        match self.resources[r].handoff.filter(|_| is_done && knows_value) {
            Some(handoff) => self.hand_over(desk, r, slot.term, target, handoff),
            None => {
                let body = Body::Demote {
                    grant: self.resources[r].grant,
                    mode: target,
                    value,
                };
                desk.send(slot.master, slot.term, name, body);
                let resource = &mut self.resources[r];
                if value.is_some() {
                    resource.keeps_value = resource.pending.is_some();
                }
                if is_done {
                    resource.handoff = None;
                }
            }
        }
        let resource = &mut self.resources[r];
        resource.held = target;
        // As long as the copy is the last one it stays newer than what the master has for sure: what it is told here may
        // come to it after the word of a successor that is named later.
        if !is_strong(target) {
            resource.is_dirty = false;
        }
        if is_done {
            resource.ceiling = Mode::Ex;
        }
        let resource = &self.resources[r];
        if !is_strong(target) && !resource.keeps_value && !resource.is_handing() {
            self.drop_value(r);
        }
        true
    }

    fn hand_over(&mut self, desk: &mut Desk, r: u32, term: Epoch, target: Mode, handoff: Handoff) {
        let value = self.known_value(r);
        let resource = &mut self.resources[r];
        let body = Body::Hand {
            request: handoff.request,
            mode: handoff.mode,
            kept: target,
            grant: handoff.successor.grant,
            is_newer: resource.is_dirty,
            value,
        };
        desk.send(handoff.successor.node, term, resource.name, body);
        resource.handoff = Some(Handoff {
            is_done: true,
            ..handoff
        });
        desk.stat.handed_over += 1;
    }

    /// Asks the master for what the head of the queues needs beyond what the node holds, or may use of it: whoever waits
    /// elsewhere came first then, and the request takes its place behind them.
    fn ask_master(&mut self, desk: &mut Desk, r: u32) {
        let name = self.resources[r].name;
        let Some(slot) = self.open_slot(&name) else {
            return;
        };
        let head = self.head(r);
        let needs = head.filter(|place| {
            let wanted = self.locks[*place].wanted;
            !self.hold_gives(desk, r, wanted) && self.others_allow(r, *place, wanted)
        });
        if self.resources[r].pending.is_some() {
            self.mind_pending(desk, slot, r, needs);
        } else if let Some(place) = needs {
            self.send_request(desk, slot, r, place);
        }
    }

    /// A request is under way: does it still serve the one whose turn it is?
    fn mind_pending(&mut self, desk: &mut Desk, slot: AgentSlot, r: u32, needs: Option<u32>) {
        let Some(mut pending) = self.resources[r].pending else {
            return;
        };
        let is_gone = !self.locks[pending.lock].waits_as(pending.wait);
        // By a conversion, or by one with HEADQUE.
        let is_overtaken = needs.is_some_and(|place| place != pending.lock);
        if pending.is_cancelling || !(is_gone || is_overtaken) {
            return;
        }
        let heir = needs.filter(|place| {
            let lock = &self.locks[*place];
            is_gone
                && lock.wanted == pending.mode
                && lock.is_conversion() == pending.flags.contains(RequestFlags::CONVERT)
                && !lock.flags.contains(Flags::NOQUEUE)
                && !pending.flags.contains(RequestFlags::TRY)
        });
        if let Some(heir) = heir {
            pending.lock = heir;
            pending.wait = self.locks[heir].wait;
        } else {
            pending.is_cancelling = true;
            let request = pending.request;
            let body = Body::Cancel { request };
            desk.send(slot.master, slot.term, self.resources[r].name, body);
        }
        self.resources[r].pending = Some(pending);
    }

    fn send_request(&mut self, desk: &mut Desk, slot: AgentSlot, r: u32, place: u32) {
        let lock = &self.locks[place];
        let is_conversion = lock.is_conversion();
        // From PR to CW, or back, the hold becomes PW: it excludes nobody more than both do, one until it is granted and the
        // other then, and what is converted is still covered if the client gives the conversion up meanwhile.
        let mode = lock.wanted.join(self.in_use(r));
        let floor = self.resources[r]
            .convert
            .iter(&self.locks)
            .fold(Mode::Nl, |mode, other| mode.join(self.locks[other].granted));
        let mut flags = request_flags(lock.flags);
        if is_conversion {
            flags = flags.union(RequestFlags::CONVERT);
        }
        let (transaction, wait) = (lock.transaction, lock.wait);
        let resource = &mut self.resources[r];
        if resource.handoff.is_some_and(|handoff| !handoff.is_done)
            && !resource.ceiling.covers(floor)
        {
            // The master sees by the floor that what was to be handed over is converted instead.
            resource.handoff = None;
        }
        let request = self.new_request();
        let wanted = Wanted {
            request,
            mode,
            floor,
            flags,
            transaction,
        };
        let resource = &mut self.resources[r];
        resource.pending = Some(Pending::new(&wanted, place, wait));
        desk.send(slot.master, slot.term, resource.name, Body::Request(wanted));
    }

    /// Ends a request of a lock that waits, without success.
    fn deny(&mut self, desk: &mut Desk, r: u32, place: u32, why: Why) {
        let was_conversion = self.locks[place].is_conversion();
        self.leave_queue(r, place);
        let lock = &mut self.locks[place];
        desk.events.push_back(Event::Denied {
            lock: LockId {
                index: place,
                generation: lock.generation,
            },
            client: lock.client,
            why,
        });
        lock.wait = lock.wait.wrapping_add(1);
        lock.demoted = false;
        if was_conversion {
            lock.state = State::Granted;
            lock.wanted = lock.granted;
            self.resources[r].granted.push_back(&mut self.locks, place);
        } else {
            self.free_lock(place);
        }
    }

    fn free_lock(&mut self, place: u32) {
        let lock = &mut self.locks[place];
        lock.state = State::Free;
        lock.generation = lock.generation.wrapping_add(1);
        lock.wait = lock.wait.wrapping_add(1);
        self.locks.give_back(place);
    }

    /// Gives the record of a resource back if nothing is in it.
    fn forget_if_idle(&mut self, r: u32) {
        let resource = &self.resources[r];
        if !resource.is_idle() {
            return;
        }
        self.drop_value(r);
        self.index.remove(&self.resources, r);
        self.resources[r].is_used = false;
        self.resources.give_back(r);
    }

    /// Tells the holders of locks that forbid `wanted`, once for each that is in their way anew.
    fn notify(&mut self, desk: &mut Desk, r: u32, wanted: Mode, except: u32) {
        let allowed = wanted.beside();
        let resource = self.resources[r];
        for queue in [resource.granted, resource.convert] {
            let mut at = queue.head();
            while let Some(place) = at {
                let lock = &mut self.locks[place];
                at = lock.next_in_queue();
                let noticed = lock.noticed.meet(allowed);
                if place == except || allowed.covers(lock.granted) || noticed == lock.noticed {
                    continue;
                }
                lock.noticed = noticed;
                desk.events.push_back(Event::Blocking {
                    lock: LockId {
                        index: place,
                        generation: lock.generation,
                    },
                    client: lock.client,
                    wanted,
                });
            }
        }
    }

    /// The next moment at which something is to be done.
    pub(super) fn poll_timeout(&self) -> Option<crate::time::Instant> {
        let timer = self.timers.peek().map(|Reverse((at_ns, _))| *at_ns);
        let probe = self
            .waiting
            .head()
            .map(|place| self.locks[place].probe_at_ns);
        let soonest = match (timer, probe) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        soonest.map(crate::time::Instant::from_nanos)
    }

    /// Ends requests whose time is over, and looks for deadlocks of those which wait long.
    pub(super) fn handle_timeout(&mut self, desk: &mut Desk) {
        let now_ns = desk.now.as_nanos();
        while let Some(Reverse((at_ns, place))) = self.timers.peek().copied() {
            if at_ns > now_ns {
                break;
            }
            self.timers.pop();
            if self.locks[place].is_waiting() && self.locks[place].deadline_ns == at_ns {
                let r = self.locks[place].resource;
                self.deny(desk, r, place, Why::TimedOut);
                self.pump(desk, r);
            }
        }
        // Whoever is looked at goes to the end of the queue, with a later time, so this ends.
        while let Some(place) = self.waiting.head() {
            if self.locks[place].probe_at_ns > now_ns {
                break;
            }
            self.waiting.remove(&mut self.locks, place);
            self.locks[place].probe_at_ns = now_ns.saturating_add(nanos(self.probe_after).max(1));
            self.waiting.push_back(&mut self.locks, place);
            self.seek(desk, place);
        }
    }

    /// All is void: this node is not a member any more.
    pub(super) fn expel(&mut self, config: &Config) {
        let slots = core::mem::take(&mut self.slots);
        let next_request = self.next_request;
        *self = Self::new(config);
        self.slots = slots;
        self.next_request = next_request;
        for slot in &mut self.slots {
            slot.state = SlotState::Closed;
        }
    }

    pub(super) fn count(&self, counts: &mut super::stat::Counts) {
        counts.locks = self.locks.used();
        counts.waiting = self.waiting_count;
        counts.resources = self.resources.used();
        counts.values += self.values.used();
        counts.closed_slots = self
            .slots
            .iter()
            .filter(|slot| slot.state != SlotState::Open)
            .count();
    }
}

/// Whether a hold keeps everybody else from writing the value block: CW and all above.
const fn is_strong(mode: Mode) -> bool {
    !matches!(mode, Mode::Nl | Mode::Cr)
}

const fn request_flags(flags: Flags) -> RequestFlags {
    let mut request = RequestFlags::NONE;
    let pairs = [
        (Flags::NOQUEUE, RequestFlags::TRY),
        (Flags::HEADQUE, RequestFlags::HEADQUE),
        (Flags::QUECVT, RequestFlags::QUECVT),
        (Flags::ALTPR, RequestFlags::ALTPR),
        (Flags::ALTCW, RequestFlags::ALTCW),
        (Flags::NOQUEUEBAST, RequestFlags::NOQUEUEBAST),
    ];
    let mut at = 0;
    while at < pairs.len() {
        if flags.contains(pairs[at].0) {
            request = request.union(pairs[at].1);
        }
        at += 1;
    }
    request
}
