//! The target's answers, byte by byte: what every command, known or not, and every odd input comes to.
#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are small numbers"
)]

mod target_bed;

use sandrail_proto::aoe::target::*;
use target_bed::*;

#[test]
fn a_read_returns_what_was_written() {
    let mut bed = Bed::new(Pace::Inline);
    let reply = bed.ask(&Ata::write(0x1230, 8, 8).filled(0x5a));
    assert_eq!(
        text(&reply),
        text(&hex(
            "02000000000c 02000000000a 88a2 18 00 0007 03 00 00001230 \
                   41 00 00 40 080000000000 0000"
        ))
    );
    let reply = bed.ask(&Ata::read(0x1240, 7, 10).bare());
    assert_eq!(outcome(&reply), "1800 400000400700000000000000");
    assert_eq!(reply.len(), 36 + 10 * 512);
    assert!(reply[36..548].iter().all(|byte| *byte == 0));
    assert!(reply[548..548 + 4096].iter().all(|byte| *byte == 0x5a));
    bed.assert_idle();
}

/// The rows of a table: a name, what is sent, what is expected.
fn rows(table: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let lines = table.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut parts = line.split('|').map(str::trim);
            let mut part = || parts.next().expect("three parts");
            (part(), part(), part())
        })
}

/// A request's arguments behind the tag, and what is answered: flags, error byte and arguments; `-` for silence.
const ATA_TABLE: &str = "
    # Refused before anything is looked at in detail.
    WRITE without W | 40 00 01 34 000000000000 0000 | 1c02 400001340000000000000000
    WRITE without data | 41 00 01 34 000000000000 0000 | 1c02 410001340000000000000000
    WRITE DMA EXT without data | 41 00 01 35 000000000000 0000 | 1c02 410001350000000000000000
    READ of no sectors | 40 00 00 24 000000000000 0000 | 1c02 400000240000000000000000
    READ of too many | 40 00 12 24 000000000000 0000 | 1c02 400012240000000000000000
    READ of 255 | 40 00 ff 24 000000000000 0000 | 1c02 4000ff240000000000000000
    VERIFY of no sectors | 40 00 00 42 000000000000 0000 | 1c02 400000420000000000000000
    VERIFY of more than the disk takes | 40 00 41 42 000000000000 0000 | 1c02 400041420000000000000000
    # Past the end: IDNF, and all sectors are left.
    READ EXT at the end | 40 00 01 24 000400000000 0000 | 1800 401001410004000000000000
    READ EXT over the end | 40 00 02 24 ff0300000000 0000 | 1800 40100241ff03000000000000
    READ EXT far out | 40 00 01 24 ffffffffffff 0000 | 1800 40100141ffffffffffff0000
    READ over the end | 00 00 02 20 ff0300e00000 0000 | 1800 00100241ff0300e000000000
    READ far out | 00 00 01 20 ffffffef0000 0000 | 1800 00100141ffffffef00000000
    VERIFY at the end | 40 00 01 42 000400000000 0000 | 1800 401001410004000000000000
    # Success, without data.
    VERIFY EXT | 40 00 40 42 010000000000 0000 | 1800 400000400100000000000000
    VERIFY | 00 00 02 40 0100 00e00000 0000 | 1800 00000040010000e000000000
    FLUSH | 00 00 00 e7 000000a00000 0000 | 1800 00000040000000a000000000
    FLUSH EXT | 40 00 00 ea 000000000000 0000 | 1800 400000400000000000000000
    CHECK POWER | 00 00 00 e5 000000a00000 0000 | 1800 0000ff40000000a000000000
    CHECK POWER, count 1 | 00 00 01 e5 000000a00000 0000 | 1800 0000ff40000000a000000000
    STANDBY IMMEDIATE | 00 00 00 e0 000000a00000 0000 | 1800 00000040000000a000000000
    IDLE IMMEDIATE | 00 00 00 e1 000000a00000 0000 | 1800 00000040000000a000000000
    STANDBY | 00 00 07 e2 000000a00000 0000 | 1800 00000040000000a000000000
    IDLE | 00 00 07 e3 000000a00000 0000 | 1800 00000040000000a000000000
    SLEEP | 00 00 00 e6 000000a00000 0000 | 1800 00000040000000a000000000
    # The session bytes and all registers come back as they went; A is not obeyed.
    a foreign session on a READ's refusal | 40 00 00 24 010203040506 beef | 1c02 40000024010203040506beef
    D and A | 12 00 00 e5 000000a00000 0000 | 1800 1200ff40000000a000000000
    # Not understood: ABRT.
    NOP | 00 00 00 00 000000000000 0000 | 1800 000400410000000000000000
    SMART | 00 d0 01 b0 004fc2a00000 0000 | 1800 00040141004fc2a000000000
    SET FEATURES | 00 03 00 ef 000000a00000 0000 | 1800 00040041000000a000000000
    READ MULTIPLE | 00 00 01 c4 000000e00000 0000 | 1800 00040141000000e000000000
    READ FPDMA QUEUED | 40 00 01 60 000000000000 0000 | 1800 400401410000000000000000
    READ LOG | 40 00 01 2f 000000000000 0000 | 1800 400401410000000000000000
    E4 | 00 00 00 e4 000000a00000 0000 | 1800 00040041000000a000000000
    DSM without TRIM | 41 00 01 06 000000000000 0000 | 1800 410401410000000000000000
    TRIM without data | 41 01 01 06 000000000000 0000 | 1c02 410101060000000000000000
    TRIM without W | 40 01 01 06 000000000000 0000 | 1c02 400101060000000000000000
    TRIM of no ranges | 41 01 00 06 000000000000 0000 | 1c02 410100060000000000000000
    TRIM of too many ranges | 41 01 02 06 000000000000 0000 | 1c02 410102060000000000000000
