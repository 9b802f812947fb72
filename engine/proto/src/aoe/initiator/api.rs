//! What goes into an initiator and what comes out.

use core::time::Duration;

use sandrail_wire::aoe::{
    CONFIG_STRING_BYTES_MAX, ConfigCommand, ErrorCode, ReserveCommand, SandrailStatus, Session,
};
use sandrail_wire::ata::Identify;
use sandrail_wire::{Lba, MacAddr, TargetAddr};

use super::config::PATHS_MAX;
use crate::time::Instant;

/// An attached target, by its place in the initiator's table. Valid until [`detach`](super::Initiator::detach).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub(crate) u8);

impl TargetId {
    /// The place in the table, from 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A local interface, by its place in the list given at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u8);

/// An accepted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}

/// Whose answers count for an address (S1): anybody else's are dropped and told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinnedMacs {
    macs: [Option<MacAddr>; PATHS_MAX],
}

impl PinnedMacs {
    /// Exactly these; `None` when there are more than [`PATHS_MAX`].
    #[must_use]
    pub fn new(list: &[MacAddr]) -> Option<Self> {
        let mut macs = [None; PATHS_MAX];
        if list.len() > macs.len() {
            return None;
        }
        for (place, mac) in macs.iter_mut().zip(list) {
            *place = Some(*mac);
        }
        Some(Self { macs })
    }

    /// No MAC named: the first to answer is pinned, and a second one that answers during the attach fails it.
    #[must_use]
    pub const fn first_to_answer() -> Self {
        Self {
            macs: [None; PATHS_MAX],
        }
    }

    /// Whether none is named yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.macs.iter().all(Option::is_none)
    }

    /// Whether `mac` is one of them.
    #[must_use]
    pub fn contains(&self, mac: MacAddr) -> bool {
        self.macs.contains(&Some(mac))
    }

    /// The MACs named.
    pub fn iter(&self) -> impl Iterator<Item = MacAddr> + '_ {
        self.macs.iter().flatten().copied()
    }

    pub(crate) fn pin(&mut self, mac: MacAddr) {
        self.macs[0] = Some(mac);
    }
}

/// What a request does. Buffers of data operations are exactly `sectors * 512` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fills the buffer from `lba` on.
    Read {
        /// First sector.
        lba: Lba,
    },
    /// Writes the buffer from `lba` on.
    Write {
        /// First sector.
        lba: Lba,
        /// What to do while copies of an earlier write of the range are unaccounted for.
        if_closed: IfClosed,
    },
    /// Makes acknowledged writes durable, as far as the target does that.
    Flush,
    /// Reads the 512 bytes of IDENTIFY DEVICE into the buffer.
    Identify,
    /// Reads, tests or sets the config string: the buffer's first `len_bytes` bytes are the string, and take the answer's.
    Config {
        /// Which of the five.
        command: ConfigCommand,
        /// Length of the string in the buffer.
        len_bytes: u16,
    },
    /// Reads the MAC mask list: 6 bytes a MAC into the buffer.
    MaskRead,
    /// Edits the MAC mask list: the buffer's first `len_bytes` are 8-byte directives.
    MaskEdit {
        /// Length of the directives in the buffer.
        len_bytes: u16,
    },
    /// Reads or sets the reservation: the buffer's first `len_bytes` are 6-byte MACs, and take the answer's list.
    Reserve {
        /// Which of the three.
        command: ReserveCommand,
        /// Length of the MACs in the buffer.
        len_bytes: u16,
    },
    /// Replaces the reservation if `epoch` is newer than the one in force (S8), on targets that announce epochs. The buffer's
    /// first `len_bytes` are 6-byte MACs; the list in force comes back in it, also with [`IoError::StaleEpoch`].
    ReserveEpoch {
        /// The list's epoch, never 0.
        epoch: u64,
        /// Length of the MACs in the buffer.
        len_bytes: u16,
    },
}

