//! Sessions (S5, S7), frame by frame: each test holds the frames in its hand. Against the real target: tests/blade.rs.
#![allow(clippy::cast_possible_truncation, reason = "test data")]

mod bench;

use core::time::Duration;

use bench::speaker::Speaker;
use bench::{ADDR, Bench, Disk, FLUSH, OURS, THEIRS, advertisement, ours};
use sandrail_proto::aoe::initiator::*;
use sandrail_wire::aoe::{SandrailStatus, Session};
use sandrail_wire::{Lba, MacAddr};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn speaking() -> Disk {
    Disk {
        claims_flush: true,
        speaker: Some(Speaker::new()),
        ..Disk::new()
    }
}

fn config() -> InitiatorConfig {
    InitiatorConfig {
        incarnation: 0x1234_5678_9abc_def0,
        ..InitiatorConfig::default()
    }
}

fn bench() -> Bench {
    Bench::new(speaking(), config())
}

fn speaker(bench: &mut Bench) -> &mut Speaker {
    bench.disk.speaker.as_mut().unwrap()
}

const FLUSH_EXT: u8 = 0xea;
const LOST: Result<Outcome, IoError> = Err(IoError::UnflushedLost(RestartEvidence::Session));
const FLUSHED: Result<Outcome, IoError> = Ok(Outcome::Flushed(Durability::Claimed));

fn is_write(frame: &[u8]) -> bool {
    frame[19] == 0 && frame[27] == 0x34
}

fn is_flush(frame: &[u8]) -> bool {
    frame[19] == 0 && matches!(frame[27], FLUSH | FLUSH_EXT)
}

