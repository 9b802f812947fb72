//! What threads share: for each core a door with its rings and its bell, for each link a ring of what is to leave by it.

use std::io;
use std::sync::mpsc::Sender;

use crossbeam_queue::ArrayQueue;
use sandrail_node::waiting::{Doorbell, EventFd};

use super::crossing::Crossing;
use super::status::CoreStatus;
use crate::control::protocol::Keep;
use crate::state::keeper::Saved;

/// Frames that can wait for a core, or for a link of another core.
const CROSSING_FRAMES: usize = 512;
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

    /// Tells one core something; `false`: its ring is full.
    #[must_use]
    pub(crate) fn tell(&self, core: usize, command: Command) -> bool {
        let door = &self.cores[core];
        let told = door.commands.push(command).is_ok();
        door.doorbell.notify();
        told
    }
}
