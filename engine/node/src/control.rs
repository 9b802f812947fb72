//! Control calls: rare, allowed to allocate, carried out by the shard between two bursts.

use std::sync::mpsc::Sender;

use sandrail_proto::aoe::initiator::{
    AttachError, AttachFailure, PinnedMacs, Sighting, TargetInfo,
};
use sandrail_proto::time::Instant;
use sandrail_wire::TargetAddr;

use crate::cache::ShardFlushError;
use crate::hub::TargetHandle;
use crate::stat::ShardStat;

/// What a shard left behind when it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Requests that had not ended.
    pub open_requests: usize,
    /// Writes that were answered but whose copies are not all accounted for (S3).
    pub unaccounted: usize,
}

impl StopReport {
    /// Whether nothing was left.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.open_requests == 0 && self.unaccounted == 0
    }
}

/// Why one shard did not attach a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShardAttachError {
    #[error(transparent)]
    Begin(#[from] AttachError),
    #[error(transparent)]
    Failed(#[from] AttachFailure),
}

/// A call and where its answer goes.
#[derive(Debug)]
pub(crate) enum Control {
    /// Asks who is there, repeatedly, until `until`; the sender is dropped then.
    Discover {
        sightings: Sender<Sighting>,
        until: Instant,
    },
    Attach {
        handle: TargetHandle,
        addr: TargetAddr,
        pinned: PinnedMacs,
        reply: Sender<Result<TargetInfo, ShardAttachError>>,
    },
    Detach {
        handle: TargetHandle,
        reply: Sender<()>,
    },
    Target {
        handle: TargetHandle,
        reply: Sender<Option<TargetInfo>>,
    },
    AcceptLoss {
        handle: TargetHandle,
        reply: Sender<()>,
    },
    /// Another shard was told by the target that it restarted: this one's session is void, too.
    Inquire {
        handle: TargetHandle,
    },
    /// Has all dirty pages of a volume written that this shard has.
    FlushPages {
        volume: u32,
        deadline: Instant,
        reply: Sender<Result<(), ShardFlushError>>,
    },
    Stat {
        reply: Sender<Box<ShardStat>>,
    },
    /// Ends the loop when nothing is under way any more, at the latest at `deadline`.
    Stop {
        deadline: Instant,
        reply: Sender<StopReport>,
    },
}
