//! A machine with a production blade on it: its loop, its disks, what it makes durable, and how it ends and starts again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use sandrail_proto::aoe::target::{
    Blade, BladeConfig, BladeCounters, Held, InterfaceConfig, InterfaceId, PersistId,
    PersistentState, TargetConfig, TargetIndex,
};
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr, TargetAddr};

use crate::breach::{Breach, Forger};
use crate::bytes::{self, Mac};
use crate::disk::{DiskSpec, SimBacking, SimDisk};
use crate::ledger::Ledger;
use crate::net::FrameId;
use crate::target::TargetSpec;
use crate::violation::{Promise, Violation};
use crate::world::{Event, World};

/// A UMEM chunk's share of a frame.
const SEGMENT_BYTES: usize = 3840;
/// Frames that its receive ring holds.
const INBOX_FRAMES: usize = 512;
/// Calls for which a timer may stay due.
const CALLS_MAX: u32 = 64;

/// What a blade's machine is.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// Its interfaces' stations.
    pub macs: Vec<Mac>,
    /// MTU of all of them.
    pub mtu_bytes: usize,
    /// The blade's limits.
    pub config: BladeConfig,
    /// Its disks, one for each of the world's targets.
    pub disk: DiskSpec,
    /// Least time between two turns of its loop.
    pub turn_ns: u64,
    /// Time to make a state durable, at most.
    pub persist_ns: u64,
    /// Of a thousand, so many times it fails.
    pub persist_fails: u16,
    /// FORCE-SET, and sessions.
    pub target: TargetConfig,
    /// Frames longer than a chunk are handed over in segments.
    pub segments: bool,
    /// How it breaks the rules.
    pub breach: Breach,
}

/// A state on its way to the medium.
#[derive(Clone, Debug)]
struct Writing {
    target: TargetIndex,
    id: PersistId,
    state: PersistentState,
    until_ns: u64,
    ok: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    /// What it is.
    pub spec: MachineSpec,
    /// The process; none while it is down.
    pub blade: Option<Blade<SimBacking>>,
    /// Its disks.
    pub disks: Vec<Rc<RefCell<SimDisk>>>,
    targets: Vec<TargetSpec>,
    durable: Vec<PersistentState>,
    writing: VecDeque<Writing>,
    inbox: Vec<(u8, FrameId)>,
    first_port: u8,
    wake_at_ns: u64,
    next_turn_ns: u64,
    paused_until_ns: u64,
    healed: bool,
    forger: Forger,
    /// Counters of the lives that are over.
    pub past: BladeCounters,
}

impl Machine {
    pub(crate) fn new(
        spec: MachineSpec,
        targets: &[TargetSpec],
        first_port: u8,
        seed: u64,
        ledger: &Rc<RefCell<Ledger>>,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = |(index, target): (u8, &TargetSpec)| {
            let sectors = target.sectors_most;
            let disk = SimDisk::new(
                spec.disk.clone(),
                index,
                sectors,
                rng.u64(..),
                Rc::clone(ledger),
            );
            Rc::new(RefCell::new(disk))
        };
        let disks = (0..).zip(targets).map(&mut disk).collect();
        let state = PersistentState {
            session_next: rng.u16(1..),
            ..PersistentState::default()
        };
        Self {
            blade: None,
            disks,
            targets: targets.to_vec(),
            durable: vec![state; targets.len()],
            writing: VecDeque::new(),
            inbox: Vec::new(),
            first_port,
            wake_at_ns: u64::MAX,
            next_turn_ns: 0,
            paused_until_ns: 0,
            healed: false,
            forger: Forger::new(spec.breach),
            past: BladeCounters::default(),
            spec,
        }
    }

    /// What it holds; all zero when nothing is under way.
    #[must_use]
    pub fn held(&self) -> Held {
        self.blade.as_ref().map_or_else(Held::default, Blade::held)
    }

    /// What became of frames, in all its lives.
    #[must_use]
    pub fn counters(&self) -> BladeCounters {
        let mut sum = self.past;
        if let Some(blade) = &self.blade {
            sum += blade.counters();
        }
        sum
    }

    fn interfaces(&self) -> Vec<InterfaceConfig> {
        let config = |mac: &Mac| InterfaceConfig {
            mac: MacAddr(*mac),
            mtu_bytes: self.spec.mtu_bytes,
            vlan: None,
        };
        self.spec.macs.iter().map(config).collect()
    }

