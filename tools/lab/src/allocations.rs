//! Counts what the code under test allocates.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts its calls by thread, since tests run side by side: memory that is had, given back
/// or had in another size. A test binary that wants to count makes it its own:
///
/// ```
/// use sandrail_lab::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator;
///
/// assert_eq!(CountingAllocator::calls_of(|| drop(std::hint::black_box(vec![0_u8; 100]))), 2);
/// assert_eq!(CountingAllocator::calls_of(|| ()), 0);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// Calls of this thread so far; 0 for ever where it is not the global allocator.
    #[must_use]
    pub fn calls() -> u64 {
        CALLS.get()
    }

    /// Calls that this thread makes while it works.
    pub fn calls_of(work: impl FnOnce()) -> u64 {
        let before = Self::calls();
        work();
        Self::calls() - before
    }
}

fn count() {
    // `try_with`: a thread that ends frees its locals after this one is gone.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, len) }
    }
}
