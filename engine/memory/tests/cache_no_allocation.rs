//! A hit allocates nothing and frees nothing, nor does a miss once the cache is there: counted by the allocator.

use sandrail_lab::CountingAllocator;
use sandrail_memory::cache::{Cache, CacheConfig, CacheShard, PageId, ShardFetch, Unchecked};
use sandrail_memory::{Arena, HugePages};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn page(number: u64) -> PageId {
    PageId::new(0, number).unwrap()
}

fn read(shard: &mut CacheShard, number: u64) {
    if let ShardFetch::Read(mut ticket) = shard.fetch(page(number)) {
        shard.fill(&mut ticket, 0, &[1; 4096]);
        shard.read_done(ticket, Ok(())).unwrap();
    }
}

#[test]
fn neither_hits_nor_misses_nor_write_back_allocate() {
    let config = CacheConfig::new(256);
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).unwrap();
    let (cache, mut shards) = Cache::new(config, &mut arena, Box::new(Unchecked)).unwrap();
    let mut shard = shards.pop().unwrap();
    let handle = cache.handle(0);
    (0..256).for_each(|number| read(&mut shard, number));

    let hits = CountingAllocator::calls_of(|| {
        for round in 0..10_000_u64 {
            let page = page(round % 256);
            assert!(handle.optimistic(page, |view| view.u64_at(7)).is_ok());
            drop(handle.try_shared(page).unwrap());
            drop(handle.try_pin(page).unwrap());
            // The blocking call, too, as long as it does not block.
            drop(handle.shared(page).wait().unwrap());
            drop(handle.try_exclusive(page).unwrap());
        }
    });
    assert_eq!(hits, 0, "calls of the allocator for 50000 hits");

    let misses =
        CountingAllocator::calls_of(|| (1000..5000).for_each(|number| read(&mut shard, number)));
    assert_eq!(misses, 0, "calls of the allocator for 4000 misses");

    let writes = CountingAllocator::calls_of(|| {
        for number in 4980..5000 {
            if let Ok(mut guard) = handle.try_exclusive(page(number)) {
                guard.set_u64(3, 3);
            }
        }
        shard.flush();
        while let Some(ticket) = shard.poll_write(1) {
            assert_eq!(shard.image(&ticket, 0).len(), 4096);
            shard.write_done(ticket, Ok(()), 2);
        }
    });
    assert_eq!(writes, 0, "calls of the allocator for write-back");
    assert!(shard.stat().write_pages > 0 && shard.stat().evictions > 3000);
    // The counter counts.
    assert!(CountingAllocator::calls_of(|| drop(std::hint::black_box(vec![1_u8; 100]))) >= 2);
}
