//! The four blocks of a capture file, as in the pcapng draft (draft-ietf-opsawg-pcapng), little-endian.
//!
//! Four blocks are fewer lines than the crates that know all of them ask for in dependencies.

use crate::LinkInfo;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;

const OPT_END: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_MACADDR: u16 = 6;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;

/// Time stamps are in units of ten to the minus this.
const NANOSECONDS: u8 = 9;

/// A frame to write.
pub(super) struct Packet<'a> {
    pub(super) interface: usize,
    pub(super) time_ns: u64,
    pub(super) outbound: bool,
    pub(super) dropped_before: u64,
    /// Its true length, of which `bytes` may be less.
    pub(super) len_bytes: usize,
    pub(super) bytes: &'a [u8],
}

/// What an interface amounted to.
#[derive(Clone, Debug, Default)]
pub(super) struct Statistics {
    written: u64,
    first_ns: u64,
    last_ns: u64,
    pub(super) dropped: u64,
}

impl Statistics {
    pub(super) fn count(&mut self, time_ns: u64) {
        if self.written == 0 {
            self.first_ns = time_ns;
        }
        self.last_ns = time_ns;
        self.written += 1;
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The upper and lower half of a time stamp, in this order in the file.
fn time(out: &mut Vec<u8>, time_ns: u64) {
    let [a, b, c, d, low @ ..] = time_ns.to_be_bytes();
    out.extend(u32::from_be_bytes([a, b, c, d]).to_le_bytes());
    out.extend(u32::from_be_bytes(low).to_le_bytes());
}

fn pad(out: &mut Vec<u8>) {
    // Block heads are multiples of four, and `out` holds whole blocks, so its length tells the alignment.
    out.resize(out.len().next_multiple_of(4), 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // What does not fit an option's length is cut: only names can be that long.
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(&value[..usize::from(len)]);
    pad(out);
}

fn time_option(out: &mut Vec<u8>, code: u16, time_ns: u64) {
    let mut value = Vec::with_capacity(8);
    time(&mut value, time_ns);
    option(out, code, &value);
}

/// A block around what `body` writes. The length stands at both ends.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    option(out, OPT_END, &[]);
    let len = number(out.len() + 4 - start).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&len);
    out.extend(len);
}

pub(super) fn section_header(out: &mut Vec<u8>) {
    block(out, SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        out.extend(1_u16.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        // The section's length is not known.
        out.extend(u64::MAX.to_le_bytes());
        option(
            out,
            SHB_USERAPPL,
            concat!("sandrail ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
    });
}

pub(super) fn interface_description(out: &mut Vec<u8>, interface: &LinkInfo, snaplen_bytes: usize) {
    block(out, INTERFACE_DESCRIPTION, |out| {
        out.extend(LINKTYPE_ETHERNET.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(number(snaplen_bytes).to_le_bytes());
        option(out, IF_NAME, interface.interface.as_bytes());
        let description = format!("queue {}, {}", interface.queue, interface.mode);
        option(out, IF_DESCRIPTION, description.as_bytes());
        option(out, IF_MACADDR, &interface.mac.0);
        option(out, IF_TSRESOL, &[NANOSECONDS]);
    });
}

pub(super) fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, ENHANCED_PACKET, |out| {
        out.extend(number(packet.interface).to_le_bytes());
        time(out, packet.time_ns);
        out.extend(number(packet.bytes.len()).to_le_bytes());
        out.extend(number(packet.len_bytes).to_le_bytes());
        out.extend(packet.bytes);
        pad(out);
        option(out, EPB_FLAGS, &flags(packet).to_le_bytes());
        if packet.dropped_before > 0 {
            option(out, EPB_DROPCOUNT, &packet.dropped_before.to_le_bytes());
        }
    });
}

/// Bits 0 and 1: inbound or outbound; bits 2 to 4: unicast, multicast or broadcast.
fn flags(packet: &Packet<'_>) -> u32 {
    let direction = if packet.outbound { 0b10 } else { 0b01 };
    let reception = match packet.bytes.first_chunk::<6>() {
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => 3,
        Some(destination) if destination[0] & 1 == 1 => 2,
        Some(_) => 1,
        None => 0,
    };
    direction | reception << 2
}

pub(super) fn interface_statistics(out: &mut Vec<u8>, interface: usize, statistics: &Statistics) {
    block(out, INTERFACE_STATISTICS, |out| {
        out.extend(number(interface).to_le_bytes());
        time(out, statistics.last_ns);
        if statistics.written > 0 {
            time_option(out, ISB_STARTTIME, statistics.first_ns);
            time_option(out, ISB_ENDTIME, statistics.last_ns);
        }
        let received = statistics.written + statistics.dropped;
        option(out, ISB_IFRECV, &received.to_le_bytes());
        option(out, ISB_IFDROP, &statistics.dropped.to_le_bytes());
    });
}
