//! Files as they are: short ones, full ones, locked ones, ones that grow.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandrail_disk::{AnyDisk, Direct, DiskSpec, FileSpec, Medium, OpenError};
use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

use crate::driver::{count, flush, now, read, rest, run, sector, write};
use crate::places::Folder;

const SECTOR: u64 = SECTOR_BYTES as u64;

fn range(path: &Path, offset_bytes: u64, length_bytes: Option<u64>) -> DiskSpec {
    DiskSpec::new(Medium::File(FileSpec {
        offset_bytes,
        length_bytes,
        ..FileSpec::new(path)
    }))
}

fn whole(path: &Path) -> DiskSpec {
    range(path, 0, None)
}

#[test]
fn a_range_touches_nothing_else() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 64 * SECTOR);
    let before = vec![0xa5; 64 * SECTOR_BYTES];
    std::fs::write(&path, &before).unwrap();
    let mut disk = range(&path, 3 * SECTOR, Some(5 * SECTOR)).open().unwrap();
    assert_eq!(disk.sectors(), 5);
    write(&mut disk, 0, &sector(0, 1)).unwrap();
    write(&mut disk, 4, &sector(4, 1)).unwrap();
    assert_eq!(
        write(&mut disk, 5, &sector(5, 1)),
        Err(DiskError::Medium { lba: 5 })
    );
    let two = [sector(4, 2), sector(5, 2)].concat();
    assert_eq!(write(&mut disk, 4, &two), Err(DiskError::Medium { lba: 5 }));
    assert_eq!(
        read(&mut disk, u64::MAX, 1),
        Err(DiskError::Medium { lba: u64::MAX })
    );
    assert_eq!(read(&mut disk, 1, 1).unwrap(), [0xa5; SECTOR_BYTES]);
    // Discards are rounded inwards to pages, and here there is none.
    let discard = DiskOperation::Discard {
        lba: Lba(0),
        sectors: count(5),
    };
    assert_eq!(run(&mut disk, discard), Ok(()));
    assert_eq!(read(&mut disk, 4, 1).unwrap(), sector(4, 1));
    drop(disk);
    let mut expected = before;
    expected[3 * 512..4 * 512].copy_from_slice(&sector(0, 1));
    expected[7 * 512..8 * 512].copy_from_slice(&sector(4, 1));
    assert!(std::fs::read(&path).unwrap() == expected);
}

#[test]
fn what_makes_no_disk_is_named() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 10 * SECTOR + 100);
    let cases = [
        (range(&path, 100, None), "offset 100 is not a whole number"),
        (range(&path, 0, Some(0)), "length 0 is not a whole number"),
        (
            range(&path, 0, Some(700)),
            "length 700 is not a whole number",
        ),
        (
            range(&path, 512, Some(10 * SECTOR)),
            "go beyond its 5220 bytes",
        ),
        (range(&path, 10 * SECTOR, None), "leave no sector"),
        (range(&path, u64::MAX / 512 * 512, Some(1024)), "go beyond"),
        (whole(&folder.path("none")), "cannot open it: No such file"),
        (whole(&folder.path(".")), "is a folder, not a regular file"),
        (
            whole(Path::new("/dev/full")),
            "is a character device, not a",
        ),
    ];
    for (spec, expected) in cases {
        let error = spec.open().unwrap_err().to_string();
        let Medium::File(file) = &spec.medium else {
            unreachable!()
        };
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(&*file.path.to_string_lossy()), "{error}");
    }
    let mut spec = whole(&path);
    spec.limits.operations_max = 0;
    assert!(matches!(spec.open(), Err(OpenError::Limits { .. })));
    let mut disk = whole(&path).open().unwrap();
    assert_eq!(disk.sectors(), 10, "a part of a sector is none");
    let long = DiskOperation::Read {
        lba: Lba(0),
        sectors: count(33),
    };
    let invalid = DiskError::Device {
        errno: libc::EINVAL,
    };
    assert_eq!(run(&mut disk, long), Err(invalid));
    let short = DiskOperation::Write {
        lba: Lba(0),
        sectors: count(2),
        data: &[&[0; 512], &[0; 511]],
    };
    assert_eq!(run(&mut disk, short), Err(invalid));
}

