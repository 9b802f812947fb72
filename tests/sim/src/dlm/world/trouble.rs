//! What goes wrong, and how it ends.

use super::{Event, Mishap, World};
use crate::dlm::call::Life;
use crate::dlm::station::Station;

impl<S: Station> World<S> {
    /// Lets it happen now, if enough members are left.
    pub fn befall(&mut self, mishap: Mishap) {
        match mishap {
            Mishap::Crash { node, down_ns } if self.well() > 1 => {
                self.crash(node);
                self.at(self.now_ns.saturating_add(down_ns), Event::Boot { node });
            }
            Mishap::CrashInRecovery {
                node,
                messages,
                down_ns,
            } => {
                self.nodes[usize::from(node)].doomed = Some((messages, down_ns, false));
            }
            Mishap::Pause { node, for_ns } if self.well() > 1 && self.is_reachable(node) => {
                self.note(|| format!("{mishap:?}"));
                self.judge.disturbed(self.now_ns);
                self.nodes[usize::from(node)].paused_until_ns = self.now_ns + for_ns;
                self.at(self.now_ns + for_ns, Event::Resume { node });
                self.away(node);
            }
            Mishap::Partition { side, for_ns } if self.side == 0 => self.part(side, for_ns),
            Mishap::Start { node } if !self.nodes[usize::from(node)].started => self.boot(node),
            Mishap::Epoch => self.plan_decision(),
            _ => {}
        }
    }

    pub(super) fn part(&mut self, side: u32, for_ns: u64) {
        let (members, _) = self.epochs.last().cloned().unwrap_or_default();
        let able = |who: &&Life| {
            self.is_current(**who)
                && !self.nodes[usize::from(who.node)].stopped
                && side >> who.node & 1 == 0
        };
        let majority = members.iter().filter(able).count();
        if 2 * majority <= members.len() {
            return;
        }
        self.note(|| format!("nodes {side:#07x} are cut off for {for_ns} ns"));
        self.judge.disturbed(self.now_ns);
        (self.side, self.partition_until_ns) = (side, self.now_ns + for_ns);
        self.at(self.partition_until_ns, Event::Heal);
        for node in (0..self.spec.nodes).filter(|node| side >> node & 1 == 1) {
            if self.nodes[usize::from(node)].station.is_some() {
                self.away(node);
            }
        }
    }

    /// All is made well: everybody is reached and runs, and who was fenced starts anew. Clients begin nothing new.
    pub fn heal(&mut self) {
        self.note(|| "all is made well".to_owned());
        self.healed = true;
        self.partition_until_ns = self.partition_until_ns.min(self.now_ns);
        self.side = 0;
        for node in 0..self.spec.nodes {
            let index = usize::from(node);
            let state = &mut self.nodes[index];
            state.doomed = None;
            for client in &mut state.clients {
                client.stop();
            }
            if state.paused_until_ns > self.now_ns {
                state.paused_until_ns = self.now_ns;
                self.resume(node);
            }
            if self.nodes[index].stopped && self.nodes[index].station.is_some() {
                self.crash(node);
            }
            if self.nodes[index].station.is_none() && self.nodes[index].started {
                self.boot(node);
            }
        }
        self.reached();
    }
}
