//! An AoE target with a disk in memory, inside the link that leads to it: frames given to the link are carried out at
//! its flush, and the answers are there to be received in the next turn. Serial, like vblade.
#![allow(dead_code, reason = "each test binary uses another part of it")]

pub(crate) mod bed;
pub(crate) mod cached;
pub(crate) mod machine;

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use machine::Machine;
use sandrail_link::{Link, LinkCounters, LinkInfo, TransmitError};
use sandrail_proto::time::Instant;
use sandrail_wire::ata::{self, Identify, IdentifyString, SECTOR_BYTES};
use sandrail_wire::{FrameRef, MacAddr, TargetAddr};

pub(crate) const BLADE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0a]);
pub(crate) const NODE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0b]);
pub(crate) const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
const MTU_BYTES: usize = 9000;
const FRAME_BYTES: usize = MTU_BYTES + 22;
const BUFFER_COUNT: u16 = 256;
const CONFIG_STRING: &[u8] = b"in memory";

/// The disk, and what its blade was asked to do. Shared by the links of all shards.
pub(crate) struct Blade {
    disk: Mutex<Vec<u8>>,
    /// Takes nothing in and answers nothing, like a stopped process.
    pub(crate) silent: AtomicBool,
    /// Carries out, but keeps the answers back until `release`.
    pub(crate) holding: AtomicBool,
    /// Whether IDENTIFY claims FLUSH.
    pub(crate) claims_flush: AtomicBool,
    /// The link of this number, counted from 1, panics when it receives.
    pub(crate) panic_in_link: AtomicU64,
    /// Links take no frame, as with an interface that is down.
    pub(crate) jammed: AtomicBool,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    /// READs and WRITEs of these sectors fail.
    pub(crate) bad: Mutex<BTreeSet<usize>>,
    /// WRITEs in their order: first sector, sectors.
    pub(crate) written: Mutex<Vec<(usize, usize)>>,
    /// The real target, which answers instead where there is one.
    machine: Mutex<Option<Machine>>,
    inboxes: Mutex<Vec<Arc<Inbox>>>,
}

impl Blade {
    pub(crate) fn new(sectors: usize) -> Arc<Self> {
        Arc::new(Self {
            disk: Mutex::new(vec![0; sectors * SECTOR_BYTES]),
            silent: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            claims_flush: AtomicBool::new(true),
            panic_in_link: AtomicU64::new(0),
            jammed: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            bad: Mutex::default(),
            written: Mutex::new(Vec::with_capacity(1 << 16)),
            machine: Mutex::new(None),
            inboxes: Mutex::new(Vec::new()),
        })
    }

    /// The real target machine, with sessions.
    pub(crate) fn with_machine(sectors: usize) -> Arc<Self> {
        let blade = Self::new(0);
        *blade.machine.lock().unwrap() = Some(Machine::new(sectors));
        blade
    }

