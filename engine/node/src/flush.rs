//! S7 across shards: a restart noticed by one shard concerns what the others wrote.
//!
//! A flush goes to every shard and succeeds only if all parts do. That alone is not enough: a shard that was idle while
//! the target restarted has unflushed writes, notices nothing, and its flush is gladly answered by the new instance.
//! Therefore every shard counts the writes that were acknowledged to it, and whoever suspects a restart marks the
//! target's unflushed writes as lost for all shards, unless there are none.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use sandrail_proto::aoe::initiator::{Durability, IoError, Outcome, RestartEvidence};
use sandrail_wire::aoe::SHARDS_MAX;

use crate::request::RequestError;

const SHARDS: usize = SHARDS_MAX as usize;

/// One shard's counter on a cache line of its own: only that shard writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Acknowledged(AtomicU64);

/// What all shards know of a target's unflushed writes.
#[derive(Debug, Default)]
pub(crate) struct LossState {
    acknowledged: [Acknowledged; SHARDS],
    /// The sum of `acknowledged` that the last successful flush covers.
    flushed: AtomicU64,
    /// The evidence, plus one, once unflushed writes may be lost; 0: nothing lost.
    lost: AtomicU8,
    /// The same of the last loss, accepted or not.
    last: AtomicU8,
    /// How often `lost` was set: a flush during which a loss was told and accepted covers nothing.
    losses: AtomicU64,
}

/// What a flush found when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlushBegun {
    /// The sum of the writes acknowledged.
    covers: u64,
    losses: u64,
}

impl LossState {
    /// A new target at this place: what was written to an earlier one is no concern of it.
    pub(crate) fn reset(&self) {
        self.flushed.fetch_max(self.sum(), Ordering::AcqRel);
        self.accept();
    }

