//! `sandrail capture`: the SAN's frames as they arrive here, into a pcapng file.
//!
//! It hears what is sent to this station or to all: advertisements, discoveries, answers to its own. What other
//! processes of this machine exchange with a target is seen by their own `--capture`.

use std::time::{Duration, Instant};

use anyhow::Result;
use sandrail_link::capture::CaptureConfig;
use serde_json::json;

use crate::cli::{CaptureArgs, Global};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};
use crate::session;

/// How long it listens unless told otherwise.
const SECONDS_DEFAULT: Duration = Duration::from_secs(10);
/// How often the count is looked at.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn run(global: &Global, args: &CaptureArgs) -> Result<Exit> {
    if global.capture.is_some() {
        return Err(Fault::Option {
            option: "capture",
            problem: "this verb captures already: give the file with --output".to_owned(),
        }
        .into());
    }
    let session = session::start(global, None)?;
    session.capture.start(CaptureConfig::new(&args.output))?;
    let until = match (args.seconds, args.count) {
        (None, Some(_)) => None,
        (seconds, _) => Some(Instant::now() + seconds.unwrap_or(SECONDS_DEFAULT)),
    };
    if args.discover {
        let listen = args
            .seconds
            .unwrap_or(SECONDS_DEFAULT)
            .min(Duration::from_secs(1));
        session.node.discover(listen)?;
    }
    let bar = output::progress(
        &format!("capture {}", session.interfaces),
        None,
        global.json,
    );
    loop {
        let written = session
            .capture
            .summary()
            .map_or(0, |summary| summary.written_frames);
        let enough = args.count.is_some_and(|count| written >= count);
        if enough || until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    bar.finish_and_clear();
    let summary = session.end_capture()?.unwrap_or_default();
    session.end();
    let value = json!({
        "file": args.output,
        "frames": summary.written_frames,
        "frames_dropped": summary.dropped_frames,
    });
    let text = format!(
        "{}: {} frames{}",
        args.output.display(),
        summary.written_frames,
        match summary.dropped_frames {
            0 => String::new(),
            dropped => format!(", {dropped} more came too fast to be written"),
        }
    );
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(Exit::Done)
}
