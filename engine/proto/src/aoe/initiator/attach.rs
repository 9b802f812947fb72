//! From an address to a target that takes requests: who answers for it, what it is, what its paths carry.

use core::time::Duration;

use sandrail_wire::MacAddr;
use sandrail_wire::aoe::{ConfigRepr, Repr};
use sandrail_wire::ata::SECTOR_BYTES;

use super::api::{AttachFailure, InterfaceId, Notice, TargetId};
use super::list::NONE;
use super::receive::identify_of;
use super::target::{Phase, Target};
use super::{Initiator, RequestBuffer};
use crate::time::Instant;

/// How long another MAC has to contradict the first that answered.
const GATHER: Duration = Duration::from_millis(20);

impl<B: RequestBuffer> Initiator<B> {
    pub(super) fn attach_due(&self, target: &Target) -> Option<Instant> {
        match target.phase {
            Phase::Asking { gather_until } => {
                Some(gather_until.unwrap_or_else(|| target.ask_at.min(target.attach_deadline)))
            }
            Phase::Identifying | Phase::Sizing => Some(target.attach_deadline),
            Phase::Free | Phase::Up | Phase::Draining => None,
        }
    }

    pub(super) fn attach_timers(&mut self, now: Instant, number: u8) {
        let rto = self.config.rto_initial;
        let interfaces = self.interfaces.len();
        let target = &mut self.targets[usize::from(number)];
        match target.phase {
            Phase::Asking {
                gather_until: Some(until),
            } if until <= now => self.begin_identify(number),
            Phase::Asking { gather_until: None } if target.attach_deadline <= now => {
                self.fail_attach(number, AttachFailure::NoAnswer);
            }
            Phase::Asking { gather_until: None } if target.ask_at <= now => {
                target.ask_due[..interfaces].fill(true);
                target.ask_at = now + rto;
            }
            Phase::Identifying if target.attach_deadline <= now => {
                self.fail_attach(number, AttachFailure::NoAnswer);
            }
            Phase::Sizing if target.attach_deadline <= now => {
                if target
                    .paths
                    .iter()
                    .flatten()
                    .any(|path| path.payload_sectors > 0)
                {
                    match self.no_session(number) {
                        Some(failure) => self.fail_attach(number, failure),
                        None => self.complete_attach(number),
                    }
                } else {
                    self.fail_attach(number, AttachFailure::NoAnswer);
                }
            }
            _ => {}
        }
    }

    pub(super) fn fail_attach(&mut self, number: u8, failure: AttachFailure) {
        let addr = self.targets[usize::from(number)].addr;
        self.abandon(number);
        self.notice(Notice::AttachFailed(TargetId(number), addr, failure));
    }

    fn release_asks(&mut self, number: u8) {
        let target = &mut self.targets[usize::from(number)];
        target.ask_due.fill(false);
        for slot in &mut target.ask_slots {
            if *slot != NONE {
                self.commands.release(core::mem::replace(slot, NONE));
            }
        }
    }

    /// Somebody answered for the address.
    pub(super) fn on_found(
        &mut self,
        now: Instant,
        number: u8,
        interface: InterfaceId,
        mac: MacAddr,
        config: &ConfigRepr<'_>,
    ) {
        let target = &mut self.targets[usize::from(number)];
        let Phase::Asking { gather_until } = target.phase else {
            if target.pinned.contains(mac) {
                return self.on_new_path(now, number, interface, mac);
            }
            let addr = target.addr;
            self.tell_rogue(now, addr, mac, interface);
            return;
        };
        let first = target.paths.iter().flatten().next().map(|path| path.mac);
        match first {
            // Only the first to answer is ever taken without having been named.
            _ if target.pinned.contains(mac) => {}
            None if target.pinned.is_empty() => {
                target.pinned.pin(mac);
                target.pinned_by_answer = true;
            }
            Some(first) if gather_until.is_some() && target.pinned_by_answer => {
                self.fail_attach(number, AttachFailure::Ambiguous(first, mac));
                return;
            }
            _ => {
                let addr = target.addr;
                self.tell_rogue(now, addr, mac, interface);
                return;
            }
        }
        if target.find_path(interface, mac).is_none() {
            target.note_config(&self.config, config);
            target.add_path(&self.config, interface, mac, now, self.predecessor_until);
        }
        if gather_until.is_none() {
            target.phase = Phase::Asking {
                gather_until: Some(now + GATHER),
            };
        }
        self.count_paths();
    }

