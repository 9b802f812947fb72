//! Sectors that are rewritten often do not wait for late copies: they rotate (S4).
//!
//! A heartbeat or a ballot that rewrote one sector would find its range closed after every lost answer, for a whole frame
//! lifetime. Written in turn to enough sectors, each comes round again only when its last copy is dead anyway; whoever reads
//! takes the newest of them by the sequence number inside.

use core::time::Duration;

use sandrail_wire::Lba;

/// A turn through enough sectors that no write ever meets a late copy of an earlier one.
#[derive(Clone, Debug)]
pub struct Rotation {
    first: Lba,
    sectors: u64,
    next: u64,
}

/// The area given is too small for the rate of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given_sectors} sectors are too few: one write every {period:?} needs {needed_sectors} to outlive a frame"
)]
pub struct AreaTooSmall {
    /// Sectors there are.
    pub given_sectors: u64,
    /// Sectors it takes.
    pub needed_sectors: u64,
    /// Time between writes.
    pub period: Duration,
}

impl Rotation {
    /// How many sectors a write every `period` must rotate over: a copy is known dead one `frame_lifetime` after it left,
    /// and a probe's round trip (bounded by another lifetime) later.
    #[must_use]
    pub fn needed_sectors(period: Duration, frame_lifetime: Duration) -> u64 {
        let rest_ns = frame_lifetime.as_nanos() * 2;
        let turns = rest_ns.div_ceil(period.as_nanos().max(1));
        u64::try_from(turns).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Rotates over `sectors` sectors from `first` on, at one write every `period` or less often.
    ///
    /// # Errors
    /// [`AreaTooSmall`]: writes would wait for each other.
    pub fn new(
        first: Lba,
        sectors: u64,
        period: Duration,
        frame_lifetime: Duration,
    ) -> Result<Self, AreaTooSmall> {
        let needed_sectors = Self::needed_sectors(period, frame_lifetime);
        if sectors < needed_sectors {
            return Err(AreaTooSmall {
                given_sectors: sectors,
                needed_sectors,
                period,
            });
        }
        Ok(Self {
            first,
            sectors,
            next: 0,
        })
    }

    /// Where the next write goes.
    pub fn advance(&mut self) -> Lba {
        let lba = Lba(self.first.0 + self.next);
        self.next = (self.next + 1) % self.sectors;
        lba
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(2);
    const PERIOD: Duration = Duration::from_millis(20);

    #[test]
    fn a_sector_rests_two_lifetimes() {
        let mut rotation = Rotation::new(Lba(64), 201, PERIOD, LIFETIME).unwrap();
        let first = rotation.advance();
        assert_eq!(first, Lba(64));
        let turns = (1..).take_while(|_| rotation.advance() != first).count();
        assert!(PERIOD * u32::try_from(turns).unwrap() >= LIFETIME * 2);
    }

    #[test]
    fn a_small_area_is_refused() {
        let error = Rotation::new(Lba(0), 200, PERIOD, LIFETIME).unwrap_err();
        assert_eq!(error.needed_sectors, 201);
        assert!(error.to_string().contains("201"));
    }
}
