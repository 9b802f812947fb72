//! Block devices and file systems that run out: loop devices, and a tmpfs of one's own.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandrail_disk::{Direct, DiskSpec, FileSpec, LOST_FOLDER, Medium, OpenError};
use sandrail_lab::may_run;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, SECTOR_BYTES,
};
use sandrail_wire::Lba;

use crate::driver::{count, flush, read, run, sector, write};
use crate::oracle::{exercise, file_spec};
use crate::places::Folder;

const SECTOR: u64 = SECTOR_BYTES as u64;

/// A loop device on a file, detached when it is dropped.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn on(file: &Path, sector_bytes: u32) -> Result<Self, String> {
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size"])
            .arg(sector_bytes.to_string())
            .arg(file)
            .output()
            .map_err(|error| format!("losetup: {error}"))?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).trim().to_owned());
        }
        let path = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
        Ok(Self { path })
    }

    /// `None`, and a note, where there are no loop devices.
    fn try_on(test: &str, file: &Path, sector_bytes: u32) -> Option<Self> {
        match Self::on(file, sector_bytes) {
            Ok(device) => Some(device),
            Err(reason) => {
                may_run(test, Err::<(), _>(reason));
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
    }
}

#[test]
fn a_block_device_is_as_a_vector_and_is_claimed() {
    let folder = Folder::on_disk();
    let file = folder.file("disk", 512 * SECTOR);
    let Some(device) = Loop::try_on("a_block_device_is_as_a_vector_and_is_claimed", &file, 512)
    else {
        return;
    };
    let spec = DiskSpec {
        durability: Durability::Volatile,
        ..file_spec(device.path.clone(), Direct::Auto)
    };
    let mut disk = spec.open().unwrap();
    assert_eq!(disk.info().direct, Some(Ok(())), "{}", disk.info());
    assert_eq!(disk.sectors(), 512);
    exercise(&mut disk, 1500, 21);
    let error = spec.open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(disk);
    let part = |offset_bytes, length_bytes| {
        DiskSpec::new(Medium::File(FileSpec {
            offset_bytes,
            length_bytes,
            ..FileSpec::new(&device.path)
        }))
    };
    let first = part(0, Some(64 * SECTOR)).open().unwrap();
    let second = part(64 * SECTOR, None).open().unwrap();
    assert_eq!((first.sectors(), second.sectors()), (64, 448));
    let error = spec.open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop((first, second));
    // As a mount does, which has no lock.
    let claim = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(&device.path)
        .unwrap();
    let error = spec.open().unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let error = part(64 * SECTOR, None).open().unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(claim);
    spec.open().unwrap();
}

#[test]
fn a_device_of_large_blocks_goes_through_the_page_cache() {
    let folder = Folder::on_disk();
    let file = folder.file("disk", 512 * SECTOR);
    let test = "a_device_of_large_blocks_goes_through_the_page_cache";
    let Some(device) = Loop::try_on(test, &file, 4096) else {
        return;
    };
    let on = file_spec(device.path.clone(), Direct::On);
    let error = on.open().unwrap_err();
    assert!(matches!(error, OpenError::Direct { .. }), "{error}");
    let mut spec = file_spec(device.path.clone(), Direct::Auto);
    spec.durability = Durability::Volatile;
    let mut disk = spec.open().unwrap();
    let Some(Err(reason)) = disk.info().direct else {
        panic!("{}", disk.info())
    };
    assert!(reason.contains("blocks of 4096 bytes"), "{reason}");
    exercise(&mut disk, 1500, 22);
    // Single sectors of one block, written one after the other and read past any cache of ours.
    for lba in 0..8 {
        write(&mut disk, lba, &sector(lba, 9)).unwrap();
    }
    drop(disk);
    spec.durability = Durability::Flush;
    let mut disk = spec.open().unwrap();
    flush(&mut disk).unwrap();
    let expected: Vec<u8> = (0..8).flat_map(|lba| sector(lba, 9)).collect();
    assert!(std::fs::read(&file).unwrap()[..4096] == expected);
}

#[test]
fn a_medium_that_fails_is_told_at_its_sector() {
    let folder = Folder::on_disk();
    let file = folder.file("disk", 512 * SECTOR);
    let test = "a_medium_that_fails_is_told_at_its_sector";
    let Some(device) = Loop::try_on(test, &file, 512) else {
        return;
    };
    let mut spec = file_spec(device.path.clone(), Direct::Auto);
    for direct in [Direct::On, Direct::Off] {
        let Medium::File(medium) = &mut spec.medium else {
            unreachable!()
        };
        medium.direct = direct;
        let mut disk = spec.open().unwrap();
        write(&mut disk, 100, &sector(100, 1)).unwrap();
        flush(&mut disk).unwrap();
        let shorter = OpenOptions::new().write(true).open(&file).unwrap();
        // A loop device whose file is cut short under it answers EIO beyond the file's end.
        shorter.set_len(256 * SECTOR).unwrap();
        assert_eq!(read(&mut disk, 400, 8), Err(DiskError::Medium { lba: 400 }));
        assert_eq!(read(&mut disk, 100, 1).unwrap(), sector(100, 1));
        assert_eq!(disk.counters().failed, 1);
        shorter.set_len(512 * SECTOR).unwrap();
        assert_eq!(read(&mut disk, 400, 8).unwrap(), vec![0; 8 * SECTOR_BYTES]);
    }
}

/// Runs `inside` with a tmpfs of so many bytes of its own, in a mount namespace that ends with the thread.
fn with_tmpfs(test: &str, bytes: u64, inside: impl FnOnce(&Folder) + Send) {
    let outer = Folder::in_memory();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let place = outer.path(".");
            if may_run(test, mount_tmpfs(&place, bytes)) {
                inside(&Folder::under(&place));
                let place = c_string(&place);
                // SAFETY: a path that lives through the call.
                unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
            }
        });
        thread.join().unwrap();
    });
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn mount_tmpfs(place: &Path, bytes: u64) -> io::Result<()> {
    let done = |result| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: takes a number; only this thread gets the new namespace.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let none = std::ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: C strings or null, as mount(2) allows for a change of propagation.
    done(unsafe { libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()) })?;
    let options = CString::new(format!("size={bytes}")).unwrap();
    let place = c_string(place);
    // SAFETY: C strings that live through the call.
    let result = unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            place.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    done(result)
}

