//! A shard's turn over a target in memory: idle, and with I/Os through the client's ring.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sandrail_bench::blade::BladeLink;
use sandrail_bench::load::{OnShard, config};
use sandrail_bench::site::Direction;
use sandrail_node::clock;

fn load(direction: Direction, depth: usize) -> OnShard<BladeLink> {
    let target = (BladeLink::ADDR, BladeLink::MAC);
    let load = direction.load(BladeLink::SECTORS, 1, depth);
    let mut config = config();
    // In memory a shard outruns its tags: half of their generations must last for a frame's lifetime (S1), which with
    // the usual 2 s caps a shard at 2.1 million I/Os a second.
    config.initiator.frame_lifetime = Duration::from_millis(100);
    OnShard::new(&config, BladeLink::new(1), target, &load).expect("a target in memory answers")
}

fn turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    let mut idle = load(Direction::Read, 1);
    group.bench_function("idle", |bencher| {
        bencher.iter(|| idle.turn().expect("nothing can fail"))
    });
    for direction in [Direction::Read, Direction::Write] {
        for depth in [1_u64, 32] {
            let mut busy = load(direction, usize::try_from(depth).expect("a small number"));
            busy.fill().expect("room");
            for _ in 0..64 {
                busy.turn().expect("nothing can fail");
            }
            group.throughput(Throughput::Elements(depth));
            group.bench_function(
                format!("{direction} 4 KiB, depth {depth}, client and shard"),
                |bencher| {
                    bencher.iter(|| {
                        let mut left = depth;
                        while left > 0 {
                            left -= busy.turn().expect("nothing can fail").min(left);
                        }
                    });
                },
            );
        }
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("clock", |bencher| bencher.iter(|| black_box(clock::now())));
    group.finish();
}

criterion_group!(benches, turn);
criterion_main!(benches);
