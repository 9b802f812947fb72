//! A node of one's own for the length of a command.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sandrail_link::Link;
use sandrail_link::capture::{CaptureError, CaptureSummary, CaptureSwitch};
use sandrail_node::{Client, Node, NodeConfig, TargetHandle};
use sandrail_proto::aoe::initiator::{PATHS_MAX, PinnedMacs, TargetInfo};
use sandrail_wire::TargetAddr;
use sandrail_wire::ata::SECTOR_BYTES;

use crate::cli::{FlowArgs, Global};
use crate::fault::Fault;
use crate::size::Size;
use crate::{links, netif};

/// Buffers that a read may hold back to put them in order, as a multiple of the depth.
pub(crate) const WINDOW_DEPTHS: usize = 2;
/// The longest a stop waits for late copies: a frame lifetime, a probe, and patience.
const STOP_WITHIN: Duration = Duration::from_secs(6);
/// The initiator ends an attach by its own time, and says more about it than the node, which only waits for it.
const ATTACH_GRACE: Duration = Duration::from_secs(2);
/// Control commands carry up to 255 addresses of 8 bytes.
const BUFFER_BYTES_MIN: usize = 4096;
/// Buffers of one call, all together.
const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Longer requests than this only take memory.
const BLOCK_BYTES_MAX: u64 = 1 << 20;

/// A running node.
pub(crate) struct Session {
    pub(crate) node: Node,
    /// Of all its links.
    pub(crate) capture: Arc<CaptureSwitch>,
    /// `san0`, or `san0, san1`.
    pub(crate) interfaces: String,
}

/// A session with a target attached.
pub(crate) struct Attached {
    pub(crate) session: Session,
    pub(crate) client: Client,
    pub(crate) handle: TargetHandle,
    pub(crate) info: TargetInfo,
}

/// The length of each request, checked.
pub(crate) fn block_bytes(flow: &FlowArgs) -> Result<usize, Fault> {
    let Size(bytes) = flow.block;
    let sector = u64::try_from(SECTOR_BYTES).unwrap_or(512);
    if bytes == 0 || bytes % sector != 0 || bytes > BLOCK_BYTES_MAX {
        return Err(Fault::Option {
            option: "block",
            problem: format!(
                "{} is not a multiple of 512 from 512 bytes to {}",
                flow.block,
                Size(BLOCK_BYTES_MAX)
            ),
        });
    }
    usize::try_from(bytes).map_err(|_| Fault::Option {
        option: "block",
        problem: format!("{} does not fit this machine's memory", flow.block),
    })
}

/// Settings of the node for a flow of requests; `None` for control commands only.
pub(crate) fn node_config(global: &Global, flow: Option<&FlowArgs>) -> Result<NodeConfig> {
    let mut config = NodeConfig {
        vlans: vec![global.vlan; global.interface.len()],
        run_dir: Some(global.run_dir.clone()),
        ..NodeConfig::default()
    };
    config.initiator.attach_timeout = config.initiator.attach_timeout.min(global.timeout);
    let (block, depth) = match flow {
        Some(flow) => (block_bytes(flow)?, usize::from(flow.depth)),
        None => (BUFFER_BYTES_MIN, 1),
    };
    config.memory.buffer_bytes = block.max(BUFFER_BYTES_MIN);
    config.memory.buffers = depth * WINDOW_DEPTHS + 2;
    let memory_bytes = config
        .memory
        .buffer_bytes
        .saturating_mul(config.memory.buffers);
    if memory_bytes > MEMORY_BYTES_MAX {
        let size = |bytes: usize| Size(u64::try_from(bytes).unwrap_or(u64::MAX));
        return Err(Fault::Option {
            option: "depth",
            problem: format!(
                "{depth} requests of this length want {} of buffers, more than {}",
                size(memory_bytes),
                size(MEMORY_BYTES_MAX)
            ),
        }
        .into());
    }
    Ok(config)
}

