//! Rivals and loads: what the benchmarks of `docs/performance.md` are made of.
//!
//! A speed by itself says little, so every claim is a ratio between two [contenders](pairs::interleave) that take turns
//! on one machine. [`rival`] is the least possible client of an AoE target, [`load`] drives the engine as its users do,
//! [`site`] is the namespace with a real target in it, and [`blade`] a target in memory for what needs no I/O.

pub mod arrivals;
pub mod awake;
pub mod blade;
pub mod blade_site;
pub mod cache;
pub mod contest;
pub mod costs;
pub mod driver;
pub mod echo;
pub mod load;
pub mod machine;
pub mod nbd;
pub mod pairs;
pub mod picture;
pub mod record;
pub mod report;
pub mod rival;
pub mod site;
pub mod stamp;
pub mod text;
pub mod threads;
pub mod waiter;
pub mod workload;
pub mod zipf;
