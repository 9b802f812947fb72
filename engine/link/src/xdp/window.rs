//! Which of the frames given to the kernel have left, from completions that arrive chunk by chunk.
//!
//! A completion tells a chunk's address when the kernel's buffer over it is freed, so frames may complete in any order:
//! on a NIC whose queue is reset, or where a bridge holds one back. What counts is the longest prefix: all of the first
//! `completed` frames have left.

/// Frames taken and not yet known to have left, in the order in which they were taken.
#[derive(Debug)]
pub(super) struct TxWindow {
    /// For each chunk of this sender, the slot of the frame that it carries.
    slot_of_chunk: Box<[u32]>,
    /// For each slot, how many of the frame's chunks are still out.
    chunks_out: Box<[u8]>,
    mask: u64,
    taken: u64,
    completed: u64,
}

impl TxWindow {
    /// For a sender with that many chunks. The window has more slots than chunks, so that one frame held back does not
    /// stop the others at once.
    pub(super) fn new(chunks: u32) -> Self {
        /// Frames that may be outstanding behind one that is held back, as a multiple of the chunks.
        const SLACK: u32 = 4;
        let slots = chunks.max(1).saturating_mul(SLACK).next_power_of_two();
        Self {
            slot_of_chunk: (0..chunks).map(|_| 0).collect(),
            chunks_out: (0..slots).map(|_| 0).collect(),
            mask: u64::from(slots) - 1,
            taken: 0,
            completed: 0,
        }
    }

    /// Whether another frame may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many more frames may be taken.
    pub(super) fn room(&self) -> usize {
        usize::try_from(self.mask + 1 - (self.taken - self.completed)).unwrap_or(usize::MAX)
    }

    fn slot(&self, frame: u64) -> (usize, u32) {
        let slot = u32::try_from(frame & self.mask).expect("the mask is below 2^32");
        (usize::try_from(slot).expect("an index fits"), slot)
    }

    /// Takes the next frame, carried by these chunks.
    ///
    /// # Panics
    /// When there is no room, or a chunk is not one of this sender's: both are errors of the caller.
    pub(super) fn take(&mut self, chunks: impl IntoIterator<Item = usize>) {
        assert!(self.has_room(), "the caller asks for room first");
        let (index, slot) = self.slot(self.taken);
        for chunk in chunks {
            self.slot_of_chunk[chunk] = slot;
            self.chunks_out[index] += 1;
        }
        self.taken += 1;
    }

    /// Notes that the kernel is through with a chunk.
    pub(super) fn chunk_done(&mut self, chunk: usize) {
        let slot = usize::try_from(self.slot_of_chunk[chunk]).expect("an index fits");
        let out = &mut self.chunks_out[slot];
        assert!(*out > 0, "a chunk completes once for each time it is sent");
        *out -= 1;
        while self.completed < self.taken && self.chunks_out[self.slot(self.completed).0] == 0 {
            self.completed += 1;
        }
    }

    /// All of the first that many frames have left.
    pub(super) const fn completed(&self) -> u64 {
        self.completed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_of_three_chunks_completes_with_its_last() {
        let mut window = TxWindow::new(8);
        window.take([0, 1, 2]);
        window.take([3]);
        window.chunk_done(3);
        window.chunk_done(2);
        window.chunk_done(0);
        assert_eq!(window.completed(), 0, "the first frame has a chunk out");
        window.chunk_done(1);
        assert_eq!(window.completed(), 2);
    }

    #[test]
    fn one_frame_held_back_closes_the_window_in_the_end() {
        let mut window = TxWindow::new(2);
        window.take([0]);
        let mut passed = 0;
        while window.has_room() {
            window.take([1]);
            window.chunk_done(1);
            passed += 1;
        }
        assert_eq!((window.completed(), passed), (0, 7));
        window.chunk_done(0);
        assert_eq!(window.completed(), 8);
    }

    proptest! {
        /// Against an oracle that keeps every frame's chunks in a list.
        #[test]
        fn completed_is_the_longest_prefix_that_left(picks in proptest::collection::vec((any::<bool>(), any::<u8>(), 1_usize..4), 1..400)) {
            let mut window = TxWindow::new(16);
            let mut free: Vec<usize> = (0..16).collect();
            let mut frames: Vec<Vec<usize>> = Vec::new();
            for (send, pick, count) in picks {
                if send && free.len() >= count && window.has_room() {
                    let chunks = free.split_off(free.len() - count);
                    window.take(chunks.iter().copied());
                    frames.push(chunks);
                } else {
                    let out: Vec<(usize, usize)> =
                        frames.iter().enumerate().flat_map(|(f, chunks)| chunks.iter().map(move |&c| (f, c))).collect();
                    if out.is_empty() {
                        continue;
                    }
                    let (frame, chunk) = out[usize::from(pick) % out.len()];
                    frames[frame].retain(|&c| c != chunk);
                    free.push(chunk);
                    window.chunk_done(chunk);
                }
                let prefix = frames.iter().take_while(|chunks| chunks.is_empty()).count();
                prop_assert_eq!(window.completed(), u64::try_from(prefix).unwrap());
            }
        }
    }
}
