//! Batches of a lane: one that still takes records, and those that are sealed, with who waits for them.

use std::time::Duration;

use geminga_proto::reason::ApiError;
use geminga_records::{Builder, Sequence, decode, encode};
use tokio::time::Instant;

use super::Done;
use crate::error::Error;

/// Decompressed bytes of one of our own batches: what its builder let in.
const OWN_BATCH_BYTES: usize = 2 * geminga_proto::caps::MAX_BATCH_BYTES;

/// How long after its delivery timeout the answer to a batch is still waited for, before its stream is given up: longer
/// than a broker takes to say that it does not know. Giving up costs other partitions a repetition.
pub(super) const STUCK: Duration = Duration::from_secs(60);

/// A sealed batch.
#[derive(Debug)]
pub(super) struct Batch<W> {
    pub(super) bytes: geminga_records::Batch,
    /// None once they have been told that it took too long; then it is not sent again.
    pub(super) waiters: Vec<W>,
    pub(super) born: Instant,
    /// The id under which it is on its way.
    pub(super) attempt: Option<u64>,
    /// Since when.
    pub(super) sent_at: Instant,
    /// Its numbers, from when it is first sent on.
    pub(super) sequence: Option<Sequence>,
    /// An attempt with these numbers may have been written.
    pub(super) doubt: bool,
    /// The newest attempt was refused because of its numbers.
    pub(super) refused: Option<ApiError>,
    /// It was refused for good, and is not sent again although it is in doubt.
    pub(super) given_up: bool,
}

impl<W> Batch<W> {
    pub(super) fn new(bytes: geminga_records::Batch, waiters: Vec<W>, born: Instant) -> Self {
        Self {
            bytes,
            waiters,
            born,
            attempt: None,
            sent_at: born,
            sequence: None,
            doubt: false,
            refused: None,
            given_up: false,
        }
    }

    /// Nobody knows what became of its newest attempt.
    pub(super) fn unknown(&mut self) {
        self.doubt |= self.sequence.is_some();
    }

    /// Whether it is not sent again, and has no answer to come.
    pub(super) fn has_left(&self) -> bool {
        let forgotten = self.waiters.is_empty() && (self.given_up || !self.doubt);
        forgotten && self.attempt.is_none()
    }

    /// When its stream is given up, once nobody waits for it any more.
    pub(super) fn stuck_at(&self, timeout: Duration) -> Option<Instant> {
        let on_its_way = self.attempt.is_some() && self.waiters.is_empty();
        on_its_way.then(|| (self.born + timeout).max(self.sent_at) + STUCK)
    }
}

/// A batch that still takes records.
#[derive(Debug)]
pub(super) struct Open<W> {
    pub(super) builder: Builder,
    pub(super) waiters: Vec<W>,
    pub(super) born: Instant,
}

pub(super) fn fail_all<W>(waiters: Vec<W>, error: &Error, done: &mut Vec<Done<W>>) {
    done.extend(waiters.into_iter().map(|waiter| (waiter, Err(error.clone()))));
}

/// A batch that is too large as a whole may be small enough in halves: the topic's limit is about batches.
pub(super) fn halves(batch: &geminga_records::Batch) -> Option<[geminga_records::Batch; 2]> {
    let compression = batch.header().compression().ok()?;
    let records = decode(batch, OWN_BATCH_BYTES).ok()?;
    let (first, second) = records.split_at(records.len() / 2);
    // One record has no halves: a batch without records cannot be made.
    Some([encode(first, compression).ok()?, encode(second, compression).ok()?])
}
