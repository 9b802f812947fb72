//! What lock managers say to each other: records of 64 bytes, or of 128 with a value block or a set of slots.
//!
//! [`Message`] is the meaning, [`Message::emit`] and [`Message::parse`] go between it and the bytes. Who may send what
//! when, and why, is told in `docs/locks.md`; the bytes are drawn in `docs/wire.md`.

use core::fmt;

use super::{Epoch, Mode, NodeId, SLOT_BYTES};
use crate::{BufferTooSmall, claim};

/// Bytes of a value block.
pub const VALUE_BYTES: usize = 64;
/// Slots that a set of slots in one record tells of.
pub const SET_SLOTS: u16 = 512;
/// Bytes of a resource's name.
pub const NAME_BYTES: usize = 16;
/// Transactions of a deadlock that one record names.
pub const CYCLE_MAX: usize = 8;

const LONG_BYTES: usize = 2 * SLOT_BYTES;

/// What is locked: bytes that are compared and hashed, whose sense is the lock manager's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName(pub [u8; NAME_BYTES]);

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The fencing token of a hold: 24 bits of the epoch in which its master began, 40 of a counter. Strictly increasing for
/// a resource, over masters and epochs (S19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantNumber(pub u64);

/// A node's request at a master: unique among those of the node for a resource that can be under way at once. A request
/// that is sent again after its master died keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u32);

/// A transaction, on whose behalf locks are wanted. 0 is none: it takes part in no deadlock. Of a cycle's transactions the
/// one with the greatest number is the victim, so numbers that grow with time make it the youngest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Transaction(pub u64);

impl Transaction {
    /// None.
    pub const NONE: Self = Self(0);
}

/// A value block, or that nobody knows what it holds. There is no way to the bytes but through the answer whether they
/// are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueBlock {
    /// What was written last.
    Valid {
        /// Counts the writes of the block.
        sequence: u64,
        /// The bytes.
        bytes: [u8; VALUE_BYTES],
    },
    /// Never written, or its last writer died.
    Invalid,
}

/// How a master is to treat a request, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestFlags(pub u16);

impl RequestFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// It converts a lock that is held (in mode `floor`), so it goes before new ones.
    pub const CONVERT: Self = Self(1);
    /// At once or not at all. What nobody uses is taken back from who keeps it, though.
    pub const TRY: Self = Self(1 << 1);
    /// To the head of its queue.
    pub const HEADQUE: Self = Self(1 << 2);
    /// A conversion that waits behind those which wait already.
    pub const QUECVT: Self = Self(1 << 3);
    /// PR will do as well.
    pub const ALTPR: Self = Self(1 << 4);
    /// CW will do as well.
    pub const ALTCW: Self = Self(1 << 5);
    /// The node renounces a handoff that it was asked for: it converts what it was to hand over.
    pub const KEEPS: Self = Self(1 << 6);
    /// A request of which holders that use their lock are told even though it does not wait.
    pub const NOQUEUEBAST: Self = Self(1 << 7);

    const KNOWN: u16 = 0xff;

    /// Those in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of it that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A request of a node that its master has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its name.
    pub request: RequestId,
    /// The mode wanted.
    pub mode: Mode,
    /// The mode of the lock that is converted, which stays held meanwhile; NL for a new lock.
    pub floor: Mode,
    /// How.
    pub flags: RequestFlags,
}

/// To whom a holder hands its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Successor {
    /// The node; its request is the one that the notice is for.
    pub node: NodeId,
    /// The grant number that it gets.
    pub grant: GrantNumber,
}

/// Why a master does not grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Denial {
    /// It would have to wait, and was not to.
    WouldBlock = 0,
    /// It was cancelled.
    Cancelled = 1,
    /// Two conversions wait for each other.
    Deadlock = 2,
    /// The master has no room for another resource or request.
    Full = 3,
    /// The slot's grant numbers are used up; the next epoch brings new ones.
    Exhausted = 4,
}

impl Denial {
    const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::WouldBlock,
            1 => Self::Cancelled,
            2 => Self::Deadlock,
            3 => Self::Full,
            4 => Self::Exhausted,
            _ => return None,
        })
    }
}

/// A set among [`SET_SLOTS`] slots, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotSet {
    /// The slot that bit 0 stands for.
    pub first: u16,
    /// Bits, the lowest of the first word first.
    pub words: [u64; 8],
}

