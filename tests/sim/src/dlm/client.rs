//! Clients: transactions that take a few locks one after the other, convert some, hold them, and give them back.

use super::call::{Call, Flags, LockId, Mode, Resource, Stamp, Told, Txn, Why};

/// What clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients on each node.
    pub clients: u16,
    /// Resources.
    pub resources: u16,
    /// How often each mode is asked for, of the sum, NL first.
    pub modes: [u32; 6],
    /// The most locks of a transaction.
    pub locks_most: u32,
    /// Locks are taken in any order, so that transactions can wait for each other.
    pub any_order: bool,
    /// Of 100 transactions that hold what they want, so many convert a lock of theirs.
    pub converts: u32,
    /// Of 100 requests, so many have flags.
    pub flags: u32,
    /// Of 100 requests, so many are cancelled if they wait.
    pub cancels: u32,
    /// Of 100 locks that may, so many write the value block.
    pub writes: u32,
    /// The longest that a transaction holds its locks once it has them, in nanoseconds.
    pub hold_ns: u64,
    /// The longest between two transactions, in nanoseconds.
    pub think_ns: u64,
    /// Transactions of a client, at most.
    pub transactions: u32,
}

#[derive(Clone, Copy, Debug)]
struct HeldLock {
    lock: LockId,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Thinks,
    Waits,
    /// A request was cancelled, its end is awaited.
    Cancelled,
    Holds,
    /// Locks are given back.
    Releases,
    Stopped,
}

/// What a client wants of its node.
#[derive(Debug, Default)]
pub struct Wish {
    /// Calls, in this order.
    pub calls: Vec<Call>,
    /// To be woken after this many nanoseconds.
    pub wake_ns: Option<u64>,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    index: u16,
    rng: fastrand::Rng,
    state: State,
    txn: Txn,
    wanted: Vec<(Resource, Mode)>,
    held: Vec<HeldLock>,
    /// The request under way: of which lock, and what it will be.
    asked: Option<HeldLock>,
    releasing: usize,
    locks: u64,
    transactions: u32,
    stopping: bool,
    /// Wakes that were asked for before something else happened are ignored.
    serial: u32,
}

/// Locks of a client's are numbered from its index shifted by this.
const CLIENT_SHIFT: u32 = 32;

impl Client {
    /// A client that begins to think.
    #[must_use]
    pub fn new(index: u16, seed: u64) -> Self {
        Self {
            index,
            rng: fastrand::Rng::with_seed(seed),
            state: State::Thinks,
            txn: Txn(0),
            wanted: Vec::new(),
            held: Vec::new(),
            asked: None,
            releasing: 0,
            locks: 0,
            transactions: 0,
            stopping: false,
            serial: 0,
        }
    }

    /// Which client a lock belongs to.
    #[must_use]
    pub const fn of(lock: LockId) -> u16 {
        (lock.0 >> CLIENT_SHIFT) as u16
    }

    /// Whether a wake with this number is still wanted.
    #[must_use]
    pub const fn is_awaited(&self, serial: u32) -> bool {
        self.serial == serial
    }

    /// The number for the next wake; those before it are void.
    pub fn next_serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    /// No more transactions after this one.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether it holds nothing, wants nothing and will not begin.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Stopped
            || (self.stopping && self.state == State::Thinks && self.held.is_empty())
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    fn mode(&mut self, load: &Load) -> Mode {
        let sum: u32 = load.modes.iter().sum();
        let mut at = self.rng.u32(..sum.max(1));
        for (mode, weight) in Mode::ALL.into_iter().zip(load.modes) {
            if at < weight {
                return mode;
            }
            at -= weight;
        }
        Mode::Ex
    }

    fn flags(&mut self, load: &Load, mode: Mode, converts: bool) -> Flags {
        let mut flags = Flags::default();
        if !self.chance(load.flags) {
            return flags;
        }
        match self.rng.u32(..7) {
            0 => flags.noqueue = true,
            1 => flags.timeout_ns = Some(self.rng.u64(1000..=load.hold_ns.max(1001))),
            2 if !converts => flags.headque = true,
            3 if !converts && mode == Mode::Nl => flags.expedite = true,
            3 if converts => flags.quecvt = true,
            4 if mode == Mode::Ex || mode == Mode::Cw => flags.altpr = true,
            5 if mode == Mode::Ex || mode == Mode::Pr => flags.altcw = true,
            6 if converts => flags.convdeadlk = true,
            _ => {}
        }
        flags
    }

    /// What it does now that it was woken. `txn` names its next transaction.
    pub fn woken(&mut self, load: &Load, txn: Txn) -> Wish {
        match self.state {
            State::Thinks if self.stopping || self.transactions >= load.transactions => {
                self.state = State::Stopped;
                Wish::default()
            }
            State::Thinks => {
                self.begin(load, txn);
                self.next(load)
            }
            State::Waits => self.cancel(),
            State::Holds => self.held_enough(load),
            State::Cancelled | State::Releases | State::Stopped => Wish::default(),
        }
    }

    fn begin(&mut self, load: &Load, txn: Txn) {
        self.txn = txn;
        self.transactions += 1;
        let count = self.rng.u32(1..=load.locks_most.max(1)) as usize;
        let mut resources: Vec<u16> = (0..load.resources).collect();
        self.rng.shuffle(&mut resources);
        resources.truncate(count);
        if !load.any_order {
            resources.sort_unstable();
        }
        self.wanted = resources
            .into_iter()
            .rev()
            .map(|resource| (Resource(resource), self.mode(load)))
            .collect();
    }

