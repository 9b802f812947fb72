//! Sessions of one target (S5): who attached, with which life of which shard, and what has become void.
//!
//! Numbers are handed out in order, each in the place that its remainder names, so that a number is found without a search.
//! A place rests for a frame lifetime after its session ended: the number is not handed out again while copies under it may
//! be on their way, and the late copy of an ended life's attach is known for what it is.

use core::time::Duration;
use std::collections::VecDeque;

use sandrail_wire::MacAddr;
use sandrail_wire::aoe::{Birth, Session};

use crate::time::Instant;

/// The most MACs of one session: the paths of a shard.
const MACS_MAX: usize = 8;
/// The most MACs that an attach may list: eight interfaces of each of sixteen shards.
pub(super) const STATIONS_MAX: usize = 128;
/// A session that was not used for so long gives its place to others when few are left. Nobody says that a process has ended, and
/// whoever lives attaches again and has lost nothing.
const IDLE: Duration = Duration::from_secs(600);
/// Lives whose sessions ended so that are remembered: they can be fenced still.
const RETIRED_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Open,
    /// Ended at this moment, by another life of one of its MACs or by a fence; the rest says by whom it was had.
    Void {
        at: Instant,
        superseded: bool,
    },
}

#[derive(Clone, Debug)]
struct Place {
    state: State,
    session: Session,
    incarnation: u64,
    shard: u8,
    birth: Birth,
    macs: [Option<MacAddr>; MACS_MAX],
    /// All MACs of the process that it is of, as far as its attaches have told, in order; those above included.
    stations: Vec<MacAddr>,
    /// When a request under it was last seen, or the attach.
    used: Instant,
}

/// What an attach comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attach {
    /// The session it has already; the MAC belongs to it now.
    Known(Session),
    /// A new one.
    Opened(Session),
    /// A late copy: this life of the MAC has been followed by another.
    Superseded,
    /// No place, no number or no room for a further MAC.
    Full,
    /// The next numbers are not durable yet.
    NotDurable,
}

/// A life of an initiator's shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attacher {
    pub(super) mac: MacAddr,
    pub(super) incarnation: u64,
    pub(super) shard: u8,
    /// Which life of its MACs it is, if it knows.
    pub(super) birth: Birth,
    /// All MACs of its process, in order, `mac` included.
    pub(super) stations: Vec<MacAddr>,
}

impl Attacher {
    /// Who attaches with `mac`, and lists `others`.
    pub(super) fn new(
        mac: MacAddr,
        incarnation: u64,
        shard: u8,
        birth: Birth,
        others: impl Iterator<Item = MacAddr>,
    ) -> Self {
        let mut stations: Vec<MacAddr> = others.chain([mac]).collect();
        stations.sort_unstable();
        stations.dedup();
        Self {
            mac,
            incarnation,
            shard,
            birth,
            stations,
        }
    }

    /// Whether a session is another life's of the same stations: one MAC in common is enough.
    fn succeeds(&self, place: &Place) -> bool {
        place.incarnation != self.incarnation && self.meets(place)
    }

    /// Whether a session is, or was, a younger life's.
    fn is_older(&self, place: &Place) -> bool {
        self.birth.is_some() && place.birth > self.birth && self.succeeds(place)
    }

    fn meets(&self, place: &Place) -> bool {
        let ours = |mac: &MacAddr| self.stations.binary_search(mac).is_ok();
        place.stations.iter().any(ours)
    }
}

/// The sessions of one target.
#[derive(Debug)]
pub(super) struct Sessions {
    places: Box<[Place]>,
    lifetime: Duration,
    next: u16,
    /// Numbers from `next` up to this one may be handed out: a restart begins there.
    durable_until: u16,
    /// MACs with lives that were idle for too long, the oldest first.
    retired: VecDeque<(MacAddr, u64)>,
}

impl Sessions {
    /// Room for as many as `places`, rounded up to a power of two. `next` is the first number that was never handed out.
    pub(super) fn new(places: u16, lifetime: Duration, next: u16) -> Self {
        let free = Place {
            state: State::Free,
            session: Session::NONE,
            incarnation: 0,
            shard: 0,
            birth: Birth::NONE,
            macs: [None; MACS_MAX],
            stations: Vec::new(),
            used: Instant::ZERO,
        };
        Self {
            places: vec![free; usize::from(places).next_power_of_two()].into(),
            lifetime,
            next,
            durable_until: next,
            retired: VecDeque::new(),
        }
    }

    fn place_of(&self, session: Session) -> usize {
        usize::from(session.0) & (self.places.len() - 1)
    }

    /// Whether `session` is open and `mac` belongs to it.
    #[inline]
    pub(super) fn is_valid(&self, session: Session, mac: MacAddr) -> bool {
        let place = &self.places[self.place_of(session)];
        session.is_some()
            && place.session == session
            && place.state == State::Open
            && place.macs.contains(&Some(mac))
    }

