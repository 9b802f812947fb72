//! Nodes of several shards against the real target machine: sessions (S5), what its restarts lose (S7), epochs (S8).

mod blade;

use std::collections::BTreeSet;
use std::sync::Arc;

use blade::bed::{SOON, config, eventually};
use blade::{ADDR, Blade, NODE_MAC};
use sandrail_node::{
    BlockingError, Client, EpochError, EpochReservation, Node, RequestError, TargetHandle,
};
use sandrail_proto::aoe::initiator::{
    Durability, IoError, Notice, PinnedMacs, RestartEvidence, SessionRefusal, SessionState,
};
use sandrail_wire::aoe::ReserveCommand;
use sandrail_wire::{Lba, MacAddr};

const SECTORS: usize = 16 << 10;
/// A sector of each of two shards.
const LBAS: [usize; 2] = [0, 2048];

struct Bed {
    blade: Arc<Blade>,
    node: Node,
    target: TargetHandle,
    client: Client,
}

fn node_on(blade: &Arc<Blade>, shards: usize) -> (Node, TargetHandle) {
    let links = (0..shards).map(|_| vec![blade.link()]).collect();
    let node = Node::start(&config(), links).unwrap();
    let target = node.attach(ADDR, PinnedMacs::first_to_answer(), SOON);
    let target = target.unwrap();
    (node, target)
}

fn bed() -> Bed {
    let blade = Blade::with_machine(SECTORS);
    let (node, target) = node_on(&blade, 2);
    let client = node.client(4).unwrap();
    Bed {
        blade,
        node,
        target,
        client,
    }
}

fn sessions(node: &Node) -> Vec<u16> {
    let stat = node.stat().unwrap();
    let held = stat
        .shards
        .iter()
        .map(|shard| match shard.targets[0].info.session {
            SessionState::Held(session) => session.0,
            other => panic!("{other:?}"),
        });
    held.collect()
}

const LOST: BlockingError = BlockingError::Failed(RequestError::Io(IoError::UnflushedLost(
    RestartEvidence::Session,
)));

#[test]
fn each_shard_has_a_session_and_all_are_of_one_incarnation() {
    let bed = bed();
    let held: BTreeSet<u16> = sessions(&bed.node).into_iter().collect();
    assert_eq!(held.len(), 2, "{held:?}");
    assert_eq!(bed.blade.machine(|machine| machine.sessions()), 2);
    bed.node.shutdown(SOON).unwrap();
    // The next node on these MACs is another life of them: the old one's sessions end.
    let (node, _) = node_on(&bed.blade, 2);
    assert!(
        sessions(&node)
            .iter()
            .all(|session| !held.contains(session))
    );
    assert_eq!(bed.blade.machine(|machine| machine.sessions()), 2);
}

/// Whichever shard wrote, and whichever comes to know: the flush fails until the loss was accepted, once.
#[test]
fn a_loss_is_told_by_every_shard_and_accepted_once() {
    for lba in LBAS {
        let mut bed = bed();
        let at = Lba(u64::try_from(lba).unwrap());
        bed.client.write(bed.target, at, &[1; 512]).unwrap();
        bed.blade.machine(|machine| machine.restart(true));
        // The other shard's sector: that shard notices first.
        let other = Lba(u64::try_from(2048 - lba).unwrap());
        bed.client.write(bed.target, other, &[2; 512]).unwrap();
        let mut told = [false; 2];
        eventually("both shards are told of the restart", || {
            while let Some(notice) = bed.node.next_notice() {
                if let Notice::RestartSuspected { evidence, .. } = notice.notice {
                    assert_eq!(evidence, RestartEvidence::Session);
                    told[notice.shard] = true;
                }
            }
            told == [true; 2]
        });
        assert_eq!(bed.client.flush(bed.target), Err(LOST));
        assert_eq!(
            bed.client.flush(bed.target),
            Err(LOST),
            "not by asking again"
        );
        bed.node.accept_loss(bed.target).unwrap();
        bed.client.write(bed.target, at, &[3; 512]).unwrap();
        assert_eq!(bed.client.flush(bed.target), Ok(Durability::Claimed));
        let durable = bed.blade.machine(|machine| machine.durable(lba).to_vec());
        assert_eq!(durable, [3; 512]);
    }
}

/// A restart that nobody noticed before the flush: every shard's part of it finds out by itself.
#[test]
fn a_flush_right_after_a_restart_fails() {
    for lba in LBAS {
        for power in [true, false] {
            let mut bed = bed();
            let at = Lba(u64::try_from(lba).unwrap());
            bed.client.write(bed.target, at, &[1; 512]).unwrap();
            bed.blade.machine(|machine| machine.restart(power));
            let expected = if power {
                Err(LOST)
            } else {
                Ok(Durability::Claimed)
            };
            assert_eq!(bed.client.flush(bed.target), expected, "{lba} {power}");
        }
    }
}

#[test]
fn reservations_by_epoch() {
    let mut bed = bed();
    let other = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let reservation = |epoch, macs: &[MacAddr]| EpochReservation {
        epoch,
        macs: macs.to_vec(),
    };
    let mut reserve =
        |epoch, macs: &[MacAddr]| bed.client.reserve_by_epoch(bed.target, epoch, macs);
    let both = reservation(5, &[NODE_MAC, other]);
    assert_eq!(reserve(5, &both.macs), Ok(both.clone()));
    assert_eq!(reserve(5, &both.macs), Ok(both.clone()));
    assert_eq!(reserve(4, &[NODE_MAC]), Err(EpochError::Stale(both)));
    // Out: what we write is refused, on both shards, and the epoch may be set all the same.
    let out = reservation(6, &[other]);
    assert_eq!(reserve(6, &out.macs), Ok(out));
    for lba in LBAS {
        let at = Lba(u64::try_from(lba).unwrap());
        let error = bed.client.write(bed.target, at, &[1; 512]).unwrap_err();
        let BlockingError::Data {
            error: RequestError::Io(why),
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        let reserved = IoError::NoSession(SessionRefusal::Reserved);
        let refused = IoError::Aoe(sandrail_wire::aoe::ErrorCode::TargetReserved);
        assert!(why == reserved || why == refused, "{why:?}");
    }
    let list = bed.client.reserve(bed.target, ReserveCommand::Read, &[]);
    assert_eq!(list, Ok(vec![other]));
    let nobody = reservation(7, &[]);
    let reserved = bed.client.reserve_by_epoch(bed.target, 7, &[]);
    assert_eq!(reserved, Ok(nobody));
}
