//! What can go wrong between pages and targets.

use sandrail_memory::cache::{PageId, WriteError};
use sandrail_proto::aoe::initiator::RestartEvidence;

use crate::blocking::BlockingError;

/// Why a volume was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The number is beyond `cache.volumes_max`.
    #[error("volume {number} can't be: volumes are numbered below {count}")]
    Number {
        /// Given.
        number: u32,
        /// The number of volumes.
        count: u32,
    },
    /// Something is bound to the number, or still being let go of.
    #[error("volume {0} is bound already")]
    InUse(u32),
    /// Its pages would not be whole, or not aligned.
    #[error("{sectors} sectors from {first} are not whole pages of {page_sectors} sectors")]
    Pages {
        /// First sector.
        first: u64,
        /// Length in sectors.
        sectors: u64,
        /// Sectors of a page.
        page_sectors: u64,
    },
    /// The device ends before the volume.
    #[error("{sectors} sectors from {first} lie past the device's end ({device_sectors} sectors)")]
    PastEnd {
        /// First sector.
        first: u64,
        /// Length in sectors.
        sectors: u64,
        /// The device's.
        device_sectors: u64,
    },
    /// Another volume has some of the same sectors: their pages would not know of each other's changes.
    #[error("volume {0} has some of the same sectors")]
    Overlaps(u32),
    /// The handle is none of this node's, or its target was detached.
    #[error("no such target")]
    NoTarget,
    /// A shard did not answer.
    #[error("a shard does not answer")]
    Silent,
}

/// What a shard says of its part of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShardFlushError {
    Write(WriteError),
    Timeout { pages: usize, one: Option<PageId> },
}

/// Why a volume's pages are not durable.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// Nothing is bound to the number.
    #[error("volume {0} is not bound")]
    Unbound(u32),
    /// A page could not be written. It is dirty still.
    #[error(transparent)]
    Write(WriteError),
    /// Pages were not written in time: the log holds them back, or the target is too slow.
    #[error("{pages} pages were not written in time{}", of(*one))]
    Timeout {
        /// How many, on the first shard that says so.
        pages: usize,
        /// One of them.
        one: Option<PageId>,
    },
    /// The target lost what was not flushed, or may have (S7): [`crate::Node::accept_loss`], then
    /// [`crate::NodeCache::rewrite_unflushed`], then once more.
    #[error("the target may have lost what it had not flushed ({0:?})")]
    Lost(RestartEvidence),
    /// All is written, and the target's flush failed otherwise.
    #[error("all pages are written, but not flushed: {0}")]
    Target(BlockingError),
    /// No descriptor for the flush.
    #[error("cannot begin: {0}")]
    Start(std::io::Error),
    /// A shard did not answer.
    #[error("a shard does not answer")]
    Silent,
}

fn of(one: Option<PageId>) -> String {
    one.map_or(String::new(), |page| format!(", {page} among them"))
}

impl From<ShardFlushError> for FlushError {
    fn from(error: ShardFlushError) -> Self {
        match error {
            ShardFlushError::Write(error) => Self::Write(error),
            ShardFlushError::Timeout { pages, one } => Self::Timeout { pages, one },
        }
    }
}

/// Why a volume is not free.
#[derive(Debug, thiserror::Error)]
pub enum UnbindError {
    /// Nothing is bound to the number.
    #[error("volume {0} is not bound")]
    Unbound(u32),
    /// It has changes that are not written. It is as it was.
    #[error("{pages} pages are dirty{}", of(*one))]
    Dirty {
        /// How many.
        pages: usize,
        /// One of them.
        one: Option<PageId>,
    },
    /// Its changes can't be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// Somebody has pages of it, or they can't be written. It is closed.
    #[error("{pages} pages are still in use{}", error.map_or(String::new(), |error| format!("; {error}")))]
    Held {
        /// How many.
        pages: usize,
        /// A write that has failed lately, of whatever volume.
        error: Option<WriteError>,
    },
}

/// Pages that the target lost, or may have, and that are not in the cache any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{pages} pages of volume {number} were written, left the cache before they were flushed, and may be lost"
)]
pub struct GoneUnflushed {
    /// The volume.
    pub number: u32,
    /// How many, at most: a page counts each time that it left.
    pub pages: u64,
    /// Pages that were in the cache, and are dirty again.
    pub again: u64,
}
