//! Arguments of command 0: the registers of an ATA command.

use super::{AoeError, Args, Session};
use crate::ata::{self, Lba};

pub(super) const ATA_ARGS_BYTES: usize = 12;

const FLAG_LBA48: u8 = 0x40;
const FLAG_DEVICE_HEAD: u8 = 0x10;
const FLAG_ASYNC: u8 = 0x02;
const FLAG_WRITE: u8 = 0x01;

/// Device/head register in the byte of LBA bits 24 to 27: LBA mode, and two bits that are always set.
const DEVICE_LBA: u8 = 0xe0;
/// The same of commands that address no sector.
const DEVICE_NONE: u8 = 0xa0;

/// Registers of an ATA command, or of its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtaRepr {
    /// E flag: an extended command; the address has 48 bits.
    pub lba48: bool,
    /// D flag: the DEV bit of the device/head register.
    pub device_head: bool,
    /// A flag: the target may answer a write before it is on the medium.
    pub async_write: bool,
    /// W flag: the request carries sectors.
    pub write: bool,
    /// Features (request) or error register (response).
    pub error_feature: u8,
    /// Sectors asked for; in a response, sectors *left*: 0 on success.
    pub count: u8,
    /// Command (request) or status register (response).
    pub command_status: u8,
    /// The address bytes as they lie on the wire, the least significant first.
    pub lba_bytes: [u8; 6],
    /// Two bytes that AoE reserves. Sandrail's own target keeps a session in them (safety rule S5); 0 elsewhere.
    pub reserved: [u8; 2],
}

impl AtaRepr {
    /// READ SECTORS EXT of `count` sectors.
    ///
    /// # Panics
    /// If `lba` exceeds [`Lba::MAX`]: cut short, it would name another sector.
    #[must_use]
    pub const fn read_ext(lba: Lba, count: u8) -> Self {
        Self::extended(ata::COMMAND_READ_EXT, lba, count)
    }

    /// WRITE SECTORS EXT of `count` sectors, which follow the arguments. Not asynchronous.
    ///
    /// # Panics
    /// If `lba` exceeds [`Lba::MAX`].
    #[must_use]
    pub const fn write_ext(lba: Lba, count: u8) -> Self {
        Self {
            write: true,
            ..Self::extended(ata::COMMAND_WRITE_EXT, lba, count)
        }
    }

    /// READ SECTORS of `count` sectors, for devices without 48-bit addresses.
    ///
    /// # Panics
    /// If `lba` exceeds [`Lba::MAX_28`].
    #[must_use]
    pub const fn read28(lba: Lba, count: u8) -> Self {
        Self::addressed28(ata::COMMAND_READ, lba, count)
    }

    /// WRITE SECTORS of `count` sectors, which follow the arguments, for devices without 48-bit addresses.
    ///
    /// # Panics
    /// If `lba` exceeds [`Lba::MAX_28`].
    #[must_use]
    pub const fn write28(lba: Lba, count: u8) -> Self {
        Self {
            write: true,
            ..Self::addressed28(ata::COMMAND_WRITE, lba, count)
        }
    }

    /// IDENTIFY DEVICE. The count is 1, for the sector of data that comes back.
    #[must_use]
    pub const fn identify() -> Self {
        Self::unaddressed(ata::COMMAND_IDENTIFY, 1)
    }

    /// FLUSH CACHE.
    #[must_use]
    pub const fn flush() -> Self {
        Self::unaddressed(ata::COMMAND_FLUSH, 0)
    }

    /// FLUSH CACHE EXT.
    #[must_use]
    pub const fn flush_ext() -> Self {
        Self::extended(ata::COMMAND_FLUSH_EXT, Lba(0), 0)
    }

    /// CHECK POWER MODE. The count is 0: vblade does not answer it with 1.
    #[must_use]
    pub const fn check_power() -> Self {
        Self::unaddressed(ata::COMMAND_CHECK_POWER, 0)
    }

