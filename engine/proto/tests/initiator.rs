//! The initiator against a disk in memory, frame by frame: each test holds the frames in its hand and decides what happens to
//! them. Whole histories under random faults are the simulator's (tests/sim).
#![allow(clippy::cast_possible_truncation, reason = "test data")]

use core::time::Duration;
use std::collections::VecDeque;

use sandrail_proto::aoe::initiator::*;
use sandrail_proto::time::Instant;
use sandrail_wire::aoe::ErrorCode;
use sandrail_wire::{FrameRef, Lba, MacAddr, TargetAddr};

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
const WIRE: InterfaceId = InterfaceId(0);
const SECTORS: u64 = 256;
const FLUSH: u8 = 0xe7;

/// Executes frames one at a time, like vblade; bytes by hand, so that a mistake in the codec does not cancel out.
struct Disk {
    data: Vec<u8>,
    claims_flush: bool,
    reserved: bool,
    longest_frame: usize,
}

impl Disk {
    fn new() -> Self {
        Self {
            data: vec![0; SECTORS as usize * 512],
            claims_flush: false,
            reserved: false,
            longest_frame: 9014,
        }
    }

    fn serve(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        if frame.len() > self.longest_frame || frame[12..14] != [0x88, 0xa2] {
            return None;
        }
        let mut reply = frame.to_vec();
        reply[..6].copy_from_slice(&frame[6..12]);
        reply[6..12].copy_from_slice(&THEIRS.0);
        reply[14] |= 0x08;
        reply[16..19].copy_from_slice(&[0, 7, 3]);
        match frame[19] {
            1 => {
                reply.truncate(32);
                reply[24..32].copy_from_slice(&[0, 16, 0x40, 0x19, 17, 0x10, 0, 0]);
            }
            0 if self.reserved && frame[27] != 0xec => {
                reply.truncate(36);
                reply[14] |= 0x04;
                reply[15] = 6;
            }
            0 => self.ata(frame, &mut reply),
            _ => return None,
        }
        (reply.len() <= self.longest_frame).then_some(reply)
    }

    fn ata(&mut self, frame: &[u8], reply: &mut Vec<u8>) {
        let lba = frame[28..34]
            .iter()
            .rev()
            .fold(0, |lba, byte| lba << 8 | usize::from(*byte));
        let (from, len) = (lba * 512, usize::from(frame[26]) * 512);
        reply.truncate(36);
        reply[26] = 0;
        reply[27] = 0x40;
        match frame[27] {
            0x24 => reply.extend_from_slice(&self.data[from..from + len]),
            0x34 => self.data[from..from + len].copy_from_slice(&frame[36..36 + len]),
            0xec => {
                let mut words = [0_u8; 512];
                // vblade says FLUSH, not FLUSH EXT, and does neither.
                let flush = if self.claims_flush { 0x30 } else { 0x10 };
                words[83 * 2 + 1] = 0x44 | flush;
                words[86 * 2 + 1] = 0x04 | flush;
                words[100 * 2..100 * 2 + 8].copy_from_slice(&SECTORS.to_le_bytes());
                reply.extend_from_slice(&words);
            }
            _ => {}
        }
    }
}

/// An initiator, its clock, and a wire that the test operates.
struct Bench {
    initiator: Initiator<Vec<u8>>,
    disk: Disk,
    now: Instant,
    sent: u64,
    notices: Vec<Notice>,
    done: VecDeque<Completion<Vec<u8>>>,
}

