//! A thread's way to the shards: submit without blocking, fetch completions.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use sandrail_memory::{Buffer, BufferPool, SECTOR_BYTES};
use sandrail_proto::aoe::initiator::{Durability, Operation, Outcome};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use crate::clock;
use crate::config::Idle;
use crate::doorbell::Doorbell;
use crate::flush::{FlushBegun, worse};
use crate::hub::{Hub, TargetHandle};
use crate::os::{EventFd, PollSet};
use crate::request::{
    Completion, Done, Job, Mailbox, Refusal, Rejected, Request, RequestError, Ticket,
};

/// While a flush still waits for room in a shard's ring, a sleep lasts no longer.
const UNSENT_RETRY: Duration = Duration::from_millis(1);

/// A request under way, as its client remembers it.
#[derive(Debug)]
struct Slot {
    count: u32,
    target: TargetHandle,
    operation: Operation,
    user: u64,
    timeout: Duration,
    submitted_at: Instant,
    /// Parts without an answer: one, or one a shard for a flush. 0: the slot is free.
    parts_open: u32,
    /// Shards whose ring was full when a flush came; bit n for shard n.
    unsent: u16,
    /// The parts' results so far, the worst of them.
    result: Result<Outcome, RequestError>,
    /// What a flush will cover if it succeeds.
    begun: FlushBegun,
    /// The caller's buffer of a flush: its parts carry none.
    buffer: Buffer,
}

impl Slot {
    fn free() -> Self {
        Self {
            count: 0,
            target: TargetHandle {
                index: 0,
                generation: 0,
            },
            operation: Operation::Flush,
            user: 0,
            timeout: Duration::ZERO,
            submitted_at: Instant::ZERO,
            parts_open: 0,
            unsent: 0,
            result: Err(RequestError::Stopped),
            begun: FlushBegun::default(),
            buffer: Buffer::empty(),
        }
    }
}

/// One thread's requests and completions. Up to `depth` requests are under way at a time.
///
/// Completions come in no particular order. Dropped with requests under way, it leaves them to run to their end.
#[derive(Debug)]
pub struct Client {
    hub: Arc<Hub>,
    pool: BufferPool,
    mailbox: Arc<Mailbox>,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    flushes_unsent: usize,
    idle: Idle,
    wait_set: PollSet,
    request_timeout: Duration,
}

impl Client {
    pub(crate) fn new(
        hub: Arc<Hub>,
        pool: BufferPool,
        depth: usize,
        idle: Idle,
    ) -> std::io::Result<Self> {
        let depth = depth.clamp(1, 1 << 16);
        let bell = EventFd::new()?;
        let mut wait_set = PollSet::new(1);
        wait_set.set(0, Some(bell.as_raw_fd()));
        let count = u32::try_from(depth).unwrap_or(1);
        Ok(Self {
            mailbox: Arc::new(Mailbox {
                done: ArrayQueue::new(depth * hub.doors.len()),
                doorbell: Doorbell::new(bell),
            }),
            hub,
            pool,
            slots: (0..count).map(|_| Slot::free()).collect(),
            free: (0..count).rev().collect(),
            flushes_unsent: 0,
            idle,
            wait_set,
            request_timeout: Duration::from_secs(10),
        })
    }

    /// A buffer of the node's pool with `len_bytes` visible; `None` when all are held, or none is as long.
    #[must_use]
    pub fn buffer(&self, len_bytes: usize) -> Option<Buffer> {
        if len_bytes > self.pool.capacity_bytes() {
            return None;
        }
        let mut buffer = self.pool.get()?;
        buffer.set_len(len_bytes);
        Some(buffer)
    }

    /// The longest buffer, in bytes.
    #[must_use]
    pub fn buffer_bytes_max(&self) -> usize {
        self.pool.capacity_bytes()
    }

    /// Requests that may be under way at a time.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Requests that are.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The timeout of the blocking calls' requests; 10 s unless set.
    pub fn set_request_timeout(&mut self, timeout: Duration) {
        self.request_timeout = timeout;
    }

