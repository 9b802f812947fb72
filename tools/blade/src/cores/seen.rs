//! Until when a core has seen all that arrived.
//!
//! A turn takes a bounded number of frames, and more than that may lie in a ring, above all when the process did not run for a
//! while. The machine remembers copies by the age of the oldest frame that may still come (S6), so a ring's backlog is followed:
//! once it was empty, or once as many frames came out of it as it can hold, all is seen that was in it before.

use sandrail_proto::time::Instant;

/// Follows one ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// All that arrived before this was seen.
    to: Instant,
    /// All that arrived before this will have been seen after `left` further frames.
    next: Instant,
    left: usize,
    holds: usize,
}

impl Seen {
    /// A ring that was empty at `now`, and holds no more than so many frames.
    pub(super) fn new(now: Instant, holds: usize) -> Self {
        Self {
            to: now,
            next: now,
            left: holds,
            holds,
        }
    }

    /// All that arrived before this was seen.
    pub(super) fn to(&self) -> Instant {
        self.to
    }

    /// After `now`, frames were taken out of the ring, after which it was empty or not.
    pub(super) fn took(&mut self, now: Instant, frames: usize, is_empty: bool) {
        self.left = self.left.saturating_sub(frames);
        if is_empty {
            self.to = self.to.max(now);
        } else if self.left == 0 {
            self.to = self.to.max(self.next);
        } else {
            return;
        }
        self.next = now;
        self.left = self.holds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    #[test]
    fn a_backlog_is_over_when_the_ring_was_empty_or_all_of_it_came_out() {
        let mut seen = Seen::new(at(0), 100);
        seen.took(at(10), 5, true);
        assert_eq!(seen.to(), at(10));
        // A stall: what lies in the ring may be as old as the last look.
        for now in [5000, 5001, 5002] {
            seen.took(at(now), 30, false);
            assert_eq!(seen.to(), at(10));
        }
        seen.took(at(5003), 30, false);
        assert_eq!(
            seen.to(),
            at(10),
            "all from before the last empty ring, which is known"
        );
        for now in [5004, 5005, 5006] {
            seen.took(at(now), 30, false);
            assert_eq!(seen.to(), at(10));
        }
        seen.took(at(5007), 30, false);
        assert_eq!(
            seen.to(),
            at(5003),
            "the ring holds no more than came out since"
        );
        seen.took(at(5008), 0, true);
        assert_eq!(seen.to(), at(5008));
    }

    #[test]
    fn time_does_not_go_back() {
        let mut seen = Seen::new(at(7), 10);
        seen.took(at(3), 0, true);
        assert_eq!(seen.to(), at(7));
    }
}
