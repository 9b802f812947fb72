//! What to send next, and its bytes.

use core::time::Duration;
use std::collections::VecDeque;

use sandrail_wire::aoe::{
    AtaRepr, Body, ConfigCommand, ConfigRepr, MacList, MaskDirectives, MaskRepr, Repr, ReserveRepr,
    SANDRAIL_COMMAND, SandrailOperation, SandrailRepr, VERSION,
};
use sandrail_wire::ata::SECTOR_BYTES;
use sandrail_wire::{EtherType, Lba, MacAddr, TargetAddr};

use super::api::{InterfaceId, Operation};
use super::command::{COPIES_MAX, Command, Kind, State};
use super::config::{InterfaceConfig, PATHS_MAX, PROBE_COMMANDS};
use super::list::NONE;
use super::request::RequestState;
use super::session::attach_request;
use super::target::Target;
use super::{Initiator, RequestBuffer, kind_of};
use crate::time::Instant;

/// Room for the longest frame without data: Ethernet with two tags, AoE, config arguments and a string of 1024 bytes, or 255 directives.
pub(super) const SCRATCH_BYTES: usize = 22 + 10 + 4 + 255 * 8;
/// What a link takes as a header; a longer control frame goes on in the payload.
const HEADER_BYTES_MAX: usize = 64;
/// Copies of WRITEs that may wait in a link for their completion.
const WRITE_LOG_MAX: usize = 8192;
/// When all tags must rest, whether one has rested is looked up this often.
const TAG_RETRY: Duration = Duration::from_millis(1);
/// Filler of a config query that is to be as long as a WRITE: 255 sectors.
static FILLER: [u8; 255 * SECTOR_BYTES] = [0; 255 * SECTOR_BYTES];

/// One frame: the header, then the payload.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Ethernet, AoE and arguments; at most 64 bytes.
    pub header: &'a [u8],
    /// What follows. Borrowed from the request's buffer: copy it before the next call.
    pub payload: &'a [u8],
}

/// A copy of a WRITE that the link has, and may not have sent.
#[derive(Clone, Copy, Debug)]
struct Unsent {
    number: u64,
    slot: u16,
    generation: u16,
    copies: u8,
}

/// A local interface.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) config: InterfaceConfig,
    /// Frames given to the link.
    polled: u64,
    unsent: VecDeque<Unsent>,
    pub(super) discover_due: bool,
    discover_slot: u16,
}

impl Interface {
    pub(super) fn new(config: InterfaceConfig) -> Self {
        Self {
            config,
            polled: 0,
            unsent: VecDeque::with_capacity(WRITE_LOG_MAX),
            discover_due: false,
            discover_slot: NONE,
        }
    }
}

/// A frame that was decided on: this copy of this command, to this MAC.
#[derive(Clone, Copy, Debug)]
struct Decided {
    slot: u16,
    copy: u8,
    dst: MacAddr,
}

