//! The blade end to end: the node, and initiators that nobody here wrote, on a real wire with `sandrail-blade`.
//!
//! All tests are one binary and take turns, as those against `vblade` do.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use sandrail_e2e::{Site, Wire};
use sandrail_lab::can_run;

mod clients;
mod decoded;
mod driver;
mod faulty;
mod killed;
mod short;
mod stale;

static TURN: Mutex<()> = Mutex::new(());

/// Waits for the test's turn, unless this machine cannot run it over that link and need not.
fn turn(test: &str, wire: Wire) -> Option<MutexGuard<'static, ()>> {
    static XDP: OnceLock<Result<(), String>> = OnceLock::new();
    static PACKET: OnceLock<Result<(), String>> = OnceLock::new();
    // A test that failed leaves nothing behind that the next could mind.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let tried = if wire.is_xdp() { &XDP } else { &PACKET };
    let supported = tried
        .get_or_init(|| Site::supported(wire).map_err(|error| format!("{error:#}")))
        .clone();
    can_run(test, supported).then_some(turn)
}
