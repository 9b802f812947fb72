//! What clients ask for.

use core::cmp::Reverse;

use sandrail_wire::lock::{
    Body, Mode, RequestId, ResourceName, Transaction, VALUE_BYTES, ValueBlock,
};

use super::record::{Lock, Resource, State};
use super::{Agent, DRAWS_MAX, Draw};
use crate::dlm::api::{Ask, Change, Event, Flags, LockId, Refusal, Why};
use crate::dlm::desk::Desk;
use crate::time::{Instant, nanos};

/// Flags that are not for new locks.
const CONVERSIONS_ONLY: [Flags; 2] = [Flags::QUECVT, Flags::CONVDEADLK];
/// Flags that are not for conversions.
const NEW_ONLY: [Flags; 2] = [Flags::EXPEDITE, Flags::HEADQUE];

fn check_flags(flags: Flags, mode: Mode, forbidden: [Flags; 2]) -> Result<(), Refusal> {
    let has = |flag| flags.contains(flag);
    let is_bad = forbidden.into_iter().any(has)
        || has(Flags::ALTPR) && has(Flags::ALTCW)
        || has(Flags::EXPEDITE) && mode != Mode::Nl
        || has(Flags::NOQUEUEBAST) && !has(Flags::NOQUEUE);
    if is_bad {
        return Err(Refusal::BadFlags);
    }
    Ok(())
}

impl Agent {
    /// A new lock.
    pub(in crate::dlm) fn lock(&mut self, desk: &mut Desk, ask: &Ask) -> Result<LockId, Refusal> {
        check_flags(ask.flags, ask.mode, CONVERSIONS_ONLY)?;
        if !self.locks.has_room() {
            return Err(Refusal::Full("locks"));
        }
        self.check_timer(ask.timeout.is_some())?;
        let r = match self.index.find(&self.resources, &ask.resource) {
            Some(r) => r,
            None => {
                let r = self
                    .resources
                    .take(|_| Resource::new(ask.resource))
                    .ok_or(Refusal::Full("resources"))?;
                self.index.insert(&ask.resource, r);
                r
            }
        };
        let make = |old: Option<&Lock>| {
            let mut lock = Lock::new(r, ask.client, ask.transaction);
            (lock.generation, lock.wait) = old.map_or((0, 0), |old| (old.generation, old.wait));
            lock.wanted = ask.mode;
            lock.flags = ask.flags;
            lock
        };
        let Some(place) = self.locks.take(make) else {
            return Err(Refusal::Full("locks"));
        };
        let id = LockId {
            index: place,
            generation: self.locks[place].generation,
        };
        if ask.flags.contains(Flags::EXPEDITE) || self.is_first(desk, r, place) {
            desk.stat.granted_locally += 1;
            self.grant(desk, r, place);
            return Ok(id);
        }
        self.locks[place].state = State::Waiting;
        let resource = &mut self.resources[r];
        if ask.flags.contains(Flags::HEADQUE) {
            resource.wait.push_front(&mut self.locks, place);
        } else {
            resource.wait.push_back(&mut self.locks, place);
        }
        self.begin_wait(desk, place, ask.timeout.map(|timeout| desk.now + timeout));
        self.settle_wait(desk, r, place);
        Ok(id)
    }

    /// Whether a new lock can be granted at once: nobody waits, the others allow it, and the node holds it.
    fn is_first(&self, desk: &Desk, r: u32, place: u32) -> bool {
        let wanted = self.locks[place].wanted;
        let resource = &self.resources[r];
        resource.convert.is_empty()
            && resource.wait.is_empty()
            && self.hold_gives(desk, r, wanted)
            && self.others_allow(r, place, wanted)
    }

