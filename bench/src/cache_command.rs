//! `cache`: the buffer cache's hits, misses and hit ratios, beside a rival, its policies' simulations and the raw read.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use sandrail_bench::blade_site::BladeSite;
use sandrail_bench::cache::filled::{self, Contender as FilledContender, Ours, Theirs};
use sandrail_bench::cache::miss::Miss;
use sandrail_bench::cache::ratios::{self, Compared};
use sandrail_bench::cache::resident::{self, Resident, Words};
use sandrail_bench::cache::{Access, Done};
use sandrail_bench::pairs::{Contender, interleave};
use sandrail_bench::site::{DISK_BYTES, MTU_BYTES, Open, Way};
use sandrail_bench::{machine, report};
use sandrail_lab::Side;
use sandrail_link::packet::PacketLink;
use sandrail_link::xdp::XdpLink;
use sandrail_memory::cache::Eviction;
use sandrail_report::{Comparison, Machine, Row};

use crate::Out;

const UNIT: &str = "M/s";
const RIVAL: &str = "quick_cache";

/// Millions of checked hits a second that one core is to reach.
const HITS_GOAL: f64 = 40.0;
/// Of the rival's speed, with every page there and with most of them missing now and then.
const RIVAL_GOAL: f64 = 3.0;
/// What two threads are to reach of one's speed.
const THREADS_GOAL: f64 = 1.8;
/// What the lesser hit ratio is to be of the greater, of cache and simulation: within 1 %.
const SIMULATION_GOAL: f64 = 0.99;
/// Of the best simulation's: within 3 %.
const BEST_GOAL: f64 = 0.97;
/// A page that misses takes at most 1.25 times as long as the raw read, so this share of them is read.
const MISS_GOAL: f64 = 1.0 / 1.25;

/// Parts of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every page is there
    Resident,
    /// A million pages over a hundred thousand frames, filled by a copy
    Filled,
    /// Hit ratios
    Ratios,
    /// A miss over a wire, on the shard, against the raw read
    Miss,
}

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// What is compared
    #[arg(
        long = "part",
        value_delimiter = ',',
        default_value = "resident,filled,ratios,miss"
    )]
    parts: Vec<Part>,
    /// Rounds: each contender runs once in each
    #[arg(long, default_value_t = 24)]
    rounds: usize,
    /// Length of each sample, in milliseconds
    #[arg(long, default_value_t = 200)]
    sample_ms: u64,
    /// Seed of what is asked for
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Core of the thread that is measured
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Core of the second thread, and of the target
    #[arg(long, default_value_t = 0)]
    other_core: usize,
    /// How frames travel to the target of the misses
    #[arg(long, default_value = "xdp-generic")]
    link: Way,
    /// Fails when a goal is not met
    #[arg(long)]
    goal: bool,
    #[command(flatten)]
    out: Out,
}

