//! `sandrail write`: a file or a pipe to sectors.

use std::fmt::Write;
use std::time::Instant;

use anyhow::Result;
use indicatif::ProgressBar;
use sandrail_node::{BlockingError, RequestError};
use sandrail_proto::aoe::initiator::{Durability, IoError, RestartEvidence};
use serde_json::{Value, json};

use crate::cli::{Global, WriteArgs};
use crate::fault::{Exit, Fault};
use crate::flow::{Flow, sector_bytes};
use crate::measure::{Pace, Percentiles, WireCounters};
use crate::output::{self, Stream};
use crate::session::{self, Attached};
use crate::size::Size;
use crate::verbs::stat::links_json;
use crate::verbs::{durability_word, durability_words};

mod input;

use input::{Comparison, Input};

/// How often everything is written again after the target lost what it had not flushed.
const REWRITES_MAX: u32 = 3;

/// What came of it.
struct Written {
    sectors: u64,
    pace: Pace,
    rewrites: u32,
    durability: Option<Durability>,
    verified: Option<Pace>,
}

pub(crate) fn run(global: &Global, args: &WriteArgs) -> Result<Exit> {
    let block_bytes = session::block_bytes(&args.flow)?;
    let mut input = Input::open(&args.file, args.pad)?;
    let mut attached = session::attach(global, args.target.target, Some(&args.flow))?;
    let outcome = transfer(global, args, &mut attached, &mut input, block_bytes)
        .and_then(|written| Ok((report(args, &attached, &written)?, written)));
    let addr = attached.addr();
    attached.end();
    let ((mut value, text), written) = outcome?;
    let broken = written
        .durability
        .filter(|durability| args.require_durable && *durability != Durability::Claimed)
        .map(|durability| Fault::NotDurable {
            target: addr,
            durability: durability_word(durability),
        });
    match broken {
        None => {
            output::report(Stream::Out, global.json, &value, &text)?;
            Ok(Exit::Done)
        }
        Some(fault) => Ok(output::report_failure(
            global.json,
            &mut value,
            &text,
            &fault.into(),
        )?),
    }
}

/// Refuses, before anything is sent, what cannot be written whole.
fn check_room(args: &WriteArgs, attached: &Attached, input: &Input) -> Result<(), Fault> {
    let device_sectors = attached.info.identify.sectors;
    if args.lba >= device_sectors {
        return Err(Fault::PastEnd {
            lba: args.lba,
            end: args.lba.saturating_add(1),
            target: attached.addr(),
            device_sectors,
            device: attached.device(),
        });
    }
    let Some(file) = input.len_bytes() else {
        return Ok(());
    };
    let room = Size((device_sectors - args.lba).saturating_mul(sector_bytes()));
    if file.next_multiple_of(sector_bytes()) > room.0 {
        return Err(Fault::DoesNotFit {
            path: args.file.clone(),
            file: Size(file),
            target: attached.addr(),
            room,
            lba: args.lba,
            device: attached.device(),
        });
    }
    Ok(())
}

fn transfer(
    global: &Global,
    args: &WriteArgs,
    attached: &mut Attached,
    input: &mut Input,
    block_bytes: usize,
) -> Result<Written> {
    check_room(args, attached, input)?;
    let addr = attached.addr();
    let bar = output::progress(&format!("write {addr}"), input.len_bytes(), global.json);
    let mut comparison = args.verify.then(|| Comparison::new(input));
    let began = Instant::now();
    let mut rewrites = 0;
    let (sectors, durability) = loop {
        let sectors = write_all(
            args,
            attached,
            input,
            comparison.as_mut(),
            block_bytes,
            &bar,
        )?;
        if !args.flush {
            break (sectors, None);
        }
        let error = match flush(attached, block_bytes) {
            Ok(durability) => break (sectors, Some(durability)),
            Err(error) => error,
        };
        prepare_rewrite(attached, input, error, rewrites)?;
        rewrites += 1;
        bar.reset();
    };
    let pace = Pace::new(sectors * sector_bytes(), 0, began.elapsed());
    bar.finish_and_clear();
    let verified = comparison
        .map(|comparison| verify(global, args, attached, comparison, sectors, block_bytes))
        .transpose()?;
    Ok(Written {
        sectors,
        pace,
        rewrites,
        durability,
        verified,
    })
}

/// After a flush that failed: goes back to the start of the input, if the target lost what it had not flushed and
/// writing again can mend that.
fn prepare_rewrite(
    attached: &Attached,
    input: &mut Input,
    error: BlockingError,
    rewrites: u32,
) -> Result<()> {
    let BlockingError::Failed(RequestError::Io(IoError::UnflushedLost(evidence))) = error else {
        return Err(anyhow::Error::from(error).context(format!("flush of {}", attached.addr())));
    };
    let evidence = match evidence {
        RestartEvidence::Session => "the target restarted".to_owned(),
        guess => format!("the target may have restarted ({guess:?})"),
    };
    let why = match (input.rewind(), rewrites < REWRITES_MAX) {
        (Ok(true), true) => None,
        (Ok(true), false) => Some(format!("written {} times already", rewrites + 1)),
        (Ok(false), _) => Some("the input is a pipe, which cannot be read again".to_owned()),
        (Err(error), _) => Some(format!("the input cannot be read again: {error}")),
    };
    if let Some(why) = why {
        return Err(Fault::LossNotMended {
            target: attached.addr(),
            evidence,
            why,
        }
        .into());
    }
    tracing::warn!("{evidence}: everything is written again from the input");
    // Taken note of first: a further restart during the second writing makes the next flush fail again.
    attached.session.node.accept_loss(attached.handle)?;
    Ok(())
}

