//! A lab with a target and a node in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandrail_lab::{BackingFile, Blade, BladeOptions, Lab, Side, Vblade, VbladeOptions};
use sandrail_link::Link;
use sandrail_link::capture::{CaptureLink, CaptureSwitch};
use sandrail_link::fault::{FaultControl, FaultLink, FaultPlan};
use sandrail_link::packet::{PacketConfig, PacketLink, PacketMode};
use sandrail_link::xdp::{XdpConfig, XdpMode, XdpPort};
use sandrail_node::{Client, Node, NodeConfig, NodeStat, TargetHandle};
use sandrail_proto::aoe::initiator::{Counters, PinnedMacs};
use sandrail_wire::{MacAddr, TargetAddr};

use crate::mangle::{MangleLink, Mangled};
use crate::program;
use crate::spread;
use crate::strip::StripLink;

/// Where the target is.
pub const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };

/// What the labs' names begin with.
const NAME_PREFIX: &str = "sandraile2e";

/// How long an attach may take; it takes some milliseconds, and a busy machine may take long to run it.
const ATTACH_WITHIN: Duration = Duration::from_secs(10);

/// The link under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// AF_XDP, the program in the network stack.
    XdpGeneric,
    /// AF_XDP, the program in the driver.
    XdpNative,
    /// AF_PACKET over rings.
    PacketRing,
    /// AF_PACKET by system calls.
    PacketMmsg,
}

impl Wire {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::XdpGeneric,
        Self::XdpNative,
        Self::PacketRing,
        Self::PacketMmsg,
    ];

    /// The same for the blade: its arguments.
    #[must_use]
    pub const fn blade_args(self) -> &'static [&'static str] {
        match self {
            Self::XdpGeneric => &["--link", "xdp-generic"],
            Self::XdpNative => &["--link", "xdp-native"],
            Self::PacketRing => &["--link", "packet"],
            Self::PacketMmsg => &["--link", "packet", "--packet-mode", "mmsg"],
        }
    }

    /// Whether frames pass by the kernel's stack.
    #[must_use]
    pub const fn is_xdp(self) -> bool {
        matches!(self, Self::XdpGeneric | Self::XdpNative)
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XdpGeneric => "xdp-generic",
            Self::XdpNative => "xdp-native",
            Self::PacketRing => "packet-ring",
            Self::PacketMmsg => "packet-mmsg",
        })
    }
}

/// How many shards, and on which queues of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One.
    One,
    /// Two that share a queue: the program, or the packet sockets' filter, tells their frames apart by the tag.
    TwoOnOneQueue,
    /// Two with a queue each. The target's side spreads its frames by tag ([`spread`]).
    TwoOnTwoQueues,
}

impl Shards {
    /// How many.
    #[must_use]
    pub const fn count(self) -> u8 {
        match self {
            Self::One => 1,
            Self::TwoOnOneQueue | Self::TwoOnTwoQueues => 2,
        }
    }

    const fn queues(self) -> u32 {
        match self {
            Self::One | Self::TwoOnOneQueue => 1,
            Self::TwoOnTwoQueues => 2,
        }
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one shard",
            Self::TwoOnOneQueue => "two shards on one queue",
            Self::TwoOnTwoQueues => "two shards on two queues",
        })
    }
}

/// Makes the faults of a shard's link.
pub type Faults = Box<dyn Fn(u8) -> FaultPlan>;

/// What a site is to be.
pub struct Setup {
    /// The link.
    pub wire: Wire,
    /// The shards.
    pub shards: Shards,
    /// MTU of both ends.
    pub mtu_bytes: u32,
    /// The disk's size.
    pub disk_bytes: u64,
    /// The node's settings; the defaults but for the mark of an unclean end, which a lab's MAC has no use for.
    pub node: NodeConfig,
    /// Whose answers count; by default the first to answer.
    pub pinned: PinnedMacs,
    faults: Option<Faults>,
    mangle: Option<u64>,
    strip_sessions: bool,
}

