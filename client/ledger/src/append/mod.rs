//! Writing one open ledger. [`Writer`] is the owner's handle; a task behind it drives the core ([`crate::core::writer`]) with what
//! bookies answer. The owner is the only one who appends, so ids are known at once and follow call order.

mod asks;
mod change;
mod close;
mod flight;
mod task;
mod watchdog;
mod zones;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use geminga_metastore::Txn;
use geminga_metastore::record::LedgerMeta;
use geminga_proto::caps;
use geminga_proto::entry::{self, Attributes, Position};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId};
use geminga_proto::payload::Payload;
use geminga_runtime::requests::{self, RequestId};
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot, watch};

pub(crate) use asks::Asks;
pub use close::CloseError;
use flight::Permit;
pub(crate) use task::{Setup, start};

use crate::core::mutation::{Mutation, Mutations};
pub use crate::core::writer::Outcome;

/// Appends that wait for the task.
const QUEUE: usize = 4096;
/// Least that an entry takes of the budget, bytes: one without a payload occupies memory, too.
const MIN_ENTRY_BYTES: usize = 256;

/// What the owner should do about a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Every member takes part, or somebody is about to take its place.
    Healthy,
    /// A member is left out and nobody takes its place: roll once enough bookies are live.
    Degraded,
    /// Roll in good order: a member that was left out is back, or the ledger takes no further change of its ensemble.
    Roll,
    /// Nothing is acknowledged, for want of Qa members that answer, in as many zones as the ledger's acknowledgements are, or for too
    /// long: close and roll at once if Qa bookies are live (2.9).
    QuorumLost,
    /// As `QuorumLost`, and no member is left that a change would keep: only another ledger acknowledges anything again (2.9).
    NobodyLeft,
    /// The writer lost its role; what is pending is unknown until the ledger is recovered (2.7).
    Dead,
    /// As `Dead`, and a bookie says why: somebody else has sealed the ledger. That is true whatever the metadata store says.
    Deposed,
}

impl Health {
    /// Whether nothing is acknowledged for want of members.
    pub fn is_quorum_lost(self) -> bool {
        matches!(self, Self::QuorumLost | Self::NobodyLeft)
    }

    /// Whether the writer lost its role, for whatever reason.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Dead | Self::Deposed)
    }
}

/// Why an entry was not taken; it certainly was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// The writer is closed or has lost its role.
    #[error("the ledger's writer has ended")]
    Ended,
    /// Too much is outstanding: wait for [`Writer::ready`].
    #[error("too many bytes are outstanding")]
    Full,
    /// The payload is above the limit.
    #[error("the entry is above {max} bytes", max = caps::MAX_ENTRY_BYTES)]
    TooLarge,
}

pub(crate) struct Append {
    pub(crate) position: Position,
    /// The encoded entry.
    pub(crate) bytes: Bytes,
    pub(crate) permit: Permit,
    /// The request that it is made for, where that is known.
    pub(crate) cause: Option<RequestId>,
    pub(crate) done: oneshot::Sender<Outcome>,
}

pub(crate) type WithClosed = Box<dyn FnOnce(&LedgerMeta) -> Txn + Send>;

pub(crate) struct Close {
    /// Wait so long for everything to be acknowledged first.
    pub(crate) drain: Duration,
    /// The caller's part of the transaction, made from the closed metadata.
    pub(crate) with: WithClosed,
    pub(crate) done: oneshot::Sender<Result<LedgerMeta, CloseError>>,
}

pub(crate) enum Command {
    Append(Append),
    Close(Close),
    /// Ask the members whether the ledger was sealed.
    Verify,
}

/// The one writer of an open ledger. Dropping it abandons the ledger, which stays open until it is recovered.
#[derive(Debug)]
pub struct Writer {
    cluster: ClusterUuid,
    id: LedgerId,
    meta: watch::Receiver<Arc<LedgerMeta>>,
    fewer_zones: Option<usize>,
    next: EntryId,
    payload_bytes: u64,
    commands: mpsc::Sender<Command>,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    /// Shared by all ledgers of the process.
    total: Arc<Semaphore>,
    mutations: Mutations,
    lac: watch::Receiver<EntryId>,
    health: watch::Receiver<Health>,
}

impl Writer {
    /// The ledger.
    pub fn id(&self) -> LedgerId {
        self.id
    }

    /// Its metadata, with the changes of its ensemble that are known by now.
    pub fn meta(&self) -> Arc<LedgerMeta> {
        Arc::clone(&self.meta.borrow())
    }

    /// Follows its metadata: readers of an open ledger need its present members.
    pub fn meta_watch(&self) -> watch::Receiver<Arc<LedgerMeta>> {
        self.meta.clone()
    }

    /// In how many zones what it acknowledges is, where that is fewer than [`Config::min_ack_zones`](crate::Config::min_ack_zones): it
    /// began in no more. Does not change while the ledger is written.
    pub fn fewer_zones(&self) -> Option<usize> {
        self.fewer_zones
    }

