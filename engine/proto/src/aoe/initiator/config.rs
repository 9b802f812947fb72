//! Limits and timings of an initiator, checked once.

use core::time::Duration;

use sandrail_wire::{MacAddr, VlanTag};

/// The most commands of one shard: a tag gives the command 12 of its 24 request bits, the rest counts generations.
pub const COMMANDS_MAX: u16 = 4096;
/// The most attached targets of one shard.
pub const TARGETS_MAX: usize = 64;
/// The most interfaces of one shard.
pub const INTERFACES_MAX: usize = 8;
/// The most MACs of one process: what targets with sessions take.
pub const STATIONS_MAX: usize = 128;
/// The most paths (local interface x target MAC) of one target.
pub const PATHS_MAX: usize = 8;
/// Commands kept back for probes, so that a full shard still finds out that a target is back.
pub const PROBE_COMMANDS: u16 = 64;

/// Whether overlapping writes wait for the last copy of the earlier one (S3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleWriteRule {
    /// A range stays closed until every copy is answered or dead.
    Enforced,
    /// A range opens with the first answer, as Linux's driver does. Corrupts data; for showing that checkers notice.
    Off,
}

/// How a foreign target works through its frames, which decides what an answered probe proves (S2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetOrder {
    /// One frame after the other in order of arrival, like vblade: an answered probe proves that all before it are done.
    Serial,
    /// Several at once: a copy is taken for dead only one further lifetime after the probe's answer.
    Parallel,
}

/// Limits and timings of one shard's initiator.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// The shard's number, 0..16, in every tag's high bits.
    pub shard: u8,
    /// Names this process's life to targets with sessions (S5): random, drawn anew with each start, the same in all its shards. 0:
    /// there is none, and targets that announce sessions are not attached.
    pub incarnation: u64,
    /// MACs of all interfaces of this process, of other shards as well: a target with sessions ends those of an earlier life of any
    /// of them (S5). Those that this shard has are added. At most [`STATIONS_MAX`] together.
    pub stations: Vec<MacAddr>,
    /// Requests accepted and not yet over, those included whose range still waits for late copies.
    pub requests_max: u16,
    /// ATA commands under way, those included that wait for late copies; more than [`PROBE_COMMANDS`], at most [`COMMANDS_MAX`].
    pub commands_max: u16,
    /// How long a frame may live in the network after it left the machine (`san.frame_lifetime`).
    pub frame_lifetime: Duration,
    /// How long after the start WRITEs wait at least, when an earlier user of these MACs may have left copies on their way. After
    /// that they wait for a probe's answer on each path of their target, as for our own copies (S2). Zero: nobody did.
    pub write_quarantine: Duration,
    /// Retransmission timeout before the first measured round trip.
    pub rto_initial: Duration,
    /// The least retransmission timeout.
    pub rto_min: Duration,
    /// The largest, back-off included.
    pub rto_max: Duration,
    /// Frames under way on one path at most; the target's buffer count bounds them, too.
    pub window_max: u16,
    /// How many shards or nodes share a target's buffer count.
    pub window_sharers: u16,
    /// Config queries to a silent target are this far apart.
    pub probe_interval: Duration,
    /// A silence as long as this, while something was asked, may hide a restart: what was not flushed counts as lost (S7).
    pub restart_silence: Duration,
    /// How long an attach may take, from the first question to the last trial. Paths not tried out by then are tried on.
    pub attach_timeout: Duration,
    /// How foreign targets work through their frames.
    pub target_order: TargetOrder,
    /// S3, or its absence in tests.
    pub stale_write_rule: StaleWriteRule,
}

impl Default for InitiatorConfig {
    fn default() -> Self {
        Self {
            shard: 0,
            incarnation: 0,
            stations: Vec::new(),
            requests_max: 1024,
            commands_max: 2048,
            frame_lifetime: Duration::from_secs(2),
            write_quarantine: Duration::ZERO,
            rto_initial: Duration::from_millis(20),
            rto_min: Duration::from_millis(10),
            rto_max: Duration::from_millis(100),
            window_max: 128,
            window_sharers: 1,
            probe_interval: Duration::from_millis(50),
            restart_silence: Duration::from_millis(200),
            attach_timeout: Duration::from_secs(2),
            target_order: TargetOrder::Serial,
            stale_write_rule: StaleWriteRule::Enforced,
        }
    }
}

/// A setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {given} is outside {allowed}")]
pub struct ConfigError {
    /// The field's name.
    pub setting: &'static str,
    /// What it was set to.
    pub given: String,
    /// What it may be.
    pub allowed: String,
}

/// One local interface, as the initiator needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Source address of our frames.
    pub mac: MacAddr,
    /// MTU: bytes after the Ethernet header and its tags.
    pub mtu_bytes: usize,
    /// The tag our frames carry, and must carry coming in.
    pub vlan: Option<VlanTag>,
}

impl InitiatorConfig {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        fn within<T: PartialOrd + core::fmt::Debug>(
            setting: &'static str,
            given: T,
            least: T,
            most: T,
        ) -> Result<(), ConfigError> {
            if given >= least && given <= most {
                return Ok(());
            }
            Err(ConfigError {
                setting,
                given: format!("{given:?}"),
                allowed: format!("{least:?}..={most:?}"),
            })
        }
        let ms = Duration::from_millis;
        within("shard", self.shard, 0, 15)?;
        within("requests_max", self.requests_max, 1, 32768)?;
        within(
            "commands_max",
            self.commands_max,
            PROBE_COMMANDS * 2,
            COMMANDS_MAX,
        )?;
        within("frame_lifetime", self.frame_lifetime, ms(1), ms(60_000))?;
        within(
            "rto_min",
            self.rto_min,
            Duration::from_micros(50),
            ms(10_000),
        )?;
        within("rto_max", self.rto_max, self.rto_min, ms(10_000))?;
        within("rto_initial", self.rto_initial, self.rto_min, self.rto_max)?;
        within("window_max", self.window_max, 1, 1024)?;
        within("window_sharers", self.window_sharers, 1, 1024)?;
        within("probe_interval", self.probe_interval, ms(1), ms(10_000))?;
        within("restart_silence", self.restart_silence, ms(1), ms(60_000))?;
        within("attach_timeout", self.attach_timeout, ms(1), ms(600_000))
    }
}
