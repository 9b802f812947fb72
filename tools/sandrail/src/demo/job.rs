//! The job: write, flush, read back, compare; what it took.

use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use sandrail_node::{Client, Node, TargetHandle};
use sandrail_wire::TargetAddr;
use serde::{Deserialize, Serialize};

use crate::cli::{Global, JobArgs};
use crate::demo::data;
use crate::fault::{Exit, Fault};
use crate::flow::{Flow, sector_bytes};
use crate::measure::{Pace, Percentiles, WireCounters, approximate};
use crate::output::{self, Stream};
use crate::session;
use crate::size::Size;
use crate::verbs::durability_words;

/// Points of a curve: ten a decade of rarity.
const POINTS_PER_DECADE: u32 = 10;

/// What to do to which target.
pub(super) struct Job {
    pub(super) seed: u64,
    pub(super) sectors: u64,
    pub(super) block_bytes: usize,
    /// For the progress bars.
    pub(super) title: String,
    pub(super) quiet: bool,
}

/// Writing or reading.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) pace: Pace,
    pub(crate) latency: Percentiles,
    /// Latency by rarity: (share of requests that took longer, nanoseconds).
    pub(crate) curve: Vec<(f64, u64)>,
}

/// What it took.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct JobReport {
    pub(crate) mode: String,
    pub(crate) mtu_bytes: usize,
    pub(crate) shards: usize,
    /// Where the shards ran, in words.
    pub(crate) pinning: String,
    pub(crate) sectors: u64,
    pub(crate) write: Side,
    pub(crate) read: Side,
    /// What the flush was worth, in words.
    pub(crate) flush: String,
    pub(crate) wire: WireCounters,
    /// Whoever has the target's file has compared it, too.
    #[serde(default)]
    pub(crate) found_in_file: bool,
}

/// `sandrail job`: on an interface, for the demo's main process.
pub(crate) fn run(global: &Global, args: &JobArgs) -> Result<Exit> {
    let block_bytes = session::block_bytes(&args.flow)?;
    let target = args.target.target;
    let mut attached = session::attach(global, target, Some(&args.flow))?;
    let job = Job {
        seed: args.seed,
        sectors: args.size.0 / sector_bytes(),
        block_bytes,
        title: global.link.word(),
        quiet: false,
    };
    let device_sectors = attached.info.identify.sectors;
    let outcome = if job.sectors > device_sectors {
        Err(Fault::PastEnd {
            lba: 0,
            end: job.sectors,
            target,
            device_sectors,
            device: Size(device_sectors * sector_bytes()),
        }
        .into())
    } else {
        let handle = attached.handle;
        carry_out(
            &job,
            &attached.session.node,
            &mut attached.client,
            handle,
            target,
        )
    };
    attached.end();
    let report = outcome?;
    output::report(Stream::Out, true, &serde_json::to_value(report)?, "")?;
    Ok(Exit::Done)
}

/// Writes, flushes, reads back and compares.
pub(super) fn carry_out(
    job: &Job,
    node: &Node,
    client: &mut Client,
    handle: TargetHandle,
    addr: TargetAddr,
) -> Result<JobReport> {
    let bytes = job.sectors * sector_bytes();
    let mut flow = Flow::of(client, handle, addr, job.block_bytes);

    let bar = bar(job, "write", bytes);
    let began = Instant::now();
    flow.write(
        0,
        job.sectors,
        &mut |lba, buffer| {
            data::fill(job.seed, lba, buffer);
            Ok(buffer.len())
        },
        &mut |bytes| bar.inc(bytes),
    )?;
    let wrote = began.elapsed();
    bar.finish_and_clear();
    let flush = durability_words(flow.flush()?).to_owned();

    let bar = self::bar(job, "read and compare", bytes);
    let began = Instant::now();
    let mut compared = 0;
    flow.read(0, job.sectors, &mut |lba, sectors| {
        if let Some(differing) = data::first_difference(job.seed, lba, sectors) {
            return Err(Fault::Differs {
                lba: differing,
                target: addr,
                differing: 1,
                compared: differing + 1,
            }
            .into());
        }
        compared += u64::try_from(sectors.len()).unwrap_or(0) / sector_bytes();
        bar.inc(u64::try_from(sectors.len()).unwrap_or(0));
        Ok(())
    })?;
    let read = began.elapsed();
    bar.finish_and_clear();
    assert_eq!(
        compared, job.sectors,
        "a read that succeeded hands out all of it"
    );

    let stat = node.stat()?;
    let latency = stat.latency();
    let side = |histogram: &Histogram<u64>, took| Side {
        pace: Pace::new(bytes, histogram.len(), took),
        latency: Percentiles::of(histogram),
        curve: curve(histogram),
    };
    let link = stat.shards.first().and_then(|shard| shard.links.first());
    Ok(JobReport {
        mode: link.map_or_else(String::new, |link| link.info.mode.clone()),
        mtu_bytes: link.map_or(0, |link| link.info.mtu_bytes),
        shards: stat.shards.len(),
        pinning: pinning(&stat.shards),
        sectors: compared,
        write: side(&latency.write, wrote),
        read: side(&latency.read, read),
        flush,
        wire: WireCounters::of(&stat),
        found_in_file: false,
    })
}

fn bar(job: &Job, verb: &str, bytes: u64) -> ProgressBar {
    output::progress(&format!("{}: {verb}", job.title), Some(bytes), job.quiet)
}

fn pinning(shards: &[sandrail_node::ShardStat]) -> String {
    let each: Vec<String> = shards
        .iter()
        .map(|shard| match shard.core {
            Some(core) => format!(
                "shard {} pinned to core {core}, {}",
                shard.shard, shard.scheduling
            ),
            None => format!("shard {} not pinned, {}", shard.shard, shard.scheduling),
        })
        .collect();
    each.join("; ")
}

/// Latency against the share of requests that took longer, down to one request.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let samples = approximate(histogram.len());
    let mut points = Vec::new();
    for step in 0.. {
        let rarity = 10_f64.powf(-f64::from(step) / f64::from(POINTS_PER_DECADE));
        if samples * rarity < 1.0 {
            break;
        }
        points.push((rarity, histogram.value_at_quantile(1.0 - rarity)));
    }
    if samples > 0.0 {
        points.push((1.0 / samples, histogram.max()));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_to_the_longest_and_ends_at_one_request() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for value in 1..=1000 {
            histogram.record(value).unwrap();
        }
        let points = curve(&histogram);
        assert!(
            points
                .windows(2)
                .all(|pair| pair[0].1 <= pair[1].1 && pair[0].0 >= pair[1].0)
        );
        let &(rarity, longest) = points.last().unwrap();
        assert!((rarity - 0.001).abs() < 1e-9 && longest == 1000);
        let half = points.iter().find(|(rarity, _)| *rarity < 0.51).unwrap();
        assert!((490..=520).contains(&half.1), "{half:?}");
        assert!(curve(&Histogram::<u64>::new(3).unwrap()).is_empty());
    }
}