impl Setup {
    /// One shard, MTU 1500, a disk of 64 MiB, no faults.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            shards: Shards::One,
            mtu_bytes: 1500,
            disk_bytes: 64 << 20,
            node: NodeConfig {
                run_dir: None,
                ..NodeConfig::default()
            },
            pinned: PinnedMacs::first_to_answer(),
            faults: None,
            mangle: None,
            strip_sessions: false,
        }
    }

    /// With those shards.
    #[must_use]
    pub fn shards(mut self, shards: Shards) -> Self {
        self.shards = shards;
        self
    }

    /// With that MTU.
    #[must_use]
    pub fn mtu(mut self, mtu_bytes: u32) -> Self {
        self.mtu_bytes = mtu_bytes;
        self
    }

    /// With a disk of so many MiB.
    #[must_use]
    pub fn disk_mib(mut self, mib: u64) -> Self {
        self.disk_bytes = mib << 20;
        self
    }

    /// With faults between each shard's link and its node.
    #[must_use]
    pub fn faults(mut self, faults: impl Fn(u8) -> FaultPlan + 'static) -> Self {
        self.faults = Some(Box::new(faults));
        self
    }

    /// With damaged copies before received frames ([`MangleLink`]), as `seed` decides.
    #[must_use]
    pub fn mangle(mut self, seed: u64) -> Self {
        self.mangle = Some(seed);
        self
    }

    fn lab(&self) -> Result<Lab> {
        let builder = Lab::builder().name_prefix(NAME_PREFIX);
        let builder = builder.mtu(self.mtu_bytes).queues(self.shards.queues());
        Ok(builder.build()?)
    }

    /// Without sessions on the wire: the target takes what the node sends for a foreign initiator's ([`StripLink`]).
    #[must_use]
    pub fn without_sessions(mut self) -> Self {
        self.strip_sessions = true;
        self
    }
}

/// A node on an interface of the initiator's side, with what stands between it and the wire.
pub struct Station {
    /// The node; shards and links go before the lab does.
    pub node: Node,
    /// By shard: the faults' switches and counters; empty without faults.
    pub faults: Vec<Arc<FaultControl>>,
    /// Damaged copies received so far.
    pub mangled: Arc<Mangled>,
    /// Starts and stops captures of the shards' own view.
    pub capture: Arc<CaptureSwitch>,
    /// The program on the wire, where there is one.
    pub port: Option<XdpPort>,
}

impl Station {
    /// Starts it.
    ///
    /// # Errors
    /// The links or the node could not be had.
    pub fn start(lab: &Lab, interface: &str, setup: &Setup) -> Result<Self> {
        let (port, bare) = open_links(lab, interface, setup.wire, setup.shards)?;
        let capture = CaptureSwitch::new();
        let mangled = Arc::new(Mangled::default());
        let mut faults = Vec::new();
        let mut links: Vec<Vec<Bare>> = Vec::new();
        for (shard, mut link) in (0..).zip(bare) {
            if setup.strip_sessions {
                link = Box::new(StripLink::new(link));
            }
            // The capture shows what is on the wire, so it lies below the faults.
            let mut link: Bare = Box::new(CaptureLink::new(link, Arc::clone(&capture)));
            if let Some(seed) = setup.mangle {
                let count = Arc::clone(&mangled);
                link = Box::new(MangleLink::new(link, seed ^ u64::from(shard), count));
            }
            links.push(vec![match &setup.faults {
                Some(plan) => {
                    let link = FaultLink::new(link, plan(shard));
                    faults.push(link.control());
                    Box::new(link)
                }
                None => link,
            }]);
        }
        Ok(Self {
            node: Node::start(&setup.node, links)?,
            faults,
            mangled,
            capture,
            port,
        })
    }

    /// Attaches a target, while nothing is damaged.
    ///
    /// # Errors
    /// It is not there, or not to be had.
    pub fn attach(&self, addr: TargetAddr, setup: &Setup) -> Result<TargetHandle> {
        let attach = || self.node.attach(addr, setup.pinned, ATTACH_WITHIN);
        let attached = self.mangled.paused(attach);
        attached.with_context(|| format!("attach {addr} over {}, {}", setup.wire, setup.shards))
    }
}