    /// Does something to the real target.
    pub(crate) fn machine<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        act(self.machine.lock().unwrap().as_mut().unwrap())
    }

    /// A link to it, for one shard.
    pub(crate) fn link(self: &Arc<Self>) -> BladeLink {
        self.link_on("blade0", NODE_MAC)
    }

    /// A link to it by one of several interfaces.
    pub(crate) fn link_on(self: &Arc<Self>, interface: &str, mac: MacAddr) -> BladeLink {
        let (bell_rx, bell_tx) = UnixStream::pair().unwrap();
        bell_rx.set_nonblocking(true).unwrap();
        bell_tx.set_nonblocking(true).unwrap();
        let inbox = Arc::new(Inbox {
            queues: Mutex::new(Queues {
                ready: VecDeque::with_capacity(2048),
                held: VecDeque::with_capacity(2048),
                spare: (0..2048).map(|_| Vec::with_capacity(FRAME_BYTES)).collect(),
            }),
            bell: bell_tx,
        });
        let mut inboxes = self.inboxes.lock().unwrap();
        inboxes.push(Arc::clone(&inbox));
        let number = u64::try_from(inboxes.len()).unwrap();
        BladeLink {
            info: LinkInfo {
                interface: interface.to_owned(),
                mac,
                mtu_bytes: MTU_BYTES,
                queue: 0,
                mode: "in memory".to_owned(),
            },
            blade: Arc::clone(self),
            number,
            inbox,
            bell_rx,
            queued: VecDeque::with_capacity(256),
            spare: (0..256).map(|_| Vec::with_capacity(FRAME_BYTES)).collect(),
            taken: 0,
            completed: 0,
            counters: LinkCounters::default(),
        }
    }

    /// Lets go of all held answers.
    pub(crate) fn release(&self) {
        for inbox in self.inboxes.lock().unwrap().iter() {
            let mut queues = inbox.queues.lock().unwrap();
            let queues = &mut *queues;
            queues.ready.append(&mut queues.held);
            inbox.ring();
        }
    }

    /// Frames that wait in `link`'s inbox or are held back from it.
    pub(crate) fn held(&self) -> usize {
        let inboxes = self.inboxes.lock().unwrap();
        inboxes
            .iter()
            .map(|inbox| inbox.queues.lock().unwrap().held.len())
            .sum()
    }

    /// The start-up advertisement, heard by one link only.
    pub(crate) fn advertise(&self, link: usize) {
        let mut frame = Vec::new();
        frame.extend([0xff; 6]);
        frame.extend(BLADE_MAC.0);
        frame.extend([0x88, 0xa2, 0x08, 0]);
        frame.extend(ADDR.shelf.to_be_bytes());
        frame.extend([ADDR.slot, 1, 0, 0, 0, 0]);
        frame.extend(BUFFER_COUNT.to_be_bytes());
        frame.extend([0x40, 0x19, 17, 0x10, 0, 0]);
        frame.resize(60, 0);
        let inboxes = self.inboxes.lock().unwrap();
        inboxes[link].queues.lock().unwrap().ready.push_back(frame);
        inboxes[link].ring();
    }

    /// The bytes of a range of sectors.
    pub(crate) fn peek(&self, lba: usize, sectors: usize) -> Vec<u8> {
        self.disk.lock().unwrap()[lba * SECTOR_BYTES..(lba + sectors) * SECTOR_BYTES].to_vec()
    }

    /// Puts bytes there.
    pub(crate) fn poke(&self, lba: usize, bytes: &[u8]) {
        let from = lba * SECTOR_BYTES;
        self.disk.lock().unwrap()[from..from + bytes.len()].copy_from_slice(bytes);
    }

    /// Answers one frame into `reply`; `false`: no answer.
    fn carry_out(&self, frame: &[u8], reply: &mut Vec<u8>) -> bool {
        if let Some(machine) = self.machine.lock().unwrap().as_mut() {
            return machine.carry_out(frame, reply);
        }
        let is_ours = frame[12..14] == [0x88, 0xa2] && frame[14] >> 4 == 1 && frame[14] & 8 == 0;
        let shelf = u16::from_be_bytes([frame[16], frame[17]]);
        if !is_ours
            || ![ADDR.shelf, 0xffff].contains(&shelf)
            || ![ADDR.slot, 0xff].contains(&frame[18])
        {
            return false;
        }
        reply.clear();
        reply.extend(&frame[6..12]);
        reply.extend(BLADE_MAC.0);
        reply.extend(&frame[12..14]);
        reply.extend([frame[14] | 8, 0]);
        reply.extend(ADDR.shelf.to_be_bytes());
        reply.push(ADDR.slot);
        reply.extend(&frame[19..24]);
        match frame[19] {
            0 => self.ata(frame, reply),
            1 => {
                reply.extend(BUFFER_COUNT.to_be_bytes());
                reply.extend([0x40, 0x19, 17, 0x10]);
                reply.extend(u16::try_from(CONFIG_STRING.len()).unwrap().to_be_bytes());
                reply.extend(CONFIG_STRING);
            }
            3 => reply.extend([0, 1, 2, 0, 0, 0, 0, 0x0b]),
            _ => return false,
        }
        if reply.len() < 60 {
            reply.resize(60, 0);
        }
        true
    }

    fn ata(&self, frame: &[u8], reply: &mut Vec<u8>) {
        let mut disk = self.disk.lock().unwrap();
        let count = usize::from(frame[26]);
        let lba = (0..6).fold(0, |lba, n| lba | usize::from(frame[28 + n]) << (8 * n));
        let range = lba * SECTOR_BYTES..(lba + count) * SECTOR_BYTES;
        reply.extend(&frame[24..36]);
        reply[25] = 0;
        reply[27] = ata::STATUS_DRDY;
        let bad = self.bad.lock().unwrap();
        if bad.range(lba..lba + count).next().is_some() {
            reply[25] = ata::ERROR_UNC;
            reply[27] |= ata::STATUS_ERR;
            return;
        }
        match frame[27] {
            ata::COMMAND_READ | ata::COMMAND_READ_EXT if range.end <= disk.len() => {
                self.reads.fetch_add(1, Ordering::Relaxed);
                reply.extend(&disk[range]);
            }
            ata::COMMAND_WRITE | ata::COMMAND_WRITE_EXT if range.end <= disk.len() => {
                self.writes.fetch_add(1, Ordering::Relaxed);
                self.written.lock().unwrap().push((lba, count));
                disk[range].copy_from_slice(&frame[36..36 + count * SECTOR_BYTES]);
            }
            ata::COMMAND_FLUSH | ata::COMMAND_FLUSH_EXT => {
                self.flushes.fetch_add(1, Ordering::Relaxed);
            }
            ata::COMMAND_CHECK_POWER => reply[26] = 0xff,
            ata::COMMAND_IDENTIFY => {
                let claimed = self.claims_flush.load(Ordering::Relaxed);
                let mut data = [0; SECTOR_BYTES];
                Identify {
                    sectors: u64::try_from(disk.len() / SECTOR_BYTES).unwrap(),
                    lba48: true,
                    flush: claimed,
                    flush_ext: claimed,
                    write_cache: claimed,
                    power_management: false,
                    trim_blocks_max: None,
                    sandrail: None,
                    model: IdentifyString::new("blade").unwrap(),
                    serial: IdentifyString::new("1").unwrap(),
                    firmware: IdentifyString::new("1").unwrap(),
                }
                .emit(&mut data);
                reply.extend(data);
            }
            _ => {
                reply[25] = ata::ERROR_ABRT;
                reply[27] |= ata::STATUS_ERR;
            }
        }
    }
}

