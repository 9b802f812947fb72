//! The engine under load, through [`Client`], as its users write it.

use std::time::Duration;

use anyhow::Context;
use sandrail_link::Link;
use sandrail_memory::Buffer;
use sandrail_node::{
    Client, Completion, Idle, Node, NodeConfig, Request, Shard, TargetHandle, clock,
};
use sandrail_proto::aoe::initiator::{IfClosed, Operation, PinnedMacs};
use sandrail_proto::time::Instant;
use sandrail_wire::{MacAddr, TargetAddr};

use crate::driver::{Disk, Driver, Ended, LoadConfig, Measured, Refused, Span};
use crate::rival::Ran;
use crate::waiter::Waiter;
use crate::workload::Io;

/// How long an attach may take.
pub(crate) const ATTACH_WITHIN: Duration = Duration::from_secs(10);
/// Every I/O ends within this.
const IO_WITHIN: Duration = Duration::from_secs(5);
/// What an open loop has begun late, and what is under way, may take so much longer than the run.
pub(crate) const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Turns between two looks at the clock.
const TURNS_A_CLOCK: u64 = 32;

/// The node's settings: its own, without marks of an unclean end, which would delay writes of a later run.
#[must_use]
pub fn config() -> NodeConfig {
    NodeConfig {
        run_dir: None,
        ..NodeConfig::default()
    }
}

/// What a load asks of a node beyond its settings: buffers of the block's length for `clients` of them, room for all that they
/// have under way, and stripes of whole blocks.
#[must_use]
pub fn fit(mut config: NodeConfig, load: &LoadConfig, clients: usize) -> NodeConfig {
    let (depth, block_bytes) = (
        load.depth.saturating_mul(clients),
        load.workload.block_bytes,
    );
    config.memory.buffer_bytes = config.memory.buffer_bytes.max(block_bytes);
    config.memory.buffers = config.memory.buffers.max(depth);
    config.ring_requests = config.ring_requests.max(depth.next_power_of_two());
    let block_sectors = load.workload.block_sectors().max(1);
    config.stripe_sectors = config.stripe_sectors.next_multiple_of(block_sectors);
    config
}

/// A target of a node, as a driver loads it.
#[derive(Debug)]
pub struct ClientDisk {
    client: Client,
    target: TargetHandle,
}

impl ClientDisk {
    /// With room for `depth` requests.
    ///
    /// # Errors
    /// The node's.
    pub fn new(node: &Node, target: TargetHandle, depth: usize) -> anyhow::Result<Self> {
        let client = node.client(depth)?;
        Ok(Self { client, target })
    }

    /// A driver for it.
    ///
    /// # Errors
    /// The load makes no sense, or the node has no buffers for it ([`fit`]).
    pub fn driver(&self, load: &LoadConfig, addr: TargetAddr) -> anyhow::Result<Driver<Buffer>> {
        let buffers = (0..load.depth)
            .map(|_| self.client.buffer(load.workload.block_bytes))
            .collect::<Option<Vec<Buffer>>>()
            .context("the node has no buffers left")?;
        Driver::new(load, addr, buffers)
    }

    /// The next I/O that ends, waited for as the node's `client_idle` says, which is to yield, then to sleep.
    pub fn wait(&mut self, timeout: Duration) -> Option<Ended<Buffer>> {
        self.client.wait(timeout).map(ended)
    }
}

fn ended(completion: Completion) -> Ended<Buffer> {
    Ended {
        user: usize::try_from(completion.user).unwrap_or(usize::MAX),
        submitted_at: completion.submitted_at,
        completed_at: completion.completed_at,
        result: completion.result.map(drop).map_err(anyhow::Error::from),
        buffer: completion.buffer,
    }
}

impl Disk for ClientDisk {
    type Buffer = Buffer;

    #[inline]
    fn submit(&mut self, io: Io, buffer: Buffer, user: usize) -> Result<(), Refused<Buffer>> {
        let operation = if io.write {
            Operation::Write {
                lba: io.lba,
                if_closed: IfClosed::Wait,
            }
        } else {
            Operation::Read { lba: io.lba }
        };
        let request = Request {
            target: self.target,
            operation,
            buffer,
            timeout: IO_WITHIN,
            user: u64::try_from(user).unwrap_or(u64::MAX),
        };
        match self.client.submit(request) {
            Ok(_) => Ok(()),
            Err(rejected) => Err(Refused {
                why: anyhow::anyhow!("{}", rejected.why),
                buffer: rejected.request.buffer,
            }),
        }
    }

