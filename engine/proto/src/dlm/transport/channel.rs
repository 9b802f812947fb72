//! A channel: what this core and one core of another node have said to each other in one life of each.

use core::time::Duration;

use sandrail_wire::lock::{
    Endpoint, Epoch, FrameWriter, Incarnation, LockFeatures, LockFrame, LockHeader, SACK_WORDS_MAX,
    Seal, Sequence, slots_by_mtu,
};

use super::config::TransportConfig;
use super::receive::{Arrival, ReceiveRing};
use super::rtt::RoundTrip;
use super::send::SendRing;
use super::stat::{FrameRefusal, TransportCounters};
use super::{Peer, SendError};
use crate::time::{Instant, nanos};

/// Doublings of the time between two requests for an answer, whatever the bounds are.
const ASKS_MAX: u32 = 20;
/// Room that is worth telling an owner of who waits: a long record fits.
const ROOM_SLOTS: u64 = 2;

/// What all channels share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: TransportConfig,
    pub(super) seal: Seal,
    pub(super) epoch: Epoch,
}

/// How far two lives know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The peer has not shown that it knows our life. Greetings go out, nothing else.
    Greeting,
    /// Both know both lives.
    Open,
    /// The owner let it go.
    Removed,
}

/// What the owner has not been told yet. Bounded, since each kind of news has one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) restarted: Option<(Incarnation, Incarnation)>,
    pub(super) opened: bool,
    pub(super) ahead: Option<Epoch>,
    pub(super) silent: Option<Instant>,
    pub(super) heard: bool,
    pub(super) writable: bool,
}

/// Both directions between this core and a peer.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) peer: Peer,
    standing: Standing,
    /// The peer's life, as far as it is known.
    remote: Incarnation,
    /// The last of its lives with which the owner let it go.
    over: Incarnation,
    pub(super) receive: ReceiveRing,
    send: SendRing,
    trip: RoundTrip,
    /// When what is under way counts as unanswered.
    rto_at: Option<Instant>,
    /// When an acknowledgement no longer waits for company.
    ack_at: Option<Instant>,
    /// When to ask for an answer for want of another reason to send.
    ask_at: Option<Instant>,
    asks: u32,
    /// A frame has to go out in this turn, ...
    answer_due: bool,
    /// ... and is to be answered at once.
    ask_due: bool,
    /// Slots since the last acknowledgement.
    unacknowledged: u64,
    /// Since when the peer owes us a word.
    owed_since: Option<Instant>,
    silent: bool,
    /// `send` was refused.
    starved: bool,
    /// The last epoch that we shared with the peer.
    peer_epoch: Epoch,
    /// The newest epoch that the owner was told the peer is in.
    ahead_told: Epoch,
    pub(super) news: News,
}

impl Channel {
    pub(super) fn new(peer: Peer, shared: &Shared) -> Self {
        let window_slots = shared.config.window_slots;
        Self {
            peer,
            standing: Standing::Removed,
            remote: Incarnation::UNKNOWN,
            over: Incarnation::UNKNOWN,
            receive: ReceiveRing::new(window_slots),
            send: SendRing::new(window_slots, shared.config.first_sequence),
            trip: RoundTrip::new(&shared.config),
            rto_at: None,
            ack_at: None,
            ask_at: None,
            asks: 0,
            answer_due: false,
            ask_due: false,
            unacknowledged: 0,
            owed_since: None,
            silent: false,
            starved: false,
            peer_epoch: Epoch(0),
            ahead_told: Epoch(0),
            news: News::default(),
        }
    }

    pub(super) fn is_removed(&self) -> bool {
        self.standing == Standing::Removed
    }

    pub(super) fn is_open(&self) -> bool {
        self.standing == Standing::Open
    }

    /// The peer's life; unknown before it was heard.
    pub(super) const fn remote(&self) -> Incarnation {
        self.remote
    }

    /// Slots that `send` would take now.
    pub(super) fn room(&self) -> u64 {
        if self.is_open() { self.send.room() } else { 0 }
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.trip.smoothed()
    }

    /// Begins to greet the peer.
    pub(super) fn begin(&mut self, now: Instant, shared: &Shared) {
        self.forget(shared);
        self.standing = Standing::Greeting;
        self.ask(now, shared);
    }

