//! What an I/O costs over real links, in counters, which repeat where times do not: allocations, and kicks.
//!
//! Over links in memory the same is tested beside the shard (`engine/node/tests/no_allocation.rs`).

use std::time::{Duration, Instant};

use sandrail_bench::blade::{Answers, BladeLink, FRAME_BYTES_MAX};
use sandrail_bench::load::{OnShard, config};
use sandrail_bench::site::{self, Direction, Open, Site, Way};
use sandrail_lab::{CountingAllocator, Lab, Side, can_run};
use sandrail_link::Link;
use sandrail_link::packet::{PacketLink, PacketMode};
use sandrail_link::xdp::XdpLink;
use sandrail_node::{NodeConfig, ShardStat, clock};
use sandrail_wire::MacAddr;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What comes before an ATA frame's sectors.
const HEADER_BYTES: usize = 36;
const BURST: usize = 32;

/// A target at the far end that answers in bursts.
struct FarEnd {
    link: PacketLink,
    answers: Answers,
    heads: Vec<[u8; 60]>,
    out: Box<[u8; FRAME_BYTES_MAX]>,
}

impl FarEnd {
    fn new(lab: &Lab) -> Self {
        Self {
            link: site::open_packet(lab, Side::Target, PacketMode::Ring).unwrap(),
            answers: Answers::new(MacAddr(lab.mac(Side::Target).0)),
            heads: Vec::with_capacity(1024),
            out: Box::new([0; FRAME_BYTES_MAX]),
        }
    }

    /// Takes requests in; answers them when `burst` or more are there.
    fn turn(&mut self, burst: usize) {
        let now = clock::now();
        let heads = &mut self.heads;
        self.link.receive(now, 64, &mut |frame| {
            heads.extend(frame.head().first_chunk().copied());
        });
        if self.heads.len() < burst {
            return;
        }
        for head in self.heads.drain(..) {
            let len = self
                .answers
                .answer(&head, &mut self.out[..])
                .expect("a request");
            let (header, payload) = self.out[..len].split_at(HEADER_BYTES);
            self.link.transmit(now, header, payload).unwrap();
        }
        self.link.flush(now);
    }
}

/// A node over a real link, its target turned by another thread until it is attached.
fn attached<L: Open>(lab: &Lab, way: Way, depth: usize) -> (OnShard<L>, FarEnd) {
    let mut far = FarEnd::new(lab);
    let link = lab
        .enter(Side::Initiator, || {
            L::open(way, lab.interface(Side::Initiator))
        })
        .unwrap()
        .unwrap();
    let target = (BladeLink::ADDR, MacAddr(lab.mac(Side::Target).0));
    let wanted = Direction::Read.load(BladeLink::SECTORS, 1, depth);
    let load = std::thread::scope(|scope| {
        let attaching = scope.spawn(|| OnShard::new(&patient(), link, target, &wanted));
        while !attaching.is_finished() {
            far.turn(1);
            std::thread::yield_now();
        }
        attaching.join().unwrap().unwrap()
    });
    (load, far)
}

/// Never sends twice what is only late: the machine may be busy.
fn patient() -> NodeConfig {
    let mut config = config();
    config.initiator.rto_initial = Duration::from_secs(10);
    config.initiator.rto_min = Duration::from_secs(10);
    config.initiator.rto_max = Duration::from_secs(10);
    config
}

fn over_each_way(test: &str, packet: impl Fn(&Lab), xdp: impl Fn(&Lab, Way)) {
    if !can_run(test, Lab::namespaces_supported()) {
        return;
    }
    packet(&site::wire().unwrap());
    for way in [Way::XdpGeneric, Way::XdpNative] {
        xdp(&site::wire().unwrap(), way);
    }
}

fn tx_kicks(stat: &ShardStat) -> u64 {
    stat.links[0].counters.tx_kicks
}

#[test]
fn nothing_is_allocated_per_io() {
    fn check<L: Open>(lab: &Lab, way: Way) {
        for depth in [1, BURST] {
            let (mut load, mut far) = attached::<L>(lab, way, depth);
            load.fill().unwrap();
            let (mut ios, mut calls) = (0, 0);
            while ios < 12_000 {
                let before = CountingAllocator::calls();
                let ended = load.turn().unwrap();
                // The first I/Os warm up what the standard library keeps for the thread.
                if ios >= 2_000 {
                    calls += CountingAllocator::calls() - before;
                }
                ios += ended;
                far.turn(1);
            }
            assert_eq!(
                calls, 0,
                "{way}, depth {depth}: allocator calls in 10,000 I/Os"
            );
        }
    }
    over_each_way(
        "nothing_is_allocated_per_io",
        |lab| check::<PacketLink>(lab, Way::Packet),
        check::<XdpLink>,
    );
}

