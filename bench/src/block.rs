//! `block`: the initiator and our target against the floor and against the rivals, in one run.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::{Args, ValueEnum};
use sandrail_bench::contest::{
    CONTENDERS, Calls, Combo, Contend, Entry, OURS, Sample, Setting, Spent, chosen, goal_for,
    pair_of,
};
use sandrail_bench::driver::Span;
use sandrail_bench::report;
use sandrail_bench::site::{DISK_BYTES, Direction, MTU_BYTES, Way};
use sandrail_bench::waiter::SPIN_TURNS;
use sandrail_report::{
    Comparison, Cost, Histogram, LogWriter, Machine, Row, Summary, latency_histogram,
    write_percentiles,
};

use crate::{Cores, Out};

const UNIT: &str = "I/O/s";
/// Tries at a sample in which nothing ended.
const SAMPLE_TRIES: usize = 10;

/// What our blade does when there is nothing to do. It is stopped while others run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BladeIdle {
    /// Looks again at once
    Spin,
    /// Yields its core after each look
    Yield,
    /// Yields for a while, then sleeps
    Sleep,
}

impl BladeIdle {
    fn word(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Yield => "yield",
            Self::Sleep => "sleep",
        }
    }
}

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Rounds: each contender runs once in each
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Length of each sample, in milliseconds
    #[arg(long, default_value_t = 200)]
    sample_ms: u64,
    /// What runs before each sample without being counted, in milliseconds
    #[arg(long, default_value_t = 60)]
    warmup_ms: u64,
    /// I/Os under way
    #[arg(long = "depth", value_delimiter = ',', default_value = "1,32")]
    depths: Vec<usize>,
    /// Which way the data goes
    #[arg(
        long = "direction",
        value_delimiter = ',',
        default_value = "read,write"
    )]
    directions: Vec<Direction>,
    /// Who takes part: all, unless named
    #[arg(long = "contender", value_delimiter = ',')]
    contenders: Vec<String>,
    /// AF_XDP's mode
    #[arg(long, default_value = "xdp-generic")]
    link: Way,
    /// What our blade does when there is nothing to do
    #[arg(long, default_value = "spin")]
    blade_idle: BladeIdle,
    /// Seed of the blocks' choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leaves out the runs in which system calls are counted
    #[arg(long)]
    no_calls: bool,
    /// Fails when a goal is not met, or could not be measured
    #[arg(long)]
    goal: bool,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    out: Out,
}

impl Options {
    fn span(&self) -> Span {
        Span::of(
            Duration::from_millis(self.warmup_ms),
            Duration::from_millis(self.sample_ms),
        )
    }

    fn setting(&self) -> Setting {
        Setting {
            near_core: self.cores.shard_core,
            far_core: self.cores.target_core,
            way: self.link,
            sectors: DISK_BYTES / 512,
            seed: self.seed,
            blade_idle: self.blade_idle.word(),
        }
    }

    fn combos(&self) -> Vec<Combo> {
        let each = |direction: &Direction| {
            let direction = *direction;
            let depths = self.depths.iter().copied();
            depths.map(move |depth| Combo { direction, depth })
        };
        self.directions.iter().flat_map(each).collect()
    }

    fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        if self.contenders.is_empty() {
            return Ok(CONTENDERS.to_vec());
        }
        chosen(&self.contenders)
    }
}

/// Someone who was started.
struct Started {
    entry: Entry,
    contender: Box<dyn Contend>,
}

/// What one contender did in all rounds of one combination.
struct Outcome {
    entry: Entry,
    samples: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    spent: Spent,
    calls: Calls,
    resent: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.rounds > 0, "at least one round");
    anyhow::ensure!(
        !options.link.is_packet(),
        "--link is AF_XDP's mode: AF_PACKET is a contender of its own"
    );
    fs::create_dir_all(&options.out.out)?;
    let (mut started, absent) = start(options)?;
    let mut rows = Vec::new();
    for combo in options.combos() {
        let outcomes = compete(options, &mut started, combo)?;
        print_combo(combo, &outcomes);
        rows.extend(rows_of(combo, &outcomes));
    }
    let comparison = comparison(options, &started, &absent, rows);
    println!();
    for (name, value) in comparison.facts() {
        println!("  {name:<11}{value}");
    }
    report::write(&comparison, &options.out.out, "block")?;
    if options.goal {
        anyhow::ensure!(absent.is_empty(), "not measured: {}", absent.join("; "));
        let unmet = report::unmet(&comparison);
        anyhow::ensure!(unmet.is_empty(), "goals not met:\n{}", unmet.join("\n"));
    }
    Ok(())
}

