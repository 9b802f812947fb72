//! One core's loop: receive burst, frames from other cores, disks, timers, commands, transmit burst, one kick.

use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};

use sandrail_node::waiting::PollSet;
use sandrail_node::{Idle, clock};
use sandrail_proto::aoe::initiator::InterfaceId;
use sandrail_proto::aoe::target::Blade;
use sandrail_proto::aoe::target::backing::Backing;
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, TargetAddr};

use super::crossing::CrossFrame;
use super::hub::{CROSSING_FRAMES, Command, Hub};
use super::route::{Homes, Route};
use super::seen::Seen;
use crate::disk::ServedDisk;
use crate::drill::DrillLink;
use crate::events::CoreEvent;
use crate::settings::Copies;
use crate::state::keeper::{Job, Saved};

/// Frames received, sent, or taken from others for one link in a turn at most.
const BURST_FRAMES_MAX: usize = 64;
/// No link's receive memory holds more frames. Fewer would do, but a link does not say how many.
const LINK_FRAMES_MAX: usize = 1 << 16;

/// A target of this core, in the machine's order.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) addr: TargetAddr,
    pub(crate) read_only: bool,
    /// Whether its state is kept over a restart.
    pub(crate) persistent: bool,
}

/// A link of this core.
pub(super) struct OwnPort {
    pub(super) link: DrillLink,
    /// Its number among all links.
    pub(super) id: u8,
    /// A frame of another core that found no room.
    held: Option<Box<CrossFrame>>,
    /// At the end of the last turn there was no room for a frame.
    is_full: bool,
    seen: Seen,
}

/// What the loop itself counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoopCounters {
    pub(super) turns: u64,
    pub(super) busy_turns: u64,
    pub(super) yields: u64,
    pub(super) sleeps: u64,
    pub(super) crossed_out: u64,
    pub(super) crossed_in: u64,
    pub(super) crossing_full: u64,
    pub(super) tx_refused: u64,
    pub(super) events_lost: u64,
}

/// What a core is made of.
pub(crate) struct CoreParts {
    pub(crate) hub: Arc<Hub>,
    pub(crate) number: usize,
    pub(crate) homes: Homes,
    /// Links that are this core's, with their numbers among all.
    pub(crate) links: Vec<(u8, DrillLink)>,
    pub(crate) blade: Blade<ServedDisk>,
    /// What the machine remembers of requests.
    pub(crate) copies: Copies,
    pub(crate) targets: Vec<Target>,
    /// Where states are made durable; `None`: nowhere.
    pub(crate) keeper: Option<Sender<Job>>,
    /// Where events are written to the log.
    pub(crate) events: SyncSender<CoreEvent>,
    pub(crate) idle: Idle,
    pub(crate) pin_to: Option<usize>,
}

