//! The frame around lock records: who speaks to whom, what arrived, how much may come, and up to 56 slots of records.
//!
//! [`LockFrame`] is the view of a frame that was found whole, [`LockHeader`] the meaning of its fixed part; a
//! [`FrameWriter`] writes one. What sequences, acknowledgements and credits are good for is the transport's affair.

use core::fmt;

use super::ident::{ClusterId, CoreId, Epoch, Incarnation, NodeId};
use super::seal::{CRC_BYTES, MAC_BYTES, Seal};
use super::{SLOT_BYTES, Sequence};
use crate::{BufferTooSmall, claim};

/// The version that is written, and the only one that is read (S21). Where it lies never changes.
pub const LOCK_VERSION: u8 = 1;
/// Bytes of the fixed part, behind which acknowledgement words and slots begin.
pub const LOCK_HEADER_BYTES: usize = 76;
/// The most slots of a frame: with two VLAN tags, all acknowledgement words and a keyed seal it still lies in one UMEM
/// chunk of 3840 bytes, so that no record spans two segments.
pub const FRAME_SLOTS_MAX: usize = 56;
/// The most words of selective acknowledgement, 64 slots each: no window may be larger than 1024 slots.
pub const SACK_WORDS_MAX: usize = 16;
/// Where the receiving core's number lies, behind the Ethernet header.
pub const RECEIVER_CORE_OFFSET: usize = 37;

const MAGIC: [u8; 2] = *b"SL";
const FLAG_ANSWER: u8 = 1;
const SACK_WORD_BYTES: usize = 8;

/// What a frame asks its reader to understand, as bits. The high half must be understood, or the frame is refused; the
/// low half only tells what the sender could do (S21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LockFeatures(pub u32);

impl LockFeatures {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// The seal has a message authentication code.
    pub const MAC: Self = Self(1 << 16);

    /// Bits that a reader must know.
    const BINDING: u32 = 0xffff_0000;

    /// Binding bits that this version does not know.
    const fn unknown(self) -> u32 {
        self.0 & Self::BINDING & !Self::MAC.0
    }

    /// Whether the seal has a message authentication code.
    const fn has_mac(self) -> bool {
        self.0 & Self::MAC.0 != 0
    }
}

/// One end of a channel: a core of a node in one of the node's lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The node.
    pub node: NodeId,
    /// Its core.
    pub core: CoreId,
    /// The node's life. Only the receiver's may be [`Incarnation::UNKNOWN`]: nothing was heard from it yet.
    pub incarnation: Incarnation,
}

/// The fixed part of a lock frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockHeader {
    /// What the sender can do. Whether there is a code is the seal's to say and is set by the writer.
    pub features: LockFeatures,
    /// Asks for an answer at once, records or not.
    pub wants_answer: bool,
    /// The cluster that this is about.
    pub cluster: ClusterId,
    /// Who sends.
    pub from: Endpoint,
    /// Whom it is for, as far as the sender knows.
    pub to: Endpoint,
    /// The sender's version of the membership when it sent the frame.
    pub epoch: Epoch,
    /// The first slot's number; in a frame without slots that of the first one not sent yet.
    pub sequence: Sequence,
    /// All slots before this one have arrived.
    pub ack: Sequence,
    /// How many slots from `ack` on the sender of this frame has room for.
    pub credits: u16,
}

/// Why bytes are not a lock frame for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockError {
    /// They end before the part that is named does.
    Truncated {
        /// The part.
        what: &'static str,
        /// Bytes up to its end.
        need_bytes: usize,
        /// Bytes that are there.
        have_bytes: usize,
    },
    /// They do not begin with "SL": somebody else's use of an experimental ethertype.
    NotLock,
    /// Another version, this one.
    Version(u8),
    /// More slots or acknowledgement words than a frame may have.
    Counts {
        /// Slots.
        slots: u8,
        /// Words.
        sack_words: u8,
    },
    /// The checksum is another one.
    Checksum,
    /// Features or flags that must be understood and are not.
    Features(u32),
    /// A code is required and there is none.
    MacMissing,
    /// There is a code, and no key to check it by.
    MacUnexpected,
    /// The code is not that of the bytes.
    MacWrong,
    /// The map of long records names slots that are not there, or a record of three slots.
    LongMap(u64),
    /// The sender does not say which life it is in.
    NoIncarnation,
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated {
                what,
                need_bytes,
                have_bytes,
            } => write!(f, "{what} cut off: {have_bytes} of {need_bytes} bytes"),
            Self::NotLock => f.write_str("not a lock frame"),
            Self::Version(version) => {
                write!(f, "version {version} of lock frames, not {LOCK_VERSION}")
            }
            Self::Counts { slots, sack_words } => write!(
                f,
                "{slots} slots and {sack_words} acknowledgement words; \
                 {FRAME_SLOTS_MAX} and {SACK_WORDS_MAX} are allowed"
            ),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::Features(bits) => write!(f, "unknown features {bits:#x} that must be understood"),
            Self::MacMissing => f.write_str("no message authentication code, which is required"),
            Self::MacUnexpected => f.write_str("a message authentication code, and no key for it"),
            Self::MacWrong => f.write_str("wrong message authentication code"),
            Self::LongMap(map) => write!(f, "impossible map of long records {map:#x}"),
            Self::NoIncarnation => f.write_str("no incarnation of the sender"),
        }
    }
}

