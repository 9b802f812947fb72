//! A lab is made, works, and leaves nothing behind, however its owner ends.
//!
//! Every test uses a prefix of its own, so that tests that run at once do not sweep each other's leftovers.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sandrail_lab::{Lab, LabError, LinkState, Side, Vblade, VbladeOptions, can_run, may_run};

const PREFIX_VARIABLE: &str = "SANDRAIL_LAB_TEST_PREFIX";

fn supported(test: &str) -> bool {
    can_run(test, Lab::supported())
}

fn namespaces(prefix: &str) -> Vec<PathBuf> {
    let own = format!("{prefix}-{}-", std::process::id());
    named("/run/netns", &own)
}

fn named(directory: &str, beginning: &str) -> Vec<PathBuf> {
    let entries = Path::new(directory)
        .read_dir()
        .into_iter()
        .flatten()
        .flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning));
    named.map(|entry| entry.path()).collect()
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{what}: not within a minute"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that is no more, or waits to be reaped by its parent.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ")
}

fn link_text(lab: &Lab, side: Side, interface: &str) -> String {
    let output = lab
        .command(side, "ip")
        .args(["-d", "link", "show", "dev", interface])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn both_sides_have_what_was_asked_for() {
    if !supported("both_sides_have_what_was_asked_for") {
        return;
    }
    let lab = Lab::builder()
        .name_prefix("lab-asked")
        .mtu(9000)
        .queues(2)
        .build()
        .unwrap();
    for side in [Side::Initiator, Side::Target] {
        let text = link_text(&lab, side, lab.interface(side));
        for wanted in ["mtu 9000", "state UP", "numtxqueues 2", "numrxqueues 2"] {
            assert!(text.contains(wanted), "{side:?} lacks `{wanted}`: {text}");
        }
        assert!(
            text.contains(&lab.mac(side).to_string()),
            "{side:?}: {text}"
        );
        let channels = lab
            .command(side, "ethtool")
            .args(["-l", lab.interface(side)])
            .output()
            .unwrap();
        let channels = String::from_utf8(channels.stdout).unwrap();
        let current = channels.split("Current hardware settings").nth(1).unwrap();
        assert!(
            current.contains("RX:\t\t2") && current.contains("TX:\t\t2"),
            "{side:?}: {channels}"
        );
        let offloads = lab
            .command(side, "ethtool")
            .args(["-k", lab.interface(side)])
            .output()
            .unwrap();
        let offloads = String::from_utf8(offloads.stdout).unwrap();
        assert!(
            offloads.contains("tx-vlan-offload: off"),
            "{side:?}: {offloads}"
        );
        assert!(
            offloads.contains("tx-vlan-stag-hw-insert: off"),
            "{side:?}: {offloads}"
        );
    }
    assert_ne!(lab.mac(Side::Initiator), lab.mac(Side::Target));
    lab.close().unwrap();
    assert_eq!(namespaces("lab-asked"), Vec::<PathBuf>::new());
}

#[test]
fn pings_pass_and_a_cut_wire_loses_them() {
    if !supported("pings_pass_and_a_cut_wire_loses_them") {
        return;
    }
    let lab = Lab::builder().name_prefix("lab-ping").build().unwrap();
    let stats = lab.ping(5).unwrap();
    assert_eq!((stats.sent, stats.received), (5, 5));
    assert!(
        stats.rtt_mean.is_some() && stats.rtt_mean <= stats.rtt_max,
        "{stats:?}"
    );

    lab.set_link(Side::Target, LinkState::Down).unwrap();
    until("the lost carrier is noticed", || {
        link_text(&lab, Side::Initiator, "san0").contains("NO-CARRIER")
    });
    let stats = lab.ping(2).unwrap();
    assert_eq!((stats.received, stats.lost()), (0, stats.sent), "{stats:?}");

    lab.set_link(Side::Target, LinkState::Up).unwrap();
    until("pings pass again", || lab.ping(1).unwrap().received == 1);
}

#[test]
fn the_wire_is_silent_until_somebody_speaks() {
    if !supported("the_wire_is_silent_until_somebody_speaks") {
        return;
    }
    let lab = Lab::builder().name_prefix("lab-silent").build().unwrap();
    // Router solicitations and duplicate address detection would come within a second or two of the link's coming up.
    std::thread::sleep(Duration::from_millis(2500));
    for side in [Side::Initiator, Side::Target] {
        let statistics = |name: &str| {
            let path = format!("/sys/class/net/{}/statistics/{name}", lab.interface(side));
            lab.enter(side, || std::fs::read_to_string(path))
                .unwrap()
                .unwrap()
                .trim()
                .to_owned()
        };
        assert_eq!(
            (statistics("rx_packets"), statistics("tx_packets")),
            ("0".to_owned(), "0".to_owned()),
            "{side:?}"
        );
    }
}

#[test]
fn closures_run_inside_and_the_caller_stays_outside() {
    if !supported("closures_run_inside_and_the_caller_stays_outside") {
        return;
    }
    let lab = Lab::builder().name_prefix("lab-enter").build().unwrap();
    let outside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let inside = lab
        .enter(Side::Initiator, || {
            std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        })
        .unwrap();
    let target = lab
        .enter(Side::Target, || {
            std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        })
        .unwrap();
    assert!(outside != inside && inside != target && outside != target);
    assert_eq!(
        std::fs::read_link("/proc/thread-self/ns/net").unwrap(),
        outside
    );
    // The namespace's /sys must not have replaced the host's.
    assert!(!Path::new("/sys/class/net/san0").exists());

    // A socket made inside goes on working from outside: a datagram from one namespace reaches the other.
    let address = (lab.address(Side::Target), 9);
    let receiver = lab
        .enter(Side::Target, || UdpSocket::bind(address))
        .unwrap()
        .unwrap();
    let sender = lab
        .enter(Side::Initiator, || UdpSocket::bind("0.0.0.0:0"))
        .unwrap()
        .unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    sender.send_to(b"hello", address).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);

    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        lab.enter(Side::Target, || panic!("inside"))
    }));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn entering_a_lab_that_is_gone_is_an_error() {
    if !supported("entering_a_lab_that_is_gone_is_an_error") {
        return;
    }
    let lab = Lab::builder().name_prefix("lab-gone").build().unwrap();
    let deleted = Command::new("ip")
        .args(["netns", "delete", lab.namespace(Side::Target)])
        .status()
        .unwrap();
    assert!(deleted.success());
    let error = lab.enter(Side::Target, || ()).unwrap_err();
    assert!(
        matches!(&error, LabError::Io { action, .. } if action.contains("open namespace")),
        "{error}"
    );
    lab.close().unwrap();
}

