//! Runs families of simulated scenarios for as long as one likes; see `docs/testing.md`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sandrail_sim::runner::{self, Until};
use sandrail_sim::scenario::{Family, Sabotage, Scenario};

const USAGE: &str = "soak NAME [--seeds N | --seconds S] [--start SEED] [--trace]
          [--rule off] [--beyond-lifetime] [--unwatched]

  --seeds N          so many scenarios (default 1000)
  --seconds S        for so long
  --start SEED       the first one's seed (default 0)
  --trace            shows the whole trace of the last scenario, failed or not
  --rule off         without S3: the oracle must object
  --beyond-lifetime  frames outlive the lifetime: the oracle must object
  --unwatched        only the oracle judges, not the watch on the wire

Names:";

struct Arguments {
    family: Family,
    until: Until,
    start: u64,
    trace: bool,
    sabotage: Sabotage,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut parsed = Arguments {
        family: Family::named(&arguments.next()?)?,
        until: Until::Seeds(1000),
        start: 0,
        trace: false,
        sabotage: Sabotage::default(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => parsed.until = Until::Seeds(arguments.next()?.parse().ok()?),
            "--seconds" => {
                parsed.until = Until::Passed(Duration::from_secs(arguments.next()?.parse().ok()?))
            }
            "--start" => parsed.start = arguments.next()?.parse().ok()?,
            "--trace" => parsed.trace = true,
            "--rule" if arguments.next()? == "off" => parsed.sabotage.rule_off = true,
            "--beyond-lifetime" => parsed.sabotage.beyond_lifetime = true,
            "--unwatched" => parsed.sabotage.unwatched = true,
            _ => return None,
        }
    }
    Some(parsed)
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        for (name, _) in Family::ALL {
            eprintln!("  {name}");
        }
        return ExitCode::from(2);
    };
    let Arguments {
        family,
        until,
        start,
        trace,
        sabotage,
    } = arguments;
    if trace && matches!(until, Until::Seeds(1)) {
        return replay(family, start, sabotage);
    }
    let mut told = Instant::now();
    let result = runner::soak(family, sabotage, start, until, |soaked| {
        if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            eprintln!("{} seeds, {:.0} seeds/s", soaked.seeds, soaked.per_second());
        }
    });
    match result {
        Ok(soaked) => {
            println!(
                "{}: {} seeds pass, {:.0} seeds/s",
                family.name(),
                soaked.seeds,
                soaked.per_second()
            );
            println!("{:#?}", soaked.tally);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn replay(family: Family, seed: u64, sabotage: Sabotage) -> ExitCode {
    let scenario = Scenario::new(family, seed, sabotage);
    println!("{scenario:#?}");
    let mut lines = Vec::new();
    let result = runner::run(&scenario, Some(&mut lines));
    for line in &lines {
        println!("{line}");
    }
    match result {
        Ok(tally) => {
            println!("{tally:#?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}
