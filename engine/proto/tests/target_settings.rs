//! Config string, mask and reservation: who may change them, and when a change is answered (S8 to S12).
#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are small numbers"
)]

mod target_bed;

use core::time::Duration;

use sandrail_proto::aoe::target::*;
use sandrail_wire::MacAddr;
use target_bed::*;

/// The answer to what changes something: nothing before the change is durable.
fn change(bed: &mut Bed, request: &[u8]) -> Vec<u8> {
    bed.give(request);
    assert!(bed.replies().is_empty(), "answered before it is durable");
    assert_eq!(bed.persist(true), 1);
    let mut replies = bed.replies();
    assert_eq!(replies.len(), 1);
    replies.remove(0)
}

fn state(bed: &Bed) -> PersistentState {
    bed.blade
        .target_status(TargetIndex(0))
        .unwrap()
        .state
        .clone()
}

fn read(bed: &mut Bed, src: MacAddr) -> [u8; 2] {
    bed.ask(&Ata::read(1, 0, 1).from(src).bare())[14..16]
        .try_into()
        .unwrap()
}

const SERVED: [u8; 2] = [0x18, 0];
const RESERVED: [u8; 2] = [0x1c, 6];

#[test]
fn the_config_string_in_all_five_ways() {
    let mut bed = Bed::new(Pace::Inline);
    let string = |reply: &[u8]| String::from_utf8(reply[32..].to_vec()).unwrap();
    assert_eq!(
        text(&bed.ask(&config(A, 1, 0, b"ignored"))[24..]),
        "0010000111100000"
    );
    // Tests against an empty string: only the empty one fits, and every string begins with it.
    assert_eq!(bed.ask(&config(A, 1, 1, b""))[29], 0x11);
    assert_eq!(bed.ask(&config(A, 1, 2, b""))[29], 0x12);
    bed.give(&config(A, 1, 2, b"h"));
    assert!(bed.replies().is_empty());

    let reply = change(&mut bed, &config(A, 2, 3, b"hello"));
    assert_eq!(
        text(&reply[14..]),
        text(&hex(
            "18 00 0007 03 01 00000002 0010 0001 11 13 0005 68656c6c6f"
        ))
    );
    assert_eq!(state(&bed).config_string, b"hello");
    // The identical string is accepted, another refused with the one that is there.
    assert_eq!(bed.ask(&config(A, 3, 3, b"hello"))[14..16], SERVED);
    let refused = bed.ask(&config(A, 0x800f_1525, 3, b"other"));
    let expected = "1c 04 0007 03 01 800f1525 0010 0001 11 13 0005 68656c6c6f";
    assert_eq!(text(&refused[14..]), text(&hex(expected)));
    for (command, given, answers) in [
        (0, "", true),
        (1, "hello", true),
        (1, "hell", false),
        (1, "hello!", false),
        (1, "", false),
        (2, "hell", true),
        (2, "hello", true),
        (2, "", true),
        (2, "hello!", false),
        (2, "ello", false),
    ] {
        bed.give(&config(A, 4, command, given.as_bytes()));
        let replies = bed.replies();
        assert_eq!(!replies.is_empty(), answers, "{command} {given:?}");
        if answers {
            assert_eq!(string(&replies[0]), "hello");
            assert_eq!(replies[0][29], 0x10 | command);
        }
    }
    let reply = change(&mut bed, &config(B, 5, 4, &[b'y'; 1024]));
    assert_eq!((reply.len(), reply[29]), (32 + 1024, 0x14));
    let reply = change(&mut bed, &config(B, 5, 4, b""));
    assert_eq!((reply.len(), reply[29]), (32, 0x14));
    let set = |event: &BladeEvent| matches!(event, BladeEvent::ConfigSet { .. });
    assert_eq!(bed.events().iter().filter(|event| set(event)).count(), 3);
    assert_eq!(bed.counters().changes_refused, 1);
    bed.assert_idle();
}

