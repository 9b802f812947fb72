//! ATA over Ethernet: the header, and what its four commands and the vendors' say (AoEr11).
//!
//! [`Repr::parse`] takes the bytes behind the Ethernet header. It accepts what targets in the field send, see "What we
//! tolerate" in `docs/wire.md`; whoever uses a `Repr` judges version, address and tag.

mod ata_args;
mod config;
mod error;
mod ident;
mod mask;
mod reserve;
mod vendor;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

pub use ata_args::AtaRepr;
pub use config::{CONFIG_STRING_BYTES_MAX, ConfigCommand, ConfigRepr};
pub use error::{AoeError, ErrorCode};
pub use ident::{COPIES_MAX, ParseTargetError, REQUESTS, SHARDS_MAX, Tag, TargetAddr};
pub use mask::{
    DIRECTIVES_MAX, DirectiveCommand, MASK_DIRECTIVE_BYTES, MaskCommand, MaskDirectives, MaskError,
    MaskRepr,
};
pub use reserve::{MACS_MAX, MacList, ReserveCommand, ReserveRepr};

pub use vendor::{
    Birth, Features, SANDRAIL_ARGS_BYTES, SANDRAIL_COMMAND, SANDRAIL_VERSION, SandrailError,
    SandrailOperation, SandrailRepr, SandrailStatus, Session,
};

use crate::ata::SECTOR_BYTES;
use crate::{BufferTooSmall, claim};

/// Bytes of the AoE header, behind which a command's arguments begin.
pub const AOE_HEADER_BYTES: usize = 10;
/// Bytes of the AoE header and the ATA arguments, behind which sectors begin.
pub const ATA_HEADER_BYTES: usize = AOE_HEADER_BYTES + ata_args::ATA_ARGS_BYTES;
/// The protocol's version. vblade's start-up advertisement says 0 all the same.
pub const VERSION: u8 = 1;
/// Commands from this one on belong to vendors.
pub const VENDOR_COMMAND_MIN: u8 = 0xf0;

const FLAG_RESPONSE: u8 = 0x08;
const FLAG_ERROR: u8 = 0x04;

const COMMAND_ATA: u8 = 0;
const COMMAND_CONFIG: u8 = 1;
const COMMAND_MASK: u8 = 2;
const COMMAND_RESERVE: u8 = 3;

/// The AoE header alone: enough to know whom a frame is for, and to answer one whose arguments make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version, 4 bits.
    pub version: u8,
    /// From a target (R flag) rather than to one.
    pub response: bool,
    /// The error byte, if the E flag is set.
    pub error: Option<ErrorCode>,
    /// The target, possibly a wildcard.
    pub addr: TargetAddr,
    /// The command byte, known or not.
    pub command: u8,
    /// The initiator's tag.
    pub tag: Tag,
}

impl Header {
    /// Reads the header at the start of `bytes`, which begin behind the Ethernet header; whatever follows is not looked at.
    ///
    /// # Errors
    /// [`AoeError::Truncated`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, AoeError> {
        let header = bytes
            .first_chunk::<AOE_HEADER_BYTES>()
            .ok_or(AoeError::Truncated {
                what: "AoE header",
                need_bytes: AOE_HEADER_BYTES,
                have_bytes: bytes.len(),
            })?;
        let [flags, code, shelf0, shelf1, slot, command, t0, t1, t2, t3] = *header;
        Ok(Self {
            version: flags >> 4,
            response: flags & FLAG_RESPONSE != 0,
            error: (flags & FLAG_ERROR != 0).then(|| ErrorCode::from(code)),
            addr: TargetAddr {
                shelf: u16::from_be_bytes([shelf0, shelf1]),
                slot,
            },
            command,
            tag: Tag(u32::from_be_bytes([t0, t1, t2, t3])),
        })
    }

    /// Writes the header, with no arguments behind it.
    pub fn emit(&self, out: &mut [u8; AOE_HEADER_BYTES]) {
        out[0] = self.version << 4
            | if self.response { FLAG_RESPONSE } else { 0 }
            | if self.error.is_some() { FLAG_ERROR } else { 0 };
        out[1] = self.error.map_or(0, u8::from);
        out[2..4].copy_from_slice(&self.addr.shelf.to_be_bytes());
        out[4] = self.addr.slot;
        out[5] = self.command;
        out[6..10].copy_from_slice(&self.tag.0.to_be_bytes());
    }
}

