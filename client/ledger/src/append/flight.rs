//! Entries between the owner and the bookies: encoded bytes until every member that takes part has them, outcomes until
//! they are known, and the running length and digest up to the LAC.

use std::collections::VecDeque;

use bytes::Bytes;
use geminga_proto::entry;
use geminga_proto::ids::EntryId;
use geminga_runtime::requests::RequestId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::core::writer::Outcome;

/// Bytes of the ledger's budget and of the process's.
pub(crate) type Permit = (OwnedSemaphorePermit, OwnedSemaphorePermit);

struct Entry {
    bytes: Bytes,
    cumulative_length: u64,
    entries_crc: u64,
    /// Gives the bytes back to the budgets when dropped.
    _permit: Permit,
    cause: Option<RequestId>,
    /// When the LAC passed it.
    confirmed_at: Option<Instant>,
    done: Option<oneshot::Sender<Outcome>>,
}

/// Length and rolling digest of everything up to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) length: u64,
    pub(super) entries_crc: u64,
}

/// A window of consecutive entries.
pub(super) struct Flight {
    first: EntryId,
    entries: VecDeque<Entry>,
    /// Up to the last entry.
    pushed: Totals,
    /// Up to the LAC.
    confirmed: Totals,
    lac: EntryId,
}

impl Flight {
    pub(super) fn new(first: EntryId) -> Self {
        let zero = Totals { length: 0, entries_crc: 0 };
        Self { first, entries: VecDeque::new(), pushed: zero, confirmed: zero, lac: first.prev() }
    }

    pub(super) fn confirmed(&self) -> Totals {
        self.confirmed
    }

    pub(super) fn push(
        &mut self,
        bytes: Bytes,
        cumulative_length: u64,
        (permit, cause): (Permit, Option<RequestId>),
        done: oneshot::Sender<Outcome>,
    ) {
        let digest = entry::stored_digest(&bytes).expect("made by entry::encode");
        let entries_crc = entry::roll_digest(self.pushed.entries_crc, digest);
        self.pushed = Totals { length: cumulative_length, entries_crc };
        self.entries.push_back(Entry {
            bytes,
            cumulative_length,
            entries_crc,
            _permit: permit,
            cause,
            confirmed_at: None,
            done: Some(done),
        });
    }

    fn index(&self, entry: EntryId) -> usize {
        usize::try_from(entry.0 - self.first.0).expect("within the window")
    }

    /// The request that so many entries were made for, where that is known of any: of the first such, since what a log writes of
    /// itself goes before the records in one message with them.
    pub(super) fn cause(&self, first: EntryId, count: usize) -> Option<RequestId> {
        self.entries
            .iter()
            .skip(self.index(first))
            .take(count)
            .find_map(|entry| entry.cause.clone())
    }

    /// Encoded entries `first..=last` cut into requests of about `max_bytes`.
    pub(super) fn chunks(
        &self,
        first: EntryId,
        last: EntryId,
        max_bytes: usize,
    ) -> Vec<(EntryId, Vec<Bytes>)> {
        let mut chunks: Vec<(EntryId, Vec<Bytes>)> = Vec::new();
        let mut size = usize::MAX;
        for id in first.0..=last.0 {
            let bytes = self.entries[self.index(EntryId(id))].bytes.clone();
            if size.saturating_add(bytes.len()) > max_bytes {
                chunks.push((EntryId(id), Vec::new()));
                size = 0;
            }
            size += bytes.len();
            chunks.last_mut().expect("just pushed").1.push(bytes);
        }
        chunks
    }

    /// Tells the owner, in id order (W3).
    pub(super) fn confirm(&mut self, lac: EntryId) {
        let now = Instant::now();
        for id in self.lac.next().0..=lac.0 {
            let index = self.index(EntryId(id));
            let entry = &mut self.entries[index];
            self.confirmed =
                Totals { length: entry.cumulative_length, entries_crc: entry.entries_crc };
            entry.confirmed_at = Some(now);
            tell(entry, Outcome::Acked);
        }
        self.lac = self.lac.max(lac);
    }

    /// How far a member that acknowledged up to `acked` is behind the LAC: since when, and by how many payload bytes.
    pub(super) fn lag(&self, acked: EntryId) -> Option<(Instant, u64)> {
        let next = acked.next().max(self.first);
        if next > self.lac {
            return None;
        }
        let entry = self.entries.get(self.index(next))?;
        let behind = self.confirmed.length.saturating_sub(entry.cumulative_length);
        Some((entry.confirmed_at?, behind))
    }

    /// Ends everything above the LAC.
    pub(super) fn fail(&mut self, outcome: Outcome) {
        for entry in &mut self.entries {
            tell(entry, outcome);
        }
        self.entries.clear();
    }

    /// Drops bytes that nobody needs any more.
    pub(super) fn release(&mut self, upto: EntryId) {
        while self.first <= upto && self.entries.pop_front().is_some() {
            self.first = self.first.next();
        }
    }
}

fn tell(entry: &mut Entry, outcome: Outcome) {
    if let Some(done) = entry.done.take() {
        // An owner that dropped the outcome does not want it.
        let _gone = done.send(outcome);
    }
}