#[test]
fn the_mask_admits_members_and_answers_nobody_else() {
    let mut bed = Bed::new(Pace::Inline);
    let reply = change(
        &mut bed,
        &mask_edit(A, 1, &[(1, A), (0, C), (1, B), (1, A)]),
    );
    let members = "18 00 0007 03 02 00000001 00 01 00 02 0000 02000000000c 0000 02000000000d";
    assert_eq!(
        text(&reply[14..]),
        text(&hex(members)),
        "an edit is answered with the list"
    );
    assert_eq!(state(&bed).mask, [A, B]);
    for request in [
        Ata::read(1, 0, 1).from(C).bare(),
        frame(C, "10 00 0007 03 00 00000001 00 00 01 ec 000000a00000 0000"),
        config(C, 1, 0, b""),
        mask_edit(C, 1, &[(1, C)]),
        reserve(C, 1, 2, &[C]),
        attach(C, 1, 1, 0),
        frame(C, "20 00 0007 03 01 00000001 0000000000000000"),
        frame(C, "10 00 ffff ff 01 00000001 0000000000000000"),
    ] {
        bed.give(&request);
        assert!(bed.replies().is_empty(), "{}", text(&request));
    }
    assert_eq!(bed.blade.counters().rx_masked, 8);
    assert_eq!(read(&mut bed, B), SERVED);
    change(&mut bed, &mask_edit(A, 1, &[(2, B)]));
    bed.give(&Ata::read(1, 0, 1).from(B).bare());
    assert!(bed.replies().is_empty());
    // An empty list admits everybody.
    change(&mut bed, &mask_edit(A, 1, &[(2, A), (2, C)]));
    assert_eq!(read(&mut bed, C), SERVED);
    bed.assert_idle();
}

#[test]
fn an_edit_is_made_whole_or_not_at_all() {
    let mut bed = Bed::new(Pace::Inline);
    change(&mut bed, &mask_edit(A, 1, &[(1, A)]));
    bed.events();
    let reply = bed.ask(&mask_edit(A, 2, &[(1, B), (2, A), (3, C), (1, C)]));
    let failed = "18 00 0007 03 02 00000002 00 01 02 02";
    assert_eq!(
        text(&reply[14..]),
        text(&hex(failed)),
        "bad directive, the third, without E"
    );
    assert_eq!(state(&bed).mask, [A]);
    bed.give(&config(B, 1, 0, b""));
    assert!(bed.replies().is_empty(), "B was not added");
    // Full: the mask of an MTU of 9000 has 255 members, whatever the edits it takes.
    let mac = |number: u8| MacAddr([2, 0, 0, 0, 9, number]);
    let many: Vec<_> = (0..254).map(|number| (1, mac(number))).collect();
    let reply = change(&mut bed, &mask_edit(A, 3, &many));
    assert_eq!((reply.len(), reply[27]), (28 + 255 * 8, 255));
    let reply = bed.ask(&mask_edit(
        A,
        4,
        &[(1, mac(3)), (2, mac(7)), (1, B), (1, C)],
    ));
    assert_eq!(text(&reply[24..]), "00010303", "list full, the fourth");
    assert_eq!(state(&bed).mask.len(), 255);
    assert!(bed.events().len() == 1);
    assert_eq!(bed.persist(true), 0, "what failed is not kept");
    // An edit that changes nothing is answered at once.
    assert_eq!(bed.ask(&mask_edit(A, 5, &[(1, A), (2, C)]))[27], 255);
    assert_eq!(bed.ask(&mask_edit(A, 6, &[]))[27], 255);
    bed.assert_idle();
}

