//! AF_PACKET on a veth pair: frames arrive bit for bit, the kernel's filter steers, and nothing that goes wrong is silent.

#![allow(
    unsafe_code,
    reason = "giving up a capability and poll(2) have no safe interface"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "test patterns are cut down to bytes on purpose"
)]

use std::time::Duration;

use sandrail_lab::{Lab, LinkState, Side, can_run};
use sandrail_link::packet::{PacketConfig, PacketError, PacketLink, PacketMode};
use sandrail_link::{Link, TransmitError};
use sandrail_proto::time::Instant;

const MODES: [PacketMode; 2] = [PacketMode::Ring, PacketMode::Mmsg];
const AOE: [u8; 2] = [0x88, 0xa2];
const LOCKS: [u8; 2] = [0x88, 0xb5];

fn now() -> Instant {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(std::time::Instant::now);
    Instant::from_nanos(start.elapsed().as_nanos() as u64 + 1)
}

fn lab(test: &str, mtu: u32) -> Option<Lab> {
    if !can_run(test, Lab::namespaces_supported()) {
        return None;
    }
    Some(
        Lab::builder()
            .name_prefix("srlink")
            .mtu(mtu)
            .build()
            .unwrap(),
    )
}

fn open(lab: &Lab, side: Side, configure: impl FnOnce(&mut PacketConfig)) -> PacketLink {
    try_open(lab, side, configure).unwrap()
}

fn try_open(
    lab: &Lab,
    side: Side,
    configure: impl FnOnce(&mut PacketConfig),
) -> Result<PacketLink, PacketError> {
    let mut config = PacketConfig::new(lab.interface(side));
    configure(&mut config);
    lab.enter(side, || PacketLink::open(&config)).unwrap()
}

/// A frame from the initiator's side: tags and ethertype as given, then bytes that depend on `seed`.
fn frame(lab: &Lab, types: &[&[u8]], len_bytes: usize, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(lab.mac(Side::Target).0);
    bytes.extend(lab.mac(Side::Initiator).0);
    types.iter().for_each(|part| bytes.extend(*part));
    let mut rng = fastrand::Rng::with_seed(seed);
    bytes.resize_with(len_bytes.max(bytes.len()), || rng.u8(..));
    bytes
}

fn send(link: &mut PacketLink, bytes: &[u8]) {
    let split = bytes.len().min(36);
    link.transmit(now(), &bytes[..split], &bytes[split..])
        .unwrap();
}

fn receive_some(link: &mut PacketLink, frames: usize) -> Vec<Vec<u8>> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut received = Vec::new();
    while received.len() < frames && std::time::Instant::now() < deadline {
        link.receive(now(), 64, &mut |frame| {
            received.push(frame.segments().concat())
        });
        std::thread::yield_now();
    }
    received
}

/// So many frames, and whatever else comes within a time that is long for a veth pair.
fn receive_all(link: &mut PacketLink, frames: usize) -> Vec<Vec<u8>> {
    let mut received = receive_some(link, frames);
    std::thread::sleep(Duration::from_millis(20));
    while link.receive(now(), 64, &mut |frame| {
        received.push(frame.segments().concat())
    }) > 0
    {}
    received
}

