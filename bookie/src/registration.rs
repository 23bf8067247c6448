//! The bookie's registration: `bookies/live/<id>` under a lease that one task keeps alive. It says where the bookie is and
//! how full its disks are; it decides who tries, never who may (H22).
//!
//! Every write is guarded by the version of the bookie's cookie at boot. A later boot of the same identity changes it, so of two
//! processes with one identity the later one stays, and the earlier one stops itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use geminga_metastore::record::{Features, LiveBookie, LiveDisk};
use geminga_metastore::{
    Error as MetaError, Guard, LeaseId, MetaStore, Txn, TxnOutcome, Version, WatchStream, keys,
};
use geminga_proto::ids::BookieId;
use geminga_runtime::Tasks;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::handle::BookieHandle;
use crate::io::{Disk, Space};
use crate::ledger::{Fullness, Limits};
use crate::metrics;

/// Keep-alives in a lease's time to live.
const KEEP_ALIVES_PER_TTL: u32 = 3;
/// Pause before another attempt to register.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts to register in a row before the caller hears of it.
const ATTEMPTS: u32 = 3;
/// How often the disks are looked at: often enough that the tenth that is kept free is not filled in between.
const LOOK: Duration = Duration::from_secs(1);

/// What brokers are told.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Who.
    pub(crate) bookie: BookieId,
    /// Version of its cookie at boot.
    pub(crate) cookie: Version,
    /// Where it serves, `HOST:PORT`.
    pub(crate) address: String,
    /// Where health and metrics are; empty when nowhere.
    pub(crate) http_address: String,
    /// Failure domain; empty when none was given.
    pub(crate) zone: String,
    /// Bytes a second that its repairs may copy; 0 = as many as there are.
    pub(crate) repair_rate: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) started_ms: i64,
}

/// Why a bookie is not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Another process has started under the same identity since, or the bookie was decommissioned.
    #[error(
        "bookie {0} was started elsewhere since, or decommissioned: this process must not serve"
    )]
    Replaced(BookieId),
    /// The metadata store did not do it.
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

/// What changes while it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    disks: Vec<LiveDisk>,
    objects_missing: Option<u32>,
}

/// A handle on the registration; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Registration(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<dyn MetaStore>,
    identity: Identity,
    handle: BookieHandle,
    /// In the order of the handle's disks.
    disks: Vec<Arc<dyn Disk>>,
    ttl: Duration,
    limits: Limits,
    /// The lease while it stands, and the version of the key.
    standing: watch::Sender<Option<(LeaseId, Version)>>,
    /// Whether it is being decommissioned: it takes no new data then.
    draining: AtomicBool,
    /// Held while registering or leaving, so that leaving is the last word; true once left.
    left: Mutex<bool>,
}

