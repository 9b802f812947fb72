//! Cores on links made of memory, whose room is in the test's hands.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Clock};

use sandrail_disk::FaultControl;
use sandrail_link::{Link, LinkCounters, LinkInfo, TransmitError};
use sandrail_node::waiting::EventFd;
use sandrail_node::{Idle, clock};
use sandrail_proto::aoe::target::{Blade, BladeConfig, InterfaceConfig, TargetConfig};
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr};

use super::hub::{Command, Hub};
use super::route::Homes;
use super::status::CoreStatus;
use super::{Core, CoreParts, Target};
use crate::disk::ServedDisk;
use crate::drill::DrillLink;
use crate::events::{CoreEvent, Happening};
use crate::settings::{Copies, Export, Settings};

/// Nothing here takes longer, unless it hangs; a core that sleeps where it should not takes minutes.
const PATIENCE: Duration = Duration::from_secs(60);
const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// What a link has to give, and what came of it.
#[derive(Debug, Default)]
struct Wire {
    /// Frames that are to be received.
    arriving: VecDeque<Vec<u8>>,
    /// Frames that can be sent now.
    room: usize,
    /// How often the link must be asked for room in vain before there is some, and how much.
    opens: Option<(u32, usize)>,
    asked: u32,
    sent: Vec<Vec<u8>>,
}

/// A link whose descriptor is never readable: nothing wakes a core that sleeps on it.
#[derive(Debug)]
struct SlowLink {
    info: LinkInfo,
    wire: Arc<Mutex<Wire>>,
    silent: EventFd,
}

impl SlowLink {
    fn new(wire: &Arc<Mutex<Wire>>) -> Self {
        Self {
            info: LinkInfo {
                interface: "slow".to_owned(),
                mac: OURS,
                mtu_bytes: 9000,
                queue: 0,
                mode: "memory".to_owned(),
            },
            wire: Arc::clone(wire),
            silent: EventFd::new().unwrap(),
        }
    }
}

impl Link for SlowLink {
    fn info(&self) -> &LinkInfo {
        &self.info
    }

    fn receive(
        &mut self,
        _now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        let mut wire = self.wire.lock().unwrap();
        let count = wire.arriving.len().min(frames_max);
        for frame in wire.arriving.drain(..count) {
            sink(FrameRef::new(&frame));
        }
        count
    }

    fn transmit_room(&mut self) -> usize {
        let mut wire = self.wire.lock().unwrap();
        if wire.room == 0
            && let Some((asks, room)) = wire.opens
        {
            wire.asked += 1;
            if wire.asked >= asks {
                (wire.asked, wire.room) = (0, room);
            }
        }
        wire.room
    }

    fn transmit(&mut self, _: Instant, header: &[u8], payload: &[u8]) -> Result<(), TransmitError> {
        let mut wire = self.wire.lock().unwrap();
        wire.room = wire.room.checked_sub(1).ok_or(TransmitError::Full)?;
        wire.sent.push([header, payload].concat());
        Ok(())
    }

    fn flush(&mut self, _: Instant) {}

    fn completed(&self) -> u64 {
        0
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.silent.as_raw_fd())
    }

    fn counters(&mut self) -> LinkCounters {
        LinkCounters::default()
    }
}

/// A READ of one sector of e7.`slot`.
fn read(slot: u8, tag: u32) -> Vec<u8> {
    let mut frame = [OURS.0, THEIRS.0].concat();
    frame.extend([0x88, 0xa2, 0x10, 0, 0, 7, slot, 0]);
    frame.extend(tag.to_be_bytes());
    frame.extend([0x40, 0, 1, 0x24, 0, 0, 0, 0, 0, 0, 0, 0]);
    frame
}

/// An ATA command with a sector of data, under a session.
fn write(slot: u8, tag: u32, session: [u8; 2]) -> Vec<u8> {
    let mut frame = read(slot, tag);
    frame[24] = 0x41;
    frame[27] = 0x34;
    frame[34..36].copy_from_slice(&session);
    frame.extend([0x5a; 512]);
    frame
}

/// An attach by the vendor command.
fn attach(slot: u8, tag: u32) -> Vec<u8> {
    let mut frame = read(slot, tag);
    frame[19] = 0xf0;
    frame.truncate(24);
    frame.extend(b"SRAL\x01\x01\0\0\0\0\0\x03");
    frame.extend(0x1234_5678_u64.to_be_bytes());
    frame.extend([0; 20]);
    frame.extend(2000_u32.to_be_bytes());
    frame.extend([0; 4]);
    frame
}

/// Cores that run, each with one target, e7.0 and on; all links are core 0's.
struct Bed {
    hub: Arc<Hub>,
    wires: Vec<Arc<Mutex<Wire>>>,
    threads: Vec<JoinHandle<bool>>,
    events: Receiver<CoreEvent>,
    /// Of each core's disk.
    faults: Vec<FaultControl>,
}

