//! The checkers notice: what is broken on purpose is found, within few seeds.

use sandrail_sim::runner::{Failure, Until, soak};
use sandrail_sim::scenario::{Family, Sabotage};
use sandrail_sim::target::Fault;
use sandrail_sim::violation::Promise;

const SEEDS: u64 = 50;

fn found(family: Family, sabotage: Sabotage) -> Box<Failure> {
    let result = soak(family, sabotage, 0, Until::Seeds(SEEDS), |_| ());
    result.expect_err("the checker noticed nothing")
}

#[test]
fn the_oracle_notices_that_stale_writes_are_not_prevented() {
    let sabotage = Sabotage {
        rule_off: true,
        unwatched: true,
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Stale, sabotage).violation.promise,
        Promise::ReadHistory
    );
}

#[test]
fn the_watch_notices_that_stale_writes_are_not_prevented() {
    let sabotage = Sabotage {
        rule_off: true,
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Stale, sabotage).violation.promise,
        Promise::Overlap
    );
}

#[test]
fn the_oracle_notices_frames_that_outlive_the_lifetime() {
    let sabotage = Sabotage {
        beyond_lifetime: true,
        unwatched: true,
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Stale, sabotage).violation.promise,
        Promise::ReadHistory
    );
}

#[test]
fn the_watch_notices_frames_that_outlive_the_lifetime() {
    let sabotage = Sabotage {
        beyond_lifetime: true,
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Stale, sabotage).violation.promise,
        Promise::Overlap
    );
}

#[test]
fn the_oracle_notices_a_target_that_drops_writes() {
    let sabotage = Sabotage {
        fault: Some(Fault::DropsWrites { permille: 20 }),
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Calm, sabotage).violation.promise,
        Promise::ReadHistory
    );
}

#[test]
fn the_oracle_notices_a_target_that_returns_other_sectors() {
    let sabotage = Sabotage {
        fault: Some(Fault::ReadsElsewhere { permille: 20 }),
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Calm, sabotage).violation.promise,
        Promise::ReadContent
    );
}

#[test]
fn the_oracle_notices_a_target_that_forgets_to_flush() {
    let sabotage = Sabotage {
        fault: Some(Fault::ForgetsFlush),
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Flush, sabotage).violation.promise,
        Promise::Flush
    );
}

#[test]
fn a_calm_run_notices_a_target_that_refuses_everything() {
    let sabotage = Sabotage {
        fault: Some(Fault::Refuses { error: 3 }),
        ..Sabotage::default()
    };
    assert_eq!(
        found(Family::Calm, sabotage).violation.promise,
        Promise::Completion
    );
}

#[test]
fn a_failure_says_how_to_see_it_again() {
    let sabotage = Sabotage {
        rule_off: true,
        ..Sabotage::default()
    };
    let failure = found(Family::Stale, sabotage);
    let text = failure.to_string();
    let again = format!(
        "soak -- stale --start {} --seeds 1 --trace --rule off",
        failure.seed
    );
    assert!(text.ends_with(&again), "{text}");
    assert!(text.contains("WRITE"), "{text}");
}
