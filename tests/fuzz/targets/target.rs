//! The target under any sequence of frames, disk outcomes, states made durable or not, and leaps of time: it never panics,
//! begins nothing that overlaps a write under way, answers each request at most once, and gives everything back.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::aoe::target::{
    Blade, BladeConfig, ForceSet, Held, InterfaceConfig, InterfaceId, SessionRule, TargetConfig,
    TargetIndex,
};
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr, TargetAddr};

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const SECTORS: u64 = 64;
const OPERATIONS: u32 = 12;
const WIRE: InterfaceId = InterfaceId(0);

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

/// An operation that the disk has, or whose data are lent.
#[derive(Clone, Copy, PartialEq)]
enum Io {
    Free,
    Begun { lba: u64, end: u64, writes: bool },
    Over,
}

struct Disk {
    ios: [Io; OPERATIONS as usize],
    sectors: u64,
    room: u8,
    inline: bool,
    fails: bool,
    ended: Vec<IoId>,
    data: Vec<u8>,
}

impl Disk {
    fn result(&self) -> Result<(), DiskError> {
        if self.fails {
            return Err(DiskError::Medium { lba: 3 });
        }
        Ok(())
    }

    fn under_way(&self) -> usize {
        let begun = |io: &&Io| matches!(io, Io::Begun { .. });
        self.ios.iter().filter(begun).count()
    }

    /// Ends the `which`th operation that is under way.
    fn end(&mut self, which: u8) {
        let begun = (0..OPERATIONS).filter(|io| {
            matches!(self.ios[*io as usize], Io::Begun { .. }) && !self.ended.contains(&IoId(*io))
        });
        let begun: Vec<u32> = begun.collect();
        if !begun.is_empty() {
            self.ended
                .push(IoId(begun[usize::from(which) % begun.len()]));
        }
    }
}

impl Backing for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn durability(&self) -> Durability {
        Durability::Flush
    }

    fn loss_mark(&self) -> u64 {
        7
    }

    fn discards(&self) -> bool {
        true
    }

    fn operations_max(&self) -> u32 {
        OPERATIONS
    }

    fn sectors_per_operation_max(&self) -> u32 {
        16
    }

    fn start(&mut self, _: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        assert!(
            self.ios[io.0 as usize] == Io::Free,
            "a place is used once at a time"
        );
        if self.under_way() >= usize::from(self.room) {
            return Started::Busy;
        }
        let (lba, sectors, writes) = match operation {
            DiskOperation::Read { lba, sectors } => (lba.0, sectors.get(), false),
            DiskOperation::Write { lba, sectors, data } => {
                let bytes: usize = data.iter().map(|piece| piece.len()).sum();
                assert_eq!(bytes, sectors.get() as usize * SECTOR_BYTES);
                (lba.0, sectors.get(), true)
            }
            DiskOperation::Flush => (0, 0, false),
            DiskOperation::Discard { lba, sectors } => (lba.0, sectors.get(), true),
        };
        let end = lba + u64::from(sectors);
        assert!(end <= self.sectors && sectors <= 16, "ranges were checked");
        for other in &self.ios {
            if let Io::Begun {
                lba: from,
                end: to,
                writes: other_writes,
            } = *other
            {
                let meet = from < end && lba < to;
                assert!(
                    !meet || !(writes || other_writes),
                    "an overlapping write is under way"
                );
            }
        }
        if self.inline {
            self.ios[io.0 as usize] = Io::Over;
            return Started::Done(self.result());
        }
        self.ios[io.0 as usize] = Io::Begun { lba, end, writes };
        Started::Pending
    }

    fn poll_done(&mut self, _: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        let io = self.ended.pop()?;
        self.ios[io.0 as usize] = Io::Over;
        Some((io, self.result()))
    }

    fn data(&self, io: IoId) -> &[u8] {
        assert!(
            self.ios[io.0 as usize] == Io::Over,
            "data after the end, before the release"
        );
        &self.data
    }

    fn release(&mut self, io: IoId) {
        assert!(
            self.ios[io.0 as usize] == Io::Over,
            "released once, after the end"
        );
        self.ios[io.0 as usize] = Io::Free;
    }

    fn kick(&mut self, _: Instant) {}
}

