//! Memory of a disk: bytes that belong to it alone, and slots that the kernel reads and writes as well.
#![allow(
    unsafe_code,
    reason = "a region gives out its address; who may touch which bytes when is decided here"
)]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::slice;

use sandrail_memory::{Arena, ArenaError, HugePages, Region};
use sandrail_proto::aoe::target::backing::{Pieces, SECTOR_BYTES};

/// Where slots begin: a page, so that every sector in them is as aligned as any device wants it.
const SLOT_ALIGN_BYTES: usize = 4096;

/// Bytes that only their holder touches.
#[derive(Debug)]
pub(crate) struct Memory {
    region: Region,
}

impl Memory {
    /// Maps `len_bytes`, zeroed; also says what the memory is made of.
    pub(crate) fn new(
        len_bytes: usize,
        huge: HugePages,
    ) -> Result<(Self, sandrail_memory::Backing), ArenaError> {
        let (region, backing) = map(len_bytes, huge)?;
        Ok((Self { region }, backing))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the region is mapped, initialised (zeroed by the kernel) and ours alone; `&self` keeps writers out, since
        // the only one is `bytes_mut`, and no pointer to it leaves this type.
        unsafe { slice::from_raw_parts(self.region.start().as_ptr(), self.region.len_bytes()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { slice::from_raw_parts_mut(self.region.start().as_ptr(), self.region.len_bytes()) }
    }
}

/// Equal slots, one for each operation, that are handed to the kernel by address.
#[derive(Debug)]
pub(crate) struct Slots {
    region: Region,
    slot_bytes: usize,
    stride_bytes: usize,
    count: usize,
}

impl Slots {
    /// Maps `count` slots of `slot_bytes`; also says what the memory is made of.
    pub(crate) fn new(
        count: usize,
        slot_bytes: usize,
        huge: HugePages,
    ) -> Result<(Self, sandrail_memory::Backing), ArenaError> {
        let stride_bytes = slot_bytes.next_multiple_of(SLOT_ALIGN_BYTES);
        let (region, backing) = map(stride_bytes.saturating_mul(count), huge)?;
        let slots = Self {
            region,
            slot_bytes,
            stride_bytes,
            count,
        };
        Ok((slots, backing))
    }

    /// The whole, as io_uring registers it.
    pub(crate) fn whole(&self) -> (NonNull<u8>, usize) {
        (self.region.start(), self.region.len_bytes())
    }

    /// Address of a byte of a slot, of which at least `len_bytes` more follow in the same slot.
    pub(crate) fn address(&self, slot: usize, offset: usize, len_bytes: usize) -> NonNull<u8> {
        let end = offset.checked_add(len_bytes);
        assert!(
            slot < self.count && end.is_some_and(|end| end <= self.slot_bytes),
            "bytes {offset}+{len_bytes} of slot {slot} are none of {} slots of {} bytes",
            self.count,
            self.slot_bytes
        );
        // SAFETY: slot < count and offset <= slot_bytes <= stride_bytes, and the region is stride_bytes * count long.
        unsafe { self.region.start().add(slot * self.stride_bytes + offset) }
    }

    /// Copies `pieces`, which together fill the first `len_bytes` of the slot.
    ///
    /// # Safety
    /// The kernel has no operation under way on this slot.
    pub(crate) unsafe fn copy_in(&mut self, slot: usize, pieces: Pieces<'_>) {
        let len_bytes = pieces.iter().map(|piece| piece.len()).sum();
        let start = self.address(slot, 0, len_bytes);
        // SAFETY: `address` checked that the bytes lie in the slot; `&mut self` and the caller's promise make this the only
        // access to them.
        let mut to = unsafe { slice::from_raw_parts_mut(start.as_ptr(), len_bytes) };
        for piece in pieces {
            let (head, tail) = to.split_at_mut(piece.len());
            head.copy_from_slice(piece);
            to = tail;
        }
    }

    /// The first `len_bytes` of a slot.
    ///
    /// # Safety
    /// The kernel has no operation under way on this slot, and none begins while the slice lives.
    pub(crate) unsafe fn bytes(&self, slot: usize, len_bytes: usize) -> &[u8] {
        let start = self.address(slot, 0, len_bytes);
        // SAFETY: `address` checked that the bytes lie in the slot, mapped memory is initialised, and by the caller's promise
        // nobody writes to them.
        unsafe { slice::from_raw_parts(start.as_ptr(), len_bytes) }
    }
}

fn map(
    len_bytes: usize,
    huge: HugePages,
) -> Result<(Region, sandrail_memory::Backing), ArenaError> {
    let len = NonZeroUsize::new(len_bytes).ok_or(ArenaError::Length { len_bytes })?;
    let mut arena = Arena::new(len_bytes, huge)?;
    let backing = arena.backing().clone();
    Ok((arena.carve(len)?, backing))
}

/// Bytes of so many sectors; saturates where an address space ends.
pub(crate) fn bytes_of(sectors: u64) -> usize {
    usize::try_from(sectors)
        .unwrap_or(usize::MAX)
        .saturating_mul(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap() {
        let (mut slots, _) = Slots::new(3, 1536, HugePages::Never).unwrap();
        for slot in 0..3_u8 {
            let fill = [slot + 1; 768];
            // SAFETY: there is no kernel in this test.
            unsafe { slots.copy_in(usize::from(slot), &[&fill, &fill]) };
        }
        for slot in 0..3_u8 {
            // SAFETY: there is no kernel in this test.
            let bytes = unsafe { slots.bytes(usize::from(slot), 1536) };
            assert_eq!(bytes, [slot + 1; 1536]);
        }
        assert_eq!(slots.address(1, 0, 1).addr().get() % SLOT_ALIGN_BYTES, 0);
    }

    #[test]
    #[should_panic(expected = "are none of")]
    fn a_slot_is_not_left() {
        let (slots, _) = Slots::new(3, 1536, HugePages::Never).unwrap();
        let _ = slots.address(2, 1024, 513);
    }
}
