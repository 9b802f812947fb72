//! A file or a block device through io_uring.
//!
//! # Which way data take
//!
//! All I/O of a disk goes one way: past the page cache (`O_DIRECT`) when the file system or device takes single 512-byte
//! sectors directly, through it otherwise. There is no mixture. A file that is written both ways at once stays coherent only
//! as far as each file system takes care of it, and where two writes share a page, writing the page back would undo the
//! direct one. [`DiskInfo`] says which way it became and why. For the same reason the lock reaches to page boundaries.
//!
//! # What FLUSH promises
//!
//! `fdatasync` covers every write that had ended when the flush began; `fsync` once after the file's size changed. When one
//! fails, nobody can say which of the acknowledged writes are lost: the kernel marks pages clean after a failed write-back and
//! reports the error once. So one failed flush makes all later ones fail until the disk is opened anew, and the loss mark changes
//! for good (S7): a note in [`LOST_FOLDER`] keeps it changed over restarts of the process. One flush is under way at a time, for
//! the same reason. It is so for all disks of this process on the same file or device, since what they wrote went into the same
//! cache, and only one of them is told. A disk whose flush does nothing, because it writes through or not at all, syncs what an earlier one may have
//! left when it is opened.
//!
//! # Who else writes
//!
//! The lock belongs to the open file description, which the ring refers to as long as it has requests under way. So a process
//! that is killed keeps the lock until the kernel is through with its last write, and the next one to open the file can't be
//! overtaken by it.

use std::time::Duration;

use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;

use crate::counters::DiskCounters;
use crate::error::OpenError;
use crate::info::DiskInfo;
use crate::memory::{Slots, bytes_of};
use crate::system::{self, Identity};

mod mark;
mod open;
mod ring;
mod slots;
mod table;

pub use mark::LOST_FOLDER;
pub use open::{Direct, FileSpec};

use mark::Mark;
use open::{Opened, PAGE};
use ring::Ring;
use table::{Kind, Outcome, Table};

const SECTOR: u64 = SECTOR_BYTES as u64;
/// How often the file's size is looked at while the disk is in use.
const SIZE_CHECK: Duration = Duration::from_millis(500);
/// When to try again what the kernel had no room for.
const RETRY: Duration = Duration::from_millis(1);
/// How long the end waits for requests under way before it gives their memory up for lost.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// How many operations, and how long ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations under way at once, 1 to 4096.
    pub operations_max: u32,
    /// Sectors of one read or write, 1 to 2048. Discards may be longer.
    pub sectors_per_operation_max: u32,
}

impl Default for Limits {
    /// 256 operations of 32 sectors: an initiator's 128 and as many of others, frames of up to 16 KiB, 4 MiB of memory.
    fn default() -> Self {
        Self {
            operations_max: 256,
            sectors_per_operation_max: 32,
        }
    }
}

impl Limits {
    /// Refuses limits outside their ranges.
    ///
    /// # Errors
    /// [`OpenError::Limits`] that names the one.
    pub fn check(&self) -> Result<(), OpenError> {
        let reason = if !(1..=4096).contains(&self.operations_max) {
            format!(
                "{} operations at once: 1 to 4096 can be",
                self.operations_max
            )
        } else if !(1..=2048).contains(&self.sectors_per_operation_max) {
            format!(
                "{} sectors an operation: 1 to 2048 can be",
                self.sectors_per_operation_max
            )
        } else {
            return Ok(());
        };
        Err(OpenError::Limits { reason })
    }
}

/// A disk on a file, a block device, or a range of one.
pub struct FileDisk {
    opened: Opened,
    /// Where the disk begins and how long it was asked to be, in bytes.
    offset: u64,
    length: Option<u64>,
    ring: Ring,
    /// Given up (leaked) rather than freed when requests on it can't be waited for.
    slots: std::mem::ManuallyDrop<Slots>,
    table: Table,
    limits: Limits,
    durability: Durability,
    read_only: bool,
    loss_mark: Mark,
    sectors: u64,
    size_check_due: Instant,
    /// The next flush has a new size to make durable.
    size_changed: bool,
    now: Instant,
    info: DiskInfo,
    counters: DiskCounters,
}

