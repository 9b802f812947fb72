//! Data through a node: whole passes over a disk, and a steady mixture that runs while a test does something else.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sandrail_lab::BackingFile;
use sandrail_memory::{Buffer, SECTOR_BYTES};
use sandrail_node::{Client, Completion, Refusal, Request, TargetHandle, clock};
use sandrail_proto::aoe::initiator::{IfClosed, Operation};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use crate::data::Pattern;

/// Requests of a pass under way at a time: more than any window, so that the shards' rings are never empty.
pub const DEPTH: usize = 64;
/// Lengths of requests, in sectors: single ones, a frame's worth at either MTU and one beside, a page, the longest.
const LENGTHS: [u64; 12] = [1, 2, 3, 7, 8, 16, 17, 18, 33, 64, 127, 128];
/// A request beyond this is lost, whatever its own deadline.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A full ring is offered the request again after this long.
const RETRY: Duration = Duration::from_micros(50);

fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors).unwrap_or(usize::MAX) * SECTOR_BYTES
}

fn sectors(len_bytes: usize) -> u64 {
    u64::try_from(len_bytes / SECTOR_BYTES).unwrap_or(u64::MAX)
}

/// A request's sectors.
#[derive(Clone, Copy, Debug)]
struct Piece {
    lba: u64,
    sectors: u64,
}

/// Cuts the first `total` sectors into pieces of mixed lengths, in an order that jumps about within some hundreds of them.
fn cut(client: &Client, total: u64, seed: u64) -> Vec<Piece> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut pieces, mut lba) = (Vec::new(), 0);
    while lba < total {
        let wanted = LENGTHS[rng.usize(..LENGTHS.len())];
        let left = (total - lba).min(client.sectors_to_stripe_end(Lba(lba)));
        let piece = Piece {
            lba,
            sectors: wanted.min(left),
        };
        lba += piece.sectors;
        pieces.push(piece);
    }
    for some in pieces.chunks_mut(256) {
        rng.shuffle(some);
    }
    pieces
}

/// Submits what a client has room for; the buffer back if the shard's ring is full.
fn submit(
    client: &mut Client,
    target: TargetHandle,
    operation: Operation,
    buffer: Buffer,
) -> Result<Option<Buffer>> {
    let timeout = client.request_timeout();
    let request = Request {
        target,
        operation,
        buffer,
        timeout,
        user: 0,
    };
    match client.submit(request) {
        Ok(_) => Ok(None),
        Err(rejected) if matches!(rejected.why, Refusal::RingFull { .. }) => {
            Ok(Some(rejected.request.buffer))
        }
        Err(rejected) => Err(anyhow!("{operation:?}: {}", rejected.why)),
    }
}

/// Runs all pieces, up to the client's depth of them at a time; `ended` sees every completion.
fn run(
    client: &mut Client,
    target: TargetHandle,
    pieces: &[Piece],
    mut begin: impl FnMut(Piece, &mut Buffer) -> Operation,
    mut ended: impl FnMut(&Completion) -> Result<()>,
) -> Result<()> {
    let mut waiting = pieces.iter();
    let mut refused: Option<(Operation, Buffer)> = None;
    loop {
        while client.outstanding() < client.depth() {
            let (operation, buffer) = match refused.take() {
                Some(again) => again,
                None => {
                    let Some(mut buffer) = client.buffer(client.buffer_bytes_max()) else {
                        break;
                    };
                    let Some(piece) = waiting.next() else { break };
                    buffer.set_len(bytes(piece.sectors));
                    (begin(*piece, &mut buffer), buffer)
                }
            };
            if let Some(buffer) = submit(client, target, operation, buffer)? {
                refused = Some((operation, buffer));
                break;
            }
        }
        if client.outstanding() == 0 {
            if refused.is_none() && waiting.len() == 0 {
                return Ok(());
            }
            std::thread::sleep(RETRY);
            continue;
        }
        let completion = client
            .wait(WAIT_MAX)
            .context("a request did not end within a minute")?;
        ended(&completion)?;
        while let Some(completion) = client.poll() {
            ended(&completion)?;
        }
    }
}

/// Writes the pattern to the first `total` sectors.
///
/// # Errors
/// A request failed, or did not end.
pub fn write_all(
    client: &mut Client,
    target: TargetHandle,
    total: u64,
    pattern: Pattern,
) -> Result<()> {
    let pieces = cut(client, total, pattern.0 ^ 0x57);
    let begin = |piece: Piece, buffer: &mut Buffer| {
        pattern.fill(piece.lba, buffer.as_mut());
        Operation::Write {
            lba: Lba(piece.lba),
            if_closed: IfClosed::Wait,
        }
    };
    run(client, target, &pieces, begin, |completion| {
        completion
            .result
            .map(drop)
            .with_context(|| format!("{:?}", completion.operation))
    })
}

