//! What agent and master share: the time, the way out for messages and events, and the counters.

use std::collections::VecDeque;

use sandrail_wire::lock::{Body, Epoch, Message, NodeId, ResourceName};

use super::api::Event;
use super::stat::Stat;
use crate::time::Instant;

/// The node's desk.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) node: NodeId,
    pub(super) now: Instant,
    pub(super) out: VecDeque<(NodeId, Message)>,
    /// Messages of one half to the other.
    pub(super) inner: VecDeque<Message>,
    pub(super) events: VecDeque<Event>,
    pub(super) stat: Stat,
}

impl Desk {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            now: Instant::ZERO,
            out: VecDeque::with_capacity(1024),
            inner: VecDeque::with_capacity(64),
            events: VecDeque::with_capacity(1024),
            stat: Stat::default(),
        }
    }

    pub(super) fn send(&mut self, to: NodeId, term: Epoch, resource: ResourceName, body: Body) {
        let message = Message {
            term,
            resource,
            body,
        };
        if to == self.node {
            self.inner.push_back(message);
        } else {
            self.out.push_back((to, message));
        }
    }
}
