//! A disk that loses what was not flushed: a cache of written sectors in memory before another disk.
//!
//! It is for tests and drills. An acknowledged write is in memory only until a FLUSH, or the need for room, has brought it to
//! the disk behind; so when the process is killed, everything unflushed is gone, as with a real disk's cache when the power
//! goes. [`CachedDisk::crash`] does the same without a kill, and can let any subset of the unflushed sectors survive: a disk
//! may have written any of them, in any order, but never half of one.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use crate::counters::DiskCounters;
use crate::error::OpenError;
use crate::system::random_u64;

mod crash;
mod store;

pub use crash::{CrashReport, Survivors};

use store::{Run, Store};

/// The most sectors of one operation: what fits [`Mask`].
const SECTORS_PER_OPERATION_MAX: u32 = 256;
/// How long a failed write to the disk behind is not tried again, if nobody asks for it.
const PAUSE: Duration = Duration::from_millis(100);
/// When to try again what the disk behind had no room for.
const RETRY: Duration = Duration::from_millis(1);

/// Which sectors of a read came from the cache.
type Mask = [u64; 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// The disk behind reads; the sectors of the mask are in our buffer already.
    Reading {
        lba: u64,
        sectors: u32,
        mask: Mask,
    },
    /// A read that is over, with its data in our buffer.
    Ours {
        sectors: u32,
    },
    /// A read that is over, with its data in the other disk's.
    Theirs,
    /// Waits until every write up to this number is through.
    Flushing {
        up_to: u64,
    },
    /// The disk behind flushes.
    FlushingBehind,
    /// Over, without data.
    Over,
}

/// A bounded cache of unflushed writes before `D`. It does not discard: discarded sectors read as before.
pub struct CachedDisk<D> {
    inner: D,
    store: Store,
    places: Vec<Place>,
    /// Whether the disk behind has to be told of the release.
    theirs: Vec<bool>,
    /// A slot for each place.
    buffers: Vec<u8>,
    /// What is on its way, each with an operation of the disk behind above those of the places.
    runs: Vec<Option<Run>>,
    staging: Vec<u8>,
    flushes: VecDeque<u32>,
    ended: VecDeque<(u32, Result<(), DiskError>)>,
    sectors_max: u32,
    loss_mark: u64,
    /// A write found no room.
    starved: bool,
    /// The last write to the disk behind failed so, and is not tried again before then.
    failed: Option<(DiskError, Instant)>,
    now: Instant,
    counters: DiskCounters,
}

impl<D: Backing> CachedDisk<D> {
    /// Puts a cache of `bytes` before `inner`. A quarter of the operations of `inner`, at least one, serve the cache.
    ///
    /// # Errors
    /// [`OpenError::Limits`] if the cache would not hold four of the longest writes, or `inner` knows but one operation.
    pub fn new(inner: D, bytes: u64) -> Result<Self, OpenError> {
        let sectors_max = inner
            .sectors_per_operation_max()
            .min(SECTORS_PER_OPERATION_MAX);
        let capacity = u32::try_from(bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX - 1);
        if capacity < 4 * sectors_max {
            return Err(OpenError::Limits {
                reason: format!(
                    "a cache of {bytes} bytes does not hold four writes of {sectors_max} sectors"
                ),
            });
        }
        let theirs = inner.operations_max();
        let runs = (theirs / 4).max(1);
        let Some(ours) = theirs.checked_sub(runs).filter(|ours| *ours > 0) else {
            return Err(OpenError::Limits {
                reason: "a cache needs a disk of two operations at least".to_owned(),
            });
        };
        let (ours, runs) = (index(ours), index(runs));
        let slot_bytes = index(sectors_max) * SECTOR_BYTES;
        Ok(Self {
            inner,
            store: Store::new(capacity),
            places: vec![Place::Free; ours],
            theirs: vec![false; ours],
            buffers: vec![0; ours * slot_bytes],
            runs: vec![None; runs],
            staging: vec![0; slot_bytes],
            flushes: VecDeque::with_capacity(ours),
            ended: VecDeque::with_capacity(ours),
            sectors_max,
            loss_mark: random_u64(),
            starved: false,
            failed: None,
            now: Instant::ZERO,
            counters: DiskCounters::default(),
        })
    }

