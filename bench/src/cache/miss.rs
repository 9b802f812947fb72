//! A page that is not there, over the wire: what the cache adds to the read.
//!
//! The thread that turns the shard asks in both ways: for a page, and for the same sectors in a buffer. The cache is a fraction of
//! the disk, and pages are asked for in an order in which none is found.

use std::time::{Duration, Instant};

use anyhow::Context;
use sandrail_link::Link;
use sandrail_memory::Buffer;
use sandrail_memory::cache::{Fetch, Handle, PageId};
use sandrail_node::{
    CacheSettings, Client, Node, NodeConfig, Request, Shard, TargetHandle, Volume,
};
use sandrail_proto::aoe::initiator::{IfClosed, Operation, PinnedMacs};
use sandrail_wire::{Lba, MacAddr, TargetAddr};

use super::{Done, backing_words};
use crate::waiter::Waiter;
use crate::{costs, load};

const PAGE_BYTES: usize = 4096;
const PAGE_SECTORS: u64 = 8;
/// Frames of the cache: 8 MiB.
const FRAMES: u32 = 2048;
/// From one page to the next, in the order in which they are asked for: a prime, so that all have their turn.
const STRIDE: u64 = 7919;
/// Pages that are written at once, before anything is measured.
const WRITE_PAGES: usize = 16;
const VOLUME: u32 = 1;
/// Every read ends within this, on a machine that others use as well.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// A node with a cache, turned by the thread that asks.
pub struct Miss<L> {
    // Dropped before the node, which otherwise would wait for it.
    shard: Shard<L>,
    node: Node,
    client: Client,
    target: TargetHandle,
    handle: Handle,
    /// Taken out while it is under way.
    buffer: Option<Buffer>,
    pages: u64,
    /// How many were asked for so far: raw, as pages. Each way goes round by itself, or the one would bring the other to pages
    /// that are still there.
    asked: [u64; 2],
}

impl<L: Link> Miss<L> {
    /// Attaches the target, writes all its pages, and makes `sectors` of it pages.
    ///
    /// # Errors
    /// The node's, the target's, or the disk is not larger than the cache by far.
    pub fn new(link: L, (addr, mac): (TargetAddr, MacAddr), sectors: u64) -> anyhow::Result<Self> {
        let pages = sectors / PAGE_SECTORS;
        anyhow::ensure!(
            pages >= 4 * u64::from(FRAMES)
                && !pages.is_multiple_of(STRIDE)
                && pages.is_multiple_of(WRITE_PAGES as u64),
            "{pages} pages do not go with {FRAMES} frames"
        );
        let cache = CacheSettings {
            ahead_pages_max: 0,
            ..CacheSettings::new(FRAMES)
        };
        let config = NodeConfig {
            cache: Some(cache),
            ..load::config()
        };
        let (node, shards) = Node::assemble(&config, vec![vec![link]])?;
        let mut shard = shards.into_iter().next().context("one link, one shard")?;
        let pinned = PinnedMacs::new(&[mac]).context("one MAC is few enough")?;
        let target = load::attach_while_turning(&node, &mut shard, addr, pinned)?;
        let cache = node.cache().context("a cache was asked for")?;
        let volume = Volume {
            number: VOLUME,
            target,
            first: Lba(0),
            sectors: pages * PAGE_SECTORS,
            writable: false,
        };
        std::thread::scope(|scope| {
            let bind = scope.spawn(|| cache.bind(volume));
            while !bind.is_finished() {
                shard.turn();
                std::thread::yield_now();
            }
            bind.join()
                .map_err(|_| anyhow::anyhow!("bind panicked"))?
                .map_err(anyhow::Error::from)
        })?;
        let handle = cache.handle();
        let client = node.client(1)?;
        let buffer = client.buffer(PAGE_BYTES).context("a buffer")?;
        let mut this = Self {
            shard,
            node,
            client,
            target,
            handle,
            buffer: Some(buffer),
            pages,
            asked: [0; 2],
        };
        this.write_all()?;
        Ok(this)
    }

