//! The files that targets serve as disks.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::LabError;

/// Files made by this process so far. Relaxed: only uniqueness matters, nothing is published through it.
static FILES: AtomicU32 = AtomicU32::new(0);

/// A sparse file for a target to serve; removed when dropped.
#[derive(Debug)]
pub struct BackingFile {
    path: PathBuf,
    len_bytes: u64,
}

impl BackingFile {
    /// Makes a sparse file of `len_bytes` in `directory`. [`crate::Lab::backing_file`] makes one in memory that also goes
    /// when this process is killed; one made here stays in that case.
    ///
    /// # Errors
    /// The file cannot be made, or the file system does not take that length.
    pub fn create(directory: &Path, len_bytes: u64) -> Result<Self, LabError> {
        let count = FILES.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("sandrail-disk-{}-{count}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(LabError::io(format!("create {}", path.display())))?;
        // Made before the length is set, so that a refused length does not leave the file behind.
        let backing = Self { path, len_bytes };
        file.set_len(len_bytes).map_err(LabError::io(format!(
            "make {} {len_bytes} bytes long",
            backing.path.display()
        )))?;
        Ok(backing)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Its length in sectors of 512 bytes, rounded down.
    #[must_use]
    pub fn len_sectors(&self) -> u64 {
        self.len_bytes / 512
    }

    /// Opens it for reading and writing behind the target's back, to check or to spoil what is there.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(&self) -> Result<File, LabError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(LabError::io(format!("open {}", self.path.display())))
    }
}

impl Drop for BackingFile {
    fn drop(&mut self) {
        // It may have gone with its lab already.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sparse_and_goes_when_dropped() {
        use std::os::unix::fs::MetadataExt;
        let file = BackingFile::create(&std::env::temp_dir(), 1 << 30).unwrap();
        let meta = file.path().metadata().unwrap();
        assert_eq!((meta.len(), file.len_sectors()), (1 << 30, 1 << 21));
        assert!(
            meta.blocks() < 1024,
            "{} blocks are allocated",
            meta.blocks()
        );
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_length_that_does_not_fit_is_an_error_and_leaves_nothing() {
        let directory =
            std::env::temp_dir().join(format!("sandrail-backing-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let error = BackingFile::create(&directory, u64::MAX).unwrap_err();
        assert!(error.to_string().contains("bytes long"), "{error}");
        assert_eq!(directory.read_dir().unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
    }
}
