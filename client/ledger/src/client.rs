//! The entry point of the ledger layer: creates ledgers, hands out writers and readers, recovers what others left open.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::{Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier};
use geminga_metastore::{
    Error as MetaError, Guard, LedgerIds, MetaStore, Txn, TxnOutcome, Version, keys,
};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, Member, SealEpoch};
use geminga_runtime::{Random, Tasks, WallClock};
use tokio::sync::Semaphore;

use crate::append::{self, Asks, CloseError, Setup, Writer};
use crate::cold::{ColdLedgers, StoredObjects};
use crate::config::Config;
use crate::connection::Bookies;
use crate::core::mutation::Mutations;
use crate::metrics;
use crate::placement::{self, Choice, TooFew};
use crate::quarantine::Quarantine;
use crate::read::{Late, Reader};
use crate::recover::QuorumLoss;

/// What a client is made from.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// Hands out ledger ids (M1).
    pub ids: Arc<LedgerIds>,
    /// Where metadata is.
    pub store: Arc<dyn MetaStore>,
    /// All bookies.
    pub bookies: Arc<dyn Bookies>,
    /// Dates ledgers; never decides anything.
    pub clock: Arc<dyn WallClock>,
    /// Operation ids and placement.
    pub random: Arc<dyn Random>,
    /// Owns the tasks of writers.
    pub tasks: Tasks,
    /// Limits and timeouts.
    pub config: Config,
    /// Who this is, for diagnosis.
    pub owner: String,
}

/// What a new ledger should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSpec {
    /// Copies, where enough bookies are live.
    pub qw: u8,
    /// Copies before an acknowledgement.
    pub qa: u8,
    /// What the ledger belongs to.
    pub custom: Custom,
}

/// A ledger to be.
struct Plan {
    meta: LedgerMeta,
    /// In which zone each member of its ensemble is, in their order.
    zones: Vec<String>,
}

/// Why a ledger was not created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Fewer bookies that take new data than the ack quorum.
    #[error(
        "{live} bookies can take data, {needed} are needed: start bookies, free their disks, or give each a --zone where some have one"
    )]
    NotEnoughBookies {
        /// How many do.
        live: usize,
        /// The ack quorum.
        needed: u8,
    },
    /// The caller's guards do not hold: it was deposed.
    #[error("the caller's guards no longer hold")]
    Deposed,
    /// The metadata store did not do it.
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

/// Why a roll-over did not give a new ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollError {
    /// Nothing was changed; the old ledger goes on.
    #[error(transparent)]
    NotStarted(CreateError),
    /// The old ledger's close failed; its writer is dead.
    #[error(transparent)]
    Close(#[from] CloseError),
}

/// Creates, opens and recovers ledgers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LedgerClient {
    pub(crate) parts: Arc<Parts>,
    /// Bytes that all writers together may hold.
    outstanding: Arc<Semaphore>,
    pub(crate) quarantine: Arc<Quarantine>,
    /// What members all writers together ask whether they are there.
    asks: Arc<Asks>,
    /// Where this process is, as far as it names a zone: its readers ask bookies there first.
    zone: Arc<str>,
    /// Who lately let its readers down.
    late: Arc<Late>,
    /// Where ledgers are read that bookies have dropped.
    cold: Option<Arc<dyn ColdLedgers>>,
    /// Where entries are, byte for byte, of ledgers that were uploaded.
    objects: Option<Arc<dyn StoredObjects>>,
}

impl LedgerClient {
    /// A client made from its parts.
    pub fn new(parts: Parts) -> Self {
        let config = &parts.config;
        let bytes = config.total_outstanding_bytes.min(Semaphore::MAX_PERMITS);
        let outstanding = Arc::new(Semaphore::new(bytes));
        let quarantine = Quarantine::new(config.quarantine_errors, config.quarantine);
        let (quarantine, parts) = (Arc::new(quarantine), Arc::new(parts));
        let (asks, zone, late) = (Arc::default(), Arc::from(""), Arc::default());
        Self { outstanding, quarantine, asks, parts, zone, late, cold: None, objects: None }
    }

