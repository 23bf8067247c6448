//! What a producer sees of a partition: which batches it takes, and the answer that is still to come.
//!
//! ```text
//!   append ─► judge ─► room (bytes) ─► mailbox ─► queue ─► entry ─► log ─► acknowledged ─► answer
//! ```

mod judge;
mod queue;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use geminga_proto::caps;
use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::Batch;
use geminga_runtime::requests::{self, RequestId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

pub(super) use judge::Judge;
pub(super) use queue::{Durable, Gathered, Queue};

use super::metrics;
use crate::router::Appended;

/// What a batch costs beside its bytes while it is on its way.
const OVERHEAD_BYTES: usize = 512;
/// What the largest batch costs; any bound on queued bytes is at least this.
pub(super) const LARGEST_COST: usize = caps::MAX_BATCH_BYTES + OVERHEAD_BYTES;
/// Kafka's "no log append time": batches keep the producer's timestamps.
const CREATE_TIME: i64 = -1;

/// One life of an open partition. What is pending in it fails as one when it ends (P3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening(pub(super) u64);

/// The answer to come for a batch whose place is fixed. Dropping it changes nothing for the batch.
#[derive(Debug)]
pub(super) struct Answer(oneshot::Receiver<Result<Appended, ApiError>>);

impl Future for Answer {
    type Output = Result<Appended, ApiError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| {
            // The task answers everything that it took; it was cut short if it did not.
            answer.unwrap_or_else(|_| Err(unknown("the partition was closed")))
        })
    }
}

/// The error of a batch that may or may not be in the log.
pub(super) fn unknown(why: &str) -> ApiError {
    let why = format!("{why} before the batch was acknowledged: it may have been written");
    ApiError::new(Reason::Unknown, why)
}

/// Whom to answer, and the room that the batch takes until then.
#[derive(Debug)]
pub(super) struct Reply {
    answer: oneshot::Sender<Result<Appended, ApiError>>,
    since: Instant,
    bytes: usize,
    records: u32,
    /// What it was asked for by, where that is known.
    request: Option<RequestId>,
    _room: [OwnedSemaphorePermit; 2],
}

impl Reply {
    /// A reply for `batch` and where it arrives.
    pub(super) fn new(batch: &Batch, room: [OwnedSemaphorePermit; 2]) -> (Self, Answer) {
        let (answer, pending) = oneshot::channel();
        let reply = Self {
            answer,
            since: Instant::now(),
            bytes: batch.len(),
            records: u32::try_from(batch.header().record_count).unwrap_or(0),
            request: requests::current(),
            _room: room,
        };
        (reply, Answer(pending))
    }

    /// When the batch was accepted.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Of the batch.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The request that brought the batch, where that is known.
    pub(super) fn request(&self) -> Option<&RequestId> {
        self.request.as_ref()
    }

    /// The batch is acknowledged at `base_offset`; `dated`: when the owner dated it, if it did.
    pub(super) fn acked(self, base_offset: Offset, dated: Option<i64>) {
        metrics::observe_acked(self.bytes, self.records, self.since.elapsed());
        let appended = Appended { base_offset, log_append_time_ms: dated.unwrap_or(CREATE_TIME) };
        // Nobody waits for a batch that was sent without acks.
        let _ = self.answer.send(Ok(appended));
    }

    /// The batch was in the log at `base_offset` before it came (P2); `dated`: when the owner dated it then, as far as that is
    /// known.
    pub(super) fn duplicate(self, base_offset: Offset, dated: Option<i64>) {
        metrics::count_duplicate();
        let appended = Appended { base_offset, log_append_time_ms: dated.unwrap_or(CREATE_TIME) };
        let _ = self.answer.send(Ok(appended));
    }

    /// The batch is not acknowledged and never will be.
    pub(super) fn failed(self, error: ApiError) {
        metrics::count_failed(error.reason == Reason::Unknown);
        let _ = self.answer.send(Err(error));
    }
}

/// What a batch takes of the bounds on queued bytes.
pub(super) fn cost(batch: &Batch) -> u32 {
    u32::try_from(batch.len().min(caps::MAX_BATCH_BYTES) + OVERHEAD_BYTES)
        .expect("the largest batch fits in 32 bits")
}

#[cfg(test)]
mod tests;
