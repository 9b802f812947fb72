//! Lives of initiators on several paths (S5): which sessions a new life ends.
#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are small numbers"
)]

mod target_bed;

use sandrail_wire::MacAddr;
use target_bed::*;

const VOID: [u8; 2] = [0x1c, 0x80];
const DONE: u8 = 0;
const BAD_ARGUMENT: u8 = 3;
const FENCED: u8 = 5;

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
    assert_eq!(attached(&mut bed, B, 7, &[A, B]).0, 4, "reserved for A");
}

#[test]
fn a_list_has_a_bound() {
    let mut bed = Bed::new(Pace::Inline);
    let list: Vec<MacAddr> = (0..129).map(|n| MacAddr([2, 1, 0, 0, 0, n])).collect();
    assert_eq!(attached(&mut bed, A, 7, &list).0, BAD_ARGUMENT);
    assert_eq!(attached(&mut bed, A, 7, &list[..128]).0, DONE);
}
