//! Nodes with threads, against a blade in memory.

mod blade;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blade::bed::{Bed, SECTORS, SOON, bed, bed_with, config, eventually, flush, pattern, read};
use blade::{ADDR, Blade};
use sandrail_memory::Buffer;
use sandrail_node::{
    AttachFailed, BlockingError, Client, Idle, Node, NodeConfig, NodeError, Refusal, Request,
    RequestError,
};
use sandrail_proto::aoe::initiator::{
    Durability, IfClosed, InitiatorConfig, IoError, Notice, Operation, Outcome, PinnedMacs,
    RestartEvidence, SubmitError,
};
use sandrail_wire::aoe::{ConfigCommand, ReserveCommand};
use sandrail_wire::{Lba, MacAddr, TargetAddr};

#[test]
fn what_is_written_is_read_back_through_one_shard_and_two() {
    for shards in [1, 2, 3] {
        let bed = bed(shards);
        for (seed, depth) in [(1, 1), (2, 32)] {
            let mut client = bed.node.client(depth).unwrap();
            // Several stripes of 1 MiB, beginning and ending inside one.
            let (lba, data) = (2000, pattern(seed, 3 << 20));
            client.write(bed.target, Lba(lba), &data).unwrap();
            assert!(bed.blade.peek(2000, data.len() / 512) == data);
            let mut back = vec![0; data.len()];
            client.read(bed.target, Lba(lba), &mut back).unwrap();
            assert!(back == data, "{shards} shards, depth {depth}");
            assert_eq!(client.flush(bed.target).unwrap(), Durability::Claimed);
        }
        let stat = bed.node.stat().unwrap();
        assert_eq!(stat.buffers_free, stat.buffers);
        for shard in &stat.shards {
            assert!(
                shard.latency.read.len() > 10,
                "shard {} has its share",
                shard.shard
            );
            assert!(shard.latency.write.len() > 10);
            assert_eq!(shard.latency.flush.len(), 2);
            assert_eq!(shard.counters.requests, shard.counters.completions);
            assert_eq!(shard.open_requests, 0);
        }
        assert!(stat.latency().read.value_at_quantile(0.5) > 0);
        bed.node.shutdown(SOON).unwrap();
    }
}

#[test]
fn a_shard_uses_all_its_interfaces() {
    let blade = Blade::new(SECTORS);
    let other = MacAddr([2, 0, 0, 0, 0, 0x0c]);
    let shard = || {
        vec![
            blade.link_on("blade0", blade::NODE_MAC),
            blade.link_on("blade1", other),
        ]
    };
    let node = Node::start(&config(), vec![shard(), shard()]).unwrap();
    let target = node
        .attach(ADDR, PinnedMacs::first_to_answer(), SOON)
        .unwrap();
    let data = pattern(3, 4 << 20);
    let mut client = node.client(32).unwrap();
    client.write(target, Lba(0), &data).unwrap();
    let mut back = vec![0; data.len()];
    client.read(target, Lba(0), &mut back).unwrap();
    assert!(back == data);
    let stat = node.stat().unwrap();
    for shard in &stat.shards {
        let paths = shard.targets[0].info.paths.iter().flatten().count();
        assert_eq!(paths, 2, "{:?}", shard.targets);
        for link in &shard.links {
            let frames = link.counters.tx_frames;
            assert!(frames > 20, "{frames} frames by {}", link.info.interface);
        }
    }
    node.shutdown(SOON).unwrap();
    // The same interfaces in another order are no good.
    let swapped = vec![
        blade.link_on("blade1", other),
        blade.link_on("blade0", blade::NODE_MAC),
    ];
    let refused = Node::start(&config(), vec![shard(), swapped]);
    assert!(matches!(refused, Err(NodeError::Links)));
}

#[test]
fn a_sector_always_belongs_to_one_shard_and_requests_do_not_cross_stripes() {
    let config = NodeConfig {
        stripe_sectors: 16,
        ..config()
    };
    let bed = bed_with(2, &config);
    let mut client = bed.node.client(4).unwrap();
    for lba in 0..64 {
        assert_eq!(
            client.shard_of(Lba(lba)),
            usize::try_from(lba / 16 % 2).unwrap()
        );
        assert_eq!(client.sectors_to_stripe_end(Lba(lba)), 16 - lba % 16);
    }
    let rejected = client
        .submit(read(bed.target, 9, client.buffer(8 * 512).unwrap()))
        .unwrap_err();
    assert_eq!(
        rejected.why,
        Refusal::CrossesStripe {
            lba: 9,
            end: 17,
            stripe_end: 16
        }
    );
    assert_eq!(rejected.request.buffer.len(), 8 * 512);
    client
        .submit(read(bed.target, 8, rejected.request.buffer))
        .unwrap();
    let done = client.wait(SOON).unwrap();
    assert_eq!((done.user, done.result), (8, Ok(Outcome::Read)));
}

