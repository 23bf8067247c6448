//! Removes objects: those of ledgers that are being deleted (protocol 7.8 (3)), and those that nothing refers to (7.5). Of a directory also
//! what is left of uploads that never ended (7.4, step 3), for which other stores have lifecycle rules.
//!
//! * A listing only finds candidates. What counts is a linearizable read of the ledger's own key, and of its partition's manifest,
//!   for each object on its own, right before its removal: a listing takes its time. A manifest that cannot be read means: keep.
//! * Breakers stop it when metadata looks lost rather than objects left over (G2): that is for a human.
//! * After a restore of the metadata nothing of the time before goes for a week (6.8), lists of folded segments included: what a backup names
//!   is older than what was there.
//! * Before each round the store must carry the cluster's marker: of another one nothing is removed, and whoever is given another one leaves
//!   the office to those who have the cluster's.
//!
//! Every step can be repeated, by anybody at once: what is removed is referred to by nothing, or by a ledger that never comes back
//! (M6). So the election saves work and decides nothing. Only bookies that have an object store stand in it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use geminga_metastore::record::{LedgerMeta, Manifest, Tier};
use geminga_metastore::{Error, Guard, Horizon, LeaseId, MetaStore, Txn, keys};
use geminga_proto::ids::{BookieId, ClusterUuid, LedgerId};
use geminga_runtime::{Tasks, WallClock};
use geminga_tier::{ManifestName, ObjectError, ObjectName, Store};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::fold::{Cursor, Folder, Memory};
use super::garbage::{self, Fate, Garbage};
use super::mark::{Mark, Standing};
use super::{Config, Mutations};
use crate::folded::{Folded, Listing};
use crate::metrics;
use crate::repair::office;

/// How long a bookie that vanished keeps others from cleaning up.
const LEASE: Duration = Duration::from_secs(15);
/// The first sweep comes so soon after an election.
const FIRST_SWEEP: Duration = Duration::from_secs(3_600);
/// Keys of one page of a listing.
const PAGE: usize = 500;
/// Files of unfinished uploads that one sweep removes.
const MAX_UNFINISHED: usize = 10_000;
/// How long a directory may take to be looked through for them.
const LOOK_TIME: Duration = Duration::from_mins(5);
/// More than so many percent of the listed objects, of ledgers without metadata, are no garbage, but metadata that was lost.
const MAX_ABSENT_PERCENT: u64 = 10;

/// Why a round did not do all that it could.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    #[error(transparent)]
    Metadata(#[from] Error),
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// G2.
    #[error("the metadata store holds another cluster")]
    OtherCluster,
    /// G2.
    #[error("the metadata store lists no ledger at all")]
    NoLedgers,
    /// M1.
    #[error(
        "the metadata store went back to an earlier state: it never handed out the ledgers of some objects"
    )]
    WentBack,
    /// G2.
    #[error("{absent} of {listed} objects are of ledgers without metadata")]
    TooManyAbsent { absent: u64, listed: u64 },
}

impl Stopped {
    /// Whether metadata looks lost, rather than out of reach.
    fn is_breaker(&self) -> bool {
        matches!(
            self,
            Self::OtherCluster | Self::NoLedgers | Self::WentBack | Self::TooManyAbsent { .. }
        )
    }
}

fn tell(error: &Stopped) {
    if error.is_breaker() {
        tracing::error!(%error, "objects are not removed: find out whether metadata was lost before anything else");
    } else {
        tracing::warn!(%error, "objects that are to go could not be removed; trying again later");
    }
}

/// Whether the time has come; the next is `every` later then.
fn is_due(at: &mut Instant, every: Duration) -> bool {
    let now = Instant::now();
    let due = now >= *at;
    if due {
        *at = now + every;
    }
    due
}

#[derive(Debug)]
pub(super) struct Janitor {
    pub(super) bookie: BookieId,
    pub(super) cluster: ClusterUuid,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) objects: Store,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) config: Config,
    /// Folds as well, while this bookie is elected.
    pub(super) folder: Folder,
    pub(super) folded: Folded,
    pub(super) mark: Mark,
    pub(super) mutations: Mutations,
}

impl Janitor {
    /// Runs until `tasks` stops.
    pub(super) async fn run(self, tasks: Tasks) {
        let store = Arc::clone(&self.store);
        office::hold(&store, LEASE, &tasks, |lease| self.campaign(lease)).await;
    }

