//! An in-memory switch on virtual time, for deterministic simulation.
//!
//! A [`SimNet`] connects ports. Each port carries one [`SimLink`], and everything runs on one thread: time is whatever
//! `now` the callers pass, and all randomness comes from one seed, so the same calls give the same frames. The
//! simulator asks [`SimNet::next_arrival`] how far it may jump.
//!
//! A frame passes three stages. In the sender's *transmit queue* it waits for the frames before it and for the end of
//! a pause; when it leaves, [`Link::completed`] counts it. In the *network* it stays at most
//! [`SimNetConfig::delay_max`], counted from there: that is the frame lifetime of S2, which a test may set longer than
//! the engine believes in, to see the checker bite. In the receiver's bounded *receive queue* it waits to be polled.

use core::cmp::Reverse;
use core::ops::Range;
use core::time::Duration;
use std::cell::RefCell;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;

use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr};

use crate::{HEADER_BYTES_MAX, Link, LinkCounters, LinkInfo, TransmitError};

#[cfg(test)]
mod tests;

/// Bytes that a frame may have beyond the MTU: Ethernet header and two VLAN tags.
const OVERHEAD_BYTES: usize = 14 + 8;

/// The shortest frame on a wire, without its checksum.
const FRAME_BYTES_MIN: usize = 60;

/// What holds for the whole network.
#[derive(Clone, Debug)]
pub struct SimNetConfig {
    /// The longest time between a frame's completion at the sender and its arrival, whatever the ports' faults add up to.
    pub delay_max: Duration,
}

impl Default for SimNetConfig {
    fn default() -> Self {
        Self {
            delay_max: Duration::from_secs(1),
        }
    }
}

/// What happens to frames on one direction of one port. Probabilities are per frame and receiver, 0.0 to 1.0.
#[derive(Clone, Debug)]
pub struct PathFaults {
    /// Probability that a frame vanishes.
    pub loss: f64,
    /// Probability that a second copy arrives, with a delay of its own.
    pub duplicate: f64,
    /// Probability that a frame leaves its place: it is delayed by up to [`PathFaults::reorder_window`] and others overtake
    /// it. Frames that are neither reordered, duplicated nor rarely delayed stay in order between two ports.
    pub reorder: f64,
    /// How long a reordered frame is held back at most.
    pub reorder_window: Duration,
    /// Every frame's least delay.
    pub delay_min: Duration,
    /// Added to it: uniform between zero and this.
    pub delay_jitter: Duration,
    /// Probability of a long delay: uniform up to [`SimNetConfig::delay_max`].
    pub delay_rare: f64,
    /// A black hole: frames longer than this (Ethernet header and tags included) vanish without a word.
    pub frame_bytes_max: Option<usize>,
}

impl Default for PathFaults {
    /// A good wire: no fault, 1 us.
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_window: Duration::from_micros(100),
            delay_min: Duration::from_micros(1),
            delay_jitter: Duration::ZERO,
            delay_rare: 0.0,
            frame_bytes_max: None,
        }
    }
}

/// One port and the interface plugged into it.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Name for [`LinkInfo`].
    pub name: String,
    /// The interface's address; unicast frames to it arrive here.
    pub mac: MacAddr,
    /// The interface's MTU.
    pub mtu_bytes: usize,
    /// How many received frames may wait to be polled; more are dropped and counted.
    pub rx_queue_frames: usize,
    /// How many frames may wait to leave; then [`TransmitError::Full`].
    pub tx_queue_frames: usize,
    /// How long the interface is busy with each frame. Zero: a frame completes when it is taken.
    pub tx_frame_time: Duration,
    /// From the interface to the switch.
    pub egress: PathFaults,
    /// From the switch to the interface.
    pub ingress: PathFaults,
}

impl PortConfig {
    /// A port without faults: MTU 9000, queues of 1024 frames, completion at once.
    #[must_use]
    pub fn new(mac: MacAddr) -> Self {
        Self {
            name: "sim".to_owned(),
            mac,
            mtu_bytes: 9000,
            rx_queue_frames: 1024,
            tx_queue_frames: 1024,
            tx_frame_time: Duration::ZERO,
            egress: PathFaults::default(),
            ingress: PathFaults::default(),
        }
    }
}

/// A port's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(usize);