";

#[test]
fn every_ata_command_is_answered_as_it_must_be() {
    let mut bed = Bed::new(Pace::Inline);
    for (name, arguments, expected) in rows(ATA_TABLE) {
        let request = frame(A, &format!("10 00 0007 03 00 12345678 {arguments}"));
        let reply = bed.ask(&request);
        assert_eq!(outcome(&reply), expected, "{name}");
        assert_eq!(reply.len(), 36, "{name}");
        assert_eq!(
            text(&reply[..24]),
            text(&hex(&format!(
                "02000000000c 02000000000a 88a2 {} 0007 03 00 12345678",
                &expected[..4]
            ))),
            "{name}"
        );
    }
    let known = [
        0x06, 0x20, 0x24, 0x25, 0x30, 0x34, 0x35, 0x40, 0x42, 0xc8, 0xca, 0xe0, 0xe1, 0xe2, 0xe3,
        0xe5, 0xe6, 0xe7, 0xea, 0xec,
    ];
    for command in (0..=u8::MAX).filter(|command| !known.contains(command)) {
        let request = Ata {
            command,
            ..Ata::read(1, 0, 1)
        };
        let reply = bed.ask(&request.bare());
        assert_eq!(
            outcome(&reply),
            "1800 400401410000000000000000",
            "{command:#x}"
        );
    }
    let counters = bed.counters();
    assert_eq!((counters.writes, counters.reads, counters.trims), (0, 0, 0));
    assert_eq!(counters.flushes, 2);
    bed.assert_idle();
}

#[test]
fn each_way_to_say_read_and_write_reaches_the_same_sectors() {
    let mut bed = Bed::new(Pace::Inline);
    let ways = [
        (0x34, 0x24, 0x41),
        (0x35, 0x25, 0x41),
        (0x30, 0x20, 0x01),
        (0xca, 0xc8, 0x01),
    ];
    for (number, (write, read, flags)) in ways.into_iter().enumerate() {
        let lba = 100 + number as u64 * 10;
        let device = if flags == 1 { 0xe000_0000 } else { 0 };
        let request = Ata {
            command: write,
            flags,
            ..Ata::write(1, lba | device, 3)
        };
        let reply = bed.ask(&request.filled(7 + number as u8));
        assert_eq!(
            (reply[14], reply[26], reply[27]),
            (0x18, 0, 0x40),
            "{write:#x}"
        );
        let request = Ata {
            command: read,
            flags: flags & 0x40,
            ..Ata::read(2, lba | device, 3)
        };
        let reply = bed.ask(&request.bare());
        assert_eq!(reply.len(), 36 + 3 * 512, "{read:#x}");
        assert!(reply[36..].iter().all(|byte| *byte == 7 + number as u8));
        let from = lba as usize * 512;
        let memory = &bed.disk().memory;
        assert_eq!(memory[from - 1], 0);
        assert_eq!(memory[from], 7 + number as u8);
        assert_eq!(memory[from + 3 * 512], 0);
    }
}

