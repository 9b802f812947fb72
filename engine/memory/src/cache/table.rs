//! From page to frame: open addressing over 64-bit atomics, of a size that is fixed at the start.
//!
//! A bucket is a cache line of eight slots; a slot is 0 or `tag << 32 | frame + 1`, the tag being half of the page's
//! hash. Look-ups only load. They begin at a slot that the hash chooses, and go round the line; most find their page in
//! the first one. Where a bucket was full when a page came, the page stands in the next one with room, and each full
//! bucket that was passed counts it. A look-up goes on to the next bucket only where this count is not 0, and a removal
//! takes the counts back, so that nothing is left behind by removed pages (no tombstones, no clean-up).
//!
//! Inserting, removing and moving a page takes a latch, one bit of the home bucket's control word, for some
//! instructions: that makes it once only that a page is inserted. Look-ups never look at it. Eviction does not wait for
//! it, but goes on to another frame.
//!
//! A look-up may miss a page that is being inserted or moved, and may find a frame that has just been given to another
//! page. So a caller checks the frame's own page under the frame's version, and repeats a failed look-up under the latch
//! before it acts on it.
#![allow(unsafe_code, reason = "a prefetch is an intrinsic")]

use super::sync::{AtomicU32, AtomicU64, BUCKET_SLOTS, Ordering, relax};

const LATCHED: u32 = 1 << 31;
const PASSED: u32 = LATCHED - 1;

#[derive(Debug)]
#[repr(align(64))]
struct Bucket([AtomicU64; BUCKET_SLOTS]);

#[derive(Debug)]
pub(crate) struct Table {
    buckets: Box<[Bucket]>,
    /// A bucket's latch, and how many pages passed it by because it was full.
    controls: Box<[AtomicU32]>,
    mask: usize,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low bits of a hash are wanted, whatever the word's size"
)]
#[inline]
const fn low_bits(hash: u64) -> usize {
    hash as usize
}

/// The upper half, never 0, so that an empty slot has no page's tag.
#[inline]
const fn tag(hash: u64) -> u64 {
    (hash >> 32) | 1
}

fn entry(hash: u64, frame: u32) -> u64 {
    (tag(hash) << 32) | (u64::from(frame) + 1)
}

impl Table {
    /// A table for so many pages, two slots for each at least.
    pub(crate) fn new(pages: usize) -> Self {
        let buckets = (pages * 2).div_ceil(BUCKET_SLOTS).next_power_of_two();
        Self {
            buckets: (0..buckets)
                .map(|_| Bucket(std::array::from_fn(|_| AtomicU64::new(0))))
                .collect(),
            controls: (0..buckets).map(|_| AtomicU32::new(0)).collect(),
            mask: buckets - 1,
        }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        (low_bits(hash) / BUCKET_SLOTS) & self.mask
    }

    /// The first frame under this hash's tag that `probe` takes.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "it is the way of a hit, whose result would go through memory otherwise; measured"
    )]
    pub(crate) fn find<T>(
        &self,
        hash: u64,
        mut probe: impl FnMut(u32) -> Option<T>,
    ) -> Option<(u32, T)> {
        // Most pages are found here.
        let slot = &self.buckets[self.home(hash)].0[low_bits(hash) % BUCKET_SLOTS];
        let slot = slot.load(Ordering::Acquire);
        if slot >> 32 == tag(hash) {
            let frame = frame_of(slot);
            if let Some(found) = probe(frame) {
                return Some((frame, found));
            }
        }
        self.find_on(hash, probe)
    }

    /// As [`Self::find`], behind the first slot.
    #[inline(never)]
    fn find_on<T>(&self, hash: u64, mut probe: impl FnMut(u32) -> Option<T>) -> Option<(u32, T)> {
        let (first, wanted) = (low_bits(hash), tag(hash));
        let mut bucket = self.home(hash);
        let mut skip = 1;
        for _ in 0..=self.mask {
            let slots = &self.buckets[bucket].0;
            for step in skip..BUCKET_SLOTS {
                // Acquire: partner is the release with which the slot was filled, after the frame was given the page.
                let slot = slots[first.wrapping_add(step) % BUCKET_SLOTS].load(Ordering::Acquire);
                if slot >> 32 == wanted {
                    let frame = frame_of(slot);
                    if let Some(found) = probe(frame) {
                        return Some((frame, found));
                    }
                }
            }
            // Relaxed: a count too old makes the look-up fail, which is repeated under the latch before it counts.
            if self.controls[bucket].load(Ordering::Relaxed) & PASSED == 0 {
                return None;
            }
            skip = 0;
            bucket = (bucket + 1) & self.mask;
        }
        None
    }

    /// Has the processor fetch the page's home bucket.
    #[inline]
    pub(crate) fn hint(&self, hash: u64) {
        prefetch(&raw const self.buckets[self.home(hash)]);
    }

    /// Has the processor fetch the latch of the page's home bucket.
    #[inline]
    pub(crate) fn hint_latch(&self, hash: u64) {
        prefetch(&raw const self.controls[self.home(hash)]);
    }

    /// The latch of the page's home bucket; waits for it.
    pub(crate) fn lock(&self, hash: u64) -> Home<'_> {
        loop {
            if let Some(home) = self.try_lock(hash) {
                return home;
            }
            relax();
        }
    }

    /// The latch of the page's home bucket, if nobody has it.
    pub(crate) fn try_lock(&self, hash: u64) -> Option<Home<'_>> {
        let home = self.home(hash);
        let control = &self.controls[home];
        let mut seen = control.load(Ordering::Relaxed);
        while seen & LATCHED == 0 {
            // Acquire: partner is the release in `Home::drop`.
            match control.compare_exchange(
                seen,
                seen | LATCHED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    return Some(Home {
                        table: self,
                        hash,
                        home,
                    });
                }
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Pages that stand in a bucket other than their home, each counted once for every bucket it passed.
    #[cfg(test)]
    pub(crate) fn passed(&self) -> u32 {
        let counts = self.controls.iter();
        counts
            .map(|control| control.load(Ordering::Relaxed) & PASSED)
            .sum()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let mut slots = self.buckets.iter().flat_map(|bucket| &bucket.0);
        slots.all(|slot| slot.load(Ordering::Relaxed) == 0)
    }
}

