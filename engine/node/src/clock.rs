//! The one clock of a node.
//!
//! CLOCK_BOOTTIME, read through the vDSO: it goes on while the machine sleeps, so that a lifetime or lease that ended
//! during a suspend is known to have ended (S13 demands it of leases; S2's lifetimes are safe on either clock).
//! std's `Instant` is CLOCK_MONOTONIC, which stands still then.

use sandrail_proto::time::Instant;

/// Now, in nanoseconds since the machine's boot. The same clock in every thread and process of the machine.
#[must_use]
pub fn now() -> Instant {
    Instant::from_nanos(crate::os::boottime_ns())
}
