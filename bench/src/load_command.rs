//! `load`: any load on any target, or on one that is started for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, ValueEnum};
use sandrail_bench::arrivals::Arrivals;
use sandrail_bench::awake::Awake;
use sandrail_bench::blade_site::BladeSite;
use sandrail_bench::driver::{LoadConfig, Pace, Span};
use sandrail_bench::load::{self, OnShard};
use sandrail_bench::site::{DISK_BYTES, Site};
use sandrail_bench::text::{Addr, Bytes};
use sandrail_bench::threads::{Threads, Together, share};
use sandrail_bench::workload::{Pattern, WorkloadConfig};
use sandrail_bench::{costs, machine};
use sandrail_lab::{Lab, Side};
use sandrail_link::{Link, LinkInfo};
use sandrail_node::links::{AnyLink, LinkChoice, LinkOptions, by_shard, open_links};
use sandrail_proto::aoe::initiator::PinnedMacs;
use sandrail_report::{
    ClassSummary, Cost, LogWriter, Machine, OpClass, Run, Summary, Tick, latency_histogram,
    write_percentiles, write_run,
};
use sandrail_wire::{Lba, TargetAddr};

use crate::{Cores, Out};

/// Intervals of a record at most; a long run has longer ones.
const INTERVALS_MAX: u32 = 200;
/// Unless a run is long.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    /// Our target in a lab of its own, in memory
    Blade,
    /// The third-party target in a lab of its own, on a file in memory
    Vblade,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PatternName {
    Random,
    Sequential,
    Zipf,
}

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Interface of a SAN to load, in the present network namespace, instead of a lab
    #[arg(long, requires = "target")]
    interface: Option<String>,
    /// The target there: shelf.slot
    #[arg(long, requires = "interface")]
    target: Option<Addr>,
    /// Allows writes to that target: what lies in the working set is lost
    #[arg(long)]
    overwrite: bool,
    /// What to start in a lab
    #[arg(long, default_value = "blade", conflicts_with = "interface")]
    lab: Where,
    /// How frames travel: auto, xdp, xdp-native, xdp-generic or packet
    #[arg(long, default_value = "auto")]
    link: LinkChoice,
    /// Of a hundred I/Os, so many are reads
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    read: u8,
    /// Length of each I/O
    #[arg(long, default_value = "4K", value_name = "BYTES")]
    block: Bytes,
    /// Where the blocks lie
    #[arg(long, default_value = "random")]
    pattern: PatternName,
    /// Zipf's exponent
    #[arg(long, default_value_t = 0.99)]
    theta: f64,
    /// Length of the working set; the whole disk unless given
    #[arg(long, value_name = "BYTES")]
    working_set: Option<Bytes>,
    /// First sector of the working set
    #[arg(long, default_value_t = 0, value_name = "LBA")]
    first: u64,
    /// I/Os under way at most, all clients together
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// An open loop: so many I/Os a second are due, whatever the target does; a closed loop unless given
    #[arg(long, value_name = "IO/S")]
    rate: Option<f64>,
    /// How an open loop's I/Os are spread
    #[arg(long, default_value = "poisson")]
    arrivals: Arrivals,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Ends earlier, after so many I/Os of each client
    #[arg(long, value_name = "COUNT")]
    ios: Option<u64>,
    /// What runs first without being measured, in milliseconds
    #[arg(long, default_value_t = 500)]
    warmup_ms: u64,
    /// Stamps and checks every block; the working set is written first and read back at the end
    #[arg(long)]
    verify: bool,
    /// Shards
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    shards: u8,
    /// Clients on threads of their own; without any, the shard's own thread makes the load
    #[arg(long, default_value_t = 0)]
    clients: usize,
    /// Seed of everything that is random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Name of the files
    #[arg(long, default_value = "load")]
    name: String,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    out: Out,
}

