//! The thread that makes states durable: a sync of a folder takes milliseconds, which no polling core has.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sandrail_proto::aoe::target::{PersistId, PersistentState, TargetIndex};
use sandrail_wire::TargetAddr;

use super::StateDir;
use crate::cores::hub::Hub;

/// How long to wait before a core's full ring is tried again. It holds more than a core can ask for at a time.
const RING_PAUSE: Duration = Duration::from_millis(1);

/// A state that a core wants to be durable.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) core: usize,
    pub(crate) target: TargetIndex,
    pub(crate) addr: TargetAddr,
    pub(crate) id: PersistId,
    pub(crate) state: PersistentState,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) target: TargetIndex,
    pub(crate) id: PersistId,
    pub(crate) ok: bool,
}

/// Starts the thread. It ends once every sender is gone and everything is kept.
pub(crate) fn start(dir: StateDir, hub: Arc<Hub>) -> io::Result<(Sender<Job>, JoinHandle<()>)> {
    let (sender, jobs) = channel::<Job>();
    let thread = thread::Builder::new()
        .name("state".to_owned())
        .spawn(move || {
            for job in jobs {
                let stored = dir.store(job.addr, &job.state);
                if let Err(error) = &stored {
                    tracing::error!(target = %job.addr, %error, "the state is not durable");
                }
                let saved = Saved {
                    target: job.target,
                    id: job.id,
                    ok: stored.is_ok(),
                };
                let door = &hub.cores[job.core];
                while door.saved.push(saved).is_err() {
                    thread::sleep(RING_PAUSE);
                }
                door.doorbell.notify();
            }
        })?;
    Ok((sender, thread))
}
