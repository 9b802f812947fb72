//! The initiator at odd moments: restarts between two frames, paths that die with nothing to do, answers that lack half, shards
//! with too little of everything. Each test tells one sequence of events.
#![allow(clippy::cast_possible_truncation, reason = "test data")]

mod bench;

use core::time::Duration;

use bench::{ADDR, Bench, Disk, OURS, THEIRS, WIRE, advertisement, interface_of, ours};
use sandrail_proto::aoe::initiator::*;
use sandrail_wire::aoe::ReserveCommand;
use sandrail_wire::{FrameRef, Lba, MacAddr, TargetAddr};

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

/// The loop looks at the clock first when it sends, then asks whether a timer is due.
#[test]
fn writes_start_after_the_quarantine_whoever_looks_at_the_clock_first() {
    let config = InitiatorConfig {
        write_quarantine: ms(2000),
        ..InitiatorConfig::default()
    };
    let mut bench = Bench::new(Disk::new(), config);
    let target = bench.attach();
    bench.write(target, 1, 1);
    bench.now = bench.now + ms(1990);
    let probe = bench.take_frames();
    assert_eq!((probe.len(), probe[0][19]), (1, 1), "the probe comes first");
    assert!(bench.initiator.poll_timeout().is_some());
    let reply = bench.disk.serve(&probe[0]).unwrap();
    bench.give(&reply);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
}

/// S2 for an earlier process's copies: a target that was stopped still has them in its socket when time alone is over.
#[test]
fn writes_wait_for_a_probe_after_the_quarantine() {
    for order in [TargetOrder::Serial, TargetOrder::Parallel] {
        let config = InitiatorConfig {
            write_quarantine: ms(2000),
            target_order: order,
            ..InitiatorConfig::default()
        };
        let mut bench = Bench::new(Disk::new(), config);
        let target = bench.attach();
        bench.write(target, 1, 1);
        bench.run_while(ms(5000), |_| false);
        assert!(
            bench.done.is_empty(),
            "the target has answered nothing since"
        );
        bench.run(ms(1900));
        assert_eq!(bench.done.is_empty(), order == TargetOrder::Parallel);
        bench.run(ms(200));
        assert_eq!(bench.result(), Ok(Outcome::Written));
    }
}

/// Long WRITEs vanish, while answers to long READs arrive all the time: that those pass says nothing of the others.
#[test]
fn a_black_hole_in_one_direction_is_found() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    let write = Operation::Write {
        lba: Lba(100),
        if_closed: IfClosed::Wait,
    };
    bench.submit(target, write, vec![0x5a; 20 * 512]);
    let mut written = None;
    for _ in 0..400 {
        bench.submit(target, Operation::Read { lba: Lba(0) }, vec![0; 17 * 512]);
        bench.run_while(ms(5), |frame| frame.len() <= 1514);
        while let Some(done) = bench.done.pop_front() {
            if done.operation == write {
                written = Some(done.result);
            }
        }
        if written.is_some() {
            break;
        }
    }
    assert_eq!(written, Some(Ok(Outcome::Written)));
}

/// Two paths, of which one dies with nothing to do: a flush that goes there comes to its end along the other.
#[test]
fn a_flush_does_not_stay_on_a_dead_path() {
    let mut bench = Bench::with_interfaces(2, durable(), InitiatorConfig::default());
    let target = bench.attach();
    assert!(bench.initiator.target(target).unwrap().paths[1].is_some());
    for dead in 0..2 {
        bench.submit(target, Operation::Flush, Vec::new());
        bench.run_while(ms(1000), |frame| interface_of(&frame[6..12]) != dead);
        assert_eq!(bench.result(), Ok(Outcome::Flushed(Durability::Claimed)));
        bench.run(ms(500));
    }
}

/// A path goes silent while the only other one is being tried out: what hangs on it moves when the trial is over.
#[test]
fn requests_move_to_a_path_whose_trial_ends() {
    let mut bench = Bench::with_interfaces(2, Disk::new(), InitiatorConfig::default());
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::new(&[THEIRS]).unwrap())
        .unwrap();
    bench.run_while(ms(500), |frame| interface_of(&frame[6..12]) == 0);
    bench.read(target, 0, 4);
    let nothing = |_: &[u8]| false;
    // The new path's first tries are lost, and the old path falls silent meanwhile.
    bench.run_while(ms(100), nothing);
    bench.give_on(1, &advertisement());
    bench.run_while(ms(150), nothing);
    let silent = |bench: &Bench, path: usize| {
        bench.initiator.target(target).unwrap().paths[path]
            .unwrap()
            .silent
    };
    assert!(silent(&bench, 0));
    bench.run_while(ms(1000), |frame| interface_of(&frame[6..12]) == 1);
    assert_eq!(bench.result(), Ok(Outcome::Read));
    assert!(silent(&bench, 0) && !silent(&bench, 1));
}

