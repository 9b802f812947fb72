//! Lock managers on a simulated network: nodes with clients, membership, and a judge that knows only what clients asked
//! and were told.
//!
//! [`World`](world::World) runs any [`Station`](station::Station): the production machines, or the
//! [`Reference`](reference::Reference), a central manager that is obviously right, and on demand obviously wrong.

pub mod call;
pub mod client;
pub mod judge;
pub mod machine;
pub mod reference;
pub mod runner;
pub mod scenario;
pub mod station;
mod values;
pub mod violation;
mod waits;
pub mod wired;
pub mod world;
