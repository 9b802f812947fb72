//! What a cache is told at its start, what it asks of its owner, and what can go wrong.

use std::fmt;

use super::bytes::FrameMemory;
use super::fault::VolumeFault;
use super::page::PageId;
use super::policy::Eviction;
use crate::arena::ArenaError;

/// The most pages of one write request.
pub const MERGE_PAGES_MAX: usize = 16;
/// Page sizes that a cache can have.
pub const PAGE_SIZES_BYTES: [usize; 3] = [4096, 8192, 16384];

/// Frames of each shard that pages can't have (S20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserves {
    /// For the log's own buffers.
    pub log: u32,
    /// For pages that are changed while their bytes are on the way to the volume.
    pub write_back: u32,
    /// For pages that recovery reads while no other frame can be had.
    pub recovery: u32,
}

impl Reserves {
    pub(crate) const fn sum(self) -> u32 {
        self.log + self.write_back + self.recovery
    }
}

/// What a reserved frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// The log's buffers.
    Log,
    /// Pages changed while they are being written.
    WriteBack,
    /// Recovery.
    Recovery,
}

impl Reserve {
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Log => 0,
            Self::WriteBack => 1,
            Self::Recovery => 2,
        }
    }
}

/// How dirty pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBackConfig {
    /// Pages a second, in the long run.
    pub pages_per_s: u32,
    /// Pages at once, after a pause.
    pub burst_pages: u32,
    /// Pages of one request, at most; up to [`MERGE_PAGES_MAX`].
    pub merge_pages_max: usize,
    /// A shard with more dirty pages than this writes, whatever their age.
    pub dirty_pages_max: u32,
    /// A page is written when it has been dirty for so long.
    pub dirty_age_ns_max: u64,
    /// After an error a page is tried again no sooner than this.
    pub retry_ns: u64,
}

impl Default for WriteBackConfig {
    fn default() -> Self {
        Self {
            pages_per_s: 50_000,
            burst_pages: 256,
            merge_pages_max: MERGE_PAGES_MAX,
            dirty_pages_max: 1024,
            dirty_age_ns_max: 1_000_000_000,
            retry_ns: 100_000_000,
        }
    }
}

/// A cache's sizes, fixed at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// 4, 8 or 16 KiB.
    pub page_bytes: usize,
    /// Frames for pages, over all shards; a multiple of their number.
    pub frames: u32,
    /// Threads that do the I/O, each with its part of the frames.
    pub shards: u32,
    /// Which page goes.
    pub eviction: Eviction,
    /// Frames of each shard beside those for pages.
    pub reserve: Reserves,
    /// Threads and futures that can be parked at once; more poll instead.
    pub waiters_max: u32,
    /// Pages that a handle has read ahead of a scan, at most; 0 for none.
    pub ahead_pages_max: u32,
    /// Writing.
    pub write_back: WriteBackConfig,
}

impl CacheConfig {
    /// A cache of so many pages of 4 KiB for one shard.
    #[must_use]
    pub fn new(frames: u32) -> Self {
        Self {
            page_bytes: PAGE_SIZES_BYTES[0],
            frames,
            shards: 1,
            eviction: Eviction::default(),
            reserve: Reserves {
                log: 4,
                write_back: 16,
                recovery: 4,
            },
            waiters_max: 1024,
            ahead_pages_max: 0,
            write_back: WriteBackConfig::default(),
        }
    }

    /// Arena bytes that the frames take.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        FrameMemory::arena_bytes(self.page_bytes, self.frames_all())
    }

    pub(crate) fn frames_all(&self) -> u32 {
        self.reserve
            .sum()
            .saturating_mul(self.shards)
            .saturating_add(self.frames)
    }

    pub(crate) fn check(&self) -> Result<(), CacheError> {
        let wrong = |reason| Err(CacheError::Config { reason });
        if !PAGE_SIZES_BYTES.contains(&self.page_bytes) {
            return wrong("pages are of 4096, 8192 or 16384 bytes");
        }
        if self.shards == 0 || self.frames == 0 || !self.frames.is_multiple_of(self.shards) {
            return wrong("frames are a multiple of the shards, and neither is 0");
        }
        // The table's slots and the lists of waiters count frames in 32 bits, with something to spare.
        if self.frames_all() > 1 << 30 {
            return wrong("at most 2^30 frames");
        }
        let write = &self.write_back;
        if write.merge_pages_max == 0 || write.merge_pages_max > MERGE_PAGES_MAX {
            return wrong("a write request is of 1 to 16 pages");
        }
        if write.pages_per_s == 0 || write.burst_pages == 0 {
            return wrong("a rate of 0 would never write");
        }
        Ok(())
    }
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Sizes that can't be.
    #[error("the cache can't be made: {reason}")]
    Config {
        /// Which.
        reason: &'static str,
    },
    /// The arena has no room.
    #[error("no memory for the cache's frames: {0}")]
    Arena(#[from] ArenaError),
}

/// A page is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The checksum that the page carries.
    pub expected: u32,
    /// That of its bytes.
    pub found: u32,
}

