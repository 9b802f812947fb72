//! Sessions (S5), copies of requests (S6), the loss mark (S7) and lives of initiators (S10).
#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are small numbers"
)]

mod target_bed;

use core::time::Duration;

use sandrail_proto::aoe::target::*;
use sandrail_wire::MacAddr;
use sandrail_wire::aoe::Session;
use target_bed::*;

const VOID: [u8; 2] = [0x1c, 0x80];

fn status(reply: &[u8]) -> u8 {
    assert_eq!(reply[14..16], [0x18, 0], "{}", text(reply));
    assert_eq!(reply[24..29], *b"SRAL\x01");
    reply[30]
}

#[test]
fn the_vendor_command_byte_by_byte() {
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.persistent.epoch = 9;
        target.persistent.reserved = vec![A, B];
    });
    let lead = "02000000000c 02000000000a 88a2 18 00 0007 03 f0";
    let hello = frame(
        A,
        "10 00 0007 03 f0 80000005 5352414c 01 00 00 05 ffffffff 1122334455667788 0000 0000 \
         0000000000000000 0000000000000000 00000000 00000000",
    );
    let expected = format!(
        "{lead} 80000005 5352414c 01 00 00 05 00000007 1122334455667788 0000 0002 \
         0000000000000009 000000000000a1a2 000007d0 00000000 02000000000c 02000000000d"
    );
    assert_eq!(text(&bed.ask(&hello)), text(&hex(&expected)));
    let expected = format!(
        "{lead} 00000006 5352414c 01 01 00 02 00000003 1122334455667788 0100 0000 \
         0000000000000009 000000000000a1a2 000007d0 00000000"
    );
    let request = attach(A, 6, 0x1122_3344_5566_7788, 2);
    assert_eq!(text(&bed.ask(&request)), text(&hex(&expected)));
    // Its session is what ATA commands carry, and what answers echo.
    let reply = bed.ask(&Ata::write(1, 8, 1).under(0x100).filled(1));
    assert_eq!(outcome(&reply), "1800 410000400800000000000100");
    // A hello to all is answered, an attach to all is not.
    let mut all = hello.clone();
    all[16..19].fill(0xff);
    assert_eq!(status(&bed.ask(&all)), 0);
    let mut all = request.clone();
    all[16..19].fill(0xff);
    assert_eq!(status(&bed.ask(&all)), 3);
    // Another version: ours is told. Another operation.
    let mut odd = hello.clone();
    odd[28] = 2;
    assert_eq!(status(&bed.ask(&odd)), 1);
    odd.truncate(29);
    assert_eq!(status(&bed.ask(&odd)), 1);
    let mut odd = hello;
    odd[29] = 3;
    assert_eq!(status(&bed.ask(&odd)), 2);
    // A list longer than the frame.
    let mut odd = request.clone();
    odd[47] = 1;
    assert_eq!(bed.ask(&odd)[14..16], [0x1c, 2]);
    // No incarnation; no sessions wanted; frames that live longer than is remembered.
    for (at, bytes) in [
        (36, [0; 8].as_slice()),
        (32, &[0, 0, 0, 2]),
        (64, &[0, 0, 7, 0xd1]),
    ] {
        let mut odd = request.clone();
        odd[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(status(&bed.ask(&odd)), 3, "at {at}");
    }
    assert_eq!(
        status(&bed.ask(&attach(C, 1, 5, 0))),
        4,
        "reserved for others"
    );
    assert_eq!(bed.counters().attaches_refused, 5);
    bed.assert_idle();
}

#[test]
fn what_changes_something_needs_a_session_that_is_its_senders() {
    let mut bed = Bed::new(Pace::Inline);
    let session = bed.session(A, 7, 0);
    for wrong in [
        Ata::write(1, 0, 1).under(session + 1),
        Ata::write(1, 0, 1).from(B).under(session),
        Ata::write(1, 0, 1).under(0xffff),
    ] {
        let reply = bed.ask(&wrong.filled(1));
        assert_eq!(reply[14..16], VOID);
        assert_eq!(
            reply[24..36],
            wrong.bare()[24..36],
            "the request's registers"
        );
    }
    assert_eq!(bed.ask(&Ata::flush(1).under(9).bare())[14..16], VOID);
    let trim = Ata::trim(1).under(9).with(&ranges(&[(0, 1)]));
    assert_eq!(bed.ask(&trim)[14..16], VOID);
    assert!(bed.disk().log.is_empty());
    assert_eq!(bed.counters().refused_session, 5);
    // Reads are served under any, and tell it back.
    let reply = bed.ask(&Ata::read(1, 0, 1).under(0xbeef).bare());
    assert_eq!((reply[14], &reply[34..36]), (0x18, &[0xbe, 0xef][..]));
    // Who knows of no sessions is served, unless they are required.
    assert_eq!(bed.ask(&Ata::write(1, 0, 1).from(B).filled(1))[27], 0x40);
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.sessions = SessionRule::Required;
    });
    assert_eq!(bed.ask(&Ata::write(1, 0, 1).filled(1))[14..16], VOID);
    assert_eq!(bed.ask(&Ata::flush(1).bare())[14..16], VOID);
    assert_eq!(bed.ask(&Ata::read(1, 0, 1).bare()).len(), 548);
}

