//! Opens the links of a node as the command line asks.

use std::sync::Arc;

use anyhow::Result;
use sandrail_link::capture::{CaptureConfig, CaptureSwitch};
use sandrail_node::links::{AnyLink, LinkOptions, by_shard, open_links};

use crate::cli::Global;

/// For each shard its links, one an interface, and the switch of a capture that sees them all. A capture that was asked
/// for runs already.
pub(crate) fn open(global: &Global) -> Result<(Vec<Vec<AnyLink>>, Arc<CaptureSwitch>)> {
    let switch = CaptureSwitch::new();
    let mut interfaces = Vec::new();
    for name in &global.interface {
        let options = LinkOptions {
            choice: global.link.into(),
            queues: global.queues,
            capture: Some(Arc::clone(&switch)),
            ..LinkOptions::new(name)
        };
        interfaces.push(open_links(&options, usize::from(global.shards))?.links);
    }
    if let Some(path) = &global.capture {
        switch.start(CaptureConfig::new(path))?;
    }
    Ok((by_shard(interfaces), switch))
}
