//! Files that do not hold what they should.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}{place}: {problem}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1; none if it is not about a line.
    pub place: Place,
    /// What is wrong.
    pub problem: Problem,
}

/// A line, counted from 1, or the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub Option<usize>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It can't be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It is no text.
    #[error("not a text file: no result, log or percentile file looks like this")]
    Binary,
    /// JSON that can't be read, or not as a result.
    #[error("{0}")]
    Json(String),
    /// A result of another kind than those that are known.
    #[error("a result of kind `{0}`; `comparison` and `run` are known")]
    Kind(String),
    /// A result of another version than the one that is known.
    #[error("{kind} of version {found}; this program reads version {known}")]
    Version {
        /// Its kind.
        kind: String,
        /// Its version.
        found: u64,
        /// What this program reads.
        known: u64,
    },
    /// A line of a log or a percentile file.
    #[error("{0}")]
    Line(String),
    /// Numbers that cannot be true together.
    #[error("{0}")]
    Impossible(String),
    /// A name that is none of `.json`, `.hlog` and `.hgrm`.
    #[error("a name that ends in .json, .hlog or .hgrm is needed, to know what it is")]
    Suffix,
}

impl Problem {
    /// In this file, as a whole.
    #[must_use]
    pub fn of(self, path: &Path) -> FileError {
        FileError {
            path: path.to_owned(),
            place: Place(None),
            problem: self,
        }
    }

    /// At a line of this file, counted from 1.
    #[must_use]
    pub fn at(self, path: &Path, line: usize) -> FileError {
        FileError {
            path: path.to_owned(),
            place: Place(Some(line)),
            problem: self,
        }
    }
}
