//! The target's machine: one request from its frame to its answer, over sectors in memory that are lent, not copied.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sandrail_proto::aoe::target::backing::{
    Backing, DiskError, DiskOperation, Durability, IoId, SECTOR_BYTES, Started,
};
use sandrail_proto::aoe::target::{Blade, BladeConfig, InterfaceConfig, InterfaceId, TargetConfig};
use sandrail_proto::time::Instant;
use sandrail_wire::aoe::{
    AtaRepr, Body, Repr, SANDRAIL_COMMAND, SandrailOperation, SandrailRepr, Session, VERSION,
};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, FrameRef, Lba, MacAddr, Tag, TargetAddr};

const BLADE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
const SECTORS: u64 = 1 << 15;
const WIRE: InterfaceId = InterfaceId(0);

/// Memory whose writes are copied or, to see the machine alone, not.
struct Memory {
    bytes: Vec<u8>,
    copies: bool,
    /// Operations do not end by themselves.
    holds: bool,
    ranges: Vec<(usize, usize)>,
    done: Vec<IoId>,
}

impl Backing for Memory {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn durability(&self) -> Durability {
        Durability::Volatile
    }

    fn loss_mark(&self) -> u64 {
        1
    }

    fn discards(&self) -> bool {
        false
    }

    fn operations_max(&self) -> u32 {
        4096
    }

    fn sectors_per_operation_max(&self) -> u32 {
        256
    }

    #[inline]
    fn start(&mut self, _: Instant, io: IoId, operation: DiskOperation<'_>) -> Started {
        match operation {
            DiskOperation::Read { lba, sectors } => {
                let from = usize::try_from(lba.0).expect("small") * SECTOR_BYTES;
                let len = sectors.get() as usize * SECTOR_BYTES;
                self.ranges[io.0 as usize] = (from, from + len);
            }
            DiskOperation::Write { lba, data, .. } if self.copies => {
                let mut from = usize::try_from(lba.0).expect("small") * SECTOR_BYTES;
                for piece in data {
                    self.bytes[from..from + piece.len()].copy_from_slice(piece);
                    from += piece.len();
                }
            }
            _ => {}
        }
        if self.holds {
            self.done.push(io);
            return Started::Pending;
        }
        Started::Done(Ok(()))
    }

    fn poll_done(&mut self, _: Instant) -> Option<(IoId, Result<(), DiskError>)> {
        self.done.pop().map(|io| (io, Ok(())))
    }

    #[inline]
    fn data(&self, io: IoId) -> &[u8] {
        let (from, to) = self.ranges[io.0 as usize];
        &self.bytes[from..to]
    }

    #[inline]
    fn release(&mut self, io: IoId) {
        black_box(io);
    }

    fn kick(&mut self, _: Instant) {}
}

struct Bed {
    blade: Blade<Memory>,
    now: Instant,
    tag: u32,
    session: Session,
    frame: Vec<u8>,
}

fn put(out: &mut [u8], tag: Tag, body: Body<'_>) -> usize {
    let ethernet = EthernetRepr {
        dst: BLADE,
        src: STATION,
        vlans: [None, None],
        ethertype: EtherType::AOE,
    };
    let repr = Repr {
        version: VERSION,
        response: false,
        error: None,
        addr: ADDR,
        tag,
        body,
    };
    let at = ethernet.emit(out).expect("room");
    at + repr.emit(&mut out[at..]).expect("room")
}

impl Bed {
    fn new(copies: bool, holds: bool) -> Self {
        let disk = Memory {
            bytes: vec![0; usize::try_from(SECTORS).expect("small") * SECTOR_BYTES],
            copies,
            holds,
            ranges: vec![(0, 0); 4096],
            done: Vec::with_capacity(4096),
        };
        let interface = InterfaceConfig {
            mac: BLADE,
            mtu_bytes: 9000,
            vlan: None,
        };
        let now = Instant::from_nanos(1);
        let targets = vec![(TargetConfig::new(ADDR), disk)];
        let config = BladeConfig {
            buffer_count: 4096,
            ..BladeConfig::default()
        };
        let mut blade = Blade::new(config, &[interface], targets, 1, now).expect("sound");
        while let Some((target, id, _)) = blade.poll_persist() {
            blade.handle_persisted(now, target, id, true);
        }
        while blade.poll_transmit(now, WIRE).is_some() {}
        let mut frame = vec![0; 36 + 8 * SECTOR_BYTES];
        let mut args = [0; 48];
        let attach = SandrailRepr {
            incarnation: 7,
            ..SandrailRepr::request(SandrailOperation::Attach)
        };
        attach.emit(&mut args).expect("room");
        let body = Body::Vendor {
            command: SANDRAIL_COMMAND,
            data: &args,
        };
        let len = put(&mut frame, Tag(1), body);
        blade.handle_frame(now, WIRE, &FrameRef::new(&frame[..len]));
        let reply = blade.poll_transmit(now, WIRE).expect("an answer");
        let bytes = [reply.header, reply.payload].concat();
        let session = SandrailRepr::parse(&bytes[24..]).expect("sound").session;
        assert!(session.is_some());
        Self {
            blade,
            now,
            tag: 0,
            session,
            frame,
        }
    }