#[test]
fn a_file_is_made_with_its_size_and_left_alone_if_it_is_there() {
    let folder = Folder::on_disk();
    let path = folder.path("new");
    let spec = DiskSpec::new(Medium::File(FileSpec {
        create_bytes: Some(100 * SECTOR),
        ..FileSpec::new(&path)
    }));
    let mut disk = spec.open().unwrap();
    assert_eq!(disk.sectors(), 100);
    write(&mut disk, 99, &sector(99, 1)).unwrap();
    drop(disk);
    let spec = DiskSpec::new(Medium::File(FileSpec {
        create_bytes: Some(7 * SECTOR),
        ..FileSpec::new(&path)
    }));
    let mut disk = spec.open().unwrap();
    assert_eq!(disk.sectors(), 100);
    assert_eq!(read(&mut disk, 99, 1).unwrap(), sector(99, 1));
}

#[test]
fn nobody_serves_what_somebody_serves() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 64 * SECTOR);
    let refused = |spec: DiskSpec| {
        let error = spec.open().unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        let text = error.to_string();
        let me = format!("(pid {})", std::process::id());
        assert!(
            text.contains(&me) && text.contains(&*path.to_string_lossy()),
            "{text}"
        );
    };
    let disk = whole(&path).open().unwrap();
    refused(whole(&path));
    refused(range(&path, 8 * SECTOR, Some(8 * SECTOR)));
    refused(DiskSpec {
        read_only: true,
        ..whole(&path)
    });
    drop(disk);
    // Side by side is fine, in pages that are not shared.
    let first = range(&path, 0, Some(16 * SECTOR)).open().unwrap();
    let second = range(&path, 16 * SECTOR, Some(9 * SECTOR)).open().unwrap();
    refused(range(&path, 25 * SECTOR, Some(SECTOR)));
    refused(whole(&path));
    let third = range(&path, 32 * SECTOR, None).open().unwrap();
    refused(range(&path, 40 * SECTOR, Some(SECTOR)));
    drop((first, second, third));
    let read_only = DiskSpec {
        read_only: true,
        ..whole(&path)
    };
    let readers = [read_only.open().unwrap(), read_only.open().unwrap()];
    refused(whole(&path));
    drop(readers);
    whole(&path).open().unwrap();
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 16 * SECTOR);
    let mut file = DiskSpec {
        read_only: true,
        ..whole(&path)
    };
    let ram = Medium::Ram {
        bytes: 16 * SECTOR,
        huge: HugePages::Never,
    };
    for medium in [file.medium.clone(), ram] {
        file.medium = medium;
        let mut disk = file.open().unwrap();
        let refused = Err(DiskError::Device { errno: libc::EROFS });
        assert_eq!(write(&mut disk, 0, &sector(0, 1)), refused);
        let discard = DiskOperation::Discard {
            lba: Lba(0),
            sectors: count(8),
        };
        assert_eq!(run(&mut disk, discard), refused);
        assert!(!disk.discards());
        assert_eq!(read(&mut disk, 0, 1).unwrap(), [0; SECTOR_BYTES]);
        assert_eq!(flush(&mut disk), Ok(()));
    }
}

