//! Recovery from the master's side: the dead are buried, slots are taken over, rebuilt from what nodes report, and ceded.

use sandrail_wire::lock::{
    Body, Epoch, GrantNumber, Message, Mode, NodeId, ResourceName, SlotSet, ValueBlock, Wanted,
};

use super::Master;
use super::record::{Entry, Handoff, Kind, Slot, Stage};
use crate::dlm::agent::{sets_of, slots_of};
use crate::dlm::desk::Desk;
use crate::dlm::map::{SLOTS, bit, master_of, nodes, slot_of};

/// What a view changes.
#[derive(Clone, Copy, Debug)]
pub(in crate::dlm) struct Turnover {
    pub(in crate::dlm) epoch: Epoch,
    /// Its members.
    pub(in crate::dlm) alive: u64,
    /// Members of the last view, or former lives of members, that are dead.
    pub(in crate::dlm) gone: u64,
    /// Members that were not in the last view in this life.
    pub(in crate::dlm) joined: u64,
    /// The dead whose log was not replayed.
    pub(in crate::dlm) unreplayed: u64,
    /// Whether views between the last one and this were not seen: somebody else may have been the master meanwhile.
    pub(in crate::dlm) is_late: bool,
}

impl Master {
    /// A new view.
    pub(in crate::dlm) fn set_view(&mut self, desk: &mut Desk, change: &Turnover) {
        self.unfenced |= change.gone | change.unreplayed;
        self.unreplayed = change.unreplayed;
        for number in 0..SLOTS {
            let is_mine = master_of(number, change.alive) == Some(desk.node);
            match (self.slots[number].stage, is_mine) {
                (Stage::Open, true) if !change.is_late => {}
                (Stage::Open | Stage::Former, true) => {
                    self.bury_slot(desk, number, change.gone);
                    self.inherit_own(number);
                    self.begin_collecting(number, change);
                }
                (Stage::Foreign | Stage::Collecting, true) => {
                    self.clear_slot(number);
                    self.begin_collecting(number, change);
                }
                (Stage::Open, false) => self.slots[number].stage = Stage::Former,
                (Stage::Collecting, false) => self.clear_slot(number),
                (Stage::Foreign | Stage::Former, false) => {}
            }
        }
        if change.gone != 0 {
            for number in 0..SLOTS {
                self.bury_slot(desk, number, change.gone);
            }
        }
        self.send_collects(desk, change);
    }

    fn begin_collecting(&mut self, number: usize, change: &Turnover) {
        let slot = &mut self.slots[number];
        slot.stage = Stage::Collecting;
        slot.term = change.epoch;
        slot.counter = 0;
        slot.awaited = change.alive;
        slot.is_overflown = false;
        if !slot.is_inherited {
            slot.doubt = self.unfenced | self.unreplayed;
        }
    }

    /// Asks every member about the slots taken over, and tells those who joined about the others.
    fn send_collects(&self, desk: &mut Desk, change: &Turnover) {
        let slots = &self.slots;
        let taken = |number: usize| slots[number].stage == Stage::Collecting;
        for set in sets_of(taken) {
            for node in nodes(change.alive) {
                desk.send(
                    node,
                    change.epoch,
                    ResourceName::default(),
                    Body::Collect(set),
                );
            }
        }
        if change.joined & !bit(desk.node) == 0 {
            return;
        }
        let mut terms: Vec<Epoch> = slots
            .iter()
            .filter(|slot| slot.stage == Stage::Open)
            .map(|slot| slot.term)
            .collect();
        terms.sort_unstable();
        terms.dedup();
        for term in terms {
            let is_in =
                |number: usize| slots[number].stage == Stage::Open && slots[number].term == term;
            for set in sets_of(is_in) {
                for node in nodes(change.joined & !bit(desk.node)) {
                    desk.send(node, term, ResourceName::default(), Body::Collect(set));
                }
            }
        }
    }

    fn resources_of(&self, number: usize) -> Vec<u32> {
        self.slots[number].resources.iter(&self.resources).collect()
    }

    /// Forgets all about a slot.
    fn clear_slot(&mut self, number: usize) {
        for r in self.resources_of(number) {
            self.drop_entries(r, |_| true);
            self.remove(r);
        }
        self.slots[number] = Slot {
            term: self.slots[number].term,
            ..Slot::NEW
        };
    }

