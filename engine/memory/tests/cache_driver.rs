//! What a driver with volumes of its own needs of the cache: pages under way in its hands, flushes of one volume, volumes that
//! take nothing or are let go of, read-ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use sandrail_memory::cache::{
    AccessError, Cache, CacheConfig, CacheShard, Eviction, Fetch, Inadmissible, Owner, PageId,
    ReadError, ReadFault, Refused, Revocation, ShardFetch, VolumeFault, WriteBackConfig,
    WriteError,
};
use sandrail_memory::{Arena, HugePages};

/// What the owner answers.
#[derive(Debug, Default)]
struct Answers {
    /// Writes of this volume may not begin.
    blocked: AtomicU32,
    /// This volume may not be changed.
    read_only: AtomicU32,
    /// There are so many pages, from a moment on after the first look.
    pages: AtomicU64,
    looks_left: AtomicU64,
    over: AtomicBool,
    wakes: AtomicU64,
    epoch: AtomicU32,
    gone: AtomicU64,
}

struct Volumes(Arc<Answers>);

impl Owner for Volumes {
    fn admit(&self, page: PageId) -> Result<(), Inadmissible> {
        let left = &self.0.looks_left;
        if left.load(Ordering::Relaxed) > 0 {
            left.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        let pages = self.0.pages.load(Ordering::Relaxed);
        if page.number() < pages {
            Ok(())
        } else {
            Err(Inadmissible::PastEnd { pages })
        }
    }

    fn writable(&self, page: PageId) -> bool {
        page.volume() != self.0.read_only.load(Ordering::Relaxed)
    }

    fn takes_writes(&self, page: PageId) -> bool {
        page.volume() != self.0.blocked.load(Ordering::Relaxed)
    }

    fn epoch(&self, _: PageId) -> u32 {
        self.0.epoch.load(Ordering::Relaxed)
    }

    fn gone_unflushed(&self, _: PageId, epoch: u32) {
        assert_eq!(epoch, self.0.epoch.load(Ordering::Relaxed));
        self.0.gone.fetch_add(1, Ordering::Relaxed);
    }

    fn wake_shard(&self, _: u32) {
        self.0.wakes.fetch_add(1, Ordering::Relaxed);
    }

    fn is_over(&self, _: u32) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }
}

struct Bed {
    cache: Cache,
    shard: CacheShard,
    answers: Arc<Answers>,
}

fn bed(frames: u32, ahead_pages_max: u32) -> Bed {
    let config = CacheConfig {
        eviction: Eviction::Clock,
        ahead_pages_max,
        write_back: WriteBackConfig {
            merge_pages_max: 1,
            dirty_age_ns_max: u64::MAX,
            dirty_pages_max: u32::MAX,
            burst_pages: 1 << 16,
            ..WriteBackConfig::default()
        },
        ..CacheConfig::new(frames)
    };
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).unwrap();
    let answers = Arc::new(Answers::default());
    answers.pages.store(u64::MAX, Ordering::Relaxed);
    answers.blocked.store(u32::MAX, Ordering::Relaxed);
    answers.read_only.store(u32::MAX, Ordering::Relaxed);
    let owner = Box::new(Volumes(Arc::clone(&answers)));
    let (cache, mut shards) = Cache::new(config, &mut arena, owner).unwrap();
    Bed {
        cache,
        shard: shards.pop().unwrap(),
        answers,
    }
}

fn page(volume: u32, number: u64) -> PageId {
    PageId::new(volume, number).unwrap()
}

impl Bed {
    /// Reads what was asked for; which pages these were.
    fn serve(&mut self) -> Vec<PageId> {
        let mut pages = Vec::new();
        while let Some(ticket) = self.shard.poll_read() {
            let mut read = self.shard.reading(ticket);
            pages.push(read.page());
            read.fill(0, &[1; 4096]);
            read.done(Ok(())).unwrap();
        }
        pages
    }

    fn resident(&mut self, page: PageId) {
        if let ShardFetch::Read(ticket) = self.shard.fetch(page) {
            self.shard.reading(ticket).done(Ok(())).unwrap();
        }
    }

