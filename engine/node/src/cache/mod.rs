//! The node's cache: volumes whose pages are read and written by the shards, and used by any thread.
//!
//! docs/cache.md tells how the cache works; what is here binds it to targets.

mod carrier;
mod error;
mod settings;
mod volumes;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use sandrail_memory::cache::{Cache, CacheShard, Handle, PageId, Revocation, WriteError};
use sandrail_memory::{Arena, Backing, BufferPool, Placement};
use sandrail_proto::aoe::initiator::{Durability, IoError, RestartEvidence};
use sandrail_proto::time::Instant;

use crate::blocking::BlockingError;
use crate::client::Client;
use crate::clock;
use crate::config::{CONTROL_GRACE, Idle};
use crate::control::Control;
use crate::hub::Hub;
use crate::node::push_control;
use crate::request::RequestError;

pub(crate) use carrier::Carrier;
pub(crate) use error::ShardFlushError;
pub use error::{BindError, FlushError, GoneUnflushed, UnbindError};
pub use settings::{CacheSettings, NoRules, PageRules};
pub use volumes::Volume;
pub(crate) use volumes::{NodeOwner, Volumes};

/// How often somebody who waits for pages to go looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// What all who use the cache share with the shards.
#[derive(Debug)]
pub(crate) struct CacheShared {
    pub(crate) volumes: Arc<Volumes>,
    errors: ArrayQueue<WriteError>,
    errors_lost: AtomicU64,
}

impl CacheShared {
    /// Keeps an error for whoever asks; the oldest goes when there are too many.
    pub(crate) fn tell(&self, error: WriteError) {
        if self.errors.force_push(error).is_some() {
            self.errors_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a volume's dirty pages are when it is let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbind {
    /// They keep it bound.
    Refuse,
    /// They are written, and the target is flushed.
    Flush,
    /// They are forgotten.
    Discard,
}

/// What the cache's memory is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMemory {
    /// Length of a page, in bytes.
    pub page_bytes: usize,
    /// Frames for pages, over all shards.
    pub frames: u32,
    /// All of it, in bytes.
    pub arena_bytes: usize,
    /// The pages that it lies on, and why not on larger ones.
    pub backing: Backing,
    /// What became of the other wishes.
    pub placement: Placement,
}

/// A node's cache, for any thread; clones are the same one.
///
/// ```
/// use sandrail_memory::cache::{AccessError, PageId};
/// use sandrail_node::{Node, TargetHandle, Volume};
/// use sandrail_wire::Lba;
/// use std::time::Duration;
///
/// # fn example(node: &Node, target: TargetHandle) -> Result<(), Box<dyn std::error::Error>> {
/// let cache = node.cache().ok_or("NodeConfig::cache was not set")?;
/// // The first 64 MiB of the target are volume 1.
/// cache.bind(Volume { number: 1, target, first: Lba(0), sectors: 131_072, writable: true })?;
///
/// // One handle a thread.
/// let handle = cache.handle();
/// let page = PageId::new(1, 42).ok_or("too large")?;
/// handle.exclusive(page).wait()?.write(100, b"hello");
/// assert_eq!(&handle.shared(page).wait()?.bytes()[100..105], b"hello");
///
/// // Without a latch, and without waiting.
/// let first = handle.optimistic(page, |view| view.u64_at(0));
///
/// // On the target's disk, whatever happens now.
/// cache.flush_volume(1, Duration::from_secs(10))?;
/// # Ok(()) }
/// ```
///
/// Waiting is also a future, for any executor or none:
///
/// ```
/// use sandrail_memory::cache::{AccessError, Handle, PageId};
/// use std::pin::pin;
/// use std::sync::Arc;
/// use std::task::{Context, Poll, Wake, Waker};
/// use std::thread::{self, Thread};
///
/// struct Unpark(Thread);
/// impl Wake for Unpark {
///     fn wake(self: Arc<Self>) {
///         self.0.unpark();
///     }
/// }
///
/// /// Two pages, read at the same time.
/// fn both(handle: &Handle, pages: [PageId; 2]) -> Result<[u64; 2], AccessError> {
///     let waker = Waker::from(Arc::new(Unpark(thread::current())));
///     let mut context = Context::from_waker(&waker);
///     let mut futures = pages.map(|page| Box::pin(handle.pin(page)));
///     let mut pins = [const { None }; 2];
///     while pins.iter().any(Option::is_none) {
///         for (future, pin) in futures.iter_mut().zip(&mut pins) {
///             if pin.is_none() && let Poll::Ready(result) = future.as_mut().poll(&mut context) {
///                 *pin = Some(result?);
///             }
///         }
///         if pins.iter().any(Option::is_none) {
///             thread::park();
///         }
///     }
///     Ok(pages.map(|page| handle.optimistic(page, |view| view.u64_at(0)).unwrap_or(0)))
/// }
/// ```
#[derive(Clone)]
pub struct NodeCache {
    hub: Arc<Hub>,
    pool: BufferPool,
    client_idle: Idle,
    cache: Cache,
    pub(crate) shared: Arc<CacheShared>,
    memory: Arc<CacheMemory>,
    next_handle: Arc<AtomicU32>,
}

impl fmt::Debug for NodeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCache")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl NodeCache {
    /// Takes the memory.
    pub(crate) fn new(
        settings: &CacheSettings,
        hub: &Arc<Hub>,
        pool: &BufferPool,
        client_idle: Idle,
        errors: usize,
    ) -> Result<(Self, Vec<CacheShard>), crate::node::NodeError> {
        let config = settings.config(hub.doors.len());
        let arena_bytes = config.arena_bytes();
        let mut arena = Arena::with_options(arena_bytes, &settings.arena)?;
        let volumes = Arc::new(Volumes::new(settings));
        let owner = NodeOwner {
            hub: Arc::clone(hub),
            volumes: Arc::clone(&volumes),
            rules: Arc::clone(&settings.rules),
        };
        let (cache, shards) = Cache::new(config, &mut arena, Box::new(owner))?;
        let this = Self {
            hub: Arc::clone(hub),
            pool: pool.clone(),
            client_idle,
            cache,
            shared: Arc::new(CacheShared {
                volumes,
                errors: ArrayQueue::new(errors),
                errors_lost: AtomicU64::new(0),
            }),
            memory: Arc::new(CacheMemory {
                page_bytes: settings.page_bytes,
                frames: settings.frames,
                arena_bytes: arena.len_bytes(),
                backing: arena.backing().clone(),
                placement: arena.placement().clone(),
            }),
            next_handle: Arc::new(AtomicU32::new(0)),
        };
        Ok((this, shards))
    }

