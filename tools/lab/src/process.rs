//! Running other programs: where they are, and what they said when they failed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{LabError, Unsupported};

/// Finds `program` on the path, and in the system directories that an ordinary user's path leaves out.
pub(crate) fn find(program: &'static str, package: &'static str) -> Result<PathBuf, Unsupported> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
        .ok_or(Unsupported::ProgramMissing { program, package })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// iproute2's `ip`.
pub(crate) fn ip() -> Result<Command, Unsupported> {
    find("ip", "iproute2").map(Command::new)
}

/// Runs a command to its end and returns what it printed; anything but success is an error that shows the output.
pub(crate) fn run(command: &mut Command) -> Result<String, LabError> {
    let line = command_line(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(LabError::io(format!("start `{line}`")))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Command {
        command: line,
        status: status_in_words(output.status),
        output: format!("{}{}", printed, complaint).trim().to_owned(),
    })
}

/// Runs `ip` with the words of `line`: nothing that this crate names has a blank in it.
pub(crate) fn run_ip(line: &str) -> Result<String, LabError> {
    run(ip()?.args(line.split_ascii_whitespace()))
}

/// A command as one would type it, for messages.
pub(crate) fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// An exit status in words: the code, or the signal.
pub(crate) fn status_in_words(status: ExitStatus) -> String {
    status.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find("sandrail-no-such-program", "some-package").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sandrail-no-such-program` is not installed: on Debian, apt-get install some-package"
        );
    }

    #[test]
    fn a_failed_command_shows_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo said; echo complained >&2; exit 3"]))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("said") && text.contains("complained") && text.contains('3'),
            "{text}"
        );
    }
}
