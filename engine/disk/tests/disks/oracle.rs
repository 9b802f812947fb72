//! Random operations, many at once, ending in whatever order: contents are always those of a plain vector.

use sandrail_disk::{AnyDisk, Direct, DiskSpec, FileSpec, Limits, Medium};
use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::{
    Backing, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_wire::Lba;

use crate::driver::{count, now, rest, sector};
use crate::places::Folder;

const SECTORS: u64 = 512;
const LIMITS: Limits = Limits {
    operations_max: 24,
    sectors_per_operation_max: 16,
};

#[derive(Clone, Debug)]
enum Doing {
    Read { lba: u64, sectors: u32 },
    Write { lba: u64, sectors: u32 },
    Discard { lba: u64, sectors: u32 },
    Flush,
}

impl Doing {
    fn range(&self) -> std::ops::Range<u64> {
        match *self {
            Self::Read { lba, sectors }
            | Self::Write { lba, sectors }
            | Self::Discard { lba, sectors } => lba..lba + u64::from(sectors),
            Self::Flush => 0..0,
        }
    }

    /// Whether the trait forbids to have both under way at once.
    fn excludes(&self, other: &Self) -> bool {
        let (a, b) = (self.range(), other.range());
        let both_read = matches!((self, other), (Self::Read { .. }, Self::Read { .. }));
        !both_read && a.start < b.end && b.start < a.end
    }
}

/// What sectors may hold: one version, or after a discard either zeros or the version before.
struct Model {
    content: Vec<Vec<[u8; SECTOR_BYTES]>>,
    version: u64,
}

impl Model {
    fn check(&self, lba: u64, data: &[u8], sectors: u32) {
        assert_eq!(data.len(), sectors as usize * SECTOR_BYTES);
        for (at, got) in data.chunks_exact(SECTOR_BYTES).enumerate() {
            let allowed = &self.content[lba as usize + at];
            assert!(
                allowed.iter().any(|sector| sector == got),
                "sector {} holds {:?}..., none of {} allowed",
                lba + at as u64,
                &got[..16],
                allowed.len()
            );
        }
    }
}

pub(crate) fn exercise<D: Backing>(disk: &mut D, operations: u32, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = Model {
        content: vec![vec![[0; SECTOR_BYTES]]; SECTORS as usize],
        version: 0,
    };
    let places = disk.operations_max().min(LIMITS.operations_max);
    let mut under_way: Vec<Option<Doing>> = vec![None; places as usize];
    let mut begun = 0;
    let mut turns = 0;
    while begun < operations || under_way.iter().any(Option::is_some) {
        turns += 1;
        assert!(turns < operations * 100 + 1000, "it never ends");
        let burst = if begun < operations {
            random.u32(0..12)
        } else {
            0
        };
        for _ in 0..burst {
            begun += u32::from(begin(disk, &mut model, &mut under_way, &mut random));
        }
        disk.kick(now());
        let mut any = false;
        while let Some((io, result)) = disk.poll_done(now()) {
            assert_eq!(result, Ok(()));
            finish(disk, &mut model, &mut under_way, io);
            any = true;
        }
        if !any && burst == 0 {
            rest(disk);
        }
    }
}

fn begin<D: Backing>(
    disk: &mut D,
    model: &mut Model,
    under_way: &mut [Option<Doing>],
    random: &mut fastrand::Rng,
) -> bool {
    let Some(io) = under_way.iter().position(Option::is_none) else {
        return false;
    };
    // Neighbours, so that there is something to merge, and sectors that no page holds alone.
    let sectors = random.u32(1..=disk.sectors_per_operation_max().min(16));
    let lba = random.u64(0..=SECTORS - u64::from(sectors));
    let lba = if random.bool() { lba / 8 * 8 } else { lba };
    let sectors = sectors.min((SECTORS - lba) as u32);
    let doing = match random.u32(0..20) {
        0 => Doing::Flush,
        1 if disk.discards() => Doing::Discard { lba, sectors },
        2..=10 => Doing::Write { lba, sectors },
        _ => Doing::Read { lba, sectors },
    };
    if under_way
        .iter()
        .flatten()
        .any(|other| other.excludes(&doing))
    {
        return false;
    }
    let mut bytes = Vec::new();
    let operation = match doing {
        Doing::Read { lba, sectors } => DiskOperation::Read {
            lba: Lba(lba),
            sectors: count(sectors),
        },
        Doing::Write { lba, sectors } => {
            model.version += 1;
            for at in 0..u64::from(sectors) {
                bytes.extend_from_slice(&sector(lba + at, model.version));
            }
            DiskOperation::Write {
                lba: Lba(lba),
                sectors: count(sectors),
                data: &[],
            }
        }
        Doing::Discard { lba, sectors } => DiskOperation::Discard {
            lba: Lba(lba),
            sectors: count(sectors),
        },
        Doing::Flush => DiskOperation::Flush,
    };
    // The data come in up to four pieces, cut anywhere.
    let mut cuts = [0, 0, 0, bytes.len()];
    for cut in &mut cuts[..3] {
        *cut = random.usize(0..=bytes.len());
    }
    cuts.sort_unstable();
    let pieces = [
        &bytes[..cuts[0]],
        &bytes[cuts[0]..cuts[1]],
        &bytes[cuts[1]..cuts[2]],
        &bytes[cuts[2]..],
    ];
    let operation = match operation {
        DiskOperation::Write { lba, sectors, .. } => DiskOperation::Write {
            lba,
            sectors,
            data: &pieces,
        },
        other => other,
    };
    let started = disk.start(now(), IoId(io as u32), operation);
    // The data were copied: what happens to them now is nobody's business.
    let version = model.version;
    bytes.fill(0xee);
    match started {
        Started::Busy => return false,
        Started::Pending | Started::Done(Ok(())) => {}
        Started::Done(Err(error)) => panic!("{doing:?}: {error}"),
    }
    match doing {
        Doing::Write { lba, sectors } => {
            for lba in lba..lba + u64::from(sectors) {
                model.content[lba as usize] = vec![sector(lba, version)];
            }
        }
        Doing::Discard { lba, sectors } => {
            for lba in lba..lba + u64::from(sectors) {
                model.content[lba as usize].push([0; SECTOR_BYTES]);
            }
        }
        Doing::Read { .. } | Doing::Flush => {}
    }
    under_way[io] = Some(doing);
    if started != Started::Pending {
        finish(disk, model, under_way, IoId(io as u32));
    }
    true
}

fn finish<D: Backing>(disk: &mut D, model: &mut Model, under_way: &mut [Option<Doing>], io: IoId) {
    let doing = under_way[io.0 as usize].take();
    match doing.expect("an operation ends that was not under way") {
        Doing::Read { lba, sectors } => model.check(lba, disk.data(io), sectors),
        Doing::Write { .. } | Doing::Discard { .. } | Doing::Flush => {}
    }
    disk.release(io);
}

pub(crate) fn file_spec(path: std::path::PathBuf, direct: Direct) -> DiskSpec {
    let mut spec = DiskSpec::new(Medium::File(FileSpec {
        direct,
        ..FileSpec::new(path)
    }));
    spec.limits = LIMITS;
    spec
}

fn exercise_file(folder: &Folder, direct: Direct, durability: Durability) -> AnyDisk {
    let path = folder.file("disk", SECTORS * SECTOR_BYTES as u64);
    let mut disk = DiskSpec {
        durability,
        ..file_spec(path, direct)
    }
    .open()
    .unwrap();
    exercise(&mut disk, 4000, 7);
    let counters = disk.counters();
    assert_eq!(counters.failed, 0, "{counters:?}");
    assert!(
        counters.merged_reads > 0 && counters.merged_writes > 0,
        "{counters:?}"
    );
    disk
}

#[test]
fn memory_is_as_a_vector() {
    let mut disk = DiskSpec::new(Medium::Ram {
        bytes: SECTORS * SECTOR_BYTES as u64,
        huge: HugePages::Prefer,
    })
    .open()
    .unwrap();
    for seed in 0..4 {
        // Writes of an earlier round would be news to the model.
        let all = DiskOperation::Discard {
            lba: Lba(0),
            sectors: count(SECTORS as u32),
        };
        assert_eq!(disk.start(now(), IoId(0), all), Started::Done(Ok(())));
        disk.release(IoId(0));
        exercise(&mut disk, 4000, seed);
    }
}

#[test]
fn a_file_in_memory_is_as_a_vector() {
    exercise_file(&Folder::in_memory(), Direct::Auto, Durability::Flush);
}

#[test]
fn a_file_on_disk_is_as_a_vector() {
    exercise_file(&Folder::on_disk(), Direct::Auto, Durability::Volatile);
}

#[test]
fn a_file_through_the_page_cache_is_as_a_vector() {
    exercise_file(&Folder::on_disk(), Direct::Off, Durability::Volatile);
}

#[test]
fn a_file_that_flushes_is_as_a_vector() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", SECTORS * SECTOR_BYTES as u64);
    let mut disk = file_spec(path, Direct::Auto).open().unwrap();
    exercise(&mut disk, 800, 8);
    assert!(disk.counters().flushes > 10);
}

#[test]
fn a_file_written_through_is_as_a_vector() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", SECTORS * SECTOR_BYTES as u64);
    let mut disk = DiskSpec {
        durability: Durability::WriteThrough,
        ..file_spec(path, Direct::Auto)
    }
    .open()
    .unwrap();
    exercise(&mut disk, 400, 9);
}
