//! Targets at work: sockets that fill, processes that stop, end and start again.

use std::collections::VecDeque;

use crate::bytes::{self, Mac};
use crate::net::FrameId;
use crate::target::{Target, TargetSpec};
use crate::violation::Promise;
use crate::world::{Event, World};

/// One socket and the process that reads it.
#[derive(Debug, Default)]
pub struct Queue {
    pub(crate) frames: VecDeque<(u8, FrameId)>,
    pub(crate) at_work: Vec<(u8, FrameId)>,
    /// Finished while the process was stopped.
    pub(crate) stalled: Vec<FrameId>,
    pub(crate) paused: bool,
    /// Counts pauses, so that the end of one does not end the next.
    pub(crate) pause_era: u32,
}

/// A failure of power that took something, and who could have noticed.
#[derive(Clone, Debug)]
pub(crate) struct PowerLoss {
    pub(crate) at_ns: u64,
    pub(crate) up_ns: Option<u64>,
    /// Per host: it was silent long enough.
    pub(crate) silence_noticed: Vec<bool>,
    /// Per host: a flush submitted after it was excused by it.
    pub(crate) written_off: Vec<bool>,
}

/// A target with its sockets.
#[derive(Debug)]
pub struct Blade {
    /// The model.
    pub target: Target,
    /// Its sockets.
    pub queues: Vec<Queue>,
    /// It is not there.
    pub down: bool,
    pub(crate) first_port: u8,
    pub(crate) era: u32,
    pub(crate) losses: Vec<PowerLoss>,
    /// Most ATA frames that were in one socket and at work at once; config queries come on top.
    pub crowd_max: usize,
}

impl Blade {
    pub(crate) fn new(index: u8, spec: TargetSpec, first_port: u8) -> Self {
        let count = if spec.socket_per_mac {
            spec.macs.len()
        } else {
            1
        };
        let mut queues = Vec::new();
        queues.resize_with(count, Queue::default);
        Self {
            target: Target::new(index, spec),
            queues,
            down: false,
            first_port,
            era: 0,
            losses: Vec::new(),
            crowd_max: 0,
        }
    }

    /// The socket that frames to a station's address end up in.
    pub(crate) fn queue_to(&self, mac: Mac) -> u8 {
        let station = self.target.spec.macs.iter().position(|own| *own == mac);
        self.queue_of(station.unwrap_or(0) as u8)
    }

    /// The socket that frames to a station end up in.
    pub(crate) fn queue_of(&self, station: u8) -> u8 {
        if self.target.spec.socket_per_mac {
            station
        } else {
            0
        }
    }
}

impl World {
    pub(crate) fn enqueue(&mut self, target: u8, station: u8, frame: FrameId) {
        let blade = &mut self.blades[usize::from(target)];
        let queue_index = blade.queue_of(station);
        let queue = &mut blade.queues[usize::from(queue_index)];
        if blade.down || !blade.target.accepts(&self.pool.get(frame).bytes) {
            self.discard(frame);
            return;
        }
        if queue.frames.len() >= blade.target.spec.socket_frames {
            self.tally.socket_drops += 1;
            self.discard(frame);
            return;
        }
        queue.frames.push_back((station, frame));
        let is_ata = |(_, frame): &(u8, FrameId)| self.pool.get(*frame).bytes.get(19) == Some(&0);
        let crowd = queue
            .frames
            .iter()
            .chain(&queue.at_work)
            .filter(|entry| is_ata(entry));
        blade.crowd_max = blade.crowd_max.max(crowd.count());
        if let Some(copy) = self.pool.get(frame).copy {
            self.watch.queued(copy, queue_index);
        }
        self.serve(target, queue_index);
    }

