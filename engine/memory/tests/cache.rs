//! The cache turned by hand: what each verb does to the next one.

#[path = "cache/bed.rs"]
mod bed;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bed::{Bed, PAGE_BYTES, VERSION, content, page, version_of};
use sandrail_memory::cache::{
    AccessError, Cache, CacheConfig, CacheError, Eviction, Fetch, PageId, ReadFault, Refused,
    Reserve, Reserves, Revocation, ShardFetch, Unchecked, VolumeFault, WriteError,
};
use sandrail_memory::{Arena, HugePages};

fn config(frames: u32) -> CacheConfig {
    CacheConfig::new(frames)
}

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (Arc::clone(&bell), Waker::from(bell))
}

fn resident(bed: &mut Bed, numbers: std::ops::Range<u64>) {
    for number in numbers {
        if let ShardFetch::Read(ticket) = bed.shard.fetch(page(number)) {
            bed.read(ticket);
        }
    }
}

fn change(bed: &Bed, number: u64, version: u64) {
    let handle = bed.cache.handle(0);
    let mut guard = handle.try_exclusive(page(number)).unwrap();
    for index in VERSION..PAGE_BYTES / 8 {
        guard.set_u64(index, version);
    }
}

fn version(bed: &Bed, number: u64) -> Result<u64, Refused> {
    let handle = bed.cache.handle(0);
    let guard = handle.try_shared(page(number))?;
    Ok(version_of(page(number), guard.bytes()))
}

#[test]
fn one_miss_is_one_read_however_many_wait_and_all_get_the_page() {
    let mut bed = Bed::new(config(8));
    let handle = bed.cache.handle(0);
    assert_eq!(handle.optimistic(page(1), |_| ()), Err(Refused::Absent));
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let mut first = pin!(handle.shared(page(1)));
    let mut second = pin!(handle.shared(page(1)));
    let mut third = pin!(handle.pin(page(1)));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    assert!(third.as_mut().poll(&mut context).is_pending());
    assert_eq!(handle.fetch(page(1)), Fetch::Resident);
    let ticket = bed.shard.poll_read().expect("the page is asked for");
    assert_eq!(ticket.page(), page(1));
    assert!(bed.shard.poll_read().is_none(), "and asked for once");
    assert_eq!(handle.optimistic(page(1), |_| ()), Err(Refused::Busy));
    assert_eq!(bell.0.load(Ordering::Relaxed), 0);
    bed.read(ticket);
    assert_eq!(bell.0.load(Ordering::Relaxed), 3);
    let Poll::Ready(Ok(first)) = first.poll(&mut context) else {
        panic!("the page is there");
    };
    let Poll::Ready(Ok(second)) = second.poll(&mut context) else {
        panic!("the page is there");
    };
    assert!(matches!(third.poll(&mut context), Poll::Ready(Ok(_))));
    assert_eq!(version_of(page(1), first.bytes()), 0);
    assert_eq!(version_of(page(1), second.bytes()), 0);
    let stat = bed.shard.stat();
    assert_eq!((stat.misses, stat.reads, stat.hits), (1, 1, 3));
}

#[test]
fn a_bad_page_is_never_served_and_the_error_says_what_was_wrong() {
    let mut bed = Bed::new(config(8));
    let mut bytes = content(page(5), 0);
    bytes[100] ^= 1;
    bed.volume.spoil(page(5), bytes.clone());
    let handle = bed.cache.handle(0);
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let mut wait = pin!(handle.shared(page(5)));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    let mut ticket = bed.shard.poll_read().unwrap();
    bed.shard.fill(&mut ticket, 0, &bytes);
    let error = bed.shard.read_done(ticket, Ok(())).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("page 5 of volume 3 can't be read: checksum 0x"),
        "{text}"
    );
    assert!(matches!(error.fault, ReadFault::Check(wrong) if wrong.expected != wrong.found));
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    match wait.poll(&mut context) {
        Poll::Ready(Err(AccessError::Read(told))) => assert_eq!(told, error),
        other => panic!("{other:?}"),
    }
    assert_eq!(version(&bed, 5), Err(Refused::Absent));
    // The next one asks again, and hears what the volume says.
    let mut wait = pin!(handle.exclusive(page(5)));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    let ticket = bed.shard.poll_read().unwrap();
    let error = bed
        .shard
        .read_done(ticket, Err(VolumeFault::Other(6)))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "page 5 of volume 3 can't be read: the volume's error 6"
    );
    assert!(matches!(
        wait.poll(&mut context),
        Poll::Ready(Err(AccessError::Read(told))) if told == error
    ));
    assert_eq!(bed.shard.stat().read_errors, 2);
}

