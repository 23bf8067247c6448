//! The newest committed Batches entries of a partition in memory, within a bound of bytes: consumers that keep up are
//! served from here, without a look at storage.

use std::collections::VecDeque;

use geminga_proto::ids::Offset;

use super::ReadEntry;

/// Entries with consecutive offsets, up to the high watermark.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<ReadEntry>,
    bytes: usize,
    max_bytes: usize,
    /// Largest record timestamp of everything before the window.
    max_timestamp_before: i64,
}

impl Tail {
    pub(super) fn new(max_bytes: usize, max_timestamp_before: i64) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max_bytes, max_timestamp_before }
    }

    /// Payload bytes kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next entry and forgets the oldest beyond the bound.
    pub(super) fn push(&mut self, entry: ReadEntry) {
        debug_assert!(self.entries.back().is_none_or(|last| last.end() == entry.first_offset));
        self.bytes += entry.payload.len();
        self.entries.push_back(entry);
        self.forget(self.bytes.saturating_sub(self.max_bytes));
    }

    /// Forgets the oldest entries, at least `bytes` of them where there are so many.
    pub(super) fn forget(&mut self, bytes: usize) {
        let keep = self.bytes.saturating_sub(bytes);
        while self.bytes > keep
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.payload.len();
            self.max_timestamp_before = self.max_timestamp_before.max(oldest.max_timestamp);
        }
    }

    /// Whether `offset` is not before the window.
    pub(super) fn covers(&self, offset: Offset) -> bool {
        self.entries.front().is_some_and(|first| first.first_offset <= offset)
    }

    /// Entries from the one that contains `from`, at least one, about `max_bytes`; `None` when `from` is not in the window.
    pub(super) fn read(&self, from: Offset, max_bytes: usize) -> Option<Vec<ReadEntry>> {
        if !self.covers(from) {
            return None;
        }
        let start = self.entries.partition_point(|entry| entry.end() <= from);
        let mut bytes = 0;
        let within = |entry: &&ReadEntry| {
            let first = bytes == 0;
            bytes += entry.payload.len();
            first || bytes <= max_bytes
        };
        Some(self.entries.range(start..).take_while(within).cloned().collect())
    }

    /// The first entry that ends after `log_start` with a record of `timestamp_ms` or later; `None` when it may lie before
    /// the window.
    pub(super) fn by_time(&self, timestamp_ms: i64, log_start: Offset) -> Option<ReadEntry> {
        if self.max_timestamp_before >= timestamp_ms {
            return None;
        }
        let mut there = self.entries.iter().filter(|entry| entry.end() > log_start);
        there.find(|entry| entry.max_timestamp >= timestamp_ms).cloned()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tail(entries: i64, max_bytes: usize) -> Tail {
        let mut tail = Tail::new(max_bytes, -1);
        for n in 0..entries {
            tail.push(ReadEntry {
                first_offset: Offset(n * 10),
                offset_count: 10,
                max_timestamp: n * 100,
                payload: Bytes::from(vec![0; 100]),
            });
        }
        tail
    }

    fn firsts(read: Option<Vec<ReadEntry>>) -> Option<Vec<i64>> {
        read.map(|entries| entries.iter().map(|e| e.first_offset.0).collect())
    }

    #[test]
    fn reads_whole_entries_and_at_least_one() {
        let tail = tail(5, 1_000);
        assert_eq!(firsts(tail.read(Offset(25), 250)), Some(vec![20, 30]));
        assert_eq!(firsts(tail.read(Offset(29), 1)), Some(vec![20]));
        assert_eq!(firsts(tail.read(Offset(0), 10_000)), Some(vec![0, 10, 20, 30, 40]));
    }

    #[test]
    fn forgets_the_oldest_beyond_its_bound() {
        let tail = tail(8, 300);
        assert_eq!(firsts(tail.read(Offset(49), 1_000)), None);
        assert_eq!(firsts(tail.read(Offset(50), 1_000)), Some(vec![50, 60, 70]));
        let by_time = |time, start| tail.by_time(time, Offset(start)).map(|e| e.first_offset);
        assert_eq!(by_time(400, 0), None, "was in the window and may be found in the log");
        assert_eq!(by_time(401, 0), Some(Offset(50)));
        assert_eq!(by_time(401, 60), Some(Offset(60)), "what is before the log start is gone");
        assert_eq!(by_time(701, 0), None);
    }
}