#[test]
fn completions_come_to_the_client_that_submitted_and_only_once() {
    let bed = bed(2);
    let mut one = bed.node.client(8).unwrap();
    let mut other = bed.node.client(8).unwrap();
    let mut tickets = Vec::new();
    for n in 0..8 {
        tickets.push(
            one.submit(read(bed.target, n * 2048, one.buffer(512).unwrap()))
                .unwrap(),
        );
    }
    assert_eq!(one.outstanding(), 8);
    assert!(other.wait(Duration::from_millis(20)).is_none());
    let buffer = one.buffer(512).unwrap();
    assert_eq!(
        one.submit(read(bed.target, 0, buffer)).unwrap_err().why,
        Refusal::Depth { depth: 8 }
    );
    for _ in 0..8 {
        let done = one.wait(SOON).unwrap();
        assert_eq!(done.result, Ok(Outcome::Read));
        assert!(done.completed_at >= done.submitted_at);
        let at = tickets
            .iter()
            .position(|ticket| *ticket == done.ticket)
            .unwrap();
        tickets.swap_remove(at);
    }
    assert_eq!(one.outstanding(), 0);
    assert!(one.wait(SOON).is_none(), "nothing under way: no waiting");
}

#[test]
fn the_initiators_refusals_arrive_as_completions() {
    let bed = bed(1);
    let mut client = bed.node.client(2).unwrap();
    let past = u64::try_from(SECTORS).unwrap();
    client
        .submit(read(bed.target, past, client.buffer(512).unwrap()))
        .unwrap();
    let done = client.wait(SOON).unwrap();
    assert_eq!(
        done.result,
        Err(RequestError::Refused(SubmitError::PastEnd {
            lba: past,
            end: past + 1,
            device_sectors: past
        }))
    );
    assert_eq!(done.buffer.len(), 512);
    client.submit(read(bed.target, 0, Buffer::empty())).unwrap();
    assert_eq!(
        client.wait(SOON).unwrap().result,
        Err(RequestError::Refused(SubmitError::BufferLength {
            len_bytes: 0
        }))
    );
    // A stripe ends with the device: the first sector is a request of its own, and written.
    let error = client
        .write(bed.target, Lba(past - 1), &[0; 1024])
        .unwrap_err();
    assert!(
        matches!(error, BlockingError::Data { lba, .. } if lba == past),
        "{error}"
    );
    assert_eq!(
        client.write(bed.target, Lba(0), &[0; 100]),
        Err(BlockingError::Length(100))
    );
    client
        .submit(read(bed.target, 0, client.buffer(512).unwrap()))
        .unwrap();
    assert_eq!(client.flush(bed.target), Err(BlockingError::Busy(1)));
    client.wait(SOON).unwrap();
    let stat = bed.node.stat().unwrap();
    assert_eq!(stat.shards[0].counters.requests_refused, 3);
    assert_eq!(
        stat.shards[0].latency.read.len(),
        1,
        "refusals are no samples"
    );
}

#[test]
fn discovery_control_commands_and_detach() {
    let bed = bed(2);
    let mut found = Vec::new();
    eventually("the blade answers", || {
        found = bed.node.discover(Duration::from_millis(100)).unwrap();
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].addr, found[0].mac), (ADDR, blade::BLADE_MAC));
    let mut client = bed.node.client(1).unwrap();
    assert_eq!(
        client.identify(bed.target).unwrap().sectors,
        u64::try_from(SECTORS).unwrap()
    );
    assert_eq!(
        client.config(bed.target, ConfigCommand::Read, b"").unwrap(),
        b"in memory"
    );
    assert_eq!(
        client
            .reserve(bed.target, ReserveCommand::Read, &[])
            .unwrap(),
        [MacAddr([2, 0, 0, 0, 0, 0x0b])]
    );
    let info = bed.node.target(bed.target).unwrap().unwrap();
    assert_eq!(info.addr, ADDR);

    let again = bed.node.attach(ADDR, PinnedMacs::first_to_answer(), SOON);
    assert!(matches!(again, Err(AttachFailed::Refused(_))), "{again:?}");
    bed.node.detach(bed.target).unwrap();
    assert!(matches!(
        bed.node.detach(bed.target),
        Err(NodeError::NoTarget)
    ));
    assert_eq!(
        client.flush(bed.target),
        Err(BlockingError::Refused(Refusal::NoTarget))
    );
    let target = bed
        .node
        .attach(ADDR, PinnedMacs::first_to_answer(), SOON)
        .unwrap();
    assert_ne!(target, bed.target);
    assert_eq!(
        client.flush(bed.target),
        Err(BlockingError::Refused(Refusal::NoTarget)),
        "the old handle stays void"
    );
    client.flush(target).unwrap();
}