impl Bed {
    /// Of memory.
    fn new(cores: usize, links: usize) -> Self {
        Self::serving(&vec!["ram:64K"; cores], links)
    }

    /// Of these media, one for each core.
    fn serving(media: &[&str], links: usize) -> Self {
        let cores = media.len();
        let hub = Arc::new(Hub::new(cores, &vec![0; links], 9000).unwrap());
        let wires: Vec<_> = (0..links).map(|_| Arc::default()).collect();
        let exports: Vec<Export> = (0..cores)
            .map(|core| Export::parse(&format!("e7.{core}={}", media[core])).unwrap())
            .collect();
        let mut faults = Vec::new();
        let homes = Homes::new((0..cores).map(|core| (exports[core].addr, core)));
        let interface = InterfaceConfig {
            mac: OURS,
            mtu_bytes: 9000,
            vlan: None,
        };
        let (sender, events) = sync_channel(64);
        let settings = Settings {
            duplicates_max: Some(1024),
            ..Settings::default()
        };
        let copies = Copies::new(&settings, 0);
        let mut core = |number: usize| {
            let export = &exports[number];
            let disk = ServedDisk::open(&settings, export).unwrap();
            faults.push(disk.faults());
            let config = BladeConfig {
                duplicates_max: copies.entries,
                ..BladeConfig::default()
            };
            let targets = vec![(TargetConfig::new(export.addr), disk)];
            let interfaces = vec![interface; links];
            let blade = Blade::new(config, &interfaces, targets, 1, clock::now()).unwrap();
            let own = wires.iter().take(if number == 0 { links } else { 0 });
            let links = (0..).zip(own.map(|wire| DrillLink::new(Box::new(SlowLink::new(wire)), 1)));
            Core::new(CoreParts {
                hub: Arc::clone(&hub),
                number,
                homes: homes.clone(),
                links: links.collect(),
                blade,
                copies,
                targets: vec![Target {
                    addr: export.addr,
                    read_only: false,
                    persistent: false,
                }],
                keeper: None,
                events: sender.clone(),
                // At once, so that nothing is hidden by turns that are awake anyway.
                idle: Idle {
                    spin_turns: 0,
                    yield_turns: 0,
                    sleep: true,
                },
                pin_to: None,
            })
        };
        let cores: Vec<Core> = (0..cores).map(&mut core).collect();
        let run = |core: Core| thread::spawn(move || core.run());
        Self {
            threads: cores.into_iter().map(run).collect(),
            hub,
            wires,
            events,
            faults,
        }
    }

