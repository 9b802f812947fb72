//! `sandrail-blade ctl`: speaks to a blade that runs.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::protocol::{DiskFault, Keep, Request};
use crate::cli::{CtlArgs, CtlVerb, DiskVerb, FaultArgs};
use crate::drill::Chances;
use crate::size;

/// A core answers within ten seconds or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Sends what was asked for, and shows the answer.
pub(crate) fn run(args: &CtlArgs) -> Result<ExitCode> {
    let request = request(&args.verb)?;
    let line = ask(&args.socket, &request)?;
    if line.is_empty() && matches!(request, Request::Crash { .. }) {
        return say(if args.json { "{\"ok\":true}" } else { "ended" });
    }
    let answer: Value = serde_json::from_str(&line)
        .with_context(|| format!("{} does not speak as a blade does", args.socket.display()))?;
    if answer["ok"] != true {
        if args.json {
            say(&line)?;
        }
        bail!(
            "{}",
            answer["error"]
                .as_str()
                .unwrap_or("the blade refuses without a word")
        );
    }
    match request {
        _ if args.json => say(&line),
        Request::Status => say(&status(&answer)),
        Request::Fault { .. } | Request::FaultOff {} => {
            say(&format!("set on {} link(s)", answer["links"]))
        }
        Request::Refresh {} => say(&format!("{} size(s) changed", answer["changed"])),
        _ => say("done"),
    }
}

fn say(text: &str) -> Result<ExitCode> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn ask(socket: &Path, request: &Request) -> Result<String> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("no blade listens on {shown}; start it with --control {shown}"))?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer) {
        // A process that dies resets the connection.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => drop(other.with_context(|| format!("no answer from {shown}"))?),
    }
    Ok(answer.trim_end().to_owned())
}

fn request(verb: &CtlVerb) -> Result<Request> {
    Ok(match verb {
        CtlVerb::Status => Request::Status,
        CtlVerb::Fault(args) if args.off => Request::FaultOff {},
        CtlVerb::Fault(args) => fault(args)?,
        CtlVerb::FaultDisk { target, fault } => Request::FaultDisk {
            target: target.clone(),
            fault: match *fault {
                DiskVerb::Fail {
                    lba,
                    sectors,
                    reads,
                    writes,
                } => DiskFault::Fail {
                    lba,
                    sectors,
                    reads: !writes,
                    writes: !reads,
                },
                DiskVerb::FailFlushes => DiskFault::FailFlushes {},
                DiskVerb::Slow { us, jitter_us } => DiskFault::Slow { us, jitter_us },
                DiskVerb::Hold { nth } => DiskFault::Hold { nth },
                DiskVerb::Release => DiskFault::Release {},
                DiskVerb::Clear => DiskFault::Clear {},
            },
        },
        CtlVerb::Crash { keep } => Request::Crash {
            keep: match keep.as_str() {
                "none" => Keep::None,
                "all" => Keep::All,
                seed => Keep::Seed(seed.parse().map_err(|_| {
                    anyhow!("--keep: `{seed}` is not none, all, or the number of a seed")
                })?),
            },
        },
        CtlVerb::Refresh => Request::Refresh {},
    })
}

fn fault(args: &FaultArgs) -> Result<Request> {
    let chances = Chances {
        drop: args.drop,
        duplicate: args.duplicate,
        reorder: args.reorder,
        delay: args.delay,
        copy_after_us: args.copy_after_us,
        reorder_us: args.reorder_us,
        delay_us: args.delay_us,
    };
    if let Some(problem) = chances.problem() {
        bail!("{problem}");
    }
    Ok(Request::Fault {
        interface: args.interface.clone(),
        direction: args.direction.map(Into::into),
        chances,
    })
}

/// The status for people.
fn status(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!(
        "sandrail-blade {}, pid {}, up {:.0} s, memory {}, seed {}\n",
        text(&answer["version"]),
        answer["pid"],
        answer["uptime_s"].as_f64().unwrap_or_default(),
        text(&answer["memory"]),
        answer["seed"]
    );
    // Writing to a String does not fail, here and below.
    for core in list(&answer["cores"]) {
        let _ = writeln!(
            out,
            "core {}{}: {} turns, {} busy, {} sleeps, {} request(s) under way",
            core["number"],
            core["pinned_to"]
                .as_u64()
                .map_or_else(String::new, |cpu| format!(" (CPU {cpu})")),
            core["turns"],
            core["busy_turns"],
            core["sleeps"],
            core["requests_open"],
        );
        if let Some(entries) = core["copies"]["entries"].as_u64() {
            let _ = writeln!(
                out,
                "  remembers {entries} writes for {} ms, {} a second, in {}",
                core["copies"]["retained_ms"],
                core["copies"]["rate_per_s"],
                size::show(core["copies"]["bytes"].as_u64().unwrap_or_default())
            );
        }
        counters(&mut out, "frames", &core["frames"]);
        for link in list(&core["links"]) {
            let _ = writeln!(
                out,
                "  link {} queue {}: {}, MTU {}, {}",
                text(&link["interface"]),
                link["queue"],
                text(&link["mode"]),
                link["mtu_bytes"],
                text(&link["mac"])
            );
            counters(&mut out, "counters", &link["counters"]);
            counters(&mut out, "faults to the network", &link["faults_transmit"]);
            counters(&mut out, "faults from the network", &link["faults_receive"]);
        }
        for target in list(&core["targets"]) {
            show_target(&mut out, target);
        }
    }
    out
}

