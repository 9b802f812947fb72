//! Buffers of one size, each owned by one holder at a time, back in the pool when dropped.
#![allow(
    unsafe_code,
    reason = "a buffer is a slice of the pool's region, owned by index; the borrow checker can't see that"
)]

use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::arena::{Arena, ArenaError, PAGE_BYTES, Region};

/// What a buffer's size is a multiple of: a disk's sector.
pub const SECTOR_BYTES: usize = 512;

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Buffers must be whole sectors, at least one, and at most 4 GiB.
    #[error(
        "a buffer of {buffer_bytes} bytes is not a whole number of 512-byte sectors up to 4 GiB"
    )]
    BufferLength {
        /// Length asked for.
        buffer_bytes: usize,
    },
    /// A pool has 1 to 2^32-1 buffers.
    #[error("a pool of {count} buffers makes no sense")]
    Count {
        /// Number asked for.
        count: usize,
    },
    /// The arena has no room.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

struct Shared {
    region: Region,
    /// Distance from one buffer's start to the next's.
    stride_bytes: usize,
    capacity_bytes: u32,
    count: usize,
    /// Indices of the buffers that nobody holds. An index is in here or in exactly one `Buffer`.
    free: ArrayQueue<u32>,
}

/// A fixed number of equal buffers. Clones share them; any thread may get and drop.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("capacity_bytes", &self.shared.capacity_bytes)
            .field("count", &self.shared.count)
            .field("free", &self.free())
            .finish()
    }
}

impl BufferPool {
    /// Carves `count` buffers of `buffer_bytes` each. Each begins on a sector boundary, and on a page boundary when
    /// `buffer_bytes` is half a page or more.
    ///
    /// # Errors
    /// [`PoolError`] when the numbers make no sense or the arena has no room.
    pub fn new(arena: &mut Arena, buffer_bytes: usize, count: usize) -> Result<Self, PoolError> {
        let wrong_length = PoolError::BufferLength { buffer_bytes };
        let Some(capacity_bytes) = u32::try_from(buffer_bytes)
            .ok()
            .filter(|bytes| *bytes > 0 && buffer_bytes.is_multiple_of(SECTOR_BYTES))
        else {
            return Err(wrong_length);
        };
        let Ok(count_u32) = u32::try_from(count) else {
            return Err(PoolError::Count { count });
        };
        let stride_bytes = stride(buffer_bytes);
        let total = stride_bytes
            .checked_mul(count)
            .and_then(NonZeroUsize::new)
            .ok_or(PoolError::Count { count })?;
        let region = arena.carve(total)?;
        let free = ArrayQueue::new(count);
        for index in 0..count_u32 {
            // The queue was made for as many.
            let _ = free.push(index);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                region,
                stride_bytes,
                capacity_bytes,
                count,
                free,
            }),
        })
    }

    /// Arena bytes that a pool of `count` buffers of `buffer_bytes` takes.
    #[must_use]
    pub fn arena_bytes(buffer_bytes: usize, count: usize) -> usize {
        stride(buffer_bytes)
            .saturating_mul(count)
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(usize::MAX)
    }

    /// A buffer at its full length, with whatever its last holder left in it; `None` when all are held.
    #[must_use]
    pub fn get(&self) -> Option<Buffer> {
        let index = self.shared.free.pop()?;
        let offset = usize::try_from(index).ok()? * self.shared.stride_bytes;
        // SAFETY: index < count, so the buffer lies within the region, which is stride_bytes * count long.
        let start = unsafe { self.shared.region.start().add(offset) };
        Some(Buffer {
            start,
            len_bytes: self.shared.capacity_bytes,
            index,
            pool: Some(Arc::clone(&self.shared)),
        })
    }

    /// Buffers that nobody holds, as of now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.shared.free.len()
    }

    /// Buffers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Length of each, in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        usize::try_from(self.shared.capacity_bytes).unwrap_or(usize::MAX)
    }
}

/// Buffers of half a page and more begin on a page, smaller ones are packed by sectors.
fn stride(buffer_bytes: usize) -> usize {
    if buffer_bytes >= PAGE_BYTES / 2 {
        buffer_bytes
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(usize::MAX)
    } else {
        buffer_bytes
    }
}

/// A buffer, owned. It can't be cloned, so two holders of the same bytes can't be written down:
///
/// ```compile_fail
/// fn twice(buffer: sandrail_memory::Buffer) -> (sandrail_memory::Buffer, sandrail_memory::Buffer) {
///     (buffer, buffer)
/// }
/// ```
pub struct Buffer {
    start: NonNull<u8>,
    len_bytes: u32,
    index: u32,
    /// `None` only in [`Buffer::empty`].
    pool: Option<Arc<Shared>>,
}

// SAFETY: a buffer is the only holder of its index, hence the only way to its bytes, like a Box<[u8]>.
unsafe impl Send for Buffer {}
// SAFETY: through a shared buffer the bytes can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of no bytes that belongs to no pool: for requests that carry no data.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            start: NonNull::dangling(),
            len_bytes: 0,
            index: 0,
            pool: None,
        }
    }

    /// Bytes visible through `as_ref` and `as_mut`.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.len_bytes).unwrap_or(usize::MAX)
    }

    /// Whether no byte is visible.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// The most bytes that can be made visible.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let capacity = self.pool.as_ref().map_or(0, |pool| pool.capacity_bytes);
        usize::try_from(capacity).unwrap_or(usize::MAX)
    }

    /// Makes the first `len_bytes` visible, be it fewer or more than now; what lies there stays as it is.
    ///
    /// # Panics
    /// When `len_bytes` exceeds [`Buffer::capacity`].
    pub fn set_len(&mut self, len_bytes: usize) {
        assert!(
            len_bytes <= self.capacity(),
            "a length of {len_bytes} exceeds the buffer's {}",
            self.capacity()
        );
        self.len_bytes = u32::try_from(len_bytes).expect("capacity fits 32 bits");
    }

    /// Makes at most the first `len_bytes` visible, like `Vec::truncate`.
    pub fn truncate(&mut self, len_bytes: usize) {
        if len_bytes < self.len() {
            self.set_len(len_bytes);
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: start..start+len lies in the pool's region (kept alive by `pool`), mapped memory is initialised, and
        // nobody else has a reference since this buffer is the only holder of its index. An empty buffer's pointer
        // dangles, which a slice of length 0 allows.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`; `&mut self` makes this the only reference.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let back = pool.free.push(self.index);
            assert!(back.is_ok(), "more buffers came back than the pool has");
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("index", &self.index)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}