#[test]
fn the_size_follows_the_file() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 16 * SECTOR);
    let resize = |sectors: u64| {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(sectors * SECTOR).unwrap();
    };
    let mut disk = whole(&path).open().unwrap();
    disk.kick(Instant::from_nanos(0));
    resize(32);
    let ms = |ms: u64| Instant::from_nanos(ms * 1_000_000);
    disk.kick(ms(499));
    assert_eq!(
        disk.sectors(),
        16,
        "looked at half a second after the last time, not before"
    );
    disk.kick(ms(500));
    assert_eq!(disk.sectors(), 32);
    resize(64);
    assert!(disk.refresh());
    assert!(!disk.refresh());
    assert_eq!(disk.sectors(), 64);
    write(&mut disk, 63, &sector(63, 1)).unwrap();
    flush(&mut disk).unwrap();
    // Behind our back: the read finds out, and the size is looked at with the next turn.
    resize(8);
    assert_eq!(read(&mut disk, 6, 4), Err(DiskError::Medium { lba: 8 }));
    disk.kick(now());
    assert_eq!(disk.sectors(), 8);
    drop(disk);
    resize(64);
    let mut ranged = range(&path, 4 * SECTOR, Some(20 * SECTOR)).open().unwrap();
    resize(128);
    assert!(!ranged.refresh());
    assert_eq!(
        ranged.sectors(),
        20,
        "a range grows no longer than it was asked to be"
    );
    resize(10);
    assert!(ranged.refresh());
    assert_eq!(ranged.sectors(), 6);
}

#[test]
fn a_turn_is_one_system_call_and_neighbours_are_one_request() {
    let folder = Folder::in_memory();
    let path = folder.file("disk", 4096 * SECTOR);
    let mut disk = whole(&path).open().unwrap();
    let turn = |disk: &mut AnyDisk, lbas: &dyn Fn(u32) -> u64| {
        let before = disk.counters();
        for io in 0..32 {
            let operation = DiskOperation::Read {
                lba: Lba(lbas(io)),
                sectors: count(2),
            };
            assert_eq!(disk.start(now(), IoId(io), operation), Started::Pending);
        }
        disk.kick(now());
        let mut left = 32;
        while left > 0 {
            match disk.poll_done(now()) {
                Some((io, Ok(()))) => {
                    disk.release(io);
                    left -= 1;
                }
                Some((_, Err(error))) => panic!("{error}"),
                None => rest(disk),
            }
        }
        let after = disk.counters();
        (
            after.enters - before.enters,
            after.requests - before.requests,
            after.merged_reads - before.merged_reads,
        )
    };
    assert_eq!(turn(&mut disk, &|io| u64::from(io) * 100), (1, 32, 0));
    assert_eq!(turn(&mut disk, &|io| u64::from(31 - io) * 2), (1, 1, 31));
    assert_eq!(
        turn(&mut disk, &|io| u64::from(io / 4 * 50 + io % 4 * 2)),
        (1, 8, 24)
    );
    let idle = disk.counters();
    for _ in 0..1000 {
        disk.kick(now());
        assert_eq!(disk.poll_done(now()), None);
    }
    assert_eq!(disk.counters(), idle, "an idle turn costs nothing");
    assert_eq!(disk.poll_timeout(), None);
}

#[test]
fn the_descriptor_is_readable_exactly_while_something_waits() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 64 * SECTOR);
    let mut disk = whole(&path).open().unwrap();
    let readable = |disk: &AnyDisk, ms: i32| {
        let mut poll = libc::pollfd {
            fd: disk.wait_fd().unwrap(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, which lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, ms) == 1 }
    };
    assert!(!readable(&disk, 0));
    for _ in 0..20 {
        let started = disk.start(now(), IoId(0), DiskOperation::Flush);
        assert_eq!(started, Started::Pending);
        disk.kick(now());
        assert!(readable(&disk, 5000), "it slept through the end");
        assert_eq!(disk.poll_done(now()), Some((IoId(0), Ok(()))));
        assert_eq!(disk.poll_done(now()), None);
        assert!(!readable(&disk, 0), "it would spin");
        disk.release(IoId(0));
    }
}

#[test]
fn the_way_data_take_is_told() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 64 * SECTOR);
    let with = |path: &PathBuf, direct| {
        let medium = Medium::File(FileSpec {
            direct,
            ..FileSpec::new(path)
        });
        DiskSpec::new(medium).open()
    };
    let off = with(&path, Direct::Off).unwrap().info();
    assert_eq!(off.direct, Some(Err("switched off".to_owned())));
    assert!(
        off.to_string()
            .contains("through the page cache (switched off)"),
        "{off}"
    );
    let memory = Folder::in_memory();
    let path = memory.file("disk", 64 * SECTOR);
    let auto = with(&path, Direct::Auto).unwrap().info();
    let Some(Err(reason)) = auto.direct else {
        panic!("tmpfs tells of no alignment: {auto:?}")
    };
    let error = with(&path, Direct::On).unwrap_err();
    assert!(matches!(error, OpenError::Direct { .. }), "{error}");
    assert!(error.to_string().contains(&reason), "{error}");
}

