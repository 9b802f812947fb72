//! The judge finds what goes wrong in the production lock manager, too: what it hears, says or tells is forged.

use sandrail_sim::dlm::machine::{Forgery, Machine};
use sandrail_sim::dlm::runner::soak;
use sandrail_sim::dlm::violation::Promise;
use sandrail_sim::runner::Until;

const SEEDS: u64 = 2000;

/// The judge finds that one of these promises is broken in some of the seeds.
fn assert_found(forgery: Forgery, promises: &[Promise]) {
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        match soak::<Machine>(forgery, seed, Until::Seeds(1), |_| ()) {
            Err(failure) if promises.contains(&failure.violation.promise) => {
                println!("{forgery:?}: seed {seed}: {}", failure.violation);
                return;
            }
            Err(failure) => others.push(failure.violation.promise),
            Ok(_) => {}
        }
    }
    panic!("{forgery:?}: {promises:?} was not found, but {others:?}");
}

#[test]
fn a_mode_that_was_not_granted() {
    assert_found(Forgery::ModeRaised, &[Promise::Exclusion]);
}

#[test]
fn a_number_that_falls() {
    assert_found(Forgery::NumberLowered, &[Promise::GrantNumber]);
}

#[test]
fn survivors_that_do_not_wait_for_the_lease() {
    assert_found(Forgery::FencedAtOnce, &[Promise::Exclusion]);
}

#[test]
fn survivors_that_do_not_wait_for_the_log() {
    assert_found(Forgery::ReplayedAtOnce, &[Promise::Retained]);
}

#[test]
fn value_blocks_of_before() {
    assert_found(Forgery::ValueKept, &[Promise::Value]);
}

#[test]
fn value_blocks_that_change() {
    assert_found(Forgery::ValueTorn, &[Promise::Value]);
}

#[test]
fn a_request_that_ends_twice() {
    assert_found(Forgery::ToldTwice, &[Promise::Completion]);
}

#[test]
fn a_request_that_never_ends() {
    assert_found(Forgery::RequestLost, &[Promise::Stuck]);
}

#[test]
fn a_holder_that_is_not_told() {
    assert_found(Forgery::NoticeLost, &[Promise::Stuck, Promise::Deadlock]);
}

#[test]
fn a_lock_that_is_lost_on_its_way() {
    assert_found(Forgery::HandLost, &[Promise::Stuck, Promise::Deadlock]);
}

#[test]
fn deadlocks_that_nobody_looks_for() {
    assert_found(Forgery::ProbesLost, &[Promise::Deadlock]);
}

#[test]
fn victims_without_a_deadlock() {
    assert_found(Forgery::AnyVictim, &[Promise::Victim]);
}

#[test]
fn what_is_left_behind() {
    assert_found(Forgery::CountsWrong, &[Promise::Leak]);
}
