//! Frames that nobody should have sent, and stations that are not what they say.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sandrail_e2e::load::Churn;
use sandrail_e2e::peer::{self, Noise};
use sandrail_e2e::site::ADDR;
use sandrail_e2e::{Setup, Shards, Site, Wire};
use sandrail_lab::Side;
use sandrail_node::{AttachFailed, NodeStat, RequestError};
use sandrail_proto::aoe::initiator::{
    AttachFailure, Counters, Notice, Operation, PinnedMacs, SubmitError,
};
use sandrail_wire::{Lba, MacAddr, TargetAddr};

use crate::turn;

const SECTORS: u64 = 16 << 11;
/// For what needs its time on a machine that has none to spare.
const PATIENCE: Duration = Duration::from_secs(60);
const ROGUE: MacAddr = MacAddr([2, 0, 0, 0, 0xba, 0xd0]);

/// Every frame that a shard received must be in one counter of its initiator's.
fn assert_all_counted(stat: &NodeStat) {
    for shard in &stat.shards {
        let one = &shard.initiator;
        let sum = one.rx_used
            + one.rx_not_aoe
            + one.rx_other_host
            + one.rx_other_vlan
            + one.rx_malformed
            + one.rx_request
            + one.rx_version
            + one.rx_other_shard
            + one.rx_stale_tag
            + one.rx_wrong_source
            + one.rx_mismatch
            + one.rx_short_data
            + one.rx_unsolicited;
        let received = shard.counters.rx_frames + shard.counters.forwarded_in;
        let link = shard.links[0].counters;
        assert_eq!(
            sum, received,
            "shard {}: {one:?} {:?} {link:?}",
            shard.shard, shard.counters
        );
    }
}