fn session_in(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

fn flush(bench: &mut Bench, target: TargetId) -> Result<Outcome, IoError> {
    bench.submit(target, Operation::Flush, Vec::new());
    bench.run(ms(100));
    bench.result()
}

fn state(bench: &Bench, target: TargetId) -> SessionState {
    bench.initiator.target(target).unwrap().session
}

fn failure(bench: &mut Bench) -> Option<AttachFailure> {
    bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    bench.run(ms(2500));
    bench.notices.iter().find_map(|notice| match notice {
        Notice::AttachFailed(_, _, failure) => Some(*failure),
        _ => None,
    })
}

/// All that goes over the wire in a history with losses, restarts and a silence. What the target is sent must not depend on what
/// it is not told.
fn history(config: InitiatorConfig) -> Vec<(u64, Vec<u8>)> {
    let disk = Disk {
        claims_flush: true,
        ..Disk::new()
    };
    let config = InitiatorConfig {
        frame_lifetime: ms(50),
        ..config
    };
    let mut bench = Bench::with_interfaces(2, disk, config);
    let mut wire = Vec::new();
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..2000_u32 {
        bench.initiator.handle_timeout(bench.now);
        bench.collect();
        if bench.initiator.target(target).is_some() && round % 3 == 0 {
            let lba = rng.u64(..200);
            match rng.u8(..10) {
                0 => bench.submit(target, Operation::Flush, Vec::new()),
                1..4 => bench.submit(target, Operation::Read { lba: Lba(lba) }, vec![0; 20 * 512]),
                _ => bench.write_sectors(target, lba, 20, round as u8),
            }
        }
        if matches!(round, 500 | 900) {
            bench.give(&advertisement());
            bench.initiator.accept_loss(target);
        }
        let deaf = (1000..1300).contains(&round);
        for frame in bench.take_frames() {
            let lost = deaf || rng.u8(..20) == 0;
            let reply = (!lost).then(|| bench.serve(&frame)).flatten();
            wire.push((bench.now.as_nanos(), frame));
            if let Some(reply) = reply.filter(|_| rng.u8(..20) != 0) {
                bench.give(&reply);
            }
        }
        bench.now = bench.now + ms(2);
    }
    wire
}

/// S5: what other targets see is the same whether this initiator has an incarnation or not: no vendor command, no session.
#[test]
fn foreign_targets_see_nothing_of_it() {
    let wire = history(config());
    assert!(wire.iter().filter(|(_, frame)| is_write(frame)).count() > 100);
    assert!(wire.iter().any(|(_, frame)| is_flush(frame)));
    for (_, frame) in &wire {
        assert!(frame[19] <= 1, "{frame:02x?}");
        assert!(frame[19] == 1 || session_in(frame) == 0, "{frame:02x?}");
    }
    assert!(wire == history(InitiatorConfig::default()));
}

#[test]
fn all_ata_commands_carry_the_session() {
    let mut bench = bench();
    let target = bench.attach();
    let number = speaker(&mut bench).number_of(OURS).unwrap();
    assert_eq!(state(&bench, target), SessionState::Held(Session(number)));
    bench.write_sectors(target, 3, 40, 0xaa);
    bench.read(target, 100, 40);
    bench.submit(target, Operation::Flush, Vec::new());
    bench.submit(target, Operation::Identify, vec![0; 512]);
    let mut seen = 0;
    bench.pass(|frame| {
        if frame[19] == 0 {
            assert_eq!(session_in(frame), number, "{:02x?}", &frame[..36]);
            seen += 1;
        }
        true
    });
    assert_eq!(seen, 3 + 3 + 1 + 1);
    for _ in 0..4 {
        assert!(bench.result().is_ok());
    }
    assert_eq!(speaker(&mut bench).attaches, 1);
    let counters = bench.initiator.counters();
    assert_eq!((counters.sessions, counters.sessions_void), (1, 0));
}

/// The attach is over when there is a session, however late, and no WRITE goes out before.
#[test]
fn an_attach_waits_for_its_session() {
    let mut bench = bench();
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    bench.run_while(ms(300), |frame| frame[19] != 0xf0);
    assert!(bench.initiator.target(target).is_none());
    bench.run(ms(200));
    assert!(matches!(state(&bench, target), SessionState::Held(_)));
}

#[test]
fn attaches_that_come_to_no_session_say_why() {
    let too_long = AttachFailure::SessionRefused(SessionRefusal::Lifetime {
        lifetime_ms: 2000,
        remembered_ms: 1999,
    });
    type Spoil = fn(&mut Speaker);
    let cases: [(Spoil, AttachFailure); 6] = [
        (|speaker| speaker.remembered_ms = 1999, too_long),
        (
            // One that grants a session all the same.
            |speaker| (speaker.remembered_ms, speaker.refusal) = (1999, Some(0)),
            too_long,
        ),
        (
            |speaker| speaker.refusal = Some(6),
            AttachFailure::SessionRefused(SessionRefusal::NoneFree),
        ),
        (
            |speaker| speaker.version = 9,
            AttachFailure::SessionRefused(SessionRefusal::Version(9)),
        ),
        (
            |speaker| speaker.refusal = Some(8),
            AttachFailure::SessionRefused(SessionRefusal::Status(SandrailStatus::NotDurable)),
        ),
        (
            |speaker| speaker.mute = true,
            AttachFailure::SessionUnanswered,
        ),
    ];
    for (spoil, expected) in cases {
        let mut bench = bench();
        spoil(speaker(&mut bench));
        assert_eq!(failure(&mut bench), Some(expected));
        // The place and the address are free again.
        bench
            .initiator
            .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
            .unwrap();
    }
    let mut bench = Bench::new(speaking(), InitiatorConfig::default());
    let none = AttachFailure::SessionRefused(SessionRefusal::NoIncarnation);
    assert_eq!(failure(&mut bench), Some(none));
}

/// Numbers that are not durable yet are a matter of milliseconds.
#[test]
fn a_refusal_that_passes_is_waited_for() {
    let mut bench = bench();
    speaker(&mut bench).refusal = Some(8);
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
        .unwrap();
    bench.run(ms(300));
    assert!(bench.initiator.target(target).is_none());
    speaker(&mut bench).refusal = None;
    bench.run(ms(100));
    assert!(matches!(state(&bench, target), SessionState::Held(_)));
}

/// Reserved for others or fenced: attached, so that it can be read and reserved; nothing is written, with or without session.
#[test]
fn without_a_session_nothing_is_written() {
    for (status, refusal) in [(4, SessionRefusal::Reserved), (5, SessionRefusal::Fenced)] {
        let mut bench = bench();
        speaker(&mut bench).refusal = Some(status);
        let target = bench
            .initiator
            .attach(bench.now, ADDR, PinnedMacs::first_to_answer())
            .unwrap();
        bench.run(ms(2500));
        assert_eq!(state(&bench, target), SessionState::Refused(refusal));
        let attaches = speaker(&mut bench).attaches;
        for _ in 0..5 {
            bench.write(target, 5, 0xaa);
            bench.submit(target, Operation::Flush, Vec::new());
        }
        bench.read(target, 5, 1);
        bench.run_while(ms(100), |frame| {
            assert!(!is_write(frame) && !is_flush(frame), "{frame:02x?}");
            true
        });
        for _ in 0..11 {
            let done = bench.done.pop_front().unwrap();
            let refused = !matches!(done.operation, Operation::Read { .. });
            let expected = Err(IoError::NoSession(refusal));
            assert_eq!(
                done.result,
                if refused { expected } else { Ok(Outcome::Read) }
            );
        }
        let asked = speaker(&mut bench).attaches - attaches;
        assert_eq!(asked, 1, "asked once again, for all of them");
        // Who is admitted later need not attach anew.
        speaker(&mut bench).refusal = None;
        bench.write(target, 5, 0xbb);
        bench.run(ms(60));
        assert_eq!(bench.result(), Ok(Outcome::Written));
    }
}

/// The late copy of an earlier process's attach may make the target take us for the earlier of the two: for a lifetime, being
/// fenced is not believed, and requests wait.
#[test]
fn a_fence_is_believed_after_a_lifetime() {
    let mut bench = bench();
    let target = bench.attach();
    for lasts in [1900, 2200] {
        speaker(&mut bench).sessions.clear();
        speaker(&mut bench).refusal = Some(5);
        bench.write(target, 5, 0xaa);
        bench.run(ms(lasts));
        speaker(&mut bench).refusal = None;
        bench.run(ms(100));
        let fenced = Err(IoError::NoSession(SessionRefusal::Fenced));
        let expected = if lasts > 2050 {
            fenced
        } else {
            Ok(Outcome::Written)
        };
        assert_eq!(bench.result(), expected);
    }
}

/// A fresh refusal is not asked about again, unless we changed the reservation ourselves.
#[test]
fn a_reservation_of_our_own_is_heeded_at_once() {
    let mut bench = bench();
    speaker(&mut bench).refusal = Some(4);
    let target = bench.attach();
    bench.run(ms(100));
    bench.write(target, 5, 1);
    bench.run(ms(5));
    assert_eq!(
        bench.result(),
        Err(IoError::NoSession(SessionRefusal::Reserved))
    );
    let attaches = speaker(&mut bench).attaches;
    bench.write(target, 5, 2);
    bench.run(ms(1));
    assert!(bench.result().is_err());
    assert_eq!(speaker(&mut bench).attaches, attaches, "asked a moment ago");
    speaker(&mut bench).refusal = None;
    let list = OURS.0.to_vec();
    let operation = Operation::ReserveEpoch {
        epoch: 7,
        len_bytes: 6,
    };
    bench.submit(target, operation, list);
    bench.run(ms(1));
    assert!(bench.result().is_ok());
    bench.write(target, 5, 3);
    bench.run(ms(1));
    assert_eq!(bench.result(), Ok(Outcome::Written));
}

/// S7: a restart that lost something is told by the mark of the next session, though nobody advertised anything.
#[test]
fn another_loss_mark_fails_the_flush() {
    let mut bench = bench();
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.disk.lose_power();
    for _ in 0..2 {
        assert_eq!(flush(&mut bench, target), LOST);
    }
    let told = |notice: &Notice| {
        let evidence = RestartEvidence::Session;
        matches!(notice, Notice::RestartSuspected { evidence: e, unflushed: true, .. } if *e == evidence)
    };
    assert_eq!(
        bench.notices.iter().filter(|notice| told(notice)).count(),
        1
    );
    bench.initiator.accept_loss(target);
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    assert_eq!(flush(&mut bench, target), FLUSHED);
    assert_eq!(bench.disk.flushed[5 * 512], 0xaa);
    bench.disk.lose_power();
    assert_eq!(
        flush(&mut bench, target),
        FLUSHED,
        "nothing was lost this time"
    );
}

/// S7: a target that lost writes without a restart has another mark, though the session is the same.
#[test]
fn another_loss_mark_of_the_same_session_fails_the_flush() {
    let mut bench = bench();
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let before = state(&bench, target);
    speaker(&mut bench).loss_mark += 1;
    bench.initiator.inquire(bench.now, target);
    bench.run(ms(100));
    assert_eq!(state(&bench, target), before);
    assert_eq!(flush(&mut bench, target), LOST);
    bench.initiator.accept_loss(target);
    assert_eq!(flush(&mut bench, target), FLUSHED);
}

/// S7: a restart that lost nothing is nobody's concern; what was unanswered is written under the new session.
#[test]
fn the_same_loss_mark_goes_on() {
    let mut bench = bench();
    let target = bench.attach();
    let before = speaker(&mut bench).number_of(OURS).unwrap();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    bench.write_sectors(target, 20, 100, 0xbb);
    let lost = bench.take_frames();
    assert_eq!(lost.len(), 6);
    speaker(&mut bench).sessions.clear();
    bench.write(target, 6, 0xcc);
    bench.submit(target, Operation::Flush, Vec::new());
    bench.run(ms(200));
    let mut results: Vec<_> = core::iter::from_fn(|| bench.done.pop_front())
        .map(|done| done.result)
        .collect();
    results.sort_by_key(|result| *result != FLUSHED);
    let written = Ok(Outcome::Written);
    assert_eq!(results, [FLUSHED, written, written, written]);
    assert!(
        bench.disk.data[20 * 512..120 * 512]
            .iter()
            .all(|byte| *byte == 0xbb)
    );
    let after = speaker(&mut bench).number_of(OURS).unwrap();
    assert_ne!(before, after);
    assert_eq!(state(&bench, target), SessionState::Held(Session(after)));
    assert!(
        !bench
            .notices
            .iter()
            .any(|n| matches!(n, Notice::RestartSuspected { .. }))
    );
    assert!(bench.initiator.counters().lingered_void >= 6);
    assert_eq!(
        bench.initiator.unaccounted(),
        0,
        "the old copies are dead at once"
    );
    // And they are: the target refuses every one of them.
    for frame in lost {
        let reply = bench.serve(&frame).unwrap();
        assert_eq!((reply[14] & 0x04, reply[15]), (0x04, 0x80));
        bench.give(&reply);
    }
}

/// Nothing waits for copies of an old session; copies of the one in force are waited for as ever (S3).
#[test]
fn a_range_opens_at_once_with_a_new_session_only() {
    for restarts in [true, false] {
        let mut bench = bench();
        let target = bench.attach();
        bench.write(target, 5, 0xaa);
        let late = bench.take_frames();
        if restarts {
            speaker(&mut bench).sessions.clear();
        }
        bench.run(ms(100));
        assert_eq!(bench.result(), Ok(Outcome::Written));
        assert_eq!(bench.initiator.range_is_open(target, Lba(5), 1), restarts);
        bench.write(target, 5, 0xbb);
        bench.run(ms(5));
        assert_eq!(bench.done.pop_front().is_some(), restarts);
        let reply = bench.serve(&late[0]).unwrap();
        bench.give(&reply);
        bench.run(ms(5));
        assert_eq!(bench.disk.data[5 * 512], 0xbb);
    }
}

/// S7: a FLUSH that is under way when the mark changes fails, even if the owner takes note before it would have ended.
#[test]
fn a_flush_under_way_fails_with_the_mark() {
    let mut bench = bench();
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.submit(target, Operation::Flush, Vec::new());
    assert_eq!(bench.take_frames().len(), 1, "lost on its way");
    bench.disk.lose_power();
    bench.give(&advertisement());
    while bench.done.is_empty() {
        bench.run_while(ms(1), |frame| !is_flush(frame));
        bench.initiator.accept_loss(target);
    }
    assert_eq!(bench.result(), LOST);
    assert_eq!(flush(&mut bench, target), FLUSHED);
}

/// The same on a target without sessions.
#[test]
fn a_foreign_flush_under_way_fails_though_the_owner_took_note() {
    let disk = Disk {
        claims_flush: true,
        ..Disk::new()
    };
    let mut bench = Bench::new(disk, config());
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.submit(target, Operation::Flush, Vec::new());
    assert_eq!(bench.take_frames().len(), 1);
    bench.give(&advertisement());
    bench.initiator.accept_loss(target);
    bench.run(ms(100));
    let lost = IoError::UnflushedLost(RestartEvidence::Advertisement);
    assert_eq!(bench.result(), Err(lost));
}

/// Silence, advertisements and other configs only make us ask: a slow flush is no restart.
#[test]
fn what_looks_like_a_restart_is_asked_about() {
    let mut bench = bench();
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let asked = |bench: &mut Bench| core::mem::take(&mut speaker(bench).attaches);
    asked(&mut bench);
    // The target is at its flush for two seconds, and answers nothing meanwhile.
    bench.submit(target, Operation::Flush, Vec::new());
    bench.run_while(ms(2000), |_| false);
    bench.run(ms(200));
    assert_eq!(bench.result(), FLUSHED);
    assert!(asked(&mut bench) >= 1);
    bench.write(target, 5, 0xbb);
    bench.run(ms(100));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    for _ in 0..20 {
        bench.give(&advertisement());
        bench.run(ms(1));
    }
    bench.run(ms(100));
    assert!((1..=3).contains(&asked(&mut bench)), "one in 50 ms");
    bench.disk.buffer_count = 8;
    bench.give(&advertisement());
    bench.run(ms(100));
    assert!(asked(&mut bench) >= 1);
    assert_eq!(flush(&mut bench, target), FLUSHED);
    assert!(
        !bench
            .notices
            .iter()
            .any(|n| matches!(n, Notice::RestartSuspected { .. }))
    );
}

/// A target whose sessions never hold is asked every 50 ms, not as fast as the wire allows; the WRITE ends with its deadline.
#[test]
fn sessions_that_never_hold_are_asked_for_slowly() {
    let mut bench = bench();
    let target = bench.attach();
    speaker(&mut bench).attaches = 0;
    bench.write(target, 5, 0xaa);
    speaker(&mut bench).knows_none = true;
    let mut writes = 0;
    bench.run_while(ms(11_000), |frame| {
        writes += u32::from(is_write(frame));
        true
    });
    let attaches = speaker(&mut bench).attaches;
    assert!((150..=201).contains(&attaches), "{attaches} in 10 s");
    assert!(writes <= attaches + 1, "{writes}");
    assert!(matches!(bench.result(), Err(IoError::Deadline { .. })));
}

/// Every path asks for itself, and carries nothing that changes anything before it was let in.
#[test]
fn each_path_is_let_in_by_itself() {
    let mut bench = Bench::with_interfaces(2, speaking(), config());
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::new(&[THEIRS]).unwrap())
        .unwrap();
    let second = ours(1);
    let of_second = |frame: &[u8]| frame[6..12] == second.0;
    bench.run_while(ms(2100), |frame| !(frame[19] == 0xf0 && of_second(frame)));
    let number = speaker(&mut bench).number_of(OURS).unwrap();
    assert_eq!(state(&bench, target), SessionState::Held(Session(number)));
    for lba in 0..40 {
        bench.write(target, lba, 1);
    }
    bench.run_while(ms(20), |frame| {
        assert!(!(is_write(frame) && of_second(frame)));
        frame[19] != 0xf0
    });
    assert_eq!(bench.done.len(), 40);
    bench.done.clear();
    bench.run(ms(300));
    assert_eq!(
        speaker(&mut bench).number_of(second),
        Some(number),
        "the same session"
    );
    for lba in 0..40 {
        bench.write(target, lba, 2);
    }
    let by_second = bench.take_frames_of(1);
    assert!(by_second.len() > 5 && by_second.iter().all(|frame| is_write(frame)));
    for frame in by_second {
        let reply = bench.serve(&frame).unwrap();
        bench.give(&reply);
    }
    bench.run(ms(20));
    assert_eq!(bench.done.len(), 40);
    assert_eq!(bench.initiator.counters().sessions_void, 0);
}

