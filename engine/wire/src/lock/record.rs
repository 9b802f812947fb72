//! The bytes of a record: all kinds share one layout of fields, of which each uses some.

use super::message::{
    Body, Denial, GrantNumber, Message, MessageError, Path, Probe, RequestFlags, RequestId,
    ResourceName, SlotSet, Successor, Transaction, ValueBlock, Wanted,
};
use super::{Epoch, Mode, NodeId, SLOT_BYTES};
use crate::{BufferTooSmall, claim};

const LONG_BYTES: usize = 2 * SLOT_BYTES;

/// The fields of a record, as they lie in it. Which of them a kind uses is said where it is taken apart and put together.
#[derive(Clone, Copy, Default)]
struct Flat {
    kind: u8,
    bits: u8,
    mode: Mode,
    second: u8,
    flags: u16,
    node: u16,
    grant: u64,
    request: u32,
    count: u32,
    extra: u64,
    sequence: u64,
    long: Option<[u8; SLOT_BYTES]>,
}

/// A value block, valid or not, is there.
const BIT_VALUE: u8 = 1;
/// It is valid: its bytes are in the second slot.
const BIT_VALID: u8 = 1 << 1;
/// What the kind's yes-or-no says; in a report, that a request is there.
const BIT_FIRST: u8 = 1 << 2;
/// A successor is there; of a probe, that it confirms.
const BIT_OTHER: u8 = 1 << 3;

impl Flat {
    const fn of(kind: u8) -> Self {
        Self {
            kind,
            bits: 0,
            mode: Mode::Nl,
            second: 0,
            flags: 0,
            node: 0,
            grant: 0,
            request: 0,
            count: 0,
            extra: 0,
            sequence: 0,
            long: None,
        }
    }

    const fn bit(mut self, bit: u8, set: bool) -> Self {
        if set {
            self.bits |= bit;
        }
        self
    }

    const fn value(mut self, value: Option<ValueBlock>) -> Self {
        match value {
            None => {}
            Some(ValueBlock::Invalid) => self.bits |= BIT_VALUE,
            Some(ValueBlock::Valid { sequence, bytes }) => {
                self.bits |= BIT_VALUE | BIT_VALID;
                self.sequence = sequence;
                self.long = Some(bytes);
            }
        }
        self
    }

    fn set(mut self, slots: SlotSet) -> Self {
        self.node = slots.first;
        self.long(slots.words)
    }

    fn long(mut self, words: [u64; 8]) -> Self {
        let mut long = [0; SLOT_BYTES];
        for (part, word) in long.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        self.long = Some(long);
        self
    }

    fn path(mut self, path: Path) -> Self {
        self.second = path.length;
        self.long(path.named.map(|transaction| transaction.0))
    }

    fn probe(mut self, waiter: NodeId, probe: Probe) -> Self {
        self.node = waiter.0;
        self.mode = probe.mode;
        self.count = probe.round;
        self.extra = probe.origin.0;
        self.sequence = probe.signature;
        if let Some((at, expected)) = probe.confirms {
            self.flags = at;
            self.grant = expected;
        }
        self.bit(BIT_OTHER, probe.confirms.is_some())
            .path(probe.path)
    }

    fn wanted(mut self, wanted: Wanted) -> Self {
        self.request = wanted.request.0;
        self.mode = wanted.mode;
        self.second = wanted.floor as u8;
        self.flags = wanted.flags.0;
        self.extra = wanted.transaction.0;
        self
    }

    const fn hold(mut self, grant: GrantNumber, mode: Mode) -> Self {
        self.grant = grant.0;
        self.mode = mode;
        self
    }

    const fn kept(mut self, mode: Mode) -> Self {
        self.second = mode as u8;
        self
    }

    const fn request(mut self, request: RequestId) -> Self {
        self.request = request.0;
        self
    }

    const fn grant(mut self, grant: GrantNumber) -> Self {
        self.grant = grant.0;
        self
    }
}

