//! No link allocates while frames flow: counted by an allocator that wraps the system's.

#![allow(
    clippy::cast_possible_truncation,
    reason = "nanoseconds of a test fit 64 bits"
)]

use std::sync::Arc;
use std::time::Duration;

use sandrail_lab::{CountingAllocator, Lab, Side, can_run};
use sandrail_link::Link;
use sandrail_link::capture::{CaptureConfig, CaptureLink, CaptureSwitch};
use sandrail_link::fault::{FaultLink, FaultPlan};
use sandrail_link::packet::{PacketConfig, PacketLink, PacketMode};
use sandrail_proto::time::Instant;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

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
    let before = CountingAllocator::calls();
    drop(std::hint::black_box(vec![1_u8]));
    assert_eq!(CountingAllocator::calls(), before + 2);
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
        let before = CountingAllocator::calls();
        let received = turns(&mut near, &mut far, 500, 501);
        assert_eq!(CountingAllocator::calls(), before, "{mode:?}");
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
        let before = CountingAllocator::calls();
        let received = turns(&mut near, &mut far, 500, 501);
        assert_eq!(CountingAllocator::calls(), before, "{mode:?}, decorated");
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
        let before = CountingAllocator::calls();
        turns(&mut near, &mut far, 10, 0);
        assert_eq!(
            CountingAllocator::calls(),
            before,
            "{mode:?}: leaving a capture frees nothing here"
        );
    }
}
