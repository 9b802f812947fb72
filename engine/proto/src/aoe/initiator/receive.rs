//! What came in: to whom it belongs (S1), and what it ends.

use core::time::Duration;

use sandrail_wire::aoe::{
    AtaRepr, Body, ConfigRepr, ErrorCode, MacList, Repr, SandrailOperation, VERSION,
};
use sandrail_wire::ata::{self, Identify, SECTOR_BYTES};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, FrameRef, MacAddr, TargetAddr};

use super::api::{
    ConfigString, Durability, InterfaceId, IoError, Notice, Operation, Outcome, RestartEvidence,
    Sighting, TargetId,
};
use super::command::{Kind, State};
use super::config::{PATHS_MAX, TargetOrder};
use super::list::NONE;
use super::session::answers;
use super::target::Phase;
use super::{Initiator, RequestBuffer};
use crate::time::Instant;

/// A frame of more sectors than this fits no MTU of 1500: that it arrived says that jumbo frames do.
pub(super) const SHORT_SECTORS: u16 = 2;
/// The same impostor is told of once in this time.
const ROGUE_NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// What a frame turned out to be; each is counted.
enum Verdict {
    Used,
    NotAoe,
    OtherHost,
    OtherVlan,
    Malformed,
    Request,
    Version,
    OtherShard,
    StaleTag,
    WrongSource,
    Mismatch,
    ShortData,
    Unsolicited,
}

/// A parsed response with where it came from.
struct Heard<'a> {
    now: Instant,
    interface: InterfaceId,
    src: MacAddr,
    repr: Repr<'a>,
    frame: &'a FrameRef<'a>,
    /// Where in the frame an ATA response's sectors begin.
    data_offset: usize,
}

/// What sign of life a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Answer,
    Probe { sent_at: Instant },
    Advertisement,
}

impl<B: RequestBuffer> Initiator<B> {
    /// Takes a received frame in. Frames that mean nothing here are counted by reason and dropped.
    pub fn handle_frame(&mut self, now: Instant, interface: InterfaceId, frame: &FrameRef<'_>) {
        let verdict = self.judge(now, interface, frame);
        self.last_called = now;
        let counters = &mut self.counters;
        *match verdict {
            Verdict::Used => &mut counters.rx_used,
            Verdict::NotAoe => &mut counters.rx_not_aoe,
            Verdict::OtherHost => &mut counters.rx_other_host,
            Verdict::OtherVlan => &mut counters.rx_other_vlan,
            Verdict::Malformed => &mut counters.rx_malformed,
            Verdict::Request => &mut counters.rx_request,
            Verdict::Version => &mut counters.rx_version,
            Verdict::OtherShard => &mut counters.rx_other_shard,
            Verdict::StaleTag => &mut counters.rx_stale_tag,
            Verdict::WrongSource => &mut counters.rx_wrong_source,
            Verdict::Mismatch => &mut counters.rx_mismatch,
            Verdict::ShortData => &mut counters.rx_short_data,
            Verdict::Unsolicited => &mut counters.rx_unsolicited,
        } += 1;
    }

    fn judge(&mut self, now: Instant, interface: InterfaceId, frame: &FrameRef<'_>) -> Verdict {
        let Ok((ethernet, header_bytes)) = EthernetRepr::parse(frame.head()) else {
            return Verdict::NotAoe;
        };
        if ethernet.ethertype != EtherType::AOE {
            return Verdict::NotAoe;
        }
        let local = &self.interfaces[usize::from(interface.0)].config;
        // What a switch floods, or a capture lets through: an answer to another host's discovery would pass for an advertisement.
        if ethernet.dst != local.mac && !ethernet.dst.is_multicast() {
            return Verdict::OtherHost;
        }
        let ours = local.vlan.map_or(0, |tag| tag.id());
        let theirs = ethernet.vlans[0].map_or(0, |tag| tag.id());
        if ours != theirs || ethernet.vlans[1].is_some() {
            return Verdict::OtherVlan;
        }
        let Ok(repr) = Repr::parse(&frame.head()[header_bytes..]) else {
            return Verdict::Malformed;
        };
        if !repr.response {
            return Verdict::Request;
        }
        // vblade's advertisement carries version 0.
        if repr.version != VERSION && !(repr.version == 0 && matches!(repr.body, Body::Config(_))) {
            return Verdict::Version;
        }
        let heard = Heard {
            now,
            interface,
            src: ethernet.src,
            repr,
            frame,
            data_offset: header_bytes + sandrail_wire::aoe::ATA_HEADER_BYTES,
        };
        if repr.tag.0 == 0 {
            return match repr.body {
                Body::Config(config) if repr.error.is_none() => {
                    self.on_advertisement(&heard, &config)
                }
                _ => Verdict::StaleTag,
            };
        }
        if repr.tag.shard() != self.config.shard {
            return Verdict::OtherShard;
        }
        let Some((slot, copy)) = self.commands.find(repr.tag) else {
            return Verdict::StaleTag;
        };
        self.on_response(&heard, slot, copy)
    }

