//! Data written and read back, bit for bit.

use anyhow::Result;
use sandrail_e2e::Wire;
use sandrail_e2e::matrix::{combinations, mib, run};

use crate::{has, turn};

fn run_all(test: &str, fault_rate: f64, mib: u64) -> Result<()> {
    let Some(_turn) = turn(test, Wire::XdpGeneric) else {
        return Ok(());
    };
    for (number, combination) in (1..).zip(combinations(fault_rate)) {
        if !has(test, combination.shards) {
            continue;
        }
        let outcome = run(combination, mib, number)?;
        println!(
            "{combination}: written in {:.1?}, read in {:.1?}, {} copies of {} frames",
            outcome.writing,
            outcome.reading,
            outcome.counters.tx_copies,
            outcome.counters.tx_frames
        );
    }
    Ok(())
}

#[test]
fn data_comes_back_bit_for_bit_over_every_link_shard_layout_and_mtu() -> Result<()> {
    run_all("data_comes_back", 0.0, mib(64))
}

#[test]
fn data_comes_back_bit_for_bit_under_loss_duplication_and_reordering() -> Result<()> {
    run_all("data_comes_back_under_loss", 0.05, mib(64))
}