#[test]
fn lists_are_no_longer_than_answers_can_carry() {
    let disk = TestDisk::new(SECTORS, Pace::Inline);
    let targets = vec![(TargetConfig::new(ADDR), disk)];
    let mut bed = Bed::of(BladeConfig::default(), &[interface(OURS, 1500)], targets);
    let mac = |number: u8| MacAddr([2, 0, 0, 0, 9, number]);
    let first: Vec<_> = (0..150).map(|number| (1, mac(number))).collect();
    change(
        &mut bed,
        &mask_edit(A, 1, &[&[(1, A)], &first[..]].concat()),
    );
    let more: Vec<_> = (150..200).map(|number| (1, mac(number))).collect();
    let reply = bed.ask(&mask_edit(A, 2, &more));
    assert_eq!(reply[26..28], [3, 34], "151 and 34 directives fill the MTU");
    change(&mut bed, &mask_edit(A, 3, &more[..34]));
    assert!(
        bed.ask(&frame(A, "10 00 0007 03 02 00000001 00 00 00 00"))
            .len()
            <= 1514
    );
    let list: Vec<_> = (0..241).map(mac).collect();
    assert_eq!(bed.ask(&reserve(A, 1, 1, &list))[14..16], [0x1c, 2]);
    assert_eq!(bed.ask(&reserve_epoch(A, 1, 1, &list))[30], 3);
    change(&mut bed, &reserve_epoch(A, 1, 1, &list[..240]));
    let hello = "10 00 0007 03 f0 00000001 5352414c 01 00 00 00 00000003 0000000000000000 0000 0000 \
                 0000000000000000 0000000000000000 00000000 00000000";
    assert_eq!(bed.ask(&frame(A, hello)).len(), 14 + 10 + 48 + 240 * 6);
}

#[test]
fn a_reservation_shuts_out_every_ata_command_but_identify() {
    let mut bed = Bed::new(Pace::Inline);
    let reply = change(&mut bed, &reserve(A, 3, 1, &[A, B]));
    let expected = "18 00 0007 03 03 00000003 01 02 02000000000c 02000000000d";
    assert_eq!(text(&reply[14..]), text(&hex(expected)));
    for command in 0..=u8::MAX {
        let request = Ata {
            command,
            ..Ata::read(9, 0, 1).from(C)
        };
        let reply = bed.ask(&request.filled(1));
        if command == 0xec {
            assert_eq!((reply[14], reply.len()), (0x18, 548));
        } else {
            assert_eq!(reply[14..16], RESERVED, "{command:#x}");
            assert_eq!(
                reply[24..36],
                request.bare()[24..36],
                "the request's registers"
            );
        }
    }
    assert!(bed.disk().log.is_empty());
    assert_eq!(bed.counters().refused_reserved, 255);
    assert_eq!((read(&mut bed, A), read(&mut bed, B)), (SERVED, SERVED));
    // Questions are answered to all.
    assert_eq!(bed.ask(&config(C, 1, 0, b""))[14..16], SERVED);
    let expected = "18 00 0007 03 03 00000004 00 02 02000000000c 02000000000d";
    assert_eq!(
        text(&bed.ask(&reserve(C, 4, 0, &[]))[14..]),
        text(&hex(expected))
    );
    assert_eq!(bed.ask(&attach(C, 1, 1, 0))[30], 4);
    // Who is not on the list can't set it, who is on it can, also to a list without itself.
    let refused = bed.ask(&reserve(C, 5, 1, &[C]));
    let expected = "1c 06 0007 03 03 00000005 01 02 02000000000c 02000000000d";
    assert_eq!(text(&refused[14..]), text(&hex(expected)));
    change(&mut bed, &reserve(B, 6, 1, &[C]));
    assert_eq!(
        [A, B, C].map(|src| read(&mut bed, src)),
        [RESERVED, RESERVED, SERVED]
    );
    // Released: set with none.
    change(&mut bed, &reserve(C, 7, 1, &[]));
    assert_eq!(read(&mut bed, A), SERVED);
    assert_eq!(
        bed.ask(&reserve(A, 8, 1, &[]))[24..],
        [1, 0],
        "a copy changes nothing"
    );
    bed.assert_idle();
}

