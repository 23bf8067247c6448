//! The ledgers of one disk, under one incarnation: spread over a few owners by id, all on one log. Requests come in here
//! once they are known to be for this disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, Member};
use geminga_runtime::Tasks;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::admit;
use super::check::Checker;
use super::fullness::{Fullness, Gauge};
use super::owner::{Deletion, Dropped, Job, Owner, Parts};
use super::query::Queries;
use super::reply::ReplyTo;
use super::table::Table;
use super::upkeep::{Reporter, Upkeep};
use super::{Identity, LedgerState, Mutations, Tombstones};
use crate::log::{Log, LogFailed};

/// Requests that wait for one owner; their bytes are bounded by their senders' budgets.
const QUEUE: usize = 16 * 1024;
/// Ledgers to be deleted that wait for one owner.
const DELETIONS: usize = 16;
/// Comparisons at a time.
const COMPARES: usize = 16;
/// Reads that look through much for little at a time.
const SCANS: usize = 16;

/// One disk's ledgers.
#[derive(Debug)]
pub(crate) struct DiskLedgers {
    me: Identity,
    log: Log,
    shards: Box<[Shard]>,
    fullness: Gauge,
    used: Gauge,
    /// See [`DiskLedgers::surplus`]; clones are the same.
    surplus: Arc<AtomicU64>,
    queries: Queries,
}

#[derive(Debug)]
struct Shard {
    jobs: mpsc::Sender<Job>,
    deletions: mpsc::Sender<Deletion>,
    table: Table,
}

/// What the ledgers of a disk are made from.
#[derive(Debug)]
pub(crate) struct DiskParts {
    /// The cluster.
    pub(crate) cluster: ClusterUuid,
    /// The bookie under the disk's incarnation.
    pub(crate) member: Member,
    /// Its log.
    pub(crate) log: Log,
    /// What was found in it.
    pub(crate) ledgers: BTreeMap<LedgerId, LedgerState>,
    /// The ledgers that were deleted.
    pub(crate) tombstones: Tombstones,
    /// How many owners share it; at least 1.
    pub(crate) owners: usize,
    /// Tells the cluster what is damaged.
    pub(crate) reporter: Reporter,
    /// Reads metadata.
    pub(crate) checker: Checker,
    /// Bounds who waits for a LAC, over all disks.
    pub(crate) waiting: Arc<Semaphore>,
    /// Rules broken on purpose.
    pub(crate) mutations: Mutations,
}

impl DiskLedgers {
    /// Starts the owners. They stop with `tasks`, which a failure of the log stops.
    pub(crate) fn start(parts: DiskParts, tasks: &Tasks) -> Self {
        let me = Identity {
            cluster: parts.cluster,
            member: parts.member,
            authoritative: true,
            writable: true,
            mutations: parts.mutations,
        };
        let count = parts.owners.max(1);
        let fullness = Gauge::default();
        let comparing = Arc::new(Semaphore::new(COMPARES));
        let mut found = vec![BTreeMap::new(); count];
        for (id, state) in parts.ledgers {
            found[shard_of(id, count)].insert(id, state);
        }
        let mut shards = Vec::with_capacity(count);
        for found in found {
            let (jobs, queue) = mpsc::channel(QUEUE);
            let (deletions, to_delete) = mpsc::channel(DELETIONS);
            let table = Table::default();
            table.load(found, &parts.tombstones);
            let owner = Parts {
                me: me.clone(),
                log: parts.log.clone(),
                table: table.clone(),
                fullness: fullness.clone(),
                checker: parts.checker.clone(),
                comparing: Arc::clone(&comparing),
            };
            tasks.spawn("ledger owner", Owner::new(owner, queue, to_delete).run(tasks.clone()));
            shards.push(Shard { jobs, deletions, table });
        }
        let tables = shards.iter().map(|shard: &Shard| shard.table.clone()).collect();
        let upkeep =
            Upkeep::new(parts.cluster, parts.log.clone(), tables, fullness.clone(), parts.reporter);
        tasks.spawn("log upkeep", upkeep.run(tasks.clone()));
        let queries = Queries {
            cluster: parts.cluster,
            authoritative: me.authoritative,
            log: parts.log.clone(),
            scanning: Arc::new(Semaphore::new(SCANS)),
            waiting: parts.waiting,
            mutations: parts.mutations,
        };
        let (used, surplus) = (Gauge::default(), Arc::new(AtomicU64::new(u64::MAX)));
        Self { me, log: parts.log, shards: shards.into(), fullness, used, surplus, queries }
    }