    /// TRIM (DATA SET MANAGEMENT) by `count` sectors of [ranges](ata::TrimRange), which follow the arguments.
    #[must_use]
    pub const fn trim(count: u8) -> Self {
        Self {
            write: true,
            error_feature: ata::FEATURE_TRIM,
            ..Self::extended(ata::COMMAND_DATA_SET_MANAGEMENT, Lba(0), count)
        }
    }

    /// The same command, carrying a session (S5).
    #[must_use]
    pub const fn with_session(self, session: Session) -> Self {
        Self {
            reserved: session.0.to_be_bytes(),
            ..self
        }
    }

    /// The session that the two reserved bytes carry; [`Session::NONE`] from whoever knows of none.
    #[must_use]
    pub const fn session(&self) -> Session {
        Session(u16::from_be_bytes(self.reserved))
    }

    const fn registers(command: u8, count: u8, lba_bytes: [u8; 6]) -> Self {
        Self {
            lba48: false,
            device_head: false,
            async_write: false,
            write: false,
            error_feature: 0,
            count,
            command_status: command,
            lba_bytes,
            reserved: [0; 2],
        }
    }

    const fn unaddressed(command: u8, count: u8) -> Self {
        Self::registers(command, count, [0, 0, 0, DEVICE_NONE, 0, 0])
    }

    const fn extended(command: u8, lba: Lba, count: u8) -> Self {
        assert!(lba.0 <= Lba::MAX.0, "address exceeds 48 bits");
        let [l0, l1, l2, l3, l4, l5, _, _] = lba.0.to_le_bytes();
        Self {
            lba48: true,
            ..Self::registers(command, count, [l0, l1, l2, l3, l4, l5])
        }
    }

    const fn addressed28(command: u8, lba: Lba, count: u8) -> Self {
        assert!(lba.0 <= Lba::MAX_28.0, "address exceeds 28 bits");
        let [l0, l1, l2, l3, ..] = lba.0.to_le_bytes();
        Self::registers(command, count, [l0, l1, l2, l3 | DEVICE_LBA, 0, 0])
    }

    /// The address, of 48 or 28 bits as the E flag says.
    #[must_use]
    pub const fn lba(&self) -> Lba {
        if self.lba48 {
            self.lba48()
        } else {
            self.lba28()
        }
    }

    /// The address bytes read as 48 bits, whatever the E flag says.
    #[must_use]
    pub const fn lba48(&self) -> Lba {
        let [l0, l1, l2, l3, l4, l5] = self.lba_bytes;
        Lba(u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0]))
    }

    /// The address bytes read as 28 bits, whatever the E flag says.
    #[must_use]
    pub const fn lba28(&self) -> Lba {
        let [l0, l1, l2, l3, _, _] = self.lba_bytes;
        Lba(u64::from_le_bytes([l0, l1, l2, l3 & 0x0f, 0, 0, 0, 0]))
    }

    #[inline]
    pub(super) fn parse(args: Args<'_>) -> Result<Self, AoeError> {
        let (fields, _) = args.fixed::<ATA_ARGS_BYTES>("ATA arguments")?;
        let [
            flags,
            error_feature,
            count,
            command_status,
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
            r0,
            r1,
        ] = fields;
        Ok(Self {
            lba48: flags & FLAG_LBA48 != 0,
            device_head: flags & FLAG_DEVICE_HEAD != 0,
            async_write: flags & FLAG_ASYNC != 0,
            write: flags & FLAG_WRITE != 0,
            error_feature,
            count,
            command_status,
            lba_bytes: [l0, l1, l2, l3, l4, l5],
            reserved: [r0, r1],
        })
    }

    #[inline]
    pub(super) fn emit(&self, out: &mut [u8]) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out[0] = flag(self.lba48, FLAG_LBA48)
            | flag(self.device_head, FLAG_DEVICE_HEAD)
            | flag(self.async_write, FLAG_ASYNC)
            | flag(self.write, FLAG_WRITE);
        out[1] = self.error_feature;
        out[2] = self.count;
        out[3] = self.command_status;
        out[4..10].copy_from_slice(&self.lba_bytes);
        out[10..12].copy_from_slice(&self.reserved);
    }
}
