//! Config string, mask and reservation: who may change them, when a change is over, and how it outlives a restart.

use sandrail_wire::MacAddr;
use sandrail_wire::aoe::{
    Body, ConfigCommand, ConfigRepr, DIRECTIVES_MAX, DirectiveCommand, ErrorCode, MACS_MAX,
    MASK_DIRECTIVE_BYTES, MacList, MaskCommand, MaskDirectives, MaskError, MaskRepr,
    ReserveCommand, ReserveRepr, SandrailRepr, SandrailStatus, VERSION,
};

use super::api::{PersistId, TargetIndex, VoidReason};
use super::backing::Backing;
use super::births::{Surely, note_removals};
use super::config::{ForceSet, PersistentState};
use super::operation::Stage;
use super::receive::{ReplyTo, Verdict};
use super::slot::{FENCED_LIVES_MAX, FENCED_MAX, Given, MacSet};
use super::vendor::Echo;
use super::{Blade, BladeEvent, index};
use crate::time::Instant;

/// Changes of one target that may wait at once: as many as an operation has bits for them.
pub(super) const CHANGES_MAX: usize = u8::BITS as usize;
/// Our version, as config responses tell it: major in the upper byte, minor in the lower.
const FIRMWARE: u16 = u16::from_be_bytes([
    decimal(env!("CARGO_PKG_VERSION_MAJOR")),
    decimal(env!("CARGO_PKG_VERSION_MINOR")),
]);

const fn decimal(text: &str) -> u8 {
    let (bytes, mut at, mut value) = (text.as_bytes(), 0, 0_u8);
    while at < bytes.len() {
        value = value.wrapping_mul(10).wrapping_add(bytes[at] - b'0');
        at += 1;
    }
    value
}

/// What was changed, as far as the answer depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) enum ChangeKind {
    Config(ConfigCommand),
    Mask,
    Reserve(ReserveCommand),
    Epoch(Echo),
}

/// A change that is in effect, and not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    kind: ChangeKind,
    to: ReplyTo,
    /// The reservation that was in force when it was made, by number.
    reservation: u64,
    /// The state that must become durable; `None`: it is.
    persist: Option<u64>,
    /// Writes of removed MACs that are still under way (S9).
    left: u32,
}

impl<D: Backing> Blade<D> {
    /// The next state to be made durable, whole. One of a target at a time: the next comes when this one was
    /// [reported](Self::handle_persisted), and holds all changes since.
    pub fn poll_persist(&mut self) -> Option<(TargetIndex, PersistId, PersistentState)> {
        let count = self.targets.len();
        for step in 0..count {
            let number = (self.next_persist + step) % count;
            let target = &mut self.targets[number];
            let persist = &mut target.persist;
            if persist.given.is_none() && persist.settled < persist.wanted {
                persist.given = Some(Given {
                    id: persist.wanted,
                    session_next: target.state.session_next,
                    birth_next: target.state.birth_next,
                    reserved: target.state.reserved.clone(),
                });
                target.surely.narrow(&target.state.reserved);
                let id = PersistId(persist.wanted);
                let state = target.state.clone();
                self.next_persist = (number + 1) % count;
                return Some((index(number), id, state));
            }
        }
        None
    }

    /// Whether a state became durable. Changes that wait for it are answered: with success once nothing else is in their way, or
    /// as failed, although they stay in effect until a restart.
    pub fn handle_persisted(&mut self, now: Instant, target: TargetIndex, id: PersistId, ok: bool) {
        let _ = now;
        let number = usize::from(target.0);
        let Some(entry) = self.targets.get_mut(number) else {
            return;
        };
        let is_given = |given: &mut Given| given.id == id.0;
        let Some(state) = entry.persist.given.take_if(is_given) else {
            return;
        };
        let given = state.id;
        entry.persist.settled = given;
        entry.persist.failed = !ok;
        if ok {
            entry.sessions.set_durable_until(state.session_next);
            entry.births.set_durable_until(state.birth_next);
            entry.surely = Surely::of(&state.reserved);
        } else {
            self.event(BladeEvent::NotDurable { target });
        }
        for place in 0..CHANGES_MAX {
            let Some(change) = &mut self.targets[number].changes[place] else {
                continue;
            };
            if change.persist.is_none_or(|wanted| wanted > given) {
                continue;
            }
            change.persist = None;
            if ok {
                self.settle(number, place);
            } else {
                self.answer_change(number, place, false);
            }
        }
    }

