//! The fence: the coordinator of a view has every data target admit the view's members and nobody else, and looks whether it
//! does (S8 to S12).

use sandrail_wire::MacAddr;
use sandrail_wire::cluster::FenceReport;
use sandrail_wire::lock::Epoch;

use super::Cluster;
use super::api::{End, Event, Membership, Request, RequestId, TargetAnswer};
use super::config::{Config, TargetKind};
use crate::time::Instant;

/// What a target is asked next, or has been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Set the list.
    Set,
    /// Read it back.
    ReadBack,
    /// On targets without epochs: late copies of older lists are waited for until then (S8).
    Settle(Instant),
    /// Whatever was queued before is done when this is answered.
    Probe,
    /// And the list is still the one that was set.
    Confirm,
    /// Fenced. A list that may be forgotten is looked at again.
    Watch,
}

#[derive(Debug)]
struct Target {
    kind: TargetKind,
    step: Step,
    /// The request that is unanswered. There never is another one: late copies of it could undo the next (S8).
    asked: Option<(RequestId, Epoch)>,
    not_before: Instant,
    is_fenced: bool,
    is_offline: bool,
    /// This life has had this target's list under control before.
    was_ours: bool,
    is_held: bool,
}

/// A coordinator's work on the targets.
#[derive(Debug)]
pub(super) struct Fence {
    targets: Vec<Target>,
    /// The view that is fenced for; none if this node is not its coordinator.
    epoch: Option<Epoch>,
    began: Instant,
    complete_at: Option<Instant>,
    /// A target takes no list of this epoch any more.
    is_overruled: bool,
}

impl Fence {
    pub(super) fn new(config: &Config) -> Self {
        let target = |kind: &TargetKind| Target {
            kind: *kind,
            step: Step::Set,
            asked: None,
            not_before: Instant::ZERO,
            is_fenced: false,
            is_offline: false,
            was_ours: false,
            is_held: false,
        };
        Self {
            targets: config.targets.iter().map(target).collect(),
            epoch: None,
            began: Instant::ZERO,
            complete_at: None,
            is_overruled: false,
        }
    }

    /// Begins anew for a view.
    pub(super) fn start(&mut self, now: Instant, epoch: Epoch) {
        self.epoch = Some(epoch);
        self.began = now;
        self.complete_at = None;
        self.is_overruled = false;
        for target in &mut self.targets {
            target.step = Step::Set;
            target.not_before = now;
            target.is_fenced = false;
            target.is_offline = false;
            target.is_held = false;
        }
    }

    pub(super) const fn stop(&mut self) {
        self.epoch = None;
        self.is_overruled = false;
        self.complete_at = None;
    }

    /// Since when every target is fenced or offline for the newest view, if this node saw to it.
    pub(super) const fn complete_at(&self) -> Option<Instant> {
        self.complete_at
    }

    /// Whether only a newer epoch can be fenced for.
    pub(super) const fn is_overruled(&self) -> bool {
        self.is_overruled
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.epoch?;
        let idle = self.targets.iter().filter(|target| target.asked.is_none());
        idle.map(|target| target.not_before).min()
    }

    fn report(&self, epoch: Epoch) -> FenceReport {
        let set = |is_in: fn(&Target) -> bool| {
            let targets = self.targets.iter().enumerate();
            targets
                .filter(|(_, target)| is_in(target))
                .fold(0, |set, (at, _)| set | 1 << at)
        };
        FenceReport {
            epoch,
            fenced: set(|target| target.is_fenced),
            offline: set(|target| target.is_offline && !target.is_fenced),
            is_complete: self.complete_at.is_some(),
        }
    }
}

impl Cluster {
    /// Asks the targets what is due to be asked.
    pub(super) fn run_fence(&mut self, now: Instant) {
        let Some(epoch) = self.fence.epoch else {
            return;
        };
        // Who has no lease may be out already, and sets no lists (S13).
        if self.lease_valid(now) {
            for at in 0..self.fence.targets.len() {
                self.ask_target(now, at, epoch);
            }
        } else {
            for target in &mut self.fence.targets {
                target.not_before = target.not_before.max(now + self.config.settings.heartbeat);
            }
        }
        self.count_fenced(now, epoch);
    }

    fn ask_target(&mut self, now: Instant, at: usize, epoch: Epoch) {
        let target = &self.fence.targets[at];
        if target.asked.is_some() || now < target.not_before {
            return;
        }
        let kind = target.kind;
        let step = match target.step {
            Step::Settle(until) if now < until => {
                self.fence.targets[at].not_before = until;
                return;
            }
            Step::Settle(_) => Step::Probe,
            step => step,
        };
        self.fence.targets[at].step = step;
        let request = match step {
            Step::Set => Request::Reserve {
                target: at,
                epoch,
                by_epoch: kind == TargetKind::Epochs,
                macs: self.macs(),
            },
            Step::Probe => Request::Probe { target: at },
            _ => Request::List { target: at },
        };
        let id = self.ask(request);
        self.fence.targets[at].asked = Some((id, epoch));
    }