impl Options {
    /// The load on a disk of that length.
    fn load(&self, disk_sectors: u64) -> anyhow::Result<LoadConfig> {
        let rest = disk_sectors
            .checked_sub(self.first)
            .filter(|rest| *rest > 0)
            .with_context(|| format!("sector {} of {disk_sectors}", self.first))?;
        let sectors = self.working_set.map_or(rest, |bytes| bytes.0 / 512);
        anyhow::ensure!(
            sectors <= rest,
            "a working set of {sectors} sectors from {} on, of {disk_sectors}",
            self.first
        );
        if let Some(rate) = self.rate {
            anyhow::ensure!(rate > 0.0 && rate.is_finite(), "--rate {rate}");
        }
        let workload = WorkloadConfig {
            read_percent: self.read,
            block_bytes: usize::try_from(self.block.0)?,
            pattern: match self.pattern {
                PatternName::Random => Pattern::Uniform,
                PatternName::Sequential => Pattern::Sequential,
                PatternName::Zipf => Pattern::Zipf { theta: self.theta },
            },
            first: Lba(self.first),
            sectors,
            seed: self.seed,
        };
        workload.check()?;
        Ok(LoadConfig {
            workload,
            depth: self.depth,
            pace: self.rate.map_or(Pace::Closed, |per_s| Pace::Open {
                per_s,
                arrivals: self.arrivals,
            }),
            verify: self.verify,
        })
    }

    fn span(&self) -> anyhow::Result<Span> {
        anyhow::ensure!(
            (0.001..=86_400.0).contains(&self.seconds),
            "--seconds {}: from 0.001 to 86400",
            self.seconds
        );
        let measure = Duration::from_secs_f64(self.seconds);
        Ok(Span {
            warmup: Duration::from_millis(self.warmup_ms),
            measure,
            interval: INTERVAL.max(measure / INTERVALS_MAX),
            ios_max: self.ios.unwrap_or(u64::MAX),
        })
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            (1..=4096).contains(&self.depth),
            "--depth {}: from 1 to 4096",
            self.depth
        );
        anyhow::ensure!(
            self.clients > 0 || self.shards == 1,
            "several shards want clients on threads of their own: --clients"
        );
        anyhow::ensure!(
            self.interface.is_none() || self.overwrite || (self.read == 100 && !self.verify),
            "this load writes to a target that is not the bench's own: --overwrite, if what lies there may be lost"
        );
        Ok(())
    }

    fn pinning(&self) -> String {
        if self.interface.is_some() && self.clients > 0 {
            return "none".to_owned();
        }
        let Cores {
            shard_core,
            target_core,
            ..
        } = self.cores;
        let others = if self.interface.is_some() {
            String::new()
        } else {
            format!(", the target and clients on threads of their own on core {target_core}")
        };
        format!("shards on core {shard_core}{others}")
    }

    /// The load in words.
    fn words(&self, load: &LoadConfig, target: &str) -> String {
        let pattern = match load.workload.pattern {
            Pattern::Sequential => "sequential".to_owned(),
            Pattern::Uniform => "random".to_owned(),
            Pattern::Zipf { theta } => format!("Zipf {theta}"),
        };
        let pace = match load.pace {
            Pace::Closed => "closed loop".to_owned(),
            Pace::Open { per_s, arrivals } => {
                format!("open loop, {per_s} a second ({arrivals:?}), latency from when due")
            }
        };
        let from = match self.clients {
            0 => "on the shard's thread".to_owned(),
            clients => format!("{clients} clients, {} shards", self.shards),
        };
        format!(
            "{}% reads, {} B, {pattern}, depth {}, {pace}; {} sectors from {}; {from}; {target}{}",
            load.workload.read_percent,
            load.workload.block_bytes,
            load.depth,
            load.workload.sectors,
            load.workload.first.0,
            if load.verify { "; verified" } else { "" }
        )
    }
}

/// Whom the load is for, and what must live as long.
struct Subject {
    addr: TargetAddr,
    pinned: PinnedMacs,
    words: String,
    /// The target's process, where it is ours.
    pid: Option<u32>,
    place: Place,
    _awake: Option<Awake>,
}

enum Place {
    Here(String),
    Vblade(Site),
    Blade(BladeSite),
}

impl Subject {
    fn new(options: &Options) -> anyhow::Result<Self> {
        if let (Some(interface), Some(target)) = (&options.interface, options.target) {
            let addr = target.0;
            return Ok(Self {
                addr,
                pinned: PinnedMacs::first_to_answer(),
                words: format!("target {target} on {interface}"),
                pid: None,
                place: Place::Here(interface.clone()),
                _awake: None,
            });
        }
        let ((addr, mac), words, pid, place, awake) = match options.lab {
            Where::Vblade => {
                let site = Site::on_core(options.cores.target_core)?;
                let awake = Awake::keep_on(options.cores.target_core)?;
                let words = "vblade -b 128, file in memory".to_owned();
                let (target, pid) = (site.target(), site.pid());
                (target, words, pid, Place::Vblade(site), Some(awake))
            }
            Where::Blade => {
                let core = options.cores.target_core;
                let link = options.link.to_string();
                let site = BladeSite::new(DISK_BYTES / 512, core, &["--link", &link], "sleep")?;
                let words = "sandrail-blade, memory".to_owned();
                let (target, pid) = (site.target(), site.pid());
                (target, words, pid, Place::Blade(site), None)
            }
        };
        Ok(Self {
            addr,
            pinned: PinnedMacs::new(&[mac]).context("one MAC")?,
            words,
            pid: Some(pid),
            place,
            _awake: awake,
        })
    }

