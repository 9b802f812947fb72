//! Writes, reads and flushes that go on while their target dies, and what each sector may hold afterwards.
//!
//! A [`Storm`] runs on a thread of its own; its [`Ledger`] knows of every sector what was acknowledged, what a flush covers
//! and what is under way. Whoever kills the target looks into the ledger afterwards: what is then acknowledged must be there,
//! or, where the target may lose what was not flushed, what was flushed.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandrail_memory::SECTOR_BYTES;
use sandrail_node::{Client, Completion, Refusal, Request, RequestError, TargetHandle};
use sandrail_proto::aoe::initiator::{IfClosed, IoError, Operation, RestartEvidence};
use sandrail_wire::Lba;

use crate::data::Pattern;

mod ledger;

pub use ledger::{FlushMark, Ledger, Wrong};

/// Sectors of one extent: its requests never cross one, and one at a time is under way in it.
const EXTENT_SECTORS: usize = 16;
/// Requests between two flushes.
const FLUSH_EVERY: usize = 150;
/// A request beyond this is lost, whatever its own deadline.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The pass that a sector's content is of; 0: it is all zeros, nobody ever wrote it.
///
/// # Errors
/// It is torn, another sector's, or another run's.
pub fn pass_in(seed: u64, lba: u64, sector: &[u8]) -> Result<u32> {
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let Pattern(word) = Pattern::of(lba, sector)?;
    let pass = u32::try_from(word & u64::from(u32::MAX))?;
    ensure!(
        Pattern::new(seed, pass) == Pattern(word),
        "sector {lba} holds {word:#x}, which is nobody's of seed {seed}"
    );
    Ok(pass)
}

struct Shared {
    ledger: Mutex<Ledger>,
    stop: AtomicBool,
    completed: AtomicUsize,
    /// A flush has told that something unflushed was lost.
    told: AtomicBool,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a storm went.
#[derive(Debug)]
pub struct Stormed {
    /// What every sector must, or may, hold.
    pub ledger: Ledger,
    /// A flush failed since something unflushed was lost; none was asked for after it.
    pub told: bool,
    /// Requests completed.
    pub completed: usize,
    /// Flushes among them that succeeded.
    pub flushes: u64,
}

/// The load.
pub struct Storm {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<u64>>,
}

impl Storm {
    /// Starts it, with the client's depth of requests under way. `lossy`: the target may lose what was not flushed, and then
    /// a flush that says so is no failure.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        client: Client,
        target: TargetHandle,
        ledger: Ledger,
        lossy: bool,
        seed: u64,
    ) -> Result<Self> {
        let (extents, base) = (ledger.sectors() / EXTENT_SECTORS, ledger.base());
        ensure!(
            extents >= 2 * client.depth(),
            "too few sectors for that depth"
        );
        let shared = Arc::new(Shared {
            ledger: Mutex::new(ledger),
            stop: AtomicBool::new(false),
            completed: AtomicUsize::new(0),
            told: AtomicBool::new(false),
        });
        let state = State {
            shared: Arc::clone(&shared),
            client,
            target,
            base,
            lossy,
            rng: fastrand::Rng::with_seed(seed),
            busy: vec![None; extents],
            flush: None,
            since_flush: 0,
            flushes: 0,
        };
        let thread = std::thread::Builder::new()
            .name("storm".to_owned())
            .spawn(move || state.run())?;
        Ok(Self { shared, thread })
    }

