#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are bytes of counters"
)]

use std::string::ToString;
use std::vec::Vec;
use std::{env, fs, path, vec};

use super::golden::FRAMES;
use super::*;

const KEY: MacKey = MacKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const PLAIN: Seal = Seal::new(crc32c::crc32c, None);
const KEYED: Seal = Seal::new(crc32c::crc32c, Some(KEY));
/// Where the fields that are forged lie.
const FLAGS_AT: usize = 3;
const FEATURES_AT: usize = 4;
const SLOTS_AT: usize = 38;
const SACK_WORDS_AT: usize = 39;
const LONG_MAP_AT: usize = 68;

fn frame(name: &str) -> Vec<u8> {
    let (_, hex) = FRAMES
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a golden frame");
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The checksum anew, after bytes were changed.
fn mend(frame: &mut [u8]) {
    let (body, crc) = frame.split_last_chunk_mut::<CRC_BYTES>().unwrap();
    *crc = crc32c::crc32c(body).to_be_bytes();
}

fn near() -> Endpoint {
    Endpoint {
        node: NodeId(1),
        core: CoreId(3),
        incarnation: Incarnation(0x0102_0304_0506_0708),
    }
}

fn far() -> Endpoint {
    Endpoint {
        node: NodeId(2),
        core: CoreId(4),
        incarnation: Incarnation(0x1112_1314_1516_1718),
    }
}

fn header() -> LockHeader {
    LockHeader {
        features: LockFeatures::NONE,
        wants_answer: false,
        cluster: ClusterId(0xc105_7e12),
        from: near(),
        to: far(),
        epoch: Epoch(7),
        sequence: Sequence(u64::MAX - 1),
        ack: Sequence(5),
        credits: 240,
    }
}

/// The frame is written and read as `header` with `sacks` and `records`.
fn both_ways(name: &str, seal: &Seal, header: &LockHeader, sacks: &[u64], records: &[&[u8]]) {
    let golden = frame(name);
    let mut out = vec![0xee; golden.len()];
    let mut writer = FrameWriter::new(&mut out, header, sacks, seal).unwrap();
    for record in records {
        assert!(writer.push(record), "{name}");
    }
    assert_eq!(writer.finish(), golden.len(), "{name}");
    assert_eq!(out, golden, "{name}");
    let read = LockFrame::parse(&golden, seal).unwrap();
    let mut expected = *header;
    if seal.is_keyed() {
        expected.features = LockFeatures::MAC;
    }
    assert_eq!(*read.header(), expected, "{name}");
    assert!(read.sacks().eq(sacks.iter().copied()), "{name}");
    assert!(read.records().eq(records.iter().copied()), "{name}");
    let slots: usize = records.iter().map(|record| record.len() / SLOT_BYTES).sum();
    assert_eq!((read.slot_count(), read.sack_words()), (slots, sacks.len()));
}

#[test]
fn golden_frames() {
    let hello = LockHeader {
        wants_answer: true,
        to: Endpoint {
            incarnation: Incarnation::UNKNOWN,
            ..far()
        },
        sequence: Sequence(0),
        ack: Sequence(0),
        credits: 256,
        ..header()
    };
    both_ways("hello", &PLAIN, &hello, &[], &[]);
    let mut long = [0xb2; 128];
    long[64..].fill(0xb3);
    both_ways("records", &PLAIN, &header(), &[], &[&[0xa1; 64], &long]);
    let selective = LockHeader {
        from: far(),
        to: near(),
        epoch: Epoch(8),
        sequence: Sequence(9),
        ack: Sequence(255),
        credits: 0,
        ..header()
    };
    both_ways("selective", &PLAIN, &selective, &[10, 1 << 63], &[]);
    let keyed = LockHeader {
        sequence: Sequence(16),
        ..header()
    };
    both_ways("keyed", &KEYED, &keyed, &[], &[&[0x5a; 64]]);
    // A steering program finds the receiving core here.
    assert_eq!(frame("records")[RECEIVER_CORE_OFFSET], far().core.0);
}

#[test]
fn every_truncation_is_refused_and_padding_is_not_read() {
    for (name, _) in FRAMES {
        let seal = if name == "keyed" { KEYED } else { PLAIN };
        let whole = frame(name);
        for len in 0..whole.len() {
            let error = LockFrame::parse(&whole[..len], &seal).unwrap_err();
            let LockError::Truncated {
                need_bytes,
                have_bytes,
                ..
            } = error
            else {
                panic!("{name} cut to {len}: {error}");
            };
            assert!(have_bytes == len && need_bytes > len && need_bytes <= whole.len());
        }
        let mut padded = whole;
        padded.resize(padded.len() + 40, 0xff);
        assert!(LockFrame::parse(&padded, &seal).is_ok(), "{name}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    for (name, _) in FRAMES {
        let seal = if name == "keyed" { KEYED } else { PLAIN };
        let whole = frame(name);
        for bit in 0..whole.len() * 8 {
            let mut hurt = whole.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert!(
                LockFrame::parse(&hurt, &seal).is_err(),
                "{name}, bit {bit} flipped"
            );
        }
    }
}

#[test]
fn what_is_forged_without_the_key_is_refused() {
    let whole = frame("keyed");
    let body = whole.len() - CRC_BYTES;
    for at in (0..body).filter(|at| !matches!(*at, 0..=2 | 5 | SLOTS_AT | SACK_WORDS_AT)) {
        let mut forged = whole.clone();
        forged[at] ^= 1;
        mend(&mut forged);
        let error = LockFrame::parse(&forged, &KEYED).unwrap_err();
        let expected = if at == FEATURES_AT {
            LockError::Features(0x0100_0000)
        } else {
            LockError::MacWrong
        };
        assert_eq!(error, expected, "byte {at}");
    }
    assert_eq!(
        LockFrame::parse(&frame("records"), &KEYED).unwrap_err(),
        LockError::MacMissing
    );
    assert_eq!(
        LockFrame::parse(&whole, &PLAIN).unwrap_err(),
        LockError::MacUnexpected
    );
    let other = Seal::new(crc32c::crc32c, Some(MacKey([9; 16])));
    assert_eq!(
        LockFrame::parse(&whole, &other).unwrap_err(),
        LockError::MacWrong
    );
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refuse = |at: usize, bytes: &[u8], error: LockError| {
        let mut hurt = frame("records");
        hurt[at..at + bytes.len()].copy_from_slice(bytes);
        mend(&mut hurt);
        assert_eq!(LockFrame::parse(&hurt, &PLAIN).unwrap_err(), error);
        assert!(!error.to_string().is_empty());
    };
    let map = |map: u64| map.to_be_bytes();
    refuse(0, b"SM", LockError::NotLock);
    refuse(2, &[2], LockError::Version(2));
    refuse(FLAGS_AT, &[2], LockError::Features(2));
    refuse(FEATURES_AT, &[0, 2, 0, 0], LockError::Features(0x2_0000));
    refuse(LONG_MAP_AT, &map(4), LockError::LongMap(4));
    refuse(LONG_MAP_AT, &map(3), LockError::LongMap(3));
    refuse(LONG_MAP_AT, &map(1 << 63), LockError::LongMap(1 << 63));
    refuse(16, &[0; 8], LockError::NoIncarnation);
    let counts = |slots, sack_words| LockError::Counts { slots, sack_words };
    refuse(SLOTS_AT, &[57], counts(57, 0));
    refuse(SACK_WORDS_AT, &[17], counts(3, 17));
    // Features that need not be understood are passed on.
    let mut offered = frame("records");
    offered[FEATURES_AT + 3] = 0x80;
    mend(&mut offered);
    let read = LockFrame::parse(&offered, &PLAIN).unwrap();
    assert_eq!(read.header().features, LockFeatures(0x80));
}

#[test]
fn a_writer_keeps_to_its_buffer() {
    for seal in [PLAIN, KEYED] {
        let need_bytes = LOCK_HEADER_BYTES + seal.len_bytes();
        let mut out = vec![0; need_bytes - 1];
        let error = FrameWriter::new(&mut out, &header(), &[], &seal).unwrap_err();
        assert_eq!(
            (error.need_bytes, error.have_bytes),
            (need_bytes, need_bytes - 1)
        );
        for mtu_bytes in [need_bytes, 1500, 3700, 9000] {
            let mut out = vec![0; mtu_bytes];
            let mut writer = FrameWriter::new(&mut out, &header(), &[], &seal).unwrap();
            assert_eq!(writer.room_slots(), slots_by_mtu(mtu_bytes, &seal));
            assert!(!writer.push(&[0; 63]) && !writer.push(&[0; 192]));
            let mut records = 0;
            while writer.push(&[records as u8; 64]) {
                records += 1;
            }
            assert!(!writer.push(&[0; 128]), "a long record needs two slots");
            let len = writer.finish();
            assert_eq!(records, slots_by_mtu(mtu_bytes, &seal));
            let read = LockFrame::parse(&out[..len], &seal).unwrap();
            assert_eq!(read.records().count(), records);
        }
    }
    let mut out = [0; 2000];
    assert!(FrameWriter::new(&mut out, &header(), &[0; 17], &PLAIN).is_err());
    assert_eq!(slots_by_mtu(1500, &PLAIN), 22);
    assert_eq!(slots_by_mtu(1500, &KEYED), 21);
    assert_eq!(slots_by_mtu(9000, &PLAIN), FRAME_SLOTS_MAX);
}

#[test]
fn the_longest_frame_lies_in_one_chunk() {
    let words = SACK_WORDS_MAX * 8;
    let longest = LOCK_HEADER_BYTES + words + FRAME_SLOTS_MAX * SLOT_BYTES + KEYED.len_bytes();
    assert!(crate::ethernet::HEADER_BYTES_MAX + longest <= 3840);
}

#[test]
fn sequences_wrap() {
    let last = Sequence(u64::MAX);
    assert_eq!(last.plus(2), Sequence(1));
    assert_eq!(Sequence(1).since(last), 2);
    assert_eq!(Sequence(1).plus(3).since(Sequence(1)), 3);
}

#[test]
fn keys_are_not_shown() {
    assert!(!std::format!("{KEYED:?}").contains("15"));
}

/// The seeds of the fuzz target `lock_frame` are these vectors; with `SANDRAIL_BLESS=1` the test writes them.
#[test]
fn fuzz_seeds_are_the_golden_vectors() {
    let folder =
        path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/lock_frame");
    let bless = env::var_os("SANDRAIL_BLESS").is_some();
    if bless {
        fs::create_dir_all(&folder).unwrap();
    }
    for (name, _) in FRAMES {
        let path = folder.join(name);
        if bless {
            fs::write(&path, frame(name)).unwrap();
        }
        let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            seed,
            frame(name),
            "{name}: run this test with SANDRAIL_BLESS=1"
        );
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), FRAMES.len());
}
