//! The shard's thread: turns, and waiting between them.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use sandrail_link::Link;
use sandrail_proto::time::Instant;

use super::Shard;
use crate::control::StopReport;
use crate::{clock, os};

/// The longest sleep with a link that has no descriptor to wait on.
const BLIND_SLEEP: Duration = Duration::from_micros(100);
/// The longest sleep while frames are with a link that has not said that they left: no descriptor tells of that.
const UNSENT_SLEEP: Duration = Duration::from_millis(1);

impl<L: Link> Shard<L> {
    /// Turns until told to stop. Pins the calling thread first.
    pub(crate) fn run(mut self) -> StopReport {
        self.core = self.core.filter(|core| os::pin(self.number, *core));
        if let Some(priority) = self.fifo_priority
            && let Err(error) = os::set_fifo(priority)
        {
            tracing::warn!(shard = self.number, %error, "could not enter SCHED_FIFO");
        }
        os::sharpen_timers();
        self.now = clock::now();
        let mut idle_turns = 0_u32;
        while !self.is_over() {
            if self.turn() {
                idle_turns = 0;
                continue;
            }
            idle_turns = idle_turns.saturating_add(1);
            let awake_turns = self.idle.spin_turns.saturating_add(self.idle.yield_turns);
            if idle_turns <= self.idle.spin_turns {
                std::hint::spin_loop();
            } else if idle_turns <= awake_turns || !self.idle.sleep {
                self.counters.yields += 1;
                std::thread::yield_now();
            } else {
                // What a sleep ended with is as good as a busy turn.
                if self.sleep() {
                    idle_turns = 0;
                }
            }
        }
        self.finish()
    }

    /// Sleeps until a frame, a request, a control call or a forwarded frame arrives, or something is due; whether anything
    /// came in.
    fn sleep(&mut self) -> bool {
        let Some(longest) = self.longest_sleep() else {
            return false;
        };
        let hub = Arc::clone(&self.hub);
        let door = &hub.doors[self.number];
        let mut busy = false;
        door.doorbell.announce();
        // The second look, after the announcement: what was pushed before it rang no bell.
        let mut called_off =
            !door.jobs.is_empty() || !door.controls.is_empty() || !door.forwarded.is_empty();
        called_off |= self.cache.as_ref().is_some_and(|cache| cache.is_called());
        if !called_off {
            called_off = !self.ports.iter_mut().all(|port| port.link.prepare_wait());
        }
        if called_off {
            self.counters.sleeps_cancelled += 1;
        } else {
            for (place, port) in self.ports.iter().enumerate() {
                // Asked anew each time: a link that reopened has another descriptor.
                self.wait_set.set(place, port.link.wait_fd());
            }
            let bell = door.doorbell.bell();
            self.wait_set.set(self.ports.len(), Some(bell.as_raw_fd()));
            self.counters.sleeps += 1;
            if self.wait_set.wait(longest) {
                self.counters.wakes += 1;
                bell.drain();
            }
            // Before timers see how long this took.
            busy = self.take_in();
        }
        door.doorbell.awake();
        busy
    }

    /// `None`: something is due already. `Some(None)`: nothing will ever be.
    fn longest_sleep(&mut self) -> Option<Option<Duration>> {
        let mut due: Option<Instant> = self.initiator.poll_timeout();
        let mut earlier = |other: Option<Instant>| {
            if let Some(other) = other {
                due = Some(due.map_or(other, |due| due.min(other)));
            }
        };
        earlier(self.control.poll_timeout());
        earlier(self.cache.as_ref().and_then(|cache| cache.poll_timeout()));
        let mut cap: Option<Duration> = None;
        for port in &self.ports {
            earlier(port.link.poll_timeout());
            if port.link.wait_fd().is_none() {
                cap = Some(BLIND_SLEEP);
            } else if port.has_unsent() {
                cap = Some(cap.map_or(UNSENT_SLEEP, |cap| cap.min(UNSENT_SLEEP)));
            }
        }
        let until_due = match due {
            // No descriptor tells of room in a link.
            Some(due) if self.stuck_due == Some(due) => Some(UNSENT_SLEEP),
            Some(due) if due <= self.now => return None,
            Some(due) => Some(due.saturating_since(self.now)),
            None => None,
        };
        Some(match (until_due, cap) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        })
    }
}
