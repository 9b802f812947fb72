//! The demo on a real target: two network namespaces, a veth pair, and `vblade`.

use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Stdio;

use anyhow::{Context, Result};
use sandrail_lab::{BackingFile, Lab, Side, Vblade, VbladeOptions};

use crate::cli::{DemoArgs, Global, LinkChoice};
use crate::demo::job::JobReport;
use crate::demo::{Run, Story, data, say, simulated};
use crate::fault::Exit;
use crate::flow::sector_bytes;
use crate::measure::kernel;

/// The target's address.
const SHELF: u16 = 7;
const SLOT: u8 = 3;
/// What the file is filled and compared by.
const PART_BYTES: usize = 1 << 20;

pub(super) fn run(global: &Global, args: &DemoArgs) -> Result<Story> {
    let lab = match Lab::builder()
        .name_prefix("sandrail-demo")
        .mtu(args.mtu)
        .build()
    {
        Ok(lab) => lab,
        Err(error) => {
            say(global, &format!("no real SAN here: {error}"));
            return simulated::run(global, args, &error.to_string());
        }
    };
    let disk = lab.backing_file(args.size.0)?;
    // Touched once, so that the first run does not pay for the file's memory and the second not.
    fill_with_zeros(&disk).context("filling the target's file")?;
    let mut target = lab.vblade(VbladeOptions::new(SHELF, SLOT, disk.path()))?;
    say(
        global,
        &format!(
            "vblade serves e{SHELF}.{SLOT}, {} in {}: a file in memory, so the figures are those of the way there, not of \
             a disk. Two network namespaces on one machine, joined by a veth pair of MTU {}",
            args.size,
            disk.path().display(),
            args.mtu
        ),
    );
    let mut runs = Vec::new();
    for (number, link) in (0_u64..).zip(links(global.link)) {
        // Each run writes data of its own: what the one before left in the file would not pass.
        let seed = args.seed.wrapping_add(number);
        say(
            global,
            &format!("running over {} (seed {seed}) ...", link.word()),
        );
        let mut run = job(global, args, &lab, &disk, link, seed)?;
        if let Ok(report) = &mut run.outcome {
            match first_difference(&disk, seed)? {
                None => report.found_in_file = true,
                Some(lba) => {
                    run.outcome = Err(format!(
                        "read back well, yet sector {lba} of the target's file differs from what was written"
                    ));
                }
            }
        }
        if run.outcome.is_err() && !run.unavailable {
            tell_target(&mut target);
        }
        runs.push(run);
    }
    drop(target);
    lab.close().context("cleaning up")?;
    if let Some(run) = runs.iter().find(|run| run.unavailable) {
        let why = format!("{} does not work on this machine", run.link);
        runs.extend(simulated::run(global, args, &why)?.runs);
    }
    Ok(Story {
        place:
            "a real target (vblade) over a veth pair between two network namespaces of one machine"
                .to_owned(),
        seed: args.seed,
        size: args.size,
        block: args.block,
        depth: args.depth,
        kernel: kernel(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        runs,
    })
}

/// The better of AF_XDP's modes and AF_PACKET, unless one was asked for.
fn links(choice: LinkChoice) -> Vec<LinkChoice> {
    match choice {
        LinkChoice::Auto => vec![LinkChoice::Xdp, LinkChoice::Packet],
        one => vec![one],
    }
}

/// Runs the job in the initiator's namespace, as a process of its own: interfaces are found by namespace.
fn job(
    global: &Global,
    args: &DemoArgs,
    lab: &Lab,
    disk: &BackingFile,
    link: LinkChoice,
    seed: u64,
) -> Result<Run> {
    // The station goes with the lab, and so does the mark that it is in use, also after Ctrl-C.
    let run_dir = disk.path().with_file_name("run");
    let this = std::env::current_exe().context("finding this program")?;
    let mut command = lab.command(Side::Initiator, this);
    command
        .args(["job", &format!("{SHELF}.{SLOT}"), "--json"])
        .args(["--interface", lab.interface(Side::Initiator)])
        .args([
            "--link",
            &link.word(),
            "--shards",
            &global.shards.to_string(),
        ])
        .args([
            "--seed",
            &seed.to_string(),
            "--size",
            &args.size.0.to_string(),
        ])
        .args([
            "--depth",
            &args.depth.to_string(),
            "--block",
            &args.block.0.to_string(),
        ])
        .args(["--timeout", &global.timeout.as_secs_f64().to_string()])
        .arg("--run-dir")
        .arg(run_dir)
        .args((0..global.verbose).map(|_| "-v"));
    if let Some(path) = &global.capture {
        // One file a run: the second would replace the first.
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", link.word()));
        command.arg("--capture").arg(name);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the job")?;
    let output = child.wait_with_output().context("waiting for the job")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = if output.status.success() {
        Ok(serde_json::from_str::<JobReport>(&text).context("reading the job's report")?)
    } else {
        let told: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let words = told.and_then(|value| value["error"].as_str().map(str::to_owned));
        Err(words.unwrap_or_else(|| format!("the job ended with {}", output.status)))
    };
    let environment = i32::from(Exit::Environment as u8);
    Ok(Run {
        link: link.word(),
        unavailable: outcome.is_err() && output.status.code() == Some(environment),
        outcome,
    })
}

/// Why it may have gone wrong, if it is the target.
fn tell_target(target: &mut Vblade) {
    if !target.is_running() {
        eprintln!("sandrail: vblade has ended: {}", target.output());
    }
}

fn fill_with_zeros(disk: &BackingFile) -> Result<()> {
    let mut file = disk.open()?;
    let zeros = vec![0; PART_BYTES];
    let mut left = disk.len_bytes();
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(PART_BYTES);
        file.write_all(&zeros[..part])?;
        left -= u64::try_from(part).unwrap_or(0);
    }
    Ok(())
}

/// Looks at the target's file itself, behind the target's back.
fn first_difference(disk: &BackingFile, seed: u64) -> Result<Option<u64>> {
    let mut file = disk.open()?;
    file.seek(SeekFrom::Start(0))?;
    let mut part = vec![0; PART_BYTES];
    let mut lba = 0;
    let mut left = disk.len_bytes();
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PART_BYTES);
        file.read_exact(&mut part[..length])?;
        if let Some(lba) = data::first_difference(seed, lba, &part[..length]) {
            return Ok(Some(lba));
        }
        let length = u64::try_from(length).unwrap_or(0);
        lba += length / sector_bytes();
        left -= length;
    }
    Ok(None)
}
