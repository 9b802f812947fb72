//! Which operations of a target share sectors, so that the later one of two waits when either writes.
//!
//! Sectors are divided into granules as long as the longest data frame, so that a READ or WRITE lies in at most two of
//! them. A hash table of chains says who is active in a granule; only TRIMs and the like, which are wider, are on a list of
//! their own. Each look-up is exact: an operation waits for the operations that it overlaps, and for nobody else.

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    end: u64,
    /// Order of arrival.
    seq: u64,
    /// The next in the chains of the first and of the second granule.
    next: [u32; 2],
    writes: bool,
    active: bool,
}

impl Entry {
    const FREE: Self = Self {
        start: 0,
        end: 0,
        seq: 0,
        next: [NONE; 2],
        writes: false,
        active: false,
    };

    const fn conflicts(&self, range: &Range) -> bool {
        self.start < range.end && range.start < self.end && (self.writes || range.writes)
    }
}

/// Sectors `start..end`, and whether they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) writes: bool,
}

impl Range {
    /// No sectors.
    pub(super) const NONE: Self = Self {
        start: 0,
        end: 0,
        writes: false,
    };
}

/// The active operations of one target, by slot.
#[derive(Debug)]
pub(super) struct RangeIndex {
    granule_shift: u32,
    heads: Box<[u32]>,
    entries: Box<[Entry]>,
    wide: Vec<u32>,
    active: u32,
    active_writes: u32,
    next_seq: u64,
}

impl RangeIndex {
    /// Room for `slots` operations. Those of at most `sectors_max` sectors are found fast.
    pub(super) fn new(slots: u32, sectors_max: u32) -> Self {
        let count = usize::try_from(slots).expect("32 bits");
        Self {
            granule_shift: sectors_max.next_power_of_two().trailing_zeros(),
            // More than two, so that an operation's two granules never share a chain.
            heads: vec![NONE; (2 * count).next_power_of_two().max(4)].into(),
            entries: vec![Entry::FREE; count].into(),
            wide: Vec::with_capacity(count),
            active: 0,
            active_writes: 0,
            next_seq: 0,
        }
    }

    const fn granules(&self, range: &Range) -> (u64, u64) {
        (
            range.start >> self.granule_shift,
            (range.end - 1) >> self.granule_shift,
        )
    }

    fn head(&self, granule: u64) -> usize {
        let mask = u64::try_from(self.heads.len() - 1).unwrap_or(u64::MAX);
        usize::try_from(granule & mask).unwrap_or(0)
    }

    /// Calls `found` with each active slot that conflicts with `range`.
    fn for_conflicts(&self, range: &Range, mut found: impl FnMut(u32, &Entry)) {
        let (first, last) = self.granules(range);
        if last > first + 1 {
            let mut left = self.active;
            for (slot, entry) in (0..).zip(self.entries.iter()) {
                if left == 0 {
                    break;
                }
                left -= u32::from(entry.active);
                if entry.active && entry.conflicts(range) {
                    found(slot, entry);
                }
            }
            return;
        }
        for granule in first..=last {
            let mut slot = self.heads[self.head(granule)];
            while slot != NONE {
                let entry = &self.entries[slot as usize];
                let its_first = entry.start >> self.granule_shift;
                // Two that share both granules meet in both chains; they count in the first they share.
                if entry.conflicts(range) && granule == its_first.max(first) {
                    found(slot, entry);
                }
                // A collision of hashes: the chain is that of its other granule.
                slot = self.next_in(entry, granule);
            }
        }
        for slot in &self.wide {
            let entry = &self.entries[*slot as usize];
            if entry.conflicts(range) {
                found(*slot, entry);
            }
        }
    }

    /// The link of the chain that `granule` belongs to.
    fn next_in(&self, entry: &Entry, granule: u64) -> u32 {
        let its_first = entry.start >> self.granule_shift;
        entry.next[usize::from(self.head(its_first) != self.head(granule))]
    }

    /// With how many active operations `range` conflicts.
    #[inline]
    pub(super) fn conflicts(&self, range: &Range) -> u32 {
        let relevant = if range.writes {
            self.active
        } else {
            self.active_writes
        };
        if relevant == 0 {
            return 0;
        }
        let mut count = 0;
        self.for_conflicts(range, |_, _| count += 1);
        count
    }

