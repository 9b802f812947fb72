//! `sandrail discover`: who answers.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use sandrail_proto::aoe::initiator::{PinnedMacs, SessionState, Sighting};
use sandrail_wire::{MacAddr, TargetAddr};
use serde_json::{Value, json};

use crate::cli::{DiscoverArgs, Global};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};
use crate::session::{self, Session};
use crate::size::Size;
use crate::verbs::{printable, session_json};

/// A target, and what it said when it was attached, or why that is not known.
struct Found {
    sighting: Sighting,
    interface: String,
    closer: Option<Result<Closer, String>>,
}

/// What an attach tells.
struct Closer {
    size: Size,
    session: SessionState,
}

pub(crate) fn run(global: &Global, args: &DiscoverArgs) -> Result<Exit> {
    let session = session::start(global, None)?;
    let outcome = ask(global, args, &session);
    session.end();
    let found = outcome?;
    if found.is_empty() {
        return Err(Fault::NothingFound(args.wait, global.interface.join(", ")).into());
    }
    let conflicts = conflicts(found.iter().map(|found| &found.sighting), &global.mac);
    let value = json!({
        "targets": found.iter().map(to_json).collect::<Vec<Value>>(),
        "conflicts": conflicts.iter().map(|(addr, macs)| json!({
            "target": addr.to_string(),
            "macs": macs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })).collect::<Vec<Value>>(),
    });
    let mut text = table(&found);
    for (addr, macs) in &conflicts {
        let list: Vec<String> = macs.iter().map(ToString::to_string).collect();
        writeln!(
            text,
            "ALARM: {addr} is answered by {}: two disks with one number, an impostor, or one disk on two ports. \
             Name the right one with --mac; if all are ports of one disk, name them all",
            list.join(" and ")
        )?;
    }
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(output::done_or_warning(!conflicts.is_empty()))
}

fn ask(global: &Global, args: &DiscoverArgs, session: &Session) -> Result<Vec<Found>> {
    let sightings = session.node.discover(args.wait)?;
    sightings
        .into_iter()
        .filter(|sighting| global.mac.is_empty() || global.mac.contains(&sighting.mac))
        .map(|sighting| {
            let place = usize::from(sighting.interface.0);
            Ok(Found {
                interface: global.interface.get(place).cloned().unwrap_or_default(),
                closer: args
                    .identify
                    .then(|| look_closer(global, session, &sighting)),
                sighting,
            })
        })
        .collect()
}

/// Attaches the target by exactly this MAC, to ask for its size and whether it has sessions.
fn look_closer(global: &Global, session: &Session, sighting: &Sighting) -> Result<Closer, String> {
    let pinned = PinnedMacs::new(&[sighting.mac]).unwrap_or_default();
    let handle = session
        .node
        .attach(sighting.addr, pinned, global.timeout)
        .map_err(|error| error.to_string())?;
    let info = session.node.target(handle);
    session
        .node
        .detach(handle)
        .map_err(|error| error.to_string())?;
    match info {
        Ok(Some(info)) => Ok(Closer {
            size: Size(info.identify.sectors.saturating_mul(512)),
            session: info.session,
        }),
        Ok(None) => Err("gone".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Addresses that more than one MAC answers for, but for MACs that the caller named as belonging together.
fn conflicts<'a>(
    sightings: impl Iterator<Item = &'a Sighting>,
    named: &[MacAddr],
) -> BTreeMap<TargetAddr, Vec<MacAddr>> {
    let mut macs: BTreeMap<TargetAddr, Vec<MacAddr>> = BTreeMap::new();
    for sighting in sightings.filter(|sighting| !named.contains(&sighting.mac)) {
        let list = macs.entry(sighting.addr).or_default();
        if !list.contains(&sighting.mac) {
            list.push(sighting.mac);
        }
    }
    macs.retain(|_, list| list.len() > 1);
    macs
}

fn to_json(found: &Found) -> Value {
    let sighting = &found.sighting;
    let mut value = json!({
        "target": sighting.addr.to_string(),
        "shelf": sighting.addr.shelf,
        "slot": sighting.addr.slot,
        "mac": sighting.mac.to_string(),
        "interface": found.interface,
        "buffer_count": sighting.buffer_count,
        "firmware": sighting.firmware,
        "sectors_per_command_max": sighting.sectors_max,
        "version": sighting.version,
        "advertised": sighting.advertised,
        "config": printable(sighting.config.as_bytes()),
    });
    match &found.closer {
        Some(Ok(closer)) => {
            value["size_bytes"] = json!(closer.size.0);
            value["sessions"] = session_json(closer.session);
        }
        Some(Err(error)) => value["size_error"] = json!(error),
        None => {}
    }
    value
}

fn table(found: &[Found]) -> String {
    let with_size = found.iter().any(|found| found.closer.is_some());
    let mut rows = vec![vec![
        "TARGET".to_owned(),
        "MAC".to_owned(),
        "INTERFACE".to_owned(),
        "BUFFERS".to_owned(),
        "FIRMWARE".to_owned(),
        "SECTORS/FRAME".to_owned(),
        "CONFIG".to_owned(),
    ]];
    if with_size {
        rows[0].extend(["SIZE".to_owned(), "SESSIONS".to_owned()]);
    }
    for each in found {
        let sighting = &each.sighting;
        let config = printable(sighting.config.as_bytes());
        let mut row = vec![
            sighting.addr.to_string(),
            sighting.mac.to_string(),
            each.interface.clone(),
            sighting.buffer_count.to_string(),
            format!("{:#06x}", sighting.firmware),
            sighting.sectors_max.to_string(),
            if config.is_empty() {
                "-".to_owned()
            } else {
                config
            },
        ];
        match &each.closer {
            Some(Ok(closer)) => {
                let word = match closer.session {
                    SessionState::Unspoken => "no",
                    SessionState::Held(_) | SessionState::Pending => "yes",
                    SessionState::Refused(_) => "refused",
                };
                row.extend([closer.size.to_string(), word.to_owned()]);
            }
            Some(Err(error)) => row.push(error.clone()),
            None => {}
        }
        rows.push(row);
    }
    columns(&rows)
}

/// Rows with their columns under one another.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (place, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(place) {
                Some(widest) => *widest = (*widest).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use sandrail_proto::aoe::initiator::{ConfigString, InterfaceId};

    use super::*;

    fn sighting(slot: u8, mac: u8) -> Sighting {
        Sighting {
            interface: InterfaceId(0),
            mac: MacAddr([2, 0, 0, 0, 0, mac]),
            addr: TargetAddr { shelf: 7, slot },
            buffer_count: 16,
            firmware: 0x4019,
            sectors_max: 17,
            version: 1,
            advertised: false,
            config: ConfigString::new(b""),
        }
    }

    #[test]
    fn two_macs_for_one_address_are_a_conflict_unless_named() {
        let seen = [
            sighting(3, 1),
            sighting(3, 2),
            sighting(4, 1),
            sighting(3, 1),
        ];
        let found = conflicts(seen.iter(), &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&TargetAddr { shelf: 7, slot: 3 }].len(), 2);
        let both = [seen[0].mac, seen[1].mac];
        assert!(conflicts(seen.iter(), &both).is_empty());
    }
}