/// The transactions of a wait-for path, and a cycle once it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Transactions on it, also those that are not named.
    pub length: u8,
    /// The first of them, in the order in which each waits for the next.
    pub named: [Transaction; CYCLE_MAX],
}

/// A probe that follows who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Where it began, and what it looks for.
    pub origin: Transaction,
    /// Tells the origin's probes apart.
    pub round: u32,
    /// The node with the greatest transaction so far, which is to be the victim.
    pub victim_node: NodeId,
    /// The mode that is waited for.
    pub mode: Mode,
    /// Who waits, so far.
    pub path: Path,
}

/// What is said, about the resource and under the term of the [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// 1, node to master: I want this.
    Request(Wanted),
    /// 2, node to master: no longer, if it still waits.
    Cancel {
        /// Which.
        request: RequestId,
    },
    /// 3, master to node: it is yours. Replaces what the node held.
    Grant {
        /// The request that is answered.
        request: RequestId,
        /// The mode granted.
        mode: Mode,
        /// The hold's number.
        grant: GrantNumber,
        /// The value block.
        value: ValueBlock,
    },
    /// 4, master to node: you do not get it.
    Deny {
        /// The request that is answered.
        request: RequestId,
        /// Why.
        reason: Denial,
    },
    /// 5, master to holder: somebody waits. Go down to what may be held beside `wanted` as soon as you can.
    Block {
        /// The hold that is meant.
        grant: GrantNumber,
        /// What somebody wants.
        wanted: Mode,
        /// Only if nobody uses it now; otherwise say [`Body::Busy`].
        only_idle: bool,
        /// The request for whose sake; of an `only_idle` notice, the one that `Busy` names.
        request: RequestId,
        /// To whom to hand it.
        successor: Option<Successor>,
    },
    /// 6, holder to master: it is used, so whoever does not want to wait does not get it.
    Busy {
        /// The hold that is meant.
        grant: GrantNumber,
        /// The request.
        request: RequestId,
    },
    /// 7, holder to master: I now have less.
    Demote {
        /// The hold that is meant.
        grant: GrantNumber,
        /// What is left of it.
        mode: Mode,
        /// The value block, if it was written since the master knew it.
        value: Option<ValueBlock>,
    },
    /// 8, holder to successor: it is yours.
    Hand {
        /// The successor's request.
        request: RequestId,
        /// The mode granted.
        mode: Mode,
        /// What the former holder keeps.
        kept: Mode,
        /// The hold's number.
        grant: GrantNumber,
        /// Whether the value block was written since the master knew it.
        is_newer: bool,
        /// The value block.
        value: ValueBlock,
    },
    /// 9, successor to master: I have it.
    Taken {
        /// The hold's number.
        grant: GrantNumber,
        /// The mode.
        mode: Mode,
        /// What the former holder keeps.
        kept: Mode,
        /// The value block, if it was written since the master knew it.
        value: Option<ValueBlock>,
    },
    /// 10, master to the former holder: your successor has it.
    Settled {
        /// The hold's number that the successor got.
        grant: GrantNumber,
    },
    /// 11, master to the one end of a handoff whose other end died: has it happened? If not, it must not any more.
    Ask {
        /// The number that the successor was to get.
        grant: GrantNumber,
    },
    /// 12, the answer: it has not happened, and will not.
    Kept {
        /// The number that the successor was to get.
        grant: GrantNumber,
    },
    /// 13, the former holder's answer: I have handed it over, to one who is dead.
    Handed {
        /// The number that the successor was to get.
        grant: GrantNumber,
        /// What the former holder keeps.
        kept: Mode,
    },
    /// 14, new master to every node: I am the master of these slots; tell me what you hold. The term is the new one.
    Collect(SlotSet),
    /// 15, node to new master: what I have of this resource.
    Report {
        /// The mode held.
        mode: Mode,
        /// The hold's number.
        grant: GrantNumber,
        /// The request that is not answered yet.
        wanted: Option<Wanted>,
        /// A handoff of which nobody told that it arrived.
        handed: Option<(NodeId, GrantNumber)>,
        /// The value block as this node knows it.
        value: Option<ValueBlock>,
    },
    /// 16, former master, which lives, to new master: what it knows of a resource besides its holders.
    Legacy {
        /// What the dead hold; NL if nothing.
        retained: Mode,
        /// Who they are, a bit for each.
        dead: u64,
        /// The value block, if nobody may have written it since.
        value: Option<ValueBlock>,
    },
    /// 17, former master to new master: this slot may hold locks of these dead nodes that nobody knows.
    Doubt {
        /// The slot.
        slot: u16,
        /// The dead nodes, a bit for each.
        dead: u64,
    },
    /// 18, node to new master: that was all about these slots of your [`Body::Collect`].
    Reported {
        /// The slots.
        slots: SlotSet,
    },
    /// 19, the former master's part of the same: of these slots I was the master until you asked, and have told all.
    Ceded {
        /// The slots.
        slots: SlotSet,
    },
    /// 20, node to master: numbers, please.
    Draw {
        /// The request.
        request: RequestId,
        /// How many.
        count: u32,
    },
    /// 21, the answer: that many from this one on.
    Drawn {
        /// The request.
        request: RequestId,
        /// The first.
        first: GrantNumber,
        /// How many.
        count: u32,
    },
    /// 22, node to master: the request `request` of node `waiter` waits; who is in its way?
    ProbeMaster {
        /// The node whose request waits.
        waiter: NodeId,
        /// That request.
        request: RequestId,
        /// The probe.
        probe: Probe,
    },
    /// 23, master to a node that is in the way, by what it holds (`queued` clear) or by an earlier request (set).
    ProbeNode {
        /// By an earlier request.
        queued: bool,
        /// The node whose request waits.
        waiter: NodeId,
        /// The probe.
        probe: Probe,
    },
    /// 24, to the victim's node: this cycle is yours to break.
    Victim {
        /// Who is to give up.
        victim: Transaction,
        /// The cycle.
        path: Path,
    },
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The epoch in which the master of the resource's slot began. What was said under another one is void.
    pub term: Epoch,
    /// What it is about; all zeroes if it is about slots.
    pub resource: ResourceName,
    /// What is said.
    pub body: Body,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// Neither 64 nor 128 bytes, or not the length that the kind has.
    Length(usize),
    /// A kind that this version does not know.
    UnknownKind(u8),
    /// A mode, a flag or a reason that this version does not know.
    BadField(&'static str),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(bytes) => write!(f, "a record of {bytes} bytes"),
            Self::UnknownKind(kind) => write!(f, "unknown kind {kind}"),
            Self::BadField(field) => write!(f, "{field} is out of range"),
        }
    }
}

