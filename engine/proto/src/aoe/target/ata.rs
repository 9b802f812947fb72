//! ATA commands: what each asks for, whether it may, and in which order the disk gets them.

use core::num::NonZeroU32;
use core::time::Duration;

use sandrail_wire::aoe::{ATA_HEADER_BYTES, AtaRepr, ErrorCode};
use sandrail_wire::ata::{self, SECTOR_BYTES, TRIM_RANGE_BYTES, TrimRange};
use sandrail_wire::{FrameRef, Lba};

use super::backing::{Backing, DiskError, DiskOperation, Started};
use super::config::SessionRule;
use super::duplicates::{Key, Known, Registers};
use super::operation::{Answer, Kind, NONE, Operation, Payload, Stage};
use super::overlap::Range;
use super::receive::{Heard, Verdict};
use super::stations::Share;
use super::{Blade, BladeEvent, index, io_of};
use crate::time::Instant;

/// A failing disk is told of once in this time.
const DISK_EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Ranges of a TRIM's sector; a command carries one, as IDENTIFY tells.
const TRIM_RANGES: u16 = 64;

/// What a request comes to.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// It is answered without the disk.
    Answer(Answer, Payload),
    Disk(Kind, Range),
}

const fn refuse(code: ErrorCode) -> Plan {
    Plan::Answer(Answer::Refused(code), Payload::Nothing)
}

/// Success: nothing is left to do, and the address is as it was.
const fn success(request: &AtaRepr) -> Registers {
    Registers {
        error: 0,
        status: ata::STATUS_DRDY,
        count: 0,
        lba_bytes: request.lba_bytes,
    }
}

const fn failure(request: &AtaRepr, error: u8) -> Registers {
    Registers {
        error,
        status: ata::STATUS_DRDY | ata::STATUS_ERR,
        count: request.count,
        lba_bytes: request.lba_bytes,
    }
}

const fn tell(registers: Registers) -> Plan {
    Plan::Answer(Answer::Outcome(registers), Payload::Nothing)
}

/// Where a write's data come from.
#[derive(Clone, Copy)]
enum Data<'a> {
    /// From a frame, at this offset.
    Frame(&'a FrameRef<'a>, usize),
    Stash,
}

impl<D: Backing> Blade<D> {
    #[inline]
    pub(super) fn on_ata(&mut self, heard: &Heard<'_>, number: usize, request: AtaRepr) -> Verdict {
        let mut plan = self.plan(heard, number, &request);
        let mut key = None;
        if let Plan::Disk(kind, range) = plan
            && kind.is_remembered()
            && request.session().is_some()
        {
            let known_by = Key::new(
                index(number).0,
                request.session(),
                heard.src,
                heard.header.tag,
                request.command_status,
                (Lba(range.start), request.count),
            );
            match self.duplicates.find(heard.now, &known_by) {
                Known::New => key = Some(known_by),
                Known::Executes => return Verdict::CopyExecuting,
                Known::Lost => return Verdict::DuplicatesFull,
                Known::Done(registers) => {
                    self.targets[number].counters.copies_answered += 1;
                    plan = tell(registers);
                }
            }
        }
        let station = match self.enter(heard, Share::Request) {
            Ok(station) => station,
            Err(verdict) => return verdict,
        };
        let Some(place) = self.targets[number].free.pop() else {
            self.stations.leave(station, Share::Request);
            return Verdict::TargetFull;
        };
        let operation = &mut self.operations[place as usize];
        *operation = Operation {
            interface: heard.interface,
            target: index(number).0,
            station,
            mac: heard.src,
            tag: heard.header.tag,
            request,
            ..Operation::FREE
        };
        match plan {
            Plan::Answer(answer, payload) => self.conclude(heard.now, place, answer, payload),
            Plan::Disk(kind, range) => {
                operation.kind = kind;
                (operation.lba, operation.end) = (range.start, range.end);
                if let Err(verdict) = self.take_on(heard, place, key) {
                    if self.operations[place as usize].stash != NONE {
                        self.stash.give_back(self.operations[place as usize].stash);
                    }
                    self.stations.leave(station, Share::Request);
                    self.free(place);
                    return verdict;
                }
            }
        }
        Verdict::Used
    }

