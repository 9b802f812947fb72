//! Sessions with a target that announces them (S5), and what they tell of its restarts (S7).
//!
//! A session belongs to this shard of this process (its incarnation) and to the MACs that asked for it, so every path asks for
//! itself. Three things follow from what the target promises:
//!
//! - A WRITE or FLUSH whose session is void is refused, and a session that ended never comes back. So with a new session all
//!   copies sent under the old one are dead at once: whatever still arrives of them is refused, and what had been accepted
//!   before is carried out before anything that overlaps it and comes later.
//! - Within a session nothing acknowledged was lost, since a restart of the target ends it. So no silence or advertisement
//!   fails a flush: they only make us ask. The loss mark that comes with each session says whether the step from one to the
//!   next lost anything.
//! - Our attach lists all MACs of this process and ends the sessions of an earlier one that has any of them, so nothing needs to be
//!   waited for at the start.
//!
//! The first answer tells a *birth*, a number that orders the lives of a MAC, which each later attach names, for as long as this
//! process lives: by it the target knows those who lived before they were fenced (S10).
//!
//! All paths must lead to one target: two that serve the same disk have sessions of their own each.

use sandrail_wire::aoe::{
    Birth, Body, ErrorCode, Features, MacList, Repr, SANDRAIL_ARGS_BYTES, SANDRAIL_COMMAND,
    SandrailError, SandrailOperation, SandrailRepr, SandrailStatus, Session,
};

use super::api::{
    AttachFailure, IoError, Notice, Operation, Outcome, RestartEvidence, SessionRefusal,
    SessionState, TargetId,
};
use super::command::{Kind, State};
use super::config::InitiatorConfig;
use super::list::NONE;
use super::path::Path;
use super::request::RequestState;
use super::target::{Phase, Target};
use super::{Initiator, RequestBuffer};
use crate::time::Instant;

/// A path's part in its target's session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    /// The session that our MAC on this path is part of, which is the target's; [`Session::NONE`] until it is known.
    pub(super) session: Session,
    /// When to ask next.
    pub(super) ask_at: Option<Instant>,
    /// The command that asks, or [`NONE`].
    pub(super) ask: u16,
    asked_at: Option<Instant>,
    /// The birth that it names.
    asked_as: Birth,
    refusal: Option<SessionRefusal>,
    /// Since when every answer says that this process is fenced.
    fenced_since: Option<Instant>,
}

impl Membership {
    pub(super) const NONE: Self = Self {
        session: Session::NONE,
        ask_at: None,
        ask: NONE,
        asked_at: None,
        asked_as: Birth::NONE,
        refusal: None,
        fenced_since: None,
    };

    /// Whether an answer is to come.
    pub(super) const fn is_pending(&self) -> bool {
        self.ask != NONE || self.ask_at.is_some()
    }

    /// Whether the question is to be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.ask == NONE && self.ask_at.is_some_and(|at| at <= now)
    }

    /// The question goes out now, as this command.
    pub(super) fn begin_ask(&mut self, now: Instant, slot: u16, birth: Birth) {
        self.ask = slot;
        self.ask_at = None;
        self.asked_at = Some(now);
        self.asked_as = birth;
    }

    /// Asks soon, but no sooner than a probe's interval after the last time. A question under way is left alone.
    pub(super) fn want_ask(&mut self, config: &InitiatorConfig, now: Instant) {
        if self.is_pending() {
            return;
        }
        let rested_at = self.asked_at.map(|at| at + config.probe_interval);
        self.ask_at = Some(rested_at.map_or(now, |at| at.max(now)));
    }

    /// An answer came that grants nothing. Some are no last word, and the question is asked again: the target makes more session
    /// numbers durable; or a late copy of an earlier process's attach made it take us for the earlier life of the two, which it
    /// believes for as long as a frame lives.
    fn refuse(&mut self, config: &InitiatorConfig, now: Instant, refusal: SessionRefusal) {
        self.session = Session::NONE;
        self.refusal = Some(refusal);
        let since = match refusal {
            SessionRefusal::Fenced => *self.fenced_since.get_or_insert(now),
            _ => {
                self.fenced_since = None;
                now
            }
        };
        let doubtful_until = since + config.frame_lifetime + config.probe_interval;
        let passes = match refusal {
            SessionRefusal::Status(SandrailStatus::NotDurable) => true,
            SessionRefusal::Fenced => now < doubtful_until,
            _ => false,
        };
        if passes {
            self.want_ask(config, now);
        }
    }

    /// The question was given up unanswered.
    pub(super) fn lose_ask(&mut self, now: Instant) {
        self.ask = NONE;
        self.ask_at = Some(now);
    }
}

