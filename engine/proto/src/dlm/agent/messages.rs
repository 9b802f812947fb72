//! What masters, and former holders, say to the agent.

use sandrail_wire::lock::{
    Body, Denial, GrantNumber, Message, Mode, NodeId, RequestFlags, RequestId, Successor,
    Transaction, ValueBlock,
};

use super::record::Handoff;
use super::{Agent, SlotState, is_strong};
use crate::dlm::api::{Flags, Why};
use crate::dlm::desk::Desk;
use crate::dlm::map::slot_of;

/// What a hold becomes.
struct NewHold {
    request: RequestId,
    mode: Mode,
    grant: GrantNumber,
    value: ValueBlock,
    /// Whether the agent's own copy of the value block is newer than the one that came.
    keeps_own: bool,
}

impl Agent {
    /// A message for the agent under the slot's term, from the slot's master or, a handoff, from whoever held the lock.
    pub(in crate::dlm) fn handle(&mut self, desk: &mut Desk, from: NodeId, message: &Message) {
        let slot = self.slots[slot_of(&message.resource)];
        if slot.state == SlotState::Closed || slot.term != message.term {
            desk.stat.stale_term += 1;
            return;
        }
        if from != slot.master && !matches!(message.body, Body::Hand { .. }) {
            desk.stat.wrong_sender += 1;
            return;
        }
        match message.body {
            Body::Drawn {
                request,
                first,
                count,
            } => {
                self.on_drawn(desk, request, first.0, count);
                return;
            }
            Body::Ask { grant } => {
                self.on_ask(desk, message, grant);
                return;
            }
            _ => {}
        }
        let Some(r) = self.index.find(&self.resources, &message.resource) else {
            // A notice that crossed the last release is of no use any more; anything else should have found its request.
            if !matches!(message.body, Body::Block { .. } | Body::Settled { .. }) {
                desk.stat.stray += 1;
            }
            return;
        };
        match message.body {
            Body::Grant {
                request,
                mode,
                previous,
                grant,
                value,
            } => {
                let resource = &mut self.resources[r];
                // A copy that the master had not yet received when it granted is newer than what it sent. What is on its
                // way may come after the word of a successor, which is to tell it therefore.
                let crossed =
                    !is_strong(resource.held) && resource.keeps_value && previous.writes_value();
                let keeps_own = is_strong(resource.held) || crossed;
                resource.is_dirty |= crossed;
                let hold = NewHold {
                    request,
                    mode,
                    grant,
                    value,
                    keeps_own,
                };
                self.on_hold(desk, r, &hold);
            }
            Body::Deny {
                request,
                reason,
                other,
            } => self.on_deny(desk, r, request, reason, other),
            Body::Block {
                wanted,
                only_idle,
                request,
                successor,
                grant,
            } => {
                // What was to be handed over may have gone, and come back by another's hand with a number of its own: that
                // is not to be handed to the successor that was named for the former hold.
                let successor = successor.filter(|_| grant >= self.resources[r].grant);
                let notice = (wanted, request, successor);
                if only_idle {
                    self.on_idle_wanted(desk, r, message, wanted, request, grant);
                } else {
                    self.on_block(desk, r, notice);
                }
            }
            Body::Hand { .. } => self.on_hand(desk, r, message),
            Body::Settled { grant } => {
                self.on_settled(desk, r, grant);
            }
            _ => desk.stat.stray += 1,
        }
    }

    /// The master granted, or a holder handed over.
    fn on_hold(&mut self, desk: &mut Desk, r: u32, hold: &NewHold) {
        let Some(pending) = self.resources[r]
            .pending
            .filter(|pending| pending.request == hold.request)
        else {
            desk.stat.stray += 1;
            return;
        };
        let resource = &mut self.resources[r];
        assert!(
            hold.grant > resource.grant,
            "grant numbers of a resource rise (S19)"
        );
        resource.pending = None;
        resource.held = hold.mode;
        resource.grant = hold.grant;
        resource.ceiling = Mode::Ex;
        resource.turns = 0;
        resource.keeps_value = false;
        resource.drop_successor();
        if !hold.keeps_own {
            self.store_value(r, hold.value);
        }
        if !is_strong(hold.mode) && !self.resources[r].is_handing() {
            self.drop_value(r);
        }
        if self.locks[pending.lock].waits_as(pending.wait) {
            let lock = &mut self.locks[pending.lock];
            let alternatives = [
                (RequestFlags::ALTPR, Mode::Pr),
                (RequestFlags::ALTCW, Mode::Cw),
            ];
            let mut usable = alternatives
                .iter()
                .filter(|(flag, mode)| pending.flags.contains(*flag) && hold.mode.covers(*mode));
            if !hold.mode.covers(lock.wanted)
                && let Some((_, mode)) = usable.next()
            {
                lock.wanted = *mode;
            }
        }
        self.pump(desk, r);
        self.end_try(desk, r, pending.lock, pending.wait);
    }

    /// A request that was not to wait, and waits although its master has answered, ends.
    fn end_try(&mut self, desk: &mut Desk, r: u32, place: u32, wait: u32) {
        let lock = &self.locks[place];
        if lock.waits_as(wait) && lock.flags.contains(Flags::NOQUEUE) {
            self.deny(desk, r, place, Why::WouldBlock);
            self.pump(desk, r);
        }
    }

