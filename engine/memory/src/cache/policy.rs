//! Which page goes: the seam between the cache and the policies, and CLOCK.
//!
//! A policy sees tokens, one for each frame of a shard. A page keeps its token when it moves to another frame. Policies
//! are called by all who miss, at the same time.

use std::sync::atomic::{AtomicU32, Ordering};

use super::s3fifo::S3Fifo;

/// How pages are chosen that make room for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// A hand goes round the frames; a page that was used since its last visit is spared once.
    Clock,
    /// Three queues: pages are on probation in a small one, what is used again there goes to the main one, and what is
    /// asked for again soon after it went goes there at once (Yang et al., "FIFO queues are all you need for cache
    /// eviction", SOSP 2023). A scan passes through the small queue and leaves the main one alone.
    #[default]
    S3Fifo,
}

/// What became of an attempt to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The frame is the caller's; the hash is that of the page that was in it, if there was one.
    Evicted(Option<u64>),
    /// Somebody needs it.
    InUse,
}

/// The frames, as a policy sees them.
pub(crate) trait Frames {
    /// How often the page was used, up to the policy's most, and one less from now on, or none.
    fn fade(&self, token: u32, all: bool) -> u8;
    /// As it is.
    fn used(&self, token: u32) -> u8;
    /// Tries to empty the frame.
    fn evict(&self, token: u32) -> Attempt;
}

/// How many frames one call looks at, at most: a call is part of a shard's turn. The next one goes on from there.
pub(crate) const STEPS_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) enum Policy {
    Clock(Clock),
    S3Fifo(Box<S3Fifo>),
}

impl Policy {
    /// For tokens `0..tokens`, of which some may be in reserve.
    pub(crate) fn new(eviction: Eviction, tokens: u32) -> Self {
        match eviction {
            Eviction::Clock => Self::Clock(Clock::new(tokens)),
            Eviction::S3Fifo => Self::S3Fifo(Box::new(S3Fifo::new(tokens))),
        }
    }

    /// How many uses it wants to be told of.
    pub(crate) fn used_max(eviction: Eviction) -> u8 {
        match eviction {
            Eviction::Clock => 1,
            Eviction::S3Fifo => 3,
        }
    }

    /// A page has come into the token's frame.
    pub(crate) fn admit(&self, token: u32, hash: u64) {
        match self {
            Self::Clock(_) => {}
            Self::S3Fifo(policy) => policy.admit(token, hash),
        }
    }

    /// A frame that has been emptied; `None` when none was found in [`STEPS_MAX`] steps.
    pub(crate) fn evict(&self, frames: &impl Frames) -> Option<u32> {
        match self {
            Self::Clock(policy) => policy.evict(frames),
            Self::S3Fifo(policy) => policy.evict(frames),
        }
    }
}

/// A hand over a shard's frames. A page that has just come counts as not used, so that a scan's pages go in the hand's
/// first round.
#[derive(Debug)]
pub(crate) struct Clock {
    hand: AtomicU32,
    tokens: u32,
}

impl Clock {
    fn new(tokens: u32) -> Self {
        Self {
            hand: AtomicU32::new(0),
            tokens,
        }
    }

    fn evict(&self, frames: &impl Frames) -> Option<u32> {
        for _ in 0..STEPS_MAX {
            // Relaxed: the hand only has to be somewhere else for everybody. When the count wraps around it jumps.
            let token = self.hand.fetch_add(1, Ordering::Relaxed) % self.tokens;
            if frames.fade(token, false) == 0 && frames.evict(token) != Attempt::InUse {
                return Some(token);
            }
        }
        None
    }
}
