//! The lock manager under random clients, deliveries, deaths and joins, judged by what clients are told.
//!
//! Channels are what the transport makes of them: in order, exactly once, and cut anywhere when one end dies.

mod dlm_bed;

use std::collections::{BTreeMap, VecDeque};

use dlm_bed::{Bed, name};
use sandrail_proto::dlm::{
    Ask, Change, Event, Flags, GrantNumber, LockId, Mode, Transaction, ValueBlock, Why,
};

const NODES: u16 = 4;
const CLIENTS: usize = 3;
const RESOURCES: u64 = 3;

/// What a client has of one lock.
#[derive(Clone, Copy, Debug)]
struct Held {
    client: u64,
    resource: u64,
    id: LockId,
    mode: Mode,
    /// A request that has not ended: the mode wanted.
    wants: Option<Mode>,
    is_new: bool,
}

/// A client: a transaction with a few locks.
#[derive(Clone, Debug, Default)]
struct Client {
    transaction: u64,
    locks: Vec<Held>,
}

/// A lock of a dead node.
#[derive(Clone, Copy, Debug)]
struct Ghost {
    node: u16,
    life: u64,
    resource: u64,
    mode: Mode,
    is_fenced: bool,
}

struct World {
    bed: Bed,
    random: fastrand::Rng,
    clients: BTreeMap<u16, Vec<Client>>,
    members: Vec<u16>,
    /// Views that a node has not been told of yet.
    late: BTreeMap<u16, VecDeque<(u64, Vec<u16>)>>,
    ghosts: Vec<Ghost>,
    /// What was written last, by resource.
    written: BTreeMap<u64, u64>,
    /// Grants so far, by resource: node, mode, number.
    numbers: BTreeMap<u64, BTreeMap<(u16, u8), GrantNumber>>,
    next: u64,
    granted: u64,
    victims: u64,
    seed: u64,
}

