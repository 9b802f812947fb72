//! Closed ranges of one target: sectors with a WRITE that is not accounted for (S3).
//!
//! Closed ranges never overlap each other, so they can be kept sorted and searched by bisection.

/// Sectors `start..end`, closed by a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Closed {
    start: u64,
    end: u64,
    request: u16,
}

/// The closed ranges of one target, sorted, without overlaps.
#[derive(Debug)]
pub(super) struct ClosedRanges {
    sorted: Vec<Closed>,
}

impl ClosedRanges {
    pub(super) fn with_capacity(ranges_max: usize) -> Self {
        Self {
            sorted: Vec::with_capacity(ranges_max),
        }
    }

    /// Whether no closed range shares a sector with `start..end`.
    pub(super) fn is_open(&self, start: u64, end: u64) -> bool {
        let after = self.sorted.partition_point(|closed| closed.end <= start);
        self.sorted
            .get(after)
            .is_none_or(|closed| closed.start >= end)
    }

    /// Closes `start..end`, which must be open.
    pub(super) fn close(&mut self, start: u64, end: u64, request: u16) {
        assert!(start < end, "an empty range closes nothing");
        assert!(self.is_open(start, end), "two overlapping writes at once");
        assert!(
            self.sorted.len() < self.sorted.capacity(),
            "one range a request"
        );
        let place = self.sorted.partition_point(|closed| closed.start < start);
        self.sorted.insert(
            place,
            Closed {
                start,
                end,
                request,
            },
        );
    }

    /// Opens the range that `request` closed from `start` on.
    pub(super) fn open(&mut self, start: u64, request: u16) {
        let place = self.sorted.partition_point(|closed| closed.start < start);
        let closed = self.sorted.remove(place);
        assert_eq!(
            (closed.start, closed.request),
            (start, request),
            "range is not this request's"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agrees with a plain bitmap of sectors.
    #[test]
    fn agrees_with_a_bitmap() {
        const SECTORS: u64 = 200;
        let mut rng = fastrand::Rng::with_seed(11);
        let mut ranges = ClosedRanges::with_capacity(64);
        let mut held: Vec<(u64, u64, u16)> = Vec::new();
        for step in 0..50_000_u32 {
            let start = rng.u64(..SECTORS);
            let end = (start + rng.u64(1..20)).min(SECTORS);
            if start == end {
                continue;
            }
            let open = held.iter().all(|(s, e, _)| end <= *s || start >= *e);
            assert_eq!(ranges.is_open(start, end), open);
            if open && held.len() < 64 {
                let request = u16::try_from(step & 0xfff).unwrap();
                ranges.close(start, end, request);
                held.push((start, end, request));
            } else if !held.is_empty() && rng.bool() {
                let (s, _, request) = held.swap_remove(rng.usize(..held.len()));
                ranges.open(s, request);
            }
        }
    }

    #[test]
    #[should_panic(expected = "two overlapping writes")]
    fn overlap_is_our_own_bug() {
        let mut ranges = ClosedRanges::with_capacity(4);
        ranges.close(5, 10, 0);
        ranges.close(9, 12, 1);
    }
}
