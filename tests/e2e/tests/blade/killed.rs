//! The blade killed in a storm of writes; 200 times with `./run soak blade`.

use anyhow::{Context, Result};
use sandrail_e2e::killing::{End, Killing, Outcome, WIRES, end_of};
use sandrail_e2e::{Shards, Wire};

use crate::turn;

#[test]
fn killed_in_a_storm_it_keeps_what_it_promised_and_tells_what_it_lost() -> Result<()> {
    let Some(_turn) = turn("blade_killed", Wire::XdpGeneric) else {
        return Ok(());
    };
    const SEED: u64 = 3;
    let mut sum = Outcome::default();
    for (round, wire) in (0..).zip(WIRES) {
        let shards = if round == 1 {
            Shards::TwoOnOneQueue
        } else {
            Shards::One
        };
        let mut killing = Killing::new(wire, shards, SEED)?;
        let outcome = killing.round(end_of(round, SEED));
        sum.add(&outcome.with_context(|| format!("{wire}, seed {SEED}"))?);
        killing.close()?;
    }
    println!("{sum}");
    assert_eq!((sum.kills, sum.losses_told), (3, 3), "{sum}");
    assert!(
        sum.sectors_lost > 0 && sum.flushes > 0 && sum.changes > 3,
        "a storm that shows nothing: {sum}"
    );
    Ok(())
}

/// A checker that finds nothing shows nothing: a target that loses what it acknowledged is found out.
#[test]
fn a_target_that_loses_acknowledged_writes_is_found_out() -> Result<()> {
    const MISSING: &str = "of the plain target, after the end: in the file: sector";
    let Some(_turn) = turn("blade_forgetful", Wire::PacketRing) else {
        return Ok(());
    };
    // Killed just when a flush had written everything out, it is found out by what the next flush says, not by the file.
    let mut found = Vec::new();
    while !found.iter().any(|error: &String| error.contains(MISSING)) && found.len() < 8 {
        let seed = u64::try_from(found.len())?;
        let mut killing = Killing::with(Wire::PacketRing, Shards::One, seed, ",power-cut")?;
        found.push(format!("{:#}", killing.round(End::Kill).unwrap_err()));
    }
    println!("{found:?}");
    assert!(
        found.iter().any(|error| error.contains(MISSING)),
        "{found:?}"
    );
    Ok(())
}