impl core::error::Error for MessageError {}

/// The fields of a record, as they lie in it. Which of them a kind uses is said where it is taken apart and put together.
#[derive(Clone, Copy, Default)]
struct Flat {
    kind: u8,
    bits: u8,
    mode: Mode,
    second: u8,
    flags: u16,
    node: u16,
    grant: u64,
    request: u32,
    count: u32,
    extra: u64,
    sequence: u64,
    long: Option<[u8; SLOT_BYTES]>,
}

/// A value block, valid or not, is there.
const BIT_VALUE: u8 = 1;
/// It is valid: its bytes are in the second slot.
const BIT_VALID: u8 = 1 << 1;
/// What the kind's yes-or-no says; in a report, that a request is there.
const BIT_FIRST: u8 = 1 << 2;
/// A successor is there; in a report, a handoff.
const BIT_OTHER: u8 = 1 << 3;

impl Flat {
    const fn of(kind: u8) -> Self {
        Self {
            kind,
            bits: 0,
            mode: Mode::Nl,
            second: 0,
            flags: 0,
            node: 0,
            grant: 0,
            request: 0,
            count: 0,
            extra: 0,
            sequence: 0,
            long: None,
        }
    }

    const fn bit(mut self, bit: u8, set: bool) -> Self {
        if set {
            self.bits |= bit;
        }
        self
    }

    const fn value(mut self, value: Option<ValueBlock>) -> Self {
        match value {
            None => {}
            Some(ValueBlock::Invalid) => self.bits |= BIT_VALUE,
            Some(ValueBlock::Valid { sequence, bytes }) => {
                self.bits |= BIT_VALUE | BIT_VALID;
                self.sequence = sequence;
                self.long = Some(bytes);
            }
        }
        self
    }

    fn set(mut self, slots: SlotSet) -> Self {
        self.node = slots.first;
        self.long(slots.words)
    }

    fn long(mut self, words: [u64; 8]) -> Self {
        let mut long = [0; SLOT_BYTES];
        for (part, word) in long.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        self.long = Some(long);
        self
    }

    fn path(mut self, path: Path) -> Self {
        self.second = path.length;
        self.long(path.named.map(|transaction| transaction.0))
    }