#[test]
fn the_command_says_how_long_its_address_is() {
    let mut bed = Bed::new(Pace::Inline);
    // READ EXT without E: all six bytes count, or 0x0100000000 would be taken for 0.
    let request = Ata {
        flags: 0,
        ..Ata::read(1, 0x1_0000_0000, 1)
    };
    assert_eq!(
        outcome(&bed.ask(&request.bare())),
        "1800 001001410000000001000000"
    );
    // READ with E: only 28 bits do.
    let request = Ata {
        command: 0x20,
        ..Ata::read(1, 0xff_f000_0005, 1)
    };
    assert_eq!(
        outcome(&bed.ask(&request.bare())),
        "1800 40000040050000f0ff000000"
    );
}

#[test]
fn a_write_that_ends_early_writes_nothing() {
    let mut bed = Bed::new(Pace::Inline);
    let whole = Ata::write(1, 0, 8).filled(0x77);
    for len in [36, 37, 547, 36 + 7 * 512, 36 + 8 * 512 - 1] {
        let reply = bed.ask(&whole[..len]);
        assert_eq!(
            outcome(&reply),
            "1c02 410008340000000000000000",
            "{len} bytes"
        );
    }
    assert!(bed.disk().memory.iter().all(|byte| *byte == 0));
    assert!(bed.disk().log.is_empty());
    // What follows the data is padding.
    let reply = bed.ask(&[&whole[..], &[0x99; 30]].concat());
    assert_eq!(outcome(&reply), "1800 410000400000000000000000");
    assert_eq!(bed.disk().memory[8 * 512], 0);
    assert_eq!(bed.counters().refused_argument, 5);
}

