//! An initiator, a disk in memory, and between them a wire that the test operates by hand.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "test data; no test uses all of it"
)]

pub mod speaker;

use core::time::Duration;
use std::collections::VecDeque;

use sandrail_proto::aoe::initiator::*;
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, Lba, MacAddr, TargetAddr};
use speaker::Speaker;

pub const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
pub const WIRE: InterfaceId = InterfaceId(0);
pub const SECTORS: u64 = 256;
pub const FLUSH: u8 = 0xe7;

/// The MAC of our interface `number`.
pub fn ours(number: u8) -> MacAddr {
    let mut mac = OURS;
    mac.0[4] = number;
    mac
}

/// The number of our interface with that MAC.
pub fn interface_of(mac: &[u8]) -> u8 {
    if mac.len() == 6 && mac[5] == OURS.0[5] {
        mac[4]
    } else {
        0
    }
}

/// What a target sends when it starts.
pub fn advertisement() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(THEIRS.0);
    frame.extend([
        0x88, 0xa2, 0x08, 0, 0, 7, 3, 1, 0, 0, 0, 0, 0, 16, 0x40, 0x19, 17, 0x10, 0, 0,
    ]);
    frame
}

/// Executes frames one at a time, like vblade; bytes by hand, so that a mistake in the codec does not cancel out.
pub struct Disk {
    pub addr: TargetAddr,
    pub data: Vec<u8>,
    /// As of the last flush.
    pub flushed: Vec<u8>,
    pub claims_flush: bool,
    pub reserved: bool,
    pub longest_frame: usize,
    pub buffer_count: u8,
    pub sectors_max: u8,
    /// No 48-bit addresses.
    pub lba28: bool,
    /// Reads of sector 0 fail.
    pub bad_first_sector: bool,
    /// It announces sessions, and keeps to them.
    pub speaker: Option<Speaker>,
}

impl Disk {
    pub fn new() -> Self {
        Self {
            addr: ADDR,
            data: vec![0; SECTORS as usize * 512],
            flushed: vec![0; SECTORS as usize * 512],
            claims_flush: false,
            reserved: false,
            longest_frame: 9014,
            buffer_count: 16,
            sectors_max: 17,
            lba28: false,
            bad_first_sector: false,
            speaker: None,
        }
    }

    fn refuses_session(&self, frame: &[u8]) -> bool {
        let writes = matches!(frame[27], 0x34 | 0xea | FLUSH);
        let speaker = self.speaker.as_ref().filter(|_| writes);
        speaker.is_some_and(|speaker| !speaker.is_valid(frame))
    }

    /// Power fails: what was not flushed is gone, and the sessions with it.
    pub fn lose_power(&mut self) {
        self.data.clone_from(&self.flushed);
        let speaker = self.speaker.as_mut().unwrap();
        speaker.loss_mark += 1;
        speaker.sessions.clear();
    }

    pub fn serve(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let addr = [0, self.addr.shelf as u8, self.addr.slot];
        let ours = frame[16..19] == addr || frame[16..19] == [0xff; 3];
        if frame.len() > self.longest_frame || frame[12..14] != [0x88, 0xa2] || !ours {
            return None;
        }
        let mut reply = frame.to_vec();
        reply[..6].copy_from_slice(&frame[6..12]);
        reply[6..12].copy_from_slice(&THEIRS.0);
        reply[14] |= 0x08;
        reply[16..19].copy_from_slice(&addr);
        match frame[19] {
            1 => {
                reply.truncate(32);
                reply[24..32].copy_from_slice(&[
                    0,
                    self.buffer_count,
                    0x40,
                    0x19,
                    self.sectors_max,
                    0x10,
                    0,
                    0,
                ]);
            }
            0 if self.reserved && frame[27] != 0xec => {
                reply.truncate(36);
                reply[14] |= 0x04;
                reply[15] = 6;
            }
            0 if frame[27] != 0xec && frame[26] > self.sectors_max => {
                reply.truncate(36);
                reply[14] |= 0x04;
                reply[15] = 2;
            }
            0xf0 => {
                let answer = self.speaker.as_mut()?.answer(frame, &mut reply);
                return answer.then_some(reply);
            }
            0 if self.refuses_session(frame) => {
                reply.truncate(36);
                reply[14] |= 0x04;
                reply[15] = 0x80;
            }
            0 => self.ata(frame, &mut reply),
            _ => return None,
        }
        (reply.len() <= self.longest_frame).then_some(reply)
    }

