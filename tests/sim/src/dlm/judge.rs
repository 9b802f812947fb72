//! The judge: who holds what, by what clients called and were told, and by nothing else.
//!
//! A lock is *held* from the moment its client was told so until the client gives it back, or its node dies or loses its
//! lease. While a conversion is under way the client can't know which of two modes it has, so what could be either is
//! judged leniently: two exclude each other only if every mode that one may have excludes every mode of the other.

use std::collections::{BTreeMap, BTreeSet};

use super::call::{Call, Flags, Life, LockId, Mode, Resource, Told, Txn, Value, Why};
use super::values::Block;
use super::violation::{Promise, Violation};
use super::waits::{Waits, overdue_deadlock};

/// What is agreed about waiting.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Nothing goes wrong in this run: what trouble excuses is not excused.
    pub calm: bool,
    /// Readers in CR, CW and NL, beside whom others may write, may see an older value than the last, or none.
    pub weak_values: bool,
    /// How often a request may be overtaken by later ones that exclude it.
    pub overtaken_max: u32,
    /// The longest that a request may wait once all is well and everybody gives back what they hold, in nanoseconds.
    pub patience_ns: u64,
    /// The longest that a deadlock may last while all is well, in nanoseconds.
    pub deadlock_ns: u64,
    /// How far requests may overtake each other on their way, in nanoseconds.
    pub slack_ns: u64,
}

/// What a judge counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests begun.
    pub requests: u64,
    /// Locks and conversions granted.
    pub grants: u64,
    /// Those that were converted.
    pub conversions: u64,
    /// Requests that were not to wait and would have.
    pub would_block: u64,
    /// Requests that waited too long.
    pub timed_out: u64,
    /// Requests cancelled.
    pub cancelled: u64,
    /// Victims of deadlocks.
    pub victims: u64,
    /// Conversions that lost their lock meanwhile.
    pub demotions: u64,
    /// Requests for which there was no room.
    pub full: u64,
    /// Value blocks read that were valid.
    pub values_valid: u64,
    /// Value blocks read that were invalid.
    pub values_invalid: u64,
    /// Locks of dead writers.
    pub retained: u64,
    /// Groups of transactions that waited for each other.
    pub knots: u64,
    /// The most often that one was overtaken.
    pub overtaken_most: u64,
    /// The longest wait that ended, in nanoseconds.
    pub wait_most_ns: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.requests, other.requests),
            (&mut self.grants, other.grants),
            (&mut self.conversions, other.conversions),
            (&mut self.would_block, other.would_block),
            (&mut self.timed_out, other.timed_out),
            (&mut self.cancelled, other.cancelled),
            (&mut self.victims, other.victims),
            (&mut self.demotions, other.demotions),
            (&mut self.full, other.full),
            (&mut self.values_valid, other.values_valid),
            (&mut self.values_invalid, other.values_invalid),
            (&mut self.retained, other.retained),
            (&mut self.knots, other.knots),
        ] {
            *sum += part;
        }
        self.overtaken_most = self.overtaken_most.max(other.overtaken_most);
        self.wait_most_ns = self.wait_most_ns.max(other.wait_most_ns);
    }
}

/// Whose lock.
pub(super) type Key = (Life, LockId);

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) mode: Mode,
    pub(super) flags: Flags,
    pub(super) since_ns: u64,
    /// Since when its node has had requests for the resource without a pause: it may have inherited the place of an
    /// earlier one in the queue.
    pub(super) seat_ns: u64,
    /// Its node had other locks of the resource: it may have queued there for a while before it queued with the others.
    pub(super) is_crowded: bool,
    pub(super) order: u64,
    pub(super) cancelled: bool,
    pub(super) overtaken: u32,
}

/// A lock of a client's.
#[derive(Clone, Debug)]
pub(super) struct Lock {
    pub(super) resource: Resource,
    pub(super) txn: Txn,
    pub(super) held: Option<Mode>,
    pub(super) pending: Option<Pending>,
    /// Its client has given it back.
    closing: bool,
}

impl Lock {
    /// The modes that it may have now; none if it is certainly not held.
    pub(super) fn modes(&self) -> Vec<Mode> {
        let mut modes = Vec::from_iter(self.held);
        if let (Some(_), Some(pending)) = (self.held, &self.pending) {
            modes.push(pending.mode);
            let also = [
                (pending.flags.convdeadlk, Mode::Nl),
                (pending.flags.altpr, Mode::Pr),
                (pending.flags.altcw, Mode::Cw),
            ];
            modes.extend(also.iter().filter(|(may, _)| *may).map(|(_, mode)| *mode));
        }
        modes
    }
}

