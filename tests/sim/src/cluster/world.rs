//! The SAN: nodes with machines and clocks, links between them, voting areas, targets, and the queue of what will happen.

mod life;
mod post;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use sandrail_proto::cluster::{
    AreaAnswer, Cluster, Config, End, Event, Membership, NodeConfig, Request, RequestId, Settings,
    TargetAnswer, TargetKind,
};
use sandrail_proto::time::Instant;
use sandrail_wire::MacAddr;
use sandrail_wire::cluster::{Life, View};
use sandrail_wire::lock::{ClusterId, Epoch, Incarnation, NodeId, Seal};

use super::area::{Area, SECTOR_BYTES};
use super::judge::{Judge, Violation};
use super::scenario::{Flaw, MS, Mishap, Scenario};
use super::target::{Ask, NodeSet, Queued, Reply, Target};

/// A frame's lifetime, as machines are told.
const LIFETIME_NS: u64 = 300 * MS;
const SECTORS_PER_NODE: u16 = 12;
/// Between two looks of a node at what it may do.
const WORK_NS: u64 = 9 * MS;
const STALE_NS: u64 = 500 * MS;

/// What happens.
#[derive(Debug)]
enum Happening {
    Wake {
        node: usize,
        life: u64,
    },
    Work {
        node: usize,
        life: u64,
    },
    Send {
        node: usize,
        life: u64,
        what: Sent,
    },
    Beat {
        from: usize,
        to: usize,
        bytes: Box<[u8]>,
    },
    AreaArrives {
        node: usize,
        life: u64,
        id: RequestId,
        request: AreaRequest,
    },
    AreaAnswers {
        node: usize,
        life: u64,
        id: RequestId,
        answer: AreaReply,
    },
    TargetArrives {
        target: usize,
        queued: Queued,
    },
    TargetResumes {
        target: usize,
    },
    TargetAnswers {
        node: usize,
        life: u64,
        id: RequestId,
        answer: Option<Reply>,
    },
    Advertised {
        node: usize,
        target: usize,
    },
    Birth {
        node: usize,
        life: u64,
    },
    Mishap(Mishap),
}

/// What leaves a node.
#[derive(Clone, Debug)]
enum Sent {
    Beat(Box<[u8]>),
    Area {
        id: RequestId,
        area: usize,
        request: AreaRequest,
    },
    Target {
        id: Option<RequestId>,
        target: usize,
        ask: Ask,
    },
}

impl Sent {
    fn tell(&self) -> String {
        match self {
            Self::Beat(_) => "a heartbeat".into(),
            Self::Area {
                area,
                request: AreaRequest::Read { .. },
                ..
            } => format!("reading area {area}"),
            Self::Area { area, .. } => format!("writing to area {area}"),
            Self::Target { target, ask, .. } => format!("asking target {target} for {ask:?}"),
        }
    }
}

#[derive(Clone, Debug)]
enum AreaRequest {
    Read {
        area: usize,
        first: u32,
        count: u32,
    },
    Write {
        area: usize,
        sector: u32,
        bytes: Box<[u8; SECTOR_BYTES]>,
    },
}

#[derive(Debug)]
enum AreaReply {
    Written,
    Read(Vec<u8>),
    Closed,
    Failed,
}

#[derive(Debug)]
struct Node {
    life: u64,
    machine: Option<Cluster>,
    paused_until_ns: u64,
    /// A pause that begins at the next decision.
    pause_next_ns: u64,
    offset_ns: u64,
    ppm: i64,
    wake_ns: u64,
    /// Sectors with copies under way, by area, and until when.
    closed: HashMap<(usize, u32), u64>,
    /// Target requests of the machine that are unanswered.
    open_requests: Vec<RequestId>,
    next_write: u64,
    recovering: Option<u64>,
}

impl Node {
    fn local(&self, now_ns: u64) -> Instant {
        let drift = i128::from(now_ns) * i128::from(self.ppm) / 1_000_000;
        let local = i128::from(self.offset_ns) + i128::from(now_ns) + drift;
        Instant::from_nanos(u64::try_from(local).unwrap_or(0))
    }

