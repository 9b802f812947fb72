//! Runs scenarios, one or many, and says how to see a failure again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::call::Resource;
use super::scenario::Scenario;
use super::station::{Held, Station};
use super::violation::{Promise, Violation};
use super::world::World;
use super::{judge, world};
use crate::runner::Until;

/// Lines of the trace that a failure shows.
const TRACE_SHOWN: usize = 150;
/// Simulated time in which everything must come to rest once all is well.
const SETTLE_NS: u64 = 60_000_000_000;
/// Simulated time after which nothing may be left of what was said.
const QUIET_NS: u64 = 500_000_000;

/// What a run counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By the judge.
    pub judge: judge::Counts,
    /// By the world.
    pub world: world::Counts,
}

/// Runs a scenario to its end.
///
/// # Errors
/// The first [`Violation`].
pub fn run<S: Station>(
    scenario: &Scenario,
    flaw: S::Flaw,
    trace: Option<&mut Vec<String>>,
) -> Result<Tally, Violation> {
    let mut world = World::<S>::new(&scenario.world, flaw);
    if trace.is_some() {
        world.trace();
    }
    let result =
        catch_unwind(AssertUnwindSafe(|| drive(scenario, &mut world))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_default();
            Err(Violation::new(Promise::Panic, text))
        });
    if let Some(lines) = trace {
        lines.extend(world.trace_lines().map(ToString::to_string));
    }
    result.map(|()| Tally {
        judge: world.judge.counts(),
        world: world.counts,
    })
}

fn judged<S: Station>(world: &World<S>) -> Result<(), Violation> {
    world.violation().cloned().map_or(Ok(()), Err)
}

fn drive<S: Station>(scenario: &Scenario, world: &mut World<S>) -> Result<(), Violation> {
    for (at_ns, mishap) in &scenario.mishaps {
        world.plan(*at_ns, *mishap);
    }
    world.run(scenario.trouble_ns, |_| false);
    judged(world)?;
    world.heal();
    settle(world)?;
    // Whoever lost a lock on the way shows now: everybody can have everything, one after the other.
    for resource in 0..scenario.world.load.resources {
        for node in 0..scenario.world.nodes {
            if resource < 2 || resource % u16::from(scenario.world.nodes) == u16::from(node) {
                world.sweep(node, Resource(resource));
                settle(world)?;
            }
        }
    }
    let quiet =
        |world: &World<S>| world.in_flight() == 0 && world.held().iter().all(Held::is_quiet);
    let is_quiet = world.run(world.now_ns() + QUIET_NS, quiet);
    judged(world)?;
    if is_quiet {
        return Ok(());
    }
    Err(Violation::new(
        Promise::Leak,
        format!(
            "all is quiet, and still {} messages are on their way, and the nodes hold {:?}",
            world.in_flight(),
            world.held()
        ),
    ))
}

/// All requests end, and everybody knows everything.
fn settle<S: Station>(world: &mut World<S>) -> Result<(), Violation> {
    let settled = world.run(world.now_ns() + SETTLE_NS, World::is_settled);
    judged(world)?;
    if settled {
        return Ok(());
    }
    Err(Violation::new(
        Promise::Stuck,
        format!(
            "all is well, and {} requests are open, {} locks retained",
            world.judge.pending(),
            world.judge.retained()
        ),
    ))
}

/// What a soak did.
pub type Soaked = crate::soaked::Soaked<Tally>;

impl Soaked {
    fn add(&mut self, tally: &Tally) {
        self.seeds += 1;
        self.tally.judge.add(&tally.judge);
        self.tally.world.add(&tally.world);
    }
}

/// A scenario that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which family.
    pub family: &'static str,
    /// Its seed.
    pub seed: u64,
    /// What was made to misbehave.
    pub flaw: String,
    /// What was found.
    pub violation: Violation,
    /// The last of what happened.
    pub trace: Vec<String>,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let skipped = self.trace.len().saturating_sub(TRACE_SHOWN);
        for line in self.trace.iter().skip(skipped) {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{} ({})", self.violation, self.flaw)?;
        write!(
            f,
            "again: cargo run -p sandrail-sim --bin soak -- {} --start {} --seeds 1 --trace",
            self.family, self.seed
        )
    }
}

/// Runs one scenario after the other; a failure is run again for its trace.
///
/// # Errors
/// The first [`Failure`].
pub fn soak<S: Station>(
    flaw: S::Flaw,
    start: u64,
    until: Until,
    mut progress: impl FnMut(&Soaked),
) -> Result<Soaked, Box<Failure>> {
    let began = Instant::now();
    let mut soaked = Soaked::default();
    loop {
        soaked.time = began.elapsed();
        let over = match until {
            Until::Seeds(seeds) => soaked.seeds >= seeds,
            Until::Passed(time) => soaked.time >= time && soaked.seeds > 0,
        };
        if over {
            return Ok(soaked);
        }
        let seed = start + soaked.seeds;
        let scenario = Scenario::new(seed);
        match run::<S>(&scenario, flaw, None) {
            Ok(tally) => soaked.add(&tally),
            Err(violation) => {
                let mut trace = Vec::new();
                // The same scenario again finds the same; were it not so, the difference would be a finding, too.
                let violation = match run::<S>(&scenario, flaw, Some(&mut trace)) {
                    Err(again) if again == violation => violation,
                    other => Violation::new(
                        Promise::Panic,
                        format!("not deterministic: {violation}, then {other:?}"),
                    ),
                };
                return Err(Box::new(Failure {
                    family: S::FAMILY,
                    seed,
                    flaw: format!("{flaw:?}"),
                    violation,
                    trace,
                }));
            }
        }
        progress(&soaked);
    }
}