#[test]
fn whoever_is_needed_stays_and_the_rest_makes_room() {
    for eviction in [Eviction::Clock, Eviction::S3Fifo] {
        let mut bed = Bed::new(CacheConfig {
            eviction,
            ..config(8)
        });
        resident(&mut bed, 0..8);
        let handle = bed.cache.handle(0);
        let pinned = handle.try_pin(page(0)).unwrap();
        let shared = handle.try_shared(page(1)).unwrap();
        let exclusive = handle.try_exclusive(page(2)).unwrap();
        change(&bed, 3, 1);
        resident(&mut bed, 100..200);
        for number in [0, 1, 3] {
            assert!(version(&bed, number).is_ok(), "{eviction:?}: page {number}");
        }
        assert_eq!(version(&bed, 2), Err(Refused::Busy));
        assert_eq!(version(&bed, 4), Err(Refused::Absent));
        assert_eq!(bed.shard.stat().evictions, 100);
        drop((pinned, shared, exclusive));
        bed.shard.flush();
        bed.turn(1);
        resident(&mut bed, 200..300);
        // A page that was used again and again is not displaced by pages that are read once, but by the hand.
        let stay = (0..4)
            .filter(|number| version(&bed, *number).is_ok())
            .count();
        match eviction {
            Eviction::Clock => assert_eq!(stay, 0),
            Eviction::S3Fifo => assert!(stay > 0),
        }
        assert_eq!(bed.volume.version(page(3)), 1);
    }
}

#[test]
fn without_a_frame_there_is_a_wait_and_reserves_are_kept() {
    let reserve = Reserves {
        log: 1,
        write_back: 1,
        recovery: 1,
    };
    let mut bed = Bed::new(CacheConfig {
        reserve,
        ..config(4)
    });
    resident(&mut bed, 0..4);
    for number in 0..4 {
        change(&bed, number, 1);
    }
    bed.answers.holds_back.store(true, Ordering::Relaxed);
    let handle = bed.cache.handle(0);
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    assert_eq!(handle.fetch(page(9)), Fetch::NoFrame);
    let mut wait = pin!(handle.shared(page(9)));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    // All is dirty and may not leave: the log's frame and recovery's are there all the same (S20).
    let log = bed.shard.reserved(Reserve::Log).unwrap();
    assert!(bed.shard.reserved(Reserve::Log).is_none());
    assert_eq!(log.bytes().len(), PAGE_BYTES);
    let ShardFetch::Read(ticket) = bed.shard.fetch_for_recovery(page(50)) else {
        panic!("a frame is reserved for recovery");
    };
    bed.read(ticket);
    let pin = handle.try_pin(page(50)).unwrap();
    assert!(matches!(
        bed.shard.fetch_for_recovery(page(51)),
        ShardFetch::NoFrame
    ));
    bed.turn(1);
    assert!(wait.as_mut().poll(&mut context).is_pending());
    drop(pin);
    bed.answers.holds_back.store(false, Ordering::Relaxed);
    // Once something could be written there is room, for recovery first.
    for turn in 2..6 {
        bed.turn(turn * 2_000_000);
    }
    assert!(bell.0.load(Ordering::Relaxed) > 0);
    for turn in 6..9 {
        if let Poll::Ready(guard) = wait.as_mut().poll(&mut context) {
            assert_eq!(version_of(page(9), guard.unwrap().bytes()), 0);
            return;
        }
        bed.turn(turn * 2_000_000);
    }
    panic!("the page did not come");
}

