//! The buffer cache under two threads for as long as one likes, `./run soak cache`; see `docs/cache.md`.
//!
//! It ends with what was done, or with a panic that says what was wrong.

#[path = "../tests/cache/soak.rs"]
mod soak;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sandrail_memory::cache::Eviction;
use soak::{Soak, run};

const USAGE: &str = "soak cache [--operations N] [--seed N]

Two threads read, latch, change, pin and revoke pages that say which they are and how often they were changed, over a cache
much smaller than the volume, while pages are written back and writes fail now and then: half of the operations with
CLOCK, half with S3-FIFO. No update may be lost, no page be used after it was evicted, no read be torn.

  --operations N  of both threads together (default: 100000000)
  --seed N        decides what they do (default: by the clock)";

/// Between two words of how far it is.
const TELL_EACH: Duration = Duration::from_secs(5);

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(u64, u64)> {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let (mut operations, mut seed) = (100_000_000, since_epoch.ok()?.as_secs());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--operations" => operations = arguments.next()?.parse().ok()?,
            "--seed" => seed = arguments.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some((operations, seed))
}

fn per_s(operations: u64, begin: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    let operations = operations as f64;
    operations / begin.elapsed().as_secs_f64()
}

fn main() -> ExitCode {
    let Some((operations, seed)) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("seed {seed}");
    let halves = [
        (Eviction::Clock, operations / 2),
        (Eviction::S3Fifo, operations - operations / 2),
    ];
    for (eviction, operations) in halves {
        let begin = Instant::now();
        let mut told = begin;
        let soak = Soak {
            operations,
            pages: 400,
            frames: 64,
            eviction,
            seed,
        };
        let totals = run(soak, &mut |so_far| {
            if told.elapsed() >= TELL_EACH {
                told = Instant::now();
                let rate = per_s(so_far, begin);
                println!("{eviction:?}: {so_far} of {operations} operations, {rate:.0} a second");
            }
        });
        let rate = per_s(operations, begin);
        println!("{eviction:?}: ok, {operations} operations, {rate:.0} a second; {totals:?}");
    }
    ExitCode::SUCCESS
}