impl<B: RequestBuffer> Initiator<B> {
    /// The next frame for `interface`. Whoever asks must send it, in the order asked for, on that interface: what is returned
    /// counts as sent.
    pub fn poll_transmit(&mut self, now: Instant, interface: InterfaceId) -> Option<Transmit<'_>> {
        self.last_called = now;
        let decided = self.decide(now, interface)?;
        let entry = &mut self.interfaces[usize::from(interface.0)];
        let command = self.commands.get(decided.slot);
        if command.kind.is_closing() {
            entry.unsent.push_back(Unsent {
                number: entry.polled,
                slot: decided.slot,
                generation: command.generation(),
                copies: command.copies,
            });
        }
        entry.polled += 1;
        self.counters.tx_frames += 1;
        self.counters.tx_copies += u64::from(decided.copy > 0);
        if command.request != NONE {
            self.requests.get_mut(command.request).copies += 1;
        }
        Some(self.encode(interface, decided))
    }

    /// Of all frames polled for `interface`, the first `completed` have left the machine: their lifetime in the network begins (S2).
    pub fn handle_sent(&mut self, now: Instant, interface: InterfaceId, completed: u64) {
        let entry = &mut self.interfaces[usize::from(interface.0)];
        while let Some(unsent) = entry.unsent.front()
            && unsent.number < completed
        {
            let command = self.commands.get_mut(unsent.slot);
            let same = command.state != State::Free
                && command.generation() == unsent.generation
                && command.copies == unsent.copies;
            if same {
                command.left_at = Some(now);
            }
            entry.unsent.pop_front();
        }
    }

    fn decide(&mut self, now: Instant, interface: InterfaceId) -> Option<Decided> {
        if self.interfaces[usize::from(interface.0)].discover_due
            && let Some(decided) = self.decide_discover(now, interface)
        {
            return Some(decided);
        }
        // From `next_target` on, and around.
        let mut left = self.in_use.rotate_right(self.next_target);
        while left != 0 {
            let step = left.trailing_zeros();
            left &= left - 1;
            let place = (self.next_target + step) % u64::BITS;
            let number = u8::try_from(place).expect("TARGETS_MAX fits");
            if let Some(decided) = self.decide_target(now, interface, number) {
                self.next_target = (place + 1) % u64::BITS;
                return Some(decided);
            }
        }
        None
    }

    fn decide_target(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        number: u8,
    ) -> Option<Decided> {
        let place = usize::from(number);
        if self.targets[place].ask_due[usize::from(interface.0)]
            && let Some(decided) = self.decide_ask(now, interface, number)
        {
            return Some(decided);
        }
        for step in 0..PATHS_MAX {
            let path = (usize::from(self.targets[place].next_path) + step) % PATHS_MAX;
            let here = self.targets[place].paths[path]
                .as_ref()
                .is_some_and(|p| p.interface == interface);
            if !here {
                continue;
            }
            let path = u8::try_from(path).expect("PATHS_MAX fits");
            if let Some(decided) = self.decide_path(now, number, path) {
                self.targets[place].next_path = path + 1;
                return Some(decided);
            }
        }
        None
    }

    /// A fresh command. When all tags must rest, a timer is set: nothing else may be due before they have.
    pub(super) fn allocate(&mut self, now: Instant, kind: Kind, state: State) -> Option<u16> {
        let slot = self.commands.allocate(now, kind, state);
        if slot.is_none() {
            self.counters.tag_waits += 1;
            self.tags_at = Some(now + TAG_RETRY);
        }
        slot
    }

    fn decide_discover(&mut self, now: Instant, interface: InterfaceId) -> Option<Decided> {
        let before = self.interfaces[usize::from(interface.0)].discover_slot;
        let slot = self.allocate(now, Kind::Discover, State::Loose)?;
        if before != NONE {
            self.commands.release(before);
        }
        let entry = &mut self.interfaces[usize::from(interface.0)];
        entry.discover_slot = slot;
        entry.discover_due = false;
        self.commands.get_mut(slot).path = interface.0;
        Some(self.stamped(now, slot, MacAddr::BROADCAST))
    }

    /// The config query by broadcast for a target being attached.
    fn decide_ask(&mut self, now: Instant, interface: InterfaceId, number: u8) -> Option<Decided> {
        let place = usize::from(interface.0);
        let mut slot = self.targets[usize::from(number)].ask_slots[place];
        if slot == NONE || self.commands.get(slot).copies == COPIES_MAX {
            let fresh = self.allocate(now, Kind::Attach, State::Loose)?;
            if slot != NONE {
                self.commands.release(slot);
            }
            slot = fresh;
            let command = self.commands.get_mut(slot);
            command.target = number;
            command.path = interface.0;
        }
        let target = &mut self.targets[usize::from(number)];
        target.ask_slots[place] = slot;
        target.ask_due[place] = false;
        Some(self.stamped(now, slot, MacAddr::BROADCAST))
    }

    fn decide_path(&mut self, now: Instant, number: u8, path_number: u8) -> Option<Decided> {
        // A target that queues a single frame drops what comes second: with the probe first it would drop every try.
        if let Some(decided) = self.decide_trial(now, number, path_number) {
            return Some(decided);
        }
        if let Some(decided) = self.decide_probe(now, number, path_number) {
            return Some(decided);
        }
        let target = &self.targets[usize::from(number)];
        let path = target.path(path_number);
        if path.silent {
            return None;
        }
        if target.identify_due && !target.identify_out {
            return self.decide_identify(now, number, path_number);
        }
        if path.membership.is_due(now) {
            return self.decide_session(now, number, path_number);
        }
        if !path.has_window()
            || path.trial.is_some()
            || !target.station_has_room(&self.config, path)
        {
            return None;
        }
        if path.resend.head() != NONE
            && let Some(decided) = self.decide_resend(now, number, path_number)
        {
            return Some(decided);
        }
        // What had no room for another copy under its tag has become ready again.
        let target = &self.targets[usize::from(number)];
        if target.path(path_number).is_usable() && !target.ready.is_empty() {
            return self.decide_fresh(now, number, path_number);
        }
        None
    }

    fn decide_probe(&mut self, now: Instant, number: u8, path_number: u8) -> Option<Decided> {
        let path = self.targets[usize::from(number)].path(path_number);
        if path.probe_at.is_none_or(|at| at > now) {
            return None;
        }
        let mut slot = self.allocate(now, Kind::Probe, State::Loose);
        if slot.is_none() && self.commands.free() == 0 {
            self.forget_probes(number, path_number, 0);
            slot = self.allocate(now, Kind::Probe, State::Loose);
        }
        let slot = slot?;
        let command = self.commands.get_mut(slot);
        command.target = number;
        command.path = path_number;
        let path = self.targets[usize::from(number)].path_mut(path_number);
        if !path.is_waiting() {
            path.quiet_since = now;
        }
        path.probe_at = None;
        path.probed_at = now;
        // Filled from the end, so that the oldest are at the front.
        let oldest = core::mem::replace(&mut path.probes[0], slot);
        path.probes.rotate_left(1);
        let dst = path.mac;
        if oldest != NONE {
            self.commands.release(oldest);
        }
        // All paths' probes together stay within what is kept back for them.
        let share = (PROBE_COMMANDS / self.paths_in_use.max(1)).max(1);
        self.forget_probes(number, path_number, usize::from(share));
        self.counters.tx_probes += 1;
        Some(self.stamped(now, slot, dst))
    }

    /// Gives up a path's unanswered probes but for the newest `keep`.
    fn forget_probes(&mut self, number: u8, path_number: u8, keep: usize) {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        let old = path.probes.len().saturating_sub(keep);
        for place in &mut path.probes[..old] {
            if *place != NONE {
                self.commands.release(core::mem::replace(place, NONE));
            }
        }
    }

    /// Commands that data must leave to probes: those kept back and not used for them already.
    fn probe_reserve(&self) -> u16 {
        let wanted = PROBE_COMMANDS
            .max(self.paths_in_use)
            .min(self.config.commands_max / 2);
        wanted.saturating_sub(self.commands.probes())
    }

    /// An IDENTIFY of our own: at the attach, and after a restart or a silence, since the disk may have another size.
    fn decide_identify(&mut self, now: Instant, number: u8, path_number: u8) -> Option<Decided> {
        let slot = self.allocate(now, Kind::OwnIdentify, State::Slow)?;
        let target = &mut self.targets[usize::from(number)];
        target.identify_out = true;
        Some(self.launch(now, slot, number, path_number))
    }

    /// A request for a session, or whether the one that we had still is.
    fn decide_session(&mut self, now: Instant, number: u8, path_number: u8) -> Option<Decided> {
        let slot = self.allocate(now, Kind::Session, State::Slow)?;
        let target = &mut self.targets[usize::from(number)];
        let birth = target.birth;
        let membership = &mut target.path_mut(path_number).membership;
        membership.begin_ask(now, slot, birth);
        Some(self.launch(now, slot, number, path_number))
    }

    fn decide_resend(&mut self, now: Instant, number: u8, path_number: u8) -> Option<Decided> {
        loop {
            let path = self.targets[usize::from(number)].path_mut(path_number);
            let slot = path.resend.head();
            if slot == NONE {
                return None;
            }
            let command = *self.commands.get(slot);
            if command.copies < COPIES_MAX {
                if command.kind.is_closing() && !self.may_send_closing(number, path_number) {
                    return None;
                }
                debug_assert!(
                    self.may_carry(number, path_number, command.kind),
                    "what needs a session starts over when it is void"
                );
                let path = self.targets[usize::from(number)].path_mut(path_number);
                path.resend.remove(&mut self.commands.table, slot);
                return Some(self.launch(now, slot, number, path_number));
            }
            // The tag has no room for another copy: the request goes on under a new one.
            if command.request == NONE {
                self.drop_own(now, slot);
            } else {
                self.restart(now, command.request);
            }
        }
    }

    /// Sends the next piece of the first request in line.
    fn decide_fresh(&mut self, now: Instant, number: u8, path_number: u8) -> Option<Decided> {
        let target = &self.targets[usize::from(number)];
        let session = target.path(path_number).membership.session;
        let request = if target.speaks && !session.is_some() {
            self.ready_without_session(number)
        } else {
            target.ready.head()
        };
        if request == NONE {
            return None;
        }
        let kind = self.kind_of_request(request);
        if self.commands.free() <= self.probe_reserve()
            || (kind.is_closing() && !self.may_send_closing(number, path_number))
        {
            return None;
        }
        let state = if matches!(kind, Kind::Read | Kind::Write) {
            State::Flying
        } else {
            State::Slow
        };
        let slot = self.allocate(now, kind, state)?;
        let target = &mut self.targets[usize::from(number)];
        let payload = target.path(path_number).payload_sectors;
        let entry = self.requests.get_mut(request);
        let left = entry.sectors - entry.cursor;
        let most = u16::try_from(left).unwrap_or(u16::MAX).min(payload);
        let cut = |buffer: &B| buffer.cut(entry.cursor, most).clamp(1, most);
        let count = entry.buffer.as_ref().map_or(most, cut);
        let command = self.commands.get_mut(slot);
        command.request = request;
        if kind.needs_session() {
            command.session = session;
        }
        command.offset = entry.cursor;
        command.count = count;
        command.lba = entry.lba + u64::from(entry.cursor);
        entry.commands += 1;
        entry.cursor += u32::from(count);
        if entry.cursor == entry.sectors {
            entry.state = RequestState::Issued;
            target.ready.remove(&mut self.requests.table, request);
        }
        Some(self.launch(now, slot, number, path_number))
    }

    /// Whether the list of unsent WRITE copies has room.
    fn may_send_closing(&self, number: u8, path_number: u8) -> bool {
        let interface = self.targets[usize::from(number)]
            .path(path_number)
            .interface;
        self.interfaces[usize::from(interface.0)].unsent.len() < WRITE_LOG_MAX
    }

    /// Puts a command on its path's list of those sent.
    fn launch(&mut self, now: Instant, slot: u16, number: u8, path_number: u8) -> Decided {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        if !path.is_waiting() {
            path.quiet_since = now;
        }
        let command = &mut self.commands.table[usize::from(slot)];
        command.target = number;
        command.path = path_number;
        let data = matches!(command.kind, Kind::Read | Kind::Write);
        command.state = if data { State::Flying } else { State::Slow };
        let list = if data {
            &mut path.flying
        } else {
            &mut path.slow
        };
        list.push_back(&mut self.commands.table, slot);
        let dst = path.mac;
        self.stamped(now, slot, dst)
    }

    pub(super) fn stamp_trial(
        &mut self,
        now: Instant,
        slot: u16,
        dst: MacAddr,
    ) -> (u16, u8, MacAddr) {
        let decided = self.stamped(now, slot, dst);
        (decided.slot, decided.copy, decided.dst)
    }

    fn decide_trial(&mut self, now: Instant, number: u8, path_number: u8) -> Option<Decided> {
        let (slot, copy, dst) = self.next_trial_frame(now, number, path_number)?;
        Some(Decided { slot, copy, dst })
    }

    fn stamped(&mut self, now: Instant, slot: u16, dst: MacAddr) -> Decided {
        let copy = self.commands.get_mut(slot).stamp(now);
        Decided { slot, copy, dst }
    }

    fn encode(&mut self, interface: InterfaceId, decided: Decided) -> Transmit<'_> {
        let command = self.commands.get(decided.slot);
        let request = (command.request != NONE).then(|| self.requests.get(command.request));
        let carrier = request.and_then(|request| request.buffer.as_ref());
        let buffer = carrier.map_or(&[][..], RequestBuffer::control);
        let target = &self.targets[usize::from(command.target)];
        let birth = target.birth;
        let addr = if command.kind == Kind::Discover {
            TargetAddr::BROADCAST
        } else {
            target.addr
        };
        let operation = request.map(|request| request.operation);
        let (mut control, mut data): (&[u8], &[u8]) = (&[], &[]);
        let body = match command.kind {
            Kind::Write => {
                let from = command.offset as usize * SECTOR_BYTES;
                let len = usize::from(command.count) * SECTOR_BYTES;
                let staging = &mut self.staging[..];
                data = carrier.map_or(&[][..], |carrier| carrier.outgoing(from, len, staging));
                Body::Ata(ata_request(command, target))
            }
            Kind::Read | Kind::PayloadIn | Kind::Flush | Kind::Identify | Kind::OwnIdentify => {
                Body::Ata(ata_request(command, target))
            }
            Kind::Discover | Kind::Attach | Kind::Probe => {
                Body::Config(ConfigRepr::request(ConfigCommand::Read, &[]))
            }
            Kind::PayloadOut => {
                // As long as a WRITE of so many sectors: its ATA arguments are 4 bytes longer than a config query's.
                data = &FILLER[..usize::from(command.count) * SECTOR_BYTES];
                control = &FILLER[..4];
                Body::Config(ConfigRepr::request(ConfigCommand::Read, &[]))
            }
            Kind::Session => SANDRAIL,
            Kind::Query | Kind::Change => {
                control_body(operation.unwrap_or(Operation::Flush), buffer)
            }
        };
        let ethernet = sandrail_wire::ethernet::EthernetRepr {
            dst: decided.dst,
            src: self.interfaces[usize::from(interface.0)].config.mac,
            vlans: [self.interfaces[usize::from(interface.0)].config.vlan, None],
            ethertype: EtherType::AOE,
        };
        let repr = Repr {
            version: VERSION,
            response: false,
            error: None,
            addr,
            tag: self.commands.tag(decided.slot, decided.copy),
            body,
        };
        let scratch = &mut self.scratch[..];
        let mut end = ethernet
            .emit(scratch)
            .expect("the scratch holds any header");
        end += repr
            .emit(&mut scratch[end..])
            .expect("the scratch holds any control frame");
        scratch[end..end + control.len()].copy_from_slice(control);
        end += control.len();
        if let Body::Vendor { .. } = body {
            let attach = attach_request(&self.config, &self.stations, birth);
            end += sandrail_request(operation, buffer, attach)
                .emit(&mut scratch[end..])
                .expect("the scratch holds any control frame");
        }
        if end > HEADER_BYTES_MAX {
            let (header, payload) = self.scratch[..end].split_at(HEADER_BYTES_MAX);
            return Transmit { header, payload };
        }
        Transmit {
            header: &self.scratch[..end],
            payload: data,
        }
    }
}

