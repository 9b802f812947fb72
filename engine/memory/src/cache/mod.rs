//! The buffer cache: pages of any volume in frames of the arena, found, latched, evicted and written back without a
//! lock on the way of a hit. docs/cache.md tells how it works and why so.
//!
//! The cache does no I/O and has no thread. Whoever uses pages has a [`Handle`]; the thread that does a shard's I/O
//! turns its [`CacheShard`]: [`CacheShard::poll_read`] and [`CacheShard::read_done`], [`CacheShard::poll_write`] and
//! [`CacheShard::write_done`], and [`CacheShard::tick`] with the time.
//!
//! ```
//! use sandrail_memory::cache::{Cache, CacheConfig, PageId, ShardFetch, Unchecked};
//! use sandrail_memory::{Arena, HugePages};
//!
//! let config = CacheConfig::new(64);
//! let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer)?;
//! let (cache, mut shards) = Cache::new(config, &mut arena, Box::new(Unchecked))?;
//! let page = PageId::new(1, 42).expect("small numbers");
//!
//! // The shard's thread reads a page,
//! if let ShardFetch::Read(mut ticket) = shards[0].fetch(page) {
//!     shards[0].fill(&mut ticket, 0, &[7; 4096]);
//!     shards[0].read_done(ticket, Ok(()))?;
//! }
//! // any thread uses it.
//! let handle = cache.handle(0);
//! assert_eq!(handle.optimistic(page, |view| view.u64_at(3)), Ok(0x0707_0707_0707_0707));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ahead;
mod bytes;
mod check;
mod config;
mod ends;
mod entering;
mod fault;
mod guards;
mod handle;
mod inner;
mod page;
mod policy;
mod residency;
mod revoke;
mod s3fifo;
mod shard;
mod stat;
mod sync;
mod table;
#[cfg(test)]
mod table_tests;
mod transfer;
mod wait;
mod waiters;
mod word;
mod writeback;

use std::sync::Arc;

use bytes::FrameMemory;
use inner::Inner;
use residency::Going;
use word::{DIRTY, WRITING};

use crate::arena::Arena;

pub use bytes::View;
pub use check::Checksum;
pub use config::{
    AccessError, CacheConfig, CacheError, Inadmissible, MERGE_PAGES_MAX, Mismatch, Owner,
    PAGE_SIZES_BYTES, ReadError, ReadFault, Refused, Reserve, Reserves, Unchecked, WriteBackConfig,
    WriteError,
};
pub use fault::VolumeFault;
pub use guards::{Exclusive, Optimistic, Pin, Shared};
pub use handle::{Fetch, Handle};
pub use page::{FrameId, PageId};
pub use policy::Eviction;
pub use shard::{CacheShard, ReadTicket, ReservedFrame, ShardFetch};
pub use stat::ShardStat;
pub use transfer::{PageRead, PageWrite};
pub use wait::{Acquire, Downgraded, Gone, Operation};
pub use writeback::{FlushId, WriteTicket};

/// A cache. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

/// Whether a revoked or downgraded page is where it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Nobody has it any more, in the way that was taken.
    Done,
    /// Somebody still has a guard or a pin, or it is not written yet. New accesses are refused already.
    Pending,
}

/// What there is of a volume in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Its pages in frames.
    pub pages: usize,
    /// Those that are dirty, or just being written.
    pub dirty: usize,
    /// One of them.
    pub one_dirty: Option<PageId>,
}

impl Cache {
    /// Carves the frames from the arena, and makes everything else that the cache will ever need, but for what waits and
    /// fails. One [`CacheShard`] for each shard.
    ///
    /// # Errors
    /// [`CacheError`] when the sizes make no sense or the arena has no room.
    pub fn new(
        config: CacheConfig,
        arena: &mut Arena,
        owner: Box<dyn Owner>,
    ) -> Result<(Self, Vec<CacheShard>), CacheError> {
        config.check()?;
        let memory = FrameMemory::new(arena, config.page_bytes, config.frames_all())?;
        let inner = Arc::new(Inner::new(config, memory, owner));
        let shards = (0..config.shards)
            .map(|index| CacheShard::new(Arc::clone(&inner), index))
            .collect();
        Ok((Self { inner }, shards))
    }

