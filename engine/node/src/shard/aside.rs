//! What waits for a volume that has its fill under way, in lists that are made once.

use std::collections::VecDeque;

/// No place.
const NONE: u32 = u32::MAX;

/// A list of those who wait for one volume, by places, first come first.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    /// Among those that are called.
    called: bool,
}

/// A list for each volume, and which volumes may have room again. Nothing of it grows, and each step takes the same time
/// however many wait.
#[derive(Debug)]
pub(super) struct Aside<T> {
    lists: Box<[List]>,
    /// What waits, and the place of who is next for the same volume.
    places: Box<[(Option<T>, u32)]>,
    /// The first free place; the others follow as in a list.
    free: u32,
    called: VecDeque<u32>,
}

impl<T> Aside<T> {
    /// For so many volumes, and so many at once over all of them.
    pub(super) fn new(volumes: u32, most: u32) -> Self {
        let empty = List {
            first: NONE,
            last: NONE,
            called: false,
        };
        let next = |place: u32| if place + 1 < most { place + 1 } else { NONE };
        Self {
            lists: (0..volumes).map(|_| empty).collect(),
            places: (0..most).map(|place| (None, next(place))).collect(),
            free: if most > 0 { 0 } else { NONE },
            called: VecDeque::with_capacity(usize::try_from(volumes).unwrap_or(0)),
        }
    }

    /// Puts one behind those who wait for the volume.
    ///
    /// # Panics
    /// With a volume that can't be, or when there are more than there can be.
    pub(super) fn push(&mut self, volume: u32, waiting: T) {
        let place = self.free;
        let entry = &mut self.places[index(place)];
        self.free = entry.1;
        *entry = (Some(waiting), NONE);
        let list = &mut self.lists[index(volume)];
        match list.last {
            NONE => list.first = place,
            last => self.places[index(last)].1 = place,
        }
        list.last = place;
    }

    /// The volume may have room again.
    pub(super) fn call(&mut self, volume: u32) {
        let Some(list) = self.lists.get_mut(index(volume)) else {
            return;
        };
        if list.first != NONE && !list.called {
            list.called = true;
            self.called.push_back(volume);
        }
    }

    /// The volume that was called first.
    pub(super) fn called(&self) -> Option<u32> {
        self.called.front().copied()
    }

    /// It has no room, or nobody waits for it any more.
    pub(super) fn pass(&mut self) {
        if let Some(volume) = self.called.pop_front() {
            self.lists[index(volume)].called = false;
        }
    }

    /// The first of those who wait for the volume that was called first.
    pub(super) fn pop(&mut self) -> Option<T> {
        let volume = self.called()?;
        let list = &mut self.lists[index(volume)];
        let place = list.first;
        if place == NONE {
            return None;
        }
        let entry = &mut self.places[index(place)];
        list.first = entry.1;
        if list.first == NONE {
            list.last = NONE;
        }
        entry.1 = self.free;
        self.free = place;
        entry.0.take()
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_goes_in_its_turn_once_its_volume_is_called() {
        let mut aside = Aside::new(3, 4);
        for (volume, waiting) in [(0, 'a'), (2, 'b'), (0, 'c'), (0, 'd')] {
            aside.push(volume, waiting);
        }
        assert_eq!((aside.called(), aside.pop()), (None, None));
        aside.call(1);
        assert_eq!(aside.called(), None, "nobody waits for it");
        aside.call(2);
        aside.call(0);
        aside.call(0);
        assert_eq!((aside.called(), aside.pop()), (Some(2), Some('b')));
        assert_eq!(aside.pop(), None);
        aside.pass();
        assert_eq!((aside.called(), aside.pop()), (Some(0), Some('a')));
        aside.push(0, 'e');
        aside.pass();
        assert_eq!(aside.called(), None, "called once");
        aside.call(0);
        let rest: Vec<char> = std::iter::from_fn(|| aside.pop()).collect();
        assert_eq!(rest, ['c', 'd', 'e']);
        aside.pass();
        // All places are free again.
        for number in 0..4 {
            aside.push(1, char::from(b'0' + number));
        }
        aside.call(1);
        assert_eq!(std::iter::from_fn(|| aside.pop()).count(), 4);
    }
}
