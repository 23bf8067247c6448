//! This broker's registration: `brokers/<id>` under a lease that one task keeps alive. The number comes from the
//! cluster's counter at process start and never changes: a restarted broker is a new broker (DESIGN 6).
//!
//! When the registration is found gone while the process lives (the store was paused, or somebody took us for dead),
//! [`Standing::Lost`] says that serving must stop; the task then registers again under the same number. While the
//! store is merely silent the standing does not change: what is owned goes on.
//!
//! A store that was restored from a backup while the process lived is another one (protocol M1): what this process took from the old one,
//! such as blocks of ids and its own number, is not its to use any more. Each registration is guarded by the cluster's record, and where
//! that is of another epoch, or knows less than this process, the process stops.

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::{
    Error, Guard, LeaseId, MetaStore, Txn, TxnOutcome, Version, cluster, keys, record,
};
use geminga_proto::ids::BrokerId;
use geminga_runtime::Tasks;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::contact::{Contact, KEEP_ALIVES_PER_TTL};
use super::metrics;
use super::topology::Topology;

/// Between attempts to register again.
const RETRY: Duration = Duration::from_millis(200);

/// What this broker tells the others about itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Where it serves gRPC, `HOST:PORT` as others reach it.
    pub grpc_address: String,
    /// Where it serves health and metrics; empty when it does not.
    pub http_address: String,
    /// Failure domain; empty when none was given.
    pub zone: String,
    /// Where it serves Kafka clients, by listener.
    pub kafka: Vec<record::KafkaListener>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
}

/// Whether this broker may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is registered, as far as is known.
    Registered {
        /// What the registration, and an election, live by.
        lease: LeaseId,
    },
    /// The registration ended: stop serving until it is back.
    Lost,
    /// It has left for good.
    Left,
}

/// Why a broker is not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NotRegistered {
    /// The metadata is not the one that this process began with.
    #[error(
        "the metadata was restored from a backup since this broker started: start it again once `geminga cluster audit` has passed"
    )]
    Outlived,
    #[error(transparent)]
    Metadata(#[from] Error),
}

/// A handle on the registration; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registration(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: BrokerId,
    /// The epoch in which this process began.
    epoch: u16,
    ttl: Duration,
    identity: Identity,
    store: Arc<dyn MetaStore>,
    standing: watch::Sender<Standing>,
    contact: Contact,
    /// Held while registering or leaving, so that leaving is the last word.
    registering: Mutex<()>,
}

impl Registration {
    /// Registers under `id`, which must be new in this cluster epoch ([`geminga_metastore::cluster`]), and stays so until `tasks` stops
    /// or [`Registration::leave`]. When the metadata was restored meanwhile, it stops `tasks`.
    ///
    /// # Errors
    /// When the first attempt fails; later ones are repeated.
    pub async fn start(
        store: Arc<dyn MetaStore>,
        topology: Topology,
        tasks: &Tasks,
        (id, epoch): (BrokerId, u16),
        identity: Identity,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let registration = Self(Arc::new(Shared {
            id,
            epoch,
            ttl,
            identity,
            store,
            standing: watch::Sender::new(Standing::Lost),
            contact: Contact::new(ttl, Instant::now()),
            registering: Mutex::new(()),
        }));
        registration.register().await.map_err(|error| match error {
            NotRegistered::Metadata(error) => error,
            NotRegistered::Outlived => Error::Unavailable(error.to_string()),
        })?;
        let (keeper, group) = (registration.clone(), tasks.clone());
        tasks.spawn("broker registration", async move {
            tokio::select! {
                () = group.cancelled() => {}
                outlived = keeper.run(topology) => if outlived {
                    group.cancel();
                }
            }
        });
        Ok(registration)
    }

    /// This broker's number.
    pub fn id(&self) -> BrokerId {
        self.0.id
    }

    /// Whether this broker may serve now.
    pub fn is_registered(&self) -> bool {
        matches!(self.standing(), Standing::Registered { .. })
    }

    /// Whether this broker may serve.
    pub fn standing(&self) -> Standing {
        *self.0.standing.borrow()
    }

    /// Whether the lease may still hold: the store has answered a request that was sent within its time to live. Whoever proves
    /// what is owned by a log need not ask this; it is for what is said without one.
    pub fn is_leased(&self) -> bool {
        self.is_registered() && self.0.contact.last().elapsed() < self.0.ttl
    }