    /// Writes under way of removed MACs have ended, which those changes waited for.
    pub(super) fn on_barrier_passed(&mut self, number: usize, barriers: u8) {
        for place in 0..CHANGES_MAX {
            if barriers >> place & 1 == 0 {
                continue;
            }
            if let Some(change) = &mut self.targets[number].changes[place] {
                change.left -= 1;
                self.settle(number, place);
            }
        }
    }

    /// Answers a change if nothing is in its way any more.
    fn settle(&mut self, number: usize, place: usize) {
        if let Some(change) = &self.targets[number].changes[place]
            && change.persist.is_none()
            && change.left == 0
        {
            self.answer_change(number, place, true);
        }
    }

    fn answer_change(&mut self, number: usize, place: usize, ok: bool) {
        let change = self.targets[number].changes[place].take();
        let Some(Change {
            kind,
            to,
            reservation,
            left,
            ..
        }) = change
        else {
            return;
        };
        if left > 0 {
            // Nobody waits for them any more.
            for operation in &mut self.operations {
                if usize::from(operation.target) == number {
                    operation.barriers &= !(1 << place);
                }
            }
        }
        let status = if ok {
            SandrailStatus::Done
        } else {
            SandrailStatus::NotDurable
        };
        // Another reservation has overtaken it, and may be neither durable nor past its barrier: success would vouch for that one.
        let is_overtaken = ok && self.targets[number].reservation != reservation;
        match kind {
            ChangeKind::Epoch(echo) if is_overtaken => {
                self.answer_vendor(number, &to, echo, SandrailStatus::StaleEpoch);
            }
            ChangeKind::Reserve(command) if is_overtaken => {
                let code = Some(ErrorCode::TargetReserved);
                self.answer_reserve(number, &to, code, command);
            }
            ChangeKind::Epoch(echo) => self.answer_vendor(number, &to, echo, status),
            _ if !ok => {
                self.refuse(number, &to, ErrorCode::DeviceUnavailable);
            }
            ChangeKind::Config(command) => self.answer_config(number, &to, None, command),
            ChangeKind::Mask => self.answer_mask(number, &to, MaskCommand::Edit),
            ChangeKind::Reserve(command) => self.answer_reserve(number, &to, None, command),
        }
    }

    /// A place for a change that is about to be made.
    pub(super) fn change_place(&self, number: usize) -> Result<usize, Verdict> {
        let changes = &self.targets[number].changes;
        let free = changes.iter().position(Option::is_none);
        free.ok_or(Verdict::ChangesFull)
    }

    /// A change was made, or would have been if all were not so already: its answer waits for what it must.
    pub(super) fn change_made(
        &mut self,
        (number, place): (usize, usize),
        to: ReplyTo,
        kind: ChangeKind,
        (is_new, left): (bool, u32),
    ) -> Verdict {
        let target = &mut self.targets[number];
        target.counters.changes += 1;
        let persist = (is_new || !target.is_durable()).then(|| target.want_persist());
        target.changes[place] = Some(Change {
            kind,
            to,
            reservation: target.reservation,
            persist,
            left,
        });
        self.settle(number, place);
        Verdict::Used
    }

    fn refuse_change(&mut self, number: usize, to: &ReplyTo, code: ErrorCode) -> Verdict {
        self.targets[number].counters.changes_refused += 1;
        self.refuse(number, to, code)
    }

