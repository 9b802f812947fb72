//! The target stops, goes and comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandrail_e2e::load::{Churn, Churned};
use sandrail_e2e::{Pattern, Setup, Shards, Site, Wire};
use sandrail_lab::{LinkState, Side};
use sandrail_node::{BlockingError, Client, Node, Request, RequestError, TargetHandle, clock};
use sandrail_proto::aoe::initiator::{
    Durability, IfClosed, IoError, Notice, Operation, RestartEvidence, SubmitError,
};
use sandrail_wire::Lba;

use crate::turn;

/// What the target's return may cost.
const RESUME_WITHIN: Duration = Duration::from_millis(200);
/// Rounds of a test that measures a time, at least.
const ROUNDS: usize = 3;
/// And at most: a machine with other work may delay some, not all.
const ROUNDS_MAX: usize = 8;
/// For what needs its time on a machine that has none to spare.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sectors that the load runs over.
const SECTORS: u64 = 16 << 11;

/// Starts the load, or goes on with it where the last round ended.
fn start_load(site: &Site, earlier: Option<Churned>) -> Result<Churn> {
    const SEED: u64 = 11;
    let client = site.client(32)?;
    let load = match earlier {
        None => Churn::start(client, site.target, SECTORS, SEED),
        Some(earlier) => Churn::go_on(client, site.target, SEED, earlier),
    };
    load?.wait_for(2000, PATIENCE).context("before the outage")
}

fn end_load(load: Churn) -> Result<Churned> {
    let done = load
        .wait_for(2000, PATIENCE)
        .context("after the outage")?
        .stop()?;
    ensure!(done.written > 0 && done.read > 0, "the load was one-sided");
    Ok(done)
}

/// How long after `back` the first request was completed; not before `from`.
fn gap(load: Churn, from: sandrail_proto::time::Instant) -> Result<(Churn, Duration)> {
    let back = clock::now();
    let give_up = back + Duration::from_secs(10);
    loop {
        if let Some(first) = load.first_after(from) {
            return Ok((load, first.saturating_since(back)));
        }
        ensure!(clock::now() < give_up, "nothing within 10 s of the return");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether another round is due: until one was in time.
fn goes_on(gaps: &[Duration]) -> bool {
    let in_time = gaps.iter().any(|gap| *gap <= RESUME_WITHIN);
    gaps.len() < ROUNDS || !in_time && gaps.len() < ROUNDS_MAX
}

fn assert_resumed(gaps: &[Duration]) {
    println!("first completion after the return: {gaps:?}");
    let best = gaps.iter().min().copied().unwrap_or(Duration::MAX);
    assert!(best <= RESUME_WITHIN, "I/O resumed after {gaps:?}");
}

/// Waits for what the node notices by itself.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < give_up, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether every shard has noticed that the target is silent.
fn all_silent(site: &Site) -> Result<bool> {
    let stat = site.node.stat()?;
    let mut paths = stat
        .shards
        .iter()
        .flat_map(|shard| &shard.targets)
        .flat_map(|target| target.info.paths.iter().flatten());
    Ok(paths.all(|path| path.silent))
}

fn lost(result: Result<Durability, BlockingError>) -> Option<RestartEvidence> {
    match result {
        Err(BlockingError::Failed(RequestError::Io(IoError::UnflushedLost(evidence)))) => {
            Some(evidence)
        }
        _ => None,
    }
}

fn a_stopped_target(test: &str, wire: Wire, shards: Shards) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let mut site = Site::build(Setup::new(wire).shards(shards).mtu(9000))?;
    let (mut gaps, mut done) = (Vec::new(), None);
    while goes_on(&gaps) {
        let round = gaps.len();
        let load = start_load(&site, done.take())?;
        site.blade.pause()?;
        until("every path is silent", || all_silent(&site))?;
        let (began, before) = (Instant::now(), site.counters()?);
        std::thread::sleep(Duration::from_millis(1700));
        until("a silent target is probed", || {
            Ok(site.counters()?.tx_probes >= before.tx_probes + 10)
        })?;
        let (after, lasted) = (site.counters()?, began.elapsed());
        let from = clock::now();
        site.blade.resume()?;
        let (load, gap) = gap(load, from)?;
        gaps.push(gap);
        // S2: copies of WRITEs must not heap up in the socket of a silent target; a config query every 50 ms may.
        let sent = after.tx_frames - before.tx_frames;
        let probes = after.tx_probes - before.tx_probes;
        assert_eq!(sent, probes, "only probes go to a silent target");
        let intervals = u64::try_from(lasted.as_millis() / 50)?;
        assert!(
            probes <= (intervals + 6) * u64::from(shards.count()),
            "{probes} probes in {lasted:?}"
        );
        // Reads everything back.
        done = Some(end_load(load).with_context(|| format!("round {round}"))?);
        // To the initiator a silence of two seconds may have been a restart.
        let mut client = site.client(1)?;
        let evidence = lost(client.flush(site.target));
        assert_eq!(evidence, Some(RestartEvidence::Silence), "round {round}");
        site.node.accept_loss(site.target)?;
        assert_eq!(client.flush(site.target)?, Durability::Unclaimed);
    }
    assert_resumed(&gaps);
    site.close()
}

#[test]
fn io_resumes_when_a_stopped_target_goes_on_over_xdp() -> Result<()> {
    a_stopped_target("stopped_xdp", Wire::XdpGeneric, Shards::TwoOnOneQueue)
}

#[test]
fn io_resumes_when_a_stopped_target_goes_on_over_packet_sockets() -> Result<()> {
    a_stopped_target("stopped_packet", Wire::PacketRing, Shards::One)
}

fn a_restarted_target(test: &str, wire: Wire, shards: Shards) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let mut site = Site::build(Setup::new(wire).shards(shards).mtu(9000))?;
    let (mut gaps, mut done) = (Vec::new(), None);
    while goes_on(&gaps) {
        let round = gaps.len();
        let load = start_load(&site, done.take())?;
        site.blade.kill()?;
        std::thread::sleep(Duration::from_millis(1000));
        let from = clock::now();
        site.blade.restart()?;
        let (load, gap) = gap(load, from)?;
        gaps.push(gap);
        done = Some(end_load(load).with_context(|| format!("round {round}"))?);
        let mut client = site.client(1)?;
        let evidence = lost(client.flush(site.target));
        assert!(evidence.is_some(), "round {round}: the flush succeeded");
        site.node.accept_loss(site.target)?;
        assert_eq!(client.flush(site.target)?, Durability::Unclaimed);
    }
    assert_resumed(&gaps);
    site.close()
}

