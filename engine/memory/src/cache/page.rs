//! What names a page, and what names the frame that holds it.

use std::fmt;

const NUMBER_BITS: u32 = 45;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

/// A page of a volume, in one word: 19 bits of volume, 45 bits of number. The number reaches over the largest disk that
/// ATA can address (2^48 sectors of 512 bytes) in pages of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(u64);

impl PageId {
    /// Volumes are numbered below this; the one word that is left names no page.
    pub const VOLUMES_MAX: u32 = (1 << (64 - NUMBER_BITS)) - 1;
    /// Pages of a volume are numbered below this.
    pub const NUMBERS_MAX: u64 = 1 << NUMBER_BITS;

    /// The page; `None` when the volume or the number is too large.
    #[must_use]
    #[inline]
    pub const fn new(volume: u32, number: u64) -> Option<Self> {
        if volume < Self::VOLUMES_MAX && number < Self::NUMBERS_MAX {
            // The widening `as`: `u64::from` is not const.
            Some(Self((volume as u64) << NUMBER_BITS | number))
        } else {
            None
        }
    }

    /// The volume.
    #[must_use]
    pub const fn volume(self) -> u32 {
        // 19 bits are left after the shift.
        (self.0 >> NUMBER_BITS) as u32
    }

    /// The number of the page within its volume, from 0.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 & NUMBER_MASK
    }

    /// The page `distance` numbers on; `None` beyond the volume's last possible one.
    #[must_use]
    pub const fn after(self, distance: u64) -> Option<Self> {
        match self.number().checked_add(distance) {
            Some(number) if number < Self::NUMBERS_MAX => Some(Self(self.0 + distance)),
            _ => None,
        }
    }

    /// The page one number before; `None` for a volume's first.
    #[must_use]
    pub const fn before(self) -> Option<Self> {
        if self.number() == 0 {
            None
        } else {
            Some(Self(self.0 - 1))
        }
    }

    /// As one word, equal for equal pages only; also what pages identify themselves with in tests.
    #[must_use]
    #[inline]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_key(key: u64) -> Option<Self> {
        if key == NO_PAGE {
            None
        } else {
            Some(Self(key))
        }
    }

    /// Where the page is looked for. A folded multiplication: one instruction mixes all bits into all others, so that
    /// neither runs of pages nor strides nor volumes fall onto each other.
    #[inline]
    pub(crate) const fn hash(self) -> u64 {
        // The golden ratio's and the square root of three's fraction, as nothing-up-my-sleeve numbers.
        let product = ((self.0 ^ 0xbb67_ae85_84ca_a73b) as u128) * 0x9e37_79b9_7f4a_7c15_u128;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "both halves are wanted, one after the other"
        )]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        folded
    }
}

/// What an empty frame has for a page.
pub(crate) const NO_PAGE: u64 = u64::MAX;

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageId({self})")
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of volume {}", self.number(), self.volume())
    }
}

/// A frame of the cache, by its place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub(crate) u32);

impl FrameId {
    /// The frame's place, from 0.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_keep_their_parts_and_limits() {
        let page = PageId::new(7, 123).unwrap();
        assert_eq!((page.volume(), page.number()), (7, 123));
        assert_eq!(page.to_string(), "page 123 of volume 7");
        assert_eq!(page.after(2), PageId::new(7, 125));
        assert_eq!(page.before(), PageId::new(7, 122));
        let last = PageId::new(PageId::VOLUMES_MAX - 1, PageId::NUMBERS_MAX - 1).unwrap();
        assert_ne!(last.to_bits(), NO_PAGE);
        assert_eq!(last.after(1), None);
        assert_eq!(last.after(u64::MAX), None);
        assert_eq!(PageId::new(3, 0).unwrap().before(), None);
        assert_eq!(PageId::new(PageId::VOLUMES_MAX, 0), None);
        assert_eq!(PageId::new(0, PageId::NUMBERS_MAX), None);
    }

    #[test]
    fn runs_strides_and_volumes_spread_over_the_buckets_and_differ_in_their_tags() {
        // 4096 pages into 4096 places: of a random function about 63 % of the places are hit.
        let runs: [(u64, u32); 5] = [(1, 0), (64, 0), (4096, 0), (1 << 30, 0), (0, 1)];
        for (stride, volumes) in runs {
            let hashes: Vec<u64> = (0..4096_u32)
                .map(|n| PageId::new(n * volumes, u64::from(n) * stride).unwrap())
                .map(PageId::hash)
                .collect();
            let distinct = |part: fn(&u64) -> u64| {
                let parts: std::collections::HashSet<u64> = hashes.iter().map(part).collect();
                parts.len()
            };
            let (low, tags) = (distinct(|hash| hash & 4095), distinct(|hash| hash >> 33));
            assert!(low > 2300, "stride {stride}: {low} places");
            assert!(tags > 4080, "stride {stride}: {tags} tags");
        }
    }
}
