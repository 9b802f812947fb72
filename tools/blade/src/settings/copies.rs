//! How many writes a core remembers, to know copies of them.
//!
//! A request is known for two frame lifetimes after its answer (S6), and none that is younger is ever forgotten: when as
//! many as there is room for came within that time, further ones are dropped until room comes. So the number is a rate.

use std::time::Duration;

use sandrail_proto::aoe::target::DUPLICATE_BYTES;

use super::Settings;

/// The fewest that can be asked for.
pub(super) const LEAST: u32 = 1 << 10;
/// The most that the machine has numbers for.
pub(super) const MOST: u32 = 1 << 24;
/// Writes, flushes and TRIMs of a second that are remembered unless told otherwise: more than a core gets done.
const RATE: u64 = 1_000_000;
/// As many are remembered however little memory there is.
const FLOOR: u32 = 1 << 20;
/// Beyond that, all cores together take no greater part of the memory than one in so many.
const SHARE: u64 = 32;

/// The memory of one core, as it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    /// Requests that are remembered.
    pub(crate) entries: u32,
    /// How long each is, after its last answer.
    pub(crate) retained: Duration,
}

impl Copies {
    /// What was asked for, or what fits `available_bytes` of memory.
    pub(crate) fn new(settings: &Settings, available_bytes: u64) -> Self {
        let retained = settings.frame_lifetime * 2;
        let entries = settings.duplicates_max.unwrap_or_else(|| {
            let cores = settings.cores.as_ref().map_or(1, Vec::len);
            let entry_bytes = u64::try_from(DUPLICATE_BYTES * cores).unwrap_or(u64::MAX);
            let fit = available_bytes / SHARE / entry_bytes;
            let wanted = RATE
                .saturating_mul(u64::try_from(retained.as_millis()).unwrap_or(MOST.into()))
                / 1000;
            // Powers of two, as the machine would make them: what is wanted rounded up, what fits rounded down.
            let wanted = wanted.min(MOST.into()).next_power_of_two();
            let fit = (fit / 2 + 1).next_power_of_two();
            u32::try_from(wanted.min(fit)).unwrap_or(MOST).max(FLOOR)
        });
        Self {
            entries: entries.next_power_of_two(),
            retained,
        }
    }

    /// What they cost, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.entries) * u64::try_from(DUPLICATE_BYTES).unwrap_or(u64::MAX)
    }

    /// Requests of a second that there is room for.
    pub(crate) fn rate_per_s(&self) -> u64 {
        u64::from(self.entries) * 1000
            / u64::try_from(self.retained.as_millis())
                .unwrap_or(u64::MAX)
                .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(gib: u64, cores: usize, lifetime_ms: u64, asked: Option<u32>) -> Copies {
        let settings = Settings {
            cores: Some((0..cores).collect()),
            frame_lifetime: Duration::from_millis(lifetime_ms),
            duplicates_max: asked,
            ..Settings::default()
        };
        Copies::new(&settings, gib << 30)
    }

    #[test]
    fn there_is_room_for_a_million_a_second_where_there_is_memory() {
        let copies = on(64, 2, 2000, None);
        assert_eq!((copies.entries, copies.bytes() >> 20), (1 << 22, 288));
        assert_eq!(copies.rate_per_s(), 1 << 20);
        // Half a GiB for all cores of 16, and each has 256 MiB of it at most.
        assert_eq!(on(16, 2, 2000, None).entries, 1 << 21);
        assert_eq!(on(16, 4, 2000, None).entries, 1 << 20);
        let small = on(1, 4, 2000, None);
        assert_eq!(
            (small.entries, small.bytes() >> 20),
            (FLOOR, 72),
            "the least"
        );
        assert_eq!(small.rate_per_s(), 262_144);
        assert_eq!(
            on(4096, 1, 60_000, None).entries,
            MOST,
            "all that there can be"
        );
        assert_eq!(on(4096, 1, 10, None).entries, FLOOR);
    }

    #[test]
    fn what_is_asked_for_is_had_whatever_the_memory() {
        for (asked, entries) in [(1024, 1024), (1025, 2048), (MOST, MOST)] {
            assert_eq!(on(1, 64, 2000, Some(asked)).entries, entries);
        }
    }
}
