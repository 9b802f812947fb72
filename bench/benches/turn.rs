//! A shard's turn over a target in memory: idle, and with I/Os through the client's ring.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sandrail_bench::blade::BladeLink;
use sandrail_bench::load::{OnShard, config};
use sandrail_bench::site::{Blocks, Direction};
use sandrail_node::clock;
use std::hint::black_box;

fn load(direction: Direction, depth: usize) -> OnShard<BladeLink> {
    let target = (BladeLink::ADDR, BladeLink::MAC);
    let blocks = Blocks::new(1, BladeLink::SECTORS);
    OnShard::new(
        &config(),
        BladeLink::new(1),
        target,
        direction,
        depth,
        blocks,
    )
    .expect("a target in memory answers")
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