/// Reads the first `total` sectors and checks them against the pattern.
///
/// # Errors
/// A request failed or did not end, or a sector is not as it should be.
pub fn read_all(
    client: &mut Client,
    target: TargetHandle,
    total: u64,
    pattern: Pattern,
) -> Result<()> {
    let pieces = cut(client, total, pattern.0 ^ 0x52);
    let begin = |piece: Piece, buffer: &mut Buffer| {
        // What the buffer held before must not pass for what was read.
        buffer.as_mut().fill(0xee);
        Operation::Read {
            lba: Lba(piece.lba),
        }
    };
    let mut checked = 0;
    run(client, target, &pieces, begin, |completion| {
        let Operation::Read { lba } = completion.operation else {
            bail!("{:?} among reads", completion.operation);
        };
        completion
            .result
            .with_context(|| format!("read at {lba:?}"))?;
        pattern.check(lba.0, completion.buffer.as_ref())?;
        checked += sectors(completion.buffer.len());
        Ok(())
    })?;
    ensure!(checked == total, "{checked} of {total} sectors were read");
    Ok(())
}

/// Checks the first `total` sectors of the target's file, behind its back.
///
/// # Errors
/// The file cannot be read, or a sector is not as it should be.
pub fn check_disk(disk: &BackingFile, total: u64, pattern: Pattern) -> Result<()> {
    let file = disk.open()?;
    let mut data = vec![0; 1 << 20];
    let mut lba = 0;
    while lba < total {
        let take = bytes(total - lba).min(data.len());
        file.read_exact_at(&mut data[..take], lba * sectors_bytes())?;
        pattern.check(lba, &data[..take]).context("on the disk")?;
        lba += sectors(take);
    }
    Ok(())
}

/// What the target's file holds in one sector, behind its back.
///
/// # Errors
/// The file cannot be read.
pub fn sector_of(disk: &BackingFile, lba: u64) -> Result<[u8; SECTOR_BYTES]> {
    let mut sector = [0; SECTOR_BYTES];
    disk.open()?
        .read_exact_at(&mut sector, lba * sectors_bytes())?;
    Ok(sector)
}

const fn sectors_bytes() -> u64 {
    SECTOR_BYTES as u64
}

/// Sectors of one extent of a [`Churn`]; its requests never cross one.
const EXTENT_SECTORS: u64 = 64;

/// What a [`Churn`] has done.
#[derive(Clone, Debug, Default)]
pub struct Churned {
    /// When each request was completed, as its shard tells, in the order in which the completions were fetched.
    pub completed_at: Vec<Instant>,
    /// Sectors written.
    pub written: u64,
    /// Sectors read and found right.
    pub read: u64,
    /// By sector: the pass that wrote it last, 0 if none did.
    passes: Vec<u32>,
    /// The latest pass.
    pass: u32,
}

#[derive(Default)]
struct ChurnShared {
    stop: AtomicBool,
    /// The times only: what a test looks at while the load runs.
    completed_at: Mutex<Vec<Instant>>,
}

/// Writes and reads all over a part of the disk from a thread of its own, until it is told to stop. It knows what every
/// sector must hold, and checks every read.
pub struct Churn {
    shared: Arc<ChurnShared>,
    thread: JoinHandle<Result<Churned>>,
}

