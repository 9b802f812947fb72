//! Replacement policies in their plainest form, one thread and no pages: what a cache's hit ratio is held against. Nothing
//! of the cache's own code is in them.
//!
//! Keys are small numbers, and everything known of a key stands in an array at its place.

use std::collections::VecDeque;

/// A policy at work: which keys are resident.
pub trait Policy {
    /// Asks for a key, which is resident afterwards; whether it was before.
    fn access(&mut self, key: u32) -> bool;
}

/// A policy by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The least recently used goes.
    Lru,
    /// A hand goes round; who was used since its last visit is spared once. Who comes counts as not used.
    Clock,
    /// Three queues: small, main, and the memory of what went (Yang et al., "FIFO queues are all you need for cache
    /// eviction", SOSP 2023).
    S3Fifo,
    /// One queue with a hand that leaves survivors where they are (Zhang et al., "SIEVE is simpler than LRU", NSDI 2024).
    Sieve,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lru, Self::Clock, Self::S3Fifo, Self::Sieve];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::Clock => "CLOCK",
            Self::S3Fifo => "S3-FIFO",
            Self::Sieve => "SIEVE",
        }
    }

    /// With so many frames, for keys below `keys`.
    #[must_use]
    pub fn simulate(self, frames: usize, keys: usize) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(Lru(Queue::new(frames, keys))),
            Self::Clock => Box::new(Clock::new(frames, keys)),
            Self::S3Fifo => Box::new(S3Fifo::new(frames, keys)),
            Self::Sieve => Box::new(Sieve::new(frames, keys)),
        }
    }

    /// The share of hits that it makes of a trace.
    #[must_use]
    pub fn hit_ratio(self, frames: usize, trace: &[u32]) -> f64 {
        let keys = trace.iter().max().map_or(0, |key| place(*key) + 1);
        let mut policy = self.simulate(frames, keys);
        ratio(trace, |key| policy.access(key))
    }
}

/// The share of a trace's keys of which `access` says that they were there.
pub fn ratio(trace: &[u32], mut access: impl FnMut(u32) -> bool) -> f64 {
    let hits = trace.iter().filter(|key| access(**key)).count();
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    let ratio = hits as f64 / trace.len().max(1) as f64;
    ratio
}

const fn place(key: u32) -> usize {
    // A widening one: there are no smaller machines here.
    key as usize
}

const NOBODY: u32 = u32::MAX;

/// Keys in a row, each linked to its neighbours. The head is where they come in.
struct Queue {
    frames: usize,
    resident: usize,
    /// Towards the head and towards the tail, [`NOBODY`] at the ends.
    links: Vec<[u32; 2]>,
    is_in: Vec<bool>,
    head: u32,
    tail: u32,
}

const NEWER: usize = 0;
const OLDER: usize = 1;

impl Queue {
    fn new(frames: usize, keys: usize) -> Self {
        Self {
            frames,
            resident: 0,
            links: vec![[NOBODY; 2]; keys],
            is_in: vec![false; keys],
            head: NOBODY,
            tail: NOBODY,
        }
    }

    fn is_full(&self) -> bool {
        self.resident >= self.frames
    }

    fn push(&mut self, key: u32) {
        self.links[place(key)] = [NOBODY, self.head];
        match self.head {
            NOBODY => self.tail = key,
            head => self.links[place(head)][NEWER] = key,
        }
        self.head = key;
        self.is_in[place(key)] = true;
        self.resident += 1;
    }

    fn remove(&mut self, key: u32) {
        let [newer, older] = self.links[place(key)];
        match newer {
            NOBODY => self.head = older,
            newer => self.links[place(newer)][OLDER] = older,
        }
        match older {
            NOBODY => self.tail = newer,
            older => self.links[place(older)][NEWER] = newer,
        }
        self.is_in[place(key)] = false;
        self.resident -= 1;
    }
}

struct Lru(Queue);

