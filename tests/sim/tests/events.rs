//! Single sequences of events, with what has to come of each and by when.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use sandrail_proto::aoe::initiator::{AttachFailure, IoError, Notice, Outcome, RestartEvidence};
use sandrail_proto::aoe::rotation::Rotation;
use sandrail_sim::bytes::{self, Fields};
use sandrail_sim::host::{Ask, Done, HostSpec, Ticket};
use sandrail_sim::net::{Fate, Rates};
use sandrail_sim::target::TargetSpec;
use sandrail_sim::world::{Mishap, World, WorldSpec};
use sandrail_wire::Lba;

const MS: u64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);
/// Station to station on the quiet network.
const WAY_NS: u64 = 5_000;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

struct Bench(World);

impl Bench {
    /// One host, one vblade of 1024 sectors with time for everything, no faults; attached.
    fn new(change: impl FnOnce(&mut WorldSpec)) -> Self {
        let mut bench = Self::detached(change);
        assert!(
            bench.0.run(2_000 * MS, |world| world
                .hosts
                .iter()
                .all(|host| host.is_attached())),
            "no attach"
        );
        bench.judge();
        bench
    }

    fn detached(change: impl FnOnce(&mut WorldSpec)) -> Self {
        let mut spec = WorldSpec {
            seed: 1,
            targets: vec![TargetSpec::vblade(0, 1024)],
            hosts: vec![HostSpec::new(0, 1, 1500)],
            rates: Rates::CLEAN,
            target_port_mtu_bytes: 9216,
            rogue: false,
            machine: None,
            puppets: Vec::new(),
        };
        change(&mut spec);
        let mut world = World::new(&spec).keeping();
        world.trace();
        Self(world)
    }

    fn judge(&self) {
        if let Some(violation) = self.0.violation() {
            let trace: Vec<_> = self.0.trace_lines().collect();
            panic!(
                "{}\n{violation}",
                trace[trace.len().saturating_sub(60)..].join("\n")
            );
        }
    }

    fn ask(&mut self, ask: Ask, timeout: Duration) -> Ticket {
        self.0.submit(0, 0, ask, timeout).expect("accepted")
    }

    fn write(&mut self, lba: u64, sectors: u64) -> Ticket {
        self.ask(
            Ask::Write {
                lba,
                sectors,
                refuse: false,
            },
            10 * SECOND,
        )
    }

    fn read(&mut self, lba: u64, sectors: u64) -> Ticket {
        self.ask(Ask::Read { lba, sectors }, 10 * SECOND)
    }

    fn find(world: &World, ticket: Ticket) -> Option<&Done> {
        world
            .done
            .iter()
            .flatten()
            .find(|done| done.ticket == ticket)
    }

    /// Runs until the request ends, for at most `within`.
    fn end(&mut self, ticket: Ticket, within: Duration) -> Done {
        let until_ns = self.0.now_ns() + u64::try_from(within.as_nanos()).unwrap();
        self.0
            .run(until_ns, |world| Self::find(world, ticket).is_some());
        self.judge();
        Self::find(&self.0, ticket)
            .cloned()
            .unwrap_or_else(|| panic!("not over within {within:?}"))
    }

    fn ok(&mut self, ticket: Ticket, within: Duration) -> Done {
        let done = self.end(ticket, within);
        assert!(done.result.is_ok(), "{done:?}");
        done
    }

    fn pass(&mut self, time: Duration) {
        self.0.run_for(time);
        self.judge();
    }

    fn hook(&mut self, mut decide: impl FnMut(u64, &Fields) -> Fate + 'static) {
        self.0.net.hook = Some(Box::new(move |now_ns, frame| match bytes::parse(frame) {
            Some(fields) => decide(now_ns, &fields),
            None => Fate::ByRates,
        }));
    }

    fn told(&self, which: impl Fn(&Notice) -> bool) -> Option<u64> {
        let told = self
            .0
            .notices
            .iter()
            .flatten()
            .find(|(_, _, notice)| which(notice));
        told.map(|(at_ns, _, _)| *at_ns)
    }
}

/// Loses the first frame that `which` picks.
fn lose_first(
    which: impl Fn(&Fields) -> bool + 'static,
) -> impl FnMut(u64, &Fields) -> Fate + 'static {
    let mut lost = false;
    move |_, fields| {
        if !lost && which(fields) {
            lost = true;
            return Fate::Lose;
        }
        Fate::ByRates
    }
}