    /// From now on tells by a gauge, and in the log when that changes, how many zones fewer than asked for have a bookie that takes new
    /// data: ledgers are placed in fewer then, and nothing else says so. Of whoever creates ledgers, once.
    pub fn tell_missing_zones(&self) {
        let parts = Arc::clone(&self.parts);
        let (mut changed, stop) = (parts.bookies.changed(), parts.tasks.cancelled());
        let follow = async move {
            let Config { min_zones, min_ack_zones, .. } = parts.config;
            let mut told = 0;
            loop {
                let live = parts.bookies.live();
                let missing = placement::zones_missing(&live, min_zones, min_ack_zones);
                metrics::zones_missing(missing);
                if missing > 0 && missing != told {
                    tracing::warn!(
                        missing,
                        min_zones,
                        min_ack_zones,
                        "fewer zones than asked for have a bookie that takes new data: copies are in fewer"
                    );
                }
                told = missing;
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        self.parts.tasks.spawn("missing zones", async move {
            tokio::select! {
                () = stop => {}
                () = follow => {}
            }
        });
    }

    /// The same, whose readers ask bookies of this zone first; empty: of none.
    #[must_use]
    pub fn in_zone(mut self, zone: &str) -> Self {
        self.zone = Arc::from(zone);
        self
    }

    /// The same, whose repairs copy from there what no bookie delivers (T6).
    #[must_use]
    pub fn with_objects(mut self, objects: Arc<dyn StoredObjects>) -> Self {
        self.objects = Some(objects);
        self
    }

    /// The same, whose readers find there what bookies have dropped.
    #[must_use]
    pub fn with_cold(mut self, cold: Arc<dyn ColdLedgers>) -> Self {
        self.cold = Some(cold);
        self
    }

    /// Whether it reads what bookies have dropped.
    pub fn has_cold(&self) -> bool {
        self.cold.is_some()
    }

    /// All bookies.
    pub fn bookies(&self) -> &Arc<dyn Bookies> {
        &self.parts.bookies
    }

    /// A ledger's metadata, read linearizably.
    ///
    /// # Errors
    /// When the store does not answer or the value is invalid.
    pub async fn metadata(
        &self,
        ledger: LedgerId,
    ) -> Result<Option<(LedgerMeta, Version)>, MetaError> {
        let key = keys::ledger(ledger);
        let Some(found) = self.parts.store.get(&key).await? else { return Ok(None) };
        let meta = LedgerMeta::decode(ledger, &found.value)
            .map_err(|invalid| MetaError::Corrupt { key, why: invalid.to_string() })?;
        Ok(Some((meta, found.version)))
    }

    /// Reads a ledger by this metadata.
    pub fn reader(&self, meta: Arc<LedgerMeta>) -> Reader {
        let config = &self.parts.config;
        let bookies = Arc::clone(&self.parts.bookies);
        Reader::new(self.parts.cluster, bookies, meta, config.read_timeout, config.read_bytes)
            .preferring(Arc::clone(&self.zone), Arc::clone(&self.late))
            .with_cold(self.cold.clone(), self.objects.clone())
    }

    /// Creates a ledger (2.2) together with the caller's part, in one transaction. Fewer live bookies than `qw` but at least `qa`
    /// give a *degraded* ledger. Not cancel-safe: after a drop the outcome is unknown.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create(
        &self,
        spec: CreateSpec,
        with: impl FnOnce(LedgerId) -> Txn + Send,
    ) -> Result<Writer, CreateError> {
        let Plan { meta, zones } = self.plan(&spec).await?;
        let version = self.commit_create(&meta, with(meta.id)).await?;
        Ok(self.write(meta, version, zones))
    }

    /// Metadata of a new ledger, not yet stored: an id and a place.
    async fn plan(&self, spec: &CreateSpec) -> Result<Plan, CreateError> {
        let parts = &self.parts;
        let (ensemble, zones) = self.place(spec)?;
        let id = parts.ids.next().await?;
        let qw = u8::try_from(ensemble.len()).expect("placement gives at most qw members");
        let meta = LedgerMeta {
            id,
            state: LedgerState::Open,
            seal_epoch: SealEpoch(0),
            qw,
            qa: spec.qa,
            digest: Digest::Crc32c,
            fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
            last_entry: None,
            length: 0,
            entries_crc: None,
            tier: Tier::Local,
            close_kind: None,
            recoverer: String::new(),
            last_op: parts.random.next_u128(),
            custom: spec.custom.clone(),
            created_ms: parts.clock.now_ms(),
            owner: parts.owner.clone(),
            degraded: qw < spec.qw,
        };
        Ok(Plan { meta, zones })
    }

    /// How this client chooses bookies.
    pub(crate) fn choice(&self) -> Choice<'_> {
        Choice {
            min_zones: self.parts.config.min_zones,
            quarantine: &self.quarantine,
            random: &*self.parts.random,
        }
    }