/// What was wrong with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// The volume did not deliver.
    Volume(VolumeFault),
    /// The check of the page failed.
    Check(Mismatch),
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(fault) => fault.fmt(f),
            Self::Check(Mismatch { expected, found }) => {
                write!(f, "checksum {expected:#010x} expected, {found:#010x} found")
            }
        }
    }
}

/// A page that can't be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{page} can't be read: {fault}")]
pub struct ReadError {
    /// The page and its volume.
    pub page: PageId,
    /// Why.
    pub fault: ReadFault,
}

/// A page that could not be written. It is still in the cache, and dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{page} can't be written: {fault}")]
pub struct WriteError {
    /// The page and its volume.
    pub page: PageId,
    /// Why.
    pub fault: VolumeFault,
}

/// Why a page can't be had at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inadmissible {
    /// Nothing is bound to its volume's number.
    #[error("the volume is not bound")]
    Unbound,
    /// The volume ends before it.
    #[error("the volume has {pages} pages")]
    PastEnd {
        /// How many.
        pages: u64,
    },
    /// What reads and writes its pages has stopped.
    #[error("the node stopped")]
    Stopped,
}

/// Why an access failed that would have waited for its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The page can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no such page.
    #[error("there is no {page}: {why}")]
    Inadmissible {
        /// The page.
        page: PageId,
        /// Why.
        why: Inadmissible,
    },
    /// Another party has the page now; it is to be asked for before the next try.
    #[error("{0} was revoked")]
    Revoked(PageId),
    /// The page may be read, not changed.
    #[error("{0} is read-only by now")]
    ReadOnly(PageId),
    /// The page has as many pins as can be counted.
    #[error("{0} has too many pins")]
    Pins(PageId),
}

/// Why an access that does not wait failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not resident.
    #[error("the page is not resident")]
    Absent,
    /// Latched, or just being read or written.
    #[error("the page is busy")]
    Busy,
    /// Another party has it now.
    #[error("the page was revoked")]
    Revoked,
    /// It may be read, not changed.
    #[error("the page is read-only by now")]
    ReadOnly,
    /// As many pins as can be counted.
    #[error("the page has too many pins")]
    Pins,
    /// No frame can be had for a new page.
    #[error("no frame can be had")]
    NoFrame,
    /// There is no such page.
    #[error("there is no such page: {0}")]
    Inadmissible(Inadmissible),
}

/// What the cache needs of whoever has it: the volumes behind it, what a good page is, and when an image may leave.
pub trait Owner: Send + Sync {
    /// The shard, below `shards`, that reads and writes the page; always the same for a page.
    fn shard_of(&self, page: PageId, shards: u32) -> u32 {
        let _ = (page, shards);
        0
    }

    /// Whether there is such a page. Asked twice for each page that is not resident, before it is entered and after: a volume
    /// that is let go of in between has the page refused, or its owner finds it in the cache.
    ///
    /// # Errors
    /// [`Inadmissible`].
    fn admit(&self, page: PageId) -> Result<(), Inadmissible> {
        let _ = page;
        Ok(())
    }

    /// Whether the page may be changed. Asked when it has been read.
    fn writable(&self, page: PageId) -> bool {
        let _ = page;
        true
    }

    /// Whether a write of the page may begin now, as far as the volume is concerned. Asked again later after a no.
    fn takes_writes(&self, page: PageId) -> bool {
        let _ = page;
        true
    }

    /// What a page that was just written carries from now on: a number above 0 if its volume may still lose it, by which
    /// [`super::Cache::unflushed`] finds it.
    fn epoch(&self, page: PageId) -> u32 {
        let _ = page;
        0
    }

    /// A page left the cache that carried such a number.
    fn gone_unflushed(&self, page: PageId, epoch: u32) {
        let _ = (page, epoch);
    }

    /// Whether a page that was read is good. Called once a read, on the shard.
    ///
    /// # Errors
    /// [`Mismatch`], and the page is not served.
    fn check(&self, page: PageId, bytes: &[u8]) -> Result<(), Mismatch> {
        let _ = (page, bytes);
        Ok(())
    }

    /// Whether the image may leave the node now: the log is durable through it, no uncommitted change is in it (S15), and
    /// the lease holds. Asked again later after a no.
    fn may_write(&self, page: PageId, bytes: &[u8]) -> bool {
        let _ = (page, bytes);
        true
    }

    /// What to put into the image before it leaves: where, and which eight bytes. The place of the checksum, usually.
    fn seal(&self, page: PageId, bytes: &[u8]) -> Option<(usize, [u8; 8])> {
        let _ = (page, bytes);
        None
    }

    /// There is something for the shard to do. Called after it was put where [`super::CacheShard`] finds it.
    fn wake_shard(&self, shard: u32) {
        let _ = shard;
    }

    /// Whether the shard turns no more. Asked after it was woken: what it was asked for fails then.
    fn is_over(&self, shard: u32) -> bool {
        let _ = shard;
        false
    }
}

/// An owner with the default answers: one shard, every page is good, every image may leave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchecked;

impl Owner for Unchecked {}