    /// Opens the links of all shards.
    fn links(&self, options: &Options) -> anyhow::Result<Vec<Vec<AnyLink>>> {
        let shards = usize::from(options.shards);
        let open = |interface: &str| {
            let mut wanted = LinkOptions::new(interface);
            wanted.choice = options.link;
            Ok(open_links(&wanted, shards)?.links)
        };
        let inside = |lab: &Lab| -> anyhow::Result<Vec<AnyLink>> {
            let interface = lab.interface(Side::Initiator);
            lab.enter(Side::Initiator, || open(interface))?
        };
        let links = match &self.place {
            Place::Here(interface) => open(interface)?,
            Place::Vblade(site) => inside(site.lab())?,
            Place::Blade(site) => inside(site.lab())?,
        };
        Ok(by_shard(vec![links]))
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    options.check()?;
    let span = options.span()?;
    let subject = Subject::new(options)?;
    let links = subject.links(options)?;
    let info = links
        .first()
        .and_then(|shard| shard.first())
        .context("a link")?
        .info()
        .clone();
    let far_before = subject.pid.map(costs::threads_cpu).transpose()?;
    let started = SystemTime::now();
    let (together, load) = if options.clients == 0 {
        let link = links.into_iter().flatten().next().context("a link")?;
        options
            .cores
            .on_shard_core(|| on_shard(options, &subject, link, span))?
    } else {
        from_threads(options, &subject, links, span)?
    };
    let far = match (subject.pid, far_before) {
        (Some(pid), Some(before)) => Some(costs::threads_cpu(pid)?.saturating_sub(before)),
        _ => None,
    };
    let measured = &together.measured;
    if measured.overdue > 0 {
        println!(
            "{} I/Os that were due were never begun: the target is slower than the rate",
            measured.overdue
        );
    }
    if options.verify {
        println!(
            "verified: {} blocks were what they should be",
            measured.checked
        );
    }
    let result = result(options, &subject, &info, &load, span, &together, far);
    write(options, &result, &together, started)?;
    anyhow::ensure!(measured.ios > 0, "no I/O ended");
    Ok(())
}

fn node_config(options: &Options, load: &LoadConfig) -> sandrail_node::NodeConfig {
    let mut config = load::fit(load::config(), load, 1);
    config.seed = options.seed;
    if options.clients > 0 && options.interface.is_none() {
        let cores = vec![options.cores.shard_core; usize::from(options.shards)];
        config.cores = Some(cores);
    }
    config
}

/// As much of the load as is known before the disk's length is.
fn first_load(options: &Options) -> anyhow::Result<LoadConfig> {
    options.load(options.first + (1 << 20).max(options.working_set.map_or(0, |set| set.0 / 512)))
}

fn on_shard(
    options: &Options,
    subject: &Subject,
    link: AnyLink,
    span: Span,
) -> anyhow::Result<(Together, LoadConfig)> {
    let first = first_load(options)?;
    let config = node_config(options, &first);
    let mut on_shard = OnShard::pinned(&config, link, subject.addr, subject.pinned, &first)?;
    let sectors = on_shard
        .stat()?
        .targets
        .first()
        .context("the target is attached")?
        .info
        .identify
        .sectors;
    let load = options.load(sectors)?;
    on_shard.set_load(&load, subject.addr)?;
    let before = costs::thread_cpu()?;
    if load.verify {
        on_shard.sweep(true)?;
    }
    let (mut measured, ran) = on_shard.measure(span)?;
    let cpu = costs::thread_cpu()? - before;
    if load.verify {
        on_shard.sweep(false)?;
        measured.checked = on_shard.checked();
    }
    let ios = ran.ios;
    Ok((Together { measured, cpu, ios }, load))
}

fn from_threads(
    options: &Options,
    subject: &Subject,
    links: Vec<Vec<AnyLink>>,
    span: Span,
) -> anyhow::Result<(Together, LoadConfig)> {
    let config = node_config(options, &first_load(options)?);
    let threads = options
        .cores
        .on_shard_core(|| Threads::start(&config, links, subject.addr, subject.pinned))?;
    let load = options.load(threads.target()?.identify.sectors)?;
    let parts = share(&load, options.clients)?;
    // In a lab the target has the other core; elsewhere it is another machine, and the scheduler decides.
    let core = subject.pid.map(|_| options.cores.target_core);
    let together = threads.measure(&parts, span, core)?;
    threads.stop()?;
    Ok((together, load))
}

fn result(
    options: &Options,
    subject: &Subject,
    info: &LinkInfo,
    load: &LoadConfig,
    span: Span,
    together: &Together,
    far: Option<Duration>,
) -> Run {
    let measured = &together.measured;
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let block_bytes = u64::try_from(load.workload.block_bytes).unwrap_or(u64::MAX);
    let first = measured.intervals.first().map(|each| each.from);
    let intervals = measured.intervals.iter().map(|each| {
        let operations = each.read.len() + each.write.len();
        Tick {
            start_ms: first.map_or(0, |first| millis(each.from.saturating_since(first))),
            operations,
            bytes: operations * block_bytes,
            errors: 0,
        }
    });
    let classes = [OpClass::Read, OpClass::Write].map(|class| {
        let mut sum = latency_histogram();
        for each in &measured.intervals {
            let part = if class == OpClass::Read {
                &each.read
            } else {
                &each.write
            };
            // Both have the same bounds.
            let added = sum.add(part);
            assert!(added.is_ok(), "histograms of the same bounds add up");
        }
        ClassSummary {
            class: class.word().to_owned(),
            latency: Summary::of(&sum),
        }
    });
    let cost = |cpu: Duration| Cost::of(cpu.as_secs_f64(), None, together.ios);
    Run {
        title: format!("load: {}", subject.words),
        machine: Machine::this(),
        link_mode: info.mode.clone(),
        mtu_bytes: u32::try_from(info.mtu_bytes).unwrap_or(u32::MAX),
        pinning: options.pinning(),
        conditions: format!(
            "{} ms of warm-up left out; processor time counts the warm-up and, where blocks are verified, their filling",
            span.warmup.as_millis()
        ),
        workload: options.words(load, &subject.words),
        seed: options.seed,
        interval_ms: millis(span.interval),
        intervals: intervals.collect(),
        classes: classes
            .into_iter()
            .filter(|class| class.latency.count > 0)
            .collect(),
        initiator: Some(cost(together.cpu)),
        target: far.map(cost),
        hlog: Some(format!("{}.hlog", options.name)),
    }
}

/// Writes all files and says what was found.
fn write(
    options: &Options,
    result: &Run,
    together: &Together,
    started: SystemTime,
) -> anyhow::Result<()> {
    let directory: &Path = &options.out.out;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let path = |suffix: &str| directory.join(format!("{}.{suffix}", options.name));
    let intervals = &together.measured.intervals;
    let mut log = LogWriter::create(&path("hlog"), started, &result.title)?;
    let first = intervals.first().map(|each| each.from);
    for each in intervals {
        let start = first.map_or(Duration::ZERO, |first| each.from.saturating_since(first));
        for (class, part) in [(OpClass::Read, &each.read), (OpClass::Write, &each.write)] {
            if !part.is_empty() {
                log.interval(class.word(), start, each.lasted, part)?;
            }
        }
    }
    log.finish()?;
    write_percentiles(&path("hgrm"), &sandrail_bench::record::sum(intervals))?;
    write_run(&path("json"), result)?;
    println!("{}", result.title);
    for (name, value) in result.facts() {
        println!("  {name:<11}{value}");
    }
    println!("\n{:.0} I/O/s", together.measured.ios_per_s());
    for class in &result.classes {
        let figures = class.latency.percentiles().map(|(name, ns)| {
            format!("{name} {:.1}", Duration::from_nanos(ns).as_secs_f64() * 1e6)
        });
        println!("{:6} {} us", class.class, figures.join("  "));
    }
    eprintln!("written: {}, .hlog, .hgrm", path("json").display());
    Ok(())
}

/// Whether the calling process may run on the cores that it was told.
pub(crate) fn settle(options: &Options) -> anyhow::Result<()> {
    if options.interface.is_none() {
        machine::pin(options.cores.target_core)?;
    }
    Ok(())
}
