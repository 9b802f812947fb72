//! Sessions between the real initiator and the real target (S5 to S10), with a judge that looks at the disk itself.
#![allow(clippy::cast_possible_truncation, reason = "test data")]

mod pair;

use core::time::Duration;

use pair::disk::{content, version_in};
use pair::{Pair, Rates, host_mac, ms};
use sandrail_proto::aoe::initiator::*;
use sandrail_proto::time::Instant;
use sandrail_wire::Lba;

const SECTORS: u64 = 48;
const LIFETIME: Duration = Duration::from_millis(400);

fn config() -> InitiatorConfig {
    InitiatorConfig {
        frame_lifetime: LIFETIME,
        commands_max: 256,
        requests_max: 64,
        ..InitiatorConfig::default()
    }
}

/// What goes wrong in a history.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rates: Rates,
    /// Restarts of the blade, and how many in a hundred of them with a failure of power.
    restarts: u32,
    power_percent: u8,
    pauses: u32,
    crashes: u32,
    interfaces: u8,
    slowest_ms: u64,
}

/// What the judge knows of a sector.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// The version acknowledged last.
    acked: u64,
    /// The version that is being written, or may have been: 0 for none.
    open: u64,
    /// A failure of power may have taken the acknowledged version back.
    shaken: bool,
    /// The owner was told of the loss, and has not written it again yet.
    told: bool,
    /// Versions that were given up and may still come, until the next is acknowledged.
    abandoned: Vec<u64>,
}

struct Judge {
    pair: Pair,
    sectors: Vec<Sector>,
    versions: u64,
    /// Since the last flush that succeeded.
    unflushed: Vec<bool>,
    flush: Option<Vec<u64>>,
    rewrite: Vec<u64>,
    done: u32,
    flushes: u32,
    losses: u32,
    deadlines: u32,
    life: u64,
    seed: u64,
}

const FLUSH_USER: u64 = u64::MAX;

impl Judge {
    fn new(seed: u64, plan: &Plan) -> Self {
        let mut pair = Pair::new(seed, SECTORS, LIFETIME);
        pair.rates = plan.rates;
        pair.slowest_ms = plan.slowest_ms;
        pair.stop_blade(false);
        pair.start_blade();
        pair.add_host(plan.interfaces, config());
        Self {
            pair,
            sectors: vec![Sector::default(); SECTORS as usize],
            versions: 0,
            unflushed: vec![false; SECTORS as usize],
            flush: None,
            rewrite: Vec::new(),
            done: 0,
            flushes: 0,
            losses: 0,
            deadlines: 0,
            life: 0,
            seed,
        }
    }

    /// Writes `count` sectors from `lba` on, if none of them is being written.
    fn write(&mut self, lba: u64, count: u64) {
        let range = lba as usize..(lba + count) as usize;
        if self.sectors[range.clone()].iter().any(|s| s.open != 0) {
            return;
        }
        let version = self.versions + 1;
        let data: Vec<u8> = (lba..lba + count)
            .flat_map(|lba| content(lba, version))
            .collect();
        let operation = Operation::Write {
            lba: Lba(lba),
            if_closed: IfClosed::Wait,
        };
        let timeout = ms(self.pair.rng.u64(30..4000));
        let now = self.pair.now;
        let user = self.life << 32 | version << 8 | count;
        if self.pair.hosts[0]
            .submit(now, operation, data, timeout, user)
            .is_ok()
        {
            self.versions = version;
            for sector in &mut self.sectors[range] {
                sector.open = version;
            }
        }
    }

    fn begin_flush(&mut self) {
        let now = self.pair.now;
        let host = &mut self.pair.hosts[0];
        if self.flush.is_none()
            && host
                .submit(now, Operation::Flush, vec![], ms(4000), FLUSH_USER)
                .is_ok()
        {
            // What the owner knows to be lost is no flush's to cover.
            let covered = |sector: &Sector| if sector.told { 0 } else { sector.acked };
            self.flush = Some(self.sectors.iter().map(covered).collect());
        }
    }

    fn ends(&mut self) {
        while let Some(done) = self.pair.hosts[0].done.pop_front() {
            self.done += 1;
            match done.operation {
                Operation::Write { lba, .. } => {
                    let (version, count) = (done.user >> 8 & 0xff_ffff, done.user & 0xff);
                    self.write_ended(lba.0, version, count, done.result);
                }
                Operation::Flush => self.flush_ended(done.result),
                _ => {}
            }
        }
    }

