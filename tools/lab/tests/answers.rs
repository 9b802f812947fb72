//! A target that the lab calls ready answers: asked by a config query, over a packet socket of the test's own.
#![allow(
    unsafe_code,
    reason = "a packet socket has no safe form in the standard library"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use sandrail_lab::{Lab, LabError, Side, VbladeOptions, can_run};

/// AoE's ethertype.
const ETHERTYPE: u16 = 0x88a2;
/// How long an answer may take before it counts as none. It takes well under a millisecond.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a stopped target is given to answer all the same.
const SILENCE: Duration = Duration::from_millis(300);

/// A non-blocking packet socket on `interface`, in the namespace of the calling thread.
fn packet_socket(interface: &str) -> io::Result<File> {
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
    let index: i32 = index.trim().parse().map_err(io::Error::other)?;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `socket` takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ETHERTYPE.to_be())) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: ETHERTYPE.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: the address is a `sockaddr_ll` of the given length, and lives until the call returns.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(File::from(socket))
}

/// Asks whoever is shelf 7, slot 3 for its configuration, once.
fn ask(mut socket: &File, lab: &Lab, tag: u32) {
    let mut frame = vec![0xff; 6];
    frame.extend(lab.mac(Side::Initiator).0);
    frame.extend(ETHERTYPE.to_be_bytes());
    frame.extend([0x10, 0, 0, 7, 3, 1]);
    frame.extend(tag.to_be_bytes());
    frame.resize(60, 0);
    socket.write_all(&frame).unwrap();
}

/// Whether an answer with that tag, from the target's own address, comes within `patience`.
fn is_answered(mut socket: &File, lab: &Lab, tag: u32, patience: Duration) -> bool {
    let begin = Instant::now();
    let mut frame = [0; 2048];
    while begin.elapsed() < patience {
        match socket.read(&mut frame) {
            Ok(length) => {
                let from_target = length >= 32 && frame[6..12] == lab.mac(Side::Target).0;
                let response = frame[14] == 0x18 && frame[16..20] == [0, 7, 3, 1];
                if from_target && response && frame[20..24] == tag.to_be_bytes() {
                    return true;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(error) => panic!("{error}"),
        }
    }
    false
}

#[test]
fn a_ready_target_answers_the_first_query() {
    if !can_run("a_ready_target_answers_the_first_query", Lab::supported()) {
        return;
    }
    let lab = Lab::builder().name_prefix("lab-answer").build().unwrap();
    let disk = lab.backing_file(1 << 20).unwrap();
    let socket = lab
        .enter(Side::Initiator, || packet_socket("san0"))
        .unwrap()
        .unwrap();
    let mut options = VbladeOptions::new(7, 3, disk.path());
    options.macs = vec![lab.mac(Side::Initiator)];
    let mut target = lab.vblade(options).unwrap();
    for tag in 1..=20 {
        ask(&socket, &lab, tag);
        assert!(
            is_answered(&socket, &lab, tag, PATIENCE),
            "start {tag}: {}",
            target.output()
        );
        target.restart().unwrap();
    }

    target.pause().unwrap();
    ask(&socket, &lab, 100);
    assert!(
        !is_answered(&socket, &lab, 100, SILENCE),
        "a stopped target answered"
    );
    target.resume().unwrap();
    assert!(
        is_answered(&socket, &lab, 100, PATIENCE),
        "the query that waited was lost"
    );

    target.kill().unwrap();
    ask(&socket, &lab, 101);
    assert!(
        !is_answered(&socket, &lab, 101, SILENCE),
        "a killed target answered"
    );
}

#[test]
fn a_target_answers_the_macs_it_was_told_only() -> Result<(), LabError> {
    if !can_run(
        "a_target_answers_the_macs_it_was_told_only",
        Lab::supported(),
    ) {
        return Ok(());
    }
    let lab = Lab::builder().name_prefix("lab-masked").build()?;
    let disk = lab.backing_file(1 << 20)?;
    let socket = lab
        .enter(Side::Initiator, || packet_socket("san0"))?
        .unwrap();
    let mut options = VbladeOptions::new(7, 3, disk.path());
    options.macs = vec![lab.mac(Side::Target)];
    let _target = lab.vblade(options)?;
    ask(&socket, &lab, 1);
    assert!(
        !is_answered(&socket, &lab, 1, SILENCE),
        "the mask was not passed on"
    );
    Ok(())
}
