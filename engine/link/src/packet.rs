//! AF_PACKET: raw frames of one interface through the kernel's packet sockets.
//!
//! For machines without XDP, and as a rival to it. Frames travel in one of two ways, [`PacketMode::Ring`] (TPACKET_V2 rings
//! shared with the kernel) or [`PacketMode::Mmsg`] (one `recvmmsg` or `sendmmsg` a burst).
//!
//! Receiving and sending use sockets of their own: those that send are bound to no protocol and receive nothing. They
//! bypass the queueing discipline (`PACKET_QDISC_BYPASS`), so a frame that the driver refuses is ENOBUFS, not a wait.
//!
//! The kernel takes the outermost VLAN tag out of what it hands to packet sockets (`skb_vlan_untag` in
//! `net/core/skbuff.c`) and tells it beside the frame; [`PacketLink`] puts it back, so that its user sees what was on the wire.
//! Sockets bound to one ethertype are not told: the kernel has forgotten the tag by then (`__netif_receive_skb_core` clears
//! it), and a tagged frame would pass for an untagged one. So the receiving socket is bound to all ethertypes and a filter
//! picks ours, which also finds what two tags hide and what a VLAN device would take. Measured on veth it costs 3 to 4 %.

#![allow(
    unsafe_code,
    reason = "packet sockets and their rings have no safe interface"
)]

use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;

use crate::{HEADER_BYTES_MAX, Link, LinkCounters, LinkInfo, TransmitError};

mod filter;
mod mmsg;
mod ring;
mod slots;
mod socket;
#[cfg(test)]
mod tests;
mod turns;

use mmsg::{MmsgReceiver, MmsgSender};
use ring::{RingReceiver, RingSender};
use socket::{PacketSocket, interface_facts};

/// The largest MTU that is supported.
pub const MTU_BYTES_MAX: usize = 9000;

/// The shortest frame on a wire, without its checksum.
const FRAME_BYTES_MIN: usize = 60;

/// Ethernet header without tags.
const ETHERNET_BYTES: usize = 14;

/// One VLAN tag.
const VLAN_BYTES: usize = 4;

/// For how long frames are offered again to a driver that refuses them (ENOBUFS: its queue is full, or there is no carrier).
/// Then they are dropped: what waits longer would only delay the frames behind it.
const STUCK_MAX: Duration = Duration::from_millis(10);

/// When a flush is wanted after a driver refused frames.
const RETRY_AFTER: Duration = Duration::from_micros(50);

/// How often an idle ring asks whether the interface went down: only system calls would tell it.
const ERROR_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How frames travel between the kernel and us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketMode {
    /// TPACKET_V2 rings: receiving takes no system call, sending one a burst.
    #[default]
    Ring,
    /// `recvmmsg` and `sendmmsg`: one system call a burst each way.
    Mmsg,
}

/// What to open, and how.
#[derive(Clone, Debug)]
pub struct PacketConfig {
    /// The interface's name.
    pub interface: String,
    /// Ring or system calls.
    pub mode: PacketMode,
    /// Whether lock frames (ethertype 0x88B5) are received as well as AoE.
    pub lock_frames: bool,
    /// With `Some(n)` only the responses whose tag's high 4 bits are `n`; with `Some(0)` all else that is ours as well. The
    /// kernel drops the rest before it copies them. `None`: everything.
    pub shard: Option<u8>,
    /// How many received frames can wait to be polled.
    pub rx_frames: usize,
    /// How many frames can be on their way out.
    pub tx_frames: usize,
    /// Frames are padded to this length, at most 60 bytes, which is the shortest that a wire carries. Less is for stations that
    /// work as Linux's AoE driver does: it hands short frames to the interface as they are, and a virtual one passes them on.
    pub frame_bytes_min: usize,
}

impl PacketConfig {
    /// Everything of AoE on `interface`, through rings of 1024 and 256 frames.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            mode: PacketMode::default(),
            lock_frames: false,
            shard: None,
            rx_frames: 1024,
            tx_frames: 256,
            frame_bytes_min: FRAME_BYTES_MIN,
        }
    }
}

