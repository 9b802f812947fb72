//! The master: arbitrates nodes, for the resources of its slots.
//!
//! A resource has the classic three queues, of nodes: what each holds, and what it asks for. A request that does not fit
//! what others hold makes them be told, since they keep what they no longer use; if only one is in the way, it is told to
//! hand the lock straight to the one that waits.

mod messages;
mod record;
mod recover;

use sandrail_wire::lock::{
    Body, Denial, Epoch, GrantNumber, Mode, NodeId, RequestFlags, ResourceName, Successor,
    Transaction, ValueBlock, Wanted,
};

use super::api::Config;
use super::desk::Desk;
use super::map::{SLOTS, slot_of};
use super::table::{Index, NIL, Queue, Slab};
pub(super) use record::COUNTER_BITS;
use record::{Entry, Handoff, Kind, Resource, Slot, Stage, Value};
pub(super) use recover::Turnover;

/// The other half of a node.
#[derive(Debug)]
pub(super) struct Master {
    resources: Slab<Resource>,
    entries: Slab<Entry>,
    index: Index,
    values: Slab<Value>,
    slots: Vec<Slot>,
    overtakes_max: u16,
    /// Dead nodes that may still read: not fenced, or their lease not over.
    unfenced: u64,
    /// Dead nodes whose log was not replayed.
    unreplayed: u64,
}

