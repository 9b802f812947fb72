//! Recovery from the agent's side: a new master asks, and is told what this node holds and wants.
//!
//! A pass over the records serves all masters that had asked when it began, a record at a time, so that it neither holds
//! anybody up nor heaps up messages.

use sandrail_wire::lock::{
    Body, Epoch, Mode, NodeId, ResourceName, SET_SLOTS, SlotSet, Transaction, ValueBlock, Wanted,
};

use super::{Agent, SlotState, is_strong};
use crate::dlm::desk::Desk;
use crate::dlm::map::{SLOTS, bit, master_of, slot_of};

const SETS: usize = SLOTS / 512;
const _: () = assert!(SLOTS.is_multiple_of(512) && SET_SLOTS == 512);

/// A master's request to be told.
#[derive(Clone, Copy, Debug)]
struct Collecting {
    master: NodeId,
    term: Epoch,
    slots: SlotSet,
}

/// What a pass has to do.
#[derive(Debug)]
pub(super) struct Reporting {
    /// Served by the pass that runs.
    current: Vec<Collecting>,
    /// Came since it began.
    next: Vec<Collecting>,
    /// Where the pass is.
    cursor: u32,
    /// Slots that are served by the pass.
    in_pass: Vec<bool>,
    /// Requests of masters that are ahead of this node, by slot: the newest. An older one is void once this node has
    /// caught up, and until then the slot stays closed.
    early: Vec<Option<(NodeId, Epoch)>>,
}

impl Reporting {
    pub(super) fn new() -> Self {
        Self {
            current: Vec::new(),
            next: Vec::new(),
            cursor: 0,
            in_pass: vec![false; SLOTS],
            early: vec![None; SLOTS],
        }
    }
}

/// The slots of a set.
pub(in crate::dlm) fn slots_of(set: &SlotSet) -> impl Iterator<Item = usize> + use<> {
    let (first, words) = (usize::from(set.first), set.words);
    (0..usize::from(SET_SLOTS))
        .filter(move |at| words[at / 64] >> (at % 64) & 1 == 1)
        .map(move |at| first + at)
        .filter(|slot| *slot < SLOTS)
}

/// The sets that hold the slots for which `is_in` says so, those which are empty left out.
pub(in crate::dlm) fn sets_of(is_in: impl Fn(usize) -> bool) -> impl Iterator<Item = SlotSet> {
    (0..SETS).filter_map(move |set| {
        let base = set * 512;
        let mut words = [0u64; 8];
        for at in 0..512 {
            if is_in(base + at) {
                words[at / 64] |= 1 << (at % 64);
            }
        }
        let first = u16::try_from(base).ok()?;
        words
            .iter()
            .any(|word| *word != 0)
            .then_some(SlotSet { first, words })
    })
}

