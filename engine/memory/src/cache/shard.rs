//! The polling side of a cache: the thread that reads and writes the pages of its shard turns these verbs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bytes::copy_in;
use super::config::{Inadmissible, ReadError, Reserve};
use super::fault::VolumeFault;
use super::inner::{Asked, Inner, Purpose};
use super::page::{FrameId, PageId};
use super::stat::ShardStat;
use super::waiters::News;
use super::writeback::WriteBack;

/// A page to be read, and the frame to read it into. It must come back through [`CacheShard::read_done`]: until then the
/// frame and all who wait for the page are bound to it.
#[derive(Debug)]
#[must_use = "the page's waiters wait until it comes back"]
pub struct ReadTicket {
    page: PageId,
    frame: u32,
}

impl ReadTicket {
    /// The page.
    #[must_use]
    pub fn page(&self) -> PageId {
        self.page
    }

    pub(crate) fn parts(self) -> (PageId, u32) {
        (self.page, self.frame)
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> FrameId {
        FrameId(self.frame)
    }
}

/// What came of a request for a page on its own shard.
#[derive(Debug)]
pub enum ShardFetch {
    /// To be read, by the caller, now.
    Read(ReadTicket),
    /// Resident, or on its way.
    Resident,
    /// No frame can be had now.
    NoFrame,
    /// There is no such page.
    Refused(Inadmissible),
}

/// A reserved frame, in the hands of the log or of recovery. It goes back when dropped.
pub struct ReservedFrame {
    inner: Arc<Inner>,
    shard: u32,
    reserve: Reserve,
    frame: u32,
}

impl fmt::Debug for ReservedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReservedFrame")
            .field("reserve", &self.reserve)
            .field("frame", &self.frame)
            .finish_non_exhaustive()
    }
}

impl ReservedFrame {
    /// Its bytes.
    #[must_use]
    #[allow(
        unsafe_code,
        reason = "this holder alone writes to the frame, and through `&mut self`"
    )]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the frame is exclusive and this holder's; writing takes `&mut self`.
        unsafe { self.inner.memory().bytes(self.frame) }
    }

    /// Changes bytes from `offset_bytes` on.
    ///
    /// # Panics
    /// Beyond the end of the frame.
    pub fn write(&mut self, offset_bytes: usize, from: &[u8]) {
        copy_in(self.inner.memory().words(self.frame), offset_bytes, from);
    }
}

impl Drop for ReservedFrame {
    fn drop(&mut self) {
        let shard = self.inner.shard(self.shard);
        self.inner.give_reserved(shard, self.reserve, self.frame);
    }
}

/// One shard's side of a cache, for the thread that does its I/O. It never blocks.
pub struct CacheShard {
    pub(crate) inner: Arc<Inner>,
    pub(crate) index: u32,
    pub(crate) write_back: WriteBack,
}

