//! Nodes with clients on a simulated network and clock, and whoever decides which of them are members.
//!
//! Membership is scripted by a know-all. A node that the majority does not reach is suspected after a while, and a new
//! epoch goes on without it; when its lease is over, too, everybody is told that it is fenced (S14), and after some
//! more time that its log was replayed. Each node learns of all that in the same order, but late by a time of its own. A
//! process that dies comes back as another life of its node, and joins by another epoch.

mod clients;
mod members;
mod messages;
mod trouble;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use sandrail_proto::time::Instant;

use super::call::{Life, Resource};
use super::client::{Client, Load};
use super::judge::{Judge, Rules};
use super::station::{Begin, Held, Station};
use super::violation::{Promise, Violation};
use crate::net::Rates;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldSpec {
    /// Determines everything that is left to chance.
    pub seed: u64,
    /// Nodes, of which the first `members` begin together.
    pub nodes: u8,
    /// Members at first.
    pub members: u8,
    /// What clients do.
    pub load: Load,
    /// How the network treats messages.
    pub rates: Rates,
    /// How long a lease lasts, in nanoseconds.
    pub lease_ns: u64,
    /// The longest between a lease's end, or a start, and the epoch that follows from it.
    pub decide_ns: u64,
    /// The longest until a member learns of an epoch.
    pub learn_ns: u64,
    /// The longest until a dead life's log is replayed.
    pub replay_ns: u64,
    /// What is agreed about waiting.
    pub rules: Rules,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// A process dies and starts again after a while, or not before all is made well.
    Crash {
        /// Whose.
        node: u8,
        /// How long it is away, in nanoseconds.
        down_ns: u64,
    },
    /// A process dies at some step of the next recovery that it takes part in.
    CrashInRecovery {
        /// Whose.
        node: u8,
        /// After so many messages that it sent or got since it learned of the epoch.
        messages: u32,
        /// How long it is away, in nanoseconds.
        down_ns: u64,
    },
    /// A process does nothing for a while.
    Pause {
        /// Whose.
        node: u8,
        /// How long, in nanoseconds.
        for_ns: u64,
    },
    /// These nodes, a bit for each, and the others do not reach each other.
    Partition {
        /// One side, the smaller one.
        side: u32,
        /// How long, in nanoseconds.
        for_ns: u64,
    },
    /// A node that was not there at first starts.
    Start {
        /// Which.
        node: u8,
    },
    /// A new epoch with the same members.
    Epoch,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive { message: u32 },
    Wake { node: u8 },
    Client { who: Life, client: u16, serial: u32 },
    Mishap { index: u32 },
    LeaseEnd { who: Life },
    Decide,
    Suspect { who: Life },
    Learn { who: Life, upto: usize },
    Replayed { node: u8 },
    Boot { node: u8 },
    Restart { who: Life },
    Resume { node: u8 },
    Heal,
    Review,
}

/// What everybody is told, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    /// A new membership.
    Epoch(u32),
    /// Who left up to this epoch has no lease any more.
    Fenced(u32),
    /// The log of this dead life was replayed.
    Replayed(Life),
}

struct Message<M> {
    from: Life,
    to: Life,
    /// The epoch in which it was sent last before its sender died.
    epoch: u32,
    content: M,
}

/// A channel from one life to another: what has arrived, and waits for both ends to be in one epoch.
struct Channel<M> {
    last_ns: u64,
    arrived: VecDeque<Message<M>>,
}

/// A node of the world.
pub struct Node<S> {
    /// Its process, while it lives.
    pub station: Option<S>,
    /// Which life it is in.
    pub life: u32,
    /// It has lost its lease or its membership: what it does no longer counts.
    pub stopped: bool,
    /// The last epoch that it has learned of, 0 for none.
    pub epoch: u32,
    /// How much of what everybody is told it has been told.
    told: usize,
    /// It is not to be a member any more.
    suspected: bool,
    /// Its lease is over, and the know-all knows.
    lease_over: bool,
    /// Its clients.
    pub clients: Vec<Client>,
    paused_until_ns: u64,
    /// Since when the majority does not reach it.
    away_since_ns: Option<u64>,
    wake_ns: u64,
    inbox: VecDeque<Event>,
    /// Dies after so many messages, of which it has already seen the epoch or not.
    doomed: Option<(u32, u64, bool)>,
    started: bool,
}

