//! Nothing is allocated or freed per I/O, and nothing locks: on the shard's side and on the client's, in one thread
//! with a counting allocator. And 32 answers in one burst cost one kick.

mod blade;

use std::time::Duration;

use blade::{ADDR, Blade, BladeLink};
use sandrail_lab::CountingAllocator;
use sandrail_memory::Buffer;
use sandrail_memory::cache::{Handle, PageId};
use sandrail_node::{
    CacheSettings, Client, Node, NodeConfig, Request, Shard, TargetHandle, Volume,
};
use sandrail_proto::aoe::initiator::{IfClosed, InitiatorConfig, Operation, Outcome, PinnedMacs};
use sandrail_wire::Lba;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SOON: Duration = Duration::from_secs(60);

struct Bed {
    node: Node,
    shards: Vec<Shard<BladeLink>>,
    target: TargetHandle,
}

/// A node whose shards are turned by this thread.
fn bed(count: usize) -> Bed {
    bed_with(count, None)
}

fn bed_with(count: usize, cache: Option<CacheSettings>) -> Bed {
    let config = NodeConfig {
        initiator: InitiatorConfig {
            rto_initial: Duration::from_secs(10),
            rto_min: Duration::from_secs(10),
            rto_max: Duration::from_secs(10),
            ..InitiatorConfig::default()
        },
        stripe_sectors: 64,
        run_dir: None,
        cache,
        ..NodeConfig::default()
    };
    let blade = Blade::new(16 << 10);
    let links = (0..count).map(|_| vec![blade.link()]).collect();
    let (node, mut shards) = Node::assemble(&config, links).unwrap();
    let target = std::thread::scope(|scope| {
        let attaching = scope.spawn(|| {
            node.attach(ADDR, PinnedMacs::first_to_answer(), SOON)
                .unwrap()
        });
        while !attaching.is_finished() {
            turn(&mut shards);
            std::thread::yield_now();
        }
        attaching.join().unwrap()
    });
    Bed {
        node,
        shards,
        target,
    }
}

fn turn(shards: &mut [Shard<BladeLink>]) {
    for shard in shards {
        shard.turn();
    }
}

fn submit(client: &mut Client, target: TargetHandle, n: u64) {
    let place = n * 7 % 1024 * 8;
    let lba = Lba(place);
    let (operation, buffer) = match n % 16 {
        0 => (Operation::Flush, Buffer::empty()),
        1 | 5 | 9 => (
            Operation::Write {
                lba,
                if_closed: IfClosed::Wait,
            },
            client.buffer(4096).unwrap(),
        ),
        _ => (Operation::Read { lba }, client.buffer(4096).unwrap()),
    };
    let request = Request {
        target,
        operation,
        buffer,
        timeout: SOON,
        user: n,
    };
    client.submit(request).unwrap();
}

fn run(bed: &mut Bed, client: &mut Client, depth: usize, requests: u64) {
    let (mut sent, mut ended) = (0, 0);
    while ended < requests {
        while sent < requests && client.outstanding() < depth {
            submit(client, bed.target, sent);
            sent += 1;
        }
        turn(&mut bed.shards);
        while let Some(done) = client.poll() {
            assert!(done.result.is_ok(), "{:?}", done.result);
            ended += 1;
        }
    }
}

#[test]
fn no_allocation_per_io() {
    for (shards, depth) in [(1, 1), (1, 32), (2, 32)] {
        let mut bed = bed(shards);
        let mut client = bed.node.client(32).unwrap();
        // Warm: thread-locals, the link's frames.
        run(&mut bed, &mut client, depth, 2_000);
        let before = CountingAllocator::calls();
        run(&mut bed, &mut client, depth, 20_000);
        let calls = CountingAllocator::calls() - before;
        assert_eq!(
            calls, 0,
            "{calls} allocator calls in 20,000 requests, depth {depth}, {shards} shards"
        );
    }
}

fn page(number: u64) -> PageId {
    PageId::new(1, number).unwrap()
}

/// Each page is changed or read, with a miss for most of them: 32 frames, 1024 pages.
fn use_pages(bed: &mut Bed, handle: &Handle, pages: u64) {
    for n in 0..pages {
        let page = page(n * 7 % 1024);
        loop {
            let done = if n % 4 == 0 {
                let latch = handle.try_exclusive(page);
                latch.map(|mut latch| latch.set_u64(0, n)).is_ok()
            } else {
                handle.optimistic(page, |view| view.u64_at(0)).is_ok()
            };
            if done {
                break;
            }
            handle.fetch(page);
            turn(&mut bed.shards);
        }
    }
}

#[test]
fn no_allocation_per_page() {
    for count in [1, 2] {
        let mut bed = bed_with(count, Some(settings()));
        bind(&mut bed);
        let handle = bed.node.cache().unwrap().handle();
        use_pages(&mut bed, &handle, 5_000);
        let written = |bed: &mut Bed| stat(bed).cache.unwrap();
        let before = written(&mut bed);
        let start = CountingAllocator::calls();
        use_pages(&mut bed, &handle, 20_000);
        let calls = CountingAllocator::calls() - start;
        assert_eq!(
            calls, 0,
            "{calls} allocator calls for 20,000 pages, {count} shards"
        );
        let after = written(&mut bed);
        assert!(after.read_requests > before.read_requests + 1000);
        assert!(after.write_requests > before.write_requests + 1000);
    }
}

