//! Where the measurements take place: two namespaces, a veth pair, a real `vblade`.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::process::Command;

use anyhow::Context;
use sandrail_lab::{BackingFile, Lab, Side, Vblade, VbladeOptions};
use sandrail_link::Link;
use sandrail_link::packet::{PacketConfig, PacketLink, PacketMode};
use sandrail_link::xdp::{XdpConfig, XdpLink, XdpMode};
use sandrail_wire::{Lba, MacAddr, TargetAddr};

use crate::awake;
use crate::driver::LoadConfig;
use crate::machine;
use crate::workload::WorkloadConfig;

/// Sectors of each I/O: 4 KiB.
pub const BLOCK_SECTORS: u8 = 8;
/// Bytes of each I/O.
pub const BLOCK_BYTES: usize = 4096;
/// The disk's size; it lies in memory.
pub const DISK_BYTES: u64 = 64 << 20;
/// What the target says that it queues (`vblade -b`).
const BUFFER_COUNT: u16 = 128;
/// MTU of the wire.
pub const MTU_BYTES: u32 = 9000;

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// From the target.
    Read,
    /// To the target.
    Write,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

impl Direction {
    /// Random 4 KiB blocks of a disk of `sectors`, `depth` under way.
    #[must_use]
    pub fn load(self, sectors: u64, seed: u64, depth: usize) -> LoadConfig {
        let read_percent = match self {
            Self::Read => 100,
            Self::Write => 0,
        };
        LoadConfig::closed(WorkloadConfig::uniform(read_percent, sectors, seed), depth)
    }
}

/// A way through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// AF_XDP, the program in the network stack.
    XdpGeneric,
    /// AF_XDP, the program in the driver.
    XdpNative,
    /// AF_PACKET, rings shared with the kernel.
    Packet,
    /// AF_PACKET, a system call a burst each way.
    PacketMmsg,
}

impl Way {
    /// What `sandrail-blade` is told to go this way.
    #[must_use]
    pub fn blade_args(self) -> &'static [&'static str] {
        match self {
            Self::XdpGeneric => &["--link", "xdp-generic"],
            Self::XdpNative => &["--link", "xdp-native"],
            Self::Packet => &["--link", "packet", "--packet-mode", "ring"],
            Self::PacketMmsg => &["--link", "packet", "--packet-mode", "mmsg"],
        }
    }

    /// Whether it is one of AF_PACKET's.
    #[must_use]
    pub fn is_packet(self) -> bool {
        matches!(self, Self::Packet | Self::PacketMmsg)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XdpGeneric => "xdp-generic",
            Self::XdpNative => "xdp-native",
            Self::Packet => "packet",
            Self::PacketMmsg => "packet-mmsg",
        })
    }
}

/// A link that a [`Way`] can open.
pub trait Open: Link + Send + Sized + 'static {
    /// Opens it on the interface, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The link's.
    fn open(way: Way, interface: &str) -> anyhow::Result<Self>;
}

impl Open for XdpLink {
    fn open(way: Way, interface: &str) -> anyhow::Result<Self> {
        let mut config = XdpConfig::new(interface);
        config.mode = match way {
            Way::XdpGeneric => XdpMode::Generic,
            Way::XdpNative => XdpMode::Native,
            Way::Packet | Way::PacketMmsg => anyhow::bail!("{way} is not AF_XDP"),
        };
        Ok(Self::open(&config, 0)?)
    }
}

impl Open for PacketLink {
    fn open(way: Way, interface: &str) -> anyhow::Result<Self> {
        let mut config = PacketConfig::new(interface);
        config.mode = match way {
            Way::Packet => PacketMode::Ring,
            Way::PacketMmsg => PacketMode::Mmsg,
            Way::XdpGeneric | Way::XdpNative => anyhow::bail!("{way} is not AF_PACKET"),
        };
        Ok(Self::open(&config)?)
    }
}

/// Random blocks of the disk, from a seed.
#[derive(Clone, Debug)]
pub struct Blocks {
    rng: fastrand::Rng,
    count: u64,
}

impl Blocks {
    /// Of a disk of `sectors`.
    #[must_use]
    pub fn new(seed: u64, sectors: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            count: sectors / u64::from(BLOCK_SECTORS),
        }
    }

    /// Where the next one begins.
    pub fn next_lba(&mut self) -> Lba {
        Lba(self.rng.u64(0..self.count) * u64::from(BLOCK_SECTORS))
    }
}

