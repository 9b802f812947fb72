//! A target's disk as the blade serves it: opened as asked for, with its faults and its latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use sandrail_disk::{
    AnyDisk, CrashReport, Direct, DiskCounters, DiskSpec, FaultControl, FileSpec, Layer, Limits,
    Survivors,
};
use sandrail_node::clock;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, Started,
};
use sandrail_proto::time::Instant;

use crate::control::protocol::Keep;
use crate::cores::status::{Counters, LatencyStatus, nonzero};
use crate::settings::{self, Export, Medium, Promise, Settings};

/// Sectors of one operation: the largest frame that any link here carries has fewer.
const SECTORS_PER_OPERATION_MAX: u32 = 64;
/// What `power-cut` holds of unflushed writes.
const CACHE_BYTES: u64 = 64 << 20;
/// How long the last flush may take.
const FLUSH_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait between looks at a flush.
const FLUSH_PAUSE: Duration = Duration::from_micros(200);

/// Which histogram an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Read, "read"),
    (Kind::Write, "write"),
    (Kind::Flush, "flush"),
    (Kind::Discard, "discard"),
];

impl Kind {
    fn of(operation: &DiskOperation<'_>) -> Self {
        match operation {
            DiskOperation::Read { .. } => Self::Read,
            DiskOperation::Write { .. } => Self::Write,
            DiskOperation::Flush => Self::Flush,
            DiskOperation::Discard { .. } => Self::Discard,
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 2,
            Self::Discard => 3,
        }
    }
}

/// A disk. Operations that are over as soon as they begin, as in memory, have no latency worth a histogram; the others'
/// counts from the turn that began them to the turn that found them over.
pub(crate) struct ServedDisk {
    disk: AnyDisk,
    faults: FaultControl,
    begun: Box<[(Instant, Kind)]>,
    /// Operations that began and were not released.
    in_use: Box<[bool]>,
    latency: [Histogram<u64>; 4],
}

/// What an export's promise is called below.
fn durability(promise: Promise) -> Durability {
    match promise {
        Promise::Volatile => Durability::Volatile,
        Promise::Flush => Durability::Flush,
        Promise::WriteThrough => Durability::WriteThrough,
    }
}

fn spec(settings: &Settings, export: &Export) -> DiskSpec {
    let medium = match &export.medium {
        Medium::Ram(bytes) => sandrail_disk::Medium::Ram {
            bytes: *bytes,
            huge: settings.huge_pages,
        },
        Medium::File(path) => sandrail_disk::Medium::File(FileSpec {
            path: path.clone(),
            offset_bytes: export.offset_bytes,
            length_bytes: export.length_bytes,
            direct: match export.direct {
                settings::Direct::Auto => Direct::Auto,
                settings::Direct::On => Direct::On,
                settings::Direct::Off => Direct::Off,
            },
            create_bytes: export.create_bytes,
        }),
    };
    let mut layers = Vec::new();
    if export.power_cut {
        layers.push(Layer::Cache { bytes: CACHE_BYTES });
    }
    layers.push(Layer::Faults);
    DiskSpec {
        medium,
        durability: durability(export.promise()),
        read_only: export.read_only,
        limits: Limits {
            operations_max: settings.disk_depth,
            sectors_per_operation_max: SECTORS_PER_OPERATION_MAX,
        },
        layers,
    }
}

impl ServedDisk {
    /// Opens what an export names.
    pub(crate) fn open(settings: &Settings, export: &Export) -> Result<Self> {
        let disk = spec(settings, export)
            .open()
            .with_context(|| format!("{}: {}", export.origin, export.addr))?;
        let places = usize::try_from(disk.operations_max()).unwrap_or(usize::MAX);
        let faults = disk.faults().expect("the outermost layer has the faults");
        Ok(Self {
            disk,
            faults,
            begun: vec![(Instant::ZERO, Kind::Read); places].into(),
            in_use: vec![false; places].into(),
            latency: KINDS.map(|_| histogram()),
        })
    }

    /// What it became, in words.
    pub(crate) fn describe(&self) -> String {
        self.disk.info().to_string()
    }

    /// Asks for faults from any thread.
    pub(crate) fn faults(&self) -> FaultControl {
        self.faults.clone()
    }

    /// Loses power: nothing of what was not flushed is left but what `keep` says. `None`: this disk holds nothing back.
    pub(crate) fn crash(
        &mut self,
        now: Instant,
        keep: Keep,
    ) -> Option<Result<CrashReport, DiskError>> {
        let survivors = match keep {
            Keep::None => Survivors::Nothing,
            Keep::All => Survivors::Everything,
            Keep::Seed(seed) => Survivors::Seeded(seed),
        };
        Some(self.disk.cache()?.crash(now, survivors))
    }