    /// The bookie under this disk's incarnation.
    pub(crate) fn member(&self) -> &Member {
        &self.me.member
    }

    /// The disk's log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Whether it takes new data.
    pub(crate) fn is_writable(&self) -> bool {
        self.fullness.get() < Fullness::High && !self.log.is_scarce()
    }

    /// What it takes, as was told last: as full as it is, or as if it were full, since its bookie leaves.
    pub(crate) fn fullness(&self) -> Fullness {
        self.fullness.get()
    }

    /// Tells what it takes.
    pub(crate) fn set_fullness(&self, fullness: Fullness) {
        self.fullness.set(fullness);
    }

    /// How full it is, as was told last.
    pub(crate) fn used(&self) -> Fullness {
        self.used.get()
    }

    /// How much it needs space: as full as it is, or as if nothing went in any more where its log is down to its reserve. Segments are large:
    /// that can be long before the file system has so little left.
    pub(crate) fn need(&self) -> Fullness {
        if self.log.is_scarce() { Fullness::Hard } else { self.used() }
    }

    /// Tells how full it is.
    pub(crate) fn set_used(&self, used: Fullness) {
        self.used.set(used);
    }

    /// Bytes that must go before it is not filling up any more, as was told last; until then, all.
    pub(crate) fn surplus(&self) -> u64 {
        self.surplus.load(Ordering::Relaxed)
    }

    /// Tells it.
    pub(crate) fn set_surplus(&self, bytes: u64) {
        self.surplus.store(bytes, Ordering::Relaxed);
    }

    /// The ledgers that it has records of, deleted ones aside, and the bytes of their entries.
    pub(crate) fn local(&self) -> Vec<(LedgerId, u64)> {
        let mut local = Vec::new();
        for shard in &self.shards {
            local.extend(shard.table.lock().ids().map(|ledger| (ledger, 0)));
        }
        for (ledger, bytes) in &mut local {
            *bytes = self.log.bytes_of(*ledger);
        }
        local
    }

