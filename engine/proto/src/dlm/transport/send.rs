//! One direction's sending end: records that are queued or not acknowledged yet, and what is known of each.

use core::time::Duration;

use sandrail_wire::lock::{FrameWriter, SLOT_BYTES, Sequence};

use super::receive::HALF;
use crate::time::Instant;

/// So many frames may overtake a slot before it counts as lost.
const OVERTAKEN_FRAMES: u64 = 3;

const LONG: u8 = 1;
const SACKED: u8 = 1 << 1;
const LOST: u8 = 1 << 2;
const TAIL: u8 = 1 << 3;

/// What is known of a slot under way.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// When it was last sent.
    at: Instant,
    /// With which of the channel's frames.
    order: u64,
    times: u32,
    flags: u8,
}

/// What an acknowledgement changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Slots are known to have arrived that were not before.
    pub(super) progress: bool,
    /// A round trip that was measured.
    pub(super) sample: Option<Duration>,
    /// Slots that count as lost now.
    pub(super) lost: u64,
}

/// What a frame took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) records: u64,
    pub(super) again: u64,
}

/// The slots of one direction: `una..sent` under way, `sent..next` queued. All that are queued have credits.
#[derive(Debug)]
pub(super) struct SendRing {
    /// One slot more than the window, so that a long record that begins in the last one lies in one piece.
    storage: Box<[u8]>,
    slots: Box<[Sent]>,
    window: u64,
    una: Sequence,
    sent: Sequence,
    next: Sequence,
    /// The end of the peer's credits.
    edge: Sequence,
    lost_slots: u64,
    /// Frames with slots that were sent.
    order: u64,
    /// The latest of them of which something arrived, and when it was sent.
    arrived_order: u64,
    arrived_at: Instant,
    /// A slot sent once, and when, to measure a round trip by.
    timed: Option<(Sequence, Instant)>,
}

impl SendRing {
    pub(super) fn new(window_slots: u16, first: Sequence) -> Self {
        let window = usize::from(window_slots);
        Self {
            storage: vec![0; (window + 1) * SLOT_BYTES].into_boxed_slice(),
            slots: vec![Sent::default(); window].into_boxed_slice(),
            window: u64::from(window_slots),
            una: first,
            sent: first,
            next: first,
            edge: first,
            lost_slots: 0,
            order: 0,
            arrived_order: 0,
            arrived_at: Instant::ZERO,
            timed: None,
        }
    }

    /// Forgets everything; the next slot will be `first`.
    pub(super) fn reset(&mut self, first: Sequence) {
        self.una = first;
        self.sent = first;
        self.next = first;
        self.edge = first;
        self.lost_slots = 0;
        self.order = 0;
        self.arrived_order = 0;
        self.arrived_at = Instant::ZERO;
        self.timed = None;
    }

    /// The first slot not sent yet.
    pub(super) const fn sent(&self) -> Sequence {
        self.sent
    }

    /// Slots that can be queued now.
    pub(super) fn room(&self) -> u64 {
        let of_ring = self.window - self.next.since(self.una);
        of_ring.min(self.edge.since(self.next))
    }

    /// Whether slots are under way.
    pub(super) fn is_in_flight(&self) -> bool {
        self.una != self.sent
    }

    /// Whether slots are queued or under way.
    pub(super) fn is_idle(&self) -> bool {
        self.una == self.next
    }

    /// Whether there are slots to send, for the first time or again.
    pub(super) fn has_work(&self) -> bool {
        self.lost_slots > 0 || self.sent != self.next
    }

    /// Queues a record of one or two slots; `false` if there is no room.
    pub(super) fn push(&mut self, record: &[u8]) -> bool {
        let slots = if record.len() > SLOT_BYTES { 2 } else { 1 };
        if self.room() < slots {
            return false;
        }
        let place = self.place(self.next);
        let at = place * SLOT_BYTES;
        self.storage[at..at + record.len()].copy_from_slice(record);
        self.slots[place] = Sent {
            flags: if slots == 2 { LONG } else { 0 },
            ..Sent::default()
        };
        if slots == 2 {
            let second = self.place(self.next.plus(1));
            self.slots[second] = Sent {
                flags: TAIL,
                ..Sent::default()
            };
        }
        self.next = self.next.plus(slots);
        true
    }