/// An answer that names the former session may come late by another path: it must not bring that session back.
#[test]
fn a_late_answer_does_not_bring_an_old_session_back() {
    let mut bench = Bench::with_interfaces(2, speaking(), config());
    let target = bench
        .initiator
        .attach(bench.now, ADDR, PinnedMacs::new(&[THEIRS]).unwrap())
        .unwrap();
    bench.run(ms(500));
    let old = state(&bench, target);
    bench.give(&advertisement());
    // Both paths ask, and the target answers the second's question before it restarts.
    let asks = bench.take_frames();
    let asks: Vec<_> = asks.into_iter().filter(|frame| frame[19] == 0xf0).collect();
    assert_eq!(asks.len(), 2);
    let late = bench.serve(&asks[1]).unwrap();
    speaker(&mut bench).sessions.clear();
    let fresh = bench.serve(&asks[0]).unwrap();
    bench.give(&fresh);
    let new = state(&bench, target);
    assert_ne!(new, old);
    bench.give(&late);
    assert_eq!(state(&bench, target), new);
    bench.run(ms(200));
    assert_eq!(state(&bench, target), new);
    assert_eq!(bench.initiator.counters().sessions, 2);
}

/// A new life of the process ends the old one's sessions: nothing has to be waited for, though the last end was not clean.
#[test]
fn no_quarantine_with_a_session() {
    let quarantined = InitiatorConfig {
        write_quarantine: ms(2000),
        ..config()
    };
    let mut bench = bench();
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    let late = bench.take_frames();
    let disk = core::mem::replace(&mut bench.disk, Disk::new());
    let next_life = InitiatorConfig {
        incarnation: 99,
        ..quarantined
    };
    let mut bench = Bench::new(disk, next_life);
    let target = bench.attach();
    bench.write(target, 5, 0xbb);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written), "at once");
    assert_eq!(bench.serve(&late[0]).unwrap()[15], 0x80);
    assert_eq!(bench.disk.data[5 * 512], 0xbb);
}

