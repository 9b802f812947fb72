//! What each sector may hold.

use anyhow::Result;
use sandrail_memory::SECTOR_BYTES;

use super::pass_in;

/// What was acknowledged last in each sector, when a flush was asked for.
#[derive(Clone, Debug)]
pub struct FlushMark(Vec<u32>);

/// A sector that holds a pass it must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "sector {lba} holds pass {found}; flushed: {flushed}, acknowledged since: {acknowledged:?}, under way: {under_way}, passes up to {lost_until} may be lost"
)]
pub struct Wrong {
    /// The sector.
    pub lba: u64,
    /// The pass found in it.
    pub found: u32,
    /// The pass that a flush covered last.
    pub flushed: u32,
    /// Those acknowledged after it.
    pub acknowledged: Vec<u32>,
    /// One that is under way, or 0.
    pub under_way: u32,
    /// See [`Ledger::lost_until`].
    pub lost_until: u32,
}

/// The history of every sector. Passes are numbered from 1 in the order in which their writes began; a sector has one write
/// under way at a time.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    seed: u64,
    base: u64,
    pass: u32,
    /// By sector: what a flush covered last.
    flushed: Vec<u32>,
    /// By sector: what was acknowledged after it, in order.
    acknowledged: Vec<Vec<u32>>,
    /// By sector: what is under way, or 0.
    under_way: Vec<u32>,
    lost_until: u32,
}

impl Ledger {
    /// Of so many sectors of zeros.
    #[must_use]
    pub fn new(seed: u64, sectors: usize) -> Self {
        Self::at(seed, 0, sectors)
    }

    /// The same from sector `base` on.
    #[must_use]
    pub fn at(seed: u64, base: u64, sectors: usize) -> Self {
        Self {
            seed,
            base,
            pass: 0,
            flushed: vec![0; sectors],
            acknowledged: vec![Vec::new(); sectors],
            under_way: vec![0; sectors],
            lost_until: 0,
        }
    }

    /// The run's seed, which is part of what is written.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The first sector. What follows counts from it, unless it is called an LBA.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// How many sectors.
    #[must_use]
    pub fn sectors(&self) -> usize {
        self.flushed.len()
    }

    /// The latest pass.
    #[must_use]
    pub fn pass(&self) -> u32 {
        self.pass
    }

    /// A write is about to be sent; its pass.
    pub fn write_begins(&mut self, first: usize, count: usize) -> u32 {
        self.pass += 1;
        self.under_way[first..first + count].fill(self.pass);
        self.pass
    }

    /// It was not, after all.
    pub fn write_was_not_sent(&mut self, first: usize, count: usize) {
        self.under_way[first..first + count].fill(0);
    }

    /// It was acknowledged.
    pub fn write_ends(&mut self, first: usize, count: usize, pass: u32) {
        for sector in first..first + count {
            self.under_way[sector] = 0;
            self.acknowledged[sector].push(pass);
        }
    }

    /// A flush is about to be sent.
    #[must_use]
    pub fn flush_begins(&self) -> FlushMark {
        let last = |sector: usize| {
            let acknowledged = self.acknowledged[sector].last();
            acknowledged.copied().unwrap_or(self.flushed[sector])
        };
        FlushMark((0..self.sectors()).map(last).collect())
    }

    /// It succeeded.
    pub fn flush_ends(&mut self, mark: &FlushMark) {
        for (sector, covered) in mark.0.iter().enumerate() {
            let covered = (*covered).max(self.flushed[sector]);
            self.flushed[sector] = covered;
            self.acknowledged[sector].retain(|pass| *pass > covered);
        }
    }

    /// From now on passes up to this one may be gone, unless a flush covers them; 0: none may.
    pub fn lost_until(&mut self, pass: u32) {
        self.lost_until = pass;
    }

    /// The sectors with something acknowledged and not flushed, and what that is.
    #[must_use]
    pub fn unflushed(&self) -> Vec<(usize, u32)> {
        let sectors = self.acknowledged.iter().enumerate();
        sectors
            .filter_map(|(sector, passes)| passes.last().map(|pass| (sector, *pass)))
            .collect()
    }

    /// Whether a flush covers that pass of that sector by now.
    #[must_use]
    pub fn is_flushed(&self, sector: usize, pass: u32) -> bool {
        self.flushed[sector] >= pass
    }

    /// Checks `data`, whole sectors that begin at `lba`: nothing torn, nothing older than what must be there.
    ///
    /// # Errors
    /// The first sector that is not as it must be: [`Wrong`] or [`crate::data::BadSector`].
    pub fn check(&self, lba: u64, data: &[u8]) -> Result<()> {
        for (lba, sector) in (lba..).zip(data.chunks_exact(SECTOR_BYTES)) {
            self.check_pass(lba, pass_in(self.seed, lba, sector)?)?;
        }
        Ok(())
    }

