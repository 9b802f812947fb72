//! What came in: whom it is for, and whether its sender may speak at all.

use sandrail_wire::aoe::{
    AOE_HEADER_BYTES, AoeError, Body, ConfigRepr, ErrorCode, Header, Repr, SANDRAIL_COMMAND,
    VERSION,
};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, FrameRef, MacAddr, TargetAddr};

use super::backing::Backing;
use super::stations::{Share, StationId, Unwelcome};
use super::{Blade, InterfaceId};
use crate::time::Instant;

/// What a frame turned out to be; each is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Used,
    NotAoe,
    OtherHost,
    OtherVlan,
    NoInterface,
    BadSource,
    Own,
    Malformed,
    Response,
    OtherTarget,
    Masked,
    BuffersFull,
    NoStation,
    TargetFull,
    StashFull,
    ControlFull,
    ChangesFull,
    CopyExecuting,
    DuplicatesFull,
    ConfigTestFailed,
    SessionsNotDurable,
}

/// A request with where it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard<'a> {
    pub(super) now: Instant,
    pub(super) interface: u8,
    pub(super) src: MacAddr,
    pub(super) header: Header,
    pub(super) frame: &'a FrameRef<'a>,
    /// Where the AoE header begins.
    pub(super) aoe_at: usize,
}

impl<'a> Heard<'a> {
    /// The AoE header and what follows, as far as it lies in the first segment.
    pub(super) fn bytes(&self) -> &'a [u8] {
        &self.frame.head()[self.aoe_at..]
    }
}

/// To whom an answer goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyTo {
    pub(super) interface: u8,
    pub(super) mac: MacAddr,
    /// The place in the pool of answers that is kept for it.
    pub(super) slot: u32,
    pub(super) header: Header,
}

impl<D: Backing> Blade<D> {
    /// Takes a received frame in. Frames that mean nothing here are counted by reason and dropped.
    pub fn handle_frame(&mut self, now: Instant, interface: InterfaceId, frame: &FrameRef<'_>) {
        match self.judge(now, interface, frame) {
            Ok(heard) => self.dispatch(&heard),
            Err(verdict) => self.count(verdict),
        }
    }

    fn count(&mut self, verdict: Verdict) {
        let counters = &mut self.counters;
        *match verdict {
            Verdict::Used => &mut counters.rx_used,
            Verdict::NotAoe => &mut counters.rx_not_aoe,
            Verdict::OtherHost => &mut counters.rx_other_host,
            Verdict::OtherVlan => &mut counters.rx_other_vlan,
            Verdict::NoInterface => &mut counters.rx_no_interface,
            Verdict::BadSource => &mut counters.rx_bad_source,
            Verdict::Own => &mut counters.rx_own,
            Verdict::Malformed => &mut counters.rx_malformed,
            Verdict::Response => &mut counters.rx_response,
            Verdict::OtherTarget => &mut counters.rx_other_target,
            Verdict::Masked => &mut counters.rx_masked,
            Verdict::BuffersFull => &mut counters.rx_buffers_full,
            Verdict::NoStation => &mut counters.rx_no_station,
            Verdict::TargetFull => &mut counters.rx_target_full,
            Verdict::StashFull => &mut counters.rx_stash_full,
            Verdict::ControlFull => &mut counters.rx_control_full,
            Verdict::ChangesFull => &mut counters.rx_changes_full,
            Verdict::CopyExecuting => &mut counters.rx_copy_executing,
            Verdict::DuplicatesFull => &mut counters.rx_duplicates_full,
            Verdict::ConfigTestFailed => &mut counters.rx_config_test_failed,
            Verdict::SessionsNotDurable => &mut counters.rx_sessions_not_durable,
        } += 1;
    }

