//! A process that is killed in a storm of writes: what it had acknowledged is there, and nothing of it comes after the lock
//! was handed on.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sandrail_disk::{Direct, DiskSpec, Layer};
use sandrail_proto::aoe::target::backing::{Backing, DiskOperation, IoId, SECTOR_BYTES, Started};
use sandrail_wire::Lba;

use crate::driver::{count, now, read, rest, sector};
use crate::oracle::file_spec;
use crate::places::Folder;

const SECTORS: u64 = 512;
/// Names the file to the process that is to be killed, and which way its data go.
const PATH: &str = "SANDRAIL_DISK_TO_KILL";
const DIRECT: &str = "SANDRAIL_DISK_DIRECT";

fn spec(path: &Path, direct: bool) -> DiskSpec {
    let direct = if direct { Direct::Auto } else { Direct::Off };
    file_spec(path.to_owned(), direct)
}

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    if let Some(path) = std::env::var_os(PATH) {
        let direct = std::env::var_os(DIRECT).is_some();
        write_for_ever(Path::new(&path), direct);
    }
    let folder = Folder::on_disk();
    for direct in [true, false] {
        let path = folder.file("disk", SECTORS * SECTOR_BYTES as u64);
        let mut first_version = 1;
        let mut mark = None;
        for round in 0..4 {
            let acknowledged = write_and_kill(&path, direct, first_version, round);
            assert!(acknowledged.iter().any(|version| *version >= first_version));
            let mut disk = spec(&path, direct).open().unwrap();
            // Acknowledged writes outlive the process, so nobody has to fear for them.
            let before = mark.replace(disk.loss_mark());
            assert!(before.is_none() || before == mark);
            let found = versions(&mut disk);
            for (lba, (found, least)) in found.iter().zip(&acknowledged).enumerate() {
                assert!(
                    found >= least,
                    "sector {lba}: {found} is older than {least}"
                );
            }
            // The dead process's last writes are over: nothing changes any more.
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(versions(&mut disk), found);
            first_version = found.iter().max().unwrap() + 1000;
        }
    }
}

/// The version that each sector holds, whole.
fn versions(disk: &mut impl Backing) -> Vec<u64> {
    let mut found = Vec::new();
    for lba in 0..SECTORS {
        let got = read(disk, lba, 1).unwrap();
        let version = u64::from_le_bytes(got[8..16].try_into().unwrap());
        let whole = got == sector(lba, version) || (version == 0 && got == [0; SECTOR_BYTES]);
        assert!(whole, "sector {lba} is torn");
        found.push(version);
    }
    found
}

/// Starts this very test as another process, kills it, and tells the last version acknowledged of each sector.
fn write_and_kill(path: &Path, direct: bool, first_version: u64, round: u64) -> Vec<u64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "killed::what_a_killed_process_acknowledged_is_there",
            "--nocapture",
        ])
        .env(PATH, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if direct {
        command.env(DIRECT, "1");
    }
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&first_version.to_le_bytes()).unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut told = vec![0; 24 * 100];
    stderr.read_exact(&mut told).unwrap();
    std::thread::sleep(Duration::from_millis(5 + 7 * round));
    child.kill().unwrap();
    stderr.read_to_end(&mut told).unwrap();
    child.wait().unwrap();
    let mut acknowledged = vec![0; SECTORS as usize];
    for record in told.chunks_exact(24) {
        let number = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
        let (lba, sectors, version) = (number(0), number(8), number(16));
        assert!(lba + sectors <= SECTORS, "the records are garbled");
        for lba in lba..lba + sectors {
            acknowledged[lba as usize] = version;
        }
    }
    acknowledged
}

/// Sixteen writes at once, without end; each is told when it is acknowledged.
fn write_for_ever(path: &Path, direct: bool) -> ! {
    let mut first_version = [0; 8];
    std::io::stdin().read_exact(&mut first_version).unwrap();
    let mut version = u64::from_le_bytes(first_version);
    let mut disk = spec(path, direct).open().unwrap();
    let mut random = fastrand::Rng::with_seed(version);
    let mut under_way: [Option<[u64; 3]>; 16] = [None; 16];
    loop {
        for io in 0..under_way.len() {
            let sectors = random.u64(1..9);
            let lba = random.u64(0..SECTORS - sectors);
            let overlaps = |[other, len, _]: &[u64; 3]| lba < other + len && *other < lba + sectors;
            if under_way[io].is_some() || under_way.iter().flatten().any(overlaps) {
                continue;
            }
            version += 1;
            let data: Vec<u8> = (lba..lba + sectors)
                .flat_map(|lba| sector(lba, version))
                .collect();
            let operation = DiskOperation::Write {
                lba: Lba(lba),
                sectors: count(sectors as u32),
                data: &[&data],
            };
            let started = disk.start(now(), IoId(io as u32), operation);
            assert_eq!(started, Started::Pending);
            under_way[io] = Some([lba, sectors, version]);
        }
        disk.kick(now());
        while let Some((io, result)) = disk.poll_done(now()) {
            result.unwrap();
            let record = under_way[io.0 as usize].take().unwrap();
            let bytes: Vec<u8> = record
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect();
            std::io::stderr().write_all(&bytes).unwrap();
            disk.release(io);
        }
        rest(&disk);
    }
}

#[test]
fn the_power_cut_mode_says_that_a_restart_may_have_lost_writes() {
    let folder = Folder::on_disk();
    let path = folder.file("disk", SECTORS * SECTOR_BYTES as u64);
    let mut cached = spec(&path, true);
    cached.layers = vec![Layer::Cache { bytes: 1 << 20 }];
    let mark = cached.open().unwrap().loss_mark();
    assert_ne!(cached.open().unwrap().loss_mark(), mark);
}
