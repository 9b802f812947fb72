//! A frame's state in one 64-bit word, and the steps from state to state.
//!
//! ```text
//! 63 ............ 26 | 25    | 24      | 23       | 22      | 21      | 20    | 19..10 | 9       | 8         | 7..0
//! version            | image | revoked | readonly | reading | writing | dirty | pins   | waiters | exclusive | shared
//! ```
//!
//! The version moves whenever what the frame holds, or may be used for, has changed: an optimistic reader compares it,
//! and the exclusive bit, before and after. It has 38 bits, so a reader must be held up for 2^38 changes of one
//! frame, five hours at 15 million a second, and then hit the very one, to be deceived.

use super::sync::{AtomicU64, Ordering, fence};

const SHARED_ONE: u64 = 1;
pub(crate) const SHARED: u64 = 0xff;
/// Latched by one holder, or in the hands of the cache itself (free, being evicted, being filled).
pub(crate) const EXCLUSIVE: u64 = 1 << 8;
/// Somebody parks until the latch is released: whoever releases it wakes.
pub(crate) const WAITERS: u64 = 1 << 9;
const PIN_ONE: u64 = 1 << 10;
pub(crate) const PINS: u64 = 0x3ff << 10;
/// Changed since it was last written.
pub(crate) const DIRTY: u64 = 1 << 20;
/// Its bytes are on their way to the volume and must not change.
pub(crate) const WRITING: u64 = 1 << 21;
/// Its bytes are on their way from the volume; exclusive as well.
pub(crate) const READING: u64 = 1 << 22;
/// No exclusive latch is granted.
pub(crate) const READ_ONLY: u64 = 1 << 23;
/// Nothing is granted; the page goes when its last holder has gone.
pub(crate) const REVOKED: u64 = 1 << 24;
/// No page any more: the bytes of a write under way, whose page has moved on to another frame.
pub(crate) const IMAGE: u64 = 1 << 25;
const VERSION_ONE: u64 = 1 << 26;
const VERSION: u64 = !(VERSION_ONE - 1);

/// The most shared latches a frame can have at once.
pub(crate) const SHARED_MAX: u64 = SHARED;
/// The most pins a frame can have at once.
pub(crate) const PINS_MAX: u64 = PINS / PIN_ONE;

/// A word as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(pub(crate) u64);

impl Snapshot {
    /// Whether any of the bits is set.
    #[inline]
    pub(crate) const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    pub(crate) const fn shared(self) -> u64 {
        self.0 & SHARED
    }

    pub(crate) const fn pins(self) -> u64 {
        (self.0 & PINS) / PIN_ONE
    }

    const fn bumped(self) -> Self {
        // The version is the topmost field, so that its overflow goes nowhere.
        Self(self.0.wrapping_add(VERSION_ONE))
    }
}

/// The atomic word.
#[derive(Debug)]
pub(crate) struct Word(AtomicU64);

impl Word {
    /// A frame that is in the cache's own hands and holds no page.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(EXCLUSIVE))
    }

    /// Partner: every release of this word. What was written before it can be read after this.
    #[inline]
    pub(crate) fn load(&self) -> Snapshot {
        Snapshot(self.0.load(Ordering::Acquire))
    }

    /// Optimistic reader: whether what was read since `seen` was loaded was one state of the frame.
    ///
    /// The fence keeps the reads before the second load; its partner is the one in [`Self::try_exclude`], which keeps
    /// the writes of a latch's holder after the latch. A reader that has seen any of these writes sees the latch, or
    /// the version that its release left. The first load's partner is that release.
    #[inline]
    pub(crate) fn unchanged(&self, seen: Snapshot) -> bool {
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) ^ seen.0) & (VERSION | EXCLUSIVE) == 0
    }

    /// Adds a shared latch if nothing has happened since `seen`. Acquire: partner is the release of the last holder.
    pub(crate) fn try_share(&self, seen: Snapshot) -> bool {
        self.swap_if(seen, seen.0 + SHARED_ONE, Ordering::Acquire)
    }

    /// Adds a pin if nothing has happened since `seen`. Acquire, as above.
    pub(crate) fn try_pin(&self, seen: Snapshot) -> bool {
        self.swap_if(seen, seen.0 + PIN_ONE, Ordering::Acquire)
    }

    /// Takes a pin away if nothing has happened since `seen`. Release: what was done under the pin is over.
    pub(crate) fn try_unpin(&self, seen: Snapshot) -> bool {
        self.swap_if(seen, seen.0 - PIN_ONE, Ordering::Release)
    }

    /// Latches exclusively if nothing has happened since `seen`.
    ///
    /// Acquire: partner is the release of the last holder, shared ones included. The fence is the partner of the one in
    /// [`Self::unchanged`].
    pub(crate) fn try_exclude(&self, seen: Snapshot) -> bool {
        let done = self.swap_if(seen, seen.0 | EXCLUSIVE, Ordering::Acquire);
        if done {
            fence(Ordering::Release);
        }
        done
    }

    fn swap_if(&self, seen: Snapshot, to: u64, ordering: Ordering) -> bool {
        self.0
            .compare_exchange(seen.0, to, ordering, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives a shared latch back; what the word was before. Release: partner is the next exclusive latch.
    pub(crate) fn unshare(&self) -> Snapshot {
        let before = Snapshot(self.0.fetch_sub(SHARED_ONE, Ordering::Release));
        debug_assert!(
            before.shared() > 0,
            "a shared latch was given back that nobody had"
        );
        before
    }

    /// Changes bits whatever others do to the rest; what the word was before. AcqRel: the caller may publish what it
    /// wrote and rely on what others did.
    pub(crate) fn change(&self, clear: u64, set: u64, bump: bool) -> Snapshot {
        let mut seen = Snapshot(self.0.load(Ordering::Relaxed));
        loop {
            match self.exchange(seen, clear, set, bump) {
                Ok(()) => return seen,
                Err(now) => seen = now,
            }
        }
    }

    /// As [`Self::change`], if nothing has happened since `seen`; else what the word is now.
    pub(crate) fn exchange(
        &self,
        seen: Snapshot,
        clear: u64,
        set: u64,
        bump: bool,
    ) -> Result<(), Snapshot> {
        let kept = Snapshot((seen.0 & !clear) | set);
        let to = if bump { kept.bumped() } else { kept };
        self.0
            .compare_exchange(seen.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Snapshot)
    }

    /// Sets the bit that makes the next release wake, unless the frame is free of `obstacles` by now; whether it is set.
    pub(crate) fn ask_wake(&self, obstacles: u64) -> bool {
        let mut seen = self.load();
        while seen.has(obstacles) {
            if seen.has(WAITERS) {
                return true;
            }
            match self.exchange(seen, 0, WAITERS, false) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// All bits but the version's and the exclusive latch's: what an emptied frame must not keep.
    pub(crate) const LEFTOVERS: u64 = !(VERSION | EXCLUSIVE);
    /// The bits that go over when a page moves to another frame.
    pub(crate) const MOVED: u64 = PINS | READ_ONLY | REVOKED;
}
