//! The initiator and the target back to back: both real, with a network that loses, doubles and delays, and a judge that looks at
//! the disk itself.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "test data"
)]

pub mod disk;

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::{BinaryHeap, VecDeque};

use sandrail_proto::aoe::initiator::*;
use sandrail_proto::aoe::target::{
    Blade, BladeConfig, PersistId, PersistentState, SessionRule, TargetConfig, TargetIndex,
};
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr, TargetAddr};

use disk::{CachedDisk, Medium};

pub const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
pub const BLADE: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);

pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub fn host_mac(host: u8, interface: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0x10 + host, interface])
}

/// How the network treats frames, in 1/1000.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub loss: u16,
    pub duplicate: u16,
    pub straggle: u16,
    pub straggle_ms: u64,
}

impl Rates {
    pub const CLEAN: Self = Self {
        loss: 0,
        duplicate: 0,
        straggle: 0,
        straggle_ms: 0,
    };
}

/// A process with an initiator.
pub struct Host {
    pub number: u8,
    pub interfaces: u8,
    pub config: InitiatorConfig,
    pub initiator: Option<Initiator<Vec<u8>>>,
    sent: Vec<u64>,
    pub target: Option<TargetId>,
    pub done: VecDeque<Completion<Vec<u8>>>,
    pub notices: Vec<Notice>,
    pub failures: Vec<AttachFailure>,
}

impl Host {
    pub fn is_up(&self) -> bool {
        let (Some(initiator), Some(target)) = (&self.initiator, self.target) else {
            return false;
        };
        initiator.target(target).is_some()
    }

    pub fn session(&self) -> SessionState {
        let initiator = self.initiator.as_ref().unwrap();
        initiator.target(self.target.unwrap()).unwrap().session
    }

    /// Asks something, now.
    pub fn submit(
        &mut self,
        now: Instant,
        operation: Operation,
        buffer: Vec<u8>,
        timeout: Duration,
        user: u64,
    ) -> Result<RequestId, SubmitError> {
        let (Some(initiator), Some(target)) = (&mut self.initiator, self.target) else {
            return Err(SubmitError::NotAttached);
        };
        let request = Request {
            target,
            operation,
            buffer,
            timeout,
            user,
        };
        initiator
            .submit(now, request)
            .map_err(|rejected| rejected.error)
    }
}

/// A process that does not run.
pub struct Paused {
    initiator: Option<Initiator<Vec<u8>>>,
    sent: Vec<u64>,
    target: Option<TargetId>,
}

type Delivery = (Instant, u64, MacAddr, Vec<u8>);

pub struct Pair {
    pub now: Instant,
    pub rng: fastrand::Rng,
    pub rates: Rates,
    pub hosts: Vec<Host>,
    pub blade: Option<Blade<CachedDisk>>,
    /// Of a blade that is not there.
    medium: Option<Medium>,
    pub blade_config: BladeConfig,
    pub slowest_ms: u64,
    kept: PersistentState,
    persisting: Option<(Instant, TargetIndex, PersistId, PersistentState)>,
    network: BinaryHeap<Reverse<Delivery>>,
    order: u64,
    /// Frames for the blade while it does not run.
    pub paused_until: Instant,
    ring: Vec<Vec<u8>>,
    /// ATA WRITEs and FLUSHes that carried no session.
    pub sessionless: u64,
}

impl Pair {
    pub fn new(seed: u64, sectors: u64, lifetime: Duration) -> Self {
        let mut pair = Self {
            now: Instant::from_nanos(1_000_000_000),
            rng: fastrand::Rng::with_seed(seed),
            rates: Rates::CLEAN,
            hosts: Vec::new(),
            blade: None,
            medium: Some(Medium::new(sectors)),
            blade_config: BladeConfig {
                frame_lifetime: lifetime,
                duplicates_max: 1 << 14,
                ..BladeConfig::default()
            },
            slowest_ms: 0,
            kept: PersistentState {
                session_next: 700,
                ..PersistentState::default()
            },
            persisting: None,
            network: BinaryHeap::new(),
            order: 0,
            paused_until: Instant::ZERO,
            ring: Vec::new(),
            sessionless: 0,
        };
        pair.start_blade();
        pair
    }

    pub fn add_host(&mut self, interfaces: u8, config: InitiatorConfig) -> usize {
        let number = self.hosts.len() as u8;
        self.hosts.push(Host {
            number,
            interfaces,
            config,
            initiator: None,
            sent: Vec::new(),
            target: None,
            done: VecDeque::new(),
            notices: Vec::new(),
            failures: Vec::new(),
        });
        self.boot(usize::from(number));
        usize::from(number)
    }

