//! Encoding and decoding the four AoE frames, Ethernet header included.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sandrail_wire::aoe::{
    AtaRepr, Body, ConfigCommand, ConfigRepr, DirectiveCommand, MASK_DIRECTIVE_BYTES, MacList,
    MaskDirectives, MaskRepr, Repr, ReserveCommand, ReserveRepr, VERSION,
};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, Lba, MacAddr, Tag, TargetAddr};

const MAC: MacAddr = MacAddr([2, 0x5a, 0, 0, 0, 0xa]);

fn encode(body: Body<'_>, out: &mut [u8]) -> usize {
    let ethernet = EthernetRepr {
        dst: MAC,
        src: MAC,
        vlans: [None, None],
        ethertype: EtherType::AOE,
    };
    let repr = Repr {
        version: VERSION,
        response: false,
        error: None,
        addr: TargetAddr { shelf: 7, slot: 3 },
        tag: Tag(0x1234),
        body,
    };
    let at = ethernet.emit(out).expect("long enough");
    at + repr.emit(&mut out[at..]).expect("long enough")
}

fn decode(frame: &[u8]) -> (EthernetRepr, Repr<'_>) {
    let (ethernet, at) = EthernetRepr::parse(frame).expect("well formed");
    (ethernet, Repr::parse(&frame[at..]).expect("well formed"))
}

fn codec(criterion: &mut Criterion) {
    let mut directives = [0; MASK_DIRECTIVE_BYTES];
    let directives = MaskDirectives::encode(&[(DirectiveCommand::Add, MAC)], &mut directives)
        .expect("room for one");
    let mut macs = [0; 6];
    let bodies = [
        (
            "ata",
            Body::Ata(AtaRepr::read_ext(Lba(0x0012_3456_789a), 8)),
        ),
        (
            "config",
            Body::Config(ConfigRepr::request(
                ConfigCommand::ForceSet,
                b"sixteen letters!",
            )),
        ),
        ("mask", Body::MacMask(MaskRepr::edit(directives))),
        (
            "reserve",
            Body::Reserve(ReserveRepr {
                command: ReserveCommand::Set,
                macs: MacList::encode(&[MAC], &mut macs).expect("room for one"),
            }),
        ),
    ];
    let mut group = criterion.benchmark_group("codec");
    for (name, body) in bodies {
        let mut out = [0; 128];
        group.bench_function(format!("encode {name}"), |bencher| {
            bencher.iter(|| black_box(encode(black_box(body), black_box(&mut out))));
        });
        let len = encode(body, &mut out);
        group.bench_function(format!("decode {name}"), |bencher| {
            bencher.iter(|| black_box(decode(black_box(&out[..len]))));
        });
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
