//! Faults between a link and its user: seeded loss, duplication, reordering and delay, each way, and faults by script.
//!
//! [`FaultLink`] is a decorator over any link. It stands for the network *beyond* the NIC, not for the NIC's queue, and
//! [`Link::completed`] follows from that. S2 counts a frame's lifetime from its completion, and afterwards any number of
//! copies may still be in the network. So:
//!
//! - a frame passed on completes when the inner link says so;
//! - a frame lost completes with its predecessors: nothing of it is left;
//! - a frame held back completes with its predecessors too, when it is *taken*, not when it is released: the held copy is
//!   in the network, a late copy by the contract's words. S2 then holds as long as a hold, together with the time the
//!   released copy spends in the inner link and the real network, stays within the frame lifetime. A plan that
//!   holds longer breaks that promise on purpose, and the engine's checkers must notice;
//! - copies that the decorator makes are not counted: their frame was completed before.
//!
//! `completed()` never falls and never runs ahead of what these rules say; where its bookkeeping is full it lags
//! behind, which only makes a lifetime longer.
//!
//! Held frames lie in memory allocated at the start. When it is full a frame passes straight through and is counted.

use core::time::Duration;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;

use crate::{HEADER_BYTES_MAX, Link, LinkCounters, LinkInfo, TransmitError};

mod hold;
#[cfg(test)]
mod tests;

use hold::HoldPool;

/// Bytes that a frame may have beyond the MTU: Ethernet header and two VLAN tags.
const OVERHEAD_BYTES: usize = 14 + 8;

/// How many checkpoints of completion are kept; beyond that `completed()` gets coarser.
const CHECKPOINTS_MAX: usize = 4096;

/// What chance does to the frames of one direction. Probabilities are per frame, 0.0 to 1.0; a frame that chance drops is
/// neither duplicated nor delayed.
#[derive(Clone, Debug)]
pub struct FaultRates {
    /// Probability that a frame vanishes.
    pub loss: f64,
    /// Probability that a second copy follows.
    pub duplicate: f64,
    /// How long after the first the second copy follows at most (uniform).
    pub duplicate_after_max: Duration,
    /// Probability that a frame is overtaken.
    pub reorder: f64,
    /// How many later frames it waits for: uniform from one to this. It is released with the next flush or receive call, so
    /// the rest of a burst may overtake it as well.
    pub reorder_frames_max: u32,
    /// How long it waits for them at most.
    pub reorder_wait_max: Duration,
    /// Probability that a frame is delayed.
    pub delay: f64,
    /// The least delay of a delayed frame.
    pub delay_min: Duration,
    /// The longest delay of a delayed frame (uniform between the two).
    pub delay_max: Duration,
}

impl Default for FaultRates {
    /// No faults; were one switched on, its times are those of a busy switch.
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            duplicate_after_max: Duration::from_micros(100),
            reorder: 0.0,
            reorder_frames_max: 4,
            reorder_wait_max: Duration::from_micros(500),
            delay: 0.0,
            delay_min: Duration::from_micros(10),
            delay_max: Duration::from_millis(1),
        }
    }
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the user to the network.
    Transmit,
    /// From the network to the user.
    Receive,
}

/// What a script wants done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes, and chance leaves it alone.
    Pass,
    /// It vanishes.
    Drop,
    /// It is held for so long, then passes.
    Hold(Duration),
    /// It passes now, and a copy of it so much later.
    CopyAfter(Duration),
}

/// A script: sees the head of each frame (transmitting: the `header` argument; receiving: the first segment) and decides, or
/// leaves it to the next script and then to chance.
pub type Script = Box<dyn FnMut(&[u8]) -> Option<Verdict> + Send>;

/// Everything a [`FaultLink`] will do.
pub struct FaultPlan {
    /// Decides everything that is left to chance. The two directions draw from generators of their own.
    pub seed: u64,
    /// Chance, transmitting.
    pub transmit: FaultRates,
    /// Chance, receiving.
    pub receive: FaultRates,
    /// How many frames each direction can hold at once.
    pub held_frames_max: usize,
    scripts: Vec<(Direction, Script)>,
}

