//! Interval logs: a histogram of latencies for each interval and kind of operation, in the format of HdrHistogram's
//! `HistogramLogWriter` 1.3, compressed V2 histograms, one a line, tagged with the kind of operation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

use crate::decode;
use crate::error::{FileError, Problem};
use crate::file::text_of;
use crate::latency::{COUNT_MAX, Counts, sum};
use crate::number::approximate;

/// What a log says of its values; nobody but people reads it.
const UNIT_COMMENT: &str = "Values are latencies in nanoseconds, Interval_Max in milliseconds";
/// Interval_Max is told in milliseconds, as by the original.
const NS_PER_MS: f64 = 1e6;

/// Writes an interval log.
///
/// Each histogram is written when it is given, so a process that dies leaves a log of what it did. [`Self::finish`] tells
/// whether everything was written.
pub struct LogWriter {
    path: PathBuf,
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
    bytes: Vec<u8>,
}

impl LogWriter {
    /// Begins a log in a new file, or in place of an old one. Intervals count from `start`.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn create(path: &Path, start: SystemTime, comment: &str) -> Result<Self, FileError> {
        let failed = |error| Problem::Io(error).of(path);
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        let start_s = start
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let mut header = String::new();
        for line in comment.lines().chain([UNIT_COMMENT]) {
            header += &format!("#{line}\n");
        }
        header += &format!(
            "#[Histogram log format version 1.3]\n#[StartTime: {start_s:.3} (seconds since epoch)]\n\
             #[BaseTime: {start_s:.3} (seconds since epoch)]\n\
             \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n"
        );
        file.write_all(header.as_bytes()).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            serializer: V2DeflateSerializer::new(),
            bytes: Vec::new(),
        })
    }

    /// Writes what was recorded of one kind of operation in one interval, in nanoseconds. `start` counts from the log's
    /// start. Kinds are those of [`OpClass::word`](crate::OpClass::word), or any word without commas and spaces.
    ///
    /// # Errors
    /// It can't be written, or the kind is no such word.
    pub fn interval(
        &mut self,
        class: &str,
        start: Duration,
        length: Duration,
        histogram: &Histogram<u64>,
    ) -> Result<(), FileError> {
        if class.contains([',', ' ', '\r', '\n']) || class.is_empty() {
            return Err(Problem::Line(format!("`{class}` can't be a tag")).of(&self.path));
        }
        self.bytes.clear();
        self.serializer
            .serialize(histogram, &mut self.bytes)
            .map_err(|error| Problem::Line(format!("{error:?}")).of(&self.path))?;
        let written = writeln!(
            self.file,
            "Tag={class},{:.3},{:.3},{:.3},{}",
            start.as_secs_f64(),
            length.as_secs_f64(),
            approximate(histogram.max()) / NS_PER_MS,
            STANDARD.encode(&self.bytes)
        );
        written
            .and_then(|()| self.file.flush())
            .map_err(|error| Problem::Io(error).of(&self.path))
    }

    /// Ends the log.
    ///
    /// # Errors
    /// The last of it can't be written.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.file
            .flush()
            .map_err(|error| Problem::Io(error).of(&self.path))
    }
}

/// One interval of one kind of operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// Its begin, in seconds since the log's.
    pub start_s: f64,
    /// Its length, in seconds.
    pub length_s: f64,
    /// What was recorded, in nanoseconds.
    pub counts: Counts,
}

/// An interval log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// When it begins, in seconds since 1970, if it says so.
    pub start_time_s: Option<f64>,
    /// Its intervals by tag, as they stand in the file; those without a tag under the empty one.
    pub classes: BTreeMap<String, Vec<Interval>>,
}

impl Log {
    /// Everything of one tag in one histogram; `None` when nothing was recorded.
    #[must_use]
    pub fn total(&self, class: &str) -> Option<Histogram<u64>> {
        sum(self.classes.get(class)?.iter().map(|each| &each.counts))
    }
}

/// Reads an interval log.
///
/// # Errors
/// It can't be read, is no such log, or is cut off.
pub fn read_log(path: &Path) -> Result<Log, FileError> {
    parse_log(path, &text_of(path)?)
}