struct Machine {
    blade: Blade<Disk>,
    now: Instant,
    next_tag: u32,
    frames: Vec<Vec<u8>>,
    session: u16,
    asked: u64,
    answered: u64,
}

impl Machine {
    fn new(kind: u8) -> Self {
        let config = BladeConfig {
            buffer_count: 10,
            initiators_max: 3,
            duplicates_max: 16,
            frame_lifetime: Duration::from_millis(50),
            stash_bytes: 1 << 16,
            sessions_max: 4,
        };
        let interface = InterfaceConfig {
            mac: MacAddr(HOST),
            mtu_bytes: 1500,
            vlan: None,
        };
        let disk = Disk {
            ios: [Io::Free; OPERATIONS as usize],
            sectors: SECTORS,
            room: OPERATIONS as u8,
            inline: false,
            fails: false,
            ended: Vec::new(),
            data: vec![0x5a; 16 * SECTOR_BYTES],
        };
        let mut target = TargetConfig::new(TargetAddr { shelf: 7, slot: 0 });
        if kind & 1 != 0 {
            target.force_set = ForceSet::Refuse;
        }
        if kind & 2 != 0 {
            target.sessions = SessionRule::Required;
        }
        let now = Instant::from_nanos(1_000_000_000);
        let blade = Blade::new(config, &[interface], vec![(target, disk)], 1, now).expect("sound");
        Self {
            blade,
            now,
            next_tag: 0,
            frames: Vec::new(),
            session: 0,
            asked: 0,
            answered: 0,
        }
    }

    fn disk(&mut self) -> &mut Disk {
        self.blade.backing_mut(TargetIndex(0)).expect("it is there")
    }

    fn frame(&mut self, station: u8, command: u8) -> Vec<u8> {
        self.next_tag += 16;
        let mut frame = HOST.to_vec();
        frame.extend([2, 0, 0, 0, 0, 1 + station % 4]);
        frame.extend([0x88, 0xa2, 0x10, 0, 0, 7, 0, command]);
        frame.extend(self.next_tag.to_be_bytes());
        frame
    }

    fn ata(&mut self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let [kind, at, count] = [input.byte()?, input.byte()?, input.byte()?];
        let mut frame = self.frame(kind >> 4, 0);
        let command = [0x24, 0x34, 0x34, 0xea, 0x06, 0x42, 0xec, 0xe5][usize::from(kind % 8)];
        let writes = matches!(command, 0x34 | 0x06);
        let count = if command == 0x06 { 1 } else { count % 4 };
        frame.extend([
            0x40 | u8::from(writes),
            u8::from(command == 0x06),
            count,
            command,
        ]);
        frame.extend([at % 68, 0, 0, 0, 0, 0]);
        let session = if kind & 8 == 0 { self.session } else { 0 };
        frame.extend(session.to_be_bytes());
        if command == 0x06 {
            let mut sector = [0; 512];
            for range in sector.chunks_exact_mut(8).take(usize::from(at % 5)) {
                range[0] = input.byte()? % 66;
                range[6] = input.byte()? % 20;
            }
            frame.extend(sector);
        } else if writes {
            frame.resize(frame.len() + usize::from(count) * 512, at);
        }
        Some(frame)
    }

    fn control(&mut self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let [kind, a, b] = [input.byte()?, input.byte()?, input.byte()?];
        let command = [1, 2, 3, 0xf0][usize::from(kind % 4)];
        let mut frame = self.frame(kind >> 4, command);
        match command {
            1 => {
                frame.extend([0, 0, 0, 0, 0, a % 6, 0, b % 4]);
                frame.extend([b'x'; 3]);
            }
            2 => {
                frame.extend([0, a % 3, 0, b % 3]);
                for _ in 0..b % 3 {
                    frame.extend([0, input.byte()? % 4, 2, 0, 0, 0, 0, input.byte()? % 5]);
                }
            }
            3 => {
                frame.extend([a % 4, b % 3]);
                for _ in 0..b % 3 {
                    frame.extend([2, 0, 0, 0, 0, input.byte()? % 5]);
                }
            }
            _ => {
                frame.extend(*b"SRAL");
                frame.extend([1, a % 4, 0, b % 2, 0, 0, 0, 3]);
                frame.extend([0, 0, 0, 0, 0, 0, 0, b % 6]);
                frame.extend([0, 0, 0, a >> 6]);
                frame.extend([0, 0, 0, 0, 0, 0, 0, b >> 4]);
                frame.extend([0; 16]);
                for _ in 0..a >> 6 {
                    frame.extend([2, 0, 0, 0, 0, input.byte()? % 5]);
                }
            }
        }
        Some(frame)
    }

