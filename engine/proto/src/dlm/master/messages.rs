//! What nodes say to the master.

use sandrail_wire::lock::{
    Body, Denial, GrantNumber, Message, Mode, NodeId, RequestId, Transaction, ValueBlock,
};

use super::Master;
use super::record::{Handoff, Kind, Stage};
use crate::dlm::desk::Desk;
use crate::dlm::map::slot_of;

impl Master {
    /// A message for the master of a resource's slot.
    pub(in crate::dlm) fn handle(&mut self, desk: &mut Desk, from: NodeId, message: &Message) {
        let name = &message.resource;
        let slot = &mut self.slots[slot_of(name)];
        let is_mine = matches!(slot.stage, Stage::Open | Stage::Collecting);
        if !is_mine || slot.term != message.term {
            desk.stat.stale_term += 1;
            return;
        }
        match message.body {
            Body::Request(wanted) => {
                self.on_request(desk, from, name, &wanted);
                return;
            }
            Body::Draw { request, count } => {
                if let Some(first) = slot.draw(count) {
                    let body = Body::Drawn {
                        request,
                        first,
                        count,
                    };
                    desk.send(from, message.term, *name, body);
                }
                return;
            }
            Body::Report { .. } | Body::Passed { .. } | Body::Legacy { .. } => {
                self.on_report(desk, from, message);
                return;
            }
            _ => {}
        }
        let Some(r) = self.index.find(&self.resources, name) else {
            // A cancellation that crossed the answer; all others speak of what is recorded.
            if !matches!(message.body, Body::Cancel { .. } | Body::ProbeMaster { .. }) {
                desk.stat.stray += 1;
            }
            return;
        };
        match message.body {
            Body::Cancel { request } => self.on_cancel(desk, r, from, request),
            Body::Busy { request, .. } => self.on_busy(desk, r, from, request),
            Body::Demote { grant, mode, value } => {
                // From who has handed over meanwhile it comes too late: another may have written since.
                let is_writer = self
                    .hold_of(r, from)
                    .is_some_and(|place| self.entries[place].mode.writes_value());
                if let Some(value) = value.filter(|_| is_writer) {
                    self.set_value(r, value);
                }
                self.on_demote(desk, r, from, grant, mode);
            }
            Body::Taken {
                grant,
                mode,
                kept,
                value,
            } => {
                let resource = &self.resources[r];
                let is_successor = resource.handoff != Handoff::None
                    && resource.handoff_to == from
                    && resource.handoff_number == grant.0;
                if let Some(value) = value.filter(|_| is_successor) {
                    self.set_value(r, value);
                }
                self.on_taken(desk, r, from, (grant, mode, kept));
            }
            Body::Kept { grant } => self.on_kept(desk, r, from, grant),
            Body::Handed { grant, kept, value } => {
                self.on_handed(desk, r, from, (grant, kept, value));
            }
            Body::ProbeMaster {
                waiter,
                request,
                probe,
            } => self.on_probe(desk, r, waiter, request, &probe),
            _ => desk.stat.stray += 1,
        }
        if self.resources[r].is_used {
            self.pump(desk, r);
            self.forget_if_idle(r);
        }
    }

    fn on_cancel(&mut self, desk: &mut Desk, r: u32, from: NodeId, request: RequestId) {
        let Some(place) = self
            .request_of(r, from)
            .filter(|place| self.entries[*place].request == request)
        else {
            return;
        };
        let resource = &mut self.resources[r];
        let is_successor = resource.handoff_to == from && resource.handoff != Handoff::None;
        if !is_successor {
            let entry = self.entries[place];
            self.deny(desk, r, &entry, Denial::Cancelled, Transaction::NONE);
            self.drop_entry(r, place);
            return;
        }
        self.entries[place].is_marked = true;
        if resource.handoff == Handoff::Named {
            self.ask_holder(desk, r);
        }
    }

