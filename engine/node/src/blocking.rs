//! Calls that wait: for tools, tests and the control plane.

use std::time::Duration;

use sandrail_memory::{Buffer, SECTOR_BYTES};
use sandrail_proto::aoe::initiator::{Durability, IfClosed, IoError, Operation, Outcome};
use sandrail_wire::aoe::{
    CONFIG_STRING_BYTES_MAX, ConfigCommand, MACS_MAX, MASK_DIRECTIVE_BYTES, MacList, ReserveCommand,
};
use sandrail_wire::ata::{Identify, IdentifyError};
use sandrail_wire::{Lba, MacAddr};

use crate::client::Client;
use crate::clock;
use crate::hub::TargetHandle;
use crate::request::{Completion, Refusal, Request, RequestError};

/// The shard ends each request by its deadline; this much later it must be taken for gone.
const GRACE: Duration = Duration::from_secs(5);
/// A full ring or an empty pool is looked at again after this long, when no completion of ours can change it.
const RETRY: Duration = Duration::from_micros(200);

/// Why a blocking call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// The client has requests of its own under way, whose completions this call would take.
    #[error("the client has {0} requests under way")]
    Busy(usize),
    /// The length is no whole number of sectors.
    #[error("{0} bytes are not a whole number of sectors")]
    Length(usize),
    /// Longer than the protocol or the node's buffers allow.
    #[error("{len_bytes} bytes are too long, the most is {max_bytes}")]
    TooLong {
        /// Length given.
        len_bytes: usize,
        /// The most.
        max_bytes: usize,
    },
    /// A request was not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A request failed.
    #[error("at sector {lba}: {error}")]
    Data {
        /// First sector of the request.
        lba: u64,
        /// Why.
        error: RequestError,
    },
    /// A request that carries no data failed.
    #[error(transparent)]
    Failed(#[from] RequestError),
    /// Other clients hold all buffers, and gave none back in time.
    #[error("no free buffer")]
    NoBuffer,
    /// The shard ended nothing: its thread is gone, or never gets to run.
    #[error("the shard does not answer")]
    NoAnswer,
    /// IDENTIFY's data makes no sense.
    #[error("IDENTIFY: {0:?}")]
    Identify(IdentifyError),
    /// The answer has not the form that the command's must have.
    #[error("the target's answer makes no sense")]
    Answer,
    /// The target refused to edit its mask list.
    #[error("mask list error {0}")]
    Mask(u8),
}

/// A reservation that an epoch orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochReservation {
    /// Its epoch.
    pub epoch: u64,
    /// Who may read and write; nobody: everybody may.
    pub macs: Vec<MacAddr>,
}

/// Why a reservation by epoch was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// A newer one is in force, or another one of the same epoch: this one.
    #[error("a reservation of epoch {} is in force", .0.epoch)]
    Stale(EpochReservation),
    /// Everything else.
    #[error(transparent)]
    Call(#[from] BlockingError),
}

impl Client {
    /// Reads from `lba` on into all of `data`, with up to the client's depth of requests under way.
    ///
    /// # Errors
    /// [`BlockingError`]; the content of `data` means nothing then.
    pub fn read(
        &mut self,
        target: TargetHandle,
        lba: Lba,
        data: &mut [u8],
    ) -> Result<(), BlockingError> {
        self.transfer(target, lba, Data::In(data))
    }

    /// Writes all of `data` from `lba` on. Not durable before a [`Client::flush`].
    ///
    /// # Errors
    /// [`BlockingError`]; any part may be written or not then.
    pub fn write(
        &mut self,
        target: TargetHandle,
        lba: Lba,
        data: &[u8],
    ) -> Result<(), BlockingError> {
        self.transfer(target, lba, Data::Out(data))
    }

