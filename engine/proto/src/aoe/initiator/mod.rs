//! The AoE initiator: requests in, frames out; frames in, completions out.
//!
//! A *request* is what the caller wants, of any length. It is sent as *commands*, one frame's worth of sectors each, and each
//! command in one or more *copies*, every copy with a tag of its own. Rules S1 to S4 and S7 of the safety contract
//! (docs/safety.md) live here:
//!
//! - An answer counts if its source MAC, interface, shelf.slot, tag, command and LBA are those of a copy that was sent (S1).
//! - The caller has its answer with the first copy's. A WRITE's range stays closed to overlapping WRITEs until every copy is
//!   answered, or dead: a probe sent one frame lifetime after the copy left the machine was answered (S2, S3). Reads go on.
//! - A FLUSH fails when the target may have restarted since writes were acknowledged, and goes on failing until the owner
//!   says that it took note ([`Initiator::accept_loss`]) and writes again (S7).
//! - A target that announces sessions is sent a WRITE or FLUSH only under a valid one, and says itself what its restart lost (S5,
//!   S7).
//!
//! Nothing allocates but `new`, `attach` and `detach`.

pub mod api;
mod attach;
mod buffer;
mod command;
pub mod config;
mod finish;
mod list;
mod path;
mod payload;
mod ranges;
mod receive;
mod request;
mod session;
mod target;
mod timers;
mod transmit;

use std::collections::VecDeque;

use sandrail_wire::aoe::{Birth, Features};
use sandrail_wire::{Lba, MacAddr, TargetAddr};

pub use api::*;
pub use buffer::RequestBuffer;
pub use config::*;
pub use transmit::Transmit;

use crate::time::Instant;
use command::{Commands, Kind};
use list::NONE;
use ranges::ClosedRanges;
use request::{RequestState, Requests, control_bytes, extent};
use target::{Phase, Target};
use transmit::Interface;

/// Addresses of which a life remembers that it was let in once: a further one is not attached.
const BIRTHS_MAX: usize = 4096;
/// Notices kept for an owner that does not fetch them; half of them for what strangers send.
const NOTICES_MAX: usize = 256;

/// One shard's AoE initiator. `B` is the owner's buffer, moved in with a request and back out with its completion.
#[derive(Debug)]
pub struct Initiator<B> {
    config: InitiatorConfig,
    interfaces: Vec<Interface>,
    /// The MACs of the whole process as an attach lists them.
    stations: Box<[u8]>,
    /// The births that targets have told this life, also of targets that it has let go (S10).
    births: Vec<(TargetAddr, Birth)>,
    targets: Vec<Target>,
    commands: Commands,
    requests: Requests<B>,
    events: VecDeque<Completion<B>>,
    notices: VecDeque<Notice>,
    /// No open request has an earlier deadline.
    deadline_floor: Option<Instant>,
    /// When to look again whether a tag has rested.
    tags_at: Option<Instant>,
    /// Until then copies of an earlier process's WRITEs may arrive at targets.
    predecessor_until: Option<Instant>,
    /// When we last looked at the clock: silence while we did not is our own.
    last_called: Instant,
    /// A bit for each place in `targets` that is not free.
    in_use: u64,
    paths_in_use: u16,
    /// Where the search for something to send begins, so that no target starves.
    next_target: u32,
    scratch: Box<[u8; transmit::SCRATCH_BYTES]>,
    /// Where the data of one command is copied together that does not lie in one piece.
    staging: Box<[u8]>,
    counters: Counters,
}

