//! Commands under way, one a frame's worth of sectors, and their tags (S1).

use core::time::Duration;

use sandrail_wire::Tag;
use sandrail_wire::aoe::Session;

use super::config::COMMANDS_MAX;
use super::list::{Linked, Links, List, NONE};
use crate::time::Instant;

/// Copies of one command that tags can tell apart.
pub(super) const COPIES_MAX: u8 = 16;

const SLOT_BITS: u32 = COMMANDS_MAX.trailing_zeros();
const GENERATIONS: u16 = 1 << (24 - SLOT_BITS);

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Data of a request.
    Read,
    /// Data of a request; its copies must be accounted for.
    Write,
    /// FLUSH of a request.
    Flush,
    /// IDENTIFY of a request.
    Identify,
    /// Config, mask or reserve of a request that changes nothing.
    Query,
    /// The same, changing something: its copies must be accounted for like a WRITE's.
    Change,
    /// The initiator's own IDENTIFY, at the attach and after a restart.
    OwnIdentify,
    /// Config query to a broadcast address: who is there?
    Discover,
    /// Config query by broadcast for one address.
    Attach,
    /// Config query to one MAC: are you there, and is all before this done?
    Probe,
    /// Config query as long as a full WRITE.
    PayloadOut,
    /// READ as long as a full frame.
    PayloadIn,
    /// The initiator's request for a session.
    Session,
}

impl Kind {
    /// Whether a late copy does harm, so that S3 applies.
    pub(super) const fn is_closing(self) -> bool {
        matches!(self, Self::Write | Self::Change)
    }

    /// Whether a target with sessions takes it only with a valid one (S5).
    pub(super) const fn needs_session(self) -> bool {
        matches!(self, Self::Write | Self::Flush)
    }
}

/// Where a command is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// On the free list.
    Free,
    /// Sent, unanswered, on its path's `flying` list.
    Flying,
    /// Sent, unanswered, on its path's `slow` list: not data, so it may take its time without saying anything of the path.
    Slow,
    /// Taken for lost, on its path's `resend` list.
    Resend,
    /// Answered or given up; some copies of a WRITE are unaccounted for. On its path's `lingering` list.
    Lingering,
    /// The initiator's own query, on no list, with a timer elsewhere.
    Loose,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    links: Links,
    pub(super) state: State,
    pub(super) kind: Kind,
    generation: u16,
    /// Per half of the generations: when a copy with a tag of that half was sent last.
    half_sent_at: [Option<Instant>; 2],
    pub(super) target: u8,
    pub(super) path: u8,
    /// The request, or [`NONE`].
    pub(super) request: u16,
    /// First sector within the request.
    pub(super) offset: u32,
    pub(super) count: u16,
    pub(super) lba: u64,
    /// The session that all its copies carry, if it is one that needs one.
    pub(super) session: Session,
    /// Copies sent.
    pub(super) copies: u8,
    /// Which of them were answered.
    pub(super) answered: u16,
    pub(super) first_sent: Instant,
    pub(super) last_sent: Instant,
    /// When the last copy was known to have left the machine.
    pub(super) left_at: Option<Instant>,
    /// When a probe was first answered that the target had received after all copies (targets that work in parallel).
    pub(super) passed_at: Option<Instant>,
}

impl Linked for Command {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Command {
    const FREE: Self = Self {
        links: Links::UNLINKED,
        state: State::Free,
        kind: Kind::Probe,
        generation: 0,
        half_sent_at: [None; 2],
        target: 0,
        path: 0,
        request: NONE,
        offset: 0,
        count: 0,
        lba: 0,
        session: Session::NONE,
        copies: 0,
        answered: 0,
        first_sent: Instant::ZERO,
        last_sent: Instant::ZERO,
        left_at: None,
        passed_at: None,
    };

    pub(super) const fn generation(&self) -> u16 {
        self.generation
    }

    /// Whether every copy was answered.
    pub(super) const fn all_answered(&self) -> bool {
        self.answered.count_ones() == self.copies as u32
    }

    /// Notes that the next copy goes out now, and returns the copy's number.
    pub(super) fn stamp(&mut self, now: Instant) -> u8 {
        assert!(self.copies < COPIES_MAX, "a tag has 4 bits for the copy");
        let copy = self.copies;
        if copy == 0 {
            self.first_sent = now;
        }
        self.copies += 1;
        self.last_sent = now;
        self.left_at = None;
        self.half_sent_at[half(self.generation)] = Some(now);
        copy
    }
}

const fn half(generation: u16) -> usize {
    (generation >= GENERATIONS / 2) as usize
}

/// All commands of a shard.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) table: Vec<Command>,
    /// First in, first out: a slot's generations are used up as slowly as possible.
    free: List,
    /// Probes under way.
    probes: u16,
    shard: u8,
    /// How long no tag may come back: a frame's lifetime in the network, as long again for the time that a frame may wait in a
    /// transmit ring, which [`Command::half_sent_at`] does not know, and twice as long for a target that knows copies by their
    /// tags (S6): it would take another request for a copy.
    tag_rest: Duration,
}

impl Commands {
    pub(super) fn new(
        commands_max: u16,
        shard: u8,
        frame_lifetime: Duration,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let mut table = vec![Command::FREE; usize::from(commands_max)];
        let mut free = List::EMPTY;
        for slot in 0..commands_max {
            // A process that starts anew should not ask with the tags that its predecessor waits for.
            table[usize::from(slot)].generation = rng.u16(..GENERATIONS);
            free.push_back(&mut table, slot);
        }
        Self {
            table,
            free,
            probes: 0,
            shard,
            tag_rest: frame_lifetime * 4,
        }
    }

