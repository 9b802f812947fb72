//! A target: what is known of it, its paths, and what waits for it.

use sandrail_wire::aoe::{Birth, ConfigRepr, Features, Session};
use sandrail_wire::ata::Identify;
use sandrail_wire::{MacAddr, TargetAddr};

use super::api::{
    InterfaceId, PinnedMacs, RestartEvidence, SessionRefusal, SessionState, TargetInfo,
};
use super::config::{INTERFACES_MAX, InitiatorConfig, PATHS_MAX};
use super::list::{List, NONE};
use super::path::{Path, Predecessor};
use super::ranges::ClosedRanges;
use crate::time::Instant;

/// How far a target is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The place is free.
    Free,
    /// Asking by broadcast who answers for the address; with somebody found, waiting until then for a contradiction.
    Asking {
        /// When enough was waited for others.
        gather_until: Option<Instant>,
    },
    /// Waiting for IDENTIFY.
    Identifying,
    /// Finding out what payload the paths carry.
    Sizing,
    /// Requests are welcome.
    Up,
    /// Detached; waiting until all copies of writes are accounted for.
    Draining,
}

/// A target, or a free place for one.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) phase: Phase,
    pub(super) addr: TargetAddr,
    pub(super) pinned: PinnedMacs,
    /// Nobody named a MAC: the first to answer was pinned.
    pub(super) pinned_by_answer: bool,
    pub(super) identify: Option<Identify>,
    pub(super) buffer_count: u16,
    pub(super) firmware: u16,
    pub(super) sectors_max: u8,
    pub(super) paths: [Option<Path>; PATHS_MAX],
    /// Where the search for a path with something to send begins, so that none starves.
    pub(super) next_path: u8,
    /// Requests with something never sent.
    pub(super) ready: List,
    /// Writes whose range is closed.
    pub(super) waiting: List,
    pub(super) ranges: ClosedRanges,
    /// Writes acknowledged, and how many of them a flush covers.
    pub(super) write_mark: u64,
    pub(super) flushed_mark: u64,
    /// Flushes fail because of this until the owner accepts the loss (S7).
    pub(super) suspect: Option<RestartEvidence>,
    /// It announces sessions: WRITEs and FLUSHes go out with one or not at all.
    pub(super) speaks: bool,
    /// The session last granted, and the loss mark that came with it.
    pub(super) session: Session,
    pub(super) loss_mark: u64,
    /// The number that it has given to this shard's life (S10).
    pub(super) birth: Birth,
    /// Why we don't even ask for one.
    pub(super) unasked: Option<SessionRefusal>,
    /// How all paths together stand, as last told.
    pub(super) standing: SessionState,
    /// An IDENTIFY of our own is wanted, or under way.
    pub(super) identify_due: bool,
    pub(super) identify_out: bool,
    pub(super) attach_deadline: Instant,
    /// When to ask by broadcast next, on which interfaces that is due, and the commands that do.
    pub(super) ask_at: Instant,
    pub(super) ask_due: [bool; INTERFACES_MAX],
    pub(super) ask_slots: [u16; INTERFACES_MAX],
    /// The last impostor told of.
    pub(super) rogue: Option<(MacAddr, Instant)>,
}

impl Target {
    pub(super) fn free() -> Self {
        Self {
            phase: Phase::Free,
            addr: TargetAddr::BROADCAST,
            pinned: PinnedMacs::first_to_answer(),
            pinned_by_answer: false,
            identify: None,
            buffer_count: 0,
            firmware: 0,
            sectors_max: 0,
            paths: [None; PATHS_MAX],
            next_path: 0,
            ready: List::EMPTY,
            waiting: List::EMPTY,
            ranges: ClosedRanges::with_capacity(0),
            write_mark: 0,
            flushed_mark: 0,
            suspect: None,
            speaks: false,
            session: Session::NONE,
            loss_mark: 0,
            birth: Birth::NONE,
            unasked: None,
            standing: SessionState::Unspoken,
            identify_due: false,
            identify_out: false,
            attach_deadline: Instant::ZERO,
            ask_at: Instant::ZERO,
            ask_due: [false; INTERFACES_MAX],
            ask_slots: [NONE; INTERFACES_MAX],
            rogue: None,
        }
    }