    #[inline]
    fn plan(&mut self, heard: &Heard<'_>, number: usize, request: &AtaRepr) -> Plan {
        let target = &mut self.targets[number];
        let counters = &mut target.counters;
        if heard.header.addr.is_wildcard() {
            counters.refused_argument += 1;
            return refuse(ErrorCode::BadArgument);
        }
        let command = request.command_status;
        if command == ata::COMMAND_IDENTIFY {
            counters.others += 1;
            return Plan::Answer(Answer::Outcome(success(request)), Payload::Identify);
        }
        if !target.reserved.admits(heard.src) {
            counters.refused_reserved += 1;
            return refuse(ErrorCode::TargetReserved);
        }
        let (kind, lba) = match command {
            ata::COMMAND_READ_EXT | ata::COMMAND_READ_DMA_EXT => (Kind::Read, request.lba48()),
            ata::COMMAND_READ | ata::COMMAND_READ_DMA => (Kind::Read, request.lba28()),
            ata::COMMAND_WRITE_EXT | ata::COMMAND_WRITE_DMA_EXT => (Kind::Write, request.lba48()),
            ata::COMMAND_WRITE | ata::COMMAND_WRITE_DMA => (Kind::Write, request.lba28()),
            ata::COMMAND_READ_VERIFY_EXT => (Kind::Verify, request.lba48()),
            ata::COMMAND_READ_VERIFY => (Kind::Verify, request.lba28()),
            ata::COMMAND_FLUSH | ata::COMMAND_FLUSH_EXT => (Kind::Flush, Lba(0)),
            ata::COMMAND_DATA_SET_MANAGEMENT => (Kind::Trim, Lba(0)),
            ata::COMMAND_CHECK_POWER => {
                counters.others += 1;
                let count = ata::POWER_ACTIVE;
                return tell(Registers {
                    count,
                    ..success(request)
                });
            }
            ata::COMMAND_STANDBY_IMMEDIATE..=ata::COMMAND_IDLE | ata::COMMAND_SLEEP => {
                counters.others += 1;
                return tell(success(request));
            }
            _ => {
                counters.aborted += 1;
                return tell(failure(request, ata::ERROR_ABRT));
            }
        };
        if kind.is_remembered() && !self.has_session(heard, number, request) {
            self.targets[number].counters.refused_session += 1;
            return refuse(ErrorCode::SessionVoid);
        }
        match kind {
            Kind::Flush => Plan::Disk(kind, Range::NONE),
            Kind::Trim => self.plan_trim(heard, number, request),
            _ => self.plan_sectors(heard, number, request, (kind, lba)),
        }
    }

    /// S5: whether a request that changes something may, as far as sessions are concerned.
    fn has_session(&mut self, heard: &Heard<'_>, number: usize, request: &AtaRepr) -> bool {
        let target = &mut self.targets[number];
        let session = request.session();
        if session.is_some() {
            target.sessions.admits(heard.now, session, heard.src)
        } else {
            target.session_rule == SessionRule::Optional
        }
    }

    #[inline]
    fn plan_sectors(
        &mut self,
        heard: &Heard<'_>,
        number: usize,
        request: &AtaRepr,
        (kind, lba): (Kind, Lba),
    ) -> Plan {
        let local = &self.interfaces[usize::from(heard.interface)];
        let target = &mut self.targets[number];
        let by_frame = if kind == Kind::Verify {
            u8::MAX
        } else {
            target.sectors_max.unwrap_or(u8::MAX).min(local.sectors_max)
        };
        let count = request.count;
        let data_end = heard.aoe_at + ATA_HEADER_BYTES + usize::from(count) * SECTOR_BYTES;
        let lacks_data =
            kind == Kind::Write && (!request.write || heard.frame.len_bytes() < data_end);
        if count == 0
            || count > by_frame
            || u32::from(count) > target.sectors_per_operation_max
            || lacks_data
        {
            target.counters.refused_argument += 1;
            return refuse(ErrorCode::BadArgument);
        }
        if kind == Kind::Write && target.read_only {
            target.counters.aborted += 1;
            return tell(failure(request, ata::ERROR_ABRT));
        }
        let end = lba.0 + u64::from(count);
        if end > target.backing.sectors() {
            target.counters.past_end += 1;
            return tell(failure(request, ata::ERROR_IDNF));
        }
        let range = Range {
            start: lba.0,
            end,
            writes: kind.writes(),
        };
        Plan::Disk(kind, range)
    }