    /// The timeout of the blocking calls' requests.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// How many sectors from `lba` on one request may take: a stripe ends there.
    #[must_use]
    pub fn sectors_to_stripe_end(&self, lba: Lba) -> u64 {
        self.hub.stripe(lba).1
    }

    /// The shard that a sector belongs to.
    #[must_use]
    pub fn shard_of(&self, lba: Lba) -> usize {
        self.hub.stripe(lba).0
    }

    /// Hands a request to its shard. Neither blocks nor allocates.
    ///
    /// A flush goes to every shard; its completion tells the worst of their results. Everything but reads, writes and
    /// flushes goes to shard 0.
    ///
    /// # Errors
    /// [`Rejected`] with the request when it can't be taken now, or at all.
    pub fn submit(&mut self, request: Request) -> Result<Ticket, Rejected> {
        let shard = match self.route(&request) {
            Ok(shard) => shard,
            Err(why) => return Err(Rejected { why, request }),
        };
        let Some(&slot) = self.free.last() else {
            let depth = self.depth();
            return Err(Rejected {
                why: Refusal::Depth { depth },
                request,
            });
        };
        let submitted_at = clock::now();
        let mut unsent = 0;
        let Request {
            target,
            operation,
            buffer,
            timeout,
            user,
        } = request;
        let (parts_open, kept_buffer, begun) = match shard {
            Some(shard) => {
                let job = self.job(slot, target, operation, buffer, timeout, submitted_at);
                if let Err(job) = self.hub.doors[shard].push(job) {
                    return Err(Rejected {
                        why: Refusal::RingFull { shard },
                        request: Request {
                            target,
                            operation,
                            buffer: job.buffer,
                            timeout,
                            user,
                        },
                    });
                }
                (1, Buffer::empty(), FlushBegun::default())
            }
            None => {
                let begun = self.hub.targets[target.place()].loss.flush_begins();
                let shards = u32::try_from(self.hub.doors.len()).unwrap_or(1);
                unsent = u16::try_from((1_u32 << shards) - 1).unwrap_or(u16::MAX);
                self.flushes_unsent += 1;
                (shards, buffer, begun)
            }
        };
        self.free.pop();
        let entry = self.slot_mut(slot);
        entry.count = entry.count.wrapping_add(1);
        entry.target = target;
        entry.operation = operation;
        entry.user = user;
        entry.timeout = timeout;
        entry.submitted_at = submitted_at;
        entry.parts_open = parts_open;
        entry.unsent = unsent;
        entry.result = Ok(Outcome::Flushed(Durability::Claimed));
        entry.begun = begun;
        entry.buffer = kept_buffer;
        let ticket = Ticket {
            slot,
            count: entry.count,
        };
        self.send_unsent();
        Ok(ticket)
    }

    /// The next completion, if there is one. Neither blocks nor allocates.
    pub fn poll(&mut self) -> Option<Completion> {
        self.send_unsent();
        loop {
            let done = self.mailbox.done.pop()?;
            if let Some(completion) = self.end_part(done) {
                return Some(completion);
            }
        }
    }

    /// The next completion, waited for as the node's `client_idle` says; `None` when none came in time or none is
    /// under way.
    pub fn wait(&mut self, timeout: Duration) -> Option<Completion> {
        let mut deadline = None;
        let mut idle_turns = 0_u32;
        loop {
            if let Some(completion) = self.poll() {
                return Some(completion);
            }
            if self.outstanding() == 0 {
                return None;
            }
            let now = clock::now();
            let until = *deadline.get_or_insert(now + timeout);
            if now >= until {
                return None;
            }
            idle_turns = idle_turns.saturating_add(1);
            let awake_turns = self.idle.spin_turns.saturating_add(self.idle.yield_turns);
            if idle_turns <= self.idle.spin_turns {
                std::hint::spin_loop();
            } else if idle_turns <= awake_turns || !self.idle.sleep {
                std::thread::yield_now();
            } else {
                self.sleep(until.saturating_since(now));
            }
        }
    }

