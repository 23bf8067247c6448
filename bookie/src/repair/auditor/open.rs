//! Ledgers that are not closed and whose last fragment names somebody who is gone (protocol 6.4). That fragment is its writer's
//! (H17): a writer that lives replaces members by itself, and hears of those that leave by their registration. Who has none any more
//! is recovered, which closes it; then it may be repaired.

use std::time::Duration;

use geminga_metastore::record::{LedgerMeta, PartitionTerm};
use geminga_metastore::{Error, keys};
use geminga_proto::ids::PartitionIndex;
use tokio::time::Instant;

use super::{Auditor, Term};

/// Most ledgers that are remembered; the others are looked at by a later pass.
const MAX_OPEN: usize = 10_000;
/// How long one recovery may hold up the audit.
const RECOVERY: Duration = Duration::from_secs(40);
/// Most recoveries from one pass to the next.
const MAX_RECOVERIES: usize = 100;

impl Auditor {
    /// Ends those whose grace is over and whose owner is not there.
    pub(super) async fn end_open(&self, term: &mut Term, mut open: Vec<LedgerMeta>) {
        open.truncate(MAX_OPEN);
        let now = Instant::now();
        term.open.retain(|ledger, _| open.iter().any(|meta| meta.id == *ledger));
        let mut recovered = 0;
        for meta in open {
            let since = *term.open.entry(meta.id).or_insert(now);
            if now - since < self.config.open_grace || recovered >= MAX_RECOVERIES {
                continue;
            }
            match self.has_owner(&meta).await {
                Ok(true) => {
                    tracing::debug!(ledger = %meta.id, "a member of an open ledger is gone; its owner is left to replace it");
                }
                Ok(false) => {
                    recovered += 1;
                    self.recover(&meta).await;
                }
                Err(error) => {
                    tracing::warn!(ledger = %meta.id, %error, "the owner of an open ledger is not known");
                }
            }
        }
    }

    /// Whether the broker that owns the ledger's partition is registered.
    async fn has_owner(&self, meta: &LedgerMeta) -> Result<bool, Error> {
        let custom = &meta.custom;
        let key = keys::term(custom.topic, PartitionIndex(custom.partition));
        let Some(found) = self.store.get(&key).await? else { return Ok(false) };
        let term = PartitionTerm::decode(&found.value)
            .map_err(|invalid| Error::Corrupt { key, why: invalid.to_string() })?;
        match term.broker {
            Some(broker) => Ok(self.store.get(&keys::broker(broker)).await?.is_some()),
            None => Ok(false),
        }
    }

    async fn recover(&self, meta: &LedgerMeta) {
        tracing::info!(ledger = %meta.id, "an open ledger without an owner lost a member; it is closed");
        match tokio::time::timeout(RECOVERY, self.client.recover(meta.id)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(ledger = %meta.id, topic = meta.custom.name, %error, "an open ledger cannot be closed");
            }
            Err(_) => tracing::warn!(ledger = %meta.id, "an open ledger was not closed in time"),
        }
    }
}