    #[inline]
    fn poll(&mut self) -> Option<Ended<Buffer>> {
        self.client.poll().map(ended)
    }
}

/// A shard turned by the thread that loads it: nothing between the caller and its I/O but the API.
#[derive(Debug)]
pub struct OnShard<L> {
    // Dropped before the node, which otherwise would wait for it.
    shard: Shard<L>,
    node: Node,
    disk: ClientDisk,
    driver: Driver<Buffer>,
}

impl<L: Link> OnShard<L> {
    /// Attaches the target. The settings are made to [`fit`] the load.
    ///
    /// # Errors
    /// The node's, or the target does not answer.
    pub fn new(
        config: &NodeConfig,
        link: L,
        target: (TargetAddr, MacAddr),
        load: &LoadConfig,
    ) -> anyhow::Result<Self> {
        let pinned = PinnedMacs::new(&[target.1]).context("one MAC is few enough")?;
        Self::pinned(config, link, target.0, pinned, load)
    }

    /// The same with any MACs, or the first that answers.
    ///
    /// # Errors
    /// As for [`OnShard::new`].
    pub fn pinned(
        config: &NodeConfig,
        link: L,
        addr: TargetAddr,
        pinned: PinnedMacs,
        load: &LoadConfig,
    ) -> anyhow::Result<Self> {
        let config = fit(config.clone(), load, 1);
        let (node, shards) = Node::assemble(&config, vec![vec![link]])?;
        let mut shard = shards.into_iter().next().context("one link, one shard")?;
        let handle = attach_while_turning(&node, &mut shard, addr, pinned)?;
        let disk = ClientDisk::new(&node, handle, load.depth)?;
        let driver = disk.driver(load, addr)?;
        Ok(Self {
            shard,
            node,
            disk,
            driver,
        })
    }

    /// Takes up another load; the one before must be over.
    ///
    /// # Errors
    /// It makes no sense, or it does not fit what the node was made for.
    pub fn set_load(&mut self, load: &LoadConfig, addr: TargetAddr) -> anyhow::Result<()> {
        anyhow::ensure!(self.driver.is_over(), "the load before is not over");
        // The buffers go back first.
        self.driver = Driver::empty(load, addr)?;
        self.disk.client = self.node.client(load.depth)?;
        self.driver = self.disk.driver(load, addr)?;
        Ok(())
    }

    /// Runs for a while. I/Os that are under way at its end stay so.
    ///
    /// # Errors
    /// An I/O failed.
    pub fn run(&mut self, duration: Duration) -> anyhow::Result<Ran> {
        let start = clock::now();
        self.driver.begin_endless(start);
        self.turn_until(start, |_, elapsed| elapsed >= duration)
    }

    /// Loads for as long as `span` says, and until all that was begun has ended.
    ///
    /// # Errors
    /// An I/O failed, or a block was wrong.
    pub fn measure(&mut self, span: Span) -> anyhow::Result<(Measured, Ran)> {
        let start = clock::now();
        self.driver.begin(start, span);
        let longest = span.warmup + span.measure + DRAIN_WITHIN;
        let ran = self.turn_until(start, |driver, elapsed| {
            driver.is_over() || elapsed >= longest
        })?;
        let measured = self.driver.take_measured(clock::now());
        self.finish()?;
        Ok((measured.context("something was measured")?, ran))
    }

    /// Writes every block once, so that a load that verifies knows what is there, or reads every block back.
    ///
    /// # Errors
    /// An I/O failed, or a block was wrong.
    pub fn sweep(&mut self, write: bool) -> anyhow::Result<()> {
        if write {
            self.driver.prefill();
        } else {
            self.driver.read_back();
        }
        self.turn_until(clock::now(), |driver, _| driver.is_over())?;
        Ok(())
    }