fn show_target(out: &mut String, target: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sectors = target["sectors"].as_u64().unwrap_or_default();
    let _ = writeln!(
        out,
        "  target {}: {} ({sectors} sectors), {}{}, {}",
        text(&target["target"]),
        size::show(sectors.saturating_mul(512)),
        text(&target["durability"]),
        if target["read_only"] == true {
            ", read-only"
        } else {
            ""
        },
        text(&target["medium"]),
    );
    let members = |value: &Value| {
        let macs: Vec<String> = list(value).iter().map(text).collect();
        if macs.is_empty() {
            "everybody".to_owned()
        } else {
            macs.join(", ")
        }
    };
    let _ = writeln!(
        out,
        "    for {} (epoch {}), mask admits {}, config string \"{}\", {} session(s), state {}",
        members(&target["reserved"]),
        target["epoch"],
        members(&target["mask"]),
        text(&target["config_string"]),
        target["sessions"],
        if target["persistent"] == true {
            "kept"
        } else {
            "not kept over a restart"
        },
    );
    counters(out, "  did", &target["counters"]);
    counters(out, "  disk", &target["disk"]);
    if let Some(kinds) = target["latency"].as_object() {
        for (kind, latency) in kinds {
            let us = |name: &str| latency[name].as_f64().unwrap_or_default();
            let _ = writeln!(
                out,
                "    disk {kind}: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us, {} samples",
                us("p50_us"),
                us("p99_us"),
                us("p999_us"),
                us("max_us"),
                latency["samples"]
            );
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn counters(out: &mut String, title: &str, value: &Value) {
    let Some(counters) = value.as_object().filter(|counters| !counters.is_empty()) else {
        return;
    };
    let words: Vec<String> = counters
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let _ = writeln!(out, "    {title}: {}", words.join(", "));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_shown_with_what_matters() {
        let answer = json!({
            "ok": true, "version": "0.1.0", "pid": 7, "uptime_s": 3.2, "memory": "locked", "seed": 1,
            "cores": [{
                "number": 0, "pinned_to": 1, "turns": 10, "busy_turns": 5, "sleeps": 1, "requests_open": 2,
                "frames": { "rx_used": 4 },
                "copies": { "entries": 1048576, "bytes": 75497472, "retained_ms": 4000, "rate_per_s": 262144 },
                "links": [{ "interface": "eth1", "queue": 0, "mac": "02:00:00:00:00:01", "mtu_bytes": 9000, "mode": "xdp" }],
                "targets": [{
                    "target": "e7.3", "sectors": 2048, "durability": "flush", "read_only": true, "medium": "/srv/disk",
                    "reserved": ["02:00:00:00:00:02"], "epoch": 9, "mask": [], "config_string": "x", "sessions": 1,
                    "persistent": false, "counters": { "reads": 3 },
                    "latency": { "read": { "samples": 3, "p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0, "max_us": 4.0 } },
                }],
            }],
        });
        let shown = status(&answer);
        for words in [
            "core 0 (CPU 1): 10 turns, 5 busy",
            "frames: rx_used 4",
            "remembers 1048576 writes for 4000 ms, 262144 a second, in 72 MiB",
            "link eth1 queue 0: xdp, MTU 9000",
            "target e7.3: 1 MiB (2048 sectors), flush, read-only, /srv/disk",
            "for 02:00:00:00:00:02 (epoch 9), mask admits everybody",
            "not kept over a restart",
            "reads 3",
            "disk read: p50 1.0 us, p99 2.0 us, p99.9 3.0 us, max 4.0 us, 3 samples",
        ] {
            assert!(shown.contains(words), "no `{words}` in:\n{shown}");
        }
        // Whatever an older or newer blade leaves out is no reason to fall over.
        status(&json!({ "ok": true }));
    }
}
