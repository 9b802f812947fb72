//! Golden vectors: whole lock frames behind their Ethernet headers, as hexadecimal digits grouped by field.
//!
//! Checksums and the code were computed by a second implementation, from the definitions of CRC-32C and SipHash.
//! Kept free of everything but text, so that the fuzz target's seeds are made from the same table.

/// Name and frame. The key of `keyed` is the bytes 0 to 15; the others have none.
pub(crate) const FRAMES: [(&str, &str); 4] = [
    (
        "hello",
        "534c 01 01 00000000 00000000c1057e12 0102030405060708 0000000000000000 \
         0001 0002 03 04 00 00 0000000000000007 0000000000000000 0000000000000000 0100 0000 \
         0000000000000000 b0b5cae7",
    ),
    (
        "records",
        "534c 01 00 00000000 00000000c1057e12 0102030405060708 1112131415161718 \
         0001 0002 03 04 03 00 0000000000000007 fffffffffffffffe 0000000000000005 00f0 0000 \
         0000000000000002 \
         a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1 \
         a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1 \
         b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2 \
         b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2 \
         b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3 \
         b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3 \
         9e5cc56a",
    ),
    (
        "selective",
        "534c 01 00 00000000 00000000c1057e12 1112131415161718 0102030405060708 \
         0002 0001 04 03 00 02 0000000000000008 0000000000000009 00000000000000ff 0000 0000 \
         0000000000000000 000000000000000a 8000000000000000 bda898ba",
    ),
    (
        "keyed",
        "534c 01 00 00010000 00000000c1057e12 0102030405060708 1112131415161718 \
         0001 0002 03 04 01 00 0000000000000007 0000000000000010 0000000000000005 00f0 0000 \
         0000000000000000 \
         5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a \
         5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a \
         ea62f208be38128b6b299fc182361130 81643b36",
    ),
];
