//! The number that names the state of unflushed writes.
//!
//! It must change when acknowledged writes may be lost, and a flush that failed is such a moment: the kernel forgets what it
//! could not write, and whoever opens the file anew, in the same boot, would find nothing wrong. So a failure is noted outside
//! the process, and the note is a part of the mark from then on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Identity;
use crate::system::{block_setting, boot_id, random_u64};

/// Where failed flushes are noted: a file for each mark that is no longer true, with what changes it. The Filesystem Hierarchy
/// Standard has this folder emptied at boot; where it is not, a note does no harm, since another boot has other marks.
pub const LOST_FOLDER: &str = "/run/sandrail/lost";

/// A mark that can change, and stays changed for those who open the file later.
#[derive(Debug)]
pub(super) struct Mark {
    base: u64,
    /// Zero until a flush fails.
    lost: u64,
}

impl Mark {
    /// One that nobody had before, and nobody will have again.
    pub(super) fn random() -> Self {
        Self {
            base: random_u64(),
            lost: 0,
        }
    }

    /// The one of this file, in this boot.
    pub(super) fn of(identity: &Identity, offset: u64, length: Option<u64>) -> Self {
        let base = of(identity, offset, length);
        // Another process may be writing the note at this moment: one that can't be read is as good as a new one.
        let lost = match fs::read_to_string(note(base)) {
            Ok(text) => u64::from_str_radix(text.trim(), 16).unwrap_or_else(|_| random_u64()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(_) => random_u64(),
        };
        Self { base, lost }
    }

    pub(super) fn get(&self) -> u64 {
        self.base ^ self.lost
    }

    /// Acknowledged writes may be lost. False: it could not be noted, so that only this process knows.
    pub(super) fn change(&mut self) -> bool {
        self.lost = random_u64();
        let noted = fs::create_dir_all(LOST_FOLDER)
            .and_then(|()| fs::write(note(self.base), format!("{:016x}\n", self.lost)));
        noted.is_ok()
    }
}

fn note(base: u64) -> PathBuf {
    Path::new(LOST_FOLDER).join(format!("{base:016x}"))
}

/// Stays the same as long as writes that a process acknowledged outlive it: for this boot of the machine, this device, this
/// file and this range of it.
fn of(identity: &Identity, offset: u64, length: Option<u64>) -> u64 {
    // A device that is taken out and put back gets another sequence number, and may get the same device number.
    let sequence = block_setting(identity.device, "diskseq").unwrap_or_default();
    combine(&boot_id(), identity, sequence, offset, length)
}

fn combine(
    boot_id: &str,
    identity: &Identity,
    sequence: u64,
    offset: u64,
    length: Option<u64>,
) -> u64 {
    let (major, minor) = identity.device;
    let (seconds, nanoseconds) = identity.born;
    let text = format!(
        "{boot_id} {major}:{minor} {sequence} {} {seconds}.{nanoseconds} {offset} {length:?}",
        identity.inode
    );
    // FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/. Not the standard library's hash, which may change from one
    // release to the next, and the mark has to be the same after an upgrade.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_could_have_lost_writes_changes_the_mark() {
        let file = Identity {
            device: (8, 1),
            inode: 17,
            born: (1, 2),
        };
        let mark = combine("boot", &file, 3, 0, None);
        assert_eq!(mark, combine("boot", &file, 3, 0, None));
        let born = Identity {
            born: (1, 3),
            ..file
        };
        let inode = Identity { inode: 18, ..file };
        let device = Identity {
            device: (8, 2),
            ..file
        };
        let others = [
            combine("another boot", &file, 3, 0, None),
            combine("boot", &born, 3, 0, None),
            combine("boot", &inode, 3, 0, None),
            combine("boot", &device, 3, 0, None),
            combine("boot", &file, 4, 0, None),
            combine("boot", &file, 3, 512, None),
            combine("boot", &file, 3, 0, Some(512)),
        ];
        for other in others {
            assert_ne!(mark, other);
        }
    }
}
