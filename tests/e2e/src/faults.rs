//! Random load with every fault at once.
//!
//! Two nodes on wires of their own, one over AF_XDP and one over packet sockets, drive a file and a memory disk of one blade
//! from several threads, while frames are lost, doubled, delayed, overtaken and damaged at both ends, the file's disk is slow,
//! holds writes and fails a range of sectors, the blade is stopped for a while, and the links flap. Every read is checked. At
//! the end, when the faults are over, nothing is left of it all: no request, no memory.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandrail_lab::{Blade, Lab, LinkState, Side};
use sandrail_link::fault::FaultPlan;
use sandrail_node::{Client, Node, Request, RequestError, TargetHandle};
use sandrail_proto::aoe::initiator::{IfClosed, IoError, Operation, PinnedMacs};
use sandrail_wire::{Lba, TargetAddr};

use crate::site::{ADDR, Setup, Shards, Site, Station, Wire};
use crate::status::{Status, ask};
use crate::storm::{self, Ledger, Storm, Stormed};

const RAM: TargetAddr = TargetAddr { shelf: 7, slot: 4 };
/// The second wire's ends.
const INTERFACES: [&str; 2] = ["san2", "san3"];
const MTU_BYTES: u32 = 9000;
/// Sectors of each thread's area.
const AREA: usize = 4096;
const DEPTH: usize = 16;
/// The area that fails, behind the file's three others.
const BAD: u64 = 3 * AREA as u64;
const BAD_SECTORS: u64 = 64;
/// Rates of each fault, both ways at the nodes' end.
const RATE: f64 = 0.01;
/// For what needs its time on a machine that has none to spare.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a process may have grown by since its warm-up: allocators keep some of what was freed.
const GROWTH_MAX_BYTES: u64 = 8 << 20;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Requests completed.
    pub requests: u64,
    /// Flushes among them.
    pub flushes: u64,
    /// Copies that the nodes sent.
    pub copies: u64,
    /// Copies of writes that the blade answered and did not execute.
    pub copies_answered: u64,
    /// Damaged frames received.
    pub mangled: u64,
    /// Frames that the blade's own faults lost, doubled or delayed.
    pub drilled: u64,
    /// Disk operations that were delayed, held and failed.
    pub disk: [u64; 3],
    /// Requests to the failing area whose error was told.
    pub errors_told: u64,
    /// Times the blade was stopped for a while.
    pub pauses: u64,
    /// Times a link went down and up.
    pub flaps: u64,
    /// Growth of the blade and of this process since the warm-up, in bytes.
    pub growth: [u64; 2],
}

impl Outcome {
    /// Whether every kind of fault occurred.
    #[must_use]
    pub fn saw_everything(&self) -> bool {
        let [delayed, held, failed] = self.disk;
        [
            self.requests,
            self.flushes,
            self.copies,
            self.copies_answered,
            self.mangled,
            self.drilled,
            delayed,
            held,
            failed,
            self.errors_told,
            self.pauses,
            self.flaps,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [delayed, held, failed] = self.disk;
        write!(
            f,
            "{} requests, {} flushes, {} copies sent, {} answered again, {} frames damaged, {} drilled; disk: {delayed} \
             delayed, {held} held, {failed} failed, {} errors told; {} pauses, {} flaps; grown by {} KiB (blade), {} KiB (nodes)",
            self.requests,
            self.flushes,
            self.copies,
            self.copies_answered,
            self.mangled,
            self.drilled,
            self.errors_told,
            self.pauses,
            self.flaps,
            self.growth[0] >> 10,
            self.growth[1] >> 10
        )
    }
}

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(kib.with_context(|| path.clone())?.parse::<u64>()? << 10)
}

fn setup(wire: Wire, shards: Shards, seed: u64) -> Setup {
    let mut setup = Setup::new(wire).mtu(MTU_BYTES).shards(shards);
    setup.disk_bytes = (BAD + BAD_SECTORS) * 512;
    setup.node.stripe_sectors = 128;
    setup = setup.mangle(seed).faults(move |shard| {
        let mut plan = FaultPlan::new(seed << 8 | u64::from(shard)).with_rates(RATE, RATE, RATE);
        for rates in [&mut plan.transmit, &mut plan.receive] {
            rates.delay = RATE;
            rates.delay_max = Duration::from_millis(20);
        }
        plan
    });
    setup
}