    fn write_ended(
        &mut self,
        lba: u64,
        version: u64,
        count: u64,
        result: Result<Outcome, IoError>,
    ) {
        for at in lba as usize..(lba + count) as usize {
            let sector = &mut self.sectors[at];
            assert_eq!(sector.open, version);
            sector.open = 0;
            match result {
                Ok(Outcome::Written) => {
                    *sector = Sector {
                        acked: version,
                        // A power failure between the acknowledgement and its arrival here.
                        shaken: version_in(&self.pair.medium().memory, at as u64) != version,
                        ..Sector::default()
                    };
                    assert!(
                        !sector.shaken || self.losses_possible(),
                        "seed {}: sector {at} acknowledged as {version}, but not so",
                        self.seed
                    );
                    self.unflushed[at] = true;
                }
                Err(IoError::Deadline { .. }) => {
                    sector.abandoned.push(version);
                    self.deadlines += 1;
                }
                other => panic!("seed {}: {other:?}", self.seed),
            }
        }
    }

    fn losses_possible(&self) -> bool {
        self.pair.medium().loss_mark > 1
    }

    fn flush_ended(&mut self, result: Result<Outcome, IoError>) {
        let covers = self.flush.take().expect("one at a time");
        match result {
            Ok(Outcome::Flushed(durability)) => {
                assert_eq!(durability, Durability::Claimed);
                self.flushes += 1;
                for (at, covered) in covers.into_iter().enumerate() {
                    let sector = &self.sectors[at];
                    let durable = version_in(&self.pair.medium().durable, at as u64);
                    assert!(
                        durable >= covered,
                        "seed {}: S7: a flush covered {covered} of sector {at}, where {durable} is durable",
                        self.seed
                    );
                    if sector.acked == covered && sector.open == 0 {
                        self.unflushed[at] = false;
                    }
                }
            }
            Err(IoError::UnflushedLost(evidence)) => {
                assert_eq!(evidence, RestartEvidence::Session);
                assert!(
                    self.losses_possible(),
                    "seed {}: nothing was ever lost",
                    self.seed
                );
                self.losses += 1;
                let host = &mut self.pair.hosts[0];
                if let (Some(initiator), Some(target)) = (&mut host.initiator, host.target) {
                    initiator.accept_loss(target);
                }
                for at in 0..self.sectors.len() {
                    if self.unflushed[at] {
                        self.sectors[at].told = true;
                        self.rewrite.push(at as u64);
                    }
                }
            }
            Err(IoError::Deadline { .. }) => {}
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    /// Every sector holds what it must: the version acknowledged last, or what is being written.
    fn look(&self) {
        for (at, sector) in self.sectors.iter().enumerate() {
            let holds = version_in(&self.pair.medium().memory, at as u64);
            let may = [sector.acked, sector.open];
            assert!(
                may.contains(&holds) || sector.abandoned.contains(&holds) || sector.shaken,
                "seed {}: at {:?} sector {at} holds {holds}: {sector:?}",
                self.seed,
                self.pair.now
            );
        }
    }

    fn restart_blade(&mut self, power: bool) {
        self.pair.stop_blade(power);
        if power {
            for sector in &mut self.sectors {
                sector.shaken = true;
            }
        }
    }

    /// The process ends and another begins, which knows what is on the disk and nothing else.
    fn crash(&mut self) {
        self.pair.crash(0);
        self.life += 1;
        self.flush = None;
        for (sector, unflushed) in self.sectors.iter_mut().zip(&self.unflushed) {
            // The new process does not know of what the old one had not flushed.
            sector.told |= *unflushed;
            if sector.open != 0 {
                // Versions given up earlier in this life are void with its session; these may still be carried out.
                sector.abandoned.push(sector.open);
                sector.open = 0;
            }
        }
        self.pair.boot(0);
    }

    fn run(&mut self, plan: &Plan, span: Duration) {
        let end = self.pair.now + span;
        let mut rng = fastrand::Rng::with_seed(!self.seed);
        let mut moments: Vec<(Instant, u8)> = Vec::new();
        for (kind, count) in [(0, plan.restarts), (1, plan.pauses), (2, plan.crashes)] {
            for _ in 0..count {
                moments.push((self.pair.now + span * rng.u32(..1000) / 1000, kind));
            }
        }
        let mut up_at = None;
        let mut next = self.pair.now;
        while self.pair.now < end {
            let now = self.pair.now;
            if up_at.is_some_and(|at| at <= now) {
                self.pair.start_blade();
                up_at = None;
            }
            while let Some(place) = moments.iter().position(|(at, _)| *at <= now) {
                match moments.swap_remove(place).1 {
                    0 => {
                        self.restart_blade(rng.u8(..100) < plan.power_percent);
                        up_at = Some(now + ms(rng.u64(..400)));
                    }
                    1 => self.pair.paused_until = now + ms(rng.u64(..1500)),
                    _ => self.crash(),
                }
            }
            if next <= now {
                next = now + Duration::from_micros(rng.u64(..20_000));
                match rng.u8(..16) {
                    0 => self.begin_flush(),
                    _ if !self.rewrite.is_empty() => {
                        let lba = self.rewrite.swap_remove(rng.usize(..self.rewrite.len()));
                        self.write(lba, 1);
                    }
                    _ => {
                        let lba = rng.u64(..SECTORS);
                        self.write(lba, rng.u64(1..=(SECTORS - lba).min(7)));
                    }
                }
            }
            self.pair.step(next.min(end));
            self.ends();
            self.look();
        }
    }

    /// All is well again: everything can be written and flushed.
    fn settle(&mut self) {
        self.pair.start_blade();
        self.pair.rates = Rates::CLEAN;
        self.pair.paused_until = Instant::ZERO;
        for _ in 0..2000 {
            self.pair.run(ms(20));
            self.ends();
            self.look();
            let still = self.sectors.iter().all(|sector| sector.open == 0);
            if still && self.flush.is_none() && self.pair.hosts[0].is_up() {
                break;
            }
        }
        for lba in 0..SECTORS {
            self.write(lba, 1);
            self.pair.run(ms(1));
        }
        for _ in 0..500 {
            self.begin_flush();
            self.pair.run(ms(20));
            self.ends();
            self.look();
        }
        for lba in 0..SECTORS {
            let sector = &self.sectors[lba as usize];
            let durable = version_in(&self.pair.medium().durable, lba);
            assert!(
                durable == sector.acked || sector.abandoned.contains(&durable),
                "seed {}: {lba} holds {durable}: {sector:?}",
                self.seed
            );
        }
        assert_eq!(self.pair.sessionless, 0, "S5");
        let initiator = self.pair.hosts[0].initiator.as_ref().unwrap();
        assert_eq!(initiator.unaccounted(), 0);
    }
}

/// How often things happened in all histories: a test in which nothing happens shows nothing.
#[derive(Debug, Default)]
struct Sum {
    done: u32,
    flushes: u32,
    losses: u32,
    deadlines: u32,
    counters: Counters,
}

/// With SANDRAIL_SEED set, from there on; then no two runs need be the same.
fn histories(seeds: core::ops::Range<u64>, plan: &Plan) -> Sum {
    let mut sum = Sum::default();
    let first: u64 = std::env::var("SANDRAIL_SEED").map_or(0, |seed| seed.parse().unwrap());
    for seed in seeds.map(|seed| first + seed) {
        let mut judge = Judge::new(seed, plan);
        judge.run(plan, ms(6000));
        judge.settle();
        sum.done += judge.done;
        sum.flushes += judge.flushes;
        sum.losses += judge.losses;
        sum.deadlines += judge.deadlines;
        let counters = judge.pair.hosts[0].initiator.as_ref().unwrap().counters();
        sum.counters.sessions += counters.sessions;
        sum.counters.sessions_void += counters.sessions_void;
        sum.counters.lingered_void += counters.lingered_void;
        sum.counters.tx_copies += counters.tx_copies;
        sum.counters.range_waits += counters.range_waits;
    }
    sum
}

const ROUGH: Rates = Rates {
    loss: 40,
    duplicate: 0,
    straggle: 40,
    straggle_ms: 390,
};

const PLAN: Plan = Plan {
    rates: ROUGH,
    restarts: 0,
    power_percent: 0,
    pauses: 0,
    crashes: 0,
    interfaces: 1,
    slowest_ms: 2,
};

#[test]
fn late_copies_within_a_session() {
    let rates = Rates {
        duplicate: 40,
        ..ROUGH
    };
    let sum = histories(0..25, &Plan { rates, ..PLAN });
    assert!(sum.counters.tx_copies > 500, "{sum:?}");
    assert_eq!((sum.counters.sessions_void, sum.losses), (0, 0), "{sum:?}");
}

/// S5, S7: restarts that lose nothing. Copies of former sessions come late, and harm nothing.
#[test]
fn restarts_that_lose_nothing() {
    let plan = Plan {
        restarts: 6,
        ..PLAN
    };
    let sum = histories(100..140, &plan);
    assert!(sum.counters.sessions > 120, "{sum:?}");
    assert!(sum.counters.lingered_void > 100, "{sum:?}");
    assert!(sum.flushes > 100 && sum.losses == 0, "{sum:?}");
}

/// S7: failures of power. Every flush that succeeds covers what it must.
#[test]
fn restarts_that_lose_what_was_not_flushed() {
    let plan = Plan {
        restarts: 8,
        power_percent: 70,
        ..PLAN
    };
    let sum = histories(200..240, &plan);
    assert!(sum.losses > 40 && sum.flushes > 100, "{sum:?}");
}

/// Pauses of the target and slow flushes are no restarts: nothing is ever told lost.
#[test]
fn pauses_lose_nothing() {
    let plan = Plan {
        pauses: 5,
        slowest_ms: 60,
        ..PLAN
    };
    let sum = histories(300..330, &plan);
    assert_eq!((sum.counters.sessions_void, sum.losses), (0, 0), "{sum:?}");
    assert!(sum.flushes > 50, "{sum:?}");
}

#[test]
fn everything_at_once_on_two_paths() {
    let plan = Plan {
        restarts: 5,
        power_percent: 40,
        pauses: 2,
        crashes: 2,
        interfaces: 2,
        ..PLAN
    };
    let sum = histories(400..450, &plan);
    assert!(sum.losses > 10 && sum.flushes > 100, "{sum:?}");
}

/// A process that crashes and starts anew writes at once, and what its former life sent harms nothing.
#[test]
fn new_lives_need_no_quarantine() {
    let plan = Plan { crashes: 6, ..PLAN };
    let sum = histories(500..540, &plan);
    assert!(sum.done > 4000, "{sum:?}");
}

/// S8, S9, S10: a coordinator shuts a host out by epoch; it can neither write nor flush, however it asks, and comes back as a new
/// life of its process only.
#[test]
fn a_fenced_host_stays_out_until_it_starts_anew() {
    let mut pair = Pair::new(1, SECTORS, LIFETIME);
    let worker = pair.add_host(1, config());
    let coordinator = pair.add_host(1, config());
    pair.run(ms(200));
    assert!(pair.hosts[worker].is_up() && pair.hosts[coordinator].is_up());
    let write = |pair: &mut Pair, version| {
        let operation = Operation::Write {
            lba: Lba(3),
            if_closed: IfClosed::Wait,
        };
        let data = content(3, version).to_vec();
        let now = pair.now;
        let host = &mut pair.hosts[worker];
        host.submit(now, operation, data, ms(3000), 0).unwrap();
        pair.run_until_done(worker, 1, ms(3100));
        pair.result(worker)
    };
    let reserve = |pair: &mut Pair, epoch, hosts: &[u8]| {
        let mut list: Vec<u8> = hosts.iter().flat_map(|host| host_mac(*host, 0).0).collect();
        let len_bytes = list.len() as u16;
        list.resize(64, 0);
        let operation = Operation::ReserveEpoch { epoch, len_bytes };
        let now = pair.now;
        let host = &mut pair.hosts[coordinator];
        host.submit(now, operation, list, ms(3000), 0).unwrap();
        pair.run_until_done(coordinator, 1, ms(3100));
        pair.result(coordinator)
    };
    assert_eq!(write(&mut pair, 1), Ok(Outcome::Written));
    let in_force = |epoch, macs: usize| {
        let len_bytes = macs * 6;
        Ok(Outcome::Reserved { epoch, len_bytes })
    };
    assert_eq!(reserve(&mut pair, 5, &[1]), in_force(5, 1));
    for version in 2..5 {
        let refused = write(&mut pair, version);
        let expected = [
            Err(IoError::NoSession(SessionRefusal::Reserved)),
            Err(IoError::Aoe(sandrail_wire::aoe::ErrorCode::TargetReserved)),
        ];
        assert!(expected.contains(&refused), "{refused:?}");
    }
    let stale = Err(IoError::StaleEpoch {
        epoch: 5,
        len_bytes: 6,
    });
    assert_eq!(reserve(&mut pair, 4, &[0, 1]), stale);
    assert_eq!(reserve(&mut pair, 6, &[0, 1]), in_force(6, 2));
    pair.run(ms(1000));
    for version in 5..8 {
        let fenced = Err(IoError::NoSession(SessionRefusal::Fenced));
        assert_eq!(write(&mut pair, version), fenced);
        pair.run(ms(60));
    }
    assert_eq!(version_in(&pair.medium().memory, 3), 1);
    pair.crash(worker);
    pair.boot(worker);
    pair.run(ms(200));
    assert!(matches!(
        pair.hosts[worker].session(),
        SessionState::Held(_)
    ));
    assert_eq!(write(&mut pair, 9), Ok(Outcome::Written));
    assert_eq!(version_in(&pair.medium().memory, 3), 9);
    assert_eq!(pair.sessionless, 0);
}

/// A target that forgets requests sooner than our frames die is none to write to.
#[test]
fn a_short_memory_fails_the_attach() {
    let mut pair = Pair::new(1, SECTORS, LIFETIME - ms(1));
    let host = pair.add_host(1, config());
    pair.run(ms(300));
    let refusal = SessionRefusal::Lifetime {
        lifetime_ms: 400,
        remembered_ms: 399,
    };
    let failure = AttachFailure::SessionRefused(refusal);
    assert_eq!(pair.hosts[host].failures.first(), Some(&failure));
}