impl FaultPlan {
    /// A plan without faults, holding at most 256 frames a direction.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            transmit: FaultRates::default(),
            receive: FaultRates::default(),
            held_frames_max: 256,
            scripts: Vec::new(),
        }
    }

    /// The same chance of loss, duplication and reordering both ways.
    #[must_use]
    pub fn with_rates(mut self, loss: f64, duplicate: f64, reorder: f64) -> Self {
        for rates in [&mut self.transmit, &mut self.receive] {
            rates.loss = loss;
            rates.duplicate = duplicate;
            rates.reorder = reorder;
        }
        self
    }

    /// Adds a script. Scripts are asked in the order they were added; the first verdict counts.
    #[must_use]
    pub fn with_script(
        mut self,
        direction: Direction,
        script: impl FnMut(&[u8]) -> Option<Verdict> + Send + 'static,
    ) -> Self {
        self.scripts.push((direction, Box::new(script)));
        self
    }

    /// Adds a script that gives `verdict` to the `nth` frame (counted from 1) that `matches`.
    #[must_use]
    pub fn on_nth(
        self,
        direction: Direction,
        nth: u64,
        verdict: Verdict,
        mut matches: impl FnMut(&[u8]) -> bool + Send + 'static,
    ) -> Self {
        let mut seen = 0;
        self.with_script(direction, move |head| {
            if !matches(head) {
                return None;
            }
            seen += 1;
            (seen == nth).then_some(verdict)
        })
    }
}

/// What was done to the frames of one direction. With `held` the number in hold now:
/// `seen + duplicated = passed + lost + released + refused + held`, and `released + held` covers every frame held and every copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Frames that came.
    pub seen: u64,
    /// Frames passed on at once.
    pub passed: u64,
    /// Frames dropped, by chance or script.
    pub lost: u64,
    /// Copies made, by chance or script.
    pub duplicated: u64,
    /// Frames held for others to overtake.
    pub reordered: u64,
    /// Frames held for a time, by chance or script.
    pub delayed: u64,
    /// Held frames and copies passed on later.
    pub released: u64,
    /// Held frames and copies that the inner link refused for their length.
    pub refused: u64,
    /// Times a frame should have been held or copied and no memory was left: it passed straight through, or no copy was made.
    pub overflowed: u64,
    /// Of all verdicts, those a script gave.
    pub scripted: u64,
}

#[derive(Default)]
struct SharedCounters {
    seen: AtomicU64,
    passed: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    delayed: AtomicU64,
    released: AtomicU64,
    refused: AtomicU64,
    overflowed: AtomicU64,
    scripted: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    // Relaxed, here and in `snapshot`: these are numbers for reports, nothing is published by them.
    counter.fetch_add(1, Ordering::Relaxed);
}

impl SharedCounters {
    fn snapshot(&self) -> FaultCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FaultCounters {
            seen: read(&self.seen),
            passed: read(&self.passed),
            lost: read(&self.lost),
            duplicated: read(&self.duplicated),
            reordered: read(&self.reordered),
            delayed: read(&self.delayed),
            released: read(&self.released),
            refused: read(&self.refused),
            overflowed: read(&self.overflowed),
            scripted: read(&self.scripted),
        }
    }
}

/// Another thread's grip on a [`FaultLink`]: its counters, and a switch.
#[derive(Default)]
pub struct FaultControl {
    off: AtomicBool,
    transmit: SharedCounters,
    receive: SharedCounters,
}

impl FaultControl {
    /// Switches all faults, chance and scripts, off or on again. Frames held already stay until they are due.
    pub fn set_enabled(&self, enabled: bool) {
        // Relaxed: no other data hangs on it; the link sees it with one of its next frames.
        self.off.store(!enabled, Ordering::Relaxed);
    }

    /// What was done to the frames of one direction.
    #[must_use]
    pub fn counters(&self, direction: Direction) -> FaultCounters {
        self.of(direction).snapshot()
    }

    fn of(&self, direction: Direction) -> &SharedCounters {
        match direction {
            Direction::Transmit => &self.transmit,
            Direction::Receive => &self.receive,
        }
    }
}

/// What becomes of a frame, chance and scripts considered.
enum Fate {
    Pass,
    Lose,
    Hold {
        due: Instant,
        overtakers: Option<u32>,
    },
    Copy {
        due: Instant,
    },
}

