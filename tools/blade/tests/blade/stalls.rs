//! A process that does not run for a while finds frames in its rings that are older than it thinks.

use std::time::{Duration, Instant};

use sandrail_lab::{Lab, Side};
use sandrail_link::Link;
use sandrail_link::packet::{PacketConfig, PacketLink};
use sandrail_node::clock;

use crate::bed::{lab, options, possible};

/// How long a frame may live here.
const LIFETIME: Duration = Duration::from_millis(100);

/// Frames by hand, for copies that no initiator would send so late.
struct Hand {
    link: PacketLink,
    addresses: Vec<u8>,
}

impl Hand {
    fn new(lab: &Lab) -> Self {
        let open = || PacketLink::open(&PacketConfig::new(lab.interface(Side::Initiator)));
        let mut addresses = lab.mac(Side::Target).0.to_vec();
        addresses.extend(lab.mac(Side::Initiator).0);
        Self {
            link: lab.enter(Side::Initiator, open).unwrap().unwrap(),
            addresses,
        }
    }

    /// Sends what comes after the addresses.
    fn send(&mut self, rest: &[u8]) {
        let frame = [&self.addresses, rest].concat();
        let (header, payload) = frame.split_at(frame.len().min(36));
        let now = clock::now();
        self.link.transmit(now, header, payload).unwrap();
        self.link.flush(now);
    }

    /// An ATA command of one sector.
    fn ata(
        &mut self,
        tag: u32,
        (flags, command): (u8, u8),
        lba: u8,
        session: [u8; 2],
        data: &[u8],
    ) {
        let mut frame = vec![0x88, 0xa2, 0x10, 0, 0, 7, 3, 0];
        frame.extend(tag.to_be_bytes());
        frame.extend([flags, 0, 1, command, lba, 0, 0, 0, 0, 0]);
        frame.extend(session);
        frame.extend(data);
        self.send(&frame);
    }

    fn write(&mut self, tag: u32, session: [u8; 2], byte: u8) {
        self.ata(tag, (0x41, 0x34), 8, session, &[byte; 512]);
    }

    fn read(&mut self, tag: u32, lba: u8) {
        self.ata(tag, (0x40, 0x24), lba, [0; 2], &[]);
    }

    /// The answer with this tag.
    #[track_caller]
    fn answer(&mut self, tag: u32) -> Vec<u8> {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let mut found = None;
            self.link.receive(clock::now(), 64, &mut |frame| {
                let mut bytes = vec![0; frame.len_bytes()];
                if frame.copy_to(0, &mut bytes)
                    && bytes.len() > 36
                    && bytes[14] & 0x08 != 0
                    && bytes[20..24] == tag.to_be_bytes()
                {
                    found = Some(bytes);
                }
            });
            if let Some(bytes) = found {
                return bytes;
            }
            assert!(Instant::now() < limit, "no answer to {tag:#x}");
            std::thread::yield_now();
        }
    }

    /// A session.
    fn attach(&mut self) -> [u8; 2] {
        let mut frame = vec![0x88, 0xa2, 0x10, 0, 0, 7, 3, 0xf0, 0, 0, 0, 0x50];
        frame.extend(b"SRAL\x01\x01\x00\x00\x00\x00\x00\x03");
        frame.extend(77_u64.to_be_bytes());
        frame.extend([0; 20]);
        frame.extend(u32::try_from(LIFETIME.as_millis()).unwrap().to_be_bytes());
        frame.extend([0; 4]);
        self.send(&frame);
        let answer = self.answer(0x50);
        assert_eq!(answer[30], 0, "status of the attach");
        [answer[44], answer[45]]
    }
}

#[test]
fn a_copy_that_waited_out_a_stall_is_known_still() {
    if !possible("a_copy_that_waited_out_a_stall_is_known_still") {
        return;
    }
    let lab = lab(1);
    let lifetime_ms = LIFETIME.as_millis().to_string();
    let mut blade = lab
        .blade(options().export("e7.3", "ram:1M").args([
            "--link",
            "packet",
            "--frame-lifetime-ms",
            &lifetime_ms,
        ]))
        .unwrap();
    let mut hand = Hand::new(&lab);
    let session = hand.attach();
    hand.write(0x10, session, 1);
    assert_eq!(hand.answer(0x10)[27], 0x40);
    // More frames than a few turns take arrive while the blade does not run; behind them newer data, and a late copy.
    blade.pause().unwrap();
    for tag in 0..300 {
        hand.read(0x1000 + tag * 16, 200);
    }
    hand.write(0x20, session, 2);
    hand.write(0x11, session, 1);
    std::thread::sleep(4 * LIFETIME);
    blade.resume().unwrap();
    assert_eq!(hand.answer(0x11)[27], 0x40);
    hand.read(0x30, 8);
    assert_eq!(
        hand.answer(0x30)[36..40],
        [2; 4],
        "the late copy was executed"
    );
}
