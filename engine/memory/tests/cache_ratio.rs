//! Hit ratios on traces, against plain simulations of LRU, CLOCK, S3-FIFO and SIEVE: the cache's policies do what they say,
//! and no other one would have done much better.
//!
//! S3-FIFO: Yang et al., SOSP 2023, algorithm 1. SIEVE: Zhang et al., NSDI 2024, algorithm 1.

use std::collections::{BTreeMap, HashMap, VecDeque};

use sandrail_memory::cache::{
    Cache, CacheConfig, Eviction, Handle, PageId, Refused, Reserves, ShardFetch, Unchecked,
};
use sandrail_memory::{Arena, HugePages};

/// A cache in theory: whether a key was there; afterwards it is.
trait Simulated {
    fn access(&mut self, key: u32) -> bool;
}

/// Keys by last use.
struct Lru {
    capacity: usize,
    clock: u64,
    used: HashMap<u32, u64>,
    order: BTreeMap<u64, u32>,
}

impl Simulated for Lru {
    fn access(&mut self, key: u32) -> bool {
        self.clock += 1;
        let before = self.used.insert(key, self.clock);
        self.order.insert(self.clock, key);
        if let Some(before) = before {
            self.order.remove(&before);
            return true;
        }
        if self.used.len() > self.capacity {
            let (_, oldest) = self.order.pop_first().unwrap();
            self.used.remove(&oldest);
        }
        false
    }
}

/// A ring of keys with one bit each, and a hand.
struct Clock {
    capacity: usize,
    place: HashMap<u32, usize>,
    ring: Vec<(u32, bool)>,
    hand: usize,
}

impl Simulated for Clock {
    fn access(&mut self, key: u32) -> bool {
        if let Some(place) = self.place.get(&key) {
            self.ring[*place].1 = true;
            return true;
        }
        if self.ring.len() < self.capacity {
            self.place.insert(key, self.ring.len());
            self.ring.push((key, false));
            return false;
        }
        loop {
            let entry = &mut self.ring[self.hand];
            if !entry.1 {
                break;
            }
            entry.1 = false;
            self.hand = (self.hand + 1) % self.capacity;
        }
        self.place.remove(&self.ring[self.hand].0);
        self.place.insert(key, self.hand);
        self.ring[self.hand] = (key, false);
        self.hand = (self.hand + 1) % self.capacity;
        false
    }
}

/// The paper's three queues; the ghost as its section 4.2 has it: a page is in it until as many others have gone as it has room
/// for.
struct S3Fifo {
    capacity: usize,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    used: HashMap<u32, u8>,
    gone: usize,
    ghost: HashMap<u32, usize>,
}

impl S3Fifo {
    fn evict(&mut self) {
        while self.used.len() >= self.capacity {
            if self.small.len() >= (self.capacity / 10).max(1) || self.main.is_empty() {
                let key = self.small.pop_back().unwrap();
                if self.used[&key] > 1 {
                    self.used.insert(key, 0);
                    self.main.push_front(key);
                } else {
                    self.used.remove(&key);
                    self.gone += 1;
                    self.ghost.insert(key, self.gone);
                }
            } else {
                let key = self.main.pop_back().unwrap();
                let used = self.used[&key];
                if used > 0 {
                    self.used.insert(key, used - 1);
                    self.main.push_front(key);
                } else {
                    self.used.remove(&key);
                }
            }
        }
    }
}

impl Simulated for S3Fifo {
    fn access(&mut self, key: u32) -> bool {
        if let Some(used) = self.used.get_mut(&key) {
            *used = (*used + 1).min(3);
            return true;
        }
        self.evict();
        self.used.insert(key, 0);
        let room = self.capacity - self.capacity / 10;
        let gone = self.ghost.remove(&key);
        if gone.is_some_and(|at| self.gone - at < room) {
            self.main.push_front(key);
        } else {
            self.small.push_front(key);
        }
        false
    }
}

/// One queue; the hand goes from the tail to the head and leaves the survivors where they are.
struct Sieve {
    capacity: usize,
    /// Entry: key, visited, next (towards the head), previous (towards the tail).
    nodes: Vec<(u32, bool, Option<usize>, Option<usize>)>,
    place: HashMap<u32, usize>,
    head: Option<usize>,
    tail: Option<usize>,
    hand: Option<usize>,
}

impl Simulated for Sieve {
    fn access(&mut self, key: u32) -> bool {
        if let Some(place) = self.place.get(&key) {
            self.nodes[*place].1 = true;
            return true;
        }
        let place = if self.place.len() < self.capacity {
            self.nodes.push((key, false, None, None));
            self.nodes.len() - 1
        } else {
            let mut at = self.hand.or(self.tail).unwrap();
            while self.nodes[at].1 {
                self.nodes[at].1 = false;
                at = self.nodes[at].2.or(self.tail).unwrap();
            }
            let (old, _, next, previous) = self.nodes[at];
            self.place.remove(&old);
            self.hand = next;
            match next {
                Some(next) => self.nodes[next].3 = previous,
                None => self.head = previous,
            }
            match previous {
                Some(previous) => self.nodes[previous].2 = next,
                None => self.tail = next,
            }
            at
        };
        self.nodes[place] = (key, false, None, self.head);
        match self.head {
            Some(head) => self.nodes[head].2 = Some(place),
            None => self.tail = Some(place),
        }
        self.head = Some(place);
        self.place.insert(key, place);
        false
    }
}

/// The cache itself, turned by one thread.
struct Real {
    handle: Handle,
    shard: sandrail_memory::cache::CacheShard,
}

