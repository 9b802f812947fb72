//! Errors and retransmissions come when they must.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use sandrail_e2e::{Pattern, Setup, Site, Wire};
use sandrail_lab::Side;
use sandrail_link::fault::{Direction, FaultPlan, Verdict};
use sandrail_node::{Client, Completion, Request, RequestError, TargetHandle, clock};
use sandrail_proto::aoe::initiator::{IfClosed, IoError, Operation, Outcome};
use sandrail_wire::aoe::{Body, ErrorCode, Repr, ReserveCommand};
use sandrail_wire::ethernet::HEADER_BYTES;
use sandrail_wire::{Lba, MacAddr};

use crate::turn;

/// A refusal reaches the caller this soon after its arrival.
const TOLD_WITHIN: Duration = Duration::from_millis(1);
/// And this soon where other processes have the cores: a thread that is woken waits for a turn of the scheduler's.
const TOLD_WITHIN_BUSY: Duration = Duration::from_millis(20);
/// What `/proc` counts time in (proc_stat(5): `sysconf(_SC_CLK_TCK)`, 100 wherever Linux runs today).
const TICK: Duration = Duration::from_millis(10);
/// A first lost frame costs at most this.
const REPAIRED_WITHIN: Duration = Duration::from_millis(50);
/// Rounds at most, of which the best counts.
const ROUNDS_MAX: usize = 8;

/// One request of a page, carried out.
fn once(client: &mut Client, target: TargetHandle, operation: Operation) -> Result<Completion> {
    let mut buffer = client.buffer(4096).context("no buffer")?;
    Pattern::new(5, 5).fill(0, buffer.as_mut());
    let request = Request {
        target,
        operation,
        buffer,
        timeout: Duration::from_secs(30),
        user: 0,
    };
    assert!(client.submit(request).is_ok(), "the client is idle");
    client.wait(Duration::from_secs(60)).context("it hangs")
}

const READ: Operation = Operation::Read { lba: Lba(8) };
const WRITE: Operation = Operation::Write {
    lba: Lba(8),
    if_closed: IfClosed::Wait,
};

fn parsed(head: &[u8]) -> Option<Repr<'_>> {
    Repr::parse(head.get(HEADER_BYTES..)?).ok()
}

/// Time that the machine's cores have spent on others than this process and the target, and on other machines.
fn other_ticks(site: &Site) -> Result<u64> {
    let of_process = |pid: &str| -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("a process's times")?;
        let times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
        times.sum::<Result<u64, _>>().context("no number")
    };
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> = stat
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal.
    let busy = fields[0] + fields[1] + fields[2] + fields[7];
    let own = of_process("self")? + of_process(&site.blade.pid().to_string())?;
    Ok(busy.saturating_sub(own))
}

