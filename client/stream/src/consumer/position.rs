//! Where one partition is read, so that nothing is skipped or repeated whatever a stream sends again.

use geminga_records::Record;

/// The next offset to be given to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    next: i64,
    /// After a step back: what begins here or later was on its way before the server heard of the step.
    stale_from: Option<i64>,
}

impl Position {
    pub(crate) fn at(next: i64) -> Self {
        Self { next, stale_from: None }
    }

    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// Goes to `offset` on a stream that goes on.
    pub(crate) fn seek(&mut self, offset: i64) {
        if offset < self.next {
            self.stale_from = Some(self.stale_from.unwrap_or(self.next));
        } else if self.stale_from.is_some_and(|from| from <= offset) {
            // Forward again, beyond where it was: overlaps are cut off below.
            self.stale_from = None;
        }
        self.next = offset;
    }

    /// A fresh stream begins at `start`. When that is further on (the caller committed more than it read), what comes from
    /// there is not next until the server has heard where to go on.
    pub(crate) fn reopened(&mut self, start: i64) {
        self.stale_from = (self.next < start).then_some(start);
    }

    /// What of `records`, which end before `next_offset`, comes next; `None` when nothing of this answer does.
    pub(crate) fn accept(&mut self, records: Vec<Record>, next_offset: i64) -> Option<Vec<Record>> {
        let first = records.first().map_or(next_offset, |record| record.offset);
        if let Some(from) = self.stale_from {
            if first >= from {
                return None;
            }
            self.stale_from = None;
        }
        let mut records = records;
        records.retain(|record| record.offset >= self.next);
        if next_offset <= self.next && records.is_empty() {
            return None;
        }
        self.next = self.next.max(next_offset);
        Some(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(offsets: std::ops::Range<i64>) -> Vec<Record> {
        offsets.map(|offset| Record { offset, ..Record::default() }).collect()
    }

    fn accept(position: &mut Position, offsets: std::ops::Range<i64>) -> Option<Vec<i64>> {
        let next = offsets.end;
        let accepted = position.accept(records(offsets), next)?;
        Some(accepted.iter().map(|record| record.offset).collect())
    }

    #[test]
    fn what_was_read_is_not_read_again() {
        let mut position = Position::at(5);
        assert_eq!(accept(&mut position, 3..7), Some(vec![5, 6]));
        assert_eq!(accept(&mut position, 3..7), None);
        assert_eq!(accept(&mut position, 7..8), Some(vec![7]));
        // Offsets without records move it on.
        assert_eq!(position.accept(Vec::new(), 12), Some(Vec::new()));
        assert_eq!(position.next(), 12);
        assert_eq!(position.accept(Vec::new(), 12), None);
    }

    #[test]
    fn a_step_back_waits_for_its_answer() {
        let mut position = Position::at(10);
        position.seek(4);
        assert_eq!(accept(&mut position, 10..12), None);
        assert_eq!(accept(&mut position, 12..13), None);
        assert_eq!(accept(&mut position, 4..8), Some(vec![4, 5, 6, 7]));
        assert_eq!(accept(&mut position, 8..11), Some(vec![8, 9, 10]));
        position.seek(3);
        position.seek(5);
        assert_eq!(accept(&mut position, 11..12), None);
        assert_eq!(accept(&mut position, 3..5), None);
        assert_eq!(accept(&mut position, 5..6), Some(vec![5]));
    }

    #[test]
    fn a_step_forward_cuts_off_what_is_before_it() {
        let mut position = Position::at(2);
        position.seek(6);
        assert_eq!(accept(&mut position, 2..4), None);
        assert_eq!(accept(&mut position, 4..8), Some(vec![6, 7]));
        assert_eq!(accept(&mut position, 6..9), Some(vec![8]));
        position.seek(1);
        position.seek(20);
        assert_eq!(accept(&mut position, 9..12), None);
        assert_eq!(accept(&mut position, 20..21), Some(vec![20]));
        position.seek(1);
        position.reopened(1);
        assert_eq!(accept(&mut position, 1..2), Some(vec![1]));
        position.reopened(0);
        assert_eq!(accept(&mut position, 0..3), Some(vec![2]));
        position.reopened(9);
        assert_eq!(accept(&mut position, 9..12), None, "it would skip what is before");
        assert_eq!(accept(&mut position, 3..9), Some(vec![3, 4, 5, 6, 7, 8]));
    }
}
