//! Limits of a blade, what each of its targets is, and what of a target outlives a restart.

use core::time::Duration;

use sandrail_wire::ata::IdentifyString;
use sandrail_wire::{MacAddr, TargetAddr};

pub use crate::aoe::initiator::{ConfigError, InterfaceConfig};

/// The most targets of one blade.
pub const TARGETS_MAX: usize = 1024;
/// The most interfaces of one blade: each core's link to each network counts.
pub const INTERFACES_MAX: usize = 255;
/// The shortest MTU that carries every answer: a config string of 1024 bytes.
pub const MTU_BYTES_MIN: usize = 1042;
/// Session numbers that are made durable in advance, so that a restart does not hand them out again.
pub const SESSION_BLOCK: u16 = 256;

/// The same of births, the numbers of initiators' lives.
pub const BIRTH_BLOCK: u32 = 256;

/// Limits of one core's blade. Everything is allocated at the start.
#[derive(Clone, Debug)]
pub struct BladeConfig {
    /// Requests of one source MAC under way; more are dropped. Told in config responses.
    pub buffer_count: u16,
    /// Source MACs with requests under way at once.
    pub initiators_max: u16,
    /// Writes, flushes and TRIMs that are remembered, to know copies of them (S6): as many as arrive in two frame lifetimes.
    pub duplicates_max: u32,
    /// How long a frame may live in the network (`san.frame_lifetime`): copies are known for twice as long after a request's last answer.
    pub frame_lifetime: Duration,
    /// Memory for the data of writes that wait for an overlapping one, or for the disk.
    pub stash_bytes: usize,
    /// Sessions of one target.
    pub sessions_max: u16,
}

impl Default for BladeConfig {
    fn default() -> Self {
        Self {
            buffer_count: 128,
            initiators_max: 32,
            duplicates_max: 1 << 20,
            frame_lifetime: Duration::from_secs(2),
            stash_bytes: 16 << 20,
            sessions_max: 256,
        }
    }
}

impl BladeConfig {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        within("buffer_count", self.buffer_count, 1, 4096)?;
        within("initiators_max", self.initiators_max, 1, 4096)?;
        within("duplicates_max", self.duplicates_max, 16, 1 << 24)?;
        within(
            "frame_lifetime",
            self.frame_lifetime,
            Duration::from_millis(1),
            Duration::from_secs(60),
        )?;
        within("stash_bytes", self.stash_bytes, 1 << 16, 1 << 34)?;
        within("sessions_max", self.sessions_max, 1, 4096)
    }
}

pub(super) fn within<T: PartialOrd + core::fmt::Debug>(
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

/// Whether a reservation may be replaced by force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForceSet {
    /// FORCE-SET is taken from anyone, as the specification has it. A late copy of one overrules whatever came after it, epochs as
    /// well.
    Allow,
    /// The same, while no epoch is in force; then it is refused like a plain SET (S8).
    #[default]
    UntilEpoch,
    /// It is refused with error 6.
    Refuse,
}

/// Whether writes must carry a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionRule {
    /// Initiators that know nothing of sessions are served, without detection of copies.
    #[default]
    Optional,
    /// Their writes, flushes and TRIMs are refused.
    Required,
}

/// One target: a shelf.slot.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Its address; no wildcard.
    pub addr: TargetAddr,
    /// Model, for IDENTIFY.
    pub model: IdentifyString<40>,
    /// Serial number, for IDENTIFY.
    pub serial: IdentifyString<20>,
    /// Writes and TRIMs are aborted.
    pub read_only: bool,
    /// Sectors of one command at most, below what the interface's MTU allows.
    pub sectors_max: Option<u8>,
    /// Whether FORCE-SET is taken.
    pub force_set: ForceSet,
    /// Whether writes must carry a session.
    pub sessions: SessionRule,
    /// What was kept of the target's last life.
    pub persistent: PersistentState,
}

impl TargetConfig {
    /// A target that has no past and refuses nothing.
    ///
    /// # Panics
    /// Never: the texts are constants that fit.
    #[must_use]
    pub fn new(addr: TargetAddr) -> Self {
        Self {
            addr,
            model: IdentifyString::new("Sandrail blade").expect("a short text"),
            serial: IdentifyString::new(&addr.to_string()).expect("a short text"),
            read_only: false,
            sectors_max: None,
            force_set: ForceSet::default(),
            sessions: SessionRule::Optional,
            persistent: PersistentState::default(),
        }
    }
}

/// What of a target outlives a restart. Whoever keeps it need not understand it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersistentState {
    /// The config string, at most 1024 bytes.
    pub config_string: Vec<u8>,
    /// MACs that are admitted; empty: all.
    pub mask: Vec<MacAddr>,
    /// MACs that the target is reserved for; empty: all.
    pub reserved: Vec<MacAddr>,
    /// The newest epoch that set the reservation; 0: none ever did.
    pub epoch: u64,
    /// The reservation was replaced by force since. The epoch is then no longer in force, but an older one is refused still:
    /// a late copy of the overruled list must not bring it back (S8).
    pub forced: bool,
    /// MACs that were removed from the reservation, with the incarnation that is not admitted again (S10).
    pub fenced: Vec<(MacAddr, u64)>,
    /// The first session number that was never handed out. Where nothing was kept, somewhere at random, so that a number of
    /// the target's last life is not likely to come again within a frame lifetime.
    pub session_next: u16,
    /// The first birth that was never given; 0 is the same as 1. Where nothing was kept, more than any that was given before, so
    /// that lives which remember theirs are not taken for younger than they are.
    pub birth_next: u32,
    /// MACs that are listed or were removed from the reservation: lives that were born before are not admitted with them (S10).
    pub removed: Vec<(MacAddr, u32)>,
    /// The same number of all other MACs.
    pub removed_others: u32,
}