    pub fn ata(&mut self, frame: &[u8], reply: &mut Vec<u8>) {
        let lba = frame[28..34]
            .iter()
            .rev()
            .fold(0, |lba, byte| lba << 8 | usize::from(*byte));
        let (from, len) = (lba * 512, usize::from(frame[26]) * 512);
        reply.truncate(36);
        reply[26] = 0;
        reply[27] = 0x40;
        match frame[27] {
            0x24 if self.bad_first_sector && lba == 0 => reply[26..28].copy_from_slice(&[1, 0x41]),
            0x24 => reply.extend_from_slice(&self.data[from..from + len]),
            0x34 => self.data[from..from + len].copy_from_slice(&frame[36..36 + len]),
            0xea | FLUSH => self.flushed.clone_from(&self.data),
            0xec => {
                let mut words = [0_u8; 512];
                // vblade says FLUSH, not FLUSH EXT, and does neither.
                let flush = if self.claims_flush { 0x30 } else { 0x10 };
                words[83 * 2 + 1] = 0x44 | flush;
                words[86 * 2 + 1] = 0x04 | flush;
                if self.lba28 {
                    words[83 * 2 + 1] &= !0x04;
                    words[86 * 2 + 1] &= !0x04;
                    words[60 * 2..60 * 2 + 4].copy_from_slice(&[0, 1, 0, 0]);
                }
                words[100 * 2..100 * 2 + 8].copy_from_slice(&SECTORS.to_le_bytes());
                if self.speaker.is_some() {
                    words[258..264].copy_from_slice(b"SRAL\x03\0");
                }
                reply.extend_from_slice(&words);
            }
            _ => {}
        }
    }
}

/// An initiator, its clock, and a wire that the test operates.
pub struct Bench {
    pub initiator: Initiator<Vec<u8>>,
    pub disk: Disk,
    /// More targets at the same station.
    pub others: Vec<Disk>,
    pub now: Instant,
    pub sent: Vec<u64>,
    pub notices: Vec<Notice>,
    pub done: VecDeque<Completion<Vec<u8>>>,
}

impl Bench {
    pub fn new(disk: Disk, config: InitiatorConfig) -> Self {
        Self::with_interfaces(1, disk, config)
    }

