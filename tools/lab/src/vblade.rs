//! `vblade`, the third-party AoE target: one process a disk, handling frames one by one.
#![allow(
    unsafe_code,
    reason = "sending a signal has no safe form in the standard library"
)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::lab::MacAddress;
use crate::process;

/// How long a target may take to open its socket. It takes about a millisecond; a busy machine may take long to run it.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// The most of a target's output that is kept for a message.
const OUTPUT_BYTES_MAX: usize = 4096;

/// What a target is to serve, and how; see vblade(8).
#[derive(Debug, Clone)]
pub struct VbladeOptions {
    /// Shelf (major) address.
    pub shelf: u16,
    /// Slot (minor) address.
    pub slot: u8,
    /// The file to serve.
    pub file: PathBuf,
    /// Messages that the target says it queues (`-b`); vblade's own default is 16.
    pub buffer_count: Option<u16>,
    /// Opens the file with `O_DIRECT` (`-d`).
    pub direct: bool,
    /// Opens the file with `O_SYNC` (`-s`): without it nothing that was acknowledged is durable.
    pub sync: bool,
    /// Refuses writes (`-r`).
    pub readonly: bool,
    /// The only addresses to be answered (`-m`); empty admits everyone.
    pub macs: Vec<MacAddress>,
}

impl VbladeOptions {
    /// A target with vblade's own defaults.
    #[must_use]
    pub fn new(shelf: u16, slot: u8, file: impl Into<PathBuf>) -> Self {
        Self {
            shelf,
            slot,
            file: file.into(),
            buffer_count: None,
            direct: false,
            sync: false,
            readonly: false,
            macs: Vec::new(),
        }
    }

    fn add_to(&self, command: &mut Command, interface: &str) {
        if let Some(count) = self.buffer_count {
            command.args(["-b", &count.to_string()]);
        }
        for (flag, set) in [
            ("-d", self.direct),
            ("-s", self.sync),
            ("-r", self.readonly),
        ] {
            if set {
                command.arg(flag);
            }
        }
        if !self.macs.is_empty() {
            let macs: Vec<String> = self
                .macs
                .iter()
                .map(|mac| mac.to_string().replace(':', ""))
                .collect();
            command.args(["-m", &macs.join(",")]);
        }
        command
            .args([&self.shelf.to_string(), &self.slot.to_string(), interface])
            .arg(&self.file);
    }
}

/// A `vblade` process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Vblade {
    namespace: String,
    interface: String,
    options: VbladeOptions,
    child: Child,
    /// Both output streams of the process, appended; nameless, so nothing is left of it.
    output: File,
}

impl Vblade {
    pub(crate) fn start(
        namespace: &str,
        interface: &str,
        options: VbladeOptions,
    ) -> Result<Self, LabError> {
        let output = nameless_file()?;
        let child = spawn(namespace, interface, &options, &output)?;
        let mut target = Self {
            namespace: namespace.to_owned(),
            interface: interface.to_owned(),
            options,
            child,
            output,
        };
        target.wait_until_ready()?;
        Ok(target)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The options it runs with.
    #[must_use]
    pub fn options(&self) -> &VbladeOptions {
        &self.options
    }

    /// Whether the process lives, paused or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(process_state(self.pid()), Some(state) if !matches!(state, 'Z' | 'X'))
    }

    /// What it has printed so far, the last few kilobytes.
    #[must_use]
    pub fn output(&self) -> String {
        let len = self
            .output
            .metadata()
            .map(|meta| meta.len())
            .unwrap_or_default();
        let mut bytes = vec![0; OUTPUT_BYTES_MAX];
        let from = len.saturating_sub(u64::try_from(OUTPUT_BYTES_MAX).unwrap_or(u64::MAX));
        let read = self.output.read_at(&mut bytes, from).unwrap_or_default();
        bytes.truncate(read);
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Stops the process where it is (SIGSTOP), and returns once it has stopped: frames queue up in its socket.
    ///
    /// # Errors
    /// The process has ended.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.signal(libc::SIGSTOP)?;
        // The signal is delivered when the process next runs; a caller wants it stopped.
        self.wait_for(|state| state == 'T')
    }

