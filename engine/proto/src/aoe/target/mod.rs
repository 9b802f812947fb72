//! The target's side of AoE: one machine for the shelf.slots of a core.

pub mod backing;