    pub(super) fn on_config(
        &mut self,
        number: usize,
        to: ReplyTo,
        config: &ConfigRepr<'_>,
    ) -> Verdict {
        let command = config.command;
        match command {
            ConfigCommand::Read | ConfigCommand::TestExact | ConfigCommand::TestPrefix => {
                self.answer_config(number, &to, None, command);
                return Verdict::Used;
            }
            ConfigCommand::SetIfEmpty | ConfigCommand::ForceSet => {}
            ConfigCommand::Other(_) => {
                return self.refuse_change(number, &to, ErrorCode::BadArgument);
            }
        }
        if to.header.addr.is_wildcard() {
            return self.refuse_change(number, &to, ErrorCode::BadArgument);
        }
        let place = match self.change_place(number) {
            Ok(place) => place,
            Err(verdict) => return verdict,
        };
        let target = &mut self.targets[number];
        let present = &mut target.state.config_string;
        let is_new = present != config.string;
        if command == ConfigCommand::SetIfEmpty && is_new && !present.is_empty() {
            target.counters.changes_refused += 1;
            let code = Some(ErrorCode::ConfigStringPresent);
            self.answer_config(number, &to, code, command);
            return Verdict::Used;
        }
        if is_new {
            present.clear();
            present.extend_from_slice(config.string);
            let target = index(number);
            self.event(BladeEvent::ConfigSet { target, by: to.mac });
        }
        let kind = ChangeKind::Config(command);
        self.change_made((number, place), to, kind, (is_new, 0))
    }

    /// The most sectors of a command, as told: what others compute from the MTU, and what the disk takes.
    pub(super) fn sectors_told(&self, number: usize, interface: u8) -> u8 {
        let target = &self.targets[number];
        let by_disk = u8::try_from(target.sectors_per_operation_max).unwrap_or(u8::MAX);
        self.interfaces[usize::from(interface)]
            .sectors_told
            .min(by_disk)
            .min(target.sectors_max.unwrap_or(u8::MAX))
    }