#[test]
fn the_counter_counts() {
    let before = CountingAllocator::calls();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(CountingAllocator::calls() - before, 2);
}

#[test]
fn a_burst_of_32_costs_one_kick() {
    fn check<L: Open>(lab: &Lab, way: Way) {
        let (mut load, mut far) = attached::<L>(lab, way, BURST);
        load.fill().unwrap();
        // The window opens with the first answers.
        for _ in 0..5_000 {
            load.turn().unwrap();
            far.turn(1);
        }
        // A kernel's thread that waits for its core may bring a burst in parts: one that comes whole is measured.
        let mut turns = Vec::new();
        let (before, after, lasted) = loop {
            while far.heads.len() < BURST {
                load.turn().unwrap();
                far.turn(BURST + 1);
                std::thread::yield_now();
            }
            let (begin, before) = (Instant::now(), load.stat().unwrap());
            far.turn(BURST);
            std::thread::sleep(Duration::from_millis(50));
            let answers = [load.turn().unwrap(), load.turn().unwrap()];
            let after = load.stat().unwrap();
            turns.push(answers);
            // The second turn only sends.
            if answers == [32, 0] {
                break (before, after, begin.elapsed());
            }
            assert!(turns.len() < 20, "{way}: answers in turns: {turns:?}");
        };
        assert_eq!(
            after.counters.rx_bursts - before.counters.rx_bursts,
            1,
            "{way}"
        );
        assert_eq!(
            after.counters.tx_frames - before.counters.tx_frames,
            32,
            "{way}"
        );
        assert_eq!(
            tx_kicks(&after) - tx_kicks(&before),
            1,
            "{way}: one kick for 32 frames"
        );
        let received = |stat: &ShardStat| stat.links[0].counters.rx_kicks;
        // Receiving takes none, but for a packet ring's question every 100 ms whether the interface is up.
        let asked = received(&after) - received(&before);
        let questions = u64::try_from(lasted.as_millis() / 100).unwrap() + 1;
        assert!(
            asked <= u64::from(way == Way::Packet) * questions,
            "{way}: {asked} system calls to receive"
        );
    }
    over_each_way(
        "a_burst_of_32_costs_one_kick",
        |lab| check::<PacketLink>(lab, Way::Packet),
        check::<XdpLink>,
    );
}

#[test]
fn an_io_on_a_real_target_costs_a_kick_at_most() {
    fn check<L: Open>(site: &Site, way: Way) {
        for depth in [1_u64, 32] {
            let link = site.open::<L>(way).unwrap();
            let slots = usize::try_from(depth).unwrap();
            let wanted = Direction::Read.load(site.sectors(), 1, slots);
            let mut load = OnShard::new(&config(), link, site.target(), &wanted).unwrap();
            let before = load.stat().unwrap();
            let mut ios = 0;
            let begin = Instant::now();
            while ios <= depth && begin.elapsed() < Duration::from_secs(30) {
                ios += load.run(Duration::from_millis(200)).unwrap().ios;
            }
            let after = load.stat().unwrap();
            assert!(ios > depth, "{way}, depth {depth}: {ios}");
            let frames = after.counters.tx_frames - before.counters.tx_frames;
            let repeated = after.initiator.tx_copies - before.initiator.tx_copies;
            let probes = after.initiator.tx_probes - before.initiator.tx_probes;
            let retries =
                after.links[0].counters.kick_retries - before.links[0].counters.kick_retries;
            // Turns of `stat` go on answering: a few more I/Os than `ran` tells may have been sent, none is started anew.
            assert!(
                frames <= ios + depth + repeated + probes,
                "{way}, depth {depth}: {frames} frames, {ios} I/Os"
            );
            let kicks = tx_kicks(&after) - tx_kicks(&before);
            assert!(
                kicks <= frames + retries,
                "{way}, depth {depth}: {kicks} kicks for {frames} frames"
            );
            assert_eq!(after.counters.sleeps, 0, "a load on the shard never sleeps");
        }
    }
    if !can_run(
        "an_io_on_a_real_target_costs_a_kick_at_most",
        Lab::supported(),
    ) {
        return;
    }
    check::<PacketLink>(&Site::new().unwrap(), Way::Packet);
    check::<XdpLink>(&Site::new().unwrap(), Way::XdpGeneric);
    check::<XdpLink>(&Site::new().unwrap(), Way::XdpNative);
}
