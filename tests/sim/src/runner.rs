//! Runs scenarios, one or many, and says how to see a failure again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use sandrail_proto::aoe::target::Held;

use crate::host::{Ask, ns};
use crate::puppet::Puppet;
use crate::scenario::{Family, Sabotage, Scenario};
use crate::violation::{Promise, Violation};
use crate::world::{Mishap, Tally, World};

/// Lines of the trace that a failure shows.
const TRACE_SHOWN: usize = 120;
/// The final reads are given this long.
const FINAL_READ: Duration = Duration::from_secs(30);
const FINAL_SECTORS: u64 = 32;

/// Runs a scenario to its end.
///
/// # Errors
/// The first [`Violation`].
pub fn run(scenario: &Scenario, trace: Option<&mut Vec<String>>) -> Result<Tally, Violation> {
    let mut world = World::new(&scenario.world);
    world.watch.judges_overlap = scenario.watched;
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
    world.tally.sectors_judged = world.oracle.reads_judged();
    let ledger = world.ledger.borrow();
    let [copies_late, sets_done, fenced_tries] = ledger.counts();
    (world.tally.copies_late, world.tally.sets_done) = (copies_late, sets_done);
    world.tally.fenced_tries = fenced_tries;
    // Without S3 nothing stands between the late copies of such a write and what is newer. Only that is excused: stale content, and
    // of that write.
    let excused = |violation: &Violation| ledger.retagged(&violation.stale);
    if scenario.family == Family::BladeNorule && result.as_ref().is_err_and(excused) {
        world.tally.inconclusive = 1;
        return Ok(world.tally);
    }
    result.map(|()| world.tally)
}

/// How long a run without faults may take, in simulated time: no request of it has a longer timeout.
const CALM_PATIENCE: Duration = Duration::from_secs(60);

fn drive(scenario: &Scenario, world: &mut World) -> Result<(), Violation> {
    for (at_ns, mishap) in &scenario.mishaps {
        world.plan(*at_ns, *mishap);
    }
    let done = |world: &World| {
        world
            .hosts
            .iter()
            .all(|host| host.pending() == 0 && host.asks_no_more() && host.initiator.is_some())
            && world.puppets.iter().all(Puppet::is_done)
    };
    // A slow target may need longer than the trouble lasts, and where there is none nothing may be cut short.
    let calm_ns = if scenario.spotless {
        ns(CALM_PATIENCE)
    } else {
        0
    };
    world.run(scenario.trouble_ns + calm_ns, done);
    judge(world)?;
    if scenario.spotless && world.tally.succeeded != world.tally.requests {
        let text = format!("nothing went wrong, and yet: {:?}", world.tally);
        return Err(Violation::new(Promise::Completion, text));
    }
    world.heal();
    if scenario.family == Family::BladeFence {
        readmit(scenario, world)?;
    }
    settle(scenario, world)?;
    if scenario.family.is_blade() {
        flush_all(world)?;
        settle(scenario, world)?;
    }
    read_all(world)?;
    settle(scenario, world)?;
    // Whatever is still under way lands now.
    world.run(world.now_ns() + 4 * ns(scenario.world.lifetime()), |_| {
        false
    });
    judge(world)?;
    world.verify_disks()?;
    empty_handed(world)
}

/// Everybody is let in again, initiators that were shut out as new processes (S10).
fn readmit(scenario: &Scenario, world: &mut World) -> Result<(), Violation> {
    world.readmit();
    settle(scenario, world)?;
    for host in 0..world.hosts.len() as u8 {
        world.befall(Mishap::CrashHost { host, down_ns: 0 });
    }
    Ok(())
}

/// A blade with nothing to do holds nothing.
fn empty_handed(world: &World) -> Result<(), Violation> {
    let Some(machine) = &world.machine else {
        return Ok(());
    };
    let on_disks: usize = machine
        .disks
        .iter()
        .map(|disk| disk.borrow().in_use())
        .sum();
    if machine.held() == Held::default() && on_disks == 0 {
        return Ok(());
    }
    Err(Violation::new(
        Promise::Quiescence,
        format!(
            "all is quiet, and the blade still holds {:?}, its disks {on_disks} operations",
            machine.held()
        ),
    ))
}

fn judge(world: &World) -> Result<(), Violation> {
    world.violation().cloned().map_or(Ok(()), Err)
}

/// All requests end, and all copies are accounted for.
fn settle(scenario: &Scenario, world: &mut World) -> Result<(), Violation> {
    let patience = 4 * scenario.world.lifetime() + FINAL_READ + Duration::from_secs(5);
    let load_ns = scenario
        .world
        .hosts
        .iter()
        .filter_map(|host| host.load.as_ref())
        .map(|load| load.timeout_ns.1)
        .max();
    let quiet = world.run(
        world.now_ns() + ns(patience) + load_ns.unwrap_or(0),
        World::is_quiet,
    );
    judge(world)?;
    if quiet {
        return Ok(());
    }
    let left: Vec<_> = world
        .hosts
        .iter()
        .map(|host| (host.pending(), host.unaccounted()))
        .collect();
    let puppets: Vec<_> = world.puppets.iter().map(Puppet::is_done).collect();
    Err(Violation::new(
        Promise::Quiescence,
        format!(
            "all is well for {patience:?}, and still there are (requests, unaccounted): {left:?}, puppets done: {puppets:?}"
        ),
    ))
}