    fn start(&mut self, now: Instant, seed: u64) {
        let target = |(spec, (state, disk)): (&TargetSpec, (&PersistentState, &Rc<_>))| {
            let config = TargetConfig {
                addr: TargetAddr {
                    shelf: spec.shelf,
                    slot: spec.slot,
                },
                persistent: state.clone(),
                ..self.spec.target.clone()
            };
            (config, SimBacking::new(Rc::clone(disk)))
        };
        let states = self.durable.iter().zip(&self.disks);
        let targets = self.targets.iter().zip(states).map(target).collect();
        let config = self.spec.config.clone();
        let blade = Blade::new(config, &self.interfaces(), targets, seed, now);
        self.blade = Some(blade.expect("the scenario's configuration is sound"));
    }

    /// The state found after an end of the process: of those on their way, the ones up to some point were kept.
    fn cut(&mut self, rng: &mut fastrand::Rng) {
        while let Some(writing) = self.writing.pop_front() {
            if rng.bool() {
                break;
            }
            if writing.ok {
                self.keep(writing.target, writing.state);
            }
        }
        self.writing.clear();
    }

    fn keep(&mut self, target: TargetIndex, state: PersistentState) {
        let kept = &mut self.durable[usize::from(target.0)];
        if self.spec.breach == Breach::Amnesia {
            (kept.session_next, kept.birth_next) = (state.session_next, state.birth_next);
        } else {
            *kept = state;
        }
    }
}

