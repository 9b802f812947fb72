//! `sandrail stat`: what is known of a target once it is attached.

use std::fmt::Write;

use anyhow::Result;
use sandrail_node::NodeStat;
use sandrail_proto::aoe::initiator::{PathInfo, TargetInfo};
use serde_json::{Value, json};

use crate::cli::{Global, TargetArgs};
use crate::fault::Exit;
use crate::measure::{WireCounters, duration};
use crate::output::{self, Stream};
use crate::session::{self, Attached};
use crate::size::Size;
use crate::verbs::{about, durability_word, durability_words, session_json, session_words, text};

/// Reads of one sector, one after the other, so that the path's round-trip time is more than the attach's guess.
const ROUND_TRIPS: u64 = 16;

pub(crate) fn run(global: &Global, args: &TargetArgs) -> Result<Exit> {
    let mut attached = session::attach(global, args.target, None)?;
    let addr = attached.addr();
    let outcome = examine(&mut attached).map_err(about(addr, "examination"));
    attached.end();
    let (value, text) = outcome?;
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(Exit::Done)
}

fn examine(attached: &mut Attached) -> Result<(Value, String)> {
    let mut sector = [0; 512];
    for lba in 0..ROUND_TRIPS.min(attached.info.identify.sectors) {
        let lba = sandrail_wire::Lba(lba);
        attached.client.read(attached.handle, lba, &mut sector)?;
    }
    // Nothing of ours is unflushed: this only asks what a flush would be worth.
    let flush = attached.client.flush(attached.handle);
    let node = &attached.session.node;
    let info = node.target(attached.handle)?.unwrap_or(attached.info);
    let stat = node.stat()?;
    let identify = &info.identify;
    let size = Size(identify.sectors.saturating_mul(512));
    let flush_words = match &flush {
        Ok(durability) => durability_words(*durability).to_owned(),
        Err(error) => format!("flush failed: {error}"),
    };
    let mut value = json!({
        "target": info.addr.to_string(),
        "size_bytes": size.0,
        "sectors": identify.sectors,
        "model": text(&identify.model),
        "serial": text(&identify.serial),
        "firmware": text(&identify.firmware),
        "lba48": identify.lba48,
        "buffer_count": info.buffer_count,
        "sectors_per_command_max": info.sectors_max,
        "sessions": session_json(info.session),
        "paths": paths(&info).map(|path| path_json(&stat, path)).collect::<Vec<Value>>(),
        "links": links_json(&stat),
        "wire": WireCounters::of(&stat),
    });
    match &flush {
        Ok(durability) => value["flush"] = json!(durability_word(*durability)),
        Err(error) => value["flush_error"] = json!(error.to_string()),
    }
    Ok((value, words(&info, &stat, &flush_words)?))
}

fn words(info: &TargetInfo, stat: &NodeStat, flush: &str) -> Result<String> {
    let identify = &info.identify;
    let size = Size(identify.sectors.saturating_mul(512));
    let mut out = String::new();
    writeln!(out, "{}", info.addr)?;
    writeln!(out, "  size       {size}, {} sectors", identify.sectors)?;
    writeln!(out, "  model      {}", text(&identify.model))?;
    writeln!(out, "  serial     {}", text(&identify.serial))?;
    writeln!(
        out,
        "  firmware   {} (AoE {:#06x})",
        text(&identify.firmware),
        info.firmware
    )?;
    writeln!(
        out,
        "  queues     {} messages, at most {} sectors a command",
        info.buffer_count, info.sectors_max
    )?;
    writeln!(out, "  sessions   {}", session_words(info.session))?;
    for path in paths(info) {
        writeln!(
            out,
            "  path       {} -> {}{}: {} sectors a frame, RTT {}, RTO {}, window {}",
            interface_name(stat, path),
            path.mac,
            if path.silent { " (silent)" } else { "" },
            path.payload_sectors,
            duration(nanos(path.srtt)),
            duration(nanos(path.rto)),
            path.window
        )?;
    }
    for shard in &stat.shards {
        for link in &shard.links {
            writeln!(
                out,
                "  link       {} queue {}: {}, MTU {} bytes, {}",
                link.info.interface,
                link.info.queue,
                link.info.mode,
                link.info.mtu_bytes,
                link.info.mac
            )?;
        }
    }
    writeln!(out, "  flush      {flush}")?;
    writeln!(out, "  wire       {}", WireCounters::of(stat).line())?;
    Ok(out)
}

fn paths(info: &TargetInfo) -> impl Iterator<Item = &PathInfo> {
    info.paths.iter().flatten()
}

fn interface_name<'a>(stat: &'a NodeStat, path: &PathInfo) -> &'a str {
    stat.shards
        .first()
        .and_then(|shard| shard.links.get(usize::from(path.interface.0)))
        .map_or("?", |link| &link.info.interface)
}

fn path_json(stat: &NodeStat, path: &PathInfo) -> Value {
    json!({
        "interface": interface_name(stat, path),
        "mac": path.mac.to_string(),
        "silent": path.silent,
        "payload_sectors": path.payload_sectors,
        "rtt_ns": nanos(path.srtt),
        "rto_ns": nanos(path.rto),
        "window_frames": path.window,
    })
}

/// The links of all shards.
pub(crate) fn links_json(stat: &NodeStat) -> Value {
    stat.shards
        .iter()
        .flat_map(|shard| shard.links.iter().map(move |link| (shard.shard, link)))
        .map(|(shard, link)| {
            json!({
                "shard": shard,
                "interface": link.info.interface,
                "queue": link.info.queue,
                "mode": link.info.mode,
                "mtu_bytes": link.info.mtu_bytes,
                "mac": link.info.mac.to_string(),
            })
        })
        .collect()
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