#[test]
fn the_first_lost_frame_on_a_fresh_device_costs_at_most_50_ms() {
    for response in [false, true] {
        for write in [false, true] {
            let mut bench = Bench::new(|_| ());
            bench.hook(lose_first(move |fields| {
                fields.response == response && fields.ata.is_some()
            }));
            let ticket = if write {
                bench.write(0, 2)
            } else {
                bench.read(0, 2)
            };
            let done = bench.ok(ticket, SECOND);
            let cost_ns = done.at_ns - done.submitted_ns;
            assert!(
                cost_ns <= 50 * MS,
                "write {write}, response lost {response}: {cost_ns} ns"
            );
            assert!(cost_ns >= MS, "nothing was lost: the test is void");
        }
    }
}

#[test]
fn a_reservation_of_others_is_told_in_the_turn_in_which_the_answer_arrives() {
    let mut bench = Bench::new(|_| ());
    bench.0.befall(Mishap::Reserve {
        target: 0,
        for_ns: u64::MAX,
    });
    let refused_at_ns = Rc::new(Cell::new(0));
    let seen = Rc::clone(&refused_at_ns);
    bench.hook(move |now_ns, fields| {
        if fields.response && fields.refused {
            seen.set(now_ns + WAY_NS);
            return Fate::After(WAY_NS);
        }
        Fate::ByRates
    });
    for ask in [
        Ask::Read { lba: 5, sectors: 9 },
        Ask::Write {
            lba: 5,
            sectors: 1,
            refuse: false,
        },
        Ask::Flush,
    ] {
        let ticket = bench.ask(ask, SECOND);
        let done = bench.end(ticket, SECOND);
        let Err(IoError::Aoe(error)) = done.result else {
            panic!("{done:?}")
        };
        assert_eq!(u8::from(error), 6);
        assert!(done.at_ns - done.submitted_ns < MS, "{done:?}");
        // A later piece may have been refused before the first one was taken note of; none after.
        assert!(
            done.at_ns <= refused_at_ns.get() + 1_000,
            "{done:?} arrived {}",
            refused_at_ns.get()
        );
    }
    let reservation = bench.ask(Ask::ReadReservation, SECOND);
    let done = bench.ok(reservation, SECOND);
    assert_eq!(
        done.result,
        Ok(Outcome::Answer {
            len_bytes: 6,
            mask_error: 0
        })
    );
}

/// Keeps eight requests under way while something happens to the target for 2 s from 100 ms on; the times of all ends.
fn through_an_absence(mishap: Mishap) -> (Bench, u64, Vec<Done>) {
    let mut bench = Bench::new(|_| ());
    let start_ns = bench.0.now_ns() + 5 * MS;
    bench.0.plan(start_ns, mishap);
    let back_ns = start_ns + 2_000 * MS;
    let mut under_way: Vec<Ticket> = Vec::new();
    let mut next = 0;
    while bench.0.now_ns() < back_ns {
        under_way.retain(|ticket| Bench::find(&bench.0, *ticket).is_none());
        while under_way.len() < 8 {
            // Every sector once: nothing waits for a closed range.
            let lba = next * 4;
            under_way.push(if next % 2 == 0 {
                bench.write(lba, 4)
            } else {
                bench.read(lba, 4)
            });
            next += 1;
        }
        let until_ns = bench.0.now_ns() + MS;
        bench.0.run(until_ns, |_| false);
        bench.judge();
    }
    for ticket in under_way {
        bench.ok(ticket, SECOND);
    }
    let done = bench.0.done.clone().unwrap();
    assert!(
        done.iter().all(|done| done.result.is_ok()),
        "nothing may fail: all had 10 s"
    );
    (bench, back_ns, done)
}

#[test]
fn io_resumes_within_200_ms_of_a_stopped_targets_return() {
    let pause = Mishap::PauseTarget {
        target: 0,
        queue: 0,
        for_ns: 2_000 * MS,
    };
    let (_, back_ns, done) = through_an_absence(pause);
    let begun_before = |done: &&Done| done.submitted_ns < back_ns - MS;
    let stragglers = done
        .iter()
        .filter(begun_before)
        .map(|done| done.at_ns)
        .max()
        .unwrap();
    assert!(
        stragglers > back_ns,
        "nothing waited for the target: the test is void"
    );
    assert!(
        stragglers <= back_ns + 200 * MS,
        "{} ms",
        (stragglers - back_ns) / MS
    );
}

