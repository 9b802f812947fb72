//! Lock frames: whatever is understood, is written again with the same meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandrail_wire::lock::{CRC_BYTES, FrameWriter, LockFrame, MAC_BYTES, MacKey, SLOT_BYTES, Seal};

const KEY: MacKey = MacKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

/// A checksum that a fuzzer can compute: it is not what is looked for.
fn easy(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fuzz_target!(|bytes: &[u8]| {
    let real: fn(&[u8]) -> u32 = crc32c::crc32c;
    for seal in [
        Seal::new(real, None),
        Seal::new(easy, None),
        Seal::new(real, Some(KEY)),
    ] {
        check(bytes, &seal);
    }
    // Sealed anew as often as the counts allow, so that the code behind the seal is reached.
    let mut sealed = bytes.to_vec();
    if sealed.len() < 40 {
        return;
    }
    let body = 76 + usize::from(sealed[39]) * 8 + usize::from(sealed[38]) * SLOT_BYTES;
    for key in [None, Some(KEY)] {
        let seal = Seal::new(real, key);
        let Some(rest) = sealed.len().checked_sub(body + seal.len_bytes()) else {
            continue;
        };
        let len = sealed.len() - rest;
        sealed[5] = sealed[5] & !1 | u8::from(key.is_some());
        if let Some(mac) = seal.mac(&sealed[..body]) {
            sealed[body..body + MAC_BYTES].copy_from_slice(&mac);
        }
        let crc = seal.crc(&sealed[..len - CRC_BYTES]);
        sealed[len - CRC_BYTES..len].copy_from_slice(&crc.to_be_bytes());
        check(&sealed, &seal);
    }
});

fn check(bytes: &[u8], seal: &Seal) {
    let frame = match LockFrame::parse(bytes, seal) {
        Ok(frame) => frame,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let sacks: Vec<u64> = frame.sacks().collect();
    let mut out = vec![0xaa; bytes.len()];
    let mut writer = FrameWriter::new(&mut out, frame.header(), &sacks, seal).expect("as long");
    for record in frame.records() {
        assert!(writer.push(record), "it was in a frame of that length");
    }
    let len = writer.finish();
    let again = LockFrame::parse(&out[..len], seal).expect("well formed");
    assert_eq!(again.header(), frame.header());
    assert!(again.records().eq(frame.records()));
    assert!(again.sacks().eq(frame.sacks()));
}
