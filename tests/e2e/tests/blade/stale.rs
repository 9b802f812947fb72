//! The stale write, with the rule switched off that keeps an initiator from it: sessions keep the newer data there (S5, S6).
//!
//! The twin against `vblade`, `tests/wire/stale.rs`, loses it; so does this one when sessions are taken off the wire.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandrail_e2e::load::sector_of;
use sandrail_e2e::{Pattern, Setup, Site, Status, Wire};
use sandrail_lab::Blade;
use sandrail_link::fault::{Direction, FaultPlan, Verdict};
use sandrail_proto::aoe::initiator::StaleWriteRule;
use sandrail_wire::Lba;
use sandrail_wire::aoe::{Body, Repr};
use sandrail_wire::ethernet::HEADER_BYTES;

use crate::turn;

const LBA: Lba = Lba(77);
const OLD: Pattern = Pattern::new(1, 1);
const NEW: Pattern = Pattern::new(1, 2);
const ADDR: &str = "e7.3";

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

/// What happens while the first copy is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// The blade is killed and started again, after the newer write was acknowledged.
    Restart,
}

#[derive(Debug)]
struct Ending {
    on_disk: Pattern,
    through_node: Pattern,
    /// Copies that were answered and not executed, by the last blade, and requests of void sessions that it refused from when
    /// the held copy was still on its way.
    copies_answered: u64,
    refused_late: u64,
    /// WRITEs it executed.
    writes: u64,
}

/// Rounds at most: in one of them events must come in the order that the test is about, however busy the machine is.
const ROUNDS_MAX: usize = 8;
/// Within a lifetime, as S6 presumes.
const HOLD: Duration = Duration::from_millis(900);
/// A void session is void for ever, so there is time enough for a restart.
const HOLD_OVER_RESTART: Duration = Duration::from_secs(3);

fn play(wire: Wire, meanwhile: Meanwhile, sessions: bool) -> Result<Ending> {
    for _ in 0..ROUNDS_MAX {
        if let Some(ending) = play_once(wire, meanwhile, sessions)? {
            return Ok(ending);
        }
    }
    bail!("the held copy left before the newer write was acknowledged, {ROUNDS_MAX} times")
}

/// Writes OLD, whose first copy is held, then NEW. `None` if the copy left too early.
fn play_once(wire: Wire, meanwhile: Meanwhile, sessions: bool) -> Result<Option<Ending>> {
    let hold = match meanwhile {
        Meanwhile::Nothing => HOLD,
        Meanwhile::Restart => HOLD_OVER_RESTART,
    };
    let mut setup = Setup::new(wire).disk_mib(1).faults(move |_| {
        FaultPlan::new(1).on_nth(Direction::Transmit, 1, Verdict::Hold(hold), is_write_of_it)
    });
    setup.node.initiator.stale_write_rule = StaleWriteRule::Off;
    if !sessions {
        setup = setup.without_sessions();
    }
    let mut site = Site::of_blade(setup, |options, lab, disk| {
        let file = disk.path().display().to_string();
        Ok(options
            .export(ADDR, &file)
            .state_dir(&lab.folder()?.join("state")))
    })?;
    let mut client = site.client(1)?;
    let mut data = [0; 512];

    let begun = Instant::now();
    OLD.fill(LBA.0, &mut data);
    client.write(site.target, LBA, &data)?;
    NEW.fill(LBA.0, &mut data);
    client.write(site.target, LBA, &data)?;
    if meanwhile == Meanwhile::Restart {
        site.blade.restart()?;
        // It is known to be in order when it has answered, and the node has a session with the new one then.
        Pattern::new(1, 3).fill(LBA.0 + 1, &mut data);
        client.write(site.target, Lba(LBA.0 + 1), &data)?;
    }
    let refused = Status::of(&site.blade)?.count(ADDR, "refused_session")?;
    let in_time = site.faults[0].counters(Direction::Transmit).released == 0;
    wait_for_the_copy(&site, begun + hold)?;
    // The blade is serial over a sector: the read is answered behind the copy.
    client.read(site.target, LBA, &mut data)?;
    let status = Status::of(&site.blade)?;
    let ending = Ending {
        on_disk: Pattern::of(LBA.0, &sector_of(&site.disk, LBA.0)?)?,
        through_node: Pattern::of(LBA.0, &data)?,
        copies_answered: status.count(ADDR, "copies_answered")?,
        refused_late: status.count(ADDR, "refused_session")? - refused,
        writes: status.count(ADDR, "writes")?,
    };
    drop(client);
    site.close().context("closing")?;
    Ok(in_time.then_some(ending))
}

/// Until the held copy has left.
fn wait_for_the_copy(site: &Site<Blade>, due: Instant) -> Result<()> {
    let control = &site.faults[0];
    while control.counters(Direction::Transmit).released == 0 {
        ensure!(
            Instant::now() < due + Duration::from_secs(60),
            "the held copy never left"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn newer_data_stays(test: &str, wire: Wire) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let ending = play(wire, Meanwhile::Nothing, true)?;
    println!("{test}: {ending:?}");
    assert_eq!((ending.on_disk, ending.through_node), (NEW, NEW));
    assert!(ending.copies_answered >= 1, "S6 did it: {ending:?}");
    assert_eq!(
        ending.writes, 2,
        "the older and the newer, once each: {ending:?}"
    );
    Ok(())
}

fn newer_data_stays_over_a_restart(test: &str, wire: Wire) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let ending = play(wire, Meanwhile::Restart, true)?;
    println!("{test}: {ending:?}");
    assert_eq!((ending.on_disk, ending.through_node), (NEW, NEW));
    assert!(ending.refused_late >= 1, "S5 did it: {ending:?}");
    assert_eq!(ending.writes, 1, "the one after the restart: {ending:?}");
    Ok(())
}

/// Without sessions the same events must lose the newer data, or the tests above show nothing.
fn older_data_wins(test: &str, wire: Wire, meanwhile: Meanwhile) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    let ending = play(wire, meanwhile, false)?;
    println!("{test}: {ending:?}");
    assert_eq!((ending.on_disk, ending.through_node), (OLD, OLD));
    Ok(())
}

#[test]
fn a_late_copy_is_not_executed_again_over_xdp() -> Result<()> {
    newer_data_stays("blade_stale_generic", Wire::XdpGeneric)?;
    newer_data_stays("blade_stale_native", Wire::XdpNative)
}

#[test]
fn a_late_copy_is_not_executed_again_over_packet_sockets() -> Result<()> {
    newer_data_stays("blade_stale_packet", Wire::PacketRing)
}

#[test]
fn a_copy_from_before_a_restart_is_refused_over_xdp() -> Result<()> {
    newer_data_stays_over_a_restart("blade_stale_restart_generic", Wire::XdpGeneric)?;
    newer_data_stays_over_a_restart("blade_stale_restart_native", Wire::XdpNative)
}

#[test]
fn a_copy_from_before_a_restart_is_refused_over_packet_sockets() -> Result<()> {
    newer_data_stays_over_a_restart("blade_stale_restart_packet", Wire::PacketMmsg)
}

#[test]
fn without_sessions_a_late_copy_overwrites_newer_data() -> Result<()> {
    let wire = Wire::XdpGeneric;
    older_data_wins("blade_no_sessions", wire, Meanwhile::Nothing)?;
    older_data_wins("blade_no_sessions_restart", wire, Meanwhile::Restart)
}