    fn drop_entries(&mut self, r: u32, is_out: impl Fn(&Entry) -> bool) {
        let resource = &self.resources[r];
        let queues = [resource.holders, resource.convert, resource.wait];
        let places: Vec<u32> = queues
            .iter()
            .flat_map(|queue| queue.iter(&self.entries))
            .filter(|place| is_out(&self.entries[*place]))
            .collect();
        for place in places {
            self.drop_entry(r, place);
        }
    }

    /// This node was the master before, and nobody else has been since: what no report tells it knows itself.
    fn inherit_own(&mut self, number: usize) {
        let mut is_known = true;
        for r in self.resources_of(number) {
            is_known &= !self.is_unsettled(r);
            if !self.knows_value(r) {
                self.drop_value(r);
            }
            self.drop_entries(r, |_| true);
            self.resources[r].handoff = Handoff::None;
            self.resources[r].dead_ends = 0;
        }
        self.slots[number].is_inherited = is_known;
        if !is_known {
            for r in self.resources_of(number) {
                self.drop_value(r);
            }
        }
    }

    /// Whether a handoff with a dead end is under way: who holds the lock is not known here.
    fn is_unsettled(&self, r: u32) -> bool {
        let resource = &self.resources[r];
        resource.handoff != Handoff::None && resource.dead_ends != 0
    }

    /// Whether nobody can have written the value block since it came here.
    fn knows_value(&self, r: u32) -> bool {
        let resource = &self.resources[r];
        let mut holders = resource.holders.iter(&self.entries);
        resource.handoff == Handoff::None
            && holders.all(|place| !self.entries[place].mode.writes_value())
    }

    /// A slot's part in a death.
    fn bury_slot(&mut self, desk: &mut Desk, number: usize, gone: u64) {
        let is_open = self.slots[number].stage == Stage::Open;
        if gone == 0 || !matches!(self.slots[number].stage, Stage::Open | Stage::Former) {
            return;
        }
        for r in self.resources_of(number) {
            self.mark_dead(r, gone);
            let resource = self.resources[r];
            if resource.handoff != Handoff::None && resource.dead_ends & 3 == 3 {
                // Nobody is left who knows whether it has happened: both may have held what it was about.
                self.retain(r, resource.handoff_to, self.successor_mode(r));
                self.end_handoff(desk, r);
            } else if resource.handoff != Handoff::None && resource.dead_ends != 0 {
                self.resources[r].handoff = Handoff::Asked;
                let alive = if resource.dead_ends == 1 {
                    resource.handoff_to
                } else {
                    resource.handoff_from
                };
                let grant = GrantNumber(resource.handoff_number);
                if is_open {
                    self.send(desk, alive, r, Body::Ask { grant });
                }
            } else {
                self.bury(r);
            }
            if is_open {
                self.pump(desk, r);
                self.forget_if_idle(r);
            }
        }
    }

    fn mark_dead(&mut self, r: u32, gone: u64) {
        let resource = &mut self.resources[r];
        if resource.handoff != Handoff::None {
            resource.dead_ends |= u8::from(gone & bit(resource.handoff_from) != 0);
            resource.dead_ends |= u8::from(gone & bit(resource.handoff_to) != 0) << 1;
        }
        let queues = [resource.holders, resource.convert, resource.wait];
        for queue in queues {
            let mut at = queue.head();
            while let Some(place) = at {
                let entry = &mut self.entries[place];
                at = entry.next_in_queue();
                if gone & bit(entry.node) != 0 {
                    entry.is_dead = true;
                }
            }
        }
    }

    /// What the dead held is kept for those who replay their logs; what they wanted is dropped.
    pub(super) fn bury(&mut self, r: u32) {
        let holders = self.resources[r].holders;
        let mut at = holders.head();
        while let Some(place) = at {
            let entry = self.entries[place];
            at = entry.next_in_queue();
            if entry.is_dead {
                self.retain(r, entry.node, entry.mode);
            }
        }
        self.drop_entries(r, |entry| entry.is_dead);
        self.settle_dead(r);
    }

    /// A dead node held this.
    pub(super) fn retain(&mut self, r: u32, node: NodeId, mode: Mode) {
        let resource = &mut self.resources[r];
        resource.dead |= bit(node);
        resource.retained = resource.retained.join(mode);
        if mode.writes_value() {
            self.drop_value(r);
        }
    }

    /// Of the dead, those stay who may still read, and those who may have written what is not on the disk yet.
    fn settle_dead(&mut self, r: u32) {
        let resource = &mut self.resources[r];
        let unreplayed = if resource.retained.is_writing() {
            self.unreplayed
        } else {
            0
        };
        resource.dead &= self.unfenced | unreplayed;
        if resource.dead == 0 {
            resource.retained = Mode::Nl;
        }
    }