/// Checks the interfaces, opens them and starts a node.
pub(crate) fn start(global: &Global, flow: Option<&FlowArgs>) -> Result<Session> {
    if global.interface.is_empty() {
        return Err(Fault::NoInterfaceNamed(sandrail_node::netif::candidates()).into());
    }
    for name in &global.interface {
        netif::check(name, global.force_default_route)?;
    }
    let config = node_config(global, flow)?;
    let (links, capture) = links::open(global)?;
    for link in links.iter().flatten() {
        let info = link.info();
        tracing::info!(
            "{}: {}, queue {}, MTU {}, {}",
            info.interface,
            info.mode,
            info.queue,
            info.mtu_bytes,
            info.mac
        );
    }
    let node = Node::start(&config, links).context("starting the node")?;
    if !node.write_quarantine().is_zero() {
        tracing::info!(
            "writes wait {:?}: the last user of this address did not end cleanly",
            node.write_quarantine()
        );
    }
    Ok(Session {
        node,
        capture,
        interfaces: global.interface.join(", "),
    })
}

/// The MACs that the command line names.
pub(crate) fn pins(global: &Global) -> Result<PinnedMacs, Fault> {
    PinnedMacs::new(&global.mac).ok_or_else(|| Fault::Option {
        option: "mac",
        problem: format!(
            "{} addresses are too many, {PATHS_MAX} is the most",
            global.mac.len()
        ),
    })
}

impl Session {
    /// Attaches a target.
    pub(crate) fn attach(
        self,
        global: &Global,
        target: TargetAddr,
        depth: usize,
    ) -> Result<Attached> {
        let handle = self
            .node
            .attach(target, pins(global)?, global.timeout + ATTACH_GRACE)
            .map_err(|source| Fault::Attach {
                target,
                interfaces: self.interfaces.clone(),
                timeout: global
                    .timeout
                    .min(NodeConfig::default().initiator.attach_timeout),
                source,
            })?;
        let info = self.node.target(handle)?.ok_or(Fault::NoAnswer)?;
        let mut client = self.node.client(depth)?;
        client.set_request_timeout(global.timeout);
        Ok(Attached {
            session: self,
            client,
            handle,
            info,
        })
    }

    /// Stops the node; what it leaves behind is told, and the next start takes care of it.
    pub(crate) fn end(self) {
        if let Err(error) = self.node.shutdown(STOP_WITHIN) {
            tracing::warn!(
                "{error}; the next process with this address lets its writes wait until they cannot matter any more"
            );
        }
        match self.capture.stop() {
            Ok(summary) => tell_capture(summary),
            Err(error) => tracing::warn!("the capture is not complete: {error}"),
        }
    }

    /// Ends the capture that runs, if one does.
    pub(crate) fn end_capture(&self) -> Result<Option<CaptureSummary>, CaptureError> {
        self.capture.stop()
    }
}

fn tell_capture(summary: Option<CaptureSummary>) {
    let Some(summary) = summary else { return };
    tracing::info!("{} frames captured", summary.written_frames);
    if summary.dropped_frames > 0 {
        tracing::warn!(
            "{} frames are not in the capture: they came faster than they could be written",
            summary.dropped_frames
        );
    }
}

/// Starts a node and attaches a target.
pub(crate) fn attach(
    global: &Global,
    target: TargetAddr,
    flow: Option<&FlowArgs>,
) -> Result<Attached> {
    let depth = flow.map_or(1, |flow| usize::from(flow.depth));
    start(global, flow)?.attach(global, target, depth)
}

impl Attached {
    /// The address.
    pub(crate) fn addr(&self) -> TargetAddr {
        self.info.addr
    }

    /// The device's size.
    pub(crate) fn device(&self) -> Size {
        Size(self.info.identify.sectors.saturating_mul(512))
    }

    /// Stops.
    pub(crate) fn end(self) {
        drop(self.client);
        self.session.end();
    }
}
