//! A core's thread: turns, waiting between them, and the end.

use std::os::fd::AsRawFd;
use std::time::Duration;

use sandrail_node::clock;
use sandrail_node::waiting::{pin, sharpen_timers};

use super::turn::Core;

/// The longest sleep with a link that has no descriptor to wait on.
const BLIND_SLEEP: Duration = Duration::from_micros(100);
/// The longest sleep after frames were sent: no descriptor tells that the link could not send them all.
const UNSENT_SLEEP: Duration = Duration::from_millis(1);
/// How long a thread stays awake for answers that wait for room. A link that takes nothing for longer is down, or paused
/// by its peer.
const FULL_AWAKE: Duration = Duration::from_millis(10);
/// The longest sleep of all: a file's size is looked at while the machine turns.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// How long an orderly end waits for what is under way.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

impl Core {
    /// Turns until told to stop; then ends what is under way and flushes. Pins the calling thread first. Whether
    /// everything has ended and is flushed.
    pub(crate) fn run(mut self) -> bool {
        self.pin_to = self.pin_to.filter(|core| pin(self.number, *core));
        sharpen_timers();
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
                self.rest();
            }
        }
        self.flush_disks() && self.is_through
    }

    /// Whether the end has come: told to stop, and every core is through, or it has taken too long.
    fn is_over(&mut self) -> bool {
        let Some(since) = self.stopping else {
            return false;
        };
        // Frames are not taken any more, so that this stays so but for answers of others to send.
        self.is_through |= self.is_quiet() && self.rings_are_empty();
        if self.is_through {
            self.hub.tell_through(self.number);
        }
        // In this order: what a core has put into a ring was there before it said that it was through.
        if self.hub.all_are_through() && self.rings_are_empty() {
            return true;
        }
        let is_late = self.now.saturating_since(since) > DRAIN_WITHIN;
        if is_late && !self.is_through {
            tracing::warn!(
                core = self.number,
                "requests under way did not end in time; their initiators ask again"
            );
        }
        is_late
    }

    /// Whether nothing is under way and every answer is sent.
    pub(super) fn is_quiet(&self) -> bool {
        let held = self.blade.held();
        held.operations == 0 && held.answers == 0
    }

    /// Makes durable what was acknowledged and not flushed, whatever else is under way; whether that is so for every target.
    fn flush_disks(&mut self) -> bool {
        let mut all = true;
        for place in 0..self.targets.len() {
            if self.targets[place].read_only {
                continue;
            }
            if let Err(error) = self.disk_mut(place).flush_and_wait() {
                let target = self.targets[place].addr;
                tracing::error!(%target, %error, "what was not flushed may be lost");
                all = false;
            }
        }
        all
    }

    /// Waits for something to do. Room in a ring wakes nobody, so while answers wait for it the thread looks again and again, and
    /// sleeps for moments only if that takes long.
    fn rest(&mut self) {
        if !self.answers_wait_for_room() {
            self.full_since = None;
            return self.sleep(LONGEST_SLEEP);
        }
        let since = *self.full_since.get_or_insert(self.now);
        if self.now.saturating_since(since) < FULL_AWAKE {
            self.counters.yields += 1;
            return std::thread::yield_now();
        }
        self.sleep(UNSENT_SLEEP);
    }

    /// Sleeps until a frame, an operation's end or a ring arrives, or something is due, but no longer than `longest`.
    fn sleep(&mut self, longest: Duration) {
        let longest = match self.due() {
            Some(due) if due <= self.now => return,
            Some(due) => due.saturating_since(self.now).min(longest),
            None => longest,
        };
        let mut cap = longest;
        for port in &mut self.ports {
            if port.link.wait_fd().is_none() {
                cap = cap.min(BLIND_SLEEP);
            }
            if port.link.take_sent() {
                cap = cap.min(UNSENT_SLEEP);
            }
        }
        let hub = std::sync::Arc::clone(&self.hub);
        let door = &hub.cores[self.number];
        door.doorbell.announce();
        // The second look, after the announcement: what was pushed before it rang no bell.
        let called_off =
            !self.is_nothing_to_do() || !self.ports.iter_mut().all(|port| port.link.prepare_wait());
        if !called_off {
            let (links, disks) = (self.ports.len(), self.targets.len());
            for place in 0..links {
                // Asked anew each time: a link that reopened has another descriptor.
                let fd = self.ports[place].link.wait_fd();
                self.wait_set.set(place, fd);
            }
            for place in 0..disks {
                let fd = self.disk_wait_fd(place);
                self.wait_set.set(links + place, fd);
            }
            let bell = door.doorbell.bell();
            self.wait_set.set(links + disks, Some(bell.as_raw_fd()));
            self.counters.sleeps += 1;
            if self.wait_set.wait(Some(cap)) {
                bell.drain();
            }
            self.now = clock::now();
        }
        door.doorbell.awake();
    }
}
