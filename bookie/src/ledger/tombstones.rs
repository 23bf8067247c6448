//! Which ledgers were deleted, as ranges of ids: ids are handed out in blocks and never again (M1), so what was deleted
//! joins up, and a tombstone can be kept for ever at next to no cost (F4, G3).

use std::collections::BTreeMap;

use geminga_proto::ids::LedgerId;

/// A set of ledger ids as sorted ranges that never touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tombstones(BTreeMap<u64, u64>);

impl Tombstones {
    /// Whether a tombstone stands for the ledger.
    pub fn contains(&self, ledger: LedgerId) -> bool {
        self.0.range(..=ledger.0).next_back().is_some_and(|(_, last)| *last >= ledger.0)
    }

    /// Adds one.
    pub fn insert(&mut self, ledger: LedgerId) {
        self.insert_range(ledger, ledger);
    }

    /// Adds all of `first..=last`.
    pub fn insert_range(&mut self, first: LedgerId, last: LedgerId) {
        let (mut first, mut last) = (first.0, last.0);
        if let Some((&before, &end)) = self.0.range(..=first).next_back()
            && end.saturating_add(1) >= first
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&begin, &end)) = self.0.range(first..=last.saturating_add(1)).next() {
            self.0.remove(&begin);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        for (first, last) in other.ranges() {
            self.insert_range(first, last);
        }
    }

    /// The ranges in order, both ends included.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = (LedgerId, LedgerId)> + '_ {
        self.0.iter().map(|(first, last)| (LedgerId(*first), LedgerId(*last)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_join() {
        let mut set = Tombstones::default();
        for id in [5, 7, u64::MAX, 0, 6] {
            set.insert(LedgerId(id));
        }
        let ranges: Vec<_> = set.ranges().map(|(first, last)| (first.0, last.0)).collect();
        assert_eq!(ranges, [(0, 0), (5, 7), (u64::MAX, u64::MAX)]);
        set.insert_range(LedgerId(1), LedgerId(u64::MAX - 1));
        assert_eq!(set.ranges().len(), 1);
    }

    proptest! {
        #[test]
        fn it_is_a_set(ranges in proptest::collection::vec((0u64..60, 0u64..6), 0..20)) {
            let (mut set, mut model) = (Tombstones::default(), BTreeSet::new());
            for (first, more) in ranges {
                set.insert_range(LedgerId(first), LedgerId(first + more));
                model.extend(first..=first + more);
            }
            for id in 0..70 {
                prop_assert_eq!(set.contains(LedgerId(id)), model.contains(&id));
            }
            let gaps = model.iter().filter(|id| !model.contains(&(**id + 1))).count();
            prop_assert_eq!(set.ranges().len(), gaps);
        }
    }
}
