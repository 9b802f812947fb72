//! Two send queues taking turns, so that "the queue is empty" comes true under load.
//!
//! The kernel charges a frame to its socket until the driver frees it, so an empty send queue (`SIOCOUTQ`) means that every
//! frame sent through it has left. A queue in use may never be seen empty. Hence two sockets: while one drains the other
//! sends, and once it is empty they change places.

/// Which of two sockets sends, and how many frames are known to have left.
#[derive(Debug, Default)]
pub(super) struct Turns {
    active: usize,
    /// Frames handed to the kernel or dropped, since the start.
    handed: u64,
    /// The frames before this one went through the socket that is not active, or are known to have left.
    boundary: u64,
    completed: u64,
}

impl Turns {
    /// The socket to send through.
    pub(super) const fn active(&self) -> usize {
        self.active
    }

    /// All of this many first frames have left.
    pub(super) const fn completed(&self) -> u64 {
        self.completed
    }

    /// The next frames were sent through the active socket, or dropped.
    pub(super) fn hand(&mut self, frames: u64) {
        self.handed += frames;
    }

    /// Asks whether queues are empty, as far as that tells something.
    pub(super) fn reap(&mut self, mut empty: impl FnMut(usize) -> bool) {
        if self.completed < self.boundary && empty(1 - self.active) {
            self.completed = self.boundary;
        }
        if self.completed < self.boundary || self.completed == self.handed {
            return;
        }
        if empty(self.active) {
            self.completed = self.handed;
        } else {
            self.active = 1 - self.active;
        }
        self.boundary = self.handed;
    }
}
