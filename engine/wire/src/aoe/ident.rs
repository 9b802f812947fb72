//! Who is meant, and which request: shelf.slot and tag.

use core::fmt;
use core::str::FromStr;

/// Shards that a tag can tell apart.
pub const SHARDS_MAX: u8 = 16;
/// Requests of a shard that a tag can tell apart; then the numbers begin again.
pub const REQUESTS: u32 = 1 << 24;
/// Copies of a request that a tag can tell apart.
pub const COPIES_MAX: u8 = 16;

/// The header's tag, laid out as safety rule S1 asks: shard (4 bits), request (24 bits), copy (4 bits).
///
/// A target echoes all 32 bits. The steering program reads the shard from them, the initiator which transmission of
/// which request was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

impl Tag {
    /// The tag of a transmission. Each number is cut to its field ([`SHARDS_MAX`], [`REQUESTS`], [`COPIES_MAX`]).
    #[must_use]
    pub const fn new(shard: u8, request: u32, copy: u8) -> Self {
        Self(
            (shard as u32) << 28
                | (request & (REQUESTS - 1)) << 4
                | (copy & (COPIES_MAX - 1)) as u32,
        )
    }

    /// The shard that sent the request, 0 to 15.
    #[must_use]
    pub const fn shard(self) -> u8 {
        self.0.to_be_bytes()[0] >> 4
    }

    /// Number of the request within its shard, under [`REQUESTS`].
    #[must_use]
    pub const fn request(self) -> u32 {
        self.0 >> 4 & (REQUESTS - 1)
    }

    /// Which transmission of the request, 0 to 15.
    #[must_use]
    pub const fn copy(self) -> u8 {
        self.0.to_be_bytes()[3] & (COPIES_MAX - 1)
    }

    /// The tag with its copy bits cleared, the same for all transmissions of a request.
    #[must_use]
    pub const fn without_copy(self) -> Self {
        Self(self.0 & !(COPIES_MAX as u32 - 1))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.0)
    }
}

/// Address of a target: shelf (major) and slot (minor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetAddr {
    /// Shelf; 0xFFFF means all of them.
    pub shelf: u16,
    /// Slot; 0xFF means all of them.
    pub slot: u8,
}

impl TargetAddr {
    /// All slots of all shelves.
    pub const BROADCAST: Self = Self {
        shelf: u16::MAX,
        slot: u8::MAX,
    };

    /// Whether it may mean more than one target.
    #[must_use]
    pub const fn is_wildcard(self) -> bool {
        self.shelf == u16::MAX || self.slot == u8::MAX
    }

    /// Whether `self` and `other` can mean the same target. Shelf and slot are wildcards each on its own, on either
    /// side.
    #[must_use]
    pub const fn matches(self, other: Self) -> bool {
        let shelf = self.shelf == other.shelf || self.shelf == u16::MAX || other.shelf == u16::MAX;
        let slot = self.slot == other.slot || self.slot == u8::MAX || other.slot == u8::MAX;
        shelf && slot
    }
}

impl fmt::Display for TargetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}

/// The text is not a target's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTargetError;

impl fmt::Display for ParseTargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a target: expected shelf.slot such as e7.3, shelf up to 65535, slot up to 255",
        )
    }
}

impl core::error::Error for ParseTargetError {}

impl FromStr for TargetAddr {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (shelf, slot) = text
            .strip_prefix('e')
            .unwrap_or(text)
            .split_once('.')
            .ok_or(ParseTargetError)?;
        // The standard parsers take a plus sign, which no address has.
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(shelf) || !digits(slot) {
            return Err(ParseTargetError);
        }
        Ok(Self {
            shelf: shelf.parse().map_err(|_| ParseTargetError)?,
            slot: slot.parse().map_err(|_| ParseTargetError)?,
        })
    }
}
