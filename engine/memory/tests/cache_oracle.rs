//! Random operations against an oracle that keeps its own books: what every page must contain, what the volume has, who holds
//! what. On one thread, so that each answer is determined.

#[path = "cache/bed.rs"]
#[allow(dead_code, reason = "shared with tests that use more of it")]
mod bed;

use std::collections::{HashMap, HashSet};

use bed::{Bed, NAME, PAGE_BYTES, VERSION, content, page, version_of};
use proptest::prelude::*;
use sandrail_memory::cache::{
    CacheConfig, Eviction, Handle, PageId, Pin, ReadTicket, Refused, Reserve, Reserves, Revocation,
    ShardFetch, Shared, VolumeFault, WriteTicket,
};

const PAGES: u64 = 24;
const FRAMES: u32 = 10;

#[derive(Clone, Debug)]
enum Op {
    /// Through a read by hand: asked now, delivered later, well or badly.
    Ask(u64),
    Deliver {
        which: usize,
        fault: u8,
    },
    Peek(u64),
    Read(u64),
    Change(u64),
    Create(u64),
    Hold(u64),
    LetGo(usize),
    Pin(u64),
    Unpin(usize),
    Flush,
    StartWrite,
    EndWrite {
        which: usize,
        well: bool,
    },
    HoldBack(bool),
    Revoke {
        number: u64,
        discard: bool,
    },
    Downgrade(u64),
    Upgrade(u64),
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    let number = 0..PAGES;
    prop_oneof![
        8 => number.clone().prop_map(Op::Ask),
        8 => (any::<usize>(), 0_u8..8).prop_map(|(which, fault)| Op::Deliver { which, fault }),
        6 => number.clone().prop_map(Op::Peek),
        4 => number.clone().prop_map(Op::Read),
        8 => number.clone().prop_map(Op::Change),
        1 => number.clone().prop_map(Op::Create),
        2 => number.clone().prop_map(Op::Hold),
        3 => any::<usize>().prop_map(Op::LetGo),
        2 => number.clone().prop_map(Op::Pin),
        3 => any::<usize>().prop_map(Op::Unpin),
        3 => Just(Op::Flush),
        6 => Just(Op::StartWrite),
        6 => (any::<usize>(), prop::bool::weighted(0.8))
            .prop_map(|(which, well)| Op::EndWrite { which, well }),
        1 => any::<bool>().prop_map(Op::HoldBack),
        3 => (number.clone(), prop::bool::weighted(0.2))
            .prop_map(|(number, discard)| Op::Revoke { number, discard }),
        2 => number.clone().prop_map(Op::Downgrade),
        2 => number.prop_map(Op::Upgrade),
        1 => Just(Op::Tick),
    ]
}

/// What must be true.
#[derive(Default)]
struct Oracle {
    /// The version of every page, as its readers must see it.
    versions: HashMap<PageId, u64>,
    /// Pages that are revoked and not gone yet.
    revoked: HashSet<PageId>,
    read_only: HashSet<PageId>,
    /// The last version that was changed and discarded, or is just not known to the volume: see `written`.
    clock: u64,
}

impl Oracle {
    fn version(&self, page: PageId) -> u64 {
        self.versions.get(&page).copied().unwrap_or(0)
    }
}

struct Run<'h> {
    bed: Bed,
    handle: &'h Handle,
    oracle: Oracle,
    reads: Vec<ReadTicket>,
    writes: Vec<(WriteTicket, Vec<u64>)>,
    shared: Vec<(Shared<'h>, u64)>,
    pins: Vec<Pin<'h>>,
    now_ns: u64,
}

