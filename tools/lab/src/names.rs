//! The names of a lab: unique among all labs of a machine, and telling of a process that is no more.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::LabError;

/// Labs made by this process so far. Relaxed: only uniqueness matters, nothing is published through it.
static LABS: AtomicU32 = AtomicU32::new(0);

/// Names one lab: `prefix-pid-start-count`. The start time tells a process from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabId {
    pub(crate) prefix: String,
    pub(crate) pid: u32,
    /// Clock ticks from boot to the process's start, field 22 of `/proc/PID/stat` (proc(5)).
    pub(crate) start_ticks: u64,
    pub(crate) count: u32,
}

impl LabId {
    /// A name for a new lab of this process.
    pub(crate) fn new(prefix: &str) -> Result<Self, LabError> {
        check_prefix(prefix)?;
        let pid = std::process::id();
        let start_ticks = start_ticks(pid).ok_or_else(|| LabError::Io {
            action: format!("read /proc/{pid}/stat"),
            source: std::io::ErrorKind::InvalidData.into(),
        })?;
        Ok(Self {
            prefix: prefix.to_owned(),
            pid,
            start_ticks,
            count: LABS.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Reads a name made by [`LabId::stem`], with or without a namespace's ending. `None`: not one of ours.
    pub(crate) fn parse(prefix: &str, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(prefix)?.strip_prefix('-')?;
        let mut parts = rest.split('-');
        let pid = parts.next()?.parse().ok()?;
        let start_ticks = parts.next()?.parse().ok()?;
        let count = parts.next()?.parse().ok()?;
        let ending = parts.next();
        if parts.next().is_some() || !matches!(ending, None | Some(INITIATOR | TARGET)) {
            return None;
        }
        Some(Self {
            prefix: prefix.to_owned(),
            pid,
            start_ticks,
            count,
        })
    }

    /// What all names of this lab start with; also the name of its directory of backing files.
    pub(crate) fn stem(&self) -> String {
        format!(
            "{}-{}-{}-{}",
            self.prefix, self.pid, self.start_ticks, self.count
        )
    }

    pub(crate) fn initiator_namespace(&self) -> String {
        format!("{}-{INITIATOR}", self.stem())
    }

    pub(crate) fn target_namespace(&self) -> String {
        format!("{}-{TARGET}", self.stem())
    }

    /// Whether the process that made this lab still runs.
    pub(crate) fn owner_lives(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

const INITIATOR: &str = "initiator";
const TARGET: &str = "target";

/// A prefix becomes part of file names and of a shell script's arguments: plain words only.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), LabError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if prefix.is_empty()
        || prefix.len() > 40
        || prefix.starts_with('-')
        || !prefix.bytes().all(plain)
    {
        return Err(LabError::Setting {
            setting: "name_prefix",
            problem: format!(
                "`{prefix}`: 1 to 40 letters, digits, `-` or `_`, not starting with `-`"
            ),
        });
    }
    Ok(())
}

/// When a live process started; `None` if there is none, or only a zombie of it.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything: what follows the last `)` is field 3.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        let first = LabId::new("unit-test").unwrap();
        let second = LabId::new("unit-test").unwrap();
        assert_ne!(first.stem(), second.stem());
        for name in [
            first.stem(),
            first.initiator_namespace(),
            first.target_namespace(),
        ] {
            assert_eq!(
                LabId::parse("unit-test", &name),
                Some(first.clone()),
                "{name}"
            );
        }
        assert!(first.owner_lives());
    }

    #[test]
    fn foreign_names_are_not_ours() {
        let ours = LabId::new("unit").unwrap().initiator_namespace();
        for (prefix, name) in [
            ("unit", "unit"),
            ("unit", "unit-1"),
            ("unit", "unit-x-2-3-target"),
            ("unit", "unit-1-2-3-other"),
            ("unit", "unit-1-2-3-target-4"),
            ("unit", "unit-test-1-2-3-target"),
            ("uni", ours.as_str()),
        ] {
            assert_eq!(LabId::parse(prefix, name), None, "{prefix} {name}");
        }
    }

    #[test]
    fn an_owner_with_another_start_time_is_dead() {
        let mut id = LabId::new("unit").unwrap();
        id.start_ticks += 1;
        assert!(!id.owner_lives());
        // Process ids end well below this: PID_MAX_LIMIT is 2^22 (proc(5)).
        id.pid = 1 << 30;
        assert!(!id.owner_lives());
    }

    #[test]
    fn odd_prefixes_are_refused() {
        for prefix in ["", "-x", "a b", "a/b", "$x", "ä", &"x".repeat(41)] {
            assert!(check_prefix(prefix).is_err(), "{prefix}");
        }
        assert!(check_prefix("sandrail-demo_1").is_ok());
    }
}
