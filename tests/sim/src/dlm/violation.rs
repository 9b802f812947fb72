//! What the judge of a lock manager found.

use core::fmt;

/// Which promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Two hold one resource in modes that exclude each other.
    Exclusion,
    /// A grant number did not rise.
    GrantNumber,
    /// Something was granted over a dead writer's lock before its log was replayed.
    Retained,
    /// A value block read is neither the last one nor invalid.
    Value,
    /// A request ended twice, never, without a reason, or as something else than it was.
    Completion,
    /// Somebody was overtaken too often.
    Fairness,
    /// All is well, nobody holds what is asked for, and still it is not granted.
    Stuck,
    /// A deadlock without a victim.
    Deadlock,
    /// A victim without a deadlock, or a second one.
    Victim,
    /// Something is left when all is quiet.
    Leak,
    /// More memory or longer queues than agreed.
    Memory,
    /// The machine asks to be called again and again and does nothing.
    Livelock,
    /// It panicked.
    Panic,
}

/// A broken promise and its circumstances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What happened, in words.
    pub text: String,
}

impl Violation {
    /// A broken promise.
    #[must_use]
    pub fn new(promise: Promise, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { promise, text }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.text)
    }
}

impl core::error::Error for Violation {}
