//! Which frames the program takes, for whom, and what it leaves to the kernel.

use sandrail_lab::{Lab, Side};
use sandrail_link::Link;
use sandrail_link::xdp::{SteerCounters, XdpConfig, XdpLink, XdpMode, XdpPort};

use crate::raw::Raw;
use crate::support::{Deadline, Frame, MODES, bytes_of, lab, links, mac, port, small, until};

const AOE: u16 = 0x88a2;
const LOCK: u16 = 0x88b5;
const CUSTOMER: [u8; 4] = [0x81, 0x00, 0x00, 0x05];
const SERVICE: [u8; 4] = [0x88, 0xa8, 0x00, 0x07];

const REQUEST: Frame<'static> = Frame {
    tags: &[],
    ethertype: AOE,
    response: false,
    tag: 0x3000_0010,
    len_bytes: 100,
};

fn response(shard: u32) -> Frame<'static> {
    Frame {
        response: true,
        tag: shard << 28 | 0x10,
        ..REQUEST
    }
}

/// The next frame of the link: the program counts a frame before the socket has it.
fn next(link: &mut XdpLink) -> Vec<u8> {
    let clock = Deadline::new(60);
    let mut got = None;
    while got.is_none() {
        link.receive(clock.now(), 1, &mut |frame| got = Some(bytes_of(&frame)));
        assert!(!clock.passed(), "no frame came");
    }
    got.unwrap_or_default()
}

/// What the link has now.
fn received(link: &mut XdpLink) -> Vec<Vec<u8>> {
    let clock = Deadline::new(1);
    let mut got = Vec::new();
    link.receive(clock.now(), 64, &mut |frame| got.push(bytes_of(&frame)));
    got
}

fn counted(port: &XdpPort) -> SteerCounters {
    port.steer_counters().expect("the counters can be read")
}

/// The target's end with the program and two shards, 0 and 3, and a sender on the other.
fn set_up(lab: &Lab, mode: XdpMode) -> (XdpPort, Vec<XdpLink>, Raw) {
    let port = port(lab, Side::Target, &small(lab.interface(Side::Target), mode));
    let links = links(lab, Side::Target, &port, 0, &[0, 3]);
    (port, links, Raw::open(lab, Side::Initiator, 0x88b6))
}

#[test]
fn frames_go_to_the_shard_of_their_tag_behind_any_vlan_tags() {
    let Some(lab) = lab("frames_go_to_the_shard_of_their_tag", 1500, 1) else {
        return;
    };
    let two = [SERVICE, CUSTOMER].concat();
    let same = [CUSTOMER, CUSTOMER].concat();
    for mode in MODES {
        let (port, mut links, raw) = set_up(&lab, mode);
        let mut want = counted(&port);
        for tags in [&[][..], &CUSTOMER, &SERVICE, &two, &same] {
            let lock = Frame {
                ethertype: LOCK,
                ..REQUEST
            };
            // Shard 5 has no socket here. The bits of shard 3 mean nothing in a request or a lock frame.
            let cases = [
                (REQUEST, 0),
                (response(0), 0),
                (response(3), 1),
                (response(5), 0),
                (lock, 0),
                (
                    Frame {
                        response: true,
                        ..lock
                    },
                    0,
                ),
            ];
            for (frame, place) in cases {
                let frame = Frame { tags, ..frame };
                let sent = frame.build(&lab, Side::Target);
                match (frame.ethertype, frame.response, frame.tag >> 28) {
                    (LOCK, ..) => want.redirected_lock += 1,
                    (_, true, 0 | 3) => want.redirected_aoe += 1,
                    _ => want.redirected_aoe_base += 1,
                }
                raw.send(&sent);
                until(30, || counted(&port).sum_of_san() == want.sum_of_san());
                assert_eq!(
                    counted(&port).without_other(),
                    want.without_other(),
                    "{mode:?} {tags:x?}"
                );
                assert!(
                    next(&mut links[place]) == sent,
                    "{mode:?} {tags:x?} place {place}"
                );
                for link in &mut links {
                    assert_eq!(
                        received(link).len(),
                        0,
                        "{mode:?} {tags:x?}: once, and at one place"
                    );
                }
            }
        }
    }
}

#[test]
fn a_third_vlan_tag_and_cut_headers_are_left_to_the_kernel() {
    let Some(lab) = lab("a_third_vlan_tag", 1500, 1) else {
        return;
    };
    for mode in MODES {
        let (port, mut links, raw) = set_up(&lab, mode);
        let three = [SERVICE, CUSTOMER, CUSTOMER].concat();
        raw.send(
            &Frame {
                tags: &three,
                ..REQUEST
            }
            .build(&lab, Side::Target),
        );
        until(30, || counted(&port).passed_tags == 1);
        // Ends behind a tag's protocol number; ends within the second tag.
        let two = [SERVICE, CUSTOMER].concat();
        for (count, (tags, len_bytes)) in (1..).zip([(&CUSTOMER[..], 16), (&two[..], 19)]) {
            raw.send(
                &Frame {
                    tags,
                    len_bytes,
                    ..REQUEST
                }
                .build(&lab, Side::Target),
            );
            until(30, || counted(&port).passed_short == count);
        }
        for link in &mut links {
            assert_eq!(received(link).len(), 0, "{mode:?}");
        }
        // An AoE frame that ends before its tag has no shard but the first; vblade sends frames unpadded.
        for (count, len_bytes) in (1..).zip([14, 15, 20]) {
            raw.send(
                &Frame {
                    len_bytes,
                    ..response(3)
                }
                .build(&lab, Side::Target),
            );
            until(30, || counted(&port).redirected_aoe_base == count);
            assert_eq!(next(&mut links[0]).len(), len_bytes, "{mode:?}");
            assert_eq!(received(&mut links[1]).len(), 0, "{mode:?} {len_bytes}");
        }
        raw.send(
            &Frame {
                len_bytes: 21,
                ..response(3)
            }
            .build(&lab, Side::Target),
        );
        assert_eq!(next(&mut links[1]).len(), 21, "{mode:?}");
    }
}

