//! Dirty pages on their way to the volume: which next, how many at once, how fast.
//!
//! Pages go in the order in which they became dirty. A page that goes takes its dirty neighbours along, as far as one
//! request may be long; a neighbour that becomes dirty again after that keeps its old place in the order, and so goes
//! early. While a page's bytes are under way its frame does not change (see `Inner::exclude`), and no newer image of it
//! is sent.
#![allow(
    unsafe_code,
    reason = "an image under way is a plain slice because nobody may change it"
)]

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::bytes::copy_in;
use super::config::{CacheConfig, MERGE_PAGES_MAX, Reserve, WriteError};
use super::inner::{Inner, ShardShared};
use super::page::PageId;
use super::shard::CacheShard;
use super::word::{DIRTY, IMAGE, WAITERS};

/// Entries of the order that one call looks at.
const LOOKS_MAX: usize = 64;
/// How long a page is left alone whose owner did not let it go.
const REFUSED_NS: u64 = 1_000_000;
/// How soon a page is looked at again that somebody waits for, and that somebody else has latched.
const AGAIN_NS: u64 = 100_000;
const NANOS_PER_S: u64 = 1_000_000_000;

/// A bound on pages a second, with a burst; time is an argument.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    pages_per_s: u64,
    burst_pages: u64,
    /// In pages times nanoseconds a second, so that nothing is lost to rounding.
    level: u64,
    filled_ns: u64,
}

impl TokenBucket {
    pub(crate) fn new(pages_per_s: u32, burst_pages: u32) -> Self {
        let burst_pages = u64::from(burst_pages);
        Self {
            pages_per_s: u64::from(pages_per_s),
            burst_pages,
            level: burst_pages * NANOS_PER_S,
            filled_ns: 0,
        }
    }

    /// Pages that may go now.
    pub(crate) fn available(&mut self, now_ns: u64) -> u64 {
        let passed = now_ns.saturating_sub(self.filled_ns);
        self.filled_ns = self.filled_ns.max(now_ns);
        let more = passed.saturating_mul(self.pages_per_s);
        let most = self.burst_pages * NANOS_PER_S;
        self.level = self.level.saturating_add(more).min(most);
        self.level / NANOS_PER_S
    }

    pub(crate) fn take(&mut self, pages: u64) {
        self.level = self.level.saturating_sub(pages * NANOS_PER_S);
    }

    /// When the next page may go.
    fn next_ns(&self) -> u64 {
        let missing = NANOS_PER_S.saturating_sub(self.level);
        self.filled_ns + missing.div_ceil(self.pages_per_s)
    }
}

/// What a shard knows of its dirty pages.
#[derive(Debug)]
pub(crate) struct WriteBack {
    /// Frames in the order in which they became dirty; some are clean by now.
    order: VecDeque<u32>,
    bucket: TokenBucket,
    /// So many of the order's first go whatever their age.
    forced: usize,
    /// Somebody waits for a frame.
    pub(crate) starving: bool,
    errors: VecDeque<WriteError>,
}

impl WriteBack {
    pub(crate) fn new(config: &CacheConfig) -> Self {
        let frames = config.frames_all() / config.shards;
        Self {
            order: VecDeque::with_capacity(frames as usize),
            bucket: TokenBucket::new(config.write_back.pages_per_s, config.write_back.burst_pages),
            forced: 0,
            starving: false,
            errors: VecDeque::new(),
        }
    }

    /// Since when the first in the order has been dirty.
    pub(crate) fn oldest_ns(&self, inner: &Inner) -> Option<u64> {
        let dirty = |frame: &&u32| inner.residency.word(**frame).load().has(DIRTY);
        let frame = self.order.iter().find(dirty)?;
        Some(inner.cold(*frame).dirty_since_ns.load(Ordering::Relaxed))
    }
}

