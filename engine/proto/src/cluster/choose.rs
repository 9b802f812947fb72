//! Which view this node wants next, and when it tries to get it. None of this is needed for safety: a wrong choice costs a
//! member its place, never anybody's data.

use core::time::Duration;

use sandrail_wire::cluster::{Life, MEMBERS_MAX, NodeState, View};

use super::api::End;
use super::peer::Verdict;
use super::{Cluster, Stage, TargetKind, next};
use crate::time::Instant;

impl Cluster {
    /// Begins a ballot if there is reason to.
    pub(super) fn choose(&mut self, now: Instant) {
        let Some(access) = self.disk_access(now) else {
            return;
        };
        if !self.may_attempt(now) {
            return;
        }
        let wanted = match self.stage {
            Stage::Joining => self.found(now, access),
            Stage::Member if self.register.decided.coordinator_life() == Some(self.me) => {
                self.amend(now, access)
            }
            Stage::Member => self.take_over(now, access),
            Stage::Leaving => {
                self.leave_alone(now);
                None
            }
            _ => None,
        };
        if let Some(wanted) = wanted {
            self.attempt(wanted);
        }
    }

    /// Who leaves, and has nobody left to decide a view without it, is done.
    fn leave_alone(&mut self, now: Instant) {
        let members = self.register.decided.members;
        let is_away = |life: &Life| {
            *life == self.me || matches!(self.verdict(now, *life).0, Verdict::Lost | Verdict::Gone)
        };
        if members.as_slice().iter().all(is_away) {
            self.finish(End::Left);
        }
    }

    /// Steps between nodes that might try the same at once.
    fn step(&self) -> Duration {
        self.config.settings.disk_heartbeat * 2
    }

    /// How many members with smaller numbers, except the coordinator, are well.
    fn rank(&self, now: Instant) -> u32 {
        let view = &self.register.decided;
        let ahead = view.members.as_slice().iter().filter(|life| {
            life.node < self.me.node
                && life.node != view.coordinator
                && self.verdict(now, **life).0 == Verdict::Fine
        });
        u32::try_from(ahead.count()).unwrap_or(u32::MAX)
    }

    /// Members that hear this node and are heard by it, itself among them; and members that live at all.
    fn groups(&self, now: Instant, access: Instant) -> (usize, usize) {
        let (mut mine, mut alive) = (0, 0);
        for life in self.register.decided.members.as_slice() {
            let is_me = *life == self.me;
            mine += usize::from(is_me || self.is_mutual(now, *life));
            alive += usize::from(
                is_me || self.is_heard(now, *life) || self.is_on_disk(now, access, *life),
            );
        }
        (mine, alive)
    }

    /// The coordinator's choice: who is gone leaves, who waits comes in.
    fn amend(&self, now: Instant, access: Instant) -> Option<View> {
        let mut view = self.register.decided;
        let (mine, alive) = self.groups(now, access);
        let cut_after = self.config.settings.cut_after;
        // A coordinator in the smaller part leaves the larger one the time to go on without it.
        let patience = if 2 * mine >= alive {
            cut_after
        } else {
            cut_after * 4
        };
        self.drop_lost(now, &mut view, patience);
        if view.members == self.register.decided.members {
            self.admit(now, access, &mut view);
        }
        let has_changed = view.members != self.register.decided.members;
        let is_due = self.is_stalled(now, Duration::ZERO) || self.fence.is_overruled();
        view.epoch = next(view.epoch);
        (has_changed || is_due).then_some(view)
    }

    fn drop_lost(&self, now: Instant, view: &mut View, patience: Duration) {
        for life in self.register.decided.members.as_slice() {
            let (verdict, since) = self.verdict(now, *life);
            let is_out = match verdict {
                Verdict::Fine => false,
                Verdict::Cut => now >= since + patience,
                Verdict::DiskLost => now >= since + self.config.settings.disk_lost_after,
                Verdict::Lost | Verdict::Gone => true,
            };
            if is_out && *life != self.me {
                view.members.remove(life.node);
            }
        }
    }

