//! Memory whose size is fixed at the start: an [`Arena`] of hugepages where the machine has them, and [`BufferPool`]s of
//! equal buffers carved from it, and the buffer [`cache`].
//!
//! Nothing is allocated after the start: getting and dropping a [`Buffer`] moves an index through a lock-free queue
//! (crossbeam's `ArrayQueue`). The lock-free code of our own is that of the cache.

pub mod arena;
pub mod cache;
pub mod pool;

pub use arena::{
    Arena, ArenaError, ArenaOptions, Backing, GIANT_PAGE_BYTES, HugePages, Placement, Region, Wish,
};
pub use pool::{Buffer, BufferPool, PoolError, SECTOR_BYTES};