/// What a run counted, besides what the judge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Messages between nodes.
    pub messages: u64,
    /// Messages that never arrived.
    pub lost: u64,
    /// Epochs.
    pub epochs: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Those that died in a recovery.
    pub crashes_in_recovery: u64,
    /// Nodes that lost their lease and lived on.
    pub fenced: u64,
    /// Messages of nodes that were members no longer.
    pub late: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.events, other.events),
            (&mut self.messages, other.messages),
            (&mut self.lost, other.lost),
            (&mut self.epochs, other.epochs),
            (&mut self.crashes, other.crashes),
            (&mut self.crashes_in_recovery, other.crashes_in_recovery),
            (&mut self.fenced, other.fenced),
            (&mut self.late, other.late),
        ] {
            *sum += part;
        }
    }
}

/// The system.
pub struct World<S: Station> {
    spec: WorldSpec,
    flaw: S::Flaw,
    now_ns: u64,
    rng: fastrand::Rng,
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    /// Events since time passed.
    standstill: u32,
    /// The nodes, and behind them the central server, if there is one.
    pub nodes: Vec<Node<S>>,
    messages: Vec<Option<Message<S::Message>>>,
    free: Vec<u32>,
    channels: BTreeMap<(Life, Life), Channel<S::Message>>,
    /// What of a dead life's messages arrives later than this is lost.
    cut_ns: BTreeMap<Life, u64>,
    side: u32,
    partition_until_ns: u64,
    /// Members by epoch, and of whom the log is not replayed then.
    epochs: Vec<(Vec<Life>, Vec<Life>)>,
    log: Vec<Control>,
    fenced_epoch: u32,
    decision_planned: bool,
    /// Lives that are members no longer and may have a lease, and since which epoch.
    leases: Vec<(Life, u32)>,
    /// Lives that were members and whose log is not replayed, and since which epoch.
    to_replay: Vec<(Life, u32)>,
    mishaps: Vec<Mishap>,
    healed: bool,
    transactions: u64,
    /// The judge.
    pub judge: Judge,
    /// What was counted.
    pub counts: Counts,
    violation: Option<Violation>,
    trace: Option<VecDeque<String>>,
}

/// How often the judge looks at those who wait.
const REVIEW_NS: u64 = 5_000_000;
/// Lines of a trace that are kept.
const TRACE_LINES: usize = 100_000;
/// A turn of a node has at most so many messages and answers.
const TURN_MOST: u32 = 2_000_000;
/// At one moment there are at most so many events.
const STANDSTILL_MOST: u32 = 100_000;
/// How much longer a message may take that is sent again.
const RESENT_NS: u64 = 50_000_000;
/// What the server of a manager that needs one is called.
const SERVER_LIFE: u32 = 1;

impl<S: Station> World<S> {
    /// Builds it; the first members start at time 0.
    #[must_use]
    pub fn new(spec: &WorldSpec, flaw: S::Flaw) -> Self {
        let node = |_| Node {
            station: None,
            life: 0,
            stopped: false,
            epoch: 0,
            told: 0,
            suspected: false,
            lease_over: false,
            clients: Vec::new(),
            paused_until_ns: 0,
            away_since_ns: None,
            wake_ns: u64::MAX,
            inbox: VecDeque::new(),
            doomed: None,
            started: false,
        };
        let mut world = Self {
            flaw,
            now_ns: 0,
            rng: fastrand::Rng::with_seed(spec.seed),
            heap: BinaryHeap::new(),
            order: 0,
            standstill: 0,
            nodes: (0..spec.nodes + u8::from(S::CENTRAL)).map(node).collect(),
            messages: Vec::new(),
            free: Vec::new(),
            channels: BTreeMap::new(),
            cut_ns: BTreeMap::new(),
            side: 0,
            partition_until_ns: 0,
            epochs: vec![(Vec::new(), Vec::new())],
            log: Vec::new(),
            fenced_epoch: 0,
            decision_planned: false,
            leases: Vec::new(),
            to_replay: Vec::new(),
            mishaps: Vec::new(),
            healed: false,
            transactions: 0,
            judge: Judge::new(Rules {
                // What is lost is sent again, after longer and longer times.
                slack_ns: spec.rules.slack_ns + if S::LOSSY { RESENT_NS } else { 0 },
                weak_values: spec.rules.weak_values || S::WEAK_VALUES,
                ..spec.rules
            }),
            counts: Counts::default(),
            violation: None,
            trace: None,
            spec: spec.clone(),
        };
        if S::CENTRAL {
            world.start(spec.nodes, SERVER_LIFE);
        }
        for node in 0..spec.members {
            world.boot(node);
        }
        world.decide();
        world.at(REVIEW_NS, Event::Review);
        world
    }

    /// Keeps the last lines of what happened.
    pub fn trace(&mut self) {
        self.trace = Some(VecDeque::new());
    }