impl Master {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            resources: Slab::new(config.mastered_max),
            entries: Slab::new(config.holds_max),
            index: Index::new(config.mastered_max),
            values: Slab::new(config.values_max),
            slots: vec![Slot::NEW; SLOTS],
            overtakes_max: config.overtakes_max,
            unfenced: 0,
            unreplayed: 0,
        }
    }

    /// The record of a resource of one of this node's slots, made if there is none.
    fn resource(&mut self, name: &ResourceName) -> Option<u32> {
        if let Some(r) = self.index.find(&self.resources, name) {
            return Some(r);
        }
        let r = self.resources.take(|_| Resource::new(*name))?;
        self.index.insert(name, r);
        let slot = &mut self.slots[slot_of(name)];
        slot.resources.push_back(&mut self.resources, r);
        if slot.stage == Stage::Open && slot.doubt != 0 {
            self.resources[r].dead = slot.doubt;
            self.resources[r].retained = Mode::Ex;
        }
        Some(r)
    }

    fn term(&self, name: &ResourceName) -> Epoch {
        self.slots[slot_of(name)].term
    }

    fn send(&self, desk: &mut Desk, to: NodeId, r: u32, body: Body) {
        let name = self.resources[r].name;
        desk.send(to, self.term(&name), name, body);
    }

    fn deny(&self, desk: &mut Desk, r: u32, entry: &Entry, reason: Denial, other: Transaction) {
        let body = Body::Deny {
            request: entry.request,
            reason,
            other,
        };
        self.send(desk, entry.node, r, body);
    }

    /// What a node holds.
    fn hold_of(&self, r: u32, node: NodeId) -> Option<u32> {
        self.resources[r]
            .holders
            .iter(&self.entries)
            .find(|place| self.entries[*place].node == node && !self.entries[*place].is_dead)
    }

    /// What a node waits for.
    fn request_of(&self, r: u32, node: NodeId) -> Option<u32> {
        let resource = &self.resources[r];
        let converts = resource.convert.iter(&self.entries);
        converts
            .chain(resource.wait.iter(&self.entries))
            .find(|place| self.entries[*place].node == node && !self.entries[*place].is_dead)
    }

    /// The holders beside which a node may not have a mode.
    fn conflicts(&self, r: u32, node: NodeId, mode: Mode) -> impl Iterator<Item = u32> {
        self.resources[r]
            .holders
            .iter(&self.entries)
            .filter(move |place| {
                let holder = &self.entries[*place];
                (holder.node != node || holder.is_dead) && !holder.mode.is_compatible(mode)
            })
    }

    fn is_free(&self, r: u32, node: NodeId, mode: Mode) -> bool {
        let resource = &self.resources[r];
        let the_dead_allow = resource.dead == 0 || resource.retained.is_compatible(mode);
        the_dead_allow && self.conflicts(r, node, mode).next().is_none()
    }

    /// Whether the resource's slot grants now, and no handoff is under way.
    fn can_grant(&self, r: u32) -> bool {
        let resource = &self.resources[r];
        resource.handoff == Handoff::None
            && self.slots[slot_of(&resource.name)].stage == Stage::Open
    }

    fn take_out(&mut self, r: u32, place: u32) {
        let resource = &mut self.resources[r];
        match self.entries[place].kind {
            Kind::Holder => resource.holders.remove(&mut self.entries, place),
            Kind::Convert => resource.convert.remove(&mut self.entries, place),
            Kind::Wait => resource.wait.remove(&mut self.entries, place),
        }
    }

    /// Ends a request.
    fn drop_entry(&mut self, r: u32, place: u32) {
        self.take_out(r, place);
        self.entries.give_back(place);
    }

    /// A request of a node.
    pub(super) fn on_request(
        &mut self,
        desk: &mut Desk,
        from: NodeId,
        name: &ResourceName,
        wanted: &Wanted,
    ) {
        let made = self.resource(name).and_then(|r| {
            let place = self.entries.take(|_| Entry::request(from, wanted))?;
            Some((r, place))
        });
        let Some((r, place)) = made else {
            let body = Body::Deny {
                request: wanted.request,
                reason: Denial::Full,
                other: Transaction::NONE,
            };
            desk.send(from, self.term(name), *name, body);
            if let Some(r) = self.index.find(&self.resources, name) {
                self.forget_if_idle(r);
            }
            return;
        };
        if self.slots[slot_of(name)].stage == Stage::Collecting {
            // What others hold and want is not known yet: it is treated as it would have been when all have told.
            self.line_up(r, place);
            return;
        }
        let resource = &self.resources[r];
        if resource.handoff != Handoff::None
            && resource.handoff_from == from
            && resource.dead_ends & 1 == 0
            && wanted.flags.contains(RequestFlags::CONVERT)
        {
            // It converts what it was to hand over, and so keeps it.
            let successor = self.successor_mode(r);
            if !successor.is_compatible(wanted.floor) {
                self.end_handoff(desk, r);
            }
        }
        // A conversion in place may be in the way of whoever waits.
        self.admit(desk, r, place);
        self.pump(desk, r);
        self.forget_if_idle(r);
    }

    /// Grants a request that is in no queue yet, or refuses it, or puts it where it waits.
    fn admit(&mut self, desk: &mut Desk, r: u32, place: u32) {
        if self.grant_now(desk, r, place) {
            return;
        }
        let entry = self.entries[place];
        let is_conversion = entry.kind == Kind::Convert;
        let opponent = self.resources[r]
            .convert
            .iter(&self.entries)
            .map(|other| self.entries[other])
            .find(|other| {
                let is_other = other.node != entry.node && !other.is_try();
                is_other && !other.mode.is_compatible(entry.other)
            });
        // Who is not to wait is in no deadlock.
        if is_conversion
            && !entry.is_try()
            && let Some(opponent) = opponent
        {
            self.deny(desk, r, &entry, Denial::Deadlock, opponent.transaction());
            self.entries.give_back(place);
        } else if self.recall(desk, r, place) {
            self.enqueue(r, place);
        } else if entry.is_try() && !self.may_try(r, &entry) {
            self.deny(desk, r, &entry, Denial::WouldBlock, Transaction::NONE);
            self.entries.give_back(place);
        } else {
            self.enqueue(r, place);
        }
    }

    /// Keeps a request, in the order in which they come, until the slot opens.
    fn line_up(&mut self, r: u32, place: u32) {
        let resource = &mut self.resources[r];
        match self.entries[place].kind {
            Kind::Convert => resource.convert.push_back(&mut self.entries, place),
            _ => resource.wait.push_back(&mut self.entries, place),
        }
    }

    /// The slot has opened: each request that came meanwhile is treated as if it came now. Two conversions may wait for
    /// each other, and one that must not wait may stand behind others.
    fn admit_all(&mut self, desk: &mut Desk, r: u32) {
        let resource = &self.resources[r];
        let converts = resource.convert.iter(&self.entries);
        let places: Vec<u32> = converts.chain(resource.wait.iter(&self.entries)).collect();
        for place in &places {
            self.take_out(r, *place);
        }
        for place in places {
            let entry = self.entries[place];
            if core::mem::take(&mut self.entries[place].is_marked) {
                // Given up while a handoff to it had been reported.
                self.deny(desk, r, &entry, Denial::Cancelled, Transaction::NONE);
                self.entries.give_back(place);
            } else {
                self.admit(desk, r, place);
            }
        }
    }

    /// A conversion goes before new requests, and is granted in place if it fits what all others hold. If a handoff is under
    /// way, and so nothing is granted, the holder is asked to keep the lock: who converts may be whom it waits for. Whether
    /// it fits.
    fn recall(&mut self, desk: &mut Desk, r: u32, place: u32) -> bool {
        let entry = self.entries[place];
        let resource = self.resources[r];
        let is_open = self.slots[slot_of(&resource.name)].stage == Stage::Open;
        let is_under_way = matches!(resource.handoff, Handoff::Named | Handoff::Asked);
        if entry.kind != Kind::Convert || !is_open || !is_under_way {
            return false;
        }
        if resource.handoff == Handoff::Named {
            self.ask_holder(desk, r);
        }
        let is_in_place =
            !entry.flags.contains(RequestFlags::QUECVT) && self.is_free(r, entry.node, entry.mode);
        self.entries[place].is_in_place = is_in_place;
        is_in_place
    }

    /// Asks the holder whether the handoff has happened: if not, it must not any more.
    fn ask_holder(&mut self, desk: &mut Desk, r: u32) {
        let resource = &mut self.resources[r];
        resource.handoff = Handoff::Asked;
        let (holder, grant) = (resource.handoff_from, GrantNumber(resource.handoff_number));
        self.send(desk, holder, r, Body::Ask { grant });
    }

    /// Whether only holders, who may not use what they hold, are in the way of a request that must not wait.
    fn may_try(&self, r: u32, entry: &Entry) -> bool {
        let resource = &self.resources[r];
        resource.convert.is_empty()
            && (entry.kind == Kind::Convert || resource.wait.is_empty())
            && resource.handoff == Handoff::None
            && (resource.dead == 0 || resource.retained.is_compatible(entry.mode))
    }

    fn enqueue(&mut self, r: u32, place: u32) {
        let entry = &self.entries[place];
        let resource = &mut self.resources[r];
        let goes_first = entry.flags.contains(RequestFlags::HEADQUE)
            && resource.overtakes < self.overtakes_max
            && resource.handoff == Handoff::None;
        match entry.kind {
            Kind::Convert => resource.convert.push_back(&mut self.entries, place),
            _ if goes_first => {
                if !resource.wait.is_empty() {
                    resource.overtakes += 1;
                }
                resource.wait.push_front(&mut self.entries, place);
            }
            _ => resource.wait.push_back(&mut self.entries, place),
        }
    }

    /// Grants a request that is in no queue yet, if the rules allow it at once.
    fn grant_now(&mut self, desk: &mut Desk, r: u32, place: u32) -> bool {
        let entry = self.entries[place];
        let resource = &self.resources[r];
        let is_first = match entry.kind {
            Kind::Convert => {
                !entry.flags.contains(RequestFlags::QUECVT) || resource.convert.is_empty()
            }
            _ => resource.convert.is_empty() && resource.wait.is_empty(),
        };
        if !is_first || !self.can_grant(r) {
            return false;
        }
        if self.is_free(r, entry.node, entry.mode) {
            self.grant(desk, r, place, entry.mode);
            return true;
        }
        let held = self
            .hold_of(r, entry.node)
            .map_or(Mode::Nl, |place| self.entries[place].mode);
        let alternatives = [
            (RequestFlags::ALTPR, Mode::Pr),
            (RequestFlags::ALTCW, Mode::Cw),
        ];
        for (flag, mode) in alternatives {
            let mode = mode.join(held);
            if entry.flags.contains(flag) && self.is_free(r, entry.node, mode) {
                self.grant(desk, r, place, mode);
                return true;
            }
        }
        false
    }

    /// Grants a request that is in no queue: it becomes what its node holds.
    fn grant(&mut self, desk: &mut Desk, r: u32, place: u32, mode: Mode) {
        let entry = self.entries[place];
        let name = self.resources[r].name;
        let Some(number) = self.slots[slot_of(&name)].draw(1) else {
            self.deny(desk, r, &entry, Denial::Exhausted, Transaction::NONE);
            self.entries.give_back(place);
            return;
        };
        // Who holds more than it asks for keeps it: it asks since it may not use it as long as others wait.
        let held = self
            .hold_of(r, entry.node)
            .map_or(Mode::Nl, |place| self.entries[place].mode);
        let mode = if held.covers(mode) { held } else { mode };
        let previous = self.become_holder(r, place, mode, number);
        let value = if mode == Mode::Cr || mode == Mode::Nl {
            // A holder of PW beside it may write it at any time.
            ValueBlock::Invalid
        } else {
            self.value_of(r)
        };
        desk.stat.granted_by_master += 1;
        let body = Body::Grant {
            request: entry.request,
            mode,
            previous,
            grant: number,
            value,
        };
        self.send(desk, entry.node, r, body);
    }

    /// Makes of a request, which is in no queue, the hold of its node. Returns what that held before.
    fn become_holder(&mut self, r: u32, place: u32, mode: Mode, number: GrantNumber) -> Mode {
        let node = self.entries[place].node;
        self.resources[r].overtakes = 0;
        // Whoever was not to wait and was passed has new holders to ask.
        let resource = &self.resources[r];
        for head in [resource.convert.head(), resource.wait.head()] {
            if let Some(head) = head.filter(|head| self.entries[*head].is_try()) {
                self.entries[head].is_marked = false;
            }
        }
        if let Some(hold) = self.hold_of(r, node) {
            self.entries.give_back(place);
            let hold = &mut self.entries[hold];
            let previous = core::mem::replace(&mut hold.mode, mode);
            hold.set_grant(number);
            hold.other = Mode::Ex;
            return previous;
        }
        self.entries[place] = Entry::holder(node, mode, number);
        let resource = &mut self.resources[r];
        resource.holders.push_back(&mut self.entries, place);
        Mode::Nl
    }

    /// The request whose turn it is.
    fn head(&self, r: u32) -> Option<u32> {
        let resource = &self.resources[r];
        resource.convert.head().or(resource.wait.head())
    }

    /// Grants in turn what can be granted, and tells whoever is in the way of the next.
    fn pump(&mut self, desk: &mut Desk, r: u32) {
        while self.can_grant(r) {
            let Some(place) = self.head(r) else {
                return;
            };
            let entry = self.entries[place];
            if !self.is_free(r, entry.node, entry.mode) {
                self.call_back(desk, r, place);
                return;
            }
            self.take_out(r, place);
            self.grant(desk, r, place, entry.mode);
        }
    }

    /// Tells the holders that are in the way of a request.
    fn call_back(&mut self, desk: &mut Desk, r: u32, place: u32) {
        let entry = self.entries[place];
        let resource = self.resources[r];
        let the_dead_allow = resource.dead == 0 || resource.retained.is_compatible(entry.mode);
        if entry.is_try() && (core::mem::replace(&mut self.entries[place].is_marked, true)) {
            return;
        }
        let mut conflicts = self.conflicts(r, entry.node, entry.mode);
        let (first, second) = (conflicts.next(), conflicts.next());
        drop(conflicts);
        let only = first.filter(|first| {
            // Whoever has CR or NL does not know the value block, which goes with the lock.
            let mode = self.entries[*first].mode;
            second.is_none()
                && the_dead_allow
                && !entry.is_try()
                && !matches!(mode, Mode::Nl | Mode::Cr)
        });
        if let Some(only) = only {
            self.name_successor(desk, r, only, &entry);
            return;
        }
        let allowed = entry.mode.beside();
        let mut at = resource.holders.head();
        while let Some(place) = at {
            let holder = &mut self.entries[place];
            at = holder.next_in_queue();
            if holder.node == entry.node || holder.mode.is_compatible(entry.mode) {
                continue;
            }
            if !entry.is_try() && core::mem::replace(&mut holder.other, allowed) == allowed {
                continue;
            }
            let (node, grant) = (holder.node, holder.grant());
            desk.stat.notices += 1;
            let body = Body::Block {
                grant,
                wanted: entry.mode,
                only_idle: entry.is_try(),
                request: entry.request,
                successor: None,
            };
            self.send(desk, node, r, body);
        }
    }

    /// Only one holder is in the way: it is to hand the lock straight to whoever waits. Nothing else is granted meanwhile.
    fn name_successor(&mut self, desk: &mut Desk, r: u32, holder: u32, entry: &Entry) {
        let name = self.resources[r].name;
        let Some(number) = self.slots[slot_of(&name)].draw(1) else {
            if let Some(place) = self.request_of(r, entry.node) {
                self.drop_entry(r, place);
            }
            self.deny(desk, r, entry, Denial::Exhausted, Transaction::NONE);
            return;
        };
        let holder = &mut self.entries[holder];
        holder.other = entry.mode.beside();
        let (node, grant) = (holder.node, holder.grant());
        let resource = &mut self.resources[r];
        resource.handoff = Handoff::Named;
        resource.dead_ends = 0;
        resource.handoff_from = node;
        resource.handoff_to = entry.node;
        resource.handoff_number = number.0;
        desk.stat.notices += 1;
        let body = Body::Block {
            grant,
            wanted: entry.mode,
            only_idle: false,
            request: entry.request,
            successor: Some(Successor {
                node: entry.node,
                grant: number,
            }),
        };
        self.send(desk, node, r, body);
    }

    fn value_of(&self, r: u32) -> ValueBlock {
        let place = self.resources[r].value;
        self.values
            .get(place)
            .map_or(ValueBlock::Invalid, |value| ValueBlock::Valid {
                sequence: value.sequence,
                bytes: value.bytes,
            })
    }

    /// Puts the value block that a writer gave up in its place. Without room for it it is invalid, which is as safe.
    fn set_value(&mut self, r: u32, value: ValueBlock) {
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

    /// Gives a record back that says nothing. In a slot in doubt its absence would say something, so there it stays.
    fn forget_if_idle(&mut self, r: u32) {
        let resource = &self.resources[r];
        let slot = slot_of(&resource.name);
        let is_wanted = self.slots[slot].doubt != 0 || self.slots[slot].stage == Stage::Collecting;
        if !resource.is_used || !resource.is_idle() || is_wanted {
            return;
        }
        self.remove(r);
    }

    fn remove(&mut self, r: u32) {
        self.drop_value(r);
        self.index.remove(&self.resources, r);
        let slot = slot_of(&self.resources[r].name);
        let mut queue: Queue<2> = self.slots[slot].resources;
        queue.remove(&mut self.resources, r);
        self.slots[slot].resources = queue;
        self.resources[r].is_used = false;
        self.resources.give_back(r);
    }

    pub(super) fn count(&self, counts: &mut super::stat::Counts) {
        counts.mastered = self.resources.used();
        counts.values += self.values.used();
        for r in 0..self.resources.places() {
            let resource = &self.resources[r];
            if !resource.is_used {
                continue;
            }
            counts.holds += resource.holders.iter(&self.entries).count();
            counts.queued += resource.convert.iter(&self.entries).count();
            counts.queued += resource.wait.iter(&self.entries).count();
            counts.retained += usize::from(resource.dead != 0);
            counts.handoffs += usize::from(resource.handoff != Handoff::None);
        }
        counts.frozen_slots = self
            .slots
            .iter()
            .filter(|slot| slot.stage == Stage::Collecting)
            .count();
    }
}
