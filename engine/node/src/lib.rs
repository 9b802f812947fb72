//! What a Sandrail node runs: shards (one pinned thread, one loop, its own initiator and NIC queues), and the API that
//! other threads reach them through.
//!
//! [`Node`] starts the shards and is the control plane: discover, attach, stat, shut down. A [`Client`] belongs to one
//! thread and carries I/O: [`Client::submit`], [`Client::poll`] and [`Client::wait`] neither allocate nor lock, and
//! neither does the shard while it serves them. `docs/concurrency.md` tells who owns what and which ordering pairs with
//! which.
//!
//! A volume's sectors are striped over the shards by LBA ([`NodeConfig::stripe_sectors`]): all requests for a sector
//! meet in the same shard, since a closed range (S3) lives in one shard's initiator.

mod blocking;
mod cache;
pub mod clean;
mod client;
pub mod clock;
mod config;
mod control;
mod doorbell;
mod flush;
mod forward;
mod hub;
pub mod links;
pub mod netif;
mod node;
mod os;
mod request;
mod shard;
mod stat;
mod sync;

/// How a polling thread sleeps until somebody rings or a descriptor is readable: for other programs with such a loop.
pub mod waiting {
    pub use crate::doorbell::{Bell, Doorbell};
    pub use crate::os::{EventFd, PollSet, pin, sharpen_timers};
}

pub use blocking::{BlockingError, EpochError, EpochReservation};
pub use cache::{
    BindError, CacheMemory, CacheSettings, FlushError, GoneUnflushed, NoRules, NodeCache,
    PageRules, Unbind, UnbindError, Volume,
};
pub use client::Client;
pub use config::{Idle, MemoryConfig, NodeConfig, NodeConfigError};
pub use control::StopReport;
pub use hub::{NodeNotice, TargetHandle};
pub use node::{AttachFailed, Node, NodeError, ShutdownError};
pub use request::{Completion, Refusal, Rejected, Request, RequestError, Ticket};
pub use shard::Shard;
pub use stat::{CacheStat, Latency, LinkStat, NodeStat, ShardCounters, ShardStat, TargetStat};
