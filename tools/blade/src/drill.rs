//! Faults of the network, on demand: a link whose frames can be lost, doubled, delayed and overtaken while it runs.
//!
//! The faults are those of [`sandrail_link::fault`], driven by a script whose chances can be changed from another
//! thread. While no fault is asked for and none is held back, frames pass it by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use sandrail_link::fault::{Direction, FaultControl, FaultLink, FaultPlan, Verdict};
use sandrail_link::{Link, LinkCounters, LinkInfo, TransmitError};
use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;
use serde::{Deserialize, Serialize};

/// A link of any kind.
pub(crate) type AnyLink = Box<dyn Link + Send>;

/// Chances are kept in millionths.
const MILLION: f64 = 1e6;
/// Frames that each direction of a link can hold back at once.
const HELD_FRAMES_MAX: usize = 512;

/// What is to happen to the frames of one direction. Probabilities are per frame, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Chances {
    /// It vanishes.
    pub(crate) drop: f64,
    /// A second copy follows, up to `copy_after_us` later.
    pub(crate) duplicate: f64,
    /// It is held for a moment, so that others overtake it.
    pub(crate) reorder: f64,
    /// It is held from `delay_us` to twice that.
    pub(crate) delay: f64,
    /// Microseconds.
    pub(crate) copy_after_us: u32,
    /// Microseconds that an overtaken frame waits.
    pub(crate) reorder_us: u32,
    /// Microseconds.
    pub(crate) delay_us: u32,
}

impl Chances {
    /// What is wrong with it, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let rates = [
            ("drop", self.drop),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("delay", self.delay),
        ];
        let wrong = rates
            .into_iter()
            .find(|(_, rate)| !(0.0..=1.0).contains(rate));
        if let Some((name, rate)) = wrong {
            return Some(format!("{name}: {rate} is not a probability from 0 to 1"));
        }
        let sum: f64 = rates.iter().map(|(_, rate)| rate).sum();
        (sum > 1.0).then(|| format!("the probabilities add up to {sum}, more than 1"))
    }

    /// Those that were left out.
    pub(crate) fn with_defaults(mut self) -> Self {
        for (time, default) in [
            (&mut self.copy_after_us, 200),
            (&mut self.reorder_us, 200),
            (&mut self.delay_us, 1000),
        ] {
            if *time == 0 {
                *time = default;
            }
        }
        self
    }
}

/// The same in atomics. All accesses are relaxed: a frame may see half of a change, and nothing else hangs on them.
#[derive(Debug, Default)]
struct SharedChances {
    drop: AtomicU32,
    duplicate: AtomicU32,
    reorder: AtomicU32,
    delay: AtomicU32,
    copy_after_us: AtomicU32,
    reorder_us: AtomicU32,
    delay_us: AtomicU32,
}

impl SharedChances {
    fn set(&self, chances: &Chances) {
        let millionths = |rate: f64| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float's cast saturates, and the rate is from 0 to 1"
            )]
            let parts = (rate * MILLION) as u32;
            parts
        };
        for (to, rate) in [
            (&self.drop, chances.drop),
            (&self.duplicate, chances.duplicate),
            (&self.reorder, chances.reorder),
            (&self.delay, chances.delay),
        ] {
            to.store(millionths(rate), Ordering::Relaxed);
        }
        self.copy_after_us
            .store(chances.copy_after_us, Ordering::Relaxed);
        self.reorder_us.store(chances.reorder_us, Ordering::Relaxed);
        self.delay_us.store(chances.delay_us, Ordering::Relaxed);
    }

    fn verdict(&self, rng: &mut fastrand::Rng) -> Verdict {
        let read = |value: &AtomicU32| value.load(Ordering::Relaxed);
        let micros = |value: u32| Duration::from_micros(u64::from(value));
        let mut throw = rng.u32(0..1_000_000);
        let mut hit = |chance: &AtomicU32| {
            let chance = read(chance);
            let hit = throw < chance;
            throw = if hit { u32::MAX } else { throw - chance };
            hit
        };
        if hit(&self.drop) {
            Verdict::Drop
        } else if hit(&self.duplicate) {
            Verdict::CopyAfter(micros(rng.u32(0..=read(&self.copy_after_us))))
        } else if hit(&self.reorder) {
            Verdict::Hold(micros(read(&self.reorder_us)))
        } else if hit(&self.delay) {
            let least = read(&self.delay_us);
            Verdict::Hold(micros(rng.u32(least..=least.saturating_mul(2))))
        } else {
            Verdict::Pass
        }
    }
}

/// Another thread's grip on a link's faults.
#[derive(Debug, Default)]
pub(crate) struct DrillSwitch {
    armed: AtomicBool,
    transmit: SharedChances,
    receive: SharedChances,
}

