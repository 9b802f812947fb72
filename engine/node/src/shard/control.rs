//! Control calls, notices, and the shard's end.

use std::sync::mpsc::Sender;
use std::time::Duration;

use sandrail_link::Link;
use sandrail_memory::Buffer;
use sandrail_proto::aoe::initiator::{Notice, RestartEvidence, Sighting, TargetId, TargetInfo};
use sandrail_proto::time::Instant;

use super::{Asker, Shard};
use crate::control::{Control, ShardAttachError, StopReport};
use crate::hub::{NodeNotice, TargetHandle};
use crate::os;
use crate::request::{Done, RequestError};
use crate::stat::{LinkStat, ShardStat, TargetStat};

/// A discovery asks again this often, since its broadcast may get lost.
const DISCOVER_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct Discovery {
    sightings: Sender<Sighting>,
    ask_at: Instant,
    until: Instant,
}

#[derive(Debug)]
struct Attaching {
    target: TargetId,
    handle: TargetHandle,
    reply: Sender<Result<TargetInfo, ShardAttachError>>,
}

#[derive(Debug)]
struct Stopping {
    deadline: Instant,
    reply: Option<Sender<StopReport>>,
}

/// Control calls that take longer than a turn.
#[derive(Debug, Default)]
pub(super) struct ControlState {
    discoveries: Vec<Discovery>,
    attaching: Vec<Attaching>,
    stopping: Option<Stopping>,
}

impl ControlState {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let discoveries = self
            .discoveries
            .iter()
            .map(|each| each.ask_at.min(each.until));
        discoveries
            .chain(self.stopping.iter().map(|each| each.deadline))
            .min()
    }
}

/// Answers a control call. A caller that no longer waits has dropped its receiver: then it is of no use to anybody.
fn answer<T>(reply: &Sender<T>, value: T) {
    let _ = reply.send(value);
}

impl<L: Link> Shard<L> {
    pub(super) fn take_controls(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(control) = self.hub.doors[self.number].controls.pop() {
            busy = true;
            self.carry_out(now, control);
        }
        if !self.control.discoveries.is_empty() {
            self.discover_again(now);
        }
        busy
    }

    fn carry_out(&mut self, now: Instant, control: Control) {
        match control {
            Control::Discover { sightings, until } => self.control.discoveries.push(Discovery {
                sightings,
                ask_at: now,
                until,
            }),
            Control::Attach {
                handle,
                addr,
                pinned,
                reply,
            } => match self.initiator.attach(now, addr, pinned) {
                Ok(target) => self.control.attaching.push(Attaching {
                    target,
                    handle,
                    reply,
                }),
                Err(error) => answer(&reply, Err(error.into())),
            },
            Control::Detach { handle, reply } => {
                if let Some(target) = self.target_id(handle) {
                    self.initiator.detach(now, target);
                    self.targets[handle.place()] = None;
                }
                answer(&reply, ());
            }
            Control::Target { handle, reply } => {
                let info = self
                    .target_id(handle)
                    .and_then(|target| self.initiator.target(target));
                answer(&reply, info);
            }
            Control::AcceptLoss { handle, reply } => {
                if let Some(target) = self.target_id(handle) {
                    self.initiator.accept_loss(target);
                }
                answer(&reply, ());
            }
            Control::Inquire { handle } => {
                if let Some(target) = self.target_id(handle) {
                    self.initiator.inquire(now, target);
                }
            }
            Control::FlushPages {
                volume,
                deadline,
                reply,
            } => match &mut self.cache {
                Some(cache) => cache.flush(volume, deadline, reply),
                None => answer(&reply, Ok(())),
            },
            Control::Stat { reply } => answer(&reply, Box::new(self.stat())),
            Control::Stop { deadline, reply } => {
                self.control.stopping = Some(Stopping {
                    deadline,
                    reply: Some(reply),
                });
            }
        }
    }

    fn discover_again(&mut self, now: Instant) {
        self.control.discoveries.retain(|each| now < each.until);
        let mut ask = false;
        for each in &mut self.control.discoveries {
            if now >= each.ask_at {
                each.ask_at = now + DISCOVER_INTERVAL;
                ask = true;
            }
        }
        if ask {
            self.initiator.discover(now);
        }
    }

    pub(super) fn notices_out(&mut self) -> bool {
        let mut busy = false;
        while let Some(notice) = self.initiator.poll_notice() {
            busy = true;
            let target = self.react(&notice);
            self.hub.tell(NodeNotice {
                shard: self.number,
                target,
                notice,
            });
        }
        busy
    }

