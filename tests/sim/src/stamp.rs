//! What is written: every sector carries the stamp of the write that wrote it, its own address, and a pattern of both.
//!
//! A read then says which write it saw; a sector of another address, a mixture of two writes or noise is recognised as
//! such, to the granularity of 8 bytes.

use core::fmt;

/// Bytes of a sector.
pub const SECTOR_BYTES: usize = 512;
const WORDS: usize = SECTOR_BYTES / 8;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Names one write of the whole run; [`Stamp::INITIAL`] is what the disk held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u32);

impl Stamp {
    /// The content of a fresh disk.
    pub const INITIAL: Self = Self(0);
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

/// Why a sector's content is nobody's write of this sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Intact, but written for another target or sector.
    Elsewhere {
        /// The write.
        stamp: Stamp,
        /// The target it was meant for.
        target: u8,
        /// The sector it was meant for.
        lba: u64,
    },
    /// No write's content: torn, mixed or noise, beginning at this byte.
    Torn {
        /// First byte that does not fit the sector's own first word.
        at_byte: usize,
    },
}

const fn seal(stamp: Stamp, target: u8, lba: u64) -> u64 {
    (stamp.0 as u64) << 32 | (target as u64) << 24 | (lba & 0x00ff_ffff)
}

fn word(seal: u64, index: usize) -> u64 {
    if index == 0 {
        return seal;
    }
    (seal ^ STEP).wrapping_mul(STEP.wrapping_add(2 * index as u64))
}

/// Fills `data`, whole sectors beginning at `lba`, with `stamp`.
pub fn fill(data: &mut [u8], stamp: Stamp, target: u8, lba: u64) {
    for (lba, sector) in (lba..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
        let seal = seal(stamp, target, lba);
        for (index, bytes) in sector.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&word(seal, index).to_le_bytes());
        }
    }
}

/// The write that this sector's first word names, right or wrong.
#[must_use]
pub fn name(sector: &[u8]) -> Stamp {
    let mut first = [0; 8];
    first.copy_from_slice(&sector[..8]);
    Stamp((u64::from_le_bytes(first) >> 32) as u32)
}

/// The write that this sector's content comes from.
///
/// # Errors
/// [`Foreign`] when it is no write of this sector.
pub fn read(sector: &[u8], target: u8, lba: u64) -> Result<Stamp, Foreign> {
    let mut first = [0; 8];
    first.copy_from_slice(&sector[..8]);
    let found = u64::from_le_bytes(first);
    for (index, bytes) in sector.chunks_exact(8).enumerate().take(WORDS) {
        if bytes != word(found, index).to_le_bytes() {
            return Err(Foreign::Torn { at_byte: index * 8 });
        }
    }
    let stamp = Stamp((found >> 32) as u32);
    if found == seal(stamp, target, lba) {
        return Ok(stamp);
    }
    Err(Foreign::Elsewhere {
        stamp,
        target: (found >> 24) as u8,
        lba: found & 0x00ff_ffff,
    })
}

/// Whether `data` still holds `stamp` in all its sectors.
#[must_use]
pub fn intact(data: &[u8], stamp: Stamp, target: u8, lba: u64) -> bool {
    (lba..)
        .zip(data.chunks_exact(SECTOR_BYTES))
        .all(|(lba, sector)| read(sector, target, lba) == Ok(stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_says_whose_it_is_and_where_it_belongs() {
        let mut data = [0; 2 * SECTOR_BYTES];
        fill(&mut data, Stamp(7), 3, 40);
        assert_eq!(read(&data[..512], 3, 40), Ok(Stamp(7)));
        assert_eq!(read(&data[512..], 3, 41), Ok(Stamp(7)));
        let elsewhere = Foreign::Elsewhere {
            stamp: Stamp(7),
            target: 3,
            lba: 41,
        };
        assert_eq!(read(&data[512..], 3, 40), Err(elsewhere));
        assert!(intact(&data, Stamp(7), 3, 40) && !intact(&data, Stamp(8), 3, 40));
    }

    #[test]
    fn a_mixture_of_two_writes_is_torn() {
        let (mut data, mut other) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
        fill(&mut data, Stamp(1), 0, 0);
        fill(&mut other, Stamp(2), 0, 0);
        data[256..].copy_from_slice(&other[256..]);
        assert_eq!(read(&data, 0, 0), Err(Foreign::Torn { at_byte: 256 }));
    }
}
