//! A model of AoE targets as they are met in the field, first of all of vblade: what goes in and what comes out of one
//! frame. Queues, time and faults are the [`world`](crate::world)'s.

use crate::bytes::{self, ARGS, DATA, Mac};
use crate::stamp::{self, SECTOR_BYTES, Stamp};

const ERROR_BAD_COMMAND: u8 = 1;
const ERROR_BAD_ARGUMENT: u8 = 2;
const ERROR_CONFIG: u8 = 4;
const ERROR_RESERVED: u8 = 6;
const CONFIG_BYTES_MAX: usize = 1024;

/// What FLUSH does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// As vblade: FLUSH answers status 0 with an error byte of chance and does nothing, FLUSH EXT is aborted.
    Pretends,
    /// It flushes, and IDENTIFY says so.
    Works,
    /// Aborted, and not claimed.
    Refuses,
}

/// How a target breaks the rules, to show that the checkers notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    None,
    /// Acknowledges this share of WRITEs without writing.
    DropsWrites {
        /// Out of a thousand.
        permille: u16,
    },
    /// Answers this share of READs with the neighbour's sectors.
    ReadsElsewhere {
        /// Out of a thousand.
        permille: u16,
    },
    /// Answers every ATA command but IDENTIFY with this AoE error.
    Refuses {
        /// The error.
        error: u8,
    },
    /// Claims and acknowledges FLUSH without flushing.
    ForgetsFlush,
}

/// What a target is.
#[derive(Clone, Debug)]
pub struct TargetSpec {
    /// Shelf.
    pub shelf: u16,
    /// Slot.
    pub slot: u8,
    /// Sectors at the start.
    pub sectors: u64,
    /// Sectors that it may be grown to.
    pub sectors_most: u64,
    /// Messages it says it queues.
    pub buffer_count: u16,
    /// Frames that a socket really holds; more are dropped.
    pub socket_frames: usize,
    /// Sectors that a command may carry.
    pub count_max: u8,
    /// Frames at work at once on one socket: 1 is serial.
    pub workers: u8,
    /// Its stations; several are several network cards.
    pub macs: Vec<Mac>,
    /// Each station has a socket and a process of its own (several vblades on one file).
    pub socket_per_mac: bool,
    /// Time for a frame: least, and spread.
    pub service_ns: (u64, u64),
    /// What FLUSH does.
    pub flush: Flush,
    /// Writes lie in a volatile cache until they are flushed.
    pub volatile_cache: bool,
    /// How it breaks the rules.
    pub fault: Fault,
}

impl TargetSpec {
    /// A vblade with one station at MTU 1500.
    #[must_use]
    pub fn vblade(index: u8, sectors: u64) -> Self {
        Self {
            shelf: 7,
            slot: index,
            sectors,
            sectors_most: sectors,
            buffer_count: 16,
            socket_frames: 64,
            count_max: 2,
            workers: 1,
            macs: vec![[2, 0, 0, 0, 1, index]],
            socket_per_mac: false,
            service_ns: (5_000, 10_000),
            flush: Flush::Pretends,
            volatile_cache: false,
            fault: Fault::None,
        }
    }
}

/// What one frame did to the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// A reply is to be sent.
    pub replies: bool,
}

/// A target's state.
#[derive(Debug)]
pub struct Target {
    /// What it is.
    pub spec: TargetSpec,
    /// Its present size.
    pub sectors: u64,
    disk: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<bool>,
    config: Vec<u8>,
    reserved: Vec<Mac>,
    /// WRITE commands executed.
    pub writes_executed: u64,
    /// Config queries answered.
    pub queries_answered: u64,
}

impl Target {
    /// A fresh one.
    #[must_use]
    pub fn new(index: u8, spec: TargetSpec) -> Self {
        let mut disk = vec![0; spec.sectors_most as usize * SECTOR_BYTES];
        stamp::fill(&mut disk, Stamp::INITIAL, index, 0);
        Self {
            sectors: spec.sectors,
            durable: if spec.volatile_cache {
                disk.clone()
            } else {
                Vec::new()
            },
            dirty: vec![false; spec.sectors_most as usize],
            disk,
            config: Vec::new(),
            reserved: Vec::new(),
            writes_executed: 0,
            queries_answered: 0,
            spec,
        }
    }

