//! The floor: frames of a READ's or WRITE's sizes to the other end of the wire and back, and nothing else.
//!
//! Both ends poll and yield, as the contenders do, over the engine's own link. No protocol, no timers but a guard against
//! loss, no checks: what this leaves of a second is what this machine, its kernel and the link have to give.
//! The *bare* echo always sends the same 4 KiB, which therefore lie in the nearest cache (the link copies what it is given to
//! send into the memory that it shares with the kernel). The *copying* one has a disk in memory at the far end and a buffer
//! for each I/O at the near end, and takes the data from where it lies to where it belongs, as every target and
//! initiator must.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandrail_link::Link;
use sandrail_node::clock;
use sandrail_proto::time::Instant;
use sandrail_wire::{MacAddr, TargetAddr};

use crate::driver::{Measured, Span};
use crate::record::Recorder;
use crate::rival::{HEADER_BYTES, LBA_AT, Ran, header, slot_of};
use crate::site::{BLOCK_BYTES, BLOCK_SECTORS, Blocks, Direction};
use crate::waiter::Waiter;

/// Frames taken in a turn at most, as in a shard.
const BURST_FRAMES: usize = 64;
/// Without a reply for as long, everything is sent again: a frame was lost.
const STALL: Duration = Duration::from_millis(50);
/// What is under way at the end is waited for so long.
const DRAIN: Duration = Duration::from_millis(50);
/// Where an AoE frame says that it is a response: flags behind version.
const FLAGS_AT: usize = 14;
const FLAG_RESPONSE: u8 = 8;

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoConfig {
    /// Which way the 4 KiB go.
    pub direction: Direction,
    /// Whether each end copies them from and to their own place.
    pub copies: bool,
    /// Length of the disk at the far end, in sectors.
    pub sectors: u64,
}

/// The end that answers.
#[derive(Debug)]
pub struct FarEnd<L> {
    link: L,
    store: Vec<u8>,
    /// Of the requests of a turn.
    heads: Vec<[u8; HEADER_BYTES]>,
}

impl<L: Link> FarEnd<L> {
    /// With a disk in memory.
    #[must_use]
    pub fn new(link: L, sectors: u64) -> Self {
        let len_bytes = usize::try_from(sectors).unwrap_or(0) * 512;
        let mut store = vec![0; len_bytes.max(BLOCK_BYTES)];
        // Pages that nobody has written are all the same one.
        fastrand::Rng::with_seed(1).fill(&mut store);
        Self {
            link,
            store,
            heads: Vec::with_capacity(BURST_FRAMES),
        }
    }

    /// Answers until it is told to stop; what it did. I/Os are answers.
    pub fn run(&mut self, config: EchoConfig, stop: &AtomicBool) -> Ran {
        let mut ran = Ran::default();
        let mut waiter = Waiter::default();
        let mut now = clock::now();
        // Relaxed: it only has to be seen some time.
        while !stop.load(Ordering::Relaxed) {
            let answered = self.turn(now, config);
            now = clock::now();
            ran.ios += answered;
            ran.turns += 1;
            waiter.after_turn(answered > 0);
        }
        ran.yields = waiter.yields;
        ran
    }

    /// Takes requests and answers them; how many.
    fn turn(&mut self, now: Instant, config: EchoConfig) -> u64 {
        let Self { link, store, heads } = self;
        link.receive(now, BURST_FRAMES, &mut |frame| {
            let Some(head) = frame.head().first_chunk::<HEADER_BYTES>() else {
                return;
            };
            if slot_of(head).is_none() {
                return;
            }
            if config.copies && config.direction == Direction::Write {
                let at = place(head, config.sectors);
                // A frame that is too short has no data to copy.
                let _ = frame.copy_to(HEADER_BYTES, &mut store[at..at + BLOCK_BYTES]);
            }
            heads.push(*head);
        });
        let mut answered = 0;
        for mut head in heads.drain(..) {
            turn_around(&mut head);
            let payload: &[u8] = match (config.direction, config.copies) {
                (Direction::Write, _) => &[],
                (Direction::Read, false) => &store[..BLOCK_BYTES],
                (Direction::Read, true) => {
                    let at = place(&head, config.sectors);
                    &store[at..at + BLOCK_BYTES]
                }
            };
            // A full ring loses the answer; the near end notices.
            answered += u64::from(link.transmit(now, &head, payload).is_ok());
        }
        link.flush(now);
        answered
    }

