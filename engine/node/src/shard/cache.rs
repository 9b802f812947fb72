//! The cache's part of a shard's turn: pages that are missed are asked for, dirty ones are written, flushes end.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use sandrail_link::Link;
use sandrail_memory::cache::{CacheShard, FlushId, PageId, PageRead, PageWrite, VolumeFault};
use sandrail_proto::aoe::initiator::{
    IfClosed, IoError, Operation, Outcome, Request, SubmitError, TargetId,
};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use super::aside::Aside;
use super::{Asker, OpenRequest, Shard};
use crate::cache::{CacheShared, Carrier, ShardFlushError};
use crate::stat::CacheStat;

/// Pages asked for, and write requests begun, in a turn at most.
const BURST_MAX: usize = 64;

/// A flush that somebody waits for.
#[derive(Debug)]
struct Waiting {
    volume: u32,
    /// `None` until there is a place for it.
    flush: Option<FlushId>,
    deadline: Instant,
    reply: Sender<Result<(), ShardFlushError>>,
}

/// A shard's side of the node's cache.
#[derive(Debug)]
pub(crate) struct ShardCache {
    shared: Arc<CacheShared>,
    pages: CacheShard,
    /// Reads that wait since their volume has its fill under way.
    aside: Aside<PageRead>,
    /// Whether the cache was first last time: it and the clients take turns when there is little room.
    was_first: bool,
    waiting: Vec<Waiting>,
    timeout: Duration,
    stat: CacheStat,
}

impl ShardCache {
    pub(crate) fn new(shared: Arc<CacheShared>, pages: CacheShard, timeout: Duration) -> Self {
        let aside = Aside::new(shared.volumes.count(), pages.frames());
        Self {
            shared,
            pages,
            aside,
            was_first: false,
            waiting: Vec::new(),
            timeout,
            stat: CacheStat::default(),
        }
    }

    /// Whether there is something to do that rang the bell.
    pub(super) fn is_called(&self) -> bool {
        self.pages.is_called()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.pages.poll_timeout().map(Instant::from_nanos);
        let deadlines = self.waiting.iter().map(|waiting| waiting.deadline);
        deadlines.chain(next).min()
    }

    pub(super) fn stat(&self) -> CacheStat {
        CacheStat {
            pages: self.pages.stat(),
            ..self.stat
        }
    }

    pub(super) fn flush(
        &mut self,
        volume: u32,
        deadline: Instant,
        reply: Sender<Result<(), ShardFlushError>>,
    ) {
        let flush = self.pages.flush_begin(volume);
        self.waiting.push(Waiting {
            volume,
            flush,
            deadline,
            reply,
        });
    }

    /// Answers flushes that have ended, or whose time is over.
    fn end_flushes(&mut self, now: Instant) -> bool {
        let mut place = 0;
        let mut busy = false;
        while place < self.waiting.len() {
            let waiting = &mut self.waiting[place];
            if waiting.flush.is_none() {
                waiting.flush = self.pages.flush_begin(waiting.volume);
            }
            let ended = waiting.flush.and_then(|flush| self.pages.flush_poll(flush));
            let answer = match ended {
                Some(result) => result.map_err(ShardFlushError::Write),
                None if now < waiting.deadline => {
                    place += 1;
                    continue;
                }
                None => {
                    let cancel = |flush| self.pages.flush_cancel(flush);
                    let (pages, one) = waiting.flush.map_or((0, None), cancel);
                    Err(ShardFlushError::Timeout { pages, one })
                }
            };
            let waiting = self.waiting.swap_remove(place);
            // Who does not wait any more has dropped the receiver.
            let _ = waiting.reply.send(answer);
            busy = true;
        }
        busy
    }
}

impl Drop for ShardCache {
    fn drop(&mut self) {
        // The shard's door is closed by now: what was asked for until then fails, and what is asked for later, too.
        self.pages.abandon();
    }
}

