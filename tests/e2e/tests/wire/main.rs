//! The node on a real wire with `vblade`, a third-party target, at its other end.
//!
//! All tests are one binary and take turns: each measures times or drives both ends of a wire as fast as it goes.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use sandrail_e2e::{Shards, Site, Wire, spread};
use sandrail_lab::can_run;

mod data;
mod decoded;
mod outages;
mod stale;
mod strangers;
mod times;

static TURN: Mutex<()> = Mutex::new(());

/// Waits for the test's turn, unless this machine cannot run it over that link and need not.
fn turn(test: &str, wire: Wire) -> Option<MutexGuard<'static, ()>> {
    static XDP: OnceLock<Result<(), String>> = OnceLock::new();
    static PACKET: OnceLock<Result<(), String>> = OnceLock::new();
    // A test that failed leaves nothing behind that the next could mind.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // What a machine cannot do does not change while the tests run.
    let tried = if wire.is_xdp() { &XDP } else { &PACKET };
    let supported = tried
        .get_or_init(|| Site::supported(wire).map_err(|error| format!("{error:#}")))
        .clone();
    can_run(test, supported).then_some(turn)
}

/// Whether this machine can have those shards: two queues need a target's side that uses both.
fn has(test: &str, shards: Shards) -> bool {
    static SPREAD: OnceLock<Result<(), String>> = OnceLock::new();
    if shards != Shards::TwoOnTwoQueues {
        return true;
    }
    let supported = SPREAD
        .get_or_init(|| spread::supported().map_err(|error| format!("{error:#}")))
        .clone();
    can_run(&format!("{test}, {shards}"), supported)
}
