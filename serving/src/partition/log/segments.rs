//! What readers see of an opening: its segments, how far each is committed, and the recent entries. The writer changes it,
//! readers look; nobody holds the lock across a wait.

use std::sync::Arc;

use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::{EntryId, LedgerId, Offset, Term};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::tail::Tail;
use super::tails::Tails;
use super::{Ends, ReadEntry};

/// One ledger of the log.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// Its place among the segments.
    pub(super) seq: u32,
    /// The ledger.
    pub(super) ledger: LedgerId,
    /// Offset of its first record.
    pub(super) base_offset: Offset,
    /// The offset after its last record, of one that was folded; of others the next one's first says.
    pub(super) end_offset: Option<Offset>,
    /// Term of the owner that made it, as its batches say too.
    pub(super) term: Term,
    /// Largest record timestamp in it, milliseconds; -1 when there is none, `None` when it is not known.
    pub(super) max_timestamp: Option<i64>,
    /// Bytes of its payloads, once known; of the newest those that are acknowledged.
    pub(super) bytes: Option<u64>,
    /// Its metadata, once it was needed.
    pub(super) meta: Option<Arc<LedgerMeta>>,
    /// The last entry that may be read (RD1); of a closed ledger its end. `None` until the metadata was read.
    pub(super) readable: Option<EntryId>,
}

/// What decides whether a segment is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::partition) struct Held {
    /// Its place among the segments.
    pub(in crate::partition) seq: u32,
    pub(in crate::partition) ledger: LedgerId,
    /// Offset of its first record.
    pub(in crate::partition) base: Offset,
    /// The offset after its last record.
    pub(in crate::partition) end: Offset,
    /// Largest record timestamp in it, milliseconds; -1 when there is none, `None` when it is not known.
    pub(in crate::partition) max_timestamp: Option<i64>,
    /// Bytes of its payloads; `None` when they are not known.
    pub(in crate::partition) bytes: Option<u64>,
    /// Whether its ledger has an end.
    pub(in crate::partition) closed: bool,
}

/// What comes after a segment.
#[derive(Debug, Clone)]
pub(super) enum After {
    /// This, or nothing.
    Next(Option<Segment>),
    /// The segment is before all that are here, of which this is the first: others may be between.
    Behind(Option<Segment>),
}

#[derive(Debug)]
struct State {
    log_start: Offset,
    /// The newest segment that is known to hold a complete snapshot within its LAC (P4).
    anchor: Option<u32>,
    /// In log order; base offsets never fall. Of equal ones only the last can hold records.
    segments: Vec<Segment>,
    tail: Tail,
    /// The tail is in the ring of [`Tails`], or about to be put there.
    joined: bool,
    max_timestamp: i64,
}

/// What a takeover found.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) ends: Ends,
    /// Largest record timestamp so far.
    pub(super) max_timestamp: i64,
    pub(super) segments: Vec<Segment>,
    /// The segment that the state begins in.
    pub(super) anchor: Option<u32>,
    /// The term of this opening.
    pub(super) term: Term,
}

/// The view.
#[derive(Debug)]
pub(super) struct Segments {
    state: Mutex<State>,
    high_watermark: watch::Sender<Offset>,
    /// The bound on all tails.
    tails: Tails,
    /// The term of this opening, and where it began.
    term: (Term, Offset),
}

impl Segments {
    pub(super) fn new(known: Known, tail: Tail, tails: Tails) -> Self {
        let Known { ends, max_timestamp, segments, anchor, term } = known;
        let log_start = ends.log_start;
        let state = State { log_start, anchor, segments, tail, joined: false, max_timestamp };
        let high_watermark = watch::Sender::new(ends.high_watermark);
        let term = (term, ends.high_watermark);
        Self { state: Mutex::new(state), high_watermark, tails, term }
    }

