//! What lock managers say to each other: records of 64 bytes, or of 128 with a value block or a set of slots.
//!
//! [`Message`] is the meaning; `record.rs` goes between it and the bytes. Who may send what
//! when, and why, is told in `docs/locks.md`; the bytes are drawn in `docs/wire.md`.

use core::fmt;

use super::{Epoch, Mode, NodeId};

/// Bytes of a value block.
pub const VALUE_BYTES: usize = 64;
/// Slots that a set of slots in one record tells of.
pub const SET_SLOTS: u16 = 512;
/// Bytes of a resource's name.
pub const NAME_BYTES: usize = 16;
/// Transactions of a deadlock that one record names.
pub const CYCLE_MAX: usize = 8;

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
    /// A request of which holders that use their lock are told even though it does not wait.
    pub const NOQUEUEBAST: Self = Self(1 << 6);

    pub(super) const KNOWN: u16 = 0x7f;

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
    /// For which transaction.
    pub transaction: Transaction,
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
    pub(super) const fn from_u8(number: u8) -> Option<Self> {
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

/// A probe that follows who waits for whom, from a transaction through lesser ones only: of a cycle, the greatest finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Where it began, and what it looks for.
    pub origin: Transaction,
    /// Tells the origin's probes apart.
    pub round: u32,
    /// The mode that is waited for.
    pub mode: Mode,
    /// Of the waits that it followed so far.
    pub signature: u64,
    /// Who waits, so far; the second time around, the whole cycle.
    pub path: Path,
    /// The second time around: where on that cycle it is, and the signature that it had when it came back.
    pub confirms: Option<(u16, u64)>,
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
        /// What the node held before, as the master knew it.
        previous: Mode,
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
        /// In a deadlock of conversions the other one's transaction.
        other: Transaction,
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
        /// The value block that went with it.
        value: ValueBlock,
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
    /// 24, node to new master: I handed it over, and nobody told me that it arrived.
    Passed {
        /// To whom.
        successor: NodeId,
        /// The successor's request that it answers.
        request: RequestId,
        /// The successor's number.
        grant: GrantNumber,
        /// The value block that went with it.
        value: ValueBlock,
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
