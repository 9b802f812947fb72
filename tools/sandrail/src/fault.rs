//! What can go wrong, and the exit code that tells a script which kind it was.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use sandrail_link::capture::CaptureError;
use sandrail_node::links::OpenError;
use sandrail_node::{AttachFailed, BlockingError, NodeError, RequestError};
use sandrail_proto::aoe::initiator::{AttachError, IoError, SubmitError};
use sandrail_wire::{MacAddr, TargetAddr};

use crate::size::Size;

/// The exit codes; `--help` and the manual page list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// Reading, writing, flushing or comparing failed.
    Io = 1,
    /// The command line asks for something that makes no sense.
    Usage = 2,
    /// This machine does not allow it as it is.
    Environment = 3,
    /// The target is not there, or refuses.
    Target = 4,
    /// Done, but there is something to look at.
    Warning = 5,
}

/// The exit codes in words, for the help text.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  reading, writing, flushing or comparing failed
  2  the command line makes no sense: a wrong option, a range past the end, a file that does not fit
  3  the environment: no such interface, interface down, default route, no privilege, in use by another
  4  the target: nobody answers, two answer, or it refuses (reserved, config string set)
  5  done, with a warning that needs a look (discover: two MACs for one address; doctor: WARN)";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What this command itself refuses or finds wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("name an interface with --interface (-i); there are: {0}")]
    NoInterfaceNamed(String),
    #[error("interface {name} does not exist in this network namespace; there are: {others}")]
    InterfaceMissing { name: String, others: String },
    #[error("interface {name} is down; bring it up with: ip link set {name} up")]
    InterfaceDown { name: String },
    #[error("interface {name} is not an Ethernet interface; AoE needs one")]
    NotEthernet { name: String },
    #[error(
        "interface {name} carries the default route ({family}); raw frames on it may disturb whatever else this machine \
         does there. Use an interface of the SAN's own, or insist with --force-default-route"
    )]
    DefaultRoute { name: String, family: &'static str },
    #[error("--{option}: {problem}")]
    Option {
        option: &'static str,
        problem: String,
    },
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error(
        "{path} has {file}, but {target} has room for {room} from sector {lba} on (device: {device}); nothing was written"
    )]
    DoesNotFit {
        path: PathBuf,
        file: Size,
        target: TargetAddr,
        room: Size,
        lba: u64,
        device: Size,
    },
    #[error(
        "the input goes on after {written}, where {target} ends (device: {device}); what came before was written"
    )]
    InputTooLong {
        written: Size,
        target: TargetAddr,
        device: Size,
    },
    #[error(
        "{path} has {file}, which is no multiple of 512 bytes: --pad fills the last sector with zeros{written}"
    )]
    NotSectors {
        path: PathBuf,
        file: Size,
        written: &'static str,
    },
    #[error(
        "sectors {lba}..{end} lie past the end of {target}, which has {device_sectors} sectors ({device})"
    )]
    PastEnd {
        lba: u64,
        end: u64,
        target: TargetAddr,
        device_sectors: u64,
        device: Size,
    },
    #[error("nobody answered within {0:?}: no AoE target is reachable on {1}")]
    NothingFound(Duration, String),
    #[error(
        "{target} on {interfaces} within {timeout:?}: {source}; `sandrail discover` lists who answers"
    )]
    Attach {
        target: TargetAddr,
        interfaces: String,
        timeout: Duration,
        source: AttachFailed,
    },
    #[error("{verb} failed at sector {lba} of {target}: {source}")]
    Data {
        verb: &'static str,
        lba: u64,
        target: TargetAddr,
        source: RequestError,
    },
    #[error(
        "sector {lba} of {target} differs from what was written ({differing} of {compared} sectors compared so far differ)"
    )]
    Differs {
        lba: u64,
        target: TargetAddr,
        differing: u64,
        compared: u64,
    },
    #[error("the device has no answer left to give: its shard is gone")]
    NoAnswer,
    #[error(
        "flush of {target}: {evidence}; {why}. What was written since the last flush counts as lost"
    )]
    LossNotMended {
        target: TargetAddr,
        evidence: String,
        why: String,
    },
    #[error(
        "{target} does not promise that anything is durable ({0}), and --require-durable was given",
        durability
    )]
    NotDurable {
        target: TargetAddr,
        durability: &'static str,
    },
    #[error(
        "{0} is not on the list that {1} reports after the edit: it answers success and does nothing"
    )]
    MaskNotEdited(MacAddr, TargetAddr),
    #[error(
        "epoch {epoch} is stale: {target} has a reservation of epoch {in_force}, and is {holders}"
    )]
    StaleEpoch {
        target: TargetAddr,
        epoch: u64,
        in_force: u64,
        holders: String,
    },
    #[error("{0} did not take the reservation: read back, it is {1}")]
    NotReserved(TargetAddr, String),
    #[error("{target}'s config string is not {wanted}: {answer}")]
    ConfigDiffers {
        target: TargetAddr,
        wanted: String,
        answer: String,
    },
    #[error("{0}")]
    Environment(String),
    #[error("{0}")]
    Io(String),
}

