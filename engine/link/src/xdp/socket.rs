//! One shard's socket on a queue: the link.

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use sandrail_proto::time::Instant;
use sandrail_wire::frame::{FrameRef, SEGMENTS_MAX};
use sandrail_wire::{EtherType, ethernet};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{RxQueue, TxQueue};

use super::error::XdpError;
use super::netlink::Watch;
use super::program::Attached;
use super::queue::{Chunks, Queue, SEGMENT_BYTES, tx_chunk};
use super::window::TxWindow;
use crate::{HEADER_BYTES_MAX, Link, LinkCounters, LinkInfo, TransmitError};

/// The shortest frame on Ethernet, without its checksum (IEEE 802.3).
const FRAME_BYTES_MIN: usize = 60;
/// XDP_PKT_CONTD of `linux/if_xdp.h`: the frame goes on in the next descriptor.
const CONTINUED: u32 = 1;
/// Descriptors looked at between two refills.
const RX_BATCH: usize = 64;
/// System calls that one flush makes at most: the kernel sends 32 frames or more with each, and drops one with each while there is no carrier.
const KICKS_MAX: u32 = 16;
/// How often the interface's state is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(5);
/// Pause between two kicks of an interface that is down, and of a kernel without buffers.
const DOWN_PAUSE: Duration = Duration::from_millis(1);

/// What a link is put together from.
pub(super) struct Parts {
    pub(super) info: LinkInfo,
    pub(super) attached: Arc<Attached>,
    pub(super) queue: Arc<Queue>,
    /// Place among the shards of the queue.
    pub(super) position: usize,
    /// Keys in the program's map that lead to this socket.
    pub(super) keys: Vec<u32>,
    pub(super) tx: TxQueue,
    pub(super) rx: RxQueue,
    pub(super) tx_free: Vec<FrameDesc>,
    pub(super) chunks: Chunks,
    pub(super) watch: Watch,
}

/// Descriptors of a frame whose end has not arrived yet.
struct Partial {
    descs: [FrameDesc; SEGMENTS_MAX],
    count: usize,
    /// More segments than a frame has: the rest of it is skipped.
    skipping: bool,
}

/// A shard's AF_XDP socket on one queue of an interface.
pub struct XdpLink {
    info: LinkInfo,
    tx: TxQueue,
    rx: RxQueue,
    fd: RawFd,
    queue: Arc<Queue>,
    position: usize,
    keys: Vec<u32>,
    tx_free: Vec<FrameDesc>,
    tx_each: usize,
    window: TxWindow,
    /// Frames are in the ring that the kernel was not told of, or has not taken yet.
    tx_pending: bool,
    not_before: Option<Instant>,
    rx_free: Vec<FrameDesc>,
    batch: Vec<FrameDesc>,
    partial: Partial,
    watch: Watch,
    watch_due: Instant,
    counters: LinkCounters,
    attached: Arc<Attached>,
}

impl fmt::Debug for XdpLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpLink")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// What the kernel said to a kick.
enum Kick {
    /// All that was in the ring is taken.
    Done,
    /// Try again: the batch of one call was reached, or the completion ring is full.
    Again,
    /// One frame was taken and dropped: no carrier, or a full device queue.
    Dropped,
    /// Not now: no buffers, or the interface is down.
    Later,
}

impl XdpLink {
    pub(super) fn new(parts: Parts) -> Self {
        let rx_chunks = usize::try_from(parts.chunks.rx_all).expect("an index fits");
        Self {
            fd: parts.tx.fd().as_raw_fd(),
            info: parts.info,
            tx: parts.tx,
            rx: parts.rx,
            queue: parts.queue,
            position: parts.position,
            keys: parts.keys,
            tx_each: parts.tx_free.len(),
            window: TxWindow::new(parts.chunks.tx_each),
            tx_free: parts.tx_free,
            tx_pending: false,
            not_before: None,
            rx_free: Vec::with_capacity(rx_chunks),
            batch: vec![FrameDesc::default(); RX_BATCH],
            partial: Partial {
                descs: [FrameDesc::default(); SEGMENTS_MAX],
                count: 0,
                skipping: false,
            },
            watch: parts.watch,
            watch_due: Instant::ZERO,
            counters: LinkCounters::default(),
            attached: parts.attached,
        }
    }

    /// Puts the socket into the program's map.
    pub(super) fn take_frames(&self) -> Result<(), XdpError> {
        self.keys
            .iter()
            .try_for_each(|&key| self.attached.set_socket(key, self.fd))
    }