    /// The ledgers of which it has entries, in order, and the bytes of these.
    pub(crate) fn held(&self) -> BTreeMap<LedgerId, u64> {
        self.local().into_iter().filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Whether a ledger's entries were dropped here, for an object or since others had all of them.
    pub(crate) fn is_let_go(&self, ledger: LedgerId) -> bool {
        let mut let_go = self.shards.iter().map(|shard| {
            let mut slots = shard.table.lock();
            let state = slots.get(ledger).map(|slot| &slot.state);
            state.is_some_and(|state| state.trimmed().is_some() || state.is_given_up())
        });
        let_go.any(|let_go| let_go)
    }

    /// Drops a ledger's data, which its metadata says was deleted: its tombstone is durable on return. False when there is
    /// nothing to drop. Cancel-safe, in that it goes on.
    ///
    /// # Errors
    /// [`LogFailed`].
    pub(crate) async fn drop_ledger(&self, ledger: LedgerId) -> Result<bool, LogFailed> {
        let done = self.drop_what(ledger, Dropped::All).await?;
        if done {
            tracing::info!(%ledger, "a deleted ledger was dropped");
        }
        Ok(done)
    }

    /// Drops a ledger's entries, which the object of this upload has up to `last`, as its metadata says: that is durable on
    /// return. False when there is nothing to drop. Cancel-safe, in that it goes on.
    ///
    /// # Errors
    /// [`LogFailed`].
    pub(crate) async fn trim_ledger(
        &self,
        ledger: LedgerId,
        last: EntryId,
        attempt: u128,
    ) -> Result<bool, LogFailed> {
        let done = self.drop_what(ledger, Dropped::Entries { last, attempt }).await?;
        if done {
            tracing::info!(%ledger, "a ledger's entries are in the object store; those here were dropped");
        }
        Ok(done)
    }

    /// Begins to give a ledger's copy up: whoever sends entries of it from now on ends that. False when it has none. Cancel-safe.
    ///
    /// # Errors
    /// [`LogFailed`].
    pub(crate) async fn begin_to_give_up(&self, ledger: LedgerId) -> Result<bool, LogFailed> {
        self.drop_what(ledger, Dropped::Nothing).await
    }

    /// The last entry of a ledger that anything here knows of: held, confirmed or told as its end.
    pub(crate) fn reach(&self, ledger: LedgerId) -> EntryId {
        let shard = &self.shards[shard_of(ledger, self.shards.len())];
        let mut slots = shard.table.lock();
        let Some(slot) = slots.get(ledger) else { return EntryId::NONE };
        let held = slot.state.held().runs().last().map_or(EntryId::NONE, |(_, last)| *last);
        held.max(slot.state.max_lac()).max(slot.state.closed().unwrap_or(EntryId::NONE))
    }

    /// Gives a ledger's copy up, which the metadata, read since [`DiskLedgers::begin_to_give_up`], named nowhere: that is durable on return.
    /// False when somebody sent entries of it meanwhile: it stays. Cancel-safe, in that it goes on.
    ///
    /// # Errors
    /// [`LogFailed`].
    pub(crate) async fn give_up(&self, ledger: LedgerId) -> Result<bool, LogFailed> {
        let done = self.drop_what(ledger, Dropped::Copy).await?;
        if done {
            tracing::info!(%ledger, "others have all copies of a ledger; the one here was dropped");
        }
        Ok(done)
    }

    async fn drop_what(&self, ledger: LedgerId, what: Dropped) -> Result<bool, LogFailed> {
        let shard = &self.shards[shard_of(ledger, self.shards.len())];
        let (done, placed) = oneshot::channel();
        if shard.deletions.send(Deletion { ledger, what, done }).await.is_err() {
            return Err(LogFailed::Closed);
        }
        let Some(lsn) = placed.await.unwrap_or(Err(LogFailed::Closed))? else { return Ok(false) };
        self.log.wait_durable(lsn).await?;
        Ok(true)
    }

    /// Checks what a write carries. A refusal answers it.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn verify(&self, request: &WriteRequest) -> Result<(), WriteReply> {
        admit::verify(self.me.cluster, request)
    }

    /// Queues a verified write; writes of one sender take effect in the order queued. Waits for a place. Not cancel-safe:
    /// a dropped call loses its reply.
    pub(crate) async fn write(&self, request: WriteRequest, to: ReplyTo) {
        let shard = &self.shards[shard_of(request.scope.ledger, self.shards.len())];
        if let Err(mpsc::error::SendError(job)) = shard.jobs.send(Job { to, request }).await {
            job.to.send(stopping());
        }
    }

    /// [`DiskLedgers::write`] for a caller that cannot wait: answers `Busy` when there is no place.
    pub(crate) fn try_write(&self, request: WriteRequest, to: ReplyTo) {
        let shard = &self.shards[shard_of(request.scope.ledger, self.shards.len())];
        match shard.jobs.try_send(Job { to, request }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(job)) => job.to.send(stopping()),
            Err(mpsc::error::TrySendError::Full(job)) => {
                job.to.send(WriteReply::refusal(Code::Busy, "too many requests wait"));
            }
        }
    }

    /// Answers a query. Cancel-safe.
    pub(crate) async fn query(&self, request: QueryRequest) -> QueryReply {
        if let QueryOp::Inventory { after, max_ledgers } = request.op {
            let tables = self.shards.iter().map(|shard| &shard.table);
            return self.queries.inventory(tables, after, max_ledgers);
        }
        let shard = &self.shards[shard_of(request.scope.ledger, self.shards.len())];
        self.queries.answer(&shard.table, request).await
    }

    /// How many ledgers it has records of.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.lock().len()).sum()
    }
}

fn stopping() -> WriteReply {
    WriteReply::refusal(Code::Busy, "the bookie is stopping")
}

/// Spreads ids, which are consecutive numbers, over the owners.
fn shard_of(ledger: LedgerId, shards: usize) -> usize {
    let mixed = ledger.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).expect("32 bits fit") % shards
}

#[cfg(test)]
mod tests;