/// The lab with a target in it. Everything goes when it is dropped.
#[derive(Debug)]
pub struct Site {
    // Dropped in this order: the target before the file it serves, both before the namespaces.
    target: Vblade,
    disk: BackingFile,
    lab: Lab,
}

impl Site {
    /// Makes the namespaces and starts the target, which runs where the calling thread may run.
    ///
    /// # Errors
    /// The machine can't have them.
    pub fn new() -> anyhow::Result<Self> {
        // As it is found: in the caller's scheduling class.
        Self::with_class(None)
    }

    /// The same with the target in SCHED_BATCH, so that a frame makes it runnable without an interrupt to its core: whoever
    /// runs there ([`crate::awake`]) gives way within a microsecond. On a virtual machine that interrupt costs more than
    /// the round trip.
    ///
    /// # Errors
    /// The machine can't have them, or `chrt` (util-linux) is missing.
    pub fn without_wakeup_interrupts() -> anyhow::Result<Self> {
        Self::with_class(Some("--batch"))
    }

    /// The same on one core, wherever the calling thread runs.
    ///
    /// # Errors
    /// As for [`Site::without_wakeup_interrupts`], or there is no such core.
    pub fn on_core(core: usize) -> anyhow::Result<Self> {
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| {
                // The target inherits it.
                machine::pin(core)?;
                Self::without_wakeup_interrupts()
            });
            starter
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn with_class(class: Option<&str>) -> anyhow::Result<Self> {
        let lab = wire()?;
        let disk = lab.backing_file(DISK_BYTES)?;
        fill(&mut disk.open()?).context("fill the disk")?;
        let mut options = VbladeOptions::new(7, 3, disk.path());
        options.buffer_count = Some(BUFFER_COUNT);
        let target = lab.vblade(options)?;
        if let Some(class) = class {
            let mut chrt = Command::new("chrt");
            let status = chrt
                .args([class, "--pid", "0", &target.pid().to_string()])
                .status()
                .context("start chrt (of util-linux)")?;
            anyhow::ensure!(status.success(), "chrt {class}: {status}");
        }
        Ok(Self { target, disk, lab })
    }

    /// Address and MAC of the target.
    #[must_use]
    pub fn target(&self) -> (TargetAddr, MacAddr) {
        let options = self.target.options();
        let addr = TargetAddr {
            shelf: options.shelf,
            slot: options.slot,
        };
        (addr, MacAddr(self.lab.mac(Side::Target).0))
    }

    /// Random blocks of the disk, always the same for a seed.
    #[must_use]
    pub fn blocks(&self, seed: u64) -> Blocks {
        Blocks::new(seed, self.disk.len_sectors())
    }

    /// The disk's length.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.disk.len_sectors()
    }

    /// Opens a link on the initiator's side.
    ///
    /// # Errors
    /// The link's.
    pub fn open<L: Open>(&self, way: Way) -> anyhow::Result<L> {
        let interface = self.lab.interface(Side::Initiator);
        // The link before may have been given up a moment ago.
        awake::rest(|| {
            self.lab
                .enter(Side::Initiator, || L::open(way, interface))?
                .with_context(|| format!("open {way}"))
        })
    }

    /// The lab that it is in.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The target's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.target.pid()
    }

    /// Whether the target still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.target.is_running()
    }
}

/// Two namespaces and a wire, no target.
///
/// # Errors
/// The machine can't have them.
pub fn wire() -> anyhow::Result<Lab> {
    Ok(Lab::builder()
        .name_prefix("srbench")
        .mtu(MTU_BYTES)
        .addresses(false)
        .build()?)
}

/// Opens a packet link of that mode on a side of the wire.
///
/// # Errors
/// The link's.
pub fn open_packet(lab: &Lab, side: Side, mode: PacketMode) -> anyhow::Result<PacketLink> {
    let mut config = PacketConfig::new(lab.interface(side));
    config.mode = mode;
    Ok(lab.enter(side, || PacketLink::open(&config))??)
}

/// Holes would be read from one page of zeros, which no disk does.
fn fill(file: &mut File) -> std::io::Result<()> {
    let mut chunk = vec![0_u8; 1 << 20];
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..DISK_BYTES >> 20 {
        rng.fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(())
}
