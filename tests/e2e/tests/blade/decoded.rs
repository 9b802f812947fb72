//! What goes over the wire between node and blade, as others read it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sandrail_e2e::decode::{self, Capture, Decoded, Tcpdump};
use sandrail_e2e::{Pattern, Setup, Site, Wire, load};
use sandrail_lab::{Side, can_run};
use sandrail_link::capture::CaptureConfig;
use sandrail_wire::aoe::{
    ConfigCommand, DirectiveCommand, MASK_DIRECTIVE_BYTES, MaskDirectives, ReserveCommand,
};

use crate::turn;

/// AoE commands: ATA, config, mask, reserve, and the vendor's.
const COMMANDS: [u8; 5] = [0, 1, 2, 3, 0xf0];
/// ATA commands: READ EXT, WRITE EXT, FLUSH EXT, IDENTIFY.
const ATA: [u8; 4] = [0x24, 0x34, 0xea, 0xec];

/// Everything a node asks a blade for, but for what changes nothing on the wire.
fn talk(site: &Site<sandrail_lab::Blade>) -> Result<()> {
    let mut client = site.client(load::DEPTH)?;
    let (total, pattern) = (site.disk.len_sectors(), Pattern::new(2, 2));
    load::write_all(&mut client, site.target, total, pattern)?;
    load::read_all(&mut client, site.target, total, pattern)?;
    client.flush(site.target)?;
    client.identify(site.target)?;
    let own = site.mac(Side::Initiator);
    let mut mask = [0; MASK_DIRECTIVE_BYTES];
    MaskDirectives::encode(&[(DirectiveCommand::Add, own)], &mut mask).context("one fits")?;
    client.mask_edit(site.target, &mask)?;
    client.mask_read(site.target)?;
    client.config(site.target, ConfigCommand::ForceSet, b"a string")?;
    client.reserve(site.target, ReserveCommand::Set, &[own])?;
    client.reserve_by_epoch(site.target, 7, &[own])?;
    client.reserve(site.target, ReserveCommand::Read, &[])?;
    site.node.discover(Duration::from_millis(100))?;
    Ok(())
}

fn assert_sound(frames: &[Decoded]) {
    for command in COMMANDS {
        for response in [false, true] {
            let seen = |frame: &&Decoded| frame.command == command && frame.response == response;
            assert!(
                frames.iter().any(|frame| seen(&frame)),
                "command {command:#x}, response: {response}"
            );
        }
    }
    for ata in ATA {
        let asked = |frame: &Decoded| !frame.response && frame.ata == Some(ata);
        assert!(frames.iter().any(asked), "ATA command {ata:#x}");
    }
    let errors = frames.iter().find(|frame| frame.error);
    assert_eq!(errors, None, "nothing was refused");
    let mut tags = BTreeSet::new();
    for frame in frames {
        if !frame.response {
            tags.insert(frame.tag);
        } else if frame.tag != 0 {
            // Advertisements, which nobody asked for, have none.
            assert!(tags.contains(&frame.tag), "an answer to nothing: {frame:?}");
        }
    }
}

/// Until tcpdump has written down the last frames: until its file has not grown for a while.
fn settle(capture: &Capture) -> Result<()> {
    let (give_up, mut before) = (Instant::now() + Duration::from_secs(20), u64::MAX);
    while Instant::now() < give_up {
        let now = std::fs::metadata(capture.path())?.len();
        if now == before {
            break;
        }
        before = now;
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

#[test]
fn every_frame_of_the_blade_is_decoded_by_others_without_complaint() -> Result<()> {
    for (wire, mtu_bytes) in [(Wire::XdpGeneric, 1500), (Wire::PacketRing, 9000)] {
        let Some(_turn) = turn("blade_decoded", wire) else {
            continue;
        };
        let decoders = decode::supported().map_err(|error| format!("{error:#}"));
        if !can_run("blade_decoded", decoders) {
            continue;
        }
        let setup = Setup::new(wire).mtu(mtu_bytes).disk_mib(1);
        let site = Site::of_blade(setup, |options, _, disk| {
            Ok(options.export("e7.3", &disk.path().display().to_string()))
        })?;
        let own = Capture::new(&site.lab, "own");
        site.capture.start(CaptureConfig {
            buffer_frames: 8192,
            ..CaptureConfig::new(own.path())
        })?;
        // A tap on an AF_XDP end sees nothing; one on a packet socket's end only what comes in.
        let mut taps = Vec::new();
        for (side, name) in [(Side::Target, "requests"), (Side::Initiator, "answers")] {
            if !wire.is_xdp() {
                let capture = Capture::new(&site.lab, name);
                taps.push((Tcpdump::start_on(&site.lab, side, &capture)?, capture));
            }
        }
        talk(&site)?;
        let summary = site.capture.stop()?.context("it ran")?;
        assert_eq!(summary.dropped_frames, 0);
        let frames = decode::decode(own.path())?;
        println!("{wire}, MTU {mtu_bytes}: {} frames", frames.len());
        assert_sound(&frames);
        assert_eq!(decode::dissect(own.path())?, frames.len());
        let mut frames = Vec::new();
        for (tcpdump, capture) in taps {
            settle(&capture)?;
            tcpdump.stop()?;
            let some = decode::decode(capture.path())?;
            assert_eq!(decode::dissect(capture.path())?, some.len());
            frames.extend(some);
        }
        if !wire.is_xdp() {
            assert_sound(&frames);
            let short = frames.iter().find(|frame| frame.len_bytes < 60);
            assert_eq!(short, None, "on the wire either end's frames are padded");
        }
        site.close()?;
    }
    Ok(())
}
