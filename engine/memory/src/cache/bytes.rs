//! The bytes of the frames, as words that several threads may touch at once.
//!
//! An optimistic reader reads while a writer may write, and only finds out afterwards. With plain accesses that is a
//! data race, which the language does not define, whatever is done with the bytes. So all bytes that somebody could
//! still be reading optimistically are written, and all optimistic reads are done, as relaxed atomic accesses of
//! whole aligned 64-bit words (accesses of different sizes to one place would be undefined again). docs/cache.md has
//! the argument in full.
#![allow(
    unsafe_code,
    reason = "frames are pieces of the arena's mapping, seen as words or as bytes"
)]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use super::residency::{Head, Heads};
use crate::arena::{Arena, ArenaError, Region};

/// A cache line. Frames are one longer than their page: the head takes the beginning of it, and the same place of each page
/// does not compete for the same few lines of the processor's caches, as it would with a page's length between them.
const LINE_BYTES: usize = 64;
const WORD_BYTES: usize = 8;
/// Where the page begins: behind its head, in the same cache line. Who reads the beginning of a page, where pages keep
/// what is read first, has it with the state.
const PAGE_OFFSET: usize = size_of::<Head>();

/// All frames, one behind the other, each with its head before its page.
#[derive(Debug)]
pub(crate) struct FrameMemory {
    region: Region,
    page_bytes: usize,
    stride_bytes: usize,
    frames: usize,
}

impl FrameMemory {
    /// Carves the frames, all empty.
    pub(crate) fn new(
        arena: &mut Arena,
        page_bytes: usize,
        frames: u32,
    ) -> Result<Self, ArenaError> {
        let bytes = Self::arena_bytes(page_bytes, frames);
        let bytes = NonZeroUsize::new(bytes).ok_or(ArenaError::Length { len_bytes: 0 })?;
        let this = Self {
            region: arena.carve(bytes)?,
            page_bytes,
            stride_bytes: page_bytes + LINE_BYTES,
            frames: frames as usize,
        };
        for frame in 0..frames {
            // SAFETY: a frame begins with room for a head, aligned to cache lines, and nobody else has it yet.
            unsafe { this.start(frame).cast::<Head>().write(Head::new()) };
        }
        Ok(this)
    }

    pub(crate) fn arena_bytes(page_bytes: usize, frames: u32) -> usize {
        (page_bytes + LINE_BYTES).saturating_mul(frames as usize)
    }

    #[inline]
    fn start(&self, frame: u32) -> NonNull<u8> {
        let frame = frame as usize;
        assert!(frame < self.frames, "frame {frame} of {}", self.frames);
        // SAFETY: the region is stride * frames long, and frame < frames.
        unsafe { self.region.start().add(frame * self.stride_bytes) }
    }

    #[inline]
    fn page(&self, frame: u32) -> *mut u8 {
        // SAFETY: a frame is longer than its head.
        unsafe { self.start(frame).add(PAGE_OFFSET) }.as_ptr()
    }

    /// The frame's words, for anybody at any time.
    #[inline]
    pub(crate) fn words(&self, frame: u32) -> &[AtomicU64] {
        let start = self.page(frame).cast::<AtomicU64>();
        // SAFETY: page_bytes from `start` lie in the region, which lives as long as self, is initialised, and aligned to
        // words; these bytes are only ever written through atomics of this size.
        unsafe { slice::from_raw_parts(start, self.page_bytes / WORD_BYTES) }
    }

    /// As [`Self::words`], of a frame whose place is known.
    #[inline]
    pub(crate) fn words_at(&self, place: Place) -> &[AtomicU64] {
        // SAFETY: a place is a frame's start, and a frame is longer than its head.
        let start = unsafe { place.0.add(PAGE_OFFSET) }.cast::<AtomicU64>();
        // SAFETY: as in `words`.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.page_bytes / WORD_BYTES) }
    }

    /// The frame's bytes, to read as usual.
    ///
    /// # Safety
    /// Nobody writes to the frame while the slice lives: the caller holds a latch of it, or has it marked as being
    /// written to the volume.
    #[inline]
    pub(crate) unsafe fn bytes(&self, frame: u32) -> &[u8] {
        let start = self.page(frame);
        // SAFETY: as in `words`; that nothing changes meanwhile is the caller's promise. Others may load the same
        // bytes as atomics, which does not conflict with reading them.
        unsafe { slice::from_raw_parts(start, self.page_bytes) }
    }

    /// Copies a whole page from one frame to another. The caller has both.
    pub(crate) fn copy(&self, from: u32, to: u32) {
        let (from, to) = (self.words(from), self.words(to));
        store_bytes(to, 0, from.as_ptr().cast(), self.page_bytes);
    }
}