/// One direction: its dice, scripts and held frames.
struct Lane {
    direction: Direction,
    rates: FaultRates,
    rng: fastrand::Rng,
    scripts: Vec<Script>,
    held: HoldPool,
    control: Arc<FaultControl>,
}

fn uniform(rng: &mut fastrand::Rng, from: Duration, to: Duration) -> Duration {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(nanos(from)..=nanos(to).max(nanos(from))))
}

impl Lane {
    fn counters(&self) -> &SharedCounters {
        self.control.of(self.direction)
    }

    fn decide(&mut self, now: Instant, head: &[u8]) -> Fate {
        bump(&self.counters().seen);
        if self.control.off.load(Ordering::Relaxed) {
            return Fate::Pass;
        }
        if let Some(verdict) = self.scripts.iter_mut().find_map(|script| script(head)) {
            bump(&self.counters().scripted);
            return match verdict {
                Verdict::Pass => Fate::Pass,
                Verdict::Drop => Fate::Lose,
                Verdict::Hold(time) => Fate::Hold {
                    due: now + time,
                    overtakers: None,
                },
                Verdict::CopyAfter(time) => Fate::Copy { due: now + time },
            };
        }
        self.throw_dice(now)
    }

    fn throw_dice(&mut self, now: Instant) -> Fate {
        let (rng, rates) = (&mut self.rng, &self.rates);
        // Every frame takes the same draws, so that changing one rate leaves the others' frames alone.
        let lose = rng.f64() < rates.loss;
        let duplicate = rng.f64() < rates.duplicate;
        let reorder = rng.f64() < rates.reorder;
        let delay = rng.f64() < rates.delay;
        let copy_after = uniform(rng, Duration::ZERO, rates.duplicate_after_max);
        let overtakers = rng.u32(1..=rates.reorder_frames_max.max(1));
        let delay_by = uniform(rng, rates.delay_min, rates.delay_max);
        if lose {
            Fate::Lose
        } else if delay {
            Fate::Hold {
                due: now + delay_by,
                overtakers: None,
            }
        } else if reorder {
            Fate::Hold {
                due: now + rates.reorder_wait_max,
                overtakers: Some(overtakers),
            }
        } else if duplicate {
            Fate::Copy {
                due: now + copy_after,
            }
        } else {
            Fate::Pass
        }
    }

    /// Holds the frame whose parts are given (`false`: no memory) and counts why.
    fn hold<'a>(
        &mut self,
        due: Instant,
        overtakers: Option<u32>,
        header_bytes: usize,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        if self.held.insert(due, overtakers, header_bytes, parts) {
            bump(match overtakers {
                Some(_) => &self.counters().reordered,
                None => &self.counters().delayed,
            });
            return true;
        }
        bump(&self.counters().overflowed);
        false
    }

    fn copy<'a>(
        &mut self,
        due: Instant,
        header_bytes: usize,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) {
        if self.held.insert(due, None, header_bytes, parts) {
            bump(&self.counters().duplicated);
        } else {
            bump(&self.counters().overflowed);
        }
    }
}

/// When `inner` frames of the inner link have completed, `ours` of this link's have.
#[derive(Clone, Copy)]
struct Checkpoint {
    inner: u64,
    ours: u64,
}

/// Any link, with faults. See the module's text for what `completed()` means here.
///
/// [`LinkCounters`] are those of the inner link, but for frames and bytes received and transmitted: these count what this
/// link's user saw and gave.
pub struct FaultLink<L> {
    inner: L,
    transmit: Lane,
    receive: Lane,
    control: Arc<FaultControl>,
    /// Frames given to the inner link.
    inner_taken: u64,
    /// Frames taken from the user, and what had completed when checkpoints were last dropped.
    taken: u64,
    settled: u64,
    checkpoints: VecDeque<Checkpoint>,
    counted: LinkCounters,
    /// The latest moment any call has told.
    now: Instant,
}

