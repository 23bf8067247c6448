//! Runs: consecutive entries of a ledger that one record holds, and what it means that a later record wins. A run costs 24 bytes of
//! memory, whatever the size of its entries.

use geminga_proto::ids::EntryId;

use super::live::Count;

/// Where an `Entries` record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::log) struct Place {
    pub(in crate::log) segment: u32,
    /// Of the record in its file, bytes.
    pub(in crate::log) offset: u32,
    /// Of the whole record, bytes.
    pub(in crate::log) length: u32,
}

/// Consecutive entries inside one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) struct Piece {
    pub(in crate::log) from: EntryId,
    pub(in crate::log) to: EntryId,
    pub(in crate::log) place: Place,
}

/// Consecutive entries and the record that they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: i64,
    /// At least 1.
    pub(super) count: u32,
    pub(super) place: Place,
}

impl Run {
    pub(super) fn last(&self) -> i64 {
        self.first + i64::from(self.count) - 1
    }

    /// The part of it that lies in `from..=to`.
    pub(super) fn part(self, from: i64, to: i64) -> Option<Self> {
        let (first, last) = (self.first.max(from), self.last().min(to));
        let count = u32::try_from(last.checked_sub(first)? + 1).ok().filter(|count| *count > 0)?;
        Some(Self { first, count, ..self })
    }

    pub(super) fn piece(self) -> Piece {
        Piece { from: EntryId(self.first), to: EntryId(self.last()), place: self.place }
    }
}

/// Puts a run among sorted ones: it wins, and an older one that reaches out before or behind keeps that part. What changes is
/// counted.
pub(super) fn put(runs: &mut Vec<Run>, new: Run, count: &mut Count<'_>) {
    count.add(&new);
    let start = runs.partition_point(|run| run.last() < new.first);
    let end = runs.partition_point(|run| run.first <= new.last());
    let overlapped = &runs[start..end];
    let before = overlapped.first().and_then(|run| run.part(i64::MIN, new.first - 1));
    let behind = overlapped.last().and_then(|run| run.part(new.last() + 1, i64::MAX));
    for part in before.iter().chain(&behind) {
        count.add(part);
    }
    for run in overlapped {
        count.take(run);
    }
    runs.splice(start..end, before.into_iter().chain([new]).chain(behind));
}

/// Takes out what is a part of a run; what is left of that on both sides stays.
pub(super) fn cut(runs: &mut Vec<Run>, part: Run, count: &mut Count<'_>) {
    put(runs, part, count);
    let at = runs.partition_point(|run| run.first < part.first);
    count.take(&runs.remove(at));
}

/// The parts of sorted runs that lie in `from..=to` and in a segment.
pub(super) fn parts(
    runs: &[Run],
    from: i64,
    to: i64,
    segment: u32,
) -> impl Iterator<Item = Run> + '_ {
    let start = runs.partition_point(|run| run.last() < from);
    let overlapping = runs[start..].iter().take_while(move |run| run.first <= to);
    let here = overlapping.filter(move |run| run.place.segment == segment);
    here.filter_map(move |run| run.part(from, to))
}

#[test]
fn a_run_takes_24_bytes() {
    assert_eq!(size_of::<Run>(), 24);
}
