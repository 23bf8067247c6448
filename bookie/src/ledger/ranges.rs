//! Which entries of a ledger a bookie holds: sorted runs that never touch. Contiguity makes this one run in
//! ordinary life, and several only where a bookie left an ensemble and came back (I9).

use geminga_proto::ids::EntryId;

/// A set of entry ids as sorted, separated runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ranges(Vec<(EntryId, EntryId)>);

impl Ranges {
    /// The largest `t >= first - 1` such that every entry `first..=t` is in the set: `tail(b, f)` of the protocol.
    pub fn tail(&self, first: EntryId) -> EntryId {
        match self.0.iter().find(|(from, to)| *from <= first && first <= *to) {
            Some(&(_, to)) => to,
            None => first.prev(),
        }
    }

    /// Whether `entry` is in the set.
    pub fn contains(&self, entry: EntryId) -> bool {
        self.tail(entry) >= entry
    }

    /// The largest entry, or none.
    pub fn last(&self) -> EntryId {
        self.0.last().map_or(EntryId::NONE, |&(_, to)| to)
    }

    /// The runs, in order, both ends included.
    pub fn runs(&self) -> &[(EntryId, EntryId)] {
        &self.0
    }

    /// Adds `from..=to`, joining runs that meet.
    pub fn insert(&mut self, from: EntryId, to: EntryId) {
        debug_assert!(from <= to, "a run has at least one entry");
        let start = self.0.partition_point(|&(_, end)| end.next() < from);
        let end = self.0.partition_point(|&(begin, _)| begin <= to.next());
        let mut merged = (from, to);
        for &(begin, end) in &self.0[start..end] {
            merged = (merged.0.min(begin), merged.1.max(end));
        }
        self.0.splice(start..end, [merged]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(runs: &[(i64, i64)]) -> Ranges {
        let mut ranges = Ranges::default();
        for &(from, to) in runs {
            ranges.insert(EntryId(from), EntryId(to));
        }
        ranges
    }

    #[test]
    fn runs_that_meet_become_one() {
        assert_eq!(set(&[(0, 0), (1, 1), (2, 5)]).runs(), &[(EntryId(0), EntryId(5))]);
        assert_eq!(set(&[(5, 9), (0, 2), (3, 4)]).runs(), &[(EntryId(0), EntryId(9))]);
        assert_eq!(set(&[(0, 1), (8, 9), (3, 4)]).runs().len(), 3);
        assert_eq!(set(&[(0, 1), (8, 9), (3, 4), (0, 20)]).runs(), &[(EntryId(0), EntryId(20))]);
    }

    #[test]
    fn a_tail_is_relative_to_the_fragment() {
        let ranges = set(&[(0, 4), (7, 9)]);
        for (first, tail) in [(0, 4), (3, 4), (5, 4), (6, 5), (7, 9), (9, 9), (10, 9), (12, 11)] {
            assert_eq!(ranges.tail(EntryId(first)), EntryId(tail), "from {first}");
        }
    }
}
