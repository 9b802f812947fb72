//! Many requests under way: sectors in and out in order, whatever the order of their completions.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use sandrail_memory::Buffer;
use sandrail_node::{BlockingError, Client, Completion, Request, TargetHandle};
use sandrail_proto::aoe::initiator::{Durability, IfClosed, Operation};
use sandrail_wire::ata::SECTOR_BYTES;
use sandrail_wire::{Lba, TargetAddr};

use crate::fault::Fault;
use crate::session::{Attached, WINDOW_DEPTHS};

/// The shard ends each request by its deadline; this much later it must be taken for gone.
const GRACE: Duration = Duration::from_secs(5);

/// A client and the target that its requests go to.
pub(crate) struct Flow<'a> {
    client: &'a mut Client,
    handle: TargetHandle,
    addr: TargetAddr,
    block_bytes: usize,
}

/// A part of a read, in its place.
struct Piece {
    lba: u64,
    sectors: u64,
    /// Once it has arrived.
    data: Option<Buffer>,
}

/// The first failure by sector, so that the same trouble is told the same way whatever the order of completions.
#[derive(Default)]
struct FirstFailure(Option<(u64, anyhow::Error)>);

impl FirstFailure {
    fn add(&mut self, lba: u64, error: impl Into<anyhow::Error>) {
        if self.0.as_ref().is_none_or(|(earlier, _)| lba < *earlier) {
            self.0 = Some((lba, error.into()));
        }
    }

    fn is_none(&self) -> bool {
        self.0.is_none()
    }

    fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl<'a> Flow<'a> {
    /// Requests of up to `block_bytes` on the attached target.
    pub(crate) fn new(attached: &'a mut Attached, block_bytes: usize) -> Self {
        let addr = attached.addr();
        Self {
            handle: attached.handle,
            addr,
            client: &mut attached.client,
            block_bytes,
        }
    }

    /// Requests of up to `block_bytes` through a client of any node.
    pub(crate) fn of(
        client: &'a mut Client,
        handle: TargetHandle,
        addr: TargetAddr,
        block_bytes: usize,
    ) -> Self {
        Self {
            client,
            handle,
            addr,
            block_bytes,
        }
    }

    /// Reads sectors and hands them to `sink` in order, with their place.
    pub(crate) fn read(
        &mut self,
        lba: u64,
        sectors: u64,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let end = lba.saturating_add(sectors);
        let window_max = self.client.depth() * WINDOW_DEPTHS;
        let mut window: VecDeque<Piece> = VecDeque::with_capacity(window_max);
        let mut front = 0_u64;
        let mut next = lba;
        let mut failure = FirstFailure::default();
        loop {
            while failure.is_none() && next < end && window.len() < window_max {
                let number = front + u64::try_from(window.len()).unwrap_or(0);
                let Some(sectors) = self.begin_read(next, end - next, number)? else {
                    break;
                };
                window.push_back(Piece {
                    lba: next,
                    sectors,
                    data: None,
                });
                next += sectors;
            }
            if self.client.outstanding() == 0 {
                break;
            }
            let completion = self.wait()?;
            let place = usize::try_from(completion.user - front).unwrap_or(usize::MAX);
            let piece = &mut window[place];
            match completion.result {
                Ok(_) => piece.data = Some(completion.buffer),
                Err(source) => {
                    failure.add(piece.lba, self.data_fault("read", piece.lba, source));
                }
            }
            while failure.is_none()
                && let Some(data) = window.front_mut().and_then(|piece| piece.data.take())
                && let Some(piece) = window.pop_front()
            {
                front += 1;
                debug_assert_eq!(
                    sectors_of(data.len()),
                    piece.sectors,
                    "the buffer was cut to it"
                );
                if let Err(error) = sink(piece.lba, data.as_ref()) {
                    failure.add(piece.lba, error);
                }
            }
        }
        failure.into_result()?;
        // With nothing under way and nothing failed, only a lack of buffers can have ended it early.
        if next < end {
            return Err(BlockingError::NoBuffer.into());
        }
        Ok(())
    }

    /// Writes what `fill` puts into buffers (whole sectors; fewer than asked for: the end) from `lba` to `end` at most.
    /// The number of sectors written; `done` hears of each part that was acknowledged, in bytes.
    pub(crate) fn write(
        &mut self,
        lba: u64,
        end: u64,
        fill: &mut dyn FnMut(u64, &mut [u8]) -> Result<usize>,
        done: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let mut next = lba;
        let mut at_end = false;
        let mut failure = FirstFailure::default();
        loop {
            while failure.is_none()
                && !at_end
                && next < end
                && self.client.outstanding() < self.client.depth()
            {
                let len_bytes = self.piece_bytes(next, end - next);
                let Some(mut buffer) = self.client.buffer(len_bytes) else {
                    break;
                };
                let filled = match fill(next, buffer.as_mut()) {
                    Ok(filled) => filled,
                    Err(error) => {
                        failure.add(next, error);
                        break;
                    }
                };
                at_end = filled < len_bytes;
                if filled == 0 {
                    break;
                }
                buffer.set_len(filled);
                let operation = Operation::Write {
                    lba: Lba(next),
                    if_closed: IfClosed::Wait,
                };
                self.submit(operation, buffer, next)?;
                next += sectors_of(filled);
            }
            if self.client.outstanding() == 0 {
                break;
            }
            let completion = self.wait()?;
            match completion.result {
                Ok(_) => done(u64::try_from(completion.buffer.len()).unwrap_or(0)),
                Err(source) => {
                    let lba = completion.user;
                    failure.add(lba, self.data_fault("write", lba, source));
                }
            }
        }
        failure.into_result()?;
        if !at_end && next < end {
            return Err(BlockingError::NoBuffer.into());
        }
        Ok(next - lba)
    }

    /// Makes what was written durable, as far as the target does that.
    pub(crate) fn flush(&mut self) -> Result<Durability, BlockingError> {
        self.client.flush(self.handle)
    }

    /// Submits a read of up to `left` sectors; how many it is for, `None` when there is no room now.
    fn begin_read(&mut self, lba: u64, left: u64, number: u64) -> Result<Option<u64>> {
        if self.client.outstanding() == self.client.depth() {
            return Ok(None);
        }
        let len_bytes = self.piece_bytes(lba, left);
        let Some(buffer) = self.client.buffer(len_bytes) else {
            return Ok(None);
        };
        self.submit(Operation::Read { lba: Lba(lba) }, buffer, number)?;
        Ok(Some(sectors_of(len_bytes)))
    }

    /// The length of a request at `lba`: a block, less where a stripe or the range ends.
    fn piece_bytes(&self, lba: u64, left: u64) -> usize {
        let sectors = left.min(self.client.sectors_to_stripe_end(Lba(lba)));
        let bytes = sectors.saturating_mul(sector_bytes());
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(self.block_bytes)
    }

    fn submit(&mut self, operation: Operation, buffer: Buffer, user: u64) -> Result<()> {
        let request = Request {
            target: self.handle,
            operation,
            buffer,
            timeout: self.client.request_timeout(),
            user,
        };
        // The client's depth is below the rings' length, and nobody else uses them: a refusal is final.
        self.client
            .submit(request)
            .map_err(|rejected| BlockingError::from(rejected.why))?;
        Ok(())
    }

    fn wait(&mut self) -> Result<Completion, Fault> {
        let longest = self.client.request_timeout() + GRACE;
        self.client.wait(longest).ok_or(Fault::NoAnswer)
    }

    fn data_fault(
        &self,
        verb: &'static str,
        lba: u64,
        source: sandrail_node::RequestError,
    ) -> Fault {
        Fault::Data {
            verb,
            lba,
            target: self.addr,
            source,
        }
    }
}

/// A sector's length.
pub(crate) fn sector_bytes() -> u64 {
    u64::try_from(SECTOR_BYTES).unwrap_or(u64::MAX)
}

fn sectors_of(len_bytes: usize) -> u64 {
    u64::try_from(len_bytes / SECTOR_BYTES).unwrap_or(u64::MAX)
}
