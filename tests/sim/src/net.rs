//! The simulated network: one switch, stations on its ports, and what it does to frames.

use crate::bytes::Mac;
use crate::watch::CopyId;

/// A frame in flight, by its place in the [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameId(u32);

/// One frame's memory and what the watch knows it by.
#[derive(Debug, Default)]
pub struct Frame {
    /// Its bytes, untagged.
    pub bytes: Vec<u8>,
    /// The copy of a WRITE that it is.
    pub copy: Option<CopyId>,
    /// A target's broadcast of its start, with the time it was sent.
    pub advertised_ns: Option<u64>,
    /// The host that sent it, and when it leaves that host's ring.
    pub sent: Option<(u8, u64)>,
    /// It was lost with its host before it left.
    pub void: bool,
}

/// Frames are taken from here and given back, so that a long run allocates nothing.
#[derive(Debug, Default)]
pub struct Pool {
    frames: Vec<Frame>,
    free: Vec<FrameId>,
}

impl Pool {
    /// An empty frame.
    pub fn take(&mut self) -> FrameId {
        if let Some(id) = self.free.pop() {
            let frame = &mut self.frames[id.0 as usize];
            frame.bytes.clear();
            frame.copy = None;
            frame.advertised_ns = None;
            frame.sent = None;
            frame.void = false;
            return id;
        }
        self.frames.push(Frame::default());
        FrameId(self.frames.len() as u32 - 1)
    }

    /// A second one just like it.
    pub fn duplicate(&mut self, id: FrameId) -> FrameId {
        let copy = self.take();
        let bytes = core::mem::take(&mut self.frames[copy.0 as usize].bytes);
        let original = self.get(id);
        let (mark, advertised_ns, sent) = (original.copy, original.advertised_ns, original.sent);
        let mut bytes = bytes;
        bytes.extend_from_slice(&original.bytes);
        self.frames[copy.0 as usize] = Frame {
            bytes,
            copy: mark,
            advertised_ns,
            sent,
            void: false,
        };
        copy
    }

    /// The frame.
    #[must_use]
    pub fn get(&self, id: FrameId) -> &Frame {
        &self.frames[id.0 as usize]
    }

    /// The frame, to be written.
    pub fn get_mut(&mut self, id: FrameId) -> &mut Frame {
        &mut self.frames[id.0 as usize]
    }

    /// Gives it back.
    pub fn give(&mut self, id: FrameId) {
        self.free.push(id);
    }
}

/// Who sits on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An initiator's interface.
    Host {
        /// Which host.
        host: u8,
        /// Which of its interfaces.
        interface: u8,
    },
    /// A target's station.
    Target {
        /// Which target.
        target: u8,
        /// Which of its stations.
        station: u8,
    },
    /// An interface of the machine with the production blade on it.
    Machine {
        /// Which.
        interface: u8,
    },
    /// A scripted station.
    Puppet {
        /// Which.
        puppet: u8,
    },
    /// Somebody who answers for a target's address and is not that target.
    Rogue {
        /// Whose address.
        target: u8,
    },
}

/// A place on the switch.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its station.
    pub mac: Mac,
    /// Whose it is.
    pub owner: Owner,
    /// Frames with more behind the Ethernet header vanish here, either way.
    pub mtu_bytes: usize,
    /// Until then nothing passes.
    pub down_until_ns: u64,
}

/// How the network treats frames. Shares are out of 65536.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Least time from station to station.
    pub delay_ns: u64,
    /// Spread of that time, so that frames overtake one another.
    pub jitter_ns: u64,
    /// Lost.
    pub loss: u16,
    /// Delivered twice. A request's second instance comes directly behind the first: no initiator can know of copies
    /// that the network makes, so that one which straggles is beyond what S3 can prevent.
    pub duplicate: u16,
    /// Held back.
    pub straggle: u16,
    /// For up to so long.
    pub straggle_ns: u64,
}

impl Rates {
    /// A quiet network.
    pub const CLEAN: Self = Self {
        delay_ns: 5_000,
        jitter_ns: 0,
        loss: 0,
        duplicate: 0,
        straggle: 0,
        straggle_ns: 0,
    };
}

