//! What goes into the membership and what comes out, and the seam at which another provider of it would stand.

use sandrail_wire::MacAddr;
use sandrail_wire::cluster::{BLOCK_BYTES, ClusterError, Life, View};
use sandrail_wire::lock::{Epoch, NodeId};

use crate::time::Instant;

/// What the rest of a node needs of its membership, whoever provides it.
pub trait Membership {
    /// The newest view that is known.
    fn view(&self) -> &View;
    /// Whether this node may act as a member now: to be asked before every transmit burst, and after the last read and
    /// before any answer leaves (S13).
    fn lease_valid(&self, now: Instant) -> bool;
    /// Whether locks that this dead life held may be granted to others (S14): it is fenced, its lease is over, and this node's
    /// is not. It is about lives that were in a view up to this one.
    fn may_grant_over(&self, dead: Life, now: Instant) -> bool;
    /// Whether a data target, by its place in the configuration, may be used now.
    fn is_usable(&self, target: usize) -> bool;
    /// The next event. Call until there is none, after every other verb.
    fn poll_event(&mut self) -> Option<Event>;
    /// Asks to leave in good order; [`Event::Over`] tells when it is done.
    fn leave(&mut self, now: Instant);
}

/// Why this life is no member any more, and never will be one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It left, as it was asked to.
    Left,
    /// A view without it was decided.
    Expelled(Epoch),
    /// A target has a newer epoch, or refuses it what it had granted before: it has lost a race.
    Fenced,
    /// Another life of this node, or a block of this very incarnation that it did not write, is on a voting area.
    AnotherLife,
    /// Two views of the same epoch were seen: somebody broke the rules, and nothing is safe.
    Split(Epoch),
}

/// What the membership tells.
#[allow(
    clippy::large_enum_variant,
    reason = "views change seldom, and a copy costs less than an allocation would"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A newer view.
    View(View),
    /// Every target is fenced for this epoch, or offline for everybody: recovery may begin.
    RecoveryMayBegin {
        /// The view's number.
        epoch: Epoch,
    },
    /// A target may be used in this epoch.
    TargetFenced {
        /// The view's number.
        epoch: Epoch,
        /// The target's place.
        target: usize,
    },
    /// A target could not be fenced so far. Nobody may use it once recovery begins, and before it is fenced.
    TargetOffline {
        /// The view's number.
        epoch: Epoch,
        /// The target's place.
        target: usize,
    },
    /// A target had forgotten its list, and admitted everybody until it was set anew (S11).
    TargetForgot {
        /// The target's place.
        target: usize,
    },
    /// A target is reserved for others than this cluster's members: an operator has to decide (S12).
    TargetHeld {
        /// The target's place.
        target: usize,
    },
    /// Nothing was heard of a node for too long on the network.
    Suspected {
        /// The node.
        node: NodeId,
        /// It goes on writing to the voting areas: the network is cut, and the node lives.
        is_cut: bool,
    },
    /// A suspected life was heard again: the suspicion was false.
    Cleared {
        /// The node.
        node: NodeId,
    },
    /// This life has ended. Only a new one, with a greater incarnation, may join again.
    Over(End),
}

/// Names a request to a voting area or to a target, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the membership asks of its surroundings. Every target request must be answered at last, if only by
/// [`TargetAnswer::Failed`], and none of its copies may be sent after that. Answers of voting areas may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read sectors of a voting area.
    Read {
        /// The area's place.
        area: usize,
        /// The first sector.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Write a sector of a voting area, unless copies of an earlier write to it are unaccounted for (S3, S4).
    Write {
        /// The area's place.
        area: usize,
        /// The sector.
        sector: u32,
        /// What.
        bytes: Box<[u8; BLOCK_BYTES]>,
    },
    /// Replace a target's reservation list.
    Reserve {
        /// The target's place.
        target: usize,
        /// For which epoch.
        epoch: Epoch,
        /// Whether the epoch is told to the target, which then orders lists by it (S8).
        by_epoch: bool,
        /// The list.
        macs: Vec<MacAddr>,
    },
    /// Read a target's reservation list.
    List {
        /// The target's place.
        target: usize,
    },
    /// Anything that a serial target answers after all that it got before.
    Probe {
        /// The target's place.
        target: usize,
    },
}

/// What came of a request to a voting area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaAnswer<'a> {
    /// It is written.
    Written,
    /// What was read.
    Read(&'a [u8]),
    /// Copies of an earlier write to this sector are unaccounted for.
    Closed,
    /// Nothing. It may be written all the same.
    Failed,
}

/// What came of a request to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetAnswer<'a> {
    /// Done; this list is in force.
    List(&'a [MacAddr]),
    /// A probe was answered.
    Answered,
    /// Error 6: it is reserved for others.
    Reserved,
    /// It has this newer epoch, or another list of the same, by force.
    StaleEpoch(Epoch),
    /// Nothing, and no copy will be sent any more.
    Failed,
}

/// Why a heartbeat does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It cannot be read.
    #[error("unreadable heartbeat: {0}")]
    Codec(#[from] ClusterError),
    /// Another cluster's.
    #[error("heartbeat of another cluster")]
    OtherCluster,
    /// From a node that is not in the configuration, from this node, or for another one.
    #[error("heartbeat from or for a stranger")]
    Stranger,
    /// Older than one that was heard before, or of a former life.
    #[error("late heartbeat")]
    Late,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Heartbeats sent.
    pub beats_sent: u64,
    /// Heartbeats that counted.
    pub beats_heard: u64,
    /// Frames that could not be read.
    pub frames_unreadable: u64,
    /// Frames of other clusters, or of strangers.
    pub frames_foreign: u64,
    /// Late heartbeats.
    pub frames_late: u64,
    /// Nodes that were suspected.
    pub suspicions: u64,
    /// Of those, how many were heard again in the same life.
    pub false_suspicions: u64,
    /// Times that this node found that it had not run for long.
    pub own_pauses: u64,
    /// Ballots begun.
    pub ballots: u64,
    /// Ballots given up for a greater one.
    pub ballots_lost: u64,
    /// Views that this node decided.
    pub decided: u64,
    /// Writes refused because their sector was closed.
    pub sectors_closed: u64,
    /// Requests to voting areas without an answer in time.
    pub area_timeouts: u64,
    /// Requests to voting areas that failed.
    pub area_failures: u64,
    /// Sectors of voting areas that are no block, or not where they belong.
    pub blocks_unreadable: u64,
    /// Reads after which the lease was not renewed, because a view without this node is proposed.
    pub renewals_refused: u64,
    /// Times that a target had forgotten its list.
    pub targets_forgot: u64,
    /// Lists that a target told otherwise than they had been set.
    pub lists_differed: u64,
}
