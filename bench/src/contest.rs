//! Who takes part in `block`: the contenders, each with its own lab, its target and its way to say what it costs.
//!
//! Every contender has two sides, near (the initiator's) and far (the target's), each on a core of its own. What is started for
//! one must leave both cores alone while others run: targets sleep or are stopped then, and the engine's shard is turned only
//! for its own samples. Links are kept from one sample to the next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use sandrail_lab::{Lab, Side};
use sandrail_link::packet::PacketLink;
use sandrail_link::xdp::XdpLink;
use sandrail_link::{Link, LinkCounters};
use sandrail_node::ShardStat;
use sandrail_report::Histogram;
use sandrail_wire::{MacAddr, TargetAddr};

use crate::awake::Awake;
use crate::blade_site::BladeSite;
use crate::costs::{self, CallCounter};
use crate::driver::Span;
use crate::echo::{EchoConfig, FarEnd, NearEnd};
use crate::load::{self, OnShard};
use crate::machine;
use crate::nbd::{Nbd, per};
use crate::record;
use crate::rival::Ran;
use crate::site::{self, Direction, Open, Site, Way};

/// What is asked of every contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combo {
    /// Which way the data goes.
    pub direction: Direction,
    /// I/Os under way.
    pub depth: usize,
}

/// Where and how all of them run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Core of the initiators' side.
    pub near_core: usize,
    /// Core of the targets' side.
    pub far_core: usize,
    /// AF_XDP's mode.
    pub way: Way,
    /// Length of each disk, in sectors.
    pub sectors: u64,
    /// Seed of the blocks.
    pub seed: u64,
    /// What our blade does when there is nothing to do, in its own words.
    pub blade_idle: &'static str,
}

/// What was spent on a number of I/Os.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// The I/Os, warm-up included.
    pub ios: u64,
    /// Processor time of the initiator's side.
    pub near_cpu: Duration,
    /// Processor time of the target's side.
    pub far_cpu: Duration,
}

/// One run.
#[derive(Debug)]
pub struct Sample {
    /// I/Os a second; 0 where the machine had no time for any.
    pub ios_per_s: f64,
    /// What they cost.
    pub spent: Spent,
    /// Their latencies.
    pub latency: Histogram<u64>,
    /// Frames sent again.
    pub resent: u64,
}

/// System calls an I/O, near and far; `None` where they could not be counted.
pub type Calls = [Option<f64>; 2];

/// Someone who takes part. Samples are taken on a thread on the near core.
pub trait Contend: Send {
    /// How its frames travel.
    fn mode(&self) -> String;

    /// One run.
    ///
    /// # Errors
    /// An I/O failed, or somebody is gone.
    fn sample(&mut self, combo: Combo, span: Span) -> anyhow::Result<Sample>;

    /// System calls an I/O, in a run of its own.
    ///
    /// # Errors
    /// As for [`Contend::sample`].
    fn count_calls(&mut self, combo: Combo, span: Span) -> anyhow::Result<Calls>;
}

/// System calls of one of our loops: what its link made, and its yields.
fn own_calls(before: LinkCounters, after: LinkCounters, yields: u64) -> u64 {
    let kicks = |link: LinkCounters| link.tx_kicks + link.rx_kicks;
    kicks(after) - kicks(before) + yields
}

/// Foreign calls while `work` runs; `None` where they can't be counted.
fn while_counting<T>(
    pid: u32,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Option<u64>)> {
    let counter = CallCounter::attach(pid).ok();
    let done = work()?;
    Ok((done, counter.and_then(|counter| counter.finish().ok())))
}

/// A target in a process of its own.
pub trait Target: Send {
    /// Its process.
    fn pid(&self) -> u32;
    /// What it says of itself, for a message, if it has ended.
    fn ended(&self) -> Option<String>;
    /// Makes it ready to be measured.
    ///
    /// # Errors
    /// It has ended.
    fn begin(&mut self) -> anyhow::Result<()>;
    /// Makes it leave its core to others.
    ///
    /// # Errors
    /// It has ended.
    fn end(&mut self) -> anyhow::Result<()>;
}

/// The engine against a target.
pub struct Engine<L, T> {
    // Dropped before the target, and both before the lab that is in it.
    on_shard: OnShard<L>,
    target: T,
    target_addr: TargetAddr,
    setting: Setting,
    loaded: Option<Combo>,
    mode: String,
}

