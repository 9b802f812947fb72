//! The lock manager's rules one by one, on a perfect network: every cell of the matrix, every flag, every state of a lock.

mod dlm_bed;

use core::time::Duration;

use dlm_bed::{Bed, name};
use sandrail_proto::dlm::{
    Ask, Body, Change, Config, Epoch, Event, Flags, GrantNumber, Message, Mode, Node, NodeId,
    Refusal, Transaction, ValueBlock, Why,
};
use sandrail_proto::time::Instant;

/// Rows and columns NL, CR, CW, PR, PW, EX; as the VMS manual prints it.
const MATRIX: [&[u8; 6]; 6] = [
    b"yyyyyy", b"yyyyyn", b"yyynnn", b"yynynn", b"yynnnn", b"ynnnnn",
];

fn cells() -> impl Iterator<Item = (Mode, Mode, bool)> {
    MATRIX.iter().zip(Mode::ALL).flat_map(|(row, one)| {
        row.iter()
            .zip(Mode::ALL)
            .map(move |(cell, other)| (one, other, *cell == b'y'))
    })
}

#[track_caller]
fn denied(bed: &mut Bed, node: u16, client: u64) -> Why {
    match bed.event(node) {
        Some(Event::Denied {
            client: told, why, ..
        }) if told == client => why,
        other => panic!("{other:?} instead of a denial to {client} on node {node}"),
    }
}

#[track_caller]
fn blocking(bed: &mut Bed, node: u16, client: u64) -> Mode {
    match bed.event(node) {
        Some(Event::Blocking {
            client: told,
            wanted,
            ..
        }) if told == client => wanted,
        other => panic!("{other:?} instead of a notice to {client} on node {node}"),
    }
}

/// The second of two locks, on the same node or another one, is granted if the matrix says so; if not it waits until the
/// first is given back, and without waiting it is denied.
#[test]
fn every_cell_on_one_node_and_on_two() {
    for second_node in [0, 1] {
        for (held, wanted, fits) in cells() {
            let what = format!("{wanted} beside {held}, node {second_node}");
            let mut bed = Bed::new(3);
            let first = bed.lock(0, 1, 7, held);
            bed.run();
            assert_eq!(bed.granted(0, 1), held);
            bed.lock_with(second_node, 2, 7, wanted, Flags::NOQUEUE);
            bed.run();
            if fits {
                assert_eq!(bed.granted(second_node, 2), wanted, "{what}");
                continue;
            }
            assert_eq!(denied(&mut bed, second_node, 2), Why::WouldBlock, "{what}");
            bed.silent(0);
            bed.lock(second_node, 3, 7, wanted);
            bed.run();
            assert_eq!(blocking(&mut bed, 0, 1), wanted, "{what}");
            bed.silent(second_node);
            bed.unlock(0, first, None);
            bed.run();
            assert_eq!(bed.granted(second_node, 3), wanted, "{what}");
        }
    }
}

/// A conversion is granted if the new mode fits what the other holds, and waits otherwise.
#[test]
fn every_conversion_beside_every_mode() {
    for second_node in [0, 1] {
        for (other, from, fits) in cells() {
            if !fits {
                continue;
            }
            for to in Mode::ALL {
                let what = format!("{from} to {to} beside {other}, node {second_node}");
                let mut bed = Bed::new(2);
                let beside = bed.lock(0, 1, 7, other);
                bed.run();
                bed.granted(0, 1);
                let lock = bed.lock(second_node, 2, 7, from);
                bed.run();
                bed.granted(second_node, 2);
                bed.convert(second_node, lock, to, Flags::NONE);
                bed.run();
                if other.is_compatible(to) || from.covers(to) {
                    assert_eq!(bed.granted(second_node, 2), to, "{what}");
                    continue;
                }
                // Between PR and CW the node asks for PW, which excludes no more than both do.
                let told = if second_node == 0 { to } else { to.join(from) };
                assert_eq!(blocking(&mut bed, 0, 1), told, "{what}");
                bed.silent(second_node);
                bed.unlock(0, beside, None);
                bed.run();
                assert_eq!(bed.granted(second_node, 2), to, "{what}");
            }
        }
    }
}

