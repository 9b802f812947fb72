//! The initiator at odd moments: restarts between two frames, paths that die with nothing to do, answers that lack half, shards
//! with too little of everything. Each test tells one sequence of events.
#![allow(clippy::cast_possible_truncation, reason = "test data")]

mod bench;

use core::time::Duration;

use bench::{ADDR, Bench, Disk, OURS, THEIRS, WIRE, advertisement, interface_of, ours};
use sandrail_proto::aoe::initiator::*;
use sandrail_wire::aoe::ReserveCommand;
use sandrail_wire::{Lba, MacAddr, TargetAddr};

const OTHER: TargetAddr = TargetAddr { shelf: 7, slot: 4 };

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn durable() -> Disk {
    Disk {
        claims_flush: true,
        ..Disk::new()
    }
}

fn flush(bench: &mut Bench, target: TargetId) -> Result<Outcome, IoError> {
    bench.submit(target, Operation::Flush, Vec::new());
    bench.run(ms(5));
    bench.result()
}

/// S7: half of a WRITE was acknowledged, none of it under way, when the target restarted. The other half goes to the new life.
#[test]
fn a_restart_in_the_middle_of_a_write_fails_the_flush() {
    let disk = Disk {
        buffer_count: 4,
        ..durable()
    };
    let mut bench = Bench::new(disk, InitiatorConfig::default());
    let target = bench.attach();
    bench.write_sectors(target, 0, 17 * 8, 0xaa);
    let first = bench.take_frames();
    assert_eq!(first.len(), 4, "half of it");
    for frame in first {
        let reply = bench.serve(&frame).unwrap();
        bench.give(&reply);
    }
    bench.give(&advertisement());
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let lost = Err(IoError::UnflushedLost(RestartEvidence::Advertisement));
    assert_eq!(flush(&mut bench, target), lost);
}

/// S7: the owner takes note of a loss while a WRITE of the former life is not over; its end is another loss to take note of.
#[test]
fn a_write_from_before_a_restart_counts_as_lost_when_it_ends() {
    let mut bench = Bench::new(durable(), InitiatorConfig::default());
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    let frame = bench.take_frames().remove(0);
    let late = bench.serve(&frame).unwrap();
    bench.give(&advertisement());
    bench.initiator.accept_loss(target);
    bench.give(&late);
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let lost = Err(IoError::UnflushedLost(RestartEvidence::Advertisement));
    assert_eq!(flush(&mut bench, target), lost);
    bench.initiator.accept_loss(target);
    bench.write(target, 5, 0xaa);
    bench.run(ms(3000));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let flushed = Ok(Outcome::Flushed(Durability::Claimed));
    assert_eq!(flush(&mut bench, target), flushed);
}

/// S7: a target that comes back with another buffer count, so fast that nobody noticed, is told by the next probe's answer.
#[test]
fn a_probe_that_tells_another_config_fails_the_flush() {
    let mut bench = Bench::new(durable(), InitiatorConfig::default());
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(10));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.disk.buffer_count = 8;
    bench.run(ms(100));
    let lost = Err(IoError::UnflushedLost(RestartEvidence::ConfigChanged));
    assert_eq!(flush(&mut bench, target), lost);
    let window = bench.initiator.target(target).unwrap().paths[0]
        .unwrap()
        .window;
    assert!(window <= 8, "{window}");
}

/// A refusal may come without its fields: they say nothing of the target's config.
#[test]
fn a_refused_probe_is_no_other_config() {
    let mut bench = Bench::new(durable(), InitiatorConfig::default());
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(10));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.advance(ms(60));
    let probe = bench.take_frames().remove(0);
    assert_eq!(probe[19], 1);
    let mut refusal = bench.serve(&probe).unwrap();
    refusal.truncate(24);
    refusal[14] |= 0x04;
    refusal[15] = 1;
    bench.give(&refusal);
    assert_eq!(bench.initiator.target(target).unwrap().buffer_count, 16);
    let flushed = Ok(Outcome::Flushed(Durability::Claimed));
    assert_eq!(flush(&mut bench, target), flushed);
}

/// S7: a pinned station advertises itself where it had not been heard before. It is the same target that started.
#[test]
fn an_advertisement_on_a_new_path_is_one() {
    let mut bench = Bench::with_interfaces(2, durable(), InitiatorConfig::default());
    let id = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::new(&[THEIRS]).unwrap())
        .unwrap();
    bench.run_while(ms(500), |frame| interface_of(&frame[6..12]) == 0);
    bench.write(id, 5, 0xaa);
    bench.run_while(ms(5), |frame| interface_of(&frame[6..12]) == 0);
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.give_on(1, &advertisement());
    let lost = Err(IoError::UnflushedLost(RestartEvidence::Advertisement));
    assert_eq!(flush(&mut bench, id), lost);
}

/// What a switch floods to everybody is no answer to us, and somebody else's discovery no advertisement.
#[test]
fn frames_for_another_host_mean_nothing() {
    let mut bench = Bench::new(durable(), InitiatorConfig::default());
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let mut theirs = advertisement();
    theirs[..6].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
    bench.give_on(0, &theirs);
    let flushed = Ok(Outcome::Flushed(Durability::Claimed));
    assert_eq!(flush(&mut bench, target), flushed);
}
