//! Who waits for whom, as far as calls and answers tell.
//!
//! Two graphs over transactions. The lenient one has every edge that there may be: holders whose mode may be in the way,
//! and requests that may be ahead in the queue. A group of transactions that reach each other in it is a *knot*; a
//! victim must have been in one, and a knot that is a mere circle has one victim. The strict graph has only edges that
//! there certainly are: a circle in it that lasts is a deadlock that nobody resolved.

use std::collections::{BTreeMap, BTreeSet};

use super::call::{Mode, Txn};
use super::judge::{Judge, Lock, Pending, Rules, surely_exclude};
use super::violation::{Promise, Violation};

#[derive(Debug)]
struct Knot {
    members: BTreeSet<Txn>,
    /// Everybody waits for one other.
    is_circle: bool,
    victims: usize,
}

#[derive(Debug, Default)]
pub(super) struct Waits {
    knots: Vec<Knot>,
    knots_of: BTreeMap<Txn, Vec<usize>>,
    /// Circles of the strict graph and when each was first seen.
    seen: BTreeMap<BTreeSet<Txn>, u64>,
}

/// Who waits for whom.
type Graph = BTreeMap<Txn, BTreeSet<Txn>>;

impl Waits {
    pub(super) fn knots(&self) -> u64 {
        self.knots.len() as u64
    }

    /// Whether `txn` waits for a knot, or in one, now.
    pub(super) fn is_in_knot(&self, judge: &Judge, rules: &Rules, txn: Txn) -> bool {
        let graph = lenient(judge, rules.slack_ns, 0);
        let mut reached = BTreeSet::from([txn]);
        let mut open = vec![txn];
        while let Some(from) = open.pop() {
            let to = graph.get(&from).into_iter().flatten();
            open.extend(to.filter(|to| reached.insert(**to)));
        }
        reached.iter().any(|txn| knot_of(&graph, *txn).len() > 1)
    }

    /// The edges of `txn` have changed: is it in a knot now?
    pub(super) fn changed(&mut self, judge: &Judge, txn: Txn, slack_ns: u64, well_since_ns: u64) {
        let graph = lenient(judge, slack_ns, well_since_ns);
        let members = knot_of(&graph, txn);
        if members.len() < 2 {
            return;
        }
        let known = self.knots_of.get(&txn).is_some_and(|knots| {
            knots
                .iter()
                .any(|knot| self.knots[*knot].members == members)
        });
        if known {
            return;
        }
        let inside = |member: &Txn| graph[member].intersection(&members).count();
        let is_circle = members.iter().all(|member| inside(member) == 1);
        for member in &members {
            self.knots_of
                .entry(*member)
                .or_default()
                .push(self.knots.len());
        }
        self.knots.push(Knot {
            members,
            is_circle,
            victims: 0,
        });
    }

    /// A transaction was made the victim of a deadlock among `told`.
    /// Who was `delayed` may have come in any order, so that only the victim itself is known to be in the circle.
    pub(super) fn victim(
        &mut self,
        txn: Txn,
        told: &[Txn],
        delayed: bool,
    ) -> Result<(), Violation> {
        let accuse = |text: String| Err(Violation::new(Promise::Victim, text));
        let Some(knots) = self.knots_of.get(&txn) else {
            return accuse(format!("{txn:?} was in no deadlock; told were {told:?}"));
        };
        let legitimate = knots.iter().any(|knot| {
            let knot = &self.knots[*knot];
            knot.victims
                < if knot.is_circle {
                    1
                } else {
                    knot.members.len() - 1
                }
        });
        if !legitimate {
            return accuse(format!("{txn:?} is a victim too many; told were {told:?}"));
        }
        let names = told.contains(&txn)
            && told.len() > 1
            && (delayed
                || knots.iter().any(|knot| {
                    told.iter()
                        .all(|member| self.knots[*knot].members.contains(member))
                }));
        if !names {
            let groups: Vec<_> = knots
                .iter()
                .map(|knot| &self.knots[*knot].members)
                .collect();
            return accuse(format!(
                "{txn:?} was told of a deadlock of {told:?}, and it was in {groups:?}"
            ));
        }
        for knot in knots {
            self.knots[*knot].victims += 1;
        }
        Ok(())
    }
}

