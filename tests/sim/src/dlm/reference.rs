//! A lock manager that is obviously right: one server, which never fails, has all queues in one place.
//!
//! It shows that the judge accuses nobody who keeps the rules, and, with one [`Flaw`] after the other, that each rule
//! broken is found.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sandrail_proto::time::Instant;

use super::call::{Call, Flags, Life, LockId, Mode, Resource, Stamp, Told, Txn, Value, Why};
use super::station::{Begin, Held, Refused, Station};

/// Which rule it breaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// None.
    #[default]
    None,
    /// PR is granted beside CW.
    Modes,
    /// Now and then a number is smaller than the one before.
    Numbers,
    /// What dead writers hold is free as soon as they are fenced.
    RetainedFreed,
    /// The block of a dead writer stays valid.
    ValueKept,
    /// A write of the block is sometimes forgotten.
    ValueForgotten,
    /// A byte of the block changes.
    ValueTorn,
    /// Some grants are told twice.
    ToldTwice,
    /// Some requests are forgotten.
    RequestForgotten,
    /// Some requests time out that have no limit.
    TimesOutAtWill,
    /// Who waits for whom is nobody's business.
    NoVictims,
    /// Some who wait are made victims without a reason.
    AnyVictim,
    /// Everybody in a deadlock is its victim.
    AllVictims,
    /// The last to ask is the first to get.
    LastFirst,
    /// Some locks given back are kept.
    UnlockForgotten,
    /// Records of what has ended stay.
    Leaks,
    /// It wants to be woken at once, for ever.
    Restless,
}

type Key = (Life, LockId);

#[derive(Clone, Debug)]
struct Entry {
    txn: Txn,
    held: Option<Mode>,
    wants: Option<Want>,
}

#[derive(Clone, Copy, Debug)]
struct Want {
    mode: Mode,
    flags: Flags,
    until_ns: u64,
    demoted: bool,
}

#[derive(Debug, Default)]
struct Queues {
    entries: BTreeMap<Key, Entry>,
    convert: VecDeque<Key>,
    wait: VecDeque<Key>,
    value: Option<Stamp>,
    retained: Vec<(Life, Mode)>,
}

#[derive(Debug, Default)]
struct Server {
    flaw: Flaw,
    members: Vec<Life>,
    /// Who is a member no longer, since when, and not fenced.
    left: Vec<(Life, u32)>,
    resources: BTreeMap<Resource, Queues>,
    places: BTreeMap<Key, Resource>,
    number: u64,
    calls: u64,
    leaked: usize,
    out: VecDeque<(Life, Told)>,
}

/// A node, or the server.
#[derive(Debug)]
pub struct Reference {
    me: Life,
    server_node: u8,
    server: Option<Server>,
    calls: VecDeque<Call>,
    told: VecDeque<Told>,
    known: BTreeSet<LockId>,
}

/// What nodes and server say.
#[derive(Clone, Debug)]
pub enum Message {
    /// To the server.
    Call(Call),
    /// From the server to a life.
    Told(Life, Told),
}

impl Queues {
    fn fits(&self, key: Key, mode: Mode, flaw: Flaw) -> bool {
        let beside = |other: Mode| {
            mode.is_beside(other) || (flaw == Flaw::Modes && mode == Mode::Pr && other == Mode::Cw)
        };
        let mut others = self.entries.iter().filter(|(other, _)| **other != key);
        others.all(|(_, entry)| entry.held.is_none_or(beside))
            && self.retained.iter().all(|(_, mode)| beside(*mode))
    }

    /// The mode that `want` gets now, if it gets one.
    fn fitting(&self, key: Key, want: &Want, flaw: Flaw) -> Option<Mode> {
        let mut modes = vec![want.mode];
        modes.extend(want.flags.altpr.then_some(Mode::Pr));
        modes.extend(want.flags.altcw.then_some(Mode::Cw));
        modes.into_iter().find(|mode| self.fits(key, *mode, flaw))
    }

