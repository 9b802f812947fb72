//! Cores of nodes with their transports on a simulated network, and a checker that knows nothing of the code it checks:
//! it numbers what is sent and looks at what comes, and reads frames by byte offsets.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use sandrail_proto::dlm::transport::{
    ChannelId, FrameRefusal, Peer, SendError, Transport, TransportConfig, TransportCounters,
    TransportEvent,
};
use sandrail_proto::time::Instant;
use sandrail_wire::lock::{ClusterId, CoreId, Epoch, Incarnation, MacKey, NodeId, Sequence};

pub(crate) mod forge;

pub(crate) use forge::Sabotage;

/// Where fields of a frame lie, for the checker and for forgeries.
pub(crate) const FROM_INCARNATION: usize = 16;
pub(crate) const TO_INCARNATION: usize = 24;
pub(crate) const SLOT_COUNT: usize = 38;
pub(crate) const EPOCH: usize = 40;

/// What happens to frames and stations.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) stations: usize,
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    /// How many frames are held for up to `late`, and overtaken by others.
    pub(crate) lateness: f64,
    pub(crate) late: Duration,
    /// Chances for each step of each station.
    pub(crate) restart: f64,
    pub(crate) pause: f64,
    pub(crate) epoch: f64,
    /// How long traffic and trouble last.
    pub(crate) busy: Duration,
    pub(crate) window_slots: u16,
    pub(crate) mtu_bytes: usize,
    pub(crate) key: Option<MacKey>,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) first_sequence: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

impl Plan {
    /// Two stations, nothing goes wrong.
    pub(crate) fn calm() -> Self {
        Self {
            stations: 2,
            loss: 0.0,
            duplication: 0.0,
            lateness: 0.0,
            late: Duration::from_millis(1),
            restart: 0.0,
            pause: 0.0,
            epoch: 0.0,
            busy: Duration::from_millis(20),
            window_slots: 64,
            mtu_bytes: 1500,
            key: None,
            keepalive: None,
            first_sequence: 0,
            sabotage: None,
        }
    }

    /// Everything at once, drawn by the seed.
    pub(crate) fn drawn(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let often = |rng: &mut fastrand::Rng, most: f64| {
            if rng.u8(..4) == 0 {
                0.0
            } else {
                rng.f64() * most
            }
        };
        Self {
            stations: rng.usize(2..5),
            loss: often(&mut rng, 0.3),
            duplication: often(&mut rng, 0.3),
            lateness: often(&mut rng, 0.3),
            late: Duration::from_micros(rng.u64(50..20_000)),
            restart: often(&mut rng, 0.0005),
            pause: often(&mut rng, 0.002),
            epoch: often(&mut rng, 0.001),
            busy: Duration::from_millis(15),
            window_slots: [64, 128, 256, 1024][rng.usize(..4)],
            mtu_bytes: [360, 700, 1500, 9000][rng.usize(..4)],
            key: rng.bool().then_some(MacKey([7; 16])),
            keepalive: rng.bool().then(|| Duration::from_millis(2)),
            first_sequence: [0, u64::MAX - 100, u64::MAX / 2, 7][rng.usize(..4)],
            sabotage: None,
        }
    }
}

/// One life of a pair: numbers count within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Life {
    from: usize,
    from_incarnation: u64,
    to: usize,
    to_incarnation: u64,
}

/// What the checker knows of one life of a pair.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    accepted: u64,
    accepted_slots: u64,
    delivered: u64,
    delivered_slots: u64,
}

struct Station {
    transport: Transport,
    incarnation: u64,
    channels: Vec<Option<ChannelId>>,
    /// The peer's life in the open channel, by station.
    open: Vec<Option<u64>>,
    epoch: u64,
    paused_until: Instant,
    held: Vec<Vec<u8>>,
}

enum Happening {
    Frame(Vec<u8>),
    Step,
    Epoch(u64),
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: fastrand::Rng,
    now: Instant,
    stations: Vec<Station>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, (usize, Happening)>,
    next_happening: u64,
    flows: BTreeMap<Life, Flow>,
    epoch: u64,
    busy_until: Instant,
    pub(crate) forge: forge::Forge,
    /// What transports of earlier lives had counted.
    past: Vec<TransportCounters>,
}

pub(crate) type Checked<T> = Result<T, String>;