    /// The same of a request that is here, which keeps the session from passing for one that nobody needs.
    #[inline]
    pub(super) fn admits(&mut self, now: Instant, session: Session, mac: MacAddr) -> bool {
        let is_valid = self.is_valid(session, mac);
        if is_valid {
            let place = self.place_of(session);
            self.places[place].used = now;
        }
        is_valid
    }

    /// The session that was not used for longest, if that is long, and less than an eighth of the places is left for others.
    pub(super) fn superfluous(&self, now: Instant) -> Option<Session> {
        let open = |place: &&Place| place.state == State::Open;
        if self.open_count() * 8 < self.places.len() * 7 {
            return None;
        }
        let oldest = self
            .places
            .iter()
            .filter(open)
            .min_by_key(|place| place.used)?;
        (oldest.used + IDLE <= now).then_some(oldest.session)
    }

    /// Ends a session that nobody needs.
    pub(super) fn retire(&mut self, now: Instant, session: Session) {
        let place = self.place_of(session);
        let place = &mut self.places[place];
        place.state = State::Void {
            at: now,
            superseded: false,
        };
        for mac in place.macs.iter().flatten() {
            if self.retired.len() == RETIRED_MAX {
                self.retired.pop_front();
            }
            self.retired.push_back((*mac, place.incarnation));
        }
    }

    /// Lives that are known and have no session any more: whoever is fenced now may be one of them.
    pub(super) fn former_lives(&self) -> impl Iterator<Item = (MacAddr, u64)> {
        let void = |place: &&Place| matches!(place.state, State::Void { .. });
        let lives = |place: &Place| {
            let incarnation = place.incarnation;
            let macs = place.macs.into_iter().flatten();
            macs.map(move |mac| (mac, incarnation))
        };
        let void = self.places.iter().filter(void).flat_map(lives);
        self.retired.iter().copied().chain(void)
    }

    /// Numbers that may be handed out before more must be made durable.
    pub(super) const fn numbers_left(&self) -> u16 {
        self.durable_until.wrapping_sub(self.next)
    }

    /// Where a restart would have to begin if `block` more numbers were made durable.
    pub(super) const fn bound_after(&self, block: u16) -> u16 {
        self.next.wrapping_add(block)
    }

    /// A state with that bound is durable.
    pub(super) const fn set_durable_until(&mut self, bound: u16) {
        self.durable_until = bound;
    }

    /// An attach. Sessions of other lives of the MAC must have been ended before.
    pub(super) fn attach(&mut self, now: Instant, who: &Attacher) -> Attach {
        if self.is_superseded(now, who) {
            return Attach::Superseded;
        }
        let same = |place: &&mut Place| {
            place.state == State::Open
                && place.incarnation == who.incarnation
                && place.shard == who.shard
        };
        if let Some(place) = self.places.iter_mut().find(same) {
            place.used = now;
            place.birth = who.birth;
            if place.stations != who.stations {
                place.stations.extend(&who.stations);
                place.stations.sort_unstable();
                place.stations.dedup();
            }
            if place.macs.contains(&Some(who.mac)) {
                return Attach::Known(place.session);
            }
            let Some(free) = place.macs.iter_mut().find(|mac| mac.is_none()) else {
                return Attach::Full;
            };
            *free = Some(who.mac);
            return Attach::Known(place.session);
        }
        self.open(now, who)
    }

    /// Whether a younger life of one of its MACs is known, or this one was ended, less than a lifetime ago, by any other: of those who
    /// name no birth the first to come is taken for the older.
    pub(super) fn is_superseded(&self, now: Instant, who: &Attacher) -> bool {
        self.places.iter().any(|place| {
            who.is_older(place) || matches!(place.state, State::Void { at, superseded: true } if now < at + self.lifetime)
                && place.incarnation == who.incarnation
                && who.meets(place)
        })
    }

    fn open(&mut self, now: Instant, who: &Attacher) -> Attach {
        for _ in 0..self.places.len() {
            if self.numbers_left() == 0 {
                return Attach::NotDurable;
            }
            let session = Session(self.next);
            let number = self.place_of(session);
            let rests = match self.places[number].state {
                State::Free => false,
                State::Open => true,
                State::Void { at, .. } => now < at + self.lifetime,
            };
            self.next = self.next.wrapping_add(1);
            if rests || !session.is_some() {
                continue;
            }
            let mut macs = [None; MACS_MAX];
            macs[0] = Some(who.mac);
            self.places[number] = Place {
                state: State::Open,
                session,
                incarnation: who.incarnation,
                shard: who.shard,
                birth: who.birth,
                macs,
                stations: who.stations.clone(),
                used: now,
            };
            return Attach::Opened(session);
        }
        Attach::Full
    }

    /// Ends every session of another life of one of the attacher's MACs (S5), and tells which.
    pub(super) fn end_other_lives(&mut self, now: Instant, who: &Attacher) -> Vec<Session> {
        let mut ended = Vec::new();
        for place in self.places.iter_mut() {
            if place.state == State::Open && who.succeeds(place) {
                place.state = State::Void {
                    at: now,
                    superseded: true,
                };
                ended.push(place.session);
            }
        }
        ended
    }

