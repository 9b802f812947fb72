//! What a production blade's sectors lie on: operations that end late, out of order and sometimes badly, sectors that a
//! failure of power takes, and a watch on what the blade asks for.
//!
//! The disk outlives the blade's process; [`SimBacking`] is one process's handle on it. What the seam forbids (overlapping
//! operations at once, a place used twice, an operation never released) is a violation.

use std::cell::RefCell;
use std::rc::Rc;

use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, Started,
};
use sandrail_proto::time::Instant;

use crate::ledger::{Ledger, Part};
use crate::stamp::{self, SECTOR_BYTES, Stamp};
use crate::violation::Promise;

/// How a disk behaves. Shares are out of a thousand.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    /// What an answer to a WRITE promises.
    pub durability: Durability,
    /// Operations under way at most.
    pub operations_max: u32,
    /// Time for an operation: least, and spread.
    pub time_ns: (u64, u64),
    /// Over at once.
    pub at_once: u16,
    /// Refused for want of room, to be tried again.
    pub busy: u16,
    /// Fail.
    pub fails: u16,
    /// TRIM does something.
    pub discards: bool,
    /// Some operations never end: to show that the checkers notice.
    pub stuck: bool,
    /// The loss mark never changes, though writes are lost: a broken disk, to show that the checkers notice.
    pub mark_stuck: bool,
}

impl DiskSpec {
    /// A quick disk that never fails.
    #[must_use]
    pub const fn quick() -> Self {
        Self {
            durability: Durability::Flush,
            operations_max: 256,
            time_ns: (1_000, 4_000),
            at_once: 300,
            busy: 0,
            fails: 0,
            discards: false,
            stuck: false,
            mark_stuck: false,
        }
    }
}

#[derive(Clone, Debug)]
struct Sector {
    cached: [u8; SECTOR_BYTES],
    durable: [u8; SECTOR_BYTES],
    version: u64,
    durable_version: u64,
}

#[derive(Debug)]
enum Kind {
    Read,
    Write {
        part: Option<Part>,
    },
    /// Sectors as they were when it began: place, version, content.
    Flush(Vec<(u64, u64, [u8; SECTOR_BYTES])>),
    Discard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Over,
}

#[derive(Debug)]
struct Operation {
    kind: Kind,
    lba: u64,
    sectors: u64,
    until_ns: u64,
    stage: Stage,
    data: Vec<u8>,
}

/// The disk.
#[derive(Debug)]
pub struct SimDisk {
    spec: DiskSpec,
    target: u8,
    sectors: Vec<Sector>,
    versions: u64,
    operations: Vec<Option<Operation>>,
    mark: u64,
    rng: fastrand::Rng,
    ledger: Rc<RefCell<Ledger>>,
    /// Nothing fails or is slow any more.
    pub(crate) healed: bool,
    /// Whoever was refused is welcome then.
    again_ns: u64,
    /// Operations begun.
    pub begun: u64,
}

impl SimDisk {
    /// A disk of fresh sectors.
    #[must_use]
    pub fn new(
        spec: DiskSpec,
        target: u8,
        sectors: u64,
        seed: u64,
        ledger: Rc<RefCell<Ledger>>,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let sector = |lba| {
            let mut content = [0; SECTOR_BYTES];
            stamp::fill(&mut content, Stamp::INITIAL, target, lba);
            Sector {
                cached: content,
                durable: content,
                version: 0,
                durable_version: 0,
            }
        };
        Self {
            target,
            sectors: (0..sectors).map(sector).collect(),
            versions: 0,
            operations: (0..spec.operations_max).map(|_| None).collect(),
            mark: rng.u64(1..),
            rng,
            ledger,
            healed: false,
            again_ns: u64::MAX,
            begun: 0,
            spec,
        }
    }

    /// What a READ would return.
    #[must_use]
    pub fn sector(&self, lba: u64) -> &[u8] {
        &self.sectors[lba as usize].cached
    }

    /// What a failure of power would leave at worst.
    #[must_use]
    pub fn durable_sector(&self, lba: u64) -> &[u8] {
        &self.sectors[lba as usize].durable
    }