#[test]
fn frames_of_every_length_arrive_bit_for_bit() {
    let Some(lab) = lab("packet: frames of every length", 9000) else {
        return;
    };
    for (to, from) in [
        (MODES[0], MODES[0]),
        (MODES[1], MODES[1]),
        (MODES[0], MODES[1]),
    ] {
        let mut sender = open(&lab, Side::Initiator, |config| config.mode = from);
        let mut receiver = open(&lab, Side::Target, |config| config.mode = to);
        assert_eq!(sender.info().mtu_bytes, 9000);
        assert_eq!(sender.info().mac.0, lab.mac(Side::Initiator).0);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut sent_frames = 0;
        for round in 0..200_u64 {
            let lengths: Vec<usize> = match round {
                0 => vec![
                    60, 61, 63, 64, 1514, 1515, 3840, 3841, 4095, 4096, 4097, 4132, 9013, 9014,
                ],
                _ => (0..rng.usize(1..=40))
                    .map(|_| rng.usize(60..=9014))
                    .collect(),
            };
            let sent: Vec<_> = lengths
                .iter()
                .enumerate()
                .map(|(n, len)| frame(&lab, &[&AOE], *len, round << 16 | n as u64))
                .collect();
            sent.iter().for_each(|bytes| send(&mut sender, bytes));
            sender.flush(now());
            let received = receive_some(&mut receiver, sent.len());
            assert!(sent == received, "{from:?} to {to:?}, round {round}");
            sent_frames += sent.len() as u64;
        }
        sender.flush(now());
        assert_eq!(sender.completed(), sent_frames);
        let (tx, rx) = (sender.counters(), receiver.counters());
        assert_eq!((tx.tx_frames, rx.rx_frames), (sent_frames, sent_frames));
        assert_eq!(tx.tx_bytes, rx.rx_bytes);
        assert_eq!((tx.tx_failed, rx.rx_dropped, rx.rx_malformed), (0, 0, 0));
        // What it sends itself it does not receive.
        assert_eq!(receive_all(&mut sender, 0).len(), 0);
    }
}

#[test]
fn short_frames_are_padded_and_long_ones_refused() {
    let Some(lab) = lab("packet: padding and limits", 1500) else {
        return;
    };
    for mode in MODES {
        let mut sender = open(&lab, Side::Initiator, |config| config.mode = mode);
        let mut receiver = open(&lab, Side::Target, |config| config.mode = mode);
        // Dirty every buffer first, so that zeros must have been written.
        for seed in 0..300 {
            send(&mut sender, &frame(&lab, &[&AOE], 1514, seed));
            sender.flush(now());
            assert_eq!(receive_some(&mut receiver, 1).len(), 1);
        }
        let short = frame(&lab, &[&AOE], 24, 1);
        send(&mut sender, &short);
        sender.flush(now());
        let mut padded = short.clone();
        padded.resize(60, 0);
        assert_eq!(receive_some(&mut receiver, 1), [padded]);
        // As a driver does that leaves padding to the interface, of which this one does none.
        let mut unpadding = open(&lab, Side::Initiator, |config| {
            config.mode = mode;
            config.frame_bytes_min = 0;
        });
        for len_bytes in 14..=60 {
            let short = frame(&lab, &[&AOE], len_bytes, 1);
            send(&mut unpadding, &short);
            unpadding.flush(now());
            assert_eq!(receive_some(&mut receiver, 1), [short], "{mode:?}");
        }

        let refused = sender.transmit(now(), &short, &[0; 1491]);
        let limit = TransmitError::TooLong {
            len_bytes: 1515,
            max_bytes: 1514,
        };
        assert_eq!(refused, Err(limit));
        let refused = sender.transmit(now(), &[0; 65], &[]);
        assert!(matches!(
            refused,
            Err(TransmitError::TooLong { max_bytes: 64, .. })
        ));
        assert_eq!(sender.counters().tx_frames, 301);
    }
}

#[test]
fn vlan_tags_are_seen_as_they_were_on_the_wire() {
    let Some(lab) = lab("packet: VLAN tags", 9000) else {
        return;
    };
    let (customer, service): (&[u8], &[u8]) =
        (&[0x81, 0x00, 0xa0, 0x64], &[0x88, 0xa8, 0x00, 0x07]);
    let priority: &[u8] = &[0x81, 0x00, 0xe0, 0x00];
    for mode in MODES {
        let mut sender = open(&lab, Side::Initiator, |config| config.mode = mode);
        let mut receiver = open(&lab, Side::Target, |config| config.mode = mode);
        let tagged = [
            frame(&lab, &[customer, &AOE], 4136, 1),
            frame(&lab, &[customer, &AOE], 9018, 2),
            frame(&lab, &[service, &AOE], 400, 3),
            frame(&lab, &[priority, &AOE], 60, 4),
            frame(&lab, &[&AOE], 60, 5),
            frame(&lab, &[service, customer, &AOE], 4140, 6),
            frame(&lab, &[customer, customer, &AOE], 9018, 7),
        ];
        tagged.iter().for_each(|bytes| send(&mut sender, bytes));
        sender.flush(now());
        assert!(
            tagged.to_vec() == receive_some(&mut receiver, tagged.len()),
            "{mode:?}"
        );
        assert_eq!(receiver.counters().rx_malformed, 0);
    }
}