    /// A way to the pages for one thread, whose hits count for this shard.
    ///
    /// # Panics
    /// With a shard that there is not.
    #[must_use]
    pub fn handle(&self, shard: u32) -> Handle {
        assert!(shard < self.inner.config.shards, "no shard {shard}");
        Handle::new(Arc::clone(&self.inner), shard)
    }

    /// What the cache was made with.
    #[must_use]
    pub fn config(&self) -> &CacheConfig {
        &self.inner.config
    }

    /// Takes the page away, for another party to have it. From now on nobody gets it, and optimistic readers find that
    /// what they read may not count. Guards and pins are waited for; changes are written first, or with `discard`
    /// forgotten. To be called again until it is done, or see [`Handle::revoke`].
    pub fn revoke(&self, page: PageId, discard: bool) -> Revocation {
        match self.inner.revoke(page, discard) {
            Going::Gone { .. } => Revocation::Done,
            Going::Held(_) => Revocation::Pending,
        }
    }

    /// Takes the right to change the page away. Readers go on; who has the exclusive latch is waited for, and changes
    /// are written. To be called again until it is done, or see [`Handle::downgrade`].
    pub fn downgrade(&self, page: PageId) -> Revocation {
        match self.inner.downgrade(page) {
            None => Revocation::Done,
            Some(_) => Revocation::Pending,
        }
    }

    /// Gives the right to change the page back, if it is resident.
    pub fn upgrade(&self, page: PageId) {
        let _ = self.inner.residency.set_read_only(page, page.hash(), false);
    }

    /// Pages of a volume that are in frames, and how many of these are dirty or on their way to the volume. Looks at every
    /// frame's head.
    #[must_use]
    pub fn resident(&self, volume: u32) -> Resident {
        let mut found = Resident::default();
        for (page, frame) in self.inner.pages_of(volume) {
            let word = self.inner.residency.word(frame).load();
            found.pages += 1;
            if word.has(DIRTY | WRITING) {
                found.dirty += 1;
                found.one_dirty = found.one_dirty.or(Some(page));
            }
        }
        found
    }

    /// Revokes all pages of a volume, as [`Cache::revoke`] does one. How many are left, to be called again for.
    pub fn revoke_volume(&self, volume: u32, discard: bool) -> usize {
        // Partner: the fence between a page's entry and the second look at its volume.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.inner
            .pages_of(volume)
            .filter(|(page, _)| self.revoke(*page, discard) == Revocation::Pending)
            .count()
    }

    /// Pages of a volume that were written with a number above `epoch` ([`Owner::epoch`]): those that their volume may have
    /// lost. Looks at every frame's head.
    pub fn unflushed(&self, volume: u32, epoch: u32) -> impl Iterator<Item = PageId> + '_ {
        self.inner
            .pages_of(volume)
            .filter(move |(_, frame)| {
                // Relaxed: who asks has learnt of a loss that came after the writes.
                let written = &self.inner.cold(*frame).epoch;
                written.load(std::sync::atomic::Ordering::Relaxed) > epoch
            })
            .map(|(page, _)| page)
    }

    /// What the volume said when the page was last written, if that failed and has not succeeded since.
    #[must_use]
    pub fn write_error(&self, page: PageId) -> Option<WriteError> {
        self.inner.write_error(page)
    }
}

impl Handle {
    /// Revokes the page, and waits until nobody has it.
    pub fn revoke(&self, page: PageId) -> Acquire<'_, Gone> {
        Acquire::new(self, page)
    }

    /// Downgrades the page, and waits until nobody changes it and all is written.
    pub fn downgrade(&self, page: PageId) -> Acquire<'_, Downgraded> {
        Acquire::new(self, page)
    }
}