/// Every host flushes every target: what it was told to be written is durable then, or it is told that it may be lost (S7).
fn flush_all(world: &mut World) -> Result<(), Violation> {
    for host in 0..world.hosts.len() {
        for target in 0..world.blades.len() as u8 {
            // Whoever is shut out, or not attached yet, can't.
            let _ = world.submit(host, target, Ask::Flush, FINAL_READ);
        }
    }
    judge(world)
}

/// Every host reads every sector that there is, and must succeed.
fn read_all(world: &mut World) -> Result<(), Violation> {
    let attached = |world: &World| world.hosts.iter().all(crate::host::Host::is_attached);
    let patience_ns = ns(FINAL_READ);
    if !world.run(world.now_ns() + patience_ns, attached) {
        judge(world)?;
        return Err(Violation::new(
            Promise::Quiescence,
            "all is well, and a target can't be attached",
        ));
    }
    let (succeeded, mut asked) = (world.tally.succeeded, 0);
    for target in 0..world.blades.len() as u8 {
        let mut lba = 0;
        let end = world.blades[usize::from(target)].target.sectors;
        while lba < end {
            let sectors = FINAL_SECTORS.min(end - lba);
            for host in 0..world.hosts.len() {
                // The host may not know yet that the device has grown; then nobody can ask.
                if world
                    .submit(host, target, Ask::Read { lba, sectors }, FINAL_READ)
                    .is_ok()
                {
                    asked += 1;
                }
                let room = |world: &World| world.hosts[host].room() > 1;
                world.run(world.now_ns() + patience_ns, room);
            }
            lba += sectors;
        }
    }
    world.run(
        world.now_ns() + patience_ns + 1_000_000_000,
        World::is_quiet,
    );
    judge(world)?;
    if world.tally.succeeded == succeeded + asked {
        return Ok(());
    }
    Err(Violation::new(
        Promise::Quiescence,
        format!(
            "all is well, and of {asked} reads only {} succeeded",
            world.tally.succeeded - succeeded
        ),
    ))
}

/// What a soak did.
pub type Soaked = crate::soaked::Soaked<Tally>;

impl Soaked {
    fn add(&mut self, tally: &Tally) {
        self.seeds += 1;
        let sum = &mut self.tally;
        for (sum, part) in [
            (&mut sum.requests, tally.requests),
            (&mut sum.succeeded, tally.succeeded),
            (&mut sum.deadlines, tally.deadlines),
            (&mut sum.failed, tally.failed),
            (&mut sum.rejected, tally.rejected),
            (&mut sum.losses_told, tally.losses_told),
            (&mut sum.sectors_lost, tally.sectors_lost),
            (&mut sum.frames, tally.frames),
            (&mut sum.write_frames, tally.write_frames),
            (&mut sum.query_frames, tally.query_frames),
            (&mut sum.socket_drops, tally.socket_drops),
            (&mut sum.inconclusive, tally.inconclusive),
            (&mut sum.copies_late, tally.copies_late),
            (&mut sum.sets_done, tally.sets_done),
            (&mut sum.fenced_tries, tally.fenced_tries),
            (&mut sum.sectors_judged, tally.sectors_judged),
            (&mut sum.turns, tally.turns),
            (&mut sum.events, tally.events),
        ] {
            *sum += part;
        }
    }
}

/// A scenario that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which family.
    pub family: Family,
    /// Its seed.
    pub seed: u64,
    /// What was sabotaged.
    pub sabotage: Sabotage,
    /// What was found.
    pub violation: Violation,
    /// The last of what happened.
    pub trace: Vec<String>,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for line in self
            .trace
            .iter()
            .skip(self.trace.len().saturating_sub(TRACE_SHOWN))
        {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{}", self.violation)?;
        let Sabotage {
            rule_off,
            beyond_lifetime,
            unwatched,
            ..
        } = self.sabotage;
        write!(
            f,
            "again: cargo run -p sandrail-sim --bin soak -- {} --start {} --seeds 1 --trace",
            self.family.name(),
            self.seed
        )?;
        for (is_set, text) in [
            (rule_off, " --rule off"),
            (beyond_lifetime, " --beyond-lifetime"),
            (unwatched, " --unwatched"),
        ] {
            if is_set {
                f.write_str(text)?;
            }
        }
        Ok(())
    }
}

/// When a soak ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many scenarios.
    Seeds(u64),
    /// After so long.
    Passed(Duration),
}

/// Runs one scenario after the other; a failure is run again for its trace.
///
/// # Errors
/// The first [`Failure`].
pub fn soak(
    family: Family,
    sabotage: Sabotage,
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
        let scenario = Scenario::new(family, seed, sabotage);
        match run(&scenario, None) {
            Ok(tally) => soaked.add(&tally),
            Err(violation) => {
                let mut trace = Vec::new();
                // The same scenario again finds the same; were it not so, the difference would be a finding, too.
                let violation = match run(&scenario, Some(&mut trace)) {
                    Err(again) if again == violation => violation,
                    other => Violation::new(
                        Promise::Panic,
                        format!("not deterministic: {violation}, then {other:?}"),
                    ),
                };
                return Err(Box::new(Failure {
                    family,
                    seed,
                    sabotage,
                    violation,
                    trace,
                }));
            }
        }
        progress(&soaked);
    }
}
