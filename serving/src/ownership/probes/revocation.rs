//! Ends the registration of one broker that is dead as its peers see it. A future of the prober's, one at a time.
//!
//! * **One at a time in the cluster.** The key `revoking` is put by the transaction that ends the registration, if it is
//!   absent, and stays until the partitions have moved or the broker is back; at most for [`HOLD`], since it lives by a
//!   lease that nobody keeps alive. It does not protect the coordinator, without which nothing moves: when that one is
//!   dead, too, whoever holds the key lets go of it, and another one puts its own in its place.
//! * **Only this registration.** The transaction is guarded by the creation of the key, so a broker that registered again
//!   meanwhile is not hit; and by that of the accuser's own, so of two that accuse each other one goes.
//! * **Taken back** when the evidence goes. The lease of `revoking` is ended then, without which a transaction that is still
//!   on its way to the store does nothing. One that has arrived is not: whether it has is read, not guessed, and
//!   while nobody can tell the key stays.
//! * The store must answer reads right before, so that whoever is cut off from it, too, ends nobody's registration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_metastore::{
    Error, Guard, LeaseId, MetaStore, Revision, Txn, TxnOutcome, Versioned, keys, record,
};
use geminga_proto::ids::BrokerId;
use tokio::sync::watch;

use super::View;
use super::core::INTERVAL;
use crate::ownership::metrics;
use crate::ownership::topology::Topology;

/// How long the store may take to answer (DESIGN 6).
const CONTACT: Duration = Duration::from_secs(1);
/// How long others wait at most for what was owned to move.
const HOLD: Duration = Duration::from_secs(5);

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The registration has ended.
    Ended,
    /// It is not the one that was probed any more, or another revocation is under way, or this broker's own has ended.
    InTheWay,
    /// The broker is not dead any more.
    TakenBack,
    /// The store took the transaction or did not, and does not tell.
    Unclear,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) topology: Topology,
    /// What probes say now.
    pub(super) view: watch::Receiver<View>,
    /// This broker, and its registration.
    pub(super) me: (BrokerId, LeaseId),
    /// The one that is dead.
    pub(super) dead: (BrokerId, LeaseId),
    /// Its address refuses connections; otherwise it only does not answer.
    pub(super) refused: bool,
}

