//! The places where a file disk touches memory that the kernel touches too.
#![allow(
    unsafe_code,
    reason = "slots are shared with the kernel, and the table knows which are free of it"
)]

use std::mem::ManuallyDrop;

use sandrail_proto::aoe::target::backing::{DiskError, Pieces};

use super::table::Kind;
use super::{FileDisk, LAST_WAIT};
use crate::system::{self, LockKind};

impl FileDisk {
    /// Copies a write's data into its slot.
    pub(super) fn copy_in(&mut self, io: u32, len: u64, data: Pieces<'_>) -> Result<(), DiskError> {
        let given: usize = data.iter().map(|piece| piece.len()).sum();
        if u64::try_from(given) != Ok(len) {
            return Err(DiskError::Device {
                errno: libc::EINVAL,
            });
        }
        assert!(
            self.table.is_idle(io),
            "operation {io} begins while it is under way"
        );
        let slot = usize::try_from(io).unwrap_or(usize::MAX);
        // SAFETY: the table was just asked: no operation is under way on this slot.
        unsafe { self.slots.copy_in(slot, data) };
        Ok(())
    }

    /// What a read brought; nothing for any other operation.
    pub(super) fn read_data(&self, io: u32) -> &[u8] {
        let Some(len) = self.table.read_bytes(io) else {
            return &[];
        };
        let slot = usize::try_from(io).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        // SAFETY: the table says that the read has ended, and another operation on the slot needs `&mut self` to begin.
        unsafe { self.slots.bytes(slot, len) }
    }

    /// Hands a plan's requests to the ring.
    pub(super) fn push(&mut self) {
        // SAFETY: from its submission to its end the table refuses to begin or release an operation (`copy_in` and
        // `read_data` ask it), and `drop` keeps the slots until the ring has nothing under way, or for ever.
        unsafe { self.ring.push(&self.table, &self.slots, self.size_changed) };
        let requests = self.table.requests();
        self.size_changed &= !requests.iter().any(|request| request.kind == Kind::Flush);
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        let give_up = std::time::Instant::now() + LAST_WAIT;
        // Requests that were not submitted are the kernel's from here on as well: what is in the ring is simplest to let end.
        while self.table.submitted() > 0 && std::time::Instant::now() < give_up {
            self.ring.wait(LAST_WAIT / 30);
            while let Some((head, result)) = self.ring.reap() {
                self.table.complete(head, result, &mut self.counters);
            }
        }
        if self.table.submitted() > 0 {
            // The kernel may still write to the slots: they stay mapped, and the range stays locked by the ring.
            return;
        }
        // SAFETY: the ring has nothing under way, and nothing uses the slots after this.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
        // The ring lets go of the file some time after it is closed; the lock need not wait for that.
        let (start, len) = self.locked();
        let _ = system::lock_range(&self.opened.file, LockKind::None, start, len);
    }
}
