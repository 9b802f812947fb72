//! A node's cache over a blade in memory: misses, write-back, flushes, read-ahead.

mod blade;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use blade::bed::{SOON, bed_with, eventually, pattern};
use blade::cached::{
    PAGE_BYTES, at, cached, change, checked, format, on_disk, page, settings, version_of, whole,
    with_cache,
};
use sandrail_memory::cache::{AccessError, Handle, Inadmissible, PageId, Refused, WriteBackConfig};
use sandrail_node::{CacheSettings, FlushError, Node, PageRules, ShardStat, Volume};
use sandrail_proto::aoe::initiator::Durability;
use sandrail_wire::Lba;

#[test]
fn what_is_written_through_the_cache_is_on_the_disk_after_a_flush() {
    for (shards, page_bytes) in [(1, 4096), (2, 4096), (2, 8192), (1, 16384)] {
        let settings = CacheSettings {
            page_bytes,
            ..settings(64)
        };
        let (bed, cache) = cached(shards, settings);
        let handle = cache.handle();
        // Twice the frames, over several stripes of 1 MiB.
        let data = pattern(7, 128 * page_bytes);
        for (number, bytes) in (200_u64..).zip(data.chunks(page_bytes)) {
            let mut latch = handle.exclusive(page(number)).wait().unwrap();
            latch.write(0, bytes);
        }
        assert_eq!(cache.flush_volume(1, SOON).unwrap(), Durability::Claimed);
        let sectors = page_bytes / 512;
        assert!(bed.blade.peek(200 * sectors, 128 * sectors) == data);
        assert_eq!(cache.dirty_pages(1), 0);
        for (number, bytes) in (200_u64..).zip(data.chunks(page_bytes)) {
            let latch = handle.shared(page(number)).wait().unwrap();
            assert!(latch.bytes() == bytes);
        }
        bed.node.shutdown(SOON).unwrap();
    }
}

fn stats(node: &Node) -> Vec<ShardStat> {
    node.stat().unwrap().shards
}

#[test]
fn however_many_threads_miss_a_page_it_is_one_request_and_one_copy() {
    let (bed, cache) = cached(2, checked(64));
    format(&bed.blade, 64);
    bed.blade.holding.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let handle = cache.handle();
            scope.spawn(move || {
                let latch = handle.shared(page(5)).wait().unwrap();
                version_of(5, latch.bytes());
            });
        }
        eventually("all of them wait", || {
            let waits = |stat: &ShardStat| stat.cache.unwrap().pages.waits;
            stats(&bed.node).iter().map(waits).sum::<u64>() >= 8
        });
        bed.blade.holding.store(false, Ordering::Relaxed);
        bed.blade.release();
    });
    let stat = stats(&bed.node)[0].cache.unwrap();
    assert_eq!((stat.read_requests, stat.pages.misses), (1, 1));
    assert_eq!(stat.copied_bytes, 4096, "one copy");
}

/// At an MTU of 9000, with nothing lost.
#[test]
fn a_page_is_one_frame_each_way_and_one_copy() {
    let (bed, cache) = cached(1, checked(256));
    format(&bed.blade, 200);
    let handle = cache.handle();
    let before = bed.blade.reads.load(Ordering::Relaxed);
    for number in 0..200 {
        version_of(number, handle.shared(page(number)).wait().unwrap().bytes());
    }
    let stat = &stats(&bed.node)[0];
    let counted = stat.cache.unwrap();
    assert_eq!(counted.read_requests, 200);
    assert_eq!(counted.copied_bytes, 200 * 4096);
    if stat.initiator.tx_copies == 0 {
        assert_eq!(bed.blade.reads.load(Ordering::Relaxed) - before, 200);
    }
}

fn add_one(handle: &Handle, number: u64) {
    let mut latch = handle.exclusive(page(number)).wait().unwrap();
    let version = version_of(number, latch.bytes()) + 1;
    latch.write(16, &version.to_le_bytes().repeat(PAGE_BYTES / 8 - 2));
}

