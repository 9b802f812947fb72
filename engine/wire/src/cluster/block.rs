//! What a node writes to its sectors of a voting area: that it lives, which view it knows, and its ballot for the next one.

use super::view::{NODES_MAX, VIEW_BYTES, View};
use super::{CLUSTER_VERSION, ClusterError, Life, NodeState, field};
use crate::lock::{CRC_BYTES, ClusterId, Epoch, Incarnation, NodeId, Seal};

/// A block is one sector, which a disk writes whole or not at all.
pub const BLOCK_BYTES: usize = 512;

const MAGIC: [u8; 4] = *b"SRVB";
const DECIDED_AT: usize = 96;
const VALUE_AT: usize = DECIDED_AT + VIEW_BYTES;
const CRC_AT: usize = BLOCK_BYTES - CRC_BYTES;
/// Feature bits that a reader must know: none is defined.
const BINDING: u32 = 0xffff_0000;

/// The number of a ballot. No two attempts have the same: a node's next life may not know of the last one's ballots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Grows with every attempt. 0: no ballot.
    pub round: u32,
    /// Whose attempt.
    pub node: NodeId,
    /// In which life.
    pub incarnation: Incarnation,
}

impl Ballot {
    /// Before the first one.
    pub const NONE: Self = Self {
        round: 0,
        node: NodeId(0),
        incarnation: Incarnation(0),
    };

    fn emit(self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.round.to_be_bytes());
        out[4..6].copy_from_slice(&self.node.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.incarnation.0.to_be_bytes());
    }

    fn parse(bytes: &[u8]) -> Self {
        Self {
            round: u32::from_be_bytes(field(bytes, 0)),
            node: NodeId(u16::from_be_bytes(field(bytes, 4))),
            incarnation: Incarnation(u64::from_be_bytes(field(bytes, 8))),
        }
    }
}

/// Meaning of a block. The ballot is for the epoch behind `decided`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The cluster that this is about.
    pub cluster: ClusterId,
    /// The voting area that it was written to, so that one that strayed is noticed.
    pub area: u8,
    /// Who writes.
    pub from: Life,
    /// Counts up within the writer's life: of a node's blocks the one with the greatest incarnation, then sequence, counts.
    pub sequence: u64,
    /// What the writer is about.
    pub state: NodeState,
    /// Nodes that the writer hears on the network, a bit each.
    pub hears: u64,
    /// The newest view that the writer knows to be decided.
    pub decided: View,
    /// The greatest ballot that the writer has begun.
    pub begun: Ballot,
    /// The greatest ballot in which the writer has proposed a view.
    pub proposed: Ballot,
    /// That view; [`View::NONE`] if there is none.
    pub value: View,
}

impl Block {
    /// Reads a sector.
    ///
    /// # Errors
    /// [`ClusterError`]; a sector that was never written is [`ClusterError::NotOurs`].
    pub fn parse(bytes: &[u8; BLOCK_BYTES], seal: &Seal) -> Result<Self, ClusterError> {
        if bytes[..4] != MAGIC {
            return Err(ClusterError::NotOurs);
        }
        if bytes[4] != CLUSTER_VERSION {
            return Err(ClusterError::Version(bytes[4]));
        }
        if seal.crc(&bytes[..CRC_AT]) != u32::from_be_bytes(field(bytes, CRC_AT)) {
            return Err(ClusterError::Checksum);
        }
        let features = u32::from_be_bytes(field(bytes, 8));
        if features & BINDING != 0 {
            return Err(ClusterError::Features(features & BINDING));
        }
        let from = Life {
            node: NodeId(u16::from_be_bytes(field(bytes, 24))),
            incarnation: Incarnation(u64::from_be_bytes(field(bytes, 32))),
        };
        if from.node.0 >= NODES_MAX || !from.incarnation.is_known() {
            return Err(ClusterError::Sender);
        }
        let block = Self {
            cluster: ClusterId(u64::from_be_bytes(field(bytes, 16))),
            area: bytes[6],
            from,
            sequence: u64::from_be_bytes(field(bytes, 40)),
            state: NodeState::from_byte(bytes[5]).ok_or(ClusterError::State(bytes[5]))?,
            hears: u64::from_be_bytes(field(bytes, 48)),
            decided: View::parse(&bytes[DECIDED_AT..])?,
            begun: Ballot::parse(&bytes[56..]),
            proposed: Ballot::parse(&bytes[72..]),
            value: View::parse(&bytes[VALUE_AT..])?,
        };
        block.check()
    }

    /// Incarnation and sequence as they stand in a sector that may be a block: whoever knows newer ones of the node need not
    /// read it. Nothing is checked.
    #[must_use]
    pub fn peek(bytes: &[u8; BLOCK_BYTES]) -> Option<(Incarnation, u64)> {
        (bytes[..4] == MAGIC).then(|| {
            (
                Incarnation(u64::from_be_bytes(field(bytes, 32))),
                u64::from_be_bytes(field(bytes, 40)),
            )
        })
    }

    fn check(self) -> Result<Self, ClusterError> {
        if self.proposed > self.begun {
            return Err(ClusterError::Ballot("proposed before it began"));
        }
        if (self.proposed == Ballot::NONE) != (self.value == View::NONE) {
            return Err(ClusterError::Ballot("a view and no ballot, or the reverse"));
        }
        if self.value != View::NONE && Some(self.value.epoch) != self.next_epoch() {
            return Err(ClusterError::Ballot("not for the next epoch"));
        }
        Ok(self)
    }

    /// The epoch that the ballot is about.
    #[must_use]
    pub fn next_epoch(&self) -> Option<Epoch> {
        self.decided.epoch.0.checked_add(1).map(Epoch)
    }

    /// The sector.
    #[must_use]
    pub fn to_bytes(&self, seal: &Seal) -> [u8; BLOCK_BYTES] {
        let mut out = [0; BLOCK_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = CLUSTER_VERSION;
        out[5] = self.state.to_byte();
        out[6] = self.area;
        out[16..24].copy_from_slice(&self.cluster.0.to_be_bytes());
        out[24..26].copy_from_slice(&self.from.node.0.to_be_bytes());
        out[32..40].copy_from_slice(&self.from.incarnation.0.to_be_bytes());
        out[40..48].copy_from_slice(&self.sequence.to_be_bytes());
        out[48..56].copy_from_slice(&self.hears.to_be_bytes());
        self.begun.emit(&mut out[56..72]);
        self.proposed.emit(&mut out[72..88]);
        self.decided.emit(&mut out[DECIDED_AT..]);
        self.value.emit(&mut out[VALUE_AT..]);
        let crc = seal.crc(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
        out
    }
}
