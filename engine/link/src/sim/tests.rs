//! The switch: conservation of frames, determinism by seed, rates, order, bounds, cuts.

use proptest::prelude::*;

use super::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

fn at(us: u64) -> Instant {
    Instant::from_nanos(us * 1000)
}

fn header(to: MacAddr, from: MacAddr, number: u32) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes[12..14].copy_from_slice(&[0x88, 0xa2]);
    bytes[14..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number(frame: &FrameRef<'_>) -> u32 {
    let mut bytes = [0; 4];
    assert!(frame.copy_to(14, &mut bytes));
    u32::from_be_bytes(bytes)
}

fn drain(link: &mut SimLink, now: Instant) -> Vec<u32> {
    let mut numbers = Vec::new();
    while link.receive(now, 7, &mut |frame| numbers.push(number(&frame))) > 0 {}
    numbers
}

/// A network of two or three ports without faults.
fn trio() -> (SimNet, [SimPort; 3], [SimLink; 3]) {
    let net = SimNet::new(1, SimNetConfig::default());
    let ports = [A, B, C].map(|mac| net.port(PortConfig::new(mac)));
    let links = [0, 1, 2].map(|n: usize| ports[n].link());
    (net, ports, links)
}

fn balanced(counters: &SimCounters) -> bool {
    counters.offered + counters.duplicated
        == counters.delivered
            + counters.lost
            + counters.black_holed
            + counters.cut
            + counters.down
            + counters.overflowed
            + counters.discarded
            + counters.queued
            + counters.in_flight
}

#[test]
fn frames_go_where_they_are_addressed_and_take_their_time() {
    let (net, _, [mut a, mut b, mut c]) = trio();
    a.transmit(at(10), &header(B, A, 1), b"payload").unwrap();
    a.transmit(at(10), &header(MacAddr([0xff; 6]), A, 2), &[])
        .unwrap();
    a.transmit(at(10), &header(MacAddr([2, 9, 9, 9, 9, 9]), A, 3), &[])
        .unwrap();
    assert_eq!(a.completed(), 3);
    assert_eq!(net.next_arrival(), Some(at(12)), "1 us on each side");
    assert_eq!(drain(&mut b, at(11)), []);
    let mut bytes = Vec::new();
    b.receive(at(12), 1, &mut |frame| bytes = frame.segments().concat());
    let mut expected = header(B, A, 1).to_vec();
    expected.extend(b"payload");
    expected.resize(60, 0);
    assert_eq!(bytes, expected);
    assert_eq!(
        (drain(&mut b, at(12)), drain(&mut c, at(12))),
        (vec![2], vec![2])
    );
    assert_eq!(drain(&mut a, at(12)), [], "not to the sender");
    assert_eq!(net.next_arrival(), None);
    assert_eq!(net.counters().unroutable, 1);
    assert!(balanced(&net.counters()));
}

#[test]
fn transmit_queue_delays_completion_and_is_bounded() {
    let net = SimNet::new(1, SimNetConfig::default());
    let port = net.port(PortConfig {
        tx_queue_frames: 2,
        tx_frame_time: Duration::from_micros(10),
        ..PortConfig::new(A)
    });
    let mut b = net.port(PortConfig::new(B)).link();
    let mut a = port.link();
    port.pause_transmit(at(15)..at(50));
    for n in 0..2 {
        a.transmit(at(0), &header(B, A, n), &[]).unwrap();
    }
    assert_eq!(
        a.transmit(at(0), &header(B, A, 9), &[]),
        Err(TransmitError::Full)
    );
    assert_eq!(
        (a.transmit_room(), a.completed(), a.poll_timeout()),
        (0, 0, Some(at(10)))
    );
    a.flush(at(10));
    assert_eq!(
        (a.transmit_room(), a.completed(), a.poll_timeout()),
        (1, 1, Some(at(50)))
    );
    a.flush(at(49));
    assert_eq!(a.completed(), 1);
    assert_eq!(drain(&mut b, at(49)), [0]);
    a.flush(at(50));
    assert_eq!((a.completed(), a.poll_timeout()), (2, None));
    assert_eq!(
        net.next_arrival(),
        Some(at(52)),
        "the network's delay begins with the completion"
    );
    let long = TransmitError::TooLong {
        len_bytes: 9023,
        max_bytes: 9022,
    };
    assert_eq!(a.transmit(at(60), &header(B, A, 9), &[0; 9005]), Err(long));
    assert!(a.transmit(at(60), &[0; 65], &[]).is_err());
}

#[test]
fn cuts_are_directed_and_end() {
    let (net, ports, [mut a, mut b, mut c]) = trio();
    net.cut_one_way(ports[0].id(), ports[1].id(), at(10)..at(20));
    net.cut(ports[0].id(), ports[2].id(), at(10)..at(20));
    for (now, n) in [(9, 1), (10, 2), (19, 3), (20, 4)] {
        a.transmit(at(now), &header(B, A, n), &[]).unwrap();
        b.transmit(at(now), &header(A, B, n), &[]).unwrap();
        a.transmit(at(now), &header(C, A, n), &[]).unwrap();
        c.transmit(at(now), &header(A, C, n + 10), &[]).unwrap();
    }
    assert_eq!(drain(&mut b, at(100)), [1, 4]);
    assert_eq!(drain(&mut c, at(100)), [1, 4]);
    assert_eq!(drain(&mut a, at(100)), [1, 11, 2, 3, 4, 14]);
    assert_eq!(net.counters().cut, 6);
    net.cut(
        ports[0].id(),
        ports[1].id(),
        at(0)..Instant::from_nanos(u64::MAX),
    );
    net.heal();
    a.transmit(at(200), &header(B, A, 7), &[]).unwrap();
    assert_eq!(drain(&mut b, at(300)), [7]);
}

#[test]
fn a_port_that_is_down_sends_and_receives_nothing() {
    let (net, ports, [mut a, mut b, _]) = trio();
    ports[1].take_down(at(10)..at(20));
    a.transmit(at(9), &header(B, A, 1), &[]).unwrap();
    a.transmit(at(18), &header(B, A, 2), &[]).unwrap();
    b.transmit(at(15), &header(A, B, 3), &[]).unwrap();
    assert_eq!(
        (
            b.completed(),
            b.counters().tx_failed,
            b.counters().link_downs
        ),
        (1, 1, 1)
    );
    assert_eq!(
        drain(&mut b, at(30)),
        [2],
        "sent before its end, arrived after"
    );
    assert_eq!(drain(&mut a, at(30)), []);
    assert_eq!((net.counters().down, b.counters().rx_dropped), (1, 1));
    assert!(balanced(&net.counters()));
}

#[test]
fn black_hole_eats_only_what_is_too_long() {
    let (net, ports, [mut a, mut b, _]) = trio();
    ports[1].set_ingress(PathFaults {
        frame_bytes_max: Some(1514),
        ..PathFaults::default()
    });
    a.transmit(at(0), &header(B, A, 1), &[0; 1514 - 18])
        .unwrap();
    a.transmit(at(0), &header(B, A, 2), &[0; 1515 - 18])
        .unwrap();
    b.transmit(at(0), &header(A, B, 3), &[0; 4132 - 18])
        .unwrap();
    assert_eq!(drain(&mut b, at(10)), [1]);
    assert_eq!(drain(&mut a, at(10)), [3], "one direction only");
    assert_eq!(net.counters().black_holed, 1);
}

#[test]
fn injection_and_replaced_links() {
    let (net, ports, [_, mut b, _]) = trio();
    net.inject(at(5), ports[1].id(), &header(C, A, 77));
    assert_eq!(net.next_arrival(), Some(at(5)));
    assert_eq!(drain(&mut b, at(5)), [77]);
    net.inject(at(6), ports[1].id(), &header(B, A, 78));
    net.inject(at(7), ports[1].id(), &header(B, A, 79));
    net.advance(at(6));
    assert!(!b.prepare_wait());
    let mut b = ports[1].link();
    assert!(b.prepare_wait());
    assert_eq!(
        drain(&mut b, at(10)),
        [79],
        "what had arrived is gone with the old link"
    );
    assert_eq!((net.counters().discarded, b.completed()), (1, 0));
    assert!(balanced(&net.counters()));
}

#[test]
fn receive_queue_is_bounded() {
    let net = SimNet::new(1, SimNetConfig::default());
    let mut a = net.port(PortConfig::new(A)).link();
    let mut b = net
        .port(PortConfig {
            rx_queue_frames: 3,
            ..PortConfig::new(B)
        })
        .link();
    for n in 0..5 {
        a.transmit(at(0), &header(B, A, n), &[]).unwrap();
    }
    assert_eq!(drain(&mut b, at(10)), [0, 1, 2]);
    assert_eq!((b.counters().rx_dropped, net.counters().overflowed), (2, 2));
}

fn wild(rng: &mut fastrand::Rng) -> PathFaults {
    PathFaults {
        loss: rng.f64() * 0.3,
        duplicate: rng.f64() * 0.3,
        reorder: rng.f64() * 0.3,
        reorder_window: Duration::from_micros(rng.u64(0..200)),
        delay_min: Duration::from_micros(rng.u64(0..20)),
        delay_jitter: Duration::from_micros(rng.u64(0..50)),
        delay_rare: rng.f64() * 0.1,
        frame_bytes_max: rng.bool().then(|| rng.usize(60..2000)),
    }
}

/// Three ports with every fault, chosen by `rng`.
fn wild_net(rng: &mut fastrand::Rng, net_seed: u64) -> (SimNet, [SimPort; 3]) {
    let net = SimNet::new(
        net_seed,
        SimNetConfig {
            delay_max: Duration::from_micros(300),
        },
    );
    let ports = [A, B, C].map(|mac| {
        net.port(PortConfig {
            rx_queue_frames: rng.usize(1..20),
            tx_queue_frames: rng.usize(1..20),
            tx_frame_time: Duration::from_nanos(rng.u64(0..3000)),
            egress: wild(rng),
            ingress: wild(rng),
            ..PortConfig::new(mac)
        })
    });
    (net, ports)
}

/// What happened: every frame's receiver, number and arrival as the links saw it, and the counters.
fn history(seed: u64, net_seed: u64) -> (Vec<(usize, u32, u64)>, SimCounters) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (net, ports) = wild_net(&mut rng, net_seed);
    let mut links = [0, 1, 2].map(|n: usize| ports[n].link());
    let (mut seen, mut completed, mut now) = (Vec::new(), [0; 3], 0);
    let mut taken = [0; 3];
    for step in 0..500 {
        now += rng.u64(0..20_000);
        let time = Instant::from_nanos(now);
        let n = rng.usize(0..3);
        match rng.u8(0..20) {
            0 => net.cut(
                ports[n].id(),
                ports[(n + 1) % 3].id(),
                time..time + Duration::from_micros(50),
            ),
            1 => ports[n].take_down(time..time + Duration::from_micros(30)),
            2 => ports[n].pause_transmit(time..time + Duration::from_micros(40)),
            3 => net.inject(
                time + Duration::from_micros(5),
                ports[n].id(),
                &header(A, A, step),
            ),
            4..=13 => {
                let to = [A, B, C, MacAddr([0xff; 6])][rng.usize(0..4)];
                let payload = vec![0; rng.usize(0..3000)];
                let sent = links[n].transmit(time, &header(to, [A, B, C][n], step), &payload);
                taken[n] += u64::from(sent.is_ok());
            }
            _ => {
                links[n].receive(time, rng.usize(1..9), &mut |frame| {
                    seen.push((n, number(&frame), now))
                });
            }
        }
        assert!(links[n].completed() >= completed[n] && links[n].completed() <= taken[n]);
        completed[n] = links[n].completed();
        assert!(
            balanced(&net.counters()),
            "step {step}: {:?}",
            net.counters()
        );
    }
    let end = Instant::from_nanos(now + 1_000_000_000);
    for (n, link) in links.iter_mut().enumerate() {
        while link.receive(end, 9, &mut |frame| {
            seen.push((n, number(&frame), u64::MAX))
        }) > 0
        {}
        assert_eq!(
            (link.completed(), link.counters().tx_frames),
            (taken[n], taken[n])
        );
    }
    let counters = net.counters();
    assert!(balanced(&counters));
    assert_eq!((counters.in_flight, counters.queued), (0, 0));
    assert_eq!(counters.delivered, u64::try_from(seen.len()).unwrap());
    (seen, counters)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_frame_is_accounted_for_and_a_seed_repeats(seed in any::<u64>()) {
        let first = history(seed, seed);
        prop_assert_eq!(&first, &history(seed, seed));
    }
}

