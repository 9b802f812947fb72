//! The buffer cache beside its rival, beside simulations of its policies, and beside the raw read: what `cache` measures.

pub mod filled;
pub mod miss;
pub mod policies;
pub mod ratios;
pub mod resident;
pub mod traces;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::Context;
use sandrail_memory::cache::{Cache, CacheConfig, CacheShard, PageId, Unchecked};
use sandrail_memory::{Arena, Backing, HugePages};

use crate::{costs, machine};

/// Length of a page of both caches, in 64-bit words: 4 KiB.
pub const PAGE_WORDS: usize = 512;
/// The rival, whose pages are words as well.
pub type Rival = quick_cache::sync::Cache<u64, Arc<[u64; PAGE_WORDS]>>;

/// Accesses between two looks at the clock.
const CHUNK: usize = 1 << 14;

/// An access: a key, and the word of its page that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    key: u32,
    word: u32,
}

impl Access {
    /// Of a page's second word.
    #[must_use]
    pub fn to_begin(key: u32) -> Self {
        Self { key, word: 1 }
    }

    #[inline]
    fn page(self) -> PageId {
        page_of(self.key)
    }

    #[inline]
    fn word(self) -> usize {
        // A widening one.
        self.word as usize
    }
}

#[inline]
fn page_of(key: u32) -> PageId {
    PageId::new(1, u64::from(key)).expect("45 bits have room for 32")
}

/// What was done in a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// Accesses of all threads.
    pub accesses: u64,
    /// The time of the slowest.
    pub wall: Duration,
    /// Processor time of all.
    pub cpu: Duration,
}

impl Done {
    /// Accesses a second.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        per(self.accesses, self.wall)
    }

    /// Accesses a second of processor time, whoever had the rest of the machine.
    #[must_use]
    pub fn per_cpu_s(&self) -> f64 {
        per(self.accesses, self.cpu)
    }
}

fn per(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    let count = count as f64;
    count / time.as_secs_f64().max(1e-9)
}

/// Does accesses until `duration` is over, going round the trace from `*from` on.
fn timed(
    duration: Duration,
    trace: &[Access],
    from: &mut usize,
    mut pass: impl FnMut(&[Access]) -> u64,
) -> anyhow::Result<Done> {
    let chunks = trace.len() / CHUNK;
    anyhow::ensure!(chunks > 0, "a trace of {CHUNK} accesses at least");
    let mut done = Done::default();
    let (begin, cpu) = (Instant::now(), costs::thread_cpu()?);
    while done.wall < duration {
        let chunk = &trace[*from % chunks * CHUNK..][..CHUNK];
        *from += 1;
        std::hint::black_box(pass(chunk));
        done.accesses += CHUNK as u64;
        done.wall = begin.elapsed();
    }
    done.cpu = costs::thread_cpu()?.saturating_sub(cpu);
    Ok(done)
}

/// Runs `pass` on a thread on each of `cores` at the same time, each from another place of the trace.
///
/// # Errors
/// A core can't be had.
fn together<P: FnMut(&[Access]) -> u64>(
    cores: &[usize],
    duration: Duration,
    trace: &[Access],
    pass: impl Fn() -> P + Sync,
) -> anyhow::Result<Done> {
    let barrier = Barrier::new(cores.len());
    let ran = std::thread::scope(|scope| {
        let begin_apart = trace.len() / CHUNK / cores.len().max(1);
        let threads: Vec<_> = cores
            .iter()
            .enumerate()
            .map(|(number, core)| {
                let (barrier, pass, core) = (&barrier, &pass, *core);
                let mut from = number * begin_apart;
                scope.spawn(move || {
                    // The others wait for it whatever came of this.
                    let pinned = machine::pin(core);
                    let pass = pass();
                    barrier.wait();
                    pinned.and_then(|()| timed(duration, trace, &mut from, pass))
                })
            })
            .collect();
        let ran = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ran.collect::<anyhow::Result<Vec<Done>>>()
    })?;
    ran.into_iter()
        .reduce(|one, other| Done {
            accesses: one.accesses + other.accesses,
            wall: one.wall.max(other.wall),
            cpu: one.cpu + other.cpu,
        })
        .context("at least one core")
}

/// What frames lie on, without the reason, which is each arena's own.
fn backing_words(backing: &Backing) -> String {
    match backing {
        Backing::Base4KiB { .. } => "4 KiB pages, transparent hugepages asked for".to_owned(),
        reserved => reserved.to_string(),
    }
}

/// A cache of one shard, and what its memory is made of.
fn make(config: CacheConfig) -> anyhow::Result<(Cache, CacheShard, String)> {
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer)?;
    let backing = backing_words(arena.backing());
    let (cache, mut shards) = Cache::new(config, &mut arena, Box::new(Unchecked))?;
    let shard = shards.pop().context("one shard")?;
    Ok((cache, shard, backing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_lasts_as_long_as_asked_and_goes_round_the_trace() {
        let trace: Vec<Access> = (0..3)
            .flat_map(|key| [Access::to_begin(key); CHUNK])
            .collect();
        let mut seen = Vec::new();
        let mut from = 2;
        let done = timed(Duration::from_millis(5), &trace, &mut from, |chunk| {
            assert_eq!(chunk.len(), CHUNK);
            seen.push(chunk[0].key);
            std::thread::sleep(Duration::from_millis(1));
            0
        });
        let done = done.unwrap();
        assert!(done.wall >= Duration::from_millis(5));
        assert_eq!(done.accesses, (seen.len() * CHUNK) as u64);
        assert!(
            seen.iter()
                .zip([2, 0, 1, 2, 0])
                .all(|(seen, key)| *seen == key)
        );
        assert!(timed(Duration::ZERO, &trace[1..CHUNK], &mut from, |_| 0).is_err());
    }

    #[test]
    fn threads_are_added_up_and_the_slowest_counts() {
        let trace = vec![Access::to_begin(0); 2 * CHUNK];
        let done = together(&[0, 0], Duration::from_millis(3), &trace, || {
            |_: &[Access]| {
                std::thread::yield_now();
                0
            }
        });
        let done = done.unwrap();
        assert!(done.accesses >= 2 * CHUNK as u64 && done.wall >= Duration::from_millis(3));
        assert!(
            done.cpu <= 2 * done.wall + Duration::from_millis(50),
            "{done:?}"
        );
        assert!(together(&[1000], Duration::ZERO, &trace, || |_: &[Access]| 0).is_err());
    }
}
