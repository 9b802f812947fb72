//! The load generator: keeps a disk busy as told, and measures.
//!
//! It neither waits nor reads a clock: whoever turns it passes the time, which is how it is tested. In a *closed* loop each I/O
//! that ends makes room for the next: what is measured is what `depth` users get who wait for their answers. In an *open*
//! loop I/Os are due at moments that the target has no say in, and latency counts from those: when the target, or the loop
//! itself, stalls for a second, all that was due in that second has waited, also what could not even be sent.

use std::time::Duration;

use anyhow::Context;
use sandrail_proto::time::Instant;
use sandrail_wire::TargetAddr;

use crate::arrivals::{Arrivals, Schedule};
use crate::record::{Recorded, Recorder};
use crate::stamp::{Ledger, Stamper, WrongBlock};
use crate::workload::{Io, Workload, WorkloadConfig};

/// What a driver loads.
pub trait Disk {
    /// Memory of an I/O.
    type Buffer: AsRef<[u8]> + AsMut<[u8]>;

    /// Begins an I/O. `user` comes back with its end.
    ///
    /// # Errors
    /// [`Refused`], with the buffer.
    fn submit(
        &mut self,
        io: Io,
        buffer: Self::Buffer,
        user: usize,
    ) -> Result<(), Refused<Self::Buffer>>;

    /// The next I/O that ended, if there is one.
    fn poll(&mut self) -> Option<Ended<Self::Buffer>>;
}

/// An I/O that was not begun.
#[derive(Debug)]
pub struct Refused<B> {
    /// Why.
    pub why: anyhow::Error,
    /// Its buffer.
    pub buffer: B,
}

/// An I/O's end.
#[derive(Debug)]
pub struct Ended<B> {
    /// As it was submitted with.
    pub user: usize,
    /// When it was submitted.
    pub submitted_at: Instant,
    /// When it ended.
    pub completed_at: Instant,
    /// How.
    pub result: anyhow::Result<()>,
    /// Its buffer.
    pub buffer: B,
}

/// When I/Os begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as another has ended.
    Closed,
    /// So many a second, whatever the target does.
    Open {
        /// The rate.
        per_s: f64,
        /// How they are spread.
        arrivals: Arrivals,
    },
}

/// A load.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadConfig {
    /// Which blocks.
    pub workload: WorkloadConfig,
    /// I/Os under way at most.
    pub depth: usize,
    /// When they begin.
    pub pace: Pace,
    /// Whether every block is stamped and checked. It is filled first ([`Driver::prefill`]).
    pub verify: bool,
}

impl LoadConfig {
    /// A closed loop without checks.
    #[must_use]
    pub fn closed(workload: WorkloadConfig, depth: usize) -> Self {
        Self {
            workload,
            depth,
            pace: Pace::Closed,
            verify: false,
        }
    }
}

/// How long a run lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What runs first, without being measured.
    pub warmup: Duration,
    /// What is measured.
    pub measure: Duration,
    /// How long each interval of the record is.
    pub interval: Duration,
    /// It ends earlier when so many I/Os were begun after the warm-up.
    pub ios_max: u64,
}

impl Span {
    /// Bounded by time alone, recorded as one interval.
    #[must_use]
    pub fn of(warmup: Duration, measure: Duration) -> Self {
        Self {
            warmup,
            measure,
            interval: measure,
            ios_max: u64::MAX,
        }
    }
}

/// What a run measured.
#[derive(Debug)]
pub struct Measured {
    /// I/Os that ended within the measured time.
    pub ios: u64,
    /// Of those, reads.
    pub reads: u64,
    /// The measured time.
    pub elapsed: Duration,
    /// I/Os of an open loop that were due and never begun, since time ran out.
    pub overdue: u64,
    /// Blocks checked, in verify mode, warm-up included.
    pub checked: u64,
    /// Latencies of the I/Os that began (or were due) within the measured time.
    pub intervals: Vec<Recorded>,
}

