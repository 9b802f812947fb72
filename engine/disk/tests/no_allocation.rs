//! No disk allocates while it works: counted by an allocator that wraps the system's.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are small"
)]

use std::num::NonZeroU32;
use std::time::Duration;

use sandrail_disk::{AnyDisk, Delay, DiskSpec, FileSpec, Layer, Medium, Strikes};
use sandrail_lab::CountingAllocator;
use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::{Backing, DiskOperation, IoId, SECTOR_BYTES, Started};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SECTORS: u64 = 2048;

/// Every kind of operation, many at once, over all of the disk; operations that ended.
fn work(disk: &mut AnyDisk, operations: u64) -> u64 {
    let start = std::time::Instant::now();
    let data = [0x5a; 4 * SECTOR_BYTES];
    let mut free = [true; 32];
    let mut ended = 0;
    let faults = disk.faults();
    let mut turn = 0;
    while ended < operations {
        turn += 1;
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{ended} operations so far"
        );
        let now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
        for io in 0..32_u32 {
            if !free[io as usize] {
                continue;
            }
            // Each place has a range of its own, so that nothing overlaps.
            let lba = Lba(u64::from(io) * 64 + turn * 4 % 60);
            let sectors = NonZeroU32::new(4).unwrap();
            let operation = match (turn + u64::from(io)) % 16 {
                0 => DiskOperation::Flush,
                1 => DiskOperation::Discard { lba, sectors },
                2..8 => DiskOperation::Write {
                    lba,
                    sectors,
                    data: &[&data[..700], &data[700..]],
                },
                _ => DiskOperation::Read { lba, sectors },
            };
            match disk.start(now, IoId(io), operation) {
                Started::Busy => {}
                Started::Pending => free[io as usize] = false,
                Started::Done(_) => {
                    ended += 1;
                    disk.release(IoId(io));
                }
            }
        }
        if let Some(faults) = &faults {
            faults.release();
        }
        disk.kick(now);
        while let Some((io, _)) = disk.poll_done(now) {
            free[io.0 as usize] = true;
            ended += 1;
            disk.release(io);
        }
    }
    // What is left, for the next round.
    while free.contains(&false) {
        if let Some(faults) = &faults {
            faults.release();
        }
        std::thread::sleep(Duration::from_micros(100));
        let now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
        disk.kick(now);
        while let Some((io, _)) = disk.poll_done(now) {
            free[io.0 as usize] = true;
            ended += 1;
            disk.release(io);
        }
    }
    ended
}

fn check(name: &str, mut spec: DiskSpec, layers: &[Layer]) {
    spec.layers = layers.to_vec();
    let mut disk = spec.open().unwrap();
    if let Some(faults) = disk.faults() {
        assert!(faults.fail(100..102, Strikes::Both));
        faults.slow(Some(Delay {
            fixed: Duration::from_micros(1),
            jitter: Duration::from_micros(20),
            seed: 1,
        }));
        faults.hold_write(7);
    }
    let before = CountingAllocator::calls();
    let mut ended = 0;
    for _ in 0..6 {
        ended += work(&mut disk, 1000);
    }
    assert_eq!(CountingAllocator::calls() - before, 0, "{name} allocates");
    assert!(ended > 5000, "{name}: {ended} operations show little");
}

#[test]
fn no_disk_allocates_while_it_works() {
    let ram = DiskSpec::new(Medium::Ram {
        bytes: SECTORS * SECTOR_BYTES as u64,
        huge: HugePages::Prefer,
    });
    let cache = Layer::Cache { bytes: 256 << 10 };
    check("memory", ram.clone(), &[]);
    check("a cache before memory", ram.clone(), &[cache]);
    check("a slow cache", ram.clone(), &[Layer::Faults, cache]);
    check("faults", ram, &[Layer::Faults]);
    let path = format!("/dev/shm/sandrail-disk-allocation-{}", std::process::id());
    std::fs::File::create(&path)
        .unwrap()
        .set_len(SECTORS * SECTOR_BYTES as u64)
        .unwrap();
    let file = DiskSpec::new(Medium::File(FileSpec::new(&path)));
    check("a file", file.clone(), &[]);
    check("a cache before a file", file, &[cache]);
    std::fs::remove_file(&path).unwrap();
}
