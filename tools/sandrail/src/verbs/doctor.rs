//! `sandrail doctor`: what this machine and an interface are fit for; each finding with its remedy.

mod interface;
mod machine;

use std::fmt::{self, Write};

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::fault::Exit;
use crate::output::{self, Stream};
use crate::verbs::discover::columns;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    /// It works, but not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
struct Finding {
    level: Level,
    /// What was looked at: `kernel`, or `san0: MTU`.
    what: String,
    /// What was found.
    found: String,
    /// What to do about it; empty where nothing is to be done.
    remedy: String,
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn warn(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            remedy: remedy.into(),
            ..Self::ok(what, found)
        }
    }

    fn fail(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(what, found, remedy)
        }
    }
}

pub(crate) fn run(global: &Global) -> Result<Exit> {
    let mut findings = machine::examine(&global.run_dir);
    for name in &global.interface {
        findings.extend(interface::examine(name, global));
    }
    let worst = worst(&findings);
    let value = json!({
        "worst": worst.to_string(),
        "findings": findings.iter().map(to_json).collect::<Vec<Value>>(),
    });
    let mut text = String::new();
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.level.to_string(),
                finding.what.clone(),
                words(finding),
            ]
        })
        .collect();
    text.push_str(&columns(&rows));
    if global.interface.is_empty() {
        writeln!(
            text,
            "no interface examined: name one with -i; there are: {}",
            sandrail_node::netif::candidates()
        )?;
    }
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(match worst {
        Level::Ok => Exit::Done,
        Level::Warn => Exit::Warning,
        Level::Fail => Exit::Environment,
    })
}

fn worst(findings: &[Finding]) -> Level {
    findings
        .iter()
        .map(|finding| finding.level)
        .max()
        .unwrap_or(Level::Ok)
}

fn words(finding: &Finding) -> String {
    if finding.remedy.is_empty() {
        finding.found.clone()
    } else {
        format!("{}. Remedy: {}", finding.found, finding.remedy)
    }
}

fn to_json(finding: &Finding) -> Value {
    json!({
        "level": finding.level.to_string(),
        "what": finding.what,
        "found": finding.found,
        "remedy": finding.remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let ok = Finding::ok("a", "b");
        let warn = Finding::warn("a", "b", "c");
        let fail = Finding::fail("a", "b", "c");
        assert_eq!(worst(&[]), Level::Ok);
        assert_eq!(worst(&[ok.clone(), warn.clone()]), Level::Warn);
        assert_eq!(worst(&[fail, ok, warn]), Level::Fail);
    }
}
