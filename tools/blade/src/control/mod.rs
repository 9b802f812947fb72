//! The control socket: what may be said, who answers, and the command that speaks to it.

pub(crate) mod client;
pub(crate) mod protocol;
pub(crate) mod server;