impl<'h> Run<'h> {
    fn step(&mut self, op: Op) {
        self.now_ns += 1_000_000;
        match op {
            Op::Ask(number) => {
                if let ShardFetch::Read(ticket) = self.bed.shard.fetch(page(number)) {
                    let asked = self.reads.iter().any(|other| other.page() == ticket.page());
                    assert!(!asked, "asked for twice");
                    self.reads.push(ticket);
                }
            }
            Op::Deliver { which, fault } => self.deliver(which, fault),
            Op::Peek(number) => {
                let seen = self.handle.optimistic(page(number), |view| {
                    (
                        view.u64_at(NAME),
                        view.u64_at(VERSION),
                        view.u64_at(PAGE_BYTES / 8 - 1),
                    )
                });
                let version = self.oracle.version(page(number));
                match seen {
                    Ok(seen) => assert_eq!(seen, (page(number).to_bits(), version, version)),
                    Err(refused) => self.refusal(number, refused),
                }
            }
            Op::Read(number) => match self.handle.try_shared(page(number)) {
                Ok(guard) => {
                    let version = version_of(page(number), guard.bytes());
                    assert_eq!(version, self.oracle.version(page(number)));
                }
                Err(refused) => self.refusal(number, refused),
            },
            Op::Change(number) => self.change(number),
            Op::Create(number) => {
                // Only pages that were never written are made: of others the volume has something.
                let made = self.oracle.version(page(number)) == 0
                    && self.bed.volume.version(page(number)) == 0;
                if made && let Ok(mut guard) = self.handle.create(page(number)) {
                    self.oracle.clock += 1;
                    self.oracle.versions.insert(page(number), self.oracle.clock);
                    guard.write(0, &content(page(number), self.oracle.clock));
                }
            }
            Op::Hold(number) => {
                if let Ok(guard) = self.handle.try_shared(page(number)) {
                    self.shared.push((guard, self.oracle.version(page(number))));
                }
            }
            Op::LetGo(which) if !self.shared.is_empty() => {
                let (guard, version) = self.shared.swap_remove(which % self.shared.len());
                assert_eq!(version_of(guard.page(), guard.bytes()), version);
            }
            Op::Pin(number) => {
                if let Ok(pin) = self.handle.try_pin(page(number)) {
                    self.pins.push(pin);
                }
            }
            Op::Unpin(which) if !self.pins.is_empty() => {
                self.pins.swap_remove(which % self.pins.len());
            }
            Op::Flush => self.bed.shard.flush(),
            Op::StartWrite => {
                if let Some(ticket) = self.bed.shard.poll_write(self.now_ns) {
                    self.started(ticket);
                }
            }
            Op::EndWrite { which, well } if !self.writes.is_empty() => self.end_write(which, well),
            Op::HoldBack(held) => {
                let holds_back = &self.bed.answers.holds_back;
                holds_back.store(held, std::sync::atomic::Ordering::Relaxed);
            }
            Op::Revoke { number, discard } => self.revoke(number, discard),
            Op::Downgrade(number) => {
                let resident = self.resident(number);
                let done = self.bed.cache.downgrade(page(number));
                if resident {
                    self.oracle.read_only.insert(page(number));
                    if done == Revocation::Done {
                        let volume = self.bed.volume.version(page(number));
                        assert_eq!(volume, self.oracle.version(page(number)), "not written");
                    }
                }
            }
            Op::Upgrade(number) => {
                self.bed.cache.upgrade(page(number));
                self.oracle.read_only.remove(&page(number));
            }
            Op::Tick => self.bed.shard.tick(self.now_ns),
            Op::LetGo(_) | Op::Unpin(_) | Op::EndWrite { .. } => {}
        }
        self.held_pages_are_there();
    }

    fn resident(&self, number: u64) -> bool {
        self.handle.peek(page(number)).is_ok()
            || self
                .shared
                .iter()
                .any(|(guard, _)| guard.page() == page(number))
            || matches!(self.handle.try_pin(page(number)).err(), Some(Refused::Busy))
    }

    /// A refusal must have its reason.
    fn refusal(&self, number: u64, refused: Refused) {
        let this = page(number);
        match refused {
            Refused::Absent => {
                let held = self.shared.iter().any(|(guard, _)| guard.page() == this)
                    || self.pins.iter().any(|pin| pin.page() == this);
                assert!(!held, "{this} is held and absent");
                let volume = self.bed.volume.version(this);
                assert_eq!(
                    volume,
                    self.oracle.version(this),
                    "{this} went without its changes"
                );
            }
            Refused::Busy => {
                let reading = self.reads.iter().any(|ticket| ticket.page() == this);
                assert!(reading, "{this} is busy, and nobody has it");
            }
            Refused::Revoked => assert!(self.oracle.revoked.contains(&this)),
            other => panic!("{this}: {other}"),
        }
    }