    fn forget(&mut self, key: Key) {
        self.convert.retain(|other| *other != key);
        self.wait.retain(|other| *other != key);
    }
}

impl Server {
    fn is_flawed(&self, flaw: Flaw, every: u64) -> bool {
        self.flaw == flaw && self.calls.is_multiple_of(every)
    }

    fn tell(&mut self, key: Key, told: Told) {
        self.out.push_back((key.0, told));
    }

    fn call(&mut self, now_ns: u64, from: Life, call: &Call) {
        self.calls += 1;
        let key = (from, call.lock());
        match *call {
            Call::Lock {
                resource,
                mode,
                flags,
                txn,
                ..
            } => {
                if self.is_flawed(Flaw::RequestForgotten, 50) {
                    return;
                }
                self.places.insert(key, resource);
                let entry = Entry {
                    txn,
                    held: None,
                    wants: None,
                };
                let queues = self.resources.entry(resource).or_default();
                queues.entries.insert(key, entry);
                self.want(now_ns, resource, key, mode, flags);
            }
            Call::Convert {
                mode, flags, value, ..
            } => {
                let Some(resource) = self.places.get(&key).copied() else {
                    return;
                };
                self.write(resource, value);
                self.want(now_ns, resource, key, mode, flags);
                self.serve(resource);
            }
            Call::Unlock { value, .. } => {
                let Some(resource) = self.places.get(&key).copied() else {
                    return;
                };
                self.tell(key, Told::Unlocked { lock: key.1 });
                self.write(resource, value);
                if self.is_flawed(Flaw::UnlockForgotten, 50) {
                    return;
                }
                self.end(key);
                self.serve(resource);
            }
            Call::Cancel { .. } => self.deny(key, Why::Cancelled),
        }
        self.resolve();
    }

    fn write(&mut self, resource: Resource, value: Option<Stamp>) {
        if let Some(stamp) = value
            && !self.is_flawed(Flaw::ValueForgotten, 10)
        {
            self.resources.entry(resource).or_default().value = Some(stamp);
        }
    }

    fn end(&mut self, key: Key) {
        if let Some(resource) = self.places.remove(&key)
            && let Some(queues) = self.resources.get_mut(&resource)
        {
            queues.entries.remove(&key);
            queues.forget(key);
        }
        self.leaked += usize::from(self.is_flawed(Flaw::Leaks, 100));
    }

    fn want(&mut self, now_ns: u64, resource: Resource, key: Key, mode: Mode, flags: Flags) {
        let flaw = self.flaw;
        let queues = self.resources.entry(resource).or_default();
        let Some(entry) = queues.entries.get_mut(&key) else {
            return;
        };
        let converts = entry.held.is_some();
        let until_ns = flags
            .timeout_ns
            .map_or(u64::MAX, |limit_ns| now_ns + limit_ns);
        let want = Want {
            mode,
            flags,
            until_ns,
            demoted: false,
        };
        entry.wants = Some(want);
        let free = if converts {
            !flags.quecvt || queues.convert.is_empty()
        } else {
            flags.expedite || (queues.convert.is_empty() && queues.wait.is_empty())
        };
        if free && let Some(mode) = queues.fitting(key, &want, flaw) {
            return self.grant(resource, key, mode);
        }
        if flags.noqueue {
            return self.deny(key, Why::WouldBlock);
        }
        let queue = if converts {
            &mut queues.convert
        } else {
            &mut queues.wait
        };
        if flags.headque || flaw == Flaw::LastFirst {
            queue.push_front(key);
        } else {
            queue.push_back(key);
        }
        let in_the_way: Vec<Key> = queues
            .entries
            .iter()
            .filter(|(other, entry)| {
                **other != key && entry.held.is_some_and(|held| !held.is_beside(mode))
            })
            .map(|(other, _)| *other)
            .collect();
        for other in in_the_way {
            self.tell(other, Told::Blocking { lock: other.1 });
        }
        // Who is at the head now may fit.
        self.serve(resource);
    }

