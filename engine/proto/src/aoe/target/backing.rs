//! The seam to what a target's sectors lie on.
//!
//! [`Backing`] is to a target what a link is to the network: memory, files and block devices implement it in
//! `engine/disk`, the simulator has one that loses what was not flushed. The machine decides *whether* and *when* an
//! operation runs; a backing only runs it.

use core::num::NonZeroU32;

use sandrail_wire::Lba;

use crate::time::Instant;

/// Bytes of a sector, the unit of every address and length here.
pub const SECTOR_BYTES: usize = 512;

/// An operation under way, by its place in the target's table: below [`Backing::operations_max`]. A place is used again once
/// the operation was [released](Backing::release).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u32);

/// Data of a write as they lie in receive memory: up to four pieces in order, together exactly the sectors' bytes.
pub type Pieces<'a> = &'a [&'a [u8]];

/// What a backing is asked to do.
#[derive(Clone, Copy, Debug)]
pub enum DiskOperation<'a> {
    /// Makes `sectors` from `lba` on readable through [`Backing::data`].
    Read {
        /// First sector.
        lba: Lba,
        /// How many.
        sectors: NonZeroU32,
    },
    /// Writes `data`, which are copied before `start` returns.
    Write {
        /// First sector.
        lba: Lba,
        /// How many.
        sectors: NonZeroU32,
        /// Their bytes.
        data: Pieces<'a>,
    },
    /// Makes every write that was reported done before this call durable, as far as [`Backing::durability`] promises.
    Flush,
    /// The sectors' content is of no use any more; they read as zeros or as before.
    Discard {
        /// First sector.
        lba: Lba,
        /// How many.
        sectors: NonZeroU32,
    },
}

/// How an operation began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It is over: there will be no [`Backing::poll_done`] for it.
    Done(Result<(), DiskError>),
    /// Its end is told by [`Backing::poll_done`].
    Pending,
    /// No room: nothing was begun, and the same operation is welcome after a `poll_done` or a later `kick`.
    Busy,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The medium can't give or take these sectors: a bad sector, or a fault asked for.
    #[error("medium error at sector {lba}")]
    Medium {
        /// The first sector that failed.
        lba: u64,
    },
    /// No space is left for them.
    #[error("no space left")]
    NoSpace,
    /// The device is gone, read-only, or fails in another way: the operating system's error number.
    #[error("the device fails (errno {errno})")]
    Device {
        /// The number.
        errno: i32,
    },
}

/// What an answer to a WRITE promises, and what FLUSH adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing: data last as long as the process or the machine does, and FLUSH adds nothing.
    Volatile,
    /// An acknowledged write survives the process's kill, a flushed one the machine's.
    Flush,
    /// An acknowledged write survives the machine's end; FLUSH has nothing left to do.
    WriteThrough,
}

/// Sectors that a target serves. All calls come from one thread, none blocks, none allocates after the start.
pub trait Backing {
    /// Size in sectors. May grow or shrink while the target runs; the target looks at it with each turn.
    fn sectors(&self) -> u64;

    /// What writes and flushes promise.
    fn durability(&self) -> Durability;

    /// Names the state of unflushed writes: as long as the number stays the same over a restart, no acknowledged write was
    /// lost. A backing whose acknowledged writes outlive the process derives it from the machine's boot and the file, one that
    /// loses them draws it anew with each start (S7).
    fn loss_mark(&self) -> u64;

    /// Whether [`DiskOperation::Discard`] does anything.
    fn discards(&self) -> bool;

    /// Operations that may be under way: ids are below it.
    fn operations_max(&self) -> u32;

    /// The most sectors of one operation.
    fn sectors_per_operation_max(&self) -> u32;

    /// Begins an operation. Ranges have been checked against [`Backing::sectors`], and no overlapping write is under way.
    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started;

    /// An operation that was [`Started::Pending`] and is over now.
    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)>;

    /// The bytes of a READ that ended well, until its release.
    fn data(&self, io: IoId) -> &[u8];

    /// The place may be used again. Called once for each operation that began, after its end.
    fn release(&mut self, io: IoId);

    /// Ends a turn: hands what was begun to the operating system, neighbours merged, with one system call for all of it.
    fn kick(&mut self, now: Instant);

    /// When this backing wants another turn though nothing arrives (a slow disk asked for); `None`: never.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// A descriptor that poll(2) finds readable when operations end; `None` where there is nothing to wait on.
    fn wait_fd(&self) -> Option<i32> {
        None
    }
}
