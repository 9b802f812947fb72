//! How a page's way out ends: written, or not, or gone from the cache.

use std::sync::atomic::Ordering;

use super::config::{Reserve, WriteError};
use super::fault::VolumeFault;
use super::inner::Inner;
use super::page::PageId;
use super::word::{DIRTY, IMAGE, REVOKED};

impl Inner {
    /// A page has left its frame: if its volume may still lose it, this was the last copy.
    pub(crate) fn left(&self, page: PageId, frame: u32) {
        let epoch = self.cold(frame).epoch.swap(0, Ordering::SeqCst);
        if epoch != 0 {
            self.owner.gone_unflushed(page, epoch);
        }
    }

    /// The end of a page's write. An image has no page; what became of it is noted where its page is. Whether it was one.
    pub(crate) fn write_ended(
        &self,
        page: PageId,
        frame: u32,
        result: Result<(), VolumeFault>,
        now_ns: u64,
    ) -> bool {
        let shard = self.shard_of_frame(frame);
        if result.is_ok() {
            // Before the word says so: until then the frame is this page's, or its image's, whose page is dirty again.
            let cold = self.cold(frame);
            // SeqCst: partner is the swap in `left`, by who revokes after marking the word. One of the two finds it.
            cold.epoch.swap(self.owner.epoch(page), Ordering::SeqCst);
            if self.residency.word(frame).load().has(REVOKED) {
                self.left(page, frame);
            }
        }
        let before = self.residency.end_write(frame, result.is_ok());
        // Only now, and acquired with the word: the page may move away until the word says that the write has ended.
        let moved_to = self.cold(frame).moved_to.load(Ordering::Relaxed);
        let holder = if before.has(IMAGE) { moved_to } else { frame };
        let cold = self.cold(holder);
        if let Err(fault) = result {
            shard.counts.write_errors.add(1);
            cold.write_error
                .store(u64::from(fault.pack()) + 1, Ordering::Relaxed);
            let retry = now_ns.saturating_add(self.config.write_back.retry_ns);
            cold.not_before_ns.store(retry, Ordering::Relaxed);
            if !before.has(IMAGE) {
                self.now_dirty(frame, before);
            }
        } else {
            cold.write_error.store(0, Ordering::Relaxed);
        }
        if before.has(IMAGE) {
            cold.image_under_way.store(false, Ordering::Relaxed);
            self.give_reserved(shard, Reserve::WriteBack, frame);
        }
        // An image is not revoked; its page is, where it is now.
        self.after_release(page, frame, before);
        before.has(IMAGE)
    }

    /// Makes a page dirty that the caller has latched, shared: it does not change, and nobody begins to write it meanwhile.
    pub(crate) fn dirty_again(&self, frame: u32) {
        let word = self.residency.word(frame);
        if !word.load().has(DIRTY) {
            let since = &self.cold(frame).dirty_since_ns;
            // Relaxed: the change of the word publishes it.
            since.store(self.now_ns(frame), Ordering::Relaxed);
        }
        let before = word.change(0, DIRTY, false);
        self.now_dirty(frame, before);
    }

    /// Whether the frame is dirty and its shard turns no more. For who has joined the frame's waiters: a shard that ends
    /// after this look wakes them.
    pub(crate) fn is_never_written(&self, frame: u32) -> bool {
        let dirty = self.residency.word(frame).load().has(DIRTY);
        dirty && self.owner.is_over(self.shard_of_frame(frame).index)
    }

    pub(crate) fn write_error(&self, page: PageId) -> Option<WriteError> {
        let (frame, _) = self.residency.locate(page, page.hash())?;
        let code = self.cold(frame).write_error.load(Ordering::Relaxed);
        let fault = VolumeFault::unpack(u32::try_from(code.checked_sub(1)?).ok()?);
        Some(WriteError { page, fault })
    }
}
