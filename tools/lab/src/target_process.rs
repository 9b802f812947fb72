//! A target's process: its output, and pausing, killing and restarting it by the id it was started with.
#![allow(
    unsafe_code,
    reason = "sending a signal has no safe form in the standard library"
)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::process;

/// How long a target may take to be ready. It takes milliseconds; a busy machine may take long to run it.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(10);
/// The most of a target's output that is kept for a message.
const OUTPUT_BYTES_MAX: usize = 4096;

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct TargetProcess {
    program: &'static str,
    child: Child,
    /// Both output streams of the process, appended; nameless, so nothing is left of it.
    output: File,
    /// Where in `output` the words of this life begin.
    born_at: u64,
}

impl TargetProcess {
    /// Starts a command; `program` is what messages call it.
    pub(crate) fn start(program: &'static str, command: &mut Command) -> Result<Self, LabError> {
        let output = nameless_file()?;
        let child = spawn(command, &output)?;
        Ok(Self {
            program,
            child,
            output,
            born_at: 0,
        })
    }

    /// Kills the process if it lives, and starts this command in its place.
    pub(crate) fn start_again(&mut self, command: &mut Command) -> Result<(), LabError> {
        self.end()?;
        self.born_at = self.output_bytes();
        self.child = spawn(command, &self.output)?;
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process lives, paused or not.
    pub(crate) fn is_running(&self) -> bool {
        matches!(process_state(self.pid()), Some(state) if !matches!(state, 'Z' | 'X'))
    }

    fn output_bytes(&self) -> u64 {
        self.output
            .metadata()
            .map(|meta| meta.len())
            .unwrap_or_default()
    }

    /// What it has printed so far, the last few kilobytes.
    pub(crate) fn output(&self) -> String {
        let most = u64::try_from(OUTPUT_BYTES_MAX).unwrap_or(u64::MAX);
        self.read_output(self.output_bytes().saturating_sub(most))
    }

    /// The first few kilobytes that it has printed in this life.
    pub(crate) fn first_words(&self) -> String {
        self.read_output(self.born_at)
    }

    fn read_output(&self, from: u64) -> String {
        let mut bytes = vec![0; OUTPUT_BYTES_MAX];
        let read = self.output.read_at(&mut bytes, from).unwrap_or_default();
        bytes.truncate(read);
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Stops the process where it is (SIGSTOP), and returns once it has stopped.
    pub(crate) fn pause(&mut self) -> Result<(), LabError> {
        self.signal(libc::SIGSTOP)?;
        // The signal is delivered when the process next runs; a caller wants it stopped.
        let stopped = |process: &mut Self| process_state(process.pid()) == Some('T');
        self.wait_until(stopped)
    }

    /// Lets a paused process go on.
    pub(crate) fn resume(&mut self) -> Result<(), LabError> {
        self.signal(libc::SIGCONT)?;
        let goes_on =
            |process: &mut Self| process_state(process.pid()).is_some_and(|state| state != 'T');
        self.wait_until(goes_on)
    }

    /// Kills the process and waits for its end. Killing it again does nothing.
    pub(crate) fn end(&mut self) -> Result<ExitStatus, LabError> {
        // `Child` knows whether it has been waited for, and then leaves the process id alone.
        self.child
            .kill()
            .map_err(LabError::io(format!("kill {}", self.program)))?;
        self.wait()
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus, LabError> {
        self.signal(libc::SIGTERM)?;
        self.wait_for_end()
    }

    /// Waits until the process has ended of its own; one that does not is killed, and an error.
    pub(crate) fn wait_for_end(&mut self) -> Result<ExitStatus, LabError> {
        let begin = Instant::now();
        loop {
            let ended = self.child.try_wait();
            if let Some(status) =
                ended.map_err(LabError::io(format!("look after {}", self.program)))?
            {
                return Ok(status);
            }
            if begin.elapsed() > READY_WITHIN {
                let _ = self.end();
                return Err(self.not_ready(begin));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn wait(&mut self) -> Result<ExitStatus, LabError> {
        self.child
            .wait()
            .map_err(LabError::io(format!("wait for {}", self.program)))
    }

    fn signal(&mut self, signal: libc::c_int) -> Result<(), LabError> {
        self.check_alive()?;
        let action = format!("signal {}", self.program);
        let Ok(pid) = libc::pid_t::try_from(self.pid()) else {
            return Err(LabError::io(action)(
                std::io::ErrorKind::InvalidInput.into(),
            ));
        };
        // SAFETY: the child has not been waited for (`check_alive`), so the id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        if sent == 0 {
            Ok(())
        } else {
            Err(LabError::io(action)(std::io::Error::last_os_error()))
        }
    }

    /// Waits until something is so, while the process lives.
    pub(crate) fn wait_until(
        &mut self,
        mut reached: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), LabError> {
        let begin = Instant::now();
        while !reached(self) {
            self.check_alive()?;
            if begin.elapsed() > READY_WITHIN {
                return Err(self.not_ready(begin));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        Ok(())
    }

    fn not_ready(&self, since: Instant) -> LabError {
        LabError::TargetNotReady {
            program: self.program,
            waited: since.elapsed(),
            output: self.output(),
        }
    }

    fn check_alive(&mut self) -> Result<(), LabError> {
        let ended = self.child.try_wait();
        match ended.map_err(LabError::io(format!("look after {}", self.program)))? {
            None => Ok(()),
            Some(status) => Err(LabError::TargetEnded {
                program: self.program,
                status: process::status_in_words(status),
                output: self.output(),
            }),
        }
    }
}

impl Drop for TargetProcess {
    fn drop(&mut self) {
        // The guardian has another go at it when the lab ends.
        let _ = self.end();
    }
}

fn spawn(command: &mut Command, output: &File) -> Result<Child, LabError> {
    let stream = || {
        output
            .try_clone()
            .map(Stdio::from)
            .map_err(LabError::io("share a target's output file"))
    };
    command
        .stdin(Stdio::null())
        .stdout(stream()?)
        .stderr(stream()?);
    command.spawn().map_err(LabError::io(format!(
        "start `{}`",
        process::command_line(command)
    )))
}

/// A file that is read and appended to, and that has no name any more.
fn nameless_file() -> Result<File, LabError> {
    /// Files made by this process so far. Relaxed: only uniqueness matters, nothing is published through it.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("sandrail-target-{}-{count}", std::process::id()));
    let open = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path);
    let file = open.map_err(LabError::io(format!("create {}", path.display())))?;
    std::fs::remove_file(&path).map_err(LabError::io(format!("unlink {}", path.display())))?;
    Ok(file)
}

/// The one-letter state of a process, field 3 of `/proc/PID/stat` (proc(5)).
fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.get(stat.rfind(')')? + 1..)?
        .trim_start()
        .chars()
        .next()
}