#[test]
fn dirty_pages_go_in_order_with_their_neighbours() {
    let mut bed = Bed::new(config(64));
    resident(&mut bed, 0..40);
    for number in [20, 3, 22, 21, 10, 2] {
        change(&bed, number, 1);
    }
    assert_eq!(bed.shard.stat().dirty_pages, 6);
    bed.shard.tick(5);
    assert!(bed.shard.poll_write(5).is_none(), "nothing is due");
    // Of the first ones, since the shard knows of them: it may have slept for long before.
    let mut now = 1_000_000_005;
    assert_eq!(bed.shard.poll_timeout(), Some(now));
    let mut order = Vec::new();
    bed.shard.tick(now);
    assert_eq!(bed.shard.stat().dirty_age_ns, now - 5);
    while let Some(ticket) = bed.shard.poll_write(now) {
        order.push((ticket.first().number(), ticket.pages()));
        bed.write(ticket, now);
        now += 1;
    }
    assert_eq!(order, [(20, 3), (2, 2), (10, 1)]);
    assert!(
        [20, 21, 22, 3, 2, 10]
            .iter()
            .all(|n| bed.volume.version(page(*n)) == 1)
    );
    let stat = bed.shard.stat();
    assert_eq!((stat.writes, stat.write_pages, stat.dirty_pages), (3, 6, 0));
}

#[test]
fn the_rate_is_bounded_in_the_long_run() {
    let mut config = config(512);
    config.write_back.pages_per_s = 1000;
    config.write_back.burst_pages = 10;
    let mut bed = Bed::new(config);
    resident(&mut bed, 0..512);
    for number in 0..512 {
        change(&bed, number, 1);
    }
    bed.shard.flush();
    let mut written = Vec::new();
    // 0.2 s in steps of 100 us.
    for step in 1..=2000_u64 {
        let now = step * 100_000;
        bed.shard.tick(now);
        if let Some(ticket) = bed.shard.poll_write(now) {
            written.push((now, ticket.pages()));
            bed.write(ticket, now);
        }
    }
    let pages: usize = written.iter().map(|(_, pages)| pages).sum();
    assert_eq!(written[0].1, 10, "the burst");
    assert!(
        (205..=210).contains(&pages),
        "{pages} pages in 0.2 s at 1000 a second"
    );
}

#[test]
fn a_page_that_is_changed_while_it_is_written_moves_and_its_image_stays() {
    let eviction = Eviction::Clock;
    let mut bed = Bed::new(CacheConfig {
        eviction,
        ..config(8)
    });
    resident(&mut bed, 0..2);
    change(&bed, 0, 1);
    let handle = bed.cache.handle(0);
    let pin = handle.try_pin(page(0)).unwrap();
    bed.shard.flush();
    let ticket = bed.shard.poll_write(1).unwrap();
    change(&bed, 0, 2);
    assert_eq!(version_of(page(0), bed.shard.image(&ticket, 0)), 1);
    assert_eq!(version(&bed, 0), Ok(2));
    assert_eq!(bed.shard.stat().moved, 1);
    // Its newer image waits for the older one.
    bed.shard.flush();
    assert!(bed.shard.poll_write(2).is_none());
    bed.write(ticket, 3);
    assert_eq!(bed.volume.version(page(0)), 1);
    let ticket = bed.shard.poll_write(4).expect("dirty again");
    bed.write(ticket, 5);
    assert_eq!(bed.volume.version(page(0)), 2);
    // The pin has gone along: the page stays until it is given back.
    resident(&mut bed, 100..150);
    assert_eq!(version(&bed, 0), Ok(2));
    drop(pin);
    resident(&mut bed, 150..200);
    assert_eq!(version(&bed, 0), Err(Refused::Absent));
}

