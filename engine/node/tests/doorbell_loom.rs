//! No wake-up is lost between "push, look for a sleeper, ring" and "announce sleep, look again, sleep": every
//! interleaving, by loom. The last tests show that the model notices when a part of the handshake is missing.
#![allow(unsafe_code, reason = "loom's cell hands out raw pointers")]

use std::sync::atomic::{AtomicU8, Ordering as StdOrdering};
use std::sync::{Mutex, PoisonError};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// What the source below sees as `crate::sync`: loom's atomics, and a fence that a test can leave out.
mod sync {
    use std::sync::atomic::Ordering as StdOrdering;

    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};

    pub(crate) fn fence(ordering: Ordering) {
        if super::SEEDED_BUG.load(StdOrdering::Relaxed) != super::BUG_NO_FENCES {
            loom::sync::atomic::fence(ordering);
        }
    }
}

#[path = "../src/doorbell.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the library uses more of it than the model"
)]
mod doorbell;

use doorbell::{Bell, Doorbell};

const BUG_NONE: u8 = 0;
const BUG_NO_FENCES: u8 = 1;
const BUG_NO_SECOND_LOOK: u8 = 2;
const BUG_NO_RING: u8 = 3;

static SEEDED_BUG: AtomicU8 = AtomicU8::new(BUG_NONE);

/// Tests take turns: the seeded bug is for all of the process.
static TURN: Mutex<()> = Mutex::new(());

/// Stands for the eventfd: rings are remembered.
struct Counted {
    rings: AtomicUsize,
}

impl Bell for Counted {
    fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Release);
    }
}

/// A queue of one place: the content is published by the flag, as a ring's is by its index.
struct Queue {
    full: AtomicUsize,
    content: UnsafeCell<u32>,
}

// SAFETY: the content is written before the flag is released and read after it is acquired; loom checks that.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

struct Shared {
    queues: [Queue; 2],
    doorbell: Doorbell<Counted>,
}

fn model(pushers: usize) {
    let bug = SEEDED_BUG.load(StdOrdering::Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let queue = || Queue {
            full: AtomicUsize::new(0),
            content: UnsafeCell::new(0),
        };
        let shared = Arc::new(Shared {
            queues: [queue(), queue()],
            doorbell: Doorbell::new(Counted {
                rings: AtomicUsize::new(0),
            }),
        });
        let threads: Vec<_> = (0..pushers)
            .map(|number| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    let queue = &shared.queues[number];
                    // SAFETY: nobody reads before the flag below is set.
                    queue.content.with_mut(|place| unsafe { *place = 7 });
                    queue.full.store(1, Ordering::Release);
                    if bug != BUG_NO_RING {
                        shared.doorbell.notify();
                    }
                })
            })
            .collect();

        // Only this thread takes, so it may keep count for itself.
        let mut seen = [false; 2];
        let mut take = |shared: &Shared| {
            let mut taken = 0;
            for (seen, queue) in seen.iter_mut().zip(&shared.queues) {
                if !*seen && queue.full.load(Ordering::Acquire) == 1 {
                    // SAFETY: the flag was set after the write, and this thread alone takes.
                    let content = queue.content.with(|place| unsafe { *place });
                    assert_eq!(content, 7);
                    *seen = true;
                    taken += 1;
                }
            }
            taken
        };
        // The shard: a turn, then sleep unless the second look finds something.
        let mut taken = take(&shared);
        shared.doorbell.announce();
        let looked = if bug == BUG_NO_SECOND_LOOK {
            0
        } else {
            take(&shared)
        };
        taken += looked;
        let asleep = looked == 0;
        for thread in threads {
            thread.join().unwrap();
        }
        if asleep {
            // All pushers are done. It sleeps for ever unless somebody rang.
            let rings = shared.doorbell.bell().rings.load(Ordering::Acquire);
            assert!(
                rings > 0 || taken == pushers,
                "asleep with a request in the ring and no ring of the bell"
            );
        }
        shared.doorbell.awake();
        taken += take(&shared);
        assert_eq!(taken, pushers);
    });
}

fn with_bug(bug: u8, pushers: usize) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    SEEDED_BUG.store(bug, StdOrdering::Relaxed);
    model(pushers);
}

#[test]
fn no_wake_up_is_lost_with_one_pusher() {
    with_bug(BUG_NONE, 1);
}

#[test]
fn no_wake_up_is_lost_with_two_pushers() {
    with_bug(BUG_NONE, 2);
}

#[test]
#[should_panic(expected = "asleep with a request in the ring")]
fn the_model_notices_missing_fences() {
    with_bug(BUG_NO_FENCES, 1);
}

#[test]
#[should_panic(expected = "asleep with a request in the ring")]
fn the_model_notices_a_missing_second_look() {
    with_bug(BUG_NO_SECOND_LOOK, 1);
}

#[test]
#[should_panic(expected = "asleep with a request in the ring")]
fn the_model_notices_a_missing_ring() {
    with_bug(BUG_NO_RING, 1);
}