    /// Content of a sector as a READ would return it.
    #[must_use]
    pub fn sector(&self, lba: u64) -> &[u8] {
        &self.disk[span(lba, 1)]
    }

    /// Content of a sector as a crash now would leave it at worst.
    #[must_use]
    pub fn durable_sector(&self, lba: u64) -> &[u8] {
        if self.spec.volatile_cache {
            &self.durable[span(lba, 1)]
        } else {
            self.sector(lba)
        }
    }

    /// Power fails: of the sectors not flushed, those that `loses` picks fall back. They are returned.
    pub fn crash(&mut self, mut loses: impl FnMut(u64) -> bool) -> Vec<u64> {
        self.forget();
        let mut lost = Vec::new();
        if !self.spec.volatile_cache {
            return lost;
        }
        for lba in 0..self.spec.sectors_most {
            if !core::mem::take(&mut self.dirty[lba as usize]) {
                continue;
            }
            let at = span(lba, 1);
            if loses(lba) {
                self.disk[at.clone()].copy_from_slice(&self.durable[at]);
                lost.push(lba);
            } else {
                self.durable[at.clone()].copy_from_slice(&self.disk[at]);
            }
        }
        lost
    }

    /// The process ends; what it wrote stays. Reservation and config string are gone.
    pub fn forget(&mut self) {
        self.reserved.clear();
        self.config.clear();
    }

    /// Reserved for these, by somebody else's command.
    pub fn reserve(&mut self, macs: &[Mac]) {
        self.reserved.clear();
        self.reserved.extend_from_slice(macs);
    }

    fn flush(&mut self) {
        if self.spec.fault == Fault::ForgetsFlush || !self.spec.volatile_cache {
            return;
        }
        for lba in 0..self.spec.sectors_most {
            if core::mem::take(&mut self.dirty[lba as usize]) {
                let at = span(lba, 1);
                self.durable[at.clone()].copy_from_slice(&self.disk[at]);
            }
        }
    }

