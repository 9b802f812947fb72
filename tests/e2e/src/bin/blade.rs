//! The blade killed in a storm of writes, many times, `./run soak blade`; see `docs/testing.md`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use sandrail_e2e::Shards;
use sandrail_e2e::killing::{Killing, Outcome, WIRES, end_of};
use sandrail_node::clock;

const USAGE: &str = "soak blade [--rounds N] [--seed N]

Kills the blade in a storm of writes, each third time by a power cut, over each link in turn, and checks every promise.

  --rounds N  how often (default: 200)
  --seed N    decides what is written, and when it is killed (default: by the clock)";

/// Lives of the blade that one node sees before the next link's turn.
const LIVES: u64 = 5;

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(u64, u64)> {
    let (mut rounds, mut seed) = (200, clock::now().as_nanos() >> 10 & 0x00ff_ffff);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next()?.parse().ok()?,
            "--seed" => seed = arguments.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some((rounds, seed))
}

fn run(rounds: u64, seed: u64) -> Result<Outcome> {
    let (mut sum, mut round, mut wires) = (Outcome::default(), 0, WIRES.iter().cycle());
    while round < rounds {
        let wire = *wires.next().context("it goes on for ever")?;
        let shards = if (round / LIVES).is_multiple_of(2) {
            Shards::One
        } else {
            Shards::TwoOnOneQueue
        };
        let last = (round + LIVES).min(rounds);
        let mut killing = Killing::new(wire, shards, seed ^ round << 8)?;
        let mut part = Outcome::default();
        while round < last {
            let outcome = killing.round(end_of(round, seed));
            part.add(&outcome.with_context(|| {
                format!("{wire}, {shards}, round {round} of {rounds}, seed {seed}")
            })?);
            round += 1;
        }
        killing.close()?;
        println!("{round:4} of {rounds}  {wire}, {shards}: {part}");
        sum.add(&part);
    }
    Ok(sum)
}

fn main() -> ExitCode {
    let Some((rounds, seed)) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("seed {seed}");
    match run(rounds, seed) {
        Ok(sum) => {
            println!("ok      {sum}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED  {error:#}");
            ExitCode::FAILURE
        }
    }
}