impl Measured {
    /// I/Os a second.
    #[must_use]
    pub fn ios_per_s(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 I/Os")]
        let ios = self.ios as f64;
        ios / self.elapsed.as_secs_f64()
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    io: Io,
    /// When it was due, in an open loop.
    due: Option<Instant>,
    /// A write's number, or the least that a read may find.
    number: u32,
}

#[derive(Debug)]
struct Verify {
    stamper: Stamper,
    ledger: Ledger,
    checked: u64,
}

/// What is measured now.
#[derive(Debug)]
struct Measuring {
    from: Instant,
    until: Instant,
    ios_left: u64,
    ios: u64,
    reads: u64,
    recorder: Recorder,
}

/// What is done with the blocks at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is begun.
    Rest,
    /// The workload.
    Load,
    /// Every block once: written, or read.
    Sweep { next: u64, write: bool },
}

/// Keeps a disk busy.
#[derive(Debug)]
pub struct Driver<B> {
    workload: Workload,
    pace: Pace,
    schedule: Option<Schedule>,
    verify: Option<Verify>,
    /// Slots without an I/O, each with its buffer.
    spare: Vec<(usize, B)>,
    slots: Vec<Slot>,
    phase: Phase,
    measuring: Option<Measuring>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Driver<B> {
    /// A driver at rest, with a buffer of the block's length for each of `depth` I/Os.
    ///
    /// # Errors
    /// The workload makes no sense, or the working set is too large to keep account of.
    ///
    /// # Panics
    /// When there are not as many buffers as the depth says.
    pub fn new(config: &LoadConfig, target: TargetAddr, buffers: Vec<B>) -> anyhow::Result<Self> {
        assert!(
            config.depth > 0 && buffers.len() == config.depth,
            "a buffer for each I/O under way"
        );
        let mut driver = Self::empty(config, target)?;
        driver.spare = buffers.into_iter().enumerate().collect();
        Ok(driver)
    }

    /// A driver that never begins anything, since it has no buffers.
    ///
    /// # Errors
    /// As for [`Driver::new`].
    pub fn empty(config: &LoadConfig, target: TargetAddr) -> anyhow::Result<Self> {
        let workload = Workload::new(config.workload.clone())?;
        let run = config.workload.seed;
        let blocks = usize::try_from(config.workload.blocks())?;
        let verify = config.verify.then(|| Verify {
            stamper: Stamper { target, run },
            ledger: Ledger::new(blocks),
            checked: 0,
        });
        let idle = Slot {
            io: workload.io(0, false),
            due: None,
            number: 0,
        };
        Ok(Self {
            workload,
            pace: config.pace,
            schedule: None,
            verify,
            slots: vec![idle; config.depth],
            spare: Vec::new(),
            phase: Phase::Rest,
            measuring: None,
        })
    }

    /// Loads without measuring, until something else is begun.
    pub fn begin_endless(&mut self, now: Instant) {
        self.start_schedule(now);
        self.phase = Phase::Load;
        self.measuring = None;
    }

    /// Loads and measures.
    pub fn begin(&mut self, now: Instant, span: Span) {
        self.start_schedule(now);
        self.phase = Phase::Load;
        let from = now + span.warmup;
        self.measuring = Some(Measuring {
            from,
            until: from + span.measure,
            ios_left: span.ios_max,
            ios: 0,
            reads: 0,
            recorder: Recorder::new(from, span.measure, span.interval),
        });
    }

    /// Writes every block of the working set once, so that each has something to be checked for.
    pub fn prefill(&mut self) {
        self.sweep(true);
    }

    /// Reads every block of the working set once, and checks it.
    pub fn read_back(&mut self) {
        self.sweep(false);
    }

    fn sweep(&mut self, write: bool) {
        self.phase = Phase::Sweep { next: 0, write };
        self.measuring = None;
    }

    fn start_schedule(&mut self, now: Instant) {
        self.schedule = match self.pace {
            Pace::Closed => None,
            Pace::Open { per_s, arrivals } => {
                let seed = self.workload.config().seed ^ 0x5eed;
                Some(Schedule::new(per_s, arrivals, seed, now))
            }
        };
    }

    /// Whether it must be told the time with every turn; otherwise now and then will do.
    #[must_use]
    pub fn wants_the_time(&self) -> bool {
        self.schedule.is_some()
    }

    /// Blocks that were checked so far, in verify mode.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.verify.as_ref().map_or(0, |verify| verify.checked)
    }