impl<L: Link + Send, T: Target> Engine<L, T> {
    /// Attaches it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn new(
        setting: Setting,
        link: L,
        (addr, mac): (TargetAddr, MacAddr),
        mut target: T,
    ) -> anyhow::Result<Self> {
        let mode = link.info().mode.clone();
        target.begin()?;
        let wanted = Direction::Read.load(setting.sectors, setting.seed, 1);
        let mut on_shard = OnShard::new(&load::config(), link, (addr, mac), &wanted)?;
        // Memory that was never written is not there yet.
        let fill = Direction::Write.load(setting.sectors, setting.seed, 32);
        on_shard.set_load(&fill, addr)?;
        on_shard.sweep(true)?;
        target.end()?;
        Ok(Self {
            on_shard,
            target,
            target_addr: addr,
            setting,
            loaded: None,
            mode,
        })
    }

    fn run(&mut self, combo: Combo, span: Span) -> anyhow::Result<(Sample, Ran)> {
        self.target.begin()?;
        let ran = self.run_attended(combo, span);
        if let Some(words) = self.target.ended() {
            anyhow::bail!("the target has ended: {words}");
        }
        self.target.end()?;
        ran
    }

    fn run_attended(&mut self, combo: Combo, span: Span) -> anyhow::Result<(Sample, Ran)> {
        if self.loaded != Some(combo) {
            let Setting { sectors, seed, .. } = self.setting;
            let wanted = combo.direction.load(sectors, seed, combo.depth);
            self.on_shard.set_load(&wanted, self.target_addr)?;
            self.loaded = Some(combo);
        }
        let copies = |on_shard: &mut OnShard<L>| -> anyhow::Result<u64> {
            Ok(on_shard.stat()?.initiator.tx_copies)
        };
        let copies_before = copies(&mut self.on_shard)?;
        let pid = self.target.pid();
        let (near, far) = (costs::thread_cpu()?, costs::threads_cpu(pid)?);
        let measured = self.on_shard.measure(span);
        let (near, far) = (
            costs::thread_cpu()? - near,
            costs::threads_cpu(pid)?.saturating_sub(far),
        );
        let (measured, ran) = measured?;
        let sample = Sample {
            ios_per_s: measured.ios_per_s(),
            spent: Spent {
                ios: ran.ios,
                near_cpu: near,
                far_cpu: far,
            },
            latency: record::sum(&measured.intervals),
            resent: copies(&mut self.on_shard)? - copies_before,
        };
        Ok((sample, ran))
    }
}

/// The counters of a shard's only link.
fn link_counters(stat: &ShardStat) -> anyhow::Result<LinkCounters> {
    Ok(stat.links.first().context("a link")?.counters)
}

impl<L: Link + Send, T: Target> Contend for Engine<L, T> {
    fn mode(&self) -> String {
        self.mode.clone()
    }

    fn sample(&mut self, combo: Combo, span: Span) -> anyhow::Result<Sample> {
        Ok(self.run(combo, span)?.0)
    }

    fn count_calls(&mut self, combo: Combo, span: Span) -> anyhow::Result<Calls> {
        let before = link_counters(&self.on_shard.stat()?)?;
        let ((sample, ran), far) = while_counting(self.target.pid(), || self.run(combo, span))?;
        let after = link_counters(&self.on_shard.stat()?)?;
        let near = own_calls(before, after, ran.yields);
        let ios = sample.spent.ios;
        Ok([Some(per(near, ios)), far.map(|calls| per(calls, ios))])
    }
}

/// A third-party target, whose core is kept awake while it is measured.
struct AwakeSite {
    site: Site,
    core: usize,
    awake: Option<Awake>,
}

impl Target for AwakeSite {
    fn pid(&self) -> u32 {
        self.site.pid()
    }

    fn ended(&self) -> Option<String> {
        (!self.site.is_alive()).then(|| "vblade".to_owned())
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        // Waking its core would take longer than all the rest.
        self.awake = Some(Awake::keep_on(self.core)?);
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.awake = None;
        Ok(())
    }
}

/// Both ends of an echo.
pub struct Echo<L> {
    near: NearEnd<L>,
    far: FarEnd<L>,
    copies: bool,
    setting: Setting,
    mode: String,
    _lab: Lab,
}

