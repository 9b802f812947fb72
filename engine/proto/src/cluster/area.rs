//! Voting areas: one endless cycle each, which writes this node's block and then reads everybody's. Heartbeats, ballots and
//! leases all live on it.

use sandrail_wire::cluster::{BLOCK_BYTES, Block};
use sandrail_wire::lock::NodeId;

use super::api::{AreaAnswer, End, Request, RequestId};
use super::peer::newer;
use super::{Cluster, Stage};
use crate::time::Instant;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Until the next cycle. What is new does not wait, unless the last cycle failed and `is_pause` is set.
    Idle { until: Instant, is_pause: bool },
    /// The block is being written.
    Writing(Cycle),
    /// The others' blocks are being read.
    Reading(Cycle),
}

#[derive(Clone, Copy, Debug)]
struct Cycle {
    id: RequestId,
    /// What the register held when the block was written.
    version: u64,
    /// When the block was sent: leases run from here (S13).
    began: Instant,
    deadline: Instant,
}

#[derive(Debug)]
pub(super) struct Area {
    step: Step,
    /// The sector that the next block goes to, within this node's part.
    rotation: u16,
    /// A block with this state of the register was written, and all blocks were read after that.
    pub(super) done_version: u64,
    /// When the cycle began that last renewed the lease.
    pub(super) renewed_from: Option<Instant>,
    /// When it was last read.
    pub(super) read_at: Option<Instant>,
}

impl Area {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            step: Step::Idle {
                until: now,
                is_pause: false,
            },
            rotation: 0,
            done_version: 0,
            renewed_from: None,
            read_at: None,
        }
    }

    pub(super) const fn wake_at(&self) -> Instant {
        match self.step {
            Step::Idle { until, .. } => until,
            Step::Writing(cycle) | Step::Reading(cycle) => cycle.deadline,
        }
    }
}

impl Cluster {
    /// Starts what is due and gives up what takes too long.
    pub(super) fn run_areas(&mut self, now: Instant) {
        for at in 0..self.areas.len() {
            if matches!(self.stage, Stage::Over(_) | Stage::Waiting(_)) {
                return;
            }
            if let Step::Writing(cycle) | Step::Reading(cycle) = self.areas[at].step
                && now >= cycle.deadline
            {
                self.stat.area_timeouts += 1;
                self.areas[at].step = Step::Idle {
                    until: now,
                    is_pause: false,
                };
            }
            if let Step::Idle { until, is_pause } = self.areas[at].step {
                let is_news = self.areas[at].done_version < self.register.version;
                let is_at_once = is_news && !is_pause && self.stage != Stage::Recovering;
                if now >= until || is_at_once {
                    self.start_cycle(now, at);
                }
            }
        }
    }

    /// The block is only written once this node knows what its former lives wrote.
    fn start_cycle(&mut self, now: Instant, at: usize) {
        let deadline = now + self.config.settings.area_timeout;
        let version = self.register.version;
        let cycle = |id| Cycle {
            id,
            version,
            began: now,
            deadline,
        };
        if self.stage == Stage::Recovering {
            let id = self.ask_to_read(at);
            self.areas[at].step = Step::Reading(cycle(id));
            return;
        }
        self.register.sequence += 1;
        let block = Block {
            cluster: self.config.cluster,
            area: u8::try_from(at).unwrap_or(u8::MAX),
            from: self.me,
            sequence: self.register.sequence,
            state: self.state(),
            hears: self.hears(),
            decided: self.register.decided,
            begun: self.register.begun,
            proposed: self.register.proposed,
            value: self.register.value,
        };
        let bytes = Box::new(block.to_bytes(&self.config.seal));
        let per_node = self.config.settings.sectors_per_node;
        let rotation = self.areas[at].rotation;
        self.areas[at].rotation = (rotation + 1) % per_node;
        let sector = u32::from(self.me.node.0) * u32::from(per_node) + u32::from(rotation);
        let id = self.ask(Request::Write {
            area: at,
            sector,
            bytes,
        });
        self.areas[at].step = Step::Writing(cycle(id));
    }

    /// Everybody's sectors, this node's among them.
    fn ask_to_read(&mut self, at: usize) -> RequestId {
        let (first, last) = self.node_range();
        let per_node = u32::from(self.config.settings.sectors_per_node);
        self.ask(Request::Read {
            area: at,
            first: u32::from(first.0) * per_node,
            count: u32::from(last.0 - first.0 + 1) * per_node,
        })
    }

    fn node_range(&self) -> (NodeId, NodeId) {
        let nodes = || self.config.nodes.iter().map(|node| node.node);
        (
            nodes().min().unwrap_or_default(),
            nodes().max().unwrap_or_default(),
        )
    }

    pub(super) fn area_answered(&mut self, now: Instant, id: RequestId, answer: AreaAnswer<'_>) {
        let is_it = |area: &Area| match area.step {
            Step::Writing(cycle) | Step::Reading(cycle) => cycle.id == id,
            Step::Idle { .. } => false,
        };
        let Some(at) = self.areas.iter().position(is_it) else {
            return;
        };
        let pause = self.config.settings.disk_heartbeat;
        match (self.areas[at].step, answer) {
            (Step::Writing(cycle), AreaAnswer::Written) => {
                let id = self.ask_to_read(at);
                self.areas[at].step = Step::Reading(Cycle { id, ..cycle });
            }
            (Step::Writing(_), AreaAnswer::Closed) => {
                self.stat.sectors_closed += 1;
                self.areas[at].step = Step::Idle {
                    until: now + pause / 4,
                    is_pause: true,
                };
            }
            (Step::Reading(cycle), AreaAnswer::Read(bytes)) => {
                let until = (cycle.began + pause).max(now + pause / 4);
                self.areas[at].step = Step::Idle {
                    until,
                    is_pause: false,
                };
                self.area_read(now, at, cycle, bytes);
            }
            _ => {
                self.stat.area_failures += 1;
                self.areas[at].step = Step::Idle {
                    until: now + pause / 2,
                    is_pause: true,
                };
            }
        }
    }

