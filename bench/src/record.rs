//! Latencies of a run, by interval, kept without work in the run.

use std::time::Duration;

use sandrail_proto::time::Instant;
use sandrail_report::{Histogram, latency_histogram};

/// Reads' and writes' latencies of one interval, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When the interval began, on the node's clock.
    pub from: Instant,
    /// How long it lasted; its last I/Os may have ended later.
    pub lasted: Duration,
    /// Of reads.
    pub read: Histogram<u64>,
    /// Of writes.
    pub write: Histogram<u64>,
}

impl Recorded {
    fn new(from: Instant, lasted: Duration) -> Self {
        Self {
            from,
            lasted,
            read: latency_histogram(),
            write: latency_histogram(),
        }
    }
}

/// Records into one pair of histograms an interval. All are made before the run: their memory comes from the system as pages of
/// zeros, and only those are touched where latencies lie, so that many cost little.
#[derive(Debug)]
pub struct Recorder {
    from: Instant,
    interval: Duration,
    intervals: Vec<Recorded>,
    current: usize,
    next_at: Instant,
}

impl Recorder {
    /// For what is measured from `from` on for `duration`, in intervals of `interval` and a rest.
    ///
    /// # Panics
    /// With no duration, or more than 10,000 intervals.
    #[must_use]
    pub fn new(from: Instant, duration: Duration, interval: Duration) -> Self {
        assert!(!duration.is_zero(), "something is measured");
        let interval = interval.min(duration).max(Duration::from_nanos(1));
        let mut intervals = Vec::new();
        let mut begins = Duration::ZERO;
        while begins < duration {
            assert!(intervals.len() < 10_000, "too many intervals");
            let lasted = interval.min(duration.saturating_sub(begins));
            intervals.push(Recorded::new(from + begins, lasted));
            begins += interval;
        }
        Self {
            from,
            interval,
            intervals,
            current: 0,
            next_at: from + interval,
        }
    }

    /// An I/O that ended at `ended_at` and took `latency`. What ends late counts in the last interval.
    pub fn record(&mut self, write: bool, ended_at: Instant, latency: Duration) {
        // Ends come nearly in order: an I/O that ended a little before a cut is found after it.
        while ended_at >= self.next_at && self.current + 1 < self.intervals.len() {
            self.current += 1;
            self.next_at = self.next_at + self.interval;
        }
        let interval = &mut self.intervals[self.current];
        let histogram = if write {
            &mut interval.write
        } else {
            &mut interval.read
        };
        histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// When the measuring began.
    #[must_use]
    pub fn from(&self) -> Instant {
        self.from
    }

    /// What was recorded, in order.
    #[must_use]
    pub fn into_intervals(self) -> Vec<Recorded> {
        self.intervals
    }
}

/// All of them together.
#[must_use]
pub fn sum<'a>(intervals: impl IntoIterator<Item = &'a Recorded>) -> Histogram<u64> {
    let mut sum = latency_histogram();
    for interval in intervals {
        for histogram in [&interval.read, &interval.write] {
            // Both have the same bounds.
            let added = sum.add(histogram);
            assert!(added.is_ok(), "histograms of the same bounds add up");
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interval_has_its_own() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let ms = Duration::from_millis;
        let mut recorder = Recorder::new(at(1000), ms(250), ms(100));
        for (write, ended_ms, took_ms) in [
            (false, 1000, 1),
            (true, 1099, 2),
            (false, 1100, 3),
            // Late: in the last one, and not lost.
            (false, 1400, 4),
        ] {
            recorder.record(write, at(ended_ms), ms(took_ms));
        }
        let intervals = recorder.into_intervals();
        let counts: Vec<(u64, u64)> = intervals
            .iter()
            .map(|each| (each.read.len(), each.write.len()))
            .collect();
        assert_eq!(counts, [(1, 1), (1, 0), (1, 0)]);
        assert_eq!(intervals[2].from, at(1200));
        assert_eq!(intervals[2].lasted, ms(50));
        let all = sum(&intervals);
        assert_eq!(all.len(), 4);
        assert!((3_990_000..4_010_000).contains(&all.max()), "{}", all.max());
    }
}
