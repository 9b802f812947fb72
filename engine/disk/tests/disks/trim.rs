//! A TRIM of much memory, through the target's own machine: it takes many turns, and others are served in each.

use sandrail_disk::{AnyDisk, DiskSpec, Limits, Medium};
use sandrail_memory::HugePages;
use sandrail_proto::aoe::target::backing::{Backing, DiskOperation, IoId, SECTOR_BYTES, Started};
use sandrail_proto::aoe::target::{
    Blade, BladeConfig, InterfaceConfig, InterfaceId, TargetConfig, TargetIndex,
};
use sandrail_proto::time::Instant;
use sandrail_wire::ata::TrimRange;
use sandrail_wire::{FrameRef, Lba, MacAddr, TargetAddr};

use crate::driver::count;

const BLADE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
/// 40 MiB.
const SECTORS: u64 = 80 << 10;
const MIB: usize = 1 << 20;

fn memory(sectors: u64) -> AnyDisk {
    let mut spec = DiskSpec::new(Medium::Ram {
        bytes: sectors * SECTOR_BYTES as u64,
        huge: HugePages::Never,
    });
    spec.limits = Limits {
        operations_max: 8,
        sectors_per_operation_max: 64,
    };
    spec.open().unwrap()
}

/// A request as it comes from the wire: flags, feature, count, command.
fn request(
    tag: u32,
    [flags, feature, sectors, command]: [u8; 4],
    lba: u64,
    data: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(BLADE.0);
    frame.extend(CLIENT.0);
    frame.extend([0x88, 0xa2, 0x10, 0]);
    frame.extend(ADDR.shelf.to_be_bytes());
    frame.extend([ADDR.slot, 0]);
    frame.extend(tag.to_be_bytes());
    frame.extend([flags, feature, sectors, command]);
    frame.extend(&lba.to_le_bytes()[..6]);
    frame.extend([0, 0]);
    frame.extend(data);
    frame
}

fn read(tag: u32, lba: u64) -> Vec<u8> {
    request(tag, [0x40, 0, 1, 0x24], lba, &[])
}

fn trim(tag: u32, ranges: &[(u64, u16)]) -> Vec<u8> {
    let entries = ranges.iter().map(|(lba, sectors)| TrimRange {
        lba: Lba(*lba),
        sectors: *sectors,
    });
    let mut data: Vec<u8> = entries.flat_map(TrimRange::emit).collect();
    data.resize(SECTOR_BYTES, 0);
    request(tag, [0x41, 1, 1, 0x06], 0, &data)
}

struct Bed {
    blade: Blade<AnyDisk>,
    now: Instant,
}

impl Bed {
    fn new() -> Self {
        let interface = InterfaceConfig {
            mac: BLADE,
            mtu_bytes: 9000,
            vlan: None,
        };
        let targets = vec![(TargetConfig::new(ADDR), memory(SECTORS))];
        let now = Instant::from_nanos(1);
        let config = BladeConfig {
            duplicates_max: 64,
            ..BladeConfig::default()
        };
        let blade = Blade::new(config, &[interface], targets, 1, now).unwrap();
        let mut bed = Self { blade, now };
        let disk = bed.blade.backing_mut(TargetIndex(0)).unwrap();
        for lba in (0..SECTORS).step_by(64) {
            let data = [0x5a; 64 * SECTOR_BYTES];
            let operation = DiskOperation::Write {
                lba: Lba(lba),
                sectors: count(64),
                data: &[&data],
            };
            assert_eq!(disk.start(now, IoId(0), operation), Started::Done(Ok(())));
            disk.release(IoId(0));
        }
        bed.turn();
        bed
    }

    fn hear(&mut self, frame: &[u8]) {
        let frame = FrameRef::new(frame);
        self.blade.handle_frame(self.now, InterfaceId(0), &frame);
    }

    /// A turn without frames: the tags of what was answered, each with the first byte of its data.
    fn turn(&mut self) -> Vec<(u32, Option<u8>)> {
        self.blade.handle_disks(self.now);
        let mut answers = Vec::new();
        while let Some(frame) = self.blade.poll_transmit(self.now, InterfaceId(0)) {
            let tag = frame.header[20..24].try_into().unwrap();
            answers.push((u32::from_be_bytes(tag), frame.payload.first().copied()));
        }
        // An advertisement is an answer to nobody.
        answers.retain(|(tag, _)| *tag != 0);
        answers
    }