    fn grant(&mut self, resource: Resource, key: Key, mode: Mode) {
        self.number += 1;
        let mut number = self.number;
        if self.is_flawed(Flaw::Numbers, 20) {
            number = number.saturating_sub(40);
        }
        let torn = self.is_flawed(Flaw::ValueTorn, 10);
        let queues = self.resources.entry(resource).or_default();
        queues.forget(key);
        let value = match queues.value {
            Some(_) if torn => Value::Garbage,
            Some(stamp) => Value::Valid(stamp),
            None => Value::Invalid,
        };
        let Some(entry) = queues.entries.get_mut(&key) else {
            return;
        };
        let demoted = entry.wants.take().is_some_and(|want| want.demoted);
        entry.held = Some(mode);
        let told = Told::Granted {
            lock: key.1,
            mode,
            number,
            value,
            demoted,
        };
        if self.is_flawed(Flaw::ToldTwice, 50) {
            self.tell(key, told.clone());
        }
        self.tell(key, told);
    }

    fn deny(&mut self, key: Key, why: Why) {
        let Some(resource) = self.places.get(&key).copied() else {
            return;
        };
        let queues = self.resources.entry(resource).or_default();
        let Some(entry) = queues.entries.get_mut(&key) else {
            return;
        };
        if entry.wants.take().is_none() {
            return;
        }
        let held = entry.held;
        queues.forget(key);
        if held.is_none() {
            self.end(key);
        }
        let lock = key.1;
        self.tell(key, Told::Denied { lock, why, held });
        self.serve(resource);
    }

    /// Grants what can be granted now, in order.
    fn serve(&mut self, resource: Resource) {
        let flaw = self.flaw;
        loop {
            let queues = self.resources.entry(resource).or_default();
            let Some(key) = queues.convert.front().or(queues.wait.front()).copied() else {
                return;
            };
            let want = queues.entries[&key].wants;
            let Some(mode) = want.and_then(|want| queues.fitting(key, &want, flaw)) else {
                return;
            };
            self.grant(resource, key, mode);
        }
    }

    /// Who waits for whom.
    fn graph(&self) -> BTreeMap<Txn, BTreeMap<Txn, Key>> {
        let mut graph: BTreeMap<Txn, BTreeMap<Txn, Key>> = BTreeMap::new();
        for queues in self.resources.values() {
            let queued = queues.convert.iter().chain(&queues.wait);
            for (index, key) in queued.clone().enumerate() {
                let Some(want) = queues.entries[key].wants else {
                    continue;
                };
                let ahead = queued.clone().take(index);
                let holders = queues.entries.iter().filter(|(other, entry)| {
                    *other != key && entry.held.is_some_and(|held| !held.is_beside(want.mode))
                });
                for other in ahead.chain(holders.map(|(other, _)| other)) {
                    let (mine, theirs) = (queues.entries[key].txn, queues.entries[other].txn);
                    if mine != theirs {
                        graph.entry(mine).or_default().insert(theirs, *key);
                    }
                }
            }
        }
        graph
    }

    /// Breaks every deadlock there is.
    fn resolve(&mut self) {
        if self.flaw == Flaw::NoVictims {
            return;
        }
        loop {
            let graph = self.graph();
            if self.is_flawed(Flaw::AnyVictim, 50)
                && let Some((txn, edges)) = graph.first_key_value()
                && let Some((other, key)) = edges.first_key_value()
            {
                return self.deny(*key, Why::Deadlock(vec![*txn, *other]));
            }
            let Some(cycle) = graph.keys().find_map(|txn| cycle_through(&graph, *txn)) else {
                return;
            };
            let request = |index: usize| {
                let (txn, next) = (cycle[index], cycle[(index + 1) % cycle.len()]);
                graph[&txn][&next]
            };
            let demotable = (0..cycle.len()).map(request).find(|key| self.demote(*key));
            if demotable.is_some() {
                continue;
            }
            let victims: Vec<usize> = if self.flaw == Flaw::AllVictims {
                (0..cycle.len()).collect()
            } else {
                (0..cycle.len())
                    .max_by_key(|index| cycle[*index])
                    .into_iter()
                    .collect()
            };
            for index in victims {
                self.deny(request(index), Why::Deadlock(cycle.clone()));
            }
        }
    }

