//! The blade serves the real initiator, over every kind of link, and starts and ends cleanly.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use sandrail_lab::{Lab, Side};
use sandrail_node::links::LinkChoice;
use sandrail_proto::aoe::initiator::{Durability, PinnedMacs};

use sandrail_wire::aoe::ReserveCommand;
use sandrail_wire::{Lba, MacAddr, VlanTag};

use crate::bed::{PATIENCE, Station, lab, noise, options, possible, target_status};

/// Of each target and link.
const DATA_BYTES: usize = 8 << 20;

fn data_over(lab: &Lab, link: &str, choice: LinkChoice) {
    data_over_mode(lab, &["--link", link], link, choice);
}

/// `mode` is how the status begins to tell of the link.
fn data_over_mode(lab: &Lab, args: &[&str], mode: &str, choice: LinkChoice) {
    let folder = lab.folder().unwrap();
    let file = folder.join("served.disk");
    let blade = lab
        .blade(
            options()
                .export("e7.3", "ram:16M")
                .export("e7.4", &format!("{},create=16M,offset=1M", file.display()))
                .args(args.iter().copied())
                .args(["--mtu-check", "9000"]),
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
    let told =
        crate::bed::ask(&blade, r#"{"verb":"status"}"#)["cores"][0]["links"][0]["mode"].clone();
    assert!(
        told.as_str().unwrap().starts_with(mode),
        "{told} for {args:?}"
    );
}

#[test]
fn data_over_packet_sockets() {
    if possible("data_over_packet_sockets") {
        // Rings, unless told otherwise.
        let args = ["--link", "packet"];
        data_over_mode(&lab(1), &args, "packet ring", LinkChoice::Packet);
    }
}

#[test]
fn data_over_packet_sockets_without_rings() {
    if possible("data_over_packet_sockets_without_rings") {
        let args = ["--link", "packet", "--packet-mode", "mmsg"];
        data_over_mode(&lab(1), &args, "packet mmsg", LinkChoice::Packet);
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

fn ip(lab: &Lab, side: Side, line: &str) {
    let words = line.split_ascii_whitespace();
    let status = lab.command(side, "ip").args(words).status().unwrap();
    assert!(status.success(), "ip {line}");
}

#[test]
fn two_interfaces_are_two_paths() {
    if !possible("two_interfaces_are_two_paths") {
        return;
    }
    let lab = lab(1);
    let far = lab.namespace(Side::Target);
    let second =
        format!("link add name san2 mtu 9000 type veth peer name san3 netns {far} mtu 9000");
    ip(&lab, Side::Initiator, &second);
    ip(&lab, Side::Initiator, "link set san2 up");
    ip(&lab, Side::Target, "link set san3 up");
    let blade = lab
        .blade(options().export("e7.3", "ram:8M").args([
            "--interface",
            "san3",
            "--link",
            "xdp-generic",
        ]))
        .unwrap();
    let mut station = Station::on(&lab, &["san0", "san2"], LinkChoice::Packet, 1, None);
    let status = crate::bed::ask(&blade, r#"{"verb":"status"}"#);
    let macs = [0, 1].map(|place| {
        let mac = &status["cores"][0]["links"][place]["mac"];
        mac.as_str().unwrap().parse::<MacAddr>().unwrap()
    });
    let pinned = PinnedMacs::new(&macs).unwrap();
    let target = station
        .node()
        .attach("e7.3".parse().unwrap(), pinned, PATIENCE)
        .unwrap();
    let paths = || station.node().target(target).unwrap().unwrap().paths;
    let deadline = std::time::Instant::now() + PATIENCE;
    while paths().iter().flatten().count() < 2 {
        assert!(std::time::Instant::now() < deadline, "{:?}", paths());
        std::thread::yield_now();
    }
    station.verify(target, 0, &noise(1, 4 << 20));
    let status = crate::bed::ask(&blade, r#"{"verb":"status"}"#);
    for (place, name) in ["san1", "san3"].into_iter().enumerate() {
        let link = &status["cores"][0]["links"][place];
        assert_eq!(link["interface"], name, "{status}");
        assert!(link["counters"]["rx_frames"].as_u64() > Some(10), "{link}");
    }
}

#[test]
fn tagged_frames_are_served_to_their_vlan_only() {
    if !possible("tagged_frames_are_served_to_their_vlan_only") {
        return;
    }
    let lab = lab(1);
    for link in ["xdp-generic", "packet"] {
        let serving = options()
            .export("e7.3", "ram:8M")
            .args(["--link", link, "--vlan", "7"]);
        let blade = lab.blade(serving).unwrap();
        let tag = |id| VlanTag::new(id, 0);
        let station = |vlan| Station::on(&lab, &["san0"], LinkChoice::Packet, 1, vlan);
        for stranger in [tag(8), None] {
            let found = station(stranger)
                .node()
                .discover(Duration::from_millis(200))
                .unwrap();
            assert!(found.is_empty(), "{stranger:?} over {link}: {found:?}");
        }
        let mut member = station(tag(7));
        let target = member.attach("e7.3");
        member.verify(target, 0, &noise(1, 1 << 20));
        let frames = crate::bed::ask(&blade, r#"{"verb":"status"}"#)["cores"][0]["frames"].clone();
        assert!(frames["rx_other_vlan"].as_u64() >= Some(2), "{frames}");
    }
}

#[test]
fn targets_are_what_their_exports_say() {
    if !possible("targets_are_what_their_exports_say") {
        return;
    }
    let lab = lab(1);
    let _blade = lab
        .blade(
            options()
                .export(
                    "e7.3",
                    "ram:1M,model=Proof,serial=4711,sectors-max=8,force-set=refuse",
                )
                .export("e7.4", "ram:1M,read-only")
                .args(["--link", "packet", "--buffer-count", "17"]),
        )
        .unwrap();
    let mut station = Station::new(&lab);
    let target = station.attach("e7.3");
    let info = station.node().target(target).unwrap().unwrap();
    assert_eq!(info.identify.model.to_string().trim_end(), "Proof");
    assert_eq!(info.identify.serial.to_string().trim_end(), "4711");
    assert_eq!((info.sectors_max, info.buffer_count), (8, 17));
    let other = MacAddr([2, 0, 0, 0, 0, 0x55]);
    let client = &mut station.client;
    client
        .reserve(target, ReserveCommand::ForceSet, &[other])
        .unwrap_err();
    assert_eq!(
        client.reserve(target, ReserveCommand::Read, &[]).unwrap(),
        []
    );
    let sealed = station.attach("e7.4");
    station.client.write(sealed, Lba(0), &[1; 512]).unwrap_err();
    assert!(station.read(sealed, 0, 512).iter().all(|byte| *byte == 0));
}

#[test]
fn an_orderly_end_in_a_write_storm_keeps_everything_acknowledged() {
    if !possible("an_orderly_end_in_a_write_storm_keeps_everything_acknowledged") {
        return;
    }
    let lab = lab(1);
    let disk = lab.folder().unwrap().join("disk");
    // Whatever is not flushed at the end is lost with the process.
    let mut blade = lab
        .blade(
            options()
                .export("e7.3", &format!("{},create=16M,power-cut", disk.display()))
                .args(["--link", "xdp-generic"]),
        )
        .unwrap();
    let mut station = Station::new(&lab);
    let target = station.attach("e7.3");
    station
        .client
        .set_request_timeout(Duration::from_millis(500));
    const PIECE_BYTES: usize = 32 << 10;
    let storm = std::thread::spawn(move || {
        let pieces = (0_u64..).map(|seed| (seed, noise(seed, PIECE_BYTES)));
        let written = pieces.take_while(|(seed, data)| {
            let lba = seed % 512 * 64;
            station.client.write(target, Lba(lba), data).is_ok()
        });
        written.count()
    });
    while target_status(&blade, "e7.3")["counters"]["writes"].as_u64() < Some(200) {
        assert!(!storm.is_finished(), "{}", blade.output());
    }
    let status = blade.stop().unwrap();
    assert!(status.success(), "{status}: {}", blade.output());
    let acknowledged = storm.join().unwrap();
    let content = std::fs::read(&disk).unwrap();
    // The last one of each place, but for the one after them, which may or may not have been written.
    let next = acknowledged % 512;
    for place in (0..512.min(acknowledged)).filter(|place| *place != next) {
        let last = place + (acknowledged - 1 - place) / 512 * 512;
        let seed = u64::try_from(last).unwrap();
        assert!(
            content[place * PIECE_BYTES..][..PIECE_BYTES] == noise(seed, PIECE_BYTES),
            "write {last} of {acknowledged} is not in the file"
        );
    }
}
