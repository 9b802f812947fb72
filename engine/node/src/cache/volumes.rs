//! Which sectors a volume's pages are: a table that all threads read, and that control calls change.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandrail_memory::cache::{Inadmissible, Mismatch, Owner, PageId};
use sandrail_wire::Lba;
use sandrail_wire::aoe::SHARDS_MAX;

use super::settings::{CacheSettings, PageRules};
use crate::hub::{Hub, TargetHandle};

const SHARDS: usize = SHARDS_MAX as usize;

/// Nothing is bound to the number.
const FREE: u32 = 0;
/// Pages come and go.
const BOUND: u32 = 1;
/// No page comes any more; those that are there are written and go.
const CLOSING: u32 = 2;

/// A stretch of a target's sectors, as pages numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its number: the one that pages carry.
    pub number: u32,
    /// Where it lies.
    pub target: TargetHandle,
    /// The sector of the target with which page 0 begins; a multiple of a page's sectors.
    pub first: Lba,
    /// Its length in sectors; a multiple of a page's.
    pub sectors: u64,
    /// Whether its pages may be changed.
    pub writable: bool,
}

/// One number's place. What it says of the target changes only while it is free, and no page of it is in the cache.
#[derive(Debug, Default)]
struct Place {
    state: AtomicU32,
    target_index: AtomicU32,
    target_generation: AtomicU32,
    first: AtomicU64,
    pages: AtomicU64,
    writable: AtomicBool,
    /// What a page carries that is written now. Never goes back, whatever is bound.
    epoch: AtomicU32,
    /// The last of these that a flush covers.
    flushed: AtomicU32,
    /// The last that a page carried which was written, and one which left the cache since.
    written: AtomicU32,
    gone: AtomicU32,
    /// Pages that left the cache after they were written and before the next flush.
    gone_pages: AtomicU64,
    /// Losses of its target that were accepted, and how many of them its pages have been written again for.
    losses: AtomicU32,
    rewritten: AtomicU32,
    /// Write requests and reads under way by shard; written by that shard alone.
    writes: [AtomicU32; SHARDS],
    reads: [AtomicU32; SHARDS],
}

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    places: Box<[Place]>,
    page_sectors: u64,
    writes_max: u32,
    reads_max: u32,
    /// Held by control calls that bind, unbind and detach.
    control: Mutex<()>,
}

impl Volumes {
    pub(crate) fn new(settings: &CacheSettings) -> Self {
        let place = |_| Place {
            epoch: AtomicU32::new(1),
            ..Place::default()
        };
        Self {
            places: (0..settings.volumes_max).map(place).collect(),
            page_sectors: settings.page_sectors(),
            writes_max: settings.writes_under_way_max,
            reads_max: settings.reads_under_way_max,
            control: Mutex::new(()),
        }
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, ()> {
        // Nothing is left half done by a panic: places change by one store.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn page_sectors(&self) -> u64 {
        self.page_sectors
    }

    fn place(&self, number: u32) -> Option<&Place> {
        self.places.get(usize::try_from(number).ok()?)
    }

    /// Binds a number that is free.
    pub(crate) fn bind(&self, volume: &Volume) {
        let Some(place) = self.place(volume.number) else {
            return;
        };
        let index = u32::from(volume.target.index);
        place.target_index.store(index, Ordering::Relaxed);
        let generation = volume.target.generation;
        place.target_generation.store(generation, Ordering::Relaxed);
        place.first.store(volume.first.0, Ordering::Relaxed);
        let pages = volume.sectors / self.page_sectors;
        place.pages.store(pages, Ordering::Relaxed);
        place.writable.store(volume.writable, Ordering::Relaxed);
        // What was written to another volume of this number is no concern of this one.
        let epoch = place.epoch.fetch_add(1, Ordering::Relaxed);
        place.flushed.store(epoch, Ordering::Relaxed);
        place.gone_pages.store(0, Ordering::Relaxed);
        let losses = place.losses.load(Ordering::Relaxed);
        place.rewritten.store(losses, Ordering::Relaxed);
        // Release: partner is the acquire in `state`.
        place.state.store(BOUND, Ordering::Release);
    }

    /// No page of the volume comes into the cache from now on.
    pub(crate) fn close(&self, number: u32) {
        if let Some(place) = self.place(number) {
            // SeqCst: it comes before the look for the volume's pages; partner is the fence of who enters one.
            place.state.store(CLOSING, Ordering::SeqCst);
        }
    }

    /// Its pages are gone.
    pub(crate) fn free(&self, number: u32) {
        if let Some(place) = self.place(number) {
            place.state.store(FREE, Ordering::Release);
        }
    }

    fn state(&self, number: u32) -> u32 {
        self.place(number)
            .map_or(FREE, |place| place.state.load(Ordering::Acquire))
    }

    pub(crate) fn is_free(&self, number: u32) -> bool {
        self.state(number) == FREE
    }

    /// What is bound to a number, or just being let go of.
    pub(crate) fn get(&self, number: u32) -> Option<Volume> {
        let place = self.place(number)?;
        if self.state(number) == FREE {
            return None;
        }
        Some(Volume {
            number,
            target: place.target(),
            first: Lba(place.first.load(Ordering::Relaxed)),
            sectors: place.pages.load(Ordering::Relaxed) * self.page_sectors,
            writable: place.writable.load(Ordering::Relaxed),
        })
    }

    /// All that is bound.
    pub(crate) fn all(&self) -> impl Iterator<Item = Volume> + '_ {
        (0..self.count()).filter_map(|number| self.get(number))
    }

