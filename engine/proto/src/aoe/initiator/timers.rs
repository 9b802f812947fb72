//! What time alone brings about: retransmissions, silence, probes, deadlines.

use core::time::Duration;

use super::api::{IoError, Notice, TargetId};
use super::command::State;
use super::list::{Linked, NONE};
use super::path::{Path, Predecessor, SILENT_AFTER_TIMEOUTS};
use super::target::{Phase, Target};
use super::{Initiator, RequestBuffer};
use crate::time::Instant;

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl<B: RequestBuffer> Initiator<B> {
    /// Does what is due. To be called when [`Self::poll_timeout`] is reached; at other times it does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut left = self.in_use;
        while left != 0 {
            let number = u8::try_from(left.trailing_zeros()).expect("TARGETS_MAX fits");
            left &= left - 1;
            self.target_timers(now, number);
        }
        self.tags_at = self.tags_at.filter(|at| *at > now);
        if self.deadline_floor.is_some_and(|floor| floor <= now) {
            self.expire(now);
        }
        self.last_called = now;
    }

    fn target_timers(&mut self, now: Instant, number: u8) {
        let place = usize::from(number);
        self.attach_timers(now, number);
        for path in 0..self.targets[place].paths.len() {
            if self.targets[place].paths[path].is_some() {
                self.path_timers(now, number, u8::try_from(path).expect("PATHS_MAX fits"));
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do next; `None`: not before something else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (mut left, mut due) = (self.in_use, None);
        while left != 0 {
            let target = &self.targets[left.trailing_zeros() as usize];
            left &= left - 1;
            due = earlier(due, self.target_due(target));
        }
        earlier(earlier(due, self.tags_at), self.deadline_floor)
    }

    fn target_due(&self, target: &Target) -> Option<Instant> {
        let paths = target
            .paths
            .iter()
            .flatten()
            .filter_map(|path| self.path_due(target, path));
        paths.chain(self.attach_due(target)).min()
    }

    fn path_due(&self, target: &Target, path: &Path) -> Option<Instant> {
        // What needs a fresh command waits for one where all tags rest, or it would be due over and over.
        let fresh = |at: Instant| self.tags_at.map_or(at, |tags_at| at.max(tags_at));
        let mut due = path.probe_at.map(fresh);
        let mut add = |at: Instant| due = Some(due.map_or(at, |due| due.min(at)));
        if let Some(at) = self.keepalive_at(target, path) {
            add(fresh(at));
        }
        if !path.silent {
            if let Some(at) = path.membership.ask_at {
                add(fresh(at));
            }
            if let Some(at) = self.hushed_at(target, path) {
                add(at);
            }
            if let Some(trial) = &path.trial {
                add(fresh(trial.next_try_at));
            }
            if path.flying.head() != NONE {
                add(self.flying_due(path));
            }
            let mut slot = path.slow.head();
            while slot != NONE {
                add(self.slow_due(slot));
                slot = self.commands.get(slot).links().next();
            }
        }
        due
    }

    /// When the oldest data command is overdue.
    fn flying_due(&self, path: &Path) -> Instant {
        let sent_at = self.commands.get(path.flying.head()).last_sent;
        sent_at.max(path.timer_floor) + path.rtt.rto(&self.config)
    }

    /// When a flush or control command is asked again: it may take its time, and its retransmission is cheap.
    fn slow_due(&self, slot: u16) -> Instant {
        let command = self.commands.get(slot);
        let doubled = self.config.rto_initial * (1 << (command.copies.max(1) - 1).min(10));
        command.last_sent + doubled.min(self.config.rto_max)
    }

    /// When to ask whether a path lives though nothing is wanted of it: unflushed writes must not miss a restart (S7), and an
    /// unanswered probe is followed by another.
    fn keepalive_at(&self, target: &Target, path: &Path) -> Option<Instant> {
        if !matches!(target.phase, Phase::Up | Phase::Draining) {
            return None;
        }
        // A target with sessions tells of its restart by itself.
        let unflushed = target.phase == Phase::Up
            && !target.speaks
            && target.write_mark > target.flushed_mark
            && target.suspect.is_none();
        let owed = |copies: Predecessor| copies.arrived_at <= self.last_called;
        let waits = !path.slow.is_empty()
            || path.is_probing()
            || path.silent
            || path.predecessor.is_some_and(owed);
        let since = path.probed_at.max(path.heard_at);
        (unflushed || waits)
            .then_some(if waits { path.probed_at } else { since } + self.config.probe_interval)
    }

    /// When a path on which no data flies is silent: probes in a row went unanswered, for as long as a restart takes. A flush must not
    /// stay on a dead path while another lives, nor copies of a change pile up at a stopped target.
    fn hushed_at(&self, target: &Target, path: &Path) -> Option<Instant> {
        let probes = self.config.probe_interval * u32::from(SILENT_AFTER_TIMEOUTS);
        let asked = target.phase == Phase::Up && path.flying.is_empty() && path.is_waiting();
        asked.then(|| path.quiet_since + probes.max(self.config.restart_silence))
    }

    fn path_timers(&mut self, now: Instant, number: u8, path_number: u8) {
        let target = &self.targets[usize::from(number)];
        let path = target.path(path_number);
        if self.keepalive_at(target, path).is_some_and(|at| at <= now) {
            self.targets[usize::from(number)]
                .path_mut(path_number)
                .want_probe(now);
        }
        let target = &self.targets[usize::from(number)];
        let path = target.path(path_number);
        if path.silent {
            return;
        }
        // With the clock as of the last call: answers that came while we slept are taken in first.
        if self
            .hushed_at(target, path)
            .is_some_and(|at| at <= self.last_called)
        {
            return self.go_silent(now, number, path_number);
        }
        self.trial_timers(now, number, path_number);
        self.slow_timers(now, number, path_number);
        let path = self.targets[usize::from(number)].path(path_number);
        if path.flying.head() != NONE && self.flying_due(path) <= now {
            self.on_timeout(now, number, path_number);
        }
    }

    fn slow_timers(&mut self, now: Instant, number: u8, path_number: u8) {
        let mut slot = self.targets[usize::from(number)]
            .path(path_number)
            .slow
            .head();
        while slot != NONE {
            let next = self.commands.get(slot).links().next();
            if self.slow_due(slot) <= now {
                let path = self.targets[usize::from(number)].path_mut(path_number);
                path.slow.remove(&mut self.commands.table, slot);
                self.commands.get_mut(slot).state = State::Resend;
                path.resend.push_back(&mut self.commands.table, slot);
            }
            slot = next;
        }
    }

    /// The oldest data command is overdue: all that are go out again; several times in a row, and the path is silent.
    fn on_timeout(&mut self, now: Instant, number: u8, path_number: u8) {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        let rto = path.rtt.rto(&self.config);
        let mut shrinks = false;
        while path.flying.head() != NONE {
            let slot = path.flying.head();
            let sent_at = self.commands.get(slot).last_sent;
            if sent_at.max(path.timer_floor) + rto > now {
                break;
            }
            shrinks |= sent_at >= path.shrunk_at;
            path.flying.remove(&mut self.commands.table, slot);
            self.commands.get_mut(slot).state = State::Resend;
            path.resend.push_back(&mut self.commands.table, slot);
            self.counters.timeouts += 1;
        }
        path.rtt.back_off();
        path.timeouts_in_row = path.timeouts_in_row.saturating_add(1);
        if shrinks {
            path.shrunk_at = now;
            if path.timeouts_in_row > 1 {
                path.window.collapse();
            } else {
                path.window.shrink();
            }
        }
        if path.timeouts_in_row >= SILENT_AFTER_TIMEOUTS {
            self.go_silent(now, number, path_number);
        } else {
            self.suspect_black_hole(now, number, path_number);
        }
    }

    /// Stops sending data along a path that answers nothing: copies of WRITEs would heap up in the target's socket (S2). Config
    /// queries go on; what can go another way does.
    fn go_silent(&mut self, now: Instant, number: u8, path_number: u8) {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        path.silent = true;
        path.want_probe(now);
        let info = path.info(&self.config);
        self.notice(Notice::PathSilent(TargetId(number), info));
        let others = |path: &&Path| path.is_usable();
        if self.targets[usize::from(number)]
            .paths
            .iter()
            .flatten()
            .any(|path| others(&path))
        {
            self.restart_requests_on(now, number, path_number, 0);
        }
        self.settle_session(now, number);
    }

    /// Sends again, from its start, every request with a command of more than `sectors` on this path.
    pub(super) fn restart_requests_on(
        &mut self,
        now: Instant,
        number: u8,
        path_number: u8,
        sectors: u16,
    ) {
        for slot in 0..self.config.commands_max {
            let command = *self.commands.get(slot);
            let live = matches!(command.state, State::Flying | State::Slow | State::Resend);
            let here = command.target == number && command.path == path_number;
            if live && here && command.request != NONE && command.count > sectors {
                self.restart(now, command.request);
            } else if live && here && command.request == NONE && sectors == 0 {
                // Our own IDENTIFY can be asked elsewhere; a session is asked for again when the path is back.
                self.drop_own(now, slot);
            }
        }
    }

    /// Fails what is past its deadline.
    fn expire(&mut self, now: Instant) {
        let mut floor: Option<Instant> = None;
        for slot in 0..self.config.requests_max {
            let request = self.requests.get(slot);
            if !request.is_open() {
                continue;
            }
            let deadline = request.deadline;
            if deadline > now {
                floor = Some(floor.map_or(deadline, |floor: Instant| floor.min(deadline)));
                continue;
            }
            let (copies, target) = (request.copies, &self.targets[usize::from(request.target)]);
            let quiet = |path: &Path| {
                path.silent || now.saturating_since(path.heard_at) > Duration::from_secs(1)
            };
            let silent = target.paths.iter().flatten().all(quiet);
            self.finish(now, slot, Err(IoError::Deadline { copies, silent }));
        }
        self.deadline_floor = floor;
    }
}