    /// The first moment at which the node's clock has reached `at`.
    fn global(&self, at: Instant) -> u64 {
        let since = i128::from(at.as_nanos()) - i128::from(self.offset_ns);
        let global = since * 1_000_000 / (1_000_000 + i128::from(self.ppm)) + 2;
        u64::try_from(global).unwrap_or(0)
    }
}

/// What the world counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Things that happened.
    pub happenings: u64,
    /// Pauses between a decision and its effect.
    pub pauses: u64,
    /// Lives that ended by a crash.
    pub crashes: u64,
    /// Lives that ended themselves.
    pub ends: u64,
    /// False suspicions, by the machines' own count.
    pub false_suspicions: u64,
    /// Ballots begun, and lost.
    pub ballots: u64,
    /// Ballots that gave way to others.
    pub ballots_lost: u64,
    /// Lists that targets had forgotten.
    pub forgot: u64,
    /// Sectors that were closed.
    pub sectors_closed: u64,
    /// Targets that an operator had to force.
    pub forced: u64,
    /// Renewals refused.
    pub renewals_refused: u64,
}

/// The SAN.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    random: fastrand::Rng,
    now_ns: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Option<Happening>>,
    free: Vec<usize>,
    nodes: Vec<Node>,
    areas: Vec<Area>,
    targets: Vec<Target>,
    cuts: Vec<(u64, u32, u32)>,
    /// Node, area or target, whether answers are cut, until when.
    area_cuts: Vec<(u64, usize, usize, bool)>,
    target_cuts: Vec<(u64, usize, usize, bool)>,
    is_healed: bool,
    /// What judges.
    pub judge: Judge,
    counts: Counts,
    trace: Option<VecDeque<String>>,
}