/// Whether an operation needs a session on targets that have them.
const fn needs_session(operation: Operation) -> bool {
    matches!(operation, Operation::Write { .. } | Operation::Flush)
}

/// How a target's paths together stand.
fn standing(target: &Target) -> SessionState {
    if let Some(refusal) = target.unasked {
        return SessionState::Refused(refusal);
    }
    if !target.speaks {
        return SessionState::Unspoken;
    }
    let paths = || target.paths.iter().flatten();
    if paths().any(|path| path.membership.session.is_some()) {
        return SessionState::Held(target.session);
    }
    let mut refusal = None;
    for path in paths().filter(|path| !path.silent) {
        match path.membership.refusal {
            Some(why) if !path.membership.is_pending() => refusal = refusal.or(Some(why)),
            _ => return SessionState::Pending,
        }
    }
    refusal.map_or(SessionState::Pending, SessionState::Refused)
}

/// What an answer to the vendor command says, if it is one to this operation: its fields, or the version that the target speaks.
fn answer_in<'a>(
    body: &Body<'a>,
    operation: SandrailOperation,
) -> Option<Result<SandrailRepr<'a>, u8>> {
    let Body::Vendor {
        command: SANDRAIL_COMMAND,
        data,
    } = *body
    else {
        return None;
    };
    match SandrailRepr::parse(data) {
        Ok(answer) => (answer.operation == operation).then_some(Ok(answer)),
        Err(SandrailError::Version(theirs)) => Some(Err(theirs)),
        Err(_) => None,
    }
}

/// Whether a response can be an answer to the vendor command's operation. An AoE error may lack all arguments.
pub(super) fn answers(repr: &Repr<'_>, operation: SandrailOperation) -> bool {
    match repr.body {
        Body::Vendor {
            command: SANDRAIL_COMMAND,
            ..
        } => repr.error.is_some() || answer_in(&repr.body, operation).is_some(),
        _ => false,
    }
}

/// Milliseconds of the frames' lifetime, rounded up.
fn lifetime_ms(config: &InitiatorConfig) -> u32 {
    let ms = config.frame_lifetime.as_nanos().div_ceil(1_000_000);
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// Bytes of an attach without its list, from the AoE header on.
pub(super) const ATTACH_BYTES: usize = 10 + SANDRAIL_ARGS_BYTES;

/// The request for a session, with the MACs of the whole process and the birth that the target gave to this life, if it did.
pub(super) fn attach_request<'a>(
    config: &InitiatorConfig,
    stations: &'a [u8],
    birth: Birth,
) -> SandrailRepr<'a> {
    SandrailRepr {
        features: Features::ALL,
        birth,
        macs: MacList::from_bytes(stations).unwrap_or(MacList::EMPTY),
        shard: config.shard,
        incarnation: config.incarnation,
        lifetime_ms: lifetime_ms(config),
        ..SandrailRepr::request(SandrailOperation::Attach)
    }
}

/// The birth that an answer to an attach tells.
fn given_birth(repr: &Repr<'_>) -> Option<Birth> {
    let answer = match answer_in(&repr.body, SandrailOperation::Attach) {
        Some(Ok(answer)) if repr.error.is_none() => answer,
        _ => return None,
    };
    let told = answer.status == SandrailStatus::Unborn && answer.birth.is_some();
    told.then_some(answer.birth)
}