/// A second veth pair between the lab's namespaces.
fn second_wire(lab: &Lab) -> Result<()> {
    let [near, far] = INTERFACES;
    let there = lab.namespace(Side::Target);
    let add = format!(
        "link add name {near} mtu {MTU_BYTES} type veth peer name {far} netns {there} mtu {MTU_BYTES}"
    );
    ip(lab, Side::Initiator, &add)?;
    ip(lab, Side::Initiator, &format!("link set {near} up"))?;
    ip(lab, Side::Target, &format!("link set {far} up"))
}

fn ip(lab: &Lab, side: Side, line: &str) -> Result<()> {
    let status = lab
        .command(side, "ip")
        .args(line.split_ascii_whitespace())
        .status()?;
    ensure!(status.success(), "ip {line}");
    Ok(())
}

/// Plays faults for that long, or until each kind occurred if that takes longer.
///
/// # Errors
/// A read found what it must not, a request failed that must not, something leaked, or the machine is in the way.
pub fn run(length: Duration, seed: u64) -> Result<Outcome> {
    let first = setup(Wire::XdpGeneric, Shards::TwoOnOneQueue, seed);
    let site = Site::of_blade(first, |options, lab, disk| {
        second_wire(lab)?;
        Ok(options
            .args(["--interface", INTERFACES[1], "--seed", &seed.to_string()])
            .export("e7.3", &disk.path().display().to_string())
            .export("e7.4", "ram:8M"))
    })?;
    let second = setup(Wire::PacketRing, Shards::One, seed ^ 0x5ec0);
    let station = Station::start(&site.lab, INTERFACES[0], &second)?;
    let mut scene = Scene {
        rng: fastrand::Rng::with_seed(seed),
        outcome: Outcome::default(),
        site,
        station,
    };
    scene.play(length, seed)?;
    let Scene {
        site,
        station,
        outcome,
        ..
    } = scene;
    station.node.shutdown(PATIENCE)?;
    site.close()?;
    Ok(outcome)
}

struct Scene {
    site: Site<Blade>,
    station: Station,
    rng: fastrand::Rng,
    outcome: Outcome,
}

/// A thread's load, and where it reads back in the end.
struct Part {
    storm: Storm,
    target: TargetHandle,
    second: bool,
}

impl Scene {
    fn play(&mut self, length: Duration, seed: u64) -> Result<()> {
        let any = PinnedMacs::first_to_answer;
        let (site, station) = (&self.site, &self.station);
        let site_ram = site
            .mangled
            .paused(|| site.node.attach(RAM, any(), PATIENCE))?;
        let (file, ram) = station.mangled.paused(|| {
            let file = station.node.attach(ADDR, any(), PATIENCE)?;
            anyhow::Ok((file, station.node.attach(RAM, any(), PATIENCE)?))
        })?;
        let mut parts = Vec::new();
        for (number, (second, target, area)) in (0..).zip([
            (false, self.site.target, 0),
            (false, self.site.target, 1),
            (true, file, 2),
            (false, site_ram, 0),
            (true, ram, 1),
        ]) {
            let ledger = Ledger::at(seed, area * u64::try_from(AREA)?, AREA);
            let client = self.client(second, DEPTH)?;
            let storm = Storm::start(client, target, ledger, false, seed ^ number)?;
            parts.push(Part {
                storm,
                target,
                second,
            });
        }
        let mut bad = self.client(false, 1)?;
        self.faults_on()?;
        let begun = Instant::now();
        let mut resident = None;
        while begun.elapsed() < length || !self.done()? {
            ensure!(
                begun.elapsed() < length + PATIENCE,
                "some fault never came: {}",
                self.outcome
            );
            if let Some(ended) = parts.iter().position(|part| part.storm.has_ended()) {
                parts.swap_remove(ended).storm.stop()?;
                anyhow::bail!("a storm ended before it was told to");
            }
            self.strike(&mut bad)?;
            if resident.is_none() && begun.elapsed() > length / 3 {
                resident = Some(self.resident()?);
            }
        }
        self.faults_off()?;
        drop(bad);
        let resident = resident.context("a warm-up")?;
        for part in parts {
            let stormed = part.storm.stop()?;
            self.outcome.requests += u64::try_from(stormed.completed)?;
            self.outcome.flushes += stormed.flushes;
            self.read_back(part.second, part.target, &stormed)?;
        }
        let now = self.resident()?;
        for (growth, (before, now)) in self.outcome.growth.iter_mut().zip(resident.iter().zip(now))
        {
            *growth = now.saturating_sub(*before);
        }
        self.at_rest()
    }

