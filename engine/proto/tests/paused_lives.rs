//! Processes that were only paused, and come back after their node was fenced, or crashed and came back by another path: the real
//! initiator against the real target, over the target's restarts (S5, S10).

mod pair;

use core::time::Duration;

use pair::disk::{content, version_in};
use pair::{Pair, host_mac, ms};
use sandrail_proto::aoe::initiator::*;
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

const WRITE: Operation = Operation::Write {
    lba: Lba(3),
    if_closed: IfClosed::Wait,
};

fn ask(
    pair: &mut Pair,
    host: usize,
    operation: Operation,
    buffer: Vec<u8>,
) -> Result<Outcome, IoError> {
    let now = pair.now;
    let asked = pair.hosts[host].submit(now, operation, buffer, ms(3000), 0);
    asked.expect("attached");
    pair.run_until_done(host, 1, ms(3100));
    pair.result(host)
}

fn write(pair: &mut Pair, host: usize, version: u64) -> Result<Outcome, IoError> {
    ask(pair, host, WRITE, content(3, version).to_vec())
}

fn on_disk(pair: &Pair) -> u64 {
    version_in(&pair.medium().memory, 3)
}

/// Fences `host` by the coordinator, and lists it again.
fn fence_and_list(pair: &mut Pair, coordinator: usize, host: u8) {
    let coordinators = u8::try_from(coordinator).unwrap();
    for (epoch, hosts) in [(1, vec![coordinators]), (2, vec![coordinators, host])] {
        let macs = hosts
            .iter()
            .flat_map(|host| [host_mac(*host, 0), host_mac(*host, 1)]);
        let mut list: Vec<u8> = macs.flat_map(|mac| mac.0).collect();
        let len_bytes = u16::try_from(list.len()).unwrap();
        list.resize(64, 0);
        let operation = Operation::ReserveEpoch { epoch, len_bytes };
        let result = ask(pair, coordinator, operation, list);
        let len_bytes = usize::from(len_bytes);
        assert_eq!(result, Ok(Outcome::Reserved { epoch, len_bytes }));
    }
}

fn restart_blade(pair: &mut Pair) {
    pair.stop_blade(false);
    pair.run(ms(10));
    pair.start_blade();
}

/// Life 7 has a session and a write under way; it is paused, the blade is started anew, the node is fenced and listed again, life 8
/// writes. Then life 7 goes on.
#[test]
fn a_paused_life_that_was_fenced_unknown_stays_out() {
    for (next_life_first, interfaces) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let mut pair = Pair::new(7, SECTORS, LIFETIME);
        let worker = pair.add_host(interfaces, config());
        let coordinator = pair.add_host(2, config());
        pair.run(ms(200));
        assert_eq!(write(&mut pair, worker, 1), Ok(Outcome::Written));
        let now = pair.now;
        let begun = content(3, 2).to_vec();
        let asked = pair.hosts[worker].submit(now, WRITE, begun, ms(10_000), 0);
        asked.expect("attached");
        let old = pair.pause(worker);
        restart_blade(&mut pair);
        fence_and_list(&mut pair, coordinator, 0);
        assert_eq!(on_disk(&pair), 1);
        if next_life_first {
            pair.boot(worker);
            pair.run(ms(200));
            assert_eq!(write(&mut pair, worker, 3), Ok(Outcome::Written));
            pair.crash(worker);
        }
        let expected = on_disk(&pair);
        pair.resume(worker, old);
        pair.run_until_done(worker, 1, ms(12_000));
        let refused = Err(IoError::NoSession(SessionRefusal::Fenced));
        assert_eq!(
            pair.result(worker),
            refused,
            "{next_life_first} {interfaces}"
        );
        // Attached anew it is the same life.
        let target = pair.hosts[worker].target.take().unwrap();
        let now = pair.now;
        let initiator = pair.hosts[worker].initiator.as_mut();
        initiator.unwrap().detach(now, target);
        pair.run(ms(3000));
        let refused = SessionState::Refused(SessionRefusal::Fenced);
        assert_eq!(pair.hosts[worker].session(), refused);
        assert_eq!(on_disk(&pair), expected);
        pair.boot(worker);
        pair.run(ms(200));
        assert_eq!(write(&mut pair, worker, 4), Ok(Outcome::Written));
    }
}

/// Not fenced, a life that was paused while the blade was started anew goes on as if nothing had been.
#[test]
fn a_paused_life_that_was_not_fenced_goes_on() {
    let mut pair = Pair::new(8, SECTORS, LIFETIME);
    let worker = pair.add_host(2, config());
    pair.run(ms(200));
    assert_eq!(write(&mut pair, worker, 1), Ok(Outcome::Written));
    let paused = pair.pause(worker);
    for _ in 0..3 {
        restart_blade(&mut pair);
        pair.run(ms(500));
    }
    pair.resume(worker, paused);
    assert_eq!(write(&mut pair, worker, 2), Ok(Outcome::Written));
    assert_eq!(on_disk(&pair), 2);
}

/// What the target has forgotten of births it gives anew: a target without a memory is none to be shut out from.
#[test]
fn a_target_that_forgets_its_births_gives_others() {
    let mut pair = Pair::new(9, SECTORS, LIFETIME);
    let worker = pair.add_host(1, config());
    for life in 0..5 {
        pair.run(ms(200));
        assert_eq!(write(&mut pair, worker, life + 1), Ok(Outcome::Written));
        pair.crash(worker);
        pair.boot(worker);
    }
    pair.run(ms(200));
    pair.stop_blade(false);
    pair.forget();
    pair.start_blade();
    assert_eq!(write(&mut pair, worker, 9), Ok(Outcome::Written));
    assert_eq!(on_disk(&pair), 9);
}
