//! The atomics that the lock-free code uses. A model checker replaces this module with its own
//! (tests/doorbell_loom.rs).

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
