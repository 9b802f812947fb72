//! A blade, its disks, and frames by hand: bytes, so that a mistake in the codec does not cancel out.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "test data; no test uses all of it"
)]

pub mod disk;

use core::time::Duration;

use sandrail_proto::aoe::target::*;
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr, TargetAddr};

pub use disk::{Pace, TestDisk};

pub const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
pub const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
pub const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xd]);
pub const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xe]);
pub const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
pub const SECTORS: u64 = 1024;
pub const LIFETIME: Duration = Duration::from_secs(2);

/// Bytes from hexadecimal digits; all else is for the eye.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A frame from `src`: what follows the ethertype as hexadecimal digits.
pub fn frame(src: MacAddr, rest: &str) -> Vec<u8> {
    let mut frame = OURS.0.to_vec();
    frame.extend(src.0);
    frame.extend([0x88, 0xa2]);
    frame.extend(hex(rest));
    frame
}

/// An ATA request with the session in its reserved bytes.
#[derive(Clone, Copy, Debug)]
pub struct Ata {
    pub src: MacAddr,
    pub tag: u32,
    pub flags: u8,
    pub feature: u8,
    pub count: u8,
    pub command: u8,
    pub lba: u64,
    pub session: u16,
}

impl Ata {
    pub fn read(tag: u32, lba: u64, count: u8) -> Self {
        Self {
            src: A,
            tag,
            flags: 0x40,
            feature: 0,
            count,
            command: 0x24,
            lba,
            session: 0,
        }
    }

    pub fn write(tag: u32, lba: u64, count: u8) -> Self {
        Self {
            flags: 0x41,
            command: 0x34,
            ..Self::read(tag, lba, count)
        }
    }

    pub fn flush(tag: u32) -> Self {
        Self {
            command: 0xea,
            ..Self::read(tag, 0, 0)
        }
    }

    pub fn trim(tag: u32) -> Self {
        Self {
            flags: 0x41,
            feature: 1,
            command: 0x06,
            ..Self::read(tag, 0, 1)
        }
    }

    pub fn from(self, src: MacAddr) -> Self {
        Self { src, ..self }
    }

    pub fn under(self, session: u16) -> Self {
        Self { session, ..self }
    }

    /// The frame, with `data` behind.
    pub fn with(self, data: &[u8]) -> Vec<u8> {
        let mut out = frame(self.src, "10 00 0007 03 00");
        out.extend(self.tag.to_be_bytes());
        out.extend([self.flags, self.feature, self.count, self.command]);
        out.extend(&self.lba.to_le_bytes()[..6]);
        out.extend(self.session.to_be_bytes());
        out.extend(data);
        out
    }

    /// The frame, with as many sectors of `byte` as it says.
    pub fn filled(self, byte: u8) -> Vec<u8> {
        self.with(&vec![byte; usize::from(self.count) * 512])
    }

    pub fn bare(self) -> Vec<u8> {
        self.with(&[])
    }
}