    fn probe(mut self, waiter: NodeId, probe: Probe) -> Self {
        self.node = waiter.0;
        self.flags = probe.victim_node.0;
        self.mode = probe.mode;
        self.count = probe.round;
        self.extra = probe.origin.0;
        self.path(probe.path)
    }

    fn wanted(mut self, wanted: Wanted) -> Self {
        self.request = wanted.request.0;
        self.mode = wanted.mode;
        self.second = wanted.floor as u8;
        self.flags = wanted.flags.0;
        self
    }

    const fn hold(mut self, grant: GrantNumber, mode: Mode) -> Self {
        self.grant = grant.0;
        self.mode = mode;
        self
    }

    const fn kept(mut self, mode: Mode) -> Self {
        self.second = mode as u8;
        self
    }

    const fn request(mut self, request: RequestId) -> Self {
        self.request = request.0;
        self
    }

    const fn grant(mut self, grant: GrantNumber) -> Self {
        self.grant = grant.0;
        self
    }
}

impl From<&Body> for Flat {
    fn from(body: &Body) -> Self {
        match *body {
            Body::Request(wanted) => Self::of(1).wanted(wanted),
            Body::Cancel { request } => Self::of(2).request(request),
            Body::Grant {
                request,
                mode,
                grant,
                value,
            } => Self::of(3)
                .request(request)
                .hold(grant, mode)
                .value(Some(value)),
            Body::Deny { request, reason } => Self {
                second: reason as u8,
                ..Self::of(4).request(request)
            },
            Body::Block {
                grant,
                wanted,
                only_idle,
                request,
                successor,
            } => {
                let mut flat = Self::of(5).hold(grant, wanted).request(request);
                if let Some(successor) = successor {
                    flat.node = successor.node.0;
                    flat.extra = successor.grant.0;
                }
                flat.bit(BIT_FIRST, only_idle)
                    .bit(BIT_OTHER, successor.is_some())
            }
            Body::Busy { grant, request } => Self::of(6).grant(grant).request(request),
            Body::Demote { grant, mode, value } => Self::of(7).hold(grant, mode).value(value),
            Body::Hand {
                request,
                mode,
                kept,
                grant,
                is_newer,
                value,
            } => Self::of(8)
                .request(request)
                .hold(grant, mode)
                .kept(kept)
                .bit(BIT_FIRST, is_newer)
                .value(Some(value)),
            Body::Taken {
                grant,
                mode,
                kept,
                value,
            } => Self::of(9).hold(grant, mode).kept(kept).value(value),
            Body::Settled { grant } => Self::of(10).grant(grant),
            Body::Ask { grant } => Self::of(11).grant(grant),
            Body::Kept { grant } => Self::of(12).grant(grant),
            Body::Handed { grant, kept } => Self::of(13).grant(grant).kept(kept),
            ref other => Self::of_recovery(other),
        }
    }
}

impl Flat {
    /// The rest of the kinds: recovery, sequences, deadlocks.
    fn of_recovery(body: &Body) -> Self {
        match *body {
            Body::Collect(slots) => Self::of(14).set(slots),
            Body::Report {
                mode,
                grant,
                wanted,
                handed,
                value,
            } => {
                let mut flat = Self::of(15).value(value);
                if let Some(wanted) = wanted {
                    flat = flat.wanted(wanted);
                    flat.count = u32::from(wanted.mode as u8);
                }
                if let Some((node, handed)) = handed {
                    flat.node = node.0;
                    flat.extra = handed.0;
                }
                flat.hold(grant, mode)
                    .bit(BIT_FIRST, wanted.is_some())
                    .bit(BIT_OTHER, handed.is_some())
            }
            Body::Legacy {
                retained,
                dead,
                value,
            } => Self {
                mode: retained,
                extra: dead,
                ..Self::of(16).value(value)
            },
            Body::Doubt { slot, dead } => Self {
                node: slot,
                extra: dead,
                ..Self::of(17)
            },
            Body::Reported { slots } => Self::of(18).set(slots),
            Body::Ceded { slots } => Self::of(19).set(slots),
            Body::Draw { request, count } => Self {
                count,
                ..Self::of(20).request(request)
            },
            Body::Drawn {
                request,
                first,
                count,
            } => Self {
                count,
                ..Self::of(21).request(request).grant(first)
            },
            Body::ProbeMaster {
                waiter,
                request,
                probe,
            } => Self::of(22).request(request).probe(waiter, probe),
            Body::ProbeNode {
                queued,
                waiter,
                probe,
            } => Self::of(23).probe(waiter, probe).bit(BIT_FIRST, queued),
            Body::Victim { victim, path } => Self {
                extra: victim.0,
                ..Self::of(24).path(path)
            },
            // All others were put together by the caller.
            _ => Self::of(0),
        }
    }