    /// Where a page lies.
    pub(crate) fn locate(&self, page: PageId) -> Option<(TargetHandle, Lba)> {
        let place = self.place(page.volume())?;
        if place.state.load(Ordering::Acquire) == FREE {
            return None;
        }
        Some((place.target(), self.lba(place, page)))
    }

    fn lba(&self, place: &Place, page: PageId) -> Lba {
        let offset = page.number().saturating_mul(self.page_sectors);
        Lba(place.first.load(Ordering::Relaxed).saturating_add(offset))
    }

    /// Counts a write request or a read that begins, or, with `false`, ends. Only the shard itself calls it.
    pub(crate) fn count_write(&self, number: u32, shard: usize, begins: bool) {
        if let Some(place) = self.place(number) {
            count(&place.writes[shard], begins);
        }
    }

    pub(crate) fn count_read(&self, number: u32, shard: usize, begins: bool) {
        if let Some(place) = self.place(number) {
            count(&place.reads[shard], begins);
        }
    }

    /// Whether the volume may have another read under way.
    pub(crate) fn takes_reads(&self, number: u32, shard: usize) -> bool {
        self.place(number)
            .is_none_or(|place| place.reads[shard].load(Ordering::Relaxed) < self.reads_max)
    }

    /// A flush of the target begins: it covers what was written with the number that is returned, or a lesser one.
    pub(crate) fn flush_begins(&self, number: u32) -> u32 {
        // SeqCst: who still takes the old number has its write's answer before the flush is sent.
        self.place(number)
            .map_or(0, |place| place.epoch.fetch_add(1, Ordering::SeqCst))
    }

    /// It has succeeded.
    pub(crate) fn flush_ends(&self, number: u32, epoch: u32) {
        if let Some(place) = self.place(number) {
            place.flushed.fetch_max(epoch, Ordering::AcqRel);
            if place.gone.load(Ordering::Acquire) <= epoch {
                place.gone_pages.store(0, Ordering::Relaxed);
            }
        }
    }

