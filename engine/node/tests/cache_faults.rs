//! A node's cache when the network, the disk or the target fails.

mod blade;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blade::bed::{SECTORS, SOON, eventually};
use blade::cached::{
    CHECKSUM, PAGE_BYTES, at, cached, change, checked, content, format, on_disk, page, settings,
    version_of, whole, with_cache,
};
use blade::{ADDR, Blade};
use sandrail_link::fault::{FaultLink, FaultPlan};
use sandrail_memory::cache::{
    AccessError, Mismatch, PageId, ReadError, ReadFault, Refused, VolumeFault, WriteBackConfig,
    WriteError,
};
use sandrail_node::{
    CacheSettings, FlushError, Node, NodeCache, TargetHandle, Unbind, UnbindError, Volume,
};
use sandrail_proto::aoe::initiator::{Durability, PinnedMacs, RestartEvidence};
use sandrail_wire::Lba;

/// The disk's error, as it stands in ATA's registers.
const UNREADABLE: VolumeFault = VolumeFault::Disk {
    status: 0x41,
    error: 0x40,
};

/// Failed writes are tried again soon.
fn hasty(settings: CacheSettings) -> CacheSettings {
    CacheSettings {
        write_back: WriteBackConfig {
            retry_ns: 5_000_000,
            ..WriteBackConfig::default()
        },
        ..settings
    }
}

#[test]
fn a_page_that_can_not_be_read_is_told_by_name_and_the_others_go_on() {
    let (bed, cache) = cached(2, checked(64));
    format(&bed.blade, 512);
    bed.blade.bad.lock().unwrap().insert(at(7) + 3);
    let handle = cache.handle();
    let error = handle.shared(page(7)).wait().unwrap_err();
    let (fault, page_7) = (ReadFault::Volume(UNREADABLE), page(7));
    assert_eq!(
        error,
        AccessError::Read(ReadError {
            page: page_7,
            fault
        })
    );
    assert_eq!(
        error.to_string(),
        "page 7 of volume 1 can't be read: the disk's error: status 0x41, error 0x40"
    );
    for number in [6, 8, 300] {
        version_of(number, handle.shared(page(number)).wait().unwrap().bytes());
    }
    assert_eq!(handle.peek(page(7)).unwrap_err(), Refused::Absent);
    let stat = bed.node.stat().unwrap().shards[0].cache.unwrap();
    // Who comes to wait only after the answer asks anew, and is told the same.
    assert!(stat.pages.read_errors >= 1);
    bed.blade.bad.lock().unwrap().clear();
    version_of(7, handle.shared(page(7)).wait().unwrap().bytes());
}

#[test]
fn a_page_whose_checksum_is_wrong_is_never_served() {
    let (bed, cache) = cached(1, checked(64));
    format(&bed.blade, 16);
    let mut bytes = content(5, 3);
    let good = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    bytes[2000] ^= 1;
    bed.blade.poke(at(5), &bytes);
    let wrong = ReadFault::Check(Mismatch {
        expected: good,
        found: CHECKSUM.compute(&bytes),
    });
    let handles: Vec<_> = (0..4).map(|_| cache.handle()).collect();
    std::thread::scope(|scope| {
        for handle in handles {
            scope.spawn(move || {
                for _ in 0..50 {
                    let error = handle.shared(page(5)).wait().unwrap_err();
                    let AccessError::Read(error) = error else {
                        panic!("{error}");
                    };
                    assert_eq!((error.page, error.fault), (page(5), wrong));
                    let unserved = handle.optimistic(page(5), |view| view.u64_at(1));
                    assert!(matches!(unserved, Err(Refused::Absent | Refused::Busy)));
                }
            });
        }
    });
    bed.blade.poke(at(5), &content(5, 4));
    let handle = cache.handle();
    let latch = handle.shared(page(5)).wait().unwrap();
    assert_eq!(version_of(5, latch.bytes()), 4);
}