impl Registration {
    /// Prepares; nothing is registered yet.
    pub(crate) fn new(
        store: Arc<dyn MetaStore>,
        identity: Identity,
        handle: BookieHandle,
        disks: Vec<Arc<dyn Disk>>,
        ttl: Duration,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Shared {
            store,
            identity,
            handle,
            disks,
            ttl,
            limits,
            standing: watch::Sender::new(None),
            draining: AtomicBool::new(false),
            left: Mutex::new(false),
        }))
    }

    /// Registers, and stays so until `tasks` stops or [`Registration::leave`]. A replaced bookie stops `tasks`.
    ///
    /// # Errors
    /// [`RegisterError`] of the first attempts; later ones are repeated.
    pub(crate) async fn start(&self, tasks: &Tasks) -> Result<(), RegisterError> {
        self.register().await?;
        let (keeper, group) = (self.clone(), tasks.clone());
        tasks.spawn("bookie registration", async move {
            tokio::select! {
                () = group.cancelled() => {}
                replaced = keeper.keep() => {
                    tracing::error!(%replaced, "the bookie stops");
                    group.cancel();
                }
            }
        });
        Ok(())
    }

    /// Whether it is registered, as far as is known.
    pub(crate) fn stands(&self) -> bool {
        self.0.standing.borrow().is_some()
    }

    /// Ends the registration, so that writers go elsewhere at once. Best effort: what fails ends with the lease.
    pub(crate) async fn leave(&self) {
        let mut left = self.0.left.lock().await;
        *left = true;
        if let Some((lease, _)) = self.0.standing.send_replace(None)
            && let Err(error) = self.0.store.revoke_lease(lease).await
        {
            tracing::warn!(%error, "the registration could not be ended; it ends with its lease");
        }
        metrics::registered(false);
    }

    /// Whether the bookie is being decommissioned, as the metadata says now. What was known stays so unless both keys were read: the end of
    /// a decommission takes both, and a bookie without a cookie takes no data.
    async fn read_draining(&self) -> Result<(), RegisterError> {
        let Shared { store, identity, draining, .. } = &*self.0;
        let found = store.get(&keys::bookie_draining(&identity.bookie)).await?;
        self.check_cookie().await?;
        let was = draining.swap(found.is_some(), Ordering::SeqCst);
        if was != found.is_some() {
            tracing::info!(bookie = %identity.bookie, draining = found.is_some(), "decommission");
        }
        Ok(())
    }

    /// Whether this process is still who it says.
    async fn check_cookie(&self) -> Result<(), RegisterError> {
        let Shared { store, identity, .. } = &*self.0;
        let found = store.get(&keys::bookie_cookie(&identity.bookie)).await?;
        match found.map(|found| found.version) == Some(identity.cookie) {
            true => Ok(()),
            false => Err(RegisterError::Replaced(identity.bookie.clone())),
        }
    }

    /// The decommission began, was taken back, or is done: then this process is nobody any more. False when that is not known yet.
    async fn on_draining(&self) -> Result<bool, RegisterError> {
        match self.read_draining().await {
            Ok(()) => Ok(true),
            Err(RegisterError::Metadata(error)) => {
                tracing::warn!(%error, "whether the bookie is being decommissioned is not known; reading again");
                Ok(false)
            }
            Err(replaced @ RegisterError::Replaced(_)) => Err(replaced),
        }
    }

    /// What is said about decommissions; never ends.
    async fn watch_draining(&self) -> WatchStream {
        let key = keys::bookie_draining(&self.0.identity.bookie);
        loop {
            match self.0.store.watch(&key, None).await {
                Ok(events) => return events,
                Err(error) => tracing::warn!(%error, "decommissions cannot be watched; trying on"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Keeps the lease alive and what is told current, and registers again when it is gone. Ends when this process was replaced.
    async fn keep(&self) -> RegisterError {
        let mut decommission = self.watch_draining().await;
        let pace = self.0.ttl / KEEP_ALIVES_PER_TTL;
        let mut alive = interval_at(Instant::now() + pace, pace);
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = self.look();
        // An event comes once: until both keys were read after it, they are read at each look.
        let mut known = true;
        loop {
            tokio::select! {
                _ = alive.tick() => {
                    if self.is_gone(pace).await {
                        tracing::warn!(bookie = %self.0.identity.bookie, "registration is gone; registering again");
                        if let Err(replaced) = self.register_again().await {
                            return replaced;
                        }
                    }
                }
                Some(_) = decommission.next() => match self.on_draining().await {
                    Ok(read) => known = read,
                    Err(gone) => return gone,
                },
                _ = look.tick() => {
                    if !known {
                        match self.on_draining().await {
                            Ok(read) => known = read,
                            Err(gone) => return gone,
                        }
                    }
                    let now = self.look();
                    if differs(&told, &now) {
                        match self.update(&now).await {
                            Ok(true) => told = now,
                            Ok(false) => {}
                            Err(gone) => return gone,
                        }
                    }
                }
            }
        }
    }

    /// One keep-alive; true when the lease is gone.
    async fn is_gone(&self, within: Duration) -> bool {
        let standing = *self.0.standing.borrow();
        let Some((lease, _)) = standing else { return true };
        let answer = tokio::time::timeout(within, self.0.store.keep_alive(lease)).await;
        metrics::kept_alive(matches!(answer, Ok(Ok(()) | Err(MetaError::LeaseGone(_)))));
        match answer {
            Ok(Ok(())) => false,
            Ok(Err(MetaError::LeaseGone(_))) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "keep-alive of the registration failed");
                false
            }
            Err(_) => {
                tracing::warn!("keep-alive of the registration was not answered in time");
                false
            }
        }
    }

    async fn register_again(&self) -> Result<(), RegisterError> {
        loop {
            match self.register().await {
                Ok(()) => return Ok(()),
                Err(replaced @ RegisterError::Replaced(_)) => return Err(replaced),
                Err(RegisterError::Metadata(error)) => {
                    tracing::warn!(%error, "registering again failed; trying on");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Registers with a new lease. A live key that stands there is of an earlier life of this identity, since the boot
    /// counter lets only the latest one through: its lease is ended, not waited for. A store that was waited for longer than the new
    /// lease lives is asked for another.
    async fn register(&self) -> Result<(), RegisterError> {
        let left = self.0.left.lock().await;
        if *left {
            return Ok(());
        }
        loop {
            match self.register_once().await {
                Err(RegisterError::Metadata(MetaError::LeaseGone(lease))) => {
                    tracing::debug!(%lease, "ended before the registration was written");
                }
                other => return other,
            }
        }
    }

    /// The same with one lease.
    async fn register_once(&self) -> Result<(), RegisterError> {
        let shared = &*self.0;
        self.read_draining().await?;
        let lease = shared.store.grant_lease(shared.ttl).await?;
        let mut result = Ok(None);
        for _ in 0..ATTEMPTS {
            result = self.put(lease).await;
            match result {
                Ok(None) => {}
                Ok(Some(version)) => {
                    shared.standing.send_replace(Some((lease, version)));
                    metrics::registered(true);
                    let Identity { bookie, address, .. } = &shared.identity;
                    tracing::info!(%bookie, address, %lease, "registered");
                    return Ok(());
                }
                Err(RegisterError::Metadata(MetaError::Unknown(_))) => {}
                Err(_) => break,
            }
        }
        shared.standing.send_replace(None);
        metrics::registered(false);
        // Nobody will keep it alive; when this fails too, it ends by itself.
        let _ends_anyway = shared.store.revoke_lease(lease).await;
        match result {
            Ok(_) => {
                let what = "an earlier registration of this bookie had to be ended".to_owned();
                Err(MetaError::Unavailable(what).into())
            }
            Err(error) => Err(error),
        }
    }

    /// One attempt; `None` when an earlier registration stood in the way and was ended.
    async fn put(&self, lease: LeaseId) -> Result<Option<Version>, RegisterError> {
        let Shared { store, identity, .. } = &*self.0;
        let cookie = keys::bookie_cookie(&identity.bookie);
        let key = keys::bookie_live(&identity.bookie);
        let txn = Txn::new()
            .guard(Guard::Version(cookie.clone(), identity.cookie))
            .guard(Guard::Absent(key.clone()))
            .put_leased(&key, self.record(lease, &self.look()).encode(), lease);
        if let TxnOutcome::Committed(revision) = store.txn(txn).await? {
            return Ok(Some(Version(revision.0)));
        }
        if store.get(&cookie).await?.map(|found| found.version) != Some(identity.cookie) {
            return Err(RegisterError::Replaced(identity.bookie.clone()));
        }
        let Some(found) = store.get(&key).await? else { return Ok(None) };
        match LiveBookie::decode(&found.value) {
            // An attempt of ours whose outcome was unknown.
            Ok(ours) if ours.lease == lease => return Ok(Some(found.version)),
            Ok(earlier) => {
                tracing::info!(lease = %earlier.lease, "ending the registration of an earlier life");
                store.revoke_lease(earlier.lease).await?;
            }
            Err(invalid) => {
                tracing::warn!(%invalid, "an invalid registration of this bookie is removed");
                let guard = Guard::Version(key.clone(), found.version);
                store.txn(Txn::new().guard(guard).delete(key)).await?;
            }
        }
        Ok(None)
    }

    /// Tells how the disks are now; false when that did not work, and is to be tried again later.
    async fn update(&self, seen: &Seen) -> Result<bool, RegisterError> {
        let Shared { store, identity, .. } = &*self.0;
        let standing = *self.0.standing.borrow();
        let Some((lease, version)) = standing else { return Ok(false) };
        let key = keys::bookie_live(&identity.bookie);
        let txn = Txn::new()
            .guard(Guard::Version(keys::bookie_cookie(&identity.bookie), identity.cookie))
            .guard(Guard::Version(key.clone(), version))
            .put_leased(&key, self.record(lease, seen).encode(), lease);
        let (version, told) = match store.txn(txn).await {
            Ok(TxnOutcome::Committed(revision)) => (Version(revision.0), true),
            Ok(TxnOutcome::GuardFailed) => {
                if let Err(replaced @ RegisterError::Replaced(_)) = self.check_cookie().await {
                    return Err(replaced);
                }
                match store.get(&key).await {
                    // An earlier update of unknown outcome was applied: take its version, and try again later.
                    Ok(Some(found)) => (found.version, false),
                    Ok(None) | Err(_) => return Ok(false),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the state of the disks could not be told");
                return Ok(false);
            }
        };
        self.0.standing.send_if_modified(|standing| match standing {
            Some((ours, seen)) if *ours == lease => std::mem::replace(seen, version) != version,
            _ => false,
        });
        Ok(told)
    }

    fn record(&self, lease: LeaseId, seen: &Seen) -> LiveBookie {
        let Identity { bookie, address, http_address, zone, started_ms, .. } = &self.0.identity;
        LiveBookie {
            id: bookie.clone(),
            address: address.clone(),
            http_address: http_address.clone(),
            zone: zone.clone(),
            rack: String::new(),
            disks: seen.disks.clone(),
            lease,
            started_ms: *started_ms,
            repair_rate: self.0.identity.repair_rate,
            objects_missing: seen.objects_missing,
            features: Features::ALL,
        }
    }

    /// Looks at the disks, and tells each how full it is (5.8).
    fn look(&self) -> Seen {
        let mut sum = Space { free: 0, total: 0 };
        let mut fullest = Fullness::Normal;
        let draining = self.0.draining.load(Ordering::SeqCst);
        let disks = self.0.handle.disks().iter().zip(&self.0.disks).map(|(ledgers, disk)| {
            let space = disk.space().unwrap_or_else(|error| {
                tracing::warn!(member = %ledgers.member(), %error, "free space cannot be told");
                Space { free: 0, total: 0 }
            });
            sum = Space { free: sum.free + space.free, total: sum.total + space.total };
            let used = ledgers.used().next(space, self.0.limits);
            ledgers.set_used(used);
            if space.total > 0 {
                ledgers.set_surplus(self.0.limits.surplus(space));
            }
            let was = ledgers.fullness();
            let now = if draining { used.max(Fullness::High) } else { used };
            fullest = fullest.max(now);
            if was != now && draining {
                ledgers.set_fullness(now);
            } else if was != now {
                tracing::warn!(member = %ledgers.member(), ?now, free = space.free, "a disk changed what it takes; add bookies or delete topics before it is full");
                ledgers.set_fullness(now);
            }
            LiveDisk {
                incarnation: ledgers.member().incarnation,
                writable: ledgers.is_writable(),
                free_bytes: space.free,
                total_bytes: space.total,
            }
        });
        let disks: Vec<LiveDisk> = disks.collect();
        // Once they take nothing: whoever tiers looks at what is here from now on.
        self.0.handle.set_leaving(draining);
        metrics::space(sum.free, sum.total);
        metrics::fullness(fullest as u8);
        metrics::unwritable(disks.iter().filter(|disk| !disk.writable).count());
        Seen { disks, objects_missing: self.0.handle.objects_missing() }
    }
}

/// Whether others should hear of it: free space moved by more than 1 %, a disk takes new data now or no more, or objects are missing.
fn differs(told: &Seen, now: &Seen) -> bool {
    let mut disks = told.disks.iter().zip(&now.disks);
    told.objects_missing != now.objects_missing
        || disks.any(|(told, now)| {
            told.writable != now.writable
                || told.free_bytes.abs_diff(now.free_bytes) > now.total_bytes / 100
        })
}

#[cfg(test)]
mod tests;
