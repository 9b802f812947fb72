//! Sectors in memory.

use std::collections::VecDeque;

use sandrail_memory::{ArenaError, HugePages};
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;

use crate::counters::DiskCounters;
use crate::file::Limits;
use crate::info::DiskInfo;
use crate::memory::{Memory, bytes_of};
use crate::system::random_u64;

/// Bytes that one turn makes zero at most: some tens of microseconds. A TRIM may be of gigabytes, and nothing else goes on
/// in the meantime.
const ZEROED_BYTES_PER_TURN: usize = 1 << 20;

/// A disk in memory, of hugepages where the machine has them. Every operation is over when it began, but for discards that
/// go beyond what a turn has time for; and what is read is not copied: [`Backing::data`] is a slice of the memory itself, so
/// a write that begins between a read's end and its release shows in it.
#[derive(Debug)]
pub struct RamDisk {
    memory: Memory,
    made_of: sandrail_memory::Backing,
    read_only: bool,
    sectors_max: u32,
    loss_mark: u64,
    /// Of each read that was not released: where its bytes begin and how many they are.
    reads: Vec<(usize, usize)>,
    /// Discards under way: the operation, where its next byte is, and how many are left.
    discards: VecDeque<(IoId, usize, usize)>,
    /// Bytes that this turn may still make zero.
    zeroes_left: usize,
    now: Instant,
    counters: DiskCounters,
}

impl RamDisk {
    /// Zeroed memory of `sectors`, every page of it present.
    ///
    /// # Errors
    /// [`ArenaError`] when it can't be had, or `sectors` is zero.
    pub fn new(
        sectors: u64,
        limits: Limits,
        read_only: bool,
        huge: HugePages,
    ) -> Result<Self, ArenaError> {
        let (memory, made_of) = Memory::new(bytes_of(sectors), huge)?;
        let operations = usize::try_from(limits.operations_max).unwrap_or(usize::MAX);
        Ok(Self {
            memory,
            made_of,
            read_only,
            sectors_max: limits.sectors_per_operation_max,
            loss_mark: random_u64(),
            reads: vec![(0, 0); operations],
            discards: VecDeque::with_capacity(operations),
            zeroes_left: ZEROED_BYTES_PER_TURN,
            now: Instant::ZERO,
            counters: DiskCounters::default(),
        })
    }

    /// What the disk became: above all what its memory is made of.
    #[must_use]
    pub fn info(&self) -> DiskInfo {
        DiskInfo::of_ram(self.sectors(), &self.made_of)
    }

    /// What was done.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.counters
    }

    /// Where sectors lie in memory; an error names the first that is none of the disk's.
    fn place(&self, lba: u64, sectors: u32) -> Result<(usize, usize), DiskError> {
        let all = self.sectors();
        let end = lba.saturating_add(u64::from(sectors));
        if end > all {
            return Err(DiskError::Medium { lba: lba.max(all) });
        }
        Ok((bytes_of(lba), bytes_of(u64::from(sectors))))
    }

    /// As [`RamDisk::place`], for data, whose length is limited: a copy takes its time.
    fn place_of_data(&self, lba: u64, sectors: u32) -> Result<(usize, usize), DiskError> {
        if sectors > self.sectors_max {
            return Err(DiskError::Device {
                errno: libc::EINVAL,
            });
        }
        self.place(lba, sectors)
    }

    /// Does an operation, or begins it; `true`: it is over.
    fn run(&mut self, io: IoId, operation: &DiskOperation<'_>) -> Result<bool, DiskError> {
        match *operation {
            DiskOperation::Read { lba, sectors } => {
                let place = self.place_of_data(lba.0, sectors.get())?;
                self.reads[slot(io)] = place;
                self.counters.reads += 1;
                self.counters.read_bytes += u64::from(sectors.get()) * SECTOR_BYTES as u64;
                Ok(true)
            }
            DiskOperation::Write { lba, sectors, data } => {
                let (start, len) = self.place_of_data(lba.0, sectors.get())?;
                self.refuse_if_read_only()?;
                let mut to = &mut self.memory.bytes_mut()[start..start + len];
                for piece in data {
                    let (head, tail) =
                        to.split_at_mut_checked(piece.len())
                            .ok_or(DiskError::Device {
                                errno: libc::EINVAL,
                            })?;
                    head.copy_from_slice(piece);
                    to = tail;
                }
                self.counters.writes += 1;
                self.counters.write_bytes += len as u64;
                Ok(true)
            }
            DiskOperation::Flush => {
                self.counters.flushes += 1;
                Ok(true)
            }
            DiskOperation::Discard { lba, sectors } => {
                let (start, len) = self.place(lba.0, sectors.get())?;
                self.refuse_if_read_only()?;
                self.counters.discards += 1;
                self.discards.push_back((io, start, len));
                // One at a time: whoever came first is through first.
                Ok(self.discards.len() == 1 && self.zero_on().is_some())
            }
        }
    }

    /// Makes bytes of the first discard zero, as many as this turn has time for; the discard if that was all of it.
    fn zero_on(&mut self) -> Option<IoId> {
        let (io, start, left) = self.discards.front_mut()?;
        let (io, from, len) = (*io, *start, self.zeroes_left.min(*left));
        *start += len;
        *left -= len;
        let is_over = *left == 0;
        self.zeroes_left -= len;
        self.memory.bytes_mut()[from..from + len].fill(0);
        if is_over {
            self.discards.pop_front();
        }
        is_over.then_some(io)
    }

    fn refuse_if_read_only(&self) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::Device { errno: libc::EROFS });
        }
        Ok(())
    }
}

impl Backing for RamDisk {
    fn sectors(&self) -> u64 {
        (self.memory.bytes().len() / SECTOR_BYTES) as u64
    }

    fn durability(&self) -> Durability {
        Durability::Volatile
    }

    fn loss_mark(&self) -> u64 {
        self.loss_mark
    }

    fn discards(&self) -> bool {
        !self.read_only
    }

    fn operations_max(&self) -> u32 {
        u32::try_from(self.reads.len()).unwrap_or(u32::MAX)
    }

    fn sectors_per_operation_max(&self) -> u32 {
        self.sectors_max
    }

    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        self.now = now;
        match self.run(io, &operation) {
            Ok(true) => Started::Done(Ok(())),
            Ok(false) => Started::Pending,
            Err(error) => {
                self.counters.failed += 1;
                Started::Done(Err(error))
            }
        }
    }

    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        self.now = now;
        self.zero_on().map(|io| (io, Ok(())))
    }

    fn data(&self, io: IoId) -> &[u8] {
        let (start, len) = self.reads[slot(io)];
        &self.memory.bytes()[start..start + len]
    }

    fn release(&mut self, io: IoId) {
        self.reads[slot(io)] = (0, 0);
    }

    fn kick(&mut self, now: Instant) {
        self.now = now;
        self.zeroes_left = ZEROED_BYTES_PER_TURN;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // There is no end to wait for: what is left wants the next turn.
        (!self.discards.is_empty()).then_some(self.now)
    }
}

fn slot(io: IoId) -> usize {
    usize::try_from(io.0).unwrap_or(usize::MAX)
}
