//! A received frame as the segments it lies in.
//!
//! AF_XDP hands a frame of more than 3840 bytes over in several UMEM chunks (multi-buffer); everything that a protocol
//! parses lies in the first, only data spans them.

/// The most segments of one frame: 3 x 3840 bytes hold an MTU of 9000 with its Ethernet header and two VLAN tags.
pub const SEGMENTS_MAX: usize = 4;

/// A frame in receive memory, borrowed: up to [`SEGMENTS_MAX`] segments in order.
#[derive(Clone, Copy, Debug)]
pub struct FrameRef<'a> {
    segments: [&'a [u8]; SEGMENTS_MAX],
    count: usize,
    len_bytes: usize,
}

/// The frame has more segments than [`SEGMENTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySegments;

impl<'a> FrameRef<'a> {
    /// A frame that lies in one piece.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            segments: [bytes, &[], &[], &[]],
            count: 1,
            len_bytes: bytes.len(),
        }
    }

    /// Adds the next segment.
    ///
    /// # Errors
    /// [`TooManySegments`] when [`SEGMENTS_MAX`] are there already.
    pub const fn push(&mut self, segment: &'a [u8]) -> Result<(), TooManySegments> {
        if self.count == SEGMENTS_MAX {
            return Err(TooManySegments);
        }
        self.segments[self.count] = segment;
        self.count += 1;
        self.len_bytes += segment.len();
        Ok(())
    }

    /// The first segment: all headers lie in it.
    #[must_use]
    pub const fn head(&self) -> &'a [u8] {
        self.segments[0]
    }

    /// All segments, in order.
    #[must_use]
    pub fn segments(&self) -> &[&'a [u8]] {
        &self.segments[..self.count]
    }

    /// Length of the whole frame.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Copies the bytes from `offset` into all of `out`; `false`, and nothing usable in `out`, when the frame is
    /// shorter.
    #[must_use]
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> bool {
        if offset
            .checked_add(out.len())
            .is_none_or(|end| end > self.len_bytes)
        {
            return false;
        }
        let (mut skip, mut done) = (offset, 0);
        for segment in self.segments() {
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let take = (segment.len() - skip).min(out.len() - done);
            out[done..done + take].copy_from_slice(&segment[skip..skip + take]);
            done += take;
            skip = 0;
            if done == out.len() {
                break;
            }
        }
        true
    }
}