#[test]
fn nobody_at_an_address_is_an_error_and_leaves_nothing_behind() {
    let config = NodeConfig {
        initiator: InitiatorConfig {
            attach_timeout: Duration::from_millis(100),
            ..config().initiator
        },
        ..config()
    };
    let bed = bed_with(2, &config);
    let nobody = TargetAddr { shelf: 9, slot: 9 };
    for _ in 0..3 {
        let failed = bed.node.attach(nobody, PinnedMacs::first_to_answer(), SOON);
        assert!(matches!(failed, Err(AttachFailed::Failed(_))), "{failed:?}");
    }
    let wrong_mac = PinnedMacs::new(&[MacAddr([2, 0, 0, 0, 0, 0x66])]).unwrap();
    bed.node.detach(bed.target).unwrap();
    let failed = bed.node.attach(ADDR, wrong_mac, SOON);
    assert!(matches!(failed, Err(AttachFailed::Failed(_))), "{failed:?}");
    bed.node
        .attach(ADDR, PinnedMacs::first_to_answer(), SOON)
        .unwrap();
}

#[test]
fn an_idle_shard_sleeps_and_is_woken_by_requests_and_by_frames() {
    // On a busy machine a yield may last longer than the pauses here.
    let idle = Idle {
        spin_turns: 10,
        yield_turns: 0,
        sleep: true,
    };
    let bed = bed_with(2, &NodeConfig { idle, ..config() });
    let sleeps = |bed: &Bed| {
        let stat = bed.node.stat().unwrap();
        (
            stat.shards[0].counters.sleeps,
            stat.shards[0].counters.turns,
        )
    };
    // Idle: it sleeps for long, rather than over and over.
    std::thread::sleep(Duration::from_millis(50));
    eventually("it sleeps", || sleeps(&bed).0 > 0);
    let (start, (before, turns_before)) = (Instant::now(), sleeps(&bed));
    std::thread::sleep(Duration::from_millis(300));
    let (after, turns_after) = sleeps(&bed);
    // On a busy machine the pause may be longer than asked for.
    let pauses = 1 + u64::try_from(start.elapsed().as_millis() / 300).unwrap();
    assert!(
        after - before < 50 * pauses,
        "{} sleeps in {:?} of idleness",
        after - before,
        start.elapsed()
    );
    assert!(
        turns_after - turns_before < 2000 * pauses,
        "{} turns",
        turns_after - turns_before
    );
    // Woken by a request.
    let mut client = bed.node.client(1).unwrap();
    let wakes = |bed: &Bed| bed.node.stat().unwrap().shards[0].counters.wakes;
    let mut n = 0;
    // Whether it is asleep by then is up to the scheduler.
    eventually("it was woken often", || {
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(2));
            client
                .read(bed.target, Lba(n % 32 * 2048), &mut [0; 512])
                .unwrap();
            n += 1;
        }
        wakes(&bed) > 10
    });
    // Woken by a frame: the answer comes while everybody sleeps, well before any timeout.
    bed.blade.holding.store(true, Ordering::Relaxed);
    client
        .submit(read(bed.target, 0, client.buffer(512).unwrap()))
        .unwrap();
    eventually("the request is held", || bed.blade.held() > 0);
    std::thread::sleep(Duration::from_millis(20));
    bed.blade.holding.store(false, Ordering::Relaxed);
    bed.blade.release();
    assert_eq!(client.wait(SOON).unwrap().result, Ok(Outcome::Read));
    let stat = bed.node.stat().unwrap();
    assert!(
        stat.shards[0].counters.wakes > 10,
        "{:?}",
        stat.shards[0].counters
    );
}

