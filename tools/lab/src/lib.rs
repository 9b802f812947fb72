//! A SAN of one's own: two network namespaces joined by a veth pair, and third-party AoE targets to talk to.
//!
//! Tests, benches and the demo all need the same small world: an initiator's interface `san0` and a target's interface
//! `san1`, each alone in a network namespace, with nothing else on the wire. A [`Lab`] makes it, runs commands and
//! closures inside it, starts [`Vblade`] targets on a [`BackingFile`], and takes everything away again.
//!
//! ```no_run
//! use sandrail_lab::{Lab, Side, VbladeOptions};
//!
//! # fn main() -> Result<(), sandrail_lab::LabError> {
//! let lab = Lab::builder().mtu(9000).queues(2).build()?;
//! let disk = lab.backing_file(64 << 20)?;
//! let target = lab.vblade(VbladeOptions::new(7, 3, disk.path()))?;
//! let interfaces = lab.enter(Side::Initiator, || std::fs::read_to_string("/proc/net/dev"))?;
//! assert!(target.is_running() && interfaces.is_ok_and(|text| text.contains("san0")));
//! # Ok(())
//! # }
//! ```
//!
//! # How it is cleaned up
//!
//! Every lab starts a *guardian*, a small shell process of its own process group that waits for the end of a pipe which
//! only this process holds. When the lab is dropped, or when this process dies in whatever way, the pipe ends: the
//! guardian kills what still runs in the two namespaces, deletes them (the veth pair goes with them) and removes the
//! lab's backing files. So **Ctrl-C needs no signal handler**: the default action ends the process and the guardian
//! cleans up. Should the guardian itself be killed, the next [`LabBuilder::build`] of the same prefix sweeps what is left
//! ([`Lab::sweep`]): the names carry the owner's process id and start time.
//!
//! `PR_SET_PDEATHSIG` is not used, because it follows the *thread* that started the child: a target started by a
//! short-lived thread would die with it.
//!
//! Nothing here touches an interface of the namespace that the caller lives in: the veth pair is born inside the new ones.

mod allocations;
mod backing;
mod blade;
mod error;
mod guardian;
mod lab;
mod names;
mod namespace;
mod ping;
mod process;
mod skip;
mod target_process;
mod vblade;

pub use allocations::CountingAllocator;
pub use backing::BackingFile;
pub use blade::{BLADE_VARIABLE, Blade, BladeOptions};
pub use error::{LabError, Unsupported};
pub use lab::{Lab, LabBuilder, LinkState, MacAddress, Side};
pub use ping::{PingStats, RunningPing};
pub use skip::{REQUIRE_VARIABLE, SKIPPED_VARIABLE, can_run, may_run};
pub use vblade::{Vblade, VbladeOptions};