/// What a WRITE does when its range is closed by S3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfClosed {
    /// Waits its turn, until its deadline.
    #[default]
    Wait,
    /// Is refused with [`SubmitError::RangeClosed`].
    Refuse,
}

/// A request. The buffer is the initiator's until the completion gives it back: a retransmission sends the same bytes.
#[derive(Debug)]
pub struct Request<B> {
    /// Whom.
    pub target: TargetId,
    /// What.
    pub operation: Operation,
    /// Data in or out; may be empty for a flush.
    pub buffer: B,
    /// Given up, with [`IoError::Deadline`], when this much time has passed.
    pub timeout: Duration,
    /// The caller's own; returned with the completion.
    pub user: u64,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// `requests_max` are under way.
    #[error("all request slots are in use")]
    Full,
    /// No such target, or its attach is not complete.
    #[error("target is not attached")]
    NotAttached,
    /// The range ends past the device.
    #[error("sectors {lba}..{end} lie past the end of the device ({device_sectors} sectors)")]
    PastEnd {
        /// First sector asked for.
        lba: u64,
        /// One past the last.
        end: u64,
        /// The device's size.
        device_sectors: u64,
    },
    /// The buffer is no whole number of sectors, empty, or too small for what it must hold; or a control operation's list is longer
    /// than a frame.
    #[error("buffer of {len_bytes} bytes does not fit the operation")]
    BufferLength {
        /// Its length.
        len_bytes: usize,
    },
    /// Copies of an earlier write of this range are unaccounted for (S3).
    #[error("range is closed: copies of an earlier write are unaccounted for")]
    RangeClosed,
    /// The target does not announce reservations by epoch, and a foreign one is sent no command of ours.
    #[error("the target does not announce reservations by epoch")]
    NoEpochs,
}

/// A refused request with its buffer.
#[derive(Debug)]
pub struct Rejected<B> {
    /// Why.
    pub error: SubmitError,
    /// The buffer, untouched.
    pub buffer: B,
}

/// How durable a target says its flush is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// IDENTIFY claims FLUSH (words 83/86, bits 12 and 13), and the target carried it out.
    Claimed,
    /// The target answered FLUSH without an error but does not claim to have it: vblade does nothing then. Nobody promised anything.
    Unclaimed,
    /// The target refused FLUSH.
    Refused,
}

/// What a request that succeeded found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All data is in the buffer.
    Read,
    /// The target acknowledged all of it. Not durable before a flush.
    Written,
    /// Everything acknowledged before is flushed, with this much of a promise.
    Flushed(Durability),
    /// A control command's answer: its payload lies in the buffer.
    Answer {
        /// Bytes of payload; what exceeds the buffer is cut off.
        len_bytes: usize,
        /// The mask list's MError, zero otherwise.
        mask_error: u8,
    },
    /// A reservation by epoch took effect, or was in force already: the list in force lies in the buffer.
    Reserved {
        /// The epoch in force.
        epoch: u64,
        /// Bytes of the list; what exceeds the buffer is cut off.
        len_bytes: usize,
    },
}

/// What made the initiator suspect that the target restarted, or lost unflushed writes without that (S7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartEvidence {
    /// It advertised itself, as targets do at their start.
    Advertisement,
    /// It did not answer for `restart_silence` or longer.
    Silence,
    /// Its config changed (buffer count, firmware).
    ConfigChanged,
    /// A session came with another loss mark: no guess, but the target's own word.
    Session,
    /// A FLUSH failed. Whatever could not be made durable, the next one may know nothing of it.
    FlushFailed,
}

