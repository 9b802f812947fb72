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

/// A frame that a policy would have evicted. Until it hears what became of it, the policy does not have the token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidate {
    pub(crate) token: u32,
    /// It was in the small queue of S3-FIFO.
    pub(crate) on_probation: bool,
}

/// The frames, as a policy sees them.
pub(crate) trait Frames {
    /// How often the page was used, up to the policy's most, and one less from now on, or none.
    fn fade(&self, token: u32, all: bool) -> u8;
    /// As it is.
    fn used(&self, token: u32) -> u8;
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
    pub(crate) fn used_max(eviction: Eviction) -> i8 {
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

    /// The next candidates, as many as there is room for, or as are found in so many steps.
    pub(crate) fn candidates(
        &self,
        frames: &impl Frames,
        found: &mut [Candidate],
        steps: &mut usize,
    ) -> usize {
        match self {
            Self::Clock(policy) => policy.candidates(frames, found, steps),
            Self::S3Fifo(policy) => policy.candidates(frames, found, steps),
        }
    }

    /// A candidate's frame is empty: this was the hash of its page.
    pub(crate) fn gone(&self, candidate: Candidate, hash: u64) {
        match self {
            Self::Clock(_) => {}
            Self::S3Fifo(policy) => policy.gone(candidate, hash),
        }
    }

    /// A candidate's frame is needed.
    pub(crate) fn keep(&self, candidate: Candidate) {
        match self {
            Self::Clock(_) => {}
            Self::S3Fifo(policy) => policy.keep(candidate),
        }
    }

    /// The page will be admitted soon.
    pub(crate) fn hint(&self, hash: u64) {
        match self {
            Self::Clock(_) => {}
            Self::S3Fifo(policy) => policy.hint(hash),
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

    fn candidates(
        &self,
        frames: &impl Frames,
        found: &mut [Candidate],
        steps: &mut usize,
    ) -> usize {
        let mut count = 0;
        while count < found.len() && *steps > 0 {
            *steps -= 1;
            // Relaxed: the hand only has to be somewhere else for everybody. When the count wraps around it jumps.
            let token = self.hand.fetch_add(1, Ordering::Relaxed) % self.tokens;
            if frames.fade(token, false) == 0 {
                found[count].token = token;
                count += 1;
            }
        }
        count
    }
}