impl core::error::Error for LockError {}

/// A lock frame that was found whole and, where a key is configured, genuine.
#[derive(Clone, Copy, Debug)]
pub struct LockFrame<'a> {
    header: LockHeader,
    long_map: u64,
    sacks: &'a [u8],
    slots: &'a [u8],
}

impl<'a> LockFrame<'a> {
    /// Reads the frame at the start of `bytes`, which begin behind the Ethernet header; bytes behind it are padding.
    ///
    /// # Errors
    /// [`LockError`]; nothing of such a frame is to be believed.
    #[inline]
    pub fn parse(bytes: &'a [u8], seal: &Seal) -> Result<Self, LockError> {
        let head = bytes
            .first_chunk::<LOCK_HEADER_BYTES>()
            .ok_or_else(|| truncated("lock frame's header", LOCK_HEADER_BYTES, bytes))?;
        if head[..2] != MAGIC {
            return Err(LockError::NotLock);
        }
        if head[2] != LOCK_VERSION {
            return Err(LockError::Version(head[2]));
        }
        let (slots, sack_words) = (head[38], head[39]);
        if usize::from(slots) > FRAME_SLOTS_MAX || usize::from(sack_words) > SACK_WORDS_MAX {
            return Err(LockError::Counts { slots, sack_words });
        }
        let features = LockFeatures(u32::from_be_bytes(field(head, 4)));
        let slots_at = LOCK_HEADER_BYTES + usize::from(sack_words) * SACK_WORD_BYTES;
        let body_bytes = slots_at + usize::from(slots) * SLOT_BYTES;
        let mac_bytes = if features.has_mac() { MAC_BYTES } else { 0 };
        check_seal(bytes, body_bytes, mac_bytes, features, seal)?;
        let flags = head[3];
        if flags & !FLAG_ANSWER != 0 {
            return Err(LockError::Features(u32::from(flags)));
        }
        let long_map = u64::from_be_bytes(field(head, 68));
        if !long_map_is_sound(long_map, slots) {
            return Err(LockError::LongMap(long_map));
        }
        let header = read_header(head, features);
        if !header.from.incarnation.is_known() {
            return Err(LockError::NoIncarnation);
        }
        Ok(Self {
            header,
            long_map,
            sacks: &bytes[LOCK_HEADER_BYTES..slots_at],
            slots: &bytes[slots_at..body_bytes],
        })
    }

    /// Its fixed part.
    #[must_use]
    pub const fn header(&self) -> &LockHeader {
        &self.header
    }

    /// How many slots its records take.
    #[must_use]
    pub const fn slot_count(&self) -> usize {
        self.slots.len() / SLOT_BYTES
    }

    /// The records in order, each 64 or 128 bytes.
    #[must_use]
    pub const fn records(&self) -> Records<'a> {
        Records {
            slots: self.slots,
            long_map: self.long_map,
        }
    }

    /// How many acknowledgement words there are.
    #[must_use]
    pub const fn sack_words(&self) -> usize {
        self.sacks.len() / SACK_WORD_BYTES
    }

    /// Slots that arrived after `ack`, a word of 64 at a time: bit *i* of word *w* stands for slot `ack + 64 w + i`.
    pub fn sacks(&self) -> impl Iterator<Item = u64> + use<'a> {
        let (words, _) = self.sacks.as_chunks::<SACK_WORD_BYTES>();
        words.iter().map(|word| u64::from_be_bytes(*word))
    }
}

