//! The number that names the state of unflushed writes.

use super::Identity;
use crate::system::{block_setting, boot_id};

/// Stays the same as long as writes that a process acknowledged outlive it: for this boot of the machine, this device, this
/// file and this range of it.
pub(super) fn of(identity: &Identity, offset: u64, length: Option<u64>) -> u64 {
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
