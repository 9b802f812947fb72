//! The initiator against a disk in memory, frame by frame: each test holds the frames in its hand and decides what happens to
//! them. Whole histories under random faults are the simulator's (tests/sim).
#![allow(clippy::cast_possible_truncation, reason = "test data")]

mod bench;

use core::time::Duration;

use bench::{ADDR, Bench, Disk, FLUSH, SECTORS, THEIRS, advertisement};
use sandrail_proto::aoe::initiator::*;
use sandrail_wire::Lba;
use sandrail_wire::aoe::ErrorCode;

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
    bench.give(&advertisement());
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