#[test]
fn force_is_taken_from_anyone_until_an_epoch_comes_or_from_nobody() {
    let mut bed = Bed::new(Pace::Inline);
    change(&mut bed, &reserve(A, 1, 1, &[A]));
    let reply = change(&mut bed, &reserve(C, 2, 2, &[C]));
    assert_eq!(text(&reply[24..]), "020102000000000e");
    assert_eq!([A, C].map(|src| read(&mut bed, src)), [RESERVED, SERVED]);
    let (target, by, members) = (TargetIndex(0), C, 1);
    assert!(bed.events().contains(&BladeEvent::ForcedSet {
        target,
        by,
        members
    }));
    // A late copy of that request must not come back over an epoch, unless told so.
    change(&mut bed, &reserve_epoch(A, 3, 5, &[A]));
    bed.events();
    assert_eq!(bed.ask(&reserve(C, 2, 2, &[C]))[14..16], RESERVED);
    assert_eq!([A, C].map(|src| read(&mut bed, src)), [SERVED, RESERVED]);
    assert!(!state(&bed).forced && state(&bed).reserved == [A]);
    let refused = BladeEvent::SetRefused {
        target: TargetIndex(0),
        by: C,
        epoch: 0,
    };
    assert_eq!(bed.events(), [refused]);
    // Nor when the epoch has let everybody in.
    change(&mut bed, &reserve_epoch(A, 4, 6, &[]));
    assert_eq!(bed.ask(&reserve(C, 2, 2, &[C]))[14..16], RESERVED);
    assert_eq!(read(&mut bed, A), SERVED);
    let disk = TestDisk::new(SECTORS, Pace::Inline);
    let mut bed = Bed::with(disk, |_, target| target.force_set = ForceSet::Refuse);
    assert_eq!(
        bed.ask(&reserve(A, 1, 2, &[A]))[14..16],
        RESERVED,
        "of an empty list, too"
    );
    change(&mut bed, &reserve(A, 1, 1, &[A]));
    assert_eq!(bed.ask(&reserve(A, 2, 2, &[]))[14..16], RESERVED);
    assert_eq!(state(&bed).reserved, [A]);
    let refused = BladeEvent::SetRefused {
        target: TargetIndex(0),
        by: A,
        epoch: 0,
    };
    assert_eq!(
        bed.events()
            .iter()
            .filter(|event| **event == refused)
            .count(),
        2
    );
}

/// Status and epoch of a vendor answer, and its list.
fn told(reply: &[u8]) -> (u8, u64, usize) {
    assert_eq!(reply[24..29], *b"SRAL\x01");
    let epoch = u64::from_be_bytes(reply[48..56].try_into().unwrap());
    assert_eq!(reply.len(), 72 + usize::from(reply[47]) * 6);
    (reply[30], epoch, usize::from(reply[47]))
}

#[test]
fn epochs_go_forward_only() {
    let mut bed = Bed::new(Pace::Inline);
    assert_eq!(
        told(&bed.ask(&reserve_epoch(A, 1, 0, &[A]))),
        (3, 0, 0),
        "0 is no epoch"
    );
    assert_eq!(
        told(&change(&mut bed, &reserve_epoch(A, 1, 5, &[A, B]))),
        (0, 5, 2)
    );
    assert_eq!(read(&mut bed, C), RESERVED);
    // A copy, in any order, from anyone.
    assert_eq!(told(&bed.ask(&reserve_epoch(C, 2, 5, &[B, A]))), (0, 5, 2));
    assert_eq!(bed.persist(true), 0);
    // The same epoch with another list, and older ones.
    for (epoch, list) in [
        (5, vec![A]),
        (5, vec![A, B, C]),
        (5, vec![]),
        (4, vec![A, B]),
        (1, vec![C]),
    ] {
        assert_eq!(
            told(&bed.ask(&reserve_epoch(C, 3, epoch, &list))),
            (7, 5, 2),
            "{epoch}"
        );
    }
    assert_eq!(state(&bed).reserved, [A, B]);
    // Plain sets are out of date, of whoever.
    assert_eq!(bed.ask(&reserve(A, 4, 1, &[A]))[14..16], RESERVED);
    // A newer epoch comes from whom it may: the sender need not be listed.
    assert_eq!(
        told(&change(&mut bed, &reserve_epoch(C, 5, 6, &[C]))),
        (0, 6, 1)
    );
    assert_eq!([A, C].map(|src| read(&mut bed, src)), [RESERVED, SERVED]);
    // An empty list of a newer epoch admits all; a plain set is refused still.
    assert_eq!(
        told(&change(&mut bed, &reserve_epoch(C, 5, 1 << 40, &[]))),
        (0, 1 << 40, 0)
    );
    assert_eq!(read(&mut bed, A), SERVED);
    assert_eq!(bed.ask(&reserve(A, 4, 1, &[A]))[14..16], RESERVED);
    let kept = state(&bed);
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.persistent = kept;
    });
    assert_eq!(
        told(&bed.ask(&reserve_epoch(C, 5, 6, &[C]))),
        (7, 1 << 40, 0),
        "after a restart, too"
    );
    bed.assert_idle();
}

