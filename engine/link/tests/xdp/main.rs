//! AF_XDP on a veth pair between two namespaces, in both modes.

#![allow(
    unsafe_code,
    reason = "raw sockets, poll(2) and giving up privileges on one thread have no safe form"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "patterns are made of the low bits of counters"
)]

mod cost;
mod errors;
mod raw;
mod shards;
mod sizes;
mod steering;
mod support;
mod trouble;