/// What the network did. Each copy (one frame for one receiver) ends in exactly one place:
/// `offered + duplicated = delivered + lost + black_holed + cut + down + overflowed + discarded + queued + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounters {
    /// Copies that entered the network: one for a unicast frame, one a receiver for a broadcast, and each injection.
    pub offered: u64,
    /// Second copies that the network made.
    pub duplicated: u64,
    /// Copies handed to a link's sink.
    pub delivered: u64,
    /// Copies lost by chance.
    pub lost: u64,
    /// Copies that were too long for a path.
    pub black_holed: u64,
    /// Copies sent into a cut.
    pub cut: u64,
    /// Copies that arrived at a port that was down.
    pub down: u64,
    /// Copies that found the receive queue full.
    pub overflowed: u64,
    /// Copies in a receive queue when its link was replaced.
    pub discarded: u64,
    /// Copies that wait in receive queues now.
    pub queued: u64,
    /// Copies on their way now.
    pub in_flight: u64,
    /// Frames to an address that no other port has; no copy is offered for them.
    pub unroutable: u64,
    /// Copies that were moved out of order on purpose (a note, not an end).
    pub reordered: u64,
    /// Copies that got a rare long delay (a note, not an end).
    pub rarely_delayed: u64,
}

struct Flight {
    at: Instant,
    /// Breaks ties, so that frames due at the same moment arrive in the order they were sent.
    sequence: u64,
    to: PortId,
    frame: Vec<u8>,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

struct Port {
    config: PortConfig,
    rx_queue: VecDeque<Vec<u8>>,
    /// What this port's current link lost: its share of `overflowed` and `down`.
    rx_dropped: u64,
    down: Vec<Range<Instant>>,
    paused: Vec<Range<Instant>>,
    /// When the last frame left the transmit queue.
    last_departure: Instant,
    /// When the last frame that stays in order arrives, by sending port.
    last_in_order: Vec<Instant>,
}

struct Cut {
    from: PortId,
    to: PortId,
    during: Range<Instant>,
}

struct Inner {
    config: SimNetConfig,
    rng: fastrand::Rng,
    ports: Vec<Port>,
    cuts: Vec<Cut>,
    flights: BinaryHeap<Reverse<Flight>>,
    sequence: u64,
    counters: SimCounters,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
}

/// What chance decided for one copy on one direction of a port.
#[derive(Default)]
struct Draw {
    vanish: Vanish,
    duplicate: bool,
    in_order: bool,
    delay: Duration,
}

#[derive(Default, PartialEq)]
enum Vanish {
    #[default]
    No,
    Lost,
    BlackHole,
}

/// A uniform duration from zero to `limit`, both included.
fn uniform(rng: &mut fastrand::Rng, limit: Duration) -> Duration {
    let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(0..=limit_ns))
}

fn within(ranges: &[Range<Instant>], at: Instant) -> Option<&Range<Instant>> {
    ranges.iter().find(|range| range.contains(&at))
}

impl Inner {
    fn draw(&mut self, faults: &PathFaults, len_bytes: usize) -> Draw {
        // Every copy takes the same draws, so that changing one rate leaves the others' frames alone.
        let lost = self.rng.f64() < faults.loss;
        let duplicate = self.rng.f64() < faults.duplicate;
        let reorder = self.rng.f64() < faults.reorder;
        let rare = self.rng.f64() < faults.delay_rare;
        let jitter = uniform(&mut self.rng, faults.delay_jitter);
        let reorder_by = uniform(&mut self.rng, faults.reorder_window);
        let rare_by = uniform(&mut self.rng, self.config.delay_max);
        let mut delay = faults.delay_min + jitter;
        if reorder {
            self.counters.reordered += 1;
            delay += reorder_by;
        }
        if rare {
            self.counters.rarely_delayed += 1;
            delay = delay.max(rare_by);
        }
        let vanish = if faults.frame_bytes_max.is_some_and(|max| len_bytes > max) {
            Vanish::BlackHole
        } else if lost {
            Vanish::Lost
        } else {
            Vanish::No
        };
        Draw {
            vanish,
            duplicate,
            in_order: !reorder && !rare,
            delay,
        }
    }

