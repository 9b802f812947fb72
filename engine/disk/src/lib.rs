//! Disks behind a target: memory, files and block devices through io_uring, and two that stand before them for tests and
//! drills.
//!
//! | | |
//! |---|---|
//! | [`RamDisk`] | sectors in memory, over as soon as they begin |
//! | [`FileDisk`] | a file, a block device, or a range of one |
//! | [`CachedDisk`] | before another: loses what was not flushed, as a loss of power does |
//! | [`FaultDisk`] | before another: fails, delays and holds what it is told to |
//! | [`AnyDisk`] | whichever of them a [`DiskSpec`] describes |
//!
//! All are [`Backing`](sandrail_proto::aoe::target::backing::Backing)s: driven from one thread, nothing blocks, nothing is
//! allocated after the start.

mod cached;
mod counters;
mod error;
mod fault;
mod file;
mod info;
mod memory;
mod ram;
mod spec;
mod system;

pub use cached::{CachedDisk, CrashReport, Survivors};
pub use counters::DiskCounters;
pub use error::OpenError;
pub use fault::{Delay, FaultControl, FaultCounts, FaultDisk, HELD_MAX, Strikes};
pub use file::{Direct, FileDisk, FileSpec, LOST_FOLDER, Limits};
pub use info::DiskInfo;
pub use ram::RamDisk;
pub use spec::{AnyDisk, DiskSpec, Layer, Medium};
