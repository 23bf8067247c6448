//! A broker that stops hands over what it owns first: it asks to own nothing, like an operator would for it, and serves on
//! until the coordinator has given everything to others. So nobody waits for its end to be noticed.

use std::time::Duration;

use geminga_metastore::{Error, Guard, Txn, TxnOutcome, keys, record};
use tokio::time::Instant;

use super::Inner;
use crate::ownership::operator::takers;

/// How long the metadata store may take to hear of it.
const ASK_WAIT: Duration = Duration::from_secs(2);

impl Inner {
    /// Waits until this broker owns nothing, for at most `within`. Where nobody else could take anything, or the metadata
    /// store is away, or this broker failed, it does not wait.
    pub(super) async fn hand_over(&self, within: Duration) {
        let (me, begin) = (self.registration.id(), Instant::now());
        let alive = !self.ctx.tasks.is_cancelled() && self.registration.is_registered();
        if within.is_zero() || !alive || takers(&self.topology, me) == 0 {
            return;
        }
        match tokio::time::timeout(ASK_WAIT.min(within), self.ask_to_own_nothing()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "partitions are not handed over; others take them later");
                return;
            }
            Err(_) => {
                tracing::warn!("partitions are not handed over: the metadata store is silent");
                return;
            }
        }
        let left = within.saturating_sub(begin.elapsed());
        let done = self
            .topology
            .wait_for(left, |view| {
                (view.owned_by(me).is_empty() || takers(view, me) == 0).then_some(())
            })
            .await;
        let partitions = self.topology.owned_by(me).len();
        match done {
            Some(()) => {
                tracing::info!(partitions, took = ?begin.elapsed(), "partitions handed over")
            }
            None => {
                tracing::warn!(partitions, "partitions are left that were not handed over in time")
            }
        }
    }

    /// The key goes when this broker leaves; if it cannot, the coordinator removes it later.
    async fn ask_to_own_nothing(&self) -> Result<(), Error> {
        let key = keys::drain(self.registration.id());
        let record = record::Drain { since_ms: self.ctx.clock.now_ms() };
        let txn = Txn::new().guard(Guard::Absent(key.clone())).put(&key, record.encode());
        match self.ctx.store.txn(txn).await? {
            // It was asked for before.
            TxnOutcome::Committed(_) | TxnOutcome::GuardFailed => Ok(()),
        }
    }
}
