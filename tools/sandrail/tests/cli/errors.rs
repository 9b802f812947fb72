//! Every refusal names what is wrong, and has its exit code.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sandrail_lab::{LinkState, Side};
use sandrail_link::Link;
use sandrail_link::packet::{PacketConfig, PacketLink};
use sandrail_node::clock;
use sandrail_wire::aoe::{Body, ConfigRepr, Repr};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, MacAddr, TargetAddr};

use crate::run::{SANDRAIL, sandrail, start, until_exits};
use crate::san::{Folder, LINKS, San, noise, possible};

const IO: i32 = 1;
const USAGE: i32 = 2;
pub(crate) const ENVIRONMENT: i32 = 3;
const TARGET: i32 = 4;
const WARNING: i32 = 5;

#[test]
fn a_missing_interface_is_named() {
    for verb in [
        &["discover"][..],
        &["stat", "7.3"],
        &["read", "7.3", "-o", "/dev/null"],
        &["write", "7.3", "-f", "/etc/hostname", "--pad"],
        &["capture", "-o", "/dev/null"],
    ] {
        for link in LINKS {
            let args = [&["-i", "nosuch0", "--link", link], verb].concat();
            sandrail(&args)
                .exits(ENVIRONMENT)
                .says(&["interface nosuch0 does not exist"]);
        }
    }
    let ended = sandrail(&["--json", "-i", "nosuch0", "discover"]).exits(ENVIRONMENT);
    let value = ended.json();
    assert_eq!(value["exit_code"], ENVIRONMENT);
    assert!(
        value["error"].as_str().unwrap().contains("nosuch0"),
        "{value}"
    );
    sandrail(&["-i", "nosuch0", "doctor"]).exits(ENVIRONMENT);
}

#[test]
fn command_lines_that_make_no_sense_are_refused() {
    for (args, words) in [
        (&["discover"][..], "name an interface"),
        (&["-i", "lo", "stat", "7"], "not a target"),
        (&["-i", "lo", "stat", "e7.300"], "not a target"),
        (&["-i", "lo", "--shards", "17", "discover"], "17"),
        (&["-i", "lo", "--vlan", "4095", "discover"], "no VLAN"),
        (&["-i", "lo", "--queues", "some", "discover"], "no plan"),
        (&["-i", "lo", "--queues", "each:x", "discover"], "no plan"),
        (&["-i", "lo", "--mac", "02:00", "discover"], "02:00"),
        (&["-i", "lo", "--link", "dpdk", "discover"], "dpdk"),
        (
            &["-i", "lo", "--timeout", "0", "discover"],
            "0 s is outside",
        ),
        (
            &["-i", "lo", "read", "7.3", "--bytes", "700"],
            "multiple of 512",
        ),
        (&["-i", "lo", "read", "7.3", "--block", "700"], "--block"),
        (&["-i", "lo", "read", "7.3", "--depth", "0"], "depth"),
        (
            &["-i", "lo", "write", "7.3", "-f", "/no/such/file"],
            "/no/such/file",
        ),
        (&["-i", "lo", "write", "7.3", "-f", "/"], "directory"),
        (&["demo", "--size", "700"], "--size"),
        (&["unknown-verb"], "unknown-verb"),
    ] {
        sandrail(args).exits(USAGE).says(&[words]);
    }
}

#[test]
fn the_loopback_is_no_ethernet() {
    let ended = sandrail(&["-i", "lo", "discover"]);
    assert!(
        ended.err.contains("lo is not an Ethernet interface"),
        "{}",
        ended.err
    );
    ended.exits(ENVIRONMENT);
}

#[test]
fn an_interface_that_is_down_is_named_with_its_remedy() {
    if !possible("an_interface_that_is_down_is_named_with_its_remedy") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    san.lab.set_link(Side::Initiator, LinkState::Down).unwrap();
    for link in LINKS {
        san.run(&["--link", link, "discover"])
            .exits(ENVIRONMENT)
            .says(&["san0 is down", "ip link set san0 up"]);
    }
    let value = san.run(&["--json", "doctor"]).exits(ENVIRONMENT).json();
    assert_eq!(value["worst"], "FAIL");
}