impl From<&Body> for Flat {
    fn from(body: &Body) -> Self {
        match *body {
            Body::Request(wanted) => Self::of(1).wanted(wanted),
            Body::Cancel { request } => Self::of(2).request(request),
            Body::Grant {
                request,
                mode,
                previous,
                grant,
                value,
            } => Self::of(3)
                .request(request)
                .hold(grant, mode)
                .kept(previous)
                .value(Some(value)),
            Body::Deny {
                request,
                reason,
                other,
            } => Self {
                second: reason as u8,
                extra: other.0,
                ..Self::of(4).request(request)
            },
            Body::Block {
                grant,
                wanted,
                only_idle,
                request,
                successor,
            } => {
                let mut flat = Self::of(5).hold(grant, wanted).request(request);
                if let Some(successor) = successor {
                    flat.node = successor.node.0;
                    flat.extra = successor.grant.0;
                }
                flat.bit(BIT_FIRST, only_idle)
                    .bit(BIT_OTHER, successor.is_some())
            }
            Body::Busy { grant, request } => Self::of(6).grant(grant).request(request),
            Body::Demote { grant, mode, value } => Self::of(7).hold(grant, mode).value(value),
            Body::Hand {
                request,
                mode,
                kept,
                grant,
                is_newer,
                value,
            } => Self::of(8)
                .request(request)
                .hold(grant, mode)
                .kept(kept)
                .bit(BIT_FIRST, is_newer)
                .value(Some(value)),
            Body::Taken {
                grant,
                mode,
                kept,
                value,
            } => Self::of(9).hold(grant, mode).kept(kept).value(value),
            Body::Settled { grant } => Self::of(10).grant(grant),
            Body::Ask { grant } => Self::of(11).grant(grant),
            Body::Kept { grant } => Self::of(12).grant(grant),
            Body::Handed { grant, kept, value } => {
                Self::of(13).grant(grant).kept(kept).value(Some(value))
            }
            ref other => Self::of_recovery(other),
        }
    }
}

impl Flat {
    /// The rest of the kinds: recovery, sequences, deadlocks.
    fn of_recovery(body: &Body) -> Self {
        match *body {
            Body::Collect(slots) => Self::of(14).set(slots),
            Body::Report {
                mode,
                grant,
                wanted,
                value,
            } => {
                let mut flat = Self::of(15).value(value);
                if let Some(wanted) = wanted {
                    flat = flat.wanted(wanted);
                    flat.count = u32::from(wanted.mode as u8);
                }
                flat.hold(grant, mode).bit(BIT_FIRST, wanted.is_some())
            }
            Body::Legacy {
                retained,
                dead,
                value,
            } => Self {
                mode: retained,
                extra: dead,
                ..Self::of(16).value(value)
            },
            Body::Doubt { slot, dead } => Self {
                node: slot,
                extra: dead,
                ..Self::of(17)
            },
            Body::Reported { slots } => Self::of(18).set(slots),
            Body::Ceded { slots } => Self::of(19).set(slots),
            Body::Draw { request, count } => Self {
                count,
                ..Self::of(20).request(request)
            },
            Body::Drawn {
                request,
                first,
                count,
            } => Self {
                count,
                ..Self::of(21).request(request).grant(first)
            },
            Body::ProbeMaster {
                waiter,
                request,
                probe,
            } => Self::of(22).request(request).probe(waiter, probe),
            Body::ProbeNode {
                queued,
                waiter,
                probe,
            } => Self::of(23).probe(waiter, probe).bit(BIT_FIRST, queued),
            Body::Passed {
                successor,
                request,
                grant,
                value,
            } => Self {
                node: successor.0,
                ..Self::of(24)
                    .request(request)
                    .grant(grant)
                    .value(Some(value))
            },
            // All others were put together by the caller.
            _ => Self::of(0),
        }
    }

    fn to_value(self) -> Result<Option<ValueBlock>, MessageError> {
        match (self.bits & BIT_VALUE != 0, self.bits & BIT_VALID != 0) {
            (false, false) => Ok(None),
            (true, false) => Ok(Some(ValueBlock::Invalid)),
            (true, true) => Ok(Some(ValueBlock::Valid {
                sequence: self.sequence,
                bytes: self.long.ok_or(MessageError::Length(SLOT_BYTES))?,
            })),
            (false, true) => Err(MessageError::BadField("value block")),
        }
    }

