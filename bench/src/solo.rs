//! `solo`: one contender alone for a while, under a profiler.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sandrail_bench::load::{self, OnShard};
use sandrail_bench::rival::Rival;
use sandrail_bench::site::{Direction, Open, Site, Way};
use sandrail_link::packet::PacketLink;
use sandrail_link::xdp::XdpLink;

use crate::Cores;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Side {
    /// The bare loop
    Rival,
    /// The engine, loaded on the shard
    Shard,
}

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Who runs
    #[arg(long)]
    side: Side,
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
    let _awake = options.cores.settle()?;
    let site = options.cores.site()?;
    options.cores.on_shard_core(|| match options.link {
        Way::Packet => alone::<PacketLink>(options, &site),
        Way::XdpGeneric | Way::XdpNative => alone::<XdpLink>(options, &site),
    })
}

fn alone<L: Open>(options: &Options, site: &Site) -> anyhow::Result<()> {
    let link = site.open::<L>(options.link)?;
    let (blocks, duration) = (site.blocks(1), Duration::from_secs(options.seconds));
    let (direction, depth) = (options.direction, options.depth);
    let ran = match options.side {
        Side::Rival => Rival::new(link, site.target(), direction, depth, blocks).run(duration),
        Side::Shard => OnShard::new(
            &load::config(),
            link,
            site.target(),
            &direction.load(site.sectors(), 1, depth),
        )?
        .run(duration)?,
    };
    println!("{:.0} I/O/s: {ran:?}", ran.ios_per_s());
    Ok(())
}
