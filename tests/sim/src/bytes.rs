//! Frames by their byte offsets, read here without `sandrail-wire`: a mistake there must not cancel out.
//!
//! Offsets are those of AoEr11 from the start of an untagged Ethernet frame.

use core::fmt;

/// A station's address as it lies in a frame.
pub type Mac = [u8; 6];

/// ATA over Ethernet.
pub const ETHERTYPE: u16 = 0x88a2;
/// Ethernet and AoE header; a command's arguments follow.
pub const ARGS: usize = 24;
/// Where an ATA command's sectors begin.
pub const DATA: usize = 36;

/// ATA commands that the model knows.
pub const READ: u8 = 0x20;
/// The same with 48-bit addresses.
pub const READ_EXT: u8 = 0x24;
/// Writes sectors.
pub const WRITE: u8 = 0x30;
/// The same with 48-bit addresses.
pub const WRITE_EXT: u8 = 0x34;
/// Flushes the write cache.
pub const FLUSH: u8 = 0xe7;
/// The same, by its newer number.
pub const FLUSH_EXT: u8 = 0xea;
/// Asks for a power state.
pub const CHECK_POWER: u8 = 0xe5;
/// Asks what the disk is.
pub const IDENTIFY: u8 = 0xec;

/// What the model and the checkers look at in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// AoE version.
    pub version: u8,
    /// R flag.
    pub response: bool,
    /// E flag.
    pub refused: bool,
    /// Error byte.
    pub error: u8,
    /// Shelf.
    pub shelf: u16,
    /// Slot.
    pub slot: u8,
    /// AoE command.
    pub command: u8,
    /// Tag.
    pub tag: u32,
    /// The ATA registers, when the command is 0.
    pub ata: Option<Ata>,
}

/// ATA registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ata {
    /// AFlags.
    pub flags: u8,
    /// Error (response) or feature (request).
    pub error: u8,
    /// Sector count.
    pub count: u8,
    /// Command (request) or status (response).
    pub command: u8,
    /// Address.
    pub lba: u64,
    /// The session that our own initiators and targets put into the two reserved bytes.
    pub session: u16,
}

/// The command of our own initiators and targets.
pub const VENDOR: u8 = 0xf0;
/// Its operations.
pub const HELLO: u8 = 0;
/// Asks for a session.
pub const ATTACH: u8 = 1;
/// Reserves by epoch.
pub const RESERVE: u8 = 2;

/// The feature bits of who knows sessions and epochs, and of who knows births as well.
pub const EPOCHS: u32 = 3;
/// See [`EPOCHS`].
pub const BIRTHS: u32 = 7;

/// What the checkers look at in the vendor command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// Hello, attach or reserve.
    pub operation: u8,
    /// 0: done.
    pub status: u8,
    /// The initiator's shard.
    pub shard: u8,
    /// The initiator's process.
    pub incarnation: u64,
    /// What an attach yielded.
    pub session: u16,
    /// Asked for, or in force.
    pub epoch: u64,
    /// Names the state of unflushed writes.
    pub loss_mark: u64,
    /// What the sender can do.
    pub features: u32,
    /// Which life of its MACs asks, or the number that it is told.
    pub birth: u32,
    /// The list asked for, or in force.
    pub macs: Vec<Mac>,
}

/// The vendor command's arguments in a frame; `None` when it holds none.
#[must_use]
pub fn vendor(frame: &[u8]) -> Option<Vendor> {
    let args = frame.get(ARGS..).filter(|_| frame[19] == VENDOR)?;
    if args.len() < 48 || args[..5] != *b"SRAL\x01" {
        return None;
    }
    let be64 = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&args[at..at + 8]);
        u64::from_be_bytes(word)
    };
    let count = usize::from(be16(args, 22));
    let list = args.get(48..48 + 6 * count)?;
    Some(Vendor {
        operation: args[5],
        status: args[6],
        shard: args[7],
        incarnation: be64(12),
        session: be16(args, 20),
        epoch: be64(24),
        loss_mark: be64(32),
        features: be32(args, 8),
        birth: be32(args, 44),
        macs: macs(list),
    })
}

/// Addresses, one behind the other.
#[must_use]
pub fn macs(list: &[u8]) -> Vec<Mac> {
    list.chunks_exact(6)
        .map(|mac| mac.try_into().expect("six bytes"))
        .collect()
}