    pub(super) const fn free(&self) -> u16 {
        self.free.len()
    }

    pub(super) const fn probes(&self) -> u16 {
        self.probes
    }

    pub(super) fn get(&self, slot: u16) -> &Command {
        &self.table[usize::from(slot)]
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> &mut Command {
        &mut self.table[usize::from(slot)]
    }

    /// The tag of a copy.
    pub(super) fn tag(&self, slot: u16, copy: u8) -> Tag {
        let request = u32::from(self.get(slot).generation) << SLOT_BITS | u32::from(slot);
        Tag::new(self.shard, request, copy)
    }

    /// The live command that a tag names, with the copy: sent, and not over.
    pub(super) fn find(&self, tag: Tag) -> Option<(u16, u8)> {
        let slot = u16::try_from(tag.request() & u32::from(COMMANDS_MAX - 1)).ok()?;
        let generation = tag.request() >> SLOT_BITS;
        let command = self.table.get(usize::from(slot))?;
        let live = command.state != State::Free
            && u32::from(command.generation) == generation
            && tag.copy() < command.copies;
        live.then_some((slot, tag.copy()))
    }

    /// A fresh command with a tag that no frame alive can carry; `None` when there is none now.
    pub(super) fn allocate(&mut self, now: Instant, kind: Kind, state: State) -> Option<u16> {
        // A few tries: one slot that must rest does not stop the others.
        for _ in 0..self.free.len().min(8) {
            let slot = self.free.pop_front(&mut self.table)?;
            let command = &mut self.table[usize::from(slot)];
            let next = (command.generation + 1) % GENERATIONS;
            let entered = half(next) != half(command.generation);
            let rested = command.half_sent_at[half(next)]
                .is_none_or(|at| now.saturating_since(at) >= self.tag_rest);
            // Tag 0 belongs to advertisements.
            let is_zero = next == 0 && slot == 0 && self.shard == 0;
            if (entered && !rested) || is_zero {
                if is_zero {
                    command.generation = next;
                }
                self.free.push_back(&mut self.table, slot);
                continue;
            }
            *command = Command {
                generation: next,
                half_sent_at: command.half_sent_at,
                kind,
                state,
                ..Command::FREE
            };
            self.probes += u16::from(kind == Kind::Probe);
            return Some(slot);
        }
        None
    }

    /// Gives a command back that is on no list.
    pub(super) fn release(&mut self, slot: u16) {
        let command = self.get_mut(slot);
        assert_ne!(command.state, State::Free, "released twice");
        command.state = State::Free;
        let was_probe = command.kind == Kind::Probe;
        self.probes -= u16::from(was_probe);
        self.free.push_back(&mut self.table, slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(max: u16) -> Commands {
        Commands::new(
            max,
            3,
            Duration::from_secs(2),
            &mut fastrand::Rng::with_seed(1),
        )
    }

    /// S1: however fast commands come and go, a tag rests before it is used again, longer than a target knows copies by it.
    #[test]
    fn a_tag_rests_before_it_comes_back() {
        let mut commands = commands(2);
        let mut last_sent = std::collections::HashMap::new();
        let mut now = Instant::ZERO;
        let mut refused = 0;
        const ROUNDS: usize = 200_000;
        for _ in 0..ROUNDS {
            now = now + Duration::from_micros(100);
            let Some(slot) = commands.allocate(now, Kind::Read, State::Loose) else {
                refused += 1;
                continue;
            };
            let copy = commands.get_mut(slot).stamp(now);
            let tag = commands.tag(slot, copy);
            assert_eq!(commands.find(tag), Some((slot, copy)));
            if let Some(before) = last_sent.insert(tag.0, now) {
                assert!(
                    now.saturating_since(before) >= 4 * Duration::from_secs(2),
                    "{tag:?} came back too early"
                );
            }
            commands.release(slot);
            assert_eq!(commands.find(tag), None, "a late answer finds nothing");
        }
        assert!(refused > 0, "the test never reached the limit");
        assert!(last_sent.len() < ROUNDS - refused, "no tag ever came back");
    }

    #[test]
    fn an_answer_to_a_copy_never_sent_finds_nothing() {
        let mut commands = commands(128);
        let slot = commands
            .allocate(Instant::ZERO, Kind::Write, State::Loose)
            .unwrap();
        assert_eq!(commands.find(commands.tag(slot, 0)), None);
        commands.get_mut(slot).stamp(Instant::ZERO);
        assert_eq!(commands.find(commands.tag(slot, 0)), Some((slot, 0)));
        assert_eq!(commands.find(commands.tag(slot, 1)), None);
        assert!(!commands.get(slot).all_answered());
    }

    #[test]
    fn slots_beyond_the_table_find_nothing() {
        let commands = commands(128);
        assert_eq!(commands.find(Tag::new(3, 4095, 0)), None);
    }

    /// Tag 0 is what advertisements carry: no command of shard 0 has it.
    #[test]
    fn tag_zero_is_never_given() {
        let mut commands = Commands::new(
            1,
            0,
            Duration::from_millis(1),
            &mut fastrand::Rng::with_seed(1),
        );
        let mut now = Instant::ZERO;
        for _ in 0..u32::from(GENERATIONS) * 3 {
            now = now + Duration::from_millis(1);
            if let Some(slot) = commands.allocate(now, Kind::Read, State::Loose) {
                commands.get_mut(slot).stamp(now);
                assert_ne!(commands.tag(slot, 0).0, 0);
                commands.release(slot);
            }
        }
    }
}