struct Queues {
    ready: VecDeque<Vec<u8>>,
    held: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

struct Inbox {
    queues: Mutex<Queues>,
    bell: UnixStream,
}

impl Inbox {
    fn ring(&self) {
        let _ = (&self.bell).write(&[1]);
    }
}

pub(crate) struct BladeLink {
    info: LinkInfo,
    blade: Arc<Blade>,
    number: u64,
    inbox: Arc<Inbox>,
    bell_rx: UnixStream,
    queued: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    taken: u64,
    completed: u64,
    counters: LinkCounters,
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
        assert_ne!(
            self.blade.panic_in_link.load(Ordering::Relaxed),
            self.number,
            "as the test wants"
        );
        let mut queues = self.inbox.queues.lock().unwrap();
        let mut count = 0;
        while count < frames_max {
            let Some(frame) = queues.ready.pop_front() else {
                break;
            };
            count += 1;
            self.counters.rx_frames += 1;
            sink(FrameRef::new(&frame));
            queues.spare.push(frame);
        }
        count
    }

    fn transmit_room(&mut self) -> usize {
        if self.blade.jammed.load(Ordering::Relaxed) {
            return 0;
        }
        self.spare.len()
    }

    fn transmit(
        &mut self,
        _now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        let mut frame = self.spare.pop().ok_or(TransmitError::Full)?;
        frame.clear();
        frame.extend(header);
        frame.extend(payload);
        if frame.len() < 60 {
            frame.resize(60, 0);
        }
        self.queued.push_back(frame);
        self.taken += 1;
        self.counters.tx_frames += 1;
        Ok(())
    }

    fn flush(&mut self, _now: Instant) {
        if self.queued.is_empty() {
            return;
        }
        self.counters.tx_kicks += 1;
        let mut queues = self.inbox.queues.lock().unwrap();
        let queues = &mut *queues;
        while let Some(frame) = self.queued.pop_front() {
            if !self.blade.silent.load(Ordering::Relaxed) {
                let mut reply = queues.spare.pop().unwrap_or_default();
                if !self.blade.carry_out(&frame, &mut reply) {
                    queues.spare.push(reply);
                } else if self.blade.holding.load(Ordering::Relaxed) {
                    queues.held.push_back(reply);
                } else {
                    queues.ready.push_back(reply);
                }
            }
            self.spare.push(frame);
        }
        self.completed = self.taken;
    }

    fn completed(&self) -> u64 {
        self.completed
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.bell_rx.as_raw_fd())
    }

    fn prepare_wait(&mut self) -> bool {
        while matches!((&self.bell_rx).read(&mut [0; 64]), Ok(1..)) {}
        self.inbox.queues.lock().unwrap().ready.is_empty()
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters
    }
}
