//! The lock manager's rules one by one, on a perfect network.

mod dlm_bed;

use dlm_bed::{Bed, name};
use sandrail_proto::dlm::{Event, Flags, Mode, ValueBlock};

#[test]
fn a_lock_goes_from_node_to_node_and_stays_until_asked_for() {
    let mut bed = Bed::new(3);
    let one = bed.lock(0, 1, 7, Mode::Ex);
    bed.run();
    assert_eq!(bed.granted(0, 1), Mode::Ex);
    bed.unlock(0, one, Some([9; 64]));
    assert!(bed.wires.values().all(|wire| wire.is_empty()), "sticky");
    let _two = bed.lock(1, 2, 7, Mode::Pr);
    bed.run();
    let Some(Event::Granted { mode, value, .. }) = bed.event(1) else {
        panic!("no grant");
    };
    assert_eq!(mode, Mode::Pr);
    assert!(matches!(value, ValueBlock::Valid { bytes, .. } if bytes == [9; 64]));
    let three = bed.lock(0, 3, 7, Mode::Pr);
    bed.run();
    assert_eq!(bed.granted(0, 3), Mode::Pr);
    bed.unlock(0, three, None);
    let _ = name(7);
}

#[test]
fn a_writer_waits_for_readers_who_are_told() {
    let mut bed = Bed::new(3);
    let one = bed.lock(0, 1, 7, Mode::Pr);
    bed.run();
    let two = bed.lock(1, 2, 7, Mode::Pr);
    bed.run();
    bed.granted(0, 1);
    bed.granted(1, 2);
    let three = bed.lock(2, 3, 7, Mode::Ex);
    bed.run();
    bed.silent(2);
    assert!(matches!(
        bed.event(0),
        Some(Event::Blocking {
            client: 1,
            wanted: Mode::Ex,
            ..
        })
    ));
    assert!(matches!(
        bed.event(1),
        Some(Event::Blocking {
            client: 2,
            wanted: Mode::Ex,
            ..
        })
    ));
    bed.unlock(0, one, None);
    bed.run();
    bed.silent(2);
    bed.unlock(1, two, None);
    bed.run();
    assert_eq!(bed.granted(2, 3), Mode::Ex);
    bed.unlock(2, three, None);
    let _ = Flags::NONE;
}
