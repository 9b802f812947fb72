//! One NIC queue: its UMEM and the fill and completion rings that all sockets on the queue share.

use std::cell::UnsafeCell;
use std::num::NonZeroU32;

use crossbeam_queue::ArrayQueue;
use xsk_rs::config::{QueueSize, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, Umem};

use super::claim::Claim;

/// Bytes of one chunk of UMEM: the largest that the kernel takes.
pub(super) const CHUNK_BYTES: usize = 4096;
/// Bytes of a frame that one chunk carries: the kernel keeps `XDP_PACKET_HEADROOM` (256) of it.
pub(super) const SEGMENT_BYTES: usize = CHUNK_BYTES - 256;
/// Descriptors moved between ring and queue at a time.
const BATCH: usize = 64;

/// How a queue's chunks are divided: those to send from first, shard by shard, then those to receive into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    pub(super) shards: usize,
    /// To send from, for each shard.
    pub(super) tx_each: u32,
    /// To receive into, for all.
    pub(super) rx_all: u32,
}

impl Chunks {
    pub(super) fn tx_all(&self) -> u32 {
        u32::try_from(self.shards)
            .unwrap_or(u32::MAX)
            .saturating_mul(self.tx_each)
    }

    pub(super) fn total(&self) -> u32 {
        self.tx_all().saturating_add(self.rx_all)
    }

    pub(super) fn len_bytes(&self) -> usize {
        usize::try_from(self.total()).map_or(usize::MAX, |count| count.saturating_mul(CHUNK_BYTES))
    }

    /// Which shard sends from the chunk at this address.
    fn sender_of(&self, address: usize) -> usize {
        address / CHUNK_BYTES / usize::try_from(self.tx_each).expect("an index fits")
    }
}

/// Which of its shard's chunks a descriptor for sending lies in.
pub(super) fn tx_chunk(desc: &FrameDesc, tx_each: usize) -> usize {
    (desc.addr() / CHUNK_BYTES) % tx_each
}

/// A UMEM and its chunks, divided.
pub(super) struct Memory {
    pub(super) umem: Umem,
    /// For each shard, the chunks to send from.
    pub(super) tx: Vec<Vec<FrameDesc>>,
    /// The chunks to receive into.
    pub(super) rx: Vec<FrameDesc>,
}

/// Makes a UMEM and divides its chunks: for each shard those to send from, then those to receive into.
pub(super) fn umem(chunks: Chunks, hugepages: bool) -> Result<Memory, Box<dyn std::error::Error>> {
    // The kernel takes entries of the fill ring ahead of telling so: a ring of twice what is out always has room.
    let fill = QueueSize::new(chunks.rx_all.saturating_mul(2).next_power_of_two())?;
    let completion = QueueSize::new(chunks.tx_all().next_power_of_two())?;
    let config = UmemConfig::builder()
        .fill_queue_size(fill)
        .comp_queue_size(completion)
        .build()?;
    let count = NonZeroU32::new(chunks.total()).ok_or("a UMEM of no chunks")?;
    let (umem, mut descs) = Umem::new(config, count, hugepages)?;
    let each = usize::try_from(chunks.tx_each)?;
    let rx = descs.split_off(each * chunks.shards);
    let tx = descs.chunks(each).map(<[FrameDesc]>::to_vec).collect();
    Ok(Memory { umem, tx, rx })
}

/// The rings, and room to move their entries.
struct Rings {
    fill: FillQueue,
    completion: CompQueue,
    batch: Vec<FrameDesc>,
}

/// What the sockets of one queue share.
pub(super) struct Queue {
    pub(super) umem: Umem,
    chunks: Chunks,
    claim: Claim,
    rings: UnsafeCell<Rings>,
    /// Chunks to receive into that a shard gave back while another held the claim.
    free_rx: ArrayQueue<FrameDesc>,
    /// For each shard, chunks of its own whose completion another shard reaped.
    reaped: Box<[ArrayQueue<FrameDesc>]>,
}