    /// Another mode for a lock that is held.
    pub(in crate::dlm) fn convert(
        &mut self,
        desk: &mut Desk,
        id: LockId,
        change: &Change,
    ) -> Result<(), Refusal> {
        check_flags(change.flags, change.mode, NEW_ONLY)?;
        let place = self.granted_lock(id)?;
        let lock = self.locks[place];
        let is_down = lock.granted.covers(change.mode);
        if change.value.is_some() && !(lock.granted.writes_value() && is_down) {
            return Err(Refusal::BadValue);
        }
        self.check_timer(change.timeout.is_some())?;
        let r = lock.resource;
        if let Some(bytes) = &change.value {
            self.write_value(r, bytes);
        }
        self.resources[r].granted.remove(&mut self.locks, place);
        let lock = &mut self.locks[place];
        lock.state = State::Free;
        lock.wanted = change.mode;
        lock.flags = change.flags;
        lock.demoted = false;
        let may_pass =
            !change.flags.contains(Flags::QUECVT) || self.resources[r].convert.is_empty();
        let fits = self.others_allow(r, place, change.mode);
        if is_down || (may_pass && fits && self.hold_gives(desk, r, change.mode)) {
            desk.stat.granted_locally += 1;
            self.grant(desk, r, place);
            self.pump(desk, r);
            return Ok(());
        }
        let granted = self.locks[place].granted;
        let is_deadlock = self.resources[r]
            .convert
            .iter(&self.locks)
            .map(|other| &self.locks[other])
            .find(|other| !other.wanted.is_compatible(granted))
            .map(|other| other.transaction);
        self.locks[place].state = State::Converting;
        self.resources[r].convert.push_back(&mut self.locks, place);
        self.begin_wait(
            desk,
            place,
            change.timeout.map(|timeout| desk.now + timeout),
        );
        match is_deadlock {
            // Who is not to wait is in no deadlock.
            Some(other) if !change.flags.contains(Flags::NOQUEUE) => {
                self.lose_conversion(desk, r, place, other);
                self.pump(desk, r);
            }
            _ => self.settle_wait(desk, r, place),
        }
        Ok(())
    }

    /// Two conversions wait for each other: this one gives way.
    pub(super) fn lose_conversion(
        &mut self,
        desk: &mut Desk,
        r: u32,
        place: u32,
        other: Transaction,
    ) {
        let lock = &mut self.locks[place];
        if lock.flags.contains(Flags::CONVDEADLK) && lock.granted != Mode::Nl {
            lock.granted = Mode::Nl;
            lock.demoted = true;
            desk.events.push_back(Event::Demoted {
                lock: LockId {
                    index: place,
                    generation: lock.generation,
                },
                client: lock.client,
            });
            return;
        }
        let mut named = [Transaction::NONE; sandrail_wire::lock::CYCLE_MAX];
        named[0] = lock.transaction;
        named[1] = other;
        desk.stat.victims += 1;
        let path = sandrail_wire::lock::Path { length: 2, named };
        self.deny(desk, r, place, Why::Deadlock(path));
    }

    /// A lock has joined a queue: tries its turn, tells whoever is in its way, and ends it if it must not wait.
    fn settle_wait(&mut self, desk: &mut Desk, r: u32, place: u32) {
        let Lock {
            wait,
            flags,
            wanted,
            ..
        } = self.locks[place];
        let is_try = flags.contains(Flags::NOQUEUE);
        if flags.contains(Flags::NOQUEUEBAST) {
            self.notify(desk, r, wanted, place);
        }
        let is_alone = self.head(r) == Some(place);
        let fits = self.others_allow(r, place, wanted);
        self.pump(desk, r);
        if !self.locks[place].waits_as(wait) {
            return;
        }
        let was_asked = self.resources[r]
            .pending
            .is_none_or(|pending| pending.lock == place && pending.wait == wait);
        let may_ask = is_alone && fits && was_asked && !self.resources[r].held.covers(wanted);
        if may_ask || self.try_alternative(desk, r, place) || !is_try {
            return;
        }
        self.deny(desk, r, place, Why::WouldBlock);
        self.pump(desk, r);
    }

    /// PR or CW instead of the mode wanted, if the request allows that and it can be had here and now.
    fn try_alternative(&mut self, desk: &mut Desk, r: u32, place: u32) -> bool {
        let lock = &self.locks[place];
        let pairs = [(Flags::ALTPR, Mode::Pr), (Flags::ALTCW, Mode::Cw)];
        let Some((_, mode)) = pairs
            .into_iter()
            .find(|(flag, _)| lock.flags.contains(*flag))
        else {
            return false;
        };
        if self.head(r) != Some(place)
            || !self.others_allow(r, place, mode)
            || !self.hold_gives(desk, r, mode)
        {
            return false;
        }
        self.locks[place].wanted = mode;
        self.leave_queue(r, place);
        self.grant(desk, r, place);
        self.pump(desk, r);
        true
    }

    /// Gives a lock back.
    pub(in crate::dlm) fn unlock(
        &mut self,
        desk: &mut Desk,
        id: LockId,
        value: Option<&[u8; VALUE_BYTES]>,
    ) -> Result<(), Refusal> {
        let place = self.granted_lock(id)?;
        let lock = self.locks[place];
        if value.is_some() && !lock.granted.writes_value() {
            return Err(Refusal::BadValue);
        }
        let r = lock.resource;
        if let Some(bytes) = value {
            self.write_value(r, bytes);
        }
        self.resources[r].granted.remove(&mut self.locks, place);
        self.free_lock(place);
        self.pump(desk, r);
        Ok(())
    }

