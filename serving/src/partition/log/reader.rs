//! Reading what is committed: recent entries from memory, older ones from ledgers. Inside a ledger an offset is found by
//! binary search over entry headers; where a read ended is remembered, so that reading on needs no search, and whoever
//! reads on finds the next entries on their way.
//!
//! What is read of ledgers never enters the memory of recent entries, where only the writer puts what it has just committed
//! ([`Segments::committed`]): readers that are behind push out nothing that others are about to read.

mod pieces;
mod search;
mod stored;

use std::collections::VecDeque;
use std::sync::Arc;

use geminga_ledger::LedgerClient;
use geminga_metastore::record::Tier;
use geminga_proto::entry::{Entry, Kind};
use geminga_proto::ids::{EntryId, LedgerId, Offset, Term};
use geminga_runtime::requests;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::folded::{Folded, FoldedHeld, FoldedSize};
use super::reads::{Call, MAX_PIECE_BYTES, Reads};
use super::segments::{Held, Segment, Segments};
use super::{Ends, ReadEntry};
use crate::partition::metrics;
use pieces::Pieces;
use stored::{Source, Stored};

/// Most places remembered.
const MAX_HINTS: usize = 64;
/// Whoever reads on is fetched so much at least, however little is asked for at a time.
const MIN_AHEAD_BYTES: usize = 256 * 1024;

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
    stored: Stored,
    reads: Reads,
    hints: Arc<Mutex<VecDeque<Hint>>>,
    pieces: Arc<Pieces>,
}

