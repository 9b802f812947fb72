//! A set of channels: a bit for each, searched in turns so that none is passed over.

/// Channels by their index.
#[derive(Debug)]
pub(super) struct ChannelSet {
    words: Box<[u64]>,
}

impl ChannelSet {
    pub(super) fn new(channels_max: u16) -> Self {
        Self {
            words: vec![0; usize::from(channels_max).div_ceil(64)].into_boxed_slice(),
        }
    }

    /// Puts a channel in or takes it out.
    pub(super) fn set(&mut self, channel: usize, within: bool) {
        let bit = 1 << (channel % 64);
        if within {
            self.words[channel / 64] |= bit;
        } else {
            self.words[channel / 64] &= !bit;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The first channel of the set from `start` on, or else the first of all.
    pub(super) fn next(&self, start: usize) -> Option<usize> {
        self.at_or_after(start).or_else(|| self.at_or_after(0))
    }

    fn at_or_after(&self, start: usize) -> Option<usize> {
        let first = start / 64;
        let mut mask = u64::MAX << (start % 64);
        for (index, word) in self.words.iter().enumerate().skip(first) {
            let found = word & mask;
            if found != 0 {
                return Some(index * 64 + usize::try_from(found.trailing_zeros()).unwrap_or(0));
            }
            mask = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_a_turn() {
        let mut set = ChannelSet::new(130);
        assert!(set.is_empty() && set.next(0).is_none() && set.next(129).is_none());
        for channel in [0, 63, 64, 129] {
            set.set(channel, true);
        }
        let turns: Vec<_> = [0, 1, 63, 64, 65, 129, 130, 500]
            .map(|start| set.next(start))
            .into();
        let expected = [0, 63, 63, 64, 129, 129, 0, 0].map(Some);
        assert_eq!(turns, expected);
        set.set(0, false);
        assert_eq!(set.next(130), Some(63));
    }
}