    /// Waits to be elected, and cleans up then, for as long as the lease stands and the store is the cluster's. Nobody stands who has another.
    async fn campaign(&self, lease: LeaseId) {
        let mut look = interval(self.config.interval);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if !self.mark.holds().await {
                continue;
            }
            match office::take(&*self.store, keys::JANITOR, &self.bookie, lease).await {
                Ok(Some(_)) => break,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "the election of a janitor failed"),
            }
        }
        let _told = metrics::Janitor;
        // Not at once: whoever restarts bookies one after the other is not to pay for a listing each time.
        let mut sweep_at = Instant::now() + self.config.sweep_interval.min(FIRST_SWEEP);
        let (mut retire_at, mut memory) = (Instant::now(), Memory::default());
        // Nor this: servers that are just being started are seen by then.
        let mut fold_at = Instant::now() + self.config.fold_interval;
        let mut cursor = Cursor::default();
        loop {
            match self.mark.look().await {
                Standing::Held => {}
                // What is asked of it fails too, or the next round does what this one leaves.
                Standing::Unknown => {
                    look.tick().await;
                    continue;
                }
                Standing::Refused => {
                    // That is told instead; the next janitor finds out itself.
                    metrics::sweep_stopped(false);
                    return;
                }
            }
            if let Err(error) = self.delete().await {
                tell(&error);
            }
            if (is_due(&mut retire_at, self.config.fold_interval) || memory.more)
                && let Err(error) = self.folder.retire(&mut memory).await
            {
                tracing::warn!(%error, "what was given up of folded segments stays for now; trying again later");
            }
            if (is_due(&mut fold_at, self.config.fold_interval) || cursor.more)
                && let Err(error) = self.folder.fold(&mut cursor).await
            {
                tracing::warn!(%error, "segments are not folded now; trying again later");
            }
            if Instant::now() >= sweep_at {
                sweep_at = Instant::now() + self.config.sweep_interval;
                let swept = self.sweep().await;
                // Until the next sweep: whoever looks once a minute is to see it.
                metrics::sweep_stopped(swept.as_ref().is_err_and(Stopped::is_breaker));
                if let Err(error) = swept {
                    tell(&error);
                }
            }
            look.tick().await;
        }
    }

    /// Removes the objects of ledgers that are being deleted, and then takes them out of the metadata, which goes only without
    /// one. How many.
    pub(super) async fn delete(&self) -> Result<usize, Stopped> {
        let (mut removed, mut after, mut failed) = (0, None::<String>, None);
        loop {
            let page = self.store.range(keys::DELETING, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(ledger) = keys::parse_deleting(&item.key) else { continue };
                // One that cannot go, such as one under a lock of its bucket, holds up no other.
                match self.delete_of(ledger).await {
                    Ok(done) => removed += usize::from(done),
                    Err(error) => {
                        tracing::warn!(%ledger, %error, "the object of a deleted ledger could not be removed; trying again later");
                        failed.get_or_insert(error);
                    }
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return failed.map_or(Ok(removed), Err);
            }
        }
    }

    async fn delete_of(&self, ledger: LedgerId) -> Result<bool, Stopped> {
        let key = keys::ledger(ledger);
        let Some(found) = self.store.get(&key).await? else { return Ok(false) };
        let Ok(mut meta) = LedgerMeta::decode(ledger, &found.value) else { return Ok(false) };
        let Some(object) = garbage::of_deleted(&meta) else { return Ok(false) };
        if object.bucket != self.objects.bucket() {
            tracing::warn!(%ledger, bucket = object.bucket, own = self.objects.bucket(), "the object of a deleted ledger is in another store than this bookie was given; its metadata stays");
            return Ok(false);
        }
        self.objects.delete(&object.key).await?;
        meta.tier = Tier::Local;
        let own = Guard::Version(key.clone(), found.version);
        self.store.txn(Txn::new().guard(own).put(key, meta.encode())).await?;
        tracing::info!(%ledger, "the object of a deleted ledger was removed");
        Ok(true)
    }

    /// Removes old objects that nothing refers to, and what uploads left that never ended; how many objects.
    pub(super) async fn sweep(&self) -> Result<usize, Stopped> {
        // First: what keeps objects from being removed keeps these from nothing. Nobody reads them, whatever became of the metadata.
        let unfinished = self.remove_unfinished().await;
        let garbage = self.find_garbage().await?;
        let removed = self.remove(garbage.into_iter().map(|one| one.key).collect()).await?;
        unfinished.map(|()| removed)
    }

    async fn remove_unfinished(&self) -> Result<(), Stopped> {
        let (now_ms, age) = (self.clock.now_ms(), self.config.unfinished_age());
        let removing = self.objects.remove_unfinished(self.cluster, now_ms, age, MAX_UNFINISHED);
        match tokio::time::timeout(LOOK_TIME, removing).await {
            Ok(removed) => metrics::unfinished_removed(removed?),
            Err(_) => tracing::warn!(
                "the directory of the object store does not answer: unfinished uploads are looked for again at the next sweep"
            ),
        }
        Ok(())
    }

    /// Old objects that nothing refers to. None at all by metadata that looks lost.
    async fn find_garbage(&self) -> Result<Vec<Garbage>, Stopped> {
        let (mut listed, mut found) = (0_u64, Vec::new());
        let mut objects = self.objects.list(self.cluster);
        let age_ms = i64::try_from(self.config.sweep_age.as_millis()).unwrap_or(i64::MAX);
        while let Some(object) = objects.next().await {
            let object = object?;
            listed += 1;
            let old = self.clock.now_ms().saturating_sub(object.modified_ms) >= age_ms;
            if old {
                found.extend(self.judge(object.key).await?);
            }
        }
        if listed > 0 && self.store.range(keys::LEDGERS, None, 1).await?.items.is_empty() {
            return Err(Stopped::NoLedgers);
        }
        let garbage = self.due(found).await?;
        let absent = garbage.iter().filter(|one| one.fate == Fate::Absent).count() as u64;
        if absent * 100 > listed * MAX_ABSENT_PERCENT {
            return Err(Stopped::TooManyAbsent { absent, listed });
        }
        Ok(garbage)
    }

    /// An object that nothing refers to at this moment; `None` of any other.
    async fn judge(&self, key: String) -> Result<Option<Garbage>, Error> {
        let (fate, ledger) = match self.objects.parse_key(self.cluster, &key) {
            Some(name) => (self.fate(&name).await?, Some(name.ledger)),
            None => match self.objects.parse_manifest_key(self.cluster, &key) {
                Some(name) => (self.fate_of_list(&name).await?, None),
                None => (Fate::Kept, None),
            },
        };
        Ok(Some(Garbage { key, ledger, fate }).filter(|garbage| garbage.fate != Fate::Kept))
    }

    /// What of it may go by the record of the cluster, which is read after all that refers to it.
    async fn due(&self, found: Vec<Garbage>) -> Result<Vec<Garbage>, Stopped> {
        let horizon = Horizon::read(&*self.store).await?;
        let Some(horizon) = horizon.filter(|found| found.cluster.uuid == self.cluster) else {
            return Err(Stopped::OtherCluster);
        };
        let due = garbage::due(found, &horizon, self.clock.now_ms(), self.mutations);
        due.ok_or(Stopped::WentBack)
    }

    /// Removes objects that a listing found to be garbage, and that are so still; how many.
    async fn remove(&self, keys: Vec<String>) -> Result<usize, Stopped> {
        let (mut removed, mut failed) = (0, None);
        for key in keys {
            let garbage = self.judge(key).await?;
            for Garbage { key, .. } in self.due(garbage.into_iter().collect()).await? {
                match self.objects.delete(&key).await {
                    Ok(()) => {
                        removed += 1;
                        metrics::swept();
                        tracing::info!(key, "an object that nothing refers to was removed");
                    }
                    Err(error) => {
                        tracing::debug!(key, %error, "an object that nothing refers to stays");
                        failed.get_or_insert(error);
                    }
                }
            }
        }
        failed.map_or(Ok(removed), |error| Err(error.into()))
    }

    /// The ledger first, then the manifest: folding moves a ledger from the one to the other in one transaction.
    async fn fate(&self, name: &ObjectName) -> Result<Fate, Error> {
        if let Some(found) = self.store.get(&keys::ledger(name.ledger)).await? {
            let Ok(meta) = LedgerMeta::decode(name.ledger, &found.value) else {
                return Ok(Fate::Kept);
            };
            return Ok(garbage::of_named(&meta, name.attempt, self.mutations));
        }
        // An unreadable manifest means: keep.
        let found = self.folded.find_in(name.topic, name.partition, name.ledger).await?;
        Ok(match found {
            Some(Listing::Folded(meta)) => garbage::of_named(&meta, name.attempt, self.mutations),
            unknown => garbage::of_absent(unknown.is_some()),
        })
    }

    /// An object that lists segments is needed while its partition's manifest names it, and for a while after, by those who read
    /// by an older value, or restore one from a backup.
    async fn fate_of_list(&self, name: &ManifestName) -> Result<Fate, Error> {
        let Some(found) = self.store.get(&keys::manifest(name.topic, name.partition)).await? else {
            return Ok(Fate::Absent);
        };
        let Ok(manifest) = Manifest::decode(&found.value) else { return Ok(Fate::Kept) };
        let age_ms = i64::try_from(self.config.sweep_age.as_millis()).unwrap_or(i64::MAX);
        let named = manifest.parts.iter().any(|part| part.attempt == name.attempt);
        let lately = manifest.former.iter().any(|former| {
            let since_ms = self.clock.now_ms().saturating_sub(former.since_ms);
            former.attempt == name.attempt && since_ms < age_ms
        });
        Ok(if named || lately { Fate::Kept } else { Fate::Superseded })
    }
}

#[cfg(test)]
mod tests;
