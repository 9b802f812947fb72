//! Lives of initiators: which sessions a new one ends (S5), on whatever path, and who comes back after a fence (S10).
#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are small numbers"
)]

mod target_bed;

use sandrail_proto::aoe::target::*;
use sandrail_wire::MacAddr;
use target_bed::*;

const VOID: [u8; 2] = [0x1c, 0x80];
const DONE: u8 = 0;
const BAD_ARGUMENT: u8 = 3;
const RESERVED: u8 = 4;
const FENCED: u8 = 5;
const NOT_DURABLE: u8 = 8;
const UNBORN: u8 = 9;

/// Status and session of an attach with a list.
fn attached(bed: &mut Bed, src: MacAddr, incarnation: u64, list: &[MacAddr]) -> (u8, u16) {
    let reply = bed.ask(&attach_of(src, 9, incarnation, 0, list));
    assert_eq!(reply[46..48], [0, 0], "the list is not told back");
    (reply[30], u16::from_be_bytes([reply[44], reply[45]]))
}

fn is_void(bed: &mut Bed, src: MacAddr, session: u16) -> bool {
    let write = Ata::write(0x100, 0, 1).from(src).under(session);
    bed.ask(&write.filled(1))[14..16] == VOID
}

/// The blade was started anew, and a life came back by one of its paths only. The next life has only the other path: it must end
/// the former all the same, or a late copy is written over what is newer.
#[test]
fn a_new_life_on_another_path_ends_the_old_one() {
    let mut bed = Bed::new(Pace::Inline);
    let (status, old) = attached(&mut bed, A, 7, &[A, B]);
    assert_eq!(status, DONE);
    assert!(!is_void(&mut bed, A, old));
    assert!(
        is_void(&mut bed, B, old),
        "who is listed is no member by that"
    );
    let (status, new) = attached(&mut bed, B, 8, &[A, B]);
    assert_eq!(status, DONE);
    assert!(is_void(&mut bed, A, old));
    assert!(!is_void(&mut bed, B, new));
    // A late copy of the ended life's attach, by the path that it never had: it is known for what it is, and ends nothing.
    assert_eq!(attached(&mut bed, B, 7, &[A, B]).0, FENCED);
    assert_eq!(attached(&mut bed, A, 7, &[A, B]).0, FENCED);
    assert!(!is_void(&mut bed, B, new));
    bed.assert_idle();
}

/// An interface was taken out, or another put in: one MAC in common is enough, whichever list it is on.
#[test]
fn lists_that_differ_have_to_meet_only() {
    for (before, after, src) in [
        (vec![A, B], vec![], B),
        (vec![], vec![A, B], B),
        (vec![A, C], vec![B, C], B),
        (vec![B], vec![B], A),
    ] {
        let mut bed = Bed::new(Pace::Inline);
        let (_, old) = attached(&mut bed, A, 7, &before);
        let (_, new) = attached(&mut bed, src, 8, &after);
        assert!(is_void(&mut bed, A, old), "{before:?} then {after:?}");
        assert!(!is_void(&mut bed, src, new));
    }
    // Nothing in common: another machine.
    let mut bed = Bed::new(Pace::Inline);
    let (_, old) = attached(&mut bed, A, 7, &[A]);
    attached(&mut bed, B, 8, &[B, C]);
    assert!(!is_void(&mut bed, A, old));
}

/// Shards attach one after the other, each with its own interfaces: none ends another's session, and the first shard of the next life
/// ends all of them.
#[test]
fn a_shard_of_the_next_life_ends_what_other_shards_had() {
    let mut bed = Bed::new(Pace::Inline);
    let session = |bed: &mut Bed, src, incarnation, shard| {
        let reply = bed.ask(&attach_of(src, 9, incarnation, shard, &[A, B, C]));
        assert_eq!(reply[30], DONE);
        u16::from_be_bytes([reply[44], reply[45]])
    };
    let first = session(&mut bed, A, 7, 0);
    let second = session(&mut bed, B, 7, 1);
    assert!(!is_void(&mut bed, A, first) && !is_void(&mut bed, B, second));
    let new = session(&mut bed, C, 8, 2);
    assert!(is_void(&mut bed, A, first) && is_void(&mut bed, B, second));
    let other = session(&mut bed, A, 8, 0);
    assert!(!is_void(&mut bed, C, new) && !is_void(&mut bed, A, other));
}

