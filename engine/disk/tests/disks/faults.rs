//! Faults on demand: what they do, and that they stop.

use std::time::Duration;

use sandrail_disk::{AnyDisk, Delay, Direct, DiskSpec, HELD_MAX, Layer, Medium, Strikes};
use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use crate::driver::{count, flush, now, read, run, sector, write};
use crate::oracle::{exercise, file_spec};
use crate::places::Folder;

fn in_memory() -> AnyDisk {
    let mut spec = DiskSpec::new(Medium::Ram {
        bytes: 512 * SECTOR_BYTES as u64,
        huge: HugePages::Never,
    });
    spec.layers = vec![Layer::Faults];
    spec.open().unwrap()
}

#[test]
fn a_disk_without_faults_is_as_a_vector() {
    let mut disk = in_memory();
    exercise(&mut disk, 3000, 1);
    let counts = disk.faults().unwrap().counts();
    let medium = disk.counters();
    assert_eq!((counts.reads, counts.writes), (medium.reads, medium.writes));
    assert_eq!(
        (counts.flushes, counts.discards),
        (medium.flushes, medium.discards)
    );
}

#[test]
fn a_slow_file_is_as_a_vector() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 512 * SECTOR_BYTES as u64);
    let mut spec = file_spec(path, Direct::Auto);
    spec.layers = vec![Layer::Faults];
    let mut disk = spec.open().unwrap();
    let faults = disk.faults().unwrap();
    faults.slow(Some(Delay {
        fixed: Duration::from_micros(10),
        jitter: Duration::from_micros(300),
        seed: 5,
    }));
    exercise(&mut disk, 1500, 5);
    assert!(faults.counts().delayed >= 1400, "{:?}", faults.counts());
}

#[test]
fn bad_sectors_fail_what_meets_them_at_the_first_of_them() {
    let mut disk = in_memory();
    let faults = disk.faults().unwrap();
    assert!(faults.fail(10..12, Strikes::Reads));
    assert!(faults.fail(20..21, Strikes::Writes));
    assert!(faults.fail(30..40, Strikes::Both));
    let medium = |lba| Err(DiskError::Medium { lba });
    assert_eq!(read(&mut disk, 8, 2).map(|_| ()), Ok(()));
    assert_eq!(read(&mut disk, 8, 3).map(|_| ()), medium(10));
    assert_eq!(read(&mut disk, 11, 3).map(|_| ()), medium(11));
    assert_eq!(read(&mut disk, 12, 20).map(|_| ()), medium(30));
    assert_eq!(write(&mut disk, 10, &sector(10, 1)), Ok(()));
    assert_eq!(read(&mut disk, 20, 1).map(|_| ()), Ok(()));
    let two = [sector(19, 1), sector(20, 1)].concat();
    assert_eq!(write(&mut disk, 19, &two), medium(20));
    assert_eq!(
        read(&mut disk, 19, 1).unwrap(),
        [0; SECTOR_BYTES],
        "nothing of it is done"
    );
    let discard = DiskOperation::Discard {
        lba: Lba(35),
        sectors: count(1),
    };
    assert_eq!(run(&mut disk, discard), medium(35));
    assert_eq!(faults.counts().failed, 5);
    faults.heal();
    assert_eq!(write(&mut disk, 19, &two), Ok(()));
    assert_eq!(read(&mut disk, 8, 30).map(|_| ()), Ok(()));
    faults.fail_flushes(true);
    assert!(flush(&mut disk).is_err());
    faults.fail_flushes(false);
    assert_eq!(flush(&mut disk), Ok(()));
}

#[test]
fn there_is_an_end_to_bad_ranges() {
    let faults = in_memory().faults().unwrap();
    let taken = (0..20).filter(|lba| faults.fail(*lba..lba + 1, Strikes::Both));
    assert_eq!(taken.count(), 16);
}

