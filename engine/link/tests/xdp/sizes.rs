//! Frames of every size, in as many chunks as they need.

use std::time::Duration;

use sandrail_lab::Side;
use sandrail_link::xdp::XdpMode;
use sandrail_link::{Link, TransmitError};

use crate::raw::Raw;
use crate::support::{Deadline, MODES, aoe_request, bytes_of, lab, mac, open, until};

#[test]
fn frames_of_every_size_arrive_bit_for_bit_both_ways() {
    let Some(lab) = lab("frames_of_every_size", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let words = if mode == XdpMode::Native {
            "xdp-native copy"
        } else {
            "xdp-generic copy"
        };
        assert_eq!(a.info().mode, words);
        assert_eq!(a.info().mac, mac(&lab, Side::Initiator));
        assert_eq!(a.info().mtu_bytes, 9000);
        // The edges of one, two and three chunks among them, and what lies below Ethernet's minimum.
        let edges = [
            24, 59, 60, 61, 1514, 3839, 3840, 3841, 4132, 7680, 7681, 9013, 9014,
        ];
        let sizes: Vec<usize> = edges
            .into_iter()
            .chain((0..3000).map(|i| 60 + i * 7919 % 8955))
            .collect();
        for (from, to, side) in [
            (true, "a to b", Side::Target),
            (false, "b to a", Side::Initiator),
        ] {
            let (tx, rx) = if from {
                (&mut a, &mut b)
            } else {
                (&mut b, &mut a)
            };
            let mut wrong = 0;
            let mut got = 0;
            let mut sent = 0;
            let clock = Deadline::new(60);
            while got < sizes.len() {
                while sent < sizes.len() && sent - got < 24 {
                    let frame = aoe_request(&lab, side, sizes[sent], sent as u32);
                    let (header, payload) = frame.split_at(frame.len().min(36));
                    match tx.transmit(clock.now(), header, payload) {
                        Ok(()) => sent += 1,
                        Err(TransmitError::Full) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                tx.flush(clock.now());
                rx.receive(clock.now(), 32, &mut |frame| {
                    let mut want = aoe_request(&lab, side, sizes[got], got as u32);
                    want.resize(want.len().max(60), 0);
                    wrong += usize::from(bytes_of(&frame) != want);
                    got += 1;
                });
                rx.flush(clock.now());
                assert!(
                    !clock.passed(),
                    "{mode:?} {to}: {got} of {sent}, {:?} {:?}",
                    tx.counters(),
                    rx.counters()
                );
            }
            assert_eq!(wrong, 0, "{mode:?} {to}");
            until(30, || {
                tx.flush(clock.now());
                tx.completed() == tx.counters().tx_frames
            });
            let counters = rx.counters();
            assert_eq!((counters.rx_dropped, counters.rx_malformed), (0, 0));
        }
    }
}

/// Asked for one frame, the link takes one descriptor at a look: a frame of three takes three.
#[test]
fn a_frame_split_between_two_looks_is_kept() {
    let Some(lab) = lab("a_frame_split_between_two_looks", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let clock = Deadline::new(60);
        let frames: Vec<Vec<u8>> = (0..8)
            .map(|i| aoe_request(&lab, Side::Target, 9014, i))
            .collect();
        for frame in &frames {
            a.transmit(clock.now(), &frame[..36], &frame[36..])
                .expect("there is room");
        }
        a.flush(clock.now());
        let mut got = Vec::new();
        while got.len() < frames.len() {
            let before = got.len();
            let told = b.receive(clock.now(), 1, &mut |frame| {
                assert_eq!(frame.segments().len(), 3, "{mode:?}");
                got.push(bytes_of(&frame));
            });
            assert_eq!(told, got.len() - before);
            assert!(told <= 1);
            assert!(!clock.passed(), "{mode:?}: {} frames", got.len());
        }
        assert!(got == frames, "{mode:?}");
    }
}

/// A short frame sent from chunks that carried a long one before: their flags and bytes must not show.
#[test]
fn chunks_are_clean_when_they_are_used_again() {
    let Some(lab) = lab("chunks_are_clean", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let clock = Deadline::new(60);
        for round in 0..300_u32 {
            let len_bytes = if round % 2 == 0 { 9014 } else { 30 };
            let frame = aoe_request(&lab, Side::Target, len_bytes, round);
            a.transmit(clock.now(), &frame[..24], &frame[24..])
                .expect("there is room");
            a.flush(clock.now());
            let mut want = frame;
            want.resize(want.len().max(60), 0);
            let mut got = Vec::new();
            while got.is_empty() {
                b.receive(clock.now(), 4, &mut |frame| got.push(bytes_of(&frame)));
                assert!(!clock.passed(), "{mode:?}: frame {round} did not arrive");
            }
            assert!(got == [want], "{mode:?}: frame {round}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let Some(lab) = lab("what_does_not_fit", 1500, 1) else {
        return;
    };
    let mut a = open(&lab, Side::Initiator, XdpMode::Generic, 0);
    let clock = Deadline::new(60);
    let mut frame = aoe_request(&lab, Side::Target, 1515, 0);
    let too_long = |max_bytes, len_bytes| {
        Err(TransmitError::TooLong {
            len_bytes,
            max_bytes,
        })
    };
    assert_eq!(
        a.transmit(clock.now(), &frame[..36], &frame[36..]),
        too_long(1514, 1515)
    );
    assert_eq!(
        a.transmit(clock.now(), &frame[..65], &[]),
        too_long(1514, 65)
    );
    assert_eq!(
        a.transmit(clock.now(), &frame[..36], &frame[36..1514]),
        Ok(())
    );
    // A tag is not the MTU's, so it makes the frame longer.
    frame.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(
        a.transmit(clock.now(), &frame[..36], &frame[36..1518]),
        Ok(())
    );
    assert_eq!(
        a.transmit(clock.now(), &frame[..36], &frame[36..1519]),
        too_long(1518, 1519)
    );
    assert_eq!(a.counters().tx_frames, 2, "what was refused is not counted");
}

/// Full before the flush, room after it, and each frame that was taken is sent once.
#[test]
fn a_full_ring_takes_nothing_until_flushed() {
    let Some(lab) = lab("a_full_ring", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let clock = Deadline::new(60);
        let frame = aoe_request(&lab, Side::Target, 9014, 1);
        let room = a.transmit_room();
        let mut taken = 0;
        let refused = loop {
            match a.transmit(clock.now(), &frame[..36], &frame[36..]) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, TransmitError::Full);
        assert_eq!(
            (taken, room),
            (256 / 3, 256 / 3),
            "{mode:?}: three chunks a frame"
        );
        let (mut got, mut room) = (0, 0);
        while got < taken || room < taken || a.completed() < taken as u64 {
            a.flush(clock.now());
            b.receive(clock.now(), 8, &mut |_| got += 1);
            room = a.transmit_room();
            assert!(
                !clock.passed(),
                "{mode:?}: {got} of {taken} arrived, room {room}"
            );
        }
        assert_eq!((got, a.completed()), (taken, taken as u64), "{mode:?}");
    }
}

#[test]
fn a_burst_costs_one_system_call() {
    let Some(lab) = lab("a_burst_costs_one_system_call", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let clock = Deadline::new(60);
        let frame = aoe_request(&lab, Side::Target, 1060, 1);
        for _ in 0..32 {
            a.transmit(clock.now(), &frame[..36], &frame[36..])
                .expect("there is room");
        }
        a.flush(clock.now());
        a.flush(clock.now());
        assert_eq!(a.counters().tx_kicks, 1, "{mode:?}: {:?}", a.counters());
        let mut got = 0;
        until(30, || {
            b.receive(clock.now(), 32, &mut |_| got += 1);
            got == 32
        });
    }
}

/// A frame of more segments than a frame has is counted, and the next one is whole.
#[test]
fn a_frame_of_too_many_segments_is_counted() {
    let Some(lab) = lab("a_frame_of_too_many_segments", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut b = open(&lab, Side::Target, mode, 0);
        for side in [Side::Initiator, Side::Target] {
            lab.set_mtu(side, 40_000).expect("a veth takes that MTU");
        }
        let raw = Raw::open(&lab, Side::Initiator, 0x88b6);
        let clock = Deadline::new(60);
        let next = aoe_request(&lab, Side::Target, 4132, 9);
        let mut wants = 0;
        // Five segments are one too many; with nine, four are followed by as many again.
        for len_bytes in [4 * 3840 + 1, 9 * 3840 - 7] {
            raw.send(&aoe_request(&lab, Side::Target, len_bytes, 1));
            raw.send(&next);
            wants += 1;
            let mut got = Vec::new();
            until(30, || {
                b.receive(clock.now(), 1, &mut |frame| got.push(bytes_of(&frame)));
                !got.is_empty()
            });
            assert!(got == [next.clone()], "{mode:?}: {len_bytes}");
            assert_eq!(b.counters().rx_malformed, wants, "{mode:?}: {len_bytes}");
        }
        drop(b);
        for side in [Side::Initiator, Side::Target] {
            lab.set_mtu(side, 9000).expect("a veth takes that MTU");
        }
    }
}

/// Asleep in poll(2) until a frame comes, and told not to sleep when one is there.
#[test]
fn a_sleeper_is_woken_by_a_frame() {
    let Some(lab) = lab("a_sleeper_is_woken", 1500, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let clock = Deadline::new(60);
        let frame = aoe_request(&lab, Side::Target, 1000, 1);
        assert!(b.prepare_wait(), "{mode:?}: nothing is there");
        let sleeper = std::thread::spawn(move || {
            let mut wait = libc::pollfd {
                fd: b.wait_fd().expect("a socket has a descriptor"),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: the pointer is to one live `pollfd`.
            let ready = unsafe { libc::poll(&raw mut wait, 1, 60_000) };
            (ready, b)
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!sleeper.is_finished(), "{mode:?}: woken by nothing");
        a.transmit(clock.now(), &frame[..24], &frame[24..])
            .expect("there is room");
        a.flush(clock.now());
        let (ready, mut b) = sleeper.join().expect("no panic");
        assert_eq!(ready, 1, "{mode:?}: woken by the frame");
        assert!(!b.prepare_wait(), "{mode:?}: a frame is there");
        assert_eq!(b.receive(clock.now(), 8, &mut |_| {}), 1);
        assert!(b.prepare_wait(), "{mode:?}: and now it is not");
    }
}
