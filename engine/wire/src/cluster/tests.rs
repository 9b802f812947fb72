//! Golden bytes, and what is refused.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are small"
)]

use std::vec::Vec;

use super::golden::{BLOCKS, HEARTBEATS};
use super::*;
use crate::lock::{ClusterId, CoreId, Epoch, Incarnation, MacKey, NodeId, Seal};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = core::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).expect("digits")
    });
    pairs.collect()
}

fn vector(table: &[(&str, &str)], name: &str) -> Vec<u8> {
    let (_, hex) = table
        .iter()
        .find(|(held, _)| *held == name)
        .expect("in the table");
    bytes(hex)
}

fn plain() -> Seal {
    Seal::new(crc32c::crc32c, None)
}

fn keyed() -> Seal {
    Seal::new(
        crc32c::crc32c,
        Some(MacKey(core::array::from_fn(|at| at as u8))),
    )
}

fn me() -> Life {
    Life {
        node: NodeId(3),
        incarnation: Incarnation(0x0102_0304_0506_0708),
    }
}

fn other() -> Life {
    Life {
        node: NodeId(1),
        incarnation: Incarnation(0x1111),
    }
}

fn view(epoch: u64, coordinator: u16, lives: &[Life]) -> View {
    View {
        epoch: Epoch(epoch),
        coordinator: NodeId(coordinator),
        members: lives.iter().copied().collect(),
    }
}

fn member_beat() -> Heartbeat {
    Heartbeat {
        cluster: ClusterId(0xc105_7e12),
        from: me(),
        to: ALL_NODES,
        to_core: CoreId(0),
        sequence: 0x99,
        state: NodeState::Member,
        hears: 0x12,
        fence: FenceReport {
            epoch: Epoch(7),
            fenced: 5,
            offline: 2,
            is_complete: true,
        },
        view: view(7, 1, &[me(), other()]),
    }
}

fn proposing() -> Block {
    Block {
        cluster: ClusterId(0xc105_7e12),
        area: 2,
        from: me(),
        sequence: 0x55,
        state: NodeState::Member,
        hears: 2,
        decided: view(7, 1, &[me(), other()]),
        begun: Ballot {
            round: 9,
            node: NodeId(3),
            incarnation: me().incarnation,
        },
        proposed: Ballot {
            round: 5,
            node: NodeId(1),
            incarnation: other().incarnation,
        },
        value: view(8, 3, &[me()]),
    }
}

fn sector(name: &str) -> [u8; BLOCK_BYTES] {
    vector(&BLOCKS, name).try_into().expect("a sector")
}

/// The block with other bytes at a place, and a checksum that fits.
fn resealed(at: usize, with: &[u8]) -> Result<Block, ClusterError> {
    let mut bytes = sector("proposing");
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32c::crc32c(&bytes[..508]);
    bytes[508..].copy_from_slice(&crc.to_be_bytes());
    Block::parse(&bytes, &plain())
}

fn resealed_beat(at: usize, with: &[u8]) -> Result<Heartbeat, ClusterError> {
    let mut bytes = vector(&HEARTBEATS, "member");
    bytes[at..at + with.len()].copy_from_slice(with);
    let end = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_be_bytes());
    Heartbeat::parse(&bytes, &plain())
}

#[test]
fn heartbeats_are_those_of_the_drawing() {
    let joining = Heartbeat {
        sequence: 1,
        state: NodeState::Joining,
        hears: 0,
        fence: FenceReport::default(),
        view: View::NONE,
        ..member_beat()
    };
    let leaving = Heartbeat {
        to: NodeId(1),
        sequence: 0x9a,
        state: NodeState::Leaving,
        hears: 2,
        fence: FenceReport {
            epoch: Epoch(7),
            ..FenceReport::default()
        },
        ..member_beat()
    };
    for (name, beat, seal) in [
        ("joining", joining, plain()),
        ("member", member_beat(), plain()),
        ("keyed", leaving, keyed()),
    ] {
        let golden = vector(&HEARTBEATS, name);
        let mut out = [0xaa; 512];
        let len = beat.emit(&mut out, &seal).expect("room");
        assert_eq!(out[..len], golden[..], "{name}");
        assert_eq!(Heartbeat::parse(&golden, &seal), Ok(beat), "{name}");
        let mut padded = golden.clone();
        padded.extend([0xee; 9]);
        assert_eq!(Heartbeat::parse(&padded, &seal), Ok(beat), "{name}, padded");
        for cut in 0..golden.len() {
            assert!(
                Heartbeat::parse(&golden[..cut], &seal).is_err(),
                "{name} cut to {cut}"
            );
        }
        assert!(
            beat.emit(&mut out[..len - 1], &seal).is_err(),
            "{name} into too little"
        );
    }
}

