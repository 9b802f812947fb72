//! Opening an interface for the shards: AF_XDP where it is to be had, AF_PACKET otherwise, and the decorators that
//! inject faults and capture.

use std::fmt;
use std::os::fd::RawFd;
use std::str::FromStr;
use std::sync::Arc;

use sandrail_link::capture::{CaptureLink, CaptureSwitch};
use sandrail_link::fault::{FaultControl, FaultLink, FaultPlan};
use sandrail_link::packet::{PacketConfig, PacketError, PacketLink, PacketMode};
use sandrail_link::xdp::{XdpConfig, XdpError, XdpLink, XdpMode, XdpPort};
use sandrail_link::{Link, LinkCounters, LinkInfo, TransmitError};
use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;

/// How frames are to travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkChoice {
    /// AF_XDP, and AF_PACKET where that is not to be had; [`LinkInfo::mode`] says which it is, and why.
    #[default]
    Auto,
    /// AF_XDP, in the mode that suits the driver.
    Xdp,
    /// AF_XDP in the driver.
    XdpNative,
    /// AF_XDP in the network stack.
    XdpGeneric,
    /// AF_PACKET.
    Packet,
}

impl LinkChoice {
    /// All of them, for help texts.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Xdp,
        Self::XdpNative,
        Self::XdpGeneric,
        Self::Packet,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Packet => "packet",
        }
    }
}

impl fmt::Display for LinkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no [`LinkChoice`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown link {0:?}: it is auto, xdp, xdp-native, xdp-generic or packet")]
pub struct UnknownLink(String);

impl FromStr for LinkChoice {
    type Err = UnknownLink;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.name() == text)
            .ok_or_else(|| UnknownLink(text.to_owned()))
    }
}

/// Which receive queues the shards' AF_XDP sockets are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuePlan {
    /// All on this one: the steering program tells their frames apart by the tag. Right wherever AoE frames arrive on
    /// one queue, as they do on most NICs (they hash IP only) and from targets on AF_PACKET.
    Shared(u32),
    /// Shard n on queue `first + n`: right only where an answer comes to the queue that its request left by, as
    /// between two native AF_XDP ends of a veth pair. An answer on another shard's queue is counted (`rx_other_shard`)
    /// and dropped.
    PerShard {
        /// Shard 0's queue.
        first: u32,
    },
}

impl Default for QueuePlan {
    fn default() -> Self {
        Self::Shared(0)
    }
}

/// Makes the faults of each shard's link.
pub type FaultMaker = Box<dyn Fn(usize) -> FaultPlan>;

/// What to open, and how.
pub struct LinkOptions {
    /// AF_XDP or AF_PACKET.
    pub choice: LinkChoice,
    /// The interface's name, in the network namespace of the calling thread.
    pub interface: String,
    /// Queues of AF_XDP sockets.
    pub queues: QueuePlan,
    /// How AF_PACKET sockets are used.
    pub packet_mode: PacketMode,
    /// Starts and stops captures of what the shards see; `None`: these links can't be captured.
    pub capture: Option<Arc<CaptureSwitch>>,
    /// Faults between the shard and the link.
    pub faults: Option<FaultMaker>,
}

impl LinkOptions {
    /// Everything as it is best left.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            choice: LinkChoice::Auto,
            interface: interface.into(),
            queues: QueuePlan::default(),
            packet_mode: PacketMode::default(),
            capture: None,
            faults: None,
        }
    }
}

impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions")
            .field("choice", &self.choice)
            .field("interface", &self.interface)
            .field("queues", &self.queues)
            .field("packet_mode", &self.packet_mode)
            .field("capture", &self.capture.is_some())
            .field("faults", &self.faults.is_some())
            .finish()
    }
}

/// Why an interface could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// AF_XDP was asked for.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// AF_PACKET was asked for.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// Whichever works was asked for, and none does.
    #[error("AF_XDP: {xdp}; AF_PACKET: {packet}")]
    Neither {
        /// Why not the one.
        xdp: XdpError,
        /// Why not the other.
        packet: PacketError,
    },
}

/// An interface, opened.
#[derive(Debug)]
pub struct OpenedLinks {
    /// One link a shard, in order.
    pub links: Vec<AnyLink>,
    /// The interface's port, where it is AF_XDP: for the steering program's counters.
    pub xdp: Option<XdpPort>,
}

