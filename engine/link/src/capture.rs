//! What a shard receives and sends, as a pcapng file: packet taps do not see AF_XDP frames.
//!
//! [`CaptureLink`] is a decorator over any link. It shares a [`CaptureSwitch`] with other threads, which start and stop the capture
//! while the link runs; several links may share one switch and end up in one file, an interface each. The polling thread only
//! copies each frame into a buffer allocated when the capture began; a thread of the capture's own writes them. No
//! buffer left: the frame is counted, not waited for, and the count stands in the file with the next frame captured.
//! While no capture runs, all of it costs one load of an atomic a call.

use core::time::Duration;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use crossbeam_queue::ArrayQueue;
use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;

use crate::{Link, LinkCounters, LinkInfo, TransmitError};

mod pcapng;
#[cfg(test)]
mod tests;

use pcapng::{Packet, Statistics};

/// How long the writing thread sleeps when there is nothing to write. The buffers must last that long.
const WRITER_SLEEP: Duration = Duration::from_millis(1);

/// Where the time stamps come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureClock {
    /// The wall clock, read once when the capture begins; from there on the link's clock.
    #[default]
    Wall,
    /// The link's clock as it is: for simulations, whose captures then repeat byte by byte.
    Link,
}

/// What to capture, and where to.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// The file, which is replaced if it exists.
    pub path: PathBuf,
    /// How many bytes of each frame are kept.
    pub snaplen_bytes: usize,
    /// How many frames may wait to be written; this times `snaplen_bytes` is the memory taken.
    pub buffer_frames: usize,
    /// Where the time stamps come from.
    pub clock: CaptureClock,
}

impl CaptureConfig {
    /// Whole frames up to an MTU of 9000, at most 2048 waiting (18 MiB).
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            snaplen_bytes: 9022,
            buffer_frames: 2048,
            clock: CaptureClock::default(),
        }
    }
}

/// Why a capture could not begin, or what ended it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// One capture runs already.
    #[error("a capture is running already")]
    Running,
    /// A setting makes no sense.
    #[error("invalid capture setting: {0}")]
    Config(&'static str),
    /// The file could not be made or written.
    #[error("capture file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The writing thread could not be started, or panicked.
    #[error("the thread that writes the capture: {0}")]
    Thread(String),
}

/// What a capture amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureSummary {
    /// Frames in the file.
    pub written_frames: u64,
    /// Frames that found no buffer.
    pub dropped_frames: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Inbound,
    Outbound,
}

/// A buffer for one frame.
struct Record {
    interface: usize,
    flow: Flow,
    time_ns: u64,
    len_bytes: usize,
    captured_bytes: usize,
    dropped_before: u64,
    bytes: Box<[u8]>,
}

impl Record {
    fn fill<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) {
        (self.len_bytes, self.captured_bytes) = (0, 0);
        for part in parts {
            self.len_bytes += part.len();
            let room = &mut self.bytes[self.captured_bytes..];
            let take = room.len().min(part.len());
            room[..take].copy_from_slice(&part[..take]);
            self.captured_bytes += take;
        }
    }
}

/// One capture, shared by the taps and the writing thread.
struct Session {
    config: CaptureConfig,
    interfaces: Vec<LinkInfo>,
    free: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    /// By interface.
    dropped: Vec<AtomicU64>,
    written: AtomicU64,
    stop: AtomicBool,
    /// The file could not be written; taps save themselves the work.
    failed: AtomicBool,
}

