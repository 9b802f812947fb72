//! Limits and habits of a node, checked once.

use std::path::PathBuf;
use std::time::Duration;

use sandrail_memory::{HugePages, SECTOR_BYTES};
use sandrail_proto::aoe::initiator::InitiatorConfig;
use sandrail_wire::VlanTag;
use sandrail_wire::aoe::SHARDS_MAX;

use crate::cache::CacheSettings;

/// How a thread waits for something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Turns without work that it spins through.
    pub spin_turns: u32,
    /// Turns after those in which it yields the core with sched_yield(2).
    pub yield_turns: u32,
    /// Whether it then sleeps in poll(2) until a frame, a request or a timeout is due; if not, it goes on yielding.
    pub sleep: bool,
}

impl Idle {
    /// Never sleeps: for a core of its own.
    pub const POLL: Self = Self {
        spin_turns: u32::MAX,
        yield_turns: 0,
        sleep: false,
    };
    /// Yields after each idle turn and never sleeps: for cores that are shared with the target.
    pub const YIELD: Self = Self {
        spin_turns: 0,
        yield_turns: u32::MAX,
        sleep: false,
    };
}

impl Default for Idle {
    /// Yields for long before it sleeps, and does not spin. Where shard, client and target share cores, a spinning
    /// thread takes the time that the target needs to answer: with vblade on two cores 1000 spins made depth 1 six
    /// times slower than 1000 yields. On a core of its own sched_yield(2) returns at once.
    fn default() -> Self {
        Self {
            spin_turns: 0,
            yield_turns: 1000,
            sleep: true,
        }
    }
}

/// The memory of a node's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Length of each buffer: the largest request, in whole sectors.
    pub buffer_bytes: usize,
    /// Buffers of the whole node.
    pub buffers: usize,
    /// Whether they lie on hugepages.
    pub huge_pages: HugePages,
}

/// Everything a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Timings and limits of each shard's initiator. The node sets `shard`, multiplies `window_sharers` by the number
    /// of shards, and raises `write_quarantine` after an unclean end ([`crate::clean`]).
    /// An `incarnation` of 0 is drawn at the start, one for all shards.
    pub initiator: InitiatorConfig,
    /// The VLAN tag of each interface, in the order of the links; missing ones have none.
    pub vlans: Vec<Option<VlanTag>>,
    /// Frames received and sent for an interface in a turn at most.
    pub burst_frames_max: usize,
    /// Requests taken from other threads in a turn at most.
    pub burst_requests_max: usize,
    /// Requests that may wait for a shard, at most; a full ring refuses.
    pub ring_requests: usize,
    /// A volume's sectors belong to the shards in turn, so many at a time. A request never crosses such a stripe.
    pub stripe_sectors: u64,
    /// How shards wait.
    pub idle: Idle,
    /// How clients wait for completions in [`crate::Client::wait`].
    pub client_idle: Idle,
    /// The core of each shard; `None`: not pinned.
    pub cores: Option<Vec<usize>>,
    /// SCHED_FIFO priority of the shards' threads (1..=99); a shard that never sleeps takes its core for itself then.
    pub fifo_priority: Option<u8>,
    /// Buffers for requests.
    pub memory: MemoryConfig,
    /// Seed of all randomness.
    pub seed: u64,
    /// Where the marks lie that tell of an unclean end ([`crate::clean`]); `None`: no marks, for links that are not
    /// real.
    pub run_dir: Option<PathBuf>,
    /// Notices kept for [`crate::Node::next_notice`]; the oldest are dropped first, and counted.
    pub notices: usize,
    /// The cache of pages; `None`: there is none.
    pub cache: Option<CacheSettings>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            initiator: InitiatorConfig::default(),
            vlans: Vec::new(),
            burst_frames_max: 64,
            burst_requests_max: 64,
            ring_requests: 1024,
            stripe_sectors: 2048,
            idle: Idle::default(),
            client_idle: Idle::default(),
            cores: None,
            fifo_priority: None,
            memory: MemoryConfig {
                buffer_bytes: 64 << 10,
                buffers: 256,
                huge_pages: HugePages::Prefer,
            },
            seed: 0,
            run_dir: Some(PathBuf::from(crate::clean::RUN_DIR)),
            notices: 256,
            cache: None,
        }
    }
}

/// A setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {given} is not {allowed}")]
pub struct NodeConfigError {
    /// The field's name.
    pub setting: &'static str,
    /// What it was set to.
    pub given: String,
    /// What it may be.
    pub allowed: String,
}

impl NodeConfig {
    /// Checks every limit that is the node's own, for `shards` shards; the initiator checks its own.
    ///
    /// # Errors
    /// The first [`NodeConfigError`].
    pub fn check(&self, shards: usize) -> Result<(), NodeConfigError> {
        let within = |setting, given: usize, least: usize, most: usize| {
            if (least..=most).contains(&given) {
                return Ok(());
            }
            Err(NodeConfigError {
                setting,
                given: given.to_string(),
                allowed: format!("within {least}..={most}"),
            })
        };
        within("shards", shards, 1, usize::from(SHARDS_MAX))?;
        within("burst_frames_max", self.burst_frames_max, 1, 1024)?;
        within("burst_requests_max", self.burst_requests_max, 1, 1024)?;
        within("ring_requests", self.ring_requests, 1, 1 << 20)?;
        within("notices", self.notices, 1, 1 << 20)?;
        within(
            "memory.buffer_bytes",
            self.memory.buffer_bytes,
            SECTOR_BYTES,
            1 << 30,
        )?;
        if self.stripe_sectors == 0 {
            return Err(NodeConfigError {
                setting: "stripe_sectors",
                given: "0".to_owned(),
                allowed: "at least 1".to_owned(),
            });
        }
        if let Some(priority) = self.fifo_priority {
            within("fifo_priority", usize::from(priority), 1, 99)?;
        }
        if let Some(cores) = &self.cores
            && cores.len() != shards
        {
            return Err(NodeConfigError {
                setting: "cores",
                given: format!("{cores:?}"),
                allowed: format!("one core for each of {shards} shards"),
            });
        }
        if let Some(cache) = &self.cache {
            cache.check(shards, self.stripe_sectors, self.initiator.frame_lifetime)?;
        }
        Ok(())
    }

    /// `window_sharers` of each shard's initiator.
    pub(crate) fn window_sharers(&self, shards: usize) -> u16 {
        let shards = u16::try_from(shards).unwrap_or(u16::MAX);
        self.initiator.window_sharers.saturating_mul(shards)
    }
}

/// How long a control call waits for a shard beyond what its work takes. A shard's turn takes microseconds; a machine
/// under load may leave it without a core for a while.
pub(crate) const CONTROL_GRACE: Duration = Duration::from_secs(5);
