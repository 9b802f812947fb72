//! How far a soak of any family got.

use std::time::Duration;

/// What a soak did; `T` is the family's tally.
#[derive(Clone, Copy, Debug, Default)]
pub struct Soaked<T> {
    /// Scenarios run.
    pub seeds: u64,
    /// Time taken.
    pub time: Duration,
    /// Sums over all of them, and the greatest of what is a length.
    pub tally: T,
}

impl<T> Soaked<T> {
    /// Scenarios a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.seeds as f64 / self.time.as_secs_f64().max(1e-9)
    }
}
