//! This broker's registration: `brokers/<id>` under a lease that one task keeps alive. The number comes from the
//! cluster's counter at process start and never changes: a restarted broker is a new broker (DESIGN 6).
//!
//! When the registration is found gone while the process lives (the store was paused, or somebody took us for dead),
//! [`Standing::Lost`] says that serving must stop; the task then registers again under the same number. While the
//! store is merely silent the standing does not change: what is owned goes on.

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::{Error, Guard, LeaseId, MetaStore, Txn, TxnOutcome, keys, record};
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

/// A handle on the registration; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registration(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: BrokerId,
    ttl: Duration,
    identity: Identity,
    store: Arc<dyn MetaStore>,
    standing: watch::Sender<Standing>,
    contact: Contact,
    /// Held while registering or leaving, so that leaving is the last word.
    registering: Mutex<()>,
}

impl Registration {
    /// Registers under `id`, which must be new ([`geminga_metastore::cluster`]), and stays so until `tasks` stops or
    /// [`Registration::leave`].
    ///
    /// # Errors
    /// When the first attempt fails; later ones are repeated.
    pub async fn start(
        store: Arc<dyn MetaStore>,
        topology: Topology,
        tasks: &Tasks,
        id: BrokerId,
        identity: Identity,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let registration = Self(Arc::new(Shared {
            id,
            ttl,
            identity,
            store,
            standing: watch::Sender::new(Standing::Lost),
            contact: Contact::new(ttl, Instant::now()),
            registering: Mutex::new(()),
        }));
        registration.register().await?;
        let (keeper, cancelled) = (registration.clone(), tasks.cancelled());
        tasks.spawn("broker registration", async move {
            tokio::select! {
                () = cancelled => {}
                () = keeper.run(topology) => {}
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

    async fn run(self, topology: Topology) {
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
                self.register_again().await;
            }
        }
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

    async fn register_again(&self) {
        loop {
            match self.register().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "registering again failed; trying on"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One attempt, with a new lease. Does nothing once this broker has left.
    async fn register(&self) -> Result<(), Error> {
        let shared = &*self.0;
        let _one = shared.registering.lock().await;
        if self.standing() == Standing::Left {
            return Ok(());
        }
        let sent = Instant::now();
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

    /// Puts the key. A key that stands there is of an earlier attempt of ours, since the number is ours alone.
    async fn put(&self, lease: LeaseId) -> Result<(), Error> {
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
        };
        let txn =
            Txn::new().guard(Guard::Absent(key.clone())).put_leased(&key, record.encode(), lease);
        if let TxnOutcome::Committed(_) = store.txn(txn).await? {
            return Ok(());
        }
        if let Some(found) = store.get(&key).await? {
            let earlier = record::Broker::decode(&found.value)
                .map_err(|e| Error::Corrupt { key, why: e.to_string() })?;
            store.revoke_lease(earlier.lease).await?;
        }
        Err(Error::Unavailable(format!("an earlier registration of broker {id} had to be ended")))
    }
}

/// Resolves when the broker has left. Cancel-safe.
async fn left(standing: &mut watch::Receiver<Standing>) {
    // The sender lives as long as the registration, of which the caller holds a handle.
    let _gone = standing.wait_for(|standing| *standing == Standing::Left).await.is_err();
}