    fn on_deny(
        &mut self,
        desk: &mut Desk,
        r: u32,
        request: RequestId,
        reason: Denial,
        other: Transaction,
    ) {
        let Some(pending) = self.resources[r]
            .pending
            .filter(|pending| pending.request == request)
        else {
            desk.stat.stray += 1;
            return;
        };
        let resource = &mut self.resources[r];
        resource.pending = None;
        if core::mem::take(&mut resource.keeps_value) && !is_strong(resource.held) {
            self.drop_value(r);
        }
        let place = pending.lock;
        let waits = self.locks[place].waits_as(pending.wait);
        match reason {
            Denial::Deadlock if waits && self.locks[place].is_conversion() => {
                self.lose_conversion(desk, r, place, other);
            }
            Denial::Full if waits => self.deny(desk, r, place, Why::Full),
            Denial::Exhausted if waits => self.deny(desk, r, place, Why::Exhausted),
            Denial::WouldBlock if waits => self.deny(desk, r, place, Why::WouldBlock),
            // It was cancelled for another's sake, and asks again when its turn comes, if it may wait.
            _ if waits && self.locks[place].flags.contains(Flags::NOQUEUE) => {
                self.deny(desk, r, place, Why::WouldBlock);
            }
            _ => {}
        }
        self.pump(desk, r);
    }

    /// Somebody waits for what this node holds.
    fn on_block(
        &mut self,
        desk: &mut Desk,
        r: u32,
        (wanted, request, successor): (Mode, RequestId, Option<Successor>),
    ) {
        let resource = &mut self.resources[r];
        if wanted.beside().covers(resource.held) || resource.is_handing() {
            // What was given up meanwhile is on its way to the master.
            return;
        }
        if resource.ceiling == Mode::Ex {
            resource.notice_at = desk.now;
            resource.turns = 0;
        }
        // The last notice counts: who was waiting before has been served, or has given up.
        resource.ceiling = wanted.beside();
        // What a conversion keeps is not handed over: the master has seen the request, or will before anything else.
        let converts = resource.pending.is_some_and(|pending| {
            pending.flags.contains(RequestFlags::CONVERT) && !wanted.is_compatible(pending.floor)
        });
        let successor = successor.filter(|_| !converts);
        resource.handoff = successor.map(|successor| Handoff {
            successor,
            request,
            mode: wanted,
            is_done: false,
        });
        self.notify(desk, r, wanted, crate::dlm::table::NIL);
        self.pump(desk, r);
    }

    /// Somebody would take what nobody here uses, and does not wait for more.
    fn on_idle_wanted(
        &mut self,
        desk: &mut Desk,
        r: u32,
        message: &Message,
        wanted: Mode,
        request: RequestId,
        grant: GrantNumber,
    ) {
        let allowed = wanted.beside();
        let in_use = self.in_use(r);
        let resource = &mut self.resources[r];
        if allowed.covers(resource.held) {
            return;
        }
        if allowed.covers(in_use) && resource.writes == 0 && !resource.is_handing() {
            // Those of this node who wait for it come later than who asks now.
            resource.ceiling = allowed;
            resource.drop_successor();
            resource.turns = u16::MAX;
            self.pump(desk, r);
            return;
        }
        let slot = self.slots[slot_of(&message.resource)];
        let body = Body::Busy { grant, request };
        desk.send(slot.master, slot.term, message.resource, body);
    }

    fn on_hand(&mut self, desk: &mut Desk, r: u32, message: &Message) {
        let Body::Hand {
            request,
            mode,
            kept,
            grant,
            is_newer,
            value,
        } = message.body
        else {
            return;
        };
        let resource = &self.resources[r];
        let is_wanted = resource
            .pending
            .is_some_and(|pending| pending.request == request);
        if !is_wanted || grant <= resource.refused {
            desk.stat.stray += 1;
            return;
        }
        let slot = self.slots[slot_of(&message.resource)];
        let body = Body::Taken {
            grant,
            mode,
            kept,
            value: is_newer.then_some(value),
        };
        desk.send(slot.master, slot.term, message.resource, body);
        let hold = NewHold {
            request,
            mode,
            grant,
            value,
            keeps_own: is_strong(resource.held),
        };
        self.on_hold(desk, r, &hold);
    }

    /// The successor has what this node handed over.
    fn on_settled(&mut self, desk: &mut Desk, r: u32, grant: GrantNumber) {
        let resource = &mut self.resources[r];
        let is_mine = resource
            .handoff
            .is_some_and(|handoff| handoff.is_done && handoff.successor.grant == grant);
        if !is_mine {
            desk.stat.stray += 1;
            return;
        }
        resource.handoff = None;
        if !is_strong(resource.held) {
            self.drop_value(r);
        }
        self.pump(desk, r);
    }

    /// The other end of a handoff died, or the request behind it was cancelled: has it happened? If not, it must not.
    fn on_ask(&mut self, desk: &mut Desk, message: &Message, grant: GrantNumber) {
        let slot = self.slots[slot_of(&message.resource)];
        let mut body = Body::Kept { grant };
        if let Some(r) = self.index.find(&self.resources, &message.resource) {
            let value = self.copy_of_value(r);
            let resource = &mut self.resources[r];
            match resource.handoff {
                Some(handoff) if handoff.successor.grant == grant => {
                    if handoff.is_done {
                        let kept = resource.held;
                        body = Body::Handed { grant, kept, value };
                    } else {
                        resource.handoff = None;
                    }
                }
                // As the successor: it has come, and the master is being told.
                _ if resource.grant >= grant => return,
                _ => resource.refused = grant,
            }
        }
        desk.send(slot.master, slot.term, message.resource, body);
    }
}
