//! What threads share: for each core a door with its rings and its bell, for each link a ring of what is to leave by it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use crossbeam_queue::ArrayQueue;
use sandrail_node::waiting::{Doorbell, EventFd};
use sandrail_proto::time::Instant;

use super::crossing::Crossing;
use super::status::CoreStatus;
use crate::control::protocol::Keep;
use crate::state::keeper::Saved;

/// Frames that can wait for a core, or for a link of another core.
pub(super) const CROSSING_FRAMES: usize = 512;
/// States that can be on their way back to a core.
const SAVED_MAX: usize = 4096;
/// Commands that can wait for a core: one each from every client of the control socket, and a stop.
const COMMANDS_MAX: usize = 128;

/// What a core is told by the control plane.
#[derive(Debug)]
pub(crate) enum Command {
    /// Tell how you are.
    Status(Sender<CoreStatus>),
    /// Look at sizes again; how many changed.
    Refresh(Sender<usize>),
    /// Lose what a power cut would, and do nothing ever after.
    Crash { keep: Keep, reply: Sender<()> },
    /// Take no frames any more, end what is under way, flush, and return.
    Stop,
}

/// How others reach a core.
#[derive(Debug)]
pub(crate) struct CoreDoor {
    pub(crate) requests: Crossing,
    pub(crate) saved: ArrayQueue<Saved>,
    pub(crate) commands: ArrayQueue<Command>,
    pub(crate) doorbell: Doorbell<EventFd>,
    /// The frames that arrived on its links before this, in nanoseconds, were handed to those whom they are for.
    seen_to_ns: AtomicU64,
    /// It takes nothing any more, and everything of its own has ended.
    is_through: AtomicBool,
}

/// How others send by a link.
#[derive(Debug)]
pub(crate) struct LinkDoor {
    /// The core that owns the link.
    pub(crate) core: usize,
    pub(crate) replies: Crossing,
}

/// All doors.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) cores: Vec<CoreDoor>,
    pub(crate) links: Vec<LinkDoor>,
}

impl Hub {
    /// For so many cores, and links of these owners; frames of up to this MTU.
    pub(crate) fn new(cores: usize, owners: &[usize], mtu_bytes: usize) -> io::Result<Self> {
        // Alone, a core never hands anything over.
        let frames = if cores > 1 { CROSSING_FRAMES } else { 1 };
        let door = |_| {
            Ok(CoreDoor {
                requests: Crossing::new(frames, mtu_bytes),
                saved: ArrayQueue::new(SAVED_MAX),
                commands: ArrayQueue::new(COMMANDS_MAX),
                doorbell: Doorbell::new(EventFd::new()?),
                seen_to_ns: AtomicU64::new(0),
                is_through: AtomicBool::new(false),
            })
        };
        let link = |core: &usize| LinkDoor {
            core: *core,
            replies: Crossing::new(frames, mtu_bytes),
        };
        Ok(Self {
            cores: (0..cores).map(door).collect::<io::Result<_>>()?,
            links: owners.iter().map(link).collect(),
        })
    }

    /// What arrived on this core's links before then was handed over.
    pub(super) fn tell_seen(&self, core: usize, to: Instant) {
        // Pairs with the acquire in `seen_by_others`: the frames are in the rings before this is seen.
        self.cores[core]
            .seen_to_ns
            .store(to.as_nanos(), Ordering::Release);
    }

    /// Frames that arrived before then on links of other cores are in this core's ring, or were. `None`: there are no others.
    pub(super) fn seen_by_others(&self, core: usize) -> Option<Instant> {
        let others = self.cores.iter().enumerate().filter(|(at, _)| *at != core);
        // Pairs with the release in `tell_seen`.
        let told = others.map(|(_, door)| door.seen_to_ns.load(Ordering::Acquire));
        told.min().map(Instant::from_nanos)
    }

    /// At the end: this core has nothing under way any more. Its links go on sending what others have.
    pub(super) fn tell_through(&self, core: usize) {
        // Pairs with the acquire in `all_are_through`: its answers are in the rings before this is seen.
        if !self.cores[core].is_through.swap(true, Ordering::Release) {
            for door in &self.cores {
                door.doorbell.notify();
            }
        }
    }

    /// Whether no core has anything under way.
    pub(super) fn all_are_through(&self) -> bool {
        // Pairs with the release in `tell_through`.
        let through = |door: &CoreDoor| door.is_through.load(Ordering::Acquire);
        self.cores.iter().all(through)
    }

    /// Tells one core something; `false`: its ring is full.
    #[must_use]
    pub(crate) fn tell(&self, core: usize, command: Command) -> bool {
        let door = &self.cores[core];
        let told = door.commands.push(command).is_ok();
        door.doorbell.notify();
        told
    }
}
