//! Arguments of Sandrail's own command (0xF0): sessions, and reservations ordered by epochs.
//!
//! It is sent only to targets whose IDENTIFY data announce it ([`Identify::sandrail`](crate::ata::Identify::sandrail)).
//! A version and feature bits are in every message, so that nothing is guessed (safety rule S21). What the fields are for is
//! told by rules S5 to S10.

use core::fmt;

use super::MacList;
use super::reserve::MACS_MAX;
use crate::{BufferTooSmall, claim};

/// The AoE command.
pub const SANDRAIL_COMMAND: u8 = 0xf0;
/// The version of these arguments that is written, and the only one that is read.
pub const SANDRAIL_VERSION: u8 = 1;
/// Bytes of the arguments, behind which MAC addresses begin.
pub const SANDRAIL_ARGS_BYTES: usize = 48;

const MAGIC: [u8; 4] = *b"SRAL";
const MAC_BYTES: usize = 6;

/// What an end of the vendor command can do, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u32);

impl Features {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// Sessions: attach, and the ATA header's two session bytes (S5).
    pub const SESSIONS: Self = Self(1);
    /// Reservations by epoch (S8).
    pub const EPOCHS: Self = Self(2);
    /// Lives of initiators are numbered, and an attach lists all MACs of its process (S5, S10).
    pub const BIRTHS: Self = Self(4);
    /// All that this crate knows.
    pub const ALL: Self = Self::SESSIONS.union(Self::EPOCHS).union(Self::BIRTHS);

    /// Those in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both: what two ends may use between them.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A session between an initiator's shard and a target: the ATA header's two reserved bytes (S5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u16);

impl Session {
    /// No session: what initiators that know nothing of sessions send. Never handed out.
    pub const NONE: Self = Self(0);

    /// Whether it is one.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

/// A number that a target gives to a life of an initiator's shard when it first hears of it, greater than all that it gave before
/// (S10). The life names it in each attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Birth(pub u32);

impl Birth {
    /// None is known yet. Never given.
    pub const NONE: Self = Self(0);

    /// Whether it is one.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is asked of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandrailOperation {
    /// 0: its state. Always answered.
    Hello,
    /// 1: a session.
    Attach,
    /// 2: replace the reservation list, if the epoch is newer than the one in force.
    Reserve,
    /// A number that this version does not define.
    Other(u8),
}

impl From<u8> for SandrailOperation {
    fn from(operation: u8) -> Self {
        match operation {
            0 => Self::Hello,
            1 => Self::Attach,
            2 => Self::Reserve,
            other => Self::Other(other),
        }
    }
}

impl From<SandrailOperation> for u8 {
    fn from(operation: SandrailOperation) -> Self {
        match operation {
            SandrailOperation::Hello => 0,
            SandrailOperation::Attach => 1,
            SandrailOperation::Reserve => 2,
            SandrailOperation::Other(other) => other,
        }
    }
}

/// How it went. The AoE header's E flag stays clear: the arguments of an answer are always its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandrailStatus {
    /// 0: done. Also what requests carry.
    Done,
    /// 1: the request's version is not spoken; the answer bears the one that is.
    VersionNotSpoken,
    /// 2: the operation is not known.
    UnknownOperation,
    /// 3: an argument is not valid, such as a frame lifetime longer than the target remembers.
    BadArgument,
    /// 4: the target is reserved for others.
    Reserved,
    /// 5: this life was fenced, or another one of its MACs was born later; only a new one is admitted (S10).
    Fenced,
    /// 6: no session is free.
    NoSession,
    /// 7: the epoch is older than the one in force, or the same with another list.
    StaleEpoch,
    /// 8: the change could not be made durable.
    NotDurable,
    /// 9: the attach names no birth, or none that this target has given: the answer has one (S10).
    Unborn,
    /// A number that this version does not define.
    Other(u8),
}

impl From<u8> for SandrailStatus {
    fn from(status: u8) -> Self {
        match status {
            0 => Self::Done,
            1 => Self::VersionNotSpoken,
            2 => Self::UnknownOperation,
            3 => Self::BadArgument,
            4 => Self::Reserved,
            5 => Self::Fenced,
            6 => Self::NoSession,
            7 => Self::StaleEpoch,
            8 => Self::NotDurable,
            9 => Self::Unborn,
            other => Self::Other(other),
        }
    }
}

impl From<SandrailStatus> for u8 {
    fn from(status: SandrailStatus) -> Self {
        match status {
            SandrailStatus::Done => 0,
            SandrailStatus::VersionNotSpoken => 1,
            SandrailStatus::UnknownOperation => 2,
            SandrailStatus::BadArgument => 3,
            SandrailStatus::Reserved => 4,
            SandrailStatus::Fenced => 5,
            SandrailStatus::NoSession => 6,
            SandrailStatus::StaleEpoch => 7,
            SandrailStatus::NotDurable => 8,
            SandrailStatus::Unborn => 9,
            SandrailStatus::Other(other) => other,
        }
    }
}

/// Meaning of Sandrail's vendor command or of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandrailRepr<'a> {
    /// What is asked.
    pub operation: SandrailOperation,
    /// How it went; [`SandrailStatus::Done`] in requests.
    pub status: SandrailStatus,
    /// Which of the initiator's shards attaches.
    pub shard: u8,
    /// What the sender can do; in an answer, what both can.
    pub features: Features,
    /// The initiator's process, never 0 when it attaches: drawn anew with each start.
    pub incarnation: u64,
    /// The session that an attach yielded.
    pub session: Session,
    /// The epoch asked for; in an answer, the one in force.
    pub epoch: u64,
    /// In answers: names the state of unflushed writes. While it stays the same, no acknowledged write was lost (S7).
    pub loss_mark: u64,
    /// Milliseconds: in an answer, how long the target remembers what it did; in an attach, how long the initiator lets its
    /// frames live.
    pub lifetime_ms: u32,
    /// In an attach: the birth that this target gave to the shard's life; in an answer with [`SandrailStatus::Unborn`], the one that
    /// it gives.
    pub birth: Birth,
    /// The list to be set; in answers to hello and reserve, the list in force; in an attach, all MACs of the process.
    pub macs: MacList<'a>,
}

