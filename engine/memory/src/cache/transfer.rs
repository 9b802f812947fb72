//! Pages on their way, in hands that need no shard: for drivers that keep them among their own requests. Whoever drops
//! one ends it, with an error.

use std::fmt;
use std::sync::Arc;

use super::bytes::copy_in;
use super::config::ReadError;
use super::fault::VolumeFault;
use super::inner::Inner;
use super::page::PageId;
use super::shard::{CacheShard, ReadTicket};
use super::writeback::WriteTicket;

/// A page that is being read. Dropped, its read has failed with [`VolumeFault::Stopped`].
pub struct PageRead {
    inner: Arc<Inner>,
    page: PageId,
    frame: u32,
    /// False once its end has been told.
    open: bool,
}

impl fmt::Debug for PageRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRead")
            .field("page", &self.page)
            .finish_non_exhaustive()
    }
}

impl PageRead {
    /// The page.
    #[must_use]
    pub fn page(&self) -> PageId {
        self.page
    }

    /// Its length.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.inner.config.page_bytes
    }

    /// Copies a part of the page into its frame, as it arrives.
    ///
    /// # Panics
    /// Beyond the end of the page.
    pub fn fill(&mut self, offset_bytes: usize, from: &[u8]) {
        copy_in(self.inner.memory().words(self.frame), offset_bytes, from);
    }

    /// The page has arrived, or the volume said why not: as [`CacheShard::read_done`].
    ///
    /// # Errors
    /// [`ReadError`], with the page, and what was expected and found.
    pub fn done(mut self, result: Result<(), VolumeFault>) -> Result<(), ReadError> {
        self.open = false;
        self.inner.read_done(self.page, self.frame, result)
    }
}

impl Drop for PageRead {
    fn drop(&mut self) {
        if self.open {
            let stopped = Err(VolumeFault::Stopped);
            // Who waits for the page is told.
            let _ = self.inner.read_done(self.page, self.frame, stopped);
        }
    }
}

/// Pages that are being written. Dropped, their write has failed with [`VolumeFault::Stopped`], and they are dirty again.
pub struct PageWrite {
    inner: Arc<Inner>,
    ticket: WriteTicket,
    open: bool,
}

impl fmt::Debug for PageWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageWrite")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

impl PageWrite {
    /// The first page.
    #[must_use]
    pub fn first(&self) -> PageId {
        self.ticket.first()
    }

    /// How many pages from there on.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.ticket.pages()
    }

    /// Length of each.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.inner.config.page_bytes
    }

    /// The bytes of page `index`, from 0. They don't change before the end.
    ///
    /// # Panics
    /// With an index beyond the pages.
    #[must_use]
    #[allow(
        unsafe_code,
        reason = "an image under way is a plain slice because nobody may change it"
    )]
    pub fn image(&self, index: usize) -> &[u8] {
        let frame = self.ticket.frame(index);
        // SAFETY: the frame is marked as being written until the ticket's end, which consumes this; who wants to change the
        // page moves to another frame first.
        unsafe { self.inner.memory().bytes(frame) }
    }
}

impl Drop for PageWrite {
    fn drop(&mut self) {
        if self.open {
            for (page, frame) in self.ticket.each() {
                let now_ns = self.inner.now_ns(frame);
                let stopped = Err(VolumeFault::Stopped);
                self.inner.write_ended(page, frame, stopped, now_ns);
            }
        }
    }
}

impl CacheShard {
    /// Puts a read into hands that need no shard.
    #[must_use]
    pub fn reading(&self, ticket: ReadTicket) -> PageRead {
        let (page, frame) = ticket.parts();
        PageRead {
            inner: Arc::clone(&self.inner),
            page,
            frame,
            open: true,
        }
    }

    /// Puts a write into hands that need no shard.
    #[must_use]
    pub fn writing(&self, ticket: WriteTicket) -> PageWrite {
        PageWrite {
            inner: Arc::clone(&self.inner),
            ticket,
            open: true,
        }
    }

    /// The end of a write: as [`CacheShard::write_done`].
    pub fn written(&mut self, mut write: PageWrite, result: Result<(), VolumeFault>, now_ns: u64) {
        write.open = false;
        let ticket = write.ticket.take();
        self.write_done(ticket, result, now_ns);
    }
}
