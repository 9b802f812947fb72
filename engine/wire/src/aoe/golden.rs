//! Golden vectors: whole frames, without padding, as hexadecimal digits grouped by field.
//!
//! Addresses and tags are filled in where only the arguments were recorded.
//!
//! Kept free of everything but text, so that the fuzz targets' seeds are made from the same table.

/// Name and frame. `linux` and `vblade` were seen on the wire between Linux 6.1's driver and vblade 25, `etherdrive` in
/// a public capture of a Coraid appliance; `hand` follows the specification where nobody was seen to send it;
/// `sandrail` is what only Sandrail's own ends say.
pub(crate) const FRAMES: [(&str, &str); 23] = [
    (
        "linux_discover",
        "ffffffffffff 02000000000c 88a2 10 00 ffff ff 01 00000000 0000 0000 00 00 0000",
    ),
    (
        "vblade_config",
        "02000000000c 02000000000a 88a2 18 00 0007 03 01 00000000 0010 4019 11 10 0000",
    ),
    (
        "vblade_advertisement",
        "ffffffffffff 02000000000a 88a2 08 00 0007 03 01 00000000 0010 4019 11 10 0000",
    ),
    (
        "etherdrive_config",
        "000d87aac900 00100400111f 88a2 18 00 000a 09 01 00000000 0003 3008 00 10 0004 666f6f0a",
    ),
    (
        "vblade_set_refused",
        "02000000000c 02000000000a 88a2 1c 04 0007 03 01 800f1525 0010 4019 11 13 0005 68656c6c6f",
    ),
    (
        "linux_identify",
        "02000000000a 02000000000c 88a2 10 00 0007 03 00 0001dfdc 00 00 01 ec 000000a00000 0000",
    ),
    (
        "linux_read_ext",
        "02000000000a 02000000000c 88a2 10 00 0007 03 00 0002dfdd 40 00 08 24 080000000000 0000",
    ),
    (
        "vblade_read_ext",
        "02000000000c 02000000000a 88a2 18 00 0007 03 00 0002dfdd 40 00 00 40 080000000000 0000",
    ),
    (
        "vblade_read_reserved",
        "02000000000c 02000000000a 88a2 1c 06 0007 03 00 0003dfde 40 00 01 24 080000000000 0000",
    ),
    (
        "vblade_past_the_end",
        "02000000000c 02000000000a 88a2 18 00 0007 03 00 0004dfdf 40 10 01 41 000002000000 0000",
    ),
    (
        "vblade_flush_ext_aborted",
        "02000000000c 02000000000a 88a2 18 00 0000 00 00 4751001f 40 04 00 41 000000000000 0000",
    ),
    (
        "hand_read_28_vlan",
        "02000000000a 02000000000c 8100 2064 88a2 10 00 0007 03 00 12345678 00 00 02 20 efcdabe90000 0000",
    ),
    (
        "hand_mask_add",
        "02000000000a 02000000000c 88a2 10 00 0007 03 02 80000002 00 01 00 01 00 01 02000000000b",
    ),
    (
        "hand_mask_list_full",
        "02000000000c 02000000000a 88a2 18 00 0007 03 02 80000002 00 01 03 01",
    ),
    (
        "vblade_mask_empty",
        "02000000000c 02000000000a 88a2 18 00 0000 00 02 47510019 00 00 00 00",
    ),
    (
        "vblade_reserve_empty",
        "02000000000c 02000000000a 88a2 18 00 0000 00 03 4751001a 00 00",
    ),
    (
        "hand_reserve_set",
        "02000000000a 02000000000c 88a2 10 00 0007 03 03 80000003 01 02 02000000000b 02000000000c",
    ),
    (
        "hand_vendor_qinq",
        "02000000000a 02000000000c 88a8 e3e8 8100 1065 88a2 10 00 0007 03 f0 80000004 0102030405",
    ),
    (
        "sandrail_hello",
        "02000000000a 02000000000c 88a2 10 00 0007 03 f0 80000005 \
         5352414c 01 00 00 00 00000003 0000000000000000 0000 0000 \
         0000000000000000 0000000000000000 00000000 00000000",
    ),
    (
        "sandrail_attach",
        "02000000000a 02000000000c 88a2 10 00 0007 03 f0 80000006 \
         5352414c 01 01 00 02 00000003 1122334455667788 0000 0000 \
         0000000000000000 0000000000000000 000007d0 00000000",
    ),
    (
        "sandrail_attached",
        "02000000000c 02000000000a 88a2 18 00 0007 03 f0 80000006 \
         5352414c 01 01 00 02 00000001 1122334455667788 beef 0000 \
         0000000000000009 a1a2a3a4a5a6a7a8 000007d0 00000000",
    ),
    (
        "sandrail_stale_epoch",
        "02000000000c 02000000000a 88a2 18 00 0007 03 f0 80000007 \
         5352414c 01 02 07 00 00000003 0000000000000000 0000 0002 \
         000000000000000a a1a2a3a4a5a6a7a8 000007d0 00000000 02000000000b 02000000000c",
    ),
    (
        "sandrail_write_void",
        "02000000000c 02000000000a 88a2 1c 80 0007 03 00 80000008 41 00 08 34 080000000000 beef",
    ),
];
