//! Which block comes next, and whether it is read or written: always the same for a seed.

use sandrail_wire::Lba;

use crate::zipf::Zipf;

/// Bytes of a sector.
pub const SECTOR_BYTES: usize = 512;

/// Where blocks lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// One after the other, from the first again after the last.
    Sequential,
    /// Anywhere, all alike.
    Uniform,
    /// A few often, most seldom, by [Zipf's law](Zipf); the popular ones lie scattered.
    Zipf {
        /// The exponent: 0 is uniform, 0.99 what YCSB takes.
        theta: f64,
    },
}

/// A load's make-up.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadConfig {
    /// Of a hundred I/Os, so many are reads, at random.
    pub read_percent: u8,
    /// Length of each I/O: whole sectors.
    pub block_bytes: usize,
    /// Where they lie.
    pub pattern: Pattern,
    /// Where the working set begins.
    pub first: Lba,
    /// The working set's length, in sectors; what is no whole block at its end is left alone.
    pub sectors: u64,
    /// Everything that is random comes from it.
    pub seed: u64,
}

/// A [`WorkloadConfig`] that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// Blocks are whole sectors, up to 1 MiB.
    #[error("blocks of {0} bytes: they are whole sectors of 512 bytes, up to 1 MiB")]
    BlockBytes(usize),
    /// No block fits.
    #[error("a working set of {sectors} sectors has no room for a block of {block_bytes} bytes")]
    TooSmall {
        /// The working set's length.
        sectors: u64,
        /// A block's length.
        block_bytes: usize,
    },
    /// Not a percentage.
    #[error("{0} % reads: from 0 to 100")]
    Percent(u8),
    /// Zipf's exponent.
    #[error("Zipf's theta must be a number from 0 to 10")]
    Theta,
}

impl WorkloadConfig {
    /// 4 KiB blocks anywhere in a working set that begins with the disk.
    #[must_use]
    pub fn uniform(read_percent: u8, sectors: u64, seed: u64) -> Self {
        Self {
            read_percent,
            block_bytes: 4096,
            pattern: Pattern::Uniform,
            first: Lba(0),
            sectors,
            seed,
        }
    }

    /// Sectors of a block.
    #[must_use]
    pub fn block_sectors(&self) -> u64 {
        u64::try_from(self.block_bytes / SECTOR_BYTES).unwrap_or(u64::MAX)
    }

    /// Whole blocks in the working set.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.sectors / self.block_sectors().max(1)
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// The first [`WorkloadError`].
    pub fn check(&self) -> Result<(), WorkloadError> {
        let whole = self.block_bytes.is_multiple_of(SECTOR_BYTES);
        if !whole || !(SECTOR_BYTES..=1 << 20).contains(&self.block_bytes) {
            return Err(WorkloadError::BlockBytes(self.block_bytes));
        }
        if self.blocks() == 0 {
            return Err(WorkloadError::TooSmall {
                sectors: self.sectors,
                block_bytes: self.block_bytes,
            });
        }
        if self.read_percent > 100 {
            return Err(WorkloadError::Percent(self.read_percent));
        }
        match self.pattern {
            Pattern::Zipf { theta } if !(0.0..=10.0).contains(&theta) => Err(WorkloadError::Theta),
            _ => Ok(()),
        }
    }
}

/// One I/O to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// The block's number in the working set.
    pub block: u64,
    /// Its first sector on the disk.
    pub lba: Lba,
    /// Whether it is written.
    pub write: bool,
}

/// The I/Os of a load, without end.
#[derive(Clone, Debug)]
pub struct Workload {
    config: WorkloadConfig,
    blocks: u64,
    rng: fastrand::Rng,
    choice: Choice,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Sequential { next: u64 },
    Uniform,
    Zipf { zipf: Zipf, step: u64 },
}

