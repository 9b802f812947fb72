//! ATA as far as AoE carries it: sector addresses, command and status bytes, IDENTIFY data.
//!
//! Words and bits are those of ATA/ATAPI-6 (INCITS 361). Unlike the AoE header, IDENTIFY words are little-endian, and
//! the characters of its strings are swapped in pairs.

use core::fmt;

use crate::aoe::Features;

/// Bytes of a sector. AoE counts and addresses in these, whatever the medium beneath.
pub const SECTOR_BYTES: usize = 512;

/// DATA SET MANAGEMENT; with [`FEATURE_TRIM`] it says which sectors are of no use any more.
pub const COMMAND_DATA_SET_MANAGEMENT: u8 = 0x06;
/// READ SECTORS, 28-bit address.
pub const COMMAND_READ: u8 = 0x20;
/// READ SECTORS EXT, 48-bit address.
pub const COMMAND_READ_EXT: u8 = 0x24;
/// READ DMA EXT. Over AoE the same as [`COMMAND_READ_EXT`].
pub const COMMAND_READ_DMA_EXT: u8 = 0x25;
/// WRITE SECTORS, 28-bit address.
pub const COMMAND_WRITE: u8 = 0x30;
/// WRITE SECTORS EXT, 48-bit address.
pub const COMMAND_WRITE_EXT: u8 = 0x34;
/// WRITE DMA EXT. Over AoE the same as [`COMMAND_WRITE_EXT`].
pub const COMMAND_WRITE_DMA_EXT: u8 = 0x35;
/// READ VERIFY SECTORS, 28-bit address: reads, and returns no data.
pub const COMMAND_READ_VERIFY: u8 = 0x40;
/// READ VERIFY SECTORS EXT, 48-bit address.
pub const COMMAND_READ_VERIFY_EXT: u8 = 0x42;
/// SMART.
pub const COMMAND_SMART: u8 = 0xb0;
/// READ DMA, 28-bit address.
pub const COMMAND_READ_DMA: u8 = 0xc8;
/// WRITE DMA, 28-bit address.
pub const COMMAND_WRITE_DMA: u8 = 0xca;
/// STANDBY IMMEDIATE.
pub const COMMAND_STANDBY_IMMEDIATE: u8 = 0xe0;
/// IDLE IMMEDIATE.
pub const COMMAND_IDLE_IMMEDIATE: u8 = 0xe1;
/// STANDBY.
pub const COMMAND_STANDBY: u8 = 0xe2;
/// IDLE.
pub const COMMAND_IDLE: u8 = 0xe3;
/// CHECK POWER MODE.
pub const COMMAND_CHECK_POWER: u8 = 0xe5;
/// SLEEP.
pub const COMMAND_SLEEP: u8 = 0xe6;
/// FLUSH CACHE.
pub const COMMAND_FLUSH: u8 = 0xe7;
/// FLUSH CACHE EXT.
pub const COMMAND_FLUSH_EXT: u8 = 0xea;
/// IDENTIFY DEVICE.
pub const COMMAND_IDENTIFY: u8 = 0xec;

/// Feature register of [`COMMAND_DATA_SET_MANAGEMENT`]: TRIM.
pub const FEATURE_TRIM: u8 = 0x01;
/// Count register in the answer to [`COMMAND_CHECK_POWER`]: active or idle.
pub const POWER_ACTIVE: u8 = 0xff;

/// Status: the command failed, see the error register.
pub const STATUS_ERR: u8 = 0x01;
/// Status: data request.
pub const STATUS_DRQ: u8 = 0x08;
/// Status: device fault.
pub const STATUS_DF: u8 = 0x20;
/// Status: device ready.
pub const STATUS_DRDY: u8 = 0x40;
/// Status: busy.
pub const STATUS_BSY: u8 = 0x80;

/// Error: the device does not do this command, or not with these arguments.
pub const ERROR_ABRT: u8 = 0x04;
/// Error: no such sector; an address past the end.
pub const ERROR_IDNF: u8 = 0x10;
/// Error: the data could not be read from the medium.
pub const ERROR_UNC: u8 = 0x40;

/// Whether a command succeeded, by its status register.
///
/// A device that is busy, at fault, still moving data or reporting an error has not. That [`STATUS_DRDY`] be set is
/// not asked for: vblade answers FLUSH CACHE with a status of 0, and Linux's driver masks with the same 0xa9.
#[must_use]
pub const fn status_ok(status: u8) -> bool {
    status & (STATUS_BSY | STATUS_DF | STATUS_DRQ | STATUS_ERR) == 0
}