#[test]
fn what_nobody_uses_does_not_stand_in_the_way_of_a_request_that_must_not_wait() {
    for (cached, wanted, _) in cells() {
        let mut bed = Bed::new(2);
        let first = bed.lock(0, 1, 7, cached);
        bed.run();
        bed.granted(0, 1);
        bed.unlock(0, first, None);
        bed.lock_with(1, 2, 7, wanted, Flags::NOQUEUE);
        bed.run();
        assert_eq!(bed.granted(1, 2), wanted, "{wanted} over a kept {cached}");
    }
}

#[test]
fn requests_are_served_in_their_order_and_conversions_first() {
    for (a, b, c) in [(0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 2, 0)] {
        // No turns for its own clients after a notice: all stand in one line.
        let mut bed = Bed::unborn(3, |config| config.turns_max = 0);
        bed.view(&[0, 1, 2]);
        bed.run();
        let first = bed.lock(a, 1, 7, Mode::Pr);
        bed.run();
        bed.granted(a, 1);
        let beside = bed.lock(b, 2, 7, Mode::Cr);
        bed.run();
        bed.granted(b, 2);
        bed.lock(c, 3, 7, Mode::Ex);
        bed.run();
        // It would fit, but comes after one that waits.
        bed.lock(c, 4, 7, Mode::Cr);
        bed.run();
        bed.convert(b, beside, Mode::Pw, Flags::NONE);
        bed.run();
        while bed
            .events
            .front()
            .is_some_and(|(_, event)| matches!(event, Event::Blocking { .. }))
        {
            bed.events.pop_front();
        }
        assert!(bed.events.is_empty(), "{:?}", bed.events);
        bed.unlock(a, first, None);
        bed.run();
        bed.events
            .retain(|(_, event)| !matches!(event, Event::Blocking { .. }));
        assert_eq!(bed.granted(b, 2), Mode::Pw, "the conversion first");
        assert!(bed.events.is_empty(), "{:?}", bed.events);
        bed.unlock(b, beside, None);
        bed.run();
        bed.events
            .retain(|(_, event)| !matches!(event, Event::Blocking { .. }));
        assert_eq!(bed.granted(c, 3), Mode::Ex, "then the one that came before");
        assert!(bed.events.is_empty(), "{:?}", bed.events);
    }
}

#[test]
fn expedite_passes_those_who_wait_and_is_for_new_null_locks_only() {
    let mut bed = Bed::new(2);
    bed.lock(0, 1, 7, Mode::Ex);
    bed.run();
    bed.granted(0, 1);
    bed.lock(0, 2, 7, Mode::Pr);
    assert_eq!(blocking(&mut bed, 0, 1), Mode::Pr);
    bed.lock(0, 3, 7, Mode::Nl);
    bed.silent(0);
    bed.lock_with(0, 4, 7, Mode::Nl, Flags::EXPEDITE);
    assert_eq!(bed.granted(0, 4), Mode::Nl);
    bed.silent(0);
}

#[test]
fn headque_passes_those_who_wait_but_not_for_ever() {
    let mut bed = Bed::new(3);
    let mut held = bed.lock(0, 1, 7, Mode::Ex);
    bed.run();
    bed.granted(0, 1);
    bed.lock(1, 2, 7, Mode::Ex);
    bed.run();
    for (overtakes, client) in (100..200).enumerate() {
        // The holder gives its lock back only after the one with HEADQUE has come.
        bed.lock_with(2, client, 7, Mode::Ex, Flags::HEADQUE);
        bed.run();
        let (now, holder) = (bed.now, if client == 100 { 0 } else { 2 });
        bed.node(holder).unlock(now, held, None).expect("held");
        bed.collect(holder);
        bed.run();
        let first = bed.events.iter().find_map(|(node, event)| match event {
            Event::Granted { lock, .. } => Some((*node, *lock)),
            _ => None,
        });
        let Some((node, lock)) = first else {
            panic!("nobody has it: {:?}", bed.events);
        };
        bed.events.clear();
        if node == 1 {
            assert!(overtakes <= 40, "{overtakes}");
            return;
        }
        held = lock;
    }
    panic!("it was overtaken a hundred times");
}

