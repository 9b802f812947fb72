//! Deadlocks across resources: probes that follow who waits for whom, along transactions.
//!
//! A request that has waited long sends a probe to whoever is in its way, and whoever waits in turn sends it on. It goes
//! through transactions with lesser numbers than the one where it began only, so of a cycle the greatest alone finds it,
//! and is the victim. A probe that has come back is sent around that cycle a second time. If the waits that it follows have
//! the same signature, all of them lasted from before the first was home until after the second passed: at one time all
//! were waiting.

use sandrail_wire::lock::{Body, CYCLE_MAX, Message, Path, Probe, RequestFlags, Transaction};

use super::record::State;
use super::{Agent, SlotState};
use crate::dlm::api::{Flags, Why};
use crate::dlm::desk::Desk;
use crate::dlm::map::slot_of;
use crate::dlm::table::mix;

/// The longest path that is followed.
const LENGTH_MAX: u8 = 250;

/// What is to be followed from here.
type Work = Vec<(u32, Probe)>;

impl Agent {
    /// Sends a probe for a lock that has waited long.
    pub(super) fn seek(&mut self, desk: &mut Desk, place: u32) {
        let lock = &mut self.locks[place];
        if lock.transaction == Transaction::NONE {
            return;
        }
        self.next_round = self.next_round.wrapping_add(2);
        lock.own_round = self.next_round;
        let probe = first(lock.transaction, self.next_round);
        self.follow_all(desk, vec![(place, probe)]);
    }

    /// A probe from a master: who waits is kept waiting by this node.
    pub(in crate::dlm) fn on_probe(
        &mut self,
        desk: &mut Desk,
        message: &Message,
        is_queued: bool,
        probe: &Probe,
    ) {
        let slot = self.slots[slot_of(&message.resource)];
        let Some(r) = self
            .index
            .find(&self.resources, &message.resource)
            .filter(|_| slot.state == SlotState::Open && slot.term == message.term)
        else {
            return;
        };
        let mut work = Work::new();
        if is_queued {
            let waits = self.resources[r]
                .pending
                .filter(|pending| self.locks[pending.lock].waits_as(pending.wait))
                .map(|pending| self.locks[pending.lock].transaction);
            if let Some(transaction) = waits {
                self.visit(desk, transaction, probe, &mut work);
            }
        } else {
            for holder in self.in_the_way(r, probe, crate::dlm::table::NIL) {
                self.visit(desk, holder, probe, &mut work);
            }
        }
        self.follow_all(desk, work);
    }

    /// The transactions whose locks on a resource exclude the mode that the probe is about.
    fn in_the_way(&self, r: u32, probe: &Probe, except: u32) -> Vec<Transaction> {
        self.held_locks(r)
            .filter(|place| *place != except)
            .map(|place| &self.locks[place])
            .filter(|lock| !lock.granted.is_compatible(probe.mode))
            .map(|lock| lock.transaction)
            .collect()
    }

    fn follow_all(&mut self, desk: &mut Desk, mut work: Work) {
        while let Some((place, probe)) = work.pop() {
            self.follow(desk, place, probe, &mut work);
        }
    }

    /// From a lock that waits to all that it waits for.
    fn follow(&mut self, desk: &mut Desk, place: u32, mut probe: Probe, work: &mut Work) {
        if !self.locks[place].is_waiting() {
            return;
        }
        desk.stat.probes += 1;
        let lock = self.locks[place];
        let r = lock.resource;
        probe.mode = lock.wanted;
        probe.signature = mix(probe.signature
            ^ lock.transaction.0
            ^ u64::from(lock.wait) << 32
            ^ u64::from(place));
        let mut before = self.in_the_way(r, &probe, place);
        // Conversions go first, and each queue in its order.
        let resource = &self.resources[r];
        let converts = resource.convert.iter(&self.locks);
        let waits = resource.wait.iter(&self.locks);
        let is_new = lock.state == State::Waiting;
        before.extend(
            converts
                .chain(waits.filter(|_| is_new))
                .take_while(|other| *other != place)
                .map(|other| self.locks[other].transaction),
        );
        for transaction in before {
            self.visit(desk, transaction, &probe, work);
        }
        let resource = &self.resources[r];
        let slot = self.slots[slot_of(&resource.name)];
        if let Some(pending) = resource.pending
            && pending.lock == place
            && !pending.is_cancelling
            && !pending.flags.contains(RequestFlags::TRY)
            && slot.state == SlotState::Open
        {
            probe.mode = pending.mode;
            let body = Body::ProbeMaster {
                waiter: desk.node,
                request: pending.request,
                probe,
            };
            desk.send(slot.master, slot.term, resource.name, body);
        }
    }