    /// Lets a paused process go on.
    ///
    /// # Errors
    /// The process has ended.
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.signal(libc::SIGCONT)?;
        self.wait_for(|state| state != 'T')
    }

    /// Kills the process (SIGKILL) and waits for its end. Killing it again does nothing.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.end().map(drop)
    }

    /// Kills the process if it lives, starts another with the same options, and waits until that listens.
    ///
    /// # Errors
    /// As for [`crate::Lab::vblade`].
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.end()?;
        self.child = spawn(
            &self.namespace,
            &self.interface,
            &self.options,
            &self.output,
        )?;
        self.wait_until_ready()
    }

    fn end(&mut self) -> Result<ExitStatus, LabError> {
        // `Child` knows whether it has been waited for, and then leaves the process id alone.
        self.child.kill().map_err(LabError::io("kill vblade"))?;
        self.child.wait().map_err(LabError::io("wait for vblade"))
    }

    fn signal(&mut self, signal: libc::c_int) -> Result<(), LabError> {
        self.check_alive()?;
        let pid = libc::pid_t::try_from(self.pid()).map_err(|_| LabError::Io {
            action: "signal vblade".to_owned(),
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        // SAFETY: the child has not been waited for (`check_alive`), so the id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        if sent == 0 {
            Ok(())
        } else {
            Err(LabError::io("signal vblade")(
                std::io::Error::last_os_error(),
            ))
        }
    }

    fn wait_for(&mut self, reached: impl Fn(char) -> bool) -> Result<(), LabError> {
        let begin = Instant::now();
        while !process_state(self.pid()).is_some_and(&reached) {
            self.check_alive()?;
            if begin.elapsed() > READY_WITHIN {
                return Err(LabError::TargetNotReady {
                    waited: begin.elapsed(),
                    output: self.output(),
                });
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn check_alive(&mut self) -> Result<(), LabError> {
        match self
            .child
            .try_wait()
            .map_err(LabError::io("look after vblade"))?
        {
            None => Ok(()),
            Some(status) => Err(LabError::TargetEnded {
                status: process::status_in_words(status),
                output: self.output(),
            }),
        }
    }

    /// Waits until the process has a packet socket bound to its interface: from then on the kernel queues frames for it.
    fn wait_until_ready(&mut self) -> Result<(), LabError> {
        let begin = Instant::now();
        while !listens(self.pid()) {
            self.check_alive()?;
            if begin.elapsed() > READY_WITHIN {
                return Err(LabError::TargetNotReady {
                    waited: begin.elapsed(),
                    output: self.output(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Vblade {
    fn drop(&mut self) {
        // The guardian has another go at it when the lab ends.
        let _ = self.end();
    }
}

fn spawn(
    namespace: &str,
    interface: &str,
    options: &VbladeOptions,
    output: &File,
) -> Result<Child, LabError> {
    let vblade = process::find("vblade", "vblade")?;
    let stream = || {
        output
            .try_clone()
            .map(Stdio::from)
            .map_err(LabError::io("share vblade's output file"))
    };
    let mut command = process::ip()?;
    command.args(["netns", "exec", namespace]).arg(vblade);
    options.add_to(&mut command, interface);
    command
        .stdin(Stdio::null())
        .stdout(stream()?)
        .stderr(stream()?);
    command.spawn().map_err(LabError::io(format!(
        "start `{}`",
        process::command_line(&command)
    )))
}

/// A file that is read and appended to, and that has no name any more.
fn nameless_file() -> Result<File, LabError> {
    /// Files made by this process so far. Relaxed: only uniqueness matters, nothing is published through it.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("sandrail-vblade-{}-{count}", std::process::id()));
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

/// Whether one of the process's descriptors is a packet socket bound to an interface.
fn listens(pid: u32) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/packet")).unwrap_or_default();
    let bound = bound_socket_inodes(&table);
    let Ok(descriptors) = Path::new(&format!("/proc/{pid}/fd")).read_dir() else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
        .any(|link| {
            bound
                .iter()
                .any(|inode| link.as_os_str() == format!("socket:[{inode}]").as_str())
        })
}

/// The inodes of the bound sockets in `/proc/PID/net/packet`: columns 5 (interface index) and 9 (inode), by the heading
/// that the kernel prints (net/packet/af_packet.c, `packet_seq_show`).
fn bound_socket_inodes(table: &str) -> Vec<u64> {
    let rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|columns| columns.get(4).is_some_and(|index| *index != "0"))
        .filter_map(|columns| columns.get(8)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bound_sockets_count() {
        let table = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                     0000000000000000 3      3    88a2   2     1 0      0      4711\n\
                     0000000000000000 3      3    0003   0     0 0      0      4712\n";
        assert_eq!(bound_socket_inodes(table), [4711]);
        assert!(bound_socket_inodes("").is_empty());
    }

    #[test]
    fn options_become_the_command_line() {
        let mut options = VbladeOptions::new(7, 3, "/tmp/disk");
        let line = |options: &VbladeOptions| {
            let mut command = Command::new("vblade");
            options.add_to(&mut command, "san1");
            process::command_line(&command)
        };
        assert_eq!(line(&options), "vblade 7 3 san1 /tmp/disk");
        options.buffer_count = Some(64);
        (options.direct, options.sync, options.readonly) = (true, true, true);
        options.macs = vec![
            MacAddress([2, 0, 0, 0, 0, 10]),
            MacAddress([2, 0, 0, 0, 0, 11]),
        ];
        assert_eq!(
            line(&options),
            "vblade -b 64 -d -s -r -m 02000000000a,02000000000b 7 3 san1 /tmp/disk"
        );
    }
}
