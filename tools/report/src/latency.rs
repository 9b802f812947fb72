//! Latencies: counted, summed up, and their percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::number::approximate;

/// Three significant digits: an error of at most one in a thousand.
const DIGITS: u8 = 3;
/// What takes longer than an hour is recorded as an hour by `saturating_record`.
const MAX_NS: u64 = 3_600_000_000_000;

/// An empty histogram for latencies in nanoseconds: 1 ns to an hour with three significant digits, some 270 KiB. All that
/// is recorded for a [`Run`](crate::Run) or a [`LogWriter`](crate::LogWriter) goes into such ones, by `saturating_record`.
///
/// # Panics
/// Never: the bounds are valid.
#[must_use]
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NS, DIGITS).expect("the bounds are valid")
}

/// A distribution of latencies in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there are. The others are 0 when there are none.
    pub count: u64,
    /// The shortest.
    pub min_ns: u64,
    /// Their mean.
    pub mean_ns: f64,
    /// Half took no longer than this.
    pub p50_ns: u64,
    /// 90 % took no longer.
    pub p90_ns: u64,
    /// 99 % took no longer.
    pub p99_ns: u64,
    /// 99.9 % took no longer.
    pub p999_ns: u64,
    /// 99.99 % took no longer.
    pub p9999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Summary {
    /// Of a histogram in nanoseconds.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            p9999_ns: histogram.value_at_quantile(0.9999),
            max_ns: histogram.max(),
        }
    }

    /// What is told of a distribution, by name and in the order in which it is told.
    #[must_use]
    pub fn percentiles(&self) -> [(&'static str, u64); 7] {
        [
            ("min", self.min_ns),
            ("p50", self.p50_ns),
            ("p90", self.p90_ns),
            ("p99", self.p99_ns),
            ("p99.9", self.p999_ns),
            ("p99.99", self.p9999_ns),
            ("max", self.max_ns),
        ]
    }

    /// Says which of its numbers cannot be true.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ordered = self.percentiles();
        for pair in ordered.windows(2) {
            let [(lower, less), (upper, more)] = [pair[0], pair[1]];
            if less > more {
                return Err(format!("{lower} is {less} ns and {upper} is {more} ns"));
            }
        }
        // Buckets are some nanoseconds wide, so the mean may lie a little outside.
        let room = 1.0 + 0.01 * approximate(self.max_ns);
        let (least, most) = (approximate(self.min_ns), approximate(self.max_ns));
        if self.mean_ns < least - room || self.mean_ns > most + room {
            let Self {
                min_ns,
                mean_ns,
                max_ns,
                ..
            } = self;
            return Err(format!(
                "the mean, {mean_ns} ns, is outside {min_ns} to {max_ns} ns"
            ));
        }
        if self.count == 0 && self.max_ns > 0 {
            return Err(format!("no samples, and {} ns the longest", self.max_ns));
        }
        Ok(())
    }
}

/// More than this many latencies are in no file that is not damaged: a million a second for 285 years. Sums stay far from
/// overflow, and exact as floating-point numbers.
pub(crate) const COUNT_MAX: u64 = 1 << 53;

/// How often which latency was seen: what a histogram holds, without its empty buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Least value of a bucket in nanoseconds, and how many there are; by value, none of them 0.
    pub buckets: Vec<(u64, u64)>,
    /// Significant digits with which they were recorded.
    pub digits: u8,
}

impl Counts {
    /// Of a histogram.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let recorded = histogram.iter_recorded();
        Self {
            buckets: recorded
                .map(|step| {
                    let value = histogram.lowest_equivalent(step.value_iterated_to());
                    (value, step.count_since_last_iteration())
                })
                .collect(),
            digits: histogram.sigfig(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        let counts = self.buckets.iter().map(|(_, count)| *count);
        counts.fold(0, u64::saturating_add)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Adds them to a histogram.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) {
        for (value, count) in &self.buckets {
            histogram.saturating_record_n(*value, *count);
        }
    }
}

/// The sum of several, with the digits of the finest; `None` if there is nothing in them.
pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a Counts> + Clone) -> Option<Histogram<u64>> {
    let filled = all.filter(|counts| !counts.is_empty());
    let digits = filled.clone().map(|counts| counts.digits).max()?;
    let greatest = filled.clone().filter_map(|counts| counts.buckets.last());
    let greatest = greatest.map(|(value, _)| *value).max()?;
    let mut histogram = Histogram::new_with_bounds(1, greatest.max(2), digits).ok()?;
    filled.for_each(|counts| counts.add_to(&mut histogram));
    Some(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_histogram_has_no_percentiles_but_zeros() {
        let summary = Summary::of(&latency_histogram());
        assert_eq!(summary, Summary::default());
        summary.check().unwrap();
    }

    #[test]
    fn a_summary_is_the_histogram_in_numbers() {
        let mut histogram = latency_histogram();
        (1..=1000).for_each(|ns| histogram.record(ns).unwrap());
        let summary = Summary::of(&histogram);
        summary.check().unwrap();
        assert_eq!(
            (summary.count, summary.min_ns, summary.max_ns),
            (1000, 1, 1000)
        );
        assert_eq!(
            (summary.p50_ns, summary.p90_ns, summary.p99_ns),
            (500, 900, 990)
        );
        assert_eq!((summary.p999_ns, summary.p9999_ns), (999, 1000));
    }

    #[test]
    fn impossible_summaries_are_found() {
        let good = Summary {
            count: 2,
            min_ns: 1,
            mean_ns: 2.0,
            p50_ns: 2,
            p90_ns: 3,
            p99_ns: 3,
            p999_ns: 3,
            p9999_ns: 3,
            max_ns: 3,
        };
        good.check().unwrap();
        let bad = [
            Summary { p50_ns: 4, ..good },
            Summary { min_ns: 3, ..good },
            Summary { max_ns: 2, ..good },
            Summary { count: 0, ..good },
            Summary {
                mean_ns: -9.0,
                ..good
            },
            Summary {
                mean_ns: 9.0,
                ..good
            },
        ];
        for summary in bad {
            assert!(summary.check().is_err(), "{summary:?}");
        }
    }

    #[test]
    fn counts_make_the_histogram_again() {
        let mut histogram = latency_histogram();
        for (value, count) in [(1, 3), (2047, 1), (2049, 2), (83_149, 7), (9_000_000, 1)] {
            histogram.record_n(value, count).unwrap();
        }
        let counts = Counts::of(&histogram);
        assert_eq!(counts.len(), 14);
        let again = sum([&counts, &Counts::default()].into_iter()).unwrap();
        assert_eq!(Summary::of(&again), Summary::of(&histogram));
    }
}
