//! Which page is in which frame, and who may do what with it: the table and the words together.
//!
//! Every step that two threads can be in at once is here or below, and none of it knows of bytes, queues or waiters:
//! tests/cache_loom.rs runs this file through the interleavings.
//!
//! Order of latches: first a frame's exclusive latch, then a bucket's. Nobody waits for a frame while holding a bucket.

use super::page::{NO_PAGE, PageId};
use super::sync::{AtomicU64, Ordering, relax};
use super::table::{Home, Table, prefetch};
use super::word::{
    DIRTY, EXCLUSIVE, IMAGE, PINS, PINS_MAX, READ_ONLY, READING, REVOKED, SHARED, SHARED_MAX,
    Snapshot, WAITERS, WRITING, Word,
};

/// What keeps a revoked page where it is.
pub(crate) const HELD: u64 = SHARED | EXCLUSIVE | PINS | WRITING | READING | DIRTY;

/// What stands in the way of a latch or a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The page is in no frame.
    Absent,
    /// The frame's word has one of these bits; to be tried again when its holder wakes.
    Busy(u32, u64),
    /// The page has been revoked.
    Revoked,
    /// The page has been downgraded: it may be read, not changed.
    ReadOnly,
    /// More pins than a word can count.
    Pins,
}

/// Why a frame was not evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Pinned, latched, dirty, on its way in or out, or just changing.
    InUse,
    /// Its bucket of the table is just being changed. Whoever came in the meantime must be woken if the flag says so.
    TableBusy { wake: bool },
}

/// A frame that has been emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    /// What it held; nothing, if its page had been revoked before.
    pub(crate) page: Option<PageId>,
    /// Whether somebody came in the meantime and must be woken.
    pub(crate) wake: bool,
}

/// What has become of a revoked page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Going {
    /// It is in no frame. Whoever waits for this frame must be woken if the flag says so.
    Gone { wake: Option<u32> },
    /// Somebody still has it, or it has to be written first.
    Held(u32),
}

/// A frame's two hot words.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Head {
    word: Word,
    /// The page, written only by the holder of the exclusive latch (or the table's machinery under it).
    key: AtomicU64,
}

impl Head {
    /// Of a frame that is empty and in the cache's own hands.
    pub(crate) fn new() -> Self {
        Self {
            word: Word::new(),
            key: AtomicU64::new(NO_PAGE),
        }
    }
}

impl Head {
    /// The word, if the frame holds the page under this version.
    #[inline]
    fn probe(&self, page: PageId) -> Option<Snapshot> {
        // In this order: the key is part of what the version vouches for.
        let seen = self.word.load();
        (self.key.load(Ordering::Relaxed) == page.to_bits()).then_some(seen)
    }
}

/// Where the heads are: each beside its frame's bytes, or, for a model checker, in an array.
pub(crate) trait Heads {
    /// A frame's, found once and used several times.
    type Place: Copy;

    fn place(&self, frame: u32) -> Self::Place;

    fn head_at(&self, place: Self::Place) -> &Head;

    #[inline]
    fn head(&self, frame: u32) -> &Head {
        self.head_at(self.place(frame))
    }
}

impl Heads for Box<[Head]> {
    type Place = u32;

    fn place(&self, frame: u32) -> u32 {
        frame
    }

    fn head_at(&self, place: u32) -> &Head {
        &self[place as usize]
    }
}

#[derive(Debug)]
pub(crate) struct Residency<H> {
    table: Table,
    heads: H,
}

impl<H: Heads> Residency<H> {
    /// All frames empty and in the cache's own hands.
    pub(crate) fn new(frames: u32, heads: H) -> Self {
        Self {
            table: Table::new(frames as usize),
            heads,
        }
    }

    /// The heads, with what is beside them.
    #[inline]
    pub(crate) fn heads(&self) -> &H {
        &self.heads
    }

    #[inline]
    pub(crate) fn word_at(&self, place: H::Place) -> &Word {
        &self.heads.head_at(place).word
    }