impl Real {
    fn new(frames: u32, eviction: Eviction) -> Self {
        let reserve = Reserves {
            log: 0,
            write_back: 0,
            recovery: 0,
        };
        let config = CacheConfig {
            eviction,
            reserve,
            ..CacheConfig::new(frames)
        };
        let mut arena = Arena::new(config.arena_bytes(), HugePages::Prefer).unwrap();
        let (cache, mut shards) = Cache::new(config, &mut arena, Box::new(Unchecked)).unwrap();
        Self {
            handle: cache.handle(0),
            shard: shards.pop().unwrap(),
        }
    }
}

impl Simulated for Real {
    fn access(&mut self, key: u32) -> bool {
        let page = PageId::new(0, u64::from(key)).unwrap();
        match self.handle.optimistic(page, |view| view.u64_at(0)) {
            Ok(_) => true,
            Err(Refused::Absent) => {
                let ShardFetch::Read(ticket) = self.shard.fetch(page) else {
                    panic!("nobody else asks, and every frame can go");
                };
                self.shard.read_done(ticket, Ok(())).unwrap();
                false
            }
            Err(other) => panic!("{other}"),
        }
    }
}

fn simulations(capacity: usize) -> Vec<(&'static str, Box<dyn Simulated>)> {
    vec![
        (
            "LRU",
            Box::new(Lru {
                capacity,
                clock: 0,
                used: HashMap::new(),
                order: BTreeMap::new(),
            }),
        ),
        (
            "CLOCK",
            Box::new(Clock {
                capacity,
                place: HashMap::new(),
                ring: Vec::new(),
                hand: 0,
            }),
        ),
        (
            "S3-FIFO",
            Box::new(S3Fifo {
                capacity,
                small: VecDeque::new(),
                main: VecDeque::new(),
                used: HashMap::new(),
                gone: 0,
                ghost: HashMap::new(),
            }),
        ),
        (
            "SIEVE",
            Box::new(Sieve {
                capacity,
                nodes: Vec::new(),
                place: HashMap::new(),
                head: None,
                tail: None,
                hand: None,
            }),
        ),
    ]
}

/// Zipf's law by its sums; which key has which rank is shuffled.
fn zipf(keys: u32, theta: f64, draws: usize, seed: u64) -> Vec<u32> {
    let mut sums = Vec::new();
    let mut sum = 0.0;
    for rank in 1..=keys {
        sum += f64::from(rank).powf(-theta);
        sums.push(sum);
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut shuffled: Vec<u32> = (0..keys).collect();
    rng.shuffle(&mut shuffled);
    (0..draws)
        .map(|_| {
            let at = rng.f64() * sum;
            let rank = sums.partition_point(|sum| *sum < at);
            shuffled[rank.min(shuffled.len() - 1)]
        })
        .collect()
}

const FRAMES: u32 = 2_000;
const KEYS: u32 = 20_000;
const DRAWS: usize = 400_000;

/// Zipf with a scan of 2.5 caches' length now and then, each over pages that nobody else asks for.
fn scan_mix() -> Vec<u32> {
    let mut trace = Vec::new();
    for (number, part) in zipf(KEYS, 0.99, DRAWS, 5).chunks(40_000).enumerate() {
        trace.extend_from_slice(part);
        let from = KEYS + u32::try_from(number).unwrap() * 5_000;
        trace.extend(from..from + 5_000);
    }
    trace
}

/// A loop that does not fit, a third larger than the cache, and half as often something popular.
fn loops() -> Vec<u32> {
    let popular = zipf(1_000, 0.99, DRAWS / 3, 6);
    let mut trace = Vec::new();
    let mut at = 0;
    for key in popular {
        trace.push(key);
        for _ in 0..2 {
            trace.push(KEYS + at);
            at = (at + 1) % (FRAMES * 4 / 3);
        }
    }
    trace
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
fn ratio(cache: &mut dyn Simulated, trace: &[u32]) -> f64 {
    let hits = trace.iter().filter(|key| cache.access(**key)).count();
    hits as f64 / trace.len() as f64
}

#[test]
fn the_policies_do_as_their_simulations_and_about_as_well_as_the_best() {
    let traces = [
        ("zipf 0.99", zipf(KEYS, 0.99, DRAWS, 4)),
        ("zipf 0.7", zipf(KEYS, 0.7, DRAWS, 4)),
        ("scan mix", scan_mix()),
        ("loops", loops()),
    ];
    let mut wrong = Vec::new();
    for (name, trace) in &traces {
        let simulated: Vec<(&str, f64)> = simulations(FRAMES as usize)
            .into_iter()
            .map(|(name, mut cache)| (name, ratio(cache.as_mut(), trace)))
            .collect();
        let best = simulated
            .iter()
            .map(|(_, ratio)| *ratio)
            .fold(0.0, f64::max);
        for (policy, eviction) in [("CLOCK", Eviction::Clock), ("S3-FIFO", Eviction::S3Fifo)] {
            let own = simulated
                .iter()
                .find(|(name, _)| *name == policy)
                .unwrap()
                .1;
            let real = ratio(&mut Real::new(FRAMES, eviction), trace);
            println!("{name}: {policy} {real:.4}, simulated {simulated:.4?}");
            if (real - own).abs() > 0.01 {
                wrong.push(format!(
                    "{name}: {policy} {real:.4}, its simulation {own:.4}"
                ));
            }
            if eviction == Eviction::default() && real < best - 0.03 {
                wrong.push(format!(
                    "{name}: {policy} {real:.4}, the best {simulated:.4?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