#[test]
fn blocks_are_those_of_the_drawing() {
    let fresh = Block {
        area: 0,
        sequence: 1,
        state: NodeState::Joining,
        hears: 0,
        decided: View::NONE,
        begun: Ballot::NONE,
        proposed: Ballot::NONE,
        value: View::NONE,
        ..proposing()
    };
    for (name, block) in [("fresh", fresh), ("proposing", proposing())] {
        assert_eq!(block.to_bytes(&plain()), sector(name), "{name}");
        assert_eq!(Block::parse(&sector(name), &plain()), Ok(block), "{name}");
        let peeked = (block.from.incarnation, block.sequence);
        assert_eq!(Block::peek(&sector(name)), Some(peeked), "{name}");
    }
    assert_eq!(Block::peek(&[0; BLOCK_BYTES]), None);
    assert_eq!(
        Block::parse(&[0; BLOCK_BYTES], &plain()),
        Err(ClusterError::NotOurs)
    );
}

#[test]
fn every_damaged_bit_is_noticed() {
    let golden = sector("proposing");
    for bit in 0..BLOCK_BYTES * 8 {
        let mut bytes = golden;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(
            Block::parse(&bytes, &plain()).is_err(),
            "bit {bit} of a block"
        );
    }
    for (name, seal) in [("member", plain()), ("keyed", keyed())] {
        let golden = vector(&HEARTBEATS, name);
        for bit in 0..golden.len() * 8 {
            let mut bytes = golden.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Heartbeat::parse(&bytes, &seal).is_err(),
                "bit {bit} of {name}"
            );
        }
    }
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let (plain_beat, keyed_beat) = (vector(&HEARTBEATS, "member"), vector(&HEARTBEATS, "keyed"));
    assert_eq!(
        Heartbeat::parse(&plain_beat, &keyed()),
        Err(ClusterError::MacExpected(true))
    );
    assert_eq!(
        Heartbeat::parse(&keyed_beat, &plain()),
        Err(ClusterError::MacExpected(false))
    );
    let wrong = Seal::new(crc32c::crc32c, Some(MacKey([9; 16])));
    assert_eq!(
        Heartbeat::parse(&keyed_beat, &wrong),
        Err(ClusterError::MacWrong)
    );
}

#[test]
fn other_versions_and_features_are_refused_by_name() {
    assert_eq!(resealed(4, &[2]), Err(ClusterError::Version(2)));
    assert_eq!(
        resealed(8, &[0, 1, 0, 0]),
        Err(ClusterError::Features(1 << 16))
    );
    assert!(
        resealed(8, &[0, 0, 0xff, 0xff]).is_ok(),
        "what need not be understood"
    );
    assert_eq!(resealed(5, &[3]), Err(ClusterError::State(3)));
    assert_eq!(resealed_beat(2, &[9]), Err(ClusterError::Version(9)));
    assert_eq!(
        resealed_beat(4, &[0, 2, 0, 0]),
        Err(ClusterError::Features(2 << 16))
    );
    assert_eq!(resealed_beat(38, &[2]), Err(ClusterError::Features(2)));
    assert_eq!(resealed_beat(3, &[7]), Err(ClusterError::State(7)));
}

#[test]
fn what_nobody_can_have_decided_is_refused() {
    // The decided view lies at 96: epoch, coordinator, count, then lives of ten bytes from 108 on.
    for (what, at, with) in [
        ("epoch 0 with members", 96, &[0; 8][..]),
        ("a coordinator that is no member", 104, &[0, 2]),
        ("17 members", 106, &[17]),
        ("node 64", 118, &[0, 64]),
        ("the same node twice", 118, &[0, 1]),
        ("a member without a life", 110, &[0; 8]),
    ] {
        assert!(
            matches!(resealed(at, with), Err(ClusterError::View(_))),
            "{what}"
        );
        let at = at - 96 + 72;
        assert!(
            matches!(resealed_beat(at, with), Err(ClusterError::View(_))),
            "{what}, told"
        );
    }
    assert_eq!(resealed(24, &[0, 64]), Err(ClusterError::Sender));
    assert_eq!(resealed(32, &[0; 8]), Err(ClusterError::Sender));
    assert_eq!(resealed_beat(32, &[1, 0]), Err(ClusterError::Sender));
    for (what, at, with) in [
        (
            "proposed in a ballot that has not begun",
            72,
            &[0, 0, 0, 10][..],
        ),
        ("a view and no ballot", 72, &[0; 16]),
        (
            "for the epoch after the next",
            268,
            &[0, 0, 0, 0, 0, 0, 0, 9],
        ),
    ] {
        assert!(
            matches!(resealed(at, with), Err(ClusterError::Ballot(_))),
            "{what}"
        );
    }
}

#[test]
fn members_are_a_set_by_node() {
    let mut members = Members::NONE;
    for node in (0..20).rev() {
        let life = Life {
            node: NodeId(node),
            incarnation: Incarnation(1),
        };
        assert_eq!(members.insert(life), node >= 4, "node {node}");
    }
    assert_eq!(members.len(), MEMBERS_MAX);
    assert!(members.as_slice().is_sorted());
    let newer = Life {
        node: NodeId(7),
        incarnation: Incarnation(2),
    };
    assert!(members.insert(newer), "in its own place");
    assert_eq!(members.of(NodeId(7)), Some(newer));
    members.remove(NodeId(7));
    members.remove(NodeId(7));
    assert_eq!(
        (members.len(), members.of(NodeId(7))),
        (MEMBERS_MAX - 1, None)
    );
    let same: Members = members.as_slice().iter().rev().copied().collect();
    assert_eq!(same, members);
}
