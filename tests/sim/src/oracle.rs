//! What a read may return, sector by sector.
//!
//! Each sector is a register. Its history is kept as one [`Mark`] a write: when the write was submitted, when its
//! caller was told the end, and by when and since when others saw its value. From these follows which write must have
//! taken effect before which:
//!
//! - a value that was *acknowledged, or returned by a read that ended*, before some operation of another value began
//!   (its write, or a read that returned it) precedes that value: ordinary linearizability;
//! - a write whose caller was told *any* end, a failure too, precedes every write submitted later: rule S3, by which an
//!   overlapping WRITE is not sent before all copies of the earlier one are dead. A failed write may still take effect
//!   after its failure was told, or never, but not after a later write was acknowledged.
//!
//! The history is allowed if, and only if, these precedences have no cycle. Two-cycles are looked for at every read,
//! longer ones at the end.
//!
//! Time here is the order of the calls to the oracle, not a clock: a write submitted in the very turn in which the last
//! one was acknowledged comes after it.

use crate::stamp::{self, Foreign, SECTOR_BYTES, Stamp};
use crate::violation::{Promise, Violation};

/// A place in the order of all calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

const NEVER: Moment = Moment(u64::MAX);
const START: Moment = Moment(0);

/// One write's traces on one sector.
#[derive(Clone, Copy, Debug)]
struct Mark {
    stamp: Stamp,
    /// Submitted.
    submitted: Moment,
    /// The caller was told an end, good or bad.
    over: Moment,
    /// Acknowledged.
    acknowledged: Moment,
    /// It had taken effect by then: acknowledged, or seen by a read that was complete then.
    effect_by: Moment,
    /// It was still to be seen then: the latest begin of a read that returned it.
    seen_from: Moment,
    /// A crash of the target came between submission and end: an acknowledgement proves nothing of the time after it.
    crossed_crash: bool,
    /// The caller was told that this may be lost (S7), or could not have been told.
    released: bool,
}

impl Mark {
    const fn new(stamp: Stamp, submitted: Moment) -> Self {
        Self {
            stamp,
            submitted,
            over: NEVER,
            acknowledged: NEVER,
            effect_by: NEVER,
            seen_from: submitted,
            crossed_crash: false,
            released: false,
        }
    }

    fn precedes(&self, other: &Self) -> bool {
        self.effect_by < other.seen_from || self.over < other.submitted
    }
}

#[derive(Clone, Debug)]
struct Sector {
    marks: Vec<Mark>,
    rebased: Moment,
}

/// A write as the oracle knows it.
#[derive(Clone, Copy, Debug)]
struct Write {
    target: u8,
    lba: u64,
    sectors: u64,
}

/// A flush that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct FlushSeen {
    /// When it was submitted.
    pub begun: Moment,
    /// The target promised durability.
    pub promised: bool,
    /// Something was lost that nobody could have noticed.
    pub excused: bool,
}

/// The judge of all reads of a run.
#[derive(Debug)]
pub struct Oracle {
    disks: Vec<Vec<Sector>>,
    writes: Vec<Write>,
    now: u64,
    reads_judged: u64,
}

impl Oracle {
    /// Disks of so many sectors each, all holding [`Stamp::INITIAL`].
    #[must_use]
    pub fn new(disk_sectors: &[u64]) -> Self {
        let mut initial = Mark::new(Stamp::INITIAL, START);
        (initial.over, initial.acknowledged, initial.effect_by) = (START, START, START);
        let disk = |sectors: &u64| {
            (0..*sectors)
                .map(|_| Sector {
                    marks: vec![initial],
                    rebased: START,
                })
                .collect()
        };
        Self {
            disks: disk_sectors.iter().map(disk).collect(),
            writes: vec![Write {
                target: u8::MAX,
                lba: 0,
                sectors: 0,
            }],
            now: 0,
            reads_judged: 0,
        }
    }

    /// Now, and a moment later next time.
    pub fn moment(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }

    /// Sectors judged so far.
    #[must_use]
    pub const fn reads_judged(&self) -> u64 {
        self.reads_judged
    }

