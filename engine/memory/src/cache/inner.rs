//! What all who use a cache share: frames, queues and counters, and the steps that need several of them.
#![allow(
    unsafe_code,
    reason = "the check reads the bytes of a frame that the cache itself has latched"
)]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI8, AtomicU32, AtomicU64, Ordering, fence};

use crossbeam_queue::ArrayQueue;

use super::bytes::FrameMemory;
use super::config::{CacheConfig, Inadmissible, Owner, ReadError, ReadFault, Reserve};
use super::entering::{Entering, Queued};
use super::fault::VolumeFault;
use super::page::{NO_PAGE, PageId};
use super::policy::{Candidate, Frames, Policy, STEPS_MAX};
use super::residency::{Going, Kept, Obstacle, Residency};
use super::stat::{Counts, HandleCounts, Registry};
use super::table::prefetch;
use super::waiters::{News, Waiters};
use super::word::{DIRTY, EXCLUSIVE, READ_ONLY, REVOKED, Snapshot, WAITERS, WRITING};

/// The most pages that are evicted at once.
const BATCH_MAX: usize = 8;
/// A shard with this many frames for each evicts that many at once; fewer in a smaller one, where it would show in the
/// hit ratio.
const FRAMES_FOR_BATCH: usize = 256;

/// What a frame has beside its two hot words.
#[derive(Debug)]
pub(crate) struct Cold {
    /// In the write-back's order, or on its way there.
    pub(crate) queued: Queued,
    /// Somebody waits for it to be written, and it is among those that go first.
    pub(crate) hurried: AtomicBool,
    /// An older image of this page is on its way; the page waits for it.
    pub(crate) image_under_way: AtomicBool,
    /// Image: where its page went.
    pub(crate) moved_to: AtomicU32,
    /// When the page became dirty, by its shard's clock.
    pub(crate) dirty_since_ns: AtomicU64,
    /// Write-back leaves the page alone until then: its owner or its volume has just said no.
    pub(crate) not_before_ns: AtomicU64,
    /// What the volume said to the last attempt to write the page, plus one; 0 for nothing.
    pub(crate) write_error: AtomicU64,
    /// What the owner said when the page was written last; 0: its volume can't lose it.
    pub(crate) epoch: AtomicU32,
    /// A bit for each flush that waits for this frame to be written. Only the shard's thread looks at it.
    pub(crate) flushes: AtomicU32,
    /// The page that these wait for: the frame may hold another one by now.
    pub(crate) flushed_page: AtomicU64,
}

/// What a shard of the cache shares with other threads.
pub(crate) struct ShardShared {
    pub(crate) index: u32,
    first: u32,
    all: u32,
    pub(crate) policy: Policy,
    /// Pages that are evicted at once.
    batch: usize,
    /// Tokens, counted from the shard's first, of frames that hold nothing and are in no queue of the policy.
    free: ArrayQueue<u32>,
    reserves: [ArrayQueue<u32>; 3],
    /// Frames to be read into.
    pub(crate) reads: ArrayQueue<u32>,
    /// Frames that have become dirty, in that order.
    pub(crate) dirty: ArrayQueue<u32>,
    /// Those who are about to put a frame there.
    pub(crate) entering: Entering,
    /// Frames that somebody waits for to be written.
    pub(crate) urgent: ArrayQueue<u32>,
    pub(crate) dirty_pages: AtomicU64,
    /// The shard's clock as of its last turn.
    pub(crate) now_ns: AtomicU64,
    /// Somebody waits for a frame.
    pub(crate) starving: AtomicBool,
    pub(crate) counts: Counts,
}