#[test]
fn the_default_routes_interface_is_refused_unless_forced() {
    if !possible("the_default_routes_interface_is_refused_unless_forced") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    san.ip("route add default via 10.83.0.2 dev san0");
    san.run(&["discover"]).exits(ENVIRONMENT).says(&[
        "san0 carries the default route (IPv4)",
        "--force-default-route",
    ]);
    san.run(&["capture", "-o", "/dev/null"]).exits(ENVIRONMENT);
    san.run(&["--force-default-route", "discover"]).exits(0);
    let greedy = [
        "--force-default-route",
        "read",
        "7.3",
        "--depth",
        "1024",
        "--block",
        "1M",
    ];
    san.run(&greedy)
        .exits(USAGE)
        .says(&["--depth", "more than 1 GiB"]);
}

#[test]
fn a_target_that_is_not_there_is_told_soon() {
    if !possible("a_target_that_is_not_there_is_told_soon") {
        return;
    }
    let mut san = San::new(1500, 1 << 20);
    for link in LINKS {
        let begin = Instant::now();
        for wrong in ["7.4", "8.3"] {
            san.run(&["--link", link, "stat", wrong])
                .exits(TARGET)
                .says(&[&format!("e{wrong} on san0"), "nobody answers"]);
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{:?}",
            begin.elapsed()
        );
    }
    san.run(&["stat", "65535.255"])
        .exits(USAGE)
        .says(&["wildcard"]);
    let wrong_mac = ["--mac", "02:00:00:00:00:77", "--timeout", "1"];
    san.run(&[&wrong_mac[..], &["stat", "7.3"]].concat())
        .exits(TARGET)
        .says(&["nobody answers"]);
    san.target.kill().unwrap();
    san.run(&["discover", "--wait", "0.3"])
        .exits(TARGET)
        .says(&["nobody answered", "san0"]);
}

#[test]
fn ranges_past_the_end_are_refused_by_numbers() {
    if !possible("ranges_past_the_end_are_refused_by_numbers") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    for args in [
        &["--lba", "2047", "--sectors", "2"][..],
        &["--lba", "2048", "--sectors", "1"],
        &["--lba", "2048"],
        &["--lba", "18446744073709551615", "--sectors", "2"],
        &["--bytes", "2M"],
    ] {
        let args = [&["read", "7.3", "-o", "/dev/null"], args].concat();
        san.run(&args)
            .exits(USAGE)
            .says(&["past the end", "2048 sectors", "1048576 bytes"]);
    }
    san.run(&["read", "7.3", "--lba", "2047", "-o", "/dev/null"])
        .exits(0);
    let one = san.folder.with("one", &noise(1, 512));
    san.run(&["write", "7.3", "--lba", "2048", "-f", &one])
        .exits(USAGE)
        .says(&["past the end"]);
}

#[test]
fn a_file_that_does_not_fit_is_refused_before_anything_is_written() {
    if !possible("a_file_that_does_not_fit_is_refused_before_anything_is_written") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    let big = san.folder.with("big", &noise(1, (1 << 20) + 512));
    for (args, file, room) in [
        (&[][..], "1049088 bytes", "1048576 bytes"),
        (&["--lba", "8"], "1049088 bytes", "1044480 bytes"),
    ] {
        let args = [&["write", "7.3", "-f", &big], args].concat();
        san.run(&args)
            .exits(USAGE)
            .says(&[file, room, "nothing was written", &big]);
    }
    let odd = san.folder.with("odd", &noise(2, 1000));
    san.run(&["write", "7.3", "-f", &odd]).exits(USAGE).says(&[
        "1000 bytes",
        "--pad",
        "nothing was written",
    ]);
    let empty = san.folder.with("empty", b"");
    san.run(&["write", "7.3", "-f", &empty])
        .exits(USAGE)
        .says(&["empty"]);
    assert!(
        san.content().iter().all(|byte| *byte == 0),
        "something was written"
    );
}

#[test]
fn a_pipe_that_does_not_fit_fails_where_the_device_ends() {
    if !possible("a_pipe_that_does_not_fit_fails_where_the_device_ends") {
        return;
    }
    let san = San::new(9000, 1 << 20);
    let data = noise(3, (1 << 20) + 1);
    let mut running = san.start(&["write", "7.3", "--pad"]);
    running.send(&data);
    running.close_input();
    running.wait().exits(IO).says(&["goes on after 1 MiB"]);
    assert!(
        san.content() == data[..1 << 20],
        "what came before was to be written"
    );
    let mut running = san.start(&["write", "7.3"]);
    running.send(&data[..700]);
    running.close_input();
    running.wait().exits(USAGE).says(&["700 bytes", "--pad"]);
}

