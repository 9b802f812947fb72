//! What a node tells of itself: counters and latency histograms, copied by the shard when asked.

use std::fmt;

use hdrhistogram::Histogram;
use sandrail_link::{LinkCounters, LinkInfo};
use sandrail_memory::Backing;
use sandrail_proto::aoe::initiator::{Counters, TargetInfo};

use crate::cache::CacheMemory;
use crate::hub::TargetHandle;

const LATENCY_MIN_NS: u64 = 1;
const LATENCY_MAX_NS: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies from submission to completion, in nanoseconds, of requests that succeeded. 1 ns to 60 s, three digits;
/// longer ones count as 60 s. The size is fixed at the start.
#[derive(Clone)]
pub struct Latency {
    /// Of reads.
    pub read: Histogram<u64>,
    /// Of writes.
    pub write: Histogram<u64>,
    /// Of one shard's part of flushes.
    pub flush: Histogram<u64>,
}

impl Latency {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, SIGNIFICANT_DIGITS)
                .expect("the bounds are constants that the crate takes")
        };
        Self {
            read: histogram(),
            write: histogram(),
            flush: histogram(),
        }
    }

    /// Adds another's samples.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in [
            (&mut self.read, &other.read),
            (&mut self.write, &other.write),
            (&mut self.flush, &other.flush),
        ] {
            into.add(from).expect("both have the same bounds");
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("reads", &self.read.len())
            .field("writes", &self.write.len())
            .field("flushes", &self.flush.len())
            .finish()
    }
}

/// What a shard's loop has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// Those that found something to do.
    pub busy_turns: u64,
    /// Idle turns after which the core was yielded.
    pub yields: u64,
    /// Times it slept in poll(2).
    pub sleeps: u64,
    /// Sleeps that a frame or another thread ended, rather than a timeout.
    pub wakes: u64,
    /// Sleeps called off since something arrived in between.
    pub sleeps_cancelled: u64,
    /// Requests taken from other threads.
    pub requests: u64,
    /// Requests that the initiator refused at once.
    pub requests_refused: u64,
    /// Completions handed back, refusals included.
    pub completions: u64,
    /// Frames taken off links.
    pub rx_frames: u64,
    /// Frames given to links.
    pub tx_frames: u64,
    /// Frames that the initiator meant to send and a link would not take.
    pub tx_refused: u64,
    /// Receive bursts that were not empty.
    pub rx_bursts: u64,
    /// Transmit bursts that were not empty: each costs one kick.
    pub tx_bursts: u64,
    /// Advertisements handed to siblings.
    pub forwarded_out: u64,
    /// Advertisements taken from siblings.
    pub forwarded_in: u64,
    /// Advertisements that found a sibling's inbox full.
    pub forward_dropped: u64,
}

/// A link as its shard sees it.
#[derive(Clone, Debug)]
pub struct LinkStat {
    /// What it is.
    pub info: LinkInfo,
    /// What it counted.
    pub counters: LinkCounters,
}

/// An attached target as one shard sees it.
#[derive(Clone, Copy, Debug)]
pub struct TargetStat {
    /// Its handle.
    pub handle: TargetHandle,
    /// What is known.
    pub info: TargetInfo,
}

/// What a shard does for the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStat {
    /// The cache's own counters.
    pub pages: sandrail_memory::cache::ShardStat,
    /// Reads that the initiator was given: one a page.
    pub read_requests: u64,
    /// Writes that it was given: one for each run of neighbours.
    pub write_requests: u64,
    /// Bytes copied from frames of the network to frames of the cache: a page's length for each that was read, if every
    /// one was copied once.
    pub copied_bytes: u64,
}

impl fmt::Display for CacheStat {
    /// In words fit for a report, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = &self.pages;
        write!(
            f,
            "{} hits, {} misses, {} read ahead ({} used, {} wasted), {} evicted; {} pages written in {} requests, {} dirty for \
             {} ms at most; {} reads and {} writes failed",
            pages.hits,
            pages.misses,
            pages.ahead,
            pages.ahead_used,
            pages.ahead_wasted,
            pages.evictions,
            pages.write_pages,
            self.write_requests,
            pages.dirty_pages,
            pages.dirty_age_ns / 1_000_000,
            pages.read_errors,
            pages.write_errors,
        )
    }
}

/// A shard at one moment.
#[derive(Clone, Debug)]
pub struct ShardStat {
    /// Its number.
    pub shard: usize,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Its thread's scheduling class.
    pub scheduling: String,
    /// The loop's counters.
    pub counters: ShardCounters,
    /// The initiator's.
    pub initiator: Counters,
    /// Its links.
    pub links: Vec<LinkStat>,
    /// Its view of the targets.
    pub targets: Vec<TargetStat>,
    /// Latencies since the start.
    pub latency: Latency,
    /// Requests under way.
    pub open_requests: usize,
    /// The cache's part, if there is one.
    pub cache: Option<CacheStat>,
    /// Writes answered whose copies are not all accounted for.
    pub unaccounted: usize,
}

/// A node at one moment (its shards, one after the other).
#[derive(Clone, Debug)]
pub struct NodeStat {
    /// The shards.
    pub shards: Vec<ShardStat>,
    /// What the buffers' memory is made of.
    pub memory: Backing,
    /// What the cache's memory is made of, if there is one.
    pub cache: Option<CacheMemory>,
    /// Buffers that nobody holds.
    pub buffers_free: usize,
    /// Buffers there are.
    pub buffers: usize,
    /// Notices dropped since nobody fetched them.
    pub notices_lost: u64,
    /// How long WRITEs waited at the start, since the last process with these MACs did not end cleanly.
    pub write_quarantine: std::time::Duration,
}

impl NodeStat {
    /// All shards' latencies together.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let mut sum = Latency::new();
        for shard in &self.shards {
            sum.merge(&shard.latency);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caches_counters_are_told_in_words() {
        let mut stat = CacheStat::default();
        stat.pages.hits = 7;
        stat.pages.write_pages = 5;
        stat.write_requests = 3;
        stat.pages.dirty_age_ns = 2_500_000;
        let words = stat.to_string();
        for part in ["7 hits", "5 pages written in 3 requests", "for 2 ms"] {
            assert!(words.contains(part), "{words}");
        }
    }

    #[test]
    fn latencies_beyond_the_range_saturate_and_nothing_grows() {
        let mut latency = Latency::new();
        let size = latency.read.distinct_values();
        latency.read.saturating_record(0);
        latency.read.saturating_record(u64::MAX);
        assert_eq!(latency.read.len(), 2);
        assert_eq!(latency.read.distinct_values(), size);
        assert!(!latency.read.is_auto_resize());
        let mut sum = Latency::new();
        sum.merge(&latency);
        sum.merge(&latency);
        assert_eq!(sum.read.len(), 4);
        assert!(sum.read.max() >= LATENCY_MAX_NS / 1000 * 999);
    }
}
