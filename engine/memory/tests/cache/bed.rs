//! A cache with a volume in memory behind it, whose pages say which they are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sandrail_memory::cache::{
    Cache, CacheConfig, CacheShard, Checksum, Mismatch, Owner, PageId, ReadTicket, WriteTicket,
};
use sandrail_memory::{Arena, HugePages};

pub(crate) const PAGE_BYTES: usize = 4096;
pub(crate) const CHECKSUM: Checksum = match Checksum::at(0) {
    Some(checksum) => checksum,
    None => panic!("0 is aligned"),
};
/// Where, in words, a page has its own name and the number of its changes. The rest of the page repeats the number.
pub(crate) const NAME: usize = 1;
pub(crate) const VERSION: usize = 2;

pub(crate) fn page(number: u64) -> PageId {
    PageId::new(3, number).unwrap()
}

/// What the owner answers, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) holds_back: AtomicBool,
    pub(crate) wakes: AtomicU64,
}

pub(crate) struct TestOwner(pub(crate) Arc<Answers>);

impl Owner for TestOwner {
    fn check(&self, page: PageId, bytes: &[u8]) -> Result<(), Mismatch> {
        let _ = page;
        CHECKSUM.verify(bytes)
    }

    fn may_write(&self, page: PageId, bytes: &[u8]) -> bool {
        assert_eq!(word(bytes, NAME), page.to_bits());
        !self.0.holds_back.load(Ordering::Relaxed)
    }

    fn seal(&self, _page: PageId, bytes: &[u8]) -> Option<(usize, [u8; 8])> {
        Some(CHECKSUM.seal(bytes))
    }

    fn wake_shard(&self, _shard: u32) {
        self.0.wakes.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap())
}

/// A page's bytes with its name, its version, and the version all over.
pub(crate) fn content(page: PageId, version: u64) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().repeat(PAGE_BYTES / 8);
    bytes[..8].fill(0);
    bytes[NAME * 8..][..8].copy_from_slice(&page.to_bits().to_le_bytes());
    let (place, seal) = CHECKSUM.seal(&bytes);
    bytes[place..place + 8].copy_from_slice(&seal);
    bytes
}

/// Whether the bytes are the page's, whole, and its version.
pub(crate) fn version_of(page: PageId, bytes: &[u8]) -> u64 {
    assert_eq!(word(bytes, NAME), page.to_bits(), "another page's bytes");
    let version = word(bytes, VERSION);
    for index in VERSION..PAGE_BYTES / 8 {
        assert_eq!(word(bytes, index), version, "{page}: torn at word {index}");
    }
    version
}

/// The volume: what was written, and version 0 of everything else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volume(Arc<Mutex<HashMap<PageId, Vec<u8>>>>);

impl Volume {
    pub(crate) fn read(&self, page: PageId) -> Vec<u8> {
        let written = self.0.lock().unwrap();
        written
            .get(&page)
            .cloned()
            .unwrap_or_else(|| content(page, 0))
    }

    pub(crate) fn write(&self, page: PageId, bytes: &[u8]) {
        CHECKSUM.verify(bytes).expect("an image leaves sealed");
        self.0.lock().unwrap().insert(page, bytes.to_vec());
    }

    /// Puts something there that a cache would not.
    pub(crate) fn spoil(&self, page: PageId, bytes: Vec<u8>) {
        self.0.lock().unwrap().insert(page, bytes);
    }

    pub(crate) fn version(&self, page: PageId) -> u64 {
        version_of(page, &self.read(page))
    }
}

pub(crate) struct Bed {
    pub(crate) cache: Cache,
    pub(crate) shard: CacheShard,
    pub(crate) volume: Volume,
    pub(crate) answers: Arc<Answers>,
}

impl Bed {
    pub(crate) fn new(config: CacheConfig) -> Self {
        let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).unwrap();
        let answers = Arc::new(Answers::default());
        let owner = Box::new(TestOwner(Arc::clone(&answers)));
        let (cache, mut shards) = Cache::new(config, &mut arena, owner).unwrap();
        Self {
            cache,
            shard: shards.pop().unwrap(),
            volume: Volume::default(),
            answers,
        }
    }

    pub(crate) fn read(&mut self, mut ticket: ReadTicket) {
        let bytes = self.volume.read(ticket.page());
        // In pieces of odd lengths, as frames bring it.
        for (number, piece) in bytes.chunks(1447).enumerate() {
            self.shard.fill(&mut ticket, number * 1447, piece);
        }
        let _ = self.shard.read_done(ticket, Ok(()));
    }

    pub(crate) fn write(&mut self, ticket: WriteTicket, now_ns: u64) {
        let mut page = Some(ticket.first());
        for index in 0..ticket.pages() {
            let this = page.unwrap();
            self.volume.write(this, self.shard.image(&ticket, index));
            page = this.after(1);
        }
        self.shard.write_done(ticket, Ok(()), now_ns);
    }

    /// A turn of the shard; whether there was anything to do.
    pub(crate) fn turn(&mut self, now_ns: u64) -> bool {
        self.shard.tick(now_ns);
        let mut busy = false;
        while let Some(ticket) = self.shard.poll_read() {
            self.read(ticket);
            busy = true;
        }
        while let Some(ticket) = self.shard.poll_write(now_ns) {
            self.write(ticket, now_ns);
            busy = true;
        }
        busy
    }
}