/// The registers of a command, with the session.
#[inline]
fn ata_request(command: &Command, target: &Target) -> AtaRepr {
    // A disk that shrank to 28 bits refuses what lies beyond: no shorter address names that sector.
    let lba48 = target
        .identify
        .as_ref()
        .is_none_or(|identify| identify.lba48)
        || command.lba > Lba::MAX_28.0;
    let (lba, count) = (
        Lba(command.lba),
        u8::try_from(command.count).unwrap_or(u8::MAX),
    );
    let session = if command.kind.needs_session() {
        command.session
    } else {
        target.session
    };
    let registers = match command.kind {
        Kind::Write if lba48 => AtaRepr::write_ext(lba, count),
        Kind::Write => AtaRepr::write28(lba, count),
        Kind::Flush if target.claims_flush() => AtaRepr::flush_ext(),
        Kind::Flush => AtaRepr::flush(),
        Kind::Identify | Kind::OwnIdentify => AtaRepr::identify(),
        _ if lba48 => AtaRepr::read_ext(lba, count),
        _ => AtaRepr::read28(lba, count),
    };
    registers.with_session(session)
}

/// The arguments of Sandrail's command: of a reservation by epoch, or of our own request for a session.
fn sandrail_request<'a>(
    operation: Option<Operation>,
    buffer: &'a [u8],
    attach: SandrailRepr<'a>,
) -> SandrailRepr<'a> {
    match operation {
        Some(Operation::ReserveEpoch { epoch, len_bytes }) => SandrailRepr {
            epoch,
            macs: mac_list(buffer, len_bytes),
            ..SandrailRepr::request(SandrailOperation::Reserve)
        },
        _ => attach,
    }
}

