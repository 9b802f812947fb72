//! Scenarios: a seed determines a cluster, its load, and what goes wrong in it.

use super::client::Load;
use super::judge::Rules;
use super::world::{Mishap, WorldSpec};
use crate::net::Rates;

/// A whole scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The system.
    pub world: WorldSpec,
    /// What goes wrong, and when.
    pub mishaps: Vec<(u64, Mishap)>,
    /// All is made well after this time at the latest.
    pub trouble_ns: u64,
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Which modes are asked for, NL first.
const MIXTURES: [[u32; 6]; 6] = [
    [1, 1, 1, 1, 1, 1],
    [0, 0, 0, 1, 0, 1],
    [0, 0, 0, 0, 0, 1],
    [0, 0, 0, 8, 0, 1],
    [1, 3, 3, 3, 3, 1],
    [0, 1, 2, 2, 2, 0],
];

impl Scenario {
    /// The scenario of this seed. What a perfect channel makes of loss is nothing.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x10c4_0000_d15c_0000);
        let calm = rng.u32(..4) == 0;
        let nodes = match rng.u32(..8) {
            0..5 => rng.u8(3..=5),
            5 | 6 => rng.u8(6..=8),
            _ => rng.u8(9..=16),
        };
        let spares = if calm {
            0
        } else {
            rng.u8(0..=2).min(nodes - 2)
        };
        let load = load(&mut rng, nodes);
        let rates = rates(&mut rng);
        let lease_ns = rng.u64(MS..=10 * MS);
        let trouble_ns = rng.u64(5 * MS..=40 * MS);
        let rules = Rules {
            calm,
            weak_values: false,
            overtaken_max: 150,
            patience_ns: 3_000 * MS,
            deadlock_ns: 500 * MS,
            slack_ns: rates.delay_ns + rates.jitter_ns + rates.straggle_ns,
        };
        let members = nodes - spares;
        let mishaps = if calm {
            Vec::new()
        } else {
            mishaps(&mut rng, nodes, members, trouble_ns, lease_ns)
        };
        Self {
            world: WorldSpec {
                seed,
                nodes,
                members,
                load,
                rates,
                lease_ns,
                decide_ns: rng.u64(0..=MS),
                learn_ns: rng.u64(0..=MS),
                replay_ns: rng.u64(0..=4 * MS),
                rules,
            },
            mishaps,
            trouble_ns,
        }
    }
}

fn load(rng: &mut fastrand::Rng, nodes: u8) -> Load {
    let mixture = rng.usize(..MIXTURES.len());
    let alone = rng.u32(..4) == 0;
    Load {
        clients: if nodes > 8 { 1 } else { rng.u16(1..=3) },
        resources: rng.u16(1..=6),
        modes: MIXTURES[mixture],
        locks_most: if alone { 1 } else { rng.u32(1..=3) },
        any_order: rng.bool(),
        converts: rng.u32(..60),
        flags: if rng.bool() { 0 } else { rng.u32(..60) },
        cancels: if rng.bool() { 0 } else { rng.u32(..30) },
        writes: rng.u32(..=100),
        hold_ns: rng.u64(US..=400 * US),
        think_ns: rng.u64(US..=400 * US),
        transactions: rng.u32(2..=40),
    }
}

fn rates(rng: &mut fastrand::Rng) -> Rates {
    let share = |percent: u16| (u32::from(percent) * 65536 / 100) as u16;
    let jitter_ns = match rng.u32(..3) {
        0 => 0,
        1 => rng.u64(..20 * US),
        _ => rng.u64(..200 * US),
    };
    let is_lossy = rng.bool();
    Rates {
        delay_ns: rng.u64(2 * US..=20 * US),
        jitter_ns,
        loss: if is_lossy { share(rng.u16(..=30)) } else { 0 },
        duplicate: if rng.bool() { 0 } else { share(rng.u16(..20)) },
        straggle: if rng.bool() { 0 } else { share(rng.u16(..10)) },
        straggle_ns: rng.u64(..2 * MS),
    }
}

fn mishaps(
    rng: &mut fastrand::Rng,
    nodes: u8,
    members: u8,
    trouble_ns: u64,
    lease_ns: u64,
) -> Vec<(u64, Mishap)> {
    let mut mishaps = Vec::new();
    for node in members..nodes {
        mishaps.push((rng.u64(..trouble_ns), Mishap::Start { node }));
    }
    for _ in 0..rng.u32(1..=5) {
        let at_ns = rng.u64(..trouble_ns);
        let node = rng.u8(..nodes);
        let down_ns = match rng.u32(..4) {
            0 => 0,
            1 => u64::MAX,
            _ => rng.u64(..2 * lease_ns),
        };
        let mishap = match rng.u32(..10) {
            0..3 => Mishap::Crash { node, down_ns },
            3..6 => {
                // Something must begin the recovery in which it dies.
                let other = (node + rng.u8(1..nodes)) % nodes;
                let crash = Mishap::Crash {
                    node: other,
                    down_ns: rng.u64(..2 * lease_ns),
                };
                mishaps.push((at_ns + rng.u64(..MS), crash));
                Mishap::CrashInRecovery {
                    node,
                    messages: rng.u32(..40),
                    down_ns,
                }
            }
            6 | 7 => Mishap::Pause {
                node,
                for_ns: rng.u64(..3 * lease_ns),
            },
            8 => Mishap::Partition {
                side: side(rng, nodes),
                for_ns: rng.u64(..3 * lease_ns),
            },
            _ => Mishap::Epoch,
        };
        mishaps.push((at_ns, mishap));
    }
    mishaps
}

/// Less than half of the nodes.
fn side(rng: &mut fastrand::Rng, nodes: u8) -> u32 {
    let mut side = 0;
    for _ in 0..rng.u8(1..=(nodes - 1) / 2) {
        side |= 1 << rng.u8(..nodes);
    }
    side
}
