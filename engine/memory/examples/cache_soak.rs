//! The buffer cache under two threads for as long as one likes: `cache_soak [OPERATIONS] [SEED]`, a hundred million by
//! default. It ends with what was done, or with a panic that says what was wrong.

#[path = "../tests/cache/soak.rs"]
mod soak;

use sandrail_memory::cache::Eviction;
use soak::{Soak, run};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse());
    let mut number = |default: u64| match arguments.next() {
        None => default,
        Some(Ok(number)) => number,
        Some(Err(error)) => {
            eprintln!("cache_soak [OPERATIONS] [SEED]: {error}");
            std::process::exit(2);
        }
    };
    let (operations, seed) = (number(100_000_000), number(1));
    for eviction in [Eviction::Clock, Eviction::S3Fifo] {
        let begin = std::time::Instant::now();
        let soak = Soak {
            operations: operations / 2,
            pages: 400,
            frames: 64,
            eviction,
            seed,
        };
        let totals = run(soak);
        println!(
            "{eviction:?}, seed {seed}: {:.1} s, {totals:?}",
            begin.elapsed().as_secs_f64()
        );
    }
}