/// Sandrail's command, whose arguments are written behind it.
const SANDRAIL: Body<'static> = Body::Vendor {
    command: SANDRAIL_COMMAND,
    data: &[],
};

/// The list at the start of a request's buffer; its length was checked when it was accepted.
fn mac_list(buffer: &[u8], len_bytes: u16) -> MacList<'_> {
    MacList::from_bytes(&buffer[..usize::from(len_bytes)]).unwrap_or(MacList::EMPTY)
}

/// The body of a control operation; its arguments lie in the request's buffer.
fn control_body(operation: Operation, buffer: &[u8]) -> Body<'_> {
    debug_assert!(
        matches!(kind_of(operation), Kind::Query | Kind::Change),
        "data has no control body"
    );
    match operation {
        Operation::Config { command, len_bytes } => Body::Config(ConfigRepr::request(
            command,
            &buffer[..usize::from(len_bytes)],
        )),
        Operation::MaskEdit { len_bytes } => {
            let directives = MaskDirectives::from_bytes(&buffer[..usize::from(len_bytes)]);
            Body::MacMask(MaskRepr::edit(directives.unwrap_or(MaskDirectives::EMPTY)))
        }
        Operation::Reserve { command, len_bytes } => Body::Reserve(ReserveRepr {
            command,
            macs: mac_list(buffer, len_bytes),
        }),
        Operation::ReserveEpoch { .. } => SANDRAIL,
        _ => Body::MacMask(MaskRepr::read()),
    }
}