    fn give(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(800));
        let mut frame = FrameRef::new(head);
        if !rest.is_empty() {
            frame.push(rest).expect("two segments");
        }
        self.blade.handle_frame(self.now, WIRE, &frame);
        self.asked += 1;
    }

    fn replies(&mut self, most: u8) {
        for _ in 0..most {
            let Some(transmit) = self.blade.poll_transmit(self.now, WIRE) else {
                break;
            };
            assert!(transmit.header.len() <= 64);
            let frame = [transmit.header, transmit.payload].concat();
            assert!(frame.len() <= 1514 && frame[6..12] == HOST && frame[14] & 0x18 == 0x18);
            if frame[..6] == [0xff; 6] {
                continue;
            }
            self.answered += 1;
            let attached =
                frame.len() >= 72 && frame[19] == 0xf0 && frame[29] == 1 && frame[30] == 0;
            if attached {
                self.session = u16::from_be_bytes([frame[44], frame[45]]);
            }
        }
    }

    fn persist(&mut self, ok: bool) {
        if let Some((target, id, _)) = self.blade.poll_persist() {
            self.blade.handle_persisted(self.now, target, id, ok);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 16 {
            0..=4 => {
                let frame = self.ata(input)?;
                self.give(&frame);
                self.keep(frame);
            }
            5..=7 => {
                let frame = self.control(input)?;
                self.give(&frame);
                self.keep(frame);
            }
            8 => {
                // A copy of something sent before, or the same with a byte changed.
                let (which, at, to) = (input.byte()?, input.byte()?, input.byte()?);
                let last = self.frames.len().checked_sub(1)?;
                let mut frame = self.frames[last - usize::from(which) % self.frames.len()].clone();
                match frame.get_mut(usize::from(at)) {
                    Some(byte) => *byte = to,
                    None => frame[23] |= to & 15,
                }
                self.give(&frame);
            }
            9 => {
                let len = usize::from(input.byte()?).min(input.0.len());
                let (frame, rest) = input.0.split_at(len);
                input.0 = rest;
                self.give(frame);
            }
            10 => {
                let which = input.byte()?;
                self.disk().end(which);
            }
            11 => self.blade.handle_disks(self.now),
            12 => {
                let most = input.byte()?;
                self.replies(most);
            }
            13 => {
                let ok = input.byte()? & 3 != 0;
                self.persist(ok);
            }
            14 => self.now = self.now + Duration::from_millis(u64::from(input.byte()?)),
            _ => {
                let kind = input.byte()?;
                let disk = self.disk();
                disk.room = kind % (OPERATIONS as u8 + 1);
                disk.inline = kind & 0x40 != 0;
                disk.fails = kind & 0x80 != 0;
                disk.sectors = if kind & 0x20 != 0 { 40 } else { SECTORS };
                if disk.under_way() > 0 {
                    disk.sectors = SECTORS;
                }
            }
        }
        while self.blade.poll_event().is_some() {}
        assert!(self.answered <= self.asked, "more answers than requests");
        Some(())
    }

    fn keep(&mut self, frame: Vec<u8>) {
        if self.frames.len() == 32 {
            self.frames.remove(0);
        }
        self.frames.push(frame);
    }

    /// Everything ends.
    fn finish(&mut self) {
        self.disk().room = OPERATIONS as u8;
        for _ in 0..1000 {
            self.disk().end(0);
            self.blade.handle_disks(self.now);
            self.persist(true);
            self.replies(u8::MAX);
        }
        assert_eq!(self.blade.held(), Held::default(), "something stays behind");
        assert!(self.disk().ios.iter().all(|io| *io == Io::Free));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut machine = Machine::new(input.byte().unwrap_or(0));
    machine.persist(true);
    machine.replies(u8::MAX);
    while machine.step(&mut input).is_some() {}
    machine.finish();
});