    /// Takes the lock of a conversion that allows it.
    fn demote(&mut self, key: Key) -> bool {
        let Some(resource) = self.places.get(&key).copied() else {
            return false;
        };
        let queues = self.resources.entry(resource).or_default();
        let Some(entry) = queues.entries.get_mut(&key) else {
            return false;
        };
        let Some(want) = entry.wants.as_mut().filter(|want| want.flags.convdeadlk) else {
            return false;
        };
        if entry.held.is_none_or(|held| held == Mode::Nl) {
            return false;
        }
        entry.held = Some(Mode::Nl);
        want.demoted = true;
        self.serve(resource);
        true
    }

    fn set_members(&mut self, epoch: u32, members: &[Life]) {
        for life in self.members.iter().filter(|life| !members.contains(life)) {
            self.left.push((*life, epoch));
        }
        self.members = members.to_vec();
    }

    /// Who left up to `epoch` holds nothing any more, but what they may have changed.
    fn fenced(&mut self, epoch: u32) {
        let is_over = |left: &u32| *left <= epoch;
        let gone: Vec<(Key, Resource)> = self
            .places
            .iter()
            .filter(|(key, _)| {
                self.left
                    .iter()
                    .any(|(life, left)| *life == key.0 && is_over(left))
            })
            .map(|(key, resource)| (*key, *resource))
            .collect();
        self.left.retain(|(_, left)| !is_over(left));
        for (key, resource) in &gone {
            let queues = self.resources.entry(*resource).or_default();
            let held = queues.entries[key].held;
            if let Some(mode) = held.filter(|mode| mode.writes())
                && self.flaw != Flaw::RetainedFreed
            {
                queues.retained.push((key.0, mode));
            }
            if held.is_some_and(Mode::writes_value) && self.flaw != Flaw::ValueKept {
                queues.value = None;
            }
            self.end(*key);
        }
        self.serve_all();
    }

    fn serve_all(&mut self) {
        let resources: Vec<Resource> = self.resources.keys().copied().collect();
        for resource in resources {
            self.serve(resource);
        }
        self.resolve();
    }

    fn replayed(&mut self, dead: Life) {
        for queues in self.resources.values_mut() {
            queues.retained.retain(|(life, _)| *life != dead);
        }
        self.serve_all();
    }

    fn wants(&self) -> impl Iterator<Item = (Key, Want)> {
        let entries = self.resources.values().flat_map(|queues| &queues.entries);
        entries.filter_map(|(key, entry)| entry.wants.map(|want| (*key, want)))
    }

    fn handle_timeout(&mut self, now_ns: u64) {
        let at_will = self.flaw == Flaw::TimesOutAtWill;
        let due: Vec<Key> = self
            .wants()
            .filter(|(_, want)| want.until_ns <= now_ns || at_will)
            .map(|(key, _)| key)
            .collect();
        for key in due {
            self.deny(key, Why::TimedOut);
        }
    }
}

fn cycle_through(graph: &BTreeMap<Txn, BTreeMap<Txn, Key>>, txn: Txn) -> Option<Vec<Txn>> {
    let mut path = vec![txn];
    let mut seen = BTreeSet::new();
    follow(graph, txn, &mut path, &mut seen).then_some(path)
}

