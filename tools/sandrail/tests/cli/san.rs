//! A wire with a target on it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use sandrail_lab::{BackingFile, Lab, Side, Vblade, VbladeOptions, can_run};

use crate::run::{Ended, Running, SANDRAIL, start};

/// Folders made so far; only uniqueness matters.
static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// Names, in a message, what cannot be had; then the test does nothing.
pub(crate) fn possible(test: &str) -> bool {
    can_run(test, Lab::supported())
}

/// Both ways that frames can travel on every machine that has namespaces and XDP.
pub(crate) const LINKS: [&str; 2] = ["packet", "xdp"];

/// A lab with one target, `e7.3`, of a few megabytes.
pub(crate) struct San {
    pub(crate) target: Vblade,
    pub(crate) disk: BackingFile,
    pub(crate) lab: Lab,
    pub(crate) folder: Folder,
}

/// A folder of the test's own, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let count = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("sandrail-cli-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A file in it, as an argument.
    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A file in it with this content.
    pub(crate) fn with(&self, name: &str, content: &[u8]) -> String {
        let path = self.file(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl San {
    pub(crate) fn new(mtu_bytes: u32, disk_bytes: u64) -> Self {
        let lab = Lab::builder()
            .name_prefix("sandrail-cli")
            .mtu(mtu_bytes)
            .build()
            .unwrap();
        let disk = lab.backing_file(disk_bytes).unwrap();
        let target = lab.vblade(VbladeOptions::new(7, 3, disk.path())).unwrap();
        Self {
            target,
            disk,
            lab,
            folder: Folder::new(),
        }
    }

    /// The command on the initiator's side.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.command(Side::Initiator, SANDRAIL);
        command
            .args(["-i", self.lab.interface(Side::Initiator)])
            .args(["--run-dir", &self.folder.file("run")])
            .args(args);
        command
    }

    /// Runs it.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        start(&mut self.command(args), false).wait()
    }

    /// Starts it with a pipe for its standard input.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        start(&mut self.command(args), true)
    }

    /// The disk's content, behind the target's back.
    pub(crate) fn content(&self) -> Vec<u8> {
        fs::read(self.disk.path()).unwrap()
    }

    /// Runs `ip` on the initiator's side.
    pub(crate) fn ip(&self, line: &str) {
        let output = self
            .lab
            .command(Side::Initiator, "ip")
            .args(line.split_ascii_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {line}: {output:?}");
    }
}

/// Bytes that differ everywhere, the same for each seed.
pub(crate) fn noise(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}
