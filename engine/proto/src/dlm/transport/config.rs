//! What the transport is told at its start. Everything that bounds its memory is here.

use core::time::Duration;

use sandrail_wire::lock::{
    CRC_BYTES, ClusterId, CoreId, Incarnation, LOCK_HEADER_BYTES, MAC_BYTES, MacKey, NodeId,
    SACK_WORDS_MAX, SLOT_BYTES, Sequence,
};

/// The most channels of one transport.
pub const CHANNELS_MAX: u16 = 4096;
/// The largest window: what the selective acknowledgement of a frame can tell about.
pub const WINDOW_SLOTS_MAX: u16 = 1024;
/// The smallest window: more than the slots of one frame.
pub const WINDOW_SLOTS_MIN: u16 = 64;
/// The smallest MTU: the longest header and one long record.
pub const MTU_BYTES_MIN: usize =
    LOCK_HEADER_BYTES + SACK_WORDS_MAX * 8 + 2 * SLOT_BYTES + MAC_BYTES + CRC_BYTES;

/// Settings of one core's [`Transport`](super::Transport).
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// The cluster. Frames of others are refused.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreId,
    /// This node's life, greater than that of any earlier start. Never [`Incarnation::UNKNOWN`].
    pub incarnation: Incarnation,
    /// Frames bear and must bear a code by this key, the same on all nodes; `None`: a checksum only.
    pub key: Option<MacKey>,
    /// What an Ethernet header may carry, in bytes: no frame is longer.
    pub mtu_bytes: usize,
    /// Peers (cores of other nodes) that there can be, removed ones included.
    pub channels_max: u16,
    /// Slots that may be under way in one direction of a channel: 64, 128, 256, 512 or 1024. Memory of a channel is twice
    /// so many slots of 64 bytes, and 32 bytes for each that is sent.
    pub window_slots: u16,
    /// How long an acknowledgement waits for a record that it could travel with.
    pub ack_delay: Duration,
    /// After so many slots an acknowledgement does not wait.
    pub ack_slots: u16,
    /// The shortest time after which a frame is sent again.
    pub rto_min: Duration,
    /// The same, as long as no round trip was measured.
    pub rto_initial: Duration,
    /// The longest; it doubles with every attempt up to here.
    pub rto_max: Duration,
    /// After so long without a word from a peer it is asked for one; `None`: never.
    pub keepalive: Option<Duration>,
    /// After so long without a word from a peer that was asked for one, its owner is told; `None`: never.
    pub silent_after: Option<Duration>,
    /// The number of the first slot sent on every channel. Peers learn it from the first frames.
    pub first_sequence: Sequence,
}

impl TransportConfig {
    /// The usual settings for this core of this node.
    #[must_use]
    pub const fn new(
        cluster: ClusterId,
        node: NodeId,
        core: CoreId,
        incarnation: Incarnation,
    ) -> Self {
        Self {
            cluster,
            node,
            core,
            incarnation,
            key: None,
            mtu_bytes: 1500,
            channels_max: 64,
            window_slots: 256,
            ack_delay: Duration::from_micros(20),
            ack_slots: 64,
            rto_min: Duration::from_micros(50),
            rto_initial: Duration::from_millis(1),
            rto_max: Duration::from_millis(20),
            keepalive: None,
            silent_after: None,
            first_sequence: Sequence(0),
        }
    }

    /// Whether every setting is within its bounds.
    pub(super) fn check(&self) -> Result<(), TransportConfigError> {
        let bad = |setting, given: String, allowed: String| {
            Err(TransportConfigError {
                setting,
                given,
                allowed,
            })
        };
        if !self.incarnation.is_known() {
            return bad("incarnation", "0".to_owned(), "not 0".to_owned());
        }
        if self.mtu_bytes < MTU_BYTES_MIN {
            let allowed = format!("{MTU_BYTES_MIN} or more");
            return bad("mtu_bytes", self.mtu_bytes.to_string(), allowed);
        }
        if self.channels_max == 0 || self.channels_max > CHANNELS_MAX {
            let allowed = format!("1..={CHANNELS_MAX}");
            return bad("channels_max", self.channels_max.to_string(), allowed);
        }
        if !self.window_slots.is_power_of_two()
            || !(WINDOW_SLOTS_MIN..=WINDOW_SLOTS_MAX).contains(&self.window_slots)
        {
            let allowed = format!("a power of two, {WINDOW_SLOTS_MIN}..={WINDOW_SLOTS_MAX}");
            return bad("window_slots", self.window_slots.to_string(), allowed);
        }
        let times = [self.rto_min, self.rto_initial, self.rto_max];
        if self.rto_min.is_zero() || !times.is_sorted() {
            let allowed = "0 < rto_min <= rto_initial <= rto_max".to_owned();
            return bad("rto", format!("{times:?}"), allowed);
        }
        for (setting, time) in [
            ("keepalive", self.keepalive),
            ("silent_after", self.silent_after),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                return bad(setting, "0".to_owned(), "more than 0, or none".to_owned());
            }
        }
        Ok(())
    }
}

/// A setting out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {given}, allowed is {allowed}")]
pub struct TransportConfigError {
    /// The setting.
    pub setting: &'static str,
    /// What was given.
    pub given: String,
    /// What is allowed.
    pub allowed: String,
}
