//! A link that flaps, a ring that runs dry, a process that is killed.

use std::process::{Command, Stdio};
use std::time::Duration;

use sandrail_lab::{LinkState, Side};
use sandrail_link::Link;
use sandrail_link::xdp::{XdpConfig, XdpLink, XdpMode, XdpPort, probe};

use crate::support::{
    Deadline, MODES, aoe_request, bytes_of, enter, lab, links, open, port, small, until,
};

/// Sends one frame and waits for it on the other end.
#[track_caller]
fn passes(a: &mut XdpLink, b: &mut XdpLink, frame: &[u8]) {
    let clock = Deadline::new(60);
    a.transmit(clock.now(), &frame[..36], &frame[36..])
        .expect("there is room");
    let mut got = Vec::new();
    until(30, || {
        a.flush(clock.now());
        b.receive(clock.now(), 64, &mut |frame| got.push(bytes_of(&frame)));
        b.flush(clock.now());
        got.iter().any(|bytes| bytes == frame)
    });
}

/// Turns both ends for a while, as their threads would.
fn turn(links: [&mut XdpLink; 2], milliseconds: u64) {
    let clock = Deadline::new(60);
    let end = clock.now() + Duration::from_millis(milliseconds);
    let [a, b] = links;
    while clock.now() < end {
        for link in [&mut *a, &mut *b] {
            link.flush(clock.now());
            link.receive(clock.now(), 64, &mut |_| {});
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_flap_of_our_end_is_survived_and_counted() {
    let Some(lab) = lab("a_flap_of_our_end", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let frame = |number| aoe_request(&lab, Side::Target, 4132, number);
        passes(&mut a, &mut b, &frame(1));
        assert!(a.is_up());
        for flap in 1..=2 {
            lab.set_link(Side::Initiator, LinkState::Down)
                .expect("ip works");
            // The peer has no carrier then, of which the kernel may tell with a delay of up to a second (link_watch.c).
            until(30, || {
                turn([&mut a, &mut b], 5);
                !a.is_up() && !b.is_up()
            });
            // What is sent now waits, and is not said to have left.
            let before = a.completed();
            let clock = Deadline::new(60);
            for number in 10..20 {
                let frame = frame(number);
                a.transmit(clock.now(), &frame[..36], &frame[36..])
                    .expect("there is room");
            }
            turn([&mut a, &mut b], 20);
            assert_eq!(
                a.completed(),
                before,
                "{mode:?}: nothing leaves an interface that is down"
            );
            lab.set_link(Side::Initiator, LinkState::Up)
                .expect("ip works");
            until(30, || {
                turn([&mut a, &mut b], 5);
                a.is_up() && b.is_up()
            });
            passes(&mut a, &mut b, &frame(2));
            let back = aoe_request(&lab, Side::Initiator, 9014, 3);
            passes(&mut b, &mut a, &back);
            until(30, || {
                turn([&mut a, &mut b], 1);
                a.completed() == a.counters().tx_frames
            });
            assert_eq!(
                (a.counters().link_downs, b.counters().link_downs),
                (flap, flap),
                "{mode:?}"
            );
        }
    }
}

#[test]
fn a_flap_of_the_other_end_is_survived_and_counted() {
    let Some(lab) = lab("a_flap_of_the_other_end", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let mut b = open(&lab, Side::Target, mode, 0);
        let frame = |number| aoe_request(&lab, Side::Target, 4132, number);
        passes(&mut a, &mut b, &frame(1));
        lab.set_link(Side::Target, LinkState::Down)
            .expect("ip works");
        until(30, || {
            turn([&mut a, &mut b], 5);
            !a.is_up() && !b.is_up()
        });
        // Without a carrier the kernel takes frames and drops them: each is told, and all have left.
        let clock = Deadline::new(60);
        for number in 0..40 {
            let frame = frame(number);
            a.transmit(clock.now(), &frame[..36], &frame[36..])
                .expect("there is room");
        }
        until(30, || {
            turn([&mut a, &mut b], 1);
            let counters = a.counters();
            counters.tx_failed >= 40 && a.completed() == counters.tx_frames
        });
        turn([&mut a, &mut b], 20);
        let counters = a.counters();
        assert_eq!(
            (counters.tx_failed, a.completed()),
            (40, counters.tx_frames),
            "{mode:?}: {counters:?}"
        );
        lab.set_link(Side::Target, LinkState::Up).expect("ip works");
        until(30, || {
            turn([&mut a, &mut b], 5);
            a.is_up() && b.is_up()
        });
        passes(&mut a, &mut b, &frame(50));
        passes(
            &mut b,
            &mut a,
            &aoe_request(&lab, Side::Initiator, 9014, 51),
        );
        assert_eq!(
            (a.counters().link_downs, b.counters().link_downs),
            (1, 1),
            "{mode:?}"
        );
    }
}

/// Waits until drops were counted, and no more of them for a while: the kernel's own thread brings the last of the frames.
fn settle(link: &mut XdpLink) {
    let mut before = 0;
    until(30, || {
        std::thread::sleep(Duration::from_millis(20));
        let dropped = link.counters().rx_dropped;
        let settled = dropped > 0 && dropped == before;
        before = dropped;
        settled
    });
}

#[test]
fn a_burst_beyond_the_fill_ring_is_counted_and_survived() {
    let Some(lab) = lab("a_burst_beyond_the_fill_ring", 9000, 1) else {
        return;
    };
    for mode in MODES {
        let mut a = open(&lab, Side::Initiator, mode, 0);
        let config = XdpConfig {
            rx_chunks: 64,
            ..small(lab.interface(Side::Target), mode)
        };
        let port = port(&lab, Side::Target, &config);
        let mut b = links(&lab, Side::Target, &port, 0, &[0])
            .pop()
            .expect("one link");
        let clock = Deadline::new(60);
        for round in 1..=3_u32 {
            // Two chunks each, and nobody receives: 64 chunks hold 32 of them.
            for number in 0..100 {
                let frame = aoe_request(&lab, Side::Target, 4132, number);
                until(30, || {
                    a.flush(clock.now());
                    a.transmit(clock.now(), &frame[..36], &frame[36..]).is_ok()
                });
            }
            until(30, || {
                a.flush(clock.now());
                a.completed() == a.counters().tx_frames
            });
            settle(&mut b);
            let mut got = Vec::new();
            while b.receive(clock.now(), 8, &mut |frame| got.push(bytes_of(&frame))) > 0 {}
            b.flush(clock.now());
            assert!(
                (20..=32).contains(&got.len()),
                "{mode:?}: {} frames",
                got.len()
            );
            for (number, bytes) in (0..).zip(&got) {
                assert!(
                    *bytes == aoe_request(&lab, Side::Target, 4132, number),
                    "{mode:?}: {number} is torn"
                );
            }
            let counters = b.counters();
            assert!(
                counters.rx_dropped > 0 && counters.fill_starved > 0,
                "{mode:?}: {counters:?}"
            );
            assert_eq!(counters.rx_malformed, 0, "{mode:?}");
            for number in 0..50 {
                passes(
                    &mut a,
                    &mut b,
                    &aoe_request(&lab, Side::Target, 9014, 1000 * round + number),
                );
            }
        }
    }
}

/// Set for a child that is to open an interface and be killed: its mode.
const VICTIM: &str = "SANDRAIL_XDP_VICTIM";

/// Run as a process of its own by the test below, inside a namespace; any other time there is nothing for it to do.
#[test]
fn victim() {
    let Ok(mode) = std::env::var(VICTIM) else {
        return;
    };
    let mode = if mode == "native" {
        XdpMode::Native
    } else {
        XdpMode::Generic
    };
    let mut link = XdpLink::open(&small("san1", mode), 0).expect("the interface can be opened");
    println!("attached");
    loop {
        link.receive(Deadline::new(1).now(), 8, &mut |_| {});
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_process_leaves_nothing_attached() {
    let Some(lab) = lab("a_killed_process", 1500, 1) else {
        return;
    };
    let holder = |native: bool| {
        let support = enter(&lab, Side::Target, || probe("san1")).expect("it exists");
        if native {
            support.native_holder
        } else {
            support.generic_holder
        }
    };
    for (mode, name) in [(XdpMode::Generic, "generic"), (XdpMode::Native, "native")] {
        let native = mode == XdpMode::Native;
        assert_eq!(holder(native), None);
        let mut command: Command =
            lab.command(Side::Target, std::env::current_exe().expect("a path"));
        let mut child = command
            .args(["--exact", "trouble::victim", "--nocapture"])
            .env(VICTIM, name)
            .stdout(Stdio::null())
            .spawn()
            .expect("the test can be run again");
        let mut found = None;
        until(30, || {
            found = holder(native);
            assert_eq!(
                child.try_wait().expect("it is ours"),
                None,
                "{name}: the child ended by itself"
            );
            found.is_some()
        });
        let found = found.expect("just found");
        assert_eq!(found.program_name.as_deref(), Some("steer"), "{name}");
        child.kill().expect("SIGKILL");
        child.wait().expect("it is ours");
        // At once, by the kernel; and an opener that comes right behind waits for it.
        let link = enter(&lab, Side::Target, || {
            XdpPort::open(&small("san1", mode)).and_then(|port| port.links(0, &[0]))
        });
        assert_eq!(link.expect("the interface is free").len(), 1, "{name}");
        until(30, || holder(native).is_none());
    }
}
