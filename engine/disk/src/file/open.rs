//! From a path to a locked file of known size, with or without direct I/O.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::SECTOR_BYTES;

use crate::error::OpenError;
use crate::memory::Memory;
use crate::system::{
    self, Alignment, Identity, LockKind, block_setting, lock_holders, lock_range,
    logical_sector_bytes, set_direct, size_bytes,
};

const SECTOR: u64 = SECTOR_BYTES as u64;
/// The page cache's unit, and the largest block of a file system or device that matters here.
pub(super) const PAGE: u64 = 4096;
/// How long an open waits for a lock: a process that was killed keeps it until its last request is over.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Whether I/O goes past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Where it is possible for every request, be it a single sector.
    #[default]
    Auto,
    /// Always; if it is not possible, the disk does not open.
    On,
    /// Never.
    Off,
}

/// A file or a block device, or a range of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Where it is.
    pub path: PathBuf,
    /// Where the disk begins in it, in bytes: whole sectors.
    pub offset_bytes: u64,
    /// Its length in bytes, whole sectors; `None`: to the file's end, wherever that will be.
    pub length_bytes: Option<u64>,
    /// Whether I/O goes past the page cache.
    pub direct: Direct,
    /// If there is no such file, make a sparse one of this many bytes. One that is there is left as it is.
    pub create_bytes: Option<u64>,
}

impl FileSpec {
    /// The whole of what is at `path`, direct where possible.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            offset_bytes: 0,
            length_bytes: None,
            direct: Direct::Auto,
            create_bytes: None,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) identity: Identity,
    pub(super) is_block: bool,
    pub(super) size_bytes: u64,
    /// Whether I/O is direct, and why not.
    pub(super) direct: Result<(), String>,
    pub(super) discards: bool,
    /// What is locked: start and length in bytes.
    pub(super) locked: (u64, u64),
}

pub(super) fn open(spec: &FileSpec, read_only: bool) -> Result<Opened, OpenError> {
    let path = &spec.path;
    let failed = |action| move |source| io_error(path, action, source);
    let whole = spec.offset_bytes == 0 && spec.length_bytes.is_none();
    let (file, created) = open_file(spec, read_only, whole)?;
    let kind = file.metadata().map_err(failed("stat it"))?.file_type();
    refuse_others(path, kind)?;
    let is_block = kind.is_block_device();
    let size = size_bytes(&file, is_block).map_err(failed("find out its size"))?;
    check_range(spec, size)?;
    let locked = lock(spec, &file, read_only)?;
    if is_block && !read_only && !whole {
        // Ranges of one device may be served side by side, so the claim is not kept, only tried.
        drop(claim(path, Vec::new)?);
    }
    if created {
        sync_new(path, &file).map_err(failed("make the new file durable"))?;
    }
    let (identity, alignment) = system::identify(&file).map_err(failed("statx it"))?;
    let direct = match spec.direct {
        Direct::Off => Err("switched off".to_owned()),
        Direct::Auto | Direct::On => make_direct(&file, is_block, alignment, spec.offset_bytes),
    };
    if let (Direct::On, Err(reason)) = (spec.direct, &direct) {
        return Err(OpenError::Direct {
            path: path.clone(),
            reason: reason.clone(),
        });
    }
    let discards = !read_only
        && if is_block {
            block_setting(identity.device, "queue/write_zeroes_max_bytes")
                .is_some_and(|max| max > 0)
        } else {
            system::punches_holes(&file)
        };
    Ok(Opened {
        file,
        identity,
        is_block,
        size_bytes: size,
        direct,
        discards,
        locked,
    })
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}

/// Opens, or makes, the file; tells whether it was made. A whole device that is to be written is claimed.
fn open_file(spec: &FileSpec, read_only: bool, whole: bool) -> Result<(File, bool), OpenError> {
    let path = &spec.path;
    // Opening a pipe or a terminal could wait for somebody: what is there is looked at first, and again when it is open.
    match path.metadata() {
        Ok(meta) => {
            refuse_others(path, meta.file_type())?;
            if meta.file_type().is_block_device() && whole && !read_only {
                return Ok((claim(path, || holders_of(path))?, false));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && spec.create_bytes.is_some() => {
            if let Some(made) = create(path, spec.create_bytes.unwrap_or_default())? {
                return Ok((made, true));
            }
        }
        Err(source) => return Err(io_error(path, "open it", source)),
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .map_err(|source| io_error(path, "open it", source))?;
    Ok((opened, false))
}

/// Makes a sparse file; `None` if somebody else was faster.
fn create(path: &Path, bytes: u64) -> Result<Option<File>, OpenError> {
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(file) => {
            file.set_len(bytes)
                .map_err(|source| io_error(path, "give the new file its size", source))?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(source) => Err(io_error(path, "create it", source)),
    }
}

fn refuse_others(path: &Path, kind: FileType) -> Result<(), OpenError> {
    let what = if kind.is_file() || kind.is_block_device() {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "something else"
    };
    Err(OpenError::NotADisk {
        path: path.to_owned(),
        what,
    })
}

/// Locks the disk's range, rounded out to pages. Two disks that share a page would not be safe from each other where one of
/// them is direct and the other is not: writing the page back would undo what was written past it.
fn lock(spec: &FileSpec, file: &File, read_only: bool) -> Result<(u64, u64), OpenError> {
    let start = spec.offset_bytes - spec.offset_bytes % PAGE;
    // Zero means to infinity: the file may grow.
    let len = spec.length_bytes.map_or(0, |len| {
        let end = spec.offset_bytes.saturating_add(len);
        end.saturating_add(PAGE - 1) / PAGE * PAGE - start
    });
    let kind = if read_only {
        LockKind::Shared
    } else {
        LockKind::Exclusive
    };
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        let locked = lock_range(file, kind, start, len)
            .map_err(|source| io_error(&spec.path, "lock it", source))?;
        if locked {
            return Ok((start, len));
        }
        let mut holders = lock_holders(file);
        // Whoever lives will not go away by waiting.
        if holders.is_empty() && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(10));
            continue;
        }
        if holders.is_empty() {
            holders.push(
                "nobody that /proc shows; a process that ends with requests under way, or another machine's".to_owned(),
            );
        }
        return Err(OpenError::Locked {
            path: spec.path.clone(),
            holders: holders.join(", "),
        });
    }
}

