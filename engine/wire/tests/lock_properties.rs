//! What holds for all lock frames: reading what was written gives the same, and no bytes make the codec panic.

use proptest::prelude::*;
use sandrail_wire::lock::{
    ClusterId, CoreId, Endpoint, Epoch, FrameWriter, Incarnation, LockFeatures, LockFrame,
    LockHeader, MacKey, NodeId, SACK_WORDS_MAX, SLOT_BYTES, Seal, Sequence,
};

fn endpoint() -> impl Strategy<Value = Endpoint> {
    any::<(u16, u8, u64)>().prop_map(|(node, core, incarnation)| Endpoint {
        node: NodeId(node),
        core: CoreId(core),
        incarnation: Incarnation(incarnation),
    })
}

fn header() -> impl Strategy<Value = LockHeader> {
    let numbers = any::<(u16, bool, u64, u64, u64, u64, u16)>();
    (endpoint(), endpoint(), numbers).prop_map(
        |(mut from, to, (offered, wants_answer, cluster, epoch, sequence, ack, credits))| {
            from.incarnation.0 = from.incarnation.0.max(1);
            LockHeader {
                features: LockFeatures(u32::from(offered)),
                wants_answer,
                cluster: ClusterId(cluster),
                from,
                to,
                epoch: Epoch(epoch),
                sequence: Sequence(sequence),
                ack: Sequence(ack),
                credits,
            }
        },
    )
}

fn seal() -> impl Strategy<Value = Seal> {
    any::<Option<[u8; 16]>>().prop_map(|key| Seal::new(crc32c::crc32c, key.map(MacKey)))
}

/// Records by their lengths in slots and the byte that fills them.
fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let record = (1..=2_usize, any::<u8>());
    proptest::collection::vec(record, 0..70).prop_map(|records| {
        let filled = |(slots, byte)| vec![byte; slots * SLOT_BYTES];
        records.into_iter().map(filled).collect()
    })
}

proptest! {
    #[test]
    fn frames_come_back(
        header in header(),
        seal in seal(),
        sacks in proptest::collection::vec(any::<u64>(), 0..=SACK_WORDS_MAX),
        records in records(),
        len_bytes in 300..4200_usize,
    ) {
        let mut out = vec![0xee; len_bytes];
        let mut writer = FrameWriter::new(&mut out, &header, &sacks, &seal).expect("room");
        let taken = records.iter().take_while(|record| writer.push(record)).count();
        let len = writer.finish();
        prop_assert!(out[len..].iter().all(|byte| *byte == 0xee), "beyond the frame");
        let read = LockFrame::parse(&out, &seal).expect("well formed");
        let mut expected = header;
        if seal.is_keyed() {
            expected.features.0 |= LockFeatures::MAC.0;
        }
        prop_assert_eq!(*read.header(), expected);
        prop_assert!(read.sacks().eq(sacks.iter().copied()));
        prop_assert!(read.records().eq(records[..taken].iter().map(Vec::as_slice)));
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..4000), seal in seal()) {
        let _ = LockFrame::parse(&bytes, &seal);
        // Past the first checks, with a checksum that holds for what the counts say.
        if bytes.len() > 80 {
            bytes[..3].copy_from_slice(b"SL\x01");
            bytes[38] %= 57;
            bytes[39] %= 17;
            let mac = usize::from(bytes[5] & 1) * 16;
            let len = 76 + usize::from(bytes[39]) * 8 + usize::from(bytes[38]) * 64 + mac;
            if let Some((body, rest)) = bytes.split_at_mut_checked(len)
                && rest.len() >= 4
            {
                rest[..4].copy_from_slice(&crc32c::crc32c(body).to_be_bytes());
            }
            if let Ok(frame) = LockFrame::parse(&bytes, &seal) {
                let slots: usize = frame.records().map(|record| record.len() / SLOT_BYTES).sum();
                prop_assert_eq!(slots, frame.slot_count());
            }
        }
    }
}