impl<B: RequestBuffer> Initiator<B> {
    /// An initiator with no targets. `seed` makes its first tags hard to confuse with an earlier process's.
    ///
    /// # Errors
    /// A setting out of its bounds.
    pub fn new(
        config: InitiatorConfig,
        interfaces: &[InterfaceConfig],
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        if interfaces.is_empty() || interfaces.len() > INTERFACES_MAX {
            return Err(ConfigError {
                setting: "interfaces",
                given: interfaces.len().to_string(),
                allowed: format!("1..={INTERFACES_MAX}"),
            });
        }
        let stations = stations(&config, interfaces)?;
        let mut rng = fastrand::Rng::with_seed(seed);
        let requests_max = usize::from(config.requests_max);
        Ok(Self {
            interfaces: interfaces
                .iter()
                .map(|config| Interface::new(*config))
                .collect(),
            targets: (0..TARGETS_MAX).map(|_| Target::free()).collect(),
            commands: Commands::new(
                config.commands_max,
                config.shard,
                config.frame_lifetime,
                &mut rng,
            ),
            requests: Requests::new(config.requests_max),
            events: VecDeque::with_capacity(requests_max),
            notices: VecDeque::with_capacity(NOTICES_MAX),
            deadline_floor: None,
            tags_at: None,
            predecessor_until: (!config.write_quarantine.is_zero())
                .then(|| now + config.write_quarantine),
            last_called: now,
            in_use: 0,
            paths_in_use: 0,
            next_target: 0,
            scratch: Box::new([0; transmit::SCRATCH_BYTES]),
            staging: buffer::staging(interfaces.iter().map(|i| i.mtu_bytes).max().unwrap_or(0)),
            counters: Counters::default(),
            stations,
            births: Vec::new(),
            config,
        })
    }

    /// Asks on every interface who is there. Answers come as [`Notice::Seen`].
    pub fn discover(&mut self, now: Instant) {
        self.last_called = now;
        for interface in &mut self.interfaces {
            interface.discover_due = true;
        }
    }

    /// Begins to attach a target: find its paths, IDENTIFY, find out what payload they carry. Ends with
    /// [`Notice::Attached`] or [`Notice::AttachFailed`].
    ///
    /// # Errors
    /// [`AttachError`]; nothing was begun.
    pub fn attach(
        &mut self,
        now: Instant,
        addr: TargetAddr,
        pinned: PinnedMacs,
    ) -> Result<TargetId, AttachError> {
        self.last_called = now;
        if addr.is_wildcard() {
            return Err(AttachError::Wildcard(addr));
        }
        let attached = |target: &Target| target.phase != Phase::Free && target.addr == addr;
        if self.targets.iter().any(attached) {
            return Err(AttachError::Attached(addr));
        }
        let free = |target: &Target| target.phase == Phase::Free;
        let place = self
            .targets
            .iter()
            .position(free)
            .ok_or(AttachError::TableFull)?;
        let born = self.births.iter().find(|(known, _)| *known == addr);
        if born.is_none() && self.births.len() >= BIRTHS_MAX {
            return Err(AttachError::TableFull);
        }
        let mut target = Target::free();
        target.birth = born.map_or(Birth::NONE, |(_, birth)| *birth);
        target.phase = Phase::Asking { gather_until: None };
        target.addr = addr;
        target.pinned = pinned;
        target.ranges = ClosedRanges::with_capacity(usize::from(self.config.requests_max));
        target.attach_deadline = now + self.config.attach_timeout;
        target.ask_at = now;
        self.targets[place] = target;
        self.in_use |= 1 << place;
        Ok(TargetId(u8::try_from(place).expect("TARGETS_MAX fits")))
    }

    /// Lets a target go: its open requests fail with [`IoError::Detached`]. Its place in the table, and its address, stay taken
    /// until the copies of its writes are accounted for.
    pub fn detach(&mut self, now: Instant, target: TargetId) {
        self.last_called = now;
        if self
            .targets
            .get(target.index())
            .is_none_or(|t| t.phase == Phase::Free)
        {
            return;
        }
        for slot in 0..self.config.requests_max {
            let request = self.requests.get(slot);
            if request.is_open() && request.target == target.0 {
                self.finish(now, slot, Err(IoError::Detached));
            }
        }
        self.abandon(target.0);
    }

    /// What is known of a target; `None` unless it is attached.
    #[must_use]
    pub fn target(&self, target: TargetId) -> Option<TargetInfo> {
        let target = self.targets.get(target.index())?;
        (target.phase == Phase::Up)
            .then(|| target.info(&self.config))
            .flatten()
    }

