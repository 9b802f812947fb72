//! What a host's user asks: a closed loop of random requests.

use crate::host::Ask;

/// A random load.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Requests in all.
    pub requests: u32,
    /// Under way at once.
    pub depth: usize,
    /// Sectors of a request, at most.
    pub sectors_max: u64,
    /// WRITEs, out of a thousand.
    pub write_permille: u16,
    /// FLUSHes, out of a thousand.
    pub flush_permille: u16,
    /// Of the WRITEs, those that rather be refused than wait.
    pub refuse_permille: u16,
    /// Of the READs, those of other hosts' sectors.
    pub foreign_permille: u16,
    /// Time that a request is given: least and most.
    pub timeout_ns: (u64, u64),
    /// Time between requests, at most.
    pub think_ns: u64,
    /// Per target: first sector and number of sectors that this host writes.
    pub regions: Vec<(u64, u64)>,
    /// Per target: number of sectors in all.
    pub disks: Vec<u64>,
}

/// A load at work.
#[derive(Debug)]
pub struct Load {
    spec: LoadSpec,
    left: u32,
    rng: fastrand::Rng,
    pub(crate) next_at_ns: u64,
}

impl Load {
    pub(crate) fn new(spec: LoadSpec, seed: u64) -> Self {
        Self {
            left: spec.requests,
            rng: fastrand::Rng::with_seed(seed),
            next_at_ns: 0,
            spec,
        }
    }

    /// Requests still to be made.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.left
    }

    pub(crate) const fn depth(&self) -> usize {
        self.spec.depth
    }

    /// No more.
    pub(crate) const fn stop(&mut self) {
        self.left = 0;
    }

    pub(crate) fn region(&self, target: u8) -> (u64, u64) {
        self.spec.regions[usize::from(target)]
    }

    /// The next request: target, what, timeout.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<(u8, Ask, u64)> {
        if self.left == 0 || now_ns < self.next_at_ns {
            return None;
        }
        self.left -= 1;
        let (spec, rng) = (&self.spec, &mut self.rng);
        if spec.think_ns > 0 {
            self.next_at_ns = now_ns + rng.u64(..spec.think_ns);
        }
        let target = rng.u8(..spec.regions.len() as u8);
        let timeout_ns = rng.u64(spec.timeout_ns.0..=spec.timeout_ns.1);
        let kind = rng.u16(..1000);
        if kind < spec.flush_permille {
            return Some((target, Ask::Flush, timeout_ns));
        }
        let write = kind - spec.flush_permille < spec.write_permille;
        let region = if !write && rng.u16(..1000) < spec.foreign_permille {
            (0, spec.disks[usize::from(target)])
        } else {
            spec.regions[usize::from(target)]
        };
        // Small requests are as likely as large ones.
        let most = spec.sectors_max.min(region.1);
        let sectors = if rng.bool() {
            rng.u64(1..=most.min(8))
        } else {
            rng.u64(1..=most)
        };
        let lba = region.0 + rng.u64(..=region.1 - sectors);
        let ask = if write {
            Ask::Write {
                lba,
                sectors,
                refuse: rng.u16(..1000) < spec.refuse_permille,
            }
        } else {
            Ask::Read { lba, sectors }
        };
        Some((target, ask, timeout_ns))
    }
}
