//! The remote control of a [`FaultDisk`](super::FaultDisk), and what the two share.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandrail_proto::aoe::target::backing::{DiskError, DiskOperation};

/// Ranges that can be bad at once.
pub(super) const BAD_RANGES_MAX: usize = 16;

/// Which operations a bad range fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strikes {
    /// Reads.
    Reads,
    /// Writes and discards.
    Writes,
    /// All of them.
    Both,
}

/// Added latency: each operation's result is told so much later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// At least this.
    pub fixed: Duration,
    /// And up to this more, uniform.
    pub jitter: Duration,
    /// Decides the jitter.
    pub seed: u64,
}

/// What a disk did since it was opened, as its control tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Reads that began.
    pub reads: u64,
    /// Writes that began, held ones included.
    pub writes: u64,
    /// Flushes that began.
    pub flushes: u64,
    /// Discards that began.
    pub discards: u64,
    /// Operations that were failed on demand.
    pub failed: u64,
    /// Results that were told late.
    pub delayed: u64,
    /// Writes that were held.
    pub held: u64,
    /// Those of them that are held now.
    pub held_now: u64,
    /// Writes that should have been held, and passed for want of room.
    pub passed_unheld: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bad {
    start: u64,
    end: u64,
    strikes: Strikes,
}

/// What a disk does to its operations. Copied by the disk whenever it changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    bad: [Option<Bad>; BAD_RANGES_MAX],
    pub(super) delay: Option<Delay>,
    flushes_fail: bool,
}

impl Rules {
    /// The error that an operation is to end with, with the first bad sector of it.
    pub(super) fn strike(&self, operation: &DiskOperation<'_>) -> Option<DiskError> {
        let (lba, sectors, is_read) = match *operation {
            DiskOperation::Read { lba, sectors } => (lba.0, sectors, true),
            DiskOperation::Write { lba, sectors, .. } | DiskOperation::Discard { lba, sectors } => {
                (lba.0, sectors, false)
            }
            DiskOperation::Flush => {
                return self
                    .flushes_fail
                    .then_some(DiskError::Device { errno: libc::EIO });
            }
        };
        let end = lba.saturating_add(u64::from(sectors.get()));
        let struck = self.bad.iter().flatten().filter(|bad| {
            let strikes = match bad.strikes {
                Strikes::Both => true,
                Strikes::Reads => is_read,
                Strikes::Writes => !is_read,
            };
            strikes && bad.start < end && lba < bad.end
        });
        let first = struck.map(|bad| bad.start.max(lba)).min()?;
        Some(DiskError::Medium { lba: first })
    }
}

/// Between a disk and its controls. Counters are for looking at only, so their ordering is relaxed.
#[derive(Debug, Default)]
pub(super) struct Shared {
    rules: Mutex<Rules>,
    /// Changes of the rules so far. The release of the change pairs with the acquire of the disk's look.
    generation: AtomicU64,
    /// Writes until the one to hold: 1 is the next, 0 is none. Stands alone, so relaxed does.
    countdown: AtomicU64,
    /// Releases asked for so far. Stands alone as well: the held data are the disk's own.
    releases: AtomicU64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    failed: AtomicU64,
    delayed: AtomicU64,
    held: AtomicU64,
    let_go: AtomicU64,
    passed_unheld: AtomicU64,
}

impl Shared {
    /// The rules and their number, if they are not those of `generation`.
    pub(super) fn rules_since(&self, generation: u64) -> Option<(Rules, u64)> {
        // Pairs with the release in `change`.
        if self.generation.load(Ordering::Acquire) == generation {
            return None;
        }
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        Some((*rules, self.generation.load(Ordering::Relaxed)))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Rules) -> T) -> T {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let told = change(&mut rules);
        // Pairs with the acquire in `rules_since`. Under the lock, so that number and rules belong together.
        self.generation.fetch_add(1, Ordering::Release);
        told
    }

    /// Counts a write down, and tells the count before: 1 means that this is the one. Only the disk counts, but a control may
    /// set the count in between.
    pub(super) fn count_down(&self) -> u64 {
        let down = |left: u64| left.checked_sub(1);
        let before = self
            .countdown
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, down);
        before.unwrap_or(0)
    }

    pub(super) fn count_up(&self) {
        self.countdown.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn releases(&self) -> u64 {
        self.releases.load(Ordering::Relaxed)
    }

    pub(super) fn began(&self, operation: &DiskOperation<'_>) {
        let count = match operation {
            DiskOperation::Read { .. } => &self.counts.reads,
            DiskOperation::Write { .. } => &self.counts.writes,
            DiskOperation::Flush => &self.counts.flushes,
            DiskOperation::Discard { .. } => &self.counts.discards,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn delayed(&self) {
        self.counts.delayed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn held(&self) {
        self.counts.held.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn let_go(&self) {
        self.counts.let_go.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn passed_unheld(&self) {
        self.counts.passed_unheld.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says from any thread what a [`FaultDisk`](super::FaultDisk) is to do. Clones control the same disk.
#[derive(Clone, Debug)]
pub struct FaultControl {
    shared: Arc<Shared>,
}

impl FaultControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Makes sectors bad until [`FaultControl::heal`]: an operation that meets them ends with a medium error at the first of
    /// them, and nothing of it is done. False: 16 ranges are bad already.
    #[must_use]
    pub fn fail(&self, sectors: Range<u64>, strikes: Strikes) -> bool {
        let bad = Bad {
            start: sectors.start,
            end: sectors.end,
            strikes,
        };
        self.shared.change(|rules| {
            let free = rules.bad.iter_mut().find(|bad| bad.is_none());
            free.map(|free| *free = Some(bad)).is_some()
        })
    }

    /// Makes flushes fail, or not any more.
    pub fn fail_flushes(&self, fail: bool) {
        self.shared.change(|rules| rules.flushes_fail = fail);
    }

    /// No sector is bad any more.
    pub fn heal(&self) {
        self.shared
            .change(|rules| rules.bad = [None; BAD_RANGES_MAX]);
    }

    /// Makes the disk slow, or not any more. Results that are late already stay so.
    pub fn slow(&self, delay: Option<Delay>) {
        self.shared.change(|rules| rules.delay = delay);
    }

    /// Holds a write back: the `nth` from now, 1 being the next; 0 holds none. Held writes are not begun on the disk behind until
    /// [`FaultControl::release`]; up to 8 can be held at once, by as many calls, one after the other.
    pub fn hold_write(&self, nth: u64) {
        self.shared.countdown.store(nth, Ordering::Relaxed);
    }

    /// Lets all held writes go. The disk notices within a millisecond.
    pub fn release(&self) {
        self.shared.releases.fetch_add(1, Ordering::Relaxed);
    }

    /// What was done.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        let counts = &self.shared.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let let_go = get(&counts.let_go);
        let held = get(&counts.held);
        FaultCounts {
            reads: get(&counts.reads),
            writes: get(&counts.writes),
            flushes: get(&counts.flushes),
            discards: get(&counts.discards),
            failed: get(&counts.failed),
            delayed: get(&counts.delayed),
            held,
            held_now: held.saturating_sub(let_go),
            passed_unheld: get(&counts.passed_unheld),
        }
    }
}