#[test]
fn quecvt_waits_behind_other_conversions() {
    for flags in [Flags::NONE, Flags::QUECVT] {
        let mut bed = Bed::new(1);
        let first = bed.lock(0, 1, 7, Mode::Cr);
        let second = bed.lock(0, 2, 7, Mode::Cr);
        let third = bed.lock(0, 3, 7, Mode::Nl);
        bed.events.clear();
        bed.run();
        bed.collect(0);
        bed.events.clear();
        bed.convert(0, first, Mode::Pr, Flags::NONE);
        bed.convert(0, second, Mode::Pr, Flags::NONE);
        bed.events.clear();
        let fourth = bed.lock(0, 4, 7, Mode::Nl);
        bed.events.clear();
        bed.convert(0, fourth, Mode::Ex, Flags::NONE);
        assert_eq!(blocking(&mut bed, 0, 1), Mode::Ex);
        assert_eq!(blocking(&mut bed, 0, 2), Mode::Ex);
        bed.convert(0, third, Mode::Cr, flags);
        if flags == Flags::NONE {
            assert_eq!(bed.granted(0, 3), Mode::Cr);
        } else {
            bed.silent(0);
        }
    }
}

#[test]
fn alternatives_are_taken_if_the_mode_cannot_be_had() {
    for node in [0, 1] {
        for (flag, held, alternative) in [
            (Flags::ALTPR, Mode::Pr, Mode::Pr),
            (Flags::ALTCW, Mode::Cw, Mode::Cw),
        ] {
            let mut bed = Bed::new(2);
            bed.lock(0, 1, 7, held);
            bed.run();
            bed.granted(0, 1);
            bed.lock_with(node, 2, 7, Mode::Ex, flag);
            bed.run();
            bed.events
                .retain(|(_, event)| !matches!(event, Event::Blocking { .. }));
            assert_eq!(bed.granted(node, 2), alternative);
            let mut bed = Bed::new(2);
            bed.lock_with(node, 2, 7, Mode::Ex, flag);
            bed.run();
            assert_eq!(bed.granted(node, 2), Mode::Ex, "nobody is in the way");
        }
    }
}

#[test]
fn noqueuebast_tells_the_holder_even_so() {
    for node in [0, 1] {
        let mut bed = Bed::new(2);
        bed.lock(0, 1, 7, Mode::Pr);
        bed.run();
        bed.granted(0, 1);
        let both = Flags::NOQUEUE.union(Flags::NOQUEUEBAST);
        bed.lock_with(node, 2, 7, Mode::Ex, both);
        bed.run();
        assert_eq!(blocking(&mut bed, 0, 1), Mode::Ex);
        assert_eq!(denied(&mut bed, node, 2), Why::WouldBlock);
    }
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let mut bed = Bed::new(1);
    let mut refused = |mode, flags| {
        let ask = Ask {
            client: 1,
            resource: name(7),
            mode,
            flags,
            transaction: Transaction::NONE,
            timeout: None,
        };
        bed.ask(0, &ask) == Err(Refusal::BadFlags)
    };
    assert!(refused(Mode::Pr, Flags::EXPEDITE));
    assert!(refused(Mode::Pr, Flags::QUECVT));
    assert!(refused(Mode::Pr, Flags::CONVDEADLK));
    assert!(refused(Mode::Pr, Flags::ALTPR.union(Flags::ALTCW)));
    assert!(refused(Mode::Pr, Flags::NOQUEUEBAST));
    assert!(!refused(Mode::Nl, Flags::EXPEDITE));
    let lock = bed.lock(0, 2, 7, Mode::Nl);
    for flags in [Flags::EXPEDITE, Flags::HEADQUE] {
        let change = Change {
            mode: Mode::Nl,
            flags,
            timeout: None,
            value: None,
        };
        let now = bed.now;
        assert_eq!(
            bed.node(0).convert(now, lock, &change),
            Err(Refusal::BadFlags)
        );
    }
}

