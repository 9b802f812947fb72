//! One way to a target: round-trip time, window, and the lists of commands sent along it.

use core::time::Duration;

use sandrail_wire::MacAddr;

use super::api::{InterfaceId, PathInfo};
use super::config::InitiatorConfig;
use super::list::{List, NONE};
use super::session::Membership;
use crate::time::{Instant, nanos};

/// Timeouts in a row, with nothing heard in between, that make a path silent.
pub(super) const SILENT_AFTER_TIMEOUTS: u8 = 3;
/// Probes of one path that may be unanswered: together with the interval between them they bound the round trip
/// that a probe can measure.
pub(super) const PROBES_OUT_MAX: usize = 8;

/// Round-trip estimate after RFC 6298, in nanoseconds. Every copy has a tag of its own, so every sample is unambiguous and
/// Karn's rule is not needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    srtt_ns: u64,
    variation_ns: u64,
    measured: bool,
    backoff: u8,
}

impl RoundTrip {
    const UNKNOWN: Self = Self {
        srtt_ns: 0,
        variation_ns: 0,
        measured: false,
        backoff: 0,
    };

    pub(super) fn sample(&mut self, rtt: Duration) {
        let rtt_ns = nanos(rtt);
        if self.measured {
            let error_ns = self.srtt_ns.abs_diff(rtt_ns);
            self.variation_ns = self.variation_ns - self.variation_ns / 4 + error_ns / 4;
            self.srtt_ns = self.srtt_ns - self.srtt_ns / 8 + rtt_ns / 8;
        } else {
            self.srtt_ns = rtt_ns;
            self.variation_ns = rtt_ns / 2;
            self.measured = true;
        }
    }

    /// The retransmission timeout: small from the start, doubled by every timeout in a row, bounded both ways.
    pub(super) fn rto(&self, config: &InitiatorConfig) -> Duration {
        let base = if self.measured {
            Duration::from_nanos(self.srtt_ns + 4 * self.variation_ns)
        } else {
            config.rto_initial
        };
        (base.max(config.rto_min) * (1 << self.backoff.min(10))).min(config.rto_max)
    }

    pub(super) const fn smoothed(&self) -> Duration {
        Duration::from_nanos(self.srtt_ns)
    }

    pub(super) const fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    pub(super) const fn answered(&mut self) {
        self.backoff = 0;
    }
}

/// Congestion window in frames: additive increase, multiplicative decrease, never beyond the target's buffer count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// In 1/256 of a frame.
    size_256: u32,
    threshold: u16,
    cap: u16,
    /// Before the last decrease, to undo it when the loss was none.
    before_256: u32,
}

impl Window {
    pub(super) const fn new(cap: u16) -> Self {
        Self {
            size_256: cap as u32 * 256,
            threshold: cap,
            cap,
            before_256: cap as u32 * 256,
        }
    }

    pub(super) fn frames(&self) -> u16 {
        u16::try_from(self.size_256 / 256)
            .unwrap_or(u16::MAX)
            .clamp(1, self.cap)
    }

    pub(super) fn set_cap(&mut self, cap: u16) {
        self.cap = cap;
        self.size_256 = self.size_256.min(u32::from(cap) * 256);
    }

    pub(super) fn grow(&mut self) {
        let step = if self.frames() < self.threshold {
            256
        } else {
            (256 * 256 / self.size_256.max(256)).max(1)
        };
        self.size_256 = (self.size_256 + step).min(u32::from(self.cap) * 256);
    }

    /// One loss: three quarters.
    pub(super) fn shrink(&mut self) {
        self.before_256 = self.size_256;
        self.size_256 = (self.size_256 / 4 * 3).max(256);
        self.threshold = self.frames();
    }

    /// Silence: start over.
    pub(super) fn collapse(&mut self) {
        self.before_256 = self.size_256;
        self.threshold = (self.frames() / 2).max(2);
        self.size_256 = 256;
    }

    /// The last decrease was for a frame that had not been lost.
    pub(super) fn undo(&mut self) {
        self.size_256 = self
            .size_256
            .max(self.before_256)
            .min(u32::from(self.cap) * 256);
        self.threshold = self.threshold.max(self.frames());
    }
}

/// How a path's payload is being found out.
#[derive(Clone, Copy, Debug)]
pub(super) struct PayloadTrial {
    /// Sectors tried now.
    pub(super) sectors: u16,
    pub(super) tries: u8,
    pub(super) out_answered: bool,
    pub(super) in_answered: bool,
    pub(super) started_at: Instant,
    pub(super) next_try_at: Instant,
    /// Frames of the present try that are still to be sent.
    pub(super) out_due: bool,
    pub(super) in_due: bool,
    /// The commands of the present try, or [`NONE`].
    pub(super) out_slot: u16,
    pub(super) in_slot: u16,
}

/// WRITE copies that an earlier process may have left on a path. They are accounted for like our own: by the answer to a
/// probe that was sent when all of them had arrived or were lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Predecessor {
    /// By then what it sent has arrived, or never will.
    pub(super) arrived_at: Instant,
    /// When a probe sent later was answered first.
    pub(super) passed_at: Option<Instant>,
}

