//! What a report is made of: the files that were named, and those that belong to them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::error::{FileError, Problem};
use crate::file::{Results, parse_result, read_result};
use crate::hgrm::{parse_percentiles, read_percentiles};
use crate::hlog::{Interval, Log, parse_log, read_log};
use crate::latency::{Counts, Summary, sum};
use crate::number::approximate;
use crate::result::{Comparison, Run};

/// The latencies of one kind of operation.
#[derive(Clone, Debug)]
pub struct Series {
    /// The kind, or `all` where a log does not tell kinds apart.
    pub class: String,
    /// In numbers.
    pub latency: Summary,
    /// All of them, unless there is nothing but a summary.
    pub histogram: Option<Histogram<u64>>,
    /// By interval, if they were logged so.
    pub intervals: Vec<Interval>,
}

/// How much was done in some span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Begin, in seconds since the recording's.
    pub start_s: f64,
    /// Length, in seconds; more than 0.
    pub length_s: f64,
    /// Operations that ended in it.
    pub operations: u64,
    /// Operations that failed in it, where they were counted.
    pub errors: u64,
}

/// Sums over a whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Operations a second.
    pub operations_per_s: f64,
    /// Millions of bytes a second, where bytes were counted.
    pub mb_per_s: Option<f64>,
    /// Operations that failed, where they were counted.
    pub errors: Option<u64>,
}

/// One load: a run with its log, or a log alone.
#[derive(Clone, Debug)]
pub struct Recording {
    /// A short name that no other recording of the collection has.
    pub name: String,
    /// The file that was named.
    pub path: PathBuf,
    /// What is told of it; a log alone tells nothing.
    pub run: Option<Run>,
    /// Its latencies, by kind of operation.
    pub series: Vec<Series>,
}

/// Everything that was named.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    /// Loads, in the order in which they were named.
    pub recordings: Vec<Recording>,
    /// Comparisons, in the order in which they were named.
    pub comparisons: Vec<Comparison>,
}

impl Collection {
    /// Reads files whose names end in `.json`, `.hlog` or `.hgrm`. The log that a run names is read with it, and not once
    /// more if it is named as well.
    ///
    /// # Errors
    /// The first file that can't be read, or does not hold what it should.
    pub fn load(paths: &[PathBuf]) -> Result<Self, FileError> {
        let mut collection = Self::default();
        let mut of_runs = BTreeSet::new();
        let mut later = Vec::new();
        for (place, path) in paths.iter().enumerate() {
            match suffix(path)?.as_str() {
                "json" => match read_result(path)? {
                    Results::Comparison(comparison) => collection.comparisons.push(comparison),
                    Results::Run(run) => {
                        let log = run.hlog.as_ref().map(|name| path.with_file_name(name));
                        of_runs.extend(log.as_ref().and_then(|log| fs::canonicalize(log).ok()));
                        later.push((place, of_run(path, run, log.as_deref())?));
                    }
                },
                "hgrm" => later.push((place, of_counts(path, &read_percentiles(path)?))),
                _ => {}
            }
        }
        for (place, path) in paths.iter().enumerate() {
            let known = || fs::canonicalize(path).is_ok_and(|path| of_runs.contains(&path));
            if suffix(path)? == "hlog" && !known() {
                later.push((place, of_log(path, &read_log(path)?)));
            }
        }
        later.sort_by_key(|(place, _)| *place);
        collection.recordings = later.into_iter().map(|(_, recording)| recording).collect();
        collection.name();
        Ok(collection)
    }