/// Starts everybody, and tells who can't take part here.
fn start(options: &Options) -> anyhow::Result<(Vec<Started>, Vec<String>)> {
    let (mut started, mut absent) = (Vec::new(), Vec::new());
    for entry in options.entries()? {
        eprintln!("starting: {}", entry.name);
        match (entry.start)(options.setting()) {
            Ok(contender) => started.push(Started { entry, contender }),
            Err(error) => {
                eprintln!("without {}: {error:#}", entry.name);
                absent.push(format!("{} ({error:#})", entry.name));
            }
        }
    }
    anyhow::ensure!(!started.is_empty(), "nobody takes part");
    Ok((started, absent))
}

/// Where a contender's latencies are written.
struct Log {
    writer: LogWriter,
    sum: Histogram<u64>,
    begin: Instant,
    percentiles: PathBuf,
    class: &'static str,
}

impl Log {
    fn create(options: &Options, entry: Entry, combo: Combo) -> anyhow::Result<Self> {
        let Combo { direction, depth } = combo;
        let stem = format!("block-{direction}-{depth}-{}", entry.key);
        let path = options.out.out.join(format!("{stem}.hlog"));
        let comment = format!(
            "4 KiB random {direction}s, depth {depth}: {}; an interval a sample",
            entry.name
        );
        Ok(Self {
            writer: LogWriter::create(&path, SystemTime::now(), &comment)?,
            sum: latency_histogram(),
            begin: Instant::now(),
            percentiles: options.out.out.join(format!("{stem}.hgrm")),
            class: match direction {
                Direction::Read => "read",
                Direction::Write => "write",
            },
        })
    }

    fn sample(&mut self, sample: &Sample, span: Span) -> anyhow::Result<()> {
        let start = self.begin.elapsed().saturating_sub(span.measure);
        self.writer
            .interval(self.class, start, span.measure, &sample.latency)?;
        self.sum
            .add(&sample.latency)
            .map_err(|error| anyhow::anyhow!("add up latencies: {error}"))
    }

    fn finish(self) -> anyhow::Result<()> {
        self.writer.finish()?;
        Ok(write_percentiles(&self.percentiles, &self.sum)?)
    }
}

/// All rounds of one combination: A B C A B C ...
fn compete(
    options: &Options,
    started: &mut [Started],
    combo: Combo,
) -> anyhow::Result<Vec<Outcome>> {
    let span = options.span();
    let mut outcomes = Vec::new();
    let mut logs = Vec::new();
    for each in started.iter_mut() {
        logs.push(Log::create(options, each.entry, combo)?);
        let calls = if options.no_calls {
            [None; 2]
        } else {
            options
                .cores
                .on_shard_core(|| each.contender.count_calls(combo, span))
                .with_context(|| format!("{}, counting system calls", each.entry.name))?
        };
        outcomes.push(Outcome {
            entry: each.entry,
            samples: Vec::new(),
            p50_us: Vec::new(),
            p99_us: Vec::new(),
            spent: Spent::default(),
            calls,
            resent: 0,
        });
    }
    for round in 1..=options.rounds {
        for ((each, outcome), log) in started.iter_mut().zip(&mut outcomes).zip(&mut logs) {
            let sample = sample(options, each, combo)
                .with_context(|| format!("{}, round {round}", each.entry.name))?;
            log.sample(&sample, span)?;
            outcome.take(&sample);
        }
        eprint!(
            "\r{}s, depth {}: round {round} of {}",
            combo.direction, combo.depth, options.rounds
        );
    }
    eprintln!();
    for log in logs {
        log.finish()?;
    }
    Ok(outcomes)
}

