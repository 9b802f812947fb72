//! What a disk became, in words fit for a report.

use std::fmt;
use std::io;
use std::path::Path;

/// What a disk became when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// What its sectors lie on.
    pub medium: String,
    /// Whether data go past the page cache, and if not, why. `None`: there is no page cache to go past.
    pub direct: Option<Result<(), String>>,
    /// Whether the buffers are registered with io_uring, and if not, why. `None`: it has none.
    pub registered: Option<Result<(), String>>,
    /// What its memory is made of.
    pub memory: String,
}

impl DiskInfo {
    pub(crate) fn of_ram(sectors: u64, made_of: &sandrail_memory::Backing) -> Self {
        Self {
            medium: format!("{sectors} sectors of memory"),
            direct: None,
            registered: None,
            memory: made_of.to_string(),
        }
    }

    pub(crate) fn of_file(
        path: &Path,
        direct: &Result<(), String>,
        registered: Result<(), &io::Error>,
        made_of: &sandrail_memory::Backing,
    ) -> Self {
        Self {
            medium: path.display().to_string(),
            direct: Some(direct.clone()),
            registered: Some(registered.map_err(ToString::to_string)),
            memory: made_of.to_string(),
        }
    }
}

impl fmt::Display for DiskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.medium)?;
        match &self.direct {
            None => {}
            Some(Ok(())) => write!(f, ", direct")?,
            Some(Err(reason)) => write!(f, ", through the page cache ({reason})")?,
        }
        if let Some(Err(reason)) = &self.registered {
            write!(f, ", buffers not registered ({reason})")?;
        }
        write!(f, ", {}", self.memory)
    }
}
