//! Stations that speak to a blade by bytes of their own making, and do what a well-behaved initiator would not: write again
//! at once where copies are still under way, go on writing when they were shut out, flood.
//!
//! What they write and read is judged by the [`oracle`](crate::oracle) like everybody's. A [`Kind::Coordinator`] replaces
//! the reservation by epochs, in competition with others and with late copies of its own requests; a [`Kind::Operator`]
//! sets config string and mask.

use crate::bytes::{self, DATA, Fields, Mac, Vendor};
use crate::host::Ask;
use crate::net::FrameId;
use crate::oracle::{FlushSeen, Moment};
use crate::sleeper::Sleeper;
use crate::stamp::{self, SECTOR_BYTES, Stamp};
use crate::violation::{Promise, Violation};
use crate::world::{Event, World};

/// Sends, at most, so many copies of a request under one tag: the tag has four bits for them.
const COPIES_MAX: u8 = 15;

/// A random load of writes and reads.
#[derive(Clone, Debug)]
pub struct WriterSpec {
    /// First sector, and how many.
    pub region: (u64, u64),
    /// Requests in all.
    pub requests: u32,
    /// Under way at once.
    pub depth: usize,
    /// Sectors of a request, at most: one frame's.
    pub sectors_max: u64,
    /// WRITEs, out of a thousand.
    pub write_permille: u16,
    /// FLUSHes, out of a thousand.
    pub flush_permille: u16,
    /// Writes with a session; without, it is a foreign initiator.
    pub session: bool,
    /// Writes what overlaps with a write under way. After a session's end that one would be sent again, and come after it:
    /// only for where no session ends.
    pub overlaps: bool,
    /// Names its birth when it attaches; without, it is an initiator that knows of none.
    pub births: bool,
    /// Sleeps when it is shut out, while another life takes its place, and wakes: see [`sleeper`](crate::sleeper).
    pub sleeps: bool,
    /// Writes on with what it has when it is shut out.
    pub keeps_on: bool,
    /// A request must be answered within this; 0: whenever.
    pub within_ns: u64,
}

/// What a puppet does.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Writes and reads.
    Writer(WriterSpec),
    /// Replaces the reservation: by lists of these, so many times.
    Coordinator {
        /// Who may be on a list.
        macs: Vec<Mac>,
        /// SETs in all.
        sets: u32,
    },
    /// Sets config strings, and masks this station out and lets it in again.
    Operator {
        /// Everybody else.
        macs: Vec<Mac>,
        /// Changes in all.
        changes: u32,
    },
    /// Asks for state and config, and for the reservation by the old commands, whoever admits it.
    Asker {
        /// Questions in all.
        questions: u32,
        /// It also tries to reserve the target for itself by the old commands.
        sets: bool,
    },
}