    fn dirty(&mut self, page: PageId) {
        self.resident(page);
        self.cache
            .handle(0)
            .try_exclusive(page)
            .unwrap()
            .set_u64(0, 7);
    }

    /// Writes what is due; which pages these were.
    fn write(&mut self, now_ns: u64, result: Result<(), VolumeFault>) -> Vec<PageId> {
        self.shard.tick(now_ns);
        let mut pages = Vec::new();
        while let Some(ticket) = self.shard.poll_write(now_ns) {
            let write = self.shard.writing(ticket);
            pages.push(write.first());
            self.shard.written(write, result, now_ns);
        }
        pages
    }
}

#[test]
fn a_volume_that_takes_nothing_keeps_no_other_from_being_written() {
    let mut bed = bed(512, 0);
    for number in 0..300 {
        bed.dirty(page(1, number));
    }
    bed.dirty(page(2, 5));
    bed.answers.blocked.store(1, Ordering::Relaxed);
    bed.shard.flush();
    // Each call looks at some of them only.
    let mut written = Vec::new();
    for turn in 0..8 {
        written.extend(bed.write(turn, Ok(())));
    }
    assert_eq!(written, [page(2, 5)]);
    assert_eq!(bed.shard.stat().dirty_pages, 300);
    // A shard that waits for it sleeps in between.
    let next = bed.shard.poll_timeout().expect("it is looked at again");
    assert!(next >= 100_000, "{next}");
    bed.answers.blocked.store(u32::MAX, Ordering::Relaxed);
    let mut written = Vec::new();
    for turn in 1..20 {
        written.extend(bed.write(turn * 10_000_000, Ok(())));
    }
    written.sort_unstable();
    let all: Vec<PageId> = (0..300).map(|number| page(1, number)).collect();
    assert_eq!(written, all);
    assert_eq!(bed.shard.poll_timeout(), None, "nothing is left to do");
}

#[test]
fn a_flush_ends_when_its_volumes_pages_of_that_time_are_written() {
    let mut bed = bed(64, 0);
    bed.dirty(page(1, 1));
    bed.dirty(page(2, 1));
    bed.shard.tick(1);
    // One page is under way already, and is changed meanwhile: both images count.
    let all = bed.shard.flush_begin(2).unwrap();
    let ticket = bed.shard.poll_write(1).unwrap();
    let first = bed.shard.writing(ticket);
    assert_eq!(first.first(), page(1, 1), "the first in the order");
    bed.dirty(page(1, 1));
    let flush = bed.shard.flush_begin(1).unwrap();
    assert_eq!(bed.shard.flush_poll(flush), None);
    assert_eq!(bed.write(2, Ok(())), [page(2, 1)]);
    assert_eq!(bed.shard.flush_poll(all), Some(Ok(())));
    bed.shard.written(first, Ok(()), 3);
    assert_eq!(bed.shard.flush_poll(flush), None, "its newer image");
    // What becomes dirty after the flush began is not waited for.
    bed.answers.blocked.store(3, Ordering::Relaxed);
    bed.dirty(page(3, 1));
    assert_eq!(bed.write(4, Ok(())), [page(1, 1)]);
    assert_eq!(bed.shard.flush_poll(flush), Some(Ok(())));
    // A page that is forgotten is as good as written.
    let flush = bed.shard.flush_begin(3).unwrap();
    assert_eq!(bed.cache.revoke(page(3, 1), true), Revocation::Done);
    assert_eq!(bed.write(10_000_000, Ok(())), []);
    assert_eq!(bed.shard.flush_poll(flush), Some(Ok(())));
    let nothing = bed.shard.flush_begin(9).unwrap();
    assert_eq!(bed.shard.flush_poll(nothing), Some(Ok(())));
}

#[test]
fn a_flush_waits_for_what_is_under_way_already() {
    for result in [Ok(()), Err(VolumeFault::Timeout)] {
        let mut bed = bed(64, 0);
        bed.dirty(page(1, 1));
        bed.shard.flush();
        bed.shard.tick(1);
        let ticket = bed.shard.poll_write(1).unwrap();
        let write = bed.shard.writing(ticket);
        assert_eq!(bed.shard.stat().dirty_pages, 0);
        let flush = bed.shard.flush_begin(1).unwrap();
        assert_eq!(bed.shard.flush_poll(flush), None);
        bed.shard.written(write, result, 2);
        let page = page(1, 1);
        let told = result.map_err(|fault| WriteError { page, fault });
        assert_eq!(bed.shard.flush_poll(flush), Some(told));
    }
}