#[test]
fn io_resumes_when_a_killed_target_is_started_again_over_xdp() -> Result<()> {
    a_restarted_target("restarted_xdp", Wire::XdpNative, Shards::One)
}

#[test]
fn io_resumes_when_a_killed_target_is_started_again_over_packet_sockets() -> Result<()> {
    a_restarted_target("restarted_packet", Wire::PacketMmsg, Shards::TwoOnOneQueue)
}

/// Restarts the target, and waits until its advertisement was heard and so many shards have said that they suspect a restart.
fn restart_and_hear(site: &mut Site, suspecting: u16) -> Result<()> {
    while site.node.next_notice().is_some() {}
    site.blade.restart()?;
    let (mut heard, mut suspected) = (false, 0);
    until("the new instance's advertisement", || {
        while let Some(notice) = site.node.next_notice() {
            match notice.notice {
                Notice::Seen(seen) => heard |= seen.advertised,
                Notice::RestartSuspected { .. } => suspected += 1,
                _ => {}
            }
        }
        Ok(heard && suspected >= suspecting)
    })
}

/// The restart takes milliseconds and no request is open: all there is to notice is the new instance's advertisement. With two
/// shards only one gets it, and the writes may be the other's.
#[test]
fn a_flush_after_a_quick_restart_tells_that_unflushed_writes_may_be_lost() -> Result<()> {
    let Some(_turn) = turn("flush_after_restart", Wire::XdpGeneric) else {
        return Ok(());
    };
    for shards in [Shards::One, Shards::TwoOnOneQueue] {
        let mut site = Site::build(Setup::new(Wire::XdpGeneric).shards(shards))?;
        let mut client = site.client(4)?;
        let stripe = site_stripe();
        // The last shard's first sector.
        let lba = Lba(stripe * (u64::from(shards.count()) - 1));
        assert_eq!(client.shard_of(lba) + 1, usize::from(shards.count()));
        let mut data = [0; 512];
        Pattern::new(9, 1).fill(lba.0, &mut data);

        // What was flushed before a restart is not lost by it.
        client.write(site.target, lba, &data)?;
        assert_eq!(client.flush(site.target)?, Durability::Unclaimed);
        restart_and_hear(&mut site, 0)?;
        assert_eq!(
            client.flush(site.target)?,
            Durability::Unclaimed,
            "{shards}"
        );

        let mut told = Vec::new();
        while told.last() != Some(&RestartEvidence::Advertisement) && told.len() < ROUNDS_MAX {
            client.write(site.target, lba, &data)?;
            // One shard tells the others of it; each says so.
            restart_and_hear(&mut site, u16::from(shards.count()))?;
            let evidence = lost(client.flush(site.target)).context("the flush succeeded")?;
            let again = lost(client.flush(site.target));
            assert_eq!(again, Some(evidence), "{shards}: not by asking again");
            told.push(evidence);
            // Note taken first, written again then: a restart in between would be noticed.
            site.node.accept_loss(site.target)?;
            client.write(site.target, lba, &data)?;
            assert_eq!(
                client.flush(site.target)?,
                Durability::Unclaimed,
                "{shards}"
            );
        }
        // Where starting it took long, its silence was noticed first.
        assert_eq!(
            told.last(),
            Some(&RestartEvidence::Advertisement),
            "{shards}: {told:?}"
        );
        drop(client);
        site.close()?;
    }
    Ok(())
}

