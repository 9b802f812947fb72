//! What is known of the other nodes: by their heartbeats on the network, and by their blocks on the voting areas. The two
//! together tell a dead node from a cut network.

use sandrail_wire::cluster::{ALL_NODES, Block, Heartbeat, Life, NodeState};
use sandrail_wire::lock::{Epoch, Incarnation, NodeId};

use super::api::{Event, FrameError};
use super::{Cluster, bit};
use crate::time::Instant;

/// The newest heartbeat of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    pub(super) incarnation: Incarnation,
    sequence: u64,
    pub(super) at: Instant,
    pub(super) state: NodeState,
    hears: u64,
    /// The newest view that it knows.
    pub(super) epoch: Epoch,
}

/// What a member looks like from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Heard both ways, and alive on the voting areas.
    Fine,
    /// Alive on the voting areas, but not heard, or does not hear.
    Cut,
    /// Heard both ways, but not alive on the voting areas.
    DiskLost,
    /// Neither.
    Lost,
    /// Says itself that this life is over, or will be.
    Gone,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) news: Option<News>,
    pub(super) disk: Option<Block>,
    pub(super) disk_at: Instant,
    verdict: Verdict,
    verdict_since: Instant,
    /// The life that is suspected, once that was told.
    suspected: Option<Incarnation>,
}

impl Peer {
    pub(super) const fn new(node: NodeId) -> Self {
        Self {
            node,
            news: None,
            disk: None,
            disk_at: Instant::ZERO,
            verdict: Verdict::Fine,
            verdict_since: Instant::ZERO,
            suspected: None,
        }
    }

    fn newest_incarnation(&self) -> Incarnation {
        let heard = self
            .news
            .map_or(Incarnation::UNKNOWN, |news| news.incarnation);
        let seen = self
            .disk
            .map_or(Incarnation::UNKNOWN, |disk| disk.from.incarnation);
        heard.max(seen)
    }
}

/// Whether a block is newer than another one of the same node.
pub(super) fn newer(block: &Block, than: &Block) -> bool {
    (block.from.incarnation, block.sequence) > (than.from.incarnation, than.sequence)
}

