//! The power-cut mode: what was flushed is always there, what was not is old or new, sector by sector.

use sandrail_disk::{AnyDisk, Delay, Direct, DiskSpec, Layer, Limits, Medium, Survivors};
use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, IoId, SECTOR_BYTES, Started,
};
use sandrail_wire::Lba;
use std::time::Duration;

use crate::driver::{count, flush, now, read, rest, sector, write};
use crate::oracle::{exercise, file_spec};
use crate::places::Folder;

const SECTORS: u64 = 256;

fn over_memory(cache_sectors: u64) -> AnyDisk {
    let mut spec = DiskSpec::new(Medium::Ram {
        bytes: SECTORS * SECTOR_BYTES as u64,
        huge: HugePages::Never,
    });
    spec.limits = Limits {
        operations_max: 32,
        sectors_per_operation_max: 16,
    };
    spec.layers = vec![
        Layer::Faults,
        Layer::Cache {
            bytes: cache_sectors * SECTOR_BYTES as u64,
        },
    ];
    let disk = spec.open().unwrap();
    // Results from behind come in any order.
    disk.faults().unwrap().slow(Some(Delay {
        fixed: Duration::ZERO,
        jitter: Duration::from_micros(50),
        seed: 3,
    }));
    disk
}

/// What each sector may hold: the version of the last flush, and every one since.
struct Model {
    versions: Vec<Vec<u64>>,
    writes: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            versions: vec![vec![0]; SECTORS as usize],
            writes: 0,
        }
    }

    fn bytes(lba: u64, version: u64) -> [u8; SECTOR_BYTES] {
        if version == 0 {
            [0; SECTOR_BYTES]
        } else {
            sector(lba, version)
        }
    }

    /// A flush that began after this many writes is over: nothing older than what was there then may come back.
    fn flushed(&mut self, writes: u64) {
        for versions in &mut self.versions {
            let newest = versions.iter().rposition(|version| *version <= writes);
            versions.drain(..newest.unwrap_or(0));
        }
    }

    /// Takes what is there after a crash as the new truth.
    fn crashed(&mut self, disk: &mut AnyDisk, survivors: Survivors) {
        let all: Vec<u8> = (0..SECTORS / 16)
            .flat_map(|at| read(disk, at * 16, 16).unwrap())
            .collect();
        for (lba, got) in all.chunks_exact(SECTOR_BYTES).enumerate() {
            let versions = &mut self.versions[lba];
            let found = versions
                .iter()
                .rfind(|version| got == Self::bytes(lba as u64, **version));
            let Some(version) = found.copied() else {
                panic!(
                    "sector {lba} holds {:?}, not one of {versions:?}",
                    &got[..16]
                );
            };
            if survivors == Survivors::Everything {
                assert_eq!(Some(&version), versions.last(), "sector {lba} lost a write");
            }
            *versions = vec![version];
        }
    }
}

/// Writes at random while flushes are under way, and crashes.
fn crash_again_and_again(seed: u64, survivors: impl Fn(u64) -> Survivors) -> (u64, u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut disk = over_memory(96);
    let mut model = Model::new();
    let (mut kept, mut lost) = (0, 0);
    for round in 0..12 {
        let mut flushing = None;
        for _ in 0..random.u32(1..120) {
            step(&mut disk, &mut model, &mut flushing, &mut random);
        }
        let at_risk = disk.cache().unwrap().unflushed_sectors();
        let survivors = survivors(seed.wrapping_mul(100).wrapping_add(round));
        let mark = disk.loss_mark();
        let report = disk.cache().unwrap().crash(now(), survivors).unwrap();
        assert!(report.kept + report.lost <= at_risk as u64);
        assert_ne!(
            disk.loss_mark(),
            mark,
            "a crash is not to be mistaken for a restart without loss"
        );
        (kept, lost) = (kept + report.kept, lost + report.lost);
        while let Some((io, result)) = disk.poll_done(now()) {
            // A flush that came to its end before the crash did is a flush.
            if let (Some(writes), Ok(())) = (flushing, result) {
                model.flushed(writes);
            }
            disk.release(io);
        }
        model.crashed(&mut disk, survivors);
    }
    (kept, lost)
}