/// A blade that takes FORCE-SET whatever is in force.
fn forcible() -> Bed {
    let disk = TestDisk::new(SECTORS, Pace::Inline);
    Bed::with(disk, |_, target| target.force_set = ForceSet::Allow)
}

#[test]
fn a_late_copy_of_an_overruled_epoch_does_not_bring_its_list_back() {
    let mut bed = forcible();
    change(&mut bed, &reserve_epoch(A, 1, 5, &[A]));
    let reply = change(&mut bed, &reserve(C, 2, 2, &[C]));
    assert_eq!(reply[14..16], SERVED);
    assert_eq!((state(&bed).epoch, state(&bed).forced), (5, true));
    assert_eq!(told(&bed.ask(&reserve_epoch(A, 1, 5, &[A]))), (7, 5, 1));
    assert_eq!(told(&bed.ask(&reserve_epoch(A, 1, 5, &[C]))), (7, 5, 1));
    assert_eq!(read(&mut bed, A), RESERVED);
    // Plain sets work again as without epochs, a newer epoch ends that.
    change(&mut bed, &reserve(C, 3, 1, &[C, B]));
    assert_eq!(
        told(&change(&mut bed, &reserve_epoch(A, 4, 6, &[A]))),
        (0, 6, 1)
    );
    assert!(!state(&bed).forced);
    assert_eq!(bed.ask(&reserve(A, 5, 1, &[A]))[14..16], RESERVED);
}

#[test]
fn a_set_that_was_overruled_before_its_answer_is_not_vouched_for() {
    for overruled_by_force in [true, false] {
        let mut bed = forcible();
        let (first, second) = if overruled_by_force {
            (reserve_epoch(A, 1, 5, &[A]), reserve(C, 2, 2, &[C]))
        } else {
            (reserve(A, 1, 1, &[A]), reserve_epoch(C, 2, 5, &[C]))
        };
        bed.give(&first);
        let (target, id, _) = bed.blade.poll_persist().unwrap();
        bed.give(&second);
        bed.blade.handle_persisted(bed.now, target, id, true);
        // The list that it asked for was durable for a moment, and is not in force.
        let replies = bed.replies();
        assert_eq!(replies.len(), 1);
        if overruled_by_force {
            assert_eq!(told(&replies[0]), (7, 5, 1));
        } else {
            assert_eq!(replies[0][14..16], RESERVED);
        }
        assert!(replies[0].ends_with(&C.0), "the list in force");
        assert_eq!(bed.persist(true), 1);
        assert_eq!(bed.replies().len(), 1);
        bed.assert_idle();
    }
}

#[test]
fn all_fenced_lives_of_a_mac_are_remembered() {
    let mut bed = Bed::new(Pace::Inline);
    for life in 1..=20 {
        bed.advance(LIFETIME);
        bed.session(A, life, 0);
        change(&mut bed, &reserve_epoch(B, 1, 2 * life, &[B]));
        change(&mut bed, &reserve_epoch(B, 1, 2 * life + 1, &[A, B]));
        bed.persist(true);
    }
    // The one before the last was fenced as well, and would end the session of the living.
    for life in 10..=20 {
        assert_eq!(bed.ask(&attach(A, 1, life, 0))[30], 5, "life {life}");
    }
    let lives = state(&bed).fenced.len();
    assert!(lives <= 16, "one MAC takes the room of all others: {lives}");
}

