//! Keeps the target's core from halting.
//!
//! A target sleeps until a frame comes. On a virtual machine its core then halts, and to wake it takes the hypervisor many
//! times what a round trip takes: every client would look equally good. A loop of the idle scheduling class runs there
//! when nobody else wants to.

use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// The loop; it ends when this is dropped, or when this process is gone.
#[derive(Debug)]
pub struct Awake(Child);

impl Awake {
    /// Starts it on the cores that the calling thread may run on.
    ///
    /// # Errors
    /// `chrt` (util-linux) is missing.
    pub fn keep() -> anyhow::Result<Self> {
        let script = format!(
            "while kill -0 {} 2>/dev/null; do :; done",
            std::process::id()
        );
        let child = Command::new("chrt")
            .args(["--idle", "0", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .context("start `chrt --idle` (of util-linux)")?;
        Ok(Self(child))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        // It may have ended; nothing is lost if so.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_in_the_idle_class_until_dropped() {
        let awake = Awake::keep().unwrap();
        let stat = format!("/proc/{}/stat", awake.0.id());
        // SCHED_IDLE is 5, the 41st field of proc(5); `chrt` sets it before it becomes the shell.
        let is_idle = || {
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            let fields = text.rsplit_once(')').map(|(_, fields)| fields.to_owned());
            fields.is_some_and(|fields| fields.split_whitespace().nth(41 - 3) == Some("5"))
        };
        let begin = std::time::Instant::now();
        while !is_idle() && begin.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(is_idle(), "{stat}");
        drop(awake);
        assert!(!std::path::Path::new(&stat).exists());
    }
}