impl Options {
    fn sample(&self) -> Duration {
        Duration::from_millis(self.sample_ms)
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Takes turns, and says how far it is.
    fn rounds(
        &self,
        what: &str,
        contenders: &mut [Contender<'_>],
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let samples = interleave(self.rounds, contenders, |round| {
            eprint!("\r{what}: round {round} of {}", self.rounds);
        });
        eprintln!();
        samples
    }
}

/// What the parts found out, beside their rows.
struct Found {
    rows: Vec<Row>,
    link_mode: String,
    conditions: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.rounds > 0, "at least one round");
    let mut found = Found {
        rows: Vec::new(),
        link_mode: "none".to_owned(),
        conditions: vec![
            "pages of 4 KiB; Zipf 0.99, drawn before anything is measured; hits are optimistic reads of eight bytes, checked"
                .to_owned(),
        ],
    };
    if options.wants(Part::Resident) {
        resident(options, &mut found)?;
    }
    if options.wants(Part::Filled) {
        on_a_thread(|| filled(options, &mut found))?;
    }
    if options.wants(Part::Ratios) {
        for compared in ratios::compare(options.seed)? {
            found.rows.extend(ratio_rows(&compared));
        }
        found.conditions.push(format!(
            "hit ratios of {} frames, within 1 % of the simulation in both directions and 3 % of the best",
            ratios::FRAMES
        ));
    }
    if options.wants(Part::Miss) {
        match options.link {
            Way::XdpGeneric | Way::XdpNative => {
                on_a_thread(|| miss::<XdpLink>(options, &mut found))?;
            }
            _ => on_a_thread(|| miss::<PacketLink>(options, &mut found))?,
        }
    }
    let comparison = Comparison {
        title:
            "The buffer cache, beside quick_cache, simulations of its policies, and the raw read"
                .to_owned(),
        machine: Machine::this(),
        link_mode: found.link_mode,
        mtu_bytes: MTU_BYTES,
        pinning: format!(
            "one thread on core {}, two on cores {0} and {}; the target on core {1}",
            options.core, options.other_core
        ),
        conditions: found.conditions.join("; "),
        samples: options.rounds,
        sample_ms: options.sample_ms,
        goal: None,
        rows: found.rows,
    };
    println!("{}", report::table(&comparison));
    report::write(&comparison, &options.out.out, "cache")?;
    let unmet = report::unmet(&comparison);
    if options.goal {
        anyhow::ensure!(unmet.is_empty(), "goals not met:\n{}", unmet.join("\n"));
    }
    Ok(())
}

/// A thread of its own, for a part that pins itself: what is started later must not inherit the core.
fn on_a_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn millions(per_s: f64) -> f64 {
    per_s / 1e6
}

/// Against a number that is to be reached.
fn versus_number(metric: &str, samples: &[f64], number: f64) -> Row {
    let constant = vec![number; samples.len()];
    Row {
        goal: Some(1.0),
        ..Row::versus(
            metric,
            UNIT,
            samples,
            &format!("{number} {UNIT}"),
            &constant,
        )
    }
}

fn versus(metric: &str, samples: &[f64], other: &str, others: &[f64], goal: Option<f64>) -> Row {
    Row {
        goal,
        ..Row::versus(metric, UNIT, samples, other, others)
    }
}

/// The same samples in wall-clock time and in processor time.
#[derive(Default)]
struct Times {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Times {
    fn note(&mut self, done: Done) -> f64 {
        self.wall.push(millions(done.per_s()));
        self.cpu.push(millions(done.per_cpu_s()));
        millions(done.per_s())
    }
}

fn resident(options: &Options, found: &mut Found) -> anyhow::Result<()> {
    let caches = Resident::new(options.seed)?;
    for (words, place, has_goals) in [
        (Words::AtBegin, "at the page's begin", true),
        (Words::Anywhere, "anywhere in the page", false),
    ] {
        let one = [options.core];
        let two = [options.core, options.other_core];
        let mut times: [Times; 4] = std::array::from_fn(|_| Times::default());
        let [ours_one, theirs_one, ours_two, theirs_two] = &mut times;
        let caches = &caches;
        let sample = options.sample();
        let mut contenders = [
            Contender {
                name: "ours",
                run: Box::new(|| Ok(ours_one.note(caches.ours(&one, words, sample)?))),
            },
            Contender {
                name: RIVAL,
                run: Box::new(|| Ok(theirs_one.note(caches.rivals(&one, words, sample)?))),
            },
            Contender {
                name: "ours, two threads",
                run: Box::new(|| Ok(ours_two.note(caches.ours(&two, words, sample)?))),
            },
            Contender {
                name: "quick_cache, two threads",
                run: Box::new(|| Ok(theirs_two.note(caches.rivals(&two, words, sample)?))),
            },
        ];
        options.rounds(&format!("all resident, {place}"), &mut contenders)?;
        drop(contenders);
        found.rows.extend(resident_rows(place, has_goals, &times));
    }
    found.conditions.push(format!(
        "all resident: {} pages, {} MiB, frames on {}",
        resident::PAGES,
        resident::PAGES / 256,
        caches.backing()
    ));
    Ok(())
}

fn resident_rows(place: &str, has_goals: bool, times: &[Times; 4]) -> Vec<Row> {
    let [one, theirs_one, two, theirs_two] = times;
    let goal = |goal: f64| has_goals.then_some(goal);
    let named = |what: &str| format!("hits {place}, {what}");
    let mut rows = vec![
        Row::rival(named("quick_cache"), UNIT, &theirs_one.wall),
        versus(
            &named("ours"),
            &one.wall,
            RIVAL,
            &theirs_one.wall,
            goal(RIVAL_GOAL),
        ),
    ];
    if has_goals {
        rows.push(versus_number(&named("ours"), &one.wall, HITS_GOAL));
    }
    let both = named("ours, two threads");
    rows.extend([
        Row::rival(named("quick_cache, two threads"), UNIT, &theirs_two.wall),
        versus(&both, &two.wall, RIVAL, &theirs_two.wall, goal(RIVAL_GOAL)),
        versus(
            &both,
            &two.wall,
            "one thread",
            &one.wall,
            goal(THREADS_GOAL),
        ),
        versus(
            &named("ours, two threads, each second of processor time"),
            &two.cpu,
            "one thread",
            &one.cpu,
            None,
        ),
    ]);
    rows
}

fn filled(options: &Options, found: &mut Found) -> anyhow::Result<()> {
    let trace = filled::trace(options.seed);
    machine::pin(options.core)?;
    eprintln!("filled: warming up");
    let ours = |eviction| -> anyhow::Result<(FilledContender, String)> {
        let (cache, backing) = Ours::new(eviction, filled::FRAMES)?;
        Ok((
            FilledContender::warmed_up(Box::new(cache), &trace)?,
            backing,
        ))
    };
    let (mut s3_fifo, backing) = ours(Eviction::S3Fifo)?;
    let (mut clock, _) = ours(Eviction::Clock)?;
    let theirs = Theirs::new(filled::FRAMES);
    let mut theirs = FilledContender::warmed_up(Box::new(theirs), &trace)?;
    let mut contenders = [
        filled_contender("S3-FIFO", &mut s3_fifo, &trace, options),
        filled_contender("CLOCK", &mut clock, &trace, options),
        filled_contender(RIVAL, &mut theirs, &trace, options),
    ];
    let samples = options.rounds("filled", &mut contenders)?;
    drop(contenders);
    let named = |what: &str| format!("a miss is a copy, {what}");
    let rival = &samples[2];
    found.rows.push(Row::rival(named(RIVAL), UNIT, rival));
    for (name, own) in [("S3-FIFO", &samples[0]), ("CLOCK", &samples[1])] {
        let row = versus(&named(name), own, RIVAL, rival, Some(RIVAL_GOAL));
        found.rows.push(row);
    }
    let ratios = [("S3-FIFO", &s3_fifo), ("CLOCK", &clock), (RIVAL, &theirs)];
    for (name, contender) in ratios {
        let metric = named(&format!("{name}: hit ratio"));
        let row = Row::rival(metric, "of accesses", &[contender.hit_ratio()]);
        found.rows.push(row);
    }
    found.conditions.push(format!(
        "a miss is a copy: {} pages over {} frames on {backing}, a miss copies 4 KiB from one buffer; quick_cache has a \
         page allocated for each, by the system's allocator",
        filled::PAGES,
        filled::FRAMES
    ));
    Ok(())
}

fn filled_contender<'c>(
    name: &'static str,
    contender: &'c mut FilledContender,
    trace: &'c [Access],
    options: &Options,
) -> Contender<'c> {
    let sample = options.sample();
    let run = move || Ok(millions(contender.sample(trace, sample)?.per_s()));
    Contender {
        name,
        run: Box::new(run),
    }
}