    fn on_response(&mut self, heard: &Heard<'_>, slot: u16, copy: u8) -> Verdict {
        let command = *self.commands.get(slot);
        let number = usize::from(command.target);
        // A refusal may lack the fields: it tells nothing of a target.
        let told = command.path == heard.interface.0 && heard.repr.error.is_none();
        match (command.kind, heard.repr.body) {
            (Kind::Discover, Body::Config(config)) if told => {
                self.on_sighting(heard, &config, false);
                return Verdict::Used;
            }
            (Kind::Attach, Body::Config(config)) if told => {
                if heard.repr.addr != self.targets[number].addr {
                    return Verdict::WrongSource;
                }
                self.on_found(
                    heard.now,
                    command.target,
                    heard.interface,
                    heard.src,
                    &config,
                );
                return Verdict::Used;
            }
            (Kind::Discover | Kind::Attach, _) => return Verdict::Mismatch,
            _ => {}
        }
        let path = self.targets[number].path(command.path);
        if path.mac != heard.src
            || path.interface != heard.interface
            || self.targets[number].addr != heard.repr.addr
        {
            self.tell_rogue(heard.now, heard.repr.addr, heard.src, heard.interface);
            return Verdict::WrongSource;
        }
        let operation =
            (command.request != NONE).then(|| self.requests.get(command.request).operation);
        if !body_fits(
            command.kind,
            operation,
            command.lba,
            command.count,
            &heard.repr,
        ) {
            return Verdict::Mismatch;
        }
        if command.answered & (1 << copy) != 0 {
            return Verdict::StaleTag;
        }
        self.on_copy_answered(heard, slot, copy)
    }

    /// A copy's first answer.
    fn on_copy_answered(&mut self, heard: &Heard<'_>, slot: u16, copy: u8) -> Verdict {
        let now = heard.now;
        let command = *self.commands.get(slot);
        let sign = match command.kind {
            Kind::Probe => Sign::Probe {
                sent_at: command.last_sent,
            },
            _ => Sign::Answer,
        };
        // Data that is not all there is no answer: the copy may still be answered properly.
        if heard.repr.error.is_none()
            && let Body::Ata(ata) = heard.repr.body
            && ata::status_ok(ata.command_status)
        {
            let sectors = match command.kind {
                Kind::Read | Kind::PayloadIn => command.count,
                Kind::Identify | Kind::OwnIdentify => 1,
                _ => 0,
            };
            let need_bytes = heard.data_offset + usize::from(sectors) * SECTOR_BYTES;
            let short = sectors > 0 && heard.frame.len_bytes() < need_bytes;
            if short || (command.kind == Kind::Read && !self.take_data(heard, slot)) {
                return Verdict::ShortData;
            }
        }
        self.commands.get_mut(slot).answered |= 1 << copy;
        self.time_answer(now, slot, copy);
        // Before the sign of life, which releases the probe. A refusal may lack the fields: it tells nothing.
        if matches!(command.kind, Kind::Probe | Kind::PayloadOut)
            && heard.repr.error.is_none()
            && let Body::Config(config) = heard.repr.body
        {
            self.on_config_told(now, command.target, &config);
        }
        // A probe's answer frees the lingering, maybe this command: what is needed of it was copied above.
        self.on_sign(now, command.target, command.path, sign);
        let (generation, live) = (command.generation(), self.commands.get(slot));
        if live.state == State::Free || live.generation() != generation {
            return Verdict::Used;
        }
        match live.state {
            State::Lingering => {
                if live.all_answered() {
                    self.end_lingering(slot);
                }
            }
            _ => self.on_first_answer(heard, slot),
        }
        Verdict::Used
    }

