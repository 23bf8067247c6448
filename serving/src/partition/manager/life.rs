//! One life of a partition at this broker, as one task: take the log over, serve, end. Whatever ends it, also a panic,
//! its place in the manager's table is free afterwards.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::StreamExt;
use geminga_proto::ids::{Offset, Term};
use geminga_proto::reason::{ApiError, Reason};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::gate::Demand;
use super::handle::Handle;
use super::slot::Phase;
use super::{Key, Partitions, shutting_down};
use crate::ownership::topology::Topic;
use crate::partition::log::{self, OpenError, OpenSpec, Opened, Replay};
use crate::partition::mutation::Mutation;
use crate::partition::produce::Opening;
use crate::partition::producers::Producers;
use crate::partition::task::{Closing, End, Orders, Owner, Times, Watched, closing, roll_of};
use crate::partition::{index, metrics, snapshot};

/// Batches in the mailbox; their bytes are bounded by rooms.
const MAILBOX: usize = 1024;
/// Questions that wait for an owner.
const ASKS: usize = 16;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How long a takeover may keep its turn.
const TURN: Duration = Duration::from_secs(2);
/// Whoever served for so long has not failed in a row.
const PROVEN: Duration = Duration::from_secs(10);

pub(super) struct Life {
    pub(super) partitions: Partitions,
    pub(super) key: Key,
    /// As it was when this life began.
    pub(super) topic: Arc<Topic>,
    /// As it is now.
    pub(super) altered: Arc<watch::Sender<Arc<Topic>>>,
    pub(super) term: Term,
    pub(super) opening: Opening,
    /// Failures in a row before this life.
    pub(super) failures: u32,
    pub(super) demand: Demand,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    pub(super) close: Arc<watch::Sender<Option<Closing>>>,
}

impl Life {
    pub(super) async fn run(self) {
        let mut close = self.close.subscribe();
        let stopped = self.partitions.0.tasks.cancelled();
        let started = Instant::now();
        let opened = tokio::select! {
            biased;
            () = stopped => return self.end(Phase::Ended(shutting_down())),
            closing = closing(&mut close) => return self.end(Phase::Ended(closing.error)),
            opened = self.take_over() => opened,
        };
        metrics::observe_opening(opened.is_ok(), started.elapsed());
        let end = match opened {
            Ok((opened, producers)) => self.serve(opened, producers, close).await,
            Err(error) => End::Lost(error),
        };
        self.end(match end {
            End::Closed(error) => Phase::Ended(error),
            End::Lost(error) => self.failed(error, started.elapsed() >= PROVEN),
        });
    }

    /// Takes the log over, and what it says of idempotent producers (P4).
    async fn take_over(&self) -> Result<(Opened, Producers), ApiError> {
        // Before the turn: a former owner that is silent would keep others from theirs.
        self.partitions.ask_to_let_go(self.key, self.term).await;
        let turn = self.partitions.0.gate.turn(&self.demand).await;
        let spec = OpenSpec {
            topic: Arc::clone(&self.topic),
            partition: self.key.1,
            term: self.term,
            quorum: self.topic.quorum.unwrap_or(self.partitions.0.default_quorum),
            roll: roll_of(&self.altered.borrow()),
        };
        let mut opening = Box::pin(log::open(&self.partitions.0.log, spec));
        let opened = match tokio::time::timeout(TURN, &mut opening).await {
            Ok(opened) => opened,
            // It waits for bookies that are gone, perhaps: others need not wait for them.
            Err(_) => {
                drop(turn);
                opening.await
            }
        };
        let mut opened = opened.map_err(|e| self.open_error(&e))?;
        let mut producers =
            Producers::new(self.partitions.0.producers.clone(), self.partitions.0.config.mutations);
        while let Some(step) = opened.replay.next().await {
            step.and_then(|step| self.replay(step, &mut producers))
                .map_err(|e| self.open_error(&e))?;
        }
        if self.partitions.0.config.mutations.is(Mutation::ForgetProducers) {
            producers = Producers::default();
        }
        Ok((opened, producers))
    }

