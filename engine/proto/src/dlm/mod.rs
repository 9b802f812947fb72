//! The lock manager: one machine a node and core, which is agent for its clients and master for its share of slots.
//!
//! `docs/locks.md` tells states, messages and recovery, and why they are safe.

mod agent;
mod api;
mod desk;
mod map;
mod master;
mod name;
mod node;
mod stat;
mod table;
pub mod transport;

pub use api::{
    Ask, Change, Config, Event, Flags, LockId, Member, NODES_MAX, Refusal, View, ViewError, Why,
};
pub use map::{SLOTS, master_of, slot_of};
pub use name::{KEY_BYTES_MAX, KINDS_MAX, NameError, hashed_name, short_name};
pub use node::Node;
pub use sandrail_wire::lock::{
    Body, Denial, Epoch, GrantNumber, Incarnation, Message, Mode, NodeId, Path, ResourceName,
    Transaction, ValueBlock,
};
pub use stat::{Counts, Stat};