#[test]
fn a_set_is_answered_when_no_write_of_removed_macs_is_under_way() {
    let mut bed = Bed::new(Pace::Held);
    for (tag, lba, src) in [(1, 0, A), (2, 0, A), (3, 8, B), (4, 16, A), (5, 0, C)] {
        bed.give(&Ata::write(tag, lba, 1).from(src).filled(tag as u8));
    }
    bed.give(&Ata::trim(6).from(B).with(&ranges(&[(30, 1), (40, 1)])));
    bed.give(&Ata::read(7, 50, 1).from(A).bare());
    bed.give(&Ata::read(8, 16, 1).from(B).bare());
    bed.give(&reserve_epoch(C, 9, 1, &[C]));
    bed.persist(true);
    // What had not begun is refused: A's write behind its first, B's read behind A's write. C's waits for A's first.
    let replies = bed.replies();
    let tags: Vec<_> = replies
        .iter()
        .map(|reply| (reply[23], reply[14], reply[15]))
        .collect();
    assert_eq!(tags, [(2, 0x1c, 6), (8, 0x1c, 6)]);
    // It is in effect for new frames.
    assert_eq!(read(&mut bed, A), RESERVED);
    let mut order = vec![];
    while !bed.disk().held.is_empty() {
        let held: Vec<_> = bed
            .disk()
            .held
            .iter()
            .map(|held| (held.kind, held.lba))
            .collect();
        bed.disk().end(0);
        bed.turn();
        let replies = bed.replies();
        let is_answered = replies.iter().any(|reply| reply[19] == 0xf0);
        order.push((held[0], is_answered));
    }
    let (ends, answered): (Vec<_>, Vec<_>) = order.into_iter().unzip();
    let last_write = ends.iter().position(|end| *end == ("trim", 40)).unwrap();
    let first = answered.iter().position(|answered| *answered).unwrap();
    // A TRIM between two ranges can be thrown away as well as ended; the answer waits for what the disk has.
    assert_eq!(first, last_write, "{ends:?}");
    assert_eq!(answered.iter().filter(|answered| **answered).count(), 1);
    assert_eq!(bed.disk().memory[0], 5, "C's came last");
    assert_eq!(bed.counters().discarded, 2);
    bed.assert_idle();
}

#[test]
fn the_barrier_and_durability_are_both_waited_for() {
    for durable_first in [true, false] {
        let mut bed = Bed::new(Pace::Held);
        bed.give(&Ata::write(1, 0, 1).filled(1));
        bed.give(&reserve(C, 2, 1, &[C]));
        let answered = |bed: &mut Bed| bed.replies().iter().any(|reply| reply[19] == 3);
        assert!(!answered(&mut bed));
        if durable_first {
            bed.persist(true);
        } else {
            bed.finish();
        }
        assert!(!answered(&mut bed), "durable first: {durable_first}");
        if durable_first {
            bed.finish();
        } else {
            bed.persist(true);
        }
        assert!(answered(&mut bed), "durable first: {durable_first}");
        bed.assert_idle();
    }
}

#[test]
fn sets_one_after_another_each_have_their_own_barrier() {
    let mut bed = Bed::new(Pace::Held);
    bed.give(&Ata::write(1, 0, 1).from(A).filled(1));
    bed.give(&Ata::write(2, 8, 1).from(B).filled(1));
    bed.give(&reserve_epoch(C, 3, 1, &[B, C]));
    bed.give(&reserve_epoch(C, 4, 2, &[C]));
    // A copy of the first is stale by now.
    bed.give(&reserve_epoch(C, 3, 1, &[B, C]));
    assert_eq!(told(&bed.replies()[0]).0, 7);
    bed.persist(true);
    bed.disk().end(0);
    bed.turn();
    let tags = |replies: &[Vec<u8>]| -> Vec<u8> { replies.iter().map(|reply| reply[23]).collect() };
    assert_eq!(tags(&bed.replies()), [3, 1], "the first waited for A alone");
    bed.disk().end(0);
    bed.turn();
    assert_eq!(tags(&bed.replies()), [4, 2]);
    // A copy of the second, answered, is answered again.
    assert_eq!(told(&bed.ask(&reserve_epoch(C, 4, 2, &[C]))), (0, 2, 1));
    bed.assert_idle();
}

