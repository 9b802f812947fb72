//! Runs operations on a disk to their end, as a target's loop would.

use std::num::NonZeroU32;
use std::time::Duration;

use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

/// The time since the test began.
pub(crate) fn now() -> Instant {
    use std::sync::OnceLock;
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let start = START.get_or_init(std::time::Instant::now);
    Instant::from_nanos(start.elapsed().as_nanos() as u64)
}

pub(crate) fn count(sectors: u32) -> NonZeroU32 {
    NonZeroU32::new(sectors).unwrap()
}

/// Waits as a target would, but never long.
pub(crate) fn rest(disk: &impl Backing) {
    let Some(fd) = disk.wait_fd() else {
        std::thread::sleep(Duration::from_micros(200));
        return;
    };
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 2) };
}

/// Starts an operation, however often the disk is busy, and waits for its end. Its place is not released.
pub(crate) fn run_held(
    disk: &mut impl Backing,
    io: u32,
    operation: DiskOperation<'_>,
) -> Result<(), DiskError> {
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    let late = || assert!(std::time::Instant::now() < limit, "it never ends");
    loop {
        match disk.start(now(), IoId(io), operation) {
            Started::Done(result) => return result,
            Started::Pending => break,
            Started::Busy => {
                disk.kick(now());
                assert!(disk.poll_done(now()).is_none());
                late();
            }
        }
    }
    loop {
        disk.kick(now());
        if let Some((ended, result)) = disk.poll_done(now()) {
            assert_eq!(ended, IoId(io));
            return result;
        }
        rest(disk);
        late();
    }
}

pub(crate) fn run(disk: &mut impl Backing, operation: DiskOperation<'_>) -> Result<(), DiskError> {
    let result = run_held(disk, 0, operation);
    disk.release(IoId(0));
    result
}

pub(crate) fn write(disk: &mut impl Backing, lba: u64, data: &[u8]) -> Result<(), DiskError> {
    let sectors = count((data.len() / SECTOR_BYTES) as u32);
    let lba = Lba(lba);
    run(
        disk,
        DiskOperation::Write {
            lba,
            sectors,
            data: &[data],
        },
    )
}

pub(crate) fn read(disk: &mut impl Backing, lba: u64, sectors: u32) -> Result<Vec<u8>, DiskError> {
    let operation = DiskOperation::Read {
        lba: Lba(lba),
        sectors: count(sectors),
    };
    let result = run_held(disk, 0, operation).map(|()| disk.data(IoId(0)).to_vec());
    disk.release(IoId(0));
    result
}

pub(crate) fn flush(disk: &mut impl Backing) -> Result<(), DiskError> {
    run(disk, DiskOperation::Flush)
}

/// A sector that names itself and its version, all the way through.
pub(crate) fn sector(lba: u64, version: u64) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    for (at, place) in bytes.chunks_exact_mut(16).enumerate() {
        place[..8].copy_from_slice(
            &lba.wrapping_mul(0x9e37)
                .wrapping_add(at as u64)
                .to_le_bytes(),
        );
        place[8..].copy_from_slice(&version.to_le_bytes());
    }
    bytes
}