    /// Places in use: operations that were begun and not released.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.operations.iter().flatten().count()
    }

    /// The process ends. What was at work was carried out in part, or not. Returns the sectors that were lost: those of a
    /// volatile disk go with the process, those of others with the power.
    pub(crate) fn stop(&mut self, power: bool) -> Vec<u64> {
        let at_work: Vec<_> = self
            .operations
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        for mut operation in at_work {
            if operation.stage == Stage::Running && matches!(operation.kind, Kind::Write { .. }) {
                self.apply_some(&mut operation);
            }
        }
        let mut lost = Vec::new();
        if !power && self.spec.durability != Durability::Volatile {
            return lost;
        }
        let share = self.rng.u8(..=255);
        for (lba, sector) in (0..).zip(&mut self.sectors) {
            if sector.version == sector.durable_version {
                continue;
            }
            if self.spec.durability != Durability::WriteThrough && self.rng.u8(..) <= share {
                sector.cached = sector.durable;
                lost.push(lba);
            } else {
                sector.durable = sector.cached;
            }
            (sector.version, sector.durable_version) = (0, 0);
        }
        if !self.spec.mark_stuck && self.spec.durability != Durability::WriteThrough {
            self.mark = self.rng.u64(1..);
        }
        lost
    }

    fn put(&mut self, lba: u64, content: &[u8]) {
        self.versions += 1;
        let sector = &mut self.sectors[lba as usize];
        sector.cached.copy_from_slice(content);
        sector.version = self.versions;
        // A cache is written back when it likes.
        let written_back = self.rng.u8(..8) == 0 && self.spec.durability != Durability::Volatile;
        if self.spec.durability == Durability::WriteThrough || written_back {
            sector.durable = sector.cached;
            sector.durable_version = sector.version;
        }
    }

    /// Any of its sectors.
    fn apply_some(&mut self, operation: &mut Operation) {
        let share = self.rng.u8(..=255);
        let data = core::mem::take(&mut operation.data);
        for (lba, content) in (operation.lba..).zip(data.chunks_exact(SECTOR_BYTES)) {
            if self.rng.u8(..) <= share {
                self.put(lba, content);
            }
        }
    }

    fn chance(&mut self, permille: u16) -> bool {
        !self.healed && self.rng.u16(..1000) < permille
    }

    fn begin(&mut self, now_ns: u64, io: IoId, asked: DiskOperation<'_>) -> Started {
        let place = io.0 as usize;
        let (lba, sectors) = match &asked {
            DiskOperation::Read { lba, sectors }
            | DiskOperation::Write { lba, sectors, .. }
            | DiskOperation::Discard { lba, sectors } => (lba.0, u64::from(sectors.get())),
            DiskOperation::Flush => (0, 0),
        };
        self.judge(place, &asked, lba, sectors);
        if self.chance(self.spec.busy) {
            self.again_ns = now_ns + 20_000;
            return Started::Busy;
        }
        self.begun += 1;
        let mut data = Vec::new();
        let kind = match asked {
            DiskOperation::Read { .. } => Kind::Read,
            DiskOperation::Discard { .. } => Kind::Discard,
            DiskOperation::Flush => {
                let dirty = (0..)
                    .zip(&self.sectors)
                    .filter(|(_, sector)| sector.version != sector.durable_version);
                Kind::Flush(
                    dirty
                        .map(|(lba, sector)| (lba, sector.version, sector.cached))
                        .collect(),
                )
            }
            DiskOperation::Write { data: pieces, .. } => {
                data = pieces.concat();
                let whole = data.len() as u64 == sectors * SECTOR_BYTES as u64;
                let mut ledger = self.ledger.borrow_mut();
                if !whole {
                    let text = format!("{} bytes are written to {sectors} sectors", data.len());
                    ledger.accuse(Promise::Disk, text);
                }
                ledger.at(now_ns);
                Kind::Write {
                    part: ledger.started(self.target, lba, &data),
                }
            }
        };
        let (least_ns, spread_ns) = if self.healed {
            (1_000, 0)
        } else {
            self.spec.time_ns
        };
        let mut operation = Operation {
            kind,
            lba,
            sectors,
            until_ns: now_ns + least_ns + self.rng.u64(..=spread_ns),
            stage: Stage::Running,
            data,
        };
        if self.spec.stuck && self.begun.is_multiple_of(50) {
            operation.until_ns = u64::MAX;
            self.operations[place] = Some(operation);
            return Started::Pending;
        }
        if !self.rng_at_once() {
            self.operations[place] = Some(operation);
            return Started::Pending;
        }
        let result = self.finish(now_ns, &mut operation);
        self.operations[place] = Some(operation);
        Started::Done(result)
    }

    fn rng_at_once(&mut self) -> bool {
        self.rng.u16(..1000) < self.spec.at_once
    }

    fn judge(&self, place: usize, asked: &DiskOperation<'_>, lba: u64, sectors: u64) {
        let mut ledger = self.ledger.borrow_mut();
        let accuse = |ledger: &mut Ledger, text: &str| {
            ledger.accuse(
                Promise::Disk,
                format!(
                    "target {}: {asked:.0?} in place {place}: {text}",
                    self.target
                ),
            );
        };
        if self.operations.get(place).is_none_or(Option::is_some) {
            accuse(&mut ledger, "the place is in use, or there is none");
        }
        if lba + sectors > self.sectors.len() as u64 {
            accuse(&mut ledger, "past the end");
        }
        let changes = |kind: &Kind| matches!(kind, Kind::Write { .. } | Kind::Discard);
        let changing = matches!(
            asked,
            DiskOperation::Write { .. } | DiskOperation::Discard { .. }
        );
        let overlaps = self.operations.iter().flatten().any(|other| {
            other.stage == Stage::Running
                && other.lba < lba + sectors
                && lba < other.lba + other.sectors
                && (changing || changes(&other.kind))
        });
        if overlaps {
            accuse(&mut ledger, "overlaps with one that is under way");
        }
    }

    /// It is over: what it did, and how it went.
    fn finish(&mut self, now_ns: u64, operation: &mut Operation) -> Result<(), DiskError> {
        operation.stage = Stage::Over;
        let failed = self.chance(self.spec.fails);
        let error = DiskError::Medium { lba: operation.lba };
        match &mut operation.kind {
            Kind::Read if !failed => {
                for lba in operation.lba..operation.lba + operation.sectors {
                    operation
                        .data
                        .extend_from_slice(&self.sectors[lba as usize].cached);
                }
            }
            Kind::Write { part } => {
                let part = *part;
                if failed {
                    self.apply_some(operation);
                } else {
                    let data = core::mem::take(&mut operation.data);
                    for (lba, content) in (operation.lba..).zip(data.chunks_exact(SECTOR_BYTES)) {
                        self.put(lba, content);
                    }
                }
                if let Some(part) = part {
                    let mut ledger = self.ledger.borrow_mut();
                    ledger.at(now_ns);
                    ledger.ended(self.target, part, !failed);
                }
            }
            Kind::Flush(dirty) if !failed && self.spec.durability != Durability::Volatile => {
                for (lba, version, content) in dirty.drain(..) {
                    let sector = &mut self.sectors[lba as usize];
                    if sector.durable_version < version {
                        sector.durable_version = version;
                        sector.durable = content;
                    }
                }
            }
            _ => {}
        }
        if failed { Err(error) } else { Ok(()) }
    }

    fn poll(&mut self, now_ns: u64) -> Option<(IoId, Result<(), DiskError>)> {
        if self.again_ns <= now_ns {
            self.again_ns = u64::MAX;
        }
        let due: Vec<usize> = (0..self.operations.len())
            .filter(|place| {
                self.operations[*place].as_ref().is_some_and(|operation| {
                    operation.stage == Stage::Running && operation.until_ns <= now_ns
                })
            })
            .collect();
        if due.is_empty() {
            return None;
        }
        let place = due[self.rng.usize(..due.len())];
        let mut operation = self.operations[place].take()?;
        let result = self.finish(now_ns, &mut operation);
        self.operations[place] = Some(operation);
        Some((IoId(place as u32), result))
    }

    /// When the next operation ends.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.operations
            .iter()
            .flatten()
            .filter(|operation| operation.stage == Stage::Running)
            .map(|operation| operation.until_ns)
            .chain((self.again_ns != u64::MAX).then_some(self.again_ns))
            .min()
    }
}