/// Opens one link a shard on one interface. Captured is what the shard sees: behind the faults.
///
/// # Errors
/// [`OpenError`], which names what is wrong.
pub fn open_links(options: &LinkOptions, shards: usize) -> Result<OpenedLinks, OpenError> {
    let (bases, xdp) = open_bases(options, shards)?;
    let links = bases
        .into_iter()
        .enumerate()
        .map(|(shard, base)| AnyLink::decorate(base, shard, options))
        .collect();
    Ok(OpenedLinks { links, xdp })
}

/// The links of several interfaces, each opened by [`open_links`], in the order that [`crate::Node::start`] wants: by
/// shard, then by interface.
#[must_use]
pub fn by_shard(interfaces: Vec<Vec<AnyLink>>) -> Vec<Vec<AnyLink>> {
    let mut shards: Vec<Vec<AnyLink>> = Vec::new();
    for links in interfaces {
        for (shard, link) in links.into_iter().enumerate() {
            if shard == shards.len() {
                shards.push(Vec::new());
            }
            shards[shard].push(link);
        }
    }
    shards
}

fn open_bases(
    options: &LinkOptions,
    shards: usize,
) -> Result<(Vec<Base>, Option<XdpPort>), OpenError> {
    let mode = match options.choice {
        LinkChoice::Packet => return Ok((open_packet(options, shards, None)?, None)),
        LinkChoice::Auto | LinkChoice::Xdp => XdpMode::Auto,
        LinkChoice::XdpNative => XdpMode::Native,
        LinkChoice::XdpGeneric => XdpMode::Generic,
    };
    match open_xdp(options, shards, mode) {
        Ok((links, port)) => Ok((links, Some(port))),
        Err(xdp) if options.choice == LinkChoice::Auto => {
            tracing::info!(interface = options.interface, %xdp, "no AF_XDP: falling back to AF_PACKET");
            match open_packet(options, shards, Some(&xdp)) {
                Ok(links) => Ok((links, None)),
                Err(packet) => Err(OpenError::Neither { xdp, packet }),
            }
        }
        Err(xdp) => Err(xdp.into()),
    }
}

fn open_xdp(
    options: &LinkOptions,
    shards: usize,
    mode: XdpMode,
) -> Result<(Vec<Base>, XdpPort), XdpError> {
    let port = XdpPort::open(&XdpConfig {
        mode,
        ..XdpConfig::new(&options.interface)
    })?;
    let numbers: Vec<u32> = (0..).take(shards).collect();
    let links = match options.queues {
        QueuePlan::Shared(queue) => port.links(queue, &numbers)?,
        QueuePlan::PerShard { first } => {
            let mut links = Vec::with_capacity(shards);
            for number in numbers {
                links.extend(port.links(first.saturating_add(number), &[number])?);
            }
            links
        }
    };
    Ok((links.into_iter().map(Base::Xdp).collect(), port))
}

/// `instead_of`: why it is not AF_XDP.
fn open_packet(
    options: &LinkOptions,
    shards: usize,
    instead_of: Option<&XdpError>,
) -> Result<Vec<Base>, PacketError> {
    (0_u8..)
        .take(shards)
        .map(|shard| {
            let mut config = PacketConfig::new(&options.interface);
            config.mode = options.packet_mode;
            // Alone it need not be told by the tag what is its own.
            config.shard = (shards > 1).then_some(shard);
            let link = PacketLink::open(&config)?;
            let mut info = link.info().clone();
            if let Some(xdp) = instead_of {
                info.mode = format!("{} (no AF_XDP: {xdp})", info.mode);
            }
            Ok(Base::Packet { link, info })
        })
        .collect()
}

/// A link to a real interface.
enum Base {
    Xdp(XdpLink),
    Packet {
        link: PacketLink,
        /// The link's own, with a word on why it is not AF_XDP.
        info: LinkInfo,
    },
}

enum Kind {
    Plain(Base),
    Faulty(FaultLink<Base>),
    Captured(CaptureLink<Base>),
    FaultyCaptured(CaptureLink<FaultLink<Base>>),
}

/// A link to a real interface, with whatever decorators were asked for.
pub struct AnyLink {
    kind: Kind,
    faults: Option<Arc<FaultControl>>,
}

impl fmt::Debug for AnyLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyLink")
            .field("info", self.info())
            .field("faulty", &self.faults.is_some())
            .finish_non_exhaustive()
    }
}

