//! Submit to complete without I/O: the initiator alone, fed with prebuilt replies, 4 KiB each.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sandrail_bench::blade::BladeLink;
use sandrail_link::Link;
use sandrail_proto::aoe::initiator::{
    IfClosed, Initiator, InitiatorConfig, InterfaceConfig, InterfaceId, Notice, Operation,
    PinnedMacs, Request, TargetId,
};
use sandrail_proto::time::Instant;
use sandrail_wire::{FrameRef, Lba};

const INTERFACE: InterfaceId = InterfaceId(0);
const BLOCK_BYTES: usize = 4096;
/// Headers of a READ's or WRITE's answer.
const HEADER_BYTES: usize = 36;
const TAG: std::ops::Range<usize> = 20..24;
const LBA: std::ops::Range<usize> = 28..34;
/// What time passes between two calls, for each I/O under way: fewer than the tags of a frame lifetime suffice then (S1).
const STEP: Duration = Duration::from_micros(1);

struct Bench {
    initiator: Initiator<Vec<u8>>,
    target: TargetId,
    now: Instant,
    reply: Vec<u8>,
    buffers: Vec<Vec<u8>>,
    tags: Vec<[u8; HEADER_BYTES]>,
    write: bool,
    lba: u64,
    step: Duration,
    polled: u64,
}

impl Bench {
    /// Attached to the target in memory, which then has no part any more.
    fn new(depth: usize, write: bool) -> Self {
        let mut link = BladeLink::new(1);
        let now = Instant::from_nanos(1_000_000_000);
        let interface = InterfaceConfig {
            mac: link.info().mac,
            mtu_bytes: link.info().mtu_bytes,
            vlan: None,
        };
        let mut initiator = Initiator::new(InitiatorConfig::default(), &[interface], 1, now)
            .expect("good settings");
        let pinned = PinnedMacs::new(&[BladeLink::MAC]).expect("one MAC");
        let target = initiator
            .attach(now, BladeLink::ADDR, pinned)
            .expect("room");
        let mut bench = Self {
            initiator,
            target,
            now,
            reply: Vec::new(),
            buffers: (0..depth).map(|_| vec![0x5a; BLOCK_BYTES]).collect(),
            tags: Vec::with_capacity(depth),
            write,
            lba: 0,
            step: STEP * u32::try_from(depth).expect("a small number"),
            polled: 0,
        };
        while !bench.attach_turn(&mut link) {}
        bench.learn_reply(&mut link);
        bench
    }

    fn attach_turn(&mut self, link: &mut BladeLink) -> bool {
        self.now = self.now + self.step;
        let now = self.now;
        self.initiator.handle_timeout(now);
        while let Some(frame) = self.initiator.poll_transmit(now, INTERFACE) {
            link.transmit(now, frame.header, frame.payload)
                .expect("room");
            self.polled += 1;
        }
        self.initiator.handle_sent(now, INTERFACE, self.polled);
        let initiator = &mut self.initiator;
        link.receive(now, 64, &mut |frame| {
            initiator.handle_frame(now, INTERFACE, &frame)
        });
        std::iter::from_fn(|| self.initiator.poll_notice())
            .any(|notice| matches!(notice, Notice::Attached(_)))
    }

    /// Has one I/O answered by the target, and keeps the answer as the mould of all others.
    fn learn_reply(&mut self, link: &mut BladeLink) {
        let buffer = self.buffers.pop().expect("a depth of at least 1");
        self.submit(buffer);
        let now = self.now;
        let frame = self
            .initiator
            .poll_transmit(now, INTERFACE)
            .expect("an I/O waits");
        link.transmit(now, frame.header, frame.payload)
            .expect("room");
        self.polled += 1;
        let (reply, initiator) = (&mut self.reply, &mut self.initiator);
        link.receive(now, 1, &mut |frame| {
            reply.extend_from_slice(frame.head());
            initiator.handle_frame(now, INTERFACE, &frame);
        });
        let completion = self.initiator.poll_event().expect("it was answered");
        completion.result.expect("it went well");
        self.buffers.push(completion.buffer);
    }

    fn submit(&mut self, buffer: Vec<u8>) {
        self.lba = (self.lba + 8) % BladeLink::SECTORS;
        let lba = Lba(self.lba);
        let operation = if self.write {
            let if_closed = IfClosed::Wait;
            Operation::Write { lba, if_closed }
        } else {
            Operation::Read { lba }
        };
        let request = Request {
            target: self.target,
            operation,
            buffer,
            timeout: Duration::from_secs(1),
            user: 0,
        };
        self.initiator.submit(self.now, request).expect("room");
    }

    /// All of them submitted, sent, answered and completed.
    fn round(&mut self) {
        self.now = self.now + self.step;
        while let Some(buffer) = self.buffers.pop() {
            self.submit(buffer);
        }
        let now = self.now;
        while let Some(frame) = self.initiator.poll_transmit(now, INTERFACE) {
            self.tags
                .push(*frame.header.first_chunk().expect("an ATA frame"));
            black_box(frame.payload);
            self.polled += 1;
        }
        self.initiator.handle_sent(now, INTERFACE, self.polled);
        self.now = self.now + self.step;
        if self
            .initiator
            .poll_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.initiator.handle_timeout(self.now);
        }
        for header in self.tags.drain(..) {
            self.reply[TAG].copy_from_slice(&header[TAG]);
            self.reply[LBA].copy_from_slice(&header[LBA]);
            self.initiator
                .handle_frame(self.now, INTERFACE, &FrameRef::new(&self.reply));
        }
        while let Some(completion) = self.initiator.poll_event() {
            assert!(completion.result.is_ok(), "{:?}", completion.result);
            self.buffers.push(completion.buffer);
        }
    }
}

fn complete(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("submit to complete");
    for (name, write) in [("read", false), ("write", true)] {
        for depth in [1_usize, 32] {
            let mut bench = Bench::new(depth, write);
            // The window opens with the first answers.
            for _ in 0..64 {
                bench.round();
            }
            assert_eq!(
                bench.buffers.len(),
                depth,
                "every I/O of a round ends in it"
            );
            group.throughput(Throughput::Elements(
                u64::try_from(depth).expect("a small number"),
            ));
            group.bench_function(format!("{name} 4 KiB, depth {depth}"), |bencher| {
                bencher.iter(|| bench.round())
            });
            assert_eq!(bench.buffers.len(), depth, "also of the last round");
            assert_eq!(
                bench.initiator.counters().tx_copies,
                0,
                "nothing was sent twice"
            );
        }
    }
    // What of it is the one copy that a READ takes.
    let (from, mut into) = (vec![1_u8; BLOCK_BYTES], vec![0_u8; BLOCK_BYTES]);
    group.throughput(Throughput::Elements(1));
    group.bench_function("copy of 4 KiB alone", |bencher| {
        bencher.iter(|| black_box(&mut into).copy_from_slice(black_box(&from)));
    });
    group.finish();
}

criterion_group!(benches, complete);
criterion_main!(benches);
