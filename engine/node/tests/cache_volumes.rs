//! Volumes of a node's cache: bound, let go of, and the node's end.

mod blade;

use std::sync::atomic::Ordering;
use std::time::Duration;

use blade::bed::{SECTORS, SOON, bed_with, config, eventually};
use blade::cached::{
    at, cached, change, checked, format, on_disk, page, settings, version_of, whole, with_cache,
};
use sandrail_memory::cache::{AccessError, Inadmissible, ReadFault, Reserves, VolumeFault};
use sandrail_memory::{ArenaOptions, HugePages};
use sandrail_node::{
    BindError, CacheSettings, FlushError, Node, NodeConfig, NodeError, TargetHandle, Unbind,
    UnbindError, Volume,
};
use sandrail_proto::aoe::initiator::PinnedMacs;
use sandrail_wire::Lba;

#[test]
fn settings_that_can_not_be_are_refused_by_name() {
    let base = || settings(64);
    let cases: Vec<(&str, CacheSettings)> = vec![
        (
            "cache.page_bytes",
            CacheSettings {
                page_bytes: 2048,
                ..base()
            },
        ),
        ("cache.frames", settings(63)),
        ("cache.frames", settings(0)),
        (
            "cache.reserve.log",
            CacheSettings {
                reserve: Reserves {
                    log: 1 << 20,
                    write_back: 1,
                    recovery: 1,
                },
                ..base()
            },
        ),
        (
            "cache.ahead_pages_max",
            CacheSettings {
                ahead_pages_max: 9,
                ..base()
            },
        ),
        (
            "cache.volumes_max",
            CacheSettings {
                volumes_max: 0,
                ..base()
            },
        ),
        (
            "cache.writes_under_way_max",
            CacheSettings {
                writes_under_way_max: 0,
                ..base()
            },
        ),
        (
            "cache.reads_under_way_max",
            CacheSettings {
                reads_under_way_max: 0,
                ..base()
            },
        ),
        (
            "cache.waiters_max",
            CacheSettings {
                waiters_max: 0,
                ..base()
            },
        ),
        (
            "cache.request_timeout",
            CacheSettings {
                request_timeout: Duration::from_millis(300),
                ..base()
            },
        ),
        ("cache.write_back.merge_pages_max", {
            let mut wrong = base();
            wrong.write_back.merge_pages_max = 17;
            wrong
        }),
        ("cache.write_back.pages_per_s", {
            let mut wrong = base();
            wrong.write_back.pages_per_s = 0;
            wrong
        }),
    ];
    for (name, wrong) in cases {
        let error = with_cache(wrong).check(2).unwrap_err();
        assert_eq!(error.setting, name, "{error}");
    }
    let crossing = NodeConfig {
        stripe_sectors: 12,
        ..with_cache(base())
    };
    let error = crossing.check(1).unwrap_err();
    assert_eq!(error.setting, "stripe_sectors");
    let words = "stripe_sectors: 12 is not a multiple of a page's 8 sectors";
    assert_eq!(error.to_string(), words);
    with_cache(base()).check(2).unwrap();
}

#[test]
fn the_memory_is_told_and_an_arena_that_can_not_be_had_is_an_error() {
    let (bed, cache) = cached(1, settings(64));
    let told = bed.node.stat().unwrap().cache.unwrap();
    assert_eq!(&told, cache.memory());
    assert_eq!((told.page_bytes, told.frames), (4096, 64));
    assert!(told.arena_bytes >= 64 * 4096);
    // More hugepages than the machine has.
    let impossible = CacheSettings {
        arena: ArenaOptions {
            huge: HugePages::Require,
            ..ArenaOptions::default()
        },
        ..settings(1 << 28)
    };
    let refused = Node::start(
        &with_cache(impossible),
        vec![vec![blade::Blade::new(8).link()]],
    );
    let error = refused.unwrap_err();
    assert!(matches!(error, NodeError::Arena(_)), "{error}");
    assert!(error.to_string().contains("2 MiB pages"), "{error}");
    assert!(bed_with(1, &config()).node.cache().is_none());
}

