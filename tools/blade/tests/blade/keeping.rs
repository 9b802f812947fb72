//! What must outlive the process does, and what is damaged keeps it from starting.

use std::fs;
use std::path::Path;

use sandrail_lab::{Lab, Side};
use sandrail_node::EpochReservation;
use sandrail_wire::MacAddr;
use sandrail_wire::aoe::{
    ConfigCommand, DirectiveCommand, MASK_DIRECTIVE_BYTES, MaskDirectives, ReserveCommand,
};

use crate::bed::{BLADE, Station, lab, options, possible, target_status};

/// A mask edit that adds these.
fn adding(macs: &[MacAddr]) -> Vec<u8> {
    let mut bytes = vec![0; macs.len() * MASK_DIRECTIVE_BYTES];
    let directives: Vec<_> = macs
        .iter()
        .map(|mac| (DirectiveCommand::Add, *mac))
        .collect();
    MaskDirectives::encode(&directives, &mut bytes).unwrap();
    bytes
}

#[test]
fn config_string_mask_and_reservation_survive_a_kill() {
    if !possible("config_string_mask_and_reservation_survive_a_kill") {
        return;
    }
    let lab = lab(1);
    let state = lab.folder().unwrap().join("state");
    let mut blade = lab
        .blade(
            options()
                .export("e7.3", "ram:1M")
                .export("e7.4", "ram:1M")
                .state_dir(&state)
                .args(["--link", "packet"]),
        )
        .unwrap();
    let (own, other) = (
        MacAddr(lab.mac(Side::Initiator).0),
        MacAddr([2, 0, 0, 0, 0, 0x77]),
    );
    let mut station = Station::new(&lab);
    let target = station.attach("e7.3");
    let client = &mut station.client;
    client
        .config(target, ConfigCommand::SetIfEmpty, b"a string\0\xff")
        .unwrap();
    client.mask_edit(target, &adding(&[own, other])).unwrap();
    client.reserve_by_epoch(target, 41, &[own, other]).unwrap();
    drop(station);
    for round in 0..2 {
        blade.kill().unwrap();
        blade.restart().unwrap();
        let mut station = Station::new(&lab);
        let target = station.attach("e7.3");
        let client = &mut station.client;
        let string = client.config(target, ConfigCommand::Read, b"").unwrap();
        assert_eq!(string, b"a string\0\xff", "round {round}");
        assert_eq!(client.mask_read(target).unwrap(), [own, other]);
        assert_eq!(
            client.reserve(target, ReserveCommand::Read, &[]).unwrap(),
            [own, other]
        );
        // The epoch was kept, too: an older one does not turn the clock back (S8).
        let stale = client.reserve_by_epoch(target, 40, &[own]).unwrap_err();
        assert!(stale.to_string().contains("41"), "{stale}");
        let same = client.reserve_by_epoch(target, 41, &[own, other]).unwrap();
        assert_eq!(
            same,
            EpochReservation {
                epoch: 41,
                macs: vec![own, other]
            }
        );
        let neighbour = station.attach("e7.4");
        assert_eq!(
            station
                .client
                .reserve(neighbour, ReserveCommand::Read, &[])
                .unwrap(),
            []
        );
    }
    let status = target_status(&blade, "e7.3");
    assert_eq!(
        (&status["epoch"], &status["persistent"]),
        (&41.into(), &true.into())
    );
}

/// Tries to start in the lab; what it said, and its exit code.
fn start(lab: &Lab, state: &Path, addr: &str) -> (String, Option<i32>) {
    let output = lab
        .command(Side::Target, BLADE)
        .args([
            "-i",
            "san1",
            "--link",
            "packet",
            "-e",
            &format!("{addr}=ram:1M"),
        ])
        .arg("--state-dir")
        .arg(state)
        .output()
        .unwrap();
    assert!(output.stdout.is_empty(), "it must not become ready");
    (
        String::from_utf8_lossy(&output.stderr).into_owned(),
        output.status.code(),
    )
}

