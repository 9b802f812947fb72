//! What nodes tell each other of the cluster's membership: heartbeat frames on the SAN, and the blocks that each node writes
//! to the voting areas, for heartbeats and ballots alike.
//!
//! Drawn byte by byte in `docs/membership.md`, which also tells what the fields are for.

mod block;
mod heartbeat;
mod view;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use core::fmt;

pub use block::{BLOCK_BYTES, Ballot, Block};
pub use heartbeat::{ALL_NODES, FenceReport, HEARTBEAT_BYTES, Heartbeat};
pub use view::{Life, MEMBERS_MAX, Members, NODES_MAX, View};

/// The version of frames and blocks that is written, and the only one that is read (S21). Where it lies never changes.
pub const CLUSTER_VERSION: u8 = 1;

/// What a node is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// 0: wants to become a member.
    #[default]
    Joining,
    /// 1: a member.
    Member,
    /// 2: a member that wants to leave, and has nothing under way.
    Leaving,
}

impl NodeState {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Joining => 0,
            Self::Member => 1,
            Self::Leaving => 2,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Joining),
            1 => Some(Self::Member),
            2 => Some(Self::Leaving),
            _ => None,
        }
    }
}

/// Why bytes are no heartbeat, or no block, for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterError {
    /// They end before the fields do.
    Truncated {
        /// Bytes up to the end of the last field.
        need_bytes: usize,
        /// Bytes that are there.
        have_bytes: usize,
    },
    /// They do not begin with the mark of the format.
    NotOurs,
    /// Another version, this one.
    Version(u8),
    /// The checksum is another one.
    Checksum,
    /// Features or flags that must be understood and are not.
    Features(u32),
    /// A code is required and there is none, or the reverse.
    MacExpected(bool),
    /// The code is not that of the bytes.
    MacWrong,
    /// A state that this version does not define.
    State(u8),
    /// A view that no node can have decided.
    View(&'static str),
    /// A ballot that no node can hold.
    Ballot(&'static str),
    /// A node's number is too large, or its incarnation is not known.
    Sender,
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated {
                need_bytes,
                have_bytes,
            } => write!(f, "cut off: {have_bytes} of {need_bytes} bytes"),
            Self::NotOurs => f.write_str("not of this format"),
            Self::Version(version) => write!(f, "version {version}, not {CLUSTER_VERSION}"),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::Features(bits) => write!(f, "unknown features {bits:#x} that must be understood"),
            Self::MacExpected(true) => {
                f.write_str("no message authentication code, which is required")
            }
            Self::MacExpected(false) => {
                f.write_str("a message authentication code, and no key for it")
            }
            Self::MacWrong => f.write_str("wrong message authentication code"),
            Self::State(state) => write!(f, "unknown state {state}"),
            Self::View(why) => write!(f, "impossible view: {why}"),
            Self::Ballot(why) => write!(f, "impossible ballot: {why}"),
            Self::Sender => f.write_str("a sender that cannot be"),
        }
    }
}

impl core::error::Error for ClusterError {}

/// The `N` bytes at `at`, which the caller has found to be there.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}