    /// What a notice means to callers that wait for it, and to the other shards; the target it is about.
    fn react(&mut self, notice: &Notice) -> Option<TargetHandle> {
        match *notice {
            Notice::Seen(sighting) => {
                for each in &self.control.discoveries {
                    answer(&each.sightings, sighting);
                }
                None
            }
            Notice::Attached(target) => {
                let attaching = self.end_attach(target)?;
                let info = self.initiator.target(target)?;
                self.targets[attaching.handle.place()] =
                    Some((attaching.handle.generation, target));
                answer(&attaching.reply, Ok(info));
                Some(attaching.handle)
            }
            Notice::AttachFailed(target, _, failure) => {
                let attaching = self.end_attach(target)?;
                answer(&attaching.reply, Err(failure.into()));
                None
            }
            Notice::RestartSuspected {
                target,
                evidence,
                unflushed,
            } => {
                let handle = self.handle_of(target)?;
                self.hub.targets[handle.place()]
                    .loss
                    .restart_suspected(evidence, unflushed);
                if matches!(
                    evidence,
                    RestartEvidence::Session | RestartEvidence::FlushFailed
                ) {
                    self.tell_siblings(handle);
                }
                Some(handle)
            }
            Notice::PathSilent(target, _)
            | Notice::PathBack(target, _)
            | Notice::PayloadChanged(target, _)
            | Notice::Session(target, _)
            | Notice::Resized { target, .. } => self.handle_of(target),
            Notice::Rogue { .. } => None,
        }
    }

    /// Lets the other shards ask for their sessions now, so that a loss is told once, and not shard by shard as they come to need
    /// them. Where there is no room, a shard finds out by itself.
    fn tell_siblings(&self, handle: TargetHandle) {
        for (shard, door) in self.hub.doors.iter().enumerate() {
            if shard != self.number && door.controls.push(Control::Inquire { handle }).is_ok() {
                door.doorbell.notify();
            }
        }
    }

    fn end_attach(&mut self, target: TargetId) -> Option<Attaching> {
        let waiting = &mut self.control.attaching;
        let place = waiting.iter().position(|each| each.target == target)?;
        Some(waiting.swap_remove(place))
    }

    fn stat(&mut self) -> ShardStat {
        let targets = (0..)
            .zip(self.targets)
            .filter_map(|(index, entry)| {
                let (generation, target) = entry?;
                Some(TargetStat {
                    handle: TargetHandle { index, generation },
                    info: self.initiator.target(target)?,
                })
            })
            .collect();
        ShardStat {
            shard: self.number,
            core: self.core,
            scheduling: os::scheduling(),
            counters: self.counters,
            initiator: self.initiator.counters(),
            links: self
                .ports
                .iter_mut()
                .map(|port| LinkStat {
                    info: port.link.info().clone(),
                    counters: port.link.counters(),
                })
                .collect(),
            targets,
            latency: self.latency.clone(),
            open_requests: self.open_requests(),
            cache: self.cache.as_ref().map(|cache| cache.stat()),
            unaccounted: self.initiator.unaccounted(),
        }
    }

    /// Whether it was told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.control.stopping.is_some()
    }

    fn report(&self) -> StopReport {
        StopReport {
            open_requests: self.open_requests() + self.hub.doors[self.number].jobs.len(),
            unaccounted: self.initiator.unaccounted(),
        }
    }

    /// Whether the loop ends: told to stop, and nothing is under way or it has taken too long.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.control
            .stopping
            .as_ref()
            .is_some_and(|stopping| self.now >= stopping.deadline || self.report().is_clean())
    }

    /// Leaves the loop: answers what is left, tells what was left.
    pub fn finish(mut self) -> StopReport {
        let report = self.report();
        if let Some(reply) = self
            .control
            .stopping
            .as_mut()
            .and_then(|each| each.reply.take())
        {
            answer(&reply, report);
        }
        report
    }
}

impl<L> Drop for super::Shard<L> {
    /// Also when the loop panicked: nobody waits for an answer that can't come.
    fn drop(&mut self) {
        for open in self.open.iter_mut().filter_map(Option::take) {
            if let Asker::Client { mailbox, slot } = open.asker {
                mailbox.deliver(Done {
                    slot,
                    completed_at: self.now,
                    result: Err(RequestError::Stopped),
                    buffer: Buffer::empty(),
                });
            }
        }
        // Before the cache's part is dropped: who asks for a page after that finds the door closed.
        self.hub.doors[self.number].close();
    }
}