/// The session that an answer to an attach grants.
fn granted<'a>(
    config: &InitiatorConfig,
    repr: &Repr<'a>,
) -> Result<SandrailRepr<'a>, SessionRefusal> {
    match repr.error {
        Some(ErrorCode::TargetReserved) => return Err(SessionRefusal::Reserved),
        Some(error) => return Err(SessionRefusal::Aoe(error)),
        None => {}
    }
    let answer = match answer_in(&repr.body, SandrailOperation::Attach) {
        Some(Ok(answer)) => answer,
        Some(Err(theirs)) => return Err(SessionRefusal::Version(theirs)),
        None => return Err(SessionRefusal::Status(SandrailStatus::BadArgument)),
    };
    let (lifetime_ms, remembered_ms) = (lifetime_ms(config), answer.lifetime_ms);
    let forgets_early = remembered_ms < lifetime_ms;
    let too_long = SessionRefusal::Lifetime {
        lifetime_ms,
        remembered_ms,
    };
    match answer.status {
        SandrailStatus::Done if forgets_early => Err(too_long),
        SandrailStatus::Done
            if answer.session.is_some() && answer.features.contains(Features::SESSIONS) =>
        {
            Ok(answer)
        }
        SandrailStatus::BadArgument if forgets_early => Err(too_long),
        SandrailStatus::Reserved => Err(SessionRefusal::Reserved),
        SandrailStatus::Fenced => Err(SessionRefusal::Fenced),
        SandrailStatus::NoSession => Err(SessionRefusal::NoneFree),
        status => Err(SessionRefusal::Status(status)),
    }
}

impl<B: RequestBuffer> Initiator<B> {
    /// Asks for the session's state soon, if the target has sessions: something may have happened to it, or another shard saw it
    /// restart.
    pub fn inquire(&mut self, now: Instant, target: TargetId) {
        self.last_called = now;
        if target.index() < self.targets.len() {
            self.want_asks(now, target.0);
            self.settle_session(now, target.0);
        }
    }

    /// Lets every path ask.
    fn want_asks(&mut self, now: Instant, number: u8) {
        let target = &mut self.targets[usize::from(number)];
        if !target.speaks || !matches!(target.phase, Phase::Sizing | Phase::Up) {
            return;
        }
        for path in target.paths.iter_mut().flatten() {
            path.membership.want_ask(&self.config, now);
        }
    }

    /// Lets one path ask: a new one, or one that is back.
    pub(super) fn want_ask(&mut self, now: Instant, number: u8, path_number: u8) {
        let target = &mut self.targets[usize::from(number)];
        if target.speaks {
            let path = target.path_mut(path_number);
            path.membership.want_ask(&self.config, now);
        }
    }

    /// IDENTIFY has told whether the target has sessions. `Err`: it has, and we can't have one.
    pub(super) fn heed_announcement(
        &mut self,
        now: Instant,
        number: u8,
    ) -> Result<(), SessionRefusal> {
        let target = &mut self.targets[usize::from(number)];
        let announces = target.announces(Features::SESSIONS);
        let known = match target.unasked {
            None => announces == target.speaks,
            Some(SessionRefusal::Withdrawn) => !announces,
            Some(_) => announces,
        };
        if known {
            return Ok(());
        }
        target.unasked = None;
        if target.speaks {
            self.withdraw_session(now, number);
        } else if announces {
            if self.config.incarnation == 0 {
                target.unasked = Some(SessionRefusal::NoIncarnation);
            }
            // A target that had none before is another than before.
            self.suspect_restart(now, number, RestartEvidence::ConfigChanged);
        }
        self.begin_anew(now, number);
        let target = &mut self.targets[usize::from(number)];
        target.speaks = announces && target.unasked.is_none();
        for path in target.paths.iter_mut().flatten().filter(|_| target.speaks) {
            path.membership.want_ask(&self.config, now);
        }
        let unasked = target.unasked;
        self.settle_session(now, number);
        unasked.map_or(Ok(()), Err)
    }

