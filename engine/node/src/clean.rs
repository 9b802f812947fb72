//! Marks of an unclean end, so that a restarted node knows of copies that its former self may have left on their way.
//!
//! A process that was killed may have WRITEs in the network, and its successor, with the same MACs, can't tell their
//! late effects from its own (S2, S3). A file for each MAC is there while the MAC is in use, and is removed only after
//! a stop with every copy accounted for. Who finds one lets its WRITEs wait for one frame lifetime, and then for a probe's
//! answer (`InitiatorConfig::write_quarantine`). The directory lies in memory: after a reboot it is empty, and a boot
//! takes longer than a lifetime. The file is locked with flock(2) while in use: a MAC has one user at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandrail_wire::MacAddr;

/// Where the marks lie unless told otherwise.
pub const RUN_DIR: &str = "/run/sandrail";

/// Why a MAC can't be marked.
#[derive(Debug, thiserror::Error)]
pub enum CleanMarkError {
    /// Another process, or another node of this one, uses the MAC.
    #[error("{mac} is in use by process {}", pid.map_or("(unknown)".to_owned(), |pid| pid.to_string()))]
    InUse {
        /// The MAC.
        mac: MacAddr,
        /// Who uses it, if it has written its number down already.
        pid: Option<u32>,
    },
    /// The file could not be made, read or locked.
    #[error("cannot mark {mac} in {path}: {source}")]
    Io {
        /// The MAC.
        mac: MacAddr,
        /// The mark.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A MAC in use. Dropped, it leaves the mark behind, as a killed process does; [`CleanMark::remove`] takes it away.
#[derive(Debug)]
pub struct CleanMark {
    path: PathBuf,
    mac: MacAddr,
    file: File,
    earlier: Option<Duration>,
}

impl CleanMark {
    /// Marks `mac` as in use by a process whose frames live up to `frame_lifetime`.
    ///
    /// # Errors
    /// [`CleanMarkError`], also when somebody else has it.
    pub fn acquire(
        dir: &Path,
        mac: MacAddr,
        frame_lifetime: Duration,
    ) -> Result<Self, CleanMarkError> {
        let name: String = mac.to_string().replace(':', "-");
        let path = dir.join(format!("{name}.mark"));
        let failed = |source| CleanMarkError::Io {
            mac,
            path: path.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(failed)?;
            let locked = file.try_lock();
            let mut text = String::new();
            // Whatever was in it: a file that is no mark of ours counts as one, for safety.
            let read = file.read_to_string(&mut text);
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let pid = text
                        .split_whitespace()
                        .next()
                        .and_then(|pid| pid.parse().ok());
                    return Err(CleanMarkError::InUse { mac, pid });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // The former user may have removed the file between our open and our lock: then we locked a nameless one.
            let ours = file.metadata().map_err(failed)?;
            let named = fs::metadata(&path);
            if named.is_ok_and(|named| named.ino() == ours.ino() && named.dev() == ours.dev()) {
                let earlier = (ours.len() > 0).then(|| match read {
                    Ok(_) => lifetime_in(&text).unwrap_or(frame_lifetime),
                    Err(_) => frame_lifetime,
                });
                let mut mark = Self {
                    path: path.clone(),
                    mac,
                    file,
                    earlier,
                };
                mark.write_down(frame_lifetime.max(earlier.unwrap_or_default()))
                    .map_err(failed)?;
                return Ok(mark);
            }
        }
    }

    /// The frame lifetime of an earlier user that did not end cleanly: so long WRITEs must wait.
    #[must_use]
    pub fn earlier_lifetime(&self) -> Option<Duration> {
        self.earlier
    }

    /// The MAC.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Clean end: every copy sent with this MAC is accounted for.
    ///
    /// # Errors
    /// The mark is still there then, and the next user waits without need, which is safe.
    pub fn remove(self) -> Result<(), CleanMarkError> {
        // Unlinked before it is unlocked (by the drop of the file): see the check in `acquire`.
        fs::remove_file(&self.path).map_err(|source| CleanMarkError::Io {
            mac: self.mac,
            path: self.path.clone(),
            source,
        })
    }

    fn write_down(&mut self, lifetime: Duration) -> io::Result<()> {
        let text = format!("{} {}\n", std::process::id(), lifetime.as_millis());
        self.file.rewind()?;
        // Written over, and cut off last: there is no moment at which the file is empty while the mark must stand.
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(u64::try_from(text.len()).unwrap_or(0))
    }
}

/// The second word: milliseconds.
fn lifetime_in(text: &str) -> Option<Duration> {
    let word = text.split_whitespace().nth(1)?;
    word.parse().ok().map(Duration::from_millis)
}