#[test]
fn a_copy_of_a_set_that_is_not_over_waits_as_well() {
    let mut bed = Bed::new(Pace::Held);
    bed.give(&Ata::write(1, 0, 1).from(A).filled(1));
    for tag in 0..10 {
        bed.give(&reserve_epoch(C, tag, 1, &[C]));
    }
    assert!(bed.replies().is_empty());
    assert_eq!(bed.blade.counters().rx_changes_full, 2);
    bed.finish();
    assert_eq!(bed.replies().len(), 1, "the write");
    while bed.persist(true) > 0 {}
    assert_eq!(bed.replies().len(), 8);
    bed.assert_idle();
}

#[test]
fn what_cannot_be_made_durable_is_told_and_stays_in_effect() {
    let mut bed = Bed::new(Pace::Held);
    bed.give(&Ata::write(1, 0, 1).from(A).filled(1));
    bed.give(&reserve_epoch(C, 2, 3, &[C]));
    assert_eq!(bed.persist(false), 1);
    let replies = bed.replies();
    assert_eq!(told(&replies[0]), (8, 3, 1));
    assert_eq!(read(&mut bed, A), RESERVED, "who is out stays out");
    assert!(bed.events().contains(&BladeEvent::NotDurable {
        target: TargetIndex(0)
    }));
    bed.finish();
    assert_eq!(bed.replies().len(), 1);
    // The copy is no success before it is durable.
    let reply = change(&mut bed, &reserve_epoch(C, 2, 3, &[C]));
    assert_eq!(told(&reply), (0, 3, 1));
    for request in [config(C, 1, 4, b"x"), mask_edit(C, 1, &[(1, C)])] {
        bed.give(&request);
        bed.persist(false);
        assert_eq!(bed.replies()[0][14..16], [0x1c, 3]);
        assert_eq!(change(&mut bed, &request)[14..16], SERVED);
    }
    let state = state(&bed);
    assert_eq!((state.config_string, state.mask), (b"x".to_vec(), vec![C]));
    // An outcome that nobody waits for is no matter.
    bed.blade
        .handle_persisted(bed.now, TargetIndex(0), PersistId(1), false);
    bed.blade
        .handle_persisted(bed.now, TargetIndex(9), PersistId(1), true);
    assert!(bed.blade.target_status(TargetIndex(0)).unwrap().is_durable);
    bed.assert_idle();
}

#[test]
fn changes_while_a_state_is_being_written_are_in_the_next_one() {
    let mut bed = Bed::new(Pace::Inline);
    bed.give(&config(A, 1, 4, b"one"));
    let (target, id, first) = bed.blade.poll_persist().unwrap();
    bed.give(&config(A, 2, 4, b"two"));
    bed.give(&reserve(A, 3, 1, &[A]));
    assert!(bed.blade.poll_persist().is_none());
    bed.blade.handle_persisted(bed.now, target, id, true);
    let replies = bed.replies();
    assert_eq!((replies.len(), replies[0][23]), (1, 1), "the first only");
    let (target, next, second) = bed.blade.poll_persist().unwrap();
    assert!(next > id);
    assert_eq!(
        (&first.config_string[..], &second.config_string[..]),
        (&b"one"[..], &b"two"[..])
    );
    assert_eq!((first.reserved, second.reserved), (vec![], vec![A]));
    bed.blade.handle_persisted(bed.now, target, next, true);
    assert_eq!(bed.replies().len(), 2);
    bed.assert_idle();
}

