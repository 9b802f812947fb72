//! What each golden vector means, both ways, and what is refused.
#![allow(
    clippy::cast_possible_truncation,
    reason = "test inputs are small numbers"
)]

use std::string::ToString;
use std::vec::Vec;

use super::golden::FRAMES;
use super::*;
use crate::ata::{self, Lba};
use crate::ethernet::EthernetRepr;
use crate::{EtherType, MacAddr, VlanTag};

fn frame(name: &str) -> Vec<u8> {
    let (_, text) = FRAMES
        .iter()
        .find(|(known, _)| *known == name)
        .expect("vector");
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

const SHELF_7: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
const SHELF_0: TargetAddr = TargetAddr { shelf: 0, slot: 0 };

const fn request(tag: u32, body: Body<'_>) -> Repr<'_> {
    Repr {
        version: 1,
        response: false,
        error: None,
        addr: SHELF_7,
        tag: Tag(tag),
        body,
    }
}

const fn response(tag: u32, body: Body<'_>) -> Repr<'_> {
    Repr {
        response: true,
        ..request(tag, body)
    }
}

const VBLADE_CONFIG: ConfigRepr<'_> = ConfigRepr {
    buffer_count: 16,
    firmware: 0x4019,
    sectors_max: 17,
    aoe_version: 1,
    command: ConfigCommand::Read,
    string: &[],
};

const REGISTERS: AtaRepr = AtaRepr {
    lba48: true,
    device_head: false,
    async_write: false,
    write: false,
    error_feature: 0,
    count: 0,
    command_status: ata::STATUS_DRDY,
    lba_bytes: [8, 0, 0, 0, 0, 0],
    reserved: [0; 2],
};

/// Says what the named vector must mean, and has it checked: read, written, and cut short.
fn means(name: &str, expected: Repr<'_>) {
    let frame = frame(name);
    let (ethernet, header_bytes) = EthernetRepr::parse(&frame).unwrap();
    assert_eq!(ethernet.ethertype, EtherType::AOE, "{name}");
    let bytes = &frame[header_bytes..];
    assert_eq!(Repr::parse(bytes), Ok(expected), "{name}");

    let mut out = std::vec![0xaa; frame.len() + 1];
    assert_eq!(ethernet.emit(&mut out), Ok(header_bytes), "{name}");
    assert_eq!(
        expected.emit(&mut out[header_bytes..]),
        Ok(bytes.len()),
        "{name}"
    );
    assert_eq!(
        out,
        [&frame[..], &[0xaa]].concat(),
        "{name}: bytes differ, or one too many"
    );

    // Ethernet's padding changes nothing, except that a vendor's data have no length of their own.
    let padded = [bytes, &[0; 46]].concat();
    if bytes[5] < VENDOR_COMMAND_MIN {
        assert_eq!(Repr::parse(&padded), Ok(expected), "{name}: padded");
    }
    for len in 0..frame.len() {
        check_truncation(name, &frame[..len], expected);
    }
}

fn check_truncation(name: &str, cut: &[u8], expected: Repr<'_>) {
    let Ok((_, header_bytes)) = EthernetRepr::parse(cut) else {
        return;
    };
    let bytes = &cut[header_bytes..];
    match (Repr::parse(bytes), expected.body) {
        (Err(AoeError::Truncated { .. }), _) => {}
        (Ok(repr), _) if expected.error.is_some() => {
            // Fixed fields that an E response lacks count as zeros, and as nothing else.
            let padded = [bytes, &[0; 46]].concat();
            assert_eq!(Repr::parse(&padded), Ok(repr), "{name} at {}", cut.len());
            assert_eq!(
                (repr.error, repr.tag, repr.addr),
                (expected.error, expected.tag, expected.addr)
            );
        }
        (Ok(repr), Body::Vendor { data, .. }) => {
            let Body::Vendor { data: less, .. } = repr.body else {
                panic!("{name} became {repr:?}");
            };
            assert!(data.starts_with(less), "{name}");
        }
        (other, _) => panic!("{name} cut to {} bytes: {other:?}", cut.len()),
    }
}

#[test]
fn config_vectors() {
    let discover = Body::Config(ConfigRepr::request(ConfigCommand::Read, &[]));
    means(
        "linux_discover",
        Repr {
            addr: TargetAddr::BROADCAST,
            ..request(0, discover)
        },
    );
    means("vblade_config", response(0, Body::Config(VBLADE_CONFIG)));
    let advertisement = Repr {
        version: 0,
        ..response(0, Body::Config(VBLADE_CONFIG))
    };
    means("vblade_advertisement", advertisement);
    let etherdrive = ConfigRepr {
        buffer_count: 3,
        firmware: 0x3008,
        sectors_max: 0,
        string: b"foo\n",
        ..VBLADE_CONFIG
    };
    assert_eq!(etherdrive.sectors_per_command(), 2);
    let addr = TargetAddr { shelf: 10, slot: 9 };
    means(
        "etherdrive_config",
        Repr {
            addr,
            ..response(0, Body::Config(etherdrive))
        },
    );
    let refused = ConfigRepr {
        command: ConfigCommand::SetIfEmpty,
        string: b"hello",
        ..VBLADE_CONFIG
    };
    means(
        "vblade_set_refused",
        Repr {
            error: Some(ErrorCode::ConfigStringPresent),
            ..response(0x800f_1525, Body::Config(refused))
        },
    );
}

#[test]
fn ata_vectors() {
    means(
        "linux_identify",
        request(0x0001_dfdc, Body::Ata(AtaRepr::identify())),
    );
    means(
        "linux_read_ext",
        request(0x0002_dfdd, Body::Ata(AtaRepr::read_ext(Lba(8), 8))),
    );
    means(
        "vblade_read_ext",
        response(0x0002_dfdd, Body::Ata(REGISTERS)),
    );
    let reserved = Repr {
        error: Some(ErrorCode::TargetReserved),
        ..response(0x0003_dfde, Body::Ata(AtaRepr::read_ext(Lba(8), 1)))
    };
    means("vblade_read_reserved", reserved);
    let past = AtaRepr {
        error_feature: ata::ERROR_IDNF,
        count: 1,
        command_status: ata::STATUS_DRDY | ata::STATUS_ERR,
        lba_bytes: [0, 0, 2, 0, 0, 0],
        ..REGISTERS
    };
    assert_eq!(past.lba(), Lba(0x20000));
    means(
        "vblade_past_the_end",
        response(0x0004_dfdf, Body::Ata(past)),
    );
    let aborted = AtaRepr {
        error_feature: ata::ERROR_ABRT,
        command_status: ata::STATUS_DRDY | ata::STATUS_ERR,
        lba_bytes: [0; 6],
        ..REGISTERS
    };
    means(
        "vblade_flush_ext_aborted",
        Repr {
            addr: SHELF_0,
            ..response(0x4751_001f, Body::Ata(aborted))
        },
    );
    means(
        "hand_read_28_vlan",
        request(0x1234_5678, Body::Ata(AtaRepr::read28(Lba(0x9ab_cdef), 2))),
    );
}

#[test]
fn list_vectors() {
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    let mut scratch = [0xee; 64];
    let add = MaskDirectives::encode(&[(DirectiveCommand::Add, mac(0xb))], &mut scratch).unwrap();
    means(
        "hand_mask_add",
        request(0x8000_0002, Body::MacMask(MaskRepr::edit(add))),
    );
    assert_eq!(
        add.iter().collect::<Vec<_>>(),
        [(DirectiveCommand::Add, mac(0xb))]
    );
    let full = MaskRepr {
        command: MaskCommand::Edit,
        error: MaskError::ListFull,
        directive_count: 1,
        directives: MaskDirectives::EMPTY,
    };
    means(
        "hand_mask_list_full",
        response(0x8000_0002, Body::MacMask(full)),
    );
    // After an error there are no directives to emit, even if the caller left some.
    let mut out = [0xaa; 32];
    let left = MaskRepr {
        directives: add,
        ..full
    };
    assert_eq!(
        request(1, Body::MacMask(left)).emit(&mut out),
        Ok(AOE_HEADER_BYTES + 4)
    );
    means(
        "vblade_mask_empty",
        Repr {
            addr: SHELF_0,
            ..response(0x4751_0019, Body::MacMask(MaskRepr::read()))
        },
    );
    let read = ReserveRepr {
        command: ReserveCommand::Read,
        macs: MacList::EMPTY,
    };
    means(
        "vblade_reserve_empty",
        Repr {
            addr: SHELF_0,
            ..response(0x4751_001a, Body::Reserve(read))
        },
    );
    let mut scratch = [0xee; 64];
    let macs = MacList::encode(&[mac(0xb), mac(0xc)], &mut scratch).unwrap();
    assert!(macs.contains(mac(0xc)) && !macs.contains(mac(0xa)));
    assert_eq!(macs.iter().len(), 2);
    let set = ReserveRepr {
        command: ReserveCommand::Set,
        macs,
    };
    means("hand_reserve_set", request(0x8000_0003, Body::Reserve(set)));
}

#[test]
fn vendor_vector_behind_two_vlan_tags() {
    let body = Body::Vendor {
        command: 0xf0,
        data: &[1, 2, 3, 4, 5],
    };
    means("hand_vendor_qinq", request(0x8000_0004, body));
    let frame = frame("hand_vendor_qinq");
    let (ethernet, header_bytes) = EthernetRepr::parse(&frame).unwrap();
    assert_eq!(header_bytes, 22);
    let [outer, inner] = ethernet.vlans;
    assert_eq!(outer, VlanTag::new(1000, 7));
    assert_eq!(
        inner,
        VlanTag::new(101, 0).map(|tag| tag.with_drop_eligible(true))
    );
}

/// Says what the named vector's vendor arguments must mean, and has it checked: read, written, padded, and cut short.
fn vendor_means(name: &str, header: Repr<'_>, expected: SandrailRepr<'_>) {
    let frame = frame(name);
    let mut scratch = [0xaa; 128];
    let len_bytes = expected.emit(&mut scratch).unwrap();
    assert_eq!(len_bytes, expected.len_bytes(), "{name}");
    let data = &scratch[..len_bytes];
    let body = Body::Vendor {
        command: SANDRAIL_COMMAND,
        data,
    };
    means(name, Repr { body, ..header });
    assert_eq!(&frame[24..], data, "{name}");
    assert_eq!(SandrailRepr::parse(data), Ok(expected), "{name}");
    assert_eq!(SandrailRepr::parse(&scratch), Ok(expected), "{name}");
    for len in 0..len_bytes {
        let error = if len < 4 {
            SandrailError::NotSandrail
        } else {
            SandrailError::Truncated
        };
        assert_eq!(SandrailRepr::parse(&data[..len]), Err(error), "{name}");
    }
    let mut short = std::vec![0xaa; len_bytes - 1];
    assert!(expected.emit(&mut short).is_err());
    assert!(short.iter().all(|byte| *byte == 0xaa), "{name}");
}

const NOTHING: Body<'_> = Body::Vendor {
    command: SANDRAIL_COMMAND,
    data: &[],
};

#[test]
fn sandrail_vectors() {
    vendor_means(
        "sandrail_hello",
        request(0x8000_0005, NOTHING),
        SandrailRepr::request(SandrailOperation::Hello),
    );
    let attach = SandrailRepr {
        shard: 2,
        incarnation: 0x1122_3344_5566_7788,
        lifetime_ms: 2000,
        ..SandrailRepr::request(SandrailOperation::Attach)
    };
    vendor_means("sandrail_attach", request(0x8000_0006, NOTHING), attach);
    let attached = SandrailRepr {
        features: Features::SESSIONS,
        session: Session(0xbeef),
        epoch: 9,
        loss_mark: 0xa1a2_a3a4_a5a6_a7a8,
        ..attach
    };
    vendor_means(
        "sandrail_attached",
        response(0x8000_0006, NOTHING),
        attached,
    );
    let macs = [2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xc];
    let stale = SandrailRepr {
        operation: SandrailOperation::Reserve,
        status: SandrailStatus::StaleEpoch,
        shard: 0,
        features: Features::SESSIONS.union(Features::EPOCHS),
        incarnation: 0,
        session: Session::NONE,
        epoch: 10,
        macs: MacList::from_bytes(&macs).unwrap(),
        ..attached
    };
    vendor_means(
        "sandrail_stale_epoch",
        response(0x8000_0007, NOTHING),
        stale,
    );
    let write = AtaRepr::write_ext(Lba(8), 8).with_session(Session(0xbeef));
    assert_eq!(write.session(), Session(0xbeef));
    let void = Repr {
        error: Some(ErrorCode::SessionVoid),
        ..response(0x8000_0008, Body::Ata(write))
    };
    means("sandrail_write_void", void);
}

#[test]
fn other_vendors_and_versions_are_told_apart() {
    let mut data = frame("sandrail_attach").split_off(24);
    data[4] = 2;
    for len in 5..data.len() {
        let parsed = SandrailRepr::parse(&data[..len]);
        assert_eq!(parsed, Err(SandrailError::Version(2)), "whatever follows");
    }
    data[4] = 0;
    assert_eq!(SandrailRepr::parse(&data), Err(SandrailError::Version(0)));
    data[4] = SANDRAIL_VERSION;
    for at in 0..4 {
        let mut other = data.clone();
        other[at] ^= 0x20;
        assert_eq!(SandrailRepr::parse(&other), Err(SandrailError::NotSandrail));
    }
    data[22..24].copy_from_slice(&256_u16.to_be_bytes());
    data.resize(48 + 256 * 6, 0);
    assert_eq!(
        SandrailRepr::parse(&data),
        Err(SandrailError::TooManyMacs(256))
    );
    data[22..24].copy_from_slice(&255_u16.to_be_bytes());
    assert_eq!(SandrailRepr::parse(&data).unwrap().macs.len(), 255);
    data[22..24].fill(0);
    data[44..48].fill(0xff);
    assert!(
        SandrailRepr::parse(&data).is_ok(),
        "reserved bytes are not looked at"
    );
}

#[test]
fn features_are_what_both_ends_have() {
    let both = Features::SESSIONS.union(Features::EPOCHS);
    assert!(both.contains(Features::EPOCHS) && both.contains(Features::NONE));
    assert!(!Features::SESSIONS.contains(both));
    assert_eq!(
        both.intersection(Features(0xff02)),
        Features::EPOCHS,
        "those that one does not know fall away"
    );
}

#[test]
fn a_header_alone_is_read_whatever_follows() {
    let bytes = [0x24, 5, 0, 7, 3, 9, 1, 2, 3, 4];
    let header = Header::parse(&bytes).unwrap();
    let expected = Header {
        version: 2,
        response: false,
        error: Some(ErrorCode::UnsupportedVersion),
        addr: SHELF_7,
        command: 9,
        tag: Tag(0x0102_0304),
    };
    assert_eq!(header, expected);
    assert_eq!(Repr::parse(&bytes), Err(AoeError::UnknownCommand(9)));
    let mut out = [0xaa; 10];
    header.emit(&mut out);
    assert_eq!(out, bytes);
    assert!(matches!(
        Header::parse(&bytes[..9]),
        Err(AoeError::Truncated { .. })
    ));
}

#[test]
fn a_bare_header_is_enough_of_an_e_response_only() {
    let bare = [0x1c, 6, 0, 7, 3, 0, 0, 0, 0, 9];
    let repr = Repr::parse(&bare).unwrap();
    assert_eq!(
        (repr.error, repr.tag),
        (Some(ErrorCode::TargetReserved), Tag(9))
    );
    for flags in [0x18, 0x10, 0x14] {
        let mut bare = bare;
        bare[0] = flags;
        assert!(
            matches!(Repr::parse(&bare), Err(AoeError::Truncated { .. })),
            "flags {flags:#x}"
        );
    }
    // What has a length of its own must be there also in an E response.
    let lacks_string = [
        0x1c, 4, 0, 7, 3, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, b'h',
    ];
    let error = Repr::parse(&lacks_string).unwrap_err();
    assert_eq!(error.to_string(), "config string cut off: 1 of 5 bytes");
}

#[test]
fn commands_between_the_protocols_and_the_vendors_are_unknown() {
    for command in 0..=u8::MAX {
        let mut bytes = [0; 64];
        bytes[..6].copy_from_slice(&[0x10, 0, 0, 7, 3, command]);
        let parsed = Repr::parse(&bytes);
        if (4..VENDOR_COMMAND_MIN).contains(&command) {
            assert_eq!(parsed, Err(AoeError::UnknownCommand(command)));
        } else {
            assert_eq!(parsed.unwrap().body.command(), command);
        }
    }
}

#[test]
fn the_error_byte_counts_only_with_its_flag() {
    let mut bytes = frame("vblade_read_ext").split_off(14);
    bytes[1] = 6;
    assert_eq!(Repr::parse(&bytes).unwrap().error, None);
    bytes[0] |= 0x04;
    bytes[1] = 0;
    assert_eq!(
        Repr::parse(&bytes).unwrap().error,
        Some(ErrorCode::Other(0))
    );
}

#[test]
fn config_strings_are_held_to_1024_bytes() {
    let string = [b'x'; CONFIG_STRING_BYTES_MAX + 1];
    let mut out = [0; 1100];
    let with = |string| {
        request(
            1,
            Body::Config(ConfigRepr::request(ConfigCommand::ForceSet, string)),
        )
    };
    let longest = with(&string[..CONFIG_STRING_BYTES_MAX]);
    let len = longest.emit(&mut out).unwrap();
    assert_eq!(len, 18 + 1024);
    assert_eq!(Repr::parse(&out[..len]), Ok(longest));
    let error = with(&string).emit(&mut out).unwrap_err();
    assert_eq!(error.need_bytes, usize::MAX);
    assert_eq!(
        with(&[0; 70_000]).emit(&mut out).unwrap_err().need_bytes,
        usize::MAX
    );
    out[16..18].copy_from_slice(&1025_u16.to_be_bytes());
    assert_eq!(Repr::parse(&out), Err(AoeError::ConfigStringTooLong(1025)));
}

#[test]
fn lists_are_held_to_what_their_count_can_say() {
    assert_eq!(MacList::from_bytes(&[0; 7]), None);
    assert_eq!(MacList::from_bytes(&[0; 6 * 256]), None);
    assert_eq!(
        MacList::from_bytes(&[0; 6 * 255]).map(|list| list.len()),
        Some(255)
    );
    assert_eq!(MaskDirectives::from_bytes(&[0; 9]), None);
    assert_eq!(MaskDirectives::from_bytes(&[0; 8 * 256]), None);
    assert_eq!(
        MaskDirectives::from_bytes(&[0; 8 * 255]).map(|list| list.len()),
        Some(255)
    );
    let mut scratch = [0; 4096];
    assert_eq!(
        MacList::encode(&[MacAddr::ZERO; 256], &mut scratch)
            .unwrap_err()
            .need_bytes,
        usize::MAX
    );
    let directives = [(DirectiveCommand::Nop, MacAddr::ZERO); 256];
    assert_eq!(
        MaskDirectives::encode(&directives, &mut scratch)
            .unwrap_err()
            .need_bytes,
        usize::MAX
    );
    assert_eq!(
        MaskDirectives::encode(&directives[..2], &mut scratch[..15]),
        Err(BufferTooSmall {
            need_bytes: 16,
            have_bytes: 15
        })
    );
}

#[test]
fn nothing_is_written_to_a_buffer_too_small() {
    let repr = request(1, Body::Ata(AtaRepr::flush_ext()));
    let mut out = [0xaa; ATA_HEADER_BYTES - 1];
    assert_eq!(
        repr.emit(&mut out),
        Err(BufferTooSmall {
            need_bytes: 22,
            have_bytes: 21
        })
    );
    assert_eq!(out, [0xaa; ATA_HEADER_BYTES - 1]);
}

#[test]
fn constructors_fill_the_registers() {
    let write = AtaRepr::write_ext(Lba::MAX, 255);
    assert_eq!(
        (write.lba(), write.count, write.command_status),
        (Lba::MAX, 255, 0x34)
    );
    assert!(write.write && write.lba48 && !write.async_write);
    let write = AtaRepr::write28(Lba::MAX_28, 1);
    assert_eq!(
        (write.lba(), write.lba_bytes[3], write.command_status),
        (Lba::MAX_28, 0xef, 0x30)
    );
    assert!(write.write && !write.lba48);
    assert!(!AtaRepr::read28(Lba(0), 1).write && !AtaRepr::read_ext(Lba(0), 1).write);
    assert_eq!(AtaRepr::flush().command_status, 0xe7);
    assert_eq!(AtaRepr::check_power().count, 0);
    assert!(AtaRepr::flush_ext().lba48);
}

#[test]
#[should_panic(expected = "address exceeds 28 bits")]
fn an_address_is_never_cut_short() {
    let _ = AtaRepr::write28(Lba(1 << 28), 1);
}

#[test]
#[should_panic(expected = "address exceeds 48 bits")]
fn an_extended_address_is_never_cut_short() {
    let _ = AtaRepr::write_ext(Lba(1 << 48), 1);
}

#[test]
fn tags_keep_their_fields_apart() {
    let tag = Tag::new(0xb, 0xcd_ef01, 0x2);
    assert_eq!(tag, Tag(0xbcde_f012));
    assert_eq!(
        (tag.shard(), tag.request(), tag.copy()),
        (0xb, 0xcd_ef01, 0x2)
    );
    assert_eq!(tag.without_copy(), Tag(0xbcde_f010));
    // Each field is cut to its width and spills into none of the others.
    assert_eq!(Tag::new(0x10, 0, 0), Tag(0));
    assert_eq!(Tag::new(0, 1 << 24, 0), Tag(0));
    assert_eq!(Tag::new(0, 0, 16), Tag(0));
    assert_eq!(Tag::new(0xff, u32::MAX, 0xff), Tag(u32::MAX));
}

#[test]
fn shelf_and_slot_are_wildcards_each_on_its_own() {
    let at = |shelf, slot| TargetAddr { shelf, slot };
    for pattern in [SHELF_7, at(7, 0xff), at(0xffff, 3), TargetAddr::BROADCAST] {
        assert!(
            pattern.matches(SHELF_7) && SHELF_7.matches(pattern),
            "{pattern}"
        );
        assert_eq!(pattern.is_wildcard(), pattern != SHELF_7, "{pattern}");
    }
    for other in [at(7, 4), at(8, 3), at(0xffff, 4), at(8, 0xff)] {
        assert!(
            !other.matches(SHELF_7) && !SHELF_7.matches(other),
            "{other}"
        );
    }
}

#[test]
fn target_addresses_as_text() {
    assert_eq!(SHELF_7.to_string(), "e7.3");
    assert_eq!("e7.3".parse(), Ok(SHELF_7));
    assert_eq!("7.3".parse(), Ok(SHELF_7));
    assert_eq!("e65535.255".parse(), Ok(TargetAddr::BROADCAST));
    for bad in [
        "", "e", ".", "7", "7.", ".3", "7.256", "65536.3", "+7.3", "7.-3", "7.3.1", "ee7.3",
        "E7.3", " 7.3", "7.3p1",
    ] {
        assert_eq!(bad.parse::<TargetAddr>(), Err(ParseTargetError), "{bad:?}");
    }
}

#[test]
fn error_codes_both_ways() {
    for code in 0..=u8::MAX {
        assert_eq!(u8::from(ErrorCode::from(code)), code);
        assert_eq!(u8::from(MaskCommand::from(code)), code);
        assert_eq!(u8::from(MaskError::from(code)), code);
        assert_eq!(u8::from(DirectiveCommand::from(code)), code);
        assert_eq!(u8::from(ReserveCommand::from(code)), code);
        assert_eq!(u8::from(ConfigCommand::from(code)), code & 0x0f);
        assert_eq!(u8::from(SandrailOperation::from(code)), code);
        assert_eq!(u8::from(SandrailStatus::from(code)), code);
    }
    assert_eq!(ErrorCode::from(6).to_string(), "target reserved");
    assert_eq!(ErrorCode::from(0x80).to_string(), "session void");
    assert_eq!(ErrorCode::from(77).to_string(), "unknown error 77");
}

#[test]
fn payload_by_mtu() {
    let known = [
        (0, 0),
        (21, 0),
        (533, 0),
        (534, 1),
        (1500, 2),
        (4117, 7),
        (4118, 8),
        (4132, 8),
        (9000, 17),
    ];
    for (mtu_bytes, sectors) in known {
        assert_eq!(sectors_by_mtu(mtu_bytes), sectors, "MTU {mtu_bytes}");
    }
    for (mtu_bytes, sectors) in [(0, 0), (1500, 2), (4118, 7), (4132, 8), (9000, 17)] {
        assert_eq!(sectors_by_mtu_customary(mtu_bytes), sectors);
    }
    // A frame of so many sectors fills the MTU, but for less than a sector.
    for mtu_bytes in ATA_HEADER_BYTES..10_000 {
        let used = ATA_HEADER_BYTES + sectors_by_mtu(mtu_bytes) * 512;
        assert!(used <= mtu_bytes && mtu_bytes - used < 512);
    }
}

/// The seeds of the fuzz target `wire_frame` are these vectors; with `SANDRAIL_BLESS=1` the test writes them.
#[test]
fn fuzz_seeds_are_the_golden_vectors() {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/wire_frame");
    let bless = std::env::var_os("SANDRAIL_BLESS").is_some();
    if bless {
        std::fs::create_dir_all(&folder).unwrap();
    }
    for (name, _) in FRAMES {
        let path = folder.join(name);
        if bless {
            std::fs::write(&path, frame(name)).unwrap();
        }
        let seed =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            seed,
            frame(name),
            "{name}: run this test with SANDRAIL_BLESS=1"
        );
    }
    let seeds = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(seeds, FRAMES.len(), "a seed without a vector");
}