/// The rest of a frame from its AoE header on, and the whole answer from there on.
const AOE_TABLE: &str = "
    version 0 | 00 00 0007 03 01 00000001 0000000000000000 | 1c 05 0007 03 01 00000001
    version 2 | 20 00 0007 03 00 00000001 40 00 01 24 000000000000 0000 | 1c 05 0007 03 00 00000001
    version 15, unknown command | f0 00 0007 03 77 00000001 | 1c 05 0007 03 77 00000001
    unknown command 4 | 10 00 0007 03 04 00000002 | 1c 01 0007 03 04 00000002
    unknown command 0xef | 10 00 0007 03 ef 00000002 | 1c 01 0007 03 ef 00000002
    another vendor's | 10 00 0007 03 f1 00000003 5352414c01 | 1c 01 0007 03 f1 00000003
    not quite ours | 10 00 0007 03 f0 00000003 5352414d01 | 1c 01 0007 03 f0 00000003
    ours, nothing behind | 10 00 0007 03 f0 00000003 | 1c 01 0007 03 f0 00000003
    ours, cut off | 10 00 0007 03 f0 00000003 5352414c01 00 | 1c 02 0007 03 f0 00000003
    ATA, cut off | 10 00 0007 03 00 00000004 40 00 01 24 000000000000 00 | 1c 02 0007 03 00 00000004
    config, cut off | 10 00 0007 03 01 00000004 00000000000000 | 1c 02 0007 03 01 00000004
    config string, cut off | 10 00 0007 03 01 00000004 0000 0000 00 03 0002 61 | 1c 02 0007 03 01 00000004
    config string too long | 10 00 0007 03 01 00000004 0000 0000 00 03 0401 61 | 1c 02 0007 03 01 00000004
    mask, cut off | 10 00 0007 03 02 00000004 00 01 00 | 1c 02 0007 03 02 00000004
    mask directives, cut off | 10 00 0007 03 02 00000004 00 01 00 01 0001 | 1c 02 0007 03 02 00000004
    reserve, cut off | 10 00 0007 03 03 00000004 01 | 1c 02 0007 03 03 00000004
    reserve list, cut off | 10 00 0007 03 03 00000004 01 01 0200 | 1c 02 0007 03 03 00000004
    config command 5 | 10 00 0007 03 01 00000005 0000 0000 00 05 0000 | 1c 02 0007 03 01 00000005
    config command 15 | 10 00 0007 03 01 00000005 0000 0000 00 1f 0000 | 1c 02 0007 03 01 00000005
    mask command 2 | 10 00 0007 03 02 00000005 00 02 00 00 | 1c 02 0007 03 02 00000005
    reserve command 3 | 10 00 0007 03 03 00000005 03 00 | 1c 02 0007 03 03 00000005
    E in a request | 14 06 0007 03 03 00000006 00 00 | 18 00 0007 03 03 00000006 00 00
    # Wildcards: questions are answered, nothing is done.
    ATA to all | 10 00 ffff ff 00 00000007 40 00 01 24 000000000000 0000 | 1c 02 0007 03 00 00000007 40 00 01 24 000000000000 0000
    IDENTIFY to all | 10 00 ffff ff 00 00000007 00 00 01 ec 000000a00000 0000 | 1c 02 0007 03 00 00000007 00 00 01 ec 000000a00000 0000
    ATA to every shelf | 10 00 ffff 03 00 00000007 40 00 01 24 000000000000 0000 | 1c 02 0007 03 00 00000007 40 00 01 24 000000000000 0000
    config query to every slot | 10 00 0007 ff 01 00000007 0000 0000 00 00 0000 | 18 00 0007 03 01 00000007 0010 0001 11 10 0000
    config query to every shelf | 10 00 ffff 03 01 00000007 0000 0000 00 00 0000 | 18 00 0007 03 01 00000007 0010 0001 11 10 0000
    config set to all | 10 00 ffff ff 01 00000007 0000 0000 00 04 0001 61 | 1c 02 0007 03 01 00000007
    mask edit to all | 10 00 ffff ff 02 00000007 00 01 00 00 | 1c 02 0007 03 02 00000007
    mask read of all | 10 00 ffff ff 02 00000007 00 00 00 00 | 18 00 0007 03 02 00000007 00 00 00 00
    reserve set to all | 10 00 ffff ff 03 00000007 01 00 | 1c 02 0007 03 03 00000007
    reserve force to all | 10 00 ffff ff 03 00000007 02 00 | 1c 02 0007 03 03 00000007
    reserve read of all | 10 00 ffff ff 03 00000007 00 00 | 18 00 0007 03 03 00000007 00 00
";

#[test]
fn every_aoe_command_is_answered_as_it_must_be() {
    let mut bed = Bed::new(Pace::Inline);
    for (name, rest, expected) in rows(AOE_TABLE) {
        let reply = bed.ask(&frame(A, rest));
        assert_eq!(text(&reply[14..]), text(&hex(expected)), "{name}");
        assert_eq!(reply[..14], hex("02000000000c 02000000000a 88a2"), "{name}");
        assert_eq!(bed.persist(true), 0, "{name} changed something");
    }
    assert_eq!(bed.counters().changes, 0);
    assert!(bed.disk().log.is_empty(), "nothing was for the disk");
    bed.assert_idle();
}