/// A lab, a disk, a target and a node. Dropped, all of it goes.
pub struct Site<S = Vblade> {
    /// The node; shards and links go before the lab does.
    pub node: Node,
    /// The target, attached.
    pub target: TargetHandle,
    /// The target's process.
    pub blade: S,
    /// The file it serves.
    pub disk: BackingFile,
    /// By shard: the faults' switches and counters; empty without faults.
    pub faults: Vec<Arc<FaultControl>>,
    /// Damaged copies received so far.
    pub mangled: Arc<Mangled>,
    /// Starts and stops captures of the shards' own view.
    pub capture: Arc<CaptureSwitch>,
    /// The program on the wire, where there is one.
    pub port: Option<XdpPort>,
    /// The namespaces.
    pub lab: Lab,
}

impl Site {
    /// Whether this machine can have a site over that link; tried out, not guessed.
    ///
    /// # Errors
    /// What is in the way.
    pub fn supported(wire: Wire) -> Result<()> {
        Lab::supported()?;
        if !wire.is_xdp() {
            return Ok(());
        }
        let lab = Lab::builder().name_prefix(NAME_PREFIX).build()?;
        let mut config = xdp_config(lab.interface(Side::Initiator), wire);
        (config.rx_chunks, config.tx_chunks) = (64, 64);
        lab.enter(Side::Initiator, || {
            XdpPort::open(&config)?.links(0, &[0]).map(drop)
        })??;
        Ok(())
    }

    /// Makes it and attaches the target.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub fn build(setup: Setup) -> Result<Self> {
        let lab = setup.lab()?;
        let disk = lab.backing_file(setup.disk_bytes)?;
        let blade = lab.vblade(VbladeOptions::new(ADDR.shelf, ADDR.slot, disk.path()))?;
        if setup.shards == Shards::TwoOnTwoQueues {
            spread::by_tag(&lab)?;
        }
        Self::join(lab, &setup, disk, blade)
    }
}

/// A lab with a blade and nobody else: for initiators that are no node.
pub struct Alone {
    /// The blade.
    pub blade: Blade,
    /// The file it serves as [`ADDR`].
    pub disk: BackingFile,
    /// The namespaces.
    pub lab: Lab,
}

impl Alone {
    /// Makes it, over the kind of link that the setup names. `options` as for [`Site::of_blade`].
    ///
    /// # Errors
    /// Whatever is in the way.
    pub fn build(
        setup: &Setup,
        options: impl FnOnce(BladeOptions, &Lab, &BackingFile) -> Result<BladeOptions>,
    ) -> Result<Self> {
        let lab = setup.lab()?;
        let disk = lab.backing_file(setup.disk_bytes)?;
        let base = BladeOptions::new(program::blade()?).args(setup.wire.blade_args().to_vec());
        let blade = lab.blade(options(base, &lab, &disk)?)?;
        Ok(Self { blade, disk, lab })
    }
}

impl Site<Blade> {
    /// The same with `sandrail-blade`, over the same kind of link as the node. `options` says what it serves besides the
    /// disk, which is [`ADDR`], and how; it gets the lab, for its folder.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub fn of_blade(
        setup: Setup,
        options: impl FnOnce(BladeOptions, &Lab, &BackingFile) -> Result<BladeOptions>,
    ) -> Result<Self> {
        let Alone { blade, disk, lab } = Alone::build(&setup, options)?;
        Self::join(lab, &setup, disk, blade)
    }
}

impl<S> Site<S> {
    fn join(lab: Lab, setup: &Setup, disk: BackingFile, blade: S) -> Result<Self> {
        let station = Station::start(&lab, lab.interface(Side::Initiator), setup)?;
        let target = station.attach(ADDR, setup)?;
        let Station {
            node,
            faults,
            mangled,
            capture,
            port,
        } = station;
        Ok(Self {
            node,
            target,
            blade,
            disk,
            faults,
            mangled,
            capture,
            port,
            lab,
        })
    }

    /// A client for so many requests at a time, each of which may take half a minute: longer than any outage in a test, so
    /// that only what is meant to time out does.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn client(&self, depth: usize) -> Result<Client> {
        let mut client = self.node.client(depth)?;
        client.set_request_timeout(Duration::from_secs(30));
        Ok(client)
    }

    /// The initiators' counters, all shards together.
    ///
    /// # Errors
    /// A shard does not answer.
    pub fn counters(&self) -> Result<Counters> {
        Ok(sum(&self.node.stat()?))
    }

    /// An end's address.
    #[must_use]
    pub fn mac(&self, side: Side) -> MacAddr {
        MacAddr(self.lab.mac(side).0)
    }

    /// Ends the node, with every write accounted for, then target and lab.
    ///
    /// # Errors
    /// Something was left under way, or could not be removed.
    pub fn close(self) -> Result<()> {
        self.node.shutdown(Duration::from_secs(20))?;
        drop(self.port);
        drop(self.blade);
        drop(self.disk);
        self.lab.close()?;
        Ok(())
    }
}