    /// Joiners come in once the fence against their former lives holds, and no frame of those is under way (S10).
    fn admit(&self, now: Instant, access: Instant, view: &mut View) {
        let Some(fenced_at) = self.fence.complete_at() else {
            return;
        };
        let forgets = self.config.targets.contains(&TargetKind::Foreign);
        if forgets && now < fenced_at + self.config.settings.frame_lifetime {
            return;
        }
        for peer in &self.peers {
            let Some(news) = peer.news else {
                continue;
            };
            let life = Life {
                node: peer.node,
                incarnation: news.incarnation,
            };
            // It knows the view that it is not in: so it was in none before, or it would have ended.
            let is_there = news.state == NodeState::Joining
                && news.epoch == self.register.decided.epoch
                && self.is_mutual(now, life)
                && peer.disk.is_some_and(|disk| disk.from == life)
                && self.is_on_disk(now, access, life);
            let has_room = view.members.len() < MEMBERS_MAX;
            if is_there && has_room && view.members.of(peer.node).is_none() {
                view.members.insert(life);
            }
        }
    }

    /// Another member's choice: whether to go on without the coordinator. Its life is out then, so that of all who may set
    /// lists on a target that knows no epochs, one only was ever coordinator (S8).
    fn take_over(&self, now: Instant, access: Instant) -> Option<View> {
        let settings = &self.config.settings;
        let mut view = self.register.decided;
        let turn = self.step() * self.rank(now);
        let (mine, alive) = self.groups(now, access);
        let patience = if 2 * mine > alive {
            settings.cut_after + settings.cut_after / 2
        } else {
            settings.cut_after * 6
        };
        let coordinator = view.coordinator_life()?;
        let (verdict, since) = self.verdict(now, coordinator);
        let is_lost = match verdict {
            Verdict::Fine => false,
            Verdict::Cut => now >= since + patience + turn,
            Verdict::DiskLost => now >= since + settings.disk_lost_after + turn,
            Verdict::Lost | Verdict::Gone => now >= since + turn,
        };
        if !is_lost && !self.is_stalled(now, self.step() * 4 + turn) {
            return None;
        }
        self.drop_lost(now, &mut view, patience);
        view.members.remove(coordinator.node);
        view.members.insert(self.me);
        view.coordinator = self.me.node;
        view.epoch = next(view.epoch);
        Some(view)
    }

    /// Whether somebody proposed a view and did not go through with it. Nobody without whom it was proposed has a lease
    /// until that is settled.
    fn is_stalled(&self, now: Instant, turn: Duration) -> bool {
        let patience = self.config.settings.disk_heartbeat * 8 + turn;
        self.register
            .undecided_since()
            .is_some_and(|since| now >= since + patience)
    }

    /// A joiner's choice, if nobody is there who could let it in: a view of itself. The others follow.
    fn found(&mut self, now: Instant, access: Instant) -> Option<View> {
        let settings = &self.config.settings;
        let alive = |life: &Life| {
            self.is_heard(now, *life)
                || self
                    .peer(life.node)
                    .is_some_and(|peer| peer.disk.is_some_and(|disk| disk.from == *life))
                    && self.is_on_disk(now, access, *life)
        };
        if self.register.decided.members.as_slice().iter().any(alive) {
            self.barren_since = None;
            return None;
        }
        let since = *self.barren_since.get_or_insert(now);
        let ahead = self.peers.iter().filter(|peer| {
            peer.node < self.me.node
                && peer
                    .news
                    .is_some_and(|news| now < news.at + settings.suspect_after())
        });
        let rank = u32::try_from(ahead.count()).unwrap_or(u32::MAX);
        let patience = settings.suspect_after() + settings.disk_suspect_after() * 2;
        if now < since + patience + self.step() * 4 * rank {
            return None;
        }
        let mut view = View {
            epoch: next(self.register.decided.epoch),
            coordinator: self.me.node,
            ..View::NONE
        };
        view.members.insert(self.me);
        Some(view)
    }
}
