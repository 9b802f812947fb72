//! Disk Paxos: what this node has written of the next epoch, what it knows of the others' ballots, and its own attempt.

use core::time::Duration;

use sandrail_wire::cluster::{Ballot, Block, Life, View};

use super::{Cluster, next};
use crate::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Finding out what may be decided already.
    Prepare,
    /// Proposing it.
    Propose,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    ballot: Ballot,
    phase: Phase,
    /// The register's version that stands for this phase.
    version: u64,
    /// What this node wants, if it is free to choose.
    wanted: View,
}

/// What this node's blocks say, and the state of the epoch behind `decided`.
#[derive(Debug)]
pub(super) struct Register {
    /// Of the last block that was sent.
    pub(super) sequence: u64,
    /// Grows with every change of what the blocks say.
    pub(super) version: u64,
    pub(super) decided: View,
    pub(super) begun: Ballot,
    pub(super) proposed: Ballot,
    pub(super) value: View,
    /// The proposal with the greatest ballot that was seen, anybody's.
    best: Option<(Ballot, View)>,
    /// The first proposal for this epoch was seen then.
    best_since: Option<Instant>,
    /// The greatest ballot that was seen to have begun, anybody's.
    greatest: Ballot,
    /// Somebody has proposed these views: whoever is not in all of them may be out.
    threats: Vec<View>,
    /// While recovering: the newest block of this node's former lives.
    own: Option<Block>,
    attempt: Option<Attempt>,
    retry_at: Instant,
}

impl Register {
    pub(super) const fn new() -> Self {
        Self {
            sequence: 0,
            version: 1,
            decided: View::NONE,
            begun: Ballot::NONE,
            proposed: Ballot::NONE,
            value: View::NONE,
            best: None,
            best_since: None,
            greatest: Ballot::NONE,
            threats: Vec::new(),
            own: None,
            attempt: None,
            retry_at: Instant::ZERO,
        }
    }

    /// The blocks must be written anew.
    pub(super) const fn touch(&mut self) {
        self.version += 1;
    }

    pub(super) fn keep_own(&mut self, block: &Block) {
        let key = |block: &Block| (block.from.incarnation, block.sequence);
        if self.own.is_none_or(|held| key(block) > key(&held)) {
            self.own = Some(*block);
        }
    }

    /// Takes up the ballot of the former life, as Disk Paxos asks of a process that failed and came back.
    pub(super) fn recover(&mut self) {
        if let Some(own) = self.own.take()
            && own.decided.epoch == self.decided.epoch
        {
            self.begun = own.begun;
            self.proposed = own.proposed;
            self.value = own.value;
        }
        self.touch();
    }

    /// A newer view is decided; what was about an epoch up to it counts no more.
    pub(super) fn decide(&mut self, view: View) {
        self.decided = view;
        self.begun = Ballot::NONE;
        self.proposed = Ballot::NONE;
        self.value = View::NONE;
        self.best = None;
        self.best_since = None;
        self.greatest = Ballot::NONE;
        self.threats.clear();
        self.attempt = None;
        self.touch();
    }

    fn note_proposal(&mut self, now: Instant, ballot: Ballot, view: View) {
        if self.best.is_none_or(|(best, _)| ballot > best) {
            self.best = Some((ballot, view));
        }
        self.best_since.get_or_insert(now);
        if !self.threats.contains(&view) {
            self.threats.push(view);
        }
    }

    /// Whether a view without this life has been proposed for the next epoch.
    pub(super) fn is_threatened(&self, me: Life) -> bool {
        self.threats.iter().any(|view| !view.members.contains(me))
    }

    /// Since when there has been a proposal without a decision.
    pub(super) const fn undecided_since(&self) -> Option<Instant> {
        self.best_since
    }
}

impl Cluster {
    /// What a block says of views and ballots.
    pub(super) fn count_ballot(&mut self, now: Instant, block: &Block) {
        self.learn(now, block.decided);
        let register = &mut self.register;
        if block.decided.epoch != register.decided.epoch {
            return;
        }
        register.greatest = register.greatest.max(block.begun);
        if block.value.epoch == next(register.decided.epoch) {
            register.note_proposal(now, block.proposed, block.value);
        }
        if let Some(attempt) = register.attempt
            && block.begun > attempt.ballot
        {
            register.attempt = None;
            self.stat.ballots_lost += 1;
            self.back_off(now);
        }
    }

    /// Nodes that got into each other's way try again at different times.
    fn back_off(&mut self, now: Instant) {
        let span = self.config.settings.disk_heartbeat * 4;
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(self.random.u64(micros / 4..=micros));
        self.register.retry_at = now + wait;
    }

    /// Whether an attempt may begin.
    pub(super) fn may_attempt(&self, now: Instant) -> bool {
        self.register.attempt.is_none() && now >= self.register.retry_at && self.speaks()
    }

    /// Begins a ballot for a view of the next epoch.
    pub(super) fn attempt(&mut self, wanted: View) {
        let register = &mut self.register;
        let Some(round) = register.greatest.max(register.begun).round.checked_add(1) else {
            return;
        };
        let ballot = Ballot {
            round,
            node: self.me.node,
            incarnation: self.me.incarnation,
        };
        register.begun = ballot;
        register.touch();
        register.attempt = Some(Attempt {
            ballot,
            phase: Phase::Prepare,
            version: register.version,
            wanted,
        });
        self.stat.ballots += 1;
    }

    /// Ends a phase for which a majority of the areas has been written, and read after that.
    pub(super) fn run_ballot(&mut self, now: Instant) {
        let Some(attempt) = self.register.attempt else {
            return;
        };
        let done = |area: &&super::area::Area| area.done_version >= attempt.version;
        if self.areas.iter().filter(done).count() < self.config.majority() {
            return;
        }
        match attempt.phase {
            Phase::Prepare => {
                let register = &mut self.register;
                // What this node proposed in an earlier ballot counts as anybody's proposal does.
                if register.proposed != Ballot::NONE {
                    let (proposed, value) = (register.proposed, register.value);
                    register.note_proposal(now, proposed, value);
                }
                let value = register.best.map_or(attempt.wanted, |(_, value)| value);
                register.proposed = attempt.ballot;
                register.value = value;
                register.note_proposal(now, attempt.ballot, value);
                register.touch();
                register.attempt = Some(Attempt {
                    phase: Phase::Propose,
                    version: register.version,
                    ..attempt
                });
            }
            Phase::Propose => {
                self.stat.decided += 1;
                let value = self.register.value;
                self.learn(now, value);
            }
        }
    }
}