    pub(super) fn ends(&self) -> Ends {
        Ends {
            log_start: self.state.lock().log_start,
            high_watermark: *self.high_watermark.borrow(),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Offset> {
        self.high_watermark.subscribe()
    }

    /// Largest record timestamp that is committed.
    pub(super) fn max_timestamp(&self) -> i64 {
        self.state.lock().max_timestamp
    }

    /// The newest segment acknowledged up to `lac`, which makes these entries readable.
    pub(super) fn committed(self: &Arc<Self>, entries: Vec<ReadEntry>, high_watermark: Offset) {
        let mut state = self.state.lock();
        let before = state.tail.bytes();
        for entry in entries {
            state.max_timestamp = state.max_timestamp.max(entry.max_timestamp);
            if let Some(newest) = state.segments.last_mut() {
                newest.max_timestamp = newest.max_timestamp.map(|t| t.max(entry.max_timestamp));
                // Of a closed one the length is known, and counts these already.
                if newest.meta.as_ref().is_some_and(|meta| meta.last_entry.is_none()) {
                    newest.bytes = newest.bytes.map(|bytes| bytes + entry.payload.len() as u64);
                }
            }
            state.tail.push(entry);
        }
        let after = state.tail.bytes();
        let joins = after > 0 && !std::mem::replace(&mut state.joined, after > 0);
        drop(state);
        if joins {
            self.tails.join(Arc::downgrade(self));
        }
        self.tails.shrank(before.saturating_sub(after));
        self.tails.grew(after.saturating_sub(before));
        self.high_watermark
            .send_if_modified(|now| std::mem::replace(now, high_watermark) != high_watermark);
    }

    /// Forgets recent entries, `bytes` of them or all; whether there are more.
    pub(super) fn forget(&self, bytes: usize) -> bool {
        let mut state = self.state.lock();
        let before = state.tail.bytes();
        state.tail.forget(bytes);
        let after = state.tail.bytes();
        state.joined = after > 0;
        drop(state);
        self.tails.shrank(before - after);
        after > 0
    }

    /// The newest segment's ledger may be read up to here.
    pub(super) fn readable(&self, lac: EntryId) {
        if let Some(last) = self.state.lock().segments.last_mut() {
            last.readable = last.readable.max(Some(lac));
        }
    }

    /// The ledger of a segment was closed.
    pub(super) fn closed(&self, seq: u32, meta: Arc<LedgerMeta>) {
        let mut state = self.state.lock();
        if let Some(segment) = state.segments.iter_mut().find(|s| s.seq == seq) {
            segment.readable = meta.last_entry;
            segment.bytes = Some(meta.length);
            segment.meta = Some(meta);
        }
    }

    /// Something after the head snapshot of this segment is acknowledged, and so is the snapshot (P4). Whether that is news.
    pub(super) fn anchored(&self, seq: u32) -> bool {
        let mut state = self.state.lock();
        let moved = state.anchor < Some(seq);
        state.anchor = state.anchor.max(Some(seq));
        moved
    }

    /// Where the log starts now; it never starts earlier again.
    pub(super) fn start_at(&self, offset: Offset) {
        let mut state = self.state.lock();
        state.log_start = state.log_start.max(offset);
    }

    /// The first segments that nothing needs: those of a statelog hold no offsets at all. `unanchored`: the rule is broken by
    /// a test.
    pub(super) fn dead(&self, limit: usize, unanchored: bool) -> Vec<(u32, LedgerId)> {
        let state = self.state.lock();
        let anchored = |seq: u32| Some(seq) < state.anchor || unanchored;
        let pairs = state.segments.iter().zip(state.segments.iter().skip(1));
        pairs
            .filter(|(segment, next)| {
                let end = next.base_offset;
                let needed = end > state.log_start && end > segment.base_offset;
                anchored(segment.seq) && !needed
            })
            .map(|(segment, _)| (segment.seq, segment.ledger))
            .take(limit)
            .collect()
    }

    /// These segments are gone.
    pub(super) fn removed(&self, seqs: &[u32]) {
        self.state.lock().segments.retain(|segment| !seqs.contains(&segment.seq));
    }

    /// What retention looks at, in log order: every segment, the newest included.
    pub(super) fn held(&self) -> Vec<Held> {
        let state = self.state.lock();
        let high_watermark = *self.high_watermark.borrow();
        let ends = state.segments.iter().skip(1).map(|s| s.base_offset).chain([high_watermark]);
        let held = |(segment, end): (&Segment, Offset)| Held {
            seq: segment.seq,
            ledger: segment.ledger,
            base: segment.base_offset,
            end,
            max_timestamp: segment.max_timestamp,
            bytes: segment.bytes,
            // One that was closed before this opening has metadata only when it was needed; the newest of them all may be open.
            closed: segment.meta.as_ref().is_none_or(|meta| meta.last_entry.is_some()),
        };
        state.segments.iter().zip(ends).map(held).collect()
    }

    /// How long all segments are together, as far as is known; `None` when the newest is one that is not counted.
    pub(super) fn known_bytes(&self) -> Option<u64> {
        let state = self.state.lock();
        state.segments.last()?.bytes?;
        Some(state.segments.iter().filter_map(|segment| segment.bytes).sum())
    }

    /// What was found out about a segment.
    pub(super) fn learned(&self, seq: u32, max_timestamp: Option<i64>, bytes: Option<u64>) {
        let mut state = self.state.lock();
        if let Some(segment) = state.segments.iter_mut().find(|s| s.seq == seq) {
            segment.max_timestamp = segment.max_timestamp.or(max_timestamp);
            segment.bytes = segment.bytes.or(bytes);
        }
    }

    /// Kafka's `OffsetForLeaderEpoch`: the largest term up to `term` that is known here, and where its records end. `None`
    /// when `term` is above every known one.
    pub(super) fn end_of_term(&self, term: Term) -> Option<(Term, Offset)> {
        let state = self.state.lock();
        let (current, begun) = self.term;
        if term >= current {
            let end = *self.high_watermark.borrow();
            return (term == current).then_some((current, end));
        }
        // Terms never fall along the log, and one without records shows in no segment.
        let (mut floor, mut end) = (term, begun);
        for segment in &state.segments {
            if segment.term > term {
                end = segment.base_offset.min(begun);
                break;
            }
            floor = segment.term;
        }
        Some((floor, end.max(state.log_start)))
    }

    /// The term under which the record at `offset` was written; `None` where there is none yet. Among segments that begin at the
    /// same offset the last one has records, if any has.
    pub(super) fn term_of(&self, offset: Offset) -> Option<Term> {
        if offset >= *self.high_watermark.borrow() {
            return None;
        }
        let state = self.state.lock();
        let after = state.segments.partition_point(|segment| segment.base_offset <= offset);
        state.segments[..after].last().map(|segment| segment.term)
    }

    /// Those up to `seq` are in the manifest now.
    pub(super) fn folded(&self, seq: u32) {
        self.state.lock().segments.retain(|segment| segment.seq > seq);
    }

    /// The first of them.
    pub(super) fn first(&self) -> Option<Segment> {
        self.state.lock().segments.first().cloned()
    }

    /// A segment was added at the end.
    pub(super) fn opened(&self, segment: Segment) {
        let mut state = self.state.lock();
        debug_assert!(
            state
                .segments
                .last()
                .is_none_or(|s| s.seq < segment.seq && s.base_offset <= segment.base_offset)
        );
        state.segments.push(segment);
    }

    /// Metadata that was read again.
    pub(super) fn refreshed(&self, ledger: LedgerId, meta: Arc<LedgerMeta>) {
        let mut state = self.state.lock();
        if let Some(segment) = state.segments.iter_mut().find(|s| s.ledger == ledger) {
            segment.readable = segment.readable.max(meta.last_entry);
            segment.meta = Some(meta);
        }
    }

    /// The segment that contains `offset`, if any does.
    pub(super) fn containing(&self, offset: Offset) -> Option<Segment> {
        let state = self.state.lock();
        let after = state.segments.partition_point(|s| s.base_offset <= offset);
        state.segments.get(after.checked_sub(1)?).cloned()
    }

    /// The segment after `seq`.
    pub(super) fn after(&self, seq: u32) -> After {
        let state = self.state.lock();
        let next = state.segments.iter().find(|s| s.seq > seq).cloned();
        match state.segments.first() {
            Some(first) if first.seq <= seq => After::Next(next),
            _ => After::Behind(next),
        }
    }

    /// The segment with this number.
    pub(super) fn numbered(&self, seq: u32) -> Option<Segment> {
        self.state.lock().segments.iter().find(|s| s.seq == seq).cloned()
    }

    /// All segments, in log order.
    pub(super) fn all(&self) -> Vec<Segment> {
        self.state.lock().segments.clone()
    }

    /// [`Tail::read`].
    pub(super) fn recent(&self, from: Offset, max_bytes: usize) -> Option<Vec<ReadEntry>> {
        self.state.lock().tail.read(from, max_bytes)
    }

    /// Whether a reader that stands at `offset` reads from memory.
    pub(super) fn is_recent(&self, offset: Offset) -> bool {
        self.state.lock().tail.covers(offset)
    }

    /// [`Tail::by_time`].
    pub(super) fn recent_by_time(&self, timestamp_ms: i64) -> Option<ReadEntry> {
        let state = self.state.lock();
        state.tail.by_time(timestamp_ms, state.log_start)
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        self.tails.shrank(self.state.get_mut().tail.bytes());
    }
}