    fn client(&self, second: bool, depth: usize) -> Result<Client> {
        let node = if second {
            &self.station.node
        } else {
            &self.site.node
        };
        let mut client = node.client(depth)?;
        client.set_request_timeout(PATIENCE);
        Ok(client)
    }

    fn resident(&self) -> Result<[u64; 2]> {
        Ok([
            resident_bytes(self.site.blade.pid())?,
            resident_bytes(std::process::id())?,
        ])
    }

    fn faults_on(&self) -> Result<()> {
        let blade = &self.site.blade;
        let chances = r#"{"verb":"fault","chances":{"drop":0.01,"duplicate":0.01,"reorder":0.01,"delay":0.01}}"#;
        ask(blade, chances)?;
        let disk = |fault: &str| {
            ask(
                blade,
                &format!(r#"{{"verb":"fault-disk","target":"e7.3","fault":{fault}}}"#),
            )
        };
        disk(&format!(
            r#"{{"fail":{{"lba":{BAD},"sectors":{BAD_SECTORS}}}}}"#
        ))?;
        disk(r#"{"slow":{"us":100,"jitter_us":900}}"#)?;
        Ok(())
    }

    fn faults_off(&self) -> Result<()> {
        ask(&self.site.blade, r#"{"verb":"fault-off"}"#)?;
        let clear = r#"{"verb":"fault-disk","target":"e7.3","fault":{"clear":{}}}"#;
        ask(&self.site.blade, clear)?;
        let controls = self.site.faults.iter().chain(&self.station.faults);
        controls.for_each(|control| control.set_enabled(false));
        Ok(())
    }

    /// One more fault, beside those that chance brings.
    fn strike(&mut self, bad: &mut Client) -> Result<()> {
        let moment = Duration::from_millis(self.rng.u64(5..80));
        match self.rng.u8(..12) {
            0 => {
                self.site.blade.pause()?;
                // Now and then beyond a frame's lifetime.
                let longer = self.rng.u8(..8) == 0;
                std::thread::sleep(if longer {
                    Duration::from_millis(2500)
                } else {
                    moment
                });
                self.site.blade.resume()?;
                self.outcome.pauses += 1;
            }
            1 => {
                let side = if self.rng.bool() {
                    Side::Initiator
                } else {
                    Side::Target
                };
                let second = self.rng.bool();
                self.link(side, second, LinkState::Down)?;
                std::thread::sleep(moment);
                self.link(side, second, LinkState::Up)?;
                self.outcome.flaps += 1;
            }
            2..=6 => {
                let nth = self.rng.u8(1..20);
                let hold = format!(
                    r#"{{"verb":"fault-disk","target":"e7.3","fault":{{"hold":{{"nth":{nth}}}}}}}"#
                );
                ask(&self.site.blade, &hold)?;
                std::thread::sleep(moment);
                self.release()?;
            }
            _ => {
                self.touch_the_bad(bad)?;
                std::thread::sleep(moment);
            }
        }
        Ok(())
    }

    fn link(&mut self, side: Side, second: bool, state: LinkState) -> Result<()> {
        if !second {
            return Ok(self.site.lab.set_link(side, state)?);
        }
        let word = if state == LinkState::Up { "up" } else { "down" };
        let place = usize::from(side == Side::Target);
        let line = format!("link set {} {word}", INTERFACES[place]);
        ip(&self.site.lab, side, &line)
    }

    /// Reads or writes where the disk fails, which must be told.
    fn touch_the_bad(&mut self, client: &mut Client) -> Result<()> {
        let lba = Lba(BAD + self.rng.u64(..BAD_SECTORS - 8));
        let operation = if self.rng.bool() {
            Operation::Read { lba }
        } else {
            Operation::Write {
                lba,
                if_closed: IfClosed::Wait,
            }
        };
        let request = Request {
            target: self.site.target,
            operation,
            buffer: client.buffer(4096).context("a buffer")?,
            timeout: PATIENCE,
            user: 0,
        };
        let submitted = client.submit(request);
        submitted.map_err(|rejected| anyhow::anyhow!("{}", rejected.why))?;
        let completion = loop {
            if let Some(completion) = client.wait(Duration::from_millis(100)) {
                break completion;
            }
            // It may itself be held, or wait for a late copy that is.
            self.release()?;
        };
        match completion.result {
            Err(RequestError::Io(IoError::Ata { .. })) => self.outcome.errors_told += 1,
            other => {
                let status = Status::of(&self.site.blade)?;
                anyhow::bail!("{operation:?} must fail, and: {other:?}; {status:?}");
            }
        }
        Ok(())
    }

    fn release(&self) -> Result<()> {
        let release = r#"{"verb":"fault-disk","target":"e7.3","fault":{"release":{}}}"#;
        ask(&self.site.blade, release).map(drop)
    }

    /// Takes the counters in; whether every kind of fault occurred.
    fn done(&mut self) -> Result<bool> {
        let status = Status::of(&self.site.blade)?;
        let mut copies = 0;
        for node in [&self.site.node, &self.station.node] {
            copies += crate::site::sum(&node.stat()?).tx_copies;
        }
        let outcome = &mut self.outcome;
        outcome.copies = copies;
        outcome.copies_answered =
            status.count("e7.3", "copies_answered")? + status.count("e7.4", "copies_answered")?;
        outcome.mangled = self.site.mangled.count() + self.station.mangled.count();
        outcome.drilled = 0;
        for table in ["faults_transmit", "faults_receive"] {
            for kind in ["lost", "duplicated", "delayed"] {
                outcome.drilled += status.links(table, kind);
            }
        }
        for (count, name) in outcome.disk.iter_mut().zip(["delayed", "held", "failed"]) {
            *count = status.disk_count("e7.3", &format!("faults_{name}"))?;
        }
        // Requests and flushes are told by the storms when they end.
        let so_far = Outcome {
            requests: 1,
            flushes: 1,
            ..*outcome
        };
        Ok(so_far.saw_everything())
    }

    fn read_back(&self, second: bool, target: TargetHandle, stormed: &Stormed) -> Result<()> {
        let mut client = self.client(second, 8)?;
        let ledger = &stormed.ledger;
        client.flush(target).context("when the faults are over")?;
        let data = storm::read_all(&mut client, target, ledger)?;
        ledger.check(ledger.base(), &data).context("reading back")?;
        if target == self.site.target && !second {
            storm::check_file(&self.site.disk.open()?, ledger)?;
        }
        Ok(())
    }

    /// Nothing is left of it.
    fn at_rest(&mut self) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        // Copies of writes that nobody answered are accounted for within a lifetime and a probe.
        while let Err(error) = self.look_for_remains() {
            ensure!(Instant::now() < give_up, "left at the end: {error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let [blade, nodes] = self.outcome.growth;
        ensure!(
            blade <= GROWTH_MAX_BYTES && nodes <= GROWTH_MAX_BYTES,
            "since its warm-up the blade grew by {blade} bytes, the nodes by {nodes}"
        );
        Ok(())
    }

    fn look_for_remains(&self) -> Result<()> {
        let nodes: [&Node; 2] = [&self.site.node, &self.station.node];
        for (number, node) in nodes.into_iter().enumerate() {
            let stat = node.stat()?;
            ensure!(
                stat.buffers_free == stat.buffers,
                "node {number}: {} of {} buffers are free",
                stat.buffers_free,
                stat.buffers
            );
            for shard in &stat.shards {
                let paths = shard.targets.iter().flat_map(|target| target.info.paths);
                let in_flight: u16 = paths
                    .flatten()
                    .map(|path| path.in_flight + path.lingering)
                    .sum();
                ensure!(
                    (shard.open_requests, shard.unaccounted, in_flight) == (0, 0, 0),
                    "node {number}, shard {}: {} requests, {} unaccounted, {in_flight} commands",
                    shard.shard,
                    shard.open_requests,
                    shard.unaccounted
                );
            }
        }
        let status = Status::of(&self.site.blade)?;
        ensure!(status.cores("requests_open") == 0, "requests: {status:?}");
        ensure!(status.holds_nothing(), "{status:?}");
        for addr in ["e7.3", "e7.4"] {
            let sessions = status.target(addr)?["sessions"].as_u64();
            ensure!(sessions == Some(3), "one a shard: {sessions:?} of {addr}");
            ensure!(
                status.disk_count(addr, "faults_held_now")? == 0,
                "a held write"
            );
        }
        Ok(())
    }
}
