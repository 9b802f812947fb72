//! Ten times as many pages as frames, and a volume that always has the same to say: what a miss costs beside its read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sandrail_memory::cache::{CacheConfig, CacheShard, Eviction, Handle, PageId, ShardFetch};

use super::{Access, Done, PAGE_WORDS, Rival, make, timed, traces};

/// Pages that are asked for.
pub const PAGES: u32 = 1_000_000;
/// Pages that there is room for.
pub const FRAMES: u32 = 100_000;
/// Accesses of a round through the trace.
const DRAWS: usize = 1 << 22;
/// What the volume says of every page, word by word.
const VOLUME_WORD: u64 = 0x0707_0707_0707_0707;

/// The accesses: Zipf's law with 0.99.
#[must_use]
pub fn trace(seed: u64) -> Vec<Access> {
    let keys = traces::zipf(PAGES, 0.99, DRAWS, seed);
    keys.into_iter().map(Access::to_begin).collect()
}

/// A cache in front of the volume.
pub trait Filled: Send {
    /// Reads a word of each page, filling those that miss.
    fn pass(&mut self, pass: &[Access]) -> u64;

    /// Pages that missed so far.
    fn misses(&self) -> u64;
}

/// One that takes part, with its place in the trace.
pub struct Contender {
    cache: Box<dyn Filled>,
    from: usize,
    accesses: u64,
    misses_before: u64,
}

impl Contender {
    /// Goes once round the trace.
    ///
    /// # Errors
    /// The trace is too short.
    pub fn warmed_up(mut cache: Box<dyn Filled>, trace: &[Access]) -> anyhow::Result<Self> {
        cache.pass(trace);
        Ok(Self {
            misses_before: cache.misses(),
            cache,
            from: 0,
            accesses: 0,
        })
    }

    /// A sample.
    ///
    /// # Errors
    /// The trace is too short.
    pub fn sample(&mut self, trace: &[Access], duration: Duration) -> anyhow::Result<Done> {
        let done = timed(duration, trace, &mut self.from, |pass| {
            self.cache.pass(pass)
        })?;
        self.accesses += done.accesses;
        Ok(done)
    }

    /// The share of accesses that hit, since the warm-up.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
        let share = |count: u64| count as f64 / self.accesses.max(1) as f64;
        1.0 - share(self.cache.misses() - self.misses_before)
    }
}

/// Our cache, its shard turned by the thread that reads.
pub struct Ours {
    handle: Handle,
    shard: CacheShard,
    volume: Vec<u8>,
}

impl Ours {
    /// Empty; and what its frames lie on.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(eviction: Eviction, frames: u32) -> anyhow::Result<(Self, String)> {
        let config = CacheConfig {
            eviction,
            ..CacheConfig::new(frames)
        };
        let (cache, shard, backing) = make(config)?;
        let ours = Self {
            handle: cache.handle(0),
            shard,
            volume: VOLUME_WORD.to_le_bytes().repeat(PAGE_WORDS),
        };
        Ok((ours, backing))
    }

    #[inline(never)]
    fn miss(&mut self, page: PageId, word: usize) -> u64 {
        loop {
            if let ShardFetch::Read(mut ticket) = self.shard.fetch(page) {
                self.shard.fill(&mut ticket, 0, &self.volume);
                let read = self.shard.read_done(ticket, Ok(()));
                read.expect("nobody finds fault with a page");
            }
            if let Ok(word) = self.handle.optimistic(page, |view| view.u64_at(word)) {
                return word;
            }
        }
    }
}

impl Filled for Ours {
    fn pass(&mut self, pass: &[Access]) -> u64 {
        let mut sum = 0_u64;
        for access in pass {
            let (page, word) = (access.page(), access.word());
            let read = self.handle.optimistic(page, |view| view.u64_at(word));
            sum = sum.wrapping_add(read.unwrap_or_else(|_| self.miss(page, word)));
        }
        sum
    }

    fn misses(&self) -> u64 {
        self.shard.stat().misses
    }
}

/// The rival, whose pages are allocated one by one.
pub struct Theirs {
    cache: Rival,
    misses: u64,
}

impl Theirs {
    /// Empty.
    #[must_use]
    pub fn new(frames: u32) -> Self {
        Self {
            cache: Rival::new(frames as usize),
            misses: 0,
        }
    }
}

impl Filled for Theirs {
    fn pass(&mut self, pass: &[Access]) -> u64 {
        let volume = [VOLUME_WORD; PAGE_WORDS];
        let mut sum = 0_u64;
        for access in pass {
            let page = self.cache.get_or_insert_with(&access.page().to_bits(), || {
                self.misses += 1;
                Ok::<_, Infallible>(Arc::new(volume))
            });
            let Ok(page) = page;
            sum = sum.wrapping_add(page[access.word()]);
        }
        sum
    }

    fn misses(&self) -> u64 {
        self.misses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_read_what_the_volume_has_and_miss_what_does_not_fit() {
        let keys = traces::zipf(10_000, 0.99, 1 << 15, 5);
        let trace: Vec<Access> = keys.into_iter().map(Access::to_begin).collect();
        let ours = |eviction| Box::new(Ours::new(eviction, 1000).unwrap().0);
        let caches: [Box<dyn Filled>; 3] = [
            ours(Eviction::Clock),
            ours(Eviction::S3Fifo),
            Box::new(Theirs::new(1000)),
        ];
        for mut cache in caches {
            let expected = (0..1000_u64).fold(0, |sum: u64, _| sum.wrapping_add(VOLUME_WORD));
            assert_eq!(cache.pass(&trace[..1000]), expected);
            let mut contender = Contender::warmed_up(cache, &trace).unwrap();
            let done = contender.sample(&trace, Duration::from_millis(5)).unwrap();
            assert!(done.accesses > 0);
            let ratio = contender.hit_ratio();
            assert!((0.6..0.9).contains(&ratio), "{ratio}");
        }
    }
}
