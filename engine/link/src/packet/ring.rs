//! TPACKET_V2 rings: memory shared with the kernel, a status word a slot (`packet_mmap` in the kernel's documentation).

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_void, tpacket2_hdr};
use sandrail_wire::FrameRef;

use super::slots::{StatusWords, TransmitSlots};
use super::socket::PacketSocket;
use super::{ETHERNET_BYTES, Kick, VLAN_BYTES, VlanMetadata, assemble, count, restore_tag};
use crate::LinkCounters;

/// Slots and frames in them are aligned to this (`TPACKET_ALIGNMENT`).
const ALIGNMENT: usize = 16;

/// Bytes before the frame in a received slot: header and address, then the network header aligned behind at least 16 bytes of
/// MAC header (`tpacket_rcv`), rounded up.
const RX_OVERHEAD_BYTES: usize = 96;

/// Where the frame starts in a slot to send: `TPACKET2_HDRLEN - sizeof(struct sockaddr_ll)`.
const TX_OFFSET_BYTES: usize = mem::size_of::<tpacket2_hdr>().next_multiple_of(ALIGNMENT);

/// The ring's memory is asked for in blocks of this size; slots do not cross them.
const BLOCK_BYTES: usize = 64 << 10;

/// How a ring is cut into blocks and slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    slot_bytes: usize,
    slots_per_block: usize,
    blocks: usize,
}

impl Layout {
    /// A ring of at least `slots` slots of at least `bytes` bytes.
    fn new(slots: usize, bytes: usize) -> Self {
        let slot_bytes = bytes.next_multiple_of(ALIGNMENT);
        let slots_per_block = BLOCK_BYTES / slot_bytes;
        assert!(slots_per_block > 0, "the largest MTU fits a block");
        Self {
            slot_bytes,
            slots_per_block,
            blocks: slots.div_ceil(slots_per_block),
        }
    }

    const fn slots(&self) -> usize {
        self.slots_per_block * self.blocks
    }

    const fn len_bytes(&self) -> usize {
        self.blocks * BLOCK_BYTES
    }

    const fn offset(&self, slot: usize) -> usize {
        slot / self.slots_per_block * BLOCK_BYTES + slot % self.slots_per_block * self.slot_bytes
    }

    fn request(&self) -> io::Result<libc::tpacket_req> {
        let number = |n: usize| u32::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
        Ok(libc::tpacket_req {
            tp_block_size: number(BLOCK_BYTES)?,
            tp_block_nr: number(self.blocks)?,
            tp_frame_size: number(self.slot_bytes)?,
            tp_frame_nr: number(self.slots())?,
        })
    }
}

/// A socket's ring, mapped.
struct RingMemory {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the mapping belongs to this value alone, and the kernel does not care which thread touches it.
unsafe impl Send for RingMemory {}

impl RingMemory {
    fn map(socket: &PacketSocket, option: c_int, layout: Layout) -> io::Result<Self> {
        let version =
            c_int::try_from(libc::tpacket_versions::TPACKET_V2 as u32).expect("a small constant");
        socket.set_packet(libc::PACKET_VERSION, &version)?;
        socket.set_packet(option, &layout.request()?)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let fd = socket.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                layout.len_bytes(),
                protection,
                flags,
                fd,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, layout })
    }

    fn slot(&self, slot: usize) -> NonNull<u8> {
        assert!(slot < self.layout.slots(), "a slot of this ring");
        // SAFETY: the slot lies within the mapping, as the layout was what the kernel accepted.
        unsafe { self.base.add(self.layout.offset(slot)) }
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: the status word is the slot's first member, aligned as slots are; both sides only access it as a whole word.
        unsafe { AtomicU32::from_ptr(self.slot(slot).cast::<u32>().as_ptr()) }
    }

    /// The header of a slot that is ours.
    fn header(&self, slot: usize) -> tpacket2_hdr {
        let header = self.slot(slot).cast::<tpacket2_hdr>();
        // SAFETY: a slot starts with its header; while the slot is ours the kernel does not write it.
        unsafe { header.read() }
    }

    /// Writes the length of the frame in a slot that is ours.
    fn set_len(&mut self, slot: usize, len_bytes: usize) {
        let header = self.slot(slot).cast::<tpacket2_hdr>().as_ptr();
        // SAFETY: the member lies within the slot's header.
        let field = unsafe { &raw mut (*header).tp_len };
        let len = u32::try_from(len_bytes).expect("a frame is short");
        // SAFETY: the slot is ours, so nobody else reads or writes the member now.
        unsafe { field.write(len) };
    }

    /// All bytes behind the status word and the rest of the header of a slot that is ours.
    fn bytes_mut(&mut self, slot: usize) -> &mut [u8] {
        let header_bytes = mem::size_of::<tpacket2_hdr>();
        let start = self.slot(slot);
        // SAFETY: a slot is larger than its header.
        let start = unsafe { start.add(header_bytes) };
        // SAFETY: these bytes lie within the slot, are initialized (the kernel gives zeroed pages), and while the slot is ours the
        // kernel does not touch them; `&mut self` keeps us from a second borrow.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.layout.slot_bytes - header_bytes) }
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `map`, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast::<c_void>(), self.layout.len_bytes()) };
    }
}

impl StatusWords for RingMemory {
    fn load(&self, slot: usize) -> u32 {
        // Acquire pairs with the kernel's barrier in `__packet_set_status`: what it wrote to the slot comes first.
        self.status(slot).load(Ordering::Acquire)
    }

    fn store(&self, slot: usize, status: u32) {
        // Release pairs with the kernel's barrier in `__packet_get_status`: what we wrote to the slot comes first.
        self.status(slot).store(status, Ordering::Release);
    }
}