fn flush(attached: &mut Attached, block_bytes: usize) -> Result<Durability, BlockingError> {
    Flow::new(attached, block_bytes).flush()
}

/// Writes all of the input; the number of sectors.
fn write_all(
    args: &WriteArgs,
    attached: &mut Attached,
    input: &mut Input,
    mut comparison: Option<&mut Comparison>,
    block_bytes: usize,
    bar: &ProgressBar,
) -> Result<u64> {
    let end = attached.info.identify.sectors;
    let (addr, device) = (attached.addr(), attached.device());
    if let Some(comparison) = comparison.as_deref_mut() {
        comparison.begin();
    }
    let mut fill = |_lba: u64, buffer: &mut [u8]| -> Result<usize> {
        let filled = input.fill(buffer)?;
        if let Some(comparison) = comparison.as_deref_mut() {
            comparison.remember(&buffer[..filled]);
        }
        Ok(filled)
    };
    let sectors =
        Flow::new(attached, block_bytes).write(args.lba, end, &mut fill, &mut |bytes| {
            bar.inc(bytes);
        })?;
    // Only a pipe can be longer than was known; whether it is shows when all sectors are full.
    if args.lba + sectors == end && !input.is_at_end()? {
        return Err(Fault::InputTooLong {
            written: Size(sectors * sector_bytes()),
            target: addr,
            device,
        }
        .into());
    }
    Ok(sectors)
}

/// Reads everything back and compares; how fast that went.
fn verify(
    global: &Global,
    args: &WriteArgs,
    attached: &mut Attached,
    mut comparison: Comparison,
    sectors: u64,
    block_bytes: usize,
) -> Result<Pace> {
    let addr = attached.addr();
    let bytes = sectors * sector_bytes();
    let bar = output::progress(&format!("verify {addr}"), Some(bytes), global.json);
    let began = Instant::now();
    let (mut compared, mut differing, mut first) = (0_u64, 0_u64, None);
    comparison.rewind()?;
    Flow::new(attached, block_bytes).read(args.lba, sectors, &mut |lba, data| {
        for (lba, sector) in (lba..).zip(data.chunks(512)) {
            compared += 1;
            if !comparison.next_is(sector)? {
                differing += 1;
                first.get_or_insert(lba);
            }
        }
        bar.inc(u64::try_from(data.len()).unwrap_or(0));
        Ok(())
    })?;
    bar.finish_and_clear();
    if let Some(lba) = first {
        return Err(Fault::Differs {
            lba,
            target: addr,
            differing,
            compared,
        }
        .into());
    }
    Ok(Pace::new(bytes, 0, began.elapsed()))
}

fn report(args: &WriteArgs, attached: &Attached, written: &Written) -> Result<(Value, String)> {
    let stat = attached.session.node.stat()?;
    let latencies = stat.latency();
    let latency = Percentiles::of(&latencies.write);
    let wire = WireCounters::of(&stat);
    let addr = attached.addr();
    let pace = Pace {
        requests: latency.samples,
        requests_per_s: crate::measure::approximate(latency.samples) / written.pace.seconds,
        ..written.pace.clone()
    };
    let mut value = json!({
        "target": addr.to_string(),
        "lba": args.lba,
        "sectors": written.sectors,
        "write": pace,
        "latency": latency,
        "rewrites": written.rewrites,
        "flush": written.durability.map(durability_word),
        "verified": written.verified.is_some(),
        "wire": wire,
        "links": links_json(&stat),
    });
    let mut text = String::new();
    writeln!(
        text,
        "wrote {addr} from sector {}: {}",
        args.lba,
        pace.line()
    )?;
    writeln!(text, "latency: {}", latency.line())?;
    match written.durability {
        Some(durability) => writeln!(text, "{}", durability_words(durability))?,
        None => writeln!(text, "not flushed: the target may still lose it (--flush)")?,
    }
    if written.rewrites > 0 {
        writeln!(
            text,
            "written {} times, since the target may have lost what was not flushed",
            written.rewrites + 1
        )?;
    }
    if let Some(verified) = &written.verified {
        value["verify"] = json!({ "seconds": verified.seconds, "mb_per_s": verified.mb_per_s });
        writeln!(
            text,
            "verified: all {} sectors read back as written, {:.1} MB/s",
            written.sectors, verified.mb_per_s
        )?;
    }
    writeln!(text, "wire: {}", wire.line())?;
    Ok((value, text))
}