    /// Takes a frame that left `from` at `departure` and schedules its copies.
    fn route(&mut self, from: PortId, departure: Instant, header: &[u8], payload: &[u8]) {
        let Some(&destination) = header.first_chunk::<6>() else {
            self.counters.unroutable += 1;
            return;
        };
        let group = destination[0] & 1 == 1;
        let mut found = false;
        for index in 0..self.ports.len() {
            let to = PortId(index);
            if to != from && (group || self.ports[index].config.mac == MacAddr(destination)) {
                found = true;
                self.offer(from, to, departure, header, payload);
            }
        }
        if !found {
            self.counters.unroutable += 1;
        }
    }

    /// One copy, from one port to another.
    fn offer(
        &mut self,
        from: PortId,
        to: PortId,
        departure: Instant,
        header: &[u8],
        payload: &[u8],
    ) {
        self.counters.offered += 1;
        let len_bytes = (header.len() + payload.len()).max(FRAME_BYTES_MIN);
        let egress = self.ports[from.0].config.egress.clone();
        let ingress = self.ports[to.0].config.ingress.clone();
        let (out, into) = (
            self.draw(&egress, len_bytes),
            self.draw(&ingress, len_bytes),
        );
        // A frame is cut when it leaves. What was on its way when a cut began still arrives: that is the nastier case.
        if self
            .cuts
            .iter()
            .any(|cut| cut.from == from && cut.to == to && cut.during.contains(&departure))
        {
            self.counters.cut += 1;
            return;
        }
        if out.vanish == Vanish::BlackHole || into.vanish == Vanish::BlackHole {
            self.counters.black_holed += 1;
            return;
        }
        if out.duplicate || into.duplicate {
            self.counters.duplicated += 1;
            let (again_out, again_in) = (
                self.draw(&egress, len_bytes),
                self.draw(&ingress, len_bytes),
            );
            // The copy that the network made is not lost again: it would only lower the rate that was asked for.
            let at = self.arrival(departure, again_out.delay + again_in.delay);
            self.launch(at, to, header, payload);
        }
        if out.vanish == Vanish::Lost || into.vanish == Vanish::Lost {
            self.counters.lost += 1;
            return;
        }
        let mut at = self.arrival(departure, out.delay + into.delay);
        if out.in_order && into.in_order {
            let last = &mut self.ports[to.0].last_in_order[from.0];
            // Departures never go back, so a predecessor's bound is later than this frame's own only after
            // `set_delay_max` lowered it; then the bound wins over the order.
            at = at.max(*last).min(departure + self.config.delay_max);
            *last = at;
        }
        self.launch(at, to, header, payload);
    }

    fn arrival(&self, departure: Instant, delay: Duration) -> Instant {
        departure + delay.min(self.config.delay_max)
    }

    fn launch(&mut self, at: Instant, to: PortId, header: &[u8], payload: &[u8]) {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(header);
        frame.extend_from_slice(payload);
        if frame.len() < FRAME_BYTES_MIN {
            frame.resize(FRAME_BYTES_MIN, 0);
        }
        self.sequence += 1;
        self.counters.in_flight += 1;
        self.flights.push(Reverse(Flight {
            at,
            sequence: self.sequence,
            to,
            frame,
        }));
    }

    /// Moves what has arrived by `now` into the receive queues.
    fn advance(&mut self, now: Instant) {
        while self
            .flights
            .peek()
            .is_some_and(|Reverse(flight)| flight.at <= now)
        {
            let Some(Reverse(flight)) = self.flights.pop() else {
                break;
            };
            self.counters.in_flight -= 1;
            let port = &mut self.ports[flight.to.0];
            if within(&port.down, flight.at).is_some() {
                self.counters.down += 1;
                port.rx_dropped += 1;
                self.spare.push(flight.frame);
            } else if port.rx_queue.len() >= port.config.rx_queue_frames {
                self.counters.overflowed += 1;
                port.rx_dropped += 1;
                self.spare.push(flight.frame);
            } else {
                self.counters.queued += 1;
                port.rx_queue.push_back(flight.frame);
            }
        }
    }

    /// When a frame taken at `now` leaves the port's transmit queue.
    fn departure(&mut self, id: PortId, now: Instant) -> Instant {
        let port = &mut self.ports[id.0];
        let mut at = now.max(port.last_departure) + port.config.tx_frame_time;
        // One pause may end within another, hence again until none holds.
        while let Some(pause) = within(&port.paused, at) {
            at = pause.end;
        }
        port.last_departure = at;
        at
    }
}

/// The switch. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimNet {
    inner: Rc<RefCell<Inner>>,
}

