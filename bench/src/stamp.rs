//! Blocks that say what they are, and a ledger of what each of them may be.
//!
//! In verify mode every sector that is written carries its target, its LBA, the run and the number of its write, and a
//! checksum; the rest is noise from these. A read is right when each sector holds a write of this run that was not
//! overtaken before the read began, and that was issued before the read ended. So a stale block, a lost write, a torn sector,
//! a block of another place or target all show.

use std::fmt;

use sandrail_wire::{Lba, TargetAddr};

use crate::workload::SECTOR_BYTES;

const MAGIC: u64 = u64::from_be_bytes(*b"SRBENCH1");
const WORDS: usize = SECTOR_BYTES / 8;

/// Whose blocks, of which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamper {
    /// The target.
    pub target: TargetAddr,
    /// The run: its seed.
    pub run: u64,
}

/// Why a sector is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing that a run like this has written.
    NoStamp,
    /// Its checksum is another: torn, or spoilt.
    Checksum,
    /// It belongs to another target.
    OtherTarget(TargetAddr),
    /// It belongs elsewhere.
    OtherPlace(Lba),
    /// It is of another run.
    OtherRun(u64),
    /// An earlier write's, though a later one was acknowledged before the read began.
    Stale {
        /// The number found.
        found: u32,
        /// The least that could be.
        least: u32,
    },
    /// A write's that was never issued.
    NeverWritten {
        /// The number found.
        found: u32,
        /// The greatest that could be.
        most: u32,
    },
}

/// A wrong sector, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct WrongBlock {
    /// Whose.
    pub target: TargetAddr,
    /// Which sector.
    pub lba: Lba,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for WrongBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "target e{}.{}, sector {}: ",
            self.target.shelf, self.target.slot, self.lba.0
        )?;
        match self.fault {
            Fault::NoStamp => f.write_str("holds nothing that a verifying load has written"),
            Fault::Checksum => f.write_str("its checksum does not match: torn or spoilt"),
            Fault::OtherTarget(other) => {
                write!(f, "holds a block of target e{}.{}", other.shelf, other.slot)
            }
            Fault::OtherPlace(lba) => write!(f, "holds sector {}", lba.0),
            Fault::OtherRun(run) => write!(f, "holds a block of run {run:#x}"),
            Fault::Stale { found, least } => write!(
                f,
                "holds write {found}, though write {least} was acknowledged before the read began"
            ),
            Fault::NeverWritten { found, most } => {
                write!(f, "holds write {found}, though {most} was the last")
            }
        }
    }
}

