//! `packet`: which way through AF_PACKET is faster on this machine, rings or `sendmmsg` and `recvmmsg`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use sandrail_bench::pairs::{Contender, interleave};
use sandrail_bench::report;
use sandrail_bench::site::{self, MTU_BYTES};
use sandrail_bench::waiter::{SPIN_TURNS, Waiter};
use sandrail_lab::{Lab, Side};
use sandrail_link::Link;
use sandrail_link::packet::{PacketLink, PacketMode};
use sandrail_node::clock;
use sandrail_report::{Comparison, Machine, Row};

use crate::{Cores, Out};

const UNIT: &str = "round trips/s";
const BURST_FRAMES: usize = 64;
const HEADER_BYTES: usize = 36;
/// Without an answer for as long, frames are given up for lost.
const STALL: Duration = Duration::from_millis(50);

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Rounds: each mode runs once in each
    #[arg(long, default_value_t = 24)]
    rounds: usize,
    /// Length of each sample, in milliseconds
    #[arg(long, default_value_t = 300)]
    sample_ms: u64,
    /// Frames under way
    #[arg(long = "depth", value_delimiter = ',', default_value = "1,32")]
    depths: Vec<usize>,
    /// Length of the answers: a READ's and a WRITE's
    #[arg(long, value_delimiter = ',', default_value = "4132,60")]
    answer_bytes: Vec<usize>,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    out: Out,
}

#[derive(Clone, Copy)]
struct Load {
    depth: usize,
    answer_bytes: usize,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let _awake = options.cores.settle()?;
    let lab = site::wire()?;
    let mut rows = Vec::new();
    for &answer_bytes in &options.answer_bytes {
        for &depth in &options.depths {
            let load = Load {
                depth,
                answer_bytes: answer_bytes.max(60),
            };
            let contender = |name, mode| Contender {
                name,
                run: Box::new({
                    let lab = &lab;
                    move || sample(options, lab, mode, load)
                }),
            };
            let mut both = [
                contender("mmsg", PacketMode::Mmsg),
                contender("ring", PacketMode::Ring),
            ];
            let samples = interleave(options.rounds, &mut both, |round| {
                eprint!(
                    "\rdepth {depth}, answers of {answer_bytes} bytes: round {round} of {}",
                    options.rounds
                );
            })?;
            eprintln!();
            let metric = |name: &str| format!("depth {depth}, answers of {answer_bytes} B: {name}");
            rows.push(Row::rival(metric("mmsg"), UNIT, &samples[0]));
            rows.push(Row::versus(
                metric("ring"),
                UNIT,
                &samples[1],
                "mmsg",
                &samples[0],
            ));
        }
    }
    let comparison = Comparison {
        title: "AF_PACKET: rings against mmsg, round trips to a bare echo".to_owned(),
        machine: Machine::this(),
        link_mode: "packet ring, packet mmsg".to_owned(),
        mtu_bytes: MTU_BYTES,
        pinning: format!(
            "sender on core {}, echo on core {}",
            options.cores.shard_core, options.cores.target_core
        ),
        conditions: format!(
            "requests of 60 bytes; echo and sender use the same mode; both spin {SPIN_TURNS} turns, then yield"
        ),
        samples: options.rounds,
        sample_ms: options.sample_ms,
        goal: None,
        rows,
    };
    println!("{}", report::table(&comparison));
    report::write(&comparison, &options.out.out, "packet")
}

fn header(lab: &Lab, to: Side, from: Side) -> Vec<u8> {
    let mut header = Vec::from(lab.mac(to).0);
    header.extend(lab.mac(from).0);
    header.extend([0x88, 0xa2, 0x10]);
    header.resize(HEADER_BYTES, 0);
    header
}

fn sample(options: &Options, lab: &Lab, mode: PacketMode, load: Load) -> anyhow::Result<f64> {
    let mut near = site::open_packet(lab, Side::Initiator, mode)?;
    let mut far = site::open_packet(lab, Side::Target, mode)?;
    let request = header(lab, Side::Target, Side::Initiator);
    let answer = header(lab, Side::Initiator, Side::Target);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Inherits this thread's core, the target's.
        scope.spawn(|| echo(&mut far, &answer, load.answer_bytes, &stop));
        let trips = options
            .cores
            .on_shard_core(|| Ok(exchange(&mut near, &request, load.depth, options.sample_ms)));
        // Relaxed: the echo only has to see it some time.
        stop.store(true, Ordering::Relaxed);
        let trips = trips?;
        anyhow::ensure!(trips > 0.0, "the echo does not answer");
        Ok(trips)
    })
}

fn echo(link: &mut PacketLink, header: &[u8], answer_bytes: usize, stop: &AtomicBool) {
    let payload = vec![0x5a; answer_bytes - header.len()];
    let mut waiter = Waiter::default();
    while !stop.load(Ordering::Relaxed) {
        let now = clock::now();
        let heard = link.receive(now, BURST_FRAMES, &mut |_| {});
        for _ in 0..heard {
            // A full ring loses the answer; the sender notices.
            let _ = link.transmit(now, header, &payload);
        }
        link.flush(now);
        waiter.after_turn(heard > 0);
    }
}

/// Round trips a second.
fn exchange(link: &mut PacketLink, request: &[u8], depth: usize, sample_ms: u64) -> f64 {
    let mut waiter = Waiter::default();
    let start = clock::now();
    let (mut heard_at, mut under_way, mut trips) = (start, 0, 0_u32);
    loop {
        let now = clock::now();
        let elapsed = now.saturating_since(start);
        if elapsed >= Duration::from_millis(sample_ms) {
            return f64::from(trips) / elapsed.as_secs_f64();
        }
        let heard = link.receive(now, BURST_FRAMES, &mut |_| {});
        under_way -= heard.min(under_way);
        trips += u32::try_from(heard).unwrap_or(0);
        if heard > 0 {
            heard_at = now;
        } else if now.saturating_since(heard_at) > STALL {
            (heard_at, under_way) = (now, 0);
        }
        while under_way < depth && link.transmit(now, request, &[]).is_ok() {
            under_way += 1;
        }
        link.flush(now);
        waiter.after_turn(heard > 0);
    }
}