/// Something without sessions answers in the target's place: it would carry out every late copy.
#[test]
fn a_target_that_withdraws_its_sessions_is_written_no_more() {
    let mut bench = bench();
    let target = bench.attach();
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    let speaker = bench.disk.speaker.take();
    bench.give(&advertisement());
    bench.run(ms(50));
    let refused = Err(IoError::NoSession(SessionRefusal::Withdrawn));
    bench.write(target, 5, 0xbb);
    bench.submit(target, Operation::Flush, Vec::new());
    bench.read(target, 5, 1);
    bench.run_while(ms(100), |frame| {
        assert!(!is_write(frame) && !is_flush(frame) && frame[19] != 0xf0);
        true
    });
    assert_eq!((bench.result(), bench.result()), (refused, refused));
    assert_eq!(bench.result(), Ok(Outcome::Read));
    bench.disk.speaker = speaker;
    bench.give(&advertisement());
    bench.run(ms(100));
    assert_eq!(
        flush(&mut bench, target),
        LOST,
        "what was there in between nobody knows"
    );
    bench.initiator.accept_loss(target);
    assert_eq!(flush(&mut bench, target), FLUSHED);
}

/// The target restarts, loses nothing, and a new session begins.
fn speaker_sessions_end(bench: &mut Bench, target: TargetId) {
    let before = state(bench, target);
    speaker(bench).sessions.clear();
    bench.give(&advertisement());
    bench.run(ms(100));
    assert_ne!(state(bench, target), before);
}

