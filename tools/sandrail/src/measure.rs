//! What was measured, as numbers and as text.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use sandrail_node::NodeStat;
pub(crate) use sandrail_report::number::{approximate, duration};
use serde::{Deserialize, Serialize};

/// A distribution of latencies, in nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) samples: u64,
    pub(crate) min_ns: u64,
    pub(crate) mean_ns: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

impl Percentiles {
    /// Of a histogram in nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            samples: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }

    /// One line: `p50 83.1 us  p90 ...`.
    pub(crate) fn line(&self) -> String {
        let mut text = String::new();
        for (name, value) in [
            ("p50", self.p50_ns),
            ("p90", self.p90_ns),
            ("p99", self.p99_ns),
            ("p99.9", self.p999_ns),
            ("max", self.max_ns),
        ] {
            write!(text, "{name} {}  ", duration(value)).expect("a string takes all");
        }
        write!(text, "({} samples)", self.samples).expect("a string takes all");
        text
    }
}

/// How fast something went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pace {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    /// Millions of bytes a second.
    pub(crate) mb_per_s: f64,
}

impl Pace {
    /// Of so many bytes in so many requests.
    pub(crate) fn new(bytes: u64, requests: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64().max(1e-9);
        Self {
            bytes,
            seconds,
            requests,
            requests_per_s: approximate(requests) / seconds,
            mb_per_s: approximate(bytes) / 1e6 / seconds,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a duration is positive, and a cast of a larger one saturates"
    )]
    fn nanoseconds(&self) -> u64 {
        (self.seconds * 1e9) as u64
    }

    /// `64 MiB (67108864 bytes) in 310 ms: 212.1 MB/s, 51780 requests/s`.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} in {}: {:.1} MB/s, {:.0} requests/s",
            crate::size::Size(self.bytes),
            duration(self.nanoseconds()),
            self.mb_per_s,
            self.requests_per_s
        )
    }
}

/// What the links and initiators of a node counted that tells of trouble on the wire.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WireCounters {
    pub(crate) frames_sent: u64,
    pub(crate) frames_received: u64,
    pub(crate) retransmitted: u64,
    pub(crate) timeouts: u64,
    pub(crate) timeouts_spurious: u64,
    pub(crate) stale_answers: u64,
    pub(crate) wrong_source: u64,
    pub(crate) malformed: u64,
    pub(crate) range_waits: u64,
    pub(crate) kicks: u64,
    pub(crate) dropped: u64,
}

impl WireCounters {
    /// Of all shards.
    pub(crate) fn of(stat: &NodeStat) -> Self {
        let mut sum = Self::default();
        for shard in &stat.shards {
            let counted = &shard.initiator;
            sum.retransmitted += counted.tx_copies;
            sum.timeouts += counted.timeouts;
            sum.timeouts_spurious += counted.timeouts_spurious;
            sum.stale_answers += counted.rx_stale_tag;
            sum.wrong_source += counted.rx_wrong_source;
            sum.malformed += counted.rx_malformed + counted.rx_short_data;
            sum.range_waits += counted.range_waits;
            for link in &shard.links {
                sum.frames_sent += link.counters.tx_frames;
                sum.frames_received += link.counters.rx_frames;
                sum.kicks += link.counters.tx_kicks + link.counters.rx_kicks;
                sum.dropped += link.counters.rx_dropped;
                sum.malformed += link.counters.rx_malformed;
            }
        }
        sum
    }

    /// One line, for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} frames out, {} in, {} retransmitted ({} of {} timeouts too early), {} dropped, {} malformed",
            self.frames_sent,
            self.frames_received,
            self.retransmitted,
            self.timeouts_spurious,
            self.timeouts,
            self.dropped,
            self.malformed
        )
    }
}

/// The running kernel's release.
pub(crate) fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_histogram_has_no_percentiles_but_zeros() {
        let histogram = Histogram::<u64>::new(3).unwrap();
        assert_eq!(Percentiles::of(&histogram).samples, 0);
    }

    #[test]
    fn a_pace_is_bytes_and_requests_by_seconds() {
        let pace = Pace::new(2_000_000, 100, Duration::from_millis(500));
        assert!((pace.mb_per_s - 4.0).abs() < 1e-9 && (pace.requests_per_s - 200.0).abs() < 1e-9);
    }
}