    /// Ends every session that `ends` names by a MAC that it was used with, and tells of each MAC named.
    pub(super) fn end(
        &mut self,
        now: Instant,
        ends: impl Fn(MacAddr) -> bool,
        mut ended: impl FnMut(Session, MacAddr, u64),
    ) {
        for place in self.places.iter_mut() {
            if place.state != State::Open {
                continue;
            }
            for mac in place.macs.iter().flatten() {
                if ends(*mac) {
                    place.state = State::Void {
                        at: now,
                        superseded: false,
                    };
                    ended(place.session, *mac, place.incarnation);
                }
            }
        }
    }

    /// How many are open.
    pub(super) fn open_count(&self) -> usize {
        let open = |place: &&Place| place.state == State::Open;
        self.places.iter().filter(open).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(2);
    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn who(mac: MacAddr, incarnation: u64, shard: u8) -> Attacher {
        Attacher::new(mac, incarnation, shard, Birth::NONE, core::iter::empty())
    }

    fn sessions(places: u16, next: u16) -> Sessions {
        let mut sessions = Sessions::new(places, LIFETIME, next);
        sessions.set_durable_until(next.wrapping_add(100));
        sessions
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn one_session_for_each_shard_of_a_life_whatever_the_path() {
        let mut sessions = sessions(4, 10);
        assert_eq!(
            sessions.attach(at(0), &who(A, 7, 0)),
            Attach::Opened(Session(10))
        );
        assert_eq!(
            sessions.attach(at(0), &who(A, 7, 1)),
            Attach::Opened(Session(11))
        );
        assert_eq!(
            sessions.attach(at(0), &who(A, 7, 0)),
            Attach::Known(Session(10))
        );
        assert!(!sessions.is_valid(Session(10), B));
        assert_eq!(
            sessions.attach(at(0), &who(B, 7, 0)),
            Attach::Known(Session(10))
        );
        assert!(sessions.is_valid(Session(10), B) && sessions.is_valid(Session(10), A));
        assert!(!sessions.is_valid(Session(11), B));
        for other in [0, 9, 12, 14, 6] {
            assert!(!sessions.is_valid(Session(other), A), "{other}");
        }
        for mac in 3..9 {
            let mac = MacAddr([2, 0, 0, 0, 0, mac]);
            assert_eq!(
                sessions.attach(at(0), &who(mac, 7, 0)),
                Attach::Known(Session(10))
            );
        }
        let ninth = MacAddr([2, 0, 0, 0, 0, 9]);
        assert_eq!(sessions.attach(at(0), &who(ninth, 7, 0)), Attach::Full);
        assert_eq!(sessions.open_count(), 2);
    }

    #[test]
    fn an_ended_session_is_void_and_its_number_rests() {
        let mut sessions = sessions(2, u16::MAX);
        assert_eq!(
            sessions.attach(at(0), &who(A, 7, 0)),
            Attach::Opened(Session(u16::MAX))
        );
        assert!(sessions.end_other_lives(at(5), &who(A, 7, 3)).is_empty());
        assert!(sessions.end_other_lives(at(5), &who(B, 8, 0)).is_empty());
        let ended = sessions.end_other_lives(at(5), &who(A, 8, 0));
        assert_eq!(ended, [Session(u16::MAX)]);
        assert!(!sessions.is_valid(Session(u16::MAX), A));
        // 0 is no session's number, and 1 would lie in the place that rests.
        assert_eq!(sessions.attach(at(6), &who(A, 8, 0)), Attach::Full);
        assert_eq!(
            sessions.attach(at(6), &who(A, 8, 0)),
            Attach::Opened(Session(2))
        );
        // A late copy of the ended life's attach yields nothing; a lifetime later there is none.
        assert_eq!(sessions.attach(at(7), &who(A, 7, 0)), Attach::Superseded);
        assert_eq!(sessions.attach(at(7), &who(A, 7, 3)), Attach::Superseded);
        assert!(sessions.is_superseded(at(2004), &who(A, 7, 0)));
        assert!(!sessions.is_superseded(at(2005), &who(A, 7, 0)));
        assert_eq!(
            sessions.attach(at(2005), &who(B, 9, 0)),
            Attach::Opened(Session(3))
        );
    }

    #[test]
    fn numbers_are_handed_out_when_they_are_durable() {
        let mut sessions = Sessions::new(8, LIFETIME, 40);
        assert_eq!(sessions.attach(at(0), &who(A, 7, 0)), Attach::NotDurable);
        assert_eq!(sessions.bound_after(2), 42);
        sessions.set_durable_until(42);
        assert_eq!(sessions.numbers_left(), 2);
        for shard in 0..2 {
            assert_eq!(
                sessions.attach(at(0), &who(A, 7, shard)),
                Attach::Opened(Session(40 + u16::from(shard)))
            );
        }
        assert_eq!(sessions.attach(at(0), &who(A, 7, 2)), Attach::NotDurable);
        assert_eq!(
            sessions.attach(at(0), &who(A, 7, 1)),
            Attach::Known(Session(41))
        );
    }
}