    /// Round-trip time, window, and what the order of answers says about earlier frames.
    fn time_answer(&mut self, now: Instant, slot: u16, copy: u8) {
        let command = *self.commands.get(slot);
        let target = &mut self.targets[usize::from(command.target)];
        let path = target.path_mut(command.path);
        let is_last = copy + 1 == command.copies;
        let sent_at = if is_last {
            command.last_sent
        } else {
            command.first_sent
        };
        if is_last || copy == 0 {
            let rtt = now.saturating_since(sent_at);
            // A flush takes as long as the disk takes, a session as long as it takes to note it: it says nothing about the path.
            if !matches!(command.kind, Kind::Flush | Kind::Session) {
                path.rtt.sample(rtt);
            }
            if !is_last && matches!(command.kind, Kind::Read | Kind::Write) {
                // The earlier copy was not lost: the timeout was premature.
                self.counters.timeouts_spurious += 1;
                path.window.undo();
                path.reordering = (path.reordering * 2).min(self.config.rto_max);
            }
        }
        if matches!(command.kind, Kind::Read | Kind::Write)
            && matches!(command.state, State::Flying | State::Resend)
        {
            path.window.grow();
            if is_last {
                path.newest_answered = path.newest_answered.max(command.last_sent);
            }
            if command.count > SHORT_SECTORS {
                path.long_passed_at[usize::from(command.kind == Kind::Write)] = now;
            }
        }
    }

    /// Anything from a pinned MAC for its address: the path lives.
    fn on_sign(&mut self, now: Instant, number: u8, path_number: u8, sign: Sign) {
        let serial = self.config.target_order == TargetOrder::Serial;
        let suspicious = self.was_quiet(now, number, path_number);
        let path = self.targets[usize::from(number)].path_mut(path_number);
        path.heard_at = now;
        path.quiet_since = now;
        path.timeouts_in_row = 0;
        path.rtt.answered();
        let was_silent = core::mem::take(&mut path.silent);
        if was_silent {
            path.timer_floor = now;
            path.want_probe(now);
        }
        if let Sign::Probe { sent_at } = sign {
            self.on_probe_answered(now, number, path_number, sent_at);
            if self.targets[usize::from(number)].paths[usize::from(path_number)].is_none() {
                // It was the last thing that a detached target waited for.
                return;
            }
        }
        if suspicious {
            self.suspect_restart(now, number, RestartEvidence::Silence);
        }
        // A serial target that answers a probe, or starts anew, will not answer what it was sent before.
        match sign {
            Sign::Probe { sent_at } if serial => {
                self.resend_sent_before(number, path_number, sent_at, was_silent)
            }
            Sign::Advertisement => self.resend_sent_before(number, path_number, now, true),
            _ => {}
        }
        if was_silent {
            let target = &mut self.targets[usize::from(number)];
            target.identify_due |= target.phase == Phase::Up;
            self.take_over_from_silent(now, number, path_number);
            let info = self.targets[usize::from(number)]
                .path(path_number)
                .info(&self.config);
            self.notice(Notice::PathBack(TargetId(number), info));
            self.want_ask(now, number, path_number);
            self.settle_session(now, number);
        }
        self.detect_losses(number, path_number);
    }

    /// A path is back, or its trial over: what hangs on others that are silent goes this way.
    pub(super) fn take_over_from_silent(&mut self, now: Instant, number: u8, path_number: u8) {
        if !self.targets[usize::from(number)]
            .path(path_number)
            .is_usable()
        {
            return;
        }
        for other in 0..PATHS_MAX {
            if self.targets[usize::from(number)].paths[other]
                .as_ref()
                .is_some_and(|path| path.silent)
            {
                self.restart_requests_on(
                    now,
                    number,
                    u8::try_from(other).expect("PATHS_MAX fits"),
                    0,
                );
            }
        }
    }