#[test]
fn a_volume_is_checked_before_it_is_bound() {
    let (bed, cache) = cached(2, settings(64));
    let device_sectors = u64::try_from(SECTORS).unwrap();
    assert_eq!(cache.bind(whole(bed.target)), Err(BindError::InUse(1)));
    let other = |first: u64, sectors: u64| Volume {
        number: 2,
        first: Lba(first),
        sectors,
        ..whole(bed.target)
    };
    assert_eq!(cache.bind(other(0, 8)), Err(BindError::Overlaps(1)));
    for (first, sectors) in [(4, 8), (0, 12), (0, 0)] {
        let wanted = BindError::Pages {
            first,
            sectors,
            page_sectors: 8,
        };
        assert_eq!(cache.bind(other(first, sectors)), Err(wanted));
    }
    for (first, sectors) in [(device_sectors, 8), (0, device_sectors + 8), (8, !7)] {
        let wanted = BindError::PastEnd {
            first,
            sectors,
            device_sectors,
        };
        assert_eq!(cache.bind(other(first, sectors)), Err(wanted));
    }
    let beyond = Volume {
        number: 64,
        ..other(0, 8)
    };
    let (number, count) = (64, 64);
    assert_eq!(cache.bind(beyond), Err(BindError::Number { number, count }));
    assert!(matches!(
        bed.node.detach(bed.target),
        Err(NodeError::Bound(1))
    ));
    assert_eq!(cache.volumes(), [whole(bed.target)]);
    cache.unbind(1, Unbind::Refuse, SOON).unwrap();
    assert_eq!(cache.volumes(), []);
    bed.node.detach(bed.target).unwrap();
    assert_eq!(cache.bind(whole(bed.target)), Err(BindError::NoTarget));
    assert!(matches!(
        cache.flush_volume(1, SOON),
        Err(FlushError::Unbound(1))
    ));
    assert!(matches!(
        cache.unbind(1, Unbind::Discard, SOON),
        Err(UnbindError::Unbound(1))
    ));
}

/// The first pages, or those from page 100 on.
fn part(target: TargetHandle, first_page: u64) -> Volume {
    Volume {
        first: Lba(first_page * 8),
        sectors: 80,
        ..whole(target)
    }
}

#[test]
fn letting_a_volume_go_keeps_flushes_or_forgets_its_changes() {
    let bed = bed_with(1, &with_cache(checked(64)));
    let cache = bed.node.cache().unwrap();
    format(&bed.blade, 200);
    let handle = cache.handle();
    let read = |number| version_of(number, handle.shared(page(number)).wait().unwrap().bytes());
    cache.bind(part(bed.target, 0)).unwrap();
    change(&handle, 3, 7);
    let error = cache.unbind(1, Unbind::Refuse, SOON).unwrap_err();
    assert!(
        matches!(error, UnbindError::Dirty { pages: 1, one } if one == Some(page(3))),
        "{error}"
    );
    assert_eq!(read(3), 7, "as it was");
    cache.unbind(1, Unbind::Flush, SOON).unwrap();
    assert_eq!(on_disk(&bed.blade, 3), 7);
    let gone = handle.shared(page(3)).wait().unwrap_err();
    let why = Inadmissible::Unbound;
    assert_eq!(gone, AccessError::Inadmissible { page: page(3), why });
    // The number is free for other sectors, and nothing of the former ones is left.
    bed.blade.poke(at(103), &blade::cached::content(3, 50));
    cache.bind(part(bed.target, 100)).unwrap();
    assert_eq!(read(3), 50);
    change(&handle, 3, 51);
    cache.unbind(1, Unbind::Discard, SOON).unwrap();
    cache.bind(part(bed.target, 100)).unwrap();
    assert_eq!(read(3), 50);
    // Somebody has a page: it is closed, and free when he has let go.
    let latch = handle.shared(page(3)).wait().unwrap();
    let error = cache
        .unbind(1, Unbind::Flush, Duration::from_millis(30))
        .unwrap_err();
    assert!(
        matches!(
            error,
            UnbindError::Held {
                pages: 1,
                error: None
            }
        ),
        "{error}"
    );
    assert_eq!(cache.bind(part(bed.target, 0)), Err(BindError::InUse(1)));
    assert!(latch.is_revoked());
    drop(latch);
    cache.unbind(1, Unbind::Flush, SOON).unwrap();
    cache.bind(part(bed.target, 0)).unwrap();
    assert_eq!(read(3), 7);
}

