//! Results as JSON files, each with its kind and version.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{FileError, Problem};
use crate::result::{Check, Comparison, Run};

/// The version of the results that this program writes and reads.
const VERSION: u64 = 1;
const COMPARISON: &str = "comparison";
const RUN: &str = "run";

/// What a JSON file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Results {
    /// Contenders and their ratios.
    Comparison(Comparison),
    /// One load.
    Run(Run),
}

#[derive(Serialize)]
struct Out<'a, T> {
    kind: &'static str,
    version: u64,
    #[serde(flatten)]
    result: &'a T,
}

#[derive(Deserialize)]
struct Header {
    kind: Option<String>,
    version: Option<u64>,
}

/// Writes a comparison's file, all at once: a reader never sees half of it.
///
/// # Errors
/// It can't be written, or has numbers that cannot be true (not finite, or out of order).
pub fn write_comparison(path: &Path, comparison: &Comparison) -> Result<(), FileError> {
    write(path, COMPARISON, comparison)
}

/// Writes a run's file, all at once.
///
/// # Errors
/// It can't be written, or has numbers that cannot be true.
pub fn write_run(path: &Path, run: &Run) -> Result<(), FileError> {
    write(path, RUN, run)
}

fn write<T: Serialize + Check>(
    path: &Path,
    kind: &'static str,
    result: &T,
) -> Result<(), FileError> {
    // JSON has no NaN; it would become a null that nobody can read.
    result
        .check()
        .map_err(|problem| Problem::Impossible(problem).of(path))?;
    let out = Out {
        kind,
        version: VERSION,
        result,
    };
    let mut text = serde_json::to_string_pretty(&out)
        .map_err(|error| Problem::Json(error.to_string()).of(path))?;
    text.push('\n');
    write_whole(path, text.as_bytes())
}

/// Writes a file beside its place and moves it there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = fs::File::create(&part)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&part, path));
    written.map_err(|error| {
        // What is left of it is of no use, and may not be there at all.
        let _ = fs::remove_file(&part);
        Problem::Io(error).of(path)
    })
}

/// Reads a file's text.
pub(crate) fn text_of(path: &Path) -> Result<String, FileError> {
    let bytes = fs::read(path).map_err(|error| Problem::Io(error).of(path))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::Empty.of(path));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        Problem::Binary.at(path, line)
    })
}

/// Reads a result.
///
/// # Errors
/// It can't be read, is no result, one of another version, or has numbers that cannot be true.
pub fn read_result(path: &Path) -> Result<Results, FileError> {
    parse_result(path, &text_of(path)?)
}

/// Reads a result from its text; `path` is what errors are told of.
///
/// # Errors
/// It is no result, one of another version, or has numbers that cannot be true.
pub fn parse_result(path: &Path, text: &str) -> Result<Results, FileError> {
    let Header { kind, version } = json(path, text)?;
    let kind = kind.ok_or_else(|| {
        Problem::Json(
            "there is no `kind` in it: no result, or one from before version 1".to_owned(),
        )
        .of(path)
    })?;
    match version {
        Some(VERSION) => {}
        Some(found) => {
            return Err(Problem::Version {
                kind,
                found,
                known: VERSION,
            }
            .of(path));
        }
        None => return Err(Problem::Json("there is no `version` in it".to_owned()).of(path)),
    }
    match kind.as_str() {
        COMPARISON => valid(path, text).map(Results::Comparison),
        RUN => valid(path, text).map(Results::Run),
        _ => Err(Problem::Kind(kind).of(path)),
    }
}

fn valid<T: DeserializeOwned + Check>(path: &Path, text: &str) -> Result<T, FileError> {
    let result: T = json(path, text)?;
    result
        .check()
        .map_err(|problem| Problem::Impossible(problem).of(path))?;
    Ok(result)
}

