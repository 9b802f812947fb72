//! `sandrail reserve`: who may write.

use anyhow::Result;
use sandrail_wire::MacAddr;
use sandrail_wire::aoe::ReserveCommand;
use serde_json::json;

use crate::cli::{Global, ReserveAction, ReserveArgs};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};
use crate::session::{self, Attached};

pub(crate) fn run(global: &Global, args: &ReserveArgs) -> Result<Exit> {
    let mut attached = session::attach(global, args.target.target, None)?;
    let outcome = carry_out(&mut attached, &args.action);
    let addr = attached.addr();
    attached.end();
    let macs = words(&outcome?);
    let value = json!({ "target": addr.to_string(), "reserved_for": macs });
    let text = if macs.is_empty() {
        format!("{addr} is reserved for nobody: everybody may write")
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

fn words(macs: &[MacAddr]) -> Vec<String> {
    macs.iter().map(ToString::to_string).collect()
}
