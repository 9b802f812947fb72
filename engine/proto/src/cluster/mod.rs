//! Membership: who is in the cluster, who decides it, and when a dead node can do no more harm.
//!
//! A node tells the others by heartbeats that it lives, and writes blocks to voting areas that no reservation ever shuts
//! (S12). Views are decided on those areas by Disk Paxos (Gafni and Lamport, 2003), so that two nodes can decide, too. A
//! view's coordinator fences on every data target who is not in it, and only then may recovery begin. `docs/membership.md`
//! has the formats, the rules, and why they are safe.
//!
//! [`Cluster`] is the machine, [`Membership`] the seam at which another provider can take its place.

mod api;
mod area;
mod ballot;
mod choose;
mod config;
mod fence;
mod peer;

use std::collections::VecDeque;

use sandrail_wire::cluster::{ALL_NODES, FenceReport, Heartbeat, Life, NodeState, View};
use sandrail_wire::lock::{CoreId, Epoch, Incarnation, NodeId};

pub use api::{
    AreaAnswer, End, Event, FrameError, Membership, Request, RequestId, Stat, TargetAnswer,
};
pub use config::{AREAS_MAX, Config, ConfigError, NodeConfig, Settings, TARGETS_MAX, TargetKind};

use area::Area;
use ballot::Register;
use fence::Fence;
use peer::Peer;

use crate::time::Instant;

/// Where a life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Frames of a former life may be under way: nothing is said or written before they are dead.
    Waiting(Instant),
    /// What a former life wrote is being read from a majority of the voting areas.
    Recovering,
    /// Wants to become a member.
    Joining,
    /// Is one.
    Member,
    /// Is one, and wants to leave.
    Leaving,
    /// Was one, or never will be.
    Over(End),
}

/// One life of a node in the membership: a machine that does no I/O.
#[derive(Debug)]
pub struct Cluster {
    config: Config,
    me: Life,
    stage: Stage,
    random: fastrand::Rng,
    /// When the machine last had the processor.
    last_turn: Instant,
    peers: Vec<Peer>,
    /// Suspicions on the network count from here: the start, or the end of a pause of our own.
    heard_from: Instant,
    areas: Vec<Area>,
    /// The same for the voting areas: since when a majority of them answers.
    seen_from: Option<Instant>,
    register: Register,
    fence: Fence,
    /// How far the fence of `view` is, by its coordinator.
    report: FenceReport,
    /// Targets that may be used.
    usable: u64,
    /// Since when a life is known to be in no view: the bound for its lease.
    gone: Vec<(Life, Instant)>,
    /// When a view was last learned whose predecessor this node does not know, the first one for instance: lives may have come
    /// and gone meanwhile of which it never heard.
    skipped_at: Option<Instant>,
    /// Since when no member of the view seems to live.
    barren_since: Option<Instant>,
    next_beat: Instant,
    beat_due: bool,
    beat_sequence: u64,
    next_request: u64,
    requests: VecDeque<(RequestId, Request)>,
    events: VecDeque<Event>,
    stat: Stat,
}

impl Cluster {
    /// A new life. `incarnation` is greater than that of any life of this node before; `seed` is for delays that keep nodes
    /// from deciding at once.
    ///
    /// # Errors
    /// If the configuration cannot be right.
    pub fn new(
        config: Config,
        incarnation: Incarnation,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        if !incarnation.is_known() {
            return Err(ConfigError::NoIncarnation);
        }
        let me = Life {
            node: config.node,
            incarnation,
        };
        let stage = if config.may_have_predecessor {
            Stage::Waiting(now + config.settings.frame_lifetime)
        } else {
            Stage::Recovering
        };
        let others = config.nodes.iter().map(|node| node.node);
        let peers = others
            .filter(|node| *node != config.node)
            .map(Peer::new)
            .collect();
        Ok(Self {
            me,
            stage,
            random: fastrand::Rng::with_seed(seed),
            last_turn: now,
            peers,
            heard_from: now,
            areas: (0..config.areas).map(|_| Area::new(now)).collect(),
            seen_from: None,
            register: Register::new(),
            fence: Fence::new(&config),
            report: FenceReport::default(),
            usable: 0,
            gone: Vec::new(),
            skipped_at: None,
            barren_since: None,
            next_beat: now,
            beat_due: false,
            beat_sequence: 0,
            next_request: 1,
            requests: VecDeque::new(),
            events: VecDeque::new(),
            stat: Stat::default(),
            config,
        })
    }