#[test]
fn a_flush_tells_of_its_first_error_and_can_be_given_up() {
    let mut bed = bed(64, 0);
    bed.dirty(page(1, 1));
    bed.dirty(page(1, 2));
    let flush = bed.shard.flush_begin(1).unwrap();
    assert_eq!(bed.write(1, Err(VolumeFault::Refused(6))).len(), 2);
    let error = WriteError {
        page: page(1, 1),
        fault: VolumeFault::Refused(6),
    };
    assert_eq!(bed.shard.flush_poll(flush), Some(Err(error)));
    bed.answers.blocked.store(1, Ordering::Relaxed);
    let flush = bed.shard.flush_begin(1).unwrap();
    bed.write(200_000_000, Ok(()));
    assert_eq!(bed.shard.flush_poll(flush), None);
    let (left, one) = bed.shard.flush_cancel(flush);
    assert_eq!(left, 2);
    assert!(one == Some(page(1, 1)) || one == Some(page(1, 2)));
    // Its place is free, and nothing of it is left: as many as there are places.
    for _ in 0..100 {
        let flush = bed.shard.flush_begin(1).unwrap();
        assert_eq!(bed.shard.flush_cancel(flush).0, 2);
    }
    let places: Vec<_> = (0..100).map_while(|_| bed.shard.flush_begin(2)).collect();
    assert!(places.len() > 8 && places.len() < 100, "{}", places.len());
}

#[test]
fn a_flush_does_not_wait_for_who_came_after_a_discarded_page() {
    let mut bed = bed(8, 0);
    bed.answers.blocked.store(1, Ordering::Relaxed);
    bed.dirty(page(1, 1));
    let flush = bed.shard.flush_begin(1).unwrap();
    assert_eq!(bed.cache.revoke(page(1, 1), true), Revocation::Done);
    // Its frame is another volume's now, which takes nothing, either.
    bed.answers.blocked.store(2, Ordering::Relaxed);
    for number in 0..8 {
        bed.dirty(page(2, number));
    }
    assert_eq!(bed.write(1, Ok(())), []);
    assert_eq!(bed.shard.flush_poll(flush), Some(Ok(())));
    // And the other volume's flush waits for all that is its own.
    let flush = bed.shard.flush_begin(2).unwrap();
    bed.answers.blocked.store(1, Ordering::Relaxed);
    assert_eq!(bed.shard.flush_poll(flush), None);
    assert_eq!(bed.write(10_000_000, Ok(())).len(), 8);
    assert_eq!(bed.shard.flush_poll(flush), Some(Ok(())));
}

#[test]
fn what_is_dropped_under_way_has_failed() {
    let mut bed = bed(64, 0);
    let handle = bed.cache.handle(0);
    assert_eq!(handle.fetch(page(1, 1)), Fetch::Asked);
    let waiting = std::thread::spawn({
        let handle = bed.cache.handle(0);
        move || handle.shared(page(1, 1)).wait().map(drop)
    });
    let waits = |bed: &Bed| bed.shard.stat().waits;
    while waits(&bed) == 0 {
        std::thread::yield_now();
    }
    let ticket = bed.shard.poll_read().unwrap();
    drop(bed.shard.reading(ticket));
    let (fault, page_1) = (ReadFault::Volume(VolumeFault::Stopped), page(1, 1));
    let error = ReadError {
        page: page_1,
        fault,
    };
    // Whoever came too late to hear of it asks anew.
    loop {
        if waiting.is_finished() {
            break;
        }
        if let Some(ticket) = bed.shard.poll_read() {
            drop(bed.shard.reading(ticket));
        }
        std::thread::yield_now();
    }
    assert_eq!(
        waiting.join().unwrap().unwrap_err(),
        AccessError::Read(error)
    );
    assert_eq!(handle.peek(page(1, 1)).unwrap_err(), Refused::Absent);

    bed.dirty(page(1, 2));
    bed.shard.flush();
    bed.shard.tick(1);
    let ticket = bed.shard.poll_write(1).unwrap();
    assert_eq!(bed.shard.stat().dirty_pages, 0);
    drop(bed.shard.writing(ticket));
    assert_eq!(bed.shard.stat().dirty_pages, 1);
    let fault = VolumeFault::Stopped;
    let page = page(1, 2);
    assert_eq!(
        bed.cache.write_error(page),
        Some(WriteError { page, fault })
    );
}