    fn request(&mut self, write: bool, session: Session) {
        self.tag = self.tag.wrapping_add(16);
        // 200 000 a second: what the memory of copies holds for as long as it must.
        self.now = self.now + Duration::from_micros(5);
        let lba = Lba((u64::from(self.tag.wrapping_mul(0x9e37_79b1) >> 16) % (SECTORS - 8)) & !7);
        let ata = if write {
            AtaRepr::write_ext(lba, 8)
        } else {
            AtaRepr::read_ext(lba, 8)
        };
        let body = Body::Ata(ata.with_session(session));
        put(&mut self.frame, Tag(self.tag), body);
        let len = if write { self.frame.len() } else { 60 };
        // As AF_XDP hands a frame of 4132 bytes over.
        let (head, rest) = self.frame[..len].split_at(len.min(3840));
        let mut frame = FrameRef::new(head);
        if !rest.is_empty() {
            frame.push(rest).expect("two segments");
        }
        self.blade.handle_frame(self.now, WIRE, &frame);
    }

    fn answers(&mut self) -> usize {
        let mut count = 0;
        while let Some(transmit) = self.blade.poll_transmit(self.now, WIRE) {
            black_box(transmit);
            count += 1;
        }
        count
    }
}

fn target(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("target");
    let burst = 32;
    group.throughput(Throughput::Elements(burst));
    for (name, write, with_session, copies) in [
        ("READ, 4 KiB lent", false, true, false),
        ("WRITE, no session, not copied", true, false, false),
        ("WRITE, session, not copied", true, true, false),
        ("WRITE, session, 4 KiB copied", true, true, true),
    ] {
        let mut bed = Bed::new(copies, false);
        let session = if with_session {
            bed.session
        } else {
            Session::NONE
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..burst {
                    bed.request(write, session);
                }
                bed.blade.handle_disks(bed.now);
                assert_eq!(bed.answers(), 32);
            });
        });
    }
    // 2048 operations stay under way while others come and go.
    for (name, write) in [
        ("READ, 2048 under way", false),
        ("WRITE, 2048 under way", true),
    ] {
        let mut bed = Bed::new(false, true);
        let mut under_way = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                while under_way < 2048 {
                    bed.request(write, Session::NONE);
                    under_way += 1;
                }
                for _ in 0..burst {
                    bed.request(write, Session::NONE);
                }
                under_way += 32;
                // Of those that the disk has, the youngest end; what they were in the way of begins.
                let disk = bed
                    .blade
                    .backing_mut(sandrail_proto::aoe::target::TargetIndex(0));
                let disk = disk.expect("there");
                let keep = disk.done.len().saturating_sub(32);
                let kept: Vec<IoId> = disk.done.drain(..keep).collect();
                bed.blade.handle_disks(bed.now);
                let ended = bed.answers();
                under_way -= ended;
                let disk = bed
                    .blade
                    .backing_mut(sandrail_proto::aoe::target::TargetIndex(0));
                disk.expect("there").done.splice(0..0, kept);
            });
        });
    }
    group.bench_function("the frames alone", |bencher| {
        let mut bed = Bed::new(false, false);
        bencher.iter(|| {
            for _ in 0..burst {
                bed.tag = bed.tag.wrapping_add(16);
                let ata = AtaRepr::read_ext(Lba(u64::from(bed.tag)), 8);
                put(&mut bed.frame, Tag(bed.tag), Body::Ata(ata));
                black_box(&bed.frame);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, target);
criterion_main!(benches);