/// Has the processor fetch a cache line.
#[inline]
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint whatever the address, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is the frame"
)]
#[inline]
const fn frame_of(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

/// A home bucket's latch, held: pages of this home are neither inserted, removed nor moved by anybody else.
#[derive(Debug)]
pub(crate) struct Home<'t> {
    table: &'t Table,
    hash: u64,
    home: usize,
}

impl Home<'_> {
    /// As [`Table::find`]; what it does not find is not there.
    pub(crate) fn find<T>(&self, probe: impl FnMut(u32) -> Option<T>) -> Option<(u32, T)> {
        self.table.find(self.hash, probe)
    }

    /// Enters the frame. The caller has made sure that the page is not there.
    pub(crate) fn insert(&self, frame: u32) {
        let mut bucket = self.home;
        loop {
            for step in 0..BUCKET_SLOTS {
                let slot = &self.table.buckets[bucket].0
                    [low_bits(self.hash).wrapping_add(step) % BUCKET_SLOTS];
                // Release: the frame's page, written before, is seen with the slot. Pages of other homes may be
                // inserted into this bucket at the same time, hence the exchange.
                if slot.load(Ordering::Relaxed) == 0
                    && slot
                        .compare_exchange(
                            0,
                            entry(self.hash, frame),
                            Ordering::Release,
                            Ordering::Relaxed,
                        )
                        .is_ok()
                {
                    return;
                }
            }
            // Relaxed: whoever must find the page has the latch, or repeats under it.
            self.table.controls[bucket].fetch_add(1, Ordering::Relaxed);
            bucket = (bucket + 1) & self.table.mask;
            assert!(
                bucket != self.home || !self.full(),
                "the table has a slot for every frame"
            );
        }
    }

    fn full(&self) -> bool {
        let slots = self.table.buckets.iter().flat_map(|bucket| &bucket.0);
        slots
            .into_iter()
            .all(|slot| slot.load(Ordering::Relaxed) != 0)
    }

    /// Takes the frame's entry out.
    pub(crate) fn remove(&self, frame: u32) {
        let (bucket, slot) = self.entry(frame);
        slot.store(0, Ordering::Release);
        let mut passed = self.home;
        while passed != bucket {
            self.table.controls[passed].fetch_sub(1, Ordering::Relaxed);
            passed = (passed + 1) & self.table.mask;
        }
    }

    /// Makes the entry name another frame.
    pub(crate) fn replace(&self, frame: u32, with: u32) {
        // Release, as in `insert`.
        self.entry(frame)
            .1
            .store(entry(self.hash, with), Ordering::Release);
    }

    fn entry(&self, frame: u32) -> (usize, &AtomicU64) {
        let wanted = entry(self.hash, frame);
        let mut bucket = self.home;
        for _ in 0..=self.table.mask {
            let slots = &self.table.buckets[bucket].0;
            let nth = |step| &slots[low_bits(self.hash).wrapping_add(step) % BUCKET_SLOTS];
            let mut slots = (0..BUCKET_SLOTS).map(nth);
            // Relaxed: only holders of this latch write this entry.
            if let Some(slot) = slots.find(|slot| slot.load(Ordering::Relaxed) == wanted) {
                return (bucket, slot);
            }
            bucket = (bucket + 1) & self.table.mask;
        }
        unreachable!("a page that is taken out of the table was in it")
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        // Release: partner is the acquire in `try_lock`.
        self.table.controls[self.home].fetch_and(!LATCHED, Ordering::Release);
    }
}
