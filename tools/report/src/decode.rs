//! Histograms as interval logs hold them: base64 of zlib of zig-zag LEB128, the "V2" encoding of HdrHistogram.
//!
//! Files may come from anywhere. The decoder of the `hdrhistogram` crate allocates what the header promises, and a
//! hostile run of zeros overflows in it; this one takes memory for what is there, up to a stated bound. The tests hold it
//! against the crate's encoder.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;

use crate::latency::{COUNT_MAX, Counts};

/// First word of an encoded histogram: `V2EncodingCookieBase | 0x10`, for counts in 1 to 9 bytes. The source of this and
/// of the layout below is `AbstractHistogram.java` of HdrHistogram 2.
const COOKIE: u32 = 0x1c84_9303 | 0x10;
/// First word of a compressed one.
const COMPRESSED_COOKIE: u32 = 0x1c84_9304 | 0x10;
/// Five digits and 63 binary magnitudes make six million counts; no histogram has more bytes than that when encoded well.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// Decodes a histogram.
pub(crate) fn histogram(base64: &str) -> Result<Counts, String> {
    let bytes = STANDARD
        .decode(base64.trim_end())
        .map_err(|error| format!("its histogram is no base64: {error}"))?;
    let mut rest = bytes.as_slice();
    match word(&mut rest)? {
        COOKIE => uncompressed(&mut rest, usize::MAX),
        COMPRESSED_COOKIE => {
            let promised = word(&mut rest)?;
            if usize::try_from(promised).ok() != Some(rest.len()) {
                return Err(format!(
                    "its histogram has {} bytes of {promised}",
                    rest.len()
                ));
            }
            let mut inflated = Vec::new();
            ZlibDecoder::new(rest)
                .take(PAYLOAD_BYTES_MAX + 1)
                .read_to_end(&mut inflated)
                .map_err(|error| format!("its histogram can't be decompressed: {error}"))?;
            if inflated.len() > usize::try_from(PAYLOAD_BYTES_MAX).unwrap_or(usize::MAX) {
                return Err("its histogram is longer than any can be".to_owned());
            }
            let mut rest = inflated.as_slice();
            match word(&mut rest)? {
                COOKIE => uncompressed(&mut rest, inflated.len()),
                other => Err(unknown(other)),
            }
        }
        other => Err(unknown(other)),
    }
}

fn unknown(cookie: u32) -> String {
    format!("its histogram begins with {cookie:#010x}, which is no version that is known")
}

/// Where a bucket lies in the range of values.
struct Layout {
    /// Binary logarithm of the width of the least bucket.
    unit: u32,
    /// Binary logarithm of half of the buckets in a magnitude.
    half: u32,
    /// Number of all buckets.
    len: u64,
}

impl Layout {
    fn new(lowest: u64, highest: u64, digits: u32) -> Option<Self> {
        if !(1..=5).contains(&digits) || lowest == 0 || highest / 2 < lowest {
            return None;
        }
        let unit = lowest.ilog2();
        // So many that two neighbours differ by less than the digits tell.
        let sub_buckets = (2 * 10_u64.pow(digits)).next_power_of_two();
        let half = sub_buckets.ilog2() - 1;
        if unit + half + 1 > 62 {
            return None;
        }
        let magnitudes = u64::from(u64::BITS - half - unit);
        Some(Self {
            unit,
            half,
            len: (magnitudes + 1) << half,
        })
    }

    /// The least value of a bucket; none for one past the last.
    fn value(&self, index: u64) -> Option<u64> {
        if index >= self.len {
            return None;
        }
        let magnitude = u32::try_from(index >> self.half).ok()?;
        let within = index & ((1 << self.half) - 1);
        let (sub, shift) = match magnitude {
            0 => (within, 0),
            above => (within + (1 << self.half), above - 1),
        };
        let value = u128::from(sub) << (shift + self.unit);
        u64::try_from(value).ok()
    }
}

fn uncompressed(rest: &mut &[u8], whole: usize) -> Result<Counts, String> {
    let promised = word(rest)?;
    let offset = word(rest)?;
    let digits = word(rest)?;
    let (lowest, highest) = (long(rest)?, long(rest)?);
    let ratio = f64::from_bits(long(rest)?);
    if offset != 0 || (ratio - 1.0).abs() > 0.0 {
        return Err("its histogram is shifted or scaled, which is not supported".to_owned());
    }
    let layout = Layout::new(lowest, highest, digits).ok_or_else(|| {
        format!("a histogram of {lowest} to {highest} with {digits} digits can't be")
    })?;
    if usize::try_from(promised).ok() != Some(rest.len()) {
        return Err(format!(
            "its histogram has {} bytes of {promised}",
            rest.len().min(whole)
        ));
    }
    let mut buckets = Vec::new();
    let (mut index, mut sum) = (0_u64, 0_u64);
    while !rest.is_empty() {
        let number = zigzag(rest)?;
        let beyond = || "its histogram goes on past its last bucket".to_owned();
        if let Ok(count) = u64::try_from(number) {
            if count > 0 {
                buckets.push((layout.value(index).ok_or_else(beyond)?, count));
                sum = sum.saturating_add(count);
                if sum > COUNT_MAX {
                    return Err("its histogram counts more than there can be".to_owned());
                }
            }
            index += 1;
        } else {
            // A run of so many zeros.
            index = index
                .checked_add(number.unsigned_abs())
                .filter(|index| *index <= layout.len)
                .ok_or_else(beyond)?;
        }
    }
    Ok(Counts {
        buckets,
        digits: u8::try_from(digits).map_err(|_| "digits".to_owned())?,
    })
}

