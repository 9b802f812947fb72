//! A disk in memory whose operations end when the test says so.

use std::collections::VecDeque;

use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;

/// How a [`TestDisk`] ends operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Inline,
    /// When [`TestDisk::end`] or [`TestDisk::end_all`] says so.
    Held,
}

/// An operation that the disk has.
#[derive(Clone, Debug)]
pub struct Begun {
    pub io: IoId,
    pub kind: &'static str,
    pub lba: u64,
    pub sectors: u64,
    data: Vec<u8>,
}

pub struct TestDisk {
    pub memory: Vec<u8>,
    pub pace: Pace,
    pub durability: Durability,
    pub discards: bool,
    pub mark: u64,
    pub operations_max: u32,
    pub sectors_per_operation_max: u32,
    /// More operations at once are answered with `Busy`.
    pub room: usize,
    /// So many operations make it `Busy` until the next kick.
    pub per_kick: usize,
    since_kick: usize,
    /// So many operations end at once, whatever the pace.
    pub inline_left: usize,
    /// Reads and writes of this sector fail.
    pub bad: Option<u64>,
    /// Everything fails like this.
    pub error: Option<DiskError>,
    pub held: Vec<Begun>,
    pub done: VecDeque<(IoId, Result<(), DiskError>)>,
    pub kicks: usize,
    /// What was begun, in order.
    pub log: Vec<(&'static str, u64, u64)>,
    reads: Vec<Vec<u8>>,
    /// Which operations have begun and were not released.
    taken: Vec<bool>,
    pub timeout: Option<Instant>,
}

impl TestDisk {
    pub fn new(sectors: u64, pace: Pace) -> Self {
        Self {
            memory: vec![0; sectors as usize * SECTOR_BYTES],
            pace,
            durability: Durability::Flush,
            discards: true,
            mark: 0xa1a2,
            operations_max: 64,
            sectors_per_operation_max: 64,
            room: usize::MAX,
            per_kick: usize::MAX,
            since_kick: 0,
            inline_left: 0,
            bad: None,
            error: None,
            held: Vec::new(),
            done: VecDeque::new(),
            kicks: 0,
            log: Vec::new(),
            reads: vec![Vec::new(); 4096],
            taken: vec![false; 4096],
            timeout: None,
        }
    }

    pub fn taken(&self) -> usize {
        self.taken.iter().filter(|taken| **taken).count()
    }

    fn execute(&mut self, begun: &Begun) -> Result<(), DiskError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if let Some(bad) = self.bad
            && begun.kind != "flush"
            && (begun.lba..begun.lba + begun.sectors).contains(&bad)
        {
            return Err(DiskError::Medium { lba: bad });
        }
        let from = begun.lba as usize * SECTOR_BYTES;
        let len = begun.sectors as usize * SECTOR_BYTES;
        match begun.kind {
            "read" => {
                let data = self.memory[from..from + len].to_vec();
                self.reads[begun.io.0 as usize] = data;
            }
            "write" => self.memory[from..from + len].copy_from_slice(&begun.data),
            "trim" => self.memory[from..from + len].fill(0),
            _ => {}
        }
        Ok(())
    }

    /// Ends the held operation at `place`.
    pub fn end(&mut self, place: usize) {
        let begun = self.held.remove(place);
        let result = self.execute(&begun);
        self.done.push_back((begun.io, result));
    }

    pub fn end_all(&mut self) {
        while !self.held.is_empty() {
            self.end(0);
        }
    }
}

impl Backing for TestDisk {
    fn sectors(&self) -> u64 {
        (self.memory.len() / SECTOR_BYTES) as u64
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn loss_mark(&self) -> u64 {
        self.mark
    }

    fn discards(&self) -> bool {
        self.discards
    }

    fn operations_max(&self) -> u32 {
        self.operations_max
    }

    fn sectors_per_operation_max(&self) -> u32 {
        self.sectors_per_operation_max
    }

    fn start(&mut self, _: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        assert!(io.0 < self.operations_max, "ids are bounded");
        assert!(!self.taken[io.0 as usize], "a place is used once at a time");
        if self.held.len() + self.done.len() >= self.room || self.since_kick >= self.per_kick {
            return Started::Busy;
        }
        self.since_kick += 1;
        let (kind, lba, sectors, data) = match operation {
            DiskOperation::Read { lba, sectors } => ("read", lba.0, sectors.get(), vec![]),
            DiskOperation::Write { lba, sectors, data } => {
                ("write", lba.0, sectors.get(), data.concat())
            }
            DiskOperation::Flush => ("flush", 0, 0, vec![]),
            DiskOperation::Discard { lba, sectors } => ("trim", lba.0, sectors.get(), vec![]),
        };
        let sectors = u64::from(sectors);
        assert!(
            kind == "flush" || (1..=u64::from(self.sectors_per_operation_max)).contains(&sectors)
        );
        assert!(lba + sectors <= self.sectors(), "ranges were checked");
        if kind == "write" {
            assert_eq!(
                data.len(),
                sectors as usize * SECTOR_BYTES,
                "all of the data"
            );
        }
        for other in &self.held {
            let meet = other.lba < lba + sectors && lba < other.lba + other.sectors;
            let writes = |kind| kind == "write" || kind == "trim";
            assert!(
                !meet || !(writes(kind) || writes(other.kind)),
                "{kind} at {lba} while {} at {} is under way",
                other.kind,
                other.lba
            );
        }
        self.taken[io.0 as usize] = true;
        self.log.push((kind, lba, sectors));
        let begun = Begun {
            io,
            kind,
            lba,
            sectors,
            data,
        };
        match self.pace {
            Pace::Held if self.inline_left > 0 => {
                self.inline_left -= 1;
                Started::Done(self.execute(&begun))
            }
            Pace::Inline => Started::Done(self.execute(&begun)),
            Pace::Held => {
                self.held.push(begun);
                Started::Pending
            }
        }
    }

    fn poll_done(&mut self, _: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        self.done.pop_front()
    }

    fn data(&self, io: IoId) -> &[u8] {
        assert!(
            self.taken[io.0 as usize],
            "data of an operation that was released"
        );
        &self.reads[io.0 as usize]
    }

    fn release(&mut self, io: IoId) {
        assert!(self.taken[io.0 as usize], "released once");
        assert!(
            self.held.iter().all(|held| held.io != io),
            "released after its end"
        );
        self.taken[io.0 as usize] = false;
    }

    fn kick(&mut self, _: Instant) {
        self.kicks += 1;
        self.since_kick = 0;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }
}
