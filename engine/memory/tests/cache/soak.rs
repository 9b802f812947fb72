//! Two threads on one small cache, over pages that say which they are and how often they were changed.
//!
//! One thread owns the shard and turns it between its operations, the other one blocks where it has to. Each change of a page
//! adds one to its version, all over the page; every reader checks that it sees one version of the right page. In the end
//! the volume must have each page's count of changes: no lost update, no use after eviction, no torn read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sandrail_memory::cache::{
    AccessError, Cache, CacheConfig, CacheShard, Checksum, Eviction, Exclusive, Handle, Mismatch,
    Owner, PageId, Refused, Reserves, ShardFetch, ShardStat, View, VolumeFault, WriteTicket,
};
use sandrail_memory::{Arena, HugePages};

const PAGE_BYTES: usize = 4096;
const WORDS: usize = PAGE_BYTES / 8;
const CHECKSUM: Checksum = match Checksum::at(0) {
    Some(checksum) => checksum,
    None => panic!("0 is aligned"),
};
const NAME: usize = 1;
const VERSION: usize = 2;

/// How long an operation may take, at most, on whatever machine.
const STUCK: Duration = Duration::from_secs(60);

/// Turns of the driver between two words of how far it is.
const TURNS_A_TELL: u64 = 1 << 12;

/// How long and how hard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Soak {
    /// Operations of both threads together.
    pub(crate) operations: u64,
    pub(crate) pages: u64,
    pub(crate) frames: u32,
    pub(crate) eviction: Eviction,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
#[allow(
    dead_code,
    reason = "the example prints them all, which does not count as reading"
)]
pub(crate) struct Totals {
    pub(crate) changes: u64,
    pub(crate) reads: u64,
    pub(crate) revocations: u64,
    pub(crate) stat: ShardStat,
}

struct CheckedPages;

impl Owner for CheckedPages {
    fn check(&self, page: PageId, bytes: &[u8]) -> Result<(), Mismatch> {
        assert_eq!(
            word(bytes, NAME),
            page.to_bits(),
            "the volume's page is another one"
        );
        CHECKSUM.verify(bytes)
    }

    fn seal(&self, _page: PageId, bytes: &[u8]) -> Option<(usize, [u8; 8])> {
        Some(CHECKSUM.seal(bytes))
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let bytes: [u8; 8] = bytes[index * 8..][..8].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}

fn page(number: u64) -> PageId {
    PageId::new(2, number).expect("a small number")
}

fn fresh(page: PageId) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES];
    bytes[NAME * 8..][..8].copy_from_slice(&page.to_bits().to_le_bytes());
    let (place, seal) = CHECKSUM.seal(&bytes);
    bytes[place..][..8].copy_from_slice(&seal);
    bytes
}

/// Reads a few words here and there, or all, and says what they were.
fn look(view: View<'_>, rng: &mut fastrand::Rng) -> (u64, u64, bool) {
    let (name, version) = (view.u64_at(NAME), view.u64_at(VERSION));
    let same = if rng.u8(..16) == 0 {
        let mut bytes = [0; PAGE_BYTES];
        view.read(0, &mut bytes);
        (VERSION..WORDS).all(|index| word(&bytes, index) == version)
    } else {
        (0..6).all(|_| view.u64_at(rng.usize(VERSION..WORDS)) == version)
    };
    (name, version, same)
}

struct Shared {
    soak: Soak,
    cache: Cache,
    /// How often each page was changed, counted while its latch is held.
    changes: Vec<AtomicU64>,
    done: AtomicBool,
    /// Operations of the thread that blocks: how far it is.
    blocking_operations: AtomicU64,
}

/// One thread's operations.
struct Worker<'s> {
    shared: &'s Shared,
    handle: &'s Handle,
    rng: fastrand::Rng,
    reads: u64,
    revocations: u64,
}

impl Worker<'_> {
    fn pick(&mut self) -> PageId {
        // Most of the operations go to a tenth of the pages.
        let pages = self.shared.soak.pages;
        let number = if self.rng.u8(..8) > 0 {
            self.rng.u64(..pages.div_ceil(10))
        } else {
            self.rng.u64(..pages)
        };
        page(number)
    }

    fn peek(&mut self, page: PageId) -> Result<(), Refused> {
        let least = self.count(page).load(Ordering::Acquire);
        let rng = &mut self.rng;
        let (name, version, same) = self.handle.optimistic(page, |view| look(view, rng))?;
        assert_eq!(name, page.to_bits(), "an optimistic read of another page");
        assert!(same, "a torn optimistic read of {page}");
        assert!(
            version >= least,
            "{page}: version {version}, {least} were there before"
        );
        self.reads += 1;
        Ok(())
    }

    fn count(&self, page: PageId) -> &AtomicU64 {
        &self.shared.changes[usize::try_from(page.number()).expect("few pages")]
    }

    fn change(&self, page: PageId, mut guard: Exclusive<'_>) {
        let count = self.count(page);
        let version = count.load(Ordering::Relaxed);
        let bytes = guard.bytes();
        assert_eq!(
            word(bytes, NAME),
            page.to_bits(),
            "the latch of another page"
        );
        assert_eq!(word(bytes, VERSION), version, "{page}: a lost update");
        assert_eq!(
            word(bytes, WORDS - 1),
            version,
            "{page}: torn under the exclusive latch"
        );
        for index in VERSION..WORDS {
            guard.set_u64(index, version + 1);
        }
        // Release: who reads this count before the page must find that version, or a later one. The page can't be read
        // before the latch is released, a moment later.
        count.fetch_add(1, Ordering::Release);
    }
}