    /// The link.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }
}

/// The request's header as its answer's.
fn turn_around(head: &mut [u8; HEADER_BYTES]) {
    let (dst, rest) = head.split_at_mut(6);
    dst.swap_with_slice(&mut rest[..6]);
    head[FLAGS_AT] |= FLAG_RESPONSE;
}

/// Where the block of a frame lies in the store.
fn place(head: &[u8; HEADER_BYTES], sectors: u64) -> usize {
    let mut lba = 0;
    for byte in head[LBA_AT..LBA_AT + 6].iter().rev() {
        lba = lba << 8 | u64::from(*byte);
    }
    let last = sectors.saturating_sub(u64::from(BLOCK_SECTORS));
    usize::try_from(lba.min(last)).unwrap_or(0) * 512
}

/// The end that asks.
#[derive(Debug)]
pub struct NearEnd<L> {
    link: L,
    far: MacAddr,
}

/// One exchange's state.
struct Exchange {
    headers: Vec<[u8; HEADER_BYTES]>,
    buffers: Vec<[u8; BLOCK_BYTES]>,
    /// When each slot's request was sent; `None`: it has no request under way.
    sent_at: Vec<Option<Instant>>,
    ready: Vec<usize>,
    blocks: Blocks,
}

impl<L: Link> NearEnd<L> {
    /// Talks to a [`FarEnd`] at that MAC.
    #[must_use]
    pub fn new(link: L, far: MacAddr) -> Self {
        Self { link, far }
    }

    /// The link.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }

    /// Keeps `depth` requests under way for as long as `span` says.
    ///
    /// # Panics
    /// When `depth` is 0 or exceeds 4096.
    pub fn measure(
        &mut self,
        config: EchoConfig,
        depth: usize,
        seed: u64,
        span: Span,
    ) -> (Measured, Ran) {
        assert!((1..=4096).contains(&depth), "a depth of 1 to 4096");
        let target = (TargetAddr { shelf: 7, slot: 3 }, self.far);
        let mac = self.link.info().mac;
        let mut exchange = Exchange {
            headers: (0..depth)
                .map(|slot| header(mac, target, config.direction, slot))
                .collect(),
            buffers: vec![[0x5a; BLOCK_BYTES]; if config.copies { depth } else { 1 }],
            sent_at: vec![None; depth],
            ready: (0..depth).collect(),
            blocks: Blocks::new(seed, config.sectors),
        };
        let start = clock::now();
        let from = start + span.warmup;
        let until = from + span.measure;
        let mut recorder = Recorder::new(from, span.measure, span.interval);
        let (mut ran, mut waiter) = (Ran::default(), Waiter::default());
        let (mut now, mut heard_at, mut ios) = (start, start, 0);
        let is_write = config.direction == Direction::Write;
        loop {
            let heard = self.take(now, config, &mut exchange, &mut |at, sent_at| {
                ios += u64::from(at >= from && at < until);
                if sent_at >= from && sent_at < until {
                    recorder.record(is_write, at, at.saturating_since(sent_at));
                }
            });
            ran.ios += heard;
            ran.turns += 1;
            if heard > 0 {
                heard_at = now;
            } else if now.saturating_since(heard_at) > STALL {
                (heard_at, ran.resent) = (now, ran.resent + 1);
                exchange.ready = (0..depth).collect();
            }
            if now < until {
                self.send(now, config, &mut exchange);
            }
            self.link.flush(now);
            now = clock::now();
            let done = exchange.sent_at.iter().all(Option::is_none);
            if now >= until && (done || now >= until + DRAIN) {
                break;
            }
            waiter.after_turn(heard > 0);
        }
        ran.elapsed = now.saturating_since(start);
        ran.yields = waiter.yields;
        let measured = Measured {
            ios,
            reads: if is_write { 0 } else { ios },
            elapsed: span.measure,
            overdue: 0,
            checked: 0,
            intervals: recorder.into_intervals(),
        };
        (measured, ran)
    }

