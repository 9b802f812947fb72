//! A request that is under way: from its frame to its answer.

use sandrail_wire::aoe::{AtaRepr, ErrorCode};
use sandrail_wire::{MacAddr, Tag};

use super::duplicates::{EntryId, Registers};
use super::overlap::Range;
use super::stations::StationId;

/// No operation, and no piece of the stash.
pub(super) const NONE: u32 = u32::MAX;

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    /// Waits for overlapping operations that came before it.
    Waiting,
    /// Waits for the disk to take it.
    Queued,
    /// The disk has it.
    Running,
    /// Its answer waits to be sent, or is being sent.
    Answered,
}

/// What an operation does, as far as order and answers are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    /// A READ whose data nobody wants.
    Verify,
    Write,
    Flush,
    Trim,
    /// Asks nothing of the disk.
    Answer,
}

impl Kind {
    /// Whether it is remembered, to know copies of it, and needs a valid session (S5, S6).
    pub(super) const fn is_remembered(self) -> bool {
        matches!(self, Self::Write | Self::Flush | Self::Trim)
    }

    /// Whether it changes sectors.
    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Trim)
    }
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With E, and the registers of the request.
    Refused(ErrorCode),
    /// With the registers of an outcome.
    Outcome(Registers),
}

/// What follows an answer's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Nothing,
    /// The sectors of a READ, borrowed from the disk until they are sent.
    Disk,
    Identify,
}

/// An ATA request under way. Its place in the table is its target's first place plus its [`IoId`](super::backing::IoId).
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) stage: Stage,
    pub(super) kind: Kind,
    pub(super) payload: Payload,
    /// Its sectors are in the target's index of ranges.
    pub(super) is_indexed: bool,
    /// There is an entry for it among the duplicates.
    pub(super) is_remembered: bool,
    pub(super) interface: u8,
    /// Changes of the target whose answers wait for it, a bit each (S9).
    pub(super) barriers: u8,
    pub(super) target: u16,
    pub(super) station: StationId,
    pub(super) mac: MacAddr,
    pub(super) tag: Tag,
    pub(super) request: AtaRepr,
    pub(super) answer: Answer,
    pub(super) lba: u64,
    pub(super) end: u64,
    /// Operations that it waits for.
    pub(super) blockers: u32,
    /// Its data, while it waits.
    pub(super) stash: u32,
    /// The range that a TRIM is at, and how many sectors of it are done.
    pub(super) trim_at: u16,
    pub(super) trim_sectors: u16,
    pub(super) entry: EntryId,
    /// The next on a list.
    pub(super) next: u32,
}

impl Operation {
    pub(super) const FREE: Self = Self {
        stage: Stage::Free,
        kind: Kind::Answer,
        payload: Payload::Nothing,
        is_indexed: false,
        is_remembered: false,
        interface: 0,
        barriers: 0,
        target: 0,
        station: StationId::NOBODY,
        mac: MacAddr::ZERO,
        tag: Tag(0),
        request: AtaRepr::identify(),
        answer: Answer::Refused(ErrorCode::BadCommand),
        lba: 0,
        end: 0,
        blockers: 0,
        stash: NONE,
        trim_at: 0,
        trim_sectors: 0,
        entry: EntryId::NOTHING,
        next: NONE,
    };

    /// The sectors it is about, as far as order is concerned; `None` for those without any.
    pub(super) const fn range(&self) -> Option<Range> {
        if self.lba == self.end {
            return None;
        }
        Some(Range {
            start: self.lba,
            end: self.end,
            writes: self.kind.writes(),
        })
    }

    /// Whether it has not begun, and can still be thrown away.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Queued)
    }
}

/// A first-in-first-out list through a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fifo {
    head: u32,
    tail: u32,
}

/// A table's element that can be on a [`Fifo`].
pub(super) trait Next {
    fn next_mut(&mut self) -> &mut u32;
}

impl Next for Operation {
    fn next_mut(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Fifo {
    pub(super) const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };

    pub(super) fn push<T: Next>(&mut self, table: &mut [T], place: u32) {
        *table[place as usize].next_mut() = NONE;
        if self.tail == NONE {
            self.head = place;
        } else {
            *table[self.tail as usize].next_mut() = place;
        }
        self.tail = place;
    }

    pub(super) fn pop<T: Next>(&mut self, table: &mut [T]) -> Option<u32> {
        let place = self.head;
        if place == NONE {
            return None;
        }
        self.head = core::mem::replace(table[place as usize].next_mut(), NONE);
        if self.head == NONE {
            self.tail = NONE;
        }
        Some(place)
    }
}

/// Memory for the data of writes that wait, in pieces as long as the longest frame's sectors.
#[derive(Debug)]
pub(super) struct Stash {
    bytes: Box<[u8]>,
    piece_bytes: usize,
    free: Vec<u32>,
}

impl Stash {
    pub(super) fn new(bytes: usize, piece_bytes: usize) -> Self {
        let count = (bytes / piece_bytes).max(1);
        let pieces = u32::try_from(count).expect("stash_bytes is bounded");
        Self {
            bytes: vec![0; count * piece_bytes].into(),
            piece_bytes,
            free: (0..pieces).rev().collect(),
        }
    }

    /// A piece with `fill`'s bytes in it; `None` when there is none left.
    pub(super) fn take(&mut self, fill: impl FnOnce(&mut [u8])) -> Option<u32> {
        let piece = self.free.pop()?;
        let from = piece as usize * self.piece_bytes;
        fill(&mut self.bytes[from..from + self.piece_bytes]);
        Some(piece)
    }

    pub(super) fn get(&self, piece: u32, len_bytes: usize) -> &[u8] {
        let from = piece as usize * self.piece_bytes;
        &self.bytes[from..from + len_bytes]
    }

    pub(super) fn give_back(&mut self, piece: u32) {
        assert!(
            self.free.len() < self.free.capacity(),
            "a piece comes back once"
        );
        self.free.push(piece);
    }

    /// Pieces in use.
    pub(super) fn used(&self) -> usize {
        self.bytes.len() / self.piece_bytes - self.free.len()
    }
}
