//! Opening links by choice.
