//! How nodes and their parts end, cleanly and otherwise.

mod blade;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blade::bed::{SOON, bed, bed_with, config, eventually, flush, read};
use sandrail_node::{Node, NodeConfig, NodeError, Refusal, RequestError};
use sandrail_proto::aoe::initiator::{InitiatorConfig, Outcome};
use sandrail_wire::Lba;

#[test]
fn shutdown_waits_for_what_is_under_way() {
    let bed = bed(2);
    let mut client = bed.node.client(4).unwrap();
    bed.blade.holding.store(true, Ordering::Relaxed);
    client
        .submit(read(bed.target, 0, client.buffer(512).unwrap()))
        .unwrap();
    client
        .submit(read(bed.target, 2048, client.buffer(512).unwrap()))
        .unwrap();
    eventually("both are held", || bed.blade.held() >= 2);
    let blade = std::sync::Arc::clone(&bed.blade);
    let releaser = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        blade.holding.store(false, Ordering::Relaxed);
        blade.release();
    });
    bed.node.shutdown(SOON).unwrap();
    releaser.join().unwrap();
    for _ in 0..2 {
        assert_eq!(client.wait(SOON).unwrap().result, Ok(Outcome::Read));
    }
    let rejected = client.submit(flush(bed.target)).unwrap_err();
    assert_eq!(rejected.why, Refusal::Stopping);
}

#[test]
fn shutdown_in_the_middle_of_it_tells_what_was_left() {
    let bed = bed(1);
    let mut client = bed.node.client(4).unwrap();
    bed.blade.silent.store(true, Ordering::Relaxed);
    for n in 0..3 {
        client
            .submit(read(bed.target, n, client.buffer(512).unwrap()))
            .unwrap();
    }
    let error = bed.node.shutdown(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.open_requests, 3, "{error}");
    for _ in 0..3 {
        let done = client.wait(SOON).unwrap();
        assert_eq!(done.result, Err(RequestError::Stopped));
    }
}

#[test]
fn shutdown_counts_writes_that_are_not_accounted_for() {
    let bed = bed(1);
    let mut client = bed.node.client(1).unwrap();
    bed.blade.silent.store(true, Ordering::Relaxed);
    client.set_request_timeout(Duration::from_millis(50));
    client.write(bed.target, Lba(0), &[1; 512]).unwrap_err();
    let error = bed.node.shutdown(Duration::from_millis(100)).unwrap_err();
    assert_eq!((error.open_requests, error.unaccounted), (0, 1), "{error}");
}

#[test]
fn shutdown_waits_until_late_copies_are_accounted_for() {
    let bed = bed(1);
    let mut client = bed.node.client(1).unwrap();
    bed.blade.silent.store(true, Ordering::Relaxed);
    client.set_request_timeout(Duration::from_millis(50));
    // No copy is sent before this, so none is dead before a lifetime after it.
    let start = Instant::now();
    client.write(bed.target, Lba(0), &[1; 512]).unwrap_err();
    bed.blade.silent.store(false, Ordering::Relaxed);
    bed.node.shutdown(SOON).unwrap();
    assert!(
        start.elapsed() >= config().initiator.frame_lifetime,
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_dropped_node_answers_its_clients() {
    let bed = bed(2);
    let mut client = bed.node.client(2).unwrap();
    bed.blade.silent.store(true, Ordering::Relaxed);
    client
        .submit(read(bed.target, 0, client.buffer(512).unwrap()))
        .unwrap();
    client.submit(flush(bed.target)).unwrap();
    drop(bed.node);
    for _ in 0..2 {
        assert_eq!(
            client.wait(SOON).unwrap().result,
            Err(RequestError::Stopped)
        );
    }
}

#[test]
fn a_shard_that_panics_answers_its_clients_and_is_named() {
    let bed = bed(2);
    let mut client = bed.node.client(2).unwrap();
    bed.blade.silent.store(true, Ordering::Relaxed);
    client
        .submit(read(bed.target, 2048, client.buffer(512).unwrap()))
        .unwrap();
    bed.blade.panic_in_link.store(2, Ordering::Relaxed);
    assert_eq!(
        client.wait(SOON).unwrap().result,
        Err(RequestError::Stopped)
    );
    assert!(matches!(bed.node.stat(), Err(NodeError::ShardSilent(1))));
    // Its requests are answered, the other shard goes on.
    client
        .submit(read(bed.target, 2048, client.buffer(512).unwrap()))
        .unwrap();
    assert_eq!(
        client.wait(SOON).unwrap().result,
        Err(RequestError::Stopped)
    );
    bed.blade.silent.store(false, Ordering::Relaxed);
    client.read(bed.target, Lba(0), &mut [0; 512]).unwrap();
    let error = bed.node.shutdown(SOON).unwrap_err();
    assert_eq!(error.silent, [1], "{error}");
}

#[test]
fn a_dropped_client_leaves_no_buffer_behind() {
    let bed = bed(1);
    let mut client = bed.node.client(8).unwrap();
    for n in 0..8 {
        client
            .submit(read(bed.target, n, client.buffer(512).unwrap()))
            .unwrap();
    }
    drop(client);
    eventually("all buffers are back", || {
        let stat = bed.node.stat().unwrap();
        stat.buffers_free == stat.buffers && stat.shards[0].open_requests == 0
    });
}

#[test]
fn marks_make_the_next_node_wait_with_its_writes() {
    let dir = std::env::temp_dir().join(format!("sandrail-node-{}", std::process::id()));
    let config = NodeConfig {
        run_dir: Some(dir.clone()),
        initiator: InitiatorConfig {
            // Long enough for a busy machine to attach and read in.
            frame_lifetime: Duration::from_secs(2),
            ..config().initiator
        },
        ..config()
    };
    let bed = bed_with(1, &config);
    assert_eq!(bed.node.write_quarantine(), Duration::ZERO);
    let second = Node::start(&config, vec![vec![bed.blade.link()]]);
    let text = second.unwrap_err().to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    // An unclean end.
    let mut client = bed.node.client(1).unwrap();
    bed.blade.silent.store(true, Ordering::Relaxed);
    client
        .submit(read(bed.target, 0, client.buffer(512).unwrap()))
        .unwrap();
    bed.node.shutdown(Duration::ZERO).unwrap_err();

    let lifetime = config.initiator.frame_lifetime;
    let start = Instant::now();
    let bed = bed_with(1, &config);
    assert_eq!(bed.node.write_quarantine(), lifetime);
    let mut client = bed.node.client(1).unwrap();
    client.read(bed.target, Lba(0), &mut [0; 512]).unwrap();
    assert!(start.elapsed() < lifetime, "reads do not wait");
    client.write(bed.target, Lba(0), &[1; 512]).unwrap();
    assert!(start.elapsed() >= lifetime, "{:?}", start.elapsed());
    bed.node.shutdown(SOON).unwrap();

    let bed = bed_with(1, &config);
    assert_eq!(bed.node.write_quarantine(), Duration::ZERO);
    bed.node.shutdown(SOON).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
