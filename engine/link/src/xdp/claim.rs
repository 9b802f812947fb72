//! Exclusive work that several threads bring about and none waits for.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

/// A claim on work that one thread at a time does for all.
///
/// A thread that finds it taken leaves a note and goes on; whoever holds it sees the note and makes another pass. What
/// was published before a call to [`Claim::run`] is seen by a pass that begins after it, on this thread or another.
#[derive(Debug)]
pub(super) struct Claim {
    held: AtomicBool,
    noted: AtomicBool,
}

impl Claim {
    pub(super) fn new() -> Self {
        Self {
            held: AtomicBool::new(false),
            noted: AtomicBool::new(false),
        }
    }

    /// SeqCst throughout: a note is left (store) before the second try (load), and a release (store) comes before the
    /// look for notes (load). In one total order at least one side sees the other, which acquire and release do not give.
    fn try_take(&self) -> bool {
        self.held
            .compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Runs `pass` if nobody else does. Otherwise calls `publish`, which must put this thread's part where the holder's
    /// pass finds it, and returns at once. Passes never overlap, and happen in a total order that each sees.
    pub(super) fn run<State>(
        &self,
        state: &mut State,
        publish: impl FnOnce(&mut State),
        mut pass: impl FnMut(&mut State),
    ) {
        if !self.try_take() {
            publish(state);
            self.noted.store(true, Ordering::SeqCst);
            if !self.try_take() {
                return;
            }
        }
        loop {
            // Taken back only under the claim and before the pass: whoever leaves it later gets another one.
            self.noted.store(false, Ordering::SeqCst);
            pass(state);
            self.held.store(false, Ordering::SeqCst);
            if !self.noted.load(Ordering::SeqCst) || !self.try_take() {
                return;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    #[test]
    fn every_piece_of_published_work_is_done_by_somebody() {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 20_000;
        let claim = Arc::new(Claim::new());
        let published = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicU64::new(0));
        let inside = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (claim, published, done, inside) = (
                    claim.clone(),
                    published.clone(),
                    done.clone(),
                    inside.clone(),
                );
                thread::spawn(move || {
                    for round in 0..ROUNDS {
                        let mut mine = 1_u64;
                        claim.run(
                            &mut mine,
                            |mine| {
                                published.fetch_add(std::mem::take(mine), Ordering::SeqCst);
                            },
                            |mine| {
                                assert!(!inside.swap(true, Ordering::SeqCst), "two passes at once");
                                let sum =
                                    published.swap(0, Ordering::SeqCst) + std::mem::take(mine);
                                done.fetch_add(sum, Ordering::SeqCst);
                                inside.store(false, Ordering::SeqCst);
                            },
                        );
                        if round % 64 == 0 {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no thread panics");
        }
        assert_eq!(
            done.load(Ordering::SeqCst),
            THREADS * ROUNDS,
            "nothing is left behind"
        );
    }
}
