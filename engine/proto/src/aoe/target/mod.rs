//! The AoE target: frames and ends of disk operations in, answers out, for the shelf.slots of one core.
//!
//! A shelf.slot has one [`Blade`] that executes everything for it, so that what must be in order needs no locks:
//!
//! - Of two requests that share sectors, at least one of them writing, the later waits for the earlier. All others run at once.
//! - A request that carries a session (S5) is executed once, however many copies of it arrive within a frame lifetime (S6).
//! - An answer to a change of the reservation says that the change is durable, and that no write of a removed MAC is under
//!   way any more (S9); removed MACs come back with a new incarnation only (S10), epochs only forward (S8).
//! - Nobody has more than [`buffer_count`](BladeConfig::buffer_count) requests under way. What is dropped is counted by reason.
//!
//! Nothing on the way of READs, WRITEs and FLUSHes allocates. Changes of config string, mask and reservation do.

mod answers;
pub mod api;
mod ata;
pub mod backing;
mod births;
pub mod config;
mod duplicates;
mod operation;
mod overlap;
mod receive;
mod sessions;
mod settings;
mod slot;
mod stations;

mod transmit;
mod vendor;

use core::time::Duration;
use std::collections::VecDeque;

use sandrail_wire::TargetAddr;
use sandrail_wire::aoe::{sectors_by_mtu, sectors_by_mtu_customary};
use sandrail_wire::ata::SECTOR_BYTES;

pub use api::*;
pub use config::*;
pub use duplicates::DUPLICATE_BYTES;

pub use crate::aoe::initiator::{InterfaceId, Transmit};
use crate::time::Instant;
use answers::Answers;
use backing::{Backing, IoId};
use config::within;
use duplicates::Duplicates;
use operation::{Fifo, Operation, Stash};
use slot::Target;
use stations::Stations;
use transmit::HandedOut;

/// Events kept for an owner that does not fetch them.
const EVENTS_MAX: usize = 256;
/// Answers of one station to commands other than ATA under way, besides one for each target.
const CONTROLS_MAX: u16 = 16;

/// A local interface.
#[derive(Debug)]
struct Interface {
    config: InterfaceConfig,
    vlan_id: u16,
    /// Sectors that fit a frame.
    sectors_max: u8,
    /// Sectors that are told.
    sectors_told: u8,
    /// Operations whose answers leave here.
    answered: Fifo,
    /// A flag for each target that is to be advertised, and how many are set.
    advertise: Box<[bool]>,
    advertise_left: usize,
}

impl Interface {
    fn new(config: InterfaceConfig, targets: usize) -> Self {
        let byte = |sectors: usize| u8::try_from(sectors).unwrap_or(u8::MAX);
        Self {
            vlan_id: config.vlan.map_or(0, |tag| tag.id()),
            sectors_max: byte(sectors_by_mtu(config.mtu_bytes)),
            sectors_told: byte(sectors_by_mtu_customary(config.mtu_bytes)),
            answered: Fifo::EMPTY,
            advertise: vec![true; targets].into(),
            advertise_left: targets,
            config,
        }
    }
}

/// One core's AoE target, for any number of shelf.slots on backings of type `D`.
#[derive(Debug)]
pub struct Blade<D> {
    config: BladeConfig,
    interfaces: Vec<Interface>,
    targets: Vec<Target<D>>,
    /// All targets' operations, one target's after the other's.
    operations: Box<[Operation]>,
    stash: Stash,
    duplicates: Duplicates,
    stations: Stations,
    answers: Answers,
    /// Where a target's address was last found.
    hints: Box<[u16; 256]>,
    handed_out: HandedOut,
    scratch: Box<[u8]>,
    events: VecDeque<BladeEvent>,
    counters: BladeCounters,
    next_persist: usize,
    /// Until when all frames that arrived were handed in; `None`: until each turn's time.
    seen_to: Option<Instant>,
}

