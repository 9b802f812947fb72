//! Another station on the target's side of the wire.
