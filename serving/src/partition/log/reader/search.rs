//! Finding an offset or a time inside the log by entry headers. Both rise along the log: first offsets by their
//! nature, times because each header carries the largest timestamp so far.

use geminga_ledger::Search;
use geminga_proto::entry::Attributes;
use geminga_proto::ids::{EntryId, Offset};

use super::{LogReader, ReadEntry, ReadError, Segment, Source, batches, stored};
use crate::partition::log::Ends;

/// Headers read at once when scanning: about this many bytes.
const SCAN_BYTES: usize = 64 * 1024;

impl LogReader {
    /// The entry of `source` to read `from` at: the last one that starts at or before it. Kinds without offsets carry the
    /// next offset, so of entries that start alike the last is the one with records.
    pub(super) async fn locate(&self, source: &Source, from: Offset) -> Result<EntryId, ReadError> {
        let within = self.narrow(source, Search::AboveOffset(from.0)).await?;
        let after = self.first(source, within, |a| a.first_offset > from.0).await?;
        Ok(after.prev().max(EntryId(0)))
    }

    /// Between which entries of a ledger something is to be looked for: both ends may be it. The index of an object tells, where
    /// bookies have dropped theirs: a search then reads of one block only.
    async fn narrow(
        &self,
        source: &Source,
        search: Search,
    ) -> Result<(EntryId, EntryId), ReadError> {
        let all = (EntryId(0), source.last.next());
        let narrowed = source.reader.narrow(search).await.map_err(stored::unreadable)?;
        Ok(narrowed.map_or(all, |(low, high)| (low.min(all.1), high.min(all.1))))
    }