impl<D: Backing> Blade<D> {
    /// A blade with its targets and their disks. Their advertisements are what [`poll_transmit`](Self::poll_transmit) gives out
    /// first, their session numbers what [`poll_persist`](Self::poll_persist) does. `seed` keeps senders from choosing whose
    /// requests are slow to find.
    ///
    /// # Errors
    /// A setting out of its bounds, two targets of one address, a kept state that does not fit.
    pub fn new(
        config: BladeConfig,
        interfaces: &[InterfaceConfig],
        targets: Vec<(TargetConfig, D)>,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let _ = now;
        config.check()?;
        within("interfaces", interfaces.len(), 1, INTERFACES_MAX)?;
        within("targets", targets.len(), 1, TARGETS_MAX)?;
        for interface in interfaces {
            within("mtu_bytes", interface.mtu_bytes, MTU_BYTES_MIN, 65_535)?;
        }
        let interfaces: Vec<_> = interfaces
            .iter()
            .map(|config| Interface::new(*config, targets.len()))
            .collect();
        let mtu_bytes = interfaces.iter().map(|i| i.config.mtu_bytes).min();
        let sectors_max = interfaces.iter().map(|i| i.sectors_max).max().unwrap_or(1);
        let target_count = targets.len();
        let mut built: Vec<Target<D>> = Vec::with_capacity(target_count);
        let mut operations: u32 = 0;
        for (target, backing) in targets {
            check_addr(target.addr, &built)?;
            let limits = slot::Limits {
                mtu_bytes: mtu_bytes.unwrap_or(MTU_BYTES_MIN),
                sectors_max,
                first_operation: operations,
            };
            let target = Target::new(&config, target, backing, limits)?;
            operations += target.backing.operations_max();
            built.push(target);
        }
        let controls = CONTROLS_MAX + u16::try_from(target_count).unwrap_or(u16::MAX);
        let count = usize::try_from(operations).expect("32 bits");
        let answer_count = usize::from(CONTROLS_MAX) * 4 + 8 * target_count;
        Ok(Self {
            stash: Stash::new(
                config.stash_bytes,
                usize::from(sectors_max.max(1)) * SECTOR_BYTES,
            ),
            duplicates: Duplicates::new(config.duplicates_max, config.frame_lifetime, seed),
            stations: Stations::new(config.initiators_max, config.buffer_count, controls),
            answers: Answers::new(answer_count, interfaces.len()),
            operations: vec![Operation::FREE; count].into(),
            interfaces,
            targets: built,
            hints: Box::new([0; 256]),
            handed_out: HandedOut::Nothing,
            scratch: vec![0; answers::ANSWER_BYTES_MAX].into(),
            events: VecDeque::with_capacity(EVENTS_MAX),
            counters: BladeCounters::default(),
            next_persist: 0,
            seen_to: None,
            config,
        })
    }

    /// Once a turn, after the frames: takes note of what the disks have done, starts what waited for it, and hands everything
    /// begun to the operating system.
    pub fn handle_disks(&mut self, now: Instant) {
        self.duplicates
            .turned(self.seen_to.map_or(now, |to| to.min(now)));
        for number in 0..self.targets.len() {
            while let Some((io, result)) = self.targets[number].backing.poll_done(now) {
                let operation = self.targets[number].first_operation + io.0;
                self.on_disk_done(now, operation, result);
            }
            self.start_queued(now, number);
            self.targets[number].backing.kick(now);
            // A kick may make room, and nothing else may ever come to say so.
            loop {
                let left = self.targets[number].queued.len();
                self.start_queued(now, number);
                if self.targets[number].queued.len() == left {
                    break;
                }
                self.targets[number].backing.kick(now);
            }
            let target = &mut self.targets[number];
            if target.sectors != target.backing.sectors() {
                self.on_resized(number);
            }
        }
    }

    /// Frames that arrived after `seen_to` may still lie in a ring, of a link or of another core, though turns go on. Copies are
    /// remembered by the age of the oldest frame that may come (S6), so whoever does not hand in all that there is in a turn says so
    /// with each of them. Unless this is called, all frames that had arrived at a turn's time count as handed in by its end.
    pub fn handle_backlog(&mut self, seen_to: Instant) {
        self.seen_to = Some(seen_to);
    }

