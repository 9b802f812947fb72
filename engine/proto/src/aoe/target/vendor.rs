//! Sandrail's own command: hello, sessions, reservations by epoch.

use sandrail_wire::MacAddr;
use sandrail_wire::aoe::{
    Birth, Body, ErrorCode, Features, MACS_MAX, MacList, SANDRAIL_ARGS_BYTES, SANDRAIL_COMMAND,
    SandrailError, SandrailOperation, SandrailRepr, SandrailStatus, Session,
};

use super::api::VoidReason;
use super::backing::Backing;
use super::births::removed_at;
use super::config::{BIRTH_BLOCK, SESSION_BLOCK};
use super::receive::{ReplyTo, Verdict};
use super::sessions::{Attach, Attacher, STATIONS_MAX};
use super::settings::ChangeKind;
use super::slot::FEATURES;
use super::{Blade, BladeEvent, index, millis};
use crate::time::Instant;

/// What an answer repeats of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Echo {
    operation: SandrailOperation,
    features: Features,
    shard: u8,
    incarnation: u64,
}

impl Echo {
    fn of(request: &SandrailRepr<'_>) -> Self {
        Self {
            operation: request.operation,
            features: request.features.intersection(FEATURES),
            shard: request.shard,
            incarnation: request.incarnation,
        }
    }
}

impl<D: Backing> Blade<D> {
    pub(super) fn on_vendor(
        &mut self,
        now: Instant,
        number: usize,
        to: ReplyTo,
        data: &[u8],
    ) -> Verdict {
        let request = match SandrailRepr::parse(data) {
            Ok(request) => request,
            Err(SandrailError::Version(_)) => {
                // What the request says is unknown; the answer is of our version.
                let hello = SandrailRepr::request(SandrailOperation::Hello);
                let status = SandrailStatus::VersionNotSpoken;
                let body = self.vendor_answer(number, Echo::of(&hello), status);
                self.reply_vendor(number, &to, &body);
                return Verdict::Used;
            }
            Err(error) => {
                self.targets[number].counters.refused_argument += 1;
                let code = match error {
                    SandrailError::NotSandrail => ErrorCode::BadCommand,
                    _ => ErrorCode::BadArgument,
                };
                return self.refuse(number, &to, code);
            }
        };
        let echo = Echo::of(&request);
        match request.operation {
            SandrailOperation::Hello => {
                self.answer_vendor(number, &to, echo, SandrailStatus::Done);
                Verdict::Used
            }
            SandrailOperation::Attach => self.on_attach(now, number, &to, &request),
            SandrailOperation::Reserve => self.on_epoch(now, number, to, &request),
            SandrailOperation::Other(_) => {
                let body = self.vendor_answer(number, echo, SandrailStatus::UnknownOperation);
                self.reply_vendor(number, &to, &body);
                Verdict::Used
            }
        }
    }