#[test]
fn a_request_ends_when_its_time_is_over_and_what_it_blocked_goes_on() {
    for node in [0, 1] {
        let mut bed = Bed::new(3);
        bed.lock(0, 1, 7, Mode::Pr);
        bed.run();
        bed.granted(0, 1);
        let ask = Ask {
            client: 2,
            resource: name(7),
            mode: Mode::Ex,
            flags: Flags::NONE,
            transaction: Transaction::NONE,
            timeout: Some(Duration::from_micros(100)),
        };
        bed.ask(node, &ask).expect("begun");
        bed.run();
        bed.lock(2, 3, 7, Mode::Pr);
        bed.run();
        blocking(&mut bed, 0, 1);
        bed.pass(99_000);
        bed.silent(node);
        bed.pass(2_000);
        assert_eq!(denied(&mut bed, node, 2), Why::TimedOut);
        assert_eq!(
            bed.granted(2, 3),
            Mode::Pr,
            "nobody waits before it any more"
        );
    }
}

#[test]
fn a_request_that_is_cancelled_blocks_nobody_and_a_conversion_keeps_its_mode() {
    for node in [0, 1] {
        let mut bed = Bed::new(3);
        bed.lock(0, 1, 7, Mode::Pr);
        bed.run();
        let second = bed.lock(node, 2, 7, Mode::Pr);
        bed.run();
        bed.events.clear();
        bed.convert(node, second, Mode::Ex, Flags::NONE);
        bed.run();
        bed.lock(2, 3, 7, Mode::Pr);
        bed.run();
        blocking(&mut bed, 0, 1);
        if node == 1 {
            // What a lock of its own node keeps waiting is not known to the master yet.
            bed.silent(2);
        }
        bed.cancel(node, second);
        bed.run();
        assert_eq!(denied(&mut bed, node, 2), Why::Cancelled);
        assert_eq!(bed.granted(2, 3), Mode::Pr);
        bed.lock_with(0, 4, 7, Mode::Pw, Flags::NOQUEUE);
        bed.run();
        assert_eq!(denied(&mut bed, 0, 4), Why::WouldBlock);
        bed.unlock(node, second, None);
    }
}

#[test]
fn conversions_that_wait_for_each_other_are_found_at_once() {
    for node in [0, 1] {
        let mut bed = Bed::new(3);
        let first = bed.lock(0, 1, 7, Mode::Pr);
        bed.run();
        let second = bed.lock(node, 2, 7, Mode::Pr);
        bed.run();
        bed.events.clear();
        bed.convert(0, first, Mode::Ex, Flags::NONE);
        bed.run();
        bed.convert(node, second, Mode::Ex, Flags::NONE);
        bed.run();
        bed.events
            .retain(|(_, event)| !matches!(event, Event::Blocking { .. }));
        let Why::Deadlock(path) = denied(&mut bed, node, 2) else {
            panic!("no deadlock");
        };
        assert_eq!(path.length, 2);
        let members = [Transaction(1000 * u64::from(node) + 2), Transaction(1)];
        assert_eq!(path.named[..2], members);
        bed.silent(0);
        bed.unlock(node, second, None);
        bed.run();
        assert_eq!(bed.granted(0, 1), Mode::Ex);
    }
}

#[test]
fn with_convdeadlk_the_conversion_loses_its_mode_instead() {
    for node in [0, 1] {
        let mut bed = Bed::new(3);
        let first = bed.lock(0, 1, 7, Mode::Pr);
        bed.run();
        let second = bed.lock(node, 2, 7, Mode::Pr);
        bed.run();
        bed.events.clear();
        bed.convert(0, first, Mode::Ex, Flags::NONE);
        bed.run();
        bed.convert(node, second, Mode::Ex, Flags::CONVDEADLK);
        bed.run();
        bed.events
            .retain(|(_, event)| !matches!(event, Event::Blocking { .. }));
        assert!(matches!(
            bed.event(node),
            Some(Event::Demoted { client: 2, .. })
        ));
        assert_eq!(bed.granted(0, 1), Mode::Ex, "nobody is in its way any more");
        bed.unlock(0, first, None);
        bed.run();
        let Some(Event::Granted { mode, demoted, .. }) = bed.event(node) else {
            panic!("no grant");
        };
        assert_eq!((mode, demoted), (Mode::Ex, true));
    }
}

