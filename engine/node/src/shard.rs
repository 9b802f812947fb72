//! One pinned thread's loop: requests, timers, transmit burst, one kick, receive burst, events out.

mod aside;
mod cache;
mod control;
mod idle;

use std::sync::Arc;
use std::time::Duration;

use sandrail_link::Link;
use sandrail_memory::Buffer;
use sandrail_proto::aoe::initiator::{
    ConfigError, Initiator, InitiatorConfig, InterfaceConfig, InterfaceId, Operation, Outcome,
    Request, SubmitError, TARGETS_MAX, TargetId,
};
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, VlanTag};

use crate::cache::Carrier;
use crate::clock;
use crate::config::{Idle, NodeConfig};
use crate::forward::{SmallFrame, concerns_all};
use crate::hub::{Hub, TargetHandle};
use crate::os::PollSet;
use crate::request::{Done, Job, Mailbox, RequestError};
use crate::stat::{Latency, ShardCounters};

pub(crate) use cache::ShardCache;
use control::ControlState;

/// A request that the initiator has; `user` in the initiator's request is its place.
#[derive(Debug)]
struct OpenRequest {
    asker: Asker,
    place: u8,
    submitted_at: Instant,
}

/// Who a request is for.
#[derive(Debug)]
enum Asker {
    Client { mailbox: Arc<Mailbox>, slot: u32 },
    Cache,
}

/// A link, and what was given to it.
#[derive(Debug)]
struct Port<L> {
    link: L,
    interface: InterfaceId,
    /// Frames that the initiator handed out for this interface.
    polled: u64,
    /// Those of them that the link took.
    taken: u64,
}

impl<L: Link> Port<L> {
    /// How many of the polled frames have left for sure, counted from the first. Frames that the link refused never
    /// leave: while others are under way the lesser count is told, which only lengthens lifetimes.
    fn sent(&self) -> u64 {
        let completed = self.link.completed();
        if completed >= self.taken {
            self.polled
        } else {
            completed
        }
    }

    fn has_unsent(&self) -> bool {
        self.link.completed() < self.taken
    }
}

/// One shard. [`crate::Node::start`] runs each on a thread of its own; with [`crate::Node::assemble`] the caller turns
/// it.
#[derive(Debug)]
pub struct Shard<L> {
    hub: Arc<Hub>,
    number: usize,
    ports: Vec<Port<L>>,
    initiator: Initiator<Carrier>,
    /// Handles' places to the initiator's targets, with the generation that they belong to.
    targets: [Option<(u32, TargetId)>; TARGETS_MAX],
    open: Box<[Option<OpenRequest>]>,
    open_free: Vec<u32>,
    control: ControlState,
    cache: Option<Box<ShardCache>>,
    counters: ShardCounters,
    latency: Latency,
    idle: Idle,
    wait_set: PollSet,
    burst_frames_max: usize,
    burst_requests_max: usize,
    core: Option<usize>,
    fifo_priority: Option<u8>,
    now: Instant,
    /// What the initiator has due and could not send in the last turn.
    stuck_due: Option<Instant>,
}

impl<L: Link> Shard<L> {
    pub(crate) fn new(
        hub: Arc<Hub>,
        number: usize,
        links: Vec<L>,
        config: &NodeConfig,
        initiator: InitiatorConfig,
    ) -> Result<Self, ConfigError> {
        let now = clock::now();
        let vlan = |place: usize| -> Option<VlanTag> { config.vlans.get(place).copied().flatten() };
        let interfaces: Vec<InterfaceConfig> = links
            .iter()
            .enumerate()
            .map(|(place, link)| InterfaceConfig {
                mac: link.info().mac,
                mtu_bytes: link.info().mtu_bytes,
                vlan: vlan(place),
            })
            .collect();
        let requests_max = u32::from(initiator.requests_max);
        let shard_seed = config.seed ^ now.as_nanos() ^ u64::from(initiator.shard) << 56;
        let initiator = Initiator::new(initiator, &interfaces, shard_seed, now)?;
        let ports: Vec<Port<L>> = (0..=u8::MAX)
            .zip(links)
            .map(|(place, link)| Port {
                link,
                interface: InterfaceId(place),
                polled: 0,
                taken: 0,
            })
            .collect();
        Ok(Self {
            hub,
            number,
            wait_set: PollSet::new(ports.len() + 1),
            ports,
            initiator,
            targets: [None; TARGETS_MAX],
            open: (0..requests_max).map(|_| None).collect(),
            open_free: (0..requests_max).rev().collect(),
            control: ControlState::default(),
            cache: None,
            counters: ShardCounters::default(),
            latency: Latency::new(),
            idle: config.idle,
            burst_frames_max: config.burst_frames_max,
            burst_requests_max: config.burst_requests_max,
            core: config.cores.as_ref().map(|cores| cores[number]),
            fifo_priority: config.fifo_priority,
            now,
            stuck_due: None,
        })
    }