    /// The next lock of the transaction, or what comes when it has all.
    fn next(&mut self, load: &Load) -> Wish {
        let Some((resource, mode)) = self.wanted.pop() else {
            self.state = State::Holds;
            let wake_ns = Some(self.rng.u64(0..=load.hold_ns));
            return Wish {
                calls: Vec::new(),
                wake_ns,
            };
        };
        self.locks += 1;
        let lock = LockId(u64::from(self.index) << CLIENT_SHIFT | self.locks);
        let flags = self.flags(load, mode, false);
        self.asked = Some(HeldLock { lock, mode });
        self.state = State::Waits;
        let call = Call::Lock {
            lock,
            resource,
            mode,
            flags,
            txn: self.txn,
        };
        Wish {
            calls: vec![call],
            wake_ns: self.cancels_after(load),
        }
    }

    fn cancels_after(&mut self, load: &Load) -> Option<u64> {
        self.chance(load.cancels)
            .then(|| self.rng.u64(0..=2 * load.hold_ns))
    }

    fn cancel(&mut self) -> Wish {
        let Some(asked) = self.asked else {
            return Wish::default();
        };
        self.state = State::Cancelled;
        Wish {
            calls: vec![Call::Cancel { lock: asked.lock }],
            wake_ns: None,
        }
    }

    fn stamp(&mut self, load: &Load) -> Option<Stamp> {
        // Unique enough: 64 bits of chance.
        self.chance(load.writes).then(|| Stamp(self.rng.u64(1..)))
    }

    fn held_enough(&mut self, load: &Load) -> Wish {
        if self.held.is_empty() || self.stopping || !self.chance(load.converts) {
            return self.release(load);
        }
        let held = self.held[self.rng.usize(..self.held.len())];
        let mode = self.mode(load);
        if mode == held.mode {
            return self.release(load);
        }
        // A conversion that writes the block has no flags: it can't be refused, so the block is written now.
        let writes = held.mode.writes_value() && !mode.writes_value();
        let value = if writes { self.stamp(load) } else { None };
        let (flags, wake_ns) = if value.is_some() {
            (Flags::default(), None)
        } else {
            (self.flags(load, mode, true), self.cancels_after(load))
        };
        self.asked = Some(HeldLock { mode, ..held });
        self.state = State::Waits;
        let call = Call::Convert {
            lock: held.lock,
            mode,
            flags,
            value,
        };
        // What may have become NL meanwhile is not cancelled, so that its mode is known.
        Wish {
            calls: vec![call],
            wake_ns: wake_ns.filter(|_| !flags.convdeadlk),
        }
    }

    /// Gives back all that it holds.
    fn release(&mut self, load: &Load) -> Wish {
        self.wanted.clear();
        self.asked = None;
        let mut calls = Vec::new();
        for held in core::mem::take(&mut self.held) {
            let value = if held.mode.writes_value() {
                self.stamp(load)
            } else {
                None
            };
            calls.push(Call::Unlock {
                lock: held.lock,
                value,
            });
        }
        self.releasing = calls.len();
        if calls.is_empty() {
            return self.think(load);
        }
        self.state = State::Releases;
        Wish {
            calls,
            wake_ns: None,
        }
    }

    fn think(&mut self, load: &Load) -> Wish {
        self.state = State::Thinks;
        Wish {
            calls: Vec::new(),
            wake_ns: Some(self.rng.u64(0..=load.think_ns)),
        }
    }

    /// Its call was refused for want of room: as if it had been denied.
    pub fn refused(&mut self, load: &Load, lock: LockId) -> Wish {
        let held = self.held.iter().find(|held| held.lock == lock);
        let held = held.map(|held| held.mode);
        self.told(
            load,
            &Told::Denied {
                lock,
                why: Why::Full,
                held,
            },
        )
    }

    /// What it does now that it was told this.
    pub fn told(&mut self, load: &Load, told: &Told) -> Wish {
        match told {
            Told::Granted { lock, mode, .. } => {
                let Some(asked) = self.asked.take_if(|asked| asked.lock == *lock) else {
                    return Wish::default();
                };
                self.held.retain(|held| held.lock != *lock);
                self.held.push(HeldLock {
                    mode: *mode,
                    ..asked
                });
                self.next(load)
            }
            Told::Denied { lock, held, .. } => {
                let Some(asked) = self.asked.take_if(|asked| asked.lock == *lock) else {
                    return Wish::default();
                };
                self.held.retain(|held| held.lock != *lock);
                if let Some(mode) = held {
                    self.held.push(HeldLock {
                        mode: *mode,
                        ..asked
                    });
                }
                self.release(load)
            }
            Told::Unlocked { .. } => {
                self.releasing = self.releasing.saturating_sub(1);
                if self.state == State::Releases && self.releasing == 0 {
                    return self.think(load);
                }
                Wish::default()
            }
            // Half of those who are asked to hurry do.
            Told::Blocking { .. } if self.state == State::Holds && self.rng.bool() => {
                self.release(load)
            }
            Told::Blocking { .. } => Wish::default(),
        }
    }

    /// Takes a lock on `resource` in EX by itself, when nothing else is under way, for the last look of a run.
    pub fn sweep(&mut self, resource: Resource, txn: Txn) -> Wish {
        self.stopping = true;
        self.locks += 1;
        self.txn = txn;
        let lock = LockId(u64::from(self.index) << CLIENT_SHIFT | self.locks);
        let mode = Mode::Ex;
        self.asked = Some(HeldLock { lock, mode });
        self.state = State::Waits;
        Wish {
            calls: vec![Call::Lock {
                lock,
                resource,
                mode,
                flags: Flags::default(),
                txn,
            }],
            wake_ns: None,
        }
    }
}
