//! Random data that need not be kept: any sector can be made again from the seed and its number.

/// Fills `out` with the sectors from `lba` on.
pub(super) fn fill(seed: u64, lba: u64, out: &mut [u8]) {
    for (lba, sector) in (lba..).zip(out.chunks_mut(512)) {
        let mut state = mix(seed ^ mix(lba.wrapping_add(1)));
        for word in sector.chunks_mut(8) {
            state = state.wrapping_add(STEP);
            word.copy_from_slice(&mix(state).to_le_bytes()[..word.len()]);
        }
    }
}

/// The first sector of `data`, which was read from `lba` on, that is not what was written.
pub(super) fn first_difference(seed: u64, lba: u64, data: &[u8]) -> Option<u64> {
    let mut expected = [0; 512];
    for (lba, sector) in (lba..).zip(data.chunks(512)) {
        fill(seed, lba, &mut expected[..sector.len()]);
        if expected[..sector.len()] != *sector {
            return Some(lba);
        }
    }
    None
}

/// The golden ratio's fraction, as in Vigna's SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function: each bit of the result depends on each of the argument.
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_can_be_made_again() {
        let mut whole = vec![0; 512 * 64];
        fill(7, 100, &mut whole);
        let mut part = vec![0; 512 * 3];
        fill(7, 110, &mut part);
        assert_eq!(whole[512 * 10..512 * 13], part);
        assert_eq!(first_difference(7, 100, &whole), None);
    }

    #[test]
    fn sectors_and_seeds_differ_and_a_flipped_bit_is_found() {
        let mut one = vec![0; 512 * 8];
        let mut other = one.clone();
        fill(7, 0, &mut one);
        fill(8, 0, &mut other);
        assert_eq!(first_difference(8, 0, &one), Some(0));
        assert_ne!(one[..512], one[512..1024]);
        one[512 * 5 + 77] ^= 1;
        assert_eq!(first_difference(7, 0, &one), Some(5));
        assert_eq!(
            first_difference(7, 1, &other[512..]),
            Some(1),
            "another seed"
        );
    }
}