    /// Whether an honest peer could acknowledge so: `ack`, and beyond it the slots of `sacks`. Records arrive as a whole.
    pub(super) fn ack_is_possible(&self, ack: Sequence, sacks: &[u64]) -> bool {
        let under_way = self.sent.since(self.una);
        let ahead = ack.since(self.una);
        if ahead >= HALF {
            // Late; what it tells is not looked at.
            return true;
        }
        if ahead > under_way {
            return false;
        }
        if ahead > 0 && self.flags(ack.plus(u64::MAX)) & LONG != 0 {
            return false;
        }
        let has = |offset: u64| {
            let word = usize::try_from(offset / 64).unwrap_or(usize::MAX);
            sacks
                .get(word)
                .is_some_and(|word| word >> (offset % 64) & 1 == 1)
        };
        set_bits(sacks).all(|offset| {
            offset < under_way - ahead
                && (self.flags(ack.plus(offset)) & LONG == 0 || has(offset + 1))
                && (self.flags(ack.plus(offset)) & TAIL == 0 || offset > 0 && has(offset - 1))
        })
    }

    /// Takes an acknowledgement that [is possible](Self::ack_is_possible).
    pub(super) fn acknowledge(
        &mut self,
        now: Instant,
        ack: Sequence,
        sacks: &[u64],
        reordering: Duration,
        smoothed: Option<Duration>,
    ) -> Acknowledged {
        let mut outcome = Acknowledged::default();
        let ahead = ack.since(self.una);
        if ahead >= HALF {
            return outcome;
        }
        let mut look_for_lost = false;
        for _ in 0..ahead {
            look_for_lost |= self.arrive(now, self.una, smoothed);
            self.una = self.una.plus(1);
        }
        outcome.progress = ahead > 0;
        for offset in set_bits(sacks) {
            let at = ack.plus(offset);
            outcome.progress |= self.flags(at) & SACKED == 0;
            look_for_lost = true;
            self.arrive(now, at, smoothed);
        }
        if let Some((slot, at)) = self.timed
            && self.has_arrived(slot)
        {
            outcome.sample = Some(now.saturating_since(at));
            self.timed = None;
        }
        if look_for_lost {
            outcome.lost = self.find_lost(reordering);
        }
        outcome
    }

    /// Takes the credits that came with `ack`. They are never taken back: what says less is late.
    pub(super) fn grant(&mut self, ack: Sequence, credits: u16) {
        let edge = ack.plus(u64::from(credits));
        if edge.since(self.edge) < HALF {
            self.edge = edge;
        }
    }

    /// The acknowledgement did not come: the first records count as lost, so that one frame goes out and its answer tells
    /// of the others.
    pub(super) fn time_out(&mut self, frame_slots: u64) {
        let mut at = self.una;
        let end = self.sent.since(self.una).min(frame_slots.max(2));
        while at.since(self.una) < end {
            let slots = self.record_slots(at);
            for _ in 0..slots {
                self.lose(at);
                at = at.plus(1);
            }
        }
    }

    /// Where the next frame begins.
    pub(super) fn start(&self) -> Sequence {
        let mut at = self.una;
        if self.lost_slots > 0 {
            while at != self.sent {
                if self.flags(at) & LOST != 0 {
                    return at;
                }
                at = at.plus(1);
            }
        }
        self.sent
    }

    /// Puts as many records as belong together and fit into a frame that begins at `start`.
    pub(super) fn fill(
        &mut self,
        now: Instant,
        start: Sequence,
        writer: &mut FrameWriter<'_>,
    ) -> Filled {
        let mut filled = Filled::default();
        let order = self.order + 1;
        let mut at = start;
        while at != self.next {
            let fresh = at.since(self.una) >= self.sent.since(self.una);
            let place = self.place(at);
            if !fresh && self.slots[place].flags & LOST == 0 {
                break;
            }
            let slots = self.record_slots(at);
            let len = if slots == 2 {
                2 * SLOT_BYTES
            } else {
                SLOT_BYTES
            };
            let bytes = place * SLOT_BYTES;
            if !writer.push(&self.storage[bytes..bytes + len]) {
                break;
            }
            filled.records += 1;
            filled.again += u64::from(!fresh);
            for _ in 0..slots {
                self.leave(now, at, order);
                at = at.plus(1);
            }
            if fresh {
                self.sent = at;
            }
        }
        if filled.records > 0 {
            self.order = order;
            if filled.again == 0 && self.timed.is_none() {
                self.timed = Some((start, now));
            }
        }
        filled
    }