    /// Serves what [`poll_timeout`](Self::poll_timeout) asked for.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            self.handle_disks(now);
        }
    }

    /// When something is to be done though nothing arrives: `handle_timeout` or `handle_disks` is to be called then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let each = |target: &Target<D>| target.backing.poll_timeout();
        self.targets.iter().filter_map(each).min()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<BladeEvent> {
        self.events.pop_front()
    }

    /// What became of frames so far.
    #[must_use]
    pub const fn counters(&self) -> BladeCounters {
        self.counters
    }

    /// What a target has done so far.
    #[must_use]
    pub fn target_counters(&self, target: TargetIndex) -> Option<TargetCounters> {
        Some(self.targets.get(usize::from(target.0))?.counters)
    }

    /// How many targets there are: their indices are below it.
    #[must_use]
    pub const fn target_count(&self) -> usize {
        self.targets.len()
    }

    /// The target of that address.
    #[must_use]
    pub fn target_at(&self, addr: TargetAddr) -> Option<TargetIndex> {
        let place = self.targets.iter().position(|target| target.addr == addr)?;
        u16::try_from(place).ok().map(TargetIndex)
    }

    /// What is known of a target, for reports.
    #[must_use]
    pub fn target_status(&self, target: TargetIndex) -> Option<TargetStatus<'_>> {
        Some(self.targets.get(usize::from(target.0))?.status())
    }

    /// The disk of a target, to have faults injected or its size changed.
    pub fn backing_mut(&mut self, target: TargetIndex) -> Option<&mut D> {
        Some(&mut self.targets.get_mut(usize::from(target.0))?.backing)
    }

    /// The disk of a target.
    #[must_use]
    pub fn backing(&self, target: TargetIndex) -> Option<&D> {
        Some(&self.targets.get(usize::from(target.0))?.backing)
    }

    /// What is held at this moment. All zero when nothing is under way and all answers are sent.
    #[must_use]
    pub fn held(&self) -> Held {
        let under_way = |target: &Target<D>| target.operations_max() - target.free.len();
        Held {
            operations: self.targets.iter().map(under_way).sum(),
            requests: self.stations.under_way(),
            answers: self.answers.used(),
            stash_pieces: self.stash.used(),
            ranges: self
                .targets
                .iter()
                .map(|t| t.ranges.active() as usize)
                .sum(),
        }
    }

    fn event(&mut self, event: BladeEvent) {
        if self.events.len() == EVENTS_MAX {
            self.counters.events_lost += 1;
            return;
        }
        self.events.push_back(event);
    }

    fn on_resized(&mut self, number: usize) {
        let target = &mut self.targets[number];
        target.sectors = target.backing.sectors();
        target.write_identify();
        let sectors = target.sectors;
        for interface in &mut self.interfaces {
            let due = &mut interface.advertise[number];
            interface.advertise_left += usize::from(!core::mem::replace(due, true));
        }
        let target = index(number);
        self.event(BladeEvent::Resized { target, sectors });
    }
}

fn index(number: usize) -> TargetIndex {
    TargetIndex(u16::try_from(number).expect("TARGETS_MAX fits"))
}

/// The disk's number of an operation, and its target's.
fn io_of<D>(target: &Target<D>, operation: u32) -> IoId {
    IoId(operation - target.first_operation)
}

fn check_addr<D>(addr: TargetAddr, others: &[Target<D>]) -> Result<(), ConfigError> {
    let refuse = |allowed: &str| {
        Err(ConfigError {
            setting: "addr",
            given: addr.to_string(),
            allowed: allowed.to_string(),
        })
    };
    if addr.is_wildcard() {
        return refuse("addresses of one target");
    }
    if others.iter().any(|other| other.addr == addr) {
        return refuse("addresses that no other target has");
    }
    Ok(())
}

/// Milliseconds of a duration, as messages carry them.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
