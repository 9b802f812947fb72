//! What a holder of a page has in hand.
#![allow(
    unsafe_code,
    reason = "a latch is what makes a frame's bytes a plain slice"
)]

use std::fmt;
use std::sync::atomic::Ordering;

use super::bytes::{Place, View, copy_in};
use super::inner::Inner;
use super::page::{FrameId, PageId};
use super::word::Snapshot;

/// A page being read without a latch. What was read counts if [`Optimistic::check`] says so afterwards; until then it may
/// be a mixture, or another page's. It keeps nobody from anything, however long it lives.
#[derive(Clone, Copy)]
pub struct Optimistic<'h> {
    pub(crate) inner: &'h Inner,
    pub(crate) page: PageId,
    pub(crate) frame: u32,
    pub(crate) place: Place,
    pub(crate) seen: Snapshot,
}

impl<'h> Optimistic<'h> {
    /// The bytes, as of whenever each is looked at.
    #[must_use]
    #[inline]
    pub fn view(&self) -> View<'h> {
        View::new(self.inner.memory().words_at(self.place))
    }

    /// Whether everything that was read so far was one state of this page. It can be asked again after more reads.
    #[must_use]
    #[inline]
    pub fn check(&self) -> bool {
        self.inner
            .residency
            .word_at(self.place)
            .unchanged(self.seen)
    }

    /// A shared latch, if the page has not changed since: what was read so far still holds then.
    #[must_use]
    pub fn to_shared(&self) -> Option<Shared<'h>> {
        let shared = self.inner.residency.share_unchanged(self.frame, self.seen);
        // Not `then_some`: a guard that is made is dropped.
        shared.then(|| Shared {
            inner: self.inner,
            page: self.page,
            frame: self.frame,
        })
    }
}

/// A page that nobody changes meanwhile.
pub struct Shared<'h> {
    pub(crate) inner: &'h Inner,
    pub(crate) page: PageId,
    pub(crate) frame: u32,
}

impl Shared<'_> {
    /// The page.
    #[must_use]
    pub fn page(&self) -> PageId {
        self.page
    }

    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a shared latch is held: who writes to a frame has the exclusive one.
        unsafe { self.inner.memory().bytes(self.frame) }
    }

    /// The page is to be written once more, though it has not changed: its volume may have lost it.
    pub fn rewrite(&self) {
        self.inner.dirty_again(self.frame);
    }

    /// Whether the page was revoked: its holder should come to an end with it.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        revoked(self.inner, self.frame)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.inner.unshare(self.page, self.frame);
    }
}

/// A page that this holder alone has latched, and may change.
pub struct Exclusive<'h> {
    pub(crate) inner: &'h Inner,
    pub(crate) page: PageId,
    pub(crate) frame: u32,
    pub(crate) changed: bool,
    /// It has just been made, and comes into the policy's hands when it is released.
    pub(crate) new: bool,
}

impl Exclusive<'_> {
    /// The page.
    #[must_use]
    pub fn page(&self) -> PageId {
        self.page
    }

    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the exclusive latch is held, and its holder writes only through `&mut self`, so not while this lives.
        unsafe { self.inner.memory().bytes(self.frame) }
    }

    /// Changes bytes from `offset_bytes` on. Optimistic readers may see them at once, and will find that they must not
    /// have.
    ///
    /// # Panics
    /// Beyond the end of the page.
    pub fn write(&mut self, offset_bytes: usize, from: &[u8]) {
        self.changed = true;
        copy_in(self.inner.memory().words(self.frame), offset_bytes, from);
    }

    /// Changes the eight bytes from `8 * index` to a little-endian number.
    ///
    /// # Panics
    /// Beyond the end of the page.
    #[inline]
    pub fn set_u64(&mut self, index: usize, value: u64) {
        self.changed = true;
        // Relaxed: the latch's release publishes it.
        self.inner.memory().words(self.frame)[index].store(value.to_le(), Ordering::Relaxed);
    }

    /// The page is to be written, changed or not.
    pub fn set_dirty(&mut self) {
        self.changed = true;
    }

    /// Whether the page was revoked: its holder should come to an end with it.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        revoked(self.inner, self.frame)
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        if self.new {
            self.inner.admit(self.page, self.frame);
        }
        self.inner.unexclude(self.page, self.frame, self.changed);
    }
}

/// A page that stays resident, latched or not. It may be changed meanwhile, and latched through any handle.
pub struct Pin<'h> {
    pub(crate) inner: &'h Inner,
    pub(crate) page: PageId,
    /// Where the page was when it was pinned.
    pub(crate) frame: u32,
}

impl Pin<'_> {
    /// The page.
    #[must_use]
    pub fn page(&self) -> PageId {
        self.page
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.inner.unpin(self.page, self.frame);
    }
}

fn revoked(inner: &Inner, frame: u32) -> bool {
    inner.residency.word(frame).load().has(super::word::REVOKED)
}

macro_rules! debug_by_page {
    ($($guard:ident),*) => {$(
        impl fmt::Debug for $guard<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($guard))
                    .field("page", &self.page)
                    .field("frame", &FrameId(self.frame))
                    .finish_non_exhaustive()
            }
        }
    )*};
}

debug_by_page!(Optimistic, Shared, Exclusive, Pin);
