//! A voting area: sectors that are written whole, and keep what was written.

use std::collections::VecDeque;

/// Bytes of a sector.
pub const SECTOR_BYTES: usize = 512;

/// A voting area.
#[derive(Debug)]
pub struct Area {
    sectors: Vec<u8>,
    /// Former contents, for an area that serves what is old.
    history: VecDeque<(u64, Vec<u8>)>,
    /// It is away until then.
    pub down_until_ns: u64,
}

impl Area {
    /// One with so many sectors of zeros.
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        Self {
            sectors: vec![0; sectors * SECTOR_BYTES],
            history: VecDeque::new(),
            down_until_ns: 0,
        }
    }

    /// Writes a sector.
    ///
    /// # Panics
    /// If it lies beyond the end.
    pub fn write(&mut self, sector: u32, bytes: &[u8; SECTOR_BYTES]) {
        let at = sector as usize * SECTOR_BYTES;
        self.sectors[at..at + SECTOR_BYTES].copy_from_slice(bytes);
    }

    /// Reads sectors.
    ///
    /// # Panics
    /// If they lie beyond the end.
    #[must_use]
    pub fn read(&self, first: u32, count: u32) -> Vec<u8> {
        Self::part(&self.sectors, first, count)
    }

    fn part(bytes: &[u8], first: u32, count: u32) -> Vec<u8> {
        let at = first as usize * SECTOR_BYTES;
        bytes[at..at + count as usize * SECTOR_BYTES].to_vec()
    }

    /// Reads sectors as they were so long ago.
    pub fn read_stale(&mut self, now_ns: u64, age_ns: u64, first: u32, count: u32) -> Vec<u8> {
        self.history.push_back((now_ns, self.sectors.clone()));
        while self
            .history
            .get(1)
            .is_some_and(|(at_ns, _)| at_ns + age_ns <= now_ns)
        {
            self.history.pop_front();
        }
        self.history.front().map_or_else(
            || self.read(first, count),
            |(_, old)| Self::part(old, first, count),
        )
    }
}
