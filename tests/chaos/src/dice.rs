//! Decisions that the seed alone makes. Each part of a run has dice of its own, so that what one part draws does not depend on
//! how fast another is.

use std::time::Duration;

use geminga_runtime::{Random, SeededRandom};

/// A seeded source of decisions.
#[derive(Debug)]
pub(crate) struct Dice(SeededRandom);

impl Dice {
    /// The dice of one part of the run with this seed.
    pub(crate) fn new(seed: u64, part: u64) -> Self {
        Self(SeededRandom::new(seed.rotate_left(17) ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, which is above 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).expect("below a usize")
    }

    /// A time between two, in whole milliseconds.
    pub(crate) fn between(&self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_millis()).unwrap_or(u64::MAX);
        low + Duration::from_millis(self.0.below(span.saturating_add(1)))
    }

    /// True `percent` times out of a hundred.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.0.below(100) < percent
    }
}
