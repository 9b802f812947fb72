//! Ends: of commands, of requests, and of what their late copies keep closed.

use sandrail_wire::aoe::AtaRepr;
use sandrail_wire::ata;

use super::api::{Completion, IoError, Notice, Operation, Outcome, RestartEvidence, TargetId};
use super::command::{Kind, State};
use super::config::StaleWriteRule;
use super::list::NONE;
use super::request::RequestState;
use super::session::Membership;
use super::target::Phase;
use super::{Initiator, RequestBuffer, kind_of};
use crate::time::Instant;

impl<B: RequestBuffer> Initiator<B> {
    /// Takes a command off the list it is on.
    fn unlink(&mut self, slot: u16) {
        let command = *self.commands.get(slot);
        if command.state == State::Loose {
            return;
        }
        let path = self.targets[usize::from(command.target)].path_mut(command.path);
        let list = match command.state {
            State::Flying => &mut path.flying,
            State::Slow => &mut path.slow,
            State::Resend => &mut path.resend,
            State::Lingering => &mut path.lingering,
            State::Free | State::Loose => unreachable!("on no list"),
        };
        list.remove(&mut self.commands.table, slot);
    }

    /// Ends a command: at once, or, if a late copy of it could do harm, when its copies are accounted for.
    pub(super) fn end_command(&mut self, now: Instant, slot: u16) {
        self.unlink(slot);
        let command = *self.commands.get(slot);
        if command.request != NONE {
            self.requests.get_mut(command.request).commands -= 1;
        }
        if !command.kind.is_closing() || command.all_answered() {
            self.commands.release(slot);
            return;
        }
        self.commands.get_mut(slot).state = State::Lingering;
        self.requests.get_mut(command.request).lingering += 1;
        self.counters.lingered += 1;
        let lifetime = self.config.frame_lifetime;
        let path = self.targets[usize::from(command.target)].path_mut(command.path);
        path.lingering.push_back(&mut self.commands.table, slot);
        path.want_probe(now + lifetime);
    }

    /// A lingering command's last copy is accounted for.
    pub(super) fn end_lingering(&mut self, slot: u16) {
        self.unlink(slot);
        let request = self.commands.get(slot).request;
        self.commands.release(slot);
        let entry = self.requests.get_mut(request);
        entry.lingering -= 1;
        if entry.state == RequestState::Over {
            self.try_release(request);
        }
    }

    /// Opens the range of a request that is over and gives its slot back, when nothing of it is left.
    fn try_release(&mut self, slot: u16) {
        let request = self.requests.get(slot);
        if request.commands > 0 || request.lingering > 0 {
            return;
        }
        let target = request.target;
        self.open_range(slot);
        self.requests.release(slot);
        self.finish_draining(target);
    }

    fn open_range(&mut self, slot: u16) {
        let request = self.requests.get_mut(slot);
        if !core::mem::take(&mut request.closes) {
            return;
        }
        let (target, lba) = (request.target, request.lba);
        self.targets[usize::from(target)].ranges.open(lba, slot);
        if !self.targets[usize::from(target)].waiting.is_empty() {
            self.wake_waiting(target);
        }
    }

    /// Ends all commands of a request that are under way. Rare: an error, a deadline, a restart.
    fn end_commands_of(&mut self, now: Instant, request: u16) {
        for slot in 0..self.config.commands_max {
            if self.requests.get(request).commands == 0 {
                break;
            }
            let command = self.commands.get(slot);
            let live = matches!(command.state, State::Flying | State::Slow | State::Resend);
            if live && command.request == request {
                self.end_command(now, slot);
            }
        }
    }

    /// Gives the caller its answer. What late copies could still do keeps the slot and the range.
    pub(super) fn finish(&mut self, now: Instant, slot: u16, result: Result<Outcome, IoError>) {
        self.end_commands_of(now, slot);
        let id = self.requests.id(slot);
        let request = self.requests.get_mut(slot);
        let before = core::mem::replace(&mut request.state, RequestState::Over);
        let suspect = request.suspect;
        let target = &mut self.targets[usize::from(request.target)];
        let completion = Completion {
            id,
            target: TargetId(request.target),
            operation: request.operation,
            user: request.user,
            submitted_at: request.submitted_at,
            result,
            buffer: request
                .buffer
                .take()
                .expect("an open request has its buffer"),
        };
        match before {
            RequestState::Ready => target.ready.remove(&mut self.requests.table, slot),
            RequestState::Waiting => target.waiting.remove(&mut self.requests.table, slot),
            RequestState::Issued => {}
            RequestState::Free | RequestState::Over => unreachable!("finished twice"),
        }
        if matches!(completion.result, Ok(Outcome::Written)) {
            target.write_mark += 1;
            // Some of it may have been acknowledged by the target's former life, and the owner have taken note of a loss since.
            target.suspect = target.suspect.or(suspect);
        }
        self.events.push_back(completion);
        if self.config.stale_write_rule == StaleWriteRule::Off {
            self.open_range(slot);
        }
        self.try_release(slot);
        if before == RequestState::Waiting {
            self.wake_waiting(self.requests.get(slot).target);
        }
    }

    /// Gives up a command of the initiator's own that was on its way: it is asked again when it can be.
    pub(super) fn drop_own(&mut self, now: Instant, slot: u16) {
        let command = *self.commands.get(slot);
        self.end_command(now, slot);
        let target = &mut self.targets[usize::from(command.target)];
        if command.kind == Kind::Session {
            target.path_mut(command.path).membership.lose_ask(now);
        } else {
            target.identify_out = false;
        }
    }