/// Waits until it holds, or for as long as patience lasts: then the assertions that follow say what is missing.
fn until(mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !holds()? && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn noise_reasons(counters: &Counters) -> [(&'static str, u64); 4] {
    [
        ("malformed", counters.rx_malformed),
        ("requests", counters.rx_request),
        ("another version", counters.rx_version),
        ("no command's tag", counters.rx_stale_tag),
    ]
}

fn damage_reasons(counters: &Counters) -> [(&'static str, u64); 6] {
    [
        ("not AoE", counters.rx_not_aoe),
        ("malformed", counters.rx_malformed),
        ("short of data", counters.rx_short_data),
        ("another source", counters.rx_wrong_source),
        ("another command or sector", counters.rx_mismatch),
        ("no command's tag", counters.rx_stale_tag),
    ]
}

fn noise_changes_nothing(test: &str, wire: Wire, shards: Shards, mtu_bytes: u32) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let site = Site::build(Setup::new(wire).shards(shards).mtu(mtu_bytes))?;
    let noise = peer::noise(
        &site.lab,
        Noise {
            to: site.mac(Side::Initiator),
            target: site.mac(Side::Target),
            addr: ADDR,
            mtu_bytes: usize::try_from(mtu_bytes)?,
            seed: u64::from(mtu_bytes),
        },
    )?;
    let load = Churn::start(site.client(32)?, site.target, SECTORS, 1)?;
    let load = load.wait_for(2000, PATIENCE)?;
    // How much of it finds room in a link's rings is up to the scheduler: it goes on until enough did.
    until(|| {
        let counters = site.counters()?;
        let seen = noise_reasons(&counters).into_iter();
        Ok(noise.count() >= 10_000 && seen.map(|(_, count)| count).all(|count| count > 100))
    })?;
    let done = load.wait_for(2000, PATIENCE)?.stop()?;
    let sent = noise.stop();
    let stat = site.node.stat()?;
    let counters = sandrail_e2e::site::sum(&stat);
    println!(
        "{test}: {sent} frames of noise among {} requests; {counters:?}",
        done.completed_at.len()
    );
    assert_all_counted(&stat);
    for (reason, count) in noise_reasons(&counters) {
        assert!(count > 100, "{reason}: {count}");
    }
    let links = stat.shards.iter().flat_map(|shard| &shard.links);
    for link in links {
        assert_eq!(
            link.counters.rx_malformed, 0,
            "whole frames, whatever is in them"
        );
    }
    site.close()
}

#[test]
fn frames_that_make_no_sense_are_counted_and_change_nothing_over_xdp() -> Result<()> {
    noise_changes_nothing(
        "noise_generic",
        Wire::XdpGeneric,
        Shards::TwoOnOneQueue,
        1500,
    )?;
    noise_changes_nothing("noise_native", Wire::XdpNative, Shards::One, 9000)
}

#[test]
fn frames_that_make_no_sense_are_counted_and_change_nothing_over_packet_sockets() -> Result<()> {
    noise_changes_nothing("noise_ring", Wire::PacketRing, Shards::One, 1500)?;
    noise_changes_nothing("noise_mmsg", Wire::PacketMmsg, Shards::TwoOnOneQueue, 9000)
}

fn damaged_answers_change_nothing(test: &str, wire: Wire, mtu_bytes: u32) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let site = Site::build(
        Setup::new(wire)
            .shards(Shards::TwoOnOneQueue)
            .mtu(mtu_bytes)
            .mangle(3),
    )?;
    let load = Churn::start(site.client(32)?, site.target, SECTORS, 1)?;
    let load = load.wait_for(5000, PATIENCE)?;
    until(|| {
        let counters = site.counters()?;
        let seen = damage_reasons(&counters).into_iter();
        Ok(seen.map(|(_, count)| count).all(|count| count > 100))
    })?;
    load.stop()?;
    let stat = site.node.stat()?;
    assert_all_counted(&stat);
    let counters = sandrail_e2e::site::sum(&stat);
    let mangled = site.mangled.count();
    println!("{test}: {mangled} damaged; {counters:?}");
    for (reason, count) in damage_reasons(&counters) {
        assert!(count > 100, "{reason}: {count} of {mangled}");
    }
    site.close()
}

#[test]
fn answers_that_are_cut_off_or_another_s_are_counted_and_change_nothing() -> Result<()> {
    damaged_answers_change_nothing("damaged_xdp", Wire::XdpGeneric, 9000)?;
    damaged_answers_change_nothing("damaged_packet", Wire::PacketRing, 1500)
}

fn notices(site: &Site) -> Vec<Notice> {
    std::iter::from_fn(|| site.node.next_notice())
        .map(|notice| notice.notice)
        .collect()
}

/// Frames of a kind that are more than chance.
const SEEN_OFTEN: u64 = 100;

fn is_ambiguous(tried: &[Option<AttachFailed>]) -> bool {
    matches!(
        tried.last(),
        Some(Some(AttachFailed::Failed(AttachFailure::Ambiguous(..))))
    )
}

fn a_rogue_is_no_path(test: &str, wire: Wire) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let mut site = Site::build(Setup::new(wire).mtu(9000))?;
    let load = Churn::start(site.client(16)?, site.target, SECTORS, 1)?;
    let load = load.wait_for(1000, PATIENCE)?;
    let rogue = peer::rogue(&site.lab, ADDR, ROGUE)?;
    // One query may be lost: the rogue answers every request of the load as well, as fast as it can.
    let mut answered = false;
    until(|| {
        let found = site.node.discover(Duration::from_millis(300))?;
        answered = found.iter().any(|seen| seen.mac == ROGUE);
        Ok(answered)
    })?;
    assert!(answered, "the rogue never answered");
    let mut load = load.wait_for(5000, PATIENCE)?;
    // Which of the two answers a request first is up to the scheduler: the load goes on until either was seen often, and where
    // the target is always the faster one, it is stopped for a moment.
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        let counters = site.counters()?;
        if counters.rx_wrong_source > SEEN_OFTEN && counters.rx_stale_tag > SEEN_OFTEN {
            break;
        }
        if counters.rx_wrong_source <= SEEN_OFTEN {
            site.blade.pause()?;
            std::thread::sleep(Duration::from_millis(20));
            site.blade.resume()?;
        }
        load = load.wait_for(1000, PATIENCE)?;
    }
    let done = load.stop()?;
    assert!(done.read > 0);
    let told = notices(&site).into_iter().any(
        |notice| matches!(notice, Notice::Rogue { addr, mac, .. } if addr == ADDR && mac == ROGUE),
    );
    assert!(told, "nobody was told of the rogue");
    let info = site.node.target(site.target)?.context("attached")?;
    let paths: Vec<MacAddr> = info.paths.iter().flatten().map(|path| path.mac).collect();
    assert_eq!(paths, [site.mac(Side::Target)]);
    let counters = site.counters()?;
    println!("{test}: {counters:?}");
    assert!(
        counters.rx_wrong_source > SEEN_OFTEN && counters.rx_stale_tag > SEEN_OFTEN,
        "its answers to requests, some before the target's and some after: {counters:?}"
    );

    // Attaching anew, nobody can say which of the two is the disk; who names it gets it.
    site.node.detach(site.target)?;
    let within = PATIENCE;
    // Unless one of them is kept from its core for longer than an attach listens for a contradiction.
    let mut tried = Vec::new();
    until(|| {
        let any = PinnedMacs::first_to_answer();
        let attached = site.node.attach(ADDR, any, within);
        tried.push(attached.map(|target| site.node.detach(target)).err());
        Ok(is_ambiguous(&tried))
    })?;
    assert!(is_ambiguous(&tried), "{tried:?}");
    let pinned = PinnedMacs::new(&[site.mac(Side::Target)]).context("one MAC")?;
    let target = site.node.attach(ADDR, pinned, within)?;
    let before = rogue.count();
    let mut data = vec![0; 1 << 20];
    site.client(8)?.read(target, Lba(0), &mut data)?;
    let mut on_disk = vec![0; 1 << 20];
    std::os::unix::fs::FileExt::read_exact_at(&site.disk.open()?, &mut on_disk, 0)?;
    assert!(data == on_disk, "the disk's data and nobody else's");
    let mut answers = rogue.count();
    until(|| {
        answers = rogue.count();
        Ok(answers > before)
    })?;
    assert!(answers > before, "it answered all along");
    drop(rogue);
    site.close()
}