/// E 6, on the wire and at the caller.
fn reserved_by_others(test: &str, wire: Wire) -> Result<()> {
    let Some(_turn) = turn(test, wire) else {
        return Ok(());
    };
    // Written by the shard's thread when the first refusal of a request arrives at the link, zero until then.
    let arrived_ns = Arc::new(AtomicU64::new(0));
    let asked_again = Arc::new(AtomicU64::new(0));
    let (seen, again) = (Arc::clone(&arrived_ns), Arc::clone(&asked_again));
    let setup = Setup::new(wire).faults(move |_| {
        let (seen, again) = (Arc::clone(&seen), Arc::clone(&again));
        // Requests that were refused, by their tags without the copy's number (S1).
        let refused = Arc::new(Mutex::new(HashSet::new()));
        let sent = Arc::clone(&refused);
        FaultPlan::new(1)
            .with_script(Direction::Receive, move |head| {
                if let Some(repr) = parsed(head).filter(|repr| repr.error.is_some()) {
                    let first = refused.lock().unwrap().insert(repr.tag.0 >> 4);
                    if first {
                        seen.store(clock::now().as_nanos(), Ordering::Release);
                    }
                }
                None
            })
            .with_script(Direction::Transmit, move |head| {
                let tag = parsed(head)?.tag.0 >> 4;
                again.fetch_add(
                    u64::from(sent.lock().unwrap().contains(&tag)),
                    Ordering::Relaxed,
                );
                None
            })
    });
    let site = Site::build(setup)?;
    let mut client = site.client(1)?;
    let (ours, others) = (site.mac(Side::Initiator), MacAddr([2, 0, 0, 0, 0, 9]));
    let list = client.reserve(site.target, ReserveCommand::ForceSet, &[others])?;
    assert_eq!(list, [others]);

    let mut rounds = Vec::new();
    let in_time = |(told, limit): &(Duration, Duration)| told <= limit;
    while !rounds.iter().any(in_time) && rounds.len() < ROUNDS_MAX {
        let (begun, others_before) = (clock::now(), other_ticks(&site)?);
        let mut delays = Vec::new();
        while delays.len() < 40 || clock::now() < begun + Duration::from_millis(300) {
            arrived_ns.store(0, Ordering::Release);
            let operation = if delays.len() % 2 == 0 { READ } else { WRITE };
            let completion = once(&mut client, site.target, operation)?;
            let told_at = clock::now();
            let reserved = Err(RequestError::Io(IoError::Aoe(ErrorCode::TargetReserved)));
            assert_eq!(completion.result, reserved);
            let arrived = arrived_ns.load(Ordering::Acquire);
            assert_ne!(arrived, 0, "the refusal was not seen at the link");
            delays.push(Duration::from_nanos(told_at.as_nanos() - arrived));
        }
        delays.sort();
        let median = delays[delays.len() / 2];
        let others = TICK * u32::try_from(other_ticks(&site)?.saturating_sub(others_before))?;
        let busy = others > clock::now().saturating_since(begun) / 5;
        let limit = if busy { TOLD_WITHIN_BUSY } else { TOLD_WITHIN };
        println!(
            "{wire}: arrival of E 6 to the caller: median {median:?}, worst {:?}; other processes ran for {others:?}",
            delays[delays.len() - 1]
        );
        rounds.push((median, limit));
    }
    assert!(
        rounds.iter().any(in_time),
        "from its arrival to the caller, and the limits: {rounds:?}"
    );
    assert_eq!(
        asked_again.load(Ordering::Relaxed),
        0,
        "what was refused is not asked again"
    );

    // Shut out is all but reservations: back in by one, and nothing is left of the errors.
    assert_eq!(
        client.reserve(site.target, ReserveCommand::ForceSet, &[ours])?,
        [ours]
    );
    assert_eq!(
        once(&mut client, site.target, WRITE)?.result,
        Ok(Outcome::Written)
    );
    assert!(
        client
            .reserve(site.target, ReserveCommand::Set, &[])?
            .is_empty()
    );
    drop(client);
    site.close()
}

#[test]
fn a_reservation_by_others_is_told_at_once_over_xdp() -> Result<()> {
    reserved_by_others("reserved_xdp", Wire::XdpGeneric)
}

#[test]
fn a_reservation_by_others_is_told_at_once_over_packet_sockets() -> Result<()> {
    reserved_by_others("reserved_packet", Wire::PacketRing)
}

/// On a device just attached, loses the first frame of the first request in that direction; how long the request took.
fn first_lost(wire: Wire, direction: Direction, operation: Operation) -> Result<Duration> {
    let armed = Arc::new(AtomicBool::new(false));
    let trigger = Arc::clone(&armed);
    let setup = Setup::new(wire).faults(move |_| {
        let trigger = Arc::clone(&trigger);
        FaultPlan::new(1).with_script(direction, move |head| {
            let ata = matches!(parsed(head)?.body, Body::Ata(_));
            (ata && trigger.swap(false, Ordering::AcqRel)).then_some(Verdict::Drop)
        })
    });
    let site = Site::build(setup)?;
    let mut client = site.client(1)?;
    armed.store(true, Ordering::Release);
    let completion = once(&mut client, site.target, operation)?;
    assert!(completion.result.is_ok(), "{:?}", completion.result);
    let lost = site.faults[0].counters(direction).lost;
    assert_eq!(lost, 1, "a frame was lost");
    let took = completion
        .completed_at
        .saturating_since(completion.submitted_at);
    drop(client);
    site.close()?;
    Ok(took)
}

#[test]
fn the_first_lost_frame_of_a_fresh_device_costs_at_most_50_ms() -> Result<()> {
    let Some(_turn) = turn("first_lost", Wire::XdpGeneric) else {
        return Ok(());
    };
    for wire in [Wire::XdpGeneric, Wire::PacketRing] {
        for (direction, operation) in [
            (Direction::Transmit, READ),
            (Direction::Receive, READ),
            (Direction::Transmit, WRITE),
            (Direction::Receive, WRITE),
        ] {
            let mut times = Vec::new();
            // The best of some: a machine with other work may delay others.
            while times.iter().all(|took| *took > REPAIRED_WITHIN) && times.len() < ROUNDS_MAX {
                times.push(first_lost(wire, direction, operation)?);
            }
            println!("{wire}, {direction:?}, {operation:?}: {times:?}");
            let best = times.iter().min().copied().unwrap_or(Duration::MAX);
            assert!(
                best <= REPAIRED_WITHIN,
                "{wire}, {direction:?}, {operation:?}: {times:?}"
            );
        }
    }
    Ok(())
}