    /// What the pages of the cache lie on.
    #[must_use]
    pub fn backing(&self) -> String {
        let cache = self.node.cache();
        cache.map_or_else(String::new, |cache| backing_words(&cache.memory().backing))
    }

    /// Gives every page its number: memory that was never written is not there yet.
    fn write_all(&mut self) -> anyhow::Result<()> {
        let whole = self.buffer.take();
        let long = self.client.buffer(WRITE_PAGES * PAGE_BYTES);
        self.buffer = Some(long.context("a longer buffer")?);
        let mut number = 0;
        while number < self.pages {
            let buffer = self.buffer.as_mut().context("the buffer is there")?;
            for (page, bytes) in (number..).zip(buffer.as_mut().chunks_mut(PAGE_BYTES)) {
                bytes[8..16].copy_from_slice(&page.to_le_bytes());
            }
            let lba = Lba(number * PAGE_SECTORS);
            let if_closed = IfClosed::Wait;
            self.request(Operation::Write { lba, if_closed })?;
            number += WRITE_PAGES as u64;
        }
        self.buffer = whole;
        Ok(())
    }

    /// One request through the client, until it has ended.
    fn request(&mut self, operation: Operation) -> anyhow::Result<()> {
        let request = Request {
            target: self.target,
            operation,
            buffer: self.buffer.take().context("the buffer is there")?,
            timeout: REQUEST_WITHIN,
            user: 0,
        };
        self.client
            .submit(request)
            .map_err(|rejected| anyhow::anyhow!("{}", rejected.why))?;
        let mut waiter = Waiter::default();
        loop {
            let busy = self.shard.turn();
            if let Some(completion) = self.client.poll() {
                self.buffer = Some(completion.buffer);
                completion.result?;
                return Ok(());
            }
            waiter.after_turn(busy);
        }
    }

    /// Reads the page's sectors; its second word.
    fn read_raw(&mut self, number: u64) -> anyhow::Result<u64> {
        let lba = Lba(number * PAGE_SECTORS);
        self.request(Operation::Read { lba })?;
        let buffer = self.buffer.as_ref().context("the buffer is there")?;
        let word = buffer.as_ref()[8..].first_chunk().context("a word")?;
        Ok(u64::from_le_bytes(*word))
    }

    /// Asks for the page, which must not be there; its second word.
    fn read_page(&mut self, number: u64) -> anyhow::Result<u64> {
        let page = PageId::new(VOLUME, number).context("a small number")?;
        let asked = self.handle.fetch(page);
        anyhow::ensure!(asked == Fetch::Asked, "{page}: {asked:?}");
        let mut waiter = Waiter::default();
        let begin = Instant::now();
        let mut turns = 0_u32;
        loop {
            let busy = self.shard.turn();
            if let Ok(word) = self.handle.optimistic(page, |view| view.u64_at(1)) {
                return Ok(word);
            }
            waiter.after_turn(busy);
            turns = turns.wrapping_add(1);
            // A page that can't be read is taken out again, and stays absent.
            let overdue = turns.is_multiple_of(1 << 16) && begin.elapsed() > 2 * REQUEST_WITHIN;
            anyhow::ensure!(!overdue, "{page} does not come");
        }
    }

    /// Reads one page after the other, in one of the two ways, until the time is over.
    ///
    /// # Errors
    /// A read failed, or had another page's number in it.
    pub fn sample(&mut self, as_pages: bool, duration: Duration) -> anyhow::Result<Done> {
        let mut done = Done::default();
        let (begin, cpu) = (Instant::now(), costs::thread_cpu()?);
        while done.wall < duration {
            let asked = &mut self.asked[usize::from(as_pages)];
            let number = *asked * STRIDE % self.pages;
            *asked += 1;
            let found = if as_pages {
                self.read_page(number)?
            } else {
                self.read_raw(number)?
            };
            anyhow::ensure!(
                found == number,
                "page {number} says that it is page {found}"
            );
            done.accesses += 1;
            done.wall = begin.elapsed();
        }
        done.cpu = costs::thread_cpu()?.saturating_sub(cpu);
        Ok(done)
    }
}