    /// The lines kept.
    pub fn trace_lines(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().flatten().map(String::as_str)
    }

    /// Time passed.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// What was found to be wrong.
    #[must_use]
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    fn instant(&self) -> Instant {
        Instant::from_nanos(self.now_ns)
    }

    /// Something is wrong.
    pub fn accuse(&mut self, violation: Violation) {
        if self.violation.is_none() {
            self.note(|| format!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    fn check(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.accuse(violation);
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES {
                trace.pop_front();
            }
            let (us, rest) = (self.now_ns / 1000, self.now_ns % 1000);
            trace.push_back(format!("{us:>10}.{rest:03} {}", line()));
        }
    }

    fn at(&mut self, time_ns: u64, event: Event) {
        self.order += 1;
        let time_ns = time_ns.max(self.now_ns);
        self.heap.push(Reverse((time_ns, self.order, event)));
    }

    /// Something that will happen at `at_ns`.
    pub fn plan(&mut self, at_ns: u64, mishap: Mishap) {
        self.mishaps.push(mishap);
        let index = self.mishaps.len() as u32 - 1;
        self.at(at_ns, Event::Mishap { index });
    }

    /// Runs until `until_ns`, a violation, or until `finished` says so after some event; whether it did.
    pub fn run(&mut self, until_ns: u64, mut finished: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if self.violation.is_some() {
                return false;
            }
            if finished(self) {
                return true;
            }
            let Some(Reverse((at_ns, _, _))) = self.heap.peek() else {
                return false;
            };
            if *at_ns > until_ns {
                self.now_ns = until_ns;
                return false;
            }
            if let Some(Reverse((at_ns, _, event))) = self.heap.pop() {
                self.standstill = if at_ns > self.now_ns {
                    0
                } else {
                    self.standstill + 1
                };
                if self.standstill > STANDSTILL_MOST {
                    let text = "events, and time stands still";
                    self.accuse(Violation::new(Promise::Livelock, text));
                }
                self.now_ns = at_ns;
                self.counts.events += 1;
                self.step(event);
            }
        }
    }

    fn who(&self, node: u8) -> Life {
        let life = self.nodes[usize::from(node)].life;
        Life { node, life }
    }

    fn is_current(&self, who: Life) -> bool {
        let node = &self.nodes[usize::from(who.node)];
        node.life == who.life && node.station.is_some()
    }

    fn step(&mut self, event: Event) {
        let index = match &event {
            Event::Arrive { message } => self.messages[*message as usize]
                .as_ref()
                .map(|message| message.to.node),
            Event::Wake { node } => Some(*node),
            Event::Client { who, .. } | Event::Learn { who, .. } => Some(who.node),
            _ => None,
        };
        if let Some(node) = index.map(|node| &mut self.nodes[usize::from(node)])
            && self.now_ns < node.paused_until_ns
        {
            node.inbox.push_back(event);
            return;
        }
        match event {
            Event::Arrive { message } => self.arrive(message),
            Event::Wake { node } => {
                let index = usize::from(node);
                if self.nodes[index].wake_ns == self.now_ns {
                    self.nodes[index].wake_ns = u64::MAX;
                    let now = self.instant();
                    if let Some(station) = &mut self.nodes[index].station {
                        station.handle_timeout(now);
                        self.turn(node);
                    }
                }
            }
            Event::Client {
                who,
                client,
                serial,
            } => self.wake_client(who, client, serial),
            Event::Mishap { index } => {
                if !self.healed {
                    self.befall(self.mishaps[index as usize]);
                }
            }
            Event::LeaseEnd { who } => self.lease_end(who),
            Event::Decide => {
                self.decision_planned = false;
                self.decide();
            }
            Event::Suspect { who } => self.suspect(who),
            Event::Learn { who, upto } => self.learn(who, upto),
            Event::Replayed { node } => self.replayed(node),
            Event::Boot { node } => {
                if self.nodes[usize::from(node)].station.is_none() {
                    self.boot(node);
                }
            }
            Event::Restart { who } => {
                if self.is_current(who) {
                    self.crash(who.node);
                    self.boot(who.node);
                }
            }
            Event::Resume { node } => self.resume(node),
            Event::Heal => {
                if self.now_ns >= self.partition_until_ns {
                    self.side = 0;
                    self.note(|| "the partition is over".to_owned());
                    self.reached();
                }
            }
            Event::Review => {
                let result = self.judge.review(self.now_ns);
                self.check(result);
                self.check_bounds();
                self.at(self.now_ns + REVIEW_NS, Event::Review);
            }
        }
    }

    fn check_bounds(&mut self) {
        let mut results = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(Err(text)) = node.station.as_ref().map(Station::check_bounds) {
                results.push(format!("n{index}: {text}"));
            }
        }
        for text in results {
            self.accuse(Violation::new(Promise::Memory, text));
        }
    }