    /// What one file holds, from its text; `path` tells of which kind it is, and a run's log is left out.
    ///
    /// # Errors
    /// It does not hold what it should.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut collection = Self::default();
        let recording = match suffix(path)?.as_str() {
            "json" => match parse_result(path, text)? {
                Results::Comparison(comparison) => {
                    collection.comparisons.push(comparison);
                    return Ok(collection);
                }
                Results::Run(run) => of_run(path, run, None)?,
            },
            "hgrm" => of_counts(path, &parse_percentiles(path, text)?),
            _ => of_log(path, &parse_log(path, text)?),
        };
        collection.recordings.push(recording);
        collection.name();
        Ok(collection)
    }

    /// Gives each recording the shortest name that tells it from the others.
    fn name(&mut self) {
        let lossy = |name: Option<&OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
        for way in 0..3 {
            let named = self.recordings.iter().map(|recording| match way {
                0 => lossy(recording.path.file_stem()),
                1 => lossy(recording.path.file_name()),
                _ => recording.path.display().to_string(),
            });
            let names: Vec<String> = named.collect();
            let distinct: BTreeSet<&String> = names.iter().collect();
            let enough = distinct.len() == names.len();
            for (recording, name) in self.recordings.iter_mut().zip(names) {
                recording.name = name;
            }
            if enough {
                return;
            }
        }
        // One file that was named twice.
        for (number, recording) in (1..).zip(&mut self.recordings) {
            recording.name += &format!(" ({number})");
        }
    }

    /// The kinds of operation that any recording has, those of all of them first.
    #[must_use]
    pub fn classes(&self) -> Vec<String> {
        let mut classes: Vec<String> = Vec::new();
        for series in self
            .recordings
            .iter()
            .flat_map(|recording| &recording.series)
        {
            if !classes.contains(&series.class) {
                classes.push(series.class.clone());
            }
        }
        classes
    }
}

impl Recording {
    /// The latencies of one kind of operation.
    #[must_use]
    pub fn class(&self, class: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.class == class)
    }

    /// How much was done when: as the run counted, or as the log tells.
    #[must_use]
    pub fn rates(&self) -> Vec<Rate> {
        let counted = self.run.as_ref().filter(|run| !run.intervals.is_empty());
        let mut rates = match counted {
            Some(run) => self.counted_rates(run),
            None => self.logged_rates(),
        };
        rates.retain(|rate| rate.length_s > 0.0);
        rates
    }

    fn counted_rates(&self, run: &Run) -> Vec<Rate> {
        let seconds = |ms: u64| approximate(ms) / 1e3;
        let nexts = run.intervals.iter().skip(1).map(|tick| tick.start_ms);
        let nexts = nexts.map(Some).chain([None]);
        let each = run.intervals.iter().zip(nexts).map(|(tick, next)| Rate {
            start_s: seconds(tick.start_ms),
            length_s: match next {
                Some(next) => seconds(next - tick.start_ms),
                // Only the log tells how long the last one lasted.
                None => self
                    .logged_end_s()
                    .map(|end| end - seconds(tick.start_ms))
                    .filter(|length| (0.0..=seconds(run.interval_ms)).contains(length))
                    .unwrap_or(seconds(run.interval_ms)),
            },
            operations: tick.operations,
            errors: tick.errors,
        });
        each.collect()
    }

    fn logged_end_s(&self) -> Option<f64> {
        let intervals = self.series.iter().flat_map(|series| &series.intervals);
        intervals
            .map(|interval| interval.start_s + interval.length_s)
            .reduce(f64::max)
    }

    fn logged_rates(&self) -> Vec<Rate> {
        let mut rates: Vec<Rate> = Vec::new();
        let mut intervals: Vec<&Interval> = self
            .series
            .iter()
            .flat_map(|series| &series.intervals)
            .collect();
        intervals.sort_by(|one, other| one.start_s.total_cmp(&other.start_s));
        for interval in intervals {
            let operations = interval.counts.len();
            match rates.last_mut() {
                // Kinds of one interval begin together, to the millisecond that logs tell.
                Some(rate) if interval.start_s - rate.start_s < 0.0015 => {
                    rate.operations = rate.operations.saturating_add(operations);
                    rate.length_s = rate.length_s.max(interval.length_s);
                }
                _ => rates.push(Rate {
                    start_s: interval.start_s,
                    length_s: interval.length_s,
                    operations,
                    errors: 0,
                }),
            }
        }
        rates
    }

    /// What was done in all, if there are intervals.
    #[must_use]
    pub fn throughput(&self) -> Option<Throughput> {
        let rates = self.rates();
        let seconds: f64 = rates.iter().map(|rate| rate.length_s).sum();
        if seconds <= 0.0 {
            return None;
        }
        let operations: f64 = rates.iter().map(|rate| approximate(rate.operations)).sum();
        let ticks = self.run.as_ref().map(|run| run.intervals.as_slice());
        let ticks = ticks.filter(|ticks| !ticks.is_empty());
        Some(Throughput {
            operations_per_s: operations / seconds,
            mb_per_s: ticks.map(|ticks| {
                let bytes: f64 = ticks.iter().map(|tick| approximate(tick.bytes)).sum();
                bytes / 1e6 / seconds
            }),
            errors: ticks.map(|ticks| {
                let errors = ticks.iter().map(|tick| tick.errors);
                errors.fold(0, u64::saturating_add)
            }),
        })
    }
}