/// What a reader reads from.
#[derive(Debug)]
pub(super) struct Stores {
    pub(super) ledgers: LedgerClient,
    pub(super) folded: Arc<Folded>,
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

impl LogReader {
    pub(super) fn new(stores: Stores, segments: Arc<Segments>, reads: Reads) -> Self {
        let Stores { ledgers, folded } = stores;
        let stored = Stored { ledgers, segments, folded };
        Self { stored, reads, hints: Arc::default(), pieces: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn stored_segments(&self) -> &Segments {
        &self.stored.segments
    }

    #[cfg(test)]
    pub(super) fn stored_folded(&self) -> &Folded {
        &self.stored.folded
    }

    /// The ends of what can be read.
    pub fn ends(&self) -> Ends {
        self.stored.segments.ends()
    }

    /// Follows the high watermark (P1).
    pub fn watch(&self) -> watch::Receiver<Offset> {
        self.stored.segments.watch()
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
        if let Some(recent) = self.stored.segments.recent(from, max_bytes) {
            metrics::count_read_from("memory", recent.iter().map(|e| e.payload.len()).sum());
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
        let mut segment = self.stored.containing(from).await?;
        let mut start = None;
        while let Some(this) = segment {
            let source = self.source(this).await?;
            let (entry, on) = match start {
                None => match self.hint(from, source.segment.ledger) {
                    Some(entry) => (entry, true),
                    None => (self.locate(&source, from).await?, false),
                },
                Some(first) => (first, true),
            };
            let mut found = self.read_on(&source, entry, from, max_bytes, on).await?;
            // A ledger that somebody else has closed holds more than this opening knows: what is read there now could
            // not be read on from here, and whoever asked would be told that its place is out of range (P1).
            let end = self.ends().high_watermark;
            found.retain(|entry| entry.end() <= end);
            if !found.is_empty() {
                return Ok(found);
            }
            // What the segment holds ends before `from`: it is at the head of the next.
            (segment, start) = (self.stored.after(source.segment.seq).await?, Some(EntryId(0)));
        }
        Err(ReadError::Damaged(format!("no segment holds offset {from}, which is committed")))
    }

    /// The first Batches entry with a record of `timestamp_ms` or later. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn by_time(&self, timestamp_ms: i64) -> Result<Option<ReadEntry>, ReadError> {
        if self.stored.segments.max_timestamp() < timestamp_ms {
            return Ok(None);
        }
        if let Some(recent) = self.stored.segments.recent_by_time(timestamp_ms) {
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
        match self.by_time(self.stored.segments.max_timestamp()).await? {
            Some(found) => Ok(Some(found)),
            None => self.search_max().await,
        }
    }

    /// Folded segments, as retention looks at them; they are before all others.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(in crate::partition) async fn folded_held(&self) -> Result<FoldedHeld, ReadError> {
        self.stored.folded.held(self.ends().log_start).await
    }

    /// How much is folded, as far as this opening knows.
    pub(in crate::partition) fn folded_size(&self) -> FoldedSize {
        FoldedSize::of(&self.stored.folded.now(), self.ends().log_start)
    }

    /// How long the log is; grows before the high watermark does.
    pub(in crate::partition) fn known_bytes(&self) -> Option<u64> {
        self.stored.segments.known_bytes()
    }

    /// The segments that have keys, as retention looks at them.
    pub(in crate::partition) fn held(&self) -> Vec<Held> {
        self.stored.segments.held()
    }

    /// The largest timestamp in a closed segment, or one that is larger: what was the largest so far when it ended. -1 when
    /// no record has one.
    pub(in crate::partition) async fn newest_of(&self, seq: u32) -> Result<i64, ReadError> {
        let Some(segment) = self.stored.numbered(seq).await? else { return Ok(-1) };
        let source = self.source(segment).await?;
        if source.last == EntryId::NONE {
            return Ok(-1);
        }
        let newest = self.header(&source, source.last).await?.running_max_timestamp;
        self.stored.segments.learned(seq, Some(newest), None);
        self.stored.folded.learned(seq, newest);
        Ok(newest)
    }

    /// When a segment's ledger was made, and how long it is when it is closed; `None` where it is gone.
    pub(in crate::partition) async fn ledger_of(
        &self,
        seq: u32,
    ) -> Result<Option<(i64, u64)>, ReadError> {
        let Some(segment) = self.stored.numbered(seq).await? else { return Ok(None) };
        let meta = match segment.meta {
            Some(meta) => meta,
            None => {
                let source = self.stored.refresh(segment).await?;
                source.segment.meta.expect("it was just read")
            }
        };
        let closed = meta.last_entry.is_some();
        self.stored.segments.learned(seq, None, closed.then_some(meta.length));
        Ok(Some((meta.created_ms, meta.length)))
    }

    /// Under which term the record at an offset was written; `None` where there is none yet. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn term_of(&self, offset: Offset) -> Result<Option<Term>, ReadError> {
        match self.stored.segments.term_of(offset) {
            None if offset < self.ends().high_watermark => {
                Ok(self.stored.folded.containing(offset).await?.map(|segment| segment.term))
            }
            known => Ok(known),
        }
    }

    /// Where the records of a term end: [`Segments::end_of_term`]. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn end_of_term(&self, term: Term) -> Result<Option<(Term, Offset)>, ReadError> {
        let known = self.stored.segments.end_of_term(term);
        if self.stored.segments.first().is_none_or(|first| first.term <= term) {
            return Ok(known);
        }
        // Every segment that has a key is of a later term: where the first of all such is, what is folded tells.
        let start = self.ends().log_start;
        let Some((before, end)) = self.stored.folded.first_above(term, start).await? else {
            let last = self.stored.folded.last(start).await?;
            return Ok(known.map(|(floor, end)| (last.map_or(floor, |last| last.term), end)));
        };
        Ok(Some((before.unwrap_or(term), end.max(start))))
    }

    async fn source(&self, segment: Segment) -> Result<Source, ReadError> {
        self.stored.source(segment).await
    }

    /// Headers, or single entries, of one ledger: [`Stored::entries`].
    async fn entries(
        &self,
        source: &Source,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
        prefix: Option<u32>,
    ) -> Result<Vec<Entry>, ReadError> {
        self.stored.entries(source, from, to, max_bytes, prefix).await
    }

