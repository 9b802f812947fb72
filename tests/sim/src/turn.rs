//! One turn of a host's loop: frames in, completions of transmission, timers, ends of requests, new requests, frames
//! out.

use std::time::Duration;

use sandrail_proto::aoe::initiator::{
    AttachError, Completion, Durability, IfClosed, InterfaceId, IoError, Notice, Operation,
    Outcome, PinnedMacs, Request, RequestId, SubmitError,
};
use sandrail_proto::time::Instant;
use sandrail_wire::aoe::{ConfigCommand, ReserveCommand};
use sandrail_wire::{FrameRef, Lba, MacAddr, TargetAddr};

use crate::bytes;
use crate::host::{Ask, Attachment, DEADLINE_SLACK_NS, Done, Pending, Ticket};
use crate::net::FrameId;
use crate::oracle::FlushSeen;
use crate::stamp::{self, SECTOR_BYTES, Stamp};
use crate::violation::{Promise, Violation};
use crate::world::World;

/// A UMEM chunk's share of a frame.
const SEGMENT_BYTES: usize = 3840;
/// Calls for which a timer may stay due without a frame, request or time passing.
const TIMER_CALLS_MAX: u32 = 64;
/// A failed attach is tried again after this.
const ATTACH_AGAIN_NS: u64 = 20_000_000;

fn at(now_ns: u64) -> Instant {
    Instant::from_nanos(now_ns)
}

impl World {
    pub(crate) fn turn(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.initiator.is_none() {
            return;
        }
        if self.now_ns < host.paused_until_ns {
            let until_ns = host.paused_until_ns;
            self.wake(index, until_ns);
            return;
        }
        self.tally.turns += 1;
        host.next_turn_ns = self.now_ns + host.spec.turn_ns;
        if self.rng.bool() {
            self.report_sent(index);
            self.receive(index);
        } else {
            self.receive(index);
            self.report_sent(index);
        }
        self.timers(index);
        self.attach(index);
        self.ends(index);
        self.submit_load(index);
        let full = self.work_off(index);
        self.ends(index);
        self.judge_deadlines(index);
        self.plan_turn(index, full);
    }

    fn plan_turn(&mut self, index: usize, full: bool) {
        let host = &self.hosts[index];
        let Some(initiator) = &host.initiator else {
            return;
        };
        let mut at_ns = initiator.poll_timeout().map_or(u64::MAX, Instant::as_nanos);
        if at_ns <= self.now_ns {
            // What is due can't be sent: the loop spins, but not in virtual time.
            at_ns = self.now_ns + 10_000;
        }
        for rings in &host.rings {
            at_ns = at_ns.min(rings.reports.front().copied().unwrap_or(u64::MAX));
        }
        if self.now_ns < host.transmit_blocked_until_ns {
            at_ns = at_ns.min(host.transmit_blocked_until_ns);
        }
        if full {
            at_ns = at_ns.min(self.now_ns + 10_000);
        }
        if host.pending_count > 0 {
            at_ns = at_ns.min(host.next_deadline_ns.saturating_add(DEADLINE_SLACK_NS + 1));
        }
        for attachment in host
            .attachments
            .iter()
            .filter(|attachment| attachment.id.is_none())
        {
            at_ns = at_ns.min(attachment.retry_at_ns);
        }
        if let Some(load) = &host.load
            && load.left() > 0
            && host.pending_count < load.depth()
            && host.attachments.iter().any(|attachment| attachment.up)
        {
            at_ns = at_ns.min(load.next_at_ns.max(self.now_ns + 1_000));
        }
        if at_ns != u64::MAX {
            self.wake(index, at_ns);
        }
    }