    /// Ends the channel for good as far as this life of the peer is concerned.
    pub(super) fn remove(&mut self, shared: &Shared) {
        self.over = self.over.max(self.remote);
        self.forget(shared);
        self.standing = Standing::Removed;
        self.remote = Incarnation::UNKNOWN;
        self.news = News::default();
        self.silent = false;
    }

    /// Drops everything that was said.
    fn forget(&mut self, shared: &Shared) {
        self.send.reset(shared.config.first_sequence);
        self.receive.reset(Sequence(0));
        self.trip = RoundTrip::new(&shared.config);
        self.rto_at = None;
        self.ack_at = None;
        self.ask_at = None;
        self.asks = 0;
        self.answer_due = false;
        self.ask_due = false;
        self.unacknowledged = 0;
        self.owed_since = None;
        self.starved = false;
        self.peer_epoch = Epoch(0);
        self.ahead_told = Epoch(0);
        self.news.writable = false;
        self.news.opened = false;
    }

    /// Queues a record.
    pub(super) fn send(
        &mut self,
        now: Instant,
        record: &[u8],
        shared: &Shared,
    ) -> Result<(), SendError> {
        if self.is_removed() {
            return Err(SendError::NoPeer);
        }
        if self.is_open() && self.send.push(record) {
            return Ok(());
        }
        self.starved = true;
        self.plan_ask(now, shared);
        Err(SendError::Wait)
    }