    /// A holder uses what somebody would have had only if it was idle.
    fn on_busy(&mut self, desk: &mut Desk, r: u32, from: NodeId, request: RequestId) {
        let resource = &self.resources[r];
        let converts = resource.convert.iter(&self.entries);
        let place = converts
            .chain(resource.wait.iter(&self.entries))
            .find(|place| {
                let entry = &self.entries[*place];
                entry.request == request && entry.is_try() && entry.is_marked
            });
        let Some(place) = place else {
            return;
        };
        let entry = self.entries[place];
        if entry
            .flags
            .contains(sandrail_wire::lock::RequestFlags::NOQUEUEBAST)
            && let Some(holder) = self.hold_of(r, from)
        {
            let body = Body::Block {
                grant: self.entries[holder].grant(),
                wanted: entry.mode,
                only_idle: false,
                request,
                successor: None,
            };
            self.send(desk, from, r, body);
        }
        self.deny(desk, r, &entry, Denial::WouldBlock, Transaction::NONE);
        self.drop_entry(r, place);
    }

    fn on_demote(&mut self, desk: &mut Desk, r: u32, from: NodeId, grant: GrantNumber, mode: Mode) {
        let Some(place) = self.hold_of(r, from) else {
            desk.stat.stray += 1;
            return;
        };
        let hold = &mut self.entries[place];
        // What was granted meanwhile replaces what is given up here.
        if hold.grant() != grant || !hold.mode.covers(mode) {
            return;
        }
        hold.mode = mode;
        if hold.other.covers(mode) {
            hold.other = Mode::Ex;
        }
        if mode == Mode::Nl {
            self.drop_entry(r, place);
        }
        // It was given up before the holder knew its successor: otherwise it would have been handed over.
        let resource = &self.resources[r];
        if resource.handoff != Handoff::None
            && resource.handoff_from == from
            && mode.is_compatible(self.successor_mode(r))
        {
            self.end_handoff(desk, r);
        }
    }

    /// What the successor of a handoff wants, dead or alive.
    pub(super) fn successor_mode(&self, r: u32) -> Mode {
        let resource = &self.resources[r];
        let is_dead = resource.dead_ends & 2 != 0;
        let queues = [resource.convert, resource.wait];
        queues
            .iter()
            .flat_map(|queue| queue.iter(&self.entries))
            .map(|place| self.entries[place])
            .find(|entry| entry.node == resource.handoff_to && entry.is_dead == is_dead)
            .map_or(Mode::Nl, |entry| entry.mode)
    }

    /// No handoff is under way any more: what had to wait for that is done.
    pub(super) fn end_handoff(&mut self, desk: &mut Desk, r: u32) {
        let resource = &mut self.resources[r];
        resource.handoff = Handoff::None;
        resource.dead_ends = 0;
        let to = resource.handoff_to;
        if let Some(place) = self.request_of(r, to)
            && self.entries[place].is_marked
            && !self.entries[place].is_try()
        {
            let entry = self.entries[place];
            self.deny(desk, r, &entry, Denial::Cancelled, Transaction::NONE);
            self.drop_entry(r, place);
        }
        self.bury(r);
        self.grant_in_place(desk, r);
    }

    /// Conversions that a handoff kept from being granted in place are now, if they still fit.
    fn grant_in_place(&mut self, desk: &mut Desk, r: u32) {
        let mut at = self.resources[r].convert.head();
        while let Some(place) = at {
            let entry = self.entries[place];
            at = entry.next_in_queue();
            if !core::mem::take(&mut self.entries[place].is_in_place) {
                continue;
            }
            if self.can_grant(r) && self.is_free(r, entry.node, entry.mode) {
                self.take_out(r, place);
                self.grant(desk, r, place, entry.mode);
            } else if entry.is_try() {
                self.deny(desk, r, &entry, Denial::WouldBlock, Transaction::NONE);
                self.drop_entry(r, place);
            }
        }
    }