    /// I/Os under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.spare.len()
    }

    /// Whether everything that was begun has ended, and nothing will be begun.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Rest && self.under_way() == 0
    }

    /// Begins nothing more. What is under way is still to end.
    pub fn stop(&mut self) {
        self.phase = Phase::Rest;
    }

    /// Takes what has ended and begins what may begin; how many I/Os ended.
    ///
    /// # Errors
    /// An I/O failed, or was refused for good, or a block was not what it should be.
    pub fn turn<D: Disk<Buffer = B>>(&mut self, now: Instant, disk: &mut D) -> anyhow::Result<u64> {
        let mut ended = 0;
        while let Some(end) = disk.poll() {
            self.end(end)?;
            ended += 1;
            // At once, so that the disk has the next before all ends were looked at.
            self.begin_one(now, disk)?;
        }
        while self.begin_one(now, disk)? {}
        Ok(ended)
    }

    /// Takes an I/O's end in.
    ///
    /// # Errors
    /// As for [`Driver::turn`].
    pub fn end(&mut self, end: Ended<B>) -> anyhow::Result<()> {
        let slot = self.slots[end.user];
        let Io { lba, write, .. } = slot.io;
        let what = if write { "write" } else { "read" };
        end.result
            .with_context(|| format!("{what} of sector {}", lba.0))?;
        self.verify_end(&slot, end.buffer.as_ref())?;
        if let Some(measuring) = &mut self.measuring {
            let (from, until) = (measuring.from, measuring.until);
            let within = |at: Instant| at >= from && at < until;
            if within(end.completed_at) {
                measuring.ios += 1;
                measuring.reads += u64::from(!write);
            }
            let begun_at = slot.due.unwrap_or(end.submitted_at);
            if within(begun_at) {
                let latency = end.completed_at.saturating_since(begun_at);
                measuring.recorder.record(write, end.completed_at, latency);
            }
        }
        self.spare.push((end.user, end.buffer));
        Ok(())
    }

    fn verify_end(&mut self, slot: &Slot, block: &[u8]) -> Result<(), WrongBlock> {
        let Some(verify) = &mut self.verify else {
            return Ok(());
        };
        let place = place(slot.io.block);
        if slot.io.write {
            verify.ledger.acknowledge(place, slot.number);
            return Ok(());
        }
        verify.checked += 1;
        let most = verify.ledger.most(place);
        verify.stamper.check(slot.io.lba, slot.number, most, block)
    }

    /// Begins the next I/O if one is due and there is room for it; whether it did.
    fn begin_one<D: Disk<Buffer = B>>(
        &mut self,
        now: Instant,
        disk: &mut D,
    ) -> anyhow::Result<bool> {
        if self.phase == Phase::Rest || self.spare.is_empty() {
            return Ok(false);
        }
        let Some((io, due)) = self.next(now) else {
            return Ok(false);
        };
        let Some((user, mut buffer)) = self.spare.pop() else {
            return Ok(false);
        };
        let number = self.stamp(io, buffer.as_mut());
        self.slots[user] = Slot { io, due, number };
        match disk.submit(io, buffer, user) {
            Ok(()) => Ok(true),
            Err(Refused { why, buffer }) => {
                self.spare.push((user, buffer));
                Err(why.context("submit"))
            }
        }
    }

    /// The next I/O of the phase, if it is time; in an open loop with the moment at which it was due.
    fn next(&mut self, now: Instant) -> Option<(Io, Option<Instant>)> {
        match &mut self.phase {
            Phase::Rest => None,
            Phase::Sweep { next, write } => {
                let (block, write) = (*next, *write);
                if block == self.workload.config().blocks() {
                    self.phase = Phase::Rest;
                    return None;
                }
                *next += 1;
                Some((self.workload.io(block, write), None))
            }
            Phase::Load => self.next_load(now),
        }
    }

    fn next_load(&mut self, now: Instant) -> Option<(Io, Option<Instant>)> {
        let due = self.schedule.as_ref().map(Schedule::due);
        if let Some(measuring) = &mut self.measuring {
            // In an open loop everything that was due in time is begun, however late.
            if measuring.ios_left == 0 || due.unwrap_or(now) >= measuring.until {
                self.phase = Phase::Rest;
                return None;
            }
        }
        if due.is_some_and(|due| due > now) {
            return None;
        }
        if let Some(measuring) = &mut self.measuring {
            measuring.ios_left -= u64::from(due.unwrap_or(now) >= measuring.from);
        }
        if let Some(schedule) = &mut self.schedule {
            schedule.pass();
        }
        Some((self.workload.next_io(), due))
    }

    /// Fills a write's buffer; its number, or the least that a read may find.
    fn stamp(&mut self, io: Io, buffer: &mut [u8]) -> u32 {
        let Some(verify) = &mut self.verify else {
            return 0;
        };
        let place = place(io.block);
        if !io.write {
            return verify.ledger.least(place);
        }
        let number = verify.ledger.issue(place);
        verify.stamper.fill(io.lba, number, buffer);
        number
    }

    /// What was measured, of a run that is over, or that ran out of time at `now`.
    pub fn take_measured(&mut self, now: Instant) -> Option<Measured> {
        let measuring = self.measuring.take()?;
        let mut overdue = 0;
        if let (Phase::Load, Some(schedule)) = (self.phase, &mut self.schedule) {
            let ends = now.min(measuring.until);
            while schedule.due() < ends && overdue < measuring.ios_left {
                schedule.pass();
                overdue += 1;
            }
        }
        self.phase = Phase::Rest;
        let ended = now.min(measuring.until);
        Some(Measured {
            ios: measuring.ios,
            reads: measuring.reads,
            elapsed: ended.saturating_since(measuring.from),
            overdue,
            checked: self.checked(),
            intervals: measuring.recorder.into_intervals(),
        })
    }
}

