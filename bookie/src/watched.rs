//! One request, from when it came in to its answer: timed, and told where it was slow. A long poll is neither.
//!
//! ```text
//!   came ─ queue ─► placed in the log ─ disk ─► answered
//! ```

use std::sync::Arc;
use std::time::Duration;

use geminga_proto::bookie::{Code, QueryOp, QueryRequest, WriteOp, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId};
use geminga_runtime::requests::{self, RequestId, Requests};
use tokio::time::Instant;
use tracing::Span;

use crate::adds::Adds;
use crate::metrics;

/// See the module.
#[derive(Debug)]
pub(crate) struct Watched {
    requests: Requests,
    /// Where it is counted, if it is an entry that is added for a writer.
    adds: Option<Arc<Adds>>,
    op: &'static str,
    ledger: LedgerId,
    /// The first of the entries that it is about; none where it is about others.
    entry: EntryId,
    /// Of what was sent.
    bytes: usize,
    /// The client's request that it is made for, where that is known.
    cause: Option<RequestId>,
    came: Instant,
    placed: Option<Instant>,
    waits: bool,
    span: Span,
}

impl Watched {
    /// A write came in.
    pub(crate) fn write(
        requests: &Requests,
        adds: &Arc<Adds>,
        request: &WriteRequest,
        cause: Option<RequestId>,
    ) -> Self {
        let entry = match &request.op {
            WriteOp::Add { first, .. }
            | WriteOp::RecoveryAdd { first, .. }
            | WriteOp::RepairAdd { first, .. } => *first,
            WriteOp::AdvanceLac(entry) | WriteOp::Closed(entry) => *entry,
            WriteOp::Hello | WriteOp::Seal | WriteOp::Tail => EntryId::NONE,
        };
        let bytes = request.payload_bytes();
        let (op, ledger) = (metrics::write_op(&request.op), request.scope.ledger);
        let adds = matches!(request.op, WriteOp::Add { .. }).then(|| Arc::clone(adds));
        Self { adds, ..Self::begin(requests, (op, false), (ledger, entry), bytes, cause) }
    }

    /// A query came in.
    pub(crate) fn query(
        requests: &Requests,
        request: &QueryRequest,
        cause: Option<RequestId>,
    ) -> Self {
        let (entry, waits) = match request.op {
            QueryOp::Read { from, .. } => (from, false),
            QueryOp::WaitLac { after, .. } => (after, true),
            QueryOp::Inventory { .. } => (EntryId::NONE, false),
        };
        let (op, ledger) = (metrics::query_op(&request.op), request.scope.ledger);
        Self::begin(requests, (op, waits), (ledger, entry), 0, cause)
    }

    fn begin(
        requests: &Requests,
        (op, waits): (&'static str, bool),
        (ledger, entry): (LedgerId, EntryId),
        bytes: usize,
        cause: Option<RequestId>,
    ) -> Self {
        let span = match &cause {
            Some(cause) => requests.span(cause, || {
                tracing::info_span!(
                    target: requests::TARGET,
                    "bookie",
                    otel.name = op,
                    otel.kind = "server",
                    request = %cause,
                    %ledger,
                    entry = entry.0,
                    bytes,
                    queue_ms = tracing::field::Empty,
                    disk_ms = tracing::field::Empty,
                )
            }),
            None => Span::none(),
        };
        let (came, placed) = (Instant::now(), None);
        let requests = requests.clone();
        let adds = None;
        Self { requests, adds, op, ledger, entry, bytes, cause, came, placed, waits, span }
    }

    /// It is in the log's queue, and waits for the disk.
    pub(crate) fn placed(&mut self) {
        self.placed = Some(Instant::now());
    }

    /// It is answered.
    pub(crate) fn answered(self, code: Code, reply_bytes: usize) {
        metrics::answered(code);
        if self.waits {
            return;
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.came);
        metrics::observe_request(self.op, took);
        if let Some(adds) = self.adds.as_ref().filter(|_| code == Code::Ok) {
            adds.count(took);
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let queue = self.placed.map(|placed| placed.saturating_duration_since(self.came));
        let disk = self.placed.map(|placed| now.saturating_duration_since(placed));
        if !self.span.is_none() {
            self.span.record("queue_ms", queue.map(millis));
            self.span.record("disk_ms", disk.map(millis));
        }
        if let Some(left_out) = self.requests.slow(took) {
            tracing::warn!(
                request = self.cause.as_ref().map(tracing::field::display),
                op = self.op,
                ledger = %self.ledger,
                entry = self.entry.0,
                bytes = self.bytes,
                reply_bytes,
                code = ?code,
                took_ms = millis(took),
                queue_ms = queue.map(millis),
                disk_ms = disk.map(millis),
                left_out,
                "slow request of a bookie"
            );
        }
    }
}