#[test]
fn a_deadlock_over_three_nodes_has_the_youngest_as_its_victim_and_names_all() {
    let mut bed = Bed::new(3);
    let mut ids = Vec::new();
    for node in 0..3 {
        ids.push(bed.lock(node, 1, u64::from(node), Mode::Ex));
    }
    bed.run();
    bed.events.clear();
    for node in 0..3u16 {
        bed.lock(node, 1 + 100, (u64::from(node) + 1) % 3, Mode::Ex);
        bed.run();
    }
    bed.events.clear();
    // The two locks of a node belong to two transactions: nobody waits in a circle.
    bed.pass(100_000_000);
    assert!(
        bed.events.is_empty(),
        "a victim without a cycle: {:?}",
        bed.events
    );

    let mut bed = Bed::new(3);
    let ask = |node: u16, client: u64, resource: u64| Ask {
        client,
        resource: name(resource),
        mode: Mode::Ex,
        flags: Flags::NONE,
        transaction: Transaction(u64::from(node) + 50),
        timeout: None,
    };
    let mut held = Vec::new();
    for node in 0..3 {
        held.push(
            bed.ask(node, &ask(node, 1, u64::from(node)))
                .expect("begun"),
        );
        bed.run();
        bed.granted(node, 1);
    }
    for node in 0..3u16 {
        bed.ask(node, &ask(node, 2, (u64::from(node) + 1) % 3))
            .expect("begun");
        bed.run();
    }
    bed.pass(9_000_000);
    bed.events
        .retain(|(_, event)| !matches!(event, Event::Blocking { .. }));
    assert!(bed.events.is_empty(), "before the time to look for it");
    bed.pass(2_000_000);
    let Why::Deadlock(path) = denied(&mut bed, 2, 2) else {
        panic!("no deadlock");
    };
    assert_eq!(path.length, 3);
    let members = [Transaction(52), Transaction(50), Transaction(51)];
    assert_eq!(path.named[..3], members, "each waits for the next");
    bed.pass(100_000_000);
    assert!(
        bed.events.is_empty(),
        "one victim is enough: {:?}",
        bed.events
    );
    bed.unlock(2, held[2], None);
    bed.run();
    assert_eq!(bed.granted(1, 2), Mode::Ex);
}

#[test]
fn a_contended_lock_goes_straight_from_holder_to_successor() {
    let mut bed = Bed::new(3);
    let resource = bed.mastered_by(0, 0b111, 0);
    let first = bed.lock(1, 1, resource, Mode::Ex);
    bed.run();
    bed.granted(1, 1);
    bed.lock(2, 2, resource, Mode::Ex);
    assert!(bed.deliver(2, 0));
    assert!(bed.deliver(0, 1));
    bed.unlock(1, first, Some([3; 64]));
    let hand = bed.wires[&(1, 2)].front().copied();
    assert!(
        matches!(
            hand,
            Some(Message {
                body: Body::Hand { .. },
                ..
            })
        ),
        "{hand:?}"
    );
    assert!(bed.deliver(1, 2));
    let Some(Event::Granted { value, grant, .. }) = bed.event(2) else {
        panic!("no grant");
    };
    assert!(matches!(value, ValueBlock::Valid { bytes, .. } if bytes == [3; 64]));
    assert_eq!(
        grant,
        GrantNumber(1 << 40 | 2),
        "the number was given with the notice"
    );
    assert_eq!(bed.node(0).counts().handoffs, 1, "not confirmed yet");
    bed.run();
    assert_eq!(bed.node(0).counts().handoffs, 0);
}

#[test]
fn a_lock_does_not_leave_while_a_write_under_it_is_under_way() {
    let mut bed = Bed::new(2);
    let lock = bed.lock(0, 1, 7, Mode::Ex);
    bed.run();
    bed.granted(0, 1);
    bed.node(0).begin_write(lock).expect("held for writing");
    bed.lock(1, 2, 7, Mode::Ex);
    bed.run();
    bed.unlock(0, lock, None);
    bed.run();
    bed.silent(1);
    // Within the node it may go on, even so.
    let again = bed.lock_with(0, 3, 7, Mode::Ex, Flags::NONE);
    bed.run();
    blocking(&mut bed, 0, 1);
    assert_eq!(bed.granted(0, 3), Mode::Ex);
    bed.unlock(0, again, None);
    bed.run();
    bed.silent(1);
    let now = bed.now;
    bed.node(0)
        .end_write(now, &name(7))
        .expect("it was under way");
    bed.collect(0);
    bed.run();
    assert_eq!(bed.granted(1, 2), Mode::Ex);
    assert_eq!(bed.node(0).end_write(now, &name(7)), Err(Refusal::NotHeld));
}

