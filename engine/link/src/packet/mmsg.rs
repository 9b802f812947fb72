//! One `recvmmsg` or `sendmmsg` a burst.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_uint, c_void, iovec, mmsghdr};
use sandrail_wire::FrameRef;

use super::socket::PacketSocket;
use super::turns::Turns;
use super::{
    ETHERNET_BYTES, FRAME_BYTES_MIN, Kick, VLAN_BYTES, VlanMetadata, assemble, count, restore_tag,
};
use crate::LinkCounters;

/// The most frames of one `recvmmsg`.
const BATCH_FRAMES: usize = 64;

/// What the kernel charges for a frame beyond its bytes: its descriptor and the allocator's rounding, generously.
const CHARGE_BYTES: usize = 1024;

/// Words of control data a message: one `PACKET_AUXDATA` of 20 bytes behind a header of 16, rounded up.
const CONTROL_WORDS: usize = 8;

/// Equal buffers in one allocation, and the message headers that name them. Nothing in here moves after `new`.
struct Batch {
    memory: Vec<u8>,
    stride_bytes: usize,
    /// Where the kernel's part of a buffer begins.
    headroom_bytes: usize,
    controls: Vec<[u64; CONTROL_WORDS]>,
    vectors: Vec<iovec>,
    messages: Vec<mmsghdr>,
}

// SAFETY: the pointers in the headers name memory that the same value owns.
unsafe impl Send for Batch {}

impl Batch {
    fn new(frames: usize, headroom_bytes: usize, frame_bytes: usize, with_control: bool) -> Self {
        let stride_bytes = (headroom_bytes + frame_bytes).next_multiple_of(64);
        let mut memory = vec![0_u8; frames * stride_bytes];
        let mut controls = vec![[0_u64; CONTROL_WORDS]; if with_control { frames } else { 0 }];
        let mut vectors: Vec<iovec> = memory
            .chunks_exact_mut(stride_bytes)
            .map(|buffer| iovec {
                iov_base: buffer[headroom_bytes..].as_mut_ptr().cast::<c_void>(),
                iov_len: stride_bytes - headroom_bytes,
            })
            .collect();
        let messages = vectors
            .iter_mut()
            .enumerate()
            .map(|(index, vector)| {
                // SAFETY: a message header of zeros is valid: null pointers and lengths of zero.
                let mut message: mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                if let Some(control) = controls.get_mut(index) {
                    message.msg_hdr.msg_control = control.as_mut_ptr().cast::<c_void>();
                    message.msg_hdr.msg_controllen = mem::size_of_val(control);
                }
                message
            })
            .collect();
        Self {
            memory,
            stride_bytes,
            headroom_bytes,
            controls,
            vectors,
            messages,
        }
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn buffer_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.memory[index * self.stride_bytes..][..self.stride_bytes]
    }
}

/// Receives through `recvmmsg`.
pub(super) struct MmsgReceiver {
    batch: Batch,
    socket: PacketSocket,
}

impl MmsgReceiver {
    pub(super) fn new(socket: PacketSocket, mtu_bytes: usize, frames: usize) -> io::Result<Self> {
        let frame_bytes = mtu_bytes + ETHERNET_BYTES + 2 * VLAN_BYTES;
        let charge_bytes = frame_bytes.next_power_of_two() + CHARGE_BYTES;
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, frames * charge_bytes)?;
        socket.set_packet(libc::PACKET_AUXDATA, &1_i32)?;
        Ok(Self {
            batch: Batch::new(BATCH_FRAMES, VLAN_BYTES, frame_bytes, true),
            socket,
        })
    }

    pub(super) const fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    pub(super) fn receive(
        &mut self,
        frames_max: usize,
        counters: &mut LinkCounters,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        let (mut delivered, mut looked) = (0, 0);
        while looked < frames_max {
            let wanted = (frames_max - looked).min(self.batch.len());
            let got = self.fetch(wanted, counters);
            for index in 0..got {
                match self.frame(index) {
                    Some(frame) => {
                        counters.rx_frames += 1;
                        counters.rx_bytes += count(frame.len());
                        delivered += 1;
                        sink(FrameRef::new(frame));
                    }
                    None => counters.rx_malformed += 1,
                }
            }
            looked += got;
            if got < wanted {
                break;
            }
        }
        delivered
    }

    fn fetch(&mut self, wanted: usize, counters: &mut LinkCounters) -> usize {
        for message in &mut self.batch.messages[..wanted] {
            // The kernel leaves the length that it used.
            message.msg_hdr.msg_controllen = CONTROL_WORDS * mem::size_of::<u64>();
        }
        counters.rx_kicks += 1;
        let vector_len = c_uint::try_from(wanted).unwrap_or(0);
        let (fd, messages) = (self.socket.as_raw_fd(), self.batch.messages.as_mut_ptr());
        // SAFETY: the first `wanted` headers name buffers and control memory that live in `self.batch` and are not borrowed now.
        let got = unsafe {
            libc::recvmmsg(
                fd,
                messages,
                vector_len,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if let Ok(got) = usize::try_from(got) {
            return got;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENETDOWN) => counters.link_downs += 1,
            Some(libc::ENOBUFS | libc::ENOMEM) => counters.kick_retries += 1,
            // Nothing is there, or the interface is gone: either way nothing can be received.
            _ => {}
        }
        0
    }

    /// The frame in a buffer, whole and with its tag; `None` if it did not fit.
    fn frame(&mut self, index: usize) -> Option<&[u8]> {
        let message = self.batch.messages[index];
        let len_bytes = usize::try_from(message.msg_len).ok()?;
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || len_bytes < ETHERNET_BYTES {
            return None;
        }
        let tag = self.tag(index, &message);
        let start = self.batch.headroom_bytes;
        let buffer = self.batch.buffer_mut(index);
        let begin = match tag {
            Some(tag) => restore_tag(buffer, start, tag),
            None => start,
        };
        Some(&buffer[begin..start + len_bytes])
    }

    /// The VLAN tag told by the message's control data. The kernel writes one control message, the one that was asked for.
    fn tag(&self, index: usize, message: &mmsghdr) -> Option<VlanMetadata> {
        let header_bytes = mem::size_of::<libc::cmsghdr>();
        if message.msg_hdr.msg_controllen < header_bytes + mem::size_of::<libc::tpacket_auxdata>() {
            return None;
        }
        let control = self.batch.controls[index].as_ptr();
        // SAFETY: the control memory is larger than the header, aligned for it, and the kernel has filled it.
        let header = unsafe { control.cast::<libc::cmsghdr>().read() };
        if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            return None;
        }
        // SAFETY: the length checked above says that the data lie behind the header, within the control memory.
        let data = unsafe { control.cast::<u8>().add(header_bytes) };
        // SAFETY: as above; the structure is of plain integers, and the read does not rely on alignment.
        let aux = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
        VlanMetadata::from_status(aux.tp_status, aux.tp_vlan_tci, aux.tp_vlan_tpid)
    }
}