/// Where a frame begins. Only [`FrameMemory`] makes these, and a cache has one of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(NonNull<u8>);

// SAFETY: a place is a number that leads to atomics.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Heads for FrameMemory {
    type Place = Place;

    #[inline]
    fn place(&self, frame: u32) -> Place {
        Place(self.start(frame))
    }

    #[inline]
    fn head_at(&self, place: Place) -> &Head {
        let start = place.0.cast::<Head>();
        // SAFETY: each frame begins with a head since `new`, which consists of atomics and is only used as such.
        unsafe { start.as_ref() }
    }
}

/// Eight bytes of memory as the number that, stored in this machine's order, is those bytes.
fn to_word(bytes: [u8; WORD_BYTES]) -> u64 {
    u64::from_le_bytes(bytes).to_le()
}

fn to_bytes(word: u64) -> [u8; WORD_BYTES] {
    u64::from_le(word).to_le_bytes()
}

/// From this length on, a string instruction is quicker than a loop of words.
const LONG_BYTES: usize = 256;

/// Copies out of words that may change meanwhile; the caller finds out.
///
/// # Panics
/// Beyond the end.
pub(crate) fn copy_out(words: &[AtomicU64], offset_bytes: usize, to: &mut [u8]) {
    check_range(words, offset_bytes, to.len());
    if to.len() >= LONG_BYTES {
        return load_bytes(words, offset_bytes, to);
    }
    copy_out_words(words, offset_bytes, to);
}

fn copy_out_words(words: &[AtomicU64], offset_bytes: usize, to: &mut [u8]) {
    let mut word = offset_bytes / WORD_BYTES;
    let skip = offset_bytes % WORD_BYTES;
    let head = if skip == 0 {
        0
    } else {
        (WORD_BYTES - skip).min(to.len())
    };
    let (first, rest) = to.split_at_mut(head);
    if head > 0 {
        let bytes = to_bytes(words[word].load(Ordering::Relaxed));
        first.copy_from_slice(&bytes[skip..skip + head]);
        word += 1;
    }
    let mut chunks = rest.chunks_exact_mut(WORD_BYTES);
    let whole = chunks.len();
    for (chunk, from) in chunks.by_ref().zip(&words[word..word + whole]) {
        chunk.copy_from_slice(&to_bytes(from.load(Ordering::Relaxed)));
    }
    let tail = chunks.into_remainder();
    if !tail.is_empty() {
        let bytes = to_bytes(words[word + whole].load(Ordering::Relaxed));
        tail.copy_from_slice(&bytes[..tail.len()]);
    }
}

/// Copies into words that the caller alone may change.
///
/// # Panics
/// Beyond the end.
pub(crate) fn copy_in(words: &[AtomicU64], offset_bytes: usize, from: &[u8]) {
    check_range(words, offset_bytes, from.len());
    if from.len() >= LONG_BYTES {
        return store_bytes(words, offset_bytes, from.as_ptr(), from.len());
    }
    copy_in_words(words, offset_bytes, from);
}

fn copy_in_words(words: &[AtomicU64], offset_bytes: usize, from: &[u8]) {
    let mut word = offset_bytes / WORD_BYTES;
    let skip = offset_bytes % WORD_BYTES;
    let head = if skip == 0 {
        0
    } else {
        (WORD_BYTES - skip).min(from.len())
    };
    let (first, rest) = from.split_at(head);
    if head > 0 {
        change(&words[word], skip, first);
        word += 1;
    }
    let (chunks, tail) = rest.as_chunks::<WORD_BYTES>();
    for (chunk, to) in chunks.iter().zip(&words[word..]) {
        to.store(to_word(*chunk), Ordering::Relaxed);
    }
    if !tail.is_empty() {
        change(&words[word + chunks.len()], 0, tail);
    }
}

/// Copies `len_bytes` from `from`, which is good for reading them, into words that the caller alone may change; the
/// range has been checked.
///
/// The instruction copies whole cache lines without reading them first, which halves the time into memory that is in no
/// cache. To the language it is what a loop of relaxed stores would be, in which each word gets its bytes one after the
/// other: assembly may do what some such code could. Later stores come after it for all processors (Intel SDM vol. 3,
/// "Fast-String Operation and Out-of-Order Stores"), and the release of the latch is one.
#[cfg(target_arch = "x86_64")]
fn store_bytes(words: &[AtomicU64], offset_bytes: usize, from: *const u8, len_bytes: usize) {
    debug_assert!(offset_bytes + len_bytes <= size_of_val(words));
    // SAFETY: the offset was checked to be within the words.
    let to = unsafe { words.as_ptr().cast::<u8>().add(offset_bytes) }.cast_mut();
    // SAFETY: both ranges are good for their accesses, and don't overlap: no caller copies a frame into itself. The
    // direction flag is clear by the calling convention.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") len_bytes => _, inout("rdi") to => _,
            inout("rsi") from => _, options(nostack, preserves_flags));
    };
}

