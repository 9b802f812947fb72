//! One shelf.slot: its disk, who may use it, and what is under way.

use std::collections::VecDeque;

use sandrail_wire::aoe::{CONFIG_STRING_BYTES_MAX, Features, MACS_MAX};
use sandrail_wire::ata::{Identify, IdentifyString, SECTOR_BYTES};
use sandrail_wire::{MacAddr, TargetAddr};

use super::api::{TargetCounters, TargetStatus};
use super::backing::{Backing, Durability};
use super::births::{Births, Surely, removed_max};
use super::config::{
    BladeConfig, ConfigError, ForceSet, PersistentState, SESSION_BLOCK, SessionRule, TargetConfig,
    within,
};
use super::overlap::RangeIndex;
use super::sessions::Sessions;
use super::settings::{CHANGES_MAX, Change};
use crate::time::Instant;

/// Operations of one disk at most.
const OPERATIONS_MAX: u32 = 1 << 16;
/// Bytes of a MAC in a list, and of a directive of the mask.
const MAC_BYTES: usize = 6;
const DIRECTIVE_BYTES: usize = 8;
/// Fenced lives that are remembered; the oldest goes first.
pub(super) const FENCED_MAX: usize = 1024;
/// Fenced lives of one MAC that are remembered: a process that hung through several others must not come back (S10).
pub(super) const FENCED_LIVES_MAX: usize = 16;

/// What a target needs to know of its blade.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The shortest MTU of all interfaces.
    pub(super) mtu_bytes: usize,
    /// The most sectors of a frame on any interface.
    pub(super) sectors_max: u8,
    /// Where its operations begin in the blade's table.
    pub(super) first_operation: u32,
}

/// A list of MACs, also sorted for look-ups.
#[derive(Debug)]
pub(super) struct MacSet {
    sorted: Vec<MacAddr>,
}

impl MacSet {
    pub(super) fn new(macs: &[MacAddr]) -> Self {
        let mut sorted = macs.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        Self { sorted }
    }

    /// Whether `mac` may pass: an empty list admits everybody.
    #[inline]
    pub(super) fn admits(&self, mac: MacAddr) -> bool {
        self.sorted.is_empty() || self.sorted.binary_search(&mac).is_ok()
    }

    /// Whether both hold the same MACs.
    pub(super) fn is_same(&self, macs: &[MacAddr]) -> bool {
        self.sorted == Self::new(macs).sorted
    }
}

/// A state that is being made durable.
#[derive(Debug)]
pub(super) struct Given {
    /// Its number.
    pub(super) id: u64,
    /// Its bounds of session numbers and births.
    pub(super) session_next: u16,
    pub(super) birth_next: u32,
    /// Its reservation.
    pub(super) reserved: Vec<MacAddr>,
}

/// How far the making durable of states is.
#[derive(Debug, Default)]
pub(super) struct Persist {
    /// Number of the newest state.
    pub(super) wanted: u64,
    pub(super) given: Option<Given>,
    /// States up to this one are durable, or failed to become so.
    pub(super) settled: u64,
    /// The last attempt failed.
    pub(super) failed: bool,
}

/// A target.
#[derive(Debug)]
pub(super) struct Target<D> {
    pub(super) addr: TargetAddr,
    model: IdentifyString<40>,
    serial: IdentifyString<20>,
    pub(super) read_only: bool,
    pub(super) sectors_max: Option<u8>,
    pub(super) force_set: ForceSet,
    pub(super) session_rule: SessionRule,
    pub(super) backing: D,
    /// As the world was told.
    pub(super) sectors: u64,
    pub(super) identify: Box<[u8; SECTOR_BYTES]>,
    pub(super) sectors_per_operation_max: u32,
    pub(super) first_operation: u32,
    operations_max: usize,
    /// Operations that are free.
    pub(super) free: Vec<u32>,
    pub(super) ranges: RangeIndex,
    /// Operations that the disk had no room for, or that an overlapping one has set free, in order.
    pub(super) queued: VecDeque<u32>,
    pub(super) sessions: Sessions,
    pub(super) births: Births,
    pub(super) mask: MacSet,
    pub(super) reserved: MacSet,
    /// Whom any reservation admits that a restart may find.
    pub(super) surely: Surely,
    /// Counts the reservations that were in force.
    pub(super) reservation: u64,
    /// The most MACs of the mask and of the reservation: those that every answer can carry.
    pub(super) mask_max: usize,
    pub(super) reserved_max: usize,
    pub(super) state: PersistentState,
    pub(super) persist: Persist,
    pub(super) changes: [Option<Change>; CHANGES_MAX],
    /// Until then a failure of the disk is no news.
    pub(super) disk_event_at: Option<Instant>,
    pub(super) counters: TargetCounters,
}

