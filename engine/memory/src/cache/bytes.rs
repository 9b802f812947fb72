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
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{Arena, ArenaError, Region};

/// What frames are aligned to.
pub(crate) const LINE_BYTES: usize = 64;
const WORD_BYTES: usize = 8;

/// All frames, one behind the other.
#[derive(Debug)]
pub(crate) struct FrameMemory {
    region: Region,
    page_bytes: usize,
    stride_bytes: usize,
    frames: usize,
}

impl FrameMemory {
    /// Carves the frames. With `spread`, frames are a cache line further apart than a page is long.
    pub(crate) fn new(
        arena: &mut Arena,
        page_bytes: usize,
        frames: u32,
        spread: bool,
    ) -> Result<Self, ArenaError> {
        let bytes = Self::arena_bytes(page_bytes, frames, spread);
        let bytes = NonZeroUsize::new(bytes).ok_or(ArenaError::Length { len_bytes: 0 })?;
        Ok(Self {
            region: arena.carve(bytes)?,
            page_bytes,
            stride_bytes: stride(page_bytes, spread),
            frames: frames as usize,
        })
    }

    pub(crate) fn arena_bytes(page_bytes: usize, frames: u32, spread: bool) -> usize {
        stride(page_bytes, spread).saturating_mul(frames as usize)
    }

    #[inline]
    fn start(&self, frame: u32) -> *mut u8 {
        let frame = frame as usize;
        assert!(frame < self.frames, "frame {frame} of {}", self.frames);
        // SAFETY: the region is stride * frames long, and frame < frames.
        unsafe { self.region.start().as_ptr().add(frame * self.stride_bytes) }
    }

    /// The frame's words, for anybody at any time.
    #[inline]
    pub(crate) fn words(&self, frame: u32) -> &[AtomicU64] {
        let start = self.start(frame).cast::<AtomicU64>();
        // SAFETY: page_bytes from `start` lie in the region, which lives as long as self, is initialised, and aligned to
        // cache lines; these bytes are only ever written through atomics of this size.
        unsafe { slice::from_raw_parts(start, self.page_bytes / WORD_BYTES) }
    }

    /// The frame's bytes, to read as usual.
    ///
    /// # Safety
    /// Nobody writes to the frame while the slice lives: the caller holds a latch of it, or has it marked as being
    /// written to the volume.
    #[inline]
    pub(crate) unsafe fn bytes(&self, frame: u32) -> &[u8] {
        let start = self.start(frame);
        // SAFETY: as in `words`; that nothing changes meanwhile is the caller's promise. Others may load the same
        // bytes as atomics, which does not conflict with reading them.
        unsafe { slice::from_raw_parts(start, self.page_bytes) }
    }

    /// Copies a whole page from one frame to another.
    pub(crate) fn copy(&self, from: u32, to: u32) {
        for (from, to) in self.words(from).iter().zip(self.words(to)) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

fn stride(page_bytes: usize, spread: bool) -> usize {
    if spread {
        page_bytes + LINE_BYTES
    } else {
        page_bytes
    }
}

/// Eight bytes of memory as the number that, stored in this machine's order, is those bytes.
fn to_word(bytes: [u8; WORD_BYTES]) -> u64 {
    u64::from_le_bytes(bytes).to_le()
}

fn to_bytes(word: u64) -> [u8; WORD_BYTES] {
    u64::from_le(word).to_le_bytes()
}

/// Copies out of words that may change meanwhile; the caller finds out.
///
/// # Panics
/// Beyond the end.
pub(crate) fn copy_out(words: &[AtomicU64], offset_bytes: usize, to: &mut [u8]) {
    check_range(words, offset_bytes, to.len());
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
    let mut chunks = rest.as_chunks::<WORD_BYTES>();
    for (chunk, to) in chunks.0.iter().zip(&words[word..]) {
        to.store(to_word(*chunk), Ordering::Relaxed);
    }
    let tail = std::mem::take(&mut chunks.1);
    if !tail.is_empty() {
        change(&words[word + chunks.0.len()], 0, tail);
    }
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
            start in prop::collection::vec(any::<u8>(), 64),
            data in prop::collection::vec(any::<u8>(), 0..64),
            offset in 0_usize..64,
            (from, len) in (0_usize..=64).prop_flat_map(|from| (Just(from), 0..=64 - from)),
        ) {
            let words: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
            let mut oracle = start.clone();
            copy_in(&words, 0, &start);
            let data = &data[..data.len().min(64 - offset)];
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
