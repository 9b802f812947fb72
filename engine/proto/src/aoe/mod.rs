//! ATA over Ethernet: the rules of both ends.

pub mod initiator;
pub mod rotation;
pub mod target;
