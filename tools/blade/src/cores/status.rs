//! How a core is, for the control socket: numbers only, put together on the core and shown elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use sandrail_link::LinkCounters;
use sandrail_link::fault::FaultCounters;
use sandrail_proto::aoe::target::Held;
use serde::Serialize;

use crate::settings::Copies;

/// A counter's name, and where it stands.
pub(crate) type Counters = BTreeMap<&'static str, u64>;

/// Everything about one core.
#[derive(Debug, Serialize)]
pub(crate) struct CoreStatus {
    pub(crate) number: usize,
    /// The core that its thread is pinned to.
    pub(crate) pinned_to: Option<usize>,
    pub(crate) turns: u64,
    pub(crate) busy_turns: u64,
    pub(crate) yields: u64,
    pub(crate) sleeps: u64,
    /// Frames handed to other cores, taken from them, and lost for want of room.
    pub(crate) crossed_out: u64,
    pub(crate) crossed_in: u64,
    pub(crate) crossing_full: u64,
    /// Frames that a link refused.
    pub(crate) tx_refused: u64,
    /// Events that the log did not take in time.
    pub(crate) events_lost: u64,
    /// Frames by what became of them; those that are zero are left out.
    pub(crate) frames: Counters,
    /// Requests of all initiators under way.
    pub(crate) requests_open: usize,
    /// What else is held for them; those that are zero are left out.
    pub(crate) held: Counters,
    pub(crate) copies: CopiesStatus,
    pub(crate) links: Vec<LinkStatus>,
    pub(crate) targets: Vec<TargetStatus>,
}

/// What is remembered of requests, to know copies of them.
#[derive(Debug, Serialize)]
pub(crate) struct CopiesStatus {
    /// Requests that there is room for.
    pub(crate) entries: u32,
    pub(crate) bytes: u64,
    /// How long each is remembered.
    pub(crate) retained_ms: u128,
    /// Writes, flushes and TRIMs of a second that there is room for; more are dropped, and counted (`rx_duplicates_full`).
    pub(crate) rate_per_s: u64,
}

impl CopiesStatus {
    pub(crate) fn of(copies: &Copies) -> Self {
        Self {
            entries: copies.entries,
            bytes: copies.bytes(),
            retained_ms: copies.retained.as_millis(),
            rate_per_s: copies.rate_per_s(),
        }
    }
}

/// One link.
#[derive(Debug, Serialize)]
pub(crate) struct LinkStatus {
    pub(crate) interface: String,
    pub(crate) queue: u32,
    pub(crate) mac: String,
    pub(crate) mtu_bytes: usize,
    pub(crate) mode: String,
    pub(crate) counters: Counters,
    /// Injected faults, where there were any.
    pub(crate) faults_transmit: Counters,
    pub(crate) faults_receive: Counters,
}

/// One target.
#[derive(Debug, Serialize)]
pub(crate) struct TargetStatus {
    pub(crate) target: String,
    pub(crate) sectors: u64,
    pub(crate) durability: &'static str,
    pub(crate) read_only: bool,
    pub(crate) medium: String,
    pub(crate) loss_mark: String,
    /// Whether its state is kept over a restart.
    pub(crate) persistent: bool,
    /// Whether all of its state is durable now.
    pub(crate) durable: bool,
    pub(crate) config_string: String,
    pub(crate) mask: Vec<String>,
    pub(crate) reserved: Vec<String>,
    pub(crate) epoch: u64,
    pub(crate) sessions: usize,
    pub(crate) counters: Counters,
    pub(crate) disk: Counters,
    /// How long operations took that were not over at once.
    pub(crate) latency: BTreeMap<&'static str, LatencyStatus>,
}

/// One kind of operation.
#[derive(Debug, Serialize)]
pub(crate) struct LatencyStatus {
    pub(crate) samples: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl LatencyStatus {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e6;
        let at = |quantile: f64| us(histogram.value_at_quantile(quantile));
        Self {
            samples: histogram.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
        }
    }
}

/// Names and numbers, without the zeros.
pub(crate) fn nonzero(counters: impl IntoIterator<Item = (&'static str, u64)>) -> Counters {
    counters
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// What a machine holds by name, but the requests as counted for their senders.
pub(crate) fn of_held(held: &Held) -> Counters {
    let count = |held: usize| u64::try_from(held).unwrap_or(u64::MAX);
    nonzero([
        ("operations", count(held.operations)),
        ("answers", count(held.answers)),
        ("stash_pieces", count(held.stash_pieces)),
        ("ranges", count(held.ranges)),
    ])
}

/// A link's counters by name.
pub(crate) fn of_link(counters: &LinkCounters) -> Counters {
    let LinkCounters {
        rx_frames,
        rx_bytes,
        tx_frames,
        tx_bytes,
        rx_dropped,
        rx_malformed,
        tx_failed,
        tx_kicks,
        rx_kicks,
        kick_retries,
        link_downs,
        fill_starved,
    } = *counters;
    nonzero([
        ("rx_frames", rx_frames),
        ("rx_bytes", rx_bytes),
        ("tx_frames", tx_frames),
        ("tx_bytes", tx_bytes),
        ("rx_dropped", rx_dropped),
        ("rx_malformed", rx_malformed),
        ("tx_failed", tx_failed),
        ("tx_kicks", tx_kicks),
        ("rx_kicks", rx_kicks),
        ("kick_retries", kick_retries),
        ("link_downs", link_downs),
        ("fill_starved", fill_starved),
    ])
}

/// Injected faults by name.
pub(crate) fn of_faults(counters: &FaultCounters) -> Counters {
    nonzero([
        ("seen", counters.seen),
        ("passed", counters.passed),
        ("lost", counters.lost),
        ("duplicated", counters.duplicated),
        ("delayed", counters.delayed),
        ("released", counters.released),
        ("refused", counters.refused),
        ("overflowed", counters.overflowed),
    ])
}