/// Why an interface could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// There is no such interface in this network namespace.
    #[error("interface {interface}: no such interface")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The interface is not up.
    #[error("interface {interface} is down; bring it up with: ip link set {interface} up")]
    Down {
        /// Its name.
        interface: String,
    },
    /// The interface does not carry Ethernet frames (a loopback, a tunnel).
    #[error("interface {interface} is not an Ethernet interface")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The MTU is larger than [`MTU_BYTES_MAX`].
    #[error(
        "interface {interface} has an MTU of {mtu_bytes} bytes; at most {MTU_BYTES_MAX} are supported"
    )]
    MtuTooLarge {
        /// Its name.
        interface: String,
        /// Its MTU.
        mtu_bytes: usize,
    },
    /// The process may not open packet sockets.
    #[error(
        "packet sockets on {interface} need CAP_NET_RAW: run as root, or give the program that capability"
    )]
    NoPrivilege {
        /// The interface's name.
        interface: String,
    },
    /// The configuration makes no sense.
    #[error("invalid configuration: {0}")]
    Config(&'static str),
    /// A system call failed otherwise.
    #[error("interface {interface}: {call}: {source}")]
    Os {
        /// The interface's name.
        interface: String,
        /// What was tried.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

enum Receiver {
    Ring(RingReceiver),
    Mmsg(MmsgReceiver),
}

enum Sender {
    Ring(RingSender),
    Mmsg(MmsgSender),
}

/// One interface's frames through AF_PACKET.
pub struct PacketLink {
    info: LinkInfo,
    receiver: Receiver,
    sender: Sender,
    counters: LinkCounters,
    frame_bytes_min: usize,
    /// When the receiving ring was last asked whether the interface went down.
    error_checked: Instant,
    /// Since when the driver has refused every frame, and when it was last tried.
    stuck: Option<(Instant, Instant)>,
}

/// How sending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kick {
    /// Nothing waits to be sent any more.
    Done,
    /// Some frames were sent, the rest not now.
    Partly,
    /// Not now: EAGAIN, ENOBUFS, EBUSY.
    Refused,
    /// Not at all: the interface is down or gone, or the frame is not acceptable.
    Failed,
}

impl Kick {
    fn from_error(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EBUSY | libc::EINTR | libc::ENOMEM) => {
                Self::Refused
            }
            _ => Self::Failed,
        }
    }
}

impl PacketLink {
    /// Opens the interface in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn open(config: &PacketConfig) -> Result<Self, PacketError> {
        if config.rx_frames == 0 || config.tx_frames == 0 {
            return Err(PacketError::Config(
                "rx_frames and tx_frames must not be zero",
            ));
        }
        if config.frame_bytes_min > FRAME_BYTES_MIN {
            return Err(PacketError::Config("frames are padded to 60 bytes at most"));
        }
        if config.shard.is_some_and(|shard| shard > 15) {
            return Err(PacketError::Config("a shard's number has 4 bits"));
        }
        let facts = interface_facts(&config.interface)?;
        let os = |call: &'static str| {
            let interface = config.interface.clone();
            move |source: io::Error| socket::os_error(interface, call, source)
        };
        // Receive memory first, then the filter, then the binding: no frame may arrive unfiltered.
        let socket = PacketSocket::open().map_err(os("socket(AF_PACKET)"))?;
        let program = filter::program(config.lock_frames, config.shard);
        socket
            .attach_filter(&program)
            .map_err(os("setsockopt(SO_ATTACH_FILTER)"))?;
        socket
            .ignore_outgoing()
            .map_err(os("setsockopt(PACKET_IGNORE_OUTGOING)"))?;
        let (mtu, rx, tx) = (facts.mtu_bytes, config.rx_frames, config.tx_frames);
        let (receiver, sender, mode) = match config.mode {
            PacketMode::Ring => {
                let receiver = RingReceiver::new(socket, mtu, rx).map_err(os("PACKET_RX_RING"))?;
                receiver
                    .socket()
                    .bind(facts.index, filter::ETHERTYPE_ALL)
                    .map_err(os("bind"))?;
                let sender = RingSender::new(facts.index, mtu, tx).map_err(os("PACKET_TX_RING"))?;
                (
                    Receiver::Ring(receiver),
                    Sender::Ring(sender),
                    "packet ring",
                )
            }
            PacketMode::Mmsg => {
                let receiver = MmsgReceiver::new(socket, mtu, rx).map_err(os("PACKET_AUXDATA"))?;
                receiver
                    .socket()
                    .bind(facts.index, filter::ETHERTYPE_ALL)
                    .map_err(os("bind"))?;
                let sender = MmsgSender::new(facts.index, mtu, tx).map_err(os("send sockets"))?;
                (
                    Receiver::Mmsg(receiver),
                    Sender::Mmsg(sender),
                    "packet mmsg",
                )
            }
        };
        Ok(Self {
            info: LinkInfo {
                interface: config.interface.clone(),
                mac: facts.mac,
                mtu_bytes: facts.mtu_bytes,
                queue: 0,
                mode: mode.to_owned(),
            },
            receiver,
            sender,
            counters: LinkCounters::default(),
            frame_bytes_min: config.frame_bytes_min,
            error_checked: Instant::ZERO,
            stuck: None,
        })
    }

    fn rx_socket(&self) -> &PacketSocket {
        match &self.receiver {
            Receiver::Ring(ring) => ring.socket(),
            Receiver::Mmsg(mmsg) => mmsg.socket(),
        }
    }

    /// Fetches the receiving socket's pending error: ENETDOWN is how it tells that the interface went down, once each time.
    fn check_error(&mut self) {
        self.counters.rx_kicks += 1;
        if self.rx_socket().take_error() == Some(libc::ENETDOWN) {
            self.counters.link_downs += 1;
        }
    }

    /// The longest frame the kernel takes (`tpacket_snd` and `packet_snd` in `net/packet/af_packet.c`): the MTU and an Ethernet
    /// header, and one tag more when that is an 802.1Q tag.
    fn frame_bytes_max(&self, header: &[u8]) -> usize {
        let tag = match header.get(12..14) {
            Some([0x81, 0x00]) => VLAN_BYTES,
            _ => 0,
        };
        self.info.mtu_bytes + ETHERNET_BYTES + tag
    }
}

