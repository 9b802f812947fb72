//! The command line of this family: `soak cluster`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::runner::{self, soak};
use super::scenario::{Flaw, Scenario};
use crate::runner::Until;

const USAGE: &str = "soak cluster [--seeds N | --seconds S] [--start SEED] [--trace] [--flaw NAME]

  --flaw NAME  misbehaves in this way, and must be found out:";

/// Runs the family.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Some((until, start, is_traced, flaw)) = parse(arguments) else {
        eprintln!("{USAGE}");
        for (name, _) in Flaw::ALL {
            eprintln!("    {name}");
        }
        return ExitCode::from(2);
    };
    if is_traced {
        let mut lines = Vec::new();
        let scenario = Scenario::new(start, flaw);
        println!("{scenario:#?}");
        let result = runner::run(&scenario, Some(&mut lines));
        for line in &lines {
            println!("{line}");
        }
        println!("{result:#?}");
        return if result.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let mut told = Instant::now();
    let result = soak(flaw, start, until, |soaked| {
        if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            eprintln!("{} seeds, {:.0} seeds/s", soaked.seeds, soaked.per_second());
        }
    });
    match result {
        Ok(soaked) => {
            println!(
                "cluster: {} seeds pass, {:.0} seeds/s",
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

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(Until, u64, bool, Flaw)> {
    let (mut until, mut start, mut is_traced, mut flaw) =
        (Until::Seeds(1000), 0, false, Flaw::None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => until = Until::Seeds(arguments.next()?.parse().ok()?),
            "--seconds" => {
                until = Until::Passed(Duration::from_secs(arguments.next()?.parse().ok()?))
            }
            "--start" => start = arguments.next()?.parse().ok()?,
            "--trace" => is_traced = true,
            "--flaw" => {
                let wanted = arguments.next()?;
                flaw = Flaw::ALL.into_iter().find(|(name, _)| *name == wanted)?.1;
            }
            _ => return None,
        }
    }
    Some((until, start, is_traced, flaw))
}
