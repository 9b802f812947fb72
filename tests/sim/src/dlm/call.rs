//! What is asked of a lock manager and what it tells: the only words that the checkers know.
//!
//! They are the simulation's own. Whatever manager is under test, an adapter ([`Station`](super::station::Station))
//! translates, so that a mistake in the manager's types cannot hide in the judge's.

use core::fmt;

/// A lock mode, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Null.
    Nl,
    /// Concurrent read.
    Cr,
    /// Concurrent write.
    Cw,
    /// Protected read.
    Pr,
    /// Protected write.
    Pw,
    /// Exclusive.
    Ex,
}

/// Which modes may be held beside which, as the VMS manual prints it: rows and columns are NL, CR, CW, PR, PW, EX.
const BESIDE: [&[u8; 6]; 6] = [
    b"yyyyyy", b"yyyyyn", b"yyynnn", b"yynynn", b"yynnnn", b"ynnnnn",
];

impl Mode {
    /// All modes.
    pub const ALL: [Self; 6] = [Self::Nl, Self::Cr, Self::Cw, Self::Pr, Self::Pw, Self::Ex];

    /// Whether `other` may be held at the same time.
    #[must_use]
    pub fn is_beside(self, other: Self) -> bool {
        BESIDE[self as usize][other as usize] == b'y'
    }

    /// Whether whoever dies with it may have changed what it protects.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, Self::Cw | Self::Pw | Self::Ex)
    }

    /// Whether its holder may write the value block.
    #[must_use]
    pub fn writes_value(self) -> bool {
        matches!(self, Self::Pw | Self::Ex)
    }

    /// Whether nobody can write the value block while it is held.
    #[must_use]
    pub fn freezes_value(self) -> bool {
        matches!(self, Self::Pr | Self::Pw | Self::Ex)
    }
}

/// One life of a node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The node, from 0.
    pub node: u8,
    /// Its incarnation, from 1.
    pub life: u32,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}.{}", self.node, self.life)
    }
}

/// What a caller calls one of its locks; not used twice in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockId(pub u64);

/// A transaction, unique in a run. Deadlocks are among transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Txn(pub u64);

/// A resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource(pub u16);

/// What a value block holds: each write of a run writes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The block's bytes.
    #[must_use]
    pub fn block(self) -> [u8; 64] {
        let mut block = [0; 64];
        for (index, part) in (0u64..).zip(block.chunks_exact_mut(8)) {
            let word = self.0.wrapping_mul(2 * index + 1) ^ index << 56;
            part.copy_from_slice(&word.to_le_bytes());
        }
        block
    }

    /// What the bytes say, if they are a block that somebody may have written.
    #[must_use]
    pub fn of(block: &[u8; 64]) -> Option<Self> {
        let mut word = [0; 8];
        word.copy_from_slice(&block[..8]);
        let stamp = Self(u64::from_le_bytes(word));
        (stamp.block() == *block).then_some(stamp)
    }
}

/// How a request is to be treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// At once or not at all.
    pub noqueue: bool,
    /// A new NL lock that ignores the queues.
    pub expedite: bool,
    /// To the head of its queue.
    pub headque: bool,
    /// A conversion that queues behind the others.
    pub quecvt: bool,
    /// PR will do as well.
    pub altpr: bool,
    /// CW will do as well.
    pub altcw: bool,
    /// A conversion that may lose its lock to NL instead of falling victim.
    pub convdeadlk: bool,
    /// Ends when it has waited for so long, in nanoseconds.
    pub timeout_ns: Option<u64>,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A new lock.
    Lock {
        /// Its name from now on.
        lock: LockId,
        /// Of what.
        resource: Resource,
        /// In which mode.
        mode: Mode,
        /// How.
        flags: Flags,
        /// For whom.
        txn: Txn,
    },
    /// Another mode for a lock that is held.
    Convert {
        /// Which.
        lock: LockId,
        /// The mode wanted.
        mode: Mode,
        /// How.
        flags: Flags,
        /// Written to the value block, if the mode held is PW or EX and the new one is not.
        value: Option<Stamp>,
    },
    /// Gives a lock back.
    Unlock {
        /// Which.
        lock: LockId,
        /// Written to the value block, if the mode held is PW or EX.
        value: Option<Stamp>,
    },
    /// Ends a request that waits, if it still does.
    Cancel {
        /// The lock whose request it is.
        lock: LockId,
    },
}

impl Call {
    /// The lock it is about.
    #[must_use]
    pub const fn lock(&self) -> LockId {
        match self {
            Self::Lock { lock, .. }
            | Self::Convert { lock, .. }
            | Self::Unlock { lock, .. }
            | Self::Cancel { lock } => *lock,
        }
    }
}

/// What a grant says of the value block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// It holds this.
    Valid(Stamp),
    /// Nobody knows what it holds.
    Invalid,
    /// Bytes that nobody has written.
    Garbage,
    /// The grant does not tell.
    Untold,
}

/// Why a request ended without its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was not to wait.
    WouldBlock,
    /// It waited too long.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It was the victim of a deadlock among these.
    Deadlock(Vec<Txn>),
    /// There is no room for it.
    Full,
}

/// What a node tells its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The lock is held now in this mode.
    Granted {
        /// Which.
        lock: LockId,
        /// How.
        mode: Mode,
        /// The fencing token.
        number: u64,
        /// The value block.
        value: Value,
        /// The conversion had lost its old mode meanwhile.
        demoted: bool,
    },
    /// The request ended without success.
    Denied {
        /// Whose.
        lock: LockId,
        /// Why.
        why: Why,
        /// What is held now: nothing, or the mode from which it was to be converted, or NL if that was lost.
        held: Option<Mode>,
    },
    /// The lock is given back.
    Unlocked {
        /// Which.
        lock: LockId,
    },
    /// Somebody waits for this lock.
    Blocking {
        /// Which.
        lock: LockId,
    },
}

impl Told {
    /// The lock it is about.
    #[must_use]
    pub const fn lock(&self) -> LockId {
        match self {
            Self::Granted { lock, .. }
            | Self::Denied { lock, .. }
            | Self::Unlocked { lock }
            | Self::Blocking { lock } => *lock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_symmetric_and_each_mode_excludes_as_many_as_it_must() {
        for one in Mode::ALL {
            for other in Mode::ALL {
                assert_eq!(one.is_beside(other), other.is_beside(one));
            }
        }
        let admitted = Mode::ALL.map(|mode| {
            Mode::ALL
                .iter()
                .filter(|other| mode.is_beside(**other))
                .count()
        });
        assert_eq!(admitted, [6, 5, 3, 3, 2, 1]);
    }

    #[test]
    fn a_block_that_changed_is_nobodys() {
        let mut block = Stamp(77).block();
        assert_eq!(Stamp::of(&block), Some(Stamp(77)));
        block[40] ^= 1;
        assert_eq!(Stamp::of(&block), None);
        assert_ne!(Stamp::of(&[0; 64]), Some(Stamp(0)), "zeroes are no value");
    }
}
