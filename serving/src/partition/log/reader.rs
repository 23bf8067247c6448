//! Reading what is committed: recent entries from memory, older ones from ledgers. Inside a ledger an offset is found by
//! binary search over entry headers; where a read ended is remembered, so that reading on needs no search.

mod search;

use std::collections::VecDeque;
use std::sync::Arc;

use geminga_ledger::{LedgerClient, Reader};
use geminga_proto::entry::{Entry, Kind};
use geminga_proto::ids::{EntryId, LedgerId, Offset, Term};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::segments::{Held, Segment, Segments};
use super::{Ends, ReadEntry};

/// Most places remembered.
const MAX_HINTS: usize = 64;

/// Why entries could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the high watermark.
    #[error("offset {asked} is not in {}..={}", .ends.log_start, .ends.high_watermark)]
    OutOfRange {
        /// Asked for.
        asked: Offset,
        /// What can be read.
        ends: Ends,
    },
    /// No replica can deliver it now; try again.
    #[error("records cannot be read now: {0}")]
    Unavailable(String),
    /// Committed entries that no replica has, or that do not decode (RD3).
    #[error("stored records are damaged: {0}")]
    Damaged(String),
}

/// Reads one opening's log. Cheap to clone; stays readable after the opening ended, up to what was committed then.
#[derive(Debug, Clone)]
pub struct LogReader {
    ledgers: LedgerClient,
    segments: Arc<Segments>,
    hints: Arc<Mutex<VecDeque<Hint>>>,
}

/// Where some offsets are.
#[derive(Debug, Clone, Copy)]
struct Hint {
    /// The first and the last.
    offsets: (Offset, Offset),
    ledger: LedgerId,
    entry: EntryId,
}

impl Hint {
    fn covers(&self, offset: Offset, ledger: LedgerId) -> bool {
        self.ledger == ledger && (self.offsets.0..=self.offsets.1).contains(&offset)
    }
}

/// One segment's ledger, ready to be read.
struct Source {
    segment: Segment,
    reader: Reader,
    /// The last entry that may be read (RD1).
    last: EntryId,
}

impl LogReader {
    pub(super) fn new(ledgers: LedgerClient, segments: Arc<Segments>) -> Self {
        Self { ledgers, segments, hints: Arc::default() }
    }

    /// The ends of what can be read.
    pub fn ends(&self) -> Ends {
        self.segments.ends()
    }

    /// Follows the high watermark (P1).
    pub fn watch(&self) -> watch::Receiver<Offset> {
        self.segments.watch()
    }