impl Session {
    fn new(config: CaptureConfig, interfaces: Vec<LinkInfo>) -> Self {
        let free = ArrayQueue::new(config.buffer_frames);
        for _ in 0..config.buffer_frames {
            let record = Box::new(Record {
                interface: 0,
                flow: Flow::Inbound,
                time_ns: 0,
                len_bytes: 0,
                captured_bytes: 0,
                dropped_before: 0,
                bytes: vec![0; config.snaplen_bytes].into_boxed_slice(),
            });
            let _ = free.push(record);
        }
        Self {
            full: ArrayQueue::new(config.buffer_frames),
            free,
            dropped: interfaces.iter().map(|_| AtomicU64::new(0)).collect(),
            interfaces,
            config,
            written: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    fn summary(&self) -> CaptureSummary {
        // Relaxed, here and where they are counted: numbers for reports. After `stop` the thread's end has ordered them.
        CaptureSummary {
            written_frames: self.written.load(Ordering::Relaxed),
            dropped_frames: self
                .dropped
                .iter()
                .map(|dropped| dropped.load(Ordering::Relaxed))
                .sum(),
        }
    }

    /// The writing thread: until it is told to stop, then until nothing waits.
    fn write_all(&self, file: File) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        let mut block = Vec::with_capacity(self.config.snaplen_bytes + 256);
        pcapng::section_header(&mut block);
        for interface in &self.interfaces {
            pcapng::interface_description(&mut block, interface, self.config.snaplen_bytes);
        }
        out.write_all(&block)?;
        let mut statistics = vec![Statistics::default(); self.interfaces.len()];
        loop {
            // Acquire pairs with the release in `CaptureSwitch::stop`. Read before the queue, so that all frames captured
            // before the stop are found below.
            let stopping = self.stop.load(Ordering::Acquire);
            let mut idle = true;
            while let Some(record) = self.full.pop() {
                idle = false;
                statistics[record.interface].count(record.time_ns);
                block.clear();
                pcapng::packet(&mut block, &packet(&record));
                let _ = self.free.push(record);
                out.write_all(&block)?;
                self.written.fetch_add(1, Ordering::Relaxed);
            }
            if stopping {
                break;
            }
            if idle {
                // Who reads along shall see what there is.
                out.flush()?;
                thread::sleep(WRITER_SLEEP);
            }
        }
        block.clear();
        for (index, statistics) in statistics.iter_mut().enumerate() {
            statistics.dropped = self.dropped[index].load(Ordering::Relaxed);
            pcapng::interface_statistics(&mut block, index, statistics);
        }
        out.write_all(&block)?;
        out.flush()
    }
}

fn packet(record: &Record) -> Packet<'_> {
    Packet {
        interface: record.interface,
        time_ns: record.time_ns,
        outbound: record.flow == Flow::Outbound,
        dropped_before: record.dropped_before,
        len_bytes: record.len_bytes,
        bytes: &record.bytes[..record.captured_bytes],
    }
}

/// The running capture and its thread.
struct Running {
    session: Arc<Session>,
    thread: JoinHandle<io::Result<()>>,
}

#[derive(Default)]
struct SwitchState {
    interfaces: Vec<LinkInfo>,
    running: Option<Running>,
    /// Captures that ended, which taps may still hold: freed here, so that no polling thread frees megabytes.
    ended: Vec<Arc<Session>>,
}

/// Starts and stops captures of the links that share it, from any thread.
#[derive(Default)]
pub struct CaptureSwitch {
    state: Mutex<SwitchState>,
    /// Changes whenever a capture starts or stops.
    generation: AtomicU64,
}

impl CaptureSwitch {
    /// A switch without links; it is off.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, SwitchState> {
        // A panic while it was held leaves a state that is still whole: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a capture of all links made so far.
    ///
    /// # Errors
    /// [`CaptureError`]: one runs already, or the file cannot be made.
    pub fn start(&self, config: CaptureConfig) -> Result<(), CaptureError> {
        if config.buffer_frames == 0 || config.snaplen_bytes == 0 {
            return Err(CaptureError::Config("snaplen and buffer must not be zero"));
        }
        let mut state = self.lock();
        if state.running.is_some() {
            return Err(CaptureError::Running);
        }
        let file = File::create(&config.path).map_err(|source| CaptureError::File {
            path: config.path.clone(),
            source,
        })?;
        let session = Arc::new(Session::new(config, state.interfaces.clone()));
        let writers = Arc::clone(&session);
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                let result = writers.write_all(file);
                // Relaxed: nothing hangs on it but saved work.
                writers.failed.store(result.is_err(), Ordering::Relaxed);
                result
            })
            .map_err(|error| CaptureError::Thread(error.to_string()))?;
        state.ended.retain(|ended| Arc::strong_count(ended) > 1);
        state.running = Some(Running { session, thread });
        // Release pairs with the acquire in `Tap::follow`; the session itself is handed over under the lock.
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Stops the capture and waits until all that was captured is in the file; `None` if none was running.
    ///
    /// # Errors
    /// [`CaptureError::File`] if the file could not be written: it holds what came before.
    pub fn stop(&self) -> Result<Option<CaptureSummary>, CaptureError> {
        let Some(Running { session, thread }) = self.lock().running.take() else {
            return Ok(None);
        };
        // Release pairs with the acquire in `Tap::follow`.
        self.generation.fetch_add(1, Ordering::Release);
        // Release pairs with the acquire in `Session::write_all`.
        session.stop.store(true, Ordering::Release);
        let result = thread.join();
        let summary = session.summary();
        let path = session.config.path.clone();
        let mut state = self.lock();
        state.ended.push(session);
        state.ended.retain(|ended| Arc::strong_count(ended) > 1);
        drop(state);
        match result {
            Ok(Ok(())) => Ok(Some(summary)),
            Ok(Err(source)) => Err(CaptureError::File { path, source }),
            Err(_) => Err(CaptureError::Thread("it panicked".to_owned())),
        }
    }

    /// What the running capture amounts to so far; `None` if none is running.
    #[must_use]
    pub fn summary(&self) -> Option<CaptureSummary> {
        self.lock()
            .running
            .as_ref()
            .map(|running| running.session.summary())
    }
}