/// Pages of one write request, neighbours on their volume. It must come back through [`CacheShard::write_done`]: until
/// then their bytes can't change.
#[derive(Debug)]
#[must_use = "the pages stay as they are until it comes back"]
pub struct WriteTicket {
    first: PageId,
    frames: [u32; MERGE_PAGES_MAX],
    pages: usize,
}

impl WriteTicket {
    /// The first page.
    #[must_use]
    pub fn first(&self) -> PageId {
        self.first
    }

    /// How many pages from there on.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    fn push_back(&mut self, frame: u32) {
        self.frames[self.pages] = frame;
        self.pages += 1;
    }

    fn push_front(&mut self, page: PageId, frame: u32) {
        self.frames.copy_within(..self.pages, 1);
        self.frames[0] = frame;
        self.pages += 1;
        self.first = page;
    }
}

/// What came of an attempt to start a page's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Started,
    /// Not dirty any more, or no page at all.
    Clean,
    /// Latched, or an image of it is under way, or the owner said no: later.
    NotYet,
}

impl CacheShard {
    /// The next write request, if one is due and the rate allows it.
    pub fn poll_write(&mut self, now_ns: u64) -> Option<WriteTicket> {
        self.tick_order();
        let inner = &*self.inner;
        let shard = inner.shard(self.index);
        let budget = self.write_back.bucket.available(now_ns);
        if budget == 0 {
            return None;
        }
        // Who waits for a page's write has marked it.
        for _ in 0..shard.urgent.len().min(LOOKS_MAX) {
            let Some(frame) = shard.urgent.pop() else {
                break;
            };
            match start(inner, frame, now_ns) {
                Start::Started => return Some(self.request(frame, budget, now_ns)),
                Start::Clean => {}
                // Full again: who waits asks again.
                Start::NotYet => drop(shard.urgent.push(frame)),
            }
        }
        if !self.is_due(now_ns) {
            return None;
        }
        let mut aside = [0; LOOKS_MAX];
        let (mut kept, mut still_forced) = (0, 0);
        let mut found = None;
        for _ in 0..LOOKS_MAX {
            let Some(frame) = self.write_back.order.pop_front() else {
                break;
            };
            let forced = self.write_back.forced.min(1);
            self.write_back.forced -= forced;
            match start(&self.inner, frame, now_ns) {
                Start::Started => {
                    leave_order(&self.inner, frame);
                    found = Some(frame);
                    break;
                }
                Start::Clean => leave_order(&self.inner, frame),
                Start::NotYet => {
                    aside[kept] = frame;
                    kept += 1;
                    still_forced += forced;
                }
            }
        }
        // What can't go yet keeps its place before the rest.
        for frame in aside[..kept].iter().rev() {
            self.write_back.order.push_front(*frame);
        }
        self.write_back.forced += still_forced;
        Some(self.request(found?, budget, now_ns))
    }

    /// Takes over what has become dirty since.
    fn tick_order(&mut self) {
        let shard = self.inner.shard(self.index);
        while let Some(frame) = shard.dirty.pop() {
            self.write_back.order.push_back(frame);
        }
        // What went along with a neighbour, and is still clean, has no place in the order any more.
        while let Some(frame) = self.write_back.order.front()
            && !self.inner.residency.word(*frame).load().has(DIRTY)
        {
            leave_order(&self.inner, *frame);
            self.write_back.order.pop_front();
            self.write_back.forced = self.write_back.forced.saturating_sub(1);
        }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        let config = &self.inner.config.write_back;
        let shard = self.inner.shard(self.index);
        let dirty = shard.dirty_pages.load(Ordering::Relaxed);
        let old = || {
            let since = self.write_back.oldest_ns(&self.inner);
            since.is_some_and(|since| now_ns.saturating_sub(since) >= config.dirty_age_ns_max)
        };
        self.write_back.forced > 0
            || self.write_back.starving
            || dirty > u64::from(config.dirty_pages_max)
            || old()
    }

