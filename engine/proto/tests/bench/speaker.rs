//! A target's side of sessions and epochs, with bytes by hand.

use super::MacAddr;

/// Who attached, as which life of which shard.
#[derive(Clone, Debug)]
pub struct Granted {
    pub number: u16,
    pub macs: Vec<[u8; 6]>,
    pub incarnation: u64,
    pub shard: u8,
}

/// What a target with sessions knows.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub sessions: Vec<Granted>,
    pub next: u16,
    pub loss_mark: u64,
    pub remembered_ms: u32,
    /// Answers every attach with this status.
    pub refusal: Option<u8>,
    /// Speaks this version.
    pub version: u8,
    /// Refuses every session that it granted.
    pub knows_none: bool,
    /// Answers no vendor command.
    pub mute: bool,
    pub epoch: u64,
    pub list: Vec<u8>,
    /// Attaches that came, and the list of the last one.
    pub attaches: u32,
    pub stations: Vec<u8>,
}

impl Speaker {
    pub fn new() -> Self {
        Self {
            sessions: Vec::new(),
            next: 0x5301,
            loss_mark: 40,
            remembered_ms: 2000,
            refusal: None,
            version: 1,
            knows_none: false,
            mute: false,
            epoch: 0,
            list: Vec::new(),
            attaches: 0,
            stations: Vec::new(),
        }
    }

    /// Whether a frame's session is valid for who sent it.
    pub fn is_valid(&self, frame: &[u8]) -> bool {
        let number = u16::from_be_bytes([frame[34], frame[35]]);
        let mac: [u8; 6] = frame[6..12].try_into().unwrap();
        let valid = |each: &Granted| each.number == number && each.macs.contains(&mac);
        !self.knows_none && self.sessions.iter().any(valid)
    }

    pub fn number_of(&self, mac: MacAddr) -> Option<u16> {
        let sessions = self.sessions.iter();
        sessions
            .filter(|each| each.macs.contains(&mac.0))
            .map(|each| each.number)
            .next()
    }

    /// Makes the answer of the request; whether there is one.
    pub fn answer(&mut self, frame: &[u8], reply: &mut Vec<u8>) -> bool {
        if self.mute {
            return false;
        }
        assert_eq!(frame[24..29], *b"SRAL\x01");
        reply.truncate(24 + 48);
        reply[46..48].fill(0);
        let mut status = 0;
        if self.version != 1 {
            reply[28..31].copy_from_slice(&[self.version, frame[29], 1]);
            return true;
        }
        let eight = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
        match frame[29] {
            1 => {
                self.attaches += 1;
                let ours_ms = u32::from_be_bytes(frame[64..68].try_into().unwrap());
                let (incarnation, shard) = (eight(36), frame[31]);
                assert_ne!(incarnation, 0);
                let count = usize::from(u16::from_be_bytes([frame[46], frame[47]]));
                self.stations = frame[72..72 + count * 6].to_vec();
                status = self
                    .refusal
                    .unwrap_or(if ours_ms > self.remembered_ms { 3 } else { 0 });
                if status == 0 {
                    let mac = frame[6..12].try_into().unwrap();
                    let number = self.attach(mac, incarnation, shard);
                    reply[44..46].copy_from_slice(&number.to_be_bytes());
                }
            }
            2 => {
                let count = usize::from(u16::from_be_bytes([frame[46], frame[47]]));
                let (epoch, list) = (eight(48), frame[72..72 + count * 6].to_vec());
                if epoch > self.epoch {
                    (self.epoch, self.list) = (epoch, list);
                } else if epoch < self.epoch || list != self.list {
                    status = 7;
                }
                let count = (self.list.len() / 6) as u16;
                reply[46..48].copy_from_slice(&count.to_be_bytes());
                reply.extend_from_slice(&self.list);
            }
            _ => status = 2,
        }
        reply[30] = status;
        reply[48..56].copy_from_slice(&self.epoch.to_be_bytes());
        reply[56..64].copy_from_slice(&self.loss_mark.to_be_bytes());
        reply[64..68].copy_from_slice(&self.remembered_ms.to_be_bytes());
        true
    }

    fn attach(&mut self, mac: [u8; 6], incarnation: u64, shard: u8) -> u16 {
        self.sessions
            .retain(|each| each.incarnation == incarnation || !each.macs.contains(&mac));
        let same = |each: &&mut Granted| each.incarnation == incarnation && each.shard == shard;
        if let Some(known) = self.sessions.iter_mut().find(same) {
            known.macs.push(mac);
            return known.number;
        }
        self.next += 1;
        self.sessions.push(Granted {
            number: self.next,
            macs: vec![mac],
            incarnation,
            shard,
        });
        self.next
    }
}