pub(crate) struct Inner {
    pub(crate) config: CacheConfig,
    pub(crate) used_max: i8,
    pub(crate) residency: Residency<FrameMemory>,
    pub(crate) waiters: Waiters,
    /// How often each frame's page was used lately, up to the policy's most. Apart from the words, and dense, since whoever
    /// looks for a victim reads many of them and writes them. [`AHEAD`] for one that was read ahead and not used yet.
    used: Box<[AtomicI8]>,
    /// The frame that the token of this number names, and the reverse. Both are permuted when a page moves.
    frame_of_token: Box<[AtomicU32]>,
    token_of_frame: Box<[AtomicU32]>,
    pub(crate) cold: Box<[Cold]>,
    pub(crate) shards: Box<[ShardShared]>,
    pub(crate) registry: Registry,
    pub(crate) owner: Box<dyn Owner>,
    shard_frames: u32,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What came of asking for a page to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The caller has the frame, to be read into.
    Frame(u32),
    /// It is resident, or somebody else has asked.
    Exists,
    /// No frame can be had right now.
    NoFrame,
    /// There is no such page.
    Refused(Inadmissible),
}

/// What a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody wants it.
    Read,
    /// Somebody may want it soon.
    Ahead,
    /// Recovery wants it.
    Recovery,
    /// It is made, and not read.
    Create,
}

/// How often a page was used that was read ahead. Below zero, so that the first use of it is found without another look.
const AHEAD: i8 = i8::MIN;

