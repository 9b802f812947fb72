//! A version of the membership: its number, its coordinator, and the lives that belong to it.

use super::{ClusterError, field};
use crate::lock::{Epoch, Incarnation, NodeId};

/// Nodes are numbered below this, so that a set of them is a word.
pub const NODES_MAX: u16 = 64;
/// The most members of a view: two views and all else of a block fit a sector.
pub const MEMBERS_MAX: usize = 16;

/// Bytes of a view in frames and blocks.
pub(super) const VIEW_BYTES: usize = 12 + MEMBERS_MAX * LIFE_BYTES;
const LIFE_BYTES: usize = 10;

/// A node in one of its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
}

/// Lives by ascending node numbers, at most one a node and [`MEMBERS_MAX`] in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members {
    lives: [Life; MEMBERS_MAX],
    count: u8,
}

impl Members {
    /// Nobody.
    pub const NONE: Self = Self {
        lives: [Life {
            node: NodeId(0),
            incarnation: Incarnation::UNKNOWN,
        }; MEMBERS_MAX],
        count: 0,
    };

    /// Adds a life, or puts it in the place of another one of its node; `false` when there is no room.
    pub fn insert(&mut self, life: Life) -> bool {
        let count = usize::from(self.count);
        let at = self
            .as_slice()
            .partition_point(|held| held.node < life.node);
        if self
            .as_slice()
            .get(at)
            .is_some_and(|held| held.node == life.node)
        {
            self.lives[at] = life;
            return true;
        }
        if count == MEMBERS_MAX {
            return false;
        }
        self.lives.copy_within(at..count, at + 1);
        self.lives[at] = life;
        self.count += 1;
        true
    }

    /// Takes a node out, whichever its life.
    pub fn remove(&mut self, node: NodeId) {
        let count = usize::from(self.count);
        if let Some(at) = self.as_slice().iter().position(|held| held.node == node) {
            self.lives.copy_within(at + 1..count, at);
            // What lies behind the last member is always the same, so that equal sets are equal in memory.
            self.lives[count - 1] = Life::default();
            self.count -= 1;
        }
    }

    /// The lives, by ascending node numbers.
    #[must_use]
    pub fn as_slice(&self) -> &[Life] {
        &self.lives[..usize::from(self.count)]
    }

    /// Whether this very life is one of them.
    #[must_use]
    pub fn contains(&self, life: Life) -> bool {
        self.as_slice().contains(&life)
    }

    /// The life of this node that is one of them.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<Life> {
        self.as_slice()
            .iter()
            .copied()
            .find(|life| life.node == node)
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl FromIterator<Life> for Members {
    /// Those that fit.
    fn from_iter<I: IntoIterator<Item = Life>>(lives: I) -> Self {
        let mut members = Self::NONE;
        for life in lives {
            members.insert(life);
        }
        members
    }
}

/// A version of the membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// Its number. 0 is before the first one.
    pub epoch: Epoch,
    /// Who fences for it, and changes it as long as it lives: a member.
    pub coordinator: NodeId,
    /// Who belongs to it.
    pub members: Members,
}

impl View {
    /// What there is before anything was decided.
    pub const NONE: Self = Self {
        epoch: Epoch(0),
        coordinator: NodeId(0),
        members: Members::NONE,
    };

    /// The coordinator's life; none in [`View::NONE`].
    #[must_use]
    pub fn coordinator_life(&self) -> Option<Life> {
        self.members.of(self.coordinator)
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        out[..VIEW_BYTES].fill(0);
        out[..8].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[8..10].copy_from_slice(&self.coordinator.0.to_be_bytes());
        out[10] = self.members.count;
        for (bytes, life) in out[12..VIEW_BYTES]
            .chunks_exact_mut(LIFE_BYTES)
            .zip(self.members.as_slice())
        {
            bytes[..2].copy_from_slice(&life.node.0.to_be_bytes());
            bytes[2..].copy_from_slice(&life.incarnation.0.to_be_bytes());
        }
    }

    /// Reads the view at the start of `bytes`, which are long enough.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ClusterError> {
        let count = usize::from(bytes[10]);
        if count > MEMBERS_MAX {
            return Err(ClusterError::View("too many members"));
        }
        let mut members = Members::NONE;
        for at in 0..count {
            let from = 12 + at * LIFE_BYTES;
            let life = Life {
                node: NodeId(u16::from_be_bytes(field(bytes, from))),
                incarnation: Incarnation(u64::from_be_bytes(field(bytes, from + 2))),
            };
            if life.node.0 >= NODES_MAX || !life.incarnation.is_known() {
                return Err(ClusterError::View("a member that cannot be"));
            }
            if members
                .as_slice()
                .last()
                .is_some_and(|last| last.node >= life.node)
            {
                return Err(ClusterError::View("members out of order"));
            }
            members.insert(life);
        }
        let view = Self {
            epoch: Epoch(u64::from_be_bytes(field(bytes, 0))),
            coordinator: NodeId(u16::from_be_bytes(field(bytes, 8))),
            members,
        };
        match (view.epoch.0, view.coordinator_life()) {
            (0, _) if view != Self::NONE => Err(ClusterError::View("epoch 0 is nobody's")),
            (1.., None) => Err(ClusterError::View("the coordinator is not a member")),
            _ => Ok(view),
        }
    }
}