// SAFETY: all fields but `rings` are `Sync` themselves; `rings` is touched only in passes of `claim`, which never overlap
// and are ordered by it, and what lies in it is `Send`.
unsafe impl Sync for Queue {}

/// What one turn of service found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Served {
    /// The driver wants a system call to go on receiving (need-wakeup).
    pub(super) fill_wants_kick: bool,
}

impl Queue {
    pub(super) fn new(umem: Umem, chunks: Chunks, fill: FillQueue, completion: CompQueue) -> Self {
        let rx = usize::try_from(chunks.rx_all).expect("an index fits");
        let tx = usize::try_from(chunks.tx_each).expect("an index fits");
        Self {
            umem,
            chunks,
            claim: Claim::new(),
            rings: UnsafeCell::new(Rings {
                fill,
                completion,
                batch: vec![FrameDesc::default(); BATCH],
            }),
            free_rx: ArrayQueue::new(rx.max(1)),
            reaped: (0..chunks.shards).map(|_| ArrayQueue::new(tx)).collect(),
        }
    }

    /// Reaps completions and gives `free` back to the kernel, for all shards of the queue, unless another shard is doing so:
    /// then `free` is left to it. Calls `done` for each of this shard's chunks that the kernel is through with.
    pub(super) fn serve(
        &self,
        shard: usize,
        free: &mut Vec<FrameDesc>,
        done: &mut dyn FnMut(FrameDesc),
    ) -> Served {
        let mut served = Served::default();
        if self.chunks.shards > 1 {
            while let Some(desc) = self.reaped[shard].pop() {
                done(desc);
            }
        }
        let mut state = (free, done, &mut served);
        self.claim.run(
            &mut state,
            |(free, ..)| self.give_away(free),
            |(free, done, served)| {
                // SAFETY: passes of the claim never overlap, and nothing else makes a reference to the rings.
                let rings = unsafe { &mut *self.rings.get() };
                self.reap(rings, shard, done);
                self.refill(rings, free);
                served.fill_wants_kick = rings.fill.needs_wakeup();
            },
        );
        served
    }

    /// Leaves chunks to receive into where whoever holds the claim finds them.
    pub(super) fn give_away(&self, free: &mut Vec<FrameDesc>) {
        for desc in free.drain(..) {
            let kept = self.free_rx.push(desc);
            assert!(kept.is_ok(), "there is room for every chunk that exists");
        }
    }

    fn reap(&self, rings: &mut Rings, shard: usize, done: &mut dyn FnMut(FrameDesc)) {
        loop {
            // SAFETY: the descriptors are overwritten with addresses of this UMEM, which the kernel is through with.
            let count = unsafe { rings.completion.consume(&mut rings.batch) };
            for &desc in &rings.batch[..count] {
                let owner = self.chunks.sender_of(desc.addr());
                if owner == shard {
                    done(desc);
                } else {
                    let kept = self.reaped[owner].push(desc);
                    assert!(
                        kept.is_ok(),
                        "a chunk completes once for each time it is sent"
                    );
                }
            }
            if count < rings.batch.len() {
                return;
            }
        }
    }

    fn refill(&self, rings: &mut Rings, free: &mut Vec<FrameDesc>) {
        if !free.is_empty() {
            // SAFETY: the chunks in `free` are of this UMEM, were received, and nobody looks at them any more.
            let count = unsafe { rings.fill.produce(free) };
            if count > 0 {
                free.clear();
            } else {
                self.give_away(free);
            }
        }
        while !self.free_rx.is_empty() {
            let room = rings.fill.nb_free(u32::try_from(BATCH).unwrap_or(u32::MAX));
            let room = usize::try_from(room).unwrap_or(0).min(BATCH);
            let mut count = 0;
            while count < room {
                let Some(desc) = self.free_rx.pop() else {
                    break;
                };
                rings.batch[count] = desc;
                count += 1;
            }
            if count == 0 {
                return;
            }
            // SAFETY: as above; room for all of them was just seen, and only this pass produces.
            let produced = unsafe { rings.fill.produce(&rings.batch[..count]) };
            assert_eq!(produced, count, "the ring had room");
        }
    }
}
