//! Memory of the machines: slabs of fixed capacity, an index of names, and queues through records. All of it is taken at the
//! start; nothing allocates afterwards.

use sandrail_wire::lock::ResourceName;

/// No record.
pub(super) const NIL: u32 = u32::MAX;

/// Records by place.
#[derive(Debug)]
pub(super) struct Slab<T> {
    items: Vec<T>,
    free: Vec<u32>,
    capacity: u32,
}

impl<T> Slab<T> {
    pub(super) fn new(capacity: u32) -> Self {
        let room = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self {
            items: Vec::with_capacity(room),
            free: Vec::with_capacity(room),
            capacity: capacity.min(NIL - 1),
        }
    }

    /// Takes a place for the record that `make` yields, out of what lay there before if it was used already.
    pub(super) fn take(&mut self, make: impl FnOnce(Option<&T>) -> T) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            let item = make(Some(&self.items[index(place)]));
            self.items[index(place)] = item;
            return Some(place);
        }
        let place = u32::try_from(self.items.len()).ok()?;
        if place >= self.capacity {
            return None;
        }
        self.items.push(make(None));
        Some(place)
    }

    pub(super) fn give_back(&mut self, place: u32) {
        debug_assert!(
            self.free.len() > 64 || !self.free.contains(&place),
            "given back twice"
        );
        self.free.push(place);
    }

    /// Records in use.
    pub(super) fn used(&self) -> usize {
        self.items.len() - self.free.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.used() < index(self.capacity)
    }

    /// Places that were ever used.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(NIL)
    }

    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.items.get(index(place))
    }
}

impl<T> core::ops::Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, place: u32) -> &T {
        &self.items[index(place)]
    }
}

impl<T> core::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, place: u32) -> &mut T {
        &mut self.items[index(place)]
    }
}

/// A place as an index; a `usize` has at least 32 bits wherever this runs.
pub(super) const fn index(place: u32) -> usize {
    place as usize
}

/// A record's neighbours in the one queue that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    pub(super) const NONE: Self = Self {
        prev: NIL,
        next: NIL,
    };

    pub(super) const fn next(self) -> u32 {
        self.next
    }
}

/// Which links of a record a queue uses: a record may be in several queues by different links.
pub(super) trait Linked<const WHICH: usize> {
    fn links(&mut self) -> &mut Links;
    fn links_of(&self) -> Links;
}

/// A queue through records of a slab.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue<const WHICH: usize> {
    head: u32,
    tail: u32,
}

impl<const WHICH: usize> Queue<WHICH> {
    pub(super) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };

    pub(super) const fn is_empty(self) -> bool {
        self.head == NIL
    }

    pub(super) const fn head(self) -> Option<u32> {
        if self.head == NIL {
            None
        } else {
            Some(self.head)
        }
    }

    pub(super) fn push_back<T: Linked<WHICH>>(&mut self, slab: &mut Slab<T>, place: u32) {
        *slab[place].links() = Links {
            prev: self.tail,
            next: NIL,
        };
        if self.tail == NIL {
            self.head = place;
        } else {
            slab[self.tail].links().next = place;
        }
        self.tail = place;
    }

    pub(super) fn push_front<T: Linked<WHICH>>(&mut self, slab: &mut Slab<T>, place: u32) {
        *slab[place].links() = Links {
            prev: NIL,
            next: self.head,
        };
        if self.head == NIL {
            self.tail = place;
        } else {
            slab[self.head].links().prev = place;
        }
        self.head = place;
    }

    pub(super) fn remove<T: Linked<WHICH>>(&mut self, slab: &mut Slab<T>, place: u32) {
        let Links { prev, next } = slab[place].links_of();
        if prev == NIL {
            assert_eq!(
                self.head, place,
                "a record is removed from a queue that it is not in"
            );
            self.head = next;
        } else {
            slab[prev].links().next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            slab[next].links().prev = prev;
        }
        *slab[place].links() = Links::NONE;
    }

    /// The places in it, first to last.
    pub(super) fn iter<T: Linked<WHICH>>(self, slab: &Slab<T>) -> impl Iterator<Item = u32> {
        core::iter::successors(self.head(), move |place| {
            let next = slab[*place].links_of().next;
            (next != NIL).then_some(next)
        })
    }
}

/// What an index finds by its name.
pub(super) trait Named {
    fn name(&self) -> &ResourceName;
}

/// Places of a slab by name: open addressing with linear probing, at most three quarters full.
#[derive(Debug)]
pub(super) struct Index {
    cells: Vec<u32>,
    mask: usize,
}

impl Index {
    pub(super) fn new(capacity: u32) -> Self {
        let cells = (index(capacity) + index(capacity) / 3 + 2).next_power_of_two();
        Self {
            cells: vec![NIL; cells],
            mask: cells - 1,
        }
    }

    fn home(&self, name: &ResourceName) -> usize {
        usize::try_from(hash(name) & 0xffff_ffff).unwrap_or(0) & self.mask
    }

    pub(super) fn find<T: Named>(&self, slab: &Slab<T>, name: &ResourceName) -> Option<u32> {
        let mut at = self.home(name);
        loop {
            let place = self.cells[at];
            if place == NIL {
                return None;
            }
            if slab[place].name() == name {
                return Some(place);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds a place whose name is not in it. The slab's capacity is the index's, so there is room.
    pub(super) fn insert(&mut self, name: &ResourceName, place: u32) {
        let mut at = self.home(name);
        while self.cells[at] != NIL {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = place;
    }

    /// Takes a place out, and moves up what stood behind it, so that no search stops short.
    pub(super) fn remove<T: Named>(&mut self, slab: &Slab<T>, place: u32) {
        let mut hole = self.home(slab[place].name());
        while self.cells[hole] != place {
            assert_ne!(self.cells[hole], NIL, "a record is not in its index");
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let other = self.cells[at];
            if other == NIL {
                break;
            }
            let home = self.home(slab[other].name());
            let from_home = at.wrapping_sub(home) & self.mask;
            let from_hole = at.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                self.cells[hole] = other;
                hole = at;
            }
        }
        self.cells[hole] = NIL;
    }
}

/// The hash of a name: the same on all nodes and in all versions, since a slot, and by it a master, follows from it.
pub(super) fn hash(name: &ResourceName) -> u64 {
    let half = |from: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&name.0[from..from + 8]);
        u64::from_be_bytes(bytes)
    };
    mix(mix(half(0)) ^ half(8))
}

/// Spreads what two words have in different bits over all bits: multiply and fold, twice.
pub(super) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 29)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
