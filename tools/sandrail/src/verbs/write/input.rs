//! What is written: a file that can be read again, or a pipe that cannot.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::fault::Fault;
use crate::flow::sector_bytes;
use crate::size::Size;

/// The input, and how far it has been read.
pub(super) struct Input {
    path: PathBuf,
    file: File,
    /// Where a file began (standard input may have been read from before), and its length from there; `None`: a pipe.
    whole: Option<(u64, u64)>,
    pad: bool,
    read_bytes: u64,
    /// A byte read ahead to see whether a pipe goes on.
    ahead: Option<u8>,
}

impl Input {
    /// Opens a file, or standard input for `-`; refuses a file that is no multiple of a sector unless it may be padded.
    pub(super) fn open(path: &Path, pad: bool) -> Result<Self> {
        let fault = |error: io::Error| Fault::File {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        let (mut file, shown) = if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(fault)?;
            (File::from(stdin), PathBuf::from("standard input"))
        } else {
            (File::open(path).map_err(fault)?, path.to_owned())
        };
        let meta = file.metadata().map_err(fault)?;
        if meta.is_dir() {
            return Err(fault(io::ErrorKind::IsADirectory.into()).into());
        }
        let whole = whole(&mut file, &meta);
        if let Some((_, len_bytes)) = whole {
            if len_bytes == 0 {
                return Err(Fault::File {
                    path: shown,
                    problem: "is empty: there is nothing to write".to_owned(),
                }
                .into());
            }
            if len_bytes % sector_bytes() != 0 && !pad {
                return Err(Fault::NotSectors {
                    path: shown,
                    file: Size(len_bytes),
                    written: "; nothing was written",
                }
                .into());
            }
        }
        Ok(Self {
            path: shown,
            file,
            whole,
            pad,
            read_bytes: 0,
            ahead: None,
        })
    }

    /// The length, if it is known.
    pub(super) fn len_bytes(&self) -> Option<u64> {
        self.whole.map(|(_, len_bytes)| len_bytes)
    }

    /// Goes back to the start; `false` where that cannot be done.
    pub(super) fn rewind(&mut self) -> io::Result<bool> {
        let Some((start, _)) = self.whole else {
            return Ok(false);
        };
        self.file.seek(SeekFrom::Start(start))?;
        self.read_bytes = 0;
        self.ahead = None;
        Ok(true)
    }

    /// Reads whole sectors; fewer than there is room for at the end.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        if let Some(byte) = self.ahead.take() {
            buffer[0] = byte;
            filled = 1;
        }
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(
                        Fault::Io(format!("reading {}: {error}", self.path.display())).into(),
                    );
                }
            }
        }
        self.read_bytes += u64::try_from(filled).unwrap_or(0);
        let whole = filled.next_multiple_of(512);
        if whole > filled {
            if !self.pad {
                return Err(Fault::NotSectors {
                    path: self.path.clone(),
                    file: Size(self.read_bytes),
                    written: "; what came before was written",
                }
                .into());
            }
            buffer[filled..whole].fill(0);
        }
        Ok(whole)
    }

    /// Whether everything has been read.
    pub(super) fn is_at_end(&mut self) -> Result<bool> {
        if self.ahead.is_some() {
            return Ok(false);
        }
        let mut byte = [0];
        let count = self
            .file
            .read(&mut byte)
            .map_err(|error| Fault::Io(format!("reading {}: {error}", self.path.display())))?;
        self.ahead = (count > 0).then_some(byte[0]);
        Ok(count == 0)
    }
}

/// A regular file's or block device's start and length; `None` for a pipe, socket or terminal.
fn whole(file: &mut File, meta: &std::fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::FileTypeExt;
    if !meta.is_file() && !meta.file_type().is_block_device() {
        return None;
    }
    let start = file.stream_position().ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    Some((start, end.saturating_sub(start)))
}

/// What is expected back.
pub(super) enum Comparison {
    /// The file itself, read again.
    File(Input),
    /// Of a pipe, 64 bits of hash for each sector.
    Digests { digests: Vec<u64>, next: usize },
}

impl Comparison {
    /// For this input.
    pub(super) fn new(input: &Input) -> Self {
        let again = input.whole.and_then(|whole| {
            Some(Input {
                path: input.path.clone(),
                // A description of its own: a shared one would share the position.
                file: File::open(format!(
                    "/proc/self/fd/{}",
                    std::os::fd::AsRawFd::as_raw_fd(&input.file)
                ))
                .ok()?,
                whole: Some(whole),
                pad: input.pad,
                read_bytes: 0,
                ahead: None,
            })
        });
        again.map_or(
            Self::Digests {
                digests: Vec::new(),
                next: 0,
            },
            Self::File,
        )
    }

    /// Writing begins, for the first time or again.
    pub(super) fn begin(&mut self) {
        if let Self::Digests { digests, .. } = self {
            digests.clear();
        }
    }

    /// These sectors were written next.
    pub(super) fn remember(&mut self, data: &[u8]) {
        if let Self::Digests { digests, .. } = self {
            digests.extend(data.chunks(512).map(digest));
        }
    }

    /// Comparing begins.
    pub(super) fn rewind(&mut self) -> Result<()> {
        match self {
            Self::File(input) => {
                input.rewind()?;
            }
            Self::Digests { next, .. } => *next = 0,
        }
        Ok(())
    }

    /// Whether the next sector is this one.
    pub(super) fn next_is(&mut self, sector: &[u8]) -> Result<bool> {
        match self {
            Self::File(input) => {
                let mut expected = [0; 512];
                Ok(input.fill(&mut expected)? == 512 && expected == *sector)
            }
            Self::Digests { digests, next } => {
                let same = digests.get(*next) == Some(&digest(sector));
                *next += 1;
                Ok(same)
            }
        }
    }
}

/// With the hasher's fixed keys: differences by chance are to be found, not those of an enemy.
fn digest(sector: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(sector);
    hasher.finish()
}
