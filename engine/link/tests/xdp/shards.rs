//! Several shards on one interface: on queues of their own, and on one queue.

use std::thread;

use sandrail_lab::{Lab, Side};
use sandrail_link::Link;
use sandrail_link::xdp::{XdpConfig, XdpLink, XdpMode};

use crate::support::{Deadline, Frame, MODES, bytes_of, lab, links, port, small, until};

/// The frame with that number for a shard: all sizes, every bit of it known to the receiver.
fn numbered(lab: &Lab, side: Side, shard: u32, number: u32) -> Vec<u8> {
    let len_bytes = 60 + usize::try_from(number).expect("a small number") * 7919 % 8955;
    Frame {
        len_bytes,
        ..response(shard, number)
    }
    .build(lab, side)
}

fn response(shard: u32, number: u32) -> Frame<'static> {
    Frame {
        tags: &[],
        ethertype: 0x88a2,
        response: true,
        tag: shard << 28 | number << 4,
        len_bytes: 60,
    }
}

/// Sends `count` numbered frames of a shard from `a` to `b`, and back what `b` gets; each thread owns a pair of links.
fn exchange(lab: &Lab, shard: u32, a: &mut XdpLink, b: &mut XdpLink, count: u32) {
    /// Less than the chunks of the least of them, so that no frame is lost for want of room.
    const OUT_MAX: u32 = 16;
    let clock = Deadline::new(60);
    let (mut sent, mut echoed, mut got) = (0, 0, 0);
    while got < count {
        while sent < count && sent - got < OUT_MAX {
            let frame = numbered(lab, Side::Target, shard, sent);
            if a.transmit(clock.now(), &frame[..24], &frame[24..]).is_err() {
                break;
            }
            sent += 1;
        }
        a.flush(clock.now());
        b.receive(clock.now(), 16, &mut |frame| {
            assert!(
                bytes_of(&frame) == numbered(lab, Side::Target, shard, echoed),
                "shard {shard}: {echoed} there"
            );
            echoed += 1;
        });
        b.flush(clock.now());
        // Sent after the burst: the sink has no link to send with.
        let returned = echoed.min(u32::try_from(b.counters().tx_frames).expect("few") + OUT_MAX);
        for number in u32::try_from(b.counters().tx_frames).expect("few")..returned {
            let frame = numbered(lab, Side::Initiator, shard, number);
            if b.transmit(clock.now(), &frame[..24], &frame[24..]).is_err() {
                break;
            }
        }
        b.flush(clock.now());
        a.receive(clock.now(), 16, &mut |frame| {
            assert!(
                bytes_of(&frame) == numbered(lab, Side::Initiator, shard, got),
                "shard {shard}: {got} back"
            );
            got += 1;
        });
        assert!(
            !clock.passed(),
            "shard {shard}: {sent} sent, {echoed} there, {got} back; {:?} {:?}",
            a.counters(),
            b.counters()
        );
    }
    let mut ends = [a, b];
    until(30, || {
        ends.iter_mut().all(|link| {
            let completed = link.completed();
            link.flush(clock.now());
            assert!(link.completed() >= completed, "it never falls");
            link.completed() == u64::from(count)
        })
    });
}

/// Each shard on a thread of its own, both ends of it.
fn exchange_all(lab: &Lab, shards: &[u32], a: &mut [XdpLink], b: &mut [XdpLink], count: u32) {
    thread::scope(|scope| {
        for ((&shard, a), b) in shards.iter().zip(a).zip(b) {
            scope.spawn(move || exchange(lab, shard, a, b, count));
        }
    });
}

#[test]
fn two_queues_have_a_shard_each() {
    let Some(lab) = lab("two_queues_have_a_shard_each", 9000, 2) else {
        return;
    };
    let mode = XdpMode::Native;
    let mut ends = [Side::Initiator, Side::Target].map(|side| {
        let port = port(&lab, side, &small(lab.interface(side), mode));
        assert_eq!(port.rx_queues(), 2);
        // Shards of any number: 4 on queue 0 and 9 on queue 1.
        let mut both = links(&lab, side, &port, 0, &[4]);
        both.extend(links(&lab, side, &port, 1, &[9]));
        assert_eq!((both[0].info().queue, both[1].info().queue), (0, 1));
        (port, both)
    });
    let [(_, a), (port, b)] = &mut ends;
    exchange_all(&lab, &[4, 9], a, b, 3000);
    assert_eq!(
        port.steer_counters().expect("readable").redirected_aoe,
        6000,
        "by the tag, on its queue"
    );

    // A request names no shard of the receiver: it goes to the only one on the queue it comes in on.
    let clock = Deadline::new(60);
    let request = Frame {
        tags: &[],
        ethertype: 0x88a2,
        response: false,
        tag: 0,
        len_bytes: 100,
    }
    .build(&lab, Side::Target);
    a[1].transmit(clock.now(), &request[..24], &request[24..])
        .expect("there is room");
    a[1].flush(clock.now());
    until(30, || b[1].receive(clock.now(), 1, &mut |_| {}) == 1);
    assert_eq!(b[0].receive(clock.now(), 1, &mut |_| {}), 0);
}