impl<L: Open> Echo<L> {
    /// On a wire of its own.
    ///
    /// # Errors
    /// The machine can't have it.
    pub fn new(setting: Setting, way: Way, copies: bool) -> anyhow::Result<Self> {
        let lab = site::wire()?;
        let open = |side| -> anyhow::Result<L> {
            let interface = lab.interface(side);
            lab.enter(side, || L::open(way, interface))?
        };
        let (near, far) = (open(Side::Initiator)?, open(Side::Target)?);
        let mode = near.info().mode.clone();
        let mac = far.info().mac;
        Ok(Self {
            near: NearEnd::new(near, mac),
            far: FarEnd::new(far, setting.sectors),
            copies,
            setting,
            mode,
            _lab: lab,
        })
    }

    fn run(&mut self, combo: Combo, span: Span) -> anyhow::Result<(Sample, [u64; 2])> {
        let config = EchoConfig {
            direction: combo.direction,
            copies: self.copies,
            sectors: self.setting.sectors,
        };
        let stop = AtomicBool::new(false);
        let core = self.setting.far_core;
        let Self {
            near, far, setting, ..
        } = self;
        std::thread::scope(|scope| {
            let stop = &stop;
            let answering = scope.spawn(move || -> anyhow::Result<(u64, Duration)> {
                machine::pin(core)?;
                let (before, cpu) = (far.link().counters(), costs::thread_cpu()?);
                let ran = far.run(config, stop);
                let calls = own_calls(before, far.link().counters(), ran.yields);
                Ok((calls, costs::thread_cpu()? - cpu))
            });
            let asked = (|| {
                let (before, cpu) = (near.link().counters(), costs::thread_cpu()?);
                let (measured, ran) = near.measure(config, combo.depth, setting.seed, span);
                let calls = own_calls(before, near.link().counters(), ran.yields);
                anyhow::Ok((measured, ran, calls, costs::thread_cpu()? - cpu))
            })();
            // Relaxed: the far end only has to see it some time.
            stop.store(true, Ordering::Relaxed);
            let answered = answering
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (measured, ran, near_calls, near_cpu) = asked?;
            let (far_calls, far_cpu) = answered?;
            let sample = Sample {
                ios_per_s: measured.ios_per_s(),
                spent: Spent {
                    ios: ran.ios,
                    near_cpu,
                    far_cpu,
                },
                latency: record::sum(&measured.intervals),
                resent: ran.resent,
            };
            Ok((sample, [near_calls, far_calls]))
        })
    }
}

impl<L: Open> Contend for Echo<L> {
    fn mode(&self) -> String {
        self.mode.clone()
    }

    fn sample(&mut self, combo: Combo, span: Span) -> anyhow::Result<Sample> {
        Ok(self.run(combo, span)?.0)
    }

    fn count_calls(&mut self, combo: Combo, span: Span) -> anyhow::Result<Calls> {
        let (sample, calls) = self.run(combo, span)?;
        Ok(calls.map(|calls| Some(per(calls, sample.spent.ios))))
    }
}

struct OverNbd {
    nbd: Nbd,
    setting: Setting,
}

impl Contend for OverNbd {
    fn mode(&self) -> String {
        "TCP".to_owned()
    }

    fn sample(&mut self, combo: Combo, span: Span) -> anyhow::Result<Sample> {
        let server = self.nbd.server_pid();
        let before = costs::process_cpu(server)?;
        let run = self
            .nbd
            .measure(combo.direction, combo.depth, self.setting.seed, span)?;
        let far_cpu = costs::process_cpu(server)?.saturating_sub(before);
        // The server was asked during the warm-up as well: what it spent is shared out by time.
        let measured = span.measure.as_secs_f64() / (span.warmup + span.measure).as_secs_f64();
        Ok(Sample {
            ios_per_s: run.ios_per_s,
            spent: Spent {
                ios: run.ios,
                near_cpu: run.client_cpu,
                far_cpu: far_cpu.mul_f64(measured),
            },
            latency: run.latency,
            resent: 0,
        })
    }

    fn count_calls(&mut self, combo: Combo, _: Span) -> anyhow::Result<Calls> {
        let counted = self
            .nbd
            .count_calls(combo.direction, combo.depth, self.setting.seed);
        Ok(counted.map_or([None; 2], |calls| calls.map(Some)))
    }
}

impl Target for BladeSite {
    fn pid(&self) -> u32 {
        Self::pid(self)
    }