/// Sends through `sendmmsg`.
///
/// That a frame has left is told by the sockets' send queues; see [`Turns`].
pub(super) struct MmsgSender {
    batch: Batch,
    sockets: [PacketSocket; 2],
    turns: Turns,
    /// Of the batch: frames pushed, and the first of them not handed over.
    filled: usize,
    first: usize,
}

impl MmsgSender {
    pub(super) fn new(interface: c_int, mtu_bytes: usize, frames: usize) -> io::Result<Self> {
        let frame_bytes = (mtu_bytes + ETHERNET_BYTES + VLAN_BYTES).max(FRAME_BYTES_MIN);
        let charge_bytes = frame_bytes.next_power_of_two() + CHARGE_BYTES;
        let open = || -> io::Result<PacketSocket> {
            let socket = PacketSocket::open_sender(4 * frames * charge_bytes)?;
            socket.bind(interface, 0)?;
            Ok(socket)
        };
        Ok(Self {
            batch: Batch::new(frames, 0, frame_bytes, false),
            sockets: [open()?, open()?],
            turns: Turns::default(),
            filled: 0,
            first: 0,
        })
    }

    pub(super) fn room(&self) -> usize {
        self.batch.len() - self.filled
    }

    pub(super) const fn completed(&self) -> u64 {
        self.turns.completed()
    }

    /// Copies a frame; its padded length, or `None` when all buffers are in use.
    pub(super) fn push(
        &mut self,
        header: &[u8],
        payload: &[u8],
        bytes_min: usize,
    ) -> Option<usize> {
        if self.room() == 0 {
            return None;
        }
        let index = self.filled;
        let len_bytes = assemble(self.batch.buffer_mut(index), header, payload, bytes_min);
        self.batch.vectors[index].iov_len = len_bytes;
        self.filled += 1;
        Some(len_bytes)
    }

    pub(super) fn flush(&mut self, counters: &mut LinkCounters) -> Kick {
        let (mut verdict, mut some) = (Kick::Done, false);
        while self.first < self.filled {
            counters.tx_kicks += 1;
            match self.send() {
                Ok(sent) => {
                    some = true;
                    self.forget(sent);
                }
                Err(error) => {
                    verdict = match Kick::from_error(&error) {
                        Kick::Refused if some => Kick::Partly,
                        kick => kick,
                    };
                    break;
                }
            }
        }
        self.reap();
        verdict
    }

    fn send(&mut self) -> io::Result<usize> {
        let waiting = self.filled - self.first;
        let vector_len = c_uint::try_from(waiting).unwrap_or(c_uint::MAX);
        let fd = self.sockets[self.turns.active()].as_raw_fd();
        let messages = self.batch.messages[self.first..self.filled].as_mut_ptr();
        // SAFETY: the headers name buffers that live in `self.batch` and are not borrowed now.
        let sent = unsafe { libc::sendmmsg(fd, messages, vector_len, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// The next frames are the kernel's, or nobody's.
    fn forget(&mut self, frames: usize) {
        self.first += frames;
        self.turns.hand(count(frames));
        if self.first == self.filled {
            (self.first, self.filled) = (0, 0);
        }
    }

    fn reap(&mut self) {
        let sockets = &self.sockets;
        self.turns.reap(|socket| sockets[socket].send_queue_empty());
    }

    /// Drops what the kernel would not send; how many frames.
    pub(super) fn discard(&mut self) -> u64 {
        let waiting = self.filled - self.first;
        self.forget(waiting);
        self.reap();
        count(waiting)
    }
}