    fn deliver(&mut self, which: usize, fault: u8) {
        if self.reads.is_empty() {
            return;
        }
        let mut ticket = self.reads.swap_remove(which % self.reads.len());
        let mut bytes = self.bed.volume.read(ticket.page());
        if fault == 1 {
            bytes[PAGE_BYTES / 2] ^= 4;
        }
        self.bed.shard.fill(&mut ticket, 0, &bytes);
        let result = if fault == 0 {
            Err(VolumeFault::Other(5))
        } else {
            Ok(())
        };
        assert_eq!(self.bed.shard.read_done(ticket, result).is_ok(), fault > 1);
    }

    fn change(&mut self, number: u64) {
        let this = page(number);
        match self.handle.try_exclusive(this) {
            Ok(mut guard) => {
                let readers = self.shared.iter().any(|(guard, _)| guard.page() == this);
                assert!(!readers && !self.oracle.read_only.contains(&this));
                assert_eq!(version_of(this, guard.bytes()), self.oracle.version(this));
                self.oracle.clock += 1;
                self.oracle.versions.insert(this, self.oracle.clock);
                for index in VERSION..PAGE_BYTES / 8 {
                    guard.set_u64(index, self.oracle.clock);
                }
            }
            Err(Refused::ReadOnly) => assert!(self.oracle.read_only.contains(&this)),
            Err(Refused::Busy) => {
                let reason = self.shared.iter().any(|(guard, _)| guard.page() == this)
                    || self.reads.iter().any(|ticket| ticket.page() == this)
                    || self.writes.iter().any(|(ticket, _)| names(ticket, this));
                assert!(reason, "{this} is busy, and nobody has it");
            }
            Err(refused) => self.refusal(number, refused),
        }
    }

    fn started(&mut self, ticket: WriteTicket) {
        let mut versions = Vec::new();
        for index in 0..ticket.pages() {
            let this = ticket.first().after(index as u64).unwrap();
            let under_way = self.writes.iter().any(|(other, _)| names(other, this));
            assert!(!under_way, "two images of {this} at once");
            let version = version_of(this, self.bed.shard.image(&ticket, index));
            assert_eq!(version, self.oracle.version(this));
            versions.push(version);
        }
        self.writes.push((ticket, versions));
    }

    fn end_write(&mut self, which: usize, well: bool) {
        let (ticket, versions) = self.writes.swap_remove(which % self.writes.len());
        for (index, version) in versions.iter().enumerate() {
            let this = ticket.first().after(index as u64).unwrap();
            let image = self.bed.shard.image(&ticket, index);
            assert_eq!(
                version_of(this, image),
                *version,
                "an image changed under way"
            );
            if well {
                self.bed.volume.write(this, image);
            }
        }
        let first = ticket.first();
        if well {
            self.bed.shard.write_done(ticket, Ok(()), self.now_ns);
        } else {
            self.bed
                .shard
                .write_done(ticket, Err(VolumeFault::Other(9)), self.now_ns);
            let told: Vec<_> = std::iter::from_fn(|| self.bed.shard.poll_error()).collect();
            assert_eq!(told.len(), versions.len());
            assert!(
                told[0].page == first
                    && told
                        .iter()
                        .all(|error| error.fault == VolumeFault::Other(9))
            );
        }
    }