/// A puppet.
#[derive(Clone, Debug)]
pub struct PuppetSpec {
    /// Its station.
    pub mac: Mac,
    /// What it does.
    pub kind: Kind,
    /// It sends again after this.
    pub rto_ns: u64,
    /// Time between requests, at most.
    pub think_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Ata {
        ask: Ask,
        stamp: Option<Stamp>,
        begun: Moment,
    },
    Attach,
    /// Of a life that slept.
    AttachAsleep,
    Hello,
    Reserve {
        epoch: u64,
        list: u64,
    },
    PlainSet,
    Config {
        number: u32,
    },
    AskConfig,
    Mask {
        shuts_out: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    pub(crate) purpose: Purpose,
    /// The tag without the copy's number.
    request: u32,
    copies: u8,
    again_at_ns: u64,
    first_at_ns: u64,
    /// A failed request's copies are as alive as any: the range is left alone until they are dead.
    given_up: bool,
}

/// A puppet at work.
#[derive(Debug)]
pub struct Puppet {
    /// What it is.
    pub spec: PuppetSpec,
    pub(crate) port: u8,
    pub(crate) rng: fastrand::Rng,
    pub(crate) incarnation: u64,
    pub(crate) birth: u32,
    pub(crate) asleep: Option<Sleeper>,
    session: u16,
    attached: bool,
    mark: Option<u64>,
    next_request: u32,
    left: u32,
    next_at_ns: u64,
    pub(crate) open: Vec<Open>,
    wake_at_ns: u64,
    pub(crate) stopped: bool,
    /// Sectors that are left alone until then: of writes that were given up.
    closed: Vec<(u64, u64, u64)>,
    /// Requests that were answered well.
    pub succeeded: u64,
    /// How long the slowest of them took.
    pub slowest_ns: u64,
}

impl Puppet {
    pub(crate) fn new(spec: PuppetSpec, port: u8, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let left = match &spec.kind {
            Kind::Writer(writer) => writer.requests,
            Kind::Coordinator { sets, .. } => *sets,
            Kind::Operator { changes, .. } => *changes,
            Kind::Asker { questions, .. } => *questions,
        };
        Self {
            incarnation: rng.u64(1..),
            next_request: rng.u32(..1 << 20),
            spec,
            port,
            rng,
            birth: 0,
            asleep: None,
            session: 0,
            attached: false,
            mark: None,
            left,
            next_at_ns: 0,
            open: Vec::new(),
            wake_at_ns: u64::MAX,
            stopped: false,
            closed: Vec::new(),
            succeeded: 0,
            slowest_ns: 0,
        }
    }

    /// Nothing is under way, and nothing more will be asked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.open.is_empty()
    }

    /// Another process begins, with the same MAC, and knows nothing of what the former had not flushed.
    pub(crate) fn live_anew(&mut self, incarnation: u64) {
        (self.incarnation, self.birth) = (incarnation, 0);
        (self.session, self.attached, self.mark) = (0, false, None);
    }

    pub(crate) const fn writer(&self) -> Option<&WriterSpec> {
        match &self.spec.kind {
            Kind::Writer(writer) => Some(writer),
            _ => None,
        }
    }

    pub(crate) fn begin(&mut self, purpose: Purpose, now_ns: u64) {
        self.next_request = (self.next_request + 1) & 0x00ff_ffff;
        self.open.push(Open {
            purpose,
            request: self.next_request,
            copies: 0,
            again_at_ns: now_ns,
            first_at_ns: now_ns,
            given_up: false,
        });
    }

    pub(crate) fn has(&self, wanted: impl Fn(&Purpose) -> bool) -> bool {
        self.open.iter().any(|open| wanted(&open.purpose))
    }

    /// Sectors that are not those of a write that was given up and may still be under way.
    fn place(&mut self, now_ns: u64, writer: &WriterSpec, sectors: u64) -> Option<u64> {
        let region = writer.region;
        self.closed.retain(|(.., until_ns)| *until_ns > now_ns);
        for _ in 0..8 {
            let lba = region.0 + self.rng.u64(..=region.1 - sectors);
            let free = |(first, count, _): &(u64, u64, u64)| {
                lba >= first + count || *first >= lba + sectors
            };
            let under_way = self.open.iter().filter_map(|open| match open.purpose {
                Purpose::Ata {
                    ask: Ask::Write { lba, sectors, .. },
                    ..
                } => Some((lba, sectors, 0)),
                _ => None,
            });
            if writer.overlaps {
                return Some(lba);
            }
            if self.closed.iter().all(free) && under_way.into_iter().all(|range| free(&range)) {
                return Some(lba);
            }
        }
        None
    }
}

impl World {
    pub(crate) fn wake_puppet(&mut self, index: usize, at_ns: u64) {
        let at_ns = at_ns.max(self.now_ns);
        let puppet = &mut self.puppets[index];
        if at_ns < puppet.wake_at_ns {
            puppet.wake_at_ns = at_ns;
            self.at(
                at_ns,
                Event::Puppet {
                    puppet: index as u8,
                },
            );
        }
    }

