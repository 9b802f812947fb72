//! Operations of a file disk, without the file: which are to be handed to the kernel, as which requests, and what
//! becomes of them when the kernel did all, a part or nothing of a request.
//!
//! An operation is *queued* until [`Table::plan`] puts it into a request, alone or in a chain of neighbours; then it is
//! *submitted* until [`Table::complete`] ends it or queues what is left of it.

use std::collections::VecDeque;

use sandrail_proto::aoe::target::backing::{DiskError, SECTOR_BYTES};

use crate::counters::DiskCounters;

/// The most operations of one request.
pub(super) const CHAIN_OPERATIONS_MAX: u32 = 32;
/// The most bytes of one request: what devices take in one command, more or less.
const CHAIN_BYTES_MAX: u64 = 512 << 10;
/// How often an operation may make no progress without an error before it is failed.
const STALLS_MAX: u8 = 3;
/// Marks the end of a chain.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Flush,
    Discard,
    Read,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Queued,
    Submitted,
    /// Over, well or not.
    Ended {
        well: bool,
    },
}

/// One operation; offsets are bytes in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    kind: Kind,
    state: State,
    offset: u64,
    len: u64,
    /// Bytes that need not be done again: whole sectors.
    done: u64,
    /// The one after it in its chain.
    next: u32,
    /// Not to be merged again: it was part of a request that failed.
    alone: bool,
    stalls: u8,
}

impl Operation {
    /// Bytes of the slot that are done already.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    pub(super) fn left(&self) -> u64 {
        self.len - self.done
    }

    fn at(&self) -> u64 {
        self.offset + self.done
    }

    fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// What the kernel is asked for: the operations of a chain, in order, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) head: u32,
    pub(super) kind: Kind,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) operations: u32,
}

/// What a completion told besides the ends of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// A flush failed, with this error number.
    pub(super) flush_failed: Option<i32>,
    /// The file ended before an operation did: its size has changed.
    pub(super) ended_early: bool,
    /// The kernel can't discard here.
    pub(super) no_discard: bool,
}

/// All operations of a disk. Allocated once.
#[derive(Debug)]
pub(super) struct Table {
    operations: Vec<Operation>,
    queued: Vec<u32>,
    requests: Vec<Request>,
    ended: VecDeque<(u32, Result<(), DiskError>)>,
    submitted: u32,
    /// The kernel has a flush. It tells of lost writes once, so the next has to wait for what this one is told.
    flushing: bool,
    queued_flushes: usize,
    /// Where the disk begins in the file.
    base: u64,
}

impl Table {
    pub(super) fn new(operations_max: u32, base: u64) -> Self {
        let count = usize::try_from(operations_max).unwrap_or(usize::MAX);
        let free = Operation {
            kind: Kind::Flush,
            state: State::Free,
            offset: 0,
            len: 0,
            done: 0,
            next: NONE,
            alone: false,
            stalls: 0,
        };
        Self {
            operations: vec![free; count],
            queued: Vec::with_capacity(count),
            requests: Vec::with_capacity(count),
            ended: VecDeque::with_capacity(count),
            submitted: 0,
            flushing: false,
            queued_flushes: 0,
            base,
        }
    }

    /// Whether the kernel, or the queue to it, has nothing to do with this operation, so that its slot may be touched.
    pub(super) fn is_idle(&self, io: u32) -> bool {
        !matches!(
            self.operations[index(io)].state,
            State::Queued | State::Submitted
        )
    }

    /// Whether the operation is, or was, a flush.
    pub(super) fn is_flush(&self, io: u32) -> bool {
        self.operations[index(io)].kind == Kind::Flush
    }

    /// Length of a read that ended well.
    pub(super) fn read_bytes(&self, io: u32) -> Option<u64> {
        let operation = self.operations[index(io)];
        let good = operation.kind == Kind::Read && operation.state == State::Ended { well: true };
        good.then_some(operation.len)
    }

    /// Takes an operation for the next [`Table::plan`].
    ///
    /// # Panics
    /// If the place is in use.
    pub(super) fn queue(&mut self, io: u32, kind: Kind, offset: u64, len: u64) {
        assert!(
            self.is_idle(io),
            "operation {io} begins while it is under way"
        );
        self.operations[index(io)] = Operation {
            kind,
            state: State::Queued,
            offset,
            len,
            done: 0,
            next: NONE,
            alone: false,
            stalls: 0,
        };
        self.enqueue(io);
    }

    fn enqueue(&mut self, io: u32) {
        self.queued.push(io);
        self.queued_flushes += usize::from(self.operations[index(io)].kind == Kind::Flush);
    }