/// The same in words.
#[cfg(not(target_arch = "x86_64"))]
fn store_bytes(words: &[AtomicU64], offset_bytes: usize, from: *const u8, len_bytes: usize) {
    // SAFETY: the caller says so, and only frames that it has latched are copied from.
    let from = unsafe { slice::from_raw_parts(from, len_bytes) };
    copy_in_words(words, offset_bytes, from);
}

/// Copies out of words that may change meanwhile; the range has been checked. To the language, a loop of relaxed loads.
#[cfg(target_arch = "x86_64")]
fn load_bytes(words: &[AtomicU64], offset_bytes: usize, to: &mut [u8]) {
    // SAFETY: the offset was checked to be within the words.
    let from = unsafe { words.as_ptr().cast::<u8>().add(offset_bytes) };
    // SAFETY: as in `store_bytes`; `to` is a slice of its own.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") to.len() => _, inout("rdi") to.as_mut_ptr() => _,
            inout("rsi") from => _, options(nostack, preserves_flags));
    };
}

/// The same in words.
#[cfg(not(target_arch = "x86_64"))]
fn load_bytes(words: &[AtomicU64], offset_bytes: usize, to: &mut [u8]) {
    copy_out_words(words, offset_bytes, to);
}

fn change(word: &AtomicU64, skip: usize, from: &[u8]) {
    let mut bytes = to_bytes(word.load(Ordering::Relaxed));
    bytes[skip..skip + from.len()].copy_from_slice(from);
    word.store(to_word(bytes), Ordering::Relaxed);
}

fn check_range(words: &[AtomicU64], offset_bytes: usize, len_bytes: usize) {
    let page_bytes = words.len() * WORD_BYTES;
    assert!(
        offset_bytes <= page_bytes && len_bytes <= page_bytes - offset_bytes,
        "bytes {offset_bytes} to {offset_bytes} + {len_bytes} of a page of {page_bytes}"
    );
}

/// A page as an optimistic reader sees it: any of its bytes may be changing, and nothing that was read counts until the
/// check has passed. It gives out copies only.
#[derive(Clone, Copy, Debug)]
pub struct View<'f> {
    words: &'f [AtomicU64],
}

impl<'f> View<'f> {
    #[inline]
    pub(crate) fn new(words: &'f [AtomicU64]) -> Self {
        Self { words }
    }

    /// Length of the page, in bytes.
    #[must_use]
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.words.len() * WORD_BYTES
    }

    /// The little-endian number in the page's eight bytes from `8 * index`.
    ///
    /// # Panics
    /// Beyond the end of the page. An offset that itself was read optimistically is to be compared with the length
    /// first.
    #[must_use]
    #[inline]
    pub fn u64_at(&self, index: usize) -> u64 {
        u64::from_le(self.words[index].load(Ordering::Relaxed))
    }

    /// Copies the bytes from `offset_bytes` on.
    ///
    /// # Panics
    /// Beyond the end of the page, as above.
    #[inline]
    pub fn read(&self, offset_bytes: usize, to: &mut [u8]) {
        copy_out(self.words, offset_bytes, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn copies_in_and_out_are_those_of_slices(
            start in prop::collection::vec(any::<u8>(), 1024),
            data in prop::collection::vec(any::<u8>(), 0..1024),
            offset in 0_usize..1024,
            (from, len) in (0_usize..=1024).prop_flat_map(|from| (Just(from), 0..=1024 - from)),
        ) {
            let words: Vec<AtomicU64> = (0..128).map(|_| AtomicU64::new(0)).collect();
            let mut oracle = start.clone();
            copy_in(&words, 0, &start);
            let data = &data[..data.len().min(1024 - offset)];
            copy_in(&words, offset, data);
            oracle[offset..offset + data.len()].copy_from_slice(data);
            let mut read = vec![0; len];
            copy_out(&words, from, &mut read);
            prop_assert_eq!(&read, &oracle[from..from + len]);
            let number = u64::from_le_bytes(oracle[8..16].try_into().unwrap());
            prop_assert_eq!(View::new(&words).u64_at(1), number);
        }
    }

    #[test]
    #[should_panic(expected = "of a page of 16")]
    fn nothing_is_copied_from_beyond_the_end() {
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        copy_out(&words, 15, &mut [0, 0]);
    }
}
