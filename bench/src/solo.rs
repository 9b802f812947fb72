//! `solo`: one contender alone for a while, under a profiler.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sandrail_bench::blade_site::BladeSite;
use sandrail_bench::load::{self, OnShard};
use sandrail_bench::machine;
use sandrail_bench::rival::Rival;
use sandrail_bench::site::{Blocks, DISK_BYTES, Direction, Open, Way};
use sandrail_lab::Side;
use sandrail_link::packet::PacketLink;
use sandrail_link::xdp::XdpLink;
use sandrail_wire::{MacAddr, TargetAddr};

use crate::Cores;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Contender {
    /// The bare loop
    Rival,
    /// The engine, loaded on the shard
    Shard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Against {
    /// The third-party target
    Vblade,
    /// Our target, which spins
    Blade,
}

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Who runs
    #[arg(long)]
    side: Contender,
    /// Against whom
    #[arg(long, default_value = "vblade")]
    target: Against,
    /// Way through the kernel
    #[arg(long, default_value = "xdp-generic")]
    link: Way,
    /// I/Os under way
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Which way the data goes
    #[arg(long, default_value = "read")]
    direction: Direction,
    /// For how long, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[command(flatten)]
    cores: Cores,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    match options.link {
        Way::Packet | Way::PacketMmsg => run_over::<PacketLink>(options),
        Way::XdpGeneric | Way::XdpNative => run_over::<XdpLink>(options),
    }
}

fn run_over<L: Open>(options: &Options) -> anyhow::Result<()> {
    match options.target {
        Against::Vblade => {
            let _awake = options.cores.settle()?;
            let site = options.cores.site()?;
            let link = site.open::<L>(options.link)?;
            alone(options, link, site.target(), site.sectors())
        }
        Against::Blade => {
            machine::pin(options.cores.target_core)?;
            let (sectors, way) = (DISK_BYTES / 512, options.link);
            let core = options.cores.target_core;
            let site = BladeSite::new(sectors, core, way.blade_args(), "spin")?;
            let lab = site.lab();
            let interface = lab.interface(Side::Initiator);
            let link = lab.enter(Side::Initiator, || L::open(way, interface))??;
            alone(options, link, site.target(), sectors)
        }
    }
}

fn alone<L: Open>(
    options: &Options,
    link: L,
    target: (TargetAddr, MacAddr),
    sectors: u64,
) -> anyhow::Result<()> {
    let duration = Duration::from_secs(options.seconds);
    let (direction, depth) = (options.direction, options.depth);
    let ran = options.cores.on_shard_core(|| match options.side {
        Contender::Rival => {
            let blocks = Blocks::new(1, sectors);
            Ok(Rival::new(link, target, direction, depth, blocks).run(duration))
        }
        Contender::Shard => {
            let load = direction.load(sectors, 1, depth);
            OnShard::new(&load::config(), link, target, &load)?.run(duration)
        }
    })?;
    println!("{:.0} I/O/s: {ran:?}", ran.ios_per_s());
    Ok(())
}