#[test]
fn damaged_newer_or_foreign_states_and_a_folder_in_use_keep_it_from_starting() {
    if !possible("damaged_newer_or_foreign_states_and_a_folder_in_use_keep_it_from_starting") {
        return;
    }
    let lab = lab(1);
    let state = lab.folder().unwrap().join("state");
    let serving = options()
        .export("e7.3", "ram:1M")
        .state_dir(&state)
        .args(["--link", "packet"]);
    let mut blade = lab.blade(serving).unwrap();
    let mut station = Station::new(&lab);
    let target = station.attach("e7.3");
    station
        .client
        .config(target, ConfigCommand::ForceSet, b"x")
        .unwrap();
    let (said, code) = start(&lab, &state, "e7.3");
    assert!(said.contains("in use by another sandrail-blade"), "{said}");
    assert_eq!(code, Some(3));
    blade.kill().unwrap();
    let path = state.join("e7.3.state");
    let good = fs::read(&path).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    for (bytes, says) in [
        (flipped, "is damaged"),
        (good[..good.len() / 2].to_vec(), "is damaged"),
        (Vec::new(), "is damaged"),
        (
            text.replacen("state 2", "state 9", 1).into_bytes(),
            "version 9",
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        let (said, code) = start(&lab, &state, "e7.3");
        assert!(said.contains(says) && said.contains("e7.3.state"), "{said}");
        assert_eq!(code, Some(3), "{said}");
    }
    fs::write(&path, &good).unwrap();
    fs::copy(&path, state.join("e7.5.state")).unwrap();
    let (said, code) = start(&lab, &state, "e7.5");
    assert!(said.contains("is the state of e7.3, not of e7.5"), "{said}");
    assert_eq!(code, Some(3));
    blade.restart().unwrap();
    assert_eq!(target_status(&blade, "e7.3")["config_string"], "x");
}

#[test]
fn without_a_folder_it_says_what_it_will_forget() {
    if !possible("without_a_folder_it_says_what_it_will_forget") {
        return;
    }
    let lab = lab(1);
    let blade = lab
        .blade(
            options()
                .export("e7.3", "ram:1M")
                .args(["--link", "packet"]),
        )
        .unwrap();
    let said = blade.output();
    assert!(
        said.contains("no --state-dir") && said.contains("reservations"),
        "{said}"
    );
    assert_eq!(target_status(&blade, "e7.3")["persistent"], false);
}

#[test]
fn a_change_that_cannot_be_made_durable_is_refused() {
    if !possible("a_change_that_cannot_be_made_durable_is_refused") {
        return;
    }
    let lab = lab(1);
    let state = lab.folder().unwrap().join("state");
    let serving = options()
        .export("e7.3", "ram:1M")
        .state_dir(&state)
        .args(["--link", "packet"]);
    let blade = lab.blade(serving).unwrap();
    let mut station = Station::new(&lab);
    let target = station.attach("e7.3");
    let client = &mut station.client;
    client
        .config(target, ConfigCommand::ForceSet, b"before")
        .unwrap();
    // Whoever looks at a running blade's settings and state disturbs nobody.
    let look = lab
        .command(Side::Target, BLADE)
        .args(["--check", "-i", "san1", "-e", "e7.3=ram:1M", "--state-dir"])
        .arg(&state)
        .output()
        .unwrap();
    assert!(look.status.success(), "{look:?}");

    fs::rename(&state, state.with_extension("gone")).unwrap();
    let own = MacAddr(lab.mac(Side::Initiator).0);
    client
        .config(target, ConfigCommand::ForceSet, b"after")
        .unwrap_err();
    client
        .reserve(target, ReserveCommand::Set, &[own])
        .unwrap_err();
    assert!(
        blade.output().contains("the state is not durable"),
        "{}",
        blade.output()
    );
    // The folder is back: so are changes.
    fs::rename(state.with_extension("gone"), &state).unwrap();
    client
        .config(target, ConfigCommand::ForceSet, b"again")
        .unwrap();
    let kept = fs::read_to_string(state.join("e7.3.state")).unwrap();
    assert!(
        kept.contains("616761696e"),
        "`again` in hexadecimal: {kept}"
    );
}