impl World {
    /// Lets a machine take its turn at `at_ns`, if it does not do so sooner.
    pub(crate) fn wake_machine(&mut self, at_ns: u64) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let at_ns = at_ns.max(machine.next_turn_ns).max(self.now_ns);
        if at_ns < machine.wake_at_ns {
            machine.wake_at_ns = at_ns;
            self.at(at_ns, Event::Machine);
        }
    }

    pub(crate) fn machine_frame(&mut self, interface: u8, frame: FrameId) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let fits = self.pool.get(frame).bytes.len() <= machine.spec.mtu_bytes + 14;
        if machine.blade.is_none() || machine.inbox.len() >= INBOX_FRAMES || !fits {
            self.discard(frame);
            return;
        }
        machine.inbox.push((interface, frame));
        if let Some(copy) = self.pool.get(frame).copy {
            self.watch.queued(copy, 0);
        }
        self.wake_machine(self.now_ns);
    }

    pub(crate) fn machine_due(&mut self) {
        let now_ns = self.now_ns;
        let Some(machine) = &mut self.machine else {
            return;
        };
        if machine.wake_at_ns != now_ns {
            return;
        }
        machine.wake_at_ns = u64::MAX;
        if now_ns < machine.paused_until_ns {
            let until_ns = machine.paused_until_ns;
            self.wake_machine(until_ns);
            return;
        }
        if machine.blade.is_some() {
            machine.next_turn_ns = now_ns + machine.spec.turn_ns;
            self.machine_turn();
        }
    }

    fn machine_turn(&mut self) {
        let now = self.instant();
        self.ledger.borrow_mut().at(self.now_ns);
        self.machine_persisted(now);
        self.machine_receive(now);
        for _ in 0..CALLS_MAX {
            let Some(blade) = self.machine.as_mut().and_then(|m| m.blade.as_mut()) else {
                return;
            };
            blade.handle_disks(now);
            self.machine_persist();
            self.machine_transmit(now);
            self.machine_events();
            let found = self.ledger.borrow_mut().violation();
            if let Some(violation) = found {
                self.accuse(violation);
            }
            let Some(blade) = self.machine.as_mut().and_then(|m| m.blade.as_mut()) else {
                return;
            };
            let due = blade.poll_timeout().map_or(u64::MAX, Instant::as_nanos);
            if due > self.now_ns || self.violation.is_some() {
                let writing = self.machine.as_ref().map(|machine| {
                    let until = machine.writing.iter().map(|writing| writing.until_ns);
                    until.min().unwrap_or(u64::MAX)
                });
                self.wake_machine(due.min(writing.unwrap_or(u64::MAX)));
                return;
            }
            blade.handle_timeout(now);
        }
        let text = "the blade's poll_timeout() stays in the past".to_string();
        self.accuse(Violation::new(Promise::Livelock, text));
    }

    fn machine_receive(&mut self, now: Instant) {
        let Some(mut machine) = self.machine.take() else {
            return;
        };
        let mut inbox = core::mem::take(&mut machine.inbox);
        // One interface's ring after the other's: order is kept within each only.
        let first = self.rng.u8(..2);
        inbox.sort_by_key(|(interface, _)| interface ^ first);
        for (_, id) in &inbox {
            let frame = &self.pool.get(*id).bytes;
            if let Some(fields) = bytes::parse(frame)
                && !fields.response
            {
                for target in self.targets_addressed(&fields) {
                    self.ledger.borrow_mut().delivered(target, frame, &fields);
                }
            }
        }
        if machine.spec.breach == Breach::LastFirst {
            inbox.reverse();
        }
        for (interface, id) in inbox.drain(..) {
            self.note_frame("executed", id);
            let forged = machine.forger.request(&self.pool.get(id).bytes);
            if let Some(answer) = forged.answer {
                self.machine_forges(&machine, interface, &answer);
            }
            let frame = forged.request.as_ref().unwrap_or(&self.pool.get(id).bytes);
            if let Some(blade) = &mut machine.blade {
                let cut = if machine.spec.segments {
                    frame.len().min(SEGMENT_BYTES)
                } else {
                    frame.len()
                };
                let (head, mut rest) = frame.split_at(cut);
                let mut segments = FrameRef::new(head);
                while !rest.is_empty() {
                    let (segment, left) = rest.split_at(rest.len().min(SEGMENT_BYTES));
                    assert!(segments.push(segment).is_ok(), "an MTU takes few segments");
                    rest = left;
                }
                blade.handle_frame(now, InterfaceId(interface), &segments);
            }
            if let Some(copy) = self.pool.get(id).copy {
                self.watch.over(copy, 0);
            }
            self.pool.give(id);
        }
        machine.inbox = inbox;
        self.machine = Some(machine);
    }

    /// The targets that a frame's shelf and slot name.
    pub(crate) fn targets_addressed(&self, fields: &bytes::Fields) -> Vec<u8> {
        (0..)
            .zip(&self.blades)
            .filter(|(_, blade)| {
                let spec = &blade.target.spec;
                (fields.shelf == spec.shelf || fields.shelf == 0xffff)
                    && (fields.slot == spec.slot || fields.slot == 0xff)
            })
            .map(|(target, _)| target)
            .collect()
    }

    fn machine_transmit(&mut self, now: Instant) {
        let Some(mut machine) = self.machine.take() else {
            return;
        };
        let interfaces = machine.spec.macs.len() as u8;
        for interface in 0..interfaces {
            while let Some(blade) = &mut machine.blade
                && self.violation.is_none()
            {
                let Some(transmit) = blade.poll_transmit(now, InterfaceId(interface)) else {
                    break;
                };
                let id = self.pool.take();
                let frame = self.pool.get_mut(id);
                frame.bytes.extend_from_slice(transmit.header);
                frame.bytes.extend_from_slice(transmit.payload);
                machine.forger.answer(&mut frame.bytes);
                let len_bytes = frame.bytes.len();
                if len_bytes < 60 {
                    frame.bytes.resize(60, 0);
                }
                self.note_frame("answered", id);
                self.judge_answer(&machine, interface, id);
                let port = machine.first_port + interface;
                self.launch(id, port, self.now_ns);
            }
        }
        self.machine = Some(machine);
    }

    /// Sends an answer that the blade has not given.
    fn machine_forges(&mut self, machine: &Machine, interface: u8, answer: &[u8]) {
        let id = self.pool.take();
        self.pool.get_mut(id).bytes.extend_from_slice(answer);
        self.note_frame("forged", id);
        self.judge_answer(machine, interface, id);
        self.launch(id, machine.first_port + interface, self.now_ns);
    }

    fn judge_answer(&mut self, machine: &Machine, interface: u8, id: FrameId) {
        let frame = self.pool.get_mut(id);
        let Some(fields) = bytes::parse(&frame.bytes) else {
            let text = "what a blade sends is not AoE".to_string();
            return self.accuse(Violation::new(Promise::Frame, text));
        };
        let fits = frame.bytes.len() <= machine.spec.mtu_bytes + 14;
        let own = fields.src == machine.spec.macs[usize::from(interface)];
        if !fits || !own || !fields.response {
            let text = format!("no answer of this interface, or too long: {fields}");
            return self.accuse(Violation::new(Promise::Frame, text));
        }
        if fields.dst == [0xff; 6] {
            frame.advertised_ns = Some(self.now_ns);
        }
        let frame = &self.pool.get(id).bytes;
        if let [target] = self.targets_addressed(&fields)[..] {
            self.ledger.borrow_mut().answered(target, frame, &fields);
        }
    }

    fn machine_events(&mut self) {
        while let Some(event) = self
            .machine
            .as_mut()
            .and_then(|machine| machine.blade.as_mut())
            .and_then(Blade::poll_event)
        {
            self.note(|| format!("blade {event:?}"));
        }
    }

    fn machine_persist(&mut self) {
        let now_ns = self.now_ns;
        let Some(machine) = &mut self.machine else {
            return;
        };
        while let Some((target, id, state)) = machine.blade.as_mut().and_then(Blade::poll_persist) {
            let after_ns = machine
                .writing
                .back()
                .map_or(now_ns, |writing| writing.until_ns.max(now_ns));
            let takes_ns = if machine.healed {
                1_000
            } else {
                self.rng.u64(..=machine.spec.persist_ns)
            };
            let fails = !machine.healed && self.rng.u16(..1000) < machine.spec.persist_fails;
            machine.writing.push_back(Writing {
                target,
                id,
                state,
                until_ns: after_ns + takes_ns,
                ok: !fails,
            });
        }
    }

    fn machine_persisted(&mut self, now: Instant) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let mut notes = Vec::new();
        while machine
            .writing
            .front()
            .is_some_and(|writing| writing.until_ns <= now.as_nanos())
            && let Some(writing) = machine.writing.pop_front()
        {
            notes.push(format!(
                "durable: {} {:?} epoch {}",
                writing.ok, writing.id, writing.state.epoch
            ));
            if writing.ok {
                machine.keep(writing.target, writing.state);
            }
            if let Some(blade) = &mut machine.blade {
                blade.handle_persisted(now, writing.target, writing.id, writing.ok);
            }
        }
        for line in notes {
            self.note(|| line);
        }
    }

    /// The process is killed, or power fails.
    pub(crate) fn stop_machine(&mut self, power: bool) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let Some(blade) = machine.blade.take() else {
            return;
        };
        machine.past += blade.counters();
        drop(blade);
        for (_, id) in machine.inbox.drain(..) {
            if let Some(copy) = self.pool.get(id).copy {
                self.watch.over(copy, 0);
            }
            self.pool.give(id);
        }
        machine.cut(&mut self.rng);
        let mut lost = Vec::new();
        for (target, disk) in (0..).zip(&machine.disks) {
            let sectors = disk.borrow_mut().stop(power);
            lost.push((target, sectors));
        }
        self.ledger.borrow_mut().restarted();
        for (target, sectors) in lost {
            self.tally.sectors_lost += sectors.len() as u64;
            self.note(|| format!("target {target} lost sectors {sectors:?}"));
            for lba in sectors {
                let Some(machine) = &self.machine else { return };
                let disk = machine.disks[usize::from(target)].borrow();
                let result = self.oracle.sector_lost(target, lba, disk.sector(lba));
                drop(disk);
                self.check(result);
            }
        }
    }

    pub(crate) fn start_machine(&mut self) {
        let (now, seed) = (self.instant(), self.rng.u64(..));
        self.note(|| "the blade starts".into());
        if let Some(machine) = &mut self.machine
            && machine.blade.is_none()
        {
            machine.start(now, seed);
            machine.paused_until_ns = 0;
        }
        self.wake_machine(self.now_ns);
    }

    pub(crate) fn pause_machine(&mut self, for_ns: u64) {
        let until_ns = self.now_ns + for_ns;
        if let Some(machine) = &mut self.machine {
            machine.paused_until_ns = until_ns;
        }
    }

    pub(crate) fn heal_machine(&mut self) {
        if let Some(machine) = &mut self.machine {
            machine.healed = true;
            machine.paused_until_ns = 0;
            for disk in &machine.disks {
                disk.borrow_mut().healed = true;
            }
        }
        self.start_machine();
    }
}