    /// Sectors that are zero: all at the front, if it is told in order.
    fn zeroed_bytes(&mut self) -> usize {
        let disk = self.blade.backing_mut(TargetIndex(0)).unwrap();
        let mut zeroed = 0;
        for lba in (0..SECTORS).step_by(64) {
            let sectors = count(64);
            let operation = DiskOperation::Read {
                lba: Lba(lba),
                sectors,
            };
            assert_eq!(
                disk.start(self.now, IoId(7), operation),
                Started::Done(Ok(()))
            );
            zeroed += disk.data(IoId(7)).iter().filter(|byte| **byte == 0).count();
            disk.release(IoId(7));
        }
        zeroed
    }
}

#[test]
fn a_trim_takes_turns_and_others_are_served_in_between() {
    let mut bed = Bed::new();
    // 64 ranges of 32 MiB, all of them the same: 2 GiB of zeros to write in one command.
    let ranges = [(0, u16::MAX); 64];
    bed.hear(&trim(1, &ranges));
    assert!(bed.zeroed_bytes() <= MIB, "all in one go");
    let mut trimmed = None;
    let mut reads = 0;
    let mut waiting_answered = None;
    // One that overlaps waits from the first turn on.
    bed.hear(&read(2, 17));
    for turn in 1..100_000_u32 {
        let tag = 0x100 + turn;
        // Sectors that no range names.
        bed.hear(&read(tag, SECTORS - 1));
        for (answered, data) in bed.turn() {
            match answered {
                1 => trimmed = Some(turn),
                2 => {
                    assert_eq!(data, Some(0), "it was to wait for the zeros");
                    waiting_answered = Some(turn);
                }
                other => {
                    assert_eq!((other, data), (tag, Some(0x5a)), "not in its own turn");
                    reads += 1;
                }
            }
        }
        assert!(
            waiting_answered.is_none() || trimmed.is_some(),
            "a read overtook the TRIM that it overlaps with"
        );
        if turn == 1 {
            assert!(bed.zeroed_bytes() <= 3 * MIB, "a turn has a bound");
        }
        if trimmed.is_some() && waiting_answered.is_some() {
            assert_eq!(reads, turn, "each read is answered in its turn");
            break;
        }
        let due = bed.blade.poll_timeout();
        assert!(
            due.is_some_and(|due| due <= bed.now),
            "nothing wakes the core"
        );
    }
    assert!(trimmed.unwrap() >= 1000, "{trimmed:?} turns for 2 GiB");
    let all = usize::from(u16::MAX) * SECTOR_BYTES;
    assert_eq!(bed.zeroed_bytes(), all);
    assert_eq!(
        bed.blade.held(),
        sandrail_proto::aoe::target::Held::default()
    );
    assert_eq!(bed.blade.poll_timeout(), None, "nothing is left to do");
}

#[test]
fn many_trims_share_a_turns_time_and_none_starves() {
    let mut bed = Bed::new();
    for tag in 1..=8_u32 {
        bed.hear(&trim(tag, &[(u64::from(tag) * 8192, 8192)]));
    }
    assert!(bed.zeroed_bytes() <= MIB);
    let mut left: Vec<u32> = (1..=8).collect();
    for turn in 1..=200 {
        let before = bed.zeroed_bytes();
        left.retain({
            let answered = bed.turn();
            move |tag| !answered.iter().any(|(told, _)| told == tag)
        });
        assert!(bed.zeroed_bytes() - before <= 2 * MIB);
        if left.is_empty() {
            assert!(turn >= 12, "32 MiB took {turn} turns");
            return;
        }
    }
    panic!("{left:?} never ended");
}

/// Whoever drives the disk without the machine may discard all of it at once.
#[test]
fn one_discard_of_everything_takes_turns_too() {
    let mut disk = memory(SECTORS);
    let now = Instant::from_nanos(1);
    let all = DiskOperation::Discard {
        lba: Lba(0),
        sectors: count(u32::try_from(SECTORS).unwrap()),
    };
    assert_eq!(disk.start(now, IoId(3), all), Started::Pending);
    let mut turns = 0;
    disk.kick(now);
    loop {
        if let Some(ended) = disk.poll_done(now) {
            assert_eq!(ended, (IoId(3), Ok(())));
            break;
        }
        assert!(turns < 1000, "it never ends");
        assert_eq!(disk.poll_timeout(), Some(now));
        disk.kick(now);
        turns += 1;
    }
    disk.release(IoId(3));
    assert_eq!(turns, 38, "a mebibyte each, and one at each end");
    assert_eq!(disk.poll_timeout(), None);
}
