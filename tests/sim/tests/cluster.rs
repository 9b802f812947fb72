//! The family of memberships, for `SANDRAIL_SIM_SECONDS` (20 by default) of wall-clock time; and its checkers, each of which must
//! find what it is for.

use std::time::Duration;

use sandrail_sim::cluster::judge::Violation;
use sandrail_sim::cluster::runner::{run, soak};
use sandrail_sim::cluster::scenario::{Flaw, Scenario};
use sandrail_sim::runner::Until;

/// Scenarios within which a flaw must be found.
const SEEDS: u64 = 4000;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[test]
fn cluster() {
    let start = number("SANDRAIL_SIM_START", 0);
    let time = Duration::from_secs(number("SANDRAIL_SIM_SECONDS", 20));
    let soaked = soak(Flaw::None, start, Until::Passed(time), |_| ());
    let soaked = soaked.unwrap_or_else(|failure| panic!("{failure}"));
    println!(
        "cluster: {} seeds, {:.0} seeds/s, {:?}",
        soaked.seeds,
        soaked.per_second(),
        soaked.tally
    );
    let counts = soaked.tally.judge;
    assert!(
        counts.views > soaked.seeds && counts.accepted > 0 && counts.confirmed > 0,
        "nothing was tested: {counts:?}"
    );
}

/// Scenarios with a flaw until one of them fails, and in the way that is expected.
fn is_found(flaw: Flaw, is_expected: impl Fn(&Violation) -> bool) {
    match soak(flaw, 0, Until::Seeds(SEEDS), |_| ()) {
        Ok(soaked) => panic!("{flaw:?} was not found in {} scenarios", soaked.seeds),
        Err(failure) => assert!(
            is_expected(&failure.violation),
            "{flaw:?} was found as {} in seed {}",
            failure.violation,
            failure.scenario.seed
        ),
    }
}

#[test]
fn a_fence_that_was_only_claimed_is_found() {
    is_found(Flaw::FenceUnset, |found| {
        matches!(found, Violation::FencedWrite { .. })
    });
}

#[test]
fn frames_that_outlive_their_lifetime_are_found() {
    is_found(Flaw::LongLives, |found| {
        matches!(found, Violation::FencedWrite { .. })
    });
}

#[test]
fn voting_areas_that_serve_what_is_old_are_found() {
    is_found(Flaw::StaleAreas, |found| {
        matches!(
            found,
            Violation::Split(..) | Violation::LeaseOutlived(_) | Violation::MachineSaysSplit(_)
        )
    });
}

#[test]
fn blades_that_forget_are_found() {
    is_found(Flaw::BladesForget, |found| {
        matches!(found, Violation::FencedWrite { .. })
    });
}

#[test]
fn leases_that_nobody_asks_for_are_found() {
    is_found(Flaw::LeaseUnasked, |found| {
        matches!(found, Violation::LeaseOutlived(_))
    });
}

#[test]
fn clocks_that_run_wild_are_found() {
    is_found(Flaw::WildClocks, |found| {
        matches!(found, Violation::LeaseOutlived(_))
    });
}

#[test]
fn the_use_of_offline_targets_is_found() {
    is_found(Flaw::OfflineUsed, |found| {
        matches!(found, Violation::UnfencedUse { .. })
    });
}

#[test]
fn a_cluster_that_does_not_heal_is_found() {
    is_found(Flaw::NeverHealed, |found| {
        matches!(found, Violation::Stuck(_) | Violation::Restless(_))
    });
}

#[test]
fn where_nothing_happens_nobody_is_suspected() {
    for seed in 0..60 {
        let scenario = Scenario::calm(seed);
        let tally = run(&scenario, None).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        let counts = tally.world;
        assert_eq!(
            (counts.false_suspicions, counts.ends),
            (0, 0),
            "seed {seed}: {tally:?}"
        );
        let views = tally.judge.views;
        assert!(
            views <= scenario.nodes as u64,
            "seed {seed}: {views} views for {} nodes",
            scenario.nodes
        );
    }
}

#[test]
fn a_seed_determines_everything() {
    let scenario = Scenario::new(12_345, Flaw::None);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let tallies = [
        run(&scenario, Some(&mut one)),
        run(&scenario, Some(&mut other)),
    ];
    assert_eq!(tallies[0], tallies[1]);
    assert_eq!(one, other);
    assert!(!one.is_empty());
}