    /// Makes everything acknowledged before durable, on all shards, as far as the target does that: the answer says how
    /// far.
    ///
    /// # Errors
    /// [`BlockingError::Failed`]; after `IoError::UnflushedLost` see
    /// [`accept_loss`](crate::Node::accept_loss).
    pub fn flush(&mut self, target: TargetHandle) -> Result<Durability, BlockingError> {
        match self.call(target, Operation::Flush, Buffer::empty())?.0 {
            Outcome::Flushed(durability) => Ok(durability),
            _ => Err(BlockingError::Answer),
        }
    }

    /// What the target says of itself.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn identify(&mut self, target: TargetHandle) -> Result<Identify, BlockingError> {
        let buffer = self.wait_for_buffer(SECTOR_BYTES)?;
        let (_, buffer) = self.call(target, Operation::Identify, buffer)?;
        let data = buffer.as_ref().first_chunk().ok_or(BlockingError::Answer)?;
        Identify::parse(data).map_err(BlockingError::Identify)
    }

    /// Reads, tests or sets the config string; the answer's string.
    ///
    /// # Errors
    /// [`BlockingError`]; a test that fails and a set that is refused are AoE errors.
    pub fn config(
        &mut self,
        target: TargetHandle,
        command: ConfigCommand,
        string: &[u8],
    ) -> Result<Vec<u8>, BlockingError> {
        let len_bytes = length(string.len(), CONFIG_STRING_BYTES_MAX)?;
        let operation = Operation::Config { command, len_bytes };
        self.exchange(target, operation, string, CONFIG_STRING_BYTES_MAX)
            .map(|(answer, _)| answer)
    }

    /// Reads or sets the reservation; the list as the target has it then.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn reserve(
        &mut self,
        target: TargetHandle,
        command: ReserveCommand,
        macs: &[MacAddr],
    ) -> Result<Vec<MacAddr>, BlockingError> {
        let bytes: Vec<u8> = macs.iter().flat_map(|mac| mac.0).collect();
        let len_bytes = length(bytes.len(), MACS_MAX * 6)?;
        let operation = Operation::Reserve { command, len_bytes };
        let (answer, _) = self.exchange(target, operation, &bytes, MACS_MAX * 6)?;
        macs_in(&answer)
    }

    /// Replaces the reservation if `epoch` is newer than the one in force (S8), on targets that announce epochs; what is in
    /// force then. The same list under the same epoch again is a success.
    ///
    /// # Errors
    /// [`EpochError::Stale`] with what is in force instead; [`BlockingError`].
    pub fn reserve_by_epoch(
        &mut self,
        target: TargetHandle,
        epoch: u64,
        macs: &[MacAddr],
    ) -> Result<EpochReservation, EpochError> {
        let bytes: Vec<u8> = macs.iter().flat_map(|mac| mac.0).collect();
        let len_bytes = length(bytes.len(), MACS_MAX * 6)?;
        let mut buffer = self.wait_for_buffer(MACS_MAX * 6)?;
        buffer.as_mut()[..bytes.len()].copy_from_slice(&bytes);
        let operation = Operation::ReserveEpoch { epoch, len_bytes };
        let completion = self.complete(target, operation, buffer)?;
        let in_force = |epoch, len_bytes: usize| {
            let list = completion.buffer.as_ref().get(..len_bytes);
            let macs = macs_in(list.ok_or(BlockingError::Answer)?)?;
            Ok::<_, BlockingError>(EpochReservation { epoch, macs })
        };
        match completion.result {
            Ok(Outcome::Reserved { epoch, len_bytes }) => Ok(in_force(epoch, len_bytes)?),
            Ok(_) => Err(BlockingError::Answer.into()),
            Err(RequestError::Io(IoError::StaleEpoch { epoch, len_bytes })) => {
                Err(EpochError::Stale(in_force(epoch, len_bytes)?))
            }
            Err(error) => Err(BlockingError::Failed(error).into()),
        }
    }

    /// The MAC mask list: who may talk to the target.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn mask_read(&mut self, target: TargetHandle) -> Result<Vec<MacAddr>, BlockingError> {
        let (answer, mask_error) = self.exchange(target, Operation::MaskRead, &[], MACS_MAX * 8)?;
        mask_ok(mask_error)?;
        macs_in(&answer)
    }

    /// Edits the MAC mask list: `directives` as [`sandrail_wire::aoe::MaskDirectives::encode`] writes them.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn mask_edit(
        &mut self,
        target: TargetHandle,
        directives: &[u8],
    ) -> Result<(), BlockingError> {
        let most = MACS_MAX * MASK_DIRECTIVE_BYTES;
        let len_bytes = length(directives.len(), most)?;
        let operation = Operation::MaskEdit { len_bytes };
        let (_, mask_error) = self.exchange(target, operation, directives, most)?;
        mask_ok(mask_error)
    }

    /// Sends `bytes` in a buffer with room for the longest answer; the answer's payload and MError.
    fn exchange(
        &mut self,
        target: TargetHandle,
        operation: Operation,
        bytes: &[u8],
        answer_bytes_max: usize,
    ) -> Result<(Vec<u8>, u8), BlockingError> {
        let mut buffer = self.wait_for_buffer(answer_bytes_max.max(bytes.len()))?;
        buffer.as_mut()[..bytes.len()].copy_from_slice(bytes);
        let (outcome, buffer) = self.call(target, operation, buffer)?;
        let Outcome::Answer {
            len_bytes,
            mask_error,
        } = outcome
        else {
            return Err(BlockingError::Answer);
        };
        let payload = buffer
            .as_ref()
            .get(..len_bytes.min(buffer.len()))
            .unwrap_or_default();
        Ok((payload.to_vec(), mask_error))
    }

    fn call(
        &mut self,
        target: TargetHandle,
        operation: Operation,
        buffer: Buffer,
    ) -> Result<(Outcome, Buffer), BlockingError> {
        let completion = self.complete(target, operation, buffer)?;
        Ok((completion.result?, completion.buffer))
    }

    /// The same; what the request came to is in the completion.
    fn complete(
        &mut self,
        target: TargetHandle,
        operation: Operation,
        buffer: Buffer,
    ) -> Result<Completion, BlockingError> {
        self.must_be_idle()?;
        let timeout = self.request_timeout();
        let mut request = Request {
            target,
            operation,
            buffer,
            timeout,
            user: 0,
        };
        let give_up = clock::now() + timeout;
        loop {
            match self.submit(request) {
                Ok(_) => break,
                Err(rejected) => {
                    if !matches!(rejected.why, Refusal::RingFull { .. }) || clock::now() >= give_up
                    {
                        return Err(rejected.why.into());
                    }
                    request = rejected.request;
                    std::thread::sleep(RETRY);
                }
            }
        }
        self.wait(timeout + GRACE).ok_or(BlockingError::NoAnswer)
    }

    fn must_be_idle(&self) -> Result<(), BlockingError> {
        match self.outstanding() {
            0 => Ok(()),
            under_way => Err(BlockingError::Busy(under_way)),
        }
    }

    fn wait_for_buffer(&self, len_bytes: usize) -> Result<Buffer, BlockingError> {
        let max_bytes = self.buffer_bytes_max();
        if len_bytes > max_bytes {
            return Err(BlockingError::TooLong {
                len_bytes,
                max_bytes,
            });
        }
        let give_up = clock::now() + self.request_timeout();
        loop {
            if let Some(buffer) = self.buffer(len_bytes) {
                return Ok(buffer);
            }
            if clock::now() >= give_up {
                return Err(BlockingError::NoBuffer);
            }
            std::thread::sleep(RETRY);
        }
    }

    fn transfer(
        &mut self,
        target: TargetHandle,
        lba: Lba,
        mut data: Data<'_>,
    ) -> Result<(), BlockingError> {
        self.must_be_idle()?;
        let len_bytes = data.len();
        if !len_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(BlockingError::Length(len_bytes));
        }
        let mut next = 0;
        let mut failure = None;
        let mut starved_since = None;
        while (next < len_bytes && failure.is_none()) || self.outstanding() > 0 {
            let before = next;
            while next < len_bytes && failure.is_none() {
                match self.send_piece(target, lba, &data, next) {
                    Ok(Some(sent)) => next += sent,
                    Ok(None) => break,
                    Err(error) => failure = Some(error),
                }
            }
            if self.outstanding() == 0 {
                // Neither buffers nor ring have room, and nothing of ours will make any.
                let now = clock::now();
                let since = *starved_since.get_or_insert(now);
                if failure.is_none() && now.saturating_since(since) > self.request_timeout() {
                    failure = Some(BlockingError::NoBuffer);
                }
                std::thread::sleep(RETRY);
                continue;
            }
            if next > before {
                starved_since = None;
            }
            let completion = self
                .wait(self.request_timeout() + GRACE)
                .ok_or(BlockingError::NoAnswer)?;
            if let Err(error) = take_piece(lba, &mut data, &completion) {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Submits the piece that begins `offset` bytes into the data; its length, or `None` when there is no room now.
    fn send_piece(
        &mut self,
        target: TargetHandle,
        lba: Lba,
        data: &Data<'_>,
        offset: usize,
    ) -> Result<Option<usize>, BlockingError> {
        if self.outstanding() == self.depth() {
            return Ok(None);
        }
        let first = Lba(lba.0.saturating_add(sectors(offset)));
        let stripe = usize::try_from(self.sectors_to_stripe_end(first)).unwrap_or(usize::MAX);
        let piece = (data.len() - offset)
            .min(stripe.saturating_mul(SECTOR_BYTES))
            .min(self.buffer_bytes_max());
        let Some(mut buffer) = self.buffer(piece) else {
            return Ok(None);
        };
        let operation = match data {
            Data::In(_) => Operation::Read { lba: first },
            Data::Out(bytes) => {
                buffer
                    .as_mut()
                    .copy_from_slice(&bytes[offset..offset + piece]);
                Operation::Write {
                    lba: first,
                    if_closed: IfClosed::Wait,
                }
            }
        };
        let request = Request {
            target,
            operation,
            buffer,
            timeout: self.request_timeout(),
            user: u64::try_from(offset).unwrap_or(u64::MAX),
        };
        match self.submit(request) {
            Ok(_) => Ok(Some(piece)),
            Err(rejected) if matches!(rejected.why, Refusal::RingFull { .. }) => Ok(None),
            Err(rejected) => Err(rejected.why.into()),
        }
    }
}

/// Where data comes from or goes to.
enum Data<'a> {
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::In(bytes) => bytes.len(),
            Self::Out(bytes) => bytes.len(),
        }
    }
}