/// A path that is added to a life belongs to it from its first mention on.
#[test]
fn a_longer_list_of_the_same_life_counts_from_then_on() {
    let mut bed = Bed::new(Pace::Inline);
    let (_, old) = attached(&mut bed, A, 7, &[A]);
    assert_eq!(attached(&mut bed, A, 7, &[A, C]), (DONE, old));
    attached(&mut bed, C, 8, &[]);
    assert!(is_void(&mut bed, A, old));
}

/// Who is listed and not admitted can't attach; who lists it can.
#[test]
fn a_list_needs_no_admission() {
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.persistent.reserved = vec![A];
    });
    assert_eq!(attached(&mut bed, A, 7, &[A, B]).0, DONE);
    assert_eq!(attached(&mut bed, B, 7, &[A, B]).0, RESERVED);
}

#[test]
fn a_list_has_a_bound() {
    let mut bed = Bed::new(Pace::Inline);
    let list: Vec<MacAddr> = (0..129).map(|n| MacAddr([2, 1, 0, 0, 0, n])).collect();
    assert_eq!(attached(&mut bed, A, 7, &list).0, BAD_ARGUMENT);
    assert_eq!(attached(&mut bed, A, 7, &list[..128]).0, DONE);
}

/// What an attach of a life that knows births comes to: status, session, and the birth that is told.
fn asked(bed: &mut Bed, src: MacAddr, life: u64, birth: u32) -> (u8, u16, u32) {
    let reply = bed.ask(&attach_born(src, life, 0, birth, &[A, B]));
    bed.persist(true);
    assert_eq!(reply[35], 7, "both know births");
    let birth = u32::from_be_bytes(reply[68..72].try_into().unwrap());
    (reply[30], u16::from_be_bytes([reply[44], reply[45]]), birth)
}

/// The birth that a life is told at its first attach.
fn born(bed: &mut Bed, src: MacAddr, life: u64) -> u32 {
    let (status, session, birth) = asked(bed, src, life, 0);
    assert_eq!((status, session), (UNBORN, 0));
    assert_ne!(birth, 0);
    birth
}

fn set(bed: &mut Bed, epoch: u64, macs: &[MacAddr]) {
    bed.give(&reserve_epoch(C, 1, epoch, macs));
    bed.persist(true);
    let replies = bed.replies();
    assert_eq!((replies.len(), replies[0][30]), (1, DONE));
}

/// The process ends, and another begins with what was durable.
fn restart(bed: &mut Bed) {
    let state = bed
        .blade
        .target_status(TargetIndex(0))
        .unwrap()
        .state
        .clone();
    *bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.persistent = state;
    });
}

#[test]
fn a_life_is_told_its_birth_and_names_it() {
    let mut bed = Bed::new(Pace::Inline);
    let first = born(&mut bed, A, 7);
    let second = born(&mut bed, B, 9);
    assert!(second > first, "{first} {second}");
    let (status, session, told) = asked(&mut bed, A, 7, first);
    assert_eq!((status, told), (DONE, 0));
    assert!(!is_void(&mut bed, A, session));
    // Over a restart it is the same life, and no birth comes twice.
    restart(&mut bed);
    assert_eq!(asked(&mut bed, A, 7, first).0, DONE);
    assert!(born(&mut bed, B, 10) > second);
    // A birth that was never told belongs to another history: here it begins anew.
    let (status, _, again) = asked(&mut bed, A, 7, 1_000_000);
    assert_eq!(status, UNBORN);
    assert!(again > second && again < 1_000_000);
}

/// Life 7 was let in, and the blade started anew: nobody knows of life 7 when its MACs are fenced.
fn fenced_over_a_restart(bed: &mut Bed) -> u32 {
    let old = born(bed, A, 7);
    assert_eq!(asked(bed, A, 7, old).0, DONE);
    restart(bed);
    set(bed, 1, &[C]);
    set(bed, 2, &[A, B, C]);
    old
}