#[test]
fn direct_io_goes_past_the_page_cache_and_agrees_with_it() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 64 * SECTOR);
    let mut disk = whole(&path).open().unwrap();
    if !matches!(disk.info().direct, Some(Ok(()))) {
        println!(
            "SKIPPED: no direct I/O of single sectors here: {}",
            disk.info()
        );
        return;
    }
    // What was written through the page cache before, and not written back yet, is seen; and the other way round.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    for version in 1..50 {
        for lba in [7, 8, 9] {
            file.write_all_at(&sector(lba, version), lba * SECTOR)
                .unwrap();
            assert_eq!(read(&mut disk, lba, 1).unwrap(), sector(lba, version));
            write(&mut disk, lba + 10, &sector(lba + 10, version)).unwrap();
            let mut got = [0; SECTOR_BYTES];
            file.read_exact_at(&mut got, (lba + 10) * SECTOR).unwrap();
            assert_eq!(got, sector(lba + 10, version));
        }
    }
}

#[test]
fn discarded_pages_are_holes() {
    use std::os::unix::fs::MetadataExt;
    for folder in [Folder::on_disk(), Folder::in_memory()] {
        let path = folder.file("disk", 256 * SECTOR);
        std::fs::write(&path, vec![1; 256 * SECTOR_BYTES]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let mut disk = whole(&path).open().unwrap();
        if !disk.discards() {
            println!("SKIPPED: no holes in {}", path.display());
            continue;
        }
        let blocks = path.metadata().unwrap().blocks();
        let discard = DiskOperation::Discard {
            lba: Lba(4),
            sectors: count(200),
        };
        assert_eq!(run(&mut disk, discard), Ok(()));
        assert!(path.metadata().unwrap().blocks() <= blocks - 192);
        assert_eq!(read(&mut disk, 3, 1).unwrap(), [1; SECTOR_BYTES]);
        assert_eq!(read(&mut disk, 8, 1).unwrap(), [0; SECTOR_BYTES]);
        assert_eq!(read(&mut disk, 204, 1).unwrap(), [1; SECTOR_BYTES]);
        assert_eq!(disk.sectors(), 256);
    }
}

#[test]
fn marks_last_as_long_as_unflushed_writes_do() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", 64 * SECTOR);
    let mark = |durability| {
        let spec = DiskSpec {
            durability,
            ..whole(&path)
        };
        spec.open().unwrap().loss_mark()
    };
    assert_eq!(mark(Durability::Flush), mark(Durability::Flush));
    assert_eq!(mark(Durability::WriteThrough), mark(Durability::Flush));
    assert_ne!(mark(Durability::Volatile), mark(Durability::Volatile));
    let part = range(&path, 4096, None).open().unwrap().loss_mark();
    assert_ne!(part, mark(Durability::Flush));
    // Another file of the same name is another disk, be its inode the same.
    let before = mark(Durability::Flush);
    std::fs::remove_file(&path).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let mut file = File::create(&path).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    assert_ne!(mark(Durability::Flush), before);
    let ram = DiskSpec::new(Medium::Ram {
        bytes: 4096,
        huge: HugePages::Never,
    });
    assert_ne!(
        ram.open().unwrap().loss_mark(),
        ram.open().unwrap().loss_mark()
    );
    let expected = [
        Durability::Volatile,
        Durability::Flush,
        Durability::WriteThrough,
    ];
    for durability in expected {
        let spec = DiskSpec {
            durability,
            ..whole(&path)
        };
        assert_eq!(spec.open().unwrap().durability(), durability);
    }
    assert_eq!(ram.open().unwrap().durability(), Durability::Volatile);
}