    /// The MACs of every shard of every member, in order (S12).
    fn macs(&self) -> Vec<MacAddr> {
        let members = &self.register.decided.members;
        let nodes = self.config.nodes.iter();
        let members = nodes.filter(|node| members.of(node.node).is_some());
        let mut macs: Vec<_> = members.flat_map(|node| node.macs.iter().copied()).collect();
        macs.sort_unstable();
        macs
    }

    pub(super) fn target_answered(
        &mut self,
        now: Instant,
        id: RequestId,
        answer: TargetAnswer<'_>,
    ) {
        let is_it = |target: &Target| target.asked.is_some_and(|(asked, _)| asked == id);
        let Some(at) = self.fence.targets.iter().position(is_it) else {
            return;
        };
        let Some((_, asked_for)) = self.fence.targets[at].asked.take() else {
            return;
        };
        if self.fence.epoch != Some(asked_for) {
            // It was about an older view; but that another coordinator is newer is true of any.
            if let TargetAnswer::StaleEpoch(epoch) = answer
                && epoch > self.register.decided.epoch
            {
                self.finish(End::Fenced);
            }
            return;
        }
        match answer {
            TargetAnswer::StaleEpoch(epoch) if epoch > asked_for => self.finish(End::Fenced),
            // The same epoch, and another list: somebody has overruled it by force. Only a newer epoch counts now.
            TargetAnswer::StaleEpoch(_) => {
                self.fence.is_overruled = true;
                self.fence.targets[at].not_before = now + self.config.settings.target_retry;
            }
            TargetAnswer::Reserved if self.fence.targets[at].was_ours => self.finish(End::Fenced),
            TargetAnswer::Reserved => {
                let target = &mut self.fence.targets[at];
                target.not_before = now + self.config.settings.target_retry;
                if !core::mem::replace(&mut target.is_held, true) {
                    self.events.push_back(Event::TargetHeld { target: at });
                }
            }
            TargetAnswer::Failed => {
                let retry = self.config.settings.target_retry;
                let target = &mut self.fence.targets[at];
                target.not_before = now + retry;
            }
            TargetAnswer::Answered => self.probed(at),
            TargetAnswer::List(list) => self.listed(now, at, list),
        }
    }

    fn probed(&mut self, at: usize) {
        let target = &mut self.fence.targets[at];
        if target.step == Step::Probe {
            target.step = Step::Confirm;
        }
    }

    /// A target tells its list: is it the one that was set?
    fn listed(&mut self, now: Instant, at: usize, list: &[MacAddr]) {
        let settings = self.config.settings;
        let mut told = list.to_vec();
        told.sort_unstable();
        let is_ours = told == self.macs();
        let target = &mut self.fence.targets[at];
        if !is_ours {
            if target.step == Step::Watch {
                self.stat.targets_forgot += 1;
                self.events.push_back(Event::TargetForgot { target: at });
                target.not_before = now;
            } else {
                self.stat.lists_differed += 1;
                target.not_before = now + settings.target_retry / 4;
            }
            target.step = Step::Set;
            return;
        }
        target.step = match (target.step, target.kind) {
            (Step::Set, _) => Step::ReadBack,
            (Step::ReadBack, TargetKind::Foreign) => Step::Settle(now + settings.frame_lifetime),
            (Step::ReadBack | Step::Confirm | Step::Watch, _) => {
                target.is_fenced = true;
                target.was_ours = true;
                target.not_before = now + settings.target_recheck;
                Step::Watch
            }
            (step, _) => step,
        };
    }

    /// A target may have restarted.
    pub(super) fn look_again(&mut self, now: Instant, at: usize) {
        let Some(target) = self.fence.targets.get_mut(at) else {
            return;
        };
        if self.fence.epoch.is_some() && target.step == Step::Watch {
            target.not_before = now;
        }
    }

    fn count_fenced(&mut self, now: Instant, epoch: Epoch) {
        let is_late = now >= self.fence.began + self.config.settings.target_timeout;
        for target in &mut self.fence.targets {
            target.is_offline = !target.is_fenced && (is_late || target.is_offline);
        }
        let targets = &self.fence.targets;
        // If none could be fenced, it is this node that is cut off.
        let is_complete = targets
            .iter()
            .all(|target| target.is_fenced || target.is_offline)
            && targets.iter().any(|target| target.is_fenced);
        if is_complete {
            self.fence.complete_at.get_or_insert(now);
        }
        let report = self.fence.report(epoch);
        self.take_report(report);
    }
}
