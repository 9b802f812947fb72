//! `sandrail read`: sectors to a file or a pipe.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cli::{Global, ReadArgs};
use crate::fault::{Exit, Fault};
use crate::flow::{Flow, sector_bytes};
use crate::measure::{Pace, Percentiles, WireCounters};
use crate::output::{self, Stream};
use crate::session::{self, Attached};
use crate::size::Size;
use crate::verbs::stat::links_json;

/// Whether the data, and so not the report, goes to standard output.
pub(crate) fn to_standard_output(args: &ReadArgs) -> bool {
    args.output == Path::new("-")
}

pub(crate) fn run(global: &Global, args: &ReadArgs) -> Result<Exit> {
    let block_bytes = session::block_bytes(&args.flow)?;
    if let Some(Size(bytes)) = args.bytes.filter(|Size(bytes)| bytes % sector_bytes() != 0) {
        return Err(Fault::Option {
            option: "bytes",
            problem: format!("{bytes} is no multiple of 512: whole sectors are read"),
        }
        .into());
    }
    let mut attached = session::attach(global, args.target.target, Some(&args.flow))?;
    let outcome = transfer(global, args, &mut attached, block_bytes);
    attached.end();
    let (value, text) = outcome?;
    let stream = if to_standard_output(args) {
        Stream::Err
    } else {
        Stream::Out
    };
    output::report(stream, global.json, &value, &text)?;
    Ok(Exit::Done)
}

/// How many sectors to read, within the device.
fn range(args: &ReadArgs, attached: &Attached) -> Result<u64, Fault> {
    let device_sectors = attached.info.identify.sectors;
    let wanted = args
        .sectors
        .or(args.bytes.map(|Size(bytes)| bytes / sector_bytes()));
    let end = match wanted {
        Some(sectors) => args.lba.saturating_add(sectors),
        None => device_sectors.max(args.lba.saturating_add(1)),
    };
    if end > device_sectors {
        return Err(Fault::PastEnd {
            lba: args.lba,
            end,
            target: attached.addr(),
            device_sectors,
            device: attached.device(),
        });
    }
    Ok(end - args.lba)
}

fn transfer(
    global: &Global,
    args: &ReadArgs,
    attached: &mut Attached,
    block_bytes: usize,
) -> Result<(serde_json::Value, String)> {
    let sectors = range(args, attached)?;
    let addr = attached.addr();
    let mut sink = open(&args.output)?;
    let place = if to_standard_output(args) {
        "standard output".to_owned()
    } else {
        args.output.display().to_string()
    };
    let bytes = sectors * sector_bytes();
    let bar = output::progress(&format!("read {addr}"), Some(bytes), global.json);
    let began = Instant::now();
    Flow::new(attached, block_bytes).read(args.lba, sectors, &mut |_, data| {
        bar.inc(u64::try_from(data.len()).unwrap_or(0));
        sink.write_all(data)
            .with_context(|| format!("writing {place}"))
    })?;
    sink.flush().with_context(|| format!("writing {place}"))?;
    let took = began.elapsed();
    bar.finish_and_clear();
    let stat = attached.session.node.stat()?;
    let latency = Percentiles::of(&stat.latency().read);
    let pace = Pace::new(bytes, latency.samples, took);
    let wire = WireCounters::of(&stat);
    let value = json!({
        "target": addr.to_string(),
        "lba": args.lba,
        "sectors": sectors,
        "read": pace,
        "latency": latency,
        "wire": wire,
        "links": links_json(&stat),
    });
    let text = format!(
        "read {addr} from sector {}: {}\nlatency: {}\nwire: {}",
        args.lba,
        pace.line(),
        latency.line(),
        wire.line()
    );
    Ok((value, text))
}

fn open(path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = File::create(path).map_err(|error| Fault::File {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    Ok(Box::new(file))
}