/// Reads an interval log from its text; `path` is what errors are told of.
///
/// # Errors
/// It is no such log, or is cut off.
pub fn parse_log(path: &Path, text: &str) -> Result<Log, FileError> {
    let mut log = Log::default();
    let mut base_s = None;
    let mut sum = 0_u64;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let refused = |problem: String| Problem::Line(problem).at(path, number);
        let whole = line
            .strip_suffix('\n')
            .ok_or_else(|| refused("the log is cut off: its last line has no end".to_owned()))?;
        let line = whole.strip_suffix('\r').unwrap_or(whole);
        if let Some(comment) = line.strip_prefix('#') {
            if let Some(time) = heading(comment, "[StartTime: ").map_err(refused)? {
                log.start_time_s = Some(time);
            } else if let Some(time) = heading(comment, "[BaseTime: ").map_err(refused)? {
                base_s = Some(time);
            }
        } else if !line.starts_with("\"StartTimestamp\"") && !line.trim().is_empty() {
            let (tag, interval) = interval(line).map_err(refused)?;
            sum = sum.saturating_add(interval.counts.len());
            if sum > COUNT_MAX {
                return Err(refused("more was counted than there can be".to_owned()));
            }
            log.classes
                .entry(tag.to_owned())
                .or_default()
                .push(interval);
        }
    }
    if log.classes.is_empty() {
        return Err(Problem::Line("there is no interval in it".to_owned()).of(path));
    }
    rebase(&mut log, base_s);
    Ok(log)
}

/// Lets intervals count from the first of them, whatever they counted from: the epoch, or one of the two headings.
fn rebase(log: &mut Log, base_s: Option<f64>) {
    let starts = || {
        let intervals = log.classes.values().flatten();
        intervals.map(|interval| interval.start_s)
    };
    let first = starts().fold(f64::INFINITY, f64::min);
    // The original takes times as absolute ones if they are less than a year before the start.
    let year_s = 365.0 * 86_400.0;
    let start = log.start_time_s;
    let zero = match (base_s, start) {
        (Some(base), Some(start)) if start >= base && start - base <= first => start - base,
        (Some(_), _) => 0.0_f64.min(first),
        (None, Some(start)) if first >= start - year_s => start.min(first),
        (None, Some(_)) => 0.0_f64.min(first),
        (None, None) => first,
    };
    if log.start_time_s.is_none() {
        log.start_time_s = base_s;
    }
    for interval in log.classes.values_mut().flatten() {
        interval.start_s -= zero;
    }
}

/// The time in a heading such as `[StartTime: 1441812279.474 (seconds since epoch), Wed Sep 09 ...]`.
fn heading(comment: &str, name: &str) -> Result<Option<f64>, String> {
    let Some(rest) = comment.strip_prefix(name) else {
        return Ok(None);
    };
    let word = rest.split([' ', ']']).next().unwrap_or_default();
    number(word, "a time").map(Some)
}

fn number(word: &str, what: &str) -> Result<f64, String> {
    match word.parse::<f64>() {
        // A number of seconds or milliseconds beyond this is damage, and would spoil the pictures.
        Ok(number) if number.is_finite() && (0.0..1e15).contains(&number) => Ok(number),
        _ => Err(format!("{what} was expected, not `{}`", shortened(word))),
    }
}

/// As much of a word as an error should repeat.
fn shortened(word: &str) -> String {
    let mut short: String = word
        .chars()
        .take(40)
        .flat_map(char::escape_default)
        .collect();
    if word.chars().nth(40).is_some() {
        short += "...";
    }
    short
}

