//! Runs families of simulated scenarios for as long as one likes; see `docs/testing.md`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sandrail_sim::dlm::machine::{Forgery, Machine};
use sandrail_sim::dlm::station::Station;
use sandrail_sim::dlm::wired::Wired;
use sandrail_sim::dlm::{runner as lock_runner, scenario as lock_scenario};
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

/// The families of lock managers, which have a runner of their own: over frames, and over a perfect channel.
const LOCKS: [&str; 2] = [Wired::FAMILY, Machine::FAMILY];

struct Arguments {
    /// None: lock managers.
    family: Option<Family>,
    until: Until,
    start: u64,
    trace: bool,
    sabotage: Sabotage,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Arguments> {
    let name = arguments.next()?;
    let family = Family::named(&name);
    if family.is_none() && !LOCKS.contains(&name.as_str()) {
        return None;
    }
    let mut parsed = Arguments {
        family,
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
    // The membership's family has a command line of its own.
    if std::env::args().nth(1).as_deref() == Some("cluster") {
        return sandrail_sim::cluster::command::main(std::env::args().skip(2));
    }
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        for (name, _) in Family::ALL {
            eprintln!("  {name}");
        }
        eprintln!("  cluster");
        for name in LOCKS {
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
    let Some(family) = family else {
        return if std::env::args().nth(1).as_deref() == Some(Wired::FAMILY) {
            soak_locks::<Wired>(start, until, trace)
        } else {
            soak_locks::<Machine>(start, until, trace)
        };
    };
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

/// Lock managers, with nothing but a seed to choose.
fn soak_locks<S: Station<Flaw = Forgery>>(start: u64, until: Until, trace: bool) -> ExitCode {
    if trace && matches!(until, Until::Seeds(1)) {
        let scenario = lock_scenario::Scenario::new(start);
        println!("{scenario:#?}");
        let mut lines = Vec::new();
        let result = lock_runner::run::<S>(&scenario, Forgery::None, Some(&mut lines));
        for line in &lines {
            println!("{line}");
        }
        return match result {
            Ok(tally) => {
                println!("{tally:#?}");
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("{violation}");
                ExitCode::FAILURE
            }
        };
    }
    let mut told = Instant::now();
    let result = lock_runner::soak::<S>(Forgery::None, start, until, |soaked| {
        if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            eprintln!("{} seeds, {:.0} seeds/s", soaked.seeds, soaked.per_second());
        }
    });
    match result {
        Ok(soaked) => {
            let per_second = soaked.per_second();
            println!(
                "{}: {} seeds pass, {per_second:.0} seeds/s",
                S::FAMILY,
                soaked.seeds
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