#[test]
fn io_resumes_within_200_ms_of_a_killed_targets_return() {
    for advertises in [false, true] {
        let restart = Mishap::RestartTarget {
            target: 0,
            down_ns: 2_000 * MS,
            power: false,
            advertises,
        };
        let (bench, back_ns, done) = through_an_absence(restart);
        let begun_before = |done: &&Done| done.submitted_ns < back_ns - MS;
        let stragglers = done
            .iter()
            .filter(begun_before)
            .map(|done| done.at_ns)
            .max()
            .unwrap();
        assert!(
            stragglers > back_ns,
            "nothing waited for the target: the test is void"
        );
        assert!(
            stragglers <= back_ns + 200 * MS,
            "{} ms",
            (stragglers - back_ns) / MS
        );
        let told = bench.told(|notice| matches!(notice, Notice::RestartSuspected { .. }));
        assert!(told.expect("a restart is told") >= back_ns);
    }
}

#[test]
fn a_silent_target_is_asked_by_config_queries_and_not_by_heaps_of_writes() {
    let mut bench = Bench::new(|_| ());
    bench.0.befall(Mishap::PauseTarget {
        target: 0,
        queue: 0,
        for_ns: 2_000 * MS,
    });
    let writes: Vec<_> = (0..8).map(|place| bench.write(place * 2, 2)).collect();
    bench.pass(ms(1_999));
    let tally = bench.0.tally;
    assert!(
        tally.write_frames <= 8 * 4,
        "{} copies of 8 WRITEs in 2 s of silence",
        tally.write_frames
    );
    assert!(
        tally.query_frames >= 20,
        "only {} config queries in 2 s of silence",
        tally.query_frames
    );
    for write in writes {
        bench.ok(write, ms(200));
    }
}

#[test]
fn a_target_killed_for_good_ends_everything_by_its_deadline() {
    let mut bench = Bench::new(|_| ());
    bench.0.befall(Mishap::RestartTarget {
        target: 0,
        down_ns: u64::MAX,
        power: false,
        advertises: false,
    });
    for timeout in [ms(30), ms(300), ms(3_000)] {
        for ask in [
            Ask::Read { lba: 0, sectors: 8 },
            Ask::Write {
                lba: 0,
                sectors: 8,
                refuse: false,
            },
            Ask::Flush,
        ] {
            let ticket = bench.ask(ask, timeout);
            let done = bench.end(ticket, timeout + ms(1));
            assert!(
                matches!(done.result, Err(IoError::Deadline { .. })),
                "{done:?}"
            );
        }
    }
    let ticket = bench.read(0, 1);
    let done = bench.end(ticket, 11 * SECOND);
    assert!(
        matches!(done.result, Err(IoError::Deadline { silent: true, .. })),
        "{done:?}"
    );
}

#[test]
fn a_restart_that_forgets_the_reservation_is_told() {
    let mut bench = Bench::new(|_| ());
    bench.0.blades[0].target.reserve(&[[2, 0, 0, 0, 0, 0xa0]]);
    let write = bench.write(0, 1);
    bench.ok(write, SECOND);
    let back_ns = bench.0.now_ns() + 10 * MS;
    bench.0.befall(Mishap::RestartTarget {
        target: 0,
        down_ns: 10 * MS,
        power: false,
        advertises: true,
    });
    bench.pass(ms(50));
    let is_told = |notice: &Notice| {
        matches!(
            notice,
            Notice::RestartSuspected {
                evidence: RestartEvidence::Advertisement,
                unflushed: true,
                ..
            }
        )
    };
    let told_ns = bench.told(is_told).expect("told");
    assert!(
        told_ns <= back_ns + MS,
        "{} us after the advertisement",
        (told_ns - back_ns) / 1000
    );
    let list = bench.ask(Ask::ReadReservation, SECOND);
    assert_eq!(
        bench.ok(list, SECOND).result,
        Ok(Outcome::Answer {
            len_bytes: 0,
            mask_error: 0
        })
    );
    let flush = bench.ask(Ask::Flush, SECOND);
    let done = bench.end(flush, SECOND);
    assert_eq!(
        done.result,
        Err(IoError::UnflushedLost(RestartEvidence::Advertisement))
    );
}

