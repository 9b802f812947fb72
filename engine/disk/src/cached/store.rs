//! Dirty sectors in memory, in the order in which they became dirty.
//!
//! A sector has one copy, or two while the older is being written to the disk behind: that one no longer changes, and the
//! newer waits until it is through. `since` of a copy is the number of the oldest write whose data (or newer data) are only
//! here, so a flush of everything up to write n is through when no copy has a `since` up to n.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;

use sandrail_proto::aoe::target::backing::{Pieces, SECTOR_BYTES};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Dirty,
    /// On its way to the disk behind.
    Writing,
}

#[derive(Clone, Copy, Debug)]
struct Copy {
    lba: u64,
    since: u64,
    state: State,
    /// An older copy of the sector is being written.
    waits: bool,
    /// Neighbours in the list by `since`.
    older: u32,
    newer: u32,
}

/// The copies. Allocated once.
#[derive(Debug)]
pub(super) struct Store {
    copies: Vec<Copy>,
    bytes: Vec<u8>,
    free: Vec<u32>,
    /// The newest copy of each sector.
    newest: HashMap<u64, u32>,
    oldest: u32,
    youngest: u32,
    /// Writes so far.
    writes: u64,
}

impl Store {
    pub(super) fn new(sectors_max: u32) -> Self {
        let count = usize::try_from(sectors_max).unwrap_or(usize::MAX);
        let none = Copy {
            lba: 0,
            since: 0,
            state: State::Free,
            waits: false,
            older: NONE,
            newer: NONE,
        };
        Self {
            copies: vec![none; count],
            bytes: vec![0; count * SECTOR_BYTES],
            free: (0..sectors_max).rev().collect(),
            // Twice as much as it will ever hold: then removals never make it allocate, it cleans up in place.
            newest: HashMap::with_capacity(2 * count),
            oldest: NONE,
            youngest: NONE,
            writes: 0,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Sectors of which there is a copy.
    pub(super) fn dirty(&self) -> usize {
        self.newest.len()
    }

    /// The number of the last write.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// The oldest write that is not wholly through; `None`: all are.
    pub(super) fn oldest_write(&self) -> Option<u64> {
        Some(self.copies.get(index(self.oldest))?.since)
    }

    /// What is here of a sector.
    pub(super) fn get(&self, lba: u64) -> Option<&[u8]> {
        self.newest.get(&lba).map(|copy| self.bytes_of(*copy))
    }

    /// Takes a write whole, or not at all if there is no room.
    pub(super) fn write(&mut self, lba: u64, sectors: u32, data: Pieces<'_>) -> bool {
        let all = lba..lba + u64::from(sectors);
        let new = all.clone().filter(|lba| self.overwritable(*lba).is_none());
        if new.count() > self.free.len() {
            return false;
        }
        self.writes += 1;
        let mut data = Cursor {
            pieces: data,
            piece: 0,
            at: 0,
        };
        for lba in all {
            let copy = match self.overwritable(lba) {
                Some(copy) => copy,
                None => self.add(lba),
            };
            data.fill(self.bytes_of_mut(copy));
        }
        true
    }

    /// The newest copy, if it may change.
    fn overwritable(&self, lba: u64) -> Option<u32> {
        let copy = *self.newest.get(&lba)?;
        (self.copies[index(copy)].state == State::Dirty).then_some(copy)
    }

    fn add(&mut self, lba: u64) -> u32 {
        let copy = self.free.pop().expect("room was looked for");
        let older = self.newest.insert(lba, copy);
        self.copies[index(copy)] = Copy {
            lba,
            since: self.writes,
            state: State::Dirty,
            waits: older.is_some(),
            older: self.youngest,
            newer: NONE,
        };
        match self.copies.get_mut(index(self.youngest)) {
            Some(youngest) => youngest.newer = copy,
            None => self.oldest = copy,
        }
        self.youngest = copy;
        copy
    }

    /// The oldest neighbours that can be written now, at most as many as `to` has room for, and not those that `refused`
    /// says no to; their bytes are in `to`. Nothing changes until [`Store::writing`].
    pub(super) fn pick(&self, to: &mut [u8], refused: impl Fn(u64) -> bool) -> Option<Run> {
        let ready = |copy: &Copy| copy.state == State::Dirty && !copy.waits && !refused(copy.lba);
        let mut next = self.oldest;
        let (first, since) = loop {
            let copy = self.copies.get(index(next))?;
            if ready(copy) {
                // Its neighbours come after it in the order, so this is the oldest of the run.
                break (copy.lba, copy.since);
            }
            next = copy.newer;
        };
        let mut sectors = 0;
        for place in to.chunks_exact_mut(SECTOR_BYTES) {
            let copy = self.newest.get(&(first + u64::from(sectors)));
            let Some(copy) = copy.filter(|copy| ready(&self.copies[index(**copy)])) else {
                break;
            };
            place.copy_from_slice(self.bytes_of(*copy));
            sectors += 1;
        }
        Some(Run {
            lba: first,
            sectors: NonZeroU32::new(sectors)?,
            since,
        })
    }

    /// These sectors, which [`Store::pick`] named, are on their way.
    pub(super) fn writing(&mut self, run: &Run) {
        for lba in run.range() {
            let copy = self.newest[&lba];
            self.copies[index(copy)].state = State::Writing;
        }
    }

    /// What was on its way has arrived, or has not.
    pub(super) fn written(&mut self, run: &Run, well: bool) {
        let mut next = self.oldest;
        while let Some(copy) = self.copies.get(index(next)) {
            let (this, found) = (next, *copy);
            next = found.newer;
            if found.state == State::Writing && run.range().contains(&found.lba) {
                if well {
                    self.arrived(this);
                } else {
                    next = self.came_back(this);
                }
            }
        }
    }

    fn arrived(&mut self, copy: u32) {
        let lba = self.copies[index(copy)].lba;
        let newest = self.newest[&lba];
        if newest == copy {
            self.newest.remove(&lba);
        } else {
            self.copies[index(newest)].waits = false;
        }
        self.unlink(copy);
    }

    /// A copy stays dirty, in its place in the order; if there is a newer one, its bytes move here. Returns the next in order.
    fn came_back(&mut self, copy: u32) -> u32 {
        let lba = self.copies[index(copy)].lba;
        let newest = self.newest[&lba];
        if newest != copy {
            let from = index(newest) * SECTOR_BYTES;
            let to = index(copy) * SECTOR_BYTES;
            self.bytes.copy_within(from..from + SECTOR_BYTES, to);
            self.newest.insert(lba, copy);
            self.unlink(newest);
        }
        self.copies[index(copy)].state = State::Dirty;
        self.copies[index(copy)].newer
    }

    fn unlink(&mut self, copy: u32) {
        let Copy { older, newer, .. } = self.copies[index(copy)];
        match self.copies.get_mut(index(older)) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.copies.get_mut(index(newer)) {
            Some(newer) => newer.older = older,
            None => self.youngest = older,
        }
        self.copies[index(copy)].state = State::Free;
        self.free.push(copy);
    }

    /// Forgets a sector. False: it is on its way, or not here.
    pub(super) fn forget(&mut self, lba: u64) -> bool {
        let Some(copy) = self.overwritable(lba) else {
            return false;
        };
        self.newest.remove(&lba);
        self.unlink(copy);
        true
    }

    /// The sector that has been dirty for longest.
    pub(super) fn oldest_sector(&self) -> Option<u64> {
        Some(self.copies.get(index(self.oldest))?.lba)
    }

    fn bytes_of(&self, copy: u32) -> &[u8] {
        let start = index(copy) * SECTOR_BYTES;
        &self.bytes[start..start + SECTOR_BYTES]
    }

    fn bytes_of_mut(&mut self, copy: u32) -> &mut [u8] {
        let start = index(copy) * SECTOR_BYTES;
        &mut self.bytes[start..start + SECTOR_BYTES]
    }
}

/// Sectors on their way to the disk behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) lba: u64,
    pub(super) sectors: NonZeroU32,
    /// The oldest write whose data are among them.
    pub(super) since: u64,
}

impl Run {
    pub(super) fn range(&self) -> Range<u64> {
        self.lba..self.lba + u64::from(self.sectors.get())
    }

    pub(super) fn meets(&self, lba: u64, sectors: u32) -> bool {
        let range = self.range();
        lba < range.end && range.start < lba + u64::from(sectors)
    }
}

/// Reads on through pieces that are cut anywhere.
struct Cursor<'a> {
    pieces: Pieces<'a>,
    piece: usize,
    at: usize,
}

impl Cursor<'_> {
    fn fill(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            let rest = &self.pieces[self.piece][self.at..];
            let len = rest.len().min(to.len());
            to[..len].copy_from_slice(&rest[..len]);
            to = &mut to[len..];
            self.at += len;
            if len == rest.len() {
                self.piece += 1;
                self.at = 0;
            }
        }
    }
}

fn index(copy: u32) -> usize {
    usize::try_from(copy).unwrap_or(usize::MAX)
}