/// One sample. On a machine that gave it no time at all it is taken again, a few times.
fn sample(options: &Options, each: &mut Started, combo: Combo) -> anyhow::Result<Sample> {
    for _ in 0..SAMPLE_TRIES {
        let sample = options
            .cores
            .on_shard_core(|| each.contender.sample(combo, options.span()))?;
        if sample.ios_per_s > 0.0 {
            return Ok(sample);
        }
    }
    anyhow::bail!("no I/O ended in {SAMPLE_TRIES} samples, one after the other")
}

impl Outcome {
    fn take(&mut self, sample: &Sample) {
        let Summary { p50_ns, p99_ns, .. } = Summary::of(&sample.latency);
        let us = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e6;
        self.samples.push(sample.ios_per_s);
        self.p50_us.push(us(p50_ns));
        self.p99_us.push(us(p99_ns));
        self.spent.ios += sample.spent.ios;
        self.spent.near_cpu += sample.spent.near_cpu;
        self.spent.far_cpu += sample.spent.far_cpu;
        self.resent += sample.resent;
    }

    /// Near and far.
    fn costs(&self) -> [Cost; 2] {
        let Spent {
            ios,
            near_cpu,
            far_cpu,
        } = self.spent;
        let [near, far] = self.calls;
        [(near_cpu, near), (far_cpu, far)].map(|(cpu, calls)| Cost {
            syscalls_per_io: calls,
            ..Cost::of(cpu.as_secs_f64(), None, ios)
        })
    }

    fn row(&self, combo: Combo) -> Row {
        let [near, far] = self.costs();
        Row {
            initiator: Some(near),
            target: Some(far),
            ..Row::rival(metric(combo, self.entry.name), UNIT, &self.samples)
        }
    }
}

fn metric(combo: Combo, name: &str) -> String {
    let Combo { direction, depth } = combo;
    format!("{direction}, depth {depth}: {name}")
}

/// Everybody's speed and latencies, and what ours is of the others'.
fn rows_of(combo: Combo, outcomes: &[Outcome]) -> Vec<Row> {
    let mut rows = Vec::new();
    for outcome in outcomes {
        rows.push(outcome.row(combo));
        for (what, samples) in [("p50", &outcome.p50_us), ("p99", &outcome.p99_us)] {
            let metric = metric(combo, &format!("{}, {what}", outcome.entry.name));
            rows.push(Row::rival(metric, "us", samples));
        }
    }
    if let Some(ours) = outcomes.iter().find(|outcome| outcome.entry.key == OURS) {
        let others = outcomes.iter().filter(|other| other.entry.key != OURS);
        rows.extend(others.map(|other| compared(combo, ours, other, outcomes)));
    }
    rows
}

/// Which of two ways to the same a contender is here, by the medians of this very run: the faster, or not. `None`: it is the only
/// one of its kind.
fn is_faster(one: &Outcome, outcomes: &[Outcome]) -> Option<bool> {
    let (first, second) = pair_of(one.entry.key)?;
    let other = outcomes.iter().find(|other| {
        let key = other.entry.key;
        key != one.entry.key && (key == first || key == second)
    })?;
    let median = |outcome: &Outcome| Row::rival("", UNIT, &outcome.samples).median;
    let (one_median, other_median) = (median(one), median(other));
    // The first of both where they are the same.
    Some(one_median > other_median || one_median == other_median && one.entry.key == first)
}

fn compared(combo: Combo, ours: &Outcome, other: &Outcome, outcomes: &[Outcome]) -> Row {
    let metric = metric(combo, ours.entry.name);
    let counts = is_faster(other, outcomes) != Some(false);
    Row {
        goal: goal_for(other.entry.key, combo).filter(|_| counts),
        ..Row::versus(
            metric,
            UNIT,
            &ours.samples,
            other.entry.name,
            &other.samples,
        )
    }
}