/// Why a target that announces sessions grants none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefusal {
    /// It is reserved for others.
    #[error("it is reserved for others")]
    Reserved,
    /// This process was fenced (S10).
    #[error("this process was fenced, and only a new one is admitted")]
    Fenced,
    /// All its sessions are taken.
    #[error("it has no session left")]
    NoneFree,
    /// It speaks another version of the vendor command.
    #[error("it speaks version {0} of the vendor command")]
    Version(u8),
    /// Our frames may live longer than it remembers requests: late copies would be carried out again (S6).
    #[error(
        "it remembers requests for {remembered_ms} ms, and our frames may live for {lifetime_ms} ms: lower the one or raise the other"
    )]
    Lifetime {
        /// How long our frames may live.
        lifetime_ms: u32,
        /// How long it remembers.
        remembered_ms: u32,
    },
    /// Another status of the vendor command.
    #[error("it answers with status {0:?}")]
    Status(SandrailStatus),
    /// An AoE error.
    #[error("it answers with AoE error {0}")]
    Aoe(ErrorCode),
    /// It announced sessions once, and does not any more.
    #[error("it does not announce sessions any more")]
    Withdrawn,
    /// [`InitiatorConfig::incarnation`](super::InitiatorConfig::incarnation) is 0.
    #[error("this initiator has no incarnation to attach as")]
    NoIncarnation,
}

impl SessionRefusal {
    /// Whether it is about who may write, and ends when that changes: the target is attached all the same, so that it can be
    /// reserved and read.
    #[must_use]
    pub const fn is_reservation(self) -> bool {
        matches!(self, Self::Reserved | Self::Fenced)
    }
}

/// How a shard stands with a target's sessions (S5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The target announces none.
    Unspoken,
    /// Asked for; WRITEs and FLUSHes wait.
    Pending,
    /// In force on one path at least.
    Held(Session),
    /// WRITEs and FLUSHes fail with [`IoError::NoSession`].
    Refused(SessionRefusal),
}

const fn certainty(evidence: RestartEvidence) -> &'static str {
    match evidence {
        RestartEvidence::Advertisement => "target restart suspected (Advertisement)",
        RestartEvidence::Silence => "target restart suspected (Silence)",
        RestartEvidence::ConfigChanged => "target restart suspected (ConfigChanged)",
        RestartEvidence::Session => "the target restarted and says so",
        RestartEvidence::FlushFailed => "a flush has failed before",
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The target answered with an AoE error.
    #[error("target refused: {0}")]
    Aoe(ErrorCode),
    /// The disk reported an error.
    #[error("ATA error: status {status:#04x}, error {error:#04x} at sector {lba}")]
    Ata {
        /// Status register.
        status: u8,
        /// Error register.
        error: u8,
        /// The sector that the registers name.
        lba: u64,
    },
    /// No answer in time. A write may or may not have happened, and its range stays closed until its copies are accounted for.
    #[error("no answer by the deadline ({copies} frames sent, target {})", if *.silent { "silent" } else { "answering others" })]
    Deadline {
        /// Frames sent for it, all retransmissions included.
        copies: u32,
        /// Whether the target answered nothing at all towards the end.
        silent: bool,
    },
    /// The target may have restarted since writes were acknowledged: what was not flushed must be written again (S7).
    #[error("writes acknowledged but not flushed may be lost: {}", certainty(*.0))]
    UnflushedLost(RestartEvidence),
    /// The target takes WRITEs and FLUSHes only with a session (S5), and grants none.
    #[error("the target grants no session: {0}")]
    NoSession(SessionRefusal),
    /// A newer reservation is in force, or another one of the same epoch (S8). Its list lies in the completion's buffer.
    #[error("a reservation of epoch {epoch} is in force")]
    StaleEpoch {
        /// The epoch in force.
        epoch: u64,
        /// Bytes of the list in force; what exceeds the buffer is cut off.
        len_bytes: usize,
    },
    /// A reservation by epoch was refused for another reason.
    #[error("the target refused the reservation: {0:?}")]
    ReserveRefused(SandrailStatus),
    /// The target was detached.
    #[error("target detached")]
    Detached,
}

/// A request's end.
#[derive(Debug)]
pub struct Completion<B> {
    /// What `submit` returned.
    pub id: RequestId,
    /// The target.
    pub target: TargetId,
    /// The request's own words.
    pub operation: Operation,
    /// The caller's own.
    pub user: u64,
    /// When it was submitted.
    pub submitted_at: Instant,
    /// How it went.
    pub result: Result<Outcome, IoError>,
    /// The buffer, back. After a failed read its content means nothing.
    pub buffer: B,
}