    /// Those who left are fenced, and their leases are over.
    pub(in crate::dlm) fn fenced(&mut self, desk: &mut Desk) {
        self.unfenced = 0;
        self.settle_all(desk);
    }

    /// A dead node's log was replayed.
    pub(in crate::dlm) fn replayed(&mut self, desk: &mut Desk, node: NodeId) {
        self.unreplayed &= !bit(node);
        self.settle_all(desk);
    }

    fn settle_all(&mut self, desk: &mut Desk) {
        for number in 0..SLOTS {
            let slot = &mut self.slots[number];
            let was_in_doubt = slot.doubt != 0;
            slot.doubt &= self.unfenced | self.unreplayed;
            let is_open = slot.stage == Stage::Open;
            for r in self.resources_of(number) {
                if self.resources[r].dead == 0 && !was_in_doubt {
                    continue;
                }
                self.settle_dead(r);
                if is_open {
                    self.pump(desk, r);
                    self.forget_if_idle(r);
                }
            }
        }
    }

    /// Another master asks about slots of which this node was the master: it is told what no holder knows.
    pub(in crate::dlm) fn cede(
        &mut self,
        desk: &mut Desk,
        to: NodeId,
        term: Epoch,
        slots: &SlotSet,
    ) {
        let mut ceded = SlotSet {
            first: slots.first,
            words: [0; 8],
        };
        let mut doubts = Vec::new();
        for number in slots_of(slots) {
            if self.slots[number].stage != Stage::Former || self.slots[number].term >= term {
                continue;
            }
            let resources = self.resources_of(number);
            let is_known = !resources.iter().any(|r| self.is_unsettled(*r));
            for r in resources {
                let resource = self.resources[r];
                let value = match self.value_of(r) {
                    valid @ ValueBlock::Valid { .. } if is_known && self.knows_value(r) => {
                        Some(valid)
                    }
                    _ => None,
                };
                if resource.dead != 0 || value.is_some() {
                    let body = Body::Legacy {
                        retained: resource.retained,
                        dead: resource.dead,
                        value,
                    };
                    desk.send(to, term, resource.name, body);
                }
            }
            if is_known {
                let at = number % 512;
                ceded.words[at / 64] |= 1 << (at % 64);
                doubts.push((number, self.slots[number].doubt));
            }
            self.clear_slot(number);
        }
        if ceded.words == [0; 8] {
            return;
        }
        desk.send(
            to,
            term,
            ResourceName::default(),
            Body::Ceded { slots: ceded },
        );
        for (number, dead) in doubts.into_iter().filter(|(_, dead)| *dead != 0) {
            if let Ok(slot) = u16::try_from(number) {
                let body = Body::Doubt { slot, dead };
                desk.send(to, term, ResourceName::default(), body);
            }
        }
    }

    /// What is told about slots rather than resources.
    pub(in crate::dlm) fn handle_slots(
        &mut self,
        desk: &mut Desk,
        from: NodeId,
        message: &Message,
    ) {
        match message.body {
            Body::Ceded { slots } => {
                for number in slots_of(&slots) {
                    if self.is_collecting(number, message.term) {
                        self.slots[number].is_inherited = true;
                        self.slots[number].doubt = 0;
                    }
                }
            }
            Body::Doubt { slot, dead } => {
                let number = usize::from(slot);
                if number < SLOTS && self.is_collecting(number, message.term) {
                    self.slots[number].doubt |= dead;
                }
            }
            Body::Reported { slots } => {
                for number in slots_of(&slots) {
                    if !self.is_collecting(number, message.term) {
                        continue;
                    }
                    self.slots[number].awaited &= !bit(from);
                    if self.slots[number].awaited == 0 {
                        self.open(desk, number);
                    }
                }
            }
            _ => desk.stat.stray += 1,
        }
    }

    fn is_collecting(&self, number: usize, term: Epoch) -> bool {
        self.slots[number].stage == Stage::Collecting && self.slots[number].term == term
    }

    /// What a node has of a resource, or what its former master knew.
    pub(super) fn on_report(&mut self, desk: &mut Desk, from: NodeId, message: &Message) {
        let number = slot_of(&message.resource);
        if self.slots[number].stage != Stage::Collecting {
            desk.stat.stray += 1;
            return;
        }
        let is_stored = self
            .resource(&message.resource)
            .is_some_and(|r| self.store_report(r, from, &message.body));
        if !is_stored {
            self.slots[number].is_overflown = true;
        }
    }