const FLUSH: IoId = IoId(20);

fn step(
    disk: &mut AnyDisk,
    model: &mut Model,
    flushing: &mut Option<u64>,
    random: &mut fastrand::Rng,
) {
    if random.u32(0..12) == 0 && flushing.is_none() {
        assert_eq!(
            disk.start(now(), FLUSH, DiskOperation::Flush),
            Started::Pending
        );
        *flushing = Some(model.writes);
    } else {
        let sectors = random.u64(1..8);
        let lba = random.u64(0..SECTORS - sectors);
        let version = model.writes + 1;
        let data: Vec<u8> = (lba..lba + sectors)
            .flat_map(|lba| sector(lba, version))
            .collect();
        let operation = DiskOperation::Write {
            lba: Lba(lba),
            sectors: count(sectors as u32),
            data: &[&data],
        };
        if disk.start(now(), IoId(0), operation) == Started::Done(Ok(())) {
            model.writes = version;
            for lba in lba..lba + sectors {
                model.versions[lba as usize].push(version);
            }
            disk.release(IoId(0));
        }
    }
    if random.bool() {
        disk.kick(now());
    }
    while let Some((io, result)) = disk.poll_done(now()) {
        assert_eq!((io, result), (FLUSH, Ok(())));
        model.flushed(flushing.take().unwrap());
        disk.release(io);
    }
}

#[test]
fn a_crash_keeps_what_was_flushed_and_tears_nothing() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..40 {
        let report = crash_again_and_again(seed, Survivors::Seeded);
        (kept, lost) = (kept + report.0, lost + report.1);
    }
    // Otherwise the test would show nothing.
    assert!(kept > 500 && lost > 500, "{kept} kept, {lost} lost");
}

#[test]
fn a_crash_may_lose_all_or_nothing() {
    for seed in 0..10 {
        let (kept, lost) = crash_again_and_again(seed, |_| Survivors::Nothing);
        assert!(kept == 0 && lost > 0);
        let (kept, lost) = crash_again_and_again(seed, |_| Survivors::Everything);
        assert!(kept > 0 && lost == 0);
    }
}

#[test]
fn the_same_seed_loses_the_same_sectors() {
    let survivors = |seed| {
        let mut disk = over_memory(96);
        for lba in 0..64 {
            write(&mut disk, lba, &sector(lba, 1)).unwrap();
        }
        let cache = disk.cache().unwrap();
        let report = cache.crash(now(), Survivors::Seeded(seed)).unwrap();
        assert_eq!(report.kept + report.lost, 64);
        read(&mut disk, 0, 16).unwrap()
    };
    assert_eq!(survivors(5), survivors(5));
    assert_ne!(survivors(5), survivors(6));
}

#[test]
fn a_cache_is_as_a_vector() {
    for (seed, cache_sectors) in [(1, 64), (2, 100), (3, 4000)] {
        let mut spec = DiskSpec::new(Medium::Ram {
            bytes: 512 * SECTOR_BYTES as u64,
            huge: HugePages::Never,
        });
        spec.limits.sectors_per_operation_max = 16;
        spec.layers = vec![
            Layer::Faults,
            Layer::Cache {
                bytes: cache_sectors * SECTOR_BYTES as u64,
            },
        ];
        let mut disk = spec.open().unwrap();
        disk.faults().unwrap().slow(Some(Delay {
            fixed: Duration::from_micros(5),
            jitter: Duration::from_micros(50),
            seed,
        }));
        exercise(&mut disk, 3000, seed);
        let busy = disk.cache().unwrap().counters().busy;
        assert!(
            busy > 0,
            "a small cache is full now and then, and so is a run on its way"
        );
    }
}

#[test]
fn a_cache_before_a_file_is_as_a_vector() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 512 * SECTOR_BYTES as u64);
    let mut spec = file_spec(path, Direct::Auto);
    spec.layers = vec![Layer::Cache { bytes: 64 << 10 }];
    exercise(&mut spec.open().unwrap(), 2000, 4);
}