    /// Something without sessions has taken the target's place. It would carry out what the sessions were to prevent, so nothing is
    /// written to it before the owner attaches it anew.
    fn withdraw_session(&mut self, now: Instant, number: u8) {
        self.lose_unflushed(now, number);
        for path in 0..self.targets[usize::from(number)].paths.len() {
            let Some(path) = self.targets[usize::from(number)].paths[path].as_mut() else {
                continue;
            };
            let ask = core::mem::replace(&mut path.membership, Membership::NONE).ask;
            if ask != NONE {
                self.end_command(now, ask);
            }
        }
        let target = &mut self.targets[usize::from(number)];
        target.session = Session::NONE;
        target.unasked = Some(SessionRefusal::Withdrawn);
    }

    /// The answer to a path's request for a session.
    pub(super) fn on_session_answer(&mut self, now: Instant, slot: u16, repr: &Repr<'_>) {
        let command = *self.commands.get(slot);
        let (number, path_number) = (command.target, command.path);
        self.end_command(now, slot);
        let path = self.targets[usize::from(number)].path_mut(path_number);
        path.membership.ask = NONE;
        if let Some(birth) = given_birth(repr) {
            self.take_birth(now, number, path_number, birth);
            return self.settle_session(now, number);
        }
        match granted(&self.config, repr) {
            Ok(answer) => {
                path.membership.session = answer.session;
                path.membership.refusal = None;
                path.membership.fenced_since = None;
                // What an earlier process sent with this MAC belongs to sessions that are void now.
                // A target that takes no list ends those of this one MAC.
                let whole = answer.features.contains(Features::BIRTHS) || self.stations.len() == 6;
                let quarantined = whole && path.predecessor.take().is_some();
                let target = &mut self.targets[usize::from(number)];
                if answer.session != target.session {
                    self.begin_session(now, number, path_number, &answer);
                } else if answer.loss_mark != target.loss_mark {
                    // It lost something and did not restart.
                    target.loss_mark = answer.loss_mark;
                    self.lose_unflushed(now, number);
                }
                if quarantined {
                    self.wake_waiting(number);
                }
            }
            Err(refusal) => {
                let was_member = path.membership.session.is_some();
                path.membership.refuse(&self.config, now, refusal);
                if was_member {
                    // What is under way here goes another way, or fails with all the rest.
                    self.begin_anew(now, number);
                }
            }
        }
        self.settle_session(now, number);
    }

    /// The target has told this life's birth (S10): the first word counts, as long as the target knows it.
    fn take_birth(&mut self, now: Instant, number: u8, path_number: u8, birth: Birth) {
        let target = &mut self.targets[usize::from(number)];
        let asked_as = target.path(path_number).membership.asked_as;
        if target.birth == asked_as {
            target.birth = birth;
            let addr = target.addr;
            self.births.retain(|(known, _)| *known != addr);
            self.births.push((addr, birth));
        }
        let target = &mut self.targets[usize::from(number)];
        let membership = &mut target.path_mut(path_number).membership;
        membership.session = Session::NONE;
        membership.refusal = None;
        membership.fenced_since = None;
        if asked_as.is_some() {
            // It does not know its own word any more, which should not happen over and over.
            membership.want_ask(&self.config, now);
        } else {
            membership.ask_at = Some(now);
        }
    }

    /// The target granted a session that is not the one we knew.
    fn begin_session(
        &mut self,
        now: Instant,
        number: u8,
        path_number: u8,
        answer: &SandrailRepr<'_>,
    ) {
        self.counters.sessions += 1;
        let target = &mut self.targets[usize::from(number)];
        let former = core::mem::replace(&mut target.session, answer.session);
        let mark_before = core::mem::replace(&mut target.loss_mark, answer.loss_mark);
        // Nothing was sent under any session yet, which an answer from before could confuse.
        if !former.is_some() && target.phase == Phase::Sizing {
            return;
        }
        for other in 0..self.targets[usize::from(number)].paths.len() {
            if other != usize::from(path_number) {
                self.ask_afresh(now, number, other);
            }
        }
        if !former.is_some() {
            return;
        }
        if mark_before != answer.loss_mark {
            self.lose_unflushed(now, number);
        }
        self.begin_anew(now, number);
        self.bury_copies(number, answer.session);
    }

