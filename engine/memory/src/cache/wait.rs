//! Waiting for a page, as a future and as a call that blocks. The waiter joins a list of [`super::waiters`], looks
//! once more whether it has to wait, and is woken by whoever changes what it waits for.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin as PinnedMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::config::{AccessError, Inadmissible, Mismatch, ReadError, ReadFault};
use super::fault::VolumeFault;
use super::guards::{Exclusive, Pin, Shared};
use super::handle::Handle;
use super::inner::{Asked, Inner};
use super::page::PageId;
use super::residency::{Going, HELD, Obstacle};
use super::waiters::{News, Place};
use super::word::{DIRTY, EXCLUSIVE, WRITING};

/// What can be waited for. Sealed: the implementations are the guards, [`Gone`] and [`Downgraded`].
pub trait Operation<'h>: Sized + sealed::Sealed {
    #[doc(hidden)]
    fn attempt(handle: &'h Handle, page: PageId) -> Result<Self, sealed::Blocked>;
    /// Whether a page that is absent has to be read for it.
    #[doc(hidden)]
    const READS: bool = true;
}

mod sealed {
    use super::Obstacle;

    pub trait Sealed {}

    /// An obstacle, for a public trait that nobody else implements.
    #[derive(Debug)]
    pub struct Blocked(pub(crate) Obstacle);
}

use sealed::{Blocked, Sealed};

impl Sealed for Shared<'_> {}
impl<'h> Operation<'h> for Shared<'h> {
    fn attempt(handle: &'h Handle, page: PageId) -> Result<Self, Blocked> {
        handle.shared_now(page).map_err(Blocked)
    }
}

impl Sealed for Exclusive<'_> {}
impl<'h> Operation<'h> for Exclusive<'h> {
    fn attempt(handle: &'h Handle, page: PageId) -> Result<Self, Blocked> {
        handle.exclusive_now(page).map_err(Blocked)
    }
}

impl Sealed for Pin<'_> {}
impl<'h> Operation<'h> for Pin<'h> {
    fn attempt(handle: &'h Handle, page: PageId) -> Result<Self, Blocked> {
        handle.pin_now(page).map_err(Blocked)
    }
}

/// A revoked page is in no frame any more, and nobody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Sealed for Gone {}
impl<'h> Operation<'h> for Gone {
    const READS: bool = false;

    fn attempt(handle: &'h Handle, page: PageId) -> Result<Self, Blocked> {
        match handle.inner.revoke(page, false) {
            Going::Gone { .. } => Ok(Self),
            Going::Held(frame) => Err(Blocked(Obstacle::Busy(frame, HELD))),
        }
    }
}

/// A downgraded page has no writer any more, and all its changes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downgraded;

impl Sealed for Downgraded {}
impl<'h> Operation<'h> for Downgraded {
    const READS: bool = false;

    fn attempt(handle: &'h Handle, page: PageId) -> Result<Self, Blocked> {
        match handle.inner.downgrade(page) {
            None => Ok(Self),
            Some(frame) => Err(Blocked(Obstacle::Busy(frame, EXCLUSIVE | DIRTY | WRITING))),
        }
    }
}

/// Something that is waited for: a future, or call [`Acquire::wait`].
#[must_use = "nothing happens until it is awaited or waited for"]
pub struct Acquire<'h, O> {
    handle: &'h Handle,
    page: PageId,
    /// Where it is parked, and with which waker.
    parked: Option<(Place, Waker)>,
    operation: PhantomData<fn() -> O>,
}

impl<O> std::fmt::Debug for Acquire<'_, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire")
            .field("page", &self.page)
            .finish_non_exhaustive()
    }
}