#[test]
fn a_volume_may_go_while_others_ask_for_its_pages() {
    let bed = bed_with(2, &with_cache(checked(64)));
    let cache = bed.node.cache().unwrap();
    format(&bed.blade, 4000);
    // Page 3 of the second stretch says so.
    for number in 0..10 {
        let bytes = blade::cached::content(number, 1000 + number);
        bed.blade.poke(at(3000 + number), &bytes);
    }
    let rounds = 150;
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (handle, over) = (cache.handle(), &over);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut seen = [0; 2];
                while !over.load(Ordering::Relaxed) {
                    let number = random.u64(0..10);
                    match handle.shared(page(number)).wait() {
                        Ok(latch) => {
                            let version = version_of(number, latch.bytes());
                            assert!(version == 0 || version == 1000 + number);
                            seen[usize::from(version > 0)] += 1;
                        }
                        Err(
                            AccessError::Inadmissible {
                                why: Inadmissible::Unbound,
                                ..
                            }
                            | AccessError::Revoked(_),
                        ) => std::thread::yield_now(),
                        Err(other) => panic!("{other}"),
                    }
                }
                assert!(seen[0] + seen[1] > 0, "{seen:?}");
            });
        }
        let checker = cache.handle();
        for round in 0..rounds {
            let first = if round % 2 == 0 { 0 } else { 3000 };
            cache.bind(part(bed.target, first)).unwrap();
            // A page of the former binding would say so.
            for number in 0..10 {
                let latch = checker.shared(page(number)).wait().unwrap();
                let version = version_of(number, latch.bytes());
                let wanted = if round % 2 == 0 { 0 } else { 1000 + number };
                assert_eq!(version, wanted, "round {round}");
            }
            cache.unbind(1, Unbind::Refuse, SOON).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_shutdown_writes_what_is_dirty_and_flushes() {
    let (bed, cache) = cached(2, checked(64));
    format(&bed.blade, 400);
    let handle = cache.handle();
    for number in 200..300 {
        change(&handle, number, 5);
    }
    let flushes = bed.blade.flushes.load(Ordering::Relaxed);
    bed.node.shutdown(SOON).unwrap();
    for number in 200..300 {
        assert_eq!(on_disk(&bed.blade, number), 5);
    }
    assert!(bed.blade.flushes.load(Ordering::Relaxed) > flushes);
    // Hits go on; nothing else does.
    version_of(299, handle.shared(page(299)).wait().unwrap().bytes());
    let why = Inadmissible::Stopped;
    let error = handle.shared(page(0)).wait().unwrap_err();
    assert_eq!(error, AccessError::Inadmissible { page: page(0), why });
}

#[test]
fn a_shutdown_that_can_not_write_says_what_is_lost() {
    let (bed, cache) = cached(1, checked(64));
    format(&bed.blade, 8);
    let handle = cache.handle();
    change(&handle, 1, 5);
    change(&handle, 2, 5);
    bed.blade.silent.store(true, Ordering::Relaxed);
    let error = bed.node.shutdown(Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.dirty_pages, 2, "{error}");
    assert_eq!(error.unflushed.len(), 1, "{error}");
    let words = error.to_string();
    assert!(
        words.contains("2 changed pages were not written"),
        "{words}"
    );
    assert!(words.contains("volume 1"), "{words}");
}

#[test]
fn a_shutdown_names_what_was_written_and_not_flushed() {
    let mut settings = checked(64);
    settings.write_back.dirty_age_ns_max = 1_000_000;
    let (bed, cache) = cached(1, settings);
    format(&bed.blade, 8);
    let handle = cache.handle();
    change(&handle, 1, 5);
    eventually("it is written", || cache.dirty_pages(1) == 0);
    let error = bed.node.shutdown(Duration::ZERO).unwrap_err();
    assert_eq!(error.dirty_pages, 0, "{error}");
    let told: Vec<u32> = error.unflushed.iter().map(|(number, _)| *number).collect();
    assert_eq!(told, [1], "{error}");
}

#[test]
fn who_waits_for_a_page_when_the_node_ends_hears_of_it() {
    let (bed, cache) = cached(1, checked(64));
    format(&bed.blade, 64);
    bed.blade.silent.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|number| {
                let handle = cache.handle();
                scope.spawn(move || handle.shared(page(number)).wait().map(drop))
            })
            .collect();
        eventually("they are asked for", || {
            let stat = bed.node.stat().unwrap();
            stat.shards[0].cache.unwrap().read_requests == 4
        });
        let error = bed.node.shutdown(Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.open_requests, 4);
        for thread in waiting {
            let error = thread.join().unwrap().unwrap_err();
            let stopped = matches!(
                error,
                AccessError::Read(error)
                    if error.fault == ReadFault::Volume(VolumeFault::Stopped)
            ) || matches!(error, AccessError::Inadmissible { .. });
            assert!(stopped, "{error}");
        }
    });
}

