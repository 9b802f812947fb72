//! Faults of a disk, on demand: bad sectors, slowness, a write that is held back.
//!
//! [`FaultDisk`] stands before any disk; [`FaultControl`], its remote control, works from any thread. What it asks for is in
//! force from the disk's next operation or turn on.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use crate::cached::earlier;

mod control;

pub use control::{Delay, FaultControl, FaultCounts, Strikes};

use control::{Rules, Shared};

/// Writes that can be held at once. Further ones pass, and are counted.
pub const HELD_MAX: usize = 8;
/// When to look whether a held write is to be let go.
const LOOK: Duration = Duration::from_millis(1);

/// A write that waits for its release.
#[derive(Clone, Copy, Debug)]
struct Held {
    io: u32,
    lba: u64,
    sectors: NonZeroU32,
    /// It goes when more releases than this were asked for.
    releases: u64,
}

/// A disk before `D` that does to it what its [`FaultControl`] says.
pub struct FaultDisk<D> {
    inner: D,
    shared: Arc<Shared>,
    /// The rules as they were when their number was this.
    rules: Rules,
    generation: u64,
    random: fastrand::Rng,
    /// Whether the disk behind has to be told of the release.
    theirs: Vec<bool>,
    /// Results that are late on purpose, the next to be told on top.
    late: BinaryHeap<Reverse<(Instant, u32, Ended)>>,
    ended: VecDeque<(u32, Result<(), DiskError>)>,
    held: [Option<Held>; HELD_MAX],
    /// A slot for each held write.
    buffers: Vec<u8>,
    now: Instant,
}

/// A result that can lie in a heap, whose order is by time and place alone.
#[derive(Clone, Copy, Debug)]
struct Ended(Result<(), DiskError>);

impl PartialEq for Ended {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Ended {}

impl PartialOrd for Ended {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ended {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<D: Backing> FaultDisk<D> {
    /// Stands before `inner`; there are no faults until they are asked for.
    #[must_use]
    pub fn new(inner: D) -> Self {
        let places = index(inner.operations_max());
        let slot_bytes = index(inner.sectors_per_operation_max()) * SECTOR_BYTES;
        Self {
            inner,
            shared: Arc::new(Shared::default()),
            rules: Rules::default(),
            generation: 0,
            random: fastrand::Rng::with_seed(0),
            theirs: vec![false; places],
            late: BinaryHeap::with_capacity(places),
            ended: VecDeque::with_capacity(places),
            held: [None; HELD_MAX],
            buffers: vec![0; HELD_MAX * slot_bytes],
            now: Instant::ZERO,
        }
    }

    /// The remote control. Any number of them, in any thread.
    #[must_use]
    pub fn control(&self) -> FaultControl {
        FaultControl::new(Arc::clone(&self.shared))
    }

    /// The disk behind.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// The disk behind, for what is no I/O.
    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }

    fn look_at_rules(&mut self) {
        let Some((rules, generation)) = self.shared.rules_since(self.generation) else {
            return;
        };
        if let Some(delay) = rules.delay.filter(|_| rules.delay != self.rules.delay) {
            self.random = fastrand::Rng::with_seed(delay.seed);
        }
        self.rules = rules;
        self.generation = generation;
    }