impl<L: Link> Shard<L> {
    /// What clients and the cache ask for. Each goes first in every other turn, and leaves the rest of the initiator's room.
    pub(super) fn take_asked(&mut self, now: Instant) -> bool {
        let Some(cache) = &mut self.cache else {
            return self.take_requests(now);
        };
        cache.pages.tick(now.as_nanos());
        cache.was_first = !cache.was_first;
        if cache.was_first {
            let busy = self.take_pages(now);
            return self.take_requests(now) | busy;
        }
        let busy = self.take_requests(now);
        self.take_pages(now) | busy
    }

    fn take_pages(&mut self, now: Instant) -> bool {
        let Some(mut cache) = self.cache.take() else {
            return false;
        };
        let mut busy = self.take_aside(now, &mut cache);
        let room = self.cache_room();
        for _ in 0..room {
            let Some(ticket) = cache.pages.poll_read() else {
                break;
            };
            busy = true;
            let read = cache.pages.reading(ticket);
            self.begin_read(now, &mut cache, read);
        }
        // Nothing new is written once the node stops: what was to be written by then has been flushed before.
        let room = if self.is_stopping() {
            0
        } else {
            self.cache_room()
        };
        for _ in 0..room {
            let Some(ticket) = cache.pages.poll_write(now.as_nanos()) else {
                break;
            };
            busy = true;
            let write = cache.pages.writing(ticket);
            self.begin_write(now, &mut cache, write);
        }
        if !cache.waiting.is_empty() {
            busy |= cache.end_flushes(now);
        }
        self.cache = Some(cache);
        busy
    }

    fn cache_room(&self) -> usize {
        self.initiator
            .room()
            .min(self.open_free.len())
            .min(BURST_MAX)
    }

    /// Begins the reads that were put aside and may go now.
    fn take_aside(&mut self, now: Instant, cache: &mut ShardCache) -> bool {
        let mut busy = false;
        while let Some(volume) = cache.aside.called() {
            if !cache.shared.volumes.takes_reads(volume, self.number) {
                // The end of its next read calls it again.
                cache.aside.pass();
                continue;
            }
            if self.cache_room() == 0 {
                break;
            }
            match cache.aside.pop() {
                Some(read) => {
                    busy = true;
                    self.begin_read(now, cache, read);
                }
                None => cache.aside.pass(),
            }
        }
        busy
    }

    fn begin_read(&mut self, now: Instant, cache: &mut ShardCache, read: PageRead) {
        let page = read.page();
        let volumes = &cache.shared.volumes;
        if !volumes.takes_reads(page.volume(), self.number) {
            cache.aside.push(page.volume(), read);
            return;
        }
        let Some((target, lba)) = volumes.locate(page) else {
            let _ = read.done(Err(VolumeFault::Unbound));
            return;
        };
        let Some(target) = self.target_id(target) else {
            let _ = read.done(Err(VolumeFault::Detached));
            return;
        };
        let operation = Operation::Read { lba };
        match self.submit_page(now, cache, target, operation, Carrier::read(read)) {
            Ok(()) => {
                cache.stat.read_requests += 1;
                cache
                    .shared
                    .volumes
                    .count_read(page.volume(), self.number, true);
            }
            Err((fault, Carrier::Read { page, .. })) => drop(page.done(Err(fault))),
            Err(_) => {}
        }
    }

    fn begin_write(&mut self, now: Instant, cache: &mut ShardCache, write: PageWrite) {
        let page = write.first();
        let (target, lba) = match self.place_of(cache, page) {
            Ok(place) => place,
            Err(fault) => return self.end_write(now, cache, write, Err(fault)),
        };
        let operation = Operation::Write {
            lba,
            if_closed: IfClosed::Wait,
        };
        match self.submit_page(now, cache, target, operation, Carrier::Write(write)) {
            Ok(()) => {
                cache.stat.write_requests += 1;
                let volumes = &cache.shared.volumes;
                volumes.count_write(page.volume(), self.number, true);
            }
            Err((fault, Carrier::Write(write))) => self.end_write(now, cache, write, Err(fault)),
            Err(_) => {}
        }
    }