    fn report_sent(&mut self, index: usize) {
        let now_ns = self.now_ns;
        for interface in 0..self.hosts[index].rings.len() {
            let host = &mut self.hosts[index];
            let rings = &mut host.rings[interface];
            let before = rings.reported;
            while rings.reports.front().is_some_and(|at_ns| *at_ns <= now_ns) {
                rings.reports.pop_front();
                rings.reported += 1;
            }
            let reported = rings.reported;
            if reported > before {
                self.watch.reported(now_ns, index, interface, reported);
                if let Some(initiator) = &mut host.initiator {
                    initiator.handle_sent(at(now_ns), InterfaceId(interface as u8), reported);
                }
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let mut inbox = core::mem::take(&mut self.hosts[index].inbox);
        for (interface, id) in inbox.drain(..) {
            self.note_frame("received", id);
            self.receive_one(index, interface, id);
            self.pool.give(id);
        }
        self.hosts[index].inbox = inbox;
    }

    fn receive_one(&mut self, index: usize, interface: u8, id: FrameId) {
        let now_ns = self.now_ns;
        let frame = self.pool.get(id);
        if let Some(fields) = bytes::parse(&frame.bytes)
            && fields.response
        {
            self.watch.answered(now_ns, index, fields.tag, fields.src);
            if let Some(target) = self.target_at(fields.src, fields.shelf, fields.slot) {
                let attachment = &mut self.hosts[index].attachments[usize::from(target)];
                match frame.advertised_ns {
                    Some(sent_ns) if attachment.up => {
                        attachment.advert_seen_ns = attachment.advert_seen_ns.max(Some(sent_ns));
                    }
                    Some(_) => {}
                    None => attachment.unanswered_since_ns = None,
                }
            }
        }
        let host = &mut self.hosts[index];
        let Some(initiator) = &mut host.initiator else {
            return;
        };
        let tagged;
        let whole: &[u8] = match host.spec.interfaces[usize::from(interface)].vlan {
            Some(vlan) => {
                tagged = [
                    &frame.bytes[..12],
                    &[0x81, 0x00],
                    &vlan.to_be_bytes(),
                    &frame.bytes[12..],
                ]
                .concat();
                &tagged
            }
            None => &frame.bytes,
        };
        let (head, mut rest) = if host.spec.segments && whole.len() > SEGMENT_BYTES {
            whole.split_at(SEGMENT_BYTES)
        } else {
            (whole, &[][..])
        };
        let mut segments = FrameRef::new(head);
        while !rest.is_empty() {
            let (segment, left) = rest.split_at(rest.len().min(SEGMENT_BYTES));
            assert!(
                segments.push(segment).is_ok(),
                "an MTU of 9000 takes three segments"
            );
            rest = left;
        }
        initiator.handle_frame(at(now_ns), InterfaceId(interface), &segments);
    }

    fn timers(&mut self, index: usize) {
        let now = self.instant();
        let Some(initiator) = &mut self.hosts[index].initiator else {
            return;
        };
        if initiator.poll_timeout().is_some_and(|due| due <= now) {
            initiator.handle_timeout(now);
        }
    }

    /// Timers and transmission until nothing is due any more; whether a ring was full.
    fn work_off(&mut self, index: usize) -> bool {
        for _ in 0..TIMER_CALLS_MAX {
            let now = self.instant();
            let full = self.transmit(index);
            let host = &mut self.hosts[index];
            let Some(initiator) = &mut host.initiator else {
                return full;
            };
            let due = initiator.poll_timeout().is_some_and(|due| due <= now);
            if full
                || !due
                || self.now_ns < host.transmit_blocked_until_ns
                || self.violation.is_some()
            {
                return full;
            }
            initiator.handle_timeout(now);
        }
        let initiator = self.hosts[index].initiator.as_ref();
        let text = format!(
            "poll_timeout() stays in the past however often handle_timeout() and poll_transmit() are called: {:?}",
            initiator.map(|initiator| initiator.counters())
        );
        self.accuse(Violation::new(Promise::Livelock, text));
        false
    }

    fn attach(&mut self, index: usize) {
        let now = self.instant();
        for target in 0..self.blades.len() {
            let host = &mut self.hosts[index];
            let attachment = &mut host.attachments[target];
            if attachment.id.is_some() || self.now_ns < attachment.retry_at_ns {
                continue;
            }
            let Some(initiator) = &mut host.initiator else {
                return;
            };
            let spec = &self.blades[target].target.spec;
            let addr = TargetAddr {
                shelf: spec.shelf,
                slot: spec.slot,
            };
            let macs: Vec<MacAddr> = spec.macs.iter().map(|mac| MacAddr(*mac)).collect();
            let pinned = if host.spec.pins {
                PinnedMacs::new(&macs).expect("few stations")
            } else {
                PinnedMacs::first_to_answer()
            };
            match initiator.attach(now, addr, pinned) {
                Ok(id) => attachment.id = Some(id),
                // It was detached, and copies of its writes are unaccounted for.
                Err(AttachError::Attached(_)) => {
                    attachment.retry_at_ns = self.now_ns + ATTACH_AGAIN_NS;
                }
                Err(error) => {
                    let text = format!("attach of {addr:?} refused: {error}");
                    self.accuse(Violation::new(Promise::Completion, text));
                    return;
                }
            }
        }
    }

    /// Lets a target go; the next turn attaches it again.
    pub(crate) fn detach(&mut self, index: usize, target: u8) {
        let now = self.instant();
        let host = &mut self.hosts[index];
        let attachment = &mut host.attachments[usize::from(target)];
        let (Some(initiator), Some(id)) = (&mut host.initiator, attachment.id.take()) else {
            return;
        };
        initiator.detach(now, id);
        *attachment = Attachment::default();
        self.ends(index);
        let left = self.hosts[index]
            .pending
            .iter()
            .flatten()
            .any(|pending| pending.target == target);
        self.insist(!left, Promise::Completion, || {
            format!("target {target} was detached, and requests to it go on")
        });
        // Whoever attaches it again knows nothing of what was not flushed.
        self.release_region(index, target);
        self.wake(index, self.now_ns);
    }

    fn ends(&mut self, index: usize) {
        loop {
            let Some(initiator) = &mut self.hosts[index].initiator else {
                return;
            };
            if let Some(completion) = initiator.poll_event() {
                self.end(index, completion);
                continue;
            }
            let Some(notice) = initiator.poll_notice() else {
                return;
            };
            self.notice(index, notice);
        }
    }

    fn notice(&mut self, index: usize, notice: Notice) {
        let now_ns = self.now_ns;
        self.note(|| format!("host {index} {notice:?}"));
        let attachments = &mut self.hosts[index].attachments;
        match notice {
            Notice::Attached(id) => {
                if let Some(attachment) = attachments
                    .iter_mut()
                    .find(|attachment| attachment.id == Some(id))
                {
                    attachment.up = true;
                    attachment.attached_at_ns = Some(now_ns);
                }
            }
            Notice::AttachFailed(id, ..) => {
                if let Some(attachment) = attachments
                    .iter_mut()
                    .find(|attachment| attachment.id == Some(id))
                {
                    attachment.id = None;
                    attachment.retry_at_ns = now_ns + ATTACH_AGAIN_NS;
                }
            }
            _ => {}
        }
        if let Some(notices) = &mut self.notices {
            notices.push((now_ns, index as u8, notice));
        }
    }

    fn submit_load(&mut self, index: usize) {
        loop {
            let host = &mut self.hosts[index];
            let Some(load) = &mut host.load else { return };
            if host.pending_count >= load.depth()
                || !host.attachments.iter().any(|attachment| attachment.up)
            {
                return;
            }
            let Some((target, ask, timeout_ns)) = load.next(self.now_ns) else {
                return;
            };
            // Refusals are counted and are no fault; the request is gone.
            let _ = self.submit(index, target, ask, Duration::from_nanos(timeout_ns));
        }
    }

    /// Asks something of a host's initiator, now.
    ///
    /// # Errors
    /// What the initiator says; `NotAttached` also while it is crashed.
    pub fn submit(
        &mut self,
        index: usize,
        target: u8,
        ask: Ask,
        timeout: Duration,
    ) -> Result<Ticket, SubmitError> {
        let now_ns = self.now_ns;
        let stamp = self.oracle.next_stamp();
        let host = &mut self.hosts[index];
        let place = host.place();
        let (Some(initiator), Some(id)) = (
            &mut host.initiator,
            host.attachments[usize::from(target)].id,
        ) else {
            self.tally.rejected += 1;
            return Err(SubmitError::NotAttached);
        };
        let (lba, sectors) = ask.extent();
        let (operation, buffer) = prepare(ask, stamp, target);
        let request = Request {
            target: id,
            operation,
            buffer,
            timeout,
            user: place as u64,
        };
        let submitted = initiator.submit(at(now_ns), request);
        let id: RequestId = match submitted {
            Ok(id) => id,
            Err(rejected) => {
                self.tally.rejected += 1;
                if matches!(ask, Ask::Write { .. }) {
                    self.insist(
                        stamp::intact(&rejected.buffer, stamp, target, lba),
                        Promise::Buffer,
                        || format!("the buffer of a refused {ask:?} came back changed"),
                    );
                }
                self.note(|| format!("host {index} refused {ask:?}: {}", rejected.error));
                return Err(rejected.error);
            }
        };
        let stamp = matches!(ask, Ask::Write { .. })
            .then(|| self.oracle.write_submitted(target, lba, sectors));
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline_ns = now_ns.saturating_add(crate::host::ns(timeout));
        let begun = self.oracle.moment();
        let submitted_ns = now_ns;
        #[rustfmt::skip]
        let pending = Pending { ask, target, ticket, stamp, begun, submitted_ns, deadline_ns, id };
        let host = &mut self.hosts[index];
        host.pending[place] = Some(pending);
        host.pending_count += 1;
        host.next_deadline_ns = host.next_deadline_ns.min(deadline_ns);
        self.tally.requests += 1;
        self.note(|| {
            format!(
                "host {index} asks target {target} for {ask:?} {}",
                stamp.map_or(String::new(), |stamp| stamp.to_string())
            )
        });
        self.wake(index, now_ns);
        Ok(ticket)
    }

    fn end(&mut self, index: usize, completion: Completion<Vec<u8>>) {
        let place = completion.user as usize;
        let known = self.hosts[index]
            .pending
            .get_mut(place)
            .and_then(Option::take);
        let Some(pending) = known.filter(|pending| pending.id == completion.id) else {
            let text = format!(
                "a completion of nothing that is under way: {:?} {:?}",
                completion.operation, completion.result
            );
            self.accuse(Violation::new(Promise::Completion, text));
            return;
        };
        self.hosts[index].pending_count -= 1;
        let (ask, target) = (pending.ask, pending.target);
        self.note(|| {
            let stamp = pending
                .stamp
                .map_or(String::new(), |stamp| stamp.to_string());
            format!(
                "host {index} target {target} {ask:?} {stamp} ends: {:?}",
                completion.result
            )
        });
        self.insist(
            completion.submitted_at == at(pending.submitted_ns),
            Promise::Completion,
            || format!("submitted_at of {ask:?} is wrong"),
        );
        self.judge_end(index, &pending, &completion);
        match completion.result {
            Ok(_) => self.tally.succeeded += 1,
            Err(IoError::Deadline { .. }) => self.tally.deadlines += 1,
            Err(_) => self.tally.failed += 1,
        }
        if let Some(done) = &mut self.done {
            let (ticket, submitted_ns) = (pending.ticket, pending.submitted_ns);
            done.push(Done {
                ticket,
                ask,
                submitted_ns,
                at_ns: self.now_ns,
                result: completion.result,
            });
        }
        if let Err(IoError::UnflushedLost(_)) = completion.result {
            self.tally.losses_told += 1;
            // The user takes note, and in this model writes nothing again.
            self.release_region(index, target);
            let host = &mut self.hosts[index];
            if let (Some(initiator), Some(id)) = (
                &mut host.initiator,
                host.attachments[usize::from(target)].id,
            ) {
                initiator.accept_loss(id);
            }
        }
    }

    fn judge_end(&mut self, index: usize, pending: &Pending, completion: &Completion<Vec<u8>>) {
        let (ask, target, buffer) = (pending.ask, pending.target, &completion.buffer);
        if let Err(IoError::Deadline { .. }) = completion.result {
            let early = self.now_ns < pending.deadline_ns;
            self.insist(!early, Promise::Completion, || {
                format!("{ask:?} was given up before its deadline")
            });
        }
        match (ask, &completion.result) {
            (Ask::Write { lba, sectors, .. }, result) => {
                let stamp = pending.stamp.expect("a write has one");
                let whole = buffer.len() == sectors as usize * SECTOR_BYTES;
                self.insist(
                    whole && stamp::intact(buffer, stamp, target, lba),
                    Promise::Buffer,
                    || format!("the buffer of {ask:?} came back changed"),
                );
                self.insist(
                    matches!(result, Ok(Outcome::Written) | Err(_)),
                    Promise::Completion,
                    || format!("{ask:?} ended as {result:?}"),
                );
                self.oracle.write_over(stamp, result.is_ok());
            }
            (Ask::Read { lba, sectors }, Ok(Outcome::Read)) => {
                let whole = buffer.len() == sectors as usize * SECTOR_BYTES;
                self.insist(whole, Promise::Buffer, || {
                    format!("the buffer of {ask:?} has another length")
                });
                let result = self.oracle.read_over(target, lba, buffer, pending.begun);
                self.check(result);
            }
            (Ask::Flush, Ok(Outcome::Flushed(durability))) => {
                self.judge_flush(index, pending, *durability)
            }
            (Ask::Read { .. } | Ask::Flush, Ok(other)) => {
                let text = format!("{ask:?} ended as {other:?}");
                self.accuse(Violation::new(Promise::Completion, text));
            }
            _ => {}
        }
    }

    /// S7: what was acknowledged before the flush was submitted is there, unless nobody could have noticed its loss.
    fn judge_flush(&mut self, index: usize, pending: &Pending, durability: Durability) {
        let target = pending.target;
        let attachment = self.hosts[index].attachments[usize::from(target)];
        let region = match &self.hosts[index].load {
            Some(load) => load.region(target),
            None => (0, self.blades[usize::from(target)].target.spec.sectors_most),
        };
        let blade = &mut self.blades[usize::from(target)];
        // A volatile blade's answer may be older than what it has lost since.
        let mut excused = self.machine.is_some() && durability != Durability::Claimed;
        for loss in &mut blade.losses {
            let advertised = loss
                .up_ns
                .is_some_and(|up_ns| attachment.advert_seen_ns >= Some(up_ns));
            if advertised || loss.silence_noticed[index] || loss.written_off[index] {
                continue;
            }
            excused = true;
            // Whatever it took was acknowledged before it was over: a flush from then on settles it.
            loss.written_off[index] = loss.up_ns.is_some_and(|up_ns| pending.submitted_ns > up_ns);
        }
        let flush = FlushSeen {
            begun: pending.begun,
            promised: durability == Durability::Claimed,
            excused,
        };
        for lba in region.0..region.0 + region.1 {
            if let Err(violation) = self.judge_sector_flushed(target, lba, flush) {
                self.accuse(violation);
                return;
            }
        }
    }

    fn judge_deadlines(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.pending_count == 0
            || self.now_ns <= host.next_deadline_ns.saturating_add(DEADLINE_SLACK_NS)
        {
            return;
        }
        host.next_deadline_ns = host.earliest_deadline();
        let limit_ns = self.now_ns.saturating_sub(DEADLINE_SLACK_NS);
        let late = host
            .pending
            .iter()
            .flatten()
            .find(|pending| pending.deadline_ns < limit_ns);
        if let Some(pending) = late {
            let text = format!(
                "{:?} submitted at {} us was to end by {} us and has not",
                pending.ask,
                pending.submitted_ns / 1000,
                pending.deadline_ns / 1000
            );
            self.accuse(Violation::new(Promise::Completion, text));
        }
    }
}

/// What is asked in the initiator's words, with the buffer that it takes.
fn prepare(ask: Ask, stamp: Stamp, target: u8) -> (Operation, Vec<u8>) {
    let (lba, sectors) = ask.extent();
    let mut buffer = vec![0; sectors as usize * SECTOR_BYTES];
    let operation = match ask {
        Ask::Read { lba, .. } => Operation::Read { lba: Lba(lba) },
        Ask::Write { refuse, .. } => {
            stamp::fill(&mut buffer, stamp, target, lba);
            let if_closed = if refuse {
                IfClosed::Refuse
            } else {
                IfClosed::Wait
            };
            Operation::Write {
                lba: Lba(lba),
                if_closed,
            }
        }
        Ask::Flush => Operation::Flush,
        Ask::Identify => {
            buffer.resize(SECTOR_BYTES, 0);
            Operation::Identify
        }
        Ask::ReadConfig | Ask::ReadReservation => {
            buffer.resize(2 * SECTOR_BYTES, 0);
            if ask == Ask::ReadConfig {
                Operation::Config {
                    command: ConfigCommand::Read,
                    len_bytes: 0,
                }
            } else {
                Operation::Reserve {
                    command: ReserveCommand::Read,
                    len_bytes: 0,
                }
            }
        }
    };
    (operation, buffer)
}