/// Accuses if a circle of the strict graph has lasted for longer than `limit_ns` while all was well.
pub(super) fn overdue_deadlock(
    waits: &mut Waits,
    judge: &Judge,
    now_ns: u64,
    well_since_ns: u64,
    limit_ns: u64,
) -> Result<(), Violation> {
    let graph = strict(judge);
    let mut now = BTreeMap::new();
    for txn in graph.keys() {
        let members = knot_of(&graph, *txn);
        if members.len() > 1 {
            let since_ns = waits.seen.get(&members).copied().unwrap_or(now_ns);
            now.insert(members, since_ns);
        }
    }
    waits.seen = now;
    for (members, since_ns) in &waits.seen {
        let lasted_ns = now_ns - since_ns.max(&well_since_ns);
        if lasted_ns > limit_ns {
            let text = format!(
                "{members:?} wait for each other for {lasted_ns} ns, and nobody is the victim"
            );
            return Err(Violation::new(Promise::Deadlock, text));
        }
    }
    Ok(())
}

/// Those that `txn` reaches and that reach it.
fn knot_of(graph: &Graph, txn: Txn) -> BTreeSet<Txn> {
    let mut reached = BTreeSet::new();
    let mut open = vec![txn];
    let mut back: BTreeMap<Txn, Vec<Txn>> = BTreeMap::new();
    while let Some(from) = open.pop() {
        for to in graph.get(&from).into_iter().flatten() {
            back.entry(*to).or_default().push(from);
            if reached.insert(*to) {
                open.push(*to);
            }
        }
    }
    if !reached.contains(&txn) {
        return BTreeSet::new();
    }
    let mut members = BTreeSet::from([txn]);
    let mut open = vec![txn];
    while let Some(to) = open.pop() {
        for from in back.get(&to).into_iter().flatten() {
            if members.insert(*from) {
                open.push(*from);
            }
        }
    }
    members
}

fn edges(judge: &Judge, waits_for: impl Fn(Waiting, &Lock) -> bool) -> Graph {
    let mut graph = Graph::new();
    for (key, lock) in &judge.locks {
        let Some(pending) = &lock.pending else {
            continue;
        };
        let waiting = Waiting { lock, pending };
        for other_key in &judge.entries[&lock.resource].locks {
            let other = &judge.locks[other_key];
            if other_key != key && other.txn != lock.txn && waits_for(waiting, other) {
                graph.entry(lock.txn).or_default().insert(other.txn);
            }
        }
    }
    graph
}

#[derive(Clone, Copy)]
struct Waiting<'a> {
    lock: &'a Lock,
    pending: &'a Pending,
}

fn strict(judge: &Judge) -> Graph {
    edges(judge, |waiting, other| {
        let flags = waiting.pending.flags;
        let mut wanted = vec![waiting.pending.mode];
        wanted.extend(flags.altpr.then_some(Mode::Pr));
        wanted.extend(flags.altcw.then_some(Mode::Cw));
        let ends_by_itself =
            flags.noqueue || flags.timeout_ns.is_some() || waiting.pending.cancelled;
        !ends_by_itself && surely_exclude(&wanted, &other.modes())
    })
}

fn lenient(judge: &Judge, slack_ns: u64, well_since_ns: u64) -> Graph {
    edges(judge, |waiting, other| {
        let (mine, converts) = (waiting.pending, waiting.lock.held.is_some());
        let holds = other.modes().iter().any(|mode| !mode.is_beside(mine.mode));
        let ahead = other.pending.as_ref().is_some_and(|theirs| {
            let other_converts = other.held.is_some();
            let jumps = theirs.flags.headque || (converts && other_converts);
            let earlier = mine.is_crowded
                || theirs.seat_ns <= mine.since_ns + slack_ns
                || theirs.since_ns <= well_since_ns + slack_ns;
            if converts {
                other_converts && (jumps || earlier)
            } else {
                other_converts || jumps || earlier
            }
        });
        holds || ahead
    })
}
