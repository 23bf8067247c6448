//! When `--until-end` has been reached: all partitions stand at or beyond the high watermarks that were read at the
//! start. Without a group that is about what this process read; in a group about what the group committed, whichever
//! member read it, so that no member leaves, and moves partitions, before everything is done.

use std::collections::BTreeMap;

/// High watermarks that were read at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::command) struct End(BTreeMap<u32, i64>);

impl End {
    /// The end of each partition.
    pub(super) fn new(high_watermarks: impl IntoIterator<Item = (u32, i64)>) -> Self {
        Self(high_watermarks.into_iter().collect())
    }

    /// Whether `positions` (next offset to read, by partition) reach it. A partition that never held a record needs no
    /// position.
    pub(super) fn reached(&self, positions: &BTreeMap<u32, i64>) -> bool {
        self.0.iter().all(|(partition, end)| *end <= positions.get(partition).copied().unwrap_or(0))
    }

    /// The end of one partition.
    pub(super) fn of(&self, partition: u32) -> Option<i64> {
        self.0.get(&partition).copied()
    }

    /// Records that are still to be read.
    pub(super) fn left(&self, positions: &BTreeMap<u32, i64>) -> u64 {
        let of = |(partition, end): (&u32, &i64)| {
            let position = positions.get(partition).copied().unwrap_or(0);
            u64::try_from(end - position).unwrap_or(0)
        };
        self.0.iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_reached_when_all_partitions_are() {
        let end = End::new([(0, 10), (1, 0), (2, 5)]);
        let at = |positions: &[(u32, i64)]| positions.iter().copied().collect::<BTreeMap<_, _>>();
        assert!(!end.reached(&at(&[])));
        assert!(!end.reached(&at(&[(0, 10), (2, 4)])));
        assert!(end.reached(&at(&[(0, 10), (2, 5)])));
        assert!(end.reached(&at(&[(0, 99), (1, 1), (2, 5), (7, 0)])));
        assert_eq!(end.left(&at(&[(0, 4), (2, 9)])), 6);
        assert!(End::new([]).reached(&at(&[])));
    }
}
