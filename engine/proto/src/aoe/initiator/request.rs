//! Requests from acceptance until the last copy of their writes is accounted for.

use sandrail_wire::aoe::{AOE_HEADER_BYTES, SANDRAIL_ARGS_BYTES};
use sandrail_wire::ata::SECTOR_BYTES;

use super::api::{Operation, RequestId, RestartEvidence};
use super::list::{Linked, Links, List};
use crate::time::Instant;

/// Changes of config string, mask and reservation close a pseudo-sector beyond any disk's end, one each, so that the rule
/// for overlapping WRITEs orders them, too.
const CHANGE_SECTOR: u64 = 1 << 48;

/// Where a request is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestState {
    /// On the free list.
    Free,
    /// On its target's `waiting` list: its range is closed by an earlier one.
    Waiting,
    /// On its target's `ready` list: some of it was never sent.
    Ready,
    /// All of it was sent.
    Issued,
    /// The caller has its answer; copies of its writes are unaccounted for.
    Over,
}

/// One request.
#[derive(Debug)]
pub(super) struct RequestSlot<B> {
    links: Links,
    pub(super) state: RequestState,
    pub(super) generation: u32,
    pub(super) target: u8,
    pub(super) operation: Operation,
    pub(super) buffer: Option<B>,
    pub(super) user: u64,
    pub(super) submitted_at: Instant,
    pub(super) deadline: Instant,
    /// First sector, or pseudo-sector.
    pub(super) lba: u64,
    /// Sectors; 1 for what has none.
    pub(super) sectors: u32,
    /// Sectors sent at least once.
    pub(super) cursor: u32,
    /// Sectors answered.
    pub(super) done: u32,
    /// Commands flying, slow or to be sent again.
    pub(super) commands: u16,
    /// Commands lingering.
    pub(super) lingering: u16,
    /// Frames sent.
    pub(super) copies: u32,
    /// Writes acknowledged when a flush was submitted.
    pub(super) write_mark: u64,
    /// Whether its range is in the target's closed ranges.
    pub(super) closes: bool,
    /// Why the target may have restarted since some of this WRITE was sent, or since this FLUSH was submitted while there was
    /// something to lose (S7).
    pub(super) suspect: Option<RestartEvidence>,
}

impl<B> Linked for RequestSlot<B> {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl<B> RequestSlot<B> {
    const fn free() -> Self {
        Self {
            links: Links::UNLINKED,
            state: RequestState::Free,
            generation: 0,
            target: 0,
            operation: Operation::Flush,
            buffer: None,
            user: 0,
            submitted_at: Instant::ZERO,
            deadline: Instant::ZERO,
            lba: 0,
            sectors: 0,
            cursor: 0,
            done: 0,
            commands: 0,
            lingering: 0,
            copies: 0,
            write_mark: 0,
            closes: false,
            suspect: None,
        }
    }

    pub(super) const fn end(&self) -> u64 {
        self.lba + self.sectors as u64
    }

    /// Nothing of it counts as sent any more. A FLUSH stays under its suspicion, a WRITE is sent as a whole again.
    pub(super) const fn start_over(&mut self) {
        self.cursor = 0;
        self.done = 0;
        if matches!(self.operation, Operation::Write { .. }) {
            self.suspect = None;
        }
    }

    /// Whether the caller still waits.
    pub(super) const fn is_open(&self) -> bool {
        !matches!(self.state, RequestState::Free | RequestState::Over)
    }
}

/// First sector and number of sectors of an operation with a buffer of `len_bytes`; `None` when the buffer does not fit it.
pub(super) fn extent(operation: Operation, len_bytes: usize) -> Option<(u64, u32)> {
    match operation {
        Operation::Read { lba } | Operation::Write { lba, .. } => {
            let whole = len_bytes > 0 && len_bytes.is_multiple_of(SECTOR_BYTES);
            let sectors = u32::try_from(len_bytes / SECTOR_BYTES).ok()?;
            whole.then_some((lba.0, sectors))
        }
        Operation::Flush | Operation::MaskRead => Some((CHANGE_SECTOR + 8, 1)),
        Operation::Identify => (len_bytes >= SECTOR_BYTES).then_some((CHANGE_SECTOR + 8, 1)),
        Operation::Config {
            len_bytes: used, ..
        } => {
            let fits =
                usize::from(used) <= len_bytes.min(sandrail_wire::aoe::CONFIG_STRING_BYTES_MAX);
            fits.then_some((CHANGE_SECTOR, 1))
        }
        Operation::MaskEdit { len_bytes: used } => {
            let fits = usize::from(used) <= len_bytes.min(255 * 8) && used.is_multiple_of(8);
            fits.then_some((CHANGE_SECTOR + 1, 1))
        }
        Operation::Reserve {
            len_bytes: used, ..
        }
        | Operation::ReserveEpoch {
            len_bytes: used, ..
        } => {
            let fits = usize::from(used) <= len_bytes.min(255 * 6) && used.is_multiple_of(6);
            fits.then_some((CHANGE_SECTOR + 2, 1))
        }
    }
}

/// Bytes behind the Ethernet header of a control operation's frame; 0 for the others, which fit any MTU or are cut to it.
pub(super) fn control_bytes(operation: Operation) -> usize {
    let (fixed, used) = match operation {
        Operation::Config { len_bytes, .. } => (8, len_bytes),
        Operation::MaskEdit { len_bytes } => (4, len_bytes),
        Operation::Reserve { len_bytes, .. } => (2, len_bytes),
        Operation::ReserveEpoch { len_bytes, .. } => (SANDRAIL_ARGS_BYTES, len_bytes),
        _ => return 0,
    };
    AOE_HEADER_BYTES + fixed + usize::from(used)
}

/// All requests of a shard.
#[derive(Debug)]
pub(super) struct Requests<B> {
    pub(super) table: Vec<RequestSlot<B>>,
    free: List,
}

impl<B> Requests<B> {
    pub(super) fn new(requests_max: u16) -> Self {
        let mut table: Vec<_> = (0..requests_max).map(|_| RequestSlot::free()).collect();
        let mut free = List::EMPTY;
        for slot in 0..requests_max {
            free.push_back(&mut table, slot);
        }
        Self { table, free }
    }

    pub(super) const fn free(&self) -> u16 {
        self.free.len()
    }

    pub(super) fn get(&self, slot: u16) -> &RequestSlot<B> {
        &self.table[usize::from(slot)]
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> &mut RequestSlot<B> {
        &mut self.table[usize::from(slot)]
    }

    pub(super) fn id(&self, slot: u16) -> RequestId {
        RequestId {
            slot,
            generation: self.get(slot).generation,
        }
    }

    /// A fresh slot, on no list, in state `Ready`.
    pub(super) fn allocate(&mut self) -> Option<u16> {
        let slot = self.free.pop_front(&mut self.table)?;
        let generation = self.get(slot).generation.wrapping_add(1);
        *self.get_mut(slot) = RequestSlot {
            generation,
            state: RequestState::Ready,
            ..RequestSlot::free()
        };
        Some(slot)
    }

    /// Gives a slot back that is on no list.
    pub(super) fn release(&mut self, slot: u16) {
        let request = self.get_mut(slot);
        assert_ne!(request.state, RequestState::Free, "released twice");
        assert!(
            request.commands == 0 && request.lingering == 0,
            "its commands live"
        );
        request.state = RequestState::Free;
        request.buffer = None;
        self.free.push_back(&mut self.table, slot);
    }
}