/// Address of a sector of [`SECTOR_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

impl Lba {
    /// The last address that 48 bits can say.
    pub const MAX: Self = Self((1 << 48) - 1);
    /// The last address that 28 bits can say.
    pub const MAX_28: Self = Self((1 << 28) - 1);

    /// The address `sectors` further on; `None` past [`Lba::MAX`].
    #[must_use]
    pub const fn checked_add(self, sectors: u64) -> Option<Self> {
        match self.0.checked_add(sectors) {
            Some(sum) if sum <= Self::MAX.0 => Some(Self(sum)),
            _ => None,
        }
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A number of sectors of [`SECTOR_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorCount(pub u16);

impl SectorCount {
    /// Length of that many sectors.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0 as usize * SECTOR_BYTES
    }
}

impl fmt::Display for SectorCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Bytes of a range of [`COMMAND_DATA_SET_MANAGEMENT`]; a sector holds 64.
pub const TRIM_RANGE_BYTES: usize = 8;

/// Sectors of no use any more: an entry of a TRIM's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimRange {
    /// First sector, 48 bits.
    pub lba: Lba,
    /// How many; an entry with none is a filler.
    pub sectors: u16,
}

impl TrimRange {
    /// Reads an entry: little-endian, 48 bits of address under 16 of count.
    #[must_use]
    pub const fn parse(entry: [u8; TRIM_RANGE_BYTES]) -> Self {
        let [l0, l1, l2, l3, l4, l5, c0, c1] = entry;
        Self {
            lba: Lba(u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0])),
            sectors: u16::from_le_bytes([c0, c1]),
        }
    }

    /// The entry's bytes.
    ///
    /// # Panics
    /// If the address exceeds [`Lba::MAX`]: cut short, it would name another sector.
    #[must_use]
    pub const fn emit(self) -> [u8; TRIM_RANGE_BYTES] {
        assert!(self.lba.0 <= Lba::MAX.0, "address exceeds 48 bits");
        let [l0, l1, l2, l3, l4, l5, ..] = self.lba.0.to_le_bytes();
        let [c0, c1] = self.sectors.to_le_bytes();
        [l0, l1, l2, l3, l4, l5, c0, c1]
    }
}

/// A string of IDENTIFY data: `N` bytes of ASCII, filled up with spaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdentifyString<const N: usize>([u8; N]);

impl<const N: usize> IdentifyString<N> {
    /// Takes `text`, filled up with spaces; `None` when it is longer than `N` or not printable ASCII.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let mut bytes = [b' '; N];
        let head = bytes.get_mut(..text.len()).filter(|_| printable)?;
        head.copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// The text as the device gave it, without the spaces and zero bytes around it. Not necessarily ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let is_fill = |byte: &u8| matches!(byte, 0 | b' ');
        let Some(start) = self.0.iter().position(|byte| !is_fill(byte)) else {
            return &[];
        };
        let end = self.0.iter().rposition(|byte| !is_fill(byte));
        &self.0[start..end.map_or(start, |last| last + 1)]
    }
}

impl<const N: usize> fmt::Display for IdentifyString<N> {
    /// Bytes that are not printable ASCII appear as `?`: the text comes from the network and goes to terminals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.as_bytes().iter().try_for_each(|&byte| {
            f.write_char(match byte {
                b' '..=b'~' => char::from(byte),
                _ => '?',
            })
        })
    }
}

impl<const N: usize> fmt::Debug for IdentifyString<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Meaning of IDENTIFY DEVICE data: what an initiator needs to know of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identify {
    /// Size in sectors of 512 bytes; at most 2^48, without `lba48` at most 2^28 - 1.
    pub sectors: u64,
    /// 48-bit addresses are understood.
    pub lba48: bool,
    /// FLUSH CACHE is claimed to work. vblade claims it and does not flush.
    pub flush: bool,
    /// FLUSH CACHE EXT is claimed to work.
    pub flush_ext: bool,
    /// A volatile write cache is there and switched on.
    pub write_cache: bool,
    /// The power management commands are understood: CHECK POWER, idle, standby, sleep.
    pub power_management: bool,
    /// TRIM is understood, and a command may carry so many sectors of ranges (0: no limit is told); `None`: it is not.
    pub trim_blocks_max: Option<u16>,
    /// Sandrail's vendor command is understood, with these features; only the lower 16 bits are told here.
    pub sandrail: Option<Features>,
    /// Model.
    pub model: IdentifyString<40>,
    /// Serial number.
    pub serial: IdentifyString<20>,
    /// Firmware revision.
    pub firmware: IdentifyString<8>,
}

/// Why 512 bytes are not the IDENTIFY data of a disk that AoE can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentifyError {
    /// Word 0 says that this is no ATA disk; also what data of all ones come to.
    NotAta,
    /// Word 255 carries a checksum, and it is wrong.
    Checksum,
    /// A logical sector of the disk is not 512 bytes long, but as long as this.
    SectorBytes(u64),
    /// More sectors than 48 bits can address.
    TooManySectors(u64),
}

impl fmt::Display for IdentifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAta => f.write_str("IDENTIFY data are not those of an ATA disk (word 0)"),
            Self::Checksum => f.write_str("IDENTIFY data have a wrong checksum (word 255)"),
            Self::SectorBytes(bytes) => write!(
                f,
                "IDENTIFY: sectors of {bytes} bytes, not 512 (words 117, 118)"
            ),
            Self::TooManySectors(sectors) => {
                write!(
                    f,
                    "IDENTIFY: {sectors} sectors are more than 48 bits address (words 100 to 103)"
                )
            }
        }
    }
}

impl core::error::Error for IdentifyError {}

/// Word 0 of a CompactFlash card, a disk although bit 15 is set.
const CONFIGURATION_CFA: u16 = 0x848a;
/// Bits 15:14 of words 83, 84, 87 and 106 read 01 when the word is valid.
const VALID_MASK: u16 = 0xc000;
const VALID: u16 = 0x4000;
const BIT_POWER_MANAGEMENT: u16 = 1 << 3;
const BIT_WRITE_CACHE: u16 = 1 << 5;
const BIT_LBA48: u16 = 1 << 10;
const BIT_FLUSH: u16 = 1 << 12;
const BIT_FLUSH_EXT: u16 = 1 << 13;
/// Word 106: words 117 and 118 give the length of a logical sector.
const BIT_LONG_SECTORS: u16 = 1 << 12;
/// Word 169: TRIM.
const BIT_TRIM: u16 = 1 << 0;
/// Words 129 and 130, the first of those that the standard leaves to vendors: Sandrail's mark, its characters in their order.
const SANDRAIL_MARK: [u8; 4] = *b"SRAL";
const SANDRAIL_MARK_AT: usize = 2 * 129;
/// Features behind it.
const SANDRAIL_FEATURES_WORD: usize = 131;
/// Low byte of word 255 when its high byte is a checksum.
const CHECKSUM_SIGNATURE: u8 = 0xa5;

fn word(data: &[u8; SECTOR_BYTES], index: usize) -> u16 {
    u16::from_le_bytes([data[2 * index], data[2 * index + 1]])
}

fn set_word(data: &mut [u8; SECTOR_BYTES], index: usize, value: u16) {
    data[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes());
}

/// A number of `N` words, the least significant first.
fn words<const N: usize>(data: &[u8; SECTOR_BYTES], first: usize) -> u64 {
    (first..first + N)
        .rev()
        .fold(0, |sum, index| sum << 16 | u64::from(word(data, index)))
}

fn set_words<const N: usize>(data: &mut [u8; SECTOR_BYTES], first: usize, value: u64) {
    let bytes = value.to_le_bytes();
    data[2 * first..2 * (first + N)].copy_from_slice(&bytes[..2 * N]);
}

fn string<const N: usize>(data: &[u8; SECTOR_BYTES], first: usize) -> IdentifyString<N> {
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = data[(2 * first + index) ^ 1];
    }
    IdentifyString(bytes)
}

fn set_string<const N: usize>(
    data: &mut [u8; SECTOR_BYTES],
    first: usize,
    text: &IdentifyString<N>,
) {
    for (index, byte) in text.0.iter().enumerate() {
        data[(2 * first + index) ^ 1] = *byte;
    }
}

fn byte_sum(data: &[u8]) -> u8 {
    data.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

impl Identify {
    /// Reads IDENTIFY DEVICE data.
    ///
    /// - 48-bit addresses by bit 10 of word 83 *or* 86, as Linux's AoE driver has it, and a size in words 100 to 103;
    ///   without one the 28-bit size in words 60 and 61 counts. A size of 0 is handed on: the caller judges.
    /// - A flush is claimed only by a valid word 83 *and* by word 86 (supported and enabled).
    /// - TRIM by bit 0 of word 169, Sandrail's vendor command by its mark in words 129 and 130.
    /// - The checksum is verified only where word 255 bears its signature; vblade sets none.
    ///
    /// # Errors
    /// [`IdentifyError`] when the data cannot describe a disk of 512-byte sectors.
    pub fn parse(data: &[u8; SECTOR_BYTES]) -> Result<Self, IdentifyError> {
        let configuration = word(data, 0);
        if configuration & 0x8000 != 0 && configuration != CONFIGURATION_CFA {
            return Err(IdentifyError::NotAta);
        }
        if data[510] == CHECKSUM_SIGNATURE && byte_sum(data) != 0 {
            return Err(IdentifyError::Checksum);
        }
        let sector_info = word(data, 106);
        if sector_info & VALID_MASK == VALID && sector_info & BIT_LONG_SECTORS != 0 {
            let sector_bytes = 2 * words::<2>(data, 117);
            if sector_bytes != SECTOR_BYTES as u64 {
                return Err(IdentifyError::SectorBytes(sector_bytes));
            }
        }
        let (supported, enabled) = (word(data, 83), word(data, 86));
        let sectors_48 = words::<4>(data, 100);
        let lba48 = (supported | enabled) & BIT_LBA48 != 0;
        if lba48 && sectors_48 > Lba::MAX.0 + 1 {
            return Err(IdentifyError::TooManySectors(sectors_48));
        }
        let claimed = if supported & VALID_MASK == VALID {
            supported & enabled
        } else {
            0
        };
        Ok(Self {
            sectors: if lba48 && sectors_48 != 0 {
                sectors_48
            } else {
                words::<2>(data, 60).min(Lba::MAX_28.0)
            },
            lba48,
            flush: claimed & BIT_FLUSH != 0,
            flush_ext: claimed & BIT_FLUSH_EXT != 0,
            write_cache: word(data, 82) & word(data, 85) & BIT_WRITE_CACHE != 0,
            power_management: word(data, 82) & BIT_POWER_MANAGEMENT != 0,
            trim_blocks_max: (word(data, 169) & BIT_TRIM != 0).then(|| word(data, 105)),
            sandrail: (data[SANDRAIL_MARK_AT..].starts_with(&SANDRAIL_MARK))
                .then(|| Features(u32::from(word(data, SANDRAIL_FEATURES_WORD)))),
            model: string(data, 27),
            serial: string(data, 10),
            firmware: string(data, 23),
        })
    }

    /// Writes IDENTIFY DEVICE data that say this, of a fixed disk with LBA, with a checksum.
    ///
    /// Sectors beyond what 28 bits, or with `lba48` 48 bits, can address are left out.
    pub fn emit(&self, data: &mut [u8; SECTOR_BYTES]) {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        data.fill(0);
        // Fixed disk, LBA, IORDY; and as geometry the customary 16 heads of 63 sectors.
        set_word(data, 0, 0x0040);
        set_word(data, 47, 0x8000);
        set_word(data, 49, 0x0a00);
        set_word(data, 50, VALID);
        set_word(data, 53, 0x0001);
        let cylinders = (self.sectors / (16 * 63)).min(16_383);
        for geometry in [1, 54] {
            set_words::<1>(data, geometry, cylinders);
        }
        for (heads, sectors) in [(3, 6), (55, 56)] {
            set_word(data, heads, 16);
            set_word(data, sectors, 63);
        }
        set_words::<2>(data, 57, cylinders * 16 * 63);
        set_words::<2>(data, 60, self.sectors.min(Lba::MAX_28.0));
        // ATA/ATAPI-4 to -6.
        set_word(data, 80, 0x0070);
        let cache = flag(self.write_cache, BIT_WRITE_CACHE)
            | flag(self.power_management, BIT_POWER_MANAGEMENT);
        let sets = flag(self.lba48, BIT_LBA48)
            | flag(self.flush, BIT_FLUSH)
            | flag(self.flush_ext, BIT_FLUSH_EXT);
        set_word(data, 82, cache);
        set_word(data, 83, VALID | sets);
        set_word(data, 84, VALID);
        set_word(data, 85, cache);
        set_word(data, 86, sets);
        set_word(data, 87, VALID);
        if self.lba48 {
            set_words::<4>(data, 100, self.sectors.min(Lba::MAX.0 + 1));
        }
        if let Some(blocks_max) = self.trim_blocks_max {
            set_word(data, 105, blocks_max);
            set_word(data, 169, BIT_TRIM);
        }
        if let Some(features) = self.sandrail {
            data[SANDRAIL_MARK_AT..SANDRAIL_MARK_AT + SANDRAIL_MARK.len()]
                .copy_from_slice(&SANDRAIL_MARK);
            set_words::<1>(data, SANDRAIL_FEATURES_WORD, u64::from(features.0));
        }
        set_string(data, 27, &self.model);
        set_string(data, 10, &self.serial);
        set_string(data, 23, &self.firmware);
        data[510] = CHECKSUM_SIGNATURE;
        data[511] = byte_sum(&data[..511]).wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    fn disk() -> Identify {
        Identify {
            sectors: 0x1_2345_6789,
            lba48: true,
            flush: true,
            flush_ext: true,
            write_cache: true,
            power_management: true,
            trim_blocks_max: Some(1),
            sandrail: Some(Features::SESSIONS.union(Features::EPOCHS)),
            model: IdentifyString::new("Sandrail blade").unwrap(),
            serial: IdentifyString::new("e7.3").unwrap(),
            firmware: IdentifyString::new("0.1").unwrap(),
        }
    }

    fn emitted(disk: &Identify) -> [u8; SECTOR_BYTES] {
        let mut data = [0xaa; SECTOR_BYTES];
        disk.emit(&mut data);
        data
    }

    /// Drops the checksum, so that a test can change data at will.
    fn unsigned(disk: &Identify) -> [u8; SECTOR_BYTES] {
        let mut data = emitted(disk);
        data[510..].fill(0);
        data
    }

    #[test]
    fn words_lie_where_the_standard_puts_them() {
        let data = emitted(&disk());
        assert_eq!(data[20..24], *b"7e3.", "serial number, swapped in pairs");
        assert_eq!(data[46..50], *b".0 1", "firmware");
        assert_eq!(data[54..58], *b"aSdn", "model");
        assert_eq!(
            data[120..124],
            [0xff, 0xff, 0xff, 0x0f],
            "28-bit size, capped"
        );
        assert_eq!(data[166..168], [0x00, 0x74], "word 83");
        assert_eq!(data[200..208], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0]);
        assert_eq!(data[164..166], [0x28, 0], "word 82: cache, power");
        assert_eq!(data[210..212], [1, 0], "word 105: TRIM's sectors");
        assert_eq!(data[258..264], *b"SRAL\x03\0", "words 129 to 131");
        assert_eq!(data[338..340], [1, 0], "word 169: TRIM");
        assert_eq!(data[510], 0xa5);
        assert_eq!(byte_sum(&data), 0);
        assert_eq!(Identify::parse(&data), Ok(disk()));
    }

    #[test]
    fn a_28_bit_disk() {
        let small = Identify {
            sectors: Lba::MAX_28.0,
            lba48: false,
            flush_ext: false,
            ..disk()
        };
        let mut data = unsigned(&small);
        // Words 100 to 103 mean nothing without the feature.
        data[200..208].fill(0x11);
        assert_eq!(Identify::parse(&data), Ok(small));
    }

    #[test]
    fn lba48_by_word_83_or_86_and_the_short_size_when_the_long_one_is_unset() {
        for set in [166, 172] {
            let mut data = unsigned(&disk());
            data[167] &= !0x04;
            data[173] &= !0x04;
            assert!(!Identify::parse(&data).unwrap().lba48);
            data[set + 1] |= 0x04;
            assert_eq!(Identify::parse(&data).unwrap().sectors, disk().sectors);
            data[200..208].fill(0);
            assert_eq!(Identify::parse(&data).unwrap().sectors, Lba::MAX_28.0);
        }
    }

    #[test]
    fn a_flush_is_claimed_only_when_valid_supported_and_enabled() {
        let clear: [(usize, u8); 4] = [(167, 0xc0), (167, 0x30), (173, 0x30), (167, 0x00)];
        for (at, bits) in clear {
            let mut data = unsigned(&disk());
            data[at] &= !bits;
            if bits == 0 {
                // Bits 15:14 of word 83 all set: an absent word of a bus that floats.
                data[at] |= 0xc0;
            }
            let parsed = Identify::parse(&data).unwrap();
            assert!(!parsed.flush && !parsed.flush_ext, "byte {at}, {bits:#x}");
        }
        let mut data = unsigned(&disk());
        data[173] &= !0x20;
        let parsed = Identify::parse(&data).unwrap();
        assert!(parsed.flush && !parsed.flush_ext);
    }

    #[test]
    fn other_disks_announce_nothing_of_ours() {
        let plain = Identify {
            power_management: false,
            trim_blocks_max: None,
            sandrail: None,
            ..disk()
        };
        let mut data = unsigned(&plain);
        assert_eq!(Identify::parse(&data), Ok(plain));
        // The sectors of a TRIM mean nothing without it, features nothing without the whole mark.
        data[210..212].fill(0xff);
        data[258..264].copy_from_slice(b"SRAl\x03\0");
        assert_eq!(Identify::parse(&data), Ok(plain));
        data[258..264].copy_from_slice(b"SRAL\0\0");
        let parsed = Identify::parse(&data).unwrap();
        assert_eq!(parsed.sandrail, Some(Features::NONE));
        data[338] = 0xfe;
        assert_eq!(Identify::parse(&data).unwrap().trim_blocks_max, None);
        data[338] = 0x01;
        data[210..212].fill(0);
        assert_eq!(Identify::parse(&data).unwrap().trim_blocks_max, Some(0));
    }

    #[test]
    fn ranges_to_trim() {
        let range = TrimRange {
            lba: Lba(0x0605_0403_0201),
            sectors: 0x0807,
        };
        assert_eq!(range.emit(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(TrimRange::parse(range.emit()), range);
    }

    #[test]
    #[should_panic(expected = "address exceeds 48 bits")]
    fn a_range_to_trim_is_never_cut_short() {
        let lba = Lba(1 << 48);
        let _ = TrimRange { lba, sectors: 1 }.emit();
    }

    #[test]
    fn a_checksum_is_held_to_when_it_is_there() {
        let mut data = emitted(&disk());
        data[300] ^= 1;
        assert_eq!(Identify::parse(&data), Err(IdentifyError::Checksum));
        data[510] = 0;
        assert!(Identify::parse(&data).is_ok());
    }

    #[test]
    fn other_devices_are_refused() {
        assert_eq!(
            Identify::parse(&[0xff; SECTOR_BYTES]),
            Err(IdentifyError::NotAta)
        );
        let mut data = unsigned(&disk());
        data[..2].copy_from_slice(&0x85c0_u16.to_le_bytes());
        assert_eq!(
            Identify::parse(&data),
            Err(IdentifyError::NotAta),
            "a CD drive"
        );
        data[..2].copy_from_slice(&0x848a_u16.to_le_bytes());
        assert!(Identify::parse(&data).is_ok(), "a CompactFlash card");

        let mut data = unsigned(&disk());
        set_word(&mut data, 106, VALID | BIT_LONG_SECTORS);
        set_words::<2>(&mut data, 117, 2048);
        assert_eq!(
            Identify::parse(&data),
            Err(IdentifyError::SectorBytes(4096))
        );
        set_words::<2>(&mut data, 117, 256);
        assert!(Identify::parse(&data).is_ok());

        let mut data = unsigned(&disk());
        set_words::<4>(&mut data, 100, 1 << 48);
        assert_eq!(Identify::parse(&data).unwrap().sectors, 1 << 48);
        set_words::<4>(&mut data, 100, (1 << 48) + 1);
        assert_eq!(
            Identify::parse(&data),
            Err(IdentifyError::TooManySectors((1 << 48) + 1))
        );
    }

    #[test]
    fn nothing_is_no_error_but_an_empty_disk() {
        let nothing = Identify::parse(&[0; SECTOR_BYTES]).unwrap();
        assert_eq!((nothing.sectors, nothing.lba48), (0, false));
        assert_eq!(nothing.model.to_string(), "");
    }

    #[test]
    fn strings_are_trimmed_and_made_fit_for_terminals() {
        assert_eq!(
            IdentifyString(*b"  a\x1b[2J\xff b\0  ").to_string(),
            "a?[2J? b"
        );
        assert_eq!(IdentifyString(*b" \0 \0").as_bytes(), b"");
        assert!(IdentifyString::<4>::new("abcd").is_some());
        assert!(IdentifyString::<4>::new("abcde").is_none());
        assert!(IdentifyString::<4>::new("a\n").is_none());
    }

    #[test]
    fn success_as_linux_masks_it() {
        for status in 0..=u8::MAX {
            assert_eq!(status_ok(status), status & 0xa9 == 0);
        }
    }

    #[test]
    fn addresses_end_at_48_bits() {
        assert_eq!(Lba(Lba::MAX.0 - 1).checked_add(1), Some(Lba::MAX));
        assert_eq!(Lba::MAX.checked_add(1), None);
        assert_eq!(Lba(1).checked_add(u64::MAX), None);
        assert_eq!(SectorCount(u16::MAX).bytes(), 65_535 * 512);
    }
}