/// A config string, kept by value.
#[derive(Clone, Copy)]
pub struct ConfigString {
    len_bytes: u16,
    bytes: [u8; CONFIG_STRING_BYTES_MAX],
}

impl ConfigString {
    /// A copy of the first [`CONFIG_STRING_BYTES_MAX`] bytes.
    #[must_use]
    pub fn new(string: &[u8]) -> Self {
        let mut bytes = [0; CONFIG_STRING_BYTES_MAX];
        let take = string.len().min(bytes.len());
        bytes[..take].copy_from_slice(&string[..take]);
        Self {
            len_bytes: u16::try_from(take).unwrap_or(0),
            bytes,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len_bytes)]
    }
}

impl core::fmt::Debug for ConfigString {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// A target that answered a discovery or advertised itself.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// Where it was heard.
    pub interface: InterfaceId,
    /// Who answered.
    pub mac: MacAddr,
    /// For which address.
    pub addr: TargetAddr,
    /// Messages it queues.
    pub buffer_count: u16,
    /// Its firmware's version.
    pub firmware: u16,
    /// Sectors a command at most (0 was read as 2).
    pub sectors_max: u8,
    /// The AoE version in its header: 0 in vblade's advertisement.
    pub version: u8,
    /// Nobody had asked.
    pub advertised: bool,
    /// Its config string.
    pub config: ConfigString,
}

/// What is known of an attached target.
#[derive(Clone, Copy, Debug)]
pub struct TargetInfo {
    /// Its address.
    pub addr: TargetAddr,
    /// What it says of itself.
    pub identify: Identify,
    /// Messages it queues.
    pub buffer_count: u16,
    /// Its firmware's version.
    pub firmware: u16,
    /// Sectors a command at most, by its own word.
    pub sectors_max: u8,
    /// How this shard stands with its sessions.
    pub session: SessionState,
    /// The paths to it.
    pub paths: [Option<PathInfo>; PATHS_MAX],
}

/// One way to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// Local interface.
    pub interface: InterfaceId,
    /// The target's MAC.
    pub mac: MacAddr,
    /// Answers, or did not for several timeouts in a row.
    pub silent: bool,
    /// Sectors a frame, as probed both ways.
    pub payload_sectors: u16,
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Present retransmission timeout.
    pub rto: Duration,
    /// Frames that may be under way now.
    pub window: u16,
    /// Frames that are.
    pub in_flight: u16,
    /// Write commands answered or given up whose copies are not all accounted for.
    pub lingering: u16,
}

/// Why an attach failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachFailure {
    /// Nobody (or nobody pinned) answered for the address.
    #[error("nobody answers for this address")]
    NoAnswer,
    /// Two MACs answered and none is pinned: name the right one, or all that are paths to the same disk.
    #[error("both {0} and {1} answer for this address: pin the right one")]
    Ambiguous(MacAddr, MacAddr),
    /// IDENTIFY was refused with an AoE error.
    #[error("IDENTIFY refused: {0}")]
    IdentifyRefused(ErrorCode),
    /// IDENTIFY's answer makes no sense.
    #[error("IDENTIFY data makes no sense")]
    IdentifyMalformed,
    /// The target announces sessions and grants none, for a reason that no reservation will change.
    #[error("the target grants no session: {0}")]
    SessionRefused(SessionRefusal),
    /// The target announces sessions and did not answer the request for one.
    #[error("the target announces sessions but does not answer the request for one")]
    SessionUnanswered,
}

/// Why an attach was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// All places in the table are taken, or too many addresses were attached in this life.
    #[error(
        "{} targets are attached already, or {} were in this process's life",
        super::config::TARGETS_MAX,
        super::BIRTHS_MAX
    )]
    TableFull,
    /// The address has a wildcard in it.
    #[error("{0} is a wildcard, not one target")]
    Wildcard(TargetAddr),
    /// The address is attached or being attached.
    #[error("{0} is attached already")]
    Attached(TargetAddr),
}