    /// Looks at the size again; whether it changed.
    pub(crate) fn refresh(&mut self) -> bool {
        self.disk.refresh()
    }

    /// Latencies by kind of operation, of those kinds that there were.
    pub(crate) fn latency(&self) -> BTreeMap<&'static str, LatencyStatus> {
        let kinds = KINDS.iter().zip(&self.latency);
        kinds
            .filter(|(_, histogram)| !histogram.is_empty())
            .map(|((_, name), histogram)| (*name, LatencyStatus::of(histogram)))
            .collect()
    }

    /// What it did.
    pub(crate) fn counters(&self) -> Counters {
        let faults = self.faults.counts();
        // Each by its name, so that none is left out.
        let DiskCounters {
            reads,
            writes,
            flushes,
            discards,
            read_bytes,
            write_bytes,
            failed,
            busy,
            enters,
            requests,
            merged_reads,
            merged_writes,
            merged_flushes,
            resumed,
            retried,
            split,
            losses_not_noted,
            resizes,
        } = self.disk.counters();
        nonzero([
            ("faults_failed", faults.failed),
            ("faults_delayed", faults.delayed),
            ("faults_held", faults.held),
            ("faults_held_now", faults.held_now),
            ("faults_passed_unheld", faults.passed_unheld),
            ("reads", reads),
            ("writes", writes),
            ("flushes", flushes),
            ("discards", discards),
            ("read_bytes", read_bytes),
            ("write_bytes", write_bytes),
            ("failed", failed),
            ("busy", busy),
            ("enters", enters),
            ("requests", requests),
            ("merged_reads", merged_reads),
            ("merged_writes", merged_writes),
            ("merged_flushes", merged_flushes),
            ("resumed", resumed),
            ("retried", retried),
            ("split", split),
            ("losses_not_noted", losses_not_noted),
            ("resizes", resizes),
        ])
    }

    /// Flushes, and waits for it. What else is under way may end meanwhile, and nobody is told.
    pub(crate) fn flush_and_wait(&mut self) -> Result<(), DiskError> {
        if self.disk.durability() != Durability::Flush {
            return Ok(());
        }
        let begin = clock::now();
        let mut flush = None;
        loop {
            let now = clock::now();
            if flush.is_none()
                && let Some(free) = self.in_use.iter().position(|in_use| !in_use)
            {
                let io = IoId(u32::try_from(free).unwrap_or(u32::MAX));
                match self.start(now, io, DiskOperation::Flush) {
                    Started::Done(result) => return result,
                    Started::Pending => flush = Some(io),
                    Started::Busy => {}
                }
            }
            self.kick(now);
            while let Some((io, result)) = self.poll_done(now) {
                self.release(io);
                if flush == Some(io) {
                    return result;
                }
            }
            if now.saturating_since(begin) > FLUSH_WITHIN {
                return Err(DiskError::Device {
                    errno: libc::ETIMEDOUT,
                });
            }
            std::thread::sleep(FLUSH_PAUSE);
        }
    }

    fn slot(io: IoId) -> usize {
        usize::try_from(io.0).unwrap_or(usize::MAX)
    }
}

/// From 100 ns to a minute, to 1 %.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 2).expect("the bounds are in order")
}

impl Backing for ServedDisk {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }

    fn durability(&self) -> Durability {
        self.disk.durability()
    }

    fn loss_mark(&self) -> u64 {
        self.disk.loss_mark()
    }

    fn discards(&self) -> bool {
        self.disk.discards()
    }

    fn operations_max(&self) -> u32 {
        self.disk.operations_max()
    }

    fn sectors_per_operation_max(&self) -> u32 {
        self.disk.sectors_per_operation_max()
    }

    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        let started = self.disk.start(now, io, operation);
        self.in_use[Self::slot(io)] = started != Started::Busy;
        if started == Started::Pending {
            self.begun[Self::slot(io)] = (now, Kind::of(&operation));
        }
        started
    }

    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        let (io, result) = self.disk.poll_done(now)?;
        let (begun, kind) = self.begun[Self::slot(io)];
        let latency = now.saturating_since(begun).as_nanos();
        self.latency[kind.place()].saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
        Some((io, result))
    }

    fn data(&self, io: IoId) -> &[u8] {
        self.disk.data(io)
    }

    fn release(&mut self, io: IoId) {
        self.in_use[Self::slot(io)] = false;
        self.disk.release(io);
    }

    fn kick(&mut self, now: Instant) {
        self.disk.kick(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.disk.poll_timeout()
    }

    fn wait_fd(&self) -> Option<i32> {
        self.disk.wait_fd()
    }
}
