//! Every AoE frame of the captures beside this file is understood, and written again bit for bit.
//!
//! The captures show Linux 6.1's `aoe` driver, and a probe with hand-made requests, at work against vblade 25. Sectors
//! other than IDENTIFY data were cut off when the files were stored; the headers are whole.

use sandrail_wire::aoe::{AoeError, Body, ErrorCode, Repr};
use sandrail_wire::ata::{self, Identify};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, Lba, TargetAddr};

/// The frames of a classic pcap file, little-endian, link type Ethernet; each with its length on the wire.
fn frames(file: &[u8]) -> Vec<(&[u8], usize)> {
    let number =
        |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    assert_eq!(number(0), 0xa1b2_c3d4, "not a pcap file");
    assert_eq!(number(20), 1, "not Ethernet");
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (stored_bytes, wire_bytes) = (number(at + 8), number(at + 12));
        at += 16;
        frames.push((&file[at..at + stored_bytes], wire_bytes));
        at += stored_bytes;
    }
    frames
}

/// What a capture came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    frames: usize,
    reads: usize,
    writes: usize,
    identifies: usize,
    configs: usize,
    lists: usize,
    refused: usize,
    unknown: usize,
}

fn check(file: &[u8]) -> Seen {
    let mut seen = Seen::default();
    for (index, (frame, wire_bytes)) in frames(file).into_iter().enumerate() {
        let number = index + 1;
        let (ethernet, header_bytes) = EthernetRepr::parse(frame).expect("an Ethernet header");
        assert_eq!(ethernet.ethertype, EtherType::AOE, "frame {number}");
        seen.frames += 1;
        let repr = match Repr::parse(&frame[header_bytes..]) {
            Ok(repr) => repr,
            Err(AoeError::UnknownCommand(0x20)) => {
                seen.unknown += 1;
                continue;
            }
            Err(error) => panic!("frame {number}: {error}"),
        };
        let mut out = [0xaa; 128];
        let ethernet_bytes = ethernet.emit(&mut out).expect("room");
        let aoe_bytes = repr.emit(&mut out[ethernet_bytes..]).expect("room");
        assert_eq!(ethernet_bytes, header_bytes);
        let written = ethernet_bytes + aoe_bytes;
        assert_eq!(out[..written], frame[..written], "frame {number}");
        count(&mut seen, &repr, &frame[written..], wire_bytes - written);
    }
    seen
}

fn count(seen: &mut Seen, repr: &Repr<'_>, rest: &[u8], rest_on_wire: usize) {
    seen.refused += usize::from(repr.error.is_some());
    match repr.body {
        Body::Ata(args) if !repr.response => match args.command_status {
            ata::COMMAND_READ | ata::COMMAND_READ_EXT => seen.reads += 1,
            ata::COMMAND_WRITE_EXT => {
                seen.writes += 1;
                let sectors = rest_on_wire / ata::SECTOR_BYTES;
                assert!(args.write && sectors >= 1);
                if sectors != usize::from(args.count) {
                    // The probe announced two sectors and sent one.
                    assert_eq!((sectors, args.count, args.lba()), (1, 2, Lba(0x1000)));
                }
            }
            _ => {}
        },
        Body::Ata(_) => {
            if let Some(data) = rest.first_chunk::<{ ata::SECTOR_BYTES }>() {
                seen.identifies += 1;
                let disk = Identify::parse(data).expect("IDENTIFY data");
                assert!(disk.lba48 && disk.flush && !disk.flush_ext && !disk.write_cache);
                assert!(disk.sectors > 0);
                assert_eq!(disk.model.to_string(), "Coraid EtherDrive vblade");
                assert_eq!(disk.firmware.to_string(), "V25");
                assert_eq!(disk.serial.to_string(), "0.0:vm");
            }
        }
        Body::Config(config) => {
            seen.configs += 1;
            if repr.response && config.buffer_count > 0 {
                assert_eq!((config.buffer_count, config.firmware), (16, 0x4019));
                assert!(!repr.addr.is_wildcard());
            }
        }
        Body::MacMask(mask) => {
            seen.lists += 1;
            assert!(mask.directives.is_empty());
        }
        Body::Reserve(reserve) => {
            seen.lists += 1;
            assert!(reserve.macs.is_empty());
        }
        Body::Vendor { command, .. } => panic!("vendor command {command:#x}"),
    }
}

#[test]
fn linux_against_vblade_at_mtu_1500() {
    let seen = check(include_bytes!("vectors/linux-vblade.pcap"));
    let expected = Seen {
        frames: 180,
        reads: 26,
        writes: 19,
        identifies: 21,
        configs: 44,
        ..Seen::default()
    };
    assert_eq!(seen, expected);
}

#[test]
fn linux_against_vblade_at_mtu_9000() {
    let seen = check(include_bytes!("vectors/linux-vblade-9000.pcap"));
    let expected = Seen {
        frames: 116,
        reads: 7,
        writes: 6,
        identifies: 21,
        configs: 44,
        ..Seen::default()
    };
    assert_eq!(seen, expected);
}

#[test]
fn a_probe_against_vblade() {
    let file = include_bytes!("vectors/linux-vblade-probe.pcap");
    let expected = Seen {
        frames: 59,
        reads: 7,
        writes: 3,
        identifies: 1,
        configs: 19,
        lists: 4,
        refused: 3,
        unknown: 2,
    };
    assert_eq!(check(file), expected);

    let frames = frames(file);
    let parse = |number: usize| Repr::parse(&frames[number - 1].0[14..]);
    assert_eq!(
        parse(6).unwrap().addr,
        TargetAddr {
            shelf: 0,
            slot: 0xff
        }
    );
    assert_eq!(
        parse(12).unwrap().error,
        Some(ErrorCode::ConfigStringPresent)
    );
    assert_eq!(parse(26).unwrap().error, Some(ErrorCode::BadArgument));
    assert_eq!(parse(54).unwrap().version, 2, "echoed as it was asked");
    let Body::Ata(past) = parse(30).unwrap().body else {
        panic!("no ATA response");
    };
    assert_eq!(past.error_feature, ata::ERROR_IDNF);
    assert!(!ata::status_ok(past.command_status));
    let Body::Ata(flushed) = parse(57).unwrap().body else {
        panic!("no ATA response");
    };
    assert_eq!(flushed.command_status, 0);
    assert!(ata::status_ok(flushed.command_status));
}
