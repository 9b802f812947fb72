//! The decorator over a simulated link: conservation, determinism, rates, scripts, completion, bounded memory.

#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of test frames are small"
)]

use proptest::prelude::*;
use sandrail_wire::MacAddr;

use super::*;
use crate::sim::{PathFaults, PortConfig, SimLink, SimNet, SimNetConfig};

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

fn at(us: u64) -> Instant {
    Instant::from_nanos(us * 1000)
}

fn header(to: MacAddr, number: u32) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..6].copy_from_slice(&to.0);
    bytes[12..14].copy_from_slice(&[0x88, 0xa2]);
    bytes[14..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number_in(head: &[u8]) -> u32 {
    u32::from_be_bytes(*head[14..].first_chunk().unwrap())
}

/// Two ports with no delay; the transmit queue of the first as given.
fn pair(tx_frame_time: Duration, tx_queue_frames: usize) -> (SimLink, SimLink) {
    let net = SimNet::new(1, SimNetConfig::default());
    let quick = PathFaults {
        delay_min: Duration::ZERO,
        ..PathFaults::default()
    };
    let config = |mac| PortConfig {
        egress: quick.clone(),
        ingress: quick.clone(),
        rx_queue_frames: 100_000,
        ..PortConfig::new(mac)
    };
    let a = net.port(PortConfig {
        tx_frame_time,
        tx_queue_frames,
        ..config(A)
    });
    (a.link(), net.port(config(B)).link())
}

fn drain(link: &mut impl Link, now: Instant) -> Vec<u32> {
    let mut numbers = Vec::new();
    while link.receive(now, 7, &mut |frame| numbers.push(number_in(frame.head()))) > 0 {}
    numbers
}

fn balanced(counters: &FaultCounters, held: usize) -> bool {
    counters.seen + counters.duplicated
        == counters.passed
            + counters.lost
            + counters.released
            + counters.refused
            + u64::try_from(held).unwrap()
}

#[test]
fn without_faults_nothing_changes() {
    let (a, mut b) = pair(Duration::ZERO, 1024);
    let mut a = FaultLink::new(a, FaultPlan::new(1));
    for n in 0..100 {
        a.transmit(at(1), &header(B, n), b"some payload").unwrap();
        b.transmit(at(1), &header(A, n), &[]).unwrap();
    }
    a.flush(at(1));
    assert_eq!(a.completed(), 100);
    assert_eq!(a.poll_timeout(), None);
    assert!(drain(&mut b, at(2)).into_iter().eq(0..100));
    assert!(drain(&mut a, at(2)).into_iter().eq(0..100));
    let counters = a.counters();
    assert_eq!((counters.tx_frames, counters.rx_frames), (100, 100));
}

#[test]
fn rates_are_as_asked_each_way() {
    let (a, mut b) = pair(Duration::ZERO, 1024);
    let mut plan = FaultPlan::new(5).with_rates(0.05, 0.10, 0.20);
    plan.transmit.delay = 0.15;
    let mut a = FaultLink::new(a, plan);
    let control = a.control();
    let mut now = 0;
    let (mut there, mut back) = (0, 0);
    for n in 0..20_000 {
        now += 20;
        a.transmit(at(now), &header(B, n), &[]).unwrap();
        b.transmit(at(now), &header(A, n), &[]).unwrap();
        a.flush(at(now));
        there += drain(&mut b, at(now)).len();
        back += drain(&mut a, at(now)).len();
    }
    a.flush(at(now + 10_000));
    there += drain(&mut b, at(now + 10_000)).len();
    back += drain(&mut a, at(now + 10_000)).len();
    let near = |got: u64, p: f64| {
        let n = 20_000.0;
        (got as f64 - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt()
    };
    for (direction, delay, arrived) in [
        (Direction::Transmit, 0.15, there),
        (Direction::Receive, 0.0, back),
    ] {
        let counters = control.counters(direction);
        // A lost frame meets nothing else, a delayed one is not reordered, and only what is left is duplicated.
        let (rest, still) = (0.95, 0.95 * (1.0 - delay));
        assert!(near(counters.lost, 0.05), "{counters:?}");
        assert!(near(counters.delayed, rest * delay), "{counters:?}");
        assert!(near(counters.reordered, still * 0.20), "{counters:?}");
        assert!(
            near(counters.duplicated, still * 0.80 * 0.10),
            "{counters:?}"
        );
        assert_eq!(counters.overflowed, 0);
        assert_eq!(a.held(direction), 0);
        assert!(balanced(&counters, 0), "{counters:?}");
        assert_eq!(
            u64::try_from(arrived).unwrap(),
            counters.passed + counters.released
        );
    }
}

#[test]
fn reordered_frames_are_overtaken_by_so_many_or_wait_so_long() {
    let (a, mut b) = pair(Duration::ZERO, 1024);
    let mut plan = FaultPlan::new(1);
    plan.transmit.reorder = 1.0;
    plan.transmit.reorder_frames_max = 1;
    plan.transmit.reorder_wait_max = Duration::from_micros(500);
    let mut a = FaultLink::new(
        a,
        plan.with_script(Direction::Transmit, |head| {
            // Only frame 1 is left to chance, which is certain here.
            (number_in(head) != 1).then_some(Verdict::Pass)
        }),
    );
    for n in 0..3 {
        a.transmit(at(0), &header(B, n), &[]).unwrap();
    }
    a.flush(at(0));
    assert_eq!(drain(&mut b, at(0)), [0, 2, 1]);
    a.transmit(at(1000), &header(B, 1), &[]).unwrap();
    assert_eq!(a.poll_timeout(), Some(at(1500)));
    a.flush(at(1499));
    assert_eq!(drain(&mut b, at(1499)), []);
    a.flush(at(1500));
    assert_eq!(drain(&mut b, at(1500)), [1]);
}

#[test]
fn scripts_hold_drop_and_copy_the_frames_they_name() {
    let (a, mut b) = pair(Duration::ZERO, 1024);
    let second = Duration::from_secs(1);
    let plan = FaultPlan::new(1)
        .on_nth(Direction::Transmit, 2, Verdict::Hold(second), |head| {
            number_in(head) == 7
        })
        .on_nth(Direction::Transmit, 1, Verdict::Drop, |head| {
            number_in(head) == 8
        })
        .on_nth(Direction::Transmit, 1, Verdict::CopyAfter(second), |head| {
            number_in(head) == 9
        })
        .on_nth(Direction::Receive, 1, Verdict::Hold(second), |head| {
            number_in(head) == 5
        });
    let mut a = FaultLink::new(a, plan);
    let control = a.control();
    for n in [7, 7, 7, 8, 8, 9, 9] {
        a.transmit(at(0), &header(B, n), &[n as u8; 100]).unwrap();
    }
    b.transmit(at(0), &header(A, 5), &[0x55; 100]).unwrap();
    b.transmit(at(0), &header(A, 6), &[]).unwrap();
    a.flush(at(0));
    assert_eq!(a.completed(), 7, "what is held is in the network");
    assert_eq!(drain(&mut b, at(0)), [7, 7, 8, 9, 9]);
    assert_eq!(drain(&mut a, at(0)), [6]);
    assert_eq!(a.poll_timeout(), Some(at(1_000_000)));
    a.flush(at(1_000_000));
    let mut late = Vec::new();
    b.receive(at(1_000_000), 9, &mut |frame| {
        late.push(frame.segments().concat())
    });
    assert_eq!(late.len(), 2);
    for (bytes, n) in late.iter().zip([7, 9]) {
        assert_eq!(
            (number_in(bytes), &bytes[18..]),
            (n, &[n as u8; 100][..]),
            "unchanged"
        );
    }
    let mut late = Vec::new();
    assert!(!a.prepare_wait(), "a held frame is due");
    a.receive(at(1_000_000), 9, &mut |frame| {
        late.push(frame.segments().concat())
    });
    assert_eq!(late, [[&header(A, 5)[..], &[0x55; 100]].concat()]);
    assert_eq!(a.completed(), 7);
    let counters = control.counters(Direction::Transmit);
    assert_eq!(
        (
            counters.scripted,
            counters.delayed,
            counters.lost,
            counters.duplicated
        ),
        (3, 1, 1, 1)
    );
    assert!(a.prepare_wait() && a.poll_timeout().is_none());
}

#[test]
fn a_switch_turns_faults_off_and_on() {
    let (a, mut b) = pair(Duration::ZERO, 1024);
    let mut a = FaultLink::new(a, FaultPlan::new(1).with_rates(1.0, 0.0, 0.0));
    let control = a.control();
    a.transmit(at(0), &header(B, 1), &[]).unwrap();
    control.set_enabled(false);
    a.transmit(at(0), &header(B, 2), &[]).unwrap();
    control.set_enabled(true);
    a.transmit(at(0), &header(B, 3), &[]).unwrap();
    a.flush(at(0));
    assert_eq!(drain(&mut b, at(0)), [2]);
    assert_eq!(a.completed(), 3);
}

#[test]
fn when_no_memory_is_left_frames_pass_and_are_counted() {
    let (a, mut b) = pair(Duration::ZERO, 1024);
    let hour = Verdict::Hold(Duration::from_secs(3600));
    let mut plan = FaultPlan::new(1)
        .with_script(Direction::Transmit, move |_| Some(hour))
        .with_script(Direction::Receive, move |_| Some(hour));
    plan.held_frames_max = 3;
    let mut a = FaultLink::new(a, plan);
    for n in 0..5 {
        a.transmit(at(0), &header(B, n), &[]).unwrap();
        b.transmit(at(0), &header(A, n), &[]).unwrap();
    }
    a.flush(at(0));
    assert_eq!(drain(&mut b, at(0)), [3, 4]);
    assert_eq!(drain(&mut a, at(0)), [3, 4]);
    for direction in [Direction::Transmit, Direction::Receive] {
        let counters = a.control().counters(direction);
        assert_eq!(
            (counters.overflowed, counters.delayed, a.held(direction)),
            (2, 3, 3)
        );
        assert!(balanced(&counters, 3));
    }
    assert_eq!(a.completed(), 5);
}

#[test]
fn a_full_link_says_so_and_judges_a_frame_once() {
    let (a, _b) = pair(Duration::from_micros(10), 2);
    let mut a = FaultLink::new(
        a,
        FaultPlan::new(1).with_script(Direction::Transmit, |_| Some(Verdict::Pass)),
    );
    let control = a.control();
    let taken = (0..4)
        .filter(|n| a.transmit(at(0), &header(B, *n), &[]).is_ok())
        .count();
    assert_eq!(taken, 2);
    assert_eq!(control.counters(Direction::Transmit).scripted, 2);
    assert_eq!(
        a.transmit(at(0), &header(B, 9), &[]),
        Err(TransmitError::Full)
    );
    a.flush(at(10));
    assert_eq!((a.completed(), a.transmit_room()), (1, 1));
    let long = a.transmit(at(10), &header(B, 9), &[0; 9100]);
    assert!(matches!(long, Err(TransmitError::TooLong { .. })));
    assert_eq!(control.counters(Direction::Transmit).seen, 2);
}

#[test]
fn a_released_frame_waits_for_room() {
    let (a, mut b) = pair(Duration::from_micros(10), 2);
    let plan = FaultPlan::new(1).on_nth(
        Direction::Transmit,
        1,
        Verdict::Hold(Duration::from_micros(1)),
        |_| true,
    );
    let mut a = FaultLink::new(a, plan);
    a.transmit(at(0), &header(B, 1), &[]).unwrap();
    a.transmit(at(0), &header(B, 2), &[]).unwrap();
    a.transmit(at(0), &header(B, 3), &[]).unwrap();
    a.flush(at(5));
    assert_eq!(
        (a.held(Direction::Transmit), a.poll_timeout()),
        (1, Some(at(1)))
    );
    a.flush(at(10));
    a.flush(at(20));
    assert_eq!(a.held(Direction::Transmit), 0);
    assert_eq!(drain(&mut b, at(100)), [2, 3, 1]);
}

/// An oracle for completion: which inner frames stand before each of ours, kept without bounds.
fn completion_follows(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (a, mut b) = pair(Duration::from_nanos(rng.u64(1..30_000)), rng.usize(1..8));
    let mut plan =
        FaultPlan::new(seed).with_rates(rng.f64() * 0.4, rng.f64() * 0.4, rng.f64() * 0.4);
    plan.transmit.delay = rng.f64() * 0.3;
    plan.receive.delay = rng.f64() * 0.3;
    plan.held_frames_max = rng.usize(0..12);
    let mut a = FaultLink::new(a, plan);
    let control = a.control();
    let counters = |direction| control.counters(direction);
    // For each frame of ours: how many inner frames must have completed first.
    let (mut needs, mut now, mut before) = (Vec::<u64>::new(), 0, 0);
    let (mut there, mut back, mut sent_back) = (0, 0, 0);
    for n in 0..400 {
        now += rng.u64(0..40);
        match rng.u8(0..4) {
            0 | 1 => {
                if a.transmit(at(now), &header(B, n), &[]).is_ok() {
                    needs.push(a.inner.counters().tx_frames);
                }
            }
            2 => a.flush(at(now)),
            _ => {
                b.transmit(at(now), &header(A, n), &[]).unwrap();
                sent_back += 1;
                let most = rng.usize(1..4);
                let got = a.receive(at(now), most, &mut |_| back += 1);
                assert!(got <= most);
            }
        }
        there += drain(&mut b, at(now)).len();
        let inner = a.inner.completed();
        let exact = u64::try_from(needs.iter().take_while(|need| **need <= inner).count()).unwrap();
        assert_eq!(a.completed(), exact, "seed {seed}, step {n}");
        assert!(a.completed() >= before);
        before = a.completed();
        for direction in [Direction::Transmit, Direction::Receive] {
            assert!(
                balanced(&counters(direction), a.held(direction)),
                "seed {seed}, step {n}"
            );
        }
    }
    for _ in 0..100 {
        now += 10_000;
        a.flush(at(now));
        while a.receive(at(now), 3, &mut |_| back += 1) > 0 {}
        there += drain(&mut b, at(now)).len();
    }
    assert_eq!(a.completed(), u64::try_from(needs.len()).unwrap());
    assert_eq!(a.poll_timeout(), None);
    let (tx, rx) = (counters(Direction::Transmit), counters(Direction::Receive));
    assert_eq!(tx.passed + tx.released, u64::try_from(there).unwrap());
    assert_eq!(rx.passed + rx.released, back);
    assert_eq!((rx.seen, a.counters().rx_frames), (sent_back, back));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn frames_are_conserved_and_completion_is_exact(seed in any::<u64>()) {
        completion_follows(seed);
    }

    #[test]
    fn a_seed_repeats(seed in any::<u64>(), loss in 0.0..0.5, duplicate in 0.0..0.5, reorder in 0.0..0.5) {
        let run = |seed| {
            let (a, mut b) = pair(Duration::ZERO, 64);
            let mut a = FaultLink::new(a, FaultPlan::new(seed).with_rates(loss, duplicate, reorder));
            let mut seen = Vec::new();
            for n in 0..200 {
                let now = at(u64::from(n) * 30);
                a.transmit(now, &header(B, n), &[]).unwrap();
                b.transmit(now, &header(A, n), &[]).unwrap();
                a.flush(now);
                seen.push((drain(&mut a, now), drain(&mut b, now)));
            }
            seen
        };
        prop_assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn full_bookkeeping_lags_but_never_runs_ahead() {
    // Of every two frames one passes and one is lost, while the inner link completes nothing for long.
    let (a, _b) = pair(Duration::from_millis(1), 3 * CHECKPOINTS_MAX);
    let plan = FaultPlan::new(1).with_script(Direction::Transmit, |head| {
        number_in(head).is_multiple_of(2).then_some(Verdict::Drop)
    });
    let mut a = FaultLink::new(a, plan);
    let frames = 4 * u32::try_from(CHECKPOINTS_MAX).unwrap();
    for n in 0..frames {
        a.transmit(at(0), &header(B, n), &[]).unwrap();
    }
    let mut before = 0;
    for ms in 0..u64::from(frames) {
        a.flush(at(ms * 1000));
        // Frame 0 is lost and complete at once; then each inner frame completes itself and the lost one behind it.
        let exact = (1 + 2 * a.inner.completed()).min(u64::from(frames));
        assert!(a.completed() >= before && a.completed() <= exact);
        before = a.completed();
    }
    assert_eq!(before, u64::from(frames));
}