    /// Begins nothing more and takes the rest in.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.driver.stop();
        self.turn_until(clock::now(), |driver, _| driver.is_over())?;
        Ok(())
    }

    /// Counts what it did from `start` on.
    fn turn_until(
        &mut self,
        start: Instant,
        mut over: impl FnMut(&Driver<Buffer>, Duration) -> bool,
    ) -> anyhow::Result<Ran> {
        let mut ran = Ran::default();
        let mut waiter = Waiter::default();
        let mut now = start;
        let every_turn = self.driver.wants_the_time();
        loop {
            let busy = self.shard.turn();
            // A closed loop has no use for the time but to see its end.
            if every_turn || ran.turns.is_multiple_of(TURNS_A_CLOCK) {
                now = clock::now();
                ran.elapsed = now.saturating_since(start);
                if over(&self.driver, ran.elapsed) {
                    break;
                }
            }
            ran.ios += self.driver.turn(now, &mut self.disk)?;
            ran.turns += 1;
            waiter.after_turn(busy);
        }
        ran.yields = waiter.yields;
        Ok(ran)
    }

    /// Blocks that were checked so far.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.driver.checked()
    }

    /// One turn of the shard and of the load; how many I/Os ended.
    ///
    /// # Errors
    /// An I/O failed.
    pub fn turn(&mut self) -> anyhow::Result<u64> {
        self.shard.turn();
        self.driver.turn(Instant::ZERO, &mut self.disk)
    }

    /// Puts the full depth under way, and lets it stay so with every [`OnShard::turn`].
    ///
    /// # Errors
    /// A request was refused.
    pub fn fill(&mut self) -> anyhow::Result<()> {
        self.driver.begin_endless(clock::now());
        self.driver.turn(clock::now(), &mut self.disk)?;
        Ok(())
    }

    /// What the shard counted.
    ///
    /// # Errors
    /// The node's.
    pub fn stat(&mut self) -> anyhow::Result<sandrail_node::ShardStat> {
        let Self { node, shard, .. } = self;
        let node = &*node;
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| node.stat());
            while !asked.is_finished() {
                shard.turn();
                std::thread::yield_now();
            }
            let stat = asked
                .join()
                .map_err(|_| anyhow::anyhow!("stat panicked"))??;
            stat.shards.into_iter().next().context("one shard")
        })
    }
}

pub(crate) fn attach_while_turning<L: Link>(
    node: &Node,
    shard: &mut Shard<L>,
    addr: TargetAddr,
    pinned: PinnedMacs,
) -> anyhow::Result<TargetHandle> {
    std::thread::scope(|scope| {
        let attach = scope.spawn(|| node.attach(addr, pinned, ATTACH_WITHIN));
        while !attach.is_finished() {
            shard.turn();
            std::thread::yield_now();
        }
        let attached = attach
            .join()
            .map_err(|_| anyhow::anyhow!("attach panicked"))?;
        Ok(attached?)
    })
}

/// A shard on a thread of its own, and the load on the caller's.
#[derive(Debug)]
pub struct FromThread {
    node: Node,
    disk: ClientDisk,
    driver: Driver<Buffer>,
}

impl FromThread {
    /// Starts the shard on `core` and attaches the target. The calling thread must be allowed to run there: a shard's thread
    /// is pinned within what its starter may use.
    ///
    /// # Errors
    /// The node's, the target does not answer, or the shard does not run on that core.
    pub fn new<L: Link + Send + 'static>(
        core: usize,
        link: L,
        (addr, mac): (TargetAddr, MacAddr),
        load: &LoadConfig,
    ) -> anyhow::Result<Self> {
        let mut config = fit(config(), load, 1);
        config.cores = Some(vec![core]);
        let node = Node::start(&config, vec![vec![link]])?;
        let pinned = PinnedMacs::new(&[mac]).context("one MAC is few enough")?;
        let handle = node.attach(addr, pinned, ATTACH_WITHIN)?;
        let disk = ClientDisk::new(&node, handle, load.depth)?;
        let driver = disk.driver(load, addr)?;
        let started = Self { node, disk, driver };
        let pinned = started.stat()?.core;
        anyhow::ensure!(
            pinned == Some(core),
            "the shard is on core {pinned:?}, not {core}"
        );
        Ok(started)
    }

    /// Runs for a while; waits as the node's `client_idle` says, which is to yield, then to sleep.
    ///
    /// # Errors
    /// An I/O failed.
    pub fn run(&mut self, duration: Duration) -> anyhow::Result<Ran> {
        let mut ran = Ran::default();
        let start = clock::now();
        self.driver.begin_endless(start);
        self.driver.turn(start, &mut self.disk)?;
        while ran.elapsed < duration {
            let end = self.disk.wait(IO_WITHIN).context("no completion")?;
            self.driver.end(end)?;
            let now = clock::now();
            ran.ios += 1 + self.driver.turn(now, &mut self.disk)?;
            ran.turns += 1;
            ran.elapsed = now.saturating_since(start);
        }
        Ok(ran)
    }

    /// What the shard counted.
    ///
    /// # Errors
    /// The node's.
    pub fn stat(&self) -> anyhow::Result<sandrail_node::ShardStat> {
        let stat = self.node.stat()?;
        stat.shards.into_iter().next().context("one shard")
    }

    /// Ends the load and stops the shard.
    ///
    /// # Errors
    /// Something was left under way.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.driver.stop();
        while self.driver.under_way() > 0 {
            let end = self.disk.wait(IO_WITHIN).context("no completion")?;
            self.driver.end(end)?;
        }
        drop(self.driver);
        // Copies of writes are accounted for within a frame's lifetime.
        Ok(self.node.shutdown(Duration::from_secs(5))?)
    }
}