impl<L: Link> FaultLink<L> {
    /// Puts the plan's faults between `inner` and its user. Allocates all memory for held frames:
    /// `held_frames_max` x (MTU + 22) bytes a direction.
    #[must_use]
    pub fn new(inner: L, plan: FaultPlan) -> Self {
        let frame_bytes_max = inner.info().mtu_bytes + OVERHEAD_BYTES;
        let control = Arc::new(FaultControl::default());
        let mut seeds = fastrand::Rng::with_seed(plan.seed);
        let mut lane = |direction, rates| Lane {
            direction,
            rates,
            rng: fastrand::Rng::with_seed(seeds.u64(..)),
            scripts: Vec::new(),
            held: HoldPool::new(plan.held_frames_max, frame_bytes_max),
            control: Arc::clone(&control),
        };
        let mut transmit = lane(Direction::Transmit, plan.transmit);
        let mut receive = lane(Direction::Receive, plan.receive);
        for (direction, script) in plan.scripts {
            match direction {
                Direction::Transmit => transmit.scripts.push(script),
                Direction::Receive => receive.scripts.push(script),
            }
        }
        Self {
            inner,
            transmit,
            receive,
            control,
            inner_taken: 0,
            taken: 0,
            settled: 0,
            checkpoints: VecDeque::with_capacity(CHECKPOINTS_MAX),
            counted: LinkCounters::default(),
            now: Instant::ZERO,
        }
    }

    /// The switch and the counters, for other threads.
    #[must_use]
    pub fn control(&self) -> Arc<FaultControl> {
        Arc::clone(&self.control)
    }

    /// Frames held back now, in the given direction, copies included.
    #[must_use]
    pub fn held(&self, direction: Direction) -> usize {
        match direction {
            Direction::Transmit => self.transmit.held.len(),
            Direction::Receive => self.receive.held.len(),
        }
    }

    /// The link inside.
    pub fn inner_mut(&mut self) -> &mut L {
        &mut self.inner
    }

    /// One more frame of ours is complete as soon as everything given to the inner link so far is.
    fn account(&mut self) {
        self.taken += 1;
        let (inner, ours) = (self.inner_taken, self.taken);
        let full = self.checkpoints.len() >= CHECKPOINTS_MAX;
        match self.checkpoints.back_mut() {
            // Moving the last checkpoint on makes its frames complete later than they might: the safe side.
            Some(last) if full || last.inner == inner => *last = Checkpoint { inner, ours },
            _ => self.checkpoints.push_back(Checkpoint { inner, ours }),
        }
    }

    /// Drops the checkpoints that have been reached.
    fn settle(&mut self) {
        let done = self.inner.completed();
        while let Some(first) = self.checkpoints.front().filter(|first| first.inner <= done) {
            self.settled = first.ours;
            self.checkpoints.pop_front();
        }
    }

    /// Passes held frames on: those whose time has come and those that enough others have overtaken.
    fn release_transmit(&mut self, now: Instant) {
        while let Some(frame) = self.transmit.held.peek_due(now) {
            let (header, payload) = frame.split();
            match self.inner.transmit(now, header, payload) {
                Ok(()) => {
                    self.inner_taken += 1;
                    bump(&self.control.transmit.released);
                }
                // It stays due, so that `poll_timeout` asks for the next flush at once.
                Err(TransmitError::Full) => return,
                Err(TransmitError::TooLong { .. }) => bump(&self.control.transmit.refused),
            }
            self.transmit.held.remove_due(now);
        }
    }

    /// Passes the frame on at once.
    fn pass(&mut self, now: Instant, header: &[u8], payload: &[u8]) -> Result<(), TransmitError> {
        self.inner.transmit(now, header, payload)?;
        self.inner_taken += 1;
        bump(&self.control.transmit.passed);
        self.transmit.held.overtaken();
        Ok(())
    }
}

