//! `sandrail mask`: a target's MAC mask list. Not a fence.

use anyhow::Result;
use sandrail_wire::MacAddr;
use sandrail_wire::aoe::{DirectiveCommand, MASK_DIRECTIVE_BYTES, MaskDirectives};
use serde_json::json;

use crate::cli::{Global, MASK_WARNING, MaskAction, MaskArgs};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};
use crate::session::{self, Attached};
use crate::verbs::about;

pub(crate) fn run(global: &Global, args: &MaskArgs) -> Result<Exit> {
    let mut attached = session::attach(global, args.target.target, None)?;
    if !matches!(args.action, MaskAction::List) {
        eprintln!("sandrail: warning: {MASK_WARNING}");
    }
    let addr = attached.addr();
    let outcome = carry_out(&mut attached, &args.action).map_err(about(addr, "mask list"));
    attached.end();
    let macs: Vec<String> = outcome?.iter().map(ToString::to_string).collect();
    let value = json!({ "target": addr.to_string(), "mask": macs });
    let text = if macs.is_empty() {
        format!("{addr} admits everybody")
    } else {
        format!("{addr} admits {}", macs.join(", "))
    };
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(Exit::Done)
}

fn carry_out(attached: &mut Attached, action: &MaskAction) -> Result<Vec<MacAddr>> {
    let (command, macs) = match action {
        MaskAction::List => return Ok(attached.client.mask_read(attached.handle)?),
        MaskAction::Add { macs } => (DirectiveCommand::Add, macs),
        MaskAction::Delete { macs } => (DirectiveCommand::Delete, macs),
    };
    let directives: Vec<(DirectiveCommand, MacAddr)> =
        macs.iter().map(|mac| (command, *mac)).collect();
    let mut bytes = vec![0; directives.len() * MASK_DIRECTIVE_BYTES];
    MaskDirectives::encode(&directives, &mut bytes).map_err(|_| Fault::Option {
        option: "MAC",
        problem: format!(
            "{} addresses are more than one frame holds",
            directives.len()
        ),
    })?;
    attached.client.mask_edit(attached.handle, &bytes)?;
    // Success is not believed: the list is.
    let list = attached.client.mask_read(attached.handle)?;
    let wanted = command == DirectiveCommand::Add;
    match macs.iter().find(|mac| list.contains(mac) != wanted) {
        Some(mac) => Err(Fault::MaskNotEdited(*mac, attached.addr()).into()),
        None => Ok(list),
    }
}