impl Bench {
    fn new(disk: Disk, config: InitiatorConfig) -> Self {
        let interface = InterfaceConfig {
            mac: OURS,
            mtu_bytes: 9000,
            vlan: None,
        };
        let now = Instant::from_nanos(1_000_000);
        let initiator = Initiator::new(config, &[interface], 1, now).unwrap();
        Self {
            initiator,
            disk,
            now,
            sent: 0,
            notices: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// All frames that the initiator has to send now; they leave the machine at once.
    fn take_frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(transmit) = self.initiator.poll_transmit(self.now, WIRE) {
            frames.push([transmit.header, transmit.payload].concat());
        }
        self.sent += frames.len() as u64;
        self.initiator.handle_sent(self.now, WIRE, self.sent);
        frames
    }

    fn give(&mut self, frame: &[u8]) {
        // In pieces, as AF_XDP hands them over.
        let mut pieces = frame.chunks(3840);
        let mut whole = FrameRef::new(pieces.next().unwrap());
        pieces.for_each(|piece| whole.push(piece).unwrap());
        self.initiator.handle_frame(self.now, WIRE, &whole);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(event) = self.initiator.poll_event() {
            self.done.push_back(event);
        }
        while let Some(notice) = self.initiator.poll_notice() {
            self.notices.push(notice);
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.initiator.handle_timeout(self.now);
        self.collect();
    }

    /// Lets frames and answers pass until nothing moves; `false` from `passes` loses a frame.
    fn pass(&mut self, mut passes: impl FnMut(&[u8]) -> bool) {
        loop {
            let frames = self.take_frames();
            if frames.is_empty() {
                return self.collect();
            }
            for frame in frames {
                if passes(&frame)
                    && let Some(reply) = self.disk.serve(&frame)
                {
                    self.give(&reply);
                }
            }
        }
    }

    /// Passes frames for `span`, waking up whenever the initiator wants to.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.initiator.handle_timeout(self.now);
            self.pass(|_| true);
            let next = self.initiator.poll_timeout().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(1)).min(end);
        }
        self.initiator.handle_timeout(self.now);
        self.collect();
    }

    fn attach(&mut self) -> TargetId {
        let id = self
            .initiator
            .attach(self.now, ADDR, PinnedMacs::first_to_answer())
            .unwrap();
        self.run(Duration::from_millis(500));
        assert!(
            self.initiator.target(id).is_some(),
            "not attached: {:?}",
            self.notices
        );
        id
    }

    fn submit(&mut self, target: TargetId, operation: Operation, buffer: Vec<u8>) {
        let request = Request {
            target,
            operation,
            buffer,
            timeout: Duration::from_secs(10),
            user: 0,
        };
        self.initiator.submit(self.now, request).unwrap();
    }

    fn write(&mut self, target: TargetId, lba: u64, byte: u8) {
        let operation = Operation::Write {
            lba: Lba(lba),
            if_closed: IfClosed::Wait,
        };
        self.submit(target, operation, vec![byte; 512]);
    }

    fn result(&mut self) -> Result<Outcome, IoError> {
        self.done.pop_front().expect("a completion").result
    }
}

#[test]
fn data_comes_back_as_it_was_written() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    let info = bench.initiator.target(target).unwrap();
    assert_eq!(info.identify.sectors, SECTORS);
    assert_eq!(info.paths[0].unwrap().payload_sectors, 17);
    assert_eq!(
        info.paths[0].unwrap().window,
        16,
        "never more than the target's buffer count"
    );

    let data: Vec<u8> = (0..100 * 512_u32).map(|at| (at / 7) as u8).collect();
    bench.submit(
        target,
        Operation::Write {
            lba: Lba(9),
            if_closed: IfClosed::Wait,
        },
        data.clone(),
    );
    bench.pass(|_| true);
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.submit(target, Operation::Read { lba: Lba(9) }, vec![0; data.len()]);
    bench.pass(|_| true);
    let read = bench.done.pop_front().unwrap();
    assert_eq!(read.result, Ok(Outcome::Read));
    assert!(read.buffer == data);
    assert_eq!(bench.initiator.unaccounted(), 0);
}