#[test]
fn a_life_that_was_fenced_unknown_does_not_come_back() {
    let mut bed = Bed::new(Pace::Inline);
    let old = fenced_over_a_restart(&mut bed);
    let new = born(&mut bed, A, 8);
    let (status, session, _) = asked(&mut bed, A, 8, new);
    assert_eq!(status, DONE);
    for _ in 0..2 {
        // It was only paused: by no path, not before the next life attaches nor after it, not over restarts.
        assert_eq!(asked(&mut bed, A, 7, old).0, FENCED);
        assert_eq!(asked(&mut bed, B, 7, old).0, FENCED);
        assert!(!is_void(&mut bed, A, session), "and it ends nothing");
        bed.advance(3 * LIFETIME);
    }
    restart(&mut bed);
    assert_eq!(asked(&mut bed, B, 7, old).0, FENCED);
    assert_eq!(asked(&mut bed, A, 8, new).0, DONE);
    // Who names no births is not told apart from the new one: that is the one hole that is left.
    assert_eq!(attached(&mut bed, A, 7, &[]).0, DONE);
}

#[test]
fn whoever_waits_at_the_door_is_let_in_when_it_is_listed() {
    let mut bed = Bed::new(Pace::Inline);
    set(&mut bed, 1, &[C]);
    let birth = born(&mut bed, A, 7);
    assert_eq!(asked(&mut bed, A, 7, birth).0, RESERVED);
    set(&mut bed, 2, &[A, C]);
    let (status, session, _) = asked(&mut bed, A, 7, birth);
    assert_eq!(status, DONE);
    // Other changes of the list do it no harm, and neither does a copy of one.
    set(&mut bed, 3, &[A]);
    set(&mut bed, 3, &[A]);
    set(&mut bed, 4, &[]);
    set(&mut bed, 5, &[A, B]);
    assert_eq!(asked(&mut bed, A, 7, birth), (DONE, session, 0));
    assert_eq!(asked(&mut bed, B, 7, birth), (DONE, session, 0));
    // Only the path that is removed from now on is closed to it.
    set(&mut bed, 6, &[A]);
    set(&mut bed, 7, &[A, B]);
    assert_eq!(asked(&mut bed, B, 7, birth).0, FENCED);
    assert_eq!(asked(&mut bed, A, 7, birth).0, DONE);
}

#[test]
fn a_life_that_could_read_and_never_had_a_session_is_fenced_as_well() {
    let mut bed = Bed::new(Pace::Inline);
    let birth = born(&mut bed, A, 7);
    assert_eq!(bed.ask(&Ata::read(1, 0, 1).bare()).len(), 548);
    set(&mut bed, 1, &[C]);
    set(&mut bed, 2, &[A, C]);
    assert_eq!(asked(&mut bed, A, 7, birth).0, FENCED);
}

/// The plain command fences, too.
#[test]
fn births_order_what_plain_sets_remove() {
    let mut bed = Bed::new(Pace::Inline);
    let birth = born(&mut bed, A, 7);
    for list in [[C], [A]] {
        bed.give(&reserve(C, 1, 2, &list));
        bed.persist(true);
        assert_eq!(bed.replies().len(), 1);
    }
    assert_eq!(asked(&mut bed, A, 7, birth).0, FENCED);
    let birth = born(&mut bed, A, 8);
    assert_eq!(asked(&mut bed, A, 8, birth).0, DONE);
}

/// A removal that was lost with a restart before it was durable, and was acknowledged to nobody, fences nobody; and what was told
/// meanwhile is not told again.
#[test]
fn what_was_not_durable_fences_nobody() {
    let mut bed = Bed::new(Pace::Inline);
    let old = born(&mut bed, A, 7);
    bed.persist(true);
    let kept = bed
        .blade
        .target_status(TargetIndex(0))
        .unwrap()
        .state
        .clone();
    bed.give(&reserve_epoch(C, 1, 1, &[A, C]));
    let meanwhile = born_undurable(&mut bed);
    bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
        target.persistent = kept;
    });
    assert_eq!(asked(&mut bed, A, 7, old).0, DONE);
    set(&mut bed, 2, &[C]);
    set(&mut bed, 3, &[A, C]);
    assert_eq!(asked(&mut bed, A, 9, meanwhile).0, FENCED);
    assert_eq!(asked(&mut bed, A, 7, old).0, FENCED);
}

