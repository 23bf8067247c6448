//! Carries out what an audit found (protocol 6.8), one ledger at a time, each by compare-and-swap from what stands then: what it says by
//! then is compared once more, so that each can be repeated.

use geminga_metastore::record::{CloseKind, LedgerMeta, LedgerState, Tier};
use geminga_metastore::{Error as MetaError, keys};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use crate::client::LedgerClient;
use crate::core::audit::{self, Holder};

impl LedgerClient {
    /// Makes the next recovery of a ledger hear all who hold something of it: it begins above an epoch that bookies were sealed with by
    /// metadata that was lost since, and those who go on where its members end become its last ensembles. No effect on one that is
    /// closed or gone. Cancel-safe.
    ///
    /// # Errors
    /// [`MetaError`].
    pub async fn prepare_recovery(
        &self,
        ledger: LedgerId,
        holders: &[Holder],
    ) -> Result<(), MetaError> {
        let sealed = holders.iter().map(|holder| holder.local.sealed_epoch).max();
        let sealed = sealed.unwrap_or(SealEpoch(0));
        let change = |meta: &LedgerMeta| {
            if meta.last_entry.is_some() {
                return None;
            }
            let seal_epoch = meta.seal_epoch.max(sealed);
            match audit::reach(meta, holders).fragments {
                // Whoever recovers it by the old ensemble is to notice (M4).
                Some(fragments) => Some(LedgerMeta {
                    fragments,
                    seal_epoch: SealEpoch(seal_epoch.0 + 1),
                    ..meta.clone()
                }),
                None if seal_epoch == meta.seal_epoch => None,
                None => Some(LedgerMeta { seal_epoch, ..meta.clone() }),
            }
        };
        self.change(ledger, change).await.map(|_| ())
    }

    /// Closes a ledger that was deleted in a life that the metadata has lost, and of which nobody holds an entry any more: as an empty one,
    /// stamped with who was missing. Its members have its tombstone, which no writer gets past (F4). `None`: it is gone. Cancel-safe.
    ///
    /// # Errors
    /// [`MetaError`].
    pub async fn close_deleted(&self, ledger: LedgerId) -> Result<Option<LedgerMeta>, MetaError> {
        let change = |meta: &LedgerMeta| {
            if meta.last_entry.is_some() || meta.state == LedgerState::Deleting {
                return None;
            }
            let missing = meta.last_fragment().ensemble.clone();
            let mut closed = meta.clone();
            closed.state = LedgerState::Closed;
            closed.seal_epoch = SealEpoch(meta.seal_epoch.0 + 1);
            closed.fragments.truncate(1);
            closed.last_entry = Some(EntryId::NONE);
            closed.length = 0;
            closed.close_kind = Some(CloseKind::ForcedWithRisk { missing });
            Some(closed)
        };
        self.change(ledger, change).await
    }

    /// Notes that neither the object of a closed ledger nor any copy is there, so that whoever reads it is told of the loss at once, and does
    /// not wait for bookies. Cancel-safe.
    ///
    /// # Errors
    /// [`MetaError`].
    pub async fn note_gone(&self, ledger: LedgerId) -> Result<(), MetaError> {
        let change = |meta: &LedgerMeta| match &meta.tier {
            Tier::Offloaded(object) => {
                Some(LedgerMeta { tier: Tier::Trimmed(object.clone()), ..meta.clone() })
            }
            Tier::Local | Tier::Uploading { .. } | Tier::Trimmed(_) => None,
        };
        self.change(ledger, change).await.map(|_| ())
    }

    /// Swaps until it took place, or `change` wants none any more. What stands then; `None` without a key (M7).
    async fn change(
        &self,
        ledger: LedgerId,
        change: impl Fn(&LedgerMeta) -> Option<LedgerMeta> + Send,
    ) -> Result<Option<LedgerMeta>, MetaError> {
        let key = keys::ledger(ledger);
        loop {
            let Some((meta, version)) = self.metadata(ledger).await? else { return Ok(None) };
            let Some(mut changed) = change(&meta) else { return Ok(Some(meta)) };
            changed.last_op = self.parts.random.next_u128();
            match self.parts.store.put_if(&key, Some(version), changed.encode()).await {
                Ok(Some(_)) => return Ok(Some(changed)),
                // What stands now tells (M9).
                Ok(None) | Err(MetaError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