#[test]
fn a_full_file_system_is_no_space() {
    let test = "a_full_file_system_is_no_space";
    with_tmpfs(test, 256 << 10, |folder| {
        let path = folder.file("disk", 1 << 20);
        let mut disk = file_spec(path, Direct::Auto).open().unwrap();
        let block: Vec<u8> = (0..8).flat_map(|lba| sector(lba, 1)).collect();
        let taken = (0..256_u64)
            .take_while(|at| match write(&mut disk, at * 8, &block) {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error, DiskError::NoSpace);
                    false
                }
            })
            .count() as u64;
        assert!((32..=64).contains(&taken), "{taken} blocks of 64");
        for at in 0..taken {
            assert_eq!(read(&mut disk, at * 8, 8).unwrap(), block);
        }
        // What is given up can be had elsewhere.
        let discard = DiskOperation::Discard {
            lba: Lba(0),
            sectors: count(16),
        };
        assert_eq!(run(&mut disk, discard), Ok(()));
        assert_eq!(write(&mut disk, 1024, &block), Ok(()));
    });
}

#[test]
fn one_full_block_does_not_fail_its_neighbours() {
    let test = "one_full_block_does_not_fail_its_neighbours";
    with_tmpfs(test, 256 << 10, |folder| {
        use sandrail_proto::aoe::target::backing::{IoId, Started};
        let path = folder.file("disk", 1 << 20);
        let mut disk = file_spec(path, Direct::Auto).open().unwrap();
        let block: Vec<u8> = (0..8).flat_map(|lba| sector(lba, 1)).collect();
        let mut last = 0;
        while write(&mut disk, last + 8, &block).is_ok() {
            last += 8;
        }
        // The last block that there is and the first that there is not, in one request.
        for (io, lba) in [(0, last), (1, last + 8)] {
            let operation = DiskOperation::Write {
                lba: Lba(lba),
                sectors: count(8),
                data: &[&block],
            };
            assert_eq!(
                disk.start(crate::driver::now(), IoId(io), operation),
                Started::Pending
            );
        }
        let mut results = [None; 2];
        let mut turns = 0;
        while results.contains(&None) {
            turns += 1;
            assert!(turns < 1000, "{results:?}");
            disk.kick(crate::driver::now());
            while let Some((io, result)) = disk.poll_done(crate::driver::now()) {
                results[io.0 as usize] = Some(result);
            }
            crate::driver::rest(&disk);
        }
        assert_eq!(results, [Some(Ok(())), Some(Err(DiskError::NoSpace))]);
        assert_eq!(disk.counters().merged_writes, 1, "{:?}", disk.counters());
    });
}