    /// Last add confirmed: it and everything before is acknowledged.
    pub fn lac(&self) -> EntryId {
        *self.lac.borrow()
    }

    /// Follows the LAC.
    pub fn lac_watch(&self) -> watch::Receiver<EntryId> {
        self.lac.clone()
    }

    /// Last id handed out.
    pub fn last_assigned(&self) -> EntryId {
        self.next.prev()
    }

    /// Payload bytes appended so far, acknowledged or not.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Follows what to do about the writer.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Asks the members whether somebody has sealed the ledger; [`Health::Deposed`] follows if so. What an owner does that
    /// writes nothing and cannot ask the metadata store. Does not wait; skipped while the task has much to do.
    pub fn verify(&self) {
        let _busy = self.commands.try_send(Command::Verify).is_err();
    }

    /// Waits until the ledger takes `bytes` more. Cancel-safe.
    ///
    /// # Errors
    /// [`AppendRefused::Ended`] when it never will.
    pub async fn ready(&self, bytes: usize) -> Result<(), AppendRefused> {
        let permits = self.permits(bytes);
        // Only this handle takes permits of the ledger's own, so what is free now is still free when `append` asks. Of the
        // process's another ledger may take them first, and then this is asked again.
        let permit = self.budget.acquire_many(permits).await.map_err(|_| AppendRefused::Ended)?;
        drop(permit);
        let permit = self.total.acquire_many(permits).await.map_err(|_| AppendRefused::Ended)?;
        drop(permit);
        let slot = self.commands.reserve().await.map_err(|_| AppendRefused::Ended)?;
        drop(slot);
        Ok(())
    }

    /// A payload above the whole budget goes alone.
    fn permits(&self, bytes: usize) -> u32 {
        if self.mutations.is(Mutation::IgnoreBudgets) {
            return 0;
        }
        u32::try_from(bytes.max(MIN_ENTRY_BYTES).min(self.budget_bytes)).unwrap_or(u32::MAX)
    }

    /// Hands out the next id, and makes the entry and queues it. Returns the id, the encoded entry, whose payload need not
    /// be kept elsewhere, and the outcome. Outcomes resolve in id order. Dropping the outcome does not take the entry back.
    ///
    /// # Errors
    /// [`AppendRefused`]: nothing was written, and no id was used.
    pub fn append(
        &mut self,
        attributes: Attributes,
        payload: &Payload,
    ) -> Result<(EntryId, Bytes, impl Future<Output = Outcome> + Send + use<>), AppendRefused> {
        let permits = self.permits(payload.len());
        let take = |budget: &Arc<Semaphore>| {
            Arc::clone(budget).try_acquire_many_owned(permits).map_err(|e| match e {
                TryAcquireError::Closed => AppendRefused::Ended,
                TryAcquireError::NoPermits => AppendRefused::Full,
            })
        };
        let permit = (take(&self.budget)?, take(&self.total)?);
        let slot = self.commands.try_reserve().map_err(|e| match e {
            mpsc::error::TrySendError::Full(()) => AppendRefused::Full,
            mpsc::error::TrySendError::Closed(()) => AppendRefused::Ended,
        })?;
        let position = Position {
            ledger: self.id,
            entry: self.next,
            lac: *self.lac.borrow(),
            cumulative_length: self.payload_bytes + payload.len() as u64,
        };
        let bytes = entry::encode(self.cluster, position, attributes, payload)
            .map_err(|_| AppendRefused::TooLarge)?;
        let (done, outcome) = oneshot::channel();
        let cause = requests::current();
        let append = Append { position, bytes: bytes.clone(), permit, cause, done };
        slot.send(Command::Append(append));
        self.next = position.entry.next();
        self.payload_bytes = position.cumulative_length;
        // A task that went away says nothing about what it had sent.
        let outcome = outcome.map(|outcome| outcome.unwrap_or(Outcome::Unknown));
        Ok((position.entry, bytes, outcome))
    }

    /// Waits up to `drain` for everything to be acknowledged, then commits `CLOSED` at the LAC together with the
    /// caller's part (2.9). Entries above it end as `NotWritten`, or `Unknown` when the close was lost. Not cancel-safe:
    /// after a drop the outcome is unknown.
    ///
    /// # Errors
    /// [`CloseError`]; the writer is dead then.
    pub async fn close(
        &mut self,
        drain: Duration,
        with: impl FnOnce(&LedgerMeta) -> Txn + Send + 'static,
    ) -> Result<LedgerMeta, CloseError> {
        let (done, result) = oneshot::channel();
        let close = Close { drain, with: Box::new(with), done };
        self.commands.send(Command::Close(close)).await.map_err(|_| CloseError::Lost)?;
        result.await.unwrap_or(Err(CloseError::Unknown))
    }
}