#[test]
fn unflushed_writes_die_with_the_disk_and_flushed_ones_do_not() {
    let folder = Folder::in_memory();
    let path = folder.file("disk", SECTORS * SECTOR_BYTES as u64);
    let mut spec = file_spec(path, Direct::Auto);
    spec.layers = vec![Layer::Cache { bytes: 1 << 20 }];
    let mut disk = spec.open().unwrap();
    let mark = disk.loss_mark();
    write(&mut disk, 3, &sector(3, 1)).unwrap();
    flush(&mut disk).unwrap();
    write(&mut disk, 3, &sector(3, 2)).unwrap();
    write(&mut disk, 4, &sector(4, 2)).unwrap();
    assert_eq!(read(&mut disk, 3, 1).unwrap(), sector(3, 2));
    drop(disk);
    let mut disk = spec.open().unwrap();
    assert_ne!(disk.loss_mark(), mark);
    assert_eq!(read(&mut disk, 3, 1).unwrap(), sector(3, 1));
    assert_eq!(read(&mut disk, 4, 1).unwrap(), [0; SECTOR_BYTES]);
}

#[test]
fn a_disk_behind_that_fails_fails_flushes_and_loses_nothing() {
    let mut disk = over_memory(96);
    let faults = disk.faults().unwrap();
    assert!(faults.fail(7..8, sandrail_disk::Strikes::Writes));
    write(&mut disk, 7, &sector(7, 1)).unwrap();
    assert_eq!(flush(&mut disk), Err(DiskError::Medium { lba: 7 }));
    write(&mut disk, 7, &sector(7, 2)).unwrap();
    assert_eq!(flush(&mut disk), Err(DiskError::Medium { lba: 7 }));
    faults.heal();
    assert_eq!(flush(&mut disk), Ok(()));
    disk.cache()
        .unwrap()
        .crash(now(), Survivors::Nothing)
        .unwrap();
    assert_eq!(read(&mut disk, 7, 1).unwrap(), sector(7, 2));
}

#[test]
fn a_full_cache_before_a_failing_disk_says_so() {
    let mut disk = over_memory(64);
    let faults = disk.faults().unwrap();
    assert!(faults.fail(0..SECTORS, sandrail_disk::Strikes::Writes));
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    let mut lba = 0;
    loop {
        let data = sector(lba, 1);
        let operation = DiskOperation::Write {
            lba: Lba(lba),
            sectors: count(1),
            data: &[&data],
        };
        match disk.start(now(), IoId(0), operation) {
            Started::Done(Ok(())) => lba += 1,
            Started::Done(Err(error)) => {
                assert!(matches!(error, DiskError::Medium { .. }), "{error}");
                break;
            }
            Started::Busy | Started::Pending => rest(&disk),
        }
        disk.kick(now());
        assert!(disk.poll_done(now()).is_none());
        assert!(std::time::Instant::now() < limit);
    }
    assert!((48..=64).contains(&lba), "{lba}");
}

#[test]
fn a_write_that_overtakes_a_failing_one_is_kept() {
    let mut disk = over_memory(96);
    let faults = disk.faults().unwrap();
    faults.slow(Some(Delay {
        fixed: Duration::from_millis(2),
        jitter: Duration::ZERO,
        seed: 0,
    }));
    assert!(faults.fail(7..8, sandrail_disk::Strikes::Writes));
    write(&mut disk, 7, &sector(7, 1)).unwrap();
    let started = disk.start(now(), FLUSH, DiskOperation::Flush);
    assert_eq!(started, Started::Pending);
    disk.kick(now());
    // The first version is on its way, and will come back.
    write(&mut disk, 7, &sector(7, 2)).unwrap();
    let failed = Some((FLUSH, Err(DiskError::Medium { lba: 7 })));
    let mut ended = None;
    while ended.is_none() {
        rest(&disk);
        disk.kick(now());
        ended = disk.poll_done(now());
    }
    assert_eq!(ended, failed);
    disk.release(FLUSH);
    assert_eq!(read(&mut disk, 7, 1).unwrap(), sector(7, 2));
    assert_eq!(disk.cache().unwrap().unflushed_sectors(), 1);
    faults.heal();
    assert_eq!(flush(&mut disk), Ok(()));
    disk.cache()
        .unwrap()
        .crash(now(), Survivors::Nothing)
        .unwrap();
    assert_eq!(read(&mut disk, 7, 1).unwrap(), sector(7, 2));
}