    /// Whether a path that owed an answer was silent for so long that its target may have restarted.
    fn was_quiet(&self, now: Instant, number: u8, path_number: u8) -> bool {
        let path = self.targets[usize::from(number)].path(path_number);
        let silence = now.saturating_since(path.quiet_since);
        if !path.is_waiting() || silence < self.config.restart_silence {
            return false;
        }
        // While a timer was due and nobody called us, the silence was ours: answers may have lain in the ring.
        let overdue = self
            .poll_timeout()
            .map_or(Duration::ZERO, |due| now.saturating_since(due));
        let away = overdue.min(now.saturating_since(self.last_called));
        silence.saturating_sub(away) >= self.config.restart_silence
    }

    /// Releases this probe and those before it, and the lingering commands whose copies it shows dead (S2).
    fn on_probe_answered(&mut self, now: Instant, number: u8, path_number: u8, sent_at: Instant) {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        for place in &mut path.probes {
            if *place != NONE && self.commands.get(*place).last_sent <= sent_at {
                self.commands.release(core::mem::replace(place, NONE));
            }
        }
        self.on_predecessor_probed(now, number, path_number, sent_at);
        let path = self.targets[usize::from(number)].path(path_number);
        let mut slot = path.lingering.head();
        let mut check_at: Option<Instant> = None;
        while slot != NONE {
            let next = super::list::Linked::links(self.commands.get(slot)).next();
            match self.alive_until(now, sent_at, slot) {
                None => {
                    self.counters.lingered_dead += 1;
                    self.end_lingering(slot);
                }
                Some(at) => check_at = Some(check_at.map_or(at, |earliest| earliest.min(at))),
            }
            slot = next;
        }
        if let Some(at) = check_at
            && let Some(path) =
                self.targets[usize::from(number)].paths[usize::from(path_number)].as_mut()
        {
            path.want_probe(at.max(now));
        }
    }

    /// The same for what an earlier process may have left on the path.
    fn on_predecessor_probed(
        &mut self,
        now: Instant,
        number: u8,
        path_number: u8,
        sent_at: Instant,
    ) {
        let (order, lifetime) = (self.config.target_order, self.config.frame_lifetime);
        let path = self.targets[usize::from(number)].path_mut(path_number);
        let Some(copies) = &mut path.predecessor else {
            return;
        };
        if sent_at < copies.arrived_at {
            let at = copies.arrived_at;
            return path.want_probe(at);
        }
        let passed_at = *copies.passed_at.get_or_insert(now);
        let done_at = match order {
            TargetOrder::Serial => now,
            TargetOrder::Parallel => passed_at + lifetime,
        };
        if done_at > now {
            return path.want_probe(done_at);
        }
        path.predecessor = None;
        self.wake_waiting(number);
    }

    /// What the answer, here now, to a probe sent at `sent_at` says of a lingering command: its copies are dead (`None`), or
    /// when to ask again.
    fn alive_until(&mut self, now: Instant, sent_at: Instant, slot: u16) -> Option<Instant> {
        let lifetime = self.config.frame_lifetime;
        let command = self.commands.get_mut(slot);
        let Some(left_at) = command.left_at else {
            return Some(now + lifetime);
        };
        // By then each copy was lost or in the target's socket, before any probe sent later.
        let arrived_at = left_at + lifetime;
        if arrived_at > sent_at {
            return Some(arrived_at);
        }
        match self.config.target_order {
            TargetOrder::Serial => None,
            // A target that was stopped took the copy and the probe up together, and may still be at the copy.
            TargetOrder::Parallel => {
                let done_at = *command.passed_at.get_or_insert(now) + lifetime;
                (done_at > now).then_some(done_at)
            }
        }
    }

    /// Takes for lost what was sent before `sent_at` and is unanswered. Data commands only after a silence: otherwise their timers
    /// know better.
    fn resend_sent_before(&mut self, number: u8, path_number: u8, sent_at: Instant, data: bool) {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        for (list, applies) in [(&mut path.flying, data), (&mut path.slow, true)] {
            while applies && list.head() != NONE {
                let slot = list.head();
                if self.commands.get(slot).last_sent >= sent_at {
                    break;
                }
                list.remove(&mut self.commands.table, slot);
                self.commands.get_mut(slot).state = State::Resend;
                path.resend.push_back(&mut self.commands.table, slot);
            }
        }
    }

