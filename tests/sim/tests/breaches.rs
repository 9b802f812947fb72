//! The checkers of the production blade notice: whatever rule is kept from working is found, within few seeds.

use sandrail_sim::breach::Breach;
use sandrail_sim::runner::{Failure, Until, soak};
use sandrail_sim::scenario::{Family, Sabotage};
use sandrail_sim::violation::Promise;

const SEEDS: u64 = 300;

fn found(family: Family, breach: Breach, seeds: u64) -> Box<Failure> {
    let sabotage = Sabotage {
        breach,
        ..Sabotage::default()
    };
    let result = soak(family, sabotage, 0, Until::Seeds(seeds), |_| ());
    result.expect_err("the checker noticed nothing")
}

fn assert_found(family: Family, breach: Breach, promises: &[Promise]) {
    assert_found_in(SEEDS, family, breach, promises);
}

fn assert_found_in(seeds: u64, family: Family, breach: Breach, promises: &[Promise]) {
    let failure = found(family, breach, seeds);
    println!("{breach:?}: seed {}: {}", failure.seed, failure.violation);
    assert!(
        promises.contains(&failure.violation.promise),
        "{breach:?}: {failure}"
    );
}

#[test]
fn copies_that_are_not_known_are_noticed() {
    assert_found(
        Family::BladeNorule,
        Breach::CopiesForgotten,
        &[Promise::Duplicate],
    );
}

#[test]
fn void_sessions_that_are_taken_are_noticed() {
    assert_found(Family::Blade, Breach::SessionsIgnored, &[Promise::Session]);
}

#[test]
fn an_old_life_on_another_path_is_noticed() {
    for family in [Family::Blade, Family::BladeNorule] {
        assert_found_in(4000, family, Breach::StationsForgotten, &[Promise::Session]);
    }
}

#[test]
fn a_life_that_was_fenced_and_comes_back_is_noticed() {
    assert_found_in(
        4000,
        Family::BladeFence,
        Breach::BirthsForgotten,
        &[Promise::Fence],
    );
}

#[test]
fn force_over_an_epoch_is_noticed() {
    let promises = [Promise::Fence, Promise::Persistence];
    assert_found(Family::BladeFence, Breach::ForceAllowed, &promises);
}

#[test]
fn a_set_that_is_answered_before_its_barrier_is_noticed() {
    assert_found(
        Family::BladeFence,
        Breach::BarrierOff,
        &[Promise::Fence, Promise::Persistence],
    );
}

#[test]
fn an_old_set_that_turns_the_clock_back_is_noticed() {
    assert_found(Family::BladeFence, Breach::EpochsIgnored, &[Promise::Fence]);
}

#[test]
fn a_loss_that_is_not_told_is_noticed() {
    assert_found(
        Family::Blade,
        Breach::MarkStuck,
        &[Promise::Flush, Promise::ReadHistory],
    );
}

#[test]
fn what_is_forgotten_at_a_restart_is_noticed() {
    assert_found(Family::BladeFence, Breach::Amnesia, &[Promise::Fence]);
    assert_found(
        Family::Blade,
        Breach::Amnesia,
        &[Promise::Persistence, Promise::Mask],
    );
}

#[test]
fn the_order_of_overlapping_writes_is_watched() {
    assert_found(Family::BladeFair, Breach::LastFirst, &[Promise::Order]);
}

#[test]
fn answers_to_the_masked_are_noticed() {
    assert_found(Family::Blade, Breach::MaskOff, &[Promise::Mask]);
}

#[test]
fn a_greedy_station_is_noticed() {
    assert_found(
        Family::BladeFair,
        Breach::BuffersUnlimited,
        &[Promise::Fairness],
    );
}

#[test]
fn what_is_held_for_ever_is_noticed() {
    assert_found(Family::Blade, Breach::DiskStuck, &[Promise::Quiescence]);
}

#[test]
fn torn_sectors_are_noticed() {
    assert_found(Family::Blade, Breach::Torn, &[Promise::ReadContent]);
}
