//! What operators ask for: drains, and moves of single partitions. Any broker takes the request; it becomes a key, which the
//! coordinator acts on (`coordinator::asked`), now or after the next election.

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::{Error, Guard, MetaStore, Txn, TxnOutcome, keys, record};
use geminga_proto::ids::BrokerId;
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::WallClock;

use super::topology::{Owner, Topology};
use crate::router::check_partition;
use crate::rpc::metadata::api_error;

/// Attempts at one transaction whose outcome stays unknown, or that others come before.
const ATTEMPTS: usize = 5;
/// How long a move may take.
const MOVE_WAIT: Duration = Duration::from_secs(10);
/// How long this broker's view may lag behind.
const CATCH_UP: Duration = Duration::from_secs(2);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The metadata store.
    pub store: Arc<dyn MetaStore>,
    /// This broker's view.
    pub topology: Topology,
    /// Dates requests; decides nothing.
    pub clock: Arc<dyn WallClock>,
}

impl Operator {
    /// Says that a broker is to own nothing; twice is once.
    ///
    /// # Errors
    /// INVALID_REQUEST: no such broker, or no other one takes partitions.
    pub async fn drain(&self, broker: BrokerId) -> Result<(), ApiError> {
        self.check_others(broker)?;
        let (key, record) = (keys::drain(broker), record::Drain { since_ms: self.clock.now_ms() });
        for _ in 0..ATTEMPTS {
            let created = self.registered(broker).await?;
            let txn = Txn::new()
                .guard(Guard::Created(keys::broker(broker), created))
                .guard(Guard::Absent(key.clone()))
                .put(&key, record.encode());
            let done = match self.store.txn(txn).await {
                Ok(TxnOutcome::Committed(_)) => true,
                // It may be draining already, or have registered again.
                Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {
                    self.store.get(&key).await.map_err(|e| api_error(&e))?.is_some()
                }
                Err(error) => return Err(api_error(&error)),
            };
            if done {
                tracing::info!(%broker, "broker is to own nothing");
                return Ok(());
            }
        }
        Err(not_known("whether the broker is drained"))
    }

    /// Says that a broker may own partitions again; twice is once.
    ///
    /// # Errors
    /// INVALID_REQUEST: no such broker.
    pub async fn undrain(&self, broker: BrokerId) -> Result<(), ApiError> {
        let key = keys::drain(broker);
        for _ in 0..ATTEMPTS {
            let Some(found) = self.store.get(&key).await.map_err(|e| api_error(&e))? else {
                return self.registered(broker).await.map(|_| ());
            };
            let txn = Txn::new().guard(Guard::Version(key.clone(), found.version)).delete(&key);
            match self.store.txn(txn).await {
                Ok(TxnOutcome::Committed(_)) => return Ok(()),
                Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {}
                Err(error) => return Err(api_error(&error)),
            }
        }
        Err(not_known("whether the broker is drained"))
    }

    /// Gives a partition to `to`; returns who had it, and its term now.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, UNKNOWN_PARTITION; INVALID_REQUEST: `to` takes no partitions; NOT_READY: nobody serves the partition,
    /// or nobody coordinates, now.
    pub async fn move_partition(
        &self,
        topic: &str,
        partition: u32,
        to: BrokerId,
    ) -> Result<(BrokerId, Owner), ApiError> {
        let topic = self.topology.resolve(topic).await?;
        let partition = check_partition(&topic, partition)?;
        self.registered(to).await?;
        if self.topology.drains().contains_key(&to) {
            let why = format!("broker {to} is draining: choose another one, or take it back first");
            return Err(ApiError::new(Reason::InvalidRequest, why));
        }
        let Some(owner) = self.topology.owner(topic.id, partition) else {
            let why =
                format!("partition {partition} of {} has no owner now: try again", topic.name);
            return Err(ApiError::new(Reason::NotReady, why));
        };
        let from = owner.broker;
        if from == to {
            return Ok((from, owner));
        }
        let key = keys::move_of(topic.id, partition);
        self.ask(&key, to).await?;
        let moved = |view: &Topology| view.owner(topic.id, partition).filter(|o| o.broker == to);
        // The key goes with the move, or without it when it could not be made.
        let settled = |view: &Topology| match moved(view) {
            Some(owner) => Some(Some(owner)),
            None => view.asked(topic.id, partition).is_none().then_some(None),
        };
        let seen = |view: &Topology| {
            view.asked(topic.id, partition).map(|_| ()).or(moved(view).map(|_| ()))
        };
        self.topology.wait_for(CATCH_UP, seen).await;
        let outcome = match self.topology.wait_for(MOVE_WAIT, settled).await {
            // The watches of both may bring them in either order.
            Some(None) => self.topology.wait_for(CATCH_UP, moved).await,
            Some(owner) => owner,
            None => {
                let why = "the coordinator has not made the move yet: look again later";
                return Err(ApiError::new(Reason::NotReady, why));
            }
        };
        let refused = || {
            let why = format!(
                "the coordinator did not move partition {partition} of {} to broker {to}: look whether that lives, and try again",
                topic.name
            );
            ApiError::new(Reason::NotReady, why)
        };
        Ok((from, outcome.ok_or_else(refused)?))
    }

    /// Puts the request, in the place of an earlier one.
    async fn ask(&self, key: &str, to: BrokerId) -> Result<(), ApiError> {
        let record = record::Move { to, asked_ms: self.clock.now_ms() }.encode();
        for _ in 0..ATTEMPTS {
            let found = self.store.get(key).await.map_err(|e| api_error(&e))?;
            let guard = match &found {
                Some(found) if found.value == record => return Ok(()),
                Some(found) => Guard::Version(key.to_owned(), found.version),
                None => Guard::Absent(key.to_owned()),
            };
            match self.store.txn(Txn::new().guard(guard).put(key, record.clone())).await {
                Ok(TxnOutcome::Committed(_)) => return Ok(()),
                Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {}
                Err(error) => return Err(api_error(&error)),
            }
        }
        Err(not_known("whether the move was asked for"))
    }

    /// When a broker's registration began.
    async fn registered(&self, broker: BrokerId) -> Result<geminga_metastore::Revision, ApiError> {
        let found = self.store.get(&keys::broker(broker)).await.map_err(|e| api_error(&e))?;
        found.map(|found| found.created).ok_or_else(|| {
            let why = format!("no broker {broker} is registered: see `geminga broker list`");
            ApiError::new(Reason::InvalidRequest, why)
        })
    }

    fn check_others(&self, broker: BrokerId) -> Result<(), ApiError> {
        if takers(&self.topology, broker) > 0 {
            return Ok(());
        }
        let why = format!("no other broker takes what broker {broker} has: start one first");
        Err(ApiError::new(Reason::InvalidRequest, why))
    }
}

/// How many brokers besides this one take partitions.
pub(crate) fn takers(topology: &Topology, besides: BrokerId) -> usize {
    let drains = topology.drains();
    let takes = |id: BrokerId| id != besides && !drains.contains_key(&id);
    topology.brokers().iter().filter(|broker| takes(broker.id)).count()
}

fn not_known(what: &str) -> ApiError {
    let why = format!("{what} is not known: the metadata store does not answer in time; try again");
    ApiError::new(Reason::MetadataUnavailable, why)
}
