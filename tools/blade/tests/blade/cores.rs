//! Several cores: each target has one home, wherever its frames arrive.

use std::time::{Duration, Instant};

use sandrail_lab::Blade;
use sandrail_node::TargetHandle;
use sandrail_node::links::LinkChoice;
use serde_json::Value;

use crate::bed::{Station, ask, lab, noise, options, possible};

/// What core `number` says under `key`.
fn of_core(blade: &Blade, number: usize, key: &str) -> Value {
    ask(blade, r#"{"verb":"status"}"#)["cores"][number][key].clone()
}

/// Writes and reads both targets, one living on each core; the second one.
fn both_targets(blade: &Blade, station: &mut Station) -> TargetHandle {
    let [first, second] = ["e7.3", "e7.4"].map(|addr| station.attach(addr));
    for (seed, target) in [(1, first), (2, second)] {
        station.verify(target, 0, &noise(seed, 4 << 20));
        station.client.flush(target).unwrap();
    }
    let (zero, one) = (of_core(blade, 0, "targets"), of_core(blade, 1, "targets"));
    assert_eq!(
        (&zero[0]["target"], &one[0]["target"]),
        (&"e7.3".into(), &"e7.4".into())
    );
    for targets in [zero, one] {
        assert!(
            targets[0]["counters"]["writes"].as_u64() > Some(400),
            "{targets}"
        );
    }
    second
}

#[test]
fn requests_find_their_home_from_either_queue() {
    if !possible("requests_find_their_home_from_either_queue") {
        return;
    }
    let lab = lab(2);
    let blade = lab
        .blade(
            options()
                .export("e7.3", "ram:8M,home=0")
                .export("e7.4", "ram:8M,home=1")
                .args(["--link", "xdp-native", "--cores", "0,1"]),
        )
        .unwrap();
    // Two shards with a queue each; on veth a frame arrives on the queue of the number that it left by.
    let mut station = Station::over(&lab, LinkChoice::XdpNative, 2);
    both_targets(&blade, &mut station);
    for core in 0..2 {
        let links = of_core(&blade, core, "links");
        assert_eq!(links[0]["queue"], core, "{links}");
        assert!(
            links[0]["counters"]["rx_frames"].as_u64() > Some(100),
            "core {core}: {links}"
        );
        assert!(
            of_core(&blade, core, "crossed_in").as_u64() > Some(100),
            "core {core}"
        );
        assert_eq!(of_core(&blade, core, "crossing_full"), 0, "core {core}");
    }
}

#[test]
fn a_core_without_a_link_serves_through_the_other() {
    if !possible("a_core_without_a_link_serves_through_the_other") {
        return;
    }
    let lab = lab(1);
    let mut blade = lab
        .blade(
            options()
                .export("e7.3", "ram:8M,home=0")
                .export("e7.4", "ram:8M,home=1")
                .state_dir(&lab.folder().unwrap().join("state"))
                .args(["--link", "packet", "--cores", "0,1"]),
        )
        .unwrap();
    let mut station = Station::new(&lab);
    let found = station.node().discover(Duration::from_millis(300)).unwrap();
    assert_eq!(
        found.len(),
        2,
        "a broadcast is answered by every core: {found:?}"
    );
    let target = both_targets(&blade, &mut station);
    assert_eq!(of_core(&blade, 1, "links"), Value::Array(Vec::new()));
    assert!(of_core(&blade, 1, "crossed_in").as_u64() > Some(800));
    // Asleep, core 1 is woken by what crosses. Without that it would sleep on for half a second.
    let mut round = |seed| {
        std::thread::sleep(Duration::from_millis(50));
        let begin = Instant::now();
        station.verify(target, 64, &noise(seed, 4096));
        begin.elapsed()
    };
    round(3);
    let soonest = [4, 5, 6].map(&mut round).into_iter().min().unwrap();
    assert!(soonest < Duration::from_millis(100), "{soonest:?}");
    let status = blade.stop().unwrap();
    assert!(status.success(), "{status}: {}", blade.output());
}