    // Nodes.

    fn start(&mut self, node: u8, life: u32) {
        let begin = Begin {
            me: Life { node, life },
            nodes: self.spec.nodes,
            resources: self.spec.load.resources,
            locks: self.spec.load.clients * self.spec.load.locks_most as u16,
            seed: self.rng.u64(..),
            now: self.instant(),
        };
        let state = &mut self.nodes[usize::from(node)];
        state.station = Some(S::start(&begin, self.flaw));
        state.life = life;
        state.started = true;
        state.stopped = false;
        state.suspected = false;
        state.lease_over = false;
        state.epoch = 0;
        state.told = usize::MAX;
        state.paused_until_ns = 0;
        state.away_since_ns = None;
        state.inbox.clear();
        state.wake_ns = u64::MAX;
        state.doomed = None;
    }

    fn boot(&mut self, node: u8) {
        let life = self.nodes[usize::from(node)].life + 1;
        self.start(node, life);
        self.note(|| format!("n{node}.{life} starts"));
        let clients: Vec<Client> = (0..self.spec.load.clients)
            .map(|client| {
                let mut client = Client::new(client, self.rng.u64(..));
                if self.healed {
                    client.stop();
                }
                client
            })
            .collect();
        self.nodes[usize::from(node)].clients = clients;
        if self.epochs.len() > 1 {
            self.plan_decision();
        }
    }

    fn crash(&mut self, node: u8) {
        let who = self.who(node);
        let state = &mut self.nodes[usize::from(node)];
        if state.station.take().is_none() {
            return;
        }
        state.clients.clear();
        for event in core::mem::take(&mut state.inbox) {
            if let Event::Arrive { message } = event {
                self.messages[message as usize] = None;
                self.free.push(message);
            }
        }
        let state = &mut self.nodes[usize::from(node)];
        state.paused_until_ns = 0;
        state.doomed = None;
        self.counts.crashes += 1;
        // What is on its way arrives up to some moment; what was sent after that never left.
        let cut_ns = self.now_ns + self.rng.u64(0..=2 * self.delay_most_ns());
        self.cut_ns.insert(who, cut_ns);
        self.note(|| format!("{who} dies"));
        self.judge.died(self.now_ns, who);
        self.away(node);
    }

    fn delay_most_ns(&self) -> u64 {
        self.spec.rates.delay_ns + self.spec.rates.jitter_ns
    }

    /// A node is out of reach from now on.
    fn away(&mut self, node: u8) {
        let who = self.who(node);
        let (now_ns, lease_ns) = (self.now_ns, self.spec.lease_ns);
        let state = &mut self.nodes[usize::from(node)];
        let lives = state.station.is_some();
        if lives && state.away_since_ns.is_some() {
            return;
        }
        state.away_since_ns = Some(now_ns);
        // Of the dead nobody needs to fear that they read; but nobody knows either.
        let lease_ns = if lives {
            lease_ns
        } else {
            self.rng.u64(0..=lease_ns)
        };
        self.at(now_ns + lease_ns, Event::LeaseEnd { who });
        let suspect_ns = self.rng.u64(0..=2 * self.spec.lease_ns);
        self.at(now_ns + suspect_ns, Event::Suspect { who });
    }

    /// Who is still away then is out.
    fn suspect(&mut self, who: Life) {
        let state = &mut self.nodes[usize::from(who.node)];
        if state.life == who.life && (state.away_since_ns.is_some() || state.station.is_none()) {
            state.suspected = true;
            self.plan_decision();
        }
    }

    /// Whoever can be reached again in time keeps its lease.
    fn reached(&mut self) {
        for index in 0..self.spec.nodes {
            if self.is_reachable(index) {
                self.nodes[usize::from(index)].away_since_ns = None;
                if !self.is_member(self.who(index)) {
                    self.plan_decision();
                }
            }
        }
        self.judge.disturbed(self.now_ns);
    }

    fn is_reachable(&self, node: u8) -> bool {
        let state = &self.nodes[usize::from(node)];
        let cut_off = self.now_ns < self.partition_until_ns && self.side >> node & 1 == 1;
        state.station.is_some() && self.now_ns >= state.paused_until_ns && !cut_off
    }