    fn plan_trim(&mut self, heard: &Heard<'_>, number: usize, request: &AtaRepr) -> Plan {
        let target = &mut self.targets[number];
        let is_trim = request.error_feature & ata::FEATURE_TRIM != 0;
        if !is_trim || !target.backing.discards() || target.read_only {
            target.counters.aborted += 1;
            return tell(failure(request, ata::ERROR_ABRT));
        }
        let data_end = heard.aoe_at + ATA_HEADER_BYTES + SECTOR_BYTES;
        if request.count != 1 || !request.write || heard.frame.len_bytes() < data_end {
            target.counters.refused_argument += 1;
            return refuse(ErrorCode::BadArgument);
        }
        // Which sectors it is about, its data say.
        Plan::Disk(Kind::Trim, Range::NONE)
    }

    /// Remembers a request that needs the disk, and starts it or has it wait. After an error nothing has happened.
    #[inline]
    fn take_on(&mut self, heard: &Heard<'_>, place: u32, key: Option<Key>) -> Result<(), Verdict> {
        let now = heard.now;
        if key.is_some() && !self.make_room() {
            return Err(Verdict::DuplicatesFull);
        }
        let data_at = heard.aoe_at + ATA_HEADER_BYTES;
        let number = usize::from(self.operations[place as usize].target);
        if self.operations[place as usize].kind == Kind::Trim
            && let Some(registers) = self.take_ranges(heard.frame, data_at, place)?
        {
            self.conclude(now, place, Answer::Outcome(registers), Payload::Nothing);
            return Ok(());
        }
        let operation = &self.operations[place as usize];
        let (kind, range) = (operation.kind, operation.range());
        let target = &mut self.targets[number];
        let blockers = match &range {
            Some(range) => target.ranges.conflicts(range),
            None => 0,
        };
        let source = if kind == Kind::Trim {
            Data::Stash
        } else {
            Data::Frame(heard.frame, data_at)
        };
        let started = if blockers > 0 || !target.queued.is_empty() {
            Started::Busy
        } else {
            self.start(now, place, source)
        };
        if started == Started::Busy && kind == Kind::Write {
            self.stash_data(heard.frame, data_at, place)?;
        }
        let operation = &mut self.operations[place as usize];
        if let Some(key) = key {
            operation.entry = self.duplicates.insert(key, place);
            operation.is_remembered = true;
        }
        let target = &mut self.targets[number];
        // A TRIM may have more to do after what is done at once.
        if (kind == Kind::Trim || !matches!(started, Started::Done(_)))
            && let Some(range) = &range
        {
            target.ranges.insert(place - target.first_operation, range);
            operation.is_indexed = true;
        }
        match started {
            Started::Done(result) => {
                operation.stage = Stage::Running;
                self.on_disk_done(now, place, result);
                if kind == Kind::Trim {
                    self.start_queued(now, number);
                }
            }
            Started::Pending => operation.stage = Stage::Running,
            Started::Busy if blockers > 0 => {
                operation.stage = Stage::Waiting;
                operation.blockers = blockers;
                target.counters.waits += 1;
            }
            Started::Busy => {
                operation.stage = Stage::Queued;
                target.queued.push_back(place);
                target.counters.disk_waits += 1;
            }
        }
        Ok(())
    }

    fn make_room(&mut self) -> bool {
        let operations = &mut self.operations;
        self.duplicates
            .make_room(|place, entry| operations[place as usize].entry = entry)
    }