fn word(rest: &mut &[u8]) -> Result<u32, String> {
    let (first, after) = rest.split_first_chunk().ok_or_else(cut)?;
    *rest = after;
    Ok(u32::from_be_bytes(*first))
}

fn long(rest: &mut &[u8]) -> Result<u64, String> {
    let (first, after) = rest.split_first_chunk().ok_or_else(cut)?;
    *rest = after;
    Ok(u64::from_be_bytes(*first))
}

fn cut() -> String {
    "its histogram is cut off".to_owned()
}

/// Seven bits a byte, least first, the eighth bit saying that more follow; the ninth byte counts whole. Odd numbers are
/// negative.
fn zigzag(rest: &mut &[u8]) -> Result<i64, String> {
    let mut number = 0_u64;
    for place in 0..9 {
        let (byte, after) = rest.split_first().ok_or_else(cut)?;
        *rest = after;
        if place == 8 {
            number |= u64::from(*byte) << 56;
            break;
        }
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let half = i64::try_from(number >> 1).map_err(|_| cut())?;
    Ok(if number & 1 == 0 { half } else { -half - 1 })
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};
    use proptest::prelude::*;

    use super::*;

    fn encoded(histogram: &Histogram<u64>, compressed: bool) -> String {
        let mut bytes = Vec::new();
        if compressed {
            V2DeflateSerializer::new()
                .serialize(histogram, &mut bytes)
                .unwrap();
        } else {
            V2Serializer::new()
                .serialize(histogram, &mut bytes)
                .unwrap();
        }
        STANDARD.encode(bytes)
    }

    proptest! {
        #[test]
        fn what_the_crate_encodes_is_decoded(
            values in prop::collection::vec((0_u64..u64::MAX >> 2, 0_u32..40, 1_u64..1 << 40), 0..50),
            digits in 1_u8..=5,
            lowest in 1_u64..5000,
            compressed: bool,
        ) {
            let mut histogram = Histogram::new_with_bounds(lowest, u64::MAX >> 1, digits).unwrap();
            for (value, shift, count) in values {
                histogram.record_n(value >> shift, count).unwrap();
            }
            prop_assert_eq!(
                super::histogram(&encoded(&histogram, compressed)).unwrap(),
                Counts::of(&histogram)
            );
        }

        #[test]
        fn noise_is_refused_and_nothing_more(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = super::histogram(&STANDARD.encode(&bytes));
            let mut with_header = COOKIE.to_be_bytes().to_vec();
            with_header.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            with_header.extend([0, 0, 0, 0, 0, 0, 0, 3]);
            with_header.extend(1_u64.to_be_bytes());
            with_header.extend((u64::MAX >> 1).to_be_bytes());
            with_header.extend(1_f64.to_be_bytes());
            with_header.extend(&bytes);
            if let Ok(counts) = super::histogram(&STANDARD.encode(&with_header)) {
                prop_assert!(counts.buckets.is_sorted_by(|one, other| one.0 < other.0));
            }
        }

        #[test]
        fn a_damaged_histogram_is_refused(cut in 1_usize..60, compressed: bool) {
            let mut histogram = crate::latency_histogram();
            (0..100).for_each(|step| histogram.record(step * 977).unwrap());
            let mut bytes = STANDARD.decode(encoded(&histogram, compressed)).unwrap();
            bytes.truncate(bytes.len().saturating_sub(cut));
            prop_assert!(super::histogram(&STANDARD.encode(&bytes)).is_err());
        }
    }

    #[test]
    fn hostile_numbers_are_refused() {
        // A run of zeros of the least number there is, counts past the last bucket, and digits that would need gigabytes.
        let many = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for (digits, payload) in [
            (3, &many[..]),
            (3, &[0xff; 9][..]),
            (3, &[0xfd, 0xff, 0xff, 0x7f, 2]),
            (9, &[]),
        ] {
            let mut bytes = COOKIE.to_be_bytes().to_vec();
            bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0, 0, 0, 0, 0, 0, digits]);
            bytes.extend(1_u64.to_be_bytes());
            bytes.extend((u64::MAX >> 1).to_be_bytes());
            bytes.extend(1_f64.to_be_bytes());
            bytes.extend(payload);
            let error = super::histogram(&STANDARD.encode(&bytes)).unwrap_err();
            assert!(
                ["past its last", "digits", "more than there can be"]
                    .iter()
                    .any(|words| error.contains(words)),
                "{error}"
            );
        }
    }
}
