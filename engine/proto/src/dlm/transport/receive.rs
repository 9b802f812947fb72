//! One direction's receiving end: a ring of slots that puts records in order and delivers each once.

use core::ops::Range;

use sandrail_wire::lock::{SACK_WORDS_MAX, SLOT_BYTES, Sequence};

/// Numbers that are more than this ahead are behind.
pub(super) const HALF: u64 = 1 << 63;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    Duplicate,
}

/// Slots that arrived: `delivered..next` in order and not yet fetched, and what is beyond a hole.
#[derive(Debug)]
pub(super) struct ReceiveRing {
    /// One slot more than the window, so that a long record that begins in the last one lies in one piece.
    storage: Box<[u8]>,
    /// A bit for each slot from `delivered` on that is there.
    present: Box<[u64]>,
    /// A bit for each slot that begins a long record.
    long: Box<[u64]>,
    window: u64,
    /// Before this slot everything was fetched.
    delivered: Sequence,
    /// Before this slot everything has arrived.
    next: Sequence,
    /// Slots from `next` up to behind the last that arrived.
    beyond: u64,
    /// The end of the window as the peer was told it.
    told: Sequence,
}

impl ReceiveRing {
    pub(super) fn new(window_slots: u16) -> Self {
        let window = usize::from(window_slots);
        Self {
            storage: vec![0; (window + 1) * SLOT_BYTES].into_boxed_slice(),
            present: vec![0; window / 64].into_boxed_slice(),
            long: vec![0; window / 64].into_boxed_slice(),
            window: u64::from(window_slots),
            delivered: Sequence(0),
            next: Sequence(0),
            beyond: 0,
            told: Sequence(0),
        }
    }

    /// Forgets everything; the peer's first slot will be `first`.
    pub(super) fn reset(&mut self, first: Sequence) {
        self.present.fill(0);
        self.long.fill(0);
        self.delivered = first;
        self.next = first;
        self.beyond = 0;
        self.told = first;
    }

    /// Before this slot everything has arrived.
    pub(super) const fn ack(&self) -> Sequence {
        self.next
    }

    /// Slots of the window.
    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// Whether `slots` from `sequence` on lie within the window, or before it.
    pub(super) fn fits(&self, sequence: Sequence, slots: usize) -> bool {
        let ahead = sequence.since(self.delivered);
        let slots = u64::try_from(slots).unwrap_or(u64::MAX);
        ahead >= HALF || ahead.saturating_add(slots) <= self.window
    }

    /// Takes a record whose place [fits](Self::fits).
    pub(super) fn admit(&mut self, sequence: Sequence, record: &[u8]) -> Arrival {
        let slots = if record.len() > SLOT_BYTES { 2 } else { 1 };
        let ahead = sequence.since(self.next);
        // A record that overlaps another one of other bounds is none of an honest peer's; what came first stays.
        if ahead >= HALF
            || self.is_present(sequence)
            || (slots == 2 && self.is_present(sequence.plus(1)))
        {
            return Arrival::Duplicate;
        }
        let at = self.place(sequence) * SLOT_BYTES;
        self.storage[at..at + record.len()].copy_from_slice(record);
        self.set(sequence, slots == 2);
        if slots == 2 {
            self.set(sequence.plus(1), false);
        }
        self.beyond = self.beyond.max(ahead + slots);
        if ahead == 0 {
            self.advance(slots);
        }
        Arrival::New
    }

    /// The hole at `next` was filled by `slots`: on to the next one.
    fn advance(&mut self, slots: u64) {
        self.next = self.next.plus(slots);
        self.beyond -= slots;
        while self.beyond > 0 && self.is_present(self.next) {
            self.next = self.next.plus(1);
            self.beyond -= 1;
        }
    }

    /// Whether something arrived beyond a hole.
    pub(super) const fn has_hole(&self) -> bool {
        self.beyond > 0
    }

    /// Whether a record can be fetched.
    pub(super) fn is_ready(&self) -> bool {
        self.delivered != self.next
    }

    /// Where the next record in order lies. Its place is free with that, though its bytes stay until something arrives.
    pub(super) fn fetch(&mut self) -> Option<Range<usize>> {
        if !self.is_ready() {
            return None;
        }
        let place = self.place(self.delivered);
        let slots = if self.long[place / 64] >> (place % 64) & 1 == 1 {
            2
        } else {
            1
        };
        self.clear(self.delivered);
        if slots == 2 {
            self.clear(self.delivered.plus(1));
        }
        self.delivered = self.delivered.plus(slots);
        let at = place * SLOT_BYTES;
        let len = if slots == 2 {
            2 * SLOT_BYTES
        } else {
            SLOT_BYTES
        };
        Some(at..at + len)
    }

