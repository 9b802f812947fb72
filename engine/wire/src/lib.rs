//! Bytes and meaning of every frame Sandrail speaks.
//!
//! Each format has a *view* (what bytes lie where) and a *meaning* (`Repr`: what they say), in the same file as its
//! golden vectors. Nothing here allocates, does I/O or panics on input: a frame that makes no sense is an error that
//! names the field. The formats are drawn byte by byte in `docs/wire.md`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod aoe;
pub mod ata;
pub mod cluster;
pub mod ethernet;
pub mod frame;
pub mod lock;

pub use aoe::{Tag, TargetAddr};
pub use ata::{Lba, SectorCount};
pub use ethernet::{EtherType, MacAddr, VlanTag};
pub use frame::FrameRef;

/// A buffer that something is to be written into is too short for it.
///
/// `need_bytes` is `usize::MAX` when no buffer could hold it, because a field of the caller's exceeds what the format
/// can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferTooSmall {
    /// Length the whole takes.
    pub need_bytes: usize,
    /// Length that was offered.
    pub have_bytes: usize,
}

impl core::fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.need_bytes == usize::MAX {
            return f.write_str("a field exceeds what the format can carry");
        }
        write!(
            f,
            "buffer of {} bytes is too small, {} are needed",
            self.have_bytes, self.need_bytes
        )
    }
}

impl core::error::Error for BufferTooSmall {}

/// The first `need_bytes` of `out`, or the error that says how many are missing.
pub(crate) fn claim(out: &mut [u8], need_bytes: usize) -> Result<&mut [u8], BufferTooSmall> {
    let have_bytes = out.len();
    out.get_mut(..need_bytes).ok_or(BufferTooSmall {
        need_bytes,
        have_bytes,
    })
}