    /// The stamp that the next write accepted will carry.
    #[must_use]
    pub fn next_stamp(&self) -> Stamp {
        Stamp(u32::try_from(self.writes.len()).expect("a run has few writes"))
    }

    /// A write was accepted.
    pub fn write_submitted(&mut self, target: u8, lba: u64, sectors: u64) -> Stamp {
        let (stamp, now) = (self.next_stamp(), self.moment());
        self.writes.push(Write {
            target,
            lba,
            sectors,
        });
        for sector in self.range(target, lba, sectors) {
            sector.marks.push(Mark::new(stamp, now));
        }
        stamp
    }

    /// Its caller was told an end. A failed write may have taken effect, or may yet.
    pub fn write_over(&mut self, stamp: Stamp, acknowledged: bool) {
        let now = self.moment();
        let Write {
            target,
            lba,
            sectors,
        } = self.writes[stamp.0 as usize];
        for sector in self.range(target, lba, sectors) {
            let mark = sector
                .marks
                .iter_mut()
                .rev()
                .find(|mark| mark.stamp == stamp)
                .expect("submitted");
            mark.over = now;
            if acknowledged {
                mark.acknowledged = now;
                if !mark.crossed_crash {
                    mark.effect_by = mark.effect_by.min(now);
                }
            }
        }
    }

    /// A read that began at `begun` returned `data`.
    ///
    /// # Errors
    /// [`Violation`] when the history forbids it.
    pub fn read_over(
        &mut self,
        target: u8,
        lba: u64,
        data: &[u8],
        begun: Moment,
    ) -> Result<(), Violation> {
        let now = self.moment();
        for (lba, content) in (lba..).zip(data.chunks_exact(SECTOR_BYTES)) {
            self.judge(target, lba, content, begun, now)?;
        }
        Ok(())
    }

    fn judge(
        &mut self,
        target: u8,
        lba: u64,
        content: &[u8],
        begun: Moment,
        ended: Moment,
    ) -> Result<(), Violation> {
        self.reads_judged += 1;
        let stamp = stamp::read(content, target, lba)
            .map_err(|foreign| foreign_content(target, lba, foreign))?;
        let sector = &mut self.disks[usize::from(target)][usize::try_from(lba).expect("small")];
        let Some(index) = sector.marks.iter().rposition(|mark| mark.stamp == stamp) else {
            return Err(Violation::new(
                Promise::ReadContent,
                format!(
                    "target {target} sector {lba} holds {stamp}, which was never accepted for it"
                ),
            ));
        };
        if begun < sector.rebased {
            // The read crosses a crash that lost data: either side's value is right, and proves nothing.
            return Ok(());
        }
        let mark = &mut sector.marks[index];
        mark.effect_by = mark.effect_by.min(ended);
        mark.seen_from = mark.seen_from.max(begun);
        let mark = *mark;
        for (other_index, other) in sector.marks.iter().enumerate() {
            if other_index != index && mark.precedes(other) && other.precedes(&mark) {
                return Err(Violation::new(
                    Promise::ReadHistory,
                    format!(
                        "target {target} sector {lba}: a read returned {stamp} after {} had replaced it\n  \
                         {mark:?}\n  {other:?}",
                        other.stamp
                    ),
                )
                .about([stamp, other.stamp]));
            }
        }
        Ok(())
    }

    /// The target crashed and came back with `content` in a sector that lost something. Order among writes stays, all
    /// evidence of what had taken effect is void.
    ///
    /// # Errors
    /// [`Violation`] when the content is nobody's.
    pub fn sector_lost(&mut self, target: u8, lba: u64, content: &[u8]) -> Result<(), Violation> {
        let now = self.moment();
        let sector = &mut self.disks[usize::from(target)][usize::try_from(lba).expect("small")];
        sector.rebased = now;
        for mark in &mut sector.marks {
            mark.effect_by = NEVER;
            mark.seen_from = mark.submitted;
            mark.crossed_crash |= mark.over == NEVER;
        }
        let begun = self.moment();
        let ended = self.moment();
        self.judge(target, lba, content, begun, ended)
    }

