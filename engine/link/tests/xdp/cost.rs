//! What a frame costs besides its copy.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sandrail_lab::Side;
use sandrail_link::Link;
use sandrail_link::xdp::XdpLink;

use crate::support::{Deadline, MODES, aoe_request, lab, links, port, small};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread: tests run side by side.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// One frame after another from `a` to `b`, as a shard's loop would.
fn turns(a: &mut XdpLink, b: &mut XdpLink, frame: &[u8], count: u32) {
    let clock = Deadline::new(60);
    let mut got = 0;
    while got < count {
        for _ in 0..8 {
            // Full is as good: the frame goes in a later turn.
            let _ = a.transmit(clock.now(), &frame[..36], &frame[36..]);
        }
        a.flush(clock.now());
        b.receive(clock.now(), 8, &mut |_| got += 1);
        b.flush(clock.now());
        b.prepare_wait();
        assert!(!clock.passed(), "{got} of {count}");
    }
}

#[test]
fn nothing_is_allocated_once_a_link_is_open() {
    let Some(lab) = lab("nothing_is_allocated", 9000, 1) else {
        return;
    };
    assert_ne!(
        allocations(|| drop(vec![0_u8; 10])),
        0,
        "the counter counts"
    );
    let frame = aoe_request(&lab, Side::Target, 4132, 1);
    for mode in MODES {
        for shards in [&[0][..], &[0, 1]] {
            let [mut a, mut b] = [Side::Initiator, Side::Target].map(|side| {
                let port = port(&lab, side, &small(lab.interface(side), mode));
                links(&lab, side, &port, 0, shards)
            });
            let count = allocations(|| turns(&mut a[0], &mut b[0], &frame, 5000));
            assert_eq!(count, 0, "{mode:?}, {} shards", shards.len());
        }
    }
}