    /// A way to the pages, for one thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let shards = self.cache.config().shards;
        let shard = self.next_handle.fetch_add(1, Ordering::Relaxed) % shards;
        self.cache.handle(shard)
    }

    /// What the memory is made of.
    #[must_use]
    pub fn memory(&self) -> &CacheMemory {
        &self.memory
    }

    /// Lets a stretch of a target's sectors be used as pages.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(&self, volume: Volume) -> Result<(), BindError> {
        let volumes = &self.shared.volumes;
        let _control = volumes.control();
        if volume.number >= volumes.count() {
            return Err(BindError::Number {
                number: volume.number,
                count: volumes.count(),
            });
        }
        if !volumes.is_free(volume.number) {
            return Err(BindError::InUse(volume.number));
        }
        let page_sectors = volumes.page_sectors();
        let whole = |sectors: u64| sectors.is_multiple_of(page_sectors);
        if volume.sectors == 0 || !whole(volume.sectors) || !whole(volume.first.0) {
            return Err(BindError::Pages {
                first: volume.first.0,
                sectors: volume.sectors,
                page_sectors,
            });
        }
        let device_sectors = self.device_sectors(&volume)?;
        let end = volume.first.0.checked_add(volume.sectors);
        if end.is_none_or(|end| end > device_sectors) {
            return Err(BindError::PastEnd {
                first: volume.first.0,
                sectors: volume.sectors,
                device_sectors,
            });
        }
        let overlaps = |other: &Volume| {
            other.target == volume.target
                && other.first.0 < volume.first.0 + volume.sectors
                && volume.first.0 < other.first.0 + other.sectors
        };
        if let Some(other) = volumes.all().find(overlaps) {
            return Err(BindError::Overlaps(other.number));
        }
        volumes.bind(&volume);
        Ok(())
    }

    fn device_sectors(&self, volume: &Volume) -> Result<u64, BindError> {
        if !self.hub.is_attached(volume.target) {
            return Err(BindError::NoTarget);
        }
        let (reply, answer) = mpsc::channel();
        let handle = volume.target;
        if !push_control(&self.hub.doors[0], Control::Target { handle, reply }) {
            return Err(BindError::Silent);
        }
        match answer.recv_timeout(CONTROL_GRACE) {
            Ok(Some(info)) => Ok(info.identify.sectors),
            Ok(None) => Err(BindError::NoTarget),
            Err(_) => Err(BindError::Silent),
        }
    }

    /// The volumes that are bound, or being let go of.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        self.shared.volumes.all().collect()
    }

    /// Lets a volume go. No page of it can be had any more, and when nobody has one, its number is free.
    ///
    /// # Errors
    /// [`UnbindError`]. After [`UnbindError::Held`] it is closed, but not free: to be called again. After
    /// [`UnbindError::Flush`] it is as it was, but for pages that somebody held and changed meanwhile.
    pub fn unbind(&self, number: u32, how: Unbind, timeout: Duration) -> Result<(), UnbindError> {
        let deadline = clock::now() + timeout;
        let volumes = &self.shared.volumes;
        let _control = volumes.control();
        if volumes.is_free(number) {
            return Err(UnbindError::Unbound(number));
        }
        if how == Unbind::Flush {
            // While it is still open, so that what can't be written can be told as what it is.
            self.flush_until(number, deadline)?;
        }
        if how == Unbind::Refuse {
            let resident = self.cache.resident(number);
            if resident.dirty > 0 {
                return Err(UnbindError::Dirty {
                    pages: resident.dirty,
                    one: resident.one_dirty,
                });
            }
            if volumes.is_unflushed(number) {
                // While the pages are still there, so that what the target has lost can be written again.
                self.flush_target(number, deadline, volumes.losses(number))?;
            }
        }
        volumes.close(number);
        loop {
            let held = self.cache.revoke_volume(number, how == Unbind::Discard);
            if held == 0 && self.cache.resident(number).pages == 0 {
                break;
            }
            if clock::now() >= deadline {
                return Err(UnbindError::Held {
                    pages: held,
                    error: self.shared.errors.pop(),
                });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        if how != Unbind::Discard && volumes.is_unflushed(number) {
            // What became dirty after the first flush, or what an earlier call could not have flushed.
            self.flush_target(number, deadline, volumes.losses(number))?;
        }
        volumes.free(number);
        Ok(())
    }

    /// Has everything of a volume written that is dirty now, and the target flushed: what the target says of how durable it is
    /// now. Blocks.
    ///
    /// # Errors
    /// [`FlushError`]. What could not be written stays dirty. After [`FlushError::Lost`] see
    /// [`NodeCache::rewrite_unflushed`].
    pub fn flush_volume(&self, number: u32, timeout: Duration) -> Result<Durability, FlushError> {
        self.flush_until(number, clock::now() + timeout)
    }

    pub(crate) fn flush_until(
        &self,
        number: u32,
        deadline: Instant,
    ) -> Result<Durability, FlushError> {
        if self.shared.volumes.is_free(number) {
            return Err(FlushError::Unbound(number));
        }
        let losses = self.shared.volumes.losses(number);
        self.write_all(number, deadline)?;
        self.flush_target(number, deadline, losses)
    }

    /// Has every shard write its dirty pages.
    fn write_all(&self, number: u32, deadline: Instant) -> Result<(), FlushError> {
        let mut answers = Vec::new();
        for door in &self.hub.doors {
            let (reply, answer) = mpsc::channel();
            let control = Control::FlushPages {
                volume: number,
                deadline,
                reply,
            };
            if !push_control(door, control) {
                return Err(FlushError::Silent);
            }
            answers.push(answer);
        }
        for answer in answers {
            let left = deadline.saturating_since(clock::now()) + CONTROL_GRACE;
            match answer.recv_timeout(left) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {
                    return Err(FlushError::Silent);
                }
            }
        }
        Ok(())
    }

    /// Flushes the target for what was written since so many losses had been accepted.
    fn flush_target(
        &self,
        number: u32,
        deadline: Instant,
        losses: u32,
    ) -> Result<Durability, FlushError> {
        let volumes = &self.shared.volumes;
        let volume = volumes.get(number).ok_or(FlushError::Unbound(number))?;
        let lost = || {
            let last = self.hub.targets[volume.target.place()].loss.last();
            FlushError::Lost(last.unwrap_or(RestartEvidence::Silence))
        };
        if volumes.is_lossy(number, losses) {
            return Err(lost());
        }
        let covers = volumes.flush_begins(number);
        let (hub, pool) = (Arc::clone(&self.hub), self.pool.clone());
        let mut client = Client::new(hub, pool, 1, self.client_idle).map_err(FlushError::Start)?;
        let left = deadline.saturating_since(clock::now());
        client.set_request_timeout(left.max(Duration::from_millis(1)));
        match client.flush(volume.target) {
            // Accepted, and perhaps written again, while the flush was under way: it covers neither.
            Ok(_) if volumes.is_lossy(number, losses) => Err(lost()),
            Ok(durability) => {
                volumes.flush_ends(number, covers);
                Ok(durability)
            }
            Err(BlockingError::Failed(RequestError::Io(IoError::UnflushedLost(evidence)))) => {
                Err(FlushError::Lost(evidence))
            }
            Err(error) => Err(FlushError::Target(error)),
        }
    }

    /// After a loss (S7): makes all pages dirty again that were written and not flushed, so that the next flush writes
    /// them anew. How many these are.
    ///
    /// The order matters. First [`crate::Node::accept_loss`], so that a further loss is noticed; then this; then
    /// [`NodeCache::flush_volume`].
    ///
    /// # Errors
    /// [`GoneUnflushed`] when such pages have left the cache meanwhile: the target's copy, if there is one, is older than what was
    /// written. The other pages are dirty again all the same.
    pub fn rewrite_unflushed(&self, number: u32) -> Result<u64, GoneUnflushed> {
        let volumes = &self.shared.volumes;
        let losses = volumes.losses(number);
        let flushed = volumes.flushed(number);
        let handle = self.handle();
        let mut again = 0;
        for page in self.cache.unflushed(number, flushed) {
            // An error means that the page is gone by now: it is counted below. A shared latch, since a page that may only be
            // read by now was written before, and is as lost.
            if let Ok(latch) = handle.shared(page).wait() {
                latch.rewrite();
                again += 1;
            }
        }
        // Only now, so that no flush succeeds before all are dirty; and for what had been lost when this began.
        volumes.loss_rewritten(number, losses);
        match volumes.gone_unflushed(number) {
            0 => Ok(again),
            pages => Err(GoneUnflushed {
                number,
                pages,
                again,
            }),
        }
    }

    /// Takes a page out of the cache, so that its next use reads it. Changes are written first, or with `discard` forgotten.
    /// Waits for those who have it. `false` when that takes too long; it goes when they have let go of it.
    #[must_use]
    pub fn invalidate(&self, page: PageId, discard: bool, timeout: Duration) -> bool {
        let deadline = clock::now() + timeout;
        while self.cache.revoke(page, discard) == Revocation::Pending {
            if clock::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        true
    }

    /// What was last said to a page's write, if that failed and has not succeeded since.
    #[must_use]
    pub fn write_error(&self, page: PageId) -> Option<WriteError> {
        self.cache.write_error(page)
    }

    /// The oldest failed write that nobody has fetched. Its page is dirty still, and is tried again.
    #[must_use]
    pub fn next_error(&self) -> Option<WriteError> {
        self.shared.errors.pop()
    }

    /// Errors dropped since nobody fetched them.
    #[must_use]
    pub fn errors_lost(&self) -> u64 {
        self.shared.errors_lost.load(Ordering::Relaxed)
    }

    /// Dirty pages of a volume, those on their way included. Looks at every frame.
    #[must_use]
    pub fn dirty_pages(&self, number: u32) -> usize {
        self.cache.resident(number).dirty
    }

    /// Writes and flushes what is not, of all volumes: what is left of each that could not be.
    pub(crate) fn flush_all(&self, deadline: Instant) -> Vec<(u32, FlushError)> {
        let mut failed = Vec::new();
        for volume in self.volumes() {
            let number = volume.number;
            let dirty = self.cache.resident(number).dirty > 0;
            if (dirty || self.shared.volumes.is_unflushed(number))
                && let Err(error) = self.flush_until(number, deadline)
            {
                failed.push((number, error));
            }
        }
        failed
    }

    /// Volumes of which pages were written that no flush covers.
    pub(crate) fn unflushed_all(&self) -> Vec<u32> {
        let numbers = self.shared.volumes.all().map(|volume| volume.number);
        let unflushed = |number: &u32| self.shared.volumes.is_unflushed(*number);
        numbers.filter(unflushed).collect()
    }

    /// Dirty pages of all volumes.
    pub(crate) fn dirty_all(&self) -> usize {
        let volumes = self.volumes();
        let dirty = volumes.iter().map(|volume| self.dirty_pages(volume.number));
        dirty.sum()
    }
}