fn json<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, FileError> {
    serde_json::from_str(text).map_err(|error| {
        let line = error.line();
        // It ends with its place, which is told before it here.
        let words = error.to_string();
        let place = format!(" at line {line} column {}", error.column());
        let words = words.strip_suffix(&place).unwrap_or(&words);
        Problem::Json(words.to_owned()).at(path, line.max(1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::{comparison, run};

    fn text<T: Serialize>(kind: &'static str, result: &T) -> String {
        let version = VERSION;
        let out = Out {
            kind,
            version,
            result,
        };
        serde_json::to_string_pretty(&out).unwrap()
    }

    fn refused(text: &str) -> String {
        let error = parse_result(Path::new("a.json"), text).unwrap_err();
        error.to_string()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let read = |text: &str| parse_result(Path::new("a.json"), text).unwrap();
        assert_eq!(
            read(&text(COMPARISON, &comparison())),
            Results::Comparison(comparison())
        );
        assert_eq!(read(&text(RUN, &run())), Results::Run(run()));
    }

    #[test]
    fn other_versions_and_kinds_are_refused() {
        let good = text(RUN, &run());
        let later = refused(&good.replace("\"version\": 1", "\"version\": 2"));
        assert_eq!(
            later,
            "a.json: run of version 2; this program reads version 1"
        );
        let none = refused(&good.replace("\"version\": 1,", ""));
        assert!(none.contains("no `version`"), "{none}");
        let other = refused(&good.replace("\"run\"", "\"walk\""));
        assert!(other.contains("`walk`"), "{other}");
        let none = refused(&good.replace("\"kind\": \"run\",", ""));
        assert!(none.contains("no `kind`"), "{none}");
    }

    #[test]
    fn an_error_has_its_line() {
        let good = text(COMPARISON, &comparison());
        let line_of = |text: &str, words: &str| {
            1 + text.lines().position(|line| line.contains(words)).unwrap()
        };
        // Unlike JSON, other languages write this.
        let nan = good.replacen("\"median\": 15.0", "\"median\": NaN", 1);
        let line = line_of(&nan, "NaN");
        assert!(refused(&nan).starts_with(&format!("a.json, line {line}: ")));
        let null = good.replacen("\"median\": 15.0", "\"median\": null", 1);
        assert!(refused(&null).starts_with(&format!("a.json, line {line}: ")));
        // A check's error has the line that its row ends with.
        let order = good.replacen("\"median\": 15.0", "\"median\": 150.0", 1);
        let words = refused(&order);
        assert!(words.contains("150 in the middle"), "{words}");
        let told: usize = words.split([' ', ':']).nth(2).unwrap().parse().unwrap();
        assert!((line..line + 12).contains(&told), "{words}, row at {line}");
        let cut = &good[..good.len() / 2];
        assert!(refused(cut).starts_with(&format!("a.json, line {}: EOF", cut.lines().count())));
    }

    #[test]
    fn numbers_that_are_none_are_not_written() {
        let mut bad = comparison();
        bad.rows[0].median = f64::NAN;
        let error = write_comparison(Path::new("/nonexistent/a.json"), &bad).unwrap_err();
        assert!(matches!(error.problem, Problem::Impossible(_)), "{error}");
        let error = write_comparison(Path::new("/nonexistent/a.json"), &comparison()).unwrap_err();
        assert!(matches!(error.problem, Problem::Io(_)), "{error}");
    }

    #[test]
    fn impossible_results_are_refused() {
        let mut backwards = run();
        backwards.intervals.reverse();
        let mut away = run();
        away.hlog = Some("../../etc/passwd".to_owned());
        let mut still = run();
        still.interval_ms = 0;
        let mut costly = run();
        costly.initiator.as_mut().unwrap().cpu_s = -1.0;
        for bad in [backwards, away, still, costly] {
            assert!(bad.check().is_err(), "{bad:?}");
            refused(&text(RUN, &bad));
        }
        let mut half = comparison();
        half.rows[1].ratio_max = None;
        let mut negative = comparison();
        negative.rows[1].ratios[0] = -1.0;
        let mut goal = comparison();
        goal.goal = Some(-1.0);
        for bad in [half, negative, goal] {
            assert!(bad.check().is_err(), "{bad:?}");
            refused(&text(COMPARISON, &bad));
        }
    }
}
