//! `sandrail config`: a target's config string.

use anyhow::Result;
use sandrail_node::{BlockingError, RequestError};
use sandrail_proto::aoe::initiator::IoError;
use sandrail_wire::aoe::ConfigCommand;
use serde_json::json;

use crate::cli::{ConfigAction, ConfigArgs, Global};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};
use crate::session::{self, Attached};
use crate::verbs::{about, printable};

pub(crate) fn run(global: &Global, args: &ConfigArgs) -> Result<Exit> {
    let mut attached = session::attach(global, args.target.target, None)?;
    let addr = attached.addr();
    let outcome = carry_out(&mut attached, &args.action).map_err(about(addr, "config string"));
    attached.end();
    let string = printable(&outcome?);
    let value = json!({ "target": addr.to_string(), "config": string });
    let text = if string.is_empty() {
        format!("{addr} has no config string")
    } else {
        format!("{addr} {string}")
    };
    output::report(Stream::Out, global.json, &value, &text)?;
    Ok(Exit::Done)
}

fn carry_out(attached: &mut Attached, action: &ConfigAction) -> Result<Vec<u8>> {
    let (command, wanted) = match action {
        ConfigAction::Get => (ConfigCommand::Read, ""),
        ConfigAction::Test { string } => (ConfigCommand::TestExact, string.as_str()),
        ConfigAction::Prefix { string } => (ConfigCommand::TestPrefix, string.as_str()),
        ConfigAction::Set { string } => (ConfigCommand::SetIfEmpty, string.as_str()),
        ConfigAction::ForceSet { string } => (ConfigCommand::ForceSet, string.as_str()),
    };
    let is_test = matches!(
        command,
        ConfigCommand::TestExact | ConfigCommand::TestPrefix
    );
    let addr = attached.addr();
    let handle = attached.handle;
    let differs = |wanted: &str, answer: &str| Fault::ConfigDiffers {
        target: addr,
        wanted: match command {
            ConfigCommand::TestPrefix => format!("one that begins with \"{wanted}\""),
            _ => format!("\"{wanted}\""),
        },
        answer: answer.to_owned(),
    };
    if is_test {
        // A target that a test does not fit stays silent. It has just answered, so a second of silence is that answer.
        let second = std::time::Duration::from_secs(1);
        let timeout = attached.client.request_timeout();
        attached.client.set_request_timeout(timeout.min(second));
    }
    match attached.client.config(handle, command, wanted.as_bytes()) {
        Ok(answer) => Ok(answer),
        Err(BlockingError::Failed(RequestError::Io(IoError::Deadline { .. }))) if is_test => {
            let present = attached.client.config(handle, ConfigCommand::Read, b"")?;
            Err(differs(wanted, &format!("it is \"{}\"", printable(&present))).into())
        }
        Err(BlockingError::Failed(RequestError::Io(IoError::Aoe(
            code @ sandrail_wire::aoe::ErrorCode::ConfigStringPresent,
        )))) => {
            let present = attached.client.config(handle, ConfigCommand::Read, b"")?;
            let answer = format!("{code}, it is \"{}\"", printable(&present));
            Err(differs(wanted, &answer).into())
        }
        Err(error) => Err(error.into()),
    }
}