    /// One turn of the loop; whether there was anything to do.
    ///
    /// It ends with what came in, and begins with what is to go out: an answer's completion is in its caller's hands as soon
    /// as it can be, and what the caller asks next is sent without a further look around. The clock is read between the two,
    /// and the next turn's timers judge by that: they never see a time later than that at which frames were last taken in,
    /// so that no answer that waits in a ring is taken for a late one.
    pub fn turn(&mut self) -> bool {
        let now = self.now;
        let mut busy = self.take_asked(now);
        busy |= self.timers(now);
        busy |= self.take_controls(now);
        busy |= self.transmit(now);
        for port in &mut self.ports {
            port.link.flush(now);
        }
        busy |= self.take_in();
        self.counters.turns += 1;
        self.counters.busy_turns += u64::from(busy);
        busy
    }

    /// Reads the clock, and takes in what is there by then.
    fn take_in(&mut self) -> bool {
        let now = clock::now();
        self.now = now;
        for port in &self.ports {
            // By this clock they have left, however long the thread was kept from running meanwhile (S2).
            self.initiator.handle_sent(now, port.interface, port.sent());
        }
        let mut busy = self.receive(now);
        busy |= self.take_forwarded(now);
        busy | self.events_out()
    }

    fn receive(&mut self, now: Instant) -> bool {
        let Self {
            ports,
            initiator,
            hub,
            number,
            counters,
            burst_frames_max,
            ..
        } = self;
        let mut frames = 0;
        for port in ports {
            let interface = port.interface;
            let received = port.link.receive(now, *burst_frames_max, &mut |frame| {
                if concerns_all(&frame) {
                    forward(hub, *number, interface, &frame, counters);
                }
                initiator.handle_frame(now, interface, &frame);
            });
            counters.rx_bursts += u64::from(received > 0);
            frames += received;
        }
        counters.rx_frames += u64::try_from(frames).unwrap_or(0);
        frames > 0
    }

    fn take_forwarded(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(frame) = self.hub.doors[self.number].forwarded.pop() {
            busy = true;
            self.counters.forwarded_in += 1;
            if usize::from(frame.interface.0) < self.ports.len() {
                self.initiator
                    .handle_frame(now, frame.interface, &FrameRef::new(frame.bytes()));
            }
        }
        busy
    }

    fn timers(&mut self, now: Instant) -> bool {
        let due = self.initiator.poll_timeout();
        if due.is_none_or(|due| due > now) {
            self.stuck_due = None;
            return false;
        }
        self.initiator.handle_timeout(now);
        // What stays due waits for room in a link, which may be down for days: that is no work.
        let moved = self.initiator.poll_timeout() != due;
        self.stuck_due = if moved { None } else { due };
        moved
    }

    fn take_requests(&mut self, now: Instant) -> bool {
        // What the initiator can't take stays in the ring: that is the back-pressure.
        let room = self
            .initiator
            .room()
            .min(self.open_free.len())
            .min(self.burst_requests_max);
        for taken in 0..room {
            let Some(job) = self.hub.doors[self.number].jobs.pop() else {
                return taken > 0;
            };
            self.counters.requests += 1;
            self.begin(now, job);
        }
        room > 0
    }

    fn begin(&mut self, now: Instant, job: Job) {
        let Some(target) = self.target_id(job.target) else {
            return self.refuse(
                job.mailbox.as_ref(),
                job.slot,
                SubmitError::NotAttached,
                job.buffer,
            );
        };
        let open = self.open_free.pop().expect("take_requests saw room");
        let request = Request {
            target,
            operation: job.operation,
            buffer: Carrier::Buffer(job.buffer),
            // The time in the ring counts.
            timeout: job
                .timeout
                .saturating_sub(now.saturating_since(job.submitted_at)),
            user: u64::from(open),
        };
        match self.initiator.submit(now, request) {
            Ok(_) => {
                self.open[index(open)] = Some(OpenRequest {
                    asker: Asker::Client {
                        mailbox: job.mailbox,
                        slot: job.slot,
                    },
                    place: job.target.index,
                    submitted_at: job.submitted_at,
                });
            }
            Err(rejected) => {
                self.open_free.push(open);
                self.refuse(
                    job.mailbox.as_ref(),
                    job.slot,
                    rejected.error,
                    rejected.buffer.into_buffer(),
                );
            }
        }
    }

