//! The thread that tells the log what happened to the targets: one line an event, none for a frame.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sandrail_proto::aoe::target::{BladeEvent, TargetIndex};
use sandrail_wire::TargetAddr;

use crate::settings::Copies;

/// Events that can wait to be written; more are counted, not kept.
const EVENTS_MAX: usize = 1024;

/// What happened on a core.
pub(crate) type CoreEvent = (usize, Happening);

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// An event of the core's machine.
    Blade(BladeEvent),
    /// Writes are dropped, since so many are remembered already.
    CopiesFull(Copies),
}

/// Starts the thread; `targets` are each core's, in the machine's order. It ends once every sender is gone.
pub(crate) fn start(
    targets: Vec<Vec<TargetAddr>>,
) -> io::Result<(SyncSender<CoreEvent>, JoinHandle<()>)> {
    let (sender, events) = sync_channel::<CoreEvent>(EVENTS_MAX);
    let thread = thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || {
            for (core, happening) in events {
                let own = targets.get(core).map_or(&[][..], Vec::as_slice);
                match happening {
                    Happening::Blade(event) => log(own, &event),
                    Happening::CopiesFull(copies) => tracing::warn!(core, "{}", full(&copies)),
                }
            }
        })?;
    Ok((sender, thread))
}

/// What to say of writes that can't be remembered.
fn full(copies: &Copies) -> String {
    format!(
        "writes are dropped, and their initiators ask again: {} came within {} ms, and no more are remembered to know copies of \
         them, {} a second; raise --duplicates-max",
        copies.entries,
        copies.retained.as_millis(),
        copies.rate_per_s()
    )
}

fn log(targets: &[TargetAddr], event: &BladeEvent) {
    let name = |index: &TargetIndex| {
        let target = targets.get(usize::from(index.0));
        target.map_or_else(String::new, TargetAddr::to_string)
    };
    match event {
        BladeEvent::SessionOpened {
            target,
            session,
            mac,
            shard,
            incarnation,
        } => tracing::info!(
            target = name(target), session = session.0, %mac, shard, incarnation = format!("{incarnation:016x}"),
            "session opened"
        ),
        BladeEvent::SessionVoided {
            target,
            session,
            why,
        } => {
            tracing::info!(
                target = name(target),
                session = session.0,
                ?why,
                "session void"
            );
        }
        BladeEvent::Reserved {
            target,
            by,
            epoch,
            members,
        } => tracing::info!(target = name(target), %by, epoch, members, "reserved"),
        BladeEvent::ForcedSet {
            target,
            by,
            members,
        } => tracing::warn!(target = name(target), %by, members, "reservation replaced by force"),
        BladeEvent::SetRefused { target, by, epoch } => {
            tracing::warn!(target = name(target), %by, epoch, "change of the reservation refused");
        }
        BladeEvent::Fenced {
            target,
            mac,
            incarnation,
        } => {
            tracing::warn!(target = name(target), %mac, incarnation = format!("{incarnation:016x}"), "fenced");
        }
        BladeEvent::MaskEdited {
            target,
            by,
            members,
        } => {
            tracing::info!(target = name(target), %by, members, "mask edited");
        }
        BladeEvent::ConfigSet { target, by } => {
            tracing::info!(target = name(target), %by, "config string set");
        }
        BladeEvent::Resized { target, sectors } => {
            tracing::info!(target = name(target), sectors, "size changed");
        }
        BladeEvent::NotDurable { target } => {
            tracing::error!(
                target = name(target),
                "a change was refused: it could not be made durable"
            );
        }
        BladeEvent::DiskFailed { target, error } => {
            tracing::error!(target = name(target), %error, "the disk fails");
        }
    }
}