    fn sleep(&mut self, longest: Duration) {
        let longest = if self.flushes_unsent > 0 {
            longest.min(UNSENT_RETRY)
        } else {
            longest
        };
        let doorbell = &self.mailbox.doorbell;
        doorbell.announce();
        if self.mailbox.done.is_empty() && self.wait_set.wait(Some(longest)) {
            doorbell.bell().drain();
        }
        doorbell.awake();
    }

    /// The shard that the request belongs to; `None`: all of them.
    fn route(&self, request: &Request) -> Result<Option<usize>, Refusal> {
        // Relaxed: a request that slips through is answered by the shard, or by `Door::push` after its end.
        if self.hub.stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Stopping);
        }
        if !self.hub.is_attached(request.target) {
            return Err(Refusal::NoTarget);
        }
        match request.operation {
            Operation::Read { lba } | Operation::Write { lba, .. } => {
                let sectors =
                    u64::try_from(request.buffer.len() / SECTOR_BYTES).unwrap_or(u64::MAX);
                let (shard, left) = self.hub.stripe(lba);
                if sectors > left {
                    return Err(Refusal::CrossesStripe {
                        lba: lba.0,
                        end: lba.0.saturating_add(sectors),
                        stripe_end: lba.0.saturating_add(left),
                    });
                }
                Ok(Some(shard))
            }
            Operation::Flush => Ok(None),
            _ => Ok(Some(0)),
        }
    }

    fn job(
        &self,
        slot: u32,
        target: TargetHandle,
        operation: Operation,
        buffer: Buffer,
        timeout: Duration,
        submitted_at: Instant,
    ) -> Job {
        Job {
            target,
            operation,
            buffer,
            timeout,
            submitted_at,
            slot,
            mailbox: Arc::clone(&self.mailbox),
        }
    }

    /// Sends the parts of flushes that found no room before. Room comes as shards take requests, which they always do.
    fn send_unsent(&mut self) {
        if self.flushes_unsent == 0 {
            return;
        }
        for slot in 0..self.slots.len() {
            let entry = &self.slots[slot];
            if entry.parts_open == 0 || entry.unsent == 0 {
                continue;
            }
            let (target, operation, timeout) = (entry.target, entry.operation, entry.timeout);
            let (submitted_at, before) = (entry.submitted_at, entry.unsent);
            let mut unsent = before;
            for (shard, door) in self.hub.doors.iter().enumerate() {
                if before & (1 << shard) == 0 {
                    continue;
                }
                let number = u32::try_from(slot).unwrap_or(u32::MAX);
                let job = self.job(
                    number,
                    target,
                    operation,
                    Buffer::empty(),
                    timeout,
                    submitted_at,
                );
                if door.push(job).is_ok() {
                    unsent &= !(1 << shard);
                }
            }
            self.slots[slot].unsent = unsent;
            if unsent == 0 {
                self.flushes_unsent -= 1;
            }
        }
    }

    /// Takes a part's result in; the completion when it was the last.
    fn end_part(&mut self, done: Done) -> Option<Completion> {
        let slot = done.slot;
        let hub = Arc::clone(&self.hub);
        let entry = self.slot_mut(slot);
        let is_flush = matches!(entry.operation, Operation::Flush);
        entry.result = if is_flush {
            worse(entry.result, done.result)
        } else {
            done.result
        };
        entry.parts_open -= 1;
        if entry.parts_open > 0 {
            return None;
        }
        let mut buffer = done.buffer;
        let mut result = entry.result;
        if is_flush {
            buffer = std::mem::replace(&mut entry.buffer, Buffer::empty());
            result = hub.targets[entry.target.place()]
                .loss
                .flush_ends(entry.begun, result);
        }
        let completion = Completion {
            ticket: Ticket {
                slot,
                count: entry.count,
            },
            target: entry.target,
            operation: entry.operation,
            user: entry.user,
            submitted_at: entry.submitted_at,
            completed_at: done.completed_at,
            result,
            buffer,
        };
        self.free.push(slot);
        Some(completion)
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        let place = usize::try_from(slot).unwrap_or(usize::MAX);
        &mut self.slots[place]
    }
}
