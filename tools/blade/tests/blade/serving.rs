//! The blade serves the real initiator, over every kind of link, and starts and ends cleanly.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use sandrail_lab::{Lab, Side};
use sandrail_node::links::LinkChoice;
use sandrail_proto::aoe::initiator::Durability;

use crate::bed::{PATIENCE, Station, lab, noise, options, possible, target_status};

/// Of each target and link.
const DATA_BYTES: usize = 8 << 20;

fn data_over(lab: &Lab, link: &str, choice: LinkChoice) {
    let folder = lab.folder().unwrap();
    let file = folder.join(format!("{link}.disk"));
    let blade = lab
        .blade(
            options()
                .export("e7.3", "ram:16M")
                .export("e7.4", &format!("{},create=16M,offset=1M", file.display()))
                .args(["--link", link, "--mtu-check", "9000"]),
        )
        .unwrap();
    let mut station = Station::over(lab, choice, 1);
    for (seed, addr) in [(1, "e7.3"), (2, "e7.4")] {
        let target = station.attach(addr);
        let data = noise(seed, DATA_BYTES);
        station.verify(target, 8, &data);
        let promised = station.client.flush(target).unwrap();
        let on_file = addr == "e7.4";
        assert_eq!(
            promised == Durability::Claimed,
            on_file,
            "{addr}: {promised:?}"
        );
        if on_file {
            let content = std::fs::read(&file).unwrap();
            assert!(
                content[(1 << 20) + 4096..][..DATA_BYTES] == data,
                "the file has what was flushed"
            );
        }
    }
    let status = target_status(&blade, "e7.4");
    assert_eq!(status["durability"], "flush");
    assert_eq!(status["sectors"], (15 << 20) / 512);
    let mode =
        crate::bed::ask(&blade, r#"{"verb":"status"}"#)["cores"][0]["links"][0]["mode"].clone();
    assert!(
        mode.as_str().unwrap().starts_with(link),
        "{mode} for {link}"
    );
}

#[test]
fn data_over_packet_sockets() {
    if possible("data_over_packet_sockets") {
        data_over(&lab(1), "packet", LinkChoice::Packet);
    }
}

#[test]
fn data_over_generic_xdp() {
    if possible("data_over_generic_xdp") {
        data_over(&lab(1), "xdp-generic", LinkChoice::XdpGeneric);
    }
}

#[test]
fn data_over_native_xdp() {
    if possible("data_over_native_xdp") {
        data_over(&lab(1), "xdp-native", LinkChoice::XdpNative);
    }
}

fn xdp_attached(lab: &Lab) -> bool {
    let output = lab
        .command(Side::Target, "ip")
        .args(["-details", "link", "show", lab.interface(Side::Target)])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}

#[test]
fn it_starts_and_ends_again_and_again_and_leaves_nothing() {
    if !possible("it_starts_and_ends_again_and_again_and_leaves_nothing") {
        return;
    }
    let lab = lab(1);
    let folder = lab.folder().unwrap();
    let told = UnixDatagram::bind(folder.join("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut bytes = [0; 64];
        let len = told.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    let mut blade = lab
        .blade(
            options()
                .export(
                    "e7.3",
                    &format!("{},create=1M", folder.join("disk").display()),
                )
                .state_dir(&folder.join("state"))
                .args(["--link", "xdp-generic"])
                .env("NOTIFY_SOCKET", folder.join("notify").to_str().unwrap()),
        )
        .unwrap();
    for round in 0..3 {
        assert_eq!(next(), "READY=1");
        assert!(
            xdp_attached(&lab),
            "the steering program is attached while it runs"
        );
        let mut station = Station::new(&lab);
        let target = station.attach("e7.3");
        if round > 0 {
            assert!(
                station.read(target, 0, 4096) == noise(round - 1, 4096),
                "round {round}"
            );
        }
        station.verify(target, 0, &noise(round, 4096));
        let status = blade.stop().unwrap();
        assert!(status.success(), "{status}: {}", blade.output());
        assert_eq!(next(), "STOPPING=1");
        assert!(!xdp_attached(&lab), "and not afterwards");
        assert!(!blade.control_socket().exists(), "its socket is gone");
        blade.restart().unwrap();
    }
    // SIGKILL leaves the socket behind, which the next start replaces.
    blade.kill().unwrap();
    assert!(
        !xdp_attached(&lab),
        "the kernel detaches what a killed process had attached"
    );
    blade.restart().unwrap();
    Station::new(&lab).attach("e7.3");
    blade.pause().unwrap();
    blade.resume().unwrap();
    assert!(blade.is_running());
}

#[test]
fn a_file_that_grows_is_seen() {
    if !possible("a_file_that_grows_is_seen") {
        return;
    }
    let lab = lab(1);
    let disk = lab.folder().unwrap().join("disk");
    let blade = lab
        .blade(
            options()
                .export("e7.3", &format!("{},create=1M", disk.display()))
                .args(["--link", "packet"]),
        )
        .unwrap();
    let grown = Command::new("truncate")
        .args(["-s", "3M"])
        .arg(&disk)
        .status()
        .unwrap();
    assert!(grown.success());
    let answer = crate::bed::ask(&blade, r#"{"verb":"refresh"}"#);
    assert!(answer["changed"].as_u64() <= Some(1), "{answer}");
    let deadline = std::time::Instant::now() + PATIENCE;
    while target_status(&blade, "e7.3")["sectors"] != 6144 {
        assert!(std::time::Instant::now() < deadline, "{}", blade.output());
    }
    let mut station = Station::new(&lab);
    let target = station.attach("e7.3");
    station.verify(target, 4096, &noise(1, 4096));
}
