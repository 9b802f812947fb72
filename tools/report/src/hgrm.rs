//! Percentile files, `.hgrm`: what `HistogramLogProcessor` writes and HdrHistogram's plotters read. Values are in
//! milliseconds, with six decimals, so that nanoseconds remain.

use std::fmt::Write;
use std::path::Path;

use hdrhistogram::Histogram;

use crate::error::{FileError, Problem};
use crate::file::{text_of, write_whole};
use crate::latency::{COUNT_MAX, Counts};
use crate::number::{approximate, whole};

/// Lines for each halving of the distance to 100 %, as many as the original writes unless told otherwise.
const TICKS_PER_HALF: u32 = 5;
const NS_PER_MS: f64 = 1e6;

/// Writes a histogram of nanoseconds as a percentile file.
///
/// # Errors
/// It can't be written.
pub fn write_percentiles(path: &Path, histogram: &Histogram<u64>) -> Result<(), FileError> {
    write_whole(path, percentiles(histogram).as_bytes())
}

fn percentiles(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut below = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        below += step.count_since_last_iteration();
        let value_ms = approximate(step.value_iterated_to()) / NS_PER_MS;
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value_ms:>12.6} {quantile:.12} {below:>10}");
        if quantile < 1.0 {
            let _ = write!(text, " {:>14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.6}, StdDeviation   = {:>12.6}]\n#[Max     = {:>12.6}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.mean() / NS_PER_MS,
        histogram.stdev() / NS_PER_MS,
        approximate(histogram.max()) / NS_PER_MS,
        histogram.len(),
        histogram.buckets(),
        (2 * 10_u64.pow(u32::from(histogram.sigfig()))).next_power_of_two()
    );
    text
}

/// Reads a percentile file. What lies between two of its lines is counted at the second, so that percentiles are those
/// of the file, and everything else is approximate.
///
/// # Errors
/// It can't be read, is no such file, or is cut off.
pub fn read_percentiles(path: &Path) -> Result<Counts, FileError> {
    parse_percentiles(path, &text_of(path)?)
}

/// Reads a percentile file from its text; `path` is what errors are told of.
///
/// # Errors
/// It is no such file, or is cut off.
pub fn parse_percentiles(path: &Path, text: &str) -> Result<Counts, FileError> {
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    let mut below = 0;
    let mut complete = None;
    for (number, line) in (1..).zip(text.lines()) {
        let refused = |problem: String| Problem::Line(problem).at(path, number);
        let line = line.trim();
        if line.is_empty() || line.starts_with("Value") {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            complete = total(comment).or(complete);
            continue;
        }
        let (value_ns, count) = step(line).map_err(refused)?;
        let new = u64::checked_sub(count, below)
            .ok_or_else(|| refused(format!("the count falls from {below} to {count}")))?;
        match buckets.last_mut() {
            Some((last, _)) if *last > value_ns => {
                return Err(refused("values fall where they should rise".to_owned()));
            }
            Some((last, counted)) if *last == value_ns => *counted += new,
            _ if new > 0 => buckets.push((value_ns, new)),
            _ => {}
        }
        below = count;
    }
    match complete {
        Some(total) if total == below => Ok(Counts { buckets, digits: 3 }),
        Some(total) => Err(Problem::Line(format!(
            "it counts to {below}, and says that there are {total}"
        ))
        .of(path)),
        None => Err(Problem::Line(
            "no percentile file, or cut off: it does not end with a total count".to_owned(),
        )
        .of(path)),
    }
}

/// A line: a value in milliseconds, its quantile, how many are not above it, and what follows from the second.
fn step(line: &str) -> Result<(u64, u64), String> {
    let mut words = line.split_ascii_whitespace();
    let mut next = || words.next().unwrap_or_default();
    let (value, quantile, count) = (next(), next(), next());
    let value_ms: f64 = value
        .parse()
        .ok()
        .filter(|value: &f64| (0.0..1e12).contains(value))
        .ok_or("no value in milliseconds")?;
    quantile
        .parse()
        .ok()
        .filter(|quantile: &f64| (0.0..=1.0).contains(quantile))
        .ok_or("no quantile from 0 to 1")?;
    let count = count
        .parse()
        .ok()
        .filter(|count| *count <= COUNT_MAX)
        .ok_or("no count")?;
    Ok((whole(value_ms * NS_PER_MS), count))
}

/// The count in `[Max = 1.0, Total count = 7]`.
fn total(comment: &str) -> Option<u64> {
    let (_, rest) = comment.split_once("Total count")?;
    rest.trim_start_matches([' ', '='])
        .trim_end_matches([']', ' '])
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{Summary, latency_histogram, sum};

    fn histogram() -> Histogram<u64> {
        let mut histogram = latency_histogram();
        (1..=1000).for_each(|step| histogram.record(step * 1_000).unwrap());
        histogram
    }

    fn refused(text: &str) -> String {
        let error = parse_percentiles(Path::new("a.hgrm"), text).unwrap_err();
        error.to_string()
    }

    #[test]
    fn it_looks_as_others_expect_it() {
        let text = percentiles(&histogram());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "       Value     Percentile TotalCount 1/(1-Percentile)"
        );
        assert_eq!(
            lines[2],
            "    0.001000 0.000000000000          1           1.00"
        );
        let half = lines
            .iter()
            .find(|line| line.contains(" 0.500000000000 "))
            .unwrap();
        assert!(half.ends_with(" 2.00"), "{half}");
        assert!(
            text.contains(" 1.000000000000       1000\n#[Mean "),
            "{text}"
        );
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }

    #[test]
    fn percentiles_survive() {
        let counts = parse_percentiles(Path::new("a.hgrm"), &percentiles(&histogram())).unwrap();
        assert_eq!(counts.len(), 1000);
        let read = Summary::of(&sum([&counts].into_iter()).unwrap());
        let (before, after) = (Summary::of(&histogram()).percentiles(), read.percentiles());
        for ((name, before), (_, after)) in before.into_iter().zip(after) {
            let difference = before.abs_diff(after);
            assert!(
                difference * 100 <= before,
                "{name}: {before} became {after}"
            );
        }
        let empty = percentiles(&latency_histogram());
        assert!(
            parse_percentiles(Path::new("a.hgrm"), &empty)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn damage_is_told_with_its_line() {
        let text = percentiles(&histogram());
        let at_a_line = text[..text.len() / 2].rfind('\n').unwrap();
        assert!(refused(&text[..at_a_line]).contains("cut off"));
        let fewer = text.replace(
            "Total count    =         1000",
            "Total count    =         1001",
        );
        assert!(refused(&fewer).contains("counts to 1000"));
        for (line, words) in [
            ("NaN 0.5 1", "no value"),
            ("1.0 1.5 1", "no quantile"),
            ("1.0 0.5 -1", "no count"),
            ("1.0 0.5 18446744073709551615", "no count"),
            ("1.0", "no quantile"),
        ] {
            let error = refused(&format!("Value\n\n{line}\n"));
            assert!(
                error.starts_with("a.hgrm, line 3: ") && error.contains(words),
                "{error}"
            );
        }
        let falls = "1.0 0.1 5\n2.0 0.2 4\n";
        assert!(refused(falls).contains("falls from 5 to 4"));
        assert!(refused("2.0 0.1 5\n1.0 0.2 6\n").contains("values fall"));
    }
}
