//! `sandrail-blade`, the target that is built here: one process serves any number of disks.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::{LabError, Unsupported};
use crate::process;
use crate::target_process::TargetProcess;

/// Names the program to run, where it does not lie beside the running one.
pub const BLADE_VARIABLE: &str = "SANDRAIL_BLADE";
/// The program's name.
const PROGRAM: &str = "sandrail-blade";
/// How long an answer over the control socket may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What a blade is to serve, and how; see `sandrail-blade --help`. Interface and control socket are the lab's.
#[derive(Debug, Clone)]
pub struct BladeOptions {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, such as `--export`, `e7.3=ram:64M`.
    pub args: Vec<String>,
    /// Environment variables on top of this process's.
    pub env: Vec<(String, String)>,
}

impl BladeOptions {
    /// A program at a known place: tests of the program itself know it.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// The program that was built with the running one: `SANDRAIL_BLADE`, or what lies beside it or one folder above.
    ///
    /// # Errors
    /// There is none; the message says how to build it.
    pub fn find() -> Result<Self, LabError> {
        if let Some(program) = std::env::var_os(BLADE_VARIABLE) {
            return Ok(Self::new(program));
        }
        let own = std::env::current_exe().map_err(LabError::io("find the running program"))?;
        own.ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join(PROGRAM))
            .find(|program| program.is_file())
            .map(Self::new)
            .ok_or(LabError::Unsupported(Unsupported::NotBuilt {
                program: PROGRAM,
            }))
    }

    /// Adds an argument, or several.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a target: `("e7.3", "ram:64M,read-only")`.
    #[must_use]
    pub fn export(self, addr: &str, medium: &str) -> Self {
        self.args(["--export".to_owned(), format!("{addr}={medium}")])
    }

    /// Keeps states in this folder.
    #[must_use]
    pub fn state_dir(self, dir: &Path) -> Self {
        self.args(["--state-dir".to_owned(), dir.display().to_string()])
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A `sandrail-blade` process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Blade {
    namespace: String,
    interface: String,
    control: PathBuf,
    options: BladeOptions,
    process: TargetProcess,
}

impl Blade {
    pub(crate) fn start(
        namespace: &str,
        interface: &str,
        folder: &Path,
        options: BladeOptions,
    ) -> Result<Self, LabError> {
        /// Blades of this process so far. Relaxed: only uniqueness matters, nothing is published through it.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let control = folder.join(format!("blade-{count}.control"));
        let mut command = command(namespace, interface, &control, &options)?;
        let mut blade = Self {
            namespace: namespace.to_owned(),
            interface: interface.to_owned(),
            control,
            options,
            process: TargetProcess::start(PROGRAM, &mut command)?,
        };
        blade.wait_until_ready()?;
        Ok(blade)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The options it runs with; changed ones take effect with the next [`Blade::restart`].
    pub fn options_mut(&mut self) -> &mut BladeOptions {
        &mut self.options
    }

    /// Where its control socket is.
    #[must_use]
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// Whether the process lives, paused or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// What it has printed and logged so far, the last few kilobytes.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Stops the process where it is (SIGSTOP), and returns once it has stopped: frames queue up in its rings.
    ///
    /// # Errors
    /// The process has ended.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.process.pause()
    }

    /// Lets a paused process go on.
    ///
    /// # Errors
    /// The process has ended.
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.process.resume()
    }

    /// Kills the process (SIGKILL) and waits for its end. Killing it again does nothing.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.process.end().map(drop)
    }

    /// Asks the process to end (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// It has ended before, or does not end.
    pub fn stop(&mut self) -> Result<ExitStatus, LabError> {
        self.process.terminate()
    }

    /// Waits until the process has ended of its own.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus, LabError> {
        self.process.wait_for_end()
    }

    /// Kills the process if it lives, starts another with the same options, and waits until that is ready.
    ///
    /// # Errors
    /// As for [`crate::Lab::blade`].
    pub fn restart(&mut self) -> Result<(), LabError> {
        let mut command = command(
            &self.namespace,
            &self.interface,
            &self.control,
            &self.options,
        )?;
        self.process.start_again(&mut command)?;
        self.wait_until_ready()
    }

    /// Sends one request over the control socket, a line of JSON, and returns the answer, another; see `docs/blade.md`.
    /// A blade that was told to crash ends instead of answering: then the answer is empty.
    ///
    /// # Errors
    /// Nobody listens, or no answer comes.
    pub fn control(&self, request: &str) -> Result<String, LabError> {
        let told = LabError::io(format!("ask {} `{request}`", self.control.display()));
        let ask = || {
            let mut stream = UnixStream::connect(&self.control)?;
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            stream.write_all(format!("{request}\n").as_bytes())?;
            let mut answer = String::new();
            match BufReader::new(stream).read_line(&mut answer) {
                // A process that dies with a request in its socket resets the connection.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                other => drop(other?),
            }
            Ok(answer.trim_end().to_owned())
        };
        ask().map_err(told)
    }

    /// Waits for the line with which it says that it serves.
    fn wait_until_ready(&mut self) -> Result<(), LabError> {
        self.process.wait_until(|process| {
            let words = process.first_words();
            words.lines().any(|line| line.starts_with("READY"))
        })
    }
}

fn command(
    namespace: &str,
    interface: &str,
    control: &Path,
    options: &BladeOptions,
) -> Result<Command, LabError> {
    let mut command = process::ip()?;
    command
        .args(["netns", "exec", namespace])
        .arg(&options.program)
        .args(["--interface", interface, "--control"])
        .arg(control)
        .args(&options.args)
        .envs(options.env.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_command_line() {
        let options = BladeOptions::new("/bin/blade")
            .export("e7.3", "ram:1M")
            .state_dir(Path::new("/tmp/s"))
            .args(["--link", "packet"]);
        let Ok(command) = command("ns", "san1", Path::new("/tmp/c"), &options) else {
            return; // A machine without `ip` has no lab.
        };
        let line = process::command_line(&command);
        let expected = "netns exec ns /bin/blade --interface san1 --control /tmp/c --export e7.3=ram:1M --state-dir /tmp/s \
                        --link packet";
        assert!(line.ends_with(expected), "{line}");
    }
}