#[test]
fn a_fenced_life_is_not_admitted_again() {
    let mut bed = Bed::new(Pace::Inline);
    let (a, b) = (bed.session(A, 7, 0), bed.session(B, 8, 0));
    change(&mut bed, &reserve_epoch(B, 1, 1, &[B]));
    bed.events();
    let void = bed.ask(&Ata::write(1, 0, 1).under(a).filled(1));
    assert_eq!(void[14..16], RESERVED);
    assert_eq!(bed.ask(&attach(A, 1, 7, 0))[30], 4);
    assert_eq!(
        bed.ask(&Ata::write(1, 0, 1).from(B).under(b).filled(1))[27],
        0x40
    );
    // Listed again: its session is void for good, its life over, a new one is welcome.
    change(&mut bed, &reserve_epoch(B, 1, 2, &[A, B]));
    assert_eq!(
        bed.ask(&Ata::write(1, 0, 1).under(a).filled(1))[14..16],
        [0x1c, 0x80]
    );
    assert_eq!(bed.ask(&attach(A, 1, 7, 0))[30], 5);
    assert_eq!(bed.ask(&attach(A, 1, 7, 3))[30], 5, "whatever its shard");
    assert_eq!(state(&bed).fenced, [(A, 7)]);
    let kept = state(&bed);
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.persistent = kept;
    });
    bed.advance(Duration::from_secs(100));
    assert_eq!(bed.ask(&attach(A, 1, 7, 0))[30], 5, "after a restart, too");
    let new = bed.session(A, 9, 0);
    assert_eq!(bed.ask(&Ata::write(1, 0, 1).under(new).filled(1))[27], 0x40);
    assert_eq!(bed.session(B, 8, 0), new + 1);
}

#[test]
fn a_path_removed_ends_the_session_and_the_other_path_gets_another() {
    let mut bed = Bed::new(Pace::Inline);
    let both = bed.session(A, 7, 0);
    assert_eq!(bed.session(B, 7, 0), both);
    change(&mut bed, &reserve_epoch(B, 1, 1, &[B]));
    assert_eq!(
        bed.ask(&Ata::write(1, 0, 1).from(B).under(both).filled(1))[14..16],
        [0x1c, 0x80]
    );
    let alone = bed.session(B, 7, 0);
    assert_ne!(alone, both);
    let reply = bed.ask(&Ata::write(1, 0, 1).from(B).under(alone).filled(1));
    assert_eq!(reply[27], 0x40);
    assert_eq!(state(&bed).fenced, [(A, 7)]);
}

#[test]
fn targets_are_apart() {
    let second = sandrail_wire::TargetAddr { shelf: 7, slot: 4 };
    let targets = [ADDR, second].map(|addr| {
        (
            TargetConfig::new(addr),
            TestDisk::new(SECTORS, Pace::Inline),
        )
    });
    let mut bed = Bed::of(
        BladeConfig::default(),
        &[interface(OURS, 9000)],
        targets.into(),
    );
    bed.give(&reserve(A, 1, 1, &[A]));
    bed.give(&config(A, 1, 4, b"x"));
    assert_eq!(bed.persist(true), 1);
    assert_eq!(bed.replies().len(), 2);
    let to = |mut frame: Vec<u8>, slot: u8| {
        frame[18] = slot;
        frame
    };
    assert_eq!(
        bed.ask(&to(Ata::read(1, 0, 1).from(B).bare(), 3))[14..16],
        RESERVED
    );
    assert_eq!(
        bed.ask(&to(Ata::read(1, 0, 1).from(B).bare(), 4))[14..16],
        SERVED
    );
    let session = bed.session(A, 7, 0);
    let write = to(Ata::write(1, 0, 1).under(session).filled(1), 4);
    assert_eq!(
        bed.ask(&write)[14..16],
        [0x1c, 0x80],
        "a session is one target's"
    );
    let other = bed.ask(&to(attach(A, 1, 7, 0), 4));
    let other = u16::from_be_bytes([other[44], other[45]]);
    // The same key but for the target: no copy.
    bed.ask(&Ata::write(0x10, 0, 1).under(session).filled(1));
    bed.ask(&to(Ata::write(0x10, 0, 1).under(other).filled(1), 4));
    assert_eq!(bed.blade.backing(TargetIndex(0)).unwrap().log.len(), 1);
    assert_eq!(bed.blade.backing(TargetIndex(1)).unwrap().log.len(), 2);
    // To all: each answers for itself.
    bed.give(&frame(A, "10 00 ffff ff 01 00000001 0000 0000 00 00 0000"));
    let replies = bed.replies();
    assert_eq!((replies[0][18], replies[1][18]), (3, 4));
    assert_eq!((replies[0][31], replies[1][31]), (1, 0));
    assert_eq!(bed.blade.target_at(second), Some(TargetIndex(1)));
}
