//! The atomics that the lock-free code uses, and what it does while it waits for a few instructions of another thread.
//! A model checker replaces this module with its own (tests/cache_loom.rs).

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Slots of a table's bucket: a cache line of them.
pub(crate) const BUCKET_SLOTS: usize = 8;

/// Lets whoever is between two instructions go on: it may be on this very core.
pub(crate) fn relax() {
    std::hint::spin_loop();
    std::thread::yield_now();
}

/// A cell whose accesses the model checker can see.
#[derive(Debug)]
pub(crate) struct Cell<T>(std::cell::UnsafeCell<T>);

impl<T> Cell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// The pointer is good for reads and writes if the caller sees to it that nobody else has it.
    pub(crate) fn with_mut<R>(&self, work: impl FnOnce(*mut T) -> R) -> R {
        work(self.0.get())
    }
}