impl FileDisk {
    /// Opens and locks the file, and maps what the operations need.
    ///
    /// # Errors
    /// [`OpenError`], which names the path and the reason.
    pub fn open(
        spec: &FileSpec,
        durability: Durability,
        read_only: bool,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        limits.check()?;
        let opened = open::open(spec, read_only)?;
        let slot_bytes = bytes_of(u64::from(limits.sectors_per_operation_max));
        let count = usize::try_from(limits.operations_max).unwrap_or(usize::MAX);
        let (slots, made_of) =
            Slots::new(count, slot_bytes, HugePages::Prefer).map_err(|source| {
                OpenError::Memory {
                    what: format!("buffers of {}", spec.path.display()),
                    source,
                }
            })?;
        let write_through = durability == Durability::WriteThrough;
        let ring = Ring::new(limits.operations_max, &opened.file, &slots, write_through).map_err(
            |source| OpenError::Ring {
                path: spec.path.clone(),
                source,
            },
        )?;
        let info = DiskInfo::of_file(&spec.path, &opened.direct, ring.registered(), &made_of);
        let mut counters = DiskCounters::default();
        let loss_mark = match durability {
            Durability::Volatile => Mark::random(),
            Durability::Flush | Durability::WriteThrough => {
                Mark::of(&opened.identity, spec.offset_bytes, spec.length_bytes)
            }
        };
        // What a former life of the disk acknowledged is made durable by the next flush, which does nothing here.
        let never_syncs =
            durability == Durability::WriteThrough || durability == Durability::Flush && read_only;
        if never_syncs && let Err(error) = opened.file.sync_all() {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            counters.losses_not_noted += u64::from(!loss_mark.change(errno));
        }
        let mut disk = Self {
            offset: spec.offset_bytes,
            length: spec.length_bytes,
            ring,
            slots: std::mem::ManuallyDrop::new(slots),
            table: Table::new(limits.operations_max, spec.offset_bytes),
            limits,
            durability,
            read_only,
            loss_mark,
            sectors: 0,
            size_check_due: Instant::ZERO,
            size_changed: false,
            now: Instant::ZERO,
            info,
            counters,
            opened,
        };
        disk.sectors = disk.sectors_of(disk.opened.size_bytes);
        Ok(disk)
    }

    /// What the disk became: which way data take, and what its memory is made of.
    #[must_use]
    pub fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// What was done.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.counters
    }

    /// Looks at the file's size now instead of within half a second of use. True: it changed.
    pub fn refresh(&mut self) -> bool {
        // A device that does not answer keeps the size it had; its reads and writes will tell.
        let size = system::size_bytes(&self.opened.file, self.opened.is_block);
        let Some(size) = size.ok().filter(|size| *size != self.opened.size_bytes) else {
            return false;
        };
        self.opened.size_bytes = size;
        self.size_changed = true;
        self.counters.resizes += 1;
        let sectors = self.sectors_of(size);
        std::mem::replace(&mut self.sectors, sectors) != sectors
    }

    fn sectors_of(&self, size_bytes: u64) -> u64 {
        let there = size_bytes.saturating_sub(self.offset);
        self.length.map_or(there, |length| length.min(there)) / SECTOR
    }

    /// Bytes in the file of sectors of the disk; an error names the first that is none of them.
    fn place(&self, lba: u64, sectors: u32) -> Result<(u64, u64), DiskError> {
        let end = lba.checked_add(u64::from(sectors));
        if end.is_none_or(|end| end > self.sectors) {
            let lba = lba.max(self.sectors);
            return Err(DiskError::Medium { lba });
        }
        Ok((self.offset + lba * SECTOR, u64::from(sectors) * SECTOR))
    }

    /// As [`FileDisk::place`], for data, which have to fit a slot.
    fn place_of_data(&self, lba: u64, sectors: u32) -> Result<(u64, u64), DiskError> {
        if sectors > self.limits.sectors_per_operation_max {
            return Err(DiskError::Device {
                errno: libc::EINVAL,
            });
        }
        self.place(lba, sectors)
    }

    fn refuse_if_read_only(&self) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::Device { errno: libc::EROFS });
        }
        Ok(())
    }

    /// Begins an operation; `true`: the kernel has to do with it.
    fn begin(&mut self, io: u32, operation: &DiskOperation<'_>) -> Result<bool, DiskError> {
        match *operation {
            DiskOperation::Read { lba, sectors } => {
                let (offset, len) = self.place_of_data(lba.0, sectors.get())?;
                self.table.queue(io, Kind::Read, offset, len);
                self.counters.reads += 1;
                self.counters.read_bytes += len;
            }
            DiskOperation::Write { lba, sectors, data } => {
                let (offset, len) = self.place_of_data(lba.0, sectors.get())?;
                self.refuse_if_read_only()?;
                self.copy_in(io, len, data)?;
                self.table.queue(io, Kind::Write, offset, len);
                self.counters.writes += 1;
                self.counters.write_bytes += len;
            }
            DiskOperation::Flush => {
                self.counters.flushes += 1;
                if self.durability != Durability::Flush || self.read_only {
                    return Ok(false);
                }
                if let Some(errno) = self.loss_mark.failure() {
                    return Err(DiskError::Device { errno });
                }
                self.table.queue(io, Kind::Flush, 0, 0);
            }
            DiskOperation::Discard { lba, sectors } => {
                let (offset, len) = self.place(lba.0, sectors.get())?;
                self.refuse_if_read_only()?;
                self.counters.discards += 1;
                // Whole pages only: a part of one would be zeroed in the page cache, and written back later.
                let start = offset.next_multiple_of(PAGE);
                let end = (offset + len) / PAGE * PAGE;
                if start >= end || !self.opened.discards {
                    return Ok(false);
                }
                self.table.queue(io, Kind::Discard, start, end - start);
            }
        }
        Ok(true)
    }

    fn locked(&self) -> (u64, u64) {
        self.opened.locked
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(errno) = outcome.flush_failed {
            self.counters.losses_not_noted += u64::from(!self.loss_mark.change(errno));
        }
        if outcome.ended_early {
            self.size_check_due = Instant::ZERO;
        }
        self.opened.discards &= !outcome.no_discard;
    }

    /// Takes in what the kernel has completed.
    fn reap(&mut self) {
        while let Some((head, result)) = self.ring.reap() {
            let outcome = self.table.complete(head, result, &mut self.counters);
            self.settle(outcome);
        }
    }

    fn submit(&mut self) {
        self.counters.enters += 1;
        self.ring.submit();
    }
}

