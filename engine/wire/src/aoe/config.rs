//! Arguments of command 1: what a target can take, and its config string.

use super::{AoeError, Args, variable};

/// The longest config string.
pub const CONFIG_STRING_BYTES_MAX: usize = 1024;

const FIXED_BYTES: usize = 8;

/// What is to be done with the config string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigCommand {
    /// 0: read it.
    Read,
    /// 1: answer only if it is exactly this.
    TestExact,
    /// 2: answer only if it begins with this. A target that it does not fit stays silent.
    TestPrefix,
    /// 3: set it if it is empty, or this already.
    SetIfEmpty,
    /// 4: set it.
    ForceSet,
    /// A number that the protocol does not define, 5 to 15.
    Other(u8),
}

impl From<u8> for ConfigCommand {
    /// From the low four bits.
    fn from(command: u8) -> Self {
        match command & 0x0f {
            0 => Self::Read,
            1 => Self::TestExact,
            2 => Self::TestPrefix,
            3 => Self::SetIfEmpty,
            4 => Self::ForceSet,
            other => Self::Other(other),
        }
    }
}

impl From<ConfigCommand> for u8 {
    fn from(command: ConfigCommand) -> Self {
        match command {
            ConfigCommand::Read => 0,
            ConfigCommand::TestExact => 1,
            ConfigCommand::TestPrefix => 2,
            ConfigCommand::SetIfEmpty => 3,
            ConfigCommand::ForceSet => 4,
            ConfigCommand::Other(other) => other & 0x0f,
        }
    }
}

/// Meaning of a config query or of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigRepr<'a> {
    /// Messages that the target queues; what exceeds them is dropped. 0 in requests.
    pub buffer_count: u16,
    /// Version of the target's firmware. 0 in requests.
    pub firmware: u16,
    /// The most sectors of one ATA command, as told; see [`sectors_per_command`](Self::sectors_per_command).
    pub sectors_max: u8,
    /// Version of AoE that the target supports, 4 bits.
    pub aoe_version: u8,
    /// What is to be done with the string.
    pub command: ConfigCommand,
    /// The config string, at most [`CONFIG_STRING_BYTES_MAX`].
    pub string: &'a [u8],
}

impl<'a> ConfigRepr<'a> {
    /// A request that does `command` with `string`. All fields that are the target's are 0.
    #[must_use]
    pub const fn request(command: ConfigCommand, string: &'a [u8]) -> Self {
        Self {
            buffer_count: 0,
            firmware: 0,
            sectors_max: 0,
            aoe_version: 0,
            command,
            string,
        }
    }

    /// The most sectors of one ATA command. A field of 0 means 2, from times when it did not exist.
    #[must_use]
    pub const fn sectors_per_command(&self) -> u8 {
        if self.sectors_max == 0 {
            2
        } else {
            self.sectors_max
        }
    }

    pub(super) fn parse(args: Args<'a>) -> Result<Self, AoeError> {
        let (fields, rest) = args.fixed::<FIXED_BYTES>("config arguments")?;
        let [b0, b1, f0, f1, sectors_max, version_command, s0, s1] = fields;
        let string_bytes = u16::from_be_bytes([s0, s1]);
        if usize::from(string_bytes) > CONFIG_STRING_BYTES_MAX {
            return Err(AoeError::ConfigStringTooLong(string_bytes));
        }
        Ok(Self {
            buffer_count: u16::from_be_bytes([b0, b1]),
            firmware: u16::from_be_bytes([f0, f1]),
            sectors_max,
            aoe_version: version_command >> 4,
            command: ConfigCommand::from(version_command),
            string: variable(rest, usize::from(string_bytes), "config string")?,
        })
    }

    /// The length of the string as the format says it, if it can.
    fn string_len(&self) -> Option<u16> {
        u16::try_from(self.string.len())
            .ok()
            .filter(|_| self.string.len() <= CONFIG_STRING_BYTES_MAX)
    }

    pub(super) fn len_bytes(&self) -> usize {
        match self.string_len() {
            Some(_) => FIXED_BYTES + self.string.len(),
            None => usize::MAX,
        }
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        out[0..2].copy_from_slice(&self.buffer_count.to_be_bytes());
        out[2..4].copy_from_slice(&self.firmware.to_be_bytes());
        out[4] = self.sectors_max;
        out[5] = self.aoe_version << 4 | u8::from(self.command);
        out[6..8].copy_from_slice(&self.string_len().unwrap_or(0).to_be_bytes());
        out[FIXED_BYTES..].copy_from_slice(self.string);
    }
}
