//! What a seed stands for: a cluster, and what befalls it.

use sandrail_proto::cluster::TargetKind;

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// What is made to misbehave, so that a checker has something to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// Targets say that a list is set, and leave the old one in force.
    FenceUnset,
    /// Frames live ten times as long as the machines are told.
    LongLives,
    /// What is read of a voting area is what it held half a second ago.
    StaleAreas,
    /// Blades forget their lists when they restart.
    BladesForget,
    /// Nodes go on without asking whether their lease is valid.
    LeaseUnasked,
    /// Clocks run up to a half too slow or too fast.
    WildClocks,
    /// Members use targets that are offline.
    OfflineUsed,
    /// One node is never let back onto the network.
    NeverHealed,
}

impl Flaw {
    /// All but none, with the names that the command line takes.
    pub const ALL: [(&'static str, Self); 8] = [
        ("fence-unset", Self::FenceUnset),
        ("long-lives", Self::LongLives),
        ("stale-areas", Self::StaleAreas),
        ("blades-forget", Self::BladesForget),
        ("lease-unasked", Self::LeaseUnasked),
        ("wild-clocks", Self::WildClocks),
        ("offline-used", Self::OfflineUsed),
        ("never-healed", Self::NeverHealed),
    ];
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// A node stops for so long, at its next decision: before what it decided has any effect.
    Pause {
        /// The node.
        node: usize,
        /// For how long.
        for_ns: u64,
    },
    /// A node's process ends, and a new life begins after so long.
    Crash {
        /// The node.
        node: usize,
        /// After how long.
        back_ns: u64,
    },
    /// A node is asked to leave.
    Leave {
        /// The node.
        node: usize,
    },
    /// Frames from the nodes of one set to those of another are lost, for so long.
    Cut {
        /// Senders, a bit each.
        from: u32,
        /// Receivers.
        to: u32,
        /// For how long.
        for_ns: u64,
    },
    /// All that a node sends or should get is lost for so long: its cable is out.
    Isolate {
        /// The node.
        node: usize,
        /// For how long.
        for_ns: u64,
    },
    /// What a node sends to a voting area, or what comes back, is lost for so long.
    CutArea {
        /// The node.
        node: usize,
        /// The area.
        area: usize,
        /// Whether the answers are, instead of the requests.
        answers: bool,
        /// For how long.
        for_ns: u64,
    },
    /// The same with a data target.
    CutTarget {
        /// The node.
        node: usize,
        /// The target.
        target: usize,
        /// Whether the answers are, instead of the requests.
        answers: bool,
        /// For how long.
        for_ns: u64,
    },
    /// A voting area is away for so long.
    AreaDown {
        /// The area.
        area: usize,
        /// For how long.
        for_ns: u64,
    },
    /// A target is away for so long, and restarts.
    Restart {
        /// The target.
        target: usize,
        /// For how long it is away.
        for_ns: u64,
    },
    /// A target carries out nothing for so long, and then all that has come meanwhile.
    Stall {
        /// The target.
        target: usize,
        /// For how long.
        for_ns: u64,
    },
}

/// A cluster and its fate.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where all of it comes from, and all chances on the way.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Voting areas.
    pub areas: usize,
    /// Data targets.
    pub targets: Vec<TargetKind>,
    /// Frames lost while there is trouble, in thousandths.
    pub loss: u32,
    /// Copies that come late, in thousandths.
    pub late: u32,
    /// Requests that fail, in thousandths.
    pub failures: u32,
    /// Parts in a million by which clocks are wrong, either way.
    pub drift_ppm: i64,
    /// What happens when.
    pub mishaps: Vec<(u64, Mishap)>,
    /// When all is well again.
    pub trouble_ns: u64,
    /// What is made to misbehave.
    pub flaw: Flaw,
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn new(seed: u64, flaw: Flaw) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x6d65_6d62_6572);
        let nodes = match random.u8(0..10) {
            0..4 => 2,
            4..7 => 3,
            7 => 4,
            8 => 5,
            _ => random.usize(6..=7),
        };
        let areas = [1, 3, 3, 3, 5][random.usize(0..5)];
        let targets = (0..random.usize(1..=2))
            .map(|_| {
                if random.bool() {
                    TargetKind::Epochs
                } else {
                    TargetKind::Foreign
                }
            })
            .collect::<Vec<_>>();
        let trouble_ns = random.u64(3000..7000) * MS;
        let mut scenario = Self {
            seed,
            nodes,
            areas,
            targets,
            loss: [0, 10, 100][random.usize(0..3)],
            late: [0, 20, 200][random.usize(0..3)],
            failures: [0, 0, 20][random.usize(0..3)],
            drift_ppm: if flaw == Flaw::WildClocks {
                500_000
            } else {
                200
            },
            mishaps: Vec::new(),
            trouble_ns,
            flaw,
        };
        for _ in 0..random.usize(1..14) {
            let at_ns = random.u64(700 * MS..trouble_ns);
            let mishap = scenario.mishap(&mut random);
            scenario.mishaps.push((at_ns, mishap));
        }
        scenario.mishaps.sort_by_key(|(at_ns, _)| *at_ns);
        scenario
    }

    /// A cluster to which nothing happens.
    #[must_use]
    pub fn calm(seed: u64) -> Self {
        Self {
            loss: 0,
            late: 0,
            failures: 0,
            mishaps: Vec::new(),
            ..Self::new(seed, Flaw::None)
        }
    }

    fn mishap(&self, random: &mut fastrand::Rng) -> Mishap {
        let node = random.usize(0..self.nodes);
        let all = (1_u32 << self.nodes) - 1;
        let for_ns = match random.u8(0..3) {
            0 => random.u64(20..300) * MS,
            1 => random.u64(200..1000) * MS,
            _ => random.u64(500..4000) * MS,
        };
        let target = random.usize(0..self.targets.len());
        let area = random.usize(0..self.areas);
        let answers = random.bool();
        match random.u8(0..22) {
            0..5 => Mishap::Pause { node, for_ns },
            5..8 => Mishap::Crash {
                node,
                back_ns: for_ns,
            },
            8 => Mishap::Leave { node },
            9..11 => {
                let part = random.u32(0..=all);
                let to = !part & all;
                Mishap::Cut {
                    from: part,
                    to,
                    for_ns,
                }
            }
            11 => {
                let (from, to) = (random.u32(0..=all), random.u32(0..=all));
                Mishap::Cut { from, to, for_ns }
            }
            12 => Mishap::Cut {
                from: all,
                to: 1 << node,
                for_ns,
            },
            13 => Mishap::CutArea {
                node,
                area,
                answers,
                for_ns,
            },
            14 => Mishap::CutTarget {
                node,
                target,
                answers,
                for_ns,
            },
            15 => Mishap::AreaDown { area, for_ns },
            20..22 => Mishap::Isolate { node, for_ns },
            16..18 => Mishap::Restart { target, for_ns },
            _ => Mishap::Stall { target, for_ns },
        }
    }
}
