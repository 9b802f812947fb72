//! The number that names the state of unflushed writes.
//!
//! It must change when acknowledged writes may be lost, and a flush that failed is such a moment: the kernel forgets what it
//! could not write, and whoever opens the file anew, in the same boot, would find nothing wrong. So a failure is noted outside
//! the process, and the note is a part of the mark from then on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Identity;
use crate::system::{block_setting, boot_id, random_u64};

/// Where failed flushes are noted: a file for each that lost writes in this boot, with what changes the marks of all disks on
/// it. The Filesystem Hierarchy Standard has this folder emptied at boot; where it is not, a note does no harm, since another
/// boot has other names.
pub const LOST_FOLDER: &str = "/run/sandrail/lost";

/// The open files of this process, by the name of their note.
static FATES: Mutex<Vec<(u64, Weak<Fate>)>> = Mutex::new(Vec::new());

/// What all disks on one file share: whether what they acknowledged may be lost. The kernel tells one of them that the
/// device's flush failed, and the writes of the others were in the same cache.
#[derive(Debug)]
struct Fate {
    /// Zero until a flush fails.
    lost: AtomicU64,
    /// What the first flush failed with that did, while anybody has the file open; zero: none did.
    errno: AtomicI32,
}

impl Fate {
    fn new(lost: u64) -> Arc<Self> {
        Arc::new(Self {
            lost: AtomicU64::new(lost),
            errno: AtomicI32::new(0),
        })
    }

    /// That of the file whose note is named so.
    fn of(name: u64) -> Arc<Self> {
        let mut fates = FATES.lock().unwrap_or_else(PoisonError::into_inner);
        fates.retain(|(_, fate)| fate.strong_count() > 0);
        let known = fates.iter().find(|(other, _)| *other == name);
        if let Some(fate) = known.and_then(|(_, fate)| fate.upgrade()) {
            return fate;
        }
        // Another process may be writing the note at this moment: one that can't be read is as good as a new one.
        let lost = match fs::read_to_string(note(name)) {
            Ok(text) => u64::from_str_radix(text.trim(), 16).unwrap_or_else(|_| random_u64()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(_) => random_u64(),
        };
        let fate = Self::new(lost);
        fates.push((name, Arc::downgrade(&fate)));
        fate
    }
}

/// A mark that can change, and stays changed for those who open the file later.
#[derive(Debug)]
pub(super) struct Mark {
    base: u64,
    /// The name of the file's note.
    name: u64,
    fate: Arc<Fate>,
}

impl Mark {
    /// One that nobody had before, and nobody will have again.
    pub(super) fn random() -> Self {
        Self {
            base: random_u64(),
            name: random_u64(),
            fate: Fate::new(0),
        }
    }

    /// The one of this range of this file, in this boot.
    pub(super) fn of(identity: &Identity, offset: u64, length: Option<u64>) -> Self {
        let name = of(identity, 0, None);
        Self {
            base: of(identity, offset, length),
            name,
            fate: Fate::of(name),
        }
    }

    pub(super) fn get(&self) -> u64 {
        // Pairs with the release in `change`.
        self.base ^ self.fate.lost.load(Ordering::Acquire)
    }

    /// What a flush of this file failed with, by whichever of its disks. From then on all of theirs fail.
    pub(super) fn failure(&self) -> Option<i32> {
        // Pairs with the release in `change`: whoever sees the failure sees the changed mark.
        let errno = self.fate.errno.load(Ordering::Acquire);
        (errno != 0).then_some(errno)
    }

    /// Acknowledged writes may be lost, as a flush was told with this error number. False: it could not be noted, so that only
    /// this process knows. A further failure changes nothing.
    pub(super) fn change(&self, errno: i32) -> bool {
        // One at a time, on whichever cores they are.
        let _fates = FATES.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failure().is_some() {
            return true;
        }
        let lost = random_u64();
        // Pair with the acquires in `get` and `failure`.
        self.fate.lost.store(lost, Ordering::Release);
        self.fate.errno.store(errno, Ordering::Release);
        let noted = fs::create_dir_all(LOST_FOLDER)
            .and_then(|()| fs::write(note(self.name), format!("{lost:016x}\n")));
        noted.is_ok()
    }
}

fn note(name: u64) -> PathBuf {
    Path::new(LOST_FOLDER).join(format!("{name:016x}"))
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