    /// Shard: a write was acknowledged. Only that shard calls it with its number.
    pub(crate) fn write_acknowledged(&self, shard: usize) {
        let counter = &self.acknowledged[shard].0;
        // One writer, hence no read-modify-write. Release: partner is the acquire in `sum`.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Shard: the target may have restarted. `unflushed` is what the shard's own initiator knows.
    pub(crate) fn restart_suspected(&self, evidence: RestartEvidence, unflushed: bool) {
        if unflushed || self.sum() > self.flushed.load(Ordering::Acquire) {
            // Release, both: partners are the acquires in `flush_ends`. The count first, so that a flush that finds `lost`
            // accepted again finds the count changed.
            self.last.store(code(evidence), Ordering::Relaxed);
            self.losses.fetch_add(1, Ordering::Release);
            self.lost.store(code(evidence), Ordering::Release);
        }
    }

    /// Client, before it sends the parts of a flush: what it will cover.
    pub(crate) fn flush_begins(&self) -> FlushBegun {
        FlushBegun {
            losses: self.losses.load(Ordering::Acquire),
            covers: self.sum(),
        }
    }

    /// Client: all parts have ended, `result` is the worst of them. What the flush as a whole is worth.
    pub(crate) fn flush_ends(
        &self,
        begun: FlushBegun,
        result: Result<Outcome, RequestError>,
    ) -> Result<Outcome, RequestError> {
        let outcome = result?;
        if let Some(evidence) = evidence(self.lost.load(Ordering::Acquire)) {
            return Err(RequestError::Io(IoError::UnflushedLost(evidence)));
        }
        if self.losses.load(Ordering::Acquire) != begun.losses {
            // Told and accepted while the flush was under way: which part of it was answered before is not known.
            let last = evidence(self.last.load(Ordering::Relaxed));
            return Err(RequestError::Io(IoError::UnflushedLost(
                last.unwrap_or(RestartEvidence::Silence),
            )));
        }
        if matches!(outcome, Outcome::Flushed(durability) if durability != Durability::Refused) {
            // Two clients' flushes may end in either order.
            self.flushed.fetch_max(begun.covers, Ordering::AcqRel);
        }
        Ok(outcome)
    }

    /// The caller took note of the loss. `flushed` stays: what was written again meanwhile is not flushed, and the next
    /// restart may lose it, too.
    pub(crate) fn accept(&self) {
        self.lost.store(0, Ordering::Release);
    }

    /// The evidence of the last loss, accepted or not.
    pub(crate) fn last(&self) -> Option<RestartEvidence> {
        evidence(self.last.load(Ordering::Relaxed))
    }

    fn sum(&self) -> u64 {
        self.acknowledged
            .iter()
            .map(|counter| counter.0.load(Ordering::Acquire))
            .fold(0, u64::wrapping_add)
    }
}

/// The worse of two parts' results: an error before any promise, the weaker promise before the stronger.
pub(crate) fn worse(
    one: Result<Outcome, RequestError>,
    other: Result<Outcome, RequestError>,
) -> Result<Outcome, RequestError> {
    const fn weakness(outcome: &Outcome) -> u8 {
        match outcome {
            Outcome::Flushed(Durability::Claimed) => 0,
            Outcome::Flushed(Durability::Unclaimed) => 1,
            _ => 2,
        }
    }
    match (one, other) {
        (Ok(one), Ok(other)) if weakness(&one) >= weakness(&other) => Ok(one),
        (Ok(_), other) => other,
        // A loss outranks other errors: it alone calls for writing again.
        (Err(_), Err(loss @ RequestError::Io(IoError::UnflushedLost(_)))) => Err(loss),
        (Err(error), _) => Err(error),
    }
}

const fn code(evidence: RestartEvidence) -> u8 {
    match evidence {
        RestartEvidence::Advertisement => 1,
        RestartEvidence::Silence => 2,
        RestartEvidence::ConfigChanged => 3,
        RestartEvidence::Session => 4,
        RestartEvidence::FlushFailed => 5,
    }
}

const fn evidence(code: u8) -> Option<RestartEvidence> {
    match code {
        0 => None,
        1 => Some(RestartEvidence::Advertisement),
        2 => Some(RestartEvidence::Silence),
        3 => Some(RestartEvidence::ConfigChanged),
        4 => Some(RestartEvidence::Session),
        _ => Some(RestartEvidence::FlushFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMED: Result<Outcome, RequestError> = Ok(Outcome::Flushed(Durability::Claimed));
    const UNCLAIMED: Result<Outcome, RequestError> = Ok(Outcome::Flushed(Durability::Unclaimed));
    const REFUSED: Result<Outcome, RequestError> = Ok(Outcome::Flushed(Durability::Refused));

    #[test]
    fn the_worst_part_decides() {
        let stopped = Err(RequestError::Stopped);
        let loss = Err(RequestError::Io(IoError::UnflushedLost(
            RestartEvidence::Silence,
        )));
        let order = [CLAIMED, UNCLAIMED, REFUSED, stopped, loss];
        for (a, one) in order.into_iter().enumerate() {
            for (b, other) in order.into_iter().enumerate() {
                assert_eq!(worse(one, other), order[a.max(b)], "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_restart_noticed_by_one_shard_fails_the_flush_of_anothers_writes() {
        let state = LossState::default();
        state.write_acknowledged(1);
        // Shard 0 notices; it has nothing unflushed of its own.
        state.restart_suspected(RestartEvidence::Advertisement, false);
        let covers = state.flush_begins();
        let lost = Err(RequestError::Io(IoError::UnflushedLost(
            RestartEvidence::Advertisement,
        )));
        assert_eq!(state.flush_ends(covers, CLAIMED), lost);
        assert_eq!(
            state.flush_ends(covers, CLAIMED),
            lost,
            "until the caller accepts it"
        );
        state.accept();
        assert_eq!(state.flush_ends(state.flush_begins(), CLAIMED), CLAIMED);
    }

    #[test]
    fn a_second_restart_after_the_loss_was_accepted_is_noticed() {
        let state = LossState::default();
        state.write_acknowledged(1);
        state.restart_suspected(RestartEvidence::Silence, false);
        state.accept();
        state.write_acknowledged(1);
        state.restart_suspected(RestartEvidence::Silence, false);
        assert!(state.flush_ends(state.flush_begins(), CLAIMED).is_err());
    }

    #[test]
    fn a_new_target_at_the_place_inherits_nothing() {
        let state = LossState::default();
        state.write_acknowledged(1);
        state.restart_suspected(RestartEvidence::Silence, true);
        state.reset();
        state.restart_suspected(RestartEvidence::Silence, false);
        assert_eq!(state.flush_ends(state.flush_begins(), CLAIMED), CLAIMED);
    }

    #[test]
    fn a_restart_between_the_parts_of_a_flush_fails_it() {
        let state = LossState::default();
        state.write_acknowledged(0);
        let covers = state.flush_begins();
        state.restart_suspected(RestartEvidence::Silence, false);
        assert!(state.flush_ends(covers, CLAIMED).is_err());
    }

    /// The owner takes note while a flush is under way: what that flush was to cover is to be written again all the same.
    #[test]
    fn a_loss_accepted_during_a_flush_fails_it() {
        let state = LossState::default();
        state.write_acknowledged(0);
        let begun = state.flush_begins();
        state.restart_suspected(RestartEvidence::Session, false);
        state.accept();
        let lost = IoError::UnflushedLost(RestartEvidence::Session);
        assert_eq!(
            state.flush_ends(begun, CLAIMED),
            Err(RequestError::Io(lost))
        );
        assert_eq!(state.flush_ends(state.flush_begins(), CLAIMED), CLAIMED);
    }

    #[test]
    fn a_restart_with_everything_flushed_fails_nothing() {
        let state = LossState::default();
        state.write_acknowledged(0);
        let covers = state.flush_begins();
        assert_eq!(state.flush_ends(covers, UNCLAIMED), UNCLAIMED);
        state.restart_suspected(RestartEvidence::Silence, false);
        state.write_acknowledged(0);
        assert_eq!(state.flush_ends(state.flush_begins(), CLAIMED), CLAIMED);
    }

    #[test]
    fn a_refused_flush_covers_nothing() {
        let state = LossState::default();
        state.write_acknowledged(3);
        assert_eq!(state.flush_ends(state.flush_begins(), REFUSED), REFUSED);
        state.restart_suspected(RestartEvidence::Silence, false);
        assert!(state.flush_ends(state.flush_begins(), CLAIMED).is_err());
    }

    #[test]
    fn a_write_acknowledged_during_the_flush_is_not_covered() {
        let state = LossState::default();
        state.write_acknowledged(0);
        let covers = state.flush_begins();
        state.write_acknowledged(0);
        assert_eq!(state.flush_ends(covers, CLAIMED), CLAIMED);
        state.restart_suspected(RestartEvidence::Silence, false);
        assert!(state.flush_ends(state.flush_begins(), CLAIMED).is_err());
    }
}