#[test]
fn other_ethertypes_do_not_arrive() {
    let Some(lab) = lab("packet: ethertypes", 1500) else {
        return;
    };
    let customer: &[u8] = &[0x81, 0x00, 0x00, 0x64];
    for mode in MODES {
        let mut sender = open(&lab, Side::Initiator, |config| config.mode = mode);
        let mut aoe = open(&lab, Side::Target, |config| config.mode = mode);
        let mut both = open(&lab, Side::Target, |config| {
            (config.mode, config.lock_frames) = (mode, true);
        });
        let frames = [
            frame(&lab, &[&[0x08, 0x00]], 100, 1),
            frame(&lab, &[&AOE], 100, 2),
            frame(&lab, &[&LOCKS], 100, 3),
            frame(&lab, &[&[0x86, 0xdd]], 100, 4),
            frame(&lab, &[customer, &[0x08, 0x06]], 100, 5),
            frame(&lab, &[customer, &LOCKS], 100, 6),
        ];
        frames.iter().for_each(|bytes| send(&mut sender, bytes));
        sender.flush(now());
        assert!(receive_all(&mut aoe, 1) == [frames[1].clone()]);
        assert!(
            receive_all(&mut both, 3) == [frames[1].clone(), frames[2].clone(), frames[5].clone()]
        );
    }
}

#[test]
fn shards_receive_their_responses_and_shard_zero_the_rest() {
    let Some(lab) = lab("packet: shards", 1500) else {
        return;
    };
    let aoe = |flags: u8, tag: u32, seed| {
        let [a, b, c, d] = tag.to_be_bytes();
        frame(
            &lab,
            &[&AOE, &[0x10 | flags, 0, 0, 1, 2, 0, a, b, c, d]],
            80,
            seed,
        )
    };
    let customer: &[u8] = &[0x81, 0x00, 0x00, 0x64];
    let mut tagged = aoe(8, 0x3000_0001, 9);
    tagged.splice(12..12, customer.iter().copied());
    for mode in MODES {
        for lock_frames in [false, true] {
            let receiver = |shard| {
                open(&lab, Side::Target, |config| {
                    (config.mode, config.lock_frames, config.shard) = (mode, lock_frames, shard);
                })
            };
            let mut shards = [Some(0), Some(3), Some(15), None].map(receiver);
            let mut sender = open(&lab, Side::Initiator, |config| config.mode = mode);
            let frames = [
                aoe(8, 0x0000_0000, 1),  // an advertisement
                aoe(0, 0x3000_0000, 2),  // somebody's request
                aoe(8, 0x3fff_ffff, 3),  // shard 3
                aoe(8, 0x2fff_ffff, 4),  // nobody
                aoe(12, 0xf000_0000, 5), // shard 15, an error
                frame(&lab, &[&LOCKS], 80, 6),
                tagged.clone(), // shard 3
            ];
            frames.iter().for_each(|bytes| send(&mut sender, bytes));
            sender.flush(now());
            let expected = if lock_frames {
                [3, 2, 1, 7]
            } else {
                [2, 2, 1, 6]
            };
            let [zero, three, fifteen, all] = [0, 1, 2, 3].map(|n| {
                let received = receive_all(&mut shards[n], expected[n]);
                let position = |bytes: &Vec<u8>| frames.iter().position(|frame| frame == bytes);
                received
                    .iter()
                    .map(|bytes| position(bytes).expect("unchanged"))
                    .collect::<Vec<_>>()
            });
            assert_eq!(
                zero,
                if lock_frames {
                    vec![0, 1, 5]
                } else {
                    vec![0, 1]
                }
            );
            assert_eq!(three, [2, 6]);
            assert_eq!(fifteen, [4]);
            assert_eq!(
                all,
                if lock_frames {
                    vec![0, 1, 2, 3, 4, 5, 6]
                } else {
                    vec![0, 1, 2, 3, 4, 6]
                }
            );
        }
    }
}