    /// What a config query is answered with.
    pub(super) const fn config_answer<'a>(
        &self,
        command: ConfigCommand,
        sectors_max: u8,
        string: &'a [u8],
    ) -> ConfigRepr<'a> {
        ConfigRepr {
            buffer_count: self.config.buffer_count,
            firmware: FIRMWARE,
            sectors_max,
            aoe_version: VERSION,
            command,
            string,
        }
    }

    fn answer_config(
        &mut self,
        number: usize,
        to: &ReplyTo,
        error: Option<ErrorCode>,
        command: ConfigCommand,
    ) {
        // Out of the state for as long as the answer is written from it.
        let string = core::mem::take(&mut self.targets[number].state.config_string);
        let sectors_max = self.sectors_told(number, to.interface);
        let config = self.config_answer(command, sectors_max, &string);
        self.reply(number, to, error, Body::Config(config));
        self.targets[number].state.config_string = string;
    }

    pub(super) fn on_mask(&mut self, number: usize, to: ReplyTo, mask: &MaskRepr<'_>) -> Verdict {
        match mask.command {
            MaskCommand::Read => {
                self.answer_mask(number, &to, MaskCommand::Read);
                return Verdict::Used;
            }
            MaskCommand::Edit if !to.header.addr.is_wildcard() => {}
            MaskCommand::Edit | MaskCommand::Other(_) => {
                return self.refuse_change(number, &to, ErrorCode::BadArgument);
            }
        }
        let place = match self.change_place(number) {
            Ok(place) => place,
            Err(verdict) => return verdict,
        };
        let target = &mut self.targets[number];
        let mut list = target.state.mask.clone();
        for (at, (command, mac)) in (0..).zip(mask.directives.iter()) {
            let error = edit(&mut list, command, mac, target.mask_max);
            if error != MaskError::None {
                target.counters.changes_refused += 1;
                let body = MaskRepr {
                    command: MaskCommand::Edit,
                    error,
                    directive_count: at,
                    directives: MaskDirectives::EMPTY,
                };
                self.reply(number, &to, None, Body::MacMask(body));
                return Verdict::Used;
            }
        }
        let is_new = list != target.state.mask;
        if is_new {
            target.mask = MacSet::new(&list);
            target.state.mask = list;
            let members = u16::try_from(target.state.mask.len()).unwrap_or(u16::MAX);
            self.event(BladeEvent::MaskEdited {
                target: index(number),
                by: to.mac,
                members,
            });
        }
        self.change_made((number, place), to, ChangeKind::Mask, (is_new, 0))
    }

    fn answer_mask(&mut self, number: usize, to: &ReplyTo, command: MaskCommand) {
        let mut scratch = [0; DIRECTIVES_MAX * MASK_DIRECTIVE_BYTES];
        let members = &self.targets[number].state.mask;
        for (out, mac) in scratch.chunks_exact_mut(MASK_DIRECTIVE_BYTES).zip(members) {
            out[2..].copy_from_slice(&mac.0);
        }
        let bytes = &scratch[..members.len() * MASK_DIRECTIVE_BYTES];
        let directives = MaskDirectives::from_bytes(bytes).unwrap_or(MaskDirectives::EMPTY);
        let body = MaskRepr {
            command,
            ..MaskRepr::edit(directives)
        };
        self.reply(number, to, None, Body::MacMask(body));
    }

    pub(super) fn on_reserve(
        &mut self,
        now: Instant,
        number: usize,
        to: ReplyTo,
        reserve: &ReserveRepr<'_>,
    ) -> Verdict {
        let command = reserve.command;
        if command == ReserveCommand::Read {
            self.answer_reserve(number, &to, None, command);
            return Verdict::Used;
        }
        let target = &self.targets[number];
        let is_valid = matches!(command, ReserveCommand::Set | ReserveCommand::ForceSet)
            && !to.header.addr.is_wildcard()
            && reserve.macs.len() <= target.reserved_max;
        if !is_valid {
            return self.refuse_change(number, &to, ErrorCode::BadArgument);
        }
        let is_forced = command == ReserveCommand::ForceSet;
        let epoch_in_force = target.state.epoch > 0 && !target.state.forced;
        let may = if is_forced {
            match target.force_set {
                ForceSet::Allow => true,
                ForceSet::UntilEpoch => !epoch_in_force,
                ForceSet::Refuse => false,
            }
        } else {
            !epoch_in_force && target.reserved.admits(to.mac)
        };
        if !may {
            self.targets[number].counters.changes_refused += 1;
            self.event(BladeEvent::SetRefused {
                target: index(number),
                by: to.mac,
                epoch: 0,
            });
            let code = Some(ErrorCode::TargetReserved);
            self.answer_reserve(number, &to, code, command);
            return Verdict::Used;
        }
        let place = match self.change_place(number) {
            Ok(place) => place,
            Err(verdict) => return verdict,
        };
        let macs: Vec<MacAddr> = reserve.macs.iter().collect();
        let state = &mut self.targets[number].state;
        let overrules = is_forced && epoch_in_force;
        let is_new = macs != state.reserved || overrules;
        state.forced |= overrules;
        let members = u16::try_from(macs.len()).unwrap_or(u16::MAX);
        let (target, by) = (index(number), to.mac);
        if is_forced {
            self.event(BladeEvent::ForcedSet {
                target,
                by,
                members,
            });
        } else if is_new {
            self.event(BladeEvent::Reserved {
                target,
                by,
                epoch: 0,
                members,
            });
        }
        self.targets[number].reservation += u64::from(is_new);
        let left = self.replace_reservation(now, (number, place), macs);
        let kind = ChangeKind::Reserve(command);
        self.change_made((number, place), to, kind, (is_new, left))
    }

    pub(super) fn answer_reserve(
        &mut self,
        number: usize,
        to: &ReplyTo,
        error: Option<ErrorCode>,
        command: ReserveCommand,
    ) {
        let mut scratch = [0; MACS_MAX * 6];
        let macs = self.reserved_list(number, &mut scratch);
        self.reply(
            number,
            to,
            error,
            Body::Reserve(ReserveRepr { command, macs }),
        );
    }

    pub(super) fn reserved_list<'a>(&self, number: usize, scratch: &'a mut [u8]) -> MacList<'a> {
        MacList::encode(&self.targets[number].state.reserved, scratch)
            .expect("no list is longer than a message can carry")
    }

    /// Puts a reservation into effect for all frames from now on (S9): what removed MACs have waiting is thrown away, their
    /// sessions end, their lives are remembered. Returns how many of their writes are under way, which the change at `place` is
    /// now told of.
    pub(super) fn replace_reservation(
        &mut self,
        now: Instant,
        (number, place): (usize, usize),
        macs: Vec<MacAddr>,
    ) -> u32 {
        let target = &mut self.targets[number];
        note_removals(&mut target.state, &macs, target.births.next());
        target.reserved = MacSet::new(&macs);
        target.state.reserved = macs;
        self.fence(now, number);
        self.discard_waiting(now, number, |target, operation| {
            let session = operation.request.session();
            if !target.reserved.admits(operation.mac) {
                Some(ErrorCode::TargetReserved)
            } else if operation.kind.is_remembered()
                && session.is_some()
                && !target.sessions.is_valid(session, operation.mac)
            {
                Some(ErrorCode::SessionVoid)
            } else {
                None
            }
        });
        let target = &self.targets[number];
        let first = target.first_operation as usize;
        let mut left = 0;
        for operation in &mut self.operations[first..first + target.operations_max()] {
            // A TRIM runs range by range, and is under way between them, too.
            if operation.stage == Stage::Running
                && operation.kind.writes()
                && !target.reserved.admits(operation.mac)
            {
                operation.barriers |= 1 << place;
                left += 1;
            }
        }
        left
    }

    /// Ends the sessions of MACs that are not on the list, and remembers their lives (S10).
    fn fence(&mut self, now: Instant, number: usize) {
        let target = &mut self.targets[number];
        let reserved = &target.reserved;
        let former: Vec<_> = target
            .sessions
            .former_lives()
            .filter(|(mac, _)| !reserved.admits(*mac))
            .collect();
        for (mac, incarnation) in former {
            remember_fenced(&mut target.state.fenced, mac, incarnation);
        }
        let mut ended = Vec::new();
        target.sessions.end(
            now,
            |mac| !reserved.admits(mac),
            |session, mac, incarnation| ended.push((session, mac, incarnation)),
        );
        for (session, mac, incarnation) in ended {
            remember_fenced(&mut self.targets[number].state.fenced, mac, incarnation);
            let target = index(number);
            self.event(BladeEvent::SessionVoided {
                target,
                session,
                why: VoidReason::Fenced,
            });
            self.event(BladeEvent::Fenced {
                target,
                mac,
                incarnation,
            });
        }
    }

    /// An answer of the vendor command that tells of the target's state.
    pub(super) fn answer_vendor(
        &mut self,
        number: usize,
        to: &ReplyTo,
        echo: Echo,
        status: SandrailStatus,
    ) {
        let mut scratch = [0; MACS_MAX * 6];
        let macs = self.reserved_list(number, &mut scratch);
        let body = SandrailRepr {
            macs,
            ..self.vendor_answer(number, echo, status)
        };
        self.reply_vendor(number, to, &body);
    }
}

