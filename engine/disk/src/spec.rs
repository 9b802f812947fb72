//! A disk as a configuration describes it, and the one type that is any of them.

use sandrail_memory::{ArenaError, HugePages};
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;

use crate::cached::CachedDisk;
use crate::counters::DiskCounters;
use crate::error::OpenError;
use crate::fault::{FaultControl, FaultDisk};
use crate::file::{FileDisk, FileSpec, Limits};
use crate::info::DiskInfo;
use crate::ram::RamDisk;

/// What a disk's sectors lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Memory: it is always [`Durability::Volatile`].
    Ram {
        /// How much, in bytes: whole sectors.
        bytes: u64,
        /// Whether it is asked for as hugepages.
        huge: HugePages,
    },
    /// A file or a block device.
    File(FileSpec),
}

/// What stands before a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The power-cut mode: see [`CachedDisk`].
    Cache {
        /// How much unflushed data it holds at the most, in bytes.
        bytes: u64,
    },
    /// Faults on demand: see [`FaultDisk`].
    Faults,
}

/// A disk to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// What its sectors lie on.
    pub medium: Medium,
    /// What writes and flushes promise, on a file.
    pub durability: Durability,
    /// Refuses writes and discards; several processes may then share a file.
    pub read_only: bool,
    /// How many operations, and how long ones.
    pub limits: Limits,
    /// What stands before the medium, the nearest to it first.
    pub layers: Vec<Layer>,
}

impl DiskSpec {
    /// A disk on `medium`, to be written, that flushes when it is told to.
    #[must_use]
    pub fn new(medium: Medium) -> Self {
        Self {
            medium,
            durability: Durability::Flush,
            read_only: false,
            limits: Limits::default(),
            layers: Vec::new(),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`OpenError`], which names the path and the reason.
    pub fn open(&self) -> Result<AnyDisk, OpenError> {
        self.limits.check()?;
        let mut disk = match &self.medium {
            Medium::Ram { bytes, huge } => self.open_ram(*bytes, *huge)?,
            Medium::File(file) => {
                let disk = FileDisk::open(file, self.durability, self.read_only, self.limits)?;
                AnyDisk::File(Box::new(disk))
            }
        };
        for layer in &self.layers {
            disk = match layer {
                Layer::Cache { bytes } => AnyDisk::Cached(Box::new(CachedDisk::new(disk, *bytes)?)),
                Layer::Faults => AnyDisk::Faulty(Box::new(FaultDisk::new(disk))),
            };
        }
        Ok(disk)
    }

    fn open_ram(&self, bytes: u64, huge: HugePages) -> Result<AnyDisk, OpenError> {
        let sector = SECTOR_BYTES as u64;
        if bytes == 0 || !bytes.is_multiple_of(sector) {
            let reason = format!(
                "{bytes} bytes of memory are not a whole number of {sector}-byte sectors, at least one"
            );
            return Err(OpenError::Limits { reason });
        }
        let memory = |source: ArenaError| OpenError::Memory {
            what: format!("a disk of {bytes} bytes of memory"),
            source,
        };
        let disk = RamDisk::new(bytes / sector, self.limits, self.read_only, huge);
        Ok(AnyDisk::Ram(Box::new(disk.map_err(memory)?)))
    }
}

/// Any disk. What a target is given, so that one machine serves memory and files alike.
#[derive(Debug)]
pub enum AnyDisk {
    /// In memory.
    Ram(Box<RamDisk>),
    /// On a file or a block device.
    File(Box<FileDisk>),
    /// With a cache before it that a loss of power empties.
    Cached(Box<CachedDisk<AnyDisk>>),
    /// With faults on demand.
    Faulty(Box<FaultDisk<AnyDisk>>),
}

/// The same call on whichever disk it is.
macro_rules! each {
    ($any:expr, $disk:ident => $call:expr) => {
        match $any {
            AnyDisk::Ram($disk) => $call,
            AnyDisk::File($disk) => $call,
            AnyDisk::Cached($disk) => $call,
            AnyDisk::Faulty($disk) => $call,
        }
    };
}

impl AnyDisk {
    /// What it became when it was opened.
    #[must_use]
    pub fn info(&self) -> DiskInfo {
        match self {
            Self::Ram(disk) => disk.info(),
            Self::File(disk) => disk.info().clone(),
            Self::Cached(disk) => disk.inner().info(),
            Self::Faulty(disk) => disk.inner().info(),
        }
    }

    /// What the medium did.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        match self {
            Self::Ram(disk) => disk.counters(),
            Self::File(disk) => disk.counters(),
            Self::Cached(disk) => disk.inner().counters(),
            Self::Faulty(disk) => disk.inner().counters(),
        }
    }

    /// The remote control of the outermost [`Layer::Faults`].
    #[must_use]
    pub fn faults(&self) -> Option<FaultControl> {
        match self {
            Self::Ram(_) | Self::File(_) => None,
            Self::Cached(disk) => disk.inner().faults(),
            Self::Faulty(disk) => Some(disk.control()),
        }
    }

    /// The outermost [`Layer::Cache`], to let it lose power.
    pub fn cache(&mut self) -> Option<&mut CachedDisk<AnyDisk>> {
        match self {
            Self::Ram(_) | Self::File(_) => None,
            Self::Cached(disk) => Some(disk),
            Self::Faulty(disk) => disk.inner_mut().cache(),
        }
    }

    /// Looks at the size now. True: it changed.
    pub fn refresh(&mut self) -> bool {
        match self {
            Self::Ram(_) => false,
            Self::File(disk) => disk.refresh(),
            Self::Cached(disk) => disk.inner_mut().refresh(),
            Self::Faulty(disk) => disk.inner_mut().refresh(),
        }
    }
}

impl Backing for AnyDisk {
    fn sectors(&self) -> u64 {
        each!(self, disk => disk.sectors())
    }

    fn durability(&self) -> Durability {
        each!(self, disk => disk.durability())
    }

    fn loss_mark(&self) -> u64 {
        each!(self, disk => disk.loss_mark())
    }

    fn discards(&self) -> bool {
        each!(self, disk => disk.discards())
    }

    fn operations_max(&self) -> u32 {
        each!(self, disk => disk.operations_max())
    }

    fn sectors_per_operation_max(&self) -> u32 {
        each!(self, disk => disk.sectors_per_operation_max())
    }

    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        each!(self, disk => disk.start(now, io, operation))
    }

    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        each!(self, disk => disk.poll_done(now))
    }

    fn data(&self, io: IoId) -> &[u8] {
        each!(self, disk => disk.data(io))
    }

    fn release(&mut self, io: IoId) {
        each!(self, disk => disk.release(io));
    }

    fn kick(&mut self, now: Instant) {
        each!(self, disk => disk.kick(now));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        each!(self, disk => disk.poll_timeout())
    }

    fn wait_fd(&self) -> Option<i32> {
        each!(self, disk => disk.wait_fd())
    }
}
