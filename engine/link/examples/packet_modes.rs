//! Which way through AF_PACKET is faster on this machine: round trips over a veth pair, rings against `sendmmsg`/`recvmmsg`.
//!
//! `cargo run --release -p sandrail-link --example packet_modes -- [pairs] [milliseconds]`
//!
//! The two ways take turns, so that a machine that drifts drifts for both; what counts is the median of the ratios. Each side
//! spins on a core of its own and yields when nothing has come.

#![allow(
    unsafe_code,
    reason = "pinning a thread to a core has no safe interface"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use sandrail_lab::{Lab, Side};
use sandrail_link::Link;
use sandrail_link::packet::{PacketConfig, PacketLink, PacketMode};
use sandrail_proto::time::Instant;

/// One cell of the table.
#[derive(Clone, Copy)]
struct Load {
    depth: usize,
    reply_bytes: usize,
}

struct Result {
    round_trips_per_s: f64,
    kicks_per_trip: f64,
    /// Frames without an answer for 50 ms: lost, or the other side did not run.
    given_up: u64,
}

fn pin(core: usize) {
    // SAFETY: a set of zeros is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core's number is small.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set lives through the call. Should it fail, the run is only noisier.
    unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(&set), &raw const set) };
}

fn open(lab: &Lab, side: Side, mode: PacketMode) -> PacketLink {
    let mut config = PacketConfig::new(lab.interface(side));
    config.mode = mode;
    lab.enter(side, || PacketLink::open(&config))
        .expect("the lab's namespace")
        .expect("the lab's interface")
}

/// Answers each frame with one of `reply_bytes`.
fn echo(link: &mut PacketLink, header: &[u8], reply: &[u8], stop: &AtomicBool) {
    pin(1);
    let start = Clock::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(0));
        let got = link.receive(now, 32, &mut |_| {});
        for _ in 0..got {
            let _ = link.transmit(now, header, reply);
        }
        if got > 0 {
            link.flush(now);
        } else {
            std::thread::yield_now();
        }
    }
}

/// Sends until the first answer comes, so that the other side's start is not measured.
fn await_echo(link: &mut PacketLink, request: &[u8]) {
    let start = Clock::now();
    while link.receive(Instant::ZERO, 32, &mut |_| {}) == 0 {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the echo does not answer"
        );
        let _ = link.transmit(Instant::ZERO, request, &[]);
        link.flush(Instant::ZERO);
        std::thread::sleep(Duration::from_millis(1));
    }
    // What was asked more than once is answered more than once.
    std::thread::sleep(Duration::from_millis(5));
    while link.receive(Instant::ZERO, 32, &mut |_| {}) > 0 {}
}

fn run(lab: &Lab, mode: PacketMode, load: Load, time: Duration) -> Result {
    let mut near = open(lab, Side::Initiator, mode);
    let mut far = open(lab, Side::Target, mode);
    let header = |to: Side, from: Side| {
        let mut header = Vec::from(lab.mac(to).0);
        header.extend(lab.mac(from).0);
        header.extend([0x88, 0xa2, 0x10]);
        header.resize(36, 0);
        header
    };
    let request = header(Side::Target, Side::Initiator);
    let reply_header = header(Side::Initiator, Side::Target);
    let reply = vec![0x5a; load.reply_bytes - reply_header.len()];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| echo(&mut far, &reply_header, &reply, &stop));
        pin(0);
        await_echo(&mut near, &request);
        let start = Clock::now();
        let (mut trips, mut lost) = (0_u64, 0_u64);
        let mut in_flight = 0;
        let mut last_reply = start;
        while start.elapsed() < time {
            let now = Instant::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(0));
            let got = near.receive(now, 32, &mut |_| {});
            in_flight -= got.min(in_flight);
            trips += u64::try_from(got).unwrap_or(0);
            if got > 0 {
                last_reply = Clock::now();
            } else if in_flight > 0 && last_reply.elapsed() > Duration::from_millis(50) {
                // Start again rather than hang.
                lost += u64::try_from(in_flight).unwrap_or(0);
                in_flight = 0;
            }
            while in_flight < load.depth && near.transmit(now, &request, &[]).is_ok() {
                in_flight += 1;
            }
            near.flush(now);
            if got == 0 {
                std::thread::yield_now();
            }
        }
        let elapsed = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let counters = near.counters();
        let kicks = counters.tx_kicks + counters.rx_kicks;
        assert!(trips > 0, "no answer in {time:?}");
        Result {
            round_trips_per_s: trips as f64 / elapsed,
            kicks_per_trip: kicks as f64 / trips as f64,
            given_up: lost,
        }
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let number = |n: usize, or: u64| {
        std::env::args()
            .nth(n)
            .and_then(|text| text.parse().ok())
            .unwrap_or(or)
    };
    let (pairs, time) = (number(1, 20), Duration::from_millis(number(2, 200)));
    let lab = Lab::builder()
        .name_prefix("srlink")
        .mtu(9000)
        .build()
        .expect("root and namespaces");
    println!("{pairs} interleaved pairs of {time:?} each; thousand round trips/s, min/median/max");
    for (depth, reply_bytes) in [(1, 60), (1, 4132), (32, 60), (32, 4132)] {
        let load = Load { depth, reply_bytes };
        let (mut ring, mut mmsg, mut ratios, mut kicks) = (vec![], vec![], vec![], (0.0, 0.0));
        let mut given_up = 0;
        for _ in 0..pairs {
            let (a, b) = (
                run(&lab, PacketMode::Ring, load, time),
                run(&lab, PacketMode::Mmsg, load, time),
            );
            ring.push(a.round_trips_per_s / 1e3);
            mmsg.push(b.round_trips_per_s / 1e3);
            ratios.push(a.round_trips_per_s / b.round_trips_per_s);
            given_up += a.given_up + b.given_up;
            kicks = (kicks.0 + a.kicks_per_trip, kicks.1 + b.kicks_per_trip);
        }
        let n = pairs as f64;
        let ratio = median(&mut ratios);
        let (mid_ring, mid_mmsg) = (median(&mut ring), median(&mut mmsg));
        let last = ring.len() - 1;
        println!(
            "depth {depth:2} reply {reply_bytes:4} B: ring {:.0}/{mid_ring:.0}/{:.0} ({:.2} kicks a trip), \
             mmsg {:.0}/{mid_mmsg:.0}/{:.0} ({:.2}), ratio {:.2}/{ratio:.2}/{:.2}, {given_up} frames given up",
            ring[0],
            ring[last],
            kicks.0 / n,
            mmsg[0],
            mmsg[last],
            kicks.1 / n,
            ratios[0],
            ratios[last],
        );
    }
}