    /// A frame of this peer that is whole and for us. Nothing changes if it is refused.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        frame: &LockFrame<'_>,
        shared: &Shared,
        counters: &mut TransportCounters,
    ) -> Result<(), FrameRefusal> {
        let header = frame.header();
        let mut words = [0; SACK_WORDS_MAX];
        let mut count = 0;
        for (word, sack) in words.iter_mut().zip(frame.sacks()) {
            *word = sack;
            count += 1;
        }
        let sacks = &words[..count];
        let is_greeting = !header.to.incarnation.is_known();
        self.judge(frame, sacks, shared)?;
        if header.from.incarnation != self.remote {
            self.meet(now, header, shared, counters);
        }
        self.hear(now);
        if header.wants_answer {
            self.answer_due = true;
        }
        if is_greeting {
            self.plan_ask(now, shared);
            return Ok(());
        }
        if self.standing == Standing::Greeting {
            self.standing = Standing::Open;
            self.news.opened = true;
            self.asks = 0;
        }
        self.take_acknowledgement(now, header, sacks, counters);
        if header.epoch > self.peer_epoch {
            self.peer_epoch = header.epoch;
            self.resume(now, shared);
        }
        self.take_records(now, frame, shared, counters);
        if self.starved && self.send.room() >= ROOM_SLOTS {
            self.starved = false;
            self.asks = 0;
            self.news.writable = true;
        }
        self.owed_since = self.send.is_in_flight().then_some(now);
        self.plan_ask(now, shared);
        Ok(())
    }

    /// Whether a frame is to be believed.
    fn judge(
        &mut self,
        frame: &LockFrame<'_>,
        sacks: &[u64],
        shared: &Shared,
    ) -> Result<(), FrameRefusal> {
        let header = frame.header();
        if self.is_removed() {
            return Err(FrameRefusal::RemovedPeer);
        }
        let from = header.from.incarnation;
        if from <= self.over || from < self.remote {
            return Err(FrameRefusal::OldIncarnation);
        }
        let is_greeting = !header.to.incarnation.is_known();
        if !is_greeting && header.to.incarnation != shared.config.incarnation {
            return Err(FrameRefusal::OtherLife);
        }
        if header.epoch < shared.epoch {
            return Err(FrameRefusal::OldEpoch);
        }
        if header.epoch > shared.epoch {
            // The one thing that a refused frame leaves behind: word of the epoch, once for each.
            if header.epoch > self.ahead_told {
                self.ahead_told = header.epoch;
                self.news.ahead = Some(header.epoch);
            }
            return Err(FrameRefusal::NewerEpoch);
        }
        let is_new_life = from != self.remote;
        if frame.slot_count() > 0 && (is_greeting || is_new_life) {
            return Err(FrameRefusal::NoGreeting);
        }
        let possible = if is_new_life {
            is_greeting || header.ack == shared.config.first_sequence && sacks.is_empty()
        } else {
            is_greeting || self.send.ack_is_possible(header.ack, sacks)
        };
        if !possible {
            return Err(FrameRefusal::ImpossibleAck);
        }
        if frame.slot_count() > 0 && !self.receive.fits(header.sequence, frame.slot_count()) {
            return Err(FrameRefusal::BeyondWindow);
        }
        Ok(())
    }

    /// The peer's first frame of a life. What was said with an earlier one is void.
    fn meet(
        &mut self,
        now: Instant,
        header: &LockHeader,
        shared: &Shared,
        counters: &mut TransportCounters,
    ) {
        let (old, new) = (self.remote, header.from.incarnation);
        if old.is_known() {
            counters.restarts += u64::from(self.is_open());
            // A life that the owner was not told of need not be told to be over.
            if self.is_open() || self.news.restarted.is_some() {
                let first = self.news.restarted.map_or(old, |(first, _)| first);
                self.news.restarted = Some((first, new));
            }
            self.forget(shared);
            self.standing = Standing::Greeting;
            self.ask(now, shared);
        }
        self.remote = new;
        self.receive.reset(header.sequence);
        // It learns from the answer that we know it.
        self.answer_due = true;
    }

    /// Something came.
    fn hear(&mut self, now: Instant) {
        self.owed_since = self.owed_since.map(|_| now);
        if self.silent {
            self.silent = false;
            self.news.heard = true;
        }
    }

    fn take_acknowledgement(
        &mut self,
        now: Instant,
        header: &LockHeader,
        sacks: &[u64],
        counters: &mut TransportCounters,
    ) {
        let (reordering, smoothed) = (self.trip.reordering(), self.trip.smoothed());
        let taken = self
            .send
            .acknowledge(now, header.ack, sacks, reordering, smoothed);
        self.send.grant(header.ack, header.credits);
        counters.slots_lost += taken.lost;
        if let Some(sample) = taken.sample {
            self.trip.sample(sample);
        }
        if taken.progress {
            self.trip.progress();
            self.rto_at = self.send.is_in_flight().then(|| now + self.trip.rto());
        }
    }

    fn take_records(
        &mut self,
        now: Instant,
        frame: &LockFrame<'_>,
        shared: &Shared,
        counters: &mut TransportCounters,
    ) {
        if frame.slot_count() == 0 {
            return;
        }
        let had_hole = self.receive.has_hole();
        let mut duplicates = 0;
        let mut at = frame.header().sequence;
        for record in frame.records() {
            match self.receive.admit(at, record) {
                Arrival::New => {
                    counters.rx_records += 1;
                    self.unacknowledged += slots_of(record);
                }
                Arrival::Duplicate => duplicates += 1,
            }
            at = at.plus(slots_of(record));
        }
        counters.rx_duplicates += duplicates;
        // Something went wrong, or a lot came: the sender is to know at once.
        if duplicates > 0
            || had_hole
            || self.receive.has_hole()
            || self.unacknowledged >= u64::from(shared.config.ack_slots)
        {
            self.answer_due = true;
        } else if self.ack_at.is_none() {
            self.ack_at = Some(now + shared.config.ack_delay);
        }
    }

    /// The next record in order, if there is one.
    pub(super) fn fetch(&mut self) -> Option<core::ops::Range<usize>> {
        let range = self.receive.fetch()?;
        let untold = self.receive.untold();
        if untold >= self.receive.window() / 4 || self.receive.peer_must_wait() {
            self.answer_due = true;
        }
        Some(range)
    }

    /// Both ends are in one epoch (again): what the other refused meanwhile goes out once more.
    pub(super) fn resume(&mut self, now: Instant, shared: &Shared) {
        if self.is_open() && self.send.is_in_flight() {
            self.trip.progress();
            self.probe(now, shared);
        }
    }

    /// Lets the peer see our epoch.
    pub(super) fn announce(&mut self) {
        self.answer_due |= !self.is_removed();
    }

    /// Sends the first frame under way again; its answer tells what became of the others.
    fn probe(&mut self, now: Instant, shared: &Shared) {
        let slots = slots_by_mtu(shared.config.mtu_bytes, &shared.seal);
        self.send.time_out(u64::try_from(slots).unwrap_or(1));
        self.ask_due = true;
        self.rto_at = Some(now + self.trip.rto());
    }

    /// Serves the timers that are due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        shared: &Shared,
        counters: &mut TransportCounters,
    ) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.rto_at) {
            counters.timeouts += 1;
            self.trip.back_off();
            self.probe(now, shared);
        }
        if is_due(self.ack_at) {
            self.ack_at = None;
            self.answer_due = true;
        }
        if is_due(self.ask_at) {
            self.ask(now, shared);
        }
        if is_due(self.silent_at(shared)) {
            self.silent = true;
            self.news.heard = false;
            self.news.silent = self.owed_since;
        }
    }

    /// Asks for an answer, and plans to ask again later.
    fn ask(&mut self, now: Instant, shared: &Shared) {
        self.ask_due = true;
        let wait_ns = nanos(shared.config.rto_initial).saturating_mul(1 << self.asks);
        let wait = Duration::from_nanos(wait_ns).min(shared.config.rto_max);
        self.asks = (self.asks + 1).min(ASKS_MAX);
        self.ask_at = Some(now + wait);
    }

    /// Whether only an answer of the peer can bring us on, and nothing that is under way will bring one.
    fn must_ask(&self) -> bool {
        match self.standing {
            Standing::Greeting => true,
            Standing::Open => self.starved && self.send.is_idle(),
            Standing::Removed => false,
        }
    }

    /// Something has changed: when to ask?
    fn plan_ask(&mut self, now: Instant, shared: &Shared) {
        if self.must_ask() {
            if self.ask_at.is_none() || self.asks == 0 {
                let wait = shared.config.rto_initial.min(shared.config.rto_max);
                self.ask_at = Some(now + wait);
                self.asks = 1;
            }
            return;
        }
        self.asks = 0;
        self.ask_at = match (self.standing, shared.config.keepalive) {
            (Standing::Open, Some(after)) => Some(now + after),
            _ => None,
        };
    }

    fn silent_at(&self, shared: &Shared) -> Option<Instant> {
        let after = shared.config.silent_after.filter(|_| !self.silent)?;
        Some(self.owed_since? + after)
    }

    /// The earliest timer.
    pub(super) fn deadline(&self, shared: &Shared) -> Option<Instant> {
        [
            self.rto_at,
            self.ack_at,
            self.ask_at,
            self.silent_at(shared),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether there is anything to send now.
    pub(super) fn has_work(&self) -> bool {
        match self.standing {
            Standing::Removed => false,
            Standing::Greeting => self.answer_due || self.ask_due,
            Standing::Open => self.answer_due || self.ask_due || self.send.has_work(),
        }
    }

    /// Writes the next frame, if there is one, and returns its length.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        shared: &Shared,
        counters: &mut TransportCounters,
    ) -> Option<usize> {
        if !self.has_work() {
            return None;
        }
        let (words, count) = self.receive.sacks();
        let start = if self.is_open() {
            self.send.start()
        } else {
            self.send.sent()
        };
        // A greeting names no life of the peer's: what we know of it may be over, and it would not listen. An answer does, and
        // so shows that it was heard.
        let greets = self.standing == Standing::Greeting && self.ask_due;
        let asks = self.ask_due || self.standing == Standing::Greeting;
        let header = LockHeader {
            features: LockFeatures::NONE,
            wants_answer: asks,
            cluster: shared.config.cluster,
            from: Endpoint {
                node: shared.config.node,
                core: shared.config.core,
                incarnation: shared.config.incarnation,
            },
            to: Endpoint {
                node: self.peer.node,
                core: self.peer.core,
                incarnation: if greets {
                    Incarnation::UNKNOWN
                } else {
                    self.remote
                },
            },
            epoch: shared.epoch,
            sequence: start,
            ack: self.receive.ack(),
            credits: self.receive.grant(),
        };
        let mut writer = FrameWriter::new(out, &header, &words[..count], &shared.seal).ok()?;
        if self.is_open() {
            let filled = self.send.fill(now, start, &mut writer);
            counters.tx_records += filled.records - filled.again;
            counters.tx_again += filled.again;
            counters.tx_bare += u64::from(filled.records == 0);
            if filled.records > 0 && self.rto_at.is_none() {
                self.rto_at = Some(now + self.trip.rto());
            }
        } else {
            counters.tx_bare += 1;
        }
        counters.tx_frames += 1;
        if asks || self.send.is_in_flight() {
            self.owed_since.get_or_insert(now);
        }
        self.answer_due &= greets;
        self.ask_due = false;
        self.ack_at = None;
        self.unacknowledged = 0;
        Some(writer.finish())
    }
}

/// Slots that a record takes.
fn slots_of(record: &[u8]) -> u64 {
    u64::try_from(record.len() / sandrail_wire::lock::SLOT_BYTES).unwrap_or(1)
}
