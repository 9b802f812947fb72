//! `sandrail-blade` as its users meet it: arguments, files, sockets, and the real initiator on a wire of its own.
//!
//! What needs a network namespace is skipped, and listed, where the machine has none.

mod arguments;
mod bed;
mod control;
mod cores;
mod keeping;
mod manual;
mod serving;
mod stalls;
