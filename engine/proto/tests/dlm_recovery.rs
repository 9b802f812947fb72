//! The lock manager after deaths: what exactly becomes of handoffs and conversions that were under way.

mod dlm_bed;

use dlm_bed::{Bed, name};
use sandrail_proto::dlm::{Event, Flags, Mode, Why};

/// Nodes 0 to 2, of which 2 dies as the master of a resource, of which 0 and 1 hold these modes. Their conversions are
/// on their way to it then, and reach its heir as reports.
fn convert_without_a_master(
    (held_0, wanted_0, flags_0): (Mode, Mode, Flags),
    (held_1, wanted_1): (Mode, Mode),
    heir: u16,
) -> (Bed, u64) {
    let mut bed = Bed::new(3);
    let resource = (0..)
        .find(|number| {
            let masters = [0b111, 0b011].map(|members| {
                sandrail_proto::dlm::master_of(
                    sandrail_proto::dlm::slot_of(&name(*number)),
                    members,
                )
            });
            masters.map(|master| master.map(|node| node.0)) == [Some(2), Some(heir)]
        })
        .expect("a resource of each master");
    let zero = bed.lock(0, 0, resource, held_0);
    bed.run();
    let one = bed.lock(1, 1, resource, held_1);
    bed.run();
    assert_eq!(bed.granted(0, 0), held_0);
    assert_eq!(bed.granted(1, 1), held_1);
    bed.convert(0, zero, wanted_0, flags_0);
    bed.convert(1, one, wanted_1, Flags::NONE);
    bed.kill(2);
    bed.view(&[0, 1]);
    bed.run();
    bed.fenced();
    bed.replayed(2);
    bed.run();
    (bed, resource)
}

/// What a node was told that ended its requests.
fn ends(bed: &mut Bed, node: u16) -> Vec<Event> {
    core::iter::from_fn(|| bed.event(node))
        .filter(|event| matches!(event, Event::Granted { .. } | Event::Denied { .. }))
        .collect()
}

#[test]
fn conversions_that_met_while_their_slot_was_rebuilt_are_a_deadlock_at_once() {
    for heir in [0, 1] {
        let both = (Mode::Pr, Mode::Ex);
        let (mut bed, _) = convert_without_a_master((both.0, both.1, Flags::NONE), both, heir);
        let told = [ends(&mut bed, 0), ends(&mut bed, 1)].concat();
        assert!(
            matches!(
                told[..],
                [Event::Denied {
                    why: Why::Deadlock(_),
                    ..
                }]
            ),
            "{told:?}"
        );
    }
}

#[test]
fn a_conversion_that_must_not_wait_ends_when_its_slot_is_rebuilt() {
    for heir in [0, 1] {
        let (mut bed, _) = convert_without_a_master(
            (Mode::Pr, Mode::Ex, Flags::NOQUEUE),
            (Mode::Cr, Mode::Cw),
            heir,
        );
        let told = ends(&mut bed, 0);
        assert!(
            matches!(
                told[..],
                [Event::Denied {
                    why: Why::WouldBlock,
                    ..
                }]
            ),
            "{told:?}"
        );
        assert!(
            ends(&mut bed, 1).is_empty(),
            "the other waits, and is no victim of one that does not"
        );
    }
}

#[test]
fn what_may_have_been_handed_over_between_two_dead_is_kept_for_both() {
    for is_one_view in [true, false] {
        let mut bed = Bed::new(4);
        let resource = bed.mastered_by(0, 0b1111, 0);
        let reader = bed.lock(1, 1, resource, Mode::Pr);
        bed.run();
        assert_eq!(bed.granted(1, 1), Mode::Pr);
        bed.unlock(1, reader, None);
        bed.lock(2, 2, resource, Mode::Ex);
        for (from, to) in [(2, 0), (0, 1), (1, 2)] {
            while bed.deliver(from, to) {}
        }
        assert_eq!(bed.granted(2, 2), Mode::Ex, "handed over");
        bed.kill(1);
        if is_one_view {
            bed.kill(2);
        } else {
            // The successor says nothing any more, and is still a member.
            bed.wires.clear();
            let dead = bed.nodes[2].take();
            bed.next_view();
            for node in [0, 3] {
                bed.tell_view(node, &[0, 2, 3]);
            }
            bed.nodes[2] = dead;
            bed.kill(2);
        }
        bed.view(&[0, 3]);
        bed.lock(3, 3, resource, Mode::Pr);
        bed.run();
        bed.fenced();
        bed.replayed(1);
        bed.run();
        bed.silent(3);
        bed.replayed(2);
        bed.run();
        assert_eq!(bed.granted(3, 3), Mode::Pr, "one view: {is_one_view}");
    }
}