    /// Another path has a new session: this one's membership is void, and so is a question asked before, whose answer may come
    /// from before the change and name the old session.
    fn ask_afresh(&mut self, now: Instant, number: u8, path_number: usize) {
        let Some(path) = self.targets[usize::from(number)].paths[path_number].as_mut() else {
            return;
        };
        path.membership.session = Session::NONE;
        path.membership.refusal = None;
        let ask = core::mem::replace(&mut path.membership.ask, NONE);
        path.membership.want_ask(&self.config, now);
        if ask != NONE {
            self.end_command(now, ask);
        }
    }

    /// A WRITE or FLUSH was refused since its session is void.
    pub(super) fn on_session_void(&mut self, now: Instant, number: u8) {
        self.counters.sessions_void += 1;
        for path in self.targets[usize::from(number)].paths.iter_mut().flatten() {
            path.membership.session = Session::NONE;
        }
        self.want_asks(now, number);
        self.begin_anew(now, number);
        self.settle_session(now, number);
    }

    /// WRITEs and FLUSHes of which something was sent start over under new tags. What was sent of them lingers, so that nothing else
    /// can overtake it.
    fn begin_anew(&mut self, now: Instant, number: u8) {
        for slot in 0..self.config.commands_max {
            let command = *self.commands.get(slot);
            let live = matches!(command.state, State::Flying | State::Slow | State::Resend);
            if live && command.target == number && command.kind.needs_session() {
                self.end_command(now, slot);
            }
        }
        for slot in 0..self.config.requests_max {
            let request = self.requests.get_mut(slot);
            let begun = request.is_open() && request.cursor > 0;
            if !begun || request.target != number || !needs_session(request.operation) {
                continue;
            }
            self.counters.request_restarts += 1;
            request.start_over();
            if request.state == RequestState::Issued {
                request.state = RequestState::Ready;
                let target = &mut self.targets[usize::from(number)];
                target.ready.push_front(&mut self.requests.table, slot);
            }
        }
    }

    /// Copies of WRITEs of former sessions are dead: the target refuses those that still arrive, and a session never comes back.
    /// Copies without a session, from before the target had any, are accounted for by the common rule (S2).
    fn bury_copies(&mut self, number: u8, session: Session) {
        for slot in 0..self.config.commands_max {
            let command = self.commands.get(slot);
            let lingers = command.state == State::Lingering && command.target == number;
            if lingers && command.session.is_some() && command.session != session {
                self.counters.lingered_void += 1;
                self.end_lingering(slot);
            }
        }
    }

    /// The target has said that it lost what was not flushed (S7). WRITEs that are not over start anew and are lost to nobody; FLUSHes
    /// that are not over must not succeed for what they were to cover, even if the owner takes note before they end.
    fn lose_unflushed(&mut self, now: Instant, number: u8) {
        let evidence = RestartEvidence::Session;
        let target = &mut self.targets[usize::from(number)];
        let unflushed = target.write_mark > target.flushed_mark;
        if unflushed {
            target.suspect.get_or_insert(evidence);
            for slot in 0..self.config.requests_max {
                let request = self.requests.get(slot);
                let flushes = matches!(request.operation, Operation::Flush);
                if request.is_open() && request.target == number && flushes {
                    self.finish(now, slot, Err(IoError::UnflushedLost(evidence)));
                }
            }
        }
        if self.targets[usize::from(number)].phase == Phase::Up {
            self.notice(Notice::RestartSuspected {
                target: TargetId(number),
                evidence,
                unflushed,
            });
        }
    }