fn place(block: u64) -> usize {
    // The ledger was made for all blocks, so that their numbers are places.
    usize::try_from(block).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::record::sum;

    /// A disk in memory that serves one I/O every `service`, whenever it is not stalled.
    struct Fake {
        now: Instant,
        service: Duration,
        stalled_until: Instant,
        free_at: Instant,
        queue: VecDeque<(Instant, Instant, Io, Vec<u8>, usize)>,
        blocks: Vec<u8>,
        block_bytes: usize,
        /// Writes to this block are acknowledged and forgotten.
        forgets: Option<u64>,
        /// Reads of the first are answered with the second.
        swaps: Option<(u64, u64)>,
        fails: bool,
    }

    impl Fake {
        fn new(config: &LoadConfig, service: Duration) -> Self {
            let block_bytes = config.workload.block_bytes;
            let blocks = usize::try_from(config.workload.blocks()).unwrap();
            Self {
                now: Instant::ZERO,
                service,
                stalled_until: Instant::ZERO,
                free_at: Instant::ZERO,
                queue: VecDeque::new(),
                blocks: vec![0; blocks * block_bytes],
                block_bytes,
                forgets: None,
                swaps: None,
                fails: false,
            }
        }

        fn block(&mut self, block: u64) -> &mut [u8] {
            let at = usize::try_from(block).unwrap() * self.block_bytes;
            &mut self.blocks[at..at + self.block_bytes]
        }
    }

    impl Disk for Fake {
        type Buffer = Vec<u8>;

        fn submit(&mut self, io: Io, buffer: Vec<u8>, user: usize) -> Result<(), Refused<Vec<u8>>> {
            self.free_at = self.free_at.max(self.now).max(self.stalled_until) + self.service;
            self.queue
                .push_back((self.now, self.free_at, io, buffer, user));
            Ok(())
        }

        fn poll(&mut self) -> Option<Ended<Vec<u8>>> {
            if self.queue.front()?.1 > self.now {
                return None;
            }
            let (submitted_at, completed_at, io, mut buffer, user) = self.queue.pop_front()?;
            if !io.write {
                let from = match self.swaps {
                    Some((asked, given)) if asked == io.block => given,
                    _ => io.block,
                };
                buffer.copy_from_slice(self.block(from));
            } else if self.forgets != Some(io.block) {
                self.block(io.block).copy_from_slice(&buffer);
            }
            Some(Ended {
                user,
                submitted_at,
                completed_at,
                result: if self.fails {
                    Err(anyhow::anyhow!("the disk is broken"))
                } else {
                    Ok(())
                },
                buffer,
            })
        }
    }

    fn config(read_percent: u8, depth: usize) -> LoadConfig {
        LoadConfig::closed(WorkloadConfig::uniform(read_percent, 8 * 64, 1), depth)
    }

    fn driver(config: &LoadConfig) -> Driver<Vec<u8>> {
        let target = TargetAddr { shelf: 7, slot: 3 };
        let buffers = vec![vec![0; config.workload.block_bytes]; config.depth];
        Driver::new(config, target, buffers).unwrap()
    }

    /// Turns it every `step` until it is over.
    fn run(driver: &mut Driver<Vec<u8>>, disk: &mut Fake, step: Duration) -> anyhow::Result<()> {
        for _ in 0..10_000_000 {
            driver.turn(disk.now, disk)?;
            if driver.is_over() {
                return Ok(());
            }
            disk.now = disk.now + step;
        }
        anyhow::bail!("it does not end")
    }

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn a_closed_loop_keeps_its_depth_and_measures_what_ends_in_time() {
        let config = config(100, 4);
        let mut disk = Fake::new(&config, us(10));
        let mut driver = driver(&config);
        driver.begin(disk.now, Span::of(us(1000), us(10_000)));
        run(&mut driver, &mut disk, us(1)).unwrap();
        let measured = driver.take_measured(disk.now).unwrap();
        // One ends each 10 us, four wait in turn.
        assert_eq!(
            (measured.ios, measured.reads, measured.overdue),
            (1000, 1000, 0)
        );
        assert_eq!(measured.elapsed, us(10_000));
        assert!((measured.ios_per_s() - 100_000.0).abs() < 1e-6);
        let all = sum(&measured.intervals);
        assert!((39_900..40_100).contains(&all.value_at_quantile(0.5)));
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn a_count_ends_it_earlier() {
        let config = config(100, 4);
        let mut disk = Fake::new(&config, us(10));
        let mut driver = driver(&config);
        let span = Span {
            ios_max: 100,
            ..Span::of(us(0), us(1_000_000))
        };
        driver.begin(disk.now, span);
        run(&mut driver, &mut disk, us(1)).unwrap();
        let measured = driver.take_measured(disk.now).unwrap();
        assert_eq!((measured.ios, measured.elapsed), (100, us(1000)));
    }

    fn open(per_s: f64, arrivals: Arrivals, depth: usize) -> LoadConfig {
        LoadConfig {
            pace: Pace::Open { per_s, arrivals },
            ..config(100, depth)
        }
    }

    #[test]
    fn an_open_loop_counts_from_when_an_io_was_due() {
        // 1000 I/Os a second of 10 us each; the disk stalls from 0.5 s to 0.6 s.
        for depth in [1, 64] {
            let config = open(1000.0, Arrivals::Fixed, depth);
            let mut disk = Fake::new(&config, us(10));
            let mut driver = driver(&config);
            driver.begin(disk.now, Span::of(us(0), us(1_000_000)));
            while disk.now < Instant::from_nanos(500_000_000) {
                driver.turn(disk.now, &mut disk).unwrap();
                disk.now = disk.now + us(10);
            }
            disk.stalled_until = Instant::from_nanos(600_000_000);
            run(&mut driver, &mut disk, us(10)).unwrap();
            let measured = driver.take_measured(disk.now).unwrap();
            let all = sum(&measured.intervals);
            assert_eq!((all.len(), measured.overdue), (1000, 0), "depth {depth}");
            // All hundred that were due in the stall have waited for its end, whatever the depth: the longest 100 ms, and
            // half of them more than 50 ms. With latency from the sending, depth 1 would show a single one.
            let waited = |ms: u64| all.len() - all.count_between(0, ms * 1_000_000);
            assert!((98..=101).contains(&waited(1)), "{}", waited(1));
            assert!((48..=52).contains(&waited(50)), "{}", waited(50));
            assert!(
                (99_000_000..102_000_000).contains(&all.max()),
                "{}",
                all.max()
            );
        }
    }

    #[test]
    fn a_closed_loop_would_not_see_that_stall() {
        let config = config(100, 1);
        let mut disk = Fake::new(&config, us(10));
        let mut driver = driver(&config);
        driver.begin(disk.now, Span::of(us(0), us(1_000_000)));
        disk.stalled_until = Instant::from_nanos(100_000_000);
        run(&mut driver, &mut disk, us(10)).unwrap();
        let all = sum(&driver.take_measured(disk.now).unwrap().intervals);
        assert_eq!(all.len() - all.count_between(0, 1_000_000), 1);
    }

    #[test]
    fn what_an_overloaded_disk_leaves_undone_is_told() {
        // Twice as many as it can serve, and nobody waits for the rest.
        let config = open(2000.0, Arrivals::Poisson, 1);
        let mut disk = Fake::new(&config, us(1000));
        let mut driver = driver(&config);
        driver.begin(disk.now, Span::of(us(0), us(1_000_000)));
        while disk.now < Instant::from_nanos(1_000_000_000) {
            driver.turn(disk.now, &mut disk).unwrap();
            disk.now = disk.now + us(100);
        }
        let measured = driver.take_measured(disk.now).unwrap();
        assert!((990..=1000).contains(&measured.ios), "{}", measured.ios);
        assert!(
            (850..1150).contains(&measured.overdue),
            "{}",
            measured.overdue
        );
    }

    #[test]
    fn an_open_loop_begins_late_what_was_due_in_time() {
        let config = open(2000.0, Arrivals::Fixed, 1);
        let mut disk = Fake::new(&config, us(1000));
        let mut driver = driver(&config);
        driver.begin(disk.now, Span::of(us(0), us(100_000)));
        run(&mut driver, &mut disk, us(100)).unwrap();
        let all = sum(&driver.take_measured(disk.now).unwrap().intervals);
        assert_eq!(all.len(), 200);
        assert!(all.max() > 99_000_000, "the last waited for all others");
    }

    fn verifying(read_percent: u8) -> LoadConfig {
        LoadConfig {
            verify: true,
            ..config(read_percent, 8)
        }
    }

    fn verified(config: &LoadConfig, spoil: impl Fn(&mut Fake)) -> anyhow::Result<u64> {
        let mut disk = Fake::new(config, us(10));
        let mut driver = driver(config);
        driver.prefill();
        run(&mut driver, &mut disk, us(10))?;
        spoil(&mut disk);
        driver.begin(disk.now, Span::of(us(0), us(20_000)));
        run(&mut driver, &mut disk, us(10))?;
        driver.read_back();
        run(&mut driver, &mut disk, us(10))?;
        Ok(driver.checked())
    }

    #[test]
    fn a_good_disk_is_verified() {
        for percent in [0, 50, 100] {
            let checked = verified(&verifying(percent), |_| {}).unwrap();
            assert!(checked >= 64, "{percent} %: {checked}");
        }
    }

    #[test]
    fn a_wrong_block_is_named_and_ends_the_run() {
        let message = |read_percent, spoil: fn(&mut Fake)| {
            let error = verified(&verifying(read_percent), spoil).unwrap_err();
            format!("{error:#}")
        };
        let swapped = message(50, |disk| disk.swaps = Some((9, 10)));
        assert!(
            swapped.contains("sector 72") && swapped.contains("sector 80"),
            "{swapped}"
        );
        let forgotten = message(50, |disk| disk.forgets = Some(5));
        assert!(
            forgotten.contains("sector 40") && forgotten.contains("acknowledged"),
            "{forgotten}"
        );
        // Overwritten before it is read it would be right again.
        let spoilt = message(100, |disk| disk.block(7)[600] ^= 4);
        assert!(spoilt.contains("sector 57"), "{spoilt}");
    }

    #[test]
    fn a_failed_io_ends_the_run() {
        let config = config(100, 2);
        let mut disk = Fake::new(&config, us(10));
        disk.fails = true;
        let mut driver = driver(&config);
        driver.begin_endless(disk.now);
        let error = run(&mut driver, &mut disk, us(10)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("read of sector") && text.contains("broken"));
    }
}
