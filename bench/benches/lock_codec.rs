//! Lock frames: writing and reading them, with and without the keyed code; and a record's whole way through two transports.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use sandrail_proto::dlm::transport::{ChannelId, Peer, Transport, TransportConfig};
use sandrail_proto::time::Instant;
use sandrail_wire::lock::{
    ClusterId, CoreId, Endpoint, Epoch, FrameWriter, Incarnation, LockFeatures, LockFrame,
    LockHeader, MacKey, NodeId, Seal, Sequence,
};

const KEY: MacKey = MacKey([5; 16]);
const RECORDS: [usize; 3] = [1, 20, 56];

fn endpoint(node: u16) -> Endpoint {
    Endpoint {
        node: NodeId(node),
        core: CoreId(0),
        incarnation: Incarnation(u64::from(node) + 1),
    }
}

fn header() -> LockHeader {
    LockHeader {
        features: LockFeatures::NONE,
        wants_answer: false,
        cluster: ClusterId(1),
        from: endpoint(1),
        to: endpoint(2),
        epoch: Epoch(1),
        sequence: Sequence(1),
        ack: Sequence(1),
        credits: 256,
    }
}

fn encode(out: &mut [u8], header: &LockHeader, records: usize, seal: &Seal) -> usize {
    let mut writer = FrameWriter::new(out, header, &[], seal).expect("room");
    for _ in 0..records {
        assert!(writer.push(&[7; 64]));
    }
    writer.finish()
}

fn decode(frame: &[u8], seal: &Seal) -> u64 {
    let read = LockFrame::parse(frame, seal).expect("well formed");
    let first_bytes = read.records().map(|record| u64::from(record[0]));
    first_bytes.sum::<u64>() + read.header().sequence.0
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lock_codec");
    for (kind, key) in [("crc", None), ("crc and code", Some(KEY))] {
        let seal = Seal::new(crc32c::crc32c, key);
        for records in RECORDS {
            let mut out = vec![0; 4000];
            group.throughput(Throughput::Elements(records as u64));
            group.bench_function(format!("encode {records}, {kind}"), |bencher| {
                bencher.iter(|| encode(black_box(&mut out), black_box(&header()), records, &seal));
            });
            let len = encode(&mut out, &header(), records, &seal);
            group.bench_function(format!("decode {records}, {kind}"), |bencher| {
                bencher.iter(|| decode(black_box(&out[..len]), &seal));
            });
        }
    }
    group.finish();
}

/// Two transports with a perfect wire between them.
struct Pair {
    ends: [Transport; 2],
    channels: [ChannelId; 2],
    now: Instant,
    buffer: Vec<u8>,
}

impl Pair {
    fn new(key: Option<MacKey>, mtu_bytes: usize) -> Self {
        let now = Instant::from_nanos(1_000_000);
        let peers = [1, 2].map(|node| Peer {
            node: NodeId(node),
            core: CoreId(0),
        });
        let mut ends = peers.map(|own| {
            let incarnation = Incarnation(1);
            let mut config = TransportConfig::new(ClusterId(1), own.node, own.core, incarnation);
            config.key = key;
            config.mtu_bytes = mtu_bytes;
            Transport::new(config, Epoch(1)).expect("sound")
        });
        let channels = [0, 1].map(|end| ends[end].add_peer(now, peers[1 - end]).expect("room"));
        let mut pair = Self {
            ends,
            channels,
            now,
            buffer: vec![0; 4000],
        };
        for end in [0, 1, 0, 1, 0, 1] {
            pair.carry(end);
        }
        assert!(
            pair.ends[0]
                .info(pair.channels[0])
                .is_some_and(|info| info.is_open)
        );
        pair
    }

    /// All frames of one end to the other; how many there were.
    fn carry(&mut self, from: usize) -> usize {
        let mut frames = 0;
        while let Some(sent) = self.ends[from].poll_transmit(self.now, &mut self.buffer) {
            self.ends[1 - from].handle_frame(self.now, &self.buffer[..sent.len_bytes]);
            frames += 1;
        }
        frames
    }

    /// One end sends so many records in a turn, the other answers each.
    fn round(&mut self, records: usize) -> u64 {
        let mut sum = 0;
        for from in [0, 1] {
            for _ in 0..records {
                let sent = self.ends[from].send(self.now, self.channels[from], &[9; 64]);
                sent.expect("within the window");
            }
            self.carry(from);
            while self.ends[1 - from].poll_event().is_some() {}
            while let Some(received) = self.ends[1 - from].poll_message() {
                sum += u64::from(received.record[0]);
            }
            self.now = self.now + Duration::from_nanos(500);
        }
        sum
    }
}

fn way(group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    for (kind, key, mtu_bytes) in [
        ("MTU 1500", None, 1500),
        ("MTU 1500, code", Some(KEY), 1500),
        ("MTU 9000", None, 9000),
    ] {
        for records in [1, 20, 110] {
            let mut pair = Pair::new(key, mtu_bytes);
            // A record there and one back, each from `send` to `poll_message`.
            group.throughput(Throughput::Elements(2 * records as u64));
            group.bench_function(format!("{records} there and back, {kind}"), |bencher| {
                bencher.iter(|| pair.round(black_box(records)));
            });
        }
    }
}

fn transport(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lock_transport");
    way(&mut group);
    group.finish();
}

criterion_group!(benches, codec, transport);
criterion_main!(benches);
