//! Rules kept from working from outside, by frames that are changed on their way: the checker must see each of it.

use sandrail_wire::lock::{FrameWriter, LockFrame, LockHeader, MacKey, Seal, Sequence};

use super::{EPOCH, FROM_INCARNATION, SLOT_COUNT, TO_INCARNATION, number};

/// A rule that does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Receivers no longer know what they had: a copy comes as news.
    Duplicates,
    /// Senders believe that everything has arrived.
    Acknowledgements,
    /// Records of a frame change places.
    Order,
    /// Frames of older epochs pass for current ones.
    Epochs,
    /// Frames for an earlier life pass for current ones.
    Lives,
    /// Senders are given credits that nobody has.
    Credits,
    /// Bytes are damaged below the checksum.
    Damage,
    /// Greetings do not arrive.
    Greetings,
}

impl Sabotage {
    pub(crate) const ALL: [Self; 8] = [
        Self::Duplicates,
        Self::Acknowledgements,
        Self::Order,
        Self::Epochs,
        Self::Lives,
        Self::Credits,
        Self::Damage,
        Self::Greetings,
    ];
}

/// Changes frames as a broken rule would treat them.
pub(crate) struct Forge {
    sabotage: Option<Sabotage>,
    seal: Seal,
    /// How far each direction has been sent, as an eavesdropper sees it: by the sender's and the receiver's life.
    sent: Vec<((u64, u64, u64), Sequence)>,
}

impl Forge {
    pub(crate) fn new(sabotage: Option<Sabotage>, key: Option<MacKey>) -> Self {
        Self {
            sabotage,
            seal: Seal::new(crc32c::crc32c, key),
            sent: Vec::new(),
        }
    }

    /// A frame as it leaves.
    pub(crate) fn transmit(&mut self, frame: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
        let Some(parsed) = self.open(frame) else {
            return frame.to_vec();
        };
        let mut header = *parsed.header();
        let mut records: Vec<&[u8]> = parsed.records().collect();
        let end = header.sequence.plus(parsed.slot_count() as u64);
        self.note(&header, end);
        match self.sabotage {
            Some(Sabotage::Order) if records.len() > 1 && records[0].len() == records[1].len() => {
                records.swap(0, 1);
            }
            Some(Sabotage::Acknowledgements) if header.to.incarnation.is_known() => {
                header.ack = self.reached(&header).unwrap_or(header.ack);
                return self.seal(&header, &[], &records);
            }
            Some(Sabotage::Credits) => header.credits = u16::MAX,
            Some(Sabotage::Damage) if !records.is_empty() && rng.u8(..8) == 0 => {
                let mut bytes = records[0].to_vec();
                bytes[63] ^= 0x40;
                let sacks: Vec<u64> = parsed.sacks().collect();
                let mut damaged = vec![bytes.as_slice()];
                damaged.extend(&records[1..]);
                return self.seal(&header, &sacks, &damaged);
            }
            Some(Sabotage::Greetings) if !header.to.incarnation.is_known() => {
                header.cluster.0 += 1;
            }
            _ => {}
        }
        let sacks: Vec<u64> = parsed.sacks().collect();
        self.seal(&header, &sacks, &records)
    }

    /// A frame as it arrives at a station of this life in this epoch.
    pub(crate) fn receive(
        &mut self,
        frame: &[u8],
        incarnation: u64,
        epoch: u64,
        rng: &mut fastrand::Rng,
    ) -> Vec<Vec<u8>> {
        let whole = vec![frame.to_vec()];
        let Some(parsed) = self.open(frame) else {
            return whole;
        };
        let mut header = *parsed.header();
        let records: Vec<&[u8]> = parsed.records().collect();
        let sacks: Vec<u64> = parsed.sacks().collect();
        match self.sabotage {
            Some(Sabotage::Duplicates) if frame[SLOT_COUNT] > 0 && rng.u8(..8) == 0 => {
                header.sequence = header.sequence.plus(parsed.slot_count() as u64);
                vec![frame.to_vec(), self.seal(&header, &sacks, &records)]
            }
            Some(Sabotage::Epochs) if number(frame, EPOCH) < epoch => {
                header.epoch.0 = epoch;
                vec![self.seal(&header, &sacks, &records)]
            }
            Some(Sabotage::Lives) if ![0, incarnation].contains(&number(frame, TO_INCARNATION)) => {
                header.to.incarnation.0 = incarnation;
                vec![self.seal(&header, &sacks, &records)]
            }
            _ => whole,
        }
    }

    fn open<'a>(&self, frame: &'a [u8]) -> Option<LockFrame<'a>> {
        self.sabotage?;
        LockFrame::parse(frame, &self.seal).ok()
    }

    fn seal(&self, header: &LockHeader, sacks: &[u64], records: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![0; 4000];
        let mut writer = FrameWriter::new(&mut out, header, sacks, &self.seal).expect("room");
        for record in records {
            assert!(writer.push(record));
        }
        let len = writer.finish();
        assert!(number(&out, FROM_INCARNATION) != 0);
        out.truncate(len);
        out
    }

    fn note(&mut self, header: &LockHeader, end: Sequence) {
        let key = way(
            header.from.node.0,
            header.from.incarnation.0,
            header.to.incarnation.0,
        );
        match self.sent.iter_mut().find(|(known, _)| *known == key) {
            Some((_, reached)) if end.since(*reached) < 1 << 63 => *reached = end,
            Some(_) => {}
            None => self.sent.push((key, end)),
        }
    }

    /// How far the receiver of this frame has sent to its sender.
    fn reached(&self, header: &LockHeader) -> Option<Sequence> {
        let key = way(
            header.to.node.0,
            header.to.incarnation.0,
            header.from.incarnation.0,
        );
        let found = self.sent.iter().find(|(known, _)| *known == key);
        found.map(|(_, reached)| *reached)
    }
}

fn way(from: u16, from_incarnation: u64, to_incarnation: u64) -> (u64, u64, u64) {
    (u64::from(from), from_incarnation, to_incarnation)
}