    /// The place is free again.
    ///
    /// # Panics
    /// If its operation is not over.
    pub(super) fn release(&mut self, io: u32) {
        assert!(
            self.is_idle(io),
            "operation {io} is released before its end"
        );
        self.operations[index(io)].state = State::Free;
    }

    /// Whether [`Table::plan`] would make requests.
    pub(super) fn has_queued(&self) -> bool {
        self.queued.len() > self.waiting_flushes()
    }

    /// Flushes that wait for the one under way.
    fn waiting_flushes(&self) -> usize {
        if self.flushing {
            self.queued_flushes
        } else {
            0
        }
    }

    /// Operations that the kernel has, or will get with the next submission.
    pub(super) fn submitted(&self) -> u32 {
        self.submitted
    }

    pub(super) fn next_ended(&mut self) -> Option<(u32, Result<(), DiskError>)> {
        self.ended.pop_front()
    }

    /// Makes requests of all that is queued, but of no flush while another is under way: two at once would share one error, and
    /// the one that is not told of it would vouch for writes that are lost. Other than that order is of no matter: operations
    /// that overlap are never under way at once if one of them writes, and a flush covers what ended before it began.
    pub(super) fn plan(&mut self, counters: &mut DiskCounters) {
        self.requests.clear();
        let waiting = self.waiting_flushes();
        let operations = &mut self.operations;
        // Sorts in place: no allocation.
        self.queued.sort_unstable_by_key(|io| {
            let operation = &operations[index(*io)];
            (operation.kind, operation.at())
        });
        if self.queued_flushes > waiting {
            self.flushing = true;
            self.queued_flushes = 0;
        }
        let mut last = NONE;
        // Flushes sort before everything else.
        for io in self.queued.drain(waiting..) {
            let new = operations[index(io)];
            operations[index(io)].state = State::Submitted;
            operations[index(io)].next = NONE;
            self.submitted += 1;
            if let Some(request) = self.requests.last_mut()
                && joins(request, &operations[index(last)], &new)
            {
                operations[index(last)].next = io;
                request.len += new.left();
                request.operations += 1;
                match new.kind {
                    Kind::Read => counters.merged_reads += 1,
                    Kind::Write => counters.merged_writes += 1,
                    Kind::Flush => counters.merged_flushes += 1,
                    Kind::Discard => {}
                }
            } else {
                self.requests.push(Request {
                    head: io,
                    kind: new.kind,
                    offset: new.at(),
                    len: new.left(),
                    operations: 1,
                });
            }
            last = io;
        }
    }

    /// What [`Table::plan`] made last.
    pub(super) fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The operations of a request, in order.
    pub(super) fn chain(&self, head: u32) -> impl Iterator<Item = (u32, &Operation)> {
        let mut next = head;
        std::iter::from_fn(move || {
            let io = next;
            let operation = self.operations.get(index(io))?;
            next = operation.next;
            Some((io, operation))
        })
    }

    /// Takes the kernel's word on a request: a number of bytes, or an error number below zero.
    pub(super) fn complete(
        &mut self,
        head: u32,
        result: i32,
        counters: &mut DiskCounters,
    ) -> Outcome {
        let kind = self.operations[index(head)].kind;
        self.flushing &= kind != Kind::Flush;
        match u64::try_from(result) {
            Err(_) => self.failed(head, -result, counters),
            Ok(bytes) if matches!(kind, Kind::Read | Kind::Write) => {
                self.advanced(head, bytes, counters)
            }
            Ok(_) => {
                self.end_chain(head, Ok(()), counters);
                Outcome::default()
            }
        }
    }

