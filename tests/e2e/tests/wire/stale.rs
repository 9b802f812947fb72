//! The stale write: a WRITE's first copy arrives after a newer WRITE of the same sector was acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandrail_e2e::load::sector_of;
use sandrail_e2e::{Pattern, Setup, Site, Wire};
use sandrail_link::fault::{Direction, FaultPlan, Verdict};
use sandrail_proto::aoe::initiator::StaleWriteRule;
use sandrail_wire::Lba;
use sandrail_wire::aoe::{Body, Repr};
use sandrail_wire::ethernet::HEADER_BYTES;

use crate::turn;

const LBA: Lba = Lba(77);
const OLD: Pattern = Pattern::new(1, 1);
const NEW: Pattern = Pattern::new(1, 2);

fn is_write_of_it(head: &[u8]) -> bool {
    let repr = head.get(HEADER_BYTES..).map(Repr::parse);
    let Some(Ok(Repr {
        body: Body::Ata(ata),
        ..
    })) = repr
    else {
        return false;
    };
    ata.write && ata.lba() == LBA
}

struct Ending {
    /// When the newer write was acknowledged, from the moment the older was submitted.
    acknowledged: Duration,
    /// What the sector holds when the held copy has long arrived, on the disk and read through the node.
    on_disk: Pattern,
    through_node: Pattern,
    /// Writes that waited for a closed range.
    waits: u64,
}

/// Rounds at most: in one of them events must come in the order that a test is about, however busy the machine is.
const ROUNDS_MAX: usize = 8;

/// Plays until `in_time` of how it ended.
fn play(
    wire: Wire,
    rule: StaleWriteRule,
    lifetime: Duration,
    in_time: impl Fn(&Ending) -> bool,
) -> Result<Ending> {
    let mut late = Vec::new();
    while late.len() < ROUNDS_MAX {
        match play_once(wire, rule, lifetime, HOLD)? {
            Some(ending) if in_time(&ending) => return Ok(ending),
            Some(ending) => late.push(Some(ending.acknowledged)),
            None => late.push(None),
        }
    }
    bail!("events never came in time: acknowledged after {late:?}")
}

/// Writes OLD, whose first copy is held for `hold`, then NEW; `vblade` executes every copy that it gets. `None` if the held copy
/// left before the retransmission was answered.
fn play_once(
    wire: Wire,
    rule: StaleWriteRule,
    lifetime: Duration,
    hold: Duration,
) -> Result<Option<Ending>> {
    let mut setup = Setup::new(wire).disk_mib(1).faults(move |_| {
        FaultPlan::new(1).on_nth(Direction::Transmit, 1, Verdict::Hold(hold), is_write_of_it)
    });
    setup.node.initiator.stale_write_rule = rule;
    setup.node.initiator.frame_lifetime = lifetime;
    let site = Site::build(setup)?;
    let mut client = site.client(1)?;
    let mut data = [0; 512];

    let begun = Instant::now();
    OLD.fill(LBA.0, &mut data);
    client.write(site.target, LBA, &data)?;
    // Else it may not be its retransmission that was acknowledged.
    let in_time =
        begun.elapsed() < hold && site.faults[0].counters(Direction::Transmit).released == 0;
    NEW.fill(LBA.0, &mut data);
    client.write(site.target, LBA, &data)?;
    let acknowledged = begun.elapsed();

    // Until the held copy has left. The read behind it is answered when vblade, which is serial, has executed it.
    let control = &site.faults[0];
    while control.counters(Direction::Transmit).released == 0 {
        ensure!(
            begun.elapsed() < hold + Duration::from_secs(60),
            "the held copy never left"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    client.read(site.target, LBA, &mut data)?;
    let on_disk = Pattern::of(LBA.0, &sector_of(&site.disk, LBA.0)?)?;
    let ending = Ending {
        acknowledged,
        on_disk,
        through_node: Pattern::of(LBA.0, &data)?,
        waits: site.counters()?.range_waits,
    };
    drop(client);
    site.close().context("closing")?;
    Ok(in_time.then_some(ending))
}

const LIFETIME: Duration = Duration::from_secs(2);
const HOLD: Duration = Duration::from_millis(700);

fn newer_data_stays(test: &str, wire: Wire) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let enforced = StaleWriteRule::Enforced;
    let ending = play(wire, enforced, LIFETIME, |ending| {
        // Sooner would be the rule broken, in whatever round.
        assert!(
            ending.acknowledged >= HOLD,
            "acknowledged after {:?}: before the first copy's own answer",
            ending.acknowledged
        );
        ending.acknowledged < LIFETIME
    })?;
    assert_eq!(ending.on_disk, NEW, "the older write overwrote the newer");
    assert_eq!(ending.through_node, NEW);
    assert_eq!(ending.waits, 1, "the newer write waited for the range");
    Ok(())
}

/// Without the rule the same events must lose the newer data, or the test above shows nothing.
fn older_data_wins(test: &str, wire: Wire, rule: StaleWriteRule, lifetime: Duration) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let ending = play(wire, rule, lifetime, |ending| ending.acknowledged < HOLD)?;
    assert_eq!((ending.on_disk, ending.through_node), (OLD, OLD));
    Ok(())
}

#[test]
fn a_late_copy_does_not_overwrite_newer_data_over_xdp() -> Result<()> {
    newer_data_stays("stale_over_xdp", Wire::XdpGeneric)
}

#[test]
fn a_late_copy_does_not_overwrite_newer_data_over_packet_sockets() -> Result<()> {
    newer_data_stays("stale_over_packet", Wire::PacketRing)
}

#[test]
fn without_the_rule_a_late_copy_overwrites_newer_data_over_xdp() -> Result<()> {
    older_data_wins(
        "no_rule_over_xdp",
        Wire::XdpNative,
        StaleWriteRule::Off,
        LIFETIME,
    )
}

#[test]
fn without_the_rule_a_late_copy_overwrites_newer_data_over_packet_sockets() -> Result<()> {
    older_data_wins(
        "no_rule_over_packet",
        Wire::PacketMmsg,
        StaleWriteRule::Off,
        LIFETIME,
    )
}

/// The rule's promise ends where its assumption does: a copy that outlives the frame lifetime does its harm.
#[test]
fn a_copy_later_than_the_frame_lifetime_overwrites_newer_data() -> Result<()> {
    let lifetime = Duration::from_millis(200);
    older_data_wins(
        "beyond_lifetime",
        Wire::PacketRing,
        StaleWriteRule::Enforced,
        lifetime,
    )
}