/// Hands held frames that are due to the sink; how many.
fn release_receive(
    lane: &mut Lane,
    counted: &mut LinkCounters,
    now: Instant,
    frames_max: usize,
    sink: &mut dyn FnMut(FrameRef<'_>),
) -> usize {
    let mut delivered = 0;
    while delivered < frames_max {
        let Some(frame) = lane.held.peek_due(now) else {
            break;
        };
        counted.rx_frames += 1;
        counted.rx_bytes += u64::try_from(frame.bytes.len()).unwrap_or(0);
        sink(FrameRef::new(frame.bytes));
        lane.held.remove_due(now);
        bump(&lane.control.receive.released);
        delivered += 1;
    }
    delivered
}

impl<L: Link> Link for FaultLink<L> {
    fn info(&self) -> &LinkInfo {
        self.inner.info()
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        self.now = self.now.max(now);
        let (lane, counted) = (&mut self.receive, &mut self.counted);
        let mut delivered = release_receive(lane, counted, now, frames_max, sink);
        let room = frames_max - delivered;
        if room == 0 {
            return delivered;
        }
        self.inner.receive(now, room, &mut |frame| {
            let parts = frame.segments().iter().copied();
            match lane.decide(now, frame.head()) {
                Fate::Lose => {
                    bump(&lane.counters().lost);
                    return;
                }
                Fate::Hold { due, overtakers } => {
                    if lane.hold(due, overtakers, 0, parts) {
                        return;
                    }
                }
                Fate::Copy { due } => lane.copy(due, 0, parts),
                Fate::Pass => {}
            }
            bump(&lane.counters().passed);
            lane.held.overtaken();
            counted.rx_frames += 1;
            counted.rx_bytes += u64::try_from(frame.len_bytes()).unwrap_or(0);
            delivered += 1;
            sink(frame);
        });
        // Frames that were overtaken just now follow in the same burst, if there is room.
        delivered + release_receive(lane, counted, now, frames_max - delivered, sink)
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
        self.now = self.now.max(now);
        // Asked first, so that a frame that is offered again is judged once: dice and scripts count frames, not attempts.
        if self.inner.transmit_room() == 0 {
            return Err(TransmitError::Full);
        }
        let len_bytes = header.len() + payload.len();
        if header.len() > HEADER_BYTES_MAX || len_bytes > self.transmit.held.frame_bytes_max() {
            // The inner link says what is wrong with it; should it take the frame after all, it passes without faults.
            self.inner.transmit(now, header, payload)?;
            self.inner_taken += 1;
            bump(&self.control.transmit.seen);
            bump(&self.control.transmit.passed);
        } else {
            let parts = [header, payload];
            match self.transmit.decide(now, header) {
                Fate::Lose => bump(&self.control.transmit.lost),
                Fate::Hold { due, overtakers } => {
                    if !self.transmit.hold(due, overtakers, header.len(), parts) {
                        self.pass_judged(now, header, payload)?;
                    }
                }
                Fate::Copy { due } => {
                    self.pass_judged(now, header, payload)?;
                    self.transmit.copy(due, header.len(), parts);
                }
                Fate::Pass => self.pass_judged(now, header, payload)?,
            }
        }
        self.counted.tx_frames += 1;
        self.counted.tx_bytes += u64::try_from(len_bytes).unwrap_or(0);
        self.account();
        self.settle();
        Ok(())
    }

    fn flush(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.release_transmit(now);
        self.inner.flush(now);
        self.settle();
    }

    fn completed(&self) -> u64 {
        let done = self.inner.completed();
        let reached = self
            .checkpoints
            .partition_point(|checkpoint| checkpoint.inner <= done);
        reached
            .checked_sub(1)
            .map_or(self.settled, |last| self.checkpoints[last].ours)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let held = [self.transmit.held.next_due(), self.receive.held.next_due()];
        held.into_iter()
            .chain([self.inner.poll_timeout()])
            .flatten()
            .min()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.inner.wait_fd()
    }

    fn prepare_wait(&mut self) -> bool {
        // A received frame that is due by the last clock reading would sleep although it is there.
        let due = self
            .receive
            .held
            .next_due()
            .is_some_and(|due| due <= self.now);
        !due && self.inner.prepare_wait()
    }

    fn counters(&mut self) -> LinkCounters {
        LinkCounters {
            rx_frames: self.counted.rx_frames,
            rx_bytes: self.counted.rx_bytes,
            tx_frames: self.counted.tx_frames,
            tx_bytes: self.counted.tx_bytes,
            ..self.inner.counters()
        }
    }
}

impl<L: Link> FaultLink<L> {
    /// Passes a frame on that was judged already; should the inner link refuse it all the same, the judgement is taken back.
    fn pass_judged(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        let result = self.pass(now, header, payload);
        if result.is_err() {
            // Relaxed like all counters.
            self.control.transmit.seen.fetch_sub(1, Ordering::Relaxed);
        }
        result
    }
}