    fn to_value(self) -> Result<Option<ValueBlock>, MessageError> {
        match (self.bits & BIT_VALUE != 0, self.bits & BIT_VALID != 0) {
            (false, false) => Ok(None),
            (true, false) => Ok(Some(ValueBlock::Invalid)),
            (true, true) => Ok(Some(ValueBlock::Valid {
                sequence: self.sequence,
                bytes: self.long.ok_or(MessageError::Length(SLOT_BYTES))?,
            })),
            (false, true) => Err(MessageError::BadField("value block")),
        }
    }

    fn to_some_value(self) -> Result<ValueBlock, MessageError> {
        self.to_value()?
            .ok_or(MessageError::BadField("value block"))
    }

    fn to_words(self) -> Result<[u64; 8], MessageError> {
        let long = self.long.ok_or(MessageError::Length(SLOT_BYTES))?;
        let mut words = [0; 8];
        for (word, part) in words.iter_mut().zip(long.chunks_exact(8)) {
            *word = be(part);
        }
        Ok(words)
    }

    fn to_set(self) -> Result<SlotSet, MessageError> {
        Ok(SlotSet {
            first: self.node,
            words: self.to_words()?,
        })
    }

    fn to_path(self) -> Result<Path, MessageError> {
        Ok(Path {
            length: self.second,
            named: self.to_words()?.map(Transaction),
        })
    }

    fn to_probe(self) -> Result<Probe, MessageError> {
        Ok(Probe {
            origin: Transaction(self.extra),
            round: self.count,
            victim_node: NodeId(self.flags),
            mode: self.mode,
            path: self.to_path()?,
        })
    }

    fn to_wanted(self, mode: Mode) -> Result<Wanted, MessageError> {
        if self.flags & !RequestFlags::KNOWN != 0 {
            return Err(MessageError::BadField("flags"));
        }
        Ok(Wanted {
            request: RequestId(self.request),
            mode,
            floor: mode_of(self.second)?,
            flags: RequestFlags(self.flags),
        })
    }

    fn to_body(self) -> Result<Body, MessageError> {
        let request = RequestId(self.request);
        let grant = GrantNumber(self.grant);
        let mode = self.mode;
        Ok(match self.kind {
            1 => Body::Request(self.to_wanted(mode)?),
            2 => Body::Cancel { request },
            3 => Body::Grant {
                request,
                mode,
                grant,
                value: self.to_some_value()?,
            },
            4 => Body::Deny {
                request,
                reason: Denial::from_u8(self.second).ok_or(MessageError::BadField("reason"))?,
            },
            5 => Body::Block {
                grant,
                wanted: mode,
                only_idle: self.bits & BIT_FIRST != 0,
                request,
                successor: (self.bits & BIT_OTHER != 0).then_some(Successor {
                    node: NodeId(self.node),
                    grant: GrantNumber(self.extra),
                }),
            },
            6 => Body::Busy { grant, request },
            7 => Body::Demote {
                grant,
                mode,
                value: self.to_value()?,
            },
            8 => Body::Hand {
                request,
                mode,
                kept: mode_of(self.second)?,
                grant,
                is_newer: self.bits & BIT_FIRST != 0,
                value: self.to_some_value()?,
            },
            9 => Body::Taken {
                grant,
                mode,
                kept: mode_of(self.second)?,
                value: self.to_value()?,
            },
            10 => Body::Settled { grant },
            11 => Body::Ask { grant },
            12 => Body::Kept { grant },
            13 => Body::Handed {
                grant,
                kept: mode_of(self.second)?,
            },
            _ => return self.to_recovery(),
        })
    }