/// Frames that are counted and otherwise passed over in silence: a name, the whole frame, how it is counted.
const SILENT: &str = "
    nothing |  | rx_not_aoe
    half an Ethernet header | 02000000000a 02000000000c 88 | rx_not_aoe
    IP | 02000000000a 02000000000c 0800 4500 | rx_not_aoe
    three VLAN tags | 02000000000a 02000000000c 8100 0001 8100 0001 8100 0001 88a2 10 | rx_not_aoe
    for another station | 02000000000b 02000000000c 88a2 10 00 ffff ff 01 00000000 0000000000000000 | rx_other_host
    VLAN 5 | 02000000000a 02000000000c 8100 0005 88a2 10 00 ffff ff 01 00000000 0000000000000000 | rx_other_vlan
    two tags | 02000000000a 02000000000c 8100 0000 8100 0000 88a2 10 00 ffff ff 01 00000000 0000000000000000 | rx_other_vlan
    half an AoE header | 02000000000a 02000000000c 88a2 10 00 0007 03 01 000000 | rx_malformed
    a response | 02000000000a 02000000000c 88a2 18 00 0007 03 01 00000000 0010401911100000 | rx_response
    an advertisement | ffffffffffff 02000000000c 88a2 08 00 0009 03 01 00000000 0010401911100000 | rx_response
    our own frame | ffffffffffff 02000000000a 88a2 10 00 ffff ff 01 00000000 0000000000000000 | rx_own
    from a group | 02000000000a 03000000000c 88a2 10 00 ffff ff 01 00000000 0000000000000000 | rx_bad_source
    from nobody | 02000000000a 000000000000 88a2 10 00 ffff ff 01 00000000 0000000000000000 | rx_bad_source
    shelf 8 | 02000000000a 02000000000c 88a2 10 00 0008 03 01 00000000 0000000000000000 | rx_other_target
    slot 4 | 02000000000a 02000000000c 88a2 10 00 0007 04 01 00000000 0000000000000000 | rx_other_target
    shelf 8, every slot | 02000000000a 02000000000c 88a2 10 00 0008 ff 01 00000000 0000000000000000 | rx_other_target
    a test that fails | 02000000000a 02000000000c 88a2 10 00 0007 03 01 00000000 0000 0000 00 01 0001 61 | rx_config_test_failed
";

#[test]
fn what_is_not_for_us_is_counted_by_its_reason() {
    let mut bed = Bed::new(Pace::Inline);
    for (name, bytes, counter) in rows(SILENT) {
        let before = bed.blade.counters();
        bed.give(&hex(bytes));
        assert!(bed.replies().is_empty(), "{name} was answered");
        let changed: Vec<_> = bed
            .blade
            .counters()
            .iter()
            .zip(before.iter())
            .filter(|(now, before)| now.1 != before.1)
            .map(|(now, before)| (now.0, now.1 - before.1))
            .collect();
        assert_eq!(changed, [(counter, 1)], "{name}");
    }
    let before = bed.blade.counters().rx_no_interface;
    bed.give_on(1, &Ata::read(1, 0, 1).bare());
    assert_eq!(bed.blade.counters().rx_no_interface, before + 1);
    assert!(bed.replies_on(1).is_empty());
    bed.assert_idle();
}

#[test]
fn a_tagged_interface_answers_with_its_tag() {
    let tagged = InterfaceConfig {
        vlan: sandrail_wire::VlanTag::new(100, 3),
        ..interface(OURS, 1500)
    };
    let disk = TestDisk::new(SECTORS, Pace::Inline);
    let target = TargetConfig::new(ADDR);
    let mut bed = Bed::of(BladeConfig::default(), &[tagged], vec![(target, disk)]);
    let query =
        "02000000000a 02000000000c 8100 0064 88a2 10 00 ffff ff 01 00000001 0000000000000000";
    let reply = bed.ask(&hex(query));
    let expected =
        "02000000000c 02000000000a 8100 6064 88a2 18 00 0007 03 01 00000001 0080 0001 02 10 0000";
    assert_eq!(text(&reply), text(&hex(expected)));
    // A READ's data begin four bytes later, too.
    let mut request = hex("02000000000a 02000000000c 8100 0064 88a2");
    request.extend(&Ata::read(9, 0, 2).bare()[14..]);
    assert_eq!(bed.ask(&request).len(), 40 + 1024);
    let mut request = hex("02000000000a 02000000000c 8100 0064 88a2");
    request.extend(&Ata::write(9, 0, 2).filled(0x11)[14..]);
    assert_eq!(bed.ask(&request)[31], 0x40);
    assert_eq!(bed.disk().memory[..1024], [0x11; 1024]);
    request.truncate(40 + 1023);
    assert_eq!(bed.ask(&request)[18..20], [0x1c, 2]);
    bed.give(&Ata::read(1, 0, 1).bare());
    assert_eq!(bed.blade.counters().rx_other_vlan, 1, "without a tag");
}

fn identify(bed: &mut Bed) -> sandrail_wire::ata::Identify {
    let reply = bed.ask(&frame(
        A,
        "10 00 0007 03 00 0001dfdc 00 00 01 ec 000000a00000 0000",
    ));
    assert_eq!(outcome(&reply), "1800 00000040000000a000000000");
    let data = reply[36..].try_into().expect("512 bytes");
    sandrail_wire::ata::Identify::parse(data).expect("sound")
}

