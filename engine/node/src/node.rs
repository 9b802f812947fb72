//! The node: starts the shards, and is their control plane.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sandrail_link::Link;
use sandrail_memory::cache::CacheError;
use sandrail_memory::{Arena, ArenaError, Backing, BufferPool, PoolError};
use sandrail_proto::aoe::initiator::{
    AttachError, AttachFailure, ConfigError, PinnedMacs, Sighting, TARGETS_MAX, TargetInfo,
};
use sandrail_wire::{MacAddr, TargetAddr};

use crate::cache::NodeCache;
use crate::clean::{CleanMark, CleanMarkError};
use crate::client::Client;
use crate::clock;
use crate::config::{CONTROL_GRACE, Idle, NodeConfig, NodeConfigError};
use crate::control::{Control, ShardAttachError, StopReport};
use crate::hub::{Door, Hub, NodeNotice, TargetHandle};
use crate::shard::{Shard, ShardCache};
use crate::stat::{NodeStat, ShardStat};

/// Why a node did not start, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting of the node's.
    #[error(transparent)]
    Config(#[from] NodeConfigError),
    /// A setting of the initiators'.
    #[error(transparent)]
    Initiator(#[from] ConfigError),
    /// No memory of the wanted kind.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// Buffers that make no sense.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Pages of the target are in the cache: [`NodeCache::unbind`] comes first.
    #[error("volume {0} of the cache lies on the target")]
    Bound(u32),
    /// A MAC is in use, or can't be marked.
    #[error(transparent)]
    Mark(#[from] CleanMarkError),
    /// No link, or the shards' links are not those of the same interfaces in the same order.
    #[error("every shard needs a link on each of the same interfaces, in the same order")]
    Links,
    /// The kernel gave no descriptor or thread.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// A shard did not answer a control call: its thread is gone, or never gets to run.
    #[error("shard {0} does not answer")]
    ShardSilent(usize),
    /// The node shuts down.
    #[error("the node is shutting down")]
    Stopping,
    /// The handle is none of this node's, or its target was detached.
    #[error("no such target")]
    NoTarget,
}

/// Why a target was not attached. It is attached on no shard then.
#[derive(Debug, thiserror::Error)]
pub enum AttachFailed {
    /// Nothing was sent.
    #[error(transparent)]
    Refused(#[from] AttachError),
    /// The target did not play along.
    #[error(transparent)]
    Failed(#[from] AttachFailure),
    /// Not within the caller's time.
    #[error("attach took longer than {0:?}")]
    Timeout(Duration),
    /// The node has a problem.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why a shutdown was not clean. The shards have ended all the same, and the marks of an unclean end stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "stopped with {open_requests} requests open and {unaccounted} written ranges unaccounted for{}{}{}",
    if *dirty_pages == 0 { String::new() } else { format!("; {dirty_pages} changed pages were not written") },
    unflushed.iter().map(|(number, why)| format!("; volume {number}: {why}")).collect::<String>(),
    if silent.is_empty() { String::new() } else { format!("; shards {silent:?} ended without a word") }
)]
pub struct ShutdownError {
    /// Requests that had not ended.
    pub open_requests: usize,
    /// Writes answered whose copies are not all accounted for (S3).
    pub unaccounted: usize,
    /// Pages of the cache whose changes are lost.
    pub dirty_pages: usize,
    /// Volumes of which not everything could be made durable, and why, in words.
    pub unflushed: Vec<(u32, String)>,
    /// Shards that did not report: their thread panicked, or nobody turned them.
    pub silent: Vec<usize>,
}

#[derive(Debug)]
struct TargetEntry {
    handle: TargetHandle,
    addr: TargetAddr,
}

/// Shards and the control plane over them. Dropped without [`Node::shutdown`], it stops at once, and the marks of an
/// unclean end stay if anything was under way.
#[derive(Debug)]
pub struct Node {
    hub: Arc<Hub>,
    pool: BufferPool,
    backing: Backing,
    client_idle: Idle,
    /// Control calls that change the table take turns.
    targets: Mutex<Vec<TargetEntry>>,
    cache: Option<NodeCache>,
    threads: Vec<JoinHandle<StopReport>>,
    marks: Vec<CleanMark>,
    write_quarantine: Duration,
    stopped: bool,
}

impl Node {
    /// Starts one thread for each element of `links`: that shard's links, one an interface, in the same order for all.
    ///
    /// # Errors
    /// [`NodeError`]; nothing runs then.
    pub fn start<L: Link + Send + 'static>(
        config: &NodeConfig,
        links: Vec<Vec<L>>,
    ) -> Result<Self, NodeError> {
        let (mut node, shards) = Self::assemble(config, links)?;
        for (number, shard) in shards.into_iter().enumerate() {
            let thread = std::thread::Builder::new()
                .name(format!("shard-{number}"))
                .spawn(move || shard.run())?;
            node.threads.push(thread);
        }
        Ok(node)
    }

    /// As [`Node::start`] but without threads: the caller turns the shards ([`Shard::turn`]). For benches and tests
    /// that need everything in one thread, and for loops that have work of their own. Control calls block until the
    /// shards are turned, so that they belong in another thread; [`Node::shutdown`] is clean once each shard has been
    /// turned until [`Shard::is_over`], and been finished.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn assemble<L: Link>(
        config: &NodeConfig,
        links: Vec<Vec<L>>,
    ) -> Result<(Self, Vec<Shard<L>>), NodeError> {
        let count = links.len();
        config.check(count)?;
        let macs = macs_of(&links)?;
        let memory = config.memory;
        let arena_bytes = BufferPool::arena_bytes(memory.buffer_bytes, memory.buffers);
        let mut arena = Arena::new(arena_bytes, memory.huge_pages)?;
        let pool = BufferPool::new(&mut arena, memory.buffer_bytes, memory.buffers)?;

        let mut marks = Vec::new();
        if let Some(dir) = &config.run_dir {
            for mac in macs {
                marks.push(CleanMark::acquire(
                    dir,
                    mac,
                    config.initiator.frame_lifetime,
                )?);
            }
        }
        let earlier = marks.iter().filter_map(CleanMark::earlier_lifetime).max();
        let write_quarantine = earlier.map_or(config.initiator.write_quarantine, |earlier| {
            earlier
                .max(config.initiator.frame_lifetime)
                .max(config.initiator.write_quarantine)
        });
        let incarnation = match config.initiator.incarnation {
            0 => draw_incarnation()?,
            given => given,
        };
        let hub = Arc::new(Hub::new(
            count,
            config.ring_requests,
            config.stripe_sectors,
            config.notices,
        )?);
        let (cache, cache_shards) = match &config.cache {
            None => (None, Vec::new()),
            Some(settings) => {
                let idle = config.client_idle;
                let (cache, shards) = NodeCache::new(settings, &hub, &pool, idle, config.notices)?;
                (Some(cache), shards)
            }
        };
        let mut cache_shards = cache_shards.into_iter();
        let mut shards = Vec::with_capacity(count);
        for (number, links) in (0_u8..).zip(links) {
            let mut initiator = config.initiator.clone();
            initiator.shard = number;
            initiator.incarnation = incarnation;
            initiator.window_sharers = config.window_sharers(count);
            initiator.write_quarantine = write_quarantine;
            let hub = Arc::clone(&hub);
            let mut shard = Shard::new(hub, usize::from(number), links, config, initiator)?;
            if let Some((settings, (cache, pages))) = config
                .cache
                .as_ref()
                .zip(cache.as_ref().zip(cache_shards.next()))
            {
                let shared = Arc::clone(&cache.shared);
                shard.give_cache(ShardCache::new(shared, pages, settings.request_timeout));
            }
            shards.push(shard);
        }
        let node = Self {
            hub,
            pool,
            backing: arena.backing().clone(),
            client_idle: config.client_idle,
            targets: Mutex::new(Vec::new()),
            cache,
            threads: Vec::new(),
            marks,
            write_quarantine,
            stopped: false,
        };
        Ok((node, shards))
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.hub.doors.len()
    }

    /// How long WRITEs wait after the start, since the last process with these MACs did not end cleanly; zero
    /// otherwise.
    #[must_use]
    pub fn write_quarantine(&self) -> Duration {
        self.write_quarantine
    }

    /// The cache of pages, if [`NodeConfig::cache`] asked for one.
    #[must_use]
    pub fn cache(&self) -> Option<&NodeCache> {
        self.cache.as_ref()
    }

    /// A client with up to `depth` requests under way (at least 1, at most 65536).
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn client(&self, depth: usize) -> Result<Client, NodeError> {
        Ok(Client::new(
            Arc::clone(&self.hub),
            self.pool.clone(),
            depth,
            self.client_idle,
        )?)
    }

    /// Asks on every interface who is there and listens for `duration`: each target once an interface and MAC.
    ///
    /// # Errors
    /// [`NodeError::ShardSilent`], [`NodeError::Stopping`].
    pub fn discover(&self, duration: Duration) -> Result<Vec<Sighting>, NodeError> {
        let until = clock::now() + duration;
        let (sightings, heard) = mpsc::channel();
        // An answer comes to the shard that asked: its tag says which.
        self.call(0, Control::Discover { sightings, until })?;
        let mut found: Vec<Sighting> = Vec::new();
        loop {
            let left = until.saturating_since(clock::now()) + CONTROL_GRACE;
            match heard.recv_timeout(left) {
                Ok(new) => {
                    let same = |old: &Sighting| {
                        (old.interface, old.mac, old.addr) == (new.interface, new.mac, new.addr)
                    };
                    match found.iter_mut().find(|old| same(old)) {
                        Some(old) => *old = new,
                        None => found.push(new),
                    }
                }
                // The shard drops its end when the time is over.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(NodeError::ShardSilent(0)),
            }
        }
        found.sort_by_key(|each| (each.addr.shelf, each.addr.slot, each.mac, each.interface));
        Ok(found)
    }

    /// Attaches a target on every shard. Without pinned MACs, the one that shard 0 finds is pinned on the others, so
    /// that all shards talk to the same machine.
    ///
    /// # Errors
    /// [`AttachFailed`]; then it is attached on none.
    pub fn attach(
        &self,
        addr: TargetAddr,
        pinned: PinnedMacs,
        timeout: Duration,
    ) -> Result<TargetHandle, AttachFailed> {
        let deadline = clock::now() + timeout;
        let mut entries = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.iter().any(|entry| entry.addr == addr) {
            return Err(AttachError::Attached(addr).into());
        }
        let index = (0_u8..)
            .take(TARGETS_MAX)
            .find(|index| entries.iter().all(|entry| entry.handle.index != *index))
            .ok_or(AttachError::TableFull)?;
        let place = &self.hub.targets[usize::from(index)];
        let handle = TargetHandle {
            index,
            generation: place.generation.load(Ordering::Relaxed).wrapping_add(1),
        };
        let mut pinned = pinned;
        let mut attached = 0;
        let mut failure = None;
        for shard in 0..self.shards() {
            match self.attach_one(shard, handle, addr, pinned, deadline, timeout) {
                Ok(info) => {
                    attached += 1;
                    if pinned.is_empty() {
                        pinned = pins_of(&info);
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if let Some(failure) = failure {
            for shard in 0..attached {
                let (reply, _) = mpsc::channel();
                // A shard that is gone has nothing to detach.
                drop(self.call(shard, Control::Detach { handle, reply }));
            }
            return Err(failure);
        }
        place.loss.reset();
        // Release: partner is the acquire in `Hub::is_attached`.
        place.generation.store(handle.generation, Ordering::Release);
        entries.push(TargetEntry { handle, addr });
        Ok(handle)
    }

    fn attach_one(
        &self,
        shard: usize,
        handle: TargetHandle,
        addr: TargetAddr,
        pinned: PinnedMacs,
        deadline: sandrail_proto::time::Instant,
        timeout: Duration,
    ) -> Result<TargetInfo, AttachFailed> {
        let (reply, answer) = mpsc::channel();
        self.call(
            shard,
            Control::Attach {
                handle,
                addr,
                pinned,
                reply,
            },
        )?;
        match answer.recv_timeout(deadline.saturating_since(clock::now())) {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(ShardAttachError::Begin(error))) => Err(error.into()),
            Ok(Err(ShardAttachError::Failed(failure))) => Err(failure.into()),
            Err(RecvTimeoutError::Timeout) => {
                let (reply, _) = mpsc::channel();
                self.call(shard, Control::Detach { handle, reply })?;
                Err(AttachFailed::Timeout(timeout))
            }
            Err(RecvTimeoutError::Disconnected) => Err(NodeError::ShardSilent(shard).into()),
        }
    }

    /// Lets a target go on every shard: open requests for it fail, the handle is void.
    ///
    /// # Errors
    /// [`NodeError::NoTarget`], [`NodeError::ShardSilent`], [`NodeError::Stopping`]; [`NodeError::Bound`] while pages of it
    /// may be in the cache.
    pub fn detach(&self, target: TargetHandle) -> Result<(), NodeError> {
        let volumes = self.cache.as_ref().map(|cache| &cache.shared.volumes);
        let _control = volumes.map(|volumes| volumes.control());
        let on_it = |volume: &crate::cache::Volume| volume.target == target;
        if let Some(volume) = volumes.and_then(|volumes| volumes.all().find(on_it)) {
            return Err(NodeError::Bound(volume.number));
        }
        let mut entries = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries
            .iter()
            .position(|entry| entry.handle == target)
            .ok_or(NodeError::NoTarget)?;
        self.hub.targets[target.place()]
            .generation
            .store(target.generation.wrapping_add(1), Ordering::Release);
        entries.swap_remove(at);
        for shard in 0..self.shards() {
            let (reply, answer) = mpsc::channel();
            self.call(
                shard,
                Control::Detach {
                    handle: target,
                    reply,
                },
            )?;
            self.answer(shard, &answer)?;
        }
        Ok(())
    }

    /// What shard 0 knows of a target; `None` when it is not attached.
    ///
    /// # Errors
    /// [`NodeError::ShardSilent`], [`NodeError::Stopping`].
    pub fn target(&self, target: TargetHandle) -> Result<Option<TargetInfo>, NodeError> {
        let (reply, answer) = mpsc::channel();
        self.call(
            0,
            Control::Target {
                handle: target,
                reply,
            },
        )?;
        self.answer(0, &answer)
    }

    /// Takes note that unflushed writes may be lost (S7): flushes may succeed again. Call it first, then write
    /// everything again that was written since the last successful flush, and flush: a restart in the meantime fails
    /// that flush.
    ///
    /// # Errors
    /// [`NodeError::NoTarget`], [`NodeError::ShardSilent`], [`NodeError::Stopping`].
    pub fn accept_loss(&self, target: TargetHandle) -> Result<(), NodeError> {
        if !self.hub.is_attached(target) {
            return Err(NodeError::NoTarget);
        }
        if let Some(cache) = &self.cache {
            // Before a flush may succeed again.
            cache.shared.volumes.loss_accepted(target);
        }
        // Before the shards: what one of them notices from now on stays marked.
        self.hub.targets[target.place()].loss.accept();
        for shard in 0..self.shards() {
            let (reply, answer) = mpsc::channel();
            self.call(
                shard,
                Control::AcceptLoss {
                    handle: target,
                    reply,
                },
            )?;
            self.answer(shard, &answer)?;
        }
        Ok(())
    }

    /// The oldest notice that nobody has fetched.
    #[must_use]
    pub fn next_notice(&self) -> Option<NodeNotice> {
        self.hub.notices.pop()
    }

    /// Everything counted and measured so far. Each shard copies its own between two bursts.
    ///
    /// # Errors
    /// [`NodeError::ShardSilent`], [`NodeError::Stopping`].
    pub fn stat(&self) -> Result<NodeStat, NodeError> {
        let mut answers = Vec::new();
        for shard in 0..self.shards() {
            let (reply, answer) = mpsc::channel();
            self.call(shard, Control::Stat { reply })?;
            answers.push(answer);
        }
        let mut shards = Vec::new();
        for (shard, answer) in answers.iter().enumerate() {
            let stat: Box<ShardStat> = self.answer(shard, answer)?;
            shards.push(*stat);
        }
        Ok(NodeStat {
            shards,
            memory: self.backing.clone(),
            cache: self.cache.as_ref().map(|cache| cache.memory().clone()),
            buffers_free: self.pool.free(),
            buffers: self.pool.count(),
            notices_lost: self.hub.notices_lost.load(Ordering::Relaxed),
            write_quarantine: self.write_quarantine,
        })
    }

    /// Stops. First, what is dirty in the cache is written, and its targets are flushed. Then no new requests are taken; the
    /// shards end when every request has, and every copy of a write is accounted for (which may take a frame lifetime and a
    /// probe), at the latest after `timeout`. Then the links are closed.
    ///
    /// # Errors
    /// [`ShutdownError`] when something was left; the shards have ended all the same.
    pub fn shutdown(mut self, timeout: Duration) -> Result<(), ShutdownError> {
        self.stop(timeout)
    }

    fn stop(&mut self, timeout: Duration) -> Result<(), ShutdownError> {
        self.stopped = true;
        let deadline = clock::now() + timeout;
        // Without threads the shards are the caller's, who is here and not turning them.
        let flushes = !timeout.is_zero() && !self.threads.is_empty();
        let failed = match &self.cache {
            Some(cache) if flushes => cache.flush_all(deadline),
            _ => Vec::new(),
        };
        self.hub.stopping.store(true, Ordering::Relaxed);
        let mut sum = ShutdownError {
            open_requests: 0,
            unaccounted: 0,
            dirty_pages: 0,
            unflushed: failed
                .into_iter()
                .map(|(number, error)| (number, error.to_string()))
                .collect(),
            silent: Vec::new(),
        };
        let answers: Vec<Receiver<StopReport>> = (0..self.hub.doors.len())
            .map(|shard| {
                let (reply, answer) = mpsc::channel();
                push_control(&self.hub.doors[shard], Control::Stop { deadline, reply });
                answer
            })
            .collect();
        // A thread that was started ends by the deadline, or by a panic: then its answer's sender is dropped.
        let grace = if self.threads.is_empty() {
            Duration::ZERO
        } else {
            CONTROL_GRACE
        };
        for (shard, answer) in answers.iter().enumerate() {
            let left = deadline.saturating_since(clock::now()) + grace;
            match answer.recv_timeout(left) {
                Ok(report) => {
                    sum.open_requests += report.open_requests;
                    sum.unaccounted += report.unaccounted;
                }
                Err(_) => sum.silent.push(shard),
            }
        }
        for thread in self.threads.drain(..) {
            // A panic was told by the missing answer.
            let _ = thread.join();
        }
        if let Some(cache) = &self.cache {
            sum.dirty_pages = cache.dirty_all();
            // Now that nothing is written any more: pages may have become dirty, and been written, after the flushes.
            for number in cache.unflushed_all() {
                if !sum.unflushed.iter().any(|(told, _)| *told == number) {
                    let why = "pages were written that no flush covers";
                    sum.unflushed.push((number, why.to_owned()));
                }
            }
        }
        let clean = sum.open_requests == 0 && sum.unaccounted == 0 && sum.silent.is_empty();
        if !clean {
            return Err(sum);
        }
        for mark in self.marks.drain(..) {
            if let Err(error) = mark.remove() {
                tracing::warn!(%error, "the mark of a clean end stays: the next start will wait");
            }
        }
        // What is lost is lost, but nothing of it can arrive any more.
        if sum.dirty_pages > 0 || !sum.unflushed.is_empty() {
            return Err(sum);
        }
        Ok(())
    }

    /// Hands a control call to a shard.
    fn call(&self, shard: usize, control: Control) -> Result<(), NodeError> {
        if self.hub.stopping.load(Ordering::Relaxed) {
            return Err(NodeError::Stopping);
        }
        if push_control(&self.hub.doors[shard], control) {
            Ok(())
        } else {
            Err(NodeError::ShardSilent(shard))
        }
    }

    fn answer<T>(&self, shard: usize, answer: &Receiver<T>) -> Result<T, NodeError> {
        answer
            .recv_timeout(CONTROL_GRACE)
            .map_err(|_| NodeError::ShardSilent(shard))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.stopped {
            // What was left is told by the marks that stay.
            let _ = self.stop(Duration::ZERO);
        }
    }
}

/// Waits for room, since a shard empties its control ring every turn; `false` when it does not.
pub(crate) fn push_control(door: &Door, control: Control) -> bool {
    let give_up = clock::now() + CONTROL_GRACE;
    let mut control = control;
    loop {
        match door.controls.push(control) {
            Ok(()) => {
                door.doorbell.notify();
                if door.is_closed() {
                    // As in `Door::push`: nobody would take it any more.
                    while door.controls.pop().is_some() {}
                    return false;
                }
                return true;
            }
            Err(back) => control = back,
        }
        if door.is_closed() || clock::now() >= give_up {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Names this node's life to targets with sessions: by nothing but chance could an earlier one have had the same.
fn draw_incarnation() -> std::io::Result<u64> {
    let mut random = File::open("/dev/urandom")?;
    loop {
        let mut bytes = [0; 8];
        random.read_exact(&mut bytes)?;
        match u64::from_le_bytes(bytes) {
            0 => {}
            drawn => return Ok(drawn),
        }
    }
}

/// The distinct MACs of the interfaces, after a check that all shards have links on the same ones.
fn macs_of<L: Link>(links: &[Vec<L>]) -> Result<BTreeSet<MacAddr>, NodeError> {
    let of = |links: &Vec<L>| -> Vec<(String, MacAddr)> {
        links
            .iter()
            .map(|link| (link.info().interface.clone(), link.info().mac))
            .collect()
    };
    let first = links
        .first()
        .map(of)
        .filter(|first| !first.is_empty())
        .ok_or(NodeError::Links)?;
    if links.iter().any(|links| of(links) != first) {
        return Err(NodeError::Links);
    }
    Ok(first.into_iter().map(|(_, mac)| mac).collect())
}

/// The MACs of a target's paths, each once.
fn pins_of(info: &TargetInfo) -> PinnedMacs {
    let macs: BTreeSet<MacAddr> = info.paths.iter().flatten().map(|path| path.mac).collect();
    let macs: Vec<MacAddr> = macs.into_iter().collect();
    PinnedMacs::new(&macs).unwrap_or_default()
}