#[test]
fn without_a_reserved_frame_the_writer_waits_for_the_write() {
    let reserve = Reserves {
        log: 0,
        write_back: 0,
        recovery: 0,
    };
    let mut bed = Bed::new(CacheConfig {
        reserve,
        ..config(8)
    });
    resident(&mut bed, 0..1);
    change(&bed, 0, 1);
    bed.shard.flush();
    let ticket = bed.shard.poll_write(1).unwrap();
    let handle = bed.cache.handle(0);
    assert_eq!(handle.try_exclusive(page(0)).unwrap_err(), Refused::Busy);
    assert_eq!(version(&bed, 0), Ok(1), "readers go on");
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let mut wait = pin!(handle.exclusive(page(0)));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    bed.write(ticket, 2);
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    assert!(matches!(wait.poll(&mut context), Poll::Ready(Ok(_))));
}

#[test]
fn a_failed_write_is_told_kept_and_tried_again() {
    let mut bed = Bed::new(config(8));
    resident(&mut bed, 0..3);
    change(&bed, 0, 1);
    change(&bed, 1, 1);
    bed.shard.flush();
    let ticket = bed.shard.poll_write(1).unwrap();
    assert_eq!(ticket.pages(), 2);
    change(&bed, 1, 2);
    bed.shard.write_done(ticket, Err(VolumeFault::Other(6)), 2);
    let errors: Vec<WriteError> = std::iter::from_fn(|| bed.shard.poll_error()).collect();
    let wanted = [0, 1].map(|number| WriteError {
        page: page(number),
        fault: VolumeFault::Other(6),
    });
    assert_eq!(errors, wanted);
    assert_eq!(
        errors[0].to_string(),
        "page 0 of volume 3 can't be written: the volume's error 6"
    );
    assert_eq!(bed.cache.write_error(page(0)), Some(wanted[0]));
    assert_eq!(bed.cache.write_error(page(1)), Some(wanted[1]));
    resident(&mut bed, 100..150);
    assert_eq!((version(&bed, 0), version(&bed, 1)), (Ok(1), Ok(2)));
    bed.shard.flush();
    assert!(bed.shard.poll_write(3).is_none(), "not at once");
    bed.shard.flush();
    bed.turn(200_000_000);
    assert_eq!(
        (bed.volume.version(page(0)), bed.volume.version(page(1))),
        (1, 2)
    );
    assert_eq!(bed.cache.write_error(page(0)), None);
    let stat = bed.shard.stat();
    assert_eq!((stat.write_errors, stat.dirty_pages), (2, 0));
}

#[test]
fn an_image_leaves_only_with_its_owners_consent() {
    let mut bed = Bed::new(config(8));
    resident(&mut bed, 0..2);
    change(&bed, 0, 1);
    bed.answers.holds_back.store(true, Ordering::Relaxed);
    bed.shard.flush();
    assert!(bed.shard.poll_write(1).is_none());
    assert_eq!(bed.shard.stat().refused, 1);
    assert!(bed.shard.poll_write(2).is_none());
    assert_eq!(bed.shard.stat().refused, 1, "it is left alone for a while");
    bed.answers.holds_back.store(false, Ordering::Relaxed);
    bed.shard.flush();
    bed.turn(2_000_000);
    assert_eq!(bed.volume.version(page(0)), 1);
}