    pub(crate) fn puppet_due(&mut self, index: usize) {
        if self.puppets[index].wake_at_ns != self.now_ns {
            return;
        }
        self.puppets[index].wake_at_ns = u64::MAX;
        self.puppet_may_wake(index);
        self.puppet_asks(index);
        self.puppet_sends(index);
        let puppet = &self.puppets[index];
        let mut at_ns = puppet
            .open
            .iter()
            .map(|open| open.again_at_ns)
            .min()
            .unwrap_or(u64::MAX);
        if puppet.left > 0 {
            // Where it must wait for an answer, that wakes it.
            let soon_ns = if puppet.next_at_ns > self.now_ns {
                puppet.next_at_ns
            } else {
                self.now_ns + 500_000
            };
            at_ns = at_ns.min(soon_ns);
        }
        if let Some(sleeper) = &puppet.asleep {
            at_ns = at_ns.min(sleeper.wakes_at_ns.max(self.now_ns + 1));
        }
        if at_ns != u64::MAX {
            self.wake_puppet(index, at_ns);
        }
    }

    /// Begins what there is room for.
    fn puppet_asks(&mut self, index: usize) {
        let now_ns = self.now_ns;
        loop {
            let puppet = &mut self.puppets[index];
            if puppet.left == 0 || now_ns < puppet.next_at_ns || puppet.stopped {
                return;
            }
            let began = match puppet.spec.kind.clone() {
                Kind::Writer(writer) => self.puppet_writes(index, &writer),
                Kind::Coordinator { macs, .. } => self.puppet_reserves(index, &macs),
                Kind::Operator { .. } => self.puppet_operates(index),
                Kind::Asker { sets, .. } => {
                    let purpose = match puppet.rng.u8(..4) {
                        0 if sets => Purpose::PlainSet,
                        1 => Purpose::AskConfig,
                        _ => Purpose::Hello,
                    };
                    let idle = puppet.open.len() < 4;
                    if idle {
                        puppet.begin(purpose, now_ns);
                    }
                    idle
                }
            };
            if !began {
                return;
            }
            let puppet = &mut self.puppets[index];
            puppet.left -= 1;
            if puppet.spec.think_ns > 0 {
                puppet.next_at_ns = now_ns + puppet.rng.u64(..puppet.spec.think_ns);
            }
        }
    }

    fn puppet_writes(&mut self, index: usize, writer: &WriterSpec) -> bool {
        let now_ns = self.now_ns;
        let puppet = &mut self.puppets[index];
        if writer.session && !puppet.attached {
            if !puppet.has(|purpose| *purpose == Purpose::Attach) {
                puppet.begin(Purpose::Attach, now_ns);
            }
            return false;
        }
        if puppet.open.len() >= writer.depth {
            return false;
        }
        let kind = puppet.rng.u16(..1000);
        let sectors = puppet.rng.u64(1..=writer.sectors_max.min(writer.region.1));
        let ask = if kind < writer.flush_permille {
            Ask::Flush
        } else {
            let Some(lba) = puppet.place(now_ns, writer, sectors) else {
                return false;
            };
            if kind - writer.flush_permille < writer.write_permille {
                let refuse = false;
                Ask::Write {
                    lba,
                    sectors,
                    refuse,
                }
            } else {
                Ask::Read { lba, sectors }
            }
        };
        let begun = self.oracle.moment();
        let stamp = matches!(ask, Ask::Write { .. }).then(|| {
            let (lba, sectors) = ask.extent();
            self.oracle.write_submitted(0, lba, sectors)
        });
        self.tally.requests += 1;
        let purpose = Purpose::Ata { ask, stamp, begun };
        self.note(|| format!("puppet {index} {purpose:?}"));
        self.puppets[index].begin(purpose, now_ns);
        true
    }