    /// Changes of the standing. A receiver may miss [`Standing::Lost`] between two registrations, but each has
    /// another lease, by which it sees that it must have stopped in between.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    /// Contact with the metadata store.
    pub fn contact(&self) -> &Contact {
        &self.0.contact
    }

    /// Ends the registration, so that others take over at once, and then what this broker was told to do: its number does
    /// not come back. Serving must have stopped. Best effort: what fails ends with the lease, or is removed by the coordinator.
    pub async fn leave(&self) {
        let _last_word = self.0.registering.lock().await;
        if let Standing::Registered { lease } = self.0.standing.send_replace(Standing::Left) {
            match self.0.store.revoke_lease(lease).await {
                Ok(()) => self.forget_drain().await,
                Err(error) => {
                    tracing::warn!(%error, "registration could not be ended; it ends with its lease");
                }
            }
        }
        metrics::observe_registered(false);
    }

    async fn forget_drain(&self) {
        let absent = Guard::Absent(keys::broker(self.id()));
        let txn = Txn::new().guard(absent).delete(keys::drain(self.id()));
        if let Err(error) = self.0.store.txn(txn).await {
            tracing::debug!(%error, "the coordinator removes the drain of this broker");
        }
    }

    /// Adds what this broker carries to its registration, as long as that is the one of `lease`. Best effort.
    ///
    /// # Errors
    /// What the store says; nothing depends on it.
    pub async fn report(&self, lease: LeaseId, load: record::BrokerLoad) -> Result<(), Error> {
        let key = keys::broker(self.id());
        let Some(found) = self.0.store.get(&key).await? else { return Ok(()) };
        let mut record = record::Broker::decode(&found.value)
            .map_err(|e| Error::Corrupt { key: key.clone(), why: e.to_string() })?;
        if record.lease == lease {
            record.load = Some(load);
            let guard = Guard::Version(key.clone(), found.version);
            let txn = Txn::new().guard(guard).put_leased(&key, record.encode(), lease);
            self.0.store.txn(txn).await?;
        }
        Ok(())
    }

    /// Ends when this broker has left; true: it must stop.
    async fn run(self, topology: Topology) -> bool {
        while let Standing::Registered { lease } = self.standing() {
            self.keep(lease, &topology).await;
            // `leave` may have come in between; its word is the last.
            let lost = self.0.standing.send_if_modified(|standing| {
                let lost = *standing == Standing::Registered { lease };
                if lost {
                    *standing = Standing::Lost;
                }
                lost
            });
            if lost {
                metrics::observe_registered(false);
                metrics::count_registration_lost();
                tracing::warn!(broker = %self.id(), "registration is gone; serving stops until it is back");
                if let Err(outlived) = self.register_again().await {
                    tracing::error!(broker = %self.id(), %outlived, "the broker stops");
                    return true;
                }
            }
        }
        false
    }

    /// Keeps the lease alive until it, or the registration, is gone.
    async fn keep(&self, lease: LeaseId, topology: &Topology) {
        let interval = self.0.ttl / KEEP_ALIVES_PER_TTL;
        let mut tick = tokio::time::interval_at(Instant::now() + interval, interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut changed, mut standing) = (topology.changed(), self.watch());
        let here = || topology.broker(self.id()).is_some_and(|b| b.lease == lease);
        let mut seen = here();
        loop {
            tokio::select! {
                biased;
                () = left(&mut standing) => return,
                _ = changed.changed() => {
                    if seen && !here() {
                        return;
                    }
                    seen = here();
                }
                _ = tick.tick() => {
                    if self.keep_alive(lease, interval).await {
                        return;
                    }
                }
            }
        }
    }

    /// One keep-alive; true when the lease is gone.
    async fn keep_alive(&self, lease: LeaseId, within: Duration) -> bool {
        let sent = Instant::now();
        let answer = tokio::time::timeout(within, self.0.store.keep_alive(lease)).await;
        metrics::count_keep_alive(matches!(answer, Ok(Ok(()) | Err(Error::LeaseGone(_)))));
        match answer {
            Ok(Ok(())) => self.0.contact.answered(sent, Instant::now()),
            Ok(Err(Error::LeaseGone(_))) => {
                self.0.contact.answered(sent, Instant::now());
                return true;
            }
            Ok(Err(error)) => {
                self.0.contact.unanswered();
                tracing::warn!(%error, "keep-alive of the registration failed");
            }
            Err(_) => {
                self.0.contact.unanswered();
                tracing::warn!("keep-alive of the registration was not answered in time");
            }
        }
        false
    }