/// The sequence that corrupts data behind Linux's driver: A's first copy is late, its second answered, then B is written.
#[test]
fn a_late_copy_of_a_write_does_not_overtake() {
    for rule in [StaleWriteRule::Enforced, StaleWriteRule::Off] {
        let config = InitiatorConfig {
            stale_write_rule: rule,
            ..InitiatorConfig::default()
        };
        let mut bench = Bench::new(Disk::new(), config);
        let target = bench.attach();
        bench.write(target, 5, 0xaa);
        let late = bench.take_frames();
        assert_eq!(late.len(), 1);
        bench.advance(Duration::from_millis(30));
        bench.pass(|_| true);
        assert_eq!(
            bench.result(),
            Ok(Outcome::Written),
            "the second copy was answered"
        );
        assert_eq!(
            bench.initiator.unaccounted(),
            1,
            "the first copy is still on its way"
        );

        bench.write(target, 5, 0xbb);
        bench.run(Duration::from_millis(1900));
        let waits = rule == StaleWriteRule::Enforced;
        assert_eq!(
            bench.done.is_empty(),
            waits,
            "B goes out only when A's first copy is accounted for"
        );
        assert_eq!(bench.initiator.range_is_open(target, Lba(5), 1), !waits);
        let reply = bench.disk.serve(&late[0]).unwrap();
        bench.give(&reply);
        bench.pass(|_| true);
        assert_eq!(bench.result(), Ok(Outcome::Written));
        assert_eq!(bench.disk.data[5 * 512], if waits { 0xbb } else { 0xaa });
    }
}

/// A copy that never is answered is dead when a probe sent one lifetime after it is.
#[test]
fn a_lost_copy_opens_its_range_after_a_lifetime_and_a_probe() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    assert_eq!(bench.take_frames().len(), 1);
    bench.advance(Duration::from_millis(30));
    let resent_at = bench.now;
    bench.pass(|_| true);
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.write(target, 5, 0xbb);
    // Other sectors and reads go on.
    bench.write(target, 6, 0xcc);
    bench.submit(target, Operation::Read { lba: Lba(5) }, vec![0; 512]);
    bench.pass(|_| true);
    assert_eq!(
        (bench.result(), bench.result()),
        (Ok(Outcome::Written), Ok(Outcome::Read))
    );
    while bench.done.is_empty() {
        bench.run(Duration::from_millis(10));
    }
    let waited = bench.now.saturating_since(resent_at);
    assert!(waited >= Duration::from_secs(2), "opened after {waited:?}");
    assert!(
        waited < Duration::from_millis(2300),
        "opened after {waited:?}"
    );
    assert_eq!(bench.disk.data[5 * 512], 0xbb);
    assert_eq!(bench.initiator.counters().lingered_dead, 1);
}

#[test]
fn a_first_lost_frame_costs_little() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    let start = bench.now;
    bench.submit(target, Operation::Read { lba: Lba(0) }, vec![0; 512]);
    assert_eq!(bench.take_frames().len(), 1, "lost");
    while bench.done.is_empty() {
        bench.run(Duration::from_millis(1));
    }
    assert!(bench.now.saturating_since(start) <= Duration::from_millis(50));
}

#[test]
fn a_reserved_target_refuses_at_once() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    bench.disk.reserved = true;
    bench.write(target, 5, 0xaa);
    bench.pass(|_| true);
    assert_eq!(bench.result(), Err(IoError::Aoe(ErrorCode::TargetReserved)));
    assert_eq!(
        bench.initiator.unaccounted(),
        0,
        "an E answer accounts for its copy"
    );
}

#[test]
fn a_silent_target_is_probed_not_flooded() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    let (mut writes, mut probes) = (0, 0);
    let deadline = bench.now + Duration::from_secs(10);
    while bench.now < deadline {
        for frame in bench.take_frames() {
            if frame[19] == 1 {
                probes += 1
            } else {
                writes += 1
            }
        }
        bench.advance(Duration::from_millis(5));
    }
    assert!(matches!(
        bench.result(),
        Err(IoError::Deadline { silent: true, .. })
    ));
    assert!(
        writes <= 4,
        "{writes} copies of one WRITE to a silent target"
    );
    assert!(probes > 150, "{probes}");
    assert!(
        !bench.initiator.range_is_open(target, Lba(5), 1),
        "a write that timed out keeps its range closed"
    );
    bench.run(Duration::from_secs(5));
    assert!(bench.initiator.range_is_open(target, Lba(5), 1));
}

#[test]
fn a_flush_says_what_the_target_promises() {
    for claims in [false, true] {
        let mut bench = Bench::new(
            Disk {
                claims_flush: claims,
                ..Disk::new()
            },
            InitiatorConfig::default(),
        );
        let target = bench.attach();
        bench.submit(target, Operation::Flush, Vec::new());
        bench.pass(|frame| frame[19] != 0 || claims || frame[27] == FLUSH);
        let promise = if claims {
            Durability::Claimed
        } else {
            Durability::Unclaimed
        };
        assert_eq!(bench.result(), Ok(Outcome::Flushed(promise)));
    }
}

