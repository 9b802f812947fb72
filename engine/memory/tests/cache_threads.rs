//! Two threads on one cache, and threads that are stopped in the middle of what they do.

#[path = "cache/soak.rs"]
mod soak;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sandrail_memory::cache::{
    Cache, CacheConfig, CacheShard, Eviction, PageId, Refused, ShardFetch, Unchecked,
};
use sandrail_memory::{Arena, HugePages};
use soak::{Soak, run};

#[test]
fn a_million_operations_lose_tear_and_mix_up_nothing() {
    for (eviction, frames, seed) in [
        (Eviction::Clock, 48, 1),
        (Eviction::S3Fifo, 48, 2),
        (Eviction::S3Fifo, 24, 3),
        (Eviction::Clock, 100, 4),
    ] {
        let operations = 250_000;
        let mut told = 0;
        let soak = Soak {
            operations,
            pages: 250,
            frames,
            eviction,
            seed,
        };
        let totals = run(soak, &mut |so_far| told = so_far);
        assert!((1..=operations).contains(&told), "{told}");
        // It was not idle: pages came and went, were changed, moved and revoked.
        let stat = totals.stat;
        assert!(
            totals.changes > operations / 50
                && totals.reads > operations / 4
                && totals.revocations > 0
                && stat.evictions > 1000
                && stat.write_pages > 1000
                && stat.moved > 0
                && stat.write_errors > 0,
            "{totals:?}"
        );
    }
}

fn page(number: u64) -> PageId {
    PageId::new(0, number).unwrap()
}

fn make(frames: u32) -> (Cache, CacheShard) {
    let config = CacheConfig::new(frames);
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).unwrap();
    let (cache, mut shards) = Cache::new(config, &mut arena, Box::new(Unchecked)).unwrap();
    (cache, shards.pop().unwrap())
}

fn resident(shard: &mut CacheShard, number: u64) -> bool {
    match shard.fetch(page(number)) {
        ShardFetch::Read(mut ticket) => {
            shard.fill(&mut ticket, 0, &number.to_le_bytes().repeat(512));
            shard.read_done(ticket, Ok(())).is_ok()
        }
        ShardFetch::Resident => true,
        ShardFetch::NoFrame | ShardFetch::Refused(_) => false,
    }
}

/// Runs `work` while another thread is stopped inside of `stopped`, which is given what stops it.
fn while_stopped(
    cache: &Cache,
    stopped: impl FnOnce(&Cache, &dyn Fn()) + Send,
    work: impl FnOnce(),
) {
    let (inside, is_inside) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            stopped(cache, &|| {
                inside.send(()).unwrap();
                may_go.recv().unwrap();
            });
        });
        is_inside
            .recv_timeout(Duration::from_secs(60))
            .expect("it gets there");
        work();
        go.send(()).unwrap();
        thread.join().unwrap();
    });
}

/// Readers go on and frames are evicted, the stopped one's included or not.
fn others_go_on(cache: &Cache, shard: &mut CacheShard, stays: bool) {
    let handle = cache.handle(0);
    let begin = Instant::now();
    for round in 0..1000 {
        assert_eq!(handle.optimistic(page(0), |view| view.u64_at(5)), Ok(0));
        let guard = handle.try_shared(page(0)).expect("readers share");
        drop(guard);
        assert!(resident(shard, 100 + round), "a frame can be had");
    }
    assert!(shard.stat().evictions >= 900);
    // Everything but the stopped reader's page can go; under a latch that page can't.
    for number in 10_000..13_000 {
        assert!(resident(shard, number));
    }
    let there = handle.optimistic(page(0), |_| ()) != Err(Refused::Absent);
    assert!(there || !stays, "a latched page was evicted");
    assert!(begin.elapsed() < Duration::from_secs(30), "somebody waited");
}

#[test]
fn a_reader_stopped_in_an_optimistic_read_stops_nobody_and_notices() {
    let (cache, mut shard) = make(16);
    assert!(resident(&mut shard, 0));
    while_stopped(
        &cache,
        |cache, stop| {
            let handle = cache.handle(0);
            let mut seen = Vec::new();
            let result = handle.optimistic(page(0), |view| {
                let before = view.u64_at(1);
                if seen.is_empty() {
                    stop();
                }
                seen.push((before, view.u64_at(2)));
                seen.len()
            });
            // It went on over another page's bytes, or its own; what counts is that it knows.
            match result {
                Err(Refused::Absent) => assert!(seen.len() == 1),
                Ok(tries) => assert!(tries > 1 || seen == [(0, 0)]),
                Err(other) => panic!("{other}"),
            }
        },
        || {
            others_go_on(&cache, &mut shard, false);
            // Its page itself can go, and its frame be used again.
            let handle = cache.handle(0);
            for number in 20_000..30_000 {
                assert!(resident(&mut shard, number));
                if handle.optimistic(page(0), |_| ()).is_err() {
                    return;
                }
            }
            let _ = cache.revoke(page(0), false);
        },
    );
}

#[test]
fn a_reader_stopped_under_a_shared_latch_stops_no_other_reader_and_keeps_its_page() {
    let (cache, mut shard) = make(16);
    assert!(resident(&mut shard, 0));
    while_stopped(
        &cache,
        |cache, stop| {
            let handle = cache.handle(0);
            let guard = handle.try_shared(page(0)).unwrap();
            stop();
            assert!(guard.bytes().iter().all(|byte| *byte == 0));
        },
        || others_go_on(&cache, &mut shard, true),
    );
}

#[test]
fn one_stopped_under_the_exclusive_latch_stops_its_own_page_only() {
    let (cache, mut shard) = make(16);
    assert!(resident(&mut shard, 0));
    while_stopped(
        &cache,
        |cache, stop| {
            let handle = cache.handle(0);
            let _guard = handle.try_exclusive(page(0)).unwrap();
            stop();
        },
        || {
            let handle = cache.handle(0);
            assert_eq!(handle.optimistic(page(0), |_| ()), Err(Refused::Busy));
            assert!((100..2000).all(|number| resident(&mut shard, number)));
        },
    );
}