    fn store_report(&mut self, r: u32, from: NodeId, body: &Body) -> bool {
        match *body {
            Body::Report {
                mode,
                grant,
                wanted,
                value,
            } => {
                if let Some(value) = value {
                    self.set_value(r, value);
                    self.resources[r].handoff = Handoff::None;
                }
                self.store_hold(r, from, mode, grant) && self.store_wanted(r, from, wanted)
            }
            Body::Passed {
                successor,
                request,
                value,
                ..
            } => {
                if self.resources[r].value == crate::dlm::table::NIL {
                    self.set_value(r, value);
                    let resource = &mut self.resources[r];
                    resource.handoff = Handoff::Told;
                    resource.handoff_to = successor;
                    resource.handoff_number = u64::from(request.0);
                }
                true
            }
            Body::Legacy {
                retained,
                dead,
                value,
            } => {
                let resource = &mut self.resources[r];
                resource.dead |= dead;
                resource.retained = resource.retained.join(retained);
                if let Some(value) = value {
                    resource.handoff = Handoff::None;
                    self.set_value(r, value);
                }
                true
            }
            _ => true,
        }
    }

    fn store_hold(&mut self, r: u32, node: NodeId, mode: Mode, grant: GrantNumber) -> bool {
        if let Some(place) = self.hold_of(r, node) {
            self.drop_entry(r, place);
        }
        if mode == Mode::Nl {
            return true;
        }
        let Some(place) = self.entries.take(|_| Entry::holder(node, mode, grant)) else {
            return false;
        };
        let holders = &mut self.resources[r].holders;
        holders.push_back(&mut self.entries, place);
        true
    }

    fn store_wanted(&mut self, r: u32, node: NodeId, wanted: Option<Wanted>) -> bool {
        if let Some(place) = self.request_of(r, node) {
            self.drop_entry(r, place);
        }
        let Some(wanted) = wanted else {
            return true;
        };
        let Some(place) = self.entries.take(|_| Entry::request(node, &wanted)) else {
            return false;
        };
        self.line_up(r, place);
        true
    }

    /// All have told what they hold.
    fn open(&mut self, desk: &mut Desk, number: usize) {
        if self.slots[number].is_overflown {
            desk.stat.unbuilt_slots += 1;
            return;
        }
        desk.stat.rebuilt_slots += 1;
        self.slots[number].doubt &= self.unfenced | self.unreplayed;
        let doubt = self.slots[number].doubt;
        let resources = self.resources_of(number);
        for r in &resources {
            self.settle_told(*r);
            self.settle_doubt(desk, *r, doubt);
            self.settle_dead(*r);
        }
        self.slots[number].stage = Stage::Open;
        self.slots[number].is_inherited = false;
        for r in resources {
            self.admit_all(desk, r);
            self.pump(desk, r);
            self.forget_if_idle(r);
        }
    }

    /// The value block that went with a handoff is the last one only if the successor still waits for that handoff.
    fn settle_told(&mut self, r: u32) {
        let resource = self.resources[r];
        if resource.handoff != Handoff::Told {
            return;
        }
        self.resources[r].handoff = Handoff::None;
        let still_waits = self
            .request_of(r, resource.handoff_to)
            .is_some_and(|place| {
                u64::from(self.entries[place].request.0) == resource.handoff_number
            });
        if !still_waits {
            self.drop_value(r);
        }
    }

    /// The dead may hold whatever the living do not exclude.
    fn settle_doubt(&mut self, desk: &mut Desk, r: u32, doubt: u64) {
        let resource = &self.resources[r];
        let holders: Vec<Entry> = resource
            .holders
            .iter(&self.entries)
            .map(|place| self.entries[place])
            .collect();
        let is_broken = holders.iter().any(|one| {
            holders
                .iter()
                .any(|other| one.node != other.node && !one.mode.is_compatible(other.mode))
        });
        desk.stat.conflicts += u64::from(is_broken);
        let suspect = holders
            .iter()
            .fold(Mode::Ex, |mode, holder| mode.meet(holder.mode.beside()));
        if doubt == 0 || suspect == Mode::Nl {
            return;
        }
        let resource = &mut self.resources[r];
        resource.dead |= doubt;
        resource.retained = resource.retained.join(suspect);
        debug_assert!(holders.iter().all(|holder| holder.kind == Kind::Holder));
    }
}