    pub fn with_interfaces(count: u8, disk: Disk, config: InitiatorConfig) -> Self {
        let interface = |number| InterfaceConfig {
            mac: ours(number),
            mtu_bytes: 9000,
            vlan: None,
        };
        let interfaces: Vec<_> = (0..count).map(interface).collect();
        let now = Instant::from_nanos(1_000_000);
        let initiator = Initiator::new(config, &interfaces, 1, now).unwrap();
        Self {
            initiator,
            disk,
            others: Vec::new(),
            now,
            sent: vec![0; usize::from(count)],
            notices: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// All frames that the initiator has to send now; they leave the machine at once.
    pub fn take_frames(&mut self) -> Vec<Vec<u8>> {
        (0..self.sent.len() as u8)
            .flat_map(|interface| self.take_frames_of(interface))
            .collect()
    }

    pub fn take_frames_of(&mut self, interface: u8) -> Vec<Vec<u8>> {
        core::iter::from_fn(|| self.take_frame_of(interface)).collect()
    }

    pub fn take_frame_of(&mut self, interface: u8) -> Option<Vec<u8>> {
        let wire = InterfaceId(interface);
        let transmit = self.initiator.poll_transmit(self.now, wire)?;
        let frame = [transmit.header, transmit.payload].concat();
        self.sent[usize::from(interface)] += 1;
        self.initiator
            .handle_sent(self.now, wire, self.sent[usize::from(interface)]);
        Some(frame)
    }

    /// Hands a frame to the interface that it is for; what is for all of them, to the first.
    pub fn give(&mut self, frame: &[u8]) {
        self.give_on(interface_of(&frame[..frame.len().min(6)]), frame);
    }

    pub fn give_on(&mut self, interface: u8, frame: &[u8]) {
        // In pieces, as AF_XDP hands them over.
        let mut pieces = frame.chunks(3840);
        let mut whole = FrameRef::new(pieces.next().unwrap());
        pieces.for_each(|piece| whole.push(piece).unwrap());
        self.initiator
            .handle_frame(self.now, InterfaceId(interface), &whole);
        self.collect();
    }

    /// The station's answer, by whichever of its targets the frame is for.
    pub fn serve(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let disks = core::iter::once(&mut self.disk).chain(&mut self.others);
        disks.into_iter().find_map(|disk| disk.serve(frame))
    }

    pub fn collect(&mut self) {
        while let Some(event) = self.initiator.poll_event() {
            self.done.push_back(event);
        }
        while let Some(notice) = self.initiator.poll_notice() {
            self.notices.push(notice);
        }
    }

    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.initiator.handle_timeout(self.now);
        self.collect();
    }

    /// Lets frames and answers pass until nothing moves; `false` from `passes` loses a frame.
    pub fn pass(&mut self, mut passes: impl FnMut(&[u8]) -> bool) {
        loop {
            let frames = self.take_frames();
            if frames.is_empty() {
                return self.collect();
            }
            for frame in frames {
                if passes(&frame)
                    && let Some(reply) = self.serve(&frame)
                {
                    self.give(&reply);
                }
            }
        }
    }

    /// Passes frames for `span`, waking up whenever the initiator wants to.
    pub fn run(&mut self, span: Duration) {
        self.run_while(span, |_| true);
    }

    /// The same; `false` from `passes` loses a frame.
    pub fn run_while(&mut self, span: Duration, mut passes: impl FnMut(&[u8]) -> bool) {
        let end = self.now + span;
        while self.now < end {
            self.initiator.handle_timeout(self.now);
            self.pass(&mut passes);
            let next = self.initiator.poll_timeout().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(1)).min(end);
        }
        self.initiator.handle_timeout(self.now);
        self.collect();
    }

    pub fn attach(&mut self) -> TargetId {
        self.attach_to(ADDR)
    }

    pub fn attach_to(&mut self, addr: TargetAddr) -> TargetId {
        let id = self
            .initiator
            .attach(self.now, addr, PinnedMacs::first_to_answer())
            .unwrap();
        self.run(Duration::from_millis(500));
        assert!(
            self.initiator.target(id).is_some(),
            "not attached: {:?}",
            self.notices
        );
        id
    }

    pub fn submit(&mut self, target: TargetId, operation: Operation, buffer: Vec<u8>) {
        let request = Request {
            target,
            operation,
            buffer,
            timeout: Duration::from_secs(10),
            user: 0,
        };
        self.initiator.submit(self.now, request).unwrap();
    }

    pub fn write(&mut self, target: TargetId, lba: u64, byte: u8) {
        self.write_sectors(target, lba, 1, byte);
    }

    pub fn write_sectors(&mut self, target: TargetId, lba: u64, sectors: usize, byte: u8) {
        let operation = Operation::Write {
            lba: Lba(lba),
            if_closed: IfClosed::Wait,
        };
        self.submit(target, operation, vec![byte; sectors * 512]);
    }

    pub fn read(&mut self, target: TargetId, lba: u64, sectors: usize) {
        self.submit(
            target,
            Operation::Read { lba: Lba(lba) },
            vec![0; sectors * 512],
        );
    }

    pub fn result(&mut self) -> Result<Outcome, IoError> {
        self.done.pop_front().expect("a completion").result
    }
}