#[test]
fn a_revoked_page_is_refused_at_once_and_goes_with_its_last_holder() {
    let mut bed = Bed::new(config(8));
    resident(&mut bed, 0..4);
    let handle = bed.cache.handle(0);
    let reading = handle.peek(page(0)).unwrap();
    assert!(reading.check());
    let shared = handle.try_shared(page(0)).unwrap();
    let pin = handle.try_pin(page(0)).unwrap();
    assert_eq!(bed.cache.revoke(page(0), false), Revocation::Pending);
    assert!(!reading.check(), "an optimistic reader notices");
    assert!(shared.is_revoked(), "so does a guard that asks");
    assert_eq!(version_of(page(0), shared.bytes()), 0);
    assert_eq!(version(&bed, 0), Err(Refused::Revoked));
    assert_eq!(handle.optimistic(page(0), |_| ()), Err(Refused::Revoked));
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let mut gone = pin!(handle.revoke(page(0)));
    assert!(gone.as_mut().poll(&mut context).is_pending());
    drop(shared);
    assert!(gone.as_mut().poll(&mut context).is_pending());
    drop(pin);
    assert!(bell.0.load(Ordering::Relaxed) > 0);
    assert!(matches!(gone.poll(&mut context), Poll::Ready(Ok(_))));
    assert_eq!(version(&bed, 0), Err(Refused::Absent));
    assert_eq!(bed.cache.revoke(page(0), false), Revocation::Done);
    // Its frame is found again.
    resident(&mut bed, 100..108);
    assert_eq!(bed.shard.stat().no_frame, 0);
}

