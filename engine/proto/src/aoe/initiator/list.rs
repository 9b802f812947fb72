//! Doubly linked lists through the slots of a table: no allocation, removal from the middle in constant time.

/// No slot.
pub(super) const NONE: u16 = u16::MAX;

/// A slot's neighbours in the one list it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    prev: u16,
    next: u16,
}

impl Links {
    pub(super) const UNLINKED: Self = Self {
        prev: NONE,
        next: NONE,
    };

    pub(super) const fn next(self) -> u16 {
        self.next
    }
}

/// A table's slot that can be on a list.
pub(super) trait Linked {
    fn links(&self) -> Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// A list of slots. Which table it belongs to, and that a slot is on one list at a time, is its owner's to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u16,
    tail: u16,
    len: u16,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        len: 0,
    };

    pub(super) const fn len(&self) -> u16 {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first slot, or [`NONE`].
    pub(super) const fn head(&self) -> u16 {
        self.head
    }

    pub(super) fn push_back<T: Linked>(&mut self, table: &mut [T], slot: u16) {
        *table[usize::from(slot)].links_mut() = Links {
            prev: self.tail,
            next: NONE,
        };
        if self.tail == NONE {
            self.head = slot;
        } else {
            table[usize::from(self.tail)].links_mut().next = slot;
        }
        self.tail = slot;
        self.len += 1;
    }

    pub(super) fn push_front<T: Linked>(&mut self, table: &mut [T], slot: u16) {
        *table[usize::from(slot)].links_mut() = Links {
            prev: NONE,
            next: self.head,
        };
        if self.head == NONE {
            self.tail = slot;
        } else {
            table[usize::from(self.head)].links_mut().prev = slot;
        }
        self.head = slot;
        self.len += 1;
    }

    pub(super) fn remove<T: Linked>(&mut self, table: &mut [T], slot: u16) {
        let links = table[usize::from(slot)].links();
        if links.prev == NONE {
            assert_eq!(self.head, slot, "slot is not on this list");
            self.head = links.next;
        } else {
            table[usize::from(links.prev)].links_mut().next = links.next;
        }
        if links.next == NONE {
            assert_eq!(self.tail, slot, "slot is not on this list");
            self.tail = links.prev;
        } else {
            table[usize::from(links.next)].links_mut().prev = links.prev;
        }
        *table[usize::from(slot)].links_mut() = Links::UNLINKED;
        self.len -= 1;
    }

    pub(super) fn pop_front<T: Linked>(&mut self, table: &mut [T]) -> Option<u16> {
        let slot = self.head;
        if slot == NONE {
            return None;
        }
        self.remove(table, slot);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    struct Slot(Links);
    impl Linked for Slot {
        fn links(&self) -> Links {
            self.0
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    fn walk(list: &List, table: &[Slot]) -> Vec<u16> {
        let (mut seen, mut at) = (Vec::new(), list.head());
        while at != NONE {
            seen.push(at);
            at = table[usize::from(at)].0.next();
        }
        seen
    }

    /// Two lists over one table behave as two deques, whatever the order of operations.
    #[test]
    fn agrees_with_deques() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut table: Vec<Slot> = (0..50).map(|_| Slot(Links::UNLINKED)).collect();
        let mut lists = [List::EMPTY; 2];
        let mut oracle = [VecDeque::new(), VecDeque::new()];
        for _ in 0..20_000 {
            let which = rng.usize(..2);
            let slot = rng.u16(..50);
            let on = oracle.iter().position(|o| o.contains(&slot));
            match (on, rng.u8(..3)) {
                (None, 0) => {
                    lists[which].push_front(&mut table, slot);
                    oracle[which].push_front(slot);
                }
                (None, _) => {
                    lists[which].push_back(&mut table, slot);
                    oracle[which].push_back(slot);
                }
                (Some(on), 0) => {
                    assert_eq!(lists[on].pop_front(&mut table), oracle[on].pop_front());
                }
                (Some(on), _) => {
                    lists[on].remove(&mut table, slot);
                    oracle[on].retain(|s| *s != slot);
                }
            }
            for (list, oracle) in lists.iter().zip(&oracle) {
                assert_eq!(walk(list, &table), Vec::from(oracle.clone()));
                assert_eq!(usize::from(list.len()), oracle.len());
                assert_eq!(list.is_empty(), oracle.is_empty());
            }
        }
    }
}