impl Policy for Lru {
    fn access(&mut self, key: u32) -> bool {
        let hit = self.0.is_in[place(key)];
        if hit {
            self.0.remove(key);
        } else if self.0.is_full() {
            self.0.remove(self.0.tail);
        }
        self.0.push(key);
        hit
    }
}

struct Sieve {
    queue: Queue,
    visited: Vec<bool>,
    hand: u32,
}

impl Sieve {
    fn new(frames: usize, keys: usize) -> Self {
        Self {
            queue: Queue::new(frames, keys),
            visited: vec![false; keys],
            hand: NOBODY,
        }
    }

    fn evict(&mut self) {
        let from_tail = |at: u32, tail: u32| if at == NOBODY { tail } else { at };
        let mut at = from_tail(self.hand, self.queue.tail);
        while self.visited[place(at)] {
            self.visited[place(at)] = false;
            at = from_tail(self.queue.links[place(at)][NEWER], self.queue.tail);
        }
        self.hand = self.queue.links[place(at)][NEWER];
        self.queue.remove(at);
    }
}

impl Policy for Sieve {
    fn access(&mut self, key: u32) -> bool {
        if self.queue.is_in[place(key)] {
            self.visited[place(key)] = true;
            return true;
        }
        if self.queue.is_full() {
            self.evict();
        }
        self.visited[place(key)] = false;
        self.queue.push(key);
        false
    }
}

struct Clock {
    frames: usize,
    ring: Vec<u32>,
    hand: usize,
    is_in: Vec<bool>,
    used: Vec<bool>,
}

impl Clock {
    fn new(frames: usize, keys: usize) -> Self {
        Self {
            frames,
            ring: Vec::with_capacity(frames),
            hand: 0,
            is_in: vec![false; keys],
            used: vec![false; keys],
        }
    }
}

impl Policy for Clock {
    fn access(&mut self, key: u32) -> bool {
        if self.is_in[place(key)] {
            self.used[place(key)] = true;
            return true;
        }
        self.is_in[place(key)] = true;
        self.used[place(key)] = false;
        if self.ring.len() < self.frames {
            self.ring.push(key);
            return false;
        }
        loop {
            let at = self.hand;
            let old = self.ring[at];
            self.hand = (at + 1) % self.frames;
            if !self.used[place(old)] {
                self.is_in[place(old)] = false;
                self.ring[at] = key;
                return false;
            }
            self.used[place(old)] = false;
        }
    }
}

/// The small queue has one frame of so many, as in the paper.
const SMALL_PART: usize = 10;
/// Uses on probation that make a key stay, and the most that are counted.
const USED_TO_STAY: u8 = 2;
const USED_MAX: u8 = 3;

struct S3Fifo {
    frames: usize,
    small_frames: usize,
    ghost_keys: u64,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    is_in: Vec<bool>,
    used: Vec<u8>,
    /// Keys that went from the small queue so far.
    gone: u64,
    /// When each one went, in that count; 0 if it did not, or has come back since.
    gone_at: Vec<u64>,
}

impl S3Fifo {
    fn new(frames: usize, keys: usize) -> Self {
        let small_frames = (frames / SMALL_PART).max(1);
        Self {
            frames,
            small_frames,
            ghost_keys: (frames - small_frames) as u64,
            small: VecDeque::new(),
            main: VecDeque::new(),
            is_in: vec![false; keys],
            used: vec![0; keys],
            gone: 0,
            gone_at: vec![0; keys],
        }
    }

    fn evict(&mut self) {
        while self.small.len() + self.main.len() >= self.frames {
            let on_probation = self.small.len() >= self.small_frames || self.main.is_empty();
            let queue = if on_probation {
                &mut self.small
            } else {
                &mut self.main
            };
            let Some(key) = queue.pop_back() else { return };
            let used = &mut self.used[place(key)];
            if on_probation && *used >= USED_TO_STAY {
                *used = 0;
                self.main.push_front(key);
            } else if !on_probation && *used > 0 {
                *used -= 1;
                self.main.push_front(key);
            } else {
                self.is_in[place(key)] = false;
                if on_probation {
                    self.gone += 1;
                    self.gone_at[place(key)] = self.gone;
                }
            }
        }
    }
}