#[test]
fn a_shard_that_panics_leaves_nobody_waiting() {
    let (bed, cache) = cached(2, checked(64));
    format(&bed.blade, 1024);
    let handle = cache.handle();
    version_of(1, handle.shared(page(1)).wait().unwrap().bytes());
    bed.blade.silent.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let other = cache.handle();
        let waiting = scope.spawn(move || other.shared(page(2)).wait().map(drop));
        eventually("it is asked for", || {
            let stat = bed.node.stat().unwrap();
            stat.shards[0].cache.unwrap().read_requests == 2
        });
        // The link of shard 0.
        bed.blade.panic_in_link.store(1, Ordering::Relaxed);
        waiting.join().unwrap().unwrap_err();
    });
    // Its pages can't be had any more, those that are there can; and the other shard goes on.
    let (asked, why) = (page(3), Inadmissible::Stopped);
    let error = handle.shared(asked).wait().unwrap_err();
    assert_eq!(error, AccessError::Inadmissible { page: asked, why });
    version_of(1, handle.shared(page(1)).wait().unwrap().bytes());
    bed.blade.silent.store(false, Ordering::Relaxed);
    version_of(256, handle.shared(page(256)).wait().unwrap().bytes());
    let error = bed.node.shutdown(SOON).unwrap_err();
    assert_eq!(error.silent, [0]);
}

#[test]
fn clients_and_the_cache_share_a_target() {
    let (bed, cache) = cached(2, settings(64));
    let again = bed
        .node
        .attach(blade::ADDR, PinnedMacs::first_to_answer(), SOON);
    assert!(again.is_err(), "one handle a target");
    let mut client = bed.node.client(8).unwrap();
    let handle = cache.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let data = vec![9; 1 << 20];
            for _ in 0..10 {
                client.write(bed.target, Lba(32_768), &data).unwrap();
            }
        });
        for number in 0..500 {
            let mut latch = handle.exclusive(page(number)).wait().unwrap();
            latch.write(0, &[7; 4096]);
        }
    });
    cache.flush_volume(1, SOON).unwrap();
    assert!(bed.blade.peek(0, 4000).iter().all(|byte| *byte == 7));
    assert!(bed.blade.peek(32_768, 2048).iter().all(|byte| *byte == 9));
}