#[test]
fn another_seed_gives_another_history() {
    assert_ne!(history(5, 1), history(5, 2));
}

/// Sends `frames` one way through a port with the given egress, each after the other; numbers and delays as they arrived.
fn stream(faults: PathFaults, delay_max: Duration, frames: u32) -> (Vec<(u32, u64)>, SimCounters) {
    let net = SimNet::new(3, SimNetConfig { delay_max });
    let mut a = net
        .port(PortConfig {
            egress: faults,
            ..PortConfig::new(A)
        })
        .link();
    let quiet = PathFaults {
        delay_min: Duration::ZERO,
        ..PathFaults::default()
    };
    let mut b = net
        .port(PortConfig {
            ingress: quiet,
            rx_queue_frames: usize::try_from(2 * frames).unwrap(),
            ..PortConfig::new(B)
        })
        .link();
    let mut seen = Vec::new();
    for n in 0..frames {
        a.transmit(at(u64::from(n)), &header(B, A, n), &[]).unwrap();
    }
    while let Some(now) = net.next_arrival() {
        b.receive(now, usize::MAX, &mut |frame| {
            let n = number(&frame);
            seen.push((n, (now.as_nanos() - u64::from(n) * 1000) / 1000));
        });
    }
    (seen, net.counters())
}

#[test]
fn rates_and_delays_are_as_asked() {
    let faults = PathFaults {
        loss: 0.05,
        duplicate: 0.10,
        reorder: 0.20,
        delay_rare: 0.02,
        delay_min: Duration::from_micros(10),
        delay_jitter: Duration::from_micros(20),
        ..PathFaults::default()
    };
    let delay_max = Duration::from_millis(10);
    let (seen, counters) = stream(faults, delay_max, 20_000);
    // Five standard deviations of a binomial distribution either way.
    let near =
        |got: u64, p: f64, n: f64| (got as f64 - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt();
    assert!(near(counters.lost, 0.05, 20_000.0), "{counters:?}");
    assert!(near(counters.duplicated, 0.10, 20_000.0), "{counters:?}");
    // The draws for second copies come on top.
    assert!(near(counters.reordered, 0.20, 22_000.0), "{counters:?}");
    assert!(
        near(counters.rarely_delayed, 0.02, 22_000.0),
        "{counters:?}"
    );
    let longest = seen.iter().map(|(_, delay)| *delay).max().unwrap();
    assert!((5_000..=10_000).contains(&longest), "{longest} us");
    assert!(seen.iter().all(|(_, delay)| *delay >= 10));
    assert!(seen.windows(2).any(|pair| pair[0].0 > pair[1].0));
}

#[test]
fn jitter_alone_keeps_the_order_and_delay_max_holds() {
    let faults = PathFaults {
        delay_min: Duration::from_micros(10),
        delay_jitter: Duration::from_micros(500),
        ..PathFaults::default()
    };
    let (seen, _) = stream(faults.clone(), Duration::from_secs(1), 2000);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0));
    // The bound holds for frames that stay in order, for those that do not, and for second copies.
    let every_kind = PathFaults {
        duplicate: 0.3,
        reorder: 0.3,
        delay_rare: 0.1,
        ..faults
    };
    let (seen, counters) = stream(every_kind, Duration::from_micros(40), 2000);
    assert!(seen.iter().all(|(_, delay)| *delay <= 40));
    assert!(counters.duplicated > 0 && counters.reordered > 0 && counters.rarely_delayed > 0);
}

#[test]
fn a_delay_may_be_set_beyond_any_lifetime() {
    let faults = PathFaults {
        delay_rare: 0.5,
        ..PathFaults::default()
    };
    let (seen, _) = stream(faults, Duration::from_secs(60), 100);
    assert!(seen.iter().any(|(_, delay)| *delay > 30_000_000));
}
