//! What is written: every sector names itself and the pass that wrote it, so that a sector found in the wrong place, or of
//! an earlier pass, is recognised as that and not only as wrong.

use std::fmt;

use sandrail_memory::SECTOR_BYTES;

const WORD_BYTES: usize = 8;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The content of one pass over a disk: seed of the run and number of the pass, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

/// A sector that does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSector {
    /// It is another sector's, or another pass's, content.
    Misplaced {
        /// The sector that was looked at.
        lba: u64,
        /// The pattern expected.
        expected: Pattern,
        /// The sector that the content names.
        named_lba: u64,
        /// The pattern that the content names.
        named: Pattern,
    },
    /// It is nobody's content: torn, mixed, noise or never written.
    Torn {
        /// The sector.
        lba: u64,
        /// First byte that does not fit what the sector's first two words name.
        at_byte: usize,
        /// Those two words: pattern and sector.
        head: [u64; 2],
    },
}

impl fmt::Display for BadSector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misplaced {
                lba,
                expected,
                named_lba,
                named,
            } => write!(
                f,
                "sector {lba} should hold pattern {:#x}, but holds sector {named_lba} of pattern {:#x}",
                expected.0, named.0
            ),
            Self::Torn { lba, at_byte, head } => write!(
                f,
                "sector {lba} is torn at byte {at_byte}; it begins with {:#x}, {}",
                head[0], head[1]
            ),
        }
    }
}

impl std::error::Error for BadSector {}

fn word(pattern: u64, lba: u64, index: u64) -> u64 {
    match index {
        0 => pattern,
        1 => lba,
        _ => {
            // Never zero throughout, so that a sector that was never written is nobody's.
            let mixed = (pattern ^ lba.rotate_left(32) ^ STEP).wrapping_mul(STEP);
            (mixed ^ mixed >> 29).wrapping_mul(STEP.wrapping_add(2 * index))
        }
    }
}

impl Pattern {
    /// Pass number `pass` of the run with that seed.
    #[must_use]
    pub const fn new(seed: u64, pass: u32) -> Self {
        Self(seed << 32 | pass as u64)
    }

    /// Fills `data`, whole sectors that begin at `lba`.
    pub fn fill(self, lba: u64, data: &mut [u8]) {
        for (lba, sector) in (lba..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            for (index, bytes) in (0..).zip(sector.chunks_exact_mut(WORD_BYTES)) {
                bytes.copy_from_slice(&word(self.0, lba, index).to_le_bytes());
            }
        }
    }

    /// Checks `data`, whole sectors that begin at `lba`, to the last bit.
    ///
    /// # Errors
    /// The first sector that is not this pattern's.
    pub fn check(self, lba: u64, data: &[u8]) -> Result<(), BadSector> {
        for (lba, sector) in (lba..).zip(data.chunks_exact(SECTOR_BYTES)) {
            let named = read(lba, sector)?;
            if named != (self, lba) {
                return Err(BadSector::Misplaced {
                    lba,
                    expected: self,
                    named_lba: named.1,
                    named: named.0,
                });
            }
        }
        Ok(())
    }

    /// The pattern that a whole, rightly placed sector holds.
    ///
    /// # Errors
    /// [`BadSector`] when it is torn or another sector's.
    pub fn of(lba: u64, sector: &[u8]) -> Result<Self, BadSector> {
        let (named, named_lba) = read(lba, sector)?;
        if named_lba == lba {
            return Ok(named);
        }
        Err(BadSector::Misplaced {
            lba,
            expected: named,
            named_lba,
            named,
        })
    }
}

/// What an intact sector says of itself: pattern and place.
fn read(lba: u64, sector: &[u8]) -> Result<(Pattern, u64), BadSector> {
    let at = |index: usize| {
        let mut bytes = [0; WORD_BYTES];
        bytes.copy_from_slice(&sector[index * WORD_BYTES..(index + 1) * WORD_BYTES]);
        u64::from_le_bytes(bytes)
    };
    let head = [at(0), at(1)];
    for (index, place) in (0..SECTOR_BYTES / WORD_BYTES).zip(0..) {
        if at(index) != word(head[0], head[1], place) {
            return Err(BadSector::Torn {
                lba,
                at_byte: index * WORD_BYTES,
                head,
            });
        }
    }
    Ok((Pattern(head[0]), head[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_checks_and_every_flipped_bit_is_noticed() {
        let pattern = Pattern::new(7, 1);
        let mut data = [0; 2 * SECTOR_BYTES];
        pattern.fill(40, &mut data);
        assert_eq!(pattern.check(40, &data), Ok(()));
        for bit in 0..data.len() * 8 {
            data[bit / 8] ^= 1 << (bit % 8);
            assert!(pattern.check(40, &data).is_err(), "bit {bit}");
            data[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_sector_in_the_wrong_place_or_of_an_earlier_pass_is_named() {
        let (old, new) = (Pattern::new(7, 1), Pattern::new(7, 2));
        let mut sector = [0; SECTOR_BYTES];
        old.fill(41, &mut sector);
        let misplaced = |expected, lba| BadSector::Misplaced {
            lba,
            expected,
            named_lba: 41,
            named: old,
        };
        assert_eq!(old.check(40, &sector), Err(misplaced(old, 40)));
        assert_eq!(new.check(41, &sector), Err(misplaced(new, 41)));
        assert_eq!(Pattern::of(41, &sector), Ok(old));
        assert!(Pattern::of(40, &sector).is_err());
    }

    #[test]
    fn a_mixture_of_two_passes_is_torn_and_zeros_are_nobodys() {
        let (mut one, mut two) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
        assert!(matches!(
            Pattern::of(0, &one),
            Err(BadSector::Torn { at_byte: 16, .. })
        ));
        Pattern::new(7, 1).fill(3, &mut one);
        Pattern::new(7, 2).fill(3, &mut two);
        one[256..].copy_from_slice(&two[256..]);
        assert!(matches!(
            Pattern::of(3, &one),
            Err(BadSector::Torn { at_byte: 256, .. })
        ));
    }
}
