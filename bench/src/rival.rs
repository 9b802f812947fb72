//! The rival: the least possible client of an AoE target.
//!
//! A polled loop over the very link that the engine uses. It sends prebuilt READ or WRITE frames, with only the LBA filled
//! in, and knows a reply by its ethertype and the slot in its tag. It checks nothing else, copies no data out, and keeps no
//! timers but a guard against a stall. What a target gives to it is what there is to get; what the engine's promises
//! cost is the difference.

use std::time::Duration;

use sandrail_link::Link;
use sandrail_node::clock;
use sandrail_proto::time::Instant;
use sandrail_wire::aoe::{AtaRepr, Body, Repr, VERSION};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, Lba, MacAddr, Tag, TargetAddr};

use crate::site::{BLOCK_SECTORS, Blocks, Direction};
use crate::waiter::Waiter;

/// Ethernet, AoE and ATA headers.
pub(crate) const HEADER_BYTES: usize = 36;
/// Where the LBA's six bytes lie in an untagged ATA frame.
pub(crate) const LBA_AT: usize = 28;
/// Where the tag lies.
pub(crate) const TAG_AT: usize = 20;
/// Without a reply for as long, everything is sent again: a frame was lost.
const STALL: Duration = Duration::from_millis(50);
/// Frames taken in a turn at most, as in a shard.
const BURST_FRAMES: usize = 64;
/// Turns between two looks at the clock.
const TURNS_A_CLOCK: u32 = 32;

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ran {
    /// I/Os that ended.
    pub ios: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Turns of the loop.
    pub turns: u64,
    /// Calls of sched_yield(2).
    pub yields: u64,
    /// Stalls ended by sending everything again (the rival), or frames sent again (the engine).
    pub resent: u64,
}

impl Ran {
    /// I/Os a second.
    #[must_use]
    pub fn ios_per_s(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "fewer than 2^53 I/Os end within a run"
        )]
        let ios = self.ios as f64;
        ios / self.elapsed.as_secs_f64()
    }
}

/// The loop.
#[derive(Debug)]
pub struct Rival<L> {
    link: L,
    headers: Vec<[u8; HEADER_BYTES]>,
    payload: Vec<u8>,
    under_way: Vec<bool>,
    ready: Vec<usize>,
    blocks: Blocks,
}

impl<L: Link> Rival<L> {
    /// A loop with `depth` I/Os under way, over `link`.
    ///
    /// # Panics
    /// When `depth` is 0 or exceeds 4096.
    #[must_use]
    pub fn new(
        link: L,
        target: (TargetAddr, MacAddr),
        direction: Direction,
        depth: usize,
        blocks: Blocks,
    ) -> Self {
        assert!((1..=4096).contains(&depth), "a depth of 1 to 4096");
        let headers = (0..depth)
            .map(|slot| header(link.info().mac, target, direction, slot))
            .collect();
        Self {
            link,
            headers,
            payload: match direction {
                Direction::Read => Vec::new(),
                Direction::Write => vec![0x5a; usize::from(BLOCK_SECTORS) * 512],
            },
            under_way: vec![false; depth],
            ready: (0..depth).collect(),
            blocks,
        }
    }

    /// Runs for a while. I/Os that are under way at its end stay so, and count in the next run.
    pub fn run(&mut self, duration: Duration) -> Ran {
        let mut ran = Ran::default();
        let mut waiter = Waiter::default();
        let start = clock::now();
        let mut now = start;
        let mut heard_at = start;
        let mut turns_to_clock = TURNS_A_CLOCK;
        loop {
            let ios = self.turn(now);
            ran.turns += 1;
            ran.ios += ios;
            if ios > 0 {
                heard_at = now;
            }
            waiter.after_turn(ios > 0);
            turns_to_clock -= 1;
            if turns_to_clock > 0 {
                continue;
            }
            turns_to_clock = TURNS_A_CLOCK;
            now = clock::now();
            if now.saturating_since(heard_at) > STALL {
                ran.resent += 1;
                heard_at = now;
                self.ready.clear();
                self.ready.extend(0..self.headers.len());
            }
            if now.saturating_since(start) >= duration {
                break;
            }
        }
        ran.elapsed = now.saturating_since(start);
        ran.yields = waiter.yields;
        ran
    }