#[test]
fn copies_are_answered_and_not_executed() {
    let mut bed = Bed::new(Pace::Inline);
    let session = bed.session(A, 7, 0);
    let write = Ata::write(0x120, 8, 2).under(session);
    bed.ask(&write.filled(1));
    bed.ask(&Ata::write(0x130, 8, 2).under(session).filled(2));
    // The late copy of the first: answered under its own tag, like the first was, and without effect.
    let copy = Ata {
        tag: 0x125,
        ..write
    };
    let reply = bed.ask(&copy.filled(1));
    assert_eq!(
        outcome(&reply),
        format!("1800 410000400800000000000{session:x}")
    );
    assert_eq!(reply[20..24], [0, 0, 1, 0x25]);
    assert_eq!(bed.disk().memory[8 * 512], 2);
    assert_eq!(bed.counters().copies_answered, 1);
    // Whatever differs in the key is another request.
    let others = [
        Ata {
            tag: 0x140,
            ..write
        },
        Ata { lba: 9, ..write },
        Ata { count: 1, ..write },
        Ata {
            command: 0x35,
            ..write
        },
    ];
    for (number, other) in others.into_iter().enumerate() {
        bed.ask(&other.filled(3 + number as u8));
        assert_eq!(bed.disk().log.len(), 3 + number);
    }
    // FLUSH and TRIM, too.
    for request in [
        Ata::flush(0x200).under(session).bare(),
        Ata::trim(0x210).under(session).with(&ranges(&[(50, 1)])),
    ] {
        let before = bed.disk().log.len();
        bed.ask(&request);
        bed.ask(&request);
        assert_eq!(bed.disk().log.len(), before + 1);
    }
    // READs are executed each time.
    let before = bed.disk().log.len();
    bed.ask(&Ata::read(0x300, 0, 1).under(session).bare());
    bed.ask(&Ata::read(0x300, 0, 1).under(session).bare());
    assert_eq!(bed.disk().log.len(), before + 2);
    // Without a session each copy is a request, as on other targets.
    for _ in 0..2 {
        bed.ask(&Ata::write(0x400, 0, 1).from(B).filled(1));
    }
    assert_eq!(bed.disk().log.len(), before + 4);
    bed.assert_idle();
}

#[test]
fn a_copy_of_what_still_executes_or_waits_is_dropped() {
    let mut bed = Bed::new(Pace::Held);
    let session = bed.session(A, 7, 0);
    let first = Ata::write(0x10, 0, 4).under(session);
    let second = Ata::write(0x20, 2, 4).under(session);
    bed.give(&first.filled(1));
    bed.give(&second.filled(2));
    for tag in [0x11, 0x12] {
        bed.give(&Ata { tag, ..first }.filled(1));
    }
    bed.give(
        &Ata {
            tag: 0x21,
            ..second
        }
        .filled(2),
    );
    assert_eq!(bed.blade.counters().rx_copy_executing, 3);
    bed.finish();
    assert_eq!(bed.replies().len(), 2);
    bed.give(&Ata { tag: 0x13, ..first }.filled(1));
    bed.give(
        &Ata {
            tag: 0x22,
            ..second
        }
        .filled(2),
    );
    assert_eq!(bed.replies().len(), 2);
    assert_eq!(bed.disk().log.len(), 2, "each was executed once");
    bed.assert_idle();
}