    /// Members, and the zone of each by what they were chosen of.
    fn place(&self, spec: &CreateSpec) -> Result<(Vec<Member>, Vec<String>), CreateError> {
        let live = self.parts.bookies.live();
        let ensemble = placement::choose(&live, spec.qw, spec.qa, self.choice())
            .map_err(|TooFew { live }| CreateError::NotEnoughBookies { live, needed: spec.qa })?;
        let zones = placement::zones(&live, &ensemble).expect("they were chosen of these");
        let zones = zones.into_iter().map(str::to_owned).collect();
        Ok((ensemble, zones))
    }

    /// One transaction; an unknown outcome is resolved by reading the key that it would have made (M9). While it is not
    /// resolved, the error says so: an attempt that was sent may take place later than one that was refused.
    async fn commit_create(&self, meta: &LedgerMeta, with: Txn) -> Result<Version, CreateError> {
        let key = keys::ledger(meta.id);
        let txn = Txn::new().guard(Guard::Absent(key.clone())).put(&key, meta.encode()).and(with);
        let mut attempts = 0;
        let mut unknown = None;
        loop {
            let result = self.parts.store.txn(txn.clone()).await;
            match &result {
                Ok(TxnOutcome::Committed(revision)) => return Ok(Version(revision.0)),
                Ok(TxnOutcome::GuardFailed) => {}
                Err(error @ MetaError::Unknown(_)) => unknown = Some(error.clone()),
                Err(error) => return Err(unknown.unwrap_or_else(|| error.clone()).into()),
            }
            let found = match self.parts.store.get(&key).await {
                Ok(found) => found,
                Err(error) => return Err(unknown.unwrap_or(error).into()),
            };
            match found {
                Some(found) => {
                    let stored = LedgerMeta::decode(meta.id, &found.value);
                    let ours = stored.is_ok_and(|stored| stored.last_op == meta.last_op);
                    return if ours { Ok(found.version) } else { Err(CreateError::Deposed) };
                }
                None if matches!(result, Ok(TxnOutcome::GuardFailed)) => {
                    return Err(CreateError::Deposed);
                }
                None => {
                    attempts += 1;
                    if attempts == 3 {
                        return Err(MetaError::Unknown("creating a ledger".to_owned()).into());
                    }
                }
            }
        }
    }

    fn write(&self, meta: LedgerMeta, version: Version, zones: Vec<String>) -> Writer {
        let parts = &self.parts;
        let setup = Setup {
            cluster: parts.cluster,
            meta,
            version,
            zones,
            store: Arc::clone(&parts.store),
            bookies: Arc::clone(&parts.bookies),
            random: Arc::clone(&parts.random),
            clock: Arc::clone(&parts.clock),
            quarantine: Arc::clone(&self.quarantine),
            asks: Arc::clone(&self.asks),
            outstanding: Arc::clone(&self.outstanding),
            config: parts.config.clone(),
            mutations: Mutations::default(),
        };
        append::start(&parts.tasks, setup)
    }

