//! Lengths in bytes, as people write and read them.

/// Suffixes and their powers of two.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];
/// What may be written, for messages.
pub(crate) const ALLOWED: &str =
    "bytes, or a number with K, M, G or T (multiples of 1024), such as 64M";

/// Reads `4096`, `64M` or `1GiB`; `None` if it is none of these or more than 64 bits hold.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit = text[digits.len()..].to_ascii_uppercase();
    let mut letters = unit.chars();
    let shift = match letters.next() {
        None => 0,
        Some('B') => return letters.next().is_none().then_some(number),
        Some(letter) => UNITS.iter().find(|(name, _)| *name == letter)?.1,
    };
    if !matches!(letters.as_str(), "" | "B" | "IB") {
        return None;
    }
    number.checked_mul(1 << shift)
}

/// `64 MiB`, or the bytes where that is not exact.
pub(crate) fn show(bytes: u64) -> String {
    UNITS
        .iter()
        .map(|(name, shift)| (name, 1_u64 << shift))
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes} bytes"),
            |(name, unit)| format!("{} {name}iB", bytes / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("7B", 7),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("1GiB", 1 << 30),
            ("2KB", 2048),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "1X",
            "-1",
            "1.5M",
            "99999999T",
            "1MM",
            "1BB",
            "iB",
            "1 M",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn lengths_are_shown_exactly() {
        assert_eq!(show(0), "0 bytes");
        assert_eq!(show(4 << 30), "4 GiB");
        assert_eq!(show((1 << 20) + 512), "1049088 bytes");
        assert_eq!(show(1536 << 10), "1536 KiB");
    }
}
