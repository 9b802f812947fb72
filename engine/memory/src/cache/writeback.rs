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
use super::config::{CacheConfig, MERGE_PAGES_MAX, WriteError};
use super::fault::VolumeFault;
use super::inner::{Inner, ShardShared};
use super::page::{NO_PAGE, PageId};
use super::shard::CacheShard;
use super::word::{DIRTY, WAITERS, WRITING};

/// Flushes that can be under way at once; the first is for everybody who does not wait for its end.
const FLUSHES_MAX: usize = 32;
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
    /// Those that could not go when it was their turn, in the order in which they are looked at again.
    later: VecDeque<u32>,
    /// When that is.
    later_at_ns: u64,
    /// Those that somebody waits for, wherever they are in the order.
    hurried: VecDeque<u32>,
    /// When they are looked at again.
    hurried_at_ns: u64,
    /// Pages that are on their way, and where their bytes are.
    under_way: Vec<(PageId, u32)>,
    /// What is to be written whatever its age; the first is for [`CacheShard::flush`].
    flushes: [Flush; FLUSHES_MAX],
    /// Somebody waits for a frame.
    pub(crate) starving: bool,
    errors: VecDeque<WriteError>,
}

impl WriteBack {
    pub(crate) fn new(config: &CacheConfig) -> Self {
        let frames = config.frames_all() / config.shards;
        Self {
            order: VecDeque::with_capacity(frames as usize),
            later: VecDeque::with_capacity(frames as usize),
            later_at_ns: 0,
            hurried: VecDeque::with_capacity(frames as usize),
            hurried_at_ns: 0,
            under_way: Vec::with_capacity(frames as usize),
            flushes: [Flush::FREE; FLUSHES_MAX],
            bucket: TokenBucket::new(config.write_back.pages_per_s, config.write_back.burst_pages),
            starving: false,
            errors: VecDeque::new(),
        }
    }

    /// Since when the first in the order has been dirty.
    pub(crate) fn oldest_ns(&self, inner: &Inner) -> Option<u64> {
        let dirty = |frame: &&u32| inner.residency.word(**frame).load().has(DIRTY);
        let since = |frame: &u32| inner.cold(*frame).dirty_since_ns.load(Ordering::Relaxed);
        // What could not go is older than what has not had its turn yet.
        let first = self.later.iter().take(LOOKS_MAX).find(dirty).map(since);
        first.or_else(|| self.order.iter().find(dirty).map(since))
    }

    /// Whether somebody waits for pages to be written.
    fn is_flushing(&self) -> bool {
        self.flushes.iter().any(|flush| flush.left > 0)
    }

    /// A frame is as clean as those who flush can expect.
    fn end_flush_of(&mut self, inner: &Inner, frame: u32, error: Option<WriteError>) {
        // Relaxed, here and below: only this thread looks at it.
        let cold = inner.cold(frame);
        let mut bits = cold.flushes.load(Ordering::Relaxed);
        if bits == 0 {
            return;
        }
        cold.flushes.store(0, Ordering::Relaxed);
        while bits != 0 {
            let flush = &mut self.flushes[bits.trailing_zeros() as usize];
            flush.left = flush.left.saturating_sub(1);
            flush.error = flush.error.or(error);
            bits &= bits - 1;
        }
    }

    /// A page that flushes wait for has left its frame, discarded: they don't wait for the one that came after it.
    fn end_flush_of_former(&mut self, inner: &Inner, frame: u32) {
        let cold = inner.cold(frame);
        if cold.flushes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let page = inner.residency.page(frame).map_or(NO_PAGE, PageId::to_bits);
        // While its bytes are under way the frame may have none: the end of that write ends these, too.
        if cold.flushed_page.load(Ordering::Relaxed) != page
            && !inner.residency.word(frame).load().has(WRITING)
        {
            self.end_flush_of(inner, frame, None);
        }
    }

    /// Marks a frame for a flush.
    fn mark(&mut self, inner: &Inner, page: PageId, frame: u32, place: usize) {
        self.end_flush_of_former(inner, frame);
        let cold = inner.cold(frame);
        cold.flushed_page.store(page.to_bits(), Ordering::Relaxed);
        let bits = cold.flushes.load(Ordering::Relaxed);
        if bits & (1 << place) == 0 {
            cold.flushes.store(bits | 1 << place, Ordering::Relaxed);
            self.flushes[place].left += 1;
        }
    }