    /// All sectors of a request are answered.
    pub(super) fn finish_answered(&mut self, now: Instant, slot: u16) {
        let request = self.requests.get(slot);
        let outcome = match request.operation {
            Operation::Read { .. } => Outcome::Read,
            Operation::Write { .. } => Outcome::Written,
            _ => unreachable!("only data is counted in sectors"),
        };
        self.finish(now, slot, Ok(outcome));
    }

    /// Sends a request again from its start: the path or the payload that its commands were cut for is gone. Writing the
    /// same data twice does no harm while the range is closed, and it is, until every copy is accounted for.
    pub(super) fn restart(&mut self, now: Instant, slot: u16) {
        self.counters.request_restarts += 1;
        self.end_commands_of(now, slot);
        let request = self.requests.get_mut(slot);
        request.start_over();
        let target = &mut self.targets[usize::from(request.target)];
        if request.state == RequestState::Issued {
            request.state = RequestState::Ready;
            target.ready.push_front(&mut self.requests.table, slot);
        }
    }

    /// The target may have restarted: what it acknowledged and did not flush counts as lost (S7). WRITEs of which something was
    /// sent count, too, even if none of it is under way: parts may be acknowledged, or be so by what is on its way.
    ///
    /// A target with sessions is asked instead: it knows.
    pub(super) fn suspect_restart(&mut self, now: Instant, target: u8, evidence: RestartEvidence) {
        if self.targets[usize::from(target)].speaks {
            let entry = &mut self.targets[usize::from(target)];
            entry.identify_due |= entry.phase == Phase::Up;
            return self.inquire(now, TargetId(target));
        }
        let entry = &mut self.targets[usize::from(target)];
        entry.identify_due |= entry.phase == Phase::Up;
        self.distrust(target, evidence);
    }

    /// A FLUSH failed (S7). One that was not carried out says nothing of what it was to make durable.
    pub(super) fn on_flush_failed(&mut self, target: u8, answer: &AtaRepr) {
        let was_refused = answer.error_feature & ata::ERROR_ABRT != 0
            && answer.command_status & ata::STATUS_DF == 0;
        let entry = &self.targets[usize::from(target)];
        if !was_refused && entry.write_mark > entry.flushed_mark {
            self.distrust(target, RestartEvidence::FlushFailed);
        }
    }

    /// What is not flushed counts as lost.
    fn distrust(&mut self, target: u8, evidence: RestartEvidence) {
        let mut under_way = false;
        for request in &mut self.requests.table {
            let is_write = matches!(request.operation, Operation::Write { .. });
            if request.is_open() && request.target == target && is_write && request.cursor > 0 {
                request.suspect.get_or_insert(evidence);
                under_way = true;
            }
        }
        let entry = &mut self.targets[usize::from(target)];
        let unflushed = entry.write_mark > entry.flushed_mark || under_way;
        if unflushed {
            entry.suspect.get_or_insert(evidence);
            // FLUSHes under way must not succeed for it, even if the owner takes note before they end.
            for request in &mut self.requests.table {
                let flushes = matches!(request.operation, Operation::Flush);
                if request.is_open() && request.target == target && flushes {
                    request.suspect.get_or_insert(evidence);
                }
            }
        }
        let entry = &self.targets[usize::from(target)];
        if entry.phase == Phase::Up {
            self.notice(Notice::RestartSuspected {
                target: TargetId(target),
                evidence,
                unflushed,
            });
        }
    }

    /// Lets a target go that is detached or could not be attached.
    pub(super) fn abandon(&mut self, target: u8) {
        self.release_commands_of(target);
        let entry = &mut self.targets[usize::from(target)];
        entry.phase = Phase::Draining;
        self.finish_draining(target);
    }

    /// Releases the initiator's own commands to a target whose requests are finished.
    fn release_commands_of(&mut self, target: u8) {
        for slot in 0..self.config.commands_max {
            let command = *self.commands.get(slot);
            let live = !matches!(command.state, State::Free | State::Lingering);
            if live && command.target == target && command.kind != Kind::Discover {
                assert_eq!(command.request, NONE, "its requests are finished");
                self.unlink(slot);
                self.commands.release(slot);
            }
        }
        let entry = &mut self.targets[usize::from(target)];
        entry.identify_due = false;
        entry.identify_out = false;
        entry.ask_due.fill(false);
        entry.ask_slots.fill(NONE);
        for path in entry.paths.iter_mut().flatten() {
            path.trial = None;
            path.membership = Membership::NONE;
            path.probes = [NONE; super::path::PROBES_OUT_MAX];
            if !path.lingering.is_empty() {
                // A probe that is forgotten here may have been the one that the lingering waited for.
                path.want_probe(path.probed_at + self.config.probe_interval);
            }
        }
    }

    fn finish_draining(&mut self, target: u8) {
        let entry = &mut self.targets[usize::from(target)];
        let lingers = entry
            .paths
            .iter()
            .flatten()
            .any(|path| !path.lingering.is_empty());
        if entry.phase != Phase::Draining || lingers {
            return;
        }
        // Probes that looked after the lingering may still be out.
        self.release_commands_of(target);
        let entry = &mut self.targets[usize::from(target)];
        entry.phase = Phase::Free;
        entry.paths = [None; super::config::PATHS_MAX];
        self.in_use &= !(1 << target);
        self.count_paths();
    }

    /// To be called when a path came or went.
    pub(super) fn count_paths(&mut self) {
        let paths = self
            .targets
            .iter()
            .map(|t| t.paths.iter().flatten().count());
        self.paths_in_use = u16::try_from(paths.sum::<usize>()).unwrap_or(u16::MAX);
    }

    /// Whether an operation's copies are counted.
    pub(super) fn kind_of_request(&self, slot: u16) -> Kind {
        kind_of(self.requests.get(slot).operation)
    }
}
