//! The machine: its verbs, and the way of messages between its two halves.

use sandrail_wire::lock::{Body, Epoch, Incarnation, Message, NodeId, ResourceName, VALUE_BYTES};

use super::agent::Agent;
use super::api::{Ask, Change, Config, Event, LockId, Member, NODES_MAX, Refusal, View, ViewError};
use super::desk::Desk;
use super::map::bit;
use super::master::{COUNTER_BITS, Master, Turnover};
use super::stat::{Counts, Stat};
use crate::time::Instant;

/// A node of the lock manager, on one core: agent for its clients, master of its share of slots.
///
/// It does no I/O. After every verb, poll messages and events until there are none, and the timeout.
#[derive(Debug)]
pub struct Node {
    config: Config,
    epoch: Epoch,
    /// The view's members, a bit for each.
    alive: u64,
    incarnations: Vec<Incarnation>,
    /// Of the dead, the last life known to be dead and unreplayed.
    dead_lives: Vec<Incarnation>,
    unreplayed: u64,
    /// The last view with dead who are new.
    last_deaths: Epoch,
    agent: Agent,
    master: Master,
    desk: Desk,
}

impl Node {
    /// A node that is not a member yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            epoch: Epoch(0),
            alive: 0,
            incarnations: vec![Incarnation::UNKNOWN; usize::from(NODES_MAX)],
            dead_lives: vec![Incarnation::UNKNOWN; usize::from(NODES_MAX)],
            unreplayed: 0,
            last_deaths: Epoch(0),
            agent: Agent::new(&config),
            master: Master::new(&config),
            desk: Desk::new(config.node),
        }
    }

    /// A new membership is in force. Views may be missed; the dead between two of them must be in `unreplayed`.
    ///
    /// # Errors
    /// If it is not newer, or malformed; nothing has changed then.
    pub fn set_members(&mut self, now: Instant, view: &View<'_>) -> Result<(), ViewError> {
        self.desk.now = now;
        if view.epoch <= self.epoch {
            return Err(ViewError::Stale(view.epoch));
        }
        if view.epoch.0 >> (64 - COUNTER_BITS) != 0 {
            return Err(ViewError::Epoch(view.epoch));
        }
        let mut alive = 0;
        for member in view.members {
            if member.node.0 >= NODES_MAX {
                return Err(ViewError::Node(member.node));
            }
            if alive & bit(member.node) != 0 {
                return Err(ViewError::Twice(member.node));
            }
            alive |= bit(member.node);
        }
        if let Some(dead) = view.unreplayed.iter().find(|dead| dead.node.0 >= NODES_MAX) {
            return Err(ViewError::Node(dead.node));
        }
        let mut gone = self.alive & !alive;
        for member in view.members {
            let known = &mut self.incarnations[usize::from(member.node.0)];
            if self.alive & bit(member.node) != 0 && *known != member.incarnation {
                gone |= bit(member.node);
            }
            *known = member.incarnation;
        }
        let joined = alive & (!self.alive | gone);
        let mut unreplayed = 0;
        for dead in view.unreplayed {
            unreplayed |= bit(dead.node);
            let known = &mut self.dead_lives[usize::from(dead.node.0)];
            *known = (*known).max(dead.incarnation);
        }
        if gone != 0 || unreplayed & !self.unreplayed != 0 {
            self.last_deaths = view.epoch;
        }
        let is_late = self.epoch.0 != 0 && view.epoch.0 != self.epoch.0 + 1;
        self.epoch = view.epoch;
        self.unreplayed = unreplayed;
        let me = bit(self.config.node);
        if alive & me == 0 || gone & me != 0 {
            self.expel();
            return Ok(());
        }
        self.alive = alive;
        let turnover = Turnover {
            epoch: view.epoch,
            alive,
            gone,
            joined,
            unreplayed,
            is_late,
        };
        self.master.set_view(&mut self.desk, &turnover);
        let own = usize::from(self.config.node.0);
        self.agent.set_life(self.incarnations[own]);
        self.agent.set_map(&mut self.desk, view.epoch, alive, gone);
        self.settle();
        Ok(())
    }

    fn expel(&mut self) {
        self.alive = 0;
        self.agent.expel(&self.config);
        self.master = Master::new(&self.config);
        self.desk.out.clear();
        self.desk.inner.clear();
        self.desk.events.clear();
        let epoch = self.epoch;
        self.desk.events.push_back(Event::Expelled { epoch });
    }

    /// Who left up to this epoch is fenced, and their leases are over (S14): what they held for reading is free.
    pub fn fenced(&mut self, now: Instant, epoch: Epoch) {
        self.desk.now = now;
        if epoch >= self.last_deaths && epoch <= self.epoch {
            self.master.fenced(&mut self.desk);
            self.settle();
        }
    }

    /// The log of a dead node's life was replayed: what it held for writing is free.
    pub fn replayed(&mut self, now: Instant, dead: Member) {
        self.desk.now = now;
        let is_last = self
            .dead_lives
            .get(usize::from(dead.node.0))
            .is_some_and(|last| *last <= dead.incarnation);
        if is_last {
            self.unreplayed &= !bit(dead.node);
            self.master.replayed(&mut self.desk, dead.node);
            self.settle();
        }
    }

    fn check_member(&self) -> Result<(), Refusal> {
        if self.alive & bit(self.config.node) == 0 {
            return Err(Refusal::NotMember);
        }
        Ok(())
    }

    /// Asks for a new lock. What becomes of it is told by one event.
    ///
    /// # Errors
    /// If it could not begin; no event comes then.
    pub fn lock(&mut self, now: Instant, ask: &Ask) -> Result<LockId, Refusal> {
        self.check_member()?;
        self.desk.now = now;
        let lock = self.agent.lock(&mut self.desk, ask);
        self.settle();
        lock
    }

    /// Asks for another mode of a lock that is held. What becomes of it is told by one event.
    ///
    /// # Errors
    /// If it could not begin; no event comes then.
    pub fn convert(&mut self, now: Instant, lock: LockId, change: &Change) -> Result<(), Refusal> {
        self.check_member()?;
        self.desk.now = now;
        let begun = self.agent.convert(&mut self.desk, lock, change);
        self.settle();
        begun
    }

    /// Gives a lock back, at once and without an event. A value is written if the mode held is PW or EX.
    ///
    /// # Errors
    /// If there is no such lock, or a request for it is under way.
    pub fn unlock(
        &mut self,
        now: Instant,
        lock: LockId,
        value: Option<&[u8; VALUE_BYTES]>,
    ) -> Result<(), Refusal> {
        self.check_member()?;
        self.desk.now = now;
        let done = self.agent.unlock(&mut self.desk, lock, value);
        self.settle();
        done
    }

    /// Ends a request that waits, with the event [`Why::Cancelled`](super::Why::Cancelled).
    ///
    /// # Errors
    /// If the lock does not wait (any more): its event has been told already.
    pub fn cancel(&mut self, now: Instant, lock: LockId) -> Result<(), Refusal> {
        self.check_member()?;
        self.desk.now = now;
        let done = self.agent.cancel(&mut self.desk, lock);
        self.settle();
        done
    }

    /// A write under a lock in CW, PW or EX has begun. Until [`end_write`](Self::end_write) the lock does not leave this
    /// node, whoever waits, even after the client has given it back (S3).
    ///
    /// # Errors
    /// If the lock is not held in such a mode.
    pub fn begin_write(&mut self, lock: LockId) -> Result<(), Refusal> {
        self.check_member()?;
        self.agent.begin_write(lock)
    }

    /// A write is over: its last copy is accounted for, and, if it was to a log, durable (S3, S18).
    ///
    /// # Errors
    /// If none is under way on that resource.
    pub fn end_write(&mut self, now: Instant, resource: &ResourceName) -> Result<(), Refusal> {
        self.check_member()?;
        self.desk.now = now;
        let done = self.agent.end_write(&mut self.desk, resource);
        self.settle();
        done
    }

    /// Asks for `count` numbers of the resource's slot, none of which was ever given to anybody, without any lock.
    ///
    /// # Errors
    /// If this node is not a member, or too many such requests are under way.
    pub fn draw(
        &mut self,
        now: Instant,
        resource: ResourceName,
        client: u64,
        count: u32,
    ) -> Result<(), Refusal> {
        self.check_member()?;
        self.desk.now = now;
        let begun = self.agent.draw(&mut self.desk, resource, client, count);
        self.settle();
        begun
    }

    /// A message that the transport delivered.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: &Message) {
        self.desk.now = now;
        if from.0 >= NODES_MAX || from == self.config.node {
            self.desk.stat.wrong_sender += 1;
            return;
        }
        // Who joined may be ahead of this node, which then does not know it yet. A handoff is good whoever it comes from, if
        // it answers the request that is under way: of the dead, too, as long as the master has not been told that it failed.
        let may_be_ahead = matches!(message.body, Body::Collect(_) | Body::Hand { .. });
        if self.alive & bit(from) == 0 && !may_be_ahead {
            self.desk.stat.wrong_sender += 1;
            return;
        }
        self.dispatch(from, message);
        self.settle();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.desk.now = now;
        self.agent.handle_timeout(&mut self.desk);
        self.settle();
    }

    /// The next message to send. Call until there is none, after every other verb: what a new master is told is made here,
    /// record by record.
    pub fn poll_message(&mut self) -> Option<(NodeId, Message)> {
        loop {
            if let Some(message) = self.desk.out.pop_front() {
                return Some(message);
            }
            if !self.agent.step(&mut self.desk) {
                return None;
            }
            self.settle();
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.agent.poll_timeout()
    }

    /// The next event. Call until there is none, after every other verb.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.desk.events.pop_front()
    }

    /// The node's number.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.node
    }

    /// The epoch of the view in force; 0 if there was none.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What was counted since the start.
    #[must_use]
    pub fn stat(&self) -> Stat {
        self.desk.stat
    }

    /// What it holds. It looks at every record: not for the data path.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.agent.count(&mut counts);
        self.master.count(&mut counts);
        counts.messages = self.desk.out.len();
        counts
    }

    fn settle(&mut self) {
        loop {
            while let Some((to, term, slots)) = self.agent.accepted.pop() {
                self.master.cede(&mut self.desk, to, term, &slots);
            }
            let Some(message) = self.desk.inner.pop_front() else {
                return;
            };
            self.dispatch(self.config.node, &message);
        }
    }

    fn dispatch(&mut self, from: NodeId, message: &Message) {
        match &message.body {
            Body::Collect(slots) => {
                self.agent
                    .collect(&mut self.desk, self.epoch, from, message.term, slots);
            }
            Body::Grant { .. }
            | Body::Deny { .. }
            | Body::Block { .. }
            | Body::Hand { .. }
            | Body::Settled { .. }
            | Body::Ask { .. }
            | Body::Drawn { .. } => self.agent.handle(&mut self.desk, from, message),
            Body::ProbeNode { queued, probe, .. } => {
                self.agent.on_probe(&mut self.desk, message, *queued, probe);
            }
            Body::Ceded { .. } | Body::Doubt { .. } | Body::Reported { .. } => {
                self.master.handle_slots(&mut self.desk, from, message);
            }
            _ => self.master.handle(&mut self.desk, from, message),
        }
    }
}