impl Shared {
    fn config(soak: Soak) -> CacheConfig {
        let mut config = CacheConfig {
            eviction: soak.eviction,
            reserve: Reserves {
                log: 1,
                write_back: 2,
                recovery: 1,
            },
            waiters_max: 4,
            ..CacheConfig::new(soak.frames)
        };
        config.write_back.pages_per_s = u32::MAX;
        config.write_back.burst_pages = 1 << 20;
        config.write_back.dirty_pages_max = soak.frames / 4;
        config.write_back.dirty_age_ns_max = 1_000_000;
        config
    }
}

/// The thread with the shard: its own operations never wait, and between them it turns.
struct Driver<'s> {
    worker: Worker<'s>,
    shard: CacheShard,
    volume: Vec<Vec<u8>>,
    /// Writes under way, for some turns.
    writes: Vec<WriteTicket>,
    now_ns: u64,
}

impl Driver<'_> {
    fn place(page: PageId) -> usize {
        usize::try_from(page.number()).expect("few pages")
    }

    fn turn(&mut self) {
        self.now_ns += 10_000;
        self.shard.tick(self.now_ns);
        while let Some(ticket) = self.shard.poll_read() {
            self.read(ticket);
        }
        if self.writes.len() < 3
            && let Some(ticket) = self.shard.poll_write(self.now_ns)
        {
            self.writes.push(ticket);
        }
        if !self.writes.is_empty() && self.worker.rng.u8(..3) == 0 {
            self.end_write();
        }
    }

    fn read(&mut self, mut ticket: sandrail_memory::cache::ReadTicket) {
        let bytes = &self.volume[Self::place(ticket.page())];
        for (number, piece) in bytes.chunks(1400).enumerate() {
            self.shard.fill(&mut ticket, number * 1400, piece);
        }
        let read = self.shard.read_done(ticket, Ok(()));
        assert_eq!(read, Ok(()));
    }

    fn end_write(&mut self) {
        let ticket = self
            .writes
            .swap_remove(self.worker.rng.usize(..self.writes.len()));
        // Some fail: they are tried again.
        let well = self.worker.rng.u8(..16) > 0;
        for index in 0..ticket.pages() {
            let page = ticket.first().after(index as u64).expect("neighbours");
            let image = self.shard.image(&ticket, index);
            let (name, version) = (word(image, NAME), word(image, VERSION));
            assert_eq!(name, page.to_bits(), "the image of another page");
            let same = (VERSION..WORDS).all(|index| word(image, index) == version);
            assert!(same, "an image that changed under way");
            assert_eq!(CHECKSUM.verify(image), Ok(()));
            if well {
                self.volume[Self::place(page)].copy_from_slice(image);
            }
        }
        let result = if well {
            Ok(())
        } else {
            Err(VolumeFault::Other(1))
        };
        self.shard.write_done(ticket, result, self.now_ns);
        while self.shard.poll_error().is_some() {}
    }

    fn operation(&mut self) {
        let page = self.worker.pick();
        let kind = self.worker.rng.u8(..32);
        let handle = self.worker.handle;
        let refused = match kind {
            0..20 => self.worker.peek(page).err(),
            20..24 => match handle.try_shared(page) {
                Ok(guard) => {
                    check_shared(page, guard.bytes());
                    self.worker.reads += 1;
                    None
                }
                Err(refused) => Some(refused),
            },
            24..28 => match handle.try_exclusive(page) {
                Ok(guard) => {
                    self.worker.change(page, guard);
                    None
                }
                Err(refused) => Some(refused),
            },
            28..31 => match handle.try_pin(page) {
                Ok(pin) => {
                    self.turn();
                    assert_ne!(
                        handle.peek(page).err(),
                        Some(Refused::Absent),
                        "a pinned page went"
                    );
                    drop(pin);
                    None
                }
                Err(refused) => Some(refused),
            },
            _ => {
                self.worker.shared.cache.revoke(page, false);
                None
            }
        };
        if refused == Some(Refused::Absent)
            && let ShardFetch::Read(ticket) = self.shard.fetch(page)
        {
            self.read(ticket);
        }
    }

    /// Everything is written.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.now_ns += 1_000_000_000;
            self.shard.flush();
            self.turn();
            while !self.writes.is_empty() {
                self.end_write();
            }
            if self.shard.stat().dirty_pages == 0 {
                return;
            }
        }
        panic!("dirty pages are left: {:?}", self.shard.stat());
    }
}