/// A probe that is due, and can't be sent as the link is down, is no reason to turn without end.
#[test]
fn a_shard_whose_link_takes_nothing_sleeps_between_tries() {
    let bed = bed(1);
    let mut client = bed.node.client(1).unwrap();
    client.write(bed.target, Lba(0), &[1; 512]).unwrap();
    bed.blade.jammed.store(true, Ordering::Relaxed);
    // Unflushed writes ask for a probe every 50 ms.
    std::thread::sleep(Duration::from_millis(200));
    let turns = |bed: &Bed| bed.node.stat().unwrap().shards[0].counters.turns;
    let (start, before) = (Instant::now(), turns(&bed));
    std::thread::sleep(Duration::from_millis(300));
    let turned = turns(&bed) - before;
    // A sleep of a millisecond after each try, and the turns that come before the first sleep. On a busy machine the pause may
    // be longer than asked for.
    let pauses = 1 + u64::try_from(start.elapsed().as_millis() / 300).unwrap();
    assert!(
        turned < 4000 * pauses,
        "{turned} turns in {:?}",
        start.elapsed()
    );
    bed.blade.jammed.store(false, Ordering::Relaxed);
    client.read(bed.target, Lba(0), &mut [0; 512]).unwrap();
}

#[test]
fn a_flood_from_several_threads_is_answered_completely() {
    let config = NodeConfig {
        ring_requests: 16,
        stripe_sectors: 64,
        ..config()
    };
    let bed = bed_with(2, &config);
    const THREADS: u64 = 4;
    const REQUESTS: u64 = 3000;
    let (mut full, mut rounds) = (0, 0);
    // Whether a shard falls behind its clients is up to the scheduler: they go on until one did.
    while rounds == 0 || full == 0 && rounds < 50 {
        rounds += 1;
        full += std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let bed = &bed;
                    scope.spawn(move || flood(bed, thread, REQUESTS))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<u64>()
        });
    }
    let stat = bed.node.stat().unwrap();
    let completions: u64 = stat
        .shards
        .iter()
        .map(|shard| shard.counters.completions)
        .sum();
    assert_eq!(completions, rounds * THREADS * REQUESTS);
    assert!(full > 0, "the ring of 16 was never full");
    assert_eq!(stat.buffers_free, stat.buffers);
    bed.node.shutdown(SOON).unwrap();
}

/// Writes and reads back sectors of its own; how often a ring was full.
fn flood(bed: &Bed, thread: u64, requests: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(thread);
    let mut client = bed.node.client(32).unwrap();
    let base = thread * 4096;
    let mut stamps = vec![0_u8; 4096];
    let mut busy = vec![false; 4096];
    let (mut sent, mut ended, mut full) = (0, 0, 0);
    while ended < requests {
        while sent < requests && client.outstanding() < client.depth() {
            let place = random.usize(..4096);
            if busy[place] {
                break;
            }
            let Some(mut buffer) = client.buffer(512) else {
                break;
            };
            let lba = Lba(base + u64::try_from(place).unwrap());
            let operation = if random.bool() {
                stamps[place] = random.u8(..);
                buffer.as_mut().fill(stamps[place]);
                Operation::Write {
                    lba,
                    if_closed: IfClosed::Wait,
                }
            } else {
                Operation::Read { lba }
            };
            let mut request = Request {
                target: bed.target,
                operation,
                buffer,
                timeout: SOON,
                user: u64::try_from(place).unwrap(),
            };
            while let Err(rejected) = client.submit(request) {
                assert!(
                    matches!(rejected.why, Refusal::RingFull { .. }),
                    "{rejected:?}"
                );
                full += 1;
                request = rejected.request;
                std::thread::yield_now();
            }
            busy[place] = true;
            sent += 1;
        }
        let done = client.wait(SOON).expect("a completion");
        let place = usize::try_from(done.user).unwrap();
        busy[place] = false;
        ended += 1;
        match done.result {
            Ok(Outcome::Read) => {
                assert!(
                    done.buffer
                        .as_ref()
                        .iter()
                        .all(|byte| *byte == stamps[place]),
                    "stale"
                );
            }
            Ok(Outcome::Written) => {}
            other => panic!("{other:?}"),
        }
    }
    full
}

#[test]
fn a_flush_tells_the_weakest_promise() {
    let blade = Blade::new(SECTORS);
    blade.claims_flush.store(false, Ordering::Relaxed);
    let node = Node::start(&config(), vec![vec![blade.link()], vec![blade.link()]]).unwrap();
    let target = node
        .attach(ADDR, PinnedMacs::first_to_answer(), SOON)
        .unwrap();
    let mut client = node.client(1).unwrap();
    assert_ne!(client.flush(target).unwrap(), Durability::Claimed);
}

