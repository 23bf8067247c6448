//! How far looks at one manifest have come with what was given up: which objects were removed, and which could not be. Owned by whoever is
//! elected, for one partition. What it says of objects stays true whatever becomes of the manifest.
//!
//! Invariant: of the segments below `next` all that is not in `stuck` was removed. Bounded: a look that finds [`MAX_STUCK`] tries
//! nothing else before some of them are gone.

use std::collections::BTreeMap;

/// Segments, or ranges of them, that may be stuck before nothing behind them is tried any more.
pub(super) const MAX_STUCK: usize = 1_000;

/// How far looks have come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pass {
    /// Objects of segments below this number were removed, or are stuck.
    pub(super) next: u64,
    /// Those that could not be removed, or whose list could not be read.
    pub(super) stuck: Numbers,
    /// From which of them on the next look tries again.
    pub(super) turn: u64,
}

impl Pass {
    /// Takes out those that are to be tried again, beginning with those whose turn it is.
    pub(super) fn take_due(&mut self) -> Numbers {
        let due = self.stuck.split_off(self.turn);
        if due.is_empty() { std::mem::take(&mut self.stuck) } else { due }
    }

    /// Puts back what was not tried; that is where the next look begins.
    pub(super) fn put_back(&mut self, untried: Numbers) {
        self.turn = untried.first().unwrap_or(0);
        self.stuck.append(untried);
    }
}

/// Numbers of segments, as ranges: each with its first number and the one after its last. No two overlap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    /// None of them may be there yet.
    pub(super) fn insert(&mut self, first: u64, end: u64) {
        if first < end {
            self.0.insert(first, end);
        }
    }

    /// None of these may be there yet.
    pub(super) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The lowest.
    pub(super) fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(first, _)| *first)
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    /// Whether any is in `first..end`.
    pub(super) fn touches(&self, first: u64, end: u64) -> bool {
        let begun_before = self.0.range(..end).next_back();
        begun_before.is_some_and(|(_, range_end)| *range_end > first)
    }

    /// Takes out those from `number` on.
    pub(super) fn split_off(&mut self, number: u64) -> Self {
        let mut above = Self(self.0.split_off(&number));
        if let Some(mut last) = self.0.last_entry()
            && *last.get() > number
        {
            above.0.insert(number, last.insert(number));
        }
        above
    }

    /// Takes out those below `number`.
    pub(super) fn take_below(&mut self, number: u64) -> Self {
        let above = self.split_off(number);
        std::mem::replace(self, above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_where_they_are_told() {
        let mut all = Numbers::default();
        all.insert(3, 4);
        all.insert(10, 20);
        all.insert(7, 7);
        assert_eq!((all.len(), all.first()), (2, Some(3)));
        let is = |all: &Numbers| (0..30).filter(|at| all.contains(*at)).collect::<Vec<_>>();
        assert_eq!(is(&all), [&[3][..], &(10..20).collect::<Vec<_>>()].concat());
        assert!(all.touches(0, 4) && all.touches(19, 25) && all.touches(12, 13));
        assert!(!all.touches(4, 10) && !all.touches(20, 30));
        let below = all.take_below(15);
        assert_eq!(is(&below), [3, 10, 11, 12, 13, 14]);
        assert_eq!(is(&all), [15, 16, 17, 18, 19]);
        assert_eq!(all.take_below(15), Numbers::default());
        assert_eq!(all.split_off(20), Numbers::default());
    }

    /// Each comes to its turn, however few are tried at a time.
    #[test]
    fn what_is_stuck_is_tried_in_turn() {
        let mut pass = Pass::default();
        (0..5).for_each(|number| pass.stuck.insert(number, number + 1));
        let mut tried = Vec::new();
        for _ in 0..5 {
            let mut due = pass.take_due();
            let one = due.first().unwrap();
            tried.push(one);
            due.take_below(one + 1);
            pass.stuck.insert(one, one + 1);
            pass.put_back(due);
        }
        assert_eq!(tried, [0, 1, 2, 3, 4]);
        assert_eq!(pass.turn, 0);
        assert_eq!(pass.take_due().len(), 5);
    }
}
