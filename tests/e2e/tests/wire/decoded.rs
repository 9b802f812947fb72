//! What goes over the wire, as others read it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sandrail_e2e::decode::{self, Capture, Decoded, Tcpdump};
use sandrail_e2e::load;
use sandrail_e2e::site::ADDR;
use sandrail_e2e::{Pattern, Setup, Shards, Site, Wire};
use sandrail_lab::{Side, can_run};
use sandrail_link::capture::CaptureConfig;
use sandrail_wire::aoe::ConfigCommand;

use crate::{has, turn};

const READ_EXT: u8 = 0x24;
const WRITE_EXT: u8 = 0x34;
const IDENTIFY: u8 = 0xec;

/// The sectors that requests with that ATA command name.
fn sectors_of(frames: &[Decoded], ata: u8) -> BTreeSet<u64> {
    let requests = frames
        .iter()
        .filter(|frame| !frame.response && frame.command == 0 && frame.ata == Some(ata));
    requests
        .flat_map(|frame| {
            let lba = frame.lba.unwrap_or(u64::MAX);
            lba..lba + u64::from(frame.sectors.unwrap_or(0))
        })
        .collect()
}

fn assert_as_sent(frames: &[Decoded], site: &Site, total: u64) {
    let whole: BTreeSet<u64> = (0..total).collect();
    assert!(
        sectors_of(frames, WRITE_EXT) == whole,
        "every sector was written"
    );
    assert!(
        sectors_of(frames, READ_EXT) == whole,
        "every sector was read"
    );
    let (ours, theirs) = (
        site.mac(Side::Initiator).to_string(),
        site.mac(Side::Target).to_string(),
    );
    let mut tags = BTreeSet::new();
    for frame in frames {
        assert_eq!(frame.addr, (ADDR.shelf, ADDR.slot), "{frame:?}");
        assert_eq!(
            frame.source,
            if frame.response { &theirs } else { &ours }.as_str()
        );
        if frame.response {
            assert!(tags.contains(&frame.tag), "an answer to nothing: {frame:?}");
        } else {
            assert!(tags.insert(frame.tag), "S1: a tag twice: {frame:?}");
            assert!(!frame.error, "{frame:?}");
        }
    }
    let asked = |command| {
        frames
            .iter()
            .any(|frame| !frame.response && frame.command == command)
    };
    assert!(asked(1) && asked(3), "config and reserve commands");
    let identify = |frame: &Decoded| !frame.response && frame.ata == Some(IDENTIFY);
    assert!(frames.iter().any(identify), "IDENTIFY");
}

/// Waits until it holds; what it waited for in vain shows in the assertions that follow.
fn settle(mut settled: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !settled()? && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Frames in a pcap file that may still grow: behind 24 bytes, each has 16 bytes of header, of which the third word is the
/// length kept (pcap-savefile(5)).
fn frames_in(path: &Path) -> Result<usize> {
    let file = std::fs::read(path)?;
    let (mut at, mut frames) = (24, 0);
    while let Some(word) = file.get(at + 8..at + 12) {
        let word = word.try_into()?;
        // The magic number tells the writer's order of bytes.
        let len_bytes = if file[0] == 0xd4 {
            u32::from_le_bytes(word)
        } else {
            u32::from_be_bytes(word)
        };
        at += 16 + usize::try_from(len_bytes)?;
        frames += usize::from(at <= file.len());
    }
    Ok(frames)
}

fn decoded_by_others(wire: Wire, shards: Shards, mtu_bytes: u32) -> Result<()> {
    let mib = if mtu_bytes > 1500 { 4 } else { 1 };
    let site = Site::build(Setup::new(wire).shards(shards).mtu(mtu_bytes).disk_mib(mib))?;
    let (outside, inside) = (
        Capture::new(&site.lab, "wire"),
        Capture::new(&site.lab, "own"),
    );
    let tcpdump = Tcpdump::start(&site.lab, &outside)?;
    // Room for every frame that there will be: when the writing thread gets its turn is up to the scheduler.
    site.capture.start(CaptureConfig {
        buffer_frames: 8192,
        ..CaptureConfig::new(inside.path())
    })?;
    let mut client = site.client(load::DEPTH)?;
    let (total, pattern) = (site.disk.len_sectors(), Pattern::new(2, 2));
    load::write_all(&mut client, site.target, total, pattern)?;
    load::read_all(&mut client, site.target, total, pattern)?;
    client.flush(site.target)?;
    client.identify(site.target)?;
    client.config(
        site.target,
        ConfigCommand::ForceSet,
        b"a string of some length",
    )?;
    client.config(site.target, ConfigCommand::Read, b"")?;
    let ours = site.mac(Side::Initiator);
    client.reserve(
        site.target,
        sandrail_wire::aoe::ReserveCommand::Set,
        &[ours],
    )?;
    drop(client);
    // With nothing under way both captures end with the same frame.
    settle(|| {
        let links = site
            .node
            .stat()?
            .shards
            .into_iter()
            .flat_map(|shard| shard.links);
        let (sent, received) = links.fold((0, 0), |(sent, received), link| {
            (
                sent + link.counters.tx_frames,
                received + link.counters.rx_frames,
            )
        });
        Ok(sent == received)
    })?;
    let summary = site.capture.stop()?.context("it ran")?;
    let wanted = usize::try_from(summary.written_frames)?;
    settle(|| Ok(frames_in(outside.path())? >= wanted))?;
    tcpdump.stop()?;

    assert_eq!(summary.dropped_frames, 0);
    let own = decode::decode(inside.path()).context("our capture")?;
    assert_eq!(u64::try_from(own.len())?, summary.written_frames);
    assert_as_sent(&own, &site, total);
    let seen = decode::decode(outside.path()).context("tcpdump's capture")?;
    assert_as_sent(&seen, &site, total);
    // Below the link our frames are padded; vblade's are not.
    let short = |frame: &&Decoded| !frame.response && frame.len_bytes < 60;
    assert_eq!(seen.iter().find(short), None, "too short for a wire");
    let tags = |frames: &[Decoded], response| -> BTreeSet<u32> {
        let some = frames.iter().filter(|frame| frame.response == response);
        some.map(|frame| frame.tag).collect()
    };
    for response in [false, true] {
        assert!(
            tags(&own, response) == tags(&seen, response),
            "both captures show the same frames (responses: {response})"
        );
    }
    for capture in [&inside, &outside] {
        let dissected = decode::dissect(capture.path())?;
        assert!(
            dissected >= own.len(),
            "{dissected} of {} frames",
            own.len()
        );
    }
    site.close()
}

#[test]
fn every_frame_is_decoded_by_tshark_without_complaint() -> Result<()> {
    let Some(_turn) = turn("decoded", Wire::XdpGeneric) else {
        return Ok(());
    };
    let decoders = decode::supported().map_err(|error| format!("{error:#}"));
    if !can_run("decoded", decoders) {
        return Ok(());
    }
    for (wire, shards, mtu_bytes) in [
        (Wire::XdpGeneric, Shards::One, 1500),
        (Wire::XdpNative, Shards::TwoOnTwoQueues, 9000),
        (Wire::PacketRing, Shards::TwoOnOneQueue, 9000),
    ] {
        if !has("decoded", shards) {
            continue;
        }
        decoded_by_others(wire, shards, mtu_bytes)
            .with_context(|| format!("{wire}, {shards}, MTU {mtu_bytes}"))?;
    }
    Ok(())
}
