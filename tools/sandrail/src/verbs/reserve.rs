//! `sandrail reserve`: who may write.

use anyhow::Result;
use sandrail_node::EpochError;
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
    let EpochList { macs, epoch } = outcome?;
    let macs = words(&macs);
    let mut value = json!({ "target": addr.to_string(), "reserved_for": macs });
    let mut text = if macs.is_empty() {
        format!("{addr} is reserved for nobody: everybody may read and write")
    } else {
        format!("{addr} is reserved for {}", macs.join(", "))
    };
    if let Some(epoch) = epoch {
        value["epoch"] = json!(epoch);
        text = format!("{text} (epoch {epoch})");
    }
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(Exit::Done)
}

/// A list, with its epoch where one was asked for.
struct EpochList {
    macs: Vec<MacAddr>,
    epoch: Option<u64>,
}

fn carry_out(attached: &mut Attached, action: &ReserveAction) -> Result<EpochList> {
    let (macs, force, epoch): (&[MacAddr], bool, Option<u64>) = match action {
        ReserveAction::Show => {
            let handle = attached.handle;
            let macs = attached.client.reserve(handle, ReserveCommand::Read, &[])?;
            return Ok(EpochList { macs, epoch: None });
        }
        ReserveAction::Set { macs, force, epoch } => (macs, *force, *epoch),
        ReserveAction::Release { force, epoch } => (&[], *force, *epoch),
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
    match epoch {
        Some(epoch) => by_epoch(attached, epoch, macs)?,
        None => {
            attached.client.reserve(attached.handle, command, macs)?;
        }
    }
    // Read back: who may write is too important to be taken from an acknowledgement.
    let list = attached
        .client
        .reserve(attached.handle, ReserveCommand::Read, &[])?;
    let same = list.len() == macs.len() && macs.iter().all(|mac| list.contains(mac));
    if !same {
        return Err(Fault::NotReserved(attached.addr(), holders(&list)).into());
    }
    Ok(EpochList { macs: list, epoch })
}

/// Sets the list by an epoch. What is in force instead is told.
fn by_epoch(attached: &mut Attached, epoch: u64, macs: &[MacAddr]) -> Result<()> {
    let outcome = attached
        .client
        .reserve_by_epoch(attached.handle, epoch, macs);
    match outcome {
        Ok(_) => Ok(()),
        Err(EpochError::Stale(in_force)) => Err(Fault::StaleEpoch {
            target: attached.addr(),
            epoch,
            in_force: in_force.epoch,
            holders: holders(&in_force.macs),
        }
        .into()),
        Err(EpochError::Call(error)) => Err(error.into()),
    }
}

fn holders(list: &[MacAddr]) -> String {
    match words(list) {
        list if list.is_empty() => "reserved for nobody".to_owned(),
        list => format!("reserved for {}", list.join(", ")),
    }
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
