//! Frames that one shard hears and all must know of.
//!
//! A target's advertisement (a config response with tag 0 to everybody) is evidence of a restart (S7), and belongs to
//! no shard's tag: whichever shard's queue it falls into hands it to its siblings. A forwarded frame is not forwarded
//! again. Where several shards hear the same one, each takes it more than once, which is as good as once.

use sandrail_proto::aoe::initiator::InterfaceId;
use sandrail_wire::FrameRef;
use sandrail_wire::aoe::{AOE_HEADER_BYTES, CONFIG_STRING_BYTES_MAX};
use sandrail_wire::ethernet::{EtherType, HEADER_BYTES_MAX};

/// Frames that may wait in a shard's inbox. It empties it every turn; what does not fit is counted.
pub(crate) const FORWARD_FRAMES: usize = 64;

/// The longest config response with its Ethernet header: 22 + 10 + 8 + 1024 bytes.
const FRAME_BYTES_MAX: usize = HEADER_BYTES_MAX + AOE_HEADER_BYTES + 8 + CONFIG_STRING_BYTES_MAX;

const FLAG_RESPONSE: u8 = 0x08;
const COMMAND_CONFIG: u8 = 1;

/// A frame by value.
#[derive(Clone)]
pub(crate) struct SmallFrame {
    pub(crate) interface: InterfaceId,
    len_bytes: usize,
    bytes: [u8; FRAME_BYTES_MAX],
}

impl std::fmt::Debug for SmallFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmallFrame")
            .field("interface", &self.interface)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

impl SmallFrame {
    /// A copy of `frame`'s first bytes, up to the longest that means anything.
    pub(crate) fn copy(interface: InterfaceId, frame: &FrameRef<'_>) -> Self {
        let mut bytes = [0; FRAME_BYTES_MAX];
        let len_bytes = frame.len_bytes().min(FRAME_BYTES_MAX);
        if !frame.copy_to(0, &mut bytes[..len_bytes]) {
            return Self {
                interface,
                len_bytes: 0,
                bytes,
            };
        }
        Self {
            interface,
            len_bytes,
            bytes,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len_bytes]
    }
}

/// Whether the frame is for every shard: a broadcast AoE config response that answers nobody's question.
pub(crate) fn concerns_all(frame: &FrameRef<'_>) -> bool {
    let head = frame.head();
    // Six bytes decide for nearly all frames.
    if !head.starts_with(&[0xff; 6]) {
        return false;
    }
    let mut offset = 12;
    for _ in 0..2 {
        if ethertype(head, offset).is_some_and(EtherType::is_vlan_tpid) {
            offset += 4;
        }
    }
    if ethertype(head, offset) != Some(EtherType::AOE) {
        return false;
    }
    let Some(aoe) = head.get(offset + 2..offset + 2 + AOE_HEADER_BYTES) else {
        return false;
    };
    aoe[0] & FLAG_RESPONSE != 0 && aoe[5] == COMMAND_CONFIG && aoe[6..10] == [0; 4]
}

fn ethertype(head: &[u8], offset: usize) -> Option<EtherType> {
    let bytes = head.get(offset..offset + 2)?;
    Some(EtherType(u16::from_be_bytes([bytes[0], bytes[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// vblade's advertisement: version 0, shelf 7, slot 3.
    const ADVERTISEMENT: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x0a, 0x88, 0xa2, 0x08, 0, 0, 7, 3,
        1, 0, 0, 0, 0, 0, 0x10, 0x40, 0x19, 0x11, 0x10, 0, 0,
    ];

    fn concerns(bytes: &[u8]) -> bool {
        concerns_all(&FrameRef::new(bytes))
    }

    #[test]
    fn an_advertisement_concerns_all_with_and_without_vlan_tags() {
        assert!(concerns(&ADVERTISEMENT));
        let mut tagged = ADVERTISEMENT.to_vec();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert!(concerns(&tagged));
        tagged.splice(12..12, [0x88, 0xa8, 0, 9]);
        assert!(concerns(&tagged));
        tagged.splice(12..12, [0x88, 0xa8, 0, 9]);
        assert!(!concerns(&tagged), "three tags are none of ours");
    }

    #[test]
    fn other_frames_concern_nobody_else() {
        for (place, value) in [
            (0, 0x02),  // to one station
            (13, 0x00), // another ethertype
            (14, 0x10), // a request
            (19, 0x00), // an ATA response
            (23, 0x01), // an answer to somebody's tag
        ] {
            let mut frame = ADVERTISEMENT;
            frame[place] = value;
            assert!(!concerns(&frame), "byte {place}");
        }
        for len in 0..24 {
            assert!(!concerns(&ADVERTISEMENT[..len]), "cut off at {len}");
        }
    }

    #[test]
    fn a_copy_is_the_frame() {
        let copy = SmallFrame::copy(InterfaceId(1), &FrameRef::new(&ADVERTISEMENT));
        assert_eq!(copy.bytes(), ADVERTISEMENT);
        let long = vec![7; 9000];
        assert_eq!(
            SmallFrame::copy(InterfaceId(0), &FrameRef::new(&long)).bytes(),
            &long[..FRAME_BYTES_MAX]
        );
    }
}