#[test]
fn a_failure_is_told_again_as_well() {
    use sandrail_proto::aoe::target::backing::DiskError;
    let mut bed = Bed::new(Pace::Inline);
    let session = bed.session(A, 7, 0);
    bed.disk().bad = Some(9);
    let write = Ata::write(0x10, 8, 2).under(session);
    let failed = bed.ask(&write.filled(1));
    assert_eq!(failed[25..28], [0x40, 1, 0x41]);
    // A copy that succeeded after the sender had heard of the failure would overwrite what the sender writes next.
    bed.disk().bad = None;
    assert_eq!(bed.ask(&write.filled(1))[24..], failed[24..]);
    bed.disk().error = Some(DiskError::NoSpace);
    let flush = Ata::flush(0x20).under(session).bare();
    assert_eq!(bed.ask(&flush)[27], 0x61);
    bed.disk().error = None;
    assert_eq!(bed.ask(&flush)[27], 0x61);
    assert_eq!(bed.disk().log.len(), 2);
}

#[test]
fn what_is_remembered_lives_two_lifetimes_from_its_last_answer_and_not_longer() {
    let mut bed = Bed::new(Pace::Held);
    let session = bed.session(A, 7, 0);
    let write = Ata::write(0x10, 0, 1).under(session);
    bed.give(&write.filled(1));
    bed.advance(Duration::from_secs(5));
    bed.finish();
    assert_eq!(bed.replies().len(), 1);
    for _ in 0..3 {
        bed.advance(2 * LIFETIME - Duration::from_nanos(1));
        bed.turn();
        bed.ask(&write.filled(1));
        assert_eq!(
            bed.disk().log.len(),
            1,
            "it counts from the end, and again from each answer"
        );
    }
    bed.advance(2 * LIFETIME);
    bed.ask(&write.filled(1));
    assert_eq!(
        bed.disk().log.len(),
        1,
        "what comes now may have waited in a ring since the last turn"
    );
    bed.turn();
    bed.advance(2 * LIFETIME);
    bed.turn();
    bed.give(&write.filled(1));
    assert_eq!(bed.disk().log.len(), 2, "the tag is used again");
}

#[test]
fn a_full_memory_refuses_new_writes_and_forgets_nothing() {
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |config, _| {
        config.duplicates_max = 16;
    });
    let session = bed.session(A, 7, 0);
    let write = |tag: u32| Ata::write(tag << 4, u64::from(tag), 1).under(session);
    for tag in 0..16 {
        bed.ask(&write(tag).filled(1));
    }
    for tag in 16..20 {
        bed.give(&write(tag).filled(1));
    }
    assert_eq!(bed.blade.counters().rx_duplicates_full, 4);
    assert!(bed.replies().is_empty());
    assert_eq!(bed.blade.held(), Held::default());
    for tag in 0..16 {
        bed.ask(&write(tag).filled(2));
    }
    assert_eq!(
        bed.disk().log.len(),
        16,
        "the youngest and the oldest are known still"
    );
    // Who has no session, and reads, go on.
    bed.ask(&Ata::write(1, 0, 1).filled(9));
    bed.ask(&Ata::read(1, 0, 1).bare());
    bed.advance(2 * LIFETIME);
    bed.turn();
    bed.ask(&write(16).filled(1));
    assert_eq!(bed.disk().log.len(), 19);
}

#[test]
fn something_slow_does_not_fill_the_memory() {
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Held), |config, _| {
        config.duplicates_max = 16;
    });
    let session = bed.session(A, 7, 0);
    let write = |tag: u32| Ata::write(tag << 4, u64::from(tag), 1).under(session);
    bed.give(&write(0).filled(1));
    for tag in 1..200 {
        bed.give(&write(tag).filled(1));
        bed.disk().end(1);
        bed.turn();
        assert_eq!(bed.replies().len(), 1, "write {tag}");
        bed.advance(LIFETIME / 5);
        bed.turn();
        bed.give(&write(0).filled(1));
        assert_eq!(bed.blade.counters().rx_copy_executing, u64::from(tag));
    }
    bed.finish();
    bed.give(&write(0).filled(1));
    assert_eq!(bed.replies().len(), 2);
    assert_eq!(bed.disk().log.len(), 200);
    bed.assert_idle();
}

#[test]
fn each_shard_of_a_life_has_its_session_on_all_its_paths() {
    let mut bed = Bed::new(Pace::Inline);
    let first = bed.session(A, 7, 0);
    assert_eq!(bed.session(A, 7, 0), first, "a copy of the attach");
    let second = bed.session(A, 7, 1);
    assert_ne!(second, first);
    assert_eq!(bed.session(B, 7, 0), first, "another path");
    assert_eq!(
        bed.ask(&Ata::write(1, 0, 1).from(B).under(first).filled(1))[27],
        0x40
    );
    let other = bed.ask(&Ata::write(1, 0, 1).from(B).under(second).filled(1));
    assert_eq!(other[14..16], VOID);
    // A copy over another path is none: a request stays on its path, and MAC is part of the key.
    let opened = |event: &BladeEvent| matches!(event, BladeEvent::SessionOpened { .. });
    assert_eq!(bed.events().iter().filter(|event| opened(event)).count(), 2);
    assert_eq!(bed.counters().attaches, 4);
}