    fn ended(&self) -> Option<String> {
        Self::ended(self)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.resume()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.pause()
    }
}

fn with_blade<L: Open>(setting: Setting, way: Way) -> anyhow::Result<Box<dyn Contend>> {
    let core = setting.far_core;
    let site = BladeSite::new(setting.sectors, core, way.blade_args(), setting.blade_idle)?;
    let interface = site.lab().interface(Side::Initiator);
    let link = site
        .lab()
        .enter(Side::Initiator, || L::open(way, interface))??;
    let target = site.target();
    Ok(Box::new(Engine::new(setting, link, target, site)?))
}

fn with_vblade(setting: Setting) -> anyhow::Result<Box<dyn Contend>> {
    let site = Site::on_core(setting.far_core)?;
    let link = site.open::<XdpLink>(setting.way)?;
    let target = site.target();
    let site = AwakeSite {
        site,
        core: setting.far_core,
        awake: None,
    };
    Ok(Box::new(Engine::new(setting, link, target, site)?))
}

fn with_nbd(setting: Setting) -> anyhow::Result<Box<dyn Contend>> {
    let lab = Lab::builder()
        .name_prefix("srbench")
        .mtu(site::MTU_BYTES)
        .build()?;
    let bytes = setting.sectors * 512;
    let nbd = Nbd::start(lab, bytes, setting.far_core, setting.near_core)?;
    Ok(Box::new(OverNbd { nbd, setting }))
}

fn echo(setting: Setting, copies: bool) -> anyhow::Result<Box<dyn Contend>> {
    let echo = Echo::<XdpLink>::new(setting, setting.way, copies)?;
    Ok(Box::new(echo))
}

fn packet_echo(setting: Setting, way: Way) -> anyhow::Result<Box<dyn Contend>> {
    Ok(Box::new(Echo::<PacketLink>::new(setting, way, false)?))
}

/// A line of the table of contenders.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its name on the command line and in files' names.
    pub key: &'static str,
    /// Its name in reports.
    pub name: &'static str,
    /// Starts it. The calling thread must outlive it: nbdkit asks to be ended with the thread that started it.
    pub start: fn(Setting) -> anyhow::Result<Box<dyn Contend>>,
}

/// Who is compared with all others.
pub const OURS: &str = "blade";

/// Who there is. [`GOALS`] names them by their keys.
pub const CONTENDERS: &[Entry] = &[
    Entry {
        key: OURS,
        name: "initiator + blade",
        start: |setting| with_blade::<XdpLink>(setting, setting.way),
    },
    Entry {
        key: "echo",
        name: "bare echo",
        start: |setting| echo(setting, false),
    },
    Entry {
        key: "copying-echo",
        name: "copying echo",
        start: |setting| echo(setting, true),
    },
    Entry {
        key: "vblade",
        name: "initiator + vblade",
        start: with_vblade,
    },
    Entry {
        key: "packet",
        name: "initiator + blade, packet ring",
        start: |setting| with_blade::<PacketLink>(setting, Way::Packet),
    },
    Entry {
        key: "packet-mmsg",
        name: "initiator + blade, packet mmsg",
        start: |setting| with_blade::<PacketLink>(setting, Way::PacketMmsg),
    },
    Entry {
        key: "packet-echo",
        name: "bare echo, packet ring",
        start: |setting| packet_echo(setting, Way::Packet),
    },
    Entry {
        key: "packet-mmsg-echo",
        name: "bare echo, packet mmsg",
        start: |setting| packet_echo(setting, Way::PacketMmsg),
    },
    Entry {
        key: "nbd",
        name: "NBD over TCP",
        start: with_nbd,
    },
];

/// What the initiator with our blade is to reach of another's speed.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The other's key.
    pub versus: &'static str,
    /// Which way the data goes.
    pub direction: Direction,
    /// I/Os under way.
    pub depth: usize,
    /// The median ratio.
    pub ratio: f64,
}

const fn goal(versus: &'static str, direction: Direction, depth: usize, ratio: f64) -> Goal {
    Goal {
        versus,
        direction,
        depth,
        ratio,
    }
}