    /// Rolls over (2.8): waits up to `drain` for what is outstanding, then one transaction closes the old ledger, opens a
    /// new one and makes the caller's changes, which are computed from the closed metadata and the new id. Not
    /// cancel-safe.
    ///
    /// # Errors
    /// [`RollError::NotStarted`]: the old ledger goes on. [`RollError::Close`]: its writer is dead; recover it.
    pub async fn roll(
        &self,
        old: &mut Writer,
        spec: CreateSpec,
        drain: Duration,
        with: impl FnOnce(&LedgerMeta, LedgerId) -> Txn + Send + 'static,
    ) -> Result<(LedgerMeta, Writer), RollError> {
        let Plan { meta: new, zones } = self.plan(&spec).await.map_err(RollError::NotStarted)?;
        let (key, id, value) = (keys::ledger(new.id), new.id, new.encode());
        let part = move |closed: &LedgerMeta| {
            Txn::new().guard(Guard::Absent(key.clone())).put(key, value).and(with(closed, id))
        };
        let closed = old.close(drain, part).await?;
        let read = self.metadata(new.id).await;
        match read {
            Ok(Some((new, version))) if new.state == LedgerState::Open => {
                Ok((closed, self.write(new, version, zones)))
            }
            // The transaction put it; whoever took it away, or recovers it already, has deposed this owner.
            Ok(_) => Err(RollError::Close(CloseError::Lost)),
            Err(_) => Err(RollError::Close(CloseError::Unknown)),
        }
    }

    /// Bytes of entries that wait in the connections to bookies to be sent.
    pub fn waiting_bytes(&self) -> usize {
        self.parts.bookies.waiting_bytes()
    }

    /// Recovers a ledger (4.3): on return it is closed, whoever closed it. Cancel-safe: a recovery that was dropped is
    /// taken up by the next.
    ///
    /// # Errors
    /// [`crate::RecoverError`].
    pub fn recover(
        &self,
        ledger: LedgerId,
    ) -> impl Future<Output = Result<LedgerMeta, crate::RecoverError>> + Send + '_ {
        crate::recover::recover(self, ledger, QuorumLoss::Stop)
    }

    /// Recovers a ledger, or, where its quorum is lost for good, closes it at the best tail that is known and stamps it with
    /// who was missing (4.8). Acknowledged entries may be lost by that: only for an operator who knows. Cancel-safe, as
    /// [`LedgerClient::recover`].
    ///
    /// # Errors
    /// [`crate::RecoverError`]; `Missing` never. `InObject` where a member has dropped its entries for an object: all that was
    /// acknowledged is in that, and bookies know less.
    pub async fn force_close(&self, ledger: LedgerId) -> Result<LedgerMeta, crate::RecoverError> {
        let found = self.metadata(ledger).await?;
        if let Some((meta, _)) = found.filter(|(meta, _)| meta.last_entry.is_none())
            && !self.trimmed(&meta).await.is_empty()
        {
            return Err(crate::RecoverError::InObject(ledger));
        }
        crate::recover::recover(self, ledger, QuorumLoss::Force).await
    }

    /// Repairs a marked ledger (6.5), as fast as `throttle` lets it. The caller holds its lock, `under-lock/…` at that version: no place
    /// changes hands without it. Cancel-safe: the next repair goes on from what was copied.
    ///
    /// # Errors
    /// When the metadata store does not answer, or the lock was lost.
    pub async fn repair(
        &self,
        ledger: LedgerId,
        lock: Version,
        throttle: &crate::Throttle,
    ) -> Result<crate::core::repair::Finish, MetaError> {
        crate::repair::repair(self, ledger, lock, throttle).await
    }

    /// How far `member` holds the fragment that begins at `first`, on stable storage; `None` when it does not vouch for that.
    pub async fn durable_tail(
        &self,
        ledger: LedgerId,
        member: &Member,
        first: EntryId,
    ) -> Option<EntryId> {
        crate::repair::durable_tail(self, ledger, member, first).await
    }

    /// Begins the end of a closed ledger (7.8): its metadata becomes a tombstone, and bookies free what they hold. No error
    /// when that was done before. Cancel-safe: a second call finishes what a dropped one began.
    ///
    /// # Errors
    /// [`crate::DeleteError`].
    pub async fn delete(&self, ledger: LedgerId) -> Result<(), crate::DeleteError> {
        crate::delete::delete(self, ledger).await
    }

    /// The same as a part of the caller's transaction, so that whatever names the ledger goes together with it (7.8): two
    /// guards and two puts. `None`: it is gone or deleted already, for ever. Reads only.
    ///
    /// # Errors
    /// [`crate::DeleteError`].
    pub async fn deletion(&self, ledger: LedgerId) -> Result<Option<Txn>, crate::DeleteError> {
        crate::delete::part(self, ledger).await
    }
}

#[cfg(test)]
mod tests;