    /// Waits until something is so on a wire.
    #[track_caller]
    fn until(&self, link: usize, what: &str, is_so: impl Fn(&Wire) -> bool) {
        let begun = Clock::now();
        while !is_so(&self.wires[link].lock().unwrap()) {
            let wire = self.wires[link].lock().unwrap();
            assert!(
                begun.elapsed() < PATIENCE,
                "never {what}: {} sent, {} asks",
                wire.sent.len(),
                wire.asked
            );
            drop(wire);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn status(&self, core: usize) -> CoreStatus {
        let (sender, answer) = channel();
        assert!(self.hub.tell(core, Command::Status(sender)));
        answer.recv_timeout(PATIENCE).unwrap()
    }

    fn arrive(&self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.wires[0].lock().unwrap().arriving.extend(frames);
        // The descriptor would wake it.
        self.hub.cores[0].doorbell.notify();
    }

    fn tell_to_stop(&self) {
        for core in 0..self.hub.cores.len() {
            assert!(self.hub.tell(core, Command::Stop));
        }
    }

    /// Stops every core; whether all of them say that everything has ended and is flushed.
    fn stop(self) -> bool {
        self.tell_to_stop();
        self.join()
    }

    fn join(self) -> bool {
        self.threads.into_iter().all(|core| core.join().unwrap())
    }
}

/// Frames that are no advertisements, which carry no tag.
fn answers(wire: &Wire) -> usize {
    wire.sent
        .iter()
        .filter(|frame| frame[20..24] != [0; 4])
        .count()
}

#[test]
fn a_core_does_not_sleep_while_answers_wait_for_room() {
    let bed = Bed::new(1, 1);
    bed.wires[0].lock().unwrap().opens = Some((50, 2));
    bed.arrive((1..=32).map(|tag| read(0, tag)));
    bed.until(0, "all answered", |wire| answers(wire) == 32);
    assert!(bed.stop());
}

#[test]
fn answers_of_another_core_are_not_slept_over_either() {
    let bed = Bed::new(2, 1);
    bed.wires[0].lock().unwrap().opens = Some((50, 2));
    bed.arrive((1..=32).map(|tag| read(1, tag)));
    bed.until(0, "all answered", |wire| answers(wire) == 32);
    assert!(bed.stop());
}

#[test]
fn a_link_that_takes_nothing_for_long_does_not_keep_a_core_awake() {
    let bed = Bed::new(2, 2);
    bed.wires[1].lock().unwrap().room = usize::MAX;
    bed.arrive((1..=8).flat_map(|tag| [read(0, tag), read(1, tag)]));
    let begun = Clock::now();
    let before = loop {
        let status = bed.status(0);
        if status.sleeps >= 20 && status.requests_open == 8 {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "{status:?}");
        thread::sleep(Duration::from_millis(1));
    };
    thread::sleep(Duration::from_millis(100));
    let after = bed.status(0);
    let (turns, sleeps) = (after.turns - before.turns, after.sleeps - before.sleeps);
    // Each status is a turn as well, and ends a sleep early.
    assert!(
        sleeps >= 10 && turns <= 2 * sleeps + 10,
        "{turns} turns with {sleeps} sleeps"
    );
    bed.wires[0].lock().unwrap().room = usize::MAX;
    bed.until(0, "all answered", |wire| answers(wire) == 16);
    assert!(bed.stop());
}

#[test]
fn it_is_told_once_that_writes_are_dropped_for_want_of_memory_of_copies() {
    let bed = Bed::new(1, 1);
    bed.wires[0].lock().unwrap().room = usize::MAX;
    // Until then an attach is not answered.
    while !bed.status(0).targets[0].durable {
        thread::yield_now();
    }
    bed.arrive([attach(0, 1)]);
    bed.until(0, "attached", |wire| answers(wire) == 1);
    let session = {
        let wire = bed.wires[0].lock().unwrap();
        let attached = wire.sent.iter().find(|frame| frame[20..24] != [0; 4]);
        let attached = attached.unwrap();
        assert_eq!(attached[30], 0, "the status");
        [attached[44], attached[45]]
    };
    // In bursts: no more than the buffer count at a time.
    for burst in 0..12 {
        bed.arrive((0..100).map(|at| write(0, (burst * 100 + at + 2) << 4, session)));
        let arrived = usize::try_from((burst + 1) * 100).unwrap();
        // Those that there is no room for have no answer.
        bed.until(0, "answered", |wire| answers(wire) > arrived.min(1024));
    }
    let begun = Clock::now();
    let frames = loop {
        let frames = bed.status(0).frames;
        if frames.get("rx_duplicates_full") == Some(&176) {
            break frames;
        }
        assert!(begun.elapsed() < PATIENCE, "{frames:?}");
    };
    assert_eq!(frames.get("rx_buffers_full"), None, "{frames:?}");
    let status = bed.status(0);
    let copies = (status.copies.entries, status.copies.rate_per_s);
    assert_eq!(copies, (1024, 256), "in four seconds each");
    let told: Vec<_> = bed.events.try_iter().map(|(_, what)| what).collect();
    let full = told
        .iter()
        .filter(|what| matches!(what, Happening::CopiesFull(_)));
    assert_eq!(full.count(), 1, "{told:?}");
    assert!(bed.stop());
}

#[test]
fn what_was_acknowledged_is_flushed_at_the_end_whatever_hangs() {
    let path = std::env::temp_dir().join(format!("sandrail-blade-end-{}", std::process::id()));
    let medium = format!("{},create=64K,power-cut", path.display());
    let bed = Bed::serving(&[&medium], 1);
    bed.wires[0].lock().unwrap().room = usize::MAX;
    bed.arrive([write(0, 0x10, [0, 0])]);
    bed.until(0, "acknowledged", |wire| answers(wire) == 1);
    // Two more, of which one is never over; the cache has them both, or none of them.
    bed.faults[0].hold_write(1);
    bed.arrive([write(0, 0x20, [0, 0]), read(0, 0x30)]);
    let begun = Clock::now();
    while bed.faults[0].counts().held_now == 0 {
        assert!(begun.elapsed() < PATIENCE, "it is not held");
        thread::yield_now();
    }
    assert_eq!(
        std::fs::read(&path).unwrap()[..512],
        [0; 512],
        "it was to wait for a flush"
    );
    assert!(!bed.stop(), "not everything has ended");
    let kept = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kept[..512], [0x5a; 512], "an acknowledged write is lost");
}

#[test]
fn a_core_stays_for_answers_of_others_until_they_are_through() {
    let bed = Bed::new(2, 1);
    bed.wires[0].lock().unwrap().room = usize::MAX;
    bed.faults[1].hold_write(1);
    bed.arrive([write(1, 0x10, [0, 0])]);
    let begun = Clock::now();
    while bed.faults[1].counts().held_now == 0 {
        assert!(begun.elapsed() < PATIENCE, "it is not held");
        thread::yield_now();
    }
    bed.tell_to_stop();
    // Core 0 has nothing of its own, and would be gone by now.
    thread::sleep(Duration::from_millis(100));
    bed.faults[1].release();
    bed.until(0, "answered at the end", |wire| answers(wire) == 1);
    assert!(bed.join(), "everything has ended");
}
