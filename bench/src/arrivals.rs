//! When an open loop's I/Os are due, whether or not the target keeps up.

use std::time::Duration;

use sandrail_proto::time::Instant;

/// How arrivals are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// All the same time apart.
    Fixed,
    /// At random, independent of each other, as those of many users are.
    Poisson,
}

/// The moments at which I/Os are due. Latency in an open loop counts from these: an I/O that could not be sent in time,
/// since the target or the loop itself stalled, has waited, and its user with it.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    apart_ns: f64,
    start: Instant,
    /// The next arrival, after the start.
    next_ns: f64,
    passed: u64,
    rng: fastrand::Rng,
}

impl Schedule {
    /// From `start` on, `per_s` I/Os a second.
    ///
    /// # Panics
    /// With a rate that is not above 0.
    #[must_use]
    pub fn new(per_s: f64, arrivals: Arrivals, seed: u64, start: Instant) -> Self {
        assert!(
            per_s > 0.0 && per_s.is_finite(),
            "a rate above 0 I/Os a second"
        );
        let mut schedule = Self {
            arrivals,
            apart_ns: 1e9 / per_s,
            start,
            next_ns: 0.0,
            passed: 0,
            rng: fastrand::Rng::with_seed(seed),
        };
        if arrivals == Arrivals::Poisson {
            schedule.next_ns = schedule.gap_ns();
        }
        schedule
    }

    /// When the next I/O is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a conversion that saturates is what is wanted"
        )]
        let after_ns = self.next_ns as u64;
        self.start + Duration::from_nanos(after_ns)
    }

    /// That one has been taken; on to the next.
    pub fn pass(&mut self) {
        self.passed += 1;
        match self.arrivals {
            // By multiplication, so that rounding does not add up.
            Arrivals::Fixed => {
                #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 I/Os")]
                let passed = self.passed as f64;
                self.next_ns = passed * self.apart_ns;
            }
            Arrivals::Poisson => self.next_ns += self.gap_ns(),
        }
    }

    /// Exponentially distributed.
    fn gap_ns(&mut self) -> f64 {
        // 1 - [0, 1) is never 0, whose logarithm is infinite.
        -(1.0 - self.rng.f64()).ln() * self.apart_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(arrivals: Arrivals, per_s: f64, seed: u64, count: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(per_s, arrivals, seed, Instant::from_nanos(1_000));
        (0..count)
            .map(|_| {
                let due = schedule.due().as_nanos();
                schedule.pass();
                due
            })
            .collect()
    }

    #[test]
    fn fixed_arrivals_do_not_drift() {
        let dues = dues(Arrivals::Fixed, 3_000.0, 1, 3_000_001);
        assert_eq!(dues[0], 1_000);
        assert_eq!(dues[1], 1_000 + 333_333);
        assert_eq!(dues[3_000_000], 1_000 + 1_000_000_000_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_its_scatter() {
        let dues = dues(Arrivals::Poisson, 1_000_000.0, 1, 100_001);
        let gaps: Vec<f64> = dues
            .windows(2)
            .map(|pair| Duration::from_nanos(pair[1] - pair[0]).as_secs_f64() * 1e6)
            .collect();
        let count = 100_000.0;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        // Of exponential gaps both are 1 here.
        assert!((0.98..1.02).contains(&mean), "{mean}");
        assert!((0.95..1.05).contains(&variance), "{variance}");
        let short = gaps.iter().filter(|gap| **gap < 0.693).count();
        assert!((49_000..51_000).contains(&short), "half within ln 2");
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| dues(Arrivals::Poisson, 1000.0, seed, 100);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