impl Churn {
    /// Starts on the first `total` sectors of a disk of zeros, with the client's depth of requests under way. `seed` decides
    /// what is written and where.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(client: Client, target: TargetHandle, total: u64, seed: u64) -> Result<Self> {
        let earlier = Churned {
            passes: vec![0; usize::try_from(total)?],
            ..Churned::default()
        };
        Self::go_on(client, target, seed, earlier)
    }

    /// Goes on where an earlier one of the same seed ended.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn go_on(
        client: Client,
        target: TargetHandle,
        seed: u64,
        earlier: Churned,
    ) -> Result<Self> {
        let shared = Arc::new(ChurnShared::default());
        let state = ChurnState {
            client,
            target,
            seed,
            rng: fastrand::Rng::with_seed(seed ^ u64::from(earlier.pass) << 32),
            busy: vec![None; earlier.passes.len() / usize::try_from(EXTENT_SECTORS)?],
            done: earlier,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("churn".to_owned())
            .spawn(move || state.run())?;
        Ok(Self { shared, thread })
    }

    /// When the first request after `from` was completed, if one was by now.
    #[must_use]
    pub fn first_after(&self, from: Instant) -> Option<Instant> {
        let times = self.shared.completed_at.lock();
        let times = times.unwrap_or_else(PoisonError::into_inner);
        let mut first = None;
        for at in times.iter().rev() {
            // Shards' clocks are one clock, but two shards' completions may be fetched out of order.
            if *at + Duration::from_millis(100) < from {
                break;
            }
            if *at >= from {
                first = Some(first.map_or(*at, |first: Instant| first.min(*at)));
            }
        }
        first
    }

    /// Requests completed so far.
    #[must_use]
    pub fn completed(&self) -> usize {
        let times = self.shared.completed_at.lock();
        times.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until so many more requests were completed.
    ///
    /// # Errors
    /// They were not within `longest`, or the load ended by an error, which this tells.
    pub fn wait_for(self, more: usize, longest: Duration) -> Result<Self> {
        let (from, give_up) = (self.completed(), clock::now() + longest);
        while self.completed() < from + more {
            if self.thread.is_finished() {
                self.stop()?;
                bail!("the load ended before it was told to");
            }
            if clock::now() >= give_up {
                let came = self.completed() - from;
                bail!("only {came} of {more} requests were completed within {longest:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(self)
    }

    /// Ends it: waits for what is under way, then reads everything back.
    ///
    /// # Errors
    /// A request failed or did not end, or a sector was not as it should be.
    pub fn stop(self) -> Result<Churned> {
        // Relaxed: the thread is joined below.
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

struct ChurnState {
    client: Client,
    target: TargetHandle,
    seed: u64,
    rng: fastrand::Rng,
    /// By extent: the pass that a write under way will leave, `Some(None)` for a read.
    busy: Vec<Option<Option<u32>>>,
    done: Churned,
    shared: Arc<ChurnShared>,
}

impl ChurnState {
    fn run(mut self) -> Result<Churned> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.top_up()?;
            if let Some(completion) = self.client.wait(Duration::from_millis(100)) {
                self.take(&completion)?;
            }
        }
        while self.client.outstanding() > 0 {
            let completion = self.client.wait(WAIT_MAX);
            self.take(&completion.context("a request did not end within a minute")?)?;
        }
        self.read_back()?;
        Ok(self.done)
    }

    fn top_up(&mut self) -> Result<()> {
        while self.client.outstanding() < self.client.depth() {
            let extent = self.rng.usize(..self.busy.len());
            if self.busy[extent].is_some() {
                // Depth is far below the number of extents.
                continue;
            }
            let from = self.rng.u64(..EXTENT_SECTORS);
            let longest = EXTENT_SECTORS - from;
            let count = LENGTHS[self.rng.usize(..LENGTHS.len())].min(longest);
            let lba = u64::try_from(extent)? * EXTENT_SECTORS + from;
            let Some(mut buffer) = self.client.buffer(bytes(count)) else {
                return Ok(());
            };
            let writes = self.rng.bool();
            let operation = if writes {
                self.done.pass += 1;
                Pattern::new(self.seed, self.done.pass).fill(lba, buffer.as_mut());
                Operation::Write {
                    lba: Lba(lba),
                    if_closed: IfClosed::Wait,
                }
            } else {
                buffer.as_mut().fill(0xee);
                Operation::Read { lba: Lba(lba) }
            };
            if submit(&mut self.client, self.target, operation, buffer)?.is_some() {
                return Ok(());
            }
            self.busy[extent] = Some(writes.then_some(self.done.pass));
        }
        Ok(())
    }

    fn take(&mut self, completion: &Completion) -> Result<()> {
        completion
            .result
            .with_context(|| format!("{:?}", completion.operation))?;
        let (Operation::Read { lba } | Operation::Write { lba, .. }) = completion.operation else {
            bail!("{:?} is none of ours", completion.operation);
        };
        let busy = self.busy[usize::try_from(lba.0 / EXTENT_SECTORS)?].take();
        let data = completion.buffer.as_ref();
        match busy.context("a completion that nobody waits for")? {
            Some(pass) => {
                let first = usize::try_from(lba.0)?;
                let count = data.len() / SECTOR_BYTES;
                self.done.passes[first..first + count].fill(pass);
                self.done.written += sectors(data.len());
            }
            None => {
                self.check(lba.0, data)?;
                self.done.read += sectors(data.len());
            }
        }
        self.done.completed_at.push(completion.completed_at);
        let times = self.shared.completed_at.lock();
        times
            .unwrap_or_else(PoisonError::into_inner)
            .push(completion.completed_at);
        Ok(())
    }

    fn check(&self, lba: u64, data: &[u8]) -> Result<()> {
        for (lba, sector) in (lba..).zip(data.chunks_exact(SECTOR_BYTES)) {
            match self.done.passes[usize::try_from(lba)?] {
                0 => ensure!(
                    sector.iter().all(|byte| *byte == 0),
                    "sector {lba} was never written and is not zero"
                ),
                pass => Pattern::new(self.seed, pass).check(lba, sector)?,
            }
        }
        Ok(())
    }

    fn read_back(&mut self) -> Result<()> {
        for extent in 0..u64::try_from(self.busy.len())? {
            let lba = extent * EXTENT_SECTORS;
            let mut data = vec![0xee; bytes(EXTENT_SECTORS)];
            self.client.read(self.target, Lba(lba), &mut data)?;
            self.check(lba, &data).context("reading back")?;
        }
        Ok(())
    }
}