/// How a shard waits by default, in words.
#[must_use]
pub fn words(idle: Idle) -> String {
    format!(
        "{} spinning turns, {} yielding, then {}",
        idle.spin_turns,
        idle.yield_turns,
        if idle.sleep { "sleep" } else { "more yields" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blade::BladeLink;
    use crate::site::Direction;

    fn on_shard(load: &LoadConfig) -> OnShard<BladeLink> {
        let target = (BladeLink::ADDR, BladeLink::MAC);
        OnShard::new(&config(), BladeLink::new(1), target, load).unwrap()
    }

    #[test]
    fn a_load_on_the_shard_runs_over_memory() {
        for direction in [Direction::Read, Direction::Write] {
            let mut load = on_shard(&direction.load(BladeLink::SECTORS, 1, 8));
            let mut ran = load.run(Duration::from_millis(5)).unwrap();
            // Without the core, a run may end before anything else did.
            for _ in 0..100 {
                if ran.ios > 8 {
                    break;
                }
                ran = load.run(Duration::from_millis(50)).unwrap();
            }
            let counted = load.stat().unwrap().initiator;
            assert!(ran.ios > 8, "{ran:?}");
            assert_eq!(counted.tx_copies, 0, "nothing was lost");
        }
    }

    #[test]
    fn a_span_is_measured_and_over() {
        let load = Direction::Read.load(BladeLink::SECTORS, 1, 8);
        let mut on_shard = on_shard(&load);
        let counted = Span {
            ios_max: 200,
            ..Span::of(Duration::ZERO, Duration::from_secs(60))
        };
        for _ in 0..2 {
            let (measured, ran) = on_shard.measure(counted).unwrap();
            assert_eq!((measured.ios, ran.ios), (200, 200));
            assert!(on_shard.driver.is_over());
        }
        let timed = Span::of(Duration::from_millis(2), Duration::from_millis(5));
        let (measured, ran) = on_shard.measure(timed).unwrap();
        assert_eq!(measured.elapsed, timed.measure);
        assert!(measured.ios <= ran.ios, "the warm-up is left out");
        let longer = LoadConfig {
            depth: 64,
            ..load.clone()
        };
        on_shard.set_load(&longer, BladeLink::ADDR).unwrap();
        let (measured, _) = on_shard.measure(counted).unwrap();
        assert_eq!(measured.ios, 200);
    }

    #[test]
    fn blocks_of_every_length_fit() {
        for block_bytes in [512, 12_288, 1 << 20] {
            let mut load = Direction::Write.load(BladeLink::SECTORS, 1, 4);
            load.workload.block_bytes = block_bytes;
            let mut on_shard = on_shard(&load);
            let span = Span {
                ios_max: 20,
                ..Span::of(Duration::ZERO, Duration::from_secs(60))
            };
            let (measured, _) = on_shard.measure(span).unwrap();
            assert_eq!(measured.ios, 20, "{block_bytes} bytes");
        }
    }

    #[test]
    fn a_target_that_forgets_its_data_is_caught() {
        // The target in memory keeps no blocks: what it answers to a READ is no stamp.
        let load = LoadConfig {
            verify: true,
            ..Direction::Read.load(8 * 16, 1, 2)
        };
        let mut on_shard = on_shard(&load);
        on_shard.sweep(true).unwrap();
        let error = on_shard.sweep(false).unwrap_err();
        assert!(format!("{error:#}").contains("e7.3, sector 0"), "{error:#}");
    }
}