impl Fault {
    fn exit(&self) -> Exit {
        match self {
            Self::Option { .. }
            | Self::NoInterfaceNamed(_)
            | Self::DoesNotFit { .. }
            | Self::NotSectors { .. }
            | Self::PastEnd { .. }
            | Self::File { .. } => Exit::Usage,
            Self::InterfaceMissing { .. }
            | Self::InterfaceDown { .. }
            | Self::NotEthernet { .. }
            | Self::DefaultRoute { .. }
            | Self::Environment(_) => Exit::Environment,
            Self::NothingFound(..)
            | Self::MaskNotEdited(..)
            | Self::NotReserved(..)
            | Self::StaleEpoch { .. }
            | Self::ConfigDiffers { .. } => Exit::Target,
            Self::Attach { source, .. } => of_attach(source),
            Self::Data { source, .. } => of_request(source),
            Self::Differs { .. }
            | Self::InputTooLong { .. }
            | Self::NoAnswer
            | Self::LossNotMended { .. }
            | Self::NotDurable { .. }
            | Self::Io(_) => Exit::Io,
        }
    }
}

fn of_attach(error: &AttachFailed) -> Exit {
    match error {
        AttachFailed::Refused(AttachError::Wildcard(_)) => Exit::Usage,
        AttachFailed::Refused(_) | AttachFailed::Node(_) => Exit::Environment,
        AttachFailed::Failed(_) | AttachFailed::Timeout(_) => Exit::Target,
    }
}

fn of_request(error: &RequestError) -> Exit {
    match error {
        RequestError::Io(IoError::Aoe(_) | IoError::NoSession(_) | IoError::ReserveRefused(_))
        | RequestError::Refused(SubmitError::NoEpochs) => Exit::Target,
        RequestError::Refused(SubmitError::PastEnd { .. }) => Exit::Usage,
        _ => Exit::Io,
    }
}

/// The exit code for an error, by the first cause that this command knows.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(fault) = cause.downcast_ref::<Fault>() {
            return fault.exit();
        }
        if cause.is::<OpenError>() || cause.is::<NodeError>() {
            return Exit::Environment;
        }
        if cause.is::<sandrail_lab::LabError>() || cause.is::<sandrail_lab::Unsupported>() {
            return Exit::Environment;
        }
        if cause.is::<CaptureError>() {
            return Exit::Usage;
        }
        match cause.downcast_ref::<BlockingError>() {
            Some(BlockingError::Failed(error) | BlockingError::Data { error, .. }) => {
                return of_request(error);
            }
            Some(BlockingError::TooLong { .. } | BlockingError::Length(_)) => return Exit::Usage,
            Some(BlockingError::Mask(_)) => return Exit::Target,
            Some(_) => return Exit::Io,
            None => {}
        }
    }
    Exit::Io
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_cause_whatever_was_said_around_it() {
        let missing = Fault::InterfaceMissing {
            name: "san9".to_owned(),
            others: String::new(),
        };
        let wrapped = Err::<(), _>(missing).context("discover").unwrap_err();
        assert_eq!(exit_of(&wrapped), Exit::Environment);
        let reserved = RequestError::Io(IoError::Aoe(6.into()));
        let error = anyhow::Error::from(BlockingError::Failed(reserved)).context("reading");
        assert_eq!(exit_of(&error), Exit::Target);
        let no_epochs = RequestError::Refused(SubmitError::NoEpochs);
        let error = anyhow::Error::from(BlockingError::Failed(no_epochs)).context("reservation");
        assert_eq!(exit_of(&error), Exit::Target);
        assert_eq!(exit_of(&anyhow::anyhow!("anything")), Exit::Io);
    }
}