impl Workload {
    /// From the first on.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn new(config: WorkloadConfig) -> Result<Self, WorkloadError> {
        config.check()?;
        let blocks = config.blocks();
        let choice = match config.pattern {
            Pattern::Sequential => Choice::Sequential { next: 0 },
            Pattern::Uniform => Choice::Uniform,
            Pattern::Zipf { theta } => Choice::Zipf {
                zipf: Zipf::new(blocks, theta),
                step: scatter_step(blocks),
            },
        };
        Ok(Self {
            rng: fastrand::Rng::with_seed(config.seed),
            blocks,
            config,
            choice,
        })
    }

    /// What it is made of.
    #[must_use]
    pub fn config(&self) -> &WorkloadConfig {
        &self.config
    }

    /// The next I/O.
    pub fn next_io(&mut self) -> Io {
        let block = match &mut self.choice {
            Choice::Sequential { next } => {
                let block = *next;
                *next = (block + 1) % self.blocks;
                block
            }
            Choice::Uniform => self.rng.u64(0..self.blocks),
            Choice::Zipf { zipf, step } => {
                let rank = zipf.draw(&mut self.rng);
                scatter(rank, *step, self.blocks)
            }
        };
        let write = match self.config.read_percent {
            100 => false,
            0 => true,
            percent => self.rng.u8(0..100) >= percent,
        };
        self.io(block, write)
    }

    /// The I/O of one block.
    #[must_use]
    pub fn io(&self, block: u64, write: bool) -> Io {
        Io {
            block,
            lba: Lba(self.config.first.0 + block * self.config.block_sectors()),
            write,
        }
    }
}

/// A distance that shares no factor with `count`, near its golden section: steps of that length visit every place once, and
/// neighbours in rank lie far apart.
fn scatter_step(count: u64) -> u64 {
    let golden = u128::from(count) * 618_034 / 1_000_000;
    let mut step = u64::try_from(golden).unwrap_or(1).max(1);
    while common_divisor(step, count) != 1 {
        step += 1;
    }
    step
}

fn scatter(rank: u64, step: u64, count: u64) -> u64 {
    let place = u128::from(rank) * u128::from(step) % u128::from(count);
    u64::try_from(place).unwrap_or(0)
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn config(pattern: Pattern) -> WorkloadConfig {
        WorkloadConfig {
            pattern,
            first: Lba(800),
            ..WorkloadConfig::uniform(70, 8 * 100 + 5, 1)
        }
    }

    #[test]
    fn blocks_lie_in_the_working_set() {
        for pattern in [
            Pattern::Sequential,
            Pattern::Uniform,
            Pattern::Zipf { theta: 0.99 },
        ] {
            let mut workload = Workload::new(config(pattern)).unwrap();
            for _ in 0..2000 {
                let io = workload.next_io();
                assert!(io.block < 100, "{io:?}");
                assert_eq!(io.lba.0, 800 + 8 * io.block);
            }
        }
    }

    #[test]
    fn a_sequence_begins_again_at_its_end() {
        let mut workload = Workload::new(config(Pattern::Sequential)).unwrap();
        let blocks: Vec<u64> = (0..102).map(|_| workload.next_io().block).collect();
        assert_eq!((blocks[0], blocks[99], blocks[100]), (0, 99, 0));
    }

    #[test]
    fn reads_and_writes_are_mixed_as_told() {
        for (percent, least, most) in [(0, 0, 0), (70, 6800, 7200), (100, 10_000, 10_000)] {
            let mut config = config(Pattern::Uniform);
            config.read_percent = percent;
            let mut workload = Workload::new(config).unwrap();
            let reads = (0..10_000).filter(|_| !workload.next_io().write).count();
            assert!((least..=most).contains(&reads), "{percent} %: {reads}");
        }
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            let mut config = config(Pattern::Zipf { theta: 1.1 });
            config.seed = seed;
            let mut workload = Workload::new(config).unwrap();
            (0..100).map(|_| workload.next_io()).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn popular_blocks_are_scattered_and_every_block_has_its_rank() {
        for count in [1, 2, 97, 100, 4096, 16_384] {
            let step = scatter_step(count);
            let places: BTreeSet<u64> = (0..count).map(|rank| scatter(rank, step, count)).collect();
            assert_eq!(u64::try_from(places.len()).unwrap(), count);
        }
        let step = scatter_step(16_384);
        assert!(scatter(1, step, 16_384) > 1000);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |change: fn(&mut WorkloadConfig)| {
            let mut config = config(Pattern::Uniform);
            change(&mut config);
            Workload::new(config).unwrap_err()
        };
        assert_eq!(
            refused(|c| c.block_bytes = 1000),
            WorkloadError::BlockBytes(1000)
        );
        assert_eq!(refused(|c| c.block_bytes = 0), WorkloadError::BlockBytes(0));
        assert_eq!(
            refused(|c| c.block_bytes = 2 << 20),
            WorkloadError::BlockBytes(2 << 20)
        );
        assert!(matches!(
            refused(|c| c.sectors = 7),
            WorkloadError::TooSmall { .. }
        ));
        assert_eq!(
            refused(|c| c.read_percent = 101),
            WorkloadError::Percent(101)
        );
        assert_eq!(
            refused(|c| c.pattern = Pattern::Zipf { theta: -1.0 }),
            WorkloadError::Theta
        );
    }
}