#[test]
fn identify_tells_what_the_disk_is() {
    let with = |durability, discards, read_only| {
        let mut disk = TestDisk::new(SECTORS, Pace::Inline);
        (disk.durability, disk.discards) = (durability, discards);
        let mut bed = Bed::with(disk, |_, target| target.read_only = read_only);
        let disk = identify(&mut bed);
        assert_eq!((disk.sectors, disk.lba48), (SECTORS, true));
        assert_eq!(disk.serial.to_string(), "e7.3");
        assert_eq!(disk.firmware.to_string(), env!("CARGO_PKG_VERSION"));
        assert_eq!(disk.sandrail.map(|features| features.0), Some(7));
        (
            disk.flush,
            disk.flush_ext,
            disk.write_cache,
            disk.trim_blocks_max,
        )
    };
    use sandrail_proto::aoe::target::backing::Durability::*;
    assert_eq!(with(Volatile, false, false), (false, false, true, None));
    assert_eq!(with(Flush, true, false), (true, true, true, Some(1)));
    assert_eq!(with(WriteThrough, true, true), (true, true, false, None));
}

#[test]
fn a_target_that_is_read_only_aborts_what_writes() {
    let disk = TestDisk::new(SECTORS, Pace::Inline);
    let mut bed = Bed::with(disk, |_, target| target.read_only = true);
    assert_eq!(
        outcome(&bed.ask(&Ata::write(1, 0, 1).filled(1))),
        "1800 410401410000000000000000"
    );
    assert_eq!(
        outcome(&bed.ask(&Ata::trim(1).with(&ranges(&[(0, 1)])))),
        "1800 410401410000000000000000"
    );
    assert_eq!(bed.ask(&Ata::read(1, 0, 1).bare()).len(), 548);
    assert!(!bed.disk().log.iter().any(|(kind, ..)| *kind != "read"));
}

#[test]
fn sectors_of_a_command_are_told_as_others_reckon_and_taken_as_they_fit() {
    let other = sandrail_wire::MacAddr([2, 0, 0, 0, 0, 0xb]);
    let interfaces = [interface(OURS, 4118), interface(other, 1500)];
    let disk = TestDisk::new(SECTORS, Pace::Inline);
    let targets = vec![(TargetConfig::new(ADDR), disk)];
    let mut bed = Bed::of(BladeConfig::default(), &interfaces, targets);
    let told = bed.ask(&config(A, 1, 0, b""))[28];
    assert_eq!(told, 7);
    assert_eq!(bed.ask(&Ata::read(1, 0, 8).bare()).len(), 36 + 8 * 512);
    assert_eq!(bed.ask(&Ata::read(1, 0, 9).bare())[14..16], [0x1c, 2]);
    // Each interface as its MTU has it.
    let mut request = Ata::read(1, 0, 3).bare();
    request[5] = 0xb;
    bed.give_on(1, &request);
    assert_eq!(bed.replies_on(1)[0][14..16], [0x1c, 2]);

    let disk = TestDisk::new(SECTORS, Pace::Inline);
    let mut bed = Bed::with(disk, |_, target| target.sectors_max = Some(4));
    assert_eq!(bed.ask(&config(A, 1, 0, b""))[28], 4);
    assert_eq!(bed.ask(&Ata::read(1, 0, 5).bare())[14..16], [0x1c, 2]);
    let mut disk = TestDisk::new(SECTORS, Pace::Inline);
    disk.sectors_per_operation_max = 5;
    let mut bed = Bed::with(disk, |_, _| {});
    assert_eq!(bed.ask(&config(A, 1, 0, b""))[28], 5);
    assert_eq!(bed.ask(&Ata::read(1, 0, 6).bare())[14..16], [0x1c, 2]);
}

