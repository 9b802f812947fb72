//! Pings between the two sides: proof that the kernel still gets what is not ours.

use std::process::Child;
use std::time::Duration;

use crate::error::LabError;
use crate::process;

/// What became of a run of pings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PingStats {
    /// Echo requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Mean round trip; `None` if nothing came back.
    pub rtt_mean: Option<Duration>,
    /// Longest round trip; `None` if nothing came back.
    pub rtt_max: Option<Duration>,
}

impl PingStats {
    /// Requests that were not answered.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.received)
    }

    /// Reads the summary that iputils' ping prints under `-q`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let summary = text
            .lines()
            .find(|line| line.contains("packets transmitted"))?;
        let mut counts = summary
            .split(", ")
            .map(|part| part.split(' ').next().unwrap_or_default());
        let sent = counts.next()?.parse().ok()?;
        let received = counts.next()?.parse().ok()?;
        let times = text
            .lines()
            .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
        let mut times = times.unwrap_or_default().split('/').map(|word| {
            word.parse()
                .ok()
                .and_then(|ms: f64| Duration::try_from_secs_f64(ms / 1e3).ok())
        });
        Some(Self {
            sent,
            received,
            rtt_mean: times.nth(1).flatten(),
            rtt_max: times.next().flatten(),
        })
    }
}

/// Pings under way in the background, from the initiator's side to the target's.
#[derive(Debug)]
pub struct RunningPing {
    pub(crate) child: Child,
    pub(crate) command: String,
}

impl RunningPing {
    /// Waits for the last reply (or for a second without one) and returns the result. Loss is a result, not an error.
    ///
    /// # Errors
    /// `ping` could not run, or printed no summary.
    pub fn wait(self) -> Result<PingStats, LabError> {
        let output = self
            .child
            .wait_with_output()
            .map_err(LabError::io("wait for ping"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        PingStats::parse(&printed).ok_or_else(|| LabError::Command {
            command: self.command,
            status: process::status_in_words(output.status),
            output: format!("{printed}{}", String::from_utf8_lossy(&output.stderr)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read() {
        let text = "PING 10.83.0.2 (10.83.0.2) 56(84) bytes of data.\n\n--- 10.83.0.2 ping statistics ---\n\
                    3 packets transmitted, 2 received, 33.3333% packet loss, time 20ms\n\
                    rtt min/avg/max/mdev = 0.020/0.035/0.050/0.015 ms\n";
        let stats = PingStats::parse(text).unwrap();
        assert_eq!((stats.sent, stats.received, stats.lost()), (3, 2, 1));
        assert_eq!(stats.rtt_mean, Some(Duration::from_micros(35)));
        assert_eq!(stats.rtt_max, Some(Duration::from_micros(50)));
    }

    #[test]
    fn a_run_without_replies_has_no_times() {
        let text = "4 packets transmitted, 0 received, +4 errors, 100% packet loss, time 30ms\n";
        let stats = PingStats::parse(text).unwrap();
        assert_eq!(
            (stats.sent, stats.received, stats.rtt_mean, stats.rtt_max),
            (4, 0, None, None)
        );
        assert_eq!(
            PingStats::parse("ping: connect: Network is unreachable\n"),
            None
        );
    }
}