#[test]
fn other_traffic_passes() {
    let Some(lab) = lab("other_traffic_passes", 1500, 1) else {
        return;
    };
    for mode in MODES {
        let (port, mut links, _raw) = set_up(&lab, mode);
        let before = counted(&port).passed_other;
        let pings = lab.ping(20).expect("ping runs");
        assert_eq!((pings.sent, pings.lost()), (20, 0), "{mode:?}");
        assert!(counted(&port).passed_other >= before + 20, "{mode:?}");
        for link in &mut links {
            assert_eq!(received(link).len(), 0, "{mode:?}");
        }
    }
}

#[test]
fn without_a_socket_the_kernel_gets_the_frames() {
    let Some(lab) = lab("without_a_socket", 1500, 1) else {
        return;
    };
    for mode in MODES {
        let port = port(
            &lab,
            Side::Target,
            &small(lab.interface(Side::Target), mode),
        );
        let kernel = Raw::open(&lab, Side::Target, AOE);
        let raw = Raw::open(&lab, Side::Initiator, 0x88b6);
        let frame = response(3).build(&lab, Side::Target);
        raw.send(&frame);
        let mut got = None;
        until(30, || {
            got = kernel.receive();
            got.is_some()
        });
        assert!(got == Some(frame.clone()), "{mode:?}");
        assert_eq!(counted(&port).passed_no_socket, 1, "{mode:?}");

        // With a socket the kernel gets nothing; when that is dropped, it does again.
        let mut link = links(&lab, Side::Target, &port, 0, &[0])
            .pop()
            .expect("one link");
        raw.send(&frame);
        assert!(next(&mut link) == frame, "{mode:?}");
        assert_eq!(kernel.receive(), None, "{mode:?}");
        drop(link);
        raw.send(&frame);
        until(30, || kernel.receive().is_some());
        assert_eq!(counted(&port).passed_no_socket, 2, "{mode:?}");
    }
}

#[test]
fn stations_that_are_not_on_the_list_are_dropped_and_counted() {
    let Some(lab) = lab("stations_that_are_not_on_the_list", 1500, 1) else {
        return;
    };
    for mode in MODES {
        let peer = mac(&lab, Side::Initiator);
        let config = XdpConfig {
            allow_list: Some(vec![mac(&lab, Side::Target)]),
            ..small(lab.interface(Side::Target), mode)
        };
        let port = port(&lab, Side::Target, &config);
        let mut link = links(&lab, Side::Target, &port, 0, &[0])
            .pop()
            .expect("one link");
        let raw = Raw::open(&lab, Side::Initiator, 0x88b6);
        let kernel = Raw::open(&lab, Side::Target, AOE);
        let aoe = REQUEST.build(&lab, Side::Target);
        let lock = Frame {
            ethertype: LOCK,
            ..REQUEST
        }
        .build(&lab, Side::Target);
        let tagged = Frame {
            tags: &CUSTOMER,
            ..REQUEST
        }
        .build(&lab, Side::Target);

        for (count, frame) in (1..).zip([&aoe, &lock, &tagged]) {
            raw.send(frame);
            until(30, || counted(&port).dropped_not_allowed == count);
        }
        assert_eq!(received(&mut link).len(), 0, "{mode:?}");
        assert_eq!(kernel.receive(), None, "{mode:?}: dropped, not passed");
        assert_eq!(
            lab.ping(5).expect("ping runs").lost(),
            0,
            "{mode:?}: the list is for SAN frames"
        );

        port.allow(peer).expect("there is a list");
        for frame in [&aoe, &lock, &tagged] {
            raw.send(frame);
            assert!(next(&mut link) == *frame, "{mode:?}");
        }
        port.disallow(peer).expect("there is a list");
        port.disallow(peer).expect("twice is once");
        raw.send(&aoe);
        until(30, || counted(&port).dropped_not_allowed == 4);
        assert_eq!(received(&mut link).len(), 0, "{mode:?}");
    }
}

trait Sums {
    fn sum_of_san(&self) -> u64;
    fn without_other(self) -> SteerCounters;
}

impl Sums for SteerCounters {
    fn sum_of_san(&self) -> u64 {
        self.redirected_aoe
            + self.redirected_aoe_base
            + self.redirected_lock
            + self.passed_no_socket
    }

    /// Without what the kernel's own chatter may add to.
    fn without_other(self) -> SteerCounters {
        SteerCounters {
            passed_other: 0,
            ..self
        }
    }
}