#[test]
fn advertisements_at_the_start_and_when_the_size_changes() {
    let other = sandrail_wire::MacAddr([2, 0, 0, 0, 0, 0xb]);
    let interfaces = [interface(OURS, 9000), interface(other, 1500)];
    let second = sandrail_wire::TargetAddr { shelf: 9, slot: 0 };
    let mut first_target = TargetConfig::new(ADDR);
    first_target.persistent.config_string = vec![b'x'; 1024];
    let targets = vec![
        (first_target, TestDisk::new(SECTORS, Pace::Inline)),
        (
            TargetConfig::new(second),
            TestDisk::new(SECTORS, Pace::Inline),
        ),
    ];
    let now = sandrail_proto::time::Instant::from_nanos(1);
    let blade = Blade::new(BladeConfig::default(), &interfaces, targets, 1, now).unwrap();
    let mut bed = Bed { blade, now };
    for (number, mac, sectors) in [(0, "0a", "11"), (1, "0b", "02")] {
        let frames = bed.replies_on(number);
        assert_eq!(frames.len(), 2);
        let head = format!(
            "ffffffffffff 0200000000{mac} 88a2 18 00 0007 03 01 00000000 0080 0001 {sectors} 10 0400"
        );
        assert_eq!(
            text(&frames[0]),
            text(&[hex(&head), vec![b'x'; 1024]].concat())
        );
        let head = format!(
            "ffffffffffff 0200000000{mac} 88a2 18 00 0009 00 01 00000000 0080 0001 {sectors} 10 0000"
        );
        assert_eq!(text(&frames[1]), text(&hex(&head)));
    }
    bed.turn();
    assert!(bed.replies().is_empty());
    bed.blade
        .backing_mut(TargetIndex(1))
        .unwrap()
        .memory
        .resize(4096 * 512, 0);
    bed.turn();
    bed.turn();
    for interface in 0..2 {
        let frames = bed.replies_on(interface);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0][..6], [0xff; 6]);
        assert_eq!(frames[0][16..19], [0, 9, 0]);
    }
    assert_eq!(
        bed.events(),
        [BladeEvent::Resized {
            target: TargetIndex(1),
            sectors: 4096
        }]
    );
    assert_eq!(bed.blade.counters().tx_advertisements, 6);
}

#[test]
fn a_size_that_shrinks_is_held_to_at_once() {
    let mut bed = Bed::new(Pace::Inline);
    bed.disk().memory.truncate(100 * 512);
    assert_eq!(
        outcome(&bed.ask(&Ata::read(1, 99, 2).bare())),
        "1800 401002416300000000000000"
    );
    bed.turn();
    bed.replies();
    assert_eq!(identify(&mut bed).sectors, 100);
}

#[test]
fn disk_errors_as_registers() {
    use sandrail_proto::aoe::target::backing::DiskError;
    let mut bed = Bed::new(Pace::Inline);
    bed.disk().bad = Some(0x123);
    let reply = bed.ask(&Ata::read(1, 0x120, 8).bare());
    assert_eq!(
        outcome(&reply),
        "1800 404005412301000000000000",
        "five are left"
    );
    assert_eq!(reply.len(), 36, "no data");
    let reply = bed.ask(&Ata::write(1, 0x123, 1).filled(1));
    assert_eq!(outcome(&reply), "1800 414001412301000000000000");
    let request = Ata {
        command: 0x20,
        flags: 0,
        ..Ata::read(1, 0xe000_0122, 4)
    };
    assert_eq!(
        outcome(&bed.ask(&request.bare())),
        "1800 00400341230100e000000000"
    );
    assert_eq!(bed.ask(&Ata::read(1, 0x124, 1).bare())[27], 0x40);
    for error in [DiskError::NoSpace, DiskError::Device { errno: 5 }] {
        bed.disk().error = Some(error);
        assert_eq!(
            outcome(&bed.ask(&Ata::write(1, 0, 1).filled(1))),
            "1800 410401610000000000000000"
        );
        assert_eq!(
            outcome(&bed.ask(&Ata::flush(1).bare())),
            "1800 400400610000000000000000"
        );
        assert_eq!(bed.ask(&Ata::read(1, 0, 1).bare()).len(), 36);
    }
    // One event a second, however many fail.
    let failed = |event: &BladeEvent| matches!(event, BladeEvent::DiskFailed { .. });
    assert_eq!(bed.events().iter().filter(|e| failed(e)).count(), 1);
    bed.now = bed.now + core::time::Duration::from_secs(1);
    bed.ask(&Ata::flush(1).bare());
    assert_eq!(bed.events().len(), 1);
    assert_eq!(bed.counters().disk_errors, 10);
    bed.assert_idle();
}