/// A frame's records, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    slots: &'a [u8],
    long_map: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.slots.is_empty() {
            return None;
        }
        let slots = if self.long_map & 1 == 1 { 2 } else { 1 };
        // The map was found sound, so that the second slot of a long record is there.
        let (record, rest) = self.slots.split_at_checked(slots * SLOT_BYTES)?;
        self.slots = rest;
        self.long_map >>= slots;
        Some(record)
    }
}

/// Writes one lock frame into a buffer.
#[derive(Debug)]
pub struct FrameWriter<'b> {
    out: &'b mut [u8],
    seal: Seal,
    len_bytes: usize,
    slots: u8,
    long_map: u64,
}

impl<'b> FrameWriter<'b> {
    /// Begins a frame that takes at most all of `out`, which begins behind the Ethernet header. Of `sacks`, words of zeros
    /// at the end need not be given.
    ///
    /// # Errors
    /// [`BufferTooSmall`] when not even a frame without records fits, or there are more than [`SACK_WORDS_MAX`] words.
    #[inline]
    pub fn new(
        out: &'b mut [u8],
        header: &LockHeader,
        sacks: &[u64],
        seal: &Seal,
    ) -> Result<Self, BufferTooSmall> {
        let have_bytes = out.len();
        let Some(sack_words) = u8::try_from(sacks.len())
            .ok()
            .filter(|words| usize::from(*words) <= SACK_WORDS_MAX)
        else {
            return Err(BufferTooSmall {
                need_bytes: usize::MAX,
                have_bytes,
            });
        };
        let len_bytes = LOCK_HEADER_BYTES + sacks.len() * SACK_WORD_BYTES;
        let start = claim(out, len_bytes + seal.len_bytes())?;
        let (head, rest) = start
            .split_first_chunk_mut::<LOCK_HEADER_BYTES>()
            .expect("claimed");
        write_header(head, header, seal);
        head[39] = sack_words;
        let (words, _) = rest.as_chunks_mut::<SACK_WORD_BYTES>();
        for (word, sack) in words.iter_mut().zip(sacks) {
            *word = sack.to_be_bytes();
        }
        Ok(Self {
            out,
            seal: *seal,
            len_bytes,
            slots: 0,
            long_map: 0,
        })
    }

    /// How many more slots fit.
    #[must_use]
    pub const fn room_slots(&self) -> usize {
        let bytes = self.out.len() - self.len_bytes - self.seal.len_bytes();
        let by_bytes = bytes / SLOT_BYTES;
        let by_count = FRAME_SLOTS_MAX - self.slots as usize;
        if by_bytes < by_count {
            by_bytes
        } else {
            by_count
        }
    }

    /// Appends a record of one or two slots; `false`, and nothing written, when it does not fit or has another length.
    #[inline]
    #[must_use]
    pub fn push(&mut self, record: &[u8]) -> bool {
        let slots: u8 = match record.len() {
            SLOT_BYTES => 1,
            LONG_RECORD_BYTES => 2,
            _ => return false,
        };
        if self.room_slots() < usize::from(slots) {
            return false;
        }
        self.out[self.len_bytes..self.len_bytes + record.len()].copy_from_slice(record);
        if slots == 2 {
            self.long_map |= 1 << self.slots;
        }
        self.slots += slots;
        self.len_bytes += record.len();
        true
    }

