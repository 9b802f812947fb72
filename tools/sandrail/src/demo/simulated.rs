//! The demo on a simulated SAN: the same job and the same engine, with a switch and a target that are made of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use sandrail_link::sim::{PathFaults, PortConfig, SimNet, SimNetConfig};
use sandrail_node::{Node, clock};
use sandrail_proto::aoe::initiator::PinnedMacs;
use sandrail_wire::ata::SECTOR_BYTES;
use sandrail_wire::{MacAddr, TargetAddr};

use crate::cli::{DemoArgs, Global};
use crate::demo::job::{self, Job, JobReport};
use crate::demo::simtarget::RamTarget;
use crate::demo::{Run, Story, data, flow_of, say};
use crate::fault::Fault;
use crate::measure::kernel;
use crate::session;

const INITIATOR: MacAddr = MacAddr([0x02, 0x5a, 0, 0, 0, 0x0a]);
const TARGET: MacAddr = MacAddr([0x02, 0x5a, 0, 0, 0, 0x0b]);
const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
/// Each way.
const LOSS: f64 = 0.002;
const DUPLICATE: f64 = 0.002;
const REORDER: f64 = 0.01;

pub(super) fn run(global: &Global, args: &DemoArgs, why: &str) -> Result<Story> {
    say(
        global,
        &format!(
            "simulated SAN ({why}): a switch and a target in this process's memory, which lose {} %, double {} % and \
             reorder {} % of the frames each way. It shows that the data arrives, not how fast a network is",
            LOSS * 100.0,
            DUPLICATE * 100.0,
            REORDER * 100.0
        ),
    );
    let outcome = simulate(global, args);
    Ok(Story {
        place: format!("a simulated SAN in memory ({why})"),
        seed: args.seed,
        size: args.size,
        block: args.block,
        depth: args.depth,
        kernel: kernel(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        runs: vec![Run {
            link: "sim".to_owned(),
            outcome: outcome.map_err(|error| format!("{error:#}")),
            unavailable: false,
        }],
    })
}

fn simulate(global: &Global, args: &DemoArgs) -> Result<JobReport> {
    let block_bytes = session::block_bytes(&flow_of(args))?;
    let sectors = usize::try_from(args.size.0)? / SECTOR_BYTES;
    let stop = Arc::new(AtomicBool::new(false));
    let (started, ready) = mpsc::channel();
    let world = {
        let (global, args, stop) = (global.clone(), args.clone(), Arc::clone(&stop));
        std::thread::Builder::new()
            .name("sim".to_owned())
            .spawn(move || turn_world(&global, &args, sectors, &stop, &started))
            .context("starting the simulation's thread")?
    };
    let outcome = ready
        .recv()
        .map_err(|_| anyhow!("the simulation's thread ended at once"))
        .and_then(|node| node)
        .and_then(|node| {
            let outcome = carry_out(global, args, &node, block_bytes, sectors);
            // Relaxed: the thread only has to see it some time; joining it is what synchronises.
            stop.store(true, Ordering::Relaxed);
            // Its shard is gone by then, so there is nothing to wait for.
            drop(node);
            outcome
        });
    stop.store(true, Ordering::Relaxed);
    let disk = world
        .join()
        .map_err(|_| anyhow!("the simulation's thread panicked"))?;
    let mut report = outcome?;
    if let Some(lba) = data::first_difference(args.seed, 0, &disk) {
        return Err(Fault::Io(format!(
            "read back well, yet sector {lba} of the simulated disk differs from what was written"
        ))
        .into());
    }
    report.found_in_file = true;
    Ok(report)
}

/// Everything that is not `Send` lives here: the switch, the target, the shard. Returns the disk.
fn turn_world(
    global: &Global,
    args: &DemoArgs,
    sectors: usize,
    stop: &AtomicBool,
    started: &mpsc::Sender<Result<Node>>,
) -> Vec<u8> {
    let faults = PathFaults {
        loss: LOSS,
        duplicate: DUPLICATE,
        reorder: REORDER,
        reorder_window: Duration::from_micros(200),
        delay_min: Duration::from_micros(10),
        delay_jitter: Duration::from_micros(5),
        ..PathFaults::default()
    };
    let net = SimNet::new(args.seed, SimNetConfig::default());
    let port = |mac| {
        net.port(PortConfig {
            mtu_bytes: usize::try_from(args.mtu).unwrap_or(1500),
            egress: faults.clone(),
            ..PortConfig::new(mac)
        })
    };
    let (near, far) = (port(INITIATOR), port(TARGET));
    let mut target = RamTarget::new(far.link(), ADDR, sectors);
    let assembled = session::node_config(global, Some(&flow_of(args))).and_then(|mut config| {
        // Nothing outlives this process.
        config.run_dir = None;
        config.seed = args.seed;
        config.initiator.frame_lifetime = Duration::from_secs(1);
        Ok(Node::assemble(&config, vec![vec![near.link()]])?)
    });
    let mut shards = match assembled {
        Ok((node, shards)) => {
            // The receiver waits for exactly this.
            let _ = started.send(Ok(node));
            shards
        }
        Err(error) => {
            let _ = started.send(Err(error));
            return Vec::new();
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let mut busy = false;
        for shard in &mut shards {
            busy |= shard.turn();
        }
        busy |= target.turn(clock::now());
        if !busy {
            std::thread::yield_now();
        }
    }
    target.disk().to_vec()
}

fn carry_out(
    global: &Global,
    args: &DemoArgs,
    node: &Node,
    block_bytes: usize,
    sectors: usize,
) -> Result<JobReport> {
    let handle = node
        .attach(ADDR, PinnedMacs::first_to_answer(), global.timeout)
        .map_err(|source| Fault::Attach {
            target: ADDR,
            interfaces: "the simulated network".to_owned(),
            timeout: global.timeout,
            source,
        })?;
    let mut client = node.client(usize::from(args.depth))?;
    client.set_request_timeout(global.timeout);
    let job = Job {
        seed: args.seed,
        sectors: u64::try_from(sectors)?,
        block_bytes,
        title: "sim".to_owned(),
        quiet: global.json,
    };
    job::carry_out(&job, node, &mut client, handle, ADDR)
}