/// The initiators' counters of all shards.
#[must_use]
pub fn sum(stat: &NodeStat) -> Counters {
    let mut sum = Counters::default();
    for shard in &stat.shards {
        let one = &shard.initiator;
        for (into, from) in [
            (&mut sum.rx_used, one.rx_used),
            (&mut sum.rx_not_aoe, one.rx_not_aoe),
            (&mut sum.rx_other_host, one.rx_other_host),
            (&mut sum.rx_other_vlan, one.rx_other_vlan),
            (&mut sum.rx_malformed, one.rx_malformed),
            (&mut sum.rx_request, one.rx_request),
            (&mut sum.rx_version, one.rx_version),
            (&mut sum.rx_other_shard, one.rx_other_shard),
            (&mut sum.rx_stale_tag, one.rx_stale_tag),
            (&mut sum.rx_wrong_source, one.rx_wrong_source),
            (&mut sum.rx_mismatch, one.rx_mismatch),
            (&mut sum.rx_short_data, one.rx_short_data),
            (&mut sum.rx_unsolicited, one.rx_unsolicited),
            (&mut sum.tx_frames, one.tx_frames),
            (&mut sum.tx_copies, one.tx_copies),
            (&mut sum.tx_probes, one.tx_probes),
            (&mut sum.timeouts, one.timeouts),
            (&mut sum.timeouts_spurious, one.timeouts_spurious),
            (&mut sum.request_restarts, one.request_restarts),
            (&mut sum.lingered, one.lingered),
            (&mut sum.lingered_dead, one.lingered_dead),
            (&mut sum.lingered_void, one.lingered_void),
            (&mut sum.sessions, one.sessions),
            (&mut sum.sessions_void, one.sessions_void),
            (&mut sum.range_waits, one.range_waits),
            (&mut sum.notices_lost, one.notices_lost),
            (&mut sum.tag_waits, one.tag_waits),
        ] {
            *into += from;
        }
    }
    sum
}

fn xdp_config(interface: &str, wire: Wire) -> XdpConfig {
    XdpConfig {
        mode: match wire {
            Wire::XdpNative => XdpMode::Native,
            _ => XdpMode::Generic,
        },
        rx_chunks: 1024,
        tx_chunks: 512,
        ..XdpConfig::new(interface)
    }
}

type Bare = Box<dyn Link + Send>;

/// One link for each shard, in the initiator's namespace.
fn open_links(
    lab: &Lab,
    interface: &str,
    wire: Wire,
    shards: Shards,
) -> Result<(Option<XdpPort>, Vec<Bare>)> {
    let open = || -> Result<(Option<XdpPort>, Vec<Bare>)> {
        if wire.is_xdp() {
            let port = XdpPort::open(&xdp_config(interface, wire))?;
            let links = match shards {
                Shards::One => port.links(0, &[0])?,
                Shards::TwoOnOneQueue => port.links(0, &[0, 1])?,
                Shards::TwoOnTwoQueues => {
                    let mut links = port.links(0, &[0])?;
                    links.extend(port.links(1, &[1])?);
                    links
                }
            };
            let links = links.into_iter().map(|link| Box::new(link) as Bare);
            return Ok((Some(port), links.collect()));
        }
        ensure!(
            shards != Shards::TwoOnTwoQueues,
            "packet sockets are bound to an interface, not to a queue"
        );
        let mut links: Vec<Bare> = Vec::new();
        for shard in 0..shards.count() {
            links.push(Box::new(PacketLink::open(&PacketConfig {
                mode: match wire {
                    Wire::PacketMmsg => PacketMode::Mmsg,
                    _ => PacketMode::Ring,
                },
                shard: (shards.count() > 1).then_some(shard),
                ..PacketConfig::new(interface)
            })?));
        }
        Ok((None, links))
    };
    lab.enter(Side::Initiator, open)?
}