    /// The broadcast that vblade sends at its start: a config response of version 0.
    pub fn advertisement(&self, mac: Mac, frame: &mut Vec<u8>) {
        frame.clear();
        frame.extend_from_slice(&[0xff; 6]);
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&bytes::ETHERTYPE.to_be_bytes());
        frame.extend_from_slice(&[0x08, 0]);
        frame.extend_from_slice(&self.spec.shelf.to_be_bytes());
        frame.extend_from_slice(&[self.spec.slot, 1, 0, 0, 0, 0]);
        self.config_args(0, frame);
    }

    fn config_args(&self, command: u8, reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.spec.buffer_count.to_be_bytes());
        reply.extend_from_slice(&[0x40, 0x19, self.spec.count_max, 0x10 | command]);
        reply.extend_from_slice(&(self.config.len() as u16).to_be_bytes());
        reply.extend_from_slice(&self.config);
    }

    /// Whether a frame that arrived at one of the stations is for this target at all.
    #[must_use]
    pub fn accepts(&self, frame: &[u8]) -> bool {
        bytes::parse(frame).is_some_and(|fields| {
            !fields.response
                && (fields.shelf == self.spec.shelf || fields.shelf == 0xffff)
                && (fields.slot == self.spec.slot || fields.slot == 0xff)
        })
    }

    /// Carries out one request that arrived at `station`, and writes the reply, unpadded.
    pub fn execute(
        &mut self,
        station: Mac,
        request: &[u8],
        reply: &mut Vec<u8>,
        rng: &mut fastrand::Rng,
    ) -> Executed {
        reply.clear();
        let Some(fields) = bytes::parse(request) else {
            return Executed::default();
        };
        reply.extend_from_slice(&fields.src);
        reply.extend_from_slice(&station);
        reply.extend_from_slice(&bytes::ETHERTYPE.to_be_bytes());
        // vblade echoes the version.
        reply.extend_from_slice(&[fields.version << 4 | 0x08, 0]);
        reply.extend_from_slice(&self.spec.shelf.to_be_bytes());
        reply.extend_from_slice(&[self.spec.slot, fields.command]);
        reply.extend_from_slice(&fields.tag.to_be_bytes());
        let replies = match (fields.command, fields.ata) {
            (0, Some(ata)) => self.ata(fields.src, ata, request, reply, rng),
            (1, _) => self.config(request, reply),
            (3, _) => self.reserve_release(fields.src, request, reply),
            _ => {
                refuse(reply, ERROR_BAD_COMMAND);
                reply.extend_from_slice(&request[ARGS..request.len().min(DATA)]);
                true
            }
        };
        Executed { replies }
    }

    fn config(&mut self, request: &[u8], reply: &mut Vec<u8>) -> bool {
        let Some(args) = request.get(ARGS..ARGS + 8) else {
            return false;
        };
        let (command, len) = (
            args[5] & 0x0f,
            usize::from(u16::from_be_bytes([args[6], args[7]])),
        );
        if len > CONFIG_BYTES_MAX || request.len() < 32 + len {
            return false;
        }
        let string = &request[32..32 + len];
        match command {
            0 => {}
            1 if string != self.config => return false,
            2 if !self.config.starts_with(string) => return false,
            1 | 2 => {}
            3 if !self.config.is_empty() && self.config != string => refuse(reply, ERROR_CONFIG),
            3 | 4 => self.config = string.to_vec(),
            _ => refuse(reply, ERROR_BAD_ARGUMENT),
        }
        self.queries_answered += 1;
        self.config_args(command, reply);
        true
    }

    fn reserve_release(&mut self, src: Mac, request: &[u8], reply: &mut Vec<u8>) -> bool {
        let Some(args) = request.get(ARGS..ARGS + 2) else {
            return false;
        };
        let (command, count) = (args[0], usize::from(args[1]));
        let Some(list) = request.get(26..26 + count * 6) else {
            return false;
        };
        match command {
            0 => {}
            1 if !self.reserved.is_empty() && !self.reserved.contains(&src) => {
                refuse(reply, ERROR_RESERVED)
            }
            1 | 2 => {
                self.reserved = list
                    .chunks_exact(6)
                    .map(|mac| mac.try_into().expect("six bytes"))
                    .collect();
            }
            _ => refuse(reply, ERROR_BAD_ARGUMENT),
        }
        reply.extend_from_slice(&[command, self.reserved.len() as u8]);
        for mac in &self.reserved {
            reply.extend_from_slice(mac);
        }
        true
    }

    fn ata(
        &mut self,
        src: Mac,
        ata: bytes::Ata,
        request: &[u8],
        reply: &mut Vec<u8>,
        rng: &mut fastrand::Rng,
    ) -> bool {
        let error = match self.spec.fault {
            Fault::Refuses { error } if ata.command != bytes::IDENTIFY => Some(error),
            _ if ata.command == bytes::IDENTIFY => None,
            _ if !self.reserved.is_empty() && !self.reserved.contains(&src) => Some(ERROR_RESERVED),
            _ if ata.count > self.spec.count_max => Some(ERROR_BAD_ARGUMENT),
            _ => None,
        };
        if let Some(error) = error {
            refuse(reply, error);
            reply.extend_from_slice(&request[ARGS..DATA]);
            return true;
        }
        let (lba, count) = (ata.lba, u64::from(ata.count));
        let answer = |reply: &mut Vec<u8>, status: u8, error: u8, left: u8| {
            reply.extend_from_slice(&[ata.flags, error, left, status]);
            reply.extend_from_slice(&request[28..36]);
        };
        let inside = lba
            .checked_add(count)
            .is_some_and(|end| end <= self.sectors);
        match ata.command {
            bytes::READ | bytes::READ_EXT | bytes::WRITE | bytes::WRITE_EXT if !inside => {
                answer(reply, 0x41, 0x10, ata.count);
            }
            bytes::READ | bytes::READ_EXT => {
                answer(reply, 0x40, 0, 0);
                let mut from = lba;
                if let Fault::ReadsElsewhere { permille } = self.spec.fault
                    && rng.u16(..1000) < permille
                {
                    from = if lba + count < self.sectors {
                        lba + 1
                    } else {
                        lba.saturating_sub(1)
                    };
                }
                reply.extend_from_slice(&self.disk[span(from, count)]);
            }
            bytes::WRITE | bytes::WRITE_EXT => {
                let data = request.get(DATA..DATA + count as usize * SECTOR_BYTES);
                let Some(data) = data else {
                    refuse(reply, ERROR_BAD_ARGUMENT);
                    reply.extend_from_slice(&request[ARGS..DATA]);
                    return true;
                };
                self.write(lba, data, rng);
                answer(reply, 0x40, 0, 0);
            }
            bytes::IDENTIFY if ata.count == 1 => {
                answer(reply, 0x40, 0, 0);
                reply.extend_from_slice(&self.identify());
            }
            bytes::FLUSH if self.spec.flush == Flush::Pretends => answer(reply, 0, rng.u8(..), 0),
            bytes::FLUSH | bytes::FLUSH_EXT if self.spec.flush == Flush::Works => {
                self.flush();
                answer(reply, 0x40, 0, 0);
            }
            bytes::CHECK_POWER => return false,
            _ => answer(reply, 0x41, 0x04, ata.count),
        }
        true
    }

    fn write(&mut self, lba: u64, data: &[u8], rng: &mut fastrand::Rng) {
        self.writes_executed += 1;
        if let Fault::DropsWrites { permille } = self.spec.fault
            && rng.u16(..1000) < permille
        {
            return;
        }
        let sectors = (data.len() / SECTOR_BYTES) as u64;
        self.disk[span(lba, sectors)].copy_from_slice(data);
        self.dirty[lba as usize..(lba + sectors) as usize].fill(true);
    }

    fn identify(&self) -> [u8; SECTOR_BYTES] {
        let mut data = [0; SECTOR_BYTES];
        let mut word = |index: usize, value: u16| {
            data[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes())
        };
        // vblade's own words: LBA48, and FLUSH claimed only by those that mean it.
        let flush = if self.spec.flush == Flush::Works {
            0x3000
        } else {
            0
        };
        word(47, 0x8000);
        word(49, 0x0200);
        word(50, 0x4000);
        word(83, 0x4400 | flush);
        word(84, 0x4000);
        word(86, 0x0400 | flush);
        word(87, 0x4000);
        for (index, part) in self.sectors.to_le_bytes().chunks_exact(2).enumerate() {
            let value = u16::from_le_bytes([part[0], part[1]]);
            word(100 + index, value);
            if index < 2 {
                word(60 + index, value);
            }
        }
        data
    }
}