#[test]
fn a_page_that_can_not_be_written_stays_and_is_told_by_name() {
    let (bed, cache) = cached(1, hasty(checked(64)));
    format(&bed.blade, 64);
    let handle = cache.handle();
    for number in [3, 20] {
        change(&handle, number, 8);
    }
    bed.blade.bad.lock().unwrap().insert(at(3));
    let wanted = WriteError {
        page: page(3),
        fault: UNREADABLE,
    };
    let error = cache.flush_volume(1, SOON).unwrap_err();
    assert!(
        matches!(error, FlushError::Write(error) if error == wanted),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "page 3 of volume 1 can't be written: the disk's error: status 0x41, error 0x40"
    );
    assert_eq!(cache.next_error(), Some(wanted));
    assert_eq!(cache.write_error(page(3)), Some(wanted));
    // The other one has gone, and this one is as it was.
    assert_eq!(on_disk(&bed.blade, 20), 8);
    let latch = handle.shared(page(3)).wait().unwrap();
    assert_eq!(version_of(3, latch.bytes()), 8);
    drop(latch);
    bed.blade.bad.lock().unwrap().clear();
    cache.flush_volume(1, SOON).unwrap();
    assert_eq!(on_disk(&bed.blade, 3), 8);
    assert_eq!(cache.write_error(page(3)), None);
}

#[test]
fn a_silent_target_is_told_and_its_pages_go_when_it_is_back() {
    let mut settings = hasty(checked(64));
    settings.request_timeout = Duration::from_millis(400);
    let (bed, cache) = cached(1, settings);
    format(&bed.blade, 64);
    let handle = cache.handle();
    change(&handle, 9, 1);
    bed.blade.silent.store(true, Ordering::Relaxed);
    let error = cache.flush_volume(1, SOON).unwrap_err();
    assert!(
        matches!(error, FlushError::Write(error) if error.fault == VolumeFault::Timeout),
        "{error}"
    );
    let error = handle.shared(page(10)).wait().unwrap_err();
    let timeout = "page 10 of volume 1 can't be read: no answer in time";
    assert_eq!(error.to_string(), timeout);
    bed.blade.silent.store(false, Ordering::Relaxed);
    // A silence may hide a restart, but nothing had been written that could be lost.
    eventually("it is written", || match cache.flush_volume(1, SOON) {
        Ok(_) => true,
        Err(FlushError::Write(_)) => false,
        Err(FlushError::Lost(_)) => {
            bed.node.accept_loss(bed.target).unwrap();
            cache.rewrite_unflushed(1).unwrap();
            false
        }
        Err(other) => panic!("{other}"),
    });
    assert_eq!(on_disk(&bed.blade, 9), 1);
}