    #[inline]
    pub(crate) fn word(&self, frame: u32) -> &Word {
        &self.heads.head(frame).word
    }

    /// The page of a frame that the caller keeps from changing.
    pub(crate) fn page(&self, frame: u32) -> Option<PageId> {
        // Relaxed: whoever latched or pinned the frame has acquired its word after the key was written.
        PageId::from_key(self.heads.head(frame).key.load(Ordering::Relaxed))
    }

    /// Has the processor fetch the frame's head.
    #[inline]
    pub(crate) fn hint_frame(&self, frame: u32) {
        prefetch(&raw const *self.heads.head(frame));
    }

    /// Has the processor fetch the page's place in the table.
    #[inline]
    pub(crate) fn hint(&self, hash: u64) {
        self.table.hint(hash);
    }

    /// Has the processor fetch the latch of the page's bucket.
    #[inline]
    pub(crate) fn hint_latch(&self, hash: u64) {
        self.table.hint_latch(hash);
    }

    /// The frame with its word, if it holds the page under this version.
    #[inline]
    fn probe(&self, page: PageId, frame: u32) -> Option<Snapshot> {
        self.heads.head(frame).probe(page)
    }

    /// Where the page is, and its word. Good only as long as the word is unchanged.
    #[inline]
    pub(crate) fn locate(&self, page: PageId, hash: u64) -> Option<(u32, Snapshot)> {
        self.table.find(hash, |frame| self.probe(page, frame))
    }

    /// As [`Self::locate`], starting with the frame where it was last.
    fn locate_from(&self, hint: u32, page: PageId, hash: u64) -> Option<(u32, Snapshot)> {
        match self.probe(page, hint) {
            Some(seen) => Some((hint, seen)),
            None => self.locate(page, hash),
        }
    }