/// S7: an advertisement between an acknowledged write and its flush means that the write may be gone.
#[test]
fn a_restart_before_the_flush_fails_it() {
    let mut bench = Bench::new(
        Disk {
            claims_flush: true,
            ..Disk::new()
        },
        InitiatorConfig::default(),
    );
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.pass(|_| true);
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let mut advertisement = vec![0xff; 6];
    advertisement.extend(THEIRS.0);
    advertisement.extend([
        0x88, 0xa2, 0x08, 0, 0, 7, 3, 1, 0, 0, 0, 0, 0, 16, 0x40, 0x19, 17, 0x10, 0, 0,
    ]);
    bench.give(&advertisement);
    for _ in 0..2 {
        bench.submit(target, Operation::Flush, Vec::new());
        bench.pass(|_| true);
        let lost = IoError::UnflushedLost(RestartEvidence::Advertisement);
        assert_eq!(
            bench.result(),
            Err(lost),
            "a failed flush is not simply tried again"
        );
    }
    bench.initiator.accept_loss(target);
    bench.write(target, 5, 0xaa);
    bench.submit(target, Operation::Flush, Vec::new());
    bench.pass(|_| true);
    assert_eq!(
        (bench.result(), bench.result()),
        (
            Ok(Outcome::Written),
            Ok(Outcome::Flushed(Durability::Claimed))
        )
    );
}

#[test]
fn a_jumbo_black_hole_is_found_at_the_attach_and_later() {
    let mut bench = Bench::new(
        Disk {
            longest_frame: 4200,
            ..Disk::new()
        },
        InitiatorConfig::default(),
    );
    let target = bench.attach();
    assert_eq!(
        bench.initiator.target(target).unwrap().paths[0]
            .unwrap()
            .payload_sectors,
        8
    );
    bench.disk.longest_frame = 1514;
    bench.submit(
        target,
        Operation::Write {
            lba: Lba(0),
            if_closed: IfClosed::Wait,
        },
        vec![0x5a; 20 * 512],
    );
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    assert_eq!(
        bench.initiator.target(target).unwrap().paths[0]
            .unwrap()
            .payload_sectors,
        2
    );
    assert!(bench.disk.data[..20 * 512].iter().all(|byte| *byte == 0x5a));
}

#[test]
fn an_impostor_gets_nothing_and_is_told_of() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    bench.submit(target, Operation::Read { lba: Lba(0) }, vec![0; 512]);
    let frames = bench.take_frames();
    let mut reply = bench.disk.serve(&frames[0]).unwrap();
    reply[11] = 0x66;
    bench.give(&reply);
    assert!(bench.done.is_empty());
    assert_eq!(bench.initiator.counters().rx_wrong_source, 1);
    let told = bench
        .notices
        .iter()
        .any(|n| matches!(n, Notice::Rogue { mac, .. } if mac.0[5] == 0x66));
    assert!(told, "{:?}", bench.notices);
}

#[test]
fn two_answers_for_one_address_fail_an_attach_without_a_pin() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let id = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    bench.advance(Duration::from_millis(1));
    let frames = bench.take_frames();
    let mut reply = bench.disk.serve(&frames[0]).unwrap();
    bench.give(&reply);
    reply[11] = 0x66;
    bench.give(&reply);
    let ambiguous = |n: &Notice| matches!(n, Notice::AttachFailed(t, _, AttachFailure::Ambiguous(..)) if *t == id);
    assert!(bench.notices.iter().any(ambiguous), "{:?}", bench.notices);
    assert!(
        bench
            .initiator
            .attach(bench.now, ADDR, PinnedMacs::new(&[THEIRS]).unwrap())
            .is_ok()
    );
}

