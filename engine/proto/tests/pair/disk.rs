//! A disk with a write cache: operations take their time, and a failure of power takes what was not flushed.

use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;

use super::ms;

enum Work {
    Read { lba: usize, sectors: usize },
    Write { lba: usize, data: Vec<u8> },
    Flush,
}

/// What of a disk outlives its process.
#[derive(Clone)]
pub struct Medium {
    pub memory: Vec<u8>,
    pub durable: Vec<u8>,
    pub loss_mark: u64,
}

impl Medium {
    pub fn new(sectors: u64) -> Self {
        let bytes = vec![0; sectors as usize * SECTOR_BYTES];
        Self {
            memory: bytes.clone(),
            durable: bytes,
            loss_mark: 1,
        }
    }
}

/// The version that a sector holds; 0: none was written.
pub fn version_in(bytes: &[u8], lba: u64) -> u64 {
    let at = lba as usize * SECTOR_BYTES;
    let sector = &bytes[at..at + SECTOR_BYTES];
    let version = u64::from_be_bytes(sector[..8].try_into().unwrap());
    assert!(version == 0 || *sector == content(lba, version), "torn");
    version
}

/// A sector's content as this version.
pub fn content(lba: u64, version: u64) -> [u8; SECTOR_BYTES] {
    let mut sector = [version as u8; SECTOR_BYTES];
    sector[..8].copy_from_slice(&version.to_be_bytes());
    sector[8..16].copy_from_slice(&lba.to_be_bytes());
    sector[504..].copy_from_slice(&version.to_be_bytes());
    sector
}

pub struct CachedDisk {
    pub medium: Medium,
    works: Vec<(Instant, IoId, Work)>,
    reads: Vec<Vec<u8>>,
    pub slowest_ms: u64,
    rng: fastrand::Rng,
}

impl CachedDisk {
    pub fn new(medium: Medium, slowest_ms: u64, seed: u64) -> Self {
        Self {
            medium,
            works: Vec::new(),
            reads: vec![Vec::new(); 256],
            slowest_ms,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    fn carry_out(&mut self, io: IoId, work: Work) {
        let medium = &mut self.medium;
        match work {
            Work::Read { lba, sectors } => {
                let at = lba * SECTOR_BYTES;
                self.reads[io.0 as usize] = medium.memory[at..at + sectors * SECTOR_BYTES].to_vec();
            }
            Work::Write { lba, data } => {
                let at = lba * SECTOR_BYTES;
                medium.memory[at..at + data.len()].copy_from_slice(&data);
            }
            Work::Flush => medium.durable.clone_from(&medium.memory),
        }
    }

    /// The process ends: writes under way have happened, or not. What is left; with `power`, some of it is lost.
    pub fn end(mut self, power: bool) -> Medium {
        for (_, io, work) in core::mem::take(&mut self.works) {
            if matches!(work, Work::Write { .. }) && self.rng.bool() {
                self.carry_out(io, work);
            }
        }
        let medium = &mut self.medium;
        if power {
            medium.loss_mark += 1;
            let sectors = medium.memory.chunks_mut(SECTOR_BYTES);
            for (cached, kept) in sectors.zip(medium.durable.chunks_mut(SECTOR_BYTES)) {
                if self.rng.bool() {
                    kept.copy_from_slice(cached);
                } else {
                    cached.copy_from_slice(kept);
                }
            }
        }
        self.medium
    }
}

impl Backing for CachedDisk {
    fn sectors(&self) -> u64 {
        (self.medium.memory.len() / SECTOR_BYTES) as u64
    }
    fn durability(&self) -> Durability {
        Durability::Flush
    }
    fn loss_mark(&self) -> u64 {
        self.medium.loss_mark
    }
    fn discards(&self) -> bool {
        false
    }
    fn operations_max(&self) -> u32 {
        256
    }
    fn sectors_per_operation_max(&self) -> u32 {
        64
    }
    fn start(&mut self, now: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        let work = match operation {
            DiskOperation::Read { lba, sectors } => Work::Read {
                lba: lba.0 as usize,
                sectors: sectors.get() as usize,
            },
            DiskOperation::Write { lba, data, .. } => Work::Write {
                lba: lba.0 as usize,
                data: data.concat(),
            },
            DiskOperation::Flush => Work::Flush,
            DiskOperation::Discard { .. } => return Started::Done(Err(DiskError::NoSpace)),
        };
        if self.slowest_ms == 0 {
            self.carry_out(io, work);
            return Started::Done(Ok(()));
        }
        let most = match work {
            Work::Flush => self.slowest_ms * 10,
            _ => self.slowest_ms,
        };
        let at = now + ms(self.rng.u64(..=most));
        self.works.push((at, io, work));
        Started::Pending
    }
    fn poll_done(&mut self, now: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        let place = self.works.iter().position(|(at, ..)| *at <= now)?;
        let (_, io, work) = self.works.remove(place);
        self.carry_out(io, work);
        Some((io, Ok(())))
    }
    fn data(&self, io: IoId) -> &[u8] {
        &self.reads[io.0 as usize]
    }
    fn release(&mut self, _: IoId) {}
    fn kick(&mut self, _: Instant) {}
    fn poll_timeout(&self) -> Option<Instant> {
        self.works.iter().map(|(at, ..)| *at).min()
    }
}
