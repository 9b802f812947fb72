//! The lock manager's frames: who speaks, what arrived, and records of one or two slots.
//!
//! Drawn byte by byte in `docs/wire.md`. A frame is the transport's (sequences, acknowledgements, credits); what a
//! record in it says is the lock manager's.

mod ident;

pub use ident::{ClusterId, CoreId, Epoch, Incarnation, NodeId};

/// Bytes of a slot, the unit that sequences and credits count. A record takes one, or two if it carries a value block.
pub const SLOT_BYTES: usize = 64;