    fn failed(&mut self, head: u32, errno: i32, counters: &mut DiskCounters) -> Outcome {
        let first = self.operations[index(head)];
        let mut outcome = Outcome::default();
        if matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED) {
            counters.retried += self.queue_again(head, false);
        } else if first.kind == Kind::Discard
            && matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV)
        {
            // The sectors read as before, which is one of the two things a discard may leave behind.
            outcome.no_discard = true;
            self.end_chain(head, Ok(()), counters);
        } else if first.kind == Kind::Flush {
            outcome.flush_failed = Some(errno);
            let error = DiskError::Device { errno };
            self.end_chain(head, Err(error), counters);
            self.fail_waiting_flushes(error, counters);
        } else if first.next == NONE {
            let lba = first.at().saturating_sub(self.base) / SECTOR_BYTES as u64;
            self.end_chain(head, Err(disk_error(errno, lba)), counters);
        } else {
            // One bad sector fails a whole request: each operation of it gets a chance of its own.
            counters.split += self.queue_again(head, true);
        }
        outcome
    }

    /// Gives `bytes` to the operations of the chain in order.
    fn advanced(&mut self, head: u32, bytes: u64, counters: &mut DiskCounters) -> Outcome {
        let mut outcome = Outcome::default();
        let mut left = bytes;
        let mut next = head;
        while next != NONE {
            let io = next;
            let operation = &mut self.operations[index(io)];
            next = operation.next;
            let got = left.min(operation.left());
            left -= got;
            if got == operation.left() {
                self.end(io, Ok(()), counters);
                continue;
            }
            // What is left begins at a sector, which direct I/O insists on; the bytes of a sector that was done in part are
            // done once more, which harms nothing, because nothing that overlaps a write is under way with it.
            let whole = got - got % SECTOR_BYTES as u64;
            operation.done += whole;
            if whole > 0 {
                operation.stalls = 0;
            }
            // Only the first operation of a request can tell that the file ended: the others had not their turn.
            if whole == 0 && io == head {
                operation.stalls += 1;
                outcome.ended_early |= operation.kind == Kind::Read;
            }
            if operation.stalls >= STALLS_MAX {
                let lba = operation.at().saturating_sub(self.base) / SECTOR_BYTES as u64;
                self.end(io, Err(DiskError::Medium { lba }), counters);
            } else {
                counters.resumed += 1;
                self.again(io);
            }
        }
        outcome
    }

    /// What they were to make durable may be lost as well, and the kernel would not tell again.
    fn fail_waiting_flushes(&mut self, error: DiskError, counters: &mut DiskCounters) {
        let (operations, ended) = (&mut self.operations, &mut self.ended);
        self.queued.retain(|io| {
            let operation = &mut operations[index(*io)];
            if operation.kind != Kind::Flush {
                return true;
            }
            operation.state = State::Ended { well: false };
            counters.failed += 1;
            ended.push_back((*io, Err(error)));
            false
        });
        self.queued_flushes = 0;
    }

    fn again(&mut self, io: u32) {
        let operation = &mut self.operations[index(io)];
        operation.state = State::Queued;
        self.submitted -= 1;
        self.enqueue(io);
    }

    fn queue_again(&mut self, head: u32, alone: bool) -> u64 {
        let mut count = 0;
        let mut next = head;
        while next != NONE {
            let io = next;
            let operation = &mut self.operations[index(io)];
            next = operation.next;
            operation.alone |= alone;
            self.again(io);
            count += 1;
        }
        count
    }

    fn end_chain(&mut self, head: u32, result: Result<(), DiskError>, counters: &mut DiskCounters) {
        let mut next = head;
        while next != NONE {
            let io = next;
            next = self.operations[index(io)].next;
            self.end(io, result, counters);
        }
    }

    fn end(&mut self, io: u32, result: Result<(), DiskError>, counters: &mut DiskCounters) {
        let well = result.is_ok();
        self.operations[index(io)].state = State::Ended { well };
        counters.failed += u64::from(!well);
        self.submitted -= 1;
        self.ended.push_back((io, result));
    }
}

/// Whether `new` can go along in `request`, whose last operation is `last`.
fn joins(request: &Request, last: &Operation, new: &Operation) -> bool {
    if request.kind != new.kind || last.alone || new.alone {
        return false;
    }
    match new.kind {
        Kind::Flush => true,
        Kind::Discard => false,
        Kind::Read | Kind::Write => {
            last.end() == new.at()
                && request.operations < CHAIN_OPERATIONS_MAX
                && request.len + new.left() <= CHAIN_BYTES_MAX
        }
    }
}

/// What an error number of a read or a write means.
fn disk_error(errno: i32, lba: u64) -> DiskError {
    match errno {
        // ENODATA is how the block layer says "critical medium error", EILSEQ a failed checksum, EREMOTEIO a target's
        // failure, EBADMSG and EUCLEAN (117) how file systems say that their own checksums fail
        // (block/blk-core.c, blk_errors; fs/ext4/ext4.h, EFSBADCRC and EFSCORRUPTED).
        libc::EIO
        | libc::ENODATA
        | libc::EILSEQ
        | libc::EREMOTEIO
        | libc::EBADMSG
        | libc::EUCLEAN => DiskError::Medium { lba },
        // A file-size limit (RLIMIT_FSIZE, or the file system's own) is space that there is not.
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => DiskError::NoSpace,
        errno => DiskError::Device { errno },
    }
}

fn index(io: u32) -> usize {
    usize::try_from(io).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
