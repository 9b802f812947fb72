//! Which payload a path carries, tried both ways: switches and targets with a smaller MTU than ours swallow long
//! frames without a word.

use core::time::Duration;

use sandrail_wire::MacAddr;
use sandrail_wire::aoe::{Body, Repr, sectors_by_mtu};
use sandrail_wire::ata;

use super::api::{Notice, TargetId};
use super::command::{Kind, State};
use super::config::PATHS_MAX;
use super::list::NONE;
use super::path::{Path, PayloadTrial};
use super::receive::SHORT_SECTORS;
use super::target::Phase;
use super::{Initiator, RequestBuffer};
use crate::time::Instant;

/// Frames lost by chance should not cost the path its payload: at 5 % loss each way, all tries of one size fail once in 10^4.
const TRIES_MAX: u8 = 4;
/// A trial that could not READ is not repeated sooner.
const TRIAL_REST: Duration = Duration::from_secs(1);
/// Copies of a long command, unanswered while other frames were, that make its length suspicious.
const SUSPICIOUS_COPIES: u8 = 4;

/// The next smaller payload to try: one block, what needs no multi-buffer, what MTU 1500 holds, the least.
const fn smaller(sectors: u16) -> u16 {
    match sectors {
        9.. => 8,
        8 => 7,
        5..=7 => 4,
        3..=4 => 2,
        _ => 1,
    }
}

impl<B: RequestBuffer> Initiator<B> {
    /// Finds out the payload of a path, from the largest that both ends' words allow.
    pub(super) fn begin_trial(&mut self, now: Instant, number: u8, path_number: u8) {
        let target = &mut self.targets[usize::from(number)];
        let interface = target.path(path_number).interface;
        let mtu_bytes = self.interfaces[usize::from(interface.0)].config.mtu_bytes;
        let by_mtu = u16::try_from(sectors_by_mtu(mtu_bytes)).unwrap_or(u16::MAX);
        let most = by_mtu.min(u16::from(target.sectors_max)).clamp(1, 255);
        self.try_payload(now, number, path_number, most);
    }

    fn try_payload(&mut self, now: Instant, number: u8, path_number: u8, sectors: u16) {
        self.release_trial(number, path_number);
        let path = self.targets[usize::from(number)].path_mut(path_number);
        path.payload_unverified = false;
        path.trial = Some(PayloadTrial {
            sectors,
            tries: 0,
            out_answered: false,
            in_answered: false,
            started_at: now,
            next_try_at: now,
            out_due: false,
            in_due: false,
            out_slot: NONE,
            in_slot: NONE,
        });
    }

    fn release_trial(&mut self, number: u8, path_number: u8) {
        let path = self.targets[usize::from(number)].path_mut(path_number);
        if let Some(trial) = path.trial.take() {
            for slot in [trial.out_slot, trial.in_slot] {
                if slot != NONE {
                    self.commands.release(slot);
                }
            }
        }
    }

    /// Next try, or next size.
    pub(super) fn trial_timers(&mut self, now: Instant, number: u8, path_number: u8) {
        let spacing = self.config.rto_initial;
        let path = self.targets[usize::from(number)].path_mut(path_number);
        let Some(trial) = path.trial.as_mut() else {
            return;
        };
        if trial.next_try_at > now {
            return;
        }
        if trial.tries >= TRIES_MAX {
            // A target that answers nothing at all says nothing about long frames.
            let (sectors, alive) = (trial.sectors, path.heard_at > trial.started_at);
            let next = if alive { smaller(sectors) } else { sectors };
            self.try_payload(now, number, path_number, next);
            return;
        }
        trial.tries += 1;
        trial.next_try_at = now + spacing;
        trial.out_due = !trial.out_answered;
        trial.in_due = !trial.in_answered;
        // A short frame tells whether the target is there at all. Half-way to the next try, since the long ones of several
        // paths may fill all buffers of a small target, try after try.
        path.want_probe(now + spacing / 2);
    }

