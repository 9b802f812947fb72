//! What a polling loop does when it finds nothing: the same for both contenders.

/// Turns without work that a loop spins through before it yields: longer than a round trip takes, since a turn of the bare
/// loop is shorter than a shard's, and whoever yields more often loses its core more often.
pub const SPIN_TURNS: u32 = 1000;

/// Spins for a while, then yields the core after each idle turn. It never sleeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiter {
    idle_turns: u32,
    /// Calls of sched_yield(2) so far.
    pub yields: u64,
}

impl Waiter {
    /// To be called after each turn.
    pub fn after_turn(&mut self, busy: bool) {
        if busy {
            self.idle_turns = 0;
            return;
        }
        self.idle_turns = self.idle_turns.saturating_add(1);
        if self.idle_turns <= SPIN_TURNS {
            std::hint::spin_loop();
        } else {
            self.yields += 1;
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_spins_first_and_anew_after_work() {
        let mut waiter = Waiter::default();
        for _ in 0..SPIN_TURNS + 3 {
            waiter.after_turn(false);
        }
        assert_eq!(waiter.yields, 3);
        waiter.after_turn(true);
        for _ in 0..SPIN_TURNS {
            waiter.after_turn(false);
        }
        assert_eq!(waiter.yields, 3);
    }
}