    /// A frame sent later was answered: earlier ones that are overdue by more than the reordering seen so far are lost
    /// (RACK, RFC 8985, with the roles of acknowledgement and answer).
    fn detect_losses(&mut self, number: u8, path_number: u8) {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        let slack = path.reordering.max(path.rtt.smoothed() / 4);
        while path.flying.head() != NONE {
            let slot = path.flying.head();
            let sent_at = self.commands.get(slot).last_sent;
            if sent_at + slack >= path.newest_answered {
                break;
            }
            path.flying.remove(&mut self.commands.table, slot);
            self.commands.get_mut(slot).state = State::Resend;
            path.resend.push_back(&mut self.commands.table, slot);
            self.counters.timeouts += 1;
            if sent_at >= path.shrunk_at {
                path.window.shrink();
                path.shrunk_at = path.newest_answered;
            }
        }
    }

    /// The first answer to any copy of a command that is not over.
    fn on_first_answer(&mut self, heard: &Heard<'_>, slot: u16) {
        let now = heard.now;
        let command = *self.commands.get(slot);
        match command.kind {
            // Its sign of life was all there is to it.
            Kind::Probe => {}
            Kind::PayloadOut | Kind::PayloadIn => self.on_trial_answer(now, slot, &heard.repr),
            Kind::OwnIdentify => {
                self.end_command(now, slot);
                let mut data = [0; SECTOR_BYTES];
                let whole = heard.frame.copy_to(heard.data_offset, &mut data);
                self.on_own_identify(now, command.target, &heard.repr, whole.then_some(&data));
            }
            Kind::Session => self.on_session_answer(now, slot, &heard.repr),
            Kind::Discover | Kind::Attach => unreachable!("answered elsewhere"),
            _ => self.on_request_answer(heard, slot),
        }
    }

    fn on_request_answer(&mut self, heard: &Heard<'_>, slot: u16) {
        let now = heard.now;
        let command = *self.commands.get(slot);
        if command.session.is_some() && heard.repr.error == Some(ErrorCode::SessionVoid) {
            return self.on_session_void(now, command.target);
        }
        let result = self.outcome(heard, slot);
        self.end_command(now, slot);
        if command.kind == Kind::Change && result.is_ok() {
            self.on_change(command.target, command.request);
        }
        match result {
            Err(error) => self.finish(now, command.request, Err(error)),
            Ok(Some(outcome)) => self.finish(now, command.request, Ok(outcome)),
            Ok(None) => {
                let request = self.requests.get_mut(command.request);
                request.done += u32::from(command.count);
                if request.done == request.sectors {
                    self.finish_answered(now, command.request);
                }
                self.on_data_answered(now, command.target, command.path);
            }
        }
    }

    /// What an answer says: an error, the whole request's outcome, or (`None`) that this piece of data is done.
    fn outcome(&mut self, heard: &Heard<'_>, slot: u16) -> Result<Option<Outcome>, IoError> {
        let command = *self.commands.get(slot);
        if let Some(error) = heard.repr.error {
            return Err(IoError::Aoe(error));
        }
        let ata = match heard.repr.body {
            Body::Ata(ata) => ata,
            Body::Vendor { .. } => return self.take_epoch(command.request, &heard.repr).map(Some),
            body => return Ok(Some(self.take_answer(command.request, &body))),
        };
        let ok = ata::status_ok(ata.command_status);
        if command.kind == Kind::Flush {
            return self.flush_outcome(&command, &ata).map(Some);
        }
        if !ok {
            return Err(ata_error(&ata));
        }
        if command.kind == Kind::Identify {
            let buffer = self.requests.get_mut(command.request).buffer.as_mut();
            let into = buffer.map_or(&mut [][..], |buffer| {
                &mut buffer.control_mut()[..SECTOR_BYTES]
            });
            if !heard.frame.copy_to(heard.data_offset, into) {
                return Err(ata_error(&ata));
            }
            return Ok(Some(Outcome::Answer {
                len_bytes: SECTOR_BYTES,
                mask_error: 0,
            }));
        }
        Ok(None)
    }