impl ShardShared {
    fn new(config: &CacheConfig, index: u32) -> Self {
        let reserve = config.reserve;
        let pages = config.frames / config.shards;
        let all = pages + reserve.sum();
        let queue = |capacity: u32| ArrayQueue::new(capacity.max(1) as usize);
        let mut next = 0;
        let mut filled = |count: u32| {
            let queue = queue(all);
            for token in next..next + count {
                let pushed = queue.push(token);
                assert!(pushed.is_ok(), "the queue was made for all");
            }
            next += count;
            queue
        };
        let free = filled(pages);
        let reserves = [
            filled(reserve.log),
            filled(reserve.write_back),
            filled(reserve.recovery),
        ];
        Self {
            index,
            first: index * all,
            all,
            policy: Policy::new(config.eviction, all),
            batch: (pages as usize / FRAMES_FOR_BATCH).clamp(1, BATCH_MAX),
            free,
            reserves,
            reads: queue(all),
            dirty: queue(all),
            entering: Entering::new(),
            urgent: queue(all),
            dirty_pages: AtomicU64::new(0),
            now_ns: AtomicU64::new(0),
            starving: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    /// All its frames.
    pub(crate) fn frames(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.all
    }
}

impl Inner {
    pub(crate) fn new(config: CacheConfig, memory: FrameMemory, owner: Box<dyn Owner>) -> Self {
        let frames = config.frames_all();
        Self {
            used_max: Policy::used_max(config.eviction),
            residency: Residency::new(frames, memory),
            waiters: Waiters::new(frames + config.shards, config.waiters_max),
            used: (0..frames).map(|_| AtomicI8::new(0)).collect(),
            frame_of_token: (0..frames).map(AtomicU32::new).collect(),
            token_of_frame: (0..frames).map(AtomicU32::new).collect(),
            cold: (0..frames)
                .map(|_| Cold {
                    queued: Queued::new(),
                    hurried: AtomicBool::new(false),
                    image_under_way: AtomicBool::new(false),
                    moved_to: AtomicU32::new(0),
                    dirty_since_ns: AtomicU64::new(0),
                    not_before_ns: AtomicU64::new(0),
                    write_error: AtomicU64::new(0),
                    epoch: AtomicU32::new(0),
                    flushes: AtomicU32::new(0),
                    flushed_page: AtomicU64::new(NO_PAGE),
                })
                .collect(),
            shards: (0..config.shards)
                .map(|index| ShardShared::new(&config, index))
                .collect(),
            registry: Registry::new(config.shards),
            owner,
            shard_frames: frames / config.shards,
            config,
        }
    }

    #[inline]
    pub(crate) fn memory(&self) -> &FrameMemory {
        self.residency.heads()
    }

    pub(crate) fn cold(&self, frame: u32) -> &Cold {
        &self.cold[frame as usize]
    }

    pub(crate) fn shard(&self, index: u32) -> &ShardShared {
        &self.shards[index as usize]
    }

    /// The shard whose frame it is.
    pub(crate) fn shard_of_frame(&self, frame: u32) -> &ShardShared {
        self.shard(frame / self.shard_frames)
    }

    /// The pages of a volume that are in frames, as of the moment that each is looked at.
    pub(crate) fn pages_of(&self, volume: u32) -> impl Iterator<Item = (PageId, u32)> + '_ {
        (0..self.config.frames_all()).filter_map(move |frame| {
            let page = self.residency.page(frame)?;
            (page.volume() == volume).then_some((page, frame))
        })
    }

    /// The shard that reads and writes the page.
    pub(crate) fn shard_of_page(&self, page: PageId) -> &ShardShared {
        let index = self.owner.shard_of(page, self.config.shards);
        assert!(
            index < self.config.shards,
            "shard {index} of {} for {page}",
            self.config.shards
        );
        self.shard(index)
    }

    fn frame_of(&self, shard: &ShardShared, token: u32) -> u32 {
        // Acquire: partner is the release in `move_page`.
        self.frame_of_token[(shard.first + token) as usize].load(Ordering::Acquire)
    }

    fn token_of(&self, shard: &ShardShared, frame: u32) -> u32 {
        // Acquire, as above.
        self.token_of_frame[frame as usize].load(Ordering::Acquire) - shard.first
    }

    /// Notes a use, up to `most`. Lossy on purpose: no exchange, and nothing is written once enough uses are noted. Whether it
    /// is the first use of a page that was read ahead.
    #[inline]
    pub(crate) fn touch(&self, frame: u32, most: i8) -> bool {
        let used = &self.used[frame as usize];
        // Relaxed: a hint for eviction, nothing is read on the strength of it.
        let seen = used.load(Ordering::Relaxed);
        if seen < most {
            used.store(
                if seen < 0 { most.min(1) } else { seen + 1 },
                Ordering::Relaxed,
            );
            return seen < 0;
        }
        false
    }

    /// The clock of the frame's shard, as of its last turn.
    pub(crate) fn now_ns(&self, frame: u32) -> u64 {
        self.shard_of_frame(frame).now_ns.load(Ordering::Relaxed)
    }

    /// Has the shard look at what was put where it finds it. If it turns no more, whoever waits is told; whether it does.
    pub(crate) fn wake_shard(&self, shard: &ShardShared) -> bool {
        self.owner.wake_shard(shard.index);
        let over = self.owner.is_over(shard.index);
        if over {
            self.abandon(shard);
        }
        !over
    }

    /// The shard turns no more: what it was asked for fails, and who waits for a frame looks again.
    pub(crate) fn abandon(&self, shard: &ShardShared) {
        while let Some(frame) = shard.reads.pop() {
            if let Some(page) = self.residency.page(frame) {
                let _ = self.read_done(page, frame, Err(VolumeFault::Stopped));
            }
        }
        self.waiters.wake(self.frames_list(shard), News::Look, 0);
    }

    /// The list of those who wait for any frame of a shard.
    pub(crate) fn frames_list(&self, shard: &ShardShared) -> u32 {
        self.config.frames_all() + shard.index
    }

    /// Wakes who waits for the frame, with nothing to tell but that it should look again.
    pub(crate) fn wake(&self, frame: u32) {
        self.waiters.wake(frame, News::Look, 0);
    }

    /// A frame that holds nothing, from those that are free or by eviction.
    pub(crate) fn take_frame(&self, shard: &ShardShared) -> Option<u32> {
        let token = shard.free.pop().or_else(|| self.evict_some(shard))?;
        Some(self.frame_of(shard, token))
    }

    /// Evicts a few pages, so that the processor fetches what it needs for one while it is busy with another. One token is
    /// the caller's, the others are free.
    fn evict_some(&self, shard: &ShardShared) -> Option<u32> {
        let frames = ShardFrames { inner: self, shard };
        let mut candidates = [Candidate::default(); BATCH_MAX];
        let mut steps = STEPS_MAX;
        let mut got = None;
        while got.is_none() {
            let found = &mut candidates[..shard.batch];
            let count = shard.policy.candidates(&frames, found, &mut steps);
            if count == 0 {
                return None;
            }
            let found = &candidates[..count];
            if count > 1 {
                for candidate in found {
                    let frame = self.frame_of(shard, candidate.token);
                    self.residency.hint_frame(frame);
                    prefetch(&raw const self.token_of_frame[frame as usize]);
                    prefetch(&raw const self.cold[frame as usize]);
                }
                for candidate in found {
                    let frame = self.frame_of(shard, candidate.token);
                    // It may be another page by now; this is a hint.
                    if let Some(page) = self.residency.page(frame) {
                        let hash = page.hash();
                        self.residency.hint(hash);
                        self.residency.hint_latch(hash);
                        shard.policy.hint(hash);
                    }
                }
            }
            let mut evicted = 0;
            for candidate in found {
                match frames.evict(candidate.token) {
                    Attempt::InUse => shard.policy.keep(*candidate),
                    Attempt::Evicted(page) => {
                        if let Some(hash) = page {
                            evicted += 1;
                            shard.policy.gone(*candidate, hash);
                        }
                        if got.is_none() {
                            got = Some(candidate.token);
                        } else {
                            let pushed = shard.free.push(candidate.token);
                            assert!(pushed.is_ok(), "a token is in one queue at a time");
                        }
                    }
                }
            }
            shard.counts.evictions.add(evicted);
        }
        got
    }

    /// Puts a frame back that holds nothing.
    pub(crate) fn give_frame(&self, shard: &ShardShared, frame: u32) {
        let pushed = shard.free.push(self.token_of(shard, frame));
        assert!(pushed.is_ok(), "a token is in one queue at a time");
    }

    pub(crate) fn reserved(&self, shard: &ShardShared, reserve: Reserve) -> Option<u32> {
        let token = shard.reserves[reserve.index()].pop()?;
        Some(self.frame_of(shard, token))
    }

    pub(crate) fn give_reserved(&self, shard: &ShardShared, reserve: Reserve, frame: u32) {
        let pushed = shard.reserves[reserve.index()].push(self.token_of(shard, frame));
        assert!(pushed.is_ok(), "a token is in one queue at a time");
    }

    pub(crate) fn reserved_left(&self, shard: &ShardShared, reserve: Reserve) -> usize {
        shard.reserves[reserve.index()].len()
    }

    /// Finds a frame for the page and enters it, once whoever asks.
    pub(crate) fn ask(&self, page: PageId, purpose: Purpose) -> Asked {
        let hash = page.hash();
        if self.residency.locate(page, hash).is_some() {
            return Asked::Exists;
        }
        if let Err(why) = self.owner.admit(page) {
            return Asked::Refused(why);
        }
        let shard = self.shard_of_page(page);
        shard.policy.hint(hash);
        self.residency.hint_latch(hash);
        let reserve = || {
            let reserve = (purpose == Purpose::Recovery).then_some(Reserve::Recovery)?;
            self.reserved(shard, reserve)
        };
        let Some(frame) = self.take_frame(shard).or_else(reserve) else {
            shard.counts.no_frame.add(1);
            return Asked::NoFrame;
        };
        let ahead = purpose == Purpose::Ahead;
        self.used[frame as usize].store(if ahead { AHEAD } else { 0 }, Ordering::Relaxed);
        let cold = self.cold(frame);
        cold.epoch.store(0, Ordering::Relaxed);
        cold.image_under_way.store(false, Ordering::Relaxed);
        cold.write_error.store(0, Ordering::Relaxed);
        cold.not_before_ns.store(0, Ordering::Relaxed);
        match self
            .residency
            .install(page, hash, frame, purpose != Purpose::Create)
        {
            Ok(()) => {
                if let Err(why) = self.still_there(page, shard) {
                    self.withdraw(page, frame, News::Look);
                    return Asked::Refused(why);
                }
                let counts = &shard.counts;
                if ahead { &counts.ahead } else { &counts.misses }.add(1);
                Asked::Frame(frame)
            }
            Err(_) => {
                self.give_frame(shard, frame);
                Asked::Exists
            }
        }
    }

    /// Whether the page that was just entered still is this shard's: its volume may have been let go of, or be another one
    /// by now.
    fn still_there(&self, page: PageId, shard: &ShardShared) -> Result<(), Inadmissible> {
        // Partner: the fence of whoever lets a volume go, between closing it and looking for its pages. Either that look
        // sees the page, or this one sees it closed.
        fence(Ordering::SeqCst);
        self.owner.admit(page)?;
        if self.shard_of_page(page).index == shard.index {
            Ok(())
        } else {
            Err(Inadmissible::Unbound)
        }
    }

    /// Takes a page out again that could not be read; the frame is free.
    fn withdraw(&self, page: PageId, frame: u32, news: News) {
        let before = self.residency.withdraw(page.hash(), frame);
        if before.has(WAITERS) {
            self.waiters.wake(frame, news, page.to_bits());
        }
        self.give_frame(self.shard_of_frame(frame), frame);
    }

    /// As [`Self::ask`] for any thread: the shard is told to read.
    pub(crate) fn ask_shard(&self, page: PageId, purpose: Purpose) -> Asked {
        let asked = self.ask(page, purpose);
        if let Asked::Frame(frame) = asked {
            let shard = self.shard_of_frame(frame);
            let pushed = shard.reads.push(frame);
            assert!(pushed.is_ok(), "the queue has room for every frame");
            if !self.wake_shard(shard) {
                return Asked::Refused(Inadmissible::Stopped);
            }
        }
        asked
    }

    /// The end of a read: the page is checked and published, or withdrawn and those who wait are told why.
    pub(crate) fn read_done(
        &self,
        page: PageId,
        frame: u32,
        result: Result<(), VolumeFault>,
    ) -> Result<(), ReadError> {
        let shard = self.shard_of_frame(frame);
        let checked = result.map_err(ReadFault::Volume).and_then(|()| {
            // SAFETY: the frame is exclusive and being read into by the caller, who has finished.
            let bytes = unsafe { self.memory().bytes(frame) };
            self.owner.check(page, bytes).map_err(ReadFault::Check)
        });
        match checked {
            Ok(()) => {
                shard.counts.reads.add(1);
                shard.policy.admit(self.token_of(shard, frame), page.hash());
                if !self.owner.writable(page) {
                    // Nobody has the page yet.
                    self.residency.word(frame).change(0, READ_ONLY, false);
                }
                let before = self.residency.publish(frame);
                self.after_release(page, frame, before);
                Ok(())
            }
            Err(fault) => {
                shard.counts.read_errors.add(1);
                let news = match &fault {
                    ReadFault::Volume(fault) => News::Volume(fault.pack()),
                    ReadFault::Check(wrong) => News::Check(wrong.expected, wrong.found),
                };
                self.withdraw(page, frame, news);
                Err(ReadError { page, fault })
            }
        }
    }

    /// What a release leaves to do: wake, and remove the page if it was revoked.
    pub(crate) fn after_release(&self, page: PageId, frame: u32, before: Snapshot) {
        self.wake_after(page, frame, before.has(WAITERS), before);
        if before.has(REVOKED) {
            self.finish_revoke(page, frame);
        }
    }

    /// Wakes who waits for the frame. Whoever wanted a page that was revoked hears so, and does not ask for it anew.
    fn wake_after(&self, page: PageId, frame: u32, wake: bool, before: Snapshot) {
        if wake && before.has(REVOKED) {
            self.waiters.wake(frame, News::Revoked, page.to_bits());
        } else if wake {
            self.wake(frame);
        }
    }

    /// Gives a shared latch back.
    pub(crate) fn unshare(&self, page: PageId, frame: u32) {
        let (before, wake) = self.residency.unshare(frame);
        self.wake_after(page, frame, wake, before);
        if before.has(REVOKED) && before.shared() == 1 {
            self.finish_revoke(page, frame);
        }
    }

    /// Gives the exclusive latch back, and enters the page into its shard's order of dirty ones if it has changed.
    pub(crate) fn unexclude(&self, page: PageId, frame: u32, changed: bool) {
        if changed {
            let cold = self.cold(frame);
            let shard = self.shard_of_frame(frame);
            if !self.residency.word(frame).load().has(DIRTY) {
                // Relaxed: the release of the latch publishes it.
                let now = shard.now_ns.load(Ordering::Relaxed);
                cold.dirty_since_ns.store(now, Ordering::Relaxed);
            }
            let before = self.residency.unexclude(frame, true);
            self.now_dirty(frame, before);
            self.after_release(page, frame, before);
        } else {
            let before = self.residency.unexclude(frame, false);
            self.after_release(page, frame, before);
        }
    }

    /// The frame has become dirty: counted if it was not, and in the order if it is not there yet.
    pub(crate) fn now_dirty(&self, frame: u32, before: Snapshot) {
        let shard = self.shard_of_frame(frame);
        self.queue_dirty(shard, frame);
        if !before.has(DIRTY) {
            self.count_dirty(shard);
        }
    }

    /// One more dirty page. A shard that has slept since it wrote the last one, or that has to write early, is told.
    fn count_dirty(&self, shard: &ShardShared) {
        let before = shard.dirty_pages.fetch_add(1, Ordering::Relaxed);
        if before == 0 || before == u64::from(self.config.write_back.dirty_pages_max) {
            self.wake_shard(shard);
        }
    }

    fn queue_dirty(&self, shard: &ShardShared, frame: u32) {
        shard.entering.enter(&self.cold(frame).queued, || {
            let pushed = shard.dirty.push(frame);
            assert!(pushed.is_ok(), "a frame is in the order once");
        });
    }

    /// Somebody waits for the page to be written: it overtakes the order.
    pub(crate) fn hurry(&self, frame: u32) {
        let shard = self.shard_of_frame(frame);
        // AcqRel: partner is the swap of who takes it out again, before it looks at the page.
        if !self.cold(frame).hurried.swap(true, Ordering::AcqRel) {
            // A full queue holds enough to hurry; the caller asks again.
            let _ = shard.urgent.push(frame);
        }
        self.wake_shard(shard);
    }

    /// Removes a revoked page if this was its last use.
    pub(crate) fn finish_revoke(&self, page: PageId, frame: u32) -> Going {
        let going = self.residency.finish_revoke(page, page.hash(), frame);
        if let Going::Gone { wake } = going
            && let Some(frame) = wake
        {
            self.waiters.wake(frame, News::Revoked, page.to_bits());
        }
        going
    }

    /// The exclusive latch of a page whose bytes may be changed where they are. A page that is on its way to the volume
    /// moves to a reserved frame first; the bytes that are under way stay as they are.
    pub(crate) fn exclude(&self, page: PageId) -> Result<u32, Obstacle> {
        let (frame, seen) = self.residency.exclude(page, page.hash())?;
        if !seen.has(WRITING) {
            return Ok(frame);
        }
        let shard = self.shard_of_frame(frame);
        let Some(to) = self.reserved(shard, Reserve::WriteBack) else {
            self.unexclude(page, frame, false);
            return Err(Obstacle::Busy(frame, WRITING | EXCLUSIVE));
        };
        self.move_page(shard, page, frame, to);
        Ok(to)
    }

    fn move_page(&self, shard: &ShardShared, page: PageId, from: u32, to: u32) {
        self.memory().copy(from, to);
        let (old, new) = (self.cold(from), self.cold(to));
        let since = shard.now_ns.load(Ordering::Relaxed);
        new.dirty_since_ns.store(since, Ordering::Relaxed);
        new.not_before_ns.store(0, Ordering::Relaxed);
        new.write_error
            .store(old.write_error.load(Ordering::Relaxed), Ordering::Relaxed);
        new.image_under_way.store(true, Ordering::Relaxed);
        new.epoch
            .store(old.epoch.load(Ordering::Relaxed), Ordering::Relaxed);
        old.moved_to.store(to, Ordering::Relaxed);
        let token = |frame: u32| &self.token_of_frame[frame as usize];
        let tokens = [from, to].map(|frame| token(frame).load(Ordering::Acquire));
        // Release: partner are the acquires in `frame_of` and `token_of`. Whoever evicts compares both under the latch.
        for (number, frame) in [(tokens[0], to), (tokens[1], from)] {
            self.frame_of_token[number as usize].store(frame, Ordering::Release);
            token(frame).store(number, Ordering::Release);
        }
        let used = |frame: u32| &self.used[frame as usize];
        used(to).store(used(from).load(Ordering::Relaxed), Ordering::Relaxed);
        let seen = self.residency.relocate(page, page.hash(), from, to);
        shard.counts.moved.add(1);
        if seen.has(DIRTY) {
            // Its write failed while it was being moved.
            shard.dirty_pages.fetch_sub(1, Ordering::Relaxed);
        }
        self.queue_dirty(shard, to);
        self.count_dirty(shard);
        if !seen.has(WRITING) {
            new.image_under_way.store(false, Ordering::Relaxed);
            self.give_reserved(shard, Reserve::WriteBack, from);
        }
        self.wake(from);
    }

    pub(crate) fn register(&self, shard: u32) -> std::sync::Arc<HandleCounts> {
        self.registry.register(shard)
    }
}

/// What became of an attempt to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The frame is the caller's; the hash is that of the page that was in it, if there was one.
    Evicted(Option<u64>),
    /// Somebody needs it.
    InUse,
}