    /// Draws the consequences of what happened to the paths' memberships. The target may be gone after it: its attach may fail.
    pub(super) fn settle_session(&mut self, now: Instant, number: u8) {
        let target = &mut self.targets[usize::from(number)];
        let standing = standing(target);
        let before = core::mem::replace(&mut target.standing, standing);
        match (target.phase, standing) {
            (Phase::Sizing, SessionState::Refused(refusal)) if !refusal.is_reservation() => {
                return self.fail_attach(number, AttachFailure::SessionRefused(refusal));
            }
            _ => {}
        }
        match target.phase {
            Phase::Sizing => return self.try_complete_attach(number),
            Phase::Up if before == standing => return,
            Phase::Up => {}
            _ => return,
        }
        self.notice(Notice::Session(TargetId(number), standing));
        if let SessionState::Refused(refusal) = standing {
            for slot in 0..self.config.requests_max {
                let request = self.requests.get(slot);
                let affected = request.target == number && needs_session(request.operation);
                if request.is_open() && affected {
                    self.finish(now, slot, Err(IoError::NoSession(refusal)));
                }
            }
        }
    }

    /// A request was accepted that needs a session where none was granted: asks again, if the refusal is not fresh, or fails it.
    pub(super) fn heed_refusal(&mut self, now: Instant, number: u8, slot: u16) {
        let target = &mut self.targets[usize::from(number)];
        let SessionState::Refused(refusal) = target.standing else {
            return;
        };
        if !needs_session(self.requests.get(slot).operation) {
            return;
        }
        let interval = self.config.probe_interval;
        let rested = |path: &Path| {
            path.membership
                .asked_at
                .is_none_or(|at| at + interval <= now)
        };
        let asks = target.unasked.is_none()
            && target
                .paths
                .iter()
                .flatten()
                .any(|path| !path.silent && rested(path));
        if asks {
            self.want_asks(now, number);
            self.settle_session(now, number);
        } else {
            self.finish(now, slot, Err(IoError::NoSession(refusal)));
        }
    }

    /// A change took effect. If it is the reservation's, a refusal from before says nothing any more.
    pub(super) fn on_change(&mut self, number: u8, request: u16) {
        let operation = self.requests.get(request).operation;
        if !matches!(
            operation,
            Operation::Reserve { .. } | Operation::ReserveEpoch { .. }
        ) {
            return;
        }
        for path in self.targets[usize::from(number)].paths.iter_mut().flatten() {
            path.membership.asked_at = None;
        }
    }

    /// What the answer to a reservation by epoch says.
    pub(super) fn take_epoch(&mut self, request: u16, repr: &Repr<'_>) -> Result<Outcome, IoError> {
        let answer = match answer_in(&repr.body, SandrailOperation::Reserve) {
            Some(Ok(answer)) => answer,
            _ => {
                let status = SandrailStatus::VersionNotSpoken;
                return Err(IoError::ReserveRefused(status));
            }
        };
        let len_bytes = self.take_macs(request, answer.macs);
        let epoch = answer.epoch;
        match answer.status {
            SandrailStatus::Done => Ok(Outcome::Reserved { epoch, len_bytes }),
            SandrailStatus::StaleEpoch => Err(IoError::StaleEpoch { epoch, len_bytes }),
            status => Err(IoError::ReserveRefused(status)),
        }
    }

    /// Why an attach fails that came to no session in time.
    pub(super) fn no_session(&self, number: u8) -> Option<AttachFailure> {
        let target = &self.targets[usize::from(number)];
        if target.standing != SessionState::Pending {
            return None;
        }
        let mut paths = target.paths.iter().flatten();
        match paths.find_map(|path| path.membership.refusal) {
            Some(refusal) if refusal.is_reservation() => None,
            Some(refusal) => Some(AttachFailure::SessionRefused(refusal)),
            None => Some(AttachFailure::SessionUnanswered),
        }
    }

    /// The first request in line that may be sent along a path whose MAC is part of no session.
    pub(super) fn ready_without_session(&self, number: u8) -> u16 {
        let mut slot = self.targets[usize::from(number)].ready.head();
        while slot != NONE && self.kind_of_request(slot).needs_session() {
            slot = super::list::Linked::links(self.requests.get(slot)).next();
        }
        slot
    }

    /// Whether a command may go along a path, as far as sessions are concerned.
    pub(super) fn may_carry(&self, number: u8, path_number: u8, kind: Kind) -> bool {
        let target = &self.targets[usize::from(number)];
        !target.speaks
            || !kind.needs_session()
            || target.path(path_number).membership.session.is_some()
    }
}
