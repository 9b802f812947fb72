//! The demo: random data written to a real target, read back and compared, over AF_XDP and over AF_PACKET in turn.

mod data;
pub(crate) mod job;
mod real;
mod report;
mod simtarget;
mod simulated;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use sandrail_lab::Lab;
use serde_json::json;

use crate::cli::{DemoArgs, Global, LinkChoice};
use crate::fault::{Exit, Fault};
use crate::flow::sector_bytes;
use crate::measure::duration;
use crate::output::{self, Stream};
use crate::size::Size;
use crate::verbs::discover::columns;

use job::JobReport;

/// How one way of sending frames fared.
struct Run {
    /// What was asked for.
    link: String,
    /// What was measured, or why nothing was.
    outcome: Result<JobReport, String>,
    /// It failed since this machine cannot do it, which is no fault of the data's.
    unavailable: bool,
}

/// Everything that the reports tell.
struct Story {
    /// Where this was: a real target or the simulated SAN, and why.
    place: String,
    seed: u64,
    size: Size,
    block: Size,
    depth: u16,
    kernel: String,
    cores: usize,
    runs: Vec<Run>,
}

pub(crate) fn run(global: &Global, args: &DemoArgs) -> Result<Exit> {
    let Size(bytes) = args.size;
    if bytes == 0 || bytes % sector_bytes() != 0 {
        return Err(Fault::Option {
            option: "size",
            problem: format!("{} is no multiple of 512, or nothing", args.size),
        }
        .into());
    }
    crate::session::block_bytes(&flow_of(args))?;
    let story = if args.sim {
        simulated::run(global, args, "--sim was given")?
    } else {
        match Lab::supported() {
            Ok(()) => real::run(global, args)?,
            Err(reason) => {
                say(global, &format!("no real SAN here: {reason}"));
                simulated::run(global, args, &reason.to_string())?
            }
        }
    };
    finish(global, args, &story)
}

/// A line of what happens, for people.
fn say(global: &Global, line: &str) {
    if !global.json {
        println!("{line}");
    }
}

fn flow_of(args: &DemoArgs) -> crate::cli::FlowArgs {
    crate::cli::FlowArgs {
        depth: args.depth,
        block: args.block,
    }
}

fn finish(global: &Global, args: &DemoArgs, story: &Story) -> Result<Exit> {
    let page = report::page(story);
    // The measurements count more than the page that shows them.
    let written = write_page(&args.report, &page);
    if let Err(error) = &written {
        eprintln!("sandrail: no report: {error:#}");
    }
    let mut value = json!({
        "place": story.place,
        "seed": story.seed,
        "size_bytes": story.size.0,
        "block_bytes": story.block.0,
        "depth": story.depth,
        "kernel": story.kernel,
        "cores": story.cores,
        "runs": story.runs.iter().map(|run| match &run.outcome {
            Ok(report) => json!({ "link": run.link, "result": report }),
            Err(error) => json!({ "link": run.link, "error": error }),
        }).collect::<Vec<_>>(),
        "report": written.as_ref().ok().map(|()| &args.report),
    });
    let mut text = table(story)?;
    if written.is_ok() {
        writeln!(text, "report: {}", args.report.display())?;
    }
    let failed: Vec<&Run> = story
        .runs
        .iter()
        .filter(|run| run.outcome.is_err())
        .collect();
    let fault = if let Some(run) = failed.iter().find(|run| !run.unavailable) {
        let error = run.outcome.as_ref().err().map_or("", String::as_str);
        Fault::Io(format!("demo over {}: {error}", run.link))
    } else if let Some(run) = failed.first().filter(|_| global.link != LinkChoice::Auto) {
        // Asked for by name, and not to be had.
        let error = run.outcome.as_ref().err().map_or("", String::as_str);
        Fault::Environment(format!("demo over {}: {error}", run.link))
    } else {
        output::report(Stream::Out, global.json, &value, &text)?;
        return Ok(Exit::Done);
    };
    Ok(output::report_failure(
        global.json,
        &mut value,
        &text,
        &fault.into(),
    )?)
}

fn write_page(path: &Path, page: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(path, page).with_context(|| format!("writing {}", path.display()))
}

/// Percentiles side by side.
fn table(story: &Story) -> Result<String> {
    let mut text = String::new();
    writeln!(text)?;
    writeln!(
        text,
        "{} with seed {}, requests of {}, {} under way; Linux {}, {} cores; one run each",
        story.size, story.seed, story.block, story.depth, story.kernel, story.cores
    )?;
    let mut rows = vec![
        [
            "", "LINK", "MODE", "MTU", "p50", "p90", "p99", "p99.9", "max", "SAMPLES", "IOPS",
            "MB/s",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for verb in ["write", "read"] {
        for run in &story.runs {
            let Ok(report) = &run.outcome else { continue };
            let side = if verb == "write" {
                &report.write
            } else {
                &report.read
            };
            let latency = &side.latency;
            rows.push(vec![
                verb.to_owned(),
                run.link.clone(),
                report.mode.clone(),
                report.mtu_bytes.to_string(),
                duration(latency.p50_ns),
                duration(latency.p90_ns),
                duration(latency.p99_ns),
                duration(latency.p999_ns),
                duration(latency.max_ns),
                latency.samples.to_string(),
                format!("{:.0}", side.pace.requests_per_s),
                format!("{:.1}", side.pace.mb_per_s),
            ]);
        }
    }
    text.push_str(&columns(&rows));
    write_notes(&mut text, story)?;
    Ok(text)
}

/// What is to be said of each run besides its figures.
fn write_notes(text: &mut String, story: &Story) -> Result<()> {
    for run in &story.runs {
        match &run.outcome {
            Ok(report) => {
                writeln!(
                    text,
                    "{}: verified, all {} sectors read back bit for bit{}; {}",
                    run.link,
                    report.sectors,
                    if report.found_in_file {
                        ", and the same on the target's side"
                    } else {
                        ""
                    },
                    report.pinning
                )?;
                writeln!(text, "{}: {}", run.link, report.flush)?;
                writeln!(text, "{}: {}", run.link, report.wire.line())?;
            }
            Err(error) => {
                let word = if run.unavailable {
                    "not possible here"
                } else {
                    "FAILED"
                };
                writeln!(text, "{}: {word}: {error}", run.link)?;
            }
        }
    }
    Ok(())
}
