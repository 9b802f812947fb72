//! Arguments of command 3: the MAC addresses that a target is reserved for.

use super::{AoeError, Args, variable};
use crate::{BufferTooSmall, MacAddr, claim};

/// The most addresses of a list.
pub const MACS_MAX: usize = 255;

const FIXED_BYTES: usize = 2;
const MAC_BYTES: usize = 6;

/// What is to be done with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveCommand {
    /// 0: read it.
    Read,
    /// 1: replace it, if it is empty or the sender is on it. An empty list releases the target.
    Set,
    /// 2: replace it.
    ForceSet,
    /// A number that the protocol does not define.
    Other(u8),
}

impl From<u8> for ReserveCommand {
    fn from(command: u8) -> Self {
        match command {
            0 => Self::Read,
            1 => Self::Set,
            2 => Self::ForceSet,
            other => Self::Other(other),
        }
    }
}

impl From<ReserveCommand> for u8 {
    fn from(command: ReserveCommand) -> Self {
        match command {
            ReserveCommand::Read => 0,
            ReserveCommand::Set => 1,
            ReserveCommand::ForceSet => 2,
            ReserveCommand::Other(other) => other,
        }
    }
}

/// MAC addresses as they lie in a frame, at most [`MACS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacList<'a> {
    bytes: &'a [u8],
}

impl<'a> MacList<'a> {
    /// No addresses.
    pub const EMPTY: Self = Self { bytes: &[] };

    /// Takes bytes that hold addresses; `None` when they end inside one, or hold more than [`MACS_MAX`].
    #[must_use]
    pub const fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(MAC_BYTES) || bytes.len() / MAC_BYTES > MACS_MAX {
            return None;
        }
        Some(Self { bytes })
    }

    /// Writes `macs` into the caller's `scratch`, to be borrowed from there.
    ///
    /// # Errors
    /// [`BufferTooSmall`] when they take more than `scratch` or are more than [`MACS_MAX`].
    pub fn encode(macs: &[MacAddr], scratch: &'a mut [u8]) -> Result<Self, BufferTooSmall> {
        let need_bytes = if macs.len() > MACS_MAX {
            usize::MAX
        } else {
            macs.len() * MAC_BYTES
        };
        let bytes = claim(scratch, need_bytes)?;
        for (out, mac) in bytes.chunks_exact_mut(MAC_BYTES).zip(macs) {
            out.copy_from_slice(&mac.0);
        }
        Ok(Self { bytes })
    }

    /// The addresses' bytes, 6 each.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() / MAC_BYTES
    }

    /// Whether there are none: the target is not reserved.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The addresses in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MacAddr> + use<'a> {
        let (macs, _) = self.bytes.as_chunks::<MAC_BYTES>();
        macs.iter().map(|&mac| MacAddr(mac))
    }

    /// Whether `mac` is one of them.
    #[must_use]
    pub fn contains(&self, mac: MacAddr) -> bool {
        self.iter().any(|member| member == mac)
    }
}

/// Meaning of a reserve command or of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveRepr<'a> {
    /// What is to be done with the list.
    pub command: ReserveCommand,
    /// The list.
    pub macs: MacList<'a>,
}

impl<'a> ReserveRepr<'a> {
    pub(super) fn parse(args: Args<'a>) -> Result<Self, AoeError> {
        let (fields, rest) = args.fixed::<FIXED_BYTES>("reserve arguments")?;
        let [command, mac_count] = fields;
        let bytes = variable(rest, usize::from(mac_count) * MAC_BYTES, "reserve list")?;
        Ok(Self {
            command: ReserveCommand::from(command),
            macs: MacList { bytes },
        })
    }

    pub(super) fn len_bytes(&self) -> usize {
        FIXED_BYTES + self.macs.bytes.len()
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        out[0] = u8::from(self.command);
        // The list's constructors hold it to `MACS_MAX`.
        out[1] = u8::try_from(self.macs.len()).unwrap_or(u8::MAX);
        out[FIXED_BYTES..].copy_from_slice(self.macs.bytes);
    }
}