    /// The disk behind.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// The disk behind, for what is no I/O.
    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }

    /// Sectors that a loss of power would put at risk.
    #[must_use]
    pub fn unflushed_sectors(&self) -> usize {
        self.store.dirty()
    }

    /// What was done before the cache; what was done behind it, `inner` counts.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.counters
    }

    fn slot_bytes(&self) -> usize {
        index(self.sectors_max) * SECTOR_BYTES
    }

    fn check(&self, lba: u64, sectors: u32) -> Result<(), DiskError> {
        let all = self.inner.sectors();
        if sectors > self.sectors_max {
            return Err(DiskError::Device {
                errno: libc::EINVAL,
            });
        }
        if lba.saturating_add(u64::from(sectors)) > all {
            return Err(DiskError::Medium { lba: lba.max(all) });
        }
        Ok(())
    }

    fn start_write(&mut self, lba: u64, sectors: u32, data: &[&[u8]]) -> Started {
        if let Err(error) = self.check(lba, sectors) {
            return Started::Done(Err(error));
        }
        let given: usize = data.iter().map(|piece| piece.len()).sum();
        if given != index(sectors) * SECTOR_BYTES {
            return Started::Done(Err(DiskError::Device {
                errno: libc::EINVAL,
            }));
        }
        if !self.store.write(lba, sectors, data) {
            // Room will come with what is written to the disk behind, unless that fails.
            if let Some((error, _)) = self.failed {
                return Started::Done(Err(error));
            }
            self.starved = true;
            self.counters.busy += 1;
            return Started::Busy;
        }
        self.counters.writes += 1;
        self.counters.write_bytes += given as u64;
        Started::Done(Ok(()))
    }

    fn start_read(&mut self, now: Instant, io: IoId, lba: u64, sectors: NonZeroU32) -> Started {
        let count = sectors.get();
        if let Err(error) = self.check(lba, count) {
            return Started::Done(Err(error));
        }
        let (mask, cached) = self.copy_cached(io, lba, count);
        if cached == count {
            self.places[index(io.0)] = Place::Ours { sectors: count };
            self.count_read(count);
            return Started::Done(Ok(()));
        }
        // No disk is asked to read what it is being written to.
        if self.runs.iter().flatten().any(|run| run.meets(lba, count)) {
            self.counters.busy += 1;
            return Started::Busy;
        }
        let lba_behind = Lba(lba);
        let operation = DiskOperation::Read {
            lba: lba_behind,
            sectors,
        };
        let started = self.inner.start(now, io, operation);
        if started == Started::Busy {
            self.counters.busy += 1;
            return started;
        }
        self.count_read(count);
        self.theirs[index(io.0)] = true;
        self.places[index(io.0)] = Place::Reading {
            lba,
            sectors: count,
            mask,
        };
        match started {
            Started::Done(result) => {
                self.read_ended(io.0, result);
                Started::Done(result)
            }
            other => other,
        }
    }

    fn count_read(&mut self, sectors: u32) {
        self.counters.reads += 1;
        self.counters.read_bytes += u64::from(sectors) * SECTOR_BYTES as u64;
    }

    /// Copies what the cache has of a read into the place's buffer: which sectors, and how many.
    fn copy_cached(&mut self, io: IoId, lba: u64, sectors: u32) -> (Mask, u32) {
        let start = index(io.0) * self.slot_bytes();
        let mut mask = [0; 4];
        let mut cached = 0;
        if self.store.dirty() == 0 {
            return (mask, 0);
        }
        for at in 0..sectors {
            if let Some(bytes) = self.store.get(lba + u64::from(at)) {
                let to = start + index(at) * SECTOR_BYTES;
                self.buffers[to..to + SECTOR_BYTES].copy_from_slice(bytes);
                mask[index(at / 64)] |= 1 << (at % 64);
                cached += 1;
            }
        }
        (mask, cached)
    }

    /// The disk behind has read: fills in what the cache had not, as it was when the read began.
    fn read_ended(&mut self, io: u32, result: Result<(), DiskError>) {
        let Place::Reading { sectors, mask, .. } = self.places[index(io)] else {
            return;
        };
        self.places[index(io)] = match result {
            Err(_) => Place::Over,
            Ok(()) if mask == [0; 4] => Place::Theirs,
            Ok(()) => {
                let start = index(io) * self.slot_bytes();
                let data = self.inner.data(IoId(io));
                for at in (0..sectors).filter(|at| mask[index(at / 64)] & (1 << (at % 64)) == 0) {
                    let from = index(at) * SECTOR_BYTES;
                    let to = start + from;
                    self.buffers[to..to + SECTOR_BYTES]
                        .copy_from_slice(&data[from..from + SECTOR_BYTES]);
                }
                Place::Ours { sectors }
            }
        };
    }

    /// Writes through what has to be, and lets flushes go on.
    fn pump(&mut self, now: Instant) {
        while self.wants_writing(now) && self.write_oldest(now) {}
        while let Some(io) = self.flushes.front().copied() {
            let Place::Flushing { up_to } = self.places[index(io)] else {
                self.flushes.pop_front();
                continue;
            };
            if self
                .store
                .oldest_write()
                .is_some_and(|oldest| oldest <= up_to)
            {
                break;
            }
            match self.inner.start(now, IoId(io), DiskOperation::Flush) {
                Started::Busy => break,
                Started::Pending => {
                    self.theirs[index(io)] = true;
                    self.places[index(io)] = Place::FlushingBehind;
                }
                Started::Done(result) => {
                    self.theirs[index(io)] = true;
                    self.end(io, result);
                }
            }
            self.flushes.pop_front();
        }
    }

    fn wants_writing(&self, now: Instant) -> bool {
        let Some(oldest) = self.store.oldest_write() else {
            return false;
        };
        let flushed = |io: &u32| matches!(self.places[index(*io)], Place::Flushing { up_to } if up_to >= oldest);
        let paused = self.failed.is_some_and(|(_, until)| now < until);
        let short = self.starved || self.store.free() < self.store.capacity() / 4;
        self.flushes.iter().any(flushed) || (short && !paused)
    }

    /// Sends the oldest run to the disk behind. False: nothing can be sent now.
    fn write_oldest(&mut self, now: Instant) -> bool {
        let Some(free) = self.runs.iter().position(Option::is_none) else {
            return false;
        };
        let places = &self.places;
        let refused = |lba| places.iter().any(|place| place.reads(lba));
        let Some(run) = self.store.pick(&mut self.staging, refused) else {
            return false;
        };
        let bytes = &self.staging[..index(run.sectors.get()) * SECTOR_BYTES];
        let operation = DiskOperation::Write {
            lba: Lba(run.lba),
            sectors: run.sectors,
            data: &[bytes],
        };
        let io = IoId(u32::try_from(self.places.len() + free).unwrap_or(u32::MAX));
        let started = self.inner.start(now, io, operation);
        if started == Started::Busy {
            return false;
        }
        self.store.writing(&run);
        self.runs[free] = Some(run);
        match started {
            Started::Done(result) => {
                self.run_ended(free, result);
                result.is_ok()
            }
            _ => true,
        }
    }

    fn run_io(&self, run: usize) -> IoId {
        IoId(u32::try_from(self.places.len() + run).unwrap_or(u32::MAX))
    }

    fn run_ended(&mut self, number: usize, result: Result<(), DiskError>) {
        self.inner.release(self.run_io(number));
        let Some(run) = self.runs[number].take() else {
            return;
        };
        self.store.written(&run, result.is_ok());
        match result {
            Ok(()) => {
                self.failed = None;
                self.starved &= self.store.free() < self.store.capacity() / 2;
            }
            Err(error) => {
                self.failed = Some((error, self.now + PAUSE));
                self.starved = false;
                // Whoever flushes is told. The data are still here, so a later flush may succeed.
                for at in 0..self.flushes.len() {
                    let io = self.flushes[at];
                    if matches!(self.places[index(io)], Place::Flushing { up_to } if up_to >= run.since)
                    {
                        self.end(io, Err(error));
                    }
                }
                let places = &self.places;
                self.flushes
                    .retain(|io| matches!(places[index(*io)], Place::Flushing { .. }));
            }
        }
    }

    fn end(&mut self, io: u32, result: Result<(), DiskError>) {
        self.counters.failed += u64::from(result.is_err());
        self.places[index(io)] = Place::Over;
        self.ended.push_back((io, result));
    }

    /// Takes in what the disk behind has finished.
    fn collect(&mut self, now: Instant) {
        while let Some((io, result)) = self.inner.poll_done(now) {
            let at = index(io.0);
            if let Some(run) = at.checked_sub(self.places.len()) {
                self.run_ended(run, result);
            } else if self.places[at] == Place::FlushingBehind {
                self.end(io.0, result);
            } else {
                self.read_ended(io.0, result);
                self.counters.failed += u64::from(result.is_err());
                self.ended.push_back((io.0, result));
            }
        }
    }
}

