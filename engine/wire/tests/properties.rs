//! What holds for all values: reading what was written gives the same, and no bytes make a codec panic.

use proptest::prelude::*;
use sandrail_wire::aoe::{
    AtaRepr, Birth, Body, ConfigCommand, ConfigRepr, DirectiveCommand, ErrorCode, Features, Header,
    MacList, MaskCommand, MaskDirectives, MaskError, MaskRepr, Repr, ReserveCommand, ReserveRepr,
    SandrailRepr, Session, VENDOR_COMMAND_MIN,
};
use sandrail_wire::ata::{Identify, IdentifyString};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::frame::SEGMENTS_MAX;
use sandrail_wire::{EtherType, FrameRef, Lba, MacAddr, Tag, TargetAddr, VlanTag};

/// A body with the bytes that it borrows.
#[derive(Clone, Debug)]
enum Owned {
    Ata(AtaRepr),
    Config(u16, u16, u8, u8, u8, Vec<u8>),
    Mask(u8, u8, Vec<(u8, [u8; 6])>),
    Reserve(u8, Vec<[u8; 6]>),
    Vendor(u8, Vec<u8>),
}

fn bodies() -> impl Strategy<Value = Owned> {
    let ata = any::<([bool; 4], u8, u8, u8, [u8; 6], [u8; 2])>().prop_map(
        |(
            [lba48, device_head, async_write, write],
            error_feature,
            count,
            command_status,
            lba_bytes,
            reserved,
        )| {
            Owned::Ata(AtaRepr {
                lba48,
                device_head,
                async_write,
                write,
                error_feature,
                count,
                command_status,
                lba_bytes,
                reserved,
            })
        },
    );
    let string = proptest::collection::vec(any::<u8>(), 0..=1024);
    let config = (any::<(u16, u16, u8)>(), 0..16_u8, 0..16_u8, string).prop_map(
        |((buffers, firmware, sectors), version, command, string)| {
            Owned::Config(buffers, firmware, sectors, version, command, string)
        },
    );
    let directives = proptest::collection::vec(any::<(u8, [u8; 6])>(), 0..=255);
    let mask = (any::<(u8, u8)>(), directives)
        .prop_map(|((command, error), directives)| Owned::Mask(command, error, directives));
    let macs = proptest::collection::vec(any::<[u8; 6]>(), 0..=255);
    let reserve = (any::<u8>(), macs).prop_map(|(command, macs)| Owned::Reserve(command, macs));
    let data = proptest::collection::vec(any::<u8>(), 0..100);
    let vendor = (VENDOR_COMMAND_MIN..=u8::MAX, data)
        .prop_map(|(command, data)| Owned::Vendor(command, data));
    prop_oneof![ata, config, mask, reserve, vendor]
}

fn body<'a>(owned: &'a Owned, scratch: &'a mut [u8]) -> Body<'a> {
    match owned {
        Owned::Ata(ata) => Body::Ata(*ata),
        Owned::Config(buffer_count, firmware, sectors_max, aoe_version, command, string) => {
            Body::Config(ConfigRepr {
                buffer_count: *buffer_count,
                firmware: *firmware,
                sectors_max: *sectors_max,
                aoe_version: *aoe_version,
                command: ConfigCommand::from(*command),
                string,
            })
        }
        Owned::Mask(command, error, directives) => {
            let directives: Vec<_> = directives
                .iter()
                .map(|(command, mac)| (DirectiveCommand::from(*command), MacAddr(*mac)))
                .collect();
            let directives = MaskDirectives::encode(&directives, scratch).expect("room");
            let error = MaskError::from(*error);
            let mut mask = MaskRepr::edit(directives);
            mask.command = MaskCommand::from(*command);
            mask.error = error;
            if error != MaskError::None {
                mask.directives = MaskDirectives::EMPTY;
            }
            Body::MacMask(mask)
        }
        Owned::Reserve(command, macs) => {
            let macs: Vec<_> = macs.iter().map(|mac| MacAddr(*mac)).collect();
            Body::Reserve(ReserveRepr {
                command: ReserveCommand::from(*command),
                macs: MacList::encode(&macs, scratch).expect("room"),
            })
        }
        Owned::Vendor(command, data) => Body::Vendor {
            command: *command,
            data,
        },
    }
}

