//! The table on one thread. Apart from it, because its file also runs on a model checker's atomics.

use std::collections::HashMap;

use super::page::PageId;
use super::table::Table;

#[test]
fn a_table_under_pressure_agrees_with_a_map_and_forgets_what_is_removed() {
    // 64 pages' worth of slots, and twice as many entries as it is made for: every slot in use at times.
    let table = Table::new(64);
    let mut oracle: HashMap<u32, u64> = HashMap::new();
    let mut rng = fastrand::Rng::with_seed(3);
    let mut overflowed = false;
    for _ in 0..20_000 {
        let frame = rng.u32(0..128);
        let hash = PageId::new(0, u64::from(frame) * 7 + 1).unwrap().hash();
        let home = table.lock(hash);
        if oracle.remove(&frame).is_some() {
            home.remove(frame);
        } else {
            home.insert(frame);
            oracle.insert(frame, hash);
        }
        drop(home);
        overflowed |= table.passed() > 0;
        let found = table.find(hash, |found| (found == frame).then_some(()));
        assert_eq!(found.is_some(), oracle.contains_key(&frame));
    }
    assert!(overflowed, "the test never filled a bucket");
    for (frame, hash) in oracle {
        assert!(
            table
                .find(hash, |found| (found == frame).then_some(()))
                .is_some()
        );
        table.lock(hash).remove(frame);
    }
    assert_eq!(table.passed(), 0);
    assert!(table.is_empty());
}

#[test]
fn equal_tags_are_told_apart_by_the_probe_and_an_entry_can_be_moved() {
    let table = Table::new(4);
    let hash = 0x1234_5678_9abc_def0;
    table.lock(hash).insert(1);
    table.lock(hash).insert(2);
    let find = |wanted| table.find(hash, |found| (found == wanted).then_some(found));
    assert_eq!(
        (find(1), find(2), find(3)),
        (Some((1, 1)), Some((2, 2)), None)
    );
    let home = table.lock(hash);
    assert!(table.try_lock(hash).is_none(), "the latch is one holder's");
    home.replace(1, 3);
    drop(home);
    assert_eq!(
        (find(1), find(2), find(3)),
        (None, Some((2, 2)), Some((3, 3)))
    );
}
