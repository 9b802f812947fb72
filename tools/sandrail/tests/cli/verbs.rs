//! What the verbs do, over packet sockets and over AF_XDP, with a target that is not ours.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandrail_lab::{Side, VbladeOptions};
use serde_json::Value;

use crate::errors::ENVIRONMENT;
use crate::san::{LINKS, San, noise, possible};

#[test]
fn targets_are_found_and_described() {
    if !possible("targets_are_found_and_described") {
        return;
    }
    let san = San::new(9000, 8 << 20);
    let other = san.lab.backing_file(1 << 20).unwrap();
    let _second = san
        .lab
        .vblade(VbladeOptions::new(7, 4, other.path()))
        .unwrap();
    let mac = san.lab.mac(Side::Target).to_string();
    for link in LINKS {
        let discover = |wait| {
            let args = ["--link", link, "--json", "discover", "--identify"];
            san.run(&[&args[..], &["--wait", wait]].concat())
        };
        // Both of them answer within that time, unless the machine keeps one from its core.
        let mut value = Value::Null;
        for wait in ["0.5", "2", "5", "20"] {
            value = discover(wait).exits(0).json();
            if value["targets"].as_array().map(Vec::len) == Some(2) {
                break;
            }
        }
        let targets = value["targets"].as_array().unwrap();
        let seen: Vec<_> = targets
            .iter()
            .map(|each| {
                (
                    each["target"].as_str().unwrap(),
                    each["size_bytes"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(seen, [("e7.3", 8 << 20), ("e7.4", 1 << 20)]);
        assert!(
            targets
                .iter()
                .all(|each| each["mac"] == mac && each["buffer_count"] == 16)
        );

        let value = san
            .run(&["--link", link, "--json", "stat", "e7.3"])
            .exits(0)
            .json();
        assert_eq!(value["sectors"], 16384);
        assert_eq!(value["model"], "Coraid EtherDrive vblade");
        assert_eq!(value["paths"][0]["payload_sectors"], 17, "{value}");
        assert!(value["paths"][0]["rtt_ns"].as_u64().unwrap() > 0);
        assert_eq!(value["flush"], "unclaimed", "vblade promises nothing");
        let mode = value["links"][0]["mode"].as_str().unwrap();
        assert!(mode.starts_with(link), "{mode}");

        let value = san
            .run(&["--link", link, "--json", "identify", "7.3", "--raw"])
            .exits(0)
            .json();
        assert_eq!(value["size_bytes"], 8 << 20);
        assert_eq!(value["raw"].as_str().unwrap().len(), 1024);
    }
    let text = san.run(&["discover"]).exits(0).text();
    assert!(text.starts_with("TARGET") && text.contains(&mac), "{text}");
}

#[test]
fn what_is_written_is_read_whatever_the_link_shards_depth_and_block() {
    if !possible("what_is_written_is_read_whatever_the_link_shards_depth_and_block") {
        return;
    }
    for mtu in [1500, 9000] {
        let san = San::new(mtu, 8 << 20);
        let settings = [
            ["1", "1", "4K"],
            ["1", "32", "64K"],
            ["2", "7", "1536"],
            ["2", "64", "1M"],
        ];
        for (seed, (link, [shards, depth, block])) in (1..).zip(
            LINKS
                .into_iter()
                .flat_map(|link| settings.map(|setting| (link, setting))),
        ) {
            // No multiple of a block, nor of a stripe, and not at the start.
            let data = noise(seed, (3 << 20) + 512 * 5);
            let file = san.folder.with("in", &data);
            let back = san.folder.file("out");
            let how = ["--link", link, "--shards", shards];
            let flow = ["--depth", depth, "--block", block, "--lba", "1003"];
            let write = ["write", "7.3", "-f", &file, "--verify", "--flush"];
            let ended = san
                .run(&[&how[..], &["--json"], &write[..], &flow[..]].concat())
                .exits(0);
            let value = ended.json();
            assert_eq!(value["sectors"], 6149);
            assert_eq!(value["verified"], true);
            assert_eq!(value["flush"], "unclaimed");
            assert!(value["latency"]["samples"].as_u64().unwrap() > 0);
            assert!(
                san.content()[1003 * 512..][..data.len()] == data,
                "{how:?} {flow:?}: the target has something else"
            );
            let read = ["read", "7.3", "--sectors", "6149", "-o", &back];
            san.run(&[&how[..], &read[..], &flow[..]].concat()).exits(0);
            assert!(fs::read(&back).unwrap() == data, "{how:?} {flow:?}");
        }
    }
}

#[test]
fn a_queue_that_the_interface_lacks_is_named() {
    if !possible("a_queue_that_the_interface_lacks_is_named") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    let queues = ["--shards", "2", "--queues", "each", "--link", "xdp-generic"];
    san.run(&[&queues[..], &["discover"]].concat())
        .exits(ENVIRONMENT)
        .says(&["queue 1"]);
}

#[test]
fn pipes_go_both_ways() {
    if !possible("pipes_go_both_ways") {
        return;
    }
    let san = San::new(9000, 1 << 20);
    for link in LINKS {
        let data = noise(5, 300_000);
        let mut running = san.start(&["--link", link, "write", "7.3", "--pad", "--verify"]);
        for part in data.chunks(7001) {
            running.send(part);
        }
        running.close_input();
        let ended = running.wait().exits(0);
        assert!(
            ended.text().contains("all 586 sectors read back"),
            "{}",
            ended.text()
        );
        let ended = san
            .run(&["--link", link, "read", "7.3", "--sectors", "586"])
            .exits(0);
        assert_eq!(ended.out.len(), 586 * 512);
        assert!(ended.out[..data.len()] == data);
        assert!(
            ended.out[data.len()..].iter().all(|byte| *byte == 0),
            "padding"
        );
        assert!(
            ended.err.contains("latency"),
            "the report goes to standard error: {}",
            ended.err
        );
    }
}

#[test]
fn a_difference_is_found_and_named() {
    if !possible("a_difference_is_found_and_named") {
        return;
    }
    let san = San::new(9000, 32 << 20);
    let data = noise(6, 32 << 20);
    let file = san.folder.with("in", &data);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Somebody else writes to the disk: sector 100 is spoilt whenever it was written.
        let spoiler = san.disk.open().unwrap();
        let spoilt = &ended;
        scope.spawn(move || {
            while !spoilt.load(Ordering::Relaxed) {
                spoiler.write_all_at(&[0; 3], 100 * 512 + 99).unwrap();
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let run = san.run(&["write", "7.3", "-f", &file, "--verify"]);
        ended.store(true, Ordering::Relaxed);
        run.exits(1)
            .says(&["sector 100 of e7.3 differs", "1 of 65536 sectors"]);
    });
}

#[test]
fn config_strings_are_read_tested_and_set() {
    if !possible("config_strings_are_read_tested_and_set") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    for link in LINKS {
        let config = |words: &[&str]| {
            san.run(&[&["--link", link, "--json", "config", "7.3"], words].concat())
        };
        assert_eq!(config(&["get"]).exits(0).json()["config"], "");
        assert_eq!(
            config(&["set", "rack 4"]).exits(0).json()["config"],
            "rack 4"
        );
        config(&["set", "rack 5"])
            .exits(4)
            .says(&["e7.3", "rack 4"]);
        config(&["test", "rack 4"]).exits(0);
        config(&["test", "rack"])
            .exits(4)
            .says(&["\"rack\"", "\"rack 4\""]);
        config(&["prefix", "rack"]).exits(0);
        config(&["prefix", "shelf"]).exits(4).says(&["begins with"]);
        assert_eq!(
            config(&["force-set", "rack 5"]).exits(0).json()["config"],
            "rack 5"
        );
        config(&["force-set", ""]).exits(0);
        config(&["set", &"x".repeat(1025)]).exits(2).says(&["1024"]);
    }
}

/// Seconds that a request may take: far more than a refusal does.
const TIMEOUT: u64 = 60;

#[test]
fn a_reservation_shuts_others_out_at_once() {
    if !possible("a_reservation_shuts_others_out_at_once") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    let own = san.lab.mac(Side::Initiator).to_string();
    let other = "02:00:00:00:00:99";
    for link in LINKS {
        let reserve = |words: &[&str]| {
            san.run(&[&["--link", link, "--json", "reserve", "7.3"], words].concat())
        };
        let holders = |value: &serde_json::Value| value["reserved_for"].as_array().unwrap().len();
        assert_eq!(holders(&reserve(&["show"]).exits(0).json()), 0);
        assert_eq!(
            reserve(&["set", &own]).exits(0).json()["reserved_for"][0],
            own
        );
        // Epochs are for targets that announce them: vblade is never asked.
        reserve(&["set", "--epoch", "5", other])
            .exits(4)
            .says(&["reservation of e7.3", "by epoch"]);
        reserve(&["set", "--epoch", "0", other]).exits(2);
        reserve(&["release", "--epoch", "5", "--force"]).exits(2);
        let warned = reserve(&["set", other]).exits(0);
        assert!(
            warned.err.contains("this station") && warned.err.contains(&own),
            "{}",
            warned.err
        );
        let begin = std::time::Instant::now();
        let how = ["--link", link, "--timeout", &TIMEOUT.to_string()];
        let read = ["read", "7.3", "--sectors", "1", "-o", "/dev/null"];
        san.run(&[&how[..], &read[..]].concat())
            .exits(4)
            .says(&["sector 0 of e7.3", "target reserved"]);
        assert!(
            begin.elapsed() < Duration::from_secs(TIMEOUT),
            "an error, not a timeout"
        );
        let one = san.folder.with("one", &noise(1, 512));
        san.run(&["--link", link, "write", "7.3", "-f", &one])
            .exits(4)
            .says(&["target reserved"]);
        reserve(&["release"])
            .exits(4)
            .says(&["reservation of e7.3", "target reserved"]);
        assert_eq!(
            holders(&reserve(&["release", "--force"]).exits(0).json()),
            0
        );
    }
}

#[test]
fn a_mask_list_is_shown_and_its_edits_are_not_believed() {
    if !possible("a_mask_list_is_shown_and_its_edits_are_not_believed") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    let ended = san.run(&["mask", "7.3", "list"]).exits(0);
    assert!(ended.text().contains("admits everybody"));
    // vblade 25 answers this with success and forgets it, or ends itself: either way it is no success.
    let ended = san.run(&["--timeout", "1", "mask", "7.3", "add", "02:00:00:00:00:99"]);
    assert_ne!(ended.code, Some(0), "{}", ended.text());
    assert!(
        ended.err.contains("no fence") && ended.err.contains("e7.3"),
        "{}",
        ended.err
    );
}

#[test]
fn captures_hold_what_was_sent_and_received_and_others_can_read_them() {
    if !possible("captures_hold_what_was_sent_and_received_and_others_can_read_them") {
        return;
    }
    let san = San::new(9000, 1 << 20);
    for link in LINKS {
        let file = san.folder.file(&format!("{link}.pcapng"));
        let data = san.folder.with("in", &noise(9, 100 * 512));
        let args = [
            "--link",
            link,
            "--capture",
            &file,
            "--json",
            "write",
            "7.3",
            "-f",
            &data,
        ];
        let value = san.run(&args).exits(0).json();
        let frames = value["wire"]["frames_sent"].as_u64().unwrap()
            + value["wire"]["frames_received"].as_u64().unwrap();
        assert_eq!(
            fs::read(&file).unwrap()[..4],
            [0x0a, 0x0d, 0x0d, 0x0a],
            "pcapng's magic"
        );
        let Ok(decoded) = Command::new("tshark").args(["-r", &file, "-V"]).output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&decoded.stdout);
        assert!(!text.contains("Malformed"), "{text}");
        let seen = text
            .lines()
            .filter(|line| line.starts_with("Frame "))
            .count();
        // What was sent twice as an answer was late is answered twice, the second time perhaps after the sums were made.
        let late = value["wire"]["retransmitted"].as_u64().unwrap_or(0);
        let seen = u64::try_from(seen).unwrap();
        assert!(
            (frames..=frames + late).contains(&seen),
            "{link}: {seen}, {value}"
        );
    }
    let file = san.folder.file("heard.pcapng");
    let args = [
        "--json",
        "capture",
        "-o",
        &file,
        "--seconds",
        "60",
        "--count",
        "2",
        "--discover",
    ];
    let value = san.run(&args).exits(0).json();
    assert!(value["frames"].as_u64().unwrap() >= 2, "{value}");
    assert_eq!(value["frames_dropped"], 0);
}

#[test]
fn the_doctor_finds_a_healthy_wire_healthy() {
    if !possible("the_doctor_finds_a_healthy_wire_healthy") {
        return;
    }
    let san = San::new(9000, 1 << 20);
    let ended = san.run(&["--json", "doctor"]);
    let value = ended.json();
    for finding in value["findings"].as_array().unwrap() {
        assert_ne!(finding["level"], "FAIL", "{finding}");
        let has_remedy = !finding["remedy"].as_str().unwrap().is_empty();
        assert_eq!(has_remedy, finding["level"] != "OK", "{finding}");
    }
    let code = match value["worst"].as_str().unwrap() {
        "OK" => 0,
        "WARN" => 5,
        other => panic!("{other}"),
    };
    ended.exits(code);
}