    #[inline]
    fn judge<'a>(
        &self,
        now: Instant,
        interface: InterfaceId,
        frame: &'a FrameRef<'a>,
    ) -> Result<Heard<'a>, Verdict> {
        let local = self
            .interfaces
            .get(usize::from(interface.0))
            .ok_or(Verdict::NoInterface)?;
        let (ethernet, aoe_at) = EthernetRepr::parse(frame.head()).map_err(|_| Verdict::NotAoe)?;
        if ethernet.ethertype != EtherType::AOE {
            return Err(Verdict::NotAoe);
        }
        if ethernet.dst != local.config.mac && !ethernet.dst.is_multicast() {
            return Err(Verdict::OtherHost);
        }
        let theirs = ethernet.vlans[0].map_or(0, |tag| tag.id());
        if theirs != local.vlan_id || ethernet.vlans[1].is_some() {
            return Err(Verdict::OtherVlan);
        }
        if ethernet.src == local.config.mac {
            return Err(Verdict::Own);
        }
        if ethernet.src.is_multicast() || ethernet.src == MacAddr::ZERO {
            return Err(Verdict::BadSource);
        }
        let header = Header::parse(&frame.head()[aoe_at..]).map_err(|_| Verdict::Malformed)?;
        if header.response {
            return Err(Verdict::Response);
        }
        Ok(Heard {
            now,
            interface: interface.0,
            src: ethernet.src,
            header,
            frame,
            aoe_at,
        })
    }

    #[inline]
    fn dispatch(&mut self, heard: &Heard<'_>) {
        let addr = heard.header.addr;
        if !addr.is_wildcard() {
            let verdict = match self.find_target(addr) {
                Some(number) => self.on_request(heard, number),
                None => Verdict::OtherTarget,
            };
            self.count(verdict);
            return;
        }
        let mut is_any = false;
        for number in 0..self.targets.len() {
            if addr.matches(self.targets[number].addr) {
                is_any = true;
                let verdict = self.on_request(heard, number);
                self.count(verdict);
            }
        }
        if !is_any {
            self.count(Verdict::OtherTarget);
        }
    }

    #[inline]
    fn find_target(&mut self, addr: TargetAddr) -> Option<usize> {
        let [high, low] = addr.shelf.to_be_bytes();
        let hint = usize::from(addr.slot ^ low.rotate_left(4) ^ high);
        let place = usize::from(self.hints[hint]);
        if self.targets.get(place).is_some_and(|t| t.addr == addr) {
            return Some(place);
        }
        let place = self.targets.iter().position(|t| t.addr == addr)?;
        self.hints[hint] = u16::try_from(place).expect("TARGETS_MAX fits");
        Some(place)
    }

    /// A request for a target, which the mask may not even admit.
    #[inline]
    fn on_request(&mut self, heard: &Heard<'_>, number: usize) -> Verdict {
        if !self.targets[number].mask.admits(heard.src) {
            return Verdict::Masked;
        }
        if heard.header.version != VERSION {
            self.targets[number].counters.refused_version += 1;
            return self.refuse_bare(heard, number, ErrorCode::UnsupportedVersion);
        }
        match Repr::parse(heard.bytes()) {
            Ok(Repr {
                body: Body::Ata(ata),
                ..
            }) => self.on_ata(heard, number, ata),
            Ok(repr) => self.on_control(heard, number, repr.body),
            Err(error) => {
                self.targets[number].counters.refused_argument += 1;
                let code = match error {
                    AoeError::UnknownCommand(_) => ErrorCode::BadCommand,
                    AoeError::Truncated { .. } | AoeError::ConfigStringTooLong(_) => {
                        ErrorCode::BadArgument
                    }
                };
                self.refuse_bare(heard, number, code)
            }
        }
    }

    fn on_control(&mut self, heard: &Heard<'_>, number: usize, body: Body<'_>) -> Verdict {
        // A test that fails is answered by nothing, and needs no place for it.
        if let Body::Config(config) = body
            && !self.passes_test(number, &config)
        {
            return Verdict::ConfigTestFailed;
        }
        let to = match self.reply_to(heard) {
            Ok(to) => to,
            Err(verdict) => return verdict,
        };
        let verdict = match body {
            Body::Config(config) => self.on_config(number, to, &config),
            Body::MacMask(mask) => self.on_mask(number, to, &mask),
            Body::Reserve(reserve) => self.on_reserve(heard.now, number, to, &reserve),
            Body::Vendor { command, data } if command == SANDRAIL_COMMAND => {
                self.on_vendor(heard.now, number, to, data)
            }
            Body::Vendor { .. } | Body::Ata(_) => {
                self.targets[number].counters.refused_argument += 1;
                self.refuse(number, &to, ErrorCode::BadCommand)
            }
        };
        if verdict != Verdict::Used {
            self.give_up(&to);
        }
        verdict
    }

    fn passes_test(&self, number: usize, config: &ConfigRepr<'_>) -> bool {
        use sandrail_wire::aoe::ConfigCommand;
        let string = &self.targets[number].state.config_string;
        match config.command {
            ConfigCommand::TestExact => string == config.string,
            ConfigCommand::TestPrefix => string.starts_with(config.string),
            _ => true,
        }
    }

    /// Keeps a place for the answer to a command other than ATA.
    pub(super) fn reply_to(&mut self, heard: &Heard<'_>) -> Result<ReplyTo, Verdict> {
        let station = self.enter(heard, Share::Control)?;
        let Some(slot) = self.answers.take(station) else {
            self.stations.leave(station, Share::Control);
            return Err(Verdict::ControlFull);
        };
        Ok(ReplyTo {
            interface: heard.interface,
            mac: heard.src,
            slot,
            header: heard.header,
        })
    }

    /// Gives the place back: there will be no answer.
    pub(super) fn give_up(&mut self, to: &ReplyTo) {
        let station = self.answers.station(to.slot);
        self.stations.leave(station, Share::Control);
        self.answers.give_back(to.slot);
    }

    #[inline]
    pub(super) fn enter(&mut self, heard: &Heard<'_>, share: Share) -> Result<StationId, Verdict> {
        self.stations
            .enter(heard.src, share)
            .map_err(|unwelcome| match unwelcome {
                Unwelcome::BuffersFull => Verdict::BuffersFull,
                Unwelcome::NoPlace => Verdict::NoStation,
            })
    }

    /// Refuses a request whose arguments can't be told back, with the header alone.
    fn refuse_bare(&mut self, heard: &Heard<'_>, number: usize, code: ErrorCode) -> Verdict {
        match self.reply_to(heard) {
            Ok(to) => self.refuse(number, &to, code),
            Err(verdict) => verdict,
        }
    }

    /// Answers with E and the header alone.
    pub(super) fn refuse(&mut self, number: usize, to: &ReplyTo, code: ErrorCode) -> Verdict {
        let header = Header {
            version: VERSION,
            response: true,
            error: Some(code),
            addr: self.targets[number].addr,
            ..to.header
        };
        let ethernet = self.ethernet(to.interface, to.mac);
        let interface = usize::from(to.interface);
        self.answers.queue(to.slot, interface, |out| {
            let at = ethernet.emit(out).expect("room for any header");
            let (bytes, _) = out[at..]
                .split_first_chunk_mut::<AOE_HEADER_BYTES>()
                .expect("room for any header");
            header.emit(bytes);
            at + AOE_HEADER_BYTES
        });
        Verdict::Used
    }

    /// Answers with a body.
    pub(super) fn reply(
        &mut self,
        number: usize,
        to: &ReplyTo,
        error: Option<ErrorCode>,
        body: Body<'_>,
    ) {
        let repr = Repr {
            version: VERSION,
            response: true,
            error,
            addr: self.targets[number].addr,
            tag: to.header.tag,
            body,
        };
        let ethernet = self.ethernet(to.interface, to.mac);
        let interface = usize::from(to.interface);
        self.answers.queue(to.slot, interface, |out| {
            let at = ethernet.emit(out).expect("room for any header");
            at + repr
                .emit(&mut out[at..])
                .expect("room for the longest answer")
        });
    }

    pub(super) fn ethernet(&self, interface: u8, dst: MacAddr) -> EthernetRepr {
        let local = &self.interfaces[usize::from(interface)].config;
        EthernetRepr {
            dst,
            src: local.mac,
            vlans: [local.vlan, None],
            ethertype: EtherType::AOE,
        }
    }
}
