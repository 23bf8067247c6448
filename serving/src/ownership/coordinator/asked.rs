//! What operators, and brokers that stop, ask of the coordinator: moves of one partition, and drains. A move's key goes in
//! the transaction that carries it out, so that it is done once; what cannot be done is removed alone.

use std::collections::BTreeSet;

use geminga_metastore::{Error, Guard, Txn, TxnOutcome, Version, keys};
use geminga_proto::ids::{BrokerId, PartitionIndex, TopicId};
use tokio::time::Instant;

use super::decision::decisions;
use super::{Coordinator, Office, metrics};
use crate::ownership::assignment::{Cause, Change};
use crate::ownership::topology::Asked;

impl Coordinator {
    /// Carries out one thing that is asked for; `None` when there is nothing, else whether it was committed.
    /// `takers`: who may be given partitions.
    pub(super) async fn carry_out_asked(
        &mut self,
        office: Office,
        takers: &BTreeSet<BrokerId>,
    ) -> Result<Option<bool>, Error> {
        let Some(((topic, partition), asked)) = self.parts.topology.moves().pop_first() else {
            return self.forget_drains(office).await;
        };
        let key = keys::move_of(topic, partition);
        let Some(change) = self.change((topic, partition), asked, takers) else {
            tracing::warn!(%topic, %partition, to = %asked.to, "a move cannot be made");
            return self.forget(office, key, asked.version, None).await.map(Some);
        };
        let Some(mut decision) = decisions(&[change], &self.parts.topology).pop() else {
            return Ok(Some(false));
        };
        decision.txn = decision.txn.guard(Guard::Version(key.clone(), asked.version)).delete(key);
        self.commit(office, decision).await.map(Some)
    }

    /// The change that a move asks for; `None` when nothing can or has to be done.
    fn change(
        &self,
        (topic, partition): (TopicId, PartitionIndex),
        asked: Asked,
        takers: &BTreeSet<BrokerId>,
    ) -> Option<Change> {
        let topology = &self.parts.topology;
        let known = topology.topic_by_id(topic)?;
        let before = *topology.owners(&known).get(partition.0 as usize)?;
        let drains = topology.drains();
        // What nobody owns, or a dead broker, is given an owner without being asked for.
        let served = before.broker.is_some_and(|owner| self.liveness.live().contains(&owner));
        let takes = takers.contains(&asked.to) && !drains.contains_key(&asked.to);
        if !served || !takes {
            return None;
        }
        Change::new((topic, partition), before, asked.to, Cause::Asked)
    }

    /// Removes the drain of a broker that has gone; `None` when there is none.
    async fn forget_drains(&mut self, office: Office) -> Result<Option<bool>, Error> {
        let now = Instant::now();
        let drains = self.parts.topology.drains();
        let Some((broker, version)) =
            drains.into_iter().find(|(broker, _)| self.liveness.is_gone(now, *broker))
        else {
            return Ok(None);
        };
        let absent = Guard::Absent(keys::broker(broker));
        self.forget(office, keys::drain(broker), version, Some(absent)).await.map(Some)
    }

    /// Removes a key. No assignment changes, so the next decision does not wait for the view.
    async fn forget(
        &mut self,
        office: Office,
        key: String,
        version: Version,
        guard: Option<Guard>,
    ) -> Result<bool, Error> {
        let mut txn = Txn::new()
            .guard(Guard::Created(keys::COORDINATOR.to_owned(), office.created))
            .guard(Guard::Version(key.clone(), version))
            .delete(key);
        txn.guards.extend(guard);
        match self.parts.store.txn(txn).await? {
            TxnOutcome::Committed(_) => Ok(true),
            TxnOutcome::GuardFailed => {
                metrics::count_failed_decision();
                self.check_in(office).await?;
                Ok(false)
            }
        }
    }
}