#[test]
fn a_link_flap_is_survived_and_counted() {
    let Some(lab) = lab("packet: link flap", 1500) else {
        return;
    };
    for mode in MODES {
        let mut sender = open(&lab, Side::Initiator, |config| config.mode = mode);
        let mut receiver = open(&lab, Side::Target, |config| config.mode = mode);
        let mut taken = 0;
        for flaps in 1..=3 {
            lab.set_link(Side::Initiator, LinkState::Down).unwrap();
            for seed in 0..5 {
                send(&mut sender, &frame(&lab, &[&AOE], 100, seed));
                sender.flush(now());
            }
            taken += 5;
            assert_eq!(sender.counters().tx_failed, 5 * flaps);
            assert_eq!(
                sender.completed(),
                taken,
                "a refused frame is not in memory any more"
            );
            assert!(sender.transmit_room() >= 256);
            lab.set_link(Side::Initiator, LinkState::Up).unwrap();
            await_carrier(&lab, true);
            // An idle turn long after the last look, as in a loop that runs on.
            sender.receive(now() + Duration::from_secs(flaps), 64, &mut |_| {});
            assert_eq!(sender.counters().link_downs, flaps, "{mode:?}");

            let bytes = frame(&lab, &[&AOE], 1000, flaps);
            send(&mut sender, &bytes);
            sender.flush(now());
            taken += 1;
            assert!(
                receive_some(&mut receiver, 1) == [bytes.clone()],
                "{mode:?}: sending goes on"
            );
            send(&mut receiver, &bytes);
            receiver.flush(now());
            assert!(
                receive_some(&mut sender, 1) == [bytes],
                "{mode:?}: receiving goes on"
            );
        }
    }
}

#[test]
fn without_carrier_frames_wait_a_little_and_are_then_dropped_and_counted() {
    let Some(lab) = lab("packet: no carrier", 1500) else {
        return;
    };
    for mode in MODES {
        let mut sender = open(&lab, Side::Initiator, |config| config.mode = mode);
        lab.set_link(Side::Target, LinkState::Down).unwrap();
        await_carrier(&lab, false);
        let start = now();
        for seed in 0..3 {
            send(&mut sender, &frame(&lab, &[&AOE], 100, seed));
        }
        sender.flush(start);
        let counters = sender.counters();
        assert_eq!(
            (
                counters.kick_retries,
                counters.tx_failed,
                sender.completed()
            ),
            (1, 0, 0),
            "{mode:?}"
        );
        let again = sender.poll_timeout().expect("it wants to try again");
        assert!(again > start && again <= start + Duration::from_millis(1));
        sender.flush(start + Duration::from_millis(9));
        assert_eq!(sender.completed(), 0);
        sender.flush(start + Duration::from_millis(10));
        let counters = sender.counters();
        assert_eq!(
            (
                counters.kick_retries,
                counters.tx_failed,
                sender.completed()
            ),
            (3, 3, 3),
            "{mode:?}"
        );
        assert_eq!(sender.poll_timeout(), None);

        // A carrier that returns in time loses nothing.
        let mut receiver = {
            let bytes = frame(&lab, &[&AOE], 100, 9);
            send(&mut sender, &bytes);
            let refused_at = now();
            sender.flush(refused_at);
            lab.set_link(Side::Target, LinkState::Up).unwrap();
            let mut receiver = open(&lab, Side::Target, |config| config.mode = mode);
            await_carrier(&lab, true);
            sender.flush(refused_at + Duration::from_millis(1));
            assert!(receive_some(&mut receiver, 1) == [bytes], "{mode:?}");
            receiver
        };
        sender.flush(now());
        assert_eq!((sender.counters().tx_failed, sender.completed()), (3, 4));
        assert!(
            receive_all(&mut receiver, 0).is_empty(),
            "what was dropped stays dropped"
        );
    }
}