    /// Frames that wait for their turn, or for another one.
    fn waiting(&self) -> usize {
        self.later.len() + self.order.len()
    }

    fn nth_waiting(&self, index: usize) -> u32 {
        match self.later.get(index) {
            Some(frame) => *frame,
            None => self.order[index - self.later.len()],
        }
    }
}

/// Somebody waits for pages to be written.
#[derive(Clone, Copy, Debug)]
struct Flush {
    used: bool,
    /// Marked frames that are not written yet.
    left: usize,
    /// The first thing that went wrong.
    error: Option<WriteError>,
}

impl Flush {
    const FREE: Self = Self {
        used: false,
        left: 0,
        error: None,
    };
}

/// A flush under way, of one shard. To be asked for until it has ended, or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushId(usize);

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

    pub(crate) fn frame(&self, index: usize) -> u32 {
        self.frames[..self.pages][index]
    }

    /// The pages with their frames.
    pub(crate) fn each(&self) -> impl Iterator<Item = (PageId, u32)> + use<> {
        let (first, frames, pages) = (self.first, self.frames, self.pages);
        (0..pages).filter_map(move |index| Some((first.after(index as u64)?, frames[index])))
    }

    /// Leaves nothing behind.
    pub(crate) fn take(&mut self) -> Self {
        let all = Self {
            first: self.first,
            frames: self.frames,
            pages: self.pages,
        };
        self.pages = 0;
        all
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
    /// With the page that the frame held: from now on a writer may move it to another frame.
    Started(PageId),
    /// Not dirty any more, or no page at all.
    Clean,
    /// Latched, or an image of it is under way, or the owner said no: later.
    NotYet,
}

impl CacheShard {
    /// The next write request, if one is due and the rate allows it.
    pub fn poll_write(&mut self, now_ns: u64) -> Option<WriteTicket> {
        self.tick_order();
        let budget = self.write_back.bucket.available(now_ns);
        if budget == 0 {
            return None;
        }
        if let Some(started) = self.look_at_hurried(now_ns) {
            return Some(self.request(started, budget, now_ns));
        }
        if !self.is_due(now_ns) {
            return None;
        }
        let started = self.look_again(now_ns).or_else(|| self.look(now_ns))?;
        Some(self.request(started, budget, now_ns))
    }

    /// Tries those that somebody waits for.
    fn look_at_hurried(&mut self, now_ns: u64) -> Option<(PageId, u32)> {
        let shard = self.inner.shard(self.index);
        while !shard.urgent.is_empty()
            && let Some(frame) = shard.urgent.pop()
        {
            self.write_back.hurried.push_back(frame);
            self.write_back.hurried_at_ns = now_ns;
        }
        if now_ns < self.write_back.hurried_at_ns {
            return None;
        }
        for _ in 0..self.write_back.hurried.len().min(LOOKS_MAX) {
            let frame = self.write_back.hurried.pop_front()?;
            let hurried = &self.inner.cold(frame).hurried;
            // AcqRel: whoever hurries it from now on enters it again.
            hurried.swap(false, Ordering::AcqRel);
            match start(&self.inner, frame, now_ns) {
                Start::Started(page) => return Some((page, frame)),
                Start::Clean => {}
                Start::NotYet => {
                    hurried.store(true, Ordering::Release);
                    self.write_back.hurried.push_back(frame);
                }
            }
        }
        self.write_back.hurried_at_ns = now_ns.saturating_add(AGAIN_NS);
        None
    }

    /// Tries those whose turn has been and that could not go then.
    fn look_again(&mut self, now_ns: u64) -> Option<(PageId, u32)> {
        if self.write_back.later.is_empty() || now_ns < self.write_back.later_at_ns {
            return None;
        }
        let looks = self.write_back.later.len().min(LOOKS_MAX);
        let mut at_ns = now_ns.saturating_add(REFUSED_NS);
        for _ in 0..looks {
            let frame = self.write_back.later.pop_front()?;
            self.write_back.end_flush_of_former(&self.inner, frame);
            match start(&self.inner, frame, now_ns) {
                Start::Started(page) => {
                    self.leave_order(frame);
                    return Some((page, frame));
                }
                Start::Clean => self.leave_order(frame),
                Start::NotYet => {
                    let not_before = &self.inner.cold(frame).not_before_ns;
                    let again_ns = now_ns.saturating_add(AGAIN_NS);
                    at_ns = at_ns.min(not_before.load(Ordering::Relaxed).max(again_ns));
                    self.write_back.later.push_back(frame);
                }
            }
        }
        // All of them have been looked at, or the rest comes soon.
        self.write_back.later_at_ns = at_ns;
        None
    }