#[test]
fn a_slow_disk_is_as_slow_as_it_was_told() {
    let mut disk = in_memory();
    let faults = disk.faults().unwrap();
    let at = |us: u64| Instant::from_nanos(us * 1000);
    let delay = Delay {
        fixed: Duration::from_micros(100),
        jitter: Duration::from_micros(50),
        seed: 9,
    };
    faults.slow(Some(delay));
    let mut ends = Vec::new();
    for _ in 0..64 {
        assert_eq!(
            disk.start(at(1000), IoId(0), DiskOperation::Flush),
            Started::Pending
        );
        assert_eq!(disk.poll_done(at(1099)), None);
        let due = disk.poll_timeout().unwrap();
        assert!(due >= at(1100) && due <= at(1150));
        assert_eq!(disk.poll_done(due - Duration::from_nanos(1)), None);
        assert_eq!(disk.poll_done(due), Some((IoId(0), Ok(()))));
        assert_eq!(disk.poll_done(at(9000)), None);
        disk.release(IoId(0));
        ends.push(due);
    }
    ends.sort_unstable();
    ends.dedup();
    assert!(ends.len() > 32, "a jitter that is always the same");
    faults.slow(None);
    assert_eq!(
        disk.start(at(1000), IoId(0), DiskOperation::Flush),
        Started::Done(Ok(()))
    );
}

fn start_write(disk: &mut AnyDisk, io: u32, lba: u64) -> Started {
    let data = sector(lba, 1);
    let operation = DiskOperation::Write {
        lba: Lba(lba),
        sectors: count(1),
        data: &[&data[..100], &data[100..]],
    };
    disk.start(now(), IoId(io), operation)
}

#[test]
fn a_held_write_is_not_on_the_disk_until_it_is_let_go() {
    let mut disk = in_memory();
    let faults = disk.faults().unwrap();
    faults.hold_write(2);
    assert_eq!(start_write(&mut disk, 1, 5), Started::Done(Ok(())));
    assert_eq!(start_write(&mut disk, 2, 6), Started::Pending);
    assert_eq!(start_write(&mut disk, 3, 7), Started::Done(Ok(())));
    disk.kick(now());
    assert_eq!(disk.poll_done(now()), None);
    assert!(disk.poll_timeout().is_some(), "who lets go can't wake us");
    assert_eq!(read(&mut disk, 6, 1).unwrap(), [0; SECTOR_BYTES]);
    assert_eq!(faults.counts().held_now, 1);
    // From another thread, as a control socket's.
    std::thread::scope(|scope| {
        scope.spawn(|| faults.release());
    });
    assert_eq!(disk.poll_done(now()), Some((IoId(2), Ok(()))));
    for io in 1..=3 {
        disk.release(IoId(io));
    }
    assert_eq!(read(&mut disk, 6, 1).unwrap(), sector(6, 1));
    let counts = faults.counts();
    assert_eq!((counts.held, counts.held_now, counts.writes), (1, 0, 3));
    // A release lets go of what is held, not of what will be.
    faults.hold_write(1);
    assert_eq!(start_write(&mut disk, 1, 8), Started::Pending);
    assert_eq!(disk.poll_done(now()), None);
}

#[test]
fn more_than_can_be_held_passes_and_is_counted() {
    let mut disk = in_memory();
    let faults = disk.faults().unwrap();
    for io in 0..HELD_MAX as u32 {
        faults.hold_write(1);
        assert_eq!(start_write(&mut disk, io, u64::from(io)), Started::Pending);
    }
    faults.hold_write(1);
    assert_eq!(start_write(&mut disk, 100, 100), Started::Done(Ok(())));
    assert_eq!(faults.counts().passed_unheld, 1);
    faults.release();
    let mut let_go: Vec<u32> = std::iter::from_fn(|| disk.poll_done(now()))
        .map(|(io, _)| io.0)
        .collect();
    let_go.sort_unstable();
    assert_eq!(let_go, (0..HELD_MAX as u32).collect::<Vec<_>>());
}
