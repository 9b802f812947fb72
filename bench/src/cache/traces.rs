//! What is asked of a cache: keys in an order, always the same for the same seed.

use crate::zipf::Zipf;

/// Draws of keys below `keys` by Zipf's law. Which key has which rank is shuffled.
///
/// # Panics
/// Without keys.
#[must_use]
pub fn zipf(keys: u32, theta: f64, draws: usize, seed: u64) -> Vec<u32> {
    let law = Zipf::new(u64::from(keys), theta);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut keys: Vec<u32> = (0..keys).collect();
    rng.shuffle(&mut keys);
    let key = |rank: u64| keys[usize::try_from(rank).expect("ranks are below the keys' number")];
    (0..draws).map(|_| key(law.draw(&mut rng))).collect()
}

/// A trace for a number of frames, with its name.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name in reports.
    pub name: &'static str,
    /// The keys.
    pub keys: Vec<u32>,
}

/// Keys of which the popular ones are, for each frame.
const KEYS_A_FRAME: u32 = 10;
/// Accesses, for each frame.
const DRAWS_A_FRAME: usize = 200;

/// The traces that hit ratios are compared on.
#[must_use]
pub fn all(frames: u32, seed: u64) -> Vec<Named> {
    let named = |name, keys| Named { name, keys };
    let (keys, draws) = (KEYS_A_FRAME * frames, DRAWS_A_FRAME * frames as usize);
    vec![
        named("Zipf 0.99", zipf(keys, 0.99, draws, seed)),
        named("Zipf 0.7", zipf(keys, 0.7, draws, seed)),
        named("Zipf 0.99 with scans", scan_mix(frames, seed)),
        named("loop and Zipf 0.99", looped(frames, seed)),
        named("drifting Zipf 0.99", drift(frames, seed)),
        named("pairs and Zipf 0.99", pairs(frames, seed)),
    ]
}

/// Zipf's law with a scan now and then, two and a half times as long as the cache, over keys that nobody else asks for.
fn scan_mix(frames: u32, seed: u64) -> Vec<u32> {
    let keys = KEYS_A_FRAME * frames;
    let scan = frames * 5 / 2;
    let popular = zipf(keys, 0.99, DRAWS_A_FRAME * frames as usize, seed ^ 1);
    let mut trace = Vec::new();
    for (number, part) in (0..).zip(popular.chunks(20 * frames as usize)) {
        trace.extend_from_slice(part);
        let from = keys + number * scan;
        trace.extend(from..from + scan);
    }
    trace
}

/// A loop that does not fit, a third larger than the cache, and half as often something popular.
fn looped(frames: u32, seed: u64) -> Vec<u32> {
    let popular = zipf(
        frames / 2,
        0.99,
        DRAWS_A_FRAME * frames as usize / 3,
        seed ^ 2,
    );
    let (first, length) = (frames, frames * 4 / 3);
    let mut at = 0;
    let mut trace = Vec::new();
    for key in popular {
        trace.push(key);
        for _ in 0..2 {
            trace.push(first + at);
            at = (at + 1) % length;
        }
    }
    trace
}

/// Zipf's law over keys that move on: what is popular now has new neighbours soon, and is nobody's in the end.
fn drift(frames: u32, seed: u64) -> Vec<u32> {
    let keys = KEYS_A_FRAME * frames;
    let draws = zipf(keys, 0.99, DRAWS_A_FRAME * frames as usize, seed ^ 3);
    // Within the trace the window moves by all its keys.
    let step = draws.len() / keys as usize;
    let moved = |(number, key): (usize, &u32)| {
        let begin = u32::try_from(number / step).expect("as many steps as keys");
        // The key's place in the window that begins there: only a key that leaves it is replaced by a new one.
        if *key < begin { *key + keys } else { *key }
    };
    draws.iter().enumerate().map(moved).collect()
}

/// Half of the accesses are to keys that are asked for twice, a fiftieth of the cache apart, and never again.
fn pairs(frames: u32, seed: u64) -> Vec<u32> {
    let keys = KEYS_A_FRAME * frames;
    let popular = zipf(keys, 0.99, DRAWS_A_FRAME * frames as usize / 2, seed ^ 4);
    let apart = frames / 50;
    let mut trace = Vec::new();
    for (number, key) in (0..).zip(popular) {
        let turn = number / apart;
        // A run of new keys, then the same again.
        trace.push(key);
        trace.push(keys + turn / 2 * apart + number % apart);
    }
    trace
}
