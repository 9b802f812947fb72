//! The value block of a resource, as those who wrote it know it.

use super::call::{Stamp, Value};

/// What the block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    /// Nobody has ever written it.
    #[default]
    Never,
    /// This.
    Written(Stamp),
    /// Whoever could write it died: nobody may take any value for the last one.
    Lost,
}

/// A value block and its past.
#[derive(Debug, Default)]
pub(super) struct Block {
    last: Last,
    /// What it held, and until when, oldest first.
    past: Vec<(u64, Last)>,
    /// Nobody has held the resource at some time since: its value may have been forgotten.
    forgettable: bool,
}

/// Entries of the past that are kept.
const PAST_KEPT: usize = 64;

impl Block {
    pub(super) fn written(&mut self, now_ns: u64, stamp: Stamp) {
        self.change(now_ns, Last::Written(stamp));
        self.forgettable = false;
    }

    pub(super) fn lost(&mut self, now_ns: u64) {
        self.change(now_ns, Last::Lost);
    }

    pub(super) fn unheld(&mut self) {
        self.forgettable = true;
    }

    fn change(&mut self, now_ns: u64, last: Last) {
        self.past.push((now_ns, self.last));
        if self.past.len() > PAST_KEPT {
            self.past.remove(0);
        }
        self.last = last;
    }

    /// Whether `value` may be read by somebody who asked at `since_ns`. With `lags` any value will do that ever was one;
    /// `excused` is who may find the block invalid though nobody that could write it died.
    pub(super) fn check(
        &self,
        value: Value,
        since_ns: u64,
        lags: bool,
        excused: bool,
    ) -> Result<(), String> {
        match value {
            Value::Untold => Ok(()),
            Value::Garbage => Err("nobody has written this".to_owned()),
            Value::Invalid => {
                let lost = matches!(self.last, Last::Never | Last::Lost);
                // Before the last write it may have been forgotten; who asked before that may have been told so.
                let rewritten = self.past.iter().any(|(until_ns, _)| *until_ns > since_ns);
                if lost || self.forgettable || excused || rewritten {
                    return Ok(());
                }
                Err(format!("nothing went wrong, and it holds {:?}", self.last))
            }
            Value::Valid(stamp) => {
                let is_it = |last: &Last| *last == Last::Written(stamp);
                let past = self
                    .past
                    .iter()
                    .filter(|(until_ns, _)| lags || *until_ns > since_ns);
                if is_it(&self.last) || past.map(|(_, last)| last).any(is_it) {
                    return Ok(());
                }
                Err(format!(
                    "it holds {:?}; before (until, what): {:?}",
                    self.last, self.past
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_value_is_read_by_who_excludes_writers() {
        let mut block = Block::default();
        assert!(block.check(Value::Valid(Stamp(1)), 0, false, true).is_err());
        block.written(10, Stamp(1));
        block.written(20, Stamp(2));
        assert!(
            block
                .check(Value::Valid(Stamp(2)), 30, false, false)
                .is_ok()
        );
        assert!(
            block
                .check(Value::Valid(Stamp(1)), 30, false, true)
                .is_err()
        );
        // Who asked before the second was written may read the first.
        assert!(
            block
                .check(Value::Valid(Stamp(1)), 15, false, false)
                .is_ok()
        );
        assert!(block.check(Value::Garbage, 15, true, true).is_err());
    }

    #[test]
    fn what_its_writer_took_along_is_invalid_until_it_is_written_again() {
        let mut block = Block::default();
        block.written(10, Stamp(1));
        assert!(block.check(Value::Invalid, 10, false, false).is_err());
        block.lost(20);
        assert!(
            block
                .check(Value::Valid(Stamp(1)), 30, false, true)
                .is_err()
        );
        assert!(block.check(Value::Invalid, 30, false, false).is_ok());
        block.written(40, Stamp(3));
        assert!(
            block
                .check(Value::Valid(Stamp(3)), 50, false, false)
                .is_ok()
        );
        assert!(block.check(Value::Invalid, 50, false, false).is_err());
        block.unheld();
        assert!(block.check(Value::Invalid, 50, false, false).is_ok());
    }
}
