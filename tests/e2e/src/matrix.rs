//! Data written and read back over every combination of link, shards and MTU.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandrail_link::fault::{Direction, FaultPlan};
use sandrail_proto::aoe::initiator::Counters;

use crate::data::Pattern;
use crate::load;
use crate::site::{Setup, Shards, Site, Wire};

/// The least that reaches every shard: a MiB is a stripe.
pub const MIB_MIN: u64 = 4;
/// Overrides how many MiB each combination carries.
pub const MIB_VARIABLE: &str = "SANDRAIL_E2E_MIB";

/// MiB a combination, unless the caller's `default` is overridden by [`MIB_VARIABLE`].
///
/// # Panics
/// If the variable holds no number from [`MIB_MIN`] to 65536.
#[must_use]
pub fn mib(default: u64) -> u64 {
    let Ok(text) = std::env::var(MIB_VARIABLE) else {
        return default;
    };
    let given = text.parse().ok();
    given
        .filter(|mib| (MIB_MIN..=1 << 16).contains(mib))
        .unwrap_or_else(|| panic!("{MIB_VARIABLE}={text} is no number of MiB from {MIB_MIN} on"))
}

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combination {
    /// The link.
    pub wire: Wire,
    /// The shards.
    pub shards: Shards,
    /// MTU of both ends.
    pub mtu_bytes: u32,
    /// Probability of loss, of duplication and of reordering, each way.
    pub fault_rate: f64,
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, MTU {}", self.wire, self.shards, self.mtu_bytes)?;
        if self.fault_rate > 0.0 {
            write!(
                f,
                ", {} % loss, duplication and reordering each way",
                self.fault_rate * 100.0
            )?;
        }
        Ok(())
    }
}

/// Every link with one shard and with two on one queue, native mode also with two on two queues, at both MTUs.
#[must_use]
pub fn combinations(fault_rate: f64) -> Vec<Combination> {
    let mut all = Vec::new();
    for mtu_bytes in [1500, 9000] {
        for wire in Wire::ALL {
            let mut add = |shards| {
                all.push(Combination {
                    wire,
                    shards,
                    mtu_bytes,
                    fault_rate,
                });
            };
            add(Shards::One);
            add(Shards::TwoOnOneQueue);
            // On veth a generic program sees the second queue's frames on the first: there the queues are one.
            if wire == Wire::XdpNative {
                add(Shards::TwoOnTwoQueues);
            }
        }
    }
    all
}

/// How a combination went.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Time to write everything.
    pub writing: Duration,
    /// Time to read and check everything.
    pub reading: Duration,
    /// What the initiators counted.
    pub counters: Counters,
    /// Pings sent meanwhile, and answered.
    pub pings: (u32, u32),
}

/// Writes `mib` MiB over one combination, reads them back bit for bit, looks at the disk behind the target's back, and
/// pings between the namespaces all the while. `seed` decides data, lengths, order and faults.
///
/// # Errors
/// Whatever went wrong, with the combination and the seed.
pub fn run(combination: Combination, mib: u64, seed: u64) -> Result<Outcome> {
    run_one(combination, mib, seed)
        .with_context(|| format!("{combination}, {mib} MiB, seed {seed}"))
}

fn run_one(combination: Combination, mib: u64, seed: u64) -> Result<Outcome> {
    let Combination {
        wire,
        shards,
        mtu_bytes,
        fault_rate,
    } = combination;
    let mut setup = Setup::new(wire).shards(shards).mtu(mtu_bytes).disk_mib(mib);
    if fault_rate > 0.0 {
        setup = setup.faults(move |shard| {
            FaultPlan::new(seed << 8 | u64::from(shard))
                .with_rates(fault_rate, fault_rate, fault_rate)
        });
    }
    let site = Site::build(setup)?;
    let pattern = Pattern::new(seed, 1);
    let total = site.disk.len_sectors();
    let mut client = site.client(load::DEPTH)?;

    let ping = site.lab.start_ping(20, Duration::from_millis(10))?;
    let begun = Instant::now();
    load::write_all(&mut client, site.target, total, pattern)?;
    let writing = begun.elapsed();
    let begun = Instant::now();
    load::read_all(&mut client, site.target, total, pattern)?;
    let reading = begun.elapsed();
    load::check_disk(&site.disk, total, pattern)?;
    let pings = ping.wait()?;
    ensure!(
        pings.lost() == 0,
        "{} of {} pings were lost",
        pings.lost(),
        pings.sent
    );

    let stat = site.node.stat()?;
    for shard in &stat.shards {
        let requests = shard.counters.completions;
        ensure!(requests > 0, "shard {} had no requests", shard.shard);
        ensure!(
            shard.initiator.rx_other_shard == 0,
            "shard {} got {} frames of another's",
            shard.shard,
            shard.initiator.rx_other_shard
        );
    }
    for control in &site.faults {
        for direction in [Direction::Transmit, Direction::Receive] {
            let done = control.counters(direction);
            ensure!(
                done.lost > 0 && done.duplicated > 0 && done.reordered > 0,
                "no fault of some kind, {direction:?}: {done:?}"
            );
        }
    }
    let counters = crate::site::sum(&stat);
    drop(client);
    site.close()?;
    Ok(Outcome {
        writing,
        reading,
        counters,
        pings: (pings.sent, pings.received),
    })
}
