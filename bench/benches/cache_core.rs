//! The buffer cache without I/O, beside the `quick_cache` crate.
//!
//! `resident`: look up a page of 16384 (64 MiB), read eight bytes of its beginning, check; in one thread and in two.
//! `anywhere`: the same with eight bytes anywhere in the page. `filled`: a million pages over 100 thousand frames, where a miss
//! is filled by copying 4 KiB from a volume that is always the same buffer. Popularity by Zipf's law with 0.99, drawn
//! before anything is measured. Both caches are asked for the same pages, and the same words are read.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use sandrail_bench::zipf::Zipf;
use sandrail_memory::cache::{
    Cache, CacheConfig, CacheShard, Eviction, Handle, PageId, ShardFetch, Unchecked,
};
use sandrail_memory::{Arena, HugePages};

const WORDS: usize = 512;
const RESIDENT: u64 = 16_384;
const PAGES: u64 = 1_000_000;
const FRAMES: u32 = 100_000;
/// Accesses of one measured pass.
const PASS: usize = 1 << 18;

type Rival = quick_cache::sync::Cache<u64, Arc<[u64; WORDS]>>;

/// An access: the page, and the word of it that is read.
#[derive(Clone, Copy)]
struct Access {
    page: PageId,
    word: usize,
}

/// Draws `count` accesses over `pages`; which page has which rank is shuffled by a bijection.
fn trace(pages: u64, count: usize, seed: u64, anywhere: bool) -> Vec<Access> {
    let zipf = Zipf::new(pages, 0.99);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut places: Vec<u64> = (0..pages).collect();
    rng.shuffle(&mut places);
    let place = |rank: u64| places[usize::try_from(rank).expect("few pages")];
    (0..count)
        .map(|_| Access {
            page: PageId::new(1, place(zipf.draw(&mut rng))).expect("small numbers"),
            word: if anywhere { rng.usize(..WORDS) } else { 1 },
        })
        .collect()
}

fn make(frames: u32, eviction: Eviction) -> (Cache, CacheShard) {
    let config = CacheConfig {
        eviction,
        ..CacheConfig::new(frames)
    };
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).expect("memory");
    println!("arena: {}", arena.backing());
    let (cache, mut shards) =
        Cache::new(config, &mut arena, Box::new(Unchecked)).expect("good sizes");
    (cache, shards.pop().expect("one shard"))
}

fn fill(shard: &mut CacheShard, page: PageId, volume: &[u8]) {
    if let ShardFetch::Read(mut ticket) = shard.fetch(page) {
        shard.fill(&mut ticket, 0, volume);
        shard.read_done(ticket, Ok(())).expect("every page is good");
    }
}

fn hits(handle: &Handle, pass: &[Access]) -> u64 {
    let read = |access: &Access| {
        let word = handle.optimistic(access.page, |view| view.u64_at(access.word));
        word.expect("all are resident")
    };
    pass.iter().map(read).fold(0, u64::wrapping_add)
}

fn rival_hits(rival: &Rival, pass: &[Access]) -> u64 {
    let read = |access: &Access| {
        let page = rival.get(&access.page.to_bits());
        page.expect("all are resident")[access.word]
    };
    pass.iter().map(read).fold(0, u64::wrapping_add)
}

/// The time of `passes` passes in two threads at once, each over its own order of the accesses: of the slower one.
fn two(passes: u64, trace: &[Access], pass: impl Fn(usize, &[Access]) -> u64 + Sync) -> Duration {
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|number| {
            let (pass, barrier) = (&pass, &barrier);
            scope.spawn(move || {
                let (first, second) = trace.split_at(trace.len() / 2 * number);
                barrier.wait();
                let begin = Instant::now();
                for _ in 0..passes {
                    black_box(pass(number, second));
                    black_box(pass(number, first));
                }
                begin.elapsed()
            })
        });
        let times = threads.map(|thread| thread.join().expect("it only reads"));
        times[0].max(times[1])
    })
}