    fn begin_identify(&mut self, number: u8) {
        let target = &mut self.targets[usize::from(number)];
        target.phase = Phase::Identifying;
        target.identify_due = true;
    }

    /// An answer to our own IDENTIFY: at the attach the next step, later perhaps another size.
    pub(super) fn on_own_identify(
        &mut self,
        now: Instant,
        number: u8,
        repr: &Repr<'_>,
        data: Option<&[u8; SECTOR_BYTES]>,
    ) {
        let identify = identify_of(repr, data);
        let target = &mut self.targets[usize::from(number)];
        target.identify_out = false;
        target.identify_due = false;
        match (target.phase, identify) {
            (Phase::Identifying, Some(identify)) => {
                target.identify = Some(identify);
                if let Err(refusal) = self.heed_announcement(now, number) {
                    return self.fail_attach(number, AttachFailure::SessionRefused(refusal));
                }
                self.targets[usize::from(number)].phase = Phase::Sizing;
                for path in 0..super::config::PATHS_MAX {
                    if self.targets[usize::from(number)].paths[path].is_some() {
                        self.begin_trial(now, number, u8::try_from(path).expect("PATHS_MAX fits"));
                    }
                }
            }
            (Phase::Identifying, None) => {
                let failure = repr.error.map_or(
                    AttachFailure::IdentifyMalformed,
                    AttachFailure::IdentifyRefused,
                );
                self.fail_attach(number, failure);
            }
            (Phase::Up, Some(identify)) => {
                let (from_sectors, to_sectors) = (target.sectors(), identify.sectors);
                target.identify = Some(identify);
                if from_sectors != to_sectors {
                    self.notice(Notice::Resized {
                        target: TargetId(number),
                        from_sectors,
                        to_sectors,
                    });
                }
                // What it refuses is told, and its requests fail.
                let _ = self.heed_announcement(now, number);
            }
            _ => {}
        }
    }

    /// A path's payload is known, or whether it is part of a session: with the last one, the target is attached.
    pub(super) fn try_complete_attach(&mut self, number: u8) {
        let target = &self.targets[usize::from(number)];
        let unknown = target
            .paths
            .iter()
            .flatten()
            .any(|path| path.trial.is_some() || path.membership.is_pending());
        if target.phase == Phase::Sizing && !unknown {
            self.complete_attach(number);
        }
    }

    fn complete_attach(&mut self, number: u8) {
        self.release_asks(number);
        self.targets[usize::from(number)].phase = Phase::Up;
        self.notice(Notice::Attached(TargetId(number)));
    }

    /// A pinned MAC was heard, perhaps where it had not been before.
    pub(super) fn on_new_path(
        &mut self,
        now: Instant,
        number: u8,
        interface: InterfaceId,
        mac: MacAddr,
    ) {
        let target = &mut self.targets[usize::from(number)];
        let known = target.find_path(interface, mac).is_some();
        if known || !matches!(target.phase, Phase::Up | Phase::Sizing | Phase::Identifying) {
            return;
        }
        let identified = target.identify.is_some();
        if let Some(path) =
            target.add_path(&self.config, interface, mac, now, self.predecessor_until)
        {
            self.count_paths();
            // Before that, the trial begins with IDENTIFY's answer.
            if identified {
                self.begin_trial(now, number, path);
                self.want_ask(now, number, path);
            }
        }
    }
}