    /// This life.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.me
    }

    /// What was counted.
    #[must_use]
    pub const fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Whether it is a member of the newest view that it knows.
    #[must_use]
    pub const fn is_member(&self) -> bool {
        matches!(self.stage, Stage::Member | Stage::Leaving)
    }

    /// Why it has ended, if it has.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        match self.stage {
            Stage::Over(end) => Some(end),
            _ => None,
        }
    }

    /// How far the fence of the newest view is, as far as this node knows.
    #[must_use]
    pub const fn fence_report(&self) -> &FenceReport {
        &self.report
    }

    /// A heartbeat, behind its Ethernet header.
    ///
    /// # Errors
    /// Why it does not count; it is counted by reason already.
    pub fn handle_frame(&mut self, now: Instant, bytes: &[u8]) -> Result<(), FrameError> {
        let beat = Heartbeat::parse(bytes, &self.config.seal)
            .inspect_err(|_| self.stat.frames_unreadable += 1)?;
        self.notice_pause(now);
        let result = self.hear(now, &beat);
        match result {
            Ok(()) => self.stat.beats_heard += 1,
            Err(FrameError::Late) => self.stat.frames_late += 1,
            Err(_) => self.stat.frames_foreign += 1,
        }
        self.turn(now);
        result
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.turn(now);
    }

    /// A voting area's answer. Those that come after the machine gave up waiting are known by their id, and ignored.
    pub fn handle_area(&mut self, now: Instant, id: RequestId, answer: AreaAnswer<'_>) {
        self.notice_pause(now);
        self.area_answered(now, id, answer);
        self.turn(now);
    }

    /// A data target's answer.
    pub fn handle_target(&mut self, now: Instant, id: RequestId, answer: TargetAnswer<'_>) {
        self.notice_pause(now);
        self.target_answered(now, id, answer);
        self.turn(now);
    }

    /// A data target advertised itself, unasked: it may have restarted, and forgotten its list (S11).
    pub fn handle_advertisement(&mut self, now: Instant, target: usize) {
        self.look_again(now, target);
        self.turn(now);
    }

    /// Writes the heartbeat that is due to `out`, for every other node, and returns its length. Call until there is none.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        if !core::mem::take(&mut self.beat_due) || !self.speaks() {
            return None;
        }
        self.beat_sequence += 1;
        let beat = Heartbeat {
            cluster: self.config.cluster,
            from: self.me,
            to: ALL_NODES,
            to_core: CoreId(0),
            sequence: self.beat_sequence,
            state: self.state(),
            hears: self.hears(),
            fence: self.report,
            view: self.register.decided,
        };
        let len_bytes = beat.emit(out, &self.config.seal).ok()?;
        self.stat.beats_sent += 1;
        Some(len_bytes)
    }

    /// The next request to a voting area or a target. Call until there is none, after every other verb.
    pub fn poll_request(&mut self) -> Option<(RequestId, Request)> {
        self.requests.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Over(_) => return None,
            Stage::Waiting(until) => return Some(until),
            _ => {}
        }
        let areas = self.areas.iter().map(Area::wake_at);
        areas
            .chain([self.next_beat])
            .chain(self.fence.wake_at())
            .min()
    }

    fn speaks(&self) -> bool {
        matches!(self.stage, Stage::Joining | Stage::Member | Stage::Leaving)
    }

    const fn state(&self) -> NodeState {
        match self.stage {
            Stage::Member => NodeState::Member,
            Stage::Leaving => NodeState::Leaving,
            _ => NodeState::Joining,
        }
    }

    fn ask(&mut self, request: Request) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.push_back((id, request));
        id
    }

    /// Everything that is due.
    fn turn(&mut self, now: Instant) {
        self.notice_pause(now);
        if let Stage::Waiting(until) = self.stage {
            if now < until {
                self.next_beat = until;
                return;
            }
            self.stage = Stage::Recovering;
            self.next_beat = now;
        }
        if matches!(self.stage, Stage::Over(_)) {
            return;
        }
        self.run_areas(now);
        if now >= self.next_beat {
            self.next_beat = now + self.config.settings.heartbeat;
            self.beat_due = self.speaks();
            self.suspect(now);
            self.choose(now);
        }
        self.run_ballot(now);
        self.run_fence(now);
        // A phase that began just now is written at once.
        self.run_areas(now);
    }

    /// After a pause of its own a node knows nothing of the others: what it would take for their silence is its own.
    fn notice_pause(&mut self, now: Instant) {
        let away = now.saturating_since(self.last_turn);
        self.last_turn = self.last_turn.max(now);
        if away > self.config.settings.heartbeat * (self.config.settings.missed_max / 2).max(1) {
            self.stat.own_pauses += 1;
            self.heard_from = now;
            self.seen_from = None;
            self.barren_since = None;
        }
    }

    /// A decided view, from a block, a heartbeat, or a ballot of this node's own.
    fn learn(&mut self, now: Instant, view: View) {
        if matches!(self.stage, Stage::Over(_)) {
            return;
        }
        let held = self.register.decided;
        if view.epoch == held.epoch && view != held {
            self.finish(End::Split(view.epoch));
            return;
        }
        if view.epoch <= held.epoch {
            return;
        }
        // Whose lease is over needs no record: all that is known of the unknown is as old.
        let bound = self.config.settings.lease + self.config.settings.clock_margin;
        self.gone.retain(|(_, at)| now < *at + bound);
        for life in held.members.as_slice() {
            if !view.members.contains(*life) {
                self.gone.push((*life, now));
            }
        }
        if view.epoch != next(held.epoch) || self.skipped_at.is_none() {
            self.skipped_at = Some(now);
        }
        self.register.decide(view);
        self.barren_since = None;
        self.report = FenceReport {
            epoch: view.epoch,
            ..FenceReport::default()
        };
        self.events.push_back(Event::View(view));
        let is_skip = view.epoch != next(held.epoch);
        match (self.stage, view.members.contains(self.me)) {
            // It may have been let in and put out again without ever hearing of it, and nobody comes back in the same life.
            (Stage::Joining, _) if is_skip && self.beat_sequence > 0 => {
                return self.finish(End::Expelled(view.epoch));
            }
            (Stage::Joining, true) => self.stage = Stage::Member,
            (Stage::Member, false) => return self.finish(End::Expelled(view.epoch)),
            (Stage::Leaving, false) => return self.finish(End::Left),
            _ => {}
        }
        if view.coordinator_life() == Some(self.me) {
            self.fence.start(now, view.epoch);
        } else {
            self.fence.stop();
        }
        // Everybody else is told without delay.
        self.next_beat = now;
    }

    fn finish(&mut self, end: End) {
        if !matches!(self.stage, Stage::Over(_)) {
            self.stage = Stage::Over(end);
            self.fence.stop();
            self.requests.clear();
            self.beat_due = false;
            self.usable = 0;
            self.events.push_back(Event::Over(end));
        }
    }

    /// How far the fence is: by this node's own work, or by its coordinator's word.
    fn take_report(&mut self, report: FenceReport) {
        if report.epoch != self.register.decided.epoch || matches!(self.stage, Stage::Over(_)) {
            return;
        }
        let epoch = report.epoch;
        for target in 0..self.config.targets.len() {
            let bit = 1 << target;
            if report.fenced & bit != 0 && self.report.fenced & bit == 0 {
                self.events.push_back(Event::TargetFenced { epoch, target });
            } else if report.offline & bit != 0 && self.report.offline & bit == 0 {
                self.events
                    .push_back(Event::TargetOffline { epoch, target });
            }
        }
        let was_complete = self.report.is_complete;
        self.report.fenced |= report.fenced;
        self.report.offline = report.offline & !self.report.fenced;
        self.report.is_complete |= report.is_complete;
        self.usable |= self.report.fenced;
        if self.report.is_complete {
            // What is not fenced may hold writes of the dead that are still to come.
            self.usable = self.report.fenced;
            if !was_complete {
                self.events.push_back(Event::RecoveryMayBegin { epoch });
            }
        }
    }

    /// The moment from which on this dead life cannot have renewed its lease.
    fn gone_since(&self, life: Life) -> Option<Instant> {
        if self.register.decided.members.contains(life) {
            return None;
        }
        let noted = self.gone.iter().find(|(dead, _)| *dead == life);
        noted.map(|(_, at)| *at).or(self.skipped_at)
    }
}

