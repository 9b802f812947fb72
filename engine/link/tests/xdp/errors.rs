//! What is refused, and in which words.

use sandrail_lab::{LinkState, Side, may_run};
use sandrail_link::Link;
use sandrail_link::xdp::{
    MTU_BYTES_MAX, XdpConfig, XdpError, XdpLink, XdpMode, XdpPort, ZeroCopy, probe,
};

use crate::support::{
    Deadline, MODES, aoe_request, enter, lab, links, mac, open, port, small, until,
};

/// The error of opening an interface with this configuration on the initiator's side, on one queue, for these shards.
#[track_caller]
fn refused(lab: &sandrail_lab::Lab, config: &XdpConfig, queue: u32, shards: &[u32]) -> XdpError {
    enter(lab, Side::Initiator, || {
        XdpPort::open(config).and_then(|port| port.links(queue, shards).map(drop))
    })
    .expect_err("it is refused")
}

#[test]
fn an_interface_that_is_not_there_or_down_is_named() {
    let Some(lab) = lab("an_interface_that_is_not_there", 1500, 1) else {
        return;
    };
    for name in ["nosuch0", "", "longer-than-names-are", "san0\0"] {
        let error = refused(&lab, &small(name, XdpMode::Auto), 0, &[0]);
        assert!(
            matches!(&error, XdpError::InterfaceMissing { interface } if interface == name),
            "{error}"
        );
        assert!(error.to_string().contains("does not exist"));
        let probed = enter(&lab, Side::Initiator, || probe(name));
        assert!(matches!(probed, Err(XdpError::InterfaceMissing { .. })));
    }
    lab.set_link(Side::Initiator, LinkState::Down)
        .expect("ip works");
    let error = refused(&lab, &small("san0", XdpMode::Auto), 0, &[0]);
    assert!(matches!(error, XdpError::InterfaceDown { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "interface san0 is down: `ip link set san0 up` first"
    );
    lab.set_link(Side::Initiator, LinkState::Up)
        .expect("ip works");
    drop(open(&lab, Side::Initiator, XdpMode::Auto, 0));
}

#[test]
fn queues_shards_and_sizes_out_of_range_are_refused() {
    let Some(lab) = lab("queues_shards_and_sizes", 1500, 2) else {
        return;
    };
    let good = small("san0", XdpMode::Auto);
    let error = refused(&lab, &good, 2, &[0]);
    assert!(
        matches!(
            error,
            XdpError::QueueOutOfRange {
                queue: 2,
                queues: 2,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "queue 2 is out of range: san0 has 2 receive queue(s), counted from 0"
    );
    for shards in [&[][..], &[16], &[1, 1]] {
        assert!(
            matches!(refused(&lab, &good, 0, shards), XdpError::Config(_)),
            "{shards:?}"
        );
    }
    let bad = [
        XdpConfig {
            rx_chunks: 3,
            ..good.clone()
        },
        XdpConfig {
            tx_chunks: 0,
            ..good.clone()
        },
        XdpConfig {
            tx_chunks: (1 << 16) + 1,
            ..good.clone()
        },
        XdpConfig {
            allow_list: Some(vec![mac(&lab, Side::Target); 4097]),
            ..good.clone()
        },
        XdpConfig {
            rx_ring: Some(100),
            ..good.clone()
        },
        XdpConfig {
            tx_ring: Some(2),
            ..good.clone()
        },
    ];
    for config in bad {
        assert!(
            matches!(refused(&lab, &config, 0, &[0]), XdpError::Config(_)),
            "{config:?}"
        );
    }
    let port = port(&lab, Side::Initiator, &good);
    assert!(
        matches!(
            port.allow(mac(&lab, Side::Target)),
            Err(XdpError::Config(_))
        ),
        "opened without a list"
    );
}

#[test]
fn an_mtu_beyond_four_segments_is_refused_with_the_limit() {
    let Some(lab) = lab("an_mtu_beyond_four_segments", 9000, 1) else {
        return;
    };
    let largest = u32::try_from(MTU_BYTES_MAX).expect("small");
    for mode in MODES {
        let config = small("san0", mode);
        lab.set_mtu(Side::Initiator, largest + 1)
            .expect("a veth takes that MTU");
        let error = refused(&lab, &config, 0, &[0]);
        assert!(
            matches!(
                error,
                XdpError::MtuTooLarge {
                    max_bytes: MTU_BYTES_MAX,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("at most 15338 bytes"), "{error}");
        lab.set_mtu(Side::Initiator, largest)
            .expect("a veth takes that MTU");
        assert_eq!(
            open(&lab, Side::Initiator, mode, 0).info().mtu_bytes,
            MTU_BYTES_MAX
        );
    }
}

#[test]
fn a_program_that_is_attached_already_is_named() {
    let Some(lab) = lab("a_program_that_is_attached_already", 1500, 1) else {
        return;
    };
    for held in MODES {
        let holder = port(&lab, Side::Initiator, &small("san0", held));
        for wanted in MODES {
            let error = refused(&lab, &small("san0", wanted), 0, &[0]);
            assert!(
                matches!(error, XdpError::ProgramBusy { .. }),
                "{held:?} {wanted:?}: {error}"
            );
            let words = error.to_string();
            let mode = if held == XdpMode::Native {
                "native"
            } else {
                "generic"
            };
            assert!(words.contains(&format!("`steer` ({mode} mode)")), "{words}");
        }
        drop(holder);
    }
}

#[test]
fn a_queue_that_is_bound_already_is_named_and_free_again_afterwards() {
    let Some(lab) = lab("a_queue_that_is_bound_already", 1500, 1) else {
        return;
    };
    let port = port(&lab, Side::Initiator, &small("san0", XdpMode::Generic));
    for _ in 0..3 {
        let first = links(&lab, Side::Initiator, &port, 0, &[0]);
        let second = enter(&lab, Side::Initiator, || port.links(0, &[1]));
        assert!(matches!(second, Err(XdpError::QueueBusy { queue: 0, .. })));
        drop(first);
    }
}

/// Runs `work` on the initiator's side on a thread that has given up these capabilities; raw system calls are per thread.
fn without_capabilities<T: Send>(
    lab: &sandrail_lab::Lab,
    dropped: u64,
    work: impl FnOnce() -> T + Send,
) -> T {
    enter(lab, Side::Initiator, || {
        let header: [u32; 2] = [0x2008_0522, 0];
        let kept = [!(dropped as u32), !((dropped >> 32) as u32)];
        let mut data = [[0_u32; 3]; 2];
        // SAFETY: version 3 of capget(2) writes two times three words.
        let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        for (sets, kept) in data.iter_mut().zip(kept) {
            sets[0] &= kept;
        }
        // SAFETY: version 3 of capset(2) reads two times three words.
        let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        work()
    })
}

#[test]
fn missing_privilege_and_memory_are_named_with_the_remedy() {
    const NET_ADMIN: u64 = 1 << 12;
    const NET_RAW: u64 = 1 << 13;
    const IPC_LOCK: u64 = 1 << 14;
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;
    let Some(lab) = lab("missing_privilege", 1500, 1) else {
        return;
    };
    let config = small("san0", XdpMode::Generic);
    for dropped in [NET_ADMIN | SYS_ADMIN, BPF | SYS_ADMIN, NET_RAW] {
        let opened = without_capabilities(&lab, dropped, || XdpLink::open(&config, 0).map(drop));
        let error = opened.expect_err("it wants all three");
        assert!(
            matches!(error, XdpError::NotPermitted { .. }),
            "{dropped:x}: {error}"
        );
        for word in ["san0", "CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF", "setcap"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    // 48 MiB, of which a limit of 8 MiB locks none; where the limit is higher or off, this cannot be shown.
    let large = XdpConfig {
        rx_chunks: 8192,
        tx_chunks: 4096,
        ..config
    };
    let limit = memlock_bytes();
    if limit >= 48 << 20 {
        eprintln!("locked memory is not limited enough ({limit} bytes) to show its refusal");
        return;
    }
    let opened = without_capabilities(&lab, IPC_LOCK, || XdpLink::open(&large, 0).map(drop));
    let error = opened.expect_err("more than may be locked");
    assert!(
        matches!(
            error,
            XdpError::Memory {
                len_bytes: 0x300_0000,
                ..
            }
        ),
        "{error}"
    );
    for word in [
        format!("{limit} bytes"),
        "ulimit -l".to_owned(),
        "CAP_IPC_LOCK".to_owned(),
    ] {
        assert!(error.to_string().contains(&word), "{error}");
    }
}

fn memlock_bytes() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live `rlimit`.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    assert_eq!(result, 0);
    limit.rlim_cur
}

/// What veth offers on any kernel since 6.3, and which mode `auto` takes there.
#[test]
fn the_probe_tells_driver_queues_and_holder() {
    let Some(lab) = lab("the_probe_tells", 1500, 2) else {
        return;
    };
    let ask = || enter(&lab, Side::Initiator, || probe("san0")).expect("it exists");
    let free = ask();
    assert_eq!((free.driver.as_str(), free.rx_queues), ("veth", 2));
    assert_eq!((&free.native_holder, &free.generic_holder), (&None, &None));
    assert_ne!(free.native(), Some(false));
    assert_ne!(free.zero_copy(), Some(true), "veth copies");
    for (mode, words) in [
        (XdpMode::Auto, "xdp-generic copy"),
        (XdpMode::Generic, "xdp-generic copy"),
        (XdpMode::Native, "xdp-native copy"),
    ] {
        let config = XdpConfig {
            zero_copy: ZeroCopy::Auto,
            ..small("san0", mode)
        };
        let link = enter(&lab, Side::Initiator, || XdpLink::open(&config, 1)).expect("opened");
        assert_eq!((link.info().mode.as_str(), link.info().queue), (words, 1));
        let held = ask();
        let holder = if mode == XdpMode::Native {
            held.native_holder
        } else {
            held.generic_holder
        };
        assert_eq!(
            holder.and_then(|holder| holder.program_name).as_deref(),
            Some("steer")
        );
        drop(link);
        until(30, || {
            ask().native_holder.is_none() && ask().generic_holder.is_none()
        });
    }
}

/// Huge pages that nobody reserved are an error with words about them; where some are reserved, they are used.
#[test]
fn huge_pages_are_used_or_their_lack_is_named() {
    let Some(lab) = lab("huge_pages", 1500, 1) else {
        return;
    };
    let config = XdpConfig {
        hugepages: true,
        ..small("san0", XdpMode::Generic)
    };
    match enter(&lab, Side::Initiator, || XdpLink::open(&config, 0)) {
        Ok(link) => assert_eq!(link.info().mode, "xdp-generic copy"),
        Err(error) => {
            assert!(matches!(error, XdpError::Memory { .. }), "{error}");
            assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
        }
    }
}

/// An ifb device has no hook in its driver, as many a NIC's: `native` says so, `auto` goes on to the generic one. That
/// it is taken away under a link is an interface that went down.
#[test]
fn a_driver_without_a_hook_is_named_and_auto_does_without() {
    let Some(lab) = lab("a_driver_without_a_hook", 1500, 1) else {
        return;
    };
    let ip = |arguments: &str| {
        let mut command = lab.command(Side::Initiator, "ip");
        command
            .args(arguments.split(' '))
            .status()
            .is_ok_and(|status| status.success())
    };
    let made = ip("link add ifb9 type ifb") && ip("link set ifb9 up");
    let made = made.then_some(()).ok_or("this kernel has no ifb devices");
    if !may_run("a_driver_without_a_hook", made) {
        return;
    }
    let error = refused(&lab, &small("ifb9", XdpMode::Native), 0, &[0]);
    assert!(matches!(error, XdpError::Unsupported { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "ifb9 (driver ifb) does not support xdp-native with an MTU of 1500: Operation not supported (os error 95)"
    );
    let opened = enter(&lab, Side::Initiator, || {
        XdpLink::open(&small("ifb9", XdpMode::Auto), 0)
    });
    let mut link = opened.expect("generic mode works anywhere");
    assert_eq!(link.info().mode, "xdp-generic copy");
    assert!(link.is_up());
    assert!(ip("link del ifb9"));
    let clock = Deadline::new(60);
    let frame = aoe_request(&lab, Side::Target, 200, 1);
    until(30, || {
        let _ = link.transmit(clock.now(), &frame[..36], &frame[36..]);
        link.flush(clock.now());
        assert_eq!(link.receive(clock.now(), 8, &mut |_| {}), 0);
        !link.is_up()
    });
    assert_eq!(link.counters().link_downs, 1);
}

/// What this process starts must not keep its sockets: the queue would stay bound as long as that runs.
#[test]
fn a_child_does_not_keep_the_queue() {
    let Some(lab) = lab("a_child_does_not_keep_the_queue", 1500, 1) else {
        return;
    };
    let port = port(&lab, Side::Initiator, &small("san0", XdpMode::Generic));
    let opened = links(&lab, Side::Initiator, &port, 0, &[0, 1]);
    let mut child = lab
        .command(Side::Target, "sleep")
        .arg("60")
        .spawn()
        .expect("sleep is there");
    drop(opened);
    let again = enter(&lab, Side::Initiator, || port.links(0, &[0]).map(drop));
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    again.expect("the queue is free while the child runs");
}