fn take_piece(lba: Lba, data: &mut Data<'_>, completion: &Completion) -> Result<(), BlockingError> {
    let offset = usize::try_from(completion.user).unwrap_or(usize::MAX);
    if let Err(error) = completion.result {
        return Err(BlockingError::Data {
            lba: lba.0.saturating_add(sectors(offset)),
            error,
        });
    }
    if let Data::In(bytes) = data {
        let read = completion.buffer.as_ref();
        bytes[offset..offset + read.len()].copy_from_slice(read);
    }
    Ok(())
}

fn sectors(len_bytes: usize) -> u64 {
    u64::try_from(len_bytes / SECTOR_BYTES).unwrap_or(u64::MAX)
}

fn length(len_bytes: usize, max_bytes: usize) -> Result<u16, BlockingError> {
    u16::try_from(len_bytes)
        .ok()
        .filter(|_| len_bytes <= max_bytes)
        .ok_or(BlockingError::TooLong {
            len_bytes,
            max_bytes,
        })
}

fn macs_in(bytes: &[u8]) -> Result<Vec<MacAddr>, BlockingError> {
    let list = MacList::from_bytes(bytes).ok_or(BlockingError::Answer)?;
    Ok(list.iter().collect())
}

fn mask_ok(mask_error: u8) -> Result<(), BlockingError> {
    match mask_error {
        0 => Ok(()),
        error => Err(BlockingError::Mask(error)),
    }
}