impl Stamper {
    /// Fills the sectors of a block that begins at `lba` with write number `number`.
    pub fn fill(&self, lba: Lba, number: u32, block: &mut [u8]) {
        for (sector, at) in block.chunks_exact_mut(SECTOR_BYTES).zip(lba.0..) {
            let head = [MAGIC, self.place(number), at, self.run];
            let mut noise = mix(at ^ self.run.rotate_left(17) ^ u64::from(number) << 40);
            let mut sum = Checksum::default();
            for (place, bytes) in sector.chunks_exact_mut(8).enumerate() {
                let word = match head.get(place) {
                    Some(word) => *word,
                    None if place == WORDS - 1 => sum.0,
                    None => {
                        noise = noise.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
                        noise
                    }
                };
                sum.add(word);
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Checks the sectors of a block that begins at `lba`: each of a write from `least` to `most`.
    ///
    /// # Errors
    /// The first sector that is wrong.
    pub fn check(&self, lba: Lba, least: u32, most: u32, block: &[u8]) -> Result<(), WrongBlock> {
        for (sector, at) in block.chunks_exact(SECTOR_BYTES).zip(lba.0..) {
            self.check_sector(at, least, most, sector)
                .map_err(|fault| WrongBlock {
                    target: self.target,
                    lba: Lba(at),
                    fault,
                })?;
        }
        Ok(())
    }

    fn check_sector(&self, at: u64, least: u32, most: u32, sector: &[u8]) -> Result<(), Fault> {
        let mut words = sector.chunks_exact(8).map(|bytes| {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            u64::from_le_bytes(word)
        });
        let mut sum = Checksum::default();
        let mut head = [0; 4];
        for word in &mut head {
            *word = words.next().unwrap_or(0);
            sum.add(*word);
        }
        let [magic, place, lba, run] = head;
        if magic != MAGIC {
            return Err(Fault::NoStamp);
        }
        for _ in head.len()..WORDS - 1 {
            sum.add(words.next().unwrap_or(0));
        }
        if words.next() != Some(sum.0) {
            return Err(Fault::Checksum);
        }
        let (shelf_slot, number) = (place >> 32, place & 0xffff_ffff);
        if shelf_slot != self.place(0) >> 32 {
            let [.., high, low, slot] = shelf_slot.to_be_bytes();
            let shelf = u16::from_be_bytes([high, low]);
            return Err(Fault::OtherTarget(TargetAddr { shelf, slot }));
        }
        if lba != at {
            return Err(Fault::OtherPlace(Lba(lba)));
        }
        if run != self.run {
            return Err(Fault::OtherRun(run));
        }
        let found = u32::try_from(number).unwrap_or(u32::MAX);
        if found < least {
            return Err(Fault::Stale { found, least });
        }
        if found > most {
            return Err(Fault::NeverWritten { found, most });
        }
        Ok(())
    }

    /// Target and number in a word.
    fn place(&self, number: u32) -> u64 {
        u64::from(self.target.shelf) << 40 | u64::from(self.target.slot) << 32 | u64::from(number)
    }
}

/// Of 64-bit words, sensitive to their order. It finds accidents, not forgeries.
#[derive(Clone, Copy, Debug, Default)]
struct Checksum(u64);

impl Checksum {
    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

/// The finalizer of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// For each block of a working set, which write it may hold.
#[derive(Debug)]
pub struct Ledger {
    blocks: Vec<Numbers>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    issued: u32,
    acknowledged: u32,
}

impl Ledger {
    /// Of so many blocks, none of them written.
    #[must_use]
    pub fn new(blocks: usize) -> Self {
        Self {
            blocks: vec![Numbers::default(); blocks],
        }
    }

    /// A write of the block begins; its number, from 1.
    pub fn issue(&mut self, block: usize) -> u32 {
        let numbers = &mut self.blocks[block];
        numbers.issued += 1;
        numbers.issued
    }

    /// A write of the block was acknowledged.
    pub fn acknowledge(&mut self, block: usize, number: u32) {
        let numbers = &mut self.blocks[block];
        numbers.acknowledged = numbers.acknowledged.max(number);
    }

    /// The least that a read which begins now may find.
    #[must_use]
    pub fn least(&self, block: usize) -> u32 {
        self.blocks[block].acknowledged
    }

    /// The most that a read which ends now may find.
    #[must_use]
    pub fn most(&self, block: usize) -> u32 {
        self.blocks[block].issued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMPER: Stamper = Stamper {
        target: TargetAddr { shelf: 7, slot: 3 },
        run: 0xabc,
    };

    fn block(lba: u64, number: u32) -> Vec<u8> {
        let mut block = vec![0; 4096];
        STAMPER.fill(Lba(lba), number, &mut block);
        block
    }

    fn fault(lba: u64, least: u32, most: u32, block: &[u8]) -> Option<(u64, Fault)> {
        let checked = STAMPER.check(Lba(lba), least, most, block);
        checked.err().map(|wrong| (wrong.lba.0, wrong.fault))
    }

    #[test]
    fn a_right_block_passes() {
        for least in 0..=5 {
            assert_eq!(fault(80, least, 5, &block(80, 5)), None);
        }
    }

    #[test]
    fn every_wrong_block_is_named() {
        let good = block(80, 5);
        assert_eq!(fault(80, 0, 9, &[0; 4096]), Some((80, Fault::NoStamp)));
        assert_eq!(
            fault(88, 0, 9, &good),
            Some((88, Fault::OtherPlace(Lba(80))))
        );
        assert_eq!(
            fault(80, 6, 9, &good),
            Some((80, Fault::Stale { found: 5, least: 6 }))
        );
        assert_eq!(
            fault(80, 0, 4, &good),
            Some((80, Fault::NeverWritten { found: 5, most: 4 }))
        );
        let foreign = Stamper {
            target: TargetAddr { shelf: 9, slot: 1 },
            ..STAMPER
        };
        let mut other = vec![0; 4096];
        foreign.fill(Lba(80), 5, &mut other);
        let addr = TargetAddr { shelf: 9, slot: 1 };
        assert_eq!(
            fault(80, 0, 9, &other),
            Some((80, Fault::OtherTarget(addr)))
        );
        Stamper { run: 1, ..STAMPER }.fill(Lba(80), 5, &mut other);
        assert_eq!(fault(80, 0, 9, &other), Some((80, Fault::OtherRun(1))));
    }

    #[test]
    fn every_byte_counts() {
        let good = block(80, 5);
        for place in 512..1024 {
            let mut spoilt = good.clone();
            spoilt[place] ^= 1;
            let (lba, fault) = fault(80, 0, 9, &spoilt).expect("a flipped bit shows");
            assert_eq!(lba, 81);
            let expected = if place < 520 {
                Fault::NoStamp
            } else {
                Fault::Checksum
            };
            assert_eq!(fault, expected, "byte {place}");
        }
    }

    #[test]
    fn a_torn_sector_and_a_stale_one_among_new_ones_show() {
        let (mut mixed, new) = (block(80, 5), block(80, 6));
        mixed[..700].copy_from_slice(&new[..700]);
        assert_eq!(fault(80, 5, 6, &mixed), Some((81, Fault::Checksum)));
        mixed[..1024].copy_from_slice(&new[..1024]);
        // Sectors of two writes are a block under writing, but not after its acknowledgement.
        assert_eq!(fault(80, 5, 6, &mixed), None);
        assert_eq!(
            fault(80, 6, 6, &mixed),
            Some((82, Fault::Stale { found: 5, least: 6 }))
        );
    }

    #[test]
    fn the_ledger_tells_what_may_be() {
        let mut ledger = Ledger::new(4);
        assert_eq!((ledger.issue(2), ledger.issue(2)), (1, 2));
        assert_eq!((ledger.least(2), ledger.most(2)), (0, 2));
        ledger.acknowledge(2, 2);
        ledger.acknowledge(2, 1);
        assert_eq!(ledger.least(2), 2, "a late answer does not turn it back");
        assert_eq!(ledger.most(1), 0);
    }

    #[test]
    fn words_name_target_and_sector() {
        let wrong = STAMPER.check(Lba(80), 6, 9, &block(80, 5)).unwrap_err();
        let text = wrong.to_string();
        assert!(
            text.contains("e7.3") && text.contains("sector 80") && text.contains("write 5"),
            "{text}"
        );
    }
}
