//! What can go wrong in a lab, and why a machine may not have one.

use std::io;
use std::time::Duration;

/// Why a lab could not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This machine cannot have a lab at all.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A setting of the builder or of a target makes no sense.
    #[error("{setting}: {problem}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// A command ran and said no.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status, in words.
        status: String,
        /// What it printed.
        output: String,
    },
    /// The operating system refused something.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A target ended before it was ready, or when it should have run.
    #[error("{program} ended ({status}): {output}")]
    TargetEnded {
        /// Its program.
        program: &'static str,
        /// Its exit status, in words.
        status: String,
        /// What it printed.
        output: String,
    },
    /// A target runs but was not ready, or did not end, in time.
    #[error("{program} was not where it should be after {waited:?}: {output}")]
    TargetNotReady {
        /// Its program.
        program: &'static str,
        /// How long was waited.
        waited: Duration,
        /// What it printed.
        output: String,
    },
}

impl LabError {
    /// An operating system error, with what was being done.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// Why this machine cannot have a lab; each says what would mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The process may not make network namespaces.
    #[error("network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN): run as root")]
    NotRoot,
    /// A program is missing.
    #[error("`{program}` is not installed: on Debian, apt-get install {package}")]
    ProgramMissing {
        /// The program's name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program of this repository has not been built.
    #[error(
        "`{program}` is not built: cargo build -p {program}, with --release for a release build"
    )]
    NotBuilt {
        /// The program's name, and its package's.
        program: &'static str,
    },
    /// The kernel, or the container around this process, forbids namespaces or veth pairs.
    #[error("this machine forbids network namespaces or veth pairs: {reason}")]
    NamespacesForbidden {
        /// What was tried, and the answer.
        reason: String,
    },
    /// The kernel has no VLAN devices.
    #[error("this kernel has no VLAN devices (CONFIG_VLAN_8021Q, module 8021q): {reason}")]
    NoVlan {
        /// What was tried, and the answer.
        reason: String,
    },
}
