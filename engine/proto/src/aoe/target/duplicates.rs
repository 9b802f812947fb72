//! Copies of requests, known by what was done two frame lifetimes ago and less (S6).
//!
//! Two: the answer may take one to arrive, until when its initiator sends copies, and the last of them may take another. A
//! copy that comes says that no answer had arrived when it was sent, so that they are counted from the latest answer. And
//! they are counted up to the time by which all that had arrived was seen: while a process does not run, frames wait in its
//! rings, more of them than a turn takes, and those of one ring may be seen before older ones of another.
//!
//! Entries lie in a ring in order of arrival, and chains of a hash table run through the ring from younger to older ones.
//! An entry that is overwritten or falls out at the ring's old end ends the chains that lead to it, so that nothing is ever
//! unlinked.
//!
//! Nearly every request is new, and what that costs is memory that is in no cache: a million entries are. So the table is
//! laid out to have neighbours in use at a time (see [`Key::home`]), and is sparse, so that most places lead nowhere.

use core::time::Duration;

use sandrail_wire::aoe::{Session, Tag};
use sandrail_wire::{Lba, MacAddr};

use crate::time::Instant;

/// What makes two frames copies of one request. Three words, so that they compare fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key([u64; 3]);

impl Key {
    /// Of nothing that is sent: a session is never 0 here.
    const DEAD: Self = Self([0; 3]);

    pub(super) fn new(
        target: u16,
        session: Session,
        mac: MacAddr,
        tag: Tag,
        command: u8,
        (lba, count): (Lba, u8),
    ) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        let [s0, s1] = session.0.to_be_bytes();
        let [t0, t1] = target.to_be_bytes();
        let [g0, g1, g2, g3] = tag.without_copy().0.to_be_bytes();
        Self([
            u64::from_be_bytes([s0, s1, a, b, c, d, e, f]),
            // An address has 48 bits.
            lba.0 | u64::from(count) << 48 | u64::from(command) << 56,
            u64::from_be_bytes([0, 0, t0, t1, g0, g1, g2, g3]),
        ])
    }

    /// The key's place in a table of 2^`bits`: somewhere for its sender, and within that by its tag.
    ///
    /// Initiators count requests in the upper bits of the tag's number or in the lower (ours: how often a slot was used, above
    /// the slot). Either way those that come one after another in one half of it lie beside each other here, so that their places
    /// are in the cache. That one sender's keys could be made to meet is known: a search ends after [`STEPS_MAX`].
    fn home(&self, seed: u64, bits: u32) -> usize {
        let [sender, _, tag] = self.0;
        let request = tag >> 4 & 0x00ff_ffff;
        let (upper, lower) = (request >> 12, request & 0x0fff);
        let own = if bits >= 12 {
            // Shifted, for each value of the lower half by another amount: at equal distances they would compete for one set.
            lower << (bits - 12) | (upper + lower * 0x9e5) & ((1 << (bits - 12)) - 1)
        } else {
            lower ^ upper
        };
        let base = mix(sender ^ seed, (tag >> 28) ^ MIX);
        let place = base.wrapping_add(own) & ((1 << bits) - 1);
        usize::try_from(place).unwrap_or(0)
    }
}

/// Multiplied with, in the manner of wyhash.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let [high, low] = [product >> 64, product & u128::from(u64::MAX)];
    u64::try_from(high ^ low).unwrap_or(0)
}

/// Registers of an outcome, to be told again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) error: u8,
    pub(super) status: u8,
    pub(super) count: u8,
    pub(super) lba_bytes: [u8; 6],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    /// When it was last answered; `u64::MAX`: it executes.
    done_ns: u64,
    /// The next older entry of the chain, by number.
    older: u32,
    /// While it executes, the operation.
    operation: u32,
    registers: Registers,
}

const EXECUTES: u64 = u64::MAX;

/// An entry, by its number in order of arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EntryId(u32);

impl EntryId {
    /// What stands where there is no entry.
    pub(super) const NOTHING: Self = Self(0);
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it is new, or older than a lifetime.
    New,
    /// A copy of it executes.
    Executes,
    /// A copy of it is done.
    Done(Registers),
    /// Too many others are in the way to find it: nobody can tell.
    Lost,
}

