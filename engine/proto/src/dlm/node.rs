//! The machine: its verbs, and the way of messages between its two halves.

use std::collections::VecDeque;

use sandrail_wire::lock::{Epoch, Message, NodeId, ResourceName, VALUE_BYTES};

use super::api::{Ask, Change, Config, Event, LockId, Refusal, View, ViewError};
use crate::time::Instant;

/// A node of the lock manager, on one core.
#[derive(Debug)]
pub struct Node {
    config: Config,
    epoch: Epoch,
    out: VecDeque<(NodeId, Message)>,
    events: VecDeque<Event>,
}

impl Node {
    /// A node that is not a member yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            epoch: Epoch(0),
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A new membership is in force.
    ///
    /// # Errors
    /// If it is not newer, or malformed; nothing has changed then.
    pub fn set_members(&mut self, _now: Instant, view: &View<'_>) -> Result<(), ViewError> {
        if view.epoch <= self.epoch {
            return Err(ViewError::Stale(view.epoch));
        }
        self.epoch = view.epoch;
        Ok(())
    }

    /// Who left up to this epoch is fenced, and their leases are over (S14): what they held for reading is free.
    pub fn fenced(&mut self, _now: Instant, _epoch: Epoch) {}

    /// The log of a dead node was replayed: what it held for writing is free.
    pub fn replayed(&mut self, _now: Instant, _dead: NodeId) {}

    /// Asks for a new lock. What becomes of it is told by one event.
    ///
    /// # Errors
    /// If it could not begin; no event comes then.
    pub fn lock(&mut self, _now: Instant, _ask: &Ask) -> Result<LockId, Refusal> {
        Err(Refusal::NotMember)
    }

    /// Asks for another mode of a lock that is held. What becomes of it is told by one event.
    ///
    /// # Errors
    /// If it could not begin; no event comes then.
    pub fn convert(
        &mut self,
        _now: Instant,
        _lock: LockId,
        _change: &Change,
    ) -> Result<(), Refusal> {
        Err(Refusal::UnknownLock)
    }

    /// Gives a lock back, at once and without an event. A value is written if the mode held is PW or EX.
    ///
    /// # Errors
    /// If there is no such lock, or a request for it is under way.
    pub fn unlock(
        &mut self,
        _now: Instant,
        _lock: LockId,
        _value: Option<&[u8; VALUE_BYTES]>,
    ) -> Result<(), Refusal> {
        Err(Refusal::UnknownLock)
    }

    /// Ends a request that waits, with the event [`Why::Cancelled`](super::Why::Cancelled).
    ///
    /// # Errors
    /// If the lock does not wait (any more): its event has been told already.
    pub fn cancel(&mut self, _now: Instant, _lock: LockId) -> Result<(), Refusal> {
        Err(Refusal::UnknownLock)
    }

    /// Asks for `count` numbers of the resource's slot, none of which was ever given to anybody, without any lock.
    ///
    /// # Errors
    /// If this node is not a member, or too many such requests are under way.
    pub fn draw(
        &mut self,
        _now: Instant,
        _resource: ResourceName,
        _client: u64,
        _count: u32,
    ) -> Result<(), Refusal> {
        Err(Refusal::NotMember)
    }

    /// A message that the transport delivered.
    pub fn handle_message(&mut self, _now: Instant, _from: NodeId, _message: &Message) {}

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The next message to send. Call until there is none, after every other verb.
    pub fn poll_message(&mut self) -> Option<(NodeId, Message)> {
        self.out.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next event. Call until there is none, after every other verb.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The node's number.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.node
    }
}
