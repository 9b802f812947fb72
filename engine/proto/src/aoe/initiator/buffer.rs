//! What the initiator needs of the memory that a request's data comes from or goes to.

use sandrail_wire::FrameRef;
use sandrail_wire::ata::SECTOR_BYTES;

/// A request's data: the owner's memory, moved in with a request and back out with its completion. Plain buffers, which lie
/// in one piece, need no implementation of their own.
pub trait RequestBuffer {
    /// Length of the data, in bytes.
    fn len_bytes(&self) -> usize;

    /// The memory of a control operation: its arguments before, its answer after. Empty for what carries data only.
    fn control(&self) -> &[u8];

    /// The same, to be written to.
    fn control_mut(&mut self) -> &mut [u8];

    /// `len_bytes` of a WRITE's data from `offset_bytes` on: where they lie, or, if they do not lie in one piece, copied
    /// together in `staging`, which is long enough. They stay the same until the request's end.
    fn outgoing<'a>(
        &'a self,
        offset_bytes: usize,
        len_bytes: usize,
        staging: &'a mut [u8],
    ) -> &'a [u8];

    /// Takes `len_bytes` of a READ's data, which lie at `from_bytes` of the frame, to `offset_bytes`; `false` when the
    /// frame does not hold them all. Called once for each sector, if the network is kind: never after the request's end.
    fn incoming(
        &mut self,
        offset_bytes: usize,
        len_bytes: usize,
        frame: &FrameRef<'_>,
        from_bytes: usize,
    ) -> bool;

    /// How many of the `most` sectors that the next command could carry from sector `offset` on it should carry, at least
    /// one: for memory that comes in pieces.
    fn cut(&self, offset: u32, most: u16) -> u16 {
        let _ = offset;
        most
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> RequestBuffer for T {
    fn len_bytes(&self) -> usize {
        self.as_ref().len()
    }

    fn control(&self) -> &[u8] {
        self.as_ref()
    }

    fn control_mut(&mut self) -> &mut [u8] {
        self.as_mut()
    }

    fn outgoing<'a>(
        &'a self,
        offset_bytes: usize,
        len_bytes: usize,
        _staging: &'a mut [u8],
    ) -> &'a [u8] {
        &self.as_ref()[offset_bytes..][..len_bytes]
    }

    fn incoming(
        &mut self,
        offset_bytes: usize,
        len_bytes: usize,
        frame: &FrameRef<'_>,
        from_bytes: usize,
    ) -> bool {
        frame.copy_to(from_bytes, &mut self.as_mut()[offset_bytes..][..len_bytes])
    }
}

/// Room to copy one command's data together: as much as a frame of this MTU carries.
pub(super) fn staging(mtu_bytes: usize) -> Box<[u8]> {
    let sectors = sandrail_wire::aoe::sectors_by_mtu(mtu_bytes).max(1);
    vec![0; sectors * SECTOR_BYTES].into_boxed_slice()
}