/// A TRIM's sector of ranges.
pub fn ranges(list: &[(u64, u16)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (lba, sectors) in list {
        data.extend(&lba.to_le_bytes()[..6]);
        data.extend(sectors.to_le_bytes());
    }
    data.resize(512, 0);
    data
}

/// An attach by the vendor command.
pub fn attach(src: MacAddr, tag: u32, incarnation: u64, shard: u8) -> Vec<u8> {
    attach_of(src, tag, incarnation, shard, &[])
}

/// The same, with the MACs of the whole process.
pub fn attach_of(
    src: MacAddr,
    tag: u32,
    incarnation: u64,
    shard: u8,
    stations: &[MacAddr],
) -> Vec<u8> {
    let mut out = frame(src, "10 00 0007 03 f0");
    out.extend(tag.to_be_bytes());
    out.extend(hex("5352414c 01 01 00"));
    out.push(shard);
    out.extend(hex("00000003"));
    out.extend(incarnation.to_be_bytes());
    out.extend([0, 0]);
    out.extend((stations.len() as u16).to_be_bytes());
    out.extend(hex("0000000000000000 0000000000000000 000007d0 00000000"));
    out.extend(stations.iter().flat_map(|mac| mac.0));
    out
}

/// The same of a life that knows births, and names this one (0: none yet).
pub fn attach_born(
    src: MacAddr,
    incarnation: u64,
    shard: u8,
    birth: u32,
    stations: &[MacAddr],
) -> Vec<u8> {
    let mut out = attach_of(src, 0x77, incarnation, shard, stations);
    out[35] = 7;
    out[68..72].copy_from_slice(&birth.to_be_bytes());
    out
}

/// A reservation by epoch.
pub fn reserve_epoch(src: MacAddr, tag: u32, epoch: u64, macs: &[MacAddr]) -> Vec<u8> {
    let mut out = frame(src, "10 00 0007 03 f0");
    out.extend(tag.to_be_bytes());
    out.extend(hex(
        "5352414c 01 02 00 00 00000003 0000000000000000 0000 00",
    ));
    out.push(macs.len() as u8);
    out.extend(epoch.to_be_bytes());
    out.extend(hex("0000000000000000 00000000 00000000"));
    macs.iter().for_each(|mac| out.extend(mac.0));
    out
}

/// A plain reserve command.
pub fn reserve(src: MacAddr, tag: u32, command: u8, macs: &[MacAddr]) -> Vec<u8> {
    let mut out = frame(src, "10 00 0007 03 03");
    out.extend(tag.to_be_bytes());
    out.extend([command, macs.len() as u8]);
    macs.iter().for_each(|mac| out.extend(mac.0));
    out
}

/// A mask edit, by directive and MAC.
pub fn mask_edit(src: MacAddr, tag: u32, directives: &[(u8, MacAddr)]) -> Vec<u8> {
    let mut out = frame(src, "10 00 0007 03 02");
    out.extend(tag.to_be_bytes());
    out.extend([0, 1, 0, directives.len() as u8]);
    for (command, mac) in directives {
        out.extend([0, *command]);
        out.extend(mac.0);
    }
    out
}

/// A config query.
pub fn config(src: MacAddr, tag: u32, command: u8, string: &[u8]) -> Vec<u8> {
    let mut out = frame(src, "10 00 0007 03 01");
    out.extend(tag.to_be_bytes());
    out.extend([0, 0, 0, 0, 0, command]);
    out.extend((string.len() as u16).to_be_bytes());
    out.extend(string);
    out
}

/// A blade with one target on one interface, unless a test says otherwise, and its clock.
pub struct Bed {
    pub blade: Blade<TestDisk>,
    pub now: Instant,
}

impl Bed {
    pub fn new(pace: Pace) -> Self {
        Self::with(TestDisk::new(SECTORS, pace), |_, _| {})
    }

    pub fn with(disk: TestDisk, change: impl FnOnce(&mut BladeConfig, &mut TargetConfig)) -> Self {
        let mut config = BladeConfig {
            buffer_count: 16,
            initiators_max: 4,
            duplicates_max: 64,
            stash_bytes: 1 << 18,
            sessions_max: 8,
            ..BladeConfig::default()
        };
        let mut target = TargetConfig::new(ADDR);
        target.persistent.session_next = 0x100;
        change(&mut config, &mut target);
        Self::of(config, &[interface(OURS, 9000)], vec![(target, disk)])
    }

    /// Advertisements are sent, session numbers durable.
    pub fn of(
        config: BladeConfig,
        interfaces: &[InterfaceConfig],
        targets: Vec<(TargetConfig, TestDisk)>,
    ) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let blade = Blade::new(config, interfaces, targets, 1, now).unwrap();
        let mut bed = Self { blade, now };
        for number in 0..interfaces.len() {
            bed.replies_on(number as u8);
        }
        bed.persist(true);
        bed
    }

    pub fn disk(&mut self) -> &mut TestDisk {
        self.blade.backing_mut(TargetIndex(0)).unwrap()
    }

    pub fn counters(&self) -> TargetCounters {
        self.blade.target_counters(TargetIndex(0)).unwrap()
    }

    pub fn give(&mut self, frame: &[u8]) {
        self.give_on(0, frame);
    }

    /// In pieces, as AF_XDP hands frames over.
    pub fn give_on(&mut self, interface: u8, frame: &[u8]) {
        let mut pieces = frame.chunks(3840);
        let mut whole = FrameRef::new(pieces.next().unwrap_or(&[]));
        pieces.for_each(|piece| whole.push(piece).unwrap());
        self.blade
            .handle_frame(self.now, InterfaceId(interface), &whole);
    }

    pub fn replies(&mut self) -> Vec<Vec<u8>> {
        self.replies_on(0)
    }

    pub fn replies_on(&mut self, interface: u8) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        while let Some(transmit) = self.blade.poll_transmit(self.now, InterfaceId(interface)) {
            assert!(transmit.header.len() <= 64);
            replies.push([transmit.header, transmit.payload].concat());
        }
        replies
    }

    /// The one reply to a frame.
    pub fn ask(&mut self, frame: &[u8]) -> Vec<u8> {
        self.give(frame);
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "replies to {}", text(frame));
        replies.remove(0)
    }

    /// A turn of the disks.
    pub fn turn(&mut self) {
        self.blade.handle_disks(self.now);
    }

    /// Ends everything that the disk holds, until nothing more comes.
    pub fn finish(&mut self) {
        loop {
            self.turn();
            if self.disk().held.is_empty() {
                break;
            }
            self.disk().end_all();
        }
    }

    /// Takes what is to be made durable, and reports on it; how many states.
    pub fn persist(&mut self, ok: bool) -> usize {
        let mut count = 0;
        while let Some((target, id, _)) = self.blade.poll_persist() {
            self.blade.handle_persisted(self.now, target, id, ok);
            count += 1;
            if !ok {
                break;
            }
        }
        count
    }

    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.blade.handle_timeout(self.now);
    }

    /// The session of an attach.
    pub fn session(&mut self, src: MacAddr, incarnation: u64, shard: u8) -> u16 {
        self.session_after(src, incarnation, shard, 0)
    }

    /// The same, where `others` more answers come.
    pub fn session_after(
        &mut self,
        src: MacAddr,
        incarnation: u64,
        shard: u8,
        others: usize,
    ) -> u16 {
        self.give(&attach(src, 5, incarnation, shard));
        let replies = self.replies();
        assert_eq!(replies.len(), 1 + others);
        let reply = replies.iter().find(|reply| reply[19] == 0xf0).unwrap();
        assert_eq!(reply[30], 0, "status of {}", text(reply));
        u16::from_be_bytes([reply[44], reply[45]])
    }

    pub fn events(&mut self) -> Vec<BladeEvent> {
        core::iter::from_fn(|| self.blade.poll_event()).collect()
    }

    /// Nothing is left anywhere.
    pub fn assert_idle(&mut self) {
        assert!(self.replies().is_empty(), "answers that nobody fetched");
        assert_eq!(self.blade.held(), Held::default());
        assert_eq!(self.disk().taken(), 0, "operations that were not released");
    }
}

pub fn interface(mac: MacAddr, mtu_bytes: usize) -> InterfaceConfig {
    InterfaceConfig {
        mac,
        mtu_bytes,
        vlan: None,
    }
}

/// What an answer says: flags and error, then the ATA arguments.
pub fn outcome(reply: &[u8]) -> String {
    let arguments = text(&reply[24..36.min(reply.len())]);
    format!("{} {arguments}", text(&reply[14..16]))
}