    /// The next frame of the trial that is due: command, copy, destination.
    pub(super) fn next_trial_frame(
        &mut self,
        now: Instant,
        number: u8,
        path_number: u8,
    ) -> Option<(u16, u8, MacAddr)> {
        let target = &self.targets[usize::from(number)];
        let path = target.path(path_number);
        let mac = path.mac;
        let trial = path.trial?;
        let (kind, before) = if trial.out_due {
            (Kind::PayloadOut, trial.out_slot)
        } else if trial.in_due {
            (Kind::PayloadIn, trial.in_slot)
        } else {
            return None;
        };
        let device_sectors = u16::try_from(target.sectors()).unwrap_or(u16::MAX);
        let slot = if before == NONE {
            let slot = self.allocate(now, kind, State::Loose)?;
            let command = self.commands.get_mut(slot);
            command.target = number;
            command.path = path_number;
            command.count = trial.sectors;
            if kind == Kind::PayloadIn {
                command.count = trial.sectors.min(device_sectors.max(1));
            }
            slot
        } else {
            before
        };
        let trial = self.targets[usize::from(number)]
            .path_mut(path_number)
            .trial
            .as_mut()?;
        if kind == Kind::PayloadOut {
            trial.out_due = false;
            trial.out_slot = slot;
        } else {
            trial.in_due = false;
            trial.in_slot = slot;
        }
        Some(self.stamp_trial(now, slot, mac))
    }

    /// A long frame got through: ours (its answer is here), or the target's (here it is).
    pub(super) fn on_trial_answer(&mut self, now: Instant, slot: u16, repr: &Repr<'_>) {
        let command = *self.commands.get(slot);
        let path = self.targets[usize::from(command.target)].path_mut(command.path);
        let Some(trial) = path.trial.as_mut() else {
            return;
        };
        if command.kind == Kind::PayloadOut {
            trial.out_answered = true;
        } else {
            let ok = repr.error.is_none()
                && matches!(repr.body, Body::Ata(ata) if ata::status_ok(ata.command_status));
            trial.in_answered = true;
            path.payload_unverified = !ok;
        }
        if trial.out_answered && trial.in_answered {
            let sectors = trial.sectors;
            self.end_trial(now, command.target, command.path, sectors);
        }
    }

    fn end_trial(&mut self, now: Instant, number: u8, path_number: u8, sectors: u16) {
        self.release_trial(number, path_number);
        let path = self.targets[usize::from(number)].path_mut(path_number);
        // Who may not READ has only tried one direction: what every network carries is taken until it may.
        let sectors = if path.payload_unverified {
            sectors.min(SHORT_SECTORS)
        } else {
            sectors
        };
        let before = core::mem::replace(&mut path.payload_sectors, sectors);
        path.long_passed_at = [now; 2];
        path.timer_floor = now;
        path.timeouts_in_row = 0;
        let info = path.info(&self.config);
        if sectors < before {
            self.restart_requests_on(now, number, path_number, sectors);
        }
        if before != sectors && self.targets[usize::from(number)].phase == Phase::Up {
            self.notice(Notice::PayloadChanged(TargetId(number), info));
        }
        self.try_complete_attach(number);
        self.take_over_from_silent(now, number, path_number);
    }

    /// Data was answered on a path whose trial could not READ: now it can.
    pub(super) fn on_data_answered(&mut self, now: Instant, number: u8, path_number: u8) {
        let path = self.targets[usize::from(number)].path(path_number);
        // A READ may fail for other reasons than a reservation, an unreadable sector, and data goes on all the same.
        let rested = now.saturating_since(path.long_passed_at[0]) >= TRIAL_REST;
        if path.payload_unverified && path.trial.is_none() && rested {
            self.begin_trial(now, number, path_number);
        }
    }

    /// A target that takes fewer sectors than before would refuse what its paths carry: they are tried anew.
    pub(super) fn heed_sectors_max(&mut self, now: Instant, number: u8) {
        let target = &self.targets[usize::from(number)];
        let most = u16::from(target.sectors_max);
        if target.phase != Phase::Up {
            return;
        }
        for path in 0..PATHS_MAX {
            let too_long = |path: &Path| path.payload_sectors > most && path.trial.is_none();
            if self.targets[usize::from(number)].paths[path]
                .as_ref()
                .is_some_and(too_long)
            {
                self.begin_trial(now, number, u8::try_from(path).expect("PATHS_MAX fits"));
            }
        }
    }

    /// Long commands stay unanswered while short frames are not, and no other long frame gets through in their direction: a jumbo
    /// black hole. The size is tried anew.
    pub(super) fn suspect_black_hole(&mut self, now: Instant, number: u8, path_number: u8) {
        let path = self.targets[usize::from(number)].path(path_number);
        let slot = path.resend.head();
        if slot == NONE || path.trial.is_some() {
            return;
        }
        let command = self.commands.get(slot);
        let swallowed = command.count > SHORT_SECTORS
            && command.copies >= SUSPICIOUS_COPIES
            && path.heard_at > command.first_sent
            && path.long_passed_at[usize::from(command.kind == Kind::Write)] < command.last_sent;
        if swallowed {
            self.begin_trial(now, number, path_number);
        }
    }
}