fn refuse(reply: &mut [u8], error: u8) {
    reply[14] |= 0x04;
    reply[15] = error;
}

fn span(lba: u64, sectors: u64) -> core::ops::Range<usize> {
    lba as usize * SECTOR_BYTES..(lba + sectors) as usize * SECTOR_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    struct Bench {
        target: Target,
        rng: fastrand::Rng,
    }

    impl Bench {
        fn new(change: impl FnOnce(&mut TargetSpec)) -> Self {
            let mut spec = TargetSpec::vblade(3, 64);
            change(&mut spec);
            Self {
                target: Target::new(0, spec),
                rng: fastrand::Rng::with_seed(1),
            }
        }

        fn ask(&mut self, src: Mac, command: u8, args: &[u8]) -> Option<Vec<u8>> {
            let mut frame = vec![2, 0, 0, 0, 1, 3];
            frame.extend_from_slice(&src);
            frame.extend_from_slice(&[0x88, 0xa2, 0x10, 0, 0, 7, 3, command, 0, 0, 0, 5]);
            frame.extend_from_slice(args);
            let mut reply = Vec::new();
            let executed =
                self.target
                    .execute([2, 0, 0, 0, 1, 3], &frame, &mut reply, &mut self.rng);
            executed.replies.then_some(reply)
        }

        fn ata(&mut self, src: Mac, command: u8, lba: u8, count: u8, data: &[u8]) -> Vec<u8> {
            let mut args = vec![0x41, 0, count, command, lba, 0, 0, 0, 0, 0, 0, 0];
            args.extend_from_slice(data);
            self.ask(src, 0, &args).expect("a reply")
        }

        fn write(&mut self, lba: u8, stamp: u32) {
            let mut data = vec![0; SECTOR_BYTES];
            stamp::fill(&mut data, Stamp(stamp), 0, u64::from(lba));
            let reply = self.ata(HOST, bytes::WRITE_EXT, lba, 1, &data);
            assert_eq!((reply.len(), reply[27]), (DATA, 0x40));
        }
    }

    /// Every line of the table of vblade's answers that the model has.
    #[test]
    fn answers_as_vblade_does() {
        let mut bench = Bench::new(|_| ());
        bench.write(5, 9);
        let reply = bench.ata(HOST, bytes::READ_EXT, 5, 1, &[]);
        assert_eq!(
            (reply[14], reply[26], reply[27], reply.len()),
            (0x18, 0, 0x40, DATA + 512)
        );
        assert_eq!(stamp::read(&reply[DATA..], 0, 5), Ok(Stamp(9)));
        let flush = bench.ata(HOST, bytes::FLUSH, 0, 0, &[]);
        assert_eq!((flush[14], flush[27]), (0x18, 0));
        let flush_ext = bench.ata(HOST, bytes::FLUSH_EXT, 0, 0, &[]);
        assert_eq!((flush_ext[25], flush_ext[27]), (0x04, 0x41));
        let too_many = bench.ata(HOST, bytes::READ_EXT, 0, 3, &[]);
        assert_eq!((too_many[14], too_many[15]), (0x1c, 2));
        let past_end = bench.ata(HOST, bytes::READ_EXT, 64, 1, &[]);
        assert_eq!(past_end[24..28], [0x41, 0x10, 1, 0x41]);
        assert_eq!(
            bench.ask(
                HOST,
                0,
                &[0, 0, 1, bytes::CHECK_POWER, 0, 0, 0, 0, 0, 0, 0, 0]
            ),
            None
        );
    }

    #[test]
    fn the_advertisement_is_vblades() {
        let bench = Bench::new(|spec| spec.count_max = 17);
        let mut frame = Vec::new();
        bench
            .target
            .advertisement([2, 0, 0, 0, 0, 0x0a], &mut frame);
        let expected = [
            255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 0x0a, 0x88, 0xa2, 0x08, 0, 0, 7, 3, 1, 0,
            0, 0, 0, 0, 0x10, 0x40, 0x19, 0x11, 0x10, 0, 0,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn reservation_shuts_out_all_but_identify_and_is_forgotten() {
        let mut bench = Bench::new(|_| ());
        let set = [1, 1, 2, 0, 0, 0, 0, 1];
        assert_eq!(bench.ask(HOST, 3, &set).unwrap()[24..], set);
        assert_eq!(
            bench.ata(OTHER, bytes::READ_EXT, 0, 1, &[])[14..16],
            [0x1c, 6]
        );
        assert_eq!(bench.ata(OTHER, bytes::IDENTIFY, 0, 1, &[])[14], 0x18);
        assert_eq!(bench.ata(HOST, bytes::READ_EXT, 0, 1, &[])[14], 0x18);
        assert_eq!(bench.ask(OTHER, 3, &[1, 0]).unwrap()[14..16], [0x1c, 6]);
        assert_eq!(bench.ask(OTHER, 3, &[2, 0]).unwrap()[24..], [2, 0]);
        bench.target.reserve(&[HOST]);
        bench.target.forget();
        assert_eq!(bench.ata(OTHER, bytes::READ_EXT, 0, 1, &[])[14], 0x18);
    }

    #[test]
    fn config_string_commands() {
        let mut bench = Bench::new(|_| ());
        let set = |command: u8, text: &[u8]| {
            [&[0, 0, 0, 0, 0, command, 0, text.len() as u8], text].concat()
        };
        assert_eq!(bench.ask(HOST, 1, &set(3, b"hello")).unwrap()[14], 0x18);
        assert_eq!(
            bench.ask(HOST, 1, &set(3, b"other")).unwrap()[14..16],
            [0x1c, 4]
        );
        assert_eq!(bench.ask(HOST, 1, &set(2, b"oth")), None);
        assert_eq!(
            &bench.ask(HOST, 1, &set(2, b"hel")).unwrap()[30..],
            b"\0\x05hello"
        );
    }

    #[test]
    fn a_crash_takes_back_only_what_was_not_flushed() {
        let mut bench = Bench::new(|spec| {
            spec.volatile_cache = true;
            spec.flush = Flush::Works;
        });
        bench.write(1, 1);
        bench.ata(HOST, bytes::FLUSH_EXT, 0, 0, &[]);
        bench.write(1, 2);
        bench.write(2, 3);
        bench.write(3, 4);
        assert_eq!(
            stamp::read(bench.target.durable_sector(1), 0, 1),
            Ok(Stamp(1))
        );
        assert_eq!(bench.target.crash(|lba| lba != 3), [1, 2]);
        let held: Vec<_> = (1..4)
            .map(|lba| stamp::read(bench.target.sector(lba), 0, lba).unwrap().0)
            .collect();
        assert_eq!(held, [1, 0, 4]);
    }
}
