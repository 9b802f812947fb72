//! Lengths in bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

/// Bytes; `64M` and `1GiB` are read as multiples of 1024, and shown with the exact number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// The text is no length.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a length: write bytes, or a number with K, M, G or T (multiples of 1024), such as 64M"
)]
pub(crate) struct ParseSizeError(String);

/// Suffixes and their powers of two.
const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSizeError(text.to_owned());
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = text[digits.len()..].to_ascii_uppercase();
        let shift = match unit.trim_end_matches('B').trim_end_matches('I') {
            "" if unit.is_empty() || unit == "B" => 0,
            letter => {
                UNITS
                    .iter()
                    .find(|(name, _)| *name == letter)
                    .ok_or_else(wrong)?
                    .1
            }
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, shift) in UNITS {
            let unit = 1_u64 << shift;
            if self.0 >= unit {
                let whole = self.0 / unit;
                if self.0.is_multiple_of(unit) {
                    return write!(f, "{whole} {name}iB ({} bytes)", self.0);
                }
                let hundredths = u128::from(self.0 % unit) * 100 / u128::from(unit);
                return write!(f, "{whole}.{hundredths:02} {name}iB ({} bytes)", self.0);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("1GiB", 1 << 30),
            ("2KB", 2048),
            ("7B", 7),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        for text in ["", "M", "1X", "-1", "1.5M", "99999999T", "1MM", "iB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_exact_number_is_never_lost() {
        assert_eq!(Size(511).to_string(), "511 bytes");
        assert_eq!(Size(64 << 20).to_string(), "64 MiB (67108864 bytes)");
        assert_eq!(
            Size((1 << 20) + 512).to_string(),
            "1.00 MiB (1049088 bytes)"
        );
        assert_eq!(Size(1536).to_string(), "1.50 KiB (1536 bytes)");
        assert!(Size(u64::MAX).to_string().starts_with("16777215.99 TiB"));
    }
}
