//! The initiator under any sequence of requests, frames, mutilated answers, and leaps of time: it never panics, ends
//! each request once and by its deadline, and gives each buffer back.
#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sandrail_proto::aoe::initiator::{
    IfClosed, Initiator, InitiatorConfig, InterfaceConfig, InterfaceId, Notice, Operation,
    PinnedMacs, Request, TargetId,
};
use sandrail_proto::time::Instant;
use sandrail_wire::aoe::{ConfigCommand, ReserveCommand};
use sandrail_wire::{FrameRef, Lba, MacAddr, TargetAddr};

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TARGET: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SECTORS: u64 = 64;
const FRAMES_KEPT: usize = 64;
/// Where in a frame an ATA command's sectors begin.
const DATA: usize = 36;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

/// A request under way.
struct Open {
    user: u64,
    deadline: Instant,
    len_bytes: usize,
}

struct Machine {
    initiator: Initiator<Vec<u8>>,
    now: Instant,
    sent: VecDeque<Vec<u8>>,
    polled: u64,
    open: Vec<Open>,
    next_user: u64,
    target: Option<TargetId>,
}

impl Machine {
    fn new() -> Self {
        let config = InitiatorConfig {
            requests_max: 16,
            commands_max: 128,
            frame_lifetime: Duration::from_millis(50),
            ..InitiatorConfig::default()
        };
        let interface = InterfaceConfig {
            mac: MacAddr(HOST),
            mtu_bytes: 1500,
            vlan: None,
        };
        let now = Instant::from_nanos(1_000_000_000);
        let mut initiator = Initiator::new(config, &[interface], 1, now).expect("sound");
        let pinned = PinnedMacs::new(&[MacAddr(TARGET)]).expect("one");
        let target = initiator
            .attach(now, TargetAddr { shelf: 7, slot: 0 }, pinned)
            .ok();
        Self {
            initiator,
            now,
            sent: VecDeque::new(),
            polled: 0,
            open: Vec::new(),
            next_user: 0,
            target,
        }
    }

