//! Another party takes a page, or the right to change it.

use std::sync::atomic::Ordering;

use super::inner::Inner;
use super::page::PageId;
use super::residency::Going;
use super::word::{DIRTY, EXCLUSIVE, READING, REVOKED, WRITING};

impl Inner {
    /// Revokes the page; again and again until it is gone. Optimistic readers notice at once, guards are waited for,
    /// changes are written first, unless they are to be discarded.
    pub(crate) fn revoke(&self, page: PageId, discard: bool) -> Going {
        let hash = page.hash();
        let mut forgets = false;
        let marked = self.residency.mark_revoked(page, hash, |frame| {
            // While an older image of the page is on its way the page stays, dirty: who has it next may write it, and the
            // image must not arrive after that. Relaxed: who moves a page notes this before it takes the same latch.
            let image = &self.cold(frame).image_under_way;
            forgets = discard && !image.load(Ordering::Relaxed);
            forgets
        });
        let Some((frame, before)) = marked else {
            return Going::Gone { wake: None };
        };
        let shard = self.shard_of_frame(frame);
        if !before.has(REVOKED) {
            shard.counts.revoked.add(1);
            self.left(page, frame);
        }
        if before.has(DIRTY) {
            if forgets {
                shard.dirty_pages.fetch_sub(1, Ordering::Relaxed);
            } else if !discard {
                self.hurry(frame);
            }
        }
        self.finish_revoke(page, frame)
    }

    /// Takes the right to change the page; again and again until nobody changes it and all is written: `None`. Till
    /// then the frame to wait for.
    pub(crate) fn downgrade(&self, page: PageId) -> Option<u32> {
        let (frame, before) = self.residency.set_read_only(page, page.hash(), true)?;
        if before.has(DIRTY) && !before.has(EXCLUSIVE) {
            self.hurry(frame);
        }
        // A page that is just being read has no writer, though its frame is exclusive.
        let busy = before.has(DIRTY | WRITING) || (before.has(EXCLUSIVE) && !before.has(READING));
        busy.then_some(frame)
    }
}