#[test]
fn a_new_life_ends_the_old_ones_sessions() {
    let mut bed = Bed::new(Pace::Held);
    let old = bed.session(A, 7, 0);
    let shared = bed.session(B, 7, 1);
    assert_eq!(bed.session(A, 7, 1), shared);
    let others = bed.session(C, 9, 0);
    bed.give(&Ata::write(0x10, 0, 1).under(old).filled(1));
    bed.give(&Ata::write(0x20, 0, 1).under(old).filled(2));
    bed.give(&Ata::write(0x30, 0, 1).from(C).under(others).filled(3));
    bed.events();
    let new = bed.session_after(A, 8, 0, 1);
    assert!(![old, shared, others].contains(&new));
    let voided: Vec<_> = bed
        .events()
        .iter()
        .filter_map(|event| match event {
            BladeEvent::SessionVoided { session, why, .. } => Some((*session, *why)),
            _ => None,
        })
        .collect();
    let why = VoidReason::NewIncarnation;
    assert_eq!(voided, [(Session(old), why), (Session(shared), why)]);
    // What waited under it was thrown away, what runs ends, what others wait for goes on.
    bed.finish();
    let begun: Vec<_> = bed.disk().log.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(begun, ["write"; 2]);
    assert_eq!(bed.disk().memory[0], 3);
    assert_eq!(bed.counters().discarded, 1);
    bed.replies();
    for (src, session) in [(A, old), (A, shared), (B, shared)] {
        let reply = bed.ask(&Ata::write(0x40, 0, 1).from(src).under(session).filled(9));
        assert_eq!(reply[14..16], VOID);
    }
    bed.give(&Ata::write(0x50, 1, 1).under(new).filled(1));
    bed.give(&Ata::write(0x60, 2, 1).from(C).under(others).filled(1));
    bed.finish();
    assert_eq!(
        bed.replies()
            .iter()
            .filter(|reply| reply[27] == 0x40)
            .count(),
        2
    );
    // Late copies of the old life's attaches are known for what they are, on its other path as well.
    assert_eq!(status(&bed.ask(&attach(A, 1, 7, 0))), 5);
    assert_eq!(status(&bed.ask(&attach(B, 1, 7, 1))), 5);
    assert_eq!(bed.session(A, 8, 0), new, "and end nothing");
    bed.assert_idle();
}

#[test]
fn numbers_rest_and_are_not_handed_out_over_a_restart() {
    let mut bed = Bed::new(Pace::Inline);
    let mut numbers = Vec::new();
    for incarnation in 1..=300 {
        let reply = bed.ask(&attach(A, 1, incarnation, 0));
        if status(&reply) == 6 {
            // Eight places, all of which rest but one.
            bed.advance(LIFETIME);
            let reply = bed.ask(&attach(A, 1, incarnation, 0));
            assert_eq!(status(&reply), 0);
            numbers.push(u16::from_be_bytes([reply[44], reply[45]]));
        } else {
            numbers.push(u16::from_be_bytes([reply[44], reply[45]]));
        }
        bed.persist(true);
    }
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), numbers.len(), "each once");
    let kept = bed
        .blade
        .target_status(TargetIndex(0))
        .unwrap()
        .state
        .clone();
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.persistent = kept;
    });
    let next = bed.session(A, 1000, 0);
    assert!(!numbers.contains(&next) && next > *numbers.last().unwrap());
    let void = bed.ask(&Ata::write(1, 0, 1).under(numbers[299]).filled(1));
    assert_eq!(void[14..16], VOID, "a restart ends all sessions");
}

#[test]
fn no_number_is_handed_out_before_it_is_durable() {
    let disk = TestDisk::new(SECTORS, Pace::Inline);
    let now = sandrail_proto::time::Instant::from_nanos(1);
    let targets = vec![(TargetConfig::new(ADDR), disk)];
    let interfaces = [interface(OURS, 9000)];
    let blade = Blade::new(BladeConfig::default(), &interfaces, targets, 1, now).unwrap();
    let mut bed = Bed { blade, now };
    bed.replies();
    bed.give(&attach(A, 1, 7, 0));
    assert_eq!(bed.blade.counters().rx_sessions_not_durable, 1);
    let (target, id, state) = bed.blade.poll_persist().unwrap();
    assert_eq!(state.session_next, 256);
    assert!(bed.blade.poll_persist().is_none(), "one at a time");
    bed.give(&attach(A, 1, 7, 0));
    assert!(bed.replies().is_empty());
    bed.blade.handle_persisted(now, target, id, false);
    // It is tried again when somebody asks.
    assert!(bed.blade.poll_persist().is_none());
    bed.give(&attach(A, 1, 7, 0));
    assert!(bed.replies().is_empty());
    assert_eq!(bed.persist(true), 1);
    assert_eq!(bed.session(A, 7, 0), 1, "0 is no session's number");
    bed.assert_idle();
}