    fn stash_data(&mut self, frame: &FrameRef<'_>, at: usize, place: u32) -> Result<(), Verdict> {
        let operation = &mut self.operations[place as usize];
        let len_bytes = usize::from(operation.request.count) * SECTOR_BYTES;
        operation.stash = self
            .stash
            .take(|out| assert!(frame.copy_to(at, &mut out[..len_bytes]), "it was measured"))
            .ok_or(Verdict::StashFull)?;
        Ok(())
    }

    /// Keeps a TRIM's ranges, and finds out what they span. `Some`: it is over already.
    fn take_ranges(
        &mut self,
        frame: &FrameRef<'_>,
        at: usize,
        place: u32,
    ) -> Result<Option<Registers>, Verdict> {
        let operation = &mut self.operations[place as usize];
        let target = &mut self.targets[usize::from(operation.target)];
        let sectors = target.backing.sectors();
        operation.stash = self
            .stash
            .take(|out| {
                assert!(
                    frame.copy_to(at, &mut out[..SECTOR_BYTES]),
                    "it was measured"
                )
            })
            .ok_or(Verdict::StashFull)?;
        let (entries, _) = self
            .stash
            .get(operation.stash, SECTOR_BYTES)
            .as_chunks::<TRIM_RANGE_BYTES>();
        let (mut first, mut end) = (u64::MAX, 0);
        for range in entries.iter().map(|entry| TrimRange::parse(*entry)) {
            if range.sectors > 0 {
                first = first.min(range.lba.0);
                end = end.max(range.lba.0 + u64::from(range.sectors));
            }
        }
        if end > sectors {
            target.counters.past_end += 1;
            return Ok(Some(failure(&operation.request, ata::ERROR_IDNF)));
        }
        if end == 0 {
            target.counters.trims += 1;
            return Ok(Some(success(&operation.request)));
        }
        (operation.lba, operation.end) = (first, end);
        self.skip_trimmed(place);
        Ok(None)
    }

    /// The range that a TRIM is at, less what is done of it.
    fn trim_range(&self, operation: &Operation) -> (u64, u32) {
        let (entries, _) = self
            .stash
            .get(operation.stash, SECTOR_BYTES)
            .as_chunks::<TRIM_RANGE_BYTES>();
        let range = TrimRange::parse(entries[usize::from(operation.trim_at)]);
        let most = self.targets[usize::from(operation.target)].sectors_per_operation_max;
        let done = operation.trim_sectors;
        (
            range.lba.0 + u64::from(done),
            u32::from(range.sectors - done).min(most),
        )
    }

    /// Goes on to a TRIM's next range that is not done; `false` when there is none.
    fn skip_trimmed(&mut self, place: u32) -> bool {
        loop {
            let operation = self.operations[place as usize];
            if operation.trim_at == TRIM_RANGES {
                return false;
            }
            if self.trim_range(&operation).1 > 0 {
                return true;
            }
            let operation = &mut self.operations[place as usize];
            operation.trim_at += 1;
            operation.trim_sectors = 0;
        }
    }

    /// Hands an operation to the disk.
    #[inline]
    fn start(&mut self, now: Instant, place: u32, data: Data<'_>) -> Started {
        let operation = &self.operations[place as usize];
        let (mut lba, mut sectors) = (operation.lba, u32::from(operation.request.count));
        if operation.kind == Kind::Trim {
            (lba, sectors) = self.trim_range(operation);
        }
        let lba = Lba(lba);
        let sectors = NonZeroU32::new(sectors).unwrap_or(NonZeroU32::MIN);
        let target = &mut self.targets[usize::from(operation.target)];
        let io = io_of(target, place);
        let mut pieces: [&[u8]; sandrail_wire::frame::SEGMENTS_MAX] = [&[]; 4];
        let disk_operation = match operation.kind {
            Kind::Read | Kind::Verify => DiskOperation::Read { lba, sectors },
            Kind::Trim => DiskOperation::Discard { lba, sectors },
            Kind::Flush | Kind::Answer => DiskOperation::Flush,
            Kind::Write => {
                let len_bytes = usize::from(operation.request.count) * SECTOR_BYTES;
                let count = match data {
                    Data::Frame(frame, at) => cut(frame, at, len_bytes, &mut pieces),
                    Data::Stash => {
                        pieces[0] = self.stash.get(operation.stash, len_bytes);
                        1
                    }
                };
                let data = &pieces[..count];
                DiskOperation::Write { lba, sectors, data }
            }
        };
        target.backing.start(now, io, disk_operation)
    }

