//! What requests hold of an open partition: where to submit batches, where to read, and word of its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use geminga_proto::ids::Term;
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::Batch;
use geminga_runtime::WallClock;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::slot::Phase;
use crate::ownership::topology::Topic;
use crate::partition::log::{LogHead, LogReader};
use crate::partition::looks::Looks;
use crate::partition::produce::{self, Judge, Reply};
use crate::partition::task::{AskProducers, Submitted};
use crate::router::{ActiveProducer, Appender, Pending};

/// How long a batch waits for room before it is refused.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// An open partition. Alive for as long as anybody uses it; useful until [`Handle::gone`].
pub(in crate::partition) struct Handle {
    pub(in crate::partition) term: Term,
    pub(in crate::partition) reader: LogReader,
    pub(in crate::partition) head: LogHead,
    /// The topic as it is now.
    pub(super) topic: watch::Receiver<Arc<Topic>>,
    /// Asks the owner to begin a ledger, so that what is before it can go.
    pub(in crate::partition) anew: Arc<Notify>,
    /// Asks the owner to end the open ledger, of which nothing is wanted any more.
    pub(in crate::partition) expired: Arc<Notify>,
    /// Looks into compressed batches.
    pub(in crate::partition) looks: Looks,
    /// Whether it looks into every batch ([`super::Config::strict_records`]).
    pub(super) strict: bool,
    /// Dates batches.
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) mailbox: mpsc::Sender<Submitted>,
    /// [`Orders::refusals`](crate::partition::task::Orders).
    pub(super) refusals: Arc<AtomicU64>,
    /// Asks the owner who its producers are.
    pub(super) asks: mpsc::Sender<AskProducers>,
    /// Bytes accepted and not answered, of this partition and of all.
    pub(super) rooms: [Arc<Semaphore>; 2],
    pub(super) phase: watch::Receiver<Phase>,
    /// When it was asked for last, or written to.
    pub(super) used: Mutex<Instant>,
    /// Bytes of batches that were appended or read.
    pub(super) carried: AtomicU64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("term", &self.term)
            .field("topic", &self.topic.borrow().name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Appender for Handle {
    fn is_open(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Open(_))
    }

    async fn append(&self, batch: Batch) -> Result<Pending, ApiError> {
        self.touch();
        let refusals = self.refusals.load(Ordering::Relaxed);
        let topic = Arc::clone(&self.topic.borrow());
        let judge = Judge { topic, strict: self.strict, now_ms: self.clock.now_ms() };
        let (batch, objection) = judge.judge(batch, &self.looks).await?;
        let objection = match objection {
            // Whether it is one that was taken before, the owner's task knows.
            Some(_) if batch.header().sequence().is_some() => objection,
            Some(error) => return Err(error),
            None => None,
        };
        let room = self.take_room(produce::cost(&batch)).await?;
        // The mailbox closes with the opening.
        let Ok(place) = self.mailbox.reserve().await else { return Err(self.late()) };
        self.carry(batch.len());
        let (reply, answer) = Reply::new(&batch, room);
        place.send(Submitted { batch, reply, objection, refusals });
        Ok(Box::pin(answer))
    }
}

impl Handle {
    /// The wall clock, milliseconds since the Unix epoch.
    pub(in crate::partition) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The idempotent producers that are in the log. Cancel-safe.
    ///
    /// # Errors
    /// That the partition is open no more.
    pub(super) async fn producers(&self) -> Result<Vec<ActiveProducer>, ApiError> {
        let (ask, said) = oneshot::channel();
        if self.asks.send(ask).await.is_err() {
            return Err(self.late());
        }
        said.await.map_err(|_| self.late())
    }

    /// Somebody uses it.
    pub(super) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    /// Counts bytes that were appended or read.
    pub(super) fn carry(&self, bytes: usize) {
        self.carried.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that were appended or read since it was opened.
    pub(super) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// The partition's room first: a partition that stands still keeps only its own part of the common room.
    async fn take_room(&self, cost: u32) -> Result<[OwnedSemaphorePermit; 2], ApiError> {
        let take = async {
            let [own, common] = &self.rooms;
            let own = Arc::clone(own).acquire_many_owned(cost).await;
            let common = Arc::clone(common).acquire_many_owned(cost).await;
            [own, common].map(|permit| permit.expect("rooms are never closed"))
        };
        tokio::time::timeout(ROOM_WAIT, take).await.map_err(|_| {
            let why = "too many bytes wait to be written: slow down, or look why storage is slow";
            ApiError::new(Reason::Overloaded, why)
        })
    }

    /// Resolves when the partition is open no more, with what is said to whoever comes late. Cancel-safe.
    pub(in crate::partition) async fn gone(&self) -> ApiError {
        let mut phase = self.phase.clone();
        // The sender is dropped after the end only.
        let _ended = phase.wait_for(|phase| !matches!(phase, Phase::Open(_))).await.is_err();
        self.late()
    }

    fn late(&self) -> ApiError {
        match &*self.phase.borrow() {
            Phase::Closing(error) | Phase::Ended(error) | Phase::Failed { error, .. } => {
                error.clone()
            }
            Phase::Opening | Phase::Open(_) => {
                ApiError::new(Reason::NotReady, "the partition is being closed: try again")
            }
        }
    }
}