fn block(number: u64) -> [u8; 64] {
    let mut block = [0; 64];
    for part in block.chunks_exact_mut(8) {
        part.copy_from_slice(&number.to_be_bytes());
    }
    block
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let turns_max = random.u16(0..4);
        let mut bed = Bed::unborn(NODES, |config| config.turns_max = turns_max);
        let members: Vec<u16> = (0..NODES - 1).collect();
        bed.logs = std::env::var_os("DLM_SEED").is_some();
        bed.view(&members);
        bed.run();
        let clients = (0..NODES).map(|node| (node, vec![Client::default(); CLIENTS]));
        Self {
            clients: clients.collect(),
            bed,
            members,
            random,
            late: BTreeMap::new(),
            ghosts: Vec::new(),
            written: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next: 1,
            granted: 0,
            victims: 0,
            seed,
        }
    }

    fn fail(&self, what: &str) -> ! {
        for line in &self.bed.log {
            println!("{line}");
        }
        for (node, clients) in &self.clients {
            for client in clients.iter().filter(|client| !client.locks.is_empty()) {
                let locks = client.locks.iter().map(|lock| {
                    format!(
                        "{} of {} wants {:?} as {}",
                        lock.mode, lock.resource, lock.wants, lock.client
                    )
                });
                println!(
                    "{node}: {} {:?}",
                    client.transaction,
                    locks.collect::<Vec<_>>()
                );
            }
        }
        panic!("seed {}: {what}", self.seed);
    }

    fn step(&mut self) {
        let node = self.members[self.random.usize(0..self.members.len())];
        match self.random.u32(0..100) {
            0..=34 => self.act(node),
            35..=89 => self.deliver_one(),
            90..=94 => self.bed.pass(20_000),
            95..=98 => self.tell_late(node),
            _ => self.upset(),
        }
        self.read_events();
    }

    fn is_member_now(&mut self, node: u16) -> bool {
        self.bed.node(node).epoch().0 > 0
    }

    fn act(&mut self, node: u16) {
        if !self.is_member_now(node) {
            return;
        }
        let at = self.random.usize(0..CLIENTS);
        let client = self.clients[&node][at].clone();
        let waiting = client.locks.iter().find(|lock| lock.wants.is_some());
        if let Some(waiting) = waiting {
            if self.random.u8(0..8) == 0 {
                self.bed.cancel(node, waiting.id);
            }
            return;
        }
        if client.locks.len() < 2 && self.random.u8(0..2) == 0 {
            self.begin_lock(node, at);
        } else if let Some(held) = self.random.choice(&client.locks).copied() {
            if self.random.u8(0..3) == 0 {
                self.begin_convert(node, at, held);
            } else {
                self.give_back(node, at, held.client);
            }
        }
    }

    fn flags(&mut self, is_new: bool) -> Flags {
        let all: &[Flags] = if is_new {
            &[Flags::NOQUEUE, Flags::HEADQUE, Flags::ALTPR, Flags::ALTCW]
        } else {
            &[
                Flags::NOQUEUE,
                Flags::QUECVT,
                Flags::CONVDEADLK,
                Flags::ALTPR,
            ]
        };
        if self.random.u8(0..3) > 0 {
            return Flags::NONE;
        }
        all[self.random.usize(0..all.len())]
    }

    fn mode(&mut self) -> Mode {
        *self
            .random
            .choice(&[
                Mode::Ex,
                Mode::Ex,
                Mode::Pr,
                Mode::Pr,
                Mode::Cr,
                Mode::Cw,
                Mode::Pw,
                Mode::Nl,
            ])
            .expect("some mode")
    }

    fn begin_lock(&mut self, node: u16, at: usize) {
        let resource = self.random.u64(0..RESOURCES);
        let client = &mut self.clients.get_mut(&node).expect("clients")[at];
        if client.locks.iter().any(|lock| lock.resource == resource) {
            return;
        }
        if client.locks.is_empty() {
            client.transaction = self.next * 16 + u64::from(node);
        }
        let transaction = Transaction(client.transaction);
        let id = self.next;
        self.next += 1;
        let (mode, flags) = (self.mode(), self.flags(true));
        let timeout = (self.random.u8(0..8) == 0).then(|| core::time::Duration::from_micros(50));
        let ask = Ask {
            client: id,
            resource: name(resource),
            mode,
            flags,
            transaction,
            timeout,
        };
        self.bed.note(|| format!("{node} asks: {ask:?}"));
        let lock = self.bed.ask(node, &ask);
        let Ok(lock) = lock else {
            self.fail(&format!("{lock:?}"));
        };
        self.clients.get_mut(&node).expect("clients")[at]
            .locks
            .push(Held {
                client: id,
                resource,
                id: lock,
                mode: Mode::Nl,
                wants: Some(mode),
                is_new: true,
            });
    }

    fn begin_convert(&mut self, node: u16, at: usize, held: Held) {
        let (mode, flags) = (self.mode(), self.flags(false));
        let value = (held.mode.writes_value() && held.mode.covers(mode) && self.random.bool())
            .then(|| self.write(held.resource));
        let change = Change {
            mode,
            flags,
            timeout: None,
            value,
        };
        self.bed
            .note(|| format!("{node} converts {held:?}: {change:?}"));
        let now = self.bed.now;
        let begun = self.bed.node(node).convert(now, held.id, &change);
        if begun != Ok(()) {
            self.fail(&format!("{begun:?}"));
        }
        let locks = &mut self.clients.get_mut(&node).expect("clients")[at].locks;
        let lock = locks.iter_mut().find(|lock| lock.client == held.client);
        lock.expect("the lock").wants = Some(mode);
        self.bed.collect(node);
    }

    fn write(&mut self, resource: u64) -> [u8; 64] {
        self.next += 1;
        self.written.insert(resource, self.next);
        block(self.next)
    }

    fn give_back(&mut self, node: u16, at: usize, client: u64) {
        let locks = &mut self.clients.get_mut(&node).expect("clients")[at].locks;
        let place = locks.iter().position(|lock| lock.client == client);
        let held = locks.remove(place.expect("the lock"));
        let value =
            (held.mode.writes_value() && self.random.bool()).then(|| self.write(held.resource));
        self.bed
            .note(|| format!("{node} gives back {held:?}: {value:?}"));
        let now = self.bed.now;
        let done = self.bed.node(node).unlock(now, held.id, value.as_ref());
        if done != Ok(()) {
            self.fail(&format!("{done:?}"));
        }
        self.bed.collect(node);
    }

    fn deliver_one(&mut self) {
        let ready: Vec<(u16, u16)> = self
            .bed
            .wires
            .iter()
            .filter(|(_, wire)| !wire.is_empty())
            .map(|(ends, _)| *ends)
            .collect();
        if let Some((from, to)) = self.random.choice(&ready).copied() {
            self.bed.deliver(from, to);
        }
    }

    fn tell_late(&mut self, node: u16) {
        if let Some((epoch, members)) = self.late.get_mut(&node).and_then(VecDeque::pop_front) {
            let newest = core::mem::replace(&mut self.bed.epoch, epoch);
            self.bed.tell_view(node, &members);
            self.bed.epoch = newest;
        }
    }

    fn new_view(&mut self) {
        self.bed.next_view();
        let view = (self.bed.epoch, self.members.clone());
        for node in self.members.clone() {
            let late = self.late.entry(node).or_default();
            if !late.is_empty() && self.random.u8(0..4) == 0 {
                late.clear();
            }
            late.push_back(view.clone());
        }
    }

    /// Somebody dies or joins, is fenced, or has its log replayed.
    fn upset(&mut self) {
        match self.random.u8(0..6) {
            0 if self.members.len() > 1 => {
                let victim = self
                    .members
                    .remove(self.random.usize(0..self.members.len()));
                self.kill(victim);
                self.new_view();
            }
            1 | 2 => {
                let out: Vec<u16> = (0..NODES)
                    .filter(|node| !self.members.contains(node))
                    .collect();
                // A node comes back only after its former life was fenced and all know that it is gone.
                if let Some(node) = self.random.choice(&out).copied() {
                    self.settle_views();
                    self.join(node);
                }
            }
            3 => {
                self.settle_views();
                self.bed.fenced();
                for ghost in &mut self.ghosts {
                    ghost.is_fenced = true;
                }
                self.bury();
            }
            _ => self.replay(),
        }
    }

    fn bury(&mut self) {
        let unreplayed = self.bed.unreplayed.clone();
        self.ghosts.retain(|ghost| {
            let writes = ghost.mode.is_writing()
                && unreplayed
                    .iter()
                    .any(|dead| dead.node.0 == ghost.node && dead.incarnation.0 >= ghost.life);
            writes || !ghost.is_fenced
        });
    }

    fn replay(&mut self) {
        // Only what all members agree to be dead is replayed, and only after its fence.
        let dead: Vec<u16> = self.bed.unreplayed.iter().map(|dead| dead.node.0).collect();
        let Some(dead) = self.random.choice(&dead).copied() else {
            return;
        };
        self.settle_views();
        self.bed.fenced();
        for ghost in &mut self.ghosts {
            ghost.is_fenced = true;
        }
        self.bed.replayed(dead);
        self.bury();
    }

    fn kill(&mut self, victim: u16) {
        let life = self.bed.lives[usize::from(victim)];
        for client in self.clients.get_mut(&victim).expect("clients") {
            for lock in core::mem::take(client).locks {
                self.ghosts.push(Ghost {
                    node: victim,
                    life,
                    resource: lock.resource,
                    mode: lock.mode,
                    is_fenced: false,
                });
            }
        }
        self.late.remove(&victim);
        let mut wires = core::mem::take(&mut self.bed.wires);
        for ((from, to), wire) in &mut wires {
            if *from == victim {
                wire.truncate(self.random.usize(0..=wire.len()));
            }
            if *to == victim {
                wire.clear();
            }
        }
        self.bed.note(|| format!("{victim} dies"));
        self.bed.kill(victim);
        self.bed.wires = wires;
    }

    fn join(&mut self, node: u16) {
        // The channels of its former life are over.
        self.bed
            .wires
            .retain(|(from, to), _| *from != node && *to != node);
        let config = sandrail_proto::dlm::Config::small(sandrail_proto::dlm::NodeId(node));
        self.bed.nodes[usize::from(node)] = Some(sandrail_proto::dlm::Node::new(config));
        self.bed.lives[usize::from(node)] += 1;
        self.members.push(node);
        self.new_view();
    }

    /// All members learn of all views.
    fn settle_views(&mut self) {
        for node in self.members.clone() {
            while self.late.get(&node).is_some_and(|late| !late.is_empty()) {
                self.tell_late(node);
            }
        }
    }

    fn read_events(&mut self) {
        while let Some((node, event)) = self.bed.events.pop_front() {
            self.read(node, event);
        }
    }

    fn read(&mut self, node: u16, event: Event) {
        self.bed.note(|| format!("{node} told: {event:?}"));
        match event {
            Event::Granted {
                client,
                mode,
                grant,
                value,
                ..
            } => {
                self.granted += 1;
                let held = self.find(node, client);
                let Some(wanted) = held.wants.take() else {
                    self.fail(&format!("a second end of {client}"));
                };
                held.mode = mode;
                held.is_new = false;
                let resource = held.resource;
                let alternative = matches!(mode, Mode::Pr | Mode::Cw);
                if mode != wanted && !alternative {
                    self.fail(&format!("{mode} instead of {wanted}"));
                }
                self.check_grant(node, client, resource, mode, grant);
                self.check_value(resource, value);
            }
            Event::Denied { client, why, .. } => {
                let held = self.find(node, client);
                if held.wants.take().is_none() {
                    self.fail(&format!("a second end of {client}"));
                }
                let is_new = held.is_new;
                self.victims += u64::from(matches!(why, Why::Deadlock(_)));
                let clients = self.clients.get_mut(&node).expect("clients");
                for (at, one) in clients.clone().iter().enumerate() {
                    if !one.locks.iter().any(|lock| lock.client == client) {
                        continue;
                    }
                    let clients = self.clients.get_mut(&node).expect("clients");
                    if is_new {
                        clients[at].locks.retain(|lock| lock.client != client);
                    }
                    if matches!(why, Why::Deadlock(_)) {
                        // The victim gives up all it has.
                        for lock in clients[at].locks.clone() {
                            self.give_back(node, at, lock.client);
                        }
                    }
                }
            }
            Event::Blocking { .. } => {}
            Event::Demoted { client, .. } => self.find(node, client).mode = Mode::Nl,
            other => self.fail(&format!("{other:?}")),
        }
    }

    fn find(&mut self, node: u16, client: u64) -> &mut Held {
        let seed = self.seed;
        self.clients
            .get_mut(&node)
            .expect("clients")
            .iter_mut()
            .flat_map(|one| &mut one.locks)
            .find(|lock| lock.client == client)
            .unwrap_or_else(|| panic!("seed {seed}: an event for {client}, which is over"))
    }

    fn check_grant(
        &mut self,
        node: u16,
        client: u64,
        resource: u64,
        mode: Mode,
        grant: GrantNumber,
    ) {
        for (other, clients) in &self.clients {
            for lock in clients.iter().flat_map(|one| &one.locks) {
                if lock.resource == resource
                    && lock.client != client
                    && !lock.mode.is_compatible(mode)
                {
                    self.fail(&format!(
                        "{mode} of {resource} to {client} on {node} beside {} of {} on {other}",
                        lock.mode, lock.client
                    ));
                }
            }
        }
        for ghost in &self.ghosts {
            if ghost.resource == resource && !ghost.mode.is_compatible(mode) {
                self.fail(&format!("{mode} of {resource} on {node} over {ghost:?}"));
            }
        }
        if mode == Mode::Nl {
            return;
        }
        let numbers = self.numbers.entry(resource).or_default();
        for ((other, other_mode), number) in numbers.iter() {
            let other_mode = Mode::from_u8(*other_mode).expect("a mode");
            if *other != node && !other_mode.is_compatible(mode) && *number >= grant {
                panic!(
                    "seed {}: {grant:?} for {mode} on {node} after {number:?} for {other_mode} on {other}",
                    self.seed
                );
            }
        }
        numbers.insert((node, mode as u8), grant);
    }

    fn check_value(&mut self, resource: u64, value: ValueBlock) {
        if let ValueBlock::Valid { bytes, .. } = value {
            let expected = self.written.get(&resource).map(|number| block(*number));
            if expected != Some(bytes) {
                self.fail(&format!("a value block of {resource} that is not the last: {bytes:?} instead of {expected:?}"));
            }
        }
    }

    /// Lets everybody finish: nothing may be left.
    fn drain(&mut self) {
        self.settle_views();
        self.bed.fenced();
        while let Some(dead) = self.bed.unreplayed.first().copied() {
            self.bed.replayed(dead.node.0);
        }
        self.ghosts.clear();
        for _ in 0..400 {
            self.bed.run();
            self.read_events();
            let mut is_quiet = true;
            for node in self.members.clone() {
                for at in 0..CLIENTS {
                    let client = self.clients[&node][at].clone();
                    is_quiet &= client.locks.is_empty();
                    if client.locks.iter().all(|lock| lock.wants.is_none()) {
                        for lock in client.locks {
                            self.give_back(node, at, lock.client);
                        }
                    }
                }
            }
            if is_quiet {
                break;
            }
            self.bed.run();
            self.read_events();
            self.bed.pass(10_000_000);
            self.read_events();
        }
        self.bed.run();
        for node in self.members.clone() {
            let waits: Vec<Held> = self.clients[&node]
                .iter()
                .flat_map(|client| client.locks.clone())
                .collect();
            if !waits.is_empty() {
                let nodes: Vec<String> = self
                    .members
                    .clone()
                    .into_iter()
                    .map(|node| {
                        format!(
                            "{node}: {:?} {:?}",
                            self.bed.node(node).counts(),
                            self.bed.node(node).stat()
                        )
                    })
                    .collect();
                self.fail(&format!(
                    "stuck on node {node}: {waits:?}\n{}",
                    nodes.join("\n")
                ));
            }
            let counts = self.bed.node(node).counts();
            let busy = counts.locks
                + counts.waiting
                + counts.queued
                + counts.handoffs
                + counts.retained
                + counts.frozen_slots
                + counts.closed_slots;
            if busy != 0 {
                self.fail(&format!("left on node {node}: {counts:?}"));
            }
            let stat = self.bed.node(node).stat();
            if stat.conflicts != 0 {
                self.fail(&format!("conflicts were reported on node {node}: {stat:?}"));
            }
        }
    }
}

fn play(seed: u64, steps: u32) -> (u64, u64) {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.drain();
    (world.granted, world.victims)
}

#[test]
fn no_client_is_told_what_must_not_be() {
    let first = std::env::var("DLM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let count = std::env::var("DLM_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let seeds = match first {
        Some(first) => first..first + 1,
        None => 0..count.unwrap_or(150),
    };
    let (mut granted, mut victims) = (0, 0);
    for seed in seeds {
        let (more, sacrificed) = play(seed, 600);
        granted += more;
        victims += sacrificed;
    }
    assert!(
        granted > 1000 || first.is_some(),
        "{granted} grants: nothing was tried"
    );
    println!("{granted} grants, {victims} victims");
}
