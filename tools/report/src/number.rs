//! Numbers as people read them: the terminal and the pages use the same, so that they agree to the digit.

/// The nearest floating-point number.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "rates and plots are shown with few digits"
)]
pub fn approximate(number: u64) -> f64 {
    number as f64
}

/// The nearest whole number that is not negative; what is too large, or no number, is taken as the nearest end.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a number that is too large or too small saturates"
)]
pub fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// As many as there are, as a floating-point number.
#[must_use]
pub fn count_of(number: usize) -> f64 {
    approximate(u64::try_from(number).unwrap_or(u64::MAX))
}

/// Nanoseconds with three digits and a unit that suits: `83.1 us`.
#[must_use]
pub fn duration(ns: u64) -> String {
    let number = approximate(ns);
    // Units change where three digits would round up to the next one.
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (number / 1e3, "us"),
        999_500..999_500_000 => (number / 1e6, "ms"),
        _ => (number / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// Three digits, or all of those before the point: `8.31`, `83.1`, `831`, `8310`.
#[must_use]
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Three digits with a suffix for thousands, millions and so on: `43.5 k`.
#[must_use]
pub fn short(value: f64) -> String {
    for (size, suffix) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        // As above: 999 600 is a million.
        if value.abs() >= size * 0.9995 {
            return format!("{} {suffix}", three_digits(value / size));
        }
    }
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        three_digits(value)
    }
}

/// A whole number with its thousands apart: `1 234 567`, by narrow spaces that no line is broken at.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (83_149, "83.1 us"),
            (831_490, "831 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (8_314_900, "8.31 ms"),
            (9_996_000, "10.0 ms"),
            (999_999_999, "1.00 s"),
            (60_000_000_000, "60.0 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn large_numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.5, "0.50"),
            (999.0, "999"),
            (999.6, "1.00 k"),
            (43_500.0, "43.5 k"),
            (343_000.0, "343 k"),
            (1.5e9, "1.50 G"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped(100), "100");
    }

    #[test]
    fn whole_numbers_saturate() {
        for (number, expected) in [(1.5, 2), (-1.0, 0), (f64::NAN, 0), (1e30, u64::MAX)] {
            assert_eq!(whole(number), expected);
        }
    }
}