impl Policy for S3Fifo {
    fn access(&mut self, key: u32) -> bool {
        if self.is_in[place(key)] {
            let used = &mut self.used[place(key)];
            *used = (*used + 1).min(USED_MAX);
            return true;
        }
        self.evict();
        self.is_in[place(key)] = true;
        self.used[place(key)] = 0;
        let gone_at = std::mem::take(&mut self.gone_at[place(key)]);
        if gone_at > 0 && self.gone - gone_at < self.ghost_keys {
            self.main.push_front(key);
        } else {
            self.small.push_front(key);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(kind: Kind, frames: usize, trace: &[u32]) -> Vec<bool> {
        let mut policy = kind.simulate(frames, 100);
        trace.iter().map(|key| policy.access(*key)).collect()
    }

    fn tail(kind: Kind, frames: usize, trace: &[u32], len: usize) -> Vec<bool> {
        let all = hits(kind, frames, trace);
        all[all.len() - len..].to_vec()
    }

    #[test]
    fn each_policy_evicts_whom_it_should() {
        // 1, 2, 3 come, 1 is used, 4 comes: 2 goes from LRU, CLOCK and SIEVE.
        let trace = [1, 2, 3, 1, 4];
        for kind in [Kind::Lru, Kind::Clock, Kind::Sieve] {
            for (key, there) in [(1, true), (2, false), (3, true), (4, true)] {
                let mut asked = trace.to_vec();
                asked.push(key);
                assert_eq!(tail(kind, 3, &asked, 1), [there], "{kind:?}, {key}");
            }
        }
        // A use moves a key to the front in LRU only: in the others it is spared once.
        let trace = [1, 2, 3, 1, 4, 5, 1];
        assert_eq!(tail(Kind::Lru, 3, &trace, 1), [true]);
        // CLOCK's hand has passed 1, is at 3 and evicts it.
        assert_eq!(tail(Kind::Clock, 3, &[1, 2, 3, 1, 4, 5, 1], 1), [true]);
        assert_eq!(tail(Kind::Clock, 3, &[1, 2, 3, 1, 4, 5, 6, 1], 1), [false]);
        // SIEVE's hand goes on from where it was, to the newer ones, while 1 stays at the tail.
        assert_eq!(
            tail(Kind::Sieve, 3, &[1, 2, 3, 1, 4, 5, 6, 7, 1], 1),
            [true]
        );
    }

    #[test]
    fn s3_fifo_has_newcomers_on_probation_and_remembers_them() {
        // Twenty frames, two of them small. 1 is used twice, and so it stays while a scan passes.
        let mut trace = vec![1, 1, 1];
        trace.extend(2..40);
        trace.push(1);
        assert_eq!(tail(Kind::S3Fifo, 20, &trace, 1), [true]);
        // 15 went a while ago. It comes back to the main queue, and another scan does not move it.
        trace.push(15);
        assert_eq!(tail(Kind::S3Fifo, 20, &trace, 1), [false]);
        trace.extend(40..60);
        trace.push(15);
        assert_eq!(tail(Kind::S3Fifo, 20, &trace, 1), [true]);
        // What went longer ago than the ghost remembers is new, and goes with the next scan.
        trace.push(3);
        trace.extend(60..90);
        trace.push(3);
        assert_eq!(tail(Kind::S3Fifo, 20, &trace, 1), [false]);
    }

    #[test]
    fn ratios_are_of_the_whole_trace() {
        let ratio = Kind::Lru.hit_ratio(2, &[1, 1, 2, 3, 1]);
        assert!((ratio - 0.2).abs() < 1e-9, "{ratio}");
    }
}