    /// Whether the interface was up with a carrier when last looked at, a few milliseconds ago at most while the link is in use.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.watch.is_up()
    }

    /// Reaps completions and refills.
    fn serve(&mut self, may_kick: bool) {
        let Self {
            queue,
            rx_free,
            window,
            tx_free,
            position,
            tx_each,
            ..
        } = self;
        let served = queue.serve(*position, rx_free, &mut |desc| {
            window.chunk_done(tx_chunk(&desc, *tx_each));
            tx_free.push(desc);
        });
        if may_kick && served.fill_wants_kick {
            self.kick_rx();
        }
    }

    /// Makes the driver look at the fill ring (need-wakeup).
    fn kick_rx(&mut self) {
        self.counters.rx_kicks += 1;
        // SAFETY: the descriptor is open; no memory is passed.
        let result = unsafe {
            libc::recvfrom(
                self.fd,
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        if result < 0 {
            self.counters.kick_retries += 1;
        }
    }

    /// Tells the kernel to send. Not by the library's `wakeup`, which hides what the kernel says.
    fn kick_tx(&mut self) -> Kick {
        self.counters.tx_kicks += 1;
        // SAFETY: the descriptor is open; no memory is passed.
        let result = unsafe {
            libc::sendto(
                self.fd,
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if result >= 0 {
            return Kick::Done;
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => {
                self.counters.kick_retries += 1;
                Kick::Again
            }
            Some(libc::EBUSY) => {
                self.counters.kick_retries += 1;
                self.counters.tx_failed += 1;
                Kick::Dropped
            }
            Some(libc::ENOBUFS) => {
                self.counters.kick_retries += 1;
                Kick::Later
            }
            _ => Kick::Later,
        }
    }

    fn send_pending(&mut self, now: Instant) {
        if !self.tx_pending || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.not_before = None;
        if !self.tx.needs_wakeup() {
            self.tx_pending = false;
            return;
        }
        for _ in 0..KICKS_MAX {
            match self.kick_tx() {
                Kick::Done => {
                    self.tx_pending = false;
                    return;
                }
                Kick::Again | Kick::Dropped => self.serve(false),
                Kick::Later => {
                    self.not_before = Some(now + DOWN_PAUSE);
                    return;
                }
            }
        }
    }

    fn watch(&mut self, now: Instant) {
        if now < self.watch_due {
            return;
        }
        self.watch_due = now + WATCH_EVERY;
        self.counters.link_downs += self.watch.downs();
    }

    /// Takes in one descriptor; hands the frame over when it is the last of one. `true`: a frame was delivered.
    fn take_in(&mut self, desc: FrameDesc, sink: &mut dyn FnMut(FrameRef<'_>)) -> bool {
        let continued = desc.options() & CONTINUED != 0;
        if self.partial.skipping || self.partial.count == SEGMENTS_MAX {
            self.rx_free.push(desc);
            if !self.partial.skipping {
                self.drop_partial();
            }
            self.partial.skipping = continued;
            return false;
        }
        self.partial.descs[self.partial.count] = desc;
        self.partial.count += 1;
        if continued {
            return false;
        }
        let descs = &self.partial.descs[..self.partial.count];
        // SAFETY: the kernel handed the chunk over through the receive ring; it is not given back before `descs` is done with.
        let head = unsafe { self.queue.umem.data(&descs[0]) };
        let mut frame = FrameRef::new(head.contents());
        for desc in &descs[1..] {
            // SAFETY: as above.
            let segment = unsafe { self.queue.umem.data(desc) };
            let pushed = frame.push(segment.contents());
            debug_assert!(pushed.is_ok(), "no more than SEGMENTS_MAX are collected");
        }
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += len_u64(frame.len_bytes());
        sink(frame);
        self.rx_free.extend_from_slice(descs);
        self.partial.count = 0;
        true
    }

    fn drop_partial(&mut self) {
        self.counters.rx_malformed += 1;
        self.rx_free
            .extend_from_slice(&self.partial.descs[..self.partial.count]);
        self.partial.count = 0;
    }

    /// Chunks and ring entries for a frame of that many chunks, after a look at completions if need be.
    fn has_room(&mut self, chunks: usize) -> bool {
        if self.tx_room() >= chunks && self.window.has_room() {
            return true;
        }
        self.serve(false);
        self.tx_room() >= chunks && self.window.has_room()
    }

    fn tx_room(&mut self) -> usize {
        let ring = self
            .tx
            .nb_free(u32::try_from(self.tx_each).unwrap_or(u32::MAX));
        usize::try_from(ring)
            .unwrap_or(usize::MAX)
            .min(self.tx_free.len())
    }
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// The longest frame with this header that the MTU allows: the MTU counts neither the Ethernet header nor its tags.
fn frame_bytes_max(header: &[u8], mtu_bytes: usize) -> usize {
    let is_tag = |tags: usize| {
        let at = ethernet::HEADER_BYTES - 2 + tags * ethernet::VLAN_TAG_BYTES;
        header
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .is_some_and(|&bytes| EtherType(u16::from_be_bytes(bytes)).is_vlan_tpid())
    };
    let tags = match (is_tag(0), is_tag(1)) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    mtu_bytes + ethernet::HEADER_BYTES + tags * ethernet::VLAN_TAG_BYTES
}

/// Copies as much of `from` as fits behind what `to` holds, and leaves the rest in `from`.
fn fill(to: &mut [u8], at: &mut usize, from: &mut &[u8]) {
    let count = from.len().min(to.len() - *at);
    let (now, later) = from.split_at(count);
    to[*at..*at + count].copy_from_slice(now);
    *at += count;
    *from = later;
}

impl Link for XdpLink {
    fn info(&self) -> &LinkInfo {
        &self.info
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        self.watch(now);
        let mut delivered = 0;
        while delivered < frames_max {
            // A frame has at least one descriptor: no more frames than asked for can come of these.
            let wanted = (frames_max - delivered).min(RX_BATCH);
            // SAFETY: the descriptors are overwritten with those that the kernel handed over.
            let count = unsafe { self.rx.consume(&mut self.batch[..wanted]) };
            for index in 0..count {
                let desc = self.batch[index];
                delivered += usize::from(self.take_in(desc, sink));
            }
            if count == 0 {
                break;
            }
            self.serve(false);
        }
        delivered
    }

    fn transmit_room(&mut self) -> usize {
        let largest = (self.info.mtu_bytes + super::LINK_HEADER_BYTES_MAX).div_ceil(SEGMENT_BYTES);
        if self.tx_room() < self.tx_each {
            self.serve(false);
        }
        (self.tx_room() / largest).min(self.window.room())
    }

    fn transmit(
        &mut self,
        _now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        let len_bytes = header.len() + payload.len();
        let max_bytes = frame_bytes_max(header, self.info.mtu_bytes);
        if header.len() > HEADER_BYTES_MAX || len_bytes > max_bytes {
            return Err(TransmitError::TooLong {
                len_bytes,
                max_bytes,
            });
        }
        let padded = len_bytes.max(FRAME_BYTES_MIN);
        let count = padded.div_ceil(SEGMENT_BYTES);
        if !self.has_room(count) {
            return Err(TransmitError::Full);
        }
        let first = self.tx_free.len() - count;
        let (mut header, mut payload, mut left) = (header, payload, padded);
        let descs = &mut self.tx_free[first..];
        for desc in &mut *descs {
            let len = left.min(SEGMENT_BYTES);
            left -= len;
            // A stale flag of an earlier frame would hold this one back and merge it with the next.
            desc.set_options(if left == 0 { 0 } else { CONTINUED });
            // SAFETY: the chunk is one of this sender's and free: its last completion was reaped, so the kernel is through with it.
            let mut data = unsafe { self.queue.umem.data_mut(desc) };
            data.cursor().set_pos(len);
            let bytes = data.contents_mut();
            let mut at = 0;
            fill(bytes, &mut at, &mut header);
            fill(bytes, &mut at, &mut payload);
            bytes[at..].fill(0);
        }
        // SAFETY: the chunks are filled, and taken out of the free ones before anything else may write to them.
        let produced = unsafe { self.tx.produce(descs) };
        assert_eq!(produced, count, "room in the ring was just seen");
        self.window
            .take(descs.iter().map(|desc| tx_chunk(desc, self.tx_each)));
        self.tx_free.truncate(first);
        self.tx_pending = true;
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len_u64(padded);
        Ok(())
    }

    fn flush(&mut self, now: Instant) {
        self.watch(now);
        self.send_pending(now);
        self.serve(true);
    }

    fn completed(&self) -> u64 {
        self.window.completed()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.tx_pending {
            self.not_before
        } else {
            None
        }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.fd)
    }

    fn prepare_wait(&mut self) -> bool {
        self.serve(true);
        self.rx.nb_avail(1) == 0
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters.link_downs += self.watch.downs();
        let mut counters = self.counters;
        if let Ok(kernel) = self.tx.fd().xdp_statistics() {
            counters.rx_dropped = kernel.rx_dropped() + kernel.rx_ring_full();
            counters.tx_failed += kernel.tx_invalid_descs();
            // The ring is the queue's: one of its shards tells, lest the sum over shards count it twice.
            if self.position == 0 {
                counters.fill_starved = kernel.rx_fill_ring_empty_descs();
            }
        }
        counters
    }
}

impl Drop for XdpLink {
    /// Gives back what the other shards of the queue go on using. Frames for this shard go to shard 0 or to the kernel.
    fn drop(&mut self) {
        for &key in &self.keys {
            self.attached.unset_socket(key);
        }
        loop {
            // SAFETY: the descriptors are overwritten with those that the kernel handed over.
            let count = unsafe { self.rx.consume(&mut self.batch) };
            if count == 0 {
                break;
            }
            self.rx_free.extend_from_slice(&self.batch[..count]);
        }
        self.rx_free
            .extend_from_slice(&self.partial.descs[..self.partial.count]);
        self.partial.count = 0;
        self.serve(false);
    }
}
