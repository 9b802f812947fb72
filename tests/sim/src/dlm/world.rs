//! Nodes with clients on a simulated network and clock, and whoever decides which of them are members.
//!
//! Membership is scripted by a know-all: a node that was out of the majority's reach when its lease ended has lost it
//! (S14), is fenced, and the others are told of a new epoch, each after a while of its own. A process that dies comes
//! back as another life of its node, and joins by another epoch.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use sandrail_proto::time::Instant;

use super::call::{Call, Life, Resource, Told, Txn};
use super::client::{Client, Load, Wish};
use super::judge::{Judge, Rules};
use super::station::{Begin, Held, Refused, Station};
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
        side: u16,
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
    Learn { who: Life, epoch: u32 },
    Replayed { dead: Life },
    Boot { node: u8 },
    Resume { node: u8 },
    Heal,
    Review,
}

struct Message<M> {
    from: Life,
    to: Life,
    content: M,
}

/// A node of the world.
pub struct Node<S> {
    /// Its process, while it lives.
    pub station: Option<S>,
    /// Which life it is in.
    pub life: u32,
    /// It has lost its lease: what it does no longer counts.
    pub fenced: bool,
    /// The last epoch that it has learned of, 0 for none.
    pub epoch: u32,
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

/// The system.
pub struct World<S: Station> {
    spec: WorldSpec,
    flaw: S::Flaw,
    now_ns: u64,
    rng: fastrand::Rng,
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    /// The nodes, and behind them the central server, if there is one.
    pub nodes: Vec<Node<S>>,
    messages: Vec<Option<Message<S::Message>>>,
    free: Vec<u32>,
    /// When the last message of a pair arrives.
    last_ns: BTreeMap<(Life, Life), u64>,
    /// What of a dead life's messages arrives later than this is lost.
    cut_ns: BTreeMap<Life, u64>,
    side: u16,
    partition_until_ns: u64,
    epochs: Vec<Vec<Life>>,
    decision_planned: bool,
    /// Dead lives that were members and whose log is not replayed.
    to_replay: Vec<Life>,
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
/// What the server of a manager that needs one is called.
const SERVER_LIFE: u32 = 1;

impl<S: Station> World<S> {
    /// Builds it; the first members start at time 0.
    #[must_use]
    pub fn new(spec: &WorldSpec, flaw: S::Flaw) -> Self {
        let node = |_| Node {
            station: None,
            life: 0,
            fenced: false,
            epoch: 0,
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
            nodes: (0..spec.nodes + u8::from(S::CENTRAL)).map(node).collect(),
            messages: Vec::new(),
            free: Vec::new(),
            last_ns: BTreeMap::new(),
            cut_ns: BTreeMap::new(),
            side: 0,
            partition_until_ns: 0,
            epochs: vec![Vec::new()],
            decision_planned: false,
            to_replay: Vec::new(),
            mishaps: Vec::new(),
            healed: false,
            transactions: 0,
            judge: Judge::new(spec.rules),
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
            Event::Learn { who, epoch } => self.learn(who, epoch),
            Event::Replayed { dead } => self.replayed(dead),
            Event::Boot { node } => {
                if self.nodes[usize::from(node)].station.is_none() {
                    self.boot(node);
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
        state.fenced = false;
        state.epoch = 0;
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
        state.inbox.clear();
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

    /// A node as such is out of reach from now on.
    fn away(&mut self, node: u8) {
        let who = self.who(node);
        let (now_ns, lease_ns) = (self.now_ns, self.spec.lease_ns);
        let state = &mut self.nodes[usize::from(node)];
        let is_new = state.away_since_ns.is_none();
        if is_new {
            state.away_since_ns = Some(now_ns);
        }
        // Of the dead nobody needs to fear that they read; but nobody knows either.
        let after_ns = if state.station.is_none() {
            self.rng.u64(0..=lease_ns)
        } else {
            lease_ns
        };
        if is_new || self.nodes[usize::from(node)].station.is_none() {
            self.at(now_ns + after_ns, Event::LeaseEnd { who });
        }
    }

    /// Whoever can be reached again in time keeps its lease.
    fn reached(&mut self) {
        for index in 0..self.spec.nodes {
            if self.is_reachable(index) {
                self.nodes[usize::from(index)].away_since_ns = None;
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
            .is_some_and(|members| members.contains(&who))
    }

    /// Members that live, have their lease and can be reached.
    fn well(&self) -> usize {
        (0..self.spec.nodes)
            .filter(|node| {
                let state = &self.nodes[usize::from(*node)];
                self.is_reachable(*node) && !state.fenced && self.is_member(self.who(*node))
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
        if who.life < state.life {
            // It has started again already; whoever it was is known to be dead.
            if self.is_member(who) {
                self.plan_decision();
            }
            return;
        }
        let is_over = state
            .away_since_ns
            .is_some_and(|since_ns| self.now_ns >= since_ns + self.spec.lease_ns)
            || state.station.is_none();
        if !is_over || state.fenced {
            return;
        }
        let lives = state.station.is_some();
        self.nodes[usize::from(who.node)].fenced = true;
        self.counts.fenced += u64::from(lives);
        self.note(|| format!("{who} has no lease any more"));
        self.judge.died(self.now_ns, who);
        self.plan_decision();
    }

    // Membership.

    fn plan_decision(&mut self) {
        if !self.decision_planned {
            self.decision_planned = true;
            let after_ns = self.rng.u64(0..=self.spec.decide_ns);
            self.at(self.now_ns + after_ns, Event::Decide);
        }
    }

    fn decide(&mut self) {
        let before = self.epochs.last().cloned().unwrap_or_default();
        let mut members = Vec::new();
        for node in 0..self.spec.nodes {
            let state = &self.nodes[usize::from(node)];
            let who = self.who(node);
            // Who died and was not missed yet stays a member; who came back meanwhile is another.
            let stays = before.contains(&who) && !state.fenced;
            let joins = !before.contains(&who) && self.is_reachable(node) && !state.fenced;
            if stays || joins {
                members.push(who);
            }
        }
        let epoch = self.epochs.len() as u32;
        self.note(|| format!("epoch {epoch}: {}", names(&members)));
        self.counts.epochs += 1;
        self.judge.disturbed(self.now_ns);
        for who in before.iter().filter(|who| !members.contains(who)) {
            self.to_replay.push(*who);
            let after_ns = self.rng.u64(0..=self.spec.replay_ns);
            self.at(self.now_ns + after_ns, Event::Replayed { dead: *who });
        }
        for who in &members {
            let late = self.rng.u32(..8) == 0;
            let limit_ns = self.spec.learn_ns * if late { 10 } else { 1 };
            let after_ns = self.rng.u64(0..=limit_ns);
            self.at(self.now_ns + after_ns, Event::Learn { who: *who, epoch });
        }
        self.epochs.push(members);
        if S::CENTRAL {
            let server = self.who(self.spec.nodes);
            self.learn(server, epoch);
        }
    }

    fn learn(&mut self, who: Life, epoch: u32) {
        let index = usize::from(who.node);
        if !self.is_current(who) || self.nodes[index].epoch >= epoch {
            return;
        }
        let joins = self.nodes[index].epoch == 0;
        self.nodes[index].epoch = epoch;
        self.note(|| format!("{who} learns of epoch {epoch}"));
        let members = self.epochs[epoch as usize].clone();
        let now = self.instant();
        if let Some(station) = &mut self.nodes[index].station {
            station.set_members(now, epoch, &members);
        }
        if let Some((_, _, seen)) = &mut self.nodes[index].doomed {
            *seen = true;
        }
        self.judge.disturbed(self.now_ns);
        self.turn(who.node);
        if joins {
            for client in 0..self.nodes[index].clients.len() as u16 {
                let after_ns = self.rng.u64(0..=self.spec.load.think_ns);
                self.plan_client(who, client, after_ns);
            }
        }
    }

    fn replayed(&mut self, dead: Life) {
        let newest = self.epochs.len() as u32 - 1;
        let knows = |node: &u8| {
            let state = &self.nodes[usize::from(*node)];
            let who = self.who(*node);
            self.is_current(who)
                && !state.fenced
                && self.now_ns >= state.paused_until_ns
                && self.is_member(who)
                && state.epoch == newest
        };
        let able: Vec<u8> = (0..self.spec.nodes).filter(knows).collect();
        let Some(node) = self.rng.choice(&able).copied() else {
            self.at(self.now_ns + 1_000_000, Event::Replayed { dead });
            return;
        };
        self.note(|| format!("n{node} has replayed the log of {dead}"));
        self.to_replay.retain(|other| *other != dead);
        self.judge.replayed(dead);
        let now = self.instant();
        // Whoever replays tells everybody; a manager that needs only one to know may be told by all.
        for index in 0..self.nodes.len() {
            if let Some(station) = &mut self.nodes[index].station {
                station.replayed(now, dead);
                self.turn(index as u8);
            }
        }
    }

    // Messages.

    fn turn(&mut self, node: u8) {
        let index = usize::from(node);
        let now = self.instant();
        let mut steps = 0;
        loop {
            let Some(station) = &mut self.nodes[index].station else {
                return;
            };
            if let Some((to, message)) = station.poll_message(now) {
                self.send(node, to, message);
                self.count_doom(node);
            } else if let Some(told) = station.poll_told() {
                self.tell(node, &told);
            } else {
                break;
            }
            steps += 1;
            if steps > TURN_MOST {
                let text = format!("n{node} sends and tells without end");
                return self.accuse(Violation::new(Promise::Livelock, text));
            }
            if self.violation.is_some() {
                return;
            }
        }
        let wake = self.nodes[index]
            .station
            .as_ref()
            .and_then(Station::poll_timeout);
        if let Some(wake) = wake {
            let at_ns = wake.as_nanos().max(self.now_ns);
            if self.nodes[index].wake_ns != at_ns {
                self.nodes[index].wake_ns = at_ns;
                self.at(at_ns, Event::Wake { node });
            }
        } else {
            self.nodes[index].wake_ns = u64::MAX;
        }
    }

    fn count_doom(&mut self, node: u8) {
        let Some((messages, down_ns, true)) = &mut self.nodes[usize::from(node)].doomed else {
            return;
        };
        if *messages > 0 {
            *messages -= 1;
            return;
        }
        let down_ns = *down_ns;
        self.nodes[usize::from(node)].doomed = None;
        if self.well() > 1 && !self.healed {
            self.counts.crashes_in_recovery += 1;
            self.crash(node);
            self.at(self.now_ns.saturating_add(down_ns), Event::Boot { node });
        }
    }

    fn send(&mut self, from: u8, to: u8, content: S::Message) {
        self.counts.messages += 1;
        let (from, to) = (self.who(from), self.who(to));
        if self.trace.is_some() {
            let text = format!("{from} -> {to}: {content:?}");
            self.note(|| text);
        }
        if S::LOSSY {
            return self.send_lossy(from, to, &content);
        }
        let mut at_ns = self.now_ns + self.spec.rates.delay_ns;
        if self.spec.rates.jitter_ns > 0 {
            at_ns += self.rng.u64(..self.spec.rates.jitter_ns);
        }
        if self.rng.u16(..) < self.spec.rates.straggle {
            at_ns += self.rng.u64(..=self.spec.rates.straggle_ns);
        }
        if self.is_cut(from.node, to.node) {
            at_ns = at_ns.max(self.partition_until_ns.saturating_add(self.spec.rates.delay_ns));
        }
        let last_ns = self.last_ns.entry((from, to)).or_default();
        at_ns = at_ns.max(*last_ns);
        *last_ns = at_ns;
        self.deliver_at(at_ns, from, to, content);
    }

    fn is_cut(&self, from: u8, to: u8) -> bool {
        self.now_ns < self.partition_until_ns && (self.side >> from ^ self.side >> to) & 1 == 1
    }

    fn send_lossy(&mut self, from: Life, to: Life, content: &S::Message) {
        let rates = self.spec.rates;
        if self.is_cut(from.node, to.node) || self.rng.u16(..) < rates.loss && !self.healed {
            self.counts.lost += 1;
            return;
        }
        let copies = 1 + u32::from(self.rng.u16(..) < rates.duplicate);
        for _ in 0..copies {
            let mut at_ns = self.now_ns + rates.delay_ns;
            if rates.jitter_ns > 0 {
                at_ns += self.rng.u64(..rates.jitter_ns);
            }
            if self.rng.u16(..) < rates.straggle {
                at_ns += self.rng.u64(..=rates.straggle_ns);
            }
            self.deliver_at(at_ns, from, to, content.clone());
        }
    }

    fn deliver_at(&mut self, at_ns: u64, from: Life, to: Life, content: S::Message) {
        let message = Some(Message { from, to, content });
        let index = if let Some(index) = self.free.pop() {
            self.messages[index as usize] = message;
            index
        } else {
            self.messages.push(message);
            self.messages.len() as u32 - 1
        };
        self.at(at_ns, Event::Arrive { message: index });
    }

    fn arrive(&mut self, index: u32) {
        let Some(message) = self.messages[index as usize].take() else {
            return;
        };
        self.free.push(index);
        let Message { from, to, content } = message;
        let cut = !S::LOSSY
            && self
                .cut_ns
                .get(&from)
                .is_some_and(|cut_ns| self.now_ns > *cut_ns);
        let node = usize::from(to.node);
        // A frame reaches whatever process the node runs; a channel ends with the life that it led to.
        let reaches = if S::LOSSY {
            self.nodes[node].station.is_some()
        } else {
            self.is_current(to)
        };
        if cut || !reaches {
            self.counts.lost += 1;
            return;
        }
        let is_server = S::CENTRAL && from.node == self.spec.nodes;
        self.counts.late += u64::from(!is_server && !self.is_member(from));
        let now = self.instant();
        if self.trace.is_some() {
            let text = format!("{to} gets from {from}: {content:?}");
            self.note(|| text);
        }
        if let Some(station) = &mut self.nodes[node].station {
            station.handle_message(now, from, &content);
        }
        self.turn(to.node);
        self.count_doom(to.node);
    }

    // Clients.

    fn plan_client(&mut self, who: Life, client: u16, after_ns: u64) {
        let serial = self.nodes[usize::from(who.node)].clients[usize::from(client)].next_serial();
        let event = Event::Client {
            who,
            client,
            serial,
        };
        self.at(self.now_ns.saturating_add(after_ns), event);
    }

    fn next_txn(&mut self) -> Txn {
        self.transactions += 1;
        Txn(self.transactions)
    }

    fn wake_client(&mut self, who: Life, client: u16, serial: u32) {
        let node = usize::from(who.node);
        let is_awaited = self.is_current(who)
            && self.nodes[node].clients[usize::from(client)].is_awaited(serial);
        // Who has no lease does nothing.
        if !is_awaited || self.nodes[node].fenced {
            return;
        }
        let txn = self.next_txn();
        let wish = self.nodes[node].clients[usize::from(client)].woken(&self.spec.load, txn);
        self.grant_wish(who, client, wish);
        self.turn(who.node);
    }

    fn grant_wish(&mut self, who: Life, client: u16, wish: Wish) {
        let node = usize::from(who.node);
        if let Some(after_ns) = wish.wake_ns {
            self.plan_client(who, client, after_ns);
        }
        for call in wish.calls {
            self.make_call(who, client, &call);
            if self.nodes[node].station.is_none() {
                return;
            }
        }
    }

    fn make_call(&mut self, who: Life, client: u16, call: &Call) {
        let now = self.instant();
        let node = usize::from(who.node);
        self.note(|| format!("{who} calls {call:?}"));
        let Some(station) = &mut self.nodes[node].station else {
            return;
        };
        // What a call takes away is gone before the node knows, what it asks for begins when it was accepted.
        match station.call(now, call) {
            Ok(()) => self.judge.called(self.now_ns, who, call),
            Err(Refused::Full) => {
                let wish = self.nodes[node].clients[usize::from(client)]
                    .refused(&self.spec.load, call.lock());
                self.grant_wish(who, client, wish);
            }
            Err(Refused::Wrong(text)) => {
                let text = format!("{who} refuses {call:?}: {text}");
                self.accuse(Violation::new(Promise::Completion, text));
            }
        }
    }

    fn tell(&mut self, node: u8, told: &Told) {
        let who = self.who(node);
        self.note(|| format!("{who} tells {told:?}"));
        let index = usize::from(node);
        if self.nodes[index].fenced {
            return;
        }
        let result = self.judge.told(self.now_ns, who, told);
        self.check(result);
        let client = Client::of(told.lock());
        let Some(state) = self.nodes[index].clients.get_mut(usize::from(client)) else {
            let text = format!("{who} tells {told:?}, and there is no such client");
            return self.accuse(Violation::new(Promise::Completion, text));
        };
        let wish = state.told(&self.spec.load, told);
        self.grant_wish(who, client, wish);
    }

    // What goes wrong, and how it ends.

    /// Lets it happen now, if enough members are left.
    pub fn befall(&mut self, mishap: Mishap) {
        match mishap {
            Mishap::Crash { node, down_ns } if self.well() > 1 => {
                self.crash(node);
                self.at(self.now_ns.saturating_add(down_ns), Event::Boot { node });
            }
            Mishap::CrashInRecovery {
                node,
                messages,
                down_ns,
            } => {
                self.nodes[usize::from(node)].doomed = Some((messages, down_ns, false));
            }
            Mishap::Pause { node, for_ns } if self.well() > 1 && self.is_reachable(node) => {
                self.note(|| format!("{mishap:?}"));
                self.judge.disturbed(self.now_ns);
                self.nodes[usize::from(node)].paused_until_ns = self.now_ns + for_ns;
                self.at(self.now_ns + for_ns, Event::Resume { node });
                self.away(node);
            }
            Mishap::Partition { side, for_ns } if self.side == 0 => self.part(side, for_ns),
            Mishap::Start { node } if !self.nodes[usize::from(node)].started => self.boot(node),
            Mishap::Epoch => self.plan_decision(),
            _ => {}
        }
    }

    fn part(&mut self, side: u16, for_ns: u64) {
        let members = self.epochs.last().cloned().unwrap_or_default();
        let able = |who: &&Life| {
            self.is_current(**who)
                && !self.nodes[usize::from(who.node)].fenced
                && side >> who.node & 1 == 0
        };
        let majority = members.iter().filter(able).count();
        if 2 * majority <= members.len() {
            return;
        }
        self.note(|| format!("nodes {side:#06x} are cut off for {for_ns} ns"));
        self.judge.disturbed(self.now_ns);
        (self.side, self.partition_until_ns) = (side, self.now_ns + for_ns);
        self.at(self.partition_until_ns, Event::Heal);
        for node in (0..self.spec.nodes).filter(|node| side >> node & 1 == 1) {
            if self.nodes[usize::from(node)].station.is_some() {
                self.away(node);
            }
        }
    }

    /// All is made well: everybody is reached and runs, and who was fenced starts anew. Clients begin nothing new.
    pub fn heal(&mut self) {
        self.note(|| "all is made well".to_owned());
        self.healed = true;
        self.partition_until_ns = self.partition_until_ns.min(self.now_ns);
        self.side = 0;
        for node in 0..self.spec.nodes {
            let index = usize::from(node);
            let state = &mut self.nodes[index];
            state.doomed = None;
            for client in &mut state.clients {
                client.stop();
            }
            if state.paused_until_ns > self.now_ns {
                state.paused_until_ns = self.now_ns;
                self.resume(node);
            }
            if self.nodes[index].fenced && self.nodes[index].station.is_some() {
                self.crash(node);
            }
            if self.nodes[index].station.is_none() && self.nodes[index].started {
                self.boot(node);
            }
        }
        self.reached();
    }

    /// Whether all is told, nobody waits, and all who live are members who know it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let newest = self.epochs.len() as u32 - 1;
        let at_peace = |node: &Node<S>| {
            node.station.is_none()
                || (!node.fenced
                    && node.epoch == newest
                    && node.clients.iter().all(Client::is_done))
        };
        let nodes = &self.nodes[..usize::from(self.spec.nodes)];
        let everybody = (0..self.spec.nodes)
            .filter(|node| self.nodes[usize::from(*node)].station.is_some())
            .all(|node| self.is_member(self.who(node)));
        everybody
            && self.judge.pending() == 0
            && self.to_replay.is_empty()
            && !self.decision_planned
            && nodes.iter().all(at_peace)
    }

    /// Messages on their way.
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

fn names(members: &[Life]) -> String {
    let names: Vec<String> = members.iter().map(ToString::to_string).collect();
    names.join(" ")
}