    /// Tries the next ones whose turn it is.
    fn look(&mut self, now_ns: u64) -> Option<(PageId, u32)> {
        for _ in 0..LOOKS_MAX {
            let frame = self.write_back.order.pop_front()?;
            self.write_back.end_flush_of_former(&self.inner, frame);
            match start(&self.inner, frame, now_ns) {
                Start::Started(page) => {
                    self.leave_order(frame);
                    return Some((page, frame));
                }
                Start::Clean => self.leave_order(frame),
                // It keeps nobody from going: its volume may be gone for long.
                Start::NotYet => {
                    let again_ns = now_ns.saturating_add(AGAIN_NS);
                    self.write_back.later_at_ns = self.write_back.later_at_ns.min(again_ns);
                    if self.write_back.later.is_empty() {
                        self.write_back.later_at_ns = again_ns;
                    }
                    self.write_back.later.push_back(frame);
                }
            }
        }
        None
    }

    /// The frame has no place in the order any more.
    fn leave_order(&mut self, frame: u32) {
        leave_order(&self.inner, frame);
        let word = self.inner.residency.word(frame).load();
        if !word.has(DIRTY | WRITING) {
            self.write_back.end_flush_of(&self.inner, frame, None);
        }
    }

    /// Takes over what has become dirty since.
    fn tick_order(&mut self) {
        let shard = self.inner.shard(self.index);
        // A shard that had nothing to write may have slept for long, and its clock with it. It was woken for the first one.
        let slept = self.write_back.waiting() == 0;
        while !shard.dirty.is_empty()
            && let Some(frame) = shard.dirty.pop()
        {
            if slept {
                let now = shard.now_ns.load(Ordering::Relaxed);
                let since = &self.inner.cold(frame).dirty_since_ns;
                since.store(now, Ordering::Relaxed);
            }
            self.write_back.order.push_back(frame);
        }
        // What went along with a neighbour, and is still clean, has no place in the order any more.
        while let Some(frame) = self.write_back.order.front()
            && !self.inner.residency.word(*frame).load().has(DIRTY)
        {
            let frame = *frame;
            self.write_back.order.pop_front();
            self.leave_order(frame);
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
        self.write_back.is_flushing()
            || self.write_back.starving
            || dirty > u64::from(config.dirty_pages_max)
            || old()
    }

    /// A request with the page whose image this frame holds, and the neighbours that can go with it.
    fn request(&mut self, (first, frame): (PageId, u32), budget: u64, now_ns: u64) -> WriteTicket {
        let inner = &*self.inner;
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
        self.write_back.under_way.extend(ticket.each());
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
        (start_page(inner, page, frame, now_ns) == Start::Started(page)).then_some(frame)
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

    /// The request's end: written, which means what the volume promises with that, or the volume's word. Pages that could
    /// not be written stay dirty, are tried again later, and [`CacheShard::poll_error`] reports them.
    pub fn write_done(
        &mut self,
        ticket: WriteTicket,
        result: Result<(), VolumeFault>,
        now_ns: u64,
    ) {
        for (page, frame) in ticket.each() {
            let error = result.err().map(|fault| WriteError { page, fault });
            self.write_back.errors.extend(error);
            let entry = |entry: &(PageId, u32)| entry.1 == frame;
            if let Some(place) = self.write_back.under_way.iter().position(entry) {
                self.write_back.under_way.swap_remove(place);
            }
            // Before the frame can be somebody else's.
            self.write_back.end_flush_of(&self.inner, frame, error);
            if self.inner.write_ended(page, frame, result, now_ns) {
                // The page itself has waited for this.
                self.write_back.later_at_ns = now_ns;
            }
        }
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
        self.mark_dirty(0, None);
    }

    /// The same for one volume, for somebody who wants to hear of its end. `None`: too many wait already; later.
    #[must_use]
    pub fn flush_begin(&mut self, volume: u32) -> Option<FlushId> {
        let free = |place: &usize| !self.write_back.flushes[*place].used;
        let place = (1..FLUSHES_MAX).find(free)?;
        self.write_back.flushes[place] = Flush {
            used: true,
            ..Flush::FREE
        };
        self.mark_dirty(place, Some(volume));
        Some(FlushId(place))
    }

    /// Its end: every page of the volume that was dirty when it began has been written since, or an error says which one
    /// could not be, first of all. `None`: not yet.
    pub fn flush_poll(&mut self, flush: FlushId) -> Option<Result<(), WriteError>> {
        let entry = &mut self.write_back.flushes[flush.0];
        if entry.left > 0 {
            return None;
        }
        let error = core::mem::replace(entry, Flush::FREE).error;
        Some(error.map_or(Ok(()), Err))
    }

    /// Nobody waits for it any more. How many pages were left, and one of them.
    pub fn flush_cancel(&mut self, flush: FlushId) -> (usize, Option<PageId>) {
        let (inner, write_back) = (&*self.inner, &self.write_back);
        let mut one = None;
        let mut unmark = |frame: u32, page: Option<PageId>| {
            let cold = inner.cold(frame);
            let bits = cold.flushes.load(Ordering::Relaxed);
            if bits & (1 << flush.0) != 0 {
                one = one.or(page);
                cold.flushes
                    .store(bits & !(1 << flush.0), Ordering::Relaxed);
            }
        };
        for (page, frame) in &write_back.under_way {
            unmark(*frame, Some(*page));
        }
        // All of them, since one that is marked may be in no queue yet; who gives up can wait for this.
        for frame in inner.shard(self.index).frames() {
            unmark(frame, inner.residency.page(frame));
        }
        let entry = core::mem::replace(&mut self.write_back.flushes[flush.0], Flush::FREE);
        (entry.left, one)
    }

    /// Marks what is dirty or under way, of one volume or of all.
    fn mark_dirty(&mut self, place: usize, volume: Option<u32>) {
        // In this order: what was entered by now is found in the order below.
        let entered = self.inner.shard(self.index).entering.is_over();
        self.tick_order();
        let (inner, write_back) = (&*self.inner, &mut self.write_back);
        let wanted = |page: PageId| volume.is_none_or(|volume| page.volume() == volume);
        if !entered {
            // Somebody is stopped between marking a frame and entering it: rare enough to look at all of them.
            for frame in inner.shard(self.index).frames() {
                let dirty = inner.residency.word(frame).load().has(DIRTY);
                let page = inner.residency.page(frame);
                if let Some(page) = page.filter(|page| dirty && wanted(*page)) {
                    write_back.mark(inner, page, frame, place);
                }
            }
        }
        for index in 0..write_back.waiting() {
            let frame = write_back.nth_waiting(index);
            let dirty = inner.residency.word(frame).load().has(DIRTY);
            let page = inner.residency.page(frame);
            if let Some(page) = page.filter(|page| dirty && wanted(*page)) {
                write_back.mark(inner, page, frame, place);
            }
        }
        for index in 0..write_back.under_way.len() {
            let (page, frame) = write_back.under_way[index];
            if wanted(page) {
                write_back.mark(inner, page, frame, place);
            }
        }
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
        let hurried =
            (!self.write_back.hurried.is_empty()).then_some(self.write_back.hurried_at_ns);
        let again = (!self.write_back.later.is_empty()).then_some(self.write_back.later_at_ns);
        let turn = self.write_back.order.front().map(|first| {
            if self.is_due(now) {
                return now;
            }
            let since = &inner.cold(*first).dirty_since_ns;
            since
                .load(Ordering::Relaxed)
                .saturating_add(config.dirty_age_ns_max)
        });
        // Who is about to enter a frame may not wake the shard after that.
        let entering = (!shard.entering.is_over()).then(|| now.saturating_add(AGAIN_NS));
        let due = [hurried, again, turn, entering]
            .into_iter()
            .flatten()
            .min()?;
        Some(due.max(next))
    }
}

fn leave_order(inner: &Inner, frame: u32) {
    if !inner.cold(frame).queued.leave() {
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
        || !inner.owner.takes_writes(page)
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
    let before = inner.residency.begin_write(frame, seal.is_some());
    // Not if the change was discarded since the claim, and counted there.
    if before.has(DIRTY) {
        shard.dirty_pages.fetch_sub(1, Ordering::Relaxed);
    }
    if before.has(WAITERS) {
        inner.wake(frame);
    }
    Start::Started(page)
}