/// What a target needs to answer: a packet socket, and its file. That it does answer is for the links to test.
fn assert_serves(target: &Vblade) {
    assert!(target.is_running());
    let descriptors = Path::new("/proc").join(target.pid().to_string()).join("fd");
    let links: Vec<PathBuf> = descriptors
        .read_dir()
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .collect();
    assert!(
        links.iter().any(|link| link == &target.options().file),
        "{links:?}"
    );
    assert!(
        links
            .iter()
            .any(|link| link.to_string_lossy().starts_with("socket:[")),
        "{links:?}"
    );
}

#[test]
fn a_target_runs_pauses_and_comes_back() {
    if !supported("a_target_runs_pauses_and_comes_back") {
        return;
    }
    let lab = Lab::builder()
        .name_prefix("lab-target")
        .mtu(9000)
        .build()
        .unwrap();
    let disk = lab.backing_file(8 << 20).unwrap();
    let mut options = VbladeOptions::new(7, 3, disk.path());
    options.buffer_count = Some(32);
    options.sync = true;
    options.macs = vec![lab.mac(Side::Initiator)];
    let mut target = lab.vblade(options).unwrap();
    assert_serves(&target);

    let state = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
            .unwrap()
    };
    target.pause().unwrap();
    assert_eq!(state(target.pid()), 'T');
    target.resume().unwrap();
    assert_ne!(state(target.pid()), 'T');

    let first = target.pid();
    target.restart().unwrap();
    assert_ne!(target.pid(), first);
    assert!(is_gone(first));
    assert_serves(&target);

    target.kill().unwrap();
    assert!(!target.is_running());
    target.kill().unwrap();
    assert!(matches!(
        target.pause().unwrap_err(),
        LabError::TargetEnded { .. }
    ));
    target.restart().unwrap();
    assert_serves(&target);
    let last = target.pid();
    drop(target);
    assert!(is_gone(last));
}

#[test]
fn a_target_that_cannot_start_says_why() {
    if !supported("a_target_that_cannot_start_says_why") {
        return;
    }
    let lab = Lab::builder().name_prefix("lab-refused").build().unwrap();
    let error = lab
        .vblade(VbladeOptions::new(7, 3, "/nonexistent/disk"))
        .unwrap_err();
    let LabError::TargetEnded { output, .. } = &error else {
        panic!("{error}")
    };
    assert!(output.contains("No such file"), "{error}");
}

#[test]
fn a_target_behind_vlan_tags_listens_on_the_inner_device() {
    let test = "a_target_behind_vlan_tags_listens_on_the_inner_device";
    if !supported(test) || !may_run(test, Lab::vlans_supported()) {
        return;
    }
    let lab = Lab::builder()
        .name_prefix("lab-vlan")
        .mtu(9000)
        .vlan(100)
        .vlan(200)
        .build()
        .unwrap();
    assert_eq!(lab.tagged_interface(Side::Target), "san1.100.200");
    let outer = link_text(&lab, Side::Target, "san1.100");
    assert!(
        outer.contains("802.1ad id 100") && outer.contains("mtu 9000"),
        "{outer}"
    );
    let inner = link_text(&lab, Side::Target, "san1.100.200");
    assert!(inner.contains("802.1Q id 200"), "{inner}");
    let disk = lab.backing_file(1 << 20).unwrap();
    let target = lab.vblade(VbladeOptions::new(1, 1, disk.path())).unwrap();
    assert_serves(&target);
}