    /// An operation that the disk had is over.
    pub(super) fn on_disk_done(&mut self, now: Instant, place: u32, result: Result<(), DiskError>) {
        let operation = self.operations[place as usize];
        assert!(operation.stage == Stage::Running, "what ends has begun");
        let number = usize::from(operation.target);
        let target = &mut self.targets[number];
        let io = io_of(target, place);
        let keeps_data = operation.kind == Kind::Read && result.is_ok();
        if !keeps_data {
            target.backing.release(io);
        }
        if let Err(error) = result {
            let registers = self.on_disk_error(now, &operation, error);
            return self.conclude(now, place, Answer::Outcome(registers), Payload::Nothing);
        }
        if operation.kind == Kind::Trim {
            let (_, sectors) = self.trim_range(&operation);
            self.operations[place as usize].trim_sectors += u16::try_from(sectors).unwrap_or(0);
            if self.skip_trimmed(place) {
                self.operations[place as usize].stage = Stage::Queued;
                self.targets[number].queued.push_back(place);
                return;
            }
        }
        let counters = &mut self.targets[number].counters;
        let sectors = u64::from(operation.request.count);
        match operation.kind {
            Kind::Read => {
                counters.reads += 1;
                counters.read_sectors += sectors;
            }
            Kind::Write => {
                counters.writes += 1;
                counters.write_sectors += sectors;
            }
            Kind::Flush => counters.flushes += 1,
            Kind::Trim => counters.trims += 1,
            Kind::Verify | Kind::Answer => counters.others += 1,
        }
        let answer = Answer::Outcome(success(&operation.request));
        let payload = if keeps_data {
            Payload::Disk
        } else {
            Payload::Nothing
        };
        self.conclude(now, place, answer, payload);
    }

    fn on_disk_error(
        &mut self,
        now: Instant,
        operation: &Operation,
        error: DiskError,
    ) -> Registers {
        let number = usize::from(operation.target);
        let target = &mut self.targets[number];
        target.counters.disk_errors += 1;
        if target.disk_event_at.is_none_or(|at| at <= now) {
            target.disk_event_at = Some(now + DISK_EVENT_INTERVAL);
            let target = index(number);
            self.event(BladeEvent::DiskFailed { target, error });
        }
        let request = &operation.request;
        match error {
            DiskError::Medium { lba } => {
                let mut registers = failure(request, ata::ERROR_UNC);
                let left = operation.end.saturating_sub(lba);
                registers.count = u8::try_from(left)
                    .unwrap_or(request.count)
                    .min(request.count);
                let [l0, l1, l2, l3, l4, l5, ..] = lba.to_le_bytes();
                registers.lba_bytes = if request.lba48 {
                    [l0, l1, l2, l3, l4, l5]
                } else {
                    // The device register shares the byte with the address's upper bits.
                    [l0, l1, l2, l3 & 0x0f | request.lba_bytes[3] & 0xf0, 0, 0]
                };
                registers
            }
            DiskError::NoSpace | DiskError::Device { .. } => Registers {
                status: ata::STATUS_DRDY | ata::STATUS_DF | ata::STATUS_ERR,
                ..failure(request, ata::ERROR_ABRT)
            },
        }
    }