impl Cluster {
    pub(super) fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.node == node)
    }

    pub(super) fn peer_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.node == node)
    }

    /// A heartbeat.
    pub(super) fn hear(&mut self, now: Instant, beat: &Heartbeat) -> Result<(), FrameError> {
        if beat.cluster != self.config.cluster {
            return Err(FrameError::OtherCluster);
        }
        if beat.to != ALL_NODES && beat.to != self.me.node {
            return Err(FrameError::Stranger);
        }
        let is_late = {
            let peer = self.peer_mut(beat.from.node).ok_or(FrameError::Stranger)?;
            let held = peer.news.map(|news| (news.incarnation, news.sequence));
            let is_late = held >= Some((beat.from.incarnation, beat.sequence));
            if !is_late {
                peer.news = Some(News {
                    incarnation: beat.from.incarnation,
                    sequence: beat.sequence,
                    at: now,
                    state: beat.state,
                    hears: beat.hears,
                    epoch: beat.view.epoch,
                });
            }
            is_late
        };
        // What was decided stays decided, however late it comes.
        if self.speaks() {
            self.learn(now, beat.view);
        }
        if is_late {
            return Err(FrameError::Late);
        }
        let view = &self.register.decided;
        if view.coordinator_life() == Some(beat.from) && beat.view == *view && self.is_member() {
            self.take_report(beat.fence);
        }
        Ok(())
    }

    /// The nodes heard of late, a bit each.
    pub(super) fn hears(&self) -> u64 {
        let recent = self.config.settings.suspect_after();
        let is_heard = |peer: &&Peer| {
            peer.news
                .is_some_and(|news| self.last_turn < news.at + recent)
        };
        self.peers
            .iter()
            .filter(is_heard)
            .fold(0, |set, peer| set | bit(peer.node))
    }

    /// Whether this life was heard of late, be it that nobody could hear for a while.
    pub(super) fn is_heard(&self, now: Instant, life: Life) -> bool {
        let after = self.config.settings.suspect_after();
        self.peer(life.node)
            .and_then(|peer| peer.news)
            .is_some_and(|news| {
                news.incarnation == life.incarnation && now < news.at.max(self.heard_from) + after
            })
    }

    /// Whether this life is heard, and hears this node.
    pub(super) fn is_mutual(&self, now: Instant, life: Life) -> bool {
        self.is_heard(now, life)
            && self
                .peer(life.node)
                .and_then(|peer| peer.news)
                .is_some_and(|news| news.hears & bit(self.me.node) != 0)
    }

    /// Whether this life has written a block of late. `access` is since when this node can tell.
    pub(super) fn is_on_disk(&self, now: Instant, access: Instant, life: Life) -> bool {
        let after = self.config.settings.disk_suspect_after();
        self.peer(life.node).is_some_and(|peer| {
            let is_it = peer.disk.is_some_and(|disk| disk.from == life);
            // A life that was never seen there has as long as any other to show itself.
            (is_it && now < peer.disk_at.max(access) + after)
                || (peer.newest_incarnation() <= life.incarnation && now < access + after)
        })
    }

    /// What this member looks like.
    fn judge(&self, now: Instant, access: Instant, life: Life) -> Verdict {
        let Some(peer) = self.peer(life.node) else {
            // Not in the configuration: nobody will ever hear of it.
            return Verdict::Gone;
        };
        let is_leaving = peer.news.is_some_and(|news| {
            news.incarnation == life.incarnation && news.state == NodeState::Leaving
        }) || peer
            .disk
            .is_some_and(|disk| disk.from == life && disk.state == NodeState::Leaving);
        if peer.newest_incarnation() > life.incarnation || is_leaving {
            return Verdict::Gone;
        }
        // Until it has had the time to be heard, a member counts as heard.
        let after = self.config.settings.suspect_after();
        let is_early = now < self.heard_from + after;
        let is_mutual = is_early || self.is_mutual(now, life);
        match (is_mutual, self.is_on_disk(now, access, life)) {
            (true, true) => Verdict::Fine,
            (false, true) => Verdict::Cut,
            (true, false) => Verdict::DiskLost,
            (false, false) => Verdict::Lost,
        }
    }

    /// Judges all members, and tells of suspicions.
    pub(super) fn suspect(&mut self, now: Instant) {
        let Some(access) = self.disk_access(now) else {
            return;
        };
        for at in 0..self.peers.len() {
            let Some(life) = self.register.decided.members.of(self.peers[at].node) else {
                self.peers[at].suspected = None;
                continue;
            };
            let verdict = self.judge(now, access, life);
            let peer = &mut self.peers[at];
            if verdict != peer.verdict {
                peer.verdict = verdict;
                peer.verdict_since = now;
            }
            let node = peer.node;
            match (verdict, peer.suspected) {
                (Verdict::Cut | Verdict::Lost, None) => {
                    peer.suspected = Some(life.incarnation);
                    self.stat.suspicions += 1;
                    let is_cut = verdict == Verdict::Cut;
                    self.events.push_back(Event::Suspected { node, is_cut });
                }
                (Verdict::Fine | Verdict::DiskLost, Some(suspected)) => {
                    peer.suspected = None;
                    if suspected == life.incarnation {
                        self.stat.false_suspicions += 1;
                        self.events.push_back(Event::Cleared { node });
                    }
                }
                _ => {}
            }
        }
    }

    /// The verdict on a member, and since when it stands. This node itself is fine.
    pub(super) fn verdict(&self, now: Instant, life: Life) -> (Verdict, Instant) {
        match self.peer(life.node) {
            Some(peer) => (peer.verdict, peer.verdict_since),
            None if life == self.me => (Verdict::Fine, now),
            None => (Verdict::Gone, Instant::ZERO),
        }
    }
}
