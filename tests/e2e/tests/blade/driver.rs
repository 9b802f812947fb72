//! An initiator that works as Linux's driver does, and one that takes no notice of the buffer count.

use anyhow::{Result, ensure};
use sandrail_e2e::driver::{Driver, Piece};
use sandrail_e2e::load::sector_of;
use sandrail_e2e::site::{ADDR, Alone};
use sandrail_e2e::status::ask;
use sandrail_e2e::{Pattern, Setup, Site, Status, Wire};
use sandrail_wire::{Lba, MacAddr};

use crate::turn;

fn alone(wire: Wire, mtu_bytes: u32) -> Result<Alone> {
    let setup = Setup::new(wire).mtu(mtu_bytes).disk_mib(4);
    Alone::build(&setup, |options, _, disk| {
        Ok(options.export("e7.3", &disk.path().display().to_string()))
    })
}

fn data_comes_back(wire: Wire, mtu_bytes: u32, sectors_max: u8) -> Result<()> {
    let site = alone(wire, mtu_bytes)?;
    let mut driver = Driver::attach(&site.lab, ADDR)?;
    assert_eq!(
        (driver.buffer_count, driver.sectors_max),
        (128, sectors_max)
    );
    let (total, mut pieces, mut lba) = (site.disk.len_sectors(), Vec::new(), 0);
    while lba < total {
        let count = u64::from(sectors_max).min(total - lba);
        let count = u8::try_from(count)?;
        pieces.push(Piece { lba, count });
        lba += u64::from(count);
    }
    let pattern = Pattern::new(5, 1);
    let written = driver.transfer(&pieces, pattern, true, 100)?;
    let read = driver.transfer(&pieces, pattern, false, 100)?;
    println!("{wire}, MTU {mtu_bytes}: written {written:?}, read {read:?}");
    for done in [written, read] {
        ensure!(done.unheard > 0 && done.resent >= done.unheard, "{done:?}");
    }
    // It never flushed: an acknowledged write is the file's all the same.
    for lba in 0..total {
        pattern.check(lba, &sector_of(&site.disk, lba)?)?;
    }
    let status = Status::of(&site.blade)?;
    assert_eq!(status.count("e7.3", "flushes")?, 0);
    assert_eq!(
        status.count("e7.3", "copies_answered")?,
        0,
        "it has no session"
    );
    Ok(())
}

#[test]
fn a_driver_without_sessions_is_served_at_either_mtu() -> Result<()> {
    for (wire, mtu_bytes, sectors_max) in [
        (Wire::XdpGeneric, 1500, 2),
        (Wire::XdpNative, 9000, 17),
        (Wire::PacketRing, 9000, 17),
    ] {
        let Some(_turn) = turn("blade_driver", wire) else {
            continue;
        };
        data_comes_back(wire, mtu_bytes, sectors_max)?;
    }
    Ok(())
}

/// As AoE has it: who sends a write again with another tag has it executed again, each answered with its own.
#[test]
fn late_copies_of_a_driver_without_sessions_are_executed_as_aoe_has_it() -> Result<()> {
    let Some(_turn) = turn("blade_driver_late", Wire::XdpGeneric) else {
        return Ok(());
    };
    let site = alone(Wire::XdpGeneric, 1500)?;
    let mut driver = Driver::attach(&site.lab, ADDR)?;
    let piece = Piece { lba: 9, count: 1 };
    let (old, new) = (Pattern::new(1, 1), Pattern::new(1, 2));
    for pattern in [old, old, new, old] {
        let tag = driver.send_write(piece, pattern);
        driver.answer(tag)?;
        let tag = driver.send_read(piece);
        let data = driver.answer(tag)?;
        assert_eq!(Pattern::of(9, &data[..512])?, pattern);
    }
    assert_eq!(Pattern::of(9, &sector_of(&site.disk, 9)?)?, old);
    assert_eq!(Status::of(&site.blade)?.count("e7.3", "writes")?, 4);
    Ok(())
}

/// Far more requests than it may have under way do not keep others from theirs: beyond the buffer count they are dropped.
#[test]
fn a_greedy_station_starves_nobody() -> Result<()> {
    let wire = Wire::PacketRing;
    let Some(_turn) = turn("blade_greedy", wire) else {
        return Ok(());
    };
    let site = Site::of_blade(Setup::new(wire).disk_mib(4), |options, _, disk| {
        let options = options.args(["--buffer-count", "16"]);
        Ok(options.export("e7.3", &disk.path().display().to_string()))
    })?;
    // So that requests pile up.
    let slow = r#"{"verb":"fault-disk","target":"e7.3","fault":{"slow":{"us":3000}}}"#;
    ask(&site.blade, slow)?;
    let mut greedy = Driver::attach_as(&site.lab, ADDR, MacAddr([2, 0, 0, 0, 0x99, 1]))?;
    let mut client = site.client(1)?;
    let mut data = [0; 512];
    let dropped = || Status::of(&site.blade).map(|status| status.frames("rx_buffers_full"));
    for round in 0..50 {
        greedy.flood(100);
        let pattern = Pattern::new(6, round);
        pattern.fill(1000, &mut data);
        client.write(site.target, Lba(1000), &data)?;
        client.read(site.target, Lba(1000), &mut data)?;
        pattern.check(1000, &data)?;
    }
    let dropped = dropped()?;
    println!("{dropped} of {} dropped; {:?}", 50 * 100, site.counters()?);
    assert!(dropped > 1000, "it was greedy: {dropped}");
    drop(client);
    site.close()
}
