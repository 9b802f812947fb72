//! Ethernet II headers with none, one or two VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).
//!
//! Under AF_XDP nobody strips the tags for us, so that they are part of the header here.

use core::fmt;
use core::str::FromStr;

use crate::{BufferTooSmall, claim};

/// Bytes of a header without a tag; each tag adds [`VLAN_TAG_BYTES`].
pub const HEADER_BYTES: usize = 14;
/// Bytes of one VLAN tag: its TPID and its control information.
pub const VLAN_TAG_BYTES: usize = 4;
/// The longest header that is understood: two VLAN tags.
pub const HEADER_BYTES_MAX: usize = HEADER_BYTES + 2 * VLAN_TAG_BYTES;

/// Address of an Ethernet station.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Every station of the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No station: what an unset field holds.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether it names a group of stations; broadcast is one.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether it names every station.
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a MAC address: six pairs of hexadecimal digits with `:` or `-` between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: expected six pairs of hex digits such as 02:00:00:00:00:0a")
    }
}

impl core::error::Error for ParseMacError {}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text: &[u8; 17] = text.as_bytes().try_into().map_err(|_| ParseMacError)?;
        let separator = text[2];
        if separator != b':' && separator != b'-' {
            return Err(ParseMacError);
        }
        let mut octets = [0; 6];
        for (octet, group) in octets.iter_mut().zip(text.chunks(3)) {
            if group.get(2).is_some_and(|&byte| byte != separator) {
                return Err(ParseMacError);
            }
            *octet = hex_digit(group[0])? << 4 | hex_digit(group[1])?;
        }
        Ok(Self(octets))
    }
}

const fn hex_digit(byte: u8) -> Result<u8, ParseMacError> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(ParseMacError),
    }
}

/// What follows the Ethernet header. Values under 0x0600 are lengths (IEEE 802.3) and mean nothing to us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// ATA over Ethernet.
    pub const AOE: Self = Self(0x88a2);
    /// Sandrail's lock frames: "local experimental 1" of IEEE 802, reserved for them. No codec speaks it yet.
    pub const SANDRAIL_LOCK: Self = Self(0x88b5);
    /// TPID of a customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// TPID of a service VLAN tag, the outer of two (IEEE 802.1ad).
    pub const QINQ: Self = Self(0x88a8);

    /// Whether it announces a VLAN tag rather than a payload.
    #[must_use]
    pub const fn is_vlan_tpid(self) -> bool {
        self.0 == Self::VLAN.0 || self.0 == Self::QINQ.0
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04x}", self.0)
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Control information of one VLAN tag: priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanTag {
    control: u16,
}

impl VlanTag {
    /// The greatest id that fits the field. 0 means "priority only", 4095 is reserved; switches may refuse both.
    pub const ID_MAX: u16 = 0x0fff;
    /// The greatest priority.
    pub const PRIORITY_MAX: u8 = 7;

    const DROP_ELIGIBLE: u16 = 0x1000;

    /// A tag that is not drop eligible; `None` when `id` or `priority` does not fit its field.
    #[must_use]
    pub const fn new(id: u16, priority: u8) -> Option<Self> {
        if id > Self::ID_MAX || priority > Self::PRIORITY_MAX {
            return None;
        }
        Some(Self {
            control: (priority as u16) << 13 | id,
        })
    }

    /// The same tag, marked as the first to be dropped under congestion, or not.
    #[must_use]
    pub const fn with_drop_eligible(self, drop_eligible: bool) -> Self {
        let control = self.control & !Self::DROP_ELIGIBLE;
        Self {
            control: if drop_eligible {
                control | Self::DROP_ELIGIBLE
            } else {
                control
            },
        }
    }

    /// VLAN id, 0 to 4095.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.control & Self::ID_MAX
    }

    /// Priority code point, 0 to 7.
    #[must_use]
    pub const fn priority(self) -> u8 {
        self.control.to_be_bytes()[0] >> 5
    }

    /// Whether switches may drop the frame first.
    #[must_use]
    pub const fn drop_eligible(self) -> bool {
        self.control & Self::DROP_ELIGIBLE != 0
    }
}

