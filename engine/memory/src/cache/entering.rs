//! How a frame gets into its shard's order of dirty ones, and how a flush knows whether one is just on its way there.
//!
//! Who finds a frame marked leaves its entry to whoever marked it, and may ask for a flush before that entry is made. So
//! those who are between the two are counted: a flush that finds somebody there looks at the frames themselves.

use super::sync::{AtomicU32, Ordering};

/// Whether a frame is in the order, or on its way there.
#[derive(Debug)]
pub(crate) struct Queued(AtomicU32);

impl Queued {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The frame leaves the order; whether it was there. AcqRel: partner is the exchange in [`Entering::enter`]. A frame
    /// that becomes dirty after this is entered anew.
    pub(crate) fn leave(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) != 0
    }
}

/// How many are just entering a frame into a shard's order.
#[derive(Debug)]
pub(crate) struct Entering(AtomicU32);

impl Entering {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Enters a frame that has become dirty, unless it is in the order or somebody else is about to enter it.
    pub(crate) fn enter(&self, queued: &Queued, push: impl FnOnce()) {
        // An exchange, though it changes nothing. AcqRel: partner is the swap of who takes the frame from the order; if
        // that one comes after this, it sees the frame dirty. And whoever entered it has counted itself before.
        let is_queued = |queued: &Queued| {
            let found = queued
                .0
                .compare_exchange(1, 1, Ordering::AcqRel, Ordering::Relaxed);
            found.is_ok()
        };
        if is_queued(queued) {
            return;
        }
        // Relaxed: the swap below publishes it to whoever finds the frame marked.
        self.0.fetch_add(1, Ordering::Relaxed);
        if queued.0.swap(1, Ordering::AcqRel) == 0 {
            push();
        }
        // Release: who finds nobody here finds what was pushed.
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// Whether all frames that were marked, as far as the caller can know, are in the queue. To be asked before the queue
    /// is emptied.
    pub(crate) fn is_over(&self) -> bool {
        // Acquire: partner is the release above.
        self.0.load(Ordering::Acquire) == 0
    }
}