#[test]
fn two_shards_share_a_queue() {
    let Some(lab) = lab("two_shards_share_a_queue", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let [mut a, mut b] = [Side::Initiator, Side::Target].map(|side| {
            let port = port(&lab, side, &small(lab.interface(side), mode));
            links(&lab, side, &port, 0, &[0, 1])
        });
        exchange_all(&lab, &[0, 1], &mut a, &mut b, 3000);
        for link in a.iter_mut().chain(&mut b) {
            let counters = link.counters();
            assert_eq!(
                (counters.rx_frames, counters.tx_frames),
                (3000, 3000),
                "{mode:?}"
            );
            assert_eq!(
                (
                    counters.rx_dropped,
                    counters.rx_malformed,
                    counters.tx_failed
                ),
                (0, 0, 0),
                "{mode:?}"
            );
        }
    }
}

#[test]
fn sixteen_shards_share_a_queue() {
    let Some(lab) = lab("sixteen_shards_share_a_queue", 9000, 1) else {
        return;
    };
    let shards: Vec<u32> = (0..16).rev().collect();
    for mode in MODES {
        let [mut a, mut b] = [Side::Initiator, Side::Target].map(|side| {
            let mut config = small(lab.interface(side), mode);
            config.rx_chunks = 128;
            config.tx_chunks = 64;
            links(&lab, side, &port(&lab, side, &config), 0, &shards)
        });
        exchange_all(&lab, &shards, &mut a, &mut b, 100);
    }
}

/// A shard that goes leaves its chunks to the others, and its frames to shard 0 or to the kernel.
#[test]
fn a_shard_that_goes_leaves_the_queue_working() {
    let Some(lab) = lab("a_shard_that_goes", 9000, 1) else {
        return;
    };
    for mode in MODES {
        // The first shard of the initiator's end goes, whose socket's rings the queue uses.
        let port_a = port(&lab, Side::Initiator, &small("san0", mode));
        let mut a = links(&lab, Side::Initiator, &port_a, 0, &[0, 1]);
        // Shard 1 of the target's end goes, with all of the queue's chunks in its ring.
        let config = XdpConfig {
            rx_chunks: 64,
            rx_ring: Some(256),
            ..small("san1", mode)
        };
        let port_b = port(&lab, Side::Target, &config);
        let mut b = links(&lab, Side::Target, &port_b, 0, &[0, 1]);
        exchange_all(&lab, &[0, 1], &mut a, &mut b, 50);
        let clock = Deadline::new(60);
        let short = |side, shard, number| {
            Frame {
                len_bytes: 200,
                ..response(shard, number)
            }
            .build(&lab, side)
        };
        for number in 0..200 {
            let frame = short(Side::Target, 1, number);
            a[1].transmit(clock.now(), &frame[..24], &frame[24..])
                .expect("there is room");
        }
        until(30, || {
            a[1].flush(clock.now());
            b[1].counters().rx_dropped > 0 && a[1].completed() == 250
        });
        drop(b.remove(1));
        for number in 0..200 {
            let frame = short(Side::Target, 1, number);
            until(30, || {
                a[1].transmit(clock.now(), &frame[..24], &frame[24..])
                    .is_ok()
            });
            a[1].flush(clock.now());
            let mut got = Vec::new();
            until(30, || {
                b[0].receive(clock.now(), 16, &mut |frame| got.push(bytes_of(&frame)));
                !got.is_empty()
            });
            assert!(got == [frame], "{mode:?}: {number}");
        }

        drop(a.remove(0));
        let frame = short(Side::Initiator, 0, 7);
        b[0].transmit(clock.now(), &frame[..24], &frame[24..])
            .expect("there is room");
        b[0].flush(clock.now());
        until(30, || {
            port_a.steer_counters().expect("readable").passed_no_socket == 1
        });
        let frame = short(Side::Initiator, 1, 8);
        b[0].transmit(clock.now(), &frame[..24], &frame[24..])
            .expect("there is room");
        b[0].flush(clock.now());
        let mut got = Vec::new();
        until(30, || {
            a[0].receive(clock.now(), 16, &mut |frame| got.push(bytes_of(&frame))) == 1
        });
        assert!(got == [frame], "{mode:?}");
    }
}