impl Agent {
    /// The map of a new view. Slots whose master is another one, or another life of the same node, are closed until it asks.
    pub(in crate::dlm) fn set_map(&mut self, desk: &mut Desk, epoch: Epoch, alive: u64, gone: u64) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let master = master_of(number, alive).unwrap_or(slot.master);
            if master != slot.master || gone & bit(master) != 0 {
                slot.state = SlotState::Closed;
            }
            slot.master = master;
        }
        let is_void = |collecting: &Collecting| {
            // A master that died, or lost the slots, is told nothing more.
            alive & bit(collecting.master) == 0 || gone & bit(collecting.master) != 0
        };
        self.reporting.current.retain(|one| !is_void(one));
        self.reporting.next.retain(|one| !is_void(one));
        self.collect_early(desk, epoch);
    }

    /// What masters asked before this node knew of the epoch.
    fn collect_early(&mut self, desk: &mut Desk, epoch: Epoch) {
        for number in 0..SLOTS {
            let Some((master, term)) = self.reporting.early[number] else {
                continue;
            };
            if term > epoch {
                continue;
            }
            let first = number - number % 512;
            let mut words = [0; 8];
            for at in 0..512 {
                if self.reporting.early[first + at] == Some((master, term)) {
                    self.reporting.early[first + at] = None;
                    words[at / 64] |= 1 << (at % 64);
                }
            }
            if let Ok(first) = u16::try_from(first) {
                self.collect(desk, epoch, master, term, &SlotSet { first, words });
            }
        }
    }

    /// A master asks what this node holds of its slots.
    pub(in crate::dlm) fn collect(
        &mut self,
        desk: &mut Desk,
        epoch: Epoch,
        from: NodeId,
        term: Epoch,
        slots: &SlotSet,
    ) {
        if term > epoch {
            for slot in slots_of(slots) {
                let early = &mut self.reporting.early[slot];
                if early.is_none_or(|(_, known)| known < term) {
                    *early = Some((from, term));
                }
            }
            return;
        }
        let mut words = [0u64; 8];
        for slot in slots_of(slots) {
            let known = &mut self.slots[slot];
            if known.master != from || term <= known.term {
                desk.stat.stale_term += 1;
                continue;
            }
            known.term = term;
            known.state = SlotState::Reporting;
            let at = slot % 512;
            words[at / 64] |= 1 << (at % 64);
        }
        if words == [0; 8] {
            return;
        }
        let slots = SlotSet {
            first: slots.first,
            words,
        };
        self.accepted.push((from, term, slots));
        self.reporting.next.push(Collecting {
            master: from,
            term,
            slots,
        });
        self.begin_pass();
    }

    fn begin_pass(&mut self) {
        let reporting = &mut self.reporting;
        if !reporting.current.is_empty() || reporting.next.is_empty() {
            return;
        }
        core::mem::swap(&mut reporting.current, &mut reporting.next);
        reporting.cursor = 0;
        reporting.in_pass.fill(false);
        for collecting in &reporting.current {
            for slot in slots_of(&collecting.slots) {
                reporting.in_pass[slot] = true;
            }
        }
    }

    /// Does a step of the pass; whether there was one to do.
    pub(in crate::dlm) fn step(&mut self, desk: &mut Desk) -> bool {
        if self.reporting.current.is_empty() {
            self.begin_pass();
            if self.reporting.current.is_empty() {
                return false;
            }
        }
        // So many records without anything to tell make one step.
        for _ in 0..1024 {
            let r = self.reporting.cursor;
            if r >= self.resources.places() {
                self.end_pass(desk);
                return true;
            }
            self.reporting.cursor += 1;
            let resource = &self.resources[r];
            if !resource.is_used {
                continue;
            }
            let number = slot_of(&resource.name);
            let slot = self.slots[number];
            if self.reporting.in_pass[number] && slot.state == SlotState::Reporting {
                self.report(desk, r, slot.master, slot.term);
                return true;
            }
        }
        true
    }

    fn report(&mut self, desk: &mut Desk, r: u32, master: NodeId, term: Epoch) {
        let value = match self.known_value(r) {
            ValueBlock::Invalid => None,
            valid @ ValueBlock::Valid { .. } => Some(valid),
        };
        let in_use = self.in_use(r);
        let resource = &mut self.resources[r];
        if let Some(pending) = &resource.pending
            && !resource.held.covers(pending.mode)
            && !pending.mode.covers(resource.held)
        {
            // PR was to be changed for CW, or the other way. The former master may have done so, and its answer be lost: then
            // others may have what the old mode excludes. The value block nobody can have written, either way.
            resource.held = resource.held.meet(pending.mode).join(in_use);
        }
        // What the former master wanted of this node is void; the new one says anew who waits.
        resource.ceiling = Mode::Ex;
        resource.turns = 0;
        resource.keeps_value = false;
        resource.is_dirty = false;
        let wanted = resource.pending.as_mut().map(|pending| {
            pending.is_cancelling = false;
            let lock = &self.locks[pending.lock];
            Wanted {
                request: pending.request,
                mode: pending.mode,
                floor: pending.floor,
                flags: pending.flags,
                transaction: if lock.waits_as(pending.wait) {
                    lock.transaction
                } else {
                    Transaction::NONE
                },
            }
        });
        let name = resource.name;
        if resource.held != Mode::Nl || wanted.is_some() {
            let body = Body::Report {
                mode: resource.held,
                grant: resource.grant,
                wanted,
                value,
            };
            desk.send(master, term, name, body);
        }
        if let Some(handoff) = resource.handoff.take().filter(|handoff| handoff.is_done) {
            let value = self.copy_of_value(r);
            let body = Body::Passed {
                successor: handoff.successor.node,
                request: handoff.request,
                grant: handoff.successor.grant,
                value,
            };
            desk.send(master, term, name, body);
        }
        if !is_strong(self.resources[r].held) {
            self.drop_value(r);
        }
        self.forget_if_idle(r);
    }

    /// The copy, whether or not the hold still guards it.
    pub(super) fn copy_of_value(&self, r: u32) -> ValueBlock {
        let place = self.resources[r].value;
        self.values
            .get(place)
            .map_or(ValueBlock::Invalid, |value| ValueBlock::Valid {
                sequence: value.sequence,
                bytes: value.bytes,
            })
    }

    /// All was told: the slots are open again, and what waited for that goes on.
    fn end_pass(&mut self, desk: &mut Desk) {
        let mut current = core::mem::take(&mut self.reporting.current);
        let mut is_opened = vec![false; SLOTS];
        for collecting in &current {
            let mut slots = collecting.slots;
            slots.words = [0; 8];
            for number in slots_of(&collecting.slots) {
                let slot = &mut self.slots[number];
                if slot.term == collecting.term && slot.state == SlotState::Reporting {
                    slot.state = SlotState::Open;
                    is_opened[number] = true;
                    let at = number % 512;
                    slots.words[at / 64] |= 1 << (at % 64);
                }
            }
            let body = Body::Reported { slots };
            desk.send(
                collecting.master,
                collecting.term,
                ResourceName::default(),
                body,
            );
        }
        current.clear();
        self.reporting.current = current;
        for r in 0..self.resources.places() {
            let resource = &self.resources[r];
            if resource.is_used && is_opened[slot_of(&resource.name)] {
                self.pump(desk, r);
            }
        }
        for draw in &self.draws {
            let number = slot_of(&draw.resource);
            if is_opened[number] {
                let slot = self.slots[number];
                let body = Body::Draw {
                    request: draw.request,
                    count: draw.count,
                };
                desk.send(slot.master, slot.term, draw.resource, body);
            }
        }
        self.begin_pass();
    }
}
