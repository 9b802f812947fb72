//! Where test files lie, and who takes them away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A folder that goes when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// On the file system that temporary files lie on.
    pub(crate) fn on_disk() -> Self {
        Self::under(&std::env::temp_dir())
    }

    /// In memory.
    pub(crate) fn in_memory() -> Self {
        Self::under(Path::new("/dev/shm"))
    }

    pub(crate) fn under(parent: &Path) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("sandrail-disk-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file of so many zeros in it.
    pub(crate) fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
