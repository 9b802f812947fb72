//! `kicks`: system calls, polls and yields an I/O, on a real target. Counters repeat where times do not.

use std::time::Duration;

use clap::Args;
use sandrail_bench::load::{self, FromThread, OnShard};
use sandrail_bench::rival::Ran;
use sandrail_bench::site::{MTU_BYTES, Open, Site, Way};
use sandrail_link::packet::PacketLink;
use sandrail_link::xdp::XdpLink;
use sandrail_node::ShardStat;
use sandrail_report::Machine;

use crate::{Cores, Mix};

/// Kicks an I/O at most: one to send it, and what little is sent again or asked beside it.
const TX_KICKS_MAX: f64 = 1.1;
/// Nothing but a driver that wants to be told of refills costs system calls to receive.
const RX_KICKS_MAX: f64 = 1.1;
/// Calls of poll(2) an I/O at most: a shard that has nothing to do until the reply sleeps once.
const SLEEPS_MAX: f64 = 1.1;

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    mix: Mix,
    /// How long each combination runs, in milliseconds
    #[arg(long, default_value_t = 2000)]
    run_ms: u64,
    #[command(flatten)]
    cores: Cores,
}

/// What one I/O cost.
struct Cost {
    label: String,
    ios: u64,
    tx_kicks: f64,
    rx_kicks: f64,
    turns: f64,
    yields: f64,
    sleeps: f64,
    /// Frames sent again.
    copies: u64,
    latency_us: [f64; 3],
}

impl Cost {
    fn of(label: String, ran: Ran, stats: &[ShardStat; 2]) -> Self {
        let [before, after] = stats;
        let ios = ran.ios;
        let each = |count: u64| per(count, ios);
        let kicks = |stat: &ShardStat| {
            let counters = stat.links.iter().map(|link| link.counters);
            counters.fold((0, 0), |(tx, rx), link| {
                (tx + link.tx_kicks, rx + link.rx_kicks)
            })
        };
        let ((tx_before, rx_before), (tx, rx)) = (kicks(before), kicks(after));
        let mut latency = after.latency.read.clone();
        latency.add(&after.latency.write).unwrap_or_default();
        Self {
            label,
            ios,
            tx_kicks: each(tx - tx_before),
            rx_kicks: each(rx - rx_before),
            turns: each(ran.turns),
            yields: each(ran.yields),
            sleeps: each(after.counters.sleeps - before.counters.sleeps),
            copies: after.initiator.tx_copies - before.initiator.tx_copies,
            latency_us: [0.5, 0.99, 0.999]
                .map(|quantile| per(latency.value_at_quantile(quantile), 1000)),
        }
    }

    fn check(&self) -> Result<(), String> {
        for (what, value, most) in [
            ("kicks to send", self.tx_kicks, TX_KICKS_MAX),
            ("kicks to receive", self.rx_kicks, RX_KICKS_MAX),
            ("calls of poll(2)", self.sleeps, SLEEPS_MAX),
        ] {
            if value > most {
                return Err(format!(
                    "{}: {value:.2} {what} an I/O, {most} at most",
                    self.label
                ));
            }
        }
        if self.ios == 0 {
            return Err(format!("{}: no I/O ended", self.label));
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a few seconds are far below 2^53"
)]
fn per(count: u64, ios: u64) -> f64 {
    count as f64 / ios.max(1) as f64
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let _awake = options.cores.settle()?;
    let this = Machine::this();
    println!(
        "System calls, polls and yields an I/O: 4 KiB random {}s, vblade -b 128, MTU {MTU_BYTES}",
        options.mix.direction
    );
    println!(
        "{}; {}; kernel {}; {}",
        this.machine, this.cpu, this.kernel, this.scheduling_class
    );
    println!(
        "{}; a turn polls the receive ring once\n",
        options.cores.words()
    );
    println!(
        "{:34} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7}  {:>26}",
        "",
        "I/Os",
        "tx kicks",
        "rx kicks",
        "turns",
        "yields",
        "poll(2)",
        "copies",
        "p50 / p99 / p99.9, us"
    );
    let mut faults = Vec::new();
    for way in &options.mix.links {
        for depth in &options.mix.depths {
            let site = options.cores.site()?;
            let costs = match way {
                Way::Packet | Way::PacketMmsg => costs::<PacketLink>(options, &site, *way, *depth)?,
                Way::XdpGeneric | Way::XdpNative => costs::<XdpLink>(options, &site, *way, *depth)?,
            };
            for cost in costs {
                let [p50, p99, p999] = cost.latency_us;
                println!(
                    "{:34} {:8} {:8.3} {:8.3} {:8.2} {:8.2} {:8.3} {:7}  {p50:8.1} {p99:8.1} {p999:8.1}",
                    cost.label,
                    cost.ios,
                    cost.tx_kicks,
                    cost.rx_kicks,
                    cost.turns,
                    cost.yields,
                    cost.sleeps,
                    cost.copies
                );
                faults.extend(cost.check().err());
            }
        }
    }
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn costs<L: Open>(
    options: &Options,
    site: &Site,
    way: Way,
    depth: usize,
) -> anyhow::Result<[Cost; 2]> {
    let duration = Duration::from_millis(options.run_ms);
    let (direction, seed) = (options.mix.direction, options.mix.seed);
    let wanted = direction.load(site.sectors(), seed, depth);
    let on_shard = options.cores.on_shard_core(|| {
        let link = site.open::<L>(way)?;
        let config = load::config();
        let mut load = OnShard::new(&config, link, site.target(), &wanted)?;
        let before = load.stat()?;
        let ran = load.run(duration)?;
        let label = format!("{way}, depth {depth}, on the shard");
        Ok(Cost::of(label, ran, &[before, load.stat()?]))
    })?;
    let link = site.open::<L>(way)?;
    let core = options.cores.shard_core;
    let mut load = options
        .cores
        .on_shard_core(|| FromThread::new(core, link, site.target(), &wanted))?;
    let before = load.stat()?;
    let mut ran = load.run(duration)?;
    let after = load.stat()?;
    // The shard's, not the client's.
    ran.turns = after.counters.turns - before.counters.turns;
    ran.yields = after.counters.yields - before.counters.yields;
    let label = format!("{way}, depth {depth}, from a thread");
    let from_thread = Cost::of(label, ran, &[before, after]);
    load.stop()?;
    Ok([on_shard, from_thread])
}