    fn on_taken(
        &mut self,
        desk: &mut Desk,
        r: u32,
        from: NodeId,
        (grant, mode, kept): (GrantNumber, Mode, Mode),
    ) {
        let resource = self.resources[r];
        let is_it = resource.handoff != Handoff::None
            && resource.handoff_to == from
            && resource.handoff_number == grant.0;
        if !is_it {
            desk.stat.stray += 1;
            return;
        }
        let is_from_dead = resource.dead_ends & 1 != 0;
        self.lower(r, resource.handoff_from, is_from_dead, kept);
        if let Some(place) = self.request_of(r, from) {
            self.take_out(r, place);
            self.become_holder(r, place, mode, grant);
        }
        if !is_from_dead {
            self.send(desk, resource.handoff_from, r, Body::Settled { grant });
        }
        self.end_handoff(desk, r);
    }

    /// A holder keeps only so much.
    fn lower(&mut self, r: u32, node: NodeId, is_dead: bool, kept: Mode) {
        let holders = self.resources[r].holders;
        let place = holders.iter(&self.entries).find(|place| {
            self.entries[*place].node == node && self.entries[*place].is_dead == is_dead
        });
        if let Some(place) = place {
            self.entries[place].mode = kept;
            self.entries[place].other = Mode::Ex;
            if kept == Mode::Nl {
                self.drop_entry(r, place);
            }
        }
    }

    /// The handoff has not happened, and will not.
    fn on_kept(&mut self, desk: &mut Desk, r: u32, from: NodeId, grant: GrantNumber) {
        let resource = &self.resources[r];
        let is_it = resource.handoff == Handoff::Asked
            && resource.handoff_number == grant.0
            && (resource.handoff_from == from || resource.handoff_to == from);
        if is_it {
            self.end_handoff(desk, r);
        }
    }

    /// The holder has handed over. If the successor lives it will say so itself; if not, it died with the lock.
    fn on_handed(
        &mut self,
        desk: &mut Desk,
        r: u32,
        from: NodeId,
        (grant, kept, value): (GrantNumber, Mode, ValueBlock),
    ) {
        let resource = self.resources[r];
        let is_it = resource.handoff == Handoff::Asked
            && resource.handoff_number == grant.0
            && resource.handoff_from == from;
        if !is_it || resource.dead_ends & 2 == 0 {
            return;
        }
        self.lower(r, from, false, kept);
        self.set_value(r, value);
        // As a lock of the dead; its request is buried with the handoff.
        self.retain(r, resource.handoff_to, self.successor_mode(r));
        // The value block went with it, and may have been written since the master knew it.
        self.drop_value(r);
        self.send(desk, from, r, Body::Settled { grant });
        self.end_handoff(desk, r);
    }

    fn on_probe(
        &mut self,
        desk: &mut Desk,
        r: u32,
        waiter: NodeId,
        request: RequestId,
        probe: &sandrail_wire::lock::Probe,
    ) {
        let Some(place) = self
            .request_of(r, waiter)
            .filter(|place| self.entries[*place].request == request)
        else {
            return;
        };
        let entry = self.entries[place];
        let mut in_the_way: Vec<(bool, NodeId)> = self
            .conflicts(r, waiter, entry.mode)
            .map(|holder| (false, self.entries[holder].node))
            .collect();
        let resource = &self.resources[r];
        let converts = resource.convert.iter(&self.entries);
        let waits = resource.wait.iter(&self.entries);
        let is_conversion = entry.kind == Kind::Convert;
        let earlier = converts
            .chain(waits.filter(|_| !is_conversion))
            .take_while(|other| *other != place)
            .map(|other| (true, self.entries[other].node));
        in_the_way.extend(earlier);
        for (queued, node) in in_the_way {
            let body = Body::ProbeNode {
                queued,
                waiter,
                probe: *probe,
            };
            self.send(desk, node, r, body);
        }
    }
}
