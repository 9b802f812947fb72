//! The production lock manager over its own transport: what nodes say are frames, which the network may lose, double and
//! reorder.

use std::collections::VecDeque;
use std::time::Duration;

use sandrail_proto::dlm::transport::{Peer, SendError, Transport, TransportConfig};
use sandrail_proto::dlm::{Epoch, Incarnation, NodeId};
use sandrail_proto::time::Instant;
use sandrail_wire::lock::{ClusterId, CoreId, Message};

use super::call::{Call, Life, LockId, Told};
use super::machine::{Forgery, Machine};
use super::station::{Begin, Held, Refused, Station};

/// A peer in the view: its life, and what is to be said to it.
#[derive(Debug, Default)]
struct Beside {
    life: Option<u32>,
    waiting: VecDeque<Message>,
}

/// A node and its transport.
#[derive(Debug)]
pub struct Wired {
    me: Life,
    machine: Machine,
    transport: Transport,
    beside: Vec<Beside>,
    frame: Vec<u8>,
}

/// Records that wait for a channel at most: a recovery says one thing of each lock, and a few of all slots.
const WAITING_MOST: usize = 4096;

fn peer(node: u8) -> Peer {
    Peer {
        node: NodeId(u16::from(node)),
        core: CoreId(0),
    }
}

impl Wired {
    /// Hands records to the channels as far as they take them.
    fn flush(&mut self, now: Instant) {
        while let Some((to, message)) = self.machine.poll_message(now) {
            // Who is not in the view any more is told nothing.
            if self.beside[usize::from(to)].life.is_some() {
                self.beside[usize::from(to)].waiting.push_back(message);
            }
        }
        for node in 0..self.beside.len() as u8 {
            let beside = &mut self.beside[usize::from(node)];
            let (Some(life), Some(channel)) = (beside.life, self.transport.channel(peer(node)))
            else {
                continue;
            };
            let info = self.transport.info(channel);
            if info.is_none_or(|info| info.incarnation != Incarnation(u64::from(life))) {
                continue;
            }
            while let Some(message) = beside.waiting.front() {
                let mut record = [0; 128];
                let len_bytes = message
                    .emit(&mut record)
                    .expect("128 bytes hold any record");
                match self.transport.send(now, channel, &record[..len_bytes]) {
                    Ok(()) => beside.waiting.pop_front(),
                    Err(SendError::Wait) => break,
                    Err(error) => panic!("{error}"),
                };
            }
        }
    }

    /// Takes what has arrived.
    fn take(&mut self, now: Instant) {
        loop {
            while self.transport.poll_event().is_some() {}
            let Some(received) = self.transport.poll_message() else {
                return;
            };
            let node = received.peer.node.0 as u8;
            let life = received.incarnation.0 as u32;
            let message = Message::parse(received.record).expect("a record that a node emitted");
            if self.beside[usize::from(node)].life == Some(life) {
                self.machine
                    .handle_message(now, Life { node, life }, &message);
            }
        }
    }
}

impl Station for Wired {
    type Message = Vec<u8>;
    type Flaw = Forgery;

    const FAMILY: &'static str = "dlm";
    const CENTRAL: bool = false;
    const LOSSY: bool = true;
    const WEAK_VALUES: bool = true;

    fn start(begin: &Begin, forgery: Forgery) -> Self {
        let mut config = TransportConfig::new(
            ClusterId(1),
            NodeId(u16::from(begin.me.node)),
            CoreId(0),
            Incarnation(u64::from(begin.me.life)),
        );
        config.rto_max = Duration::from_millis(5);
        let mut transport = Transport::new(config, Epoch(0)).expect("settings within their bounds");
        for node in (0..begin.nodes).filter(|node| *node != begin.me.node) {
            transport
                .add_peer(begin.now, peer(node))
                .expect("room for every node");
        }
        let frame = vec![0; transport.frame_bytes_max()];
        Self {
            me: begin.me,
            machine: Machine::start(begin, forgery),
            transport,
            beside: (0..begin.nodes).map(|_| Beside::default()).collect(),
            frame,
        }
    }

    fn set_members(&mut self, now: Instant, epoch: u32, members: &[Life], unreplayed: &[Life]) {
        for node in 0..self.beside.len() as u8 {
            let life = members.iter().find(|life| life.node == node);
            let life = life.map(|life| life.life).filter(|_| node != self.me.node);
            let beside = &mut self.beside[usize::from(node)];
            let is_same = beside.life == life;
            let had_one = beside.life.is_some();
            if !is_same {
                beside.waiting.clear();
                beside.life = life;
            }
            let known = self.transport.channel(peer(node)).and_then(|channel| {
                let info = self.transport.info(channel)?;
                Some((channel, info.incarnation))
            });
            // Whoever left is not heard again; its next life is met anew.
            if let Some((channel, incarnation)) = known
                && !is_same
                && had_one
                && life.is_none_or(|life| Incarnation(u64::from(life)) != incarnation)
            {
                self.transport.remove_peer(channel);
                self.transport
                    .add_peer(now, peer(node))
                    .expect("it was removed just now");
            }
        }
        self.transport.set_epoch(now, Epoch(u64::from(epoch)));
        self.machine.set_members(now, epoch, members, unreplayed);
        self.take(now);
    }

    fn fenced(&mut self, now: Instant, epoch: u32) {
        self.machine.fenced(now, epoch);
    }

    fn replayed(&mut self, now: Instant, dead: Life) {
        self.machine.replayed(now, dead);
    }

    fn call(&mut self, now: Instant, call: &Call) -> Result<(), Refused> {
        self.machine.call(now, call)
    }

    fn handle_message(&mut self, now: Instant, _: Life, frame: &Vec<u8>) {
        self.transport.handle_frame(now, frame);
        self.take(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.transport.handle_timeout(now);
        self.machine.handle_timeout(now);
    }

    fn poll_message(&mut self, now: Instant) -> Option<(u8, Vec<u8>)> {
        self.flush(now);
        let outgoing = self.transport.poll_transmit(now, &mut self.frame)?;
        let bytes = self.frame[..outgoing.len_bytes].to_vec();
        Some((outgoing.peer.node.0 as u8, bytes))
    }

    fn poll_told(&mut self) -> Option<Told> {
        self.machine.poll_told()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.machine.poll_timeout(), self.transport.poll_timeout()];
        times.into_iter().flatten().min()
    }

    fn held(&self) -> Held {
        let mut held = self.machine.held();
        let waiting = self.beside.iter().map(|beside| beside.waiting.len());
        held.messages += waiting.sum::<usize>();
        held
    }

    fn check_bounds(&self) -> Result<(), String> {
        for (node, beside) in self.beside.iter().enumerate() {
            if beside.waiting.len() > WAITING_MOST {
                return Err(format!("{} records wait for n{node}", beside.waiting.len()));
            }
        }
        self.machine.check_bounds()
    }

    fn knows(&self, lock: LockId) -> bool {
        self.machine.knows(lock)
    }
}
