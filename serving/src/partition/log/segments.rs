//! What readers see of an opening: its segments, how far each is committed, and the recent entries. The writer changes it,
//! readers look; nobody holds the lock across a wait.

use std::sync::Arc;

use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::{EntryId, LedgerId, Offset};
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
    /// Its metadata, once it was needed.
    pub(super) meta: Option<Arc<LedgerMeta>>,
    /// The last entry that may be read (RD1); of a closed ledger its end. `None` until the metadata was read.
    pub(super) readable: Option<EntryId>,
}

#[derive(Debug)]
struct State {
    log_start: Offset,
    /// In log order; base offsets never fall. Of equal ones only the last can hold records.
    segments: Vec<Segment>,
    tail: Tail,
    /// The tail is in the ring of [`Tails`], or about to be put there.
    joined: bool,
    max_timestamp: i64,
}

/// The view.
#[derive(Debug)]
pub(super) struct Segments {
    state: Mutex<State>,
    high_watermark: watch::Sender<Offset>,
    /// The bound on all tails.
    tails: Tails,
}

impl Segments {
    pub(super) fn new(
        ends: Ends,
        max_timestamp: i64,
        segments: Vec<Segment>,
        tail: Tail,
        tails: Tails,
    ) -> Self {
        let log_start = ends.log_start;
        let state = State { log_start, segments, tail, joined: false, max_timestamp };
        let high_watermark = watch::Sender::new(ends.high_watermark);
        Self { state: Mutex::new(state), high_watermark, tails }
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
            segment.meta = Some(meta);
        }
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
    pub(super) fn after(&self, seq: u32) -> Option<Segment> {
        self.state.lock().segments.iter().find(|s| s.seq > seq).cloned()
    }

    /// All segments, in log order.
    pub(super) fn all(&self) -> Vec<Segment> {
        self.state.lock().segments.clone()
    }

    /// [`Tail::read`].
    pub(super) fn recent(&self, from: Offset, max_bytes: usize) -> Option<Vec<ReadEntry>> {
        self.state.lock().tail.read(from, max_bytes)
    }

    /// [`Tail::by_time`].
    pub(super) fn recent_by_time(&self, timestamp_ms: i64) -> Option<ReadEntry> {
        self.state.lock().tail.by_time(timestamp_ms)
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        self.tails.shrank(self.state.get_mut().tail.bytes());
    }
}
