//! A link whose frames arrive twice: first damaged, then whole.
//!
//! What a stranger sends seldom fits a command that is under way. A damaged copy of the very answer that is waited for does,
//! and comes first: only its length, and what is left of its fields, can tell that it is none.

use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sandrail_link::{Link, LinkCounters, LinkInfo, TransmitError};
use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;

/// How often a received frame was preceded by a damaged copy of it, and whether any is now.
#[derive(Debug, Default)]
pub struct Mangled {
    count: AtomicU64,
    paused: AtomicBool,
}

impl Mangled {
    /// So far.
    #[must_use]
    pub fn count(&self) -> u64 {
        // Relaxed: a number for reports.
        self.count.load(Ordering::Relaxed)
    }

    /// Does `work` while nothing is damaged: for an attach that takes whoever answers first. An answer whose source was damaged
    /// is another target's for all that anybody can tell, and such an attach has to be refused.
    pub fn paused<T>(&self, work: impl FnOnce() -> T) -> T {
        // Relaxed: what the links' threads do some frames later is told by no order.
        self.paused.store(true, Ordering::Relaxed);
        let done = work();
        self.paused.store(false, Ordering::Relaxed);
        done
    }
}

/// Any link; half of what it receives is preceded by a damaged copy: cut off anywhere, or with a bit flipped that
/// makes it another's.
pub struct MangleLink<L> {
    inner: L,
    rng: fastrand::Rng,
    count: Arc<Mangled>,
    copy: Vec<u8>,
}

impl<L: Link> MangleLink<L> {
    /// Damages copies of what `inner` receives as `seed` decides.
    #[must_use]
    pub fn new(inner: L, seed: u64, count: Arc<Mangled>) -> Self {
        Self {
            copy: Vec::with_capacity(inner.info().mtu_bytes + 22),
            inner,
            rng: fastrand::Rng::with_seed(seed),
            count,
        }
    }
}

/// Bytes whose every bit tells an answer from another's: source, ethertype, shelf.slot, command and tag, and of ATA answers
/// the first sector. A flipped bit of the others (flags, status, count, data) makes an answer of another meaning, which
/// nothing can tell.
const GUARDED: [Range<usize>; 3] = [6..14, 16..24, 28..34];

/// Where an untagged frame has its command.
const COMMAND: usize = 19;

fn mangle(copy: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    let is_ata = copy.get(COMMAND) == Some(&0);
    let places = if is_ata { 3 } else { 2 };
    let guarded = GUARDED[rng.usize(..places)].clone();
    if rng.bool() && copy.len() >= guarded.end {
        copy[rng.usize(guarded)] ^= 1 << rng.u32(..8);
    } else {
        copy.truncate(rng.usize(..copy.len()));
    }
}

impl<L: Link> Link for MangleLink<L> {
    fn info(&self) -> &LinkInfo {
        self.inner.info()
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        let Self {
            inner,
            rng,
            count,
            copy,
        } = self;
        let mut more = 0;
        let received = inner.receive(now, (frames_max / 2).max(1), &mut |frame| {
            if rng.bool() && !count.paused.load(Ordering::Relaxed) {
                copy.clear();
                for segment in frame.segments() {
                    copy.extend_from_slice(segment);
                }
                mangle(copy, rng);
                count.count.fetch_add(1, Ordering::Relaxed);
                more += 1;
                sink(FrameRef::new(copy));
            }
            sink(frame);
        });
        received + more
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
        self.inner.transmit(now, header, payload)
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