/// All goals.
pub const GOALS: &[Goal] = &[
    goal("echo", Direction::Read, 1, 0.75),
    goal("echo", Direction::Read, 32, 0.75),
    goal("copying-echo", Direction::Read, 1, 0.85),
    goal("copying-echo", Direction::Read, 32, 0.85),
    goal("vblade", Direction::Read, 32, 2.2),
    goal("packet", Direction::Read, 32, 1.2),
    goal("nbd", Direction::Read, 1, 8.0),
    goal("nbd", Direction::Read, 32, 5.0),
    goal("echo", Direction::Write, 1, 0.7),
    goal("echo", Direction::Write, 32, 0.7),
];

/// Contenders that are two ways to the same: what is to be reached against the first of a pair is to be reached against the faster
/// of them.
pub const PAIRS: &[(&str, &str)] = &[
    ("packet", "packet-mmsg"),
    ("packet-echo", "packet-mmsg-echo"),
];

/// The pair that a contender belongs to, if it does.
#[must_use]
pub fn pair_of(key: &str) -> Option<(&'static str, &'static str)> {
    PAIRS
        .iter()
        .copied()
        .find(|(one, other)| *one == key || *other == key)
}

/// What is to be reached against a contender, if anything.
#[must_use]
pub fn goal_for(versus: &str, combo: Combo) -> Option<f64> {
    let versus = pair_of(versus).map_or(versus, |(first, _)| first);
    let found = GOALS.iter().find(|goal| {
        goal.versus == versus && goal.direction == combo.direction && goal.depth == combo.depth
    });
    found.map(|goal| goal.ratio)
}

/// The contenders of these keys, in the table's order.
///
/// # Errors
/// A key is nobody's.
pub fn chosen(keys: &[String]) -> anyhow::Result<Vec<Entry>> {
    for key in keys {
        let known = CONTENDERS.iter().map(|entry| entry.key);
        anyhow::ensure!(
            known.clone().any(|known| known == key),
            "no contender `{key}`: there are {}",
            known.collect::<Vec<_>>().join(", ")
        );
    }
    let wanted = CONTENDERS
        .iter()
        .filter(|entry| keys.iter().any(|key| key == entry.key));
    Ok(wanted.copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_goals_name_contenders() {
        for (place, entry) in CONTENDERS.iter().enumerate() {
            let before = &CONTENDERS[..place];
            assert!(
                before
                    .iter()
                    .all(|other| other.key != entry.key && other.name != entry.name)
            );
        }
        for goal in GOALS {
            assert!(
                CONTENDERS.iter().any(|entry| entry.key == goal.versus),
                "{goal:?}"
            );
            assert_ne!(goal.versus, OURS);
        }
        assert!(CONTENDERS.iter().any(|entry| entry.key == OURS));
    }

    #[test]
    fn goals_are_found() {
        let read = |depth| Combo {
            direction: Direction::Read,
            depth,
        };
        assert_eq!(goal_for("nbd", read(1)), Some(8.0));
        assert_eq!(goal_for("nbd", read(2)), None);
        assert_eq!(goal_for("vblade", read(1)), None);
        assert_eq!(goal_for("packet-mmsg", read(32)), Some(1.2));
        assert_eq!(goal_for("packet-mmsg-echo", read(32)), None);
        assert_eq!(pair_of("echo"), None);
        for (one, other) in PAIRS {
            let known = |key: &str| CONTENDERS.iter().any(|entry| entry.key == key);
            assert!(known(one) && known(other));
        }
        let write = Combo {
            direction: Direction::Write,
            depth: 32,
        };
        assert_eq!(goal_for("echo", write), Some(0.7));
    }

    #[test]
    fn contenders_are_chosen_by_key() {
        let keys = ["nbd", "echo"].map(str::to_owned);
        let names: Vec<&str> = chosen(&keys)
            .unwrap()
            .iter()
            .map(|entry| entry.key)
            .collect();
        assert_eq!(names, ["echo", "nbd"]);
        let Err(error) = chosen(&["nobody".to_owned()]) else {
            panic!("nobody was chosen");
        };
        assert!(error.to_string().contains("copying-echo"), "{error}");
    }

    #[test]
    fn own_calls_are_kicks_and_yields() {
        let before = LinkCounters {
            tx_kicks: 3,
            rx_kicks: 1,
            ..LinkCounters::default()
        };
        let after = LinkCounters {
            tx_kicks: 10,
            rx_kicks: 2,
            ..before
        };
        assert_eq!(own_calls(before, after, 5), 13);
    }
}