    /// The bytes of a record that was fetched just now.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.storage[range]
    }

    /// How many slots from [`ack`](Self::ack) on there is room for; the peer is about to be told.
    pub(super) fn grant(&mut self) -> u16 {
        self.told = self.delivered.plus(self.window);
        u16::try_from(self.told.since(self.next)).unwrap_or(u16::MAX)
    }

    /// Slots that the peer could use and does not know of.
    pub(super) const fn untold(&self) -> u64 {
        self.delivered.plus(self.window).since(self.told)
    }

    /// Whether the peer believes that it must wait.
    pub(super) const fn peer_must_wait(&self) -> bool {
        // A long record needs two slots.
        self.told.since(self.next) < 2
    }

    /// What arrived beyond the hole, as words for a frame, and how many.
    pub(super) fn sacks(&self) -> ([u64; SACK_WORDS_MAX], usize) {
        let mut words = [0; SACK_WORDS_MAX];
        let count = usize::try_from(self.beyond.div_ceil(64)).unwrap_or(0);
        let count = count.min(SACK_WORDS_MAX);
        let start = self.place(self.next);
        let (word, shift) = (start / 64, start % 64);
        for (index, sack) in words[..count].iter_mut().enumerate() {
            let low = self.present[(word + index) % self.present.len()];
            let high = self.present[(word + index + 1) % self.present.len()];
            *sack = if shift == 0 {
                low
            } else {
                low >> shift | high << (64 - shift)
            };
        }
        // In a small window the last word would see what is still to be fetched come round again.
        if let Some(last) = words[..count].last_mut()
            && !self.beyond.is_multiple_of(64)
        {
            *last &= (1 << (self.beyond % 64)) - 1;
        }
        (words, count)
    }

    fn place(&self, sequence: Sequence) -> usize {
        // The window is a power of two, and no larger than `usize`.
        usize::try_from(sequence.0 & (self.window - 1)).unwrap_or(0)
    }

    fn is_present(&self, sequence: Sequence) -> bool {
        let place = self.place(sequence);
        self.present[place / 64] >> (place % 64) & 1 == 1
    }

    fn set(&mut self, sequence: Sequence, long: bool) {
        let place = self.place(sequence);
        let bit = 1 << (place % 64);
        self.present[place / 64] |= bit;
        if long {
            self.long[place / 64] |= bit;
        } else {
            self.long[place / 64] &= !bit;
        }
    }

    fn clear(&mut self, sequence: Sequence) {
        let place = self.place(sequence);
        self.present[place / 64] &= !(1 << (place % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring whose first `count` records came and wait to be fetched.
    fn ring(count: u64) -> ReceiveRing {
        let mut ring = ReceiveRing::new(64);
        ring.reset(Sequence(u64::MAX - 7));
        for slot in 0..count {
            assert_eq!(ring.admit(at(slot), &[1; SLOT_BYTES]), Arrival::New);
        }
        ring
    }

    fn at(slot: u64) -> Sequence {
        Sequence(u64::MAX - 7).plus(slot)
    }

    #[test]
    fn copies_are_known_before_and_beyond_a_hole() {
        let mut ring = ring(3);
        assert_eq!(ring.admit(at(5), &[2; 2 * SLOT_BYTES]), Arrival::New);
        for (slot, slots) in [(0, 1), (2, 1), (5, 1), (5, 2), (6, 1), (4, 2), (6, 2)] {
            let record = vec![9; slots * SLOT_BYTES];
            let arrival = ring.admit(at(slot), &record);
            assert_eq!(arrival, Arrival::Duplicate, "slot {slot} of {slots}");
        }
        assert_eq!(ring.ack(), at(3));
        assert_eq!(ring.admit(at(3), &[3; SLOT_BYTES]), Arrival::New);
        assert_eq!(ring.ack(), at(4));
        assert_eq!(ring.admit(at(4), &[4; SLOT_BYTES]), Arrival::New);
        assert_eq!(ring.ack(), at(7));
        assert!(!ring.has_hole());
        let records: Vec<_> = core::iter::from_fn(|| {
            let range = ring.fetch()?;
            let bytes = ring.bytes(range);
            Some((bytes[0], bytes[bytes.len() - 1], bytes.len()))
        })
        .collect();
        let expected = [1, 1, 1, 3, 4].map(|byte| (byte, byte, SLOT_BYTES));
        assert_eq!(records[..5], expected);
        assert_eq!(records[5..], [(2, 2, 2 * SLOT_BYTES)]);
    }

    #[test]
    fn acknowledgements_tell_what_is_beyond_the_hole_and_nothing_else() {
        // Ten that nobody fetched lie in the same words of the ring.
        let mut ring = ring(10);
        for slot in [12, 13, 62] {
            assert_eq!(ring.admit(at(slot), &[1; SLOT_BYTES]), Arrival::New);
        }
        let (words, count) = ring.sacks();
        assert_eq!(&words[..count], &[1 << 2 | 1 << 3 | 1 << 52]);
        assert_eq!(ring.grant(), 54);
        assert!(ring.fits(at(63), 1) && !ring.fits(at(63), 2) && !ring.fits(at(64), 1));
    }

    #[test]
    fn a_long_record_at_the_end_of_the_ring_lies_in_one_piece() {
        let mut ring = ReceiveRing::new(64);
        ring.reset(Sequence(63));
        let mut record = [5; 2 * SLOT_BYTES];
        record[SLOT_BYTES..].fill(6);
        assert_eq!(ring.admit(Sequence(63), &record), Arrival::New);
        assert_eq!(ring.admit(Sequence(65), &[7; SLOT_BYTES]), Arrival::New);
        let range = ring.fetch().expect("it came");
        assert_eq!(ring.bytes(range), record);
        assert_eq!(ring.fetch().map(|range| range.len()), Some(SLOT_BYTES));
        assert_eq!(ring.fetch(), None);
    }
}