#[test]
fn dropping_takes_everything_away() {
    if !supported("dropping_takes_everything_away") {
        return;
    }
    let lab = Lab::builder().name_prefix("lab-drop").build().unwrap();
    let other = Lab::builder().name_prefix("lab-drop").build().unwrap();
    let disk = lab.backing_file(1 << 20).unwrap();
    let directory = disk.path().parent().unwrap().to_owned();
    let mut sleeper = lab
        .command(Side::Initiator, "sleep")
        .arg("600")
        .spawn()
        .unwrap();
    until("the command is in the namespace", || {
        let output = Command::new("ip")
            .args(["netns", "pids", lab.namespace(Side::Initiator)])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .any(|pid| pid == sleeper.id().to_string())
    });
    assert_eq!(namespaces("lab-drop").len(), 4);
    drop(lab);
    assert_eq!(namespaces("lab-drop").len(), 2, "the other lab stays");
    assert!(!directory.exists());
    assert!(
        !sleeper.wait().unwrap().success(),
        "what ran inside was killed"
    );
    assert_eq!(other.ping(1).unwrap().received, 1);
    drop(other);
    assert_eq!(namespaces("lab-drop").len(), 0);
}

/// Not a test by itself: the process that the two tests below kill. It makes a lab, prints what is in it, and waits.
#[test]
fn owner_process() {
    let Ok(prefix) = std::env::var(PREFIX_VARIABLE) else {
        return;
    };
    let lab = Lab::builder().name_prefix(prefix).build().unwrap();
    let disk = lab.backing_file(1 << 20).unwrap();
    let target = lab.vblade(VbladeOptions::new(7, 3, disk.path())).unwrap();
    println!("\nready {} {}", target.pid(), disk.path().display());
    std::thread::sleep(Duration::from_secs(120));
}

/// An owner in a process of its own, with its target's process id and its backing file.
fn start_owner(prefix: &str) -> (Child, u32, PathBuf) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "owner_process",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env(PREFIX_VARIABLE, prefix)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let ready = lines
        .into_iter()
        .find(|line| line.starts_with("ready "))
        .expect("the owner gets ready");
    let mut words = ready.split(' ').skip(1);
    let pid = words.next().unwrap().parse().unwrap();
    (owner, pid, PathBuf::from(words.next().unwrap()))
}

fn kill(signal: &str, pid: u32) {
    assert!(
        Command::new("kill")
            .args([signal, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn an_owner_that_is_killed_or_interrupted_leaves_nothing() {
    if !supported("an_owner_that_is_killed_or_interrupted_leaves_nothing") {
        return;
    }
    for (signal, prefix) in [
        ("-KILL", "lab-killed"),
        ("-INT", "lab-interrupted"),
        ("-TERM", "lab-ended"),
    ] {
        let (mut owner, target, disk) = start_owner(prefix);
        let beginning = format!("{prefix}-{}-", owner.id());
        assert_eq!(named("/run/netns", &beginning).len(), 2);
        kill(signal, owner.id());
        owner.wait().unwrap();
        until(&format!("{signal} leaves no namespace"), || {
            named("/run/netns", &beginning).is_empty()
        });
        until(&format!("{signal} leaves no file"), || !disk.exists());
        until(&format!("{signal} leaves no target"), || is_gone(target));
    }
}

#[test]
fn what_a_killed_guardian_left_is_swept() {
    if !supported("what_a_killed_guardian_left_is_swept") {
        return;
    }
    let prefix = "lab-swept";
    let (mut owner, target, disk) = start_owner(prefix);
    let beginning = format!("{prefix}-{}-", owner.id());
    assert_eq!(
        Lab::sweep(prefix).unwrap(),
        0,
        "the owner lives: nothing to sweep"
    );
    assert_eq!(named("/run/netns", &beginning).len(), 2);

    let children = format!("/proc/{pid}/task", pid = owner.id());
    let guardian = Path::new(&children)
        .read_dir()
        .unwrap()
        .flatten()
        .flat_map(|task| {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            children
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .find(|pid| {
            let command =
                std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains("sandrail-lab-guardian")
        })
        .expect("the owner has a guardian");
    kill("-KILL", guardian.parse().unwrap());
    kill("-KILL", owner.id());
    owner.wait().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        named("/run/netns", &beginning).len(),
        2,
        "nobody is left to clean up"
    );
    assert!(!is_gone(target) && disk.exists());

    let lab = Lab::builder().name_prefix(prefix).build().unwrap();
    assert_eq!(
        named("/run/netns", &beginning).len(),
        0,
        "the next lab of the prefix sweeps"
    );
    assert!(!disk.exists());
    until("the target is killed", || is_gone(target));
    drop(lab);
}