/// The lesser of cache and simulation to the greater, since they are to agree in both directions; and the cache to the best.
fn ratio_rows(compared: &Compared) -> Vec<Row> {
    let Compared {
        trace,
        policy,
        cache,
        simulated,
        best: (best_name, best),
        ..
    } = *compared;
    let row = |metric: &str, own: f64, other: &str, others: f64, goal| Row {
        goal: Some(goal),
        ..Row::versus(metric, "of accesses", &[own], other, &[others])
    };
    let metric = format!("hit ratio, {trace}: {policy}");
    let agreement = if cache <= simulated {
        row(&metric, cache, "its simulation", simulated, SIMULATION_GOAL)
    } else {
        let metric = format!("{metric}, simulated");
        row(&metric, simulated, "the cache", cache, SIMULATION_GOAL)
    };
    let mut rows = vec![agreement];
    if compared.is_default {
        let best_name = format!("the best, {best_name}");
        rows.push(row(&metric, cache, &best_name, best, BEST_GOAL));
    }
    rows
}

fn miss<L: Open + Send>(options: &Options, found: &mut Found) -> anyhow::Result<()> {
    let (way, sectors) = (options.link, DISK_BYTES / 512);
    // The target inherits the core.
    machine::pin(options.other_core)?;
    let site = BladeSite::new(sectors, options.other_core, way.blade_args(), "spin")
        .context("misses need a blade in a network namespace")?;
    let lab = site.lab();
    let interface = lab.interface(Side::Initiator);
    let link = lab.enter(Side::Initiator, || L::open(way, interface))??;
    found.link_mode = link.info().mode.clone();
    machine::pin(options.core)?;
    let mut miss = Miss::new(link, site.target(), sectors)?;
    // Both take turns on one node.
    let cell = std::cell::RefCell::new(&mut miss);
    let contender = |name, as_pages: bool| {
        let (cell, sample) = (&cell, options.sample());
        Contender {
            name,
            run: Box::new(move || {
                let done = cell.borrow_mut().sample(as_pages, sample)?;
                Ok(done.per_s() / 1e3)
            }),
        }
    };
    let mut contenders = [contender("raw read", false), contender("miss", true)];
    let samples = options.rounds("misses", &mut contenders)?;
    drop(contenders);
    if let Some(words) = site.ended() {
        anyhow::bail!("the target has ended: {words}");
    }
    let unit = "thousand/s";
    let metric = "misses on the shard, one at a time";
    found.rows.push(Row::rival(
        "raw reads on the shard, one at a time",
        unit,
        &samples[0],
    ));
    found.rows.push(Row {
        goal: Some(MISS_GOAL),
        ..Row::versus(metric, unit, &samples[1], "the raw read", &samples[0])
    });
    found.conditions.push(format!(
        "misses: sandrail-blade, {} MiB in memory, spins; a cache of 8 MiB on {}; 0.8 of the raw reads is 1.25 times as long",
        DISK_BYTES >> 20,
        miss.backing()
    ));
    Ok(())
}
