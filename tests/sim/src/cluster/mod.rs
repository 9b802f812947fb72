//! Memberships on a simulated SAN: production machines with clocks that drift, voting areas and data targets that are models,
//! and a judge that knows only what the machines told and what the targets accepted.
//!
//! Nodes pause between any decision and its effect, crash and come back as new lives; links are cut one way or both; targets
//! restart, stall and forget their lists; copies of every request come late, up to a frame's lifetime.

pub mod area;
pub mod command;
pub mod judge;
pub mod runner;
pub mod scenario;
pub mod target;
pub mod world;