    /// An answer without a list and without a session.
    pub(super) fn vendor_answer(
        &self,
        number: usize,
        echo: Echo,
        status: SandrailStatus,
    ) -> SandrailRepr<'static> {
        let target = &self.targets[number];
        SandrailRepr {
            operation: echo.operation,
            status,
            shard: echo.shard,
            features: echo.features,
            incarnation: echo.incarnation,
            session: Session::NONE,
            epoch: target.state.epoch,
            loss_mark: target.backing.loss_mark(),
            lifetime_ms: millis(self.config.frame_lifetime),
            birth: Birth::NONE,
            macs: MacList::EMPTY,
        }
    }

    pub(super) fn reply_vendor(&mut self, number: usize, to: &ReplyTo, body: &SandrailRepr<'_>) {
        let mut scratch = [0; SANDRAIL_ARGS_BYTES + MACS_MAX * 6];
        let len_bytes = body.emit(&mut scratch).expect("room for the longest list");
        let body = Body::Vendor {
            command: SANDRAIL_COMMAND,
            data: &scratch[..len_bytes],
        };
        self.reply(number, to, None, body);
    }

    fn on_attach(
        &mut self,
        now: Instant,
        number: usize,
        to: &ReplyTo,
        request: &SandrailRepr<'_>,
    ) -> Verdict {
        let (incarnation, shard) = (request.incarnation, request.shard);
        let birth = if request.features.contains(Features::BIRTHS) {
            request.birth
        } else {
            Birth::NONE
        };
        let who = Attacher::new(to.mac, incarnation, shard, birth, request.macs.iter());
        let echo = Echo::of(request);
        let outcome = match self.may_attach(now, number, to, request, &who) {
            Err(SandrailStatus::Unborn) => return self.give_birth(number, to, echo),
            Err(SandrailStatus::NotDurable) => {
                self.persist_again(number);
                Err(SandrailStatus::NotDurable)
            }
            Ok(()) => {
                self.end_other_lives(now, number, &who);
                let attach = self.targets[number].sessions.attach(now, &who);
                self.end_superfluous(now, number);
                self.refill_sessions(number);
                match attach {
                    Attach::Known(session) => Ok(session),
                    Attach::Opened(session) => {
                        self.event(BladeEvent::SessionOpened {
                            target: index(number),
                            session,
                            mac: who.mac,
                            shard: who.shard,
                            incarnation: who.incarnation,
                        });
                        Ok(session)
                    }
                    Attach::Superseded => Err(SandrailStatus::Fenced),
                    Attach::Full => Err(SandrailStatus::NoSession),
                    Attach::NotDurable => return Verdict::SessionsNotDurable,
                }
            }
            Err(status) => Err(status),
        };
        let (session, status) = match outcome {
            Ok(session) => (session, SandrailStatus::Done),
            Err(status) => (Session::NONE, status),
        };
        let counters = &mut self.targets[number].counters;
        counters.attaches += u64::from(session.is_some());
        counters.attaches_refused += u64::from(!session.is_some());
        let body = SandrailRepr {
            session,
            ..self.vendor_answer(number, echo, status)
        };
        self.reply_vendor(number, to, &body);
        Verdict::Used
    }

    fn may_attach(
        &self,
        now: Instant,
        number: usize,
        to: &ReplyTo,
        request: &SandrailRepr<'_>,
        who: &Attacher,
    ) -> Result<(), SandrailStatus> {
        let target = &self.targets[number];
        let names_birth = request.features.contains(Features::BIRTHS);
        let is_valid = request.incarnation != 0
            && request.features.contains(Features::SESSIONS)
            // Copies that live longer than they are remembered would be executed twice.
            && request.lifetime_ms <= millis(self.config.frame_lifetime)
            && request.macs.len() <= STATIONS_MAX
            && !to.header.addr.is_wildcard();
        if !is_valid {
            return Err(SandrailStatus::BadArgument);
        }
        // First of all, so that a life has a birth before it can do anything here. The late copy of a former life's first attach comes
        // to nothing by that, since nobody hears the answer.
        if names_birth && !target.births.is_known(who.birth) {
            return Err(SandrailStatus::Unborn);
        }
        if !target.reserved.admits(who.mac) {
            return Err(SandrailStatus::Reserved);
        }
        let was_removed = names_birth && who.birth.0 < removed_at(&target.state, who.mac);
        let is_fenced = target.state.fenced.contains(&(who.mac, who.incarnation));
        if was_removed || is_fenced || target.sessions.is_superseded(now, who) {
            return Err(SandrailStatus::Fenced);
        }
        // Or a restart could shut it out again, by a list from which nobody is seen to remove it.
        if !target.surely.admits(who.mac) {
            return Err(SandrailStatus::NotDurable);
        }
        Ok(())
    }

    /// Tells a life its birth, which it is to name from now on.
    fn give_birth(&mut self, number: usize, to: &ReplyTo, echo: Echo) -> Verdict {
        let birth = self.targets[number].births.give();
        self.refill_sessions(number);
        let Some(birth) = birth else {
            return Verdict::SessionsNotDurable;
        };
        let body = SandrailRepr {
            birth,
            ..self.vendor_answer(number, echo, SandrailStatus::Unborn)
        };
        self.reply_vendor(number, to, &body);
        Verdict::Used
    }

    /// A process speaks for all its MACs: the sessions of other lives of any of them end, and what they have waiting is thrown away
    /// (S5).
    fn end_other_lives(&mut self, now: Instant, number: usize, who: &Attacher) {
        let ended = self.targets[number].sessions.end_other_lives(now, who);
        if !ended.is_empty() {
            self.bury_sessions(now, number, &ended, VoidReason::NewIncarnation);
        }
    }

    /// Makes room for sessions to come. Numbers rest for a lifetime, so that the room is made before it is needed.
    fn end_superfluous(&mut self, now: Instant, number: usize) {
        while let Some(session) = self.targets[number].sessions.superfluous(now) {
            self.targets[number].sessions.retire(now, session);
            self.bury_sessions(now, number, &[session], VoidReason::Idle);
        }
    }

    /// Throws away what ended sessions have waiting, and tells of them.
    fn bury_sessions(&mut self, now: Instant, number: usize, ended: &[Session], why: VoidReason) {
        for session in ended {
            self.event(BladeEvent::SessionVoided {
                target: index(number),
                session: *session,
                why,
            });
        }
        self.discard_waiting(now, number, |_, operation| {
            let is_void = ended.contains(&operation.request.session());
            (is_void && operation.kind.is_remembered()).then_some(ErrorCode::SessionVoid)
        });
    }

    /// Tries once more to make durable what could not be made so.
    fn persist_again(&mut self, number: usize) {
        let target = &mut self.targets[number];
        if target.persist.failed && target.persist.settled == target.persist.wanted {
            target.want_persist();
        }
    }

    /// Has more session numbers and births made durable before those that are run out.
    fn refill_sessions(&mut self, number: usize) {
        let target = &mut self.targets[number];
        let is_idle = target.persist.settled == target.persist.wanted;
        let few = target.sessions.numbers_left() < SESSION_BLOCK / 2
            || target.births.left() < BIRTH_BLOCK / 2;
        if is_idle && few {
            target.reserve_sessions();
        }
    }

    /// S8: reservations go forward only.
    fn on_epoch(
        &mut self,
        now: Instant,
        number: usize,
        to: ReplyTo,
        request: &SandrailRepr<'_>,
    ) -> Verdict {
        let echo = Echo::of(request);
        let target = &self.targets[number];
        let state = &target.state;
        let is_valid = request.epoch > 0
            && request.features.contains(Features::EPOCHS)
            && request.macs.len() <= target.reserved_max
            && !to.header.addr.is_wildcard();
        let macs: Vec<MacAddr> = request.macs.iter().collect();
        let is_copy =
            request.epoch == state.epoch && !state.forced && target.reserved.is_same(&macs);
        let refusal = if !is_valid {
            Some(SandrailStatus::BadArgument)
        } else if request.epoch > state.epoch || is_copy {
            None
        } else {
            Some(SandrailStatus::StaleEpoch)
        };
        if let Some(status) = refusal {
            self.targets[number].counters.changes_refused += 1;
            self.event(BladeEvent::SetRefused {
                target: index(number),
                by: to.mac,
                epoch: request.epoch,
            });
            self.answer_vendor(number, &to, echo, status);
            return Verdict::Used;
        }
        let place = match self.change_place(number) {
            Ok(place) => place,
            Err(verdict) => return verdict,
        };
        // A copy may have another order: the list stays as it was made durable.
        let macs = if is_copy {
            self.targets[number].state.reserved.clone()
        } else {
            macs
        };
        if !is_copy {
            self.targets[number].reservation += 1;
            let state = &mut self.targets[number].state;
            state.epoch = request.epoch;
            state.forced = false;
            self.event(BladeEvent::Reserved {
                target: index(number),
                by: to.mac,
                epoch: request.epoch,
                members: u16::try_from(macs.len()).unwrap_or(u16::MAX),
            });
        }
        let left = self.replace_reservation(now, (number, place), macs);
        let kind = ChangeKind::Epoch(echo);
        self.change_made((number, place), to, kind, (!is_copy, left))
    }
}