    /// S7: a flush tells the truth, or fails.
    fn flush_outcome(
        &mut self,
        command: &super::command::Command,
        ata: &AtaRepr,
    ) -> Result<Outcome, IoError> {
        let target = &mut self.targets[usize::from(command.target)];
        let suspect = self.requests.get(command.request).suspect;
        if let Some(evidence) = suspect.or(target.suspect) {
            return Err(IoError::UnflushedLost(evidence));
        }
        let claims = target.claims_flush();
        let ok = ata::status_ok(ata.command_status);
        if claims && !ok {
            self.on_flush_failed(command.target, ata);
            return Err(ata_error(ata));
        }
        if ok {
            let mark = self.requests.get(command.request).write_mark;
            target.flushed_mark = target.flushed_mark.max(mark);
        }
        Ok(Outcome::Flushed(match (claims, ok) {
            (true, _) => Durability::Claimed,
            (false, true) => Durability::Unclaimed,
            (false, false) => Durability::Refused,
        }))
    }

    /// Copies a control answer's payload to the request's buffer.
    fn take_answer(&mut self, request: u16, body: &Body<'_>) -> Outcome {
        let buffer = self.requests.get_mut(request).buffer.as_mut();
        let into = buffer.map_or(&mut [][..], RequestBuffer::control_mut);
        let mut mask_error = 0;
        let len_bytes = match body {
            Body::Config(config) => {
                let take = config.string.len().min(into.len());
                into[..take].copy_from_slice(&config.string[..take]);
                config.string.len()
            }
            Body::MacMask(mask) => {
                mask_error = mask.error.into();
                fill(into, mask.directives.iter().map(|(_, mac)| mac))
            }
            Body::Reserve(reserve) => fill(into, reserve.macs.iter()),
            Body::Ata(_) | Body::Vendor { .. } => 0,
        };
        Outcome::Answer {
            len_bytes,
            mask_error,
        }
    }

    /// Copies a list to the request's buffer; the length that it has.
    pub(super) fn take_macs(&mut self, request: u16, macs: MacList<'_>) -> usize {
        let buffer = self.requests.get_mut(request).buffer.as_mut();
        fill(
            buffer.map_or(&mut [][..], RequestBuffer::control_mut),
            macs.iter(),
        )
    }

    /// Copies a READ's sectors to where they belong; `false` when the frame does not hold them all.
    fn take_data(&mut self, heard: &Heard<'_>, slot: u16) -> bool {
        let command = *self.commands.get(slot);
        let from = command.offset as usize * SECTOR_BYTES;
        let len = usize::from(command.count) * SECTOR_BYTES;
        let buffer = self.requests.get_mut(command.request).buffer.as_mut();
        let buffer = buffer.expect("an open request has its buffer");
        buffer.incoming(from, len, heard.frame, heard.data_offset)
    }

    fn on_sighting(&mut self, heard: &Heard<'_>, config: &ConfigRepr<'_>, advertised: bool) {
        let sighting = Sighting {
            interface: heard.interface,
            mac: heard.src,
            addr: heard.repr.addr,
            buffer_count: config.buffer_count,
            firmware: config.firmware,
            sectors_max: config.sectors_per_command(),
            version: heard.repr.version,
            advertised,
            config: ConfigString::new(config.string),
        };
        self.notice(Notice::Seen(sighting));
        let attached = |target: &super::target::Target| {
            target.phase == Phase::Up && target.addr == sighting.addr
        };
        let Some(place) = self.targets.iter().position(attached) else {
            return;
        };
        if self.targets[place].pinned.contains(sighting.mac) {
            let number = u8::try_from(place).expect("TARGETS_MAX fits");
            self.on_new_path(heard.now, number, sighting.interface, sighting.mac);
        } else {
            self.tell_rogue(heard.now, sighting.addr, sighting.mac, sighting.interface);
        }
    }

    /// A config response nobody asked for: targets send it when they start and when they change.
    fn on_advertisement(&mut self, heard: &Heard<'_>, config: &ConfigRepr<'_>) -> Verdict {
        self.on_sighting(heard, config, true);
        let ours = |target: &super::target::Target| {
            target.phase != Phase::Free && target.addr == heard.repr.addr
        };
        let Some(place) = self.targets.iter().position(ours) else {
            return Verdict::Unsolicited;
        };
        let number = u8::try_from(place).expect("TARGETS_MAX fits");
        match self.targets[place].phase {
            Phase::Asking { .. } => {
                self.on_found(heard.now, number, heard.interface, heard.src, config);
                return Verdict::Used;
            }
            _ if !self.targets[place].pinned.contains(heard.src) => return Verdict::Unsolicited,
            _ => {}
        }
        let Some(path) = self.targets[place].find_path(heard.interface, heard.src) else {
            self.on_new_path(heard.now, number, heard.interface, heard.src);
            self.suspect_restart(heard.now, number, RestartEvidence::Advertisement);
            return Verdict::Used;
        };
        self.targets[place].note_config(&self.config, config);
        self.heed_sectors_max(heard.now, number);
        self.on_sign(heard.now, number, path, Sign::Advertisement);
        self.suspect_restart(heard.now, number, RestartEvidence::Advertisement);
        Verdict::Used
    }