    fn puppet_reserves(&mut self, index: usize, macs: &[Mac]) -> bool {
        let now_ns = self.now_ns;
        // Coordinators compete: two may use one epoch, and one may fall behind.
        if self.rng.u8(..4) != 0 {
            self.epoch_next += 1;
        }
        let epoch = self
            .epoch_next
            .saturating_sub(u64::from(self.rng.u8(..8) == 0))
            .max(1);
        let puppet = &mut self.puppets[index];
        if puppet.open.len() >= 3 {
            return false;
        }
        // A list is a set of bits; of nobody is of everybody.
        let everybody = (1 << macs.len()) - 1;
        let list = if puppet.rng.u8(..4) == 0 {
            everybody
        } else {
            puppet.rng.u64(1..=everybody)
        };
        puppet.begin(Purpose::Reserve { epoch, list }, now_ns);
        true
    }

    fn puppet_operates(&mut self, index: usize) -> bool {
        let now_ns = self.now_ns;
        let puppet = &mut self.puppets[index];
        if !puppet.open.is_empty() {
            return false;
        }
        let number = puppet.left;
        let purpose = match number % 4 {
            0 => Purpose::Mask { shuts_out: true },
            2 => Purpose::Mask { shuts_out: false },
            _ => Purpose::Config { number },
        };
        puppet.begin(purpose, now_ns);
        true
    }

    /// Sends what is due, once more or for the first time.
    fn puppet_sends(&mut self, index: usize) {
        let now_ns = self.now_ns;
        for place in 0..self.puppets[index].open.len() {
            let puppet = &mut self.puppets[index];
            let open = &mut puppet.open[place];
            if open.again_at_ns > now_ns || open.given_up {
                continue;
            }
            let copies = open.copies;
            if copies > COPIES_MAX {
                if !matches!(open.purpose, Purpose::Ata { .. }) {
                    // A change under another tag is another change; only writes are to be told apart so.
                    open.given_up = true;
                    open.again_at_ns = now_ns + self.lifetime_ns;
                    continue;
                }
                open.copies = COPIES_MAX;
            }
            let tag = open.request << 4 | u32::from(open.copies.min(COPIES_MAX));
            open.copies = open.copies.saturating_add(1);
            open.again_at_ns = now_ns
                + puppet.spec.rto_ns * u64::from(open.copies.min(8))
                + puppet.rng.u64(..20_000);
            let purpose = open.purpose;
            let id = self.puppet_frame(index, purpose, tag);
            self.tally.frames += 1;
            self.note_frame("sent", id);
            let port = self.puppets[index].port;
            self.launch(id, port, now_ns);
        }
        self.puppets[index]
            .open
            .retain(|open| !open.given_up || now_ns < open.again_at_ns);
    }