    /// Looks at the ledger, or changes it, while nothing else does.
    pub fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.shared.ledger())
    }

    /// Whether it has ended by an error, which [`Storm::stop`] tells.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until so many more requests were completed.
    ///
    /// # Errors
    /// They were not within `longest`, or the storm has failed, which this tells.
    pub fn wait_for(self, more: usize, longest: Duration) -> Result<Self> {
        // Relaxed: a number that only grows, nothing is published by it.
        let completed = |storm: &Self| storm.shared.completed.load(Ordering::Relaxed);
        let (wanted, give_up) = (completed(&self) + more, Instant::now() + longest);
        while completed(&self) < wanted {
            if self.thread.is_finished() {
                self.stop()?;
                bail!("the storm ended before it was told to");
            }
            let missing = wanted - completed(&self);
            ensure!(
                Instant::now() < give_up,
                "{missing} of {more} requests are missing after {longest:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(self)
    }

    /// Ends it, when what is under way has ended.
    ///
    /// # Errors
    /// A request failed or did not end, or a read found what it should not.
    pub fn stop(self) -> Result<Stormed> {
        // Relaxed: the thread is joined below.
        self.shared.stop.store(true, Ordering::Relaxed);
        let flushes = match self.thread.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let ledger = std::mem::take(&mut *self.shared.ledger());
        Ok(Stormed {
            ledger,
            told: self.shared.told.load(Ordering::Relaxed),
            completed: self.shared.completed.load(Ordering::Relaxed),
            flushes,
        })
    }
}

struct State {
    shared: Arc<Shared>,
    client: Client,
    target: TargetHandle,
    base: u64,
    lossy: bool,
    rng: fastrand::Rng,
    /// By extent: the pass that a write under way will leave, `Some(None)` for a read.
    busy: Vec<Option<Option<u32>>>,
    flush: Option<FlushMark>,
    since_flush: usize,
    flushes: u64,
}

impl State {
    fn run(mut self) -> Result<u64> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.top_up()?;
            if let Some(completion) = self.client.wait(Duration::from_millis(20)) {
                self.take(completion)?;
            }
        }
        while self.client.outstanding() > 0 {
            let completion = self.client.wait(WAIT_MAX);
            self.take(completion.context("a request did not end within a minute")?)?;
        }
        Ok(self.flushes)
    }

    fn top_up(&mut self) -> Result<()> {
        while self.client.outstanding() < self.client.depth() {
            let told = self.shared.told.load(Ordering::Relaxed);
            let flushes = self.since_flush >= FLUSH_EVERY && self.flush.is_none() && !told;
            let taken = if flushes {
                self.flush()?
            } else {
                self.transfer()?
            };
            if !taken {
                return Ok(());
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        // Looked at before it is sent: what is acknowledged later, it need not cover.
        let mark = self.shared.ledger().flush_begins();
        let Some(buffer) = self.client.buffer(0) else {
            return Ok(false);
        };
        let request = self.request(Operation::Flush, buffer);
        if !self.submit(request)? {
            return Ok(false);
        }
        self.flush = Some(mark);
        self.since_flush = 0;
        Ok(true)
    }

    fn transfer(&mut self) -> Result<bool> {
        let extent = self.rng.usize(..self.busy.len());
        if self.busy[extent].is_some() {
            // Another one is free: there are more than the depth.
            return Ok(true);
        }
        let from = self.rng.usize(..EXTENT_SECTORS);
        let count = self.rng.usize(1..=EXTENT_SECTORS - from);
        let first = extent * EXTENT_SECTORS + from;
        let lba = self.base + u64::try_from(first)?;
        let Some(mut buffer) = self.client.buffer(count * SECTOR_BYTES) else {
            return Ok(false);
        };
        if self.rng.u8(..4) == 0 {
            buffer.as_mut().fill(0xee);
            let taken = self.submit(self.request(Operation::Read { lba: Lba(lba) }, buffer))?;
            self.busy[extent] = taken.then_some(None);
            return Ok(taken);
        }
        let seed = self.shared.ledger().seed();
        // In the ledger before it can be on the disk.
        let pass = self.shared.ledger().write_begins(first, count);
        Pattern::new(seed, pass).fill(lba, buffer.as_mut());
        let operation = Operation::Write {
            lba: Lba(lba),
            if_closed: IfClosed::Wait,
        };
        let taken = self.submit(self.request(operation, buffer))?;
        if taken {
            self.busy[extent] = Some(Some(pass));
        } else {
            self.shared.ledger().write_was_not_sent(first, count);
        }
        Ok(taken)
    }

    fn request(&self, operation: Operation, buffer: sandrail_memory::Buffer) -> Request {
        Request {
            target: self.target,
            operation,
            buffer,
            timeout: self.client.request_timeout(),
            user: 0,
        }
    }

    fn submit(&mut self, request: Request) -> Result<bool> {
        match self.client.submit(request) {
            Ok(_) => Ok(true),
            Err(rejected) if matches!(rejected.why, Refusal::RingFull { .. }) => Ok(false),
            Err(rejected) => bail!("{:?}: {}", rejected.request.operation, rejected.why),
        }
    }

    fn take(&mut self, completion: Completion) -> Result<()> {
        self.shared.completed.fetch_add(1, Ordering::Relaxed);
        let operation = completion.operation;
        if operation == Operation::Flush {
            return self.take_flush(completion.result.map(drop));
        }
        completion
            .result
            .with_context(|| format!("{operation:?}"))?;
        self.since_flush += 1;
        let (Operation::Read { lba } | Operation::Write { lba, .. }) = operation else {
            bail!("{operation:?} is none of ours");
        };
        let first = usize::try_from(lba.0 - self.base)?;
        let data = completion.buffer.as_ref();
        let busy = self.busy[first / EXTENT_SECTORS].take();
        let mut ledger = self.shared.ledger();
        match busy.context("a completion that nobody waits for")? {
            Some(pass) => ledger.write_ends(first, data.len() / SECTOR_BYTES, pass),
            None => ledger.check(lba.0, data).context("read in the storm")?,
        }
        Ok(())
    }

    fn take_flush(&mut self, result: Result<(), RequestError>) -> Result<()> {
        let mark = self.flush.take().context("no flush is under way")?;
        match result {
            Ok(()) => {
                self.flushes += 1;
                self.shared.ledger().flush_ends(&mark);
            }
            Err(RequestError::Io(IoError::UnflushedLost(RestartEvidence::Session)))
                if self.lossy =>
            {
                self.shared.told.store(true, Ordering::Relaxed);
            }
            Err(error) => return Err(error).context("flush in the storm"),
        }
        Ok(())
    }
}

/// Checks a target's file behind its back, against what the ledger allows now.
///
/// # Errors
/// It cannot be read, or a sector holds what it must not.
pub fn check_file(file: &std::fs::File, ledger: &Ledger) -> Result<()> {
    let mut data = vec![0; ledger.sectors() * SECTOR_BYTES];
    file.read_exact_at(&mut data, ledger.base() * 512)?;
    ledger.check(ledger.base(), &data).context("in the file")
}

/// Reads all of a ledger's sectors through the node.
///
/// # Errors
/// A read failed.
pub fn read_all(client: &mut Client, target: TargetHandle, ledger: &Ledger) -> Result<Vec<u8>> {
    let mut data = vec![0xee; ledger.sectors() * SECTOR_BYTES];
    client.read(target, Lba(ledger.base()), &mut data)?;
    Ok(data)
}