/// Every frame that is not ours is dropped under the name of what was wrong with it.
#[test]
fn bad_frames_are_counted_by_reason() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    bench.submit(target, Operation::Read { lba: Lba(3) }, vec![0; 1024]);
    let frame = bench.take_frames().remove(0);
    let good = bench.disk.serve(&frame).unwrap();
    let mutated = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    let before = bench.initiator.counters();
    for bad in [
        mutated(12, 0),                  // ethertype
        mutated(14, 0x10),               // a request
        mutated(14, 0x28),               // version 2
        mutated(18, 4),                  // another slot
        mutated(20, good[20] ^ 0x80),    // another shard
        mutated(21, good[21] ^ 1),       // a tag not under way
        mutated(28, 4),                  // another LBA
        mutated(19, 1),                  // another command
        good[..good.len() - 1].to_vec(), // short data
        good[..20].to_vec(),             // no whole header
        good[..3].to_vec(),
    ] {
        bench.give(&bad);
    }
    let after = bench.initiator.counters();
    assert!(bench.done.is_empty(), "none of them is an answer");
    assert_eq!(after.rx_not_aoe - before.rx_not_aoe, 2);
    assert_eq!(after.rx_request - before.rx_request, 1);
    assert_eq!(after.rx_version - before.rx_version, 1);
    assert_eq!(after.rx_wrong_source - before.rx_wrong_source, 1);
    assert_eq!(after.rx_other_shard - before.rx_other_shard, 1);
    assert_eq!(after.rx_stale_tag - before.rx_stale_tag, 1);
    assert_eq!(after.rx_mismatch - before.rx_mismatch, 2);
    assert_eq!(after.rx_short_data - before.rx_short_data, 1);
    assert_eq!(after.rx_malformed - before.rx_malformed, 1);
    bench.give(&good);
    assert_eq!(bench.result(), Ok(Outcome::Read), "the good one still is");
}

#[test]
fn what_cannot_be_is_refused_with_the_buffer() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    let mut refuse = |operation, len: usize| {
        let request = Request {
            target,
            operation,
            buffer: vec![1; len],
            timeout: Duration::from_secs(1),
            user: 0,
        };
        let rejected = bench.initiator.submit(bench.now, request).unwrap_err();
        assert_eq!(rejected.buffer.len(), len);
        rejected.error
    };
    let past = SubmitError::PastEnd {
        lba: 255,
        end: 257,
        device_sectors: SECTORS,
    };
    assert_eq!(refuse(Operation::Read { lba: Lba(255) }, 1024), past);
    assert!(matches!(
        refuse(Operation::Read { lba: Lba(u64::MAX) }, 512),
        SubmitError::PastEnd { .. }
    ));
    assert_eq!(
        refuse(Operation::Read { lba: Lba(0) }, 100),
        SubmitError::BufferLength { len_bytes: 100 }
    );
    assert_eq!(
        refuse(Operation::Read { lba: Lba(0) }, 0),
        SubmitError::BufferLength { len_bytes: 0 }
    );
    let missing = Request {
        target: TargetId::clone(&target),
        operation: Operation::Flush,
        buffer: Vec::new(),
        timeout: Duration::from_secs(1),
        user: 0,
    };
    bench.initiator.detach(bench.now, target);
    assert_eq!(
        bench
            .initiator
            .submit(bench.now, missing)
            .unwrap_err()
            .error,
        SubmitError::NotAttached
    );
}

/// Without an answer from before the start nothing is known of an earlier process's copies.
#[test]
fn writes_wait_out_the_quarantine() {
    let config = InitiatorConfig {
        write_quarantine: Duration::from_secs(2),
        ..InitiatorConfig::default()
    };
    let mut bench = Bench::new(Disk::new(), config);
    let start = bench.now;
    let target = bench.attach();
    bench.write(target, 1, 1);
    bench.submit(target, Operation::Read { lba: Lba(1) }, vec![0; 512]);
    bench.run(Duration::from_millis(100));
    assert_eq!(bench.result(), Ok(Outcome::Read), "reads need not wait");
    while bench.done.is_empty() {
        bench.run(Duration::from_millis(10));
    }
    assert!(bench.now.saturating_since(start) >= Duration::from_secs(2));
    assert!(bench.now.saturating_since(start) < Duration::from_millis(2100));
}