    /// How many requests `submit` would take now: completions not yet fetched hold their places.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.requests.free()).saturating_sub(self.events.len())
    }

    /// Takes a request on.
    ///
    /// # Errors
    /// [`Rejected`] with the buffer: see [`SubmitError`].
    pub fn submit(&mut self, now: Instant, request: Request<B>) -> Result<RequestId, Rejected<B>> {
        self.last_called = now;
        match self.admit(&request) {
            Ok((lba, sectors, open)) => {
                let number = request.target.0;
                let id = self.accept(now, request, lba, sectors, open);
                if let SessionState::Refused(_) = self.targets[usize::from(number)].standing {
                    self.heed_refusal(now, number, id.slot);
                }
                Ok(id)
            }
            Err(error) => Err(Rejected {
                error,
                buffer: request.buffer,
            }),
        }
    }

    /// First sector, number of sectors, and whether it may start at once.
    fn admit(&mut self, request: &Request<B>) -> Result<(u64, u32, bool), SubmitError> {
        if self.room() == 0 {
            return Err(SubmitError::Full);
        }
        let target = self
            .targets
            .get(request.target.index())
            .ok_or(SubmitError::NotAttached)?;
        if target.phase != Phase::Up {
            return Err(SubmitError::NotAttached);
        }
        let len_bytes = request.buffer.len_bytes();
        let (lba, sectors) =
            extent(request.operation, len_bytes).ok_or(SubmitError::BufferLength { len_bytes })?;
        let mtu_bytes = self.interfaces.iter().map(|i| i.config.mtu_bytes).min();
        if control_bytes(request.operation) > mtu_bytes.unwrap_or(0) {
            return Err(SubmitError::BufferLength { len_bytes });
        }
        let end = lba.saturating_add(u64::from(sectors));
        let by_epoch = matches!(request.operation, Operation::ReserveEpoch { .. });
        if by_epoch && !target.announces(Features::EPOCHS) {
            return Err(SubmitError::NoEpochs);
        }
        let is_data = matches!(
            request.operation,
            Operation::Read { .. } | Operation::Write { .. }
        );
        if is_data && end > target.sectors() {
            return Err(SubmitError::PastEnd {
                lba,
                end,
                device_sectors: target.sectors(),
            });
        }
        if !kind_of(request.operation).is_closing() {
            return Ok((lba, sectors, true));
        }
        let open = target.takes_writes()
            && target.ranges.is_open(lba, end)
            && self
                .waiting_before(request.target.0, lba, end, NONE)
                .is_none();
        if let Operation::Write {
            if_closed: IfClosed::Refuse,
            ..
        } = request.operation
            && !open
        {
            return Err(SubmitError::RangeClosed);
        }
        Ok((lba, sectors, open))
    }

    fn accept(
        &mut self,
        now: Instant,
        request: Request<B>,
        lba: u64,
        sectors: u32,
        open: bool,
    ) -> RequestId {
        let slot = self.requests.allocate().expect("room was checked");
        let deadline = now + request.timeout;
        self.deadline_floor = Some(
            self.deadline_floor
                .map_or(deadline, |floor| floor.min(deadline)),
        );
        let target = &mut self.targets[request.target.index()];
        let entry = self.requests.get_mut(slot);
        entry.target = request.target.0;
        entry.operation = request.operation;
        entry.buffer = Some(request.buffer);
        entry.user = request.user;
        entry.submitted_at = now;
        entry.deadline = deadline;
        entry.lba = lba;
        entry.sectors = sectors;
        entry.write_mark = target.write_mark;
        if open {
            if kind_of(request.operation).is_closing() {
                entry.closes = true;
                target.ranges.close(lba, lba + u64::from(sectors), slot);
            }
            target.ready.push_back(&mut self.requests.table, slot);
        } else {
            entry.state = RequestState::Waiting;
            target.waiting.push_back(&mut self.requests.table, slot);
            self.counters.range_waits += 1;
        }
        self.requests.id(slot)
    }

    /// The first request that waits for an overlapping range, before `until` in the queue.
    fn waiting_before(&self, target: u8, start: u64, end: u64, until: u16) -> Option<u16> {
        let mut slot = self.targets[usize::from(target)].waiting.head();
        while slot != NONE && slot != until {
            let request = self.requests.get(slot);
            if request.lba < end && start < request.end() {
                return Some(slot);
            }
            slot = list::Linked::links(request).next();
        }
        None
    }

    /// Starts what waited for ranges that are open now, in order of submission.
    fn wake_waiting(&mut self, target: u8) {
        if !self.targets[usize::from(target)].takes_writes() {
            return;
        }
        let mut slot = self.targets[usize::from(target)].waiting.head();
        while slot != NONE {
            let request = self.requests.get(slot);
            let (lba, end) = (request.lba, request.end());
            let next = list::Linked::links(request).next();
            let open = self.targets[usize::from(target)].ranges.is_open(lba, end)
                && self.waiting_before(target, lba, end, slot).is_none();
            if open {
                let entry = &mut self.targets[usize::from(target)];
                entry.waiting.remove(&mut self.requests.table, slot);
                entry.ranges.close(lba, end, slot);
                entry.ready.push_back(&mut self.requests.table, slot);
                let request = self.requests.get_mut(slot);
                request.closes = true;
                request.state = RequestState::Ready;
            }
            slot = next;
        }
    }

    /// Takes note that unflushed writes may be lost: flushes may succeed again. To be called before they are written again, so that
    /// a restart during that fails the next flush, too.
    pub fn accept_loss(&mut self, target: TargetId) {
        if let Some(target) = self.targets.get_mut(target.index()) {
            target.suspect = None;
        }
    }

    /// Whether no write of these sectors is unaccounted for. A distributed lock over them may leave only then.
    #[must_use]
    pub fn range_is_open(&self, target: TargetId, lba: Lba, sectors: u64) -> bool {
        let end = lba.0.saturating_add(sectors);
        self.targets
            .get(target.index())
            .is_none_or(|target| target.ranges.is_open(lba.0, end))
    }

    /// Requests whose callers have their answer while copies are unaccounted for. Zero before a clean stop.
    #[must_use]
    pub fn unaccounted(&self) -> usize {
        self.requests
            .table
            .iter()
            .filter(|request| request.state == RequestState::Over)
            .count()
    }

    /// The next completion.
    pub fn poll_event(&mut self) -> Option<Completion<B>> {
        self.events.pop_front()
    }

    /// The next notice.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    fn notice(&mut self, notice: Notice) {
        let of_strangers = matches!(notice, Notice::Seen(_) | Notice::Rogue { .. });
        let room = if of_strangers {
            NOTICES_MAX / 2
        } else {
            NOTICES_MAX
        };
        if self.notices.len() >= room {
            self.counters.notices_lost += 1;
            return;
        }
        self.notices.push_back(notice);
    }
}