    /// Takes replies; how many. `each` is told when one was found and when its request was sent.
    fn take(
        &mut self,
        now: Instant,
        config: EchoConfig,
        exchange: &mut Exchange,
        each: &mut dyn FnMut(Instant, Instant),
    ) -> u64 {
        let Exchange {
            buffers,
            sent_at,
            ready,
            ..
        } = exchange;
        let mut heard = 0;
        self.link.receive(now, BURST_FRAMES, &mut |frame| {
            let head = frame.head();
            let Some(slot) = slot_of(head) else { return };
            let Some(sent_at) = sent_at.get_mut(slot).and_then(Option::take) else {
                return;
            };
            if config.copies && config.direction == Direction::Read {
                // A frame that is too short has no data to copy.
                let _ = frame.copy_to(HEADER_BYTES, &mut buffers[slot]);
            }
            ready.push(slot);
            heard += 1;
            each(now, sent_at);
        });
        heard
    }

    fn send(&mut self, now: Instant, config: EchoConfig, exchange: &mut Exchange) {
        while let Some(slot) = exchange.ready.pop() {
            let header = &mut exchange.headers[slot];
            let [_, _, lba @ ..] = exchange.blocks.next_lba().0.to_be_bytes();
            for (place, byte) in header[LBA_AT..].iter_mut().zip(lba.iter().rev()) {
                *place = *byte;
            }
            let payload: &[u8] = match (config.direction, config.copies) {
                (Direction::Read, _) => &[],
                (Direction::Write, false) => &exchange.buffers[0],
                (Direction::Write, true) => &exchange.buffers[slot],
            };
            if self.link.transmit(now, header, payload).is_err() {
                exchange.ready.push(slot);
                break;
            }
            exchange.sent_at[slot] = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rival::TAG_AT;
    use sandrail_link::sim::{PortConfig, SimNet, SimNetConfig};
    use sandrail_wire::EtherType;

    const NEAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const SECTORS: u64 = 8 * 16;

    #[test]
    fn an_answer_goes_back_and_names_its_request() {
        let target = (TargetAddr { shelf: 7, slot: 3 }, FAR);
        let mut head = header(NEAR, target, Direction::Read, 5);
        head[LBA_AT] = 16;
        turn_around(&mut head);
        assert_eq!(head[..6], NEAR.0);
        assert_eq!(head[6..12], FAR.0);
        assert_eq!(head[12..14], EtherType::AOE.0.to_be_bytes());
        assert_eq!(head[TAG_AT..TAG_AT + 4], [0, 0, 0, 6]);
        assert_eq!(slot_of(&head), Some(5));
        assert_eq!(place(&head, SECTORS), 16 * 512);
        head[LBA_AT + 3] = 1;
        assert_eq!(place(&head, SECTORS), 15 * 4096, "never past the end");
    }

    #[test]
    fn data_is_copied_to_where_it_belongs() {
        let net = SimNet::new(1, SimNetConfig::default());
        let mut near = net.port(PortConfig::new(NEAR)).link();
        let far = net.port(PortConfig::new(FAR)).link();
        let mut end = FarEnd::new(far, SECTORS);
        let target = (TargetAddr { shelf: 7, slot: 3 }, FAR);
        let mut head = header(NEAR, target, Direction::Write, 0);
        head[LBA_AT] = 24;
        // Simulated frames take a while.
        let at = |us: u64| Instant::from_nanos(us * 1000);
        near.transmit(at(1), &head, &[0xab; BLOCK_BYTES]).unwrap();
        near.flush(at(1));
        let mut config = EchoConfig {
            direction: Direction::Write,
            copies: true,
            sectors: SECTORS,
        };
        assert_eq!(end.turn(at(100), config), 1);
        assert_eq!(end.store[24 * 512..32 * 512], [0xab; BLOCK_BYTES]);
        let mut answers = Vec::new();
        near.receive(at(200), 8, &mut |frame| {
            answers.push((frame.len_bytes(), slot_of(frame.head())));
        });
        assert_eq!(answers, [(60, Some(0))], "a WRITE's answer has no data");

        config.direction = Direction::Read;
        near.transmit(at(300), &head, &[]).unwrap();
        near.flush(at(300));
        assert_eq!(end.turn(at(400), config), 1);
        let mut data = [0; BLOCK_BYTES];
        near.receive(at(500), 8, &mut |frame| {
            assert_eq!(frame.len_bytes(), HEADER_BYTES + BLOCK_BYTES);
            assert!(frame.copy_to(HEADER_BYTES, &mut data));
        });
        assert_eq!(data, [0xab; BLOCK_BYTES], "what was written there");
    }
}
