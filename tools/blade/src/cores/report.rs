//! What a core tells: its status, and what happened to its targets.

use sandrail_link::fault::Direction;
use sandrail_proto::aoe::target::TargetIndex;
use sandrail_proto::aoe::target::backing::{Backing, Durability};

use super::status::{self, CopiesStatus, CoreStatus, LinkStatus, TargetStatus};
use super::turn::Core;
use crate::disk::ServedDisk;
use crate::events::Happening;

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
            events_lost: counters.events_lost,
            frames: status::nonzero(self.blade.counters().iter()),
            requests_open: self.blade.held().requests,
            held: status::of_held(&self.blade.held()),
            copies: CopiesStatus::of(&self.copies),
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

    /// Hands on what happened. The log may block its writer, which no polling core can bear.
    pub(super) fn events_out(&mut self) {
        while let Some(event) = self.blade.poll_event() {
            let told = self.events.try_send((self.number, Happening::Blade(event)));
            self.counters.events_lost += u64::from(told.is_err());
        }
        if !self.is_refusal_told && self.blade.counters().rx_duplicates_full > 0 {
            // Once, since it may be so for each of many frames; the counter goes on.
            let told = Happening::CopiesFull(self.copies);
            self.is_refusal_told = self.events.try_send((self.number, told)).is_ok();
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