impl DrillSwitch {
    /// Sets one direction's chances, or both.
    pub(crate) fn set(&self, direction: Option<Direction>, chances: &Chances) {
        if direction != Some(Direction::Receive) {
            self.transmit.set(chances);
        }
        if direction != Some(Direction::Transmit) {
            self.receive.set(chances);
        }
        // Relaxed: the link sees it with one of its next turns.
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Ends all faults. What is held back still comes.
    pub(crate) fn disarm(&self) {
        self.transmit.set(&Chances::default());
        self.receive.set(&Chances::default());
        self.armed.store(false, Ordering::Relaxed);
    }
}

/// A link with its faults.
pub(crate) struct DrillLink {
    link: FaultLink<AnyLink>,
    switch: Arc<DrillSwitch>,
    control: Arc<FaultControl>,
    /// Whether frames go through the faults in this turn.
    through: bool,
    /// Whether anything was sent since the last sleep.
    sent: bool,
}

impl DrillLink {
    pub(crate) fn new(link: AnyLink, seed: u64) -> Self {
        let switch = Arc::new(DrillSwitch::default());
        let mut plan = FaultPlan::new(seed);
        plan.held_frames_max = HELD_FRAMES_MAX;
        for (direction, salt) in [(Direction::Transmit, 1), (Direction::Receive, 2)] {
            let (switch, mut rng) = (Arc::clone(&switch), fastrand::Rng::with_seed(seed ^ salt));
            plan = plan.with_script(direction, move |_| {
                let chances = match direction {
                    Direction::Transmit => &switch.transmit,
                    Direction::Receive => &switch.receive,
                };
                Some(chances.verdict(&mut rng))
            });
        }
        let link = FaultLink::new(link, plan);
        Self {
            control: link.control(),
            link,
            switch,
            through: false,
            sent: false,
        }
    }

    pub(crate) fn switch(&self) -> Arc<DrillSwitch> {
        Arc::clone(&self.switch)
    }

    pub(crate) fn control(&self) -> &FaultControl {
        &self.control
    }

    pub(crate) fn info(&self) -> &LinkInfo {
        self.link.info()
    }

    /// Begins a turn: decides whether frames go through the faults.
    pub(crate) fn begin_turn(&mut self) {
        self.through = self.switch.armed.load(Ordering::Relaxed)
            || self.through
                && self.link.held(Direction::Transmit) + self.link.held(Direction::Receive) > 0;
    }

    pub(crate) fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        if self.through {
            self.link.receive(now, frames_max, sink)
        } else {
            self.link.inner_mut().receive(now, frames_max, sink)
        }
    }

    pub(crate) fn transmit_room(&mut self) -> usize {
        self.link.transmit_room()
    }

    pub(crate) fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        self.sent = true;
        if self.through {
            self.link.transmit(now, header, payload)
        } else {
            self.link.inner_mut().transmit(now, header, payload)
        }
    }

    pub(crate) fn flush(&mut self, now: Instant) {
        if self.through {
            self.link.flush(now);
        } else {
            self.link.inner_mut().flush(now);
        }
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        if self.through {
            self.link.poll_timeout()
        } else {
            self.link.inner_mut().poll_timeout()
        }
    }

    /// Whether anything was sent since this was last asked.
    pub(crate) fn take_sent(&mut self) -> bool {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn wait_fd(&self) -> Option<i32> {
        self.link.wait_fd()
    }

    pub(crate) fn prepare_wait(&mut self) -> bool {
        self.link.prepare_wait()
    }

    /// The link's own counters: what happened beyond the faults.
    pub(crate) fn counters(&mut self) -> LinkCounters {
        self.link.inner_mut().counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_hit_as_often_as_they_say() {
        let shared = SharedChances::default();
        shared.set(&Chances {
            drop: 0.1,
            duplicate: 0.2,
            reorder: 0.3,
            delay: 0.0,
            ..Chances::default()
        });
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut dropped, mut doubled, mut held, mut passed) = (0, 0, 0, 0);
        for _ in 0..100_000 {
            match shared.verdict(&mut rng) {
                Verdict::Drop => dropped += 1,
                Verdict::CopyAfter(_) => doubled += 1,
                Verdict::Hold(_) => held += 1,
                Verdict::Pass => passed += 1,
            }
        }
        for (count, expected) in [
            (dropped, 10_000),
            (doubled, 20_000),
            (held, 30_000),
            (passed, 40_000),
        ] {
            assert!(
                (expected - 1000..expected + 1000).contains(&count),
                "{count} instead of about {expected}"
            );
        }
    }

    #[test]
    fn certain_is_always_and_none_is_never() {
        let shared = SharedChances::default();
        let mut rng = fastrand::Rng::with_seed(1);
        assert!((0..1000).all(|_| shared.verdict(&mut rng) == Verdict::Pass));
        shared.set(&Chances {
            drop: 1.0,
            ..Chances::default()
        });
        assert!((0..1000).all(|_| shared.verdict(&mut rng) == Verdict::Drop));
    }

    #[test]
    fn senseless_chances_are_named() {
        for (chances, says) in [
            (
                Chances {
                    drop: 1.5,
                    ..Chances::default()
                },
                "drop: 1.5",
            ),
            (
                Chances {
                    delay: -0.1,
                    ..Chances::default()
                },
                "delay",
            ),
            (
                Chances {
                    reorder: f64::NAN,
                    ..Chances::default()
                },
                "reorder",
            ),
            (
                Chances {
                    drop: 0.7,
                    duplicate: 0.7,
                    ..Chances::default()
                },
                "add up",
            ),
        ] {
            assert!(chances.problem().unwrap().contains(says), "{chances:?}");
        }
        assert_eq!(
            Chances {
                drop: 1.0,
                ..Chances::default()
            }
            .problem(),
            None
        );
    }
}