    /// Starts a host's process, as a new life of it.
    pub fn boot(&mut self, host: usize) {
        let seed = self.rng.u64(..);
        let entry = &mut self.hosts[host];
        entry.config.incarnation = self.rng.u64(1..);
        let interfaces: Vec<_> = (0..entry.interfaces)
            .map(|interface| InterfaceConfig {
                mac: host_mac(entry.number, interface),
                mtu_bytes: 1500,
                vlan: None,
            })
            .collect();
        let initiator = Initiator::new(entry.config.clone(), &interfaces, seed, self.now);
        entry.initiator = Some(initiator.unwrap());
        entry.sent = vec![0; interfaces.len()];
        entry.target = None;
    }

    /// Ends it, with all that it knew.
    pub fn crash(&mut self, host: usize) {
        let entry = &mut self.hosts[host];
        entry.initiator = None;
        entry.target = None;
        entry.done.clear();
    }

    /// Takes a host's process out of the world, as one that is paused.
    pub fn pause(&mut self, host: usize) -> Paused {
        let entry = &mut self.hosts[host];
        Paused {
            initiator: entry.initiator.take(),
            sent: core::mem::take(&mut entry.sent),
            target: entry.target.take(),
        }
    }

    /// And back, in place of what runs there.
    pub fn resume(&mut self, host: usize, paused: Paused) {
        let entry = &mut self.hosts[host];
        entry.initiator = paused.initiator;
        entry.sent = paused.sent;
        entry.target = paused.target;
        entry.done.clear();
    }

    pub fn start_blade(&mut self) {
        let Some(medium) = self.medium.take() else {
            return;
        };
        let target = TargetConfig {
            persistent: self.kept.clone(),
            sessions: SessionRule::Required,
            ..TargetConfig::new(ADDR)
        };
        let disk = CachedDisk::new(medium, self.slowest_ms, self.rng.u64(..));
        let interface = InterfaceConfig {
            mac: BLADE,
            mtu_bytes: 1500,
            vlan: None,
        };
        let config = self.blade_config.clone();
        let seed = self.rng.u64(..);
        let blade = Blade::new(config, &[interface], vec![(target, disk)], seed, self.now);
        self.blade = Some(blade.unwrap());
    }

    /// The blade's process ends; with `power`, so does its cache.
    pub fn stop_blade(&mut self, power: bool) {
        let Some(mut blade) = self.blade.take() else {
            return;
        };
        self.persisting = None;
        self.ring.clear();
        let disk = blade.backing_mut(TargetIndex(0)).unwrap();
        let nothing = CachedDisk::new(Medium::new(0), 0, 0);
        let disk = core::mem::replace(disk, nothing);
        self.medium = Some(disk.end(power));
    }

    /// What was durable of the blade's state is gone.
    pub fn forget(&mut self) {
        self.kept = PersistentState {
            session_next: 9000,
            ..PersistentState::default()
        };
    }

    /// What the disk holds, whether its blade runs or not.
    pub fn medium(&self) -> &Medium {
        match (&self.blade, &self.medium) {
            (Some(blade), _) => &blade.backing(TargetIndex(0)).unwrap().medium,
            (None, Some(medium)) => medium,
            (None, None) => unreachable!("it is in one place"),
        }
    }

    fn send(&mut self, dst: MacAddr, frame: &[u8]) {
        let copies = 1 + u32::from(self.rng.u16(..1000) < self.rates.duplicate);
        for _ in 0..copies {
            if self.rng.u16(..1000) < self.rates.loss {
                continue;
            }
            let mut after = Duration::from_micros(self.rng.u64(5..200));
            if self.rng.u16(..1000) < self.rates.straggle {
                after += ms(self.rng.u64(..=self.rates.straggle_ms));
            }
            self.order += 1;
            let delivery = (self.now + after, self.order, dst, frame.to_vec());
            self.network.push(Reverse(delivery));
        }
    }

