//! A target in memory, seen as a link: what is transmitted is answered at once, and received in a later turn.
//!
//! It does no I/O and allocates nothing after its start, so that what is measured over it is the engine alone.
//! Blocks read hold whatever the answer's buffer held before: data is not its business.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use sandrail_link::{Link, LinkCounters, LinkInfo, TransmitError};
use sandrail_proto::time::Instant;
use sandrail_wire::aoe::{AtaRepr, Body, ConfigCommand, ConfigRepr, Repr, VERSION};
use sandrail_wire::ata::{Identify, IdentifyString, SECTOR_BYTES};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, FrameRef, MacAddr, TargetAddr};

/// The longest frame at an MTU of 9000.
pub const FRAME_BYTES_MAX: usize = 9014;
/// Answers that may wait.
const ANSWERS_MAX: usize = 256;
/// DRDY: an ATA command that went well.
const STATUS_READY: u8 = 0x40;
const COMMAND_IDENTIFY: u8 = 0xec;
const COMMAND_READ_EXT: u8 = 0x24;

/// What a target says to each request.
#[derive(Debug)]
pub struct Answers {
    mac: MacAddr,
    identify: [u8; SECTOR_BYTES],
}

impl Answers {
    /// Of the target [`BladeLink::ADDR`] at this MAC.
    ///
    /// # Panics
    /// Never: the texts of IDENTIFY are constants.
    #[must_use]
    pub fn new(mac: MacAddr) -> Self {
        let mut identify = [0; SECTOR_BYTES];
        Identify {
            sectors: BladeLink::SECTORS,
            lba48: true,
            flush: true,
            flush_ext: true,
            write_cache: false,
            power_management: false,
            trim_blocks_max: None,
            sandrail: None,
            model: IdentifyString::new("in memory").expect("a short text"),
            serial: IdentifyString::new("0").expect("a short text"),
            firmware: IdentifyString::new("1").expect("a short text"),
        }
        .emit(&mut identify);
        Self { mac, identify }
    }

    /// Writes the answer to a request, of which only the headers are looked at, and tells its length; `None` when there is
    /// none to give. Of a READ's sectors only the place is left.
    #[must_use]
    pub fn answer(&self, header: &[u8], out: &mut [u8]) -> Option<usize> {
        let (ethernet, at) = EthernetRepr::parse(header).ok()?;
        let request = Repr::parse(&header[at..]).ok()?;
        let asked = request.addr == BladeLink::ADDR || request.addr == TargetAddr::BROADCAST;
        if ethernet.ethertype != EtherType::AOE || request.response || !asked {
            return None;
        }
        let (body, data_bytes) = match request.body {
            Body::Config(_) => {
                let config = ConfigRepr {
                    buffer_count: 128,
                    firmware: 1,
                    sectors_max: 17,
                    aoe_version: VERSION,
                    command: ConfigCommand::Read,
                    string: &[],
                };
                (Body::Config(config), 0)
            }
            Body::Ata(ata) => {
                let sectors = match ata.command_status {
                    COMMAND_IDENTIFY => 1,
                    COMMAND_READ_EXT => usize::from(ata.count),
                    _ => 0,
                };
                let done = AtaRepr {
                    count: 0,
                    command_status: STATUS_READY,
                    error_feature: 0,
                    write: false,
                    ..ata
                };
                (Body::Ata(done), sectors * SECTOR_BYTES)
            }
            _ => return None,
        };
        let answer = Repr {
            response: true,
            addr: BladeLink::ADDR,
            body,
            ..request
        };
        let back = EthernetRepr {
            dst: ethernet.src,
            src: self.mac,
            ..ethernet
        };
        let mut end = back.emit(out).ok()?;
        end += answer.emit(&mut out[end..]).ok()?;
        if matches!(request.body, Body::Ata(ata) if ata.command_status == COMMAND_IDENTIFY) {
            out[end..end + SECTOR_BYTES].copy_from_slice(&self.identify);
        }
        Some((end + data_bytes).max(60))
    }
}

