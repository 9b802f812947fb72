//! No link allocates while frames flow: counted by an allocator that wraps the system's.

#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "nanoseconds of a test fit 64 bits"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use sandrail_lab::{Lab, Side, can_run};
use sandrail_link::Link;
use sandrail_link::capture::{CaptureConfig, CaptureLink, CaptureSwitch};
use sandrail_link::fault::{FaultLink, FaultPlan};
use sandrail_link::packet::{PacketConfig, PacketLink, PacketMode};
use sandrail_proto::time::Instant;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system allocator's own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system allocator's own.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Sends bursts from one link to the other, so many and until so many frames were received: under load the kernel delivers them
/// when its own thread gets its turn.
fn turns(near: &mut impl Link, far: &mut impl Link, turns: u64, frames_min: usize) -> usize {
    let start = std::time::Instant::now();
    let mut header = [0_u8; 36];
    header[..6].copy_from_slice(&far.info().mac.0);
    header[6..12].copy_from_slice(&near.info().mac.0);
    header[12..15].copy_from_slice(&[0x88, 0xa2, 0x10]);
    let payload = [0x5a; 4096];
    let mut received = 0;
    let mut done = 0;
    while done < turns || received < frames_min && start.elapsed() < Duration::from_secs(30) {
        done += 1;
        if done > turns {
            std::thread::yield_now();
        }
        let now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
        for _ in 0..near.transmit_room().min(16) {
            near.transmit(now, &header, &payload).unwrap();
        }
        near.flush(now);
        received += far.receive(now, 64, &mut |frame| assert!(frame.len_bytes() == 4132));
        far.flush(now);
        far.prepare_wait();
        far.counters();
    }
    received
}

#[test]
fn counting_works() {
    let before = allocations();
    drop(std::hint::black_box(vec![1_u8]));
    assert_eq!(allocations(), before + 2);
}

#[test]
fn no_link_allocates_while_frames_flow() {
    if !can_run("link: no allocation per frame", Lab::namespaces_supported()) {
        return;
    }
    let lab = Lab::builder()
        .name_prefix("srlink")
        .mtu(9000)
        .build()
        .unwrap();
    for mode in [PacketMode::Ring, PacketMode::Mmsg] {
        let open = |side| {
            let mut config = PacketConfig::new(lab.interface(side));
            config.mode = mode;
            lab.enter(side, || PacketLink::open(&config))
                .unwrap()
                .unwrap()
        };
        let (mut near, mut far) = (open(Side::Initiator), open(Side::Target));
        let before = allocations();
        let received = turns(&mut near, &mut far, 500, 501);
        assert_eq!(allocations(), before, "{mode:?}");
        assert!(received > 500, "{received}");

        // All decorators on top, with faults of every kind and a capture that runs.
        let switch = CaptureSwitch::new();
        let wrap = |link, seed| {
            let mut plan = FaultPlan::new(seed).with_rates(0.05, 0.1, 0.2);
            (plan.transmit.delay, plan.receive.delay) = (0.1, 0.1);
            CaptureLink::new(FaultLink::new(link, plan), Arc::clone(&switch))
        };
        let (mut near, mut far) = (wrap(near, 1), wrap(far, 2));
        switch.start(CaptureConfig::new("/dev/null")).unwrap();
        let before = allocations();
        let received = turns(&mut near, &mut far, 500, 501);
        assert_eq!(allocations(), before, "{mode:?}, decorated");
        assert!(received > 500, "{received}");
        let give_up = std::time::Instant::now() + Duration::from_secs(30);
        while switch
            .summary()
            .is_some_and(|so_far| so_far.written_frames <= 500)
            && std::time::Instant::now() < give_up
        {
            std::thread::sleep(Duration::from_millis(5));
            turns(&mut near, &mut far, 10, 0);
        }
        assert!(switch.stop().unwrap().unwrap().written_frames > 500);
        let before = allocations();
        turns(&mut near, &mut far, 10, 0);
        assert_eq!(
            allocations(),
            before,
            "{mode:?}: leaving a capture frees nothing here"
        );
    }
}
