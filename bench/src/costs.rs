//! What an I/O costs beside time: processor time and system calls, of both sides.
//!
//! Processor time is the kernel's own account. System calls of our own loops are counted by the loops (each kick, each call to
//! receive, each yield: they make no others). Those of other programs are counted by `perf`, on the tracepoint that every
//! system call passes, in a pass of its own, since that slows them down.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Processor time that the calling thread has used, user and system, from /proc/thread-self/schedstat, in nanoseconds of the
/// scheduler's clock.
///
/// # Errors
/// The kernel does not keep that account (`CONFIG_SCHED_INFO`).
pub fn thread_cpu() -> anyhow::Result<Duration> {
    schedstat(Path::new("/proc/thread-self/schedstat"))
}

/// Processor time that all living threads of a process have used.
///
/// # Errors
/// There is no such process, or no such account.
pub fn threads_cpu(pid: u32) -> anyhow::Result<Duration> {
    let directory = format!("/proc/{pid}/task");
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(&directory).with_context(|| format!("read {directory}"))? {
        // A thread may end between the two.
        sum += schedstat(&task?.path().join("schedstat")).unwrap_or_default();
    }
    Ok(sum)
}

/// Processor time of this process's living threads whose names begin so.
///
/// # Errors
/// There is no such account.
pub fn named_threads_cpu(prefix: &str) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task").context("read /proc/self/task")? {
        let path = task?.path();
        // A thread may end between the two.
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            sum += schedstat(&path.join("schedstat")).unwrap_or_default();
        }
    }
    Ok(sum)
}

fn schedstat(path: &Path) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let first = text.split_whitespace().next().unwrap_or_default();
    let ns = first
        .parse()
        .with_context(|| format!("{}: {text:?}", path.display()))?;
    Ok(Duration::from_nanos(ns))
}

/// Processor time that a process has used, threads that have ended included, from /proc/PID/stat, in hundredths of a second.
///
/// # Errors
/// There is no such process.
pub fn process_cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    stat_cpu(&text).with_context(|| format!("{path}: {text:?}"))
}

/// Fields 14 and 15, utime and stime, in ticks of USER_HZ, which is 100 wherever Linux runs here (proc(5)).
fn stat_cpu(text: &str) -> Option<Duration> {
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    let ticks: u64 = fields
        .skip(14 - 3)
        .take(2)
        .map(|field| field.parse::<u64>())
        .sum::<Result<u64, _>>()
        .ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// The tracepoint that every system call passes.
const EVENT: &str = "raw_syscalls:sys_enter";
/// How long perf may take to attach.
const ATTACHED_WITHIN: Duration = Duration::from_secs(5);

/// Counts the system calls of a running process, all threads.
#[derive(Debug)]
pub struct CallCounter {
    perf: Child,
}

impl CallCounter {
    /// Attaches `perf`; returns once it counts.
    ///
    /// # Errors
    /// `perf` is missing, or may not.
    pub fn attach(pid: u32) -> anyhow::Result<Self> {
        let perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", EVENT, "-p", &pid.to_string()])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start perf (of linux-perf)")?;
        let mut counter = Self { perf };
        let begin = Instant::now();
        while !counter.is_attached() {
            if let Some(status) = counter.perf.try_wait()? {
                anyhow::bail!("perf ended: {status}, {}", counter.printed());
            }
            anyhow::ensure!(begin.elapsed() < ATTACHED_WITHIN, "perf does not attach");
            std::thread::sleep(Duration::from_millis(5));
        }
        // From the opening of its events to their enabling.
        std::thread::sleep(Duration::from_millis(50));
        Ok(counter)
    }

    /// Whether it has opened an event.
    fn is_attached(&self) -> bool {
        let directory = format!("/proc/{}/fd", self.perf.id());
        let Ok(descriptors) = fs::read_dir(directory) else {
            return false;
        };
        descriptors
            .flatten()
            .filter_map(|each| fs::read_link(each.path()).ok())
            .any(|link| link.to_string_lossy().contains("perf_event"))
    }

    /// Ends it; how many system calls there were.
    ///
    /// # Errors
    /// `perf` did not count.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        let pid = self.perf.id().to_string();
        let asked = Command::new("kill").args(["-INT", &pid]).status()?;
        anyhow::ensure!(asked.success(), "end perf: {asked}");
        self.perf.wait()?;
        let printed = self.printed();
        counted(&printed).with_context(|| format!("perf printed {printed:?}"))
    }

    fn printed(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.perf.stderr.take() {
            // What cannot be read shows as a count that is missing.
            drop(stderr.read_to_string(&mut text));
        }
        text
    }
}