/// Whether two exclude each other, whatever modes they have.
pub(super) fn surely_exclude(one: &[Mode], other: &[Mode]) -> bool {
    !one.is_empty()
        && !other.is_empty()
        && one
            .iter()
            .all(|one| other.iter().all(|other| !one.is_beside(*other)))
}

/// The highest number that was granted in a mode, and to whom.
type Highest = Option<(u64, Life)>;

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) locks: BTreeSet<Key>,
    retained: Vec<(Life, Vec<Mode>)>,
    highest: [Highest; 6],
    block: Block,
}

/// The judge.
#[derive(Debug)]
pub struct Judge {
    rules: Rules,
    pub(super) locks: BTreeMap<Key, Lock>,
    pub(super) entries: BTreeMap<Resource, Entry>,
    dead: BTreeSet<Life>,
    waits: Waits,
    order: u64,
    /// Since when all has been well.
    well_since_ns: u64,
    counts: Counts,
}

fn found(promise: Promise, text: String) -> Result<(), Violation> {
    Err(Violation::new(promise, text))
}

impl Judge {
    /// A judge who has seen nothing.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            locks: BTreeMap::new(),
            entries: BTreeMap::new(),
            dead: BTreeSet::new(),
            waits: Waits::default(),
            order: 0,
            well_since_ns: 0,
            counts: Counts::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        counts.knots = self.waits.knots();
        counts
    }

    /// Requests that wait.
    #[must_use]
    pub fn pending(&self) -> usize {
        let waits = |lock: &&Lock| lock.pending.is_some() || lock.closing;
        self.locks.values().filter(waits).count()
    }

    /// Locks of the dead whose logs are not replayed.
    #[must_use]
    pub fn retained(&self) -> usize {
        let entries = self.entries.values();
        entries.map(|entry| entry.retained.len()).sum()
    }

    /// A client calls, and its node has accepted it.
    pub fn called(&mut self, now_ns: u64, who: Life, call: &Call) {
        if self.dead.contains(&who) {
            return;
        }
        let key = (who, call.lock());
        self.order += 1;
        let resource = match *call {
            Call::Lock { resource, .. } => Some(resource),
            _ => self.locks.get(&key).map(|lock| lock.resource),
        };
        let seat_ns = self.seat(who, resource).unwrap_or(now_ns);
        let is_crowded = resource
            .and_then(|resource| self.entries.get(&resource))
            .is_some_and(|entry| {
                entry
                    .locks
                    .iter()
                    .any(|other| other.0 == who && *other != key)
            });
        let pending = |mode, flags| Pending {
            mode,
            flags,
            since_ns: now_ns,
            seat_ns,
            is_crowded,
            order: self.order,
            cancelled: false,
            overtaken: 0,
        };
        match *call {
            Call::Lock {
                resource,
                mode,
                flags,
                txn,
                ..
            } => {
                let lock = Lock {
                    resource,
                    txn,
                    held: None,
                    pending: Some(pending(mode, flags)),
                    closing: false,
                };
                assert!(
                    self.locks.insert(key, lock).is_none(),
                    "a client's lock id is used twice"
                );
                self.entries.entry(resource).or_default().locks.insert(key);
                self.begun(txn);
            }
            Call::Convert {
                mode, flags, value, ..
            } => {
                let lock = self
                    .locks
                    .get_mut(&key)
                    .expect("clients convert what they hold");
                lock.pending = Some(pending(mode, flags));
                let (resource, txn) = (lock.resource, lock.txn);
                if let Some(stamp) = value {
                    self.entries
                        .entry(resource)
                        .or_default()
                        .block
                        .written(now_ns, stamp);
                }
                self.begun(txn);
            }
            Call::Unlock { value, .. } => {
                let lock = self
                    .locks
                    .get_mut(&key)
                    .expect("clients unlock what they hold");
                lock.closing = true;
                lock.held = None;
                let resource = lock.resource;
                let entry = self.entries.entry(resource).or_default();
                if let Some(stamp) = value {
                    entry.block.written(now_ns, stamp);
                }
                self.note_unheld(resource);
            }
            Call::Cancel { .. } => {
                if let Some(pending) = self
                    .locks
                    .get_mut(&key)
                    .and_then(|lock| lock.pending.as_mut())
                {
                    pending.cancelled = true;
                }
            }
        }
    }

    /// Since when a node has waited for a resource.
    fn seat(&self, who: Life, resource: Option<Resource>) -> Option<u64> {
        let entry = self.entries.get(&resource?)?;
        let waiting = entry.locks.iter().filter(|key| key.0 == who);
        let pending = waiting.filter_map(|key| self.locks.get(key)?.pending.as_ref());
        pending.map(|pending| pending.seat_ns).min()
    }

    fn begun(&mut self, txn: Txn) {
        self.counts.requests += 1;
        self.look_for_knots(txn);
    }

    /// Only who waits can be in a knot.
    fn look_for_knots(&mut self, txn: Txn) {
        let waits_for_any = |lock: &Lock| lock.txn == txn && lock.pending.is_some();
        if !self.locks.values().any(waits_for_any) {
            return;
        }
        let mut waits = core::mem::take(&mut self.waits);
        waits.changed(self, txn, self.rules.slack_ns, self.well_since_ns);
        self.waits = waits;
    }

    fn note_unheld(&mut self, resource: Resource) {
        if let Some(entry) = self.entries.get_mut(&resource) {
            let held = entry
                .locks
                .iter()
                .any(|key| self.locks.get(key).is_some_and(|lock| lock.held.is_some()));
            if !held {
                entry.block.unheld();
            }
        }
    }

    /// A node tells its client something.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn told(&mut self, now_ns: u64, who: Life, told: &Told) -> Result<(), Violation> {
        if self.dead.contains(&who) {
            return Ok(());
        }
        let key = (who, told.lock());
        let Some(lock) = self.locks.get(&key) else {
            if matches!(told, Told::Blocking { .. }) {
                return Ok(());
            }
            return found(
                Promise::Completion,
                format!("{who} is told {told:?} of a lock that has ended"),
            );
        };
        match told {
            Told::Blocking { .. } => Ok(()),
            Told::Unlocked { .. } if lock.closing => {
                self.remove(key);
                Ok(())
            }
            Told::Unlocked { .. } => found(
                Promise::Completion,
                format!("{who} is told {told:?}, and did not unlock"),
            ),
            Told::Denied { why, held, .. } => self.denied(now_ns, key, why, *held),
            Told::Granted {
                mode,
                number,
                value,
                demoted,
                ..
            } => self.granted(now_ns, key, *mode, *number, *value, *demoted),
        }
    }

    /// Ends the request of a lock.
    fn end(&mut self, now_ns: u64, key: Key, what: &str) -> Result<Pending, Violation> {
        let pending = self
            .locks
            .get_mut(&key)
            .and_then(|lock| lock.pending.take());
        let pending = pending.ok_or_else(|| {
            let text = format!(
                "{} is told of {:?}: {what}, and asked nothing",
                key.0, key.1
            );
            Violation::new(Promise::Completion, text)
        })?;
        let wait_ns = now_ns - pending.since_ns;
        self.counts.wait_most_ns = self.counts.wait_most_ns.max(wait_ns);
        Ok(pending)
    }

    fn denied(
        &mut self,
        now_ns: u64,
        key: Key,
        why: &Why,
        held: Option<Mode>,
    ) -> Result<(), Violation> {
        if let Why::Deadlock(_) = why {
            // What delayed the others may have closed the circle without a call of theirs.
            self.look_for_knots(self.locks[&key].txn);
        }
        let pending = self.end(now_ns, key, "denied")?;
        let lock = self.locks[&key].clone();
        let waited_ns = now_ns - pending.since_ns;
        let flags = pending.flags;
        let (counter, has_reason) = match why {
            Why::WouldBlock => (&mut self.counts.would_block, flags.noqueue),
            Why::TimedOut => (
                &mut self.counts.timed_out,
                flags.timeout_ns.is_some_and(|limit| waited_ns >= limit),
            ),
            Why::Cancelled => (&mut self.counts.cancelled, pending.cancelled),
            Why::Deadlock(_) => (&mut self.counts.victims, !flags.noqueue),
            Why::Full => (&mut self.counts.full, true),
        };
        *counter += 1;
        let (who, id) = key;
        if !has_reason {
            let text =
                format!("{who}: {id:?} is denied for {why:?} after {waited_ns} ns: {pending:?}");
            return found(Promise::Completion, text);
        }
        let lost = flags.convdeadlk && held == Some(Mode::Nl);
        if held != lock.held && !lost {
            let text = format!(
                "{who}: {id:?} is denied for {why:?}; it had {:?} and has {held:?} now",
                lock.held
            );
            return found(Promise::Completion, text);
        }
        if lost {
            self.counts.demotions += 1;
        }
        if let Some(lock) = self.locks.get_mut(&key) {
            lock.held = held;
        }
        if held.is_none() {
            self.remove(key);
        }
        if let Why::Deadlock(members) = why {
            return self.waits.victim(lock.txn, members, !self.rules.calm);
        }
        Ok(())
    }

    fn granted(
        &mut self,
        now_ns: u64,
        key: Key,
        mode: Mode,
        number: u64,
        value: Value,
        demoted: bool,
    ) -> Result<(), Violation> {
        let (who, id) = key;
        let pending = self.end(now_ns, key, "granted")?;
        let flags = pending.flags;
        let fits = mode == pending.mode
            || (flags.altpr && mode == Mode::Pr)
            || (flags.altcw && mode == Mode::Cw);
        if !fits || (demoted && !flags.convdeadlk) {
            let text =
                format!("{who}: {id:?} is granted in {mode:?}, demoted: {demoted}: {pending:?}");
            return found(Promise::Completion, text);
        }
        let Some(lock) = self.locks.get_mut(&key) else {
            return Ok(());
        };
        let before = lock.held.replace(mode);
        let (resource, txn) = (lock.resource, lock.txn);
        self.counts.grants += 1;
        self.counts.conversions += u64::from(before.is_some());
        self.counts.demotions += u64::from(demoted);
        self.check_exclusion(key, resource, mode)?;
        self.check_number(key, resource, mode, number)?;
        if demoted || before.is_none_or(|before| before < mode) {
            self.check_value(now_ns, key, resource, mode, &pending, value)?;
        }
        self.check_overtaken(now_ns, resource, mode, &pending, before.is_some())?;
        self.look_for_knots(txn);
        Ok(())
    }

    fn check_exclusion(&self, key: Key, resource: Resource, mode: Mode) -> Result<(), Violation> {
        let entry = &self.entries[&resource];
        let (who, id) = key;
        for other in entry.locks.iter().filter(|other| **other != key) {
            let modes = self.locks.get(other).map(Lock::modes).unwrap_or_default();
            if surely_exclude(&[mode], &modes) {
                let text = format!(
                    "{who}: {id:?} holds {resource:?} in {mode:?}, and {}: {:?} has it in {modes:?}",
                    other.0, other.1
                );
                return found(Promise::Exclusion, text);
            }
        }
        for (dead, modes) in &entry.retained {
            if surely_exclude(&[mode], modes) {
                let text = format!(
                    "{who}: {id:?} holds {resource:?} in {mode:?}, and {dead} died with {modes:?}; its log is not replayed"
                );
                return found(Promise::Retained, text);
            }
        }
        Ok(())
    }

    /// Whoever could have held it at the same time needs no order; against all others numbers rise. A node may grant
    /// its own clients again what it kept.
    fn check_number(
        &mut self,
        key: Key,
        resource: Resource,
        mode: Mode,
        number: u64,
    ) -> Result<(), Violation> {
        let (who, id) = key;
        let highest = &mut self.entries.entry(resource).or_default().highest;
        for other in Mode::ALL.iter().filter(|other| !mode.is_beside(**other)) {
            if let Some((past, whose)) = highest[*other as usize]
                && (number < past || (number == past && whose != who))
            {
                let text = format!(
                    "{who}: {id:?} has {resource:?} in {mode:?} by number {number:#x}; {whose} had it in {other:?} by {past:#x} before"
                );
                return found(Promise::GrantNumber, text);
            }
        }
        let mine = &mut highest[mode as usize];
        if mine.is_none_or(|(past, _)| past < number) {
            *mine = Some((number, who));
        }
        Ok(())
    }

    fn check_value(
        &mut self,
        now_ns: u64,
        key: Key,
        resource: Resource,
        mode: Mode,
        pending: &Pending,
        value: Value,
    ) -> Result<(), Violation> {
        match value {
            Value::Valid(_) => self.counts.values_valid += 1,
            Value::Invalid => self.counts.values_invalid += 1,
            Value::Garbage | Value::Untold => {}
        }
        // Who excludes writers reads what the last one wrote. Others read what was the last at some time since they asked;
        // a write counts from its call, and is under way for a while.
        let lags = (self.rules.weak_values || !self.rules.calm) && !mode.freezes_value();
        let since_ns = if mode.freezes_value() {
            now_ns
        } else {
            pending.since_ns.saturating_sub(2 * self.rules.slack_ns)
        };
        let excused = !self.rules.calm || lags;
        let block = &self.entries.entry(resource).or_default().block;
        block.check(value, since_ns, lags, excused).map_err(|text| {
            let (who, id) = key;
            let text =
                format!("{who}: {id:?} has {resource:?} in {mode:?} and reads {value:?}: {text}");
            Violation::new(Promise::Value, text)
        })
    }

    /// Whoever waits for longer than its request may be on its way, and the notice that follows from it, is overtaken a
    /// limited number of times by who asked later.
    fn check_overtaken(
        &mut self,
        now_ns: u64,
        resource: Resource,
        mode: Mode,
        pending: &Pending,
        converted: bool,
    ) -> Result<(), Violation> {
        if converted || pending.flags.headque || pending.flags.expedite {
            return Ok(());
        }
        let entry = &self.entries[&resource];
        for key in &entry.locks {
            let Some(lock) = self.locks.get_mut(key) else {
                continue;
            };
            let Some(waiting) = &mut lock.pending else {
                continue;
            };
            if now_ns < waiting.since_ns.max(self.well_since_ns) + 4 * self.rules.slack_ns {
                continue;
            }
            if lock.held.is_none() && waiting.order < pending.order && !waiting.mode.is_beside(mode)
            {
                waiting.overtaken += 1;
                let most = &mut self.counts.overtaken_most;
                *most = (*most).max(u64::from(waiting.overtaken));
                if waiting.overtaken > self.rules.overtaken_max {
                    let text = format!(
                        "{}: {:?} has been overtaken {} times on {resource:?}: {waiting:?}",
                        key.0, key.1, waiting.overtaken
                    );
                    return found(Promise::Fairness, text);
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: Key) {
        if let Some(lock) = self.locks.remove(&key) {
            let entry = self.entries.entry(lock.resource).or_default();
            entry.locks.remove(&key);
            self.note_unheld(lock.resource);
        }
    }

    /// A node has died, or its lease has ended: it holds nothing any more.
    pub fn died(&mut self, now_ns: u64, who: Life) {
        if !self.dead.insert(who) {
            return;
        }
        let keys: Vec<Key> = self
            .locks
            .keys()
            .filter(|key| key.0 == who)
            .copied()
            .collect();
        for key in keys {
            let modes = self.locks[&key].modes();
            let resource = self.locks[&key].resource;
            let entry = self.entries.entry(resource).or_default();
            if !modes.is_empty() && modes.iter().all(|mode| mode.writes()) {
                entry.retained.push((who, modes.clone()));
                self.counts.retained += 1;
            }
            if !modes.is_empty() && modes.iter().all(|mode| mode.writes_value()) {
                entry.block.lost(now_ns);
            }
            self.remove(key);
        }
        self.disturbed(now_ns);
    }

    /// The log of a dead life has been replayed.
    pub fn replayed(&mut self, dead: Life) {
        for entry in self.entries.values_mut() {
            entry.retained.retain(|(life, _)| *life != dead);
        }
    }

    /// Something happened that may delay everybody and change the order of those who wait.
    pub fn disturbed(&mut self, now_ns: u64) {
        self.well_since_ns = now_ns;
        for lock in self.locks.values_mut() {
            if let Some(pending) = &mut lock.pending {
                pending.overtaken = 0;
            }
        }
    }

    /// Looks at those who wait.
    ///
    /// # Errors
    /// If somebody has waited too long.
    pub fn review(&mut self, now_ns: u64) -> Result<(), Violation> {
        let mut waits = core::mem::take(&mut self.waits);
        let result = overdue_deadlock(
            &mut waits,
            self,
            now_ns,
            self.well_since_ns,
            self.rules.deadlock_ns,
        );
        self.waits = waits;
        result?;
        for (key, lock) in &self.locks {
            if let Some(pending) = &lock.pending {
                let waited_ns = now_ns - pending.since_ns.max(self.well_since_ns);
                if waited_ns > self.rules.patience_ns {
                    let promise = if self.waits.is_in_knot(self, &self.rules, lock.txn) {
                        Promise::Deadlock
                    } else {
                        Promise::Stuck
                    };
                    let text = format!(
                        "{}: {:?} of {:?} has waited {waited_ns} ns while all was well: {lock:?}; with it: {}",
                        key.0,
                        key.1,
                        lock.resource,
                        self.at(lock.resource)
                    );
                    return found(promise, text);
                }
            }
        }
        Ok(())
    }

    /// The locks of a resource, in words.
    #[must_use]
    pub fn at(&self, resource: Resource) -> String {
        let Some(entry) = self.entries.get(&resource) else {
            return String::new();
        };
        let mut text = String::new();
        for key in &entry.locks {
            let lock = &self.locks[key];
            let wanted = lock.pending.as_ref().map(|pending| pending.mode);
            text += &format!("{} {:?} {:?}->{wanted:?}; ", key.0, key.1, lock.held);
        }
        for (dead, modes) in &entry.retained {
            text += &format!("retained from {dead}: {modes:?}; ");
        }
        text
    }
}