/// One core.
pub(crate) struct Core {
    pub(super) hub: Arc<Hub>,
    pub(super) number: usize,
    homes: Homes,
    pub(super) ports: Vec<OwnPort>,
    /// Links of other cores.
    foreign_links: Vec<u8>,
    pub(super) blade: Blade<ServedDisk>,
    pub(super) copies: Copies,
    /// Whether it was told that writes are dropped for want of room among them.
    pub(super) is_refusal_told: bool,
    pub(super) targets: Vec<Target>,
    keeper: Option<Sender<Job>>,
    pub(super) events: SyncSender<CoreEvent>,
    pub(super) idle: Idle,
    pub(super) pin_to: Option<usize>,
    pub(super) counters: LoopCounters,
    pub(super) wait_set: PollSet,
    pub(super) now: Instant,
    /// Of what other cores hand over.
    crossed: Seen,
    /// Since when no frames are taken any more.
    pub(super) stopping: Option<Instant>,
    /// Since it was told to stop, everything of its own has ended.
    pub(super) is_through: bool,
    /// Since when answers wait for room in a ring, and none leave.
    pub(super) full_since: Option<Instant>,
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        let now = clock::now();
        let ports: Vec<OwnPort> = parts
            .links
            .into_iter()
            .map(|(id, link)| OwnPort {
                link,
                id,
                held: None,
                is_full: false,
                seen: Seen::new(now, LINK_FRAMES_MAX),
            })
            .collect();
        let foreign_links = (0..=u8::MAX)
            .zip(&parts.hub.links)
            .filter(|(_, door)| door.core != parts.number)
            .map(|(id, _)| id)
            .collect();
        Self {
            wait_set: PollSet::new(ports.len() + parts.targets.len() + 1),
            hub: parts.hub,
            number: parts.number,
            homes: parts.homes,
            ports,
            foreign_links,
            blade: parts.blade,
            copies: parts.copies,
            is_refusal_told: false,
            targets: parts.targets,
            keeper: parts.keeper,
            events: parts.events,
            idle: parts.idle,
            pin_to: parts.pin_to,
            counters: LoopCounters::default(),
            now,
            // The others may have taken frames since long before.
            crossed: Seen::new(Instant::ZERO, CROSSING_FRAMES),
            stopping: None,
            is_through: false,
            full_since: None,
        }
    }

    /// One turn; whether there was anything to do. The clock is read once, at its end.
    pub(super) fn turn(&mut self) -> bool {
        let now = self.now;
        for port in &mut self.ports {
            port.link.begin_turn();
        }
        let mut busy = false;
        // Before their frames are taken: what they say of them must be in the ring by then.
        let others_saw = self.hub.seen_by_others(self.number);
        if self.stopping.is_none() {
            busy |= self.receive(now);
        }
        busy |= self.take_crossed(now, others_saw);
        self.tell_backlog(now, others_saw.is_some());
        self.blade.handle_disks(now);
        busy |= self.timers(now);
        busy |= self.take_saved(now);
        busy |= self.take_commands();
        if self.transmit(now) {
            busy = true;
            self.full_since = None;
        }
        for port in &mut self.ports {
            port.link.flush(now);
        }
        busy |= self.states_out(now);
        self.events_out();
        self.counters.turns += 1;
        self.counters.busy_turns += u64::from(busy);
        self.now = clock::now();
        busy
    }

    fn receive(&mut self, now: Instant) -> bool {
        let Self {
            ports,
            blade,
            hub,
            homes,
            counters,
            number,
            ..
        } = self;
        let alone = hub.cores.len() == 1;
        let mut busy = false;
        for port in ports {
            let id = port.id;
            let received = port.link.receive(now, BURST_FRAMES_MAX, &mut |frame| {
                let route = if alone {
                    Route::Here
                } else {
                    homes.route(&frame)
                };
                let here = match route {
                    Route::Here => true,
                    Route::Core(core) => core == *number,
                    Route::All => true,
                };
                for core in 0..hub.cores.len() {
                    let there = route == Route::All || route == Route::Core(core);
                    if core != *number && there {
                        hand_over(hub, core, id, &frame, counters);
                    }
                }
                if here {
                    blade.handle_frame(now, InterfaceId(id), &frame);
                }
            });
            // Fewer than asked for may still be all that were looked at: bad ones count for nothing, nor do those that faults took.
            port.seen
                .took(now, received, received < BURST_FRAMES_MAX / 2);
            busy |= received > 0;
        }
        busy
    }

    /// Tells the others and the machine which frames are seen, and may not be.
    fn tell_backlog(&mut self, now: Instant, has_others: bool) {
        let own = self.ports.iter().map(|port| port.seen.to()).min();
        let own = own.unwrap_or(now);
        let mut seen = own;
        if has_others {
            self.hub.tell_seen(self.number, own);
            seen = own.min(self.crossed.to());
        }
        self.blade.handle_backlog(seen);
    }

    /// Frames for targets of this core that arrived on others', who saw all that had arrived until then.
    fn take_crossed(&mut self, now: Instant, others_saw: Option<Instant>) -> bool {
        let crossing = &self.hub.cores[self.number].requests;
        let mut taken = 0;
        let mut is_empty = false;
        while taken < BURST_FRAMES_MAX {
            let Some(frame) = crossing.take() else {
                is_empty = true;
                break;
            };
            // At the end frames are lost; their senders ask the next instance.
            if self.stopping.is_none() {
                let bytes = FrameRef::new(frame.bytes());
                self.blade
                    .handle_frame(now, InterfaceId(frame.link), &bytes);
            }
            crossing.give_back(frame);
            self.counters.crossed_in += 1;
            taken += 1;
        }
        if let Some(saw) = others_saw {
            self.crossed.took(saw, taken, is_empty);
        }
        taken > 0
    }

    fn timers(&mut self, now: Instant) -> bool {
        let due = self.blade.poll_timeout().is_some_and(|due| due <= now);
        if due {
            self.blade.handle_timeout(now);
        }
        due
    }

    fn transmit(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for place in 0..self.ports.len() {
            busy |= self.transmit_own(now, place);
        }
        for place in 0..self.foreign_links.len() {
            busy |= self.transmit_foreign(now, self.foreign_links[place]);
        }
        busy
    }

    /// What leaves by a link of this core: other cores' answers first, they have waited longer.
    fn transmit_own(&mut self, now: Instant, place: usize) -> bool {
        let port = &mut self.ports[place];
        let replies = &self.hub.links[usize::from(port.id)].replies;
        let room = port.link.transmit_room().min(BURST_FRAMES_MAX);
        port.is_full = room == 0;
        let mut sent = 0;
        while sent < room {
            let Some(frame) = port.held.take().or_else(|| replies.take()) else {
                break;
            };
            let (header, payload) = frame.parts();
            let result = port.link.transmit(now, header, payload);
            if result == Err(sandrail_link::TransmitError::Full) {
                port.held = Some(frame);
                port.is_full = true;
                return sent > 0;
            }
            self.counters.tx_refused += u64::from(result.is_err());
            replies.give_back(frame);
            sent += 1;
        }
        while sent < room {
            let Some(frame) = self.blade.poll_transmit(now, InterfaceId(port.id)) else {
                break;
            };
            // The initiator takes a refused frame for lost, and asks again.
            let result = port.link.transmit(now, frame.header, frame.payload);
            self.counters.tx_refused += u64::from(result.is_err());
            sent += 1;
        }
        sent > 0
    }

    /// Answers that leave by the link of another core.
    fn transmit_foreign(&mut self, now: Instant, link: u8) -> bool {
        let door = &self.hub.links[usize::from(link)];
        let mut sent = 0;
        while sent < BURST_FRAMES_MAX && door.replies.has_room() {
            let Some(frame) = self.blade.poll_transmit(now, InterfaceId(link)) else {
                break;
            };
            if door.replies.put(link, frame.header, frame.payload) {
                self.counters.crossed_out += 1;
            } else {
                self.counters.crossing_full += 1;
            }
            sent += 1;
        }
        if sent > 0 {
            self.hub.cores[door.core].doorbell.notify();
        }
        sent > 0
    }

    /// States that must be durable before their change is answered.
    fn states_out(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some((target, id, state)) = self.blade.poll_persist() {
            busy = true;
            let addr = self.targets[usize::from(target.0)].addr;
            let job = Job {
                core: self.number,
                target,
                addr,
                id,
                state,
            };
            let handed = self.keeper.as_ref().map(|keeper| keeper.send(job).is_ok());
            match handed {
                Some(true) => {}
                // Nothing is kept, which was said at the start.
                None => self.blade.handle_persisted(now, target, id, true),
                Some(false) => self.blade.handle_persisted(now, target, id, false),
            }
        }
        busy
    }

    fn take_saved(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(Saved { target, id, ok }) = self.hub.cores[self.number].saved.pop() {
            busy = true;
            self.blade.handle_persisted(now, target, id, ok);
        }
        busy
    }

    fn take_commands(&mut self) -> bool {
        let mut busy = false;
        while let Some(command) = self.hub.cores[self.number].commands.pop() {
            busy = true;
            self.obey(command);
        }
        busy
    }

    fn obey(&mut self, command: Command) {
        // A client that went away before its answer misses nothing, here and below.
        match command {
            Command::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Command::Refresh(reply) => {
                let changed =
                    (0..self.targets.len()).filter(|place| self.disk_mut(*place).refresh());
                let _ = reply.send(changed.count());
            }
            Command::Crash { keep, reply } => {
                for place in 0..self.targets.len() {
                    let (now, addr) = (self.now, self.targets[place].addr);
                    match self.disk_mut(place).crash(now, keep) {
                        None => {}
                        Some(Ok(report)) => {
                            tracing::warn!(target = %addr, kept = report.kept, lost = report.lost, "power cut")
                        }
                        Some(Err(error)) => tracing::error!(target = %addr, %error, "power cut"),
                    }
                }
                let _ = reply.send(());
                // The process ends within moments; until then nothing may be written or answered.
                loop {
                    std::thread::park();
                }
            }
            Command::Stop => self.stopping = Some(self.now),
        }
    }

    /// Whether nothing waits for this core in a ring.
    pub(super) fn rings_are_empty(&self) -> bool {
        self.is_nothing_new() && !self.ports.iter().any(|port| self.has_replies(port))
    }

    /// Whether nothing came in, and nothing waits that there is room for.
    pub(super) fn is_nothing_to_do(&self) -> bool {
        let mut ports = self.ports.iter();
        self.is_nothing_new() && ports.all(|port| port.is_full || !self.has_replies(port))
    }

    /// Whether answers wait for room: in a link of this core, or in a ring to another's. No descriptor tells of either.
    pub(super) fn answers_wait_for_room(&self) -> bool {
        let mut full_ports = self.ports.iter().filter(|port| port.is_full);
        let mut foreign = self.foreign_links.iter();
        let is_full = |link: &u8| !self.hub.links[usize::from(*link)].replies.has_room();
        full_ports.clone().any(|port| self.has_replies(port))
            || (full_ports.next().is_some() || foreign.any(is_full)) && !self.is_quiet()
    }

    fn is_nothing_new(&self) -> bool {
        let door = &self.hub.cores[self.number];
        door.requests.is_empty() && door.saved.is_empty() && door.commands.is_empty()
    }

    /// Whether answers of other cores wait to leave by a link of this one.
    fn has_replies(&self, port: &OwnPort) -> bool {
        port.held.is_some() || !self.hub.links[usize::from(port.id)].replies.is_empty()
    }

    /// The machine's own due time, and what disks and links want.
    pub(super) fn due(&mut self) -> Option<Instant> {
        let links = self
            .ports
            .iter_mut()
            .filter_map(|port| port.link.poll_timeout())
            .min();
        [self.blade.poll_timeout(), links]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn disk_wait_fd(&self, place: usize) -> Option<i32> {
        self.disk(place).wait_fd()
    }
}

/// Hands a frame to the core that its target lives on.
fn hand_over(hub: &Hub, core: usize, link: u8, frame: &FrameRef<'_>, counters: &mut LoopCounters) {
    let door = &hub.cores[core];
    if door.requests.put_received(link, frame) {
        counters.crossed_out += 1;
        door.doorbell.notify();
    } else {
        counters.crossing_full += 1;
    }
}
