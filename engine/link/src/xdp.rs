//! AF_XDP: frames past the kernel's network stack, one socket a shard.
//!
//! [`XdpPort::open`] loads the steering program and attaches it to an interface; [`XdpPort::links`] opens sockets on one of its
//! queues, one for each shard named. Several queues have sockets, rings and memory of their own; several shards on one queue share
//! its memory and its fill and completion rings, and the program tells their frames apart by the tag.
//!
//! A frame of more than 3840 bytes travels in several chunks of 4096 bytes (multi-buffer). All memory is allocated at
//! opening. The attachment belongs to this process: it is gone when the last link and the port are, or when the
//! process dies, however it dies.

#![allow(
    unsafe_code,
    reason = "descriptors name memory that the kernel shares, and ioctls and netlink have no safe form"
)]

use std::fmt;
use std::sync::Arc;

use sandrail_wire::MacAddr;
use sandrail_wire::frame::SEGMENTS_MAX;

mod claim;
mod error;
mod interface;
mod netlink;
mod open;
mod probe;
mod program;
mod queue;
mod socket;
mod sync;
mod window;

pub use error::XdpError;
pub use probe::{Holder, XdpSupport, probe};
pub use program::SteerCounters;
pub use socket::XdpLink;

use program::Attached;
use queue::SEGMENT_BYTES;

/// Bytes before the payload that an MTU leaves out: the Ethernet header and two VLAN tags.
const LINK_HEADER_BYTES_MAX: usize = 22;
/// The largest MTU whose frames fit [`SEGMENTS_MAX`] segments.
pub const MTU_BYTES_MAX: usize = SEGMENTS_MAX * SEGMENT_BYTES - LINK_HEADER_BYTES_MAX;

/// Where the steering program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Generic on veth, where it is the faster one; elsewhere native where the driver has it, else generic.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack: works with any driver.
    Generic,
}

/// Whether frames may travel without a copy by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Without a copy where the driver can, otherwise with one.
    #[default]
    Auto,
    /// Always with a copy.
    Never,
}

/// How an interface is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    /// The interface's name.
    pub interface: String,
    /// Where the program runs.
    pub mode: XdpMode,
    /// Whether to try without a copy.
    pub zero_copy: ZeroCopy,
    /// Chunks of 4096 bytes to receive into, for each shard. Kernel and receiver hold a chunk until the frame was looked at.
    pub rx_chunks: u32,
    /// Chunks of 4096 bytes to send from, for each shard.
    pub tx_chunks: u32,
    /// Entries of each shard's receive ring, a power of two; `None`: as many as it has chunks.
    pub rx_ring: Option<u32>,
    /// Entries of each shard's transmit ring, a power of two; `None`: as many as it has chunks.
    pub tx_ring: Option<u32>,
    /// Whether the memory is taken from huge pages of 2 MiB, which must be reserved.
    pub hugepages: bool,
    /// Stations whose SAN frames are let in; `None`: all of them.
    pub allow_list: Option<Vec<MacAddr>>,
}

impl XdpConfig {
    /// Everything as it is best left, on that interface: 12 MiB for each shard.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            mode: XdpMode::Auto,
            zero_copy: ZeroCopy::Auto,
            rx_chunks: 2048,
            tx_chunks: 1024,
            rx_ring: None,
            tx_ring: None,
            hugepages: false,
            allow_list: None,
        }
    }

    fn check(&self) -> Result<(), XdpError> {
        /// A ring of addresses for a million chunks, 4 GiB of them, is what one queue may have.
        const CHUNKS_MAX: u32 = 1 << 16;
        let segments = u32::try_from(SEGMENTS_MAX).unwrap_or(u32::MAX);
        for (what, chunks) in [("rx_chunks", self.rx_chunks), ("tx_chunks", self.tx_chunks)] {
            if !(segments..=CHUNKS_MAX).contains(&chunks) {
                return Err(XdpError::Config(format!(
                    "{what} is {chunks}: it must be {segments} to {CHUNKS_MAX}"
                )));
            }
        }
        for (what, ring) in [("rx_ring", self.rx_ring), ("tx_ring", self.tx_ring)] {
            if ring.is_some_and(|size| {
                !size.is_power_of_two() || !(segments..=CHUNKS_MAX).contains(&size)
            }) {
                return Err(XdpError::Config(format!(
                    "{what} must be a power of two from {segments} to {CHUNKS_MAX}"
                )));
            }
        }
        let listed = self.allow_list.as_ref().map_or(0, Vec::len);
        let listed_max = usize::try_from(sandrail_ebpf::ALLOWED_MAX).unwrap_or(usize::MAX);
        if listed > listed_max {
            return Err(XdpError::Config(format!(
                "{listed} stations on the allow-list: it holds {listed_max}"
            )));
        }
        Ok(())
    }
}

/// An interface with the steering program on it.
#[derive(Clone)]
pub struct XdpPort {
    config: XdpConfig,
    attached: Arc<Attached>,
}

impl fmt::Debug for XdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpPort")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl XdpPort {
    /// Loads the program and attaches it to the interface, in the network namespace of the calling thread. Frames go on to the
    /// kernel until sockets are there. Waits up to a second for another program to go away.
    ///
    /// # Errors
    /// [`XdpError`], among others: interface missing or down, no permission, a program attached already.
    pub fn open(config: &XdpConfig) -> Result<Self, XdpError> {
        config.check()?;
        let attached = Arc::new(Attached::open(config)?);
        Ok(Self {
            config: config.clone(),
            attached,
        })
    }

    /// Opens one socket on the queue for each of these shards (numbers below 16, each once), in that order. Shard 0, or the
    /// first where 0 is not among them, also gets what names no shard here: requests, advertisements, lock frames. Each may move to another thread. All shards of a queue are opened in one call.
    ///
    /// # Errors
    /// [`XdpError`], among others: queue out of range, bound by another socket, no memory.
    pub fn links(&self, queue: u32, shards: &[u32]) -> Result<Vec<XdpLink>, XdpError> {
        open::links(&self.config, &self.attached, queue, shards)
    }

    /// Receive queues in use, as the driver tells.
    #[must_use]
    pub fn rx_queues(&self) -> u32 {
        self.attached.rx_queues
    }

    /// What the steering program counted.
    ///
    /// # Errors
    /// [`XdpError`] when the kernel does not tell.
    pub fn steer_counters(&self) -> Result<SteerCounters, XdpError> {
        self.attached.steer_counters()
    }

    /// Lets a station's SAN frames in.
    ///
    /// # Errors
    /// [`XdpError::Config`] when the port was opened without an allow-list.
    pub fn allow(&self, mac: MacAddr) -> Result<(), XdpError> {
        self.attached.allow(mac)
    }

    /// Shuts a station's SAN frames out, whether or not it was let in.
    ///
    /// # Errors
    /// [`XdpError::Config`] when the port was opened without an allow-list.
    pub fn disallow(&self, mac: MacAddr) -> Result<(), XdpError> {
        self.attached.disallow(mac)
    }
}

impl XdpLink {
    /// Opens an interface for one shard, number 0, on one of its queues.
    ///
    /// # Errors
    /// As [`XdpPort::open`] and [`XdpPort::links`].
    pub fn open(config: &XdpConfig, queue: u32) -> Result<Self, XdpError> {
        let mut links = XdpPort::open(config)?.links(queue, &[0])?;
        links
            .pop()
            .ok_or_else(|| XdpError::Config("one shard gives one link".to_owned()))
    }
}