fn born_undurable(bed: &mut Bed) -> u32 {
    let reply = bed.ask(&attach_born(A, 9, 0, 0, &[]));
    assert_eq!(reply[30], UNBORN);
    u32::from_be_bytes(reply[68..72].try_into().unwrap())
}

/// The blade was started anew, and the last life's attach is under way: it comes after the next life's.
#[test]
fn a_late_attach_of_a_former_life_ends_nothing() {
    let mut bed = Bed::new(Pace::Inline);
    let old = born(&mut bed, A, 7);
    let new = born(&mut bed, B, 8);
    let (_, session, _) = asked(&mut bed, B, 8, new);
    assert_eq!(asked(&mut bed, A, 7, old).0, FENCED);
    // Its very first attach names no birth; nobody hears the answer.
    born(&mut bed, A, 7);
    assert!(!is_void(&mut bed, B, session));
    // The other way round the younger one ends the older.
    let mut bed = Bed::new(Pace::Inline);
    let (old, new) = (born(&mut bed, A, 7), born(&mut bed, B, 8));
    let (_, session, _) = asked(&mut bed, A, 7, old);
    assert_eq!(asked(&mut bed, B, 8, new).0, DONE);
    assert!(is_void(&mut bed, A, session));
}

#[test]
fn no_birth_is_told_before_it_is_durable() {
    let mut bed = Bed::new(Pace::Inline);
    let mut told = Vec::new();
    let mut dropped = 0;
    for life in 1..=1000 {
        bed.give(&attach_born(A, life, 0, 0, &[]));
        match &bed.replies()[..] {
            [] => {
                dropped += 1;
                // What is durable late counts from then on.
                bed.persist(true);
            }
            [reply] => told.push(u32::from_be_bytes(reply[68..72].try_into().unwrap())),
            more => panic!("{more:?}"),
        }
    }
    assert!(told.is_sorted_by(|a, b| a < b), "each once, and forward");
    assert!((3..8).contains(&dropped), "{dropped}");
    assert_eq!(bed.blade.counters().rx_sessions_not_durable, dropped);
}

/// Who is listed by a change that is not durable is let in when it is. A restart would shut it out again, and the next list, which
/// does not have it either, would not be seen to remove it.
#[test]
fn nobody_is_let_in_by_a_list_that_is_not_durable() {
    for with_births in [true, false] {
        let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Inline), |_, target| {
            target.persistent.reserved = vec![C];
        });
        let birth = born(&mut bed, A, 7);
        let request = if with_births {
            attach_born(A, 7, 0, birth, &[A])
        } else {
            attach(A, 9, 7, 0)
        };
        bed.give(&reserve_epoch(C, 1, 1, &[A, C]));
        assert_eq!(bed.ask(&request)[30], NOT_DURABLE);
        bed.persist(false);
        assert_eq!(bed.replies()[0][30], NOT_DURABLE, "of the SET");
        assert_eq!(bed.ask(&request)[30], NOT_DURABLE);
        // The question makes it try again.
        assert_eq!(bed.persist(true), 1);
        assert_eq!(bed.ask(&request)[30], DONE);
        assert_eq!(bed.persist(true), 0, "and no more than that");
        // Whom a list that is not durable removes is out at once.
        bed.give(&reserve_epoch(C, 1, 2, &[C]));
        assert_eq!(bed.ask(&request)[30], RESERVED);
    }
}

/// The same of a list in between, which is on its way to the medium when it is overtaken.
#[test]
fn nobody_is_let_in_whom_a_list_shuts_out_that_may_be_found() {
    let mut bed = Bed::new(Pace::Inline);
    bed.give(&reserve_epoch(C, 1, 1, &[C]));
    let (target, id, state) = bed.blade.poll_persist().unwrap();
    assert_eq!(state.reserved, [C]);
    bed.give(&reserve_epoch(C, 2, 2, &[A, C]));
    let birth = born_undurable(&mut bed);
    let request = attach_born(A, 9, 0, birth, &[A]);
    assert_eq!(bed.ask(&request)[30], NOT_DURABLE);
    // It failed, and may be found all the same.
    bed.blade.handle_persisted(bed.now, target, id, false);
    bed.replies();
    assert_eq!(bed.ask(&request)[30], NOT_DURABLE);
    bed.persist(true);
    bed.replies();
    assert_eq!(bed.ask(&request)[30], DONE);
}
