//! What a core tells: its status, and what happened to its targets.

use sandrail_link::fault::Direction;
use sandrail_proto::aoe::target::backing::{Backing, Durability};
use sandrail_proto::aoe::target::{BladeEvent, TargetIndex};

use super::status::{self, CoreStatus, LinkStatus, TargetStatus};
use super::turn::Core;
use crate::disk::ServedDisk;

impl Core {
    fn index(place: usize) -> TargetIndex {
        TargetIndex(u16::try_from(place).expect("EXPORTS_MAX fits"))
    }

    pub(super) fn disk(&self, place: usize) -> &ServedDisk {
        let disk = self.blade.backing(Self::index(place));
        disk.expect("the machine has as many targets as the core")
    }

    pub(super) fn disk_mut(&mut self, place: usize) -> &mut ServedDisk {
        let disk = self.blade.backing_mut(Self::index(place));
        disk.expect("the machine has as many targets as the core")
    }

    pub(super) fn status(&mut self) -> CoreStatus {
        let counters = self.counters;
        CoreStatus {
            number: self.number,
            pinned_to: self.pin_to,
            turns: counters.turns,
            busy_turns: counters.busy_turns,
            yields: counters.yields,
            sleeps: counters.sleeps,
            crossed_out: counters.crossed_out,
            crossed_in: counters.crossed_in,
            crossing_full: counters.crossing_full,
            tx_refused: counters.tx_refused,
            frames: status::nonzero(self.blade.counters().iter()),
            requests_open: self.blade.held().requests,
            links: self.link_status(),
            targets: (0..self.targets.len())
                .filter_map(|place| self.target_status(place))
                .collect(),
        }
    }

    fn link_status(&mut self) -> Vec<LinkStatus> {
        let links = self.ports.iter_mut().map(|port| {
            let counters = status::of_link(&port.link.counters());
            let faults = |direction| status::of_faults(&port.link.control().counters(direction));
            let info = port.link.info();
            LinkStatus {
                interface: info.interface.clone(),
                queue: info.queue,
                mac: info.mac.to_string(),
                mtu_bytes: info.mtu_bytes,
                mode: info.mode.clone(),
                counters,
                faults_transmit: faults(Direction::Transmit),
                faults_receive: faults(Direction::Receive),
            }
        });
        links.collect()
    }

    fn target_status(&self, place: usize) -> Option<TargetStatus> {
        let index = Self::index(place);
        let known = self.blade.target_status(index)?;
        let (own, disk) = (&self.targets[place], self.disk(place));
        let texts =
            |macs: &[sandrail_wire::MacAddr]| macs.iter().map(ToString::to_string).collect();
        Some(TargetStatus {
            target: known.addr.to_string(),
            sectors: known.sectors,
            durability: word_of(disk.durability()),
            read_only: own.read_only,
            medium: disk.describe(),
            loss_mark: format!("{:016x}", disk.loss_mark()),
            persistent: own.persistent,
            durable: known.is_durable,
            config_string: known.state.config_string.escape_ascii().to_string(),
            mask: texts(&known.state.mask),
            reserved: texts(&known.state.reserved),
            epoch: known.state.epoch,
            sessions: known.sessions,
            counters: status::nonzero(self.blade.target_counters(index)?.iter()),
            disk: disk.counters(),
            latency: disk.latency(),
        })
    }

    /// Tells the log what happened, never more than one line an event, and none for a frame.
    pub(super) fn log_events(&mut self) {
        while let Some(event) = self.blade.poll_event() {
            self.log_event(&event);
        }
    }

    fn log_event(&self, event: &BladeEvent) {
        let name = |index: &TargetIndex| {
            let target = self.targets.get(usize::from(index.0));
            target.map_or_else(String::new, |target| target.addr.to_string())
        };
        match event {
            BladeEvent::SessionOpened {
                target,
                session,
                mac,
                shard,
                incarnation,
            } => tracing::info!(
                target = name(target), ?session, %mac, shard, incarnation = format!("{incarnation:016x}"), "session opened"
            ),
            BladeEvent::SessionVoided {
                target,
                session,
                why,
            } => {
                tracing::info!(target = name(target), ?session, ?why, "session void");
            }
            BladeEvent::Reserved {
                target,
                by,
                epoch,
                members,
            } => {
                tracing::info!(target = name(target), %by, epoch, members, "reserved");
            }
            BladeEvent::ForcedSet {
                target,
                by,
                members,
            } => {
                tracing::warn!(target = name(target), %by, members, "reservation replaced by force");
            }
            BladeEvent::SetRefused { target, by, epoch } => {
                tracing::warn!(target = name(target), %by, epoch, "change of the reservation refused");
            }
            BladeEvent::Fenced {
                target,
                mac,
                incarnation,
            } => tracing::warn!(
                target = name(target), %mac, incarnation = format!("{incarnation:016x}"), "fenced"
            ),
            BladeEvent::MaskEdited {
                target,
                by,
                members,
            } => {
                tracing::info!(target = name(target), %by, members, "mask edited");
            }
            BladeEvent::ConfigSet { target, by } => {
                tracing::info!(target = name(target), %by, "config string set");
            }
            BladeEvent::Resized { target, sectors } => {
                tracing::info!(target = name(target), sectors, "size changed");
            }
            BladeEvent::NotDurable { target } => {
                tracing::error!(
                    target = name(target),
                    "a change was refused: it could not be made durable"
                );
            }
            BladeEvent::DiskFailed { target, error } => {
                tracing::error!(target = name(target), %error, "the disk fails");
            }
        }
    }
}

fn word_of(durability: Durability) -> &'static str {
    match durability {
        Durability::Volatile => "volatile",
        Durability::Flush => "flush",
        Durability::WriteThrough => "write-through",
    }
}