#[test]
fn trim_range_by_range() {
    let mut bed = Bed::new(Pace::Inline);
    bed.disk().memory.fill(0xee);
    let list = [(10, 2), (0, 0), (100, 150), (1023, 1)];
    let reply = bed.ask(&Ata::trim(1).with(&ranges(&list)));
    assert_eq!(outcome(&reply), "1800 410000400000000000000000");
    bed.turn();
    // A range longer than an operation may be is cut.
    let expected = [
        ("trim", 10, 2),
        ("trim", 100, 64),
        ("trim", 164, 64),
        ("trim", 228, 22),
        ("trim", 1023, 1),
    ];
    assert_eq!(bed.disk().log, expected);
    for (sector, byte) in [
        (9, 0xee),
        (10, 0),
        (11, 0),
        (12, 0xee),
        (249, 0),
        (250, 0xee),
        (1023, 0),
    ] {
        assert_eq!(bed.disk().memory[sector * 512], byte, "sector {sector}");
    }
    assert_eq!(bed.counters().trims, 1);
    // Nothing at all is a success, past the end is an error before anything is done.
    assert_eq!(
        outcome(&bed.ask(&Ata::trim(1).with(&ranges(&[])))),
        "1800 410000400000000000000000"
    );
    let list = [(10, 2), (1023, 2)];
    assert_eq!(
        outcome(&bed.ask(&Ata::trim(1).with(&ranges(&list)))),
        "1800 411001410000000000000000"
    );
    assert_eq!(bed.disk().log.len(), 5);
    bed.disk().bad = Some(12);
    let list = [(8, 2), (10, 3), (50, 1)];
    assert_eq!(
        outcome(&bed.ask(&Ata::trim(1).with(&ranges(&list)))),
        "1800 414001410c00000000000000"
    );
    assert_eq!(
        bed.disk().log.len(),
        7,
        "what comes after the failure is left alone"
    );
    bed.disk().discards = false;
    assert_eq!(
        outcome(&bed.ask(&Ata::trim(1).with(&ranges(&[(0, 1)])))),
        "1800 410401410000000000000000"
    );
    bed.assert_idle();
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let now = sandrail_proto::time::Instant::ZERO;
    let blade = |config: BladeConfig, mtu_bytes, addrs: &[(u16, u8)], strings: usize| {
        let target = |(shelf, slot): &(u16, u8)| {
            let addr = sandrail_wire::TargetAddr {
                shelf: *shelf,
                slot: *slot,
            };
            let mut config = TargetConfig::new(addr);
            config.persistent.config_string = vec![0; strings];
            (config, TestDisk::new(8, Pace::Inline))
        };
        let targets = addrs.iter().map(target).collect();
        let error = Blade::new(config, &[interface(OURS, mtu_bytes)], targets, 1, now).err();
        error.map(|error| error.setting)
    };
    let good = BladeConfig {
        duplicates_max: 16,
        ..BladeConfig::default()
    };
    assert_eq!(blade(good.clone(), 1042, &[(7, 3), (7, 4)], 1024), None);
    assert_eq!(blade(good.clone(), 1041, &[(7, 3)], 0), Some("mtu_bytes"));
    assert_eq!(
        blade(good.clone(), 1500, &[(7, 3)], 1025),
        Some("config_string")
    );
    assert_eq!(blade(good.clone(), 1500, &[], 0), Some("targets"));
    assert_eq!(
        blade(good.clone(), 1500, &[(7, 3), (7, 3)], 0),
        Some("addr")
    );
    assert_eq!(blade(good.clone(), 1500, &[(7, 0xff)], 0), Some("addr"));
    assert_eq!(blade(good.clone(), 1500, &[(0xffff, 3)], 0), Some("addr"));
    let bad = BladeConfig {
        buffer_count: 0,
        ..good.clone()
    };
    assert_eq!(blade(bad, 1500, &[(7, 3)], 0), Some("buffer_count"));
    let bad = BladeConfig {
        frame_lifetime: core::time::Duration::ZERO,
        ..good
    };
    assert_eq!(blade(bad, 1500, &[(7, 3)], 0), Some("frame_lifetime"));
}