impl<'h, O: Operation<'h>> Acquire<'h, O> {
    pub(crate) fn new(handle: &'h Handle, page: PageId) -> Self {
        Self {
            handle,
            page,
            parked: None,
            operation: PhantomData,
        }
    }

    /// Blocks the thread until it is there. Not for a shard's thread, which others wait for.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn wait(mut self) -> Result<O, AccessError> {
        // The usual case costs no waker.
        if let Ok(done) = O::attempt(self.handle, self.page) {
            return Ok(done);
        }
        let (sleeper, waker) = this_thread();
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(result) = PinnedMut::new(&mut self).poll(&mut context) {
                return result;
            }
            sleeper.sleep();
        }
    }

    /// What the news of the list say about this page, if it is an end.
    fn end(&self, news: News, about: u64) -> Option<AccessError> {
        // Gone and Downgraded wait for what to others is an error.
        if !O::READS || about != self.page.to_bits() {
            return None;
        }
        let page = self.page;
        let fault = match news {
            News::Look => return None,
            News::Revoked => return Some(AccessError::Revoked(page)),
            News::Volume(code) => ReadFault::Volume(VolumeFault::unpack(code)),
            News::Check(expected, found) => ReadFault::Check(Mismatch { expected, found }),
        };
        Some(AccessError::Read(ReadError { page, fault }))
    }

    /// Parks in a list, unless `still` says afterwards that there is nothing to wait for.
    fn park(&mut self, list: u32, waker: &Waker, still: impl FnOnce(&Inner) -> bool) -> bool {
        let inner = &*self.handle.inner;
        let Some(place) = inner.waiters.join(list, waker.clone()) else {
            // No node is left: wait by polling.
            waker.wake_by_ref();
            return true;
        };
        if still(inner) {
            self.parked = Some((place, waker.clone()));
            return true;
        }
        inner.waiters.leave(place);
        // The node would stay in the list, which nobody may ever wake: so this one does.
        inner.waiters.wake(list, News::Look, 0);
        false
    }

    /// Has the page read; whether to wait for a frame, parked.
    fn ask(&mut self, waker: &Waker) -> Result<bool, AccessError> {
        let (inner, page) = (&*self.handle.inner, self.page);
        match self.handle.ask(page) {
            Asked::Frame(_) | Asked::Exists => return Ok(false),
            Asked::Refused(why) => return Err(AccessError::Inadmissible { page, why }),
            Asked::NoFrame => {}
        }
        let shard = inner.shard_of_page(page);
        let list = inner.frames_list(shard);
        let mut over = false;
        let parked = self.park(list, waker, |inner| {
            // The shard looks at the flag once a turn, and wakes all: so a wake-up is late at worst.
            over = !shard_starves(inner, page);
            !over
        });
        if over {
            let why = Inadmissible::Stopped;
            return Err(AccessError::Inadmissible { page, why });
        }
        Ok(parked)
    }
}

/// Whether the shard turns.
fn shard_starves(inner: &Inner, page: PageId) -> bool {
    let shard = inner.shard_of_page(page);
    // Release: partner is the acquire in the shard's turn, which then finds the waiter in the list.
    shard.starving.store(true, Ordering::Release);
    inner.wake_shard(shard)
}

impl<'h, O: Operation<'h>> Future for Acquire<'h, O> {
    type Output = Result<O, AccessError>;

    fn poll(self: PinnedMut<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let waker = context.waker();
        if let Some((place, with)) = this.parked.take() {
            let waiters = &this.handle.inner.waiters;
            match waiters.news(place) {
                Ok((news, about)) => {
                    if let Some(error) = this.end(news, about) {
                        return Poll::Ready(Err(error));
                    }
                }
                Err(place) if with.will_wake(waker) => {
                    this.parked = Some((place, with));
                    return Poll::Pending;
                }
                Err(place) => waiters.leave(place),
            }
        }
        loop {
            let obstacle = match O::attempt(this.handle, this.page) {
                Ok(done) => return Poll::Ready(Ok(done)),
                Err(Blocked(obstacle)) => obstacle,
            };
            match obstacle {
                Obstacle::Revoked => return Poll::Ready(Err(AccessError::Revoked(this.page))),
                Obstacle::ReadOnly => return Poll::Ready(Err(AccessError::ReadOnly(this.page))),
                Obstacle::Pins => return Poll::Ready(Err(AccessError::Pins(this.page))),
                Obstacle::Absent => match this.ask(waker) {
                    Ok(true) => return Poll::Pending,
                    Ok(false) => {}
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Obstacle::Busy(frame, bits) => {
                    this.handle.counts().waits.add_one();
                    let page = this.page;
                    let mut over = false;
                    if this.park(frame, waker, |inner| {
                        over = !O::READS && inner.is_never_written(frame);
                        !over && inner.residency.will_wake(page, frame, bits)
                    }) {
                        return Poll::Pending;
                    }
                    if over {
                        let why = Inadmissible::Stopped;
                        return Poll::Ready(Err(AccessError::Inadmissible { page, why }));
                    }
                }
            }
        }
    }
}

impl<O> Drop for Acquire<'_, O> {
    fn drop(&mut self) {
        if let Some((place, _)) = self.parked.take() {
            self.handle.inner.waiters.leave(place);
        }
    }
}

/// A thread that sleeps until it is woken.
#[derive(Debug)]
struct Sleeper {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: partner is the acquire in `sleep`.
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Sleeper {
    fn sleep(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
        // One who polls for want of a node finds itself woken each time.
        thread::yield_now();
    }
}

/// This thread's sleeper, made the first time that it has to wait.
fn this_thread() -> (Arc<Sleeper>, Waker) {
    thread_local! {
        static SLEEPER: RefCell<Option<Arc<Sleeper>>> = const { RefCell::new(None) };
    }
    let sleeper = SLEEPER.with_borrow_mut(|place| {
        let made = place.get_or_insert_with(|| {
            Arc::new(Sleeper {
                thread: thread::current(),
                woken: AtomicBool::new(false),
            })
        });
        Arc::clone(made)
    });
    let waker = Waker::from(Arc::clone(&sleeper));
    (sleeper, waker)
}