#[test]
fn the_loss_mark_is_the_disks() {
    let mut bed = Bed::new(Pace::Inline);
    let mark = |reply: &[u8]| u64::from_be_bytes(reply[56..64].try_into().unwrap());
    assert_eq!(mark(&bed.ask(&attach(A, 1, 7, 0))), 0xa1a2);
    bed.disk().mark = 0xffff_0000_0000_0001;
    assert_eq!(mark(&bed.ask(&attach(A, 1, 7, 0))), 0xffff_0000_0000_0001);
}

#[test]
fn a_session_has_eight_macs_at_most() {
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |config, _| {
        config.initiators_max = 16;
    });
    for last in 1..=8 {
        bed.session(MacAddr([2, 0, 0, 0, 1, last]), 7, 0);
    }
    let ninth = MacAddr([2, 0, 0, 0, 1, 9]);
    assert_eq!(status(&bed.ask(&attach(ninth, 1, 7, 0))), 6);
}

#[test]
fn copies_are_known_for_as_long_as_a_backlog_may_hold_them() {
    for told in [true, false] {
        let mut bed = Bed::new(Pace::Inline);
        let session = bed.session(A, 7, 0);
        let write = |tag, byte| Ata::write(tag, 8, 1).under(session).filled(byte);
        assert_eq!(bed.ask(&write(0x10, 1))[27], 0x40);
        let begun = bed.now;
        for _ in 0..3 {
            bed.now = bed.now + 2 * LIFETIME;
            if told {
                bed.blade.handle_backlog(begun);
            }
            bed.turn();
        }
        assert_eq!(bed.ask(&write(0x20, 2))[27], 0x40);
        assert_eq!(bed.ask(&write(0x11, 1))[27], 0x40);
        let read = bed.ask(&Ata::read(0x30, 8, 1).bare());
        let newer = if told { 2 } else { 1 };
        assert_eq!(read[36], newer, "told of a backlog: {told}");
    }
}

/// Nobody says that a process has ended. Those whose MACs never come back must not keep others out for ever.
#[test]
fn sessions_of_the_dead_make_room() {
    let mut bed = Bed::new(Pace::Inline);
    let living = bed.session(A, 1, 0);
    for life in 1..100_u8 {
        bed.advance(Duration::from_secs(200));
        bed.turn();
        let mac = MacAddr([2, 0, 0, 0, 9, life]);
        bed.session(mac, 1000 + u64::from(life), 0);
        bed.persist(true);
        let write = Ata::write(u32::from(life) << 4, 0, 1).under(living);
        assert_eq!(bed.ask(&write.filled(life))[27], 0x40, "used ones stay");
    }
    let why = VoidReason::Idle;
    let ended =
        |event: &BladeEvent| matches!(event, BladeEvent::SessionVoided { why: w, .. } if *w == why);
    assert!(bed.events().iter().filter(|event| ended(event)).count() > 80);
    // They are fenced with all others all the same, and do not come back when their MAC does (S10).
    let early = MacAddr([2, 0, 0, 0, 9, 5]);
    for (epoch, list) in [(1, vec![A]), (2, vec![A, early])] {
        bed.give(&reserve_epoch(A, 1, epoch, &list));
        bed.persist(true);
        assert_eq!(status(&bed.replies()[0]), 0);
    }
    assert_eq!(status(&bed.ask(&attach(early, 1, 1005, 0))), 5);
    assert_eq!(status(&bed.ask(&attach(early, 1, 2005, 0))), 0);
    // In a crowd nobody who may live is put out.
    let mut bed = Bed::new(Pace::Inline);
    let statuses: Vec<u8> = (1..=9)
        .map(|mac| {
            status(&bed.ask(&attach(
                MacAddr([2, 0, 0, 0, 9, mac]),
                1,
                7 + u64::from(mac),
                0,
            )))
        })
        .collect();
    assert_eq!(statuses, [0, 0, 0, 0, 0, 0, 0, 0, 6]);
}
