//! Lengths and addresses as people write them on the command line.

use std::fmt;
use std::str::FromStr;

use sandrail_wire::TargetAddr;

/// Bytes: `4096`, `4K`, `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no length: bytes, or a number with K, M, G or T");
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

/// A target: `7.3` or `e7.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr(pub TargetAddr);

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (shelf, slot) = text.strip_prefix('e').unwrap_or(text).split_once('.')?;
            Some(TargetAddr {
                shelf: shelf.parse().ok()?,
                slot: slot.parse().ok()?,
            })
        };
        let wrong = || format!("`{text}` is no target: shelf.slot, such as e7.3");
        parsed()
            .filter(|addr| addr.shelf < u16::MAX && addr.slot < u8::MAX)
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.0.shelf, self.0.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read() {
        for (text, bytes) in [
            ("512", 512),
            ("4k", 4096),
            ("1MiB", 1 << 20),
            ("2G", 2 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "K", "4X", "-1", "99999999T"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn targets_are_read() {
        let addr = TargetAddr { shelf: 7, slot: 3 };
        assert_eq!("e7.3".parse(), Ok(Addr(addr)));
        assert_eq!("7.3".parse(), Ok(Addr(addr)));
        assert_eq!(Addr(addr).to_string(), "e7.3");
        // The wildcards are nobody's address.
        for text in ["7", "7.256", "65535.3", "7.255", "x.1"] {
            assert!(text.parse::<Addr>().is_err(), "{text}");
        }
    }
}
