//! Links in namespaces, and frames to send over them.

use std::sync::{LazyLock, PoisonError, RwLock};
use std::time::{Duration, Instant as Clock};

use sandrail_lab::{Lab, Side, can_run};
use sandrail_link::xdp::{XdpConfig, XdpLink, XdpMode, XdpPort};
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, MacAddr};

pub(crate) const MODES: [XdpMode; 2] = [XdpMode::Generic, XdpMode::Native];

/// Links want one clock that never goes back.
static EPOCH: LazyLock<Clock> = LazyLock::new(Clock::now);

/// The links' clock, and the moment by which a test must be through.
pub(crate) struct Deadline {
    started: Clock,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn new(seconds: u64) -> Self {
        Self {
            started: Clock::now(),
            limit: Duration::from_secs(seconds),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        let ns = EPOCH.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// Also lets others run: tests share their cores.
    pub(crate) fn passed(&self) -> bool {
        std::thread::yield_now();
        self.started.elapsed() > self.limit
    }
}

/// Waits until it holds; panics after that many seconds.
#[track_caller]
pub(crate) fn until(seconds: u64, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::new(seconds);
    while !holds() {
        assert!(!deadline.passed(), "not within {seconds} s");
    }
}

/// A socket is inherited by a process that is started while it is being opened (see `close_on_exec` in the library), and a
/// lab's guardian lives as long as the lab. So labs are built (write) only while nobody opens (read).
static OPENING: RwLock<()> = RwLock::new(());

/// Runs `work` on that side while no lab is being built.
pub(crate) fn enter<T: Send>(lab: &Lab, side: Side, work: impl FnOnce() -> T + Send) -> T {
    let _open = OPENING.read().unwrap_or_else(PoisonError::into_inner);
    lab.enter(side, work).expect("the namespace can be entered")
}

/// A lab, unless this machine cannot have one and need not.
pub(crate) fn lab(test: &str, mtu_bytes: u32, queues: u32) -> Option<Lab> {
    if !can_run(test, Lab::namespaces_supported()) {
        return None;
    }
    let building = OPENING.write().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::builder()
        .name_prefix("sandrailxdp")
        .mtu(mtu_bytes)
        .queues(queues)
        .build()
        .expect("the machine can have a lab");
    drop(building);
    let tried = enter(&lab, Side::Initiator, || {
        let mut config = small(lab.interface(Side::Initiator), XdpMode::Generic);
        config.rx_chunks = 64;
        XdpLink::open(&config, 0).map(drop)
    });
    can_run(test, tried).then_some(lab)
}

pub(crate) fn mac(lab: &Lab, side: Side) -> MacAddr {
    MacAddr(lab.mac(side).0)
}

/// Few chunks: tests run side by side on small machines.
pub(crate) fn small(interface: &str, mode: XdpMode) -> XdpConfig {
    XdpConfig {
        mode,
        rx_chunks: 512,
        tx_chunks: 256,
        ..XdpConfig::new(interface)
    }
}

pub(crate) fn port(lab: &Lab, side: Side, config: &XdpConfig) -> XdpPort {
    enter(lab, side, || XdpPort::open(config)).expect("the interface can be opened")
}

pub(crate) fn links(
    lab: &Lab,
    side: Side,
    port: &XdpPort,
    queue: u32,
    shards: &[u32],
) -> Vec<XdpLink> {
    enter(lab, side, || port.links(queue, shards)).expect("the queue can be opened")
}

pub(crate) fn open(lab: &Lab, side: Side, mode: XdpMode, queue: u32) -> XdpLink {
    let port = port(lab, side, &small(lab.interface(side), mode));
    links(lab, side, &port, queue, &[0])
        .pop()
        .expect("one link")
}

/// What a test frame says.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) tags: &'a [u8],
    pub(crate) ethertype: u16,
    pub(crate) response: bool,
    pub(crate) tag: u32,
    pub(crate) len_bytes: usize,
}

impl Frame<'_> {
    /// A frame to `side` from the other, filled with a pattern that depends on tag and place.
    pub(crate) fn build(&self, lab: &Lab, side: Side) -> Vec<u8> {
        let from = match side {
            Side::Initiator => Side::Target,
            Side::Target => Side::Initiator,
        };
        let mut frame = Vec::with_capacity(self.len_bytes);
        frame.extend(mac(lab, side).0);
        frame.extend(mac(lab, from).0);
        frame.extend(self.tags);
        frame.extend(self.ethertype.to_be_bytes());
        frame.push(if self.response { 0x18 } else { 0x10 });
        frame.extend([0, 0, 7, 3, 0]);
        frame.extend(self.tag.to_be_bytes());
        let seed = self.tag.wrapping_mul(0x9e37_79b9);
        let mut place = 0_u32;
        while frame.len() < self.len_bytes {
            place += 1;
            frame.push((seed.wrapping_add(place.wrapping_mul(2_654_435_761)) >> 24) as u8);
        }
        frame.truncate(self.len_bytes);
        frame
    }
}

pub(crate) fn aoe_request(lab: &Lab, side: Side, len_bytes: usize, tag: u32) -> Vec<u8> {
    Frame {
        tags: &[],
        ethertype: 0x88a2,
        response: false,
        tag,
        len_bytes,
    }
    .build(lab, side)
}

pub(crate) fn bytes_of(frame: &FrameRef<'_>) -> Vec<u8> {
    frame.segments().concat()
}
