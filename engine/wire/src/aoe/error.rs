//! What a target says when it refuses, and why bytes are no AoE frame.

use core::fmt;

/// Why a target refused a command, from the header's error byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// 1: unrecognised command.
    BadCommand,
    /// 2: an argument is not valid, such as more sectors than the target takes.
    BadArgument,
    /// 3: the device does not answer.
    DeviceUnavailable,
    /// 4: a config string is set already.
    ConfigStringPresent,
    /// 5: the target does not speak this version.
    UnsupportedVersion,
    /// 6: the target is reserved for others.
    TargetReserved,
    /// 0x80, Sandrail's own target only: the command carries a session that is void, or not its sender's (S5).
    SessionVoid,
    /// A number that the protocol does not define.
    Other(u8),
}

impl From<u8> for ErrorCode {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::BadCommand,
            2 => Self::BadArgument,
            3 => Self::DeviceUnavailable,
            4 => Self::ConfigStringPresent,
            5 => Self::UnsupportedVersion,
            6 => Self::TargetReserved,
            0x80 => Self::SessionVoid,
            other => Self::Other(other),
        }
    }
}

impl From<ErrorCode> for u8 {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadCommand => 1,
            ErrorCode::BadArgument => 2,
            ErrorCode::DeviceUnavailable => 3,
            ErrorCode::ConfigStringPresent => 4,
            ErrorCode::UnsupportedVersion => 5,
            ErrorCode::TargetReserved => 6,
            ErrorCode::SessionVoid => 0x80,
            ErrorCode::Other(other) => other,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadCommand => "bad command",
            Self::BadArgument => "bad argument",
            Self::DeviceUnavailable => "device unavailable",
            Self::ConfigStringPresent => "config string present",
            Self::UnsupportedVersion => "unsupported version",
            Self::TargetReserved => "target reserved",
            Self::SessionVoid => "session void",
            Self::Other(code) => return write!(f, "unknown error {code}"),
        })
    }
}

impl core::error::Error for ErrorCode {}

/// Why bytes are not an AoE header with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AoeError {
    /// The frame ends inside a field.
    Truncated {
        /// The field or group of fields.
        what: &'static str,
        /// Bytes that it takes.
        need_bytes: usize,
        /// Bytes that are left for it.
        have_bytes: usize,
    },
    /// Neither one of the protocol's four commands nor a vendor's.
    UnknownCommand(u8),
    /// A config string is longer than [`CONFIG_STRING_BYTES_MAX`](super::CONFIG_STRING_BYTES_MAX).
    ConfigStringTooLong(u16),
}

impl fmt::Display for AoeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated {
                what,
                need_bytes,
                have_bytes,
            } => write!(f, "{what} cut off: {have_bytes} of {need_bytes} bytes"),
            Self::UnknownCommand(command) => write!(f, "unknown AoE command 0x{command:02x}"),
            Self::ConfigStringTooLong(bytes) => {
                write!(f, "config string of {bytes} bytes, 1024 are allowed")
            }
        }
    }
}

impl core::error::Error for AoeError {}
