//! S3-FIFO: a small queue, a main queue, and the memory of what went.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

use super::policy::{Candidate, Frames};
use super::table::prefetch;

/// The small queue's share of the frames.
const SMALL_PART: usize = 10;
/// Uses on probation that make a page stay. The paper's number: one more use than a single access has.
const USED_TO_STAY: u8 = 2;

#[derive(Debug)]
pub(crate) struct S3Fifo {
    small: ArrayQueue<u32>,
    main: ArrayQueue<u32>,
    small_target: usize,
    ghost: Ghost,
}

impl S3Fifo {
    pub(crate) fn new(tokens: u32) -> Self {
        let capacity = (tokens as usize).max(1);
        let small_target = (capacity / SMALL_PART).max(1);
        Self {
            small: ArrayQueue::new(capacity),
            main: ArrayQueue::new(capacity),
            small_target,
            ghost: Ghost::new(capacity - small_target),
        }
    }

    pub(crate) fn admit(&self, token: u32, hash: u64) {
        if self.ghost.take(hash) {
            push(&self.main, token);
        } else {
            push(&self.small, token);
        }
    }

    pub(crate) fn candidates(
        &self,
        frames: &impl Frames,
        found: &mut [Candidate],
        steps: &mut usize,
    ) -> usize {
        let mut count = 0;
        while count < found.len() && *steps > 0 {
            *steps -= 1;
            let on_probation = self.small.len() >= self.small_target || self.main.is_empty();
            let queue = if on_probation {
                &self.small
            } else {
                &self.main
            };
            let Some(token) = queue.pop() else {
                if self.small.is_empty() && self.main.is_empty() {
                    break;
                }
                continue;
            };
            let stays = if on_probation {
                frames.used(token) >= USED_TO_STAY && frames.fade(token, true) > 0
            } else {
                frames.fade(token, false) > 0
            };
            if stays {
                push(&self.main, token);
            } else {
                found[count] = Candidate {
                    token,
                    on_probation,
                };
                count += 1;
            }
        }
        count
    }

    pub(crate) fn gone(&self, candidate: Candidate, hash: u64) {
        if candidate.on_probation {
            self.ghost.insert(hash);
        }
    }

    pub(crate) fn keep(&self, candidate: Candidate) {
        let queue = if candidate.on_probation {
            &self.small
        } else {
            &self.main
        };
        push(queue, candidate.token);
    }

    pub(crate) fn hint(&self, hash: u64) {
        prefetch(&raw const self.ghost.ways(hash)[0]);
    }
}

fn push(queue: &ArrayQueue<u32>, token: u32) {
    let pushed = queue.push(token);
    assert!(pushed.is_ok(), "a token is in one queue at a time");
}

/// The pages that went lately, by half of their hash each, as many as the main queue holds pages. An entry is old when
/// as many others have been made since; until then it may be overwritten by a neighbour, which is rare at a third
/// of the places in use. All relaxed: a wrong answer costs a page's place in a queue.
#[derive(Debug)]
struct Ghost {
    /// `half hash << 32 | count when it was made`; 0 is empty.
    groups: Box<[Group]>,
    made: AtomicU32,
    pages: u32,
}

const WAYS: usize = 8;

/// A cache line of entries.
#[derive(Debug)]
#[repr(align(64))]
struct Group([AtomicU64; WAYS]);

impl Ghost {
    fn new(pages: usize) -> Self {
        let entries = (pages * 3 / 2).next_power_of_two().max(WAYS);
        Self {
            groups: (0..entries / WAYS)
                .map(|_| Group(std::array::from_fn(|_| AtomicU64::new(0))))
                .collect(),
            made: AtomicU32::new(0),
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
        }
    }

    fn ways(&self, hash: u64) -> &[AtomicU64] {
        let group = usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & (self.groups.len() - 1);
        &self.groups[group].0
    }

    fn age(&self, entry: u64, now: u32) -> u32 {
        if entry == 0 {
            return u32::MAX;
        }
        now.wrapping_sub(u32::try_from(entry & 0xffff_ffff).unwrap_or(0))
    }

    fn insert(&self, hash: u64) {
        // No locked instruction: two threads that count one where there were two remember a page a little longer.
        let now = self.made.load(Ordering::Relaxed);
        self.made.store(now.wrapping_add(1), Ordering::Relaxed);
        let age = |way: &&AtomicU64| self.age(way.load(Ordering::Relaxed), now);
        if let Some(oldest) = self.ways(hash).iter().max_by_key(age) {
            oldest.store(half(hash) | u64::from(now), Ordering::Relaxed);
        }
    }

    /// Whether the page went lately; it is forgotten with that.
    fn take(&self, hash: u64) -> bool {
        let now = self.made.load(Ordering::Relaxed);
        for way in self.ways(hash) {
            let entry = way.load(Ordering::Relaxed);
            if entry & half(u64::MAX) == half(hash) && self.age(entry, now) <= self.pages {
                way.store(0, Ordering::Relaxed);
                return true;
            }
        }
        false
    }
}

/// The upper half of a hash, never 0, where the table's tag comes from as well.
fn half(hash: u64) -> u64 {
    (hash | 1 << 32) & 0xffff_ffff_0000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ghost_remembers_the_latest_and_only_once() {
        let ghost = Ghost::new(100);
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 7);
        for n in 1..=300 {
            ghost.insert(hash(n));
        }
        let remembered = (201..=300).filter(|n| ghost.take(hash(*n))).count();
        assert!(remembered >= 95, "{remembered} of the last 100");
        assert!((201..=300).all(|n| !ghost.take(hash(n))), "taken once");
        assert!((1..=199).all(|n| !ghost.take(hash(n))), "forgotten by age");
    }
}