    /// Batches of `source` from `entry` on that end after `from`, from one read that has any. `on`: somebody reads on there.
    async fn read_on(
        &self,
        source: &Source,
        mut entry: EntryId,
        from: Offset,
        max_bytes: usize,
        on: bool,
    ) -> Result<Vec<ReadEntry>, ReadError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut last_found = entry;
        while entry <= source.last && found.is_empty() {
            let read = self.piece(source, entry, max_bytes, on).await?;
            let before = read.partition_point(|read| read.position.entry < entry);
            for read in &read[before..] {
                let size = read.payload.len();
                if !found.is_empty() && bytes + size > max_bytes {
                    break;
                }
                entry = read.position.entry.next();
                if let Some(batches) = batches(read.clone()).filter(|b| b.end() > from) {
                    bytes += size;
                    found.push(batches);
                    last_found = entry.prev();
                }
            }
        }
        metrics::count_read_from("ledgers", bytes);
        if let Some(last) = found.last() {
            self.remember(source.segment.ledger, last, last_found);
        }
        Ok(found)
    }

    /// Entries that hold `entry`: what was read before and did not fit, what was read ahead, or what is read now. For one who
    /// reads on, they are kept and the next are fetched meanwhile.
    async fn piece(
        &self,
        source: &Source,
        entry: EntryId,
        max_bytes: usize,
        on: bool,
    ) -> Result<Arc<Vec<Entry>>, ReadError> {
        let ledger = source.segment.ledger;
        let bytes = if on { max_bytes.max(MIN_AHEAD_BYTES) } else { max_bytes };
        let bytes = bytes.min(MAX_PIECE_BYTES);
        loop {
            let known = self.pieces.find(ledger, entry);
            let ahead = known.is_some();
            let piece = known.unwrap_or_else(|| {
                let call = self.call(source, entry, bytes);
                // It is read elsewhere, for whoever asked first.
                let call: Call = Box::pin(requests::scope(requests::current(), call));
                let piece = self.reads_of(source).begin(ledger, entry, bytes, call);
                // Whoever gives up waiting for it, and asks again, finds it where it was.
                self.pieces.keep(&piece);
                piece
            });
            match piece.wait().await {
                Ok(Some(entries)) => {
                    metrics::count_piece(if ahead { "kept" } else { "asked" });
                    if self.reads.is_short() || !(on || ahead) {
                        self.pieces.forget(&piece);
                    } else if on {
                        self.read_ahead(source, &entries, bytes);
                    }
                    return Ok(entries);
                }
                Err(error) if !ahead => {
                    self.pieces.forget(&piece);
                    return Err(error);
                }
                // What was tried before it was wanted, or given up, says nothing now.
                Ok(None) | Err(_) => self.pieces.forget(&piece),
            }
        }
    }

    /// Fetches what follows `here`, once, unless it is in memory anyway.
    fn read_ahead(&self, source: &Source, here: &[Entry], bytes: usize) {
        let Some(last) = here.last() else { return };
        let (ledger, next) = (source.segment.ledger, last.position.entry.next());
        let end = last.attributes.first_offset + i64::from(last.attributes.offset_count);
        if next > source.last
            || self.pieces.has(ledger, next)
            || !self.pieces.has_place()
            || self.stored.segments.is_recent(Offset(end))
        {
            return;
        }
        let call = self.call(source, next, bytes);
        if let Some(piece) = self.reads_of(source).ahead(ledger, next, bytes, call) {
            self.pieces.keep(&piece);
        }
    }

    /// The places of those who are asked.
    fn reads_of(&self, source: &Source) -> Reads {
        match source.reader.meta().tier {
            Tier::Trimmed(_) => self.reads.cold(),
            Tier::Local | Tier::Uploading { .. } | Tier::Offloaded(_) => self.reads.clone(),
        }
    }

    fn call(&self, source: &Source, from: EntryId, bytes: usize) -> Call {
        let (stored, source) = (self.stored.clone(), source.clone());
        Box::pin(async move { stored.entries(&source, from, source.last, bytes, None).await })
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