#[test]
fn what_was_changed_is_written_before_a_revoked_page_goes_unless_discarded() {
    let mut bed = Bed::new(config(8));
    resident(&mut bed, 0..3);
    change(&bed, 0, 1);
    change(&bed, 1, 1);
    assert_eq!(bed.cache.revoke(page(0), false), Revocation::Pending);
    assert_eq!(bed.cache.revoke(page(1), true), Revocation::Done);
    let ticket = bed.shard.poll_write(1).expect("urgent, however young");
    assert_eq!((ticket.first(), ticket.pages()), (page(0), 1));
    assert_eq!(bed.cache.revoke(page(0), false), Revocation::Pending);
    bed.write(ticket, 2);
    assert_eq!(bed.cache.revoke(page(0), false), Revocation::Done);
    assert_eq!(
        (bed.volume.version(page(0)), bed.volume.version(page(1))),
        (1, 0)
    );
    assert_eq!(bed.shard.stat().dirty_pages, 0);
    // A page that is revoked while it is read does not come, and who waits hears why.
    let handle = bed.cache.handle(0);
    let (_, waker) = bell();
    let mut context = Context::from_waker(&waker);
    let mut wait = pin!(handle.shared(page(7)));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    let ticket = bed.shard.poll_read().unwrap();
    assert_eq!(bed.cache.revoke(page(7), false), Revocation::Pending);
    bed.read(ticket);
    assert_eq!(bed.cache.revoke(page(7), false), Revocation::Done);
    match wait.poll(&mut context) {
        Poll::Ready(Err(AccessError::Revoked(told))) => assert_eq!(told, page(7)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_downgraded_page_is_read_on_and_not_changed() {
    let mut bed = Bed::new(config(8));
    resident(&mut bed, 0..3);
    change(&bed, 0, 1);
    let handle = bed.cache.handle(0);
    let reading = handle.peek(page(0)).unwrap();
    assert_eq!(bed.cache.downgrade(page(0)), Revocation::Pending);
    assert_eq!(
        handle.try_exclusive(page(0)).unwrap_err(),
        Refused::ReadOnly
    );
    let ticket = bed.shard.poll_write(1).expect("urgent");
    assert_eq!(version(&bed, 0), Ok(1));
    bed.write(ticket, 2);
    assert_eq!(bed.cache.downgrade(page(0)), Revocation::Done);
    assert_eq!(version(&bed, 0), Ok(1));
    assert!(matches!(
        handle.exclusive(page(0)).wait(),
        Err(AccessError::ReadOnly(told)) if told == page(0)
    ));
    // Sealing changed the bytes; a reader of before must look again, one of now need not.
    assert!(!reading.check());
    let reading = handle.peek(page(0)).unwrap();
    bed.cache.upgrade(page(0));
    assert!(reading.check());
    change(&bed, 0, 2);
    assert!(!reading.check());
}

#[test]
fn new_pages_are_of_zeros_and_dirty() {
    let mut bed = Bed::new(config(8));
    let handle = bed.cache.handle(0);
    resident(&mut bed, 0..100);
    {
        let mut guard = handle.create(page(1000)).unwrap();
        assert!(guard.bytes().iter().all(|byte| *byte == 0));
        guard.write(0, &content(page(1000), 4));
        assert_eq!(handle.optimistic(page(1000), |_| ()), Err(Refused::Busy));
    }
    assert_eq!(handle.create(page(1000)).unwrap_err(), Refused::Busy);
    assert_eq!(version(&bed, 1000), Ok(4));
    bed.shard.flush();
    bed.turn(1);
    assert_eq!(bed.volume.version(page(1000)), 4);
    resident(&mut bed, 0..100);
    assert_eq!(version(&bed, 1000), Err(Refused::Absent));
}

#[test]
fn optimistic_reads_turn_into_latches_only_while_nothing_has_changed() {
    let mut bed = Bed::new(config(8));
    resident(&mut bed, 0..2);
    let handle = bed.cache.handle(0);
    let reading = handle.peek(page(0)).unwrap();
    let shared = reading.to_shared().expect("unchanged");
    assert_eq!(handle.try_exclusive(page(0)).unwrap_err(), Refused::Busy);
    drop(shared);
    change(&bed, 0, 1);
    assert!(reading.to_shared().is_none());
    let mut tries = 0;
    let read = handle.optimistic(page(0), |view| {
        tries += 1;
        if tries == 1 {
            change(&bed, 0, 2);
        }
        view.u64_at(VERSION)
    });
    assert_eq!((read, tries), (Ok(2), 2));
    assert_eq!(bed.shard.stat().repeats, 1);
}

#[test]
fn a_waiter_that_gives_up_leaves_nothing_behind() {
    let waiters_max = 2;
    let mut bed = Bed::new(CacheConfig {
        waiters_max,
        ..config(8)
    });
    resident(&mut bed, 0..1);
    let handle = bed.cache.handle(0);
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    for _ in 0..20 {
        let exclusive = handle.try_exclusive(page(0)).unwrap();
        {
            let mut wait = pin!(handle.shared(page(0)));
            assert!(wait.as_mut().poll(&mut context).is_pending());
        }
        drop(exclusive);
    }
    assert_eq!(
        bell.0.load(Ordering::Relaxed),
        0,
        "nobody was there to be woken"
    );
    // With all nodes taken one waits by polling.
    let exclusive = handle.try_exclusive(page(0)).unwrap();
    let mut waits: Vec<_> = (0..4).map(|_| Box::pin(handle.shared(page(0)))).collect();
    for wait in &mut waits {
        assert!(wait.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(bell.0.load(Ordering::Relaxed), 2);
    drop(exclusive);
    assert_eq!(bell.0.load(Ordering::Relaxed), 4);
    for wait in &mut waits {
        assert!(matches!(
            wait.as_mut().poll(&mut context),
            Poll::Ready(Ok(_))
        ));
    }
}

#[test]
fn senseless_sizes_are_refused_and_an_arena_too_small_says_what_was_wanted() {
    let mut arena = Arena::new(1 << 20, HugePages::Never).unwrap();
    let mut make =
        |config: CacheConfig| Cache::new(config, &mut arena, Box::new(Unchecked)).map(drop);
    let good = config(16);
    for wrong in [
        CacheConfig {
            page_bytes: 5000,
            ..good
        },
        CacheConfig { frames: 0, ..good },
        CacheConfig { shards: 3, ..good },
        CacheConfig {
            frames: u32::MAX,
            ..good
        },
    ] {
        assert!(
            matches!(make(wrong), Err(CacheError::Config { .. })),
            "{wrong:?}"
        );
    }
    let error = make(config(1000)).unwrap_err().to_string();
    let wanted = config(1000).arena_bytes().to_string();
    assert!(
        error.contains(&wanted) && error.contains("1048576"),
        "{error}"
    );
    for page_bytes in [8192, 16384] {
        make(CacheConfig { page_bytes, ..good }).unwrap();
    }
    let _ = PageId::new(0, 0);
}
