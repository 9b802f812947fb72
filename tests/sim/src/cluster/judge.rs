//! The judge: it knows what machines told, which writes targets accepted, and what must never be. Nothing of ballots, fences or
//! leases' inner workings.

use std::collections::BTreeMap;

use sandrail_proto::cluster::TargetKind;
use sandrail_wire::cluster::{Life, View};

/// What was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two views of one epoch, and so perhaps two coordinators.
    Split(Box<(View, View)>),
    /// A machine went back to an older epoch.
    EpochFell {
        /// Whose.
        life: Life,
        /// From.
        from: u64,
        /// To.
        to: u64,
    },
    /// A machine of ours says that somebody broke the rules.
    MachineSaysSplit(u64),
    /// A write of a fenced life was accepted after the fence was confirmed.
    FencedWrite {
        /// Whose.
        life: Life,
        /// The target.
        target: usize,
        /// The epoch that was confirmed without it.
        confirmed: u64,
    },
    /// A life used its lease when others might have been granted its locks.
    LeaseOutlived(Life),
    /// A life that was never a member used a lease.
    Stranger(Life),
    /// A life uses a target that is not fenced, after recovery began.
    UnfencedUse {
        /// Whose.
        life: Life,
        /// The target.
        target: usize,
    },
    /// Recovery began, and no coordinator had said of any target that it is fenced.
    RecoveryUnfenced(u64),
    /// All is well again, and the cluster is not.
    Stuck(String),
    /// Nothing happened, and somebody was suspected, or the view changed.
    Restless(String),
    /// The machine panicked.
    Panic(String),
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Views decided.
    pub views: u64,
    /// Writes that targets accepted.
    pub accepted: u64,
    /// Writes that they refused.
    pub refused: u64,
    /// Writes of fenced lives that a target accepted while its list was lost (S11).
    pub let_in_by_forgetting: u64,
    /// Fences that were confirmed.
    pub confirmed: u64,
    /// Lives over whose locks others were granted.
    pub granted_over: u64,
    /// Times that a lease was used.
    pub lease_used: u64,
}

/// The judge.
#[derive(Debug, Default)]
pub struct Judge {
    views: BTreeMap<u64, View>,
    /// By life: the newest epoch that it knows.
    known: BTreeMap<Life, u64>,
    /// By target: the newest epoch whose fence was confirmed.
    confirmed: Vec<u64>,
    granted_over: Vec<Life>,
    counts: Counts,
    violation: Option<Violation>,
}

impl Judge {
    /// A judge of so many targets.
    #[must_use]
    pub fn new(targets: usize) -> Self {
        Self {
            confirmed: vec![0; targets],
            ..Self::default()
        }
    }

    /// What was seen.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The first violation.
    #[must_use]
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(super) fn object(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// The newest epoch whose fence was confirmed on a target.
    #[must_use]
    pub fn confirmed(&self, target: usize) -> u64 {
        self.confirmed[target]
    }

    /// The newest view that anybody knows.
    #[must_use]
    pub fn newest(&self) -> Option<&View> {
        self.views.values().next_back()
    }

    /// A life tells of a view.
    pub fn view(&mut self, life: Life, view: &View) {
        let epoch = view.epoch.0;
        let known = self.known.entry(life).or_default();
        if epoch <= *known {
            let from = *known;
            self.object(Violation::EpochFell {
                life,
                from,
                to: epoch,
            });
            return;
        }
        *known = epoch;
        match self.views.get(&epoch) {
            None => {
                self.counts.views += 1;
                self.views.insert(epoch, *view);
            }
            Some(held) if held != view => {
                let held = *held;
                self.object(Violation::Split(Box::new((held, *view))));
            }
            Some(_) => {}
        }
    }

    /// A coordinator says that a target is fenced for its epoch.
    pub fn fenced(&mut self, epoch: u64, target: usize) {
        self.counts.confirmed += 1;
        self.confirmed[target] = self.confirmed[target].max(epoch);
    }

    /// A life is told that recovery may begin.
    pub fn recovery(&mut self, epoch: u64) {
        if self.confirmed.iter().all(|confirmed| *confirmed < epoch) {
            self.object(Violation::RecoveryUnfenced(epoch));
        }
    }

    /// The first epoch that had this life no more, after one that had.
    fn removed_at(&self, life: Life) -> Option<u64> {
        let was_in = self
            .views
            .values()
            .position(|view| view.members.contains(life))?;
        let mut later = self.views.values().skip(was_in);
        later
            .find(|view| !view.members.contains(life))
            .map(|view| view.epoch.0)
    }

    /// A target accepted or refused a write.
    pub fn written(
        &mut self,
        life: Life,
        target: usize,
        kind: TargetKind,
        is_accepted: bool,
        is_open: bool,
    ) {
        if !is_accepted {
            self.counts.refused += 1;
            return;
        }
        self.counts.accepted += 1;
        let Some(removed) = self.removed_at(life) else {
            return;
        };
        let confirmed = self.confirmed[target];
        if confirmed < removed {
            return;
        }
        if is_open && kind == TargetKind::Foreign {
            self.counts.let_in_by_forgetting += 1;
        } else {
            self.object(Violation::FencedWrite {
                life,
                target,
                confirmed,
            });
        }
    }

    /// A life acts as a member, at this moment.
    pub fn lease_used(&mut self, life: Life) {
        self.counts.lease_used += 1;
        if self.granted_over.contains(&life) {
            self.object(Violation::LeaseOutlived(life));
        }
        if !self.views.values().any(|view| view.members.contains(life)) {
            self.object(Violation::Stranger(life));
        }
    }

    /// A life uses a target. `recovering` is the epoch in which it was told that recovery may begin, if that is its newest.
    pub fn target_used(&mut self, life: Life, target: usize, recovering: Option<u64>) {
        if recovering.is_some_and(|epoch| self.confirmed[target] < epoch) {
            self.object(Violation::UnfencedUse { life, target });
        }
    }

    /// Lives that were members and are not any more in the view of this epoch, and of which it was not yet said that their locks
    /// may be granted to others.
    #[must_use]
    pub fn dead(&self, epoch: u64) -> Vec<Life> {
        let Some(view) = self.views.get(&epoch) else {
            return Vec::new();
        };
        let mut dead: Vec<Life> = Vec::new();
        for (_, earlier) in self.views.range(..epoch).rev().take(8) {
            for life in earlier.members.as_slice() {
                let is_news = !view.members.contains(*life) && !dead.contains(life);
                if is_news && !self.granted_over.contains(life) {
                    dead.push(*life);
                }
            }
        }
        dead
    }

    /// Somebody may grant others the locks of this life.
    pub fn grants_over(&mut self, life: Life) {
        self.counts.granted_over += 1;
        self.granted_over.push(life);
    }
}
