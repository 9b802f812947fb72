//! The long run on a real wire, `./run soak wire`; see `docs/testing.md`.

use std::process::ExitCode;

use sandrail_e2e::matrix::{self, Combination, mib};
use sandrail_node::clock;

const USAGE: &str = "soak wire [--seed N] [--only TEXT]

Writes and reads back 1 GiB over every link, shard layout and MTU, then 64 MiB over each with faults on the wire.

  --seed N     decides data, lengths of requests and faults (default: by the clock)
  --only TEXT  only combinations whose name contains it

SANDRAIL_E2E_MIB sets another size than 1 GiB.";

/// Probability of loss, of duplication and of reordering, each way.
const FAULT_RATE: f64 = 0.05;
const CLEAN_MIB: u64 = 1024;
const FAULTY_MIB_MAX: u64 = 64;

struct Arguments {
    seed: u64,
    only: String,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut parsed = Arguments {
        seed: clock::now().as_nanos() >> 10 & 0x00ff_ffff,
        only: String::new(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => parsed.seed = arguments.next()?.parse().ok()?,
            "--only" => parsed.only = arguments.next()?,
            _ => return None,
        }
    }
    Some(parsed)
}

/// Runs one combination and tells how it went; whether it went well.
fn run(combination: Combination, mib: u64, seed: u64) -> bool {
    match matrix::run(combination, mib, seed) {
        Ok(outcome) => {
            println!(
                "ok      {combination}: {mib} MiB written in {:.1?}, read in {:.1?}, {} copies of {} frames",
                outcome.writing,
                outcome.reading,
                outcome.counters.tx_copies,
                outcome.counters.tx_frames
            );
            true
        }
        Err(error) => {
            println!("FAILED  {error:#}");
            false
        }
    }
}

fn main() -> ExitCode {
    let Some(Arguments { seed, only }) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mib = mib(CLEAN_MIB);
    println!("seed {seed}");
    let (mut ran, mut failed) = (0, 0);
    for (rate, mib) in [(0.0, mib), (FAULT_RATE, mib.min(FAULTY_MIB_MAX))] {
        for combination in matrix::combinations(rate) {
            if combination.to_string().contains(&only) {
                ran += 1;
                failed += u32::from(!run(combination, mib, seed));
            }
        }
    }
    println!("{ran} combinations, {failed} failed");
    if failed == 0 && ran > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