    /// Whole Batches entries from the one that contains `from`, about `max_bytes` of payload: at least one below the high
    /// watermark, none at it. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, from: Offset, max_bytes: usize) -> Result<Vec<ReadEntry>, ReadError> {
        let ends = self.ends();
        if from < ends.log_start || from > ends.high_watermark {
            return Err(ReadError::OutOfRange { asked: from, ends });
        }
        if from == ends.high_watermark {
            return Ok(Vec::new());
        }
        if let Some(recent) = self.segments.recent(from, max_bytes) {
            return Ok(recent);
        }
        match self.read_segments(from, max_bytes).await {
            Ok(found) => Ok(found),
            // What was being read may have been given up meanwhile.
            Err(error) => {
                let ends = self.ends();
                Err(if from < ends.log_start {
                    ReadError::OutOfRange { asked: from, ends }
                } else {
                    error
                })
            }
        }
    }

    async fn read_segments(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<ReadEntry>, ReadError> {
        let mut segment = self.segments.containing(from);
        let mut start = None;
        while let Some(this) = segment {
            let source = self.source(this).await?;
            let entry = match start {
                None => self.locate(&source, from).await?,
                Some(first) => first,
            };
            let mut found = self.read_on(&source, entry, from, max_bytes).await?;
            // A ledger that somebody else has closed holds more than this opening knows: what is read there now could
            // not be read on from here, and whoever asked would be told that its place is out of range (P1).
            let end = self.ends().high_watermark;
            found.retain(|entry| entry.end() <= end);
            if !found.is_empty() {
                return Ok(found);
            }
            // What the segment holds ends before `from`: it is at the head of the next.
            (segment, start) = (self.segments.after(source.segment.seq), Some(EntryId(0)));
        }
        Err(ReadError::Damaged(format!("no segment holds offset {from}, which is committed")))
    }

    /// The first Batches entry with a record of `timestamp_ms` or later. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn by_time(&self, timestamp_ms: i64) -> Result<Option<ReadEntry>, ReadError> {
        if self.segments.max_timestamp() < timestamp_ms {
            return Ok(None);
        }
        if let Some(recent) = self.segments.recent_by_time(timestamp_ms) {
            return Ok(Some(recent));
        }
        self.search_time(timestamp_ms).await
    }

    /// The entry with the largest timestamp of all, the first of several; `None` when there is no record. Where that was
    /// given up by retention, every header is looked at whose segment may hold the next largest. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn by_max_timestamp(&self) -> Result<Option<ReadEntry>, ReadError> {
        match self.by_time(self.segments.max_timestamp()).await? {
            Some(found) => Ok(Some(found)),
            None => self.search_max().await,
        }
    }

    /// The segments, as retention looks at them.
    pub(in crate::partition) fn held(&self) -> Vec<Held> {
        self.segments.held()
    }

    /// The largest timestamp in a closed segment, or one that is larger: what was the largest so far when it ended. -1 when
    /// no record has one.
    pub(in crate::partition) async fn newest_of(&self, seq: u32) -> Result<i64, ReadError> {
        let Some(segment) = self.segments.numbered(seq) else { return Ok(-1) };
        let source = self.source(segment).await?;
        if source.last == EntryId::NONE {
            return Ok(-1);
        }
        let newest = self.header(&source, source.last).await?.running_max_timestamp;
        self.segments.learned(seq, Some(newest), None);
        Ok(newest)
    }

    /// When a segment's ledger was made, and how long it is when it is closed; `None` where it is gone.
    pub(in crate::partition) async fn ledger_of(
        &self,
        seq: u32,
    ) -> Result<Option<(i64, u64)>, ReadError> {
        let Some(segment) = self.segments.numbered(seq) else { return Ok(None) };
        let meta = match segment.meta {
            Some(meta) => meta,
            None => {
                let source = self.refresh(segment).await?;
                source.segment.meta.expect("it was just read")
            }
        };
        let closed = meta.last_entry.is_some();
        self.segments.learned(seq, None, closed.then_some(meta.length));
        Ok(Some((meta.created_ms, meta.length)))
    }

    /// Under which term the record at an offset was written: [`Segments::term_of`].
    pub fn term_of(&self, offset: Offset) -> Option<Term> {
        self.segments.term_of(offset)
    }

    /// Where the records of a term end: [`Segments::end_of_term`].
    pub fn end_of_term(&self, term: Term) -> Option<(Term, Offset)> {
        self.segments.end_of_term(term)
    }

    /// A segment's ledger, its metadata read if it was not yet.
    async fn source(&self, segment: Segment) -> Result<Source, ReadError> {
        if let (Some(meta), Some(last)) = (&segment.meta, segment.readable) {
            let reader = self.ledgers.reader(Arc::clone(meta));
            return Ok(Source { reader, last, segment });
        }
        self.refresh(segment).await
    }

    async fn refresh(&self, mut segment: Segment) -> Result<Source, ReadError> {
        let ledger = segment.ledger;
        let read = self.ledgers.metadata(ledger).await;
        let read = read.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let Some((meta, _)) = read else {
            return Err(ReadError::Unavailable(format!("ledger {ledger} was deleted")));
        };
        let meta = Arc::new(meta);
        self.segments.refreshed(ledger, Arc::clone(&meta));
        segment.readable = segment.readable.or(meta.last_entry);
        let Some(last) = segment.readable else {
            return Err(ReadError::Damaged(format!("ledger {ledger} of an old segment is open")));
        };
        let reader = self.ledgers.reader(Arc::clone(&meta));
        segment.meta = Some(meta);
        Ok(Source { reader, last, segment })
    }

    /// Entries of one ledger. Members may have been replaced by a repair: what those of old metadata do not deliver, or say that
    /// they never had, is asked for by the present one before it counts (RD3, M8).
    async fn entries(
        &self,
        source: &Source,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
        prefix: Option<u32>,
    ) -> Result<Vec<Entry>, ReadError> {
        use geminga_ledger::ReadError as Error;
        if let Ok(entries) = source.reader.read(from, to, max_bytes, prefix).await {
            return Ok(entries);
        }
        let again = self.refresh(source.segment.clone()).await?;
        let read = again.reader.read(from, to, max_bytes, prefix).await;
        read.map_err(|error| match error {
            Error::Unavailable { .. } => ReadError::Unavailable(error.to_string()),
            Error::DataLoss { .. } => {
                tracing::error!(%error, "committed entries are lost");
                ReadError::Damaged(error.to_string())
            }
        })
    }

    /// Batches of `source` from `entry` on that end after `from`, from one read that has any.
    async fn read_on(
        &self,
        source: &Source,
        mut entry: EntryId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<ReadEntry>, ReadError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut last_found = entry;
        while entry <= source.last && found.is_empty() {
            for read in self.entries(source, entry, source.last, max_bytes, None).await? {
                let size = read.payload.len();
                if !found.is_empty() && bytes + size > max_bytes {
                    break;
                }
                entry = read.position.entry.next();
                if let Some(batches) = batches(read).filter(|b| b.end() > from) {
                    bytes += size;
                    found.push(batches);
                    last_found = entry.prev();
                }
            }
        }
        if let Some(last) = found.last() {
            self.remember(source.segment.ledger, last, last_found);
        }
        Ok(found)
    }

    /// Whoever reads on asks for the offset after `last`, or for one inside it.
    fn remember(&self, ledger: LedgerId, last: &ReadEntry, entry: EntryId) {
        let (first, end) = (last.first_offset, last.end());
        let mut hints = self.hints.lock();
        hints.retain(|hint| !hint.covers(end, ledger));
        let inside = (first, Offset(end.0 - 1));
        hints.push_back(Hint { offsets: inside, ledger, entry });
        hints.push_back(Hint { offsets: (end, end), ledger, entry: entry.next() });
        while hints.len() > MAX_HINTS {
            hints.pop_front();
        }
    }

    fn hint(&self, offset: Offset, ledger: LedgerId) -> Option<EntryId> {
        let hints = self.hints.lock();
        hints.iter().rev().find(|hint| hint.covers(offset, ledger)).map(|hint| hint.entry)
    }
}

/// A stored entry as readers get it; `None` for kinds that hold no records.
fn batches(entry: Entry) -> Option<ReadEntry> {
    let attributes = entry.attributes;
    (attributes.kind == Kind::Batches).then_some(ReadEntry {
        first_offset: Offset(attributes.first_offset),
        offset_count: attributes.offset_count,
        max_timestamp: attributes.max_timestamp,
        payload: entry.payload,
    })
}
