//! A target that restarts has lost what was not flushed: it is written again, or an error says so (S7).

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::run::Running;
use crate::san::{San, noise, possible};

/// Waits until the sector at `lba` is no longer zeros.
fn wait_for_sector(san: &San, running: &mut Running, lba: u64) {
    wait_for_change(san, running, lba, &[0; 512]);
}

/// Waits until the sector at `lba` is no longer that.
fn wait_for_change(san: &San, running: &mut Running, lba: u64, before: &[u8]) {
    let file = san.disk.open().unwrap();
    let begin = Instant::now();
    let mut sector = [0; 512];
    sector.copy_from_slice(before);
    while sector == before {
        file.read_exact_at(&mut sector, lba * 512).unwrap();
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "nothing is written"
        );
        assert!(running.runs(), "it ended early");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn a_file_is_written_again_when_the_target_restarts_before_the_flush() {
    if !possible("a_file_is_written_again_when_the_target_restarts_before_the_flush") {
        return;
    }
    let mut san = San::new(1500, 64 << 20);
    let mut said = Vec::new();
    // The restart must come before the flush, whenever this thread gets its turn.
    for seed in 11..16 {
        let data = noise(seed, 64 << 20);
        let file = san.folder.with("in", &data);
        let args = [
            "--json", "write", "7.3", "-f", &file, "--flush", "--verify", "--depth", "4",
            "--block", "4K",
        ];
        let before = san.content()[..512].to_vec();
        let mut running = san.start(&args);
        wait_for_change(&san, &mut running, 0, &before);
        san.target.restart().unwrap();
        let ended = running.wait().exits(0);
        assert!(san.content() == data);
        let rewrites = ended.json()["rewrites"].as_u64().unwrap();
        said.push((rewrites, ended.err));
        if rewrites > 0 {
            break;
        }
    }
    let (rewrites, words) = said.last().unwrap();
    assert!(*rewrites >= 1, "{said:?}");
    assert!(words.contains("written again"), "{words}");
}

#[test]
fn a_pipe_cannot_be_written_again_and_says_so() {
    if !possible("a_pipe_cannot_be_written_again_and_says_so") {
        return;
    }
    let mut san = San::new(1500, 1 << 20);
    let data = noise(12, 512 << 10);
    let mut running = san.start(&["write", "7.3", "--flush"]);
    running.send(&data[..256 << 10]);
    wait_for_sector(&san, &mut running, 100);
    san.target.restart().unwrap();
    running.send(&data[256 << 10..]);
    running.close_input();
    running
        .wait()
        .exits(1)
        .says(&["flush of e7.3", "restarted", "pipe", "lost"]);
}

#[test]
fn a_target_that_goes_for_good_is_an_error_by_the_deadline() {
    if !possible("a_target_that_goes_for_good_is_an_error_by_the_deadline") {
        return;
    }
    let mut san = San::new(1500, 1 << 20);
    let data = noise(13, 512 << 10);
    let mut running = san.start(&["--timeout", "1", "write", "7.3"]);
    running.send(&data[..256 << 10]);
    wait_for_sector(&san, &mut running, 100);
    san.target.kill().unwrap();
    let begin = Instant::now();
    running.send(&data[256 << 10..]);
    running.close_input();
    running
        .wait()
        .exits(1)
        .says(&["write failed at sector", "e7.3", "deadline"]);
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
}
