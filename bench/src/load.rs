//! The engine under load: a closed loop of 4 KiB I/Os through [`Client`], as its users write it.

use std::time::Duration;

use anyhow::Context;
use sandrail_link::Link;
use sandrail_memory::Buffer;
use sandrail_node::{
    Client, Completion, Idle, Node, NodeConfig, Request, Shard, TargetHandle, clock,
};
use sandrail_proto::aoe::initiator::{IfClosed, Operation, PinnedMacs};
use sandrail_wire::{MacAddr, TargetAddr};

use crate::rival::Ran;
use crate::site::{BLOCK_BYTES, Blocks, Direction};
use crate::waiter::Waiter;

/// How long an attach may take.
const ATTACH_WITHIN: Duration = Duration::from_secs(10);
/// Every I/O ends within this.
const IO_WITHIN: Duration = Duration::from_secs(5);

/// The node's settings: its own, without marks of an unclean end, which would delay writes of a later run.
#[must_use]
pub fn config() -> NodeConfig {
    NodeConfig {
        run_dir: None,
        ..NodeConfig::default()
    }
}

/// Keeps a number of I/Os under way at random blocks.
#[derive(Debug)]
pub struct ClosedLoop {
    client: Client,
    target: TargetHandle,
    direction: Direction,
    blocks: Blocks,
    /// Buffers without an I/O.
    spare: Vec<Buffer>,
}

impl ClosedLoop {
    fn new(
        node: &Node,
        target: TargetHandle,
        direction: Direction,
        depth: usize,
        blocks: Blocks,
    ) -> anyhow::Result<Self> {
        let client = node.client(depth)?;
        let spare = (0..depth)
            .map(|_| client.buffer(BLOCK_BYTES))
            .collect::<Option<Vec<Buffer>>>()
            .context("the node has no buffers left")?;
        Ok(Self {
            client,
            target,
            direction,
            blocks,
            spare,
        })
    }

    /// Submits an I/O for each spare buffer.
    ///
    /// # Errors
    /// A request was refused.
    pub fn fill(&mut self) -> anyhow::Result<()> {
        while let Some(buffer) = self.spare.pop() {
            self.submit(buffer)?;
        }
        Ok(())
    }

    /// Takes all completions, and submits as many I/Os; how many.
    ///
    /// # Errors
    /// An I/O failed, or a request was refused.
    pub fn turn(&mut self) -> anyhow::Result<u64> {
        let mut ios = 0;
        while let Some(completion) = self.client.poll() {
            self.again(completion)?;
            ios += 1;
        }
        Ok(ios)
    }

    fn again(&mut self, completion: Completion) -> anyhow::Result<()> {
        completion.result?;
        self.submit(completion.buffer)
    }

    fn submit(&mut self, buffer: Buffer) -> anyhow::Result<()> {
        let lba = self.blocks.next_lba();
        let operation = match self.direction {
            Direction::Read => Operation::Read { lba },
            Direction::Write => Operation::Write {
                lba,
                if_closed: IfClosed::Wait,
            },
        };
        let request = Request {
            target: self.target,
            operation,
            buffer,
            timeout: IO_WITHIN,
            user: 0,
        };
        self.client
            .submit(request)
            .map_err(|rejected| anyhow::anyhow!("submit: {}", rejected.why))?;
        Ok(())
    }
}

/// A shard turned by the thread that loads it: nothing between the caller and its I/O but the API.
#[derive(Debug)]
pub struct OnShard<L> {
    // Dropped before the node, which otherwise would wait for it.
    shard: Shard<L>,
    node: Node,
    load: ClosedLoop,
}

impl<L: Link> OnShard<L> {
    /// Attaches the target.
    ///
    /// # Errors
    /// The node's, or the target does not answer.
    pub fn new(
        config: &NodeConfig,
        link: L,
        target: (TargetAddr, MacAddr),
        direction: Direction,
        depth: usize,
        blocks: Blocks,
    ) -> anyhow::Result<Self> {
        let (node, shards) = Node::assemble(config, vec![vec![link]])?;
        let mut shard = shards.into_iter().next().context("one link, one shard")?;
        let handle = attach_while_turning(&node, &mut shard, target)?;
        let load = ClosedLoop::new(&node, handle, direction, depth, blocks)?;
        Ok(Self { shard, node, load })
    }

    /// Runs for a while.
    ///
    /// # Errors
    /// An I/O failed.
    pub fn run(&mut self, duration: Duration) -> anyhow::Result<Ran> {
        self.load.fill()?;
        let mut ran = Ran::default();
        let mut waiter = Waiter::default();
        let start = clock::now();
        loop {
            let busy = self.shard.turn();
            let ios = self.load.turn()?;
            ran.ios += ios;
            ran.turns += 1;
            waiter.after_turn(busy);
            if ran.turns % 32 == 0 {
                ran.elapsed = clock::now().saturating_since(start);
                if ran.elapsed >= duration {
                    break;
                }
            }
        }
        ran.yields = waiter.yields;
        Ok(ran)
    }

    /// One turn of the shard and of the load; how many I/Os ended.
    ///
    /// # Errors
    /// An I/O failed.
    pub fn turn(&mut self) -> anyhow::Result<u64> {
        self.shard.turn();
        self.load.turn()
    }

    /// Puts the full depth under way.
    ///
    /// # Errors
    /// A request was refused.
    pub fn fill(&mut self) -> anyhow::Result<()> {
        self.load.fill()
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

fn attach_while_turning<L: Link>(
    node: &Node,
    shard: &mut Shard<L>,
    (addr, mac): (TargetAddr, MacAddr),
) -> anyhow::Result<TargetHandle> {
    let pinned = PinnedMacs::new(&[mac]).context("one MAC is few enough")?;
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
    load: ClosedLoop,
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
        direction: Direction,
        depth: usize,
        blocks: Blocks,
    ) -> anyhow::Result<Self> {
        let mut config = config();
        config.cores = Some(vec![core]);
        let node = Node::start(&config, vec![vec![link]])?;
        let pinned = PinnedMacs::new(&[mac]).context("one MAC is few enough")?;
        let handle = node.attach(addr, pinned, ATTACH_WITHIN)?;
        let load = ClosedLoop::new(&node, handle, direction, depth, blocks)?;
        let started = Self { node, load };
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
        self.load.fill()?;
        let mut ran = Ran::default();
        let start = clock::now();
        while ran.elapsed < duration {
            let completion = self.load.client.wait(IO_WITHIN).context("no completion")?;
            self.load.again(completion)?;
            ran.ios += 1 + self.load.turn()?;
            ran.turns += 1;
            ran.elapsed = clock::now().saturating_since(start);
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
        while self.load.client.outstanding() > 0 {
            self.load.client.wait(IO_WITHIN).context("no completion")?;
        }
        drop(self.load);
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

    #[test]
    fn a_load_on_the_shard_runs_over_memory() {
        let target = (BladeLink::ADDR, BladeLink::MAC);
        for direction in [Direction::Read, Direction::Write] {
            let blocks = Blocks::new(1, BladeLink::SECTORS);
            let link = BladeLink::new(1);
            let mut load = OnShard::new(&config(), link, target, direction, 8, blocks).unwrap();
            let ran = load.run(Duration::from_millis(5)).unwrap();
            let counted = load.stat().unwrap().initiator;
            assert!(ran.ios > 8, "{ran:?}");
            assert_eq!(counted.tx_copies, 0, "nothing was lost");
        }
    }
}