/// The MACs of the process as they lie in a frame, each once.
fn stations(
    config: &InitiatorConfig,
    interfaces: &[InterfaceConfig],
) -> Result<Box<[u8]>, ConfigError> {
    let own = interfaces.iter().map(|interface| interface.mac);
    let mut macs: Vec<MacAddr> = config.stations.iter().copied().chain(own).collect();
    macs.sort_unstable();
    macs.dedup();
    // An attach must fit every interface; the least of them carries a sector, hence a short list in any case.
    let mtu_bytes = interfaces.iter().map(|interface| interface.mtu_bytes).min();
    let room = mtu_bytes.unwrap_or(0).saturating_sub(session::ATTACH_BYTES) / 6;
    let most = STATIONS_MAX.min(room);
    if macs.len() > most {
        return Err(ConfigError {
            setting: "stations",
            given: macs.len().to_string(),
            allowed: format!("1..={most}"),
        });
    }
    Ok(macs.iter().flat_map(|mac| mac.0).collect())
}

/// The kind of command that carries an operation.
fn kind_of(operation: Operation) -> Kind {
    use sandrail_wire::aoe::{ConfigCommand, ReserveCommand};
    match operation {
        Operation::Read { .. } => Kind::Read,
        Operation::Write { .. } => Kind::Write,
        Operation::Flush => Kind::Flush,
        Operation::Identify => Kind::Identify,
        Operation::MaskRead
        | Operation::Config {
            command: ConfigCommand::Read | ConfigCommand::TestExact | ConfigCommand::TestPrefix,
            ..
        }
        | Operation::Reserve {
            command: ReserveCommand::Read,
            ..
        } => Kind::Query,
        Operation::MaskEdit { .. }
        | Operation::Config { .. }
        | Operation::Reserve { .. }
        | Operation::ReserveEpoch { .. } => Kind::Change,
    }
}
