//! What the transport counts: traffic, what was sent again, and every frame that it refused, by reason.

use sandrail_wire::lock::LockError;

/// Why a frame was dropped. Nothing in such a frame is believed, and nothing changes because of it, but that its reason is
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameRefusal {
    /// It ends too early.
    Truncated,
    /// It is not a lock frame.
    NotLock,
    /// Another version.
    Version,
    /// Too many slots or acknowledgement words, or an impossible map of long records.
    Layout,
    /// The checksum is wrong.
    Checksum,
    /// It has features that must be understood and are not.
    Features,
    /// The code is missing, wrong, or there is no key for it.
    Forged,
    /// The sender names no life of its own.
    NoIncarnation,
    /// Another cluster's.
    OtherCluster,
    /// For another node or core.
    NotForUs,
    /// From a core that is no peer.
    UnknownPeer,
    /// From a peer that was removed and has not begun a new life.
    RemovedPeer,
    /// From an earlier life of the peer.
    OldIncarnation,
    /// For another life of ours.
    OtherLife,
    /// From before the current epoch.
    OldEpoch,
    /// From an epoch that we have not heard of yet. The peer sends it again.
    NewerEpoch,
    /// Records of a peer that we never exchanged greetings with.
    NoGreeting,
    /// It acknowledges what was never sent, or half a record.
    ImpossibleAck,
    /// Records that there were no credits for.
    BeyondWindow,
}

impl FrameRefusal {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Truncated,
        Self::NotLock,
        Self::Version,
        Self::Layout,
        Self::Checksum,
        Self::Features,
        Self::Forged,
        Self::NoIncarnation,
        Self::OtherCluster,
        Self::NotForUs,
        Self::UnknownPeer,
        Self::RemovedPeer,
        Self::OldIncarnation,
        Self::OtherLife,
        Self::OldEpoch,
        Self::NewerEpoch,
        Self::NoGreeting,
        Self::ImpossibleAck,
        Self::BeyondWindow,
    ];

    /// A name for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotLock => "not_lock",
            Self::Version => "version",
            Self::Layout => "layout",
            Self::Checksum => "checksum",
            Self::Features => "features",
            Self::Forged => "forged",
            Self::NoIncarnation => "no_incarnation",
            Self::OtherCluster => "other_cluster",
            Self::NotForUs => "not_for_us",
            Self::UnknownPeer => "unknown_peer",
            Self::RemovedPeer => "removed_peer",
            Self::OldIncarnation => "old_incarnation",
            Self::OtherLife => "other_life",
            Self::OldEpoch => "old_epoch",
            Self::NewerEpoch => "newer_epoch",
            Self::NoGreeting => "no_greeting",
            Self::ImpossibleAck => "impossible_ack",
            Self::BeyondWindow => "beyond_window",
        }
    }
}

impl From<LockError> for FrameRefusal {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Truncated { .. } => Self::Truncated,
            LockError::NotLock => Self::NotLock,
            LockError::Version(_) => Self::Version,
            LockError::Counts { .. } | LockError::LongMap(_) => Self::Layout,
            LockError::Checksum => Self::Checksum,
            LockError::Features(_) => Self::Features,
            LockError::MacMissing | LockError::MacUnexpected | LockError::MacWrong => Self::Forged,
            LockError::NoIncarnation => Self::NoIncarnation,
        }
    }
}

/// What a transport has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportCounters {
    /// Frames that were accepted.
    pub rx_frames: u64,
    /// Records that were new.
    pub rx_records: u64,
    /// Records that had arrived before.
    pub rx_duplicates: u64,
    /// Frames written.
    pub tx_frames: u64,
    /// Records written for the first time.
    pub tx_records: u64,
    /// Records written again.
    pub tx_again: u64,
    /// Frames written that had no records.
    pub tx_bare: u64,
    /// Times an acknowledgement did not come in time.
    pub timeouts: u64,
    /// Slots found lost because later ones arrived.
    pub slots_lost: u64,
    /// Times `send` said that it must wait.
    pub waits: u64,
    /// Peers that began a new life.
    pub restarts: u64,
    refused: [u64; FrameRefusal::ALL.len()],
}

impl TransportCounters {
    /// Frames that were dropped for this reason.
    #[must_use]
    pub const fn refused(&self, reason: FrameRefusal) -> u64 {
        self.refused[reason as usize]
    }

    /// Frames that were dropped.
    #[must_use]
    pub fn refused_all(&self) -> u64 {
        self.refused.iter().sum()
    }

    pub(super) const fn refuse(&mut self, reason: FrameRefusal) {
        self.refused[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_name_of_its_own() {
        let mut counters = TransportCounters::default();
        for (index, reason) in FrameRefusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.refuse(reason);
            assert_eq!(counters.refused(reason), 1);
            let alike = FrameRefusal::ALL
                .iter()
                .filter(|other| other.name() == reason.name());
            assert_eq!(alike.count(), 1, "{}", reason.name());
        }
        assert_eq!(counters.refused_all(), 19);
    }
}
