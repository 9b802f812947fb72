//! Exclusive work that several threads bring about and none waits for.
//!
//! tests/claim_loom.rs checks it in every interleaving, and that it fails without its orderings or without the note.

use super::sync::{AtomicU8, Ordering};

/// Nobody is at it.
const IDLE: u8 = 0;
/// One thread is at it.
const HELD: u8 = 1;
/// One thread is at it, and another has left work for it since its pass began.
const NOTED: u8 = 2;

/// A claim on work that one thread at a time does for all.
///
/// A thread that finds it taken leaves its part and a note, and goes on; whoever holds it finds the note and makes
/// another pass. So what is left is done by somebody, and nobody waits.
///
/// All is said in one atomic. Acquire, on taking the claim or a note, pairs with release, on giving the claim back or
/// leaving a note: a pass sees all earlier passes, and all parts whose note it took. Notes are read-modify-writes, so
/// the second of two extends the release sequence of the first, and whoever takes it sees both parts.
#[derive(Debug)]
pub(super) struct Claim {
    state: AtomicU8,
}

impl Claim {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(IDLE),
        }
    }

    /// Runs `pass` if nobody else does. Otherwise calls `publish`, which must put this thread's part where the holder's
    /// pass finds it, and returns at once unless the holder has gone in between. Passes never overlap.
    pub(super) fn run<Part>(
        &self,
        part: &mut Part,
        publish: impl FnOnce(&mut Part),
        mut pass: impl FnMut(&mut Part),
    ) {
        let taken = self
            .state
            .compare_exchange(IDLE, HELD, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_err() {
            publish(part);
            if self.state.swap(NOTED, Ordering::AcqRel) != IDLE {
                return;
            }
            // Ours after all. Notes left since are taken along: the pass has not begun.
            self.state.swap(HELD, Ordering::Acquire);
        }
        loop {
            pass(part);
            let given_back =
                self.state
                    .compare_exchange(HELD, IDLE, Ordering::Release, Ordering::Relaxed);
            if given_back.is_ok() {
                return;
            }
            self.state.swap(HELD, Ordering::Acquire);
        }
    }
}
