//! Read-ahead: who misses pages in their order gets the next ones asked for, too.
//!
//! Nothing of this is on the way of a hit. A run is seen in misses, and kept going by the first use of each page that was
//! read ahead, which the page's use count tells from all later ones: when half of what was asked for has been used, the
//! other half and as much again is on its way or there.

use std::cell::Cell;

use super::handle::Handle;
use super::inner::{Asked, Purpose};
use super::page::PageId;

/// What a run begins with.
const WINDOW_FIRST: u32 = 4;

/// What one handle remembers of its misses.
#[derive(Debug)]
pub(crate) struct Run {
    pages_max: u32,
    /// The page that would continue the run if it were missed next.
    next: Cell<Option<PageId>>,
    /// How far ahead the run is asked for; 0: no run yet.
    window: Cell<u32>,
}

impl Run {
    pub(crate) fn new(pages_max: u32) -> Self {
        Self {
            pages_max,
            next: Cell::new(None),
            window: Cell::new(0),
        }
    }

    fn grown(&self) -> u32 {
        let twice = self.window.get().saturating_mul(2).max(WINDOW_FIRST);
        twice.min(self.pages_max)
    }
}

impl Handle {
    /// The page, and the ones behind it, will be used in their order: as many as the cache reads ahead are asked for at once.
    pub fn expect_run(&self, first: PageId) {
        let run = &self.run;
        run.window.set(run.pages_max);
        run.next.set(self.ask_ahead(Some(first), run.pages_max));
    }

    /// This handle has just asked for a page that was not resident.
    pub(crate) fn missed(&self, page: PageId) {
        let run = &self.run;
        if run.pages_max == 0 {
            return;
        }
        if run.next.get() == Some(page) {
            run.window.set(run.grown());
            run.next
                .set(self.ask_ahead(page.after(1), run.window.get()));
        } else {
            run.window.set(0);
            run.next.set(page.after(1));
        }
    }

    /// This handle was the first to use a page that was read ahead.
    #[cold]
    #[inline(never)]
    pub(crate) fn used_ahead(&self, page: PageId) {
        self.counts().ahead_used.add_one();
        let (run, Some(next)) = (&self.run, self.run.next.get()) else {
            return;
        };
        // Another handle's run, if it is not within this one's window.
        let left = next.to_bits().wrapping_sub(page.to_bits());
        let window = u64::from(run.window.get());
        if left == 0 || left > window || left > window / 2 {
            return;
        }
        let grown = run.grown();
        run.window.set(grown);
        let more = u64::from(grown).saturating_sub(left - 1);
        let more = u32::try_from(more).unwrap_or(0);
        run.next.set(self.ask_ahead(Some(next), more));
    }

    /// Asks for so many pages; the first that was not asked for.
    fn ask_ahead(&self, first: Option<PageId>, pages: u32) -> Option<PageId> {
        let mut next = first;
        for _ in 0..pages {
            let page = next?;
            match self.inner.ask_shard(page, Purpose::Ahead) {
                Asked::Frame(_) | Asked::Exists => next = page.after(1),
                Asked::NoFrame | Asked::Refused(_) => break,
            }
        }
        next
    }
}
