//! `initiator`: what the engine leaves of what a target gives to the least possible client.

use std::time::Duration;

use clap::Args;
use sandrail_bench::load::{self, FromThread, OnShard};
use sandrail_bench::pairs::{Contender, interleave};
use sandrail_bench::report;
use sandrail_bench::rival::{Ran, Rival};
use sandrail_bench::site::{MTU_BYTES, Open, Site, Way};
use sandrail_bench::waiter;
use sandrail_link::packet::PacketLink;
use sandrail_link::xdp::XdpLink;
use sandrail_report::{Comparison, Machine, Row};

use crate::{Cores, Mix, Out};

const UNIT: &str = "I/O/s";
const RIVAL: &str = "bare loop";

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    mix: Mix,
    /// Rounds: each contender runs once in each
    #[arg(long, default_value_t = 24)]
    rounds: usize,
    /// Length of each sample, in milliseconds
    #[arg(long, default_value_t = 500)]
    sample_ms: u64,
    /// What runs before each sample without being counted, in milliseconds
    #[arg(long, default_value_t = 100)]
    warmup_ms: u64,
    /// Leaves out the client on a thread of its own
    #[arg(long)]
    no_thread: bool,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    out: Out,
}

impl Options {
    fn sample(&self) -> Duration {
        Duration::from_millis(self.sample_ms)
    }

    fn warmup(&self) -> Duration {
        Duration::from_millis(self.warmup_ms)
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // The target inherits the core.
    let _awake = options.cores.settle()?;
    let mut rows = Vec::new();
    let mut modes: Vec<String> = Vec::new();
    for way in &options.mix.links {
        for depth in &options.mix.depths {
            // A target of its own for each, so that none inherits what an earlier one left in its queues.
            let site = options.cores.site()?;
            let (mode, found) = match way {
                Way::Packet | Way::PacketMmsg => {
                    compare::<PacketLink>(options, &site, *way, *depth)?
                }
                Way::XdpGeneric | Way::XdpNative => {
                    compare::<XdpLink>(options, &site, *way, *depth)?
                }
            };
            if !modes.contains(&mode) {
                modes.push(mode);
            }
            rows.extend(found);
            anyhow::ensure!(site.is_alive(), "the target died");
        }
    }
    let comparison = Comparison {
        title: format!(
            "4 KiB random {}s: the engine against a bare polled loop",
            options.mix.direction
        ),
        machine: Machine::this(),
        link_mode: modes.join(", "),
        mtu_bytes: MTU_BYTES,
        pinning: options.cores.words(),
        conditions: format!(
            "vblade -b 128 on 64 MiB in /dev/shm; {} ms of each run left out as warm-up; idle loops spin {} turns, then \
             yield; from a thread: shard {}, client {}, client beside vblade",
            options.warmup_ms,
            waiter::SPIN_TURNS,
            load::words(load::config().idle),
            load::words(load::config().client_idle),
        ),
        samples: options.rounds,
        sample_ms: options.sample_ms,
        goal: Some(0.9),
        rows,
    };
    println!("{}", report::table(&comparison));
    report::write(&comparison, &options.out.out, "initiator")
}

/// One way and depth.
fn compare<L: Open>(
    options: &Options,
    site: &Site,
    way: Way,
    depth: usize,
) -> anyhow::Result<(String, Vec<Row>)> {
    let mode = site.open::<L>(way)?.info().mode.clone();
    let mut resent = 0;
    let resent_cell = std::cell::Cell::new(0_u64);
    let note = |ran: Ran| {
        resent_cell.set(resent_cell.get() + ran.resent);
        ran.ios_per_s()
    };
    let mut contenders = vec![
        Contender {
            name: RIVAL,
            run: Box::new(|| {
                options
                    .cores
                    .on_shard_core(|| rival::<L>(options, site, way, depth))
                    .map(note)
            }),
        },
        Contender {
            name: "on the shard",
            run: Box::new(|| {
                options
                    .cores
                    .on_shard_core(|| on_shard::<L>(options, site, way, depth))
                    .map(note)
            }),
        },
    ];
    if !options.no_thread {
        contenders.push(Contender {
            name: "from a thread",
            run: Box::new(|| from_thread::<L>(options, site, way, depth).map(note)),
        });
    }
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    let samples = interleave(options.rounds, &mut contenders, |round| {
        eprint!(
            "\r{way}, depth {depth}: round {round} of {}",
            options.rounds
        );
    })?;
    drop(contenders);
    resent += resent_cell.get();
    eprintln!("; frames sent again or stalls: {resent}");
    let rows = names
        .iter()
        .zip(&samples)
        .enumerate()
        .map(|(place, (name, own))| {
            let metric = format!("{way}, depth {depth}: {name}");
            if place == 0 {
                Row::rival(metric, UNIT, own)
            } else {
                Row::versus(metric, UNIT, own, RIVAL, &samples[0])
            }
        });
    Ok((mode, rows.collect()))
}

fn rival<L: Open>(options: &Options, site: &Site, way: Way, depth: usize) -> anyhow::Result<Ran> {
    let link = site.open::<L>(way)?;
    let blocks = site.blocks(options.mix.seed);
    let mut rival = Rival::new(link, site.target(), options.mix.direction, depth, blocks);
    rival.run(options.warmup());
    let ran = rival.run(options.sample());
    anyhow::ensure!(ran.ios > 0, "the target does not answer the rival");
    Ok(ran)
}

fn on_shard<L: Open>(
    options: &Options,
    site: &Site,
    way: Way,
    depth: usize,
) -> anyhow::Result<Ran> {
    let link = site.open::<L>(way)?;
    let (direction, seed) = (options.mix.direction, options.mix.seed);
    let wanted = direction.load(site.sectors(), seed, depth);
    let mut load = OnShard::new(&load::config(), link, site.target(), &wanted)?;
    load.run(options.warmup())?;
    let before = load.stat()?.initiator.tx_copies;
    let mut ran = load.run(options.sample())?;
    ran.resent = load.stat()?.initiator.tx_copies - before;
    Ok(ran)
}

fn from_thread<L: Open>(
    options: &Options,
    site: &Site,
    way: Way,
    depth: usize,
) -> anyhow::Result<Ran> {
    let link = site.open::<L>(way)?;
    let (core, direction) = (options.cores.shard_core, options.mix.direction);
    let wanted = direction.load(site.sectors(), options.mix.seed, depth);
    let mut load = options
        .cores
        .on_shard_core(|| FromThread::new(core, link, site.target(), &wanted))?;
    load.run(options.warmup())?;
    let before = load.stat()?.initiator.tx_copies;
    let mut ran = load.run(options.sample())?;
    ran.resent = load.stat()?.initiator.tx_copies - before;
    load.stop()?;
    Ok(ran)
}