    /// Makes an operation active, after all that are.
    pub(super) fn insert(&mut self, slot: u32, range: &Range) {
        assert!(
            range.start < range.end,
            "an empty range conflicts with nothing"
        );
        let (first, last) = self.granules(range);
        let entry = &mut self.entries[slot as usize];
        assert!(!entry.active, "a slot holds one operation");
        *entry = Entry {
            start: range.start,
            end: range.end,
            seq: self.next_seq,
            next: [NONE; 2],
            writes: range.writes,
            active: true,
        };
        self.next_seq += 1;
        self.active += 1;
        self.active_writes += u32::from(range.writes);
        if last > first + 1 {
            self.wide.push(slot);
            return;
        }
        for (link, granule) in (first..=last).enumerate() {
            let head = self.head(granule);
            self.entries[slot as usize].next[link] =
                core::mem::replace(&mut self.heads[head], slot);
        }
    }

    /// Ends an operation, and calls `unblocked` with each later one that it was in the way of.
    pub(super) fn remove(&mut self, slot: u32, mut unblocked: impl FnMut(u32)) {
        let entry = self.entries[slot as usize];
        assert!(entry.active, "only what is active ends");
        let range = Range {
            start: entry.start,
            end: entry.end,
            writes: entry.writes,
        };
        self.unlink(slot, &range);
        self.entries[slot as usize].active = false;
        self.active -= 1;
        self.active_writes -= u32::from(entry.writes);
        if self.active == 0 || (!range.writes && self.active_writes == 0) {
            return;
        }
        self.for_conflicts(&range, |other, its| {
            if its.seq > entry.seq {
                unblocked(other);
            }
        });
    }

    fn unlink(&mut self, slot: u32, range: &Range) {
        let (first, last) = self.granules(range);
        if last > first + 1 {
            let place = self.wide.iter().position(|wide| *wide == slot);
            self.wide.swap_remove(place.expect("it is on the list"));
            return;
        }
        for (link, granule) in (first..=last).enumerate() {
            let after = self.entries[slot as usize].next[link];
            let head = self.head(granule);
            let mut at = self.heads[head];
            if at == slot {
                self.heads[head] = after;
                continue;
            }
            loop {
                let its_first = self.entries[at as usize].start >> self.granule_shift;
                let its_link = usize::from(self.head(its_first) != head);
                let next = &mut self.entries[at as usize].next[its_link];
                if *next == slot {
                    *next = after;
                    break;
                }
                at = *next;
            }
        }
    }

    /// Operations that are active.
    pub(super) const fn active(&self) -> u32 {
        self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agrees with a list of ranges that is searched from end to end.
    #[test]
    fn agrees_with_a_list() {
        const SLOTS: u32 = 24;
        for (seed, sectors) in [(1, 60), (2, 400), (3, 100_000)] {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut index = RangeIndex::new(SLOTS, 17);
            let mut list: Vec<(u32, Range)> = Vec::new();
            let (mut waited, mut freed) = (0, 0);
            for _ in 0..20_000 {
                let slot = rng.u32(..SLOTS);
                if let Some(place) = list.iter().position(|(other, _)| *other == slot) {
                    let (_, range) = list.remove(place);
                    let mut unblocked = Vec::new();
                    index.remove(slot, |other| unblocked.push(other));
                    let later = list[place..]
                        .iter()
                        .filter(|(_, other)| clash(other, &range));
                    let mut expected: Vec<u32> = later.map(|(slot, _)| *slot).collect();
                    unblocked.sort_unstable();
                    expected.sort_unstable();
                    assert_eq!(unblocked, expected, "seed {seed}");
                    freed += expected.len();
                } else {
                    let start = rng.u64(..sectors);
                    let most = if rng.u8(..8) == 0 { sectors } else { 17 };
                    let range = Range {
                        start,
                        end: start + rng.u64(1..=most),
                        writes: rng.bool(),
                    };
                    let count = list
                        .iter()
                        .filter(|(_, other)| clash(other, &range))
                        .count();
                    assert_eq!(index.conflicts(&range) as usize, count, "seed {seed}");
                    waited += count;
                    index.insert(slot, &range);
                    list.push((slot, range));
                }
                assert_eq!(index.active() as usize, list.len());
            }
            assert!(waited > 100 && freed > 100, "nothing was tested");
        }
    }

    fn clash(a: &Range, b: &Range) -> bool {
        a.start < b.end && b.start < a.end && (a.writes || b.writes)
    }

    #[test]
    fn reads_of_the_same_sectors_are_no_conflict() {
        let mut index = RangeIndex::new(4, 17);
        let range = |writes| Range {
            start: 30,
            end: 34,
            writes,
        };
        index.insert(0, &range(false));
        assert_eq!(index.conflicts(&range(false)), 0);
        assert_eq!(index.conflicts(&range(true)), 1);
    }
}