/// Puts the VLAN tag that the kernel took out back into the frame that starts at `start` and has at least [`VLAN_BYTES`]
/// before it; where the frame starts now.
fn restore_tag(buffer: &mut [u8], start: usize, tag: VlanMetadata) -> usize {
    let moved = start - VLAN_BYTES;
    buffer.copy_within(start..start + 12, moved);
    buffer[moved + 12..moved + 14].copy_from_slice(&tag.tpid.to_be_bytes());
    buffer[moved + 14..moved + 16].copy_from_slice(&tag.tci.to_be_bytes());
    moved
}

/// The VLAN tag that came beside a frame.
#[derive(Clone, Copy)]
struct VlanMetadata {
    tpid: u16,
    tci: u16,
}

impl VlanMetadata {
    /// From the fields that rings and control messages share (`packet(7)`: `PACKET_AUXDATA`).
    fn from_status(status: u32, tci: u16, tpid: u16) -> Option<Self> {
        if status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let tpid = if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
            filter::ETHERTYPE_VLAN
        } else {
            tpid
        };
        Some(Self { tpid, tci })
    }
}

/// Puts a frame together at the start of `out`, padded to `bytes_min`; its length.
fn assemble(out: &mut [u8], header: &[u8], payload: &[u8], bytes_min: usize) -> usize {
    let len_bytes = header.len() + payload.len();
    out[..header.len()].copy_from_slice(header);
    out[header.len()..len_bytes].copy_from_slice(payload);
    if len_bytes < bytes_min {
        out[len_bytes..bytes_min].fill(0);
    }
    len_bytes.max(bytes_min)
}

/// A count or length as the counters have it.
fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl Link for PacketLink {
    fn info(&self) -> &LinkInfo {
        &self.info
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        let delivered = match &mut self.receiver {
            Receiver::Ring(ring) => ring.receive(frames_max, &mut self.counters, sink),
            Receiver::Mmsg(mmsg) => mmsg.receive(frames_max, &mut self.counters, sink),
        };
        let idle_ring = delivered == 0 && matches!(self.receiver, Receiver::Ring(_));
        if idle_ring && now.saturating_since(self.error_checked) >= ERROR_CHECK_INTERVAL {
            self.error_checked = now;
            self.check_error();
        }
        delivered
    }

    fn transmit_room(&mut self) -> usize {
        match &mut self.sender {
            Sender::Ring(ring) => ring.room(),
            Sender::Mmsg(mmsg) => mmsg.room(),
        }
    }

    fn transmit(
        &mut self,
        _now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(TransmitError::TooLong {
                len_bytes: header.len(),
                max_bytes: HEADER_BYTES_MAX,
            });
        }
        let (len_bytes, max_bytes) = (header.len() + payload.len(), self.frame_bytes_max(header));
        if len_bytes > max_bytes {
            return Err(TransmitError::TooLong {
                len_bytes,
                max_bytes,
            });
        }
        let bytes_min = self.frame_bytes_min;
        let len_bytes = match &mut self.sender {
            Sender::Ring(ring) => ring.push(header, payload, bytes_min),
            Sender::Mmsg(mmsg) => mmsg.push(header, payload, bytes_min),
        }
        .ok_or(TransmitError::Full)?;
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += count(len_bytes);
        Ok(())
    }

    fn flush(&mut self, now: Instant) {
        let counters = &mut self.counters;
        let verdict = match &mut self.sender {
            Sender::Ring(ring) => ring.flush(counters),
            Sender::Mmsg(mmsg) => mmsg.flush(counters),
        };
        let refused_since = match (verdict, self.stuck) {
            (Kick::Done, _) => {
                self.stuck = None;
                return;
            }
            (Kick::Failed, _) => None,
            (Kick::Refused, Some((since, _))) => Some(since),
            (Kick::Partly | Kick::Refused, _) => Some(now),
        };
        counters.kick_retries += u64::from(refused_since.is_some());
        self.stuck = refused_since.map(|since| (since, now));
        let give_up = refused_since.is_none_or(|since| now.saturating_since(since) >= STUCK_MAX);
        if give_up {
            self.stuck = None;
            let dropped = match &mut self.sender {
                Sender::Ring(ring) => ring.discard(),
                Sender::Mmsg(mmsg) => mmsg.discard(),
            };
            counters.tx_failed += dropped;
        }
    }

    fn completed(&self) -> u64 {
        match &self.sender {
            Sender::Ring(ring) => ring.completed(),
            Sender::Mmsg(mmsg) => mmsg.completed(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.stuck.map(|(_, tried)| tried + RETRY_AFTER)
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.rx_socket().as_raw_fd())
    }

    fn prepare_wait(&mut self) -> bool {
        // A pending error would end every poll(2) at once.
        self.check_error();
        match &self.receiver {
            Receiver::Ring(ring) => !ring.frame_waits(),
            Receiver::Mmsg(_) => true,
        }
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters.rx_dropped += self.rx_socket().take_drops();
        self.counters
    }
}