impl Drop for CaptureSwitch {
    fn drop(&mut self) {
        // Nobody is left to tell an error to; what could be written is in the file.
        let _ = self.stop();
    }
}

/// One link's side of the switch.
struct Tap {
    switch: Arc<CaptureSwitch>,
    interface: usize,
    generation: u64,
    session: Option<Arc<Session>>,
    /// Added to the link's clock.
    offset_ns: u64,
    dropped: u64,
}

impl Tap {
    /// Joins or leaves a capture when the switch has moved; whether frames are captured now.
    fn follow(&mut self, now: Instant) -> bool {
        // Acquire pairs with the releases in `start` and `stop`.
        let generation = self.switch.generation.load(Ordering::Acquire);
        if generation != self.generation {
            let state = match self.switch.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Somebody is at the switch; the next call looks again.
                Err(TryLockError::WouldBlock) => return self.session.is_some(),
            };
            let session = state
                .running
                .as_ref()
                .map(|running| Arc::clone(&running.session));
            // A link that came after the start has no interface in the file.
            let session = session.filter(|session| self.interface < session.interfaces.len());
            drop(state);
            self.offset_ns = match session.as_ref().map(|session| session.config.clock) {
                Some(CaptureClock::Wall) => wall_clock_ns().saturating_sub(now.as_nanos()),
                Some(CaptureClock::Link) | None => 0,
            };
            (self.session, self.generation, self.dropped) = (session, generation, 0);
        }
        self.session.is_some()
    }

    fn record<'a>(&mut self, now: Instant, flow: Flow, parts: impl IntoIterator<Item = &'a [u8]>) {
        let Some(session) = &self.session else {
            return;
        };
        let buffer = match session.failed.load(Ordering::Relaxed) {
            false => session.free.pop(),
            true => None,
        };
        let Some(mut record) = buffer else {
            self.dropped += 1;
            session.dropped[self.interface].fetch_add(1, Ordering::Relaxed);
            return;
        };
        record.interface = self.interface;
        record.flow = flow;
        record.time_ns = now.as_nanos().saturating_add(self.offset_ns);
        record.dropped_before = core::mem::take(&mut self.dropped);
        record.fill(parts);
        // There are as many places as buffers.
        let _ = session.full.push(record);
    }
}

fn wall_clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Any link, with a tap.
pub struct CaptureLink<L> {
    inner: L,
    tap: Tap,
}

impl<L: Link> CaptureLink<L> {
    /// Puts a tap between `inner` and its user. Captures started on the switch from now on include it.
    #[must_use]
    pub fn new(inner: L, switch: Arc<CaptureSwitch>) -> Self {
        let mut state = switch.lock();
        let interface = state.interfaces.len();
        state.interfaces.push(inner.info().clone());
        drop(state);
        Self {
            inner,
            tap: Tap {
                switch,
                interface,
                generation: 0,
                session: None,
                offset_ns: 0,
                dropped: 0,
            },
        }
    }

    /// The link inside.
    pub fn inner_mut(&mut self) -> &mut L {
        &mut self.inner
    }
}

impl<L: Link> Link for CaptureLink<L> {
    fn info(&self) -> &LinkInfo {
        self.inner.info()
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        let tap = &mut self.tap;
        if !tap.follow(now) {
            return self.inner.receive(now, frames_max, sink);
        }
        self.inner.receive(now, frames_max, &mut |frame| {
            tap.record(now, Flow::Inbound, frame.segments().iter().copied());
            sink(frame);
        })
    }

    fn transmit_room(&mut self) -> usize {
        self.inner.transmit_room()
    }

    fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        self.inner.transmit(now, header, payload)?;
        if self.tap.follow(now) {
            self.tap.record(now, Flow::Outbound, [header, payload]);
        }
        Ok(())
    }

    fn flush(&mut self, now: Instant) {
        self.inner.flush(now);
    }

    fn completed(&self) -> u64 {
        self.inner.completed()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.inner.wait_fd()
    }

    fn prepare_wait(&mut self) -> bool {
        self.inner.prepare_wait()
    }

    fn counters(&mut self) -> LinkCounters {
        self.inner.counters()
    }
}