/// The other way round: WRITEs without a session may be under way, and are accounted for by the common rule.
#[test]
fn a_target_that_learns_sessions_is_another() {
    let mut bench = bench();
    let speaker = bench.disk.speaker.take();
    let target = bench.attach();
    assert_eq!(state(&bench, target), SessionState::Unspoken);
    bench.write(target, 5, 0xaa);
    bench.run(ms(5));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    bench.write(target, 6, 0xaa);
    let late = bench.take_frames();
    assert_eq!(session_in(&late[0]), 0);
    bench.disk.speaker = speaker;
    bench.give(&advertisement());
    bench.run(ms(100));
    assert!(matches!(state(&bench, target), SessionState::Held(_)));
    assert_eq!(bench.result(), Ok(Outcome::Written));
    assert!(!bench.initiator.range_is_open(target, Lba(6), 1));
    // A session that ends says nothing of copies that had none.
    speaker_sessions_end(&mut bench, target);
    assert!(!bench.initiator.range_is_open(target, Lba(6), 1));
    let lost = IoError::UnflushedLost(RestartEvidence::Advertisement);
    assert_eq!(flush(&mut bench, target), Err(lost));
    bench.run(ms(2500));
    assert!(bench.initiator.range_is_open(target, Lba(6), 1));
}

