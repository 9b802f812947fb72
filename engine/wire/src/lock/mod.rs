//! The lock manager's frames: who speaks, what arrived, and records of one or two slots.
//!
//! Drawn byte by byte in `docs/wire.md`. A frame is the transport's (sequences, acknowledgements, credits); what a
//! record in it says is the lock manager's.

mod frame;
mod ident;
mod message;
mod mode;
mod record;
mod seal;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

pub use frame::{
    Endpoint, FRAME_SLOTS_MAX, FrameWriter, LOCK_HEADER_BYTES, LOCK_VERSION, LockError,
    LockFeatures, LockFrame, LockHeader, RECEIVER_CORE_OFFSET, Records, SACK_WORDS_MAX,
    slots_by_mtu,
};
pub use ident::{ClusterId, CoreId, Epoch, Incarnation, NodeId, Sequence};
pub use message::{
    Body, CYCLE_MAX, Denial, GrantNumber, Message, MessageError, NAME_BYTES, Path, Probe,
    RequestFlags, RequestId, ResourceName, SET_SLOTS, SlotSet, Successor, Transaction, VALUE_BYTES,
    ValueBlock, Wanted,
};
pub use mode::Mode;
pub use seal::{CRC_BYTES, MAC_BYTES, MacKey, Seal};

/// Bytes of a slot, the unit that sequences and credits count. A record takes one, or two if it carries a value block.
pub const SLOT_BYTES: usize = 64;
