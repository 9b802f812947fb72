//! Sandrail's protocol rules, sans-IO.
//!
//! Every machine here has the same five verbs: `handle_frame(now, ..)`, `handle_timeout(now)`, `poll_transmit(now)`,
//! `poll_timeout()`, `poll_event()`. Time is an argument and randomness a seed, so production, the simulator and the
//! fuzzers run the same code.
#![forbid(unsafe_code)]

pub mod aoe;
pub mod cluster;
pub mod dlm;
pub mod time;
