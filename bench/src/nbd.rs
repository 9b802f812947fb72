//! What a user would pick instead: NBD over TCP, `nbdkit` in memory at one end, `fio` at the other, both as they are shipped.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use sandrail_lab::{Lab, Side};
use sandrail_report::{Histogram, latency_histogram};
use serde_json::Value;

use crate::costs::{self, CallCounter};
use crate::driver::Span;
use crate::site::Direction;

const PORT: u16 = 10_809;
/// How long the server may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Whether the programs are there.
///
/// # Errors
/// Which is missing, and its package.
pub fn supported() -> anyhow::Result<()> {
    for (program, package) in [
        ("nbdkit", "nbdkit"),
        ("fio", "fio"),
        ("taskset", "util-linux"),
    ] {
        let found = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        anyhow::ensure!(
            found.is_ok(),
            "`{program}` is not installed: on Debian, apt-get install {package}"
        );
    }
    Ok(())
}

/// A server on the target's side of a lab that has addresses.
#[derive(Debug)]
pub struct Nbd {
    server: Child,
    lab: Lab,
    size_bytes: u64,
    client_core: usize,
}

/// What fio measured.
#[derive(Debug)]
pub struct FioRun {
    /// I/Os that ended.
    pub ios: u64,
    /// I/Os a second.
    pub ios_per_s: f64,
    /// Processor time of the client, while it measured.
    pub client_cpu: Duration,
    /// Latencies, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Nbd {
    /// Starts the server on `server_core`; clients will run on `client_core`. Every block is written once. The server ends with
    /// the calling thread: it asks the kernel for that itself (PR_SET_PDEATHSIG).
    ///
    /// # Errors
    /// A program is missing, or does not start.
    pub fn start(
        lab: Lab,
        size_bytes: u64,
        server_core: usize,
        client_core: usize,
    ) -> anyhow::Result<Self> {
        supported()?;
        let mut command = lab.command(Side::Target, "taskset");
        command
            .args(["-c", &server_core.to_string(), "nbdkit", "--foreground"])
            .args(["--port", &PORT.to_string()])
            .args(["--ipaddr", &lab.address(Side::Target).to_string()])
            .args(["memory", &format!("size={size_bytes}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let server = command.spawn().context("start nbdkit")?;
        let mut nbd = Self {
            server,
            lab,
            size_bytes,
            client_core,
        };
        nbd.wait_until_ready()?;
        // Blocks never written are not there: the server would answer from one page of zeros.
        let mut fill = nbd.client();
        fill.args(["--rw=write", "--bs=1M", "--iodepth=4"]);
        run(&mut fill).context("fill the server's memory")?;
        Ok(nbd)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let address = SocketAddr::from((self.lab.address(Side::Target), PORT));
        let begin = Instant::now();
        while self
            .lab
            .enter(Side::Initiator, || TcpStream::connect(address))?
            .is_err()
        {
            if let Some(status) = self.server.try_wait()? {
                anyhow::bail!("nbdkit ended: {status}");
            }
            anyhow::ensure!(begin.elapsed() < READY_WITHIN, "nbdkit does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The server's process.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        self.server.id()
    }

    /// fio with what all runs have in common.
    fn client(&self) -> Command {
        let mut command = self.lab.command(Side::Initiator, "taskset");
        let address = self.lab.address(Side::Target);
        command
            .args(["-c", &self.client_core.to_string(), "fio", "--name=nbd"])
            .args(["--ioengine=nbd", &format!("--uri=nbd://{address}:{PORT}/")])
            .arg(format!("--size={}", self.size_bytes))
            .args(["--output-format=json+", "--lat_percentiles=1"]);
        command
    }

    fn load(&self, direction: Direction, depth: usize, seed: u64, span: Span) -> Command {
        let mut command = self.client();
        command
            .arg(format!("--rw=rand{direction}"))
            .args(["--bs=4k", "--time_based"])
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--randseed={seed}"))
            .arg(format!("--ramp_time={}ms", span.warmup.as_millis()))
            .arg(format!("--runtime={}ms", span.measure.as_millis()));
        command
    }

    /// Loads the server with random 4 KiB blocks.
    ///
    /// # Errors
    /// fio failed, or printed something else.
    pub fn measure(
        &self,
        direction: Direction,
        depth: usize,
        seed: u64,
        span: Span,
    ) -> anyhow::Result<FioRun> {
        let printed = run(&mut self.load(direction, depth, seed, span))?;
        parse(&printed, direction)
    }

    /// System calls an I/O of client and server. The client's are those of a long run less those of a short one, so that
    /// start and end do not count; the server's those of both runs, connections included.
    ///
    /// # Errors
    /// fio failed, or `perf` can't count.
    pub fn count_calls(
        &self,
        direction: Direction,
        depth: usize,
        seed: u64,
    ) -> anyhow::Result<[f64; 2]> {
        let server = CallCounter::attach(self.server_pid())?;
        let mut runs = Vec::new();
        for measure_ms in [100, 500] {
            let span = Span::of(Duration::ZERO, Duration::from_millis(measure_ms));
            let load = self.load(direction, depth, seed, span);
            let (output, calls) = costs::calls_of(&load)?;
            let ios = parse(&String::from_utf8_lossy(&output.stdout), direction)?.ios;
            runs.push((ios, calls));
        }
        let server_calls = server.finish()?;
        let [(few, few_calls), (many, many_calls)] = runs[..] else {
            anyhow::bail!("two runs");
        };
        anyhow::ensure!(many > few, "{many} I/Os in the longer run, {few} before");
        Ok([
            per(many_calls.saturating_sub(few_calls), many - few),
            per(server_calls, many + few),
        ])
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        // It may have ended; the lab's guardian has another go at it.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// What of `count` falls to each.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(crate) fn per(count: u64, ios: u64) -> f64 {
    count as f64 / ios.max(1) as f64
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().context("start fio")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "fio: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(printed)
}

/// Of fio's JSON, behind what else it prints.
fn parse(printed: &str, direction: Direction) -> anyhow::Result<FioRun> {
    let begin = printed.find('{').context("fio printed no JSON")?;
    let mut values = serde_json::Deserializer::from_str(&printed[begin..]).into_iter::<Value>();
    let value = values.next().context("fio printed nothing")??;
    let job = &value["jobs"][0];
    let side = &job[direction.to_string()];
    let number = |value: &Value, name: &str| {
        value[name]
            .as_f64()
            .with_context(|| format!("fio tells no {name}"))
    };
    let mut latency = latency_histogram();
    let ios = side["total_ios"].as_u64().context("fio tells no I/Os")?;
    let bins = side["lat_ns"]["bins"].as_object();
    anyhow::ensure!(bins.is_some() || ios == 0, "fio tells no latencies");
    for (ns, count) in bins.into_iter().flatten() {
        let count = count.as_u64().unwrap_or(0);
        latency.saturating_record_n(ns.parse().context("a latency in ns")?, count);
    }
    let busy_percent = number(job, "usr_cpu")? + number(job, "sys_cpu")?;
    let runtime_s = number(job, "job_runtime")? / 1000.0;
    Ok(FioRun {
        ios,
        ios_per_s: number(side, "iops")?,
        client_cpu: Duration::from_secs_f64(busy_percent / 100.0 * runtime_s),
        latency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "fio: connected to NBD server\n{\"jobs\": [{\"usr_cpu\": 12.5, \"sys_cpu\": 37.5, \
        \"job_runtime\": 200, \"read\": {\"total_ios\": 6, \"iops\": 30.0, \"lat_ns\": {\"bins\": {\"1000\": 4, \
        \"2000\": 2}}}, \"write\": {\"total_ios\": 0, \"iops\": 0.0, \"lat_ns\": {}}}]}\nand more";

    #[test]
    fn fios_words_are_read() {
        let run = parse(PRINTED, Direction::Read).unwrap();
        assert_eq!((run.ios, run.latency.len()), (6, 6));
        assert!((run.ios_per_s - 30.0).abs() < 1e-9);
        assert_eq!(run.client_cpu, Duration::from_millis(100));
        assert_eq!(run.latency.value_at_quantile(0.5), 1000);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        assert!(parse("fio: failed", Direction::Read).is_err());
        assert!(parse("{}", Direction::Read).is_err());
        assert_eq!(parse(PRINTED, Direction::Write).unwrap().ios, 0);
    }
}
