//! Tests on a real wire.