/// One line a contender: what it reached, what it cost, and what ours is of it.
fn print_combo(combo: Combo, outcomes: &[Outcome]) {
    let Combo { direction, depth } = combo;
    println!("\n4 KiB random {direction}s, depth {depth}");
    println!(
        "{:30} {:>22}  {:>7} {:>7}  {:>11}  {:>11}  {:>6}  {:>16}",
        "", "thousand I/O/s", "p50", "p99", "CPU us/I/O", "calls/I/O", "resent", "ours to this"
    );
    println!(
        "{:30} {:>7}{:>8}{:>7}  {:>7} {:>7}  {:>5} {:>5}  {:>5} {:>5}",
        "", "min", "median", "max", "us", "us", "near", "far", "near", "far"
    );
    let ours = outcomes.iter().find(|outcome| outcome.entry.key == OURS);
    for outcome in outcomes {
        let row = outcome.row(combo);
        let [near, far] = outcome.costs();
        let middle = |samples: &[f64]| Row::rival("", "", samples).median;
        let calls = |cost: Cost| match cost.syscalls_per_io {
            Some(calls) => format!("{calls:.2}"),
            None => "-".to_owned(),
        };
        print!(
            "{:30} {:>7.1}{:>8.1}{:>7.1}  {:>7.1} {:>7.1}  {:>5.2} {:>5.2}  {:>5} {:>5}  {:>6}",
            outcome.entry.name,
            row.min / 1e3,
            row.median / 1e3,
            row.max / 1e3,
            middle(&outcome.p50_us),
            middle(&outcome.p99_us),
            near.cpu_ns_per_io / 1e3,
            far.cpu_ns_per_io / 1e3,
            calls(near),
            calls(far),
            outcome.resent
        );
        if let Some(ours) = ours.filter(|ours| ours.entry.key != outcome.entry.key) {
            print_ratio(&compared(combo, ours, outcome, outcomes));
        }
        match is_faster(outcome, outcomes) {
            Some(true) => print!("  faster of both"),
            Some(false) => print!("  slower of both"),
            None => {}
        }
        println!();
    }
}

fn print_ratio(row: &Row) {
    let Some(ratio) = row.ratio() else { return };
    print!(
        "  {:>5.2}{:>6.2}{:>6.2}",
        ratio.min, ratio.median, ratio.max
    );
    match row.goal {
        Some(goal) if ratio.median >= goal => print!("  goal {goal}: met"),
        Some(goal) => print!("  goal {goal}: NOT met"),
        None => {}
    }
}

fn comparison(
    options: &Options,
    started: &[Started],
    absent: &[String],
    rows: Vec<Row>,
) -> Comparison {
    let mut modes: Vec<String> = Vec::new();
    for each in started {
        let mode = each.contender.mode();
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
    let mut conditions = format!(
        "{} MiB in memory at the far end; {} ms of each run left out as warm-up; idle initiators and echoes spin \
         {SPIN_TURNS} turns, then yield, the idle blade: {}; vblade -b 128 sleeps, its core kept awake; nbdkit and fio as \
         shipped, fio's random blocks are its own; calls of our loops by their counters, others' by perf \
         (raw_syscalls:sys_enter) in a run of its own; AF_PACKET in rings and by mmsg, both ends the same, whichever is faster in \
         each combination counts; CPU of threads by schedstat, nbdkit's by /proc/PID/stat, fio's as \
         it says",
        DISK_BYTES >> 20,
        options.warmup_ms,
        options.blade_idle.word(),
    );
    if !absent.is_empty() {
        conditions += &format!("; not measured: {}", absent.join("; "));
    }
    Comparison {
        title: "4 KiB random I/O: initiator and blade, the floor, and the rivals".to_owned(),
        machine: Machine::this(),
        link_mode: modes.join(", "),
        mtu_bytes: MTU_BYTES,
        pinning: format!(
            "initiators' side on core {}, targets' side on core {}",
            options.cores.shard_core, options.cores.target_core
        ),
        conditions,
        samples: options.rounds,
        sample_ms: options.sample_ms,
        goal: None,
        rows,
    }
}
