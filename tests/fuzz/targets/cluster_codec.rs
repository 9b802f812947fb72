//! Heartbeats and blocks of voting areas: whatever is understood, is written again with the same meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandrail_wire::cluster::{BLOCK_BYTES, Block, HEARTBEAT_BYTES, Heartbeat};
use sandrail_wire::lock::{MacKey, Seal};

const KEY: MacKey = MacKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

fuzz_target!(|bytes: &[u8]| {
    let plain = Seal::new(crc32c::crc32c, None);
    let keyed = Seal::new(crc32c::crc32c, Some(KEY));
    beat(bytes, &plain);
    beat(bytes, &keyed);
    // Sealed anew, so that the code behind the seal is reached.
    if bytes.len() >= HEARTBEAT_BYTES {
        for (seal, is_keyed) in [(&plain, 0), (&keyed, 1)] {
            let mut sealed = bytes[..HEARTBEAT_BYTES].to_vec();
            sealed[5] = sealed[5] & !1 | is_keyed;
            if let Some(mac) = seal.mac(&sealed) {
                sealed.extend(mac);
            }
            let crc = seal.crc(&sealed);
            sealed.extend(crc.to_be_bytes());
            beat(&sealed, seal);
        }
    }
    if let Some(sector) = bytes.first_chunk::<BLOCK_BYTES>() {
        block(sector, &plain);
        let mut sealed = *sector;
        let crc = plain.crc(&sealed[..BLOCK_BYTES - 4]);
        sealed[BLOCK_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
        block(&sealed, &plain);
    }
});

fn beat(bytes: &[u8], seal: &Seal) {
    match Heartbeat::parse(bytes, seal) {
        Ok(beat) => {
            let mut out = [0xaa; 512];
            let len = beat.emit(&mut out, seal).expect("room");
            assert_eq!(Heartbeat::parse(&out[..len], seal), Ok(beat));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn block(sector: &[u8; BLOCK_BYTES], seal: &Seal) {
    match Block::parse(sector, seal) {
        Ok(block) => {
            assert_eq!(Block::parse(&block.to_bytes(seal), seal), Ok(block));
            assert_eq!(
                Block::peek(sector),
                Some((block.from.incarnation, block.sequence))
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