fn resident(criterion: &mut Criterion) {
    let pages = u32::try_from(RESIDENT).expect("few");
    let (cache, mut shard) = make(pages, Eviction::default());
    let volume = vec![7; WORDS * 8];
    let rival: Rival = quick_cache::sync::Cache::new(pages as usize * 2);
    for number in 0..RESIDENT {
        let page = PageId::new(1, number).expect("small numbers");
        fill(&mut shard, page, &volume);
        rival.insert(page.to_bits(), Arc::new([7; WORDS]));
    }
    for (name, anywhere) in [("resident", false), ("anywhere", true)] {
        let mut group = criterion.benchmark_group(name);
        let trace = trace(RESIDENT, PASS, 1, anywhere);
        let handle = cache.handle(0);
        group.throughput(Throughput::Elements(PASS as u64));
        group.bench_function("sandrail", |bencher| {
            bencher.iter(|| hits(&handle, &trace));
        });
        group.bench_function("quick_cache", |bencher| {
            bencher.iter(|| rival_hits(&rival, &trace));
        });
        // Of both threads together.
        group.throughput(Throughput::Elements(2 * PASS as u64));
        group.bench_function("sandrail, two threads", |bencher| {
            bencher.iter_custom(|passes| {
                two(passes, &trace, |_, pass| {
                    // A handle is one thread's; making one is nothing beside a pass.
                    let handle = cache.handle(0);
                    hits(&handle, pass)
                })
            });
        });
        group.bench_function("quick_cache, two threads", |bencher| {
            bencher.iter_custom(|passes| two(passes, &trace, |_, pass| rival_hits(&rival, pass)));
        });
        group.finish();
    }
}

fn filled(criterion: &mut Criterion) {
    let trace = trace(PAGES, 16 * PASS, 2, false);
    let mut group = criterion.benchmark_group("filled");
    group.throughput(Throughput::Elements(PASS as u64));
    let volume = [7_u64; WORDS];
    for (name, eviction) in [("clock", Eviction::Clock), ("s3-fifo", Eviction::S3Fifo)] {
        filled_by_us(&mut group, name, eviction, &trace);
    }
    let rival: Rival = quick_cache::sync::Cache::new(FRAMES as usize);
    let mut misses = 0_u64;
    let mut accesses = 0_u64;
    let mut pass = |pass: &[Access]| {
        accesses += pass.len() as u64;
        let read = |access: &Access| {
            let page = rival.get_or_insert_with(&access.page.to_bits(), || {
                misses += 1;
                Ok::<_, std::convert::Infallible>(Arc::new(volume))
            });
            match page {
                Ok(page) => page[access.word],
                Err(never) => match never {},
            }
        };
        pass.iter().map(read).fold(0, u64::wrapping_add)
    };
    let mut passes = trace.chunks(PASS).cycle();
    for warm in trace.chunks(PASS) {
        black_box(pass(warm));
    }
    group.bench_function("quick_cache", |bencher| {
        bencher.iter(|| pass(passes.next().expect("a cycle")));
    });
    group.finish();
    print_ratio("quick_cache", accesses, misses);
}

fn filled_by_us(
    group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    eviction: Eviction,
    trace: &[Access],
) {
    let (cache, mut shard) = make(FRAMES, eviction);
    let handle = cache.handle(0);
    let volume = vec![7; WORDS * 8];
    let mut accesses = 0_u64;
    let mut pass = |pass: &[Access], shard: &mut CacheShard| {
        accesses += pass.len() as u64;
        let mut sum = 0_u64;
        for access in pass {
            loop {
                let read = handle.optimistic(access.page, |view| view.u64_at(access.word));
                match read {
                    Ok(word) => break sum = sum.wrapping_add(word),
                    Err(_) => fill(shard, access.page, &volume),
                }
            }
        }
        sum
    };
    for warm in trace.chunks(PASS) {
        black_box(pass(warm, &mut shard));
    }
    let mut passes = trace.chunks(PASS).cycle();
    group.bench_function(format!("sandrail, {name}"), |bencher| {
        bencher.iter(|| pass(passes.next().expect("a cycle"), &mut shard));
    });
    print_ratio(name, accesses, shard.stat().misses);
}

fn print_ratio(name: &str, accesses: u64, misses: u64) {
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    let ratio = 1.0 - misses as f64 / accesses as f64;
    println!("{name}: hit ratio {ratio:.4} of {accesses} accesses");
}

criterion_group!(
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = resident, filled
);
criterion_main!(benches);