impl SimNet {
    /// An empty switch; `seed` decides everything that is left to chance.
    #[must_use]
    pub fn new(seed: u64, config: SimNetConfig) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner {
                config,
                rng: fastrand::Rng::with_seed(seed),
                ports: Vec::new(),
                cuts: Vec::new(),
                flights: BinaryHeap::new(),
                sequence: 0,
                counters: SimCounters::default(),
                spare: Vec::new(),
            })),
        }
    }

    /// Adds a port.
    #[must_use]
    pub fn port(&self, config: PortConfig) -> SimPort {
        let mut inner = self.inner.borrow_mut();
        let id = PortId(inner.ports.len());
        inner.ports.push(Port {
            rx_queue: VecDeque::with_capacity(config.rx_queue_frames),
            config,
            rx_dropped: 0,
            down: Vec::new(),
            paused: Vec::new(),
            last_departure: Instant::ZERO,
            last_in_order: Vec::new(),
        });
        let count = inner.ports.len();
        for port in &mut inner.ports {
            port.last_in_order.resize(count, Instant::ZERO);
        }
        SimPort {
            net: self.clone(),
            id,
        }
    }

    /// When the next frame arrives anywhere; `None` while nothing is on its way. Frames in receive queues have arrived.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        self.inner
            .borrow()
            .flights
            .peek()
            .map(|Reverse(flight)| flight.at)
    }

    /// Moves what has arrived by `now` into the receive queues (links do it too when they are polled).
    pub fn advance(&self, now: Instant) {
        self.inner.borrow_mut().advance(now);
    }

    /// A frame out of nowhere: arrives at `to` at the moment `at`, untouched by faults and cuts, whatever its address.
    pub fn inject(&self, at: Instant, to: PortId, frame: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.counters.offered += 1;
        inner.launch(at, to, frame, &[]);
    }

    /// What leaves `a` for `b`, or `b` for `a`, during the interval vanishes.
    pub fn cut(&self, a: PortId, b: PortId, during: Range<Instant>) {
        self.cut_one_way(a, b, during.clone());
        self.cut_one_way(b, a, during);
    }

    /// What leaves `from` for `to` during the interval vanishes.
    pub fn cut_one_way(&self, from: PortId, to: PortId, during: Range<Instant>) {
        self.inner.borrow_mut().cuts.push(Cut { from, to, during });
    }

    /// Ends all cuts, also those planned for later.
    pub fn heal(&self) {
        self.inner.borrow_mut().cuts.clear();
    }

    /// Sets the network's longest delay, for frames sent from now on.
    pub fn set_delay_max(&self, delay_max: Duration) {
        self.inner.borrow_mut().config.delay_max = delay_max;
    }

    /// What the network did so far.
    #[must_use]
    pub fn counters(&self) -> SimCounters {
        self.inner.borrow().counters
    }
}

/// A port of the switch: where its faults are set and its link is made.
#[derive(Clone)]
pub struct SimPort {
    net: SimNet,
    id: PortId,
}

impl SimPort {
    /// The port's number, for [`SimNet::cut`] and [`SimNet::inject`].
    #[must_use]
    pub fn id(&self) -> PortId {
        self.id
    }

    /// The interface plugged into this port. A second one replaces the first, as after a restart: what waited in the receive
    /// queue is gone, what the first had sent is still on its way.
    #[must_use]
    pub fn link(&self) -> SimLink {
        let mut inner = self.net.inner.borrow_mut();
        let inner = &mut *inner;
        let port = &mut inner.ports[self.id.0];
        let waiting = u64::try_from(port.rx_queue.len()).unwrap_or(u64::MAX);
        inner.counters.queued -= waiting;
        inner.counters.discarded += waiting;
        inner.spare.extend(port.rx_queue.drain(..));
        port.rx_dropped = 0;
        SimLink {
            net: self.net.clone(),
            port: self.id,
            info: LinkInfo {
                interface: port.config.name.clone(),
                mac: port.config.mac,
                mtu_bytes: port.config.mtu_bytes,
                queue: 0,
                mode: "sim".to_owned(),
            },
            tx_queue_frames: port.config.tx_queue_frames,
            departures: VecDeque::with_capacity(port.config.tx_queue_frames),
            completed: 0,
            was_down: false,
            counters: LinkCounters::default(),
        }
    }

