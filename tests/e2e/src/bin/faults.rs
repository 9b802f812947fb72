//! Random load with every fault at once, `./run soak faults`; see `docs/testing.md`.

use std::process::ExitCode;
use std::time::Duration;

use sandrail_e2e::faults;
use sandrail_node::clock;

const USAGE: &str = "soak faults [--minutes N] [--seed N]

Verified load of two nodes on one blade, with every fault at once: of frames at both ends, of the disk, of the links, and
a blade that is stopped now and then. Nothing may be left of it at the end.

  --minutes N  how long (default: 10)
  --seed N     decides load and faults (default: by the clock)";

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(u64, u64)> {
    let (mut minutes, mut seed) = (10, clock::now().as_nanos() >> 10 & 0x00ff_ffff);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--minutes" => minutes = arguments.next()?.parse().ok()?,
            "--seed" => seed = arguments.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some((minutes, seed))
}

fn main() -> ExitCode {
    let Some((minutes, seed)) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("seed {seed}");
    match faults::run(Duration::from_secs(minutes * 60), seed) {
        Ok(outcome) => {
            println!("ok      {outcome}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED  {error:#}");
            ExitCode::FAILURE
        }
    }
}
