//! The process that cleans up after a lab, and the sweep that cleans up after a guardian.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::LabError;
use crate::names::LabId;
use crate::{namespace, process};

/// Waits for the end of its input, then removes `$1` and `$2` (namespaces) and `$3` (a directory); `$4` is the owner,
/// which it never kills, even if a thread of it led it into a namespace. Says on its output what it could not remove.
/// Signals that a terminal sends to everybody must not keep it from its work.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
read -r nothing
for name in "$1" "$2"; do
    for pid in $(ip netns pids "$name" 2>/dev/null); do
        [ "$pid" = "$4" ] || kill -9 "$pid" 2>/dev/null
    done
    ip netns delete "$name" 2>/dev/null
    [ ! -e "/run/netns/$name" ] || { sleep 0.1; ip netns delete "$name" 2>&1; }
done
rm -rf -- "$3"
[ ! -e "/run/netns/$1" ] && [ ! -e "/run/netns/$2" ] && [ ! -e "$3" ]
"#;

/// A running guardian. Dropping it has the lab removed.
#[derive(Debug)]
pub(crate) struct Guardian {
    id: LabId,
    shell: Option<Child>,
}

impl Guardian {
    /// Starts the guardian; to be done before there is anything to guard, so that no moment is left uncovered.
    pub(crate) fn start(id: &LabId) -> Result<Self, LabError> {
        let ip = process::find("ip", "iproute2")?;
        let mut path = std::ffi::OsString::from(ip.parent().unwrap_or(Path::new("/sbin")));
        path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "sandrail-lab-guardian"])
            .args([id.initiator_namespace(), id.target_namespace()])
            .arg(directory(id))
            .arg(id.pid.to_string())
            .env("PATH", path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(LabError::io("start the guardian (/bin/sh)"))?;
        Ok(Self {
            id: id.clone(),
            shell: Some(shell),
        })
    }

    /// Ends the guardian and waits until it has removed everything.
    pub(crate) fn finish(mut self) -> Result<(), LabError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LabError> {
        let Some(mut shell) = self.shell.take() else {
            return Ok(());
        };
        // Closing the pipe is the signal to begin.
        drop(shell.stdin.take());
        let mut output = String::new();
        if let Some(mut stdout) = shell.stdout.take() {
            // What it said serves the message below only; that it ended is what counts.
            let _ = stdout.read_to_string(&mut output);
        }
        let status = shell
            .wait()
            .map_err(LabError::io("wait for the guardian"))?;
        if status.success() {
            return Ok(());
        }
        remove(&self.id).map_err(|error| LabError::Command {
            command: format!("guardian of {}", self.id.stem()),
            status: process::status_in_words(status),
            output: format!("{output}{error}"),
        })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("sandrail-lab: {error}");
        }
    }
}

/// The directory of a lab's backing files: in memory where the machine has that.
pub(crate) fn directory(id: &LabId) -> PathBuf {
    files_directory().join(id.stem())
}

fn files_directory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    }
}

/// Removes what labs of this prefix have left whose process is gone. Returns how many labs that were.
pub(crate) fn sweep(prefix: &str) -> Result<usize, LabError> {
    crate::names::check_prefix(prefix)?;
    let mut dead: Vec<LabId> = Vec::new();
    for directory in [PathBuf::from(namespace::DIRECTORY), files_directory()] {
        let Ok(entries) = directory.read_dir() else {
            continue;
        };
        for entry in entries.flatten() {
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| LabId::parse(prefix, name));
            if let Some(id) = id.filter(|id| !id.owner_lives() && !dead.contains(id)) {
                dead.push(id);
            }
        }
    }
    for id in &dead {
        remove(id)?;
    }
    Ok(dead.len())
}

/// Removes one lab, whatever of it there is.
fn remove(id: &LabId) -> Result<(), LabError> {
    for name in [id.initiator_namespace(), id.target_namespace()] {
        if !namespace::path(&name).exists() {
            continue;
        }
        let pids = process::run_ip(&format!("netns pids {name}")).unwrap_or_default();
        for pid in pids
            .split_ascii_whitespace()
            .filter(|pid| *pid != id.pid.to_string())
        {
            // It may have ended since; whether the namespace goes is what is checked.
            let _ = process::run(Command::new("kill").args(["-9", pid]));
        }
        let deleted = process::run_ip(&format!("netns delete {name}"));
        // A guardian or another process's sweep may have been at it in the same moment.
        if namespace::path(&name).exists() {
            deleted?;
        }
    }
    let files = directory(id);
    match std::fs::remove_dir_all(&files) {
        Err(error) if files.exists() => {
            Err(LabError::io(format!("remove {}", files.display()))(error))
        }
        _ => Ok(()),
    }
}
