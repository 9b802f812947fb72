//! Golden bytes of records, and that each kind survives the way there and back.

use std::vec::Vec;

use super::*;

fn wanted() -> Wanted {
    Wanted {
        request: RequestId(0x0102_0304),
        mode: Mode::Pw,
        floor: Mode::Cr,
        flags: RequestFlags::CONVERT.union(RequestFlags::ALTPR),
        transaction: Transaction(0x0807_0605_0403_0201),
    }
}

fn path() -> Path {
    Path {
        length: 9,
        named: [1, 2, 3, 4, 5, 6, 7, u64::MAX].map(Transaction),
    }
}

fn probe() -> Probe {
    Probe {
        origin: Transaction(0x1122_3344_5566_7788),
        round: 7,
        confirms: Some((3, 0x1234)),
        signature: 0x9876_5432_1000_0000,
        mode: Mode::Ex,
        path: path(),
    }
}

fn valid() -> ValueBlock {
    ValueBlock::Valid {
        sequence: 0xffee,
        bytes: core::array::from_fn(|index| u8::try_from(index).unwrap()),
    }
}

/// Every kind, with everything that is optional there and not there.
fn every_body() -> Vec<Body> {
    let request = RequestId(77);
    let grant = GrantNumber(0x0000_0500_0000_0009);
    let mode = Mode::Pr;
    let kept = Mode::Cr;
    let slots = SlotSet {
        first: 512,
        words: [1, 2, 3, 4, 5, 6, 7, 1 << 63],
    };
    let mut bodies = std::vec![
        Body::Request(wanted()),
        Body::Cancel { request },
        Body::Busy { grant, request },
        Body::Settled { grant },
        Body::Ask { grant },
        Body::Kept { grant },
        Body::Handed {
            grant,
            kept,
            value: valid()
        },
        Body::Collect(slots),
        Body::Doubt {
            slot: 4095,
            dead: 5
        },
        Body::Reported { slots },
        Body::Ceded { slots },
        Body::Draw { request, count: 3 },
        Body::Drawn {
            request,
            first: grant,
            count: 3
        },
        Body::ProbeMaster {
            waiter: NodeId(2),
            request,
            probe: probe()
        },
        Body::Passed {
            successor: NodeId(63),
            request,
            grant,
            value: valid()
        },
    ];
    for reason in (0..5).map(|number| Denial::from_u8(number).unwrap()) {
        bodies.push(Body::Deny {
            request,
            reason,
            other: Transaction(17),
        });
    }
    for value in [valid(), ValueBlock::Invalid] {
        bodies.push(Body::Grant {
            request,
            mode,
            previous: kept,
            grant,
            value,
        });
    }
    for flag in [false, true] {
        bodies.push(Body::ProbeNode {
            queued: flag,
            waiter: NodeId(3),
            probe: probe(),
        });
        bodies.push(Body::Hand {
            request,
            mode,
            kept,
            grant,
            is_newer: flag,
            value: valid(),
        });
        bodies.push(Body::Block {
            grant,
            wanted: mode,
            only_idle: flag,
            request,
            successor: flag.then_some(Successor {
                node: NodeId(8),
                grant,
            }),
        });
    }
    for value in [None, Some(ValueBlock::Invalid), Some(valid())] {
        bodies.push(Body::Demote { grant, mode, value });
        bodies.push(Body::Taken {
            grant,
            mode,
            kept,
            value,
        });
        bodies.push(Body::Legacy {
            retained: mode,
            dead: 1 << 63,
            value,
        });
        for there in [false, true] {
            bodies.push(Body::Report {
                mode,
                grant,
                wanted: there.then(wanted),
                value,
            });
        }
    }
    bodies
}

fn message(body: Body) -> Message {
    Message {
        term: Epoch(0x0a0b),
        resource: ResourceName(*b"0123456789abcdef"),
        body,
    }
}

#[test]
fn every_kind_comes_back_as_it_was() {
    for body in every_body() {
        let message = message(body);
        let mut record = [0xee; 128];
        let len_bytes = message.emit(&mut record).unwrap();
        assert_eq!(len_bytes, message.len_bytes());
        assert_eq!(
            Message::parse(&record[..len_bytes]),
            Ok(message),
            "{body:?}"
        );
    }
}

#[test]
fn the_bytes_of_a_request() {
    let mut record = [0xee; 64];
    message(Body::Request(wanted())).emit(&mut record).unwrap();
    let mut expected = [0; 64];
    expected[..8].copy_from_slice(&[1, 0, 4, 1, 0, 0x11, 0, 0]);
    expected[8..16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0x0a, 0x0b]);
    expected[16..32].copy_from_slice(b"0123456789abcdef");
    expected[40..44].copy_from_slice(&[1, 2, 3, 4]);
    expected[48..56].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(record, expected);
}

#[test]
fn the_bytes_of_a_grant_with_its_value_block() {
    let mut record = [0xee; 128];
    let body = Body::Grant {
        request: RequestId(0x51),
        mode: Mode::Ex,
        previous: Mode::Cr,
        grant: GrantNumber(0x0000_0700_0000_0003),
        value: valid(),
    };
    assert_eq!(message(body).emit(&mut record), Ok(128));
    assert_eq!(record[..8], [3, 3, 5, 1, 0, 0, 0, 0]);
    assert_eq!(record[32..40], [0, 0, 7, 0, 0, 0, 0, 3]);
    assert_eq!(record[40..48], [0, 0, 0, 0x51, 0, 0, 0, 0]);
    assert_eq!(record[56..64], [0, 0, 0, 0, 0, 0, 0xff, 0xee]);
    assert_eq!(record[64..68], [0, 1, 2, 3]);
    assert_eq!(record[127], 63);
}

#[test]
fn what_is_no_message_is_refused_by_reason() {
    let mut record = [0; 128];
    let body = Body::Deny {
        request: RequestId(1),
        reason: Denial::Full,
        other: Transaction::NONE,
    };
    message(body).emit(&mut record).unwrap();
    for length in (0..128).filter(|length| *length != 64) {
        assert_eq!(
            Message::parse(&record[..length]),
            Err(MessageError::Length(length))
        );
    }
    let long = Message::parse(&record);
    assert_eq!(
        long,
        Err(MessageError::Length(128)),
        "a kind has one length only"
    );
    let patched = |at: usize, byte: u8| {
        let mut changed = record;
        changed[at] = byte;
        Message::parse(&changed[..64])
    };
    assert_eq!(patched(0, 0), Err(MessageError::UnknownKind(0)));
    assert_eq!(patched(0, 25), Err(MessageError::UnknownKind(25)));
    assert_eq!(patched(2, 6), Err(MessageError::BadField("mode")));
    assert_eq!(patched(3, 5), Err(MessageError::BadField("reason")));
    assert_eq!(
        patched(0, 14),
        Err(MessageError::Length(64)),
        "a set wants two slots"
    );
    assert_eq!(
        patched(0, 3),
        Err(MessageError::BadField("value block")),
        "a grant tells of it"
    );
}

#[test]
fn no_buffer_is_written_past_its_end() {
    for body in every_body() {
        let message = message(body);
        let mut record = [0xee; 128];
        let short = message.len_bytes() - 1;
        assert!(message.emit(&mut record[..short]).is_err());
        assert_eq!(record, [0xee; 128]);
    }
}