impl<D: Backing> Target<D> {
    pub(super) fn new(
        blade: &BladeConfig,
        config: TargetConfig,
        backing: D,
        limits: Limits,
    ) -> Result<Self, ConfigError> {
        let operations_max = backing.operations_max();
        within("operations_max", operations_max, 1, OPERATIONS_MAX)?;
        let state = config.persistent;
        let mask_max = ((limits.mtu_bytes - 14) / DIRECTIVE_BYTES).min(MACS_MAX);
        let reserved_max = ((limits.mtu_bytes - 58) / MAC_BYTES).min(MACS_MAX);
        let string_bytes = state.config_string.len();
        within("config_string", string_bytes, 0, CONFIG_STRING_BYTES_MAX)?;
        within("mask", state.mask.len(), 0, mask_max)?;
        within("reserved", state.reserved.len(), 0, reserved_max)?;
        within("fenced", state.fenced.len(), 0, FENCED_MAX)?;
        let removed_max = removed_max(reserved_max);
        within("removed", state.removed.len(), 0, removed_max)?;
        let first = limits.first_operation;
        let sectors_max = u32::from(limits.sectors_max);
        let mut target = Self {
            addr: config.addr,
            model: config.model,
            serial: config.serial,
            read_only: config.read_only,
            sectors_max: config.sectors_max,
            force_set: config.force_set,
            session_rule: config.sessions,
            sectors: backing.sectors(),
            identify: Box::new([0; SECTOR_BYTES]),
            sectors_per_operation_max: backing.sectors_per_operation_max(),
            first_operation: first,
            operations_max: operations_max as usize,
            free: (first..first + operations_max).rev().collect(),
            ranges: RangeIndex::new(operations_max, sectors_max),
            queued: VecDeque::with_capacity(operations_max as usize),
            sessions: Sessions::new(blade.sessions_max, blade.frame_lifetime, state.session_next),
            births: Births::new(state.birth_next),
            mask: MacSet::new(&state.mask),
            reserved: MacSet::new(&state.reserved),
            surely: Surely::of(&state.reserved),
            reservation: 0,
            mask_max,
            reserved_max,
            state,
            persist: Persist::default(),
            changes: [const { None }; CHANGES_MAX],
            disk_event_at: None,
            counters: TargetCounters::default(),
            backing,
        };
        target.write_identify();
        target.reserve_sessions();
        Ok(target)
    }

    pub(super) const fn operations_max(&self) -> usize {
        self.operations_max
    }

    /// Has more session numbers and births made durable.
    pub(super) fn reserve_sessions(&mut self) {
        self.state.session_next = self.sessions.bound_after(SESSION_BLOCK);
        self.state.birth_next = self.births.bound_after();
        self.want_persist();
    }

    /// Wants the state made durable as it is now; returns its number.
    pub(super) const fn want_persist(&mut self) -> u64 {
        self.persist.wanted += 1;
        self.persist.wanted
    }

    /// Whether everything is durable.
    pub(super) const fn is_durable(&self) -> bool {
        self.persist.settled == self.persist.wanted && !self.persist.failed
    }

    pub(super) fn write_identify(&mut self) {
        let durability = self.backing.durability();
        let flushes = durability != Durability::Volatile;
        Identify {
            sectors: self.sectors,
            lba48: true,
            flush: flushes,
            flush_ext: flushes,
            // What is written through lies in no cache.
            write_cache: durability != Durability::WriteThrough,
            power_management: true,
            trim_blocks_max: (self.backing.discards() && !self.read_only).then_some(1),
            sandrail: Some(FEATURES),
            model: self.model,
            serial: self.serial,
            firmware: IdentifyString::new(env!("CARGO_PKG_VERSION"))
                .unwrap_or(IdentifyString::new("").expect("nothing fits")),
        }
        .emit(&mut self.identify);
    }

    pub(super) fn status(&self) -> TargetStatus<'_> {
        TargetStatus {
            addr: self.addr,
            sectors: self.sectors,
            state: &self.state,
            is_durable: self.is_durable(),
            sessions: self.sessions.open_count(),
        }
    }
}

/// What this target can do of the vendor command.
pub(super) const FEATURES: Features = Features::ALL;
