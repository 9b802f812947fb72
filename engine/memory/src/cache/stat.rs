//! What a cache counts. Hits are counted by each handle for itself, in a cache line of its own; everything else happens
//! on a miss or later, and is counted by the shard. All relaxed: counters that only serve reports.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A counter that anybody may add to.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter that one thread adds to, and all may read: no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct OwnCount(AtomicU64);

impl OwnCount {
    #[inline]
    pub(crate) fn add_one(&self) {
        let count = self.0.load(Ordering::Relaxed);
        self.0.store(count.wrapping_add(1), Ordering::Relaxed);
    }
}

/// What a shard counts.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) misses: Count,
    pub(crate) ahead: Count,
    pub(crate) ahead_wasted: Count,
    pub(crate) reads: Count,
    pub(crate) read_errors: Count,
    pub(crate) evictions: Count,
    pub(crate) no_frame: Count,
    pub(crate) writes: Count,
    pub(crate) write_pages: Count,
    pub(crate) write_errors: Count,
    pub(crate) refused: Count,
    pub(crate) moved: Count,
    pub(crate) revoked: Count,
}

/// What a handle counts; alone on its cache lines, also for processors that fetch two at a time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct HandleCounts {
    pub(crate) hits: OwnCount,
    /// Optimistic reads that had to be repeated because the page changed.
    pub(crate) repeats: OwnCount,
    /// Times that a handle found a page latched, or being read for somebody else.
    pub(crate) waits: OwnCount,
    /// Pages that were read ahead and that this handle was the first to use.
    pub(crate) ahead_used: OwnCount,
}

#[derive(Debug, Default)]
struct ShardHandles {
    open: Vec<Arc<HandleCounts>>,
    /// What handles had counted that are closed by now.
    closed: [u64; 4],
}

fn read(counts: &HandleCounts) -> [u64; 4] {
    [
        &counts.hits,
        &counts.repeats,
        &counts.waits,
        &counts.ahead_used,
    ]
    .map(|count| count.0.load(Ordering::Relaxed))
}

/// The handles' counters, by shard. Locked only to open and close a handle, and to report.
#[derive(Debug)]
pub(crate) struct Registry(Mutex<Vec<ShardHandles>>);

impl Registry {
    pub(crate) fn new(shards: u32) -> Self {
        Self(Mutex::new(
            (0..shards).map(|_| ShardHandles::default()).collect(),
        ))
    }

    pub(crate) fn register(&self, shard: u32) -> Arc<HandleCounts> {
        let counts = Arc::new(HandleCounts::default());
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shards[shard as usize].open.push(Arc::clone(&counts));
        counts
    }

    pub(crate) fn close(&self, shard: u32, counts: &Arc<HandleCounts>) {
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = &mut shards[shard as usize];
        shard.open.retain(|open| !Arc::ptr_eq(open, counts));
        for (sum, count) in shard.closed.iter_mut().zip(read(counts)) {
            *sum += count;
        }
    }

    fn sums(&self, shard: u32) -> [u64; 4] {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = &shards[shard as usize];
        let mut sums = shard.closed;
        for counts in &shard.open {
            for (sum, count) in sums.iter_mut().zip(read(counts)) {
                *sum += count;
            }
        }
        sums
    }
}

/// A shard's counters since the start, as of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStat {
    /// Accesses that found their page, by the handles of this shard.
    pub hits: u64,
    /// Optimistic reads among them that were repeated because the page had changed meanwhile.
    pub repeats: u64,
    /// Times that a handle had to wait for a latch or for a read that somebody else had asked for.
    pub waits: u64,
    /// Pages that were not resident and were asked for: one read each.
    pub misses: u64,
    /// Pages that were asked for ahead of their use: one read each.
    pub ahead: u64,
    /// Those of them that were used, by the handles of this shard.
    pub ahead_used: u64,
    /// Those of them that made room for others before anybody used them.
    pub ahead_wasted: u64,
    /// Pages read and found good.
    pub reads: u64,
    /// Pages that the volume did not deliver, or whose check failed.
    pub read_errors: u64,
    /// Pages that made room for others.
    pub evictions: u64,
    /// Times that no frame could be had.
    pub no_frame: u64,
    /// Write requests.
    pub writes: u64,
    /// Pages in them.
    pub write_pages: u64,
    /// Pages of writes that failed; each is dirty still, or again.
    pub write_errors: u64,
    /// Times that a page was due and the owner did not let it go yet.
    pub refused: u64,
    /// Pages that were changed while they were being written, and moved to another frame for that.
    pub moved: u64,
    /// Pages that were revoked.
    pub revoked: u64,
    /// Pages that are dirty now.
    pub dirty_pages: u64,
    /// For how long the first of them has been, in nanoseconds, as of the shard's last turn.
    pub dirty_age_ns: u64,
}

impl ShardStat {
    pub(crate) fn of(
        registry: &Registry,
        shard: u32,
        counts: &Counts,
        dirty_pages: u64,
        dirty_age_ns: u64,
    ) -> Self {
        let [hits, repeats, waits, ahead_used] = registry.sums(shard);
        Self {
            hits,
            repeats,
            waits,
            misses: counts.misses.get(),
            ahead: counts.ahead.get(),
            ahead_used,
            ahead_wasted: counts.ahead_wasted.get(),
            reads: counts.reads.get(),
            read_errors: counts.read_errors.get(),
            evictions: counts.evictions.get(),
            no_frame: counts.no_frame.get(),
            writes: counts.writes.get(),
            write_pages: counts.write_pages.get(),
            write_errors: counts.write_errors.get(),
            refused: counts.refused.get(),
            moved: counts.moved.get(),
            revoked: counts.revoked.get(),
            dirty_pages,
            dirty_age_ns,
        }
    }
}