/// Meaning of an AoE frame behind its Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr<'a> {
    /// Version, 4 bits; [`VERSION`], and in vblade's advertisements 0.
    pub version: u8,
    /// From a target (R flag) rather than to one.
    pub response: bool,
    /// Why the target refused (E flag and error byte). Without the flag the byte means nothing and is not looked at.
    pub error: Option<ErrorCode>,
    /// The target: in a request possibly a wildcard, in a response its own address.
    pub addr: TargetAddr,
    /// Chosen by the initiator, echoed by the target.
    pub tag: Tag,
    /// The command and its arguments.
    pub body: Body<'a>,
}

/// A command and its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// An ATA command (0). Its sectors are not part of the body, but lie behind [`ATA_HEADER_BYTES`].
    Ata(AtaRepr),
    /// Query config information (1).
    Config(ConfigRepr<'a>),
    /// MAC mask list (2).
    MacMask(MaskRepr<'a>),
    /// Reserve and release (3).
    Reserve(ReserveRepr<'a>),
    /// A vendor's command.
    Vendor {
        /// The command, [`VENDOR_COMMAND_MIN`] or above.
        command: u8,
        /// All bytes behind the header: the vendor's arguments and, on a short frame, Ethernet's padding.
        data: &'a [u8],
    },
}

impl Body<'_> {
    /// The command byte.
    #[must_use]
    pub const fn command(&self) -> u8 {
        match self {
            Self::Ata(_) => COMMAND_ATA,
            Self::Config(_) => COMMAND_CONFIG,
            Self::MacMask(_) => COMMAND_MASK,
            Self::Reserve(_) => COMMAND_RESERVE,
            Self::Vendor { command, .. } => *command,
        }
    }

    /// Bytes of the arguments; `usize::MAX` when a field of them exceeds what the format can say.
    fn args_len(&self) -> usize {
        match self {
            Self::Ata(_) => ata_args::ATA_ARGS_BYTES,
            Self::Config(config) => config.len_bytes(),
            Self::MacMask(mask) => mask.len_bytes(),
            Self::Reserve(reserve) => reserve.len_bytes(),
            Self::Vendor { data, .. } => data.len(),
        }
    }
}

impl<'a> Repr<'a> {
    /// Reads the AoE header and the arguments at the start of `bytes`, which begin behind the Ethernet header.
    ///
    /// Bytes behind the arguments (sectors, padding) are not looked at, except with a vendor's command. Fixed
    /// arguments that an E response lacks read as zeros, which they would be if the wire had padded that frame.
    ///
    /// # Errors
    /// [`AoeError`]: a field is cut off, the command is unknown, or a length is not allowed.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, AoeError> {
        let header = Header::parse(bytes)?;
        let args = Args {
            bytes: &bytes[AOE_HEADER_BYTES..],
            may_lack: header.error.is_some() && header.response,
        };
        let body = match header.command {
            COMMAND_ATA => Body::Ata(AtaRepr::parse(args)?),
            COMMAND_CONFIG => Body::Config(ConfigRepr::parse(args)?),
            COMMAND_MASK => Body::MacMask(MaskRepr::parse(args)?),
            COMMAND_RESERVE => Body::Reserve(ReserveRepr::parse(args)?),
            command @ VENDOR_COMMAND_MIN.. => Body::Vendor {
                command,
                data: args.bytes,
            },
            unknown => return Err(AoeError::UnknownCommand(unknown)),
        };
        Ok(Self {
            version: header.version,
            response: header.response,
            error: header.error,
            addr: header.addr,
            tag: header.tag,
            body,
        })
    }

    /// Bytes that [`emit`](Self::emit) writes: header and arguments, without sectors and padding.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        AOE_HEADER_BYTES.saturating_add(self.body.args_len())
    }

    /// Writes header and arguments to the start of `out` and returns their length; for ATA, the sectors belong right
    /// behind. Padding to Ethernet's minimum is left to the link.
    ///
    /// # Errors
    /// [`BufferTooSmall`], with nothing written; also when a config string is longer than
    /// [`CONFIG_STRING_BYTES_MAX`].
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let len_bytes = self.len_bytes();
        let out = claim(out, len_bytes)?;
        let (header, args) = out
            .split_first_chunk_mut::<AOE_HEADER_BYTES>()
            .expect("a message is never shorter than its header");
        Header {
            version: self.version,
            response: self.response,
            error: self.error,
            addr: self.addr,
            command: self.body.command(),
            tag: self.tag,
        }
        .emit(header);
        match &self.body {
            Body::Ata(ata) => ata.emit(args),
            Body::Config(config) => config.emit(args),
            Body::MacMask(mask) => mask.emit(args),
            Body::Reserve(reserve) => reserve.emit(args),
            Body::Vendor { data, .. } => args.copy_from_slice(data),
        }
        Ok(len_bytes)
    }
}

