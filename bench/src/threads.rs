//! A load from other threads than the shards': each client a thread with a driver of its own.

use std::time::Duration;

use anyhow::Context;
use sandrail_link::Link;
use sandrail_node::{Node, NodeConfig, TargetHandle, clock};
use sandrail_proto::aoe::initiator::{PinnedMacs, TargetInfo};
use sandrail_wire::{Lba, TargetAddr};

use crate::costs;
use crate::driver::{LoadConfig, Measured, Pace, Span};
use crate::load::{ATTACH_WITHIN, ClientDisk, DRAIN_WITHIN};
use crate::record::Recorded;
use crate::waiter::Waiter;
use crate::workload::Pattern;

/// Shards on threads of their own, and a target.
#[derive(Debug)]
pub struct Threads {
    node: Node,
    handle: TargetHandle,
    addr: TargetAddr,
}

/// What all clients measured together.
#[derive(Debug)]
pub struct Together {
    /// Their sum.
    pub measured: Measured,
    /// Processor time of clients and shards, warm-up included.
    pub cpu: Duration,
    /// I/Os that this was spent on.
    pub ios: u64,
}

impl Threads {
    /// Starts a shard for each element of `links` and attaches the target.
    ///
    /// # Errors
    /// The node's, or the target does not answer.
    pub fn start<L: Link + Send + 'static>(
        config: &NodeConfig,
        links: Vec<Vec<L>>,
        addr: TargetAddr,
        pinned: PinnedMacs,
    ) -> anyhow::Result<Self> {
        let node = Node::start(config, links)?;
        let handle = node.attach(addr, pinned, ATTACH_WITHIN)?;
        Ok(Self { node, handle, addr })
    }

    /// What is known of the target.
    ///
    /// # Errors
    /// The node's.
    pub fn target(&self) -> anyhow::Result<TargetInfo> {
        let stat = self.node.stat()?;
        let shard = stat.shards.first().context("a shard")?;
        let target = shard.targets.iter().find(|each| each.handle == self.handle);
        Ok(target.context("the target is attached")?.info)
    }

    /// Runs one client for each of `loads`, all at the same time, and on `core` where one is named. With `verify`, blocks are
    /// written first and read back at the end.
    ///
    /// # Errors
    /// An I/O failed, or a block was wrong, at any of them.
    pub fn measure(
        &self,
        loads: &[LoadConfig],
        span: Span,
        core: Option<usize>,
    ) -> anyhow::Result<Together> {
        let shards_before = costs::named_threads_cpu("shard-")?;
        let ends = std::thread::scope(|scope| {
            let clients: Vec<_> = loads
                .iter()
                .map(|load| scope.spawn(move || self.client(load, span, core)))
                .collect();
            clients
                .into_iter()
                .map(|client| {
                    client
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        let shards = costs::named_threads_cpu("shard-")?.saturating_sub(shards_before);
        let (mut cpu, mut ios, mut all) = (shards, 0, Vec::new());
        for (measured, client_cpu, client_ios) in ends {
            cpu += client_cpu;
            ios += client_ios;
            all.push(measured);
        }
        let measured = together(all).context("at least one client")?;
        Ok(Together { measured, cpu, ios })
    }

    fn client(
        &self,
        load: &LoadConfig,
        span: Span,
        core: Option<usize>,
    ) -> anyhow::Result<(Measured, Duration, u64)> {
        if let Some(core) = core {
            crate::machine::pin(core)?;
        }
        let cpu = costs::thread_cpu()?;
        let mut disk = ClientDisk::new(&self.node, self.handle, load.depth)?;
        let mut driver = disk.driver(load, self.addr)?;
        let mut waiter = Waiter::default();
        let mut ios = 0;
        let mut run = |driver: &mut crate::driver::Driver<_>, longest: Duration| {
            let start = clock::now();
            let mut now = start;
            while !driver.is_over() && now.saturating_since(start) < longest {
                now = clock::now();
                let ended = driver.turn(now, &mut disk)?;
                ios += ended;
                waiter.after_turn(ended > 0);
            }
            anyhow::Ok(now)
        };
        // A sweep is bounded by the blocks there are, each I/O by its own timeout.
        if load.verify {
            driver.prefill();
            run(&mut driver, Duration::MAX)?;
        }
        driver.begin(clock::now(), span);
        let longest = span.warmup + span.measure + DRAIN_WITHIN;
        let now = run(&mut driver, longest)?;
        let measured = driver.take_measured(now).context("it was measured")?;
        driver.stop();
        run(&mut driver, DRAIN_WITHIN)?;
        if load.verify {
            driver.read_back();
            run(&mut driver, Duration::MAX)?;
        }
        let checked = driver.checked();
        let measured = Measured {
            checked,
            ..measured
        };
        Ok((measured, costs::thread_cpu()? - cpu, ios))
    }

    /// Stops the shards.
    ///
    /// # Errors
    /// Something was left under way.
    pub fn stop(self) -> anyhow::Result<()> {
        Ok(self.node.shutdown(Duration::from_secs(5))?)
    }
}

/// The sum of several that ran at the same time; `None` of none.
fn together(all: Vec<Measured>) -> Option<Measured> {
    let mut each = all.into_iter();
    let mut sum = each.next()?;
    for other in each {
        sum.ios += other.ios;
        sum.reads += other.reads;
        sum.overdue += other.overdue;
        sum.checked += other.checked;
        sum.elapsed = sum.elapsed.max(other.elapsed);
        for (into, from) in sum.intervals.iter_mut().zip(&other.intervals) {
            into.add(from);
        }
    }
    Some(sum)
}

/// One load shared out among `clients`: the depth, the rate and the I/Os at most fall to each in equal parts. Sequential and
/// verified loads each get a part of the working set, since two would overtake each other there.
///
/// # Errors
/// There are more clients than depth or blocks to share.
pub fn share(load: &LoadConfig, clients: usize) -> anyhow::Result<Vec<LoadConfig>> {
    let count = u64::try_from(clients)?;
    anyhow::ensure!(
        clients > 0 && load.depth >= clients,
        "a depth of {} for {clients} clients: each wants at least 1",
        load.depth
    );
    let divided = load.verify || load.workload.pattern == Pattern::Sequential;
    let blocks = load.workload.blocks() / count;
    anyhow::ensure!(
        !divided || blocks > 0,
        "a working set of {} blocks for {clients} clients",
        load.workload.blocks()
    );
    let part = |client: u64| {
        let mut part = load.clone();
        let place = usize::try_from(client).unwrap_or(0);
        part.depth = load.depth / clients + usize::from(place < load.depth % clients);
        part.workload.seed = load.workload.seed.wrapping_add(client);
        if divided {
            let sectors = blocks * load.workload.block_sectors();
            part.workload.first = Lba(load.workload.first.0 + client * sectors);
            part.workload.sectors = sectors;
        }
        if let Pace::Open { per_s, arrivals } = load.pace {
            #[expect(clippy::cast_precision_loss, reason = "a few clients")]
            let per_s = per_s / count as f64;
            part.pace = Pace::Open { per_s, arrivals };
        }
        part
    };
    Ok((0..count).map(part).collect())
}

impl Recorded {
    /// Adds what was recorded elsewhere in the same interval.
    fn add(&mut self, other: &Self) {
        for (into, from) in [
            (&mut self.read, &other.read),
            (&mut self.write, &other.write),
        ] {
            let added = into.add(from);
            assert!(added.is_ok(), "histograms of the same bounds add up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::Arrivals;
    use crate::blade::BladeLink;
    use crate::load::{config, fit};
    use crate::site::Direction;

    #[test]
    fn a_load_is_shared_out() {
        let mut load = Direction::Read.load(8 * 100, 7, 10);
        load.pace = Pace::Open {
            per_s: 900.0,
            arrivals: Arrivals::Fixed,
        };
        let parts = share(&load, 3).unwrap();
        let depths: Vec<usize> = parts.iter().map(|part| part.depth).collect();
        assert_eq!(depths, [4, 3, 3]);
        assert!(parts.iter().all(|part| part.workload.sectors == 800));
        assert!(matches!(parts[2].pace, Pace::Open { per_s, .. } if (per_s - 300.0).abs() < 1e-9));
        load.verify = true;
        let parts = share(&load, 3).unwrap();
        let places: Vec<u64> = parts.iter().map(|part| part.workload.first.0).collect();
        assert_eq!(places, [0, 33 * 8, 66 * 8]);
        assert!(parts.iter().all(|part| part.workload.sectors == 33 * 8));
        assert!(share(&load, 11).is_err());
    }

    #[test]
    fn clients_on_threads_of_their_own_share_a_shard() {
        let load = Direction::Read.load(BladeLink::SECTORS, 1, 8);
        let config = fit(config(), &load, 1);
        let links = vec![vec![BladeLink::new(1)]];
        let pinned = PinnedMacs::new(&[BladeLink::MAC]).unwrap();
        let threads = Threads::start(&config, links, BladeLink::ADDR, pinned).unwrap();
        assert_eq!(
            threads.target().unwrap().identify.sectors,
            BladeLink::SECTORS
        );
        let span = Span {
            ios_max: 500,
            ..Span::of(Duration::ZERO, Duration::from_secs(60))
        };
        let parts = share(&load, 2).unwrap();
        let together = threads.measure(&parts, span, None).unwrap();
        assert_eq!(together.measured.ios, 1000, "each has its own count");
        assert_eq!(together.ios, 1000);
        threads.stop().unwrap();
    }
}