    /// Tells a result now, or later if the disk is slow.
    fn finish(
        &mut self,
        now: Instant,
        io: u32,
        result: Result<(), DiskError>,
    ) -> Option<Result<(), DiskError>> {
        let Some(delay) = self.rules.delay else {
            return Some(result);
        };
        let jitter_ns = u64::try_from(delay.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(self.random.u64(0..=jitter_ns));
        self.shared.delayed();
        let due = now + delay.fixed + jitter;
        self.late.push(Reverse((due, io, Ended(result))));
        None
    }

    fn started(&mut self, now: Instant, io: u32, result: Result<(), DiskError>) -> Started {
        self.finish(now, io, result)
            .map_or(Started::Pending, Started::Done)
    }

    /// Holds a write back, if there is room.
    fn hold(&mut self, io: u32, lba: Lba, sectors: NonZeroU32, data: &[&[u8]]) -> bool {
        let slot_bytes = self.buffers.len() / HELD_MAX;
        let given: usize = data.iter().map(|piece| piece.len()).sum();
        let free = self.held.iter().position(Option::is_none);
        let Some(free) =
            free.filter(|_| given == index(sectors.get()) * SECTOR_BYTES && given <= slot_bytes)
        else {
            self.shared.passed_unheld();
            return false;
        };
        let mut to = &mut self.buffers[free * slot_bytes..][..given];
        for piece in data {
            let (head, tail) = to.split_at_mut(piece.len());
            head.copy_from_slice(piece);
            to = tail;
        }
        self.held[free] = Some(Held {
            io,
            lba: lba.0,
            sectors,
            releases: self.shared.releases(),
        });
        self.shared.held();
        true
    }

    /// Starts the held writes that are let go.
    fn let_go(&mut self, now: Instant) {
        if self.held.iter().all(Option::is_none) {
            return;
        }
        let releases = self.shared.releases();
        let slot_bytes = self.buffers.len() / HELD_MAX;
        for slot in 0..HELD_MAX {
            let Some(held) = self.held[slot].filter(|held| held.releases < releases) else {
                continue;
            };
            let len = index(held.sectors.get()) * SECTOR_BYTES;
            let data: &[&[u8]] = &[&self.buffers[slot * slot_bytes..][..len]];
            let operation = DiskOperation::Write {
                lba: Lba(held.lba),
                sectors: held.sectors,
                data,
            };
            let started = self.inner.start(now, IoId(held.io), operation);
            if started == Started::Busy {
                continue;
            }
            self.held[slot] = None;
            self.shared.let_go();
            self.theirs[index(held.io)] = true;
            if let Started::Done(result) = started
                && let Some(result) = self.finish(now, held.io, result)
            {
                self.ended.push_back((held.io, result));
            }
        }
    }
}

impl<D: Backing> Backing for FaultDisk<D> {
    fn sectors(&self) -> u64 {
        self.inner.sectors()
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    fn loss_mark(&self) -> u64 {
        self.inner.loss_mark()
    }

    fn discards(&self) -> bool {
        self.inner.discards()
    }

    fn operations_max(&self) -> u32 {
        self.inner.operations_max()
    }

    fn sectors_per_operation_max(&self) -> u32 {
        self.inner.sectors_per_operation_max()
    }

    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        self.now = now;
        self.look_at_rules();
        if let Some(error) = self.rules.strike(&operation) {
            self.shared.began(&operation);
            self.shared.failed();
            return self.started(now, io.0, Err(error));
        }
        let mut counted = 0;
        if let DiskOperation::Write { lba, sectors, data } = operation {
            counted = self.shared.count_down();
            if counted == 1 && self.hold(io.0, lba, sectors, data) {
                self.shared.began(&operation);
                return Started::Pending;
            }
        }
        let started = self.inner.start(now, io, operation);
        if started == Started::Busy {
            // The same write comes again, and counts then.
            if counted > 1 {
                self.shared.count_up();
            }
            return started;
        }
        self.shared.began(&operation);
        self.theirs[index(io.0)] = true;
        match started {
            Started::Done(result) => self.started(now, io.0, result),
            other => other,
        }
    }

    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        self.now = now;
        self.look_at_rules();
        self.let_go(now);
        if let Some((io, result)) = self.ended.pop_front() {
            return Some((IoId(io), result));
        }
        while let Some((io, result)) = self.inner.poll_done(now) {
            if let Some(result) = self.finish(now, io.0, result) {
                return Some((io, result));
            }
        }
        if !matches!(self.late.peek(), Some(Reverse((due, ..))) if *due <= now) {
            return None;
        }
        let Reverse((_, io, Ended(result))) = self.late.pop()?;
        Some((IoId(io), result))
    }

    fn data(&self, io: IoId) -> &[u8] {
        if self.theirs[index(io.0)] {
            self.inner.data(io)
        } else {
            &[]
        }
    }

    fn release(&mut self, io: IoId) {
        if std::mem::take(&mut self.theirs[index(io.0)]) {
            self.inner.release(io);
        }
    }

    fn kick(&mut self, now: Instant) {
        self.now = now;
        self.look_at_rules();
        self.let_go(now);
        self.inner.kick(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let late = self.late.peek().map(|Reverse((due, ..))| *due);
        // The one who lets go is in another thread and can't wake this one.
        let held = self.held.iter().any(Option::is_some);
        let soon = (held || !self.ended.is_empty()).then(|| self.now + LOOK);
        earlier(earlier(late, soon), self.inner.poll_timeout())
    }

    fn wait_fd(&self) -> Option<i32> {
        self.inner.wait_fd()
    }
}

impl<D: std::fmt::Debug> std::fmt::Debug for FaultDisk<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultDisk")
            .field("inner", &self.inner)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
