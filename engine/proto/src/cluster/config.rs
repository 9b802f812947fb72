//! What a node is told of its cluster, and how fast it loses patience.

use core::time::Duration;

use sandrail_wire::MacAddr;
use sandrail_wire::cluster::{MEMBERS_MAX, NODES_MAX};
use sandrail_wire::lock::{ClusterId, NodeId, Seal};

/// The most voting areas.
pub const AREAS_MAX: usize = 7;
/// The most data targets: a set of them is a word.
pub const TARGETS_MAX: usize = 64;

/// A node that may become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its number.
    pub node: NodeId,
    /// The MACs of all of its shards, on all interfaces (S12).
    pub macs: Vec<MacAddr>,
}

/// How a data target is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Reservations by epoch, kept over restarts: our blade.
    Epochs,
    /// A plain list, which it forgets when it restarts; serial, as vblade is.
    Foreign,
}

/// Times, and the sectors that go with them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between two heartbeats on the network.
    pub heartbeat: Duration,
    /// Heartbeats that may be missed in a row before a node is suspected.
    pub missed_max: u32,
    /// Between two heartbeats on a voting area.
    pub disk_heartbeat: Duration,
    /// Of those, how many may be missed in a row.
    pub disk_missed_max: u32,
    /// After this time without an answer a voting area is asked anew, by another sector.
    pub area_timeout: Duration,
    /// How long a lease lasts from the sending of its renewal on (S13).
    pub lease: Duration,
    /// By how much two clocks may have drifted apart within a lease.
    pub clock_margin: Duration,
    /// The longest life of a frame (S2).
    pub frame_lifetime: Duration,
    /// How long a node that is cut off on the network, but alive on the voting areas, is waited for.
    pub cut_after: Duration,
    /// How long a node that is heard, but does not reach the voting areas, is waited for.
    pub disk_lost_after: Duration,
    /// How long a target may be silent before recovery goes on without it. It stays offline for everybody.
    pub target_timeout: Duration,
    /// Between two attempts at a target.
    pub target_retry: Duration,
    /// Between two looks at the list of a target that forgets.
    pub target_recheck: Duration,
    /// Sectors of each node on each voting area. A sector is not written again before a frame's lifetime has passed (S4).
    pub sectors_per_node: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(20),
            missed_max: 10,
            disk_heartbeat: Duration::from_millis(50),
            disk_missed_max: 4,
            area_timeout: Duration::from_millis(500),
            lease: Duration::from_millis(300),
            clock_margin: Duration::from_millis(5),
            frame_lifetime: Duration::from_secs(2),
            cut_after: Duration::from_millis(500),
            disk_lost_after: Duration::from_secs(1),
            target_timeout: Duration::from_secs(3),
            target_retry: Duration::from_millis(100),
            target_recheck: Duration::from_secs(1),
            sectors_per_node: 64,
        }
    }
}

impl Settings {
    /// How long nothing may be heard of a node on the network.
    #[must_use]
    pub fn suspect_after(&self) -> Duration {
        self.heartbeat * self.missed_max
    }

    /// How long a node's blocks may stay the same.
    #[must_use]
    pub fn disk_suspect_after(&self) -> Duration {
        self.disk_heartbeat * self.disk_missed_max
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("heartbeat", self.heartbeat),
            ("disk_heartbeat", self.disk_heartbeat),
            ("area_timeout", self.area_timeout),
            ("frame_lifetime", self.frame_lifetime),
            ("target_retry", self.target_retry),
            ("target_recheck", self.target_recheck),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, time)| time.is_zero()) {
            return Err(ConfigError::Zero(name));
        }
        if self.missed_max < 2 || self.disk_missed_max < 2 {
            return Err(ConfigError::Missed);
        }
        // A lease that outlasts no renewal would lapse all the time.
        if self.lease < self.disk_heartbeat * 3 || self.clock_margin >= self.lease {
            return Err(ConfigError::Lease);
        }
        let rotation = self.disk_heartbeat * u32::from(self.sectors_per_node);
        if rotation < self.frame_lifetime + self.frame_lifetime / 2 {
            return Err(ConfigError::Rotation);
        }
        Ok(())
    }
}

