//! What is left to the holder of a claim is done, and passes never overlap: every interleaving, by loom. The last tests
//! show that the model notices when a part of it is missing.
#![allow(unsafe_code, reason = "loom's cell hands out raw pointers")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering as StdOrdering};
use std::sync::{Mutex, PoisonError};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};

/// What the source below sees as `super::sync`: loom's atomic, whose orderings a test can weaken.
mod sync {
    use std::sync::atomic::Ordering as StdOrdering;

    pub(crate) use loom::sync::atomic::Ordering;

    /// Somebody else is at it.
    const HELD: u8 = 1;

    #[derive(Debug)]
    pub(crate) struct AtomicU8(loom::sync::atomic::AtomicU8);

    fn weakened(ordering: Ordering) -> Ordering {
        match (super::SEEDED_BUG.load(StdOrdering::Relaxed), ordering) {
            (super::BUG_NO_ACQUIRE, Ordering::Acquire)
            | (super::BUG_NO_RELEASE, Ordering::Release) => Ordering::Relaxed,
            (super::BUG_NO_ACQUIRE, Ordering::AcqRel) => Ordering::Release,
            (super::BUG_NO_RELEASE, Ordering::AcqRel) => Ordering::Acquire,
            (_, ordering) => ordering,
        }
    }

    impl AtomicU8 {
        pub(crate) fn new(value: u8) -> Self {
            Self(loom::sync::atomic::AtomicU8::new(value))
        }

        pub(crate) fn swap(&self, value: u8, ordering: Ordering) -> u8 {
            let bug = super::SEEDED_BUG.load(StdOrdering::Relaxed);
            // Of the swaps, only the one that leaves a note is both.
            if bug == super::BUG_NO_NOTE && ordering == Ordering::AcqRel {
                return HELD;
            }
            self.0.swap(value, weakened(ordering))
        }

        pub(crate) fn compare_exchange(
            &self,
            from: u8,
            to: u8,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u8, u8> {
            self.0
                .compare_exchange(from, to, weakened(success), failure)
        }
    }
}

#[path = "../src/xdp/claim.rs"]
mod claim;

use claim::Claim;

const BUG_NONE: u8 = 0;
const BUG_NO_ACQUIRE: u8 = 1;
const BUG_NO_RELEASE: u8 = 2;
const BUG_NO_NOTE: u8 = 3;

static SEEDED_BUG: AtomicU8 = AtomicU8::new(BUG_NONE);

/// Tests take turns: the seeded bug is for all of the process.
static TURN: Mutex<()> = Mutex::new(());

/// What a pass works on.
#[derive(Default)]
struct State {
    done: u32,
    /// How many of each thread's parts were taken.
    taken: Vec<u32>,
}

struct Shared {
    claim: Claim,
    /// How many parts each thread has left to others so far: only that thread writes it. A plain load may be stale unless the claim's
    /// orderings forbid it, as with the indices of a real queue.
    left: Vec<AtomicU32>,
    state: UnsafeCell<State>,
}

// SAFETY: the cell is guarded by the claim; loom checks that.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    fn work(&self, thread: usize) {
        let mut own = 1;
        self.claim.run(
            &mut own,
            |own| {
                let before = self.left[thread].load(Ordering::Relaxed);
                self.left[thread].store(before + std::mem::take(own), Ordering::Relaxed);
            },
            |own| {
                self.state.with_mut(|state| {
                    // SAFETY: passes never overlap; loom fails the model if they do.
                    let state = unsafe { &mut *state };
                    state.done += std::mem::take(own);
                    for (left, taken) in self.left.iter().zip(&mut state.taken) {
                        let left = left.load(Ordering::Relaxed);
                        state.done += left - *taken;
                        *taken = left;
                    }
                });
            },
        );
    }
}

fn model(threads: usize, rounds: u32) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let shared = Arc::new(Shared {
            claim: Claim::new(),
            left: (0..threads).map(|_| AtomicU32::new(0)).collect(),
            state: UnsafeCell::new(State {
                done: 0,
                taken: vec![0; threads],
            }),
        });
        let others: Vec<_> = (1..threads)
            .map(|thread| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || (0..rounds).for_each(|_| shared.work(thread)))
            })
            .collect();
        (0..rounds).for_each(|_| shared.work(0));
        for thread in others {
            thread.join().expect("the model goes on");
        }
        let all = u32::try_from(threads).expect("few") * rounds;
        // SAFETY: all threads have ended.
        let done = shared.state.with(|state| unsafe { (*state).done });
        assert_eq!(done, all, "nothing is left behind");
    });
}

fn with_bug(bug: u8, threads: usize, rounds: u32) -> bool {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    SEEDED_BUG.store(bug, StdOrdering::Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(|| model(threads, rounds)));
    SEEDED_BUG.store(BUG_NONE, StdOrdering::Relaxed);
    outcome.is_ok()
}

#[test]
fn two_threads_lose_nothing() {
    assert!(with_bug(BUG_NONE, 2, 3));
}

#[test]
fn three_threads_lose_nothing() {
    assert!(with_bug(BUG_NONE, 3, 1));
}

#[test]
fn the_model_notices_what_is_missing() {
    for bug in [BUG_NO_ACQUIRE, BUG_NO_RELEASE, BUG_NO_NOTE] {
        assert!(!with_bug(bug, 2, 2), "bug {bug} goes unnoticed");
    }
}