/// S8: the epoch decides, a copy of the same is a success, and a stale one learns what is in force.
#[test]
fn reservations_by_epoch() {
    let mut bench = bench();
    let target = bench.attach();
    let (a, b) = (OURS.0, MacAddr([2, 0, 0, 0, 0, 0x77]).0);
    let mut reserve = |epoch, macs: &[[u8; 6]]| {
        let mut buffer = macs.concat();
        let len_bytes = buffer.len() as u16;
        buffer.resize(12, 0xee);
        let operation = Operation::ReserveEpoch { epoch, len_bytes };
        bench.submit(target, operation, buffer);
        bench.run(ms(5));
        let done = bench.done.pop_front().unwrap();
        (done.result, done.buffer)
    };
    let in_force = |epoch, len_bytes| Ok(Outcome::Reserved { epoch, len_bytes });
    let stale = |epoch, len_bytes| Err(IoError::StaleEpoch { epoch, len_bytes });
    let both = [a, b].concat();
    assert_eq!(reserve(5, &[a, b]), (in_force(5, 12), both.clone()));
    assert_eq!(reserve(5, &[a, b]), (in_force(5, 12), both.clone()));
    assert_eq!(reserve(4, &[b]), (stale(5, 12), both.clone()));
    assert_eq!(reserve(5, &[b]), (stale(5, 12), both));
    let (result, buffer) = reserve(u64::MAX, &[b]);
    assert_eq!((result, &buffer[..6]), (in_force(u64::MAX, 6), &b[..]));
    let (result, _) = reserve(6, &[]);
    assert_eq!(result, stale(u64::MAX, 6));
}

/// Its copies keep the next change waiting as a plain SET's do, and a foreign target never sees it.
#[test]
fn a_reservation_by_epoch_closes_like_any_change() {
    let mut bench = bench();
    let target = bench.attach();
    let reserve = |epoch| Operation::ReserveEpoch {
        epoch,
        len_bytes: 6,
    };
    bench.submit(target, reserve(1), OURS.0.to_vec());
    assert_eq!(bench.take_frames().len(), 1, "lost");
    bench.run(ms(100));
    assert!(bench.result().is_ok());
    bench.submit(target, reserve(2), OURS.0.to_vec());
    bench.run(ms(1500));
    assert!(bench.done.is_empty(), "the first copy may still arrive");
    bench.run(ms(1000));
    assert!(bench.result().is_ok());
    let mut bench = Bench::new(Disk::new(), config());
    let target = bench.attach();
    let request = Request {
        target,
        operation: reserve(1),
        buffer: OURS.0.to_vec(),
        timeout: ms(1000),
        user: 0,
    };
    let rejected = bench.initiator.submit(bench.now, request).unwrap_err();
    assert_eq!(rejected.error, SubmitError::NoEpochs);
    assert!(bench.take_frames().is_empty());
}
