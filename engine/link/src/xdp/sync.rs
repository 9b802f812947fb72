//! The atomics that [`super::claim`] uses. A model checker replaces this module with its own (tests/claim_loom.rs).

pub(super) use std::sync::atomic::{AtomicU8, Ordering};
