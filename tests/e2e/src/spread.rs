//! Has a target's side send each AoE frame from the transmit queue that the shard bits of its tag name.
//!
//! `vblade` writes to one packet socket, which sends everything from one queue; on veth a frame arrives on the queue it was
//! sent from, so all answers would come to one shard. A small program at the egress hook of the target's interface
//! picks the queue instead, as an array with a queue for each of its peer's shards would.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sandrail_lab::{Lab, Side};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/spread.c");

/// Whether this machine can do it: the kernel has cls_bpf, `tc` and `clang` are there; tried out, not guessed.
///
/// # Errors
/// What is in the way.
pub fn supported() -> Result<()> {
    let lab = Lab::builder()
        .name_prefix("sandraile2e")
        .queues(2)
        .build()?;
    by_tag(&lab)
}

/// Compiles the program and attaches it on the target's side of the lab.
///
/// # Errors
/// `clang` or `tc` is missing or refused.
pub fn by_tag(lab: &Lab) -> Result<()> {
    // Named after the lab, so that labs made at the same time do not meet.
    let object = std::env::temp_dir().join(format!("{}.o", lab.namespace(Side::Target)));
    let attached = compile(&object).and_then(|()| attach(lab, &object));
    let removed = std::fs::remove_file(&object);
    attached?;
    removed.with_context(|| format!("remove {}", object.display()))
}

fn compile(object: &Path) -> Result<()> {
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf"]);
    // Where the C library keeps the kernel's `asm/` headers on multiarch systems; clang's bpf target does not look there.
    clang.arg(format!(
        "-I/usr/include/{}-linux-gnu",
        std::env::consts::ARCH
    ));
    run(clang.args(["-c", SOURCE, "-o"]).arg(object))
}

fn attach(lab: &Lab, object: &Path) -> Result<()> {
    let interface = lab.interface(Side::Target);
    let mut qdisc = lab.command(Side::Target, "tc");
    run(qdisc.args(["qdisc", "add", "dev", interface, "clsact"]))?;
    let mut filter = lab.command(Side::Target, "tc");
    filter.args(["filter", "add", "dev", interface, "egress"]);
    filter.args(["bpf", "direct-action", "object-file"]);
    run(filter.arg(object).args(["section", "tc"]))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