    fn write_value(&mut self, r: u32, bytes: &[u8; VALUE_BYTES]) {
        let sequence = match self.known_value(r) {
            ValueBlock::Valid { sequence, .. } => sequence + 1,
            ValueBlock::Invalid => self.resources[r].grant.0,
        };
        self.store_value(
            r,
            ValueBlock::Valid {
                sequence,
                bytes: *bytes,
            },
        );
        self.resources[r].is_dirty = true;
    }

    /// Ends a request that waits.
    pub(in crate::dlm) fn cancel(&mut self, desk: &mut Desk, id: LockId) -> Result<(), Refusal> {
        let place = self.known_lock(id)?;
        if !self.locks[place].is_waiting() {
            return Err(Refusal::NotHeld);
        }
        let r = self.locks[place].resource;
        self.deny(desk, r, place, Why::Cancelled);
        self.pump(desk, r);
        Ok(())
    }

    /// A write under a lock has begun: until it is over the node's hold stays, whoever waits.
    pub(in crate::dlm) fn begin_write(&mut self, id: LockId) -> Result<(), Refusal> {
        let place = self.known_lock(id)?;
        if !self.locks[place].granted.is_writing() {
            return Err(Refusal::NotHeld);
        }
        let writes = &mut self.resources[self.locks[place].resource].writes;
        *writes = writes.checked_add(1).ok_or(Refusal::Full("writes"))?;
        Ok(())
    }

    /// A write is over: its last copy can do no harm any more.
    pub(in crate::dlm) fn end_write(
        &mut self,
        desk: &mut Desk,
        name: &ResourceName,
    ) -> Result<(), Refusal> {
        let r = self
            .index
            .find(&self.resources, name)
            .filter(|r| self.resources[*r].writes > 0)
            .ok_or(Refusal::NotHeld)?;
        self.resources[r].writes -= 1;
        self.pump(desk, r);
        Ok(())
    }

    /// Numbers without a lock.
    pub(in crate::dlm) fn draw(
        &mut self,
        desk: &mut Desk,
        resource: ResourceName,
        client: u64,
        count: u32,
    ) -> Result<(), Refusal> {
        if self.draws.len() >= DRAWS_MAX {
            return Err(Refusal::Full("numbers asked for"));
        }
        let request = self.new_request();
        self.draws.push(Draw {
            request,
            resource,
            client,
            count,
        });
        if let Some(slot) = self.open_slot(&resource) {
            let body = Body::Draw { request, count };
            desk.send(slot.master, slot.term, resource, body);
        }
        Ok(())
    }

    /// The numbers have come.
    pub(super) fn on_drawn(&mut self, desk: &mut Desk, request: RequestId, first: u64, count: u32) {
        let Some(at) = self.draws.iter().position(|draw| draw.request == request) else {
            desk.stat.stray += 1;
            return;
        };
        let draw = self.draws.swap_remove(at);
        desk.events.push_back(Event::Drawn {
            client: draw.client,
            first: sandrail_wire::lock::GrantNumber(first),
            count,
        });
    }

    fn known_lock(&self, id: LockId) -> Result<u32, Refusal> {
        let lock = self.locks.get(id.index).ok_or(Refusal::UnknownLock)?;
        if lock.generation != id.generation || lock.state == State::Free {
            return Err(Refusal::UnknownLock);
        }
        Ok(id.index)
    }

    fn granted_lock(&self, id: LockId) -> Result<u32, Refusal> {
        let place = self.known_lock(id)?;
        match self.locks[place].state {
            State::Granted => Ok(place),
            State::Converting => Err(Refusal::Busy),
            State::Waiting | State::Free => Err(Refusal::NotHeld),
        }
    }

    fn check_timer(&mut self, is_wanted: bool) -> Result<(), Refusal> {
        if !is_wanted || self.timers.len() < self.timers_max {
            return Ok(());
        }
        let locks = &self.locks;
        self.timers.retain(|Reverse((at_ns, place))| {
            locks[*place].is_waiting() && locks[*place].deadline_ns == *at_ns
        });
        if self.timers.len() < self.timers_max {
            Ok(())
        } else {
            Err(Refusal::Full("time limits"))
        }
    }

    fn begin_wait(&mut self, desk: &Desk, place: u32, deadline: Option<Instant>) {
        let lock = &mut self.locks[place];
        lock.wait = lock.wait.wrapping_add(1);
        lock.seen = (Transaction::NONE, 0);
        lock.own_round = 0;
        lock.deadline_ns = deadline.map_or(u64::MAX, Instant::as_nanos);
        lock.probe_at_ns = desk
            .now
            .as_nanos()
            .saturating_add(nanos(self.probe_after).max(1));
        if let Some(deadline) = deadline {
            self.timers.push(Reverse((deadline.as_nanos(), place)));
        }
        self.waiting.push_back(&mut self.locks, place);
        self.waiting_count += 1;
    }
}