fn holders_of(path: &Path) -> Vec<String> {
    File::open(path).map_or_else(|_| Vec::new(), |file| lock_holders(&file))
}

/// Opens a device so that the kernel, and whoever claims it too, is shut out (open(2), O_EXCL without O_CREAT). `holders` says
/// who could have it.
fn claim(path: &Path, holders: impl Fn() -> Vec<String>) -> Result<File, OpenError> {
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        let claimed = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(path);
        let error = match claimed {
            Ok(file) => return Ok(file),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => error,
            Err(source) => return Err(io_error(path, "open it", source)),
        };
        let holders = holders();
        if !holders.is_empty() {
            return Err(OpenError::Locked {
                path: path.to_owned(),
                holders: holders.join(", "),
            });
        }
        // Somebody may be trying the claim at this very moment, or a process that was killed is not quite gone.
        if Instant::now() > give_up {
            return Err(OpenError::InUse {
                path: path.to_owned(),
                source: error,
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A new file is there after a crash only if its folder was synced as well.
fn sync_new(path: &Path, file: &File) -> io::Result<()> {
    file.sync_all()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn check_range(spec: &FileSpec, size: u64) -> Result<(), OpenError> {
    let (offset, length) = (spec.offset_bytes, spec.length_bytes);
    let end = length.map(|length| offset.checked_add(length));
    let reason = if offset % SECTOR != 0 {
        format!("offset {offset} is not a whole number of {SECTOR}-byte sectors")
    } else if length.is_some_and(|length| length % SECTOR != 0 || length == 0) {
        format!(
            "length {} is not a whole number of {SECTOR}-byte sectors, at least one",
            length.unwrap_or_default()
        )
    } else if end.is_some_and(|end| end.is_none_or(|end| end > size)) {
        format!(
            "offset {offset} and length {} go beyond its {size} bytes",
            length.unwrap_or_default()
        )
    } else if size.saturating_sub(offset) < SECTOR {
        format!("its {size} bytes leave no sector from offset {offset} on")
    } else {
        return Ok(());
    };
    Err(OpenError::Range {
        path: spec.path.clone(),
        reason,
    })
}

/// Switches direct I/O on if every request can be direct: a mixture with the page cache would have to be kept coherent, so a
/// file system or device that wants larger blocks than a sector gets all its I/O through the page cache.
fn make_direct(
    file: &File,
    is_block: bool,
    told: Option<Alignment>,
    offset_bytes: u64,
) -> Result<(), String> {
    let alignment = match told {
        Some(told) => told,
        // Block devices tell since Linux 6.1 with their file system's help only; their sector is the rule that has always
        // held (open(2), O_DIRECT).
        None if is_block => {
            let sector = logical_sector_bytes(file)
                .map_err(|error| format!("its sector size is unknown: {error}"))?;
            Alignment {
                memory: sector,
                offset: sector,
            }
        }
        None => return Err("its file system does not tell what direct I/O wants".to_owned()),
    };
    let fits = |bytes: u32| bytes != 0 && SECTOR.is_multiple_of(u64::from(bytes));
    if !fits(alignment.offset) || !fits(alignment.memory) {
        return Err(format!(
            "it wants blocks of {} bytes in memory aligned to {}, and single sectors are {SECTOR}",
            alignment.offset, alignment.memory
        ));
    }
    set_direct(file, true).map_err(|error| format!("O_DIRECT: {error}"))?;
    probe(file, offset_bytes).or_else(|error| {
        set_direct(file, false).map_err(|error| format!("O_DIRECT stays on: {error}"))?;
        Err(format!(
            "a sector could not be read with O_DIRECT, though it should have been: {error}"
        ))
    })
}

/// Reads the first sector into memory that is aligned to a sector and to no more.
fn probe(file: &File, offset_bytes: u64) -> io::Result<()> {
    let (mut memory, _) =
        Memory::new(SECTOR_BYTES * 2, HugePages::Never).map_err(io::Error::other)?;
    let to = &mut memory.bytes_mut()[SECTOR_BYTES..];
    file.read_exact_at(to, offset_bytes)
}