#[test]
fn vblades_advertisement_of_version_0_is_seen() {
    let mut bench = Bench::detached(|_| ());
    // Nobody is there yet; its first frame is the advertisement.
    bench.0.befall(Mishap::RestartTarget {
        target: 0,
        down_ns: 300 * MS,
        power: false,
        advertises: true,
    });
    bench.pass(ms(290));
    assert!(
        bench
            .told(|notice| matches!(notice, Notice::Seen(_)))
            .is_none()
    );
    bench.pass(ms(200));
    let seen = |notice: &Notice| match notice {
        Notice::Seen(sighting) => sighting.advertised && sighting.version == 0,
        _ => false,
    };
    assert!(bench.told(seen).is_some());
    assert!(
        bench.0.hosts[0].is_attached(),
        "and the attach that was waiting goes on"
    );
}

#[test]
fn a_jumbo_black_hole_after_the_attach_is_got_round() {
    let mut bench = Bench::new(|spec| {
        spec.hosts = vec![HostSpec::new(0, 1, 9000)];
        spec.targets[0].count_max = 17;
    });
    let before = bench.0.tally.write_frames;
    let ticket = bench.write(0, 34);
    bench.ok(ticket, SECOND);
    assert_eq!(
        bench.0.tally.write_frames - before,
        2,
        "jumbo frames are used at first"
    );
    let port = bench.0.net.port_of([2, 0, 0, 0, 1, 0]).unwrap();
    bench.0.befall(Mishap::Shrink {
        port,
        mtu_bytes: 1500,
    });
    let tickets: Vec<_> = (0..8)
        .map(|place| {
            if place % 2 == 0 {
                bench.write(place * 34, 34)
            } else {
                bench.read(place * 34, 34)
            }
        })
        .collect();
    for ticket in tickets {
        bench.ok(ticket, 2 * SECOND);
    }
    let changed = |notice: &Notice| matches!(notice, Notice::PayloadChanged(_, path) if path.payload_sectors == 2);
    assert!(bench.told(changed).is_some());
}

#[test]
fn a_rogue_is_told_of_and_never_sent_to() {
    let mut bench = Bench::new(|spec| spec.rogue = true);
    // Any frame to the rogue is a violation, which `ok` would find.
    for lba in 0..50 {
        let (write, read) = (bench.write(lba, 3), bench.read(lba, 3));
        bench.ok(write, SECOND);
        bench.ok(read, SECOND);
    }
    assert!(
        bench
            .told(|notice| matches!(notice, Notice::Rogue { .. }))
            .is_some()
    );
}

#[test]
fn without_a_pinned_mac_two_answers_fail_the_attach() {
    let mut bench = Bench::detached(|spec| {
        spec.rogue = true;
        spec.hosts[0].pins = false;
    });
    bench.pass(SECOND);
    let ambiguous = |notice: &Notice| {
        matches!(
            notice,
            Notice::AttachFailed(_, _, AttachFailure::Ambiguous(..))
        )
    };
    assert!(bench.told(ambiguous).is_some());
    assert!(!bench.0.hosts[0].is_attached());
}

#[test]
fn the_buffer_count_is_honoured_by_all_interfaces_together() {
    for (interfaces, buffer_count) in [(1, 1), (1, 4), (2, 4), (2, 16)] {
        let mut bench = Bench::new(|spec| {
            spec.hosts = vec![HostSpec::new(0, interfaces, 1500)];
            spec.targets[0].buffer_count = buffer_count;
            spec.targets[0].socket_frames = 1000;
        });
        bench.0.blades[0].crowd_max = 0;
        let tickets: Vec<_> = (0..24)
            .map(|place| {
                if place % 2 == 0 {
                    bench.write(place * 32, 32)
                } else {
                    bench.read(place * 32, 32)
                }
            })
            .collect();
        for ticket in tickets {
            bench.ok(ticket, SECOND);
        }
        let crowd = bench.0.blades[0].crowd_max;
        let most = usize::from(buffer_count);
        assert!(
            crowd <= most,
            "{crowd} frames at a target of {most} buffers, {interfaces} interfaces"
        );
        assert!(
            crowd * 2 > most,
            "the target was never busy: the test is void"
        );
    }
}