    /// Ends an operation, whatever has become of it, and queues its answer.
    #[inline]
    pub(super) fn conclude(&mut self, now: Instant, place: u32, answer: Answer, payload: Payload) {
        let operation = &mut self.operations[place as usize];
        operation.stage = Stage::Answered;
        operation.answer = answer;
        operation.payload = payload;
        let ended = *operation;
        if ended.stash != NONE {
            operation.stash = NONE;
            self.stash.give_back(ended.stash);
        }
        if ended.is_remembered {
            match answer {
                Answer::Outcome(registers) => self.duplicates.done(now, ended.entry, registers),
                // It was not executed: a copy of it is judged anew.
                Answer::Refused(_) => self.duplicates.forget(ended.entry),
            }
        }
        self.interfaces[usize::from(ended.interface)]
            .answered
            .push(&mut self.operations, place);
        if ended.is_indexed {
            self.wake(place);
        }
        if ended.barriers != 0 {
            self.operations[place as usize].barriers = 0;
            self.on_barrier_passed(usize::from(ended.target), ended.barriers);
        }
    }

    /// Lets those go on that waited for an operation's sectors.
    fn wake(&mut self, place: u32) {
        let operation = &mut self.operations[place as usize];
        operation.is_indexed = false;
        let target = &mut self.targets[usize::from(operation.target)];
        let first = target.first_operation;
        let (queued, operations) = (&mut target.queued, &mut self.operations);
        target.ranges.remove(place - first, |io| {
            let waiting = &mut operations[(first + io) as usize];
            assert!(
                waiting.stage == Stage::Waiting,
                "only what waits is in the way of something"
            );
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                waiting.stage = Stage::Queued;
                queued.push_back(first + io);
            }
        });
    }

    /// Starts what waits for the disk, until it takes no more.
    pub(super) fn start_queued(&mut self, now: Instant, number: usize) {
        while let Some(place) = self.targets[number].queued.front().copied() {
            let operation = self.operations[place as usize];
            if operation.end > self.targets[number].backing.sectors() {
                // The disk has shrunk since.
                self.targets[number].queued.pop_front();
                self.targets[number].counters.past_end += 1;
                let registers = failure(&operation.request, ata::ERROR_IDNF);
                self.conclude(now, place, Answer::Outcome(registers), Payload::Nothing);
                continue;
            }
            let started = self.start(now, place, Data::Stash);
            if started == Started::Busy {
                return;
            }
            self.targets[number].queued.pop_front();
            self.operations[place as usize].stage = Stage::Running;
            if let Started::Done(result) = started {
                self.on_disk_done(now, place, result);
            }
        }
    }

    /// Throws away what has not begun of those whom `refused` names, with the error it says.
    pub(super) fn discard_waiting(
        &mut self,
        now: Instant,
        number: usize,
        refused: impl Fn(&super::Target<D>, &Operation) -> Option<ErrorCode>,
    ) {
        let target = &self.targets[number];
        let first = target.first_operation as usize;
        for at in first..first + target.operations_max() {
            let operation = &self.operations[at];
            let target = &mut self.targets[number];
            if operation.is_waiting()
                && let Some(code) = refused(target, operation)
            {
                let place = u32::try_from(at).expect("32 bits");
                target.queued.retain(|queued| *queued != place);
                target.counters.discarded += 1;
                self.conclude(now, place, Answer::Refused(code), Payload::Nothing);
            }
        }
        self.start_queued(now, number);
    }

    /// The operation's place may be used again.
    #[inline]
    pub(super) fn free(&mut self, place: u32) {
        let operation = &mut self.operations[place as usize];
        operation.stage = Stage::Free;
        self.targets[usize::from(operation.target)].free.push(place);
    }
}

/// The `len_bytes` of a frame from `at` on, piece by piece; how many pieces.
#[inline]
fn cut<'a>(
    frame: &FrameRef<'a>,
    at: usize,
    len_bytes: usize,
    pieces: &mut [&'a [u8]; sandrail_wire::frame::SEGMENTS_MAX],
) -> usize {
    let (mut skip, mut left, mut count) = (at, len_bytes, 0);
    for segment in frame.segments() {
        let from = skip.min(segment.len());
        skip -= from;
        let piece = &segment[from..segment.len().min(from + left)];
        if !piece.is_empty() {
            pieces[count] = piece;
            count += 1;
            left -= piece.len();
        }
    }
    debug_assert_eq!(left, 0, "the frame's length was checked");
    count
}