    fn to_some_value(self) -> Result<ValueBlock, MessageError> {
        self.to_value()?
            .ok_or(MessageError::BadField("value block"))
    }

    fn to_words(self) -> Result<[u64; 8], MessageError> {
        let long = self.long.ok_or(MessageError::Length(SLOT_BYTES))?;
        let mut words = [0; 8];
        for (word, part) in words.iter_mut().zip(long.chunks_exact(8)) {
            *word = be(part);
        }
        Ok(words)
    }

    fn to_set(self) -> Result<SlotSet, MessageError> {
        Ok(SlotSet {
            first: self.node,
            words: self.to_words()?,
        })
    }

    fn to_path(self) -> Result<Path, MessageError> {
        Ok(Path {
            length: self.second,
            named: self.to_words()?.map(Transaction),
        })
    }

    fn to_probe(self) -> Result<Probe, MessageError> {
        Ok(Probe {
            origin: Transaction(self.extra),
            round: self.count,
            confirms: (self.bits & BIT_OTHER != 0).then_some((self.flags, self.grant)),
            signature: self.sequence,
            mode: self.mode,
            path: self.to_path()?,
        })
    }

    fn to_wanted(self, mode: Mode) -> Result<Wanted, MessageError> {
        if self.flags & !RequestFlags::KNOWN != 0 {
            return Err(MessageError::BadField("flags"));
        }
        Ok(Wanted {
            request: RequestId(self.request),
            mode,
            floor: mode_of(self.second)?,
            flags: RequestFlags(self.flags),
            transaction: Transaction(self.extra),
        })
    }

    fn to_body(self) -> Result<Body, MessageError> {
        let request = RequestId(self.request);
        let grant = GrantNumber(self.grant);
        let mode = self.mode;
        Ok(match self.kind {
            1 => Body::Request(self.to_wanted(mode)?),
            2 => Body::Cancel { request },
            3 => Body::Grant {
                request,
                mode,
                previous: mode_of(self.second)?,
                grant,
                value: self.to_some_value()?,
            },
            4 => Body::Deny {
                request,
                reason: Denial::from_u8(self.second).ok_or(MessageError::BadField("reason"))?,
                other: Transaction(self.extra),
            },
            5 => Body::Block {
                grant,
                wanted: mode,
                only_idle: self.bits & BIT_FIRST != 0,
                request,
                successor: (self.bits & BIT_OTHER != 0).then_some(Successor {
                    node: NodeId(self.node),
                    grant: GrantNumber(self.extra),
                }),
            },
            6 => Body::Busy { grant, request },
            7 => Body::Demote {
                grant,
                mode,
                value: self.to_value()?,
            },
            8 => Body::Hand {
                request,
                mode,
                kept: mode_of(self.second)?,
                grant,
                is_newer: self.bits & BIT_FIRST != 0,
                value: self.to_some_value()?,
            },
            9 => Body::Taken {
                grant,
                mode,
                kept: mode_of(self.second)?,
                value: self.to_value()?,
            },
            10 => Body::Settled { grant },
            11 => Body::Ask { grant },
            12 => Body::Kept { grant },
            13 => Body::Handed {
                grant,
                kept: mode_of(self.second)?,
                value: self.to_some_value()?,
            },
            _ => return self.to_recovery(),
        })
    }