/// A disk of 48-bit addresses comes back as a small one of 28 bits while a WRITE beyond that is under way.
#[test]
fn a_disk_that_shrinks_under_a_command_is_no_panic() {
    let huge = 1_u64 << 30;
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let grow = |bench: &mut Bench| {
        let frames = bench.take_frames();
        for frame in frames {
            let Some(mut reply) = bench.serve(&frame) else {
                continue;
            };
            if frame[19] == 0 && frame[27] == 0xec && !bench.disk.lba28 {
                reply[36 + 200..36 + 208].copy_from_slice(&huge.to_le_bytes());
            }
            bench.give(&reply);
        }
    };
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    for _ in 0..200 {
        bench.advance(ms(1));
        grow(&mut bench);
    }
    bench.write(target, huge - 1, 1);
    assert_eq!(bench.take_frames().len(), 1, "lost");
    bench.disk.lba28 = true;
    bench.give(&advertisement());
    for _ in 0..3 {
        // The resent WRITE is kept from the disk, which does not have that sector.
        for frame in bench.take_frames() {
            if frame[27] == 0xec || frame[19] == 1 {
                let reply = bench.serve(&frame).unwrap();
                bench.give(&reply);
            }
        }
        bench.advance(ms(120));
    }
    assert_eq!(
        bench.initiator.target(target).unwrap().identify.sectors,
        256
    );
}

/// An IDENTIFY answer that is cut short is dropped like any other; the next one counts.
#[test]
fn a_short_identify_does_not_fail_the_attach() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    let (mut cut, mut given) = (0, 0);
    for _ in 0..200 {
        bench.advance(ms(1));
        for frame in bench.take_frames() {
            let Some(mut reply) = bench.serve(&frame) else {
                continue;
            };
            // Every data frame comes one byte short the first time.
            if reply.len() > 36 && cut < 2 {
                reply.pop();
                cut += 1;
            }
            bench.give(&reply);
            given += 1;
        }
    }
    assert!(bench.initiator.target(target).is_some());
    let counters = bench.initiator.counters();
    assert_eq!(counters.rx_short_data, 2);
    assert_eq!(counters.rx_used + counters.rx_short_data, given);
}

/// A link that takes one frame at a time, and a target that answers each at once: the other target has its turn, too.
#[test]
fn a_fast_target_does_not_starve_another() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    bench.others.push(Disk {
        addr: OTHER,
        ..Disk::new()
    });
    let (fast, other) = (bench.attach(), bench.attach_to(OTHER));
    bench.read(fast, 0, 200);
    bench.read(other, 0, 17);
    bench.read(fast, 0, 200);
    for _ in 0..6 {
        let frame = bench.take_frame_of(0).unwrap();
        let reply = bench.serve(&frame).unwrap();
        bench.give(&reply);
    }
    assert!(bench.done.iter().any(|done| done.target == other));
}

/// Probes to a target that is gone on all of its paths leave a small shard commands to serve another with.
#[test]
fn a_dead_target_leaves_commands_for_others() {
    let config = InitiatorConfig {
        commands_max: 128,
        ..InitiatorConfig::default()
    };
    let mut bench = Bench::with_interfaces(8, Disk::new(), config);
    bench.others.push(Disk {
        addr: OTHER,
        ..Disk::new()
    });
    let (dead, alive) = (bench.attach(), bench.attach_to(OTHER));
    bench.read(dead, 0, 17);
    bench.write(dead, 0, 1);
    bench.run_while(ms(3000), |frame| frame[18] != ADDR.slot);
    bench.read(alive, 0, 17);
    bench.run_while(ms(100), |frame| frame[18] != ADDR.slot);
    assert_eq!(bench.result(), Ok(Outcome::Read));
}

/// A stopped target finds a handful of reservations in its socket, not one for every timer.
#[test]
fn changes_do_not_pile_up_at_a_silent_target() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    let reserve = Operation::Reserve {
        command: ReserveCommand::Set,
        len_bytes: 6,
    };
    bench.submit(target, reserve, OURS.0.to_vec());
    let mut copies = 0;
    bench.run_while(ms(9000), |frame| {
        copies += u32::from(frame[19] == 3);
        false
    });
    assert!((2..=8).contains(&copies), "{copies}");
}

/// The first sector can't be read: the path's payload stays unproven, and is not proven anew after every command.
#[test]
fn an_unreadable_first_sector_does_not_bring_endless_trials() {
    let disk = Disk {
        bad_first_sector: true,
        ..Disk::new()
    };
    let mut bench = Bench::new(disk, InitiatorConfig::default());
    let target = bench.attach();
    let before = bench.initiator.counters().tx_frames;
    for lba in 1..101 {
        bench.read(target, lba, 1);
        bench.run(ms(1));
        assert_eq!(bench.result(), Ok(Outcome::Read));
    }
    let frames = bench.initiator.counters().tx_frames - before;
    assert!(frames < 150, "{frames} frames for 100 sectors");
}

/// A target that restarts with less room for a frame: the path is tried again, and requests are cut anew.
#[test]
fn a_target_that_takes_less_than_before_gets_less() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    bench.disk.sectors_max = 2;
    let mut told = advertisement();
    told[28] = 2;
    bench.give(&told);
    bench.write_sectors(target, 0, 20, 7);
    bench.run(ms(200));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let path = bench.initiator.target(target).unwrap().paths[0].unwrap();
    assert_eq!(path.payload_sectors, 2);
}