    fn refuse(&mut self, mailbox: &Mailbox, slot: u32, error: SubmitError, buffer: Buffer) {
        self.counters.requests_refused += 1;
        self.counters.completions += 1;
        mailbox.deliver(Done {
            slot,
            completed_at: self.now,
            result: Err(RequestError::Refused(error)),
            buffer,
        });
    }

    fn target_id(&self, handle: TargetHandle) -> Option<TargetId> {
        let (generation, target) = (*self.targets.get(handle.place())?)?;
        (generation == handle.generation).then_some(target)
    }

    fn handle_of(&self, target: TargetId) -> Option<TargetHandle> {
        let place = self
            .targets
            .iter()
            .position(|entry| entry.is_some_and(|(_, id)| id == target))?;
        let (generation, _) = self.targets[place]?;
        Some(TargetHandle {
            index: u8::try_from(place).ok()?,
            generation,
        })
    }

    fn transmit(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for port in &mut self.ports {
            let room = port.link.transmit_room().min(self.burst_frames_max);
            let before = port.polled;
            for _ in 0..room {
                let Some(frame) = self.initiator.poll_transmit(now, port.interface) else {
                    break;
                };
                port.polled += 1;
                match port.link.transmit(now, frame.header, frame.payload) {
                    Ok(()) => port.taken += 1,
                    // The initiator takes it for lost and sends it again by its timer.
                    Err(_) => self.counters.tx_refused += 1,
                }
            }
            self.counters.tx_frames += port.polled - before;
            self.counters.tx_bursts += u64::from(port.polled > before);
            busy |= port.polled > before;
        }
        busy
    }

    fn events_out(&mut self) -> bool {
        // First what the target may have lost: a flush answered in the same turn must not be told before it (S7).
        let mut busy = self.notices_out();
        // Read anew for the first of them: latency includes the copy into the caller's buffer.
        let mut completed_at = None;
        while let Some(completion) = self.initiator.poll_event() {
            busy = true;
            let completed_at = *completed_at.get_or_insert_with(clock::now);
            let place = u32::try_from(completion.user).expect("user is a place in `open`");
            let open = self.open[index(place)]
                .take()
                .expect("each request ends once");
            self.open_free.push(place);
            if completion.result.is_ok() {
                self.record(
                    completion.operation,
                    completed_at.saturating_since(open.submitted_at),
                );
            }
            if matches!(completion.result, Ok(Outcome::Written)) {
                self.hub.targets[usize::from(open.place)]
                    .loss
                    .write_acknowledged(self.number);
            }
            match (open.asker, completion.buffer) {
                (_, Carrier::Read { page, copied_bytes }) => {
                    self.page_read(page, copied_bytes, completion.result);
                }
                (_, Carrier::Write(pages)) => {
                    self.pages_written(completed_at, pages, completion.result);
                }
                (Asker::Client { mailbox, slot }, Carrier::Buffer(buffer)) => {
                    self.counters.completions += 1;
                    mailbox.deliver(Done {
                        slot,
                        completed_at,
                        result: completion.result.map_err(RequestError::Io),
                        buffer,
                    });
                }
                (Asker::Cache, Carrier::Buffer(_)) => {}
            }
        }
        busy
    }

    fn record(&mut self, operation: Operation, latency: Duration) {
        let histogram = match operation {
            Operation::Read { .. } => &mut self.latency.read,
            Operation::Write { .. } => &mut self.latency.write,
            Operation::Flush => &mut self.latency.flush,
            _ => return,
        };
        histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Has the shard drive its part of a cache.
    pub(crate) fn give_cache(&mut self, cache: ShardCache) {
        self.cache = Some(Box::new(cache));
    }

    fn open_requests(&self) -> usize {
        self.open.len() - self.open_free.len()
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// Hands a frame that concerns all to every other shard.
fn forward(
    hub: &Hub,
    own: usize,
    interface: InterfaceId,
    frame: &FrameRef<'_>,
    counters: &mut ShardCounters,
) {
    for (shard, door) in hub.doors.iter().enumerate() {
        if shard == own {
            continue;
        }
        if door
            .forwarded
            .push(SmallFrame::copy(interface, frame))
            .is_err()
        {
            counters.forward_dropped += 1;
            continue;
        }
        counters.forwarded_out += 1;
        door.doorbell.notify();
    }
}
