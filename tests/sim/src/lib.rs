//! Whole systems on a simulated network and clock: initiators, targets, and the checkers that judge them.
//!
//! The initiator is the production code. All else is a model written apart from it: frames are read by byte offsets
//! ([`bytes`]) and not through `sandrail-wire`, the [`oracle`] knows nothing of tags or copies, and the [`watch`] on
//! the wire knows nothing of the initiator's books. A run is determined by its [`scenario`](scenario::Scenario),
//! which is determined by a family's name and a seed.
#![allow(
    clippy::cast_possible_truncation,
    reason = "counts, ports and sectors of a simulated system are small by construction, and a wrong one fails the run"
)]

pub mod breach;
pub mod bytes;
pub mod cluster;
pub mod disk;
pub mod dlm;
pub mod host;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod mishap;
pub mod net;
pub mod oracle;
pub mod puppet;
pub mod runner;
pub mod scenario;
mod send;
pub mod serve;
mod served;
mod sleeper;
pub mod soaked;
pub mod stamp;
pub mod target;
mod turn;
pub mod violation;
pub mod watch;
pub mod world;