/// Meaning of an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetRepr {
    /// Receiving station or group.
    pub dst: MacAddr,
    /// Sending station.
    pub src: MacAddr,
    /// Tags, the outer first: `[None, None]`, `[Some, None]` or `[Some, Some]`.
    pub vlans: [Option<VlanTag>; 2],
    /// What follows the header.
    pub ethertype: EtherType,
}

/// Why bytes are not an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EthernetError {
    /// The frame ends inside the header.
    Truncated {
        /// Bytes that the header takes, as far as it could be read.
        need_bytes: usize,
        /// Bytes that are there.
        have_bytes: usize,
    },
    /// More than two VLAN tags.
    TooManyVlanTags,
}

impl fmt::Display for EthernetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated {
                need_bytes,
                have_bytes,
            } => write!(
                f,
                "Ethernet header cut off: {have_bytes} of {need_bytes} bytes"
            ),
            Self::TooManyVlanTags => f.write_str("Ethernet header has more than two VLAN tags"),
        }
    }
}

impl core::error::Error for EthernetError {}

impl EthernetRepr {
    /// Reads the header at the start of `frame`; also returns its length: 14, 18 or 22 bytes.
    ///
    /// Both TPIDs, 0x8100 and 0x88A8, are taken in either place, since switches and drivers disagree on which to use.
    ///
    /// # Errors
    /// [`EthernetError`] when the frame ends inside the header or has more than two tags.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<(Self, usize), EthernetError> {
        let truncated = |need_bytes| EthernetError::Truncated {
            need_bytes,
            have_bytes: frame.len(),
        };
        let (head, mut rest) = frame
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(truncated(HEADER_BYTES))?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *head;
        let mut ethertype = EtherType(u16::from_be_bytes([t0, t1]));
        let mut header_bytes = HEADER_BYTES;
        let mut vlans = [None; 2];
        for vlan in &mut vlans {
            if !ethertype.is_vlan_tpid() {
                break;
            }
            header_bytes += VLAN_TAG_BYTES;
            let (&[c0, c1, t0, t1], after) = rest
                .split_first_chunk::<VLAN_TAG_BYTES>()
                .ok_or(truncated(header_bytes))?;
            *vlan = Some(VlanTag {
                control: u16::from_be_bytes([c0, c1]),
            });
            ethertype = EtherType(u16::from_be_bytes([t0, t1]));
            rest = after;
        }
        if ethertype.is_vlan_tpid() {
            return Err(EthernetError::TooManyVlanTags);
        }
        let repr = Self {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            vlans,
            ethertype,
        };
        Ok((repr, header_bytes))
    }

    /// Bytes that [`emit`](Self::emit) writes: 14, 18 or 22.
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_BYTES + VLAN_TAG_BYTES * self.vlans.iter().flatten().count()
    }

    /// Writes the header to the start of `out` and returns its length.
    ///
    /// The outer of two tags gets TPID 0x88A8; the inner one, or a single one, 0x8100.
    ///
    /// # Errors
    /// [`BufferTooSmall`], with nothing written.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let header_bytes = self.header_len();
        let out = claim(out, header_bytes)?;
        out[0..6].copy_from_slice(&self.dst.0);
        out[6..12].copy_from_slice(&self.src.0);
        let mut at = 12;
        for vlan in self.vlans.iter().flatten() {
            let is_outer_of_two = header_bytes == HEADER_BYTES_MAX && at == 12;
            let tpid = if is_outer_of_two {
                EtherType::QINQ
            } else {
                EtherType::VLAN
            };
            out[at..at + 2].copy_from_slice(&tpid.0.to_be_bytes());
            out[at + 2..at + 4].copy_from_slice(&vlan.control.to_be_bytes());
            at += VLAN_TAG_BYTES;
        }
        out[at..at + 2].copy_from_slice(&self.ethertype.0.to_be_bytes());
        Ok(header_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    const TAGGED: [u8; 18] = [
        2, 0, 0, 0, 0, 0xa, 2, 0, 0, 0, 0, 0xc, 0x81, 0, 0x60, 0x64, 0x88, 0xa2,
    ];

    fn repr(vlans: [Option<VlanTag>; 2]) -> EthernetRepr {
        EthernetRepr {
            dst: MacAddr([2, 0, 0, 0, 0, 0xa]),
            src: MacAddr([2, 0, 0, 0, 0, 0xc]),
            vlans,
            ethertype: EtherType::AOE,
        }
    }

    #[test]
    fn one_tag() {
        let expected = repr([VlanTag::new(100, 3), None]);
        assert_eq!(EthernetRepr::parse(&TAGGED), Ok((expected, 18)));
        let mut out = [0; 18];
        assert_eq!(expected.emit(&mut out), Ok(18));
        assert_eq!(out, TAGGED);
    }

    #[test]
    fn either_tpid_in_either_place() {
        let expected = repr([VlanTag::new(1, 0), VlanTag::new(2, 7)]);
        let mut out = [0; 22];
        assert_eq!(expected.emit(&mut out), Ok(22));
        assert_eq!(out[12..], [0x88, 0xa8, 0, 1, 0x81, 0, 0xe0, 2, 0x88, 0xa2]);
        for tpids in [
            [0x8100_u16, 0x8100],
            [0x88a8, 0x88a8],
            [0x8100, 0x88a8],
            [0x88a8, 0x8100],
        ] {
            out[12..14].copy_from_slice(&tpids[0].to_be_bytes());
            out[16..18].copy_from_slice(&tpids[1].to_be_bytes());
            assert_eq!(EthernetRepr::parse(&out), Ok((expected, 22)), "{tpids:x?}");
        }
        let mut single = TAGGED;
        single[12..14].copy_from_slice(&0x88a8_u16.to_be_bytes());
        assert_eq!(
            EthernetRepr::parse(&single),
            EthernetRepr::parse(&TAGGED),
            "a single service tag"
        );
    }

    #[test]
    fn a_third_tag_is_refused() {
        let mut frame = [0; 64];
        for at in [12, 16, 20] {
            frame[at..at + 2].copy_from_slice(&[0x81, 0]);
        }
        assert_eq!(
            EthernetRepr::parse(&frame),
            Err(EthernetError::TooManyVlanTags)
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..TAGGED.len() {
            let need_bytes = if len < 14 { 14 } else { 18 };
            let error = EthernetError::Truncated {
                need_bytes,
                have_bytes: len,
            };
            assert_eq!(EthernetRepr::parse(&TAGGED[..len]), Err(error));
        }
        let mut short = [0xaa; 17];
        let tagged = repr([VlanTag::new(0, 0), None]);
        assert_eq!(
            tagged.emit(&mut short),
            Err(BufferTooSmall {
                need_bytes: 18,
                have_bytes: 17
            })
        );
        assert_eq!(short, [0xaa; 17]);
    }

    #[test]
    fn tags_are_held_to_their_fields() {
        assert_eq!(VlanTag::new(4096, 0), None);
        assert_eq!(VlanTag::new(0, 8), None);
        let tag = VlanTag::new(4095, 7).unwrap().with_drop_eligible(true);
        assert_eq!(
            (tag.id(), tag.priority(), tag.drop_eligible()),
            (4095, 7, true)
        );
        assert_eq!(
            tag.with_drop_eligible(false),
            VlanTag::new(4095, 7).unwrap()
        );
    }

    #[test]
    fn addresses_as_text() {
        let mac = MacAddr([0x02, 0, 0xab, 0xcd, 0xef, 0x0a]);
        assert_eq!(mac.to_string(), "02:00:ab:cd:ef:0a");
        assert_eq!("02:00:ab:cd:ef:0a".parse(), Ok(mac));
        assert_eq!("02-00-AB-CD-EF-0A".parse(), Ok(mac));
        for bad in [
            "",
            "02:00:ab:cd:ef",
            "02:00:ab:cd:ef:0",
            "02:00:ab:cd:ef:0a:",
            "02:00:ab:cd:ef-0a",
            "02.00.ab.cd.ef.0a",
            "02:00:ab:cd:ef:0g",
            "2:0:ab:cd:ef:0a:00",
            "+2:00:ab:cd:ef:0a",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(ParseMacError), "{bad:?}");
        }
    }

    #[test]
    fn groups() {
        assert!(MacAddr::BROADCAST.is_broadcast() && MacAddr::BROADCAST.is_multicast());
        let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        assert!(group.is_multicast() && !group.is_broadcast());
        assert!(!MacAddr::ZERO.is_multicast() && !MacAddr([2, 0, 0, 0, 0, 1]).is_multicast());
    }
}