    /// To a transaction that is in the way: if it waits itself, its waits are followed.
    fn visit(&mut self, desk: &mut Desk, transaction: Transaction, probe: &Probe, work: &mut Work) {
        let Some(next) = step(probe, transaction) else {
            return;
        };
        if transaction == probe.origin {
            self.close(desk, probe, work);
            return;
        }
        let Some(next) = next else {
            desk.stat.probes_ended += 1;
            return;
        };
        let mark = (probe.origin, probe.round);
        let mut at = self.waiting.head();
        while let Some(place) = at {
            let lock = &mut self.locks[place];
            at = lock.next_waiting();
            if lock.transaction != transaction {
                continue;
            }
            // The mark saves following a wait twice. Another's probe may replace it, which costs no more than that.
            if probe.confirms.is_some() || lock.seen != mark {
                lock.seen = mark;
                work.push((place, next));
            }
        }
    }

    /// The probe has come back to where it began.
    fn close(&mut self, desk: &mut Desk, probe: &Probe, work: &mut Work) {
        let origin = self.waiting.iter(&self.locks).find(|place| {
            let lock = &self.locks[*place];
            lock.transaction == probe.origin && lock.own_round == probe.round
        });
        let Some(place) = origin else {
            return;
        };
        let lock = &mut self.locks[place];
        let Some((_, expected)) = probe.confirms else {
            let round = probe.round.wrapping_add(1);
            lock.own_round = round;
            let mut second = first(probe.origin, round);
            second.path = probe.path;
            second.confirms = Some((0, probe.signature));
            work.push((place, second));
            return;
        };
        if expected != probe.signature {
            return;
        }
        let r = lock.resource;
        if lock.is_conversion() && lock.flags.contains(Flags::CONVDEADLK) {
            self.lose_conversion(desk, r, place, Transaction::NONE);
        } else {
            desk.stat.victims += 1;
            self.deny(desk, r, place, Why::Deadlock(probe.path));
        }
        self.pump(desk, r);
    }
}

/// A probe at its beginning.
const fn first(origin: Transaction, round: u32) -> Probe {
    let mut named = [Transaction::NONE; CYCLE_MAX];
    named[0] = origin;
    Probe {
        origin,
        round,
        mode: sandrail_wire::lock::Mode::Nl,
        signature: 0,
        path: Path { length: 1, named },
        confirms: None,
    }
}

/// Whether the probe goes on to a transaction, and as what. A greater one than the origin looks for its cycles itself; the
/// second time around the path is the one that the first found. The inner none: it has been there, or the path is too long.
fn step(probe: &Probe, transaction: Transaction) -> Option<Option<Probe>> {
    if transaction == Transaction::NONE || transaction > probe.origin {
        return None;
    }
    let Some((at, expected)) = probe.confirms else {
        let path = extend(&probe.path, transaction);
        return Some(path.map(|path| Probe { path, ..*probe }));
    };
    let at = at + 1;
    let is_end = at >= u16::from(probe.path.length);
    let due = probe.path.named.get(usize::from(at));
    if is_end != (transaction == probe.origin)
        || (!is_end && due.is_some_and(|due| *due != transaction))
    {
        return None;
    }
    Some(Some(Probe {
        confirms: Some((at, expected)),
        ..*probe
    }))
}

/// The path with one more on it; none if it is on it already, or the path is too long.
fn extend(path: &Path, transaction: Transaction) -> Option<Path> {
    let mut path = *path;
    let length = usize::from(path.length);
    let met = path
        .named
        .iter()
        .take(length)
        .any(|one| *one == transaction);
    if met || path.length >= LENGTH_MAX {
        return None;
    }
    if let Some(place) = path.named.get_mut(length) {
        *place = transaction;
    }
    path.length += 1;
    Some(path)
}
