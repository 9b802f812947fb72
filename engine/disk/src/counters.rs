//! What a disk did, in numbers.

/// Counters of a disk, all from its opening on. What a kind of disk does not do stays zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Reads that began.
    pub reads: u64,
    /// Writes that began.
    pub writes: u64,
    /// Flushes that began.
    pub flushes: u64,
    /// Discards that began.
    pub discards: u64,
    /// Bytes of the reads.
    pub read_bytes: u64,
    /// Bytes of the writes.
    pub write_bytes: u64,
    /// Operations that ended with an error.
    pub failed: u64,
    /// Operations that found no room and were sent away.
    pub busy: u64,
    /// `io_uring_enter(2)` calls: one a turn in which anything began, however many operations it were.
    pub enters: u64,
    /// Requests handed to the kernel. Fewer than operations where neighbours were merged.
    pub requests: u64,
    /// Reads that went along in the request of a neighbour.
    pub merged_reads: u64,
    /// Writes that went along in the request of a neighbour.
    pub merged_writes: u64,
    /// Flushes that another one of the same turn stood in for.
    pub merged_flushes: u64,
    /// Operations continued after the kernel did only a part.
    pub resumed: u64,
    /// Operations begun again because the kernel said EINTR, EAGAIN or ECANCELED.
    pub retried: u64,
    /// Operations begun again on their own because a merged request failed.
    pub split: u64,
    /// Failed flushes that could not be noted for later openings of the disk: after a restart of the process the loss mark
    /// will be the old one, though writes may be lost.
    pub losses_not_noted: u64,
    /// Changes of size that were noticed.
    pub resizes: u64,
}
