//! Which core a frame belongs to: the home of its shelf.slot.

use sandrail_wire::aoe::Header;
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, FrameRef, TargetAddr};

/// Where a frame is to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// By this core.
    Core(usize),
    /// By every core: it names several targets.
    All,
    /// By whoever received it: it names none of ours, or makes no sense, and will only be counted.
    Here,
}

/// Homes of all targets, sorted by address.
#[derive(Clone, Debug)]
pub(crate) struct Homes(Box<[(TargetAddr, usize)]>);

impl Homes {
    pub(crate) fn new(homes: impl IntoIterator<Item = (TargetAddr, usize)>) -> Self {
        let mut homes: Box<[_]> = homes.into_iter().collect();
        homes.sort_unstable();
        Self(homes)
    }

    /// The core that a frame is for.
    pub(crate) fn route(&self, frame: &FrameRef<'_>) -> Route {
        let Ok((repr, len_bytes)) = EthernetRepr::parse(frame.head()) else {
            return Route::Here;
        };
        if repr.ethertype != EtherType::AOE {
            return Route::Here;
        }
        let Some(Ok(header)) = frame.head().get(len_bytes..).map(Header::parse) else {
            return Route::Here;
        };
        match header.addr {
            _ if header.response => Route::Here,
            addr if addr.is_wildcard() => Route::All,
            addr => self
                .0
                .binary_search_by_key(&addr, |(addr, _)| *addr)
                .map_or(Route::Here, |place| Route::Core(self.0[place].1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config query to `shelf.slot`, untagged.
    fn query(shelf: u16, slot: u8) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 0x0a, 0x88, 0xa2, 0x10, 0]);
        frame.extend(shelf.to_be_bytes());
        frame.extend([slot, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame
    }

    fn route(frame: &[u8]) -> Route {
        let at = |shelf, slot| TargetAddr { shelf, slot };
        Homes::new([(at(7, 4), 1), (at(7, 3), 0), (at(1, 0), 2)]).route(&FrameRef::new(frame))
    }

    #[test]
    fn a_frame_goes_to_the_home_of_its_target() {
        assert_eq!(route(&query(7, 3)), Route::Core(0));
        assert_eq!(route(&query(7, 4)), Route::Core(1));
        assert_eq!(route(&query(1, 0)), Route::Core(2));
        assert_eq!(route(&query(7, 5)), Route::Here, "nobody's");
        for (shelf, slot) in [(0xffff, 0xff), (7, 0xff), (0xffff, 3)] {
            assert_eq!(route(&query(shelf, slot)), Route::All);
        }
        let mut tagged = query(7, 4);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(route(&tagged), Route::Core(1));
    }

    #[test]
    fn what_makes_no_sense_stays_where_it_came_in() {
        let frame = query(7, 4);
        for len in 0..24 {
            assert_eq!(route(&frame[..len]), Route::Here, "cut off at {len}");
        }
        let mut response = frame.clone();
        response[14] |= 0x08;
        assert_eq!(route(&response), Route::Here);
        let mut ip = frame;
        ip[12..14].copy_from_slice(&[0x08, 0]);
        assert_eq!(route(&ip), Route::Here);
    }
}