    fn replay(&self, step: Replay, producers: &mut Producers) -> Result<(), OpenError> {
        match step {
            Replay::SnapshotPart(part) => {
                let opened_ms = self.partitions.0.clock.now_ms();
                snapshot::decode(&part, producers, opened_ms)
                    .map_err(|e| OpenError::Damaged(e.to_string()))
            }
            Replay::Batches { first_offset, index, .. } => {
                let rows = index::decode(&index).map_err(|e| OpenError::Damaged(e.to_string()))?;
                for (place, stamp) in rows {
                    let base = Offset(first_offset.0 + i64::from(place));
                    producers.replay(&stamp, base);
                }
                Ok(())
            }
            Replay::Command(_) => {
                Err(OpenError::Damaged("a statelog's command stands among its batches".to_owned()))
            }
        }
    }

    async fn serve(
        &self,
        opened: Opened,
        producers: Producers,
        close: watch::Receiver<Option<Closing>>,
    ) -> End {
        let Opened { term, log_start, next_offset, writer, reader, head, .. } = opened;
        let topic = &self.topic.name;
        tracing::info!(topic, partition = %self.key.1, %term, %log_start, %next_offset, "partition opened");
        let (mailbox, submitted) = mpsc::channel(MAILBOX);
        let own = Arc::new(Semaphore::new(self.partitions.0.config.partition_queue_bytes));
        let (anew, expired) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (asks, asked) = mpsc::channel(ASKS);
        let refusals = Arc::new(AtomicU64::new(0));
        let orders = Orders {
            topic: self.altered.subscribe(),
            anew: Arc::clone(&anew),
            expired: Arc::clone(&expired),
            producers: asked,
            refusals: Arc::clone(&refusals),
        };
        let handle = Arc::new(Handle {
            term,
            reader,
            head,
            topic: self.altered.subscribe(),
            anew,
            expired,
            looks: self.partitions.0.looks.clone(),
            strict: self.partitions.0.config.strict_records,
            clock: Arc::clone(&self.partitions.0.clock),
            mailbox,
            refusals,
            asks,
            rooms: [own, Arc::clone(&self.partitions.0.room)],
            phase: self.phase.subscribe(),
            used: Mutex::new(Instant::now()),
            carried: AtomicU64::new(0),
        });
        // Told to close meanwhile: the owner's task sees that first of all.
        self.phase.send_if_modified(|phase| {
            let expected = matches!(phase, Phase::Opening);
            if expected {
                *phase = Phase::Open(handle);
            }
            expected
        });
        let config = &self.partitions.0.config;
        let times = Times { answer: config.answer_wait, producer_expiry: config.producer_expiry };
        let clock = Arc::clone(&self.partitions.0.clock);
        let requests = self.partitions.0.requests.clone();
        let told = (times, Watched { requests, partition: self.key.1 });
        let owner = Owner::new(writer, term, submitted, (close, orders), producers, clock, told);
        let end = tokio::select! {
            biased;
            end = owner.run() => end,
            // Cut short: what is pending in it has an unknown outcome.
            () = self.partitions.0.tasks.cancelled() => End::Closed(shutting_down()),
        };
        tracing::info!(topic, partition = %self.key.1, %term, ?end, "partition closed");
        end
    }

    fn failed(&self, error: ApiError, proven: bool) -> Phase {
        let failures = if proven { 0 } else { self.failures };
        let backoff = FIRST_BACKOFF.saturating_mul(1 << failures.min(16)).min(MAX_BACKOFF);
        let retry_at = Instant::now() + backoff;
        Phase::Failed { error, retry_at, failures: failures.saturating_add(1) }
    }

    fn open_error(&self, error: &OpenError) -> ApiError {
        let (topic, partition) = (&self.topic.name, self.key.1);
        tracing::warn!(topic, %partition, term = %self.term, %error, "partition could not be opened");
        let (reason, advice) = match error {
            OpenError::NotOwner | OpenError::Unavailable(_) => (Reason::NotReady, "try again"),
            OpenError::Damaged(_) => (Reason::DataLoss, "look at its ledgers"),
        };
        ApiError::new(reason, format!("partition {partition} of {topic}: {error}: {advice}"))
    }

    fn end(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Left as it was by a panic only.
        self.phase.send_if_modified(|phase| {
            let alive = !matches!(phase, Phase::Ended(_) | Phase::Failed { .. });
            if alive {
                *phase = Phase::Ended(shutting_down());
            }
            alive
        });
        self.partitions.forget_ended(self.key, self.opening);
    }
}
