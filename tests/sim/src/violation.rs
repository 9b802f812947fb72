//! What a checker found.

use core::fmt;

use crate::stamp::Stamp;

/// Which promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A read returned what no order of the writes allows.
    ReadHistory,
    /// A sector came back with another's data, or with nobody's.
    ReadContent,
    /// S7: a flush succeeded, and what was acknowledged before it was not durable.
    Flush,
    /// S3: two overlapping WRITEs with different data alive at once.
    Overlap,
    /// S1: a tag was used again within a frame lifetime.
    Tag,
    /// A frame went where no frame may go.
    Address,
    /// Frames that make no sense, exceed the MTU, or came on the wrong interface.
    Frame,
    /// A request completed twice, never, late, or as something else than it was.
    Completion,
    /// A buffer came back changed, or not at all.
    Buffer,
    /// Something is left when all is quiet.
    Quiescence,
    /// The machine asks to be called again and again and does nothing.
    Livelock,
    /// More frames outstanding than target and window allow.
    Window,
    /// A target asked its disk for what it may not ask.
    Disk,
    /// S6: a write was carried out again after another had replaced it, or more often than it was asked for.
    Duplicate,
    /// Of overlapping requests the later was carried out first.
    Order,
    /// S5: something was carried out for a void session, or a session was given to two.
    Session,
    /// S8 to S10: a write of a removed MAC was carried out after the SET's answer, or an epoch fell.
    Fence,
    /// An answer went to a MAC that the mask does not admit.
    Mask,
    /// What was acknowledged as persistent is not there after a restart.
    Persistence,
    /// One initiator kept another from its share.
    Fairness,
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
    /// The writes whose order the disk has wrong, if that is what was found.
    pub stale: Vec<Stamp>,
}

impl Violation {
    /// A broken promise.
    #[must_use]
    pub fn new(promise: Promise, text: impl Into<String>) -> Self {
        Self {
            promise,
            text: text.into(),
            stale: Vec::new(),
        }
    }

    /// The same, about the order of these writes.
    #[must_use]
    pub fn about(self, stale: impl IntoIterator<Item = Stamp>) -> Self {
        Self {
            stale: stale.into_iter().collect(),
            ..self
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.text)
    }
}

impl core::error::Error for Violation {}