#[test]
fn no_change_is_lost_while_two_threads_press_sixty_four_frames() {
    let (bed, cache) = cached(2, checked(64));
    const PAGES: u64 = 1000;
    format(&bed.blade, PAGES);
    let changes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (handle, changes) = (cache.handle(), &changes);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..3000 {
                    // Some are popular, so that they are changed while they are written.
                    let number = random.u64(0..PAGES).min(random.u64(0..PAGES));
                    if random.bool() {
                        add_one(&handle, number);
                        changes.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let latch = handle.shared(page(number)).wait().unwrap();
                        version_of(number, latch.bytes());
                    }
                }
            });
        }
    });
    cache.flush_volume(1, SOON).unwrap();
    let sum: u64 = (0..PAGES).map(|number| on_disk(&bed.blade, number)).sum();
    assert_eq!(sum, changes.load(Ordering::Relaxed));
    let evictions = |stat: &ShardStat| stat.cache.unwrap().pages.evictions;
    assert!(stats(&bed.node).iter().map(evictions).sum::<u64>() > 1000);
    bed.node.shutdown(SOON).unwrap();
    assert_eq!(bed.blade.bad.lock().unwrap().len(), 0);
}

/// Nothing is written on its own.
fn lazy(settings: CacheSettings) -> CacheSettings {
    CacheSettings {
        write_back: WriteBackConfig {
            dirty_age_ns_max: u64::MAX,
            dirty_pages_max: u32::MAX,
            ..WriteBackConfig::default()
        },
        ..settings
    }
}

#[test]
fn pages_go_out_in_the_order_in_which_they_became_dirty_and_neighbours_go_along() {
    let (bed, cache) = cached(1, lazy(checked(64)));
    format(&bed.blade, 64);
    let handle = cache.handle();
    // The one before and the one after go with page 11; two pages fit a frame.
    for number in [30, 11, 40, 12, 10, 30] {
        change(&handle, number, 1);
    }
    cache.flush_volume(1, SOON).unwrap();
    let written = bed.blade.written.lock().unwrap().clone();
    let pages = |from: u64, count: usize| (at(from), count * 8);
    assert_eq!(
        written,
        [pages(30, 1), pages(10, 2), pages(12, 1), pages(40, 1)]
    );
    let stat = stats(&bed.node)[0].cache.unwrap();
    assert_eq!((stat.write_requests, stat.pages.write_pages), (3, 5));
}