    /// Seals the frame and returns its length.
    #[inline]
    #[must_use]
    pub fn finish(self) -> usize {
        self.out[38] = self.slots;
        self.out[68..76].copy_from_slice(&self.long_map.to_be_bytes());
        let (body, rest) = self.out.split_at_mut(self.len_bytes);
        let mut len_bytes = self.len_bytes;
        if let Some(mac) = self.seal.mac(body) {
            rest[..MAC_BYTES].copy_from_slice(&mac);
            len_bytes += MAC_BYTES;
        }
        let crc = self.seal.crc(&self.out[..len_bytes]);
        self.out[len_bytes..len_bytes + CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        len_bytes + CRC_BYTES
    }
}

const LONG_RECORD_BYTES: usize = 2 * SLOT_BYTES;

/// Slots that fit a frame at an MTU of `mtu_bytes` (what the Ethernet header carries), without selective acknowledgements.
#[must_use]
pub const fn slots_by_mtu(mtu_bytes: usize, seal: &Seal) -> usize {
    let slots = mtu_bytes.saturating_sub(LOCK_HEADER_BYTES + seal.len_bytes()) / SLOT_BYTES;
    if slots < FRAME_SLOTS_MAX {
        slots
    } else {
        FRAME_SLOTS_MAX
    }
}

/// Length, checksum and code, in the order of what they cost.
fn check_seal(
    bytes: &[u8],
    body_bytes: usize,
    mac_bytes: usize,
    features: LockFeatures,
    seal: &Seal,
) -> Result<(), LockError> {
    let sealed_bytes = body_bytes + mac_bytes;
    let (sealed, crc) = bytes
        .split_at_checked(sealed_bytes)
        .and_then(|(sealed, rest)| Some((sealed, *rest.first_chunk::<CRC_BYTES>()?)))
        .ok_or_else(|| truncated("lock frame", sealed_bytes + CRC_BYTES, bytes))?;
    if seal.crc(sealed) != u32::from_be_bytes(crc) {
        return Err(LockError::Checksum);
    }
    if features.unknown() != 0 {
        return Err(LockError::Features(features.unknown()));
    }
    match (
        sealed[body_bytes..].first_chunk::<MAC_BYTES>(),
        seal.is_keyed(),
    ) {
        (None, false) => Ok(()),
        (None, true) => Err(LockError::MacMissing),
        (Some(_), false) => Err(LockError::MacUnexpected),
        (Some(mac), true) if seal.verify(&sealed[..body_bytes], *mac) => Ok(()),
        (Some(_), true) => Err(LockError::MacWrong),
    }
}

/// Whether every long record of the map has its second slot, which begins no record itself.
const fn long_map_is_sound(map: u64, slots: u8) -> bool {
    // The last slot cannot begin a long record; `slots` is at most 56, so that the shift stays within the word.
    let may_begin = if slots == 0 {
        0
    } else {
        (1_u64 << (slots - 1)) - 1
    };
    map & !may_begin == 0 && map & (map << 1) == 0
}

fn read_header(head: &[u8; LOCK_HEADER_BYTES], features: LockFeatures) -> LockHeader {
    LockHeader {
        features,
        wants_answer: head[3] & FLAG_ANSWER != 0,
        cluster: ClusterId(u64::from_be_bytes(field(head, 8))),
        from: Endpoint {
            node: NodeId(u16::from_be_bytes(field(head, 32))),
            core: CoreId(head[36]),
            incarnation: Incarnation(u64::from_be_bytes(field(head, 16))),
        },
        to: Endpoint {
            node: NodeId(u16::from_be_bytes(field(head, 34))),
            core: CoreId(head[RECEIVER_CORE_OFFSET]),
            incarnation: Incarnation(u64::from_be_bytes(field(head, 24))),
        },
        epoch: Epoch(u64::from_be_bytes(field(head, 40))),
        sequence: Sequence(u64::from_be_bytes(field(head, 48))),
        ack: Sequence(u64::from_be_bytes(field(head, 56))),
        credits: u16::from_be_bytes(field(head, 64)),
    }
}

/// Everything but the counts and the map, which are not known before the records are.
fn write_header(head: &mut [u8; LOCK_HEADER_BYTES], header: &LockHeader, seal: &Seal) {
    let mac = if seal.is_keyed() {
        LockFeatures::MAC.0
    } else {
        0
    };
    let features = header.features.0 & !LockFeatures::MAC.0 | mac;
    head[..2].copy_from_slice(&MAGIC);
    head[2] = LOCK_VERSION;
    head[3] = if header.wants_answer { FLAG_ANSWER } else { 0 };
    head[4..8].copy_from_slice(&features.to_be_bytes());
    head[8..16].copy_from_slice(&header.cluster.0.to_be_bytes());
    head[16..24].copy_from_slice(&header.from.incarnation.0.to_be_bytes());
    head[24..32].copy_from_slice(&header.to.incarnation.0.to_be_bytes());
    head[32..34].copy_from_slice(&header.from.node.0.to_be_bytes());
    head[34..36].copy_from_slice(&header.to.node.0.to_be_bytes());
    head[36] = header.from.core.0;
    head[RECEIVER_CORE_OFFSET] = header.to.core.0;
    head[40..48].copy_from_slice(&header.epoch.0.to_be_bytes());
    head[48..56].copy_from_slice(&header.sequence.0.to_be_bytes());
    head[56..64].copy_from_slice(&header.ack.0.to_be_bytes());
    head[64..66].copy_from_slice(&header.credits.to_be_bytes());
    head[66..68].fill(0);
}

/// The `N` bytes at `at`.
fn field<const N: usize>(head: &[u8; LOCK_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

fn truncated(what: &'static str, need_bytes: usize, have: &[u8]) -> LockError {
    LockError::Truncated {
        what,
        need_bytes,
        have_bytes: have.len(),
    }
}