impl<'a> SandrailRepr<'a> {
    /// A request with all fields at rest but the operation, and with the features that need no other fields.
    #[must_use]
    pub const fn request(operation: SandrailOperation) -> Self {
        Self {
            operation,
            status: SandrailStatus::Done,
            shard: 0,
            features: Features::SESSIONS.union(Features::EPOCHS),
            incarnation: 0,
            session: Session::NONE,
            epoch: 0,
            loss_mark: 0,
            lifetime_ms: 0,
            birth: Birth::NONE,
            macs: MacList::EMPTY,
        }
    }

    /// Reads the bytes behind the AoE header. Ethernet's padding behind the list is not looked at.
    ///
    /// # Errors
    /// [`SandrailError`]: not this format, another version of it, or cut off.
    pub fn parse(data: &'a [u8]) -> Result<Self, SandrailError> {
        let (magic, _) = data
            .split_first_chunk::<4>()
            .ok_or(SandrailError::NotSandrail)?;
        if *magic != MAGIC {
            return Err(SandrailError::NotSandrail);
        }
        // Of another version only the place of its number is known.
        match data.get(4) {
            None => return Err(SandrailError::Truncated),
            Some(&SANDRAIL_VERSION) => {}
            Some(&other) => return Err(SandrailError::Version(other)),
        }
        let (args, rest) = data
            .split_first_chunk::<SANDRAIL_ARGS_BYTES>()
            .ok_or(SandrailError::Truncated)?;
        let mac_count = usize::from(u16::from_be_bytes([args[22], args[23]]));
        if mac_count > MACS_MAX {
            return Err(SandrailError::TooManyMacs(mac_count));
        }
        let macs = rest
            .get(..mac_count * MAC_BYTES)
            .and_then(MacList::from_bytes)
            .ok_or(SandrailError::Truncated)?;
        Ok(Self {
            operation: args[5].into(),
            status: args[6].into(),
            shard: args[7],
            features: Features(u32::from_be_bytes(field(args, 8))),
            incarnation: u64::from_be_bytes(field(args, 12)),
            session: Session(u16::from_be_bytes(field(args, 20))),
            epoch: u64::from_be_bytes(field(args, 24)),
            loss_mark: u64::from_be_bytes(field(args, 32)),
            lifetime_ms: u32::from_be_bytes(field(args, 40)),
            birth: Birth(u32::from_be_bytes(field(args, 44))),
            macs,
        })
    }

    /// Bytes that [`emit`](Self::emit) writes.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        SANDRAIL_ARGS_BYTES + self.macs.len() * MAC_BYTES
    }

    /// Writes the arguments to the start of `out`, to be sent as [`Body::Vendor`](super::Body::Vendor), and returns their
    /// length.
    ///
    /// # Errors
    /// [`BufferTooSmall`], with nothing written.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let len_bytes = self.len_bytes();
        let (args, list) = claim(out, len_bytes)?.split_at_mut(SANDRAIL_ARGS_BYTES);
        args[..4].copy_from_slice(&MAGIC);
        args[4] = SANDRAIL_VERSION;
        args[5] = self.operation.into();
        args[6] = self.status.into();
        args[7] = self.shard;
        args[8..12].copy_from_slice(&self.features.0.to_be_bytes());
        args[12..20].copy_from_slice(&self.incarnation.to_be_bytes());
        args[20..22].copy_from_slice(&self.session.0.to_be_bytes());
        // The list's constructors hold it to `MACS_MAX`.
        let mac_count = u16::try_from(self.macs.len()).unwrap_or(u16::MAX);
        args[22..24].copy_from_slice(&mac_count.to_be_bytes());
        args[24..32].copy_from_slice(&self.epoch.to_be_bytes());
        args[32..40].copy_from_slice(&self.loss_mark.to_be_bytes());
        args[40..44].copy_from_slice(&self.lifetime_ms.to_be_bytes());
        args[44..48].copy_from_slice(&self.birth.0.to_be_bytes());
        list.copy_from_slice(self.macs.as_bytes());
        Ok(len_bytes)
    }
}

/// The `N` bytes at `at`.
fn field<const N: usize>(args: &[u8; SANDRAIL_ARGS_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&args[at..at + N]);
    bytes
}

/// Why bytes are not the arguments of Sandrail's vendor command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandrailError {
    /// They do not begin with "SRAL": another vendor's.
    NotSandrail,
    /// Another version, this one.
    Version(u8),
    /// They end inside a field.
    Truncated,
    /// The list has more than [`MACS_MAX`] addresses.
    TooManyMacs(usize),
}

impl fmt::Display for SandrailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSandrail => f.write_str("vendor command without Sandrail's mark"),
            Self::Version(version) => write!(
                f,
                "version {version} of Sandrail's vendor command, not {SANDRAIL_VERSION}"
            ),
            Self::Truncated => f.write_str("Sandrail's vendor command cut off"),
            Self::TooManyMacs(count) => {
                write!(f, "list of {count} MAC addresses, {MACS_MAX} are allowed")
            }
        }
    }
}

impl core::error::Error for SandrailError {}