fn interval(line: &str) -> Result<(&str, Interval), String> {
    let (tag, fields) = match line.strip_prefix("Tag=") {
        Some(rest) => rest.split_once(',').ok_or("a tag, and nothing after it")?,
        None => ("", line),
    };
    if tag.chars().any(char::is_control) {
        return Err("a tag with control characters".to_owned());
    }
    let mut fields = fields.split(',');
    let mut next = |what: &str| {
        let word = fields.next();
        word.ok_or_else(|| format!("the line ends where {what} was expected"))
    };
    let start_s = number(next("a time")?, "a time")?;
    let length_s = number(next("a length")?, "a length")?;
    number(next("a maximum")?, "a maximum")?;
    let counts = decode::histogram(next("a histogram")?)?;
    let interval = Interval {
        start_s,
        length_s,
        counts,
    };
    match fields.next() {
        Some(_) => Err("more fields than an interval has".to_owned()),
        None => Ok((tag, interval)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{Summary, latency_histogram};

    fn refused(text: &str) -> String {
        parse_log(Path::new("a.hlog"), text)
            .unwrap_err()
            .to_string()
    }

    /// A log of three intervals as this crate writes it.
    fn written() -> String {
        let path = std::env::temp_dir().join(format!("sandrail-hlog-{}", std::process::id()));
        let start = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut writer = LogWriter::create(&path, start, "a test\nof two lines").unwrap();
        for step in 0..3 {
            let mut histogram = latency_histogram();
            histogram.record_n(1_000 * (step + 1), step + 1).unwrap();
            let class = if step == 2 { "write" } else { "read" };
            writer
                .interval(
                    class,
                    Duration::from_millis(100 * step),
                    Duration::from_millis(100),
                    &histogram,
                )
                .unwrap();
        }
        assert!(
            writer
                .interval("a b", Duration::ZERO, Duration::ZERO, &latency_histogram())
                .is_err()
        );
        writer.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        text
    }

    #[test]
    fn what_is_written_is_read_again() {
        let log = parse_log(Path::new("a.hlog"), &written()).unwrap();
        assert_eq!(log.start_time_s, Some(1_700_000_000.0));
        let starts: Vec<f64> = log.classes["read"]
            .iter()
            .map(|each| each.start_s)
            .collect();
        assert_eq!(starts, [0.0, 0.1]);
        assert_eq!(log.classes["write"][0].start_s, 0.2);
        assert_eq!(log.classes["read"][0].length_s, 0.1);
        let summary = Summary::of(&log.total("read").unwrap());
        assert_eq!(
            (summary.count, summary.min_ns, summary.max_ns),
            (3, 1_000, 2_000)
        );
        assert_eq!(log.total("flush"), None);
    }

    #[test]
    fn the_crates_own_reader_understands_it() {
        use hdrhistogram::serialization::Deserializer;
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let text = written();
        let mut seen = Vec::new();
        for entry in IntervalLogIterator::new(text.as_bytes()) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
                let histogram: Histogram<u64> = Deserializer::new()
                    .deserialize(&mut bytes.as_slice())
                    .unwrap();
                seen.push((interval.tag().unwrap().as_str().to_owned(), histogram.len()));
            }
        }
        let expected = [("read", 1), ("read", 2), ("write", 3)];
        assert_eq!(seen, expected.map(|(tag, count)| (tag.to_owned(), count)));
    }

    /// As others write them, whose intervals count from the epoch and have no tags.
    #[test]
    fn logs_without_tags_and_headings_are_read() {
        let text = written().replace("Tag=read,", "");
        let only: String = text
            .lines()
            .filter(|line| !line.starts_with(['#', '"', 'T']))
            .map(|line| format!("1441812{line}\r\n"))
            .collect();
        let log = parse_log(Path::new("a.hlog"), &only).unwrap();
        assert_eq!(log.classes.keys().collect::<Vec<_>>(), [""]);
        assert_eq!(log.classes[""][0].start_s, 0.0);
        assert_eq!(log.total("").unwrap().len(), 3);
    }

    #[test]
    fn a_cut_log_is_told_with_its_line() {
        let text = written();
        let lines = text.lines().count();
        for cut in 1..40 {
            let error = refused(&text[..text.len() - cut]);
            assert!(
                error.starts_with(&format!("a.hlog, line {lines}: the log is cut off")),
                "{cut}: {error}"
            );
        }
        // Cut off in the middle, and something written behind it.
        let mut whole = text[..text.len() - 9].to_owned();
        whole.push('\n');
        let error = refused(&whole);
        assert!(
            error.starts_with(&format!("a.hlog, line {lines}: ")),
            "{error}"
        );
    }

    #[test]
    fn lines_that_are_none_are_refused() {
        for (line, words) in [
            ("hello", "a time was expected, not `hello`"),
            ("Tag=x", "nothing after it"),
            ("Tag=x,1.0", "a length"),
            ("NaN,1.0,1.0,AAAA", "not `NaN`"),
            ("1.0,-1.0,1.0,AAAA", "not `-1.0`"),
            ("1.0,1.0,inf,AAAA", "not `inf`"),
            ("1.0,1.0,1.0,!!!!", "no base64"),
            ("1.0,1.0,1.0,AAAA", "cut off"),
            ("1.0,1.0,1.0,AAAAAAAA", "no version"),
            ("1.0,1.0,1.0", "where a histogram was expected"),
            ("#[StartTime: never]", "not `never`"),
        ] {
            let error = refused(&format!("#a comment\n{line}\n"));
            assert!(
                error.starts_with("a.hlog, line 2: ") && error.contains(words),
                "{error}"
            );
        }
        assert!(refused("#only a comment\n").contains("no interval"));
    }
}