impl Revocation {
    /// Runs until partitions have moved, or nothing can be done; not in a tight loop.
    pub(super) async fn run(self) {
        let (broker, _) = self.dead;
        let outcome = match within(self.store.grant_lease(HOLD)).await {
            Ok(hold) => {
                let outcome = self.attempt(hold).await;
                if let Ok(Outcome::Ended) = outcome {
                    self.wait().await;
                }
                if let Ok(Outcome::Unclear) = outcome {
                    tracing::warn!(%broker, "whether a registration was ended is not known: no other one is for as long as that may take");
                } else if let Err(error) = within(self.store.revoke_lease(hold)).await {
                    tracing::debug!(%error, "the key of a revocation ends with its lease");
                }
                outcome
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Outcome::Ended) => return,
            // The transaction may still have come before the end of its lease.
            Ok(Outcome::TakenBack) => match within(self.store.get(&keys::broker(broker))).await {
                Ok(found) if self.is_theirs(found.as_ref()) => {
                    tracing::info!(%broker, "broker answers again: its registration stands");
                }
                Ok(_) | Err(_) => {
                    tracing::warn!(%broker, "broker answers again: if its registration has ended, it makes another one");
                }
            },
            Ok(Outcome::Unclear) => {}
            Ok(Outcome::InTheWay) => {
                tracing::debug!(%broker, "something came before the end of a registration");
            }
            Err(error) => {
                tracing::warn!(%broker, %error, "registration of a dead broker could not be ended; it ends with its lease");
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }

    /// Waits until partitions have moved, or the coordinator, which moves them, is dead, too; at most for [`HOLD`].
    async fn wait(&self) {
        let mut probed = self.view.clone();
        let over = |view: &Topology| {
            self.is_made_up_for(view) || self.is_coordinator_dead(&self.view.borrow())
        };
        tokio::select! {
            _ = self.topology.wait_for(HOLD, |view| over(view).then_some(())) => {}
            // The prober that runs this holds the sender.
            _ = probed.wait_for(|probed| self.is_coordinator_dead(probed)) => {}
        }
    }

    /// Ends the registration while the evidence stands.
    async fn attempt(&self, hold: LeaseId) -> Result<Outcome, Error> {
        let mut view = self.view.clone();
        let (broker, lease) = self.dead;
        let sent = AtomicBool::new(false);
        // The prober that runs this holds the sender.
        let gone = async { drop(view.wait_for(|view| !view.dead.contains(&broker)).await) };
        let outcome = tokio::select! {
            biased;
            outcome = self.end(hold, &sent) => outcome,
            () = gone => Ok(Outcome::TakenBack),
        };
        let outcome = match outcome {
            Ok(Outcome::TakenBack) | Err(_) if sent.load(Ordering::Relaxed) => {
                self.find_out(outcome).await
            }
            clear => clear,
        }?;
        if outcome == Outcome::Ended {
            let refused = self.refused;
            tracing::warn!(%broker, %lease, refused, "broker is dead as seen by its peers: its registration was ended");
            metrics::count_revocation(refused);
            // Nothing lives by it any more. A broker that is not dead finds out sooner.
            let _ends_by_itself = within(self.store.revoke_lease(lease)).await.is_err();
        }
        Ok(outcome)
    }

    /// `sent`: whether the transaction is on its way.
    async fn end(&self, hold: LeaseId, sent: &AtomicBool) -> Result<Outcome, Error> {
        let (mine, theirs) = (keys::broker(self.me.0), keys::broker(self.dead.0));
        let reads = async {
            tokio::try_join!(
                self.store.get(&mine),
                self.store.get(&theirs),
                self.store.get(keys::COORDINATOR),
                self.store.get(keys::REVOKING)
            )
        };
        let (me, dead, coordinator, held) = within(reads).await?;
        let (Some(my_life), Some(their_life)) =
            (registered(me.as_ref(), self.me.1), registered(dead.as_ref(), self.dead.1))
        else {
            return Ok(Outcome::InTheWay);
        };
        let revoking = record::Revoking { broker: self.dead.0, by: self.me.0 };
        let mut txn = Txn::new()
            .guard(Guard::Created(mine, my_life))
            .guard(Guard::Created(theirs.clone(), their_life))
            .put_leased(keys::REVOKING, revoking.encode(), hold)
            .delete(theirs);
        let mut free = Guard::Absent(keys::REVOKING.to_owned());
        // Its office lives by the same lease, and ends in the same revision.
        if let Some(found) = coordinator
            && record::Coordinator::decode(&found.value).is_ok_and(|c| c.broker == self.dead.0)
        {
            let key = keys::COORDINATOR.to_owned();
            txn = txn.guard(Guard::Created(key.clone(), found.created)).delete(key);
            if let Some(held) = held
                && record::Revoking::decode(&held.value).is_ok_and(|r| r.broker != self.dead.0)
            {
                free = Guard::Version(keys::REVOKING.to_owned(), held.version);
            }
        }
        txn = txn.guard(free);
        // The reads may have been answered while this process stood still; what it saw before does not count then.
        if !self.view.borrow().dead.contains(&self.dead.0) {
            return Ok(Outcome::TakenBack);
        }
        sent.store(true, Ordering::Relaxed);
        match within(self.store.txn(txn)).await? {
            TxnOutcome::Committed(_) => Ok(Outcome::Ended),
            TxnOutcome::GuardFailed => Ok(Outcome::InTheWay),
        }
    }

    /// What became of an attempt that did not come to its end.
    async fn find_out(&self, so_far: Result<Outcome, Error>) -> Result<Outcome, Error> {
        let theirs = keys::broker(self.dead.0);
        let reads =
            async { tokio::try_join!(self.store.get(&theirs), self.store.get(keys::REVOKING)) };
        let Ok((dead, held)) = within(reads).await else { return Ok(Outcome::Unclear) };
        if self.is_theirs(dead.as_ref()) {
            return so_far;
        }
        let mine = record::Revoking { broker: self.dead.0, by: self.me.0 };
        let by_me =
            held.is_some_and(|held| record::Revoking::decode(&held.value).is_ok_and(|r| r == mine));
        Ok(if by_me { Outcome::Ended } else { Outcome::InTheWay })
    }

    /// Whether what was found under the dead broker's key is the registration that was probed.
    fn is_theirs(&self, found: Option<&Versioned>) -> bool {
        registered(found, self.dead.1).is_some()
    }

    /// Whether another broker is elected by now, and dead.
    fn is_coordinator_dead(&self, probed: &View) -> bool {
        let elected = self.topology.coordinator().map(|elected| elected.broker);
        elected.is_some_and(|elected| elected != self.dead.0 && probed.dead.contains(&elected))
    }

    /// Whether nothing is assigned to the broker any more, or it registered again.
    fn is_made_up_for(&self, view: &Topology) -> bool {
        let (broker, lease) = self.dead;
        match view.broker(broker) {
            Some(found) => found.lease != lease,
            None => !view.loads().contains_key(&broker),
        }
    }
}

/// When the registration by a lease was made, if that is what was found.
fn registered(found: Option<&Versioned>, lease: LeaseId) -> Option<Revision> {
    let found = found?;
    let record = record::Broker::decode(&found.value).ok()?;
    (record.lease == lease).then_some(found.created)
}

async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answer = tokio::time::timeout(CONTACT, answer).await;
    answer.unwrap_or_else(|_| Err(Error::Unknown(format!("no answer in {CONTACT:?}"))))
}

#[cfg(test)]
mod tests;