    fn is_member(&self, who: Life) -> bool {
        self.epochs
            .last()
            .is_some_and(|(members, _)| members.contains(&who))
    }

    /// Members that live, have their lease and can be reached.
    fn well(&self) -> usize {
        (0..self.spec.nodes)
            .filter(|node| {
                let state = &self.nodes[usize::from(*node)];
                self.is_reachable(*node) && !state.stopped && self.is_member(self.who(*node))
            })
            .count()
    }

    fn resume(&mut self, node: u8) {
        let index = usize::from(node);
        if self.nodes[index].paused_until_ns > self.now_ns {
            return;
        }
        self.note(|| format!("n{node} goes on"));
        let events = core::mem::take(&mut self.nodes[index].inbox);
        // Its timers first: it was away for long and does not know yet what came in.
        if self.nodes[index].wake_ns <= self.now_ns {
            self.nodes[index].wake_ns = self.now_ns;
            self.at(self.now_ns, Event::Wake { node });
        }
        for event in events {
            if !matches!(event, Event::Wake { .. }) {
                self.at(self.now_ns, event);
            }
        }
        self.reached();
    }

    /// Its lease ends now, unless it was renewed.
    fn lease_end(&mut self, who: Life) {
        let state = &self.nodes[usize::from(who.node)];
        let is_current = self.is_current(who);
        let over = !is_current
            || !self.is_member(who)
            || state
                .away_since_ns
                .is_some_and(|since_ns| self.now_ns >= since_ns + self.spec.lease_ns);
        if !over {
            return;
        }
        self.note(|| format!("{who} has no lease any more"));
        let state = &mut self.nodes[usize::from(who.node)];
        if state.life == who.life {
            state.suspected = true;
            state.lease_over = true;
        }
        if is_current {
            self.stop(who);
        }
        self.leases.retain(|(life, _)| *life != who);
        self.tell_fenced();
        if self.is_member(who) {
            self.plan_decision();
        }
    }

    /// What this life does counts no longer. It goes on for a while with what it believes.
    fn stop(&mut self, who: Life) {
        let state = &mut self.nodes[usize::from(who.node)];
        if state.stopped {
            return;
        }
        state.stopped = true;
        self.counts.fenced += 1;
        self.judge.died(self.now_ns, who);
        let after_ns = self.rng.u64(0..=2 * self.spec.lease_ns);
        self.at(self.now_ns + after_ns, Event::Restart { who });
    }

    /// Everybody who left up to which epoch is fenced?
    fn tell_fenced(&mut self) {
        let newest = self.epochs.len() as u32 - 1;
        let epoch = self
            .leases
            .iter()
            .map(|(_, epoch)| epoch - 1)
            .min()
            .unwrap_or(newest);
        if epoch > self.fenced_epoch {
            self.fenced_epoch = epoch;
            self.publish(Control::Fenced(epoch));
        }
    }

    /// Whether all is told, nobody waits, and all who live are members who know it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let at_peace = |node: &Node<S>| {
            node.station.is_none()
                || (!node.stopped
                    && node.told == self.log.len()
                    && node.clients.iter().all(Client::is_done))
        };
        let nodes = &self.nodes[..usize::from(self.spec.nodes)];
        let everybody = self
            .channels
            .values()
            .all(|channel| channel.arrived.is_empty())
            && (0..self.spec.nodes)
                .filter(|node| self.nodes[usize::from(*node)].station.is_some())
                .all(|node| self.is_member(self.who(node)));
        everybody
            && self.judge.pending() == 0
            && self.to_replay.is_empty()
            && self.leases.is_empty()
            && !self.decision_planned
            && nodes.iter().all(at_peace)
    }

    /// Messages on their way, or arrived and not passed on.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.messages.iter().flatten().count()
    }

    /// What everybody holds.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let stations = self.nodes.iter().filter_map(|node| node.station.as_ref());
        stations.map(Station::held).collect()
    }

    /// One client of `node` takes `resource` in EX, alone.
    pub fn sweep(&mut self, node: u8, resource: Resource) {
        let who = self.who(node);
        if !self.is_current(who) {
            return;
        }
        let txn = self.next_txn();
        let client = &mut self.nodes[usize::from(node)].clients[0];
        let wish = client.sweep(resource, txn);
        self.grant_wish(who, 0, wish);
        self.turn(node);
    }
}

impl<M> Default for Channel<M> {
    fn default() -> Self {
        Self {
            last_ns: 0,
            arrived: VecDeque::new(),
        }
    }
}

fn names(members: &[Life]) -> String {
    let names: Vec<String> = members.iter().map(ToString::to_string).collect();
    names.join(" ")
}
