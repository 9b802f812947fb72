//! A thread's way to the pages.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ahead::Run;
use super::bytes::View;
use super::config::{Inadmissible, Refused};
use super::guards::{Exclusive, Optimistic, Pin, Shared};
use super::inner::{Asked, Inner, Purpose};
use super::page::PageId;
use super::residency::Obstacle;
use super::stat::HandleCounts;
use super::wait::Acquire;

/// How often an optimistic read is repeated before it gives way to whoever keeps changing the page.
const TRIES_MAX: usize = 8;

/// What came of a request to bring a page in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// It is there, or on its way.
    Resident,
    /// It was not, and the shard has been asked for it.
    Asked,
    /// No frame can be had now.
    NoFrame,
    /// There is no such page.
    Refused(Inadmissible),
}

/// One thread's access to a cache: counts its hits, and can be sent to another thread, but not shared.
///
/// No access may be waited for while the same thread holds a latch of the same page: it would wait for itself. This
/// holds for a second shared latch, too, since it queues behind whoever waits for the exclusive one.
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
    counts: Arc<HandleCounts>,
    shard: u32,
    /// What a use adds up to: 0 while scanning.
    most: Cell<i8>,
    /// Whether it reads one page after the other.
    pub(crate) run: Run,
    not_shared: PhantomData<Cell<()>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(inner: Arc<Inner>, shard: u32) -> Self {
        Self {
            counts: inner.register(shard),
            most: Cell::new(inner.used_max),
            run: Run::new(inner.config.ahead_pages_max),
            inner,
            shard,
            not_shared: PhantomData,
        }
    }

    /// While scanning, hits do not make pages look popular.
    pub fn set_scanning(&self, scanning: bool) {
        self.most
            .set(if scanning { 0 } else { self.inner.used_max });
    }

    pub(crate) fn counts(&self) -> &HandleCounts {
        &self.counts
    }

    /// The page to read without a latch, if it is resident: nothing is written but this handle's own count, and, a few
    /// times, the page's use.
    ///
    /// # Errors
    /// [`Refused`], never for a page that is resident and neither latched exclusively nor revoked.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "what it returns would go through memory otherwise; measured"
    )]
    pub fn peek(&self, page: PageId) -> Result<Optimistic<'_>, Refused> {
        let inner = &*self.inner;
        let (frame, place, seen) = inner.residency.peek(page, page.hash()).map_err(refused)?;
        if inner.touch(frame, self.most.get()) {
            self.used_ahead(page);
        }
        self.counts.hits.add_one();
        Ok(Optimistic {
            inner,
            page,
            frame,
            place,
            seen,
        })
    }

    /// Reads a resident page without a latch. `read` may be called several times, on bytes that are changing; only a
    /// result of unchanged bytes is returned. A `read` that follows offsets in the page compares them with its length.
    ///
    /// # Errors
    /// [`Refused::Busy`] also for a page that keeps changing.
    #[inline]
    pub fn optimistic<R>(
        &self,
        page: PageId,
        mut read: impl FnMut(View<'_>) -> R,
    ) -> Result<R, Refused> {
        let guard = self.peek(page)?;
        let result = read(guard.view());
        if guard.check() {
            return Ok(result);
        }
        self.repeat(page, read)
    }

    #[cold]
    #[inline(never)]
    fn repeat<R>(&self, page: PageId, mut read: impl FnMut(View<'_>) -> R) -> Result<R, Refused> {
        for _ in 1..TRIES_MAX {
            self.counts.repeats.add_one();
            let guard = self.peek(page)?;
            let result = read(guard.view());
            if guard.check() {
                return Ok(result);
            }
        }
        Err(Refused::Busy)
    }

    /// Tells the processor that the page's place in the table will be looked at soon. For callers that know their next
    /// pages.
    #[inline]
    pub fn hint(&self, page: PageId) {
        self.inner.residency.hint(page.hash());
    }

    /// A shared latch, if it can be had now.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn try_shared(&self, page: PageId) -> Result<Shared<'_>, Refused> {
        self.shared_now(page).map_err(refused)
    }

    pub(crate) fn shared_now(&self, page: PageId) -> Result<Shared<'_>, Obstacle> {
        let inner = &*self.inner;
        let (frame, _) = inner.residency.share(page, page.hash())?;
        if inner.touch(frame, self.most.get()) {
            self.used_ahead(page);
        }
        self.counts.hits.add_one();
        Ok(Shared { inner, page, frame })
    }

    /// The exclusive latch, if it can be had now.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn try_exclusive(&self, page: PageId) -> Result<Exclusive<'_>, Refused> {
        self.exclusive_now(page).map_err(refused)
    }

    pub(crate) fn exclusive_now(&self, page: PageId) -> Result<Exclusive<'_>, Obstacle> {
        let inner = &*self.inner;
        let frame = inner.exclude(page)?;
        if inner.touch(frame, self.most.get()) {
            self.used_ahead(page);
        }
        self.counts.hits.add_one();
        Ok(Exclusive {
            inner,
            page,
            frame,
            changed: false,
            new: false,
        })
    }

    /// A pin, if it can be had now.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn try_pin(&self, page: PageId) -> Result<Pin<'_>, Refused> {
        self.pin_now(page).map_err(refused)
    }

    pub(crate) fn pin_now(&self, page: PageId) -> Result<Pin<'_>, Obstacle> {
        let inner = &*self.inner;
        let (frame, _) = inner.residency.pin(page, page.hash())?;
        if inner.touch(frame, self.most.get()) {
            self.used_ahead(page);
        }
        self.counts.hits.add_one();
        Ok(Pin { inner, page, frame })
    }

    /// A shared latch; the page is read if it is not resident. Await it, or [`Acquire::wait`] for it.
    pub fn shared(&self, page: PageId) -> Acquire<'_, Shared<'_>> {
        Acquire::new(self, page)
    }

    /// The exclusive latch, as [`Handle::shared`].
    pub fn exclusive(&self, page: PageId) -> Acquire<'_, Exclusive<'_>> {
        Acquire::new(self, page)
    }

    /// A pin, as [`Handle::shared`].
    pub fn pin(&self, page: PageId) -> Acquire<'_, Pin<'_>> {
        Acquire::new(self, page)
    }

    /// Has the page read if it is not resident, and does not wait for it.
    pub fn fetch(&self, page: PageId) -> Fetch {
        match self.inner.ask_shard(page, Purpose::Read) {
            Asked::Frame(_) => Fetch::Asked,
            Asked::Exists => Fetch::Resident,
            Asked::NoFrame => Fetch::NoFrame,
            Asked::Refused(why) => Fetch::Refused(why),
        }
    }

    /// A page that is not resident: it is asked for, and if pages were asked for in their order so far, so are the next ones.
    pub(crate) fn ask(&self, page: PageId) -> Asked {
        let asked = self.inner.ask_shard(page, Purpose::Read);
        if let Asked::Frame(_) = asked {
            self.missed(page);
        }
        asked
    }

    /// A page that nothing has to be read for: of zeros, latched, and dirty when it is released.
    ///
    /// # Errors
    /// [`Refused::Busy`] if it is resident, [`Refused::NoFrame`] if no frame can be had.
    pub fn create(&self, page: PageId) -> Result<Exclusive<'_>, Refused> {
        if !self.inner.owner.writable(page) {
            return Err(Refused::ReadOnly);
        }
        match self.inner.ask(page, Purpose::Create) {
            Asked::Exists => Err(Refused::Busy),
            Asked::NoFrame => Err(Refused::NoFrame),
            Asked::Refused(why) => Err(Refused::Inadmissible(why)),
            Asked::Frame(frame) => {
                for word in self.inner.memory().words(frame) {
                    // Relaxed: the latch's release publishes it.
                    word.store(0, Ordering::Relaxed);
                }
                Ok(Exclusive {
                    inner: &self.inner,
                    page,
                    frame,
                    changed: true,
                    new: true,
                })
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.registry.close(self.shard, &self.counts);
    }
}

#[cold]
fn refused(obstacle: Obstacle) -> Refused {
    match obstacle {
        Obstacle::Absent => Refused::Absent,
        Obstacle::Busy(..) => Refused::Busy,
        Obstacle::Revoked => Refused::Revoked,
        Obstacle::ReadOnly => Refused::ReadOnly,
        Obstacle::Pins => Refused::Pins,
    }
}
