//! Compiles the XDP program with clang, against a header written from the constants of wire and of the layout.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sandrail_wire::aoe::{Body, Repr};
use sandrail_wire::{EtherType, Tag, TargetAddr, ethernet};

#[path = "src/layout.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the library exports what the build script only reads"
)]
mod layout;

const SOURCE: &str = "src/steer.bpf.c";

/// Where the C library keeps the kernel's `asm/` headers on multiarch systems; clang's bpf target does not look there.
fn asm_headers() -> Option<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let folder = Path::new("/usr/include").join(format!("{arch}-linux-gnu"));
    folder.join("asm/types.h").exists().then_some(folder)
}

/// A header as wire writes it.
fn aoe_header(response: bool, shard: u8) -> Result<[u8; 64], Box<dyn Error>> {
    let mut bytes = [0; 64];
    let repr = Repr {
        version: 0,
        response,
        error: None,
        addr: TargetAddr { shelf: 0, slot: 0 },
        tag: Tag::new(shard, 0, 0),
        body: Body::Vendor {
            command: 0xff,
            data: &[],
        },
    };
    repr.emit(&mut bytes)
        .map_err(|_| "a header fits 64 bytes")?;
    Ok(bytes)
}

/// Offset in an untagged frame and mask of the one byte in which two headers differ: wire says where its fields lie by writing
/// them.
fn difference(one: &[u8; 64], other: &[u8; 64]) -> Result<(u64, u64), Box<dyn Error>> {
    let mut found = None;
    for (offset, (a, b)) in one.iter().zip(other).enumerate() {
        if a != b
            && found
                .replace((as_u64(ethernet::HEADER_BYTES + offset), u64::from(a ^ b)))
                .is_some()
        {
            return Err(
                "the field lies in more than one byte, which the XDP program does not expect"
                    .into(),
            );
        }
    }
    found.ok_or_else(|| "the field is nowhere in the header".into())
}

fn header() -> Result<String, Box<dyn Error>> {
    let plain = aoe_header(false, 0)?;
    let (flags_offset, flag_response) = difference(&plain, &aoe_header(true, 0)?)?;
    let (shard_offset, shard_mask) = difference(&plain, &aoe_header(false, 0xf)?)?;
    if shard_mask != 0xf0 {
        return Err(
            "the shard is not in the high four bits, where the XDP program looks for it".into(),
        );
    }
    let mut text = String::from("/* Written by the build script. */\n#pragma once\n");
    let numbers = [
        ("SHARDS_PER_QUEUE", u64::from(layout::SHARDS_PER_QUEUE)),
        ("VLAN_TAGS_MAX", u64::from(layout::VLAN_TAGS_MAX)),
        ("ALLOWED_MAX", u64::from(layout::ALLOWED_MAX)),
        ("ETHERTYPE_AOE", u64::from(EtherType::AOE.0)),
        ("ETHERTYPE_LOCK", u64::from(EtherType::SANDRAIL_LOCK.0)),
        ("ETHERTYPE_VLAN", u64::from(EtherType::VLAN.0)),
        ("ETHERTYPE_SERVICE_VLAN", u64::from(EtherType::QINQ.0)),
        ("MAC_BYTES", 6),
        ("SOURCE_OFFSET", 6),
        ("ETHERTYPE_OFFSET", as_u64(ethernet::HEADER_BYTES) - 2),
        ("HEADER_BYTES", as_u64(ethernet::HEADER_BYTES)),
        ("VLAN_TAG_BYTES", as_u64(ethernet::VLAN_TAG_BYTES)),
        ("FLAGS_OFFSET", flags_offset),
        ("SHARD_OFFSET", shard_offset),
        ("FLAG_RESPONSE", flag_response),
        ("COUNTER_COUNT", as_u64(layout::COUNTERS.len())),
    ];
    for (name, value) in numbers {
        writeln!(text, "#define {name} {value:#x}")?;
    }
    text.push_str("enum {\n");
    for (index, name) in layout::COUNTERS.iter().enumerate() {
        writeln!(text, "\t{} = {index},", name.to_uppercase())?;
    }
    text.push_str("};\n");
    Ok(text)
}

fn as_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=src/layout.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("steer_layout.h"), header()?)?;

    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let mut command = Command::new(&clang);
    command.args([
        "-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", SOURCE,
    ]);
    command.arg("-I").arg(&out);
    if let Some(folder) = asm_headers() {
        command.arg("-idirafter").arg(folder);
    }
    command.arg("-o").arg(out.join("steer.bpf.o"));
    let output = command.output().map_err(|error| {
        format!("cannot run `{clang}` ({error}): the XDP program is compiled by it; install the package `clang`")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let package = if said.contains("bpf/bpf_") {
            "; install the package `libbpf-dev`, which brings bpf/bpf_helpers.h"
        } else if said.contains("linux/") || said.contains("asm/") {
            "; install the package `linux-libc-dev`, which brings the kernel's headers"
        } else if said.contains("unable to create target") || said.contains("unknown target") {
            "; this clang lacks the bpf target; install the package `clang`, or name another one in CLANG"
        } else {
            ""
        };
        return Err(format!("`{clang}` refused {SOURCE}{package}\n{said}").into());
    }
    Ok(())
}
