//! What a frame costs besides its copy.

use sandrail_lab::{CountingAllocator, Side};
use sandrail_link::Link;
use sandrail_link::xdp::XdpLink;

use crate::support::{Deadline, MODES, aoe_request, lab, links, port, small};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

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
        CountingAllocator::calls_of(|| drop(vec![0_u8; 10])),
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
            let count = CountingAllocator::calls_of(|| turns(&mut a[0], &mut b[0], &frame, 5000));
            assert_eq!(count, 0, "{mode:?}, {} shards", shards.len());
        }
    }
}