    /// A pinned MAC answered a probe: does it still say the same of itself?
    fn on_config_told(&mut self, now: Instant, number: u8, config: &ConfigRepr<'_>) {
        let changed = self.targets[usize::from(number)].note_config(&self.config, config);
        if changed {
            self.suspect_restart(now, number, RestartEvidence::ConfigChanged);
        }
        self.heed_sectors_max(now, number);
    }

    pub(super) fn tell_rogue(
        &mut self,
        now: Instant,
        addr: TargetAddr,
        mac: MacAddr,
        interface: InterfaceId,
    ) {
        let ours = |target: &&mut super::target::Target| {
            target.phase != Phase::Free && target.addr == addr
        };
        let Some(target) = self.targets.iter_mut().find(ours) else {
            return;
        };
        let recent = target.rogue.is_some_and(|(last, at)| {
            last == mac && now.saturating_since(at) < ROGUE_NOTICE_INTERVAL
        });
        if target.pinned.contains(mac) || recent {
            return;
        }
        target.rogue = Some((mac, now));
        self.notice(Notice::Rogue {
            addr,
            mac,
            interface,
        });
    }
}

/// Whether a response's command, and LBA where it has one, are those of the request (S1).
fn body_fits(
    kind: Kind,
    operation: Option<Operation>,
    lba: u64,
    count: u16,
    repr: &Repr<'_>,
) -> bool {
    match (kind, repr.body) {
        (Kind::Read | Kind::Write | Kind::PayloadIn, Body::Ata(ata)) => {
            // A disk's error may name the sector that failed; a refusal may be cut short before its registers.
            let at = ata.lba().0;
            let failed =
                !ata::status_ok(ata.command_status) && (lba..lba + u64::from(count)).contains(&at);
            repr.error.is_some() || failed || at == lba
        }
        (Kind::Session, _) => answers(repr, SandrailOperation::Attach),
        (Kind::Change, _) if matches!(operation, Some(Operation::ReserveEpoch { .. })) => {
            answers(repr, SandrailOperation::Reserve)
        }
        (Kind::Flush | Kind::Identify | Kind::OwnIdentify, Body::Ata(_))
        | (Kind::Probe | Kind::PayloadOut, Body::Config(_)) => true,
        (Kind::Query | Kind::Change, body) => matches!(
            (operation, body),
            (Some(Operation::Config { .. }), Body::Config(_))
                | (
                    Some(Operation::MaskRead | Operation::MaskEdit { .. }),
                    Body::MacMask(_)
                )
                | (Some(Operation::Reserve { .. }), Body::Reserve(_))
        ),
        _ => false,
    }
}

fn ata_error(ata: &AtaRepr) -> IoError {
    IoError::Ata {
        status: ata.command_status,
        error: ata.error_feature,
        lba: ata.lba().0,
    }
}

/// Writes MACs one after the other; the length that all of them have.
fn fill(into: &mut [u8], macs: impl Iterator<Item = MacAddr>) -> usize {
    let mut end = 0;
    for mac in macs {
        if let Some(place) = into.get_mut(end..end + 6) {
            place.copy_from_slice(&mac.0);
        }
        end += 6;
    }
    end
}

/// Reads IDENTIFY's data, if the answer was no error.
pub(super) fn identify_of(repr: &Repr<'_>, data: Option<&[u8; SECTOR_BYTES]>) -> Option<Identify> {
    let Body::Ata(ata) = repr.body else {
        return None;
    };
    if repr.error.is_some() || !ata::status_ok(ata.command_status) {
        return None;
    }
    Identify::parse(data?).ok()
}