    /// A request with the page in this frame, and the neighbours that can go with it.
    fn request(&mut self, frame: u32, budget: u64, now_ns: u64) -> WriteTicket {
        let inner = &*self.inner;
        let first = inner.residency.page(frame);
        let first = first.expect("a page under way stays in its frame");
        let mut ticket = WriteTicket {
            first,
            frames: [0; MERGE_PAGES_MAX],
            pages: 0,
        };
        ticket.push_back(frame);
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        let most = inner.config.write_back.merge_pages_max.min(budget);
        let mut next = first.after(1);
        while ticket.pages < most
            && let Some(page) = next
            && let Some(frame) = self.start_neighbour(page, now_ns)
        {
            ticket.push_back(frame);
            next = page.after(1);
        }
        let mut next = first.before();
        while ticket.pages < most
            && let Some(page) = next
            && let Some(frame) = self.start_neighbour(page, now_ns)
        {
            ticket.push_front(page, frame);
            next = page.before();
        }
        let pages = ticket.pages as u64;
        self.write_back.bucket.take(pages);
        self.write_back.starving = false;
        let counts = &inner.shard(self.index).counts;
        counts.writes.add(1);
        counts.write_pages.add(pages);
        ticket
    }

    fn start_neighbour(&self, page: PageId, now_ns: u64) -> Option<u32> {
        let inner = &*self.inner;
        if inner.shard_of_page(page).index != self.index {
            return None;
        }
        let (frame, _) = inner.residency.locate(page, page.hash())?;
        // If the frame holds another page by now, the claim fails.
        (start_page(inner, page, frame, now_ns) == Start::Started).then_some(frame)
    }

    /// The bytes of the request's page `index`, from 0. They don't change while the ticket is out.
    ///
    /// # Panics
    /// With an index beyond the request's pages.
    #[must_use]
    pub fn image<'t>(&'t self, ticket: &'t WriteTicket, index: usize) -> &'t [u8] {
        let frame = ticket.frames[..ticket.pages][index];
        // SAFETY: the frame is marked as being written until `write_done` consumes the ticket, which is borrowed; who wants
        // to change the page moves to another frame first.
        unsafe { self.inner.memory().bytes(frame) }
    }

    /// The request's end: written, which means what the volume promises with that, or the volume's code. Pages that could
    /// not be written stay dirty, are tried again later, and [`CacheShard::poll_error`] reports them.
    pub fn write_done(&mut self, ticket: WriteTicket, result: Result<(), u32>, now_ns: u64) {
        let mut page = Some(ticket.first);
        for frame in &ticket.frames[..ticket.pages] {
            let this = page.expect("the request's pages are numbered from its first");
            self.page_done(this, *frame, result, now_ns);
            page = this.after(1);
        }
    }

    fn page_done(&mut self, page: PageId, frame: u32, result: Result<(), u32>, now_ns: u64) {
        let inner = &*self.inner;
        let shard = inner.shard(self.index);
        let before = inner.residency.end_write(frame, result.is_ok());
        // Only now, and acquired with the word: the page may move away until the word says that the write has ended.
        let moved_to = inner.cold(frame).moved_to.load(Ordering::Relaxed);
        // The page may have moved on while its image was under way; what became of the image is noted where it is.
        let holder = if before.has(IMAGE) { moved_to } else { frame };
        let cold = inner.cold(holder);
        if let Err(code) = result {
            shard.counts.write_errors.add(1);
            cold.write_error
                .store(u64::from(code) + 1, Ordering::Relaxed);
            let retry = now_ns.saturating_add(inner.config.write_back.retry_ns);
            cold.not_before_ns.store(retry, Ordering::Relaxed);
            self.write_back.errors.push_back(WriteError { page, code });
            if !before.has(IMAGE) {
                inner.now_dirty(frame, before);
            }
        } else {
            cold.write_error.store(0, Ordering::Relaxed);
        }
        if before.has(IMAGE) {
            cold.image_under_way.store(false, Ordering::Relaxed);
            inner.give_reserved(shard, Reserve::WriteBack, frame);
        }
        // An image has no page and is not revoked; its page is, where it is now.
        inner.after_release(page, frame, before);
    }