    /// The owner of these sectors was told that what it had written may be lost, or could not be told.
    pub fn release(&mut self, target: u8, lba: u64, sectors: u64) {
        for sector in self.range(target, lba, sectors) {
            for mark in &mut sector.marks {
                mark.released = true;
            }
        }
    }

    /// A flush submitted at `begun` succeeded and this is what the sector durably holds, or, if the target promised
    /// nothing, holds: nothing acknowledged before `begun` may be missing (S7). Without a promise the caller knows
    /// that what it has written up to now may be lost.
    ///
    /// # Errors
    /// [`Violation`] when something is missing and that is not `excused`: nobody could have noticed the loss.
    pub fn flushed(
        &mut self,
        target: u8,
        lba: u64,
        content: &[u8],
        flush: FlushSeen,
    ) -> Result<(), Violation> {
        let durable = stamp::read(content, target, lba)
            .map_err(|foreign| foreign_content(target, lba, foreign))?;
        let sector = &mut self.disks[usize::from(target)][usize::try_from(lba).expect("small")];
        let found = sector.marks.iter().rev().find(|mark| mark.stamp == durable);
        let Some(durable) = found.copied() else {
            return Err(Violation::new(
                Promise::Flush,
                format!("target {target} sector {lba}: durable {durable} unknown"),
            ));
        };
        for mark in &mut sector.marks {
            // A write that was under way when the target crashed unnoticed may have lost what it had put down by then,
            // whenever it is acknowledged.
            mark.released |= flush.excused && mark.crossed_crash;
            if mark.acknowledged >= flush.begun || mark.released {
                continue;
            }
            let missing = mark.stamp != durable.stamp && durable.precedes(mark);
            if missing && !flush.excused {
                return Err(Violation::new(
                    Promise::Flush,
                    format!(
                        "target {target} sector {lba}: a flush succeeded, but the acknowledged {} is not there, {} is",
                        mark.stamp, durable.stamp
                    ),
                )
                .about([durable.stamp]));
            }
            mark.released = missing || !flush.promised;
        }
        Ok(())
    }

    /// The order of the whole history, longer cycles included.
    ///
    /// # Errors
    /// [`Violation`] when the precedences of some sector form a cycle.
    pub fn finish(&self) -> Result<(), Violation> {
        for (target, disk) in self.disks.iter().enumerate() {
            for (lba, sector) in disk.iter().enumerate() {
                if let Some(stamps) = cycle(&sector.marks) {
                    return Err(Violation::new(
                        Promise::ReadHistory,
                        format!(
                            "target {target} sector {lba}: no order of {stamps:?} explains the reads"
                        ),
                    )
                    .about(stamps));
                }
            }
        }
        Ok(())
    }

    fn range(&mut self, target: u8, lba: u64, sectors: u64) -> &mut [Sector] {
        let first = usize::try_from(lba).expect("small");
        let count = usize::try_from(sectors).expect("small");
        &mut self.disks[usize::from(target)][first..first + count]
    }
}

fn foreign_content(target: u8, lba: u64, foreign: Foreign) -> Violation {
    Violation::new(
        Promise::ReadContent,
        format!("target {target} sector {lba}: {foreign:?}"),
    )
}

/// The marks left when all that nothing precedes have been taken away again and again: the cycles and what follows
/// them.
fn cycle(marks: &[Mark]) -> Option<Vec<Stamp>> {
    let mut left: Vec<&Mark> = marks.iter().collect();
    loop {
        let before = left.len();
        // Whatever precedes a mark at all does so by the earliest of all others; two are enough to leave out itself.
        let (effect, over) = (
            two_least(&left, |mark| mark.effect_by),
            two_least(&left, |mark| mark.over),
        );
        left.retain(|mark| {
            let other =
                |least: [Moment; 2], own: Moment| if least[0] == own { least[1] } else { least[0] };
            other(effect, mark.effect_by) < mark.seen_from
                || other(over, mark.over) < mark.submitted
        });
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            return Some(left.iter().map(|mark| mark.stamp).collect());
        }
    }
}