#[test]
fn a_rogue_that_answers_for_the_target_never_becomes_a_path_over_xdp() -> Result<()> {
    a_rogue_is_no_path("rogue_xdp", Wire::XdpGeneric)
}

#[test]
fn a_rogue_that_answers_for_the_target_never_becomes_a_path_over_packet_sockets() -> Result<()> {
    a_rogue_is_no_path("rogue_packet", Wire::PacketRing)
}

#[test]
fn what_is_not_there_is_an_error_that_names_it() -> Result<()> {
    let Some(_turn) = turn("not_there", Wire::XdpGeneric) else {
        return Ok(());
    };
    let site = Site::build(Setup::new(Wire::XdpGeneric).disk_mib(1))?;
    let absent = TargetAddr { shelf: 7, slot: 4 };
    let failed = site
        .node
        .attach(
            absent,
            PinnedMacs::first_to_answer(),
            Duration::from_secs(20),
        )
        .unwrap_err();
    assert!(
        matches!(failed, AttachFailed::Failed(AttachFailure::NoAnswer)),
        "{failed}"
    );
    let mut client = site.client(1)?;
    let buffer = client.buffer(1024).context("a buffer")?;
    let request = sandrail_node::Request {
        target: site.target,
        operation: Operation::Read { lba: Lba(2048) },
        buffer,
        timeout: Duration::from_secs(1),
        user: 0,
    };
    assert!(client.submit(request).is_ok());
    let completion = client.wait(Duration::from_secs(10)).context("it hangs")?;
    assert_eq!(
        completion.result,
        Err(RequestError::Refused(SubmitError::PastEnd {
            lba: 2048,
            end: 2050,
            device_sectors: 2048
        }))
    );
    drop(client);
    site.close()
}
