//! Captures, and what third-party decoders say of them.
