//! A node on a real wire with a real target, third-party or our own, for tests and for long runs.
//!
//! A [`Site`] is a lab (two namespaces, a veth pair), a disk file, `vblade` or `sandrail-blade` on it and a node attached to
//! it over the links and shards that a [`Setup`] names, with faults between link and node where wanted. [`load`] drives data through it
//! and checks it to the last bit; a [`peer::Peer`] is another station on the target's side.

pub mod data;
pub mod decode;
pub mod driver;
pub mod faults;
pub mod killing;
pub mod load;
pub mod mangle;
pub mod matrix;
pub mod peer;
pub mod program;
pub mod site;
pub mod spread;
pub mod status;
pub mod storm;
pub mod strip;

pub use data::Pattern;
pub use site::{Setup, Shards, Site, Station, Wire};
pub use status::Status;