    /// A loss of the target is about to be accepted: it concerns all volumes there.
    pub(crate) fn loss_accepted(&self, target: TargetHandle) {
        for volume in self.all().filter(|volume| volume.target == target) {
            if let Some(place) = self.place(volume.number) {
                // Release: partner is the acquire in `losses`. Before flushes may succeed again.
                place.losses.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// How many losses were accepted so far.
    pub(crate) fn losses(&self, number: u32) -> u32 {
        self.place(number)
            .map_or(0, |place| place.losses.load(Ordering::Acquire))
    }

    /// What the first so many losses may have taken is dirty again, or told as gone.
    pub(crate) fn loss_rewritten(&self, number: u32, losses: u32) {
        if let Some(place) = self.place(number) {
            place.rewritten.fetch_max(losses, Ordering::AcqRel);
        }
    }

    /// Whether a flush that began after so many losses is worth nothing: one was accepted since, or before, for which the
    /// volume's pages were not written again.
    pub(crate) fn is_lossy(&self, number: u32, losses: u32) -> bool {
        self.place(number).is_some_and(|place| {
            let rewritten = place.rewritten.load(Ordering::Acquire);
            place.losses.load(Ordering::Acquire) != losses || rewritten < losses
        })
    }

    /// The number up to which everything is flushed.
    pub(crate) fn flushed(&self, number: u32) -> u32 {
        self.place(number)
            .map_or(0, |place| place.flushed.load(Ordering::Acquire))
    }

    /// Whether anything was written that no flush covers.
    pub(crate) fn is_unflushed(&self, number: u32) -> bool {
        self.place(number).is_some_and(|place| {
            place.written.load(Ordering::Acquire) > place.flushed.load(Ordering::Acquire)
        })
    }

    /// Pages of which the only copy is in the target, unflushed.
    pub(crate) fn gone_unflushed(&self, number: u32) -> u64 {
        self.place(number).map_or(0, |place| {
            let flushed = place.flushed.load(Ordering::Acquire);
            let gone = place.gone.load(Ordering::Acquire) > flushed;
            if gone {
                // At least one: a flush that ends just when a page goes may have set the count to 0 after it was counted.
                place.gone_pages.load(Ordering::Relaxed).max(1)
            } else {
                0
            }
        })
    }
}

impl Place {
    fn target(&self) -> TargetHandle {
        TargetHandle {
            index: u8::try_from(self.target_index.load(Ordering::Relaxed)).unwrap_or(u8::MAX),
            generation: self.target_generation.load(Ordering::Relaxed),
        }
    }
}

fn count(counter: &AtomicU32, begins: bool) {
    // Relaxed, and no exchange: one writer.
    let before = counter.load(Ordering::Relaxed);
    let after = if begins {
        before + 1
    } else {
        before.saturating_sub(1)
    };
    counter.store(after, Ordering::Relaxed);
}

/// What the cache asks of the node.
pub(crate) struct NodeOwner {
    pub(crate) hub: Arc<Hub>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) rules: Arc<dyn PageRules>,
}

impl Owner for NodeOwner {
    fn shard_of(&self, page: PageId, _: u32) -> u32 {
        let lba = self.volumes.locate(page).map(|(_, lba)| lba);
        let shard = lba.map_or(0, |lba| self.hub.stripe(lba).0);
        u32::try_from(shard).unwrap_or(0)
    }

    fn admit(&self, page: PageId) -> Result<(), Inadmissible> {
        if self.hub.stopping.load(Ordering::Relaxed) {
            return Err(Inadmissible::Stopped);
        }
        let place = self.volumes.place(page.volume());
        let bound = place.filter(|place| place.state.load(Ordering::Acquire) == BOUND);
        let place = bound.ok_or(Inadmissible::Unbound)?;
        let pages = place.pages.load(Ordering::Relaxed);
        if page.number() < pages {
            Ok(())
        } else {
            Err(Inadmissible::PastEnd { pages })
        }
    }

    fn writable(&self, page: PageId) -> bool {
        self.volumes
            .place(page.volume())
            .is_some_and(|place| place.writable.load(Ordering::Relaxed))
    }

    fn takes_writes(&self, page: PageId) -> bool {
        self.volumes.place(page.volume()).is_some_and(|place| {
            let (shard, _) = self.hub.stripe(self.volumes.lba(place, page));
            place.writes[shard].load(Ordering::Relaxed) < self.volumes.writes_max
        })
    }

    fn epoch(&self, page: PageId) -> u32 {
        self.volumes.place(page.volume()).map_or(0, |place| {
            let epoch = place.epoch.load(Ordering::SeqCst);
            place.written.fetch_max(epoch, Ordering::AcqRel);
            epoch
        })
    }

    fn gone_unflushed(&self, page: PageId, epoch: u32) {
        if let Some(place) = self.volumes.place(page.volume())
            && epoch > place.flushed.load(Ordering::Acquire)
        {
            place.gone_pages.fetch_add(1, Ordering::Relaxed);
            place.gone.fetch_max(epoch, Ordering::AcqRel);
        }
    }

    fn check(&self, page: PageId, bytes: &[u8]) -> Result<(), Mismatch> {
        self.rules.check(page, bytes)
    }

    fn may_write(&self, page: PageId, bytes: &[u8]) -> bool {
        self.rules.may_write(page, bytes)
    }

    fn seal(&self, page: PageId, bytes: &[u8]) -> Option<(usize, [u8; 8])> {
        self.rules.seal(page, bytes)
    }

    fn wake_shard(&self, shard: u32) {
        if let Some(door) = self.door(shard) {
            door.doorbell.notify();
        }
    }

    fn is_over(&self, shard: u32) -> bool {
        // As in `Door::push`: the fence in `notify` came before.
        self.door(shard).is_some_and(crate::hub::Door::is_closed)
    }
}

impl NodeOwner {
    fn door(&self, shard: u32) -> Option<&crate::hub::Door> {
        self.hub.doors.get(usize::try_from(shard).ok()?)
    }
}