    fn serve(&mut self, target: u8, queue_index: u8) {
        loop {
            let blade = &mut self.blades[usize::from(target)];
            let queue = &mut blade.queues[usize::from(queue_index)];
            if queue.paused
                || blade.down
                || queue.at_work.len() >= usize::from(blade.target.spec.workers)
            {
                return;
            }
            let Some((station, frame)) = queue.frames.pop_front() else {
                return;
            };
            queue.at_work.push((station, frame));
            let (least_ns, spread_ns) = blade.target.spec.service_ns;
            let era = blade.era;
            let until_ns = self.now_ns
                + least_ns
                + if spread_ns == 0 {
                    0
                } else {
                    self.rng.u64(..spread_ns)
                };
            self.at(
                until_ns,
                Event::Served {
                    target,
                    queue: queue_index,
                    era,
                    frame,
                },
            );
        }
    }

    pub(crate) fn served(&mut self, target: u8, queue_index: u8, era: u32, frame: FrameId) {
        let blade = &mut self.blades[usize::from(target)];
        if era != blade.era {
            return;
        }
        let queue = &mut blade.queues[usize::from(queue_index)];
        if queue.paused {
            queue.stalled.push(frame);
            return;
        }
        let Some(place) = queue
            .at_work
            .iter()
            .position(|(_, at_work)| *at_work == frame)
        else {
            return;
        };
        let (station, frame) = queue.at_work.remove(place);
        self.carry_out(target, queue_index, station, frame, true);
        self.serve(target, queue_index);
    }

    fn carry_out(
        &mut self,
        target: u8,
        queue_index: u8,
        station: u8,
        frame: FrameId,
        answers: bool,
    ) {
        self.note_frame("executed", frame);
        let blade = &mut self.blades[usize::from(target)];
        let mac = blade.target.spec.macs[usize::from(station)];
        let mut reply = core::mem::take(&mut self.reply);
        let executed =
            blade
                .target
                .execute(mac, &self.pool.get(frame).bytes, &mut reply, &mut self.rng);
        let port = blade.first_port + station;
        if let Some(copy) = self.pool.get(frame).copy {
            self.watch.over(copy, queue_index);
        }
        self.pool.give(frame);
        if executed.replies && answers {
            let id = self.pool.take();
            self.pool.get_mut(id).bytes.extend_from_slice(&reply);
            self.launch(id, port, self.now_ns);
        }
        self.reply = reply;
    }

    pub(crate) fn pause_target(&mut self, target: u8, queue_index: u8, for_ns: u64) {
        let blade = &mut self.blades[usize::from(target)];
        let count = blade.queues.len() as u8;
        let queue_index = queue_index % count;
        let queue = &mut blade.queues[usize::from(queue_index)];
        queue.paused = true;
        queue.pause_era += 1;
        let era = queue.pause_era;
        self.at(
            self.now_ns.saturating_add(for_ns),
            Event::Resume {
                target,
                queue: queue_index,
                era,
            },
        );
    }

    pub(crate) fn resume(&mut self, target: u8, queue_index: u8, pause_era: u32) {
        let blade = &mut self.blades[usize::from(target)];
        let queue = &mut blade.queues[usize::from(queue_index)];
        if queue.pause_era != pause_era || !queue.paused {
            return;
        }
        queue.paused = false;
        let era = blade.era;
        for frame in core::mem::take(&mut queue.stalled) {
            self.served(target, queue_index, era, frame);
        }
        self.note(|| format!("target {target} socket {queue_index} resumes"));
        self.serve(target, queue_index);
    }

    /// The process ends, or power fails. Frames at work were carried out or not, unanswered; those in sockets are lost.
    pub(crate) fn stop_target(&mut self, target: u8, power: bool) {
        let index = usize::from(target);
        if self.blades[index].down {
            return;
        }
        self.blades[index].down = true;
        self.blades[index].era += 1;
        for queue_index in 0..self.blades[index].queues.len() as u8 {
            let queue = &mut self.blades[index].queues[usize::from(queue_index)];
            queue.paused = false;
            queue.stalled.clear();
            let at_work = core::mem::take(&mut queue.at_work);
            let waiting = core::mem::take(&mut queue.frames);
            for (station, frame) in at_work {
                if self.rng.bool() {
                    self.carry_out(target, queue_index, station, frame, false);
                } else {
                    self.drop_queued(frame, queue_index);
                }
            }
            for (_, frame) in waiting {
                self.drop_queued(frame, queue_index);
            }
        }
        if !power {
            self.blades[index].target.forget();
            return;
        }
        let (target_model, rng) = (&mut self.blades[index].target, &mut self.rng);
        let share = rng.u8(..=255);
        let lost = target_model.crash(|_| rng.u8(..) <= share);
        self.tally.sectors_lost += lost.len() as u64;
        if lost.is_empty() {
            return;
        }
        self.note(|| format!("target {target} lost sectors {lost:?}"));
        let hosts = self.hosts.len();
        let loss = PowerLoss {
            at_ns: self.now_ns,
            up_ns: None,
            silence_noticed: vec![false; hosts],
            written_off: vec![false; hosts],
        };
        self.blades[index].losses.push(loss);
        for lba in lost {
            let result =
                self.oracle
                    .sector_lost(target, lba, self.blades[index].target.sector(lba));
            self.check(result);
        }
    }