    fn area_read(&mut self, now: Instant, at: usize, cycle: Cycle, bytes: &[u8]) {
        let (sectors, _) = bytes.as_chunks::<BLOCK_BYTES>();
        let (first, last) = self.node_range();
        let per_node = usize::from(self.config.settings.sectors_per_node);
        if sectors.len() != usize::from(last.0 - first.0 + 1) * per_node {
            // Half an answer could hide the very block that matters.
            self.stat.area_failures += 1;
            return;
        }
        let recovering = self.stage == Stage::Recovering;
        for (node, part) in (first.0..=last.0).map(NodeId).zip(sectors.chunks(per_node)) {
            let mut own_newest = None;
            for (place, sector) in part.iter().enumerate() {
                let Some(peeked) = Block::peek(sector) else {
                    continue;
                };
                if node == self.me.node {
                    if !recovering && peeked.0 <= self.me.incarnation {
                        continue;
                    }
                    if own_newest.is_none_or(|(newest, _)| peeked > newest) {
                        own_newest = Some((peeked, place));
                    }
                } else if !self.is_news(node, peeked) {
                    continue;
                }
                match Block::parse(sector, &self.config.seal) {
                    Ok(block)
                        if block.cluster == self.config.cluster
                            && block.from.node == node
                            && usize::from(block.area) == at =>
                    {
                        self.see(now, &block);
                    }
                    _ => self.stat.blocks_unreadable += 1,
                }
                if matches!(self.stage, Stage::Over(_)) {
                    return;
                }
            }
            if let (true, Some((_, place))) = (recovering, own_newest) {
                let after = (place + 1) % per_node;
                self.areas[at].rotation = u16::try_from(after).unwrap_or(0);
            }
        }
        self.areas[at].read_at = Some(now);
        self.note_disk_access(now);
        if recovering {
            self.end_recovery();
            return;
        }
        self.areas[at].done_version = self.areas[at].done_version.max(cycle.version);
        if !self.is_member() {
            return;
        }
        if self.register.is_threatened(self.me) {
            // Who may be out must not renew: a view without this node may be decided already.
            self.stat.renewals_refused += 1;
        } else {
            let renewed = &mut self.areas[at].renewed_from;
            *renewed = (*renewed).max(Some(cycle.began));
        }
    }

    /// Since when a majority of the areas answers: who lives there cannot be told before.
    fn note_disk_access(&mut self, now: Instant) {
        let recent = self.config.settings.disk_suspect_after();
        let is_recent = |area: &&Area| area.read_at.is_some_and(|at| now < at + recent);
        let answering = self.areas.iter().filter(is_recent).count();
        if answering < self.config.majority() {
            self.seen_from = None;
        } else {
            self.seen_from.get_or_insert(now);
        }
    }

    /// Since when this node has been able to tell who lives on the voting areas.
    pub(super) fn disk_access(&mut self, now: Instant) -> Option<Instant> {
        let recent = self.config.settings.disk_suspect_after();
        let is_recent = |area: &&Area| area.read_at.is_some_and(|at| now < at + recent);
        if self.areas.iter().filter(is_recent).count() < self.config.majority() {
            self.seen_from = None;
        }
        self.seen_from
    }

    fn end_recovery(&mut self) {
        let read = self
            .areas
            .iter()
            .filter(|area| area.read_at.is_some())
            .count();
        if read < self.config.majority() {
            return;
        }
        self.register.recover();
        self.stage = Stage::Joining;
        self.next_beat = self.last_turn;
        for area in &mut self.areas {
            if let Step::Idle { until, .. } = &mut area.step {
                *until = self.last_turn;
            }
        }
    }

    /// A block of a node's, on its way into what is known of that node.
    fn see(&mut self, now: Instant, block: &Block) {
        if block.from.node == self.me.node {
            self.see_own(now, block);
            return;
        }
        let Some(peer) = self.peer_mut(block.from.node) else {
            return;
        };
        if peer.disk.is_some_and(|held| !newer(block, &held)) {
            return;
        }
        peer.disk = Some(*block);
        peer.disk_at = now;
        self.count_ballot(now, block);
    }

    fn see_own(&mut self, now: Instant, block: &Block) {
        if self.stage == Stage::Recovering {
            if block.from.incarnation >= self.me.incarnation {
                self.finish(End::AnotherLife);
                return;
            }
            self.register.keep_own(block);
            self.count_ballot(now, block);
        } else if block.from.incarnation > self.me.incarnation {
            self.finish(End::AnotherLife);
        }
    }

    fn is_news(&self, node: NodeId, peeked: (sandrail_wire::lock::Incarnation, u64)) -> bool {
        self.peer(node).is_some_and(|peer| {
            peer.disk
                .is_none_or(|held| peeked > (held.from.incarnation, held.sequence))
        })
    }

    /// From when on the lease runs: a majority of the areas has renewed it since (S13).
    pub(super) fn lease_from(&self) -> Option<Instant> {
        let mut renewals: Vec<_> = self.areas.iter().map(|area| area.renewed_from).collect();
        renewals.sort_unstable_by(|one, other| other.cmp(one));
        renewals[self.config.majority() - 1]
    }
}