impl World {
    /// The SAN of a scenario, at its start.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let mut random = fastrand::Rng::with_seed(scenario.seed ^ 0x7761_6e64);
        let nodes = (0..scenario.nodes)
            .map(|_| Node {
                life: 0,
                machine: None,
                paused_until_ns: 0,
                pause_next_ns: 0,
                offset_ns: random.u64(0..1 << 50),
                ppm: random.i64(-scenario.drift_ppm..=scenario.drift_ppm),
                wake_ns: u64::MAX,
                closed: HashMap::new(),
                open_requests: Vec::new(),
                next_write: 1 << 40,
                recovering: None,
            })
            .collect();
        let sectors = (scenario.nodes + 1) * usize::from(SECTORS_PER_NODE);
        let mut world = Self {
            random,
            now_ns: 0,
            order: 0,
            queue: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            nodes,
            areas: (0..scenario.areas).map(|_| Area::new(sectors)).collect(),
            targets: scenario
                .targets
                .iter()
                .map(|kind| Target::new(*kind, scenario.nodes))
                .collect(),
            cuts: Vec::new(),
            area_cuts: Vec::new(),
            target_cuts: Vec::new(),
            is_healed: false,
            judge: Judge::new(scenario.targets.len()),
            counts: Counts::default(),
            trace: None,
            scenario: scenario.clone(),
        };
        for node in 0..scenario.nodes {
            let at_ns = world.random.u64(0..200 * MS);
            world.plan(at_ns, Happening::Birth { node, life: 0 });
        }
        for (at_ns, mishap) in &scenario.mishaps {
            world.plan(*at_ns, Happening::Mishap(*mishap));
        }
        world
    }

    /// From now on, keep a trace.
    pub fn trace(&mut self) {
        self.trace = Some(VecDeque::new());
    }

    /// The trace.
    pub fn trace_lines(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().flatten()
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The time.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let ms = self.now_ns as f64 / MS as f64;
            trace.push_back(format!("{ms:10.3} {}", line()));
        }
    }

    fn plan(&mut self, at_ns: u64, happening: Happening) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(happening);
                slot
            }
            None => {
                self.slots.push(Some(happening));
                self.slots.len() - 1
            }
        };
        self.order += 1;
        self.queue
            .push(Reverse((at_ns.max(self.now_ns), self.order, slot)));
    }

    /// Runs until then, or until `is_enough`, which is asked now and then.
    pub fn run(&mut self, until_ns: u64, is_enough: impl Fn(&Self) -> bool) -> bool {
        let mut asked_ns = self.now_ns;
        while let Some(Reverse((at_ns, _, slot))) = self.queue.peek().copied() {
            if at_ns > until_ns || self.judge.violation().is_some() {
                break;
            }
            self.queue.pop();
            self.now_ns = at_ns;
            let happening = self.slots[slot].take();
            self.free.push(slot);
            self.counts.happenings += 1;
            if let Some(happening) = happening {
                self.happen(happening);
            }
            if self.now_ns >= asked_ns + 20 * MS {
                asked_ns = self.now_ns;
                if is_enough(self) {
                    return true;
                }
            }
        }
        self.now_ns = self.now_ns.max(until_ns);
        is_enough(self)
    }

    /// From now on nothing goes wrong.
    pub fn heal(&mut self) {
        self.note(|| "healed".into());
        self.is_healed = true;
        self.cuts.clear();
        self.area_cuts.clear();
        self.target_cuts.clear();
        let now_ns = self.now_ns;
        for area in &mut self.areas {
            area.down_until_ns = 0;
        }
        for node in &mut self.nodes {
            node.pause_next_ns = 0;
        }
        for at in 0..self.targets.len() {
            self.targets[at].down_until_ns = 0;
            self.targets[at].stalled_until_ns = now_ns;
            self.plan(now_ns, Happening::TargetResumes { target: at });
        }
        if self.scenario.flaw == Flaw::NeverHealed {
            self.cuts.push((u64::MAX, 1, u32::MAX));
        }
    }

    /// When the last pause ends that has begun.
    #[must_use]
    pub fn pauses_end_ns(&self) -> u64 {
        self.nodes
            .iter()
            .map(|node| node.paused_until_ns)
            .max()
            .unwrap_or(0)
    }

    /// Whether all nodes are members of the same view, with leases, and recovery has begun everywhere.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let Some(newest) = self.judge.newest() else {
            return false;
        };
        self.nodes.iter().all(|node| {
            node.machine.as_ref().is_some_and(|machine| {
                machine.view() == newest
                    && newest.members.contains(machine.life())
                    && newest.members.len() == self.nodes.len()
                    && machine.lease_valid(node.local(self.now_ns))
                    && machine.fence_report().is_complete
                    && (0..self.targets.len()).all(|target| machine.is_usable(target))
            })
        })
    }

    /// What the nodes think, for a report.
    #[must_use]
    pub fn tell(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            node.machine.as_ref().map_or("down".to_string(), |machine| {
                format!(
                    "{}.{} epoch {} coordinator {} members {:?} lease {} fence {:?}",
                    machine.life().node,
                    machine.life().incarnation,
                    machine.view().epoch,
                    machine.view().coordinator,
                    machine
                        .view()
                        .members
                        .as_slice()
                        .iter()
                        .map(|life| (life.node.0, life.incarnation.0))
                        .collect::<Vec<_>>(),
                    machine.lease_valid(node.local(self.now_ns)),
                    machine.fence_report(),
                )
            })
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    /// An operator looks after targets that nobody may set any more (S12).
    pub fn operate(&mut self) {
        for at in 0..self.targets.len() {
            let list = self.targets[at].list;
            let coordinator = self
                .judge
                .newest()
                .map(|view| usize::from(view.coordinator.0) - 1);
            let is_held = self.targets[at].kind == TargetKind::Foreign
                && list != 0
                && coordinator.is_some_and(|node| list >> node & 1 == 0);
            if is_held {
                self.note(|| format!("operator forces target {at}"));
                self.counts.forced += 1;
                self.targets[at].force();
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { node, life } => {
                if self.is_away(node, life, || Happening::Wake { node, life }) {
                    return;
                }
                if self.nodes[node].wake_ns <= self.now_ns {
                    self.nodes[node].wake_ns = u64::MAX;
                    self.with_machine(node, |machine, now| machine.handle_timeout(now));
                }
            }
            Happening::Work { node, life } => self.work(node, life),
            Happening::Send { node, life, what } => {
                if self.nodes[node].life == life {
                    self.send(node, what);
                }
            }
            Happening::Beat { from, to, bytes } => {
                let life = self.nodes[to].life;
                if self.nodes[to].paused_until_ns > self.now_ns {
                    let at_ns = self.nodes[to].paused_until_ns;
                    self.plan(at_ns, Happening::Beat { from, to, bytes });
                } else if life > 0 {
                    self.with_machine(to, |machine, now| {
                        let _ = machine.handle_frame(now, &bytes);
                    });
                }
            }
            Happening::AreaArrives {
                node,
                life,
                id,
                request,
            } => {
                self.area_arrives(node, life, id, request);
            }
            Happening::AreaAnswers {
                node,
                life,
                id,
                answer,
            } => self.area_answers(node, life, id, answer),
            Happening::TargetArrives { target, queued } => self.target_arrives(target, queued),
            Happening::TargetResumes { target } => self.target_resumes(target),
            Happening::TargetAnswers {
                node,
                life,
                id,
                answer,
            } => {
                self.target_answers(node, life, id, answer);
            }
            Happening::Advertised { node, target } => {
                if self.nodes[node].paused_until_ns <= self.now_ns {
                    self.with_machine(node, |machine, now| {
                        machine.handle_advertisement(now, target)
                    });
                }
            }
            Happening::Birth { node, life } => self.give_birth(node, life),
            Happening::Mishap(mishap) => self.befall(mishap),
        }
    }

    /// Whether a node is not that life any more, or is paused; then `again` happens when it is not.
    fn is_away(&mut self, node: usize, life: u64, again: impl FnOnce() -> Happening) -> bool {
        if self.nodes[node].life != life {
            return true;
        }
        let until_ns = self.nodes[node].paused_until_ns;
        if until_ns > self.now_ns {
            self.plan(until_ns, again());
            return true;
        }
        false
    }

    fn befall(&mut self, mishap: Mishap) {
        if self.is_healed {
            return;
        }
        self.note(|| format!("{mishap:?}"));
        let now_ns = self.now_ns;
        match mishap {
            Mishap::Pause { node, for_ns } => self.nodes[node].pause_next_ns = for_ns,
            Mishap::Crash { node, back_ns } => {
                self.counts.crashes += u64::from(self.nodes[node].machine.is_some());
                self.bury(node, back_ns);
            }
            Mishap::Leave { node } => {
                if self.nodes[node].paused_until_ns <= now_ns {
                    self.with_machine(node, |machine, now| machine.leave(now));
                }
            }
            Mishap::Cut { from, to, for_ns } => self.cuts.push((now_ns + for_ns, from, to)),
            Mishap::Isolate { node, for_ns } => self.isolate(node, now_ns + for_ns),
            Mishap::CutArea {
                node,
                area,
                answers,
                for_ns,
            } => {
                self.area_cuts.push((now_ns + for_ns, node, area, answers));
            }
            Mishap::CutTarget {
                node,
                target,
                answers,
                for_ns,
            } => {
                self.target_cuts
                    .push((now_ns + for_ns, node, target, answers));
            }
            Mishap::AreaDown { area, for_ns } => self.areas[area].down_until_ns = now_ns + for_ns,
            Mishap::Restart { target, for_ns } => self.restart(target, for_ns),
            Mishap::Stall { target, for_ns } => {
                self.targets[target].stalled_until_ns = now_ns + for_ns;
                self.plan(now_ns + for_ns, Happening::TargetResumes { target });
            }
        }
    }

    fn isolate(&mut self, node: usize, until_ns: u64) {
        self.cuts.push((until_ns, 1 << node, u32::MAX));
        self.cuts.push((until_ns, u32::MAX, 1 << node));
        for answers in [false, true] {
            for area in 0..self.areas.len() {
                self.area_cuts.push((until_ns, node, area, answers));
            }
            for target in 0..self.targets.len() {
                self.target_cuts.push((until_ns, node, target, answers));
            }
        }
    }

    fn restart(&mut self, target: usize, for_ns: u64) {
        let forgets = self.targets[target].kind == TargetKind::Foreign
            || self.scenario.flaw == Flaw::BladesForget;
        self.targets[target].restart(forgets);
        let up_ns = self.now_ns + for_ns;
        self.targets[target].down_until_ns = up_ns;
        for node in 0..self.nodes.len() {
            // An advertisement is a frame like any other, and may be lost.
            if self.random.u8(0..4) > 0 {
                self.plan(up_ns + MS, Happening::Advertised { node, target });
            }
        }
    }
}
