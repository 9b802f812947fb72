//! Two ends of a lock channel, a network that the input plays, and frames that nobody sent. As long as nothing was forged,
//! every record comes once and in order; whatever was, nothing panics, every turn ends, and nothing grows.
#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sandrail_proto::dlm::transport::{Peer, SendError, Transport, TransportConfig, TransportEvent};
use sandrail_proto::time::Instant;
use sandrail_wire::lock::{
    CRC_BYTES, ClusterId, CoreId, Epoch, Incarnation, MAC_BYTES, MacKey, NodeId, Seal, Sequence,
};

const WINDOW_SLOTS: u64 = 64;
const FRAMES_KEPT: usize = 64;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

/// One end, and what it has sent and got in the life of both that goes on.
struct End {
    transport: Transport,
    incarnation: u64,
    sent: u64,
    sent_slots: u64,
    got: u64,
    got_slots: u64,
    /// The other's life, and whether the channel is open.
    other: u64,
    open: bool,
}

struct Machine {
    ends: [End; 2],
    now: Instant,
    wire: VecDeque<(usize, Vec<u8>)>,
    seal: Seal,
    key: Option<MacKey>,
    /// A frame was forged: what comes is no longer what was sent.
    hostile: bool,
    epoch: u64,
}

fn peer(end: usize) -> Peer {
    Peer {
        node: NodeId(end as u16 + 1),
        core: CoreId(0),
    }
}

fn end(place: usize, incarnation: u64, key: Option<MacKey>, epoch: u64, now: Instant) -> End {
    let me = peer(place);
    let mut config = TransportConfig::new(ClusterId(1), me.node, me.core, Incarnation(incarnation));
    config.key = key;
    config.channels_max = 2;
    config.window_slots = WINDOW_SLOTS as u16;
    config.mtu_bytes = 700;
    config.keepalive = Some(Duration::from_millis(1));
    config.silent_after = Some(Duration::from_millis(3));
    config.first_sequence = Sequence(u64::MAX - 20);
    let mut transport = Transport::new(config, Epoch(epoch)).expect("sound");
    transport.add_peer(now, peer(1 - place)).expect("room");
    End {
        transport,
        incarnation,
        sent: 0,
        sent_slots: 0,
        got: 0,
        got_slots: 0,
        other: 0,
        open: false,
    }
}

impl Machine {
    fn new(keyed: bool) -> Self {
        let now = Instant::from_nanos(1_000_000);
        let key = keyed.then_some(MacKey([5; 16]));
        Self {
            ends: [end(0, 1, key, 1, now), end(1, 1, key, 1, now)],
            now,
            wire: VecDeque::new(),
            seal: Seal::new(crc32c::crc32c, key),
            key,
            hostile: false,
            epoch: 1,
        }
    }

    fn turn(&mut self, place: usize) {
        let this = &mut self.ends[place];
        this.transport.handle_timeout(self.now);
        while let Some(event) = this.transport.poll_event() {
            match event {
                TransportEvent::Opened { incarnation, .. } => {
                    this.other = incarnation.0;
                    this.open = true;
                }
                TransportEvent::Restarted { new, .. } => {
                    (this.sent, this.sent_slots, this.got, this.got_slots) = (0, 0, 0, 0);
                    this.other = new.0;
                    this.open = false;
                }
                _ => {}
            }
        }
        while let Some(received) = this.transport.poll_message() {
            let slots = received.record.len() as u64 / 64;
            assert!(slots == 1 || slots == 2);
            if !self.hostile {
                let number = u64::from_be_bytes(received.record[..8].try_into().expect("long"));
                assert_eq!(number, this.got, "not the next one");
            }
            this.got += 1;
            this.got_slots += slots;
        }
        let mut out = [0; 700];
        let mut frames = 0;
        while let Some(sent) = this.transport.poll_transmit(self.now, &mut out) {
            frames += 1;
            assert!(frames <= WINDOW_SLOTS + 2, "a turn without end");
            assert_eq!(sent.peer, peer(1 - place));
            if self.wire.len() == FRAMES_KEPT {
                self.wire.pop_front();
            }
            self.wire
                .push_back((1 - place, out[..sent.len_bytes].to_vec()));
        }
        let due = this.transport.poll_timeout();
        assert!(
            due.is_none_or(|at| at > self.now),
            "a timer that was served is due"
        );
    }

    fn send(&mut self, place: usize, count: u8) {
        let this = &mut self.ends[place];
        let channel = this.transport.channel(peer(1 - place)).expect("added");
        for _ in 0..count {
            let mut record = vec![count; if this.sent % 3 == 0 { 128 } else { 64 }];
            record[..8].copy_from_slice(&this.sent.to_be_bytes());
            match this.transport.send(self.now, channel, &record) {
                Ok(()) => {
                    this.sent += 1;
                    this.sent_slots += record.len() as u64 / 64;
                }
                Err(SendError::Wait | SendError::NoPeer) => break,
                Err(SendError::Length(len)) => panic!("{len} is a length of records"),
            }
        }
    }

