//! Initiators that nobody here wrote: the programs of aoetools.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use sandrail_e2e::site::Alone;
use sandrail_e2e::{Setup, Status, Wire};
use sandrail_lab::{Side, can_run};
use sandrail_wire::aoe::{Body, Repr};
use sandrail_wire::ata::Identify;
use sandrail_wire::ethernet::HEADER_BYTES;

use crate::turn;

const PROGRAMS: [&str; 3] = ["aoeping", "aoecfg", "aoe-sancheck"];
const FOLDER: &str = "/usr/sbin";

fn installed() -> Result<(), String> {
    for program in PROGRAMS {
        let path = std::path::Path::new(FOLDER).join(program);
        if !path.is_file() {
            return Err(format!("{program} is not installed: package aoetools"));
        }
    }
    Ok(())
}

/// What a program said, and whether it ended well.
#[derive(Debug)]
struct Said {
    text: String,
    well: bool,
}

/// Runs one on the initiator's side, where there is no interface but the lab's, for ten seconds at most.
fn run(site: &Alone, program: &str, args: &[&str]) -> Result<Said> {
    let output = site
        .lab
        .command(Side::Initiator, "timeout")
        .args(["10", &format!("{FOLDER}/{program}")])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.to_owned())?;
    let text = [output.stdout, output.stderr].concat();
    let said = Said {
        text: String::from_utf8_lossy(&text).into_owned(),
        well: output.status.success(),
    };
    println!("{program} {args:?}: {said:?}");
    Ok(said)
}

#[test]
fn aoetools_find_identify_and_configure_the_blade() -> Result<()> {
    let wire = Wire::XdpGeneric;
    let Some(_turn) = turn("blade_aoetools", wire) else {
        return Ok(());
    };
    if !can_run("blade_aoetools", installed()) {
        return Ok(());
    }
    for (mtu_bytes, payload) in [(1500, 1024), (9000, 8704)] {
        let site = Alone::build(
            &Setup::new(wire).mtu(mtu_bytes).disk_mib(3),
            |options, _, disk| {
                let settings = "model=Proof of Aoetools,serial=SN-4711";
                Ok(options
                    .export("e7.3", &format!("{},{settings}", disk.path().display()))
                    .args(["--buffer-count", "77"]))
            },
        )?;
        ping(&site, u8::try_from(payload / 512)?)?;
        // It takes a second each, and does not depend on the MTU.
        if mtu_bytes == 1500 {
            configure(&site)?;
        }
        check(&site, mtu_bytes, payload)?;
    }
    Ok(())
}

/// The bytes of a hexadecimal dump: lines of nothing but pairs of digits.
fn bytes_in(text: &str) -> Vec<u8> {
    let line = |line: &str| -> Option<Vec<u8>> {
        line.split_ascii_whitespace()
            .map(|word| {
                u8::from_str_radix(word, 16)
                    .ok()
                    .filter(|_| word.len() == 2)
            })
            .collect()
    };
    text.lines().filter_map(line).flatten().collect()
}

fn ping(site: &Alone, sectors_max: u8) -> Result<()> {
    let base = ["-s", "8", "7", "3", "san0"];
    let ask = |option| run(site, "aoeping", &[&[option][..], &base].concat());
    let said = ask("-v")?;
    ensure!(said.well, "{said:?}");
    let mac = site.lab.mac(Side::Target);
    let plain: String = mac.to_string().split(':').collect();
    ensure!(
        said.text.contains(&format!("found e7.3 with mac {plain}")),
        "{said:?}"
    );
    let answer = bytes_in(&said.text);
    ensure!(answer.len() == 60, "padded to the least frame: {answer:?}");
    let Body::Config(config) = Repr::parse(&answer[HEADER_BYTES..])?.body else {
        bail!("no config response: {answer:?}");
    };
    ensure!(
        (config.buffer_count, config.sectors_max) == (77, sectors_max),
        "{config:?}"
    );

    let said = ask("-I")?;
    for words in ["serial_number: SN-4711 ", "model: Proof of Aoetools "] {
        ensure!(said.text.contains(words), "{said:?}");
    }
    let said = ask("-i")?;
    let page = bytes_in(&said.text);
    let page = page.first_chunk().context("512 bytes of IDENTIFY")?;
    let identify = Identify::parse(page)?;
    ensure!(
        identify.sectors == site.disk.len_sectors() && identify.flush_ext && identify.lba48,
        "{identify:?}"
    );
    Ok(())
}

fn configure(site: &Alone) -> Result<()> {
    // What it is told, and what it then says: an empty line for an empty string, nothing where no answer comes.
    for (command, string, says) in [
        ("read", "", "\n"),
        ("set", "first string", "first string\n"),
        ("read", "", "first string\n"),
        ("set", "another", "*badcfg*\n"),
        ("set", "first string", "first string\n"),
        ("test", "first string", "first string\n"),
        ("test", "first", ""),
        ("prefix", "first", "first string\n"),
        ("prefix", "irst", ""),
        ("fset", "by force", "by force\n"),
        ("read", "", "by force\n"),
    ] {
        let args = ["-c", command, "-s", string, "-t", "1", "7", "3", "san0"];
        let said = run(site, "aoecfg", &args)?;
        ensure!(said.text == says, "{command} `{string}`: {said:?}");
    }
    let status = Status::of(&site.blade)?;
    ensure!(status.target("e7.3")?["config_string"] == "by force");
    ensure!(status.frames("rx_config_test_failed") == 2);
    Ok(())
}

fn check(site: &Alone, mtu_bytes: u32, payload: u32) -> Result<()> {
    let said = run(site, "aoe-sancheck", &["-v"])?;
    ensure!(said.well, "{said:?}");
    let line_with = |words: &[&str]| {
        let words_of = |line: &str| -> Vec<String> {
            line.split_ascii_whitespace().map(str::to_owned).collect()
        };
        said.text.lines().any(|line| words_of(line) == words)
    };
    let (mtu, payload) = (mtu_bytes.to_string(), payload.to_string());
    for words in [
        &["san0", "UP", &mtu][..],
        // One MAC, whole payload, seen on one interface; a path that carries less has a line of its own.
        &["e7.3", "1", &payload, "san0"],
    ] {
        ensure!(line_with(words), "{words:?} is not in {}", said.text);
    }
    Ok(())
}