impl AnyLink {
    fn decorate(base: Base, shard: usize, options: &LinkOptions) -> Self {
        let Some(faults) = &options.faults else {
            let kind = match &options.capture {
                None => Kind::Plain(base),
                Some(switch) => Kind::Captured(CaptureLink::new(base, Arc::clone(switch))),
            };
            return Self { kind, faults: None };
        };
        let link = FaultLink::new(base, faults(shard));
        let control = link.control();
        let kind = match &options.capture {
            None => Kind::Faulty(link),
            Some(switch) => Kind::FaultyCaptured(CaptureLink::new(link, Arc::clone(switch))),
        };
        Self {
            kind,
            faults: Some(control),
        }
    }

    /// Switch and counters of the injected faults, where there are any.
    #[must_use]
    pub fn fault_control(&self) -> Option<Arc<FaultControl>> {
        self.faults.clone()
    }
}

/// Runs `$call` on whichever variant it is: a match, so that the compiler sees through it where a table of pointers
/// would stop it.
macro_rules! with_link {
    (base $self:expr, $link:ident => $call:expr) => {
        match $self {
            Base::Xdp($link) => $call,
            Base::Packet { link: $link, .. } => $call,
        }
    };
    (any $self:expr, $link:ident => $call:expr) => {
        match $self {
            Kind::Plain($link) => $call,
            Kind::Faulty($link) => $call,
            Kind::Captured($link) => $call,
            Kind::FaultyCaptured($link) => $call,
        }
    };
}

impl Link for Base {
    fn info(&self) -> &LinkInfo {
        match self {
            Self::Xdp(link) => link.info(),
            Self::Packet { info, .. } => info,
        }
    }

    #[inline]
    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        with_link!(base self, link => link.receive(now, frames_max, sink))
    }

    #[inline]
    fn transmit_room(&mut self) -> usize {
        with_link!(base self, link => link.transmit_room())
    }

    #[inline]
    fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        with_link!(base self, link => link.transmit(now, header, payload))
    }

    #[inline]
    fn flush(&mut self, now: Instant) {
        with_link!(base self, link => link.flush(now))
    }

    #[inline]
    fn completed(&self) -> u64 {
        with_link!(base self, link => link.completed())
    }

    #[inline]
    fn poll_timeout(&self) -> Option<Instant> {
        with_link!(base self, link => link.poll_timeout())
    }

    fn wait_fd(&self) -> Option<RawFd> {
        with_link!(base self, link => link.wait_fd())
    }

    fn prepare_wait(&mut self) -> bool {
        with_link!(base self, link => link.prepare_wait())
    }

    fn counters(&mut self) -> LinkCounters {
        with_link!(base self, link => link.counters())
    }
}

impl Link for AnyLink {
    fn info(&self) -> &LinkInfo {
        with_link!(any &self.kind, link => link.info())
    }

    #[inline]
    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        with_link!(any &mut self.kind, link => link.receive(now, frames_max, sink))
    }

    #[inline]
    fn transmit_room(&mut self) -> usize {
        with_link!(any &mut self.kind, link => link.transmit_room())
    }

    #[inline]
    fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        with_link!(any &mut self.kind, link => link.transmit(now, header, payload))
    }

    #[inline]
    fn flush(&mut self, now: Instant) {
        with_link!(any &mut self.kind, link => link.flush(now))
    }

    #[inline]
    fn completed(&self) -> u64 {
        with_link!(any &self.kind, link => link.completed())
    }

    #[inline]
    fn poll_timeout(&self) -> Option<Instant> {
        with_link!(any &self.kind, link => link.poll_timeout())
    }

    fn wait_fd(&self) -> Option<RawFd> {
        with_link!(any &self.kind, link => link.wait_fd())
    }

    fn prepare_wait(&mut self) -> bool {
        with_link!(any &mut self.kind, link => link.prepare_wait())
    }

    fn counters(&mut self) -> LinkCounters {
        with_link!(any &mut self.kind, link => link.counters())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for choice in LinkChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let error = "dpdk".parse::<LinkChoice>().unwrap_err();
        assert!(error.to_string().contains("\"dpdk\""), "{error}");
    }

    #[test]
    fn a_missing_interface_is_named_whatever_the_choice() {
        for choice in LinkChoice::ALL {
            let options = LinkOptions {
                choice,
                ..LinkOptions::new("nosuchif0")
            };
            let error = open_links(&options, 1).unwrap_err().to_string();
            assert!(error.contains("nosuchif0"), "{choice}: {error}");
        }
    }

    #[test]
    fn links_move_to_their_shards_threads() {
        fn is_send<T: Send>() {}
        is_send::<AnyLink>();
    }
}
