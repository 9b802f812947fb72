//! What the threads of a node share: one door a shard, the notices, and what all shards must know of a target.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use sandrail_proto::aoe::initiator::{Notice, TARGETS_MAX};
use sandrail_wire::Lba;

use crate::clock;
use crate::control::Control;
use crate::doorbell::Doorbell;
use crate::flush::LossState;
use crate::forward::{FORWARD_FRAMES, SmallFrame};
use crate::os::EventFd;
use crate::request::{Done, Job, RequestError};

/// Control calls that may wait for a shard.
const CONTROLS_MAX: usize = 64;

/// A target attached to the node, that is, to each of its shards. Void after [`crate::Node::detach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TargetHandle {
    pub(crate) index: u8,
    pub(crate) generation: u32,
}

impl TargetHandle {
    pub(crate) fn place(self) -> usize {
        usize::from(self.index)
    }
}

/// What a shard's initiator wants known.
#[derive(Clone, Copy, Debug)]
pub struct NodeNotice {
    /// The shard that noticed.
    pub shard: usize,
    /// The target it is about, where it is about one that is attached.
    pub target: Option<TargetHandle>,
    /// What it noticed. The `TargetId` in it is the shard's own: use `target`.
    pub notice: Notice,
}

/// How other threads reach a shard.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) jobs: ArrayQueue<Job>,
    pub(crate) controls: ArrayQueue<Control>,
    pub(crate) forwarded: ArrayQueue<SmallFrame>,
    pub(crate) doorbell: Doorbell<EventFd>,
    /// The shard has left its loop. Set once, before it empties its ring for the last time.
    closed: AtomicBool,
}

impl Door {
    fn new(ring_requests: usize) -> io::Result<Self> {
        Ok(Self {
            jobs: ArrayQueue::new(ring_requests),
            controls: ArrayQueue::new(CONTROLS_MAX),
            forwarded: ArrayQueue::new(FORWARD_FRAMES),
            doorbell: Doorbell::new(EventFd::new()?),
            closed: AtomicBool::new(false),
        })
    }

    /// Hands a job over; gives it back when the ring is full.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        self.jobs.push(job)?;
        self.doorbell.notify();
        // `notify` began with a SeqCst fence; its partner is the one in `close`. Either this load sees the flag, or the
        // shard's last emptying sees the job; both may happen, since the queue hands each job out once.
        if self.closed.load(Ordering::Relaxed) {
            self.refuse_all();
        }
        Ok(())
    }

    /// Shard, at its end: whoever pushes from now on is answered.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.refuse_all();
    }

    /// Whether the shard is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn refuse_all(&self) {
        while let Some(job) = self.jobs.pop() {
            job.mailbox.deliver(Done {
                slot: job.slot,
                completed_at: clock::now(),
                result: Err(RequestError::Stopped),
                buffer: job.buffer,
            });
        }
        // Control calls see their reply channel closed when they are dropped.
        while self.controls.pop().is_some() {}
    }
}

/// What the node knows of a place in its target table; read by clients, written by control calls and shards.
#[derive(Debug, Default)]
pub(crate) struct TargetPlace {
    /// The generation whose handles are good; odd ones are attached, even ones are not.
    pub(crate) generation: AtomicU32,
    pub(crate) loss: LossState,
}

/// Everything shared.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) doors: Box<[Door]>,
    pub(crate) targets: Box<[TargetPlace]>,
    pub(crate) notices: ArrayQueue<NodeNotice>,
    pub(crate) notices_lost: AtomicU64,
    pub(crate) stopping: AtomicBool,
    stripe_sectors: u64,
}

impl Hub {
    pub(crate) fn new(
        shards: usize,
        ring_requests: usize,
        stripe_sectors: u64,
        notices: usize,
    ) -> io::Result<Self> {
        Ok(Self {
            doors: (0..shards)
                .map(|_| Door::new(ring_requests))
                .collect::<io::Result<_>>()?,
            targets: (0..TARGETS_MAX).map(|_| TargetPlace::default()).collect(),
            notices: ArrayQueue::new(notices),
            notices_lost: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            stripe_sectors,
        })
    }

    /// Whose sector it is, and how many from there on belong to the same stripe.
    pub(crate) fn stripe(&self, lba: Lba) -> (usize, u64) {
        let shards = u64::try_from(self.doors.len()).unwrap_or(1);
        let shard = usize::try_from((lba.0 / self.stripe_sectors) % shards).unwrap_or(0);
        (shard, self.stripe_sectors - lba.0 % self.stripe_sectors)
    }

    /// Whether requests for the handle make sense.
    pub(crate) fn is_attached(&self, target: TargetHandle) -> bool {
        // Acquire: partner is the release store at the end of an attach, after all shards know the handle.
        self.targets
            .get(target.place())
            .is_some_and(|place| place.generation.load(Ordering::Acquire) == target.generation)
    }

    /// Keeps a notice for whoever asks; the oldest goes when there are too many.
    pub(crate) fn tell(&self, notice: NodeNotice) {
        if self.notices.force_push(notice).is_some() {
            self.notices_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