/// The receiving ring.
pub(super) struct RingReceiver {
    memory: RingMemory,
    socket: PacketSocket,
    next: usize,
}

impl RingReceiver {
    pub(super) fn new(socket: PacketSocket, mtu_bytes: usize, frames: usize) -> io::Result<Self> {
        // Of two tags one comes in the frame; the other is put back before it.
        let frame_bytes = mtu_bytes + ETHERNET_BYTES + 2 * VLAN_BYTES;
        let layout = Layout::new(frames, RX_OVERHEAD_BYTES + frame_bytes);
        let memory = RingMemory::map(&socket, libc::PACKET_RX_RING, layout)?;
        Ok(Self {
            memory,
            socket,
            next: 0,
        })
    }

    pub(super) const fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    pub(super) fn frame_waits(&self) -> bool {
        self.memory.load(self.next) & libc::TP_STATUS_USER != 0
    }

    pub(super) fn receive(
        &mut self,
        frames_max: usize,
        counters: &mut LinkCounters,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        let (mut delivered, mut looked, mut losing) = (0, 0, false);
        while looked < frames_max {
            let slot = self.next;
            let status = self.memory.load(slot);
            if status & libc::TP_STATUS_USER == 0 {
                break;
            }
            looked += 1;
            losing |= status & libc::TP_STATUS_LOSING != 0;
            match self.frame(slot, status) {
                Some(frame) => {
                    counters.rx_frames += 1;
                    counters.rx_bytes += count(frame.len());
                    delivered += 1;
                    sink(FrameRef::new(frame));
                }
                None => counters.rx_malformed += 1,
            }
            self.memory.store(slot, libc::TP_STATUS_KERNEL);
            self.next = (slot + 1) % self.memory.layout.slots();
        }
        counters.fill_starved += u64::from(losing);
        delivered
    }

    /// The frame in a slot that the kernel gave us, whole and with its tag; `None` if the kernel had to cut it short.
    fn frame(&mut self, slot: usize, status: u32) -> Option<&[u8]> {
        let header = self.memory.header(slot);
        let len_bytes = usize::try_from(header.tp_snaplen).ok()?;
        if header.tp_snaplen != header.tp_len || len_bytes < ETHERNET_BYTES {
            return None;
        }
        let bytes = self.memory.bytes_mut(slot);
        let start = usize::from(header.tp_mac).checked_sub(mem::size_of::<tpacket2_hdr>())?;
        let end = start + len_bytes;
        // The address that the kernel puts before the frame is not used, so a tag may overwrite it.
        if start < VLAN_BYTES || end > bytes.len() {
            return None;
        }
        let start = match VlanMetadata::from_status(status, header.tp_vlan_tci, header.tp_vlan_tpid)
        {
            Some(tag) => restore_tag(bytes, start, tag),
            None => start,
        };
        Some(&bytes[start..end])
    }
}

/// The sending ring.
pub(super) struct RingSender {
    memory: RingMemory,
    socket: PacketSocket,
    slots: TransmitSlots,
}

impl RingSender {
    pub(super) fn new(interface: c_int, mtu_bytes: usize, frames: usize) -> io::Result<Self> {
        let frame_bytes = mtu_bytes + ETHERNET_BYTES + VLAN_BYTES;
        let layout = Layout::new(
            frames,
            TX_OFFSET_BYTES + frame_bytes.max(super::FRAME_BYTES_MIN),
        );
        // The kernel charges a frame's pages to the socket; twice the ring leaves room for its headers.
        let socket = PacketSocket::open_sender(2 * layout.len_bytes())?;
        let memory = RingMemory::map(&socket, libc::PACKET_TX_RING, layout)?;
        socket.bind(interface, 0)?;
        Ok(Self {
            slots: TransmitSlots::new(layout.slots()),
            memory,
            socket,
        })
    }

    pub(super) fn room(&mut self) -> usize {
        self.slots.room(&self.memory)
    }

    pub(super) const fn completed(&self) -> u64 {
        self.slots.completed()
    }

    /// Copies a frame into the ring; its padded length, or `None` when the ring is full.
    pub(super) fn push(
        &mut self,
        header: &[u8],
        payload: &[u8],
        bytes_min: usize,
    ) -> Option<usize> {
        let slot = self.slots.next(&self.memory)?;
        let skip = TX_OFFSET_BYTES - mem::size_of::<tpacket2_hdr>();
        let len_bytes = assemble(
            &mut self.memory.bytes_mut(slot)[skip..],
            header,
            payload,
            bytes_min,
        );
        self.memory.set_len(slot, len_bytes);
        self.slots.request(&self.memory);
        Some(len_bytes)
    }

    pub(super) fn flush(&mut self, counters: &mut LinkCounters) -> Kick {
        let before = self.slots.sent(&self.memory);
        let mut verdict = Kick::Done;
        if before < self.slots.requested() {
            counters.tx_kicks += 1;
            let flags = libc::MSG_DONTWAIT;
            // SAFETY: with a ring the kernel takes frames from there; there is neither buffer nor address.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), ptr::null(), 0, flags) };
            verdict = match sent {
                0.. => Kick::Refused,
                _ => Kick::from_error(&io::Error::last_os_error()),
            };
            // The result alone does not tell how far it came: it is an error also after some frames, and not one when memory
            // ran out after some.
            let after = self.slots.sent(&self.memory);
            if after == self.slots.requested() {
                verdict = Kick::Done;
            } else if after > before && verdict == Kick::Refused {
                verdict = Kick::Partly;
            }
        }
        self.slots.reap(&self.memory);
        verdict
    }

    /// Takes back what the kernel would not send; how many frames.
    pub(super) fn discard(&mut self) -> u64 {
        self.slots.discard(&self.memory)
    }
}