/// Sectors that fit one frame at an MTU of `mtu_bytes` (what the Ethernet header carries): `(mtu - 22) / 512`.
///
/// Linux's driver, vblade and ggaoed compute `(mtu - 36) / 512`: they take the 14 bytes of the Ethernet header off as
/// well, which the MTU never counted. It costs a sector only where an MTU lies within those 14 bytes of the next one
/// (4118 holds 8 sectors, they say 7); at 1500 and 9000 both agree. A target built on the wrong formula announces its
/// result in [`ConfigRepr::sectors_max`], so that an initiator takes the lesser of the two.
#[must_use]
pub const fn sectors_by_mtu(mtu_bytes: usize) -> usize {
    mtu_bytes.saturating_sub(ATA_HEADER_BYTES) / SECTOR_BYTES
}

/// The sectors of one command as Linux's driver, vblade and ggaoed compute them: `(mtu - 36) / 512`. A target announces these, so
/// that an initiator that reckons like them and one that reckons as [`sectors_by_mtu`] agree with it.
#[must_use]
pub const fn sectors_by_mtu_customary(mtu_bytes: usize) -> usize {
    mtu_bytes.saturating_sub(crate::ethernet::HEADER_BYTES + ATA_HEADER_BYTES) / SECTOR_BYTES
}

/// A command's arguments, to be read field by field.
#[derive(Clone, Copy)]
struct Args<'a> {
    bytes: &'a [u8],
    /// Fixed fields that are cut off read as zeros.
    may_lack: bool,
}

impl<'a> Args<'a> {
    /// The first `N` bytes and what follows them.
    fn fixed<const N: usize>(self, what: &'static str) -> Result<([u8; N], &'a [u8]), AoeError> {
        if let Some((head, rest)) = self.bytes.split_first_chunk::<N>() {
            return Ok((*head, rest));
        }
        if !self.may_lack {
            return Err(truncated(what, N, self.bytes));
        }
        let mut head = [0; N];
        head[..self.bytes.len()].copy_from_slice(self.bytes);
        Ok((head, &[]))
    }
}

/// The first `need_bytes` of `bytes`.
fn variable<'a>(
    bytes: &'a [u8],
    need_bytes: usize,
    what: &'static str,
) -> Result<&'a [u8], AoeError> {
    bytes
        .get(..need_bytes)
        .ok_or_else(|| truncated(what, need_bytes, bytes))
}

fn truncated(what: &'static str, need_bytes: usize, have: &[u8]) -> AoeError {
    AoeError::Truncated {
        what,
        need_bytes,
        have_bytes: have.len(),
    }
}
