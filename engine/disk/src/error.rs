//! Why a disk can't be opened.

use std::io;
use std::path::PathBuf;

use sandrail_memory::ArenaError;

/// Why there is no disk. Every message names the path.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refuses a step.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Its word.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("{path}: is {what}, not a regular file or a block device", path = path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Offset and length don't fit the file, or are not whole sectors.
    #[error("{path}: {reason}", path = path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// Somebody serves the file, or a part of it that this range overlaps.
    #[error("{path}: another process, or another disk of this one, has it locked: {holders}", path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who it could be, in words.
        holders: String,
    },
    /// The kernel uses the device.
    #[error("{path}: the device is in use (mounted, swap, part of a RAID or LVM volume, or open exclusively)", path = path.display())]
    InUse {
        /// The device.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// Direct I/O was insisted on.
    #[error("{path}: no direct I/O: {reason}", path = path.display())]
    Direct {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// There is no ring.
    #[error("{path}: io_uring does not work here: {source}", path = path.display())]
    Ring {
        /// The file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// Memory can't be had.
    #[error("{what}: {source}")]
    Memory {
        /// Whose.
        what: String,
        /// Why not.
        source: ArenaError,
    },
    /// Limits that make no disk.
    #[error("{reason}")]
    Limits {
        /// Which, in words.
        reason: String,
    },
}
