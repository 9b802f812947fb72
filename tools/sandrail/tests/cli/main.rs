//! The command as an operator meets it: its exit codes, its words, and its data, against `vblade` on a wire of its own.
//!
//! What needs a network namespace is skipped, and listed, where the machine has none.

mod demo;
mod errors;
mod manual;
mod report;
mod restarts;
mod run;
mod san;
mod verbs;