    /// The slot leaves with frame `order`.
    fn leave(&mut self, now: Instant, sequence: Sequence, order: u64) {
        let place = self.place(sequence);
        let slot = &mut self.slots[place];
        if slot.flags & LOST != 0 {
            slot.flags &= !LOST;
            self.lost_slots -= 1;
        }
        slot.at = now;
        slot.order = order;
        slot.times = slot.times.saturating_add(1);
        if self.timed.is_some_and(|(timed, _)| timed == sequence) {
            // Sent again: nobody could say which copy is answered (Karn's rule).
            self.timed = None;
        }
    }

    /// Notes that a slot arrived; whether it had been sent more than once.
    fn arrive(&mut self, now: Instant, sequence: Sequence, smoothed: Option<Duration>) -> bool {
        let place = self.place(sequence);
        let slot = &mut self.slots[place];
        if slot.flags & LOST != 0 {
            slot.flags &= !LOST;
            self.lost_slots -= 1;
        }
        let known = slot.flags & SACKED != 0;
        slot.flags |= SACKED;
        let again = slot.times > 1;
        // The answer to a copy sent just now is rather that to an earlier one, and says nothing of this one's fellows.
        let too_soon = smoothed.is_some_and(|time| now.saturating_since(slot.at) < time / 2);
        if !known && slot.order > self.arrived_order && !(again && too_soon) {
            self.arrived_order = slot.order;
            self.arrived_at = slot.at;
        }
        again && !known
    }

    /// Slots that frames sent later have overtaken by too much count as lost; how many are new.
    fn find_lost(&mut self, reordering: Duration) -> u64 {
        let before = self.lost_slots;
        let mut at = self.una;
        while at != self.sent {
            let slots = self.record_slots(at);
            let slot = self.slots[self.place(at)];
            let overtaken = self.arrived_order > slot.order
                && (self.arrived_order - slot.order >= OVERTAKEN_FRAMES
                    || self.arrived_at.saturating_since(slot.at) >= reordering);
            for _ in 0..slots {
                if overtaken {
                    self.lose(at);
                }
                at = at.plus(1);
            }
        }
        self.lost_slots - before
    }

    fn lose(&mut self, sequence: Sequence) {
        let place = self.place(sequence);
        let slot = &mut self.slots[place];
        if slot.flags & (SACKED | LOST) == 0 {
            slot.flags |= LOST;
            self.lost_slots += 1;
        }
    }

    fn has_arrived(&self, sequence: Sequence) -> bool {
        sequence.since(self.una) >= HALF || self.flags(sequence) & SACKED != 0
    }

    /// Slots of the record that begins here.
    fn record_slots(&self, sequence: Sequence) -> u64 {
        if self.flags(sequence) & LONG != 0 {
            2
        } else {
            1
        }
    }

    fn flags(&self, sequence: Sequence) -> u8 {
        self.slots[self.place(sequence)].flags
    }

    fn place(&self, sequence: Sequence) -> usize {
        // The window is a power of two, and no larger than `usize`.
        usize::try_from(sequence.0 & (self.window - 1)).unwrap_or(0)
    }
}

/// The numbers of the bits that are set, counted through all words.
fn set_bits(words: &[u64]) -> impl Iterator<Item = u64> + use<'_> {
    words
        .iter()
        .zip((0_u64..).step_by(64))
        .flat_map(|(word, base)| {
            let mut left = *word;
            core::iter::from_fn(move || {
                let bit = u64::from(left.trailing_zeros());
                (left != 0).then(|| {
                    left &= left - 1;
                    base + bit
                })
            })
        })
}