/// Steps of a search. Chains are hardly ever longer than two, if nobody makes them so.
const STEPS_MAX: u32 = 32;
/// The table has two to this times as many places as the ring.
const SPARSE_BITS: u32 = 2;

/// What it costs to remember a request, in bytes: its entry, and its share of the table's places. Multiply it by a power of
/// two: [`duplicates_max`](super::BladeConfig::duplicates_max) is rounded up to one.
pub const DUPLICATE_BYTES: usize = size_of::<Entry>() + (size_of::<u32>() << SPARSE_BITS);

/// The memory of all targets' requests.
#[derive(Debug)]
pub(super) struct Duplicates {
    ring: Box<[Entry]>,
    heads: Box<[u32]>,
    heads_bits: u32,
    /// Numbers of the oldest entry and of the next one to come; they wrap.
    oldest: u32,
    next: u32,
    retained_ns: u64,
    /// The end of the last turn: whatever is seen now arrived since.
    turned_ns: u64,
    seed: u64,
}

impl Duplicates {
    /// Room for `entries_max` requests, rounded up to a power of two, of frames that live for `lifetime`.
    pub(super) fn new(entries_max: u32, lifetime: Duration, seed: u64) -> Self {
        let empty = Entry {
            key: Key::DEAD,
            done_ns: 0,
            older: 0,
            operation: 0,
            registers: Registers::default(),
        };
        let bits = entries_max.next_power_of_two().trailing_zeros();
        let heads_bits = bits + SPARSE_BITS;
        Self {
            ring: vec![empty; 1 << bits].into(),
            heads: vec![0; 1 << heads_bits].into(),
            heads_bits,
            oldest: 0,
            next: 0,
            retained_ns: crate::time::nanos(lifetime).saturating_mul(2),
            turned_ns: 0,
            seed,
        }
    }

    fn len(&self) -> u32 {
        self.next.wrapping_sub(self.oldest)
    }

    const fn place(&self, number: u32) -> usize {
        number as usize & (self.ring.len() - 1)
    }

    /// All frames that had arrived by then were seen.
    pub(super) fn turned(&mut self, seen_to: Instant) {
        self.turned_ns = self.turned_ns.max(seen_to.as_nanos());
    }

    const fn is_young(&self, entry: &Entry) -> bool {
        self.turned_ns < entry.done_ns.saturating_add(self.retained_ns)
    }

    /// What is known of a request, which is answered again if it is done. Which operation executes it is known to whoever began
    /// it.
    pub(super) fn find(&mut self, now: Instant, key: &Key) -> Known {
        let mut number = self.heads[key.home(self.seed, self.heads_bits)];
        // Each step must lead to an older entry, and to one that is there still: what a chain says of others is stale.
        let mut younger_age = self.len();
        for _ in 0..STEPS_MAX {
            let age = number.wrapping_sub(self.oldest);
            if age >= younger_age {
                return Known::New;
            }
            let place = self.place(number);
            let entry = &self.ring[place];
            if entry.key == *key {
                if entry.done_ns == EXECUTES {
                    return Known::Executes;
                }
                if !self.is_young(entry) {
                    return Known::New;
                }
                self.ring[place].done_ns = now.as_nanos();
                return Known::Done(self.ring[place].registers);
            }
            younger_age = age;
            number = entry.older;
        }
        Known::Lost
    }

    /// Makes room for an entry; `false` when all are too young. `moved` is told of each operation whose entry has another number
    /// now.
    pub(super) fn make_room(&mut self, mut moved: impl FnMut(u32, EntryId)) -> bool {
        for _ in 0..8 {
            if self.len() == 0 {
                break;
            }
            let entry = self.ring[self.place(self.oldest)];
            let executes = entry.done_ns == EXECUTES;
            let is_young = self.is_young(&entry);
            if is_young && self.has_room() {
                break;
            }
            self.oldest = self.oldest.wrapping_add(1);
            // Something slow must not keep the place of all that came after it: it moves to the young end.
            if is_young {
                let id = self.push(entry.key, entry.operation);
                let place = self.place(id.0);
                self.ring[place].done_ns = entry.done_ns;
                self.ring[place].registers = entry.registers;
                if executes {
                    moved(entry.operation, id);
                }
            }
        }
        self.has_room()
    }