impl std::fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDisk")
            .field("info", &self.info)
            .field("sectors", &self.sectors)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Backing for FileDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn loss_mark(&self) -> u64 {
        self.loss_mark.get()
    }

    fn discards(&self) -> bool {
        self.opened.discards
    }

    fn operations_max(&self) -> u32 {
        self.limits.operations_max
    }

    fn sectors_per_operation_max(&self) -> u32 {
        self.limits.sectors_per_operation_max
    }

    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        self.now = now;
        match self.begin(io.0, &operation) {
            Ok(true) => Started::Pending,
            Ok(false) => Started::Done(Ok(())),
            Err(error) => {
                self.counters.failed += 1;
                Started::Done(Err(error))
            }
        }
    }

    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        self.now = now;
        let mut ended = self.table.next_ended();
        if ended.is_none() {
            self.reap();
            ended = self.table.next_ended();
        }
        let (io, mut result) = ended?;
        if result.is_ok()
            && self.table.is_flush(io)
            && let Some(errno) = self.loss_mark.failure()
        {
            // Another disk on the file was told meanwhile of what this flush was to make durable as well.
            self.counters.failed += 1;
            result = Err(DiskError::Device { errno });
        }
        Some((IoId(io), result))
    }

    fn data(&self, io: IoId) -> &[u8] {
        self.read_data(io.0)
    }

    fn release(&mut self, io: IoId) {
        self.table.release(io.0);
    }

    fn kick(&mut self, now: Instant) {
        self.now = now;
        if now >= self.size_check_due {
            self.size_check_due = now + SIZE_CHECK;
            self.refresh();
        }
        let backlog = self.ring.has_backlog();
        if !backlog && !self.table.has_queued() {
            return;
        }
        if backlog {
            // What is queued has to wait: the ring has room for each operation once, and rows of pieces as well.
            self.submit();
            if self.ring.has_backlog() {
                return;
            }
        }
        if self.table.has_queued() {
            self.table.plan(&mut self.counters);
            self.counters.requests += self.table.requests().len() as u64;
            self.push();
            self.submit();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.table.has_queued() || self.ring.has_backlog();
        waits.then(|| self.now + RETRY)
    }

    fn wait_fd(&self) -> Option<i32> {
        Some(self.ring.fd())
    }
}
