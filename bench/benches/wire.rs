//! Sending and receiving through links that lie in memory: the simulated network, and the target in memory that the
//! other benches stand on.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use sandrail_bench::blade::BladeLink;
use sandrail_link::Link;
use sandrail_link::sim::{PortConfig, SimNet, SimNetConfig};
use sandrail_proto::time::Instant;
use sandrail_wire::MacAddr;

const NEAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const BURST: usize = 32;

fn header(dst: MacAddr, src: MacAddr) -> [u8; 36] {
    let mut header = [0; 36];
    header[..6].copy_from_slice(&dst.0);
    header[6..12].copy_from_slice(&src.0);
    header[12..14].copy_from_slice(&[0x88, 0xa2]);
    header
}

fn simulated(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simulated link");
    for payload_bytes in [0, 4096] {
        let net = SimNet::new(1, SimNetConfig::default());
        let mut near = net.port(PortConfig::new(NEAR)).link();
        let mut far = net.port(PortConfig::new(FAR)).link();
        let (header, payload) = (header(FAR, NEAR), vec![0x5a; payload_bytes]);
        let mut now = Instant::from_nanos(1);
        group.bench_function(
            format!("send and receive {} B", header.len() + payload_bytes),
            |bencher| {
                bencher.iter(|| {
                    near.transmit(now, &header, &payload).expect("room");
                    near.flush(now);
                    now = now + Duration::from_micros(10);
                    let received = far.receive(now, BURST, &mut |frame| {
                        black_box(frame.head());
                    });
                    assert_eq!(received, 1, "a good wire");
                });
            },
        );
    }
    group.finish();
}

fn blade(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("target in memory");
    let link = BladeLink::new(1);
    let target = (BladeLink::ADDR, BladeLink::MAC);
    let blocks = sandrail_bench::site::Blocks::new(1, BladeLink::SECTORS);
    let direction = sandrail_bench::site::Direction::Read;
    let mut rival = sandrail_bench::rival::Rival::new(link, target, direction, 1, blocks);
    let now = Instant::from_nanos(1);
    rival.turn(now);
    group.bench_function("round trip of the bare loop", |bencher| {
        bencher.iter(|| assert_eq!(rival.turn(now), 1, "answered at once"));
    });
    group.finish();
}

criterion_group!(benches, simulated, blade);
criterion_main!(benches);