impl fmt::Debug for CacheShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheShard")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl CacheShard {
    pub(crate) fn new(inner: Arc<Inner>, index: u32) -> Self {
        let write_back = WriteBack::new(&inner.config);
        Self {
            inner,
            index,
            write_back,
        }
    }

    /// Which shard it is.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many frames it has, reserved ones included: never are more pages on their way.
    #[must_use]
    pub fn frames(&self) -> u32 {
        let frames = self.inner.shard(self.index).frames();
        frames.end - frames.start
    }

    /// Once a turn: the time, from a clock that never goes back. Refills the reserve, and wakes those who wait for a frame,
    /// to try again.
    pub fn tick(&mut self, now_ns: u64) {
        let inner = &*self.inner;
        let shard = inner.shard(self.index);
        shard.now_ns.store(now_ns, Ordering::Relaxed);
        let wanted = inner.config.reserve.recovery as usize;
        if inner.reserved_left(shard, Reserve::Recovery) < wanted
            && let Some(frame) = inner.take_frame(shard)
        {
            inner.give_reserved(shard, Reserve::Recovery, frame);
        }
        // Acquire: partner is the release with which a waiter says that it is in the list.
        if shard.starving.load(Ordering::Relaxed) && shard.starving.swap(false, Ordering::Acquire) {
            self.write_back.starving = true;
            inner.waiters.wake(inner.frames_list(shard), News::Look, 0);
        }
    }

    /// Whether there is something to do that [`super::Owner::wake_shard`] was called for.
    #[must_use]
    pub fn is_called(&self) -> bool {
        let shard = self.inner.shard(self.index);
        let calls = [&shard.reads, &shard.urgent, &shard.dirty];
        calls.iter().any(|queue| !queue.is_empty()) || shard.starving.load(Ordering::Relaxed)
    }

    /// The shard turns no more: what was asked of it fails. What is asked from now on fails as well, if
    /// [`super::Owner::is_over`] says so by now.
    pub fn abandon(&mut self) {
        let inner = &*self.inner;
        let shard = inner.shard(self.index);
        inner.abandon(shard);
        // Who waits for a page to be written looks again, and finds the shard gone.
        for frame in shard.frames() {
            inner.wake(frame);
        }
    }

    /// The next page that somebody waits for.
    pub fn poll_read(&mut self) -> Option<ReadTicket> {
        let shard = self.inner.shard(self.index);
        // A look costs less than an attempt, which needs a fence to be sure.
        if shard.reads.is_empty() {
            return None;
        }
        let frame = shard.reads.pop()?;
        let page = self.inner.residency.page(frame);
        let page = page.expect("a frame that is to be read into has its page");
        Some(ReadTicket { page, frame })
    }

    /// A miss on the shard's own thread: the caller reads at once, nothing is queued.
    pub fn fetch(&mut self, page: PageId) -> ShardFetch {
        self.asked(page, self.inner.ask(page, Purpose::Read))
    }

    /// As [`CacheShard::fetch`] for recovery, which may have the frames reserved for it (S20).
    pub fn fetch_for_recovery(&mut self, page: PageId) -> ShardFetch {
        self.asked(page, self.inner.ask(page, Purpose::Recovery))
    }

    fn asked(&self, page: PageId, asked: Asked) -> ShardFetch {
        debug_assert_eq!(self.inner.shard_of_page(page).index, self.index);
        match asked {
            Asked::Frame(frame) => ShardFetch::Read(ReadTicket { page, frame }),
            Asked::Exists => ShardFetch::Resident,
            Asked::NoFrame => ShardFetch::NoFrame,
            Asked::Refused(why) => ShardFetch::Refused(why),
        }
    }

    /// Copies a part of the page into its frame, as it arrives.
    ///
    /// # Panics
    /// Beyond the end of the page.
    pub fn fill(&mut self, ticket: &mut ReadTicket, offset_bytes: usize, from: &[u8]) {
        copy_in(self.inner.memory().words(ticket.frame), offset_bytes, from);
    }

    /// The page has arrived, or the volume said why not. A page whose check fails is not served; those who wait
    /// for it are told what the caller is told.
    ///
    /// # Errors
    /// [`ReadError`], with the page, and what was expected and found.
    pub fn read_done(
        &mut self,
        ticket: ReadTicket,
        result: Result<(), VolumeFault>,
    ) -> Result<(), ReadError> {
        let ReadTicket { page, frame } = ticket;
        self.inner.read_done(page, frame, result)
    }

    /// A reserved frame (S20); `None` when all are out.
    #[must_use]
    pub fn reserved(&self, reserve: Reserve) -> Option<ReservedFrame> {
        let shard = self.inner.shard(self.index);
        let frame = self.inner.reserved(shard, reserve)?;
        Some(ReservedFrame {
            inner: Arc::clone(&self.inner),
            shard: self.index,
            reserve,
            frame,
        })
    }

    /// This shard's counters.
    #[must_use]
    pub fn stat(&self) -> ShardStat {
        let shard = self.inner.shard(self.index);
        let now = shard.now_ns.load(Ordering::Relaxed);
        let age = self
            .write_back
            .oldest_ns(&self.inner)
            .map_or(0, |since| now.saturating_sub(since));
        let dirty = shard.dirty_pages.load(Ordering::Relaxed);
        ShardStat::of(&self.inner.registry, self.index, &shard.counts, dirty, age)
    }
}