    /// The optimistic reader's first half: where to read, and what to compare with afterwards.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "what it returns would go through memory otherwise; measured"
    )]
    pub(crate) fn peek(
        &self,
        page: PageId,
        hash: u64,
    ) -> Result<(u32, H::Place, Snapshot), Obstacle> {
        let found = self.table.find(hash, |frame| {
            let place = self.heads.place(frame);
            let seen = self.heads.head_at(place).probe(page)?;
            Some((place, seen))
        });
        let Some((frame, (place, seen))) = found else {
            return Err(Obstacle::Absent);
        };
        if seen.has(EXCLUSIVE | REVOKED) {
            return Err(refusal(frame, seen, EXCLUSIVE));
        }
        Ok((frame, place, seen))
    }

    /// A shared latch. Who comes while another waits for the exclusive one queues behind it.
    pub(crate) fn share(&self, page: PageId, hash: u64) -> Result<(u32, Snapshot), Obstacle> {
        loop {
            let (frame, seen) = self.locate(page, hash).ok_or(Obstacle::Absent)?;
            // Waiters on a frame that nobody has latched wait for something else.
            if seen.has(EXCLUSIVE | REVOKED) || (seen.has(WAITERS) && seen.shared() > 0) {
                return Err(refusal(frame, seen, EXCLUSIVE | WAITERS));
            }
            if seen.shared() == SHARED_MAX {
                return Err(Obstacle::Busy(frame, SHARED));
            }
            if self.word(frame).try_share(seen) {
                return Ok((frame, seen));
            }
        }
    }

    /// A shared latch in place of an optimistic read, if the page has not changed since.
    pub(crate) fn share_unchanged(&self, frame: u32, seen: Snapshot) -> bool {
        let mut now = seen;
        loop {
            if now.has(EXCLUSIVE | REVOKED) || now.shared() == SHARED_MAX {
                return false;
            }
            if self.word(frame).try_share(now) {
                return true;
            }
            now = self.word(frame).load();
            if !self.word(frame).unchanged(seen) {
                return false;
            }
        }
    }

    /// The exclusive latch. The caller looks at the word it gets: with WRITING, the bytes must not change where they are.
    pub(crate) fn exclude(&self, page: PageId, hash: u64) -> Result<(u32, Snapshot), Obstacle> {
        loop {
            let (frame, seen) = self.locate(page, hash).ok_or(Obstacle::Absent)?;
            if seen.has(EXCLUSIVE | REVOKED | SHARED | READ_ONLY) {
                return Err(refusal(frame, seen, EXCLUSIVE | SHARED));
            }
            if self.word(frame).try_exclude(seen) {
                return Ok((frame, seen));
            }
        }
    }

    /// A pin: the page stays resident, latched or not.
    pub(crate) fn pin(&self, page: PageId, hash: u64) -> Result<(u32, Snapshot), Obstacle> {
        loop {
            let (frame, seen) = self.locate(page, hash).ok_or(Obstacle::Absent)?;
            if seen.has(EXCLUSIVE | REVOKED) {
                return Err(refusal(frame, seen, EXCLUSIVE));
            }
            if seen.pins() == PINS_MAX {
                return Err(Obstacle::Pins);
            }
            if self.word(frame).try_pin(seen) {
                return Ok((frame, seen));
            }
        }
    }

    /// Gives a pin back, wherever the page is by now: a pinned page may move, but does not go. What the word was before,
    /// and the frame.
    pub(crate) fn unpin(&self, hint: u32, page: PageId, hash: u64) -> (u32, Snapshot) {
        loop {
            match self.locate_from(hint, page, hash) {
                Some((frame, seen)) if seen.pins() > 0 => {
                    if self.word(frame).try_unpin(seen) {
                        return (frame, seen);
                    }
                }
                // The page is being moved: for some instructions it is in neither frame, or its pins are.
                _ => relax(),
            }
        }
    }

    /// Gives a shared latch back. The last one to leave clears the waiters' bit: then the caller wakes.
    pub(crate) fn unshare(&self, frame: u32) -> (Snapshot, bool) {
        let before = self.word(frame).unshare();
        let wake = before.has(WAITERS)
            && before.shared() == 1
            && self.word(frame).change(WAITERS, 0, false).has(WAITERS);
        (before, wake)
    }

    /// Gives the exclusive latch back, dirty and with a new version if the bytes have changed. What the word was before;
    /// if it had waiters, the caller wakes.
    pub(crate) fn unexclude(&self, frame: u32, changed: bool) -> Snapshot {
        let dirty = if changed { DIRTY } else { 0 };
        self.word(frame).change(EXCLUSIVE | WAITERS, dirty, changed)
    }

    /// Empties the frame if nobody needs it, for the caller to fill.
    pub(crate) fn evict(&self, frame: u32) -> Result<Evicted, Kept> {
        let word = self.word(frame);
        let obstacles = SHARED | EXCLUSIVE | PINS | DIRTY | WRITING | READING | REVOKED;
        // 1. Nobody holds it, nothing of it is unwritten or under way. A revoked page is its last holder's to remove.
        let seen = word.load();
        if seen.has(obstacles) {
            return Err(Kept::InUse);
        }
        // 2. Claim it, if all that is still so. From here on nobody can latch or pin it, and who tries waits.
        if !word.try_exclude(seen) {
            return Err(Kept::InUse);
        }
        // 3. Its page can't change now. An empty frame has none, and is taken as it is.
        let Some(page) = self.page(frame) else {
            let before = word.change(Word::LEFTOVERS, 0, true);
            let wake = before.has(WAITERS);
            return Ok(Evicted { page: None, wake });
        };
        // 4. The page's bucket, without waiting. If it is taken the frame stays as it was; its version, too, since
        //    nothing has changed.
        let Some(home) = self.table.try_lock(page.hash()) else {
            let wake = word.change(EXCLUSIVE | WAITERS, 0, false).has(WAITERS);
            return Err(Kept::TableBusy { wake });
        };
        // 5. Out of the table: from here on the page is absent, and may be asked for again, into another frame.
        // 6. Out of the frame: its version moves, and who has waited for the page is woken to look again.
        let wake = self.clear(frame, &home).has(WAITERS);
        let page = Some(page);
        Ok(Evicted { page, wake })
    }

    /// Takes the page out of the table and the frame; the word before. The frame stays exclusive, with a new version
    /// for all who still look at it. The caller wakes if the word had waiters.
    fn clear(&self, frame: u32, home: &Home<'_>) -> Snapshot {
        home.remove(frame);
        // Relaxed: who reads the key does so between two looks at the word; who waits looks at it after the change below.
        self.heads.head(frame).key.store(NO_PAGE, Ordering::Relaxed);
        self.word(frame).change(Word::LEFTOVERS, 0, true)
    }

    /// Waiter, after it has joined the frame's waiters: whether somebody will wake it. Not if the page has gone
    /// elsewhere, or what it waits for is over.
    pub(crate) fn will_wake(&self, page: PageId, frame: u32, obstacles: u64) -> bool {
        // In this order: who takes the page out of the frame does so before changing the word, so either that
        // change sees the waiters' bit, or this look sees that the page is gone.
        self.word(frame).ask_wake(obstacles) && self.probe(page, frame).is_some()
    }

    /// Gives the page to an exclusive, empty frame, for it to be read into; not if it is in another one by now.
    pub(crate) fn install(
        &self,
        page: PageId,
        hash: u64,
        frame: u32,
        reading: bool,
    ) -> Result<(), u32> {
        let home = self.table.lock(hash);
        if let Some((other, _)) = home.find(|frame| self.probe(page, frame)) {
            return Err(other);
        }
        self.heads
            .head(frame)
            .key
            .store(page.to_bits(), Ordering::Relaxed);
        if reading {
            self.word(frame).change(0, READING, false);
        }
        home.insert(frame);
        Ok(())
    }

    /// The page has been read: from now on it can be had, unless it was revoked in the meantime (see the word that is
    /// returned). The caller wakes if it had waiters.
    pub(crate) fn publish(&self, frame: u32) -> Snapshot {
        self.word(frame)
            .change(EXCLUSIVE | READING | WAITERS, 0, true)
    }

    /// The page could not be read: it is taken out, the frame stays exclusive and empty. The caller wakes if the word
    /// that is returned had waiters.
    pub(crate) fn withdraw(&self, hash: u64, frame: u32) -> Snapshot {
        let home = self.table.lock(hash);
        self.clear(frame, &home)
    }

    /// Latches a dirty page exclusively, for its bytes to be inspected and sealed before they begin their way to the
    /// volume. `None` if it is latched, clean, or under way already.
    pub(crate) fn claim_write(&self, page: PageId, frame: u32) -> Option<Snapshot> {
        loop {
            let seen = self.probe(page, frame)?;
            if !seen.has(DIRTY) || seen.has(SHARED | EXCLUSIVE | WRITING) {
                return None;
            }
            // The key was that of the page under this very word.
            if self.word(frame).try_exclude(seen) {
                return Some(seen);
            }
        }
    }

    /// Ends the claim: the bytes are on their way, and stay as they are. The word before; the caller wakes if it had
    /// waiters.
    pub(crate) fn begin_write(&self, frame: u32, sealed: bool) -> Snapshot {
        self.word(frame)
            .change(EXCLUSIVE | DIRTY | WAITERS, WRITING, sealed)
    }

    /// They have arrived, or not: then the page is dirty again. What the word was before: with IMAGE the frame is the
    /// caller's now, empty and exclusive; if it had waiters, the caller wakes.
    pub(crate) fn end_write(&self, frame: u32, written: bool) -> Snapshot {
        let word = self.word(frame);
        let mut seen = word.load();
        loop {
            let dirty = if written || seen.has(IMAGE) { 0 } else { DIRTY };
            match word.exchange(seen, WRITING | IMAGE | WAITERS, dirty, false) {
                Ok(()) => return seen,
                Err(now) => seen = now,
            }
        }
    }

    /// Moves an exclusively latched page to an exclusive, empty frame that has its bytes already: the new frame is
    /// latched and dirty. What the old frame's word was: if WRITING it stays an image until `end_write`, else it is the
    /// caller's, empty and exclusive. The caller wakes who waits for it.
    pub(crate) fn relocate(&self, page: PageId, hash: u64, from: u32, to: u32) -> Snapshot {
        let home = self.table.lock(hash);
        let key = &self.heads.head(from).key;
        self.heads
            .head(to)
            .key
            .store(page.to_bits(), Ordering::Relaxed);
        home.replace(from, to);
        key.store(NO_PAGE, Ordering::Relaxed);
        let word = self.word(from);
        let mut seen = word.load();
        // Pins come and go until this succeeds; those that are left go over to the new frame.
        loop {
            let image = if seen.has(WRITING) {
                WRITING | IMAGE
            } else {
                0
            };
            match word.exchange(seen, Word::LEFTOVERS, image, true) {
                Ok(()) => break,
                Err(now) => seen = now,
            }
        }
        self.word(to)
            .change(Word::MOVED | WAITERS, seen.0 & Word::MOVED | DIRTY, true);
        seen
    }

    /// Marks the page as revoked: optimistic readers notice at once, and nothing is granted any more. Where `discard` says
    /// yes to its frame, changes need not be written. The frame, and its word before.
    pub(crate) fn mark_revoked(
        &self,
        page: PageId,
        hash: u64,
        discard: impl FnOnce(u32) -> bool,
    ) -> Option<(u32, Snapshot)> {
        // Under the latch, so that a page that just moves is not overlooked.
        let home = self.table.lock(hash);
        let (frame, _) = home.find(|frame| self.probe(page, frame))?;
        let forget = if discard(frame) { DIRTY } else { 0 };
        Some((frame, self.word(frame).change(forget, REVOKED, true)))
    }

    /// Lets a page be read only, or changed again. The frame, and its word before.
    pub(crate) fn set_read_only(
        &self,
        page: PageId,
        hash: u64,
        read_only: bool,
    ) -> Option<(u32, Snapshot)> {
        let home = self.table.lock(hash);
        let (frame, _) = home.find(|frame| self.probe(page, frame))?;
        let before = if read_only {
            self.word(frame).change(0, READ_ONLY, false)
        } else {
            self.word(frame).change(READ_ONLY, 0, false)
        };
        Some((frame, before))
    }

    /// Empties a revoked page's frame if nobody has it any more. Whoever gives back a latch, a pin or a write of a revoked
    /// page calls this, as does who revokes: the last one succeeds.
    pub(crate) fn finish_revoke(&self, page: PageId, hash: u64, frame: u32) -> Going {
        let word = self.word(frame);
        let obstacles = HELD;
        loop {
            let Some(seen) = self.probe(page, frame) else {
                return self.elsewhere(page, hash, frame);
            };
            if !seen.has(REVOKED) || seen.has(obstacles) {
                return Going::Held(frame);
            }
            if word.try_exclude(seen) {
                break;
            }
        }
        let home = self.table.lock(hash);
        let before = self.clear(frame, &home);
        drop(home);
        let after = word.change(EXCLUSIVE | WAITERS, 0, false);
        let wake = before.has(WAITERS) || after.has(WAITERS);
        Going::Gone {
            wake: wake.then_some(frame),
        }
    }

    fn elsewhere(&self, page: PageId, hash: u64, frame: u32) -> Going {
        let home = self.table.lock(hash);
        match home.find(|frame| self.probe(page, frame)) {
            Some((other, _)) if other != frame => Going::Held(other),
            Some(_) => Going::Held(frame),
            None => Going::Gone { wake: None },
        }
    }
}

#[cold]
fn refusal(frame: u32, seen: Snapshot, bits: u64) -> Obstacle {
    if seen.has(REVOKED) {
        Obstacle::Revoked
    } else if seen.has(bits) {
        Obstacle::Busy(frame, bits)
    } else {
        Obstacle::ReadOnly
    }
}
