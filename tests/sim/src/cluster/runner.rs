//! Runs scenarios, one or many, and says how to see a failure again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::judge::{self, Violation};
use super::scenario::{Flaw, MS, Scenario};
use super::world::{self, World};
use crate::runner::Until;

/// Lines of the trace that a failure shows.
const TRACE_SHOWN: usize = 200;
/// In this time all must be well again.
const SETTLE_NS: u64 = 20_000 * MS;
/// After this time an operator looks after what machines must not decide.
const OPERATOR_NS: u64 = 4_000 * MS;
/// So long after the last pause nobody has to be suspected any more.
const CALM_NS: u64 = 1_000 * MS;
/// And then it must stay so.
const STAY_NS: u64 = 500 * MS;

/// What a run counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By the judge.
    pub judge: judge::Counts,
    /// By the world.
    pub world: world::Counts,
    /// From the end of the trouble until all was well, the longest of all.
    pub settled_ns_max: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        let (sum, one) = (&mut self.judge, &other.judge);
        sum.views += one.views;
        sum.accepted += one.accepted;
        sum.refused += one.refused;
        sum.let_in_by_forgetting += one.let_in_by_forgetting;
        sum.confirmed += one.confirmed;
        sum.granted_over += one.granted_over;
        sum.lease_used += one.lease_used;
        let (sum, one) = (&mut self.world, &other.world);
        sum.happenings += one.happenings;
        sum.pauses += one.pauses;
        sum.crashes += one.crashes;
        sum.ends += one.ends;
        sum.false_suspicions += one.false_suspicions;
        sum.ballots += one.ballots;
        sum.ballots_lost += one.ballots_lost;
        sum.forgot += one.forgot;
        sum.sectors_closed += one.sectors_closed;
        sum.forced += one.forced;
        sum.renewals_refused += one.renewals_refused;
        self.settled_ns_max = self.settled_ns_max.max(other.settled_ns_max);
    }
}

/// Runs a scenario to its end.
///
/// # Errors
/// The first [`Violation`].
pub fn run(scenario: &Scenario, trace: Option<&mut Vec<String>>) -> Result<Tally, Violation> {
    let mut world = World::new(scenario);
    if trace.is_some() {
        world.trace();
    }
    let driven = catch_unwind(AssertUnwindSafe(|| drive(scenario, &mut world)));
    let result = driven.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Violation::Panic(text.unwrap_or_default()))
    });
    if let Some(lines) = trace {
        lines.extend(world.trace_lines().cloned());
    }
    result
}

fn judged(world: &World) -> Result<(), Violation> {
    world.judge.violation().cloned().map_or(Ok(()), Err)
}

fn drive(scenario: &Scenario, world: &mut World) -> Result<Tally, Violation> {
    world.run(scenario.trouble_ns, |_| false);
    judged(world)?;
    world.heal();
    // Who is paused is so to the end, and then has to be suspected, or cleared, before anything can be expected to last.
    let rested_ns = world.pauses_end_ns().max(world.now_ns()) + CALM_NS;
    world.run(rested_ns, |_| false);
    let healed_ns = world.now_ns();
    while !world.run(world.now_ns() + OPERATOR_NS, World::is_settled) {
        judged(world)?;
        if world.now_ns() > healed_ns + SETTLE_NS {
            return Err(Violation::Stuck(world.tell()));
        }
        world.operate();
    }
    judged(world)?;
    let settled_ns_max = world.now_ns() - healed_ns;
    let views = world.judge.counts().views;
    world.run(world.now_ns() + STAY_NS, |_| false);
    judged(world)?;
    if !world.is_settled() || world.judge.counts().views != views {
        return Err(Violation::Restless(world.tell()));
    }
    world.finish();
    Ok(Tally {
        judge: world.judge.counts(),
        world: world.counts(),
        settled_ns_max,
    })
}

/// What a soak did.
pub type Soaked = crate::soaked::Soaked<Tally>;

/// A scenario that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The scenario.
    pub scenario: Scenario,
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
        writeln!(f, "{} (flaw: {:?})", self.violation, self.scenario.flaw)?;
        write!(
            f,
            "again: cargo run -p sandrail-sim --bin soak -- cluster --start {} --seeds 1 --trace",
            self.scenario.seed
        )
    }
}

/// Runs one scenario after the other; a failure is run again for its trace.
///
/// # Errors
/// The first [`Failure`].
pub fn soak(
    flaw: Flaw,
    start: u64,
    until: Until,
    mut progress: impl FnMut(&Soaked),
) -> Result<Soaked, Box<Failure>> {
    let began = Instant::now();
    let mut soaked = Soaked::default();
    loop {
        soaked.time = began.elapsed();
        let is_over = match until {
            Until::Seeds(seeds) => soaked.seeds >= seeds,
            Until::Passed(time) => soaked.time >= time && soaked.seeds > 0,
        };
        if is_over {
            return Ok(soaked);
        }
        let scenario = Scenario::new(start + soaked.seeds, flaw);
        match run(&scenario, None) {
            Ok(tally) => {
                soaked.seeds += 1;
                soaked.tally.add(&tally);
            }
            Err(violation) => {
                let mut trace = Vec::new();
                // The same scenario again finds the same; were it not so, the difference would be a finding, too.
                let violation = match run(&scenario, Some(&mut trace)) {
                    Err(again) if again == violation => violation,
                    other => {
                        Violation::Panic(format!("not deterministic: {violation}, then {other:?}"))
                    }
                };
                return Err(Box::new(Failure {
                    scenario,
                    violation,
                    trace,
                }));
            }
        }
        progress(&soaked);
    }
}