#[test]
fn a_failed_flush_stays_failed_and_changes_the_mark() {
    let test = "a_failed_flush_stays_failed_and_changes_the_mark";
    with_tmpfs(test, 256 << 10, |folder| {
        // Blocks of 4096 bytes make the disk go through the page cache, and the loop device's file has no room for what is
        // written back from there.
        let file = folder.file("disk", 1 << 20);
        let Some(device) = Loop::try_on(test, &file, 4096) else {
            return;
        };
        let mut disk = file_spec(device.path.clone(), Direct::Auto).open().unwrap();
        let mark = disk.loss_mark();
        let block: Vec<u8> = (0..8).flat_map(|lba| sector(lba, 1)).collect();
        write(&mut disk, 0, &block).unwrap();
        assert_eq!(flush(&mut disk), Ok(()));
        assert_eq!(disk.loss_mark(), mark);
        for at in 0..256 {
            write(&mut disk, at * 8, &block).unwrap();
        }
        let error = flush(&mut disk).unwrap_err();
        // The kernel itself has told its error, and would be glad to flush now.
        assert_eq!(flush(&mut disk), Err(error));
        assert_eq!(flush(&mut disk), Err(error));
        let changed = disk.loss_mark();
        assert_ne!(changed, mark);
        assert_eq!(disk.counters().losses_not_noted, 0);
        drop(disk);
        // A restart of the process does not hide it, and the next one flushes again.
        let mut disk = file_spec(device.path.clone(), Direct::Auto).open().unwrap();
        assert_eq!(disk.loss_mark(), changed);
        flush(&mut disk).unwrap();
        std::fs::remove_file(format!("{LOST_FOLDER}/{mark:016x}")).unwrap();
    });
}

#[test]
fn flushes_one_after_the_other_do_not_share_one_error() {
    use sandrail_proto::aoe::target::backing::{IoId, Started};
    let test = "flushes_one_after_the_other_do_not_share_one_error";
    with_tmpfs(test, 256 << 10, |folder| {
        let file = folder.file("disk", 1 << 20);
        let Some(device) = Loop::try_on(test, &file, 4096) else {
            return;
        };
        let mut disk = file_spec(device.path.clone(), Direct::Auto).open().unwrap();
        let mark = disk.loss_mark();
        let block: Vec<u8> = (0..8).flat_map(|lba| sector(lba, 1)).collect();
        for at in 0..256 {
            write(&mut disk, at * 8, &block).unwrap();
        }
        // Of two initiators, in two turns: each has writes that are lost, and the kernel tells of it once.
        for io in 0..4 {
            let started = disk.start(crate::driver::now(), IoId(io), DiskOperation::Flush);
            assert_eq!(started, Started::Pending);
            disk.kick(crate::driver::now());
        }
        let mut results = [None; 4];
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while results.contains(&None) {
            assert!(std::time::Instant::now() < limit, "{results:?}");
            while let Some((io, result)) = disk.poll_done(crate::driver::now()) {
                results[io.0 as usize] = Some(result);
            }
            crate::driver::rest(&disk);
            disk.kick(crate::driver::now());
        }
        assert!(
            results.iter().flatten().all(Result::is_err),
            "{results:?}, {:?}",
            disk.counters()
        );
        std::fs::remove_file(format!("{LOST_FOLDER}/{mark:016x}")).unwrap();
    });
}