    pub(super) fn path(&self, path: u8) -> &Path {
        self.paths[usize::from(path)]
            .as_ref()
            .expect("commands name existing paths")
    }

    pub(super) fn path_mut(&mut self, path: u8) -> &mut Path {
        self.paths[usize::from(path)]
            .as_mut()
            .expect("commands name existing paths")
    }

    pub(super) fn find_path(&self, interface: InterfaceId, mac: MacAddr) -> Option<u8> {
        let fits = |path: &Option<Path>| {
            path.as_ref()
                .is_some_and(|path| path.interface == interface && path.mac == mac)
        };
        self.paths
            .iter()
            .position(fits)
            .and_then(|place| u8::try_from(place).ok())
    }

    pub(super) fn sectors(&self) -> u64 {
        self.identify
            .as_ref()
            .map_or(0, |identify| identify.sectors)
    }

    /// Whether it announces this of Sandrail's vendor command.
    pub(super) fn announces(&self, features: Features) -> bool {
        self.identify
            .and_then(|identify| identify.sandrail)
            .is_some_and(|theirs| theirs.contains(features))
    }

    /// Whether it promises to flush. vblade sets bit 12 of words 83 and 86 (FLUSH) and does nothing on FLUSH: only bit 13 (FLUSH EXT)
    /// together with it is a promise.
    pub(super) fn claims_flush(&self) -> bool {
        self.identify
            .as_ref()
            .is_some_and(|identify| identify.flush && identify.flush_ext)
    }

    /// Frames that may be under way on one path: the target's buffers, fairly shared.
    pub(super) fn window_cap(&self, config: &InitiatorConfig) -> u16 {
        (self.buffer_count / config.window_sharers).clamp(1, config.window_max)
    }

    /// Whether the station of a path takes another frame: its buffers are there once, however many interfaces reach it.
    pub(super) fn station_has_room(&self, config: &InitiatorConfig, path: &Path) -> bool {
        let here = |other: &&Path| other.mac == path.mac;
        let flying: u16 = self
            .paths
            .iter()
            .flatten()
            .filter(here)
            .map(|other| other.flying.len())
            .sum();
        flying < self.window_cap(config)
    }

    /// Takes over what a config response says; whether that differs from before.
    pub(super) fn note_config(&mut self, config: &InitiatorConfig, told: &ConfigRepr<'_>) -> bool {
        let changed = self.buffer_count != told.buffer_count || self.firmware != told.firmware;
        self.buffer_count = told.buffer_count;
        self.firmware = told.firmware;
        self.sectors_max = told.sectors_per_command();
        let cap = self.window_cap(config);
        for path in self.paths.iter_mut().flatten() {
            path.window.set_cap(cap);
        }
        changed
    }

    /// Adds a path; its number, or `None` when there is no room.
    pub(super) fn add_path(
        &mut self,
        config: &InitiatorConfig,
        interface: InterfaceId,
        mac: MacAddr,
        now: Instant,
        predecessor_until: Option<Instant>,
    ) -> Option<u8> {
        let place = self.paths.iter().position(Option::is_none)?;
        let mut path = Path::new(interface, mac, self.window_cap(config), now);
        if let Some(arrived_at) = predecessor_until {
            path.predecessor = Some(Predecessor {
                arrived_at,
                passed_at: None,
            });
            path.want_probe(arrived_at.max(now));
        }
        self.paths[place] = Some(path);
        u8::try_from(place).ok()
    }

    /// Whether nothing of an earlier process can arrive any more, on any path.
    pub(super) fn takes_writes(&self) -> bool {
        self.paths
            .iter()
            .flatten()
            .all(|path| path.predecessor.is_none())
    }

    pub(super) fn info(&self, config: &InitiatorConfig) -> Option<TargetInfo> {
        Some(TargetInfo {
            addr: self.addr,
            identify: self.identify?,
            buffer_count: self.buffer_count,
            firmware: self.firmware,
            sectors_max: self.sectors_max,
            session: self.standing,
            paths: self.paths.map(|path| path.map(|path| path.info(config))),
        })
    }
}
