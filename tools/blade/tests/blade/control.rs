//! The control socket: status, faults of the network and of disks, crashes, and what a hostile client may send.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use sandrail_lab::{Blade, Lab};
use sandrail_node::{BlockingError, RequestError, TargetHandle};
use sandrail_proto::aoe::initiator::IoError;
use sandrail_wire::Lba;

use crate::bed::{BLADE, PATIENCE, Station, ask, lab, noise, options, possible, target_status};

fn ctl(blade: &Blade, args: &[&str]) -> (bool, String) {
    let output = Command::new(BLADE)
        .arg("ctl")
        .arg(blade.control_socket())
        .args(args)
        .output()
        .unwrap();
    let words = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&words).into_owned(),
    )
}

fn bed(medium: &str) -> (Lab, Blade, Station, TargetHandle) {
    let lab = lab(1);
    let medium = medium.replace("DIR", lab.folder().unwrap().to_str().unwrap());
    let serving = options().export("e7.3", &medium).args(["--link", "packet"]);
    let blade = lab.blade(serving).unwrap();
    let station = Station::new(&lab);
    let target = station.attach("e7.3");
    (lab, blade, station, target)
}

#[test]
fn the_status_is_for_people_and_for_programs() {
    if !possible("the_status_is_for_people_and_for_programs") {
        return;
    }
    let (_lab, blade, mut station, target) = bed("DIR/disk,create=4M");
    station.verify(target, 0, &noise(1, 1 << 20));
    let (ok, shown) = ctl(&blade, &["status"]);
    assert!(ok, "{shown}");
    for words in [
        "target e7.3: 4 MiB",
        "packet ring",
        "MTU 9000",
        "disk write: p50",
        "1 session(s)",
        "not kept",
    ] {
        assert!(shown.contains(words), "no `{words}` in {shown}");
    }
    let (ok, json) = ctl(&blade, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    let target = &status["cores"][0]["targets"][0];
    assert!(
        ok && target["latency"]["write"]["samples"].as_u64() > Some(0),
        "{json}"
    );
    assert!(
        status["memory"]
            .as_str()
            .is_some_and(|memory| !memory.is_empty())
    );
    let (ok, said) = ctl(&blade, &["fault-disk", "e7.4", "clear"]);
    assert!(!ok && said.contains("e7.4 is not served here"), "{said}");
    let (ok, said) = ctl(&blade, &["fault", "--drop", "2"]);
    assert!(!ok && said.contains("not a probability"), "{said}");
    let (ok, said) = ctl(&blade, &["fault", "-i", "eth9", "--drop", "1"]);
    assert!(!ok && said.contains("there are san1"), "{said}");
}

#[test]
fn garbage_on_the_socket_disturbs_nobody() {
    if !possible("garbage_on_the_socket_disturbs_nobody") {
        return;
    }
    let (_lab, blade, mut station, target) = bed("ram:1M");
    let mut random = fastrand::Rng::with_seed(7);
    let mut held = Vec::new();
    for round in 0..40 {
        let mut client = UnixStream::connect(blade.control_socket()).unwrap();
        let mut bytes = noise(round, random.usize(1..70_000));
        if round % 2 == 0 {
            bytes.push(b'\n');
        }
        // A client that is hung up on while it talks is one of those tried here.
        let _ = client.write_all(&bytes);
        let _ = client.write_all(br#"{"verb":"sta"#);
        if round % 4 == 0 {
            held.push(client);
        }
    }
    let mut many = UnixStream::connect(blade.control_socket()).unwrap();
    many.write_all(&b"{\"verb\":\"status\"}\n".repeat(20))
        .unwrap();
    many.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    many.read_to_string(&mut answers).unwrap();
    assert_eq!(
        answers
            .lines()
            .filter(|line| line.contains("\"ok\":true"))
            .count(),
        20
    );
    station.verify(target, 0, &noise(1, 64 << 10));
}

#[test]
fn frames_are_lost_doubled_and_late_while_it_is_asked_for() {
    if !possible("frames_are_lost_doubled_and_late_while_it_is_asked_for") {
        return;
    }
    let (_lab, blade, mut station, target) = bed("ram:8M");
    let (ok, said) = ctl(&blade, &["fault", "--drop", "1"]);
    assert!(ok && said.contains("1 link"), "{said}");
    station
        .client
        .set_request_timeout(Duration::from_millis(300));
    let mut sector = [0; 512];
    let error = station
        .client
        .read(target, Lba(0), &mut sector)
        .unwrap_err();
    assert!(
        matches!(
            error,
            BlockingError::Data {
                error: RequestError::Io(IoError::Deadline { .. }),
                ..
            }
        ),
        "{error}"
    );
    station.client.set_request_timeout(PATIENCE);
    let mild = [
        "fault",
        "--drop",
        "0.02",
        "--duplicate",
        "0.05",
        "--reorder",
        "0.05",
        "--delay",
        "0.02",
    ];
    assert!(ctl(&blade, &mild).0);
    station.verify(target, 0, &noise(1, 4 << 20));
    let link = ask(&blade, r#"{"verb":"status"}"#)["cores"][0]["links"][0].clone();
    for way in ["faults_transmit", "faults_receive"] {
        for kind in ["lost", "duplicated", "delayed"] {
            assert!(link[way][kind].as_u64() > Some(0), "{way} {kind}: {link}");
        }
    }
    assert!(ctl(&blade, &["fault", "--off"]).0);
    let seen = |blade: &Blade| {
        ask(blade, r#"{"verb":"status"}"#)["cores"][0]["links"][0]["faults_receive"]["seen"]
            .as_u64()
    };
    // What was held back comes through the faults still; then nothing goes through them any more.
    std::thread::sleep(Duration::from_millis(20));
    let before = seen(&blade);
    station.verify(target, 0, &noise(2, 1 << 20));
    assert_eq!(seen(&blade), before, "frames pass the faults by");
    let copies = target_status(&blade, "e7.3")["counters"]["copies_answered"].as_u64();
    assert!(
        copies > Some(0),
        "copies of writes were answered, not executed"
    );
}

#[test]
fn disks_fail_are_slow_and_hold_writes_as_told() {
    if !possible("disks_fail_are_slow_and_hold_writes_as_told") {
        return;
    }
    let (_lab, blade, mut station, target) = bed("DIR/disk,create=1M");
    assert!(
        ctl(
            &blade,
            &["fault-disk", "e7.3", "fail", "100", "2", "--reads"]
        )
        .0
    );
    station
        .client
        .write(target, Lba(96), &noise(1, 4096))
        .unwrap();
    let mut data = [0; 4096];
    let error = station.client.read(target, Lba(96), &mut data).unwrap_err();
    let uncorrectable = |error: &BlockingError| {
        matches!(
            error,
            BlockingError::Data {
                error: RequestError::Io(IoError::Ata {
                    error: 0x40,
                    lba: 100,
                    ..
                }),
                ..
            }
        )
    };
    assert!(uncorrectable(&error), "{error}");
    assert!(ctl(&blade, &["fault-disk", "e7.3", "clear"]).0);
    assert!(station.read(target, 96, 4096) == noise(1, 4096));

    assert!(ctl(&blade, &["fault-disk", "e7.3", "slow", "20000"]).0);
    let begin = Instant::now();
    station.read(target, 0, 512);
    assert!(
        begin.elapsed() >= Duration::from_millis(20),
        "{:?}",
        begin.elapsed()
    );
    assert!(ctl(&blade, &["fault-disk", "e7.3", "clear"]).0);

    assert!(ctl(&blade, &["fault-disk", "e7.3", "hold", "1"]).0);
    station
        .client
        .set_request_timeout(Duration::from_millis(300));
    station
        .client
        .write(target, Lba(8), &noise(2, 512))
        .unwrap_err();
    assert_eq!(target_status(&blade, "e7.3")["disk"]["faults_held_now"], 1);
    assert!(ctl(&blade, &["fault-disk", "e7.3", "release"]).0);
    station.client.set_request_timeout(PATIENCE);
    assert!(
        station.read(target, 8, 512) == noise(2, 512),
        "the held write was executed"
    );
}

/// Flushes some data, writes more without a flush, crashes; what the file has then of both.
fn after_crash(keep: &str) -> (Vec<u8>, Vec<u8>) {
    let (lab, mut blade, mut station, target) = bed("DIR/disk,create=1M,power-cut");
    station.verify(target, 0, &noise(1, 64 << 10));
    station.client.flush(target).unwrap();
    station.verify(target, 1024, &noise(2, 64 << 10));
    let (ok, said) = ctl(&blade, &["crash", "--keep", keep]);
    assert!(ok && said.trim() == "ended", "{said}");
    let status = blade.wait_for_end().unwrap();
    assert_eq!(status.code(), Some(9), "{}", blade.output());
    let content = std::fs::read(lab.folder().unwrap().join("disk")).unwrap();
    let piece = |at: usize| content[at..at + (64 << 10)].to_vec();
    (piece(0), piece(1024 * 512))
}

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() {
    if !possible("a_power_cut_loses_what_was_not_flushed_and_nothing_else") {
        return;
    }
    let (flushed, rest) = after_crash("none");
    assert!(flushed == noise(1, 64 << 10) && rest.iter().all(|byte| *byte == 0));
    let (flushed, rest) = after_crash("all");
    assert!(flushed == noise(1, 64 << 10) && rest == noise(2, 64 << 10));
    let (flushed, rest) = after_crash("7");
    assert!(flushed == noise(1, 64 << 10));
    let written = noise(2, 64 << 10);
    let (mut kept, mut lost) = (0, 0);
    for (have, want) in rest.chunks(512).zip(written.chunks(512)) {
        if have == want {
            kept += 1;
        } else {
            assert!(have.iter().all(|byte| *byte == 0), "a torn sector");
            lost += 1;
        }
    }
    assert!(kept > 10 && lost > 10, "{kept} kept, {lost} lost");
}

#[test]
fn a_kill_loses_no_acknowledged_write_of_a_plain_file() {
    if !possible("a_kill_loses_no_acknowledged_write_of_a_plain_file") {
        return;
    }
    let (lab, mut blade, mut station, target) = bed("DIR/disk,create=1M");
    station
        .client
        .write(target, Lba(0), &noise(3, 256 << 10))
        .unwrap();
    let (ok, said) = ctl(&blade, &["crash"]);
    assert!(ok, "{said}");
    assert_eq!(blade.wait_for_end().unwrap().code(), Some(9));
    let content = std::fs::read(lab.folder().unwrap().join("disk")).unwrap();
    assert!(content[..256 << 10] == noise(3, 256 << 10));
    blade.restart().unwrap();
    assert!(
        station.read(target, 0, 256 << 10) == noise(3, 256 << 10),
        "served again"
    );
}
