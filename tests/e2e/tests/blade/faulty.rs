//! Every fault at once; ten minutes of it with `./run soak faults`.

use std::time::Duration;

use anyhow::{Context, Result};
use sandrail_e2e::{Wire, faults};

use crate::turn;

#[test]
fn verified_load_survives_every_fault_at_once_and_leaves_nothing_behind() -> Result<()> {
    let Some(_turn) = turn("blade_faults", Wire::XdpGeneric) else {
        return Ok(());
    };
    const SEED: u64 = 1;
    let outcome = faults::run(Duration::from_secs(12), SEED).context("seed 1")?;
    println!("{outcome}");
    assert!(outcome.saw_everything(), "{outcome}");
    Ok(())
}
