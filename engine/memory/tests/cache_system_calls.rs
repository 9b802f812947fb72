//! A hit makes no system call: strace sees none between two marks around hits of every kind.
//!
//! The test runs itself a second time, under strace, as the program that is watched.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on is one that fails"
)]

use std::io::Write;
use std::process::{Command, Stdio};

use sandrail_memory::cache::{Cache, CacheConfig, Handle, PageId, ShardFetch, Unchecked};
use sandrail_memory::{Arena, HugePages};

/// Set for the run that is watched.
const WATCHED: &str = "SANDRAIL_WATCHED";
const BEGIN: &str = "hits begin";
const END: &str = "hits end";
const PAGES: u64 = 1000;

fn page(number: u64) -> PageId {
    PageId::new(0, number).unwrap()
}

fn hit(handle: &Handle, number: u64) -> u64 {
    let page = page(number % PAGES);
    match number % 4 {
        0 => handle.optimistic(page, |view| view.u64_at(3)).unwrap(),
        1 => u64::from(handle.shared(page).wait().unwrap().bytes()[0]),
        2 => {
            let mut latch = handle.exclusive(page).wait().unwrap();
            latch.set_u64(1, number);
            0
        }
        _ => {
            drop(handle.pin(page).wait().unwrap());
            0
        }
    }
}

/// The marks are system calls themselves, by which strace's lines are told apart.
fn mark(what: &str) {
    std::io::stderr().write_all(what.as_bytes()).unwrap();
}

fn watched() {
    let config = CacheConfig::new(1024);
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).unwrap();
    let (cache, mut shards) = Cache::new(config, &mut arena, Box::new(Unchecked)).unwrap();
    for number in 0..PAGES {
        let ShardFetch::Read(mut ticket) = shards[0].fetch(page(number)) else {
            panic!("there are frames for all");
        };
        shards[0].fill(&mut ticket, 0, &[7; 4096]);
        shards[0].read_done(ticket, Ok(())).unwrap();
    }
    let work = |cache: &Cache| {
        let handle = cache.handle(0);
        mark(BEGIN);
        let sum = (0..1_000_000).fold(0, |sum: u64, number| sum.wrapping_add(hit(&handle, number)));
        mark(END);
        std::hint::black_box(sum);
    };
    work(&cache);
}

/// Whether there is such a program.
fn have(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The system calls of the thread that marked, between its marks.
fn between(trace: &str) -> Option<Vec<&str>> {
    let begin = trace.lines().position(|line| line.contains(BEGIN))?;
    let mut lines = trace.lines().skip(begin);
    let thread = lines.next()?.split_whitespace().next()?;
    let own = lines.filter(|line| line.split_whitespace().next() == Some(thread));
    let mut calls = Vec::new();
    for line in own {
        if line.contains(END) {
            return Some(calls);
        }
        calls.push(line);
    }
    None
}

#[test]
fn a_hit_makes_no_system_call() {
    if std::env::var_os(WATCHED).is_some() {
        return watched();
    }
    let runs = |support| sandrail_lab::may_run("a_hit_makes_no_system_call", support);
    if !have("strace") && !runs(Err("there is no strace".to_owned())) {
        return;
    }
    let trace = std::env::temp_dir().join(format!("sandrail-hits-{}.strace", std::process::id()));
    let output = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_hit_makes_no_system_call", "--nocapture"])
        .env(WATCHED, "1")
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&trace);
    let _ = std::fs::remove_file(&trace);
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("ptrace") && words.contains("not permitted") {
        runs(Err(format!("strace may not trace here: {words}")));
        return;
    }
    assert!(output.status.success(), "{words}");
    let text = text.unwrap();
    let calls = between(&text).expect("both marks are in the trace");
    let some = &calls[..calls.len().min(5)];
    assert!(calls.is_empty(), "{} calls, such as {some:?}", calls.len());
}

#[test]
fn the_trace_is_read_right() {
    let trace = "7 write(2, \"x\")\n8 write(2, \"hits begin\", 10) = 10\n7 mmap()\n8 futex(0) = 0\n\
                 8 write(2, \"hits end\", 8) = 8\n8 exit()\n";
    assert_eq!(between(trace), Some(vec!["8 futex(0) = 0"]));
    assert_eq!(
        between("8 write(2, \"hits begin\", 10) = 10\n8 x()\n"),
        None
    );
}
