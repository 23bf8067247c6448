//! Removes objects: those of ledgers that are being deleted (protocol 7.8 (3)), and those that nothing refers to (7.5).
//!
//! * A listing only finds candidates. What counts is a linearizable read of the ledger's own key, and of its partition's manifest,
//!   for each object on its own. A manifest that cannot be read means: keep.
//! * Breakers stop it when metadata looks lost rather than objects left over (G2): that is for a human.
//!
//! Every step can be repeated, by anybody at once: what is removed is referred to by nothing, or by a ledger that never comes back
//! (M6). So it needs no election; of the bookies that are live the first by name runs it.

use std::sync::Arc;

use futures::StreamExt;
use geminga_ledger::{BookieDirectory, Bookies};
use geminga_metastore::record::{LedgerMeta, LedgerState, Tier};
use geminga_metastore::{Error, Guard, MetaStore, Txn, cluster, keys};
use geminga_proto::ids::{BookieId, ClusterUuid, LedgerId};
use geminga_runtime::{Tasks, WallClock};
use geminga_tier::{ObjectError, ObjectName, Store};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Config;
use crate::metrics;

/// Keys of one page of a listing.
const PAGE: usize = 500;
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
    /// G2.
    #[error("{absent} of {listed} objects are of ledgers without metadata")]
    TooManyAbsent { absent: u64, listed: u64 },
}

/// What refers to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its ledger does, or may.
    Kept,
    /// Its ledger names another upload.
    Superseded,
    /// There is no such ledger, and no manifest that could list it.
    Absent,
}

#[derive(Debug)]
pub(super) struct Janitor {
    pub(super) bookie: BookieId,
    pub(super) cluster: ClusterUuid,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) bookies: Arc<BookieDirectory>,
    pub(super) objects: Store,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) config: Config,
}

impl Janitor {
    /// Runs until `tasks` stops.
    pub(super) async fn run(self, tasks: Tasks) {
        let mut look = interval(self.config.interval);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        let cancelled = tasks.cancelled();
        tokio::pin!(cancelled);
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                _ = look.tick() => {}
            }
            if !self.is_first() {
                continue;
            }
            let round = async {
                self.delete().await?;
                if swept.elapsed() < self.config.sweep_interval {
                    return Ok(());
                }
                swept = Instant::now();
                self.sweep().await.map(|_| ())
            };
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                done = round => self.tell(done),
            }
        }
    }

    fn is_first(&self) -> bool {
        let live = self.bookies.live();
        live.iter().map(|bookie| &bookie.id).min().is_none_or(|first| *first == self.bookie)
    }

    fn tell(&self, done: Result<(), Stopped>) {
        let broken = matches!(
            done,
            Err(Stopped::OtherCluster | Stopped::NoLedgers | Stopped::TooManyAbsent { .. })
        );
        metrics::sweep_stopped(broken);
        match done {
            Ok(()) => {}
            Err(error @ (Stopped::Metadata(_) | Stopped::Objects(_))) => {
                tracing::warn!(%error, "objects that are to go could not be removed; trying again later");
            }
            Err(error) => {
                tracing::error!(%error, "objects are not removed: find out whether metadata was lost before anything else");
            }
        }
    }

    /// Removes the objects of ledgers that are being deleted, and then takes them out of the metadata, which goes only without
    /// one. How many.
    pub(super) async fn delete(&self) -> Result<usize, Stopped> {
        let (mut removed, mut after) = (0, None::<String>);
        loop {
            let page = self.store.range(keys::DELETING, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(ledger) = keys::parse_deleting(&item.key) else { continue };
                removed += usize::from(self.delete_of(ledger).await?);
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return Ok(removed);
            }
        }
    }

    async fn delete_of(&self, ledger: LedgerId) -> Result<bool, Stopped> {
        let key = keys::ledger(ledger);
        let Some(found) = self.store.get(&key).await? else { return Ok(false) };
        let Ok(mut meta) = LedgerMeta::decode(ledger, &found.value) else { return Ok(false) };
        let Some(object) = meta.tier.object().filter(|_| meta.state == LedgerState::Deleting)
        else {
            return Ok(false);
        };
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

    /// Removes old objects that nothing refers to; how many.
    pub(super) async fn sweep(&self) -> Result<usize, Stopped> {
        let found = cluster::read(&*self.store).await?;
        if found.is_none_or(|(cluster, _)| cluster.uuid != self.cluster) {
            return Err(Stopped::OtherCluster);
        }
        let (mut listed, mut absent, mut garbage) = (0_u64, Vec::new(), Vec::new());
        let mut objects = self.objects.list(self.cluster);
        let age_ms = i64::try_from(self.config.sweep_age.as_millis()).unwrap_or(i64::MAX);
        while let Some(object) = objects.next().await {
            let object = object?;
            listed += 1;
            let old = self.clock.now_ms().saturating_sub(object.modified_ms) >= age_ms;
            let Some(name) = self.objects.parse_key(self.cluster, &object.key).filter(|_| old)
            else {
                continue;
            };
            match self.fate(&name).await? {
                Fate::Kept => {}
                Fate::Superseded => garbage.push(object.key),
                Fate::Absent => absent.push(object.key),
            }
        }
        if listed > 0 && self.store.range(keys::LEDGERS, None, 1).await?.items.is_empty() {
            return Err(Stopped::NoLedgers);
        }
        let removed = garbage.len();
        self.remove(garbage).await?;
        let count = absent.len() as u64;
        if count * 100 > listed * MAX_ABSENT_PERCENT {
            return Err(Stopped::TooManyAbsent { absent: count, listed });
        }
        self.remove(absent).await?;
        Ok(removed + usize::try_from(count).unwrap_or(usize::MAX))
    }

    async fn remove(&self, keys: Vec<String>) -> Result<(), ObjectError> {
        for key in keys {
            self.objects.delete(&key).await?;
            metrics::swept();
            tracing::info!(key, "an object that nothing refers to was removed");
        }
        Ok(())
    }

    /// The ledger first, then the manifest: folding moves a ledger from the one to the other in one transaction.
    async fn fate(&self, name: &ObjectName) -> Result<Fate, Error> {
        if let Some(found) = self.store.get(&keys::ledger(name.ledger)).await? {
            let Ok(meta) = LedgerMeta::decode(name.ledger, &found.value) else {
                return Ok(Fate::Kept);
            };
            let attempt = match &meta.tier {
                Tier::Local => None,
                Tier::Uploading { attempt, .. } => Some(*attempt),
                Tier::Offloaded(object) | Tier::Trimmed(object) => Some(object.attempt),
            };
            let named = attempt == Some(name.attempt);
            return Ok(if named { Fate::Kept } else { Fate::Superseded });
        }
        // No manifest is read yet, so one that is there may list it.
        let manifest = keys::manifest(name.topic, name.partition);
        Ok(match self.store.get(&manifest).await? {
            Some(_) => Fate::Kept,
            None => Fate::Absent,
        })
    }
}
