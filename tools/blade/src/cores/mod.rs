//! The threads that serve: one a core, each with its links and its machine.

pub(crate) mod crossing;
pub(crate) mod hub;
mod idle;
mod report;
pub(crate) mod route;
mod seen;
pub(crate) mod status;
#[cfg(test)]
mod tests;
mod turn;

pub(crate) use turn::{Core, CoreParts, Target};
