//! `sandrail report`: results of measurements, in the terminal, as a page and as a picture.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::Result;
use sandrail_report::collection::Collection;
use sandrail_report::plot::Terminal;
use sandrail_report::{FileError, Problem, page, scripts, terminal};

use crate::cli::{Global, ReportArgs};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};

/// Where there is no terminal to ask.
const WIDTH: usize = 100;

pub(crate) fn run(global: &Global, args: &ReportArgs) -> Result<Exit> {
    let collection = Collection::load(&args.files).map_err(refused)?;
    if let Some(path) = &args.html {
        write(path, &page::html(&collection))?;
    }
    if let Some(path) = &args.svg {
        write(path, &page::svg(&collection))?;
    }
    let text = if global.json {
        String::new()
    } else {
        terminal::text(&collection, this(args.ascii))
    };
    let value = scripts::value(&collection);
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(Exit::Done)
}

/// A file that is not there, or not of a kind that is read, is the caller's mistake; one with something else in it is not.
fn refused(error: FileError) -> anyhow::Error {
    match error.problem {
        Problem::Io(_) | Problem::Suffix => Fault::File {
            path: error.path,
            problem: error.problem.to_string(),
        }
        .into(),
        _ => error.into(),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(path, text))
        .map_err(|error| Fault::File {
            path: path.to_owned(),
            problem: format!("can't be written: {error}"),
        })?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// What standard output can show.
fn this(ascii: bool) -> Terminal {
    let asked = || env::var("COLUMNS").ok()?.parse().ok();
    let there = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    Terminal {
        width: there().or_else(asked).unwrap_or(WIDTH),
        unicode: !ascii && is_utf8(|name| env::var(name).ok()),
    }
}

/// Whether the locale is UTF-8; the first of these variables that is set decides, see locale(7).
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let mut set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(variable);
    let locale = set.find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_names_the_locale() {
        let of = |all: &'static [(&str, &str)]| {
            is_utf8(|name| {
                let found = all.iter().find(|(each, _)| *each == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(of(&[("LANG", "en_GB.UTF-8")]) && of(&[("LC_ALL", ""), ("LANG", "C.utf8")]));
        assert!(!of(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]) && !of(&[]));
    }
}