    fn check_pass(&self, lba: u64, found: u32) -> Result<(), Wrong> {
        let sector = usize::try_from(lba - self.base).expect("sectors of a lab's disk");
        let (flushed, acknowledged) = (self.flushed[sector], &self.acknowledged[sector]);
        let under_way = self.under_way[sector];
        let last = acknowledged.last().copied().unwrap_or(flushed);
        let may_be_lost = last <= self.lost_until && last > flushed;
        let allowed = found == last
            || under_way > 0 && found == under_way
            || may_be_lost && (found == flushed || acknowledged.contains(&found));
        if allowed {
            return Ok(());
        }
        Err(Wrong {
            lba,
            found,
            flushed,
            acknowledged: acknowledged.clone(),
            under_way,
            lost_until: self.lost_until,
        })
    }

    /// Takes what was read of all sectors for what is there, when the loss has been taken note of; how many sectors had lost
    /// something acknowledged.
    ///
    /// # Errors
    /// As for [`Ledger::check`].
    pub fn settle(&mut self, data: &[u8]) -> Result<usize> {
        self.check(self.base, data)?;
        let mut lost = 0;
        let sectors = (self.base..).zip(data.chunks_exact(SECTOR_BYTES));
        for (place, (lba, sector)) in sectors.enumerate() {
            let found = pass_in(self.seed, lba, sector)?;
            let last = self.acknowledged[place].last();
            lost += usize::from(last.is_some_and(|last| *last != found));
            self.flushed[place] = found;
            self.acknowledged[place].clear();
        }
        self.lost_until = 0;
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Pattern;

    /// Sector 0: pass 1 flushed, 2 and 3 acknowledged, 4 under way.
    fn history() -> Ledger {
        let mut ledger = Ledger::new(9, 2);
        for pass in 1..=3 {
            assert_eq!(ledger.write_begins(0, 1), pass);
            ledger.write_ends(0, 1, pass);
            if pass == 1 {
                let mark = ledger.flush_begins();
                ledger.flush_ends(&mark);
            }
        }
        ledger.write_begins(0, 1);
        ledger
    }

    fn allowed(ledger: &Ledger) -> Vec<u32> {
        (0..6)
            .filter(|pass| ledger.check_pass(0, *pass).is_ok())
            .collect()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_or_what_is_under_way() {
        let mut ledger = history();
        assert_eq!(allowed(&ledger), [3, 4]);
        ledger.write_ends(0, 1, 4);
        assert_eq!(allowed(&ledger), [4]);
        assert_eq!(ledger.check_pass(1, 0), Ok(()));
        assert!(ledger.check_pass(1, 1).is_err());
    }

    #[test]
    fn where_it_may_be_lost_what_was_flushed_must_be_there() {
        let mut ledger = history();
        ledger.lost_until(4);
        assert_eq!(allowed(&ledger), [1, 2, 3, 4]);
        ledger.write_ends(0, 1, 4);
        let after = ledger.write_begins(0, 1);
        ledger.write_ends(0, 1, after);
        assert_eq!(allowed(&ledger), [5], "that was written after the loss");
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_was_sent() {
        let mut ledger = history();
        let mark = ledger.flush_begins();
        ledger.write_ends(0, 1, 4);
        ledger.flush_ends(&mark);
        ledger.lost_until(4);
        assert_eq!(allowed(&ledger), [3, 4]);
        assert_eq!(ledger.unflushed(), [(0, 4)]);
        assert!(ledger.is_flushed(0, 3) && !ledger.is_flushed(0, 4));
    }

    #[test]
    fn what_is_read_after_a_loss_is_what_must_be_there_from_then_on() {
        let mut ledger = history();
        ledger.write_ends(0, 1, 4);
        ledger.lost_until(4);
        let mut data = [0; 2 * SECTOR_BYTES];
        Pattern::new(9, 2).fill(0, &mut data[..SECTOR_BYTES]);
        assert_eq!(ledger.settle(&data).unwrap(), 1);
        assert_eq!(allowed(&ledger), [2]);
        // Torn, of another run, or in another place: never.
        let mut torn = data;
        torn[300] ^= 1;
        assert!(ledger.check(0, &torn).is_err());
        Pattern::new(8, 2).fill(0, &mut torn[..SECTOR_BYTES]);
        assert!(ledger.check(0, &torn).is_err());
        assert!(ledger.check(0, &data).is_ok());
    }
}
