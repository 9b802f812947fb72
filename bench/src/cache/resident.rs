//! Every page is there: what a hit costs.

use std::sync::Arc;
use std::time::Duration;

use sandrail_memory::cache::{Cache, CacheConfig, CacheShard, Handle, ShardFetch};

use super::{Access, Done, PAGE_WORDS, Rival, make, page_of, together, traces};

/// Pages of both caches: 64 MiB of them.
pub const PAGES: u32 = 16_384;
/// Accesses of a round through the trace.
const DRAWS: usize = 1 << 18;

/// Which of a page's words are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// The second one, where pages keep what is read first.
    AtBegin,
    /// Any.
    Anywhere,
}

/// Both caches, full, and what is asked of them. Zipf's law with 0.99.
pub struct Resident {
    cache: Cache,
    _shard: CacheShard,
    rival: Rival,
    backing: String,
    at_begin: Vec<Access>,
    anywhere: Vec<Access>,
}

impl Resident {
    /// Fills them.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let (cache, mut shard, backing) = make(CacheConfig::new(PAGES))?;
        // With room to spare, since its shards need not fill evenly.
        let rival = Rival::new(PAGES as usize * 2);
        let bytes = [7_u8; PAGE_WORDS * 8];
        for key in 0..PAGES {
            let page = page_of(key);
            if let ShardFetch::Read(mut ticket) = shard.fetch(page) {
                shard.fill(&mut ticket, 0, &bytes);
                shard.read_done(ticket, Ok(()))?;
            }
            rival.insert(
                page.to_bits(),
                Arc::new([0x0707_0707_0707_0707; PAGE_WORDS]),
            );
        }
        let keys = traces::zipf(PAGES, 0.99, DRAWS, seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let anywhere = |key: &u32| Access {
            key: *key,
            word: rng.u32(..512),
        };
        Ok(Self {
            cache,
            _shard: shard,
            rival,
            backing,
            anywhere: keys.iter().map(anywhere).collect(),
            at_begin: keys.into_iter().map(Access::to_begin).collect(),
        })
    }

    /// What the frames lie on.
    #[must_use]
    pub fn backing(&self) -> &str {
        &self.backing
    }

    fn trace(&self, words: Words) -> &[Access] {
        match words {
            Words::AtBegin => &self.at_begin,
            Words::Anywhere => &self.anywhere,
        }
    }

    /// Optimistic reads with the check, in a thread on each of the cores.
    ///
    /// # Errors
    /// A core can't be had.
    pub fn ours(&self, cores: &[usize], words: Words, duration: Duration) -> anyhow::Result<Done> {
        together(cores, duration, self.trace(words), || {
            let handle = self.cache.handle(0);
            move |pass: &[Access]| hits(&handle, pass)
        })
    }

    /// The rival's.
    ///
    /// # Errors
    /// A core can't be had.
    pub fn rivals(
        &self,
        cores: &[usize],
        words: Words,
        duration: Duration,
    ) -> anyhow::Result<Done> {
        together(cores, duration, self.trace(words), || {
            |pass: &[Access]| rival_hits(&self.rival, pass)
        })
    }
}

fn hits(handle: &Handle, pass: &[Access]) -> u64 {
    let read = |access: &Access| {
        let word = handle.optimistic(access.page(), |view| view.u64_at(access.word()));
        word.expect("all are resident")
    };
    pass.iter().map(read).fold(0, u64::wrapping_add)
}

fn rival_hits(rival: &Rival, pass: &[Access]) -> u64 {
    let read = |access: &Access| {
        let page = rival.get(&access.page().to_bits());
        page.expect("all are resident")[access.word()]
    };
    pass.iter().map(read).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_read_the_same_words() {
        let resident = Resident::new(3).unwrap();
        let handle = resident.cache.handle(0);
        for words in [Words::AtBegin, Words::Anywhere] {
            let trace = &resident.trace(words)[..5000];
            let ours = hits(&handle, trace);
            assert_eq!(ours, rival_hits(&resident.rival, trace));
            assert_ne!(ours, 0);
            let done = resident
                .ours(&[0], words, Duration::from_millis(1))
                .unwrap();
            assert!(done.accesses > 0 && done.per_s() > 0.0);
            let done = resident
                .rivals(&[0, 0], words, Duration::from_millis(1))
                .unwrap();
            assert!(done.accesses > 0);
        }
        let words: std::collections::HashSet<usize> = resident
            .anywhere
            .iter()
            .map(|access| access.word())
            .collect();
        assert_eq!(words.len(), PAGE_WORDS);
    }
}