#[test]
fn dirty_pages_are_written_by_their_age_while_nobody_asks() {
    let old = |settings: CacheSettings| CacheSettings {
        write_back: WriteBackConfig {
            dirty_age_ns_max: 20_000_000,
            ..WriteBackConfig::default()
        },
        ..settings
    };
    let (bed, cache) = cached(2, old(checked(64)));
    format(&bed.blade, 1);
    let handle = cache.handle();
    for version in 1..5 {
        change(&handle, 0, version);
        eventually("it is written", || on_disk(&bed.blade, 0) == version);
        // The shard may be asleep by now, with nothing to wait for.
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[derive(Default)]
struct Gate(AtomicBool);

impl PageRules for Gate {
    fn may_write(&self, page: PageId, bytes: &[u8]) -> bool {
        assert_eq!((page.volume(), bytes.len()), (1, PAGE_BYTES));
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn nothing_leaves_while_the_log_says_no_and_the_flush_says_which() {
    let gate = Arc::new(Gate::default());
    let rules = Arc::clone(&gate);
    let (bed, cache) = cached(
        1,
        CacheSettings {
            rules,
            ..settings(64)
        },
    );
    let handle = cache.handle();
    for number in [3, 4] {
        let mut latch = handle.exclusive(page(number)).wait().unwrap();
        latch.write(0, b"new");
    }
    let error = cache
        .flush_volume(1, Duration::from_millis(100))
        .unwrap_err();
    assert!(
        matches!(error, FlushError::Timeout { pages: 2, one: Some(one) } if one == page(3)),
        "{error}"
    );
    assert_eq!(bed.blade.writes.load(Ordering::Relaxed), 0);
    gate.0.store(true, Ordering::Relaxed);
    cache.flush_volume(1, SOON).unwrap();
    assert_eq!(&bed.blade.peek(at(4), 1)[..3], b"new");
}

#[test]
fn a_scan_is_read_ahead_and_what_became_of_it_is_counted() {
    let (bed, cache) = cached(
        2,
        CacheSettings {
            ahead_pages_max: 16,
            ..checked(256)
        },
    );
    format(&bed.blade, 6100);
    let handle = cache.handle();
    for number in 0..600 {
        version_of(number, handle.shared(page(number)).wait().unwrap().bytes());
    }
    let sum = |what: fn(&ShardStat) -> u64| stats(&bed.node).iter().map(what).sum::<u64>();
    let used = sum(|stat| stat.cache.unwrap().pages.ahead_used);
    let misses = sum(|stat| stat.cache.unwrap().pages.misses);
    assert!(used >= 500, "{used} of 600 were there before, {misses} not");
    let asked = sum(|stat| stat.cache.unwrap().pages.ahead);
    assert!(asked <= used + 32, "{asked} asked for, {used} used");
    // What was read ahead and not used makes room like everything else.
    let other = cache.handle();
    other.expect_run(page(800));
    for number in (0..4000).step_by(7) {
        drop(other.shared(page(number + 2000)).wait().unwrap());
    }
    let wasted = sum(|stat| stat.cache.unwrap().pages.ahead_wasted);
    assert!((16..=48).contains(&wasted), "{wasted}");
}

struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_page_can_be_awaited_without_a_runtime() {
    let (bed, cache) = cached(1, checked(64));
    format(&bed.blade, 8);
    bed.blade.holding.store(true, Ordering::Relaxed);
    let handle = cache.handle();
    let bell = Arc::new(Bell(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(handle.shared(page(3)));
    assert!(future.as_mut().poll(&mut context).is_pending());
    eventually("the answer is held", || bed.blade.held() > 0);
    assert!(!bell.0.load(Ordering::Acquire));
    bed.blade.holding.store(false, Ordering::Relaxed);
    bed.blade.release();
    eventually("it is woken", || bell.0.load(Ordering::Acquire));
    let Poll::Ready(Ok(latch)) = future.poll(&mut context) else {
        panic!("it was woken for the page");
    };
    version_of(3, latch.bytes());
}

#[test]
fn a_page_that_is_taken_out_is_read_anew() {
    let (bed, cache) = cached(1, lazy(checked(64)));
    format(&bed.blade, 8);
    let handle = cache.handle();
    change(&handle, 2, 9);
    // No neighbour, which would be written along.
    change(&handle, 5, 9);
    // Changes are written first,
    assert!(cache.invalidate(page(2), false, SOON));
    assert_eq!(on_disk(&bed.blade, 2), 9);
    // or forgotten.
    assert!(cache.invalidate(page(5), true, SOON));
    assert_eq!(on_disk(&bed.blade, 5), 0);
    let read = |number| version_of(number, handle.shared(page(number)).wait().unwrap().bytes());
    assert_eq!((read(2), read(5)), (9, 0));
    let latch = handle.shared(page(2)).wait().unwrap();
    assert!(!cache.invalidate(page(2), false, Duration::from_millis(20)));
    assert!(latch.is_revoked());
    drop(latch);
    assert_eq!(handle.peek(page(2)).unwrap_err(), Refused::Absent);
}

#[test]
fn pages_of_no_volume_past_its_end_or_not_to_be_changed_are_refused_by_name() {
    let bed = bed_with(1, &with_cache(settings(64)));
    let cache = bed.node.cache().unwrap();
    let volume = Volume {
        sectors: 80,
        writable: false,
        first: Lba(800),
        ..whole(bed.target)
    };
    let handle = cache.handle();
    let why = |number| match handle.shared(page(number)).wait() {
        Err(AccessError::Inadmissible { page, why }) if page.number() == number => Some(why),
        _ => None,
    };
    assert_eq!(why(0), Some(Inadmissible::Unbound));
    cache.bind(volume).unwrap();
    assert_eq!(why(10), Some(Inadmissible::PastEnd { pages: 10 }));
    let error = handle.shared(page(10)).wait().unwrap_err();
    let words = "there is no page 10 of volume 1: the volume has 10 pages";
    assert_eq!(error.to_string(), words);
    assert_eq!(why(9), None);
    let error = handle.exclusive(page(9)).wait().unwrap_err();
    assert_eq!(error, AccessError::ReadOnly(page(9)));
    assert_eq!(handle.create(page(3)).unwrap_err(), Refused::ReadOnly);
    let stat = stats(&bed.node)[0].cache.unwrap();
    assert_eq!((stat.pages.misses, stat.read_requests), (1, 1));
    // The page is that of its volume, not of the target.
    bed.blade.poke(800 + 9 * 8, b"here");
    assert!(cache.invalidate(page(9), false, SOON));
    assert_eq!(
        &handle.shared(page(9)).wait().unwrap().bytes()[..4],
        b"here"
    );
}
