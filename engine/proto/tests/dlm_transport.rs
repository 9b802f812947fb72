//! The lock manager's transport on a bad network: every record once, in order, unchanged, for as long as both ends live;
//! nothing of other lives and other epochs; a bounded number under way. And a checker that notices when it is not so.
#![allow(
    clippy::cast_possible_truncation,
    reason = "stations and record lengths are small numbers"
)]

use std::time::Duration;

use lock_net::{Plan, Sabotage, Tally, World};

mod lock_net;

fn sum(all: &mut Tally, one: Tally) {
    all.delivered += one.delivered;
    all.again += one.again;
    all.duplicates += one.duplicates;
    all.restarts += one.restarts;
    all.waits += one.waits;
    all.old_epoch += one.old_epoch;
    all.newer_epoch += one.newer_epoch;
    all.other_lives += one.other_lives;
}

/// How many seeds a test plays; the variable is for long runs by hand.
fn seeds(usual: u64) -> u64 {
    std::env::var("SANDRAIL_TRANSPORT_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

#[test]
fn calm_networks_carry_everything_once() {
    let tally = World::new(Plan::calm(), 1).run().expect("sound");
    assert!(tally.delivered > 1000, "{tally:?}");
    assert_eq!((tally.again, tally.duplicates), (0, 0), "{tally:?}");
}

#[test]
fn every_record_comes_once_in_order_whatever_happens() {
    let mut all = Tally::default();
    for seed in 0..seeds(150) {
        let plan = Plan::drawn(seed);
        match World::new(plan.clone(), seed).run() {
            Ok(tally) => sum(&mut all, tally),
            Err(violation) => panic!("seed {seed}: {violation}\n{plan:?}"),
        }
    }
    // Everything that was to be survived has happened.
    for (what, count) in [
        ("delivered", all.delivered),
        ("again", all.again),
        ("duplicates", all.duplicates),
        ("restarts", all.restarts),
        ("waits", all.waits),
        ("old epochs", all.old_epoch),
        ("newer epochs", all.newer_epoch),
        ("other lives", all.other_lives),
    ] {
        assert!(count > 100, "{what}: {count} in all seeds");
    }
}

#[test]
fn a_third_of_all_frames_lost_is_survived() {
    let plan = Plan {
        loss: 0.3,
        stations: 3,
        busy: Duration::from_millis(50),
        ..Plan::calm()
    };
    for seed in 0..seeds(10) {
        let tally = World::new(plan.clone(), seed).run().expect("sound");
        assert!(
            tally.delivered > 300 && tally.again > 30,
            "seed {seed}: {tally:?}"
        );
    }
}

#[test]
fn sequences_may_wrap() {
    let plan = Plan {
        first_sequence: u64::MAX - 500,
        loss: 0.1,
        lateness: 0.2,
        ..Plan::calm()
    };
    let tally = World::new(plan, 5).run().expect("sound");
    assert!(tally.delivered > 1000, "too few to have wrapped: {tally:?}");
}

/// A plan in which the rule matters.
fn plan_for(sabotage: Sabotage, seed: u64) -> Plan {
    let base = Plan {
        stations: 2,
        loss: 0.1,
        duplication: 0.1,
        lateness: 0.2,
        sabotage: Some(sabotage),
        ..Plan::drawn(seed)
    };
    match sabotage {
        Sabotage::Epochs => Plan {
            epoch: 0.005,
            late: Duration::from_millis(5),
            ..base
        },
        Sabotage::Lives => Plan {
            restart: 0.005,
            late: Duration::from_millis(5),
            ..base
        },
        // The sender's own window is no larger, so that receivers must be slow for it to matter.
        Sabotage::Credits => Plan {
            window_slots: 64,
            mtu_bytes: 1500,
            busy: Duration::from_millis(40),
            ..base
        },
        _ => base,
    }
}

#[test]
fn the_checker_sees_when_a_rule_does_not_hold() {
    for sabotage in Sabotage::ALL {
        let seen = (0..20).find_map(|seed| {
            let plan = plan_for(sabotage, seed);
            World::new(plan, seed).run().err()
        });
        let sound = Plan {
            sabotage: None,
            ..plan_for(sabotage, 3)
        };
        World::new(sound, 3).run().expect("sound without sabotage");
        let seen = seen.unwrap_or_else(|| panic!("{sabotage:?} went unnoticed"));
        println!("{sabotage:?}: {seen}");
    }
}