    /// The first entry of these whose header passes `test`, which holds for all that follow one that passes; after the last
    /// when none does.
    async fn first(
        &self,
        source: &Source,
        within: (EntryId, EntryId),
        test: impl Fn(&Attributes) -> bool,
    ) -> Result<EntryId, ReadError> {
        let (mut low, mut high) = (within.0.0, within.1.0);
        while low < high {
            let middle = low + (high - low) / 2;
            if test(&self.header(source, EntryId(middle)).await?) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(EntryId(low))
    }

    pub(super) async fn header(
        &self,
        source: &Source,
        entry: EntryId,
    ) -> Result<Attributes, ReadError> {
        let entries = self.entries(source, entry, entry, 0, Some(0)).await?;
        let header = entries.first().map(|entry| entry.attributes);
        header.ok_or_else(|| ReadError::Unavailable(format!("no header of entry {entry}")))
    }

    /// The largest timestamp so far is at or beyond the time for the first time at the entry that is looked for, unless
    /// records that were there before the log start reached it: then a scan goes on from there.
    pub(super) async fn search_time(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<ReadEntry>, ReadError> {
        let segments = self.stored.segments.all();
        if self.is_reached_before(segments.first(), timestamp_ms).await? {
            let start = self.ends().log_start;
            let parts = self.stored.folded.parts(start);
            let (mut low, mut high) = (0, parts.len());
            while low < high {
                let middle = low + (high - low) / 2;
                let last = self.stored.numbered(parts[middle].last_seq).await?;
                if self.is_reached(last, timestamp_ms).await? {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            for part in &parts[low..] {
                let folded = self.stored.folded.segments(part, start).await?;
                if let Some(found) = self.search_among(folded, timestamp_ms).await? {
                    return Ok(Some(found));
                }
            }
        }
        self.search_among(segments, timestamp_ms).await
    }

    /// Whether a time may be reached among folded segments, by what the first of the others begins with: the largest timestamp so far.
    async fn is_reached_before(
        &self,
        first: Option<&Segment>,
        timestamp_ms: i64,
    ) -> Result<bool, ReadError> {
        let Some(first) = first.filter(|_| self.stored.folded.last_seq().is_some()) else {
            return Ok(false);
        };
        let source = self.source(first.clone()).await?;
        Ok(source.last == EntryId::NONE
            || self.header(&source, EntryId(0)).await?.running_max_timestamp >= timestamp_ms)
    }

    /// Whether it is reached by the end of a segment. An empty ledger says nothing; the time is then looked for in it and after it.
    async fn is_reached(
        &self,
        segment: Option<Segment>,
        timestamp_ms: i64,
    ) -> Result<bool, ReadError> {
        let Some(segment) = segment else { return Ok(true) };
        let source = self.source(segment).await?;
        Ok(source.last == EntryId::NONE
            || self.header(&source, source.last).await?.running_max_timestamp >= timestamp_ms)
    }

    async fn search_among(
        &self,
        segments: Vec<Segment>,
        timestamp_ms: i64,
    ) -> Result<Option<ReadEntry>, ReadError> {
        let (mut low, mut high) = (0, segments.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.is_reached(Some(segments[middle].clone()), timestamp_ms).await? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        // A time that was reached by records which are gone is reached by every header: then segments tell by themselves.
        let older = |s: &Segment| s.max_timestamp.is_some_and(|newest| newest < timestamp_ms);
        for segment in segments.into_iter().skip(low).filter(|segment| !older(segment)) {
            let source = self.source(segment).await?;
            if let Some(found) = self.scan_time(&source, timestamp_ms).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp of those that are there. Segments are taken in the order of what they may hold.
    pub(super) async fn search_max(&self) -> Result<Option<ReadEntry>, ReadError> {
        let mut best: Option<(i64, EntryId, Source)> = None;
        self.max_among(self.stored.segments.all(), &mut best).await?;
        let start = self.ends().log_start;
        for part in self.stored.folded.parts(start).iter().rev() {
            let folded = self.stored.folded.segments(part, start).await?;
            self.max_among(folded, &mut best).await?;
        }
        let Some((_, entry, source)) = best else { return Ok(None) };
        let read = self.entries(&source, entry, entry, 0, None).await?;
        Ok(read.into_iter().next().and_then(batches))
    }

    async fn max_among(
        &self,
        mut segments: Vec<Segment>,
        best: &mut Option<(i64, EntryId, Source)>,
    ) -> Result<(), ReadError> {
        segments.sort_by_key(|s| std::cmp::Reverse((s.max_timestamp.unwrap_or(i64::MAX), s.seq)));
        for segment in segments {
            let most = segment.max_timestamp;
            if most.is_some_and(|most| best.as_ref().is_some_and(|(found, ..)| most < *found)) {
                break;
            }
            let source = self.source(segment).await?;
            if let Some((newest, entry)) = self.newest_entry(&source).await?
                && best.as_ref().is_none_or(|(found, ..)| newest >= *found)
            {
                *best = Some((newest, entry, source));
            }
        }
        Ok(())
    }

    /// The first entry of a ledger with its largest timestamp, of those that may be read.
    async fn newest_entry(&self, source: &Source) -> Result<Option<(i64, EntryId)>, ReadError> {
        let Ends { log_start, high_watermark } = self.ends();
        let (mut next, mut best) = (EntryId(0), None);
        while next <= source.last {
            for entry in self.entries(source, next, source.last, SCAN_BYTES, Some(0)).await? {
                let id = entry.position.entry;
                next = id.next();
                let there =
                    batches(entry).filter(|b| b.end() > log_start && b.end() <= high_watermark);
                if let Some(found) = there
                    && best.is_none_or(|(newest, _)| found.max_timestamp > newest)
                {
                    best = Some((found.max_timestamp, id));
                }
            }
        }
        Ok(best)
    }

    async fn scan_time(
        &self,
        source: &Source,
        timestamp_ms: i64,
    ) -> Result<Option<ReadEntry>, ReadError> {
        let Ends { log_start, high_watermark } = self.ends();
        let within = self.narrow(source, Search::ReachingTime(timestamp_ms)).await?;
        let reached = |a: &Attributes| a.running_max_timestamp >= timestamp_ms;
        let mut next = self.first(source, within, reached).await?;
        while next <= source.last {
            for entry in self.entries(source, next, source.last, SCAN_BYTES, Some(0)).await? {
                let id = entry.position.entry;
                next = id.next();
                let late = entry.attributes.max_timestamp >= timestamp_ms;
                let there = batches(entry)
                    .is_some_and(|b| b.end() > log_start && b.end() <= high_watermark);
                if late && there {
                    let read = self.entries(source, id, id, 0, None).await?;
                    return Ok(read.into_iter().next().and_then(batches));
                }
            }
        }
        Ok(None)
    }
}
