//! What a volume says when it does not deliver or does not take a page, in words that fit a wake-up.

/// Why a volume did not read or write a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeFault {
    /// No answer in time. A write may have happened.
    #[error("no answer in time")]
    Timeout,
    /// The disk reported an error.
    #[error("the disk's error: status {status:#04x}, error {error:#04x}")]
    Disk {
        /// ATA's status register.
        status: u8,
        /// ATA's error register.
        error: u8,
    },
    /// The target refused the command, with AoE's error.
    #[error("the target refused: AoE error {0}")]
    Refused(u8),
    /// The target takes no writes of this node.
    #[error("the target grants no session")]
    NoSession,
    /// The target was detached.
    #[error("the target was detached")]
    Detached,
    /// The pages lie past the end of the device.
    #[error("past the device's end")]
    PastEnd,
    /// The volume was let go of.
    #[error("the volume is not bound")]
    Unbound,
    /// The volume may be read only.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The node stopped before the end.
    #[error("the node stopped")]
    Stopped,
    /// Anything else, by a number of 24 bits that its volume knows.
    #[error("the volume's error {0}")]
    Other(u32),
}

const DETAIL_BITS: u32 = 24;
const DETAIL_MASK: u32 = (1 << DETAIL_BITS) - 1;

impl VolumeFault {
    /// In one word.
    pub(crate) fn pack(self) -> u32 {
        let (kind, detail) = match self {
            Self::Timeout => (1, 0),
            Self::Disk { status, error } => (2, u32::from(status) << 8 | u32::from(error)),
            Self::Refused(code) => (3, u32::from(code)),
            Self::NoSession => (4, 0),
            Self::Detached => (5, 0),
            Self::PastEnd => (6, 0),
            Self::Unbound => (7, 0),
            Self::ReadOnly => (8, 0),
            Self::Stopped => (9, 0),
            Self::Other(code) => (0, code & DETAIL_MASK),
        };
        kind << DETAIL_BITS | detail
    }

    /// What was packed.
    pub(crate) fn unpack(word: u32) -> Self {
        let detail = word & DETAIL_MASK;
        let [low, next, ..] = detail.to_le_bytes();
        match word >> DETAIL_BITS {
            1 => Self::Timeout,
            2 => Self::Disk {
                status: next,
                error: low,
            },
            3 => Self::Refused(low),
            4 => Self::NoSession,
            5 => Self::Detached,
            6 => Self::PastEnd,
            7 => Self::Unbound,
            8 => Self::ReadOnly,
            9 => Self::Stopped,
            _ => Self::Other(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_survives_the_word() {
        let (status, error) = (0x51, 0x40);
        for fault in [
            VolumeFault::Timeout,
            VolumeFault::Disk { status, error },
            VolumeFault::Refused(6),
            VolumeFault::NoSession,
            VolumeFault::Detached,
            VolumeFault::PastEnd,
            VolumeFault::Unbound,
            VolumeFault::ReadOnly,
            VolumeFault::Stopped,
            VolumeFault::Other(0x00ab_cdef),
        ] {
            assert_eq!(VolumeFault::unpack(fault.pack()), fault);
        }
    }
}