/// The two least moments; ties count once each.
fn two_least(marks: &[&Mark], of: impl Fn(&Mark) -> Moment) -> [Moment; 2] {
    let mut least = [NEVER; 2];
    for mark in marks {
        let moment = of(mark);
        if moment < least[0] {
            least = [moment, least[0]];
        } else if moment < least[1] {
            least[1] = moment;
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    struct History(Oracle);

    impl History {
        fn new() -> Self {
            Self(Oracle::new(&[8]))
        }
        fn submit(&mut self) -> Stamp {
            self.0.write_submitted(0, 2, 2)
        }
        fn ack(&mut self, stamp: Stamp) {
            self.0.write_over(stamp, true);
        }
        fn fail(&mut self, stamp: Stamp) {
            self.0.write_over(stamp, false);
        }
        fn write(&mut self) -> Stamp {
            let stamp = self.submit();
            self.ack(stamp);
            stamp
        }
        fn read_since(&mut self, begun: Moment, stamp: Stamp) -> Result<(), Violation> {
            let mut data = [0; SECTOR_BYTES];
            stamp::fill(&mut data, stamp, 0, 2);
            self.0.read_over(0, 2, &data, begun)
        }
        fn read(&mut self, stamp: Stamp) -> Result<(), Violation> {
            let begun = self.0.moment();
            self.read_since(begun, stamp)
        }
        fn finish(&self) -> Result<(), Violation> {
            self.0.finish()
        }
    }

    fn broken(result: Result<(), Violation>) -> Promise {
        result.expect_err("the oracle must object").promise
    }

    #[test]
    fn the_last_acknowledged_write_is_read() {
        let mut h = History::new();
        h.read(Stamp::INITIAL).unwrap();
        let a = h.write();
        h.read(a).unwrap();
        let b = h.write();
        h.read(b).unwrap();
        h.finish().unwrap();
        assert_eq!(broken(h.read(a)), Promise::ReadHistory);
    }

    #[test]
    fn an_acknowledged_write_must_be_seen() {
        let mut h = History::new();
        h.write();
        assert_eq!(broken(h.read(Stamp::INITIAL)), Promise::ReadHistory);
    }

    #[test]
    fn a_concurrent_write_may_be_seen_or_not_but_not_unseen() {
        let mut h = History::new();
        let a = h.write();
        let b = h.submit();
        h.read(a).unwrap();
        h.read(b).unwrap();
        assert_eq!(broken(h.read(a)), Promise::ReadHistory);
    }

    #[test]
    fn a_long_read_may_return_either() {
        let mut h = History::new();
        let a = h.write();
        let begun = h.0.moment();
        let b = h.write();
        h.read_since(begun, a).unwrap();
        h.read_since(begun, b).unwrap();
        h.finish().unwrap();
    }

    #[test]
    fn a_failed_write_may_take_effect_later_but_not_after_a_newer_one() {
        let mut h = History::new();
        let a = h.write();
        let b = h.submit();
        h.fail(b);
        h.read(a).unwrap();
        h.read(b).unwrap();
        let c = h.write();
        h.read(c).unwrap();
        assert_eq!(broken(h.read(b)), Promise::ReadHistory);
    }

    #[test]
    fn a_failed_write_that_nobody_saw_may_never_have_been() {
        let mut h = History::new();
        let a = h.write();
        let b = h.submit();
        h.fail(b);
        let c = h.submit();
        h.fail(c);
        h.read(a).unwrap();
        h.read(c).unwrap();
        h.finish().unwrap();
        assert_eq!(broken(h.read(b)), Promise::ReadHistory);
    }

    #[test]
    fn the_stale_write_is_found() {
        // WRITE a is acknowledged, WRITE b is acknowledged, a late copy of a lands.
        let mut h = History::new();
        let a = h.write();
        let b = h.write();
        h.read(b).unwrap();
        assert_eq!(broken(h.read(a)), Promise::ReadHistory);
    }

    #[test]
    fn two_pending_writes_may_come_in_either_order() {
        let mut h = History::new();
        let (a, b) = (h.submit(), h.submit());
        h.ack(b);
        h.read(b).unwrap();
        h.read(a).unwrap();
        h.ack(a);
        h.read(a).unwrap();
        h.finish().unwrap();
    }

    #[test]
    fn a_cycle_of_three_is_found_at_the_end() {
        let mut h = History::new();
        let (a, c) = (h.submit(), h.submit());
        h.fail(a);
        let b = h.submit();
        h.ack(c);
        let read_of_a = h.0.moment();
        h.ack(b);
        // c after b was acknowledged, a after c was acknowledged, b after a was over: no order of the three.
        h.read(c).unwrap();
        h.read_since(read_of_a, a).unwrap();
        assert_eq!(broken(h.finish()), Promise::ReadHistory);
    }

    #[test]
    fn foreign_content_is_found() {
        let mut h = History::new();
        let begun = h.0.moment();
        let mut data = [0; SECTOR_BYTES];
        stamp::fill(&mut data, Stamp::INITIAL, 0, 3);
        assert_eq!(
            broken(h.0.read_over(0, 2, &data, begun)),
            Promise::ReadContent
        );
        stamp::fill(&mut data, Stamp(9), 0, 2);
        assert_eq!(
            broken(h.0.read_over(0, 2, &data, begun)),
            Promise::ReadContent
        );
    }

    fn sector(stamp: Stamp) -> [u8; SECTOR_BYTES] {
        let mut data = [0; SECTOR_BYTES];
        stamp::fill(&mut data, stamp, 0, 2);
        data
    }

    #[test]
    fn a_crash_may_take_back_an_acknowledged_write_but_keeps_the_order() {
        let mut h = History::new();
        let a = h.write();
        let b = h.write();
        h.0.sector_lost(0, 2, &sector(a)).unwrap();
        h.read(a).unwrap();
        // A late copy of b lands: its range was still closed.
        h.read(b).unwrap();
        assert_eq!(broken(h.read(a)), Promise::ReadHistory);
    }

    #[test]
    fn a_write_older_than_what_survived_never_reappears() {
        let mut h = History::new();
        let a = h.write();
        let b = h.write();
        let _lost = h.write();
        h.0.sector_lost(0, 2, &sector(b)).unwrap();
        assert_eq!(broken(h.read(a)), Promise::ReadHistory);
    }

    #[test]
    fn an_acknowledgement_that_crossed_a_crash_proves_nothing() {
        let mut h = History::new();
        let a = h.write();
        let b = h.submit();
        h.0.sector_lost(0, 2, &sector(a)).unwrap();
        h.ack(b);
        h.read(a).unwrap();
        h.finish().unwrap();
    }

    #[test]
    fn a_flush_owes_what_was_acknowledged_before_it() {
        let mut h = History::new();
        let a = h.write();
        let b = h.write();
        let begun = h.0.moment();
        let c = h.write();
        let flush = FlushSeen {
            begun,
            promised: true,
            excused: false,
        };
        for there in [b, c] {
            h.0.flushed(0, 2, &sector(there), flush).unwrap();
        }
        assert_eq!(broken(h.0.flushed(0, 2, &sector(a), flush)), Promise::Flush);
        h.0.release(0, 2, 1);
        h.0.flushed(0, 2, &sector(a), flush).unwrap();
    }

    #[test]
    fn a_flush_without_a_promise_owes_nothing_afterwards() {
        let mut h = History::new();
        let a = h.write();
        h.write();
        let mut flush = FlushSeen {
            begun: h.0.moment(),
            promised: false,
            excused: false,
        };
        assert_eq!(broken(h.0.flushed(0, 2, &sector(a), flush)), Promise::Flush);
        flush.excused = true;
        h.0.flushed(0, 2, &sector(a), flush).unwrap();
        flush.excused = false;
        h.0.flushed(0, 2, &sector(a), flush).unwrap();
    }
}
