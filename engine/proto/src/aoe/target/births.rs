//! Lives of initiators, numbered in the order in which the target heard of them (S10).
//!
//! A shard's first attach names no number, a *birth*, and is told one, greater than all that were told before, over restarts
//! as well; each of its later attaches names it. Then it need not be remembered who was alive when a MAC was removed from
//! the reservation: whoever names a smaller birth than the next one of that time was.

use sandrail_wire::MacAddr;
use sandrail_wire::aoe::Birth;

use super::config::{BIRTH_BLOCK, PersistentState};

/// Removed MACs that are remembered, beside those on the list. The oldest goes first, into the number that holds for all others.
const REMOVED_MAX: usize = 1024;

/// Which births were given, and which may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Births {
    next: u32,
    /// Births from `next` up to this one may be given: a restart begins there.
    durable_until: u32,
}

impl Births {
    /// `next` is the first that was never given.
    pub(super) fn new(next: u32) -> Self {
        // 0 is none.
        let next = next.max(1);
        Self {
            next,
            durable_until: next,
        }
    }

    /// The next birth, unless no more are durable. They are not used again: after four billion there are none.
    pub(super) fn give(&mut self) -> Option<Birth> {
        let birth = (self.left() > 0).then_some(Birth(self.next))?;
        self.next += 1;
        Some(birth)
    }

    /// Whether this birth was given.
    pub(super) const fn is_known(self, birth: Birth) -> bool {
        birth.is_some() && birth.0 < self.next
    }

    pub(super) const fn left(self) -> u32 {
        self.durable_until.saturating_sub(self.next)
    }

    /// Where a restart would have to begin if a block more were made durable.
    pub(super) const fn bound_after(self) -> u32 {
        self.next.saturating_add(BIRTH_BLOCK)
    }

    /// A state with that bound is durable.
    pub(super) const fn set_durable_until(&mut self, bound: u32) {
        self.durable_until = bound;
    }

    /// What is smaller was given before now.
    pub(super) const fn next(self) -> u32 {
        self.next
    }
}

/// Lives that were born before this are not admitted with `mac`: it was removed from the reservation since.
pub(super) fn removed_at(state: &PersistentState, mac: MacAddr) -> u32 {
    let known = state.removed.iter().find(|(other, _)| *other == mac);
    known.map_or(state.removed_others, |(_, at)| *at)
}

/// `after` takes the place of the reservation: whoever was admitted and is no more is removed, with all lives born before `at`.
pub(super) fn note_removals(state: &mut PersistentState, after: &[MacAddr], at: u32) {
    // An empty list admits everybody.
    if after.is_empty() {
        return;
    }
    // Those who are listed keep their number, whatever becomes of all others'.
    for mac in after {
        if !state.removed.iter().any(|(other, _)| other == mac) {
            let since = removed_at(state, *mac);
            state.removed.push((*mac, since));
        }
    }
    if state.reserved.is_empty() {
        state.removed.retain(|(mac, _)| after.contains(mac));
        state.removed_others = at;
        return;
    }
    for mac in state.reserved.iter().filter(|mac| !after.contains(mac)) {
        state.removed.retain(|(other, _)| other != mac);
        state.removed.push((*mac, at));
    }
    let shut_out = |(mac, _): &(MacAddr, u32)| !after.contains(mac);
    while state.removed.iter().filter(|entry| shut_out(entry)).count() > REMOVED_MAX {
        let Some(oldest) = state.removed.iter().position(shut_out) else {
            return;
        };
        let (_, at) = state.removed.remove(oldest);
        state.removed_others = state.removed_others.max(at);
    }
}

/// The most entries that [`note_removals`] leaves.
pub(super) const fn removed_max(listed_max: usize) -> usize {
    REMOVED_MAX + listed_max
}

/// Whom every reservation admits that a restart may find: the durable one, one that is being made so, and those of which that failed,
/// since a part of it may have been done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Surely {
    /// `None`: everybody.
    macs: Option<Vec<MacAddr>>,
}

impl Surely {
    /// A restart finds this one.
    pub(super) fn of(reserved: &[MacAddr]) -> Self {
        let macs = (!reserved.is_empty()).then(|| reserved.to_vec());
        Self { macs }
    }