impl Membership for Cluster {
    fn view(&self) -> &View {
        &self.register.decided
    }

    fn lease_valid(&self, now: Instant) -> bool {
        self.is_member()
            && self
                .lease_from()
                .is_some_and(|from| now < from + self.config.settings.lease)
    }

    fn may_grant_over(&self, dead: Life, now: Instant) -> bool {
        let settings = &self.config.settings;
        self.lease_valid(now)
            && self.report.is_complete
            && self
                .gone_since(dead)
                .is_some_and(|at| now >= at + settings.lease + settings.clock_margin)
    }

    fn is_usable(&self, target: usize) -> bool {
        self.is_member() && target < self.config.targets.len() && self.usable >> target & 1 == 1
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn leave(&mut self, now: Instant) {
        match self.stage {
            Stage::Member if self.register.decided.members.len() > 1 => {
                self.stage = Stage::Leaving;
                self.register.touch();
                self.next_beat = now;
            }
            Stage::Leaving | Stage::Over(_) => {}
            // Nobody is there who could decide a view without it.
            _ => self.finish(End::Left),
        }
        self.turn(now);
    }
}

/// The bit that stands for a node.
const fn bit(node: NodeId) -> u64 {
    1 << (node.0 & 63)
}

/// The epoch behind this one. Nobody lives to see the last.
const fn next(epoch: Epoch) -> Epoch {
    Epoch(epoch.0.saturating_add(1))
}