fn check_shared(page: PageId, bytes: &[u8]) {
    let version = word(bytes, VERSION);
    assert_eq!(
        word(bytes, NAME),
        page.to_bits(),
        "the latch of another page"
    );
    let same = (VERSION..WORDS).all(|index| word(bytes, index) == version);
    assert!(same, "{page}: torn under a shared latch");
}

/// The other thread: it blocks where it has to.
fn block_and_work(worker: &mut Worker<'_>, operations: u64) {
    for number in 0..operations {
        let so_far = &worker.shared.blocking_operations;
        so_far.store(number, Ordering::Relaxed);
        let page = worker.pick();
        let kind = worker.rng.u8(..);
        let handle = worker.handle;
        let result = match kind {
            0..234 => {
                // Read ahead, and go on: waiting is slow, and to be seen often enough below.
                if worker.peek(page) == Err(Refused::Absent) {
                    handle.fetch(page);
                }
                Ok(())
            }
            234..242 => handle.shared(page).wait().map(|guard| {
                check_shared(page, guard.bytes());
                worker.reads += 1;
            }),
            242..250 => handle
                .exclusive(page)
                .wait()
                .map(|guard| worker.change(page, guard)),
            250..254 => handle.pin(page).wait().map(|_pin| {
                let seen = handle.peek(page).err();
                assert_ne!(seen, Some(Refused::Absent), "a pinned page went");
            }),
            _ => {
                worker.revocations += 1;
                handle.revoke(page).wait().map(|_gone| ())
            }
        };
        match result {
            Ok(()) | Err(AccessError::Revoked(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// Runs it; panics when something is wrong. `tell` hears now and then how many operations there were so far.
pub(crate) fn run(soak: Soak, tell: &mut dyn FnMut(u64)) -> Totals {
    let config = Shared::config(soak);
    let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).expect("memory");
    let (cache, mut shards) =
        Cache::new(config, &mut arena, Box::new(CheckedPages)).expect("good sizes");
    let shared = Arc::new(Shared {
        soak,
        cache,
        changes: (0..soak.pages).map(|_| AtomicU64::new(0)).collect(),
        done: AtomicBool::new(false),
        blocking_operations: AtomicU64::new(0),
    });
    let other = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            // Whatever happens here, the driver must not wait for ever.
            let _done = Done(&shared.done);
            let handle = shared.cache.handle(0);
            let mut worker = Worker {
                shared: &shared,
                handle: &handle,
                rng: fastrand::Rng::with_seed(soak.seed),
                reads: 0,
                revocations: 0,
            };
            block_and_work(&mut worker, soak.operations / 2);
            (worker.reads, worker.revocations)
        })
    };
    let handle = shared.cache.handle(0);
    let mut driver = Driver {
        worker: Worker {
            shared: &shared,
            handle: &handle,
            rng: fastrand::Rng::with_seed(soak.seed ^ 1),
            reads: 0,
            revocations: 0,
        },
        shard: shards.pop().expect("one shard"),
        volume: (0..soak.pages).map(|number| fresh(page(number))).collect(),
        writes: Vec::new(),
        now_ns: 0,
    };
    let own = soak.operations - soak.operations / 2;
    let mut left = own;
    let mut turns = 0_u64;
    let mut progress = Progress {
        operations: 0,
        since: Instant::now(),
    };
    while left > 0 || !shared.done.load(Ordering::Acquire) {
        driver.turn();
        for _ in 0..4.min(left) {
            driver.operation();
        }
        left -= 4.min(left);
        turns += 1;
        if turns.is_multiple_of(TURNS_A_TELL) {
            // Relaxed: a number to be shown.
            tell(own - left + shared.blocking_operations.load(Ordering::Relaxed));
        }
        if left == 0 {
            progress.check(&shared, &driver);
            thread::yield_now();
        }
    }
    let (reads, revocations) = other.join().expect("the other thread found nothing wrong");
    driver.settle();
    let mut changes = 0;
    for (bytes, count) in driver.volume.iter().zip(&shared.changes) {
        let count = count.load(Ordering::Acquire);
        assert_eq!(
            word(bytes, VERSION),
            count,
            "a lost update, found in the end"
        );
        changes += count;
    }
    Totals {
        changes,
        reads: reads + driver.worker.reads,
        revocations,
        stat: driver.shard.stat(),
    }
}

/// A thread that blocks and is never woken is a failure, too.
struct Progress {
    operations: u64,
    since: Instant,
}

impl Progress {
    fn check(&mut self, shared: &Shared, driver: &Driver<'_>) {
        let operations = shared.blocking_operations.load(Ordering::Relaxed);
        if operations != self.operations {
            self.operations = operations;
            self.since = Instant::now();
        }
        let stat = || driver.shard.stat();
        assert!(
            self.since.elapsed() < STUCK,
            "not woken in operation {operations}, seed {}: {:?}",
            shared.soak.seed,
            stat()
        );
    }
}

/// Says that its thread has ended, by a panic, too.
struct Done<'s>(&'s AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
