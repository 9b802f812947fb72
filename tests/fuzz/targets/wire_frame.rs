//! Ethernet and AoE headers: whatever is understood, is written again with the same meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandrail_wire::aoe::{Body, Repr, SandrailRepr};
use sandrail_wire::ethernet::{EthernetRepr, HEADER_BYTES_MAX};

/// More than the longest body, a MAC mask of 255 directives.
const OUT_BYTES: usize = HEADER_BYTES_MAX + 4096;

fuzz_target!(|frame: &[u8]| {
    let mut out = [0xaa; OUT_BYTES];
    let Ok((ethernet, header_bytes)) = EthernetRepr::parse(frame) else {
        return;
    };
    assert_eq!(ethernet.emit(&mut out), Ok(header_bytes));
    assert_eq!(EthernetRepr::parse(&out), Ok((ethernet, header_bytes)));

    // The ethertype is not looked at: it would only keep most inputs from the parser that matters.
    let bytes = &frame[header_bytes..];
    let Ok(repr) = Repr::parse(bytes) else {
        return;
    };
    let len_bytes = repr.len_bytes();
    if len_bytes > OUT_BYTES {
        assert!(matches!(repr.body, Body::Vendor { .. }));
        assert!(repr.emit(&mut out).is_err());
        return;
    }
    assert_eq!(repr.emit(&mut out), Ok(len_bytes));
    assert_eq!(Repr::parse(&out[..len_bytes]), Ok(repr));
    assert!(repr.emit(&mut out[..len_bytes - 1]).is_err());
    assert!(
        len_bytes <= bytes.len() || repr.error.is_some(),
        "more was read than is there"
    );
    walk(&repr);
});

/// Looks at every part of a body that has code of its own.
fn walk(repr: &Repr<'_>) {
    match repr.body {
        Body::Ata(ata) => {
            assert!(ata.lba() <= sandrail_wire::Lba::MAX);
        }
        Body::MacMask(mask) => assert_eq!(mask.directives.iter().count(), mask.directives.len()),
        Body::Reserve(reserve) => {
            assert!(reserve.macs.iter().all(|mac| reserve.macs.contains(mac)));
        }
        Body::Vendor { data, .. } => {
            if let Ok(ours) = SandrailRepr::parse(data) {
                let mut out = [0xaa; 48 + 255 * 6];
                let len_bytes = ours.emit(&mut out).expect("room for the longest list");
                assert!(len_bytes <= data.len(), "more was read than is there");
                assert_eq!(SandrailRepr::parse(&out[..len_bytes]), Ok(ours));
            }
        }
        Body::Config(_) => {}
    }
}