fn follow(
    graph: &BTreeMap<Txn, BTreeMap<Txn, Key>>,
    goal: Txn,
    path: &mut Vec<Txn>,
    seen: &mut BTreeSet<Txn>,
) -> bool {
    let Some(last) = path.last().copied() else {
        return false;
    };
    for next in graph.get(&last).into_iter().flat_map(BTreeMap::keys) {
        if *next == goal {
            return true;
        }
        if seen.insert(*next) {
            path.push(*next);
            if follow(graph, goal, path, seen) {
                return true;
            }
            path.pop();
        }
    }
    false
}

impl Station for Reference {
    type Message = Message;
    type Flaw = Flaw;

    const FAMILY: &'static str = "dlm-reference";
    const CENTRAL: bool = true;
    const LOSSY: bool = false;
    const WEAK_VALUES: bool = false;

    fn start(begin: &Begin, flaw: Flaw) -> Self {
        let is_server = begin.me.node == begin.nodes;
        let server = Server {
            flaw,
            ..Server::default()
        };
        Self {
            me: begin.me,
            server_node: begin.nodes,
            server: is_server.then_some(server),
            calls: VecDeque::new(),
            told: VecDeque::new(),
            known: BTreeSet::new(),
        }
    }

    fn set_members(&mut self, _: Instant, epoch: u32, members: &[Life], _: &[Life]) {
        if let Some(server) = &mut self.server {
            server.set_members(epoch, members);
        }
    }

    fn fenced(&mut self, _: Instant, epoch: u32) {
        if let Some(server) = &mut self.server {
            server.fenced(epoch);
        }
    }

    fn replayed(&mut self, _: Instant, dead: Life) {
        if let Some(server) = &mut self.server {
            server.replayed(dead);
        }
    }

    fn call(&mut self, _: Instant, call: &Call) -> Result<(), Refused> {
        if matches!(call, Call::Lock { .. }) {
            self.known.insert(call.lock());
        }
        self.calls.push_back(*call);
        Ok(())
    }

    fn handle_message(&mut self, now: Instant, from: Life, message: &Message) {
        match (message, &mut self.server) {
            (Message::Call(call), Some(server)) if server.members.contains(&from) => {
                server.call(now.as_nanos(), from, call);
            }
            (Message::Told(whom, told), None) if *whom == self.me => {
                let ended = matches!(
                    told,
                    Told::Unlocked { .. } | Told::Denied { held: None, .. }
                );
                if ended {
                    self.known.remove(&told.lock());
                }
                self.told.push_back(told.clone());
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(server) = &mut self.server {
            server.handle_timeout(now.as_nanos());
            server.resolve();
        }
    }

    fn poll_message(&mut self, _: Instant) -> Option<(u8, Message)> {
        if let Some(server) = &mut self.server {
            let (whom, told) = server.out.pop_front()?;
            return Some((whom.node, Message::Told(whom, told)));
        }
        let call = self.calls.pop_front()?;
        Some((self.server_node, Message::Call(call)))
    }

    fn poll_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let server = self.server.as_ref()?;
        if server.flaw == Flaw::Restless {
            return Some(Instant::ZERO);
        }
        let next_ns = server.wants().map(|(_, want)| want.until_ns).min();
        let next_ns = if server.flaw == Flaw::TimesOutAtWill {
            next_ns.map(|_| server.calls.div_ceil(50) * 2_000_000)
        } else {
            next_ns
        };
        next_ns
            .filter(|next_ns| *next_ns < u64::MAX)
            .map(Instant::from_nanos)
    }

    fn held(&self) -> Held {
        let mut held = Held {
            locks: self.known.len(),
            messages: self.calls.len(),
            ..Held::default()
        };
        if let Some(server) = &self.server {
            held.locks += server.leaked;
            for queues in server.resources.values() {
                held.locks += queues.entries.len();
                held.queued += queues.convert.len() + queues.wait.len();
                held.retained += queues.retained.len();
            }
            held.cached = server.resources.len();
        }
        held
    }

    fn check_bounds(&self) -> Result<(), String> {
        Ok(())
    }

    fn knows(&self, lock: LockId) -> bool {
        self.known.contains(&lock)
    }
}