fn vlan_tags() -> impl Strategy<Value = VlanTag> {
    (
        0..=VlanTag::ID_MAX,
        0..=VlanTag::PRIORITY_MAX,
        any::<bool>(),
    )
        .prop_map(|(id, priority, drop_eligible)| {
            VlanTag::new(id, priority)
                .expect("within the limits")
                .with_drop_eligible(drop_eligible)
        })
}

/// A string of IDENTIFY data, cut to its field.
fn text<const N: usize>(text: &str) -> IdentifyString<N> {
    IdentifyString::new(&text[..text.len().min(N)]).expect("printable")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn aoe_is_read_as_it_was_written(
        owned in bodies(),
        version in 0..16_u8,
        response in any::<bool>(),
        error in any::<Option<u8>>(),
        (shelf, slot, tag) in any::<(u16, u8, u32)>(),
        padding in 0..46_usize,
    ) {
        let mut scratch = [0xee; 255 * 8];
        let repr = Repr {
            version,
            response,
            error: error.map(ErrorCode::from),
            addr: TargetAddr { shelf, slot },
            tag: Tag(tag),
            body: body(&owned, &mut scratch),
        };
        let mut out = vec![0; repr.len_bytes() + padding];
        let len_bytes = repr.emit(&mut out).unwrap();
        prop_assert_eq!(len_bytes, repr.len_bytes());
        let is_vendor = matches!(owned, Owned::Vendor(..));
        let given = if is_vendor { &out[..len_bytes] } else { &out[..] };
        prop_assert_eq!(Repr::parse(given), Ok(repr));
        prop_assert!(repr.emit(&mut vec![0; len_bytes - 1]).is_err());
    }

    #[test]
    fn ethernet_is_read_as_it_was_written(
        (dst, src) in any::<([u8; 6], [u8; 6])>(),
        outer in vlan_tags(),
        inner in vlan_tags(),
        tags in 0..3_usize,
        ethertype in any::<u16>(),
    ) {
        let ethertype = EtherType(ethertype);
        prop_assume!(!ethertype.is_vlan_tpid());
        let vlans = [(tags > 0).then_some(outer), (tags > 1).then_some(inner)];
        let repr = EthernetRepr { dst: MacAddr(dst), src: MacAddr(src), vlans, ethertype };
        let mut out = [0xaa; 30];
        let header_bytes = repr.emit(&mut out).unwrap();
        prop_assert_eq!(header_bytes, 14 + 4 * tags);
        prop_assert_eq!(EthernetRepr::parse(&out), Ok((repr, header_bytes)));
    }

    #[test]
    fn identify_is_read_as_it_was_written(
        sectors in 0..=(1_u64 << 48),
        [lba48, flush, flush_ext, write_cache, power_management] in any::<[bool; 5]>(),
        trim_blocks_max in any::<Option<u16>>(),
        features in any::<Option<u16>>(),
        model in "[ -~]{0,40}",
        serial in "[ -~]{0,20}",
        firmware in "[ -~]{0,8}",
    ) {
        let disk = Identify {
            sectors: if lba48 { sectors } else { sectors.min(Lba::MAX_28.0) },
            lba48,
            flush,
            flush_ext,
            write_cache,
            power_management,
            trim_blocks_max,
            sandrail: features.map(|bits| Features(bits.into())),
            model: text(&model),
            serial: text(&serial),
            firmware: text(&firmware),
        };
        let mut data = [0xaa; 512];
        disk.emit(&mut data);
        prop_assert_eq!(Identify::parse(&data), Ok(disk));
        prop_assert_eq!(disk.model.to_string(), model.trim_matches(' '));
    }

    #[test]
    fn sandrails_command_is_read_as_it_was_written(
        (operation, status, shard, features) in any::<(u8, u8, u8, u32)>(),
        (incarnation, session, epoch, loss_mark) in any::<(u64, u16, u64, u64)>(),
        (lifetime_ms, birth) in any::<(u32, u32)>(),
        macs in proptest::collection::vec(any::<[u8; 6]>(), 0..=255),
        padding in 0..46_usize,
    ) {
        let macs = macs.concat();
        let repr = SandrailRepr {
            operation: operation.into(),
            status: status.into(),
            shard,
            features: Features(features),
            incarnation,
            session: Session(session),
            epoch,
            loss_mark,
            lifetime_ms,
            birth: Birth(birth),
            macs: MacList::from_bytes(&macs).expect("whole addresses"),
        };
        let mut out = vec![0xaa; repr.len_bytes() + padding];
        let len_bytes = repr.emit(&mut out).unwrap();
        prop_assert_eq!(len_bytes, repr.len_bytes());
        prop_assert_eq!(SandrailRepr::parse(&out), Ok(repr));
        prop_assert!(SandrailRepr::parse(&out[..len_bytes - 1]).is_err());
        prop_assert!(repr.emit(&mut vec![0; len_bytes - 1]).is_err());
    }

    #[test]
    fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = EthernetRepr::parse(&bytes);
        let _ = SandrailRepr::parse(&bytes);
        let _ = SandrailRepr::parse(&[b"SRAL\x01", &bytes[..]].concat());
        if let Ok(repr) = Repr::parse(&bytes) {
            let header = Header::parse(&bytes).unwrap();
            prop_assert_eq!((header.addr, header.tag, header.error), (repr.addr, repr.tag, repr.error));
            prop_assert_eq!(header.command, repr.body.command());
            let mut out = [0; 10];
            header.emit(&mut out);
            prop_assert_eq!(Header::parse(&out), Ok(header));
        }
    }

    /// Random bytes seldom get past the command; these always do.
    #[test]
    fn no_arguments_are_too_much(
        flags in any::<u8>(),
        command in prop_oneof![0..4_u8, VENDOR_COMMAND_MIN..=u8::MAX],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = vec![flags, 0, 0, 7, 3, command];
        bytes.extend(rest);
        if let Ok(repr) = Repr::parse(&bytes) {
            let mut out = vec![0; 4096];
            let len_bytes = repr.emit(&mut out).unwrap();
            prop_assert_eq!(Repr::parse(&out[..len_bytes]), Ok(repr));
        }
    }

    #[test]
    fn no_identify_data_are_too_much(
        data in proptest::collection::vec(any::<u8>(), 512),
        fixed_disk in any::<bool>(),
        checksum in any::<bool>(),
    ) {
        let mut data: [u8; 512] = data.try_into().unwrap();
        if fixed_disk {
            data[1] &= 0x7f;
        }
        data[510] = if checksum { 0xa5 } else { 0 };
        if let Ok(disk) = Identify::parse(&data) {
            let mut out = [0; 512];
            disk.emit(&mut out);
            prop_assert_eq!(Identify::parse(&out), Ok(disk));
        }
    }

    /// The oracle is the frame in one piece.
    #[test]
    fn segments_make_no_difference(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        mut cuts in proptest::collection::vec(0..300_usize, 0..SEGMENTS_MAX),
        offset in 0..320_usize,
        wanted in 0..320_usize,
    ) {
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
        cuts.sort_unstable();
        let mut start = cuts.first().copied().unwrap_or(bytes.len());
        let mut frame = FrameRef::new(&bytes[..start]);
        let ends = cuts.iter().skip(1).copied().chain((!cuts.is_empty()).then_some(bytes.len()));
        for end in ends {
            frame.push(&bytes[start..end]).unwrap();
            start = end;
        }
        prop_assert_eq!(frame.segments().len(), cuts.len() + 1);
        prop_assert_eq!(frame.segments().concat(), &bytes[..]);
        prop_assert_eq!(frame.len_bytes(), bytes.len());
        prop_assert_eq!(frame.head(), frame.segments()[0]);
        let mut out = vec![0; wanted];
        match bytes.get(offset..offset + wanted) {
            Some(expected) => {
                prop_assert!(frame.copy_to(offset, &mut out));
                prop_assert_eq!(out, expected);
            }
            None => prop_assert!(!frame.copy_to(offset, &mut out)),
        }
        prop_assert!(!frame.copy_to(usize::MAX, &mut [0]));
    }
}

#[test]
fn a_fifth_segment_is_refused() {
    let mut frame = FrameRef::new(b"a");
    for segment in [b"b", b"c", b"d"] {
        frame.push(segment).expect("room");
    }
    assert!(frame.push(b"e").is_err());
    assert_eq!(frame.segments().concat(), b"abcd");
    assert_eq!(frame.len_bytes(), 4);
}