/// Remembers a fenced life. The oldest goes when there are too many of one MAC, or of all.
fn remember_fenced(fenced: &mut Vec<(MacAddr, u64)>, mac: MacAddr, incarnation: u64) {
    fenced.retain(|life| *life != (mac, incarnation));
    let is_its = |(other, _): &(MacAddr, u64)| *other == mac;
    let too_many = fenced.iter().filter(|life| is_its(life)).count() >= FENCED_LIVES_MAX;
    let oldest = fenced.iter().position(is_its).filter(|_| too_many);
    if let Some(place) = oldest.or((fenced.len() >= FENCED_MAX).then_some(0)) {
        fenced.remove(place);
    }
    fenced.push((mac, incarnation));
}

/// Carries out one directive on a list.
fn edit(
    list: &mut Vec<MacAddr>,
    command: DirectiveCommand,
    mac: MacAddr,
    members_max: usize,
) -> MaskError {
    match command {
        DirectiveCommand::Nop => {}
        DirectiveCommand::Add if list.contains(&mac) => {}
        DirectiveCommand::Add if list.len() >= members_max => return MaskError::ListFull,
        DirectiveCommand::Add => list.push(mac),
        DirectiveCommand::Delete => list.retain(|member| *member != mac),
        DirectiveCommand::Other(_) => return MaskError::BadDirective,
    }
    MaskError::None
}