fn suffix(path: &Path) -> Result<String, FileError> {
    let suffix = path.extension().unwrap_or_default().to_string_lossy();
    let suffix = suffix.to_ascii_lowercase();
    if ["json", "hlog", "hgrm"].contains(&suffix.as_str()) {
        return Ok(suffix);
    }
    // That it is not there is the more useful thing to say.
    fs::metadata(path).map_err(|error| Problem::Io(error).of(path))?;
    Err(Problem::Suffix.of(path))
}

fn of_run(path: &Path, run: Run, log: Option<&Path>) -> Result<Recording, FileError> {
    let mut series = match log {
        Some(log) => logged(&read_log(log)?),
        None => Vec::new(),
    };
    for told in &run.classes {
        let Some(logged) = series.iter().find(|series| series.class == told.class) else {
            if log.is_some() && told.latency.count > 0 {
                return Err(strangers(path, &told.class, told.latency.count, 0));
            }
            series.push(Series {
                class: told.class.clone(),
                latency: told.latency,
                histogram: None,
                intervals: Vec::new(),
            });
            continue;
        };
        if logged.latency.count != told.latency.count {
            let (told, logged) = (told.latency.count, logged.latency.count);
            return Err(strangers(path, "", told, logged));
        }
    }
    Ok(Recording {
        name: String::new(),
        path: path.to_owned(),
        run: Some(run),
        series,
    })
}

/// A log that belongs to another run.
fn strangers(path: &Path, class: &str, told: u64, logged: u64) -> FileError {
    let class = if class.is_empty() { "latencies" } else { class };
    Problem::Impossible(format!(
        "it tells of {told} {class}, and its log of {logged}: they are not of one run"
    ))
    .of(path)
}

fn of_log(path: &Path, log: &Log) -> Recording {
    Recording {
        name: String::new(),
        path: path.to_owned(),
        run: None,
        series: logged(log),
    }
}

fn of_counts(path: &Path, counts: &Counts) -> Recording {
    let histogram = sum([counts].into_iter());
    Recording {
        name: String::new(),
        path: path.to_owned(),
        run: None,
        series: vec![Series {
            class: "all".to_owned(),
            latency: histogram.as_ref().map(Summary::of).unwrap_or_default(),
            histogram,
            intervals: Vec::new(),
        }],
    }
}

fn logged(log: &Log) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for (tag, intervals) in &log.classes {
        let histogram = log.total(tag);
        series.push(Series {
            class: if tag.is_empty() { "all" } else { tag }.to_owned(),
            latency: histogram.as_ref().map(Summary::of).unwrap_or_default(),
            histogram,
            intervals: intervals.clone(),
        });
    }
    // Reads before writes before flushes, and others after them.
    let order = |series: &Series| {
        let known = crate::OpClass::ALL.map(crate::OpClass::word);
        let place = known.iter().position(|word| *word == series.class);
        place.unwrap_or(known.len())
    };
    series.sort_by_key(order);
    series
}

/// A curve's name and its points: the share of operations that took longer, and nanoseconds.
pub type Curve = (String, Vec<(f64, u64)>);

/// The points of a [`Curve`], as steps, from the most common to the rarest; the last
/// one at one of as many as there are.
#[must_use]
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let all = approximate(histogram.len());
    let mut points = Vec::new();
    let mut below = 0_u64;
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to();
        points.push((1.0 - approximate(below) / all, value));
        below = below.saturating_add(step.count_since_last_iteration());
        points.push(((1.0 - approximate(below) / all).max(1.0 / all), value));
    }
    points
}