    /// The next failed write that was not reported yet.
    pub fn poll_error(&mut self) -> Option<WriteError> {
        self.write_back.errors.pop_front()
    }

    /// Has everything written that is dirty now, as fast as the rate allows. [`ShardStat::dirty_pages`] tells how far it
    /// is.
    ///
    /// [`ShardStat::dirty_pages`]: super::ShardStat::dirty_pages
    pub fn flush(&mut self) {
        self.tick_order();
        self.write_back.forced = self.write_back.order.len();
    }

    /// When [`CacheShard::tick`] and [`CacheShard::poll_write`] have something to do again, if nothing else happens: a
    /// page comes of age, or the rate allows the next one. `None`: not until something becomes dirty.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let inner = &*self.inner;
        let shard = inner.shard(self.index);
        let config = &inner.config.write_back;
        let now = shard.now_ns.load(Ordering::Relaxed);
        if shard.starving.load(Ordering::Relaxed) || !shard.dirty.is_empty() {
            return Some(now);
        }
        let next = self.write_back.bucket.next_ns();
        let first = *self.write_back.order.front()?;
        let cold = inner.cold(first);
        let not_before = cold.not_before_ns.load(Ordering::Relaxed).max(next);
        if self.is_due(now) {
            return Some(not_before);
        }
        if !shard.urgent.is_empty() {
            return Some(next.max(now.saturating_add(AGAIN_NS)));
        }
        let since = self.write_back.oldest_ns(inner)?;
        Some(
            since
                .saturating_add(config.dirty_age_ns_max)
                .max(not_before),
        )
    }
}

fn leave_order(inner: &Inner, frame: u32) {
    // AcqRel: partner is the swap in `queue_dirty`. A page that becomes dirty after this is entered anew.
    if !inner.cold(frame).queued.swap(false, Ordering::AcqRel) {
        debug_assert!(false, "what leaves the order was in it");
    }
    // Dirtied between the look and the swap: nobody has entered it, so it is done here.
    let word = inner.residency.word(frame).load();
    if word.has(DIRTY) && inner.residency.page(frame).is_some() {
        inner.queue_again(frame);
    }
}

fn start(inner: &Inner, frame: u32, now_ns: u64) -> Start {
    match inner.residency.page(frame) {
        Some(page) => start_page(inner, page, frame, now_ns),
        None => Start::Clean,
    }
}

fn start_page(inner: &Inner, page: PageId, frame: u32, now_ns: u64) -> Start {
    let word = inner.residency.word(frame);
    if !word.load().has(DIRTY) {
        return Start::Clean;
    }
    let cold = inner.cold(frame);
    if cold.image_under_way.load(Ordering::Relaxed)
        || cold.not_before_ns.load(Ordering::Relaxed) > now_ns
    {
        return Start::NotYet;
    }
    if inner.residency.claim_write(page, frame).is_none() {
        return Start::NotYet;
    }
    // SAFETY: the claim is the exclusive latch.
    let bytes = unsafe { inner.memory().bytes(frame) };
    let shard: &ShardShared = inner.shard_of_frame(frame);
    if !inner.owner.may_write(page, bytes) {
        shard.counts.refused.add(1);
        let later = now_ns.saturating_add(REFUSED_NS);
        cold.not_before_ns.store(later, Ordering::Relaxed);
        inner.unexclude(page, frame, false);
        return Start::NotYet;
    }
    let seal = inner.owner.seal(page, bytes);
    if let Some((offset, seal)) = seal {
        copy_in(inner.memory().words(frame), offset, &seal);
    }
    shard.dirty_pages.fetch_sub(1, Ordering::Relaxed);
    let before = inner.residency.begin_write(frame, seal.is_some());
    if before.has(WAITERS) {
        inner.wake(frame);
    }
    Start::Started
}
