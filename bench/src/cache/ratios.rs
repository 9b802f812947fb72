//! How often pages are there, whatever that costs.

use sandrail_memory::cache::{CacheConfig, Eviction, Refused, Reserves, ShardFetch};

use super::policies::{self, Kind};
use super::{make, page_of, traces};

/// Frames of the caches that are compared.
pub const FRAMES: u32 = 2000;

/// What came of one trace with one policy of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The trace.
    pub trace: &'static str,
    /// Our policy.
    pub policy: &'static str,
    /// Whether it is the one that a cache has unless told otherwise.
    pub is_default: bool,
    /// The cache's hit ratio.
    pub cache: f64,
    /// That of the policy's own simulation.
    pub simulated: f64,
    /// The best simulation and its name.
    pub best: (&'static str, f64),
}

/// Plays all traces to the cache with each policy, and to the simulations.
///
/// # Errors
/// There is no memory.
pub fn compare(seed: u64) -> anyhow::Result<Vec<Compared>> {
    let mut compared = Vec::new();
    for trace in traces::all(FRAMES, seed) {
        let simulated = Kind::ALL.map(|kind| (kind, kind.hit_ratio(FRAMES as usize, &trace.keys)));
        let mut best = simulated[0];
        for each in simulated {
            if each.1 > best.1 {
                best = each;
            }
        }
        for (eviction, kind) in [
            (Eviction::Clock, Kind::Clock),
            (Eviction::S3Fifo, Kind::S3Fifo),
        ] {
            let own = simulated.iter().find(|each| each.0 == kind);
            compared.push(Compared {
                trace: trace.name,
                policy: kind.name(),
                is_default: eviction == Eviction::default(),
                cache: of_cache(eviction, &trace.keys)?,
                simulated: own.map_or(0.0, |each| each.1),
                best: (best.0.name(), best.1),
            });
        }
    }
    Ok(compared)
}

/// The cache's hit ratio, its shard turned by the thread that reads.
fn of_cache(eviction: Eviction, trace: &[u32]) -> anyhow::Result<f64> {
    let config = CacheConfig {
        eviction,
        // A simulation has none.
        reserve: Reserves {
            log: 0,
            write_back: 0,
            recovery: 0,
        },
        ..CacheConfig::new(FRAMES)
    };
    let (cache, mut shard, _) = make(config)?;
    let handle = cache.handle(0);
    let mut failed = None;
    let ratio = policies::ratio(trace, |key| {
        let page = page_of(key);
        match handle.optimistic(page, |view| view.u64_at(0)) {
            Ok(_) => true,
            Err(Refused::Absent) => {
                if let ShardFetch::Read(ticket) = shard.fetch(page) {
                    failed = shard.read_done(ticket, Ok(())).err().or(failed);
                }
                false
            }
            Err(_) => false,
        }
    });
    failed.map_or(Ok(ratio), |error| Err(error.into()))
}