    fn to_recovery(self) -> Result<Body, MessageError> {
        let request = RequestId(self.request);
        Ok(match self.kind {
            14 => Body::Collect(self.to_set()?),
            15 => {
                let wanted = if self.bits & BIT_FIRST == 0 {
                    None
                } else {
                    let number =
                        u8::try_from(self.count).map_err(|_| MessageError::BadField("mode"))?;
                    Some(self.to_wanted(mode_of(number)?)?)
                };
                Body::Report {
                    mode: self.mode,
                    grant: GrantNumber(self.grant),
                    wanted,
                    value: self.to_value()?,
                }
            }
            16 => Body::Legacy {
                retained: self.mode,
                dead: self.extra,
                value: self.to_value()?,
            },
            17 => Body::Doubt {
                slot: self.node,
                dead: self.extra,
            },
            18 => Body::Reported {
                slots: self.to_set()?,
            },
            19 => Body::Ceded {
                slots: self.to_set()?,
            },
            20 => Body::Draw {
                request,
                count: self.count,
            },
            21 => Body::Drawn {
                request,
                first: GrantNumber(self.grant),
                count: self.count,
            },
            22 => Body::ProbeMaster {
                waiter: NodeId(self.node),
                request,
                probe: self.to_probe()?,
            },
            23 => Body::ProbeNode {
                queued: self.bits & BIT_FIRST != 0,
                waiter: NodeId(self.node),
                probe: self.to_probe()?,
            },
            24 => Body::Passed {
                successor: NodeId(self.node),
                request,
                grant: GrantNumber(self.grant),
                value: self.to_some_value()?,
            },
            unknown => return Err(MessageError::UnknownKind(unknown)),
        })
    }
}

const fn mode_of(number: u8) -> Result<Mode, MessageError> {
    match Mode::from_u8(number) {
        Some(mode) => Ok(mode),
        None => Err(MessageError::BadField("mode")),
    }
}

/// A number from up to eight bytes, the most significant first.
fn be(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The same in the width of the field, which its bytes cannot exceed.
fn be32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn be16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u16::from(*byte))
}

impl Message {
    /// Bytes that it takes: one slot, or two.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match Flat::from(&self.body).long {
            None => SLOT_BYTES,
            Some(_) => LONG_BYTES,
        }
    }

    /// Writes it, and returns the bytes that it took.
    ///
    /// # Errors
    /// If the buffer is too small.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let flat = Flat::from(&self.body);
        let len_bytes = if flat.long.is_some() {
            LONG_BYTES
        } else {
            SLOT_BYTES
        };
        let out = claim(out, len_bytes)?;
        out[0] = flat.kind;
        out[1] = flat.bits;
        out[2] = flat.mode as u8;
        out[3] = flat.second;
        out[4..6].copy_from_slice(&flat.flags.to_be_bytes());
        out[6..8].copy_from_slice(&flat.node.to_be_bytes());
        out[8..16].copy_from_slice(&self.term.0.to_be_bytes());
        out[16..32].copy_from_slice(&self.resource.0);
        out[32..40].copy_from_slice(&flat.grant.to_be_bytes());
        out[40..44].copy_from_slice(&flat.request.to_be_bytes());
        out[44..48].copy_from_slice(&flat.count.to_be_bytes());
        out[48..56].copy_from_slice(&flat.extra.to_be_bytes());
        out[56..64].copy_from_slice(&flat.sequence.to_be_bytes());
        if let Some(long) = &flat.long {
            out[SLOT_BYTES..].copy_from_slice(long);
        }
        Ok(len_bytes)
    }

    /// Reads a record of exactly one or two slots.
    ///
    /// # Errors
    /// If it has another length, is of an unknown kind, or a field is out of range.
    pub fn parse(record: &[u8]) -> Result<Self, MessageError> {
        let long = match record.len() {
            SLOT_BYTES => None,
            LONG_BYTES => {
                let mut long = [0; SLOT_BYTES];
                long.copy_from_slice(&record[SLOT_BYTES..]);
                Some(long)
            }
            other => return Err(MessageError::Length(other)),
        };
        let mut resource = ResourceName::default();
        resource.0.copy_from_slice(&record[16..32]);
        let flat = Flat {
            kind: record[0],
            bits: record[1],
            mode: mode_of(record[2])?,
            second: record[3],
            flags: be16(&record[4..6]),
            node: be16(&record[6..8]),
            grant: be(&record[32..40]),
            request: be32(&record[40..44]),
            count: be32(&record[44..48]),
            extra: be(&record[48..56]),
            sequence: be(&record[56..64]),
            long,
        };
        let message = Self {
            term: Epoch(be(&record[8..16])),
            resource,
            body: flat.to_body()?,
        };
        if Flat::from(&message.body).long.is_some() != long.is_some() {
            return Err(MessageError::Length(record.len()));
        }
        Ok(message)
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