/// What a run has seen, so that a test can say that it was not empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) delivered: u64,
    pub(crate) again: u64,
    pub(crate) duplicates: u64,
    pub(crate) restarts: u64,
    pub(crate) waits: u64,
    pub(crate) old_epoch: u64,
    pub(crate) newer_epoch: u64,
    pub(crate) other_lives: u64,
}

fn config(plan: &Plan, station: usize, incarnation: u64) -> TransportConfig {
    let mut config = TransportConfig::new(
        ClusterId(9),
        NodeId(u16::try_from(station).expect("few")),
        CoreId(3),
        Incarnation(incarnation),
    );
    config.key = plan.key;
    config.mtu_bytes = plan.mtu_bytes;
    config.channels_max = 8;
    config.window_slots = plan.window_slots;
    config.keepalive = plan.keepalive;
    config.silent_after = Some(Duration::from_millis(5));
    config.first_sequence = Sequence(plan.first_sequence);
    config
}

fn peer(station: usize) -> Peer {
    Peer {
        node: NodeId(u16::try_from(station).expect("few")),
        core: CoreId(3),
    }
}

/// A big-endian number of a frame.
pub(crate) fn number(frame: &[u8], at: usize) -> u64 {
    frame[at..at + 8]
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

impl World {
    pub(crate) fn new(plan: Plan, seed: u64) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            now,
            stations: Vec::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_happening: 0,
            flows: BTreeMap::new(),
            epoch: 1,
            busy_until: now + plan.busy,
            forge: forge::Forge::new(plan.sabotage, plan.key),
            past: Vec::new(),
            plan,
        };
        for station in 0..world.plan.stations {
            let born = world.born(station, 10);
            world.stations.push(born);
            world.after(Duration::ZERO, station, Happening::Step);
        }
        world
    }

    fn born(&self, station: usize, incarnation: u64) -> Station {
        let config = config(&self.plan, station, incarnation);
        let mut transport = Transport::new(config, Epoch(self.epoch)).expect("sound");
        let channels = (0..self.plan.stations)
            .map(|other| {
                let others = other != station;
                others.then(|| transport.add_peer(self.now, peer(other)).expect("room"))
            })
            .collect();
        Station {
            transport,
            incarnation,
            channels,
            open: vec![None; self.plan.stations],
            epoch: self.epoch,
            paused_until: self.now,
            held: Vec::new(),
        }
    }

    fn after(&mut self, time: Duration, station: usize, happening: Happening) {
        let key = self.next_happening;
        self.next_happening += 1;
        self.happenings.insert(key, (station, happening));
        self.queue.push(Reverse((self.now + time, key)));
    }

    /// Trouble for as long as the plan says, then a calm network until everything has come.
    pub(crate) fn run(&mut self) -> Checked<Tally> {
        let deadline = self.busy_until + Duration::from_secs(2);
        while let Some(Reverse((at, key))) = self.queue.pop() {
            self.now = at;
            if at > deadline {
                return Err(format!("not done in time: {:?}", self.unfinished()));
            }
            if at > self.busy_until && self.unfinished().is_empty() {
                return Ok(self.tally());
            }
            let (station, happening) = self.happenings.remove(&key).expect("planned");
            let is_step = matches!(happening, Happening::Step);
            match happening {
                Happening::Epoch(epoch) => {
                    let place = &mut self.stations[station];
                    place.epoch = place.epoch.max(epoch);
                    place.transport.set_epoch(at, Epoch(epoch));
                }
                Happening::Frame(frame) if self.stations[station].paused_until > at => {
                    self.stations[station].held.push(frame);
                    continue;
                }
                Happening::Frame(frame) => self.deliver(station, &frame)?,
                Happening::Step => {
                    self.trouble(station);
                    let next = Duration::from_nanos(self.rng.u64(1_000..40_000));
                    self.after(next, station, Happening::Step);
                }
            }
            if self.stations[station].paused_until <= at {
                self.turn(station, is_step)?;
            }
        }
        unreachable!("steps follow each other")
    }

    fn trouble(&mut self, station: usize) {
        if self.now > self.busy_until {
            return;
        }
        if self.rng.f64() < self.plan.pause {
            let pause = Duration::from_micros(self.rng.u64(10..8_000));
            self.stations[station].paused_until = self.now + pause;
        }
        if self.rng.f64() < self.plan.restart {
            self.past.push(*self.stations[station].transport.counters());
            let incarnation = self.stations[station].incarnation + self.rng.u64(1..3);
            self.stations[station] = self.born(station, incarnation);
        }
        if self.rng.f64() < self.plan.epoch {
            self.epoch += 1;
            for other in 0..self.plan.stations {
                let late = Duration::from_micros(self.rng.u64(0..3_000));
                self.after(late, other, Happening::Epoch(self.epoch));
            }
        }
    }

    /// A frame comes to a station. What it must not believe leaves no trace but a count.
    fn deliver(&mut self, station: usize, frame: &[u8]) -> Checked<()> {
        let place = &mut self.stations[station];
        let foreign = number(frame, EPOCH) != place.epoch
            || ![0, place.incarnation].contains(&number(frame, TO_INCARNATION));
        let before = *place.transport.counters();
        // Forgeries are made on the way in, where the checker has already looked.
        let forged = self
            .forge
            .receive(frame, place.incarnation, place.epoch, &mut self.rng);
        for frame in &forged {
            place.transport.handle_frame(self.now, frame);
        }
        let after = place.transport.counters();
        if foreign && after.rx_frames != before.rx_frames {
            return Err(format!(
                "a frame of epoch {} for life {} was accepted in epoch {}, life {}",
                number(frame, EPOCH),
                number(frame, TO_INCARNATION),
                place.epoch,
                place.incarnation
            ));
        }
        if after.refused(FrameRefusal::BeyondWindow) != before.refused(FrameRefusal::BeyondWindow) {
            return Err("sent without credits".to_owned());
        }
        Ok(())
    }

    /// A turn of a station's loop.
    fn turn(&mut self, station: usize, may_send: bool) -> Checked<()> {
        for frame in std::mem::take(&mut self.stations[station].held) {
            self.deliver(station, &frame)?;
        }
        let now = self.now;
        self.stations[station].transport.handle_timeout(now);
        self.take_events(station)?;
        self.take_messages(station)?;
        if may_send && self.now <= self.busy_until {
            self.send_some(station)?;
        }
        let mut buffer = vec![0; 9000];
        let mut burst = 0;
        while let Some(out) = self.stations[station]
            .transport
            .poll_transmit(now, &mut buffer)
        {
            burst += 1;
            if burst > 1000 || out.len_bytes > self.plan.mtu_bytes {
                return Err(format!("frame {burst} of a turn, {} bytes", out.len_bytes));
            }
            let frame = self.forge.transmit(&buffer[..out.len_bytes], &mut self.rng);
            self.carry(usize::from(out.peer.node.0), &frame);
        }
        let timer = self.stations[station].transport.poll_timeout();
        if timer.is_some_and(|at| at <= now) {
            return Err("a timer is due right after it was served".to_owned());
        }
        // The next step comes within 40 us, and looks at the timers too.
        Ok(())
    }

    fn take_events(&mut self, station: usize) -> Checked<()> {
        while let Some(event) = self.stations[station].transport.poll_event() {
            let place = &mut self.stations[station];
            let other = |channel| {
                place
                    .channels
                    .iter()
                    .position(|known| *known == Some(channel))
                    .expect("known")
            };
            match event {
                TransportEvent::Restarted { channel, old, new } => {
                    if new <= old {
                        return Err(format!("life {new} after life {old}"));
                    }
                    let other = other(channel);
                    place.open[other] = None;
                }
                TransportEvent::Opened {
                    channel,
                    incarnation,
                } => {
                    let other = other(channel);
                    if place.open[other].is_some_and(|known| known >= incarnation.0) {
                        return Err(format!("opened twice in life {incarnation}"));
                    }
                    place.open[other] = Some(incarnation.0);
                }
                TransportEvent::EpochAhead { epoch, .. } => {
                    if epoch.0 > self.epoch {
                        return Err(format!("epoch {epoch} does not exist"));
                    }
                }
                TransportEvent::Writable { .. }
                | TransportEvent::Silent { .. }
                | TransportEvent::Heard { .. } => {}
            }
        }
        Ok(())
    }

    fn take_messages(&mut self, station: usize) -> Checked<()> {
        let calm = self.now > self.busy_until;
        let budget = if calm {
            usize::MAX
        } else {
            self.rng.usize(0..40)
        };
        for _ in 0..budget {
            let place = &mut self.stations[station];
            let Some(received) = place.transport.poll_message() else {
                break;
            };
            let from = usize::from(received.peer.node.0);
            let said = |word: usize| number(received.record, word * 8);
            let life = Life {
                from: usize::try_from(said(0)).unwrap_or(usize::MAX),
                from_incarnation: said(1),
                to: usize::try_from(said(2)).unwrap_or(usize::MAX),
                to_incarnation: said(3),
            };
            let expected = Life {
                from,
                from_incarnation: received.incarnation.0,
                to: station,
                to_incarnation: place.incarnation,
            };
            if life != expected {
                return Err(format!("{life:?} came to {expected:?}"));
            }
            let flow = self.flows.entry(life).or_default();
            if said(4) != flow.delivered {
                return Err(format!(
                    "{life:?}: {} came, not {}",
                    said(4),
                    flow.delivered
                ));
            }
            if received.record != record(life, flow.delivered) {
                return Err(format!("{life:?}: record {} was changed", flow.delivered));
            }
            flow.delivered += 1;
            flow.delivered_slots += received.record.len() as u64 / 64;
        }
        Ok(())
    }

    fn send_some(&mut self, station: usize) -> Checked<()> {
        for other in 0..self.plan.stations {
            let place = &mut self.stations[station];
            let (Some(channel), Some(to_incarnation)) = (place.channels[other], place.open[other])
            else {
                continue;
            };
            let life = Life {
                from: station,
                from_incarnation: place.incarnation,
                to: other,
                to_incarnation,
            };
            for _ in 0..self.rng.usize(0..12) {
                let flow = self.flows.entry(life).or_default();
                let bytes = record(life, flow.accepted);
                match place.transport.send(self.now, channel, &bytes) {
                    Ok(()) => {
                        flow.accepted += 1;
                        flow.accepted_slots += bytes.len() as u64 / 64;
                        let under_way = flow.accepted_slots - flow.delivered_slots;
                        if under_way > u64::from(self.plan.window_slots) {
                            return Err(format!("{under_way} slots under way"));
                        }
                    }
                    Err(SendError::Wait) => break,
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(())
    }

    /// The network.
    fn carry(&mut self, to: usize, frame: &[u8]) {
        let trouble = self.now <= self.busy_until;
        let mut copies = 1;
        if trouble && self.rng.f64() < self.plan.duplication {
            copies += 1;
        }
        for _ in 0..copies {
            if trouble && self.rng.f64() < self.plan.loss {
                continue;
            }
            let mut time = Duration::from_micros(5);
            if trouble && self.rng.f64() < self.plan.lateness {
                time += Duration::from_nanos(self.rng.u64(0..nanos(self.plan.late)));
            }
            self.after(time, to, Happening::Frame(frame.to_vec()));
        }
    }

    /// Pairs that live and have not got all yet.
    fn unfinished(&self) -> Vec<String> {
        let mut unfinished = Vec::new();
        for (from, place) in self.stations.iter().enumerate() {
            for (to, other) in self
                .stations
                .iter()
                .enumerate()
                .filter(|(to, _)| *to != from)
            {
                let life = Life {
                    from,
                    from_incarnation: place.incarnation,
                    to,
                    to_incarnation: other.incarnation,
                };
                if place.open[to] != Some(other.incarnation) {
                    unfinished.push(format!("{life:?} is not open: {:?}", place.open[to]));
                }
                let flow = self.flows.get(&life).copied().unwrap_or_default();
                if flow.delivered < flow.accepted {
                    unfinished.push(format!("{life:?}: {flow:?}"));
                }
            }
        }
        unfinished
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally {
            delivered: self.flows.values().map(|flow| flow.delivered).sum(),
            ..Tally::default()
        };
        let live = self
            .stations
            .iter()
            .map(|station| station.transport.counters());
        for counters in live.chain(&self.past) {
            tally.again += counters.tx_again;
            tally.duplicates += counters.rx_duplicates;
            tally.restarts += counters.restarts;
            tally.waits += counters.waits;
            tally.old_epoch += counters.refused(FrameRefusal::OldEpoch);
            tally.newer_epoch += counters.refused(FrameRefusal::NewerEpoch);
            tally.other_lives += counters.refused(FrameRefusal::OldIncarnation)
                + counters.refused(FrameRefusal::OtherLife);
        }
        tally
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("short").max(1)
}

/// The record that is sent as the `number`th of a life; every third is long.
fn record(life: Life, number: u64) -> Vec<u8> {
    let words = [
        life.from as u64,
        life.from_incarnation,
        life.to as u64,
        life.to_incarnation,
        number,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let len = if number % 3 == 2 { 128 } else { 64 };
    let filler = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    bytes.extend(filler.iter().cycle().take(len - bytes.len()));
    bytes
}