#[test]
fn a_holder_serves_its_own_for_a_while_after_the_notice_and_no_longer() {
    let mut bed = Bed::unborn(2, |config| {
        config.turns_max = 3;
        config.hold_min = Duration::from_micros(10);
    });
    bed.view(&[0, 1]);
    bed.run();
    let mut held = bed.lock(0, 1, 7, Mode::Ex);
    bed.run();
    bed.granted(0, 1);
    let waits: Vec<_> = (10..20)
        .map(|client| bed.lock(0, client, 7, Mode::Ex))
        .collect();
    bed.lock(1, 2, 7, Mode::Ex);
    bed.run();
    bed.events.clear();
    for (turns, next) in waits.into_iter().enumerate() {
        bed.unlock(0, held, None);
        bed.run();
        bed.events
            .retain(|(_, event)| !matches!(event, Event::Blocking { .. }));
        let Some((node, _)) = bed.events.pop_front() else {
            panic!("nobody has it");
        };
        if node == 1 {
            assert_eq!(turns, 3);
            return;
        }
        held = next;
    }
    panic!("the other node waits for ever");
}

#[test]
fn a_new_resources_value_block_is_invalid_and_a_written_one_is_found_by_all() {
    let mut bed = Bed::new(3);
    let first = bed.lock(0, 1, 7, Mode::Pw);
    bed.run();
    let Some(Event::Granted { value, .. }) = bed.event(0) else {
        panic!("no grant");
    };
    assert_eq!(value, ValueBlock::Invalid);
    let now = bed.now;
    let up = Change {
        mode: Mode::Ex,
        flags: Flags::NONE,
        timeout: None,
        value: Some([1; 64]),
    };
    assert_eq!(bed.node(0).convert(now, first, &up), Err(Refusal::BadValue));
    let down = Change {
        mode: Mode::Pr,
        flags: Flags::NONE,
        timeout: None,
        value: Some([1; 64]),
    };
    bed.node(0).convert(now, first, &down).expect("held");
    bed.collect(0);
    bed.granted(0, 1);
    for node in 1..3 {
        bed.lock(node, 2, 7, Mode::Pr);
        bed.run();
        let Some(Event::Granted { value, .. }) = bed.event(node) else {
            panic!("no grant");
        };
        assert!(matches!(value, ValueBlock::Valid { bytes, .. } if bytes == [1; 64]));
    }
    // A concurrent reader is not told: a writer beside it may change the block at any time.
    bed.lock(1, 3, 7, Mode::Cr);
    bed.run();
    assert!(matches!(
        bed.event(1),
        Some(Event::Granted {
            value: ValueBlock::Valid { .. },
            ..
        })
    ));
    bed.unlock(0, first, None);
    assert_eq!(
        bed.node(0).unlock(now, first, None),
        Err(Refusal::UnknownLock)
    );
}