    /// Tries until it is done, or must not be.
    async fn register_again(&self) -> Result<(), NotRegistered> {
        loop {
            match self.register().await {
                Ok(()) => return Ok(()),
                Err(outlived @ NotRegistered::Outlived) => return Err(outlived),
                Err(NotRegistered::Metadata(error)) => {
                    tracing::warn!(%error, "registering again failed; trying on");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One attempt, with a new lease, and with another where the store was waited for longer than that lives. Does nothing once this
    /// broker has left.
    async fn register(&self) -> Result<(), NotRegistered> {
        let shared = &*self.0;
        let _one = shared.registering.lock().await;
        if self.standing() == Standing::Left {
            return Ok(());
        }
        loop {
            match self.register_once().await {
                Err(NotRegistered::Metadata(Error::LeaseGone(lease))) => {
                    tracing::debug!(%lease, "ended before the registration was written");
                }
                other => return other,
            }
        }
    }

    async fn register_once(&self) -> Result<(), NotRegistered> {
        let shared = &*self.0;
        let sent = Instant::now();
        self.same_cluster().await?;
        let lease = shared.store.grant_lease(shared.ttl).await?;
        match self.put(lease).await {
            Ok(()) => {
                shared.contact.answered(sent, Instant::now());
                shared.standing.send_replace(Standing::Registered { lease });
                metrics::observe_registered(true);
                tracing::info!(broker = %shared.id, %lease, "registered");
                Ok(())
            }
            Err(error) => {
                // Nobody will keep it alive; when this fails too, it ends by itself.
                let _ = shared.store.revoke_lease(lease).await;
                Err(error)
            }
        }
    }

    /// The version of the cluster's record, if it is that of the cluster in which this process began.
    async fn same_cluster(&self) -> Result<Version, NotRegistered> {
        let Shared { id, epoch, store, .. } = &*self.0;
        let Some((cluster, version)) = cluster::read(&**store).await? else {
            return Err(NotRegistered::Outlived);
        };
        let audited = cluster.restored.is_none_or(|restored| restored.audited);
        // A record that has not given this number out yet is of before.
        match cluster.epoch == *epoch && audited && *id < cluster.next_broker {
            true => Ok(version),
            false => Err(NotRegistered::Outlived),
        }
    }

    /// Puts the key. A key that stands there is of an earlier attempt of ours, since the number is ours alone.
    async fn put(&self, lease: LeaseId) -> Result<(), NotRegistered> {
        let Shared { id, identity, store, .. } = &*self.0;
        let key = keys::broker(*id);
        let record = record::Broker {
            id: *id,
            grpc_address: identity.grpc_address.clone(),
            http_address: identity.http_address.clone(),
            zone: identity.zone.clone(),
            lease,
            started_ms: identity.started_ms,
            load: None,
            kafka: identity.kafka.clone(),
            features: record::Features::ALL,
        };
        loop {
            let cluster = self.same_cluster().await?;
            let txn = Txn::new()
                .guard(Guard::Version(keys::CLUSTER.to_owned(), cluster))
                .guard(Guard::Absent(key.clone()))
                .put_leased(&key, record.encode(), lease);
            if let TxnOutcome::Committed(_) = store.txn(txn).await? {
                return Ok(());
            }
            // Without a key it was the cluster's record that changed: somebody took a number, or the epoch was raised.
            if let Some(found) = store.get(&key).await? {
                let earlier = record::Broker::decode(&found.value)
                    .map_err(|e| Error::Corrupt { key, why: e.to_string() })?;
                if earlier.lease == lease {
                    // This one, sent before and not heard of.
                    return Ok(());
                }
                store.revoke_lease(earlier.lease).await?;
                let why = format!("an earlier registration of broker {id} had to be ended");
                return Err(Error::Unavailable(why).into());
            }
        }
    }
}

/// Resolves when the broker has left. Cancel-safe.
async fn left(standing: &mut watch::Receiver<Standing>) {
    // The sender lives as long as the registration, of which the caller holds a handle.
    let _gone = standing.wait_for(|standing| *standing == Standing::Left).await.is_err();
}

#[cfg(test)]
mod tests;