/// Sends the first WRITE's first copy on a way of `way_ns`; the time it was sent.
fn hold_first_write(bench: &mut Bench, way_ns: u64) -> Rc<RefCell<Vec<(u64, u64)>>> {
    let sent = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&sent);
    bench.hook(move |now_ns, fields| {
        let Some((lba, _)) = fields.write_request() else {
            return Fate::ByRates;
        };
        log.borrow_mut().push((now_ns, lba));
        if log.borrow().len() == 1 {
            Fate::After(way_ns)
        } else {
            Fate::ByRates
        }
    });
    sent
}

#[test]
fn an_overlapping_write_waits_for_the_last_copy_and_reads_go_on() {
    let mut bench = Bench::new(|_| ());
    let sent = hold_first_write(&mut bench, 500 * MS);
    let held_ns = bench.0.now_ns();
    let first = bench.write(10, 2);
    bench.ok(first, ms(50));
    assert_eq!(bench.0.hosts[0].unaccounted(), 1);
    let (second, read, beside) = (bench.write(11, 2), bench.read(10, 2), bench.write(12, 1));
    bench.ok(read, ms(5));
    bench.pass(ms(5));
    // What comes behind the second in line for its sectors waits, too, or it would be overtaken.
    assert!(Bench::find(&bench.0, beside).is_none());
    let apart = bench.write(20, 2);
    bench.ok(apart, ms(5));
    let done = bench.ok(second, SECOND);
    assert!(
        done.at_ns >= held_ns + 500 * MS,
        "sent before the late copy was answered: {done:?}"
    );
    assert!(
        done.at_ns <= held_ns + 510 * MS,
        "and not later than needed: {done:?}"
    );
    bench.ok(beside, ms(5));
    let early: Vec<_> = sent
        .borrow()
        .iter()
        .copied()
        .filter(|(at_ns, lba)| *lba == 11 && *at_ns < held_ns + 500 * MS)
        .collect();
    assert_eq!(early, []);
}

#[test]
fn a_lost_copy_opens_its_range_by_a_probe_after_the_lifetime() {
    let mut bench = Bench::new(|_| ());
    let sent = Rc::new(Cell::new(0));
    let first_ns = Rc::clone(&sent);
    bench.hook(move |now_ns, fields| {
        if fields.write_request().is_some() && first_ns.get() == 0 {
            first_ns.set(now_ns);
            return Fate::Lose;
        }
        Fate::ByRates
    });
    let first = bench.write(10, 2);
    bench.ok(first, ms(50));
    let second = bench.write(10, 2);
    let done = bench.ok(second, 5 * SECOND);
    // The second copy left some milliseconds after the first, and its lifetime counts.
    let waited_ns = done.at_ns - sent.get();
    assert!(
        (2_000 * MS..2_100 * MS).contains(&waited_ns),
        "{} ms",
        waited_ns / MS
    );
    assert_eq!(bench.0.hosts[0].unaccounted(), 0);
}

#[test]
fn a_write_past_its_deadline_keeps_its_range_closed_until_a_probe_is_answered() {
    let mut bench = Bench::new(|_| ());
    bench.0.befall(Mishap::PauseTarget {
        target: 0,
        queue: 0,
        for_ns: 6_000 * MS,
    });
    let start_ns = bench.0.now_ns();
    let late = bench.ask(
        Ask::Write {
            lba: 10,
            sectors: 2,
            refuse: false,
        },
        ms(100),
    );
    let done = bench.end(late, ms(101));
    assert!(
        matches!(done.result, Err(IoError::Deadline { .. })),
        "{done:?}"
    );
    let second = bench.write(10, 2);
    bench.pass(ms(5_800));
    assert_eq!(
        bench.0.hosts[0].unaccounted(),
        1,
        "a lifetime alone opens nothing while the target is silent"
    );
    assert!(Bench::find(&bench.0, second).is_none());
    // Back, it answers the copies that waited in its socket.
    let done = bench.ok(second, SECOND);
    assert!(done.at_ns <= start_ns + 6_200 * MS, "{done:?}");
}