#[test]
fn without_privilege_the_missing_capability_is_named() {
    if !possible("without_privilege_the_missing_capability_is_named") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    let folder = Folder::new();
    // The build's folder may be closed to others.
    let copy = folder.file("sandrail");
    fs::copy(SANDRAIL, &copy).unwrap();
    for link in LINKS {
        let mut command: Command = san.lab.command(Side::Initiator, "setpriv");
        command
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--bounding-set=-all",
                &copy,
            ])
            .args(["-i", "san0", "--link", link, "discover"]);
        start(&mut command, false)
            .wait()
            .exits(ENVIRONMENT)
            .says(&["san0", "CAP_NET_RAW", "root"]);
    }
}

#[test]
fn a_station_in_use_is_not_used_twice() {
    if !possible("a_station_in_use_is_not_used_twice") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    let file = san.folder.file("a.pcapng");
    let mut holder = san.start(&["capture", "-o", &file, "--seconds", "600", "--discover"]);
    let begin = Instant::now();
    // The first frame in the file tells that it is at work.
    while fs::metadata(&file).map_or(0, |meta| meta.len()) < 200 {
        assert!(holder.runs() && begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = holder.pid().to_string();
    san.run(&["--link", "packet", "discover"])
        .exits(ENVIRONMENT)
        .says(&["in use", &pid]);
    san.run(&["--link", "xdp", "discover"])
        .exits(ENVIRONMENT)
        .says(&["san0 has an XDP program attached already"]);
    let value = san.run(&["--json", "doctor"]).exits(ENVIRONMENT).json();
    let attached = value["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["what"] == "san0: attached")
        .unwrap();
    assert_eq!(attached["level"], "FAIL", "{attached}");
    let killed = Command::new("kill").arg(&pid).status().unwrap();
    assert!(killed.success());
    holder.wait();
}

/// Sets the flag when it goes, also by a failed assertion.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers queries for `e7.3` with another station's address, as a second disk with the same number would.
fn impostor(mac: MacAddr, ended: &AtomicBool) {
    let mut link = PacketLink::open(&PacketConfig::new("san1")).unwrap();
    while !ended.load(Ordering::Relaxed) {
        let mut answers = Vec::new();
        link.receive(clock::now(), 16, &mut |frame| {
            let Ok((ethernet, length)) = EthernetRepr::parse(frame.head()) else {
                return;
            };
            let Ok(request) = Repr::parse(&frame.head()[length..]) else {
                return;
            };
            if !matches!(request.body, Body::Config(_)) || request.response {
                return;
            }
            let answer = Repr {
                response: true,
                addr: TargetAddr { shelf: 7, slot: 3 },
                body: Body::Config(ConfigRepr {
                    buffer_count: 16,
                    sectors_max: 2,
                    aoe_version: 1,
                    ..ConfigRepr::request(sandrail_wire::aoe::ConfigCommand::Read, b"")
                }),
                ..request
            };
            let header = EthernetRepr {
                dst: ethernet.src,
                src: mac,
                vlans: [None; 2],
                ethertype: EtherType::AOE,
            };
            let mut bytes = vec![0; header.header_len() + answer.len_bytes()];
            let length = header.emit(&mut bytes).unwrap();
            answer.emit(&mut bytes[length..]).unwrap();
            answers.push(bytes);
        });
        for answer in answers {
            // At most one header's length: the answer carries no string.
            link.transmit(clock::now(), &answer, &[]).unwrap();
        }
        link.flush(clock::now());
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn two_stations_with_one_number_raise_an_alarm_and_are_not_guessed_between() {
    if !possible("two_stations_with_one_number_raise_an_alarm_and_are_not_guessed_between") {
        return;
    }
    let san = San::new(1500, 1 << 20);
    let false_mac = MacAddr([0x02, 0, 0, 0, 0, 0x66]);
    let true_mac = san.lab.mac(Side::Target).to_string();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (lab, end) = (&san.lab, Ending(&ended));
        scope.spawn(|| {
            lab.enter(Side::Target, || impostor(false_mac, &ended))
                .unwrap()
        });
        let found = until_exits(WARNING, || san.run(&["discover"]));
        assert!(
            found.text().contains("ALARM: e7.3") && found.text().contains(&false_mac.to_string()),
            "{}",
            found.text()
        );
        let value = until_exits(WARNING, || san.run(&["--json", "discover"])).json();
        assert_eq!(value["conflicts"][0]["macs"].as_array().unwrap().len(), 2);
        until_exits(TARGET, || san.run(&["stat", "7.3"])).says(&[
            "pin the right one",
            &false_mac.to_string(),
            &true_mac,
        ]);
        san.run(&["--mac", &true_mac, "stat", "7.3"]).exits(0);
        drop(end);
    });
}