    /// Or this one.
    pub(super) fn narrow(&mut self, reserved: &[MacAddr]) {
        match &mut self.macs {
            _ if reserved.is_empty() => {}
            Some(macs) => macs.retain(|mac| reserved.contains(mac)),
            None => *self = Self::of(reserved),
        }
    }

    pub(super) fn admits(&self, mac: MacAddr) -> bool {
        self.macs.as_ref().is_none_or(|macs| macs.contains(&mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_may_find_any_of_them() {
        let admits = |surely: &Surely| [1, 2, 3].map(|number| surely.admits(mac(number)));
        let mut surely = Surely::of(&[]);
        assert_eq!(admits(&surely), [true; 3]);
        surely.narrow(&[mac(1), mac(2)]);
        assert_eq!(admits(&surely), [true, true, false]);
        surely.narrow(&[]);
        surely.narrow(&[mac(2), mac(3)]);
        assert_eq!(admits(&surely), [false, true, false]);
        surely.narrow(&[mac(3)]);
        assert_eq!(admits(&surely), [false; 3], "nobody is not everybody");
        surely.narrow(&[]);
        assert_eq!(admits(&surely), [false; 3]);
        assert_eq!(admits(&Surely::of(&[mac(3)])), [false, false, true]);
    }

    const fn mac(number: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, number])
    }

    fn set(state: &mut PersistentState, after: &[MacAddr], at: u32) {
        note_removals(state, after, at);
        state.reserved = after.to_vec();
    }

    #[test]
    fn births_are_given_when_they_are_durable_and_once() {
        let mut births = Births::new(0);
        assert_eq!(births.give(), None);
        births.set_durable_until(3);
        assert_eq!(births.give(), Some(Birth(1)));
        assert_eq!(births.give(), Some(Birth(2)));
        assert_eq!(births.give(), None);
        assert!(births.is_known(Birth(2)) && !births.is_known(Birth(3)));
        assert!(!births.is_known(Birth::NONE));
        let mut births = Births::new(u32::MAX - 1);
        births.set_durable_until(births.bound_after());
        assert_eq!(births.give(), Some(Birth(u32::MAX - 1)));
        assert_eq!((births.give(), births.give()), (None, None), "the end");
    }

    #[test]
    fn whoever_is_removed_is_removed_with_all_that_were_born() {
        let mut state = PersistentState::default();
        // From everybody to two: all others were admitted until now.
        set(&mut state, &[mac(1), mac(2)], 10);
        let at = |state: &PersistentState, number| removed_at(state, mac(number));
        assert_eq!([at(&state, 1), at(&state, 2), at(&state, 3)], [0, 0, 10]);
        set(&mut state, &[mac(2), mac(3)], 20);
        assert_eq!([at(&state, 1), at(&state, 2), at(&state, 3)], [20, 0, 10]);
        // The same list again removes nobody.
        set(&mut state, &[mac(3), mac(2)], 30);
        assert_eq!([at(&state, 1), at(&state, 2), at(&state, 3)], [20, 0, 10]);
        // Everybody is admitted, and nobody forgotten.
        set(&mut state, &[], 40);
        assert_eq!([at(&state, 1), at(&state, 2), at(&state, 4)], [20, 0, 10]);
        set(&mut state, &[mac(1)], 50);
        assert_eq!([at(&state, 1), at(&state, 2), at(&state, 4)], [20, 50, 50]);
        set(&mut state, &[mac(2)], 60);
        set(&mut state, &[mac(1), mac(2)], 70);
        assert_eq!([at(&state, 1), at(&state, 2), at(&state, 4)], [60, 50, 50]);
    }

    #[test]
    fn the_oldest_removal_holds_for_all_who_are_not_remembered() {
        let mut state = PersistentState::default();
        let listed = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            MacAddr([2, 1, a, b, c, d])
        };
        set(&mut state, &[mac(1), listed(0)], 5);
        for number in 1..3000 {
            set(&mut state, &[mac(1), listed(number)], 10 * number);
        }
        assert!(state.removed.len() <= removed_max(2));
        assert_eq!(removed_at(&state, mac(1)), 0, "was never removed");
        assert_eq!(removed_at(&state, listed(2998)), 29_990);
        // Forgotten, and shut out all the more.
        assert!(removed_at(&state, listed(7)) >= 80);
        assert!(removed_at(&state, listed(7)) < 29_990);
    }
}