impl Drop for CallCounter {
    fn drop(&mut self) {
        // It has ended already, as a rule; `Child` knows.
        drop(self.perf.kill());
        drop(self.perf.wait());
    }
}

/// The count in a line `531446,,raw_syscalls:sys_enter,...` (perf-stat(1), `-x`).
fn counted(printed: &str) -> Option<u64> {
    let line = printed.lines().find(|line| line.contains(EVENT))?;
    line.split(',').next()?.parse().ok()
}

/// System calls of a command from its start to its end.
///
/// # Errors
/// `perf` is missing, or the command failed.
pub fn calls_of(command: &Command) -> anyhow::Result<(Output, u64)> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ",", "-e", EVENT, "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    let output = perf.output().context("start perf (of linux-perf)")?;
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{}: {printed}", output.status);
    let calls = counted(&printed).with_context(|| format!("perf printed {printed:?}"))?;
    Ok((output, calls))
}

/// Whether `perf` can count system calls here.
///
/// # Errors
/// What is in the way.
pub fn can_count() -> anyhow::Result<()> {
    calls_of(&Command::new("true")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_uses_time() {
        let before = thread_cpu().unwrap();
        let mut sum = 0_u64;
        while thread_cpu().unwrap() - before < Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        let mut child = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let accounts: [fn(u32) -> anyhow::Result<Duration>; 2] = [threads_cpu, process_cpu];
        let begin = Instant::now();
        let worked = accounts.map(|account| {
            while begin.elapsed() < Duration::from_secs(20) {
                if account(child.id()).is_ok_and(|used| used >= Duration::from_millis(20)) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(worked, [true; 2], "both accounts saw it");
        assert!(process_cpu(child.id()).is_err(), "it is gone");
    }

    #[test]
    fn the_fields_of_stat_are_the_right_ones() {
        let text = "26235 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 1700 34 0 0 20 0 1 0 100";
        assert_eq!(stat_cpu(text), Some(Duration::from_millis(17_340)));
        assert_eq!(stat_cpu("26235 (x) S 1"), Some(Duration::ZERO));
        assert_eq!(stat_cpu("nothing"), None);
    }

    #[test]
    fn perfs_count_is_read() {
        let printed = "531446,,raw_syscalls:sys_enter,235959942,100.00,,\n";
        assert_eq!(counted(printed), Some(531_446));
        let none = "<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n";
        assert_eq!(counted(none), None);
    }

    #[test]
    fn calls_are_counted_where_perf_can() {
        if !sandrail_lab::may_run("calls_are_counted_where_perf_can", can_count()) {
            return;
        }
        // dd makes a read and a write a block.
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "of=/dev/null", "bs=1", "count=10000"]);
        let (_, calls) = calls_of(&dd).unwrap();
        assert!((20_000..21_000).contains(&calls), "{calls}");
        let mut sleep = Command::new("sleep").arg("60").spawn().unwrap();
        let counter = CallCounter::attach(sleep.id()).unwrap();
        let calls = counter.finish();
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        // A sleeper makes none; perf says 0, or that it counted nothing.
        assert!(calls.is_err() || calls.is_ok_and(|calls| calls < 10));
    }
}
