//! The long run on a real wire; `./run soak wire`. See `docs/testing.md`.

use std::process::ExitCode;

use sandrail_e2e::matrix::{self, mib};

const FAULT_RATE: f64 = 0.05;

fn main() -> ExitCode {
    let (clean_mib, faulty_mib) = (mib(1024), mib(1024).min(64));
    let seed = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| sandrail_node::clock::now().as_nanos() >> 10 & 0x00ff_ffff);
    let mut failed = 0;
    for (rate, mib) in [(0.0, clean_mib), (FAULT_RATE, faulty_mib)] {
        for combination in matrix::combinations(rate) {
            match matrix::run(combination, mib, seed) {
                Ok(outcome) => println!(
                    "ok      {combination}: {mib} MiB written in {:.1?}, read in {:.1?}, {} frames, {} copies",
                    outcome.writing,
                    outcome.reading,
                    outcome.counters.tx_frames,
                    outcome.counters.tx_copies
                ),
                Err(error) => {
                    failed += 1;
                    println!("FAILED  {error:#}");
                }
            }
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
