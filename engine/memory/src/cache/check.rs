//! CRC32C (Castagnoli) in a fixed place of each page.

use super::config::Mismatch;

/// Where a page carries its checksum: four bytes, little-endian, over all other bytes of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    offset_bytes: usize,
}

impl Checksum {
    /// Length of the checksum in the page.
    pub const LEN_BYTES: usize = 4;

    /// In the four bytes from `offset_bytes` on; `None` if they are not aligned.
    #[must_use]
    pub const fn at(offset_bytes: usize) -> Option<Self> {
        if offset_bytes.is_multiple_of(Self::LEN_BYTES) {
            Some(Self { offset_bytes })
        } else {
            None
        }
    }

    /// The checksum of the page's bytes.
    ///
    /// # Panics
    /// When the page ends before the checksum does.
    #[must_use]
    pub fn compute(&self, page: &[u8]) -> u32 {
        let before = crc32c::crc32c(&page[..self.offset_bytes]);
        crc32c::crc32c_append(before, &page[self.offset_bytes + Self::LEN_BYTES..])
    }

    /// Whether the page's checksum is that of its bytes.
    ///
    /// # Errors
    /// [`Mismatch`] with both.
    ///
    /// # Panics
    /// When the page ends before the checksum does.
    pub fn verify(&self, page: &[u8]) -> Result<(), Mismatch> {
        let place = &page[self.offset_bytes..][..Self::LEN_BYTES];
        let expected = place.try_into().map_or(0, u32::from_le_bytes);
        let found = self.compute(page);
        if expected == found {
            Ok(())
        } else {
            Err(Mismatch { expected, found })
        }
    }

    /// What [`super::Owner::seal`] returns for a page: the aligned eight bytes around the checksum, with it in them.
    ///
    /// # Panics
    /// When the page ends before they do.
    #[must_use]
    pub fn seal(&self, page: &[u8]) -> (usize, [u8; 8]) {
        let start = self.offset_bytes / 8 * 8;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&page[start..start + 8]);
        let checksum = self.compute(page).to_le_bytes();
        bytes[self.offset_bytes - start..][..Self::LEN_BYTES].copy_from_slice(&checksum);
        (start, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_castagnolis_and_covers_all_but_itself() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones; the checksum's own place left out.
        let checksum = Checksum::at(0).unwrap();
        assert_eq!(checksum.compute(&[0; 36]), 0x8a91_36aa);
        assert_eq!(checksum.compute(&[0xff; 36]), 0x62a8_ab43);
        let checksum = Checksum::at(12).unwrap();
        let mut page = [3_u8; 64];
        let (place, bytes) = checksum.seal(&page);
        assert_eq!(place, 8);
        page[place..place + 8].copy_from_slice(&bytes);
        assert_eq!(page[8..12], [3; 4]);
        assert_eq!(checksum.verify(&page), Ok(()));
        for at in 0..64 {
            page[at] ^= 0x10;
            let Mismatch { expected, found } = checksum.verify(&page).unwrap_err();
            assert_ne!(expected, found);
            page[at] ^= 0x10;
        }
        assert_eq!(Checksum::at(2), None);
    }
}
