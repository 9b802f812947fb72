//! The machine, as far as a report must name it.

use std::fs;

use serde::{Deserialize, Serialize};

/// What a number belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model as the hypervisor or firmware tells, and what of it we have.
    pub machine: String,
    /// Processor.
    pub cpu: String,
    /// Kernel release.
    pub kernel: String,
    /// Scheduling class and nice value of this process, which all threads and the target inherit.
    pub scheduling_class: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        // Not `available_parallelism`, which counts only the cores that this thread may run on.
        let cores = fs::read_to_string("/proc/cpuinfo").map_or(0, |text| {
            text.lines()
                .filter(|line| line.starts_with("processor"))
                .count()
        });
        let virtual_machine = field("/proc/cpuinfo", "flags")
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
        let kind = if virtual_machine {
            "virtual machine"
        } else {
            "machine"
        };
        let memory = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        Self {
            machine: format!("{kind}, {cores} cores, {} MiB", memory >> 10),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            scheduling_class: scheduling().unwrap_or_else(|| "unknown".to_owned()),
        }
    }
}

/// The first line `name : value` of a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// From /proc/self/stat, see proc(5): fields 19 (nice) and 41 (policy), counted behind the name in parentheses.
fn scheduling() -> Option<String> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let policy = match *fields.get(41 - 3)? {
        "0" => "SCHED_OTHER",
        "1" => "SCHED_FIFO",
        "2" => "SCHED_RR",
        other => return Some(format!("policy {other}")),
    };
    // Where sessions are scheduled as groups (sched(7)), a thread's nice value counts within its session only.
    let group = fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
    let group = group
        .split_once(' ')
        .map(|(_, nice)| format!(", autogroup {}", nice.trim()));
    Some(format!(
        "{policy}, nice {}{}",
        fields.get(19 - 3)?,
        group.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_named() {
        let machine = Machine::this();
        assert!(
            machine.cpu != "unknown" && machine.kernel != "unknown",
            "{machine:?}"
        );
        assert!(
            machine.scheduling_class.starts_with("SCHED_"),
            "{machine:?}"
        );
    }
}
