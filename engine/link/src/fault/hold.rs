//! Frames held back: a fixed number of buffers and the order in which they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use sandrail_proto::time::Instant;

/// A held frame.
pub(super) struct HeldFrame<'a> {
    pub(super) bytes: &'a [u8],
    header_bytes: usize,
}

impl<'a> HeldFrame<'a> {
    /// Header and payload, as they were given.
    pub(super) fn split(&self) -> (&'a [u8], &'a [u8]) {
        self.bytes.split_at(self.header_bytes)
    }
}

/// A frame that waits for a moment. Ordered by moment, then by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Timed {
    due: Instant,
    sequence: u64,
    slot: usize,
}

/// A frame that waits for others to overtake it, and no longer than until `timed.due`.
struct Overtaken {
    timed: Timed,
    overtakers: u32,
}

/// A fixed number of buffers of a fixed size; nothing is allocated after `new`.
pub(super) struct HoldPool {
    memory: Box<[u8]>,
    /// Bytes in use and of header, a slot each.
    lengths: Box<[(usize, usize)]>,
    frame_bytes_max: usize,
    free: Vec<usize>,
    timed: BinaryHeap<Reverse<Timed>>,
    overtaken: Vec<Overtaken>,
    sequence: u64,
}

impl HoldPool {
    pub(super) fn new(frames: usize, frame_bytes_max: usize) -> Self {
        Self {
            memory: vec![0; frames * frame_bytes_max].into_boxed_slice(),
            lengths: vec![(0, 0); frames].into_boxed_slice(),
            frame_bytes_max,
            free: (0..frames).rev().collect(),
            timed: BinaryHeap::with_capacity(frames),
            overtaken: Vec::with_capacity(frames),
            sequence: 0,
        }
    }

    pub(super) const fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    pub(super) fn len(&self) -> usize {
        self.lengths.len() - self.free.len()
    }

    /// Copies a frame in; `false` when no buffer is free or it does not fit one.
    pub(super) fn insert<'a>(
        &mut self,
        due: Instant,
        overtakers: Option<u32>,
        header_bytes: usize,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        let Some(&slot) = self.free.last() else {
            return false;
        };
        let start = slot * self.frame_bytes_max;
        let buffer = &mut self.memory[start..start + self.frame_bytes_max];
        let mut len_bytes = 0;
        for part in parts {
            let Some(space) = buffer.get_mut(len_bytes..len_bytes + part.len()) else {
                return false;
            };
            space.copy_from_slice(part);
            len_bytes += part.len();
        }
        self.free.pop();
        self.lengths[slot] = (len_bytes, header_bytes);
        self.sequence += 1;
        let timed = Timed {
            due,
            sequence: self.sequence,
            slot,
        };
        match overtakers {
            Some(overtakers) => self.overtaken.push(Overtaken { timed, overtakers }),
            None => self.timed.push(Reverse(timed)),
        }
        true
    }

    /// A frame went by: those that wait to be overtaken have one fewer to wait for.
    pub(super) fn overtaken(&mut self) {
        for waiting in &mut self.overtaken {
            waiting.overtakers = waiting.overtakers.saturating_sub(1);
        }
    }

    /// The oldest frame that was overtaken often enough or has waited for it long enough.
    fn overtaken_due(&self, now: Instant) -> Option<usize> {
        self.overtaken
            .iter()
            .position(|waiting| waiting.overtakers == 0 || waiting.timed.due <= now)
    }

    fn frame(&self, slot: usize) -> HeldFrame<'_> {
        let (len_bytes, header_bytes) = self.lengths[slot];
        let start = slot * self.frame_bytes_max;
        HeldFrame {
            bytes: &self.memory[start..start + len_bytes],
            header_bytes,
        }
    }

    /// The next frame to release, if one is due.
    pub(super) fn peek_due(&self, now: Instant) -> Option<HeldFrame<'_>> {
        if let Some(index) = self.overtaken_due(now) {
            return Some(self.frame(self.overtaken[index].timed.slot));
        }
        let Reverse(first) = self.timed.peek()?;
        (first.due <= now).then(|| self.frame(first.slot))
    }

    /// Forgets the frame that [`HoldPool::peek_due`] showed for the same `now`.
    pub(super) fn remove_due(&mut self, now: Instant) {
        let slot = if let Some(index) = self.overtaken_due(now) {
            Some(self.overtaken.remove(index).timed.slot)
        } else {
            let due = self
                .timed
                .peek()
                .is_some_and(|Reverse(first)| first.due <= now);
            if due {
                self.timed.pop().map(|Reverse(first)| first.slot)
            } else {
                None
            }
        };
        self.free.extend(slot);
    }

    /// When the next frame is due. One that was overtaken often enough is due at once.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let overtaken = self
            .overtaken
            .iter()
            .map(|waiting| match waiting.overtakers {
                0 => Instant::ZERO,
                _ => waiting.timed.due,
            });
        let timed = self.timed.peek().map(|Reverse(first)| first.due);
        overtaken.chain(timed).min()
    }
}
