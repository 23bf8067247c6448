//! All randomness of a run. One seed gives one sequence, so whoever draws must draw in an order that the seed alone
//! decides.

use geminga_runtime::{Random, SeededRandom};

/// A seeded source of decisions.
#[derive(Debug)]
pub(crate) struct Dice(SeededRandom);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SeededRandom::new(seed))
    }

    pub(crate) fn next_u64(&self) -> u64 {
        self.0.next_u64()
    }

    pub(crate) fn next_u128(&self) -> u128 {
        self.0.next_u128()
    }

    /// A number below `bound`, which is above 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).expect("below a usize")
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&self, low: u64, high: u64) -> u64 {
        low + self.0.below(high - low + 1)
    }

    /// True `per_mille` times out of a thousand.
    pub(crate) fn chance(&self, per_mille: u64) -> bool {
        self.0.below(1000) < per_mille
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// One of several, or none of none.
    pub(crate) fn pick_any<T: Clone>(&self, of: impl Iterator<Item = T>) -> Option<T> {
        let all: Vec<T> = of.collect();
        (!all.is_empty()).then(|| self.pick(&all).clone())
    }

    /// Puts a list in any order.
    pub(crate) fn shuffle<T>(&self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}
