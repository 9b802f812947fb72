//! The demo: on a real target, simulated, and interrupted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::run::{SANDRAIL, sandrail, start};
use crate::san::{Folder, possible};

/// Namespaces and files that a demo of this process would have.
fn remains(pid: u32) -> Vec<String> {
    ["/run/netns", "/dev/shm"]
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&format!("sandrail-demo-{pid}-")))
        .collect()
}

#[test]
fn both_ways_are_measured_and_reported() {
    if !possible("both_ways_are_measured_and_reported") {
        return;
    }
    let folder = Folder::new();
    let report = folder.file("sub/report.html");
    let running = start(
        Command::new(SANDRAIL).args([
            "--json", "demo", "--size", "4M", "--seed", "7", "--report", &report,
        ]),
        false,
    );
    let pid = running.pid();
    let value = running.wait().exits(0).json();
    let runs = value["runs"].as_array().unwrap();
    let modes: Vec<&str> = runs
        .iter()
        .map(|run| run["result"]["mode"].as_str().unwrap_or("failed"))
        .collect();
    assert!(
        modes.len() == 2 && modes[0].starts_with("xdp") && modes[1].starts_with("packet"),
        "{value}"
    );
    for run in runs {
        let result = &run["result"];
        assert_eq!(result["sectors"], 8192);
        assert_eq!(result["found_in_file"], true);
        assert_eq!(result["mtu_bytes"], 9000);
        assert_eq!(result["read"]["latency"]["samples"], 1024);
        assert!(result["write"]["latency"]["p50_ns"].as_u64().unwrap() > 0);
    }
    let page = fs::read_to_string(&report).unwrap();
    assert_eq!(
        page.matches("<polyline").count(),
        4,
        "two curves each for writes and reads"
    );
    assert_eq!(remains(pid), [""; 0]);
}

#[test]
fn the_simulated_san_does_the_same_job() {
    let folder = Folder::new();
    let report = folder.file("report.html");
    let args = [
        "--json", "demo", "--sim", "--size", "4M", "--mtu", "1500", "--report", &report,
    ];
    let value = sandrail(&args).exits(0).json();
    let result = &value["runs"][0]["result"];
    assert_eq!(result["mode"], "sim");
    assert_eq!(result["sectors"], 8192);
    assert_eq!(result["found_in_file"], true);
    assert!(Path::new(&report).exists());
    assert!(value["place"].as_str().unwrap().contains("simulated"));
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    if !possible("an_interrupted_demo_leaves_nothing_behind") {
        return;
    }
    for signal in ["-INT", "-KILL"] {
        // On a busy machine the demo may be over before the signal is sent.
        let interrupted = (0..10).any(|_| interrupt_demo(signal) != Some(0));
        assert!(interrupted, "too fast to be interrupted, ten times");
    }
}

/// Sends the signal to a demo that is under way, and waits until nothing is left of it; its exit code.
fn interrupt_demo(signal: &str) -> Option<i32> {
    let folder = Folder::new();
    let report = folder.file("report.html");
    let mut running = start(
        Command::new(SANDRAIL).args(["demo", "--size", "256M", "--report", &report]),
        false,
    );
    let pid = running.pid();
    let begin = Instant::now();
    while remains(pid).len() < 3 && running.runs() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    if running.runs() {
        // If it has ended since, it is not waited for yet, so that its number is nobody else's.
        let sent = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
    // Its output ends when the last of its processes does.
    let ended = running.wait();
    let begin = Instant::now();
    while !remains(pid).is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "left: {:?}",
            remains(pid)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    ended.code
}