    /// One turn; how many replies came.
    pub fn turn(&mut self, now: Instant) -> u64 {
        let Self {
            link,
            under_way,
            ready,
            ..
        } = self;
        let mut ios = 0;
        link.receive(now, BURST_FRAMES, &mut |frame| {
            if let Some(slot) = slot_of(frame.head())
                && let Some(under_way) = under_way.get_mut(slot)
                && std::mem::take(under_way)
            {
                ready.push(slot);
                ios += 1;
            }
        });
        while let Some(slot) = self.ready.pop() {
            let header = &mut self.headers[slot];
            let [_, _, lba @ ..] = self.blocks.next_lba().0.to_be_bytes();
            for (place, byte) in header[LBA_AT..].iter_mut().zip(lba.iter().rev()) {
                *place = *byte;
            }
            if self.link.transmit(now, header, &self.payload).is_err() {
                self.ready.push(slot);
                break;
            }
            self.under_way[slot] = true;
        }
        self.link.flush(now);
        ios
    }

    /// The link.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }
}

/// The slot that a reply's tag names.
pub(crate) fn slot_of(head: &[u8]) -> Option<usize> {
    let head: &[u8; TAG_AT + 4] = head.first_chunk()?;
    if head[12..14] != EtherType::AOE.0.to_be_bytes() {
        return None;
    }
    let [.., high, low] = *head;
    usize::from(u16::from_be_bytes([high, low])).checked_sub(1)
}

/// The frame of a READ or WRITE, all but its LBA.
pub(crate) fn header(
    src: MacAddr,
    (addr, dst): (TargetAddr, MacAddr),
    direction: Direction,
    slot: usize,
) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let ethernet = EthernetRepr {
        dst,
        src,
        vlans: [None, None],
        ethertype: EtherType::AOE,
    };
    let at = ethernet.emit(&mut bytes).expect("36 bytes hold the header");
    let ata = match direction {
        Direction::Read => AtaRepr::read_ext(Lba(0), BLOCK_SECTORS),
        Direction::Write => AtaRepr::write_ext(Lba(0), BLOCK_SECTORS),
    };
    let repr = Repr {
        version: VERSION,
        response: false,
        error: None,
        addr,
        // 0 would be an advertisement's; shard 0 in the high bits, so that steering brings it here.
        tag: Tag(u32::try_from(slot + 1).expect("the depth was checked")),
        body: Body::Ata(ata),
    };
    let len = repr
        .emit(&mut bytes[at..])
        .expect("36 bytes hold the header");
    debug_assert_eq!(at + len, HEADER_BYTES, "an untagged ATA frame");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blade::BladeLink;

    #[test]
    fn it_runs_against_a_target_in_memory() {
        let target = (BladeLink::ADDR, BladeLink::MAC);
        for direction in [Direction::Read, Direction::Write] {
            let blocks = Blocks::new(1, BladeLink::SECTORS);
            let mut rival = Rival::new(BladeLink::new(1), target, direction, 4, blocks);
            let ran = rival.run(Duration::from_millis(2));
            assert!(ran.ios > 4 && ran.resent == 0, "{ran:?}");
            let link = rival.link();
            assert_eq!(link.refused(), 0, "every frame was a proper request");
            assert!(link.counters().tx_frames <= ran.ios + 4);
        }
    }

    #[test]
    fn a_lost_reply_is_asked_for_again() {
        let target = (BladeLink::ADDR, BladeLink::MAC);
        let blocks = Blocks::new(1, BladeLink::SECTORS);
        let mut rival = Rival::new(BladeLink::new(1), target, Direction::Read, 2, blocks);
        rival.link().lose(2);
        // Without the core, a run may end before the loss was noticed, or before the second try was answered.
        let mut resent = 0;
        for _ in 0..100 {
            let ran = rival.run(STALL * 2);
            resent += ran.resent;
            if ran.ios > 2 {
                break;
            }
        }
        assert!(resent > 0, "nothing was sent again");
        assert!(rival.run(STALL).ios > 0, "it goes on");
    }

    #[test]
    fn strangers_are_no_replies() {
        let mut head = [0_u8; 60];
        assert_eq!(slot_of(&head), None);
        head[12..14].copy_from_slice(&[0x88, 0xa2]);
        assert_eq!(slot_of(&head), None, "tag 0 is an advertisement");
        head[23] = 3;
        assert_eq!(slot_of(&head), Some(2));
        assert_eq!(slot_of(&head[..20]), None);
    }
}