impl<D: Backing> Backing for CachedDisk<D> {
    fn sectors(&self) -> u64 {
        self.inner.sectors()
    }

    /// A flushed write survives; what is acknowledged may not even survive the process, which is what this disk is for.
    fn durability(&self) -> Durability {
        Durability::Flush
    }

    fn loss_mark(&self) -> u64 {
        self.loss_mark
    }

    fn discards(&self) -> bool {
        false
    }

    fn operations_max(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    fn sectors_per_operation_max(&self) -> u32 {
        self.sectors_max
    }

    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        self.now = now;
        assert!(
            matches!(
                self.places[index(io.0)],
                Place::Free | Place::Over | Place::Ours { .. } | Place::Theirs
            ),
            "operation {} begins while it is under way",
            io.0
        );
        self.places[index(io.0)] = Place::Over;
        let started = match operation {
            DiskOperation::Read { lba, sectors } => self.start_read(now, io, lba.0, sectors),
            DiskOperation::Write { lba, sectors, data } => {
                self.start_write(lba.0, sectors.get(), data)
            }
            DiskOperation::Flush => {
                self.counters.flushes += 1;
                let up_to = self.store.writes();
                self.places[index(io.0)] = Place::Flushing { up_to };
                self.flushes.push_back(io.0);
                Started::Pending
            }
            DiskOperation::Discard { .. } => {
                self.counters.discards += 1;
                Started::Done(Ok(()))
            }
        };
        self.counters.failed += u64::from(matches!(started, Started::Done(Err(_))));
        started
    }

    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        self.now = now;
        if self.ended.is_empty() {
            self.collect(now);
            self.pump(now);
        }
        let (io, result) = self.ended.pop_front()?;
        Some((IoId(io), result))
    }

    fn data(&self, io: IoId) -> &[u8] {
        match self.places[index(io.0)] {
            Place::Ours { sectors } => {
                let start = index(io.0) * self.slot_bytes();
                &self.buffers[start..start + index(sectors) * SECTOR_BYTES]
            }
            Place::Theirs => self.inner.data(io),
            _ => &[],
        }
    }

    fn release(&mut self, io: IoId) {
        if std::mem::take(&mut self.theirs[index(io.0)]) {
            self.inner.release(io);
        }
        self.places[index(io.0)] = Place::Free;
    }

    fn kick(&mut self, now: Instant) {
        self.now = now;
        self.pump(now);
        self.inner.kick(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // Whatever is under way behind wakes the target itself; what could not begin there has to be tried again.
        let idle = self.runs.iter().all(Option::is_none);
        let stuck = idle && (self.starved || !self.flushes.is_empty());
        let ours = (stuck || !self.ended.is_empty()).then(|| self.now + RETRY);
        earlier(ours, self.inner.poll_timeout())
    }

    fn wait_fd(&self) -> Option<i32> {
        self.inner.wait_fd()
    }
}

impl<D: std::fmt::Debug> std::fmt::Debug for CachedDisk<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedDisk")
            .field("inner", &self.inner)
            .field("unflushed_sectors", &self.store.dirty())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Place {
    /// Whether the disk behind is reading this sector.
    fn reads(&self, lba: u64) -> bool {
        matches!(self, Self::Reading { lba: first, sectors, .. } if (*first..first + u64::from(*sectors)).contains(&lba))
    }
}

/// The earlier of two times, where none is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
