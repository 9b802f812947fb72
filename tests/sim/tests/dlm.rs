//! The judge of lock managers accuses nobody who keeps the rules, and finds whoever breaks one, within few seeds.

use sandrail_sim::dlm::reference::{Flaw, Reference};
use sandrail_sim::dlm::runner::soak;
use sandrail_sim::dlm::violation::Promise;
use sandrail_sim::runner::Until;

const SEEDS: u64 = 300;

#[test]
fn a_manager_that_keeps_the_rules_is_not_accused() {
    let soaked = soak::<Reference>(Flaw::None, 0, Until::Seeds(4 * SEEDS), |_| ());
    let soaked = soaked.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{:.0} seeds/s, {:#?}", soaked.per_second(), soaked.tally);
    let judge = soaked.tally.judge;
    for (what, count) in [
        ("conversions", judge.conversions),
        ("refusals to wait", judge.would_block),
        ("time limits", judge.timed_out),
        ("cancellations", judge.cancelled),
        ("victims", judge.victims),
        ("demotions", judge.demotions),
        ("valid blocks", judge.values_valid),
        ("invalid blocks", judge.values_invalid),
        ("retained locks", judge.retained),
        (
            "crashes in recovery",
            soaked.tally.world.crashes_in_recovery,
        ),
        ("fenced nodes", soaked.tally.world.fenced),
    ] {
        assert!(count > 10, "few {what}: {:#?}", soaked.tally);
    }
}

/// The judge finds that this promise is broken in some of the seeds; a broken rule may show in other ways as well.
fn assert_found(flaw: Flaw, promise: Promise) {
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        match soak::<Reference>(flaw, seed, Until::Seeds(1), |_| ()) {
            Err(failure) if failure.violation.promise == promise => {
                println!("{flaw:?}: seed {seed}: {}", failure.violation);
                return;
            }
            Err(failure) => others.push(failure.violation.promise),
            Ok(_) => {}
        }
    }
    panic!("{flaw:?}: {promise:?} was not found, but {others:?}");
}

#[test]
fn holders_that_exclude_each_other_are_noticed() {
    assert_found(Flaw::Modes, Promise::Exclusion);
}

#[test]
fn grant_numbers_that_fall_are_noticed() {
    assert_found(Flaw::Numbers, Promise::GrantNumber);
}

#[test]
fn grants_over_what_a_dead_writer_held_are_noticed() {
    assert_found(Flaw::RetainedFreed, Promise::Retained);
}

#[test]
fn value_blocks_that_are_not_the_last_are_noticed() {
    for flaw in [Flaw::ValueKept, Flaw::ValueForgotten, Flaw::ValueTorn] {
        assert_found(flaw, Promise::Value);
    }
}

#[test]
fn requests_that_end_twice_or_without_a_reason_are_noticed() {
    assert_found(Flaw::ToldTwice, Promise::Completion);
    assert_found(Flaw::TimesOutAtWill, Promise::Completion);
}

#[test]
fn requests_that_never_end_are_noticed() {
    assert_found(Flaw::RequestForgotten, Promise::Stuck);
    assert_found(Flaw::UnlockForgotten, Promise::Stuck);
}

#[test]
fn deadlocks_without_a_victim_are_noticed() {
    assert_found(Flaw::NoVictims, Promise::Deadlock);
}

#[test]
fn victims_without_a_deadlock_are_noticed() {
    assert_found(Flaw::AnyVictim, Promise::Victim);
}

#[test]
fn more_victims_than_needed_are_noticed() {
    assert_found(Flaw::AllVictims, Promise::Victim);
}

#[test]
fn who_is_overtaken_again_and_again_is_noticed() {
    assert_found(Flaw::LastFirst, Promise::Fairness);
}

#[test]
fn what_is_left_behind_is_noticed() {
    assert_found(Flaw::Leaks, Promise::Leak);
}

#[test]
fn a_machine_that_never_rests_is_noticed() {
    assert_found(Flaw::Restless, Promise::Livelock);
}