/// Strangers' advertisements do not displace the news of our own attach.
#[test]
fn strangers_do_not_displace_notices_that_matter() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    for host in 0..1000_u16 {
        let mut frame = advertisement();
        frame[6..12].copy_from_slice(&MacAddr([2, 0, 0, 7, (host >> 8) as u8, host as u8]).0);
        frame[18] = 9;
        let frame = FrameRef::new(&frame);
        bench.initiator.handle_frame(bench.now, WIRE, &frame);
    }
    let id = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    // Nobody fetches notices while the attach fails.
    bench.now = bench.now + ms(3000);
    bench.initiator.handle_timeout(bench.now);
    bench.collect();
    let failed = |n: &Notice| matches!(n, Notice::AttachFailed(target, ..) if *target == id);
    assert!(bench.notices.iter().any(failed));
}

/// A station whose second interface answers late, or was asked by an owner who looks for more paths, gains that path.
#[test]
fn a_pinned_station_gains_the_path_that_a_discovery_finds() {
    let mut bench = Bench::with_interfaces(2, Disk::new(), InitiatorConfig::default());
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::new(&[THEIRS]).unwrap())
        .unwrap();
    bench.run_while(ms(500), |frame| interface_of(&frame[6..12]) == 0);
    let paths = |bench: &Bench| {
        let info = bench.initiator.target(target).unwrap();
        info.paths.iter().flatten().count()
    };
    assert_eq!(paths(&bench), 1);
    bench.initiator.discover(bench.now);
    bench.run(ms(500));
    assert_eq!(paths(&bench), 2);
    let found = bench.initiator.target(target).unwrap().paths[1].unwrap();
    assert_eq!(found.interface, InterfaceId(interface_of(&ours(1).0)));
    assert_eq!(found.payload_sectors, 17);
}

/// All tags must rest, and nothing else is due: the loop is woken when they have.
#[test]
fn a_shard_out_of_tags_is_woken() {
    let config = InitiatorConfig {
        commands_max: 128,
        frame_lifetime: ms(60_000),
        ..InitiatorConfig::default()
    };
    let mut bench = Bench::new(Disk::new(), config);
    let target = bench.attach();
    let mut commands = 0;
    while bench.initiator.counters().tag_waits == 0 {
        bench.read(target, 0, 1);
        bench.pass(|_| true);
        commands += 1;
        assert!(commands < 600_000);
    }
    assert!(bench.done.len() < commands);
    let due = bench.initiator.poll_timeout().unwrap();
    assert!(due.saturating_since(bench.now) < Duration::from_secs(1));
}

/// A control frame longer than the MTU would be refused by every link.
#[test]
fn a_list_longer_than_a_frame_is_refused() {
    let mut bench = Bench::new(Disk::new(), InitiatorConfig::default());
    let target = bench.attach();
    let interface = InterfaceConfig {
        mac: OURS,
        mtu_bytes: 1500,
        vlan: None,
    };
    let now = bench.now;
    bench.initiator = Initiator::new(InitiatorConfig::default(), &[interface], 1, now).unwrap();
    assert_eq!(bench.attach(), target);
    let edit = |directives: u16| Request {
        target,
        operation: Operation::MaskEdit {
            len_bytes: directives * 8,
        },
        buffer: vec![0; 2040],
        timeout: ms(100),
        user: 0,
    };
    assert!(bench.initiator.submit(now, edit(185)).is_ok());
    let refused = bench.initiator.submit(now, edit(186)).unwrap_err();
    assert_eq!(refused.error, SubmitError::BufferLength { len_bytes: 2040 });
}

/// S7: the target could not make durable what it had acknowledged. What it says the next time is about what it has left.
#[test]
fn a_failed_flush_is_not_simply_repeated() {
    for (status, is_lost) in [(0x61, true), (0x41, false)] {
        let mut bench = Bench::new(durable(), InitiatorConfig::default());
        let target = bench.attach();
        bench.write(target, 5, 0xaa);
        bench.pass(|_| true);
        assert_eq!(bench.result(), Ok(Outcome::Written));
        bench.submit(target, Operation::Flush, Vec::new());
        let frames = bench.take_frames();
        let request = frames.iter().find(|frame| frame[27] == 0xea).unwrap();
        let mut reply = bench.serve(request).unwrap();
        // A device fault, or a command that was not carried out.
        (reply[25], reply[27]) = (0x04, status);
        bench.give(&reply);
        assert!(matches!(bench.result(), Err(IoError::Ata { .. })));
        let flushed = Ok(Outcome::Flushed(Durability::Claimed));
        let lost = Err(IoError::UnflushedLost(RestartEvidence::FlushFailed));
        for _ in 0..2 {
            let expected = if is_lost { lost } else { flushed };
            assert_eq!(flush(&mut bench, target), expected, "status {status:#x}");
        }
        bench.initiator.accept_loss(target);
        assert_eq!(flush(&mut bench, target), flushed);
    }
}
