//! What the operating system says about files, where the standard library does not ask.
#![allow(
    unsafe_code,
    reason = "statx, ioctl, fcntl and fallocate have no safe form in the standard library"
)]

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Which file this is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The file's device, or the device itself.
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// When the file was made, in seconds and nanoseconds, if the file system tells: an inode number is used again.
    pub(crate) born: (i64, u32),
}

/// What direct I/O must be aligned to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alignment {
    pub(crate) memory: u32,
    pub(crate) offset: u32,
}

/// What statx(2) says about an open file: which it is, and what direct I/O wants, if it is possible and known.
pub(crate) fn identify(file: &File) -> io::Result<(Identity, Option<Alignment>)> {
    let mut told = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_DIOALIGN;
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH means the descriptor, and `told` has room for the
    // answer.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            told.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros is a valid statx, and the kernel filled it in.
    let told = unsafe { told.assume_init() };
    let is_block = file.metadata()?.file_type().is_block_device();
    let device = if is_block {
        (told.stx_rdev_major, told.stx_rdev_minor)
    } else {
        (told.stx_dev_major, told.stx_dev_minor)
    };
    let born = if told.stx_mask & libc::STATX_BTIME != 0 && !is_block {
        (told.stx_btime.tv_sec, told.stx_btime.tv_nsec)
    } else {
        (0, 0)
    };
    let identity = Identity {
        device,
        // A device may have several nodes; its number says all.
        inode: if is_block { 0 } else { told.stx_ino },
        born,
    };
    let told_alignment = told.stx_mask & libc::STATX_DIOALIGN != 0;
    let alignment = Alignment {
        memory: told.stx_dio_mem_align,
        offset: told.stx_dio_offset_align,
    };
    Ok((
        identity,
        (told_alignment && alignment.offset != 0).then_some(alignment),
    ))
}

/// Size in bytes of a regular file or a block device.
pub(crate) fn size_bytes(file: &File, is_block: bool) -> io::Result<u64> {
    if is_block {
        // The metadata of a device's node know no size. Nothing here uses the position that this moves.
        let mut file = file;
        return file.seek(SeekFrom::End(0));
    }
    Ok(file.metadata()?.len())
}

/// The logical sector of a block device, in bytes: the unit of its direct I/O.
pub(crate) fn logical_sector_bytes(file: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Makes all further I/O of an open file direct, or not. EINVAL: its file system can't.
pub(crate) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = if direct {
        flags | libc::O_DIRECT
    } else {
        flags & !libc::O_DIRECT
    };
    // SAFETY: F_SETFL takes an int.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes, shares or gives up the lock of a byte range; `len_bytes` zero is to infinity. `Ok(false)`: somebody has it.
///
/// It is an open file description's lock (fcntl(2), F_OFD_SETLK): it holds between threads of a process as well, and as
/// long as anything refers to the description, a ring with requests under way included.
pub(crate) fn lock_range(
    file: &File,
    kind: LockKind,
    start: u64,
    len_bytes: u64,
) -> io::Result<bool> {
    let l_type = match kind {
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Shared => libc::F_RDLCK,
        LockKind::None => libc::F_UNLCK,
    };
    let narrow = |value: libc::c_int| libc::c_short::try_from(value).map_err(io::Error::other);
    let lock = libc::flock {
        l_type: narrow(l_type)?,
        l_whence: narrow(libc::SEEK_SET)?,
        l_start: libc::off_t::try_from(start).map_err(io::Error::other)?,
        l_len: libc::off_t::try_from(len_bytes).map_err(io::Error::other)?,
        l_pid: 0,
    };
    // SAFETY: F_OFD_SETLK reads one flock.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockKind {
    Exclusive,
    Shared,
    None,
}

/// Whether holes can be punched into a regular file: tried on bytes beyond its end, where there is nothing to lose.
pub(crate) fn punches_holes(file: &File) -> bool {
    let Ok(beyond) = file
        .metadata()
        .map(|meta| meta.len().next_multiple_of(4096).saturating_add(4096))
    else {
        return false;
    };
    let Ok(beyond) = libc::off_t::try_from(beyond) else {
        return false;
    };
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes numbers only.
    unsafe { libc::fallocate(file.as_raw_fd(), mode, beyond, 4096) == 0 }
}

/// A setting of a block device from sysfs, a partition's from its disk.
pub(crate) fn block_setting(device: (u32, u32), name: &str) -> Option<u64> {
    let folder = format!("/sys/dev/block/{}:{}", device.0, device.1);
    let read = |path: String| fs::read_to_string(path).ok();
    read(format!("{folder}/{name}"))
        .or_else(|| read(format!("{folder}/../{name}")))?
        .trim()
        .parse()
        .ok()
}

/// Names this boot of the machine; another one has another. Empty where the kernel does not tell.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// A number that nobody could know before.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let drawn = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    if drawn.is_err() {
        // Without the device there still are the keys that hash maps are given, which come from the kernel too.
        return RandomState::new().build_hasher().finish();
    }
    u64::from_le_bytes(bytes)
}

/// Processes that have a lock on this file, as /proc tells: `name (pid 17)`.
pub(crate) fn lock_holders(file: &File) -> Vec<String> {
    let Ok(meta) = file.metadata() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if holds_lock(pid, meta.dev(), meta.ino()) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push(format!("{} (pid {pid})", name.trim()));
        }
    }
    found
}

/// Whether a descriptor of the process is this file and its description holds a lock, by the `lock:` lines of proc(5)'s
/// fdinfo.
fn holds_lock(pid: u32, device: u64, inode: u64) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    descriptors
        .into_iter()
        .flatten()
        .flatten()
        .any(|descriptor| {
            let same = fs::metadata(descriptor.path())
                .is_ok_and(|meta| meta.dev() == device && meta.ino() == inode);
            let number = descriptor.file_name();
            let info = || fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display()));
            same && info().is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:")))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_device_inode_and_birth() {
        let path = std::env::temp_dir().join(format!("sandrail-system-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let meta = file.metadata().unwrap();
        let (identity, _) = identify(&file).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(identity.inode, meta.ino());
        let (major, minor) = identity.device;
        assert_eq!(libc::makedev(major, minor), meta.dev());
        if let Ok(created) = meta.created() {
            let since = created.duration_since(std::time::UNIX_EPOCH).unwrap();
            let born = (
                i64::try_from(since.as_secs()).unwrap(),
                since.subsec_nanos(),
            );
            assert_eq!(identity.born, born);
        }
    }
}
