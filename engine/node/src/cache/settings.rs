//! What a node is told of its cache.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sandrail_memory::ArenaOptions;
use sandrail_memory::SECTOR_BYTES;
use sandrail_memory::cache::{
    CacheConfig, Checksum, Eviction, Mismatch, PAGE_SIZES_BYTES, PageId, Reserves, WriteBackConfig,
};

use crate::config::NodeConfigError;

/// What the cache can't know of the pages that are in it. Called by the shards: it must not block.
pub trait PageRules: Send + Sync {
    /// Whether a page that was read is good.
    ///
    /// # Errors
    /// [`Mismatch`], and the page is not served.
    fn check(&self, page: PageId, bytes: &[u8]) -> Result<(), Mismatch> {
        let _ = (page, bytes);
        Ok(())
    }

    /// Whether the image may leave the node now: the log is durable through it, and no uncommitted change is in it (S15). Asked
    /// again later after a no.
    fn may_write(&self, page: PageId, bytes: &[u8]) -> bool {
        let _ = (page, bytes);
        true
    }

    /// What to put into the image before it leaves: where, and which eight bytes.
    fn seal(&self, page: PageId, bytes: &[u8]) -> Option<(usize, [u8; 8])> {
        let _ = (page, bytes);
        None
    }
}

/// Every page is good, and may leave as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoRules;

impl PageRules for NoRules {}

impl PageRules for Checksum {
    fn check(&self, _: PageId, bytes: &[u8]) -> Result<(), Mismatch> {
        self.verify(bytes)
    }

    fn seal(&self, _: PageId, bytes: &[u8]) -> Option<(usize, [u8; 8])> {
        Some(Self::seal(self, bytes))
    }
}

/// A node's cache. All of its memory is there from the start on.
#[derive(Clone)]
pub struct CacheSettings {
    /// Length of a page: 4, 8 or 16 KiB. A page never crosses a stripe ([`crate::NodeConfig::stripe_sectors`]).
    pub page_bytes: usize,
    /// Frames for pages over all shards; a multiple of their number.
    pub frames: u32,
    /// Which page makes room.
    pub eviction: Eviction,
    /// Frames of each shard that pages can't have (S20).
    pub reserve: Reserves,
    /// Threads and futures that can be parked at once; more poll instead.
    pub waiters_max: u32,
    /// When dirty pages are written, how many at once and how fast.
    pub write_back: WriteBackConfig,
    /// Write requests of one volume that are under way on one shard, at most.
    pub writes_under_way_max: u32,
    /// Reads of one volume that are under way on one shard, at most.
    pub reads_under_way_max: u32,
    /// Pages that are read ahead of one who reads page after page, at most; 0 for none.
    pub ahead_pages_max: u32,
    /// Volumes are numbered below this.
    pub volumes_max: u32,
    /// How long a read or a write of pages may take. A write waits within it for the copies of an earlier one of the same
    /// pages (S3), so it is to be longer than a frame lifetime.
    pub request_timeout: Duration,
    /// What the memory is to be made of. What is not granted is told by [`crate::NodeStat`].
    pub arena: ArenaOptions,
    /// What a good page is, and when one may leave.
    pub rules: Arc<dyn PageRules>,
}

impl fmt::Debug for CacheSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheSettings")
            .field("page_bytes", &self.page_bytes)
            .field("frames", &self.frames)
            .field("eviction", &self.eviction)
            .field("reserve", &self.reserve)
            .field("write_back", &self.write_back)
            .field("ahead_pages_max", &self.ahead_pages_max)
            .field("volumes_max", &self.volumes_max)
            .field("arena", &self.arena)
            .finish_non_exhaustive()
    }
}

impl CacheSettings {
    /// So many frames for pages of 4 KiB, and moderate everything else.
    #[must_use]
    pub fn new(frames: u32) -> Self {
        let cache = CacheConfig::new(frames);
        Self {
            page_bytes: cache.page_bytes,
            frames,
            eviction: cache.eviction,
            reserve: cache.reserve,
            waiters_max: cache.waiters_max,
            write_back: cache.write_back,
            writes_under_way_max: 16,
            reads_under_way_max: 256,
            ahead_pages_max: 32,
            volumes_max: 64,
            request_timeout: Duration::from_secs(10),
            arena: ArenaOptions::default(),
            rules: Arc::new(NoRules),
        }
    }