    fn to_recovery(self) -> Result<Body, MessageError> {
        let request = RequestId(self.request);
        Ok(match self.kind {
            14 => Body::Collect(self.to_set()?),
            15 => {
                let wanted = if self.bits & BIT_FIRST == 0 {
                    None
                } else {
                    let number =
                        u8::try_from(self.count).map_err(|_| MessageError::BadField("mode"))?;
                    Some(self.to_wanted(mode_of(number)?)?)
                };
                Body::Report {
                    mode: self.mode,
                    grant: GrantNumber(self.grant),
                    wanted,
                    handed: (self.bits & BIT_OTHER != 0)
                        .then_some((NodeId(self.node), GrantNumber(self.extra))),
                    value: self.to_value()?,
                }
            }
            16 => Body::Legacy {
                retained: self.mode,
                dead: self.extra,
                value: self.to_value()?,
            },
            17 => Body::Doubt {
                slot: self.node,
                dead: self.extra,
            },
            18 => Body::Reported {
                slots: self.to_set()?,
            },
            19 => Body::Ceded {
                slots: self.to_set()?,
            },
            20 => Body::Draw {
                request,
                count: self.count,
            },
            21 => Body::Drawn {
                request,
                first: GrantNumber(self.grant),
                count: self.count,
            },
            22 => Body::ProbeMaster {
                waiter: NodeId(self.node),
                request,
                probe: self.to_probe()?,
            },
            23 => Body::ProbeNode {
                queued: self.bits & BIT_FIRST != 0,
                waiter: NodeId(self.node),
                probe: self.to_probe()?,
            },
            24 => Body::Victim {
                victim: Transaction(self.extra),
                path: self.to_path()?,
            },
            unknown => return Err(MessageError::UnknownKind(unknown)),
        })
    }
}

const fn mode_of(number: u8) -> Result<Mode, MessageError> {
    match Mode::from_u8(number) {
        Some(mode) => Ok(mode),
        None => Err(MessageError::BadField("mode")),
    }
}

/// A number from up to eight bytes, the most significant first.
fn be(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The same in the width of the field, which its bytes cannot exceed.
fn be32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn be16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u16::from(*byte))
}

impl Message {
    /// Bytes that it takes: one slot, or two.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match Flat::from(&self.body).long {
            None => SLOT_BYTES,
            Some(_) => LONG_BYTES,
        }
    }

    /// Writes it, and returns the bytes that it took.
    ///
    /// # Errors
    /// If the buffer is too small.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let flat = Flat::from(&self.body);
        let len_bytes = if flat.long.is_some() {
            LONG_BYTES
        } else {
            SLOT_BYTES
        };
        let out = claim(out, len_bytes)?;
        out[0] = flat.kind;
        out[1] = flat.bits;
        out[2] = flat.mode as u8;
        out[3] = flat.second;
        out[4..6].copy_from_slice(&flat.flags.to_be_bytes());
        out[6..8].copy_from_slice(&flat.node.to_be_bytes());
        out[8..16].copy_from_slice(&self.term.0.to_be_bytes());
        out[16..32].copy_from_slice(&self.resource.0);
        out[32..40].copy_from_slice(&flat.grant.to_be_bytes());
        out[40..44].copy_from_slice(&flat.request.to_be_bytes());
        out[44..48].copy_from_slice(&flat.count.to_be_bytes());
        out[48..56].copy_from_slice(&flat.extra.to_be_bytes());
        out[56..64].copy_from_slice(&flat.sequence.to_be_bytes());
        if let Some(long) = &flat.long {
            out[SLOT_BYTES..].copy_from_slice(long);
        }
        Ok(len_bytes)
    }

    /// Reads a record of exactly one or two slots.
    ///
    /// # Errors
    /// If it has another length, is of an unknown kind, or a field is out of range.
    pub fn parse(record: &[u8]) -> Result<Self, MessageError> {
        let long = match record.len() {
            SLOT_BYTES => None,
            LONG_BYTES => {
                let mut long = [0; SLOT_BYTES];
                long.copy_from_slice(&record[SLOT_BYTES..]);
                Some(long)
            }
            other => return Err(MessageError::Length(other)),
        };
        let mut resource = ResourceName::default();
        resource.0.copy_from_slice(&record[16..32]);
        let flat = Flat {
            kind: record[0],
            bits: record[1],
            mode: mode_of(record[2])?,
            second: record[3],
            flags: be16(&record[4..6]),
            node: be16(&record[6..8]),
            grant: be(&record[32..40]),
            request: be32(&record[40..44]),
            count: be32(&record[44..48]),
            extra: be(&record[48..56]),
            sequence: be(&record[56..64]),
            long,
        };
        let message = Self {
            term: Epoch(be(&record[8..16])),
            resource,
            body: flat.to_body()?,
        };
        if Flat::from(&message.body).long.is_some() != long.is_some() {
            return Err(MessageError::Length(record.len()));
        }
        Ok(message)
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
