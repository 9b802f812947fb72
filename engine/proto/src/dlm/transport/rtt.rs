//! When to send again: an estimate of the round trip (RFC 6298), doubled with every attempt that goes unanswered.

use core::time::Duration;

use super::config::TransportConfig;
use crate::time::nanos;

/// Doublings after which the time no longer grows, whatever the bounds are.
const BACKOFF_MAX: u32 = 20;

/// Round trips of one channel, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    /// Smoothed; 0 before the first sample.
    smoothed_ns: u64,
    variation_ns: u64,
    backoff: u32,
    initial_ns: u64,
    min_ns: u64,
    max_ns: u64,
    ack_delay_ns: u64,
}

impl RoundTrip {
    pub(super) fn new(config: &TransportConfig) -> Self {
        Self {
            smoothed_ns: 0,
            variation_ns: 0,
            backoff: 0,
            initial_ns: nanos(config.rto_initial),
            min_ns: nanos(config.rto_min),
            max_ns: nanos(config.rto_max),
            ack_delay_ns: nanos(config.ack_delay),
        }
    }

    /// A frame that was sent once was acknowledged after `time`.
    pub(super) fn sample(&mut self, time: Duration) {
        let sample_ns = nanos(time).max(1);
        if self.smoothed_ns == 0 {
            self.smoothed_ns = sample_ns;
            self.variation_ns = sample_ns / 2;
            return;
        }
        let error_ns = self.smoothed_ns.abs_diff(sample_ns);
        self.variation_ns = self.variation_ns - self.variation_ns / 4 + error_ns / 4;
        self.smoothed_ns = (self.smoothed_ns - self.smoothed_ns / 8 + sample_ns / 8).max(1);
    }

    /// How long to wait for an acknowledgement. The peer may hold one back for as long as we do.
    pub(super) fn rto(&self) -> Duration {
        let base_ns = if self.smoothed_ns == 0 {
            self.initial_ns
        } else {
            self.smoothed_ns
                .saturating_add(self.variation_ns.saturating_mul(4))
                .saturating_add(self.ack_delay_ns)
                .max(self.min_ns)
        };
        let doubled_ns = base_ns.saturating_mul(1 << self.backoff);
        Duration::from_nanos(doubled_ns.min(self.max_ns))
    }

    /// Nothing came: the next wait is twice as long.
    pub(super) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(BACKOFF_MAX);
    }

    /// Something came.
    pub(super) const fn progress(&mut self) {
        self.backoff = 0;
    }

    /// The smoothed round trip; `None` before the first sample.
    pub(super) const fn smoothed(&self) -> Option<Duration> {
        match self.smoothed_ns {
            0 => None,
            ns => Some(Duration::from_nanos(ns)),
        }
    }

    /// How much later than its successors a frame may arrive before it counts as lost.
    pub(super) fn reordering(&self) -> Duration {
        Duration::from_nanos((self.smoothed_ns / 4).max(self.min_ns / 4))
    }
}

#[cfg(test)]
mod tests {
    use sandrail_wire::lock::{ClusterId, CoreId, Incarnation, NodeId};

    use super::*;

    fn fresh() -> RoundTrip {
        let config = TransportConfig::new(ClusterId(1), NodeId(1), CoreId(0), Incarnation(1));
        RoundTrip::new(&config)
    }

    #[test]
    fn waits_double_up_to_their_bound_and_fall_back() {
        let mut trip = fresh();
        let mut waits = Vec::new();
        for _ in 0..40 {
            waits.push(trip.rto().as_micros());
            trip.back_off();
        }
        assert_eq!(waits[..6], [1000, 2000, 4000, 8000, 16_000, 20_000]);
        assert!(waits[6..].iter().all(|wait| *wait == 20_000));
        trip.progress();
        assert_eq!(trip.rto(), Duration::from_millis(1));
    }

    #[test]
    fn the_wait_follows_the_round_trip_and_has_a_floor() {
        let mut trip = fresh();
        for _ in 0..100 {
            trip.sample(Duration::from_micros(5));
        }
        assert_eq!(trip.rto(), Duration::from_micros(50), "the floor");
        for _ in 0..100 {
            trip.sample(Duration::from_micros(400));
        }
        let rto = trip.rto().as_micros();
        assert!((400..600).contains(&rto), "{rto} us after 400 us each");
        assert!(trip.smoothed().is_some_and(|time| time.as_micros() > 390));
        trip.sample(Duration::MAX);
        assert_eq!(trip.rto(), Duration::from_millis(20), "the bound");
    }
}