    fn revoke(&mut self, number: u64, discard: bool) {
        let this = page(number);
        // What is discarded while its image is under way may or may not arrive: no oracle knows.
        if discard && self.writes.iter().any(|(ticket, _)| names(ticket, this)) {
            return;
        }
        let resident = self.resident(number) || self.oracle.revoked.contains(&this);
        if discard && resident {
            self.oracle
                .versions
                .insert(this, self.bed.volume.version(this));
            for (guard, version) in &mut self.shared {
                // Holders see on what they had.
                *version = version_of(guard.page(), guard.bytes());
            }
        }
        match self.bed.cache.revoke(this, discard) {
            Revocation::Done => {
                self.oracle.revoked.remove(&this);
                self.oracle.read_only.remove(&this);
                let volume = self.bed.volume.version(this);
                assert_eq!(
                    volume,
                    self.oracle.version(this),
                    "{this} went without its changes"
                );
                assert_eq!(self.handle.try_shared(this).unwrap_err(), Refused::Absent);
            }
            Revocation::Pending => {
                self.oracle.revoked.insert(this);
            }
        }
    }

    fn held_pages_are_there(&mut self) {
        for (guard, version) in &self.shared {
            assert_eq!(version_of(guard.page(), guard.bytes()), *version);
        }
        // Revoked pages go by themselves when their last holder has gone.
        let handle = self.handle;
        let gone = |page: &PageId| !matches!(handle.peek(*page), Err(Refused::Absent));
        self.oracle.revoked.retain(gone);
        let gone = |page: &PageId| !matches!(handle.peek(*page), Err(Refused::Absent));
        self.oracle.read_only.retain(gone);
        for pin in &self.pins {
            let seen = self.handle.peek(pin.page()).err();
            assert_ne!(
                seen,
                Some(Refused::Absent),
                "{} is pinned and gone",
                pin.page()
            );
        }
    }

    /// Everything comes to an end: the volume has every page's last version.
    fn settle(mut self) {
        self.shared.clear();
        self.pins.clear();
        while !self.reads.is_empty() {
            self.deliver(0, 2);
        }
        while !self.writes.is_empty() {
            self.end_write(0, true);
        }
        let holds_back = &self.bed.answers.holds_back;
        holds_back.store(false, std::sync::atomic::Ordering::Relaxed);
        for _ in 0..PAGES {
            self.now_ns += 1_000_000_000;
            self.bed.shard.tick(self.now_ns);
            self.bed.shard.flush();
            while let Some(ticket) = self.bed.shard.poll_write(self.now_ns) {
                self.started(ticket);
                self.end_write(0, true);
            }
        }
        assert_eq!(self.bed.shard.stat().dirty_pages, 0);
        for number in 0..PAGES {
            let volume = self.bed.volume.version(page(number));
            assert_eq!(volume, self.oracle.version(page(number)), "page {number}");
        }
        // All reserved frames are back, and all others can be had again.
        let reserved = |_: u32| {
            self.bed
                .shard
                .reserved(Reserve::WriteBack)
                .expect("is back")
        };
        let all: Vec<_> = (0..self.bed.cache.config().reserve.write_back)
            .map(reserved)
            .collect();
        assert!(self.bed.shard.reserved(Reserve::WriteBack).is_none());
        drop(all);
        for number in 1000..1000 + u64::from(FRAMES) {
            assert!(matches!(
                self.bed.shard.fetch(page(number)),
                ShardFetch::Read(_)
            ));
        }
    }
}

fn names(ticket: &WriteTicket, page: PageId) -> bool {
    (0..ticket.pages()).any(|index| ticket.first().after(index as u64) == Some(page))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_cache_agrees_with_its_oracle(
        ops in prop::collection::vec(op(), 1..400),
        clock in any::<bool>(),
        write_back in 0_u32..4,
    ) {
        let mut config = CacheConfig {
            eviction: if clock { Eviction::Clock } else { Eviction::S3Fifo },
            reserve: Reserves { log: 0, write_back, recovery: 0 },
            ..CacheConfig::new(FRAMES)
        };
        config.write_back.retry_ns = 3_000_000;
        let bed = Bed::new(config);
        let handle = bed.cache.handle(0);
        let mut run = Run {
            bed,
            handle: &handle,
            oracle: Oracle::default(),
            reads: Vec::new(),
            writes: Vec::new(),
            shared: Vec::new(),
            pins: Vec::new(),
            now_ns: 0,
        };
        for op in ops {
            run.step(op);
        }
        run.settle();
    }
}