    fn drop_queued(&mut self, frame: FrameId, queue_index: u8) {
        self.note_frame("dropped", frame);
        if let Some(copy) = self.pool.get(frame).copy {
            self.watch.over(copy, queue_index);
        }
        self.pool.give(frame);
    }

    pub(crate) fn start_target(&mut self, target: u8, advertises: bool) {
        let index = usize::from(target);
        if !self.blades[index].down {
            return;
        }
        self.blades[index].down = false;
        self.note(|| format!("target {target} starts"));
        let now_ns = self.now_ns;
        for loss in self.blades[index]
            .losses
            .iter_mut()
            .filter(|loss| loss.up_ns.is_none())
        {
            loss.up_ns = Some(now_ns);
            for (host, noticed) in self.hosts.iter().zip(&mut loss.silence_noticed) {
                // Asked after the failure and not answered since: the initiator knows no better than that it was
                // silent.
                let limit_ns = crate::host::ns(host.spec.config.restart_silence) + 5_000_000;
                let asked = host.attachments[index]
                    .unanswered_since_ns
                    .filter(|since| *since >= loss.at_ns);
                *noticed = asked.is_some_and(|since_ns| now_ns >= since_ns + limit_ns);
            }
        }
        if advertises {
            for station in 0..self.blades[index].target.spec.macs.len() as u8 {
                let id = self.pool.take();
                let blade = &self.blades[index];
                let frame = self.pool.get_mut(id);
                blade.target.advertisement(
                    blade.target.spec.macs[usize::from(station)],
                    &mut frame.bytes,
                );
                frame.advertised_ns = Some(now_ns);
                let port = blade.first_port + station;
                self.note_frame("sent", id);
                self.launch(id, port, now_ns);
            }
        }
    }

    pub(crate) fn heal_target(&mut self, target: u8) {
        self.start_target(target, true);
        let index = usize::from(target);
        self.blades[index].target.reserve(&[]);
        for queue_index in 0..self.blades[index].queues.len() as u8 {
            let era = self.blades[index].queues[usize::from(queue_index)].pause_era;
            self.resume(target, queue_index, era);
        }
    }

    /// A stranger answers config queries for the target's address, and must never see anything else.
    pub(crate) fn rogue(&mut self, target: u8, port: u8, frame: FrameId) {
        let mac = self.net.ports[usize::from(port)].mac;
        let parsed = bytes::parse(&self.pool.get(frame).bytes);
        let addressed = parsed.is_some_and(|fields| fields.dst == mac);
        self.insist(!addressed, Promise::Address, || {
            format!("a frame went to the rogue: {parsed:?}")
        });
        let asks = parsed.is_some_and(|fields| fields.command == 1 && !fields.response);
        if asks
            && self.blades[usize::from(target)]
                .target
                .accepts(&self.pool.get(frame).bytes)
        {
            let mut reply = core::mem::take(&mut self.reply);
            let model = &mut self.blades[usize::from(target)].target;
            model.execute(mac, &self.pool.get(frame).bytes, &mut reply, &mut self.rng);
            let id = self.pool.take();
            self.pool.get_mut(id).bytes.extend_from_slice(&reply);
            self.launch(id, port, self.now_ns);
            self.reply = reply;
        }
        self.discard(frame);
    }
}