    fn puppet_frame(&mut self, index: usize, purpose: Purpose, tag: u32) -> FrameId {
        let lifetime_ms = (self.lifetime_ns / 1_000_000) as u32;
        let target = &self.blades[0].target.spec;
        let (shelf, slot, to) = (target.shelf, target.slot, target.macs[0]);
        let puppet = &self.puppets[index];
        let id = self.pool.take();
        let frame = &mut self.pool.get_mut(id).bytes;
        frame.extend_from_slice(&to);
        frame.extend_from_slice(&puppet.spec.mac);
        frame.extend_from_slice(&bytes::ETHERTYPE.to_be_bytes());
        frame.extend_from_slice(&[0x10, 0]);
        frame.extend_from_slice(&shelf.to_be_bytes());
        let command = match purpose {
            Purpose::Ata { .. } => 0,
            Purpose::Config { .. } | Purpose::AskConfig => 1,
            Purpose::Mask { .. } => 2,
            Purpose::PlainSet => 3,
            Purpose::Attach | Purpose::AttachAsleep | Purpose::Hello | Purpose::Reserve { .. } => {
                bytes::VENDOR
            }
        };
        frame.extend_from_slice(&[slot, command]);
        frame.extend_from_slice(&tag.to_be_bytes());
        let mut vendor = Vendor {
            operation: bytes::HELLO,
            status: 0,
            shard: 0,
            incarnation: 0,
            session: 0,
            epoch: 0,
            loss_mark: 0,
            features: bytes::EPOCHS,
            birth: 0,
            macs: Vec::new(),
        };
        match purpose {
            Purpose::Ata { ask, stamp, .. } => puppet.ata(ask, stamp, frame),
            Purpose::Attach => {
                vendor.operation = bytes::ATTACH;
                vendor.incarnation = puppet.incarnation;
                if puppet.writer().is_some_and(|writer| writer.births) {
                    (vendor.features, vendor.birth) = (bytes::BIRTHS, puppet.birth);
                }
                bytes::emit_vendor(&vendor, lifetime_ms, frame);
            }
            Purpose::AttachAsleep => {
                if let Some(sleeper) = &puppet.asleep {
                    vendor.operation = bytes::ATTACH;
                    vendor.incarnation = sleeper.incarnation;
                    (vendor.features, vendor.birth) = (bytes::BIRTHS, sleeper.birth);
                }
                bytes::emit_vendor(&vendor, lifetime_ms, frame);
            }
            Purpose::Hello => bytes::emit_vendor(&vendor, lifetime_ms, frame),
            Purpose::Reserve { epoch, list } => {
                vendor.operation = bytes::RESERVE;
                vendor.epoch = epoch;
                vendor.macs = puppet.members(list);
                bytes::emit_vendor(&vendor, lifetime_ms, frame);
            }
            Purpose::PlainSet => {
                frame.extend_from_slice(&[1 + (tag as u8 >> 4) % 2, 1]);
                frame.extend_from_slice(&puppet.spec.mac);
            }
            Purpose::AskConfig => frame.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]),
            Purpose::Config { number } => {
                let string = format!("string {number}");
                frame.extend_from_slice(&[0, 0, 0, 0, 0, 4, 0, string.len() as u8]);
                frame.extend_from_slice(string.as_bytes());
            }
            Purpose::Mask { shuts_out } => {
                let macs = puppet.members(u64::MAX);
                frame.extend_from_slice(&[0, 1, 0, macs.len() as u8]);
                for mac in macs {
                    frame.extend_from_slice(&[0, if shuts_out { 1 } else { 2 }]);
                    frame.extend_from_slice(&mac);
                }
            }
        }
        if frame.len() < 60 {
            frame.resize(60, 0);
        }
        id
    }

    pub(crate) fn puppet_frame_in(&mut self, index: usize, id: FrameId) {
        self.note_frame("received", id);
        let frame = core::mem::take(&mut self.pool.get_mut(id).bytes);
        if let Some(fields) = bytes::parse(&frame)
            && fields.response
            && fields.dst == self.puppets[index].spec.mac
        {
            self.puppet_answered(index, &fields, &frame);
        }
        self.pool.get_mut(id).bytes = frame;
        self.pool.give(id);
        self.wake_puppet(index, self.now_ns);
    }

    fn puppet_answered(&mut self, index: usize, fields: &Fields, frame: &[u8]) {
        let puppet = &mut self.puppets[index];
        let request = fields.tag >> 4;
        let Some(place) = puppet.open.iter().position(|open| open.request == request) else {
            return;
        };
        let purpose = puppet.open[place].purpose;
        match purpose {
            Purpose::Ata { ask, stamp, begun } => {
                self.puppet_ata_answered(index, place, fields, frame, (ask, stamp, begun));
                return;
            }
            Purpose::Attach => self.puppet_attached(index, frame),
            Purpose::AttachAsleep => {
                let status = bytes::vendor(frame).map_or(0, |vendor| vendor.status);
                self.puppet_asleep_answered(index, status);
            }
            // Whoever changes config or mask waits until no copy of the change can come late any more.
            Purpose::Config { .. } | Purpose::Mask { .. } => {
                puppet.next_at_ns = self.now_ns + 2 * self.lifetime_ns;
            }
            _ => {}
        }
        let puppet = &mut self.puppets[index];
        puppet.open.retain(|open| open.request != request);
    }

    fn puppet_attached(&mut self, index: usize, frame: &[u8]) {
        let Some(vendor) = bytes::vendor(frame) else {
            return;
        };
        self.note(|| format!("puppet {index} attach: {vendor:x?}"));
        let puppet = &mut self.puppets[index];
        match vendor.status {
            0 => {
                let lost = puppet.mark.is_some_and(|mark| mark != vendor.loss_mark);
                puppet.mark = Some(vendor.loss_mark);
                let other = puppet.session != vendor.session;
                (puppet.session, puppet.attached) = (vendor.session, true);
                if other {
                    self.puppet_begins_again(index, lost);
                }
            }
            // S10: only a new life of it is admitted.
            5 => (puppet.incarnation, puppet.birth) = (puppet.rng.u64(1..), 0),
            9 => {
                puppet.birth = vendor.birth;
                puppet.begin(Purpose::Attach, self.now_ns);
                return;
            }
            4 => self.puppet_may_sleep(index),
            _ => {}
        }
        if vendor.status != 0 {
            let puppet = &mut self.puppets[index];
            puppet.next_at_ns = self.now_ns + 4 * puppet.spec.rto_ns;
        }
    }

    /// Under another session: copies under the old one are dead (S5), so writes go out once more, as requests of their own.
    fn puppet_begins_again(&mut self, index: usize, lost: bool) {
        let now_ns = self.now_ns;
        if lost {
            // S7: what was not flushed may be gone.
            self.tally.losses_told += 1;
            let region = self.puppets[index].writer().map_or((0, 0), |w| w.region);
            self.oracle.release(0, region.0, region.1);
        }
        let puppet = &mut self.puppets[index];
        let mut next = puppet.next_request;
        puppet.open.retain(|open| {
            let flush = matches!(
                open.purpose,
                Purpose::Ata {
                    ask: Ask::Flush,
                    ..
                }
            );
            !(lost && flush)
        });
        for open in &mut puppet.open {
            if matches!(open.purpose, Purpose::Ata { .. }) {
                next = (next + 1) & 0x00ff_ffff;
                (open.request, open.copies, open.again_at_ns) = (next, 0, now_ns);
            }
        }
        puppet.next_request = next;
    }

    fn puppet_ata_answered(
        &mut self,
        index: usize,
        place: usize,
        fields: &Fields,
        frame: &[u8],
        (ask, stamp, begun): (Ask, Option<Stamp>, Moment),
    ) {
        let now_ns = self.now_ns;
        let puppet = &mut self.puppets[index];
        let Some(ata) = fields.ata else { return };
        let session = puppet.writer().is_some_and(|writer| writer.session);
        if fields.refused && fields.error == 0x80 && session {
            if ata.session == puppet.session {
                puppet.attached =
                    puppet.writer().is_some_and(|writer| writer.keeps_on) && puppet.rng.bool();
                if !puppet.has(|purpose| *purpose == Purpose::Attach) {
                    puppet.begin(Purpose::Attach, now_ns);
                }
            }
            // Answered under another session: to be sent again, unless it has been already.
            return;
        }
        let open = puppet.open.swap_remove(place);
        let ok = !fields.refused && ata.command & 0xa9 == 0;
        if ok {
            puppet.succeeded += 1;
            puppet.slowest_ns = puppet.slowest_ns.max(now_ns - open.first_at_ns);
            self.tally.succeeded += 1;
        } else {
            self.tally.failed += 1;
        }
        let within_ns = self.puppets[index].writer().map_or(0, |w| w.within_ns);
        if within_ns > 0 && now_ns - open.first_at_ns > within_ns {
            let text = format!(
                "puppet {index}: {ask:?} took {} us",
                (now_ns - open.first_at_ns) / 1000
            );
            self.accuse(Violation::new(Promise::Fairness, text));
        }
        self.note(|| format!("puppet {index} {ask:?} {stamp:?} ends: {ok}"));
        match (ask, stamp) {
            (Ask::Write { lba, sectors, .. }, Some(stamp)) => {
                self.oracle.write_over(stamp, ok);
                if !ok {
                    // Its copies may be under way still, and no session makes them dead.
                    let until_ns = now_ns + 2 * self.lifetime_ns;
                    self.puppets[index].closed.push((lba, sectors, until_ns));
                }
            }
            (Ask::Read { lba, sectors }, _) if ok => {
                let data = frame.get(DATA..DATA + sectors as usize * SECTOR_BYTES);
                let result = match data {
                    Some(data) => self.oracle.read_over(0, lba, data, begun),
                    None => Err(Violation::new(Promise::Frame, "a READ's answer is short")),
                };
                self.check(result);
            }
            (Ask::Flush, _) if ok => self.puppet_flushed(index, begun),
            _ => {}
        }
    }

    fn puppet_flushed(&mut self, index: usize, begun: Moment) {
        let region = self.puppets[index].writer().map_or((0, 0), |w| w.region);
        for lba in region.0..region.0 + region.1 {
            let seen = FlushSeen {
                begun,
                promised: self.is_durable(),
                // Without a promise nothing is.
                excused: !self.is_durable(),
            };
            let result = self.judge_sector_flushed(0, lba, seen);
            if let Err(violation) = result {
                self.accuse(violation);
                return;
            }
        }
    }

    pub(crate) fn stop_puppets(&mut self) {
        for index in 0..self.puppets.len() {
            let puppet = &mut self.puppets[index];
            puppet.left = 0;
            puppet.stopped = true;
            puppet.asleep = None;
            // What only they would ask again and again is over; writes must come to an end by an answer.
            puppet
                .open
                .retain(|open| matches!(open.purpose, Purpose::Ata { .. } | Purpose::Attach));
            self.wake_puppet(index, self.now_ns);
        }
    }

    /// The last word: everybody is admitted, by an epoch above all others.
    pub(crate) fn readmit(&mut self) {
        // The first of all may have used 1 without counting it.
        self.epoch_next += 2;
        let epoch = self.epoch_next;
        let now_ns = self.now_ns;
        for index in 0..self.puppets.len() {
            if matches!(self.puppets[index].spec.kind, Kind::Coordinator { .. }) {
                self.puppets[index].begin(Purpose::Reserve { epoch, list: 0 }, now_ns);
                self.wake_puppet(index, now_ns);
                return;
            }
        }
    }
}

impl Puppet {
    fn members(&self, list: u64) -> Vec<Mac> {
        let (Kind::Coordinator { macs, .. } | Kind::Operator { macs, .. }) = &self.spec.kind else {
            return Vec::new();
        };
        let picked = (0..).zip(macs).filter(|(place, _)| list >> place & 1 == 1);
        picked.map(|(_, mac)| *mac).collect()
    }

    fn ata(&self, ask: Ask, stamp: Option<Stamp>, frame: &mut Vec<u8>) {
        let (lba, sectors) = ask.extent();
        let (flags, command) = match ask {
            Ask::Write { .. } => (0x41, bytes::WRITE_EXT),
            Ask::Read { .. } => (0x40, bytes::READ_EXT),
            _ => (0x40, bytes::FLUSH_EXT),
        };
        frame.extend_from_slice(&[flags, 0, sectors as u8, command]);
        frame.extend_from_slice(&lba.to_le_bytes()[..6]);
        frame.extend_from_slice(&self.session.to_be_bytes());
        if let Some(stamp) = stamp {
            let start = frame.len();
            frame.resize(start + sectors as usize * SECTOR_BYTES, 0);
            stamp::fill(&mut frame[start..], stamp, 0, lba);
        }
    }
}
