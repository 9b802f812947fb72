//! Pages that are taken away or downgraded while their shard has them in hand, or when it turns no more.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use sandrail_memory::cache::{
    AccessError, Cache, CacheConfig, CacheShard, Inadmissible, Owner, PageId, Revocation,
    ShardFetch, WriteBackConfig,
};
use sandrail_memory::{Arena, HugePages};

/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Answers {
    /// Discards the page that is just asked about.
    discards: AtomicBool,
    cache: OnceLock<Cache>,
    over: AtomicBool,
    epoch: AtomicU32,
}

struct Hooked(Arc<Answers>);

impl Owner for Hooked {
    fn may_write(&self, page: PageId, _: &[u8]) -> bool {
        if self.0.discards.load(Ordering::Relaxed) {
            let cache = self.0.cache.get().unwrap();
            assert_eq!(cache.revoke(page, true), Revocation::Pending);
        }
        true
    }

    fn epoch(&self, _: PageId) -> u32 {
        self.0.epoch.load(Ordering::Relaxed)
    }

    fn is_over(&self, _: u32) -> bool {
        self.0.over.load(Ordering::SeqCst)
    }
}

struct Bed {
    cache: Cache,
    shard: CacheShard,
    answers: Arc<Answers>,
}

fn bed() -> Bed {
    let config = CacheConfig {
        write_back: WriteBackConfig {
            merge_pages_max: 1,
            dirty_age_ns_max: u64::MAX,
            dirty_pages_max: u32::MAX,
            ..WriteBackConfig::default()
        },
        ..CacheConfig::new(16)
    };
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).unwrap();
    let answers = Arc::new(Answers::default());
    let owner = Box::new(Hooked(Arc::clone(&answers)));
    let (cache, mut shards) = Cache::new(config, &mut arena, owner).unwrap();
    assert!(answers.cache.set(cache.clone()).is_ok());
    Bed {
        cache,
        shard: shards.pop().unwrap(),
        answers,
    }
}

fn page(number: u64) -> PageId {
    PageId::new(1, number).unwrap()
}

impl Bed {
    fn dirty(&mut self, page: PageId) {
        if let ShardFetch::Read(ticket) = self.shard.fetch(page) {
            self.shard.read_done(ticket, Ok(())).unwrap();
        }
        let handle = self.cache.handle(0);
        handle.try_exclusive(page).unwrap().set_u64(0, 7);
    }
}

#[test]
fn a_page_discarded_while_its_write_begins_is_counted_once() {
    let mut bed = bed();
    bed.dirty(page(1));
    bed.shard.flush();
    bed.shard.tick(1);
    bed.answers.discards.store(true, Ordering::Relaxed);
    let ticket = bed.shard.poll_write(1);
    assert_eq!(bed.shard.stat().dirty_pages, 0);
    if let Some(ticket) = ticket {
        bed.shard.write_done(ticket, Ok(()), 2);
    }
    assert_eq!(bed.cache.revoke(page(1), true), Revocation::Done);
    bed.answers.discards.store(false, Ordering::Relaxed);
    bed.dirty(page(2));
    assert_eq!(bed.shard.stat().dirty_pages, 1);
}

#[test]
fn a_page_is_not_gone_while_an_older_image_of_it_is_on_its_way() {
    let mut bed = bed();
    bed.dirty(page(1));
    bed.shard.flush();
    bed.shard.tick(1);
    let ticket = bed.shard.poll_write(1).unwrap();
    // The page moves on, and the image stays under way.
    bed.dirty(page(1));
    // Who takes the page may write it: nothing of it may arrive after that.
    for _ in 0..3 {
        assert_eq!(bed.cache.revoke(page(1), true), Revocation::Pending);
    }
    bed.shard.write_done(ticket, Ok(()), 2);
    assert_eq!(bed.cache.revoke(page(1), true), Revocation::Done);
    assert_eq!(bed.shard.stat().dirty_pages, 0);
    assert!(bed.shard.poll_write(3).is_none(), "it is forgotten");
}

#[test]
fn who_waits_for_a_page_to_be_written_hears_that_its_shard_has_ended() {
    for late in [false, true] {
        let mut bed = bed();
        bed.dirty(page(1));
        bed.dirty(page(2));
        let end = |bed: &mut Bed| {
            bed.answers.over.store(true, Ordering::SeqCst);
            bed.shard.abandon();
        };
        if !late {
            end(&mut bed);
        }
        let (tell, told) = mpsc::channel();
        let handles = [bed.cache.handle(0), bed.cache.handle(0)];
        let [revokes, downgrades] = handles;
        let tell_too = tell.clone();
        // Not scoped: who sleeps for ever would keep the test from failing.
        std::thread::spawn(move || tell.send(revokes.revoke(page(1)).wait().map(drop)));
        std::thread::spawn(move || tell_too.send(downgrades.downgrade(page(2)).wait().map(drop)));
        if late {
            while bed.shard.stat().waits < 2 {
                std::thread::yield_now();
            }
            end(&mut bed);
        }
        for _ in 0..2 {
            let answer = told.recv_timeout(SOON).expect("nobody sleeps for ever");
            let stopped = Inadmissible::Stopped;
            assert!(
                matches!(answer, Err(AccessError::Inadmissible { why, .. }) if why == stopped),
                "{answer:?}"
            );
        }
    }
}

#[test]
fn a_page_that_may_only_be_read_can_be_written_again() {
    let mut bed = bed();
    bed.answers.epoch.store(4, Ordering::Relaxed);
    bed.dirty(page(1));
    assert_eq!(bed.cache.downgrade(page(1)), Revocation::Pending);
    bed.shard.tick(1);
    let ticket = bed.shard.poll_write(1).unwrap();
    bed.shard.write_done(ticket, Ok(()), 2);
    assert_eq!(bed.cache.downgrade(page(1)), Revocation::Done);
    assert_eq!(bed.cache.unflushed(1, 3).collect::<Vec<_>>(), [page(1)]);
    let handle = bed.cache.handle(0);
    for _ in 0..2 {
        handle.shared(page(1)).wait().unwrap().rewrite();
        assert_eq!(bed.shard.stat().dirty_pages, 1);
    }
    bed.shard.flush();
    bed.shard.tick(3);
    let ticket = bed.shard.poll_write(3).unwrap();
    assert_eq!(ticket.first(), page(1));
    // Also while it is under way: then once more.
    handle.shared(page(1)).wait().unwrap().rewrite();
    bed.shard.write_done(ticket, Ok(()), 4);
    assert_eq!(bed.shard.stat().dirty_pages, 1);
    bed.shard.flush();
    let ticket = bed.shard.poll_write(5).unwrap();
    bed.shard.write_done(ticket, Ok(()), 5);
    assert_eq!(bed.shard.stat().dirty_pages, 0);
    assert!(bed.shard.poll_write(6).is_none());
}
