//! What goes from a client to a shard and back.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use sandrail_memory::Buffer;
use sandrail_proto::aoe::initiator::{IoError, Operation, Outcome, SubmitError};
use sandrail_proto::time::Instant;

use crate::doorbell::Doorbell;
use crate::hub::TargetHandle;
use crate::os::EventFd;

/// What a client asks for. A data operation's length is the buffer's visible length ([`Buffer::set_len`]).
#[derive(Debug)]
pub struct Request {
    /// Whom.
    pub target: TargetHandle,
    /// What.
    pub operation: Operation,
    /// Data in or out; [`Buffer::empty`] for a flush.
    pub buffer: Buffer,
    /// Given up when this much time has passed since the submission.
    pub timeout: Duration,
    /// The caller's own; returned with the completion.
    pub user: u64,
}

/// Why a request was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The client has its full depth under way.
    #[error("{depth} requests are under way, the client's depth")]
    Depth {
        /// The depth.
        depth: usize,
    },
    /// The shard's ring is full: take completions, try again.
    #[error("shard {shard} has a full request ring")]
    RingFull {
        /// Which.
        shard: usize,
    },
    /// A stripe ends within the range ([`crate::Client::sectors_to_stripe_end`]); split the request there.
    #[error("sectors {lba}..{end} cross the stripe that ends at {stripe_end}")]
    CrossesStripe {
        /// First sector.
        lba: u64,
        /// One past the last.
        end: u64,
        /// Where the stripe ends.
        stripe_end: u64,
    },
    /// The handle is none of this node's, or its target was detached.
    #[error("no such target")]
    NoTarget,
    /// The node shuts down.
    #[error("the node is shutting down")]
    Stopping,
}

/// A request that was not taken, back with its buffer.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub why: Refusal,
    /// All of it.
    pub request: Request,
}

/// Why a request that was taken failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It was sent, or waited to be, and failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The initiator would not have it.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// The node stopped before its end. A write may or may not have happened.
    #[error("the node stopped")]
    Stopped,
}

/// A request under way, unique within its client for 2^32 submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) slot: u32,
    pub(crate) count: u32,
}

/// A request's end.
#[derive(Debug)]
pub struct Completion {
    /// What `submit` returned.
    pub ticket: Ticket,
    /// The target.
    pub target: TargetHandle,
    /// The request's own words.
    pub operation: Operation,
    /// The caller's own.
    pub user: u64,
    /// When it was submitted ([`crate::clock`]).
    pub submitted_at: Instant,
    /// When its shard had the result.
    pub completed_at: Instant,
    /// How it went.
    pub result: Result<Outcome, RequestError>,
    /// The buffer, back ([`Buffer::empty`] after [`RequestError::Stopped`]). After a failed read its content means
    /// nothing.
    pub buffer: Buffer,
}

/// Client to shard.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) target: TargetHandle,
    pub(crate) operation: Operation,
    pub(crate) buffer: Buffer,
    pub(crate) timeout: Duration,
    pub(crate) submitted_at: Instant,
    /// The client's slot.
    pub(crate) slot: u32,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// Shard to client.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) slot: u32,
    pub(crate) completed_at: Instant,
    pub(crate) result: Result<Outcome, RequestError>,
    pub(crate) buffer: Buffer,
}

/// Where a client's completions arrive. It holds as many as can be under way, so that a shard never finds it full.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) done: ArrayQueue<Done>,
    pub(crate) doorbell: Doorbell<EventFd>,
}

impl Mailbox {
    /// Hands a completion over. A mailbox whose client is gone keeps it (and its buffer) until its last job is dropped.
    pub(crate) fn deliver(&self, done: Done) {
        let pushed = self.done.push(done);
        assert!(
            pushed.is_ok(),
            "a mailbox holds one place for each part under way"
        );
        self.doorbell.notify();
    }
}
