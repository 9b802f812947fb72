//! Frames that one core hands to another: bounded rings of preallocated memory, no locks.
//!
//! A frame is copied into a box from the receiver's pool, and the box goes back to the pool once it was looked at. An
//! empty pool is a full ring: the frame is dropped and counted, and the initiator sends it again.

use crossbeam_queue::ArrayQueue;
use sandrail_link::HEADER_BYTES_MAX;
use sandrail_wire::FrameRef;

/// A frame by value.
#[derive(Debug)]
pub(crate) struct CrossFrame {
    /// The link that it came by, or is to leave by.
    pub(crate) link: u8,
    header_bytes: usize,
    len_bytes: usize,
    bytes: Box<[u8]>,
}

impl CrossFrame {
    /// All of it, as one piece.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len_bytes]
    }

    /// Header and payload, as they were put in.
    pub(crate) fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes().split_at(self.header_bytes)
    }

    fn fill(&mut self, link: u8, header: &[u8], payload: &[u8]) -> bool {
        let len_bytes = header.len() + payload.len();
        let Some(room) = self.bytes.get_mut(..len_bytes) else {
            return false;
        };
        let (head, tail) = room.split_at_mut(header.len());
        head.copy_from_slice(header);
        tail.copy_from_slice(payload);
        (self.link, self.header_bytes, self.len_bytes) = (link, header.len(), len_bytes);
        true
    }

    fn fill_received(&mut self, link: u8, frame: &FrameRef<'_>) -> bool {
        let len_bytes = frame.len_bytes();
        let Some(room) = self.bytes.get_mut(..len_bytes) else {
            return false;
        };
        (self.link, self.header_bytes, self.len_bytes) = (link, 0, len_bytes);
        frame.copy_to(0, room)
    }
}

/// A ring into one core, or out of one link.
#[derive(Debug)]
pub(crate) struct Crossing {
    full: ArrayQueue<Box<CrossFrame>>,
    free: ArrayQueue<Box<CrossFrame>>,
}

impl Crossing {
    /// For so many frames of an MTU; all memory is allocated here.
    pub(crate) fn new(frames_max: usize, mtu_bytes: usize) -> Self {
        let free = ArrayQueue::new(frames_max);
        for _ in 0..frames_max {
            let frame = CrossFrame {
                link: 0,
                header_bytes: 0,
                len_bytes: 0,
                bytes: vec![0; mtu_bytes + HEADER_BYTES_MAX].into(),
            };
            // There is room for exactly these.
            let _ = free.push(Box::new(frame));
        }
        Self {
            full: ArrayQueue::new(frames_max),
            free,
        }
    }

    /// Whether a frame could be put in. Only its sole producer may rely on it.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.full.is_empty()
    }

    /// Copies a received frame in; `false`: no room.
    #[must_use]
    pub(crate) fn put_received(&self, link: u8, frame: &FrameRef<'_>) -> bool {
        self.put_with(|room| room.fill_received(link, frame))
    }

    /// Copies a frame that is to be sent in; `false`: no room.
    #[must_use]
    pub(crate) fn put(&self, link: u8, header: &[u8], payload: &[u8]) -> bool {
        self.put_with(|room| room.fill(link, header, payload))
    }

    fn put_with(&self, fill: impl FnOnce(&mut CrossFrame) -> bool) -> bool {
        let Some(mut room) = self.free.pop() else {
            return false;
        };
        if !fill(&mut room) {
            self.give_back(room);
            return false;
        }
        // As many places as boxes: it fits.
        self.full.push(room).is_ok()
    }

    /// The next frame.
    pub(crate) fn take(&self) -> Option<Box<CrossFrame>> {
        self.full.pop()
    }

    /// Gives a frame's memory back.
    pub(crate) fn give_back(&self, frame: Box<CrossFrame>) {
        let _ = self.free.push(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_were_put_in_and_a_full_ring_says_so() {
        let crossing = Crossing::new(2, 1500);
        let mut long = FrameRef::new(&[1; 1000]);
        long.push(&[2; 500]).unwrap();
        assert!(crossing.put_received(3, &long));
        assert!(crossing.put(4, b"header", b"payload"));
        assert!(!crossing.has_room());
        assert!(!crossing.put(4, b"header", b"payload"), "full");
        let first = crossing.take().unwrap();
        assert_eq!((first.link, first.bytes().len()), (3, 1500));
        assert_eq!((first.bytes()[999], first.bytes()[1000]), (1, 2));
        let second = crossing.take().unwrap();
        assert_eq!(second.parts(), (&b"header"[..], &b"payload"[..]));
        crossing.give_back(first);
        crossing.give_back(second);
        assert!(crossing.is_empty() && crossing.has_room());
    }

    #[test]
    fn frames_longer_than_any_link_carries_are_refused_and_cost_no_memory() {
        let crossing = Crossing::new(1, 1500);
        for _ in 0..3 {
            assert!(!crossing.put(0, &[0; 64], &[0; 1501]));
            assert!(!crossing.put_received(0, &FrameRef::new(&[0; 2000])));
        }
        assert!(crossing.has_room());
    }
}