    /// A frame of the wire, changed where the input says and sealed anew.
    fn forge(&mut self, which: u8, input: &mut Input<'_>) -> Option<()> {
        let (place, mut frame) = self.pick(which)?;
        for _ in 0..=input.byte()? % 4 {
            let (at, to) = (usize::from(input.byte()?), input.byte()?);
            // The fields that matter most, or anywhere.
            let at = if at < 76 { at } else { at * 3 };
            if let Some(byte) = frame.get_mut(at) {
                *byte = to;
            }
        }
        let sealed = self.seal.len_bytes();
        if let Some(body) = frame.len().checked_sub(sealed) {
            if let Some(mac) = self.seal.mac(&frame[..body]) {
                frame[body..body + MAC_BYTES].copy_from_slice(&mac);
            }
            let at = frame.len() - CRC_BYTES;
            let crc = self.seal.crc(&frame[..at]);
            frame[at..].copy_from_slice(&crc.to_be_bytes());
        }
        self.hostile = true;
        self.ends[place].transport.handle_frame(self.now, &frame);
        self.turn(place);
        Some(())
    }

    fn pick(&self, which: u8) -> Option<(usize, Vec<u8>)> {
        let last = self.wire.len().checked_sub(1)?;
        Some(self.wire[last - usize::from(which) % self.wire.len()].clone())
    }

    fn deliver(&mut self, which: u8, keep: bool) {
        let Some(last) = self.wire.len().checked_sub(1) else {
            return;
        };
        let at = last - usize::from(which) % self.wire.len();
        let (place, frame) = self.wire[at].clone();
        if !keep {
            self.wire.remove(at);
        }
        self.ends[place].transport.handle_frame(self.now, &frame);
        self.turn(place);
    }

    /// Everything that is on the way arrives, in order.
    fn drain(&mut self) {
        for _ in 0..FRAMES_KEPT {
            let Some((place, frame)) = self.wire.pop_front() else {
                break;
            };
            self.ends[place].transport.handle_frame(self.now, &frame);
            self.turn(place);
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        self.turn(0);
        self.turn(1);
    }

    fn restart(&mut self, place: usize) {
        let next = self.ends[place].incarnation + 1;
        self.ends[place] = end(place, next, self.key, self.epoch, self.now);
        self.turn(place);
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let code = input.byte()?;
        let place = usize::from(code >> 7);
        match code & 15 {
            0..=2 => {
                self.send(place, input.byte()? % 40);
                self.turn(place);
            }
            3..=5 => self.deliver(input.byte()?, false),
            6 => self.deliver(input.byte()?, true),
            7 => {
                self.wire.pop_back();
            }
            8 => self.advance(Duration::from_micros(1 << (input.byte()? % 16))),
            9 | 10 => self.drain(),
            11 => {
                let which = input.byte()?;
                self.forge(which, input);
            }
            12 => {
                let len = usize::from(input.byte()?).min(input.0.len());
                let (frame, rest) = input.0.split_at(len);
                input.0 = rest;
                self.ends[place].transport.handle_frame(self.now, frame);
                self.turn(place);
            }
            13 => {
                self.epoch += u64::from(code >> 4 & 1);
                let epoch = Epoch(self.epoch);
                self.ends[place].transport.set_epoch(self.now, epoch);
                self.turn(place);
            }
            14 => self.restart(place),
            _ => self.send(place, 1),
        }
        Some(())
    }

    /// A good network and one epoch: all that was sent within the lives that go on comes, if nobody lied.
    fn settle(&mut self) {
        self.epoch += 1;
        for place in 0..2 {
            self.ends[place]
                .transport
                .set_epoch(self.now, Epoch(self.epoch));
            self.turn(place);
        }
        for _ in 0..400 {
            self.drain();
            self.advance(Duration::from_micros(500));
            if self.unfinished().is_none() {
                return;
            }
        }
        let unfinished = self.unfinished();
        assert!(self.hostile || unfinished.is_none(), "{unfinished:?}");
    }

    /// What has not come yet.
    fn unfinished(&self) -> Option<String> {
        let [a, b] = &self.ends;
        [(a, b), (b, a)].iter().find_map(|(from, to)| {
            if !from.open || from.other != to.incarnation {
                return Some(format!("not open: {:?}", from.transport.counters()));
            }
            (from.sent != to.got || from.sent_slots != to.got_slots)
                .then(|| format!("{} of {} have come", to.got, from.sent))
        })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let Some(first) = input.byte() else { return };
    let mut machine = Machine::new(first & 1 == 1);
    machine.turn(0);
    machine.turn(1);
    if first & 2 == 0 {
        // Open, so that the fuzzer needs not find out how.
        machine.drain();
    }
    while machine.step(&mut input).is_some() {}
    machine.settle();
});