#[test]
fn a_shard_that_turns_no_more_leaves_nobody_waiting() {
    let mut bed = bed(8, 0);
    let handle = bed.cache.handle(0);
    assert_eq!(handle.fetch(page(1, 1)), Fetch::Asked);
    bed.answers.over.store(true, Ordering::Relaxed);
    bed.shard.abandon();
    assert_eq!(handle.peek(page(1, 1)).unwrap_err(), Refused::Absent);
    // Who asks after that is told as well, and does not ask for ever.
    let (asked, why) = (page(1, 2), Inadmissible::Stopped);
    assert_eq!(handle.fetch(asked), Fetch::Refused(why));
    let error = handle.shared(asked).wait().unwrap_err();
    assert_eq!(error, AccessError::Inadmissible { page: asked, why });
    // Also one who finds no frame.
    for number in 0..8 {
        bed.resident(page(2, number));
    }
    let pins: Vec<_> = (0..8)
        .map(|number| handle.try_pin(page(2, number)).unwrap())
        .collect();
    let error = handle.shared(asked).wait().unwrap_err();
    assert_eq!(error, AccessError::Inadmissible { page: asked, why });
    drop(pins);
}

#[test]
fn a_page_that_is_not_there_takes_no_frame_also_if_it_goes_while_it_is_entered() {
    let mut bed = bed(8, 0);
    bed.answers.pages.store(10, Ordering::Relaxed);
    let handle = bed.cache.handle(0);
    let why = Inadmissible::PastEnd { pages: 10 };
    assert_eq!(handle.fetch(page(1, 10)), Fetch::Refused(why));
    assert_eq!(
        handle.create(page(1, 10)).unwrap_err(),
        Refused::Inadmissible(why)
    );
    assert!(matches!(
        bed.shard.fetch(page(1, 10)),
        ShardFetch::Refused(_)
    ));
    // It was there at the first look.
    for number in 10..100 {
        bed.answers.looks_left.store(1, Ordering::Relaxed);
        assert_eq!(handle.fetch(page(1, number)), Fetch::Refused(why));
        assert_eq!(handle.peek(page(1, number)).unwrap_err(), Refused::Absent);
    }
    assert!(bed.shard.poll_read().is_none());
    for number in 0..8 {
        assert_eq!(handle.fetch(page(1, number)), Fetch::Asked, "all are free");
    }
    assert_eq!(bed.serve().len(), 8);
}

#[test]
fn pages_of_a_volume_that_may_not_be_changed_are_read_only() {
    let mut bed = bed(8, 0);
    bed.answers.read_only.store(4, Ordering::Relaxed);
    bed.resident(page(4, 1));
    bed.resident(page(5, 1));
    let handle = bed.cache.handle(0);
    assert!(handle.try_shared(page(4, 1)).is_ok());
    assert_eq!(
        handle.try_exclusive(page(4, 1)).unwrap_err(),
        Refused::ReadOnly
    );
    assert_eq!(handle.create(page(4, 2)).unwrap_err(), Refused::ReadOnly);
    // The frame's next page is not, because of it.
    for number in 2..40 {
        bed.dirty(page(5, number));
        bed.shard.flush();
        bed.write(number * 1_000_000_000, Ok(()));
    }
}