    /// Sets what happens from the interface to the switch, for frames sent from now on.
    pub fn set_egress(&self, faults: PathFaults) {
        self.net.inner.borrow_mut().ports[self.id.0].config.egress = faults;
    }

    /// Sets what happens from the switch to the interface, for frames sent from now on.
    pub fn set_ingress(&self, faults: PathFaults) {
        self.net.inner.borrow_mut().ports[self.id.0].config.ingress = faults;
    }

    /// Takes the port down for an interval: what the interface sends fails, what arrives is dropped.
    pub fn take_down(&self, during: Range<Instant>) {
        self.net.inner.borrow_mut().ports[self.id.0]
            .down
            .push(during);
    }

    /// Stops the transmit queue for an interval (flow control): frames taken meanwhile wait, uncompleted.
    pub fn pause_transmit(&self, during: Range<Instant>) {
        self.net.inner.borrow_mut().ports[self.id.0]
            .paused
            .push(during);
    }
}

/// The interface on a port.
pub struct SimLink {
    net: SimNet,
    port: PortId,
    info: LinkInfo,
    tx_queue_frames: usize,
    /// When each frame in the transmit queue leaves it; never falls.
    departures: VecDeque<Instant>,
    completed: u64,
    was_down: bool,
    counters: LinkCounters,
}

impl SimLink {
    /// Counts departures up to `now` and notices whether the port is down.
    fn observe(&mut self, now: Instant) {
        while self.departures.front().is_some_and(|at| *at <= now) {
            self.departures.pop_front();
            self.completed += 1;
        }
        let down = within(&self.net.inner.borrow().ports[self.port.0].down, now).is_some();
        if down && !self.was_down {
            self.counters.link_downs += 1;
        }
        self.was_down = down;
    }

    fn frame_bytes_max(&self) -> usize {
        self.info.mtu_bytes + OVERHEAD_BYTES
    }
}

impl Link for SimLink {
    fn info(&self) -> &LinkInfo {
        &self.info
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        self.observe(now);
        self.net.inner.borrow_mut().advance(now);
        let mut delivered = 0;
        while delivered < frames_max {
            // The sink may use another link of this network, so nothing stays borrowed while it runs.
            let frame = {
                let mut inner = self.net.inner.borrow_mut();
                let Some(frame) = inner.ports[self.port.0].rx_queue.pop_front() else {
                    break;
                };
                inner.counters.queued -= 1;
                inner.counters.delivered += 1;
                frame
            };
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += u64::try_from(frame.len()).unwrap_or(0);
            sink(FrameRef::new(&frame));
            self.net.inner.borrow_mut().spare.push(frame);
            delivered += 1;
        }
        delivered
    }

    fn transmit_room(&mut self) -> usize {
        self.tx_queue_frames - self.departures.len()
    }

    fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        let len_bytes = header.len() + payload.len();
        if header.len() > HEADER_BYTES_MAX {
            return Err(TransmitError::TooLong {
                len_bytes: header.len(),
                max_bytes: HEADER_BYTES_MAX,
            });
        }
        if len_bytes > self.frame_bytes_max() {
            return Err(TransmitError::TooLong {
                len_bytes,
                max_bytes: self.frame_bytes_max(),
            });
        }
        self.observe(now);
        if self.departures.len() >= self.tx_queue_frames {
            return Err(TransmitError::Full);
        }
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += u64::try_from(len_bytes.max(FRAME_BYTES_MIN)).unwrap_or(0);
        let mut inner = self.net.inner.borrow_mut();
        if self.was_down {
            // The kernel refuses it at once: nothing of it is left, so it counts as completed when its predecessors do.
            self.counters.tx_failed += 1;
            let after = self.departures.back().copied().unwrap_or(now);
            self.departures.push_back(after);
        } else {
            let departure = inner.departure(self.port, now);
            inner.route(self.port, departure, header, payload);
            self.departures.push_back(departure);
        }
        drop(inner);
        self.observe(now);
        Ok(())
    }

    fn flush(&mut self, now: Instant) {
        self.observe(now);
        self.net.inner.borrow_mut().advance(now);
    }

    fn completed(&self) -> u64 {
        self.completed
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.departures.front().copied()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }

    fn prepare_wait(&mut self) -> bool {
        self.net.inner.borrow().ports[self.port.0]
            .rx_queue
            .is_empty()
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters.rx_dropped = self.net.inner.borrow().ports[self.port.0].rx_dropped;
        self.counters
    }
}