    fn hosts_turn(&mut self) {
        for host in 0..self.hosts.len() {
            let mut out = Vec::new();
            let entry = &mut self.hosts[host];
            let Some(initiator) = &mut entry.initiator else {
                continue;
            };
            for _ in 0..64 {
                let due = initiator.poll_timeout();
                if due.is_some_and(|due| due <= self.now) {
                    initiator.handle_timeout(self.now);
                }
                let before = out.len();
                for interface in 0..entry.interfaces {
                    let wire = InterfaceId(interface);
                    let sent = &mut entry.sent[usize::from(interface)];
                    while let Some(frame) = initiator.poll_transmit(self.now, wire) {
                        out.push([frame.header, frame.payload].concat());
                        *sent += 1;
                    }
                    initiator.handle_sent(self.now, wire, *sent);
                }
                if out.len() == before && due.is_none_or(|due| due > self.now) {
                    break;
                }
            }
            let due = initiator.poll_timeout();
            assert!(due.is_none_or(|due| due > self.now), "stays due: {due:?}");
            entry
                .done
                .extend(core::iter::from_fn(|| initiator.poll_event()));
            while let Some(notice) = initiator.poll_notice() {
                if let Notice::AttachFailed(_, _, failure) = notice {
                    entry.target = None;
                    entry.failures.push(failure);
                }
                entry.notices.push(notice);
            }
            for mut frame in out {
                let writes = frame[19] == 0 && matches!(frame[27], 0x30 | 0x34 | 0xe7 | 0xea);
                self.sessionless += u64::from(writes && frame[34..36] == [0, 0]);
                frame.resize(frame.len().max(60), 0);
                let dst = MacAddr(frame[..6].try_into().unwrap());
                self.send(if dst.is_multicast() { BLADE } else { dst }, &frame);
            }
        }
    }

    fn blade_turn(&mut self) {
        if let Some((at, target, id, state)) = self.persisting.take() {
            if at > self.now {
                self.persisting = Some((at, target, id, state));
            } else if let Some(blade) = &mut self.blade {
                self.kept = state;
                blade.handle_persisted(self.now, target, id, true);
            }
        }
        if self.now < self.paused_until {
            return;
        }
        let Some(blade) = &mut self.blade else { return };
        for frame in core::mem::take(&mut self.ring) {
            blade.handle_frame(self.now, InterfaceId(0), &FrameRef::new(&frame));
        }
        blade.handle_disks(self.now);
        if self.persisting.is_none()
            && let Some((target, id, state)) = blade.poll_persist()
        {
            let at = self.now + Duration::from_micros(self.rng.u64(..2000));
            self.persisting = Some((at, target, id, state));
        }
        let mut out = Vec::new();
        while let Some(frame) = blade.poll_transmit(self.now, InterfaceId(0)) {
            out.push([frame.header, frame.payload].concat());
        }
        while blade.poll_event().is_some() {}
        for frame in out {
            let dst = MacAddr(frame[..6].try_into().unwrap());
            if !dst.is_multicast() {
                self.send(dst, &frame);
                continue;
            }
            for host in 0..self.hosts.len() {
                for interface in 0..self.hosts[host].interfaces {
                    self.send(host_mac(host as u8, interface), &frame);
                }
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(Reverse((at, ..))) = self.network.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, dst, frame))) = self.network.pop() else {
                return;
            };
            if dst == BLADE {
                if self.blade.is_some() {
                    self.ring.push(frame);
                }
                continue;
            }
            for host in &mut self.hosts {
                let interface = dst.0[5];
                if dst.0[4] == 0x10 + host.number
                    && let Some(initiator) = &mut host.initiator
                {
                    let frame = FrameRef::new(&frame);
                    initiator.handle_frame(self.now, InterfaceId(interface), &frame);
                }
            }
        }
    }

    /// Attaches whoever is not.
    fn attach(&mut self) {
        for host in &mut self.hosts {
            if let Some(initiator) = &mut host.initiator
                && host.target.is_none()
            {
                let pinned = PinnedMacs::new(&[BLADE]).unwrap();
                host.target = initiator.attach(self.now, ADDR, pinned).ok();
            }
        }
    }

    /// Lets happen what happens next, by `until` at the latest.
    pub fn step(&mut self, until: Instant) {
        self.deliver();
        self.attach();
        self.hosts_turn();
        self.blade_turn();
        let mut next = until;
        if let Some(Reverse((at, ..))) = self.network.peek() {
            next = next.min(*at);
        }
        for host in &self.hosts {
            let due = host.initiator.as_ref().and_then(Initiator::poll_timeout);
            next = next.min(due.unwrap_or(next));
        }
        if self.now < self.paused_until {
            next = next.min(self.paused_until);
        } else if let Some(blade) = &self.blade {
            next = next.min(blade.poll_timeout().unwrap_or(next));
        }
        if let Some((at, ..)) = &self.persisting {
            next = next.min(*at);
        }
        self.now = next.max(self.now + Duration::from_micros(1)).min(until);
    }

    /// Runs for so long.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.step(until);
        }
    }

    /// Runs until the host has `count` ends of requests.
    pub fn run_until_done(&mut self, host: usize, count: usize, most: Duration) {
        let until = self.now + most;
        while self.hosts[host].done.len() < count && self.now < until {
            self.step(until);
        }
    }

    pub fn result(&mut self, host: usize) -> Result<Outcome, IoError> {
        let done = self.hosts[host].done.pop_front();
        done.expect("an end of a request").result
    }
}