    /// The shard's turn after every event.
    fn turn(&mut self) {
        if self
            .initiator
            .poll_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.initiator.handle_timeout(self.now);
        }
        while let Some(transmit) = self.initiator.poll_transmit(self.now, InterfaceId(0)) {
            assert!(transmit.header.len() <= 64);
            let mut frame = transmit.header.to_vec();
            frame.extend_from_slice(transmit.payload);
            assert!(frame.len() <= 1514 && frame[6..12] == HOST);
            self.polled += 1;
            if self.sent.len() == FRAMES_KEPT {
                self.sent.pop_front();
            }
            self.sent.push_back(frame);
        }
        while let Some(completion) = self.initiator.poll_event() {
            let place = self
                .open
                .iter()
                .position(|open| open.user == completion.user);
            let open = self.open.swap_remove(place.expect("a request ends once"));
            assert_eq!(
                completion.buffer.len(),
                open.len_bytes,
                "its own buffer comes back"
            );
        }
        while let Some(notice) = self.initiator.poll_notice() {
            if let Notice::AttachFailed(id, ..) = notice {
                assert_eq!(Some(id), self.target);
                self.target = None;
            }
        }
        let late = self.open.iter().any(|open| open.deadline <= self.now);
        assert!(!late, "a request outlives its deadline");
    }

    fn submit(&mut self, kind: u8, at: u8, len: u8) {
        let Some(target) = self.target else { return };
        let lba = Lba(u64::from(at) % (SECTORS + 4));
        let sectors = usize::from(len % 9);
        let (operation, len_bytes) = match kind % 8 {
            0 | 1 => (Operation::Read { lba }, sectors * 512),
            2 => (
                Operation::Write {
                    lba,
                    if_closed: IfClosed::Wait,
                },
                sectors * 512,
            ),
            3 => (
                Operation::Write {
                    lba,
                    if_closed: IfClosed::Refuse,
                },
                sectors * 512 + usize::from(len & 1),
            ),
            4 => (Operation::Flush, 0),
            5 => (Operation::Identify, usize::from(len) * 4),
            6 => (
                Operation::Config {
                    command: ConfigCommand::from(at),
                    len_bytes: u16::from(len),
                },
                usize::from(at) * 4,
            ),
            _ => (
                Operation::Reserve {
                    command: ReserveCommand::from(at & 3),
                    len_bytes: u16::from(len),
                },
                1530,
            ),
        };
        let timeout = Duration::from_millis(1 + u64::from(len) * 3);
        let user = self.next_user;
        self.next_user += 1;
        let request = Request {
            target,
            operation,
            buffer: vec![len; len_bytes],
            timeout,
            user,
        };
        match self.initiator.submit(self.now, request) {
            Ok(_) => self.open.push(Open {
                user,
                deadline: self.now + timeout,
                len_bytes,
            }),
            Err(rejected) => assert_eq!(rejected.buffer, vec![len; len_bytes]),
        }
    }

    /// The answer that a vblade would give to a frame sent before, with `mutations` bytes changed.
    fn answer(&mut self, which: u8, mutations: u8, input: &mut Input<'_>) {
        let Some(request) = self
            .sent
            .len()
            .checked_sub(1)
            .map(|last| &self.sent[last - usize::from(which) % self.sent.len()])
        else {
            return;
        };
        let mut reply = request[..request.len().min(DATA)].to_vec();
        reply[..6].copy_from_slice(&HOST);
        reply[6..12].copy_from_slice(&TARGET);
        reply[14] |= 0x08;
        reply[16..19].copy_from_slice(&[0, 7, 0]);
        match reply[19] {
            0 if reply.len() == DATA => {
                let (count, command) = (usize::from(reply[26]), reply[27]);
                reply[25..28].copy_from_slice(&[0, 0, 0x40]);
                match command {
                    0x20 | 0x24 => reply.resize(DATA + count * 512, 0x5a),
                    0xec => {
                        reply.resize(DATA + 512, 0);
                        let words = [(83, 0x7400_u16), (86, 0x3400), (100, SECTORS as u16)];
                        for (word, value) in words {
                            reply[DATA + word * 2..DATA + word * 2 + 2]
                                .copy_from_slice(&value.to_le_bytes());
                        }
                    }
                    _ => {}
                }
            }
            1 => {
                reply.truncate(24);
                reply.extend_from_slice(&[0, 16, 0x40, 0x19, 2, 0x10, 0, 0]);
            }
            _ => {}
        }
        for _ in 0..mutations {
            let (Some(at), Some(high), Some(to)) = (input.byte(), input.byte(), input.byte())
            else {
                break;
            };
            let at = usize::from(u16::from_be_bytes([high & 7, at]));
            match reply.get_mut(at) {
                Some(byte) => *byte = to,
                None => reply.truncate(usize::from(to)),
            }
        }
        self.receive(&reply);
    }

    fn receive(&mut self, bytes: &[u8]) {
        // In two segments, now and then, as frames longer than a chunk come.
        let (head, rest) = if bytes.len() > 1024 {
            bytes.split_at(800)
        } else {
            (bytes, &[][..])
        };
        let mut frame = FrameRef::new(head);
        if !rest.is_empty() {
            frame.push(rest).expect("two segments");
        }
        self.initiator
            .handle_frame(self.now, InterfaceId(0), &frame);
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 12 {
            0..=2 => {
                let (kind, at, len) = (input.byte()?, input.byte()?, input.byte()?);
                self.submit(kind, at, len);
            }
            3..=5 => {
                let (which, mutations) = (input.byte()?, input.byte()?);
                // Half of the answers are whole.
                self.answer(
                    which,
                    if mutations < 128 { 0 } else { mutations % 4 },
                    input,
                );
            }
            6 => {
                let len = usize::from(input.byte()?).min(input.0.len());
                let (frame, rest) = input.0.split_at(len);
                input.0 = rest;
                self.receive(frame);
            }
            7 => self.advance(Duration::from_micros(1 << (input.byte()? % 16))),
            8 => self.advance(Duration::from_millis(u64::from(input.byte()?))),
            9 => {
                let back = u64::from(input.byte()?);
                self.initiator.handle_sent(
                    self.now,
                    InterfaceId(0),
                    self.polled.saturating_sub(back),
                );
            }
            10 => match (input.byte()?, self.target) {
                (0..128, Some(target)) => self.initiator.accept_loss(target),
                (128..160, Some(target)) => {
                    self.initiator.detach(self.now, target);
                    self.target = None;
                }
                (_, None) => {
                    let pinned = PinnedMacs::first_to_answer();
                    self.target = self
                        .initiator
                        .attach(self.now, TargetAddr { shelf: 7, slot: 0 }, pinned)
                        .ok();
                }
                _ => self.initiator.discover(self.now),
            },
            _ => {
                // Up and running, so that the fuzzer needs not find out how.
                for _ in 0..8 {
                    for which in 0..4 {
                        self.answer(which, 0, &mut Input(&[]));
                    }
                    self.turn();
                    self.advance(Duration::from_millis(7));
                }
            }
        }
        self.turn();
        Some(())
    }

    /// Time passes, and the timers that are due in between are served.
    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.initiator.poll_timeout().filter(|due| *due <= until) {
            let later = due.max(self.now + Duration::from_micros(1));
            if later > until {
                break;
            }
            self.now = later;
            self.turn();
        }
        self.now = until;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut machine = Machine::new();
    let mut input = Input(bytes);
    machine.turn();
    while machine.step(&mut input).is_some() {}
    // Everything ends: the longest deadline is 766 ms.
    machine.advance(Duration::from_secs(1));
    machine.turn();
    assert!(machine.open.is_empty(), "a request never ended");
});