#[test]
fn the_first_change_wakes_the_shard_and_later_ones_do_not() {
    let mut bed = bed(64, 0);
    for number in 0..10 {
        bed.resident(page(1, number));
    }
    let handle = bed.cache.handle(0);
    let change = |number| {
        let before = bed.answers.wakes.load(Ordering::Relaxed);
        handle.try_exclusive(page(1, number)).unwrap().set_u64(0, 1);
        bed.answers.wakes.load(Ordering::Relaxed) - before
    };
    assert_eq!([change(0), change(1), change(0), change(2)], [1, 0, 0, 0]);
    assert!(bed.shard.is_called());
    bed.shard.flush();
    bed.shard.tick(1);
    while let Some(ticket) = bed.shard.poll_write(1) {
        bed.shard.write_done(ticket, Ok(()), 1);
    }
    assert!(!bed.shard.is_called());
    assert_eq!(change(3), 1);
}

#[test]
fn unflushed_pages_are_found_and_counted_when_they_go() {
    let mut bed = bed(64, 0);
    bed.answers.epoch.store(3, Ordering::Relaxed);
    for number in 0..8 {
        bed.dirty(page(1, number));
    }
    bed.dirty(page(2, 0));
    bed.shard.flush();
    assert_eq!(bed.write(1, Ok(())).len(), 9);
    let unflushed = |bed: &Bed, epoch| {
        let mut pages: Vec<u64> = bed.cache.unflushed(1, epoch).map(PageId::number).collect();
        pages.sort_unstable();
        pages
    };
    assert_eq!(unflushed(&bed, 2), (0..8).collect::<Vec<_>>());
    assert_eq!(unflushed(&bed, 3), [0; 0]);
    // One is revoked, one is revoked while it is being written, and some make room.
    assert_eq!(bed.cache.revoke(page(1, 0), false), Revocation::Done);
    assert_eq!(bed.answers.gone.load(Ordering::Relaxed), 1);
    bed.dirty(page(1, 1));
    assert_eq!(bed.cache.revoke(page(1, 1), false), Revocation::Pending);
    assert_eq!(
        bed.answers.gone.load(Ordering::Relaxed),
        2,
        "its older state"
    );
    assert_eq!(bed.write(2, Ok(())), [page(1, 1)]);
    assert_eq!(bed.answers.gone.load(Ordering::Relaxed), 3);
    for number in 0..200 {
        bed.resident(page(3, number));
    }
    assert_eq!(bed.answers.gone.load(Ordering::Relaxed), 3 + 6 + 1);
    assert_eq!(unflushed(&bed, 0), [0; 0]);
    assert_eq!(bed.cache.resident(1).pages, 0);
}

#[test]
fn a_run_is_asked_for_ahead_within_its_bound_and_a_stray_miss_is_not() {
    let mut bed = bed(256, 8);
    let handle = bed.cache.handle(0);
    let numbers = |pages: Vec<PageId>| pages.iter().map(|page| page.number()).collect::<Vec<_>>();
    let missed = |bed: &mut Bed, number| {
        let mut future = std::pin::pin!(handle.shared(page(1, number)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = std::future::Future::poll(future.as_mut(), &mut context);
        numbers(bed.serve())
    };
    assert_eq!(missed(&mut bed, 10), [10]);
    assert_eq!(missed(&mut bed, 50), [50]);
    assert_eq!(missed(&mut bed, 51), [51, 52, 53, 54, 55]);
    // The first use of the third of four: what is left of the window is behind half of it.
    let used = |bed: &mut Bed, number: u64| {
        handle
            .optimistic(page(1, number), |view| view.u64_at(0))
            .unwrap();
        numbers(bed.serve())
    };
    assert_eq!(used(&mut bed, 52), [0; 0]);
    assert_eq!(used(&mut bed, 53), [0; 0]);
    assert_eq!(used(&mut bed, 54), [56, 57, 58, 59, 60, 61, 62]);
    assert_eq!(used(&mut bed, 54), [0; 0], "only the first use");
    for number in 55..59 {
        assert_eq!(used(&mut bed, number), [0; 0]);
    }
    // Never more than eight ahead.
    assert_eq!(used(&mut bed, 59), [63, 64, 65, 66, 67]);
    let other = bed.cache.handle(0);
    other.expect_run(page(2, 100));
    assert_eq!(numbers(bed.serve()), (100..108).collect::<Vec<_>>());
    let stat = bed.shard.stat();
    assert_eq!((stat.ahead, stat.ahead_used, stat.misses), (24, 8, 3));
}