/// What a test wants to happen to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As the rates have it.
    ByRates,
    /// It vanishes.
    Lose,
    /// It arrives after this time.
    After(u64),
    /// It arrives after the one and after the other.
    Twice(u64, u64),
}

/// Decides about frames before the rates do: time, bytes.
pub type Hook = Box<dyn FnMut(u64, &[u8]) -> Fate>;

/// The switch.
pub struct Network {
    /// Its ports.
    pub ports: Vec<Port>,
    /// How it treats frames now.
    pub rates: Rates,
    /// A test's own decisions.
    pub hook: Option<Hook>,
    blocked_until_ns: Vec<u64>,
}

impl Network {
    /// A switch with these ports.
    #[must_use]
    pub fn new(ports: Vec<Port>, rates: Rates) -> Self {
        let pairs = ports.len() * ports.len();
        Self {
            ports,
            rates,
            hook: None,
            blocked_until_ns: vec![0; pairs],
        }
    }

    /// The port of a station.
    #[must_use]
    pub fn port_of(&self, mac: Mac) -> Option<u8> {
        self.ports
            .iter()
            .position(|port| port.mac == mac)
            .map(|place| place as u8)
    }

    /// Who a station belongs to.
    #[must_use]
    pub fn owner_of(&self, mac: Mac) -> Option<Owner> {
        self.port_of(mac)
            .map(|port| self.ports[usize::from(port)].owner)
    }

    /// Nothing passes from the one port to the other until then.
    pub fn block(&mut self, from: u8, to: u8, until_ns: u64) {
        let place = usize::from(from) * self.ports.len() + usize::from(to);
        self.blocked_until_ns[place] = until_ns;
    }

    /// All faults are over, but what ports carry stays as it is.
    pub fn heal(&mut self) {
        self.rates = Rates::CLEAN;
        self.blocked_until_ns.fill(0);
        for port in &mut self.ports {
            port.down_until_ns = 0;
        }
    }

    /// When a frame sent at `now_ns` arrives: not at all, once, or twice.
    pub fn fate(
        &mut self,
        now_ns: u64,
        from: u8,
        to: u8,
        frame: &[u8],
        rng: &mut fastrand::Rng,
    ) -> [Option<u64>; 2] {
        let pair = usize::from(from) * self.ports.len() + usize::from(to);
        let (source, sink) = (&self.ports[usize::from(from)], &self.ports[usize::from(to)]);
        let carried_bytes = frame.len().saturating_sub(14);
        if carried_bytes > source.mtu_bytes.min(sink.mtu_bytes)
            || now_ns
                < source
                    .down_until_ns
                    .max(sink.down_until_ns)
                    .max(self.blocked_until_ns[pair])
        {
            return [None; 2];
        }
        match self
            .hook
            .as_mut()
            .map_or(Fate::ByRates, |hook| hook(now_ns, frame))
        {
            Fate::Lose => return [None; 2],
            Fate::After(delay_ns) => return [Some(now_ns + delay_ns), None],
            Fate::Twice(one_ns, other_ns) => {
                return [Some(now_ns + one_ns), Some(now_ns + other_ns)];
            }
            Fate::ByRates => {}
        }
        let rates = self.rates;
        let chance = rng.u64(..);
        let [a, b, c, d, e, f, ..] = chance.to_le_bytes();
        if u16::from_le_bytes([a, b]) < rates.loss {
            return [None; 2];
        }
        let mut delay_ns = || {
            let straggle_ns = if u16::from_le_bytes([c, d]) < rates.straggle {
                rng.u64(..=rates.straggle_ns)
            } else {
                0
            };
            let jitter_ns = if rates.jitter_ns == 0 {
                0
            } else {
                rng.u64(..rates.jitter_ns)
            };
            rates.delay_ns + jitter_ns + straggle_ns
        };
        // A production blade is to know copies, whoever made them, if not those of initiators without sessions.
        let to_target = matches!(sink.owner, Owner::Target { .. });
        let first_ns = now_ns + delay_ns();
        let second = (u16::from_le_bytes([e, f]) < rates.duplicate).then(|| {
            if to_target {
                first_ns
            } else {
                now_ns + delay_ns()
            }
        });
        [Some(first_ns), second]
    }
}