#[test]
fn a_failed_flush_is_that_of_every_disk_on_the_device() {
    let test = "a_failed_flush_is_that_of_every_disk_on_the_device";
    with_tmpfs(test, 256 << 10, |folder| {
        let file = folder.file("disk", 4 << 20);
        let Some(device) = Loop::try_on(test, &file, 4096) else {
            return;
        };
        let range = |at: u64| {
            let mut spec = file_spec(device.path.clone(), Direct::Auto);
            if let Medium::File(file) = &mut spec.medium {
                (file.offset_bytes, file.length_bytes) = (at << 20, Some(1 << 20));
            }
            spec
        };
        let name = file_spec(device.path.clone(), Direct::Auto)
            .open()
            .unwrap()
            .loss_mark();
        let mut disks: Vec<_> = (0..3).map(|at| range(at).open().unwrap()).collect();
        let mut through = DiskSpec {
            durability: Durability::WriteThrough,
            ..range(3)
        }
        .open()
        .unwrap();
        let marks: Vec<u64> = disks.iter().map(Backing::loss_mark).collect();
        let mark_through = through.loss_mark();
        for disk in &mut disks {
            flush(disk).unwrap();
        }
        // Read by nobody: it is opened anew later, when the kernel has told its error to the others.
        let third = disks.pop().unwrap();
        drop(third);
        let block: Vec<u8> = (0..8).flat_map(|lba| sector(lba, 1)).collect();
        for disk in &mut disks {
            for at in 0..256 {
                write(disk, at * 8, &block).unwrap();
            }
        }
        let error = flush(&mut disks[0]).unwrap_err();
        let changed: Vec<u64> = disks.iter().map(Backing::loss_mark).collect();
        assert!(
            changed
                .iter()
                .zip(&marks)
                .all(|(now, before)| now != before),
            "each mark changes at once: {marks:x?}, {changed:x?}"
        );
        assert_ne!(through.loss_mark(), mark_through);
        assert_eq!(
            flush(&mut disks[1]),
            Err(error),
            "the other has lost as much"
        );
        assert_eq!(
            flush(&mut disks[1]),
            Err(error),
            "and is not told once only"
        );
        assert_eq!(flush(&mut through), Ok(()), "it owes nobody anything");
        let mut third = range(2).open().unwrap();
        let changed_third = third.loss_mark();
        assert_ne!(changed_third, marks[2]);
        assert_eq!(flush(&mut third), Err(error));
        drop((disks, through, third));
        // Nobody has the file open, and what is written from now on is another matter.
        let mut third = range(2).open().unwrap();
        assert_eq!(third.loss_mark(), changed_third);
        assert_eq!(flush(&mut third), Ok(()));
        std::fs::remove_file(format!("{LOST_FOLDER}/{name:016x}")).unwrap();
    });
}

#[test]
fn a_disk_that_does_not_flush_makes_durable_what_its_former_life_left() {
    let test = "a_disk_that_does_not_flush_makes_durable_what_its_former_life_left";
    with_tmpfs(test, 256 << 10, |folder| {
        let file = folder.file("disk", 1 << 20);
        let Some(device) = Loop::try_on(test, &file, 4096) else {
            return;
        };
        let flushing = file_spec(device.path.clone(), Direct::Auto);
        let through = DiskSpec {
            durability: Durability::WriteThrough,
            ..flushing.clone()
        };
        let read_only = DiskSpec {
            read_only: true,
            ..flushing.clone()
        };
        let mut marks = Vec::new();
        for next in [through, read_only] {
            let mut disk = flushing.open().unwrap();
            let mark = disk.loss_mark();
            marks.push(mark);
            let block: Vec<u8> = (0..8).flat_map(|lba| sector(lba, 1)).collect();
            for at in 0..256 {
                write(&mut disk, at * 8, &block).unwrap();
            }
            drop(disk);
            // There is no room for them on the device, as only a flush would have shown.
            let mut disk = next.open().unwrap();
            assert_eq!(flush(&mut disk), Ok(()), "it has nothing to do");
            assert_ne!(disk.loss_mark(), mark, "acknowledged writes are lost");
        }
        // The second disk began with the mark that the first loss left, and the note is named by the first.
        std::fs::remove_file(format!("{LOST_FOLDER}/{:016x}", marks[0])).unwrap();
    });
}