/// Writes the arguments of a vendor request: 48 bytes and the list.
pub fn emit_vendor(vendor: &Vendor, lifetime_ms: u32, frame: &mut Vec<u8>) {
    frame.extend_from_slice(b"SRAL\x01");
    frame.extend_from_slice(&[vendor.operation, vendor.status, vendor.shard]);
    frame.extend_from_slice(&vendor.features.to_be_bytes());
    frame.extend_from_slice(&vendor.incarnation.to_be_bytes());
    frame.extend_from_slice(&vendor.session.to_be_bytes());
    frame.extend_from_slice(&(vendor.macs.len() as u16).to_be_bytes());
    frame.extend_from_slice(&vendor.epoch.to_be_bytes());
    frame.extend_from_slice(&vendor.loss_mark.to_be_bytes());
    frame.extend_from_slice(&lifetime_ms.to_be_bytes());
    frame.extend_from_slice(&vendor.birth.to_be_bytes());
    for mac in &vendor.macs {
        frame.extend_from_slice(mac);
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The frame's fields; `None` when it is no AoE frame or too short to be one.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Fields> {
    if frame.len() < ARGS || be16(frame, 12) != ETHERTYPE {
        return None;
    }
    let (mut dst, mut src) = ([0; 6], [0; 6]);
    dst.copy_from_slice(&frame[..6]);
    src.copy_from_slice(&frame[6..12]);
    let command = frame[19];
    if command == 0 && frame.len() < DATA {
        return None;
    }
    let ata = (command == 0).then(|| {
        let mut lba = [0; 8];
        lba[..6].copy_from_slice(&frame[28..34]);
        // With 28-bit addresses the fourth byte's high half holds device bits.
        if frame[24] & 0x40 == 0 {
            lba[3] &= 0x0f;
            lba[4] = 0;
            lba[5] = 0;
        }
        Ata {
            flags: frame[24],
            error: frame[25],
            count: frame[26],
            command: frame[27],
            lba: u64::from_le_bytes(lba),
            session: be16(frame, 34),
        }
    });
    Some(Fields {
        dst,
        src,
        version: frame[14] >> 4,
        response: frame[14] & 0x08 != 0,
        refused: frame[14] & 0x04 != 0,
        error: frame[15],
        shelf: be16(frame, 16),
        slot: frame[18],
        command,
        tag: u32::from_be_bytes([frame[20], frame[21], frame[22], frame[23]]),
        ata,
    })
}

impl Fields {
    /// The sectors that a WRITE request writes: first and count.
    #[must_use]
    pub fn write_request(&self) -> Option<(u64, u64)> {
        let ata = self.ata?;
        (!self.response && matches!(ata.command, WRITE | WRITE_EXT))
            .then_some((ata.lba, u64::from(ata.count)))
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.src[5];
        let to = self.dst[5];
        let arrow = if self.response { "<=" } else { "=>" };
        write!(
            f,
            "{from:02x} {arrow} {to:02x} e{}.{} tag {:08x} ",
            self.shelf, self.slot, self.tag
        )?;
        if self.refused {
            write!(f, "E{} ", self.error)?;
        }
        match (self.command, self.ata) {
            (0, Some(ata)) if self.response => write!(
                f,
                "ATA status {:02x} err {:02x} count {} lba {}",
                ata.command, ata.error, ata.count, ata.lba
            ),
            (0, Some(ata)) => {
                let name = match ata.command {
                    READ | READ_EXT => "READ",
                    WRITE | WRITE_EXT => "WRITE",
                    FLUSH => "FLUSH",
                    FLUSH_EXT => "FLUSH EXT",
                    IDENTIFY => "IDENTIFY",
                    _ => "ATA",
                };
                write!(
                    f,
                    "{name} {:02x} lba {} x{} session {:04x}",
                    ata.command, ata.lba, ata.count, ata.session
                )
            }
            (1, _) => f.write_str("CONFIG"),
            (2, _) => f.write_str("MASK"),
            (3, _) => f.write_str("RESERVE"),
            (VENDOR, _) => f.write_str("SANDRAIL"),
            (command, _) => write!(f, "command {command:02x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let nibble = |digit: u8| u8::try_from((digit as char).to_digit(16).unwrap()).unwrap();
        digits
            .chunks(2)
            .map(|pair| nibble(pair[0]) << 4 | nibble(pair[1]))
            .collect()
    }

    /// Frames seen on the wire between Linux's driver and vblade.
    #[test]
    fn golden_frames() {
        let read = "02000000000a 02000000000c 88a2 10 00 0007 03 00 0001dfdc 40 00 08 24 080000000000 0000";
        let read = parse(&hex(read)).unwrap();
        assert_eq!(
            (read.shelf, read.slot, read.tag, read.response),
            (7, 3, 0x0001_dfdc, false)
        );
        assert_eq!(
            read.ata,
            Some(Ata {
                flags: 0x40,
                error: 0,
                count: 8,
                command: READ_EXT,
                lba: 8,
                session: 0
            })
        );
        assert_eq!(read.write_request(), None);
        let advert = parse(&hex(
            "ffffffffffff 02000000000a 88a2 08 00 0007 03 01 00000000 0010 4019 11 10 0000",
        ))
        .unwrap();
        assert_eq!(
            (advert.version, advert.response, advert.command, advert.ata),
            (0, true, 1, None)
        );
        let refused = "02000000000c 02000000000a 88a2 1c 06 0007 03 00 00000001 40 00 01 24 000000000000 0000";
        let refused = parse(&hex(refused)).unwrap();
        assert_eq!((refused.refused, refused.error), (true, 6));
    }
}
