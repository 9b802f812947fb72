//! How a blade's machine breaks the rules, to show that the checkers notice. The blade is the production one all the same:
//! what it sees, or what is made of its answers, is forged so that a rule does not work, as if it were switched off.

use std::collections::HashMap;

use crate::bytes::{self, ARGS, DATA, Mac};

/// Which rule does not work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breach {
    /// All do.
    #[default]
    None,
    /// Copies look like requests of their own, as if the memory for them were off (S6).
    CopiesForgotten,
    /// Every write has its sender's present session, as if none were ever void (S5).
    SessionsIgnored,
    /// Who attaches speaks for the MAC that it asks with alone, as if it had listed no others (S5).
    StationsForgotten,
    /// Who attaches seems to know no births (S10).
    BirthsForgotten,
    /// FORCE-SET is taken whatever epoch is in force (S8).
    ForceAllowed,
    /// A SET is answered as soon as it comes (S9).
    BarrierOff,
    /// Every SET looks newer than all before (S8).
    EpochsIgnored,
    /// What is lost is not told (S7).
    MarkStuck,
    /// What was made durable is forgotten at a restart, but for the session numbers.
    Amnesia,
    /// Frames that wait are taken the last first.
    LastFirst,
    /// Whoever asks is admitted by the mask.
    MaskOff,
    /// One station may have everything.
    BuffersUnlimited,
    /// Some sectors are written with a byte changed.
    Torn,
    /// Some operations of the disk never end.
    DiskStuck,
}

/// What is made of a request.
#[derive(Debug, Default)]
pub(crate) struct Forged {
    /// What the blade sees instead.
    pub(crate) request: Option<Vec<u8>>,
    /// What is answered besides.
    pub(crate) answer: Option<Vec<u8>>,
}

/// Who forges.
#[derive(Debug)]
pub(crate) struct Forger {
    breach: Breach,
    count: u32,
    /// By source: the session that it was given last.
    sessions: HashMap<Mac, u16>,
    /// The tag that a forged one stands for.
    tags: HashMap<u32, u32>,
    /// By tag: the session that the sender believes in.
    believed: HashMap<u32, u16>,
}

/// The station that the mask is made to see instead of one that it does not admit.
const ADMITTED: Mac = [2, 0, 0, 0, 0xcc, 0x50];
/// Whom it does not admit in the scenarios.
const SHUT_OUT: Mac = [2, 0, 0, 0, 0xcc, 0x60];

impl Forger {
    pub(crate) fn new(breach: Breach) -> Self {
        Self {
            breach,
            count: 0,
            sessions: HashMap::new(),
            tags: HashMap::new(),
            believed: HashMap::new(),
        }
    }

    pub(crate) fn request(&mut self, frame: &[u8]) -> Forged {
        let mut forged = Forged::default();
        let Some(fields) = bytes::parse(frame).filter(|fields| !fields.response) else {
            return forged;
        };
        let writes = fields.write_request().is_some();
        let operation = bytes::vendor(frame).map(|vendor| vendor.operation);
        let reserves = operation == Some(bytes::RESERVE);
        let attaches = operation == Some(bytes::ATTACH);
        self.count += 1;
        match self.breach {
            Breach::CopiesForgotten if writes => {
                let tag = 0xf000_0000 | self.count << 4;
                self.tags.insert(tag, fields.tag);
                let mut request = frame.to_vec();
                request[20..24].copy_from_slice(&tag.to_be_bytes());
                forged.request = Some(request);
            }
            Breach::SessionsIgnored => {
                if let (Some(ata), Some(now)) = (fields.ata, self.sessions.get(&fields.src)) {
                    self.believed.insert(fields.tag, ata.session);
                    let mut request = frame.to_vec();
                    request[34..36].copy_from_slice(&now.to_be_bytes());
                    forged.request = Some(request);
                }
            }
            Breach::StationsForgotten if attaches => {
                let mut request = frame[..ARGS + 48].to_vec();
                request[ARGS + 22..ARGS + 24].fill(0);
                forged.request = Some(request);
            }
            Breach::BirthsForgotten if attaches => {
                let mut request = frame.to_vec();
                request[ARGS + 8..ARGS + 12].copy_from_slice(&bytes::EPOCHS.to_be_bytes());
                request[ARGS + 44..ARGS + 48].fill(0);
                forged.request = Some(request);
            }
            Breach::BarrierOff if reserves => {
                let mut answer = frame.to_vec();
                answer[..6].copy_from_slice(&fields.src);
                answer[6..12].copy_from_slice(&fields.dst);
                answer[14] |= 0x08;
                forged.answer = Some(answer);
            }
            Breach::EpochsIgnored if reserves => {
                let mut request = frame.to_vec();
                let asked = u32::from_be_bytes([frame[52], frame[53], frame[54], frame[55]]);
                self.tags.insert(fields.tag, asked);
                let epoch = 1_000_000 + u64::from(self.count);
                request[ARGS + 24..ARGS + 32].copy_from_slice(&epoch.to_be_bytes());
                forged.request = Some(request);
            }
            Breach::MaskOff if fields.src == SHUT_OUT => {
                let mut request = frame.to_vec();
                request[6..12].copy_from_slice(&ADMITTED);
                request[20] = 0xe0;
                forged.request = Some(request);
            }
            Breach::Torn if writes && self.count.is_multiple_of(64) => {
                let mut request = frame.to_vec();
                request[DATA + 300] ^= 1;
                forged.request = Some(request);
            }
            _ => {}
        }
        forged
    }

    /// Undoes in an answer what was forged in its request.
    pub(crate) fn answer(&mut self, frame: &mut [u8]) {
        let Some(fields) = bytes::parse(frame) else {
            return;
        };
        match self.breach {
            Breach::CopiesForgotten => {
                if let Some(tag) = self.tags.remove(&fields.tag) {
                    frame[20..24].copy_from_slice(&tag.to_be_bytes());
                }
            }
            Breach::SessionsIgnored => {
                if let Some(vendor) = bytes::vendor(frame)
                    && vendor.operation == bytes::ATTACH
                    && vendor.status == 0
                {
                    self.sessions.insert(fields.dst, vendor.session);
                }
                if fields.ata.is_some()
                    && let Some(session) = self.believed.get(&fields.tag)
                {
                    frame[34..36].copy_from_slice(&session.to_be_bytes());
                }
            }
            Breach::EpochsIgnored => {
                if let Some(vendor) = bytes::vendor(frame)
                    && vendor.operation == bytes::RESERVE
                    && let Some(epoch) = self.tags.get(&fields.tag)
                {
                    frame[ARGS + 24..ARGS + 32].copy_from_slice(&u64::from(*epoch).to_be_bytes());
                }
            }
            Breach::MaskOff if frame[20] == 0xe0 => {
                frame[..6].copy_from_slice(&SHUT_OUT);
                frame[20] = 0;
            }
            _ => {}
        }
    }
}
