//! The real target machine over memory with a write cache.

use sandrail_node::clock;
use sandrail_proto::aoe::initiator::{InterfaceConfig, InterfaceId};
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::aoe::target::{
    Blade, BladeConfig, PersistentState, SessionRule, TargetConfig, TargetIndex,
};
use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;

use super::{ADDR, BLADE_MAC, MTU_BYTES};

const OPERATIONS: u32 = 256;

pub(crate) struct Cache {
    memory: Vec<u8>,
    durable: Vec<u8>,
    loss_mark: u64,
    reads: Vec<Vec<u8>>,
}

impl Cache {
    fn new(memory: Vec<u8>, loss_mark: u64) -> Self {
        let reads = (0..OPERATIONS).map(|_| Vec::new()).collect();
        let durable = memory.clone();
        Self {
            memory,
            durable,
            loss_mark,
            reads,
        }
    }
}

fn bytes(sectors: u32) -> usize {
    usize::try_from(sectors).unwrap() * SECTOR_BYTES
}

impl Backing for Cache {
    fn sectors(&self) -> u64 {
        u64::try_from(self.memory.len() / SECTOR_BYTES).unwrap()
    }
    fn durability(&self) -> Durability {
        Durability::Flush
    }
    fn loss_mark(&self) -> u64 {
        self.loss_mark
    }
    fn discards(&self) -> bool {
        false
    }
    fn operations_max(&self) -> u32 {
        OPERATIONS
    }
    fn sectors_per_operation_max(&self) -> u32 {
        64
    }
    fn start(&mut self, _: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        let at = |lba: sandrail_wire::Lba| usize::try_from(lba.0).unwrap() * SECTOR_BYTES;
        match operation {
            DiskOperation::Read { lba, sectors } => {
                let range = at(lba)..at(lba) + bytes(sectors.get());
                let place = usize::try_from(io.0).unwrap();
                self.reads[place] = self.memory[range].to_vec();
            }
            DiskOperation::Write { lba, data, .. } => {
                let data = data.concat();
                self.memory[at(lba)..at(lba) + data.len()].copy_from_slice(&data);
            }
            DiskOperation::Flush => self.durable.clone_from(&self.memory),
            DiskOperation::Discard { .. } => return Started::Done(Err(DiskError::NoSpace)),
        }
        Started::Done(Ok(()))
    }
    fn poll_done(&mut self, _: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        None
    }
    fn data(&self, io: IoId) -> &[u8] {
        &self.reads[usize::try_from(io.0).unwrap()]
    }
    fn release(&mut self, _: IoId) {}
    fn kick(&mut self, _: Instant) {}
}

/// The machine, with what outlives it.
pub(crate) struct Machine {
    blade: Blade<Cache>,
    kept: PersistentState,
}

fn start(cache: Cache, kept: &PersistentState) -> Blade<Cache> {
    let target = TargetConfig {
        persistent: kept.clone(),
        sessions: SessionRule::Required,
        ..TargetConfig::new(ADDR)
    };
    let interface = InterfaceConfig {
        mac: BLADE_MAC,
        mtu_bytes: MTU_BYTES,
        vlan: None,
    };
    let config = BladeConfig {
        duplicates_max: 1 << 12,
        ..BladeConfig::default()
    };
    Blade::new(config, &[interface], vec![(target, cache)], 1, clock::now()).unwrap()
}

impl Machine {
    pub(crate) fn new(sectors: usize) -> Self {
        let kept = PersistentState {
            session_next: 1,
            ..PersistentState::default()
        };
        let cache = Cache::new(vec![0; sectors * SECTOR_BYTES], 1);
        let blade = start(cache, &kept);
        let mut machine = Self { blade, kept };
        machine.settle();
        machine
    }

    /// Makes durable what is to be, and throws unasked-for frames away.
    fn settle(&mut self) {
        while let Some((target, id, state)) = self.blade.poll_persist() {
            self.kept = state;
            self.blade.handle_persisted(clock::now(), target, id, true);
        }
    }

    pub(crate) fn carry_out(&mut self, frame: &[u8], reply: &mut Vec<u8>) -> bool {
        let (now, wire) = (clock::now(), InterfaceId(0));
        // The wire may cut the frame in pieces; here it is whole.
        self.blade.handle_frame(now, wire, &FrameRef::new(frame));
        self.blade.handle_disks(now);
        self.settle();
        let mut answered = false;
        while let Some(sent) = self.blade.poll_transmit(now, wire) {
            if sent.header[..6] == [0xff; 6] {
                continue;
            }
            assert!(!answered, "one frame, one answer");
            reply.clear();
            reply.extend(sent.header);
            reply.extend(sent.payload);
            reply.resize(reply.len().max(60), 0);
            answered = true;
        }
        while self.blade.poll_event().is_some() {}
        answered
    }

    /// Starts anew; with `power`, without what was not flushed.
    pub(crate) fn restart(&mut self, power: bool) {
        let cache = self.blade.backing(TargetIndex(0)).unwrap();
        let cache = if power {
            Cache::new(cache.durable.clone(), cache.loss_mark + 1)
        } else {
            Cache {
                durable: cache.durable.clone(),
                ..Cache::new(cache.memory.clone(), cache.loss_mark)
            }
        };
        self.blade = start(cache, &self.kept);
        self.settle();
    }

    /// A sector as it would be after a failure of power.
    pub(crate) fn durable(&self, lba: usize) -> &[u8] {
        let cache = self.blade.backing(TargetIndex(0)).unwrap();
        &cache.durable[lba * SECTOR_BYTES..(lba + 1) * SECTOR_BYTES]
    }

    pub(crate) fn sessions(&self) -> usize {
        self.blade.target_status(TargetIndex(0)).unwrap().sessions
    }
}