#[test]
fn an_advertisement_heard_by_one_shard_fails_the_flush_of_all_until_accepted() {
    for (hearing, writing_lba) in [(0, 2048), (1, 0), (0, 0), (1, 2048)] {
        let bed = bed(2);
        let mut client = bed.node.client(1).unwrap();
        client
            .write(bed.target, Lba(writing_lba), &[1; 512])
            .unwrap();
        bed.blade.advertise(hearing);
        let mut suspected = [false; 2];
        eventually("both shards suspect a restart", || {
            while let Some(notice) = bed.node.next_notice() {
                if matches!(notice.notice, Notice::RestartSuspected { .. }) {
                    assert_eq!(notice.target, Some(bed.target));
                    suspected[notice.shard] = true;
                }
            }
            suspected == [true; 2]
        });
        let lost = BlockingError::Failed(RequestError::Io(IoError::UnflushedLost(
            RestartEvidence::Advertisement,
        )));
        assert_eq!(client.flush(bed.target), Err(lost));
        assert_eq!(client.flush(bed.target), Err(lost), "not by asking again");
        bed.node.accept_loss(bed.target).unwrap();
        client
            .write(bed.target, Lba(writing_lba), &[1; 512])
            .unwrap();
        assert_eq!(client.flush(bed.target), Ok(Durability::Claimed));
        let stat = bed.node.stat().unwrap();
        let (one, other) = (
            &stat.shards[hearing].counters,
            &stat.shards[1 - hearing].counters,
        );
        assert_eq!((one.forwarded_out, one.forwarded_in), (1, 0));
        assert_eq!((other.forwarded_out, other.forwarded_in), (0, 1));
    }
}

#[test]
fn a_flush_submitted_raw_completes_once_for_all_shards() {
    let bed = bed(3);
    let mut client = bed.node.client(4).unwrap();
    for _ in 0..4 {
        client.submit(flush(bed.target)).unwrap();
    }
    for _ in 0..4 {
        let done = client.wait(SOON).unwrap();
        assert_eq!(done.user, 77);
        assert_eq!(done.result, Ok(Outcome::Flushed(Durability::Claimed)));
    }
    assert!(client.poll().is_none());
    assert_eq!(bed.blade.flushes.load(Ordering::Relaxed), 12);
}

#[test]
fn a_deadline_ends_a_request_that_nobody_answers() {
    let bed = bed(1);
    bed.blade.silent.store(true, Ordering::Relaxed);
    let mut client = bed.node.client(1).unwrap();
    client.set_request_timeout(Duration::from_millis(150));
    let start = Instant::now();
    let error = client.read(bed.target, Lba(5), &mut [0; 512]).unwrap_err();
    assert!(
        matches!(
            error,
            BlockingError::Data {
                lba: 5,
                error: RequestError::Io(IoError::Deadline { .. })
            }
        ),
        "{error}"
    );
    assert!(start.elapsed() >= Duration::from_millis(150));
    assert!(start.elapsed() < SOON);
}

#[test]
fn senseless_settings_are_named() {
    let start = |change: fn(&mut NodeConfig), shards: usize| {
        let mut config = config();
        change(&mut config);
        let blade = Blade::new(64);
        let links = (0..shards).map(|_| vec![blade.link()]).collect();
        Node::start(&config, links).unwrap_err().to_string()
    };
    type Change = fn(&mut NodeConfig);
    let cases: [(Change, usize, &str); 7] = [
        (|_| {}, 0, "shards"),
        (|_| {}, 17, "shards"),
        (|config| config.burst_frames_max = 0, 1, "burst_frames_max"),
        (|config| config.stripe_sectors = 0, 1, "stripe_sectors"),
        (|config| config.cores = Some(vec![0]), 2, "cores"),
        (|config| config.memory.buffer_bytes = 1000, 1, "1000 bytes"),
        (
            |config| config.initiator.requests_max = 0,
            1,
            "requests_max",
        ),
    ];
    for (change, shards, named) in cases {
        let text = start(change, shards);
        assert!(text.contains(named), "{text}");
    }
    let none: Vec<Vec<blade::BladeLink>> = vec![Vec::new()];
    assert!(matches!(
        Node::start(&config(), none),
        Err(NodeError::Links)
    ));
}

#[test]
fn pinning_and_scheduling_are_reported() {
    let config = NodeConfig {
        cores: Some(vec![0]),
        ..config()
    };
    let bed = bed_with(1, &config);
    let stat = bed.node.stat().unwrap();
    assert_eq!(stat.shards[0].core, Some(0));
    assert_eq!(stat.shards[0].scheduling, "SCHED_OTHER");
    let config = NodeConfig {
        cores: Some(vec![100_000]),
        ..config
    };
    let bed = bed_with(1, &config);
    assert_eq!(
        bed.node.stat().unwrap().shards[0].core,
        None,
        "no such core: said so"
    );
}

#[test]
fn clients_may_move_to_other_threads() {
    fn is_send<T: Send>() {}
    is_send::<Client>();
    is_send::<Node>();
}
