//! `sandrail identify`: the 512 bytes that a disk says of itself.

use std::fmt::Write;

use anyhow::Result;
use sandrail_memory::Buffer;
use sandrail_node::{Client, Request, TargetHandle};
use sandrail_proto::aoe::initiator::Operation;
use sandrail_wire::ata::{Identify, SECTOR_BYTES};
use serde_json::{Value, json};

use crate::cli::{Global, IdentifyArgs};
use crate::fault::{Exit, Fault};
use crate::output::{self, Stream};
use crate::session;
use crate::size::Size;
use crate::verbs::{about, text};

pub(crate) fn run(global: &Global, args: &IdentifyArgs) -> Result<Exit> {
    let mut attached = session::attach(global, args.target.target, None)?;
    let addr = attached.addr();
    let outcome = fetch(&mut attached.client, attached.handle).map_err(about(addr, "IDENTIFY"));
    attached.end();
    let data = outcome?;
    let identify = Identify::parse(&data)
        .map_err(|error| Fault::Io(format!("IDENTIFY data of {addr} makes no sense: {error:?}")))?;
    let mut value = to_json(&identify);
    value["target"] = json!(addr.to_string());
    let mut out = String::new();
    if args.raw {
        value["raw"] = json!(hex(&data));
        for (line, bytes) in data.chunks(16).enumerate() {
            writeln!(out, "{:04x}  {}", line * 16, spaced(bytes))?;
        }
    } else {
        out = words(&identify, &addr.to_string())?;
    }
    output::report(Stream::Out, global.json, &value, &out)?;
    Ok(Exit::Done)
}

/// The bytes as they came: the parsed form has lost what this command does not know.
fn fetch(client: &mut Client, handle: TargetHandle) -> Result<[u8; SECTOR_BYTES]> {
    let buffer: Buffer = client.buffer(SECTOR_BYTES).ok_or(Fault::NoAnswer)?;
    let timeout = client.request_timeout();
    let request = Request {
        target: handle,
        operation: Operation::Identify,
        buffer,
        timeout,
        user: 0,
    };
    client
        .submit(request)
        .map_err(|rejected| sandrail_node::BlockingError::from(rejected.why))?;
    let completion = client
        .wait(timeout + std::time::Duration::from_secs(5))
        .ok_or(Fault::NoAnswer)?;
    completion
        .result
        .map_err(sandrail_node::BlockingError::from)?;
    let data = completion.buffer.as_ref().first_chunk();
    Ok(*data.ok_or(Fault::NoAnswer)?)
}

fn to_json(identify: &Identify) -> Value {
    json!({
        "sectors": identify.sectors,
        "size_bytes": identify.sectors.saturating_mul(512),
        "lba48": identify.lba48,
        "flush": identify.flush,
        "flush_ext": identify.flush_ext,
        "write_cache": identify.write_cache,
        "model": text(&identify.model),
        "serial": text(&identify.serial),
        "firmware": text(&identify.firmware),
    })
}

fn words(identify: &Identify, addr: &str) -> Result<String> {
    let claims = |claimed: bool| if claimed { "claimed" } else { "not claimed" };
    let mut out = String::new();
    writeln!(out, "{addr}")?;
    writeln!(
        out,
        "  size         {}, {} sectors",
        Size(identify.sectors.saturating_mul(512)),
        identify.sectors
    )?;
    writeln!(out, "  model        {}", text(&identify.model))?;
    writeln!(out, "  serial       {}", text(&identify.serial))?;
    writeln!(out, "  firmware     {}", text(&identify.firmware))?;
    writeln!(out, "  LBA48        {}", claims(identify.lba48))?;
    writeln!(out, "  FLUSH        {}", claims(identify.flush))?;
    writeln!(out, "  FLUSH EXT    {}", claims(identify.flush_ext))?;
    writeln!(out, "  write cache  {}", claims(identify.write_cache))?;
    Ok(out)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}

fn spaced(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    words.join(" ")
}
