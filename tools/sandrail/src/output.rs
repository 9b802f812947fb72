//! Where text, JSON and progress go.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::fault::{Exit, exit_of};

/// Where a verb's report goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error: data takes standard output.
    Err,
}

/// Writes a report: JSON if that was asked for, text otherwise. A reader that went away is no error.
pub(crate) fn report(stream: Stream, json: bool, value: &Value, text: &str) -> io::Result<()> {
    let mut whole = if json {
        format!("{value:#}")
    } else {
        text.trim_end().to_owned()
    };
    whole.push('\n');
    let written = match stream {
        Stream::Out => io::stdout().write_all(whole.as_bytes()),
        Stream::Err => io::stderr().write_all(whole.as_bytes()),
    };
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Tells an error, and gives its exit code. With `json` standard output gets an object as well (not where data goes).
pub(crate) fn fail(error: &anyhow::Error, json: bool) -> ExitCode {
    let exit = exit_of(error);
    let message = chain(error);
    eprintln!("sandrail: {message}");
    if json {
        let value = serde_json::json!({ "error": message, "exit_code": exit as u8 });
        // There is nothing left to tell it to.
        let _ = report(Stream::Out, true, &value, "");
    }
    exit.into()
}

/// A report of what was done, and the error that it ended with: in JSON one object. The error's exit code.
pub(crate) fn report_failure(
    json: bool,
    value: &mut Value,
    text: &str,
    error: &anyhow::Error,
) -> io::Result<Exit> {
    let exit = exit_of(error);
    let message = chain(error);
    value["error"] = serde_json::json!(message);
    value["exit_code"] = serde_json::json!(exit as u8);
    report(Stream::Out, json, value, text)?;
    eprintln!("sandrail: {message}");
    Ok(exit)
}

/// The chain of causes, without those whose words the one before has said already.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if text.contains(&words) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&words);
    }
    text
}

/// A bar on standard error, if that is a terminal.
pub(crate) fn progress(title: &str, len_bytes: Option<u64>, quiet: bool) -> ProgressBar {
    let shown = !quiet && io::stderr().is_terminal();
    let target = if shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(len_bytes, target);
    let template = if len_bytes.is_some() {
        "{prefix:>24} [{bar:32}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}"
    } else {
        "{prefix:>24} {spinner} {bytes} {binary_bytes_per_sec}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(title.to_owned());
    if shown {
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    bar
}

/// Everything is well, or not quite.
pub(crate) fn done_or_warning(warning: bool) -> Exit {
    if warning { Exit::Warning } else { Exit::Done }
}
