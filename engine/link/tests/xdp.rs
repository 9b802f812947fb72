//! AF_XDP on a veth pair between two namespaces, in both modes.

#![allow(
    unsafe_code,
    reason = "giving up privileges on one thread has no safe form"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "patterns are made of the low bytes of counters"
)]

use std::time::{Duration, Instant as Clock};

use sandrail_lab::{Lab, LinkState, Side, can_run};
use sandrail_link::xdp::{SteerCounters, XdpConfig, XdpError, XdpLink, XdpMode, XdpPort, ZeroCopy, probe};
use sandrail_link::{Link, TransmitError};
use sandrail_proto::time::Instant;
use sandrail_wire::MacAddr;

mod xdp_support;
use xdp_support::*;

const MODES: [XdpMode; 2] = [XdpMode::Generic, XdpMode::Native];

#[test]
fn frames_of_every_size_arrive_bit_for_bit_both_ways() {
    let Some(lab) = lab("frames_of_every_size", 9000, 1) else { return };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let words = if mode == XdpMode::Native { "xdp-native copy" } else { "xdp-generic copy" };
        assert_eq!(a.info().mode, words);
        assert_eq!(a.info().mac, mac(&lab, Side::Initiator));
        assert_eq!(a.info().mtu_bytes, 9000);
        // The edges of one, two and three chunks among them, and what lies below Ethernet's minimum.
        let edges = [24, 59, 60, 61, 1514, 3839, 3840, 3841, 4132, 7680, 7681, 9013, 9014];
        let sizes: Vec<usize> = edges.into_iter().chain((0..3000).map(|i| 60 + i * 7919 % 8955)).collect();
        for (from, to, side) in [(true, "a to b", Side::Target), (false, "b to a", Side::Initiator)] {
            let (tx, rx) = if from { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let mut wrong = 0;
            let mut got = 0;
            let mut sent = 0;
            let clock = Deadline::new(20);
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
                assert!(!clock.passed(), "{mode:?} {to}: {got} of {sent}, {:?} {:?}", tx.counters(), rx.counters());
            }
            assert_eq!(wrong, 0, "{mode:?} {to}");
            until(5, || {
                tx.flush(clock.now());
                tx.completed() == tx.counters().tx_frames
            });
            let counters = rx.counters();
            assert_eq!((counters.rx_dropped, counters.rx_malformed), (0, 0));
        }
    }
}