/// Something the owner should know, besides the ends of requests.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a box would allocate at every sighting, which strangers send"
)]
pub enum Notice {
    /// A target answered a discovery, or advertised itself.
    Seen(Sighting),
    /// An attach is complete: requests are welcome. [`Initiator::target`](super::Initiator::target) tells more.
    Attached(TargetId),
    /// An attach failed; the id is void.
    AttachFailed(TargetId, TargetAddr, AttachFailure),
    /// A path does not answer any more; it is being probed.
    PathSilent(TargetId, PathInfo),
    /// It answers again.
    PathBack(TargetId, PathInfo),
    /// Frames of another size get through now.
    PayloadChanged(TargetId, PathInfo),
    /// The device's size changed.
    Resized {
        /// Which.
        target: TargetId,
        /// Sectors before.
        from_sectors: u64,
        /// Sectors now.
        to_sectors: u64,
    },
    /// The session with the target is another, is void, or was refused.
    Session(TargetId, SessionState),
    /// The target may have restarted.
    RestartSuspected {
        /// Which.
        target: TargetId,
        /// By what.
        evidence: RestartEvidence,
        /// Whether acknowledged, unflushed writes may be lost by it: flushes fail until `accept_loss`.
        unflushed: bool,
    },
    /// A MAC that is not pinned answered for an attached address: a second target with the same number, or an impostor.
    Rogue {
        /// For which address.
        addr: TargetAddr,
        /// Who.
        mac: MacAddr,
        /// Where it was heard.
        interface: InterfaceId,
    },
}

/// Frames and events an initiator has counted. Every received frame is in exactly one of the `rx_` counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that belonged to something.
    pub rx_used: u64,
    /// Not AoE (another ethertype, or no Ethernet header).
    pub rx_not_aoe: u64,
    /// To another host's MAC.
    pub rx_other_host: u64,
    /// Another VLAN than ours.
    pub rx_other_vlan: u64,
    /// AoE that could not be parsed.
    pub rx_malformed: u64,
    /// Requests, not responses: somebody else's, or our own reflected.
    pub rx_request: u64,
    /// An AoE version that is not ours.
    pub rx_version: u64,
    /// Another shard's tag.
    pub rx_other_shard: u64,
    /// Tags of commands that are over: late answers.
    pub rx_stale_tag: u64,
    /// From a MAC, shelf.slot or interface that the command was not sent to.
    pub rx_wrong_source: u64,
    /// The tag fits, the command or LBA does not.
    pub rx_mismatch: u64,
    /// Fewer data bytes than the sectors answered for, or an error register set that makes no sense.
    pub rx_short_data: u64,
    /// Unsolicited frames for addresses that are not attached, or from MACs not pinned.
    pub rx_unsolicited: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Copies among them: retransmissions.
    pub tx_copies: u64,
    /// Probes among them.
    pub tx_probes: u64,
    /// Commands taken for lost: by their timer, or since a frame sent later was answered.
    pub timeouts: u64,
    /// Those that an answer to the earlier copy showed to be premature.
    pub timeouts_spurious: u64,
    /// Requests sent again from their start: the payload shrank, or the path died.
    pub request_restarts: u64,
    /// Write commands whose range stayed closed after their answer or deadline.
    pub lingered: u64,
    /// Of those, freed since an answered probe showed the last copies dead.
    pub lingered_dead: u64,
    /// Of those, freed since their session is void: the target refuses what still arrives.
    pub lingered_void: u64,
    /// Writes that had to wait for a closed range.
    pub range_waits: u64,
    /// Sessions that began, the first of each target included.
    pub sessions: u64,
    /// WRITEs and FLUSHes that were refused since their session was void.
    pub sessions_void: u64,
    /// Notices dropped since nobody fetched them.
    pub notices_lost: u64,
    /// Commands put off since no tag was free that had outlived a lifetime (S1).
    pub tag_waits: u64,
}
