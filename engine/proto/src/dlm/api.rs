//! What is asked of a node of the lock manager, and what it tells.

use core::time::Duration;

use sandrail_wire::lock::{
    Epoch, GrantNumber, Incarnation, Mode, NodeId, Path, ResourceName, Transaction, VALUE_BYTES,
    ValueBlock,
};

/// The most nodes of a cluster; they are numbered from 0, so that a set of them is a word.
pub const NODES_MAX: u16 = 64;

/// One life of a node in the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its life. A member that comes with another one has died in between.
    pub incarnation: Incarnation,
}

/// What a membership change says.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its number. Only views with a greater number than the last one count.
    pub epoch: Epoch,
    /// Who is in it.
    pub members: &'a [Member],
    /// Dead lives whose log nobody has replayed yet, those included which are new among the dead: what they wrote under
    /// their locks may not be on the disk. [`Node::replayed`](super::Node::replayed) ends that for one of them.
    pub unreplayed: &'a [Member],
}

/// Why a view does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// It is not newer than the one in force.
    #[error("epoch {0} is not newer than the one in force")]
    Stale(Epoch),
    /// A node's number is too large.
    #[error("node {0} is not below {NODES_MAX}")]
    Node(NodeId),
    /// The number does not fit the 24 bits that a grant number has for it.
    #[error("epoch {0} does not fit a grant number")]
    Epoch(Epoch),
    /// A node is in it twice.
    #[error("node {0} is a member twice")]
    Twice(NodeId),
}

/// A lock that a client has or wants: a place and its generation, so that a name kept too long names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// How a request is treated, as bits. What they do is OpenVMS's and OpenDLM's; `docs/locks.md` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// At once or not at all.
    pub const NOQUEUE: Self = Self(1);
    /// A new NL lock that ignores the queues.
    pub const EXPEDITE: Self = Self(1 << 1);
    /// A new lock to the head of its queue.
    pub const HEADQUE: Self = Self(1 << 2);
    /// A conversion that queues behind those which wait.
    pub const QUECVT: Self = Self(1 << 3);
    /// PR will do as well.
    pub const ALTPR: Self = Self(1 << 4);
    /// CW will do as well.
    pub const ALTCW: Self = Self(1 << 5);
    /// A conversion that loses its mode to NL rather than be a deadlock's victim.
    pub const CONVDEADLK: Self = Self(1 << 6);
    /// With NOQUEUE: holders are told of it even so.
    pub const NOQUEUEBAST: Self = Self(1 << 7);

    /// Those in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A request for a new lock.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The caller's own name for it, which events repeat.
    pub client: u64,
    /// Of what.
    pub resource: ResourceName,
    /// In which mode.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// For which transaction; [`Transaction::NONE`] takes part in no deadlock.
    pub transaction: Transaction,
    /// How long it may wait.
    pub timeout: Option<Duration>,
}

/// A request to change the mode of a lock that is held.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The mode wanted.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// How long it may wait.
    pub timeout: Option<Duration>,
    /// Written to the value block, if the mode held is PW or EX and the new one does not exceed it.
    pub value: Option<[u8; VALUE_BYTES]>,
}

/// Why a request has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such lock (any more).
    #[error("no such lock")]
    UnknownLock,
    /// The lock waits already.
    #[error("a request for this lock is under way")]
    Busy,
    /// Only a lock that is held can be converted.
    #[error("the lock is not held")]
    NotHeld,
    /// Flags that exclude each other, or not for this request or mode.
    #[error("flags that do not go with this request")]
    BadFlags,
    /// Value blocks are written from PW and EX only.
    #[error("a value block is written from PW or EX only")]
    BadValue,
    /// No room for another lock, resource, or timeout.
    #[error("the table of {0} is full")]
    Full(&'static str),
    /// The lock has writes under way, without which it may not be given up (S3).
    #[error("writes under the lock are under way")]
    WritesUnderWay,
    /// This node is not a member, or no membership was set.
    #[error("not a member of the cluster")]
    NotMember,
}

/// Why a request ended without what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It would have to wait, and was not to.
    WouldBlock,
    /// It waited for as long as it was to.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It was chosen to break this cycle of transactions.
    Deadlock(Path),
    /// The resource's master has no room for it.
    Full,
    /// The slot's grant numbers are used up until the next epoch.
    Exhausted,
}

/// What a node tells its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request ended well: the lock is held.
    Granted {
        /// The lock.
        lock: LockId,
        /// The caller's name for it.
        client: u64,
        /// The mode, which may be the alternative one.
        mode: Mode,
        /// The number of the node's hold: the fencing token. 0 for an NL lock of which no master knows.
        grant: GrantNumber,
        /// The value block as of now.
        value: ValueBlock,
        /// Whether the conversion had lost its former mode meanwhile (CONVDEADLK).
        demoted: bool,
    },
    /// A conversion with CONVDEADLK lost the mode that its lock had, which is NL now, to end a deadlock; it waits on.
    Demoted {
        /// The lock.
        lock: LockId,
        /// The caller's name for it.
        client: u64,
    },
    /// A request ended without success. A conversion's lock is held as before, a new lock is gone.
    Denied {
        /// The lock.
        lock: LockId,
        /// The caller's name for it.
        client: u64,
        /// Why.
        why: Why,
    },
    /// Somebody waits for this lock.
    Blocking {
        /// The lock.
        lock: LockId,
        /// The caller's name for it.
        client: u64,
        /// The mode that is wanted.
        wanted: Mode,
    },
    /// Numbers that were drawn.
    Drawn {
        /// The caller's name for the request.
        client: u64,
        /// The first. All are greater than any that was drawn, or given to a hold, in the resource's slot before.
        first: GrantNumber,
        /// How many.
        count: u32,
    },
    /// This node is not in the new view: all its locks are void, and its requests have ended.
    Expelled {
        /// The view.
        epoch: Epoch,
    },
}

/// Limits of a node. All memory is taken at the start.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Resources that this node may use or keep at once.
    pub resources_max: u32,
    /// Locks of its clients.
    pub locks_max: u32,
    /// Resources that it may be the master of.
    pub mastered_max: u32,
    /// Holds and requests of nodes on those.
    pub holds_max: u32,
    /// Value blocks of either side.
    pub values_max: u32,
    /// Requests with a time limit that may wait at once.
    pub timeouts_max: u32,
    /// How long a holder may go on serving its own clients after a blocking notice.
    pub hold_min: Duration,
    /// How many of them at most.
    pub turns_max: u16,
    /// Requests with HEADQUE that may pass the same waiting one.
    pub overtakes_max: u16,
    /// How long a request waits before a deadlock is looked for, and between two looks.
    pub probe_after: Duration,
}

impl Config {
    /// A small node.
    #[must_use]
    pub const fn small(node: NodeId) -> Self {
        Self {
            node,
            resources_max: 4096,
            locks_max: 4096,
            mastered_max: 4096,
            holds_max: 16_384,
            values_max: 8192,
            timeouts_max: 1024,
            hold_min: Duration::from_micros(5),
            turns_max: 32,
            overtakes_max: 16,
            probe_after: Duration::from_millis(10),
        }
    }
}