/// One process's handle on a disk.
#[derive(Clone, Debug)]
pub struct SimBacking(pub Rc<RefCell<SimDisk>>, Vec<Box<[u8]>>);

impl SimBacking {
    /// Opens it.
    #[must_use]
    pub fn new(disk: Rc<RefCell<SimDisk>>) -> Self {
        let places = disk.borrow().operations.len();
        Self(disk, vec![Box::default(); places])
    }

    /// The bytes of a read that ended are kept here, so that they can be lent out.
    fn keep(&mut self, io: IoId) {
        let disk = self.0.borrow();
        if let Some(Some(operation)) = disk.operations.get(io.0 as usize)
            && matches!(operation.kind, Kind::Read)
        {
            self.1[io.0 as usize] = operation.data.clone().into();
        }
    }
}

impl Backing for SimBacking {
    fn sectors(&self) -> u64 {
        self.0.borrow().sectors.len() as u64
    }

    fn durability(&self) -> Durability {
        self.0.borrow().spec.durability
    }

    fn loss_mark(&self) -> u64 {
        self.0.borrow().mark
    }

    fn discards(&self) -> bool {
        self.0.borrow().spec.discards
    }

    fn operations_max(&self) -> u32 {
        self.0.borrow().spec.operations_max
    }

    fn sectors_per_operation_max(&self) -> u32 {
        255
    }

    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        let started = self.0.borrow_mut().begin(now.as_nanos(), io, operation);
        if let Started::Done(_) = started {
            self.keep(io);
        }
        started
    }

    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        let done = self.0.borrow_mut().poll(now.as_nanos());
        if let Some((io, _)) = done {
            self.keep(io);
        }
        done
    }

    fn data(&self, io: IoId) -> &[u8] {
        &self.1[io.0 as usize]
    }

    fn release(&mut self, io: IoId) {
        // What is lent out must not be looked at any more.
        self.1[io.0 as usize] = Box::default();
        let mut disk = self.0.borrow_mut();
        let released = disk
            .operations
            .get_mut(io.0 as usize)
            .and_then(Option::take);
        if released.is_none_or(|operation| operation.stage != Stage::Over) {
            let text = format!("place {} was released before its end, or twice", io.0);
            disk.ledger.borrow_mut().accuse(Promise::Disk, text);
        }
    }

    fn kick(&mut self, _now: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.borrow().next_ns().map(Instant::from_nanos)
    }
}
