//! Whole frames that wait to be sent: answers to config, mask, reserve and vendor commands, and refusals of what is no
//! command.

use sandrail_wire::aoe::{AOE_HEADER_BYTES, DIRECTIVES_MAX, MASK_DIRECTIVE_BYTES};
use sandrail_wire::ethernet::HEADER_BYTES_MAX;

use super::operation::{NONE, Next};
use super::stations::StationId;

/// The longest: a MAC mask with all its directives.
pub(super) const ANSWER_BYTES_MAX: usize =
    HEADER_BYTES_MAX + AOE_HEADER_BYTES + 4 + DIRECTIVES_MAX * MASK_DIRECTIVE_BYTES;

#[derive(Clone, Copy, Debug)]
struct Slot {
    len_bytes: usize,
    station: StationId,
    next: u32,
}

impl Next for Slot {
    fn next_mut(&mut self) -> &mut u32 {
        &mut self.next
    }
}

/// The pool of them, and for each interface those that wait.
#[derive(Debug)]
pub(super) struct Answers {
    bytes: Box<[u8]>,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    waiting: Vec<super::operation::Fifo>,
}

impl Answers {
    pub(super) fn new(count: usize, interfaces: usize) -> Self {
        let slots = u32::try_from(count).expect("a small number");
        let free = Slot {
            len_bytes: 0,
            station: StationId::NOBODY,
            next: NONE,
        };
        Self {
            bytes: vec![0; count * ANSWER_BYTES_MAX].into(),
            slots: vec![free; count].into(),
            free: (0..slots).rev().collect(),
            waiting: vec![super::operation::Fifo::EMPTY; interfaces],
        }
    }

    /// A place for an answer to `station`.
    pub(super) fn take(&mut self, station: StationId) -> Option<u32> {
        let slot = self.free.pop()?;
        self.slots[slot as usize].station = station;
        Some(slot)
    }

    /// Has `write` write the frame of a place, which returns its length, and queues it.
    pub(super) fn queue(
        &mut self,
        slot: u32,
        interface: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let from = slot as usize * ANSWER_BYTES_MAX;
        let len_bytes = write(&mut self.bytes[from..from + ANSWER_BYTES_MAX]);
        self.slots[slot as usize].len_bytes = len_bytes;
        self.waiting[interface].push(&mut self.slots, slot);
    }

    /// The next frame of an interface.
    pub(super) fn next(&mut self, interface: usize) -> Option<u32> {
        self.waiting[interface].pop(&mut self.slots)
    }

    pub(super) fn frame(&self, slot: u32) -> &[u8] {
        let from = slot as usize * ANSWER_BYTES_MAX;
        &self.bytes[from..from + self.slots[slot as usize].len_bytes]
    }

    pub(super) fn station(&self, slot: u32) -> StationId {
        self.slots[slot as usize].station
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        assert!(
            self.free.len() < self.slots.len(),
            "a place comes back once"
        );
        self.free.push(slot);
    }

    /// Places in use.
    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