    /// Sectors of a page.
    #[must_use]
    pub fn page_sectors(&self) -> u64 {
        u64::try_from(self.page_bytes / SECTOR_BYTES).unwrap_or(u64::MAX)
    }

    /// The cache's own part of it.
    pub(crate) fn config(&self, shards: usize) -> CacheConfig {
        CacheConfig {
            page_bytes: self.page_bytes,
            frames: self.frames,
            shards: u32::try_from(shards).unwrap_or(u32::MAX),
            eviction: self.eviction,
            reserve: self.reserve,
            waiters_max: self.waiters_max,
            ahead_pages_max: self.ahead_pages_max,
            write_back: self.write_back,
        }
    }

    pub(crate) fn check(
        &self,
        shards: usize,
        stripe_sectors: u64,
        frame_lifetime: Duration,
    ) -> Result<(), NodeConfigError> {
        let wrong = |setting, given: String, allowed: String| {
            Err(NodeConfigError {
                setting,
                given,
                allowed,
            })
        };
        let within = |setting, given: u32, least: u32, most: u32| {
            if (least..=most).contains(&given) {
                return Ok(());
            }
            wrong(
                setting,
                given.to_string(),
                format!("within {least}..={most}"),
            )
        };
        if !PAGE_SIZES_BYTES.contains(&self.page_bytes) {
            let allowed = format!("one of {PAGE_SIZES_BYTES:?}");
            return wrong("cache.page_bytes", self.page_bytes.to_string(), allowed);
        }
        if !stripe_sectors.is_multiple_of(self.page_sectors()) {
            let allowed = format!("a multiple of a page's {} sectors", self.page_sectors());
            return wrong("stripe_sectors", stripe_sectors.to_string(), allowed);
        }
        let count = u32::try_from(shards).unwrap_or(u32::MAX);
        within("cache.frames", self.frames, count, 1 << 30)?;
        if !self.frames.is_multiple_of(count) {
            let allowed = format!("a multiple of the {shards} shards");
            return wrong("cache.frames", self.frames.to_string(), allowed);
        }
        let reserved = [
            ("cache.reserve.log", self.reserve.log),
            ("cache.reserve.write_back", self.reserve.write_back),
            ("cache.reserve.recovery", self.reserve.recovery),
        ];
        for (setting, given) in reserved {
            within(setting, given, 0, 1 << 16)?;
        }
        within("cache.waiters_max", self.waiters_max, 1, 1 << 20)?;
        within("cache.ahead_pages_max", self.ahead_pages_max, 0, 1024)?;
        let ahead_room = self.frames / count / 4;
        if self.ahead_pages_max > ahead_room {
            let allowed = format!("at most a quarter of a shard's frames, {ahead_room}");
            let given = self.ahead_pages_max.to_string();
            return wrong("cache.ahead_pages_max", given, allowed);
        }
        within(
            "cache.volumes_max",
            self.volumes_max,
            1,
            PageId::VOLUMES_MAX.min(1 << 16),
        )?;
        within(
            "cache.writes_under_way_max",
            self.writes_under_way_max,
            1,
            1024,
        )?;
        within(
            "cache.reads_under_way_max",
            self.reads_under_way_max,
            1,
            1 << 15,
        )?;
        self.check_write_back()?;
        if self.request_timeout <= frame_lifetime {
            let allowed = format!("longer than a frame lifetime, {frame_lifetime:?}");
            let given = format!("{:?}", self.request_timeout);
            return wrong("cache.request_timeout", given, allowed);
        }
        Ok(())
    }

    fn check_write_back(&self) -> Result<(), NodeConfigError> {
        let least_one = |setting, given: u64, most: u64| {
            if (1..=most).contains(&given) {
                return Ok(());
            }
            Err(NodeConfigError {
                setting,
                given: given.to_string(),
                allowed: format!("within 1..={most}"),
            })
        };
        let write = &self.write_back;
        let merge = u64::try_from(write.merge_pages_max).unwrap_or(u64::MAX);
        let merge_most = u64::try_from(sandrail_memory::cache::MERGE_PAGES_MAX).unwrap_or(1);
        least_one("cache.write_back.merge_pages_max", merge, merge_most)?;
        least_one(
            "cache.write_back.pages_per_s",
            u64::from(write.pages_per_s),
            u64::from(u32::MAX),
        )?;
        least_one(
            "cache.write_back.burst_pages",
            u64::from(write.burst_pages),
            1 << 20,
        )
    }
}