#[test]
fn a_receiver_that_sleeps_drops_and_counts() {
    let Some(lab) = lab("packet: receive overflow", 1500) else {
        return;
    };
    for mode in MODES {
        // What overflows before it reaches the socket, where the kernel's own thread does not get its turn, nobody counts.
        let mut accounted = Vec::new();
        while accounted.last() != Some(&2000) && accounted.len() < 5 {
            accounted.push(overflow(&lab, mode));
        }
        assert_eq!(accounted.last(), Some(&2000), "{mode:?}: {accounted:?}");
    }
}

/// Sends 2000 frames to a receiver that sleeps meanwhile; of how many it tells that they came or were dropped.
fn overflow(lab: &Lab, mode: PacketMode) -> u64 {
    let mut sender = open(lab, Side::Initiator, |config| config.mode = mode);
    let mut receiver = open(lab, Side::Target, |config| {
        (config.mode, config.rx_frames) = (mode, 32);
    });
    for seed in 0..2000 {
        send(&mut sender, &frame(lab, &[&AOE], 1514, seed));
        sender.flush(now());
        if seed % 100 == 99 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    std::thread::sleep(Duration::from_millis(20));
    let received = receive_all(&mut receiver, 0).len() as u64;
    let counters = receiver.counters();
    assert!((16..1000).contains(&received), "{mode:?}: {received}");
    assert_eq!(counters.rx_frames, received);
    assert_eq!(receiver.counters(), counters, "drops are counted once");
    counters.rx_frames + counters.rx_dropped
}

/// Waits until the kernel has noticed at the initiator's end whether there is a carrier, which another of its threads does.
fn await_carrier(lab: &Lab, carrier: bool) {
    let path = format!(
        "/sys/class/net/{}/operstate",
        lab.interface(Side::Initiator)
    );
    let is_up = || std::fs::read_to_string(&path).is_ok_and(|state| state.trim() == "up");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while lab.enter(Side::Initiator, is_up).unwrap() != carrier {
        assert!(
            std::time::Instant::now() < deadline,
            "no carrier's change within 20 s"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    // The state is set first, and the queue switched after it, by the same thread.
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn a_full_transmit_queue_says_so_and_room_tells_before() {
    let Some(lab) = lab("packet: transmit queue full", 1500) else {
        return;
    };
    for mode in MODES {
        let mut sender = open(&lab, Side::Initiator, |config| {
            (config.mode, config.tx_frames) = (mode, 40);
        });
        let mut receiver = open(&lab, Side::Target, |config| config.mode = mode);
        let bytes = frame(&lab, &[&AOE], 1514, 1);
        for _ in 0..10 {
            let room = sender.transmit_room();
            assert!(room >= 40, "{mode:?}: {room}");
            for left in (0..room).rev() {
                send(&mut sender, &bytes);
                assert_eq!(sender.transmit_room(), left);
            }
            assert_eq!(
                sender.transmit(now(), &bytes[..36], &bytes[36..]),
                Err(TransmitError::Full)
            );
            let kicks = sender.counters().tx_kicks;
            sender.flush(now());
            assert_eq!(
                sender.counters().tx_kicks,
                kicks + 1,
                "one system call for all"
            );
            assert_eq!(receive_some(&mut receiver, room).len(), room);
        }
    }
}

fn readable(link: &PacketLink, timeout_ms: i32) -> bool {
    let mut asked = libc::pollfd {
        fd: link.wait_fd().unwrap(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd that lives through the call.
    unsafe { libc::poll(&raw mut asked, 1, timeout_ms) == 1 }
}

#[test]
fn the_descriptor_wakes_a_sleeper() {
    let Some(lab) = lab("packet: wait", 1500) else {
        return;
    };
    for mode in MODES {
        let mut sender = open(&lab, Side::Initiator, |config| config.mode = mode);
        let mut receiver = open(&lab, Side::Target, |config| config.mode = mode);
        assert!(receiver.prepare_wait());
        assert!(!readable(&receiver, 0));
        send(&mut sender, &frame(&lab, &[&AOE], 100, 1));
        sender.flush(now());
        assert!(readable(&receiver, 20_000));
        assert_eq!(
            receiver.prepare_wait(),
            mode == PacketMode::Mmsg,
            "a ring sees it without asking"
        );
        assert_eq!(receive_some(&mut receiver, 1).len(), 1);
        assert!(receiver.prepare_wait() && !readable(&receiver, 0));

        // A flap's pending error must not keep the sleeper awake.
        lab.set_link(Side::Target, LinkState::Down).unwrap();
        assert!(readable(&receiver, 20_000), "an error wakes too");
        // Too early for a ring to ask by itself.
        receiver.receive(Instant::ZERO, 64, &mut |_| {});
        receiver.prepare_wait();
        assert!(!readable(&receiver, 0), "{mode:?}");
        assert_eq!(receiver.counters().link_downs, 1);
        lab.set_link(Side::Target, LinkState::Up).unwrap();
    }
}

/// Gives up CAP_NET_RAW in the calling thread.
fn give_up_net_raw() {
    const CAP_NET_RAW: u32 = 13;
    // Version 3 of the capability structures: two words each of effective, permitted, inheritable.
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [[0_u32; 3]; 2];
    // SAFETY: header and data are laid out as capget(2) says.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    assert_eq!(result, 0);
    data[0][0] &= !(1 << CAP_NET_RAW);
    // SAFETY: as above; capset only reads.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(result, 0);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let Some(lab) = lab("packet: errors", 9001) else {
        return;
    };
    for mode in MODES {
        let text = |configure: &dyn Fn(&mut PacketConfig)| {
            let opened = try_open(&lab, Side::Initiator, |config| {
                config.mode = mode;
                configure(config);
            });
            opened.err().expect("an error").to_string()
        };
        assert_eq!(
            text(&|config| config.interface = "nosuch9".into()),
            "interface nosuch9: no such interface"
        );
        assert_eq!(
            text(&|config| config.interface = "a-name-too-long-for-it".into()),
            "interface a-name-too-long-for-it: no such interface"
        );
        assert_eq!(
            text(&|config| config.interface = String::new()),
            "interface : no such interface"
        );
        assert_eq!(
            text(&|config| config.interface = "lo".into()),
            "interface lo is not an Ethernet interface"
        );
        assert_eq!(
            text(&|_| {}),
            "interface san0 has an MTU of 9001 bytes; at most 9000 are supported"
        );
        assert!(text(&|config| config.rx_frames = 0).starts_with("invalid configuration"));
        assert!(text(&|config| config.shard = Some(16)).starts_with("invalid configuration"));
    }
    lab.set_mtu(Side::Initiator, 9000).unwrap();
    let config = PacketConfig::new("san0");
    let refused = lab.enter(Side::Initiator, || {
        give_up_net_raw();
        PacketLink::open(&config)
            .err()
            .map(|error| error.to_string())
    });
    assert!(refused.unwrap().unwrap().contains("CAP_NET_RAW"));
    lab.set_link(Side::Initiator, LinkState::Down).unwrap();
    let refused = try_open(&lab, Side::Initiator, |_| {});
    assert!(matches!(refused, Err(PacketError::Down { .. })));
}
