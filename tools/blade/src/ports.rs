//! Opens the interfaces: for each of its receive queues a link, dealt to the cores in turn.

use anyhow::{Result, bail};
use sandrail_link::packet::{PacketConfig, PacketError, PacketLink};
use sandrail_link::xdp::{XdpConfig, XdpError, XdpMode, XdpPort};

use crate::drill::AnyLink;
use crate::settings::{LinkWay, Settings};

/// Links of one blade; frames name theirs with a byte.
pub(crate) const LINKS_MAX: usize = 255;

/// A link, and the core that owns it.
pub(crate) struct Port {
    pub(crate) link: AnyLink,
    pub(crate) core: usize,
}

/// All links, and what keeps the interfaces steered.
pub(crate) struct Ports {
    pub(crate) ports: Vec<Port>,
    /// In the order of the interfaces; `None`: packet sockets.
    pub(crate) xdp: Vec<(String, XdpPort)>,
}

/// Why an interface could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Xdp(#[from] XdpError),
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("AF_XDP: {xdp}; AF_PACKET: {packet}")]
    Neither { xdp: XdpError, packet: PacketError },
}

/// Opens every interface, in the network namespace of the calling thread.
///
/// # Errors
/// An interface cannot be opened, or its MTU is too small.
pub(crate) fn open(settings: &Settings, cores: usize) -> Result<Ports> {
    let mut all = Ports {
        ports: Vec::new(),
        xdp: Vec::new(),
    };
    for interface in &settings.interfaces {
        open_interface(settings, interface, cores, &mut all)?;
    }
    if all.ports.len() > LINKS_MAX {
        bail!(
            "{} queues on all interfaces: at most {LINKS_MAX} are served; set --queues-max",
            all.ports.len()
        );
    }
    if let Some(least) = settings.mtu_bytes_min
        && let Some(small) = all
            .ports
            .iter()
            .find(|port| port.link.info().mtu_bytes < least)
    {
        let info = small.link.info();
        bail!(
            "--mtu-check: {} carries an MTU of {} bytes, less than {least}; ip link set {} mtu {least}",
            info.interface,
            info.mtu_bytes,
            info.interface
        );
    }
    Ok(all)
}

fn open_interface(
    settings: &Settings,
    interface: &str,
    cores: usize,
    all: &mut Ports,
) -> Result<(), OpenError> {
    let mode = match settings.link {
        LinkWay::Packet => {
            add(all, vec![open_packet(settings, interface)?], cores);
            return Ok(());
        }
        LinkWay::Auto | LinkWay::Xdp => XdpMode::Auto,
        LinkWay::XdpNative => XdpMode::Native,
        LinkWay::XdpGeneric => XdpMode::Generic,
    };
    match open_xdp(settings, interface, mode) {
        Ok((links, port)) => {
            add(all, links, cores);
            all.xdp.push((interface.to_owned(), port));
            Ok(())
        }
        Err(xdp) if settings.link == LinkWay::Auto => {
            tracing::warn!(interface, %xdp, "no AF_XDP: falling back to packet sockets");
            match open_packet(settings, interface) {
                Ok(link) => {
                    add(all, vec![link], cores);
                    Ok(())
                }
                Err(packet) => Err(OpenError::Neither { xdp, packet }),
            }
        }
        Err(xdp) => Err(xdp.into()),
    }
}

/// Queue n belongs to core n, and those beyond to the cores in turn.
fn add(all: &mut Ports, links: Vec<AnyLink>, cores: usize) {
    let ports = links.into_iter().enumerate();
    all.ports.extend(ports.map(|(queue, link)| Port {
        link,
        core: queue % cores,
    }));
}

/// One socket takes the requests of all queues.
fn open_packet(settings: &Settings, interface: &str) -> Result<AnyLink, PacketError> {
    let mut config = PacketConfig::new(interface);
    config.mode = settings.packet_mode;
    Ok(Box::new(PacketLink::open(&config)?))
}

/// A request names no shard that the steering program would know, so it comes to shard 0 of the queue that it arrived
/// on. A queue without a socket would leave its requests to the kernel, so all of them get one.
fn open_xdp(
    settings: &Settings,
    interface: &str,
    mode: XdpMode,
) -> Result<(Vec<AnyLink>, XdpPort), XdpError> {
    let port = XdpPort::open(&XdpConfig {
        mode,
        ..XdpConfig::new(interface)
    })?;
    let queues = port.rx_queues();
    if queues > settings.queues_max {
        tracing::warn!(
            interface,
            queues,
            served = settings.queues_max,
            "requests that arrive on other queues are not seen: set --queues-max, or ethtool -L"
        );
    }
    let mut links: Vec<AnyLink> = Vec::new();
    for queue in 0..queues.min(settings.queues_max) {
        for link in port.links(queue, &[0])? {
            links.push(Box::new(link));
        }
    }
    Ok((links, port))
}
