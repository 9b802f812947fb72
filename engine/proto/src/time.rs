//! Time as an argument: nanoseconds since an epoch that the caller chooses.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A moment on the caller's monotonic clock, in nanoseconds since its epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    ns: u64,
}

impl Instant {
    /// The clock's epoch.
    pub const ZERO: Self = Self { ns: 0 };

    /// The moment `ns` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.ns
    }

    /// Time passed since `earlier`, zero if that lies ahead.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

/// Nanoseconds of a duration; 584 years saturate.
#[must_use]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, later_by: Duration) -> Self {
        Self {
            ns: self.ns.saturating_add(nanos(later_by)),
        }
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, earlier_by: Duration) -> Self {
        Self {
            ns: self.ns.saturating_sub(nanos(earlier_by)),
        }
    }
}