    /// Where a page may be written.
    fn place_of(&self, cache: &ShardCache, page: PageId) -> Result<(TargetId, Lba), VolumeFault> {
        let volumes = &cache.shared.volumes;
        let volume = volumes.get(page.volume()).ok_or(VolumeFault::Unbound)?;
        if !volume.writable {
            return Err(VolumeFault::ReadOnly);
        }
        let (handle, lba) = volumes.locate(page).ok_or(VolumeFault::Unbound)?;
        // A sector's closed ranges are known to its own shard alone (S3).
        assert_eq!(self.hub.stripe(lba).0, self.number, "another shard's page");
        let target = self.target_id(handle).ok_or(VolumeFault::Detached)?;
        Ok((target, lba))
    }

    fn submit_page(
        &mut self,
        now: Instant,
        cache: &ShardCache,
        target: TargetId,
        operation: Operation,
        carrier: Carrier,
    ) -> Result<(), (VolumeFault, Carrier)> {
        let Some(open) = self.open_free.pop() else {
            return Err((VolumeFault::Timeout, carrier));
        };
        let request = Request {
            target,
            operation,
            buffer: carrier,
            timeout: cache.timeout,
            user: u64::from(open),
        };
        match self.initiator.submit(now, request) {
            Ok(_) => {
                let place = self.handle_of(target).map_or(0, |handle| handle.index);
                self.open[super::index(open)] = Some(OpenRequest {
                    asker: Asker::Cache,
                    place,
                    submitted_at: now,
                });
                Ok(())
            }
            Err(rejected) => {
                self.open_free.push(open);
                Err((submit_fault(rejected.error), rejected.buffer))
            }
        }
    }

    /// A page has come in, or has not.
    pub(super) fn page_read(&mut self, read: PageRead, copied_bytes: usize, result: PageResult) {
        let Some(cache) = &mut self.cache else {
            return;
        };
        let volume = read.page().volume();
        cache.shared.volumes.count_read(volume, self.number, false);
        cache.aside.call(volume);
        cache.stat.copied_bytes += u64::try_from(copied_bytes).unwrap_or(0);
        // The cache counts the error, and those who wait hear of it.
        let _ = read.done(result.map(drop).map_err(io_fault));
    }

    /// Pages have gone out, or have not.
    pub(super) fn pages_written(&mut self, now: Instant, write: PageWrite, result: PageResult) {
        let Some(mut cache) = self.cache.take() else {
            return;
        };
        let volume = write.first().volume();
        cache.shared.volumes.count_write(volume, self.number, false);
        let result = result.map(drop).map_err(io_fault);
        self.end_write(now, &mut cache, write, result);
        self.cache = Some(cache);
    }

    fn end_write(
        &mut self,
        now: Instant,
        cache: &mut ShardCache,
        write: PageWrite,
        result: Result<(), VolumeFault>,
    ) {
        cache.pages.written(write, result, now.as_nanos());
        while let Some(error) = cache.pages.poll_error() {
            cache.shared.tell(error);
        }
    }
}

/// How a page's request ended.
type PageResult = Result<Outcome, IoError>;

fn io_fault(error: IoError) -> VolumeFault {
    match error {
        IoError::Aoe(code) => VolumeFault::Refused(code.into()),
        IoError::Ata { status, error, .. } => VolumeFault::Disk { status, error },
        IoError::Deadline { .. } => VolumeFault::Timeout,
        IoError::NoSession(_) => VolumeFault::NoSession,
        IoError::Detached => VolumeFault::Detached,
        // Of flushes and reservations.
        IoError::UnflushedLost(_) | IoError::StaleEpoch { .. } | IoError::ReserveRefused(_) => {
            VolumeFault::Other(1)
        }
    }
}

fn submit_fault(error: SubmitError) -> VolumeFault {
    match error {
        SubmitError::NotAttached => VolumeFault::Detached,
        SubmitError::PastEnd { .. } => VolumeFault::PastEnd,
        SubmitError::Full | SubmitError::RangeClosed => VolumeFault::Timeout,
        SubmitError::BufferLength { .. } | SubmitError::NoEpochs => VolumeFault::Other(2),
    }
}