/// The link with the target behind it.
#[derive(Debug)]
pub struct BladeLink {
    info: LinkInfo,
    /// Answers that wait to be received, as places in `frames`.
    waiting: VecDeque<usize>,
    free: Vec<usize>,
    frames: Vec<(usize, Box<[u8; FRAME_BYTES_MAX]>)>,
    answers: Answers,
    /// Answers are handed over only when as many wait.
    burst: usize,
    unsent: bool,
    lose: usize,
    refused: u64,
    counters: LinkCounters,
}

impl BladeLink {
    /// The target's address.
    pub const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
    /// The target's MAC.
    pub const MAC: MacAddr = MacAddr([2, 0x5a, 0, 0, 0, 0xb]);
    /// The target's size, in sectors: 64 MiB.
    pub const SECTORS: u64 = 1 << 17;
    /// The initiator's MAC.
    const NEAR_MAC: MacAddr = MacAddr([2, 0x5a, 0, 0, 0, 0xa]);

    /// A link whose answers arrive in bursts of `burst`.
    ///
    /// # Panics
    /// When a burst exceeds what may wait.
    #[must_use]
    pub fn new(burst: usize) -> Self {
        assert!((1..=ANSWERS_MAX).contains(&burst), "a burst of 1 to 256");
        Self {
            info: LinkInfo {
                interface: "memory".to_owned(),
                mac: Self::NEAR_MAC,
                mtu_bytes: 9000,
                queue: 0,
                mode: "memory".to_owned(),
            },
            waiting: VecDeque::with_capacity(ANSWERS_MAX),
            free: (0..ANSWERS_MAX).collect(),
            frames: (0..ANSWERS_MAX)
                .map(|_| (0, Box::new([0; FRAME_BYTES_MAX])))
                .collect(),
            answers: Answers::new(Self::MAC),
            burst,
            unsent: false,
            lose: 0,
            refused: 0,
            counters: LinkCounters::default(),
        }
    }

    /// From now on answers arrive in bursts of `burst`.
    pub fn set_burst(&mut self, burst: usize) {
        self.burst = burst;
    }

    /// Loses the next `count` answers.
    pub fn lose(&mut self, count: usize) {
        self.lose = count;
    }

    /// Frames that were no request that this target knows.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Link for BladeLink {
    fn info(&self) -> &LinkInfo {
        &self.info
    }

    fn receive(
        &mut self,
        _now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        if self.waiting.len() < self.burst {
            return 0;
        }
        let mut delivered = 0;
        while delivered < frames_max {
            let Some(place) = self.waiting.pop_front() else {
                break;
            };
            let (len_bytes, frame) = &self.frames[place];
            sink(FrameRef::new(&frame[..*len_bytes]));
            self.free.push(place);
            delivered += 1;
            self.counters.rx_frames += 1;
        }
        delivered
    }

    fn transmit_room(&mut self) -> usize {
        self.free.len()
    }

    fn transmit(
        &mut self,
        _now: Instant,
        header: &[u8],
        _payload: &[u8],
    ) -> Result<(), TransmitError> {
        let place = self.free.pop().ok_or(TransmitError::Full)?;
        self.counters.tx_frames += 1;
        self.unsent = true;
        let lost = self.lose > 0;
        self.lose -= usize::from(lost);
        match self.answers.answer(header, &mut self.frames[place].1[..]) {
            Some(len_bytes) if !lost => {
                self.frames[place].0 = len_bytes;
                self.waiting.push_back(place);
            }
            answer => {
                self.refused += u64::from(answer.is_none());
                self.free.push(place);
            }
        }
        Ok(())
    }

    fn flush(&mut self, _now: Instant) {
        self.counters.tx_kicks += u64::from(std::mem::take(&mut self.unsent));
    }

    fn completed(&self) -> u64 {
        self.counters.tx_frames
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }

    fn prepare_wait(&mut self) -> bool {
        self.waiting.len() < self.burst
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters
    }
}
