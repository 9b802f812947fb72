//! `sandrail reserve`: who may write.

use anyhow::Result;
use sandrail_wire::MacAddr;
use sandrail_wire::aoe::ReserveCommand;
use serde_json::json;

use crate::cli::{Global, ReserveAction, ReserveArgs};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};
use crate::session::{self, Attached};
use crate::verbs::about;

pub(crate) fn run(global: &Global, args: &ReserveArgs) -> Result<Exit> {
    let mut attached = session::attach(global, args.target.target, None)?;
    let addr = attached.addr();
    let outcome = carry_out(&mut attached, &args.action).map_err(about(addr, "reservation"));
    attached.end();
    let macs = words(&outcome?);
    let value = json!({ "target": addr.to_string(), "reserved_for": macs });
    let text = if macs.is_empty() {
        format!("{addr} is reserved for nobody: everybody may read and write")
    } else {
        format!("{addr} is reserved for {}", macs.join(", "))
    };
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(Exit::Done)
}

fn carry_out(attached: &mut Attached, action: &ReserveAction) -> Result<Vec<MacAddr>> {
    let (macs, force): (&[MacAddr], bool) = match action {
        ReserveAction::Show => {
            return Ok(attached
                .client
                .reserve(attached.handle, ReserveCommand::Read, &[])?);
        }
        ReserveAction::Set { macs, force } => (macs, *force),
        ReserveAction::Release { force } => (&[], *force),
    };
    let command = if force {
        ReserveCommand::ForceSet
    } else {
        ReserveCommand::Set
    };
    let own = own_macs(attached)?;
    if !macs.is_empty() && !own.iter().any(|mac| macs.contains(mac)) {
        eprintln!(
            "sandrail: warning: this station ({}) is not on the list: it can neither read nor write, and release the \
             target only by --force, from now on",
            words(&own).join(", ")
        );
    }
    attached.client.reserve(attached.handle, command, macs)?;
    // Read back: who may write is too important to be taken from an acknowledgement.
    let list = attached
        .client
        .reserve(attached.handle, ReserveCommand::Read, &[])?;
    let same = list.len() == macs.len() && macs.iter().all(|mac| list.contains(mac));
    if !same {
        let holders = match words(&list) {
            list if list.is_empty() => "reserved for nobody".to_owned(),
            list => format!("reserved for {}", list.join(", ")),
        };
        return Err(Fault::NotReserved(attached.addr(), holders).into());
    }
    Ok(list)
}

/// The addresses that our frames come from.
fn own_macs(attached: &Attached) -> Result<Vec<MacAddr>> {
    let stat = attached.session.node.stat()?;
    let links = stat.shards.into_iter().flat_map(|shard| shard.links);
    let mut macs: Vec<MacAddr> = links.map(|link| link.info.mac).collect();
    macs.sort_unstable();
    macs.dedup();
    Ok(macs)
}

fn words(macs: &[MacAddr]) -> Vec<String> {
    macs.iter().map(ToString::to_string).collect()
}