fn site_stripe() -> u64 {
    sandrail_node::NodeConfig::default().stripe_sectors
}

fn write_of(client: &Client, target: TargetHandle, lba: u64, if_closed: IfClosed) -> Request {
    let mut buffer = client.buffer(4096).expect("few are out");
    Pattern::new(3, 3).fill(lba, buffer.as_mut());
    Request {
        target,
        operation: Operation::Write {
            lba: Lba(lba),
            if_closed,
        },
        buffer,
        timeout: Duration::from_secs(1),
        user: lba,
    }
}

/// A deadline of 1 s is told by then.
const TOLD_WITHIN: Duration = Duration::from_millis(1200);

/// 64 requests from that sector on that nobody answers; how long the one took that took longest.
fn fail_all(client: &mut Client, target: TargetHandle, base: u64) -> Result<Duration> {
    for lba in (base..base + 64 * 8).step_by(8) {
        let mut request = write_of(client, target, lba, IfClosed::Wait);
        if lba % 16 == 8 {
            request.operation = Operation::Read { lba: Lba(lba) };
        }
        client.submit(request).expect("there is room");
    }
    let mut worst = Duration::ZERO;
    for _ in 0..64 {
        let completion = client.wait(PATIENCE).context("a request hangs")?;
        let Err(RequestError::Io(IoError::Deadline { silent, .. })) = completion.result else {
            bail!("{:?}: {:?}", completion.operation, completion.result);
        };
        ensure!(silent, "the error tells that the target is silent");
        let took = completion
            .completed_at
            .saturating_since(completion.submitted_at);
        // Counted from the beginning of the turn that takes the request, which may be a little before its submission.
        let least = Duration::from_millis(950);
        ensure!(took >= least, "before its time: {took:?}");
        worst = worst.max(took);
    }
    Ok(worst)
}

#[test]
fn requests_to_a_target_that_stays_away_fail_at_their_deadline() -> Result<()> {
    let Some(_turn) = turn("killed_for_good", Wire::XdpGeneric) else {
        return Ok(());
    };
    let mut site = Site::build(Setup::new(Wire::XdpGeneric))?;
    let mut client = site.client(64)?;
    site.blade.kill()?;
    let mut worst = Vec::new();
    while worst.iter().all(|worst| *worst >= TOLD_WITHIN) && worst.len() < ROUNDS_MAX {
        let base = u64::try_from(worst.len())? * 64 * 8;
        worst.push(fail_all(&mut client, site.target, base)?);
    }
    println!("a deadline of 1 s was told after at most {worst:?}");
    let best = worst.iter().min().copied().unwrap_or(Duration::MAX);
    assert!(best < TOLD_WITHIN, "{worst:?}");

    // S3: nobody knows what became of those writes, so their ranges stay closed.
    let request = write_of(&client, site.target, 0, IfClosed::Refuse);
    client.submit(request).expect("there is room");
    let completion = client.wait(Duration::from_secs(10)).context("hangs")?;
    let refused = Err(RequestError::Refused(SubmitError::RangeClosed));
    assert_eq!(completion.result, refused);
    drop(client);
    assert_unclean(site.node)
}

/// A node that goes with writes unaccounted for says so.
fn assert_unclean(node: Node) -> Result<()> {
    let error = node.shutdown(Duration::from_millis(100)).unwrap_err();
    assert!(error.unaccounted > 0, "{error}");
    assert!(error.silent.is_empty(), "{error}");
    Ok(())
}

fn link_downs(site: &Site) -> Result<u64> {
    Ok(site.node.stat()?.shards[0].links[0].counters.link_downs)
}

fn a_flapping_link(test: &str, wire: Wire) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let mut site = Site::build(Setup::new(wire).mtu(9000))?;
    let mut done = None;
    for (round, side) in (0..).zip([Side::Initiator, Side::Target, Side::Initiator]) {
        let load = start_load(&site, done.take())?;
        let before = link_downs(&site)?;
        site.lab.set_link(side, LinkState::Down)?;
        std::thread::sleep(Duration::from_millis(400));
        if side == Side::Initiator {
            until("the link's fall is counted", || {
                Ok(link_downs(&site)? > before)
            })?;
        }
        site.lab.set_link(side, LinkState::Up)?;
        // vblade ends when its interface goes down.
        if !site.blade.is_running() {
            site.blade.restart()?;
        }
        done = Some(end_load(load).with_context(|| format!("round {round}, {side:?}"))?);
    }
    site.close()
}

#[test]
fn io_survives_flaps_of_both_ends_over_generic_xdp() -> Result<()> {
    a_flapping_link("flap_generic", Wire::XdpGeneric)
}

#[test]
fn io_survives_flaps_of_both_ends_over_native_xdp() -> Result<()> {
    a_flapping_link("flap_native", Wire::XdpNative)
}

#[test]
fn io_survives_flaps_of_both_ends_over_packet_sockets() -> Result<()> {
    a_flapping_link("flap_ring", Wire::PacketRing)?;
    a_flapping_link("flap_mmsg", Wire::PacketMmsg)
}