#[test]
fn a_refusing_write_is_refused_while_its_range_is_closed() {
    let mut bench = Bench::new(|_| ());
    hold_first_write(&mut bench, 300 * MS);
    let first = bench.write(10, 2);
    bench.ok(first, ms(50));
    let ask = Ask::Write {
        lba: 9,
        sectors: 2,
        refuse: true,
    };
    assert!(bench.0.submit(0, 0, ask, SECOND).is_err());
    bench.pass(ms(300));
    let ticket = bench.ask(ask, SECOND);
    bench.ok(ticket, ms(5));
}

/// S4: a heartbeat that rotates never waits, though every copy is lost or almost a lifetime late. Each is given up in
/// time for its last copy to die before its sector comes round again.
#[test]
fn a_rotating_heartbeat_never_waits() {
    let (period, lifetime) = (ms(50), 2 * SECOND);
    let sectors = Rotation::needed_sectors(period, lifetime);
    let mut rotation = Rotation::new(Lba(100), sectors, period, lifetime).expect("enough sectors");
    let mut bench = Bench::new(|spec| spec.hosts[0].config.requests_max = 256);
    let mut turn = 0_u64;
    bench.hook(move |_, fields| match fields.write_request() {
        Some(_) => {
            turn += 1;
            if turn.is_multiple_of(2) {
                Fate::Lose
            } else {
                Fate::After(1_900 * MS)
            }
        }
        None => Fate::ByRates,
    });
    let mut beats = Vec::new();
    for _ in 0..3 * sectors {
        let ask = Ask::Write {
            lba: rotation.advance().0,
            sectors: 1,
            refuse: true,
        };
        beats.push(
            bench
                .0
                .submit(0, 0, ask, SECOND)
                .expect("the range is open"),
        );
        bench.pass(period);
    }
    bench.pass(4 * SECOND);
    assert!(
        beats
            .into_iter()
            .all(|beat| Bench::find(&bench.0, beat).is_some())
    );
}

#[test]
fn a_shrunken_device_is_noticed_and_reads_past_its_end_fail_at_once() {
    let mut bench = Bench::new(|_| ());
    bench.0.befall(Mishap::Resize {
        target: 0,
        sectors: 512,
    });
    let ticket = bench.read(600, 2);
    let done = bench.end(ticket, ms(5));
    let Err(IoError::Ata { status, error, lba }) = done.result else {
        panic!("{done:?}")
    };
    assert_eq!((status, error, lba), (0x41, 0x10, 600));
}

#[test]
fn a_detached_target_drains_its_late_copies_before_it_can_be_attached_again() {
    let mut bench = Bench::new(|_| ());
    bench.hook(lose_first(|fields| fields.write_request().is_some()));
    let write = bench.write(10, 2);
    bench.ok(write, ms(50));
    let (under_way, start_ns) = (bench.write(10, 2), bench.0.now_ns());
    bench.0.befall(Mishap::Detach { host: 0, target: 0 });
    let done = bench.end(under_way, ms(1));
    assert_eq!(done.result, Err(IoError::Detached));
    bench.pass(ms(1_900));
    assert!(!bench.0.hosts[0].is_attached(), "a copy is unaccounted for");
    bench
        .0
        .run(start_ns + 3_000 * MS, |world| world.hosts[0].is_attached());
    bench.judge();
    assert!(bench.0.hosts[0].is_attached());
    let again = bench.write(10, 2);
    bench.ok(again, ms(5));
}

#[test]
fn a_probe_lost_at_the_detach_is_sent_again() {
    let mut bench = Bench::new(|_| ());
    let mut lose_writes = lose_first(|fields| fields.write_request().is_some());
    let deaf = Rc::new(Cell::new(true));
    let is_deaf = Rc::clone(&deaf);
    bench.hook(move |now_ns, fields| {
        if is_deaf.get() && fields.response && fields.command == 1 {
            return Fate::Lose;
        }
        lose_writes(now_ns, fields)
    });
    let write = bench.write(10, 2);
    bench.ok(write, ms(50));
    bench.pass(ms(2_030));
    assert_eq!(bench.0.hosts[0].unaccounted(), 1, "the probe is under way");
    bench.0.befall(Mishap::Detach { host: 0, target: 0 });
    deaf.set(false);
    let until_ns = bench.0.now_ns() + 500 * MS;
    bench.0.run(until_ns, |world| world.hosts[0].is_attached());
    bench.judge();
    assert!(bench.0.hosts[0].is_attached());
}