#[test]
fn nothing_is_lost_or_torn_over_a_network_that_loses_and_repeats() {
    let blade = Blade::new(SECTORS);
    let links = (0..2)
        .map(|seed| {
            let mut plan = FaultPlan::new(seed).with_rates(0.02, 0.03, 0.03);
            // This target carries out every WRITE it gets, and a copy that the network makes is in nobody's account: without
            // sessions (S6) it may arrive after the page's next WRITE.
            plan.transmit.duplicate = 0.0;
            vec![FaultLink::new(blade.link(), plan)]
        })
        .collect();
    let mut config = with_cache(checked(64));
    config.initiator.rto_initial = Duration::from_millis(5);
    config.initiator.rto_min = Duration::from_millis(5);
    config.initiator.frame_lifetime = Duration::from_millis(100);
    let node = Node::start(&config, links).unwrap();
    let target = node
        .attach(ADDR, PinnedMacs::first_to_answer(), SOON)
        .unwrap();
    let cache = node.cache().unwrap();
    cache.bind(whole(target)).unwrap();
    const PAGES: u64 = 600;
    format(&blade, PAGES);
    let changes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (handle, changes) = (cache.handle(), &changes);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..600 {
                    let number = random.u64(0..PAGES).min(random.u64(0..PAGES));
                    let mut latch = handle.exclusive(page(number)).wait().unwrap();
                    let version = version_of(number, latch.bytes()) + 1;
                    latch.write(16, &version.to_le_bytes().repeat(PAGE_BYTES / 8 - 2));
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    cache.flush_volume(1, SOON).unwrap();
    let sum: u64 = (0..PAGES).map(|number| on_disk(&blade, number)).sum();
    assert_eq!(sum, changes.load(Ordering::Relaxed));
    let stat = node.stat().unwrap();
    let copies = |shard: &sandrail_node::ShardStat| shard.initiator.tx_copies;
    assert!(stat.shards.iter().map(copies).sum::<u64>() > 0);
    node.shutdown(SOON).unwrap();
}

/// The real target machine, with sessions and a write cache of its own.
struct Machine {
    blade: Arc<Blade>,
    node: Node,
    target: TargetHandle,
}

fn machine(settings: CacheSettings) -> (Machine, NodeCache) {
    machine_with(settings, |target| [whole(target)])
}

fn machine_with<const COUNT: usize>(
    settings: CacheSettings,
    volumes: impl FnOnce(TargetHandle) -> [Volume; COUNT],
) -> (Machine, NodeCache) {
    let blade = Blade::with_machine(SECTORS);
    let links = (0..2).map(|_| vec![blade.link()]).collect();
    let node = Node::start(&with_cache(settings), links).unwrap();
    let target = node
        .attach(ADDR, PinnedMacs::first_to_answer(), SOON)
        .unwrap();
    let cache = node.cache().unwrap().clone();
    for volume in volumes(target) {
        cache.bind(volume).unwrap();
    }
    (
        Machine {
            blade,
            node,
            target,
        },
        cache,
    )
}

fn durable(machine: &Machine, number: u64) -> u8 {
    machine
        .blade
        .machine(|machine| machine.durable(at(number))[100])
}

fn put(handle: &sandrail_memory::cache::Handle, number: u64, value: u8) {
    let mut latch = handle.exclusive(page(number)).wait().unwrap();
    latch.write(0, &[value; PAGE_BYTES]);
}

/// Has everything written, and nothing flushed.
fn written(cache: &NodeCache) {
    eventually("all is written", || cache.dirty_pages(1) == 0);
}

fn soon(settings: CacheSettings) -> CacheSettings {
    CacheSettings {
        write_back: WriteBackConfig {
            dirty_age_ns_max: 1_000_000,
            retry_ns: 5_000_000,
            ..WriteBackConfig::default()
        },
        ..settings
    }
}

#[test]
fn what_a_restart_lost_is_told_by_the_flush_and_written_again_from_the_cache() {
    let (machine, cache) = machine(soon(settings(256)));
    let handle = cache.handle();
    put(&handle, 1, 10);
    cache.flush_volume(1, SOON).unwrap();
    for number in [2, 3, 300] {
        put(&handle, number, 20);
    }
    written(&cache);
    machine.blade.machine(|target| target.restart(true));
    let error = cache.flush_volume(1, SOON).unwrap_err();
    assert!(
        matches!(error, FlushError::Lost(RestartEvidence::Session)),
        "{error}"
    );
    assert_eq!(durable(&machine, 2), 0, "it is lost");
    let error = cache.flush_volume(1, SOON).unwrap_err();
    assert!(matches!(error, FlushError::Lost(_)), "still: {error}");
    machine.node.accept_loss(machine.target).unwrap();
    assert_eq!(cache.rewrite_unflushed(1), Ok(3), "page 1 was flushed");
    assert_eq!(cache.flush_volume(1, SOON).unwrap(), Durability::Claimed);
    for (number, value) in [(1, 10), (2, 20), (3, 20), (300, 20)] {
        assert_eq!(durable(&machine, number), value, "page {number}");
    }
    // All is flushed: the next restart loses nothing.
    machine.blade.machine(|target| target.restart(true));
    cache.flush_volume(1, SOON).unwrap();
    machine.node.shutdown(SOON).unwrap();
}

#[test]
fn a_loss_concerns_all_volumes_of_the_target() {
    let (machine, cache) = machine_with(soon(settings(256)), |target| {
        let half = whole(target).sectors / 2;
        [1, 2].map(|number| Volume {
            number,
            first: Lba(u64::from(number - 1) * half),
            sectors: half,
            ..whole(target)
        })
    });
    let handle = cache.handle();
    let other = PageId::new(2, 5).unwrap();
    put(&handle, 1, 10);
    let mut latch = handle.exclusive(other).wait().unwrap();
    latch.write(0, &[20; PAGE_BYTES]);
    drop(latch);
    written(&cache);
    eventually("all is written", || cache.dirty_pages(2) == 0);
    machine.blade.machine(|target| target.restart(true));
    cache.flush_volume(1, SOON).unwrap_err();
    machine.node.accept_loss(machine.target).unwrap();
    assert_eq!(cache.rewrite_unflushed(1), Ok(1));
    cache.flush_volume(1, SOON).unwrap();
    // Nobody has written the other volume's page again.
    for _ in 0..2 {
        let error = cache.flush_volume(2, SOON).unwrap_err();
        assert!(
            matches!(error, FlushError::Lost(RestartEvidence::Session)),
            "{error}"
        );
    }
    assert_eq!(cache.rewrite_unflushed(2), Ok(1));
    cache.flush_volume(2, SOON).unwrap();
    let place = at(5) + usize::try_from(whole(machine.target).sectors / 2).unwrap();
    let durable = |place| machine.blade.machine(|machine| machine.durable(place)[100]);
    assert_eq!((durable(at(1)), durable(place)), (10, 20));
    machine.node.shutdown(SOON).unwrap();
}

#[test]
fn a_lost_page_that_has_left_the_cache_is_counted_and_told() {
    let (machine, cache) = machine(soon(settings(64)));
    let handle = cache.handle();
    for number in 0..8 {
        put(&handle, number, 1);
    }
    written(&cache);
    for number in 1000..1400 {
        drop(handle.shared(page(number)).wait().unwrap());
    }
    put(&handle, 50, 2);
    written(&cache);
    machine.blade.machine(|target| target.restart(true));
    let error = cache.flush_volume(1, SOON).unwrap_err();
    assert!(matches!(error, FlushError::Lost(_)), "{error}");
    machine.node.accept_loss(machine.target).unwrap();
    let gone = cache.rewrite_unflushed(1).unwrap_err();
    assert_eq!((gone.number, gone.pages, gone.again), (1, 8, 1), "{gone}");
    let words = "8 pages of volume 1 were written, left the cache before they were flushed, and may be lost";
    assert_eq!(gone.to_string(), words);
    cache.flush_volume(1, SOON).unwrap();
    assert_eq!(durable(&machine, 50), 2);
    assert_eq!(cache.rewrite_unflushed(1), Ok(0), "told once flushed");
}

#[test]
fn a_restart_that_lost_nothing_is_no_loss() {
    let (machine, cache) = machine(soon(settings(64)));
    let handle = cache.handle();
    put(&handle, 2, 20);
    written(&cache);
    machine.blade.machine(|target| target.restart(false));
    // Its word is that nothing was lost; until the node has heard it the write's session is void.
    eventually("it is flushed", || match cache.flush_volume(1, SOON) {
        Ok(_) => true,
        Err(FlushError::Write(error)) => {
            assert_eq!(error.page.volume(), 1);
            false
        }
        Err(other) => panic!("{other}"),
    });
    assert_eq!(durable(&machine, 2), 20);
}

#[test]
fn a_page_that_may_only_be_read_by_now_is_written_again_after_a_loss() {
    let (machine, cache) = machine(soon(settings(64)));
    let handle = cache.handle();
    put(&handle, 2, 20);
    handle.downgrade(page(2)).wait().unwrap();
    machine.blade.machine(|target| target.restart(true));
    let error = cache.flush_volume(1, SOON).unwrap_err();
    assert!(matches!(error, FlushError::Lost(_)), "{error}");
    machine.node.accept_loss(machine.target).unwrap();
    assert_eq!(cache.rewrite_unflushed(1), Ok(1));
    cache.flush_volume(1, SOON).unwrap();
    assert_eq!(durable(&machine, 2), 20);
}

#[test]
fn a_volume_is_not_let_go_of_before_its_target_has_flushed_it() {
    let (machine, cache) = machine(soon(settings(64)));
    let handle = cache.handle();
    put(&handle, 2, 20);
    written(&cache);
    machine.blade.machine(|target| target.restart(true));
    for _ in 0..2 {
        let error = cache.unbind(1, Unbind::Refuse, SOON).unwrap_err();
        assert!(
            matches!(error, UnbindError::Flush(FlushError::Lost(_))),
            "{error}"
        );
    }
    machine.node.accept_loss(machine.target).unwrap();
    assert_eq!(cache.rewrite_unflushed(1), Ok(1), "it is still there");
    written(&cache);
    // Somebody has a page, and changes it when the volume is closed already.
    let mut latch = handle.exclusive(page(3)).wait().unwrap();
    let error = cache
        .unbind(1, Unbind::Refuse, Duration::from_millis(30))
        .unwrap_err();
    assert!(
        matches!(error, UnbindError::Held { pages: 1, .. }),
        "{error}"
    );
    assert_eq!(durable(&machine, 2), 20);
    latch.write(0, &[30; PAGE_BYTES]);
    drop(latch);
    written(&cache);
    cache.unbind(1, Unbind::Refuse, SOON).unwrap();
    assert_eq!(durable(&machine, 3), 30);
}