/// All that a node is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// All nodes that may become members, this one among them.
    pub nodes: Vec<NodeConfig>,
    /// How many voting areas there are: an odd number.
    pub areas: usize,
    /// The data targets, by place.
    pub targets: Vec<TargetKind>,
    /// How frames and blocks are sealed. The code, if there is a key, is in frames only.
    pub seal: Seal,
    /// Times.
    pub settings: Settings,
    /// Whether frames of a former life of this node may still be under way. Then this one waits for a frame's lifetime
    /// before it says or writes anything (S3, S10). Only who knows better says no.
    pub may_have_predecessor: bool,
}

/// Why a configuration cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// This node is not in the list.
    #[error("node {0} is not among the nodes")]
    NotListed(NodeId),
    /// A node is listed twice.
    #[error("node {0} is listed twice")]
    NodeTwice(NodeId),
    /// A node's number is too large.
    #[error("node {0} is not below {NODES_MAX}")]
    NodeNumber(NodeId),
    /// More nodes than a view holds.
    #[error("{0} nodes, {MEMBERS_MAX} are allowed")]
    Nodes(usize),
    /// A node without a MAC cannot be let in by any target.
    #[error("node {0} has no MAC")]
    NoMac(NodeId),
    /// Two shards with the same MAC: to fence one is to fence both.
    #[error("MAC {0:?} is listed twice")]
    MacTwice(MacAddr),
    /// Of an even number half may be lost and the other half decides nothing; of none nobody decides anything.
    #[error("{0} voting areas: an odd number up to {AREAS_MAX} is needed")]
    Areas(usize),
    /// No data target, or too many.
    #[error("{0} data targets, 1 to {TARGETS_MAX} are allowed")]
    Targets(usize),
    /// A time that must not be zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// One missed heartbeat is no reason to suspect anybody.
    #[error("at least two heartbeats must be missed before a node is suspected")]
    Missed,
    /// The lease is too short to be renewed in time, or shorter than the clocks' margin.
    #[error(
        "the lease must last for three heartbeats on the voting areas, and longer than the clock's margin"
    )]
    Lease,
    /// The sectors are too few to leave each alone for a frame's lifetime (S4).
    #[error(
        "too few sectors a node: rewriting all of them must take one and a half frame lifetimes"
    )]
    Rotation,
    /// An incarnation of 0 names no life.
    #[error("no incarnation")]
    NoIncarnation,
}

impl Config {
    /// Looks for contradictions.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.nodes.len() > MEMBERS_MAX {
            return Err(ConfigError::Nodes(self.nodes.len()));
        }
        let mut macs: Vec<MacAddr> = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if node.node.0 >= NODES_MAX {
                return Err(ConfigError::NodeNumber(node.node));
            }
            if self.nodes[..at].iter().any(|other| other.node == node.node) {
                return Err(ConfigError::NodeTwice(node.node));
            }
            if node.macs.is_empty() {
                return Err(ConfigError::NoMac(node.node));
            }
            for mac in &node.macs {
                if macs.contains(mac) {
                    return Err(ConfigError::MacTwice(*mac));
                }
                macs.push(*mac);
            }
        }
        if !self.nodes.iter().any(|node| node.node == self.node) {
            return Err(ConfigError::NotListed(self.node));
        }
        if self.areas.is_multiple_of(2) || self.areas > AREAS_MAX {
            return Err(ConfigError::Areas(self.areas));
        }
        if self.targets.is_empty() || self.targets.len() > TARGETS_MAX {
            return Err(ConfigError::Targets(self.targets.len()));
        }
        self.settings.check()
    }

    /// How many voting areas are a majority.
    #[must_use]
    pub const fn majority(&self) -> usize {
        self.areas / 2 + 1
    }
}
