//! Heartbeat frames: that a node lives, whom it hears, which view it has, and how far the fence is.

use super::view::{NODES_MAX, VIEW_BYTES, View};
use super::{CLUSTER_VERSION, ClusterError, Life, NodeState, field};
use crate::lock::{CRC_BYTES, ClusterId, CoreId, Epoch, Incarnation, MAC_BYTES, NodeId, Seal};
use crate::{BufferTooSmall, claim};

/// Bytes of a heartbeat behind the Ethernet header, before its seal.
pub const HEARTBEAT_BYTES: usize = 72 + VIEW_BYTES;
/// As the receiver: every node.
pub const ALL_NODES: NodeId = NodeId(u16::MAX);

const MAGIC: [u8; 2] = *b"SH";
const FLAG_RECOVERY: u8 = 1;
/// Feature bits that a reader must know.
const BINDING: u32 = 0xffff_0000;
const FEATURE_MAC: u32 = 1 << 16;

/// How far a coordinator is with fencing for its view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FenceReport {
    /// The view.
    pub epoch: Epoch,
    /// Targets that are fenced, a bit each by their place in the configuration.
    pub fenced: u64,
    /// Targets that could not be fenced so far, and that nobody may use before they are.
    pub offline: u64,
    /// Every target is one or the other: recovery may begin.
    pub is_complete: bool,
}

/// Meaning of a heartbeat frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The cluster that this is about.
    pub cluster: ClusterId,
    /// Who sends.
    pub from: Life,
    /// For whom: a node, or [`ALL_NODES`].
    pub to: NodeId,
    /// The receiver's core, where the steering program looks for it in lock frames, too.
    pub to_core: CoreId,
    /// Counts up within the sender's life.
    pub sequence: u64,
    /// What the sender is about.
    pub state: NodeState,
    /// Nodes that the sender hears, a bit each.
    pub hears: u64,
    /// How far the fence is, as far as the sender knows.
    pub fence: FenceReport,
    /// The newest view that the sender knows to be decided.
    pub view: View,
}

impl Heartbeat {
    /// Reads a frame behind its Ethernet header; bytes behind it are padding.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing of such a frame is to be believed.
    pub fn parse(bytes: &[u8], seal: &Seal) -> Result<Self, ClusterError> {
        let truncated = |need_bytes| ClusterError::Truncated {
            need_bytes,
            have_bytes: bytes.len(),
        };
        let head = bytes.first_chunk::<3>().ok_or_else(|| truncated(3))?;
        if head[..2] != MAGIC {
            return Err(ClusterError::NotOurs);
        }
        if head[2] != CLUSTER_VERSION {
            return Err(ClusterError::Version(head[2]));
        }
        let body = bytes
            .first_chunk::<HEARTBEAT_BYTES>()
            .ok_or_else(|| truncated(HEARTBEAT_BYTES))?;
        let features = u32::from_be_bytes(field(body, 4));
        let mac_bytes = if features & FEATURE_MAC == 0 {
            0
        } else {
            MAC_BYTES
        };
        let sealed_bytes = HEARTBEAT_BYTES + mac_bytes;
        let (sealed, crc) = bytes
            .split_at_checked(sealed_bytes)
            .and_then(|(sealed, rest)| Some((sealed, *rest.first_chunk::<CRC_BYTES>()?)))
            .ok_or_else(|| truncated(sealed_bytes + CRC_BYTES))?;
        if seal.crc(sealed) != u32::from_be_bytes(crc) {
            return Err(ClusterError::Checksum);
        }
        let unknown = features & BINDING & !FEATURE_MAC;
        let unknown = unknown | u32::from(body[38] & !FLAG_RECOVERY);
        if unknown != 0 {
            return Err(ClusterError::Features(unknown));
        }
        match (
            sealed[HEARTBEAT_BYTES..].first_chunk::<MAC_BYTES>(),
            seal.is_keyed(),
        ) {
            (None, true) => return Err(ClusterError::MacExpected(true)),
            (Some(_), false) => return Err(ClusterError::MacExpected(false)),
            (Some(mac), true) if !seal.verify(body, *mac) => return Err(ClusterError::MacWrong),
            _ => {}
        }
        Self::read(body)
    }

    fn read(body: &[u8; HEARTBEAT_BYTES]) -> Result<Self, ClusterError> {
        let from = Life {
            node: NodeId(u16::from_be_bytes(field(body, 32))),
            incarnation: Incarnation(u64::from_be_bytes(field(body, 16))),
        };
        if from.node.0 >= NODES_MAX || !from.incarnation.is_known() {
            return Err(ClusterError::Sender);
        }
        Ok(Self {
            cluster: ClusterId(u64::from_be_bytes(field(body, 8))),
            from,
            to: NodeId(u16::from_be_bytes(field(body, 34))),
            to_core: CoreId(body[37]),
            sequence: u64::from_be_bytes(field(body, 24)),
            state: NodeState::from_byte(body[3]).ok_or(ClusterError::State(body[3]))?,
            hears: u64::from_be_bytes(field(body, 40)),
            fence: FenceReport {
                epoch: Epoch(u64::from_be_bytes(field(body, 48))),
                fenced: u64::from_be_bytes(field(body, 56)),
                offline: u64::from_be_bytes(field(body, 64)),
                is_complete: body[38] & FLAG_RECOVERY != 0,
            },
            view: View::parse(&body[72..])?,
        })
    }

    /// Writes the frame to the start of `out`, which begins behind the Ethernet header, and returns its length.
    ///
    /// # Errors
    /// [`BufferTooSmall`], with nothing written.
    pub fn emit(&self, out: &mut [u8], seal: &Seal) -> Result<usize, BufferTooSmall> {
        let len_bytes = HEARTBEAT_BYTES + seal.len_bytes();
        let (body, rest) = claim(out, len_bytes)?.split_at_mut(HEARTBEAT_BYTES);
        body.fill(0);
        body[..2].copy_from_slice(&MAGIC);
        body[2] = CLUSTER_VERSION;
        body[3] = self.state.to_byte();
        let features = if seal.is_keyed() { FEATURE_MAC } else { 0 };
        body[4..8].copy_from_slice(&features.to_be_bytes());
        body[8..16].copy_from_slice(&self.cluster.0.to_be_bytes());
        body[16..24].copy_from_slice(&self.from.incarnation.0.to_be_bytes());
        body[24..32].copy_from_slice(&self.sequence.to_be_bytes());
        body[32..34].copy_from_slice(&self.from.node.0.to_be_bytes());
        body[34..36].copy_from_slice(&self.to.0.to_be_bytes());
        body[37] = self.to_core.0;
        body[38] = if self.fence.is_complete {
            FLAG_RECOVERY
        } else {
            0
        };
        body[40..48].copy_from_slice(&self.hears.to_be_bytes());
        body[48..56].copy_from_slice(&self.fence.epoch.0.to_be_bytes());
        body[56..64].copy_from_slice(&self.fence.fenced.to_be_bytes());
        body[64..72].copy_from_slice(&self.fence.offline.to_be_bytes());
        self.view.emit(&mut body[72..]);
        if let Some(mac) = seal.mac(body) {
            rest[..MAC_BYTES].copy_from_slice(&mac);
        }
        let crc = seal.crc(&out[..len_bytes - CRC_BYTES]);
        out[len_bytes - CRC_BYTES..len_bytes].copy_from_slice(&crc.to_be_bytes());
        Ok(len_bytes)
    }
}
