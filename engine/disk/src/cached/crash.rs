//! The loss of power, played through.

use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use sandrail_proto::aoe::target::backing::{Backing, DiskError, DiskOperation, IoId, Started};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use super::{CachedDisk, Place};
use crate::system::random_u64;

/// How long the disk behind may take for what is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which unflushed sectors a crash leaves on the disk behind. What the cache had written there already stays in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// None.
    Nothing,
    /// All, as if the disk had been just in time.
    Everything,
    /// Each or not, as a generator with this seed says.
    Seeded(u64),
}

/// What a crash did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashReport {
    /// Unflushed sectors that survived.
    pub kept: u64,
    /// Unflushed sectors that are lost.
    pub lost: u64,
}

impl<D: Backing> CachedDisk<D> {
    /// Loses power and comes back: unflushed sectors are gone but for `survivors`, the loss mark is another, and operations
    /// under way end with an error. It blocks, for what the disk behind takes.
    ///
    /// # Errors
    /// [`DiskError`] if the disk behind takes too long, or can't take the survivors; the cache is then as it was, less what was
    /// brought to the disk or lost until then.
    pub fn crash(&mut self, now: Instant, survivors: Survivors) -> Result<CrashReport, DiskError> {
        let clock = Clock {
            from: now,
            started: std::time::Instant::now(),
        };
        self.drain(&clock)?;
        let mut report = CrashReport::default();
        let mut random = match survivors {
            Survivors::Seeded(seed) => fastrand::Rng::with_seed(seed),
            Survivors::Nothing | Survivors::Everything => fastrand::Rng::with_seed(0),
        };
        while let Some(lba) = self.store.oldest_sector() {
            let keep = match survivors {
                Survivors::Nothing => false,
                Survivors::Everything => true,
                Survivors::Seeded(_) => random.bool(),
            };
            if keep {
                self.keep(&clock, lba)?;
                report.kept += 1;
            } else {
                report.lost += 1;
            }
            assert!(
                self.store.forget(lba),
                "nothing is on its way after the drain"
            );
        }
        self.loss_mark = random_u64();
        self.starved = false;
        self.failed = None;
        for io in 0..self.places.len() {
            let under_way = matches!(self.places[io], Place::Flushing { .. });
            if under_way {
                let errno = libc::ESHUTDOWN;
                self.end(
                    u32::try_from(io).unwrap_or(u32::MAX),
                    Err(DiskError::Device { errno }),
                );
            }
        }
        self.flushes.clear();
        Ok(report)
    }

    /// Waits until the disk behind has nothing under way.
    fn drain(&mut self, clock: &Clock) -> Result<(), DiskError> {
        loop {
            let now = clock.now()?;
            self.inner.kick(now);
            self.collect(now);
            let busy = self
                .places
                .iter()
                .any(|place| matches!(place, Place::Reading { .. } | Place::FlushingBehind));
            if !busy && self.runs.iter().all(Option::is_none) {
                return Ok(());
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Brings one sector to the disk behind.
    fn keep(&mut self, clock: &Clock, lba: u64) -> Result<(), DiskError> {
        let io = self.run_io(0);
        let result = loop {
            let bytes = self.store.get(lba).unwrap_or_default();
            let operation = DiskOperation::Write {
                lba: Lba(lba),
                sectors: NonZeroU32::MIN,
                data: &[bytes],
            };
            match self.inner.start(clock.now()?, io, operation) {
                Started::Done(result) => break result,
                Started::Pending => break self.wait(clock, io)?,
                Started::Busy => self.inner.kick(clock.now()?),
            }
        };
        self.inner.release(io);
        result
    }

    fn wait(&mut self, clock: &Clock, io: IoId) -> Result<Result<(), DiskError>, DiskError> {
        loop {
            let now = clock.now()?;
            self.inner.kick(now);
            if let Some((ended, result)) = self.inner.poll_done(now)
                && ended == io
            {
                return Ok(result);
            }
            thread::sleep(Duration::from_micros(20));
        }
    }
}

/// Goes on from the time that the caller gave, but not for ever.
struct Clock {
    from: Instant,
    started: std::time::Instant,
}

impl Clock {
    fn now(&self) -> Result<Instant, DiskError> {
        let passed = self.started.elapsed();
        if passed > PATIENCE {
            let errno = libc::ETIMEDOUT;
            return Err(DiskError::Device { errno });
        }
        Ok(self.from + passed)
    }
}
