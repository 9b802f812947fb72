//! Frames in and out of one NIC queue.
//!
//! [`Link`] is the seam: AF_XDP ([`xdp`]), AF_PACKET ([`packet`]) and the simulated network ([`sim`]) implement it;
//! [`fault`] and [`capture`] are decorators over any of them. A link belongs to one thread.

use std::os::fd::RawFd;

use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr};

pub mod capture;
pub mod fault;
pub mod packet;
pub mod sim;
pub mod xdp;

/// The longest header that [`Link::transmit`] takes: Ethernet, two VLAN tags, AoE and ATA, rounded up.
pub const HEADER_BYTES_MAX: usize = 64;

/// What a link is, for its user and for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The interface's name.
    pub interface: String,
    /// The interface's own address.
    pub mac: MacAddr,
    /// The interface's MTU: bytes after the Ethernet header (and its VLAN tags).
    pub mtu_bytes: usize,
    /// NIC queue the link is bound to.
    pub queue: u32,
    /// How frames travel, in words fit for a report: `xdp-native copy`, `packet mmsg`, ...
    pub mode: String,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransmitError {
    /// The ring is full: nothing was sent; the same frame is welcome after a [`Link::flush`].
    #[error("transmit ring is full")]
    Full,
    /// Header or frame is longer than the link carries.
    #[error("frame of {len_bytes} bytes exceeds the link's {max_bytes}")]
    TooLong {
        /// Length of header and payload.
        len_bytes: usize,
        /// The longest frame that this link carries.
        max_bytes: usize,
    },
}

/// What a link has counted since it was opened. Every frame that is not delivered is in one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames handed to the sink of [`Link::receive`].
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames taken by [`Link::transmit`].
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames dropped before they could be delivered (no buffer, ring full), as the kernel tells.
    pub rx_dropped: u64,
    /// Received frames that were not delivered since they had too many segments or made no sense to the link.
    pub rx_malformed: u64,
    /// Frames taken by `transmit` that the kernel then refused (link down, invalid descriptor).
    pub tx_failed: u64,
    /// System calls to send.
    pub tx_kicks: u64,
    /// System calls to receive or to refill.
    pub rx_kicks: u64,
    /// Times the kernel said EAGAIN, EBUSY or ENOBUFS to a kick.
    pub kick_retries: u64,
    /// Times the interface was seen going down.
    pub link_downs: u64,
    /// Times the fill ring (or the kernel's receive ring) was seen empty.
    pub fill_starved: u64,
}

/// One NIC queue's frames. All calls come from the thread that owns the link; none blocks and none allocates.
pub trait Link {
    /// What this link is.
    fn info(&self) -> &LinkInfo;

    /// Hands up to `frames_max` received frames to `sink`, in order of arrival, and gives their memory back to the
    /// kernel before it returns; the number delivered.
    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize;

    /// How many frames of the largest size [`Link::transmit`] would take now.
    fn transmit_room(&mut self) -> usize;

    /// Queues one frame: `header` (at most [`HEADER_BYTES_MAX`]) followed by `payload`, both copied before it returns.
    /// Frames shorter than 60 bytes are padded with zeros (but for packet sockets told otherwise). Sent at the latest by the next [`Link::flush`].
    ///
    /// # Errors
    /// [`TransmitError`]; nothing was queued then.
    fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError>;

    /// Ends a turn: gets queued frames on their way with at most one system call for all of them, reaps completions,
    /// refills receive memory.
    fn flush(&mut self, now: Instant);

    /// How many of the frames taken by `transmit`, counted from the first, have left the machine's memory: all of the first
    /// `completed()` frames have. Never falls. (S2 counts a frame's lifetime from here.)
    fn completed(&self) -> u64;

    /// When this link wants a [`Link::flush`] though nothing arrives (a decorator that holds frames back); `None`: never.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// A descriptor that poll(2) finds readable when frames arrive; `None` where there is nothing to wait on.
    fn wait_fd(&self) -> Option<RawFd>;

    /// Called before the thread sleeps on [`Link::wait_fd`]: arms the wake-up. `false`: frames are there already, do not sleep.
    fn prepare_wait(&mut self) -> bool {
        true
    }

    /// What was counted so far.
    fn counters(&mut self) -> LinkCounters;
}

impl<L: Link + ?Sized> Link for Box<L> {
    fn info(&self) -> &LinkInfo {
        (**self).info()
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        (**self).receive(now, frames_max, sink)
    }

    fn transmit_room(&mut self) -> usize {
        (**self).transmit_room()
    }

    fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        (**self).transmit(now, header, payload)
    }

    fn flush(&mut self, now: Instant) {
        (**self).flush(now);
    }

    fn completed(&self) -> u64 {
        (**self).completed()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (**self).poll_timeout()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        (**self).wait_fd()
    }

    fn prepare_wait(&mut self) -> bool {
        (**self).prepare_wait()
    }

    fn counters(&mut self) -> LinkCounters {
        (**self).counters()
    }
}