#[test]
fn full_tables_are_clear_errors() {
    let mut config = Config::small(NodeId(0));
    config.locks_max = 3;
    config.resources_max = 2;
    config.timeouts_max = 1;
    let mut bed = Bed::unborn(1, |_| {});
    bed.nodes[0] = Some(Node::new(config));
    bed.view(&[0]);
    bed.run();
    let ask = |client, resource, timeout| Ask {
        client,
        resource: name(resource),
        mode: Mode::Ex,
        flags: Flags::NONE,
        transaction: Transaction::NONE,
        timeout,
    };
    assert!(bed.ask(0, &ask(1, 1, None)).is_ok());
    assert!(bed.ask(0, &ask(2, 2, None)).is_ok());
    assert_eq!(
        bed.ask(0, &ask(3, 3, None)),
        Err(Refusal::Full("resources"))
    );
    let second = Some(Duration::from_secs(1));
    assert!(bed.ask(0, &ask(3, 1, second)).is_ok());
    assert_eq!(bed.ask(0, &ask(4, 1, None)), Err(Refusal::Full("locks")));

    let mut config = Config::small(NodeId(0));
    config.mastered_max = 1;
    config.timeouts_max = 1;
    bed.nodes[0] = Some(Node::new(config));
    bed.epoch = 0;
    bed.events.clear();
    bed.view(&[0]);
    bed.run();
    bed.lock(0, 1, 1, Mode::Ex);
    assert_eq!(bed.granted(0, 1), Mode::Ex);
    bed.lock(0, 2, 2, Mode::Ex);
    assert_eq!(denied(&mut bed, 0, 2), Why::Full);
    assert!(bed.ask(0, &ask(5, 1, second)).is_ok());
    assert_eq!(
        bed.ask(0, &ask(6, 1, second)),
        Err(Refusal::Full("time limits"))
    );
}

#[test]
fn numbers_rise_without_locks_and_over_masters() {
    let mut bed = Bed::new(3);
    let resource = bed.mastered_by(2, 0b111, 0);
    let mut last = 0;
    let mut draw = |bed: &mut Bed, node: u16, count: u32| {
        let now = bed.now;
        bed.node(node)
            .draw(now, name(resource), 9, count)
            .expect("a member");
        bed.collect(node);
        bed.run();
        match bed.event(node) {
            Some(Event::Drawn {
                client: 9,
                first,
                count: told,
            }) if told == count => {
                assert!(first.0 > last, "{first:?} after {last}");
                last = first.0 + u64::from(count) - 1;
            }
            other => panic!("{other:?}"),
        }
    };
    for turn in 0..10 {
        draw(&mut bed, turn % 3, u32::from(turn) + 1);
    }
    bed.kill(2);
    bed.view(&[0, 1]);
    bed.run();
    draw(&mut bed, 0, 1);
    draw(&mut bed, 1, 1);
}

#[test]
fn messages_of_another_term_or_from_strangers_change_nothing() {
    let mut bed = Bed::new(3);
    let resource = bed.mastered_by(0, 0b111, 0);
    bed.lock(1, 1, resource, Mode::Pr);
    bed.run();
    bed.granted(1, 1);
    let before = bed.node(0).counts();
    let now = bed.now;
    let demote = |term| Message {
        term: Epoch(term),
        resource: name(resource),
        body: Body::Demote {
            grant: GrantNumber(1 << 40 | 1),
            mode: Mode::Nl,
            value: None,
        },
    };
    for (from, term) in [(1, 0), (1, 2), (7, 1), (2, 1)] {
        bed.node(0).handle_message(now, NodeId(from), &demote(term));
        assert_eq!(bed.node(0).counts(), before, "from {from} under {term}");
    }
    let stat = bed.node(0).stat();
    assert_eq!((stat.stale_term, stat.wrong_sender, stat.stray), (2, 1, 1));
    bed.node(0).handle_message(now, NodeId(1), &demote(1));
    assert_eq!(bed.node(0).counts().holds, 0, "the true one counts");
}

#[test]
fn before_it_is_a_member_and_after_it_was_one_a_node_grants_nothing() {
    let mut node = Node::new(Config::small(NodeId(0)));
    let now = Instant::from_nanos(1);
    let ask = Ask {
        client: 1,
        resource: name(1),
        mode: Mode::Nl,
        flags: Flags::NONE,
        transaction: Transaction::NONE,
        timeout: None,
    };
    assert_eq!(node.lock(now, &ask), Err(Refusal::NotMember));
    let mut bed = Bed::new(2);
    bed.lock(0, 1, 1, Mode::Ex);
    bed.run();
    bed.granted(0, 1);
    bed.next_view();
    bed.tell_view(0, &[1]);
    assert_eq!(bed.event(0), Some(Event::Expelled { epoch: Epoch(2) }));
    assert_eq!(bed.ask(0, &ask), Err(Refusal::NotMember));
    assert_eq!(bed.node(0).counts().locks, 0);
}