/// Reads pages, sixteen at once, of which a volume may have two under way.
fn read_pages(bed: &mut Bed, handle: &Handle, rounds: u64) {
    for round in 0..rounds {
        let mut seen = [false; 16];
        while seen.contains(&false) {
            for (number, seen) in (round * 16..).zip(&mut seen) {
                let page = page(number % 1024);
                *seen = *seen || handle.optimistic(page, |view| view.u64_at(0)).is_ok();
                if !*seen {
                    handle.fetch(page);
                }
            }
            turn(&mut bed.shards);
        }
    }
}

#[test]
fn no_allocation_for_reads_beyond_their_limit() {
    let settings = CacheSettings {
        reads_under_way_max: 2,
        ..settings()
    };
    let mut bed = bed_with(1, Some(settings));
    bind(&mut bed);
    let handle = bed.node.cache().unwrap().handle();
    read_pages(&mut bed, &handle, 200);
    let start = CountingAllocator::calls();
    read_pages(&mut bed, &handle, 1_000);
    let calls = CountingAllocator::calls() - start;
    assert_eq!(calls, 0, "{calls} allocator calls for 16,000 pages");
}

fn settings() -> CacheSettings {
    let mut settings = CacheSettings {
        ahead_pages_max: 0,
        ..CacheSettings::new(32)
    };
    settings.write_back.pages_per_s = u32::MAX;
    settings.write_back.burst_pages = 1 << 20;
    settings.write_back.dirty_pages_max = 8;
    settings
}

fn bind(bed: &mut Bed) {
    let volume = Volume {
        number: 1,
        target: bed.target,
        first: Lba(0),
        sectors: 16 << 10,
        writable: true,
    };
    let Bed { node, shards, .. } = bed;
    std::thread::scope(|scope| {
        let binding = scope.spawn(|| node.cache().unwrap().bind(volume));
        while !binding.is_finished() {
            turn(shards);
            std::thread::yield_now();
        }
        binding.join().unwrap().unwrap();
    });
}

#[test]
fn the_counter_counts() {
    let before = CountingAllocator::calls();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(CountingAllocator::calls() - before, 2);
}

/// One burst of 32 requests, turned once. What the node sent and received for it; `None` if it had something of its own to
/// ask meanwhile, as after a pause of this thread.
fn burst_of_32(bed: &mut Bed, client: &mut Client) -> Option<[u64; 5]> {
    let counts = |bed: &mut Bed| {
        let stat = stat(bed);
        let counters = stat.counters;
        let counts = [
            counters.tx_frames,
            counters.rx_frames,
            counters.tx_bursts,
            counters.rx_bursts,
            stat.links[0].counters.tx_kicks,
        ];
        (counts, stat.initiator.tx_probes)
    };
    let (before, probes_before) = counts(bed);
    for n in 0..32 {
        let request = Request {
            target: bed.target,
            operation: Operation::Read { lba: Lba(n * 2) },
            buffer: client.buffer(512).unwrap(),
            timeout: SOON,
            user: n,
        };
        client.submit(request).unwrap();
    }
    // One turn sends all 32, and finds all 32 answers, which this target gives at once.
    turn(&mut bed.shards);
    let mut answers = 0;
    while let Some(done) = client.poll() {
        assert_eq!(done.result, Ok(Outcome::Read));
        answers += 1;
    }
    assert_eq!(answers, 32);
    let (after, probes_after) = counts(bed);
    let difference = std::array::from_fn(|n| after[n] - before[n]);
    (probes_after == probes_before).then_some(difference)
}

#[test]
fn a_burst_of_32_costs_one_kick() {
    let mut bed = bed(1);
    let mut client = bed.node.client(32).unwrap();
    run(&mut bed, &mut client, 32, 512);
    let undisturbed = (0..1000).find_map(|_| burst_of_32(&mut bed, &mut client));
    assert_eq!(
        undisturbed,
        Some([32, 32, 1, 1, 1]),
        "one kick for 32 frames"
    );
}

#[test]
fn bursts_are_capped() {
    let mut bed = bed(1);
    let mut client = bed.node.client(100).unwrap();
    for n in 0..100 {
        let request = Request {
            target: bed.target,
            operation: Operation::Read { lba: Lba(n % 8) },
            buffer: client.buffer(512).unwrap(),
            timeout: SOON,
            user: n,
        };
        client.submit(request).unwrap();
    }
    // The first turn takes `burst_requests_max` requests, so that at most as many are answered in it.
    turn(&mut bed.shards);
    let answered = std::iter::from_fn(|| client.poll()).count();
    assert!((1..=64).contains(&answered), "{answered} of a burst of 64");
    turn(&mut bed.shards);
    turn(&mut bed.shards);
    let rest = std::iter::from_fn(|| client.poll()).count();
    assert!(rest > 0 && answered + rest <= 100);
}

/// Shard 0's stat, asked for by another thread while this one turns the shard.
fn stat(bed: &mut Bed) -> sandrail_node::ShardStat {
    let Bed { node, shards, .. } = bed;
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| node.stat().unwrap().shards.swap_remove(0));
        while !asking.is_finished() {
            turn(shards);
            std::thread::yield_now();
        }
        asking.join().unwrap()
    })
}