/// A shard's frames by token, for the policy.
struct ShardFrames<'c> {
    inner: &'c Inner,
    shard: &'c ShardShared,
}

impl Frames for ShardFrames<'_> {
    fn fade(&self, token: u32, all: bool) -> u8 {
        let frame = self.inner.frame_of(self.shard, token);
        let used = &self.inner.used[frame as usize];
        // Relaxed, and no exchange: as in `touch`.
        let seen = used.load(Ordering::Relaxed);
        if seen > 0 {
            used.store(if all { 0 } else { seen - 1 }, Ordering::Relaxed);
        }
        u8::try_from(seen).unwrap_or(0)
    }

    fn used(&self, token: u32) -> u8 {
        let frame = self.inner.frame_of(self.shard, token);
        let used = self.inner.used[frame as usize].load(Ordering::Relaxed);
        u8::try_from(used).unwrap_or(0)
    }
}

impl ShardFrames<'_> {
    /// Tries to empty the token's frame.
    fn evict(&self, token: u32) -> Attempt {
        let inner = self.inner;
        let frame = inner.frame_of(self.shard, token);
        match inner.residency.evict(frame) {
            Ok(evicted) => {
                if evicted.wake {
                    inner.wake(frame);
                }
                if let Some(page) = evicted.page {
                    inner.count_gone(self.shard, page, frame);
                }
                if inner.token_of(self.shard, frame) != token {
                    // The token's page had moved away, and this is another page's frame. It is left empty, for its own
                    // token to find.
                    let before = inner.residency.unexclude(frame, false);
                    if before.has(WAITERS) {
                        inner.wake(frame);
                    }
                    return Attempt::InUse;
                }
                Attempt::Evicted(evicted.page.map(PageId::hash))
            }
            Err(Kept::TableBusy { wake }) => {
                if wake {
                    inner.wake(frame);
                }
                Attempt::InUse
            }
            Err(Kept::InUse) => Attempt::InUse,
        }
    }
}

impl Inner {
    /// A page that was made, not read, comes into the policy's hands.
    pub(crate) fn admit(&self, page: PageId, frame: u32) {
        let shard = self.shard_of_frame(frame);
        shard.policy.admit(self.token_of(shard, frame), page.hash());
    }

    /// Gives a pin back.
    pub(crate) fn unpin(&self, page: PageId, hint: u32) {
        let (frame, before) = self.residency.unpin(hint, page, page.hash());
        if before.has(REVOKED) && before.pins() == 1 {
            self.finish_revoke(page, frame);
        }
    }
}

impl Inner {
    /// A frame that became dirty in the moment in which it left the order.
    pub(crate) fn queue_again(&self, frame: u32) {
        self.queue_dirty(self.shard_of_frame(frame), frame);
    }

    /// A page has made room; whoever evicts counts it.
    fn count_gone(&self, shard: &ShardShared, page: PageId, frame: u32) {
        if self.used[frame as usize].load(Ordering::Relaxed) == AHEAD {
            shard.counts.ahead_wasted.add(1);
        }
        // Relaxed, and a look only: the frame is claimed, and it was claimed with no write under way.
        if self.cold(frame).epoch.load(Ordering::Relaxed) != 0 {
            self.left(page, frame);
        }
    }
}
