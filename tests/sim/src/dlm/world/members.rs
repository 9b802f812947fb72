//! Membership: who is in it, and when everybody is told what.

use super::{Control, Event, World, names};
use crate::dlm::call::Life;
use crate::dlm::station::Station;

impl<S: Station> World<S> {
    pub(super) fn plan_decision(&mut self) {
        if !self.decision_planned {
            self.decision_planned = true;
            let after_ns = self.rng.u64(0..=self.spec.decide_ns);
            self.at(self.now_ns + after_ns, Event::Decide);
        }
    }

    pub(super) fn decide(&mut self) {
        let (before, _) = self.epochs.last().cloned().unwrap_or_default();
        let mut members = Vec::new();
        for node in 0..self.spec.nodes {
            let state = &self.nodes[usize::from(node)];
            let who = self.who(node);
            // Who died and was not missed yet stays a member; who came back meanwhile is another.
            let stays = before.contains(&who);
            let joins = self.is_reachable(node) && !state.stopped;
            if !state.suspected && (stays || joins) {
                members.push(who);
            }
        }
        let epoch = self.epochs.len() as u32;
        self.note(|| format!("epoch {epoch}: {}", names(&members)));
        self.counts.epochs += 1;
        self.judge.disturbed(self.now_ns);
        for who in before.iter().filter(|who| !members.contains(who)) {
            let state = &self.nodes[usize::from(who.node)];
            // Until its lease is over; who started again has none from before.
            if state.life == who.life && !state.lease_over {
                self.leases.push((*who, epoch));
            }
            if !self
                .to_replay
                .iter()
                .any(|(other, _)| other.node == who.node)
            {
                let after_ns = self.rng.u64(0..=self.spec.replay_ns);
                let node = who.node;
                self.at(self.now_ns + after_ns, Event::Replayed { node });
            }
            self.to_replay.push((*who, epoch));
        }
        let unreplayed = self.to_replay.iter().map(|(who, _)| *who).collect();
        self.epochs.push((members, unreplayed));
        self.publish(Control::Epoch(epoch));
        self.tell_fenced();
    }

    /// Everybody is told, sooner or later; who is a member no longer only perhaps.
    pub(super) fn publish(&mut self, control: Control) {
        self.log.push(control);
        let upto = self.log.len();
        for node in 0..self.spec.nodes {
            let who = self.who(node);
            let state = &mut self.nodes[usize::from(node)];
            if state.told == usize::MAX
                && matches!(control, Control::Epoch(epoch)
                if self.epochs[epoch as usize].0.contains(&who))
            {
                state.told = upto - 1;
            }
            if state.told == usize::MAX || (!self.is_member(who) && self.rng.bool()) {
                continue;
            }
            let late = self.rng.u32(..8) == 0;
            let limit_ns = self.spec.learn_ns * if late { 10 } else { 1 };
            let after_ns = self.rng.u64(0..=limit_ns);
            self.at(self.now_ns + after_ns, Event::Learn { who, upto });
        }
        if S::CENTRAL {
            let server = self.who(self.spec.nodes);
            self.nodes[usize::from(self.spec.nodes)].told = upto - 1;
            self.learn(server, upto);
        }
    }

    pub(super) fn learn(&mut self, who: Life, upto: usize) {
        let index = usize::from(who.node);
        if !self.is_current(who) || self.nodes[index].told >= upto {
            return;
        }
        let joins = self.nodes[index].epoch == 0;
        let news: Vec<Control> = self.log[self.nodes[index].told..upto].to_vec();
        self.nodes[index].told = upto;
        let is_epoch = |control: &Control| matches!(control, Control::Epoch(_));
        for (at, control) in news.iter().enumerate() {
            // Of several epochs at once a node may hear only the last, if that tells of the same deaths.
            let next = news[at + 1..].iter().find(|control| is_epoch(control));
            let passed = match (control, next) {
                (Control::Epoch(epoch), Some(Control::Epoch(next))) => {
                    self.tells_all(*epoch, *next)
                }
                _ => false,
            };
            if !(passed && self.rng.bool()) {
                self.hear(who, *control);
            }
            if !self.is_current(who) {
                return;
            }
        }
        self.judge.disturbed(self.now_ns);
        self.pump_all(who.node);
        let is_client = who.node < self.spec.nodes && !self.nodes[index].stopped;
        if joins && is_client && self.nodes[index].epoch > 0 {
            for client in 0..self.nodes[index].clients.len() as u16 {
                let after_ns = self.rng.u64(0..=self.spec.load.think_ns);
                self.plan_client(who, client, after_ns);
            }
        }
    }

    /// Whether who left in `epoch` is still told to be dead in the epoch `next`.
    pub(super) fn tells_all(&self, epoch: u32, next: u32) -> bool {
        let (before, _) = &self.epochs[epoch as usize - 1];
        let (members, _) = &self.epochs[epoch as usize];
        let (_, unreplayed) = &self.epochs[next as usize];
        before
            .iter()
            .all(|who| members.contains(who) || unreplayed.contains(who))
    }

    pub(super) fn hear(&mut self, who: Life, control: Control) {
        let index = usize::from(who.node);
        let now = self.instant();
        self.note(|| format!("{who} hears of {control:?}"));
        let fenced_epoch = self.fenced_epoch;
        let Some(station) = &mut self.nodes[index].station else {
            return;
        };
        match control {
            Control::Epoch(epoch) => {
                let (members, unreplayed) = &self.epochs[epoch as usize];
                let is_member = members.contains(&who) || who.node == self.spec.nodes;
                station.set_members(now, epoch, members, unreplayed);
                if self.nodes[index].epoch == 0
                    && let Some(station) = &mut self.nodes[index].station
                {
                    station.fenced(now, fenced_epoch.min(epoch));
                }
                self.nodes[index].epoch = epoch;
                if !is_member {
                    self.stop(who);
                }
            }
            Control::Fenced(epoch) => station.fenced(now, epoch),
            Control::Replayed(dead) => station.replayed(now, dead),
        }
        if let Some((_, _, seen)) = &mut self.nodes[index].doomed {
            *seen = true;
        }
        self.turn(who.node);
    }

    /// The log of a node's dead lives was replayed, if they can't write any more.
    pub(super) fn replayed(&mut self, node: u8) {
        let lives: Vec<(Life, u32)> = self
            .to_replay
            .iter()
            .filter(|(who, _)| who.node == node)
            .copied()
            .collect();
        if lives.iter().any(|(_, epoch)| *epoch > self.fenced_epoch) {
            self.at(self.now_ns + 1_000_000, Event::Replayed { node });
            return;
        }
        self.note(|| format!("the log of n{node} is replayed"));
        self.to_replay.retain(|(who, _)| who.node != node);
        for (life, _) in lives {
            self.judge.replayed(life);
            self.publish(Control::Replayed(life));
        }
    }
}