    fn has_room(&self) -> bool {
        (self.len() as usize) < self.ring.len()
    }

    /// Remembers that `operation` executes a request. There must be room.
    pub(super) fn insert(&mut self, key: Key, operation: u32) -> EntryId {
        assert!(self.has_room(), "room was made");
        self.push(key, operation)
    }

    fn push(&mut self, key: Key, operation: u32) -> EntryId {
        let number = self.next;
        let head = &mut self.heads[key.home(self.seed, self.heads_bits)];
        let older = core::mem::replace(head, number);
        let place = self.place(number);
        self.ring[place] = Entry {
            key,
            done_ns: EXECUTES,
            older,
            operation,
            registers: Registers::default(),
        };
        self.next = number.wrapping_add(1);
        EntryId(number)
    }

    /// The operation is over.
    pub(super) fn done(&mut self, now: Instant, id: EntryId, registers: Registers) {
        let place = self.place(id.0);
        let entry = &mut self.ring[place];
        assert!(entry.done_ns == EXECUTES, "an operation ends once");
        entry.done_ns = now.as_nanos();
        entry.registers = registers;
    }

    /// The operation was not begun after all: a copy of it is as good as new.
    pub(super) fn forget(&mut self, id: EntryId) {
        let place = self.place(id.0);
        let entry = &mut self.ring[place];
        entry.key = Key::DEAD;
        entry.done_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const LIFETIME: Duration = Duration::from_nanos(1000);

    fn key(number: u32) -> Key {
        Key::new(
            0,
            Session(7),
            MacAddr([2, 0, 0, 0, 0, 1]),
            Tag(number << 4),
            0x34,
            (Lba(u64::from(number % 3)), 8),
        )
    }

    #[test]
    fn what_an_entry_costs_is_what_is_allocated() {
        let table = Duplicates::new(1000, LIFETIME, 99);
        let bytes = size_of_val(&*table.ring) + size_of_val(&*table.heads);
        assert_eq!(bytes, 1024 * DUPLICATE_BYTES);
        // docs/blade.md has the figure.
        assert_eq!(DUPLICATE_BYTES, 72);
    }

    #[test]
    fn each_part_of_the_key_counts_but_the_copy() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let with = |target, session, mac, tag, command, at| {
            Key::new(target, Session(session), mac, Tag(tag), command, at)
        };
        let one = with(1, 2, mac, 0x30, 0x34, (Lba(4), 5));
        assert_eq!(one, with(1, 2, mac, 0x3f, 0x34, (Lba(4), 5)));
        for other in [
            with(2, 2, mac, 0x30, 0x34, (Lba(4), 5)),
            with(1, 3, mac, 0x30, 0x34, (Lba(4), 5)),
            with(1, 2, MacAddr([2, 0, 0, 0, 0, 2]), 0x30, 0x34, (Lba(4), 5)),
            with(1, 2, mac, 0x40, 0x34, (Lba(4), 5)),
            with(1, 2, mac, 0x30, 0x30, (Lba(4), 5)),
            with(1, 2, mac, 0x30, 0x34, (Lba(5), 5)),
            with(1, 2, mac, 0x30, 0x34, (Lba(4), 6)),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn keys_that_meet_without_end_are_not_searched_for_ever() {
        let mut table = Duplicates::new(64, LIFETIME, 99);
        let now = Instant::from_nanos(1);
        let at = |lba| {
            let mac = MacAddr([2, 0, 0, 0, 0, 1]);
            Key::new(0, Session(7), mac, Tag(0x10), 0x34, (Lba(lba), 8))
        };
        for lba in 0..40 {
            let id = table.insert(at(lba), 0);
            table.done(now, id, Registers::default());
        }
        let found = |table: &mut Duplicates, lba| table.find(now, &at(lba));
        assert_eq!(found(&mut table, 39), Known::Done(Registers::default()));
        assert_eq!(found(&mut table, 8), Known::Done(Registers::default()));
        assert_eq!(found(&mut table, 7), Known::Lost, "it may be new, or not");
        assert_eq!(found(&mut table, 99), Known::Lost);
    }

    /// The cost of a new request is the memory it touches: the places of requests in a row are few pieces of it, whichever half
    /// of the tag's number counts.
    #[test]
    fn requests_in_a_row_have_their_places_beside_each_other() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let line = |request: u32| {
            let tag = Tag(request << 4);
            Key::new(0, Session(7), mac, tag, 0x34, (Lba(u64::from(request)), 8)).home(5, 22) / 16
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let mut lives: Vec<u32> = (0..2048).map(|_| rng.u32(..4096)).collect();
        let mut lines = std::collections::HashSet::new();
        let mut places = 0;
        for turn in 0..16 {
            for slot in 0..2048 {
                let life = &mut lives[slot as usize];
                *life = (*life + 1) % 4096;
                lines.insert(line(*life << 12 | slot));
                places += 1;
            }
            assert!(
                lines.len() <= 2048 * 2 + 64 * turn,
                "{} of {places}",
                lines.len()
            );
        }
        let in_a_row: std::collections::HashSet<_> = (0..1 << 16).map(line).collect();
        assert!(in_a_row.len() <= 2 * 4096, "{}", in_a_row.len());
    }

    /// Agrees with a map, over wraps of the ring and of the numbers; the slow are never forgotten.
    #[test]
    fn agrees_with_a_map() {
        for (seed, first) in [(1, 0), (2, u32::MAX - 700)] {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut table = Duplicates::new(64, LIFETIME, 99);
            (table.oldest, table.next) = (first, first);
            let (mut now, mut turned) = (Instant::from_nanos(1), Instant::ZERO);
            let mut map: HashMap<u32, (Option<Instant>, u8)> = HashMap::new();
            let mut ids: HashMap<u32, EntryId> = HashMap::new();
            let (mut full, mut moves, mut again) = (0, 0, 0);
            for step in 0..30_000_u32 {
                // Turns take several frames, or long.
                if rng.u8(..3) == 0 {
                    turned = now;
                    table.turned(now);
                }
                now = now + Duration::from_nanos(rng.u64(..80));
                let number = rng.u32(..200);
                let expected = match map.get(&number) {
                    Some((None, _)) => Known::Executes,
                    Some((Some(at), status)) if turned < *at + 2 * LIFETIME => {
                        Known::Done(Registers {
                            status: *status,
                            ..Registers::default()
                        })
                    }
                    _ => Known::New,
                };
                // A copy that is answered again says that no answer had arrived.
                if let (Known::Done(_), Some((done, _))) = (expected, map.get_mut(&number)) {
                    *done = Some(now);
                }
                assert_eq!(table.find(now, &key(number)), expected, "step {step}");
                match expected {
                    Known::New => {
                        let room = table.make_room(|operation, id| {
                            ids.insert(operation, id);
                            moves += 1;
                        });
                        if room {
                            ids.insert(number, table.insert(key(number), number));
                            map.insert(number, (None, 0));
                        } else {
                            let held = |(done, _): &&(Option<Instant>, u8)| {
                                done.is_none_or(|at| turned < at + 2 * LIFETIME)
                            };
                            let live = map.values().filter(held).count();
                            assert!(live >= 16, "full with {live} of 64");
                            full += 1;
                        }
                    }
                    Known::Executes if rng.u8(..3) > 0 => {
                        let status = rng.u8(..);
                        let registers = Registers {
                            status,
                            ..Registers::default()
                        };
                        if rng.u8(..10) == 0 {
                            table.forget(ids[&number]);
                            map.remove(&number);
                        } else {
                            table.done(now, ids[&number], registers);
                            map.insert(number, (Some(now), status));
                        }
                    }
                    _ => again += 1,
                }
            }
            assert!(
                full > 100 && moves > 100 && again > 1000,
                "{full} {moves} {again}"
            );
        }
    }
}