/// One way to a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) interface: InterfaceId,
    pub(super) mac: MacAddr,
    pub(super) silent: bool,
    pub(super) rtt: RoundTrip,
    pub(super) window: Window,
    /// Sent and unanswered, by time of sending.
    pub(super) flying: List,
    /// Flushes and control commands, sent and unanswered.
    pub(super) slow: List,
    /// To be sent again.
    pub(super) resend: List,
    /// WRITEs over whose copies are unaccounted for.
    pub(super) lingering: List,
    /// While there is one, the target's WRITEs wait.
    pub(super) predecessor: Option<Predecessor>,
    /// Whether what is sent this way belongs to the session.
    pub(super) membership: Membership,
    /// When something of this target came this way last.
    pub(super) heard_at: Instant,
    /// Since when there is something unanswered, or the last sign of life after that.
    pub(super) quiet_since: Instant,
    /// The timer of `flying` counts from here at the earliest.
    pub(super) timer_floor: Instant,
    pub(super) timeouts_in_row: u8,
    /// Decreases of the window count once for all frames sent before this.
    pub(super) shrunk_at: Instant,
    /// The latest time of sending of any frame answered so far.
    pub(super) newest_answered: Instant,
    /// How much later a frame must have been sent, and answered, for an earlier one to be taken for lost.
    pub(super) reordering: Duration,
    /// When to send the next probe.
    pub(super) probe_at: Option<Instant>,
    pub(super) probed_at: Instant,
    /// Probes under way, oldest first.
    pub(super) probes: [u16; PROBES_OUT_MAX],
    /// Sectors a frame; zero before the first trial is over.
    pub(super) payload_sectors: u16,
    /// The trial could not READ (the target is reserved for others): try again when it answers data.
    pub(super) payload_unverified: bool,
    pub(super) trial: Option<PayloadTrial>,
    /// When a frame longer than any MTU of 1500 carries got through last: to us (a READ's answer), and from us (a WRITE).
    pub(super) long_passed_at: [Instant; 2],
}

impl Path {
    pub(super) fn new(interface: InterfaceId, mac: MacAddr, cap: u16, now: Instant) -> Self {
        Self {
            interface,
            mac,
            silent: false,
            rtt: RoundTrip::UNKNOWN,
            window: Window::new(cap),
            flying: List::EMPTY,
            slow: List::EMPTY,
            resend: List::EMPTY,
            lingering: List::EMPTY,
            predecessor: None,
            membership: Membership::NONE,
            heard_at: now,
            quiet_since: now,
            timer_floor: now,
            timeouts_in_row: 0,
            shrunk_at: now,
            newest_answered: Instant::ZERO,
            reordering: Duration::from_micros(500),
            probe_at: None,
            probed_at: now,
            probes: [NONE; PROBES_OUT_MAX],
            payload_sectors: 0,
            payload_unverified: false,
            trial: None,
            long_passed_at: [now; 2],
        }
    }

    /// Whether data may be sent along it now.
    pub(super) const fn is_usable(&self) -> bool {
        !self.silent && self.trial.is_none() && self.payload_sectors > 0
    }

    /// Whether an answer is owed.
    pub(super) fn is_waiting(&self) -> bool {
        !self.flying.is_empty()
            || !self.slow.is_empty()
            || !self.resend.is_empty()
            || self.is_probing()
    }

    /// Whether a probe is unanswered.
    pub(super) fn is_probing(&self) -> bool {
        self.probes.iter().any(|slot| *slot != NONE)
    }

    pub(super) fn has_window(&self) -> bool {
        self.flying.len() < self.window.frames()
    }

    /// Brings the next probe forward to `at`.
    pub(super) fn want_probe(&mut self, at: Instant) {
        self.probe_at = Some(self.probe_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn info(&self, config: &InitiatorConfig) -> PathInfo {
        PathInfo {
            interface: self.interface,
            mac: self.mac,
            silent: self.silent,
            payload_sectors: self.payload_sectors,
            srtt: self.rtt.smoothed(),
            rto: self.rtt.rto(config),
            window: self.window.frames(),
            in_flight: self.flying.len(),
            lingering: self.lingering.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first loss on a fresh device costs milliseconds, where Linux's driver waits 16.5 s.
    #[test]
    fn rto_starts_small_and_is_bounded() {
        let config = InitiatorConfig::default();
        let mut rtt = RoundTrip::UNKNOWN;
        assert_eq!(rtt.rto(&config), config.rto_initial);
        for _ in 0..20 {
            rtt.back_off();
        }
        assert_eq!(rtt.rto(&config), config.rto_max);
        rtt.answered();
        for _ in 0..100 {
            rtt.sample(Duration::from_micros(30));
        }
        assert_eq!(rtt.rto(&config), config.rto_min);
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(30));
        }
        assert!(rtt.smoothed() > Duration::from_millis(29));
        assert!(rtt.rto(&config) >= Duration::from_millis(30));
    }

    #[test]
    fn window_honours_the_buffer_count() {
        let mut window = Window::new(16);
        assert_eq!(window.frames(), 16);
        for _ in 0..1000 {
            window.grow();
        }
        assert_eq!(window.frames(), 16);
        window.shrink();
        assert_eq!(window.frames(), 12);
        window.undo();
        assert_eq!(window.frames(), 16);
        window.collapse();
        assert_eq!(window.frames(), 1);
        for _ in 0..50 {
            window.shrink();
        }
        assert_eq!(window.frames(), 1, "never less than one");
        for _ in 0..2000 {
            window.grow();
        }
        assert_eq!(window.frames(), 16);
        window.set_cap(3);
        assert_eq!(window.frames(), 3);
    }
}
