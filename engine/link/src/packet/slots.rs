//! Who owns which slot of a transmit ring, apart from the kernel and its memory.
//!
//! A slot's status word says whose it is (`packet_mmap` in the kernel's documentation): AVAILABLE is ours, SEND_REQUEST asks
//! the kernel to send it with the next kick, SENDING means that a driver has it. The kernel walks the ring with a cursor of its
//! own and stops at the first slot that is not requested, so slots are requested strictly in order, and a request that is
//! taken back moves our cursor back to the kernel's.

/// The ring's status words.
pub(super) trait StatusWords {
    /// Reads a slot's word; what the other side wrote before it is visible then.
    fn load(&self, slot: usize) -> u32;
    /// Writes a slot's word, after everything that was written to the slot before.
    fn store(&self, slot: usize, status: u32);
}

const BUSY: u32 =
    libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_SENDING | libc::TP_STATUS_WRONG_FORMAT;

/// Frames that were taken back: complete as soon as all before them are.
#[derive(Clone, Copy, Debug, Default)]
struct Discarded {
    frames: u64,
    /// They lie behind this many slots, counted from the start.
    behind: u64,
}

/// The cursors of a transmit ring. Cursors count from the start and never wrap; the slot is the remainder.
#[derive(Debug)]
pub(super) struct TransmitSlots {
    slots: usize,
    /// Slots requested, not counting those taken back.
    head: u64,
    /// Slots known to be available again.
    tail: u64,
    completed: u64,
    discarded: Discarded,
}

impl TransmitSlots {
    pub(super) fn new(slots: usize) -> Self {
        assert!(slots > 0, "a ring has slots");
        Self {
            slots,
            head: 0,
            tail: 0,
            completed: 0,
            discarded: Discarded::default(),
        }
    }

    fn slot(&self, cursor: u64) -> usize {
        let slots = u64::try_from(self.slots).unwrap_or(u64::MAX);
        usize::try_from(cursor % slots).expect("a remainder of a usize fits one")
    }

    /// How many slots can be filled now.
    pub(super) fn room(&mut self, words: &impl StatusWords) -> usize {
        self.reap(words);
        self.slots - usize::try_from(self.head - self.tail).expect("no more than the slots")
    }

    /// The slot to fill next.
    pub(super) fn next(&mut self, words: &impl StatusWords) -> Option<usize> {
        let full = |slots: &Self| {
            slots.head - slots.tail == u64::try_from(slots.slots).unwrap_or(u64::MAX)
        };
        if full(self) {
            self.reap(words);
        }
        (!full(self)).then(|| self.slot(self.head))
    }

    /// The slot that [`TransmitSlots::next`] named is filled: asks for it to be sent.
    pub(super) fn request(&mut self, words: &impl StatusWords) {
        words.store(self.slot(self.head), libc::TP_STATUS_SEND_REQUEST);
        self.head += 1;
        assert!(
            self.head - self.tail <= u64::try_from(self.slots).unwrap_or(u64::MAX),
            "a slot was requested twice"
        );
    }

    /// The slots requested, counted from the start, without those taken back.
    pub(super) const fn requested(&self) -> u64 {
        self.head
    }

    /// The slots that the kernel has taken, counted from the start.
    pub(super) fn sent(&self, words: &impl StatusWords) -> u64 {
        let mut cursor = self.head;
        while cursor > self.tail && is_unsent(words.load(self.slot(cursor - 1))) {
            cursor -= 1;
        }
        cursor
    }

    /// How many frames in a row, from the first, have left the ring or were taken back.
    pub(super) const fn completed(&self) -> u64 {
        self.completed
    }

    /// Counts slots that became available, in order.
    pub(super) fn reap(&mut self, words: &impl StatusWords) {
        while self.tail < self.head && words.load(self.slot(self.tail)) & BUSY == 0 {
            self.tail += 1;
            self.completed += 1;
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.discarded.frames > 0 && self.tail >= self.discarded.behind {
            self.completed += self.discarded.frames;
            self.discarded = Discarded::default();
        }
    }

    /// Takes back what the kernel has not sent; how many frames.
    pub(super) fn discard(&mut self, words: &impl StatusWords) -> u64 {
        self.reap(words);
        let (sent, before) = (self.sent(words), self.head);
        while self.head > sent {
            self.head -= 1;
            words.store(self.slot(self.head), libc::TP_STATUS_AVAILABLE);
        }
        let frames = before - self.head;
        if frames > 0 {
            // If some were discarded before and still wait for their predecessors, all of them wait for the later: they complete
            // later than they might, which is the safe side.
            self.discarded = Discarded {
                frames: self.discarded.frames + frames,
                behind: self.head,
            };
            self.settle();
        }
        frames
    }
}

fn is_unsent(status: u32) -> bool {
    status & (libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_WRONG_FORMAT) != 0
}
