//! A node with threads, attached to a blade in memory, and requests for it.
#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandrail_memory::Buffer;
use sandrail_node::{Idle, Node, NodeConfig, Request, TargetHandle};
use sandrail_proto::aoe::initiator::{InitiatorConfig, Operation, PinnedMacs};
use sandrail_wire::Lba;

use crate::blade::{ADDR, Blade};

pub(crate) const SECTORS: usize = 64 << 10;
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) fn config() -> NodeConfig {
    NodeConfig {
        initiator: InitiatorConfig {
            // Retransmissions only where a test means them: the machine may be busy.
            rto_initial: Duration::from_millis(200),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_millis(400),
            frame_lifetime: Duration::from_millis(300),
            ..InitiatorConfig::default()
        },
        idle: Idle {
            spin_turns: 10,
            yield_turns: 10,
            sleep: true,
        },
        client_idle: Idle {
            spin_turns: 0,
            yield_turns: 2,
            sleep: true,
        },
        run_dir: None,
        ..NodeConfig::default()
    }
}

pub(crate) struct Bed {
    pub(crate) blade: Arc<Blade>,
    pub(crate) node: Node,
    pub(crate) target: TargetHandle,
}

pub(crate) fn bed_with(shards: usize, config: &NodeConfig) -> Bed {
    let blade = Blade::new(SECTORS);
    let links = (0..shards).map(|_| vec![blade.link()]).collect();
    let node = Node::start(config, links).unwrap();
    let target = node
        .attach(ADDR, PinnedMacs::first_to_answer(), SOON)
        .unwrap();
    Bed {
        blade,
        node,
        target,
    }
}

pub(crate) fn bed(shards: usize) -> Bed {
    bed_with(shards, &config())
}

pub(crate) fn pattern(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len_bytes).map(|_| random.u8(..)).collect()
}

pub(crate) fn read(target: TargetHandle, lba: u64, buffer: Buffer) -> Request {
    Request {
        target,
        operation: Operation::Read { lba: Lba(lba) },
        buffer,
        timeout: SOON,
        user: lba,
    }
}

pub(crate) fn flush(target: TargetHandle) -> Request {
    Request {
        target,
        operation: Operation::Flush,
        buffer: Buffer::empty(),
        timeout: SOON,
        user: 77,
    }
}

/// Waits for something that another thread does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
