//! `vblade`, the third-party AoE target: one process a disk, handling frames one by one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::LabError;
use crate::lab::MacAddress;
use crate::process;
use crate::target_process::TargetProcess;

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
    process: TargetProcess,
}

impl Vblade {
    pub(crate) fn start(
        namespace: &str,
        interface: &str,
        options: VbladeOptions,
    ) -> Result<Self, LabError> {
        let mut command = command(namespace, interface, &options)?;
        let process = TargetProcess::start("vblade", &mut command)?;
        let mut target = Self {
            namespace: namespace.to_owned(),
            interface: interface.to_owned(),
            options,
            process,
        };
        target.wait_until_ready()?;
        Ok(target)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The options it runs with.
    #[must_use]
    pub fn options(&self) -> &VbladeOptions {
        &self.options
    }

    /// Whether the process lives, paused or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// What it has printed so far, the last few kilobytes.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Stops the process where it is (SIGSTOP), and returns once it has stopped: frames queue up in its socket.
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

    /// Kills the process if it lives, starts another with the same options, and waits until that listens.
    ///
    /// # Errors
    /// As for [`crate::Lab::vblade`].
    pub fn restart(&mut self) -> Result<(), LabError> {
        let mut command = command(&self.namespace, &self.interface, &self.options)?;
        self.process.start_again(&mut command)?;
        self.wait_until_ready()
    }

    /// Waits until the process has a packet socket bound to its interface: from then on the kernel queues frames for it.
    fn wait_until_ready(&mut self) -> Result<(), LabError> {
        self.process.wait_until(|process| listens(process.pid()))
    }
}

fn command(namespace: &str, interface: &str, options: &VbladeOptions) -> Result<Command, LabError> {
    let vblade = process::find("vblade", "vblade")?;
    let mut command = process::ip()?;
    command.args(["netns", "exec", namespace]).arg(vblade);
    options.add_to(&mut command, interface);
    Ok(command)
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
